//! Surveys: how many rows a selection takes, and some of them. The transaction, which only reads, is the caller's.
//!
//! A plan that somebody waits for is counted in one statement. Where a run shares the database, the selection is executed as a cursor: a
//! cursor has no parallel workers, so that no more than one processor of the database is kept busy, and its statement rests on the way.

use dbkeep_engine::{
    model::{Selection, TableSchema},
    port::{Survey, TargetError},
};
use sqlx::{AssertSqlSafe, Executor as _};

use super::{
    error::statement,
    line::Line,
    render::{self, Pace},
    surveyed, text_row,
};

/// Pages that an estimate looks at: enough that it is off by a tenth where rows are spread evenly, and read within some milliseconds.
const ESTIMATE_PAGES: f64 = 200.0;
/// In one statement, as fast as the database can.
pub(super) async fn at_once(connection: &mut Line, selection: &Selection, samples: u32) -> Result<Survey, TargetError> {
    let from = render::from_where(selection)?;
    let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) {from}")))
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    let columns = render::text_columns(selection.table.captured_columns().map(|column| column.name.as_str()));
    let sql = format!("SELECT {columns} {from}");
    let mut rows = Vec::new();
    if samples > 0 && count > 0 {
        let sampling = format!("{sql} LIMIT {samples}");
        let found = sqlx::query(AssertSqlSafe(sampling)).persistent(false);
        for row in found.fetch_all(&mut *connection).await.map_err(statement)? {
            rows.push(text_row(&row)?);
        }
    }
    Ok(surveyed(u64::try_from(count).unwrap_or(0), rows, sql))
}

/// Rows of the whole table.
pub(super) async fn whole(connection: &mut Line, table: &TableSchema, pace: Pace) -> Result<u64, TargetError> {
    let sql = format!("SELECT count(*) FROM {} AS t", pace.parents(table));
    let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// About how many rows the whole table has, by those in some of its pages. Of a table with no more pages than that it is exact.
pub(super) async fn estimate(connection: &mut Line, table: &TableSchema) -> Result<u64, TargetError> {
    let name = render::table(&table.name);
    let share = "SELECT least(1, $2 / nullif(pg_relation_size(to_regclass($1)) / current_setting('block_size')::float8, 0))";
    let share: Option<f64> = sqlx::query_scalar(share)
        .bind(&name)
        .bind(ESTIMATE_PAGES)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    let Some(share) = share else { return Ok(0) };
    let sql = format!("SELECT (count(*) / $1)::bigint FROM ONLY {name} TABLESAMPLE SYSTEM ((100 * $1)::real)");
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(share)
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    Ok(u64::try_from(rows).unwrap_or(0))
}

/// With rests, so that others do not feel it.
pub(super) async fn resting(connection: &mut Line, selection: &Selection, samples: u32) -> Result<Survey, TargetError> {
    let columns = render::text_columns(selection.table.captured_columns().map(|column| column.name.as_str()));
    let declare = format!(
        "SET LOCAL cursor_tuple_fraction = 1; DECLARE dbkeep_survey NO SCROLL CURSOR FOR SELECT t.ctid::text {}",
        render::from_where_at(selection, Pace::Resting)?
    );
    connection.execute(AssertSqlSafe(declare)).await.map_err(statement)?;
    let fetch = format!("FETCH FORWARD {samples} FROM dbkeep_survey");
    let addresses: Vec<String> = sqlx::query_scalar(AssertSqlSafe(fetch))
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    let moved = connection
        .execute("MOVE FORWARD ALL FROM dbkeep_survey")
        .await
        .map_err(statement)?;
    let count = addresses.len() as u64 + moved.rows_affected();
    connection.execute("CLOSE dbkeep_survey").await.map_err(statement)?;
    let sql = format!("SELECT {columns} {}", render::from_where(selection)?);
    let mut sampled = Vec::with_capacity(addresses.len());
    if !addresses.is_empty() {
        let table = render::table(&selection.table.name);
        let read = format!("SELECT {columns} FROM ONLY {table} AS t WHERE t.ctid = ANY ($1::tid[])");
        let found = sqlx::query(AssertSqlSafe(read)).persistent(false).bind(&addresses);
        for row in found.fetch_all(&mut *connection).await.map_err(statement)? {
            sampled.push(text_row(&row)?);
        }
    }
    Ok(surveyed(count, sampled, sql))
}
