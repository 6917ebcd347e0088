//! How strained a target says it is, with strain that is really there: sessions that wait for dbkeep's locks, replicas that are away,
//! a writer that keeps its turn. What the throttle makes of it is the engine's.

use std::{sync::Arc, time::Duration};

use dbkeep_engine::port::{Pressure, Target};
use dbkeep_server::target;
use dbkeep_testkit::{Db, Durability, PrivatePostgres, fresh_database};
use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};

async fn until(target: &Arc<dyn Target>, fits: impl Fn(&Pressure) -> bool) -> Pressure {
    let measured = async {
        loop {
            let pressure = target.pressure().await.expect("a measurement");
            if fits(&pressure) {
                return pressure;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), measured)
        .await
        .expect("in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_counts_who_waits_for_its_locks_and_nobody_else() {
    let url = fresh_database("waiters").await.expect("a database");
    let db = Db::open(&url).await.expect("a connection");
    db.execute("CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1), (2); CREATE ROLE looker LOGIN")
        .await
        .expect("prepared");
    let target = target::open(&url).expect("a target");
    let calm = target.pressure().await.expect("a measurement");
    assert_eq!(calm.lock_waiters, Some(0));
    assert!(calm.probe.is_some_and(|probe| !probe.is_zero()) && calm.replicas.is_some() && calm.wal_bytes.is_none());
    // Others who wait for each other are none of its business.
    let mut stranger = PgConnection::connect(&url).await.expect("a connection");
    stranger.execute("BEGIN; DELETE FROM t WHERE id = 2").await.expect("locked");
    let mut ours = PgConnection::connect(&format!("{url}?application_name=dbkeep"))
        .await
        .expect("a connection");
    ours.execute("BEGIN; DELETE FROM t WHERE id = 1").await.expect("locked");
    let waiting = [1, 2].map(|id| {
        let url = url.clone();
        tokio::spawn(async move {
            let mut connection = PgConnection::connect(&url).await.expect("a connection");
            let update = format!("UPDATE t SET id = id WHERE id = {id}");
            connection.execute(sqlx::AssertSqlSafe(update)).await.map(drop)
        })
    });
    let blocked = "SELECT 1 FROM pg_locks WHERE NOT granted";
    while db.fetch_text(blocked).await.expect("locks").len() < 2 {}
    assert_eq!(target.pressure().await.expect("a measurement").lock_waiters, Some(1));
    // Also for a user who is nobody special.
    let looker = target::open(&url.replace("postgres@", "looker@")).expect("a target");
    assert_eq!(looker.pressure().await.expect("a measurement").lock_waiters, Some(1));
    for connection in [&mut ours, &mut stranger] {
        connection.execute("ROLLBACK").await.expect("released");
    }
    for waiter in waiting {
        waiter.await.expect("no panic").expect("updated");
    }
    assert_eq!(target.pressure().await.expect("a measurement").lock_waiters, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_names_slots_that_nobody_uses() {
    let cluster = PrivatePostgres::start(Durability::Fast).await.expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    let target = target::open(&url).expect("a target");
    assert_eq!(target.pressure().await.expect("a measurement").replicas, Some(Vec::new()));
    // One that never kept log is no replica yet.
    db.execute("SELECT pg_create_physical_replication_slot('never_used')")
        .await
        .expect("a slot");
    assert_eq!(target.pressure().await.expect("a measurement").replicas, Some(Vec::new()));
    db.execute("SELECT pg_create_physical_replication_slot('gone', true); CREATE TABLE t AS SELECT generate_series(1, 10000)")
        .await
        .expect("a slot");
    let replicas = target.pressure().await.expect("a measurement").replicas.expect("told");
    let [replica] = &replicas[..] else { panic!("{replicas:?}") };
    assert_eq!((replica.name.as_str(), replica.stopped), ("gone", true));
    assert!(replica.retained_bytes.is_some_and(|bytes| bytes > 100_000), "{replica:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_measures_the_wait_for_a_turn_and_its_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("app.db").display());
    let mut writer = SqliteConnection::connect(&format!("{url}?mode=rwc"))
        .await
        .expect("a connection");
    writer
        .execute("CREATE TABLE t (id integer PRIMARY KEY, text text)")
        .await
        .expect("prepared");
    let target = target::open(&url).expect("a target");
    let calm = target.pressure().await.expect("a measurement");
    assert_eq!((calm.replicas, calm.lock_waiters, calm.wal_bytes), (None, None, None));
    writer.execute("BEGIN IMMEDIATE").await.expect("its turn");
    let strained = until(&target, |pressure| pressure.probe.is_some()).await;
    assert!(strained.probe >= Some(Duration::from_millis(400)), "{strained:?}");
    writer.execute("ROLLBACK").await.expect("over");
    until(&target, |pressure| pressure.probe < Some(Duration::from_millis(400))).await;
    writer
        .execute("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; INSERT INTO t (text) VALUES (zeroblob(1000000))")
        .await
        .expect("written");
    let grown = target.pressure().await.expect("a measurement");
    assert!(grown.wal_bytes.is_some_and(|bytes| bytes > 1_000_000), "{grown:?}");
}
