//! The servers of PostgreSQL that a URL names: one, or several of which one takes writes, as in
//! `postgres://user@h1:5432,h2:5432/db?target_session_attrs=read-write`. The driver knows URLs of one server only; this owns the list,
//! the order in which its servers are tried, and the question whether one of them takes writes. Called by the control store and by
//! PostgreSQL targets, for every connection that they open.

use std::{
    io,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

/// Most servers of a list. Each of them gets its share of the time for a connection.
pub(crate) const MAX_HOSTS: usize = 8;
/// One row where a session may not write: of a standby, or of a server that was made read-only.
pub(crate) const READ_ONLY: &str = "SELECT 1 WHERE pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean";
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
    /// The one that answered last, which is tried first.
    last: Arc<AtomicUsize>,
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
        })
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
        let servers = members
            .iter()
            .map(|member| {
                let url = parts.with(member);
                let options = PgConnectOptions::from_str(&url).map_err(|_| malformed())?;
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
            last: Arc::default(),
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

    /// A connection to the first server, from the one that answered last on, that will do.
    ///
    /// # Errors
    /// Of the only server, as it came. Of several, what each of them said.
    pub(crate) async fn connect(&self, within: Duration) -> Result<PgConnection, sqlx::Error> {
        self.reach(within).await.map(|(connection, _)| connection)
    }

    /// Which server will do.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub(crate) async fn find(&self, within: Duration) -> Result<usize, sqlx::Error> {
        let (connection, index) = self.reach(within).await?;
        // It was only asked; whether it hears of the end makes no difference.
        drop(connection.close().await);
        Ok(index)
    }

    async fn reach(&self, within: Duration) -> Result<(PgConnection, usize), sqlx::Error> {
        let number = self.servers.len();
        let share = within / u32::try_from(number).unwrap_or(1);
        let first = self.last.load(Ordering::Relaxed);
        let mut said = Vec::new();
        for offset in 0..number {
            let index = (first + offset) % number;
            let server = &self.servers[index];
            let error = match timeout(share, self.enter(server)).await {
                Ok(Ok(connection)) => {
                    self.last.store(index, Ordering::Relaxed);
                    return Ok((connection, index));
                }
                Ok(Err(error)) => error,
                Err(_) => sqlx::Error::Io(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection within {:.1} s", share.as_secs_f32()),
                )),
            };
            if number == 1 {
                return Err(error);
            }
            said.push((server.name.as_str(), error));
        }
        // Where every server knows this user and refuses it, no failover is going on.
        let refused = |error: &sqlx::Error| {
            let code = error.as_database_error().and_then(|error| error.code());
            code.is_some_and(|code| !code.starts_with("57P"))
        };
        if said.iter().all(|(_, error)| refused(error))
            && let Some((_, error)) = said.pop()
        {
            return Err(error);
        }
        let said: Vec<String> = said.iter().map(|(name, error)| format!("{name}: {}", words(error))).collect();
        Err(sqlx::Error::Io(io::Error::new(
            io::ErrorKind::NotConnected,
            format!("none of its servers takes writes: {}", said.join("; ")),
        )))
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
    use super::*;

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
        ] {
            let hosts = Hosts::parse(url).expect(url);
            assert_eq!(hosts.is_writable(), writable, "{url}");
            assert!(!hosts.url(0).contains("target_session_attrs"), "{url}");
        }
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
