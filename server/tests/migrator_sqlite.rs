//! What only SQLite does with migrations: one writer at a time, for the group and for the lease.

use std::{str::FromStr as _, time::Duration};

use dbkeep_engine::{
    model::{LedgerEntry, LedgerState, MigrationId, RunId, Statement},
    port::{Claim, Follow, GroupOrder, MigratorError, TargetErrorClass, Told},
};
use dbkeep_server::target;
use jiff::Timestamp;
use sqlx::{ConnectOptions as _, Executor as _, sqlite::SqliteConnectOptions};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

fn order(claim: Claim, id: &str, sql: &str) -> GroupOrder {
    GroupOrder {
        claim,
        atomic: true,
        statements: vec![Statement {
            sql: sql.to_owned(),
            line: 1,
            column: 1,
        }],
        session: Vec::new(),
        foreign_keys_off: false,
        lock_timeout: Duration::from_millis(300),
        statement_timeout: None,
        observe: false,
        checks: Vec::new(),
        before: None,
        after: LedgerEntry {
            id: MigrationId(id.to_owned()),
            name: id.to_owned(),
            sha256: "00".repeat(32),
            state: LedgerState::Applied,
            statements_done: 1,
            statements: 1,
            in_doubt: false,
            problem: String::new(),
            rows: 0,
            duration_ms: 0,
            at: Timestamp::UNIX_EPOCH,
            by: "test".to_owned(),
            run: claim.run,
            backup: None,
            script_sha256: String::new(),
        },
    }
}

#[tokio::test]
async fn one_writes_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/app.db", folder.path().display());
    let options = SqliteConnectOptions::from_str(&url).expect("options").create_if_missing(true);
    let mut other = options.connect().await.expect("a connection");
    other
        .execute("PRAGMA journal_mode = WAL; CREATE TABLE t (id integer)")
        .await
        .expect("made");
    let target = target::open(&url).expect("a target");
    let migrator = target.migrator();
    let claim = Claim {
        run: RunId::new(),
        fence: 1,
    };
    target.claim(claim).await.expect("a claim");
    let minute = Duration::from_secs(60);
    migrator.lease(claim, "test", minute).await.expect("a lease");
    let (told, mut hearing) = mpsc::unbounded_channel();
    let follow = Follow {
        told,
        stop: CancellationToken::new(),
    };

    other.execute("BEGIN IMMEDIATE").await.expect("the write lock");
    let order_one = order(claim, "one", "CREATE TABLE one (id integer)");
    match migrator.execute(&order_one, &follow).await {
        Err(MigratorError::Statement { index, retryable, .. }) => assert_eq!((index, retryable), (0, true)),
        unexpected => panic!("somebody else writes: {unexpected:?}"),
    }
    other.execute("ROLLBACK").await.expect("released");
    migrator.execute(&order_one, &follow).await.expect("the same again");

    // While a group works, its lease cannot be prolonged; that is told apart from losing it.
    let endless =
        "CREATE TABLE endless AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) AS n FROM c";
    let order_two = order(claim, "two", endless);
    while hearing.try_recv().is_ok() {}
    let (ended, ()) = tokio::join!(migrator.execute(&order_two, &follow), async {
        assert!(matches!(hearing.recv().await, Some(Told::Begun(0))));
        match migrator.lease(claim, "test", minute).await {
            Err(MigratorError::Target(error)) => assert_eq!(error.class, TargetErrorClass::LockTimeout),
            unexpected => panic!("the group writes: {unexpected:?}"),
        }
        follow.stop.cancel();
    });
    assert!(matches!(ended, Err(MigratorError::Stopped)), "{ended:?}");
    migrator.lease(claim, "test", minute).await.expect("prolonged");
}
