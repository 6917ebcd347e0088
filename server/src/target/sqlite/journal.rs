//! dbkeep's tables in the target: `_dbkeep_run` holds the fence of each run, `_dbkeep_journal` a row for each committed batch.

use std::collections::BTreeMap;

use dbkeep_engine::{
    model::{Along, ChunkRef, Identity, JournalEntry, RunId, StepTotals},
    port::{Claim, TargetError, TargetErrorClass},
};
use futures::TryStreamExt as _;
use sqlx::{Executor as _, Row as _, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::error::{refused, statement};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS main._dbkeep_run (run_id TEXT PRIMARY KEY, fence INTEGER NOT NULL, \
       claimed_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) STRICT; \
     CREATE TABLE IF NOT EXISTS main._dbkeep_journal ( \
       run_id TEXT NOT NULL, step INTEGER NOT NULL, batch INTEGER NOT NULL, pass INTEGER NOT NULL, fence INTEGER NOT NULL, position TEXT NOT NULL, \
       examined INTEGER NOT NULL, matched INTEGER NOT NULL, affected INTEGER NOT NULL, conflicting INTEGER NOT NULL, \
       chunk_file TEXT, chunk_rows INTEGER, chunk_bytes INTEGER, chunk_sha256 TEXT, committed_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, along TEXT, \
       PRIMARY KEY (run_id, step, batch)) STRICT, WITHOUT ROWID";

/// Takes the run for this fence. The write lock that it needs is the one that every batch of an older attempt holds.
pub(super) async fn claim(connection: &mut SqliteConnection, claim: Claim) -> Result<(), TargetError> {
    connection.execute("BEGIN IMMEDIATE").await.map_err(statement)?;
    if !exists(connection).await? {
        connection.execute(CREATE).await.map_err(statement)?;
    }
    let older = "SELECT 1 FROM pragma_table_info('_dbkeep_journal') WHERE name = 'along'";
    if sqlx::query(older)
        .fetch_optional(&mut *connection)
        .await
        .map_err(statement)?
        .is_none()
    {
        let add = "ALTER TABLE main._dbkeep_journal ADD COLUMN along TEXT";
        connection.execute(add).await.map_err(statement)?;
    }
    make_identity(connection).await?;
    let held = sqlx::query(
        "INSERT INTO main._dbkeep_run (run_id, fence) VALUES (?1, ?2) \
         ON CONFLICT (run_id) DO UPDATE SET fence = excluded.fence, claimed_at = CURRENT_TIMESTAMP WHERE fence <= excluded.fence RETURNING 1",
    )
    .bind(claim.run.to_string())
    .bind(signed(claim.fence))
    .fetch_optional(&mut *connection)
    .await
    .map_err(statement)?;
    if held.is_none() {
        return Err(fenced());
    }
    connection.execute("COMMIT").await.map_err(statement)?;
    Ok(())
}

const IDENTITY: &str = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_dbkeep_identity'";

/// Makes the id that tells this database from others, where it is missing. Under the write lock.
async fn make_identity(connection: &mut SqliteConnection) -> Result<(), TargetError> {
    let there = sqlx::query(IDENTITY)
        .fetch_optional(&mut *connection)
        .await
        .map_err(statement)?;
    if there.is_none() {
        let create = "CREATE TABLE main._dbkeep_identity (id INTEGER PRIMARY KEY CHECK (id = 1), database_id TEXT NOT NULL, \
                      made_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) STRICT";
        connection.execute(create).await.map_err(statement)?;
    }
    sqlx::query("INSERT INTO main._dbkeep_identity (id, database_id) VALUES (1, ?) ON CONFLICT (id) DO NOTHING")
        .bind(Uuid::new_v4().to_string())
        .execute(connection)
        .await
        .map_err(statement)?;
    Ok(())
}

/// Which database this is. Where a file lies is no part of it: it may be moved.
pub(super) async fn identity(connection: &mut SqliteConnection) -> Result<Identity, TargetError> {
    let there = sqlx::query(IDENTITY)
        .fetch_optional(&mut *connection)
        .await
        .map_err(statement)?;
    let id: Option<String> = match there {
        None => None,
        Some(_) => sqlx::query_scalar("SELECT database_id FROM main._dbkeep_identity WHERE id = 1")
            .fetch_optional(connection)
            .await
            .map_err(statement)?,
    };
    Ok(Identity {
        id: id.unwrap_or_default(),
        place: String::new(),
    })
}

pub(super) fn fenced() -> TargetError {
    TargetError::new(TargetErrorClass::Fenced, "a newer attempt holds the run")
}

async fn exists(connection: &mut SqliteConnection) -> Result<bool, TargetError> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_dbkeep_journal'";
    Ok(sqlx::query(sql)
        .fetch_optional(connection)
        .await
        .map_err(statement)?
        .is_some())
}

/// Checks that the run is still this attempt's. Called under the write lock.
pub(super) async fn check_fence(connection: &mut SqliteConnection, claim: Claim) -> Result<(), TargetError> {
    let fence: Option<i64> = sqlx::query_scalar("SELECT fence FROM main._dbkeep_run WHERE run_id = ?")
        .bind(claim.run.to_string())
        .fetch_optional(connection)
        .await
        .map_err(statement)?;
    if fence == Some(signed(claim.fence)) {
        Ok(())
    } else {
        Err(fenced())
    }
}

pub(super) async fn totals(connection: &mut SqliteConnection, run: RunId) -> Result<Vec<StepTotals>, TargetError> {
    if !exists(connection).await? {
        return Ok(Vec::new());
    }
    // Of the bare columns (pass, position) beside a single max() SQLite takes the row that holds the maximum, hence the
    // smallest batch by a query of its own.
    let sql = "SELECT step, count(*), sum(examined), sum(matched), sum(affected), sum(conflicting), coalesce(sum(chunk_rows), 0), \
               coalesce(sum(chunk_bytes), 0), pass, position, \
               (SELECT min(f.batch) FROM main._dbkeep_journal AS f WHERE f.run_id = j.run_id AND f.step = j.step), max(batch) \
               FROM main._dbkeep_journal AS j WHERE run_id = ? GROUP BY step ORDER BY step";
    let rows = sqlx::query(sql)
        .bind(run.to_string())
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    let along = along(connection, run).await?;
    rows.iter()
        .map(|row| {
            let step = unsigned32(row, 0)?;
            Ok(StepTotals {
                along: along.get(&step).cloned().unwrap_or_default(),
                step,
                batches: unsigned(row, 1)?,
                first_batch: unsigned(row, 10)?,
                examined: unsigned(row, 2)?,
                matched: unsigned(row, 3)?,
                affected: unsigned(row, 4)?,
                conflicting: unsigned(row, 5)?,
                captured: unsigned(row, 6)?,
                captured_bytes: unsigned(row, 7)?,
                pass: unsigned32(row, 8)?,
                cursor: row.try_get_unchecked(9).map_err(statement)?,
            })
        })
        .collect()
}

/// What went along with each step's rows.
async fn along(connection: &mut SqliteConnection, run: RunId) -> Result<BTreeMap<u32, Vec<Along>>, TargetError> {
    let sql = "SELECT step, along FROM main._dbkeep_journal WHERE run_id = ? AND along IS NOT NULL";
    let mut rows = sqlx::query(sql).bind(run.to_string()).fetch(connection);
    let mut sums: BTreeMap<u32, Vec<Along>> = BTreeMap::new();
    while let Some(row) = rows.try_next().await.map_err(statement)? {
        let text: String = row.try_get_unchecked(1).map_err(statement)?;
        let more: Vec<Along> =
            serde_json::from_str(&text).map_err(|error| refused(format!("the journal holds unreadable counts: {error}")))?;
        Along::add(sums.entry(unsigned32(&row, 0)?).or_default(), &more);
    }
    Ok(sums)
}

pub(super) async fn entries(
    connection: &mut SqliteConnection,
    run: RunId,
    after: (u32, u64),
    limit: u32,
) -> Result<Vec<JournalEntry>, TargetError> {
    if !exists(connection).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT step, batch, pass, fence, position, examined, matched, affected, conflicting, chunk_file, chunk_rows, chunk_bytes, chunk_sha256 \
               FROM main._dbkeep_journal WHERE run_id = ? AND chunk_file IS NOT NULL AND (step, batch) > (?, ?) ORDER BY step, batch LIMIT ?";
    let rows = sqlx::query(sql)
        .bind(run.to_string())
        .bind(i64::from(after.0))
        .bind(signed(after.1))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter().map(|row| entry(run, row)).collect()
}

pub(super) async fn entries_back(
    connection: &mut SqliteConnection,
    run: RunId,
    step: u32,
    below: u64,
    limit: u32,
) -> Result<Vec<JournalEntry>, TargetError> {
    if !exists(connection).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT step, batch, pass, fence, position, examined, matched, affected, conflicting, chunk_file, chunk_rows, chunk_bytes, chunk_sha256 \
               FROM main._dbkeep_journal WHERE run_id = ? AND chunk_file IS NOT NULL AND step = ? AND batch < ? ORDER BY batch DESC LIMIT ?";
    let rows = sqlx::query(sql)
        .bind(run.to_string())
        .bind(i64::from(step))
        .bind(signed(below))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter().map(|row| entry(run, row)).collect()
}

fn entry(run: RunId, row: &SqliteRow) -> Result<JournalEntry, TargetError> {
    Ok(JournalEntry {
        run,
        step: unsigned32(row, 0)?,
        batch: unsigned(row, 1)?,
        pass: unsigned32(row, 2)?,
        fence: unsigned(row, 3)?,
        cursor: row.try_get_unchecked(4).map_err(statement)?,
        examined: unsigned(row, 5)?,
        matched: unsigned(row, 6)?,
        affected: unsigned(row, 7)?,
        along: Vec::new(),
        conflicting: unsigned(row, 8)?,
        chunk: Some(ChunkRef {
            file: row.try_get_unchecked(9).map_err(statement)?,
            rows: unsigned(row, 10)?,
            bytes: unsigned(row, 11)?,
            sha256: row.try_get_unchecked(12).map_err(statement)?,
        }),
    })
}

pub(super) async fn record(connection: &mut SqliteConnection, entry: &JournalEntry) -> Result<(), TargetError> {
    let chunk = entry.chunk.as_ref();
    let along = (!entry.along.is_empty())
        .then(|| serde_json::to_string(&entry.along))
        .transpose();
    let along = along.map_err(|error| refused(error.to_string()))?;
    sqlx::query(
        "INSERT INTO main._dbkeep_journal (run_id, step, batch, pass, fence, position, examined, matched, affected, conflicting, \
         chunk_file, chunk_rows, chunk_bytes, chunk_sha256, along) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(entry.run.to_string())
    .bind(i64::from(entry.step))
    .bind(signed(entry.batch))
    .bind(i64::from(entry.pass))
    .bind(signed(entry.fence))
    .bind(&entry.cursor)
    .bind(signed(entry.examined))
    .bind(signed(entry.matched))
    .bind(signed(entry.affected))
    .bind(signed(entry.conflicting))
    .bind(chunk.map(|chunk| chunk.file.as_str()))
    .bind(chunk.map(|chunk| signed(chunk.rows)))
    .bind(chunk.map(|chunk| signed(chunk.bytes)))
    .bind(chunk.map(|chunk| chunk.sha256.as_str()))
    .bind(along)
    .execute(connection)
    .await
    .map_err(statement)?;
    Ok(())
}

/// Removes what is kept of a run whose backup is gone.
pub(super) async fn forget(connection: &mut SqliteConnection, run: RunId) -> Result<u64, TargetError> {
    if !exists(connection).await? {
        return Ok(0);
    }
    connection.execute("BEGIN IMMEDIATE").await.map_err(statement)?;
    let removed = sqlx::query("DELETE FROM main._dbkeep_journal WHERE run_id = ?")
        .bind(run.to_string())
        .execute(&mut *connection)
        .await
        .map_err(statement)?;
    sqlx::query("DELETE FROM main._dbkeep_run WHERE run_id = ?")
        .bind(run.to_string())
        .execute(&mut *connection)
        .await
        .map_err(statement)?;
    connection.execute("COMMIT").await.map_err(statement)?;
    Ok(removed.rows_affected())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &SqliteRow, column: usize) -> Result<u64, TargetError> {
    let number: i64 = row.try_get_unchecked(column).map_err(statement)?;
    Ok(u64::try_from(number).unwrap_or(0))
}

fn unsigned32(row: &SqliteRow, column: usize) -> Result<u32, TargetError> {
    Ok(u32::try_from(unsigned(row, column)?).unwrap_or(u32::MAX))
}
