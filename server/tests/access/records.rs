//! The record: what acts is on it before it takes effect, what is denied is on it, and what cannot be recorded is not done.

use bytes::Bytes;
use dbkeep_client::{
    AuditQuery, Error, RunRequest, TokenDraft,
    proto::{AuditEvent, AuditPhase, Role},
};
use sha2::{Digest as _, Sha256};
use tonic::Code;

use crate::world::{HIDDEN, Raw, SEEN, Way, World, call, state};

/// The whole log, oldest first.
async fn log(world: &World) -> Vec<AuditEvent> {
    let admin = world.client(&world.admin()).await;
    let mut events = admin.audit().list_all(AuditQuery::default()).await.expect("the log");
    events.reverse();
    events
}

fn of<'a>(log: &'a [AuditEvent], method: &str) -> Vec<&'a AuditEvent> {
    log.iter().filter(|event| event.method.ends_with(method)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_acts_has_two_records_and_a_run_one_of_what_it_did() {
    let world = World::working().await;
    let operator = world.client(&world.token("nightly", Role::Operator, None).await).await;
    let request = RunRequest::new([format!("expired_{SEEN}")]).target(SEEN).execute();
    let run = operator
        .cleanup()
        .run(request)
        .await
        .expect("accepted")
        .finish()
        .await
        .expect("it ends");
    // Twice the same, and the second has nothing to stop: refusals of the service are on record, too.
    let refused = operator
        .runs()
        .cancel(run.id.as_str(), "late")
        .await
        .expect_err("it has ended");
    assert!(matches!(refused, Error::RunState { .. }), "{refused:?}");
    // An end is written behind the answer; the next call's records come after it.
    operator.access().caller().await.expect("known");
    world
        .client(&world.admin())
        .await
        .access()
        .revoke_token("nightly")
        .await
        .expect("revoked");
    let log = log(&world).await;
    let calls = of(&log, "/RunCleanup");
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_eq!((calls[0].phase(), calls[1].phase()), (AuditPhase::Begun, AuditPhase::Ended));
    assert_eq!(calls[0].call_id, calls[1].call_id);
    assert_eq!(
        (calls[0].principal.as_str(), calls[0].target.as_str(), calls[1].code.as_str()),
        ("nightly", SEEN, "OK")
    );
    assert!(calls[0].peer.starts_with("127.0.0.1:") && calls[0].request_digest.len() == 64);
    assert!(calls[1].detail.contains(&run.id), "{}", calls[1].detail);
    // Nobody asked by its id but the run itself.
    let done = log
        .iter()
        .find(|event| event.method == "run/cleanup")
        .expect("what the run did");
    assert!(done.number > calls[0].number);
    let counts: Vec<(&str, u64)> = done.counts.iter().map(|count| (count.name.as_str(), count.value)).collect();
    assert!(
        counts.contains(&("rows_affected", 1)) && counts.contains(&("rows_captured", 1)),
        "{counts:?}"
    );
    assert_eq!(
        (done.code.as_str(), done.principal.as_str(), done.target.as_str()),
        ("SUCCEEDED", "nightly", SEEN)
    );
    let cancelled = of(&log, "/CancelRun");
    assert_eq!(
        cancelled.iter().map(|event| event.code.as_str()).collect::<Vec<_>>(),
        ["", "FAILED_PRECONDITION"]
    );
    assert_eq!(cancelled[0].target, SEEN);
    // Who only looks leaves nothing.
    assert!(of(&log, "/GetCaller").is_empty());
    let secrets = format!("{log:?}");
    assert!(!secrets.contains(&world.admin()[37..]), "a secret is in the log");
    world.stop().await;
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whoever sends no request is answered, and on record, all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_comes_keeps_no_record_from_being_written() {
    let world = World::start().await;
    let viewer = world.token("viewer", Role::Viewer, None).await;
    let channel = world.channel().await;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("a connection");
    let mut request = tonic::Request::new(futures::stream::pending::<Bytes>());
    let header = format!("Bearer {viewer}").parse().expect("a header");
    request.metadata_mut().insert("authorization", header);
    let path = http::uri::PathAndQuery::from_static("/dbkeep.v1.AccessService/RevokeToken");
    let answer = tokio::time::timeout(crate::world::PATIENCE, grpc.streaming(request, path, Raw)).await;
    assert_eq!(answer.expect("in time").expect_err("refused").code(), Code::PermissionDenied);
    let log = log(&world).await;
    let denied: Vec<_> = log.iter().filter(|event| event.phase() == AuditPhase::Denied).collect();
    assert_eq!(denied.len(), 1);
    assert_eq!(
        (denied[0].principal.as_str(), denied[0].request_digest.as_str()),
        ("viewer", "0".repeat(64).as_str())
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_denied_is_on_record() {
    let world = World::start().await;
    let channel = world.channel().await;
    let viewer = world.token("viewer", Role::Viewer, None).await;
    let scoped = world.token("scoped", Role::Operator, Some(SEEN)).await;
    let run = "/dbkeep.v1.CleanupService/RunCleanup";
    let plan = "/dbkeep.v1.CleanupService/PlanCleanup";
    let stop = "/dbkeep.v1.ScheduleService/StopScheduler";
    let mut hidden = vec![0x0a, u8::try_from(HIDDEN.len()).expect("short")];
    hidden.extend(HIDDEN.as_bytes());
    for (method, message, way, code) in [
        (run, Bytes::new(), Way::None, Code::Unauthenticated),
        (
            run,
            Bytes::new(),
            Way::Token("dbk_nonsense".to_owned()),
            Code::Unauthenticated,
        ),
        (run, hidden.clone().into(), Way::Token(viewer), Code::PermissionDenied),
        (stop, Bytes::new(), Way::Token(scoped.clone()), Code::PermissionDenied),
        (plan, hidden.clone().into(), Way::Token(scoped), Code::NotFound),
    ] {
        let status = call(&channel, method, method == run, message, &way).await.expect_err(method);
        assert_eq!(status.code(), code, "{method}: {status:?}");
    }
    let log = log(&world).await;
    let denied: Vec<(&str, &str, &str)> = log
        .iter()
        .filter(|event| event.phase() == AuditPhase::Denied)
        .map(|event| (event.principal.as_str(), event.method.as_str(), event.code.as_str()))
        .collect();
    let name = |method: &'static str| &method[1..];
    assert_eq!(
        denied,
        [
            ("", name(run), "UNAUTHENTICATED"),
            ("", name(run), "UNAUTHENTICATED"),
            ("viewer", name(run), "PERMISSION_DENIED"),
            ("scoped", name(stop), "PERMISSION_DENIED"),
            ("scoped", name(plan), "NOT_FOUND"),
        ]
    );
    // What was asked for is on record of everybody who is known.
    let digest = |message: &[u8]| {
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        hex(&Sha256::digest([&[0], length.as_slice(), message].concat()))
    };
    let digests = log.iter().filter(|event| event.phase() == AuditPhase::Denied);
    let digests: Vec<&str> = digests.map(|event| event.request_digest.as_str()).collect();
    let none = "0".repeat(64);
    assert_eq!(digests, [&none, &none, &digest(&hidden), &digest(&[]), &digest(&hidden)]);
    let begun = log.iter().filter(|event| event.phase() == AuditPhase::Begun);
    assert!(
        begun.clone().all(|event| event.method.ends_with("/CreateToken")),
        "{:?}",
        begun.collect::<Vec<_>>()
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recorded_is_not_done() {
    let world = World::start().await;
    let admin = world.client(&world.admin()).await;
    let store = world.store().await;
    let triggers = store
        .fetch_text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_head'")
        .await
        .expect("triggers");
    for trigger in triggers.into_iter().flatten().flatten() {
        store.execute(&format!("DROP TRIGGER {trigger}")).await.expect("dropped");
    }
    // A log without an end takes nothing more.
    store.execute("DELETE FROM audit_head").await.expect("deleted");
    store.close().await;
    let before = state(&world).await;
    let token = admin.access().create_token(TokenDraft::new("x", Role::Viewer)).await;
    assert!(matches!(token, Err(Error::AuditUnavailable { .. })), "{token:?}");
    let request = RunRequest::new([format!("expired_{SEEN}")]).target(SEEN).execute();
    let run = admin.cleanup().run(request).await.err();
    assert!(matches!(run, Some(Error::AuditUnavailable { .. })), "{run:?}");
    assert_eq!(state(&world).await, before, "something took effect");
    // Looking needs no record.
    admin.targets().list().await.expect("targets");
    world.stop().await;
}
