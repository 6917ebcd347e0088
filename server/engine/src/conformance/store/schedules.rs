//! Schedules, their switch, and the servers: nothing is written over that somebody else wrote meanwhile.

use std::sync::Arc;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};

use super::{LONG, now};
use crate::{
    model::{
        Act, Caller, Decision, Misfire, NotifyRules, Overlap, Schedule, ScheduleId, ScheduleOptions, ScheduleSpec, ScheduleState,
        SchedulerSwitch, ServerInfo, SlotOutcome, StandingApproval, Timing, schedule::Work,
    },
    port::{Changed, CreateSchedule, DecisionFilter, Kept, ScheduleCreated, SlotFilter, Store},
};

pub(super) fn schedule(name: &str, target: &str) -> Schedule {
    Schedule {
        id: ScheduleId::new(),
        etag: 1,
        spec: ScheduleSpec {
            name: name.to_owned(),
            description: "näme 🦀 \"'\\".to_owned(),
            target: target.to_owned(),
            work: Work::Operations(vec!["b".to_owned(), "a".to_owned()]),
            timing: Timing {
                exclusions: vec!["SAT,SUN".to_owned()],
                jitter_seconds: 7,
                ..Timing::default()
            },
            enabled: true,
            options: ScheduleOptions {
                max_fraction: Some(0.25),
                max_rows: Some(u64::from(u32::MAX) + 1),
                ..ScheduleOptions::default()
            },
            overlap: Overlap::QueueOne,
            misfire: Misfire::default(),
            pause_after_failures: 3,
            deadline_seconds: 0,
            notify: NotifyRules::default(),
        },
        state: ScheduleState {
            work_by: "ann".to_owned(),
            ..ScheduleState::default()
        },
        created_at: now(),
        created_by: "ann".to_owned(),
        updated_at: now(),
        updated_by: "ann".to_owned(),
    }
}

pub(super) fn decision(what: &str) -> Decision {
    let caller = Caller {
        principal: "ann".to_owned(),
        peer: String::new(),
    };
    Decision::allow(&caller, Act::Schedule, what)
}

async fn create(store: &dyn Store, schedule: &Schedule, request: &str, digest: &str) -> ScheduleCreated {
    let request = CreateSchedule {
        schedule: schedule.clone(),
        request_id: request.to_owned(),
        request_digest: digest.to_owned(),
        decision: decision("create"),
    };
    store.create_schedule(&request).await.unwrap()
}

/// A schedule in the store, as it is read.
pub(super) async fn made(store: &dyn Store, schedule: &Schedule) -> Kept {
    let created = create(store, schedule, "", "").await;
    assert!(matches!(created, ScheduleCreated::Made), "{created:?}");
    read(store, schedule.id).await
}

pub(super) async fn read(store: &dyn Store, id: ScheduleId) -> Kept {
    store.schedule(&id.to_string()).await.unwrap().expect("the schedule is there")
}

/// How many decisions there are.
async fn decisions(store: &dyn Store) -> usize {
    store.decisions(&DecisionFilter::default(), None, 100).await.unwrap().len()
}

pub(super) async fn a_schedule_comes_back_as_it_was(store: Arc<dyn Store>) {
    let mut asked = schedule("nightly", "shop");
    asked.state.approval = Some(StandingApproval {
        by: "bob".to_owned(),
        at: now(),
        max_rows: 9,
        expires_at: now(),
        spec_digest: "digest".to_owned(),
    });
    assert!(store.schedule("nightly").await.unwrap().is_none());
    let kept = made(store.as_ref(), &asked).await;
    assert_eq!(kept.schedule, asked);
    assert_eq!(store.schedule("nightly").await.unwrap(), Some(kept), "by its name, too");
    assert!(store.schedule(&ScheduleId::new().to_string()).await.unwrap().is_none());
    assert_eq!(decisions(store.as_ref()).await, 1, "with who asked for it");
    // Pages by name.
    for name in ["b", "a", "c"] {
        made(store.as_ref(), &schedule(name, if name == "c" { "other" } else { "shop" })).await;
    }
    let names = async |target: Option<&str>, after: Option<&str>, limit| {
        let found = store.schedules(target, after, limit).await.unwrap();
        found.into_iter().map(|schedule| schedule.spec.name).collect::<Vec<_>>()
    };
    assert_eq!(names(None, None, 2).await, ["a", "b"]);
    assert_eq!(names(None, Some("b"), 9).await, ["c", "nightly"]);
    assert_eq!(names(Some("shop"), Some("a"), 9).await, ["b", "nightly"]);
}

pub(super) async fn a_request_creates_one_schedule(store: Arc<dyn Store>) {
    let first = schedule("first", "shop");
    assert!(matches!(
        create(store.as_ref(), &first, "once", "d").await,
        ScheduleCreated::Made
    ));
    let again = create(store.as_ref(), &schedule("first", "shop"), "once", "d").await;
    assert!(
        matches!(&again, ScheduleCreated::Repeated(schedule) if schedule.id == first.id),
        "{again:?}"
    );
    let other = create(store.as_ref(), &schedule("second", "shop"), "once", "e").await;
    assert!(matches!(other, ScheduleCreated::RequestIdReused), "{other:?}");
    assert_eq!(store.schedules(None, None, 9).await.unwrap().len(), 1);
    assert_eq!(decisions(store.as_ref()).await, 1);
}

pub(super) async fn a_name_belongs_to_one(store: Arc<dyn Store>) {
    let first = made(store.as_ref(), &schedule("first", "shop")).await;
    let taken = create(store.as_ref(), &schedule("first", "other"), "", "").await;
    assert!(
        matches!(taken, ScheduleCreated::NameTaken(id) if id == first.schedule.id),
        "{taken:?}"
    );
    let mut second = made(store.as_ref(), &schedule("second", "shop")).await;
    second.schedule.spec.name = "first".to_owned();
    let changed = store.change_schedule(&second, &[], &decision("rename")).await.unwrap();
    assert_eq!(changed, Changed::NameTaken);
    let now = read(store.as_ref(), second.schedule.id).await;
    assert_eq!((now.schedule.spec.name.as_str(), now.version), ("second", second.version));
}

pub(super) async fn schedules_of_a_catalog_are_created_once(store: Arc<dyn Store>) {
    let declared = [schedule("one", "shop"), schedule("two", "shop")];
    assert_eq!(store.seed_schedules("shop", &declared).await.unwrap(), ["one", "two"]);
    let one = read(store.as_ref(), declared[0].id).await;
    assert!(store.delete_schedule(&one, &decision("delete")).await.unwrap());
    // What was deleted stays deleted; what is new comes.
    let declared = [schedule("one", "shop"), schedule("two", "shop"), schedule("three", "shop")];
    assert_eq!(store.seed_schedules("shop", &declared).await.unwrap(), ["three"]);
    // The same catalog on another target: its schedules have names of their own.
    let elsewhere = [schedule("two", "other")];
    assert_eq!(store.seed_schedules("other", &elsewhere).await.unwrap(), ["two (other)"]);
    assert!(store.seed_schedules("other", &elsewhere).await.unwrap().is_empty());
}

pub(super) async fn a_change_needs_what_was_read(store: Arc<dyn Store>) {
    let stale = made(store.as_ref(), &schedule("nightly", "shop")).await;
    let mut changed = stale.clone();
    changed.schedule.spec.description = "changed".to_owned();
    changed.schedule.etag = 2;
    assert_eq!(
        store.change_schedule(&changed, &[], &decision("change")).await.unwrap(),
        Changed::Done
    );
    let kept = read(store.as_ref(), stale.schedule.id).await;
    assert_eq!(kept.schedule, changed.schedule);
    assert!(kept.version > stale.version);
    let before = decisions(store.as_ref()).await;
    assert_eq!(
        store.change_schedule(&stale, &[], &decision("change")).await.unwrap(),
        Changed::Outrun
    );
    assert!(!store.delete_schedule(&stale, &decision("delete")).await.unwrap());
    assert!(!store.decide_slots(&stale, &ScheduleState::default(), &[]).await.unwrap());
    assert_eq!(read(store.as_ref(), stale.schedule.id).await, kept, "nothing was changed");
    assert_eq!(
        decisions(store.as_ref()).await,
        before,
        "and nothing is on record that did not happen"
    );
}

pub(super) async fn one_of_many_changes_is_made(store: Arc<dyn Store>) {
    let kept = made(store.as_ref(), &schedule("nightly", "shop")).await;
    let changes = (0..8_u32).map(|number| {
        let (store, mut kept) = (Arc::clone(&store), kept.clone());
        kept.schedule.spec.pause_after_failures = number;
        tokio::spawn(async move { store.change_schedule(&kept, &[], &decision("change")).await.unwrap() })
    });
    let done = join_all(changes)
        .await
        .into_iter()
        .filter(|changed| *changed.as_ref().unwrap() == Changed::Done);
    assert_eq!(done.count(), 1);
    assert_eq!(read(store.as_ref(), kept.schedule.id).await.version, kept.version + 1);
}

pub(super) async fn a_schedule_goes_with_its_slots(store: Arc<dyn Store>) {
    let kept = made(store.as_ref(), &schedule("nightly", "shop")).await;
    let slot = super::slots::slot(kept.schedule.id, now(), SlotOutcome::Pending);
    assert!(store.decide_slots(&kept, &ScheduleState::default(), &[slot]).await.unwrap());
    let kept = read(store.as_ref(), kept.schedule.id).await;
    assert!(store.delete_schedule(&kept, &decision("delete")).await.unwrap());
    assert!(store.schedule("nightly").await.unwrap().is_none());
    assert!(store.slots(&SlotFilter::default(), None, 9).await.unwrap().is_empty());
    assert!(
        store
            .claim_slot("a", LONG, &["shop".to_owned()], false)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(store.pulse().await.unwrap().pending, 0);
}

pub(super) async fn due_schedules_are_found_longest_overdue_first(store: Arc<dyn Store>) {
    let start = store.pulse().await.unwrap();
    assert!(start.running && start.next_fire.is_none(), "{start:?}");
    let at = |seconds: i64| Timestamp::from_millisecond(start.now.as_millisecond()).unwrap() + SignedDuration::from_secs(seconds);
    let due = |name: &str, seconds: Option<i64>| {
        let mut due = schedule(name, "shop");
        due.state.next_slot = seconds.map(at);
        due.state.next_fire = seconds.map(at);
        due
    };
    for asked in [
        due("late", Some(-60)),
        due("later", Some(-600)),
        due("soon", Some(600)),
        due("never", None),
        Schedule {
            spec: ScheduleSpec {
                enabled: false,
                ..due("disabled", Some(-900)).spec
            },
            ..due("disabled", Some(-900))
        },
    ] {
        made(store.as_ref(), &asked).await;
    }
    let names = async |now, limit| {
        let found = store.due_schedules(now, limit).await.unwrap();
        found.into_iter().map(|kept| kept.schedule.spec.name).collect::<Vec<_>>()
    };
    assert_eq!(names(start.now, 9).await, ["later", "late"]);
    assert_eq!(names(start.now, 1).await, ["later"]);
    assert_eq!(names(at(601), 9).await, ["later", "late", "soon"]);
    assert_eq!(store.pulse().await.unwrap().next_fire, Some(at(-600)));
}

pub(super) async fn the_switch_is_kept_with_who_set_it(store: Arc<dyn Store>) {
    assert_eq!(store.switch().await.unwrap(), (SchedulerSwitch::default(), 0));
    made(store.as_ref(), &schedule("nightly", "shop")).await;
    for running in [false, true] {
        let switch = SchedulerSwitch {
            running,
            note: "the disk".to_owned(),
            by: "ann".to_owned(),
            at: Some(now()),
        };
        store.set_switch(&switch, &decision("switch")).await.unwrap();
        assert_eq!(store.switch().await.unwrap(), (switch, 1));
        assert_eq!(store.pulse().await.unwrap().running, running);
    }
    assert_eq!(decisions(store.as_ref()).await, 3);
}

pub(super) async fn servers_give_signs_of_life_and_take_their_leave(store: Arc<dyn Store>) {
    let server = |id: &str, seconds: i64| ServerInfo {
        id: id.to_owned(),
        address: "127.0.0.1:7443".to_owned(),
        host: "db1".to_owned(),
        version: "0.1.0".to_owned(),
        started_at: Timestamp::from_second(1_800_000_000 + seconds).unwrap(),
    };
    let (old, new) = (server("old", 0), server("new", 9));
    let hour = SignedDuration::from_hours(1);
    // The old one's clock is an hour ahead of the store's.
    store.beat(&old, store.pulse().await.unwrap().now + hour).await.unwrap();
    store.beat(&new, store.pulse().await.unwrap().now).await.unwrap();
    let seen = store.servers(LONG).await.unwrap();
    assert_eq!(
        seen.iter().map(|seen| &seen.server).collect::<Vec<_>>(),
        [&new, &old],
        "the newest start first"
    );
    assert!(seen.iter().all(|seen| seen.alive));
    let minute = SignedDuration::from_mins(1);
    assert!(seen[0].clock_ahead.abs() < minute, "{:?}", seen[0].clock_ahead);
    assert!((seen[1].clock_ahead - hour).abs() < minute, "{:?}", seen[1].clock_ahead);
    // Set right, and moved to another address.
    let moved = ServerInfo {
        address: "127.0.0.1:1".to_owned(),
        ..old.clone()
    };
    store.beat(&moved, store.pulse().await.unwrap().now).await.unwrap();
    let seen = store.servers(LONG).await.unwrap();
    assert_eq!(seen[1].server, moved);
    assert!(seen[1].clock_ahead.abs() < minute);
    store.farewell("new").await.unwrap();
    store.farewell("nobody").await.unwrap();
    assert_eq!(store.servers(LONG).await.unwrap().len(), 1);
}
