//! What only SQLite does with migrations: one writer at a time, for the group and for the lease.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use dbkeep_engine::{
    model::{LedgerEntry, LedgerState, MigrationId, RunId, Statement},
    port::{Claim, Follow, GroupOrder, IndexState, MigratorError, Target, TargetErrorClass, Told},
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
        elsewhere: None,
        verify: None,
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

/// A database, its target, and a claim with a lease.
async fn world(setup: &'static str, term: Duration) -> (tempfile::TempDir, sqlx::SqliteConnection, Arc<dyn Target>, Claim) {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}/app.db", folder.path().display());
    let options = SqliteConnectOptions::from_str(&url).expect("options").create_if_missing(true);
    let mut other = options.connect().await.expect("a connection");
    other.execute(setup).await.expect("made");
    let target = target::open(&url).expect("a target");
    let claim = Claim {
        run: RunId::new(),
        fence: 1,
    };
    target.claim(claim).await.expect("a claim");
    target.migrator().lease(claim, "test", term).await.expect("a lease");
    (folder, other, target, claim)
}

fn follow() -> Follow {
    Follow {
        told: mpsc::unbounded_channel().0,
        stop: CancellationToken::new(),
    }
}

/// Waits until the lease is over by the database's own clock.
async fn until_lapsed(session: &mut sqlx::SqliteConnection) {
    let lapsed = "SELECT until < CAST(unixepoch('subsec') * 1000 AS INTEGER) FROM _dbkeep_migration_lease";
    while !sqlx::query_scalar::<_, bool>(lapsed)
        .fetch_one(&mut *session)
        .await
        .expect("a lease")
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_statement_that_outlasts_its_lease_still_ends() {
    let (_folder, mut other_session, target, claim) = world("CREATE TABLE t (id integer)", Duration::from_millis(1)).await;
    let migrator = target.migrator();
    until_lapsed(&mut other_session).await;
    let mut vacuum = order(claim, "vacuum", "VACUUM");
    vacuum.atomic = false;
    let done = migrator.execute(&vacuum, &follow()).await.expect("nobody took the lease");
    assert_eq!((done.entry.state, done.entry.in_doubt), (LedgerState::Applied, false));

    // Whoever takes it meanwhile has it.
    let other = Claim {
        run: RunId::new(),
        fence: 1,
    };
    target.claim(other).await.expect("a claim");
    until_lapsed(&mut other_session).await;
    migrator
        .lease(other, "other", Duration::from_secs(60))
        .await
        .expect("it lapsed");
    match migrator.execute(&order(claim, "late", "SELECT 1"), &follow()).await {
        Err(MigratorError::LeaseHeld { holder, .. }) => assert_eq!(holder, "other"),
        unexpected => panic!("somebody else migrates: {unexpected:?}"),
    }
}

#[tokio::test]
async fn keys_that_a_dropped_table_would_change_take_the_group_back() {
    let setup = "CREATE TABLE parent (id integer PRIMARY KEY, b integer, UNIQUE (id, b)); INSERT INTO parent VALUES (0, 0), (1, 1), (2, 2); \
                 CREATE TABLE nulled (id integer, up integer REFERENCES Parent (id) ON DELETE SET NULL); \
                 INSERT INTO nulled VALUES (1, 1), (2, NULL), (3, 2);";
    let (_folder, mut other, target, claim) = world(setup, Duration::from_secs(60)).await;
    let migrator = target.migrator();
    let mut rebuild = order(claim, "rebuild", "");
    rebuild.statements = [
        "CREATE TABLE parent_new (id integer PRIMARY KEY, b integer, UNIQUE (id, b))",
        "INSERT INTO parent_new SELECT * FROM parent",
        "DROP TABLE parent",
        "ALTER TABLE parent_new RENAME TO parent",
    ]
    .iter()
    .zip(1..)
    .map(|(sql, line)| Statement {
        sql: (*sql).to_owned(),
        line,
        column: 1,
    })
    .collect();
    let lost = |error: MigratorError| match error {
        MigratorError::RowsLost { lost } => lost
            .into_iter()
            .map(|lost| (lost.table, lost.before, lost.after))
            .collect::<Vec<_>>(),
        unexpected => panic!("keys are lost: {unexpected:?}"),
    };
    let error = migrator.execute(&rebuild, &follow()).await.expect_err("keys are lost");
    assert_eq!(lost(error), [("nulled(up)".to_owned(), 2, 0)]);
    let error = migrator
        .execute(&order(claim, "drop", "DROP TABLE parent"), &follow())
        .await
        .expect_err("keys are lost");
    assert_eq!(lost(error), [("nulled(up)".to_owned(), 2, 0)]);

    other
        .execute(
            "DROP TABLE nulled; CREATE TABLE paired (a integer, b integer, FOREIGN KEY (a, b) REFERENCES parent (id, b) ON DELETE SET NULL); \
             INSERT INTO paired VALUES (1, 1), (NULL, 1)",
        )
        .await
        .expect("made");
    let error = migrator.execute(&rebuild, &follow()).await.expect_err("keys are lost");
    assert_eq!(lost(error), [("paired(a, b)".to_owned(), 1, 0)]);

    other
        .execute(
            "DROP TABLE paired; CREATE TABLE defaulted (up integer DEFAULT 0 REFERENCES parent (id) ON DELETE SET DEFAULT); \
             INSERT INTO defaulted VALUES (1)",
        )
        .await
        .expect("made");
    match migrator.execute(&rebuild, &follow()).await {
        Err(MigratorError::Statement { index, message, .. }) => {
            assert!(index == 2 && message.contains("defaulted(up)"), "{index} {message}");
        }
        unexpected => panic!("keys would change: {unexpected:?}"),
    }
    let up: i64 = sqlx::query_scalar("SELECT up FROM defaulted")
        .fetch_one(&mut other)
        .await
        .expect("a row");
    assert_eq!(up, 1);

    // With foreign keys off nothing changes them, and rows that reference nothing have nothing to lose.
    let mut off = rebuild.clone();
    off.foreign_keys_off = true;
    migrator.execute(&off, &follow()).await.expect("rebuilt");
    other
        .execute("UPDATE defaulted SET up = NULL")
        .await
        .expect("nothing is referenced");
    (rebuild.after.id, rebuild.before) = (MigrationId("again".to_owned()), None);
    migrator.execute(&rebuild, &follow()).await.expect("rebuilt");
}

#[tokio::test]
async fn the_index_of_a_statement_is_looked_at() {
    let (_folder, mut other, target, _) = world("CREATE TABLE t (id integer)", Duration::from_secs(60)).await;
    let migrator = target.migrator();
    let one = |sql: &str| Statement {
        sql: sql.to_owned(),
        line: 1,
        column: 1,
    };
    let found = migrator
        .index_of(&one("CREATE INDEX i ON t (id)"), &[])
        .await
        .expect("a look");
    assert_eq!(found, Some(("main.\"i\"".to_owned(), IndexState::Absent)));
    other.execute("CREATE INDEX I ON t (id)").await.expect("made");
    let found = migrator.index_of(&one("DROP INDEX main.i"), &[]).await.expect("a look");
    assert_eq!(found, Some(("main.\"i\"".to_owned(), IndexState::Valid)));
    assert_eq!(migrator.index_of(&one("VACUUM"), &[]).await.ok(), Some(None));
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_taken_back() {
    const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO t SELECT count(*) FROM n";
    let (_folder, mut other, target, claim) = world("CREATE TABLE t (id integer)", Duration::from_secs(60)).await;
    let migrator = target.migrator();
    for (id, atomic) in [("together", true), ("alone", false)] {
        let mut late = order(claim, id, ENDLESS);
        late.atomic = atomic;
        late.statement_timeout = Some(Duration::from_millis(50));
        match migrator.execute(&late, &follow()).await {
            Err(MigratorError::Statement {
                message,
                retryable: false,
                ..
            }) => assert!(message.contains("50 ms"), "{id}: {message}"),
            unexpected => panic!("{id}: {unexpected:?}"),
        }
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM t")
            .fetch_one(&mut other)
            .await
            .expect("a count");
        assert_eq!(rows, 0, "{id}");
        let row = migrator
            .ledger()
            .await
            .expect("a ledger")
            .into_iter()
            .find(|row| row.id.0 == id);
        let doubts: Vec<bool> = row.iter().map(|row| row.in_doubt).collect();
        let expected: &[bool] = if atomic { &[] } else { &[false] };
        assert_eq!(doubts, expected, "{id}: SQLite said that it failed");
        let mut again = order(claim, id, "SELECT 1");
        again.before = row;
        migrator.execute(&again, &follow()).await.expect("applied");
    }
}
