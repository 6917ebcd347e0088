//! The servers of PostgreSQL that a URL names: one, or several of which one takes writes, as in
//! `postgres://user@h1:5432,h2:5432/db?target_session_attrs=read-write`. The driver knows URLs of one server only; this owns the list,
//! the order in which its servers are tried, and the question whether one of them takes writes. Called by the control store and by
//! PostgreSQL targets, for every connection that they open.

use std::{
    borrow::Cow,
    cmp::Reverse,
    fmt, io,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use sqlx::{
    Connection as _, PgConnection, Row as _,
    error::{DatabaseError, ErrorKind},
    postgres::PgConnectOptions,
};
use tokio::time::{Instant, timeout, timeout_at};

/// Most servers of a list. Each of them gets its share of the time for a connection.
pub(crate) const MAX_HOSTS: usize = 8;
/// One row where a session may not write: of a standby, or of a server that was made read-only.
pub(crate) const READ_ONLY: &str = "SELECT 1 WHERE pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";
/// When the server was started, in microseconds: no two servers say the same, nor does one after a restart.
pub(crate) const STARTED: &str = "SELECT (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint";
/// The timeline that a server writes: the first part of the name of its log's file. The last checkpoint's would be that of before a promotion.
const TIMELINE: &str =
    "SELECT ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::bigint";
/// How long other servers may take to answer once one has, for two that take writes to be told apart.
const GRACE: Duration = Duration::from_millis(500);
/// How long the server that takes writes is believed to be the only one. After that all are asked once more when a connection is wanted: one that was
/// superseded may go on taking writes, and nothing fails.
const BELIEVED: Duration = Duration::from_secs(10);
/// No place in a list.
const NOBODY: usize = usize::MAX;
/// The parameter that says which servers will do. The driver does not know it.
const ATTRIBUTES: &str = "target_session_attrs";
/// Parameters that would name the server once more.
const PLACES: [&str; 3] = ["host", "hostaddr", "port"];

/// A URL cannot be used. The message does not repeat any of it: it may carry a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct HostsError(String);

/// One server, as a URL of its own.
#[derive(Clone)]
struct Server {
    url: String,
    options: PgConnectOptions,
    name: String,
}

/// The servers that a URL names. Clones share which of them answered last.
#[derive(Clone)]
pub(crate) struct Hosts {
    servers: Vec<Server>,
    /// Whether only a server that takes writes will do.
    writable: bool,
    /// The one that answered last, which is tried first; [`NOBODY`] before any did.
    last: Arc<AtomicUsize>,
    /// When all of them were asked last.
    asked: Arc<Mutex<Option<Instant>>>,
}

/// The server that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its place in the list.
    pub(crate) index: usize,
    /// When it was started, which tells connections to it from those to another, or to itself before.
    pub(crate) started: i64,
}

/// What tells a server that takes writes from another that does.
struct Standing {
    /// Raised by each promotion; `None` where the server does not tell.
    timeline: Option<i64>,
    started: i64,
}

impl Standing {
    /// Whether this one is to be preferred, or the other is the same server by another name.
    fn is_before(&self, other: &Self) -> bool {
        let higher = matches!((self.timeline, other.timeline), (Some(one), Some(other)) if one > other);
        higher || self.started == other.started
    }
}

struct Chosen {
    connection: PgConnection,
    index: usize,
    standing: Standing,
}

/// What several servers said that all refuse this user.
#[derive(Debug)]
struct Refusals {
    text: String,
    /// Of the first of them.
    code: String,
}

impl fmt::Display for Refusals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for Refusals {}

impl DatabaseError for Refusals {
    fn message(&self) -> &str {
        &self.text
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.code))
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

/// The result of work that has so long for it.
async fn bounded<T>(within: Duration, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(within, work).await.unwrap_or_else(|_| {
        Err(sqlx::Error::Io(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no connection within {:.1} s", within.as_secs_f32()),
        )))
    })
}

/// The parts of a URL between which the list of servers stands.
struct Parts<'a> {
    /// Scheme and user, up to the first server.
    before: &'a str,
    list: &'a str,
    /// From the path on, without the query.
    path: &'a str,
    /// The parameters of the query, as they are written.
    parameters: Vec<&'a str>,
    /// Whether an `@` comes after the list.
    rest_has_at: bool,
}

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Option<Self> {
        let authority = url.find("://")? + 3;
        let end = url[authority..]
            .find(['/', '?', '#'])
            .map_or(url.len(), |length| authority + length);
        let list = url[authority..end].rfind('@').map_or(authority, |at| authority + at + 1);
        let rest = &url[end..];
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        Some(Self {
            before: &url[..list],
            list: &url[list..end],
            path,
            parameters: query.split('&').filter(|parameter| !parameter.is_empty()).collect(),
            rest_has_at: rest.contains('@'),
        })
    }

    /// Whether the password holds a character that ends the part of a URL in which it stands: then what is left of it looks like a server.
    fn is_cut_short(&self) -> bool {
        let no_user = self.before.ends_with("://");
        let no_port = |member: &str| {
            let port = member.rsplit_once(':').map(|(_, port)| port);
            !member.ends_with(']') && port.is_some_and(|port| port.parse::<u16>().is_err())
        };
        no_user && (self.path.contains('@') || self.list.split(',').any(no_port) && self.rest_has_at)
    }

    fn name_of(parameter: &str) -> &str {
        parameter.split_once('=').map_or(parameter, |(name, _)| name)
    }

    /// Whether only a server that takes writes will do, where the URL says so.
    fn writable(&self) -> Result<Option<bool>, HostsError> {
        let mut said = self
            .parameters
            .iter()
            .filter(|parameter| Self::name_of(parameter) == ATTRIBUTES)
            .map(|parameter| parameter.split_once('=').map_or("", |(_, value)| value));
        match (said.next(), said.next()) {
            (None, _) => Ok(None),
            (Some("read-write" | "primary"), None) => Ok(Some(true)),
            (Some("any"), None) => Ok(Some(false)),
            (Some(_), None) => Err(HostsError(format!(
                "{ATTRIBUTES} is another than read-write, primary and any; expected read-write, since dbkeep writes"
            ))),
            (Some(_), Some(_)) => Err(HostsError(format!("{ATTRIBUTES} is given twice; expected it once"))),
        }
    }

    /// The URL of one of the servers.
    fn with(&self, server: &str) -> String {
        let kept: Vec<&str> = self
            .parameters
            .iter()
            .copied()
            .filter(|parameter| Self::name_of(parameter) != ATTRIBUTES)
            .collect();
        let query = if kept.is_empty() {
            String::new()
        } else {
            format!("?{}", kept.join("&"))
        };
        format!("{}{server}{}{query}", self.before, self.path)
    }
}

/// What is wrong with one member of a list.
fn member_problem(position: usize, member: &str) -> Option<HostsError> {
    let problem = |what: &str| Some(HostsError(format!("server {position} of its list {what}")));
    if member.is_empty() {
        return problem("is empty; expected host:port, and a comma between two of them");
    }
    // An address of version 6 has colons of its own, in brackets.
    let (host, port) = match member.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address, port.strip_prefix(':').or((!port.is_empty()).then_some(port))),
            None => return problem("has no closing bracket; expected [address]:port"),
        },
        None => match member.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (member, None),
        },
    };
    if host.is_empty() {
        return problem("has no host; expected host:port");
    }
    let good = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if good {
        None
    } else {
        problem("has no port from 1 to 65535; expected host:port")
    }
}

impl Hosts {
    /// Reads a URL. Several servers are taken for one primary and its standbys, whatever else is said: dbkeep writes.
    ///
    /// # Errors
    /// What is wrong with it, by position and without its text.
    pub(crate) fn parse(url: &str) -> Result<Self, HostsError> {
        let malformed = || HostsError("expected postgres://user@host:port/database".to_owned());
        let parts = Parts::of(url).ok_or_else(malformed)?;
        if parts.is_cut_short() {
            return Err(HostsError(
                "its user or password holds a character that has a meaning in a URL; expected / as %2F, ? as %3F, # as %23 and @ as %40".to_owned(),
            ));
        }
        let said = parts.writable()?;
        let members: Vec<&str> = parts.list.split(',').collect();
        if members.len() > MAX_HOSTS {
            return Err(HostsError(format!(
                "names {} servers; expected at most {MAX_HOSTS}",
                members.len()
            )));
        }
        if members.len() > 1 {
            if said == Some(false) {
                return Err(HostsError(format!(
                    "{ATTRIBUTES}=any with several servers would write to a standby; expected read-write"
                )));
            }
            if let Some(place) = PLACES
                .into_iter()
                .find(|place| parts.parameters.iter().any(|parameter| Parts::name_of(parameter) == *place))
            {
                return Err(HostsError(format!(
                    "parameter {place} beside a list of servers; expected the servers before the path alone"
                )));
            }
            for (index, member) in members.iter().enumerate() {
                if let Some(problem) = member_problem(index + 1, member) {
                    return Err(problem);
                }
                if let Some(earlier) = members[..index].iter().position(|other| other == member) {
                    return Err(HostsError(format!(
                        "server {} of its list is server {} once more; expected each once",
                        index + 1,
                        earlier + 1
                    )));
                }
            }
        }
        // Both of them separated by commas is what other programs read from parameters.
        let listed = |parameter: &&&str| {
            PLACES.contains(&Parts::name_of(parameter)) && (parameter.contains(',') || parameter.to_lowercase().contains("%2c"))
        };
        if let Some(parameter) = parts.parameters.iter().find(listed) {
            return Err(HostsError(format!(
                "parameter {} is a list; expected the servers before the path, as in postgres://h1:5432,h2:5432/database",
                Parts::name_of(parameter)
            )));
        }
        let unread = |position: usize| match members.len() {
            1 => malformed(),
            _ => HostsError(format!("server {position} of its list cannot be read; expected host:port")),
        };
        let servers = members
            .iter()
            .enumerate()
            .map(|(index, member)| {
                let url = parts.with(member);
                let options = PgConnectOptions::from_str(&url).map_err(|_| unread(index + 1))?;
                let place = options
                    .get_socket()
                    .map_or_else(|| options.get_host().to_owned(), |socket| socket.display().to_string());
                Ok(Server {
                    name: format!("{place}:{}", options.get_port()),
                    url,
                    options,
                })
            })
            .collect::<Result<Vec<_>, HostsError>>()?;
        Ok(Self {
            writable: said.unwrap_or(servers.len() > 1),
            servers,
            last: Arc::new(AtomicUsize::new(NOBODY)),
            asked: Arc::default(),
        })
    }

    /// Changes how every server is connected to.
    pub(crate) fn map(mut self, change: impl Fn(PgConnectOptions) -> PgConnectOptions) -> Self {
        for server in &mut self.servers {
            server.options = change(server.options.clone());
        }
        self
    }

    /// The same servers, and another database of theirs.
    pub(crate) fn in_database(&self, name: &str) -> Self {
        self.clone().map(|options| options.database(name))
    }

    /// How the first of them is connected to: user, database and encryption are those of all.
    pub(crate) fn first(&self) -> &PgConnectOptions {
        &self.servers[0].options
    }

    /// The URL of each of them.
    pub(crate) fn urls(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.url.as_str())
    }

    /// The URL of one of them.
    pub(crate) fn url(&self, index: usize) -> &str {
        &self.servers[index].url
    }

    /// Host and port of one of them.
    pub(crate) fn name(&self, index: usize) -> &str {
        &self.servers[index].name
    }

    /// Hosts and ports of all of them.
    pub(crate) fn names(&self) -> String {
        self.servers
            .iter()
            .map(|server| server.name.as_str())
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Hosts and ports, each with commas in between, as PostgreSQL's own programs take them.
    pub(crate) fn places(&self) -> (String, String) {
        let place = |server: &Server| {
            let options = &server.options;
            let socket = options.get_socket().map(|socket| socket.display().to_string());
            socket.unwrap_or_else(|| options.get_host().trim_matches(['[', ']']).to_owned())
        };
        let port = |server: &Server| server.options.get_port().to_string();
        let joined = |parts: Vec<String>| parts.join(",");
        (
            joined(self.servers.iter().map(place).collect()),
            joined(self.servers.iter().map(port).collect()),
        )
    }

    /// Whether only a server that takes writes will do.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// A connection to a server that will do: to the one that answered last, for as long as it will and is [`BELIEVED`]; otherwise to the one
    /// that is [`choose`](Self::choose)n among all.
    ///
    /// # Errors
    /// Of the only server, as it came. Of several, what each of them said.
    pub(crate) async fn connect(&self, within: Duration) -> Result<PgConnection, sqlx::Error> {
        if let [only] = &self.servers[..] {
            return bounded(within, self.enter(only)).await;
        }
        let begun = Instant::now();
        let last = self.last();
        if let Some(last) = last.filter(|_| !self.is_to_ask()) {
            // Others are left time to be tried after it.
            if let Ok(connection) = bounded(within / self.parts(), self.enter(&self.servers[last])).await {
                return Ok(connection);
            }
            self.last.store(NOBODY, Ordering::Relaxed);
        }
        let chosen = self.choose(within.saturating_sub(begun.elapsed())).await?;
        if last.is_some_and(|last| last != chosen.index) {
            tracing::warn!(
                server = self.name(chosen.index),
                "another server of the list takes writes now"
            );
        }
        Ok(chosen.connection)
    }

    /// Whether all of them are to be asked: by whoever is told so, and by nobody else meanwhile.
    fn is_to_ask(&self) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = asked.is_none_or(|at| at.elapsed() >= BELIEVED);
        if due {
            *asked = Some(Instant::now());
        }
        due
    }

    /// Which server will do, of all that answer in time; two that take writes are told apart by their timelines. Which start of it.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub(crate) async fn find(&self, within: Duration) -> Result<Found, sqlx::Error> {
        let chosen = self.choose(within).await?;
        // It was only asked; whether it hears of the end makes no difference.
        drop(chosen.connection.close().await);
        Ok(Found {
            index: chosen.index,
            started: chosen.standing.started,
        })
    }

    fn last(&self) -> Option<usize> {
        Some(self.last.load(Ordering::Relaxed)).filter(|last| *last < self.servers.len())
    }

    fn parts(&self) -> u32 {
        u32::try_from(self.servers.len()).unwrap_or(1)
    }

    /// Asks all servers at once. Where one takes writes, the others get a moment more to say that they do: after a promotion the old primary may
    /// be there still, or again, and the one that was promoted last is on the higher timeline. Of those that do not answer nothing is known.
    async fn choose(&self, within: Duration) -> Result<Chosen, sqlx::Error> {
        // Each has to have said what there is to say before whoever waits for this gives up.
        let each = within * 9 / 10;
        let mut asking: FuturesUnordered<_> = (self.servers.iter().enumerate())
            .map(|(index, server)| async move { (index, bounded(each, self.stand(server)).await) })
            .collect();
        let mut until = Instant::now() + within;
        let (mut found, mut said): (Vec<Chosen>, Vec<(usize, sqlx::Error)>) = (Vec::new(), Vec::new());
        while let Ok(Some((index, answer))) = timeout_at(until, asking.next()).await {
            match answer {
                Ok((connection, standing)) => {
                    if found.is_empty() {
                        until = Instant::now() + GRACE;
                    }
                    found.push(Chosen {
                        connection,
                        index,
                        standing,
                    });
                }
                Err(error) => said.push((index, error)),
            }
        }
        found.sort_by_key(|chosen| (Reverse(chosen.standing.timeline), chosen.index));
        let mut found = found.into_iter();
        // Whoever comes after a question without an answer asks again.
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let Some(first) = found.next() else {
            return Err(self.none(said));
        };
        if let Some(second) = found.find(|other| !first.standing.is_before(&other.standing)) {
            return Err(sqlx::Error::Io(io::Error::new(
                io::ErrorKind::NotConnected,
                format!(
                    "two of its servers take writes, and nothing tells which of them was promoted last: {} and {}; expected one",
                    self.name(first.index),
                    self.name(second.index)
                ),
            )));
        }
        self.last.store(first.index, Ordering::Relaxed);
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(first)
    }

    /// What is said where no server will do.
    fn none(&self, mut said: Vec<(usize, sqlx::Error)>) -> sqlx::Error {
        said.sort_by_key(|(index, _)| *index);
        if let [_] = &said[..]
            && let Some((_, error)) = said.pop()
        {
            return error;
        }
        let text = said
            .iter()
            .map(|(index, error)| format!("{}: {}", self.name(*index), words(error)))
            .collect::<Vec<_>>()
            .join("; ");
        // Where every server knows this user and refuses it, no failover is going on.
        let code = |error: &sqlx::Error| {
            let code = error.as_database_error()?.code()?;
            (!code.starts_with("57P")).then(|| code.into_owned())
        };
        let codes: Option<Vec<String>> = said.iter().map(|(_, error)| code(error)).collect();
        if let Some(code) = codes.and_then(|codes| codes.into_iter().next()) {
            return sqlx::Error::Database(Box::new(Refusals { text, code }));
        }
        // One that has no room for another connection may be the primary, at work: that is another thing than silence.
        let kind = match said.iter().any(|(_, error)| code(error).is_some()) {
            true => io::ErrorKind::ResourceBusy,
            false => io::ErrorKind::NotConnected,
        };
        sqlx::Error::Io(io::Error::new(kind, format!("none of its servers takes writes: {text}")))
    }

    /// A connection to one server, if that will do, and what tells it from others that would.
    async fn stand(&self, server: &Server) -> Result<(PgConnection, Standing), sqlx::Error> {
        let mut connection = self.enter(server).await?;
        let started: i64 = sqlx::raw_sql(STARTED).fetch_one(&mut connection).await?.try_get(0)?;
        // Some services do not tell; that matters only where there are two.
        let timeline = match sqlx::raw_sql(TIMELINE).fetch_one(&mut connection).await {
            Ok(row) => row.try_get(0)?,
            Err(sqlx::Error::Database(_)) => None,
            Err(error) => return Err(error),
        };
        Ok((connection, Standing { timeline, started }))
    }

    /// A connection to one server, if that will do.
    async fn enter(&self, server: &Server) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&server.options).await?;
        if !self.writable {
            return Ok(connection);
        }
        let row = sqlx::raw_sql(READ_ONLY).fetch_optional(&mut connection).await?;
        if row.is_some() {
            drop(connection.close().await);
            return Err(read_only());
        }
        Ok(connection)
    }
}

/// The error of a server that does not take writes.
pub(crate) fn read_only() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, "it is a standby, or read-only"))
}

/// An error in few words. What the driver says of a URL may quote it.
pub(crate) fn words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Tls(error) => format!("TLS: {error}"),
        sqlx::Error::Protocol(error) => format!("protocol: {error}"),
        _ => "the driver failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_testkit::{Durability, PrivatePostgres, ReplicatedPostgres};

    use super::*;

    /// Longest wait for a server; only a failing test takes that long.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_list_becomes_one_url_each() {
        let hosts = Hosts::parse(
            "postgresql://me:p%40ss,word@h1:6001,h2,[::1]:6003/app?sslmode=require&target_session_attrs=read-write&user=you",
        )
        .expect("three servers");
        assert_eq!(hosts.names(), "h1:6001,h2:5432,[::1]:6003");
        assert!(hosts.is_writable());
        assert_eq!(hosts.url(1), "postgresql://me:p%40ss,word@h2/app?sslmode=require&user=you");
        assert_eq!(hosts.places(), ("h1,h2,::1".to_owned(), "6001,5432,6003".to_owned()));
        assert_eq!(hosts.first().get_database(), Some("app"));
        assert_eq!(hosts.in_database("other").first().get_database(), Some("other"));
        for (url, writable) in [
            ("postgres://h/d", false),
            ("postgres://h/d?target_session_attrs=any", false),
            ("postgres://h/d?target_session_attrs=primary", true),
            ("postgres://a,b/d", true),
            ("postgres://a,b", true),
            ("postgres://%2Frun%2Fone,%2Frun%2Ftwo/d", true),
            ("postgres:///d?host=/run/postgresql", false),
            ("postgres://h:5432/d?user=me@there", false),
            ("postgres://u:a,b@h/d", false),
            ("postgres://u:a,b@h1:1,h2:2/d", true),
        ] {
            let hosts = Hosts::parse(url).expect(url);
            assert_eq!(hosts.is_writable(), writable, "{url}");
            assert!(!hosts.url(0).contains("target_session_attrs"), "{url}");
        }
    }

    /// A primary that came back beside the one that was promoted takes writes, too, and is first in the list.
    #[tokio::test]
    async fn of_two_primaries_the_one_that_was_promoted_last_is_taken() {
        let pair = ReplicatedPostgres::start().await.expect("a primary and its standby");
        let hosts = Hosts::parse(&pair.url("postgres")).expect("two servers");
        let before = hosts.find(PATIENCE).await.expect("the primary");
        assert_eq!(before.index, 0);
        pair.fail_over().await.expect("a promotion");
        pair.primary().start_again().await.expect("it came back");
        let after = hosts.find(PATIENCE).await.expect("one of two");
        assert_eq!(after.index, 1, "it is on the higher timeline");
        assert_ne!(after.started, before.started);
        // Whoever starts now, and whoever connects, finds the same.
        let anew = Hosts::parse(&pair.url("postgres")).expect("two servers");
        drop(anew.connect(PATIENCE).await.expect("a connection"));
        assert_eq!(anew.last(), Some(1));
    }

    /// A primary that was superseded and goes on taking writes: no connection to it fails, and it is left all the same.
    #[tokio::test]
    async fn a_superseded_primary_that_takes_writes_is_left_when_the_servers_are_asked_again() {
        let pair = ReplicatedPostgres::start().await.expect("a primary and its standby");
        let hosts = Hosts::parse(&pair.url("postgres")).expect("two servers");
        let connect = async || drop(hosts.connect(PATIENCE).await.expect("a connection"));
        connect().await;
        assert_eq!(hosts.last(), Some(0));
        pair.promote().await.expect("promoted");
        // As long as its word is believed; then as if that had been long ago.
        connect().await;
        assert_eq!(hosts.last(), Some(0), "it was asked just now");
        *hosts.asked.lock().expect("the time") = Instant::now().checked_sub(BELIEVED);
        connect().await;
        assert_eq!(hosts.last(), Some(1), "the other one is on the higher timeline");
        connect().await;
        assert_eq!(hosts.last(), Some(1));
    }

    #[tokio::test]
    async fn two_primaries_that_nothing_tells_apart_are_refused() {
        let (one, two) = (start().await, start().await);
        let url = format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres",
            one.port(),
            two.port()
        );
        let error = Hosts::parse(&url).expect("two servers").connect(PATIENCE).await;
        let error = error.expect_err("either may be the wrong one").to_string();
        for expected in [
            "two of its servers take writes",
            &one.port().to_string(),
            &two.port().to_string(),
        ] {
            assert!(error.contains(expected), "{error}");
        }
        // The same server by two names is one.
        let url = format!("postgres://postgres@127.0.0.1:{0},localhost:{0}/postgres", one.port());
        let connected = Hosts::parse(&url).expect("two names").connect(PATIENCE).await;
        drop(connected.expect("one server"));
    }

    #[tokio::test]
    async fn what_several_servers_say_is_told_by_their_names() {
        let (one, two) = (start().await, start().await);
        let url = format!(
            "postgres://nobody_of_that_name:hunter2@127.0.0.1:{},127.0.0.1:{}/postgres",
            one.port(),
            two.port()
        );
        let error = Hosts::parse(&url).expect("two servers").connect(PATIENCE).await;
        let error = error.expect_err("nobody knows this user");
        let code = error.as_database_error().and_then(DatabaseError::code).map(Cow::into_owned);
        assert_eq!(code.as_deref(), Some("28000"), "{error}");
        let error = error.to_string();
        for server in [&one, &two] {
            assert!(error.contains(&format!("127.0.0.1:{}: ", server.port())), "{error}");
        }
        assert!(!error.contains("hunter2"), "{error}");
    }

    async fn start() -> PrivatePostgres {
        PrivatePostgres::start(Durability::Fast).await.expect("a server")
    }

    #[test]
    fn what_is_wrong_is_said_without_the_text() {
        for (url, expected) in [
            ("postgres://u:hunter2@a,,b/d", "server 2 of its list is empty"),
            ("postgres://u:hunter2@a,b,/d", "server 3 of its list is empty"),
            ("postgres://u:hunter2@a:1,:2/d", "server 2 of its list has no host"),
            ("postgres://u:hunter2@a,b:hunter2/d", "server 2 of its list has no port"),
            ("postgres://u:hunter2@a,b:0/d", "has no port from 1 to 65535"),
            ("postgres://u:hunter2@a,b:65536/d", "has no port from 1 to 65535"),
            ("postgres://u:hunter2@a,b:/d", "has no port from 1 to 65535"),
            ("postgres://u:hunter2@a,[::1/d", "no closing bracket"),
            ("postgres://u:hunter2@a,[::1]hunter2/d", "has no port"),
            ("postgres://u:hunter2@a,b,a/d", "server 3 of its list is server 1 once more"),
            (
                "postgres://u:hunter2@a,b,c,d,e,f,g,h,i/d",
                "names 9 servers; expected at most 8",
            ),
            (
                "postgres://u:hunter2@a,b/d?target_session_attrs=any",
                "would write to a standby",
            ),
            (
                "postgres://u:hunter2@a,b/d?target_session_attrs=standby",
                "another than read-write",
            ),
            (
                "postgres://u:hunter2@a/d?target_session_attrs=hunter2",
                "another than read-write",
            ),
            (
                "postgres://u@a,b/d?target_session_attrs=primary&target_session_attrs=primary",
                "given twice",
            ),
            ("postgres://u:hunter2@a,b/d?port=5433", "parameter port beside a list"),
            ("postgres://u:hunter2@/d?host=a,b", "parameter host is a list"),
            ("postgres://u:hunter2@/d?port=1%2C2", "parameter port is a list"),
            ("postgres://u:hunter2/x@h/d", "expected / as %2F"),
            ("postgres://u:1/hunter2@h:5432/d", "expected / as %2F"),
            ("postgres://u:hunter2,x/y@h1:5432,h2:5432/d", "expected / as %2F"),
            ("postgres://u:hunter2?x@h/d", "? as %3F"),
            ("postgres://u:hunter2#x@h/d", "# as %23"),
            ("postgres:hunter2", "expected postgres://user@host:port/database"),
            ("postgres://u:hunter2@h:port/d", "expected postgres://user@host:port/database"),
        ] {
            let Err(error) = Hosts::parse(url) else { panic!("{url}") };
            let error = error.to_string();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
