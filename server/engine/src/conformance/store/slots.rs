//! Slots: decided once, fired once, settled once, whoever tries it at the same time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::{
    LONG, PATIENCE, SHORT, accept, enter, now, request, run,
    schedules::{decision, made, read, schedule},
};
use crate::{
    model::{Pause, RunId, RunState, ScheduleId, ScheduleState, SchedulerSwitch, SlotOutcome, SlotRecord},
    port::{Changed, CreateRun, Created, FiredNow, Kept, Scheduled, SlotClaim, SlotEnd, SlotFilter, SlotGrant, SlotPlace, Store},
};

pub(super) fn slot(schedule: ScheduleId, slot: Timestamp, kind: SlotOutcome) -> SlotRecord {
    SlotRecord {
        schedule,
        slot,
        kind,
        reason: "due".to_owned(),
        run: None,
        missed: 1,
        first_slot: slot,
        decided_at: now(),
        manual: false,
        fired_by: String::new(),
    }
}

/// An instant of the calendar, so that slots of a case are apart.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn shop() -> Vec<String> {
    vec!["shop".to_owned()]
}

/// A schedule with a slot of this kind.
async fn with_slot(store: &dyn Store, name: &str, target: &str, seconds: i64, kind: SlotOutcome) -> Kept {
    let kept = made(store, &schedule(name, target)).await;
    decide(store, kept.schedule.id, seconds, kind).await;
    read(store, kept.schedule.id).await
}

async fn decide(store: &dyn Store, id: ScheduleId, seconds: i64, kind: SlotOutcome) {
    let kept = read(store, id).await;
    let state = ScheduleState {
        last_slot: Some(at(seconds)),
        ..kept.schedule.state.clone()
    };
    assert!(
        store
            .decide_slots(&kept, &state, &[slot(id, at(seconds), kind)])
            .await
            .unwrap()
    );
}

async fn claim(store: &dyn Store) -> SlotGrant {
    let granted = store.claim_slot("holder", LONG, &shop(), false).await.unwrap();
    granted.expect("a slot is to fire")
}

/// Claims until there is something to claim: claims lapse by the clock of the store, which cannot be moved.
async fn claim_in_time(store: &dyn Store) -> SlotGrant {
    let polled = async {
        loop {
            if let Some(grant) = store.claim_slot("another", LONG, &shop(), false).await.unwrap() {
                return grant;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.expect("the claim lapses")
}

/// The acceptance of a run of a slot.
fn of_slot(claim: SlotClaim) -> CreateRun {
    let asked = run("shop");
    let table = asked.id.to_string();
    CreateRun {
        request_id: format!("slot-{}-{}", claim.schedule, claim.slot.as_millisecond()),
        slot: Some(claim),
        ..request(asked, &[&table])
    }
}

async fn kinds(store: &dyn Store, id: ScheduleId) -> Vec<SlotOutcome> {
    let filter = SlotFilter {
        schedule: Some(id),
        ..SlotFilter::default()
    };
    let found = store.slots(&filter, None, 99).await.unwrap();
    found.into_iter().map(|slot| slot.kind).collect()
}

pub(super) async fn a_slot_is_decided_once(store: Arc<dyn Store>) {
    let kept = made(store.as_ref(), &schedule("nightly", "shop")).await;
    let id = kept.schedule.id;
    let state = ScheduleState {
        next_slot: Some(at(60)),
        next_fire: Some(at(67)),
        last_slot: Some(at(0)),
        ..kept.schedule.state.clone()
    };
    let missed = SlotRecord {
        missed: 70_000,
        first_slot: at(-900),
        reason: "nobody was there".to_owned(),
        ..slot(id, at(-60), SlotOutcome::Missed)
    };
    let pending = slot(id, at(0), SlotOutcome::Pending);
    let records = [missed.clone(), pending.clone()];
    assert!(store.decide_slots(&kept, &state, &records).await.unwrap());
    assert_eq!(read(store.as_ref(), id).await.schedule.state, state);
    let filter = SlotFilter::default();
    assert_eq!(store.slots(&filter, None, 9).await.unwrap(), [pending, missed.clone()]);
    let pulse = store.pulse().await.unwrap();
    assert_eq!(
        (pulse.next_fire, pulse.pending, pulse.waiting, pulse.fired),
        (Some(at(67)), 1, 0, 0)
    );
    let of_target = Scheduled {
        schedules: 1,
        open_slots: 1,
        next_fire: Some(at(67)),
    };
    assert_eq!(store.scheduled("shop").await.unwrap(), of_target);
    assert_eq!(store.scheduled("another").await.unwrap(), Scheduled::default());
    // From what was read before: another was first.
    assert!(
        !store
            .decide_slots(&kept, &state, &[slot(id, at(60), SlotOutcome::Pending)])
            .await
            .unwrap()
    );
    // From what is there now, but a slot that is on record stays as it is.
    let kept = read(store.as_ref(), id).await;
    assert!(
        store
            .decide_slots(&kept, &state, &[slot(id, at(-60), SlotOutcome::Pending)])
            .await
            .unwrap()
    );
    assert_eq!(kinds(store.as_ref(), id).await, [SlotOutcome::Pending, SlotOutcome::Missed]);
    let open = store.open_slots(id).await.unwrap();
    assert_eq!((open.previous, open.waiting), (Some((at(0), None)), None));
}

pub(super) async fn one_of_many_deciders_is_first(store: Arc<dyn Store>) {
    let kept = made(store.as_ref(), &schedule("nightly", "shop")).await;
    let deciders = (0..8).map(|_| {
        let (store, kept) = (Arc::clone(&store), kept.clone());
        let records = [slot(kept.schedule.id, at(0), SlotOutcome::Pending)];
        tokio::spawn(async move { store.decide_slots(&kept, &kept.schedule.state, &records).await.unwrap() })
    });
    let first = join_all(deciders).await.into_iter().filter(|first| *first.as_ref().unwrap());
    assert_eq!(first.count(), 1);
    assert_eq!(kinds(store.as_ref(), kept.schedule.id).await, [SlotOutcome::Pending]);
}

pub(super) async fn each_slot_has_one_claimer(store: Arc<dyn Store>) {
    for number in 0..6 {
        with_slot(store.as_ref(), &number.to_string(), "shop", 0, SlotOutcome::Pending).await;
    }
    let claimers = (0..12).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.claim_slot(&number.to_string(), LONG, &shop(), false).await.unwrap() })
    });
    let granted: Vec<SlotGrant> = join_all(claimers)
        .await
        .into_iter()
        .filter_map(|grant| grant.unwrap())
        .collect();
    // A claimer may find that the one that it wanted is somebody else's now, and go without: nothing is given twice.
    let distinct: BTreeSet<ScheduleId> = granted.iter().map(|grant| grant.claim.schedule).collect();
    assert_eq!(distinct.len(), granted.len());
    let mut rest = 0;
    while store.claim_slot("rest", LONG, &shop(), false).await.unwrap().is_some() {
        rest += 1;
    }
    assert_eq!(granted.len() + rest, 6);
    assert_eq!(
        store.pulse().await.unwrap().pending,
        0,
        "those that are claimed are nobody else's to fire"
    );
}

pub(super) async fn slots_that_were_claimed_least_go_first(store: Arc<dyn Store>) {
    let old = with_slot(store.as_ref(), "old", "shop", 0, SlotOutcome::Pending).await;
    let new = with_slot(store.as_ref(), "new", "shop", 60, SlotOutcome::Pending).await;
    let first = claim(store.as_ref()).await;
    assert_eq!(
        (first.claim.schedule, first.record.slot),
        (old.schedule.id, at(0)),
        "the oldest"
    );
    assert_eq!(first.kept, old, "with its schedule");
    // Tried in vain, it goes behind those that nobody has tried.
    assert!(store.hold_slot(first.claim, Duration::ZERO).await.unwrap());
    assert_eq!(claim(store.as_ref()).await.claim.schedule, new.schedule.id);
    assert_eq!(claim_in_time(store.as_ref()).await.claim.schedule, old.schedule.id);
}

pub(super) async fn slots_of_other_targets_are_left_alone(store: Arc<dyn Store>) {
    with_slot(store.as_ref(), "elsewhere", "other", 0, SlotOutcome::Pending).await;
    let here = with_slot(store.as_ref(), "here", "shop", 60, SlotOutcome::Pending).await;
    assert!(store.claim_slot("holder", LONG, &[], false).await.unwrap().is_none());
    assert_eq!(claim(store.as_ref()).await.claim.schedule, here.schedule.id);
    assert!(store.claim_slot("holder", LONG, &shop(), false).await.unwrap().is_none());
    let both = ["shop".to_owned(), "other".to_owned()];
    assert!(store.claim_slot("holder", LONG, &both, false).await.unwrap().is_some());
}

pub(super) async fn a_lapsed_claim_is_given_again_and_starts_nothing(store: Arc<dyn Store>) {
    let kept = with_slot(store.as_ref(), "nightly", "shop", 0, SlotOutcome::Pending).await;
    let asleep = store
        .claim_slot("asleep", SHORT, &shop(), false)
        .await
        .unwrap()
        .expect("a slot")
        .claim;
    let awake = claim_in_time(store.as_ref()).await.claim;
    assert!(awake.fence > asleep.fence);
    // The one that slept past its term wakes up.
    assert!(!store.hold_slot(asleep, LONG).await.unwrap());
    let late = store.create_run(&of_slot(asleep)).await.unwrap();
    assert!(matches!(late, Created::SlotLost), "{late:?}");
    let settled = store
        .settle_slot(&end(read(store.as_ref(), kept.schedule.id).await, asleep))
        .await
        .unwrap();
    assert!(!settled);
    assert!(
        store.runs(&Default::default(), None, 9).await.unwrap().is_empty(),
        "nothing was started"
    );
    accept(store.as_ref(), &of_slot(awake)).await;
    assert_eq!(kinds(store.as_ref(), kept.schedule.id).await, [SlotOutcome::Fired]);
}

pub(super) async fn slots_that_nobody_claims_are_found(store: Arc<dyn Store>) {
    let mut kept = Vec::new();
    for (number, target) in ["shop", "nobodys", "nobodys"].into_iter().enumerate() {
        let seconds = i64::try_from(number).unwrap() * 60;
        kept.push(with_slot(store.as_ref(), &number.to_string(), target, seconds, SlotOutcome::Pending).await);
    }
    with_slot(store.as_ref(), "waits", "nobodys", 0, SlotOutcome::Waiting).await;
    let claimed = claim(store.as_ref()).await;
    let found = async |since, behind, limit| -> Vec<SlotPlace> {
        let found = store.unclaimed_slots(since, behind, limit).await.unwrap();
        let place = |found: &crate::port::EndedSlot| {
            assert_eq!(found.record.schedule, found.kept.schedule.id);
            SlotPlace {
                slot: found.record.slot,
                schedule: found.record.schedule,
            }
        };
        found.iter().map(place).collect()
    };
    let place = |number: usize, seconds| SlotPlace {
        slot: at(seconds),
        schedule: kept[number].schedule.id,
    };
    let all = found(Duration::ZERO, None, 9).await;
    assert_eq!(all, [place(1, 60), place(2, 120)], "not what is claimed, nor what waits");
    assert_eq!(found(Duration::ZERO, None, 1).await, all[..1]);
    assert_eq!(found(Duration::ZERO, Some(all[0]), 1).await, all[1..]);
    assert!(found(LONG, None, 9).await.is_empty(), "they are young");
    // A claim that is given up is nobody's either.
    assert!(store.hold_slot(claimed.claim, Duration::ZERO).await.unwrap());
    let polled = async {
        while found(Duration::ZERO, None, 9).await.len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.expect("the claim lapses");
}

pub(super) async fn a_change_takes_its_records_along(store: Arc<dyn Store>) {
    let kept = made(store.as_ref(), &schedule("nightly", "shop")).await;
    let id = kept.schedule.id;
    let skipped = slot(id, at(0), SlotOutcome::Skipped);
    let mut changed = kept.clone();
    changed.schedule.etag += 1;
    let records = std::slice::from_ref(&skipped);
    assert_eq!(
        store.change_schedule(&changed, records, &decision("pause")).await.unwrap(),
        Changed::Done
    );
    assert_eq!(store.slots(&SlotFilter::default(), None, 9).await.unwrap(), [skipped]);
    // From what was read before nothing is changed, and nothing is on record.
    let late = [slot(id, at(60), SlotOutcome::Missed)];
    assert_eq!(
        store.change_schedule(&kept, &late, &decision("pause")).await.unwrap(),
        Changed::Outrun
    );
    assert_eq!(kinds(store.as_ref(), id).await, [SlotOutcome::Skipped]);
}

/// A claimed slot that is refused.
fn end(kept: Kept, claim: SlotClaim) -> SlotEnd {
    SlotEnd {
        state: ScheduleState {
            consecutive_failures: 1,
            ..kept.schedule.state.clone()
        },
        kept,
        slot: claim.slot,
        from: SlotOutcome::Pending,
        fence: Some(claim.fence),
        to: SlotOutcome::Refused,
        reason: "over a limit".to_owned(),
        call_again: false,
    }
}

pub(super) async fn a_claim_is_held_and_given_up(store: Arc<dyn Store>) {
    with_slot(store.as_ref(), "nightly", "shop", 0, SlotOutcome::Pending).await;
    let held = store
        .claim_slot("holder", SHORT, &shop(), false)
        .await
        .unwrap()
        .expect("a slot")
        .claim;
    assert!(
        store.hold_slot(held, LONG).await.unwrap(),
        "also after its term, where nobody else has it"
    );
    assert!(store.claim_slot("another", LONG, &shop(), false).await.unwrap().is_none());
    // A server that stops gives it to whoever comes.
    assert!(store.hold_slot(held, Duration::ZERO).await.unwrap());
    assert!(claim_in_time(store.as_ref()).await.claim.fence > held.fence);
    assert!(
        !store.hold_slot(held, Duration::ZERO).await.unwrap(),
        "nothing of it is the first one's to give up"
    );
}

pub(super) async fn a_run_and_its_slot_are_one(store: Arc<dyn Store>) {
    let kept = with_slot(store.as_ref(), "nightly", "shop", 0, SlotOutcome::Pending).await;
    let id = kept.schedule.id;
    let claim = claim(store.as_ref()).await.claim;
    let asked = of_slot(claim);
    let run = accept(store.as_ref(), &asked).await;
    // A reply that was lost: the same call finds the same run.
    let again = store.create_run(&asked).await.unwrap();
    assert!(matches!(&again, Created::Repeated(same) if same.id == run.id), "{again:?}");
    let open = store.open_slots(id).await.unwrap();
    assert_eq!(open.previous, Some((at(0), Some(run.id))));
    assert!(!store.hold_slot(claim, LONG).await.unwrap(), "nothing is left to hold");
    assert_eq!(store.pulse().await.unwrap().fired, 1);
    assert!(store.ended_slots(9).await.unwrap().is_empty(), "it works");
    store.request_cancel(run.id, "only asked").await.unwrap();
    let ended = store.ended_slots(9).await.unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!((ended[0].record.run, &ended[0].kept.schedule.id), (Some(run.id), &id));
}

pub(super) async fn a_schedule_that_was_changed_is_not_fired_as_it_was(store: Arc<dyn Store>) {
    let mut kept = with_slot(store.as_ref(), "nightly", "shop", 0, SlotOutcome::Pending).await;
    let planned = claim(store.as_ref()).await.claim;
    kept.schedule.etag += 1;
    assert_eq!(
        store.change_schedule(&kept, &[], &decision("change")).await.unwrap(),
        Changed::Done
    );
    let lost = store.create_run(&of_slot(planned)).await.unwrap();
    assert!(matches!(lost, Created::SlotLost), "{lost:?}");
    // Given up and claimed anew, it is planned from what is there now.
    assert!(store.hold_slot(planned, Duration::ZERO).await.unwrap());
    let anew = claim_in_time(store.as_ref()).await.claim;
    assert_eq!(anew.etag, kept.schedule.etag);
    accept(store.as_ref(), &of_slot(anew)).await;
}

pub(super) async fn what_is_paused_while_a_slot_is_planned_is_not_fired(store: Arc<dyn Store>) {
    let mut kept = with_slot(store.as_ref(), "nightly", "shop", 0, SlotOutcome::Pending).await;
    let planned = claim(store.as_ref()).await.claim;
    let refuses = async || {
        let lost = store.create_run(&of_slot(planned)).await.unwrap();
        assert!(matches!(lost, Created::SlotLost), "{lost:?}");
    };
    kept.schedule.state.paused = Some(Pause {
        by: "ann".to_owned(),
        at: at(0),
        note: "the disk".to_owned(),
        automatic: false,
    });
    assert_eq!(
        store.change_schedule(&kept, &[], &decision("pause")).await.unwrap(),
        Changed::Done
    );
    refuses().await;
    let mut kept = read(store.as_ref(), kept.schedule.id).await;
    kept.schedule.state.paused = None;
    assert_eq!(
        store.change_schedule(&kept, &[], &decision("resume")).await.unwrap(),
        Changed::Done
    );
    let switch = |running| SchedulerSwitch {
        running,
        note: String::new(),
        by: "ann".to_owned(),
        at: Some(at(0)),
    };
    store.set_switch(&switch(false), &decision("stop")).await.unwrap();
    refuses().await;
    store.set_switch(&switch(true), &decision("start")).await.unwrap();
    accept(store.as_ref(), &of_slot(planned)).await;
}

pub(super) async fn a_slot_that_waits_is_released_when_its_turn_comes(store: Arc<dyn Store>) {
    let kept = with_slot(store.as_ref(), "nightly", "shop", 0, SlotOutcome::Pending).await;
    let id = kept.schedule.id;
    let run = accept(store.as_ref(), &of_slot(claim(store.as_ref()).await.claim)).await;
    decide(store.as_ref(), id, 60, SlotOutcome::Waiting).await;
    let waiting = store.waiting_slots(9).await.unwrap();
    assert_eq!((waiting.len(), waiting[0].record.slot), (1, at(60)));
    assert_eq!(store.open_slots(id).await.unwrap().waiting, Some(at(60)));
    assert_eq!(store.release_waiting().await.unwrap(), 0, "the run before it works");
    store.request_cancel(run.id, "only asked").await.unwrap();
    assert_eq!(store.release_waiting().await.unwrap(), 0, "it has ended, and is not settled");
    let kept = read(store.as_ref(), id).await;
    let settlement = SlotEnd {
        state: kept.schedule.state.clone(),
        kept,
        slot: at(0),
        from: SlotOutcome::Fired,
        fence: None,
        to: SlotOutcome::Warned,
        reason: "cancelled".to_owned(),
        call_again: false,
    };
    assert!(store.settle_slot(&settlement).await.unwrap());
    assert_eq!(store.release_waiting().await.unwrap(), 1);
    assert_eq!(claim(store.as_ref()).await.record.slot, at(60));
}

pub(super) async fn a_slot_is_settled_once(store: Arc<dyn Store>) {
    let id = with_slot(store.as_ref(), "nightly", "shop", 0, SlotOutcome::Pending)
        .await
        .schedule
        .id;
    let claim = claim(store.as_ref()).await.claim;
    let stale = read(store.as_ref(), id).await;
    let settlement = end(stale, claim);
    let settlers = (0..6).map(|_| {
        let (store, settlement) = (Arc::clone(&store), settlement.clone());
        tokio::spawn(async move { store.settle_slot(&settlement).await.unwrap() })
    });
    let settled = join_all(settlers)
        .await
        .into_iter()
        .filter(|settled| *settled.as_ref().unwrap());
    assert_eq!(settled.count(), 1);
    let kept = read(store.as_ref(), id).await;
    assert_eq!(
        kept.schedule.state.consecutive_failures, 1,
        "one failure, however many told of it"
    );
    assert!(
        !store.settle_slot(&end(kept.clone(), claim)).await.unwrap(),
        "it is no slot to fire any more"
    );
    assert_eq!(
        read(store.as_ref(), id).await,
        kept,
        "its schedule does not change without it"
    );
    let slots = store.slots(&SlotFilter::default(), None, 9).await.unwrap();
    assert_eq!(
        (slots[0].kind, slots[0].reason.as_str()),
        (SlotOutcome::Refused, "over a limit")
    );
}

async fn fire(store: &dyn Store, id: ScheduleId, request: &str) -> FiredNow {
    store.fire_now(id, request, "holder", LONG, &decision("fire")).await.unwrap()
}

pub(super) async fn a_person_fires_one_slot_at_a_time(store: Arc<dyn Store>) {
    let id = made(store.as_ref(), &schedule("nightly", "shop")).await.schedule.id;
    let callers = (0..6).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { fire(store.as_ref(), id, "").await })
    });
    let mut granted: Vec<SlotGrant> = Vec::new();
    for fired in join_all(callers).await {
        match fired.unwrap() {
            FiredNow::Granted(grant) => granted.push(*grant),
            FiredNow::Busy => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(granted.len(), 1);
    assert!(granted[0].record.manual && granted[0].record.kind == SlotOutcome::Pending);
    assert_eq!(granted[0].record.fired_by, "ann");
    let listed = store.slots(&SlotFilter::default(), None, 9).await.unwrap();
    assert_eq!(listed.iter().map(|slot| slot.fired_by.as_str()).collect::<Vec<_>>(), ["ann"]);
    assert!(
        store.claim_slot("another", LONG, &shop(), false).await.unwrap().is_none(),
        "it is the caller's to fire"
    );
    let kept = read(store.as_ref(), id).await;
    assert!(store.settle_slot(&end(kept, granted[0].claim)).await.unwrap());
    let FiredNow::Granted(next) = fire(store.as_ref(), id, "").await else {
        panic!("nothing is in the way")
    };
    assert!(next.record.slot > granted[0].record.slot, "never the same slot twice");
    assert!(
        matches!(fire(store.as_ref(), ScheduleId::new(), "").await, FiredNow::Busy),
        "one that is not there"
    );
}

pub(super) async fn a_named_call_fires_once(store: Arc<dyn Store>) {
    let id = made(store.as_ref(), &schedule("nightly", "shop")).await.schedule.id;
    let other = made(store.as_ref(), &schedule("other", "shop")).await.schedule.id;
    let callers = (0..6).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { fire(store.as_ref(), id, "call").await })
    });
    let (mut granted, mut repeated) = (Vec::new(), 0);
    for fired in join_all(callers).await {
        match fired.unwrap() {
            FiredNow::Granted(grant) => granted.push(*grant),
            FiredNow::Repeated(record) => {
                assert!(record.manual && record.schedule == id);
                repeated += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((granted.len(), repeated), (1, 5));
    assert!(matches!(fire(store.as_ref(), other, "call").await, FiredNow::RequestIdReused));
    // Also once it has a run, and once that has ended.
    let run = accept(store.as_ref(), &of_slot(granted[0].claim)).await;
    let same = |fired: &FiredNow| matches!(fired, FiredNow::Repeated(record) if record.run == Some(run.id));
    assert!(same(&fire(store.as_ref(), id, "call").await));
    store.request_cancel(run.id, "only asked").await.unwrap();
    let kept = read(store.as_ref(), id).await;
    let settlement = SlotEnd {
        from: SlotOutcome::Fired,
        fence: None,
        ..end(kept, granted[0].claim)
    };
    assert!(store.settle_slot(&settlement).await.unwrap());
    assert!(same(&fire(store.as_ref(), id, "call").await));
    assert!(matches!(fire(store.as_ref(), id, "another").await, FiredNow::Granted(_)));
    assert_eq!(kinds(store.as_ref(), id).await.len(), 2);
}

pub(super) async fn a_named_call_has_the_slot_of_the_first(store: Arc<dyn Store>) {
    let id = made(store.as_ref(), &schedule("nightly", "shop")).await.schedule.id;
    let by_clock = with_slot(store.as_ref(), "by clock", "shop", 0, SlotOutcome::Pending).await;
    let FiredNow::Granted(first) = fire(store.as_ref(), id, "call").await else {
        panic!("nothing is in the way")
    };
    assert!(
        matches!(fire(store.as_ref(), id, "call").await, FiredNow::Repeated(_)),
        "it is held"
    );
    // Its holder is gone: the same call has it.
    assert!(store.hold_slot(first.claim, Duration::ZERO).await.unwrap());
    let FiredNow::Granted(again) = fire(store.as_ref(), id, "call").await else {
        panic!("nobody holds it")
    };
    assert_eq!((again.record.slot, again.record.manual), (first.record.slot, true));
    assert!(again.claim.fence > first.claim.fence);
    // So has whoever looks for what people fired, while schedules are stopped.
    assert!(store.hold_slot(again.claim, Duration::ZERO).await.unwrap());
    let last = store.claim_slot("holder", LONG, &shop(), true).await.unwrap();
    let last = last.expect("a person fired it");
    assert_eq!(last.record.slot, first.record.slot);
    let none = store.claim_slot("holder", LONG, &shop(), true).await.unwrap();
    assert!(none.is_none(), "the other came by its time");
    let by_time = store.claim_slot("holder", LONG, &shop(), false).await.unwrap();
    assert_eq!(by_time.expect("its time").claim.schedule, by_clock.schedule.id);
    // One that was refused for what may pass fires anew, and no other does.
    let refused = SlotEnd {
        call_again: true,
        ..end(read(store.as_ref(), id).await, last.claim)
    };
    assert!(store.settle_slot(&refused).await.unwrap());
    let FiredNow::Granted(anew) = fire(store.as_ref(), id, "call").await else {
        panic!("the call may be made again")
    };
    assert!(anew.record.slot > last.record.slot);
    assert!(
        store
            .settle_slot(&end(read(store.as_ref(), id).await, anew.claim))
            .await
            .unwrap()
    );
    assert!(
        matches!(fire(store.as_ref(), id, "call").await, FiredNow::Repeated(_)),
        "it has its answer"
    );
    assert_eq!(kinds(store.as_ref(), id).await, [SlotOutcome::Refused, SlotOutcome::Refused]);
}

pub(super) async fn overdue_slots_are_found_by_their_deadline(store: Arc<dyn Store>) {
    // More works than is looked at in one go, and those without a deadline come first.
    let mut runs: Vec<(&str, ScheduleId, RunId)> = Vec::new();
    for (name, seconds, deadline) in [("none", -900, 0), ("late", 0, 600), ("later", 60, 120), ("soon", 0, 7_200)] {
        let mut asked = schedule(name, "shop");
        asked.spec.deadline_seconds = deadline;
        let id = made(store.as_ref(), &asked).await.schedule.id;
        decide(store.as_ref(), id, seconds, SlotOutcome::Pending).await;
        runs.push((
            name,
            id,
            accept(store.as_ref(), &of_slot(claim(store.as_ref()).await.claim)).await.id,
        ));
    }
    let by_hand = {
        let mut asked = schedule("by hand", "shop");
        asked.spec.deadline_seconds = 60;
        let id = made(store.as_ref(), &asked).await.schedule.id;
        let FiredNow::Granted(grant) = fire(store.as_ref(), id, "").await else {
            panic!("nothing is in the way")
        };
        accept(store.as_ref(), &of_slot(grant.claim)).await
    };
    let overdue = async |seconds: i64, limit: u32| {
        let found = store.overdue_slots(at(seconds), limit).await.unwrap();
        found.into_iter().filter_map(|slot| slot.record.run).collect::<Vec<_>>()
    };
    let of = |wanted: &str| {
        runs.iter()
            .find(|(name, ..)| *name == wanted)
            .map(|(_, _, run)| *run)
            .unwrap()
    };
    assert!(overdue(179, 9).await.is_empty());
    assert_eq!(overdue(180, 9).await, [of("later")]);
    assert_eq!(overdue(700, 9).await, [of("later"), of("late")], "the longest overdue first");
    assert_eq!(overdue(700, 1).await, [of("later")]);
    // Whoever was asked to stop is not asked again, nor stands in the way of the others.
    let working = store.claim("holder", LONG, &[]).await.unwrap();
    assert!(working.is_some_and(|grant| grant.run.id == of("none")));
    store.request_cancel(of("later"), "its deadline").await.unwrap();
    assert_eq!(overdue(700, 1).await, [of("late")]);
    // A deadline that is changed counts for the run that works.
    let (_, id, _) = runs[3];
    let mut soon = read(store.as_ref(), id).await;
    soon.schedule.spec.deadline_seconds = 60;
    assert_eq!(
        store.change_schedule(&soon, &[], &decision("change")).await.unwrap(),
        Changed::Done
    );
    assert_eq!(overdue(700, 9).await, [of("soon"), of("late")]);
    let all = store
        .overdue_slots(Timestamp::MAX - SignedDuration::from_hours(1), 99)
        .await
        .unwrap();
    assert!(
        all.iter().all(|slot| slot.record.run != Some(by_hand.id)),
        "what a person fired has no deadline"
    );
    // Nor has a run that has ended.
    let grant = store.claim("holder", LONG, &[]).await.unwrap().expect("a queued run");
    assert_eq!(grant.run.id, of("late"));
    store
        .update(grant.run.id, grant.fence, &enter(RunState::Succeeded, ""))
        .await
        .unwrap();
    assert_eq!(overdue(700, 9).await, [of("soon")]);
}

pub(super) async fn slots_are_listed_newest_first(store: Arc<dyn Store>) {
    let (one, two) = (
        made(store.as_ref(), &schedule("one", "shop")).await.schedule.id,
        made(store.as_ref(), &schedule("two", "shop")).await.schedule.id,
    );
    for seconds in 0..3 {
        decide(store.as_ref(), one, seconds * 60, SlotOutcome::Skipped).await;
        decide(store.as_ref(), two, seconds * 60, SlotOutcome::Missed).await;
    }
    let mut listed = Vec::new();
    let mut behind = None;
    loop {
        let page = store.slots(&SlotFilter::default(), behind, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        behind = Some(SlotPlace {
            slot: last.slot,
            schedule: last.schedule,
        });
        listed.extend(page);
    }
    let places: Vec<(Timestamp, ScheduleId)> = listed.iter().map(|slot| (slot.slot, slot.schedule)).collect();
    let mut sorted = places.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    assert_eq!(places, sorted);
    assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 6, "each once");
    let filter = SlotFilter {
        schedule: Some(two),
        outcomes: vec![SlotOutcome::Missed, SlotOutcome::Fired],
    };
    assert_eq!(store.slots(&filter, None, 9).await.unwrap().len(), 3);
    let filter = SlotFilter {
        schedule: Some(one),
        outcomes: vec![SlotOutcome::Missed],
    };
    assert!(store.slots(&filter, None, 9).await.unwrap().is_empty());
}
