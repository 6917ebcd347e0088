//! Sessions, the horizon, slots and statements of PostgreSQL.

use dbkeep_engine::model::monitor::{Depth, Snapshot};
use dbkeep_server::target;
use dbkeep_testkit::{Db, Durability, PrivatePostgres, fresh_database};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{LIMIT, quick, until};

async fn process(connection: &mut PgConnection) -> i32 {
    sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(connection)
        .await
        .expect("a pid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_the_horizon_is_named() {
    // Its own cluster: what others do in a shared one moves the horizon too.
    let cluster = PrivatePostgres::start_with(Durability::Fast, &[("max_prepared_transactions", "5"), ("autovacuum", "off")])
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    db.execute("CREATE TABLE t (id integer PRIMARY KEY, v integer); INSERT INTO t VALUES (1, 0)")
        .await
        .expect("prepared");
    let mut holder = PgConnection::connect(&format!("{url}?application_name=report"))
        .await
        .expect("a connection");
    let pid = process(&mut holder).await;
    holder
        .execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t")
        .await
        .expect("a view");
    for _ in 0..3 {
        db.execute("UPDATE t SET v = v + 1").await.expect("updated");
    }
    let held = quick(&url).await.database.horizon.expect("somebody holds it");
    assert_eq!((held.kind.as_str(), held.name), ("transaction", pid.to_string()));
    assert_eq!(held.detail, "postgres, report, idle in transaction");
    assert_eq!(held.xid_age, 3);
    assert_eq!(held.remedy, format!("SELECT pg_terminate_backend({pid});"));
    assert!(held.seconds.is_some_and(|seconds| seconds < 60));
    db.execute(&held.remedy).await.expect("ended");
    let target = target::open(&url).expect("a target");
    until(target.as_ref(), |snapshot| snapshot.database.horizon.is_none()).await;

    db.execute("BEGIN; INSERT INTO t VALUES (2, 0); PREPARE TRANSACTION 'it''s mine'")
        .await
        .expect("prepared");
    db.execute("UPDATE t SET v = 0").await.expect("updated");
    let held = quick(&url).await.database.horizon.expect("somebody holds it");
    assert_eq!(
        (held.kind.as_str(), held.name.as_str()),
        ("prepared_transaction", "it's mine")
    );
    assert!(held.xid_age >= 1 && held.detail == "postgres, prepared");
    db.execute(&held.remedy).await.expect("rolled back");
    assert_eq!(quick(&url).await.database.horizon, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_keep_log() {
    let cluster = PrivatePostgres::start(Durability::Fast).await.expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    db.execute(
        "SELECT pg_create_physical_replication_slot('never_used'); SELECT pg_create_physical_replication_slot('gone', true)",
    )
    .await
    .expect("slots");
    db.execute("CREATE TABLE t AS SELECT generate_series(1, 10000)")
        .await
        .expect("written");
    let before = crate::number(
        &db,
        "SELECT (pg_current_wal_lsn() - restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = 'gone'",
    )
    .await;
    let snapshot = quick(&url).await;
    let slots: Vec<_> = snapshot.slots.iter().map(|slot| (slot.name.as_str(), slot.active)).collect();
    assert_eq!(slots, [("gone", false), ("never_used", false)]);
    assert!(snapshot.slots.iter().all(|slot| slot.physical));
    assert!(
        snapshot.slots[0].retained_bytes >= Some(before) && before > 100_000,
        "{:?}",
        snapshot.slots
    );
    assert_eq!(snapshot.slots[1].retained_bytes, Some(0));
    assert_eq!(snapshot.replicas, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_whom_is_told() {
    let url = fresh_database("blocked").await.expect("a database");
    let db = Db::open(&url).await.expect("a connection");
    db.execute("CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await
        .expect("prepared");
    let mut holder = PgConnection::connect(&format!("{url}?application_name=holder"))
        .await
        .expect("a connection");
    let pid = process(&mut holder).await;
    holder.execute("BEGIN; DELETE FROM t").await.expect("locked");
    let mut waiter = PgConnection::connect(&url).await.expect("a connection");
    let waiting = process(&mut waiter).await;
    let waiter = tokio::spawn(async move { waiter.execute("DELETE FROM t").await.map(drop) });
    let target = target::open(&url).expect("a target");
    let snapshot = until(target.as_ref(), |snapshot| {
        let sessions = snapshot.sessions.as_ref();
        sessions.is_some_and(|sessions| !sessions.long_transactions.is_empty())
    })
    .await;
    let sessions = snapshot.sessions.expect("sessions");
    assert_eq!((sessions.active, sessions.idle_in_transaction, sessions.waiting), (1, 1, 1));
    assert_eq!(sessions.max_connections, 200);
    assert!(sessions.connections >= 4);
    let [long] = &sessions.long_transactions[..] else {
        panic!("{sessions:?}")
    };
    assert_eq!((long.pid, long.blocks.as_slice()), (pid, &[waiting][..]));
    assert_eq!((long.role.as_str(), long.application.as_str()), ("postgres", "holder"));
    assert_eq!(long.state, "idle in transaction");
    holder.execute("ROLLBACK").await.expect("released");
    waiter.await.expect("no panic").expect("deleted");
    let calm = until(target.as_ref(), |snapshot| {
        snapshot.sessions.as_ref().is_some_and(|sessions| sessions.waiting == 0)
    })
    .await;
    assert_eq!(calm.sessions.expect("sessions").long_transactions, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_of_dbkeep_itself_is_known_by_its_run() {
    let cluster = PrivatePostgres::start_with(Durability::Fast, &[("autovacuum", "off")])
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    db.execute("CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await
        .expect("prepared");
    let mut own = PgConnection::connect(&format!("{url}?application_name=dbkeep"))
        .await
        .expect("a connection");
    let pid = process(&mut own).await;
    // Its view is older than that of whoever waits for it.
    own.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM t")
        .await
        .expect("a view");
    db.execute("INSERT INTO t VALUES (2)").await.expect("written");
    own.execute("DELETE FROM t").await.expect("locked");
    let mut waiter = PgConnection::connect(&url).await.expect("a connection");
    let waiter = tokio::spawn(async move { waiter.execute("DELETE FROM t").await.map(drop) });
    let target = target::open(&url).expect("a target");
    let blocked = |snapshot: &Snapshot| {
        let sessions = snapshot.sessions.as_ref();
        sessions.is_some_and(|sessions| !sessions.long_transactions.is_empty())
    };
    let snapshot = until(target.as_ref(), blocked).await;
    let long = snapshot.sessions.expect("sessions").long_transactions.remove(0);
    assert_eq!((long.pid, long.own, &long.run), (pid, true, &None), "no note of it is there");
    assert_eq!(long.backend, "client backend");
    db.execute(
        "CREATE SCHEMA dbkeep; CREATE TABLE dbkeep.session (pid integer, backend_start timestamptz, run_id text, fence bigint, work text)",
    )
    .await
    .expect("made");
    for (start, run) in [
        ("backend_start", "0190"),
        ("backend_start - interval '1 day'", "another, before"),
    ] {
        let note = format!(
            "INSERT INTO dbkeep.session SELECT pid, {start}, '{run}', 1, 'sample' FROM pg_stat_activity WHERE pid = {pid}"
        );
        db.execute(&note).await.expect("noted");
    }
    let snapshot = until(target.as_ref(), blocked).await;
    let long = snapshot.sessions.expect("sessions").long_transactions.remove(0);
    assert_eq!(long.run.as_deref(), Some("0190"));
    let held = snapshot.database.horizon.expect("it holds the horizon as well");
    assert_eq!(
        (held.name, held.remedy.as_str()),
        (pid.to_string(), "dbkeep runs cancel 0190")
    );
    own.execute("ROLLBACK").await.expect("released");
    waiter.await.expect("no panic").expect("deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_are_told_without_their_literals() {
    let cluster = PrivatePostgres::start_with(Durability::Fast, &[("shared_preload_libraries", "pg_stat_statements")])
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    let missing = quick(&url).await;
    let gap = missing.gaps.iter().find(|gap| gap.what == "slow_queries").expect("a gap");
    assert!(gap.allow.starts_with("CREATE EXTENSION pg_stat_statements;"));
    db.execute("CREATE EXTENSION pg_stat_statements; SELECT pg_stat_statements_reset()")
        .await
        .expect("installed");
    db.execute("CREATE ROLE someone PASSWORD 'sentinel-of-a-password'")
        .await
        .expect("made");
    for _ in 0..3 {
        db.execute("SELECT count(*) FROM generate_series(1, 300000) AS sentinel_of_a_query")
            .await
            .expect("counted");
    }
    let snapshot = quick(&url).await;
    assert!(snapshot.gaps.is_empty(), "{:?}", snapshot.gaps);
    let first = &snapshot.queries[0];
    assert!(
        first.text.contains("sentinel_of_a_query") && first.text.contains("$1"),
        "{first:?}"
    );
    assert_eq!(first.calls, 3);
    assert!((first.mean_ms * 3.0 - first.total_ms).abs() < 0.001 && first.share_fraction > 0.5);
    let role = snapshot.queries.iter().find(|query| query.text.starts_with("CREATE ROLE"));
    assert_eq!(role.map(|role| role.text.as_str()), Some("CREATE ROLE someone PASSWORD ?"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_is_an_error() {
    let cluster = PrivatePostgres::start(Durability::Fast).await.expect("a cluster");
    let target = target::open(&cluster.url("postgres")).expect("a target");
    target.observer().observe(Depth::Quick, LIMIT).await.expect("a snapshot");
    cluster.stop_immediate().await.expect("stopped");
    let error = target
        .observer()
        .observe(Depth::Quick, LIMIT)
        .await
        .expect_err("nobody there");
    assert_eq!(error.class, dbkeep_engine::port::TargetErrorClass::Lost);
    cluster.start_again().await.expect("back");
    target.observer().observe(Depth::Quick, LIMIT).await.expect("a snapshot");
}
