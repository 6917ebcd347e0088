//! The same on the learning platform of the demonstration, with declared keys. As it is generated, nothing is wrong with it; then everything
//! is planted that can be within a test's time: a transaction is long here after a minute, and not after five. Used-up transaction ids, a slow
//! replica and taken sessions are found in the server's tests of what it observes and what it alerts of.

use std::time::Duration;

use dbkeep_demo::{CATALOG, GenerateOptions, generate, generate_files};
use dbkeep_engine::monitor::findings::Bounds;
use dbkeep_server::{CatalogSource, Config};
use dbkeep_testkit::{Db, Durability, PrivatePostgres};
use serde_json::Value;
use tokio::time::timeout;

use crate::{PATIENCE, Server, execute, number};

/// Enough for an index of 1 MiB on the log of calls.
const ROWS: u64 = 50_000;

/// The values of production, but for what would take a week, an hour, or a quarter of a GiB.
fn bounds() -> Bounds {
    Bounds {
        evidence_seconds: 1,
        horizon_seconds: 1,
        wal_bytes: 16 << 20,
        ..Bounds::default()
    }
}

/// A server on a new platform at a URL.
async fn serve(url: &str, collecting: bool, bounds: Bounds) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let options = GenerateOptions {
        url: url.to_owned(),
        rows: ROWS,
        seed: 7,
        now: jiff::Timestamp::now(),
        declared_keys: true,
        drop_existing: false,
    };
    generate(&options).await.unwrap();
    generate_files(&options, folder.path()).unwrap();
    let catalog = CatalogSource::Text {
        name: "learning-platform.toml".to_owned(),
        text: CATALOG.to_owned(),
    };
    let mut config = Config::embedded(folder.path().join("data"))
        .with_target("app", url, catalog)
        .with_root("app", "temp", folder.path().join("temp"))
        .with_root("app", "uploads", folder.path().join("uploads"));
    config.default_schedules = false;
    config.engine.monitor.enabled = collecting;
    config.engine.monitor.interval = Duration::from_millis(500);
    config.engine.monitor.bounds = bounds;
    Server::serve(config, folder).await
}

/// Waits until exactly this is recommended; by the newest look, which is not that of the findings.
async fn advised(server: &Server, expected: &[&str]) {
    let mut keys: Vec<String> = Vec::new();
    let looking = async {
        loop {
            let advice = server.recommendations().await;
            keys = advice.iter().map(|one| one["key"].as_str().unwrap().to_owned()).collect();
            keys.sort();
            if keys == expected {
                return;
            }
        }
    };
    let found = timeout(PATIENCE, looking).await;
    assert!(found.is_ok(), "expected {expected:#?}, found {keys:#?}");
}

/// Each is a message of its own, since VACUUM and CONCURRENTLY cannot share one.
const POSTGRES: [&str; 15] = [
    "DROP INDEX refresh_tokens_user",
    "CREATE INDEX user_progress_user_again ON user_progress (user_id)",
    "CREATE INDEX api_logs_by_path ON api_logs (path, payload, level)",
    "DO $$ BEGIN FOR i IN 1..1000 LOOP PERFORM 1 FROM api_logs WHERE id = i; END LOOP; END $$",
    "INSERT INTO audit_logs (created_at, action) \
     SELECT timestamp '2020-01-01' + n * interval '1 second', 'import' FROM generate_series(1, 700000) AS n",
    "DELETE FROM audit_logs WHERE action = 'import' AND id % 10 <> 0",
    "VACUUM (ANALYZE) audit_logs",
    "SELECT 1 FROM audit_logs WHERE created_at = timestamp '2020-01-01'",
    "INSERT INTO error_logs (error_type) SELECT 'Flood' FROM generate_series(1, 30000)",
    "ANALYZE error_logs",
    "DELETE FROM error_logs WHERE error_type = 'Flood' AND id % 2 = 0",
    "ANALYZE error_logs",
    "INSERT INTO password_reset_tokens (id, email) SELECT 'planted ' || n, 'ann@example.org' FROM generate_series(1, 20000) AS n",
    "SELECT pg_create_physical_replication_slot('gone', true)",
    "ANALYZE refresh_tokens",
];

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let settings = [("autovacuum", "off"), ("shared_preload_libraries", "pg_stat_statements")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings).await.unwrap();
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.unwrap();
    execute(&db, "CREATE EXTENSION pg_stat_statements").await;
    let server = serve(&url, true, bounds()).await;
    assert!(server.findings().await.is_empty(), "nothing is wrong yet");
    assert!(server.recommendations().await.is_empty());

    for sql in POSTGRES {
        let counted = if sql.starts_with("VACUUM") {
            sql.to_owned()
        } else {
            format!("{sql}; SELECT pg_stat_force_next_flush()")
        };
        execute(&db, &counted).await;
    }
    // The platform's leaderboard has entries twice: what its operation `orphaned_leaderboard` is for.
    db.execute("CREATE UNIQUE INDEX CONCURRENTLY leaderboard_once ON leaderboard_entries (category, user_id)")
        .await
        .expect_err("not unique");
    let holder = tokio::spawn({
        let url = url.clone();
        async move {
            let db = Db::open(&url).await.unwrap();
            // In one message, so that it stays in one session, which somebody ends.
            let held = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM users; SELECT pg_sleep(600)";
            db.execute(held).await.expect_err("it is ended");
        }
    });
    let holding = "SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let mut process = 0;
    while process == 0 {
        process = number(&db, holding).await;
    }
    // Nothing is held back before somebody writes.
    execute(&db, "SELECT txid_current()").await;
    let held = format!("horizon_held:transaction {process}");
    let planted = [
        "bloated_index:public.audit_logs_created",
        "bloated_index:public.audit_logs_pkey",
        "bloated_table:public.audit_logs",
        "dead_rows:public.error_logs",
        "duplicate_index:public.user_progress_user_again",
        &held,
        "inactive_slot:gone",
        "invalid_index:public.leaderboard_once",
        "stale_statistics:public.password_reset_tokens",
        "unindexed_key:public.refresh_tokens(user_id)",
        "unused_index:public.api_logs_by_path",
    ];
    let found = server.settled(&planted).await;

    let blocked = format!("vacuum_blocked:transaction {process}");
    let advice = [
        "index_before_cascade:public.refresh_tokens(user_id)",
        "rebuild_index:public.audit_logs_created",
        "rebuild_index:public.audit_logs_pkey",
        "repack_table:public.audit_logs",
        &blocked,
    ];
    advised(&server, &advice).await;

    // Who holds the horizon first: as long as it does, no dead row goes.
    execute(&db, &found[&held]).await;
    timeout(PATIENCE, holder).await.unwrap().unwrap();
    // Once no value is there twice, as the finding of the invalid index says.
    server
        .dbkeep(&["run", "orphaned_leaderboard", "--execute", "--yes", "--full-speed"])
        .await;
    for (key, remediation) in found.iter().filter(|(key, _)| **key != held) {
        for statement in remediation.lines() {
            db.execute(statement)
                .await
                .unwrap_or_else(|error| panic!("{key}: {statement}: {error:#}"));
        }
    }
    server.settled(&[]).await;
    advised(&server, &[]).await;
    server.stop().await;
}

/// Each of its calls reads the whole log.
const SLOW: &str = "SELECT count(*) FROM api_logs WHERE md5(path) = 'of no path'";

async fn explained(db: &Db) -> String {
    let plan = db.fetch_text(&format!("EXPLAIN (ANALYZE, BUFFERS) {SLOW}")).await.unwrap();
    plan.into_iter().flatten().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_time_in_postgres() {
    let settings = [("autovacuum", "off"), ("shared_preload_libraries", "pg_stat_statements")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings).await.unwrap();
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.unwrap();
    execute(&db, "CREATE EXTENSION pg_stat_statements").await;
    let bounds = Bounds {
        // The log is small.
        slow: (1.0, 100, 0.3),
        // No look tells of younger ones.
        transaction_seconds: 60,
        ..Bounds::default()
    };
    let server = serve(&url, false, bounds).await;
    // What made the platform took time as well.
    execute(&db, "SELECT pg_stat_statements_reset()").await;
    assert!(server.findings().await.is_empty(), "nothing is wrong yet");
    for _ in 0..100 {
        execute(&db, SLOW).await;
    }
    let id = "SELECT queryid FROM pg_stat_statements WHERE query LIKE 'SELECT count(*) FROM api_logs%'";
    let id = db.fetch_text(id).await.unwrap()[0][0].clone().unwrap();
    let slow = format!("slow_query:{id}");
    let found = server.settled(&[&slow]).await;
    let told = server.dbkeep(&["findings", "app", "--fresh"]).await;
    assert!(told.contains("slow_query") && told.contains("api_logs"), "{told}");
    assert!(!told.contains("of no path"), "no literal is shown: {told}");
    // What it says: look at the plan; an index may be missing.
    assert!(found[&slow].contains("EXPLAIN (ANALYZE, BUFFERS)"), "{found:?}");
    let plan = explained(&db).await;
    assert!(plan.contains("Seq Scan on api_logs"), "{plan}");
    execute(&db, "CREATE INDEX api_logs_by_hash ON api_logs (md5(path)); ANALYZE api_logs").await;
    let plan = explained(&db).await;
    assert!(plan.contains("api_logs_by_hash"), "{plan}");
    // Its calls are quick from now on, and what all of them take on average falls with each.
    let mended = async {
        loop {
            for _ in 0..500 {
                execute(&db, SLOW).await;
            }
            if server.findings().await.is_empty() {
                return;
            }
        }
    };
    timeout(PATIENCE, mended).await.unwrap();

    let holder = tokio::spawn({
        let url = url.clone();
        async move {
            let db = Db::open(&url).await.unwrap();
            // In one message, so that it stays in one session, which somebody ends.
            let open = "BEGIN; SELECT count(*) FROM users; SELECT pg_sleep(600)";
            db.execute(open).await.expect_err("it is ended");
        }
    });
    let holding = "SELECT coalesce(min(pid), 0) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let mut process = 0;
    while process == 0 {
        process = number(&db, holding).await;
    }
    assert!(server.findings().await.is_empty(), "it is young");
    let of_it = format!("FROM pg_stat_activity WHERE pid = {process}");
    // Until it is old enough by the database's clock.
    execute(
        &db,
        &format!("SELECT pg_sleep_until(xact_start + interval '61 seconds') {of_it}"),
    )
    .await;
    let long = format!("long_transaction:{process}");
    let found = server.settled(&[&long]).await;
    let age = format!("SELECT extract(epoch FROM clock_timestamp() - xact_start)::bigint {of_it}");
    let before = number(&db, &age).await;
    let told: Value = serde_json::from_str(&server.dbkeep(&["metrics", "app", "--fresh", "-o", "json"]).await).unwrap();
    let after = number(&db, &age).await;
    let shown = told["metrics"]["sessions"]["long_transactions"].as_array().unwrap();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(shown[0]["pid"].as_u64(), Some(process));
    let seconds = shown[0]["age_seconds"].as_f64().unwrap();
    let (least, most) = (
        f64::from(u32::try_from(before).unwrap()),
        f64::from(u32::try_from(after).unwrap()),
    );
    assert!((least..=most).contains(&seconds), "{least} <= {seconds} <= {most}");
    execute(&db, &found[&long]).await;
    timeout(PATIENCE, holder).await.unwrap().unwrap();
    server.settled(&[]).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("platform.db").display());
    let server = serve(&url, false, bounds()).await;
    assert!(server.findings().await.is_empty(), "nothing is wrong yet");
    assert!(server.recommendations().await.is_empty());

    let db = Db::open(&url).await.unwrap();
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)";
    for sql in [
        "DROP INDEX refresh_tokens_user",
        "CREATE INDEX user_progress_user_again ON user_progress (user_id)",
        "DELETE FROM sqlite_stat1",
        // By one connection, whose setting it is.
        &format!(
            "PRAGMA wal_autocheckpoint = 0; CREATE TABLE imported (v blob); \
             INSERT INTO imported {many} SELECT zeroblob(1000000) FROM n; DROP TABLE imported; PRAGMA wal_autocheckpoint = 1000"
        ),
    ] {
        execute(&db, sql).await;
    }
    let planted = [
        "duplicate_index:user_progress_user_again",
        "free_pages:",
        "large_wal:",
        "stale_statistics:",
        "unindexed_key:refresh_tokens(user_id)",
    ];
    let found = server.settled(&planted).await;
    advised(&server, &["index_before_cascade:refresh_tokens(user_id)", "repack_table:"]).await;
    // VACUUM writes the log again, which is emptied at last.
    let order = [
        "unindexed_key:refresh_tokens(user_id)",
        "duplicate_index:user_progress_user_again",
        "stale_statistics:",
        "free_pages:",
        "large_wal:",
    ];
    for key in order {
        execute(&db, &found[key]).await;
    }
    server.settled(&[]).await;
    advised(&server, &[]).await;
    server.stop().await;
}
