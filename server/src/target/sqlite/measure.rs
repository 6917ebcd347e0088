//! Sizes of the file, from its header, and of tables as far as `ANALYZE` has noted them. What a table takes of the file is told by
//! nothing but a walk through all of its pages, and is therefore unknown.

use dbkeep_engine::{
    model::{RowsBy, SizeSnapshot, TableName, TableSize},
    port::{MaintenanceError, TargetError},
};
use sqlx::SqliteConnection;

use super::{SqliteTarget, error::statement, vacuum::pages};

/// Tables that are looked at where none are named.
const MOST: i64 = 20;

/// Rows of a table when it was last analyzed: the first number of any of its entries.
async fn rows(connection: &mut SqliteConnection, table: &TableName) -> Result<Option<u64>, TargetError> {
    let stat: Option<String> =
        sqlx::query_scalar("SELECT stat FROM main.sqlite_stat1 WHERE tbl = ? COLLATE NOCASE AND stat IS NOT NULL LIMIT 1")
            .bind(&table.name)
            .fetch_optional(connection)
            .await
            .map_err(statement)?;
    Ok(stat.and_then(|stat| stat.split(' ').next()?.parse().ok()))
}

/// The tables, by name: SQLite does not know which are large.
async fn named(connection: &mut SqliteConnection) -> Result<Vec<TableName>, TargetError> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
               AND name NOT LIKE '\\_dbkeep%' ESCAPE '\\' ORDER BY name LIMIT ?";
    let names: Vec<String> = sqlx::query_scalar(sql)
        .bind(MOST)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    Ok(names.into_iter().map(|name| TableName { schema: None, name }).collect())
}

async fn exists(connection: &mut SqliteConnection, table: &str) -> Result<bool, TargetError> {
    let sql = "SELECT count(*) FROM main.sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE";
    let found: i64 = sqlx::query_scalar(sql)
        .bind(table)
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    Ok(found > 0)
}

impl SqliteTarget {
    pub(super) async fn measure(&self, tables: Option<&[TableName]>) -> Result<SizeSnapshot, MaintenanceError> {
        let mut connection = self.connection().await?;
        let page = pages(&mut connection, "page_size").await?;
        let whole = pages(&mut connection, "page_count").await?;
        let free = pages(&mut connection, "freelist_count").await?;
        let tables = match tables {
            Some(tables) => tables.to_vec(),
            None => named(&mut connection).await?,
        };
        let analyzed = exists(&mut connection, "sqlite_stat1").await?;
        let mut sizes = Vec::with_capacity(tables.len());
        for table in &tables {
            if !exists(&mut connection, &table.name).await? {
                continue;
            }
            let rows = if analyzed { rows(&mut connection, table).await? } else { None };
            sizes.push(TableSize {
                table: table.to_string(),
                rows,
                rows_by: if rows.is_some() { RowsBy::Estimate } else { RowsBy::Unknown },
                bytes: None,
                // What is deleted is gone at once, and its pages are free for every table.
                dead_rows: None,
                free_bytes: None,
            });
        }
        self.idle.put(connection);
        Ok(SizeSnapshot {
            at: jiff::Timestamp::now(),
            database_bytes: Some(whole * page),
            reusable_bytes: Some(free * page),
            tables: sizes,
        })
    }
}
