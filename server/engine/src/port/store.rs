//! dbkeep's own control store: plans, runs, leases and event logs. Several servers may share one.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    audit::AuditLog,
    ladder::Ladder,
    metrics::Metrics,
    migrator::Proofs,
    outbox::Outbox,
    schedules::{Schedules, SlotClaim},
    tokens::Tokens,
};
use crate::model::{Decision, Event, EventBody, LimitsPatch, Plan, PlanId, Report, Run, RunId, RunKind, RunLimits, RunState};

/// Longest term of a lease or a claim, whatever a server asks for. One that ends later than that from now was given before the clock of the
/// store went back, and has lapsed: nobody waits for as long as the clock leapt. Whoever holds it still, and has not prolonged it yet, is shut out by
/// the fence of the next.
pub const LONGEST_LEASE: Duration = Duration::from_secs(600);

/// A failure of the control store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// Tables that it needs for itself, as the database names them. Where another run has one of them, `run.options.queue` decides
    /// between waiting in line and a refusal.
    pub tables: Vec<String>,
    /// Makes the call idempotent.
    pub request_id: String,
    /// Tells whether a second call with the same id asks for the same.
    pub request_digest: String,
    /// First entries of its log, before the `StateChanged` event that the store adds.
    pub events: Vec<EventBody>,
    /// What lets it through, recorded in the same transaction.
    pub decision: Option<Decision>,
    /// The slot that it is the run of: marked as fired in the same transaction, and only under the newest claim.
    pub slot: Option<SlotClaim>,
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
    /// A run that has not ended has one of the tables, or is to have it first.
    Held {
        /// That run.
        run: RunId,
        /// The table.
        table: String,
        /// Where that run stands.
        state: RunState,
        /// Its operations.
        operations: Vec<String>,
        /// When it was accepted.
        since: Timestamp,
    },
    /// Another server has claimed the slot since, or it has ended.
    SlotLost,
    /// The plan's token has started this run before.
    PlanUsed(RunId),
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
    /// Only runs that a server has worked on, which leaves out dry runs.
    pub attempted: bool,
}

/// A run taken up by a server.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The run, in state running; or cancelling, where somebody asked while nobody worked on it.
    pub run: Run,
    /// Fence of this attempt, larger than that of every attempt before, and no other claim's, see [`fence`](crate::model::fence).
    pub fence: u64,
}

/// Whether the removal of a backup was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PruneBegun {
    /// It was, now or before.
    Begun,
    /// It was not, for this reason.
    Kept(String),
}

/// Answer to a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Why somebody asked to cancel the run; `None` where nobody did.
    pub cancel_reason: Option<String>,
    /// Why somebody asked to pause the run; `None` where nobody did, or the request was taken back.
    pub pause_reason: Option<String>,
    /// Limits in effect.
    pub limits: RunLimits,
}

/// Something that somebody asks of a run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steer {
    /// To pause, for this reason.
    Pause(String),
    /// To go on.
    Resume,
    /// To work within other limits from now on, on behalf of this principal.
    Limits(LimitsPatch, String),
}

/// A request to steer a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SteerRequest {
    /// The run.
    pub run: RunId,
    /// What is asked.
    pub steer: Steer,
    /// Makes the call idempotent; empty for none.
    pub request_id: String,
    /// Tells whether a second call with the same id asks for the same.
    pub request_digest: String,
}

/// What became of it.
#[derive(Debug, Clone)]
pub enum Steered {
    /// The run as it is now. What is asked was recorded, now or before, or was so already.
    Done(Run),
    /// The run's state does not allow it; nothing was changed.
    Refused(Run),
    /// The request id was used before for something else, on this run.
    RequestIdReused(RunId),
    /// There is no such run.
    Unknown,
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
    /// the state that is left. Final states, `Interrupted` and `Paused` give the lease back, final states also the tables.
    pub state: Option<(RunState, String)>,
    /// What it means for the run's source.
    pub source_mark: Option<SourceMark>,
    /// What it found of backups other than its source: proven, or damaged. A backup that was pruned meanwhile is left as it is.
    pub proofs: Vec<(RunId, SourceMark)>,
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
pub trait Store: Ladder + Proofs + Schedules + Outbox + Metrics + Tokens + AuditLog {
    /// Keeps a plan; at least until it has been expired for a month, and for good where a run was accepted by its token.
    async fn put_plan(&self, plan: &Plan) -> Result<(), StoreError>;

    /// A plan by its id.
    async fn plan(&self, id: PlanId) -> Result<Option<Plan>, StoreError>;

    /// Accepts a run, unless the request was seen before, its plan has started another, or a table is held. A run that has to be
    /// approved first (`approve_until`) gets its tables with the last approval.
    /// A run that queues is accepted all the same, holds nothing, and is not granted before it can have all of its tables at once.
    /// It has its place by its id: no later run gets a table that it waits for.
    async fn create_run(&self, request: &CreateRun) -> Result<Created, StoreError>;

    /// The run that a request started, with the digest of that request.
    async fn run_of_request(&self, request_id: &str) -> Result<Option<(RunId, String)>, StoreError>;

    /// A run by its id.
    async fn run(&self, id: RunId) -> Result<Option<Run>, StoreError>;

    /// Runs, newest first, older than `before` where given.
    async fn runs(&self, filter: &RunFilter, before: Option<RunId>, limit: u32) -> Result<Vec<Run>, StoreError>;

    /// Gives the oldest run that nobody works on to `holder` for `term`: queued and not waiting for a table, interrupted, or with
    /// a lease that lapsed.
    /// Runs of the targets in `skip` are passed over, and those that wait for approval.
    async fn claim(&self, holder: &str, term: Duration, skip: &[String]) -> Result<Option<Grant>, StoreError>;

    /// Time until the next lease lapses, by the clock of the store; `None` where no run is held. Those that have lapsed do not count: their
    /// runs can be claimed, or are of a target that is passed over.
    async fn next_lapse(&self) -> Result<Option<Duration>, StoreError>;

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

    /// Records what somebody asks of a run, or finds that the same request did so before. A queued run pauses at once, one that a
    /// server works on at its next boundary, and an interrupted one in its next attempt.
    async fn steer(&self, request: &SteerRequest) -> Result<Steered, StoreError>;

    /// Decides that the backup of a run goes, unless somebody needs it ([`need`](crate::backup::keep::need)), it is being proven, or it is proven
    /// and `keeper`, the newest proven one of its kind, does not stay in its place. From then on [`Store::create_run`] accepts no run about it.
    async fn begin_prune(&self, run: RunId, keeper: Option<RunId>) -> Result<PruneBegun, StoreError>;

    /// Notes that nothing of the backup is left.
    async fn end_prune(&self, run: RunId) -> Result<(), StoreError>;

    /// Events after a sequence.
    async fn events(&self, run: RunId, after: u64, limit: u32) -> Result<EventPage, StoreError>;
}
