//! A control store of a version that knew neither approvals nor used plans is brought up to date: its runs are readable, and plans
//! that have started a run start no other.

use dbkeep_engine::{
    model::{PlanId, RunId, RunOptions, RunState},
    port::{DecisionFilter, Ladder as _, Store as _},
};
use dbkeep_server::store::ControlStore;
use dbkeep_testkit::{Db, fresh_database};

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
