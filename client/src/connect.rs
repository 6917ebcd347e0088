//! The connection: its builder, and the handle that every service handle is made from.
//!
//! Owns addresses, timeouts, keepalive and the HTTP/2 channel. Does not own what is repeated (`retry.rs`, `watch.rs`) nor
//! any environment variable: `DBKEEP_ADDR` is the command line tool's. A token goes with every call, and never in the clear to another
//! machine unless that is asked for.

use std::{sync::Arc, time::Duration};

use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

use crate::{
    access::Access, audit::Audit, backups::Backups, cleanup::Cleanup, decisions::Decisions, error::Error, migrations::Migrations,
    monitoring::Monitoring, notifications::Notifications, retry::RetryPolicy, runs::Runs, schedules::Schedules, targets::Targets,
    watch::ReconnectPolicy,
};

/// Where a server listens unless it was told otherwise.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:50777";

/// Metadata that names the caller.
const PRINCIPAL: &str = "dbkeep-principal";

/// Metadata that proves who calls.
const AUTHORIZATION: &str = "authorization";

/// Largest answer that is accepted, bytes. A page of 500 runs with full warnings exceeds the 4 MiB that tonic allows.
pub(crate) const MAX_RESPONSE_BYTES: usize = 32 * 1024 * 1024;

/// A connection to a server. Cheap to clone; clones share the connection, which is made anew after it broke.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    settings: Arc<Settings>,
}

#[derive(Debug)]
struct Settings {
    /// What every call carries as `dbkeep-principal`.
    principal: Option<MetadataValue<Ascii>>,
    /// What every call carries as `authorization`; never shown.
    token: Option<MetadataValue<Ascii>>,
    call_timeout: Duration,
    plan_timeout: Duration,
    retry: RetryPolicy,
    reconnect: ReconnectPolicy,
}

impl Client {
    /// Starts to describe a connection; every setting has a default.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Who the server takes the caller for, and tokens.
    #[must_use]
    pub fn access(&self) -> Access {
        Access::new(self.clone())
    }

    /// The databases that the server maintains.
    #[must_use]
    pub fn targets(&self) -> Targets {
        Targets::new(self.clone())
    }

    /// What can be cleaned, what a cleanup would do, and doing it.
    #[must_use]
    pub fn cleanup(&self) -> Cleanup {
        Cleanup::new(self.clone())
    }

    /// Runs: looking at them, following them, stopping them, taking them back.
    #[must_use]
    pub fn runs(&self) -> Runs {
        Runs::new(self.clone())
    }

    /// Backups: looking at them and proving them.
    #[must_use]
    pub fn backups(&self) -> Backups {
        Backups::new(self.clone())
    }

    /// Migrations: how a folder of them stands on a target, planning, rehearsing, applying and taking back.
    #[must_use]
    pub fn migrations(&self) -> Migrations {
        Migrations::new(self.clone())
    }

    /// Schedules: what is to be done when, what became of every slot, and the switch over all of them.
    #[must_use]
    pub fn schedules(&self) -> Schedules {
        Schedules::new(self.clone())
    }

    /// The record of what was asked of the server that deletes, approves, stops or takes back.
    #[must_use]
    pub fn decisions(&self) -> Decisions {
        Decisions::new(self.clone())
    }

    /// The audit log: who did what, and whether the log of it is whole.
    #[must_use]
    pub fn audit(&self) -> Audit {
        Audit::new(self.clone())
    }

    /// Notifications: the channels of the server, a try of one, and what is on its way.
    #[must_use]
    pub fn notifications(&self) -> Notifications {
        Notifications::new(self.clone())
    }

    /// Monitoring: the service at a glance, the health of targets, its history, and alerts.
    #[must_use]
    pub fn monitoring(&self) -> Monitoring {
        Monitoring::new(self.clone())
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Time for a whole unary call, repetitions included.
    pub(crate) fn call_timeout(&self) -> Duration {
        self.settings.call_timeout
    }

    /// The same for PlanCleanup, which counts rows.
    pub(crate) fn plan_timeout(&self) -> Duration {
        self.settings.plan_timeout
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.settings.retry
    }

    pub(crate) fn reconnect(&self) -> &ReconnectPolicy {
        &self.settings.reconnect
    }

    /// Makes the request that carries `message`: the one place that every call passes on its way out.
    pub(crate) fn prepare<M>(&self, message: M, timeout: Option<Duration>) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(principal) = &self.settings.principal {
            request.metadata_mut().insert(PRINCIPAL, principal.clone());
        }
        if let Some(token) = &self.settings.token {
            request.metadata_mut().insert(AUTHORIZATION, token.clone());
        }
        if let Some(timeout) = timeout {
            // The server gets to know the deadline too, and stops working for a caller that no longer waits.
            request.set_timeout(timeout);
        }
        request
    }
}

/// Describes a connection. Made by [`Client::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until connect, connect_lazy or over_channel is called"]
pub struct ClientBuilder {
    address: String,
    principal: Option<String>,
    token: Option<String>,
    token_in_the_clear: bool,
    authority: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
    connect_timeout: Duration,
    call_timeout: Duration,
    plan_timeout: Duration,
    keepalive_interval: Duration,
    keepalive_timeout: Duration,
    user_agent: String,
    retry: RetryPolicy,
    reconnect: ReconnectPolicy,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            address: DEFAULT_ADDRESS.to_owned(),
            principal: None,
            token: None,
            token_in_the_clear: false,
            authority: None,
            identity: None,
            server_name: None,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(30),
            plan_timeout: Duration::from_secs(600),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            user_agent: concat!("dbkeep-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry: RetryPolicy::default(),
            reconnect: ReconnectPolicy::default(),
        }
    }
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Token and key are nobody's business.
        formatter
            .debug_struct("ClientBuilder")
            .field("address", &self.address)
            .field("principal", &self.principal)
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// Where the server listens: `host:port`, `http://host:port`, or `https://host:port` with TLS. [`DEFAULT_ADDRESS`] where not set.
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Who calls, 1 to 64 of `A-Z a-z 0-9 . _ @ -`: kept with runs and decisions, and needed to approve a run. A server takes it on
    /// loopback only. Without it the caller is `anonymous@loopback`. The server refuses what is no name.
    pub fn principal(mut self, name: impl Into<String>) -> Self {
        self.principal = Some(name.into());
        self
    }

    /// Proves who calls: `dbk_...`, or a token of the identity provider that the server knows. It is sent over TLS and over loopback; see
    /// [`token_in_the_clear`](Self::token_in_the_clear).
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sends the token to another machine without TLS, where whoever is in between reads it.
    pub fn token_in_the_clear(mut self) -> Self {
        self.token_in_the_clear = true;
        self
    }

    /// The authority that has signed the server's certificate, as PEM; the public ones where not set.
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(pem.into());
        self
    }

    /// The client's own certificate and key, as PEM, for servers that ask for one.
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The name that the server's certificate must have; the host of the address where not set.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Longest time to establish a connection; 5 s where not set.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Longest time for a whole unary call, repetitions included; 30 s where not set. Streams have no such limit: they end
    /// with their run.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Longest time for a plan, which counts every row that a run would delete; 10 min where not set.
    pub fn plan_timeout(mut self, timeout: Duration) -> Self {
        self.plan_timeout = timeout;
        self
    }

    /// How often a busy connection is probed, and how long the answer may take before the connection counts as broken; 20 s
    /// and 10 s where not set. This is what notices a server whose machine went away without a word.
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keepalive_interval = interval;
        self.keepalive_timeout = timeout;
        self
    }

    /// What the server's log calls this client, in front of the transport's own name; `dbkeep-client/VERSION` where not set.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// How unary calls, and the opening of streams, are repeated.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// How streams come back after a broken connection, and when they give up.
    pub fn reconnect(mut self, policy: ReconnectPolicy) -> Self {
        self.reconnect = policy;
        self
    }

    /// Connects now.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`], [`Error::InvalidUserAgent`], and [`Error::Unreachable`] where nobody answers in time.
    pub async fn connect(self) -> Result<Client, Error> {
        let endpoint = self.endpoint()?;
        let channel = match tokio::time::timeout(self.connect_timeout, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                return Err(Error::Unreachable {
                    problem: format!("{}: {}", self.address, chain(&error)),
                });
            }
            Err(_) => {
                let problem = format!(
                    "{} did not answer within {} s",
                    self.address,
                    self.connect_timeout.as_secs_f64()
                );
                return Err(Error::Unreachable { problem });
            }
        };
        Ok(self.over_channel(channel))
    }

    /// Connects with the first call. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`] and [`Error::InvalidUserAgent`].
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let channel = self.endpoint()?.connect_lazy();
        Ok(self.over_channel(channel))
    }

    /// Uses a channel that the caller made: another transport than TCP, or a server in the same process. Address, connect
    /// timeout, keepalive and user agent are then the channel's own.
    #[must_use]
    pub fn over_channel(self, channel: Channel) -> Client {
        let settings = Settings {
            principal: self.principal.as_deref().map(principal),
            token: self.token.as_deref().map(bearer),
            call_timeout: self.call_timeout,
            plan_timeout: self.plan_timeout,
            retry: self.retry,
            reconnect: self.reconnect,
        };
        Client {
            channel,
            settings: Arc::new(settings),
        }
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        let uri = parse_address(&self.address)?;
        let invalid = |problem: String| Error::InvalidAddress {
            address: self.address.clone(),
            problem,
        };
        let is_secure = uri.scheme_str() == Some("https");
        if self.token.is_some() && !is_secure && !self.token_in_the_clear && !is_loopback(&uri) {
            let problem = "a token would travel in the clear to another machine; expected https, or token_in_the_clear";
            return Err(invalid(problem.to_owned()));
        }
        if !is_secure && (self.authority.is_some() || self.identity.is_some()) {
            return Err(invalid("certificates are given, and the scheme is not https".to_owned()));
        }
        let mut endpoint = Endpoint::from(uri);
        if is_secure {
            endpoint = endpoint
                .tls_config(self.tls())
                .map_err(|error| invalid(format!("TLS: {}", chain(&error))))?;
        }
        endpoint
            .user_agent(self.user_agent.as_str())
            .map_err(|_| Error::InvalidUserAgent {
                user_agent: self.user_agent.clone(),
            })
            .map(|endpoint| {
                endpoint
                    .connect_timeout(self.connect_timeout)
                    .http2_keep_alive_interval(self.keepalive_interval)
                    .keep_alive_timeout(self.keepalive_timeout)
                    .tcp_nodelay(true)
            })
    }
}

impl ClientBuilder {
    fn tls(&self) -> ClientTlsConfig {
        let mut tls = match &self.authority {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name.clone());
        }
        tls
    }
}

/// Whether the address is this machine.
fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || literal
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The metadata of a token. What a header cannot carry becomes something that the server refuses by its own words.
fn bearer(token: &str) -> MetadataValue<Ascii> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
        .parse()
        .unwrap_or_else(|_| MetadataValue::from_static("Bearer ?"));
    value.set_sensitive(true);
    value
}

/// The metadata of a name. What a header cannot carry becomes something that the server refuses by its own words, rather than no name.
fn principal(name: &str) -> MetadataValue<Ascii> {
    name.parse().unwrap_or_else(|_| MetadataValue::from_static("?"))
}

/// Takes `host:port`, `http://host:port` and `https://host:port`, so that one setting fits what people paste from either.
fn parse_address(address: &str) -> Result<Uri, Error> {
    let invalid = |problem: &str| Error::InvalidAddress {
        address: address.to_owned(),
        problem: problem.to_owned(),
    };
    let full = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let uri: Uri = full
        .parse()
        .map_err(|error: tonic::codegen::http::uri::InvalidUri| invalid(&error.to_string()))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(invalid("the scheme is neither http nor https")),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid("the host is missing"));
    }
    if uri.port_u16().is_none_or(|port| port == 0) {
        return Err(invalid("the port is missing"));
    }
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        return Err(invalid("a path does not belong to it"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(invalid("user and password do not belong to it"));
    }
    Ok(uri)
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_scheme_mean_the_same() {
        for address in ["127.0.0.1:50777", "http://127.0.0.1:50777", "http://127.0.0.1:50777/"] {
            assert_eq!(parse_address(address).unwrap().to_string(), "http://127.0.0.1:50777/");
        }
        assert!(parse_address("[::1]:50777").is_ok());
        assert!(parse_address("db.example:443").is_ok());
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_problem() {
        for (address, problem) in [
            ("ftp://127.0.0.1:50777", "scheme"),
            ("127.0.0.1", "port"),
            ("127.0.0.1:0", "port"),
            ("http://:50777", ""),
            ("127.0.0.1:50777/v1", "path"),
            ("me:secret@host:1", "password"),
            ("", ""),
        ] {
            let error = parse_address(address).unwrap_err();
            assert!(error.to_string().contains(problem), "{address}: {error}");
        }
    }

    #[test]
    fn a_token_does_not_travel_in_the_clear() {
        let to = |address: &str| Client::builder().address(address).token("dbk_x");
        for address in ["127.0.0.1:1", "localhost:1", "[::1]:1", "https://db.example:1"] {
            assert!(to(address).endpoint().is_ok(), "{address}");
        }
        let error = to("db.example:1").endpoint().unwrap_err();
        assert!(error.to_string().contains("in the clear"), "{error}");
        assert!(to("db.example:1").token_in_the_clear().endpoint().is_ok());
        assert!(!format!("{:?}", to("127.0.0.1:1")).contains("dbk_x"));
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        // A port that was free a moment ago.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Client::builder().address(address.clone()).connect().await.unwrap_err();
        assert!(
            matches!(&error, Error::Unreachable { problem } if problem.contains(&address)),
            "{error:?}"
        );
    }
}
