//! A control store of a version that knew neither approvals nor used plans is brought up to date: its runs are readable, and plans
//! that have started a run start no other. And one that a later version brings up to date while a server works with it: that goes on with what it
//! knows, and is not started on it again.

#[path = "support/serving.rs"]
mod serving;

use std::time::Duration;

use dbkeep_client::{ScheduleDraft, ScheduleTiming, proto};
use dbkeep_engine::{
    model::{PlanId, RunId, RunOptions, RunState},
    port::{DecisionFilter, Ladder as _, Store as _},
};
use dbkeep_server::{Config, serve, store::ControlStore};
use dbkeep_testkit::{Db, fresh_database};
use serving::{Serving, catalog};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

/// Longest wait for anything; only a failing test takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

const CATALOG: &str = r#"
[[operation]]
name = "expired_tokens"
category = "EXPIRED_DATA"
severity = "LOW"
backup = true
[[operation.rule]]
name = "tokens"
kind = "expired"
table = "tokens"
column = "expires_at"
expiry = true
encoding = "unix_seconds"
max_fraction = 1.0
"#;

/// Takes the tables back to what they were before the confirmation ladder, and puts a run of then in.
async fn make_old(db: &Db, schema: &str, plan: PlanId, runs: &[(RunId, &str, bool)]) {
    for statement in [
        format!("DROP INDEX {schema}runs_waiting"),
        format!("DROP TABLE {schema}plan_uses"),
        format!("DROP TABLE {schema}decisions"),
        format!("DELETE FROM {schema}_sqlx_migrations WHERE version = 3"),
    ] {
        db.execute(&statement).await.expect(&statement);
    }
    for column in ["started_by", "approvals", "approvals_required", "approve_until_ms"] {
        let statement = format!("ALTER TABLE {schema}runs DROP COLUMN {column}");
        db.execute(&statement).await.expect(&statement);
    }
    for (id, kind, dry_run) in runs {
        let statement = format!(
            "INSERT INTO {schema}runs (id, request_id, request_digest, kind, target, state, state_reason, operations, plan_id, \
             options, attempts, report, captured_rows, first_sequence, last_sequence, created_ms, verification) \
             VALUES ('{id}', '{id}', 'digest', '{kind}', 'app', 'succeeded', '', '[\"o\"]', '{plan}', \
             '{{\"dry_run\":{dry_run},\"batch_rows\":10,\"max_execution_seconds\":60,\"full_speed\":false}}', 1, \
             '{{\"status\":\"success\",\"steps\":[],\"warnings\":[],\"duration_ms\":1}}', 0, 1, 1, 1000, 'unverified')"
        );
        db.execute(&statement).await.expect(&statement);
    }
}

async fn upgraded(url: &str, schema: &str) {
    ControlStore::open(url).await.expect("a new store").close().await;
    let (used, only_planned) = (PlanId(uuid::Uuid::now_v7()), PlanId(uuid::Uuid::now_v7()));
    let (dry, first, second, undo) = (RunId::new(), RunId::new(), RunId::new(), RunId::new());
    let db = Db::open(url).await.expect("a connection");
    // A token could start several runs in those days.
    let runs = [
        (dry, "cleanup", true),
        (first, "cleanup", false),
        (second, "cleanup", false),
        (undo, "undo", false),
    ];
    make_old(&db, schema, used, &runs).await;
    db.close().await;

    let store = ControlStore::open(url).await.expect("the store is brought up to date");
    assert_eq!(store.plan_use(used).await.expect("an answer"), Some(first));
    assert_eq!(store.plan_use(only_planned).await.expect("an answer"), None);
    let run = store.run(first).await.expect("an answer").expect("the run");
    assert_eq!(
        (run.state, run.started_by.as_str(), run.approvals_required),
        (RunState::Succeeded, "", 0)
    );
    assert_eq!((run.approvals, run.approve_until), (Vec::new(), None));
    let options = RunOptions {
        dry_run: false,
        batch_rows: 10,
        max_execution_seconds: 60,
        ..RunOptions::default()
    };
    assert_eq!(run.options, options, "options that were not known are at their defaults");
    let decisions = store
        .decisions(&DecisionFilter::default(), None, 10)
        .await
        .expect("an answer");
    assert_eq!(decisions, []);
    store.close().await;
}

#[tokio::test]
async fn sqlite_is_upgraded() {
    let folder = tempfile::tempdir().expect("a folder");
    upgraded(&format!("sqlite://{}", folder.path().join("control.db").display()), "").await;
}

#[tokio::test]
async fn postgres_is_upgraded() {
    upgraded(&fresh_database("upgrade").await.expect("a database"), "dbkeep_control.").await;
}

/// What a later version may do to a store that servers of this one work with: it adds.
async fn bring_up_to_date(db: &Db, schema: &str) {
    let checksum = if schema.is_empty() { "x'00'" } else { "'\\x00'" };
    let added = ["runs", "plans", "schedules", "schedule_slots", "servers", "decisions"]
        .map(|table| format!("ALTER TABLE {schema}{table} ADD COLUMN of_later TEXT NOT NULL DEFAULT 'later'"));
    for statement in added.into_iter().chain([
        format!("CREATE TABLE {schema}of_later (id TEXT PRIMARY KEY)"),
        format!("UPDATE {schema}schedules SET spec = replace(spec, '\"name\":', '\"of_later\":1,\"name\":')"),
        format!(
            "INSERT INTO {schema}_sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'of later', true, {checksum}, 0)"
        ),
    ]) {
        db.execute(&statement).await.expect(&statement);
    }
}

/// An error with all that caused it.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn goes_on(store: Option<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let target = format!("sqlite://{}", folder.path().join("app.db").display());
    let app = Db::open(&format!("{target}?mode=rwc")).await.expect("a database");
    app.execute("CREATE TABLE tokens (id INTEGER PRIMARY KEY, expires_at INTEGER)")
        .await
        .expect("a table");
    let config = || {
        let config = Config::embedded(folder.path().join("data")).with_target("app", target.as_str(), catalog(CATALOG));
        match &store {
            Some(url) => config.with_store(url.as_str()),
            None => config,
        }
    };
    let server = Serving::start(config()).await;
    let client = server.client().await;
    let draft = ScheduleDraft::new("tokens")
        .target("app")
        .operation("expired_tokens")
        .timing(ScheduleTiming::cron("0 0 29 2 *"));
    let schedules = client.schedules();
    let schedule = schedules.create(draft).await.expect("a schedule");
    let fire = async || {
        app.execute("INSERT INTO tokens (expires_at) VALUES (1000), (1000)")
            .await
            .expect("rows");
        let run = schedules
            .run(schedule.id.as_str())
            .await
            .expect("a run")
            .finish()
            .await
            .expect("an end");
        assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
        assert_eq!(app.count("tokens").await.expect("a count"), 0);
    };
    // Its statements are prepared by then.
    fire().await;
    let (url, schema) = match &store {
        Some(url) => (url.clone(), "dbkeep_control."),
        None => (format!("sqlite://{}", folder.path().join("data/control.db").display()), ""),
    };
    let db = Db::open(&url).await.expect("the store");
    bring_up_to_date(&db, schema).await;
    // Settled by the scheduler, which is seen by the next that may be fired.
    let settled = async || {
        while db
            .count_where(&format!("{schema}schedule_slots"), "outcome <> 'succeeded'")
            .await
            .expect("a count")
            > 0
        {
            // No stream tells of slots.
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    timeout(PATIENCE, settled()).await.expect("the slot ends");
    fire().await;
    assert_eq!(db.count(&format!("{schema}runs")).await.expect("a count"), 2);
    timeout(PATIENCE, settled()).await.expect("the slot ends");
    let kept = db
        .count_where(&format!("{schema}schedules"), "spec LIKE '%\"of_later\":1%'")
        .await;
    assert_eq!(
        kept.expect("a count"),
        1,
        "what it does not read stays, although it has written how the slot ended"
    );
    let later = db.count_where(&format!("{schema}runs"), "of_later = 'later'").await;
    assert_eq!(later.expect("a count"), 2, "what was added is what its default says");

    // A second one beside it, where the store may have several; otherwise after it.
    let refused = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let ended = timeout(PATIENCE, serve(listener, config(), CancellationToken::new())).await;
        let said = whole(&ended.expect("it ends").expect_err("the store is of a later version"));
        assert!(
            said.contains("migration 9999 is unknown here; a newer dbkeep has written to it"),
            "{said}"
        );
    };
    if store.is_some() {
        refused().await;
        let runs = client.runs().list_all(dbkeep_client::RunQuery::default()).await;
        runs.expect("the first one serves on");
        server.stop().await;
    } else {
        server.stop().await;
        refused().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_goes_on_when_a_later_version_brings_its_sqlite_store_up_to_date() {
    goes_on(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_goes_on_when_a_later_version_brings_its_postgres_store_up_to_date() {
    goes_on(Some(fresh_database("upgrade").await.expect("a database"))).await;
}
