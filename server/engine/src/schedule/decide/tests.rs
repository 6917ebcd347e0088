use jiff::{Timestamp, tz::TimeZone};
use uuid::Uuid;

use super::*;
use crate::{
    model::schedule::{CronFields, Misfire, NotifyRules, Pause, ScheduleId, ScheduleOptions, ScheduleState, Timing, Work},
    schedule::cron::ASKED,
};

fn at(text: &str) -> Timestamp {
    text.parse().expect("an instant")
}

fn cron(expression: &str) -> Cron {
    Cron::parse(&CronFields::from_expression(expression).expect(expression)).expect(expression)
}

fn windows(texts: &[&str]) -> Vec<Exclusion> {
    texts.iter().map(|text| Exclusion::parse(text).expect(text)).collect()
}

/// A schedule of every day at 02:00 UTC, whose next slot is the 10th of March.
fn schedule() -> Schedule {
    Schedule {
        id: ScheduleId(Uuid::from_u128(7)),
        etag: 1,
        spec: ScheduleSpec {
            name: "daily".to_owned(),
            description: String::new(),
            target: "main".to_owned(),
            work: Work::Operations(vec!["old_logs".to_owned()]),
            timing: Timing {
                cron: CronFields::from_expression("0 2 * * *").expect("fields"),
                ..Timing::default()
            },
            enabled: true,
            options: ScheduleOptions::default(),
            overlap: Overlap::Skip,
            misfire: Misfire::default(),
            pause_after_failures: 0,
            deadline_seconds: 0,
            notify: NotifyRules::default(),
        },
        state: ScheduleState {
            next_slot: Some(at("2026-03-10T02:00:00Z")),
            next_fire: Some(at("2026-03-10T02:00:00Z")),
            last_slot: Some(at("2026-03-09T02:00:00Z")),
            ..ScheduleState::default()
        },
        created_at: Timestamp::UNIX_EPOCH,
        created_by: "ada".to_owned(),
        updated_at: Timestamp::UNIX_EPOCH,
        updated_by: "ada".to_owned(),
    }
}

fn run() -> RunId {
    RunId(Uuid::from_u128(99))
}

fn decided(schedule: &Schedule, exclusions: &[&str], now: &str, previous: Option<bool>, waiting: Option<&str>) -> Decision {
    let cron = Cron::parse(&schedule.spec.timing.cron).expect("fields");
    let previous = previous.map(|ended| PreviousRun { run: Some(run()), ended });
    decide(
        schedule,
        &cron,
        &TimeZone::UTC,
        &windows(exclusions),
        at(now),
        previous,
        waiting.map(at),
    )
}

/// A decision in a few words: what fires and how, then what passed.
fn told(decision: &Decision) -> Vec<String> {
    let day = |instant: Timestamp| instant.strftime("%d %H:%M").to_string();
    let fires = decision.firing.iter().map(|firing| {
        let how = match firing.start {
            Start::Now => "now",
            Start::After(after) if after == Some(run()) => "after",
            Start::Cancelling(other) if other == Some(run()) => "cancelling",
            other => panic!("{other:?}"),
        };
        let kind = if firing.start == Start::Now {
            SlotOutcome::Pending
        } else {
            SlotOutcome::Waiting
        };
        assert_eq!(firing.record.kind, kind);
        assert_eq!((firing.record.missed, firing.record.run), (1, None));
        format!("fires {how}: {}", day(firing.record.slot))
    });
    let passed = decision.passed.iter().map(|record| {
        assert!(record.kind.is_settled() && !record.reason.is_empty() && !record.manual);
        assert!(record.first_slot <= record.slot);
        let first = if record.missed == 1 {
            assert_eq!(record.first_slot, record.slot);
            String::new()
        } else {
            format!("{} of {} to ", record.missed, day(record.first_slot))
        };
        format!("{}: {first}{}", record.kind.name(), day(record.slot))
    });
    fires.chain(passed).collect()
}

/// Where a schedule can stand when it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Situation {
    NotYet,
    OnTime,
    WithinTolerance,
    WithinCatchUp,
    BeyondCatchUp,
    ManyMissedNewestOnTime,
    ManyMissedNewestWithinCatchUp,
    ManyMissedNewestTooLate,
    ClockBack,
    Paused,
    Disabled,
    Excluded,
    LateIntoAWindow,
}

impl Situation {
    const ALL: [Self; 13] = [
        Self::NotYet,
        Self::OnTime,
        Self::WithinTolerance,
        Self::WithinCatchUp,
        Self::BeyondCatchUp,
        Self::ManyMissedNewestOnTime,
        Self::ManyMissedNewestWithinCatchUp,
        Self::ManyMissedNewestTooLate,
        Self::ClockBack,
        Self::Paused,
        Self::Disabled,
        Self::Excluded,
        Self::LateIntoAWindow,
    ];

    fn now(self) -> &'static str {
        match self {
            Self::NotYet => "2026-03-10T01:59:59.999Z",
            Self::OnTime | Self::Paused | Self::Disabled | Self::Excluded => "2026-03-10T02:00:00Z",
            Self::WithinTolerance => "2026-03-10T02:01:00Z",
            Self::WithinCatchUp => "2026-03-10T03:00:00Z",
            Self::BeyondCatchUp => "2026-03-10T03:00:00.001Z",
            Self::ManyMissedNewestOnTime => "2026-03-14T02:00:30Z",
            Self::ManyMissedNewestWithinCatchUp => "2026-03-14T02:30:00Z",
            Self::ManyMissedNewestTooLate => "2026-03-14T12:00:00Z",
            Self::ClockBack => "2026-03-08T02:00:00Z",
            Self::LateIntoAWindow => "2026-03-10T02:50:00Z",
        }
    }

    fn windows(self) -> &'static [&'static str] {
        match self {
            Self::Excluded => &["2026-03-10"],
            Self::LateIntoAWindow => &["MON-SUN 02:45-02:55"],
            _ => &[],
        }
    }

    /// The slot that would fire if nothing stood in its way, and what passed before it.
    fn expected(self, catches_up: bool) -> (Option<&'static str>, Vec<String>) {
        let missed = |text: &str| vec![format!("missed: {text}")];
        match self {
            Self::NotYet | Self::ClockBack | Self::Paused | Self::Disabled => (None, vec![]),
            Self::OnTime | Self::WithinTolerance => (Some("10 02:00"), vec![]),
            Self::WithinCatchUp if catches_up => (Some("10 02:00"), vec![]),
            Self::WithinCatchUp | Self::BeyondCatchUp => (None, missed("10 02:00")),
            Self::ManyMissedNewestOnTime => (Some("14 02:00"), missed("4 of 10 02:00 to 13 02:00")),
            Self::ManyMissedNewestWithinCatchUp if catches_up => (Some("14 02:00"), missed("4 of 10 02:00 to 13 02:00")),
            Self::ManyMissedNewestWithinCatchUp | Self::ManyMissedNewestTooLate => (None, missed("5 of 10 02:00 to 14 02:00")),
            Self::Excluded => (None, vec!["skipped: 10 02:00".to_owned()]),
            Self::LateIntoAWindow if catches_up => (None, vec!["skipped: 10 02:00".to_owned()]),
            Self::LateIntoAWindow => (None, missed("10 02:00")),
        }
    }

    fn next_slot(self) -> &'static str {
        match self {
            Self::NotYet | Self::ClockBack => "2026-03-10T02:00:00Z",
            Self::ManyMissedNewestOnTime | Self::ManyMissedNewestWithinCatchUp | Self::ManyMissedNewestTooLate => {
                "2026-03-15T02:00:00Z"
            }
            _ => "2026-03-11T02:00:00Z",
        }
    }
}

/// What there is of the run before: nothing, one that has ended, one that works, one that works with a slot waiting for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Ended,
    Running,
    RunningAndOneQueued,
}

#[test]
fn every_policy_in_every_situation() {
    let mut decided_in_all = 0;
    for overlap in [Overlap::Skip, Overlap::QueueOne, Overlap::CancelOther] {
        for policy in [MisfirePolicy::RunOnce, MisfirePolicy::Skip] {
            for situation in Situation::ALL {
                for before in [Before::Nothing, Before::Ended, Before::Running, Before::RunningAndOneQueued] {
                    let case = format!("{overlap:?}, {policy:?}, {situation:?}, {before:?}");
                    let mut schedule = schedule();
                    schedule.spec.overlap = overlap;
                    schedule.spec.misfire.policy = policy;
                    schedule.spec.enabled = situation != Situation::Disabled;
                    schedule.state.paused = (situation == Situation::Paused).then(|| Pause {
                        by: "ada".to_owned(),
                        at: Timestamp::UNIX_EPOCH,
                        note: String::new(),
                        automatic: false,
                    });
                    let previous = match before {
                        Before::Nothing => None,
                        Before::Ended => Some(true),
                        Before::Running | Before::RunningAndOneQueued => Some(false),
                    };
                    let waiting = (before == Before::RunningAndOneQueued).then_some("2026-03-09T02:00:00Z");
                    let decision = decided(&schedule, situation.windows(), situation.now(), previous, waiting);

                    let (fires, mut expected) = situation.expected(policy == MisfirePolicy::RunOnce);
                    if let Some(slot) = fires {
                        match (before, overlap) {
                            (Before::Nothing | Before::Ended, _) => expected.insert(0, format!("fires now: {slot}")),
                            (Before::Running, Overlap::QueueOne) => expected.insert(0, format!("fires after: {slot}")),
                            (Before::Running, Overlap::CancelOther) => expected.insert(0, format!("fires cancelling: {slot}")),
                            (Before::Running, Overlap::Skip) | (Before::RunningAndOneQueued, _) => {
                                expected.push(format!("skipped: {slot}"));
                            }
                        }
                    }
                    assert_eq!(told(&decision), expected, "{case}");
                    assert_eq!(decision.next_slot, Some(at(situation.next_slot())), "{case}");
                    assert_eq!(decision.next_fire, decision.next_slot, "{case}: no jitter");
                    let nothing_decided = fires.is_none() && expected.is_empty();
                    let last = if nothing_decided {
                        schedule.state.last_slot
                    } else {
                        // The slot before the next one.
                        decision.next_slot.map(|next| earlier(next, SignedDuration::from_hours(24)))
                    };
                    assert_eq!(decision.last_slot, last, "{case}");

                    // What was decided is decided: looked at again with the new state, nothing is due.
                    schedule.state.next_slot = decision.next_slot;
                    schedule.state.next_fire = decision.next_fire;
                    schedule.state.last_slot = decision.last_slot;
                    let again = decided(&schedule, situation.windows(), situation.now(), previous, waiting);
                    assert_eq!(told(&again), Vec::<String>::new(), "{case}, again");
                    assert_eq!(again.next_slot, decision.next_slot, "{case}, again");
                    decided_in_all += 1;
                }
            }
        }
    }
    assert_eq!(decided_in_all, 3 * 2 * 13 * 4);
}

#[test]
fn reasons_name_what_stood_in_the_way() {
    let reasons = |decision: Decision| -> Vec<String> { decision.passed.into_iter().map(|record| record.reason).collect() };
    let daily = schedule();
    assert_eq!(
        reasons(decided(&daily, &[], "2026-03-10T12:00:00Z", None, None)),
        ["nobody decided the slot in time; this schedule catches up for 3600 s"]
    );
    assert_eq!(
        reasons(decided(&daily, &[], "2026-03-14T02:00:00Z", Some(false), None)),
        [
            "nobody decided 4 slots from 2026-03-10T02:00:00Z to 2026-03-13T02:00:00Z in time; the newer slot 2026-03-14T02:00:00Z was taken"
                .to_owned(),
            format!("run {} of an earlier slot is still going", run()),
        ]
    );
    assert_eq!(
        reasons(decided(
            &daily,
            &[],
            "2026-03-10T02:00:00Z",
            Some(false),
            Some("2026-03-09T02:00:00Z")
        )),
        ["slot 2026-03-09T02:00:00Z waits to begin already"]
    );
    assert_eq!(
        reasons(decided(
            &daily,
            &["2026-03-09..2026-03-11"],
            "2026-03-10T02:00:00Z",
            None,
            None
        )),
        ["the slot lies in an excluded window: 2026-03-09..2026-03-11"]
    );
    let late = decided(&daily, &[], "2026-03-10T02:10:00Z", None, None)
        .firing
        .expect("caught up");
    assert_eq!(late.record.reason, "600 s after its slot");
    let mut skipping = schedule();
    skipping.spec.misfire.policy = MisfirePolicy::Skip;
    assert_eq!(
        reasons(decided(&skipping, &[], "2026-03-10T02:10:00Z", None, None)),
        ["nobody decided the slot in time; this schedule does not catch up"]
    );
}

/// In Berlin 02:30 does not exist on 2026-03-29: with `gap = skip` nothing fires for it, and that is on record.
#[test]
fn a_time_that_the_clock_skips_is_on_record() {
    let mut schedule = schedule();
    schedule.spec.timing.timezone = "Europe/Berlin".to_owned();
    schedule.spec.timing.gap = crate::model::GapPolicy::Skip;
    let cron = cron("30 2 * * *");
    let zone = TimeZone::get("Europe/Berlin").expect("a zone");
    let planned = upcoming(&schedule, &cron, &zone, at("2026-03-28T12:00:00Z")).expect("a slot");
    schedule.state.last_slot = None;
    schedule.state.next_slot = Some(planned.slot);
    schedule.state.next_fire = Some(planned.fire);
    for (now, fires) in [("2026-03-29T01:00:00Z", false), ("2026-03-30T00:30:30Z", true)] {
        let decision = decide(&schedule, &cron, &zone, &[], at(now), None, None);
        assert_eq!(decision.firing.is_some(), fires, "{decision:?}");
        let [skipped] = &decision.passed[..] else {
            panic!("one record: {decision:?}")
        };
        assert_eq!(
            (skipped.kind, skipped.slot),
            (SlotOutcome::Skipped, at("2026-03-29T01:00:00Z"))
        );
        assert!(
            skipped.reason.starts_with("02:30 does not exist on 2026-03-29") && skipped.reason.contains("gap = skip"),
            "{}",
            skipped.reason
        );
    }
}

/// A slot that no server has begun yet is no run, and is not told of as one.
#[test]
fn a_slot_that_is_not_begun_yet_has_a_reason_of_its_own() {
    let mut schedule = schedule();
    let cron = Cron::parse(&schedule.spec.timing.cron).expect("fields");
    let previous = Some(PreviousRun { run: None, ended: false });
    for (overlap, expected) in [
        (Overlap::Skip, "an earlier slot is to fire, and no server has begun it yet"),
        (
            Overlap::QueueOne,
            "waits for an earlier slot, which no server has begun yet, to end",
        ),
        (
            Overlap::CancelOther,
            "cancels an earlier slot, which no server has begun yet, and waits for it to end",
        ),
    ] {
        schedule.spec.overlap = overlap;
        let now = schedule.state.next_fire.expect("a next slot");
        let decision = decide(&schedule, &cron, &TimeZone::UTC, &[], now, previous, None);
        let record = decision
            .firing
            .map(|firing| firing.record)
            .or(decision.passed.into_iter().next());
        assert_eq!(record.expect("a record").reason, expected);
    }
}

#[test]
fn the_newest_slot_that_no_window_excludes_is_caught_up() {
    let mut hourly = schedule();
    hourly.spec.timing.cron = CronFields::from_expression("0 * * * *").expect("fields");
    hourly.spec.misfire.catch_up_seconds = 12 * 3_600;
    // 2026-03-10 is a Tuesday. The server was down from before 02:00 to 17:30, and most of that is excluded.
    let decision = decided(&hourly, &["MON-FRI 08:00-17:30"], "2026-03-10T17:30:00Z", None, None);
    assert_eq!(
        told(&decision),
        [
            "fires now: 10 07:00",
            "missed: 5 of 10 02:00 to 10 06:00",
            "skipped: 10 of 10 08:00 to 10 17:00"
        ]
    );
    assert_eq!(
        decision.last_slot,
        Some(at("2026-03-10T17:00:00Z")),
        "the skipped ones are decided, too"
    );
    assert_eq!(decision.next_slot, Some(at("2026-03-10T18:00:00Z")));
    // Inside the window nothing begins, however long it may be caught up.
    let inside = decided(&hourly, &["MON-FRI 08:00-17:30"], "2026-03-10T17:29:59Z", None, None);
    assert_eq!(
        told(&inside),
        [
            "missed: 5 of 10 02:00 to 10 06:00",
            "skipped: 10 07:00",
            "skipped: 10 of 10 08:00 to 10 17:00"
        ]
    );
}

#[test]
fn a_slot_waits_for_its_jitter_and_is_never_overtaken_by_it() {
    let mut jittered = schedule();
    jittered.spec.timing.cron = CronFields::from_expression("* * * * *").expect("fields");
    // Far more than the minute to the next slot.
    jittered.spec.timing.jitter_seconds = 3_600;
    let minutes = cron("* * * * *");
    let mut now = at("2026-03-10T01:59:30Z");
    let mut previous_fire = Timestamp::MIN;
    let mut delays = std::collections::BTreeSet::new();
    for number in 0..200 {
        let next = upcoming(&jittered, &minutes, &TimeZone::UTC, now).expect("one");
        jittered.state.next_slot = Some(next.slot);
        jittered.state.next_fire = Some(next.fire);
        assert!(next.fire >= next.slot && next.slot.duration_until(next.fire) < SignedDuration::from_mins(1));
        assert!(next.fire > previous_fire, "in order");
        previous_fire = next.fire;
        delays.insert(next.slot.duration_until(next.fire).as_millis());
        let look = |instant| decide(&jittered, &minutes, &TimeZone::UTC, &[], instant, None, None);
        let early = look(earlier(next.fire, SignedDuration::from_millis(1)));
        assert_eq!(early.firing, None, "{number}");
        assert_eq!((early.next_slot, early.next_fire), (Some(next.slot), Some(next.fire)));
        assert_eq!(early.last_slot, jittered.state.last_slot);
        let due = look(next.fire);
        assert_eq!(due.firing.expect("due").record.slot, next.slot, "{number}");
        assert_eq!(due.passed, []);
        jittered.state.last_slot = due.last_slot;
        now = next.slot;
    }
    assert!(delays.len() > 150, "{} different delays", delays.len());
}

#[test]
fn a_slot_that_still_waits_for_its_jitter_is_not_swept_along() {
    let mut jittered = schedule();
    jittered.spec.timing.jitter_seconds = 6 * 3_600;
    let daily = cron("0 2 * * *");
    let slot = at("2026-03-12T02:00:00Z");
    let fire = fire_at(&jittered, slot, Some(at("2026-03-13T02:00:00Z")));
    assert!(fire > slot);
    // Two slots were missed, the third is at hand but not due.
    let decision = decide(&jittered, &daily, &TimeZone::UTC, &[], just_before(fire), None, None);
    assert_eq!(decision.firing, None);
    assert_eq!(decision.last_slot, Some(at("2026-03-11T02:00:00Z")));
    assert_eq!((decision.next_slot, decision.next_fire), (Some(slot), Some(fire)));
    assert_eq!(told(&decision), ["missed: 2 of 10 02:00 to 11 02:00"]);
    // Late is counted from when it should have begun.
    let in_time = decide(&jittered, &daily, &TimeZone::UTC, &[], later(fire, TOLERANCE), None, None);
    assert_eq!(told(&in_time), ["fires now: 12 02:00", "missed: 2 of 10 02:00 to 11 02:00"]);
}

#[test]
fn a_clock_that_goes_back_decides_nothing_twice() {
    let mut schedule = schedule();
    // A clock that was ahead decided the 12th, and the state says so in spite of an older next slot.
    schedule.state.last_slot = Some(at("2026-03-12T02:00:00Z"));
    for now in [
        "2026-03-10T02:00:00Z",
        "2026-03-11T02:00:00Z",
        "2026-03-12T02:00:00Z",
        "2026-03-12T23:00:00Z",
    ] {
        let decision = decided(&schedule, &[], now, None, None);
        assert_eq!(told(&decision), Vec::<String>::new(), "{now}");
        assert_eq!(decision.next_slot, Some(at("2026-03-13T02:00:00Z")), "{now}");
        assert_eq!(decision.last_slot, schedule.state.last_slot);
    }
    let decision = decided(&schedule, &[], "2026-03-13T02:00:00Z", None, None);
    assert_eq!(told(&decision), ["fires now: 13 02:00"]);
    let daily = cron("0 2 * * *");
    let resumed = upcoming(&schedule, &daily, &TimeZone::UTC, at("2026-03-10T12:00:00Z")).expect("one");
    assert_eq!(resumed.slot, at("2026-03-13T02:00:00Z"), "also when it is resumed");
}

#[test]
fn a_schedule_that_was_never_planned_begins_now() {
    let mut fresh = schedule();
    fresh.state = ScheduleState::default();
    let decision = decided(&fresh, &[], "2026-03-10T12:00:00Z", None, None);
    assert_eq!(told(&decision), Vec::<String>::new());
    assert_eq!(decision.next_slot, Some(at("2026-03-11T02:00:00Z")));
    assert_eq!(decision.last_slot, None);
    // After the end of the calendar nothing is planned, and nothing fails.
    let over = decided(&fresh, &[], "2100-12-31T12:00:00Z", None, None);
    assert_eq!((over.next_slot, over.next_fire), (None, None));
}

#[test]
fn a_deadline_shortens_a_run_and_ends_its_chance() {
    let mut schedule = schedule();
    schedule.spec.deadline_seconds = 1_200;
    schedule.spec.misfire.catch_up_seconds = 7_200;
    let slot = at("2026-03-10T02:00:00Z");
    let allowed = |now: &str| time_allowed(&schedule.spec, slot, at(now));
    assert_eq!(allowed("2026-03-10T02:00:00Z"), Some(1_200), "under its own limit of 1800");
    assert_eq!(allowed("2026-03-10T02:10:00Z"), Some(600));
    assert_eq!(allowed("2026-03-10T02:19:00Z"), Some(60));
    assert_eq!(allowed("2026-03-10T02:19:01Z"), None, "no run is that short");
    let planned = Upcoming { slot, fire: slot };
    assert_eq!(latest_start(&schedule.spec, planned), at("2026-03-10T02:19:00Z"));
    let in_time = decided(&schedule, &[], "2026-03-10T02:19:00Z", None, None);
    assert_eq!(told(&in_time), ["fires now: 10 02:00"]);
    let over = decided(&schedule, &[], "2026-03-10T02:19:01Z", None, None);
    assert_eq!(told(&over), ["missed: 10 02:00"]);
    assert_eq!(
        over.passed[0].reason,
        "nobody decided the slot in time; the deadline 2026-03-10T02:20:00Z leaves no time for a run"
    );
    schedule.spec.deadline_seconds = 0;
    assert_eq!(deadline(&schedule.spec, slot), None);
    assert_eq!(time_allowed(&schedule.spec, slot, at("2027-01-01T00:00:00Z")), Some(1_800));
    assert_eq!(latest_start(&schedule.spec, planned), at("2026-03-10T04:00:00Z"));
    schedule.spec.misfire.policy = MisfirePolicy::Skip;
    assert_eq!(latest_start(&schedule.spec, planned), at("2026-03-10T02:01:00Z"));
}

#[test]
fn failures_in_a_row_pause_where_that_is_asked_for() {
    let mut schedule = schedule();
    assert!(!pauses_after(&schedule.spec, u32::MAX), "0 is never");
    schedule.spec.pause_after_failures = 3;
    assert_eq!(
        [2, 3, 4].map(|failures| pauses_after(&schedule.spec, failures)),
        [false, true, true]
    );
}

/// Ten years of minutes are 5,259,600 slots. Counted is what the calendar was asked, not the time that it took.
#[test]
fn ten_years_without_a_server_are_decided_in_bounded_work() {
    let mut minutely = schedule();
    minutely.spec.timing.cron = CronFields::from_expression("* * * * *").expect("fields");
    let now = "2036-03-10T02:00:20Z";
    let before = ASKED.get();
    let decision = decided(&minutely, &["SAT,SUN", "MON-FRI 08:00-18:00"], now, None, None);
    let asked = ASKED.get() - before;
    println!("the calendar was asked {asked} times");
    assert!(asked < MAX_COUNTED + 2_000, "asked {asked} times");
    assert_eq!(
        decision.firing.as_ref().expect("the newest").record.slot,
        at("2036-03-10T02:00:00Z")
    );
    assert_eq!(decision.next_slot, Some(at("2036-03-10T02:01:00Z")));
    assert_eq!(
        decision.passed.len(),
        2,
        "one record of what was missed, one of what was excluded"
    );
    for record in &decision.passed {
        assert!(record.reason.contains("at least"), "{}", record.reason);
        assert!(
            record.missed > 10_000 && record.missed <= MAX_COUNTED + 61,
            "{}",
            record.missed
        );
    }
    let missed = decision.passed.last().expect("the missed");
    assert_eq!(
        (missed.kind, missed.first_slot, missed.slot),
        (SlotOutcome::Missed, at("2026-03-10T02:00:00Z"), at("2036-03-10T01:59:00Z"))
    );

    // Without a catch-up, and where the newest slot is far back, it is bounded as well.
    minutely.spec.misfire.policy = MisfirePolicy::Skip;
    minutely.spec.timing.cron = CronFields::from_expression("* * * 1-2 *").expect("fields");
    let before = ASKED.get();
    let decision = decided(&minutely, &[], "2036-12-31T00:00:00Z", None, None);
    assert!(ASKED.get() - before < MAX_COUNTED + 2_000);
    assert_eq!(decision.firing, None);
    let [missed] = &decision.passed[..] else {
        panic!("one record")
    };
    assert_eq!(
        (missed.first_slot, missed.slot),
        (at("2027-01-01T00:00:00Z"), at("2036-02-29T23:59:00Z"))
    );
    assert_eq!(missed.missed, MAX_COUNTED);

    // The longest catch-up is bounded, whatever is stored.
    minutely.spec.misfire = Misfire {
        catch_up_seconds: u32::MAX,
        policy: MisfirePolicy::RunOnce,
    };
    minutely.spec.timing.cron = CronFields::from_expression("* * * * *").expect("fields");
    let before = ASKED.get();
    let decision = decided(&minutely, &[], now, None, None);
    assert!(ASKED.get() - before < MAX_COUNTED + 12_000);
    assert!(decision.firing.is_some() && decision.passed.len() == 1);
}

#[test]
fn counts_are_exact_below_the_bound() {
    let mut minutely = schedule();
    minutely.spec.timing.cron = CronFields::from_expression("* * * * *").expect("fields");
    // Two days and a minute: 2,882 slots up to now, the last of which fires.
    let decision = decided(&minutely, &[], "2026-03-12T02:01:00Z", None, None);
    assert_eq!(
        told(&decision),
        ["fires now: 12 02:01", "missed: 2881 of 10 02:00 to 12 02:00"]
    );
    assert!(!decision.passed[0].reason.contains("at least"));
}
