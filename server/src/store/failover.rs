//! A control store on several servers of PostgreSQL, of which one takes writes: which of them the pool connects to.
//!
//! The pool of the driver knows one server at a time. Whenever work on the store fails for want of a server, or takes long, the servers are
//! asked which of them takes writes; where it is another one than before, new connections go there, and those to the one before are not
//! used again, also where they were begun before and made after. A connection is told by when its server was started. A server becomes a
//! standby by a new start alone, which cuts its connections: none of the pool outlives that.
//!
//! They are also asked now and then while all is well: where two take writes, every server of dbkeep is to work with the same one.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use sqlx::{AnyConnection, AnyPool, Row as _, any::AnyConnectOptions};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use crate::hosts::{Found, Hosts, READ_ONLY, STARTED, read_only};

/// Work on the store that takes longer has its servers asked.
const SLOW: Duration = Duration::from_millis(500);
/// Least time between two times that they are asked.
const AGAIN: Duration = Duration::from_millis(250);
/// Longest time without that they are asked, where there are several.
const NOW_AND_THEN: Duration = Duration::from_secs(10);
/// Longest time for all of them to answer.
const ASKING: Duration = Duration::from_secs(4);
/// Longest wait for a sign of life of a connection that was idle. Servers that are gone without a word answer nothing.
const PING: Duration = Duration::from_secs(1);

/// Whether an error may come of a server that is gone, or is none to write to any more.
pub(super) fn is_of_the_server(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut => true,
        // Shut down, crashed, starting; a transaction that may not write.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code.starts_with("57P0") || code == "25006"),
        _ => false,
    }
}

/// Which of several servers the pool connects to.
pub(super) struct Failover {
    hosts: Hosts,
    /// How each of them is connected to.
    options: Vec<AnyConnectOptions>,
    current: RwLock<Found>,
    /// When they were last asked; held while they are.
    asked: Mutex<Option<Instant>>,
}

impl Failover {
    /// The pool connects to server `current` now.
    pub(super) fn new(hosts: Hosts, options: Vec<AnyConnectOptions>, current: Found) -> Arc<Self> {
        Arc::new(Self {
            hosts,
            options,
            current: RwLock::new(current),
            asked: Mutex::new(Some(Instant::now())),
        })
    }

    fn current(&self) -> Found {
        *self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the servers where that was long ago.
    pub(super) async fn look_now_and_then(&self, pool: &AnyPool) {
        let due = self.options.len() > 1
            && self
                .asked
                .try_lock()
                .is_ok_and(|asked| asked.is_none_or(|at| at.elapsed() >= NOW_AND_THEN));
        if due {
            self.look(pool).await;
        }
    }

    /// Asks the servers which of them takes writes, unless somebody does or just did.
    pub(super) async fn look(&self, pool: &AnyPool) {
        let Ok(mut asked) = self.asked.try_lock() else {
            return;
        };
        if asked.is_some_and(|at| at.elapsed() < AGAIN) {
            return;
        }
        match self.hosts.find(ASKING).await {
            Ok(found) => {
                let before = self.current();
                if found.index != before.index {
                    pool.set_connect_options(self.options[found.index].clone());
                    tracing::warn!(
                        server = self.hosts.name(found.index),
                        "another server of the control store takes writes now"
                    );
                }
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = found;
            }
            // Whoever waits for the store says so, too.
            Err(error) => {
                tracing::warn!(error = %super::failure::store_error(&error), "the servers of the control store were asked")
            }
        }
        *asked = Some(Instant::now());
    }

    /// Whether a connection is to the server of now.
    async fn is_to_current(&self, connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
        let started: i64 = sqlx::raw_sql(STARTED).fetch_one(connection).await?.try_get(0)?;
        Ok(started == self.current().started)
    }

    /// What the pool asks before it hands out an idle connection. Those that do not answer are not closed in order: that would be one more wait.
    pub(super) async fn before_acquire(&self, connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
        match timeout(PING, self.is_to_current(connection)).await {
            Ok(Ok(true)) => Ok(true),
            _ => Err(other_server(
                "an idle connection does not answer, or is to the server of before",
            )),
        }
    }

    /// Refuses a new connection to a server that takes no writes, such as one that lost its part between the question and the connection, and one
    /// that was begun before the pool was pointed elsewhere.
    pub(super) async fn after_connect(&self, connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
        if sqlx::raw_sql(READ_ONLY).fetch_optional(&mut *connection).await?.is_some() {
            return Err(read_only());
        }
        if self.is_to_current(connection).await? {
            return Ok(());
        }
        Err(other_server(
            "it is to another server than the one that is expected to take writes, or was started anew",
        ))
    }
}

fn other_server(problem: &str) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, problem.to_owned()))
}

impl super::ControlStore {
    /// Waits for work on the store. Where it takes long, its servers are asked meanwhile.
    pub(super) async fn watched<T>(&self, work: impl Future<Output = T>) -> T {
        let Some(failover) = &self.failover else {
            return work.await;
        };
        tokio::pin!(work);
        loop {
            let asking = async {
                sleep(SLOW).await;
                failover.look(&self.pool).await;
            };
            tokio::select! {
                done = &mut work => return done,
                () = asking => {}
            }
        }
    }

    /// Asks the servers where an error may come of one of them.
    pub(super) async fn look_after(&self, error: &sqlx::Error) {
        if let Some(failover) = self.failover.as_ref().filter(|_| is_of_the_server(error)) {
            failover.look(&self.pool).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use dbkeep_testkit::ReplicatedPostgres;
    use sqlx::{ConnectOptions as _, any::install_default_drivers};

    use super::*;

    /// A connection that was begun before the switch is refused when it is made after it, and one that was kept is not used again, although
    /// both servers take writes.
    #[tokio::test]
    async fn connections_to_the_server_of_before_are_not_used() {
        install_default_drivers();
        let pair = ReplicatedPostgres::start().await.expect("a primary and its standby");
        let hosts = Hosts::parse(&pair.url("postgres")).expect("two servers");
        let options: Vec<AnyConnectOptions> = hosts
            .urls()
            .map(|url| AnyConnectOptions::from_str(url).expect("a URL"))
            .collect();
        let found = hosts.find(ASKING).await.expect("the primary");
        let failover = Failover::new(hosts, options.clone(), found);
        let pool = AnyPool::connect_lazy_with(options[0].clone());
        let mut old = options[0].connect().await.expect("a connection");
        failover.after_connect(&mut old).await.expect("to the server of now");
        assert!(failover.before_acquire(&mut old).await.expect("it answers"));

        pair.promote().await.expect("promoted");
        *failover.asked.lock().await = None;
        failover.look_now_and_then(&pool).await;
        assert_eq!(failover.current().index, 1);
        assert!(failover.before_acquire(&mut old).await.is_err(), "it was kept");
        let mut late = options[0].connect().await.expect("the old primary lives");
        assert!(failover.after_connect(&mut late).await.is_err(), "it was begun before");
        let mut new = options[1].connect().await.expect("a connection");
        failover.after_connect(&mut new).await.expect("to the server of now");
        assert!(failover.before_acquire(&mut new).await.expect("it answers"));
    }
}
