//! Event streams: complete, resumable, and ended by runs, deadlines and shutdown.

use std::time::Duration;

use dbkeep_proto::v1::{self, run_event::Event};
use dbkeep_testkit::Db;
use tokio::time::timeout;
use tonic::{Code, Request};

use crate::harness::{EXPIRED, PATIENCE, Refusal, TestServer, executing, refused};

async fn watched(server: &TestServer, id: &str, after_sequence: u64) -> Vec<v1::RunEvent> {
    let request = v1::WatchRunRequest {
        id: id.to_owned(),
        after_sequence,
    };
    let mut stream = server.runs().watch_run(request).await.expect("a stream").into_inner();
    let mut events = Vec::new();
    while let Some(response) = timeout(PATIENCE, stream.message()).await.expect("in time").expect("an event") {
        events.push(response.event.expect("an event"));
    }
    events
}

#[tokio::test]
async fn a_run_is_streamed_to_its_end_and_can_be_read_again() {
    let server = TestServer::start().await;
    let mut stream = server
        .cleanup()
        .run_cleanup(executing("r"))
        .await
        .expect("a run")
        .into_inner();
    let mut events = Vec::new();
    while let Some(response) = timeout(PATIENCE, stream.message()).await.expect("in time").expect("an event") {
        events.push(response.event.expect("an event"));
    }
    let mut sequence = 0;
    for event in &events {
        sequence += event.coalesced + 1;
        assert_eq!(event.sequence, sequence, "no gap and no repeat");
    }
    let Some(Event::StateChanged(last)) = &events[events.len() - 1].event else {
        panic!("the last event is a state")
    };
    assert_eq!(last.to(), v1::RunState::Succeeded, "{}", last.reason);
    assert_eq!(last.report.as_ref().map(|report| report.rows_affected), Some(EXPIRED));

    let run = server
        .runs()
        .get_run(v1::GetRunRequest {
            id: events[0].run_id.clone(),
        })
        .await
        .expect("a run")
        .into_inner()
        .run
        .expect("a run");
    assert_eq!(
        (run.last_sequence, run.state(), run.kind()),
        (sequence, v1::RunState::Succeeded, v1::RunKind::Cleanup)
    );
    assert_eq!(run.options.and_then(|options| options.batch_size), Some(10));
    let all = watched(&server, &run.id, 0).await;
    assert_eq!((all[0].sequence, all[all.len() - 1].sequence), (1, sequence));
    assert!(
        watched(&server, &run.id, sequence).await.is_empty(),
        "a log that is over has nothing after its end"
    );
    let ahead = v1::WatchRunRequest {
        id: run.id.clone(),
        after_sequence: sequence + 1,
    };
    let refusal = refused(server.runs().watch_run(ahead).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::InvalidArgument, "SEQUENCE_AHEAD")
    );
    assert_eq!(refusal.metadata["last_sequence"], sequence.to_string());

    let again = server
        .cleanup()
        .run_cleanup(executing("r"))
        .await
        .expect("the same run")
        .into_inner()
        .message()
        .await;
    assert_eq!(
        again.expect("a message").expect("an event").event.expect("an event").run_id,
        run.id
    );

    let request = v1::GetBackupRequest {
        id: run.backup_id.clone(),
        max_chunks: 1,
    };
    let backup = server.backups().get_backup(request).await.expect("a backup").into_inner();
    assert_eq!((backup.chunks.len(), backup.truncated), (1, true));
    assert_eq!(
        backup.backup.map(|backup| (backup.row_count, backup.folder)),
        Some((EXPIRED, run.id.clone()))
    );

    let verify = v1::VerifyBackupRequest {
        id: run.id.clone(),
        ..v1::VerifyBackupRequest::default()
    };
    let mut proof = server.backups().verify_backup(verify).await.expect("a run").into_inner();
    while timeout(PATIENCE, proof.message())
        .await
        .expect("in time")
        .expect("an event")
        .is_some()
    {}
    let listed = server
        .backups()
        .list_backups(v1::ListBackupsRequest::default())
        .await
        .expect("a list")
        .into_inner()
        .backups;
    assert_eq!(
        listed.iter().map(v1::Backup::verification).collect::<Vec<_>>(),
        [v1::VerificationState::Verified]
    );

    let undo = v1::UndoRunRequest {
        id: run.id.clone(),
        ..v1::UndoRunRequest::default()
    };
    let mut undone = server.runs().undo_run(undo).await.expect("an undo").into_inner();
    while timeout(PATIENCE, undone.message())
        .await
        .expect("in time")
        .expect("an event")
        .is_some()
    {}
    let db = Db::open(&server.database).await.expect("the database");
    assert_eq!(db.count("tokens").await.expect("a count"), 2 * EXPIRED);
    db.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_dry_run_ends_with_its_plan() {
    let server = TestServer::start().await;
    let request = v1::RunCleanupRequest {
        operations: vec!["old_tokens".into()],
        ..v1::RunCleanupRequest::default()
    };
    let mut stream = server.cleanup().run_cleanup(request).await.expect("a dry run").into_inner();
    let mut ready = None;
    while let Some(response) = timeout(PATIENCE, stream.message()).await.expect("in time").expect("an event") {
        if let Some(Event::PlanReady(plan)) = response.event.expect("an event").event {
            ready = Some(plan);
        }
    }
    let ready = ready.expect("a plan");
    assert_eq!(ready.row_count, EXPIRED);
    let run = v1::RunCleanupRequest {
        operations: vec![],
        plan_token: ready.plan_token,
        ..executing("")
    };
    server.cleanup().run_cleanup(run).await.expect("what was reviewed can be run");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline_and_names_its_run() {
    let server = TestServer::idle().await;
    let (id, events) = server.run("r").await;
    drop(events);
    let mut request = Request::new(v1::WatchRunRequest {
        id: id.clone(),
        after_sequence: 0,
    });
    request.set_timeout(Duration::from_secs(1));
    let mut stream = server.runs().watch_run(request).await.expect("a stream").into_inner();
    let status = loop {
        match timeout(PATIENCE, stream.message()).await.expect("in time") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the run has not ended"),
            Err(status) => break status,
        }
    };
    let refusal = Refusal::of(&status);
    assert_eq!(
        (refusal.code, refusal.reason.as_str(), refusal.metadata["run"].as_str()),
        (Code::DeadlineExceeded, "DEADLINE", id.as_str())
    );

    let mut request = Request::new(executing("r"));
    request.set_timeout(Duration::from_secs(1));
    let mut stream = server
        .cleanup()
        .run_cleanup(request)
        .await
        .expect("the same run")
        .into_inner();
    let status = loop {
        match timeout(PATIENCE, stream.message()).await.expect("in time") {
            Ok(event) => assert!(event.is_some(), "the run has not ended"),
            Err(status) => break status,
        }
    };
    assert_eq!(Refusal::of(&status).metadata["run"], id);
    let run = server
        .runs()
        .get_run(v1::GetRunRequest { id })
        .await
        .expect("a run")
        .into_inner()
        .run
        .expect("a run");
    assert_eq!(run.state(), v1::RunState::Queued, "the deadline ended the call, not the run");
    server.stop().await;
}

#[tokio::test]
async fn cancelling_is_idempotent_and_ends_the_streams() {
    let server = TestServer::idle().await;
    let (id, mut events) = server.run("r").await;
    let cancel = v1::CancelRunRequest {
        id: id.clone(),
        reason: "wrong day".into(),
        request_id: String::new(),
    };
    for _ in 0..2 {
        let run = server
            .runs()
            .cancel_run(cancel.clone())
            .await
            .expect("a run")
            .into_inner()
            .run
            .expect("a run");
        assert_eq!(
            (run.state(), run.state_reason.as_str()),
            (v1::RunState::Cancelled, "wrong day")
        );
    }
    let mut last = None;
    while let Some(response) = timeout(PATIENCE, events.message()).await.expect("in time").expect("an event") {
        last = response.event.and_then(|event| event.event);
    }
    assert!(matches!(last, Some(Event::StateChanged(change)) if change.to() == v1::RunState::Cancelled));
    let long = v1::CancelRunRequest {
        reason: "x".repeat(501),
        ..cancel
    };
    assert_eq!(refused(server.runs().cancel_run(long).await).fields(), ["reason"]);
    server.stop().await;
}

#[tokio::test]
async fn shutdown_tells_watchers_to_come_back() {
    let server = TestServer::idle().await;
    let (id, mut events) = server.run("r").await;
    let mut watcher = server
        .runs()
        .watch_run(v1::WatchRunRequest { id, after_sequence: 0 })
        .await
        .expect("a stream")
        .into_inner();
    server.serving.shutdown.cancel();
    for status in [
        loop {
            if let Err(status) = timeout(PATIENCE, events.message())
                .await
                .expect("in time")
                .map(|event| assert!(event.is_some()))
            {
                break status;
            }
        },
        loop {
            if let Err(status) = timeout(PATIENCE, watcher.message())
                .await
                .expect("in time")
                .map(|event| assert!(event.is_some()))
            {
                break status;
            }
        },
    ] {
        let refusal = Refusal::of(&status);
        assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
        assert!(refusal.details.retry_info().is_some());
    }
    server.stop().await;
}
