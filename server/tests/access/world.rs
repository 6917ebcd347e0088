//! A server behind TLS with two targets, tokens of every kind, and calls of any method by any means.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bytes::{Buf as _, BufMut as _, Bytes};
use dbkeep_client::{Client, TokenDraft, proto::Role};
use dbkeep_engine::access::{Secret, TokenId};
use dbkeep_server::{
    Config,
    config::access::{AccessConfig, TlsConfig},
};
use dbkeep_testkit::Db;
use futures::StreamExt as _;
use http::uri::PathAndQuery;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use tokio::time::timeout;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

use crate::serving::{Serving, catalog};

/// Longest wait for anything; only a failing test takes that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The target that scoped callers are not for. Nothing that they see may hold its name.
pub(crate) const HIDDEN: &str = "zebra";
/// The target that they are for.
pub(crate) const SEEN: &str = "main";

const CATALOG: &str = r#"
[[operation]]
name = "expired_NAME"
category = "EXPIRED_DATA"
severity = "LOW"
backup = true
[[operation.rule]]
name = "tokens"
kind = "expired"
table = "tokens"
column = "expires_at"
expiry = true
encoding = "unix_seconds"

[[operation]]
name = "grave_NAME"
category = "EXPIRED_DATA"
severity = "CRITICAL"
backup = true
[[operation.rule]]
name = "tokens"
kind = "expired"
table = "tokens"
column = "expires_at"
expiry = true
encoding = "unix_seconds"
"#;

/// A signer of certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key of a server on loopback.
    pub(crate) fn server(&self) -> (String, String) {
        let params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("names");
        self.sign(params)
    }

    /// Certificate and key of a client with that name.
    pub(crate) fn client(&self, uri: &str) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI"))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

/// A running server.
pub(crate) struct World {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) authority: Authority,
    serving: Serving,
}

/// Where certificate and key of the server are.
pub(crate) fn tls_files(folder: &std::path::Path) -> (PathBuf, PathBuf) {
    (folder.join("server.pem"), folder.join("server.key"))
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(Authority::new(), |config| config).await
    }

    /// A server that works on what it accepts.
    pub(crate) async fn working() -> Self {
        Self::built(Authority::new(), 1, |config| config).await
    }

    /// A server that accepts runs and works on none: effects can be told from the passing of time.
    pub(crate) async fn with(authority: Authority, change: impl FnOnce(AccessConfig) -> AccessConfig) -> Self {
        Self::built(authority, 0, change).await
    }

    async fn built(authority: Authority, runs: usize, change: impl FnOnce(AccessConfig) -> AccessConfig) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (certificate, key) = tls_files(folder.path());
        let (certificate_pem, key_pem) = authority.server();
        std::fs::write(&certificate, certificate_pem).expect("written");
        std::fs::write(&key, key_pem).expect("written");
        let mut config = Config::embedded(folder.path().join("data"));
        for name in [HIDDEN, SEEN] {
            let url = format!("sqlite://{}", folder.path().join(format!("{name}.db")).display());
            let db = Db::open(&format!("{url}?mode=rwc")).await.expect("a database");
            for sql in [
                "CREATE TABLE tokens (id INTEGER PRIMARY KEY, expires_at INTEGER)",
                "INSERT INTO tokens VALUES (1, 1000), (2, 9000000000)",
            ] {
                db.execute(sql).await.expect(sql);
            }
            db.close().await;
            config = config.with_target(name, url.as_str(), catalog(&CATALOG.replace("NAME", name)));
        }
        config.engine.concurrent_runs = runs;
        config.engine.monitor.enabled = false;
        config.access = change(AccessConfig {
            tls: Some(TlsConfig {
                certificate,
                key,
                client_ca: None,
                client_required: false,
            }),
            ..AccessConfig::default()
        });
        let serving = Serving::start(config).await;
        let world = Self {
            address: serving.address,
            folder,
            authority,
            serving,
        };
        // The listener's queue holds the connection until the server serves, or breaks it where it does not start.
        let channel = timeout(PATIENCE, world.channel()).await.expect("in time");
        call(&channel, "/grpc.health.v1.Health/Check", false, Bytes::new(), &Way::None)
            .await
            .expect("the server serves");
        world
    }

    /// A connection that trusts this authority, with a certificate of its own or without.
    pub(crate) async fn connect(
        &self,
        authority: &str,
        identity: Option<(String, String)>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(authority))
            .domain_name("localhost");
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        Channel::from_shared(format!("https://{}", self.address))
            .expect("a URI")
            .tls_config(tls)?
            .connect()
            .await
    }

    /// A connection over which the server is called by another name than that of its certificate.
    pub(crate) async fn naming(&self, host: &str) -> Channel {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.authority.pem()))
            .domain_name("localhost");
        Channel::from_shared(format!("https://{}", self.address))
            .expect("a URI")
            .origin(format!("https://{host}").parse().expect("an origin"))
            .tls_config(tls)
            .expect("TLS")
            .connect()
            .await
            .expect("a connection")
    }

    pub(crate) async fn channel(&self) -> Channel {
        self.connect(&self.authority.pem(), None).await.expect("a connection")
    }

    /// The token that was made at the first start.
    pub(crate) fn admin(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("data/admin-token")).expect("the first token");
        text.trim().to_owned()
    }

    pub(crate) async fn client(&self, token: &str) -> Client {
        Client::builder()
            .address(format!("https://{}", self.address))
            .authority(self.authority.pem())
            .server_name("localhost")
            .token(token)
            .connect()
            .await
            .expect("a connection")
    }

    /// A new token.
    pub(crate) async fn token(&self, name: &str, role: Role, target: Option<&str>) -> String {
        let draft = TokenDraft::new(name, role);
        let draft = target.into_iter().fold(draft, TokenDraft::target);
        let admin = self.client(&self.admin()).await;
        admin.access().create_token(draft).await.expect("a token").secret
    }

    /// The control store, past the server.
    pub(crate) async fn store(&self) -> Db {
        let file = self.folder.path().join("data/control.db");
        Db::open(&format!("sqlite://{}", file.display()))
            .await
            .expect("the control store")
    }

    /// A token whose time was over before it was made.
    pub(crate) async fn expired(&self) -> String {
        let secret = Secret::of(TokenId(uuid::Uuid::now_v7()), [7; 32]);
        let store = self.store().await;
        let sql = format!(
            "INSERT INTO tokens (id, name, sha256, role, targets, created_by, created_at_ms, expires_at_ms, revoked_at_ms) \
             VALUES ('{}', 'late', '{}', 'admin', NULL, 'test', 1, 2, NULL)",
            secret.id(),
            secret.hash()
        );
        store.execute(&sql).await.expect("a row");
        store.close().await;
        secret.reveal()
    }

    pub(crate) async fn stop(self) {
        self.serving.stop().await;
    }
}

/// What a caller shows.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    None,
    /// The header as it is.
    Header(String),
    Token(String),
}

/// Calls a method with the bytes of a message; the message of the answer, or none of a stream: that it began is known by its headers.
pub(crate) async fn call(
    channel: &Channel,
    method: &str,
    streams: bool,
    message: Bytes,
    way: &Way,
) -> Result<Option<Bytes>, Status> {
    let mut stream = open(channel, method, message, way).await?;
    if streams {
        return Ok(None);
    }
    stream.next().await.transpose()
}

/// Calls a method and returns once its answer has begun.
pub(crate) async fn open(channel: &Channel, method: &str, message: Bytes, way: &Way) -> Result<Streaming<Bytes>, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(futures::stream::iter([message]));
    let header = match way {
        Way::None => None,
        Way::Header(text) => Some(text.clone()),
        Way::Token(token) => Some(format!("Bearer {token}")),
    };
    if let Some(header) = header {
        request
            .metadata_mut()
            .insert("authorization", header.parse().expect("a header"));
    }
    let path = PathAndQuery::try_from(method).expect("a path");
    let answer = timeout(PATIENCE, grpc.streaming(request, path, Raw))
        .await
        .expect("in time")?;
    Ok(answer.into_inner())
}

/// Bytes as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

/// Everything that a call could change, apart from what changes by itself: rows of the control store and of both targets.
pub(crate) async fn state(world: &World) -> BTreeMap<String, Vec<String>> {
    let mut state = BTreeMap::new();
    let store = world.store().await;
    let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    for table in texts(&store, tables).await {
        // Servers say that they live; the audit log tells of what was refused.
        if table == "servers" || table.starts_with("audit") {
            continue;
        }
        let columns = format!("SELECT 'quote(\"' || name || '\")' FROM pragma_table_info('{table}')");
        let columns = texts(&store, &columns).await.join(" || ',' || ");
        let rows = texts(&store, &format!("SELECT {columns} FROM {table} ORDER BY 1")).await;
        state.insert(table, rows);
    }
    store.close().await;
    for name in [HIDDEN, SEEN] {
        let url = format!("sqlite://{}", world.folder.path().join(format!("{name}.db")).display());
        let db = Db::open(&url).await.expect("a database");
        let rows = texts(&db, "SELECT id || ',' || expires_at FROM tokens ORDER BY id").await;
        state.insert(format!("{name}.tokens"), rows);
        db.close().await;
    }
    state
}

async fn texts(db: &Db, sql: &str) -> Vec<String> {
    let rows = db.fetch_text(sql).await.expect(sql);
    rows.into_iter().flatten().map(Option::unwrap_or_default).collect()
}
