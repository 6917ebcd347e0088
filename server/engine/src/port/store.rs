//! dbkeep's own control store: plans, runs, leases and event logs. Several servers may share one.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::model::{Event, EventBody, Plan, PlanId, Report, Run, RunId, RunKind, RunState};

/// A failure of the control store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or did not answer in time.
    #[error("the control store is unavailable: {0}")]
    Unavailable(String),
    /// The attempt does not hold the run any more.
    #[error("another attempt holds the run")]
    Fenced,
    /// It holds something that this version cannot read.
    #[error("the control store holds unreadable data: {0}")]
    Corrupt(String),
}

/// A run to be accepted.
#[derive(Debug, Clone)]
pub struct CreateRun {
    /// The run, in state queued (or in a final state, for a dry run).
    pub run: Run,
    /// Tables that it needs for itself, as the database names them.
    pub tables: Vec<String>,
    /// Makes the call idempotent.
    pub request_id: String,
    /// Tells whether a second call with the same id asks for the same.
    pub request_digest: String,
    /// First entries of its log, before the `StateChanged` event that the store adds.
    pub events: Vec<EventBody>,
}

/// What became of it.
#[derive(Debug, Clone)]
pub enum Created {
    /// It was accepted.
    Accepted(Run),
    /// The same request was accepted before; this is its run.
    Repeated(Run),
    /// The request id was used before for something else.
    RequestIdReused(RunId),
    /// A run that has not ended needs one of the tables.
    Held {
        /// That run.
        run: RunId,
        /// The table.
        table: String,
    },
    /// The backup that it is about was pruned.
    SourcePruned {
        /// The run that made the backup.
        source: RunId,
        /// When.
        at: Timestamp,
    },
}

/// Which runs to list; an empty part does not filter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunFilter {
    /// Target.
    pub target: Option<String>,
    /// Any of these states.
    pub states: Vec<RunState>,
    /// Any of these kinds.
    pub kinds: Vec<RunKind>,
    /// An operation among the run's.
    pub operation: Option<String>,
    /// Accepted at or after.
    pub created_after: Option<Timestamp>,
    /// Only runs that captured rows, and backups of whole tables that succeeded.
    pub captured: bool,
}

/// A run taken up by a server.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The run, in state running; or cancelling, where somebody asked while nobody worked on it.
    pub run: Run,
    /// Fence of this attempt, larger than that of every attempt before.
    pub fence: u64,
}

/// Answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Why somebody asked to cancel the run; `None` where nobody did.
    pub cancel_reason: Option<String>,
}

/// What the end of a run means for the run that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceMark {
    /// Its rows are back.
    Undone,
    /// Its backup was proven.
    Verified,
    /// Its backup is damaged.
    Damaged,
}

/// What an attempt writes in one transaction.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// The report so far.
    pub report: Option<Report>,
    /// New entries of the log, in order.
    pub events: Vec<EventBody>,
    /// New state with its reason, entered after those entries. The store adds the `StateChanged` event, since only it knows
    /// the state that is left. Final states and `Interrupted` give the lease back, final states also the tables.
    pub state: Option<(RunState, String)>,
    /// What it means for the run's source.
    pub source_mark: Option<SourceMark>,
}

/// A stretch of an event log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventPage {
    /// Events in order.
    pub events: Vec<Event>,
    /// Sequence of the oldest event that is kept; larger than the one asked for where history was trimmed.
    pub first_kept: u64,
    /// Sequence of the newest event.
    pub last: u64,
}

/// dbkeep's control store. Every act is one transaction.
#[async_trait]
pub trait Store: Send + Sync {
    /// Keeps a plan.
    async fn put_plan(&self, plan: &Plan) -> Result<(), StoreError>;

    /// A plan by its id.
    async fn plan(&self, id: PlanId) -> Result<Option<Plan>, StoreError>;

    /// Accepts a run, unless the request was seen before or a table is held.
    async fn create_run(&self, request: &CreateRun) -> Result<Created, StoreError>;

    /// The run that a request started, with the digest of that request.
    async fn run_of_request(&self, request_id: &str) -> Result<Option<(RunId, String)>, StoreError>;

    /// A run by its id.
    async fn run(&self, id: RunId) -> Result<Option<Run>, StoreError>;

    /// Runs, newest first, older than `before` where given.
    async fn runs(&self, filter: &RunFilter, before: Option<RunId>, limit: u32) -> Result<Vec<Run>, StoreError>;

    /// Gives the oldest run that nobody works on to `holder` for `term`: queued, interrupted, or with a lease that lapsed.
    /// Runs of the targets in `skip` are passed over.
    async fn claim(&self, holder: &str, term: Duration, skip: &[String]) -> Result<Option<Grant>, StoreError>;

    /// Prolongs a lease.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where another attempt holds the run.
    async fn renew(&self, run: RunId, fence: u64, term: Duration) -> Result<Renewal, StoreError>;

    /// Lets every lease lapse now. Called at start by a server that knows that it is the only one.
    async fn release_all(&self) -> Result<(), StoreError>;

    /// Writes what an attempt did; returns the events with their sequences.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] where another attempt holds the run, or the run's state does not allow the new one.
    async fn update(&self, run: RunId, fence: u64, update: &Update) -> Result<Vec<Event>, StoreError>;

    /// Records that somebody asked to cancel. A queued run ends at once; an interrupted one when the next attempt has read what
    /// it did. Returns the run as it is then;
    /// one that has ended is returned unchanged.
    async fn request_cancel(&self, run: RunId, reason: &str) -> Result<Option<Run>, StoreError>;

    /// Decides that the backup of a run goes. From then on [`Store::create_run`] accepts no run about it. Returns false, and
    /// decides nothing, where the run has not ended, or one about it has not; true also where that was decided before.
    async fn begin_prune(&self, run: RunId) -> Result<bool, StoreError>;

    /// Notes that nothing of the backup is left.
    async fn end_prune(&self, run: RunId) -> Result<(), StoreError>;

    /// Events after a sequence.
    async fn events(&self, run: RunId, after: u64, limit: u32) -> Result<EventPage, StoreError>;
}
