//! What can go wrong in the engine, one variant per failure that a caller can act on, with the names it needs.

use jiff::Timestamp;

use crate::{
    model::{
        ApprovalProblem, Finding, PlanId, RunId, RunState, TableName,
        notice::{DeliveryId, DeliveryState},
    },
    port::{AnchorError, FilesError, StoreError, TargetError, TargetErrorClass},
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
    /// Fields of a request are malformed or out of bounds.
    #[error("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    InvalidFields {
        /// All of them.
        problems: Vec<crate::schedule::FieldProblem>,
    },
    /// No such schedule.
    #[error("there is no schedule {key:?}")]
    UnknownSchedule {
        /// The id or name asked for.
        key: String,
    },
    /// Another schedule has the name.
    #[error("{} has the name {name:?}", id.map_or_else(|| "another schedule".to_owned(), |id| format!("schedule {id}")))]
    ScheduleExists {
        /// The name.
        name: String,
        /// That schedule; `None` where whoever asks does not see it.
        id: Option<crate::model::ScheduleId>,
    },
    /// The schedule is not as the caller has read it.
    #[error("schedule {name} was changed; its etag is {etag} now")]
    ScheduleChanged {
        /// The schedule.
        name: String,
        /// The newest etag.
        etag: u64,
    },
    /// A slot of the schedule has not ended.
    #[error("a run of schedule {name} has not ended, or another slot is about to fire")]
    ScheduleBusy {
        /// The schedule.
        name: String,
    },
    /// The request id was used for another schedule.
    #[error("request id {request_id:?} was used before for another schedule")]
    ScheduleRequestReused {
        /// The request id.
        request_id: String,
    },
    /// Whoever wants to approve the schedule may not.
    #[error("{principal} may not approve schedule {schedule}: {}", problem.describe("gave it its work"))]
    ScheduleApprovalRefused {
        /// The schedule.
        schedule: String,
        /// Who wanted to approve.
        principal: String,
        /// Why.
        problem: ApprovalProblem,
    },
    /// The schedule has no consent that covers the run.
    #[error("{} of schedule {schedule} need a standing approval, and {problem}", operations.join(", "))]
    StandingApproval {
        /// The schedule.
        schedule: String,
        /// The operations of the run.
        operations: Vec<String>,
        /// Why what it has does not do.
        problem: String,
    },
    /// The slot has no run.
    #[error("a slot of schedule {name} did not fire: {reason}")]
    SlotRefused {
        /// The schedule.
        name: String,
        /// Why.
        reason: String,
    },
    /// Another server goes on with the slot.
    #[error("another server has taken the slot")]
    SlotLost,
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
    /// No such token.
    #[error("there is no token {key:?}")]
    UnknownToken {
        /// The id or name asked for.
        key: String,
    },
    /// Another token that is not revoked has the name.
    #[error("a token that is not revoked has the name {name:?}; expected another name, or that one to be revoked")]
    TokenExists {
        /// The name.
        name: String,
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
    /// No such channel.
    #[error("there is no channel {name:?}; known are: {}", known.join(", "))]
    UnknownChannel {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// No such delivery.
    #[error("there is no delivery {id}")]
    UnknownDelivery {
        /// The id asked for.
        id: String,
    },
    /// No such alert.
    #[error("there is no alert {id}")]
    UnknownAlert {
        /// The id asked for.
        id: String,
    },
    /// No such record of the audit log, or none that the caller sees.
    #[error("there is no record {number} in the audit log")]
    UnknownAuditRecord {
        /// The number asked for.
        number: u64,
    },
    /// The audit log holds what cannot be read.
    #[error("record {number} of the audit log cannot be read: {problem}")]
    AuditLogBroken {
        /// What stands where the record's number belongs; 0 for what is no record.
        number: i64,
        /// What is wrong with it.
        problem: String,
    },
    /// The head of the audit log cannot be anchored.
    #[error("the anchor file {0}")]
    AnchorFile(AnchorError),
    /// The delivery was not given up.
    #[error("delivery {id} is {}; only one that is dead can be tried again", state.name())]
    DeliveryState {
        /// The delivery.
        id: DeliveryId,
        /// Where it stands.
        state: DeliveryState,
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
    /// The plan's token has started a run.
    #[error("the token of plan {plan} has started run {run}; a token starts one run, make a new plan")]
    PlanUsed {
        /// The plan.
        plan: PlanId,
        /// That run.
        run: RunId,
    },
    /// The plan's confirmation phrase did not come, or another one.
    #[error("plan {plan} needs its confirmation phrase, and {}", if *given { "another one came" } else { "none came" })]
    ConfirmationPhrase {
        /// The plan.
        plan: PlanId,
        /// Whether any phrase came.
        given: bool,
    },
    /// Whoever wants to approve may not.
    #[error("{principal} may not approve run {run}: {}", problem.describe("started it"))]
    ApprovalRefused {
        /// The run.
        run: RunId,
        /// Who wanted to approve.
        principal: String,
        /// Why.
        problem: ApprovalProblem,
    },
    /// The plan has findings that nobody has confirmed.
    #[error("{}: {}; run with the token of a plan that shows it, or with force", finding.code, finding.detail)]
    FindingsUnconfirmed {
        /// The first of them.
        finding: Box<Finding>,
    },
    /// Another run has the same table, or is to have it first.
    #[error(
        "run {run} ({}, {}, accepted at {since}) {} table {table} of target {target}",
        operations.join(", "), state.name(), if *state == RunState::Queued { "is next to have" } else { "holds" }
    )]
    RunAlreadyActive {
        /// That run.
        run: RunId,
        /// Where it stands.
        state: RunState,
        /// Its operations.
        operations: Vec<String>,
        /// When it was accepted.
        since: Timestamp,
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
    /// A root of the target failed.
    #[error("target {target}: {source}")]
    Files {
        /// The target.
        target: String,
        /// What it said.
        source: FilesError,
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
    #[error("this overwrites what the target holds; expected the confirmation {expected:?}")]
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
    /// The backup is of another database than the target is now.
    #[error(
        "backup {backup} is of another database: {difference}; expected one of this database, a scratch place, or other_database"
    )]
    BackupOtherDatabase {
        /// The backup.
        backup: RunId,
        /// What tells them apart.
        difference: String,
    },
    /// The backup folder failed.
    #[error("backup folder: {0}")]
    Archive(#[from] crate::port::ArchiveError),
    /// The target has no migrations folder.
    #[error("target {target} has no migrations folder; set migrations in its [[target]] section")]
    NoMigrations {
        /// The target.
        target: String,
    },
    /// The migrations folder cannot be read, or does not make sense.
    #[error("migrations of target {target} in {place}: {problem}")]
    MigrationSource {
        /// The target.
        target: String,
        /// The folder.
        place: String,
        /// What is wrong, with file and line where they are known, and what was expected.
        problem: String,
    },
    /// No such migration.
    #[error("target {target} has no migration {wanted:?}{}", near.as_ref().map_or_else(String::new, |near| format!("; did you mean {near}?")))]
    UnknownMigration {
        /// The target.
        target: String,
        /// What was asked for.
        wanted: String,
        /// The one that looks most like it.
        near: Option<String>,
    },
    /// The declared dependencies have no order.
    #[error("migrations of target {target}: {problem}")]
    MigrationGraph {
        /// The target.
        target: String,
        /// What is wrong, with the path.
        problem: String,
    },
    /// Something stands in the way of migrations.
    #[error("migrations of target {target} are blocked: {}", problems.iter().map(|problem| format!("{}: {}. Next: {}", problem.code, problem.message, problem.next_step)).collect::<Vec<_>>().join("; "))]
    MigrationsBlocked {
        /// The target.
        target: String,
        /// What stands in the way, each with its next step.
        problems: Vec<crate::migration::standing::Problem>,
    },
    /// A risky plan has to be reviewed first.
    #[error("the plan for target {target} has risk HIGH ({reason}): plan it first and run with the plan's token")]
    MigrationPlanRequired {
        /// The target.
        target: String,
        /// The first reason for that risk.
        reason: String,
    },
    /// What was reviewed is not what would be done.
    #[error("migrations or ledger of target {target} changed since the plan was made; make a new plan")]
    MigrationPlanChanged {
        /// The target.
        target: String,
    },
    /// There is nothing to do.
    #[error("target {target} has no migration to take")]
    NothingToMigrate {
        /// The target.
        target: String,
    },
    /// Somebody else migrates the target.
    #[error("{holder} migrates target {target} (run {run}), until {until} at least")]
    MigrationsHeld {
        /// The target.
        target: String,
        /// Who.
        holder: String,
        /// Its run.
        run: String,
        /// When its lease ends.
        until: String,
    },
    /// The ledger of migrations changed between the look at it and the change.
    #[error("the ledger of target {target} moved meanwhile: {problem}; nothing was changed, look at it again")]
    MigrationLedgerMoved {
        /// The target.
        target: String,
        /// What is there.
        problem: String,
    },
    /// That repair does not fit what is wrong.
    #[error("{action} does not fit migration {id}; offered is {offered}")]
    RepairRefused {
        /// The migration.
        id: String,
        /// What was asked for.
        action: &'static str,
        /// What would fit.
        offered: String,
    },
    /// Whoever asked went away before the run was accepted.
    #[error("the caller went away before the run was accepted; nothing was started")]
    GivenUp,
    /// The server is going down.
    #[error("the server is shutting down")]
    ShuttingDown,
}

impl EngineError {
    /// Stable name of the failure: what the API gives as its reason, and what the record of decisions keeps.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidField { .. } => "INVALID_FIELD",
            Self::InvalidFields { .. } => "INVALID_FIELD",
            Self::UnknownSchedule { .. } => "UNKNOWN_SCHEDULE",
            Self::ScheduleExists { .. } => "SCHEDULE_EXISTS",
            Self::ScheduleChanged { .. } => "SCHEDULE_CHANGED",
            Self::ScheduleBusy { .. } => "SCHEDULE_BUSY",
            Self::ScheduleRequestReused { .. } => "REQUEST_ID_REUSED",
            Self::ScheduleApprovalRefused { .. } => "APPROVAL_REFUSED",
            Self::StandingApproval { .. } => "STANDING_APPROVAL",
            Self::SlotRefused { .. } | Self::SlotLost => "SLOT_REFUSED",
            Self::UnknownTarget { .. } => "UNKNOWN_TARGET",
            Self::UnknownOperation { .. } => "UNKNOWN_OPERATION",
            Self::UnknownToken { .. } => "UNKNOWN_TOKEN",
            Self::TokenExists { .. } => "TOKEN_EXISTS",
            Self::UnknownRun { .. } => "UNKNOWN_RUN",
            Self::UnknownBackup { .. } => "UNKNOWN_BACKUP",
            Self::UnknownChannel { .. } => "UNKNOWN_CHANNEL",
            Self::UnknownDelivery { .. } => "UNKNOWN_DELIVERY",
            Self::UnknownAlert { .. } => "UNKNOWN_ALERT",
            Self::UnknownAuditRecord { .. } => "UNKNOWN_AUDIT_RECORD",
            Self::AuditLogBroken { .. } => "AUDIT_LOG_BROKEN",
            Self::AnchorFile(_) => "INTERNAL",
            Self::DeliveryState { .. } => "DELIVERY_STATE",
            Self::CatalogMismatch { .. } => "CATALOG_MISMATCH",
            Self::UnknownPlan => "UNKNOWN_PLAN",
            Self::PlanExpired { .. } => "PLAN_EXPIRED",
            Self::PlanMismatch { .. } => "PLAN_MISMATCH",
            Self::SchemaChanged { .. } => "SCHEMA_CHANGED",
            Self::CountDrifted { .. } => "COUNT_DRIFTED",
            Self::PlanRequired { .. } => "PLAN_REQUIRED",
            Self::PlanBlocked { .. } => "PLAN_BLOCKED",
            Self::PlanUsed { .. } => "PLAN_USED",
            Self::ConfirmationPhrase { .. } => "CONFIRMATION_PHRASE",
            Self::ApprovalRefused { .. } => "APPROVAL_REFUSED",
            Self::FindingsUnconfirmed { .. } => "FINDINGS_UNCONFIRMED",
            Self::RunAlreadyActive { .. } => "RUN_ALREADY_ACTIVE",
            Self::RequestIdReused { .. } => "REQUEST_ID_REUSED",
            Self::WrongState { .. } => "RUN_STATE",
            Self::NothingCaptured { .. } => "NOTHING_CAPTURED",
            Self::SequenceAhead { .. } => "SEQUENCE_AHEAD",
            Self::Target { source, .. } => match source.class {
                TargetErrorClass::Lost
                | TargetErrorClass::LockTimeout
                | TargetErrorClass::Conflict
                | TargetErrorClass::Timeout => "TARGET_UNAVAILABLE",
                TargetErrorClass::Permission => "TARGET_PERMISSION",
                TargetErrorClass::Constraint
                | TargetErrorClass::SchemaChanged
                | TargetErrorClass::Fenced
                | TargetErrorClass::Unsupported
                | TargetErrorClass::Sink
                | TargetErrorClass::OverBudget
                | TargetErrorClass::Refused => "TARGET_REFUSED",
            },
            Self::Files { .. } => "ROOT_UNUSABLE",
            Self::BackupPruned { .. } => "BACKUP_PRUNED",
            Self::TableUnsuitable { .. } => "INVALID_FIELD",
            Self::TablesNotEmpty { .. } => "TABLES_NOT_EMPTY",
            Self::BackupKind { .. } => "BACKUP_KIND",
            Self::BackupOtherDatabase { .. } => "BACKUP_OTHER_DATABASE",
            Self::Archive(_) => "BACKUP_STORAGE",
            Self::ConfirmationRequired { .. } => "CONFIRMATION_REQUIRED",
            Self::ToolUnavailable { .. } => "TOOL_UNAVAILABLE",
            Self::Store(StoreError::Unavailable(_)) => "STORE_UNAVAILABLE",
            Self::Store(StoreError::Fenced | StoreError::Corrupt(_)) => "INTERNAL",
            Self::NoMigrations { .. } => "NO_MIGRATIONS",
            Self::MigrationSource { .. } => "MIGRATION_SOURCE",
            Self::UnknownMigration { .. } => "UNKNOWN_MIGRATION",
            Self::MigrationGraph { .. } => "MIGRATION_GRAPH",
            Self::MigrationsBlocked { .. } => "MIGRATIONS_BLOCKED",
            Self::MigrationPlanRequired { .. } => "PLAN_REQUIRED",
            Self::MigrationPlanChanged { .. } => "PLAN_MISMATCH",
            Self::NothingToMigrate { .. } => "NOTHING_TO_MIGRATE",
            Self::MigrationsHeld { .. } => "MIGRATIONS_HELD",
            Self::MigrationLedgerMoved { .. } => "MIGRATION_LEDGER_MOVED",
            Self::RepairRefused { .. } => "REPAIR_REFUSED",
            Self::GivenUp => "DEADLINE",
            Self::ShuttingDown => "SHUTTING_DOWN",
        }
    }

    /// Wraps what a target said.
    pub fn target(target: &str) -> impl Fn(TargetError) -> Self + '_ {
        move |source| Self::Target {
            target: target.to_owned(),
            source,
        }
    }
}
