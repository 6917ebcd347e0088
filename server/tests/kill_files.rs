//! kill -9 of the real server at every point of a batch of files, and failures of the disk there, on both databases; then an oracle that
//! reads the disk and imports nothing of dbkeep: no file is lost, none is doubled, none that is referred to goes, every one that is in
//! the trash is counted, and undo restores the tree.

#![cfg(feature = "failpoints")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use dbkeep_client::{Client, Error, PlanRequest, RunQuery, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Db, fresh_database};
use futures::StreamExt as _;
use support::Daemon;

/// Files; every second one is referred to.
const FILES: u32 = 240;
const BATCH: u32 = 10;

const CATALOG: &str = r#"
[[operation]]
name = "uploads"
category = "TEMPORARY_FILES"
severity = "MEDIUM"
backup = false

[[operation.rule]]
name = "unused"
kind = "orphan_files"
root = "uploads"
references = [{ table = "users", column = "avatar", prefix = "/u/" }]
"#;

struct World {
    place: tempfile::TempDir,
    url: String,
    db: Db,
    before: BTreeMap<PathBuf, String>,
    orphans: BTreeSet<PathBuf>,
}

fn name(number: u32) -> String {
    format!("d{}/\u{e9} {number}\n", number % 5)
}

/// Time, mode and content of a file.
fn look(path: &Path) -> String {
    let stat = fs::symlink_metadata(path).expect("there");
    let content = fs::read_to_string(path).expect("content");
    format!("{:o} {}.{} {content}", stat.mode(), stat.mtime(), stat.mtime_nsec())
}

/// The files beneath a folder; of a root, those outside of its trash.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        for entry in fs::read_dir(folder.join(&below)).expect("a folder") {
            let below = below.join(entry.expect("an entry").file_name());
            if folder.join(&below).is_dir() {
                if below != Path::new(".dbkeep-trash") {
                    pending.push(below);
                }
            } else {
                found.insert(below.clone(), look(&folder.join(&below)));
            }
        }
    }
    found
}

impl World {
    async fn new(database: &str) -> Self {
        let place = tempfile::tempdir().expect("a folder");
        let url = if database == "postgres" {
            fresh_database("killfiles").await.expect("a database")
        } else {
            let file = place.path().join("app.db");
            fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        };
        fs::write(place.path().join("catalog.toml"), CATALOG).expect("a catalog");
        let db = Db::open(&url).await.expect("a connection");
        db.execute("CREATE TABLE users (id integer PRIMARY KEY, avatar text); CREATE INDEX users_avatar ON users (avatar)")
            .await
            .expect("a table");
        let root = place.path().join("uploads");
        let time = SystemTime::now() - Duration::from_secs(48 * 3_600);
        for number in 0..FILES {
            let path = root.join(name(number));
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(&path, format!("content {number}")).expect("a file");
            File::options()
                .append(true)
                .open(&path)
                .and_then(|file| file.set_modified(time))
                .expect("a time");
        }
        let rows: Vec<String> = (0..FILES)
            .step_by(2)
            .map(|number| format!("({number}, '/u/{}')", name(number)))
            .collect();
        db.execute(&format!("INSERT INTO users VALUES {}", rows.join(", ")))
            .await
            .expect("users");
        Self {
            before: files(&root),
            orphans: (1..FILES).step_by(2).map(|number| PathBuf::from(name(number))).collect(),
            place,
            url,
            db,
        }
    }

    fn root(&self) -> PathBuf {
        self.place.path().join("uploads")
    }

    fn start(&self, failpoints: &str) -> Daemon {
        let at = |name: &str| self.place.path().join(name);
        Daemon::start_with_roots(
            &at("data"),
            &self.url,
            &at("catalog.toml"),
            &[("uploads", &self.root())],
            failpoints,
        )
    }

    /// What lies in a run's trash.
    fn trashed(&self, run: &str) -> Vec<String> {
        let trash = self.root().join(".dbkeep-trash").join(run);
        if !trash.exists() {
            return Vec::new();
        }
        let found = files(&trash).into_iter().filter(|(path, _)| !path.ends_with("manifest"));
        found.map(|(_, file)| file).collect()
    }

    /// What holds at every instant: a file is where it was or in the trash, as it was, once.
    fn judge(&self, run: &str) {
        let left = files(&self.root());
        let mut now: Vec<String> = left.values().cloned().chain(self.trashed(run)).collect();
        let mut then: Vec<String> = self.before.values().cloned().collect();
        now.sort_unstable();
        then.sort_unstable();
        assert_eq!(now, then, "no file is lost, changed or doubled");
        for (path, file) in &self.before {
            if !self.orphans.contains(path) {
                assert_eq!(left.get(path), Some(file), "{} is referred to", path.display());
            }
        }
    }
}

async fn start_run(client: &Client) {
    let plan = client.cleanup().plan(PlanRequest::new(["uploads"])).await.expect("a plan");
    let request = RunRequest::of_plan(&plan).execute().batch_size(BATCH).full_speed();
    // The server may be killed before it answers; the run is looked up afterwards.
    if let Ok(mut stream) = client.cleanup().run(request).await {
        while let Some(Ok(_)) = stream.next().await {}
    }
}

async fn the_run(client: &Client, kind: proto::RunKind) -> String {
    let mut runs = client.runs().list_all(RunQuery::default().kind(kind)).await.expect("runs");
    assert_eq!(runs.len(), 1);
    runs.remove(0).id
}

async fn finish(client: &Client, run: &str) -> proto::Run {
    let stream = client.runs().watch(run).await.expect("a stream");
    stream.finish().await.expect("an end")
}

/// Kills the server `kills` times in a row at the `hit`-th time that it passes `point`; then lets it end and judges.
async fn killed_at(database: &str, point: &str, hit: u32, kills: u32) {
    println!("{database}: kill -9 at {point}, hit {hit}, {kills} times");
    let world = World::new(database).await;
    let armed = format!("{point}={}*off->panic", hit - 1);
    let mut daemon = world.start(&armed);
    start_run(&daemon.client().await).await;
    for _ in 1..kills {
        assert!(!daemon.wait().success(), "the server was killed");
        daemon = world.start(&armed);
    }
    assert!(!daemon.wait().success(), "the server was killed");
    let trash = world.root().join(".dbkeep-trash");
    if trash.exists() {
        let run = fs::read_dir(&trash)
            .expect("a trash")
            .next()
            .expect("a run")
            .expect("an entry")
            .file_name();
        world.judge(run.to_str().expect("a name"));
    }

    let mut daemon = world.start("");
    let client = daemon.client().await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
    assert!(ended.attempts > kills, "{} attempts", ended.attempts);
    world.judge(&run);
    assert_eq!(world.trashed(&run).len(), world.orphans.len(), "every orphan is gone");
    let report = ended.report.expect("a report");
    let orphans = world.orphans.len() as u64;
    assert_eq!((report.rows_affected, report.rows_captured), (orphans, orphans));

    // A second start finds nothing to do.
    daemon.kill();
    let daemon = world.start("");
    let client = daemon.client().await;
    assert_eq!(client.runs().get(&run).await.expect("the run").attempts, ended.attempts);
    world.judge(&run);
    let verified = client
        .backups()
        .verify(run.as_str())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);

    let undo = client
        .runs()
        .undo(run.as_str())
        .await
        .expect("a stream")
        .finish()
        .await
        .expect("an end");
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(files(&world.root()), world.before, "undo is bit-identical");
}

macro_rules! killed {
    ($($name:ident: $point:literal, hit $hit:literal, $kills:literal times;)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::killed_at("postgres", $point, $hit, $kills).await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::killed_at("sqlite", $point, $hit, $kills).await; })* }
    };
}

killed! {
    after_the_claim: "run-claimed", hit 1, 2 times;
    after_the_walk: "files-gathered", hit 1, 1 times;
    after_the_announcement: "files-announced", hit 2, 3 times;
    in_the_midst_of_the_moves: "files-moving", hit 15, 3 times;
    after_the_moves: "files-moved", hit 2, 3 times;
    after_the_second_question: "files-judged", hit 3, 2 times;
    after_the_sync: "files-synced", hit 3, 2 times;
    after_the_seal: "files-sealed", hit 2, 3 times;
}

/// A disk that fails in the midst of a batch: the step ends, and counts what is in the trash, no more and no less. Undo restores the tree.
async fn failed_at(database: &str, faults: &str, moved: usize) {
    println!("{database}: {faults}");
    let world = World::new(database).await;
    let daemon = world.start(faults);
    let client = daemon.client().await;
    start_run(&client).await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Failed, "{}", ended.state_reason);
    assert!(
        ended.state_reason.contains("os error"),
        "the failure is told: {}",
        ended.state_reason
    );
    world.judge(&run);
    assert_eq!(world.trashed(&run).len(), moved);
    let report = ended.report.expect("a report");
    assert_eq!((report.rows_affected, report.rows_captured), (moved as u64, moved as u64));
    if moved == 0 {
        let refused = client.runs().undo(run.as_str()).await.map(drop);
        assert!(matches!(refused, Err(Error::NothingCaptured { .. })), "{refused:?}");
        assert_eq!(files(&world.root()), world.before);
        return;
    }
    let verified = client.backups().verify(run.as_str()).await.expect("a stream");
    let verified = verified.finish().await.expect("an end");
    assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);
    let undo = client.runs().undo(run.as_str()).await.expect("a stream");
    let undo = undo.finish().await.expect("an end");
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(undo.report.expect("a report").rows_affected, moved as u64);
    assert_eq!(files(&world.root()), world.before, "undo is bit-identical");
}

/// In each the second batch of ten fails, but for the last two.
async fn failures_leave_nothing_uncounted(database: &str) {
    for (faults, moved) in [
        // After four of its moves: those are sealed.
        ("files-move-fails=14*off->1*return->off", 14),
        // At the seal, which works at the second try.
        ("files-seal-fails=1*off->1*return->off", 20),
        // At the seal, for good: the batch goes back.
        ("files-seal-fails=1*off->return", 10),
        ("files-move-fails=14*off->1*return->off;files-seal-fails=1*off->return", 10),
        ("files-seal-fails=return", 0),
        ("files-move-fails=return", 0),
    ] {
        failed_at(database, faults, moved).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_leave_nothing_uncounted_on_postgres() {
    failures_leave_nothing_uncounted("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_leave_nothing_uncounted_on_sqlite() {
    failures_leave_nothing_uncounted("sqlite").await;
}

/// Where the batch can neither be sealed nor go back the run does not end: it is interrupted, and goes on when the disk works again.
async fn a_batch_that_cannot_be_ended_interrupts(database: &str) {
    let world = World::new(database).await;
    let mut daemon = world.start("files-seal-fails=1*off->return;files-back-fails=return");
    let client = daemon.client().await;
    let plan = client.cleanup().plan(PlanRequest::new(["uploads"])).await.expect("a plan");
    let request = RunRequest::of_plan(&plan).execute().batch_size(BATCH).full_speed();
    let mut stream = client.cleanup().run(request).await.expect("a run");
    loop {
        let event = stream.next().await.expect("no end").expect("an event");
        if let Some(proto::run_event::Event::StateChanged(change)) = &event.event
            && change.to() == proto::RunState::Interrupted
        {
            assert!(
                change.reason.contains("a batch of files is open and cannot be ended now"),
                "{}",
                change.reason
            );
            break;
        }
    }
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    world.judge(&run);
    assert_eq!(world.trashed(&run).len(), 2 * BATCH as usize);
    daemon.kill();
    goes_on(&world, &run, 0).await;
}

/// A server without failures takes the run up and ends it. What went back changed by that, and stays until the next plan.
async fn goes_on(world: &World, run: &str, went_back: usize) {
    let daemon = world.start("");
    let client = daemon.client().await;
    let ended = finish(&client, run).await;
    let (state, moved) = match went_back {
        0 => (proto::RunState::Succeeded, world.orphans.len()),
        files => (proto::RunState::PartiallySucceeded, world.orphans.len() - files),
    };
    assert_eq!(ended.state(), state, "{}", ended.state_reason);
    world.judge(run);
    assert_eq!(world.trashed(run).len(), moved);
    let report = ended.report.expect("a report");
    assert_eq!(
        (report.rows_affected, report.steps[0].rows_remaining),
        (moved as u64, went_back as u64)
    );
    let undo = client.runs().undo(run).await.expect("a stream");
    let undo = undo.finish().await.expect("an end");
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(files(&world.root()), world.before, "undo is bit-identical");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_be_ended_interrupts_on_postgres() {
    a_batch_that_cannot_be_ended_interrupts("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_cannot_be_ended_interrupts_on_sqlite() {
    a_batch_that_cannot_be_ended_interrupts("sqlite").await;
}

/// kill -9 while a failed batch is settled or taken back.
async fn killed_while_settling(database: &str) {
    for (faults, went_back) in [
        ("files-move-fails=14*off->1*return->off;files-settled=1*off->panic", 0),
        ("files-seal-fails=1*off->return;files-retracting=panic", BATCH as usize),
    ] {
        println!("{database}: {faults}");
        let world = World::new(database).await;
        let mut daemon = world.start(faults);
        start_run(&daemon.client().await).await;
        assert!(!daemon.wait().success(), "the server was killed");
        let trash = world.root().join(".dbkeep-trash");
        let run = fs::read_dir(&trash)
            .expect("a trash")
            .next()
            .expect("a run")
            .expect("an entry")
            .file_name();
        let run = run.to_str().expect("a name");
        world.judge(run);
        goes_on(&world, run, went_back).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_settling_on_postgres() {
    killed_while_settling("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_settling_on_sqlite() {
    killed_while_settling("sqlite").await;
}

/// A batch that was moved and never judged, in a run that cannot go on because a column that refers to files is gone: nobody can say by
/// now that a file is an orphan, and what was not judged goes back before the run ends.
async fn the_schema_changed_while_down(database: &str) {
    let world = World::new(database).await;
    let mut daemon = world.start("files-moved=1*off->panic");
    start_run(&daemon.client().await).await;
    assert!(!daemon.wait().success(), "the server was killed");
    world
        .db
        .execute("ALTER TABLE users ADD COLUMN more text")
        .await
        .expect("changed");
    let daemon = world.start("");
    let client = daemon.client().await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Failed, "{}", ended.state_reason);
    assert!(ended.state_reason.contains("schema changed"), "{}", ended.state_reason);
    world.judge(&run);
    assert_eq!(world.trashed(&run).len(), BATCH as usize, "the sealed batch");
    assert_eq!(ended.report.expect("a report").rows_affected, u64::from(BATCH));
    let undo = client.runs().undo(run.as_str()).await.expect("a stream");
    let undo = undo.finish().await.expect("an end");
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(files(&world.root()), world.before, "undo is bit-identical");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_changed_while_down_on_postgres() {
    the_schema_changed_while_down("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_changed_while_down_on_sqlite() {
    the_schema_changed_while_down("sqlite").await;
}

/// A batch that was moved and never judged: what is referred to by the time of the restart goes back, also where the run was cancelled
/// meanwhile and does nothing else any more.
async fn referred_to_while_down(database: &str, cancelled: bool) {
    let world = World::new(database).await;
    let mut daemon = world.start("files-moved=1*off->panic");
    start_run(&daemon.client().await).await;
    assert!(!daemon.wait().success(), "the server was killed");
    let left = files(&world.root());
    let moved: Vec<&PathBuf> = world.orphans.iter().filter(|path| !left.contains_key(*path)).collect();
    assert_eq!(moved.len(), 2 * BATCH as usize);
    for (number, path) in moved.iter().enumerate() {
        let sql = format!("INSERT INTO users VALUES ({}, '/u/{}')", 10_000 + number, path.display());
        world.db.execute(&sql).await.expect("a user");
    }
    let trash = world.root().join(".dbkeep-trash");
    let run = fs::read_dir(&trash)
        .expect("a trash")
        .next()
        .expect("a run")
        .expect("an entry")
        .file_name();
    let run = run.to_str().expect("a name").to_owned();
    if cancelled {
        // The attempt stands still until the request is written down, then ends with its server.
        let mut daemon = world.start("attempt-begins=pause");
        let client = daemon.client().await;
        client.runs().cancel(run.as_str(), "not any more").await.expect("a request");
        daemon.kill();
    }
    let daemon = world.start("");
    let client = daemon.client().await;
    let ended = finish(&client, &run).await;
    let back = files(&world.root());
    let sealed = moved.iter().filter(|path| !back.contains_key(**path)).count();
    assert_eq!(
        sealed, BATCH as usize,
        "the first batch was sealed before anything referred to it"
    );
    world.judge(&run);
    let (state, trashed) = if cancelled {
        (proto::RunState::Cancelled, BATCH as usize)
    } else {
        (proto::RunState::Succeeded, world.orphans.len() - BATCH as usize)
    };
    assert_eq!(
        (ended.state(), world.trashed(&run).len()),
        (state, trashed),
        "{}",
        ended.state_reason
    );
    let report = ended.report.expect("a report");
    assert_eq!(report.rows_affected, world.trashed(&run).len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn referred_to_while_down_on_postgres() {
    referred_to_while_down("postgres", false).await;
    referred_to_while_down("postgres", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn referred_to_while_down_on_sqlite() {
    referred_to_while_down("sqlite", false).await;
    referred_to_while_down("sqlite", true).await;
}

/// An undo that is killed goes on, and ends with the tree as it was.
async fn undo_killed(database: &str, point: &str, hit: u32) {
    println!("{database}: kill -9 of an undo at {point}, hit {hit}");
    let world = World::new(database).await;
    let daemon = world.start("");
    let client = daemon.client().await;
    start_run(&client).await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    finish(&client, &run).await;
    drop(daemon);
    let mut daemon = world.start(&format!("{point}={}*off->panic", hit - 1));
    let request = UndoRequest::new(run.as_str()).batch_size(BATCH).full_speed();
    if let Ok(mut stream) = daemon.client().await.runs().undo(request).await {
        while let Some(Ok(_)) = stream.next().await {}
    }
    assert!(!daemon.wait().success(), "the server was killed");
    world.judge(&run);
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
    assert_eq!(files(&world.root()), world.before, "undo is bit-identical");
    assert!(world.trashed(&run).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_killed_on_postgres() {
    undo_killed("postgres", "files-restoring", 25).await;
    undo_killed("postgres", "files-restored", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn undo_killed_on_sqlite() {
    undo_killed("sqlite", "files-restoring", 25).await;
    undo_killed("sqlite", "undo-files-restored", 3).await;
}
