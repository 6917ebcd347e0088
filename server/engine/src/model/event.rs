//! Entries of a run's event log. The log is persisted and numbered; every stream shows it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    decision::Approval,
    maintenance::MaintenanceProgress,
    migration::MigrationProgress,
    plan::PlanId,
    run::{Report, RunId, RunLimits, RunState, StepReport, Warning},
};

/// Why a run is slower than it could be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// Stable name in capitals.
    pub reason: String,
    /// The measured value that led to it.
    pub value: String,
}

/// Something that began to slow a run, or no longer does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slowdown {
    /// Stable name in capitals.
    pub reason: String,
    /// The measured value, with its unit.
    pub value: String,
    /// The value from which on the reason holds.
    pub threshold: String,
    /// Whether it no longer slows the run.
    pub cleared: bool,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Step in work.
    pub step: u32,
    /// Rows affected in it.
    pub step_affected: u64,
    /// Rows planned in it.
    pub step_planned: u64,
    /// Rows affected in the run.
    pub affected: u64,
    /// Rows planned in the run.
    pub planned: u64,
    /// Rows that the scans looked at.
    pub examined: u64,
    /// Rows that the scans listed.
    pub matched: u64,
    /// Rows captured.
    pub captured: u64,
    /// Size of their chunks, bytes.
    pub captured_bytes: u64,
    /// Share of the current scan that is behind, 0 to 1.
    pub scan_fraction: f64,
    /// Rows a second, averaged.
    pub rows_per_second: f64,
    /// Time to the end at this rate, milliseconds.
    pub eta_ms: Option<u64>,
    /// Committed batches.
    pub batches: u64,
    /// Duration of the newest batch, milliseconds.
    pub batch_ms: u64,
    /// What slows the run.
    pub throttle: Option<Throttle>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventBody {
    /// The run entered a state.
    StateChanged {
        /// State it left; `None` for the first event.
        from: Option<RunState>,
        /// State it entered.
        to: RunState,
        /// Why.
        reason: String,
        /// The report, where `to` is an end.
        report: Option<Report>,
    },
    /// The plan that the run executes.
    PlanReady {
        /// Its id.
        plan: PlanId,
        /// Its token, for dry runs.
        token: Option<String>,
        /// Rows that it counted, for each step.
        step_counts: Vec<u64>,
    },
    /// A step begins, or goes on.
    StepStarted {
        /// Position in the plan.
        step: u32,
        /// Number of steps.
        of: u32,
        /// Operation it belongs to.
        operation: String,
        /// Name of the rule.
        rule: String,
        /// Table.
        table: String,
        /// Rows planned.
        planned: u64,
        /// Rows that earlier attempts have affected.
        done: u64,
    },
    /// How far it is.
    Progress(Progress),
    /// A step ended.
    StepFinished {
        /// Position in the plan.
        step: u32,
        /// What it did.
        report: StepReport,
    },
    /// Something to look at.
    Warning(Warning),
    /// Somebody approved the run.
    Approved {
        /// By whom and when.
        approval: Approval,
        /// Approvals so far, this one among them.
        approvals: u32,
        /// Approvals that it needs.
        required: u32,
    },
    /// Somebody changed the limits.
    LimitsChanged {
        /// Who, as callers name themselves; empty in logs of versions that did not note it.
        principal: String,
        /// Limits until then.
        before: RunLimits,
        /// Limits from the next boundary on.
        after: RunLimits,
    },
    /// Something began to slow the run, or no longer does.
    Throttled(Slowdown),
    /// How far an act on whole tables is.
    Maintenance(MaintenanceProgress),
    /// How far a migration is.
    Migration(MigrationProgress),
}

/// One entry of a run's event log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Run it belongs to.
    pub run: RunId,
    /// Position in the log, from 1, without gaps.
    pub sequence: u64,
    /// When it happened, by the clock of the server that worked on the run.
    pub at: Timestamp,
    /// What happened.
    pub body: EventBody,
}

impl Event {
    /// Whether nothing comes after this event.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(&self.body, EventBody::StateChanged { to, .. } if to.is_final())
    }
}
