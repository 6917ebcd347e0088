//! The server's end of TLS: certificates from files, which are read anew when they change, so that a renewed certificate needs no restart.
//! Files that cannot be used are passed over with an error in the log, and what was read before stays.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::certificate;
use crate::config::access::TlsConfig;

/// How often the files are looked at, at the most.
const LOOK: Duration = Duration::from_secs(1);
/// What can be spoken: gRPC, and HTTP/1 for scrapers and probers.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What tells a file that has changed: when, how long, and which it is.
type Stamp = Vec<Option<(SystemTime, u64, u64)>>;

struct Current {
    looked_at: Instant,
    stamp: Stamp,
    config: Arc<ServerConfig>,
}

/// The certificates.
pub(crate) struct Tls {
    files: TlsConfig,
    current: Mutex<Current>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn open(files: &TlsConfig) -> Result<Self, String> {
        // Before they are read: a file that changes meanwhile is read once more.
        let stamp = stamp(files);
        Ok(Self {
            current: Mutex::new(Current {
                looked_at: Instant::now(),
                stamp,
                config: Arc::new(read(files)?),
            }),
            files: files.clone(),
        })
    }

    /// What the next connection is accepted with.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked_at.elapsed() >= LOOK {
            current.looked_at = Instant::now();
            let now = stamp(&self.files);
            if now != current.stamp {
                match read(&self.files) {
                    Ok(config) => {
                        tracing::info!("certificates were read anew");
                        current.config = Arc::new(config);
                        current.stamp = now;
                    }
                    Err(problem) => tracing::error!(problem, "changed certificates cannot be used; those from before stay"),
                }
            }
        }
        TlsAcceptor::from(Arc::clone(&current.config))
    }
}

/// The names of the client's certificate; `None` without one.
pub(crate) fn names<T>(stream: &TlsStream<T>) -> Option<Arc<[String]>> {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates()?.first()?;
    Some(certificate::names(certificate).into())
}

/// Whether the files can be used.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn check(files: &TlsConfig) -> Result<(), String> {
    read(files).map(|_| ())
}

fn stamp(files: &TlsConfig) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;

    [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|file| {
            let facts = fs::metadata(file).ok()?;
            Some((facts.modified().ok()?, facts.len(), facts.ino()))
        })
        .collect()
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| format!("{}: {error}", file.display()))?;
    if found.is_empty() {
        return Err(format!("{} holds no certificate; expected PEM", file.display()));
    }
    Ok(found)
}

fn read(files: &TlsConfig) -> Result<ServerConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(file)? {
                roots
                    .add(authority)
                    .map_err(|error| format!("{}: a certificate cannot be used ({error})", file.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if files.client_required {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| format!("{}: {error}", file.display()))?)
        }
    };
    // The message of this error never holds what is in the file.
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| format!("{}: {error}", files.key.display()))?;
    let mut config = builder
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(|error| format!("{} and {}: {error}", files.certificate.display(), files.key.display()))?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}
