//! `RunService`: looking at runs, following them, steering them, stopping them, taking them back.
//!
//! Owns the typed methods over its RPCs and the builders of their requests. What happens inside a stream is `watch.rs`.
//! Made by [`Client::runs`].

mod steering;

use std::time::Duration;

use dbkeep_proto::v1::{
    CancelRunRequest, GetRunRequest, ListRunsRequest, ListRunsResponse, Run, RunFilter, RunKind, RunOptions, RunState,
    UndoRunRequest, WatchRunRequest, run_service_client::RunServiceClient,
};
use futures::{Stream, TryStreamExt as _};
use tonic::transport::Channel;

use crate::{
    cleanup::wire_duration,
    connect::{Client, MAX_RESPONSE_BYTES},
    error::Error,
    retry,
    watch::{Opening, RunStream},
};

pub use steering::LimitsUpdate;

/// Looks at runs, follows them, steers them, stops them, and takes them back.
///
/// ```
/// use dbkeep_client::{RunQuery, proto::RunState};
/// use futures::TryStreamExt as _;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let playground = dbkeep_demo::playground().await?;
/// # let client = playground.client.clone();
/// # let plan = client.cleanup().plan(dbkeep_client::PlanRequest::new(["old_logs"])).await?;
/// # let started = client.cleanup().run(dbkeep_client::RunRequest::of_plan(&plan).execute()).await?.finish().await?;
/// # let id = started.id;
/// let runs = client.runs();
/// let mut failed = std::pin::pin!(runs.list(RunQuery::default().state(RunState::Failed)));
/// while let Some(run) = failed.try_next().await? {
///     println!("{}: {}", run.id, run.state_reason);
/// }
/// let run = runs.watch(&id).await?.finish().await?;
/// println!("ended {:?}", run.state());
/// let undo = runs.undo(id.as_str()).await?.finish().await?;
/// assert_eq!(undo.report.unwrap_or_default().rows_affected, run.report.unwrap_or_default().rows_affected);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Runs {
    client: Client,
}

impl Runs {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn service(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.client.channel()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// One run with its report so far.
    ///
    /// # Errors
    /// [`Error::UnknownRun`].
    pub async fn get(&self, id: impl Into<String>) -> Result<Run, Error> {
        let message = GetRunRequest { id: id.into() };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.get_run(request).await }
        });
        answer.await?.run.ok_or(Error::Incomplete {
            missing: "GetRunResponse.run",
        })
    }

    /// Runs, newest first; pages are fetched as the stream is read.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub fn list(&self, query: RunQuery) -> impl Stream<Item = Result<Run, Error>> + Send + use<> {
        let runs = self.clone();
        async_stream::try_stream! {
            let mut message = query.message;
            loop {
                let page = runs.list_page(message.clone()).await?;
                for run in page.runs {
                    yield run;
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                message.page_token = page.next_page_token;
            }
        }
    }

    /// All runs of a query, newest first. Mind the number of runs; [`list`](Self::list) holds one page at a time.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_all(&self, query: RunQuery) -> Result<Vec<Run>, Error> {
        self.list(query).try_collect().await
    }

    /// One page, for callers that keep page tokens themselves.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_page(&self, message: ListRunsRequest) -> Result<ListRunsResponse, Error> {
        retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.list_runs(request).await }
        })
        .await
    }

    /// Follows a run from its first event.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::TooManyStreams`], [`Error::ShuttingDown`].
    pub async fn watch(&self, id: impl Into<String>) -> Result<RunStream, Error> {
        self.watch_after(id, 0).await
    }

    /// Follows a run from the event after `sequence`.
    ///
    /// # Errors
    /// Those of [`watch`](Self::watch), and [`Error::SequenceAhead`].
    pub async fn watch_after(&self, id: impl Into<String>, sequence: u64) -> Result<RunStream, Error> {
        let message = WatchRunRequest {
            id: id.into(),
            after_sequence: sequence,
        };
        RunStream::open(self.client.clone(), Opening::Watch(message)).await
    }

    /// Asks a run to stop at its next batch boundary; what was committed stays and can be undone. The run that is returned
    /// may still be stopping: [`watch`](Self::watch) it to see its end.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], and [`Error::RunState`] where it has ended otherwise.
    pub async fn cancel(&self, id: impl Into<String>, reason: impl Into<String>) -> Result<Run, Error> {
        let message = CancelRunRequest {
            id: id.into(),
            reason: reason.into(),
            request_id: retry::request_id(),
        };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.cancel_run(request).await }
        });
        answer.await?.run.ok_or(Error::Incomplete {
            missing: "CancelRunResponse.run",
        })
    }

    /// Puts the captured rows of a run back, as a run of its own, and follows that. Takes a run's id, or an [`UndoRequest`]
    /// with options.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::RunState`], [`Error::NothingCaptured`], [`Error::BackupDamaged`],
    /// [`Error::RunAlreadyActive`], [`Error::RequestIdReused`], [`Error::TargetUnavailable`].
    pub async fn undo(&self, request: impl Into<UndoRequest>) -> Result<RunStream, Error> {
        RunStream::open(self.client.clone(), Opening::Undo(request.into().message)).await
    }
}

/// Which runs to list; all of them by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct RunQuery {
    message: ListRunsRequest,
}

impl RunQuery {
    /// Only runs of this target.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.filter().target = target.into();
        self
    }

    /// Only runs in this state; call it again for further states.
    pub fn state(mut self, state: RunState) -> Self {
        self.filter().states.push(state.into());
        self
    }

    /// Only runs of this kind; call it again for further kinds.
    pub fn kind(mut self, kind: RunKind) -> Self {
        self.filter().kinds.push(kind.into());
        self
    }

    /// Only runs of this operation.
    pub fn operation(mut self, operation: impl Into<String>) -> Self {
        self.filter().operation = operation.into();
        self
    }

    /// Only runs accepted at or after this instant.
    pub fn created_after(mut self, instant: jiff::Timestamp) -> Self {
        self.filter().created_after = Some(wire_instant(instant));
        self
    }

    /// Runs fetched at a time, 1 to 500; the server's default is 50.
    pub fn page_size(mut self, runs: u32) -> Self {
        self.message.page_size = runs;
        self
    }

    fn filter(&mut self) -> &mut RunFilter {
        self.message.filter.get_or_insert_default()
    }
}

/// What to take back. Made with a request id of its own; a clone repeats the same call and starts no second run.
#[derive(Debug, Clone)]
#[must_use]
pub struct UndoRequest {
    message: UndoRunRequest,
}

impl UndoRequest {
    /// Takes back the cleanup with this id.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            message: UndoRunRequest {
                request_id: retry::request_id(),
                id: id.into(),
                options: None,
            },
        }
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

    /// Works without the rests that keep the foreground fast.
    pub fn full_speed(mut self) -> Self {
        self.options().full_speed = true;
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

    /// Replaces the request id that was made up; see [`RunRequest::request_id`](crate::RunRequest::request_id).
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.message.request_id = id.into();
        self
    }

    fn options(&mut self) -> &mut RunOptions {
        self.message.options.get_or_insert_default()
    }
}

impl<S: Into<String>> From<S> for UndoRequest {
    fn from(id: S) -> Self {
        Self::new(id)
    }
}

/// An instant as the wire has it.
pub(crate) fn wire_instant(instant: jiff::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: instant.as_second(),
        nanos: instant.subsec_nanosecond(),
    }
}
