//! kill -9 of the real server at every point of the batch protocol, on both databases; then a restart, and an oracle in raw SQL
//! that imports nothing of dbkeep: no row is lost, none is doubled, none outside the plan is touched, and undo restores all.
//!
//! `DBKEEP_KILL_SCALE=167 cargo test -p dbkeep-server --features failpoints --test kill postgres::after_the` does the same on a
//! million rows, in larger batches, killed later in the run; only the tests named `after_the_...` and `before_the_commit` can be scaled.

#![cfg(feature = "failpoints")]

mod support;

use std::{collections::BTreeSet, fs, path::PathBuf};

use dbkeep_client::{Client, PlanRequest, RunQuery, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Db, chunk, fresh_database};
use futures::StreamExt as _;
use support::Daemon;

const PARENTS: u32 = 400;
/// Children at scale 1.
const CHILDREN: u32 = 6_000;
/// Rows of a batch at scale 1.
const BATCH: u32 = 100;

/// How many times larger than usual the table is.
fn scale() -> u32 {
    std::env::var("DBKEEP_KILL_SCALE").map_or(1, |scale| scale.parse().expect("DBKEEP_KILL_SCALE is a number"))
}

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
    before: String,
    canary: String,
    keys: BTreeSet<String>,
    orphans: BTreeSet<String>,
}

impl World {
    async fn new(database: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = if database == "postgres" {
            fresh_database("kill").await.expect("a database")
        } else {
            let file = folder.path().join("app.db");
            fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        };
        let catalog = folder.path().join("catalog.toml");
        fs::write(&catalog, CATALOG).expect("a catalog");
        let db = Db::open(&url).await.expect("a connection");
        db.execute(
            "CREATE TABLE parent (id integer PRIMARY KEY); \
             CREATE TABLE child (id integer PRIMARY KEY, parent_id integer, note text); \
             CREATE TABLE canary (id integer PRIMARY KEY, parent_id integer)",
        )
        .await
        .expect("tables");
        // Every fifth child is an orphan, every seventh names nobody.
        let series = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})",
            CHILDREN * scale()
        );
        db.execute(&format!("INSERT INTO parent {series} SELECT i FROM n WHERE i <= {PARENTS}"))
            .await
            .expect("parents");
        db.execute(&format!(
            "INSERT INTO child {series} SELECT i, CASE WHEN i % 7 = 0 THEN NULL WHEN i % 5 = 0 THEN 1000000 + i ELSE 1 + i % {PARENTS} END, 'note ' || i FROM n"
        ))
        .await
        .expect("children");
        db.execute("INSERT INTO canary SELECT id, 999999 FROM parent")
            .await
            .expect("canaries");
        let before = db.table_hash("child", "id").await.expect("a hash");
        let canary = db.table_hash("canary", "id").await.expect("a hash");
        let orphans = "SELECT id FROM child WHERE parent_id IS NOT NULL AND parent_id NOT IN (SELECT id FROM parent)";
        let (keys, orphans) = (ids(&db, "SELECT id FROM child").await, ids(&db, orphans).await);
        assert!(orphans.len() > 800, "enough batches to be killed in");
        Self {
            url,
            db,
            folder,
            catalog,
            before,
            canary,
            keys,
            orphans,
        }
    }

    fn start(&self, failpoints: &str) -> Daemon {
        Daemon::start(&self.folder.path().join("data"), &self.url, &self.catalog, failpoints)
    }

    fn chunks(&self, run: &str) -> std::collections::BTreeMap<String, chunk::Chunk> {
        chunk::read_folder(&self.folder.path().join("data/backups").join(run)).expect("chunks")
    }

    async fn journaled(&self, run: &str) -> BTreeSet<String> {
        let journal = if self.url.starts_with("sqlite") {
            "_dbkeep_journal"
        } else {
            "dbkeep.journal"
        };
        let sql = format!(
            "SELECT chunk_file || ' ' || chunk_rows || ' ' || chunk_sha256 FROM {journal} WHERE run_id = '{run}' AND chunk_file IS NOT NULL"
        );
        ids(&self.db, &sql).await
    }

    /// The invariants that hold whenever a run has ended.
    async fn judge(&self, run: &str) {
        let after = ids(&self.db, "SELECT id FROM child").await;
        let chunks = self.chunks(run);
        let mut captured = Vec::new();
        for chunk in chunks.values() {
            let [section] = chunk.sections.as_slice() else {
                panic!("one table, one section")
            };
            assert_eq!(
                (section.effect.as_str(), section.columns.join(" ").as_str()),
                ("deleted", "id parent_id note")
            );
            for row in &section.rows {
                let id = row[0].clone().expect("a key");
                assert_eq!(
                    row[2].as_deref(),
                    Some(format!("note {id}").as_str()),
                    "the capture is the row"
                );
                captured.push(id);
            }
        }
        let unique: BTreeSet<String> = captured.iter().cloned().collect();
        assert_eq!(unique.len(), captured.len(), "a row is captured once");
        assert!(
            unique.is_disjoint(&after),
            "a row is in the table or in the backup, not in both"
        );
        assert_eq!(
            after.union(&unique).cloned().collect::<BTreeSet<_>>(),
            self.keys,
            "no row is lost"
        );
        assert!(unique.is_subset(&self.orphans), "nothing outside the plan is touched");
        let files: BTreeSet<String> = chunks
            .iter()
            .map(|(file, chunk)| format!("{file} {} {}", rows_of(chunk), chunk.sha256))
            .collect();
        assert_eq!(files, self.journaled(run).await, "the chunks are those of the journal");
        assert_eq!(
            self.db.table_hash("canary", "id").await.expect("a hash"),
            self.canary,
            "the canaries live"
        );
    }
}

async fn ids(db: &Db, sql: &str) -> BTreeSet<String> {
    db.fetch_text(sql)
        .await
        .expect("rows")
        .into_iter()
        .filter_map(|mut row| row.pop().flatten())
        .collect()
}

/// Starts the cleanup. The server may be killed before it answers, so that the run is looked up afterwards. On PostgreSQL it shares the
/// database, as runs do by default: its batches are several statements with rests between them. On SQLite that makes no other batches.
async fn start_run(world: &World, client: &Client) {
    let plan = client.cleanup().plan(PlanRequest::new(["orphans"])).await.expect("a plan");
    let mut request = RunRequest::of_plan(&plan).execute().batch_size(BATCH * scale().min(10));
    if world.url.starts_with("sqlite") {
        request = request.full_speed();
    }
    if let Ok(mut stream) = client.cleanup().run(request).await {
        while let Some(Ok(_)) = stream.next().await {}
    }
}

/// The only run of this kind.
async fn the_run(client: &Client, kind: proto::RunKind) -> String {
    let mut runs = client.runs().list_all(RunQuery::default().kind(kind)).await.expect("runs");
    assert_eq!(runs.len(), 1);
    runs.remove(0).id
}

async fn finish(client: &Client, run: &str) -> proto::Run {
    client
        .runs()
        .watch(run)
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end")
}

/// Kills the server at the `hit`-th time that it passes `point`, `kills` times in a row; then lets it end and judges.
async fn killed_at(database: &str, point: &str, hit: u32, kills: u32) {
    println!("{database}: kill -9 at {point}, hit {hit}, {kills} times");
    let world = World::new(database).await;
    let armed = format!("{point}={}*off->panic", hit * (1 + scale() / 10) - 1);
    let mut daemon = world.start(&armed);
    start_run(&world, &daemon.client().await).await;
    for _ in 1..kills {
        assert!(!daemon.wait().success(), "the server was killed");
        daemon = world.start(&armed);
    }
    assert!(!daemon.wait().success(), "the server was killed");

    let mut daemon = world.start("");
    let client = daemon.client().await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
    assert!(ended.attempts > kills, "{} attempts", ended.attempts);
    world.judge(&run).await;
    let left = ids(&world.db, "SELECT id FROM child").await;
    assert!(left.is_disjoint(&world.orphans), "every orphan is gone");
    let report = ended.report.expect("a report");
    assert_eq!(
        (report.rows_affected, report.rows_captured),
        (world.orphans.len() as u64, world.orphans.len() as u64)
    );

    // The event log has no hole, although three processes wrote it.
    let mut events = client.runs().watch(&run).await.expect("a stream");
    let mut last = 0;
    while let Some(event) = events.next().await {
        let event = event.expect("an event");
        assert_eq!(event.sequence, last + 1 + event.coalesced);
        last = event.sequence;
    }

    // A second start finds nothing to do.
    daemon.kill();
    let daemon = world.start("");
    let client = daemon.client().await;
    assert_eq!(client.runs().get(&run).await.expect("the run").attempts, ended.attempts);
    world.judge(&run).await;

    let undo = client
        .runs()
        .undo(run.as_str())
        .await
        .expect("an undo")
        .finish()
        .await
        .expect("an end");
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(
        world.db.table_hash("child", "id").await.expect("a hash"),
        world.before,
        "undo is bit-identical"
    );
}

macro_rules! killed {
    ($($name:ident: $point:literal, hit $hit:literal, $kills:literal times;)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::killed_at("postgres", $point, $hit, $kills).await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::killed_at("sqlite", $point, $hit, $kills).await; })* }
    };
}

killed! {
    after_the_claim: "run-claimed", hit 1, 2 times;
    with_an_open_transaction: "batch-begun", hit 2, 1 times;
    after_the_delete: "batch-deleted", hit 3, 3 times;
    after_the_seal: "batch-sealed", hit 2, 3 times;
    before_the_commit: "batch-recorded", hit 2, 3 times;
    after_the_commit: "batch-committed", hit 2, 3 times;
}

/// A reply to COMMIT that never comes: the journal tells that the batch took effect.
async fn commit_reply_lost(database: &str) {
    let world = World::new(database).await;
    let daemon = world.start("batch-commit-reply-lost=1*off->1*return->off");
    let client = daemon.client().await;
    start_run(&world, &client).await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(
        ended.attempts, 2,
        "the attempt that lost the reply ended, the next one went on"
    );
    world.judge(&run).await;
    assert_eq!(
        ended.report.expect("a report").rows_affected,
        world.orphans.len() as u64,
        "no batch is counted twice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_commit_reply_on_postgres() {
    commit_reply_lost("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_commit_reply_on_sqlite() {
    commit_reply_lost("sqlite").await;
}

fn rows_of(chunk: &chunk::Chunk) -> usize {
    chunk.sections.iter().map(|section| section.rows.len()).sum()
}

/// An undo that is killed between its chunks goes on, and puts no row back twice.
async fn undo_killed(database: &str, point: &str) {
    let world = World::new(database).await;
    let daemon = world.start("");
    let client = daemon.client().await;
    start_run(&world, &client).await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    finish(&client, &run).await;
    drop(daemon);

    let mut daemon = world.start(&format!("{point}=2*off->panic"));
    if let Ok(mut stream) = daemon
        .client()
        .await
        .runs()
        .undo(UndoRequest::new(run.as_str()).full_speed())
        .await
    {
        while let Some(Ok(_)) = stream.next().await {}
    }
    assert!(!daemon.wait().success(), "the server was killed");

    let daemon = world.start("");
    let client = daemon.client().await;
    let undo = the_run(&client, proto::RunKind::Undo).await;
    let ended = finish(&client, &undo).await;
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
    let report = ended.report.expect("a report");
    assert_eq!(
        (report.rows_affected, report.rows_conflicting),
        (world.orphans.len() as u64, 0)
    );
    assert_eq!(
        world.db.table_hash("child", "id").await.expect("a hash"),
        world.before,
        "undo is bit-identical"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_killed_on_postgres() {
    undo_killed("postgres", "undo-restored").await;
    undo_killed("postgres", "undo-committed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_killed_on_sqlite() {
    undo_killed("sqlite", "undo-restored").await;
    undo_killed("sqlite", "undo-committed").await;
}

/// A journal that is not there any more: the run ends, and the only copy of the deleted rows stays.
async fn journal_lost(database: &str) {
    let world = World::new(database).await;
    let mut daemon = world.start("batch-committed=2*off->panic");
    start_run(&world, &daemon.client().await).await;
    assert!(!daemon.wait().success(), "the server was killed");
    // Once more, so that the report in the control store knows of committed batches.
    let mut daemon = world.start("batch-committed=1*off->panic");
    assert!(!daemon.wait().success(), "the server was killed");
    let journal = if database == "postgres" {
        "DROP SCHEMA dbkeep CASCADE"
    } else {
        "DROP TABLE _dbkeep_journal; DROP TABLE _dbkeep_run"
    };
    world.db.execute(journal).await.expect("dropped");

    let daemon = world.start("");
    let client = daemon.client().await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Failed, "{}", ended.state_reason);
    assert!(ended.state_reason.contains("journal"), "{}", ended.state_reason);
    let captured: usize = world.chunks(&run).values().map(rows_of).sum();
    let left = ids(&world.db, "SELECT id FROM child").await;
    assert!(
        captured > 0 && captured + left.len() >= world.keys.len(),
        "every deleted row is still in a chunk"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_journal_on_postgres() {
    journal_lost("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_journal_on_sqlite() {
    journal_lost("sqlite").await;
}

/// A backup folder that takes no more: the run stops before it deletes.
async fn full_backup_disk(database: &str) {
    let world = World::new(database).await;
    let daemon = world.start("batch-seal-fails=return");
    let client = daemon.client().await;
    start_run(&world, &client).await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Failed);
    assert!(ended.state_reason.contains("backup"), "{}", ended.state_reason);
    assert_eq!(
        world.db.table_hash("child", "id").await.expect("a hash"),
        world.before,
        "nothing was deleted"
    );
    world.judge(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backup_disk_on_postgres() {
    full_backup_disk("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backup_disk_on_sqlite() {
    full_backup_disk("sqlite").await;
}
