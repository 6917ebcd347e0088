//! Tokens of an identity provider: signed by its key for this server, or nothing.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use dbkeep_client::proto::{self as v1, Role};
use dbkeep_engine::access::Role as Granted;
use dbkeep_server::config::access::{AccessConfig, KeySource, OidcConfig};
use prost::Message as _;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use crate::world::{Authority, PATIENCE, SEEN, Way, World, call};

/// The provider: one key pair, and tokens as it would make them.
struct Provider {
    key: EcdsaKeyPair,
    id: &'static str,
}

impl Provider {
    fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key");
        Self { key, id }
    }

    fn jwk(&self) -> Value {
        let point = self.key.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id,
            "x": BASE64_URL_SAFE_NO_PAD.encode(&point[1..33]), "y": BASE64_URL_SAFE_NO_PAD.encode(&point[33..65]),
        })
    }

    fn token(&self, claims: &Value) -> String {
        self.signed(&json!({ "alg": "ES256", "typ": "JWT", "kid": self.id }), claims)
    }

    fn signed(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

fn write_keys(file: &Path, providers: &[&Provider]) {
    let keys: Vec<Value> = providers.iter().map(|provider| provider.jwk()).collect();
    std::fs::write(file, json!({ "keys": keys }).to_string()).expect("written");
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let now = jiff::Timestamp::now().as_second();
    let mut claims = json!({
        "iss": "https://id.example", "aud": ["other", "dbkeep"], "sub": "ann@example.com", "iat": now, "exp": now + 600,
        "groups": ["staff", "db-operators"], "dbs": [SEEN],
    });
    change(&mut claims);
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tokens_of_the_provider_for_this_server_open_it() {
    let provider = Provider::new("key-1");
    let other = Provider::new("key-1");
    let later = Provider::new("key-2");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("jwks.json");
    write_keys(&file, &[&provider]);
    let keys = KeySource::File(file.clone());
    let world = World::with(Authority::new(), move |config| AccessConfig {
        oidc: Some(OidcConfig {
            issuer: "https://id.example".to_owned(),
            audience: "dbkeep".to_owned(),
            keys,
            authorities: None,
            principal_claim: "sub".to_owned(),
            role_claim: "groups".to_owned(),
            roles: BTreeMap::from([
                ("db-operators".to_owned(), Granted::Operator),
                ("db-admins".to_owned(), Granted::Admin),
            ]),
            targets_claim: Some("dbs".to_owned()),
        }),
        ..config
    })
    .await;
    let channel = world.channel().await;
    let ask = async |token: String| {
        let answer = call(
            &channel,
            "/dbkeep.v1.AccessService/GetCaller",
            false,
            Bytes::new(),
            &Way::Token(token),
        )
        .await?;
        Ok::<_, tonic::Status>(v1::GetCallerResponse::decode(answer.expect("a message")).expect("a caller"))
    };
    let known = ask(provider.token(&claims(|_| {}))).await.expect("known");
    assert_eq!(
        (known.principal.as_str(), known.role(), known.known_by.as_str()),
        ("ann@example.com", Role::Operator, "oidc")
    );
    assert_eq!(known.targets, [SEEN]);
    assert!(known.expire_time.is_some());
    let text = provider.token(&claims(|_| {}));
    let (head, rest) = text.split_once('.').expect("a header");
    let (_, signature) = rest.split_once('.').expect("a signature");
    let forged = BASE64_URL_SAFE_NO_PAD.encode(claims(|claims| claims["groups"] = json!("db-admins")).to_string());
    let now = jiff::Timestamp::now().as_second();
    let none = BASE64_URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "kid": "key-1" }).to_string());
    // A server that took a public key for a shared secret would take this one.
    let confused = json!({ "alg": "HS256", "kid": "key-1" });
    let refused = [
        ("another key of the same name", other.token(&claims(|_| {}))),
        ("a key that is not known", later.token(&claims(|_| {}))),
        ("changed claims", format!("{head}.{forged}.{signature}")),
        ("no signature", format!("{none}.{forged}.")),
        ("another algorithm", provider.signed(&confused, &claims(|_| {}))),
        ("no key named", provider.signed(&json!({ "alg": "ES256" }), &claims(|_| {}))),
        (
            "another issuer",
            provider.token(&claims(|claims| claims["iss"] = json!("https://id.example.evil"))),
        ),
        (
            "no issuer",
            provider.token(&claims(|claims| {
                drop(claims.as_object_mut().expect("an object").remove("iss"))
            })),
        ),
        (
            "another audience",
            provider.token(&claims(|claims| claims["aud"] = json!("other"))),
        ),
        (
            "no audience",
            provider.token(&claims(|claims| {
                drop(claims.as_object_mut().expect("an object").remove("aud"))
            })),
        ),
        ("over", provider.token(&claims(|claims| claims["exp"] = json!(now - 100)))),
        ("not yet", provider.token(&claims(|claims| claims["nbf"] = json!(now + 100)))),
        (
            "without end",
            provider.token(&claims(|claims| {
                drop(claims.as_object_mut().expect("an object").remove("exp"))
            })),
        ),
        (
            "no role",
            provider.token(&claims(|claims| claims["groups"] = json!(["staff"]))),
        ),
        (
            "a role by its own name",
            provider.token(&claims(|claims| claims["groups"] = json!(["admin"]))),
        ),
        ("no target", provider.token(&claims(|claims| claims["dbs"] = json!([])))),
        ("no principal", provider.token(&claims(|claims| claims["sub"] = json!("a b")))),
    ];
    for (name, token) in refused {
        let status = ask(token).await.expect_err(name);
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{name}: {status:?}");
    }
    // A new key is known once its file has it; the file's time has to differ, as it does for everybody who is not a test.
    write_keys(&file, &[&provider, &later]);
    let time = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    std::fs::File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_modified(time))
        .expect("a time");
    ask(later.token(&claims(|_| {}))).await.expect("known");
    // Tokens of the control store open it as before.
    ask(world.admin()).await.expect("known");
    world.stop().await;
}

/// A server of keys over https; answers every request with what it holds, and counts them.
async fn serve_keys(authority: &Authority, keys: Arc<Mutex<String>>) -> (u16, Arc<AtomicUsize>) {
    let (certificate, key) = authority.server();
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("an identity");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = vec![0; 4_096];
            if stream.read(&mut request).await.is_err() {
                continue;
            }
            count.fetch_add(1, Ordering::SeqCst);
            let body = keys.lock().expect("the lock").clone();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            // Whoever asked may be gone.
            drop(stream.write_all(answer.as_bytes()).await);
            drop(stream.shutdown().await);
        }
    });
    (port, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_over_https_and_are_not_asked_for_by_every_stranger() {
    let provider = Provider::new("key-1");
    let house = Authority::new();
    let keys = Arc::new(Mutex::new(json!({ "keys": [provider.jwk()] }).to_string()));
    let (port, asked) = serve_keys(&house, Arc::clone(&keys)).await;
    let authorities = Some(house.pem().into_bytes());
    let world = World::with(Authority::new(), move |config| AccessConfig {
        oidc: Some(OidcConfig {
            issuer: "https://id.example".to_owned(),
            audience: "dbkeep".to_owned(),
            keys: KeySource::Url(format!("https://localhost:{port}/keys")),
            authorities,
            principal_claim: "sub".to_owned(),
            role_claim: "role".to_owned(),
            roles: BTreeMap::new(),
            targets_claim: None,
        }),
        ..config
    })
    .await;
    let channel = world.channel().await;
    let ask = async |token: String| {
        let way = Way::Token(token);
        let call = call(&channel, "/dbkeep.v1.AccessService/GetCaller", false, Bytes::new(), &way);
        tokio::time::timeout(PATIENCE, call).await.expect("in time").map(drop)
    };
    let viewer = |provider: &Provider| provider.token(&claims(|claims| claims["role"] = json!("viewer")));
    ask(viewer(&provider)).await.expect("known");
    for number in 0..5 {
        let stranger = Provider::new("key-2");
        ask(viewer(&stranger)).await.expect_err("not known");
        ask(viewer(&provider))
            .await
            .unwrap_or_else(|status| panic!("{number}: {status:?}"));
    }
    // Once for the first token; a key that is not known is worth one more question in half a minute.
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    world.stop().await;
}
