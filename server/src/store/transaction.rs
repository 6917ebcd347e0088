//! Transactions that write: each in a task of its own, with bounds on every wait.
//!
//! A caller may drop its future at any time, for instance when a lease keeper is aborted. A `BEGIN` dropped half-way would hand
//! a connection inside an open transaction back to the pool (sqlx #4393), so that no caller owns the transaction's future: the
//! task goes on to its end, and at most the answer is lost.

use std::{sync::Arc, time::Duration};

use dbkeep_engine::{notify::Routing, port::StoreError};
use sqlx::{Any, AnyConnection, Connection, pool::PoolConnection};
use tokio::time::{Instant, timeout};

use super::{ControlStore, Dialect, failover::is_of_the_server, failure::Failure};

/// Longest wait for a turn at writing, and longest time that passing failures are repeated.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time of one transaction or read. Statements have shorter limits in the database; this one is for networks that
/// swallow packets.
const LONGEST: Duration = Duration::from_secs(20);
/// Wait before a passing failure is repeated, times the number of tries.
const BACKOFF: Duration = Duration::from_millis(10);
/// Most tries.
const TRIES: u32 = 8;

/// One transaction that writes. It may be performed several times, each time from the start.
pub(super) trait Act: Send + Sync + 'static {
    /// What the caller gets once it is committed.
    type Output: Send + 'static;

    /// Reads and writes; an error rolls everything back.
    fn perform(&self, tx: &mut Tx<'_>) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// An open transaction.
pub(super) struct Tx<'c> {
    pub(super) connection: &'c mut AnyConnection,
    pub(super) dialect: Dialect,
    pub(super) kept_events: u64,
    /// Who is told of what happens in it.
    pub(super) routing: Arc<Routing>,
    /// Whether it puts something into the outbox.
    pub(super) enqueued: bool,
}

impl ControlStore {
    /// Carries out an act to its end, whatever becomes of the caller.
    pub(super) async fn write<A: Act>(&self, act: A) -> Result<A::Output, StoreError> {
        let store = self.clone();
        let task = tokio::spawn(async move { store.write_here(act).await });
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a transaction of the control store did not end");
            Err(StoreError::Unavailable("its transaction was not carried out".to_owned()))
        })
    }

    async fn write_here<A: Act>(&self, act: A) -> Result<A::Output, StoreError> {
        let started = Instant::now();
        let turn = timeout(PATIENCE, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(StoreError::Unavailable("too many writers wait".to_owned()));
        };
        let mut tries = 1;
        loop {
            match self.attempt(&act).await {
                Ok(output) => return Ok(output),
                Err(failure) if failure.is_passing() && tries < TRIES && started.elapsed() < PATIENCE => {
                    tracing::debug!(?failure, tries, "a transaction of the control store is repeated");
                    tokio::time::sleep(BACKOFF * tries).await;
                    tries += 1;
                }
                Err(failure) => return Err(failure.into_store_error()),
            }
        }
    }

    async fn attempt<A: Act>(&self, act: &A) -> Result<A::Output, Failure> {
        let mut connection = self.connection().await?;
        match timeout(LONGEST, self.watched(self.once(act, &mut connection))).await {
            Ok(result) => {
                if let Err(Failure::Database(error)) = &result
                    && is_of_the_server(error)
                {
                    // Not to be used again, also where it would still answer, as one to a server that takes no writes any more.
                    connection.close_on_drop();
                    self.look_after(error).await;
                }
                result
            }
            Err(_) => {
                // Nobody knows what state it is in.
                connection.close_on_drop();
                Err(Failure::Store(no_answer()))
            }
        }
    }

    /// A connection of the pool. Where the store has several servers and the one that was expected is gone, of the one that took over.
    async fn connection(&self) -> Result<PoolConnection<Any>, sqlx::Error> {
        match self.watched(self.pool.acquire()).await {
            Err(error) if self.failover.is_some() && is_of_the_server(&error) => {
                self.look_after(&error).await;
                self.watched(self.pool.acquire()).await
            }
            acquired => acquired,
        }
    }

    async fn once<A: Act>(&self, act: &A, connection: &mut AnyConnection) -> Result<A::Output, Failure> {
        let mut transaction = connection.begin_with(self.dialect.begin()).await?;
        let mut tx = Tx {
            connection: &mut transaction,
            dialect: self.dialect,
            kept_events: self.kept_events,
            routing: Arc::clone(&self.routing),
            enqueued: false,
        };
        let performed = act.perform(&mut tx).await;
        let enqueued = tx.enqueued;
        match performed {
            Ok(output) => {
                // Where the reply to a COMMIT is lost, it may have happened: that is not repeated here. Every act can be
                // repeated by the caller, or is followed by the lapse of a lease.
                let committed = transaction.commit().await;
                if enqueued {
                    // Also where the reply was lost: looking for what may be there costs little.
                    self.mail.notify_one();
                }
                committed?;
                Ok(output)
            }
            Err(failure) => {
                // A connection that cannot roll back is found broken when it returns to the pool.
                drop(transaction.rollback().await);
                Err(failure)
            }
        }
    }

    /// Waits for a read, but not for ever.
    pub(super) async fn read<T>(&self, query: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
        match timeout(LONGEST, self.watched(query)).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => {
                self.look_after(&error).await;
                Err(super::failure::store_error(&error))
            }
            Err(_) => Err(no_answer()),
        }
    }
}

fn no_answer() -> StoreError {
    StoreError::Unavailable(format!("no answer within {} s", LONGEST.as_secs()))
}
