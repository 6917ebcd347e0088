//! Tokens: made at the first start, made and revoked, and what their end does to open streams.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use bytes::Bytes;
use dbkeep_client::{Error, TokenDraft, proto::Role};
use dbkeep_server::config::access::{AccessConfig, CallLimits, Loopback};
use futures::StreamExt as _;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use crate::world::{Authority, PATIENCE, SEEN, Way, World, call, open};

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
async fn on_loopback_without_tls_the_same_user_needs_no_token_unless_told_otherwise() {
    for (way, admitted) in [
        (None, true),
        (Some(Loopback::User), true),
        (Some(Loopback::Any), true),
        (Some(Loopback::Token), false),
    ] {
        let world = World::with(Authority::new(), |config| AccessConfig {
            tls: config.tls,
            loopback: Some(way.unwrap_or(Loopback::User)),
            ..AccessConfig::default()
        })
        .await;
        let channel = world.channel().await;
        let answer = call(
            &channel,
            "/dbkeep.v1.AccessService/GetCaller",
            false,
            Bytes::new(),
            &Way::None,
        )
        .await;
        assert_eq!(answer.is_ok(), admitted, "{way:?}: {answer:?}");
        world.stop().await;
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
    let call = format!(
        "POST {path} HTTP/1.1\nHost: localhost\nContent-Type: text/plain\nContent-Length: 5\nConnection: close\n\n\0\0\0\0\0"
    );
    let typed = call.replace("text/plain", "application/grpc");
    for refused in [&call, &typed] {
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
