//! Runs: one persisted execution of a plan, an undo or a verification, and its report.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    maintenance::{BackupRecord, Pruned, RestoreRecord, TableSpace},
    plan::PlanId,
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
}

impl RunKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Cleanup, Self::Undo, Self::Verify, Self::Backup, Self::Restore];
}

/// Where a run stands. The edges between states are in [`crate::run::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Accepted; nobody works on it.
    Queued,
    /// A server holds its lease.
    Running,
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
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Running,
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

    /// Name in stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Succeeded => "succeeded",
            Self::PartiallySucceeded => "partially_succeeded",
            Self::Failed => "failed",
        }
    }
}

/// How a run works. Bounds are the platform's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOptions {
    /// Stop after planning.
    pub dry_run: bool,
    /// Rows per transaction.
    pub batch_rows: u32,
    /// Longest time at work, seconds.
    pub max_execution_seconds: u32,
    /// Work without rests.
    pub full_speed: bool,
    /// Make the space of deleted rows reusable after the last step.
    #[serde(default)]
    pub vacuum: bool,
}

impl RunOptions {
    /// Allowed rows per transaction.
    pub const BATCH_ROWS: std::ops::RangeInclusive<u32> = 1..=10_000;
    /// Allowed time limits, seconds.
    pub const MAX_EXECUTION_SECONDS: std::ops::RangeInclusive<u32> = 60..=7_200;
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            dry_run: true,
            batch_rows: 1_000,
            max_execution_seconds: 1_800,
            full_speed: false,
            vacuum: false,
        }
    }
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
    /// Where it stands.
    pub state: StepState,
    /// Rows that the plan counted.
    pub rows_planned: u64,
    /// Rows that the scans looked at, 0 where the database does not tell.
    pub rows_examined: u64,
    /// Rows that the scans listed.
    pub rows_matched: u64,
    /// Rows deleted, put back or proven.
    pub rows_affected: u64,
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
    /// Why it failed or stopped; empty where all is well.
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
    /// What became of the space of deleted rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub space: Vec<TableSpace>,
    /// A backup of whole tables: what was asked for, and what it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupRecord>,
    /// A restore: what was asked for, and where the rows went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreRecord>,
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
    /// Options in effect.
    pub options: RunOptions,
    /// How often a server took it up; also the fence of the newest attempt.
    pub attempts: u32,
    /// Its report.
    pub report: Report,
    /// Sequence of its newest event.
    pub last_sequence: u64,
    /// Why somebody asked to cancel it; `None` where nobody did.
    pub cancel_reason: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When work began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Whether its backup was proven, and when that was last tried.
    pub verification: super::backup::Verification,
    /// The removal of its backup, where that was decided.
    pub pruned: Option<Pruned>,
}
