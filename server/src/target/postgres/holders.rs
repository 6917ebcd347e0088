//! Sessions that hold locks on behalf of an attempt, by name: a process of ours that is stopped, or whose machine is, does not end them, and
//! the server does not miss it as long as its socket is open. Each notes itself in `dbkeep.session` before it begins its transaction; a
//! newer attempt ends exactly those, and nobody else's.
//!
//! A session is told by its process number and the time at which that process began. Behind a pooler the process may serve somebody else
//! by now, so that it also has to hold the row lock that every transaction of dbkeep takes on `dbkeep.run`; a statement outside of any
//! transaction takes none, and has to say that it is dbkeep's and be at work. What another run left behind is ended by that run's own next
//! attempt: its lease may lapse and be renewed, and then its session is nobody else's to end.
//!
//! Transactions that only read can lock no row; they lock the table in the same mode ([`HELD`]). Programs that an attempt starts are
//! stopped with its machine, too: their sessions are named after run and attempt ([`name`]).

use std::time::Duration;

use dbkeep_engine::{
    model::fence,
    port::{Claim, TargetError},
};
use sqlx::{AssertSqlSafe, Executor as _};

use super::{PostgresTarget, error::statement, line::Line};

/// Makes the table; part of what a claim makes.
pub(super) const CREATE: &str = "CREATE TABLE IF NOT EXISTS dbkeep.session ( \
       pid integer NOT NULL, backend_start timestamptz NOT NULL, run_id text NOT NULL, fence bigint NOT NULL, work text NOT NULL, \
       PRIMARY KEY (pid, backend_start)); \
     COMMENT ON TABLE dbkeep.session IS 'Sessions of dbkeep that hold locks for long. A newer attempt of the run ends those of an older one.'";

/// Shows that the transaction that is open is the one that was noted, where it cannot lock a row.
pub(super) const HELD: &str = "LOCK TABLE dbkeep.run IN ROW SHARE MODE";

/// The name of sessions of a program that an attempt starts.
pub(super) fn name(claim: Claim) -> String {
    format!("dbkeep {} {}", claim.run, claim.fence)
}

/// How long the end of sessions is waited for. They end at the server's next look at interrupts.
const ENDED: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Notes the session; committed at once, so that others see it while its transaction is at work.
pub(super) async fn note(connection: &mut Line, claim: Claim, work: &'static str) -> Result<(), TargetError> {
    sqlx::query(
        "INSERT INTO dbkeep.session AS s (pid, backend_start, run_id, fence, work) \
         SELECT a.pid, a.backend_start, $1, $2, $3 FROM pg_catalog.pg_stat_activity AS a WHERE a.pid = pg_catalog.pg_backend_pid() \
         ON CONFLICT (pid, backend_start) DO UPDATE SET run_id = EXCLUDED.run_id, fence = EXCLUDED.fence, work = EXCLUDED.work",
    )
    .bind(claim.run.to_string())
    .bind(i64::try_from(claim.fence).unwrap_or(i64::MAX))
    .bind(work)
    // Whoever wipes the session makes the server forget what was prepared.
    .persistent(false)
    .execute(connection)
    .await
    .map_err(statement)?;
    Ok(())
}

/// Takes the note of a work back, in the transaction that is open, if one is. It is told by attempt and work: behind a pooler another
/// process may serve this connection than the one that was noted.
pub(super) async fn unnote(connection: &mut Line, claim: Claim, work: &'static str) -> Result<(), TargetError> {
    sqlx::query("DELETE FROM dbkeep.session WHERE run_id = $1 AND fence = $2 AND work = $3")
        .bind(claim.run.to_string())
        .bind(i64::try_from(claim.fence).unwrap_or(i64::MAX))
        .bind(work)
        .persistent(false)
        .execute(connection)
        .await
        .map_err(statement)?;
    Ok(())
}

/// Takes the note of a work back that is over. It does not fail for that: what stays noted is taken back by whoever looks next, when
/// its process is gone.
pub(super) async fn over(connection: &mut Line, claim: Claim, work: &'static str) {
    if let Err(error) = unnote(connection, claim, work).await {
        tracing::warn!(run = %claim.run, work, %error, "the note of a session stays until its process is gone");
    }
}

/// Takes all notes of an attempt back.
pub(super) async fn unnote_all(connection: &mut Line, claim: Claim) -> Result<(), TargetError> {
    sqlx::query("DELETE FROM dbkeep.session WHERE run_id = $1 AND fence = $2")
        .bind(claim.run.to_string())
        .bind(i64::try_from(claim.fence).unwrap_or(i64::MAX))
        .execute(connection)
        .await
        .map_err(statement)?;
    Ok(())
}

/// Process, run, fence, and what it did.
type Noted = (i32, String, i64, String);
/// SQLSTATE `insufficient_privilege`.
const NOT_PERMITTED: &str = "42501";

/// The sessions of attempts of the run `$1` that are older than `$2`.
const OLDER: &str = "SELECT s.pid, s.run_id, s.fence, s.work FROM dbkeep.session AS s \
     JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.pid AND a.backend_start = s.backend_start \
     WHERE s.pid <> pg_catalog.pg_backend_pid() AND a.datname = pg_catalog.current_database() \
       AND s.run_id = $1 AND s.fence < $2 \
       AND ((a.application_name = 'dbkeep' AND a.state IN ('active', 'idle')) OR EXISTS (SELECT 1 FROM pg_catalog.pg_locks AS k \
            WHERE k.pid = a.pid AND k.locktype = 'relation' AND k.mode = 'RowShareLock' AND k.relation = to_regclass('dbkeep.run'))) \
     UNION ALL \
     SELECT n.pid, $1, n.fence, 'pg_dump' FROM (SELECT a.pid, pg_catalog.substring(a.application_name, '^dbkeep ' || $1 || ' ([0-9]{1,18})$')::bigint AS fence \
       FROM pg_catalog.pg_stat_activity AS a WHERE a.datname = pg_catalog.current_database() AND a.xact_start IS NOT NULL \
         AND a.usesysid = (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user)) AS n \
     WHERE n.fence < $2";

impl PostgresTarget {
    /// Ends the sessions of older attempts of the run. Says of each what it was, and of one that may not be ended that it is there.
    pub(super) async fn end_older(&self, claim: Claim) -> Result<Vec<String>, TargetError> {
        let mut connection = self.connection().await?;
        let noted: bool = sqlx::query_scalar("SELECT to_regclass('dbkeep.session') IS NOT NULL")
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        if !noted {
            self.idle.put(connection);
            return Ok(Vec::new());
        }
        let (run, fence) = (claim.run.to_string(), i64::try_from(claim.fence).unwrap_or(i64::MAX));
        let listing = format!("SELECT o.pid, o.run_id, o.fence, o.work FROM ({OLDER}) AS o");
        let older: Vec<Noted> = sqlx::query_as(AssertSqlSafe(listing))
            .bind(&run)
            .bind(fence)
            .fetch_all(&mut connection)
            .await
            .map_err(statement)?;
        // Each is looked at once more by the statement that ends it: behind a pooler its process may have passed on to somebody else
        // since it was listed. One by one, so that one which may not be ended does not keep the others.
        let ending =
            format!("SELECT pg_catalog.pg_terminate_backend(o.pid) FROM ({OLDER}) AS o WHERE o.pid = $3 AND o.fence = $4");
        let (mut told, mut processes) = (Vec::new(), Vec::new());
        for noted in older {
            let end = sqlx::query_scalar(AssertSqlSafe(ending.clone()))
                .bind(&run)
                .bind(fence)
                .bind(noted.0)
                .bind(noted.2);
            match end.fetch_optional(&mut connection).await {
                Ok(Some(true)) => {
                    processes.push(noted.0);
                    told.push(in_words(&noted, true));
                }
                // It went by itself meanwhile, or serves somebody else.
                Ok(Some(false) | None) => {}
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(NOT_PERMITTED) => {
                    told.push(in_words(&noted, false));
                }
                Err(error) => return Err(statement(error)),
            }
        }
        gone(&mut connection, &processes).await?;
        // Of other roles the start is not shown: what cannot be seen to be gone stays noted.
        let forget = "DELETE FROM dbkeep.session AS s WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_activity AS a \
                      WHERE a.pid = s.pid AND (a.backend_start IS NULL OR a.backend_start = s.backend_start))";
        connection.execute(forget).await.map_err(statement)?;
        self.idle.put(connection);
        Ok(told)
    }
}

/// Waits until processes are gone. One that is not in time is met again where its locks are waited for.
async fn gone(connection: &mut Line, processes: &[i32]) -> Result<(), TargetError> {
    let left = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE pid = ANY ($1)";
    let began = std::time::Instant::now();
    while !processes.is_empty() && began.elapsed() < ENDED {
        let left: i64 = sqlx::query_scalar(left)
            .bind(processes)
            .fetch_one(&mut *connection)
            .await
            .map_err(statement)?;
        if left == 0 {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

fn in_words((process, run, fence, work): &Noted, ended: bool) -> String {
    let attempt = fence::attempt(u64::try_from(*fence).unwrap_or(0));
    let what = format!("database session {process} of attempt {attempt} of run {run} ({work})");
    if ended {
        format!(
            "{what} still held its locks, although its server had let the lease lapse: it was ended, and what it had not committed is taken back"
        )
    } else {
        format!("{what} still holds its locks, and the role of the target may not end it: its locks are waited for")
    }
}
