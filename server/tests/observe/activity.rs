//! Sessions, the horizon, slots and statements of PostgreSQL.

use dbkeep_engine::{
    model::{
        EngineKind,
        monitor::{Depth, FindingKind, Snapshot},
    },
    monitor::findings::{Bounds, findings},
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, Durability, PrivatePostgres, fresh_database};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::{LIMIT, decimal, quick, until};

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
async fn sessions_that_are_nearly_all_taken_are_told_until_some_end() {
    let settings = [("max_connections", "20"), ("superuser_reserved_connections", "3")];
    let cluster = PrivatePostgres::start_with(Durability::Fast, &settings)
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let is_told = |snapshot: &Snapshot| {
        let found = findings(snapshot, EngineKind::Postgres, &Bounds::default());
        found.iter().any(|finding| finding.kind == FindingKind::ConnectionsNearLimit)
    };
    let target = target::open(&url).expect("a target");
    assert!(!is_told(&quick(&url).await), "few are taken");
    // With that of the look itself 16 of 20.
    let mut taken = Vec::new();
    for _ in 0..15 {
        taken.push(PgConnection::connect(&url).await.expect("a connection"));
    }
    let snapshot = until(target.as_ref(), |snapshot| {
        snapshot.sessions.as_ref().is_some_and(|sessions| sessions.connections == 16)
    })
    .await;
    assert!(is_told(&snapshot), "{snapshot:?}");
    assert_eq!(snapshot.sessions.map(|sessions| sessions.max_connections), Some(20));
    for one in taken {
        one.close().await.expect("closed");
    }
    until(target.as_ref(), |snapshot| !is_told(snapshot)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_in_the_way_is_named() {
    let cluster = PrivatePostgres::start_with(Durability::Fast, &[("max_prepared_transactions", "5"), ("autovacuum", "off")])
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    db.execute("CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE other (id integer)")
        .await
        .expect("made");
    let other = "BEGIN; INSERT INTO other VALUES (1); SELECT count(*) FROM t; PREPARE TRANSACTION 'harmless'";
    db.execute(other).await.expect("prepared");
    let gid = "it's \\ mine";
    let prepare = "BEGIN; SAVEPOINT s; DELETE FROM t; RELEASE SAVEPOINT s; PREPARE TRANSACTION E'it''s \\\\ mine'";
    db.execute(prepare).await.expect("prepared");
    let target = target::open(&url).expect("a target");
    // One waits for a row of it, the other one for the whole table; the reader of the table is in nobody's way but the second's.
    for (statement, blocking) in [
        ("DELETE FROM t", &[gid][..]),
        ("LOCK TABLE t IN SHARE MODE", &[gid][..]),
        ("LOCK TABLE t IN ACCESS EXCLUSIVE MODE", &["harmless", gid][..]),
    ] {
        let mut waiter = PgConnection::connect(&url).await.expect("a connection");
        let waiting = process(&mut waiter).await;
        let waiter = tokio::spawn(async move {
            waiter.execute("BEGIN").await?;
            waiter.execute(statement).await?;
            waiter.execute("ROLLBACK").await.map(drop)
        });
        let snapshot = until(target.as_ref(), |snapshot| {
            let sessions = snapshot.sessions.as_ref();
            sessions.is_some_and(|sessions| !sessions.long_transactions.is_empty())
        })
        .await;
        let found = findings(&snapshot, EngineKind::Postgres, &Bounds::default());
        let mut long = snapshot.sessions.expect("sessions").long_transactions;
        long.sort_by(|one, two| one.prepared.cmp(&two.prepared));
        let named: Vec<_> = long.iter().filter_map(|one| one.prepared.as_deref()).collect();
        assert_eq!(named, blocking, "{statement}: {long:?}");
        for one in &long {
            assert_eq!((one.pid, one.role.as_str(), one.state.as_str()), (0, "postgres", "prepared"));
            assert_eq!(one.blocks, [waiting], "{statement}");
        }
        let told: Vec<_> = found.iter().filter(|one| one.kind == FindingKind::BlockedSessions).collect();
        assert_eq!(told.len(), blocking.len(), "{found:?}");
        // What the findings say ends it, and whoever waited goes on.
        for finding in told {
            db.execute(&finding.remediation)
                .await
                .unwrap_or_else(|error| panic!("{}: {error:#}", finding.remediation));
        }
        waiter.await.expect("no panic").expect("it went on");
        db.execute(prepare).await.expect("prepared again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn temporary_tables_that_sessions_left_behind_are_named() {
    let cluster = PrivatePostgres::start_with(Durability::Fast, &[("autovacuum", "off")])
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let mut session = PgConnection::connect(&url).await.expect("a connection");
    session
        .execute("CREATE TEMPORARY TABLE \"left over\" (id integer)")
        .await
        .expect("made");
    let name: String = sqlx::query_scalar("SELECT nspname::text FROM pg_namespace WHERE oid = pg_my_temp_schema()")
        .fetch_one(&mut session)
        .await
        .expect("a schema");
    // Nobody cleans up after a server that died.
    cluster.restart_immediate().await.expect("restarted");
    let db = Db::open(&url).await.expect("a connection");
    db.execute("DO $$ BEGIN FOR i IN 1..2000 LOOP BEGIN CREATE TABLE burned (i integer); RAISE EXCEPTION 'no'; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$")
        .await
        .expect("transaction ids used up");
    db.execute("VACUUM (FREEZE)").await.expect("frozen");
    let mut snapshot = quick(&url).await;
    let old: Vec<_> = snapshot
        .database
        .old_temporary
        .iter()
        .map(|table| table.table.to_string())
        .collect();
    assert_eq!(old, [format!("{name}.left over")]);
    assert!(snapshot.database.old_temporary[0].xid_age >= 2_000);
    assert!(snapshot.tables.iter().all(|table| table.table.name != "left over"));
    // As if two thousand were most of what there is.
    snapshot.database.xid_limit = snapshot.database.xid_age;
    let found = findings(&snapshot, EngineKind::Postgres, &Bounds::default());
    let wraparound = found
        .iter()
        .find(|one| one.kind == FindingKind::Wraparound)
        .expect("a finding");
    for statement in wraparound.remediation.lines() {
        db.execute(statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:#}"));
    }
    let after = quick(&url).await;
    assert_eq!(after.database.old_temporary, []);
    assert!(after.database.xid_age < Some(2_000), "{:?}", after.database);
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
    let of_all = "SELECT sum(s.total_exec_time) FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid \
                  WHERE d.datname = current_database()";
    let before = decimal(&db, of_all).await;
    let snapshot = quick(&url).await;
    let after = decimal(&db, of_all).await;
    assert!(snapshot.gaps.is_empty(), "{:?}", snapshot.gaps);
    let first = &snapshot.queries[0];
    assert!(
        first.text.contains("sentinel_of_a_query") && first.text.contains("$1"),
        "{first:?}"
    );
    assert_eq!(first.calls, 3);
    assert!((first.mean_ms * 3.0 - first.total_ms).abs() < 0.001 && first.share_fraction > 0.5);
    let of_it = "SELECT total_exec_time FROM pg_stat_statements WHERE query LIKE '%AS sentinel_of_a_query'";
    let total = decimal(&db, of_it).await;
    assert!((first.total_ms - total).abs() < 0.001, "{first:?}, {total}");
    // While the look is made, the time of all statements grows.
    assert!(
        (total / after - 1e-9..=total / before + 1e-9).contains(&first.share_fraction),
        "{first:?}, {total} of {before} to {after}"
    );
    let role = snapshot.queries.iter().find(|query| query.text.starts_with("CREATE ROLE"));
    assert_eq!(role.map(|role| role.text.as_str()), Some("CREATE ROLE someone PASSWORD ?"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_loads_a_library_leaves_the_others_loaded() {
    let cluster = PrivatePostgres::start_with(Durability::Fast, &[("shared_preload_libraries", "auto_explain")])
        .await
        .expect("a cluster");
    let url = cluster.url("postgres");
    let db = Db::open(&url).await.expect("a connection");
    db.execute("CREATE EXTENSION pg_stat_statements").await.expect("installed");
    let missing = quick(&url).await;
    let gap = missing.gaps.iter().find(|gap| gap.what == "slow_queries").expect("a gap");
    db.execute(&gap.allow)
        .await
        .unwrap_or_else(|error| panic!("{}: {error:#}", gap.allow));
    db.close().await;
    // What a start passes on the command line wins over what ALTER SYSTEM has set: the file says what the statement does.
    let set = std::fs::read_to_string(cluster.folder().join("postgresql.auto.conf"))
        .or_else(|_| std::fs::read_to_string(cluster.folder().join("data/postgresql.auto.conf")))
        .expect("the settings");
    assert!(
        set.contains("shared_preload_libraries = 'auto_explain, pg_stat_statements'"),
        "{set}"
    );
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
