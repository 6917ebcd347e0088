//! What the control store keeps for monitoring: the newest snapshot of each target, the history of its metrics, and alerts. Part of
//! every [`Store`](super::Store).
//!
//! **Who collects.** One server collects a target at a time, by a claim that ends by itself; a server that was stopped and wakes up with an
//! old claim writes nothing.
//!
//! **Size.** History is bounded by time and by rows: raw samples for a day, five minutes for a month, hours for two years
//! ([`crate::monitor::history`]). [`Metrics::roll_up`] makes the coarser ones and removes what is too old, a bounded number of rows at a time.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::store::StoreError;
use crate::model::{
    Decision, RunId, RunKind, RunState,
    monitor::{Alert, AlertId, AlertState, Metric, Sample, Snapshot},
    notice::Envelope,
};

/// The right to collect a target (or, with an empty name, this server's own numbers) until the term is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectClaim {
    /// The target.
    pub target: String,
    /// Larger than that of every claim before.
    pub fence: u64,
}

/// What collecting brought.
#[derive(Debug, Clone)]
pub struct Collected {
    /// The snapshot; `None` where the target could not be reached, or for a server's own numbers.
    pub snapshot: Option<Snapshot>,
    /// What history keeps of it.
    pub samples: Vec<Sample>,
}

/// How fine a history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// As collected.
    Raw,
    /// Five minutes.
    FiveMinutes,
    /// An hour.
    Hour,
}

/// What is asked of history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The target; empty for servers.
    pub target: String,
    /// The metric.
    pub metric: Metric,
    /// Only of this object; `None` for every one.
    pub object: Option<String>,
    /// From then on.
    pub from: Timestamp,
    /// Before then.
    pub to: Timestamp,
    /// How fine.
    pub step: Step,
    /// Most points.
    pub limit: u32,
}

/// A point of history: an interval that begins then.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Of which table, replica, slot, server or folder; empty for the target as a whole.
    pub object: String,
    /// Begin of the interval.
    pub at: Timestamp,
    /// Samples in it.
    pub samples: u64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Mean over the samples.
    pub mean: f64,
    /// The last one in it.
    pub last: f64,
}

/// The newest collection of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// The target.
    pub target: String,
    /// When it was written, by the store's clock.
    pub at: Timestamp,
    /// Whether the target was reached.
    pub up: bool,
    /// Its place among all changes of collections and alerts, in the order in which they became visible.
    pub revision: u64,
}

/// How full history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryUsage {
    /// Series: metrics of objects.
    pub series: u64,
    /// Most series; further objects have no history until others are forgotten.
    pub max_series: u64,
    /// Points of all steps.
    pub points: u64,
    /// Most points; beyond them the oldest go before their time, raw ones first.
    pub max_points: u64,
    /// When points were last removed before their time.
    pub trimmed_at: Option<Timestamp>,
}

/// Runs that have ended in one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedRuns {
    /// Their target.
    pub target: String,
    /// Their kind.
    pub kind: RunKind,
    /// How they ended.
    pub state: RunState,
    /// How many.
    pub runs: u64,
}

/// What a look at the conditions changes, written in one transaction with what people are told.
#[derive(Debug, Clone, Default)]
pub struct AlertChanges {
    /// Alerts that are new or changed, as they stand from now on.
    pub put: Vec<Alert>,
    /// Alerts that go on much as they were: noted, and no change that watchers get.
    pub seen: Vec<Alert>,
    /// Alerts that are forgotten: pending ones that passed.
    pub drop: Vec<AlertId>,
    /// What people are told.
    pub envelopes: Vec<Envelope>,
}

/// Which alerts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertFilter {
    /// Only of this target.
    pub target: Option<String>,
    /// Only in these states; all where empty.
    pub states: Vec<AlertState>,
    /// Only before this one, newest first.
    pub before: Option<AlertId>,
    /// Most.
    pub limit: u32,
}

/// How the backups of a target stand: those whose removal was not decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupStanding {
    /// How many there are.
    pub kept: u64,
    /// When the oldest was made; `None` where there is none.
    pub oldest: Option<Timestamp>,
    /// The newest.
    pub newest: Option<RunId>,
    /// When one of them was last found to be whole.
    pub proven: Option<Timestamp>,
    /// How many were damaged when somebody looked last.
    pub damaged: u64,
    /// The newest of those.
    pub newest_damaged: Option<RunId>,
}

/// What the control store keeps for monitoring.
#[async_trait]
pub trait Metrics: Send + Sync {
    /// Claims the collection of a target for `term`, where nobody else holds it or the holder is this server. `None`: another has it.
    /// Collected before `due` ago means not due: also `None`.
    async fn claim_collection(
        &self,
        target: &str,
        server: &str,
        term: Duration,
        due: Duration,
    ) -> Result<Option<CollectClaim>, StoreError>;

    /// Writes what was collected under a claim: the newest snapshot and the samples, at the store's time. False where a newer claim exists:
    /// nothing was written.
    async fn put_collected(&self, claim: &CollectClaim, collected: &Collected) -> Result<bool, StoreError>;

    /// The newest snapshot of a target, with the time of the store's clock at which it was written.
    async fn newest_snapshot(&self, target: &str) -> Result<Option<(Timestamp, Snapshot)>, StoreError>;

    /// The newest sample of each metric and object of a target that is not older than `age`.
    async fn newest_samples(&self, target: &str, age: Duration) -> Result<Vec<(Timestamp, Sample)>, StoreError>;

    /// History, oldest first, by object and time.
    async fn history(&self, query: &HistoryQuery) -> Result<Vec<Point>, StoreError>;

    /// Makes coarser points of those that are complete, and removes at most `rows` rows that are too old. True where more is left to do.
    async fn roll_up(&self, rows: u32) -> Result<bool, StoreError>;

    /// The revision of the newest change of collections and alerts; 0 before the first. Cheap: asked once a second by every server.
    async fn monitor_revision(&self) -> Result<u64, StoreError>;

    /// Collections of targets whose revision is larger, by revision.
    async fn collections(&self, after: u64) -> Result<Vec<Collection>, StoreError>;

    /// Alerts that changed after a revision, each once with its newest revision, by revision. Pending ones that passed are not among them.
    async fn alerts_after(&self, after: u64, limit: u32) -> Result<Vec<(u64, Alert)>, StoreError>;

    /// How full history is.
    async fn history_usage(&self) -> Result<HistoryUsage, StoreError>;

    /// How many runs have ever ended, by target, kind and final state, in that order. No run is ever forgotten: it only grows.
    async fn ended_runs(&self) -> Result<Vec<EndedRuns>, StoreError>;

    /// How the backups of a target stand that are kept, however many there are.
    async fn backup_standing(&self, target: &str) -> Result<BackupStanding, StoreError>;

    /// Alerts, newest first.
    async fn alerts(&self, filter: &AlertFilter) -> Result<Vec<Alert>, StoreError>;

    /// An alert by its id.
    async fn alert(&self, id: AlertId) -> Result<Option<Alert>, StoreError>;

    /// Writes changes where the claim is still the newest, all of them or none. False: it is not. An acknowledgement that was made meanwhile
    /// stays.
    async fn change_alerts(&self, claim: &CollectClaim, changes: &AlertChanges) -> Result<bool, StoreError>;

    /// Notes that somebody looks after an alert, with the decision. `None` where it is not there; repeating changes nothing.
    async fn acknowledge_alert(
        &self,
        id: AlertId,
        by: &str,
        note: &str,
        decision: &Decision,
    ) -> Result<Option<Alert>, StoreError>;
}
