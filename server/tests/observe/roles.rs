//! What roles see that are no superusers.

use dbkeep_engine::model::monitor::Depth;
use dbkeep_server::target;
use dbkeep_testkit::{Db, Durability, PrivatePostgres};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{gaps, index, look, quick, table, until};

const PREPARED: [&str; 4] = [
    "CREATE TABLE secret (id integer PRIMARY KEY, name text) WITH (autovacuum_enabled = off)",
    "INSERT INTO secret SELECT n, 'name ' || n FROM generate_series(1, 50000) AS n",
    "DELETE FROM secret WHERE id % 5 <> 0",
    "VACUUM (ANALYZE) secret",
];

async fn cluster() -> (PrivatePostgres, Db) {
    let settings = [("shared_preload_libraries", "pg_stat_statements"), ("autovacuum", "off")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings)
        .await
        .expect("a cluster");
    let db = Db::open(&cluster.url("postgres")).await.expect("a connection");
    for sql in PREPARED {
        db.execute(sql).await.expect("prepared");
    }
    (cluster, db)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_role_sees_everything_and_reads_no_table() {
    let (cluster, db) = cluster().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/monitoring-role.sql");
    let script = std::fs::read_to_string(script).expect("the documented script");
    for _ in 0..2 {
        db.execute(&script).await.expect("the script runs, and again");
    }
    let url = cluster.url("postgres").replace("postgres@", "dbkeep_monitor@");
    let as_monitor = Db::open(&url).await.expect("a connection");
    as_monitor.count("secret").await.expect_err("no rows for it");
    let without = quick(&url).await;
    assert_eq!(gaps(&without), [""; 0], "{:?}", without.gaps);
    db.execute("CREATE EXTENSION pg_stat_statements; CREATE EXTENSION pgstattuple")
        .await
        .expect("installed");
    db.execute("SELECT count(*) FROM secret").await.expect("counted");
    let (seen, all) = (quick(&url).await, quick(&cluster.url("postgres")).await);
    assert!(seen.gaps.is_empty(), "{:?}", seen.gaps);
    // The same that a superuser sees.
    let (mine, theirs) = (table(&seen, "public.secret"), table(&all, "public.secret"));
    assert!(mine.free_bytes.is_some() && mine.free_bytes == theirs.free_bytes);
    let bloat = |snapshot| index(snapshot, "secret_pkey").bloat_fraction;
    assert!(bloat(&seen).is_some() && bloat(&seen) == bloat(&all));
    assert!(seen.queries.iter().any(|query| query.text.contains("FROM secret")));
    assert!(seen.database.wal_size_bytes.is_some() && seen.database.size_bytes.is_some());
    let exact = look(&url, Depth::Exact).await;
    assert_eq!(gaps(&exact), ["exact_rows"], "only counting reads rows: {:?}", exact.gaps);
    let gap = exact.gaps.first().expect("a gap");
    assert_eq!(gap.allow, "GRANT SELECT ON \"public\".\"secret\" TO \"dbkeep_monitor\";");
    db.execute(&gap.allow).await.expect("granted");
    let exact = look(&url, Depth::Exact).await;
    assert!(exact.gaps.is_empty(), "{:?}", exact.gaps);
    assert_eq!(table(&exact, "public.secret").rows.map(|rows| rows.rows), Some(10_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_rights_has_gaps_and_the_statements_that_close_them() {
    let (cluster, db) = cluster().await;
    db.execute("CREATE ROLE \"No One\" LOGIN; CREATE EXTENSION pg_stat_statements; CREATE EXTENSION pgstattuple")
        .await
        .expect("prepared");
    let url = cluster.url("postgres").replace("postgres@", "No%20One@");
    let poor = look(&url, Depth::Exact).await;
    assert_eq!(
        gaps(&poor),
        [
            "free_space",
            "sessions",
            "wal_size",
            "slow_queries",
            "exact_rows",
            "free_space_measured"
        ],
        "{:?}",
        poor.gaps
    );
    let secret = table(&poor, "public.secret");
    assert!(secret.heap_bytes.is_some() && secret.rows.is_some() && secret.free_bytes.is_none());
    assert!(poor.database.size_bytes.is_some() && poor.database.wal_size_bytes.is_none());
    for gap in &poor.gaps {
        assert!(gap.allow.starts_with("GRANT ") && gap.allow.contains("\"No One\""), "{gap:?}");
        db.execute(&gap.allow).await.expect("a statement that can be applied");
    }
    let rich = look(&url, Depth::Exact).await;
    assert!(rich.gaps.is_empty(), "{:?}", rich.gaps);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_is_being_built_has_not_failed() {
    let (cluster, db) = cluster().await;
    db.execute("CREATE ROLE \"No One\" LOGIN").await.expect("a role");
    // It waits for whoever has written to the table, with the index in the catalog already.
    let mut writer = PgConnection::connect(&cluster.url("postgres")).await.expect("a connection");
    writer.execute("BEGIN; DELETE FROM secret").await.expect("written");
    let mut builder = PgConnection::connect(&cluster.url("postgres")).await.expect("a connection");
    let building = tokio::spawn(async move {
        builder
            .execute("CREATE INDEX CONCURRENTLY built ON secret (name)")
            .await
            .map(drop)
    });
    let target = target::open(&cluster.url("postgres")).expect("a target");
    let seen = until(target.as_ref(), |snapshot| {
        snapshot.indexes.iter().any(|index| index.name == "built")
    })
    .await;
    assert!(index(&seen, "built").valid, "it is being built");
    assert!(gaps(&seen).is_empty(), "{:?}", seen.gaps);
    let url = cluster.url("postgres").replace("postgres@", "No%20One@");
    let poor = quick(&url).await;
    assert!(index(&poor, "built").valid, "nobody knows better");
    let gap = poor.gaps.iter().find(|gap| gap.what == "index_builds").expect("a gap");
    db.execute(&gap.allow).await.expect("granted");
    let rich = quick(&url).await;
    assert!(index(&rich, "built").valid && rich.gaps.iter().all(|gap| gap.what != "index_builds"));
    // Given up: now it has failed, for both.
    building.abort();
    db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY built%'")
        .await
        .expect("ended");
    let failed = until(target.as_ref(), |snapshot| !index(snapshot, "built").valid).await;
    assert!(gaps(&failed).is_empty());
    assert!(!index(&quick(&url).await, "built").valid);
}
