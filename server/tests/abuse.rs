//! Clients that abuse HTTP/2, frame by frame, against the real binary, in the clear and over TLS: whoever behaves is served meanwhile, and the
//! server's memory stays as it is.

mod support;

use std::{fs, sync::Arc, time::Duration};

use dbkeep_client::{Client, ReconnectPolicy, TokenDraft, proto::Role};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use support::Daemon;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Longest wait for anything; only a failing test takes that long.
const PATIENCE: Duration = Duration::from_secs(60);
/// By how much memory may grow under a second helping of the same abuse, KiB. Allocators keep some of what was freed.
const GROWTH: u64 = 16 << 10;
/// By how much it may grow under the first, KiB.
const MOST: u64 = 96 << 10;

/// How long an abuser waits for the server to read on.
const PATIENT: Duration = Duration::from_secs(2);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A connection, whatever carries it.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The server that is abused, and as whom.
#[derive(Clone)]
struct Place {
    address: String,
    /// `None` for a server without TLS, to which everybody on its machine is known.
    tls: Option<Tls>,
}

#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    authority: String,
    /// Of somebody who does not misbehave; empty for somebody without one.
    healthy: String,
    /// Of the others: whom nobody knows is not answered with a message.
    abuser: String,
}

/// The header block of a call, by the static table of HPACK alone.
fn call(place: &Place, path: &str) -> Vec<u8> {
    let literal = |block: &mut Vec<u8>, text: &str| {
        block.push(u8::try_from(text.len()).expect("a short text"));
        block.extend(text.as_bytes());
    };
    // :method POST, :scheme http or https
    let mut block = vec![0x83, if place.tls.is_none() { 0x86 } else { 0x87 }];
    block.push(0x04);
    literal(&mut block, path);
    block.push(0x01);
    literal(&mut block, "localhost");
    block.extend([0x0f, 0x10]);
    literal(&mut block, "application/grpc");
    block.push(0x00);
    literal(&mut block, "te");
    literal(&mut block, "trailers");
    if let Some(tls) = &place.tls {
        // authorization, never indexed
        block.extend([0x1f, 0x08]);
        literal(&mut block, &format!("Bearer {}", tls.abuser));
    }
    block
}

/// A connection that has said hello, with a window of that many bytes for each answer.
async fn connect(place: &Place, window: u32) -> Box<dyn Duplex> {
    let plain = TcpStream::connect(&place.address).await.expect("a connection");
    let mut stream: Box<dyn Duplex> = match &place.tls {
        None => Box::new(plain),
        Some(tls) => {
            let name = ServerName::try_from("localhost").expect("a name");
            Box::new(tls.connector.connect(name, plain).await.expect("TLS"))
        }
    };
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    // SETTINGS_INITIAL_WINDOW_SIZE
    let mut setting = vec![0, 4];
    setting.extend(window.to_be_bytes());
    stream.write_all(&frame(SETTINGS, 0, 0, &setting)).await.expect("written");
    stream
}

/// Writes until everything is out, or the server has had enough; reads whatever comes, unless told not to.
async fn pour(stream: Box<dyn Duplex>, frames: impl Iterator<Item = Vec<u8>>, reads: bool) {
    let (mut from, mut to) = tokio::io::split(stream);
    let reader = tokio::spawn(async move {
        let mut sink = vec![0; 64 << 10];
        while reads && from.read(&mut sink).await.is_ok_and(|count| count > 0) {}
        from
    });
    let mut frames = frames.peekable();
    while frames.peek().is_some() {
        let buffer: Vec<u8> = frames.by_ref().take(256).flatten().collect();
        // Whoever is not read any more waits; that is as good as refused.
        match timeout(PATIENT, to.write_all(&buffer)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    reader.abort();
}

#[derive(Debug, Clone, Copy)]
enum Abuse {
    /// Calls that are taken back as soon as they are made (CVE-2023-44487).
    RapidReset,
    /// Headers that never end (CVE-2024-27316).
    ContinuationFlood,
    /// Pings, whose answers nobody reads.
    Pings,
    /// Settings, whose acknowledgements nobody reads.
    Settings,
    /// Calls whose answers nobody makes room for.
    SlowRead,
    /// Requests that never end.
    SlowWrite,
    /// Frames of no bytes.
    EmptyData,
    /// Windows that overflow.
    Windows,
}

const ABUSES: [Abuse; 8] = [
    Abuse::RapidReset,
    Abuse::ContinuationFlood,
    Abuse::Pings,
    Abuse::Settings,
    Abuse::SlowRead,
    Abuse::SlowWrite,
    Abuse::EmptyData,
    Abuse::Windows,
];

/// Those that reach through what carries them.
const OVER_TLS: [Abuse; 3] = [Abuse::RapidReset, Abuse::ContinuationFlood, Abuse::SlowRead];

const LIST: &str = "/dbkeep.v1.TargetService/ListTargets";
const EMPTY: [u8; 5] = [0; 5];

async fn abuse(place: &Place, how: Abuse) {
    let odd = |number: u32| number * 2 + 1;
    let list = call(place, LIST);
    match how {
        Abuse::RapidReset => {
            let frames = (0..100_000).flat_map(|number| {
                [
                    frame(HEADERS, END_HEADERS, odd(number), &list),
                    frame(RST_STREAM, 0, odd(number), &8_u32.to_be_bytes()),
                ]
            });
            pour(connect(place, 65_535).await, frames, true).await;
        }
        Abuse::ContinuationFlood => {
            // A header that is never in the table, again and again.
            let filler: Vec<u8> = [0x00, 0x01, b'x', 0x01, b'y'].into_iter().cycle().take(15_000).collect();
            let frames = std::iter::once(frame(HEADERS, 0, 1, &list))
                .chain(std::iter::repeat_with(move || frame(CONTINUATION, 0, 1, &filler)).take(8_000));
            pour(connect(place, 65_535).await, frames, true).await;
        }
        Abuse::Pings => {
            let frames = (0..500_000_u64).map(|number| frame(PING, 0, 0, &number.to_be_bytes()));
            pour(connect(place, 65_535).await, frames, false).await;
        }
        Abuse::Settings => {
            let frames = (0..500_000_u32).map(|number| {
                let mut setting = vec![0, 4];
                setting.extend((number % 65_535).to_be_bytes());
                frame(SETTINGS, 0, 0, &setting)
            });
            pour(connect(place, 65_535).await, frames, false).await;
        }
        Abuse::SlowRead => {
            let frames = (0..5_000).flat_map(|number| {
                [
                    frame(HEADERS, END_HEADERS, odd(number), &list),
                    frame(DATA, END_STREAM, odd(number), &EMPTY),
                ]
            });
            pour(connect(place, 0).await, frames, false).await;
        }
        Abuse::SlowWrite => {
            let frames = (0..5_000).map(|number| frame(HEADERS, END_HEADERS, odd(number), &list));
            pour(connect(place, 65_535).await, frames, true).await;
        }
        Abuse::EmptyData => {
            let frames = std::iter::once(frame(HEADERS, END_HEADERS, 1, &list))
                .chain(std::iter::repeat_with(|| frame(DATA, 0, 1, &[])).take(500_000));
            pour(connect(place, 65_535).await, frames, true).await;
        }
        Abuse::Windows => {
            let frames = (0..100_000).map(|_| frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()));
            pour(connect(place, 65_535).await, frames, true).await;
        }
    }
}

/// Resident memory of a process, KiB.
fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process lives");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("its memory");
    line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
}

/// Four such clients at a time, while another one is served.
async fn round(place: &Place, healthy: &Client, how: Abuse) {
    let abusers: Vec<_> = (0..4)
        .map(|_| {
            let place = place.clone();
            tokio::spawn(async move { abuse(&place, how).await })
        })
        .collect();
    let served = async {
        for _ in 0..50 {
            healthy.targets().list().await.expect("whoever behaves is served");
        }
    };
    timeout(PATIENCE, served)
        .await
        .unwrap_or_else(|_| panic!("{how:?} keeps others from being served"));
    for abuser in abusers {
        timeout(PATIENCE, abuser)
            .await
            .unwrap_or_else(|_| panic!("{how:?} does not end"))
            .expect("no panic");
    }
    // A client that comes anew is served, too.
    let anew = place.client().await;
    timeout(PATIENCE, anew.targets().list())
        .await
        .expect("in time")
        .expect("served");
}

/// Every abuse twice, with a look at the server's memory.
async fn bear(server: &Daemon, place: &Place, abuses: &[Abuse]) {
    let healthy = place.client().await;
    healthy.targets().list().await.expect("served");
    for how in abuses.iter().copied() {
        let before = memory(server.id());
        round(place, &healthy, how).await;
        let first = memory(server.id());
        round(place, &healthy, how).await;
        let second = memory(server.id());
        println!("{how:?}: {before} KiB before, {first} after the first round, {second} after the second");
        assert!(first <= before + MOST, "{how:?}: memory grows from {before} to {first} KiB");
        assert!(second <= first + GROWTH, "{how:?}: memory grows from {first} to {second} KiB");
    }
}

impl Place {
    /// Somebody who behaves.
    async fn client(&self) -> Client {
        let builder = Client::builder().reconnect(ReconnectPolicy::never());
        let builder = match &self.tls {
            None => builder.address(&self.address),
            Some(tls) => {
                let builder = builder
                    .address(format!("https://{}", self.address))
                    .authority(tls.authority.as_str())
                    .server_name("localhost");
                if tls.healthy.is_empty() {
                    builder
                } else {
                    builder.token(&tls.healthy)
                }
            }
        };
        builder.connect().await.expect("a connection")
    }
}

/// Where a server's target and catalog are, in a folder.
fn files(folder: &std::path::Path) -> (String, std::path::PathBuf) {
    let database = folder.join("app.db");
    fs::write(&database, []).expect("a database");
    let catalog = folder.join("catalog.toml");
    fs::write(&catalog, "").expect("a catalog");
    (format!("sqlite://{}", database.display()), catalog)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_abuses_http2_harms_nobody_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let (target, catalog) = files(folder.path());
    let server = Daemon::start(&folder.path().join("data"), &target, &catalog, "");
    let place = Place {
        address: server.address.clone(),
        tls: None,
    };
    bear(&server, &place, &ABUSES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_does_whoever_abuses_it_over_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut params = CertificateParams::new(Vec::new()).expect("names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    fs::write(folder.path().join("server.pem"), certificate.pem()).expect("written");
    fs::write(folder.path().join("server.key"), key.serialize_pem()).expect("written");
    let settings = folder.path().join("dbkeep.toml");
    fs::write(&settings, "[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n").expect("written");
    let (target, catalog) = files(folder.path());
    let data = folder.path().join("data");
    let server = Daemon::start_with_settings(&settings, &data, &target, &catalog, "");

    let mut roots = RootCertStore::empty();
    let pem = authority.pem();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate"))
        .expect("an authority");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut tls = Tls {
        connector: TlsConnector::from(Arc::new(config)),
        authority: pem,
        healthy: String::new(),
        abuser: String::new(),
    };
    let place = |tls: &Tls| Place {
        address: server.address.clone(),
        tls: Some(tls.clone()),
    };
    // It listens before it has begun; also a refusal says that it has, and that the first token is there.
    place(&tls).client().await.targets().list().await.expect_err("a stranger");
    let first = fs::read_to_string(data.join("admin-token")).expect("the first token");
    first.trim().clone_into(&mut tls.healthy);
    let draft = TokenDraft::new("abuser", Role::Viewer);
    let access = place(&tls).client().await.access();
    tls.abuser = access.create_token(draft).await.expect("a token").secret;
    bear(&server, &place(&tls), &OVER_TLS).await;
}
