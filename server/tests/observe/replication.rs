//! Replicas and slots of PostgreSQL: how far behind they are, and what they keep.

use dbkeep_engine::{
    model::{EngineKind, monitor::FindingKind},
    monitor::findings::{Bounds, findings},
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, Durability, PrivatePostgres, ReplicatedPostgres};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{number, quick, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_as_far_behind_as_it_has_not_replayed() {
    let pair = ReplicatedPostgres::start().await.expect("two servers");
    let url = pair.primary().url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    db.execute("CREATE TABLE t (n integer)").await.expect("a table");
    let target = target::open(&url).expect("a target");
    let calm = until(
        target.as_ref(),
        |snapshot| matches!(&snapshot.replicas[..], [replica] if replica.lag_bytes == Some(0)),
    )
    .await;
    assert_eq!(calm.replicas[0].lag_seconds, Some(0.0));
    assert_eq!(calm.replicas[0].state, "streaming");
    let name = calm.replicas[0].name.clone();
    assert!(!name.is_empty());

    // It receives and does not replay: what it has not applied is its lag.
    let standby = Db::open(&pair.standby().url("postgres")).await.expect("a connection");
    standby.execute("SELECT pg_wal_replay_pause()").await.expect("paused");
    db.execute("INSERT INTO t SELECT generate_series(1, 20000)")
        .await
        .expect("rows");
    let behind = until(target.as_ref(), |snapshot| {
        snapshot
            .replicas
            .first()
            .is_some_and(|replica| replica.lag_bytes > Some(500_000) && replica.lag_seconds > Some(1.0))
    })
    .await;
    let missing = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint FROM pg_stat_replication";
    let measured = behind.replicas[0].lag_bytes.expect("bytes");
    assert!(measured <= number(&db, missing).await, "nothing is replayed meanwhile");
    let bounds = Bounds {
        lag_seconds: 1.0,
        ..Bounds::default()
    };
    let found = findings(&behind, EngineKind::Postgres, &bounds);
    let lag = found
        .iter()
        .find(|finding| finding.kind == FindingKind::ReplicaLag)
        .expect("a finding");
    assert_eq!(lag.object, name);
    let sound = findings(&behind, EngineKind::Postgres, &Bounds::default());
    assert!(
        sound.iter().all(|finding| finding.kind != FindingKind::ReplicaLag),
        "a second is nothing"
    );

    standby.execute("SELECT pg_wal_replay_resume()").await.expect("resumed");
    until(target.as_ref(), |snapshot| {
        snapshot.replicas.first().is_some_and(|replica| replica.lag_bytes == Some(0))
    })
    .await;

    // The standby looks at itself: it only reads, nobody follows it, and nobody is blamed for a horizon that is its primary's.
    let standby = quick(&pair.standby().url("postgres")).await;
    assert!(standby.database.in_recovery);
    assert_eq!((standby.replicas.len(), &standby.database.horizon), (0, &None));
    assert!(
        standby.gaps.iter().all(|gap| gap.why.contains("is not installed")),
        "{:?}",
        standby.gaps
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_holds_the_horizon_is_named() {
    let settings = [("wal_level", "logical"), ("autovacuum", "off")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings)
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    db.execute("CREATE TABLE t (n integer); INSERT INTO t VALUES (1)")
        .await
        .expect("a table");
    // A logical slot needs the catalog as it was: its catalog_xmin stands still until somebody reads from it.
    let mut maker = PgConnection::connect(&url).await.expect("a connection");
    maker
        .execute("SELECT pg_create_logical_replication_slot('no''body', 'test_decoding')")
        .await
        .expect_err("no such name");
    maker
        .execute("SELECT pg_create_logical_replication_slot('nobody', 'test_decoding')")
        .await
        .expect("a slot");
    maker.close().await.expect("closed");
    for _ in 0..5 {
        db.execute("UPDATE t SET n = n + 1").await.expect("updated");
    }
    let snapshot = quick(&url).await;
    let held = snapshot.database.horizon.expect("the slot holds it");
    assert_eq!((held.kind.as_str(), held.name.as_str()), ("replication_slot", "nobody"));
    let age = "SELECT age(catalog_xmin) FROM pg_replication_slots WHERE slot_name = 'nobody'";
    assert_eq!(held.xid_age, number(&db, age).await);
    assert!(held.xid_age >= 5);
    assert!(snapshot.slots.iter().any(|slot| slot.name == "nobody" && !slot.active));
    db.execute(&held.remedy).await.expect("dropped");
    let after = quick(&url).await;
    assert_eq!((after.database.horizon, after.slots), (None, Vec::new()));
}
