//! Clocks that leap, by hours and in either direction: every slot is decided once, by the misfire policy of its schedule.

use std::{collections::BTreeMap, sync::Arc};

use dbkeep_engine::{
    Engine,
    catalog::Catalog,
    engine::{Settings, TargetEntry},
    model::{
        Caller, CronFields, Misfire, MisfirePolicy, NotifyRules, Overlap, ScheduleId, ScheduleOptions, ScheduleSpec, SlotOutcome,
        SlotRecord, Timing, schedule::Work,
    },
    port::{Pulse, Roots, Schedules as _, SlotFilter},
};
use dbkeep_proto::v1;
use dbkeep_server::{archive::FolderArchive, store::ControlStore, target};
use jiff::{SignedDuration, Timestamp};

use crate::world::{CATALOG, World};

/// Between two slots.
const PERIOD: i64 = 600;
/// How far the clock leaps: so many slots, and half a period.
const SLOTS: i64 = 18;

/// An engine whose clock this test sets.
struct Lab {
    engine: Engine,
    store: ControlStore,
}

impl Lab {
    async fn on(world: &World) -> Self {
        let store = ControlStore::open(&world.store).await.expect("a store");
        let entry = TargetEntry {
            target: target::open(&world.target).expect("a target"),
            catalog: Arc::new(Catalog::parse("catalog.toml", CATALOG).expect("a catalog")),
            roots: Arc::new(Roots::new()),
            migrations: None,
        };
        let archive = FolderArchive::open(world.folder.path().join("backups")).expect("an archive");
        let targets = BTreeMap::from([("app".to_owned(), entry)]);
        let engine = Engine::new(targets, Arc::new(store.clone()), Arc::new(archive), Settings::default());
        Self { engine, store }
    }

    async fn create(&self, name: &str, policy: MisfirePolicy, catch_up_seconds: u32) -> ScheduleId {
        let spec = ScheduleSpec {
            name: name.to_owned(),
            description: String::new(),
            target: "app".to_owned(),
            work: Work::Operations(vec!["expired_tokens".to_owned()]),
            timing: Timing {
                cron: CronFields {
                    minute: "*/10".to_owned(),
                    hour: "*".to_owned(),
                    ..CronFields::default()
                },
                ..Timing::default()
            },
            enabled: true,
            options: ScheduleOptions::default(),
            overlap: Overlap::Skip,
            misfire: Misfire {
                policy,
                catch_up_seconds,
            },
            pause_after_failures: 0,
            deadline_seconds: 0,
            notify: NotifyRules::default(),
        };
        let caller = Caller {
            principal: "ann".to_owned(),
            peer: String::new(),
        };
        let made = self.engine.create_schedule(spec, "", &caller).await.expect("a schedule");
        made.schedule.id
    }

    /// One look while the clock shows an instant, which may be any. Another look follows, as it would.
    async fn look_at(&self, now: Timestamp) {
        for _ in 0..2 {
            let pulse = self.store.pulse().await.expect("a pulse");
            self.engine.tick_at(Pulse { now, ..pulse }).await.expect("a look");
        }
    }

    async fn slots(&self, id: ScheduleId) -> Vec<SlotRecord> {
        let filter = SlotFilter {
            schedule: Some(id),
            ..SlotFilter::default()
        };
        self.store.slots(&filter, None, 1_000).await.expect("slots")
    }

    /// The slots by outcome and number, newest first.
    async fn told(&self, id: ScheduleId) -> Vec<(SlotOutcome, u64, Timestamp)> {
        let slots = self.slots(id).await;
        slots.into_iter().map(|slot| (slot.kind, slot.missed, slot.slot)).collect()
    }
}

pub(crate) async fn a_leap_forward_is_a_misfire(database: &str) {
    let world = World::new(database).await;
    let lab = Lab::on(&world).await;
    let caught_up = lab.create("caught up", MisfirePolicy::RunOnce, 3_600).await;
    let too_late = lab.create("too late", MisfirePolicy::RunOnce, 120).await;
    let skipped = lab.create("skipped", MisfirePolicy::Skip, 3_600).await;
    let kept = lab
        .store
        .schedule(&caught_up.to_string())
        .await
        .expect("an answer")
        .expect("a schedule");
    let first = kept.schedule.state.next_slot.expect("a next slot");
    // Nothing is due yet, whatever the clock said a moment ago.
    lab.look_at(first - SignedDuration::from_secs(1)).await;
    assert_eq!(lab.told(caught_up).await, []);

    // Three hours, to five minutes behind a slot.
    let newest = first + SignedDuration::from_secs(PERIOD * SLOTS);
    let leapt = newest + SignedDuration::from_secs(PERIOD / 2);
    lab.look_at(leapt).await;
    let before = newest - SignedDuration::from_secs(PERIOD);
    let (number, all) = (SLOTS.unsigned_abs(), SLOTS.unsigned_abs() + 1);
    assert_eq!(
        lab.told(caught_up).await,
        [(SlotOutcome::Pending, 1, newest), (SlotOutcome::Missed, number, before)],
        "the newest is caught up, once; all others are missed, in one record"
    );
    for id in [too_late, skipped] {
        assert_eq!(lab.told(id).await, [(SlotOutcome::Missed, all, newest)]);
        assert_eq!(lab.slots(id).await[0].first_slot, first);
    }

    // And back: real time comes to the same slots once more, one after the other, and none is decided again.
    for id in [caught_up, too_late, skipped] {
        let told = lab.told(id).await;
        let mut now = first - SignedDuration::from_secs(1);
        while now < newest + SignedDuration::from_secs(PERIOD) {
            lab.look_at(now).await;
            now += SignedDuration::from_secs(PERIOD / 2);
        }
        assert_eq!(lab.told(id).await, told, "no slot twice");
    }
    // Then it goes on with the slot after them.
    let next = newest + SignedDuration::from_secs(PERIOD);
    lab.look_at(next + SignedDuration::from_secs(1)).await;
    for id in [too_late, skipped] {
        assert_eq!(
            lab.told(id).await,
            [(SlotOutcome::Pending, 1, next), (SlotOutcome::Missed, all, newest)]
        );
    }
    lab.store.close().await;
    drop(lab);

    // A real server, whose clock is right, finds slots that were decided hours ahead of it: each fires, and fires once.
    let server = world.serve(|config| config).await;
    let control = world.control().await;
    for id in [caught_up, too_late, skipped] {
        let id = id.to_string();
        let done = server
            .newest(&id, &[v1::SlotOutcome::Succeeded, v1::SlotOutcome::Warned])
            .await;
        assert_eq!(done.slot_count, 1);
        assert_eq!(world.runs(&control, &id).await, 1);
    }
    assert_eq!(world.expired().await, 0);
    server.stop().await;
}

pub(crate) async fn a_leap_back_fires_nothing_twice(database: &str) {
    let world = World::new(database).await;
    let lab = Lab::on(&world).await;
    let id = lab.create("tokens", MisfirePolicy::RunOnce, 3_600).await;
    let kept = lab
        .store
        .schedule(&id.to_string())
        .await
        .expect("an answer")
        .expect("a schedule");
    let first = kept.schedule.state.next_slot.expect("a next slot");
    let second = SignedDuration::from_secs(1);
    lab.look_at(first + second).await;
    let told = lab.told(id).await;
    assert_eq!(told, [(SlotOutcome::Pending, 1, first)]);
    // The clock goes back over the slot by hours, and comes to it again, as often as it likes.
    for back in [SignedDuration::from_hours(3), SignedDuration::from_mins(1), 2 * second] {
        lab.look_at(first - back).await;
        lab.look_at(first).await;
        lab.look_at(first + second).await;
    }
    assert_eq!(lab.told(id).await, told);
    // What was decided is fired by a server whose clock is still before the slot.
    lab.store.close().await;
    drop(lab);
    let server = world.serve(|config| config).await;
    let control = world.control().await;
    let id = id.to_string();
    let done = server.newest(&id, &[v1::SlotOutcome::Succeeded]).await;
    assert_eq!(done.slot_time.expect("a slot").seconds, first.as_second());
    assert_eq!(
        (world.runs(&control, &id).await, world.slots(&control, &id).await.len()),
        (1, 1)
    );
    server.stop().await;
}
