//! What only PostgreSQL does with migrations: locks that others hold, indexes that are built while others write, sessions that a script
//! changes, and what a rehearsal looks at.

use std::{sync::Arc, time::Duration};

use dbkeep_engine::{
    model::{LedgerEntry, LedgerState, LockMode, MigrationId, RunId, Statement, TableLock},
    port::{Claim, Follow, GroupDone, GroupOrder, IndexState, MigratorError, Target, TargetErrorClass, Told},
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, Pooler, fresh_database};
use jiff::Timestamp;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

struct World {
    url: String,
    target: Arc<dyn Target>,
    db: Db,
    claim: Claim,
}

impl World {
    async fn new(name: &str) -> Self {
        let url = fresh_database(name).await.expect("a database");
        let target = target::open(&url).expect("a target");
        let claim = Claim {
            run: RunId::new(),
            fence: 1,
        };
        target.claim(claim).await.expect("a claim");
        let lease = target.migrator().lease(claim, "test", Duration::from_secs(600)).await;
        lease.expect("a lease");
        Self {
            db: Db::open(&url).await.expect("a database"),
            url,
            target,
            claim,
        }
    }

    fn order(&self, id: &str, statements: &[&str]) -> GroupOrder {
        let count = u32::try_from(statements.len()).expect("a few");
        GroupOrder {
            claim: self.claim,
            atomic: true,
            statements: statements
                .iter()
                .zip(1..)
                .map(|(sql, line)| Statement {
                    sql: (*sql).to_owned(),
                    line,
                    column: 1,
                })
                .collect(),
            session: Vec::new(),
            foreign_keys_off: false,
            lock_timeout: Duration::from_millis(500),
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
                statements_done: count,
                statements: count,
                in_doubt: false,
                problem: String::new(),
                rows: 0,
                duration_ms: 0,
                at: Timestamp::UNIX_EPOCH,
                by: "test".to_owned(),
                run: self.claim.run,
                backup: None,
                script_sha256: String::new(),
            },
        }
    }

    async fn execute(&self, order: &GroupOrder) -> Result<GroupDone, MigratorError> {
        self.target.migrator().execute(order, &follow().0).await
    }

    async fn row(&self, id: &str) -> Option<LedgerEntry> {
        let ledger = self.target.migrator().ledger().await.expect("a ledger");
        ledger.into_iter().find(|entry| entry.id.0 == id)
    }
}

fn follow() -> (Follow, mpsc::UnboundedReceiver<Told>) {
    let (told, hearing) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    (Follow { told, stop }, hearing)
}

#[tokio::test]
async fn who_holds_the_lock_is_named() {
    let world = World::new("blocked").await;
    world.db.execute("CREATE TABLE busy (id integer)").await.expect("made");
    let mut blocker = PgConnection::connect(&world.url).await.expect("a connection");
    blocker
        .execute("BEGIN; LOCK TABLE busy IN ACCESS SHARE MODE")
        .await
        .expect("locked");
    let order = world.order(
        "blocked",
        &["CREATE TABLE beside (id integer)", "ALTER TABLE busy ADD COLUMN a integer"],
    );
    match world.execute(&order).await {
        Err(MigratorError::Statement {
            index,
            code,
            retryable,
            blockers,
            ..
        }) => {
            assert_eq!((index, code.as_str(), retryable), (1, "55P03", true));
            let told = blockers.first().expect("a blocker");
            assert!(
                told.contains("user postgres, idle in transaction") && told.contains("LOCK TABLE busy"),
                "{told}"
            );
        }
        unexpected => panic!("the lock is held: {unexpected:?}"),
    }
    assert_eq!(
        world.db.count_where("pg_class", "relname = 'beside'").await.expect("a count"),
        0
    );
    blocker.execute("ROLLBACK").await.expect("released");
    world.execute(&order).await.expect("the same again");
}

#[tokio::test]
async fn an_index_that_is_not_valid_is_named_and_dropped() {
    let world = World::new("concurrently").await;
    world
        .db
        .execute("CREATE TABLE doubled (id integer); INSERT INTO doubled VALUES (1), (1)")
        .await
        .expect("made");
    let mut order = world.order("index", &["CREATE UNIQUE INDEX CONCURRENTLY doubled_id ON doubled (id)"]);
    order.atomic = false;
    let error = world.execute(&order).await.expect_err("not unique");
    assert!(matches!(error, MigratorError::Statement { index: 0, .. }), "{error:?}");
    let entry = world.row("index").await.expect("a row");
    assert_eq!(
        (entry.state, entry.in_doubt, entry.statements_done),
        (LedgerState::Applying, false, 0)
    );
    assert!(entry.problem.contains("public.doubled_id"), "{}", entry.problem);
    let migrator = world.target.migrator();
    assert_eq!(state(&world, &order.statements[0]).await, Some(IndexState::Invalid));

    // IF NOT EXISTS takes it for done.
    let mut again = world.order(
        "index",
        &["CREATE INDEX CONCURRENTLY IF NOT EXISTS doubled_id ON doubled (id)"],
    );
    (again.atomic, again.before) = (false, Some(entry));
    let error = world.execute(&again).await.expect_err("it is still not valid");
    assert!(error.to_string().contains("public.doubled_id"), "{error}");

    migrator
        .drop_invalid_index(world.claim, "public.doubled_id")
        .await
        .expect("dropped");
    assert_eq!(state(&world, &order.statements[0]).await, Some(IndexState::Absent));
    again.before = world.row("index").await;
    let done = world.execute(&again).await.expect("built");
    assert_eq!((done.entry.state, done.entry.in_doubt), (LedgerState::Applied, false));
    assert_eq!(done.entry.problem, "");
    assert_eq!(state(&world, &order.statements[0]).await, Some(IndexState::Valid));
    migrator
        .drop_invalid_index(world.claim, "public.doubled_id")
        .await
        .expect("nothing to do");
    assert_eq!(state(&world, &order.statements[0]).await, Some(IndexState::Valid));
    let other = Claim {
        run: RunId::new(),
        fence: 1,
    };
    assert!(migrator.drop_invalid_index(other, "public.doubled_id").await.is_err());
}

/// State of the index of a statement, in a plain session.
async fn state(world: &World, one: &Statement) -> Option<IndexState> {
    let found = world.target.migrator().index_of(one, &[]).await.expect("a look");
    found.map(|(_, state)| state)
}

fn one(sql: &str) -> Statement {
    Statement {
        sql: sql.to_owned(),
        line: 1,
        column: 1,
    }
}

#[tokio::test]
async fn an_index_is_looked_for_where_its_statement_puts_it() {
    let world = World::new("elsewhere").await;
    world
        .db
        .execute(
            "CREATE SCHEMA app; CREATE TABLE app.t (id integer); INSERT INTO app.t VALUES (1), (1); \
             CREATE TABLE public.t (id integer); CREATE INDEX i ON public.t (id)",
        )
        .await
        .expect("made");
    let migrator = world.target.migrator();
    let look = async |sql: &str, session: &[Statement]| migrator.index_of(&one(sql), session).await.expect("a look");
    let app = |state| Some(("app.i".to_owned(), state));
    let public = |state| Some(("public.i".to_owned(), state));
    let path = [one("SET search_path = app")];
    let (create, create_bare) = (
        "CREATE UNIQUE INDEX CONCURRENTLY i ON app.t (id)",
        "CREATE UNIQUE INDEX CONCURRENTLY I ON t (id)",
    );

    // That another schema has one of this name says nothing.
    assert_eq!(look(create, &[]).await, app(IndexState::Absent));
    assert_eq!(look(create_bare, &path).await, app(IndexState::Absent));
    assert_eq!(look(create_bare, &[]).await, public(IndexState::Valid));
    assert_eq!(look("DROP INDEX CONCURRENTLY i", &[]).await, public(IndexState::Valid));
    assert_eq!(
        look("DROP INDEX CONCURRENTLY i", &path).await,
        Some(("i".to_owned(), IndexState::Absent))
    );

    // A failed build leaves one that is not valid, and it is told where it lies although the session is the script's.
    let mut order = world.order("elsewhere", &[create_bare]);
    (order.atomic, order.session) = (false, path.to_vec());
    let error = world.execute(&order).await.expect_err("not unique");
    assert!(error.to_string().contains("app.i"), "{error}");
    assert_eq!(look(create, &[]).await, app(IndexState::Invalid));
    assert_eq!(look(create_bare, &path).await, app(IndexState::Invalid));
    assert_eq!(look("DROP INDEX CONCURRENTLY app.i", &[]).await, app(IndexState::Invalid));
    migrator.drop_invalid_index(world.claim, "app.i").await.expect("dropped");
    assert_eq!(look(create, &[]).await, app(IndexState::Absent));
    assert_eq!(look(create_bare, &[]).await, public(IndexState::Valid));

    world.db.execute("DELETE FROM app.t").await.expect("emptied");
    order.before = world.row("elsewhere").await;
    world.execute(&order).await.expect("built");
    assert_eq!(look(create_bare, &path).await, app(IndexState::Valid));
    // Nothing of the script's session stays.
    assert_eq!(look("DROP INDEX CONCURRENTLY i", &[]).await, public(IndexState::Valid));
}

#[tokio::test]
async fn what_an_interrupted_reindex_left_is_found_and_dropped() {
    let world = World::new("reindexed").await;
    // As a REINDEX that was cut short leaves it.
    world
        .db
        .execute(
            "CREATE TABLE t (id integer); CREATE TABLE other (id integer); CREATE INDEX i ON t (id); CREATE INDEX i_ccnew ON t (id); \
             CREATE INDEX \"I, x_ccnew1\" ON t (id); CREATE INDEX j_ccnew ON other (id); \
             UPDATE pg_index SET indisvalid = false WHERE indexrelid IN \
             ('i_ccnew'::regclass, '\"I, x_ccnew1\"'::regclass, 'j_ccnew'::regclass)",
        )
        .await
        .expect("made");
    let migrator = world.target.migrator();
    let look = async |sql: &str| migrator.index_of(&one(sql), &[]).await.expect("a look");
    let left = "public.\"I, x_ccnew1\", public.i_ccnew";
    let invalid = |names: &str| Some((names.to_owned(), IndexState::Invalid));
    assert_eq!(look("REINDEX TABLE CONCURRENTLY t").await, invalid(left));
    assert_eq!(look("REINDEX (CONCURRENTLY) INDEX i").await, invalid(left));
    assert_eq!(
        look("REINDEX SCHEMA CONCURRENTLY public").await,
        invalid(&format!("{left}, public.j_ccnew"))
    );
    migrator.drop_invalid_index(world.claim, left).await.expect("dropped");
    assert_eq!(look("REINDEX TABLE CONCURRENTLY t").await, None);
    assert_eq!(
        look("DROP INDEX CONCURRENTLY i").await.map(|found| found.1),
        Some(IndexState::Valid)
    );
    assert_eq!(look("VACUUM t").await, None);
    assert_eq!(look("CREATE INDEX CONCURRENTLY ON t (id)").await, None);
}

#[tokio::test]
async fn a_statement_outside_of_a_transaction_ends_with_its_client() {
    let world = World::new("watched").await;
    let mut order = world.order(
        "watched",
        &["CREATE TABLE seen AS SELECT current_setting('client_connection_check_interval', true) AS interval"],
    );
    order.atomic = false;
    world.execute(&order).await.expect("made");
    let found = world
        .db
        .fetch_text("SELECT interval, (current_setting('server_version_num')::integer >= 140000)::text FROM seen")
        .await
        .expect("rows");
    if found[0][1].as_deref() == Some("true") {
        assert_eq!(found[0][0].as_deref(), Some("2s"));
    }
}

/// What a session is told for the case that its client is gone; true where all of it is.
const WATCHED: &str = "SELECT current_setting('tcp_keepalives_idle') = '10' AND current_setting('tcp_keepalives_interval') = '5' \
     AND current_setting('tcp_keepalives_count') = '3' AND coalesce(current_setting('tcp_user_timeout', true), '40000') = '40000' \
     AND coalesce(current_setting('client_connection_check_interval', true), '2s') = '2s'";

#[tokio::test]
async fn the_server_misses_the_client_of_every_session() {
    let world = World::new("missed").await;
    let migrator = world.target.migrator();
    // One that only reads or writes rows, as scans, batches, dumps and samples have it.
    let plain = format!("SELECT 1 / (CASE WHEN ({WATCHED}) THEN 1 ELSE 0 END)");
    migrator.verify(&[one(&plain)]).await.expect("a plain session");
    assert_eq!(migrator.check(WATCHED).await.expect("a look"), None, "that of a check");
    let seen = format!("CREATE TABLE seen AS {WATCHED} AS all_of_it");
    for atomic in [true, false] {
        // The second of each goes on in the session of the first, whose settings were reset.
        for round in ["first", "second"] {
            let mut order = world.order(&format!("{atomic} {round}"), &[&seen]);
            order.atomic = atomic;
            world.execute(&order).await.expect("made");
            let found = world.db.fetch_text("SELECT all_of_it::text FROM seen").await.expect("rows");
            assert_eq!(found[0][0].as_deref(), Some("true"), "in a transaction: {atomic}, {round}");
            world.db.execute("DROP TABLE seen").await.expect("dropped");
            assert_eq!(migrator.check(WATCHED).await.expect("a look"), None, "after {round}");
        }
    }
}

#[tokio::test]
async fn what_a_script_sets_does_not_reach_the_ledger_or_the_next_group() {
    let world = World::new("settings").await;
    world
        .db
        .execute("CREATE ROLE dbkeep_weak; GRANT CREATE ON SCHEMA public TO dbkeep_weak")
        .await
        .expect("a role");
    let mut order = world.order(
        "settings",
        &[
            "CREATE SCHEMA elsewhere",
            "SET search_path = elsewhere",
            "CREATE TABLE migration (id text)",
            "PREPARE one AS SELECT 1",
            "DEALLOCATE ALL",
            "SET standard_conforming_strings = off",
            "SET statement_timeout = '20s'",
            "SET statement_timeout = 0",
            "SET ROLE dbkeep_weak",
            "DO $$ BEGIN PERFORM pg_sleep(0); END $$",
        ],
    );
    order.after.name = "it's \\ here".to_owned();
    order.checks = vec!["SELECT count(*) = 1 FROM elsewhere.migration m RIGHT JOIN (VALUES (1)) v ON true".to_owned()];
    let done = world.execute(&order).await.expect("applied");
    assert_eq!(world.row("settings").await, Some(done.entry));
    let next = world.order(
        "next",
        &[
            "CREATE TABLE by_whom AS SELECT current_user::text AS name, current_setting('search_path') AS path",
            "PREPARE one AS SELECT 1",
        ],
    );
    world.execute(&next).await.expect("applied");
    let found = world
        .db
        .fetch_text("SELECT name, path FROM public.by_whom")
        .await
        .expect("rows");
    assert_eq!(
        found,
        [vec![Some("postgres".to_owned()), Some("\"$user\", public".to_owned())]]
    );
    world
        .db
        .execute("DROP OWNED BY dbkeep_weak; DROP ROLE dbkeep_weak")
        .await
        .expect("gone");
}

#[tokio::test]
async fn a_rehearsal_sees_locks_and_rewrites() {
    let world = World::new("observed").await;
    world
        .db
        .execute("CREATE TABLE seen (id integer PRIMARY KEY, n integer); CREATE TABLE other (id integer)")
        .await
        .expect("made");
    let mut order = world.order(
        "observed",
        &[
            "CREATE TABLE fresh (id integer REFERENCES seen (id))",
            "UPDATE other SET id = 1",
            "ALTER TABLE seen ALTER COLUMN n TYPE bigint",
            "SELECT 1",
            "TRUNCATE other",
        ],
    );
    order.observe = true;
    let done = world.execute(&order).await.expect("applied");
    let lock = |table: &str, mode| TableLock {
        table: table.to_owned(),
        mode,
    };
    let locks: Vec<_> = done.statements.iter().map(|statement| statement.locks.clone()).collect();
    assert!(
        locks[0].contains(&lock("public.seen", LockMode::ShareRowExclusive)),
        "{locks:?}"
    );
    assert!(locks[1].contains(&lock("public.other", LockMode::RowExclusive)), "{locks:?}");
    assert!(
        locks[2].contains(&lock("public.seen", LockMode::AccessExclusive)),
        "{locks:?}"
    );
    assert!(
        locks[3].is_empty() && locks.iter().flatten().all(|lock| !lock.table.contains("fresh")),
        "{locks:?}"
    );
    assert!(
        locks[4].contains(&lock("public.other", LockMode::AccessExclusive)),
        "{locks:?}"
    );
    let rewritten: Vec<_> = done.statements.iter().map(|statement| statement.rewritten.clone()).collect();
    assert_eq!(rewritten, [vec![], vec![], vec!["public.seen".to_owned()], vec![], vec![]]);
}

#[tokio::test]
async fn a_claim_waits_for_the_group_of_an_older_attempt() {
    let world = World::new("older").await;
    let order = world.order("older", &["SELECT pg_sleep(600)"]);
    let (follow, mut hearing) = follow();
    let stop = follow.stop.clone();
    let later = Claim { fence: 2, ..world.claim };
    let (ended, claimed) = tokio::join!(world.target.migrator().execute(&order, &follow), async {
        assert!(matches!(hearing.recv().await, Some(Told::Begun(0))));
        let claiming = world.target.claim(later);
        tokio::pin!(claiming);
        let waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        loop {
            tokio::select! {
                biased;
                early = &mut claiming => panic!("the group is still open: {early:?}"),
                seen = world.db.fetch_text(waiting) => if !seen.expect("rows").is_empty() { break },
            }
        }
        stop.cancel();
        claiming.await
    });
    assert!(matches!(ended, Err(MigratorError::Stopped)), "{ended:?}");
    claimed.expect("claimed");
    match world.execute(&order).await {
        Err(MigratorError::Target(error)) => assert_eq!(error.class, TargetErrorClass::Fenced),
        unexpected => panic!("fenced: {unexpected:?}"),
    }
}

#[tokio::test]
async fn a_group_that_nobody_waits_for_ends() {
    let world = World::new("dropped").await;
    let order = world.order("dropped", &["CREATE TABLE dropped (id integer)", "SELECT pg_sleep(601)"]);
    let (follow, _hearing) = follow();
    let asleep = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    {
        let executing = world.target.migrator().execute(&order, &follow);
        tokio::pin!(executing);
        loop {
            tokio::select! {
                ended = &mut executing => panic!("it sleeps: {ended:?}"),
                seen = world.db.fetch_text(asleep) => if !seen.expect("rows").is_empty() { break },
            }
        }
    }
    let gone = async { while !world.db.fetch_text(asleep).await.expect("rows").is_empty() {} };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .expect("the server was told");
    assert!(world.row("dropped").await.is_none());
}

#[tokio::test]
async fn constraints_that_were_never_checked_are_told() {
    let world = World::new("unchecked").await;
    world
        .db
        .execute(
            "CREATE TABLE parent (id integer PRIMARY KEY); CREATE TABLE child (id integer, up integer); \
             INSERT INTO child VALUES (1, 1), (2, NULL), (-3, 2); \
             ALTER TABLE child ADD CONSTRAINT child_up FOREIGN KEY (up) REFERENCES parent NOT VALID; \
             ALTER TABLE child ADD CONSTRAINT child_positive CHECK (id > 0) NOT VALID; \
             ALTER TABLE child ADD CONSTRAINT child_small CHECK (id < 9) NOT VALID",
        )
        .await
        .expect("made");
    let violations = world.target.migrator().violations().await.expect("a look");
    assert_eq!(violations.len(), 2, "{violations:?}");
    assert!(
        violations[0].starts_with("public.child: 1 row violates child_positive (CHECK"),
        "{violations:?}"
    );
    assert!(
        violations[1].starts_with("public.child: 2 rows violate child_up (FOREIGN KEY"),
        "{violations:?}"
    );
}

#[tokio::test]
async fn behind_a_pooler_what_no_transaction_holds_is_refused_before_it_begins() {
    let world = World::new("pooled").await;
    let pooler = Pooler::before(&world.url).await.expect("a pooler");
    let pooled = target::open(pooler.url()).expect("a target");
    // A transaction has its session for itself, and sets what it needs within.
    let made = world.order(
        "made",
        &["CREATE TABLE made AS SELECT current_setting('lock_timeout') AS patience, 1 AS id"],
    );
    pooled.migrator().execute(&made, &follow().0).await.expect("applied");
    let patience = world.db.fetch_text("SELECT patience FROM made").await.expect("a row");
    assert_eq!(patience[0][0].as_deref(), Some("500ms"));
    let mut index = world.order("index", &["CREATE INDEX CONCURRENTLY made_id ON made (id)"]);
    index.atomic = false;
    let refused = pooled.migrator().execute(&index, &follow().0).await.expect_err("refused");
    let MigratorError::Statement { message, retryable, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert!(message.contains("a pooler") && message.contains("session mode"), "{message}");
    assert!(!retryable, "the same again is refused again");
    assert_eq!(world.row("index").await, None, "it has not begun");
    let dropped = pooled.migrator().drop_invalid_index(world.claim, "public.made_id").await;
    assert!(dropped.expect_err("refused").to_string().contains("a pooler"));
    let left = "SELECT count(*)::text FROM pg_class WHERE relname = 'made_id'";
    assert_eq!(world.db.fetch_text(left).await.expect("a count")[0][0].as_deref(), Some("0"));
    // The way that the refusal shows.
    world.execute(&index).await.expect("applied");
    assert_eq!(world.db.fetch_text(left).await.expect("a count")[0][0].as_deref(), Some("1"));
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_taken_back() {
    let world = World::new("limits").await;
    for (id, atomic) in [("together", true), ("alone", false)] {
        let mut order = world.order(id, &["SELECT pg_sleep(3600)"]);
        order.atomic = atomic;
        order.statement_timeout = Some(Duration::from_millis(50));
        let late = world.execute(&order).await.expect_err("too late");
        let MigratorError::Statement {
            index: 0,
            code,
            retryable: false,
            ..
        } = &late
        else {
            panic!("{id}: {late:?}");
        };
        assert_eq!(code, "57014", "{id}");
        let row = world.row(id).await;
        let doubts: Vec<bool> = row.iter().map(|row| row.in_doubt).collect();
        let expected: &[bool] = if atomic { &[] } else { &[false] };
        assert_eq!(doubts, expected, "{id}: the server said that it failed");
        let mut again = world.order(id, &["SELECT 1"]);
        again.before = row;
        world.execute(&again).await.expect("applied");
    }
}
