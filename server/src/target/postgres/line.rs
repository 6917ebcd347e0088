//! A line to the server: a connection of the driver whose silence is looked into. A server that loses its power, or a network that
//! swallows packets, closes nothing: a statement would be waited for until the system gives the connection up, which may take a quarter of an
//! hour or for ever. The driver sets no keepalive, and something in between may answer one on behalf of a server that is gone.
//!
//! So whoever waits for an answer for long asks on a new connection what the server makes of the old one:
//!
//! ```text
//!   nothing came for `patience` -> a new connection: is the process there that serves this line, and what does it do?
//!       at work                                      -> waited on; asked again
//!       gone, twice                                  -> the line is dead
//!       it waits for this side, for six patiences    -> the line is dead; what waits there is ended, so that its locks are free
//!       no server answers, for `patience`            -> the line is dead
//!       the server answers and cannot say            -> waited on; asked again
//! ```
//!
//! A process is told by its number and the time at which it began. Behind a pooler the new connection is served by a process that was there
//! before: then nothing is concluded from what is seen, and only a server that does not answer is missed. docs/adr/0017-silent-targets.md.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt as _, Stream,
    future::BoxFuture,
    stream::{BoxStream, StreamExt as _},
};
use sqlx::{
    AssertSqlSafe, Connection as _, Describe, Either, Execute, Executor, PgConnection, Postgres, Row as _, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::time::{Instant, sleep, timeout};

use super::liveness;
use crate::hosts::Hosts;

/// Longest time between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Shortest limit for a look: to connect, and to ask. It may take as long as silence may, since a server that builds an index is slow to answer.
const LOOK: Duration = Duration::from_secs(5);
/// A process that seems to wait for this side has to do so for this many times the patience: a row or a parameter of a gigabyte is on its way
/// for long, and nothing tells it from a connection that is dead.
const ON_ITS_WAY: u32 = 6;
/// Who serves a session: its process, and when that began. One that began before the connection did belongs to a pooler.
/// A role that was set for the session may not see when its own process began; the start of the server tells whether a look met the same one.
const SELF: &str = "SELECT s.pid, s.backend_start::text, s.backend_start > pg_catalog.clock_timestamp() - interval '10 s', \
       pg_catalog.pg_postmaster_start_time()::text, pg_catalog.pg_is_in_recovery() \
     FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS s";
/// What that process does. Statistics that are switched off say nothing of it, so that it counts as at work.
const DOES: &str = "SELECT CASE WHEN a.state LIKE 'idle%' THEN pg_catalog.concat_ws(' since ', a.state, a.state_change::text) \
       WHEN a.wait_event IN ('ClientRead', 'ClientWrite') THEN pg_catalog.concat_ws(' since ', 'waiting for its client', a.state_change::text) END \
     FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = $1 AND a.backend_start = $2::timestamptz";
/// Ends it, unless it is at work by now. What is idle outside of a transaction holds nothing that anybody waits for.
const END: &str = "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity AS a \
     WHERE a.pid = $1 AND a.backend_start = $2::timestamptz AND (a.state LIKE 'idle in transaction%' OR (a.state = 'active' AND a.wait_event IN ('ClientRead', 'ClientWrite')))";

/// A connection that is not waited for in vain.
pub(super) struct Line {
    connection: PgConnection,
    watch: Watch,
}

/// What looks into the silence of a line, apart from the connection, which the driver borrows for a copy.
pub(super) struct Watch {
    /// `None` where silence is not looked into.
    peer: Option<Arc<Peer>>,
    /// Once it is dead nothing is waited for on it again.
    dead: bool,
}

/// The other end of a line.
struct Peer {
    hosts: Hosts,
    patience: Duration,
    process: i32,
    began: String,
    /// When the server was started that this process belongs to.
    started: String,
    /// Whether it began with the connection, so that it is nobody else's.
    own: bool,
}

/// What a look shows.
enum Seen {
    Working,
    /// Gone: it was there, and is not any more.
    Gone,
    /// Idle, or waiting for this side, in words that are the same as long as nothing changes.
    Waiting(String),
    /// Somebody answers, and nothing follows from it.
    Unsure(String),
    Unreachable(String),
}

impl Line {
    /// Connects and prepares the session. `patience` is how long nothing has to come before the silence is looked into; zero for never.
    ///
    /// # Errors
    /// As [`Hosts::connect`], and what the server says of `session`.
    pub(super) async fn open(hosts: &Hosts, within: Duration, patience: Duration, session: &str) -> Result<Self, sqlx::Error> {
        let mut connection = hosts.connect(within).await?;
        let session = format!("{}; {session}", liveness::watched());
        if patience.is_zero() {
            sqlx::raw_sql(AssertSqlSafe(session)).execute(&mut connection).await?;
            let watch = Watch { peer: None, dead: false };
            return Ok(Self { connection, watch });
        }
        // One trip for all; who serves it is the last row.
        let separator = if session.ends_with("; ") { "" } else { "; " };
        let sql = format!("{session}{separator}{SELF}");
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
        let row = rows.last().ok_or(sqlx::Error::RowNotFound)?;
        let peer = Peer {
            hosts: hosts.clone(),
            patience,
            process: row.try_get::<Option<i32>, _>(0)?.unwrap_or_default(),
            began: row.try_get::<Option<String>, _>(1)?.unwrap_or_default(),
            started: row.try_get(3)?,
            own: row.try_get::<Option<bool>, _>(2)?.unwrap_or(false),
        };
        let watch = Watch {
            peer: Some(Arc::new(peer)),
            dead: false,
        };
        Ok(Self { connection, watch })
    }

    /// The connection for a copy, and what to wait for its parts with.
    pub(super) fn parts(&mut self) -> (&mut PgConnection, &mut Watch) {
        (&mut self.connection, &mut self.watch)
    }

    /// Says goodbye to the server.
    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        let Self { connection, mut watch } = self;
        watch.wait(connection.close()).await
    }

    /// Forgets what was prepared, on both sides.
    pub(super) async fn clear_cached_statements(&mut self) -> Result<(), sqlx::Error> {
        self.watch.wait(self.connection.clear_cached_statements()).await
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = self.watch.peer.as_ref().map(|peer| peer.process);
        formatter
            .debug_struct("Line")
            .field("process", &process)
            .finish_non_exhaustive()
    }
}

fn dead(why: &str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, why.to_owned()))
}

impl Watch {
    /// Waits for an answer.
    ///
    /// # Errors
    /// That of the work, or `Io` where the line is dead.
    pub(super) fn wait<'e, T>(
        &'e mut self,
        work: impl Future<Output = Result<T, sqlx::Error>> + Send + 'e,
    ) -> BoxFuture<'e, Result<T, sqlx::Error>>
    where
        T: Send + 'e,
    {
        Box::pin(async move {
            let Some(peer) = &self.peer else { return work.await };
            if self.dead {
                return Err(dead("it was silent before"));
            }
            let lost = tokio::select! {
                biased;
                done = work => return done,
                lost = Arc::clone(peer).lost() => lost,
            };
            self.dead = true;
            Err(dead(&lost))
        })
    }

    /// Waits for each part of an answer. While nobody asks for the next one, nothing is missed.
    pub(super) fn follow<'e, T>(
        &'e mut self,
        parts: BoxStream<'e, Result<T, sqlx::Error>>,
    ) -> BoxStream<'e, Result<T, sqlx::Error>>
    where
        T: Send + 'e,
    {
        if self.peer.is_none() {
            return parts;
        }
        Box::pin(Followed {
            parts,
            watch: self,
            looking: None,
        })
    }
}

/// An answer that comes in parts.
struct Followed<'e, T> {
    parts: BoxStream<'e, Result<T, sqlx::Error>>,
    watch: &'e mut Watch,
    /// Since the last part.
    looking: Option<BoxFuture<'static, String>>,
}

impl<T> Stream for Followed<'_, T> {
    type Item = Result<T, sqlx::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.watch.dead {
            return Poll::Ready(Some(Err(dead("it was silent before"))));
        }
        if let Poll::Ready(part) = self.parts.poll_next_unpin(context) {
            self.looking = None;
            return Poll::Ready(part);
        }
        let Some(peer) = self.watch.peer.clone() else {
            return Poll::Pending;
        };
        let looking = self.looking.get_or_insert_with(|| peer.lost().boxed());
        let Poll::Ready(lost) = looking.poll_unpin(context) else {
            return Poll::Pending;
        };
        self.watch.dead = true;
        Poll::Ready(Some(Err(dead(&lost))))
    }
}

impl Peer {
    /// Returns when nothing can come from it any more, and why.
    async fn lost(self: Arc<Self>) -> String {
        sleep(self.patience).await;
        // Most answers come before that: what follows has no part in what every statement costs.
        Box::pin(self.look_until_lost()).await
    }

    async fn look_until_lost(self: Arc<Self>) -> String {
        // What was seen before, since when, and for how long it has to last: once may be an answer that is just on its way.
        let mut before: Option<(String, Instant)> = None;
        loop {
            let begun = Instant::now();
            let (words, lasting) = match self.look().await {
                Seen::Working => (String::new(), None),
                Seen::Unsure(why) => {
                    tracing::debug!(process = self.process, why, "a silent connection, of which nothing is known");
                    (String::new(), None)
                }
                Seen::Gone => (format!("its process {} is gone", self.process), Some(Duration::ZERO)),
                Seen::Waiting(words) => (
                    format!("its process {} is {words}", self.process),
                    Some(self.patience * ON_ITS_WAY),
                ),
                Seen::Unreachable(why) => (format!("the server does not answer: {why}"), Some(self.patience)),
            };
            before = match (before, lasting) {
                (_, None) => None,
                (Some((known, since)), Some(lasting)) if alike(&known, &words) => {
                    if since.elapsed() >= lasting {
                        self.end().await;
                        return format!(
                            "nothing came for {:.1} s, and {words}",
                            (self.patience + since.elapsed()).as_secs_f32()
                        );
                    }
                    Some((known, since))
                }
                _ => Some((words, begun)),
            };
            sleep(self.patience.min(LOOK_AGAIN)).await;
        }
    }

    async fn look(&self) -> Seen {
        let limit = self.limit();
        match timeout(limit, self.ask()).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) if says_nothing_came(&error) => Seen::Unreachable(crate::hosts::words(&error)),
            // The server lives, whatever it has against a connection; or it is this side that cannot make one.
            Ok(Err(error)) => Seen::Unsure(crate::hosts::words(&error)),
            Err(_) => Seen::Unreachable(format!("no answer within {:.1} s", limit.as_secs_f32())),
        }
    }

    fn limit(&self) -> Duration {
        self.patience.max(LOOK)
    }

    async fn ask(&self) -> Result<Seen, sqlx::Error> {
        let mut connection = self.hosts.connect(self.limit()).await?;
        let row = sqlx::raw_sql(SELF).fetch_one(&mut connection).await?;
        let own: Option<bool> = row.try_get(2)?;
        if own != Some(true) || !self.own {
            return Ok(Seen::Unsure("a pooler is in between".to_owned()));
        }
        let (started, in_recovery): (String, bool) = (row.try_get(3)?, row.try_get(4)?);
        if started != self.started {
            // A standby that something in between chose for reading tells nothing of its primary; a primary has taken its place, or is the
            // same one started anew.
            return Ok(if in_recovery {
                Seen::Unsure("another server answers".to_owned())
            } else {
                Seen::Gone
            });
        }
        let does: Option<Option<String>> = sqlx::query_scalar(DOES)
            .bind(self.process)
            .bind(&self.began)
            .fetch_optional(&mut connection)
            .await?;
        // Goodbye is said so that the server does not log a connection that broke; nobody waits for what becomes of it.
        drop(connection.close().await);
        Ok(match does {
            None => Seen::Gone,
            Some(None) => Seen::Working,
            Some(Some(words)) => Seen::Waiting(words),
        })
    }

    /// Ends what waits for this side for nothing. Where that fails, the limits of its session do it later.
    async fn end(&self) {
        let ending = async {
            let mut connection = self.hosts.connect(self.limit()).await?;
            sqlx::query(END)
                .bind(self.process)
                .bind(&self.began)
                .execute(&mut connection)
                .await
        };
        match timeout(self.limit(), ending).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    process = self.process,
                    error = crate::hosts::words(&error),
                    "a dead session was not ended"
                );
            }
            Err(_) => tracing::warn!(process = self.process, "a dead session was not ended in time"),
        }
    }
}

/// Whether two looks saw the same. Why a server does not answer may change from one to the next.
fn alike(before: &str, now: &str) -> bool {
    let away = |words: &str| words.starts_with("the server does not answer");
    before == now || (away(before) && away(now))
}

/// Whether an error means that no server answered. Names that cannot be resolved, certificates, and files that may not be opened are no
/// sign of what became of the server.
fn says_nothing_came(error: &sqlx::Error) -> bool {
    let sqlx::Error::Io(error) = error else { return false };
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            // None of several servers: see `Hosts`.
            | io::ErrorKind::NotConnected
    )
}

impl<'c> Executor<'c> for &'c mut Line {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Line { connection, watch } = self;
        watch.follow(connection.fetch_many(query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Line { connection, watch } = self;
        watch.wait(connection.fetch_optional(query))
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        let Line { connection, watch } = self;
        watch.wait(connection.prepare_with(sql, parameters))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        let Line { connection, watch } = self;
        watch.wait(connection.describe(sql))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(url: &str) -> sqlx::Error {
        let hosts = Hosts::parse(url).expect("a URL");
        hosts.connect(LOOK).await.expect_err("nobody is there")
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_resolved_is_no_sign_of_a_dead_server() {
        // No part of a name is as long, so that nobody has to be asked for it.
        let nameless = refused(&format!("postgres://postgres@{}.invalid/app", "a".repeat(64))).await;
        assert!(matches!(nameless, sqlx::Error::Io(_)), "{nameless:?}");
        assert!(!says_nothing_came(&nameless), "{nameless:?}");
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = free.local_addr().expect("an address");
        drop(free);
        let closed = refused(&format!("postgres://postgres@{address}/app")).await;
        assert!(says_nothing_came(&closed), "{closed:?}");
    }
}
