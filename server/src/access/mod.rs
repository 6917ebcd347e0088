//! Who calls: the one place that turns what a connection and its headers say into a principal and what it is granted.
//!
//! ```text
//! authorization: Bearer dbk_...   -> the control store's tokens (`dbkeep_engine::access::Keyring`)
//! authorization: Bearer eyJ...    -> an identity provider's (`oidc`)
//! a client certificate            -> the principal of its name (`certificate`)
//! nothing, from this machine      -> the name that it gives itself, where the settings take that (`loopback`)
//! ```
//!
//! The first that is there decides; one that is there and opens nothing is refused, whatever else there is. `tls` holds the server's
//! certificates. Nothing here knows what a method is for: that is the policy's. Called by the gate of the gRPC side.

mod certificate;
mod jwks;
mod loopback;
mod oidc;
mod tls;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use dbkeep_engine::{
    Engine,
    access::{Admitted, Grant, Presented, Refusal, Role, Scope},
    model::Caller,
};
use http::{
    HeaderMap, HeaderName, Uri,
    header::{AUTHORIZATION, FORWARDED, HOST, ORIGIN, REFERER, VIA},
    uri::Authority,
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::config::access::{AccessConfig, CertificateRule, Loopback};

pub(crate) use certificate::ClientCertificate;
pub(crate) use oidc::Oidc;
pub(crate) use tls::{Tls, check as check_tls, client};

/// Headers by which a browser or a proxy says for whom it speaks. Its own process is not whom the call comes from.
static FOREIGN: [HeaderName; 9] = [
    ORIGIN,
    REFERER,
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("sec-fetch-mode"),
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];

/// Random bytes of the operating system's.
///
/// # Errors
/// Where it has none.
pub(crate) fn random() -> Result<[u8; 32], ()> {
    use ring::rand::SecureRandom as _;

    let mut bytes = [0; 32];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| ())?;
    Ok(bytes)
}

/// Metadata in which a caller on this machine gives itself a name.
static PRINCIPAL: HeaderName = HeaderName::from_static("dbkeep-principal");

/// What a connection says about the other end of it. One for all of its calls.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// Its address; `None` where the system does not tell.
    pub(crate) remote: Option<SocketAddr>,
    /// The address that it has connected to.
    pub(crate) local: Option<SocketAddr>,
    /// The alternative names of its certificate, which an authority has signed; `None` without one.
    pub(crate) names: Option<Arc<[String]>>,
    /// Until when that certificate is good.
    pub(crate) not_after: Option<Timestamp>,
    /// Its address as records have it.
    address: String,
    /// Whether it belongs to the server's user, once that was looked up.
    owner: tokio::sync::OnceCell<bool>,
    /// Whether somebody has said over it who he is.
    known: AtomicBool,
    /// Who was let in last: most connections have one caller, whose name and grant then need not be put together for each call.
    /// Nobody is let in by it.
    last: Mutex<Option<Arc<Identity>>>,
}

impl Peer {
    pub(crate) fn new(remote: Option<SocketAddr>, local: Option<SocketAddr>, certificate: Option<ClientCertificate>) -> Self {
        let (names, not_after) = certificate.map_or((None, None), |found| (Some(found.names), Some(found.not_after)));
        Self {
            remote,
            local,
            names,
            not_after,
            address: remote.map(|peer| peer.to_string()).unwrap_or_default(),
            owner: tokio::sync::OnceCell::new(),
            known: AtomicBool::new(false),
            last: Mutex::new(None),
        }
    }

    /// Whether somebody has said over it who he is.
    pub(crate) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Whether it is on this machine.
    pub(crate) fn is_here(&self) -> bool {
        self.remote.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
    }

    /// Its address as records have it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The identity of somebody who has just been let in: that of the call before, where it is the same.
    fn identity(&self, is_same: impl Fn(&Identity) -> bool, make: impl FnOnce() -> Identity) -> Arc<Identity> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| is_same(last)) {
            return Arc::clone(last);
        }
        let identity = Arc::new(make());
        *last = Some(Arc::clone(&identity));
        identity
    }

    /// Whether its process belongs to the user of this server, or to root. Looked up once for each connection.
    async fn is_own(&self) -> bool {
        let (Some(remote), Some(local)) = (self.remote, self.local) else {
            return false;
        };
        let looked = self.owner.get_or_init(|| async move {
            tokio::task::spawn_blocking(move || loopback::is_own(remote, local))
                .await
                .unwrap_or(false)
        });
        *looked.await
    }
}

/// How a caller is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnownBy {
    /// By a token of the control store.
    Token,
    /// By a client certificate.
    Certificate,
    /// By a token of an identity provider.
    Oidc,
    /// By nothing but being on this machine.
    Loopback,
}

impl KnownBy {
    /// Name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Oidc => "oidc",
            Self::Loopback => "loopback",
        }
    }
}

/// A caller who is known.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Who it is, and from where.
    pub(crate) caller: Caller,
    /// What it may do.
    pub(crate) grant: Grant,
    /// How it is known.
    pub(crate) known_by: KnownBy,
    /// Cancelled when what it is known by is taken back.
    pub(crate) ended: CancellationToken,
    /// As whom its open calls are counted: a name that somebody gives himself takes no places of whoever proves that it is his.
    pub(crate) counted_as: Arc<str>,
    /// The token that it has; `None` for whoever is known otherwise.
    by: Option<Arc<Admitted>>,
}

impl Identity {
    /// Somebody who is known for as long as `grant` says.
    pub(crate) fn new(caller: Caller, grant: Grant, known_by: KnownBy) -> Self {
        Self {
            counted_as: format!("{} {}", known_by.name(), caller.principal).into(),
            caller,
            grant,
            known_by,
            ended: CancellationToken::new(),
            by: None,
        }
    }

    /// Somebody who has a token.
    fn of_token(by: Arc<Admitted>, peer: &Peer) -> Self {
        let identity = Self::new(caller(by.principal.clone(), peer), by.grant.clone(), KnownBy::Token);
        Self {
            ended: by.ended.clone(),
            by: Some(by),
            ..identity
        }
    }

    /// Whether it is known in this way, under this name.
    fn is(&self, known_by: KnownBy, principal: &str) -> bool {
        self.known_by == known_by && self.caller.principal == principal
    }
}

/// A caller who is not known.
#[derive(Debug)]
pub(crate) enum Stranger {
    /// What came opens nothing, or nothing came. What is wrong with it, never what it was.
    Refused(&'static str),
    /// The name that came cannot be taken.
    Name(String),
    /// Whether it opens something is not known now.
    Unavailable(dbkeep_engine::port::StoreError),
}

/// Who is let in, and as whom.
pub(crate) struct Access {
    engine: Engine,
    loopback: Loopback,
    certificates: Vec<CertificateRule>,
    oidc: Option<Oidc>,
}

impl Access {
    /// # Errors
    /// Where the identity provider's keys cannot be used.
    pub(crate) fn new(engine: Engine, config: &AccessConfig, oidc: Option<Oidc>) -> Self {
        Self {
            engine,
            loopback: config.loopback(),
            certificates: config.certificates.clone(),
            oidc,
        }
    }

    /// Who calls.
    ///
    /// # Errors
    /// [`Stranger`].
    pub(crate) async fn identify(&self, uri: &Uri, headers: &HeaderMap, peer: &Peer) -> Result<Arc<Identity>, Stranger> {
        let identity = self.find(uri, headers, peer).await?;
        if !peer.is_known() {
            peer.known.store(true, Ordering::Relaxed);
        }
        Ok(identity)
    }

    async fn find(&self, uri: &Uri, headers: &HeaderMap, peer: &Peer) -> Result<Arc<Identity>, Stranger> {
        let name = given_name(headers)?;
        let mut credentials = headers.get_all(AUTHORIZATION).iter();
        let identity = match (credentials.next(), credentials.next()) {
            (Some(_), Some(_)) => return Err(Stranger::Refused("authorization came more than once; expected one")),
            (Some(credential), None) => self.by_token(bearer(credential)?, peer).await?,
            (None, _) => match &peer.names {
                Some(names) => self.by_certificate(names, peer)?,
                None => return self.by_loopback(name, uri, headers, peer).await,
            },
        };
        match name {
            Some(name) if name != identity.caller.principal => Err(Stranger::Name(
                "is another name than that of the caller's token or certificate; expected it absent".to_owned(),
            )),
            _ => Ok(identity),
        }
    }

    async fn by_token(&self, token: &str, peer: &Peer) -> Result<Arc<Identity>, Stranger> {
        if let Some(presented) = Presented::parse(token) {
            let admitted = self.engine.keyring().admit(&presented, Timestamp::now()).await;
            let admitted = admitted.map_err(|refusal| match refusal {
                Refusal::Unavailable(error) => Stranger::Unavailable(error),
                refusal => {
                    tracing::info!(token = %presented.id, peer = peer.address(), why = ?refusal, "a token opens nothing");
                    NO_TOKEN
                }
            })?;
            let is_same = |last: &Identity| last.by.as_ref().is_some_and(|by| Arc::ptr_eq(by, &admitted));
            return Ok(peer.identity(is_same, || Identity::of_token(Arc::clone(&admitted), peer)));
        }
        let Some(oidc) = &self.oidc else {
            return Err(NO_TOKEN);
        };
        match oidc.admit(token).await {
            Ok((principal, grant)) => {
                let is_same = |last: &Identity| last.is(KnownBy::Oidc, &principal) && last.grant == grant;
                let make = || Identity::new(caller(principal.clone(), peer), grant.clone(), KnownBy::Oidc);
                Ok(peer.identity(is_same, make))
            }
            Err(problem) => {
                tracing::info!(
                    peer = peer.address(),
                    problem,
                    "a token of the identity provider opens nothing"
                );
                Err(NO_TOKEN)
            }
        }
    }

    fn by_certificate(&self, names: &[String], peer: &Peer) -> Result<Arc<Identity>, Stranger> {
        // It was good when the connection was made, which may be long ago.
        if peer.not_after.is_none_or(|end| end <= Timestamp::now()) {
            return Err(Stranger::Refused("the time of the client certificate is over"));
        }
        let rule = self.certificates.iter().find(|rule| names.contains(&rule.san));
        let Some(rule) = rule else {
            tracing::info!(peer = peer.address(), ?names, "a client certificate is nobody's");
            return Err(Stranger::Refused(
                "the client certificate is nobody's; expected one of a declared name, or a token",
            ));
        };
        // The rules do not change, and neither does the certificate of a connection: its name says which rule it was.
        let is_same = |last: &Identity| last.is(KnownBy::Certificate, &rule.principal);
        Ok(peer.identity(is_same, || {
            let grant = Grant {
                role: rule.role,
                scope: rule.scope.clone(),
                until: peer.not_after,
            };
            Identity::new(caller(rule.principal.clone(), peer), grant, KnownBy::Certificate)
        }))
    }

    async fn by_loopback(
        &self,
        name: Option<&str>,
        uri: &Uri,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> Result<Arc<Identity>, Stranger> {
        if let Some(header) = FOREIGN.iter().find(|header| headers.contains_key(*header)) {
            tracing::info!(peer = peer.address(), %header, "a call over loopback comes from somebody else");
            return Err(Stranger::Refused(
                "it comes through a browser or a proxy, which speaks for others; expected a token or a client certificate",
            ));
        }
        // A page of another house whose name leads here by now is, to its browser, of the same origin: only the name gives it away.
        if peer.is_here() && !names_this_machine(uri, headers) {
            tracing::info!(peer = peer.address(), "a call over loopback names another host");
            return Err(Stranger::Refused(
                "the host that it names is not this machine's own; expected localhost or a loopback address, or a token or a client certificate",
            ));
        }
        let admitted = match self.loopback {
            Loopback::Token => false,
            Loopback::Any => peer.is_here(),
            Loopback::User => peer.is_here() && peer.is_own().await,
        };
        if !admitted {
            return Err(match name {
                Some(_) if !peer.is_here() => {
                    Stranger::Name("came from another machine; expected a token or a client certificate".to_owned())
                }
                _ => Stranger::Refused("no token came; expected authorization: Bearer dbk_..., or a client certificate"),
            });
        }
        let name = name.unwrap_or(Caller::ANONYMOUS);
        Ok(peer.identity(
            |last| last.is(KnownBy::Loopback, name),
            || {
                let grant = Grant {
                    role: Role::Admin,
                    scope: Scope::All,
                    until: None,
                };
                Identity::new(caller(name.to_owned(), peer), grant, KnownBy::Loopback)
            },
        ))
    }
}

/// Whether a call says that it is for this machine, and by no name that somebody else could give it: HTTP/2 names the host beside the path, HTTP/1.1
/// in a header. Whoever says it twice has to mean it twice.
fn names_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let beside = uri.authority().map(|authority| Some(authority.host().to_owned()));
    let within = headers.get_all(HOST).iter().map(|host| {
        let authority = host.to_str().ok()?.parse::<Authority>().ok()?;
        Some(authority.host().to_owned())
    });
    let mut hosts = beside.into_iter().chain(within).peekable();
    hosts.peek().is_some() && hosts.all(|host| host.is_some_and(|host| is_loopback_name(&host)))
}

fn is_loopback_name(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address = bare.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// What a caller whom nobody knows says he is: the id of a token, which is no secret, or a name. Both begin as no principal's name does.
pub(crate) fn claimed(headers: &HeaderMap) -> String {
    let credential = headers.get(AUTHORIZATION).and_then(|credential| bearer(credential).ok());
    if let Some(presented) = credential.and_then(Presented::parse) {
        return format!("token:{}", presented.id);
    }
    match given_name(headers) {
        Ok(Some(name)) => format!("unproven:{name}"),
        _ => String::new(),
    }
}

/// The same for what is malformed, unknown, expired and revoked: which of them is nobody's business but the log's.
const NO_TOKEN: Stranger = Stranger::Refused("the token opens nothing; expected one that is neither expired nor revoked");

fn caller(principal: String, peer: &Peer) -> Caller {
    Caller {
        principal,
        peer: peer.address().to_owned(),
    }
}

fn bearer(credential: &http::HeaderValue) -> Result<&str, Stranger> {
    let text = credential.to_str().ok();
    let token = text.and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    token.ok_or(Stranger::Refused("authorization is malformed; expected Bearer and a token"))
}

/// The name that a caller gives itself.
fn given_name(headers: &HeaderMap) -> Result<Option<&str>, Stranger> {
    let mut names = headers.get_all(&PRINCIPAL).iter();
    let Some(name) = names.next() else { return Ok(None) };
    if names.next().is_some() {
        return Err(Stranger::Name("came more than once; expected one name".to_owned()));
    }
    match name.to_str() {
        Ok(name) if Caller::is_principal(name) => Ok(Some(name)),
        _ => Err(Stranger::Name(format!(
            "is malformed; expected 1 to {} of A-Z a-z 0-9 . _ @ -",
            Caller::MAX_PRINCIPAL
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(names: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(&PRINCIPAL, http::HeaderValue::from_bytes(name).expect("a header value"));
        }
        headers
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for names in [
            &[b"".as_slice()] as &[&[u8]],
            &[b"a b"],
            &["ä".as_bytes()],
            &[b"\xff"],
            &["x".repeat(65).as_bytes()],
            &[b"ann", b"bob"],
            &[b"ann", b"ann"],
        ] {
            assert!(matches!(given_name(&headers(names)), Err(Stranger::Name(_))), "{names:?}");
        }
        assert!(matches!(given_name(&headers(&[])), Ok(None)));
        assert!(matches!(given_name(&headers(&[b"ann@db-1"])), Ok(Some(name)) if name == "ann@db-1"));
    }

    #[test]
    fn a_peer_is_here_by_its_address() {
        for (address, here) in [
            ("127.0.0.1:1", true),
            ("127.8.9.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("10.0.0.7:1", false),
            ("[2001:db8::1]:1", false),
            ("[::ffff:10.0.0.7]:1", false),
        ] {
            let peer = Peer::new(Some(address.parse().expect("an address")), None, None);
            assert_eq!((peer.is_here(), peer.address()), (here, address));
        }
        assert!(!Peer::default().is_here());
    }

    #[test]
    fn a_host_of_this_machine_is_one_that_nobody_else_can_name() {
        let asked = |uri: &str, hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().expect("a header value"));
            }
            names_this_machine(&uri.parse().expect("a URI"), &headers)
        };
        for own in [
            "localhost",
            "LocalHost:50777",
            "127.0.0.1:50777",
            "127.9.9.9",
            "[::1]:50777",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(asked("/metrics", &[own]), "{own}");
            assert!(asked(&format!("http://{own}/x"), &[]), "{own}");
        }
        for foreign in [
            "evil.example:50777",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "10.0.0.7",
            "0.0.0.0:50777",
            "[2001:db8::1]",
            "",
        ] {
            assert!(!asked("/metrics", &[foreign]), "{foreign}");
            assert!(!asked("http://localhost/x", &[foreign]), "{foreign}");
        }
        assert!(!asked("http://evil.example/x", &["localhost"]));
        assert!(!asked("/metrics", &[]) && !asked("/metrics", &["localhost", "evil.example"]));
    }

    #[test]
    fn only_a_bearer_is_read() {
        let read = |text: &str| bearer(&text.parse().expect("a header value")).ok().map(str::to_owned);
        assert_eq!(read("Bearer x").as_deref(), Some("x"));
        assert_eq!(read("bearer x").as_deref(), Some("x"));
        for malformed in ["x", "Basic x", "Bearer", "", "Bearerx"] {
            assert_eq!(read(malformed), None, "{malformed:?}");
        }
    }
}
