//! The typed error of every call.
//!
//! Owns [`Error`]: one variant for each reason that `errors.proto` names, so that callers match on variants and never on
//! messages, and a fallback for reasons that this version does not know. Does not decide what is retried (that is
//! `retry.rs`) nor decode the wire format (that is `error/decode.rs`). Every module of this crate returns it.

mod decode;

use std::{collections::BTreeMap, time::Duration};

use dbkeep_proto::v1::ErrorReason;
use tonic::Code;

/// What went wrong in a call, in terms a program can match on.
///
/// `Display` is the server's own sentence where the server answered; the fields carry the names that it speaks of.
/// Strings are empty and numbers `None` where a server left a name out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The address given to the builder cannot be used; nothing was sent.
    #[error("{address:?} is no address: {problem}; expected host:port, http://host:port or https://host:port")]
    InvalidAddress {
        /// The address as given.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The user agent given to the builder holds bytes that a header cannot carry.
    #[error("{user_agent:?} cannot be sent as a user agent")]
    InvalidUserAgent {
        /// The user agent as given.
        user_agent: String,
    },
    /// No connection, or the connection broke. Whether the server saw the call is unknown.
    #[error("cannot reach the server: {problem}")]
    Unreachable {
        /// The chain of causes in one line.
        problem: String,
    },
    /// The call's time was over before an answer came. A run that it started goes on.
    #[error("{message}")]
    Deadline {
        /// Run that the call had started, where the server told.
        run: Option<String>,
        /// What ended the call.
        message: String,
    },
    /// A field of the request is malformed or out of bounds; nothing was changed.
    #[error("{message}")]
    InvalidField {
        /// Each field with what was expected of it.
        violations: Vec<FieldViolation>,
        /// The server's sentence.
        message: String,
    },
    /// No such target.
    #[error("{message}")]
    UnknownTarget {
        /// Name that was asked for.
        target: String,
        /// Names that exist.
        known: Vec<String>,
        /// The server's sentence.
        message: String,
    },
    /// The target's catalog has no such operation.
    #[error("{message}")]
    UnknownOperation {
        /// Name that was asked for.
        operation: String,
        /// Target whose catalog was read.
        target: String,
        /// Names that exist.
        known: Vec<String>,
        /// The server's sentence.
        message: String,
    },
    /// No such run.
    #[error("{message}")]
    UnknownRun {
        /// Id that was asked for.
        run: String,
        /// The server's sentence.
        message: String,
    },
    /// No such backup.
    #[error("{message}")]
    UnknownBackup {
        /// Id that was asked for.
        backup: String,
        /// The server's sentence.
        message: String,
    },
    /// The server has no such channel.
    #[error("{message}")]
    UnknownChannel {
        /// Name that was asked for.
        channel: String,
        /// The names there are.
        known: Vec<String>,
        /// The server's sentence.
        message: String,
    },
    /// No such delivery.
    #[error("{message}")]
    UnknownDelivery {
        /// Id that was asked for.
        delivery: String,
        /// The server's sentence.
        message: String,
    },
    /// No such alert, or it was forgotten long after its end.
    #[error("{message}")]
    UnknownAlert {
        /// Id that was asked for.
        alert: String,
        /// The server's sentence.
        message: String,
    },
    /// No such record of the audit log, or none that this caller sees.
    #[error("{message}")]
    UnknownAuditRecord {
        /// Number that was asked for.
        number: String,
        /// The server's sentence.
        message: String,
    },
    /// The audit log holds what cannot be read: somebody has changed it.
    #[error("{message}")]
    AuditLogBroken {
        /// Where.
        number: String,
        /// What is wrong there.
        problem: String,
        /// The server's sentence.
        message: String,
    },
    /// The delivery was not given up, so that there is nothing to retry.
    #[error("{message}")]
    DeliveryState {
        /// The delivery.
        delivery: String,
        /// Where it stands.
        state: String,
        /// The server's sentence.
        message: String,
    },
    /// The catalog names a table or column that the target lacks, or one of an unusable type.
    #[error("{message}")]
    CatalogMismatch {
        /// Where the catalog says so, "file:line".
        origin: String,
        /// Operation of the rule.
        operation: String,
        /// Rule that names it.
        rule: String,
        /// What was expected.
        expected: String,
        /// The server's sentence.
        message: String,
    },
    /// The plan token was not issued by this service.
    #[error("{message}")]
    UnknownPlan {
        /// The server's sentence.
        message: String,
    },
    /// The plan is older than its lifetime.
    #[error("{message}")]
    PlanExpired {
        /// Id of the plan.
        plan: String,
        /// When it expired, RFC 3339.
        expired_at: String,
        /// The server's sentence.
        message: String,
    },
    /// The plan was made for something else than what was asked for.
    #[error("{message}")]
    PlanMismatch {
        /// Id of the plan.
        plan: String,
        /// Field that differs.
        field: String,
        /// Its value in the plan.
        planned: String,
        /// Its value in the request.
        requested: String,
        /// The server's sentence.
        message: String,
    },
    /// The tables changed their shape since the plan was made.
    #[error("{message}")]
    SchemaChanged {
        /// Id of the plan.
        plan: String,
        /// Tables that changed.
        tables: Vec<String>,
        /// The server's sentence.
        message: String,
    },
    /// Many more or fewer rows match now than the plan counted.
    #[error("{message}")]
    CountDrifted {
        /// Step whose count moved.
        step: String,
        /// Rows that the plan counted.
        planned: Option<u64>,
        /// Rows that match now.
        found: Option<u64>,
        /// How far the count may move.
        tolerance: String,
        /// The server's sentence.
        message: String,
    },
    /// The severity of an operation asks for a plan token, and none was sent.
    #[error("{message}")]
    PlanRequired {
        /// Operation that asks for it.
        operation: String,
        /// Its severity.
        severity: String,
        /// The server's sentence.
        message: String,
    },
    /// A finding of level BLOCK stands in the plan.
    #[error("{message}")]
    PlanBlocked {
        /// Code of the finding.
        finding: String,
        /// Table it is about.
        table: String,
        /// What was found.
        detail: String,
        /// What to do about it.
        remediation: String,
        /// The server's sentence.
        message: String,
    },
    /// The plan's token has started a run before.
    #[error("{message}")]
    PlanUsed {
        /// The plan.
        plan: String,
        /// The run that it started.
        run: String,
        /// The server's sentence.
        message: String,
    },
    /// The plan asks for its confirmation phrase, and none came or another one.
    #[error("{message}")]
    ConfirmationPhrase {
        /// The plan.
        plan: String,
        /// `missing` or `different`.
        problem: String,
        /// The server's sentence.
        message: String,
    },
    /// The caller may not approve this run, or this schedule.
    #[error("{message}")]
    ApprovalRefused {
        /// The run; empty where it is about a schedule.
        run: String,
        /// The schedule; empty where it is about a run.
        schedule: String,
        /// Who wanted to approve it.
        principal: String,
        /// `anonymous`, `same_principal` or `token_of_same_principal`.
        problem: String,
        /// The server's sentence.
        message: String,
    },
    /// The name of the caller was refused.
    #[error("{message}")]
    PrincipalRefused {
        /// What is wrong with it.
        problem: String,
        /// The server's sentence.
        message: String,
    },
    /// The server does not know who calls: no token came, or none that opens anything.
    #[error("{message}")]
    Unauthenticated {
        /// The server's sentence.
        message: String,
    },
    /// The caller's role does not cover the method.
    #[error("{message}")]
    RoleRefused {
        /// Path of the method.
        method: String,
        /// Role of the caller.
        role: String,
        /// Role that the method asks for.
        asked: String,
        /// The server's sentence.
        message: String,
    },
    /// The method is about the whole installation, and the caller is for some targets.
    #[error("{message}")]
    OutOfScope {
        /// Path of the method.
        method: String,
        /// The server's sentence.
        message: String,
    },
    /// The caller calls too often, or has too many calls open.
    #[error("{message}")]
    TooManyCalls {
        /// When to try again.
        retry_after: Option<Duration>,
        /// The server's sentence.
        message: String,
    },
    /// The server has more calls to answer than it takes on; nothing was changed.
    #[error("{message}")]
    Overloaded {
        /// When to try again.
        retry_after: Option<Duration>,
        /// The server's sentence.
        message: String,
    },
    /// The request is no message of the method, is too long, or did not arrive as a whole.
    #[error("{message}")]
    RequestBroken {
        /// The server's sentence.
        message: String,
    },
    /// The call cannot be recorded in the audit log; nothing was changed.
    #[error("{message}")]
    AuditUnavailable {
        /// When to try again.
        retry_after: Option<Duration>,
        /// The server's sentence.
        message: String,
    },
    /// No such token.
    #[error("{message}")]
    UnknownToken {
        /// Id or name that was asked for.
        token: String,
        /// The server's sentence.
        message: String,
    },
    /// A token that is not revoked has the name.
    #[error("{message}")]
    TokenExists {
        /// The name.
        name: String,
        /// The server's sentence.
        message: String,
    },
    /// The plan has findings of level WARN that nobody has confirmed.
    #[error("{message}")]
    FindingsUnconfirmed {
        /// Stable name of the first of them.
        finding: String,
        /// Table it is about.
        table: String,
        /// What was found.
        detail: String,
        /// What to do about it.
        remediation: String,
        /// The server's sentence.
        message: String,
    },
    /// Another run holds a table that this one needs.
    #[error("{message}")]
    RunAlreadyActive {
        /// The run that holds it.
        run: String,
        /// Target of the table.
        target: String,
        /// The table.
        table: String,
        /// The server's sentence.
        message: String,
    },
    /// The request id was used before with other content.
    #[error("{message}")]
    RequestIdReused {
        /// The request id.
        request_id: String,
        /// Run that the first call started; empty where it made something else.
        run: String,
        /// The server's sentence.
        message: String,
    },
    /// The run's state does not allow the call.
    #[error("{message}")]
    RunState {
        /// Id of the run.
        run: String,
        /// State it is in.
        state: String,
        /// States in which the call is allowed.
        allowed: Vec<String>,
        /// The server's sentence.
        message: String,
    },
    /// The run captured no rows; there is nothing to undo or verify.
    #[error("{message}")]
    NothingCaptured {
        /// Id of the run.
        run: String,
        /// The server's sentence.
        message: String,
    },
    /// The target database cannot be reached by the server.
    #[error("{message}")]
    TargetUnavailable {
        /// Name of the target.
        target: String,
        /// When to try again.
        retry_after: Option<Duration>,
        /// The server's sentence.
        message: String,
    },
    /// The server cannot reach its own control store. Nothing was changed.
    #[error("{message}")]
    StoreUnavailable {
        /// When to try again.
        retry_after: Option<Duration>,
        /// The server's sentence.
        message: String,
    },
    /// The target refused dbkeep's database user.
    #[error("{message}")]
    TargetPermission {
        /// Name of the target.
        target: String,
        /// SQLSTATE of the refusal.
        sqlstate: String,
        /// The server's sentence.
        message: String,
    },
    /// The target refused a statement.
    #[error("{message}")]
    TargetRefused {
        /// Name of the target.
        target: String,
        /// SQLSTATE of the refusal.
        sqlstate: String,
        /// Constraint that stood in the way, where known.
        constraint: Option<String>,
        /// The server's sentence.
        message: String,
    },
    /// A backup file is missing, truncated or altered.
    #[error("{message}")]
    BackupDamaged {
        /// Id of the backup.
        backup: String,
        /// File that is damaged.
        chunk: String,
        /// What is wrong with it.
        problem: String,
        /// The server's sentence.
        message: String,
    },
    /// The server's backup folder cannot take more data.
    #[error("{message}")]
    BackupStorage {
        /// The folder.
        path: String,
        /// The server's sentence.
        message: String,
    },
    /// A folder that a target declares for its files cannot be used.
    #[error("{message}")]
    RootUnusable {
        /// Target that declares it.
        target: String,
        /// Which folder, and what is wrong with it.
        detail: String,
        /// The server's sentence.
        message: String,
    },
    /// The server is shutting down; runs go on after its restart or on another server.
    #[error("{message}")]
    ShuttingDown {
        /// When to try again.
        retry_after: Option<Duration>,
        /// The server's sentence.
        message: String,
    },
    /// Too many streams are open on the server.
    #[error("{message}")]
    TooManyStreams {
        /// How many it allows.
        limit: Option<u64>,
        /// When to try again.
        retry_after: Option<Duration>,
        /// The server's sentence.
        message: String,
    },
    /// The sequence to resume after lies beyond the run's newest event.
    #[error("{message}")]
    SequenceAhead {
        /// Id of the run.
        run: String,
        /// Sequence of its newest event.
        last_sequence: Option<u64>,
        /// The server's sentence.
        message: String,
    },
    /// No policy row of the server allows this method.
    #[error("{message}")]
    MethodNotAllowed {
        /// The server's sentence.
        message: String,
    },
    /// The files of the backup were removed.
    #[error("{message}")]
    BackupPruned {
        /// Id of the backup.
        backup: String,
        /// When, RFC 3339.
        pruned_at: String,
        /// The server's sentence.
        message: String,
    },
    /// The call overwrites data and needs a typed confirmation.
    #[error("{message}")]
    ConfirmationRequired {
        /// What has to be typed.
        expected: String,
        /// The server's sentence.
        message: String,
    },
    /// A program that the server needs is missing, or too old for the target.
    #[error("{message}")]
    ToolUnavailable {
        /// The program.
        tool: String,
        /// Target that it is needed for.
        target: String,
        /// What is wrong and what was expected.
        problem: String,
        /// The server's sentence.
        message: String,
    },
    /// Tables that would be restored hold rows.
    #[error("{message}")]
    TablesNotEmpty {
        /// Target of the tables.
        target: String,
        /// The tables.
        tables: Vec<String>,
        /// The server's sentence.
        message: String,
    },
    /// The call does not fit what the backup holds.
    #[error("{message}")]
    BackupKind {
        /// Id of the backup.
        backup: String,
        /// What would fit.
        expected: String,
        /// The server's sentence.
        message: String,
    },
    /// The backup is of another database than the target is now.
    #[error("{message}")]
    BackupOtherDatabase {
        /// Id of the backup.
        backup: String,
        /// What tells them apart.
        difference: String,
        /// The server's sentence.
        message: String,
    },
    /// The target has no migrations folder.
    #[error("{message}")]
    NoMigrations {
        /// Name of the target.
        target: String,
        /// The server's sentence.
        message: String,
    },
    /// The migrations folder cannot be read, or does not make sense.
    #[error("{message}")]
    MigrationSource {
        /// Name of the target.
        target: String,
        /// The folder.
        folder: String,
        /// What is wrong with it.
        problem: String,
        /// The server's sentence.
        message: String,
    },
    /// No such migration.
    #[error("{message}")]
    UnknownMigration {
        /// Id, version or name that was asked for.
        migration: String,
        /// Name of the target.
        target: String,
        /// The one that looks most like it, where one does.
        near: Option<String>,
        /// The server's sentence.
        message: String,
    },
    /// The declared dependencies of the migrations have no order.
    #[error("{message}")]
    MigrationGraph {
        /// Name of the target.
        target: String,
        /// The cycle, the missing one or the duplicate.
        problem: String,
        /// The server's sentence.
        message: String,
    },
    /// Something stands in the way of migrations.
    #[error("{message}")]
    MigrationsBlocked {
        /// Name of the target.
        target: String,
        /// Codes of everything that does.
        problems: Vec<String>,
        /// What stands in the way, the first few of it.
        violations: Vec<MigrationViolation>,
        /// The server's sentence.
        message: String,
    },
    /// No migration is to be taken.
    #[error("{message}")]
    NothingToMigrate {
        /// Name of the target.
        target: String,
        /// The server's sentence.
        message: String,
    },
    /// Somebody else migrates the target.
    #[error("{message}")]
    MigrationsHeld {
        /// Who.
        holder: String,
        /// The run, or the act on the ledger.
        run: String,
        /// Until when, unless it is renewed; RFC 3339.
        until: String,
        /// When to try again.
        retry_after: Option<Duration>,
        /// The server's sentence.
        message: String,
    },
    /// The ledger of migrations changed between the look at it and the change of it; nothing was changed.
    #[error("{message}")]
    MigrationLedgerMoved {
        /// Name of the target.
        target: String,
        /// What is there.
        problem: String,
        /// The server's sentence.
        message: String,
    },
    /// That repair does not fit what is wrong with the migration.
    #[error("{message}")]
    RepairRefused {
        /// Id of the migration.
        migration: String,
        /// The repair that was asked for.
        action: String,
        /// Repairs that fit.
        offered: Vec<String>,
        /// The server's sentence.
        message: String,
    },
    /// No such schedule.
    #[error("{message}")]
    UnknownSchedule {
        /// Id or name that was asked for.
        schedule: String,
        /// The server's sentence.
        message: String,
    },
    /// Another schedule has the name.
    #[error("{message}")]
    ScheduleExists {
        /// The name.
        name: String,
        /// Id of the schedule that has it.
        schedule: String,
        /// The server's sentence.
        message: String,
    },
    /// The schedule is not as the caller has read it.
    #[error("{message}")]
    ScheduleChanged {
        /// Name of the schedule.
        schedule: String,
        /// Its newest etag.
        etag: String,
        /// The server's sentence.
        message: String,
    },
    /// A run of the schedule has not ended, or another slot is about to fire.
    #[error("{message}")]
    ScheduleBusy {
        /// Name of the schedule.
        schedule: String,
        /// The server's sentence.
        message: String,
    },
    /// The operations need a standing approval, and the schedule has none that covers the run.
    #[error("{message}")]
    StandingApproval {
        /// Name of the schedule.
        schedule: String,
        /// The operations of the run.
        operations: Vec<String>,
        /// Why what the schedule has does not do.
        problem: String,
        /// The server's sentence.
        message: String,
    },
    /// The slot did not fire.
    #[error("{message}")]
    SlotRefused {
        /// Name of the schedule.
        schedule: String,
        /// Why it did not.
        problem: String,
        /// When to try again, where another server was quicker.
        retry_after: Option<Duration>,
        /// The server's sentence.
        message: String,
    },
    /// A fault of dbkeep; the server's log holds the cause under the incident's id.
    #[error("{message}")]
    Internal {
        /// Id of the incident in the server's log.
        incident: String,
        /// The server's sentence.
        message: String,
    },
    /// An answer whose reason this version does not know, or which came without one (for instance from a proxy).
    #[error("{message}")]
    Other {
        /// gRPC status code.
        code: Code,
        /// `ErrorInfo.reason`, where one was sent.
        reason: Option<String>,
        /// `ErrorInfo.metadata`, by name.
        metadata: BTreeMap<String, String>,
        /// When to try again, where told.
        retry_after: Option<Duration>,
        /// The server's sentence.
        message: String,
    },
    /// An event of a run is missing from its stream. The events up to `expected - 1` were delivered; watching again after
    /// that sequence is safe.
    #[error(
        "event {expected} of run {run} is missing: the stream went on with event {found}, which says that {coalesced} were left out before it"
    )]
    SequenceGap {
        /// Id of the run.
        run: String,
        /// Sequence that was due.
        expected: u64,
        /// Sequence that came.
        found: u64,
        /// How many events it declared as left out.
        coalesced: u64,
    },
    /// A stream lost the server and did not get it back in the time of the [`ReconnectPolicy`](crate::ReconnectPolicy).
    /// The run, if it was started, goes on; watching it again after `last_sequence` is safe.
    #[error("no contact with the server for {} s: {last_error}", waited.as_secs())]
    LostContact {
        /// Id of the run, where an event had told it.
        run: Option<String>,
        /// Sequence of the last event that was delivered.
        last_sequence: u64,
        /// How long contact was sought.
        waited: Duration,
        /// What the newest attempt ran into.
        last_error: Box<Error>,
    },
    /// The server's answer breaks the protocol: a message that must be there is absent.
    #[error("the server's answer lacks {missing}")]
    Incomplete {
        /// What is absent, as a field path of `dbkeep.v1`.
        missing: &'static str,
    },
}

/// One field of a request that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldViolation {
    /// Path of the field, e.g. `options.batch_size`.
    pub field: String,
    /// What was expected.
    pub description: String,
}

/// One thing that stands in the way of migrations.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationViolation {
    /// Stable name in capitals, as in [`MigrationProblem.code`](dbkeep_proto::v1::MigrationProblem::code).
    pub code: String,
    /// Id of the migration.
    pub migration: String,
    /// What is wrong, and what to do.
    pub description: String,
}

impl Error {
    /// The reason in the words of `errors.proto`; `None` for errors that did not come from a server of this version.
    #[must_use]
    pub fn reason(&self) -> Option<ErrorReason> {
        Some(match self {
            Self::Deadline { .. } => ErrorReason::Deadline,
            Self::InvalidField { .. } => ErrorReason::InvalidField,
            Self::UnknownTarget { .. } => ErrorReason::UnknownTarget,
            Self::UnknownOperation { .. } => ErrorReason::UnknownOperation,
            Self::UnknownRun { .. } => ErrorReason::UnknownRun,
            Self::UnknownBackup { .. } => ErrorReason::UnknownBackup,
            Self::UnknownChannel { .. } => ErrorReason::UnknownChannel,
            Self::UnknownDelivery { .. } => ErrorReason::UnknownDelivery,
            Self::UnknownAlert { .. } => ErrorReason::UnknownAlert,
            Self::UnknownAuditRecord { .. } => ErrorReason::UnknownAuditRecord,
            Self::AuditLogBroken { .. } => ErrorReason::AuditLogBroken,
            Self::DeliveryState { .. } => ErrorReason::DeliveryState,
            Self::CatalogMismatch { .. } => ErrorReason::CatalogMismatch,
            Self::UnknownPlan { .. } => ErrorReason::UnknownPlan,
            Self::PlanExpired { .. } => ErrorReason::PlanExpired,
            Self::PlanMismatch { .. } => ErrorReason::PlanMismatch,
            Self::SchemaChanged { .. } => ErrorReason::SchemaChanged,
            Self::CountDrifted { .. } => ErrorReason::CountDrifted,
            Self::PlanRequired { .. } => ErrorReason::PlanRequired,
            Self::PlanBlocked { .. } => ErrorReason::PlanBlocked,
            Self::PlanUsed { .. } => ErrorReason::PlanUsed,
            Self::ConfirmationPhrase { .. } => ErrorReason::ConfirmationPhrase,
            Self::ApprovalRefused { .. } => ErrorReason::ApprovalRefused,
            Self::PrincipalRefused { .. } => ErrorReason::PrincipalRefused,
            Self::Unauthenticated { .. } => ErrorReason::Unauthenticated,
            Self::RoleRefused { .. } => ErrorReason::RoleRefused,
            Self::OutOfScope { .. } => ErrorReason::OutOfScope,
            Self::TooManyCalls { .. } => ErrorReason::TooManyCalls,
            Self::Overloaded { .. } => ErrorReason::Overloaded,
            Self::RequestBroken { .. } => ErrorReason::RequestBroken,
            Self::AuditUnavailable { .. } => ErrorReason::AuditUnavailable,
            Self::UnknownToken { .. } => ErrorReason::UnknownToken,
            Self::TokenExists { .. } => ErrorReason::TokenExists,
            Self::FindingsUnconfirmed { .. } => ErrorReason::FindingsUnconfirmed,
            Self::RunAlreadyActive { .. } => ErrorReason::RunAlreadyActive,
            Self::RequestIdReused { .. } => ErrorReason::RequestIdReused,
            Self::RunState { .. } => ErrorReason::RunState,
            Self::NothingCaptured { .. } => ErrorReason::NothingCaptured,
            Self::TargetUnavailable { .. } => ErrorReason::TargetUnavailable,
            Self::StoreUnavailable { .. } => ErrorReason::StoreUnavailable,
            Self::TargetPermission { .. } => ErrorReason::TargetPermission,
            Self::TargetRefused { .. } => ErrorReason::TargetRefused,
            Self::BackupDamaged { .. } => ErrorReason::BackupDamaged,
            Self::BackupStorage { .. } => ErrorReason::BackupStorage,
            Self::RootUnusable { .. } => ErrorReason::RootUnusable,
            Self::ShuttingDown { .. } => ErrorReason::ShuttingDown,
            Self::TooManyStreams { .. } => ErrorReason::TooManyStreams,
            Self::SequenceAhead { .. } => ErrorReason::SequenceAhead,
            Self::MethodNotAllowed { .. } => ErrorReason::MethodNotAllowed,
            Self::Internal { .. } => ErrorReason::Internal,
            Self::BackupPruned { .. } => ErrorReason::BackupPruned,
            Self::ConfirmationRequired { .. } => ErrorReason::ConfirmationRequired,
            Self::ToolUnavailable { .. } => ErrorReason::ToolUnavailable,
            Self::TablesNotEmpty { .. } => ErrorReason::TablesNotEmpty,
            Self::BackupKind { .. } => ErrorReason::BackupKind,
            Self::BackupOtherDatabase { .. } => ErrorReason::BackupOtherDatabase,
            Self::NoMigrations { .. } => ErrorReason::NoMigrations,
            Self::MigrationSource { .. } => ErrorReason::MigrationSource,
            Self::UnknownMigration { .. } => ErrorReason::UnknownMigration,
            Self::MigrationGraph { .. } => ErrorReason::MigrationGraph,
            Self::MigrationsBlocked { .. } => ErrorReason::MigrationsBlocked,
            Self::NothingToMigrate { .. } => ErrorReason::NothingToMigrate,
            Self::MigrationsHeld { .. } => ErrorReason::MigrationsHeld,
            Self::MigrationLedgerMoved { .. } => ErrorReason::MigrationLedgerMoved,
            Self::RepairRefused { .. } => ErrorReason::RepairRefused,
            Self::UnknownSchedule { .. } => ErrorReason::UnknownSchedule,
            Self::ScheduleExists { .. } => ErrorReason::ScheduleExists,
            Self::ScheduleChanged { .. } => ErrorReason::ScheduleChanged,
            Self::ScheduleBusy { .. } => ErrorReason::ScheduleBusy,
            Self::StandingApproval { .. } => ErrorReason::StandingApproval,
            Self::SlotRefused { .. } => ErrorReason::SlotRefused,
            Self::InvalidAddress { .. }
            | Self::InvalidUserAgent { .. }
            | Self::Unreachable { .. }
            | Self::Other { .. }
            | Self::SequenceGap { .. }
            | Self::LostContact { .. }
            | Self::Incomplete { .. } => return None,
        })
    }

    /// The reason as the wire carries it (`"PLAN_REQUIRED"`), also one that this version does not know.
    #[must_use]
    pub fn reason_name(&self) -> Option<&str> {
        match self {
            Self::Other { reason, .. } => reason.as_deref(),
            known => known.reason().map(decode::wire_name),
        }
    }

    /// When the server asks to try again; `None` where it did not say.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TargetUnavailable { retry_after, .. }
            | Self::StoreUnavailable { retry_after, .. }
            | Self::ShuttingDown { retry_after, .. }
            | Self::TooManyStreams { retry_after, .. }
            | Self::TooManyCalls { retry_after, .. }
            | Self::Overloaded { retry_after, .. }
            | Self::AuditUnavailable { retry_after, .. }
            | Self::MigrationsHeld { retry_after, .. }
            | Self::SlotRefused { retry_after, .. }
            | Self::Other { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the call failed because something is away for the moment (gRPC UNAVAILABLE, or no connection), so that the
    /// same call may succeed later.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TargetUnavailable { .. }
            | Self::StoreUnavailable { .. }
            | Self::ShuttingDown { .. }
            | Self::Overloaded { .. }
            | Self::AuditUnavailable { .. }
            | Self::LostContact { .. } => true,
            Self::Other { code, .. } => *code == Code::Unavailable,
            _ => false,
        }
    }
}
