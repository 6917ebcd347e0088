//! What is set about who may call: TLS, how callers are known, and how much they may ask for.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use dbkeep_engine::access::{Role, Scope};

use super::{ConfigError, refuse};

/// Who may call, and how much.
#[derive(Debug, Clone, Default)]
pub struct AccessConfig {
    /// Certificates; `None` for plain connections.
    pub tls: Option<TlsConfig>,
    /// Whether plain connections are taken from other machines: secrets and data travel for everybody to read.
    pub dangerously_listen_without_tls: bool,
    /// Who is let in from this machine without a token or a certificate; `None` for [`Loopback::User`] without TLS, and
    /// [`Loopback::Token`] with it.
    pub loopback: Option<Loopback>,
    /// Who the owners of client certificates are.
    pub certificates: Vec<CertificateRule>,
    /// Tokens of an identity provider.
    pub oidc: Option<OidcConfig>,
    /// How much a caller may ask for.
    pub calls: CallLimits,
}

/// Files of PEM. They are read anew when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate, and those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of client certificates; `None` where none are asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether a connection without a client certificate is refused.
    pub client_required: bool,
}

/// Who is let in from this machine without a token or a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// Processes of the user that the server runs as, and of root.
    User,
    /// Every process of this machine.
    Any,
    /// None.
    Token,
}

impl Loopback {
    /// Every way.
    pub const ALL: [Self; 3] = [Self::User, Self::Any, Self::Token];

    /// Name in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Any => "any",
            Self::Token => "token",
        }
    }
}

/// Who the owner of a client certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRule {
    /// A subject alternative name of the certificate as a whole: a DNS name, a mail address, or a URI such as `spiffe://house/backup`.
    pub san: String,
    /// The principal.
    pub principal: String,
    /// What it may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
}

/// Whose tokens are taken, and what they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcConfig {
    /// The claim `iss`, to the letter.
    pub issuer: String,
    /// What the claim `aud` must hold.
    pub audience: String,
    /// The provider's keys.
    pub keys: KeySource,
    /// Authorities of the server that the keys come from, as PEM; `None` for the public ones.
    pub authorities: Option<Vec<u8>>,
    /// Claim that names the principal.
    pub principal_claim: String,
    /// Claim with a role, or a list of which one is taken: admin before operator before approver before viewer.
    pub role_claim: String,
    /// What the provider calls the roles; empty where it uses their names.
    pub roles: BTreeMap<String, Role>,
    /// Claim with a list of targets; `None` for all targets.
    pub targets_claim: Option<String>,
}

/// Where a JSON Web Key Set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file.
    File(PathBuf),
    /// An address of https.
    Url(String),
}

/// How much a caller may ask for. 0 is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// Calls of one principal a second, over some time. Callers on this machine without a token have no such limit.
    pub per_second: u32,
    /// Calls of one principal at once, after it has been silent.
    pub burst: u32,
    /// Calls and streams of one principal that are open at a time.
    pub open: u32,
    /// Calls of everybody that are worked on at a time; streams count until they begin.
    pub working: u32,
    /// Connections of everybody; more wait in the system's queue.
    pub connections: u32,
    /// Calls of one address a second by whom nobody knows, over some time; ten times as many at once.
    pub strangers: u32,
}

impl Default for CallLimits {
    fn default() -> Self {
        Self {
            per_second: 200,
            burst: 400,
            open: 256,
            working: 1_024,
            connections: 4_096,
            strangers: 5,
        }
    }
}

impl AccessConfig {
    /// Who is let in from this machine without a token or a certificate.
    #[must_use]
    pub fn loopback(&self) -> Loopback {
        let usual = if self.tls.is_some() { Loopback::Token } else { Loopback::User };
        self.loopback.unwrap_or(usual)
    }

    /// Whether it may be listened there.
    ///
    /// # Errors
    /// What is wrong, and what was expected.
    pub fn check_listen(&self, listen: SocketAddr) -> Result<(), String> {
        if listen.ip().to_canonical().is_loopback() || self.tls.is_some() || self.dangerously_listen_without_tls {
            return Ok(());
        }
        Err(format!(
            "{listen} can be reached from other machines, and there is no TLS; expected certificate and key in [tls], or a loopback address such as 127.0.0.1:50777"
        ))
    }

    /// # Errors
    /// Where settings do not fit each other.
    pub(super) fn check(&self, targets: &[super::TargetConfig]) -> Result<(), ConfigError> {
        let asks = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if !self.certificates.is_empty() && !asks {
            return Err(refuse(
                "auth.certificate",
                "client certificates have principals, and none is asked for; expected client_ca in [tls]",
            ));
        }
        for rule in &self.certificates {
            for target in rule.scope.targets().into_iter().flatten() {
                if !targets.iter().any(|declared| declared.name == *target) {
                    return Err(refuse(
                        "auth.certificate",
                        format!("{} is for target {target:?}, which is not declared", rule.san),
                    ));
                }
            }
        }
        Ok(())
    }
}
