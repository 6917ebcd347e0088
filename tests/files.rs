//! Files, end to end: a real server, the real client, both databases, a real folder. What a caller can see of the rule kinds
//! `temp_files` and `orphan_files`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use dbkeep_client::{Client, Error, LimitsUpdate, PlanRequest, PruneRequest, RunRequest, UndoRequest, proto};
use dbkeep_server::Config;
use dbkeep_testkit::{Db, fresh_database};
use futures::StreamExt as _;
use proto::run_event::Event;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Database {
    Postgres,
    Sqlite,
}

/// Each case on each database.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Postgres).await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::Database::Sqlite).await; })* }
    };
}

on_both! {
    old_files_go_to_the_trash_and_come_back
    exactly_the_files_that_nothing_refers_to_go
    what_changes_after_the_plan_stays
    pruned_files_are_gone_for_good
    rows_and_their_files_go_in_one_run
    emptied_or_foreign_references_are_refused
    a_rule_that_does_not_fit_is_refused_at_start
    conflicts_and_damage_are_reported
    a_root_is_held_and_its_replacement_noticed
    the_documented_examples_run
    late_references_count_in_any_spelling
    a_full_disk_strands_nothing
}

const CATALOG: &str = r#"
[[operation]]
name = "temporary"
category = "TEMPORARY_FILES"
severity = "LOW"
backup = false

[[operation.rule]]
name = "old"
kind = "temp_files"
root = "temp"
glob = "**/*.tmp"
age = "PT24H"
max_fraction = 1.0

[[operation]]
name = "uploads"
category = "TEMPORARY_FILES"
severity = "MEDIUM"
backup = false

[[operation.rule]]
name = "unused"
kind = "orphan_files"
root = "uploads"
references = [
    { table = "users", column = "avatar", prefix = "/uploads/" },
    { table = "lessons", column = "attachment" },
]

[[operation]]
name = "gone_users"
category = "ORPHANED_DATA"
severity = "HIGH"
backup = true

[[operation.rule]]
name = "expired_users"
kind = "expired"
table = "users"
column = "expires_at"
expiry = true
encoding = "unix_seconds"

[[operation.rule]]
name = "their_files"
kind = "orphan_files"
root = "uploads"
references = [
    { table = "users", column = "avatar", prefix = "/uploads/" },
    { table = "lessons", column = "attachment" },
]
"#;

/// A database, two roots, and a server.
struct World {
    place: tempfile::TempDir,
    url: String,
    db: Db,
    client: Client,
    shutdown: CancellationToken,
    _server: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl World {
    async fn new(database: Database) -> Self {
        Self::with(database, CATALOG).await
    }

    async fn prepare(database: Database) -> (tempfile::TempDir, String, Db) {
        let place = tempfile::tempdir().expect("a folder");
        for root in ["temp", "uploads"] {
            fs::create_dir(place.path().join(root)).expect("a root");
        }
        let url = match database {
            Database::Postgres => fresh_database("files").await.expect("a database"),
            Database::Sqlite => {
                let file = place.path().join("app.db");
                fs::write(&file, []).expect("an empty database");
                format!("sqlite://{}", file.display())
            }
        };
        let db = Db::open(&url).await.expect("a connection");
        db.execute(
            "CREATE TABLE users (id integer PRIMARY KEY, avatar varchar(200), expires_at bigint); \
             CREATE TABLE lessons (id integer PRIMARY KEY, attachment text); \
             CREATE TABLE courses (id integer PRIMARY KEY, thumbnail text); \
             CREATE INDEX users_avatar ON users (avatar)",
        )
        .await
        .expect("tables");
        (place, url, db)
    }

    fn config(place: &Path, url: &str, catalog: &str) -> Config {
        let file = place.join("catalog.toml");
        fs::write(&file, catalog).expect("a catalog");
        Config::embedded(place.join("data"))
            .with_target("app", url, file.as_path())
            .with_root("app", "temp", place.join("temp"))
            .with_root("app", "uploads", place.join("uploads"))
    }

    async fn with(database: Database, catalog: &str) -> Self {
        let (place, url, db) = Self::prepare(database).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let shutdown = CancellationToken::new();
        let serving = dbkeep_server::serve(listener, Self::config(place.path(), &url, catalog), shutdown.clone());
        let server = tokio::spawn(async move { serving.await.expect("the server ends in order") });
        let client = Client::builder().address(&address).connect().await.expect("a connection");
        Self {
            place,
            url,
            db,
            client,
            shutdown,
            _server: server,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// A file that was last written some hours ago.
    fn file(&self, name: &str, hours: u64) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(&path, name).expect("a file");
        let time = SystemTime::now() - Duration::from_secs(hours * 3_600);
        File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(time))
            .expect("a time");
    }

    /// Uploads `f0` to `f99`: users refer to the first forty with a prefix, lessons to the next forty without, nothing to the rest; and one
    /// young file.
    async fn uploads(&self) {
        for number in 0..100 {
            self.file(&format!("uploads/d{}/f{number}", number % 7), 48);
        }
        self.file("uploads/young", 1);
        for number in 0..40 {
            let sql = format!(
                "INSERT INTO users VALUES ({number}, '/uploads/d{}/f{number}', NULL)",
                number % 7
            );
            self.db.execute(&sql).await.expect("a user");
        }
        for number in 40..80 {
            let sql = format!("INSERT INTO lessons VALUES ({number}, './d{}//f{number}')", number % 7);
            self.db.execute(&sql).await.expect("a lesson");
        }
        self.db
            .execute("INSERT INTO users VALUES (1000, NULL, NULL), (1001, '/uploads/gone', NULL)")
            .await
            .expect("users");
    }

    /// Everything beneath a root but its trash: mode, time and content of each file.
    fn tree(&self, root: &str) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(folder) = pending.pop() {
            for entry in fs::read_dir(self.path(root).join(&folder)).expect("a folder") {
                let below = folder.join(entry.expect("an entry").file_name());
                let path = self.path(root).join(&below);
                let stat = fs::symlink_metadata(&path).expect("there");
                if stat.is_dir() && below != Path::new(".dbkeep-trash") {
                    pending.push(below);
                } else if stat.is_file() {
                    let content = fs::read_to_string(&path).expect("content");
                    found.insert(
                        below,
                        format!("{:o} {}.{} {content}", stat.mode(), stat.mtime(), stat.mtime_nsec()),
                    );
                }
            }
        }
        found
    }

    async fn plan(&self, operation: &str) -> proto::Plan {
        let plan = self.client.cleanup().plan(PlanRequest::new([operation])).await;
        plan.expect("a plan")
    }

    async fn run(&self, plan: &proto::Plan) -> proto::Run {
        let request = RunRequest::of_plan(plan).execute().batch_size(7).full_speed();
        let run = self.client.cleanup().run(request).await.expect("a run");
        run.finish().await.expect("an end")
    }

    async fn undo(&self, run: &proto::Run) -> proto::Run {
        let request = UndoRequest::new(run.id.as_str()).full_speed();
        let undo = self.client.runs().undo(request).await.expect("an undo");
        undo.finish().await.expect("an end")
    }

    async fn verify(&self, run: &proto::Run) -> proto::Run {
        let verification = self.client.backups().verify(run.id.as_str()).await.expect("a verification");
        verification.finish().await.expect("an end")
    }
}

fn codes(plan: &proto::Plan) -> Vec<&str> {
    let findings = plan.steps.iter().flat_map(|step| &step.findings);
    findings.map(|finding| finding.code.as_str()).collect()
}

fn report(run: &proto::Run) -> &proto::RunReport {
    run.report.as_ref().expect("a report")
}

fn warnings(run: &proto::Run) -> Vec<&str> {
    report(run).warnings.iter().map(|warning| warning.code.as_str()).collect()
}

async fn old_files_go_to_the_trash_and_come_back(database: Database) {
    let world = World::new(database).await;
    for number in 0..50 {
        world.file(&format!("temp/a/{number}.tmp"), 25);
    }
    world.file("temp/a/old.log", 1_000);
    world.file("temp/young.tmp", 23);
    std::os::unix::fs::symlink(world.path("temp/a/old.log"), world.path("temp/link.tmp")).expect("a link");
    let before = world.tree("temp");

    let plan = world.plan("temporary").await;
    let step = &plan.steps[0];
    assert_eq!(world.tree("temp"), before, "a plan changes nothing");
    assert!(!world.path("temp/.dbkeep-trash").exists());
    assert_eq!(
        (step.root.as_str(), step.table.as_str(), step.kind.as_str()),
        ("temp", "files:temp", "temp_files")
    );
    assert_eq!(
        (step.row_count, step.table_row_count, step.table_row_count_exact),
        (50, 52, true)
    );
    let bytes: u64 = (0..50).map(|number| format!("temp/a/{number}.tmp").len() as u64).sum();
    assert_eq!((step.captured, step.capture_bytes), (true, bytes));
    assert_eq!(step.samples.len(), 10);
    let columns: Vec<&str> = step.samples[0].values.iter().map(|value| value.column.as_str()).collect();
    assert_eq!(columns, ["path", "size", "modified"]);
    assert!(step.horizon.is_some() && codes(&plan).is_empty(), "{:?}", codes(&plan));

    let run = world.run(&plan).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(run.state_reason, "50 files moved to the trash");
    let done = &report(&run).steps[0];
    assert_eq!(
        (done.rows_affected, done.rows_captured, done.captured_bytes, done.batches),
        (50, 50, bytes, 8)
    );
    let left: Vec<PathBuf> = world.tree("temp").into_keys().collect();
    assert_eq!(left, [PathBuf::from("a/old.log"), PathBuf::from("young.tmp")]);
    assert!(fs::symlink_metadata(world.path("temp/link.tmp")).is_ok(), "a link stays");

    let again = world.plan("temporary").await;
    assert_eq!(
        (again.row_count, again.steps[0].table_row_count),
        (0, 2),
        "the trash is not looked into"
    );
    let again = world.run(&again).await;
    assert_eq!((again.state(), report(&again).rows_affected), (proto::RunState::Succeeded, 0));

    let verified = world.verify(&run).await;
    assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);
    assert_eq!(report(&verified).rows_affected, 50);
    let undo = world.undo(&run).await;
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(report(&undo).rows_affected, 50);
    assert_eq!(world.tree("temp"), before, "undone to the last bit");
}

async fn exactly_the_files_that_nothing_refers_to_go(database: Database) {
    let world = World::new(database).await;
    world.uploads().await;
    let before = world.tree("uploads");
    let plan = world.plan("uploads").await;
    assert_eq!((plan.row_count, plan.steps[0].table_row_count), (20, 101));
    assert_eq!(codes(&plan), ["REFERENCE_UNINDEXED"], "{:?}", plan.steps[0].findings);
    // MEDIUM asks for the token.
    let refused = world
        .client
        .cleanup()
        .run(RunRequest::new(["uploads"]).execute())
        .await
        .map(|_| ());
    assert!(matches!(refused, Err(Error::PlanRequired { .. })), "{refused:?}");
    let run = world.run(&plan).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(report(&run).rows_affected, 20);
    let left = world.tree("uploads");
    let expected: BTreeMap<PathBuf, String> = before
        .iter()
        .filter(|(path, _)| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            name.strip_prefix('f')
                .is_none_or(|number| number.parse::<u32>().expect("a number") < 80)
        })
        .map(|(path, file)| (path.clone(), file.clone()))
        .collect();
    assert_eq!(left, expected);
    assert_eq!(world.plan("uploads").await.row_count, 0);
    assert_eq!(world.undo(&run).await.state(), proto::RunState::Succeeded);
    assert_eq!(world.tree("uploads"), before);
}

async fn pruned_files_are_gone_for_good(database: Database) {
    let world = World::new(database).await;
    for number in 0..9 {
        world.file(&format!("temp/{number}.tmp"), 25);
    }
    let plan = world.plan("temporary").await;
    let run = world.run(&plan).await;
    let trash = world.path("temp/.dbkeep-trash").join(&run.id);
    assert!(trash.exists());
    let prune = |keep| PruneRequest::default().keep_last(keep);
    let told = world.client.backups().prune(prune(0)).await.expect("an answer");
    assert_eq!((told.backups.len(), told.backups[0].pruned), (1, true));
    assert!(
        told.backups[0].freed_bytes >= plan.steps[0].capture_bytes && trash.exists(),
        "a dry run removes nothing"
    );
    let kept = world.client.backups().prune(prune(1).execute()).await.expect("an answer");
    assert!(!kept.backups[0].pruned && trash.exists(), "the newest is kept");
    let done = world.client.backups().prune(prune(0).execute()).await.expect("an answer");
    assert!(done.backups[0].pruned && !trash.exists());
    let refused = world
        .client
        .runs()
        .undo(UndoRequest::new(run.id.as_str()))
        .await
        .expect_err("nothing to put back");
    assert!(matches!(refused, Error::BackupPruned { .. }), "{refused:?}");
}

async fn what_changes_after_the_plan_stays(database: Database) {
    let world = World::new(database).await;
    world.uploads().await;
    let plan = world.plan("uploads").await;
    // Touched, though it looks as old as before; referred to by now; gone; and new, though it looks old.
    world.file("uploads/d3/f80", 48);
    world
        .db
        .execute("INSERT INTO users VALUES (2000, '/uploads/d4/f81', NULL)")
        .await
        .expect("a user");
    fs::remove_file(world.path("uploads/d5/f82")).expect("removed");
    world.file("uploads/d3/new", 48);
    let run = world.run(&plan).await;
    assert_eq!(run.state(), proto::RunState::PartiallySucceeded, "{}", run.state_reason);
    let step = &report(&run).steps[0];
    assert_eq!((step.rows_affected, step.rows_remaining), (17, 1), "{}", step.message);
    assert!(warnings(&run).contains(&"FILES_REMAIN"), "{:?}", warnings(&run));
    for stays in ["d3/f80", "d4/f81", "d3/new", "young"] {
        assert!(world.path("uploads").join(stays).exists(), "{stays} stays");
    }

    // Most of the plan's files are not there any more: the plan is stale.
    let plan = world.plan("uploads").await;
    assert_eq!(plan.row_count, 2);
    for number in 0..200 {
        world.file(&format!("uploads/more{number}"), 48);
    }
    let plan = world.plan("uploads").await;
    assert!(
        plan.blocked && codes(&plan).contains(&"OVER_MAX_FRACTION"),
        "{:?}",
        codes(&plan)
    );
    let refused = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute())
        .await
        .map(|_| ());
    assert!(matches!(refused, Err(Error::PlanBlocked { .. })), "{refused:?}");
}

async fn rows_and_their_files_go_in_one_run(database: Database) {
    let world = World::new(database).await;
    world.uploads().await;
    world
        .db
        .execute("UPDATE users SET expires_at = 1 WHERE id < 10")
        .await
        .expect("expired");
    let (users, before) = (
        world.db.table_hash("users", "id").await.expect("a hash"),
        world.tree("uploads"),
    );
    // The files of users that the first step deletes are counted by the second.
    let plan = world.plan("gone_users").await;
    let counts: Vec<u64> = plan.steps.iter().map(|step| step.row_count).collect();
    assert_eq!(counts, [10, 30]);
    let run = world.run(&plan).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    assert_eq!(run.state_reason, "10 rows deleted, 30 files moved to the trash");
    assert_eq!(world.tree("uploads").len(), 71);
    let verified = world.verify(&run).await;
    assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);
    let undo = world.undo(&run).await;
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(world.db.table_hash("users", "id").await.expect("a hash"), users);
    assert_eq!(world.tree("uploads"), before);
}

async fn emptied_or_foreign_references_are_refused(database: Database) {
    let world = World::new(database).await;
    world.uploads().await;
    world
        .db
        .execute("DELETE FROM lessons; UPDATE users SET avatar = 'https://cdn.example' || avatar WHERE avatar IS NOT NULL")
        .await
        .expect("changed");
    let plan = world.plan("uploads").await;
    for code in ["NO_REFERENCE_MATCHES", "REFERENCES_OUTSIDE", "OVER_MAX_FRACTION"] {
        assert!(plan.blocked && codes(&plan).contains(&code), "{code}: {:?}", codes(&plan));
    }
    world.db.execute("UPDATE users SET avatar = NULL").await.expect("emptied");
    let plan = world.plan("uploads").await;
    assert!(
        plan.blocked && codes(&plan).contains(&"EMPTY_REFERENCES"),
        "{:?}",
        codes(&plan)
    );
    let refused = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute())
        .await
        .map(|_| ());
    assert!(matches!(refused, Err(Error::PlanBlocked { .. })), "{refused:?}");
    assert_eq!(world.tree("uploads").len(), 101);
}

async fn a_rule_that_does_not_fit_is_refused_at_start(database: Database) {
    let (place, url, db) = World::prepare(database).await;
    db.execute("CREATE TABLE numbers (id integer PRIMARY KEY, n integer)")
        .await
        .expect("a table");
    for (change, expected) in [
        (
            ("root = \"temp\"", "root = \"tmp\""),
            "the target has no root \"tmp\"; declared are temp, uploads",
        ),
        (("table = \"lessons\"", "table = \"lesson\""), "table lesson does not exist"),
        (("column = \"avatar\"", "column = \"picture\""), "has no column picture"),
        (
            (
                "table = \"lessons\", column = \"attachment\"",
                "table = \"numbers\", column = \"n\"",
            ),
            "expected a text column",
        ),
    ] {
        let config = World::config(place.path(), &url, &CATALOG.replace(change.0, change.1));
        let refused = dbkeep_server::check(&config)
            .await
            .map(|_| ())
            .expect_err("must be refused")
            .to_string();
        assert!(refused.contains("catalog.toml:") && refused.contains(expected), "{refused}");
    }
    let config = World::config(place.path(), &url, CATALOG);
    assert_eq!(dbkeep_server::check(&config).await.expect("fits").len(), 1);
}

async fn conflicts_and_damage_are_reported(database: Database) {
    let world = World::new(database).await;
    world.uploads().await;
    let run = world.run(&world.plan("uploads").await).await;
    assert_eq!(report(&run).rows_affected, 20);
    fs::write(world.path("uploads/d3/f80"), "new").expect("written");
    let undo = world.undo(&run).await;
    assert_eq!(undo.state(), proto::RunState::PartiallySucceeded, "{}", undo.state_reason);
    assert_eq!((report(&undo).rows_affected, report(&undo).rows_conflicting), (19, 1));
    assert!(warnings(&undo).contains(&"UNDO_CONFLICT"));
    assert_eq!(fs::read_to_string(world.path("uploads/d3/f80")).expect("there"), "new");
    // Whoever makes room may undo again.
    fs::remove_file(world.path("uploads/d3/f80")).expect("removed");
    let undo = world.undo(&run).await;
    assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    assert_eq!(report(&undo).rows_affected, 20);

    let run = world.run(&world.plan("uploads").await).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let batch = world.path(&format!("uploads/.dbkeep-trash/{}/0/1", run.id));
    let victim = fs::read_dir(&batch)
        .expect("a batch")
        .next()
        .expect("a file")
        .expect("an entry")
        .path();
    fs::remove_file(victim).expect("removed");
    let verified = world.verify(&run).await;
    assert_eq!(verified.state(), proto::RunState::Failed, "{}", verified.state_reason);
    assert!(warnings(&verified).contains(&"BACKUP_DAMAGED"));
    let undo = world.undo(&run).await;
    assert_eq!(undo.state(), proto::RunState::PartiallySucceeded, "{}", undo.state_reason);
    assert_eq!(report(&undo).rows_affected, 19);
}

async fn a_root_is_held_and_its_replacement_noticed(database: Database) {
    let world = World::new(database).await;
    for number in 0..400 {
        world.file(&format!("temp/{number}.tmp"), 25);
    }
    let plan = world.plan("temporary").await;
    // One file a batch and rests: it goes on long enough for a second one to be refused.
    let slow = RunRequest::of_plan(&plan).execute().batch_size(1);
    let slow = world.client.cleanup().run(slow).await.expect("a run");
    let refused = world
        .client
        .cleanup()
        .run(RunRequest::new(["temporary"]).execute())
        .await
        .map(|_| ());
    assert!(
        matches!(&refused, Err(Error::RunAlreadyActive { table, .. }) if table == "files:temp"),
        "{refused:?}"
    );
    assert_eq!(slow.finish().await.expect("an end").state(), proto::RunState::Succeeded);

    world.file("temp/x.tmp", 25);
    let plan = world.plan("temporary").await;
    fs::rename(world.path("temp"), world.path("elsewhere")).expect("moved");
    let refused = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute())
        .await
        .map(|_| ());
    assert!(matches!(refused, Err(Error::RootUnusable { .. })), "{refused:?}");
    fs::create_dir(world.path("temp")).expect("another root");
    world.file("temp/x.tmp", 25);
    let refused = world
        .client
        .cleanup()
        .run(RunRequest::of_plan(&plan).execute())
        .await
        .map(|_| ());
    assert!(matches!(refused, Err(Error::SchemaChanged { .. })), "{refused:?}");
    assert!(world.path("temp/x.tmp").exists() && !world.url.is_empty());
}

/// Rows that come after the run has listed its files name them in every way that a listing would have understood.
async fn late_references_count_in_any_spelling(database: Database) {
    let world = World::new(database).await;
    world.uploads().await;
    let plan = world.plan("uploads").await;
    let request = RunRequest::of_plan(&plan).execute().batch_size(1).max_rows_per_second(1);
    let mut stream = world.client.cleanup().run(request).await.expect("a run");
    // With the first file everything is listed; a second of rest follows.
    loop {
        let event = stream.next().await.expect("no end yet").expect("an event");
        if let Some(Event::Progress(progress)) = &event.event
            && progress.rows_affected > 0
        {
            break;
        }
    }
    let left: Vec<PathBuf> = world.tree("uploads").into_keys().collect();
    let orphans = left.iter().filter_map(|path| {
        let name = path.to_str().expect("a name");
        let number: u32 = name.rsplit_once('f')?.1.parse().ok()?;
        (number >= 80).then_some(name)
    });
    let mut rows: [Vec<String>; 2] = Default::default();
    for (place, name) in orphans.enumerate() {
        let (folder, file) = name.split_once('/').expect("a folder");
        let value = match place % 8 {
            0 => name.to_owned(),
            1 => format!("{folder}//{file}"),
            2 => format!("./{name}"),
            3 => format!("/{name}"),
            4 => format!("{folder}/./{file}"),
            5 => format!("elsewhere/../{name}"),
            6 => format!("{folder}/x/..//{file}"),
            _ => format!("{name}/"),
        };
        if place % 2 == 0 {
            rows[0].push(format!("({}, '/uploads/{value}', NULL)", 5_000 + place));
        } else {
            rows[1].push(format!("({}, '{value}')", 5_000 + place));
        }
    }
    let sql = rows.map(|rows| rows.join(", "));
    world
        .db
        .execute(&format!(
            "INSERT INTO users VALUES {}; INSERT INTO lessons VALUES {}",
            sql[0], sql[1]
        ))
        .await
        .expect("rows");
    let since = world.tree("uploads");
    assert!(since.len() > 90, "{} files are left", since.len());
    let run = stream.run_id().expect("its id").to_owned();
    let hasten = LimitsUpdate::new(run.as_str())
        .batch_size(5)
        .max_rows_per_second(0)
        .duty_cycle_percent(100);
    world.client.runs().update_limits(hasten).await.expect("limits");
    let run = stream.finish().await.expect("an end");
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let now = world.tree("uploads");
    for (path, file) in &since {
        assert_eq!(now.get(path), Some(file), "{} is referred to by now", path.display());
    }
    assert_eq!(report(&run).rows_affected, 101 - now.len() as u64);
    assert!(warnings(&run).contains(&"FILES_REFERENCED"), "{:?}", warnings(&run));
    assert_eq!(world.plan("uploads").await.row_count, 0);
}

/// A file system of its own, until dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None` where this user may not mount.
    fn new(path: PathBuf, size: &str) -> Option<Self> {
        let mut command = std::process::Command::new("mount");
        command
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(&path);
        let mounted = command.status().is_ok_and(|status| status.success());
        mounted.then_some(Self(path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // There is nobody to tell; the folder then stays behind.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The disk of a root is full but for so many pages, so that the manifest's next page is refused: where a batch is announced, and where it
/// is sealed. Whatever failed, a file is where it was or counted, and undo, on the full disk, brings it back.
async fn a_full_disk_strands_nothing(database: Database) {
    const PAGE: usize = 4_096;
    let world = World::new(database).await;
    let Some(_mount) = Mount::new(world.path("temp"), "600k") else {
        return println!("this user may not mount; a full disk was not tried");
    };
    let changed = || -> BTreeMap<PathBuf, (i64, i64)> {
        let paths = world.tree("temp").into_keys();
        paths
            .map(|path| {
                let stat = fs::metadata(world.path("temp").join(&path)).expect("there");
                (path, (stat.ctime(), stat.ctime_nsec()))
            })
            .collect()
    };
    let (mut failed, mut taken_back) = (0, 0);
    // Longer names shift what the first page of the manifest ends with, from one kind of line to the other.
    let shifted = (0..49).step_by(7).map(|shift| (1, 1, shift));
    let cases = (0..=2).flat_map(|pages| [(pages, 1, 0), (pages, 3, 0)]).chain(shifted);
    for (pages, batch, shift) in cases {
        for number in 0..40 {
            world.file(&format!("temp/{number}{}.tmp", "x".repeat(shift)), 25);
        }
        let before = world.tree("temp");
        let filler = world.path("temp/filler");
        let mut file = File::create(&filler).expect("a file");
        let mut length = 0;
        while std::io::Write::write_all(&mut file, &[0; PAGE]).is_ok() {
            length += 1;
        }
        file.set_len((length - pages) * PAGE as u64).expect("room");
        let plan = world.plan("temporary").await;
        assert_eq!(plan.row_count, 40);
        let times = changed();
        let request = RunRequest::of_plan(&plan).execute().batch_size(batch).full_speed();
        let run = world.client.cleanup().run(request).await.expect("a run");
        let run = run.finish().await.expect("an end");
        let left = changed();
        let moved = 41 - left.len() as u64;
        assert_eq!(report(&run).rows_affected, moved, "{}", run.state_reason);
        failed += usize::from(run.state() == proto::RunState::Failed);
        taken_back += usize::from(left.iter().any(|(path, time)| times[path] != *time));
        let undo = UndoRequest::new(run.id.as_str()).batch_size(batch).full_speed();
        match world.client.runs().undo(undo).await {
            Ok(undo) => {
                let undo = undo.finish().await.expect("an end");
                assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
                assert_eq!(report(&undo).rows_affected, moved);
            }
            Err(error) => assert!(moved == 0 && matches!(error, Error::NothingCaptured { .. }), "{error:?}"),
        }
        fs::remove_file(&filler).expect("removed");
        assert_eq!(
            world.tree("temp"),
            before,
            "{pages} pages, batches of {batch}, {shift} more letters"
        );
        for path in before.keys() {
            fs::remove_file(world.path("temp").join(path)).expect("removed");
        }
        fs::remove_dir_all(world.path("temp/.dbkeep-trash")).expect("removed");
    }
    println!("{database:?}: {failed} of 13 runs failed, {taken_back} took a batch back");
    assert!(failed > 8 && taken_back > 0, "the disk was not full enough");
}

/// The catalogs in the pages of the two kinds, as they stand there.
async fn the_documented_examples_run(database: Database) {
    let example = |page: &str| {
        let (_, rest) = page.split_once("```toml\n").expect("an example");
        rest.split_once("```").expect("its end").0.to_owned()
    };
    let catalog = example(include_str!("../docs/rules/temp_files.md")) + &example(include_str!("../docs/rules/orphan_files.md"));
    let world = World::with(database, &catalog).await;
    world.uploads().await;
    // The page has a prefix for each column.
    world
        .db
        .execute("UPDATE lessons SET attachment = '/uploads/' || attachment")
        .await
        .expect("changed");
    world.file("temp/part", 25);
    world.file("temp/a/other", 25);
    world.file("temp/b/young", 2);
    world.file("temp/c/young", 2);
    for (operation, files) in [("stale_temp_files", 2), ("unused_uploads", 20)] {
        let plan = world.plan(operation).await;
        let run = world.run(&plan).await;
        assert_eq!(
            (run.state(), report(&run).rows_affected),
            (proto::RunState::Succeeded, files),
            "{}",
            run.state_reason
        );
    }
}
