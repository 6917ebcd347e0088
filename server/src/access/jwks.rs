//! The keys of an identity provider: a JSON Web Key Set from a file, which is read anew when it changes, or over https.
//!
//! Over https keys are asked for at the first token, then every [`Times::kept`], and earlier for a key that is not known, at most once in
//! [`Times::pause`]. One request is under way at a time, in a task of its own, and nobody stands behind a lock for it:
//!
//! ```text
//! key is known, keys are new              -> at once
//! key is known, keys are old              -> waits for the request, until `soon` after its begin; then by the keys from before
//! the same, and the last request failed   -> at once, by the keys from before
//! key is not known                        -> waits for the request, until `patience` after its begin
//! ```
//!
//! Where keys cannot be read, those from before stay. Called by `oidc`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    config::access::{KeySource, OidcConfig},
    notify,
};

/// Longest set of keys, bytes.
const MAX_KEYS: usize = 1 << 20;

/// How long things take over https.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// How long keys are kept.
    kept: Duration,
    /// Least time between two requests.
    pause: Duration,
    /// Longest time of a request, and longest wait of whoever needs a key that is not known.
    patience: Duration,
    /// Longest wait, from the begin of a request on, of whoever has a key that is known.
    soon: Duration,
}

const TIMES: Times = Times {
    kept: Duration::from_secs(600),
    pause: Duration::from_secs(30),
    patience: Duration::from_secs(5),
    soon: Duration::from_secs(1),
};

/// The keys.
pub(super) enum Jwks {
    /// Of a file.
    File(Mutex<File>),
    /// Over https.
    Remote(Arc<Remote>),
}

impl Jwks {
    /// # Errors
    /// Where the file cannot be used, or the authorities of the address.
    pub(super) fn open(config: &OidcConfig) -> Result<Self, String> {
        match &config.keys {
            KeySource::File(path) => Ok(Self::File(Mutex::new(File::open(path)?))),
            KeySource::Url(url) => {
                let remote = Remote::open(url, config.authorities.as_deref(), TIMES)?;
                Ok(Self::Remote(Arc::new(remote)))
            }
        }
    }

    /// The key of that id.
    ///
    /// # Errors
    /// Where it is not known.
    pub(super) async fn key(&self, id: &str) -> Result<Jwk, String> {
        let key = match self {
            Self::File(file) => file.lock().unwrap_or_else(PoisonError::into_inner).key(id),
            Self::Remote(remote) => remote.key(id).await,
        };
        key.ok_or_else(|| format!("key {id} is not known"))
    }
}

/// A file of keys.
pub(super) struct File {
    path: PathBuf,
    modified: SystemTime,
    set: JwkSet,
}

impl File {
    fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("jwks: {}: {error}", path.display());
        let modified = modified(path).map_err(failed)?;
        let text = fs::read_to_string(path).map_err(failed)?;
        let set = serde_json::from_str(&text).map_err(|error| format!("jwks: {} is no set of keys ({error})", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            modified,
            set,
        })
    }

    fn key(&mut self, id: &str) -> Option<Jwk> {
        if modified(&self.path).ok() != Some(self.modified) {
            match Self::open(&self.path) {
                Ok(file) => *self = file,
                Err(problem) => tracing::error!(problem, "the identity provider's keys cannot be read; those from before stay"),
            }
        }
        self.set.find(id).cloned()
    }
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    fs::metadata(path).and_then(|facts| facts.modified())
}

/// A request that is under way.
struct Flight {
    begun: Instant,
    /// Cancelled at its end, whatever came of it.
    landed: CancellationToken,
}

#[derive(Default)]
struct Keys {
    set: Option<JwkSet>,
    read_at: Option<Instant>,
    tried_at: Option<Instant>,
    /// Whether the last request that has ended brought nothing.
    failed: bool,
    flight: Option<Flight>,
}

impl Keys {
    fn find(&self, id: &str) -> Option<Jwk> {
        self.set.as_ref()?.find(id).cloned()
    }
}

/// Keys over https.
pub(super) struct Remote {
    url: String,
    client: reqwest::Client,
    times: Times,
    /// Held for no longer than a look takes.
    keys: Mutex<Keys>,
}

impl Remote {
    fn open(url: &str, authorities: Option<&[u8]>, times: Times) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(notify::tls(authorities)?)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(times.patience)
            .build()
            .map_err(|error| format!("jwks: {error}"))?;
        Ok(Self {
            url: url.to_owned(),
            client,
            times,
            keys: Mutex::default(),
        })
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn key(self: &Arc<Self>, id: &str) -> Option<Jwk> {
        let (known, worth) = self.look(id);
        let Some((landed, until)) = worth else { return known };
        match timeout_at(until, landed.cancelled()).await {
            Ok(()) => self.keys().find(id),
            Err(_) => known,
        }
    }

    /// A key, and the end of the request that it is worth waiting for, with the instant until which it is. Begins a request where one is due.
    fn look(self: &Arc<Self>, id: &str) -> (Option<Jwk>, Option<(CancellationToken, Instant)>) {
        let mut keys = self.keys();
        let known = keys.find(id);
        let is_new = keys.read_at.is_some_and(|at| at.elapsed() <= self.times.kept);
        if is_new && known.is_some() {
            return (known, None);
        }
        // A request whose task has panicked has landed, too.
        if keys.flight.as_ref().is_some_and(|flight| flight.landed.is_cancelled()) {
            keys.flight = None;
        }
        if keys.flight.is_none() && keys.tried_at.is_none_or(|at| at.elapsed() > self.times.pause) {
            self.begin(&mut keys);
        }
        let worth = keys.flight.as_ref().and_then(|flight| {
            let wait = match known {
                None => self.times.patience,
                Some(_) if keys.failed => return None,
                Some(_) => self.times.soon,
            };
            Some((flight.landed.clone(), flight.begun + wait))
        });
        (known, worth)
    }

    fn begin(self: &Arc<Self>, keys: &mut Keys) {
        let (begun, landed) = (Instant::now(), CancellationToken::new());
        keys.tried_at = Some(begun);
        keys.flight = Some(Flight {
            begun,
            landed: landed.clone(),
        });
        let remote = Arc::clone(self);
        tokio::spawn(async move {
            // Dropped after what was read is there.
            let _landed = landed.drop_guard();
            let read = remote.fetch().await;
            let mut keys = remote.keys();
            keys.flight = None;
            keys.failed = read.is_err();
            match read {
                Ok(set) => {
                    keys.set = Some(set);
                    keys.read_at = Some(begun);
                }
                Err(problem) => tracing::error!(problem, "the identity provider's keys cannot be read; those from before stay"),
            }
        });
    }

    async fn fetch(&self) -> Result<JwkSet, String> {
        let mut response = self
            .client
            .get(&self.url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_KEYS {
                return Err(format!("the keys have more than {MAX_KEYS} bytes"));
            }
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("the answer is no set of keys ({error})"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{FutureExt as _, future::join_all};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        sync::watch,
        time::timeout,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Longest wait for anything; only a failing test takes that long.
    const PATIENCE: Duration = Duration::from_secs(30);
    const HOUR: Duration = Duration::from_secs(3_600);

    #[derive(Debug, Clone)]
    enum Mode {
        /// Answers with the keys of these ids.
        Answer(&'static [&'static str]),
        /// Waits for another mode.
        Silent,
        /// Ends the connection.
        Gone,
    }

    /// The provider's server: real TLS, and as slow as it is told to be.
    struct Provider {
        mode: watch::Sender<Mode>,
        asked: Arc<AtomicUsize>,
        url: String,
        authority: String,
    }

    impl Provider {
        async fn start(mode: Mode) -> Self {
            let mut params = CertificateParams::new(Vec::new()).expect("names");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("names");
            let certificate = params.signed_by(&key, &authority).expect("a certificate");
            let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(
                    vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes()).expect("a certificate")],
                    PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key"),
                )
                .expect("an identity");
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let (mode, modes) = watch::channel(mode);
            let asked = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&asked);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, count, mut modes) = (acceptor.clone(), Arc::clone(&count), modes.clone());
                    tokio::spawn(async move {
                        let mut stream = acceptor.accept(stream).await.expect("TLS");
                        let length = stream.read(&mut [0; 4_096]).await.expect("a request");
                        assert!(length > 0, "a request");
                        count.fetch_add(1, Ordering::SeqCst);
                        let mode = modes
                            .wait_for(|mode| !matches!(mode, Mode::Silent))
                            .await
                            .expect("a mode")
                            .clone();
                        let Mode::Answer(ids) = mode else { return };
                        let keys: Vec<_> = ids
                            .iter()
                            .map(|id| serde_json::json!({ "kty": "EC", "crv": "P-256", "kid": id, "x": "AA", "y": "AA" }))
                            .collect();
                        let body = serde_json::json!({ "keys": keys }).to_string();
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                            body.len()
                        );
                        stream.write_all(answer.as_bytes()).await.expect("written");
                        stream.shutdown().await.expect("an end");
                    });
                }
            });
            Self {
                mode,
                asked,
                url: format!("https://localhost:{port}/keys"),
                authority: authority.pem(),
            }
        }

        fn keys(&self, soon: Duration) -> Arc<Remote> {
            // Old as soon as they are there, and asked for again without a pause.
            let times = Times {
                kept: Duration::ZERO,
                pause: Duration::ZERO,
                patience: HOUR,
                soon,
            };
            Arc::new(Remote::open(&self.url, Some(self.authority.as_bytes()), times).expect("a client"))
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    async fn soon<T>(work: impl Future<Output = T>) -> T {
        timeout(PATIENCE, work).await.expect("nobody waits for the provider")
    }

    #[tokio::test]
    async fn keys_from_before_serve_while_the_provider_is_slow() {
        let provider = Provider::start(Mode::Answer(&["one"])).await;
        let keys = provider.keys(Duration::from_millis(50));
        assert!(soon(keys.key("one")).await.is_some());
        assert_eq!(provider.asked(), 1);
        provider.mode.send_replace(Mode::Silent);
        // Whoever needs another key waits for the request that is under way.
        let newer: Vec<_> = (0..5).map(|_| keys.key("two")).collect();
        let mut newer = Box::pin(join_all(newer));
        assert!((&mut newer).now_or_never().is_none());
        for _ in 0..3 {
            let known = soon(join_all((0..20).map(|_| keys.key("one")))).await;
            assert!(known.iter().all(Option::is_some));
            assert!((&mut newer).now_or_never().is_none());
        }
        provider.mode.send_replace(Mode::Answer(&["one", "two"]));
        assert!(soon(newer).await.iter().all(Option::is_some));
        assert_eq!(provider.asked(), 2, "one request for all of them");
    }

    #[tokio::test]
    async fn new_keys_are_waited_for_unless_they_did_not_come_before() {
        let provider = Provider::start(Mode::Answer(&["one", "gone"])).await;
        let keys = provider.keys(HOUR);
        assert!(soon(keys.key("gone")).await.is_some());
        // A key that the provider has taken back opens nothing once keys are old.
        provider.mode.send_replace(Mode::Answer(&["one"]));
        assert!(soon(keys.key("gone")).await.is_none());
        provider.mode.send_replace(Mode::Gone);
        assert!(soon(keys.key("one")).await.is_some(), "those from before stay");
        let failed = provider.asked();
        provider.mode.send_replace(Mode::Silent);
        for _ in 0..3 {
            assert!(soon(keys.key("one")).await.is_some(), "at once after a failure");
        }
        provider.mode.send_replace(Mode::Answer(&["one", "two"]));
        assert!(soon(keys.key("two")).await.is_some());
        assert_eq!(provider.asked(), failed + 1, "one request for all of them");
    }
}
