//! Findings of databases in which problems were planted: each of them, nothing else, and none any more after what each finding says
//! was done.

use dbkeep_engine::{
    model::{
        EngineKind,
        monitor::{Depth, Finding, Snapshot},
    },
    monitor::{
        carry_over,
        findings::{Bounds, findings},
    },
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, Durability, PrivatePostgres};

use crate::{
    LIMIT, execute, quick,
    sqlite::{MANY, file},
};

/// As in production, but for sizes and times: a test makes small tables.
fn bounds() -> Bounds {
    Bounds {
        evidence_seconds: 1,
        evidence_scans: 5,
        index_bytes: 64 << 10,
        bloat_bytes: 1 << 20,
        wal_bytes: 1 << 20,
        ..Bounds::default()
    }
}

/// The findings, once they are these, since counters arrive late.
async fn settled(url: &str, engine: EngineKind, expected: &[&str]) -> Vec<Finding> {
    let target = target::open(url).expect("a target");
    let mut found = Vec::new();
    let mut kept: Option<Snapshot> = None;
    let looking = async {
        loop {
            let mut snapshot = target.observer().observe(Depth::Quick, LIMIT).await.expect("a snapshot");
            carry_over(kept.as_ref(), &mut snapshot);
            found = findings(&snapshot, engine, &bounds());
            let mut keys: Vec<String> = found.iter().map(Finding::key).collect();
            keys.sort();
            if keys == expected {
                return;
            }
            kept = Some(snapshot);
        }
    };
    let settled = tokio::time::timeout(LIMIT, looking).await;
    assert!(settled.is_ok(), "expected {expected:#?}, found {found:#?}");
    found
}

/// Applies what each finding says, one statement a line.
async fn remedy(db: &Db, found: &[Finding]) {
    for finding in found {
        for statement in finding.remediation.lines() {
            db.execute(statement)
                .await
                .unwrap_or_else(|error| panic!("{statement}, of {finding:?}: {error:#}"));
        }
    }
}

const POSTGRES: [&str; 18] = [
    "CREATE EXTENSION pg_stat_statements",
    "CREATE TABLE parent (id integer PRIMARY KEY, code text)",
    "INSERT INTO parent SELECT n, 'code ' || n FROM generate_series(1, 10) AS n",
    "CREATE TABLE child (id integer PRIMARY KEY, parent_id integer REFERENCES parent, \"a note\" text)",
    "INSERT INTO child SELECT n, 1 + n % 10, 'a note that is long ' || n FROM generate_series(1, 20000) AS n",
    "CREATE INDEX never_read ON child (\"a note\")",
    "CREATE INDEX code_first ON parent (code); CREATE INDEX code_second ON parent (code)",
    "CREATE TABLE twice AS SELECT 1 AS n UNION ALL SELECT 1",
    "CREATE TABLE fat (id integer PRIMARY KEY, v text)",
    "INSERT INTO fat SELECT n, 'some value ' || n FROM generate_series(1, 100000) AS n",
    "DELETE FROM fat WHERE id % 10 <> 0",
    "VACUUM (ANALYZE)",
    "CREATE TABLE dying AS SELECT generate_series(1, 30000) AS id",
    "ANALYZE dying",
    "DELETE FROM dying WHERE id % 2 = 0",
    "ANALYZE dying",
    "CREATE TABLE stale (id integer); ANALYZE stale; INSERT INTO stale SELECT generate_series(1, 20000)",
    "SELECT pg_create_physical_replication_slot('gone', true)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_names_what_was_planted_and_its_remedies_work() {
    let settings = [("autovacuum", "off"), ("shared_preload_libraries", "pg_stat_statements")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings)
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    for sql in POSTGRES {
        execute(&db, sql).await;
    }
    db.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON twice (n)")
        .await
        .expect_err("not unique");
    for _ in 0..10 {
        db.execute("SELECT count(*) FROM child WHERE parent_id = 3")
            .await
            .expect("read");
    }
    let planted = [
        "bloated_index:public.fat_pkey",
        "bloated_table:public.fat",
        "dead_rows:public.dying",
        "duplicate_index:public.code_second",
        "inactive_slot:gone",
        "invalid_index:public.broken",
        "stale_statistics:public.stale",
        "unindexed_key:public.child(parent_id)",
        "unused_index:public.never_read",
    ];
    let found = settled(&url, EngineKind::Postgres, &planted).await;
    db.execute("DELETE FROM twice WHERE ctid = (SELECT min(ctid) FROM twice)")
        .await
        .expect("once");
    remedy(&db, &found).await;
    settled(&url, EngineKind::Postgres, &[]).await;
    let broken = quick(&url).await;
    assert!(crate::index(&broken, "broken").valid);
}

const PARTITIONED: [&str; 8] = [
    "CREATE SCHEMA \"old ones\"; CREATE TABLE parent (id integer PRIMARY KEY, n integer)",
    "INSERT INTO parent SELECT n, n FROM generate_series(1, 10) AS n",
    "CREATE TABLE \"the whole\" (id integer, part integer, \"parent\"\"id\" integer REFERENCES parent) PARTITION BY LIST (part)",
    "CREATE TABLE one PARTITION OF \"the whole\" FOR VALUES IN (1)",
    "CREATE TABLE \"old ones\".\"the whole\" PARTITION OF \"the whole\" FOR VALUES IN (2, 3) PARTITION BY LIST (part)",
    "CREATE TABLE \"old ones\".two PARTITION OF \"old ones\".\"the whole\" FOR VALUES IN (2); \
     CREATE TABLE three PARTITION OF \"old ones\".\"the whole\" FOR VALUES IN (3)",
    "INSERT INTO \"the whole\" SELECT n, 1 + n % 3, 1 + n % 10 FROM generate_series(1, 30000) AS n",
    "VACUUM (ANALYZE)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_partitioned_table_gets_its_index() {
    let settings = [("autovacuum", "off"), ("shared_preload_libraries", "pg_stat_statements")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings)
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    execute(&db, "CREATE EXTENSION pg_stat_statements").await;
    for sql in PARTITIONED {
        execute(&db, sql).await;
    }
    let kept = "unindexed_key:public.the whole(parent\"id)";
    let found = settled(&url, EngineKind::Postgres, &[kept]).await;
    let rows: Vec<_> = quick(&url).await.unindexed_keys.iter().map(|key| key.rows).collect();
    assert_eq!(rows, [Some(30_000)], "those of its partitions");
    remedy(&db, &found).await;
    settled(&url, EngineKind::Postgres, &[]).await;
    let whole = "SELECT count(*) FROM pg_index WHERE indexrelid = '\"the whole_parent\"\"id_idx\"'::regclass AND indisvalid";
    assert_eq!(crate::number(&db, whole).await, 1, "no part of it is missing");
    // An index of each partition serves as well, and is one that the key needs.
    for sql in [
        "DROP INDEX \"the whole_parent\"\"id_idx\"",
        "CREATE INDEX own_one ON one (\"parent\"\"id\"); CREATE INDEX own_two ON \"old ones\".two (\"parent\"\"id\")",
    ] {
        execute(&db, sql).await;
    }
    settled(&url, EngineKind::Postgres, &[kept]).await;
    execute(&db, "CREATE INDEX own_three ON three (\"parent\"\"id\")").await;
    settled(&url, EngineKind::Postgres, &[]).await;
    assert!(crate::index(&quick(&url).await, "own_three").serves_key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_names_what_was_planted_and_its_remedies_work() {
    let (_folder, url, db) = file(&[
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE parent (id integer PRIMARY KEY, code text); CREATE TABLE \"the.child\" (id integer PRIMARY KEY, parent_id integer REFERENCES parent, v text)",
        "INSERT INTO parent VALUES (1, 'x'), (2, 'y')",
        &format!("INSERT INTO \"the.child\" (parent_id, v) {MANY} SELECT 1 + n % 2, 'value ' || n FROM n"),
        "CREATE INDEX code_first ON parent (code); CREATE INDEX code_second ON parent (code)",
        &format!("CREATE TABLE gone AS {MANY} SELECT hex(randomblob(100)) AS v FROM n"),
        "DROP TABLE gone; ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)",
    ])
    .await;
    let held = "PRAGMA wal_autocheckpoint = 0; CREATE TABLE large AS SELECT zeroblob(2000000) AS v; DROP TABLE large; PRAGMA wal_autocheckpoint = 1000";
    db.execute(held).await.expect("a large log");
    let planted = [
        "duplicate_index:code_second",
        "free_pages:",
        "large_wal:",
        "unindexed_key:main.the.child(parent_id)",
    ];
    let mut found = settled(&url, EngineKind::Sqlite, &planted).await;
    // VACUUM writes the log again, which is told of then.
    for _ in 0..2 {
        remedy(&db, &found).await;
        found = findings(&quick(&url).await, EngineKind::Sqlite, &bounds());
    }
    assert_eq!(found, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_without_statistics_is_told_once() {
    let (_folder, url, db) = file(&[
        "CREATE TABLE t (id integer PRIMARY KEY, v text); CREATE INDEX on_v ON t (v); CREATE TABLE empty (v text UNIQUE)",
        &format!("INSERT INTO t (v) {MANY} SELECT 'value ' || n FROM n"),
    ])
    .await;
    let found = settled(&url, EngineKind::Sqlite, &["stale_statistics:"]).await;
    remedy(&db, &found).await;
    settled(&url, EngineKind::Sqlite, &[]).await;
}
