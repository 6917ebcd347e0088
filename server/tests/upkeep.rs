//! Built-in maintenance by the real server, on both databases: what each task does, that one that fails does not stop the others, and
//! kill -9 in the middle of each, after which nothing is done twice and nothing lies around.
//!
//! Runs are accepted by an engine of the test's own on the same control store, before the server starts.

#![cfg(feature = "failpoints")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use dbkeep_client::{BackupQuery, Client, CreateRequest, RunRequest, proto};
use dbkeep_engine::{
    Engine, EngineError,
    catalog::Catalog,
    engine::{Settings, TargetEntry},
    model::{Caller, MaintenanceTask, Run, RunId},
    port::{Roots, Store},
};
use dbkeep_server::{archive::FolderArchive, store::ControlStore, target};
use dbkeep_testkit::{Db, fresh_database};
use futures::StreamExt as _;
use sqlx::{Connection as _, Executor as _, PgConnection};
use support::Daemon;

const CATALOG: &str = r#"
[[operation]]
name = "orphans"
category = "ORPHANED_DATA"
severity = "LOW"
backup = true

[[operation.rule]]
name = "without_parent"
kind = "orphan"
table = "child"
columns = ["parent_id"]
parent = "parent"
parent_columns = ["id"]
"#;

/// How long a database may take to come where a test wants it.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

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
            fresh_database("upkeep").await.expect("a database")
        } else {
            let file = folder.path().join("app.db");
            fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        };
        let catalog = folder.path().join("catalog.toml");
        fs::write(&catalog, CATALOG).expect("a catalog");
        let db = Db::open(&url).await.expect("a connection");
        let series = |rows: u32| format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})");
        db.execute(&format!(
            "CREATE TABLE parent (id integer PRIMARY KEY); \
             CREATE TABLE child (id integer PRIMARY KEY, parent_id integer, note text); \
             INSERT INTO parent {} SELECT i FROM n; \
             INSERT INTO child {} SELECT i, CASE WHEN i % 5 = 0 THEN 100000 + i ELSE 1 + i % 100 END, 'note ' || i FROM n",
            series(100),
            series(4_000)
        ))
        .await
        .expect("tables");
        if database == "postgres" {
            // Nobody else may come first.
            db.execute("ALTER TABLE child SET (autovacuum_enabled = false)")
                .await
                .expect("alone");
        }
        Self {
            url,
            db,
            folder,
            catalog,
        }
    }

    fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn start(&self, failpoints: &str) -> Daemon {
        Daemon::start(&self.data(), &self.url, &self.catalog, failpoints)
    }

    /// Two whole backups and one of captured rows, the newest of all.
    async fn with_backups(&self) -> [String; 3] {
        let daemon = self.start("");
        let client = daemon.client().await;
        let (first, second) = (save(&client).await, save(&client).await);
        let request = RunRequest::new(["orphans"]).execute().batch_size(100).full_speed();
        let cleaned = client
            .cleanup()
            .run(request)
            .await
            .expect("a run")
            .finish()
            .await
            .expect("an end");
        assert_eq!(cleaned.state(), proto::RunState::Succeeded, "{}", cleaned.state_reason);
        [first, second, cleaned.id]
    }

    async fn engine(&self) -> (Engine, ControlStore) {
        let data = self.data();
        fs::create_dir_all(&data).expect("a folder");
        let store = ControlStore::open(&format!("sqlite://{}", data.join("control.db").display()))
            .await
            .expect("a store");
        let entry = TargetEntry {
            target: target::open(&self.url).expect("a target"),
            catalog: Arc::new(Catalog::parse("c.toml", CATALOG).expect("a catalog")),
            roots: Arc::new(Roots::new()),
            migrations: None,
        };
        let archive = FolderArchive::open(data.join("backups")).expect("an archive");
        let targets = BTreeMap::from([("app".to_owned(), entry)]);
        let engine = Engine::new(targets, Arc::new(store.clone()), Arc::new(archive), Settings::default());
        (engine, store)
    }

    /// Accepts a run that a server will take up.
    async fn ask(&self, tasks: &[MaintenanceTask]) -> RunId {
        let (engine, _) = self.engine().await;
        let run = engine
            .start_maintenance("app", tasks.to_vec(), "", &caller())
            .await
            .expect("accepted");
        assert_eq!(run.started_by, "tester");
        run.id
    }

    /// The run as the control store has it.
    async fn stored(&self, run: RunId) -> Run {
        let (_, store) = self.engine().await;
        store.run(run).await.expect("a store").expect("the run")
    }

    /// Names of what each task dealt with, and whether that succeeded.
    async fn items(&self, run: RunId) -> BTreeMap<String, Vec<(String, bool)>> {
        let record = self.stored(run).await.report.maintenance.expect("a record");
        let items = record.tasks.into_iter().map(|task| {
            assert_eq!(task.current, None, "nothing is at work any more");
            let items = task.items.into_iter().map(|item| (item.name, item.done));
            (task.task.name().to_owned(), items.collect())
        });
        items.collect()
    }

    /// Scratch places that proofs left behind.
    async fn places(&self, run: RunId) -> Vec<String> {
        let stem = format!("dbkeep_proof_{}", run.0.simple());
        if self.is_postgres() {
            let sql = format!(
                "SELECT datname::text FROM pg_database WHERE datname LIKE '{stem}%' OR datname LIKE 'dbkeep_making_{}%'",
                run.0.simple()
            );
            let rows = self.db.fetch_text(&sql).await.expect("names");
            return rows.into_iter().map(|row| row[0].clone().unwrap_or_default()).collect();
        }
        let entries = fs::read_dir(self.folder.path()).expect("the folder");
        entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name.contains(&stem) || name.contains("dbkeep-"))
            .collect()
    }

    /// Looks at a number of the database until it is as expected.
    async fn until(&self, what: &str, sql: &str, expected: impl Fn(i64) -> bool) {
        let since = Instant::now();
        loop {
            let rows = self.db.fetch_text(sql).await.expect(what);
            let number = rows[0][0].as_deref().unwrap_or("0").parse().expect("a number");
            if expected(number) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{what}: {number}");
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn caller() -> Caller {
    Caller {
        principal: "tester".to_owned(),
        peer: String::new(),
    }
}

async fn save(client: &Client) -> String {
    let run = client
        .backups()
        .create(CreateRequest::new())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    run.id
}

async fn finish(daemon: &Daemon, run: RunId) -> proto::Run {
    let client = daemon.client().await;
    client
        .runs()
        .watch(run.to_string())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end")
}

/// State and message of each step by its task.
fn steps(run: &proto::Run) -> BTreeMap<String, (proto::StepState, String)> {
    let report = run.report.as_ref().expect("a report");
    report
        .steps
        .iter()
        .map(|step| (step.operation.clone(), (step.state(), step.message.clone())))
        .collect()
}

fn warnings(run: &proto::Run) -> Vec<(String, String)> {
    let report = run.report.as_ref().expect("a report");
    report
        .warnings
        .iter()
        .map(|warning| (warning.code.clone(), warning.message.clone()))
        .collect()
}

async fn verified(client: &Client) -> BTreeMap<String, bool> {
    let backups = client.backups().list_all(BackupQuery::default()).await.expect("backups");
    backups
        .into_iter()
        .map(|backup| {
            let proven = backup.verification() == proto::VerificationState::Verified;
            (backup.id, proven)
        })
        .collect()
}

fn all_tasks() -> Vec<MaintenanceTask> {
    vec![
        MaintenanceTask::VacuumAnalyze,
        MaintenanceTask::ReindexBloated,
        MaintenanceTask::VerifyBackups,
        MaintenanceTask::PruneBackups {
            keep_days: None,
            keep_count: Some(2),
        },
        MaintenanceTask::RestoreDrill,
    ]
}

/// Each case on each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name("postgres").await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name("sqlite").await; })* }
    };
}

on_both! {
    every_task_does_its_work
    a_task_that_fails_does_not_stop_the_others
    there_is_one_at_a_time_and_a_request_is_one_run
    killed_anywhere_it_goes_on_and_repeats_nothing
    a_folder_that_is_not_there_is_no_finding
    a_run_without_backups_says_so
}

async fn every_task_does_its_work(database: &str) {
    let world = World::new(database).await;
    let [oldest, whole, rows] = world.with_backups().await;
    if world.is_postgres() {
        let sql = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'child'";
        world.until("dead rows", sql, |dead| dead >= 800).await;
    }
    let run = world.ask(&all_tasks()).await;
    let daemon = world.start("");
    let ended = finish(&daemon, run).await;
    assert_eq!(
        ended.state(),
        proto::RunState::Succeeded,
        "{}: {:?}",
        ended.state_reason,
        warnings(&ended)
    );
    assert_eq!(ended.kind(), proto::RunKind::Maintain);
    assert_eq!(ended.operations, MaintenanceTask::NAMES);
    let steps = steps(&ended);
    let state = |task: &str| steps[task].0;
    for task in ["vacuum_analyze", "verify_backups", "prune_backups", "restore_drill"] {
        assert_eq!(state(task), proto::StepState::Succeeded, "{task}: {}", steps[task].1);
    }
    let (reindex, why) = &steps["reindex_bloated"];
    if world.is_postgres() {
        assert_eq!(
            (*reindex, why.as_str()),
            (proto::StepState::Succeeded, "0 large indexes looked at, none is mostly air")
        );
        assert!(
            steps["vacuum_analyze"].1.starts_with("1 table vacuumed"),
            "{}",
            steps["vacuum_analyze"].1
        );
    } else {
        assert_eq!(*reindex, proto::StepState::Skipped);
        assert!(why.contains("makes none smaller"), "{why}");
        assert!(
            steps["vacuum_analyze"].1.starts_with("1 file tidied"),
            "{}",
            steps["vacuum_analyze"].1
        );
    }
    assert_eq!(steps["verify_backups"].1, "3 backups proven");
    assert!(
        steps["prune_backups"].1.starts_with("1 backup removed"),
        "{}",
        steps["prune_backups"].1
    );
    assert!(
        steps["restore_drill"].1.contains(&whole),
        "the newest whole one: {}",
        steps["restore_drill"].1
    );
    assert!(steps["restore_drill"].1.contains("4100 rows"), "{}", steps["restore_drill"].1);
    let items = world.items(run).await;
    let names = |task: &str| {
        items[task]
            .iter()
            .map(|(name, done)| (name.as_str(), *done))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names("verify_backups"),
        [(rows.as_str(), true), (&whole, true), (&oldest, true)],
        "newest first"
    );
    assert_eq!(names("prune_backups"), [(oldest.as_str(), true)]);
    assert_eq!(names("restore_drill"), [(whole.as_str(), true)]);
    let client = daemon.client().await;
    let left = verified(&client).await;
    assert!(left[&whole] && left[&rows], "{left:?}");
    assert!(!world.data().join("backups").join(&oldest).exists(), "its files are gone");
    assert_eq!(world.places(run).await, Vec::<String>::new());
    drop((client, daemon));

    // What was proven is not proven again before its time.
    let run = world.ask(&[MaintenanceTask::VerifyBackups]).await;
    let daemon = world.start("");
    let ended = finish(&daemon, run).await;
    assert_eq!(first_message(&ended), "every backup was proven within the last 30 days");
    assert_eq!(world.items(run).await["verify_backups"], []);
}

fn first_message(run: &proto::Run) -> String {
    run.report.as_ref().expect("a report").steps[0].message.clone()
}

async fn a_task_that_fails_does_not_stop_the_others(database: &str) {
    let world = World::new(database).await;
    let [oldest, whole, rows] = world.with_backups().await;
    // One byte of a sealed dump, and one chunk that is gone.
    let folder = world.data().join("backups").join(&whole);
    let dump = fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path());
    let dump = dump
        .max_by_key(|path| fs::metadata(path).expect("a size").len())
        .expect("a dump");
    let mut bytes = fs::read(&dump).expect("the dump");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&dump, bytes).expect("damaged");
    let folder = world.data().join("backups").join(&rows);
    let chunk = fs::read_dir(&folder)
        .expect("a folder")
        .next()
        .expect("a chunk")
        .expect("an entry")
        .path();
    fs::remove_file(chunk).expect("removed");

    let tasks = vec![
        MaintenanceTask::RestoreDrill,
        MaintenanceTask::VerifyBackups,
        MaintenanceTask::VacuumAnalyze,
    ];
    let run = world.ask(&tasks).await;
    let daemon = world.start("");
    let ended = finish(&daemon, run).await;
    assert_eq!(ended.state(), proto::RunState::PartiallySucceeded, "{}", ended.state_reason);
    let steps = steps(&ended);
    assert_eq!(steps["restore_drill"].0, proto::StepState::Failed);
    assert!(
        steps["restore_drill"].1.contains("could not be restored as it was saved"),
        "{}",
        steps["restore_drill"].1
    );
    assert_eq!(
        steps["verify_backups"].0,
        proto::StepState::Partial,
        "{}",
        steps["verify_backups"].1
    );
    assert!(steps["verify_backups"].1.contains(&rows), "{}", steps["verify_backups"].1);
    assert_eq!(steps["vacuum_analyze"].0, proto::StepState::Succeeded);
    let items = world.items(run).await;
    // The drill found the newest whole one damaged, so that it was not proven again.
    assert_eq!(items["verify_backups"], [(rows.clone(), false), (oldest.clone(), true)]);
    let damaged: Vec<_> = warnings(&ended)
        .into_iter()
        .filter(|(code, _)| code == "BACKUP_DAMAGED")
        .collect();
    assert!(damaged.iter().any(|(_, message)| message.contains(&whole)), "{damaged:?}");
    assert!(damaged.iter().any(|(_, message)| message.contains(&rows)), "{damaged:?}");
    let client = daemon.client().await;
    let backups = client.backups().list_all(BackupQuery::default()).await.expect("backups");
    for backup in backups {
        let expected = if backup.id == oldest {
            proto::VerificationState::Verified
        } else {
            proto::VerificationState::Damaged
        };
        assert_eq!(backup.verification(), expected, "{}", backup.id);
    }
    assert_eq!(world.places(run).await, Vec::<String>::new());
}

async fn there_is_one_at_a_time_and_a_request_is_one_run(database: &str) {
    let world = World::new(database).await;
    let (engine, _) = world.engine().await;
    let start =
        async |tasks: Vec<MaintenanceTask>, request: &str| engine.start_maintenance("app", tasks, request, &caller()).await;
    let first = start(vec![MaintenanceTask::VacuumAnalyze], "once").await.expect("accepted");
    let again = start(vec![MaintenanceTask::VacuumAnalyze], "once").await.expect("repeated");
    assert_eq!(first.id, again.id);
    let other = start(vec![MaintenanceTask::RestoreDrill], "once").await;
    assert!(matches!(other, Err(EngineError::RequestIdReused { .. })), "{other:?}");
    let second = start(vec![MaintenanceTask::VacuumAnalyze], "").await;
    assert!(
        matches!(&second, Err(EngineError::RunAlreadyActive { run, .. }) if *run == first.id),
        "{second:?}"
    );
    for tasks in [vec![], vec![MaintenanceTask::RestoreDrill; 2]] {
        let refused = start(tasks, "").await;
        assert!(
            matches!(refused, Err(EngineError::InvalidField { field: "tasks", .. })),
            "{refused:?}"
        );
    }
    let refused = engine
        .start_maintenance_within("app", vec![MaintenanceTask::RestoreDrill], 59, "", &caller())
        .await;
    assert!(
        matches!(
            refused,
            Err(EngineError::InvalidField {
                field: "max_execution_seconds",
                ..
            })
        ),
        "{refused:?}"
    );
    let unknown = engine
        .start_maintenance("other", vec![MaintenanceTask::RestoreDrill], "", &caller())
        .await;
    assert!(matches!(unknown, Err(EngineError::UnknownTarget { .. })), "{unknown:?}");
}

async fn a_folder_that_is_not_there_is_no_finding(database: &str) {
    let world = World::new(database).await;
    let [oldest, whole, rows] = world.with_backups().await;
    let (backups, away) = (world.data().join("backups"), world.data().join("away"));
    fs::rename(&backups, &away).expect("not mounted");
    let tasks = [
        MaintenanceTask::VerifyBackups,
        MaintenanceTask::PruneBackups {
            keep_days: None,
            keep_count: Some(3),
        },
    ];
    let run = world.ask(&tasks).await;
    let daemon = world.start("");
    let ended = finish(&daemon, run).await;
    assert_eq!(steps(&ended)["verify_backups"].0, proto::StepState::Failed);
    let warned = warnings(&ended);
    assert_eq!(warned.len(), 3, "{warned:?}");
    for (code, message) in &warned {
        assert!(
            code == "VERIFY_FAILED" && message.contains("is the folder mounted?"),
            "{code} {message}"
        );
    }
    let client = daemon.client().await;
    for backup in client.backups().list_all(BackupQuery::default()).await.expect("backups") {
        assert_eq!(backup.verification(), proto::VerificationState::Unverified, "{}", backup.id);
    }
    drop((client, daemon));

    // It is there again: everything is found to be well.
    fs::remove_dir_all(&backups).expect("the empty one");
    fs::rename(&away, &backups).expect("mounted");
    let run = world.ask(&[MaintenanceTask::VerifyBackups]).await;
    let daemon = world.start("");
    let ended = finish(&daemon, run).await;
    assert_eq!(first_message(&ended), "3 backups proven");
    drop(daemon);

    // Of each kind the newest that was proven stays, whatever the rule lets go.
    let run = world
        .ask(&[MaintenanceTask::PruneBackups {
            keep_days: None,
            keep_count: Some(1),
        }])
        .await;
    let daemon = world.start("");
    let ended = finish(&daemon, run).await;
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
    let folder = |backup: &String| world.data().join("backups").join(backup).exists();
    assert!(!folder(&oldest) && folder(&whole) && folder(&rows));
}

async fn a_run_without_backups_says_so(database: &str) {
    let world = World::new(database).await;
    let run = world.ask(&[MaintenanceTask::RestoreDrill]).await;
    let daemon = world.start("");
    let ended = finish(&daemon, run).await;
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(steps(&ended)["restore_drill"].0, proto::StepState::Skipped);
    assert_eq!(
        warnings(&ended),
        [("NO_BACKUP".to_owned(), "there is no backup that could be restored".to_owned())]
    );
}

async fn killed_anywhere_it_goes_on_and_repeats_nothing(database: &str) {
    // (point, how often it is passed before)
    for (point, before) in [
        ("maintain-item-begun", 0),
        ("maintain-item-done", 0),
        ("maintain-item-done", 1),
        ("maintain-step-done", 0),
        ("maintain-step-done", 2),
        ("proof-checked", 0),
        ("scratch-created", 0),
        ("scratch-made", 0),
        ("proof-loaded", 1),
        ("prune-begun", 0),
        ("prune-file-gone", 0),
        ("prune-forgotten", 0),
        ("prune-ended", 0),
    ] {
        // A file is made under its own name at once.
        if database == "sqlite" && point == "scratch-created" {
            continue;
        }
        let case = format!("{point} after {before}");
        let world = World::new(database).await;
        let [oldest, whole, rows] = world.with_backups().await;
        if world.is_postgres() {
            let sql = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'child'";
            world.until("dead rows", sql, |dead| dead >= 800).await;
        }
        let run = world.ask(&all_tasks()).await;
        let armed = if before == 0 {
            format!("{point}=panic")
        } else {
            format!("{point}={before}*off->panic")
        };
        let mut daemon = world.start(&armed);
        assert!(!daemon.wait().success(), "{case}: the server was killed");
        let killed = world.stored(run).await;
        let daemon = world.start("");
        let ended = finish(&daemon, run).await;
        assert_eq!(
            (ended.state(), ended.attempts),
            (proto::RunState::Succeeded, 2),
            "{case}: {}: {:?}",
            ended.state_reason,
            warnings(&ended)
        );
        // What was over before is over: it began once.
        let mut begun: BTreeMap<u32, u32> = BTreeMap::new();
        let client = daemon.client().await;
        let mut events = client.runs().watch(run.to_string()).await.expect("a stream");
        while let Some(event) = events.next().await {
            if let Some(proto::run_event::Event::StepStarted(step)) = event.expect("an event").event {
                *begun.entry(step.index).or_default() += 1;
            }
        }
        for (index, step) in (0_u32..).zip(&killed.report.steps) {
            let over = matches!(
                step.state,
                dbkeep_engine::model::StepState::Succeeded | dbkeep_engine::model::StepState::Skipped
            );
            if over {
                assert_eq!(begun[&index], 1, "{case}: step {index} was over");
            }
        }
        let items = world.items(run).await;
        for (task, items) in &items {
            let names: BTreeSet<_> = items.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), items.len(), "{case}: {task} did nothing twice");
            assert!(items.iter().all(|(_, done)| *done), "{case}: {task}: {items:?}");
        }
        let verified_items: BTreeSet<_> = items["verify_backups"].iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(
            verified_items,
            BTreeSet::from([oldest.clone(), whole.clone(), rows.clone()]),
            "{case}"
        );
        assert_eq!(items["restore_drill"].len(), 1, "{case}");
        let pruned = [(oldest.clone(), true)];
        assert_eq!(items["prune_backups"], pruned, "{case}: whichever attempt removed it");
        let report = ended.report.as_ref().expect("a report");
        let proven = report
            .steps
            .iter()
            .find(|step| step.operation == "verify_backups")
            .expect("the step");
        // Twice the whole database of 4,100 rows, and the 800 that were captured.
        assert_eq!(proven.rows_affected, 9_000, "{case}: counted once");
        assert!(!world.data().join("backups").join(&oldest).exists(), "{case}: pruned");
        assert!(world.data().join("backups").join(&whole).exists(), "{case}: kept");
        assert_eq!(world.places(run).await, Vec::<String>::new(), "{case}: nothing lies around");
    }
}

/// A table whose index of over 20 MB is mostly air.
async fn bloat(world: &World) {
    world
        .db
        .execute(
            "CREATE TABLE fat (id integer PRIMARY KEY, note text) WITH (autovacuum_enabled = false); \
             INSERT INTO fat SELECT i, md5(i::text) FROM generate_series(1, 300000) AS i; \
             CREATE INDEX fat_note ON fat (note)",
        )
        .await
        .expect("a table");
    world.db.execute("DELETE FROM fat WHERE id % 10 <> 0").await.expect("deleted");
    // Not in a transaction block, hence alone.
    world
        .db
        .execute("VACUUM (ANALYZE, INDEX_CLEANUP ON) fat")
        .await
        .expect("vacuumed");
}

const LEFTOVERS: &str = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
/// The view shows every database of the server.
const REBUILDING: &str = "SELECT count(*) FROM pg_stat_progress_create_index \
     WHERE datname = current_database() AND phase LIKE 'waiting for old snapshots%'";

/// Somebody who looks at an older state of the database, for whom a rebuild waits.
async fn old_snapshot(url: &str) -> PgConnection {
    let mut session = PgConnection::connect(url).await.expect("a session");
    session
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM parent")
        .await
        .expect("a snapshot");
    session
}

async fn index_bytes(world: &World) -> u64 {
    let rows = world
        .db
        .fetch_text("SELECT pg_relation_size('fat_note')::text")
        .await
        .expect("a size");
    rows[0][0].as_deref().expect("a size").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_mostly_air_is_rebuilt() {
    for measured in [false, true] {
        let world = World::new("postgres").await;
        bloat(&world).await;
        if measured {
            world.db.execute("CREATE EXTENSION pgstattuple").await.expect("the extension");
        }
        let survey = target::open(&world.url).expect("a target");
        let nobody = dbkeep_engine::port::Watch {
            progress: tokio::sync::watch::channel(dbkeep_engine::model::MaintenanceProgress::default()).0,
            stop: tokio_util::sync::CancellationToken::new(),
        };
        let survey = survey.maintenance().survey_indexes(&nobody).await.expect("a survey");
        let [bloated] = &survey.bloated[..] else {
            panic!("one index is bloated: {survey:?}")
        };
        assert_eq!(bloated.index.to_string(), "public.fat_note");
        assert_eq!(bloated.found_by, if measured { "pgstattuple" } else { "estimate" });
        assert!(
            (80..=95).contains(&bloated.bloat_percent),
            "nine of ten entries are gone: {bloated:?}"
        );
        let before = index_bytes(&world).await;
        assert_eq!(bloated.bytes, before);
        let run = world.ask(&[MaintenanceTask::ReindexBloated]).await;
        let daemon = world.start("");
        let ended = finish(&daemon, run).await;
        assert_eq!(
            ended.state(),
            proto::RunState::Succeeded,
            "{}: {:?}",
            ended.state_reason,
            warnings(&ended)
        );
        let after = index_bytes(&world).await;
        assert!(after < before / 5, "{before} to {after}");
        let message = first_message(&ended);
        assert_eq!(
            message,
            format!("1 index rebuilt, {} bytes returned: public.fat_note", before - after)
        );
        assert_eq!(
            world.items(run).await["reindex_bloated"],
            [("public.fat_note".to_owned(), true)]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_was_killed_leaves_nothing_behind() {
    let world = World::new("postgres").await;
    bloat(&world).await;
    let before = index_bytes(&world).await;
    let mut reader = old_snapshot(&world.url).await;
    let run = world.ask(&[MaintenanceTask::ReindexBloated]).await;
    let mut daemon = world.start("");
    world.until("a rebuild that waits", REBUILDING, |count| count == 1).await;
    world.until("its new index", LEFTOVERS, |count| count == 1).await;
    let process = "SELECT coalesce(max(pid), 0)::bigint FROM pg_stat_progress_create_index WHERE datname = current_database()";
    let first = world.db.fetch_text(process).await.expect("a process")[0][0].clone();
    daemon.kill();
    // The server process does not hear of that: it goes on waiting.
    assert_eq!(world.db.fetch_text(process).await.expect("a process")[0][0], first);
    let daemon = world.start("");
    let first: i64 = first.as_deref().expect("a process").parse().expect("a number");
    world.until("another rebuild", process, |now| now != 0 && now != first).await;
    world.until("a rebuild that waits", REBUILDING, |count| count == 1).await;
    let left = world.db.count_where("pg_index", "NOT indisvalid").await.expect("a count");
    assert_eq!(left, 1, "the new one alone: that of the first attempt was removed");
    reader.execute("COMMIT").await.expect("the reader ends");
    let ended = finish(&daemon, run).await;
    assert_eq!(
        (ended.state(), ended.attempts),
        (proto::RunState::Succeeded, 2),
        "{}: {:?}",
        ended.state_reason,
        warnings(&ended)
    );
    let told = warnings(&ended);
    assert!(
        told.iter()
            .any(|(code, message)| code == "INDEX_LEFTOVER_REMOVED" && message.contains("public.fat_note_ccnew")),
        "{told:?}"
    );
    assert!(index_bytes(&world).await < before / 5);
    assert_eq!(world.db.count_where("pg_index", "NOT indisvalid").await.expect("a count"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_is_cancelled_leaves_nothing_behind() {
    let world = World::new("postgres").await;
    bloat(&world).await;
    let reader = old_snapshot(&world.url).await;
    let run = world.ask(&[MaintenanceTask::ReindexBloated]).await;
    let daemon = world.start("");
    world.until("a rebuild that waits", REBUILDING, |count| count == 1).await;
    let client = daemon.client().await;
    client.runs().cancel(run.to_string(), "no more").await.expect("asked");
    let ended = finish(&daemon, run).await;
    assert_eq!(ended.state(), proto::RunState::Cancelled, "{}", ended.state_reason);
    assert_eq!(world.db.count_where("pg_index", "NOT indisvalid").await.expect("a count"), 0);
    let told = warnings(&ended);
    assert!(told.iter().any(|(code, _)| code == "INDEX_LEFTOVER_REMOVED"), "{told:?}");
    drop(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_s_rebuild_left_is_named_and_stays() {
    let world = World::new("postgres").await;
    bloat(&world).await;
    let reader = old_snapshot(&world.url).await;
    let url = world.url.clone();
    let other = tokio::spawn(async move {
        let mut session = PgConnection::connect(&url).await.expect("a session");
        session.execute("REINDEX INDEX CONCURRENTLY fat_note").await.map(drop)
    });
    world.until("a rebuild that waits", REBUILDING, |count| count == 1).await;
    world
        .db
        .fetch_text("SELECT pg_cancel_backend(pid)::text FROM pg_stat_progress_create_index WHERE datname = current_database()")
        .await
        .expect("cancelled");
    assert!(other.await.expect("a task").is_err(), "it was cut short");
    drop(reader);
    let run = world.ask(&[MaintenanceTask::ReindexBloated]).await;
    let daemon = world.start("");
    let ended = finish(&daemon, run).await;
    assert_eq!(ended.state(), proto::RunState::Failed, "{}", ended.state_reason);
    let told = warnings(&ended);
    assert!(
        told.iter()
            .any(|(code, message)| code == "INDEX_LEFTOVER" && message.contains("public.fat_note_ccnew")),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|(code, message)| code == "REINDEX_FAILED" && message.contains("drop what an earlier rebuild left behind")),
        "{told:?}"
    );
    assert_eq!(
        world.db.count_where("pg_index", "NOT indisvalid").await.expect("a count"),
        1,
        "it is not ours to drop"
    );
}

/// A backup that cannot be removed does not keep the others, and a place that cannot be removed does not hide what a proof found.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_removed_is_named_and_nothing_else_fails() {
    let world = World::new("sqlite").await;
    let [oldest, whole, _] = world.with_backups().await;
    let verify = world.ask(&[MaintenanceTask::VerifyBackups]).await;
    // Beside the scratch file of the proofs, where nobody who opens it looks.
    let obstacle = format!("dbkeep_proof_{}.db-shm", verify.0.simple());
    fs::create_dir(world.folder.path().join(&obstacle)).expect("a folder");
    let daemon = world.start("");
    let ended = finish(&daemon, verify).await;
    let told = warnings(&ended);
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}: {told:?}", ended.state_reason);
    assert!(told.iter().any(|(code, _)| code == "SCRATCH_LEFT"), "{told:?}");
    assert!(told.iter().all(|(code, _)| code == "SCRATCH_LEFT"), "{told:?}");
    assert!(world.items(verify).await["verify_backups"].iter().all(|(_, done)| *done));
    assert!(verified(&daemon.client().await).await.values().all(|proven| *proven));
    drop(daemon);

    drop((oldest, whole));

    // The journal of captured rows cannot be emptied: that backup comes first, and those after it go.
    let world = World::new("sqlite").await;
    let [first, second, rows] = world.with_backups().await;
    let newest = {
        let daemon = world.start("");
        save(&daemon.client().await).await
    };
    let keep = format!(
        "CREATE TRIGGER keep BEFORE DELETE ON _dbkeep_run WHEN OLD.run_id = '{rows}' BEGIN SELECT RAISE(ABORT, 'it stays'); END"
    );
    world.db.execute(&keep).await.expect("a trigger");
    let prune = world
        .ask(&[MaintenanceTask::PruneBackups {
            keep_days: None,
            keep_count: Some(1),
        }])
        .await;
    let daemon = world.start("");
    let ended = finish(&daemon, prune).await;
    let told = warnings(&ended);
    assert_eq!(
        ended.state(),
        proto::RunState::PartiallySucceeded,
        "{}: {told:?}",
        ended.state_reason
    );
    assert!(
        told.iter()
            .any(|(code, message)| code == "PRUNE_FAILED" && message.contains(&rows) && message.contains("it stays")),
        "{told:?}"
    );
    let items = &world.items(prune).await["prune_backups"];
    assert_eq!(*items, [(rows, false), (second.clone(), true), (first.clone(), true)]);
    for (backup, stays) in [(&first, false), (&second, false), (&newest, true)] {
        assert_eq!(world.data().join("backups").join(backup).exists(), stays, "{backup}");
    }
}

/// Of what other roles rebuild the server shows no name: an index that is being made is not taken for one that was left behind.
#[tokio::test(flavor = "multi_thread")]
async fn the_rebuild_of_another_role_is_no_leftover() {
    let world = World::new("postgres").await;
    bloat(&world).await;
    let role = format!("keeper_{}", RunId::new().0.simple());
    world.db.execute(&format!("CREATE ROLE {role} LOGIN")).await.expect("a role");
    let reader = old_snapshot(&world.url).await;
    let url = world.url.clone();
    let other = tokio::spawn(async move {
        let mut session = PgConnection::connect(&url).await.expect("a session");
        session.execute("REINDEX INDEX CONCURRENTLY fat_note").await.map(drop)
    });
    world.until("a rebuild that waits", REBUILDING, |count| count == 1).await;
    world.until("its new index", LEFTOVERS, |count| count == 1).await;
    let survey = async |url: &str| {
        let nobody = dbkeep_engine::port::Watch {
            progress: tokio::sync::watch::channel(dbkeep_engine::model::MaintenanceProgress::default()).0,
            stop: tokio_util::sync::CancellationToken::new(),
        };
        let target = target::open(url).expect("a target");
        target.maintenance().survey_indexes(&nobody).await.expect("a survey")
    };
    let as_role = world.url.replace("postgres@", &format!("{role}@"));
    let seen = survey(&as_role).await;
    assert!(seen.leftovers.is_empty(), "{seen:?}");
    world
        .db
        .fetch_text("SELECT pg_cancel_backend(pid)::text FROM pg_stat_progress_create_index WHERE datname = current_database()")
        .await
        .expect("cancelled");
    assert!(other.await.expect("a task").is_err(), "it was cut short");
    drop(reader);
    let seen = survey(&as_role).await;
    assert_eq!(seen.leftovers.len(), 1, "now it is one: {seen:?}");
}
