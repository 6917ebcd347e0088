//! `CleanupService`: what can be cleaned, what a cleanup would do, and doing it.
//!
//! Owns the typed methods over its RPCs and the builders of their requests. Following a run that was started is `watch.rs`.
//! Made by [`Client::cleanup`].

use std::time::Duration;

use dbkeep_proto::v1::{
    GetOperationRequest, ListOperationsRequest, Operation, Plan, PlanCleanupRequest, RunCleanupRequest, RunOptions, Severity,
    cleanup_service_client::CleanupServiceClient,
};
use tonic::transport::Channel;

use crate::{
    connect::{Client, MAX_RESPONSE_BYTES},
    error::Error,
    retry,
    watch::{Opening, RunStream},
};

/// Plans and starts cleanups.
///
/// ```
/// use dbkeep_client::{OperationQuery, PlanRequest, RunRequest};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let playground = dbkeep_demo::playground().await?;
/// # let client = playground.client.clone();
/// let cleanup = client.cleanup();
/// for operation in cleanup.operations(OperationQuery::default()).await? {
///     println!("{}: {}", operation.name, operation.description);
/// }
/// let plan = cleanup.plan(PlanRequest::new(["orphaned_progress"]).target("platform")).await?;
/// let run = cleanup.run(RunRequest::of_plan(&plan).execute()).await?.finish().await?;
/// println!("{:?}", run.report);
/// # assert_eq!(run.report.unwrap_or_default().rows_affected, plan.row_count);
/// # assert!(plan.row_count > 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Cleanup {
    client: Client,
}

impl Cleanup {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn service(&self) -> CleanupServiceClient<Channel> {
        CleanupServiceClient::new(self.client.channel()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// The operations of a target's catalog, in catalog order.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::InvalidField`].
    pub async fn operations(&self, query: OperationQuery) -> Result<Vec<Operation>, Error> {
        let answer = retry::unary(&self.client, self.client.call_timeout(), query.message, |request| {
            let mut service = self.service();
            async move { service.list_operations(request).await }
        });
        Ok(answer.await?.operations)
    }

    /// One operation with its rules. An empty `target` means the server's only one.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::UnknownOperation`].
    pub async fn operation(&self, target: impl Into<String>, name: impl Into<String>) -> Result<Operation, Error> {
        let message = GetOperationRequest {
            target: target.into(),
            name: name.into(),
        };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.get_operation(request).await }
        });
        answer.await?.operation.ok_or(Error::Incomplete {
            missing: "GetOperationResponse.operation",
        })
    }

    /// Counts exactly what a run would delete; changes no row. Takes as long as the counting takes, up to the plan timeout
    /// of the client.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::UnknownOperation`], [`Error::InvalidField`], [`Error::CatalogMismatch`],
    /// [`Error::TargetUnavailable`], [`Error::TargetPermission`], [`Error::TargetRefused`].
    pub async fn plan(&self, request: PlanRequest) -> Result<Plan, Error> {
        let answer = retry::unary(&self.client, self.client.plan_timeout(), request.message, |request| {
            let mut service = self.service();
            async move { service.plan_cleanup(request).await }
        });
        answer.await?.plan.ok_or(Error::Incomplete {
            missing: "PlanCleanupResponse.plan",
        })
    }

    /// Starts a run and follows it. A dry run unless [`RunRequest::execute`] was called.
    ///
    /// The request id of `request` is sent with every repetition, so that a broken connection never starts a second run.
    ///
    /// # Errors
    /// Those of [`plan`](Self::plan), and [`Error::UnknownPlan`], [`Error::PlanExpired`], [`Error::PlanMismatch`],
    /// [`Error::PlanRequired`], [`Error::PlanBlocked`], [`Error::SchemaChanged`], [`Error::CountDrifted`],
    /// [`Error::PlanUsed`], [`Error::ConfirmationPhrase`], [`Error::FindingsUnconfirmed`], [`Error::RunAlreadyActive`],
    /// [`Error::RequestIdReused`], [`Error::TooManyStreams`].
    pub async fn run(&self, request: RunRequest) -> Result<RunStream, Error> {
        RunStream::open(self.client.clone(), Opening::Cleanup(request.message)).await
    }
}

/// Which operations to list; all of them by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct OperationQuery {
    message: ListOperationsRequest,
}

impl OperationQuery {
    /// The target whose catalog is read; the server's only one where not set.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.message.target = target.into();
        self
    }

    /// Only operations of this category.
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.message.category = category.into();
        self
    }

    /// Only operations of this severity.
    pub fn severity(mut self, severity: Severity) -> Self {
        self.message.set_severity(severity);
        self
    }
}

/// What to plan.
#[derive(Debug, Clone)]
#[must_use]
pub struct PlanRequest {
    message: PlanCleanupRequest,
}

impl PlanRequest {
    /// Plans these operations, one to 32, in this order.
    pub fn new<I, S>(operations: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let operations = operations.into_iter().map(Into::into).collect();
        Self {
            message: PlanCleanupRequest {
                target: String::new(),
                operations,
            },
        }
    }

    /// The target to plan for; the server's only one where not set.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.message.target = target.into();
        self
    }
}

/// What to run. Made with a request id of its own; a clone repeats the same call and starts no second run.
#[derive(Debug, Clone)]
#[must_use]
pub struct RunRequest {
    message: RunCleanupRequest,
}

impl RunRequest {
    /// A dry run of these operations, one to 32, in this order; none where a plan's token names them.
    pub fn new<I, S>(operations: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let message = RunCleanupRequest {
            request_id: retry::request_id(),
            operations: operations.into_iter().map(Into::into).collect(),
            ..Default::default()
        };
        Self { message }
    }

    /// A dry run of a reviewed plan; with [`execute`](Self::execute), exactly what was reviewed runs.
    pub fn of_plan(plan: &Plan) -> Self {
        Self::new(plan.operations.iter().cloned())
            .target(plan.target.as_str())
            .plan_token(plan.token.as_str())
    }

    /// The target to clean; the server's only one where not set.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.message.target = target.into();
        self
    }

    /// The token of a reviewed plan; needed from severity MEDIUM upwards.
    pub fn plan_token(mut self, token: impl Into<String>) -> Self {
        self.message.plan_token = token.into();
        self
    }

    /// The plan's confirmation phrase, letter by letter; needed where the plan has one.
    pub fn confirmation_phrase(mut self, phrase: impl Into<String>) -> Self {
        self.message.confirmation_phrase = phrase.into();
        self
    }

    /// Most rows that the whole run may delete. Stated at or above the plan's count, it also accepts a count that is far above
    /// those of earlier runs.
    pub fn max_rows(mut self, rows: u64) -> Self {
        self.options().max_rows = Some(rows);
        self
    }

    /// Takes findings of level WARN that no reviewed plan has shown. It stands in for no token, phrase, approval, backup or limit.
    pub fn force(mut self) -> Self {
        self.options().force = true;
        self
    }

    /// Deletes, instead of only saying what would be deleted.
    pub fn execute(mut self) -> Self {
        self.options().dry_run = Some(false);
        self
    }

    /// Rows per transaction, 1 to 10,000; the server's default is 1,000.
    pub fn batch_size(mut self, rows: u32) -> Self {
        self.options().batch_size = Some(rows);
        self
    }

    /// Longest time at work, 60 s to 7200 s; the run then ends partially succeeded. The server's default is 1800 s.
    pub fn max_execution_time(mut self, time: Duration) -> Self {
        self.options().max_execution_time = Some(wire_duration(time));
        self
    }

    /// Captures the rows of every operation, also of those that ask for no backup, so that the run can be undone.
    pub fn capture(mut self) -> Self {
        self.options().capture = true;
        self
    }

    /// Works without the rests that keep the foreground fast.
    pub fn full_speed(mut self) -> Self {
        self.options().full_speed = true;
        self
    }

    /// Begins no operation after one in which a step failed; its steps end SKIPPED. Without it the others go on.
    pub fn stop_on_failure(mut self) -> Self {
        self.options().stop_on_failure = true;
        self
    }

    /// Most rows a second, on average; 0, the server's default, is no such limit.
    pub fn max_rows_per_second(mut self, rows: u32) -> Self {
        self.options().max_rows_per_second = rows;
        self
    }

    /// Share of its time that the run is at work, 1 to 100 percent; the server's default is 50.
    pub fn duty_cycle_percent(mut self, percent: u32) -> Self {
        self.options().duty_cycle_percent = Some(percent);
        self
    }

    /// Holds the run while a replica is further behind, 1 s to 3600 s; the server's default is 10 s, and at full speed none.
    pub fn max_replica_lag(mut self, lag: Duration) -> Self {
        self.options().max_replica_lag = Some(wire_duration(lag));
        self
    }

    /// Waits in line where another run holds a table, instead of failing with [`Error::RunAlreadyActive`].
    pub fn queue(mut self) -> Self {
        self.options().queue = true;
        self
    }

    /// Makes the space of the deleted rows reusable after the last step, and tells in the report what became of it.
    pub fn vacuum(mut self) -> Self {
        self.options().vacuum = true;
        self
    }

    /// Replaces the request id that was made up, to attach to a run that an earlier process may have started. The same id
    /// with the same content starts no second run. 1 to 64 characters.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.message.request_id = id.into();
        self
    }

    fn options(&mut self) -> &mut RunOptions {
        self.message.options.get_or_insert_default()
    }
}

/// A duration as the wire has it. What exceeds the format saturates, and the server refuses it by name.
pub(crate) fn wire_duration(time: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(time).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_request_is_a_dry_run_until_it_is_told_to_execute() {
        let request = RunRequest::new(["a", "b"]).target("platform");
        assert_eq!(request.message.options, None);
        assert_eq!(request.message.operations, ["a", "b"]);
        let request = request
            .execute()
            .batch_size(500)
            .max_execution_time(Duration::from_secs(90))
            .full_speed();
        let options = request.message.options.unwrap();
        assert_eq!(
            (options.dry_run, options.batch_size, options.full_speed),
            (Some(false), Some(500), true)
        );
        assert_eq!(options.max_execution_time.unwrap().seconds, 90);
    }

    #[test]
    fn request_ids_differ_by_request_and_stay_with_a_clone() {
        let first = RunRequest::new(["a"]);
        assert_ne!(first.message.request_id, RunRequest::new(["a"]).message.request_id);
        assert_eq!(first.message.request_id, first.clone().message.request_id);
        assert!((1..=64).contains(&first.message.request_id.len()));
    }

    #[test]
    fn a_plan_fills_target_operations_and_token() {
        let plan = Plan {
            token: "t".into(),
            target: "main".into(),
            operations: vec!["a".into()],
            ..Default::default()
        };
        let message = RunRequest::of_plan(&plan).message;
        assert_eq!((message.plan_token.as_str(), message.target.as_str()), ("t", "main"));
        assert_eq!(message.operations, ["a"]);
    }
}
