//! A primary of PostgreSQL is killed while the run of a slot works, and its standby is promoted: once that of the control store, once that of the
//! target. Two real servers find the new primary by themselves; the run goes on from its journal, and an oracle in raw SQL counts.
//!
//! `DBKEEP_FAILOVERS=10` for more rounds than usual.

use std::collections::BTreeSet;

use dbkeep_proto::v1::{self, schedule_service_client::ScheduleServiceClient};
use dbkeep_testkit::{Db, ReplicatedPostgres, fresh_database};
use jiff::SignedDuration;

use crate::{
    support::Daemon,
    world::{Random, World, as_principal, captured, eventually, once_a_year},
};

/// Expired rows of a round, and as many that live.
const ROWS: u64 = 1_000;
/// Rows of a batch.
const BATCH: u64 = 10;

fn rounds() -> u64 {
    std::env::var("DBKEEP_FAILOVERS").map_or(2, |rounds| rounds.parse().expect("DBKEEP_FAILOVERS is a number"))
}

/// Of a minute that was so many minutes ago: its newest slot can be caught up, and the next is far away.
fn timing(minutes: i64) -> v1::Timing {
    let minute = (jiff::Timestamp::now() - SignedDuration::from_mins(minutes)).as_second() / 60 % 60;
    v1::Timing {
        when: Some(v1::timing::When::Expression(format!("{minute} * * * *"))),
        ..v1::Timing::default()
    }
}

/// Starts one of two servers that share everything but their folders.
fn start(world: &World, number: usize, failpoints: &str) -> Daemon {
    let config = world.folder.path().join(format!("server{number}.toml"));
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[data]\nfolder = \"data{number}\"\n[store]\nurl = \"{}\"\n[backup]\nfolder = \"backups\"\n\
         [engine]\nlease_term = \"3s\"\n[scheduler]\ndefault_schedules = false\n\
         [[target]]\nname = \"app\"\nurl = \"{}\"\ncatalog = [\"{}\"]\n",
        world.store,
        world.target,
        world.catalog_file().display()
    );
    std::fs::write(&config, text).expect("a configuration");
    Daemon::start_configured_with(&config, failpoints)
}

async fn client(daemon: &Daemon) -> ScheduleServiceClient<tonic::transport::Channel> {
    ScheduleServiceClient::connect(format!("http://{}", daemon.address))
        .await
        .expect("a connection")
}

/// Waits until every slot of the schedule has ended, of which there are so many; the outcome and run of the newest.
async fn ended(world: &World, control: &Db, schedule: &str, number: usize) -> (String, Option<String>) {
    eventually(|| async {
        let slots = world.slots(control, schedule).await;
        let open = slots
            .iter()
            .any(|slot| ["pending", "waiting", "fired"].contains(&slot.0.as_str()));
        (slots.len() == number && !open).then(|| slots.last().cloned())?
    })
    .await
}

/// Planned, captured and deleted are the same rows, and no other row is gone.
async fn judge(world: &World, control: &Db, target: &Db, run: &str) {
    let text = |db: &Db, sql: String| {
        let db = db.clone();
        async move {
            let rows = db.fetch_text(&sql).await.expect("rows");
            rows.into_iter().filter_map(|mut row| row.pop().flatten()).collect::<Vec<_>>()
        }
    };
    assert_eq!(
        captured(&world.folder.path().join("backups").join(run)),
        (1..=ROWS).collect::<BTreeSet<_>>(),
        "what expired was captured, and nothing else"
    );
    assert_eq!(target.count_where("tokens", "expires_at < 2000").await.expect("a count"), 0);
    assert_eq!(target.count("tokens").await.expect("a count"), ROWS, "what lives stays");
    let journal = format!("SELECT sum(chunk_rows) FROM dbkeep.journal WHERE run_id = '{run}' AND chunk_file IS NOT NULL");
    assert_eq!(text(target, journal).await, [ROWS.to_string()], "the journal says the same");
    let report = text(control, format!("SELECT report FROM dbkeep_control.runs WHERE id = '{run}'")).await;
    let report: serde_json::Value = serde_json::from_str(&report[0]).expect("JSON");
    let step = &report["steps"][0];
    for count in ["rows_planned", "rows_captured", "rows_affected"] {
        assert_eq!(step[count], ROWS, "the report says the same: {report}");
    }
}

/// One round: a failover of the control store, or of the target.
async fn round(of_the_store: bool, seed: u64) {
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let pair = ReplicatedPostgres::start().await.expect("a primary and a standby");
    pair.primary().create_database("one").await.expect("a database");
    let other = fresh_database("failover").await.expect("a database");
    let folder = tempfile::tempdir().expect("a folder");
    let (before, after) = (pair.primary().url("one"), pair.standby().url("one"));
    let mut world = if of_the_store {
        World::on(folder, other.clone(), pair.url("one"), &other).await
    } else {
        World::on(folder, pair.url("one"), other.clone(), &before).await
    };
    world.fill_with(ROWS).await;
    let batches = 5 + random.below(40);
    // In every other round the one server that is first, where that is this one, dies in the middle as well.
    let armed = if random.below(2) == 0 {
        format!("batch-committed={batches}*off->panic")
    } else {
        String::new()
    };
    println!("after {batches} batches; armed: {armed}");
    let mortal = start(&world, 1, &armed);
    let survivor = start(&world, 2, "");
    let spec = v1::ScheduleSpec {
        timing: Some(timing(5)),
        options: Some(v1::ScheduleOptions {
            batch_size: Some(u32::try_from(BATCH).expect("small")),
            ..v1::ScheduleOptions::default()
        }),
        ..once_a_year("tokens")
    };
    let request = v1::CreateScheduleRequest {
        spec: Some(spec),
        request_id: String::new(),
    };
    let mut schedules = client(&survivor).await;
    let made = schedules.create_schedule(as_principal("ann", request)).await;
    let schedule = made.expect("a schedule").into_inner().schedule.expect("a schedule").id;
    let control = Db::open(if of_the_store { &before } else { &other })
        .await
        .expect("the control store");
    world.make_due(&control, &schedule, SignedDuration::from_mins(30)).await;

    // The run is in its middle. Before its first batch there is no journal.
    let committed = format!("SELECT 1 FROM dbkeep.journal HAVING count(*) >= {batches}");
    eventually(|| async {
        let enough = world.db.fetch_text(&committed).await.is_ok_and(|rows| !rows.is_empty());
        enough.then_some(())
    })
    .await;
    pair.kill_primary().await.expect("killed");
    if of_the_store {
        assert!(world.expired().await > 0, "it is not through");
    }
    pair.promote().await.expect("promoted");

    let control = if of_the_store {
        Db::open(&after).await.expect("the control store")
    } else {
        world.db = Db::open(&after).await.expect("the target");
        control
    };
    let (outcome, run) = ended(&world, &control, &schedule, 1).await;
    let reasons = world.reasons(&control, &schedule).await;
    assert_eq!(outcome, "succeeded", "{reasons:?}");
    judge(&world, &control, &world.db, &run.expect("a run")).await;
    assert_eq!(world.runs(&control, &schedule).await, 1, "one slot, one run");

    // The slots after it fire.
    world.fill().await;
    let update = v1::UpdateScheduleRequest {
        id: schedule.clone(),
        etag: String::new(),
        spec: Some(v1::ScheduleSpec {
            timing: Some(timing(4)),
            ..v1::ScheduleSpec::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["timing".to_owned()],
        }),
    };
    schedules.update_schedule(as_principal("ann", update)).await.expect("changed");
    world.make_due(&control, &schedule, SignedDuration::from_mins(4)).await;
    let (outcome, _) = ended(&world, &control, &schedule, 2).await;
    assert_eq!(outcome, "succeeded", "{:?}", world.reasons(&control, &schedule).await);
    assert_eq!(world.runs(&control, &schedule).await, 2);
    assert_eq!(world.expired().await, 0);
    drop((mortal, survivor));
}

async fn rounds_of(of_the_store: bool) {
    for number in 1..=rounds() {
        round(of_the_store, 0x5eed_fa11_0fe7_u64.wrapping_mul(number)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_control_store_while_a_run_works() {
    rounds_of(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_target_while_a_run_works() {
    rounds_of(false).await;
}
