//! Bounds that hold for schedules: places for targets, calls that are made again, claims of a server that stops, consent to rules, and
//! shares of a table while a run works.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dbkeep_engine::{
    engine::Drift,
    model::{Act, Caller, Decision},
    port::{FiredNow, Schedules as _},
};
use dbkeep_proto::v1::{self, SlotOutcome};
use dbkeep_server::store::ControlStore;
use dbkeep_testkit::{Proxy, fresh_database};
use jiff::{SignedDuration, Timestamp};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tonic::Code;

use crate::{
    serving::catalog,
    world::{CATALOG, EXPIRED, LATE, Server, World, as_principal, eventually, once_a_year, only_by_hand},
};

/// A database server that takes connections and never says a word.
struct Mute {
    url: String,
    /// How many wait for its answer now, and how many did at most.
    waiting: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Mute {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (waiting, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counting = (Arc::clone(&waiting), Arc::clone(&most));
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let (waiting, most) = (Arc::clone(&counting.0), Arc::clone(&counting.1));
                tokio::spawn(async move {
                    most.fetch_max(waiting.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let mut rest = Vec::new();
                    // Until the client has lost its patience.
                    let _ = connection.read_to_end(&mut rest).await;
                    waiting.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self {
            url: format!("postgres://nobody@{address}/nothing?sslmode=disable"),
            waiting,
            most,
        }
    }

    async fn is_asked(&self) {
        eventually(|| async { (self.waiting.load(Ordering::SeqCst) > 0).then_some(()) }).await;
    }
}

pub(crate) async fn a_target_that_does_not_answer_leaves_places_to_the_others(database: &str) {
    let world = World::new(database).await;
    let mute = Mute::new().await;
    let server = world
        .serve(|mut config| {
            config.default_schedules = false;
            // Who looks at its health knocks there as well, on a connection of its own.
            config.engine.monitor.enabled = false;
            config.with_target("mute", mute.url.as_str(), catalog(CATALOG))
        })
        .await;
    let control = world.control().await;
    for number in 0..8 {
        let schedule = server
            .create(v1::ScheduleSpec {
                target: "mute".to_owned(),
                ..once_a_year(&format!("mute {number}"))
            })
            .await;
        world.make_due(&control, &schedule.id, LATE).await;
    }
    mute.is_asked().await;
    let live = v1::ScheduleSpec {
        target: "app".to_owned(),
        ..once_a_year("live")
    };
    let live = server.create(live).await;
    world.make_due(&control, &live.id, LATE).await;
    let done = server.newest(&live.id, &[SlotOutcome::Succeeded]).await;
    assert!(!done.run_id.is_empty());
    let most = mute.most.load(Ordering::SeqCst);
    assert!((1..=2).contains(&most), "{most} of 4 places were taken by one target");
    server.stop().await;
}

pub(crate) async fn a_server_that_stops_gives_its_claims_back(database: &str) {
    let world = World::new(database).await;
    let mute = Mute::new().await;
    // Its target does not answer it, and its claims last longer than this test.
    let first = world
        .serve(|mut config| {
            config.engine.lease_term = Duration::from_secs(3_600);
            config.targets[0].url = mute.url.as_str().into();
            config.engine.monitor.enabled = false;
            config
        })
        .await;
    let control = world.control().await;
    let schedule = first.create(once_a_year("tokens")).await;
    world.make_due(&control, &schedule.id, LATE).await;
    mute.is_asked().await;
    first.stop().await;
    let second = world.serve(|config| config).await;
    let done = second.newest(&schedule.id, &[SlotOutcome::Succeeded]).await;
    assert!(!done.run_id.is_empty());
    assert_eq!(world.runs(&control, &schedule.id).await, 1);
    second.stop().await;
}

/// Claims whose rows somebody has locked keep neither the others nor the farewell waiting.
pub(crate) async fn claims_are_given_back_side_by_side() {
    let world = World::new("postgres").await;
    let mutes = [Mute::new().await, Mute::new().await];
    let server = world
        .serve(|mut config| {
            config.engine.lease_term = Duration::from_secs(3_600);
            config.default_schedules = false;
            config.targets.clear();
            config
                .with_target("one", mutes[0].url.as_str(), catalog(CATALOG))
                .with_target("two", mutes[1].url.as_str(), catalog(CATALOG))
        })
        .await;
    let control = world.control().await;
    for (number, target) in ["one", "one", "two", "two"].into_iter().enumerate() {
        let spec = v1::ScheduleSpec {
            target: target.to_owned(),
            ..once_a_year(&format!("held {number}"))
        };
        let schedule = server.create(spec).await;
        world.make_due(&control, &schedule.id, LATE).await;
    }
    let held = "SELECT schedule_id FROM dbkeep_control.schedule_slots WHERE outcome = 'pending' \
                AND lease_until_ms > extract(epoch FROM clock_timestamp()) * 1000 + 60000";
    let claimed = eventually(|| async {
        let rows = control.fetch_text(held).await.expect("slots");
        let ids: Vec<String> = rows.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
        (ids.len() == 4).then_some(ids)
    })
    .await;
    let mut other = PgConnection::connect(&world.store).await.expect("a connection");
    other.execute("BEGIN").await.expect("begun");
    for id in &claimed[..2] {
        let lock = format!("SELECT 1 FROM dbkeep_control.schedule_slots WHERE schedule_id = '{id}' FOR UPDATE");
        other.execute(sqlx::AssertSqlSafe(lock)).await.expect("locked");
    }
    server.stop().await;
    let rows = control.fetch_text(held).await.expect("slots");
    let mut left: Vec<String> = rows.into_iter().filter_map(|mut row| row.pop().flatten()).collect();
    left.sort();
    let mut locked = claimed[..2].to_vec();
    locked.sort();
    assert_eq!(left, locked, "the others are free");
    assert_eq!(
        control.count("dbkeep_control.servers").await.expect("a count"),
        0,
        "it said goodbye"
    );
    other.execute("ROLLBACK").await.expect("rolled back");
}

async fn fire(server: &Server, id: &str, request_id: &str) -> Result<String, tonic::Status> {
    let request = v1::RunScheduleRequest {
        id: id.to_owned(),
        request_id: request_id.to_owned(),
    };
    let answer = server.schedules().run_schedule(as_principal("ann", request)).await?;
    let first = answer.into_inner().message().await?.expect("an event");
    Ok(first.event.expect("an event").run_id)
}

pub(crate) async fn a_call_with_a_name_fires_once(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let schedule = server.create(only_by_hand("tokens")).await;
    // Several at a time, as after a reply that was lost: all of them have the same run.
    let calls = (0..3).map(|_| fire(&server, &schedule.id, "once"));
    let runs: Vec<String> = futures::future::join_all(calls)
        .await
        .into_iter()
        .map(|run| run.expect("a run"))
        .collect();
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
    server.newest(&schedule.id, &[SlotOutcome::Succeeded]).await;
    assert_eq!(fire(&server, &schedule.id, "once").await.expect("the run"), runs[0]);
    assert_ne!(fire(&server, &schedule.id, "again").await.expect("a run"), runs[0]);
    // Its rows are of no other run any more.
    eventually(|| async {
        let slots = server.list(&schedule.id).await;
        let done = slots.len() == 2 && slots.iter().all(|slot| slot.outcome() == SlotOutcome::Succeeded);
        done.then_some(())
    })
    .await;
    let other = server.create(only_by_hand("other")).await;
    let reused = fire(&server, &other.id, "once").await.expect_err("it is another's");
    assert_eq!(reused.code(), Code::AlreadyExists, "{reused}");
    let long = fire(&server, &other.id, &"x".repeat(65)).await.expect_err("too long");
    assert_eq!(long.code(), Code::InvalidArgument, "{long}");
    // A call that was refused is not made again: it has its answer.
    let limited = v1::ScheduleSpec {
        options: Some(v1::ScheduleOptions {
            max_rows: Some(1),
            ..v1::ScheduleOptions::default()
        }),
        ..only_by_hand("limited")
    };
    let limited = server.create(limited).await;
    world.fill().await;
    for _ in 0..2 {
        let refused = fire(&server, &limited.id, "refused").await.expect_err("over its limit");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("allows 1"), "{refused}");
    }
    assert_eq!(server.list(&limited.id).await.len(), 1);
    server.stop().await;
}

/// A server died after it had recorded the slot of a call, while schedules are stopped: the call made again fires it, and so does the server
/// where the call had no name.
pub(crate) async fn a_call_whose_claim_was_lost_fires_while_schedules_are_stopped(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let named = server.create(only_by_hand("named")).await;
    let unnamed = server.create(only_by_hand("unnamed")).await;
    let stop = v1::StopSchedulerRequest {
        note: "for a while".to_owned(),
    };
    let stopped = server.schedules().stop_scheduler(as_principal("ann", stop)).await;
    stopped.expect("stopped");
    let store = ControlStore::open(&world.store).await.expect("the control store");
    let caller = Caller {
        principal: "ann".to_owned(),
        peer: String::new(),
    };
    for (schedule, request) in [(&named, "call"), (&unnamed, "")] {
        let id = schedule.id.parse().expect("an id");
        let decision = Decision::allow(&caller, Act::Schedule, "fire");
        let fired = store.fire_now(id, request, "dead", Duration::from_millis(1), &decision).await;
        assert!(matches!(fired, Ok(FiredNow::Granted(_))), "{fired:?}");
    }
    let run = fire(&server, &named.id, "call").await.expect("a run");
    for schedule in [&named, &unnamed] {
        let done = server.newest(&schedule.id, &[SlotOutcome::Succeeded]).await;
        assert!(schedule.id != named.id || done.run_id == run);
    }
    store.close().await;
    server.stop().await;
}

/// What may pass refuses a call, and not the same call later; and however often it is made, it is one decision.
pub(crate) async fn a_call_that_met_an_outage_can_be_made_again() {
    let target = fresh_database("outage").await.expect("a database");
    let store = fresh_database("control").await.expect("a database");
    let proxy = Proxy::before(&target).await.expect("a proxy");
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::on(folder, proxy.url().to_owned(), store, &target).await;
    let server = world.serve(|config| config).await;
    let control = world.control().await;
    let schedule = server.create(only_by_hand("tokens")).await;
    let decisions = async || {
        let sql =
            "SELECT count(*) FROM dbkeep_control.decisions WHERE detail LIKE '%fire schedule%' OR reason LIKE '%fire schedule%'";
        control.fetch_text(sql).await.expect("a count")[0][0]
            .clone()
            .expect("a count")
    };
    proxy.silence();
    let refused = fire(&server, &schedule.id, "call").await.expect_err("the target is away");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let slot = server.newest(&schedule.id, &[SlotOutcome::Refused]).await;
    assert!(slot.run_id.is_empty());
    proxy.speak();
    let run = fire(&server, &schedule.id, "call").await.expect("a run");
    server.newest(&schedule.id, &[SlotOutcome::Succeeded]).await;
    let fired = decisions().await;
    for _ in 0..3 {
        assert_eq!(fire(&server, &schedule.id, "call").await.expect("the run"), run);
    }
    assert_eq!(decisions().await, fired, "a call that is made again decides nothing");
    assert_eq!(fired, "2", "one that was refused, and one that fired");
    assert_eq!(server.list(&schedule.id).await.len(), 2);
    server.stop().await;
}

pub(crate) async fn other_rules_need_another_consent(database: &str) {
    let world = World::new(database).await;
    let server = world.serve(|config| config).await;
    let spec = v1::ScheduleSpec {
        operations: vec!["grave".to_owned()],
        ..only_by_hand("grave")
    };
    let schedule = server.create(spec).await;
    let tomorrow = Timestamp::now() + SignedDuration::from_hours(24);
    let approve = |etag: String| {
        let request = v1::ApproveScheduleRequest {
            id: schedule.id.clone(),
            etag,
            max_rows: 1_000,
            expire_time: Some(prost_types::Timestamp {
                seconds: tomorrow.as_second(),
                nanos: 0,
            }),
        };
        as_principal("bob", request)
    };
    let approved = server.schedules().approve_schedule(approve(schedule.etag.clone())).await;
    let approved = approved.expect("approved").into_inner().schedule.expect("a schedule");
    server.stop().await;

    // Somebody changes a rule in the catalog, and nothing else of the operation.
    let (before, grave) = CATALOG.split_once("name = \"grave\"").expect("the operation");
    let changed = format!(
        "{before}name = \"grave\"{}",
        grave.replacen("name = \"tokens\"", "name = \"other_tokens\"", 1)
    );
    assert_ne!(changed, CATALOG);
    let server = world
        .serve(|mut config| {
            config.targets[0].catalogs = vec![catalog(&changed)];
            config
        })
        .await;
    let refused = server.fire(&schedule.id).await.expect_err("nobody consented to that");
    assert!(refused.message().contains("other rules of its operations"), "{refused}");
    assert_eq!(world.expired().await, EXPIRED);
    server.stop().await;

    // With the rules of then the consent holds, and with a new one those of now do.
    let server = world.serve(|config| config).await;
    server.fire(&schedule.id).await.expect("a run");
    server.newest(&schedule.id, &[SlotOutcome::Succeeded]).await;
    server.stop().await;
    world.fill().await;
    let server = world
        .serve(|mut config| {
            config.targets[0].catalogs = vec![catalog(&changed)];
            config
        })
        .await;
    server
        .schedules()
        .approve_schedule(approve(approved.etag))
        .await
        .expect("approved");
    server.fire(&schedule.id).await.expect("a run");
    server.stop().await;
}

/// Consent to this schedule by another, to so many rows.
pub(crate) async fn consent(server: &Server, schedule: &v1::Schedule, max_rows: u64) {
    let tomorrow = Timestamp::now() + SignedDuration::from_hours(24);
    let request = v1::ApproveScheduleRequest {
        id: schedule.id.clone(),
        etag: schedule.etag.clone(),
        max_rows,
        expire_time: Some(prost_types::Timestamp {
            seconds: tomorrow.as_second(),
            nanos: 0,
        }),
    };
    let approved = server.schedules().approve_schedule(as_principal("bob", request)).await;
    approved.expect("approved");
}

/// The run of this schedule is accepted, within its limit, and waits while more rows expire: it stops before the batch that would let more than
/// `most` rows go. `consented` is what somebody else consents to, where the schedule needs that. Returns the run.
async fn stops_at(world: &World, spec: v1::ScheduleSpec, consented: Option<u64>, most: u64) -> v1::Run {
    let idle = world
        .serve(|mut config| {
            config.engine.concurrent_runs = 0;
            config
        })
        .await;
    let schedule = idle.create(spec).await;
    if let Some(max_rows) = consented {
        consent(&idle, &schedule, max_rows).await;
    }
    idle.fire(&schedule.id).await.expect("what would go now is within the limit");
    idle.stop().await;
    let more = world
        .db
        .execute("UPDATE tokens SET expires_at = 1000 WHERE id > 100020")
        .await
        .expect("expired");
    assert_eq!(more, EXPIRED / 2);
    let server = world
        .serve(|mut config| {
            // What a count may move by is not what stops it here.
            config.engine.drift = Drift {
                fraction: 1.0,
                rows: 1_000,
            };
            config
        })
        .await;
    let ended = [SlotOutcome::Warned, SlotOutcome::Succeeded, SlotOutcome::Failed];
    let ended = server.newest(&schedule.id, &ended).await;
    let run = v1::GetRunRequest { id: ended.run_id };
    let run = server.runs().get_run(run).await.expect("a run").into_inner();
    let run = run.run.expect("a run");
    assert_eq!(
        (ended.outcome, run.state()),
        (i32::from(SlotOutcome::Warned), v1::RunState::PartiallySucceeded),
        "{}",
        run.state_reason
    );
    let gone = run.report.as_ref().expect("a report").rows_affected;
    // Batches are of at most ten rows.
    assert!((most - 9..=most).contains(&gone), "{gone}: not a row more than {most}");
    assert_eq!(world.expired().await, EXPIRED + EXPIRED / 2 - gone);
    server.stop().await;
    run
}

pub(crate) async fn the_consent_holds_while_the_run_works(database: &str) {
    let world = World::new(database).await;
    let spec = v1::ScheduleSpec {
        operations: vec!["grave".to_owned()],
        options: Some(v1::ScheduleOptions {
            batch_size: Some(10),
            max_rows: Some(1_000),
            ..v1::ScheduleOptions::default()
        }),
        ..only_by_hand("grave")
    };
    let most = EXPIRED + 5;
    stops_at(&world, spec, Some(most), most).await;
}

pub(crate) async fn the_share_holds_while_the_run_works(database: &str) {
    let world = World::new(database).await;
    let spec = v1::ScheduleSpec {
        options: Some(v1::ScheduleOptions {
            max_fraction: Some(0.5),
            batch_size: Some(10),
            ..v1::ScheduleOptions::default()
        }),
        ..only_by_hand("half")
    };
    // Half of the table would go, which is allowed.
    let run = stops_at(&world, spec, None, EXPIRED).await;
    let reason = format!("{:?}", run.report.expect("a report").warnings);
    assert!(reason.contains(&format!("at most {EXPIRED} allowed")), "{reason}");
}

pub(crate) async fn what_waits_in_line_is_looked_at_again_before_it_begins(database: &str) {
    let world = World::new(database).await;
    let idle = world
        .serve(|mut config| {
            config.engine.concurrent_runs = 0;
            config
        })
        .await;
    let control = world.control().await;
    let with_consent = v1::ScheduleSpec {
        operations: vec!["grave".to_owned()],
        ..only_by_hand("grave")
    };
    let with_consent = idle.create(with_consent).await;
    consent(&idle, &with_consent, 1_000).await;
    idle.fire(&with_consent.id).await.expect("it is consented to");
    let timed = idle.create(once_a_year("timed")).await;
    world.make_due(&control, &timed.id, LATE).await;
    idle.newest(&timed.id, &[SlotOutcome::Fired]).await;
    // Both runs are accepted, and wait for a place.
    world
        .end_consent(&control, &with_consent.id, Timestamp::now() - SignedDuration::from_mins(1))
        .await;
    let pause = v1::PauseScheduleRequest {
        id: timed.id.clone(),
        note: "the disk".to_owned(),
    };
    idle.schedules().pause_schedule(pause).await.expect("paused");
    idle.stop().await;
    let server = world.serve(|config| config).await;
    let ended = [SlotOutcome::Warned, SlotOutcome::Succeeded, SlotOutcome::Failed];
    for (schedule, why) in [
        (&with_consent, "the standing approval of its schedule ended before it began"),
        (&timed, "the schedule was paused before it began: the disk"),
    ] {
        let slot = server.newest(&schedule.id, &ended).await;
        assert_eq!(
            (slot.outcome(), slot.reason.as_str()),
            (SlotOutcome::Warned, format!("cancelled: {why}").as_str())
        );
        assert_eq!(server.get(&schedule.id).await.consecutive_failures, 0, "it is no failure");
    }
    assert_eq!(world.expired().await, EXPIRED, "nothing was deleted");
    server.stop().await;
}
