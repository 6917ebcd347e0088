//! dbkeep's ledger of migrations in the target: `dbkeep.migration` holds a row for each migration, `dbkeep.migration_lease` the one
//! row that says who may migrate.

use std::time::Duration;

use dbkeep_engine::{
    model::{LedgerEntry, MigrationId},
    port::{Claim, MigratorError, TargetError},
};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Executor as _, postgres::PgRow};

use super::super::line::Line;
use super::{
    super::{
        error::{self, refused, statement},
        holders, journal, render,
    },
    session::{simple, text},
};
use crate::target::ledger::{check_unmoved, lease_ran_out, millis, state_name, state_of};

/// Makes the tables. The advisory lock is the journal's: concurrent makers wait for each other.
const CREATE: &str = "SELECT pg_advisory_xact_lock(7236832781); \
     CREATE TABLE IF NOT EXISTS dbkeep.migration ( \
       id text PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, state text NOT NULL, statements_done integer NOT NULL, \
       statements integer NOT NULL, in_doubt boolean NOT NULL, problem text NOT NULL, rows bigint NOT NULL, duration_ms bigint NOT NULL, \
       at timestamptz NOT NULL, by_whom text NOT NULL, run_id text NOT NULL, backup_run_id text, script_sha256 text NOT NULL); \
     COMMENT ON TABLE dbkeep.migration IS 'Ledger of dbkeep: one row for each migration that was applied, or was begun.'; \
     CREATE TABLE IF NOT EXISTS dbkeep.migration_lease ( \
       id integer PRIMARY KEY CHECK (id = 1), holder text NOT NULL, run_id text NOT NULL, fence bigint NOT NULL, until timestamptz NOT NULL)";

/// The columns of a ledger row as text.
const COLUMNS: &str = "id, name, sha256, state, statements_done::text, statements::text, in_doubt::text, problem, rows::text, duration_ms::text, \
     (extract(epoch FROM at) * 1000000)::bigint::text, by_whom, run_id, backup_run_id, script_sha256";

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unreadable(what: &str) -> TargetError {
    refused(format!("the ledger of migrations holds an unreadable {what}"))
}

/// A row of [`COLUMNS`].
pub(in crate::target::postgres) fn entry(row: &PgRow) -> Result<LedgerEntry, TargetError> {
    let word = |column: usize| Ok::<_, TargetError>(text(row, column)?.unwrap_or_default());
    let number = |column: usize| {
        let number = word(column)?.parse::<u64>();
        number.map_err(|_| unreadable("number"))
    };
    let count = |column: usize| u32::try_from(number(column)?).map_err(|_| unreadable("number"));
    let run = |text: &str| text.parse().map_err(|_| unreadable("run"));
    let micros = word(10)?.parse::<i64>().map_err(|_| unreadable("time"))?;
    Ok(LedgerEntry {
        id: MigrationId(word(0)?),
        name: word(1)?,
        sha256: word(2)?,
        state: state_of(&word(3)?)?,
        statements_done: count(4)?,
        statements: count(5)?,
        in_doubt: word(6)? == "true" || word(6)? == "t",
        problem: word(7)?,
        rows: number(8)?,
        duration_ms: number(9)?,
        at: Timestamp::from_microsecond(micros).map_err(|_| unreadable("time"))?,
        by: word(11)?,
        run: run(&word(12)?)?,
        backup: text(row, 13)?.map(|text| run(&text)).transpose()?,
        script_sha256: word(14)?,
    })
}

/// The statement that locks the row of a migration and reads it.
pub(in crate::target::postgres) fn select_locked(id: &MigrationId) -> String {
    format!(
        "SELECT {COLUMNS} FROM dbkeep.migration WHERE id = {} FOR UPDATE",
        render::literal(&id.0)
    )
}

/// The statement that writes a row and returns its time, provided that `condition` holds.
pub(in crate::target::postgres) fn upsert(entry: &LedgerEntry, condition: &str) -> String {
    let literal = |text: &str| render::literal(text);
    let backup = entry
        .backup
        .map_or_else(|| "NULL".to_owned(), |run| literal(&run.to_string()));
    format!(
        "INSERT INTO dbkeep.migration AS m (id, name, sha256, state, statements_done, statements, in_doubt, problem, rows, duration_ms, at, \
         by_whom, run_id, backup_run_id, script_sha256) SELECT {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, pg_catalog.clock_timestamp(), {}, {}, {}, {} WHERE {condition} \
         ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, sha256 = EXCLUDED.sha256, state = EXCLUDED.state, \
         statements_done = EXCLUDED.statements_done, statements = EXCLUDED.statements, in_doubt = EXCLUDED.in_doubt, problem = EXCLUDED.problem, \
         rows = EXCLUDED.rows, duration_ms = EXCLUDED.duration_ms, at = EXCLUDED.at, by_whom = EXCLUDED.by_whom, run_id = EXCLUDED.run_id, \
         backup_run_id = EXCLUDED.backup_run_id, script_sha256 = EXCLUDED.script_sha256 RETURNING (extract(epoch FROM m.at) * 1000000)::bigint::text",
        literal(&entry.id.0),
        literal(&entry.name),
        literal(&entry.sha256),
        literal(state_name(entry.state)),
        i32::try_from(entry.statements_done).unwrap_or(i32::MAX),
        i32::try_from(entry.statements).unwrap_or(i32::MAX),
        entry.in_doubt,
        literal(&entry.problem),
        signed(entry.rows),
        signed(entry.duration_ms),
        literal(&entry.by),
        literal(&entry.run.to_string()),
        backup,
        literal(&entry.script_sha256),
    )
}

/// The row as it was written, by the time that [`upsert`] returned.
pub(in crate::target::postgres) fn written(entry: &LedgerEntry, row: &PgRow) -> Result<LedgerEntry, TargetError> {
    let micros = text(row, 0)?.and_then(|text| text.parse::<i64>().ok());
    let at = micros.and_then(|micros| Timestamp::from_microsecond(micros).ok());
    Ok(LedgerEntry {
        at: at.ok_or_else(|| unreadable("time"))?,
        ..entry.clone()
    })
}

/// The statement that locks the fence of a run. The row lock makes a newer attempt's claim wait for the transaction.
pub(in crate::target::postgres) fn select_fence(claim: Claim) -> String {
    format!(
        "SELECT r.fence::text FROM dbkeep.run AS r WHERE r.run_id = {} FOR SHARE",
        render::literal(&claim.run.to_string())
    )
}

/// As [`select_fence`], with what a group has to know as it begins: number of the transaction, its process, whether the lease is the
/// attempt's, and whether `condition` holds. It is one statement, since the server plans each of them anew.
pub(in crate::target::postgres) fn select_standing(claim: Claim, condition: &str) -> String {
    format!(
        "SELECT r.fence::text, pg_catalog.txid_current()::text, pg_catalog.pg_backend_pid()::text, \
         (EXISTS (SELECT 1 FROM dbkeep.migration_lease AS l WHERE l.id = 1 AND l.run_id = r.run_id AND l.fence = {} \
         AND l.until > pg_catalog.clock_timestamp()))::text, ({condition})::text FROM dbkeep.run AS r WHERE r.run_id = {} FOR SHARE",
        signed(claim.fence),
        render::literal(&claim.run.to_string())
    )
}

/// Whether the rows of [`select_fence`] say that the run is this attempt's.
pub(in crate::target::postgres) fn check_fence(rows: Option<&Vec<PgRow>>, claim: Claim) -> Result<(), TargetError> {
    let fence = match rows.and_then(|rows| rows.first()) {
        Some(row) => text(row, 0)?,
        None => None,
    };
    if fence == Some(claim.fence.to_string()) {
        return Ok(());
    }
    Err(journal::fenced())
}

/// The statement that reads the lease; `lock` is `FOR SHARE` right before a commit, so that nobody takes it over until then.
pub(in crate::target::postgres) fn select_lease(lock: &str) -> String {
    format!(
        "SELECT l.holder, l.run_id, l.fence::text, (l.until > pg_catalog.clock_timestamp())::text, \
         pg_catalog.to_char(l.until AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM dbkeep.migration_lease AS l WHERE l.id = 1 {lock}"
    )
}

/// Whether the rows of [`select_lease`] say that the lease is this attempt's.
pub(in crate::target::postgres) fn check_lease(rows: Option<&Vec<PgRow>>, claim: Claim) -> Result<(), MigratorError> {
    let Some(row) = rows.and_then(|rows| rows.first()) else {
        return Err(lease_ran_out().into());
    };
    let word = |column: usize| Ok::<_, TargetError>(text(row, column)?.unwrap_or_default());
    let valid = word(3)? == "true";
    let (run, fence) = (word(1)?, word(2)?);
    if run != claim.run.to_string() && valid {
        return Err(MigratorError::LeaseHeld {
            holder: word(0)?,
            run,
            until: word(4)?,
        });
    }
    if run == claim.run.to_string() && fence == claim.fence.to_string() && valid {
        return Ok(());
    }
    if run == claim.run.to_string() && fence.parse::<u64>().is_ok_and(|fence| fence > claim.fence) {
        return Err(journal::fenced().into());
    }
    Err(lease_ran_out().into())
}

async fn exists(connection: &mut Line) -> Result<bool, TargetError> {
    sqlx::query_scalar("SELECT to_regclass('dbkeep.migration_lease') IS NOT NULL")
        .fetch_one(connection)
        .await
        .map_err(statement)
}

/// Every row of the ledger.
pub(in crate::target::postgres) async fn all(connection: &mut Line) -> Result<Vec<LedgerEntry>, TargetError> {
    if !exists(&mut *connection).await? {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT {COLUMNS} FROM dbkeep.migration ORDER BY id COLLATE \"C\"");
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter().map(entry).collect()
}

/// Takes or prolongs the lease.
pub(in crate::target::postgres) async fn lease(
    connection: &mut Line,
    claim: Claim,
    holder: &str,
    term: Duration,
) -> Result<(), MigratorError> {
    if !exists(&mut *connection).await? {
        let make = format!("BEGIN; SET LOCAL client_min_messages = warning; {CREATE}; COMMIT");
        connection.execute(AssertSqlSafe(make)).await.map_err(statement)?;
    }
    let run = claim.run.to_string();
    // One statement for both: between a look at the fence and the lease another attempt could come.
    let taken = sqlx::query(
        "INSERT INTO dbkeep.migration_lease AS l (id, holder, run_id, fence, until) \
         SELECT 1, $1, $2, $3, clock_timestamp() + $4 * interval '1 millisecond' \
         WHERE NOT EXISTS (SELECT 1 FROM dbkeep.run AS r WHERE r.run_id = $2 AND r.fence > $3) \
         ON CONFLICT (id) DO UPDATE SET holder = EXCLUDED.holder, run_id = EXCLUDED.run_id, fence = EXCLUDED.fence, \
         until = clock_timestamp() + $4 * interval '1 millisecond' \
         WHERE l.until <= clock_timestamp() OR (l.run_id = EXCLUDED.run_id AND l.fence <= EXCLUDED.fence) RETURNING 1",
    )
    .bind(holder)
    .bind(&run)
    .bind(signed(claim.fence))
    .bind(f64_of(millis(term)))
    .fetch_optional(&mut *connection)
    .await
    .map_err(statement)?;
    if taken.is_some() {
        return Ok(());
    }
    let newer: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM dbkeep.run AS r WHERE r.run_id = $1 AND r.fence > $2)")
        .bind(&run)
        .bind(signed(claim.fence))
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    if newer {
        return Err(journal::fenced().into());
    }
    let rows = simple(connection, select_lease("")).await.map_err(statement)?;
    check_lease(rows.first(), claim)
}

/// Whole milliseconds as the number by which an interval is multiplied.
fn f64_of(millis: u64) -> f64 {
    f64::from(u32::try_from(millis).unwrap_or(u32::MAX))
}

/// Gives the lease back, where it is this attempt's.
pub(in crate::target::postgres) async fn unlease(connection: &mut Line, claim: Claim) -> Result<(), TargetError> {
    if !exists(&mut *connection).await? {
        return Ok(());
    }
    holders::unnote_all(connection, claim).await?;
    sqlx::query("DELETE FROM dbkeep.migration_lease WHERE run_id = $1 AND fence = $2")
        .bind(claim.run.to_string())
        .bind(signed(claim.fence))
        .execute(connection)
        .await
        .map_err(statement)?;
    Ok(())
}

/// Writes rows outright. Its connection is not to be used again after an error.
pub(in crate::target::postgres) async fn note(
    connection: &mut Line,
    claim: Claim,
    entries: &[(Option<LedgerEntry>, LedgerEntry)],
) -> Result<(), MigratorError> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {}; {}",
        select_fence(claim),
        select_lease("FOR SHARE")
    );
    let results = simple(connection, begin).await.map_err(statement)?;
    check_fence(results.get(1), claim)?;
    check_lease(results.get(2), claim)?;
    for (before, after) in entries {
        let found = simple(connection, select_locked(&after.id)).await.map_err(statement)?;
        let found = found.iter().flatten().next().map(entry).transpose()?;
        check_unmoved(&after.id.0, before.as_ref(), found.as_ref())?;
        simple(connection, upsert(after, "true")).await.map_err(statement)?;
    }
    connection.execute("COMMIT").await.map_err(error::commit)?;
    Ok(())
}

/// Writes a row in the transaction that is open.
pub(in crate::target::postgres) async fn write(connection: &mut Line, entry: &LedgerEntry) -> Result<(), TargetError> {
    simple(connection, upsert(entry, "true")).await.map_err(statement)?;
    Ok(())
}

/// Makes sure that the lease is this attempt's, and stays so until the transaction that is open has ended.
pub(in crate::target::postgres) async fn hold_lease(connection: &mut Line, claim: Claim) -> Result<(), MigratorError> {
    let rows = simple(connection, select_lease("FOR SHARE")).await.map_err(statement)?;
    check_lease(rows.first(), claim)
}
