//! Runs: one persisted execution of a plan, an undo or a verification, and its report.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    decision::Approval,
    maintenance::{BackupRecord, MaintenanceRecord, Pruned, RestoreRecord, TableSpace},
    migration::MigrationRecord,
    monitor::Recommendation,
    plan::PlanId,
    report::OperationFacts,
    size::SizeRecord,
};

/// Id of a run, sortable by creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunId(pub Uuid);

impl RunId {
    /// A new id (UUID version 7).
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for RunId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::str::FromStr for RunId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// Executes a plan.
    Cleanup,
    /// Puts back what a cleanup captured.
    Undo,
    /// Proves a backup.
    Verify,
    /// Saves whole tables.
    Backup,
    /// Brings a backup back.
    Restore,
    /// Applies migrations.
    Migrate,
    /// Takes migrations back.
    Rollback,
    /// Tries migrations on a copy.
    Rehearse,
    /// Carries out built-in maintenance.
    Maintain,
}

impl RunKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Cleanup,
        Self::Undo,
        Self::Verify,
        Self::Backup,
        Self::Restore,
        Self::Migrate,
        Self::Rollback,
        Self::Rehearse,
        Self::Maintain,
    ];

    /// Name in stores and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cleanup => "cleanup",
            Self::Undo => "undo",
            Self::Verify => "verify",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Migrate => "migrate",
            Self::Rollback => "rollback",
            Self::Rehearse => "rehearse",
            Self::Maintain => "maintain",
        }
    }
}

impl RunKind {
    /// The kinds whose runs may have saved something.
    pub const SAVING: [Self; 4] = [Self::Cleanup, Self::Backup, Self::Migrate, Self::Rollback];
}

/// Where a run stands. The edges between states are in [`crate::run::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Accepted; nobody works on it.
    Queued,
    /// A server holds its lease.
    Running,
    /// Will pause at the next batch boundary.
    Pausing,
    /// Nobody works on it until somebody resumes it. Nothing of it is in flight.
    Paused,
    /// Will end at the next batch boundary.
    Cancelling,
    /// Ended because somebody asked.
    Cancelled,
    /// Nobody works on it, and it will go on.
    Interrupted,
    /// Ended; everything planned is done.
    Succeeded,
    /// Ended with some of it done.
    PartiallySucceeded,
    /// Ended without success.
    Failed,
}

impl RunState {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Cancelling,
        Self::Cancelled,
        Self::Interrupted,
        Self::Succeeded,
        Self::PartiallySucceeded,
        Self::Failed,
    ];

    /// Whether the run has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Cancelled | Self::Succeeded | Self::PartiallySucceeded | Self::Failed
        )
    }

    /// Whether a server holds its lease.
    #[must_use]
    pub fn is_held(self) -> bool {
        matches!(self, Self::Running | Self::Pausing | Self::Cancelling)
    }

    /// Name in stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Succeeded => "succeeded",
            Self::PartiallySucceeded => "partially_succeeded",
            Self::Failed => "failed",
        }
    }
}

/// How a run works. Bounds are the platform's. What is not there in a stored value was not known when it was written, and has
/// its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOptions {
    /// Stop after planning.
    pub dry_run: bool,
    /// Rows per transaction.
    pub batch_rows: u32,
    /// Longest time at work, seconds.
    pub max_execution_seconds: u32,
    /// Work without rests.
    pub full_speed: bool,
    /// Capture the rows of every operation, whether its catalog entry asks for a backup or not.
    #[serde(default)]
    pub capture: bool,
    /// Begin no further operation after one that failed. Left out of stored options where it is false, so that the digest of a
    /// request that does not ask for it stays what it was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stop_on_failure: bool,
    /// Most rows that the whole run may delete; `None` for no limit of its own.
    #[serde(default)]
    pub max_rows: Option<u64>,
    /// Most of one table that the run may delete, millionths of its rows when the run was planned; `None` for no limit of its own. Whole
    /// numbers, so that options can be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_share_millionths: Option<u32>,
    /// Take findings of level WARN that nobody has confirmed otherwise.
    #[serde(default)]
    pub force: bool,
    /// Most rows a second; 0 for no such limit.
    pub max_rows_per_second: u32,
    /// Share of its time that the run is at work, percent; without effect at full speed.
    pub duty_cycle_percent: u32,
    /// Wait in line where another run holds a table.
    pub queue: bool,
    /// A replica that is further behind makes the run wait, seconds; `None` for the default.
    pub max_replica_lag_seconds: Option<u32>,
    /// Make the space of deleted rows reusable after the last step.
    #[serde(default)]
    pub vacuum: bool,
}

impl RunOptions {
    /// Allowed rows per transaction.
    pub const BATCH_ROWS: std::ops::RangeInclusive<u32> = 1..=10_000;
    /// Allowed time limits, seconds.
    pub const MAX_EXECUTION_SECONDS: std::ops::RangeInclusive<u32> = 60..=7_200;
    /// Allowed duty cycles, percent.
    pub const DUTY_CYCLE_PERCENT: std::ops::RangeInclusive<u32> = 1..=100;
    /// Allowed limits for replicas, seconds.
    pub const MAX_REPLICA_LAG_SECONDS: std::ops::RangeInclusive<u32> = 1..=3_600;

    /// The limits that a run begins with.
    #[must_use]
    pub fn limits(&self) -> RunLimits {
        RunLimits {
            batch_rows: self.batch_rows,
            max_rows_per_second: self.max_rows_per_second,
            duty_cycle_percent: if self.full_speed { 100 } else { self.duty_cycle_percent },
        }
    }
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            dry_run: true,
            batch_rows: 1_000,
            max_execution_seconds: 1_800,
            full_speed: false,
            capture: false,
            stop_on_failure: false,
            max_rows: None,
            max_share_millionths: None,
            force: false,
            max_rows_per_second: 0,
            // Measured: rests as long as the batches keep the foreground's p99 where it is when nothing runs.
            duty_cycle_percent: 50,
            queue: false,
            max_replica_lag_seconds: None,
            vacuum: false,
        }
    }
}

/// What can be changed about a run while it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLimits {
    /// Rows per transaction.
    pub batch_rows: u32,
    /// Most rows a second; 0 for no such limit.
    pub max_rows_per_second: u32,
    /// Share of its time that the run is at work, percent; 100 is full speed.
    pub duty_cycle_percent: u32,
}

impl RunLimits {
    /// Whether the run works without rests, and what strains the database does not slow it.
    #[must_use]
    pub fn is_full_speed(&self) -> bool {
        self.duty_cycle_percent >= 100
    }
}

/// A change of limits; what is `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LimitsPatch {
    /// Rows per transaction.
    pub batch_rows: Option<u32>,
    /// Most rows a second; 0 for no such limit.
    pub max_rows_per_second: Option<u32>,
    /// Share of its time that the run is at work, percent.
    pub duty_cycle_percent: Option<u32>,
}

impl LimitsPatch {
    /// The limits with this change.
    #[must_use]
    pub fn applied_to(&self, limits: RunLimits) -> RunLimits {
        RunLimits {
            batch_rows: self.batch_rows.unwrap_or(limits.batch_rows),
            max_rows_per_second: self.max_rows_per_second.unwrap_or(limits.max_rows_per_second),
            duty_cycle_percent: self.duty_cycle_percent.unwrap_or(limits.duty_cycle_percent),
        }
    }
}

/// What stands before a run in the queue of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The run that holds the table, or is to have it first.
    pub run: RunId,
    /// The table.
    pub table: String,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    #[default]
    Pending,
    /// In work.
    Running,
    /// Done.
    Succeeded,
    /// Stopped before its end, or with rows left over.
    Partial,
    /// Ended by an error.
    Failed,
    /// Never begun, and the run has ended or will not come back to it.
    Skipped,
}

/// What one step did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StepReport {
    /// Operation it belongs to.
    pub operation: String,
    /// Name of the rule.
    pub rule: String,
    /// Table it works on.
    pub table: String,
    /// What a cleanup does with the rows, as the catalog calls it; empty in other runs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub action: String,
    /// Where it stands.
    pub state: StepState,
    /// Rows that the plan counted.
    pub rows_planned: u64,
    /// Rows that the scans looked at, 0 where the database does not tell.
    pub rows_examined: u64,
    /// Rows that the scans listed.
    pub rows_matched: u64,
    /// Selected rows deleted or changed; rows put back or proven.
    pub rows_affected: u64,
    /// Rows that went or changed along with them, by table.
    #[serde(default)]
    pub along: Vec<super::backup::Along>,
    /// Rows written to the backup.
    pub rows_captured: u64,
    /// Size of their chunks, compressed, bytes.
    pub captured_bytes: u64,
    /// Committed batches.
    pub batches: u64,
    /// Scans over the table.
    pub passes: u32,
    /// Undo: rows left because something stands in their place.
    pub rows_conflicting: u64,
    /// Rows known to match still at the end.
    pub rows_remaining: u64,
    /// Time at work, milliseconds.
    pub duration_ms: u64,
    /// Why it failed, stopped or was skipped; empty where all is well.
    pub message: String,
}

/// Something a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Stable name in capitals.
    pub code: String,
    /// What happened, with names and numbers.
    pub message: String,
    /// Step it is about.
    pub step: Option<u32>,
}

/// The verdict over a run that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportStatus {
    /// Everything planned is done.
    Success,
    /// Some of it is done.
    PartialSuccess,
    /// Nothing of it can be relied on.
    Failed,
}

/// The slot that a run was started for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledBy {
    /// The schedule.
    pub schedule: super::schedule::ScheduleId,
    /// Its name then.
    pub name: String,
    /// The slot.
    pub slot: Timestamp,
    /// Who was to hear of it then: the rules where the schedule is gone when it ends.
    #[serde(default)]
    pub notify: super::schedule::NotifyRules,
}

/// What a run did: so far, or in the end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Verdict, once the run has ended.
    pub status: Option<ReportStatus>,
    /// One entry for each step.
    pub steps: Vec<StepReport>,
    /// Warnings, at most [`Report::MAX_WARNINGS`].
    pub warnings: Vec<Warning>,
    /// Time at work over all attempts, milliseconds.
    pub duration_ms: u64,
    /// What the catalog said of each operation when the run was accepted.
    #[serde(default)]
    pub operations: Vec<OperationFacts>,
    /// What became of the space of deleted rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub space: Vec<TableSpace>,
    /// A backup of whole tables: what was asked for, and what it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupRecord>,
    /// A restore: what was asked for, and where the rows went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Box<RestoreRecord>>,
    /// Migrations: what was asked for, and what became of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrations: Option<Box<MigrationRecord>>,
    /// Built-in maintenance: what was asked for, and how far each task is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Box<MaintenanceRecord>>,
    /// The slot that it was started for; `None` where somebody called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled: Option<Box<ScheduledBy>>,
    /// Of a run that a schedule started: how large its tables and the database were, and are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizes: Option<Box<SizeRecord>>,
    /// What to do next, where a schedule started it and it has ended: by what it met, and by what its target needs besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<Recommendation>,
}

impl StepReport {
    /// Rows that went or changed along with the selected ones.
    #[must_use]
    pub fn along_count(&self) -> u64 {
        self.along.iter().map(|along| along.deleted + along.nullified).sum()
    }

    /// All rows that the step touched.
    #[must_use]
    pub fn reach(&self) -> u64 {
        self.rows_affected + self.along_count()
    }
}

impl Report {
    /// Most warnings that a report keeps; the event log has all of them.
    pub const MAX_WARNINGS: usize = 100;

    /// Sum of one number over the steps.
    pub fn total(&self, number: impl Fn(&StepReport) -> u64) -> u64 {
        self.steps.iter().map(number).sum()
    }
}

/// One persisted execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// What it does.
    pub kind: RunKind,
    /// Target it works on.
    pub target: String,
    /// Where it stands.
    pub state: RunState,
    /// Why, in one sentence.
    pub state_reason: String,
    /// Operations in the order in which they run.
    pub operations: Vec<String>,
    /// Plan that it executes, or that its source executed.
    pub plan: PlanId,
    /// The run that an undo or a verification is about.
    pub source: Option<RunId>,
    /// The run that undid this one.
    pub undone_by: Option<RunId>,
    /// Options that it was accepted with.
    pub options: RunOptions,
    /// Limits in effect.
    pub limits: RunLimits,
    /// What it waits for while nobody works on it; `None` where no other run stands before it.
    pub waiting: Option<Waiting>,
    /// How often a server took it up; see [`fence`](crate::model::fence) for what an attempt writes under.
    pub attempts: u32,
    /// Its report.
    pub report: Report,
    /// Sequence of its newest event.
    pub last_sequence: u64,
    /// Why somebody asked to cancel it; `None` where nobody did.
    pub cancel_reason: Option<String>,
    /// Why somebody asked to pause it; `None` where nobody did, or it was resumed.
    pub pause_reason: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When work began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Whether its backup was proven, and when that was last tried.
    pub verification: super::backup::Verification,
    /// Principal that started it; empty for runs of versions that did not ask.
    pub started_by: String,
    /// Who approved it so far.
    pub approvals: Vec<Approval>,
    /// Approvals that it needs.
    pub approvals_required: u32,
    /// Until when it may be approved, while it waits for that: no server takes it up, and it holds no table.
    pub approve_until: Option<Timestamp>,
    /// The removal of its backup, where that was decided.
    pub pruned: Option<Pruned>,
}

impl Run {
    /// The backup of the whole database, or of whole tables, that the run made: of a backup once it has succeeded, of a run of migrations
    /// whatever became of them, since it was sealed before they began.
    #[must_use]
    pub fn whole_backup(&self) -> Option<&BackupRecord> {
        let made = match self.kind {
            RunKind::Backup => self.state == RunState::Succeeded,
            RunKind::Migrate | RunKind::Rollback => true,
            RunKind::Cleanup | RunKind::Undo | RunKind::Verify | RunKind::Restore | RunKind::Rehearse | RunKind::Maintain => {
                false
            }
        };
        self.report.backup.as_ref().filter(|record| made && !record.files.is_empty())
    }
}
