//! The pass over a table: one cursor in one snapshot, so that the join with the parents is hashed once however many batches
//! follow.

use std::time::Instant;

use async_trait::async_trait;
use dbkeep_engine::{
    model::Selection,
    port::{Scan, TargetError, Window},
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{
    begin_reading,
    error::statement,
    line::Line,
    render::{self, Pace},
    text_row,
};

pub(super) struct CursorScan {
    connection: Line,
    /// Most rows of a window, and of one statement.
    limits: (u32, u32),
    /// Whether a pass can go on after a row: rows come in the order of the table, whatever else they hang on.
    resumable: bool,
    /// Pages of the table when the scan began.
    pages: i64,
    ended: bool,
}

impl CursorScan {
    pub(super) async fn open(
        mut connection: Line,
        selection: &Selection,
        after: Option<&str>,
        limits: (u32, u32),
        pace: Pace,
    ) -> Result<Self, TargetError> {
        begin_reading(&mut connection).await?;
        // Merge joins would sort the table, and a plan for the first rows would look parents up one by one. An index may be used
        // as a bitmap only: rows have to come in the table's order, or a pass that resumes after one of them skips others.
        let order = "SET LOCAL cursor_tuple_fraction = 1; SET LOCAL enable_mergejoin = off; SET LOCAL enable_indexscan = off; \
                     SET LOCAL enable_indexonlyscan = off";
        connection.execute(order).await.map_err(statement)?;
        let keys = render::text_columns(selection.table.row_key.iter().map(String::as_str));
        let mut query = format!("SELECT t.ctid::text, {keys} {}", render::from_where_at(selection, pace)?);
        // Only this adapter writes cursors; still nothing but a ctid may enter the statement.
        if let Some((block, line)) = after.and_then(|after| after.trim_matches(['(', ')']).split_once(','))
            && let (Ok(block), Ok(line)) = (block.parse::<u32>(), line.parse::<u16>())
        {
            query.push_str(&format!(" AND t.ctid > '({block},{line})'::tid"));
        }
        Self::begin(connection, selection, &query, limits, true).await
    }

    /// A pass over what the query lists, in the transaction that is open: each row's ctid, then the rest of its key. Limits are those of
    /// a window and of one statement; after each statement of a window that has several it rests as long as that took.
    pub(super) async fn begin(
        mut connection: Line,
        selection: &Selection,
        query: &str,
        limits: (u32, u32),
        resumable: bool,
    ) -> Result<Self, TargetError> {
        let pages = "SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint";
        let pages: i64 = sqlx::query_scalar(pages)
            .bind(render::table(&selection.table.name))
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        let declare = format!("DECLARE dbkeep_scan NO SCROLL CURSOR FOR {query}");
        connection.execute(AssertSqlSafe(declare)).await.map_err(statement)?;
        Ok(Self {
            connection,
            limits,
            resumable,
            pages,
            ended: false,
        })
    }
}

#[async_trait]
impl Scan for CursorScan {
    async fn next(&mut self) -> Result<Option<Window>, TargetError> {
        if self.ended {
            return Ok(None);
        }
        let (window, slice) = self.limits;
        let mut rows = Vec::new();
        let mut left = window;
        while left > 0 {
            let asked = left.min(slice);
            let began = Instant::now();
            let fetch = format!("FETCH FORWARD {asked} FROM dbkeep_scan");
            let more = sqlx::query(AssertSqlSafe(fetch))
                .fetch_all(&mut self.connection)
                .await
                .map_err(statement)?;
            let full = more.len() as u64 == u64::from(asked);
            rows.extend(more);
            left -= asked;
            if !full {
                break;
            }
            if left > 0 {
                tokio::time::sleep(began.elapsed()).await;
            }
        }
        let Some(last) = rows.last() else {
            self.ended = true;
            return Ok(None);
        };
        let cursor: String = last.try_get(0).map_err(statement)?;
        let block = cursor
            .trim_start_matches('(')
            .split(',')
            .next()
            .and_then(|block| block.parse::<u32>().ok())
            .unwrap_or(0);
        let pages = u32::try_from(self.pages.max(1)).unwrap_or(u32::MAX);
        let fraction = (f64::from(block) / f64::from(pages)).min(1.0);
        let keys = rows.iter().map(text_row).collect::<Result<_, _>>()?;
        Ok(Some(Window {
            keys,
            cursor: if self.resumable { cursor } else { String::new() },
            examined: 0,
            fraction,
        }))
    }
}
