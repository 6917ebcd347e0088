//! What a stranger finds: reflection, health, and methods that nobody may call.

use std::collections::BTreeSet;

use dbkeep_proto::v1::{self, target_service_client::TargetServiceClient};
use dbkeep_server::grpc::policy;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb;
use tower::ServiceExt as _;

use crate::harness::{Refusal, TestServer};

/// The services that rows of the policy name.
fn known() -> BTreeSet<String> {
    policy::ROWS
        .iter()
        .filter_map(|row| row.method[1..].split_once('/'))
        .map(|(service, _)| service.to_owned())
        .collect()
}

#[tokio::test]
async fn both_versions_of_reflection_list_every_service() {
    let server = TestServer::start().await;
    let ask = pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(pb::v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = pb::v1::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    let answer = client
        .server_reflection_info(futures::stream::iter([ask]))
        .await
        .expect("a stream")
        .into_inner()
        .message()
        .await;
    let Some(pb::v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.expect("an answer").expect("an answer").message_response
    else {
        panic!("a list")
    };
    let listed = list.service.into_iter().map(|service| service.name).collect::<BTreeSet<_>>();
    let without = |version: &str| {
        known()
            .into_iter()
            .filter(|name| !name.starts_with(&format!("grpc.reflection.{version}.")))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(listed, without("v1alpha"));

    let ask = pb::v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(pb::v1alpha::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut client = pb::v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    let answer = client
        .server_reflection_info(futures::stream::iter([ask]))
        .await
        .expect("a stream")
        .into_inner()
        .message()
        .await;
    let Some(pb::v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.expect("an answer").expect("an answer").message_response
    else {
        panic!("a list")
    };
    let listed = list.service.into_iter().map(|service| service.name).collect::<BTreeSet<_>>();
    assert_eq!(listed, without("v1"));
    server.stop().await;
}

#[tokio::test]
async fn reflection_knows_the_types_of_error_details() {
    let server = TestServer::start().await;
    let mut client = pb::v1::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    for symbol in ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "dbkeep.v1.ErrorReason"] {
        let ask = pb::v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(pb::v1::server_reflection_request::MessageRequest::FileContainingSymbol(
                symbol.into(),
            )),
        };
        let answer = client
            .server_reflection_info(futures::stream::iter([ask]))
            .await
            .expect("a stream")
            .into_inner()
            .message()
            .await;
        let answer = answer.expect("an answer").expect("an answer").message_response;
        assert!(
            matches!(
                answer,
                Some(pb::v1::server_reflection_response::MessageResponse::FileDescriptorResponse(_))
            ),
            "{symbol}: {answer:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn health_tells_of_the_server_and_of_each_service() {
    let server = TestServer::start().await;
    let mut client = HealthClient::new(server.channel.clone());
    let ours = known().into_iter().filter(|name| name.starts_with("dbkeep."));
    for service in ours.chain([String::new()]) {
        let status = client
            .check(HealthCheckRequest {
                service: service.clone(),
            })
            .await
            .expect("a status")
            .into_inner();
        assert_eq!(status.status(), ServingStatus::Serving, "{service:?}");
    }
    let mut watch = client
        .watch(HealthCheckRequest { service: String::new() })
        .await
        .expect("a stream")
        .into_inner();
    assert_eq!(
        watch.message().await.expect("a status").map(|status| status.status()),
        Some(ServingStatus::Serving)
    );
    server.serving.shutdown.cancel();
    assert_eq!(
        watch.message().await.expect("a status").map(|status| status.status()),
        Some(ServingStatus::NotServing)
    );
    assert!(
        watch.message().await.expect("the end").is_none(),
        "whoever watches health does not hold the server up"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_method_without_a_row_is_refused() {
    let server = TestServer::start().await;
    let call = async |path: &'static str| {
        let astray = server
            .channel
            .clone()
            .map_request(move |mut request: http::Request<tonic::body::Body>| {
                *request.uri_mut() = http::Uri::from_static(path);
                request
            });
        TargetServiceClient::new(astray)
            .list_targets(v1::ListTargetsRequest {})
            .await
            .expect_err("must fail")
    };
    let refusal = Refusal::of(&call("/dbkeep.v1.TargetService/DropEverything").await);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::PermissionDenied, "METHOD_NOT_ALLOWED")
    );
    assert_eq!(call("/other.v1.Service/Method").await.code(), Code::Unimplemented);
    server.stop().await;
}

#[tokio::test]
async fn operations_and_targets_are_shown() {
    let server = TestServer::start().await;
    let targets = server
        .targets()
        .list_targets(v1::ListTargetsRequest {})
        .await
        .expect("a list")
        .into_inner()
        .targets;
    assert_eq!(
        targets
            .iter()
            .map(|target| (target.name.as_str(), target.engine(), target.operation_count))
            .collect::<Vec<_>>(),
        [("app", v1::Engine::Sqlite, 2)]
    );
    let found = server
        .targets()
        .get_target(v1::GetTargetRequest { name: "app".into() })
        .await
        .expect("a target")
        .into_inner();
    let status = found.status.expect("a status");
    assert!(
        status.version.starts_with("3.") && status.size_bytes > 0 && !status.capabilities.is_empty(),
        "{status:?}"
    );
    let listed = async |severity: v1::Severity, category: &str| {
        let request = v1::ListOperationsRequest {
            target: String::new(),
            category: category.into(),
            severity: severity.into(),
        };
        let operations = server
            .cleanup()
            .list_operations(request)
            .await
            .expect("a list")
            .into_inner()
            .operations;
        operations.into_iter().map(|operation| operation.name).collect::<Vec<_>>()
    };
    assert_eq!(listed(v1::Severity::Unspecified, "").await, ["expired_tokens", "old_tokens"]);
    assert_eq!(listed(v1::Severity::Medium, "").await, ["old_tokens"]);
    assert_eq!(listed(v1::Severity::Medium, "EXPIRED_DATA").await, Vec::<String>::new());
    let request = v1::GetOperationRequest {
        target: "app".into(),
        name: "expired_tokens".into(),
    };
    let operation = server
        .cleanup()
        .get_operation(request)
        .await
        .expect("an operation")
        .into_inner()
        .operation
        .expect("an operation");
    assert_eq!(
        (
            operation.severity(),
            operation.rules[0].kind.as_str(),
            operation.rules[0].action.as_str()
        ),
        (v1::Severity::Low, "expired", "delete")
    );
    assert_eq!(operation.rules[0].origin, "catalog.toml:7");
    server.stop().await;
}
