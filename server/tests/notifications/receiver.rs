//! A real HTTPS server with a certificate of its own authority, which keeps what it got and answers as it is told.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Frame, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_rustls::TlsAcceptor;

use crate::world::PATIENCE;

/// An authority, and a certificate of it for `localhost` and 127.0.0.1.
pub(crate) struct Identity {
    pub(crate) authority_pem: String,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority_pem = params.self_signed(&key).expect("an authority").pem();
        let issuer = Issuer::new(params, key);
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let own = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(names)
            .expect("parameters")
            .signed_by(&own, &issuer)
            .expect("a certificate");
        Self {
            authority_pem,
            certificate_pem: certificate.pem(),
            key_pem: own.serialize_pem(),
        }
    }

    /// Certificate and key as files, for servers that read some.
    pub(crate) fn files(&self, folder: &tempfile::TempDir) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
        std::fs::write(&certificate, &self.certificate_pem).expect("a file");
        std::fs::write(&key, &self.key_pem).expect("a file");
        (certificate, key)
    }

    fn acceptor(&self) -> TlsAcceptor {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("an identity");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What the server got.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("text")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// What it answers.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A status, and a header.
    Status(u16, Option<(&'static str, String)>),
    /// A status at once, and a body that never ends, in pieces of this size.
    Endless(u16, usize),
    /// A status at once, and a body of which nothing ever comes.
    Stalled(u16),
    /// Nothing at all.
    Silence,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Status(status, None)
    }
}

/// A running receiver; it says 204 to whatever it was told nothing about. Dropped, it is gone with all of its connections.
pub(crate) struct Receiver {
    pub(crate) identity: Arc<Identity>,
    pub(crate) port: u16,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    seen: mpsc::UnboundedReceiver<Seen>,
    accepting: JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        Self::start_at(Arc::new(Identity::new()), 0).await
    }

    /// At a port that is free again.
    pub(crate) async fn start_at(identity: Arc<Identity>, port: u16) -> Self {
        Self::start_on(identity, Ipv4Addr::LOCALHOST.into(), port).await
    }

    /// On one of this machine's own addresses.
    pub(crate) async fn start_on(identity: Arc<Identity>, address: IpAddr, port: u16) -> Self {
        let listener = TcpListener::bind((address, port)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let replies: Arc<Mutex<VecDeque<Reply>>> = Arc::default();
        let (sender, seen) = mpsc::unbounded_channel();
        let (acceptor, answers) = (identity.acceptor(), Arc::clone(&replies));
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answers, sender) = (acceptor.clone(), Arc::clone(&answers), sender.clone());
                connections.spawn(async move {
                    // Whoever does not trust the certificate leaves here.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(request, Arc::clone(&answers), sender.clone()));
                    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    // A client that cuts the connection is what some of these tests are about.
                    let _ = connection.await;
                });
            }
        });
        Self {
            identity,
            port,
            replies,
            seen,
            accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}/hooks/s3cret-path", self.port)
    }

    pub(crate) fn authority(&self) -> Option<Vec<u8>> {
        Some(self.identity.authority_pem.clone().into_bytes())
    }

    /// What it answers next, in this order.
    pub(crate) fn will(&self, replies: impl IntoIterator<Item = Reply>) {
        self.replies.lock().expect("the replies").extend(replies);
    }

    pub(crate) async fn next(&mut self) -> Seen {
        let seen = timeout(PATIENCE, self.seen.recv()).await.expect("a request comes");
        seen.expect("the receiver runs")
    }

    /// Whether something came that nobody has looked at.
    pub(crate) fn has_more(&mut self) -> bool {
        self.seen.try_recv().is_ok()
    }

    /// Ends it; the port is free afterwards.
    pub(crate) async fn stop(self) -> (Arc<Identity>, u16) {
        self.accepting.abort();
        // Its end is what was asked for.
        let _ = (&mut { self.accepting }).await;
        (self.identity, self.port)
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(
    request: Request<Incoming>,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    seen: mpsc::UnboundedSender<Seen>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let reply = replies.lock().expect("the replies").pop_front().unwrap_or(Reply::status(204));
    // A test that has ended looks at nothing any more.
    let _ = seen.send(Seen {
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).expect("text"),
    });
    let empty = || http_body_util::Empty::new().boxed_unsync();
    let (status, header, body) = match reply {
        Reply::Status(status, header) => (status, header, empty()),
        Reply::Endless(status, size) => {
            let piece = Bytes::from("x".repeat(size));
            let pieces = futures::stream::repeat_with(move || Ok(Frame::data(piece.clone())));
            (status, None, StreamBody::new(pieces).boxed_unsync())
        }
        Reply::Stalled(status) => (status, None, StreamBody::new(futures::stream::pending()).boxed_unsync()),
        Reply::Silence => return std::future::pending().await,
    };
    let response = Response::builder().status(status);
    let response = header
        .into_iter()
        .fold(response, |response, (name, value)| response.header(name, value));
    Ok(response.body(body).expect("a response"))
}
