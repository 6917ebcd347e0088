//! What can go wrong in the engine, one variant per failure that a caller can act on, with the names it needs.

use jiff::Timestamp;

use crate::{
    model::{Finding, PlanId, RunId, RunState, TableName},
    port::{StoreError, TargetError},
    rule::{Origin, Severity},
};

/// A failure of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A field of a request is malformed or out of bounds.
    #[error("{field}: {problem}")]
    InvalidField {
        /// Path of the field, as the API names it.
        field: &'static str,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// No such target.
    #[error("there is no target {name:?}; known are: {}", known.join(", "))]
    UnknownTarget {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// The target's catalog has no such operation.
    #[error("target {target} has no operation {name:?}; known are: {}", known.join(", "))]
    UnknownOperation {
        /// The target.
        target: String,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// No such run.
    #[error("there is no run {id}")]
    UnknownRun {
        /// The id asked for.
        id: String,
    },
    /// No such backup.
    #[error("there is no backup {id}")]
    UnknownBackup {
        /// The id asked for.
        id: String,
    },
    /// The catalog does not fit the target's schema.
    #[error("{origin}: rule {rule} of operation {operation}: {expected}")]
    CatalogMismatch {
        /// Where the rule is declared.
        origin: Origin,
        /// Its operation.
        operation: String,
        /// Its name.
        rule: String,
        /// What was found and what was expected.
        expected: String,
    },
    /// The plan token was not issued here.
    #[error("the plan token was not issued by this service; make a new plan")]
    UnknownPlan,
    /// The plan is older than its lifetime.
    #[error("plan {plan} expired at {expired_at}; make a new plan")]
    PlanExpired {
        /// The plan.
        plan: PlanId,
        /// When it expired.
        expired_at: Timestamp,
    },
    /// The plan was made for something else.
    #[error("plan {plan} was made for {field} {planned}, the request names {requested}")]
    PlanMismatch {
        /// The plan.
        plan: PlanId,
        /// What differs.
        field: &'static str,
        /// What the plan has.
        planned: String,
        /// What the request has.
        requested: String,
    },
    /// Tables changed their shape since the plan was made.
    #[error("the schema changed since plan {plan} was made ({tables}); make a new plan")]
    SchemaChanged {
        /// The plan.
        plan: PlanId,
        /// The tables of the plan.
        tables: String,
    },
    /// Many more or fewer rows match than the plan counted.
    #[error("step {step} ({rule}) counts {found} rows now, the plan counted {planned}; make a new plan")]
    CountDrifted {
        /// Position in the plan.
        step: usize,
        /// The rule.
        rule: String,
        /// Rows in the plan.
        planned: u64,
        /// Rows now.
        found: u64,
        /// Largest difference that is taken.
        tolerance: u64,
    },
    /// The severity asks for a plan token.
    #[error("operation {operation} has severity {}: plan it first and run with the plan's token", severity.name())]
    PlanRequired {
        /// The operation.
        operation: String,
        /// Its severity.
        severity: Severity,
    },
    /// The plan carries a finding that forbids a run.
    #[error("{}: {}", finding.code, finding.detail)]
    PlanBlocked {
        /// That finding.
        finding: Box<Finding>,
    },
    /// The severity asks for an approval, which this version cannot take.
    #[error(
        "operation {operation} has severity CRITICAL, which needs the approval of a second person; this version cannot take one"
    )]
    ApprovalUnavailable {
        /// The operation.
        operation: String,
    },
    /// Another run needs the same table.
    #[error("run {run} holds table {table} of target {target}")]
    RunAlreadyActive {
        /// That run.
        run: RunId,
        /// The target.
        target: String,
        /// The table.
        table: String,
    },
    /// The request id was used for something else.
    #[error("request id {request_id:?} was used before for another request, which started run {run}")]
    RequestIdReused {
        /// The request id.
        request_id: String,
        /// The run that it started.
        run: RunId,
    },
    /// The run's state does not allow this.
    #[error("run {run} is {}; expected {expected}", state.name())]
    WrongState {
        /// The run.
        run: RunId,
        /// Its state.
        state: RunState,
        /// What was expected.
        expected: &'static str,
    },
    /// The run captured nothing.
    #[error("run {run} captured no rows")]
    NothingCaptured {
        /// The run.
        run: RunId,
    },
    /// The sequence lies beyond the log.
    #[error("run {run} has {last} events; expected a sequence up to that")]
    SequenceAhead {
        /// The run.
        run: RunId,
        /// Its newest sequence.
        last: u64,
    },
    /// The target failed.
    #[error("target {target}: {source}")]
    Target {
        /// The target.
        target: String,
        /// What it said.
        source: TargetError,
    },
    /// The control store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backup's files were removed.
    #[error("backup {backup} was pruned at {at}")]
    BackupPruned {
        /// The backup.
        backup: RunId,
        /// When.
        at: Timestamp,
    },
    /// The call overwrites data and was not confirmed.
    #[error("this overwrites tables of the target; expected the confirmation {expected:?}")]
    ConfirmationRequired {
        /// What has to be typed.
        expected: String,
    },
    /// A program that is needed is missing or too old.
    #[error("target {target}: {tool}: {problem}")]
    ToolUnavailable {
        /// The target that it is needed for.
        target: String,
        /// The program.
        tool: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A table cannot be saved or restored.
    #[error("target {target}: table {table}: {problem}")]
    TableUnsuitable {
        /// The target.
        target: String,
        /// The table.
        table: TableName,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// Tables that would be restored hold rows.
    #[error("target {target}: these tables hold rows: {}; expected replace, or a scratch place", tables.join(", "))]
    TablesNotEmpty {
        /// The target.
        target: String,
        /// The tables.
        tables: Vec<String>,
    },
    /// The call does not fit what the backup holds.
    #[error("backup {backup}: expected {expected}")]
    BackupKind {
        /// The backup.
        backup: RunId,
        /// What would fit.
        expected: String,
    },
    /// The backup folder failed.
    #[error("backup folder: {0}")]
    Archive(#[from] crate::port::ArchiveError),
    /// Whoever asked went away before the run was accepted.
    #[error("the caller went away before the run was accepted; nothing was started")]
    GivenUp,
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl EngineError {
    /// Wraps what a target said.
    pub fn target(target: &str) -> impl Fn(TargetError) -> Self + '_ {
        move |source| Self::Target {
            target: target.to_owned(),
            source,
        }
    }
}
