//! `MigrationService`: a folder of migrations as it stands on a target, planned, rehearsed, applied, taken back.
//!
//! Owns the typed methods over its RPCs and the builders of their requests. Following a run that was started is `watch.rs`.
//! Made by [`Client::migrations`].

use std::time::Duration;

use dbkeep_proto::v1::{
    self, ApplyMigrationsRequest, BaselineMigrationsRequest, DraftMigrationRequest, DraftMigrationResponse, GetMigrationRequest,
    GetMigrationResponse, GetMigrationStatusRequest, ListMigrationsRequest, ListMigrationsResponse, Migration,
    MigrationDirection, MigrationPlan, MigrationProblem, MigrationState, MigrationStatus, PlanMigrationsRequest,
    PlannedStatement, RehearsalSample, RepairAction, RepairLedgerRequest, RepairLedgerResponse, RollbackMigrationsRequest,
    TestMigrationRequest, migration_service_client::MigrationServiceClient, rehearsal_sample::Amount,
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

/// Most migrations that a selection can name.
const MOST_NAMED: usize = 1_000;

/// Shows, plans, rehearses, applies and takes back migrations.
///
/// ```no_run
/// use dbkeep_client::{ApplyRequest, Client, MigrationSelection, RehearseRequest, proto::MigrationDirection};
///
/// # async fn example(client: Client) -> Result<(), dbkeep_client::Error> {
/// let migrations = client.migrations();
/// let status = migrations.status("main").await?;
/// println!("{} of {} are in effect", status.applied_count, status.total_count);
///
/// // Up, down and up again, on a copy of the database that vanishes.
/// let rehearsal = migrations.test(RehearseRequest::new().target("main")).await?.finish().await?;
/// for migration in rehearsal.report.unwrap_or_default().migrations {
///     println!("{}: comes back: {}", migration.id, migration.rehearsal.unwrap_or_default().restored);
/// }
///
/// // What would happen? And then exactly that, or a refusal.
/// let plan = migrations.plan("main", MigrationDirection::Up, MigrationSelection::all(), false).await?;
/// println!("{} steps, {:?}", plan.steps.len(), plan.risk());
/// let run = migrations.apply(ApplyRequest::of_plan(&plan)).await?.finish().await?;
/// println!("{}", run.state_reason);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Migrations {
    client: Client,
}

/// A migration with its statements.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MigrationDetail {
    /// The migration.
    pub migration: Migration,
    /// Statements of its up script.
    pub up: Vec<PlannedStatement>,
    /// Statements of its down script.
    pub down: Vec<PlannedStatement>,
    /// What does not fit.
    pub problems: Vec<MigrationProblem>,
}

impl Migrations {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(crate) fn service(&self) -> MigrationServiceClient<Channel> {
        MigrationServiceClient::new(self.client.channel()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// How the folder stands on the target, and what does not fit. An empty `target` means the server's only one, here and below.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::NoMigrations`], [`Error::MigrationSource`], [`Error::TargetUnavailable`],
    /// [`Error::TargetPermission`].
    pub async fn status(&self, target: impl Into<String>) -> Result<MigrationStatus, Error> {
        let message = GetMigrationStatusRequest { target: target.into() };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.get_migration_status(request).await }
        });
        answer.await?.status.ok_or(Error::Incomplete {
            missing: "GetMigrationStatusResponse.status",
        })
    }

    /// Migrations in the order of the folder, then those that only a ledger knows; pages are fetched as the stream is read.
    ///
    /// # Errors
    /// Those of [`Migrations::status`], and [`Error::InvalidField`].
    pub fn list(&self, query: MigrationQuery) -> impl Stream<Item = Result<Migration, Error>> + Send + use<> {
        let migrations = self.clone();
        async_stream::try_stream! {
            let mut message = query.message;
            loop {
                let page = migrations.list_page(message.clone()).await?;
                for migration in page.migrations {
                    yield migration;
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                message.page_token = page.next_page_token;
            }
        }
    }

    /// All migrations of a query, in their order.
    ///
    /// # Errors
    /// Those of [`Migrations::list`].
    pub async fn list_all(&self, query: MigrationQuery) -> Result<Vec<Migration>, Error> {
        self.list(query).try_collect().await
    }

    /// One page, for callers that keep page tokens themselves.
    ///
    /// # Errors
    /// Those of [`Migrations::list`].
    pub async fn list_page(&self, message: ListMigrationsRequest) -> Result<ListMigrationsResponse, Error> {
        retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.list_migrations(request).await }
        })
        .await
    }

    /// One migration, by id, version or name, with its statements and what each will do.
    ///
    /// # Errors
    /// Those of [`Migrations::status`], and [`Error::UnknownMigration`].
    pub async fn get(&self, target: impl Into<String>, id: impl Into<String>) -> Result<MigrationDetail, Error> {
        let message = GetMigrationRequest {
            target: target.into(),
            id: id.into(),
        };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.get_migration(request).await }
        });
        let GetMigrationResponse {
            migration,
            up,
            down,
            problems,
        } = answer.await?;
        let migration = migration.ok_or(Error::Incomplete {
            missing: "GetMigrationResponse.migration",
        })?;
        Ok(MigrationDetail {
            migration,
            up,
            down,
            problems,
        })
    }

    /// What [`apply`](Self::apply) or [`rollback`](Self::rollback) would do. Changes nothing. With `backup`, the plan saves the whole
    /// database first, whatever the migrations say.
    ///
    /// # Errors
    /// Those of [`Migrations::get`], [`Error::MigrationGraph`], [`Error::InvalidField`].
    pub async fn plan(
        &self,
        target: impl Into<String>,
        direction: MigrationDirection,
        selection: MigrationSelection,
        backup: bool,
    ) -> Result<MigrationPlan, Error> {
        let message = PlanMigrationsRequest {
            target: target.into(),
            direction: direction.into(),
            selection: Some(selection.message),
            backup,
            ..PlanMigrationsRequest::default()
        };
        self.planned(message).await
    }

    /// What going back to a backup of the whole database would do. Without `backup` it is the one that was made before the oldest of the
    /// migrations was applied; with one, all may be selected. Changes nothing.
    ///
    /// # Errors
    /// Those of [`Migrations::plan`], [`Error::MigrationsBlocked`], [`Error::UnknownBackup`], [`Error::BackupPruned`],
    /// [`Error::BackupKind`], [`Error::RunState`], [`Error::ToolUnavailable`].
    pub async fn plan_from_backup(
        &self,
        target: impl Into<String>,
        selection: MigrationSelection,
        backup: Option<&str>,
    ) -> Result<MigrationPlan, Error> {
        let message = PlanMigrationsRequest {
            target: target.into(),
            direction: MigrationDirection::Down.into(),
            selection: Some(selection.message),
            from_backup: true,
            backup_id: backup.unwrap_or_default().to_owned(),
            ..PlanMigrationsRequest::default()
        };
        self.planned(message).await
    }

    async fn planned(&self, message: PlanMigrationsRequest) -> Result<MigrationPlan, Error> {
        let answer = retry::unary(&self.client, self.client.plan_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.plan_migrations(request).await }
        });
        answer.await?.plan.ok_or(Error::Incomplete {
            missing: "PlanMigrationsResponse.plan",
        })
    }

    /// Lets the server rehearse migrations on a copy of the database, as a run of its own, and follows that.
    ///
    /// # Errors
    /// Those of [`Migrations::plan`], [`Error::NothingToMigrate`], [`Error::ToolUnavailable`], [`Error::RequestIdReused`].
    pub async fn test(&self, request: RehearseRequest) -> Result<RunStream, Error> {
        RunStream::open(self.client.clone(), Opening::Rehearse(request.message)).await
    }

    /// Lets the server apply migrations, as a run of its own, and follows that. There is no dry run of it here: that is
    /// [`plan`](Self::plan).
    ///
    /// # Errors
    /// Those of [`Migrations::plan`], [`Error::NothingToMigrate`], [`Error::MigrationsBlocked`], [`Error::PlanRequired`],
    /// [`Error::PlanMismatch`], [`Error::RunAlreadyActive`], [`Error::ToolUnavailable`], [`Error::RequestIdReused`].
    pub async fn apply(&self, request: ApplyRequest) -> Result<RunStream, Error> {
        let mut message = request.message;
        message.dry_run = Some(false);
        RunStream::open(self.client.clone(), Opening::Apply(message)).await
    }

    /// Lets the server take migrations back, newest first, as a run of its own, and follows that. As with [`apply`](Self::apply), there
    /// is no dry run of it here.
    ///
    /// # Errors
    /// Those of [`Migrations::apply`].
    pub async fn rollback(&self, request: RollbackRequest) -> Result<RunStream, Error> {
        let mut message = request.message;
        message.dry_run = Some(false);
        RunStream::open(self.client.clone(), Opening::Rollback(message)).await
    }

    /// Explains what is wrong with a migration's row in the ledger and what may be done; with an action, does that. A repair is sent
    /// once, whatever the retry policy says: to skip the statement at which a script stopped, twice, would skip another one.
    ///
    /// # Errors
    /// Those of [`Migrations::get`], [`Error::RepairRefused`], [`Error::MigrationsHeld`], [`Error::MigrationLedgerMoved`].
    pub async fn repair(
        &self,
        target: impl Into<String>,
        id: impl Into<String>,
        action: Option<RepairAction>,
    ) -> Result<RepairLedgerResponse, Error> {
        let message = RepairLedgerRequest {
            target: target.into(),
            id: id.into(),
            action: action.unwrap_or(RepairAction::Unspecified).into(),
        };
        let timeout = self.client.call_timeout();
        let send = |request: tonic::Request<RepairLedgerRequest>| {
            let mut service = self.service();
            async move { service.repair_ledger(request).await }
        };
        match action {
            None => retry::unary(&self.client, timeout, message, send).await,
            Some(_) => retry::once(&self.client, timeout, message, send).await,
        }
    }

    /// Says that pending migrations are in effect already, and returns their ids; executes nothing. It is sent once, as a repair is.
    ///
    /// # Errors
    /// Those of [`Migrations::plan`], [`Error::NothingToMigrate`], [`Error::MigrationsHeld`], [`Error::MigrationLedgerMoved`].
    pub async fn baseline(&self, target: impl Into<String>, selection: MigrationSelection) -> Result<Vec<String>, Error> {
        let message = BaselineMigrationsRequest {
            target: target.into(),
            selection: Some(selection.message),
        };
        let answer = retry::once(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.baseline_migrations(request).await }
        });
        Ok(answer.await?.ids)
    }

    /// The files of a new migration, in the folder's own layout and numbering. The server writes nothing.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::NoMigrations`], [`Error::MigrationSource`], [`Error::InvalidField`].
    pub async fn draft(&self, target: impl Into<String>, name: impl Into<String>) -> Result<DraftMigrationResponse, Error> {
        let message = DraftMigrationRequest {
            target: target.into(),
            name: name.into(),
        };
        retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.draft_migration(request).await }
        })
        .await
    }
}

/// Which migrations to list; all of them by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct MigrationQuery {
    message: ListMigrationsRequest,
}

impl MigrationQuery {
    /// The target whose folder is read; the server's only one where not set.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.message.target = target.into();
        self
    }

    /// Only migrations in this state; call it again for further ones.
    pub fn state(mut self, state: MigrationState) -> Self {
        self.message.states.push(state.into());
        self
    }

    /// Migrations fetched at a time, 1 to 1,000; the server's default is 200.
    pub fn page_size(mut self, migrations: u32) -> Self {
        self.message.page_size = migrations;
        self
    }
}

/// Which migrations a call is about.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct MigrationSelection {
    message: v1::MigrationSelection,
}

impl MigrationSelection {
    /// All that are pending. A rollback of all is refused by the server.
    pub fn all() -> Self {
        Self::default()
    }

    /// Forwards: all up to and including this one. Backwards: all after this one, which stays.
    pub fn to(migration: impl Into<String>) -> Self {
        Self {
            message: v1::MigrationSelection {
                to: migration.into(),
                ..v1::MigrationSelection::default()
            },
        }
    }

    /// These, by id, version or name, at most 1,000; forwards with what they need, backwards with what needs them.
    pub fn named(migrations: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            message: v1::MigrationSelection {
                migrations: migrations.into_iter().map(Into::into).collect(),
                ..v1::MigrationSelection::default()
            },
        }
    }

    /// Only the next (backwards: the newest) so many.
    pub fn steps(count: u32) -> Self {
        Self {
            message: v1::MigrationSelection {
                steps: count,
                ..v1::MigrationSelection::default()
            },
        }
    }

    /// The migrations of a plan. More than can be named stand for the next, or the newest, so many: the plan's token refuses where that
    /// is something else.
    fn of_plan(plan: &MigrationPlan) -> Self {
        let ids = plan.steps.iter().filter_map(|step| step.migration.as_ref());
        if plan.steps.len() <= MOST_NAMED {
            return Self::named(ids.map(|migration| migration.id.as_str()));
        }
        Self::steps(u32::try_from(plan.steps.len()).unwrap_or(u32::MAX))
    }
}

/// How scripts are executed; the server's defaults where not set.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct MigrationManner {
    message: v1::MigrationOptions,
}

impl MigrationManner {
    /// Longest wait for a lock in one try, 1 ms to 10 min; 2 s by default. Whoever comes later waits behind that try for as long.
    pub fn lock_timeout(mut self, time: Duration) -> Self {
        self.message.lock_timeout = Some(wire_duration(time));
        self
    }

    /// Most tries for a lock, 1 to 1,000; 10 by default.
    pub fn lock_tries(mut self, tries: u32) -> Self {
        self.message.lock_tries = tries;
        self
    }

    /// Longest time of one statement, up to 24 h; no limit by default.
    pub fn statement_timeout(mut self, time: Duration) -> Self {
        self.message.statement_timeout = Some(wire_duration(time));
        self
    }
}

/// What every request that starts a run of migrations can say.
macro_rules! starts_a_run {
    ($request:ident) => {
        impl $request {
            /// The target; the server's only one where not set.
            pub fn target(mut self, target: impl Into<String>) -> Self {
                self.message.target = target.into();
                self
            }

            /// Which migrations.
            pub fn selection(mut self, selection: MigrationSelection) -> Self {
                self.message.selection = Some(selection.message);
                self
            }

            /// How scripts are executed.
            pub fn manner(mut self, manner: MigrationManner) -> Self {
                self.message.options = Some(manner.message);
                self
            }

            /// Replaces the request id that was made up; see [`RunRequest::request_id`](crate::RunRequest::request_id).
            pub fn request_id(mut self, id: impl Into<String>) -> Self {
                self.message.request_id = id.into();
                self
            }
        }
    };
}

/// What to rehearse. Made with a request id of its own; a clone repeats the same call and starts no second run.
#[derive(Debug, Clone)]
#[must_use]
pub struct RehearseRequest {
    message: TestMigrationRequest,
}

starts_a_run!(RehearseRequest);

impl RehearseRequest {
    /// All pending migrations of the server's only target.
    #[expect(
        clippy::new_without_default,
        reason = "a default would hide that each one has its own request id"
    )]
    pub fn new() -> Self {
        Self {
            message: TestMigrationRequest {
                request_id: retry::request_id(),
                ..TestMigrationRequest::default()
            },
        }
    }

    /// On a copy of the schema without rows, on PostgreSQL: quick, and no proof of a way back.
    pub fn schema_only(mut self) -> Self {
        self.message.copy = dbkeep_proto::v1::RehearsalCopy::SchemaOnly.into();
        self
    }

    /// On a copy with at most so many rows of each table, and the rows that their keys name: no proof of a way back for the others.
    pub fn sample_rows(mut self, rows: u64) -> Self {
        self.message.sample = Some(sample(Amount::RowCount(rows)));
        self
    }

    /// The same with a part of the rows of each table, in percent.
    pub fn sample_percent(mut self, percent: f64) -> Self {
        self.message.sample = Some(sample(Amount::Percent(percent)));
        self
    }

    /// Migrations that are in effect, selected as for a rollback: down, up, and compare with the present.
    pub fn applied(mut self) -> Self {
        self.message.applied = true;
        self
    }
}

fn sample(amount: Amount) -> RehearsalSample {
    RehearsalSample { amount: Some(amount) }
}

/// What to apply. Made with a request id of its own; a clone repeats the same call and starts no second run.
#[derive(Debug, Clone)]
#[must_use]
pub struct ApplyRequest {
    message: ApplyMigrationsRequest,
}

starts_a_run!(ApplyRequest);

impl ApplyRequest {
    /// All pending migrations of the server's only target, without a plan that was reviewed; refused where the risk is high.
    #[expect(
        clippy::new_without_default,
        reason = "a default would hide that each one has its own request id"
    )]
    pub fn new() -> Self {
        Self {
            message: ApplyMigrationsRequest {
                request_id: retry::request_id(),
                ..ApplyMigrationsRequest::default()
            },
        }
    }

    /// Exactly what a plan says, or a refusal.
    pub fn of_plan(plan: &MigrationPlan) -> Self {
        let request = Self::new()
            .target(&plan.target)
            .selection(MigrationSelection::of_plan(plan))
            .plan_token(&plan.token);
        if plan.backup_first { request.backup() } else { request }
    }

    /// Token of the plan that was reviewed. The selection has to be the plan's too.
    pub fn plan_token(mut self, token: impl Into<String>) -> Self {
        self.message.plan_token = token.into();
        self
    }

    /// Saves the whole database first, whatever the migrations say.
    pub fn backup(mut self) -> Self {
        self.message.backup = true;
        self
    }
}

/// What to take back. Made with a request id of its own; a clone repeats the same call and starts no second run.
#[derive(Debug, Clone)]
#[must_use]
pub struct RollbackRequest {
    message: RollbackMigrationsRequest,
}

starts_a_run!(RollbackRequest);

impl RollbackRequest {
    /// These migrations of the server's only target, without a plan that was reviewed; refused where the risk is high.
    pub fn new(selection: MigrationSelection) -> Self {
        Self {
            message: RollbackMigrationsRequest {
                request_id: retry::request_id(),
                selection: Some(selection.message),
                ..RollbackMigrationsRequest::default()
            },
        }
    }

    /// Exactly what a plan says, or a refusal. One that goes back to a backup needs its phrase too.
    pub fn of_plan(plan: &MigrationPlan) -> Self {
        let request = match &plan.restore {
            Some(restore) => Self::new(MigrationSelection::all()).from_backup(Some(&restore.backup_id)),
            None => Self::new(MigrationSelection::of_plan(plan)),
        };
        request.target(&plan.target).plan_token(&plan.token)
    }

    /// Goes back to a backup of the whole database instead of executing scripts: to this one, or to the one that was made before the
    /// oldest of the migrations was applied. Everything written since is lost.
    pub fn from_backup(mut self, backup: Option<&str>) -> Self {
        self.message.from_backup = true;
        self.message.backup_id = backup.unwrap_or_default().to_owned();
        self
    }

    /// The plan's confirmation phrase, letter by letter; needed to go back to a backup.
    pub fn confirmation_phrase(mut self, phrase: impl Into<String>) -> Self {
        self.message.confirmation_phrase = phrase.into();
        self
    }

    /// Token of the plan that was reviewed. The selection has to be the plan's too.
    pub fn plan_token(mut self, token: impl Into<String>) -> Self {
        self.message.plan_token = token.into();
        self
    }

    /// Takes a backup of another database than the target is now.
    pub fn other_database(mut self) -> Self {
        self.message.other_database = true;
        self
    }

    /// Takes down scripts that are empty, that nobody rehearsed, or that were shown not to bring back what was before.
    pub fn unproven(mut self) -> Self {
        self.message.unproven = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_proto::v1::MigrationPlanStep;

    use super::*;

    fn plan(ids: impl IntoIterator<Item = String>) -> MigrationPlan {
        MigrationPlan {
            target: "main".into(),
            token: "tok".into(),
            backup_first: true,
            steps: ids
                .into_iter()
                .map(|id| MigrationPlanStep {
                    migration: Some(Migration {
                        id,
                        ..Migration::default()
                    }),
                    ..MigrationPlanStep::default()
                })
                .collect(),
            ..MigrationPlan::default()
        }
    }

    #[test]
    fn a_request_of_a_plan_asks_for_what_the_plan_says() {
        let plan_of_two = plan(["1".to_owned(), "2".to_owned()]);
        let apply = ApplyRequest::of_plan(&plan_of_two).message;
        assert_eq!((apply.target.as_str(), apply.plan_token.as_str()), ("main", "tok"));
        assert!(apply.backup && !apply.request_id.is_empty());
        assert_eq!(apply.selection.unwrap().migrations, ["1", "2"]);
        let rollback = RollbackRequest::of_plan(&plan_of_two).unproven().message;
        assert_eq!(rollback.selection.unwrap().migrations, ["1", "2"]);
        assert!(rollback.unproven && !rollback.from_backup);
        let mut plan = plan_of_two;
        plan.restore = Some(dbkeep_proto::v1::MigrationRestore {
            backup_id: "b".into(),
            ..Default::default()
        });
        let back = RollbackRequest::of_plan(&plan).confirmation_phrase("restore it").message;
        assert!(back.from_backup && back.selection.unwrap().migrations.is_empty());
        assert_eq!(
            (back.backup_id.as_str(), back.confirmation_phrase.as_str()),
            ("b", "restore it")
        );
    }

    #[test]
    fn more_than_can_be_named_are_counted() {
        let many = plan((0..=MOST_NAMED).map(|id| id.to_string()));
        let selection = ApplyRequest::of_plan(&many).message.selection.unwrap();
        assert_eq!((selection.steps, selection.migrations.len()), (1_001, 0));
    }

    #[test]
    fn every_request_has_an_id_of_its_own() {
        let ids = [RehearseRequest::new(), RehearseRequest::new()].map(|request| request.message.request_id);
        assert_ne!(ids[0], ids[1]);
    }
}
