//! Unary calls: what is sent again, what is not, and when it ends.

use std::time::Duration;

use dbkeep_client::{Client, Error, PlanRequest, PruneRequest, RetryPolicy, RunQuery};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::fake::{Call, Fake, RUN, refusal, shutting_down};

#[tokio::test(start_paused = true)]
async fn a_read_is_sent_again_while_the_server_is_away() {
    let fake = Fake::new([]);
    fake.fail_unary([Status::unavailable("away"), shutting_down(Duration::from_secs(3))]);
    let start = Instant::now();
    assert_eq!(fake.client().runs().get(RUN).await.unwrap().id, RUN);
    assert_eq!(fake.calls(), vec![Call::GetRun; 3]);
    assert!(
        start.elapsed() >= Duration::from_secs(3),
        "RetryInfo was not honoured: {:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_cancel_repeats_its_request_id() {
    let fake = Fake::new([]);
    fake.fail_unary([Status::unavailable("away")]);
    fake.client().runs().cancel(RUN, "because").await.unwrap();
    let ids: Vec<String> = fake
        .calls()
        .into_iter()
        .map(|call| {
            if let Call::Cancel { request_id } = call {
                request_id
            } else {
                panic!("{call:?}")
            }
        })
        .collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    assert!(!ids[0].is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_server_refuses_is_not_sent_again() {
    let fake = Fake::new([]);
    fake.fail_unary([refusal(Code::NotFound, "UNKNOWN_RUN", &[("run", RUN)])]);
    let error = fake.client().runs().get(RUN).await.unwrap_err();
    assert!(matches!(error, Error::UnknownRun { run, .. } if run == RUN));
    assert_eq!(fake.calls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_last_error_is_told_when_the_attempts_are_used_up() {
    let fake = Fake::new([]);
    fake.fail_unary((0..9).map(|_| refusal(Code::Unavailable, "TARGET_UNAVAILABLE", &[("target", "main")])));
    let client = fake.client_with(Client::builder().retry(RetryPolicy::default().with_max_attempts(3)));
    let error = client.cleanup().plan(PlanRequest::new(["a"])).await.unwrap_err();
    assert!(matches!(error, Error::TargetUnavailable { target, .. } if target == "main"));
    assert_eq!(fake.calls(), vec![Call::Plan; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_at_its_timeout() {
    let fake = Fake::new([]);
    fake.hang_unary();
    let client = fake.client_with(Client::builder().call_timeout(Duration::from_secs(7)));
    let start = Instant::now();
    let error = client.runs().get(RUN).await.unwrap_err();
    assert!(matches!(error, Error::Deadline { run: None, .. }), "{error:?}");
    assert!(
        start.elapsed() >= Duration::from_secs(7) && start.elapsed() < Duration::from_secs(8),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn pages_are_read_to_the_end() {
    let runs = Fake::new([]).client().runs().list_all(RunQuery::default()).await.unwrap();
    let ids: Vec<&str> = runs.iter().map(|run| run.id.as_str()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4"]);
}

#[tokio::test(start_paused = true)]
async fn every_service_answers_with_its_types() {
    let client = Fake::new([]).client();
    assert_eq!(client.targets().list().await.unwrap()[0].name, "main");
    assert!(matches!(client.targets().get("x").await.unwrap_err(), Error::UnknownTarget { known, .. } if known == ["main"]));
    let half = client.targets().get("half").await.unwrap_err();
    assert!(matches!(
        half,
        Error::Incomplete {
            missing: "GetTargetResponse.status"
        }
    ));
    assert_eq!(client.cleanup().operation("main", "old_logs").await.unwrap().name, "old_logs");
    assert_eq!(client.backups().list_all(Default::default()).await.unwrap()[0].id, RUN);
    // Nothing goes unless it is told to.
    assert!(
        client
            .backups()
            .prune(PruneRequest::default().keep_last(1))
            .await
            .unwrap()
            .dry_run
    );
    assert!(
        !client
            .backups()
            .prune(PruneRequest::default().keep_last(1).execute())
            .await
            .unwrap()
            .dry_run
    );
    let detail = client.backups().get(RUN, 1).await.unwrap();
    assert!(detail.truncated && detail.chunks.len() == 1);
}
