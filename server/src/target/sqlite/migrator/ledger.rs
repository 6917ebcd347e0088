//! dbkeep's ledger of migrations in the target: `_dbkeep_migration` holds a row for each migration, `_dbkeep_migration_lease` the one
//! row that says who may migrate. Times are milliseconds of the epoch by the clock of SQLite's process.

use std::time::Duration;

use dbkeep_engine::{
    model::{LedgerEntry, MigrationId},
    port::{Claim, MigratorError, TargetError},
};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::super::{
    error::{self, refused, statement},
    journal,
};
use crate::target::ledger::{check_unmoved, lease_ran_out, millis, state_name, state_of};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS main._dbkeep_migration ( \
       id TEXT PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, state TEXT NOT NULL, statements_done INTEGER NOT NULL, \
       statements INTEGER NOT NULL, in_doubt INTEGER NOT NULL, problem TEXT NOT NULL, rows INTEGER NOT NULL, duration_ms INTEGER NOT NULL, \
       at INTEGER NOT NULL, by_whom TEXT NOT NULL, run_id TEXT NOT NULL, backup_run_id TEXT, \
       script_sha256 TEXT NOT NULL) STRICT, WITHOUT ROWID; \
     CREATE TABLE IF NOT EXISTS main._dbkeep_migration_lease ( \
       id INTEGER PRIMARY KEY CHECK (id = 1), holder TEXT NOT NULL, run_id TEXT NOT NULL, fence INTEGER NOT NULL, until INTEGER NOT NULL, \
       term_ms INTEGER NOT NULL) STRICT";

const COLUMNS: &str = "id, name, sha256, state, statements_done, statements, in_doubt, problem, rows, duration_ms, at, by_whom, run_id, backup_run_id, script_sha256";

/// Now, milliseconds of the epoch.
const NOW: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unreadable(what: &str) -> TargetError {
    refused(format!("the ledger of migrations holds an unreadable {what}"))
}

fn entry(row: &SqliteRow) -> Result<LedgerEntry, TargetError> {
    let word = |column: usize| row.try_get_unchecked::<String, _>(column).map_err(statement);
    let signed = |column: usize| row.try_get_unchecked::<i64, _>(column).map_err(statement);
    let number = |column: usize| u64::try_from(signed(column)?).map_err(|_| unreadable("number"));
    let count = |column: usize| u32::try_from(signed(column)?).map_err(|_| unreadable("number"));
    let run = |text: String| text.parse().map_err(|_| unreadable("run"));
    let backup: Option<String> = row.try_get_unchecked(13).map_err(statement)?;
    Ok(LedgerEntry {
        id: MigrationId(word(0)?),
        name: word(1)?,
        sha256: word(2)?,
        state: state_of(&word(3)?)?,
        statements_done: count(4)?,
        statements: count(5)?,
        in_doubt: signed(6)? != 0,
        problem: word(7)?,
        rows: number(8)?,
        duration_ms: number(9)?,
        at: Timestamp::from_millisecond(signed(10)?).map_err(|_| unreadable("time"))?,
        by: word(11)?,
        run: run(word(12)?)?,
        backup: backup.map(run).transpose()?,
        script_sha256: word(14)?,
    })
}

async fn exists(connection: &mut SqliteConnection) -> Result<bool, TargetError> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_dbkeep_migration_lease'";
    Ok(sqlx::query(sql)
        .fetch_optional(connection)
        .await
        .map_err(statement)?
        .is_some())
}

/// Every row of the ledger.
pub(in crate::target::sqlite) async fn all(connection: &mut SqliteConnection) -> Result<Vec<LedgerEntry>, TargetError> {
    if !exists(connection).await? {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT {COLUMNS} FROM main._dbkeep_migration ORDER BY id");
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter().map(entry).collect()
}

/// Writes a row and returns it with its time.
pub(in crate::target::sqlite) async fn write(
    connection: &mut SqliteConnection,
    entry: &LedgerEntry,
) -> Result<LedgerEntry, TargetError> {
    let sql = format!(
        "INSERT OR REPLACE INTO main._dbkeep_migration ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {NOW}, ?, ?, ?, ?) RETURNING at"
    );
    let at: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(&entry.id.0)
        .bind(&entry.name)
        .bind(&entry.sha256)
        .bind(state_name(entry.state))
        .bind(i64::from(entry.statements_done))
        .bind(i64::from(entry.statements))
        .bind(entry.in_doubt)
        .bind(&entry.problem)
        .bind(signed(entry.rows))
        .bind(signed(entry.duration_ms))
        .bind(&entry.by)
        .bind(entry.run.to_string())
        .bind(entry.backup.map(|run| run.to_string()))
        .bind(&entry.script_sha256)
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    Ok(LedgerEntry {
        at: Timestamp::from_millisecond(at).map_err(|_| unreadable("time"))?,
        ..entry.clone()
    })
}

/// The row of a migration.
async fn find(connection: &mut SqliteConnection, id: &MigrationId) -> Result<Option<LedgerEntry>, TargetError> {
    let sql = format!("SELECT {COLUMNS} FROM main._dbkeep_migration WHERE id = ?");
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(&id.0)
        .fetch_optional(connection)
        .await
        .map_err(statement)?;
    row.as_ref().map(entry).transpose()
}

/// Checks fence, lease and row. Called under the write lock, under which none of them can change.
pub(in crate::target::sqlite) async fn check(
    connection: &mut SqliteConnection,
    claim: Claim,
    id: &MigrationId,
    before: Option<&LedgerEntry>,
) -> Result<(), MigratorError> {
    journal::check_fence(connection, claim).await?;
    check_lease(connection, claim).await?;
    let found = find(connection, id).await?;
    check_unmoved(&id.0, before, found.as_ref())
}

pub(in crate::target::sqlite) async fn check_lease(connection: &mut SqliteConnection, claim: Claim) -> Result<(), MigratorError> {
    if !exists(connection).await? {
        return Err(lease_ran_out().into());
    }
    let sql = format!(
        "SELECT holder, run_id, fence, until > {NOW}, strftime('%Y-%m-%dT%H:%M:%SZ', until / 1000, 'unixepoch') FROM main._dbkeep_migration_lease WHERE id = 1"
    );
    let row: Option<(String, String, i64, bool, String)> = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_optional(connection)
        .await
        .map_err(statement)?;
    let Some((holder, run, fence, valid, until)) = row else {
        return Err(lease_ran_out().into());
    };
    let own = run == claim.run.to_string();
    match fence.cmp(&signed(claim.fence)) {
        // One that lapsed while nobody could take it is still held: taking it needs the lock that is held here.
        std::cmp::Ordering::Equal if own => Ok(()),
        std::cmp::Ordering::Greater if own => Err(journal::fenced().into()),
        _ if !own && valid => Err(MigratorError::LeaseHeld { holder, run, until }),
        _ => Err(lease_ran_out().into()),
    }
}

/// Prolongs the lease of a group that is about to commit: while it worked, nobody could.
pub(in crate::target::sqlite) async fn prolong(connection: &mut SqliteConnection, claim: Claim) -> Result<(), TargetError> {
    let sql =
        format!("UPDATE main._dbkeep_migration_lease SET until = max(until, {NOW} + term_ms) WHERE run_id = ? AND fence = ?");
    let prolonged = sqlx::query(AssertSqlSafe(sql))
        .bind(claim.run.to_string())
        .bind(signed(claim.fence))
        .execute(connection)
        .await
        .map_err(statement)?;
    if prolonged.rows_affected() == 1 {
        return Ok(());
    }
    Err(lease_ran_out())
}

/// Takes or prolongs the lease.
pub(in crate::target::sqlite) async fn lease(
    connection: &mut SqliteConnection,
    claim: Claim,
    holder: &str,
    term: Duration,
) -> Result<(), MigratorError> {
    connection.execute("BEGIN IMMEDIATE").await.map_err(statement)?;
    if !exists(connection).await? {
        connection.execute(CREATE).await.map_err(statement)?;
    }
    let fence: Option<i64> = sqlx::query_scalar("SELECT fence FROM main._dbkeep_run WHERE run_id = ?")
        .bind(claim.run.to_string())
        .fetch_optional(&mut *connection)
        .await
        .map_err(statement)?;
    if fence.is_some_and(|fence| fence > signed(claim.fence)) {
        return Err(journal::fenced().into());
    }
    let sql = format!(
        "INSERT INTO main._dbkeep_migration_lease AS l (id, holder, run_id, fence, until, term_ms) VALUES (1, ?1, ?2, ?3, {NOW} + ?4, ?4) \
         ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, run_id = excluded.run_id, fence = excluded.fence, until = excluded.until, \
         term_ms = excluded.term_ms WHERE l.until <= {NOW} OR (l.run_id = excluded.run_id AND l.fence <= excluded.fence) RETURNING 1"
    );
    let taken = sqlx::query(AssertSqlSafe(sql))
        .bind(holder)
        .bind(claim.run.to_string())
        .bind(signed(claim.fence))
        .bind(signed(millis(term)))
        .fetch_optional(&mut *connection)
        .await
        .map_err(statement)?;
    if taken.is_none() {
        check_lease(connection, claim).await?;
    }
    connection.execute("COMMIT").await.map_err(error::commit)?;
    Ok(())
}

/// Gives the lease back, where it is this attempt's.
pub(in crate::target::sqlite) async fn unlease(connection: &mut SqliteConnection, claim: Claim) -> Result<(), TargetError> {
    if !exists(connection).await? {
        return Ok(());
    }
    sqlx::query("DELETE FROM main._dbkeep_migration_lease WHERE run_id = ? AND fence = ?")
        .bind(claim.run.to_string())
        .bind(signed(claim.fence))
        .execute(connection)
        .await
        .map_err(statement)?;
    Ok(())
}

/// Writes rows outright. Its connection is not to be used again after an error.
pub(in crate::target::sqlite) async fn note(
    connection: &mut SqliteConnection,
    claim: Claim,
    entries: &[(Option<LedgerEntry>, LedgerEntry)],
) -> Result<(), MigratorError> {
    connection.execute("BEGIN IMMEDIATE").await.map_err(statement)?;
    journal::check_fence(connection, claim).await?;
    check_lease(connection, claim).await?;
    for (before, after) in entries {
        check(connection, claim, &after.id, before.as_ref()).await?;
        write(connection, after).await?;
    }
    connection.execute("COMMIT").await.map_err(error::commit)?;
    Ok(())
}
