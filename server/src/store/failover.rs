//! A control store on several servers of PostgreSQL, of which one takes writes: which of them the pool connects to.
//!
//! The pool of the driver knows one server at a time. Whenever work on the store fails for want of a server, or takes long, the servers are
//! asked which of them takes writes; where it is another one than before, new connections go there, and those of the time before are not
//! used again. A server becomes a standby by a new start alone, which cuts its connections: none of the pool outlives that.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sqlx::{AnyConnection, AnyPool, Connection as _, any::AnyConnectOptions, pool::PoolConnectionMetadata};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use crate::hosts::{Hosts, READ_ONLY, read_only};

/// Work on the store that takes longer has its servers asked.
const SLOW: Duration = Duration::from_millis(500);
/// Least time between two times that they are asked.
const AGAIN: Duration = Duration::from_millis(250);
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
    current: AtomicUsize,
    /// When it became that.
    since: RwLock<Instant>,
    /// When they were last asked; held while they are.
    asked: Mutex<Option<Instant>>,
}

impl Failover {
    /// The pool connects to server `current` now.
    pub(super) fn new(hosts: Hosts, options: Vec<AnyConnectOptions>, current: usize) -> Arc<Self> {
        Arc::new(Self {
            hosts,
            options,
            current: AtomicUsize::new(current),
            since: RwLock::new(Instant::now()),
            asked: Mutex::new(None),
        })
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
            Ok(index) if index != self.current.load(Ordering::Acquire) => {
                pool.set_connect_options(self.options[index].clone());
                *self.since.write().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                self.current.store(index, Ordering::Release);
                tracing::warn!(
                    server = self.hosts.name(index),
                    "another server of the control store takes writes now"
                );
            }
            Ok(_) => {}
            // Whoever waits for the store says so, too.
            Err(error) => {
                tracing::warn!(error = %super::failure::store_error(&error), "the servers of the control store were asked")
            }
        }
        *asked = Some(Instant::now());
    }

    /// Whether a connection that was idle may be used: it is one to the server of now, and that answers.
    async fn is_usable(&self, connection: &mut AnyConnection, age: Duration) -> bool {
        let since = *self.since.read().unwrap_or_else(PoisonError::into_inner);
        age < since.elapsed() && matches!(timeout(PING, connection.ping()).await, Ok(Ok(())))
    }

    /// What the pool asks before it hands out an idle connection. Those that do not answer are not closed in order: that would be one more wait.
    pub(super) async fn before_acquire(
        &self,
        connection: &mut AnyConnection,
        meta: PoolConnectionMetadata,
    ) -> Result<bool, sqlx::Error> {
        if self.is_usable(connection, meta.age).await {
            return Ok(true);
        }
        let problem = "an idle connection does not answer, or is to the server of before";
        Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::NotConnected,
            problem,
        )))
    }
}

/// Refuses a new connection to a server that takes no writes, such as one that lost its part between the question and the connection.
pub(super) async fn after_connect(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let row = sqlx::raw_sql(READ_ONLY).fetch_optional(connection).await?;
    if row.is_some() { Err(read_only()) } else { Ok(()) }
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
