//! Space of a SQLite file after a cleanup. With `auto_vacuum = INCREMENTAL` free pages go back to the system in slices that no writer
//! feels; otherwise they stay in the file for new rows, and that is said.

use std::time::Duration;

use dbkeep_engine::{
    model::{HorizonHolder, TableName, TableSpace},
    port::{MaintenanceError, TargetError, Watch},
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqliteConnection};

use super::{
    SqliteTarget,
    dump::{or_stopped, stoppable, unstoppable},
    error::statement,
    render,
};

/// Pages freed in one transaction: 4 MB at the usual page size.
const SLICE: u64 = 1_000;
/// Rest between two slices, for writers that wait.
const REST: Duration = Duration::from_millis(10);
/// Rows of each index that are looked at for the statistics of the whole file: writers wait for as long as that takes.
const ANALYZED_ROWS: u32 = 1_000;
/// `PRAGMA auto_vacuum` where free pages are given back on request.
const INCREMENTAL: i64 = 2;

async fn pragma(connection: &mut SqliteConnection, name: &str) -> Result<i64, TargetError> {
    sqlx::query_scalar(AssertSqlSafe(format!("PRAGMA main.{name}")))
        .fetch_one(connection)
        .await
        .map_err(statement)
}

pub(super) async fn pages(connection: &mut SqliteConnection, name: &str) -> Result<u64, TargetError> {
    Ok(u64::try_from(pragma(connection, name).await?).unwrap_or(0))
}

impl SqliteTarget {
    pub(super) async fn vacuum_table(&self, table: &TableName, watch: &Watch) -> Result<TableSpace, MaintenanceError> {
        let result = self.give_back(Some(table), watch).await;
        or_stopped(result, watch)
    }

    /// The same with the statistics of every table.
    pub(super) async fn tidy_file(&self, watch: &Watch) -> Result<TableSpace, MaintenanceError> {
        let result = self.give_back(None, watch).await;
        or_stopped(result, watch)
    }

    async fn give_back(&self, table: Option<&TableName>, watch: &Watch) -> Result<TableSpace, MaintenanceError> {
        let mut connection = self.connection().await?;
        let stop = stoppable(&mut connection, watch).await?;
        let page = pages(&mut connection, "page_size").await?;
        let before = pages(&mut connection, "page_count").await?;
        let free = pages(&mut connection, "freelist_count").await?;
        watch.say("analyzing", table.map_or("", |table| &table.name), 0, 0, "pages");
        match table {
            Some(table) => {
                connection
                    .execute(AssertSqlSafe(format!("ANALYZE {}", render::table(table))))
                    .await
                    .map_err(statement)?;
            }
            None => {
                let bounded =
                    format!("PRAGMA analysis_limit = {ANALYZED_ROWS}; ANALYZE main; PRAGMA optimize; PRAGMA analysis_limit = 0");
                connection.execute(AssertSqlSafe(bounded)).await.map_err(statement)?;
            }
        }
        let incremental = pragma(&mut connection, "auto_vacuum").await? == INCREMENTAL;
        if incremental {
            let mut left = pages(&mut connection, "freelist_count").await?;
            while left > 0 {
                watch.say("vacuuming", "", free.saturating_sub(left), free, "pages");
                // Every row has to be read: SQLite frees a page with each.
                sqlx::query(AssertSqlSafe(format!("PRAGMA main.incremental_vacuum({SLICE})")))
                    .fetch_all(&mut connection)
                    .await
                    .map_err(statement)?;
                let now = pages(&mut connection, "freelist_count").await?;
                if now >= left {
                    break;
                }
                left = now;
                tokio::select! {
                    () = watch.stop.cancelled() => return Err(MaintenanceError::Stopped),
                    () = tokio::time::sleep(REST) => {}
                }
            }
        }
        let checkpoint = sqlx::query("PRAGMA main.wal_checkpoint(PASSIVE)")
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        let (log, moved): (i64, i64) = (
            checkpoint.try_get_unchecked(1).map_err(statement)?,
            checkpoint.try_get_unchecked(2).map_err(statement)?,
        );
        let after = pages(&mut connection, "page_count").await?;
        let reusable = pages(&mut connection, "freelist_count").await?;
        unstoppable(&mut connection).await?;
        drop(stop);
        self.idle.put(connection);
        let held = log > moved;
        let mut notes = Vec::new();
        if !incremental {
            notes.push("the file does not shrink without VACUUM; new rows take the free pages first".to_owned());
        }
        if held {
            notes.push(format!(
                "{} pages of the write-ahead log wait for a reader to end",
                log - moved
            ));
        }
        let holders = held.then(|| HorizonHolder {
            kind: "reader".to_owned(),
            name: "of an older state of the file".to_owned(),
            user: String::new(),
            detail: String::new(),
            age_seconds: None,
            age_transactions: None,
        });
        Ok(TableSpace {
            table: TableSpace::WHOLE_FILE.to_owned(),
            bytes_before: before * page,
            bytes_after: after * page,
            bytes_reusable: reusable * page,
            reusable_by: "freelist".to_owned(),
            dead_rows: 0,
            holders: holders.into_iter().collect(),
            note: notes.join("; "),
        })
    }
}
