//! Databases in which problems were planted, a real server, and the real binary: `dbkeep findings` names each problem and nothing else, what
//! it says to do mends each of them, and what `dbkeep recommendations` promises comes true. With the values of production.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod advised;
mod platform;
mod shown;

use std::{collections::BTreeMap, time::Duration};

use dbkeep_server::{CatalogSource, Config, ServeError, serve};
use dbkeep_testkit::{Db, Durability, PrivatePostgres};
use serde_json::Value;
use tokio::{net::TcpListener, process::Command, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// Longest wait for counters to arrive, or for a remedy to show.
const PATIENCE: Duration = Duration::from_secs(60);

/// An operation that deletes parents, which is what makes an index on the child's key a recommendation.
const CATALOG: &str = r#"
[[operation]]
name = "old_parents"
category = "EXPIRED_DATA"
severity = "LOW"
backup = false
[[operation.rule]]
name = "parents"
kind = "expired"
table = "parent"
column = "expires_at"
expiry = true
encoding = "unix_seconds"
"#;

struct Server {
    address: String,
    shutdown: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog = CatalogSource::Text {
            name: "catalog.toml".to_owned(),
            text: CATALOG.to_owned(),
        };
        let mut config = Config::embedded(folder.path().join("data")).with_target("app", url, catalog);
        // Looks are asked for; one that comes in between would only take the file from who mends it.
        config.engine.monitor.enabled = false;
        Self::serve(config, folder).await
    }

    /// The same with settings of the test's own; `folder` is removed with the server.
    async fn serve(config: Config, folder: tempfile::TempDir) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, config, shutdown.clone()));
        Self {
            address,
            shutdown,
            serving,
            _folder: folder,
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.serving).await.unwrap().unwrap().unwrap();
    }

    /// What the command line tool answers.
    async fn dbkeep(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_dbkeep"))
            .args(arguments)
            .env("DBKEEP_ADDR", &self.address)
            .env_remove("NO_COLOR")
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {told}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        told
    }

    /// Findings by key, with what mends each.
    async fn findings(&self) -> BTreeMap<String, String> {
        let told: Value = serde_json::from_str(&self.dbkeep(&["findings", "app", "--fresh", "-o", "json"]).await).unwrap();
        let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
        told["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| (text(finding, "key"), text(finding, "remediation")))
            .collect()
    }

    /// The findings, once they are these: counters arrive late.
    async fn settled(&self, expected: &[&str]) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let looking = async {
            loop {
                found = self.findings().await;
                if found.keys().map(String::as_str).eq(expected.iter().copied()) {
                    return;
                }
            }
        };
        let settled = timeout(PATIENCE, looking).await;
        assert!(settled.is_ok(), "expected {expected:#?}, found {found:#?}");
        found
    }

    async fn recommendations(&self) -> Vec<Value> {
        let told = self.dbkeep(&["recommendations", "app", "-o", "json"]).await;
        let told: Value = serde_json::from_str(&told).unwrap();
        told["recommendations"].as_array().unwrap().clone()
    }
}

async fn number(db: &Db, sql: &str) -> u64 {
    let rows = db.fetch_text(sql).await.unwrap();
    rows[0][0].as_deref().unwrap().parse().unwrap()
}

async fn execute(db: &Db, sql: &str) {
    db.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:#}"));
}

/// Each is a message of its own, since VACUUM cannot share one.
const POSTGRES: [&str; 20] = [
    "CREATE EXTENSION pg_stat_statements",
    "CREATE TABLE parent (id integer PRIMARY KEY, code text, expires_at bigint)",
    "INSERT INTO parent SELECT n, 'code ' || n FROM generate_series(1, 10) AS n",
    "CREATE TABLE child (id integer PRIMARY KEY, parent_id integer REFERENCES parent, \"a note\" text)",
    "INSERT INTO child SELECT n, 1 + n % 10, repeat('a long note ', 6) || n FROM generate_series(1, 20000) AS n",
    // Nobody has read it, and nobody may say so: it is not known for a week.
    "CREATE INDEX never_read ON child (\"a note\")",
    "CREATE INDEX code_first ON parent (code)",
    "CREATE INDEX code_second ON parent (code)",
    "CREATE TABLE twice AS SELECT 1 AS n UNION ALL SELECT 1",
    "CREATE TABLE fat (id integer PRIMARY KEY, v text)",
    "INSERT INTO fat SELECT n, 'some value ' || n FROM generate_series(1, 700000) AS n",
    "DELETE FROM fat WHERE id % 10 <> 0",
    "VACUUM (ANALYZE)",
    "CREATE TABLE dying AS SELECT generate_series(1, 30000) AS id",
    "ANALYZE dying",
    "DELETE FROM dying WHERE id % 2 = 0",
    "ANALYZE dying",
    "CREATE TABLE stale (id integer); ANALYZE stale; INSERT INTO stale SELECT generate_series(1, 20000)",
    "SELECT pg_create_physical_replication_slot('gone', true)",
    "DO $$ BEGIN FOR i IN 1..1000 LOOP PERFORM 1 FROM child WHERE id = i; END LOOP; END $$",
];

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let settings = [("autovacuum", "off"), ("shared_preload_libraries", "pg_stat_statements")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings).await.unwrap();
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.unwrap();
    for sql in POSTGRES {
        // What is counted arrives before the next one begins, in whichever session: an ANALYZE in between would forget it.
        let counted = if sql.starts_with("VACUUM") {
            sql.to_owned()
        } else {
            format!("{sql}; SELECT pg_stat_force_next_flush()")
        };
        execute(&db, &counted).await;
    }
    db.execute("CREATE UNIQUE INDEX CONCURRENTLY broken ON twice (n)")
        .await
        .expect_err("not unique");
    let server = Server::start(&url).await;
    let planted = [
        "bloated_index:public.fat_pkey",
        "bloated_table:public.fat",
        "dead_rows:public.dying",
        "duplicate_index:public.code_second",
        "inactive_slot:gone",
        "invalid_index:public.broken",
        "stale_statistics:public.stale",
        "unindexed_key:public.child(parent_id)",
    ];
    let found = server.settled(&planted).await;
    // The same in words, for people.
    let told = server.dbkeep(&["findings", "app", "--fresh"]).await;
    for key in planted {
        let (kind, object) = key.split_once(':').unwrap();
        let object = object.strip_prefix("public.").unwrap_or(object);
        assert!(told.contains(kind) && told.contains(object), "{key}: {told}");
    }

    // A session that others wait for comes and goes; it is one more.
    let holder = tokio::spawn({
        let url = url.clone();
        async move {
            let db = Db::open(&url).await.unwrap();
            // In one message, so that it stays in one session, which somebody ends.
            let held = "BEGIN; UPDATE parent SET code = code WHERE id = 1; SELECT pg_sleep(600)";
            db.execute(held).await.expect_err("it is ended");
        }
    });
    let holding = "SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let mut process = 0;
    while process == 0 {
        process = number(&db, holding).await;
    }
    let waiter = tokio::spawn({
        let url = url.clone();
        async move {
            let db = Db::open(&url).await.unwrap();
            execute(&db, "UPDATE parent SET code = code WHERE id = 1").await;
        }
    });
    let blocked = format!("blocked_sessions:{process}");
    let mut with_blocked: Vec<&str> = planted.to_vec();
    with_blocked.push(&blocked);
    with_blocked.sort_unstable();
    let more = server.settled(&with_blocked).await;
    execute(&db, &more[&blocked]).await;
    timeout(PATIENCE, waiter).await.unwrap().unwrap();
    timeout(PATIENCE, holder).await.unwrap().unwrap();
    server.settled(&planted).await;

    let advice = server.recommendations().await;
    let keys: Vec<&str> = advice.iter().map(|one| one["key"].as_str().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "index_before_cascade:public.child(parent_id)",
            "rebuild_index:public.fat_pkey",
            "repack_table:public.fat",
        ]
    );
    for one in &advice {
        // Nothing else is promised than what the finding says.
        let finding = one["evidence"][0]["value"].as_str().unwrap();
        assert_eq!(one["remediation"].as_str().unwrap(), found[finding]);
    }
    let size = |name: &str| format!("SELECT pg_relation_size('{name}')");
    let (index, table) = (number(&db, &size("fat_pkey")).await, number(&db, &size("fat")).await);
    execute(&db, &found["bloated_index:public.fat_pkey"]).await;
    let rebuilt = number(&db, &size("fat_pkey")).await;
    assert!(rebuilt * 2 < index, "{index} -> {rebuilt}");

    execute(&db, "DELETE FROM twice WHERE ctid = (SELECT min(ctid) FROM twice)").await;
    for (key, remediation) in found.iter().filter(|(key, _)| !key.starts_with("bloated_index")) {
        db.execute(remediation)
            .await
            .unwrap_or_else(|error| panic!("{key}: {remediation}: {error:#}"));
    }
    let repacked = number(&db, &size("fat")).await;
    assert!(repacked * 2 < table, "{table} -> {repacked}");
    let plan = db
        .fetch_text("EXPLAIN SELECT 1 FROM child WHERE parent_id = 12345")
        .await
        .unwrap();
    let plan: String = plan.into_iter().flatten().flatten().collect();
    assert!(
        plan.contains("child_parent_id_idx"),
        "a delete of a parent finds its children: {plan}"
    );
    assert_eq!(
        number(
            &db,
            "SELECT count(*) FROM pg_index WHERE indexrelid = 'broken'::regclass AND indisvalid"
        )
        .await,
        1
    );
    server.settled(&[]).await;
    assert!(server.recommendations().await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.db");
    let url = format!("sqlite://{}", file.display());
    let db = Db::open(&format!("{url}?mode=rwc")).await.unwrap();
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)";
    for sql in [
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE parent (id integer PRIMARY KEY, code text, expires_at integer)",
        "INSERT INTO parent VALUES (1, 'x', NULL), (2, 'y', NULL)",
        "CREATE TABLE \"the child\" (id integer PRIMARY KEY, parent_id integer REFERENCES parent, v text)",
        &format!("INSERT INTO \"the child\" (parent_id, v) {many} SELECT 1 + i % 2, 'value ' || i FROM n"),
        "CREATE INDEX code_first ON parent (code)",
        "CREATE INDEX code_second ON parent (code)",
        "ANALYZE",
        // More than the 256 MiB at which a log is large, and free pages once it is gone; by one connection, whose setting it is.
        &format!(
            "PRAGMA wal_autocheckpoint = 0; CREATE TABLE large (v blob); \
             INSERT INTO large {many} SELECT zeroblob(1000000) FROM n LIMIT 280; DROP TABLE large; PRAGMA wal_autocheckpoint = 1000"
        ),
    ] {
        execute(&db, sql).await;
    }
    let server = Server::start(&url).await;
    let planted = [
        "duplicate_index:code_second",
        "free_pages:",
        "large_wal:",
        "unindexed_key:the child(parent_id)",
    ];
    let found = server.settled(&planted).await;
    let told = server.dbkeep(&["findings", "app", "--fresh"]).await;
    for word in [
        "duplicate_index",
        "code_second",
        "free_pages",
        "large_wal",
        "unindexed_key",
        "the child",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let keys: Vec<String> = server
        .recommendations()
        .await
        .iter()
        .map(|one| one["key"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(keys, ["index_before_cascade:the child(parent_id)", "repack_table:"]);

    let log = folder.path().join("app.db-wal");
    assert!(std::fs::metadata(&log).unwrap().len() > 256 << 20);
    // The log first: until it is in the file, VACUUM has nothing to give back.
    for key in [
        "large_wal:",
        "free_pages:",
        "duplicate_index:code_second",
        "unindexed_key:the child(parent_id)",
    ] {
        execute(&db, &found[key]).await;
        if key == "large_wal:" {
            assert_eq!(std::fs::metadata(&log).unwrap().len(), 0, "the log is empty");
        }
    }
    server.settled(&[]).await;
    execute(&db, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    let size = std::fs::metadata(&file).unwrap().len();
    assert!(size < 10 << 20, "the disk has its space back: {size}");
    // By a connection of its own: EXPLAIN alone does not notice that the schema has changed since the last statement of an older one.
    let plan = Db::open(&url)
        .await
        .unwrap()
        .fetch_text("EXPLAIN QUERY PLAN SELECT 1 FROM \"the child\" WHERE parent_id = 12345")
        .await
        .unwrap();
    let plan: String = plan.into_iter().flatten().flatten().collect();
    assert!(
        plan.contains("the child_parent_id_idx"),
        "a delete of a parent finds its children: {plan}"
    );
    assert!(server.recommendations().await.is_empty());
    server.stop().await;
}
