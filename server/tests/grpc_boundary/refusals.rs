//! Bad requests: a precise error, and nothing changed.

use dbkeep_proto::v1;
use tonic::Code;

use crate::harness::{TestServer, executing, refused};

fn options(change: impl FnOnce(&mut v1::RunOptions)) -> Option<v1::RunOptions> {
    let mut options = v1::RunOptions::default();
    change(&mut options);
    Some(options)
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test]
async fn every_bad_field_of_a_run_is_named_and_nothing_starts() {
    let server = TestServer::start().await;
    let base = || v1::RunCleanupRequest {
        operations: vec!["expired_tokens".into()],
        ..v1::RunCleanupRequest::default()
    };
    let cases: Vec<(v1::RunCleanupRequest, &[&str])> = vec![
        (
            v1::RunCleanupRequest {
                operations: vec![],
                ..base()
            },
            &["operations"],
        ),
        (
            v1::RunCleanupRequest {
                operations: vec!["a".into(), "a".into()],
                ..base()
            },
            &["operations[1]"],
        ),
        (
            v1::RunCleanupRequest {
                request_id: "x".repeat(65),
                ..base()
            },
            &["request_id"],
        ),
        (
            v1::RunCleanupRequest {
                options: options(|o| o.batch_size = Some(0)),
                ..base()
            },
            &["options.batch_size"],
        ),
        (
            v1::RunCleanupRequest {
                options: options(|o| o.batch_size = Some(10_001)),
                ..base()
            },
            &["options.batch_size"],
        ),
        (
            v1::RunCleanupRequest {
                options: options(|o| o.max_execution_time = seconds(59)),
                ..base()
            },
            &["options.max_execution_time"],
        ),
        (
            v1::RunCleanupRequest {
                options: options(|o| o.max_execution_time = seconds(7_201)),
                ..base()
            },
            &["options.max_execution_time"],
        ),
        (
            v1::RunCleanupRequest {
                request_id: "x".repeat(65),
                operations: vec![],
                options: options(|o| (o.batch_size, o.max_execution_time) = (Some(0), seconds(0))),
                ..base()
            },
            &["request_id", "operations", "options.batch_size", "options.max_execution_time"],
        ),
    ];
    for (request, fields) in cases {
        let refusal = refused(server.cleanup().run_cleanup(request).await);
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::InvalidArgument, "INVALID_FIELD")
        );
        assert_eq!(refusal.fields(), fields);
    }
    let runs = server
        .runs()
        .list_runs(v1::ListRunsRequest::default())
        .await
        .expect("a list")
        .into_inner()
        .runs;
    assert!(runs.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn unknown_names_list_the_known_ones() {
    let server = TestServer::start().await;
    let refusal = refused(
        server
            .targets()
            .get_target(v1::GetTargetRequest { name: "nope".into() })
            .await,
    );
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "UNKNOWN_TARGET"));
    assert_eq!(
        (refusal.metadata["target"].as_str(), refusal.metadata["known"].as_str()),
        ("nope", "app")
    );
    assert_eq!(
        refusal.details.resource_info().map(|info| info.resource_name.as_str()),
        Some("nope")
    );

    let plan = v1::PlanCleanupRequest {
        target: String::new(),
        operations: vec!["nope".into()],
    };
    let refusal = refused(server.cleanup().plan_cleanup(plan).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "UNKNOWN_OPERATION"));
    assert_eq!(refusal.metadata["known"], "expired_tokens,old_tokens");

    for id in ["nope", "01890000-0000-7000-8000-000000000000"] {
        let refusal = refused(server.runs().get_run(v1::GetRunRequest { id: id.into() }).await);
        assert_eq!(
            (refusal.code, refusal.reason.as_str(), refusal.metadata["run"].as_str()),
            (Code::NotFound, "UNKNOWN_RUN", id)
        );
        let refusal = refused(
            server
                .backups()
                .get_backup(v1::GetBackupRequest {
                    id: id.into(),
                    max_chunks: 0,
                })
                .await,
        );
        assert_eq!(
            (refusal.code, refusal.reason.as_str(), refusal.metadata["backup"].as_str()),
            (Code::NotFound, "UNKNOWN_BACKUP", id)
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn plan_tokens_are_asked_for_and_looked_at() {
    let server = TestServer::idle().await;
    let medium = v1::RunCleanupRequest {
        operations: vec!["old_tokens".into()],
        ..executing("")
    };
    let refusal = refused(server.cleanup().run_cleanup(medium.clone()).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::FailedPrecondition, "PLAN_REQUIRED")
    );
    assert_eq!(
        (refusal.metadata["operation"].as_str(), refusal.metadata["severity"].as_str()),
        ("old_tokens", "MEDIUM")
    );
    assert!(refusal.details.precondition_failure().is_some());

    let foreign = v1::RunCleanupRequest {
        plan_token: format!("plan_{:032x}_{:032x}", 1, 2),
        ..medium.clone()
    };
    let refusal = refused(server.cleanup().run_cleanup(foreign).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::NotFound, "UNKNOWN_PLAN"));

    let request = v1::PlanCleanupRequest {
        target: "app".into(),
        operations: vec!["expired_tokens".into()],
    };
    let plan = server
        .cleanup()
        .plan_cleanup(request)
        .await
        .expect("a plan")
        .into_inner()
        .plan
        .expect("a plan");
    let refusal = refused(
        server
            .cleanup()
            .run_cleanup(v1::RunCleanupRequest {
                plan_token: plan.token,
                ..medium
            })
            .await,
    );
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::FailedPrecondition, "PLAN_MISMATCH")
    );
    assert_eq!(
        (refusal.metadata["field"].as_str(), refusal.metadata["plan"].as_str()),
        ("operations", plan.id.as_str())
    );
    server.stop().await;
}

#[tokio::test]
async fn a_second_run_on_the_table_names_the_first() {
    let server = TestServer::idle().await;
    let (first, _events) = server.run("one").await;
    let refusal = refused(server.cleanup().run_cleanup(executing("two")).await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::Aborted, "RUN_ALREADY_ACTIVE"));
    assert_eq!(
        (refusal.metadata["run"].as_str(), refusal.metadata["target"].as_str()),
        (first.as_str(), "app")
    );

    let other = v1::RunCleanupRequest {
        options: None,
        ..executing("one")
    };
    let refusal = refused(server.cleanup().run_cleanup(other).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::AlreadyExists, "REQUEST_ID_REUSED")
    );
    assert_eq!(
        (refusal.metadata["run"].as_str(), refusal.metadata["request_id"].as_str()),
        (first.as_str(), "one")
    );

    let undo = v1::UndoRunRequest {
        id: first.clone(),
        ..v1::UndoRunRequest::default()
    };
    let refusal = refused(server.runs().undo_run(undo.clone()).await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str(), refusal.metadata["state"].as_str()),
        (Code::FailedPrecondition, "RUN_STATE", "queued")
    );
    let dry = v1::UndoRunRequest {
        options: options(|o| o.dry_run = Some(true)),
        ..undo
    };
    assert_eq!(refused(server.runs().undo_run(dry).await).fields(), ["options.dry_run"]);
    server.stop().await;
}

#[tokio::test]
async fn lists_refuse_what_means_nothing() {
    let server = TestServer::start().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let dry = v1::RunCleanupRequest {
            operations: vec!["expired_tokens".into()],
            ..v1::RunCleanupRequest::default()
        };
        let mut events = server.cleanup().run_cleanup(dry).await.expect("a dry run").into_inner();
        ids.insert(
            0,
            events
                .message()
                .await
                .expect("a message")
                .expect("an event")
                .event
                .expect("an event")
                .run_id,
        );
    }
    let request = v1::ListRunsRequest {
        filter: Some(v1::RunFilter {
            states: vec![0],
            kinds: vec![77],
            ..v1::RunFilter::default()
        }),
        page_size: 501,
        page_token: "x".into(),
    };
    let refusal = refused(server.runs().list_runs(request).await);
    assert_eq!(
        refusal.fields(),
        ["page_size", "page_token", "filter.states[0]", "filter.kinds[0]"]
    );

    let page = v1::ListRunsRequest {
        page_size: 2,
        ..v1::ListRunsRequest::default()
    };
    let first = server.runs().list_runs(page.clone()).await.expect("a page").into_inner();
    assert_eq!(first.runs.iter().map(|run| &run.id).collect::<Vec<_>>(), [&ids[0], &ids[1]]);
    let next = v1::ListRunsRequest {
        page_token: first.next_page_token.clone(),
        ..page.clone()
    };
    let last = server.runs().list_runs(next.clone()).await.expect("a page").into_inner();
    assert_eq!(
        (last.runs[0].id.as_str(), last.runs.len(), last.next_page_token.as_str()),
        (ids[2].as_str(), 1, "")
    );
    let other = v1::ListRunsRequest {
        filter: Some(v1::RunFilter {
            target: "app".into(),
            ..v1::RunFilter::default()
        }),
        ..next
    };
    assert_eq!(refused(server.runs().list_runs(other).await).fields(), ["page_token"]);
    let backups = v1::ListBackupsRequest {
        page_token: first.next_page_token,
        ..v1::ListBackupsRequest::default()
    };
    assert_eq!(refused(server.backups().list_backups(backups).await).fields(), ["page_token"]);
    server.stop().await;
}
