//! A server in this process, on a free port of loopback, for tests that call it.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::{net::SocketAddr, time::Duration};

use dbkeep_client::Client;
use dbkeep_server::{CatalogSource, Config, ServeError, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Longest wait for a server to end; only a failing test takes that long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Dropped, it goes on until the test ends.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    /// Cancelled, it ends.
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Serving {
    pub(crate) async fn start(config: Config) -> Self {
        Self::start_at("127.0.0.1:0", config).await
    }

    /// At an address of this machine.
    pub(crate) async fn start_at(address: &str, config: Config) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, config, shutdown.clone()));
        Self { address, shutdown, task }
    }

    /// A connection without TLS. A server that did not start says why; it may be in the listener's queue until it has.
    pub(crate) async fn channel(&mut self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("a URI");
        tokio::select! {
            channel = endpoint.connect() => channel.expect("a connection"),
            ended = &mut self.task => panic!("the server did not start: {ended:?}"),
        }
    }

    /// Waits until it serves (HTTP/2 without TLS). Until then a connection waits in the listener's queue, which a client cannot tell.
    async fn serves(&self) {
        let mut socket = TcpStream::connect(self.address).await.expect("a connection");
        // A client's preface with an empty SETTINGS frame (RFC 9113, section 3.4); a server answers with its own.
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
        socket.write_all(preface).await.expect("a preface");
        let answer = timeout(PATIENCE, socket.read_u8()).await;
        answer.expect("the server starts").expect("the server did not start");
    }

    /// A client without TLS, by the name of ann, of a server that serves: its store is there.
    pub(crate) async fn client(&self) -> Client {
        self.serves().await;
        let client = Client::builder().principal("ann").address(self.address.to_string());
        client.connect().await.expect("a client")
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let ended = timeout(PATIENCE, self.task).await.expect("the server ends");
        ended.expect("no panic").expect("in order");
    }
}

/// A catalog of this text.
pub(crate) fn catalog(text: &str) -> CatalogSource {
    CatalogSource::Text {
        name: "catalog.toml".to_owned(),
        text: text.to_owned(),
    }
}
