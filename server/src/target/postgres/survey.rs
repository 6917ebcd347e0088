//! Surveys: how many rows a selection takes, and some of them. The transaction, which only reads, is the caller's.
//!
//! A plan that somebody waits for is counted in one statement. Where a run shares the database, the selection is executed as a cursor
//! and moved over in short slices with longer rests: a cursor has no parallel workers, so that no more than one
//! processor of the database is kept busy.

use std::time::{Duration, Instant};

use dbkeep_engine::{
    model::{Selection, TableSchema},
    port::{Survey, TargetError},
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{
    error::{refused, statement},
    line::Line,
    ranges::Ranges,
    render, surveyed, text_row,
};

/// Time that a slice should take: what comes meanwhile waits for at most about as long, which is less than a commit takes.
const SLICE: Duration = Duration::from_millis(1);
/// Rest after a slice, in times of what it took. A survey looks at every row and a run only at its own, so that a survey at the
/// run's own duty cycle is felt more than the run.
const REST: u32 = 3;
/// Rows of the first slice; the others follow the time that it took.
const FIRST_ROWS: u32 = 200;
/// Pages that an estimate looks at: enough that it is off by a tenth where rows are spread evenly, and read within some milliseconds.
const ESTIMATE_PAGES: f64 = 200.0;
/// Most rows of a slice.
const MAX_ROWS: u32 = 100_000;

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
pub(super) async fn whole(connection: &mut Line, table: &TableSchema) -> Result<u64, TargetError> {
    let sql = format!("SELECT count(*) FROM {}", render::table(&table.name));
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

/// In ranges of pages that others do not feel, each as it is when its turn comes.
pub(super) async fn by_ranges(
    connection: &mut Line,
    selection: &Selection,
    samples: u32,
    mut ranges: Ranges,
) -> Result<Survey, TargetError> {
    let samples = usize::try_from(samples).unwrap_or(usize::MAX);
    let (mut count, mut addresses) = (0, Vec::new());
    while !ranges.is_over() {
        if addresses.len() < samples {
            for row in ranges.take(connection, "t.ctid::text").await? {
                count += 1;
                if addresses.len() < samples {
                    addresses.push(row.try_get(0).map_err(statement)?);
                }
            }
        } else {
            for row in ranges.take(connection, "count(*)::text").await? {
                let found: String = row.try_get(0).map_err(statement)?;
                count += found.parse::<u64>().map_err(|error| refused(error.to_string()))?;
            }
        }
    }
    with_samples(connection, selection, count, addresses).await
}

/// In slices of a cursor that others do not feel.
pub(super) async fn in_slices(connection: &mut Line, selection: &Selection, samples: u32) -> Result<Survey, TargetError> {
    let from = render::from_where(selection)?;
    let declare =
        format!("SET LOCAL cursor_tuple_fraction = 1; DECLARE dbkeep_survey NO SCROLL CURSOR FOR SELECT t.ctid::text {from}");
    connection.execute(AssertSqlSafe(declare)).await.map_err(statement)?;
    let fetch = format!("FETCH FORWARD {samples} FROM dbkeep_survey");
    let addresses: Vec<String> = sqlx::query_scalar(AssertSqlSafe(fetch))
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    let mut count = addresses.len() as u64;
    let mut rows = FIRST_ROWS;
    while samples == 0 || addresses.len() as u64 == u64::from(samples) {
        let began = Instant::now();
        let sql = format!("MOVE FORWARD {rows} FROM dbkeep_survey");
        let moved = connection
            .execute(AssertSqlSafe(sql))
            .await
            .map_err(statement)?
            .rows_affected();
        count += moved;
        if moved < u64::from(rows) {
            break;
        }
        let took = began.elapsed();
        tokio::time::sleep(took * REST).await;
        rows = next_rows(rows, took);
    }
    connection.execute("CLOSE dbkeep_survey").await.map_err(statement)?;
    with_samples(connection, selection, count, addresses).await
}

/// Reads the rows at these addresses, as far as they are still there.
async fn with_samples(
    connection: &mut Line,
    selection: &Selection,
    count: u64,
    addresses: Vec<String>,
) -> Result<Survey, TargetError> {
    let columns = render::text_columns(selection.table.captured_columns().map(|column| column.name.as_str()));
    let mut sampled = Vec::with_capacity(addresses.len());
    if !addresses.is_empty() {
        let table = render::table(&selection.table.name);
        let read = format!("SELECT {columns} FROM ONLY {table} AS t WHERE t.ctid = ANY ($1::tid[])");
        let found = sqlx::query(AssertSqlSafe(read)).persistent(false).bind(&addresses);
        for row in found.fetch_all(&mut *connection).await.map_err(statement)? {
            sampled.push(text_row(&row)?);
        }
    }
    let sql = format!("SELECT {columns} {}", render::from_where(selection)?);
    Ok(surveyed(count, sampled, sql))
}

/// Twice as many at most, half as many at least, so that one slice that met a full processor does not decide alone.
fn next_rows(rows: u32, took: Duration) -> u32 {
    let wanted = if took < SLICE / 2 {
        rows.saturating_mul(2)
    } else if took > SLICE * 2 {
        rows / 2
    } else {
        rows
    };
    wanted.clamp(FIRST_ROWS / 4, MAX_ROWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_their_time() {
        let ms = Duration::from_millis;
        assert_eq!(next_rows(200, ms(0)), 400);
        assert_eq!(next_rows(400, ms(1)), 400);
        assert_eq!(next_rows(400, ms(2)), 400);
        assert_eq!(next_rows(400, ms(5)), 200);
        assert_eq!(next_rows(60, ms(500)), 50);
        assert_eq!(next_rows(MAX_ROWS, ms(0)), MAX_ROWS);
    }
}
