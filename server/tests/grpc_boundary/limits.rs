//! Limits: open streams, sizes of messages, time, and one server to a data folder.

use std::time::Duration;

use dbkeep_proto::v1;
use dbkeep_server::{CatalogSource, ComposeError, Config, ServeError, serve};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use crate::harness::{CATALOG, PATIENCE, Refusal, TestServer, executing, refused};

#[tokio::test]
async fn open_streams_are_counted_and_given_back() {
    let server = TestServer::with(|mut config| {
        (config.max_streams, config.engine.concurrent_runs) = (2, 0);
        config
    })
    .await;
    let (id, first) = server.run("r").await;
    let watch = v1::WatchRunRequest { id, after_sequence: 0 };
    let second = server.runs().watch_run(watch.clone()).await.expect("a stream");
    for refusal in [
        refused(server.runs().watch_run(watch.clone()).await),
        refused(server.cleanup().run_cleanup(executing("other")).await),
    ] {
        assert_eq!(
            (refusal.code, refusal.reason.as_str()),
            (Code::ResourceExhausted, "TOO_MANY_STREAMS")
        );
        assert_eq!(refusal.metadata["limit"], "2");
        assert!(refusal.details.retry_info().is_some());
    }
    let listed = server
        .runs()
        .list_runs(v1::ListRunsRequest::default())
        .await
        .expect("a list")
        .into_inner()
        .runs;
    assert_eq!(listed.len(), 1, "what was refused has started nothing");
    drop((first, second));
    // The server learns that a client is gone by a reset frame; there is no event to wait for.
    let again = timeout(PATIENCE, async {
        while server.runs().watch_run(watch.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    again.await.expect("places are given back");
    server.stop().await;
}

/// Reflection is a stream that only its client ends.
#[tokio::test]
async fn a_client_that_does_not_leave_is_cut_after_the_grace() {
    let server = TestServer::with(|mut config| {
        config.shutdown_grace = Duration::from_millis(200);
        config
    })
    .await;
    let mut client = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    let answers = client
        .server_reflection_info(futures::stream::pending())
        .await
        .expect("a stream");
    server.stop().await;
    assert!(answers.into_inner().message().await.is_err());
}

/// A target that accepts connections and never says a word.
#[tokio::test]
async fn a_unary_call_ends_at_its_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address");
    let server = TestServer::with(|config| {
        let nothing = CatalogSource::Text {
            name: "empty.toml".into(),
            text: String::new(),
        };
        config.with_target("silent", format!("postgres://u@{address}/d"), nothing)
    })
    .await;
    // The client keeps the deadline by its own clock as well; on a busy machine that clock may win, and the call is made again.
    let refusal = loop {
        let mut request = Request::new(v1::GetTargetRequest { name: "silent".into() });
        request.set_timeout(Duration::from_secs(1));
        let Err(status) = timeout(PATIENCE, server.targets().get_target(request))
            .await
            .expect("in time")
        else {
            panic!("nobody answers")
        };
        if std::error::Error::source(&status).is_none() {
            break Refusal::of(&status);
        }
    };
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::DeadlineExceeded, "DEADLINE"));
    server.stop().await;
}

#[tokio::test]
async fn requests_are_limited_in_size() {
    let server = TestServer::start().await;
    let huge = v1::GetRunRequest { id: "x".repeat(2 << 20) };
    let Err(status) = server.runs().get_run(huge).await else {
        panic!("must be refused")
    };
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_data_folder_belongs_to_one_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let shutdown = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let first = tokio::spawn(serve(listener, Config::embedded(folder.path()), shutdown.clone()));
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}"))
        .expect("a URI")
        .connect()
        .await
        .expect("a connection");
    let mut targets = v1::target_service_client::TargetServiceClient::new(channel);
    targets
        .list_targets(v1::ListTargetsRequest {})
        .await
        .expect("the first one serves");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let second = serve(listener, Config::embedded(folder.path()), shutdown.clone()).await;
    assert!(
        matches!(second, Err(ServeError::Compose(ComposeError::InUse { .. }))),
        "{second:?}"
    );
    shutdown.cancel();
    timeout(PATIENCE, first)
        .await
        .expect("in time")
        .expect("no panic")
        .expect("no error");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    serve(listener, Config::embedded(folder.path()), shutdown)
        .await
        .expect("the folder is free again");
}

#[tokio::test]
async fn without_tls_only_loopback_listeners_are_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = TcpListener::bind("0.0.0.0:0").await.expect("a port");
    let refused = serve(listener, Config::embedded(folder.path()), CancellationToken::new()).await;
    assert!(
        matches!(refused, Err(ServeError::Listen(ref problem)) if problem.contains("there is no TLS")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_catalog_that_does_not_fit_keeps_the_server_from_starting() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite://{}", folder.path().join("empty.db").display());
    dbkeep_testkit::Db::open(&format!("{url}?mode=rwc"))
        .await
        .expect("a database")
        .execute("CREATE TABLE t (a)")
        .await
        .expect("sql");
    let config = Config::embedded(folder.path().join("data")).with_target(
        "app",
        url,
        CatalogSource::Text {
            name: "catalog.toml".into(),
            text: CATALOG.into(),
        },
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let Err(error) = serve(listener, config, CancellationToken::new()).await else {
        panic!("must be refused")
    };
    let message = error.to_string();
    assert!(
        message.starts_with("catalog.toml:") && message.contains("does not exist"),
        "{message}"
    );
}
