//! Whole tables out of SQLite: `VACUUM INTO` for the whole file, and for single tables a new file with their definitions and rows, read
//! in one transaction. Either is a SQLite database that any tool can open.

use std::{path::Path, sync::Arc};

use dbkeep_engine::{
    model::{TableCount, TableKind, TableName},
    port::{DumpOrder, DumpScope, Dumped, MaintenanceError, TargetError, TargetErrorClass, Watch},
};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    SqliteTarget,
    error::{self, statement},
    introspect, render,
};
use crate::target::measure::growing;

/// Instructions of SQLite's machine between two looks at whether to stop: a few milliseconds.
const LOOK_EVERY: i32 = 20_000;

/// Lets a connection's statements end with an error as soon as `watch` says stop, or the guard is dropped.
pub(super) async fn stoppable(connection: &mut SqliteConnection, watch: &Watch) -> Result<DropGuard, TargetError> {
    stoppable_by(connection, watch.stop.child_token()).await
}

/// The same for who has nothing but the guard, or a token.
pub(super) async fn stoppable_by(connection: &mut SqliteConnection, stop: CancellationToken) -> Result<DropGuard, TargetError> {
    let seen: CancellationToken = stop.clone();
    let mut handle = connection.lock_handle().await.map_err(statement)?;
    handle.set_progress_handler(LOOK_EVERY, move || !seen.is_cancelled());
    Ok(stop.drop_guard())
}

/// Takes that back, for a connection that is used again.
pub(super) async fn unstoppable(connection: &mut SqliteConnection) -> Result<(), TargetError> {
    connection.lock_handle().await.map_err(statement)?.remove_progress_handler();
    Ok(())
}

/// Opens a dump, or another SQLite file of ours.
pub(super) async fn open_file(path: &Path, read_only: bool) -> Result<SqliteConnection, TargetError> {
    let mut options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(!read_only)
        .read_only(read_only)
        .foreign_keys(false)
        .disable_statement_logging();
    if read_only {
        // Nobody writes to a sealed dump, so that no file needs to be made beside it.
        options = options.immutable(true);
    }
    options.connect().await.map_err(error::opening)
}

/// Ordinary tables of a schema: without SQLite's own, dbkeep's, and those behind virtual tables.
pub(super) async fn tables(connection: &mut SqliteConnection, schema: &str) -> Result<Vec<TableName>, TargetError> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = ? AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
               AND name NOT LIKE '\\_dbkeep\\_%' ESCAPE '\\' ORDER BY name";
    let names: Vec<String> = sqlx::query_scalar(sql)
        .bind(schema)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    Ok(names.into_iter().map(|name| TableName { schema: None, name }).collect())
}

pub(super) async fn count(connection: &mut SqliteConnection, schema: &str, table: &TableName) -> Result<u64, TargetError> {
    let sql = format!(
        "SELECT count(*) FROM {}.{}",
        render::identifier(schema),
        render::identifier(&table.name)
    );
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    Ok(u64::try_from(rows).unwrap_or(0))
}

/// The statements that make a table and what belongs to it, as SQLite keeps them: the table, then indexes, then triggers.
pub(super) async fn definitions(
    connection: &mut SqliteConnection,
    schema: &str,
    table: &TableName,
) -> Result<Vec<(String, String, String)>, TargetError> {
    let sql = format!(
        "SELECT type, name, sql FROM {}.sqlite_schema WHERE tbl_name = ? COLLATE NOCASE AND type IN ('table', 'index', 'trigger') AND sql IS NOT NULL \
         ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 ELSE 2 END, name",
        render::identifier(schema)
    );
    sqlx::query_as(AssertSqlSafe(sql))
        .bind(&table.name)
        .fetch_all(connection)
        .await
        .map_err(statement)
}

/// Columns that hold what was written, not what is computed.
pub(super) async fn stored_columns(
    connection: &mut SqliteConnection,
    schema: &str,
    table: &TableName,
) -> Result<Vec<String>, TargetError> {
    sqlx::query_scalar("SELECT name FROM pragma_table_xinfo(?, ?) WHERE hidden = 0 ORDER BY cid")
        .bind(&table.name)
        .bind(schema)
        .fetch_all(connection)
        .await
        .map_err(statement)
}

/// `INSERT INTO to.table SELECT .. FROM from.table`, all columns that can be written.
pub(super) async fn copy_rows(
    connection: &mut SqliteConnection,
    from: &str,
    to: &str,
    table: &TableName,
) -> Result<u64, TargetError> {
    let columns = stored_columns(connection, from, table).await?;
    let columns = columns
        .iter()
        .map(|column| render::identifier(column))
        .collect::<Vec<_>>()
        .join(", ");
    let name = render::identifier(&table.name);
    let (from, to) = (render::identifier(from), render::identifier(to));
    let sql = format!("INSERT INTO {to}.{name} ({columns}) SELECT {columns} FROM {from}.{name}");
    let done = connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    Ok(done.rows_affected())
}

/// Makes a new file with some tables of an open database.
pub(super) async fn copy_tables(
    source: &mut SqliteConnection,
    tables: &[TableName],
    path: &Path,
    watch: &Watch,
) -> Result<Vec<TableCount>, MaintenanceError> {
    let shown = path
        .to_str()
        .ok_or_else(|| error::refused("the backup folder's path is no UTF-8".to_owned()))?;
    let mut defined = Vec::new();
    for table in tables {
        defined.push(definitions(source, "main", table).await?);
    }
    let mut made = open_file(path, false).await?;
    for sql in defined
        .iter()
        .flatten()
        .filter(|(kind, ..)| kind == "table")
        .map(|(_, _, sql)| sql)
    {
        made.execute(AssertSqlSafe(sql.clone())).await.map_err(statement)?;
    }
    made.close().await.map_err(statement)?;
    sqlx::query("ATTACH DATABASE ? AS dbkeep_copy")
        .bind(shown)
        .execute(&mut *source)
        .await
        .map_err(statement)?;
    source.execute("BEGIN").await.map_err(statement)?;
    let mut counts = Vec::new();
    for (table, defined) in tables.iter().zip(&defined) {
        if definitions(source, "main", table).await? != *defined {
            let message = format!("{} changed its shape while it was saved", table.name);
            return Err(TargetError::new(TargetErrorClass::Conflict, message).into());
        }
        watch.say("copying", &table.name, counts.len() as u64, tables.len() as u64, "tables");
        let rows = copy_rows(source, "main", "dbkeep_copy", table).await?;
        if rows != count(source, "main", table).await? {
            return Err(error::refused(format!("not every row of {} was copied", table.name)).into());
        }
        counts.push(TableCount {
            table: table.clone(),
            rows,
        });
    }
    source.execute("COMMIT").await.map_err(statement)?;
    source.execute("DETACH DATABASE dbkeep_copy").await.map_err(statement)?;
    let mut made = open_file(path, false).await?;
    for sql in defined
        .iter()
        .flatten()
        .filter(|(kind, ..)| kind != "table")
        .map(|(_, _, sql)| sql)
    {
        made.execute(AssertSqlSafe(sql.clone())).await.map_err(statement)?;
    }
    made.close().await.map_err(statement)?;
    Ok(counts)
}

/// Whether SQLite finds a file whole.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<(), MaintenanceError> {
    let said: Vec<String> = sqlx::query_scalar("PRAGMA quick_check(5)")
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    if said == ["ok"] {
        return Ok(());
    }
    Err(MaintenanceError::Damaged {
        problem: said.join("; "),
    })
}

/// An error of a statement that was told to stop is no error of the statement.
pub(super) fn or_stopped<T>(result: Result<T, MaintenanceError>, watch: &Watch) -> Result<T, MaintenanceError> {
    match result {
        Err(MaintenanceError::Target(_)) if watch.stop.is_cancelled() => Err(MaintenanceError::Stopped),
        other => other,
    }
}

impl SqliteTarget {
    /// A connection that nobody else gets, without foreign keys enforced.
    pub(super) async fn apart(&self) -> Result<SqliteConnection, TargetError> {
        let options = self.options.clone().foreign_keys(false);
        options.connect().await.map_err(error::opening)
    }

    pub(super) async fn dump_scope(&self, asked: &[TableName]) -> Result<DumpScope, MaintenanceError> {
        let mut connection = self.connection().await?;
        let mut resolved = Vec::with_capacity(asked.len());
        for table in asked {
            let problem = |problem: &str| MaintenanceError::Table {
                table: table.clone(),
                problem: problem.to_owned(),
            };
            let found = introspect::table(&mut connection, table).await?;
            let found = found.ok_or_else(|| problem("is not there; expected the name of a table"))?;
            if found.kind != TableKind::Table {
                return Err(problem("is a view or a virtual table; expected an ordinary table"));
            }
            if found.name.name.starts_with("_dbkeep_") || found.name.name.starts_with("sqlite_") {
                return Err(problem("belongs to dbkeep or SQLite itself; expected another table"));
            }
            if !resolved.contains(&found.name) {
                resolved.push(found.name);
            }
        }
        let version: String = sqlx::query_scalar("SELECT sqlite_version()")
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        self.idle.put(connection);
        let (how, file) = if asked.is_empty() {
            ("VACUUM INTO", "database.sqlite")
        } else {
            ("copy of tables", "tables.sqlite")
        };
        Ok(DumpScope {
            tables: resolved,
            tool: format!("SQLite {version} {how}"),
            file,
        })
    }

    pub(super) async fn dump_file(&self, order: &DumpOrder, watch: &Watch) -> Result<Dumped, MaintenanceError> {
        let result = self.dump_to(order, watch).await;
        or_stopped(result, watch)
    }

    async fn dump_to(&self, order: &DumpOrder, watch: &Watch) -> Result<Dumped, MaintenanceError> {
        if order.schema_only {
            return Err(MaintenanceError::Unsupported {
                problem: "SQLite copies a database with its rows; expected a copy of all of it".to_owned(),
            });
        }
        let mut connection = self.apart().await?;
        let _stop = stoppable(&mut connection, watch).await?;
        let tables = if order.tables.is_empty() {
            let row = sqlx::query("SELECT (p.page_count - f.freelist_count) * s.page_size FROM pragma_page_count AS p, pragma_freelist_count AS f, pragma_page_size AS s")
                .fetch_one(&mut connection)
                .await
                .map_err(statement)?;
            let total: i64 = row.try_get_unchecked(0).map_err(statement)?;
            let path = Arc::new(order.path.clone());
            let shown = path
                .to_str()
                .ok_or_else(|| error::refused("the backup folder's path is no UTF-8".to_owned()))?;
            let vacuum = sqlx::query("VACUUM INTO ?").bind(shown).execute(&mut connection);
            let total = u64::try_from(total).unwrap_or(0);
            growing(&order.path, total, "dumping", watch, vacuum)
                .await
                .map_err(statement)?;
            // A copy of a database in WAL mode would make files beside itself when it is read.
            let mut made = open_file(&order.path, false).await?;
            let mode: String = sqlx::query_scalar("PRAGMA journal_mode = DELETE")
                .fetch_one(&mut made)
                .await
                .map_err(statement)?;
            made.close().await.map_err(statement)?;
            if mode != "delete" {
                return Err(error::refused(format!("the copy stays in journal mode {mode}")).into());
            }
            None
        } else {
            Some(copy_tables(&mut connection, &order.tables, &order.path, watch).await?)
        };
        watch.say("checking", "", 0, 0, "pages");
        let mut made = open_file(&order.path, true).await?;
        let _stop = stoppable(&mut made, watch).await?;
        check(&mut made).await?;
        let tables = match tables {
            Some(tables) => tables,
            None => {
                let mut counts = Vec::new();
                for table in self::tables(&mut made, "main").await? {
                    let rows = count(&mut made, "main", &table).await?;
                    counts.push(TableCount { table, rows });
                }
                counts
            }
        };
        let ledger = if order.tables.is_empty() {
            super::migrator::ledger::all(&mut made).await?
        } else {
            Vec::new()
        };
        Ok(Dumped {
            tables,
            notes: serde_json::json!({ "whole": order.tables.is_empty() }),
            ledger,
        })
    }
}
