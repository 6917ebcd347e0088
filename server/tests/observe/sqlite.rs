//! Files of SQLite.

use std::{
    io::{Seek as _, SeekFrom, Write as _},
    time::Duration,
};

use dbkeep_engine::{
    model::{
        EngineKind,
        monitor::{Depth, FindingKind, Precision},
    },
    monitor::findings::{Bounds, findings},
};
use dbkeep_server::target;
use dbkeep_testkit::Db;
use tempfile::TempDir;

use crate::{gaps, index, look, number, quick, table};

pub(crate) async fn file(sql: &[&str]) -> (TempDir, String, Db) {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("app.db").display());
    let db = Db::open(&format!("{url}?mode=rwc")).await.expect("a connection");
    for sql in sql {
        db.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:#}"));
    }
    (folder, url, db)
}

/// Numbers from 1, for `INSERT .. SELECT`.
pub(crate) const MANY: &str = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_is_what_its_header_says() {
    let (folder, url, db) = file(&[
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = DELETE",
        "CREATE TABLE t (id integer PRIMARY KEY, v text); CREATE TABLE _dbkeep_run (id integer PRIMARY KEY)",
        &format!("INSERT INTO t (v) {MANY} SELECT 'value ' || n FROM n"),
        "DELETE FROM t WHERE id > 2000",
    ])
    .await;
    let snapshot = quick(&url).await;
    let database = &snapshot.database;
    let (pages, free) = (
        number(&db, "PRAGMA page_count").await,
        number(&db, "PRAGMA freelist_count").await,
    );
    assert_eq!((database.pages, database.free_pages), (Some(pages), Some(free)));
    assert!(free > 50, "{free}");
    assert_eq!((database.page_bytes, database.size_bytes), (Some(4_096), Some(pages * 4_096)));
    let length = std::fs::metadata(folder.path().join("app.db")).expect("the file").len();
    assert_eq!(database.size_bytes, Some(length));
    assert_eq!(database.auto_vacuum, "incremental");
    assert_eq!((database.wal_size_bytes, database.integrity_problems.as_ref()), (None, None));
    assert_eq!(snapshot.sessions, None);
    assert_eq!(snapshot.gaps, []);
    let t = table(&snapshot, "t");
    assert_eq!((t.rows, t.heap_bytes, t.own), (None, None, false), "no statistics");
    assert!(table(&snapshot, "_dbkeep_run").own);

    db.execute("CREATE INDEX on_v ON t (v); ANALYZE").await.expect("analyzed");
    let rows = table(&quick(&url).await, "t").rows.expect("rows");
    assert_eq!((rows.rows, rows.precision), (2_000, Precision::Estimated));

    db.execute("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; INSERT INTO t (v) VALUES (zeroblob(500000))")
        .await
        .expect("written");
    let grown = quick(&url).await.database.wal_size_bytes;
    let length = std::fs::metadata(folder.path().join("app.db-wal")).expect("the log").len();
    assert_eq!(grown, Some(length));
    assert!(length > 500_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exact_numbers_are_counted() {
    let (_folder, url, db) = file(&[
        "CREATE TABLE t (id integer PRIMARY KEY, v text); CREATE INDEX on_v ON t (v)",
        "CREATE TABLE w (a text PRIMARY KEY, b integer) WITHOUT ROWID; CREATE TABLE _dbkeep_run (id integer PRIMARY KEY)",
        &format!("INSERT INTO t (v) {MANY} SELECT 'value ' || n FROM n"),
        "DELETE FROM t WHERE id % 2 = 0; INSERT INTO w VALUES ('x', 1)",
    ])
    .await;
    let snapshot = look(&url, Depth::Exact).await;
    assert_eq!(snapshot.gaps, []);
    assert_eq!(snapshot.database.integrity_problems, Some(Vec::new()));
    let t = table(&snapshot, "t");
    assert_eq!(
        t.rows.map(|rows| (rows.rows, rows.precision)),
        Some((10_000, Precision::Exact))
    );
    let of = |name: &str, what: &str| format!("SELECT sum({what}) FROM dbstat WHERE name = '{name}'");
    let (heap, unused) = (number(&db, &of("t", "pgsize")).await, number(&db, &of("t", "unused")).await);
    assert_eq!((t.heap_bytes, t.free_bytes), (Some(heap), Some(unused)));
    assert!(unused * 3 > heap, "every other row is gone: {unused} of {heap}");
    let on_v = number(&db, &of("on_v", "pgsize")).await;
    assert_eq!((index(&snapshot, "on_v").bytes, t.index_bytes), (Some(on_v), Some(on_v)));
    assert!(
        index(&snapshot, "on_v")
            .bloat_fraction
            .is_some_and(|part| (0.3..0.7).contains(&part))
    );
    assert_eq!(snapshot.database.own_bytes, Some(4_096));
    assert_eq!(table(&snapshot, "w").rows.map(|rows| rows.rows), Some(1));
    assert_eq!(snapshot.tables[0].table.to_string(), "t", "the largest first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_and_keys_are_told_apart() {
    let (_folder, url, _db) = file(&[
        "CREATE TABLE \"my parent\" (id integer PRIMARY KEY, code text UNIQUE)",
        "CREATE TABLE child (id integer PRIMARY KEY, a integer REFERENCES \"my parent\", b integer REFERENCES \"my parent\", \
           c integer REFERENCES \"my parent\", e text, f integer, UNIQUE (e, f))",
        "CREATE TABLE apart (id integer PRIMARY KEY REFERENCES \"my parent\", n integer)",
        "CREATE INDEX on_a ON child (a); CREATE INDEX on_a_again ON child (a); CREATE INDEX on_a_f ON child (a, f)",
        "CREATE INDEX on_b ON child (b) WHERE b IS NOT NULL; CREATE INDEX on_e ON child (e); CREATE INDEX on_e_case ON child (e COLLATE nocase)",
        "CREATE INDEX on_lower ON child (lower(e), f DESC); CREATE INDEX on_lower_only ON child (LOWER( e ))",
        "CREATE INDEX on_id ON child (id); CREATE INDEX some_f ON child (f) WHERE f > 1; CREATE INDEX on_f ON child (f)",
    ])
    .await;
    let snapshot = quick(&url).await;
    let other = |name: &str| index(&snapshot, name).duplicate_of.clone();
    assert_eq!(other("on_a").as_deref(), Some("on_a_f"));
    assert_eq!(other("on_a_again").as_deref(), Some("on_a_f"));
    assert_eq!(other("on_e").as_deref(), Some("sqlite_autoindex_child_1"));
    assert_eq!(other("on_lower_only").as_deref(), Some("on_lower"));
    assert_eq!(other("on_id").as_deref(), Some("the primary key id"));
    for name in ["on_a_f", "on_b", "on_e_case", "on_lower", "some_f", "on_f"] {
        assert_eq!(other(name), None, "{name}");
    }
    let missing: Vec<_> = snapshot
        .unindexed_keys
        .iter()
        .map(|key| format!("{}({}) of {}", key.table, key.columns.join(","), key.parent))
        .collect();
    assert_eq!(missing, ["child(c) of my parent"]);
    assert!(index(&snapshot, "on_a_f").serves_key && !index(&snapshot, "on_a").serves_key && index(&snapshot, "on_b").serves_key);
    assert!(index(&snapshot, "sqlite_autoindex_my parent_1").enforces);
    assert_eq!(index(&snapshot, "on_lower").columns, ["lower(e)", "f"]);
    assert_eq!(index(&snapshot, "some_f").condition, "f > 1");
    assert!(
        snapshot
            .indexes
            .iter()
            .all(|index| !index.name.starts_with("the primary key"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_is_found() {
    let (folder, url, db) = file(&[
        "CREATE TABLE t (id integer PRIMARY KEY, v text)",
        &format!("INSERT INTO t (v) {MANY} SELECT 'value ' || n FROM n"),
    ])
    .await;
    let page = number(&db, "SELECT max(pageno) FROM dbstat WHERE name = 't' AND pagetype = 'leaf'").await;
    db.close().await;
    let mut raw = std::fs::File::options()
        .write(true)
        .open(folder.path().join("app.db"))
        .expect("the file");
    raw.seek(SeekFrom::Start((page - 1) * 4_096)).expect("its place");
    raw.write_all(&[0xff; 512]).expect("damaged");
    drop(raw);
    assert_eq!(quick(&url).await.gaps, [], "nothing of a table is read");
    let snapshot = look(&url, Depth::Exact).await;
    let found = findings(&snapshot, EngineKind::Sqlite, &Bounds::default());
    assert!(
        found.iter().any(|finding| finding.kind == FindingKind::IntegrityProblem),
        "{found:?}"
    );
    let problems = snapshot.database.integrity_problems.expect("a check");
    assert!(!problems.is_empty(), "{:?}", snapshot.gaps);
    assert!(problems.iter().all(|problem| !problem.is_empty() && problem != "ok"));
    // Nor is one whose schema is gone an error: that it is damaged is what there is to say.
    let mut raw = std::fs::File::options()
        .write(true)
        .open(folder.path().join("app.db"))
        .expect("the file");
    raw.seek(SeekFrom::Start(100)).expect("the schema");
    raw.write_all(&[0xff; 512]).expect("damaged");
    drop(raw);
    let snapshot = quick(&url).await;
    assert_eq!(snapshot.database.integrity_problems.as_ref().map(Vec::len), Some(1));
    assert_eq!(gaps(&snapshot), ["tables"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_too_long_is_a_gap() {
    let (_folder, url, _db) = file(&[
        "PRAGMA journal_mode = WAL; CREATE TABLE t (id integer PRIMARY KEY, v text)",
        &format!("INSERT INTO t (v) {MANY} SELECT hex(randomblob(1500)) FROM n"),
    ])
    .await;
    let target = target::open(&url).expect("a target");
    let limit = Duration::from_millis(25);
    let snapshot = target.observer().observe(Depth::Exact, limit).await.expect("a snapshot");
    let whats: Vec<_> = snapshot.gaps.iter().map(|gap| gap.what.as_str()).collect();
    assert!(
        whats.contains(&"integrity") && whats.contains(&"table_sizes"),
        "{:?}",
        snapshot.gaps
    );
    assert!(snapshot.database.pages.is_some_and(|pages| pages > 10_000));
    // A writer that keeps all others out, from the schema too, is waited for, but not long.
    let (_folder, url, _db) = file(&["CREATE TABLE t (id integer PRIMARY KEY)"]).await;
    let mut writer = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url)
        .await
        .expect("a connection");
    sqlx::Executor::execute(&mut writer, "PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE")
        .await
        .expect("alone");
    let began = std::time::Instant::now();
    let target = target::open(&url).expect("a target");
    let error = target
        .observer()
        .observe(Depth::Quick, crate::LIMIT)
        .await
        .expect_err("locked");
    assert_eq!(error.class, dbkeep_engine::port::TargetErrorClass::LockTimeout);
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_there_is_an_error() {
    let target = target::open("sqlite:///nowhere/at/all.db").expect("a target");
    target
        .observer()
        .observe(Depth::Quick, crate::LIMIT)
        .await
        .expect_err("no file");
}
