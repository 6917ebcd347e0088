//! Migrations: the plan before the events, streams that come back, and calls that must not be repeated.

use dbkeep_client::{
    ApplyRequest, MigrationQuery, MigrationSelection, RehearseRequest, RollbackRequest, RunStream,
    proto::{RepairAction, RunState},
};
use futures::StreamExt as _;
use tonic::Status;

use crate::fake::{
    Answer::Stream,
    Call, Fake, Migrating, RUN,
    Step::{Cut, Hang},
    progress, state,
};

async fn sequences(mut stream: RunStream) -> Vec<u64> {
    let mut sequences = Vec::new();
    while let Some(event) = stream.next().await {
        sequences.push(event.unwrap().sequence);
    }
    assert_eq!(stream.run_id(), Some(RUN));
    sequences
}

fn apply(id: &str) -> Call {
    Call::Migrations(Migrating::Apply {
        request_id: id.into(),
        token: "tok".into(),
        migrations: Vec::new(),
        dry_run: Some(false),
    })
}

#[tokio::test(start_paused = true)]
async fn the_plan_before_the_events_is_passed_over() {
    let fake = Fake::new([Stream(vec![
        state(1, RunState::Running),
        progress(2),
        state(3, RunState::Succeeded),
        Hang,
    ])]);
    let request = ApplyRequest::new().plan_token("tok").request_id("id");
    let stream = fake.client().migrations().apply(request).await.unwrap();
    assert_eq!(sequences(stream).await, [1, 2, 3]);
    assert_eq!(fake.calls(), [apply("id")]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_after_the_plan_is_opened_by_the_same_call() {
    let fake = Fake::new([
        Stream(vec![Cut]),
        Stream(vec![progress(1), Cut]),
        Stream(vec![state(2, RunState::Succeeded)]),
    ]);
    let request = ApplyRequest::new().plan_token("tok").request_id("id");
    let stream = fake.client().migrations().apply(request).await.unwrap();
    assert_eq!(sequences(stream).await, [1, 2]);
    assert_eq!(fake.calls(), [apply("id"), apply("id"), Call::Watch { after: 1 }]);
}

#[tokio::test(start_paused = true)]
async fn rollback_and_rehearsal_are_resumed_in_the_same_way() {
    let script = || [Stream(vec![progress(1), Cut]), Stream(vec![state(2, RunState::Succeeded)])];
    let fake = Fake::new(script());
    let request = RollbackRequest::new(MigrationSelection::steps(1)).unproven().request_id("id");
    assert_eq!(
        sequences(fake.client().migrations().rollback(request).await.unwrap()).await,
        [1, 2]
    );
    let rollback = Call::Migrations(Migrating::Rollback {
        request_id: "id".into(),
        unproven: true,
        dry_run: Some(false),
    });
    assert_eq!(fake.calls(), [rollback, Call::Watch { after: 1 }]);
    let fake = Fake::new(script());
    let request = RehearseRequest::new().request_id("id");
    assert_eq!(
        sequences(fake.client().migrations().test(request).await.unwrap()).await,
        [1, 2]
    );
    let test = Call::Migrations(Migrating::Test { request_id: "id".into() });
    assert_eq!(fake.calls(), [test, Call::Watch { after: 1 }]);
}

#[tokio::test(start_paused = true)]
async fn what_changes_the_ledger_is_sent_once() {
    let away = || Status::unavailable("away");
    let fake = Fake::new([]);
    fake.fail_unary([away()]);
    let migrations = fake.client().migrations();
    assert!(
        migrations
            .repair("", "3", Some(RepairAction::Skip))
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert_eq!(fake.calls().len(), 1);
    fake.fail_unary([away()]);
    assert!(
        migrations
            .baseline("", MigrationSelection::steps(1))
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert_eq!(fake.calls().len(), 2);
    // To ask what is wrong changes nothing, and is repeated.
    fake.fail_unary([away()]);
    assert_eq!(migrations.repair("", "3", None).await.unwrap().id, "3");
    assert_eq!(fake.calls().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn pages_are_fetched_to_the_last() {
    let fake = Fake::new([]);
    let migrations = fake.client().migrations();
    let all = migrations.list_all(MigrationQuery::default().page_size(2)).await.unwrap();
    assert_eq!(
        all.iter().map(|migration| migration.id.as_str()).collect::<Vec<_>>(),
        ["0", "1", "2"]
    );
    let detail = migrations.get("main", "3").await.unwrap();
    assert_eq!((detail.migration.id.as_str(), detail.up.len()), ("3", 1));
    assert_eq!(migrations.status("").await.unwrap().layout, "sqlx");
}
