//! A server of PostgreSQL that is gone without a word, behind a proxy that keeps connections open and lets nothing through: whoever waits for it
//! is told in time, what its session held is free again, and a statement that is at work is waited for.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{sync::Arc, time::Duration};

use dbkeep_engine::{
    model::{RunId, TableName, TableSchema},
    port::{Claim, Target, TargetError, TargetErrorClass},
};
use dbkeep_server::target::{self, Tools};
use dbkeep_testkit::{Db, Durability, PrivatePostgres, Proxy, ReplicatedPostgres, fresh_database};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::time::{Instant, timeout};

/// How long nothing has to come before it is looked into.
const SILENCE: Duration = Duration::from_millis(300);
/// Longest wait for anything; the session's own limits act later than this.
const PATIENCE: Duration = Duration::from_secs(20);

struct Lab {
    url: String,
    db: Db,
    proxy: Proxy,
    target: Arc<dyn Target>,
    table: TableSchema,
    claim: Claim,
}

impl Lab {
    async fn open(name: &str, silence: Duration) -> Self {
        Self::at(fresh_database(name).await.unwrap(), silence).await
    }

    async fn at(url: String, silence: Duration) -> Self {
        let db = Db::open(&url).await.unwrap();
        db.execute("CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)")
            .await
            .unwrap();
        let proxy = Proxy::before(&url).await.unwrap();
        let tools = Tools {
            target_silence: silence,
            ..Tools::default()
        };
        let target = target::open_with(proxy.url(), &tools).unwrap();
        let table = target.introspect(&TableName::parse("t")).await.unwrap().unwrap();
        let claim = Claim {
            run: RunId::new(),
            fence: 1,
        };
        target.claim(claim).await.unwrap();
        Self {
            url,
            db,
            proxy,
            target,
            table,
            claim,
        }
    }

    async fn sessions(&self, state: &str) -> String {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'dbkeep' AND state = '{state}'"
        );
        self.db.fetch_text(&sql).await.unwrap()[0][0].clone().unwrap()
    }
}

#[tokio::test]
async fn a_connection_that_went_silent_is_lost_and_its_locks_are_free() {
    let lab = Lab::open("silent_line", SILENCE).await;
    let batch = lab.target.begin(lab.claim, &[&lab.table]).await.unwrap();
    assert_eq!(lab.sessions("idle in transaction").await, "1");
    lab.proxy.silence_open();
    let error = timeout(PATIENCE, batch.commit()).await.expect("it is not waited for in vain");
    let error = error.expect_err("nothing came");
    assert_eq!(error.class, TargetErrorClass::Lost, "{error}");
    assert!(error.message.contains("idle in transaction"), "{error}");
    // The next attempt takes the target at once: what the silent session held is free.
    let begun = Instant::now();
    let newer = Claim { fence: 2, ..lab.claim };
    timeout(PATIENCE, lab.target.claim(newer)).await.expect("in time").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(lab.sessions("idle in transaction").await, "0");
}

#[tokio::test]
async fn a_server_that_is_out_of_reach_is_lost() {
    let lab = Lab::open("silent_server", SILENCE).await;
    let batch = lab.target.begin(lab.claim, &[&lab.table]).await.unwrap();
    lab.proxy.silence();
    let error = timeout(PATIENCE, batch.commit()).await.expect("it is not waited for in vain");
    let error = error.expect_err("nothing came");
    assert_eq!(error.class, TargetErrorClass::Lost, "{error}");
    assert!(error.message.contains("does not answer"), "{error}");
    lab.proxy.speak();
    let rows = timeout(PATIENCE, lab.target.count_rows(&lab.table, None))
        .await
        .expect("in time");
    assert_eq!(rows.unwrap(), 100, "new connections are made");
}

#[tokio::test]
async fn a_session_that_was_ended_unheard_is_lost() {
    let lab = Lab::open("silent_end", SILENCE).await;
    let batch = lab.target.begin(lab.claim, &[&lab.table]).await.unwrap();
    lab.proxy.silence_open();
    let killed = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE datname = current_database() \
                  AND application_name = 'dbkeep' AND state = 'idle in transaction'";
    assert_eq!(lab.db.fetch_text(killed).await.unwrap().len(), 1);
    let error = timeout(PATIENCE, batch.commit()).await.expect("it is not waited for in vain");
    let error = error.expect_err("nothing came");
    assert_eq!(error.class, TargetErrorClass::Lost, "{error}");
    assert!(error.message.contains("is gone"), "{error}");
}

#[tokio::test]
async fn a_statement_at_work_is_waited_for() {
    let lab = Lab::open("silent_work", SILENCE).await;
    let mut other = PgConnection::connect(&lab.url).await.unwrap();
    other.execute("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let before = lab.proxy.accepted();
    let counting = lab.target.count_rows(&lab.table, None);
    tokio::pin!(counting);
    // It is asked after, several times over, and goes on.
    tokio::select! {
        counted = &mut counting => panic!("the table is locked: {counted:?}"),
        () = lab.proxy.has_accepted(before + 4) => {}
    }
    other.execute("COMMIT").await.unwrap();
    let rows = timeout(PATIENCE, counting).await.expect("in time").unwrap();
    assert_eq!(rows, 100);
}

/// Looks that find nothing out, more of them than a server that does not answer gets.
const LOOKS: usize = 6;

/// Waits until a silent batch was looked after for so long, and goes on.
async fn is_waited_for(lab: &Lab, committing: &mut (impl Future<Output = Result<(), TargetError>> + Unpin)) {
    let before = lab.proxy.accepted();
    tokio::select! {
        ended = committing => panic!("nobody knows what became of it: {ended:?}"),
        () = lab.proxy.has_accepted(before + LOOKS) => {}
    }
}

#[tokio::test]
async fn a_server_without_room_for_a_look_is_waited_for() {
    let cluster = PrivatePostgres::start_with(Durability::Fast, &[("max_connections", "8")])
        .await
        .unwrap();
    cluster.create_database("full").await.unwrap();
    let lab = Lab::at(cluster.url("full"), SILENCE).await;
    let batch = lab.target.begin(lab.claim, &[&lab.table]).await.unwrap();
    let mut others = Vec::new();
    let refused = loop {
        match PgConnection::connect(&lab.url).await {
            Ok(connection) => others.push(connection),
            Err(error) => break error,
        }
    };
    let code = refused
        .as_database_error()
        .and_then(|error| error.code().map(|code| code.into_owned()));
    assert_eq!(code.as_deref(), Some("53300"), "{refused}");
    lab.proxy.silence_open();
    let mut committing = batch.commit();
    is_waited_for(&lab, &mut committing).await;
    // With room for a look it is found out that the session waits in vain.
    drop(others);
    let error = timeout(PATIENCE, committing).await.expect("it is not waited for in vain");
    let error = error.expect_err("nothing came");
    assert!(error.message.contains("idle in transaction"), "{error}");
}

#[tokio::test]
async fn a_standby_that_answers_in_place_of_the_server_tells_nothing() {
    let pair = ReplicatedPostgres::start().await.unwrap();
    pair.primary().create_database("led").await.unwrap();
    let lab = Lab::at(pair.primary().url("led"), SILENCE).await;
    let batch = lab.target.begin(lab.claim, &[&lab.table]).await.unwrap();
    lab.proxy.lead_to(&pair.standby().url("led")).unwrap();
    lab.proxy.silence_open();
    let mut committing = batch.commit();
    is_waited_for(&lab, &mut committing).await;
    lab.proxy.lead_to(&lab.url).unwrap();
    let error = timeout(PATIENCE, committing).await.expect("it is not waited for in vain");
    let error = error.expect_err("nothing came");
    assert!(error.message.contains("idle in transaction"), "{error}");
}

#[tokio::test]
async fn without_a_limit_nobody_is_asked() {
    let lab = Lab::open("silent_off", Duration::ZERO).await;
    let batch = lab.target.begin(lab.claim, &[&lab.table]).await.unwrap();
    lab.proxy.silence_open();
    let accepted = lab.proxy.accepted();
    let waited = timeout(SILENCE * 5, batch.commit()).await;
    assert!(waited.is_err(), "it is waited for: {waited:?}");
    assert_eq!(lab.proxy.accepted(), accepted);
}
