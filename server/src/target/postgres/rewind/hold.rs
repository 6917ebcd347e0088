//! The locks of a transaction that keeps others out, and the transaction itself while the present state is saved.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use dbkeep_engine::port::{MaintenanceError, TargetErrorClass};
use sqlx::{AssertSqlSafe, Executor as _};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::{
    PostgresTarget,
    dump::OWN_SCHEMAS,
    error::{lost, statement},
    line::Line,
    render,
};
use crate::target::ledger::millis;

/// Between two signs of life, well within the time after which the server ends an idle transaction.
const ALIVE: Duration = Duration::from_secs(5);
/// Rest between two tries: whoever waited behind the lock goes first.
const REST: Duration = Duration::from_millis(200);

/// Every table with rows of its own that is not the system's, dbkeep's or an extension's.
const LOCKED: &str = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname <> ALL ($1) AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
       AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
     ORDER BY c.oid";

/// How locks are waited for.
pub(super) struct Locks {
    pub(super) timeout: Duration,
    pub(super) tries: u32,
}

impl Locks {
    /// Locks every table, or none of them.
    pub(super) async fn take(
        &self,
        target: &PostgresTarget,
        connection: &mut Line,
        process: i32,
        mode: &str,
    ) -> Result<(), MaintenanceError> {
        let mut tried = 1;
        loop {
            let found: Vec<(String, String)> = sqlx::query_as(LOCKED)
                .bind(OWN_SCHEMAS.map(str::to_owned).to_vec())
                .fetch_all(&mut *connection)
                .await
                .map_err(statement)?;
            if found.is_empty() {
                return Ok(());
            }
            let names: Vec<String> = found
                .iter()
                .map(|(schema, table)| format!("{}.{}", render::identifier(schema), render::identifier(table)))
                .collect();
            let sql = format!(
                "SAVEPOINT dbkeep_locks; SET LOCAL lock_timeout = {}; LOCK TABLE ONLY {} IN {mode} MODE",
                millis(self.timeout).max(1),
                names.join(", ONLY ")
            );
            let seen = Mutex::new(Vec::new());
            let executed = tokio::select! {
                executed = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection) => executed,
                never = target.note_blockers(process, self.timeout, &seen) => match never {},
            };
            let Err(error) = executed else { return Ok(()) };
            let error = statement(error);
            let waited = matches!(error.class, TargetErrorClass::LockTimeout | TargetErrorClass::Conflict);
            // One that is dropped just now is no longer there to be locked.
            let gone = error.code.as_deref() == Some("42P01");
            if !waited && !gone {
                return Err(error.into());
            }
            if tried >= self.tries {
                let blockers = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
                return Err(self.in_words(error.into(), &blockers));
            }
            connection
                .execute("ROLLBACK TO SAVEPOINT dbkeep_locks")
                .await
                .map_err(statement)?;
            tokio::time::sleep(REST).await;
            tried += 1;
        }
    }

    /// A lock that was waited for in vain, in words; any other error as it is.
    pub(super) fn in_words(&self, error: MaintenanceError, blockers: &[String]) -> MaintenanceError {
        let MaintenanceError::Target(error) = error else {
            return error;
        };
        if !matches!(error.class, TargetErrorClass::LockTimeout | TargetErrorClass::Conflict) {
            return error.into();
        }
        let held = if blockers.is_empty() {
            String::new()
        } else {
            format!("; the lock was held by {}", blockers.join("; "))
        };
        MaintenanceError::Blocked {
            problem: format!(
                "the tables were waited for {} times {} ms in vain: {}{held}; nothing was changed",
                self.tries,
                millis(self.timeout),
                error.message
            ),
        }
    }
}

/// A transaction that is kept open. A process that is stopped gives no sign of life, and the server ends the transaction.
pub(super) struct Kept {
    ended: CancellationToken,
    keeping: tokio::task::JoinHandle<Result<Line, sqlx::Error>>,
    _guard: DropGuard,
}

impl Kept {
    pub(super) fn keep(mut connection: Line) -> Self {
        let ended = CancellationToken::new();
        let stop = ended.clone();
        let keeping = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(connection),
                    () = tokio::time::sleep(ALIVE) => {}
                }
                connection.execute("SELECT 1").await?;
            }
        });
        Self {
            _guard: ended.clone().drop_guard(),
            ended,
            keeping,
        }
    }

    /// Hands the transaction back.
    pub(super) async fn end(self) -> Result<Line, MaintenanceError> {
        self.ended.cancel();
        let kept = self.keeping.await.map_err(|error| lost(error.to_string()))?;
        Ok(kept.map_err(statement)?)
    }
}
