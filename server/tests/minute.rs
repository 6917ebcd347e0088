//! A minute comes: four real servers on one store, and nobody makes a slot due. Each schedule of every minute has one slot and one run of it, none
//! before its time by the store's clock. How long after it is printed; what it has to be is for a benchmark to say.

#[path = "support/serving.rs"]
mod serving;
mod support;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "schedules/world.rs"]
mod world;

use std::collections::BTreeSet;

use dbkeep_proto::v1::{self, schedule_service_client::ScheduleServiceClient};
use dbkeep_testkit::Db;
use rustix::process::Signal;

use support::Daemon;
use world::{World, as_principal, eventually, once_a_year};

const SERVERS: usize = 4;
const SCHEDULES: usize = 20;
const MINUTE_MS: i64 = 60_000;
/// A minute that is nearer than this when the schedules are there is let pass: the servers look for new ones once a second.
const AHEAD_MS: i64 = 5_000;
/// The store's clock, milliseconds since 1970.
const CLOCK: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

async fn number(control: &Db, sql: &str) -> i64 {
    let rows = control.fetch_text(sql).await.expect(sql);
    rows[0][0].as_ref().expect(sql).parse().expect("a number")
}

async fn clock(control: &Db) -> i64 {
    number(control, &format!("SELECT {CLOCK}")).await
}

/// Has the store write down when each run was created.
async fn log_runs(control: &Db) {
    for statement in [
        "CREATE TABLE public.begun (at_ms bigint, request_id text)".to_owned(),
        format!(
            "CREATE FUNCTION public.log_run() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             INSERT INTO public.begun VALUES ({CLOCK}, NEW.request_id); RETURN NULL; END $$"
        ),
        "CREATE TRIGGER log_run AFTER INSERT ON dbkeep_control.runs FOR EACH ROW EXECUTE FUNCTION public.log_run()".to_owned(),
    ] {
        control.execute(&statement).await.expect(&statement);
    }
}

/// Creates a schedule of every minute that only counts: what is measured is the way from the slot to its run. Returns its id.
async fn create(daemon: &Daemon, name: &str) -> String {
    let spec = v1::ScheduleSpec {
        timing: Some(v1::Timing {
            when: Some(v1::timing::When::Expression("* * * * *".to_owned())),
            ..v1::Timing::default()
        }),
        options: Some(v1::ScheduleOptions {
            dry_run: true,
            ..v1::ScheduleOptions::default()
        }),
        ..once_a_year(name)
    };
    let request = v1::CreateScheduleRequest {
        spec: Some(spec),
        request_id: String::new(),
    };
    let mut client = ScheduleServiceClient::connect(format!("http://{}", daemon.address))
        .await
        .expect("a connection");
    let made = client.create_schedule(as_principal("ann", request)).await;
    made.expect("a schedule").into_inner().schedule.expect("a schedule").id
}

#[tokio::test(flavor = "multi_thread")]
async fn each_schedule_of_a_minute_that_comes_fires_once_and_not_before() {
    let world = World::new("postgres").await;
    let catalog = world.catalog_file();
    let start = |number: usize| {
        let config = world.folder.path().join(format!("server{number}.toml"));
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"data{number}\"\n[store]\nurl = \"{}\"\n[backup]\nfolder = \"backups\"\n\
             [scheduler]\ndefault_schedules = false\n[[target]]\nname = \"app\"\nurl = \"{}\"\ncatalog = [\"{}\"]\n",
            world.store,
            world.target,
            catalog.display()
        );
        std::fs::write(&config, text).expect("a configuration");
        Daemon::start_configured(&config)
    };
    let mut daemons: Vec<Daemon> = (0..SERVERS).map(start).collect();
    let control = world.control().await;
    log_runs(&control).await;
    let mut schedules = BTreeSet::new();
    for number in 0..SCHEDULES {
        schedules.insert(create(&daemons[number % SERVERS], &format!("minutely {number}")).await);
    }
    let minute = (clock(&control).await + AHEAD_MS) / MINUTE_MS * MINUTE_MS + MINUTE_MS;
    // It may be further away than anything else is waited for.
    eventually(|| async { (clock(&control).await >= minute - MINUTE_MS / 2).then_some(()) }).await;
    let ended = format!(
        "SELECT schedule_id FROM dbkeep_control.schedule_slots WHERE slot_ms = {minute} AND outcome NOT IN ('pending', 'waiting', 'fired')"
    );
    eventually(|| async {
        let slots = control.fetch_text(&ended).await.expect("slots");
        (slots.len() == SCHEDULES).then_some(())
    })
    .await;
    // Whoever is late with something has written it, and ended, before anything is counted.
    for daemon in &daemons {
        daemon.signal(Signal::TERM);
    }
    for daemon in &mut daemons {
        assert!(daemon.wait().success(), "it ends in order");
    }

    let sql = format!(
        "SELECT l.schedule_id, l.outcome, r.request_id, l.reason FROM dbkeep_control.schedule_slots AS l \
         LEFT JOIN dbkeep_control.runs AS r ON r.id = l.run_id WHERE l.slot_ms = {minute}"
    );
    let mut fired = BTreeSet::new();
    for row in control.fetch_text(&sql).await.expect("slots") {
        let schedule = row[0].clone().expect("a schedule");
        let request = format!("slot-{schedule}-{minute}");
        assert_eq!(
            (row[1].as_deref(), row[2].as_deref()),
            (Some("succeeded"), Some(request.as_str())),
            "{row:?}"
        );
        assert!(fired.insert(schedule), "one slot: {row:?}");
    }
    assert_eq!(fired, schedules);
    // In this minute, and in another in which the schedules may have been created.
    assert_eq!(
        number(&control, "SELECT count(*) FROM dbkeep_control.runs").await,
        number(&control, "SELECT count(*) FROM dbkeep_control.schedule_slots").await,
        "one run for each slot"
    );
    let sql = format!("SELECT at_ms - {minute} FROM public.begun WHERE request_id LIKE 'slot-%-{minute}' ORDER BY at_ms");
    let begun = control.fetch_text(&sql).await.expect("runs");
    assert_eq!(begun.len(), SCHEDULES, "one run for each schedule");
    let late: Vec<i64> = begun
        .into_iter()
        .flatten()
        .map(|late| late.expect("a number").parse().expect("a number"))
        .collect();
    println!("from the slot to its run: {late:?} ms");
    assert!(late.iter().all(|late| *late >= 0), "{late:?} ms");
}
