//! What the control store keeps for schedules: the schedules, what became of their slots, the switch that stops them all, and the
//! servers that work with the store. Part of every [`Store`](super::Store).
//!
//! **A slot fires once.** A slot is a row that is unique in its schedule, and [`Schedules::decide_slots`] writes it in one transaction
//! with the schedule's next slot, only where nobody changed the schedule since it was read. To fire it a server claims the row for a
//! term; [`create_run`](super::Store::create_run) accepts the run and marks the slot in one transaction, only where the claim is still
//! the newest. A server that was stopped in between, and wakes up after another has gone on, starts nothing.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::store::StoreError;
use crate::model::{
    Decision, RunId, Schedule, ScheduleId, ScheduleState, SchedulerSwitch, ServerInfo, ServerSeen, SlotOutcome, SlotRecord,
};

/// A schedule as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The schedule.
    pub schedule: Schedule,
    /// Goes up with every write of spec or state; a write names the one that it was made from.
    pub version: u64,
}

/// A schedule to be created.
#[derive(Debug, Clone)]
pub struct CreateSchedule {
    /// The schedule.
    pub schedule: Schedule,
    /// Makes the call idempotent; empty for none.
    pub request_id: String,
    /// Tells whether a second call with the same id asks for the same.
    pub request_digest: String,
    /// Who asked, recorded in the same transaction.
    pub decision: Decision,
}

/// What became of it.
#[derive(Debug, Clone)]
pub enum ScheduleCreated {
    /// It is there.
    Made,
    /// The same request made it before.
    Repeated(Box<Schedule>),
    /// The request id was used before for something else.
    RequestIdReused,
    /// Another schedule has the name.
    NameTaken(ScheduleId),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It is made.
    Done,
    /// Somebody else was first: nothing was changed.
    Outrun,
    /// Another schedule has the new name: nothing was changed.
    NameTaken,
}

/// One look at everything that might have to be done. Cheap, however many schedules there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulse {
    /// The store's clock, by which slots are decided: servers whose clocks differ agree on it.
    pub now: Timestamp,
    /// Whether slots are decided.
    pub running: bool,
    /// When the next slot begins, over all schedules.
    pub next_fire: Option<Timestamp>,
    /// Slots decided to fire whose run is not there, and that nobody has claimed.
    pub pending: u64,
    /// Slots that wait for a run to end.
    pub waiting: u64,
    /// Slots whose run works.
    pub fired: u64,
}

/// What there is to do of one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scheduled {
    /// Its schedules.
    pub schedules: u64,
    /// Slots of them that were decided to fire, or fired, and have not ended.
    pub open_slots: u64,
    /// When the next of them fires.
    pub next_fire: Option<Timestamp>,
}

/// The slots of a schedule that have not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenSlots {
    /// The newest that is to fire or has fired, with its run where that is there.
    pub previous: Option<(Timestamp, Option<RunId>)>,
    /// The one that waits.
    pub waiting: Option<Timestamp>,
}

/// A claimed slot: the right to fire it until the term is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotClaim {
    /// The schedule.
    pub schedule: ScheduleId,
    /// The slot.
    pub slot: Timestamp,
    /// Larger than that of every claim before.
    pub fence: u64,
    /// The etag of the schedule that was read: a run of another is not begun under this claim.
    pub etag: u64,
}

/// A slot that a server has claimed.
#[derive(Debug, Clone)]
pub struct SlotGrant {
    /// The right.
    pub claim: SlotClaim,
    /// The record as it stands.
    pub record: SlotRecord,
    /// Its schedule.
    pub kept: Kept,
}

/// What became of a person's call to fire a schedule.
#[derive(Debug, Clone)]
pub enum FiredNow {
    /// A slot is recorded, now or by the same call before, and claimed for the caller.
    Granted(Box<SlotGrant>),
    /// The same call recorded this slot before; it has ended, or somebody else has claimed it.
    Repeated(Box<SlotRecord>),
    /// The name of the call was used for another schedule.
    RequestIdReused,
    /// A slot of the schedule has not ended, or the schedule is gone.
    Busy,
}

/// A slot that has not ended, with its schedule.
#[derive(Debug, Clone)]
pub struct EndedSlot {
    /// The record as it stands.
    pub record: SlotRecord,
    /// Its schedule.
    pub kept: Kept,
}

/// How a slot ends, and what that means for its schedule: one transaction.
#[derive(Debug, Clone)]
pub struct SlotEnd {
    /// The schedule as it was read.
    pub kept: Kept,
    /// The slot.
    pub slot: Timestamp,
    /// What the slot must be now, or nothing happens.
    pub from: SlotOutcome,
    /// The claim that it must be under, where `from` is pending.
    pub fence: Option<u64>,
    /// What becomes of it.
    pub to: SlotOutcome,
    /// Why.
    pub reason: String,
    /// The schedule's state after that.
    pub state: ScheduleState,
    /// Whether the call by which a person fired it may be made again, and then fires anew: what was in the way may pass.
    pub call_again: bool,
}

/// Which slots to list; an empty part does not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotFilter {
    /// Of this schedule.
    pub schedule: Option<ScheduleId>,
    /// With one of these outcomes.
    pub outcomes: Vec<SlotOutcome>,
}

/// A place among slots: by time, those of one instant by schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPlace {
    /// The slot.
    pub slot: Timestamp,
    /// Its schedule.
    pub schedule: ScheduleId,
}

/// The part of a control store that schedules need. Every act is one transaction.
#[async_trait]
pub trait Schedules: Send + Sync {
    /// Creates a schedule, unless its name is taken or the request was seen before.
    async fn create_schedule(&self, request: &CreateSchedule) -> Result<ScheduleCreated, StoreError>;

    /// Creates the schedules that a target's catalog declares and that were never created for it, whatever became of them since;
    /// returns the names that were created. A name that is taken counts as created.
    async fn seed_schedules(&self, target: &str, schedules: &[Schedule]) -> Result<Vec<String>, StoreError>;

    /// A schedule by its id or its name.
    async fn schedule(&self, key: &str) -> Result<Option<Kept>, StoreError>;

    /// Schedules by name, after one where given.
    async fn schedules(&self, target: Option<&str>, after: Option<&str>, limit: u32) -> Result<Vec<Schedule>, StoreError>;

    /// Writes a schedule's spec and state, with who asked for it, and with what became of slots that pass because of it.
    async fn change_schedule(&self, changed: &Kept, passed: &[SlotRecord], decision: &Decision) -> Result<Changed, StoreError>;

    /// Removes a schedule with its slots, with who asked for it. False where it was changed since it was read.
    async fn delete_schedule(&self, kept: &Kept, decision: &Decision) -> Result<bool, StoreError>;

    /// One look at what might have to be done.
    async fn pulse(&self) -> Result<Pulse, StoreError>;

    /// What there is to do of one target.
    async fn scheduled(&self, target: &str) -> Result<Scheduled, StoreError>;

    /// Schedules whose next slot begins at or before an instant, the longest overdue first.
    async fn due_schedules(&self, now: Timestamp, limit: u32) -> Result<Vec<Kept>, StoreError>;

    /// The slots of a schedule that have not ended.
    async fn open_slots(&self, schedule: ScheduleId) -> Result<OpenSlots, StoreError>;

    /// Records what became of slots, together with the schedule's new state. False, and nothing is changed, where the schedule was
    /// changed since it was read: another server was first, or somebody edited it.
    async fn decide_slots(&self, kept: &Kept, state: &ScheduleState, records: &[SlotRecord]) -> Result<bool, StoreError>;

    /// Lets slots that wait fire, where no slot of their schedule is to fire or has a run that works. Returns how many.
    async fn release_waiting(&self) -> Result<u64, StoreError>;

    /// Gives a slot that is to fire, and that nobody has claimed, to `holder` for `term`: of the schedules of these targets, those that were
    /// claimed least first, and of these the oldest. One that is tried again and again keeps no other waiting. With `only_by_hand` only slots
    /// that a person fired: the switch that stops schedules does not stop people.
    async fn claim_slot(
        &self,
        holder: &str,
        term: Duration,
        targets: &[String],
        only_by_hand: bool,
    ) -> Result<Option<SlotGrant>, StoreError>;

    /// Records a slot that a person fires now, already claimed by `holder`, and with it the decision. `request` names the call, so that it
    /// fires once however often it is made: made again, it records nothing, and has the slot of the first, claimed for it where nobody holds that
    /// any more. Empty for none.
    async fn fire_now(
        &self,
        schedule: ScheduleId,
        request: &str,
        holder: &str,
        term: Duration,
        decision: &Decision,
    ) -> Result<FiredNow, StoreError>;

    /// Prolongs a claim, or lets it lapse after so long. False where it is not the newest any more.
    async fn hold_slot(&self, claim: SlotClaim, term: Duration) -> Result<bool, StoreError>;

    /// Fired slots whose runs have ended, or are gone, oldest first.
    async fn ended_slots(&self, limit: u32) -> Result<Vec<EndedSlot>, StoreError>;

    /// Fired slots whose deadline has come, and whose runs work and were not asked to stop, the longest overdue first.
    async fn overdue_slots(&self, now: Timestamp, limit: u32) -> Result<Vec<EndedSlot>, StoreError>;

    /// Slots that wait for a run to end, with their schedules, oldest first.
    async fn waiting_slots(&self, limit: u32) -> Result<Vec<EndedSlot>, StoreError>;

    /// Slots that are to fire, and that nobody has claimed so long after they were decided, in the order of their places, from behind one on
    /// where given.
    async fn unclaimed_slots(&self, since: Duration, behind: Option<SlotPlace>, limit: u32)
    -> Result<Vec<EndedSlot>, StoreError>;

    /// Ends a slot. False, and nothing is changed, where the slot or the schedule is not as it was read.
    async fn settle_slot(&self, settlement: &SlotEnd) -> Result<bool, StoreError>;

    /// Slots, newest first, from behind a place on where given.
    async fn slots(&self, filter: &SlotFilter, behind: Option<SlotPlace>, limit: u32) -> Result<Vec<SlotRecord>, StoreError>;

    /// The switch that stops all schedules, and how many schedules there are.
    async fn switch(&self) -> Result<(SchedulerSwitch, u64), StoreError>;

    /// Sets the switch, with who asked for it.
    async fn set_switch(&self, switch: &SchedulerSwitch, decision: &Decision) -> Result<(), StoreError>;

    /// A server's sign of life, with what its clock says. Forgets servers that have given none for a day.
    async fn beat(&self, server: &ServerInfo, clock: Timestamp) -> Result<(), StoreError>;

    /// Takes a server off the list, which stops in order.
    async fn farewell(&self, id: &str) -> Result<(), StoreError>;

    /// Servers, the newest start first; alive are those that gave a sign of life within `term`.
    async fn servers(&self, term: Duration) -> Result<Vec<ServerSeen>, StoreError>;
}
