//! Traces of the real server to a real collector: each call, each attempt of a run and each batch is a span, a call belongs to the trace that
//! its caller names, and the way to a database is in none of them.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

mod support;

use std::{fs, process::Command, time::Duration};

use dbkeep_client::{RunRequest, proto::RunState};
use dbkeep_proto::v1::{self, target_service_client::TargetServiceClient};
use dbkeep_testkit::{Db, fresh_database};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use support::Daemon;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;

const CATALOG: &str = r#"
[[operation]]
name = "logs"
category = "LOGS"
severity = "LOW"
backup = true
[[operation.rule]]
name = "logs"
kind = "filter"
table = "logs"
condition = "id > 50"
max_fraction = 1.0
"#;

/// A trace as a caller names it, and its span.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

struct Collector(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.0.send(request.into_inner()).unwrap();
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector, and what it gets.
async fn collector() -> (String, mpsc::UnboundedReceiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = mpsc::unbounded_channel();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Collector(sender)))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    (address, received)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_runs_and_batches_are_spans() {
    let url = fresh_database("traces").await.unwrap();
    let db = Db::open(&url).await.unwrap();
    db.execute("CREATE TABLE logs (id integer PRIMARY KEY); INSERT INTO logs SELECT generate_series(1, 100)")
        .await
        .unwrap();
    db.close().await;
    let (address, mut received) = collector().await;
    let folder = tempfile::tempdir().unwrap();
    let catalog = folder.path().join("catalog.toml");
    fs::write(&catalog, CATALOG).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dbkeepd"));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &address);
    let mut daemon = Daemon::start_by(command, &folder.path().join("data"), &url, &catalog, "");

    let client = daemon.client().await;
    let request = RunRequest::new(["logs"]).execute().full_speed();
    let run = client.cleanup().run(request).await.unwrap().finish().await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{}", run.state_reason);
    let mut targets = TargetServiceClient::connect(format!("http://{}", daemon.address))
        .await
        .unwrap();
    let mut request = tonic::Request::new(v1::ListTargetsRequest::default());
    let parent = format!("00-{TRACE}-{PARENT}-01").parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    targets.list_targets(request).await.unwrap();

    // Whatever has not been sent yet is sent before the end.
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.wait().success());
    let mut spans: Vec<Span> = Vec::new();
    let mut text = String::new();
    while let Ok(Some(request)) = tokio::time::timeout(Duration::from_secs(1), received.recv()).await {
        text.push_str(&format!("{request:?}"));
        for resource in request.resource_spans {
            let named = resource.resource.unwrap().attributes;
            assert!(
                named
                    .iter()
                    .any(|pair| pair.key == "service.name" && format!("{:?}", pair.value).contains("dbkeepd")),
                "{named:?}"
            );
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    let of = |name: &str| {
        spans
            .iter()
            .find(|span| span.name == name)
            .unwrap_or_else(|| panic!("no span {name}: {spans:?}"))
    };
    of("/dbkeep.v1.CleanupService/RunCleanup");
    let (attempt, batch) = (of("attempt"), of("batch"));
    assert_eq!(
        (&batch.trace_id, &batch.parent_span_id),
        (&attempt.trace_id, &attempt.span_id)
    );
    assert!(format!("{:?}", attempt.attributes).contains(&run.id));
    assert!(attempt.end_time_unix_nano > attempt.start_time_unix_nano);
    let listed = of("/dbkeep.v1.TargetService/ListTargets");
    assert_eq!(
        (hex::encode(&listed.trace_id), hex::encode(&listed.parent_span_id)),
        (TRACE.to_owned(), PARENT.to_owned())
    );
    assert!(!text.contains("postgres:"), "the way to the database is nobody's business");
}

#[test]
fn a_collector_that_is_no_address_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dbkeepd"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "not an address")
        .args(["--listen", "127.0.0.1:0", "--check", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("collector"), "{said}");
}
