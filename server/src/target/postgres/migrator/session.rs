//! Sessions in which groups of migrations work: of their own, with the database's settings rather than those of batches, and wiped
//! between two groups.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    time::{Duration, Instant},
};

use dbkeep_engine::port::{Claim, TargetError};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Either, Executor as _, Row as _, ValueRef as _, postgres::PgRow};

use super::super::{
    CONNECT_TIMEOUT, IDLE_LIFETIME, PostgresTarget,
    error::{self, lost, statement},
    holders,
    line::Line,
    liveness,
    load::CANCEL,
};
use crate::hosts::Hosts;

/// Sessions kept between groups.
const KEPT: usize = 2;
/// What `DISCARD ALL` does beside resetting settings, which a group does itself before it ends; that one is a trip of its own.
pub(super) const WIPE: &str =
    "CLOSE ALL; DEALLOCATE ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";
/// After how long a session that was cancelled and does not answer is cancelled again.
const CANCEL_AGAIN: Duration = Duration::from_millis(300);
/// How long a broken or cancelled session gets to take its transaction back.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(10);

/// Sessions between two groups. Only those come back whose group was committed.
#[derive(Default)]
pub(in super::super) struct Sessions(Mutex<Vec<(Session, Instant)>>);

/// A connection, and the process that serves it.
pub(super) struct Session {
    pub(super) connection: Line,
    pub(super) process: Process,
    /// What lets the server miss this side, see [`liveness::watched_by`].
    pub(super) watched: String,
    /// Attempt for which it is noted among those that hold locks.
    pub(super) noted: Option<Claim>,
}

/// The number of a session's process. Behind a pooler each transaction may have another one, and says so as it begins.
#[derive(Clone)]
pub(super) struct Process(Arc<AtomicI32>);

impl Process {
    fn new(number: i32) -> Self {
        Self(Arc::new(AtomicI32::new(number)))
    }

    pub(super) fn number(&self) -> i32 {
        self.0.load(Ordering::Relaxed)
    }

    /// It is this one from now on.
    pub(super) fn set(&self, number: i32) {
        self.0.store(number, Ordering::Relaxed);
    }
}

impl Session {
    /// Notes it for an attempt, so that a newer one can end it. Not within a transaction.
    pub(super) async fn note(&mut self, claim: Claim) -> Result<(), TargetError> {
        if self.noted != Some(claim) {
            holders::note(&mut self.connection, claim, "migration").await?;
            self.noted = Some(claim);
        }
        Ok(())
    }

    /// Takes back whatever is open, as far as the session still answers, and closes it.
    pub(super) async fn give_up(mut self) {
        let rolling_back = async {
            // The answer to a statement that was cancelled is an error, and may be taken for that of the ROLLBACK behind it.
            for _ in 0..2 {
                if self.connection.execute("ROLLBACK").await.is_ok() {
                    // Failing to say goodbye is no error: what was to be taken back is.
                    let _ = self.connection.close().await;
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(ROLLBACK_TIMEOUT, rolling_back).await;
    }
}

impl PostgresTarget {
    /// A session that nothing was done in, or that was wiped.
    pub(super) async fn session(&self) -> Result<Session, TargetError> {
        let mut session = self.unwiped_session().await?;
        // The group before it reset what the session began with.
        let begin = format!("{WIPE}; {}", liveness::watched_by(&session.watched, false));
        session.connection.execute(AssertSqlSafe(begin)).await.map_err(statement)?;
        Ok(session)
    }

    /// A session that has to be wiped before anything is done in it.
    pub(super) async fn unwiped_session(&self) -> Result<Session, TargetError> {
        let kept = {
            let mut kept = self.sessions.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.retain(|(_, since)| since.elapsed() < IDLE_LIFETIME);
            kept.pop()
        };
        if let Some((mut session, _)) = kept {
            // The driver would take a statement that the server has forgotten for prepared.
            if session.connection.clear_cached_statements().await.is_ok() {
                return Ok(session);
            }
        }
        let connecting = async {
            let opening = Line::open(&self.hosts, CONNECT_TIMEOUT, self.silence, "");
            let mut connection = opening.await.map_err(error::connecting)?;
            if !self.parallel {
                let serial = "SET max_parallel_workers_per_gather = 0; SET max_parallel_maintenance_workers = 0";
                connection.execute(serial).await.map_err(statement)?;
            }
            let sql = format!("SELECT pg_catalog.pg_backend_pid(), ({})", liveness::select_taken());
            let (process, watched): (i32, String) = sqlx::query_as(AssertSqlSafe(sql))
                // Nothing stays prepared that would have to be forgotten.
                .persistent(false)
                .fetch_one(&mut connection)
                .await
                .map_err(statement)?;
            Ok(Session {
                connection,
                process: Process::new(process),
                watched,
                noted: None,
            })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| lost(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs())))?
    }

    /// Ends whatever a session does, and gives it up. One cancellation may come before the statement has reached the server, which then
    /// does not hear of it: it is told until it answers.
    pub(super) async fn stop_session(&self, session: Session) {
        let process = session.process.clone();
        let giving_up = session.give_up();
        tokio::pin!(giving_up);
        loop {
            self.cancel(process.number()).await;
            tokio::select! {
                () = &mut giving_up => return,
                () = tokio::time::sleep(CANCEL_AGAIN) => {}
            }
        }
    }

    /// Keeps a session for the next group.
    pub(super) fn keep(&self, session: Session) {
        let mut kept = self.sessions.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT && self.parallel {
            kept.push((session, Instant::now()));
        }
    }
}

/// Cancels what a session does when it is dropped: nobody waits for its answer any more, and the server does not notice by itself.
pub(super) struct Armed {
    hosts: Hosts,
    process: Process,
    armed: bool,
}

impl Armed {
    pub(super) fn new(target: &PostgresTarget, session: &Session) -> Self {
        Self {
            hosts: target.hosts.clone(),
            process: session.process.clone(),
            armed: true,
        }
    }

    pub(super) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (hosts, process) = (self.hosts.clone(), self.process.number());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let cancelling = async {
                    let mut connection = hosts.connect(CONNECT_TIMEOUT).await?;
                    sqlx::query(CANCEL).bind(process).execute(&mut connection).await
                };
                if let Err(error) = cancelling.await {
                    tracing::warn!(process, %error, "a statement that nobody waits for could not be cancelled");
                }
            });
        }
    }
}

/// Executes statements by the simple protocol; the rows of each.
pub(super) async fn simple(connection: &mut Line, sql: String) -> Result<Vec<Vec<PgRow>>, sqlx::Error> {
    let mut results = Vec::new();
    let mut rows = Vec::new();
    let mut stream = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(connection);
    while let Some(next) = stream.try_next().await? {
        match next {
            Either::Left(_) => results.push(std::mem::take(&mut rows)),
            Either::Right(row) => rows.push(row),
        }
    }
    Ok(results)
}

/// A value of a row that came as text.
pub(super) fn text(row: &PgRow, column: usize) -> Result<Option<String>, TargetError> {
    let value = row.try_get_raw(column).map_err(statement)?;
    if value.is_null() {
        return Ok(None);
    }
    let text = value.as_str().map_err(|error| error::refused(error.to_string()))?;
    Ok(Some(text.to_owned()))
}
