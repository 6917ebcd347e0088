//! dbkeep's tables in the target: `dbkeep.run` holds the fence of each run, `dbkeep.journal` a row for each committed batch.

use std::collections::BTreeMap;

use dbkeep_engine::{
    model::{Along, ChunkRef, JournalEntry, RunId, StepTotals},
    port::{Claim, TargetError, TargetErrorClass},
};
use futures::TryStreamExt as _;
use sqlx::{Executor as _, Row as _, postgres::PgRow};

use super::{
    error::{refused, statement},
    holders, identity,
    line::Line,
};

/// Makes concurrent makers wait for each other: `IF NOT EXISTS` alone can collide.
const ALONE: &str = "SELECT pg_advisory_xact_lock(7236832781)";

/// Makes the tables.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS dbkeep.run (run_id text PRIMARY KEY, fence bigint NOT NULL, claimed_at timestamptz NOT NULL DEFAULT now()); \
     CREATE TABLE IF NOT EXISTS dbkeep.journal ( \
       run_id text NOT NULL, step integer NOT NULL, batch bigint NOT NULL, pass integer NOT NULL, fence bigint NOT NULL, position text NOT NULL, \
       examined bigint NOT NULL, matched bigint NOT NULL, affected bigint NOT NULL, conflicting bigint NOT NULL, \
       chunk_file text, chunk_rows bigint, chunk_bytes bigint, chunk_sha256 text, committed_at timestamptz NOT NULL DEFAULT clock_timestamp(), \
       PRIMARY KEY (run_id, step, batch)); \
     ALTER TABLE dbkeep.journal ADD COLUMN IF NOT EXISTS along text; \
     COMMENT ON SCHEMA dbkeep IS 'Journal of dbkeep: one row for each committed batch of a run. Needed to resume and to undo.'";

/// Takes the run for this fence. The UPDATE waits for the row lock that every batch of an older attempt holds, so that
/// none of them is open any more when it returns. Its patience exceeds the time after which an idle batch is ended.
pub(super) async fn claim(connection: &mut Line, claim: Claim) -> Result<(), TargetError> {
    connection
        .execute("BEGIN; SET LOCAL lock_timeout = '45s'; SET LOCAL client_min_messages = warning")
        .await
        .map_err(statement)?;
    // The newest of the tables: whoever finds it finds them all.
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('dbkeep.identity') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    if !exists {
        connection.execute(ALONE).await.map_err(statement)?;
        // Who may make no schemas is refused one also where it is there already.
        let schema: bool = sqlx::query_scalar("SELECT to_regnamespace('dbkeep') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await
            .map_err(statement)?;
        if !schema {
            connection
                .execute("CREATE SCHEMA IF NOT EXISTS dbkeep")
                .await
                .map_err(statement)?;
        }
        connection.execute(CREATE).await.map_err(statement)?;
        connection.execute(holders::CREATE).await.map_err(statement)?;
        identity::make(&mut *connection).await?;
    }
    let fence = i64::try_from(claim.fence).unwrap_or(i64::MAX);
    let held = sqlx::query(
        "INSERT INTO dbkeep.run AS r (run_id, fence) VALUES ($1, $2) \
         ON CONFLICT (run_id) DO UPDATE SET fence = EXCLUDED.fence, claimed_at = now() WHERE r.fence <= EXCLUDED.fence RETURNING 1",
    )
    .bind(claim.run.to_string())
    .bind(fence)
    .fetch_optional(&mut *connection)
    .await
    .map_err(statement)?;
    if held.is_none() {
        return Err(fenced());
    }
    connection.execute("COMMIT").await.map_err(statement)?;
    Ok(())
}

pub(super) fn fenced() -> TargetError {
    TargetError::new(TargetErrorClass::Fenced, "a newer attempt holds the run")
}

async fn exists(connection: &mut Line) -> Result<bool, TargetError> {
    sqlx::query_scalar("SELECT to_regclass('dbkeep.journal') IS NOT NULL")
        .fetch_one(connection)
        .await
        .map_err(statement)
}

pub(super) async fn totals(connection: &mut Line, run: RunId) -> Result<Vec<StepTotals>, TargetError> {
    if !exists(&mut *connection).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT j.step, count(*), sum(j.examined)::bigint, sum(j.matched)::bigint, sum(j.affected)::bigint, sum(j.conflicting)::bigint, \
               coalesce(sum(j.chunk_rows), 0)::bigint, coalesce(sum(j.chunk_bytes), 0)::bigint, \
               (array_agg(j.pass ORDER BY j.batch DESC))[1], (array_agg(j.position ORDER BY j.batch DESC))[1], min(j.batch) \
               FROM dbkeep.journal AS j WHERE j.run_id = $1 GROUP BY j.step ORDER BY j.step";
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
                cursor: row.try_get(9).map_err(statement)?,
            })
        })
        .collect()
}

/// What went along with each step's rows.
async fn along(connection: &mut Line, run: RunId) -> Result<BTreeMap<u32, Vec<Along>>, TargetError> {
    let sql = "SELECT step, along FROM dbkeep.journal WHERE run_id = $1 AND along IS NOT NULL";
    let mut rows = sqlx::query(sql).bind(run.to_string()).fetch(connection);
    let mut sums: BTreeMap<u32, Vec<Along>> = BTreeMap::new();
    while let Some(row) = rows.try_next().await.map_err(statement)? {
        let text: String = row.try_get(1).map_err(statement)?;
        let more: Vec<Along> =
            serde_json::from_str(&text).map_err(|error| refused(format!("the journal holds unreadable counts: {error}")))?;
        Along::add(sums.entry(unsigned32(&row, 0)?).or_default(), &more);
    }
    Ok(sums)
}

pub(super) async fn entries(
    connection: &mut Line,
    run: RunId,
    after: (u32, u64),
    limit: u32,
) -> Result<Vec<JournalEntry>, TargetError> {
    if !exists(&mut *connection).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT step, batch, pass, fence, position, examined, matched, affected, conflicting, chunk_file, chunk_rows, chunk_bytes, chunk_sha256 \
               FROM dbkeep.journal WHERE run_id = $1 AND chunk_file IS NOT NULL AND (step, batch) > ($2, $3) ORDER BY step, batch LIMIT $4";
    let rows = sqlx::query(sql)
        .bind(run.to_string())
        .bind(i32::try_from(after.0).unwrap_or(i32::MAX))
        .bind(i64::try_from(after.1).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter().map(|row| entry(run, row)).collect()
}

pub(super) async fn entries_back(
    connection: &mut Line,
    run: RunId,
    step: u32,
    below: u64,
    limit: u32,
) -> Result<Vec<JournalEntry>, TargetError> {
    if !exists(&mut *connection).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT step, batch, pass, fence, position, examined, matched, affected, conflicting, chunk_file, chunk_rows, chunk_bytes, chunk_sha256 \
               FROM dbkeep.journal WHERE run_id = $1 AND chunk_file IS NOT NULL AND step = $2 AND batch < $3 ORDER BY batch DESC LIMIT $4";
    let rows = sqlx::query(sql)
        .bind(run.to_string())
        .bind(i32::try_from(step).unwrap_or(i32::MAX))
        .bind(i64::try_from(below).unwrap_or(i64::MAX))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter().map(|row| entry(run, row)).collect()
}

fn entry(run: RunId, row: &PgRow) -> Result<JournalEntry, TargetError> {
    Ok(JournalEntry {
        run,
        step: unsigned32(row, 0)?,
        batch: unsigned(row, 1)?,
        pass: unsigned32(row, 2)?,
        fence: unsigned(row, 3)?,
        cursor: row.try_get(4).map_err(statement)?,
        examined: unsigned(row, 5)?,
        matched: unsigned(row, 6)?,
        affected: unsigned(row, 7)?,
        along: Vec::new(),
        conflicting: unsigned(row, 8)?,
        chunk: Some(ChunkRef {
            file: row.try_get(9).map_err(statement)?,
            rows: unsigned(row, 10)?,
            bytes: unsigned(row, 11)?,
            sha256: row.try_get(12).map_err(statement)?,
        }),
    })
}

pub(super) async fn record(connection: &mut Line, entry: &JournalEntry) -> Result<(), TargetError> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let chunk = entry.chunk.as_ref();
    let along = (!entry.along.is_empty())
        .then(|| serde_json::to_string(&entry.along))
        .transpose();
    let along = along.map_err(|error| refused(error.to_string()))?;
    sqlx::query(
        "INSERT INTO dbkeep.journal (run_id, step, batch, pass, fence, position, examined, matched, affected, conflicting, \
         chunk_file, chunk_rows, chunk_bytes, chunk_sha256, along) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(entry.run.to_string())
    .bind(i32::try_from(entry.step).unwrap_or(i32::MAX))
    .bind(signed(entry.batch))
    .bind(i32::try_from(entry.pass).unwrap_or(i32::MAX))
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
pub(super) async fn forget(connection: &mut Line, run: RunId) -> Result<u64, TargetError> {
    if !exists(&mut *connection).await? {
        return Ok(0);
    }
    let sql = "WITH runs AS (DELETE FROM dbkeep.run WHERE run_id = $1) DELETE FROM dbkeep.journal WHERE run_id = $1";
    let removed = sqlx::query(sql)
        .bind(run.to_string())
        .execute(connection)
        .await
        .map_err(statement)?;
    Ok(removed.rows_affected())
}

fn unsigned(row: &PgRow, column: usize) -> Result<u64, TargetError> {
    let number: i64 = row.try_get(column).map_err(statement)?;
    Ok(u64::try_from(number).unwrap_or(0))
}

fn unsigned32(row: &PgRow, column: usize) -> Result<u32, TargetError> {
    let number: i32 = row.try_get(column).map_err(statement)?;
    Ok(u32::try_from(number).unwrap_or(0))
}
