//! Tokens: made at the first start, made and revoked, and what their end does to open streams.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use bytes::Bytes;
use dbkeep_client::{Error, TokenDraft, proto::Role};
use dbkeep_server::{
    Config,
    config::access::{AccessConfig, CallLimits, Loopback},
};
use futures::StreamExt as _;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};
use tonic::transport::Channel;

use crate::{
    serving::Serving,
    world::{Authority, PATIENCE, SEEN, Way, World, call, open},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_writes_a_token_that_only_its_user_reads() {
    let world = World::start().await;
    let file = world.folder.path().join("data/admin-token");
    let mode = std::fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let admin = world.client(&world.admin()).await;
    let caller = admin.access().caller().await.expect("an answer");
    assert_eq!(
        (caller.principal.as_str(), caller.role(), caller.known_by.as_str()),
        ("admin", Role::Admin, "token")
    );
    assert!(caller.targets.is_empty() && caller.expire_time.is_none());
    // The secret is nowhere in the store.
    let secret = world.admin();
    let store = std::fs::read(world.folder.path().join("data/control.db")).expect("the store");
    let hidden = &secret.as_bytes()[secret.len() - 64..];
    assert!(!store.windows(64).any(|bytes| bytes == hidden));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_listed_and_revoked() {
    let world = World::start().await;
    let admin = world.client(&world.admin()).await;
    let access = admin.access();
    let made = access
        .create_token(
            TokenDraft::new("nightly", Role::Operator)
                .target(SEEN)
                .lifetime(Duration::from_secs(3_600)),
        )
        .await
        .expect("a token");
    assert!(!format!("{made:?}").contains(&made.secret));
    let caller = world.client(&made.secret).await.access().caller().await.expect("an answer");
    assert_eq!(
        (caller.principal.as_str(), caller.role(), caller.targets.as_slice()),
        ("nightly", Role::Operator, [SEEN.to_owned()].as_slice())
    );
    assert!(caller.expire_time.is_some());
    let again = access.create_token(TokenDraft::new("nightly", Role::Viewer)).await;
    assert!(
        matches!(&again, Err(Error::TokenExists { name, .. }) if name == "nightly"),
        "{again:?}"
    );
    for (draft, field) in [
        (TokenDraft::new("a b", Role::Viewer), "name"),
        (TokenDraft::new("", Role::Viewer), "name"),
        (TokenDraft::new("x", Role::Unspecified), "role"),
        (TokenDraft::new("x", Role::Viewer).lifetime(Duration::ZERO), "lifetime"),
        (
            TokenDraft::new("x", Role::Viewer).lifetime(Duration::from_secs(400_000_000)),
            "lifetime",
        ),
    ] {
        let error = access.create_token(draft).await.expect_err(field);
        assert!(
            matches!(&error, Error::InvalidField { violations, .. } if violations[0].field == field),
            "{field}: {error:?}"
        );
    }
    let unknown = access
        .create_token(TokenDraft::new("x", Role::Viewer).target("nowhere"))
        .await;
    assert!(matches!(unknown, Err(Error::UnknownTarget { .. })), "{unknown:?}");
    let revoked = access.revoke_token("nightly").await.expect("revoked");
    assert_eq!(revoked.id, made.token.id);
    // By its id once more, which changes nothing; by its name there is none any more.
    let again = access.revoke_token(made.token.id.as_str()).await.expect("revoked");
    assert_eq!(again.revoke_time, revoked.revoke_time);
    assert!(matches!(
        access.revoke_token("nightly").await,
        Err(Error::UnknownToken { .. })
    ));
    let names: Vec<String> = access
        .tokens()
        .await
        .expect("tokens")
        .into_iter()
        .map(|token| token.name)
        .collect();
    assert_eq!(names, ["nightly", "admin"]);
    // The name is free again.
    access
        .create_token(TokenDraft::new("nightly", Role::Viewer))
        .await
        .expect("a token");
    world.stop().await;
}

/// Opens a stream that would never end by itself, and waits until it does.
async fn ended(world: &World, token: &str, act: impl AsyncFnOnce()) -> (Error, Duration) {
    let way = Way::Token(token.to_owned());
    let channel = world.channel().await;
    let mut alerts = open(&channel, "/dbkeep.v1.MonitoringService/WatchAlerts", Bytes::new(), &way)
        .await
        .expect("the stream begins");
    let begun = Instant::now();
    act().await;
    let last = timeout(PATIENCE, alerts.next()).await.expect("in time").expect("an item");
    (Error::from(last.expect_err("the stream must end")), begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_its_open_streams() {
    let world = World::start().await;
    let token = world.token("watcher", Role::Viewer, None).await;
    let admin = world.client(&world.admin()).await;
    let (error, after) = ended(&world, &token, async || {
        admin.access().revoke_token("watcher").await.expect("revoked");
    })
    .await;
    assert!(matches!(error, Error::Unauthenticated { .. }), "{error:?}");
    assert!(after < Duration::from_secs(5), "{after:?}");
    world.stop().await;
}

/// As another server does it: past this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_another_server_revokes_ends_its_open_streams_too() {
    let world = World::start().await;
    let token = world.token("watcher", Role::Viewer, None).await;
    let (error, after) = ended(&world, &token, async || {
        let store = world.store().await;
        store
            .execute("UPDATE tokens SET revoked_at_ms = 1 WHERE name = 'watcher'")
            .await
            .expect("revoked");
        store.close().await;
    })
    .await;
    assert!(matches!(error, Error::Unauthenticated { .. }), "{error:?}");
    assert!(after < Duration::from_secs(5), "{after:?}");
    world.stop().await;
}

/// While the store does not say, a token may have been revoked by another server.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loses_its_store_holds_no_stream_open_by_a_token() {
    let world = World::start().await;
    let token = world.token("watcher", Role::Viewer, None).await;
    let store = world.store().await;
    let (error, after) = ended(&world, &token, async || {
        store.execute("ALTER TABLE tokens RENAME TO away").await.expect("taken away");
    })
    .await;
    assert!(matches!(error, Error::Unauthenticated { .. }), "{error:?}");
    assert!(after < Duration::from_secs(20), "{after:?}");
    // Once it is back, so is everybody: streams that begin then go on.
    store
        .execute("ALTER TABLE away RENAME TO tokens")
        .await
        .expect("brought back");
    let admin = world.admin();
    let until = Instant::now() + PATIENCE;
    while let Err(error) = world.client(&admin).await.access().caller().await {
        assert!(Instant::now() < until, "{error:?}");
    }
    let channel = world.channel().await;
    let way = Way::Token(token);
    let mut alerts = open(&channel, "/dbkeep.v1.MonitoringService/WatchAlerts", Bytes::new(), &way)
        .await
        .expect("the stream begins");
    // Longer than it takes to look for revocations once more.
    let early = timeout(Duration::from_secs(3), alerts.next()).await;
    assert!(early.is_err(), "the stream has ended: {early:?}");
    let client = world.client(&admin).await;
    client.access().revoke_token("watcher").await.expect("revoked");
    let last = timeout(PATIENCE, alerts.next()).await.expect("in time").expect("an item");
    let error = Error::from(last.expect_err("the stream must end"));
    assert!(matches!(error, Error::Unauthenticated { .. }), "{error:?}");
    store.close().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_time_is_over_ends_its_open_streams() {
    let world = World::start().await;
    let admin = world.client(&world.admin()).await;
    let draft = TokenDraft::new("brief", Role::Viewer).lifetime(Duration::from_secs(3));
    let token = admin.access().create_token(draft).await.expect("a token").secret;
    let (error, _) = ended(&world, &token, async || {}).await;
    assert!(matches!(error, Error::Unauthenticated { .. }), "{error:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_calls_too_often_is_told_when_to_come_back() {
    let world = World::with(Authority::new(), |config| AccessConfig {
        calls: CallLimits {
            per_second: 1,
            burst: 3,
            open: 2,
            ..CallLimits::default()
        },
        ..config
    })
    .await;
    // Making it is another principal's call.
    let token = world.token("busy", Role::Viewer, None).await;
    let channel = world.channel().await;
    let way = Way::Token(token);
    let mut refused = None;
    for _ in 0..20 {
        let answer = call(&channel, "/dbkeep.v1.AccessService/GetCaller", false, Bytes::new(), &way).await;
        if let Err(status) = answer {
            refused = Some(status);
            break;
        }
    }
    let error = Error::from(refused.expect("a call that is one too many"));
    assert!(
        matches!(&error, Error::TooManyCalls { retry_after: Some(after), .. } if *after <= Duration::from_secs(1)),
        "{error:?}"
    );
    // Others are served.
    world.client(&world.admin()).await.access().caller().await.expect("an answer");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_of_one_address_are_not_looked_at_without_end() {
    let world = World::with(Authority::new(), |config| AccessConfig {
        calls: CallLimits {
            strangers: 1,
            ..CallLimits::default()
        },
        ..config
    })
    .await;
    let channel = world.channel().await;
    let mut codes = Vec::new();
    for _ in 0..30 {
        let way = Way::Token("dbk_nonsense".to_owned());
        let answer = call(&channel, "/dbkeep.v1.AccessService/GetCaller", false, Bytes::new(), &way).await;
        codes.push(answer.expect_err("it opens nothing").code());
    }
    // Ten at once, and one a second.
    assert!(
        codes[..10].iter().all(|code| *code == tonic::Code::Unauthenticated),
        "{codes:?}"
    );
    assert!(codes.contains(&tonic::Code::ResourceExhausted), "{codes:?}");
    // Whoever is known is served.
    world.client(&world.admin()).await.access().caller().await.expect("an answer");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_for_everybody_and_not_without_end() {
    const MOST: usize = 64;
    let world = World::start().await;
    let (channel, method) = (world.channel().await, "/grpc.health.v1.Health/Watch");
    let mut watches = Vec::new();
    for _ in 0..MOST {
        watches.push(open(&channel, method, Bytes::new(), &Way::None).await.expect("a watch"));
    }
    // From another connection of the same address, too.
    let refused = open(&world.channel().await, method, Bytes::new(), &Way::None).await;
    let error = Error::from(refused.expect_err("one too many"));
    assert!(
        matches!(
            &error,
            Error::TooManyCalls {
                retry_after: Some(_),
                ..
            }
        ),
        "{error:?}"
    );
    drop(watches);
    let until = Instant::now() + PATIENCE;
    while let Err(status) = open(&channel, method, Bytes::new(), &Way::None).await {
        assert!(Instant::now() < until, "{status:?}");
    }
    world.stop().await;
}

/// A server without TLS, as it is where nothing is set but this.
struct Plain {
    address: std::net::SocketAddr,
    folder: tempfile::TempDir,
    serving: Serving,
}

impl Plain {
    async fn start(loopback: Option<Loopback>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::embedded(folder.path().join("data"));
        config.access.loopback = loopback;
        let serving = Serving::start(config).await;
        let plain = Self {
            address: serving.address,
            folder,
            serving,
        };
        let health = call(
            &plain.channel().await,
            "/grpc.health.v1.Health/Check",
            false,
            Bytes::new(),
            &Way::None,
        )
        .await;
        health.expect("the server serves");
        plain
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address)).expect("a URI");
        endpoint.connect().await.expect("a connection")
    }

    /// What a process of a user gets as metrics; of this one where none is said.
    async fn metrics_for(&self, user: Option<u32>) -> String {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{} && printf 'GET /metrics HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && cat <&3",
            self.address.port()
        );
        let mut command = tokio::process::Command::new("bash");
        command.args(["-c", &script]).current_dir("/");
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let output = timeout(PATIENCE, command.output()).await.expect("in time").expect("bash");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    async fn stop(self) {
        self.serving.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_without_tls_the_same_user_needs_no_token_unless_told_otherwise() {
    for (way, admitted) in [
        (None, true),
        (Some(Loopback::User), true),
        (Some(Loopback::Any), true),
        (Some(Loopback::Token), false),
    ] {
        let plain = Plain::start(way).await;
        let caller = "/dbkeep.v1.AccessService/GetCaller";
        let channel = plain.channel().await;
        let answer = call(&channel, caller, false, Bytes::new(), &Way::None).await;
        assert_eq!(answer.is_ok(), admitted, "{way:?}: {answer:?}");
        // A token does in any case.
        let token = std::fs::read_to_string(plain.folder.path().join("data/admin-token")).expect("the first token");
        let token = Way::Token(token.trim().to_owned());
        call(&channel, caller, false, Bytes::new(), &token).await.expect("known");
        plain.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_another_user_needs_a_token_unless_told_otherwise() {
    const NOBODY: u32 = 65_534;
    // Only root can be somebody else.
    let is_root = rustix::process::geteuid().is_root();
    for (way, other) in [
        (None, 401),
        (Some(Loopback::User), 401),
        (Some(Loopback::Any), 200),
        (Some(Loopback::Token), 401),
    ] {
        let plain = Plain::start(way).await;
        let own = if way == Some(Loopback::Token) { 401 } else { 200 };
        let answer = plain.metrics_for(None).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {own} ")), "{way:?}: {answer}");
        if is_root {
            let answer = plain.metrics_for(Some(NOBODY)).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {other} ")), "{way:?}: {answer}");
        }
        plain.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_revokes_his_own_token_is_told_that_it_worked() {
    let world = World::start().await;
    let admin = world.client(&world.admin()).await;
    let revoked = admin.access().revoke_token("admin").await.expect("it worked");
    assert!(revoked.revoke_time.is_some());
    let after = admin.access().caller().await;
    assert!(matches!(after, Err(Error::Unauthenticated { .. })), "{after:?}");
    world.stop().await;
}

/// Sends a request of HTTP/1.1 over TLS and returns the answer as it is.
async fn plain_http(world: &World, request: &str) -> String {
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(world.authority.pem().as_bytes()).expect("a certificate");
    roots.add(authority).expect("an authority");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = tokio::net::TcpStream::connect(world.address).await.expect("a connection");
    let name = "localhost".try_into().expect("a name");
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect(name, tcp).await.expect("a connection");
    let request = request.replace('\n', "\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    // A server that closes without a goodbye has answered all the same.
    drop(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time"));
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_for_callers_who_see_all_targets() {
    let world = World::start().await;
    let scoped = world.token("scoped", Role::Admin, Some(SEEN)).await;
    let viewer = world.token("viewer", Role::Viewer, None).await;
    for (token, status) in [
        (None, 401),
        (Some("dbk_nonsense".to_owned()), 401),
        (Some(scoped), 403),
        (Some(viewer), 200),
    ] {
        let header = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\n"));
        let request = format!("GET /metrics HTTP/1.1\nHost: localhost\n{header}Connection: close\n\n");
        let answer = plain_http(&world, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{header}: {answer}");
    }
    world.stop().await;
}

/// What a page in a browser of the server's own user can send to a server on loopback without asking it first.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_a_browser_calls_nothing() {
    let world = World::with(Authority::new(), |config| AccessConfig {
        tls: config.tls,
        loopback: Some(Loopback::User),
        ..AccessConfig::default()
    })
    .await;
    let ask = async |request: &str| plain_http(&world, request).await;
    let path = "/dbkeep.v1.ScheduleService/StopScheduler";
    let posted = format!(
        "POST {path} HTTP/1.1\nHost: localhost\nContent-Type: text/plain\nContent-Length: 5\nConnection: close\n\n\0\0\0\0\0"
    );
    let typed = posted.replace("text/plain", "application/grpc");
    for refused in [&posted, &typed] {
        let answer = ask(refused).await;
        assert!(answer.contains("grpc-status: 3"), "{answer}");
    }
    let metrics = "GET /metrics HTTP/1.1\nHost: localhost\nConnection: close\n\n";
    let answer = ask(metrics).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for header in [
        "Origin: https://evil.example",
        "Sec-Fetch-Site: cross-site",
        "X-Forwarded-For: 10.0.0.7",
    ] {
        let answer = ask(&metrics.replace("Host: localhost", &format!("Host: localhost\n{header}"))).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{header}: {answer}");
    }
    // A page whose name leads to this machine by now has no other origin, and sends no such header.
    for (host, status) in [
        ("evil.example", 401),
        ("evil.example:50777", 401),
        ("127.0.0.1.evil.example", 401),
        ("127.0.0.1:50777", 200),
        ("[::1]:50777", 200),
    ] {
        let answer = ask(&metrics.replace("Host: localhost", &format!("Host: {host}"))).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host}: {answer}");
    }
    for (host, admitted) in [("evil.example", false), ("localhost", true)] {
        let channel = world.naming(host).await;
        let answer = call(
            &channel,
            "/dbkeep.v1.AccessService/GetCaller",
            false,
            Bytes::new(),
            &Way::None,
        )
        .await;
        assert_eq!(answer.as_ref().is_ok(), admitted, "{host}: {answer:?}");
        if let Err(refused) = answer {
            assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        }
        // With a token the name does not matter: a browser has none.
        let way = Way::Token(world.admin());
        call(&channel, "/dbkeep.v1.AccessService/GetCaller", false, Bytes::new(), &way)
            .await
            .expect(host);
    }
    let status = world
        .client(&world.admin())
        .await
        .schedules()
        .scheduler_status()
        .await
        .expect("the scheduler");
    assert!(status.running, "{status:?}");
    world.stop().await;
}
