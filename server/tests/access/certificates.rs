//! Certificates: principals of clients' own, those that nobody knows, and a server whose certificate is renewed while it runs.

use bytes::Bytes;
use dbkeep_client::proto::{self as v1, Role};
use dbkeep_engine::access::{Role as Granted, Scope};
use dbkeep_server::config::access::{AccessConfig, CertificateRule, TlsConfig};
use prost::Message as _;
use tonic::{Code, transport::Channel};

use crate::world::{Authority, SEEN, Way, World, call, tls_files};

const NAME: &str = "spiffe://house/backup";

async fn with_clients(required: bool) -> World {
    let authority = Authority::new();
    let pem = authority.pem();
    World::with(authority, move |config| {
        let tls = config.tls.expect("TLS");
        let file = tls.certificate.with_file_name("clients.pem");
        std::fs::write(&file, pem).expect("written");
        AccessConfig {
            tls: Some(TlsConfig {
                client_ca: Some(file),
                client_required: required,
                ..tls
            }),
            certificates: vec![CertificateRule {
                san: NAME.to_owned(),
                principal: "backup".to_owned(),
                role: Granted::Operator,
                scope: Scope::Targets([SEEN.to_owned()].into()),
            }],
            ..AccessConfig::default()
        }
    })
    .await
}

async fn caller(channel: &Channel, way: &Way) -> Result<v1::GetCallerResponse, tonic::Status> {
    let answer = call(channel, "/dbkeep.v1.AccessService/GetCaller", false, Bytes::new(), way).await?;
    Ok(v1::GetCallerResponse::decode(answer.expect("a message")).expect("a caller"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_makes_a_principal_by_its_name() {
    let world = with_clients(false).await;
    let identity = world.authority.client(NAME);
    let channel = world
        .connect(&world.authority.pem(), Some(identity))
        .await
        .expect("a connection");
    let known = caller(&channel, &Way::None).await.expect("known");
    assert_eq!(
        (known.principal.as_str(), known.role(), known.known_by.as_str()),
        ("backup", Role::Operator, "certificate")
    );
    assert_eq!(known.targets, [SEEN]);
    // A token says more than the connection that it came over.
    let by_token = caller(&channel, &Way::Token(world.admin())).await.expect("known");
    assert_eq!((by_token.principal.as_str(), by_token.known_by.as_str()), ("admin", "token"));
    // A token that opens nothing is not made good by a certificate.
    let refused = caller(&channel, &Way::Token("dbk_nonsense".to_owned()))
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Signed by the authority, and nobody's.
    let stranger = world.authority.client("spiffe://house/backup2");
    let channel = world
        .connect(&world.authority.pem(), Some(stranger))
        .await
        .expect("a connection");
    let refused = caller(&channel, &Way::None).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unauthenticated);
    // Without one a token does.
    let channel = world.channel().await;
    assert!(caller(&channel, &Way::None).await.is_err());
    assert!(caller(&channel, &Way::Token(world.admin())).await.is_ok());
    world.stop().await;
}

/// Whether a connection is of use: with TLS 1.3 a client learns of the refusal of its certificate after the handshake.
async fn is_of_use(world: &World, identity: Option<(String, String)>) -> bool {
    match world.connect(&world.authority.pem(), identity).await {
        Ok(channel) => caller(&channel, &Way::Token(world.admin())).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_gets_no_connection() {
    let world = with_clients(false).await;
    assert!(!is_of_use(&world, Some(Authority::new().client(NAME))).await);
    assert!(is_of_use(&world, None).await);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_needs_no_restart() {
    let world = World::start().await;
    let open = world.channel().await;
    let way = Way::Token(world.admin());
    caller(&open, &way).await.expect("known");
    let (certificate, key) = tls_files(world.folder.path());
    let before = std::fs::read(&certificate).expect("the file");
    let renewed = Authority::new();
    let (certificate_pem, key_pem) = renewed.server();
    // What cannot be used changes nothing: a certificate without its key yet.
    std::fs::write(&certificate, &certificate_pem).expect("written");
    let until = tokio::time::Instant::now() + crate::world::PATIENCE;
    let old = world.authority.pem();
    world.connect(&old, None).await.expect("the certificate from before stays");
    std::fs::write(&key, &key_pem).expect("written");
    // Files are looked at once a second at the most, when somebody connects.
    let channel = loop {
        match world.connect(&renewed.pem(), None).await {
            Ok(channel) => break channel,
            Err(error) => assert!(tokio::time::Instant::now() < until, "{error}"),
        }
    };
    assert_eq!(caller(&channel, &way).await.expect("known").principal, "admin");
    assert!(world.connect(&old, None).await.is_err());
    // Whoever is connected stays so.
    caller(&open, &way).await.expect("known");
    assert_ne!(before, std::fs::read(&certificate).expect("the file"));
    world.stop().await;
}
