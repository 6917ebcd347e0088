//! kill -9 of the real server in batches that archive rows with all that hangs on them, and in batches that change rows; on both
//! databases. What has to be there in the end is worked out in plain Rust from the rows that were there at first, and
//! compared with every row of every table; undo brings all of them back.

#![cfg(feature = "failpoints")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use dbkeep_client::{Client, PlanRequest, ReconnectPolicy, RunQuery, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Db, chunk, fresh_database};
use futures::StreamExt as _;
use support::Daemon;

/// As `inactive_accounts` of the learning platform: the archive takes along what the catalog declares (progress), what the schema
/// deletes (sessions, and the events of those) and what it empties (posts).
const CATALOG: &str = r#"
[[operation]]
name = "inactive"
category = "INACTIVE_ACCOUNTS"
severity = "HIGH"
backup = true

[[operation.rule]]
name = "suspended"
kind = "expired"
table = "users"
column = "suspended_at"
retention = "P180D"
encoding = "unix_seconds"
where = { status = "SUSPENDED" }
action = "archive"
into = "archived_users"
stamp = "archived_at"

[[operation.rule.child]]
table = "progress"
columns = ["user_id"]
parent_columns = ["id"]
on_delete = "cascade"

[[operation.rule]]
name = "absent"
kind = "expired"
table = "users"
column = "seen_at"
fallback = "made_at"
retention = "P365D"
encoding = "unix_seconds"
where = { status = "ACTIVE" }
action = "update"
set = { status = "INACTIVE" }
"#;

const TABLES: [&str; 6] = ["users", "progress", "sessions", "events", "posts", "canary"];

/// 600 users; every fourth suspended, of those every eighth lately; of the others every third away for long.
const SCHEMA: &str = "
CREATE TABLE users (id integer PRIMARY KEY, status text NOT NULL, suspended_at bigint, seen_at bigint, made_at bigint, name text);
CREATE TABLE progress (id integer PRIMARY KEY, user_id integer, score integer);
CREATE INDEX progress_user ON progress (user_id);
CREATE TABLE sessions (id integer PRIMARY KEY, user_id integer NOT NULL REFERENCES users ON DELETE CASCADE, token text);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE TABLE events (id integer PRIMARY KEY, session_id integer REFERENCES sessions ON DELETE CASCADE, what text);
CREATE INDEX events_session ON events (session_id);
CREATE TABLE posts (id integer PRIMARY KEY, user_id integer REFERENCES users ON DELETE SET NULL, body text);
CREATE INDEX posts_user ON posts (user_id);
CREATE TABLE canary (id integer PRIMARY KEY, user_id integer);
INSERT INTO users WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
  SELECT i, CASE WHEN i % 4 = 0 THEN 'SUSPENDED' WHEN i % 7 = 0 THEN 'INACTIVE' ELSE 'ACTIVE' END,
    CASE WHEN i % 32 = 0 THEN 99999999999 WHEN i % 4 = 0 THEN 1000 + i END,
    CASE WHEN i % 3 = 0 THEN 2000 + i WHEN i % 5 = 0 THEN NULL ELSE 99999999999 END, CASE WHEN i % 2 = 0 THEN 3000 ELSE 99999999999 END, 'user ' || i FROM n;
INSERT INTO progress WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
  SELECT i, CASE WHEN i % 50 = 0 THEN NULL ELSE 1 + i % 600 END, i % 9 FROM n;
INSERT INTO sessions WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
  SELECT i, 1 + i * 7 % 600, 'token ' || i FROM n;
INSERT INTO events WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)
  SELECT i, CASE WHEN i % 40 <> 0 THEN 1 + i * 11 % 900 END, 'event ' || i FROM n;
INSERT INTO posts WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 700)
  SELECT i, CASE WHEN i % 30 <> 0 THEN 1 + i * 13 % 600 END, 'post ' || i FROM n;
INSERT INTO canary SELECT id, id FROM users;
";

/// Rows of one transaction, with all that hang on them.
const BATCH: u32 = 60;

type Row = Vec<Option<String>>;
/// Rows by their ids.
type Rows = BTreeMap<String, Row>;
type Tables = BTreeMap<&'static str, Rows>;

struct World {
    url: String,
    db: Db,
    folder: tempfile::TempDir,
    before: Tables,
    hashes: Vec<String>,
}

/// What a run of the operation has to come to.
struct Due {
    tables: Tables,
    /// Rows that are gone, and rows whose columns were emptied, by their tables.
    gone: Tables,
    emptied: Tables,
    /// Users that are archived, and users that stay as inactive ones, as they were.
    archived: Rows,
    changed: Rows,
}

impl Due {
    fn of(before: &Tables) -> Self {
        let number = |value: &Option<String>| value.as_deref().map(|value| value.parse::<u64>().expect("a number"));
        let old = |value: &Option<String>| number(value).is_some_and(|value| value < 1_000_000);
        let (mut archived, mut changed) = (Rows::new(), Rows::new());
        for (id, row) in &before["users"] {
            let status = row[1].as_deref();
            if status == Some("SUSPENDED") && old(&row[2]) {
                archived.insert(id.clone(), row.clone());
            } else if status == Some("ACTIVE") && (old(&row[3]) || row[3].is_none() && old(&row[4])) {
                changed.insert(id.clone(), row.clone());
            }
        }
        let naming = |table: &str, gone: &Rows| -> Rows {
            let named = |row: &Row| row[1].as_ref().is_some_and(|parent| gone.contains_key(parent));
            let rows = before[table].iter().filter(|(_, row)| named(row));
            rows.map(|(id, row)| (id.clone(), row.clone())).collect()
        };
        let sessions = naming("sessions", &archived);
        let gone = Tables::from([
            ("progress", naming("progress", &archived)),
            ("events", naming("events", &sessions)),
            ("sessions", sessions),
        ]);
        let emptied = Tables::from([("posts", naming("posts", &archived))]);
        let mut tables = before.clone();
        for (table, rows) in gone.iter().map(|(table, rows)| (*table, rows)).chain([("users", &archived)]) {
            tables.get_mut(table).expect("a table").retain(|id, _| !rows.contains_key(id));
        }
        for id in emptied["posts"].keys() {
            tables.get_mut("posts").and_then(|posts| posts.get_mut(id)).expect("a post")[1] = None;
        }
        for id in changed.keys() {
            tables.get_mut("users").and_then(|users| users.get_mut(id)).expect("a user")[1] = Some("INACTIVE".to_owned());
        }
        Self {
            tables,
            gone,
            emptied,
            archived,
            changed,
        }
    }

    /// Rows that went or changed along with users.
    fn along(&self) -> BTreeMap<&str, u64> {
        let counts = self.gone.iter().chain(&self.emptied);
        counts.map(|(table, rows)| (*table, rows.len() as u64)).collect()
    }
}

impl World {
    async fn new(database: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = if database == "postgres" {
            fresh_database("kill_families").await.expect("a database")
        } else {
            let file = folder.path().join("app.db");
            std::fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        };
        std::fs::write(folder.path().join("catalog.toml"), CATALOG).expect("a catalog");
        let db = Db::open(&url).await.expect("a connection");
        db.execute(SCHEMA).await.expect("tables");
        let mut world = Self {
            url,
            db,
            folder,
            before: Tables::new(),
            hashes: Vec::new(),
        };
        world.before = world.tables().await;
        world.hashes = world.hashes().await;
        world
    }

    fn start(&self, failpoints: &str) -> Daemon {
        let catalog = self.folder.path().join("catalog.toml");
        Daemon::start(&self.folder.path().join("data"), &self.url, &catalog, failpoints)
    }

    async fn rows(&self, table: &str) -> Rows {
        let rows = self.db.fetch_text(&format!("SELECT * FROM {table}")).await.expect("rows");
        rows.into_iter().map(|row| (row[0].clone().expect("an id"), row)).collect()
    }

    async fn tables(&self) -> Tables {
        let mut tables = Tables::new();
        for table in TABLES {
            tables.insert(table, self.rows(table).await);
        }
        tables
    }

    async fn hashes(&self) -> Vec<String> {
        let mut hashes = Vec::new();
        for table in TABLES {
            hashes.push(self.db.table_hash(table, "id").await.expect("a hash"));
        }
        hashes
    }

    /// Batches in the journal, by step.
    async fn batches(&self) -> BTreeMap<String, String> {
        let journal = if self.url.starts_with("sqlite") {
            "_dbkeep_journal"
        } else {
            "dbkeep.journal"
        };
        let rows = self
            .db
            .fetch_text(&format!("SELECT step, count(*) FROM {journal} GROUP BY step"))
            .await
            .expect("the journal");
        rows.into_iter()
            .map(|mut row| (row[0].take().expect("a step"), row[1].take().expect("a count")))
            .collect()
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
        let rows = self.db.fetch_text(&sql).await.expect("the journal");
        rows.into_iter().map(|mut row| row.swap_remove(0).expect("a chunk")).collect()
    }

    /// Everything that must hold whenever a run has come to its end: every row of every table, of the archive and of the backup.
    async fn judge(&self, run: &str) {
        let due = Due::of(&self.before);
        assert!(
            due.archived.len() > 100 && due.changed.len() > 100,
            "enough batches to be killed in"
        );
        let after = self.tables().await;
        for table in TABLES {
            assert_eq!(after[table], due.tables[table], "{table}");
        }
        let mut archive = self.rows("archived_users").await;
        let width = self.before["users"].values().next().expect("a user").len();
        for row in archive.values_mut() {
            assert!(row.split_off(width)[0].is_some(), "a time");
        }
        assert_eq!(archive, due.archived, "the archive");

        let chunks = chunk::read_folder(&self.folder.path().join("data/backups").join(run)).expect("chunks");
        let rows_of = |chunk: &chunk::Chunk| chunk.sections.iter().map(|section| section.rows.len()).sum::<usize>();
        let files: BTreeSet<String> = chunks
            .iter()
            .map(|(file, chunk)| format!("{file} {} {}", rows_of(chunk), chunk.sha256))
            .collect();
        assert_eq!(files, self.journaled(run).await, "the chunks are those of the journal");
        // Each row as it was, and once.
        let mut kept: BTreeMap<(String, String), Rows> = BTreeMap::new();
        for section in chunks.into_values().flat_map(|chunk| chunk.sections) {
            for mut row in section.rows {
                let new = row.split_off(section.columns.len());
                let value = match (section.table.as_str(), section.changed.as_slice()) {
                    (_, []) => None,
                    ("users", [column]) if column == "status" => Some(Some("INACTIVE".to_owned())),
                    ("posts", [column]) if column == "user_id" => Some(None),
                    other => panic!("changed: {other:?}"),
                };
                assert_eq!(new, value.into_iter().collect::<Vec<_>>(), "the new values");
                let id = row[0].clone().expect("an id");
                let rows = kept.entry((section.table.clone(), section.effect.clone())).or_default();
                assert!(rows.insert(id.clone(), row).is_none(), "{} {id} is kept twice", section.table);
            }
        }
        let named = |table: &str, effect: &str, rows: &Rows| ((table.to_owned(), effect.to_owned()), rows.clone());
        let gone = due.gone.iter().map(|(table, rows)| named(table, "deleted", rows));
        let emptied = due.emptied.iter().map(|(table, rows)| named(table, "changed", rows));
        let users = [
            named("users", "archived", &due.archived),
            named("users", "changed", &due.changed),
        ];
        let expected: BTreeMap<(String, String), Rows> = gone.chain(emptied).chain(users).collect();
        assert_eq!(kept, expected, "the backup");
    }

    /// What the report says of a run that did all of it.
    fn counts(&self, ended: &proto::Run) {
        let due = Due::of(&self.before);
        let report = ended.report.as_ref().expect("a report");
        let along: u64 = due.along().values().sum();
        let users = (due.archived.len() + due.changed.len()) as u64;
        assert_eq!(
            (
                report.rows_planned,
                report.rows_affected,
                report.rows_along,
                report.rows_captured
            ),
            (users, users, along, users + along)
        );
        let by_table: BTreeMap<&str, u64> = report.steps[0]
            .along
            .iter()
            .map(|along| {
                (
                    along.table.trim_start_matches("public."),
                    along.rows_deleted + along.rows_nullified,
                )
            })
            .collect();
        assert_eq!(by_table, due.along(), "what went along");
        let steps: Vec<u64> = report.steps.iter().map(|step| step.rows_affected).collect();
        assert_eq!(steps, [due.archived.len() as u64, due.changed.len() as u64]);
    }

    async fn undo(&self, client: &Client, run: &str) {
        let undo = client.runs().undo(UndoRequest::new(run).full_speed()).await.expect("an undo");
        self.undone(undo.finish().await.expect("an end")).await;
    }

    async fn undone(&self, undo: proto::Run) {
        assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
        let report = undo.report.expect("a report");
        assert_eq!((report.rows_affected, report.rows_conflicting), (report.rows_planned, 0));
        assert_eq!(self.hashes().await, self.hashes, "undo is bit-identical");
        assert_eq!(
            self.db.count("archived_users").await.expect("a count"),
            0,
            "the copies are gone"
        );
    }
}

/// Starts the cleanup. The server may be killed before it answers, so that the run is looked up afterwards.
async fn start_run(client: &Client) {
    let plan = client.cleanup().plan(PlanRequest::new(["inactive"])).await.expect("a plan");
    let request = RunRequest::of_plan(&plan).execute().batch_size(BATCH).full_speed();
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
    let watched = client.runs().watch(run).await.expect("a stream");
    watched.finish().await.expect("an end")
}

/// Waits until the server has killed itself; a run that ends before is no test of anything.
async fn dies(daemon: &mut Daemon) {
    let never = ReconnectPolicy::never();
    // Where there is no connection it is dead already.
    if let Ok(client) = Client::builder().address(&daemon.address).reconnect(never).connect().await
        && let Ok(runs) = client.runs().list_all(RunQuery::default()).await
        && let Some(run) = runs.iter().max_by_key(|run| &run.id)
        && let Ok(stream) = client.runs().watch(&run.id).await
        && let Ok(ended) = stream.finish().await
    {
        panic!("the server was to be killed, and its run ended: {:?}", ended.state());
    }
    assert!(!daemon.wait().success(), "the server was killed");
}

/// Kills the server each time that it passes `point` for so many times; then lets it end and judges. The first kill lies in the
/// first step, which archives; the last in the second, which changes.
async fn killed_at(database: &str, point: &str, hits: &[u32]) {
    println!("{database}: kill -9 at {point}, hits {hits:?}");
    let world = World::new(database).await;
    for (number, hit) in hits.iter().enumerate() {
        let mut daemon = world.start(&format!("{point}={}*off->panic", hit - 1));
        if number == 0 {
            start_run(&daemon.client().await).await;
        }
        dies(&mut daemon).await;
        if point != "run-claimed" {
            let batches = world.batches().await;
            println!("{database}: killed with batches {batches:?}");
            assert_eq!(
                batches.contains_key("1"),
                number + 1 == hits.len(),
                "killed where it was meant: {batches:?}"
            );
        }
    }

    let mut daemon = world.start("");
    let client = daemon.client().await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
    assert!(ended.attempts as usize > hits.len(), "{} attempts", ended.attempts);
    world.judge(&run).await;
    world.counts(&ended);
    println!("{database}: ended with batches {:?}", world.batches().await);
    // A second start finds nothing to do.
    daemon.kill();
    let daemon = world.start("");
    let client = daemon.client().await;
    assert_eq!(client.runs().get(&run).await.expect("the run").attempts, ended.attempts);
    world.judge(&run).await;
    world.undo(&client, &run).await;
}

macro_rules! killed {
    ($($name:ident: $point:literal, hits $hits:expr;)*) => {
        mod postgres { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::killed_at("postgres", $point, &$hits).await; })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::killed_at("sqlite", $point, &$hits).await; })* }
    };
}

// The first step has 25 batches, the second three. A batch that turns out too large is begun anew with fewer rows.
killed! {
    after_the_claim: "run-claimed", hits [1, 1];
    with_an_open_transaction: "batch-begun", hits [9, 8, 93];
    after_the_changes: "batch-deleted", hits [3, 2, 24];
    after_the_seal: "batch-sealed", hits [3, 2, 24];
    before_the_commit: "batch-recorded", hits [3, 2, 24];
    after_the_commit: "batch-committed", hits [3, 2, 22];
}

/// A reply to COMMIT that never comes: the journal tells that the family is gone, and the archive holds it once.
async fn commit_reply_lost(database: &str) {
    let world = World::new(database).await;
    let daemon = world.start("batch-commit-reply-lost=2*off->1*return->off");
    let client = daemon.client().await;
    start_run(&client).await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Succeeded, "{}", ended.state_reason);
    assert_eq!(
        ended.attempts, 2,
        "the attempt that lost the reply ended, the next one went on"
    );
    world.judge(&run).await;
    world.counts(&ended);
    world.undo(&client, &run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_commit_reply_on_postgres() {
    commit_reply_lost("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_commit_reply_on_sqlite() {
    commit_reply_lost("sqlite").await;
}

/// A backup folder that takes no more: nothing is archived, nothing deleted, nothing changed.
async fn full_backup_disk(database: &str) {
    let world = World::new(database).await;
    let daemon = world.start("batch-seal-fails=return");
    let client = daemon.client().await;
    start_run(&client).await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    let ended = finish(&client, &run).await;
    assert_eq!(ended.state(), proto::RunState::Failed);
    assert!(ended.state_reason.contains("backup"), "{}", ended.state_reason);
    assert_eq!(world.hashes().await, world.hashes, "nothing happened");
    assert_eq!(
        world.db.count("archived_users").await.expect("a count"),
        0,
        "nor in the archive"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backup_disk_on_postgres() {
    full_backup_disk("postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backup_disk_on_sqlite() {
    full_backup_disk("sqlite").await;
}

/// An undo that is killed among rows of the second step, then among those of the first, goes on and puts no row back twice.
async fn undo_killed(database: &str, point: &str) {
    println!("{database}: an undo is killed at {point}");
    let world = World::new(database).await;
    let daemon = world.start("");
    let client = daemon.client().await;
    start_run(&client).await;
    let run = the_run(&client, proto::RunKind::Cleanup).await;
    finish(&client, &run).await;
    world.judge(&run).await;
    drop(daemon);

    for (number, hit) in [2, 8].into_iter().enumerate() {
        let mut daemon = world.start(&format!("{point}={}*off->panic", hit - 1));
        if number == 0
            && let Ok(mut stream) = daemon
                .client()
                .await
                .runs()
                .undo(UndoRequest::new(run.as_str()).full_speed())
                .await
        {
            while let Some(Ok(_)) = stream.next().await {}
        }
        dies(&mut daemon).await;
    }
    let daemon = world.start("");
    let client = daemon.client().await;
    let undo = the_run(&client, proto::RunKind::Undo).await;
    world.undone(finish(&client, &undo).await).await;
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
