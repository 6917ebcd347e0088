//! kill -9 of the real server around the moment in which a run pauses: it is paused all the same, nothing was lost or deleted twice,
//! and it goes on from there.

#![cfg(feature = "failpoints")]

mod support;

use std::{fs, path::PathBuf};

use dbkeep_client::{Client, PlanRequest, RunQuery, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Db, fresh_database};
use futures::StreamExt as _;
use proto::{RunState, run_event::Event};
use support::Daemon;

const CHILDREN: u64 = 2_000;
/// Every fourth child.
const ORPHANS: u64 = CHILDREN / 4;

const CATALOG: &str = r#"
[[operation]]
name = "orphans"
category = "ORPHANED_DATA"
severity = "HIGH"
backup = true

[[operation.rule]]
name = "without_parent"
kind = "orphan"
table = "child"
columns = ["parent_id"]
parent = "parent"
parent_columns = ["id"]
"#;

struct World {
    url: String,
    db: Db,
    folder: tempfile::TempDir,
    catalog: PathBuf,
}

impl World {
    async fn new(database: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = if database == "postgres" {
            fresh_database("kill_pausing").await.expect("a database")
        } else {
            let file = folder.path().join("app.db");
            fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        };
        let catalog = folder.path().join("catalog.toml");
        fs::write(&catalog, CATALOG).expect("a catalog");
        let db = Db::open(&url).await.expect("a connection");
        let series = format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {CHILDREN})");
        for sql in [
            "CREATE TABLE parent (id integer PRIMARY KEY)".to_owned(),
            "CREATE TABLE child (id integer PRIMARY KEY, parent_id integer)".to_owned(),
            "INSERT INTO parent VALUES (1)".to_owned(),
            format!("INSERT INTO child {series} SELECT i, CASE WHEN i % 4 = 0 THEN 1000000 ELSE 1 END FROM n"),
        ] {
            db.execute(&sql).await.expect("prepared");
        }
        Self {
            url,
            db,
            folder,
            catalog,
        }
    }

    fn start(&self, failpoints: &str) -> Daemon {
        Daemon::start(&self.folder.path().join("data"), &self.url, &self.catalog, failpoints)
    }

    async fn journaled(&self) -> u64 {
        let journal = if self.url.starts_with("sqlite") {
            "_dbkeep_journal"
        } else {
            "dbkeep.journal"
        };
        let rows = self
            .db
            .fetch_text(&format!("SELECT CAST(sum(affected) AS text) FROM {journal}"))
            .await
            .expect("the journal");
        rows[0][0].as_deref().expect("a sum").parse().expect("a number")
    }
}

/// Follows a run until it is in this state.
async fn until(client: &Client, run: &str, state: RunState) -> proto::Run {
    let mut events = client.runs().watch(run).await.expect("a stream");
    loop {
        let event = events.next().await.expect("no end yet").expect("an event");
        if let Some(Event::StateChanged(change)) = event.event
            && change.to() == state
        {
            // The log is replayed: an older change into this state may not be the last.
            let run = client.runs().get(run).await.expect("the run");
            if run.state() == state {
                return run;
            }
        }
    }
}

/// Kills the server at `point`, which it passes while it pauses; `attempts` is how many it takes until the run is paused.
async fn killed(database: &str, point: &str, attempts: u32) {
    println!("{database}: kill -9 at {point}");
    let world = World::new(database).await;
    let before = world.db.table_hash("child", "id").await.expect("a hash");
    let mut daemon = world.start(&format!("{point}=panic"));
    let client = daemon.client().await;
    let plan = client.cleanup().plan(PlanRequest::new(["orphans"])).await.expect("a plan");
    let mut stream = client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute().batch_size(1))
        .await
        .expect("a run");
    loop {
        let event = stream.next().await.expect("an event").expect("an event");
        if matches!(event.event, Some(Event::Progress(progress)) if progress.rows_affected > 0) {
            break;
        }
    }
    let run = stream.run_id().expect("it has told its id").to_owned();
    // The server may be gone before it answers.
    drop(client.runs().pause(run.as_str(), "lunch").await);
    assert!(!daemon.wait().success(), "the server was killed");
    let deleted = world.journaled().await;
    assert!(deleted > 0 && deleted < ORPHANS, "{deleted} rows");

    let mut daemon = world.start("");
    let client = daemon.client().await;
    let runs = client.runs().list_all(RunQuery::default()).await.expect("runs");
    assert_eq!(runs.len(), 1);
    let paused = until(&client, &run, RunState::Paused).await;
    assert_eq!((paused.attempts, paused.state_reason.as_str()), (attempts, "lunch"));
    assert_eq!(
        paused.report.expect("a report").rows_affected,
        deleted,
        "the journal was read"
    );
    assert_eq!(world.journaled().await, deleted, "and nothing was added to it");
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - deleted);

    // A second start changes nothing.
    daemon.kill();
    let daemon = world.start("");
    let client = daemon.client().await;
    let still = client.runs().get(run.as_str()).await.expect("the run");
    assert_eq!((still.state(), still.attempts), (RunState::Paused, attempts));

    client.runs().resume(run.as_str()).await.expect("resumed");
    let update = dbkeep_client::LimitsUpdate::new(run.as_str())
        .batch_size(1_000)
        .duty_cycle_percent(100);
    client.runs().update_limits(update).await.expect("limits");
    let ended = until(&client, &run, RunState::Succeeded).await;
    assert_eq!(ended.report.expect("a report").rows_affected, ORPHANS);
    assert_eq!(world.journaled().await, ORPHANS);
    assert_eq!(world.db.count("child").await.expect("a count"), CHILDREN - ORPHANS);
    let undo = client.runs().undo(UndoRequest::new(run.as_str()).full_speed()).await;
    let undo = undo.expect("a stream").finish().await.expect("an end");
    assert_eq!(undo.state(), RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(world.db.table_hash("child", "id").await.expect("a hash"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_pause_is_recorded_on_postgres() {
    killed("postgres", "run-pausing", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_pause_is_recorded_on_sqlite() {
    killed("sqlite", "run-pausing", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_pause_is_recorded_on_postgres() {
    killed("postgres", "run-paused", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_pause_is_recorded_on_sqlite() {
    killed("sqlite", "run-paused", 1).await;
}
