//! The control store against its port's suite, on SQLite and on PostgreSQL, and what only these two can show: servers that
//! start together, restarts, absent databases, and that no message holds a password.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use dbkeep_engine::{
    conformance::store::{lost_claim_conformance, set_back_conformance, store_conformance},
    model::{PlanId, RunId},
    port::{Claim, RunFilter, Store, StoreError},
};
use dbkeep_server::{store::ControlStore, target};
use dbkeep_testkit::{Db, Durability, PrivatePostgres, fresh_database};
use sqlx::{Connection, PgConnection};

fn sqlite_url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

/// Whether the store answers from its tables.
async fn works(store: &ControlStore) -> Result<(), StoreError> {
    store.release_all().await?;
    assert!(store.run(RunId::new()).await?.is_none());
    assert!(store.plan(PlanId(RunId::new().0)).await?.is_none());
    assert!(store.runs(&RunFilter::default(), None, 10).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::sync::atomic::AtomicU32::new(0);
    store_conformance(async |kept| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let store = ControlStore::open(&sqlite_url(&folder.path().join(format!("{number}.db"))))
            .await
            .unwrap();
        Arc::new(store.keeping_events(kept)) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgres_conforms() {
    store_conformance(async |kept| {
        let store = ControlStore::open(&fresh_database("store").await.unwrap()).await.unwrap();
        Arc::new(store.keeping_events(kept)) as Arc<dyn Store>
    })
    .await;
}

/// A failover to a standby that lacked the newest claim: of two servers that hold an attempt of the same number one alone can write, in
/// the store and in the target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_lost_shuts_its_holder_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = sqlite_url(&folder.path().join("control.db"));
    let targets = [
        fresh_database("fences").await.unwrap(),
        format!("sqlite://{}?mode=rwc", folder.path().join("target.db").display()),
    ];
    for (url, schema) in [(fresh_database("lost_claim").await.unwrap(), "dbkeep_control."), (file, "")] {
        let store = Arc::new(ControlStore::open(&url).await.unwrap());
        let db = Db::open(&url).await.unwrap();
        let forget = async |run: RunId| {
            let sql = format!(
                "UPDATE {schema}runs SET state = 'queued', attempts = 0, fence = 0, holder = NULL, lease_until_ms = NULL WHERE id = '{run}'"
            );
            assert_eq!(db.execute(&sql).await.unwrap(), 1);
        };
        let (run, lost, kept) = lost_claim_conformance(store, forget).await;
        for url in &targets {
            let db = Db::open(url).await.unwrap();
            db.execute("CREATE TABLE IF NOT EXISTS t (id bigint PRIMARY KEY)")
                .await
                .unwrap();
            let target = target::open(url).unwrap();
            // Whichever comes first: the larger fence shuts the smaller out, and there is no other that both could have.
            let claims = [lost, kept].map(|fence| Claim { run, fence });
            let mut claimed = Vec::new();
            for claim in claims {
                claimed.push(target.claim(claim).await.is_ok());
            }
            assert!(claimed[0], "the first finds nobody");
            let mut begun = Vec::new();
            for claim in claims {
                let batch = target.begin(claim, &[]).await;
                begun.push(batch.is_ok());
                if let Ok(batch) = batch {
                    batch.rollback().await;
                }
            }
            assert_eq!(begun.iter().filter(|begun| **begun).count(), 1, "{begun:?}");
            assert_eq!(begun, [lost > kept, kept > lost]);
        }
    }
}

/// The clock of the store goes back by hours: nobody waits for it to come to where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_goes_back_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let file = sqlite_url(&folder.path().join("control.db"));
    for (url, schema) in [(fresh_database("set_back").await.unwrap(), "dbkeep_control."), (file, "")] {
        let store = Arc::new(ControlStore::open(&url).await.unwrap());
        let db = Db::open(&url).await.unwrap();
        let set_back = async |by: Duration| {
            let by = by.as_millis();
            for (table, columns) in [
                ("runs", &["lease_until_ms", "created_ms", "started_ms"][..]),
                ("schedule_slots", &["lease_until_ms", "decided_ms"]),
                ("deliveries", &["lease_until_ms", "created_ms", "since_ms", "due_ms"]),
            ] {
                let later: Vec<String> = columns.iter().map(|column| format!("{column} = {column} + {by}")).collect();
                let sql = format!("UPDATE {schema}{table} SET {}", later.join(", "));
                assert!(db.execute(&sql).await.unwrap() > 0, "{table}");
            }
        };
        set_back_conformance(store, set_back).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_start_together() {
    let folder = tempfile::tempdir().unwrap();
    let file = sqlite_url(&folder.path().join("control.db"));
    for url in [fresh_database("together").await.unwrap(), file] {
        let opened = futures::future::join_all((0..6).map(|_| {
            let url = url.clone();
            tokio::spawn(async move { ControlStore::open(&url).await.unwrap() })
        }));
        for store in opened.await {
            works(&store.unwrap()).await.unwrap();
        }
        // And again, with nothing left to do.
        works(&ControlStore::open(&url).await.unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn postgres_is_shared_with_others() {
    let url = fresh_database("neighbours").await.unwrap();
    let db = Db::open(&url).await.unwrap();
    // The neighbours have tables of the same names, and rights that dbkeep's user has not.
    db.execute(
        "CREATE TABLE runs (id bigint); INSERT INTO runs VALUES (1); CREATE TABLE _sqlx_migrations (version bigint); \
         CREATE ROLE control_store_user LOGIN; CREATE SCHEMA dbkeep_control AUTHORIZATION control_store_user",
    )
    .await
    .unwrap();
    let store = ControlStore::open(&url.replace("postgres@", "control_store_user@"))
        .await
        .unwrap();
    assert!(!store.is_embedded());
    works(&store).await.unwrap();
    assert_eq!(db.count("public.runs").await.unwrap(), 1);
    assert_eq!(db.count("public._sqlx_migrations").await.unwrap(), 0);
    assert_eq!(db.count("dbkeep_control.runs").await.unwrap(), 0);
}

#[tokio::test]
async fn sqlite_is_a_private_durable_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a name, 100% odd?.db");
    // As in every URL, what has a meaning there is encoded.
    let url = sqlite_url(&folder.path().join("a%20name,%20100%25%20odd%3F.db"));
    let store = ControlStore::open(&url).await.unwrap();
    assert!(store.is_embedded());
    works(&store).await.unwrap();
    for name in ["a name, 100% odd?.db", "a name, 100% odd?.db-wal"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    store.close().await;
    assert!(matches!(works(&store).await, Err(StoreError::Unavailable(_))));
    assert!(!folder.path().join("a name, 100% odd?.db-wal").exists(), "it is closed");
    assert!(path.exists());
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letter.txt");
    std::fs::write(
        &path,
        "Dear reader, this is a letter and no database, however long it may be.".repeat(100),
    )
    .unwrap();
    let error = ControlStore::open(&sqlite_url(&path)).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    let error = ControlStore::open(&sqlite_url(&folder.path().join("missing/control.db")))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    // A control store that a newer version has migrated.
    let path = folder.path().join("newer.db");
    works(&ControlStore::open(&sqlite_url(&path)).await.unwrap()).await.unwrap();
    let db = Db::open(&sqlite_url(&path)).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'newer', 1, x'00', 1)";
    db.execute(newer).await.unwrap();
    let error = ControlStore::open(&sqlite_url(&path)).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Corrupt(message) if message.contains("newer")),
        "{error}"
    );
}

#[tokio::test]
async fn an_absent_database_is_reported_soon_and_without_its_password() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().port();
    let closed = {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        other.local_addr().unwrap().port()
    };
    // Nobody listens; somebody listens and says nothing.
    for port in [closed, silent] {
        let started = Instant::now();
        let url = format!("postgres://dbkeep:hunter2@127.0.0.1:{port}/control");
        let error = ControlStore::open(&url).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        assert!(started.elapsed() < Duration::from_secs(8));
    }
    let url = fresh_database("no_secret").await.unwrap();
    let url = url.replace("postgres@", "nobody_of_that_name:hunter2@");
    let error = ControlStore::open(&url).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_survives_its_database() {
    let cluster = PrivatePostgres::start(Durability::Fast).await.unwrap();
    let url = cluster.url("postgres").replace("postgres@", "postgres:hunter2@");
    let store = ControlStore::open(&url).await.unwrap();
    assert!(!format!("{store:?}").contains("hunter2"));
    works(&store).await.unwrap();
    cluster.stop_immediate().await.unwrap();
    let started = Instant::now();
    for result in [store.release_all().await, store.run(RunId::new()).await.map(drop)] {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(!error.to_string().contains("hunter2"));
    }
    assert!(
        started.elapsed() < Duration::from_secs(16),
        "a call that waits is a call that blocks an attempt"
    );
    cluster.start_again().await.unwrap();
    works(&store).await.expect("connections are made again");
    cluster.restart_immediate().await.unwrap();
    works(&store).await.expect("connections that were cut are not used");
}

/// A process that was stopped with a row locked does not hold up the others for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_row_is_waited_for_but_not_for_ever() {
    let url = fresh_database("locked").await.unwrap();
    let store = ControlStore::open(&url).await.unwrap();
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    sqlx::query("LOCK TABLE dbkeep_control.runs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let started = Instant::now();
    let error = store.release_all().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(12));
    lock.rollback().await.unwrap();
    works(&store).await.unwrap();
}
