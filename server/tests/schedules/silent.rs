//! The server of a target vanishes while the run of a slot works, without closing a connection: the attempt ends, the run goes on from its
//! journal when the server is back, and a wish to cancel it is heard.

use std::time::Duration;

use dbkeep_proto::v1;
use dbkeep_testkit::{Db, Proxy, fresh_database};
use jiff::SignedDuration;

use crate::world::{Server, World, as_principal, eventually, once_an_hour};

/// Expired rows, of which a batch takes a hundredth.
const ROWS: u64 = 1_000;

struct Silent {
    world: World,
    proxy: Proxy,
    server: Server,
    control: Db,
    schedule: String,
}

impl Silent {
    /// A run that is in its middle.
    async fn begin() -> Self {
        let target = fresh_database("silent").await.expect("a database");
        let store = fresh_database("control").await.expect("a database");
        let proxy = Proxy::before(&target).await.expect("a proxy");
        let folder = tempfile::tempdir().expect("a folder");
        let world = World::on(folder, proxy.url().to_owned(), store, &target).await;
        world.fill_with(ROWS).await;
        let server = world
            .serve(|mut config| {
                config.target_silence = Duration::from_secs(1);
                config
            })
            .await;
        let control = world.control().await;
        let spec = v1::ScheduleSpec {
            options: Some(v1::ScheduleOptions {
                batch_size: Some(10),
                ..v1::ScheduleOptions::default()
            }),
            ..once_an_hour("silent")
        };
        let schedule = server.create(spec).await.id;
        world.make_due(&control, &schedule, SignedDuration::from_mins(30)).await;
        eventually(|| async {
            let sql = "SELECT 1 FROM dbkeep.journal HAVING count(*) >= 5";
            let enough = world.db.fetch_text(sql).await.is_ok_and(|rows| !rows.is_empty());
            enough.then_some(())
        })
        .await;
        Self {
            world,
            proxy,
            server,
            control,
            schedule,
        }
    }

    /// Waits until the run has this state; its id.
    async fn run_is(&self, state: &str) -> String {
        eventually(|| async {
            let sql = format!("SELECT id FROM dbkeep_control.runs WHERE state = '{state}'");
            let rows = self.control.fetch_text(&sql).await.expect("runs");
            rows.into_iter().next().and_then(|mut row| row.pop().flatten())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_when_a_target_that_vanished_is_back() {
    let silent = Silent::begin().await;
    silent.proxy.silence();
    let run = silent.run_is("interrupted").await;
    assert!(silent.world.expired().await > 0, "it is not through");
    silent.proxy.speak();
    assert_eq!(silent.run_is("succeeded").await, run);
    assert_eq!(silent.world.expired().await, 0);
    let journal = format!("SELECT sum(affected) FROM dbkeep.journal WHERE run_id = '{run}'");
    let journal = silent.world.db.fetch_text(&journal).await.expect("a sum");
    assert_eq!(journal[0][0], Some(ROWS.to_string()), "each row went once");
    let slot = silent.server.newest(&silent.schedule, &[v1::SlotOutcome::Succeeded]).await;
    assert_eq!(slot.run_id, run);
    silent.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_on_a_silent_connection_can_be_cancelled() {
    let silent = Silent::begin().await;
    silent.proxy.silence_open();
    let run = eventually(|| async {
        let sql = "SELECT id FROM dbkeep_control.runs";
        let rows = silent.control.fetch_text(sql).await.expect("runs");
        rows.into_iter().next().and_then(|mut row| row.pop().flatten())
    })
    .await;
    let request = v1::CancelRunRequest {
        id: run.clone(),
        reason: "it hangs".to_owned(),
        ..v1::CancelRunRequest::default()
    };
    let cancelled = silent.server.runs().cancel_run(as_principal("ann", request)).await;
    cancelled.expect("a request");
    assert_eq!(silent.run_is("cancelled").await, run);
    assert!(silent.world.expired().await > 0, "it was stopped");
    silent.server.stop().await;
}

/// The sizes before the run are those that the first attempt finds which finds the target.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_away_at_the_begin_is_measured_when_it_is_back() {
    let target = fresh_database("away").await.expect("a database");
    let store = fresh_database("control").await.expect("a database");
    let proxy = Proxy::before(&target).await.expect("a proxy");
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::on(folder, proxy.url().to_owned(), store, &target).await;
    // The run is accepted, and waits.
    let idle = world
        .serve(|mut config| {
            config.engine.concurrent_runs = 0;
            config
        })
        .await;
    let spec = v1::ScheduleSpec {
        operations: Vec::new(),
        maintenance: vec![v1::MaintenanceTask {
            name: "vacuum_analyze".to_owned(),
            ..v1::MaintenanceTask::default()
        }],
        ..once_an_hour("away")
    };
    let schedule = idle.create(spec).await.id;
    let run = idle.fire(&schedule).await.expect("a run");
    idle.stop().await;
    proxy.silence();
    let server = world
        .serve(|mut config| {
            config.target_silence = Duration::from_secs(1);
            config
        })
        .await;
    let control = world.control().await;
    let column = async |column: &str| {
        let sql = format!("SELECT {column} FROM dbkeep_control.runs WHERE id = '{run}'");
        control.fetch_text(&sql).await.expect("a run")[0][0].clone().expect("a value")
    };
    eventually(|| async { (column("state").await == "interrupted").then_some(()) }).await;
    assert!(column("report").await.contains("SIZES_UNKNOWN"), "it was away");
    proxy.speak();
    eventually(|| async { (column("state").await == "succeeded").then_some(()) }).await;
    let report: serde_json::Value = serde_json::from_str(&column("report").await).expect("JSON");
    assert!(report["sizes"]["before"].is_object(), "{}", report["sizes"]);
    assert!(report["sizes"]["after"].is_object(), "{}", report["sizes"]);
    server.stop().await;
}
