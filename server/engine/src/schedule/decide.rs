//! What becomes of the slots that are due: one pure function over a schedule's state and an instant.
//!
//! **At most one slot fires.** A call decides every slot that is due and not decided yet, and names at most one of them to fire: the
//! newest that no window excludes. Those before it are recorded as missed, all of them in one record.
//!
//! **When a slot is due.** At its own instant plus its jitter, which is cut so that it is always before the slot after it: slots begin
//! in their order. A slot is on time up to [`TOLERANCE`] after that; later it is caught up, if [`MisfirePolicy::RunOnce`] says so and
//! `catch_up_seconds` are not over, or missed.
//!
//! **Windows.** A slot in an excluded window is skipped. So is one that would begin in a window now, because it is late: a window is a
//! promise that nothing begins in it.
//!
//! **Gaps.** A time that the clock skips is skipped with it and recorded as that, where the schedule says `gap = skip`.
//!
//! **Overlap.** While the run of the slot before works, a slot is skipped, waits for it, or cancels it. Only one slot waits; while one
//! does, every other is skipped.
//!
//! **A schedule that is paused or disabled** lets slots pass without a record. They are not caught up when it goes on: the next slot is
//! then the next after that moment ([`upcoming`]).
//!
//! **A clock that goes back** decides nothing twice: no slot up to `last_slot` is looked at again.
//!
//! **Bounds.** However long nobody looked, and however often the schedule fires, a call counts at most [`MAX_COUNTED`] slots one by one,
//! and then says "at least"; the newest is found by halving, not by counting.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

use super::{
    calendar::{Exclusion, excluding},
    cron::{Cron, Occurrence, Shift},
    jitter::jitter_of,
};
use crate::model::{
    Run, RunId, RunState,
    schedule::{MisfirePolicy, Overlap, Schedule, ScheduleSpec, SlotOutcome, SlotRecord},
};

/// So late a slot is still on time.
pub const TOLERANCE: SignedDuration = SignedDuration::from_secs(60);
/// Longest time for which slots are caught up, whatever a schedule says: a week, which a schedule of every minute fills with 10,080.
pub const MAX_CATCH_UP_SECONDS: u32 = 7 * 24 * 3_600;
/// Longest jitter.
pub const MAX_JITTER_SECONDS: u32 = 24 * 3_600;
/// So many slots are counted one by one.
pub const MAX_COUNTED: u64 = 100_000;
/// Why a run is cancelled whose slot has a deadline that has come.
pub const DEADLINE_CAME: &str = "the deadline of its slot has come";
/// With less time than this up to its deadline a run is not begun: the shortest time limit of a run.
const SHORTEST_RUN_SECONDS: u32 = *crate::model::RunOptions::MAX_EXECUTION_SECONDS.start();

/// The newest slot that is to fire or has fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousRun {
    /// Its run; `None` where no server has begun it yet.
    pub run: Option<RunId>,
    /// Whether it has ended.
    pub ended: bool,
}

impl PreviousRun {
    /// What there is to wait for.
    fn what(self) -> String {
        match self.run {
            Some(run) => format!("run {run}"),
            None => "an earlier slot, which no server has begun yet,".to_owned(),
        }
    }
}

/// How a slot begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At once.
    Now,
    /// When this run has ended; `None` for that of an earlier slot which no server has begun yet.
    After(Option<RunId>),
    /// When this run, which is to be cancelled as soon as it is there, has ended.
    Cancelling(Option<RunId>),
}

/// A slot that fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// How it begins.
    pub start: Start,
    /// Its record: pending, or waiting.
    pub record: SlotRecord,
}

/// What became of the slots that were due, and what comes next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// The slot that fires.
    pub firing: Option<Firing>,
    /// Records of slots that do not, oldest first. All of them are settled.
    pub passed: Vec<SlotRecord>,
    /// The next slot; `None` where the calendar ends before it.
    pub next_slot: Option<Timestamp>,
    /// When it begins.
    pub next_fire: Option<Timestamp>,
    /// The newest slot that is decided, now or before.
    pub last_slot: Option<Timestamp>,
}

/// A slot to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upcoming {
    /// The slot.
    pub slot: Timestamp,
    /// When it begins.
    pub fire: Timestamp,
}

/// The next slot of a schedule that is created, changed or resumed now: after this moment, and never one that was decided.
#[must_use]
pub fn upcoming(schedule: &Schedule, cron: &Cron, zone: &TimeZone, now: Timestamp) -> Option<Upcoming> {
    let after = schedule.state.last_slot.map_or(now, |last| last.max(now));
    next_from(schedule, cron, zone, after)
}

/// Decides the slots that are due at an instant; see the module.
///
/// `previous` is the run of the newest slot that had one, `waiting` the slot that waits for a run to end.
#[must_use]
pub fn decide(
    schedule: &Schedule,
    cron: &Cron,
    zone: &TimeZone,
    exclusions: &[Exclusion],
    now: Timestamp,
    previous: Option<PreviousRun>,
    waiting: Option<Timestamp>,
) -> Decision {
    let (spec, state) = (&schedule.spec, &schedule.state);
    let nothing = |next: Option<Upcoming>| Decision {
        next_slot: next.map(|next| next.slot),
        next_fire: next.map(|next| next.fire),
        last_slot: state.last_slot,
        ..Decision::default()
    };
    let Some(planned) = state.next_slot.filter(|_| spec.enabled && state.paused.is_none()) else {
        return nothing(upcoming(schedule, cron, zone, now));
    };
    let dst = spec.timing.dst();
    // Strictly after this everything is open. The planned slot itself is the first, unless a clock went back before it.
    let begin = state
        .last_slot
        .map_or(just_before(planned), |last| last.max(just_before(planned)));
    let last_up_to = |until| cron.last_between(zone, dst, begin, until);
    let Some(newest) = due(schedule, cron, zone, now, last_up_to) else {
        return nothing(next_from(schedule, cron, zone, begin));
    };
    let next = next_from(schedule, cron, zone, newest.at);
    let view = View {
        schedule,
        cron,
        zone,
        exclusions,
        now,
    };
    let mut tally = view.count_old(begin, newest.at);
    let recent = cron.occurrences_between(zone, dst, view.recent_from(begin), newest.at, usize::MAX);
    // Newest first: the first that no window excludes is the only one that may fire. Those before it are even later.
    let mut chosen = None;
    let mut following = next.map(|next| next.slot);
    for slot in recent.iter().rev() {
        if chosen.is_none() && slot.fires() && excluding(exclusions, slot.local).is_none() {
            chosen = Some((slot, fire_at(schedule, slot.at, following)));
        } else {
            tally.add(slot, exclusions);
        }
        following = Some(slot.at);
    }
    let mut decision = Decision {
        last_slot: Some(newest.at),
        ..nothing(next)
    };
    let mut why = Lateness::TooLate;
    if let Some((slot, fire)) = chosen {
        match view.lateness(slot.at, fire) {
            Some(late) => {
                why = late;
                tally.missed.add(slot.at, ());
            }
            None => {
                why = Lateness::Superseded(slot.at);
                match view.overlap(slot, previous, waiting) {
                    Ok(firing) => decision.firing = Some(firing),
                    Err(record) => decision.passed.push(*record),
                }
            }
        }
    }
    decision.passed.extend(view.excluded_record(&tally.excluded));
    decision.passed.extend(view.gap_record(&tally.gaps));
    decision.passed.extend(view.missed_record(&tally.missed, why));
    decision.passed.sort_by_key(|record| record.slot);
    decision
}

/// The deadline of the run of a slot.
#[must_use]
pub fn deadline(spec: &ScheduleSpec, slot: Timestamp) -> Option<Timestamp> {
    (spec.deadline_seconds > 0).then(|| later(slot, seconds(spec.deadline_seconds)))
}

/// The deadline of its slot that stopped a run, where one did: whoever counts failures, and whoever tells of them, goes by this.
#[must_use]
pub fn stopped_by(deadline: Option<Timestamp>, run: &Run) -> Option<Timestamp> {
    // The deadline comes by the store's clock, the end is written by a server's.
    let asked = run.cancel_reason.as_deref() == Some(DEADLINE_CAME);
    deadline.filter(|deadline| run.state == RunState::Cancelled && (asked || run.ended_at.is_some_and(|at| at >= *deadline)))
}

/// The last instant at which a slot that nobody has decided may begin, given when it should: a tolerance after that, or as long as it
/// is caught up, and not so near to its deadline that no run fits in.
#[must_use]
pub fn latest_start(spec: &ScheduleSpec, upcoming: Upcoming) -> Timestamp {
    let by_misfire = later(upcoming.fire, allowed_lateness(spec));
    deadline(spec, upcoming.slot).map_or(by_misfire, |deadline| {
        by_misfire.min(earlier(deadline, seconds(SHORTEST_RUN_SECONDS)))
    })
}

/// The time limit of the run of a slot that begins at an instant, seconds: the schedule's own, or what is left up to the deadline;
/// `None` where that is less than any run may have. Also to be asked before a slot that waited begins.
#[must_use]
pub fn time_allowed(spec: &ScheduleSpec, slot: Timestamp, start: Timestamp) -> Option<u32> {
    let limit = spec.options.max_execution_seconds;
    let Some(deadline) = deadline(spec, slot) else {
        return Some(limit);
    };
    let left = start.duration_until(deadline).as_secs().max(0);
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    (left >= SHORTEST_RUN_SECONDS).then(|| left.min(limit))
}

/// Whether so many failures in a row pause a schedule.
#[must_use]
pub fn pauses_after(spec: &ScheduleSpec, consecutive_failures: u32) -> bool {
    spec.pause_after_failures > 0 && consecutive_failures >= spec.pause_after_failures
}

/// When a slot begins: later by its jitter, but always before the slot after it.
#[must_use]
pub fn fire_at(schedule: &Schedule, slot: Timestamp, following: Option<Timestamp>) -> Timestamp {
    let wanted = seconds(schedule.spec.timing.jitter_seconds.min(MAX_JITTER_SECONDS));
    let most = following.map_or(wanted, |following| {
        wanted.min(slot.duration_until(following) - SignedDuration::from_secs(1))
    });
    let jitter = jitter_of(schedule.id.0, slot, most.max(SignedDuration::ZERO).unsigned_abs());
    later(slot, SignedDuration::try_from(jitter).unwrap_or(SignedDuration::ZERO))
}

fn next_from(schedule: &Schedule, cron: &Cron, zone: &TimeZone, after: Timestamp) -> Option<Upcoming> {
    let dst = schedule.spec.timing.dst();
    let slot = cron.next_after(zone, dst, after)?.at;
    let following = cron.next_after(zone, dst, slot).map(|following| following.at);
    Some(Upcoming {
        slot,
        fire: fire_at(schedule, slot, following),
    })
}

/// The newest slot that is due. Of the slots up to now only the last can still wait for its jitter.
fn due(
    schedule: &Schedule,
    cron: &Cron,
    zone: &TimeZone,
    now: Timestamp,
    last_up_to: impl Fn(Timestamp) -> Option<Occurrence>,
) -> Option<Occurrence> {
    let last = last_up_to(now)?;
    let following = cron.next_after(zone, schedule.spec.timing.dst(), last.at);
    if fire_at(schedule, last.at, following.map(|following| following.at)) <= now {
        return Some(last);
    }
    last_up_to(just_before(last.at))
}

/// Slots that come to the same end.
#[derive(Debug)]
struct Tally<T> {
    count: u64,
    first: Timestamp,
    last: Timestamp,
    /// Whether there are more than were counted.
    at_least: bool,
    /// What is known of one of them.
    example: Option<T>,
}

impl<T> Tally<T> {
    const EMPTY: Self = Self {
        count: 0,
        first: Timestamp::MAX,
        last: Timestamp::MIN,
        at_least: false,
        example: None,
    };

    fn add(&mut self, slot: Timestamp, example: T) {
        self.count += 1;
        self.first = self.first.min(slot);
        self.last = self.last.max(slot);
        self.example = Some(example);
    }

    fn what(&self) -> String {
        if self.count == 1 && !self.at_least {
            return "the slot".to_owned();
        }
        let least = if self.at_least { "at least " } else { "" };
        format!("{least}{} slots from {} to {}", self.count, self.first, self.last)
    }
}

struct Tallies {
    excluded: Tally<Exclusion>,
    /// Times that the clock skipped.
    gaps: Tally<Shift>,
    missed: Tally<()>,
}

/// Why slots that no window excludes did not fire.
#[derive(Debug, Clone, Copy)]
enum Lateness {
    /// A newer slot was taken in their place.
    Superseded(Timestamp),
    /// The schedule does not catch up.
    Policy,
    /// It does, but not so late.
    TooLate,
    /// The deadline leaves no time for a run.
    Deadline(Timestamp),
}

/// What a decision looks at.
struct View<'a> {
    schedule: &'a Schedule,
    cron: &'a Cron,
    zone: &'a TimeZone,
    exclusions: &'a [Exclusion],
    now: Timestamp,
}

impl View<'_> {
    /// Strictly after this slots are recent: one of them may fire.
    fn recent_from(&self, begin: Timestamp) -> Timestamp {
        let spec = &self.schedule.spec;
        let jitter = seconds(spec.timing.jitter_seconds.min(MAX_JITTER_SECONDS));
        begin.max(just_before(earlier(self.now, allowed_lateness(spec) + jitter)))
    }

    /// Counts the slots that are not recent, as far as they are counted.
    fn count_old(&self, begin: Timestamp, newest: Timestamp) -> Tallies {
        let mut tally = Tallies {
            excluded: Tally::EMPTY,
            gaps: Tally::EMPTY,
            missed: Tally::EMPTY,
        };
        // A newest slot that is not recent is an old one like the others.
        let until = self.recent_from(begin).min(newest);
        let dst = self.schedule.spec.timing.dst();
        let mut counted = 0;
        for slot in self.cron.walk(self.zone, dst, begin) {
            if slot.at > until {
                return tally;
            }
            if counted == MAX_COUNTED {
                break;
            }
            counted += 1;
            tally.add(&slot, self.exclusions);
        }
        if counted == MAX_COUNTED
            && let Some(last) = self.cron.last_between(self.zone, dst, begin, until)
        {
            // Which of those in between a window excludes is not known; the last one of all stands for their end.
            let local = last.local;
            for (count, at_least) in [
                (tally.excluded.count, &mut tally.excluded.at_least),
                (tally.missed.count, &mut tally.missed.at_least),
            ] {
                *at_least = count > 0;
            }
            match excluding(self.exclusions, local) {
                _ if !last.fires() => tally.add(&last, self.exclusions),
                Some(_) if tally.excluded.count > 0 => tally.excluded.last = last.at,
                None if tally.missed.count > 0 => tally.missed.last = last.at,
                _ => tally.add(&last, self.exclusions),
            }
        }
        tally
    }

    /// Why a slot that is due may not begin now; `None` where it may.
    fn lateness(&self, slot: Timestamp, fire: Timestamp) -> Option<Lateness> {
        let spec = &self.schedule.spec;
        if time_allowed(spec, slot, self.now).is_none() {
            return Some(Lateness::Deadline(deadline(spec, slot)?));
        }
        let late = fire.duration_until(self.now);
        if late <= allowed_lateness(spec) {
            return None;
        }
        Some(match spec.misfire.policy {
            MisfirePolicy::Skip => Lateness::Policy,
            MisfirePolicy::RunOnce => Lateness::TooLate,
        })
    }

    /// How a slot that may begin does so, or the record of one that is let pass.
    fn overlap(
        &self,
        slot: &Occurrence,
        previous: Option<PreviousRun>,
        waiting: Option<Timestamp>,
    ) -> Result<Firing, Box<SlotRecord>> {
        let skipped = |reason: String| Box::new(self.record(slot.at, SlotOutcome::Skipped, reason));
        if let Some(window) = excluding(self.exclusions, self.local_now()) {
            return Err(skipped(format!("it would begin late, in the excluded window {window}")));
        }
        if let Some(waiting) = waiting {
            return Err(skipped(format!("slot {waiting} waits to begin already")));
        }
        let Some(previous) = previous.filter(|previous| !previous.ended) else {
            let late = slot.at.duration_until(self.now);
            let reason = if late > TOLERANCE {
                format!("{} s after its slot", late.as_secs())
            } else {
                String::new()
            };
            return Ok(Firing {
                start: Start::Now,
                record: self.record(slot.at, SlotOutcome::Pending, reason),
            });
        };
        let (run, what) = (previous.run, previous.what());
        let (start, reason) = match self.schedule.spec.overlap {
            Overlap::Skip => {
                return Err(skipped(match run {
                    Some(run) => format!("run {run} of an earlier slot is still going"),
                    None => "an earlier slot is to fire, and no server has begun it yet".to_owned(),
                }));
            }
            Overlap::QueueOne => (Start::After(run), format!("waits for {what} to end")),
            Overlap::CancelOther => (Start::Cancelling(run), format!("cancels {what} and waits for it to end")),
        };
        Ok(Firing {
            start,
            record: self.record(slot.at, SlotOutcome::Waiting, reason),
        })
    }

    fn local_now(&self) -> DateTime {
        self.zone.to_datetime(self.now)
    }

    fn record(&self, slot: Timestamp, kind: SlotOutcome, reason: String) -> SlotRecord {
        SlotRecord {
            schedule: self.schedule.id,
            slot,
            kind,
            reason,
            run: None,
            missed: 1,
            first_slot: slot,
            decided_at: self.now,
            manual: false,
            fired_by: String::new(),
        }
    }

    fn excluded_record(&self, tally: &Tally<Exclusion>) -> Option<SlotRecord> {
        let window = tally.example?;
        let verb = if tally.count == 1 { "lies" } else { "lie" };
        let reason = format!("{} {verb} in an excluded window: {window}", tally.what());
        Some(self.summary(tally, SlotOutcome::Skipped, reason))
    }

    fn gap_record(&self, tally: &Tally<Shift>) -> Option<SlotRecord> {
        let example = tally.example.as_ref()?;
        let reason = if tally.count == 1 {
            example.to_string()
        } else {
            format!("{} are times that the clock skips: {example}", tally.what())
        };
        Some(self.summary(tally, SlotOutcome::Skipped, reason))
    }

    fn missed_record(&self, tally: &Tally<()>, why: Lateness) -> Option<SlotRecord> {
        tally.example?;
        let spec = &self.schedule.spec;
        let why = match why {
            Lateness::Superseded(newer) => format!("the newer slot {newer} was taken"),
            Lateness::Policy => "this schedule does not catch up".to_owned(),
            Lateness::TooLate if spec.misfire.policy == MisfirePolicy::Skip => "this schedule does not catch up".to_owned(),
            Lateness::TooLate => format!("this schedule catches up for {} s", spec.misfire.catch_up_seconds),
            Lateness::Deadline(deadline) => format!("the deadline {deadline} leaves no time for a run"),
        };
        let reason = format!("nobody decided {} in time; {why}", tally.what());
        Some(self.summary(tally, SlotOutcome::Missed, reason))
    }

    fn summary<T>(&self, tally: &Tally<T>, kind: SlotOutcome, reason: String) -> SlotRecord {
        SlotRecord {
            missed: tally.count,
            first_slot: tally.first,
            ..self.record(tally.last, kind, reason)
        }
    }
}

impl Tallies {
    fn add(&mut self, slot: &Occurrence, exclusions: &[Exclusion]) {
        if let Some(shift) = slot.shift.as_ref().filter(|_| !slot.fires()) {
            self.gaps.add(slot.at, shift.clone());
            return;
        }
        match excluding(exclusions, slot.local) {
            Some(window) => self.excluded.add(slot.at, *window),
            None => self.missed.add(slot.at, ()),
        }
    }
}

fn allowed_lateness(spec: &ScheduleSpec) -> SignedDuration {
    match spec.misfire.policy {
        MisfirePolicy::RunOnce => seconds(spec.misfire.catch_up_seconds.min(MAX_CATCH_UP_SECONDS)).max(TOLERANCE),
        MisfirePolicy::Skip => TOLERANCE,
    }
}

fn seconds(seconds: u32) -> SignedDuration {
    SignedDuration::from_secs(i64::from(seconds))
}

fn later(instant: Timestamp, by: SignedDuration) -> Timestamp {
    instant.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn earlier(instant: Timestamp, by: SignedDuration) -> Timestamp {
    instant.checked_sub(by).unwrap_or(Timestamp::MIN)
}

fn just_before(instant: Timestamp) -> Timestamp {
    earlier(instant, SignedDuration::from_nanos(1))
}

#[cfg(test)]
mod tests;
