//! Rows on their way back: into their table, or into a scratch table that proves they could be.

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Row, Value},
    port::{Conflict, Restored, Scratch, TableLayout, TargetError, TargetErrorClass},
};
use sqlx::{AssertSqlSafe, Executor as _, SqliteConnection};

use super::{
    bind,
    error::{refused, statement},
    render, values,
};

/// Conflicts that are described one by one.
const NAMED_CONFLICTS: usize = 20;
/// Rows of one INSERT, and the most parameters it may have; SQLite's limit is 32,766.
const INSERT_ROWS: usize = 200;
const MAX_PARAMETERS: usize = 30_000;

async fn insert(connection: &mut SqliteConnection, table: &str, layout: &TableLayout, rows: &[Row]) -> Result<u64, TargetError> {
    let names = layout.columns.iter().map(|(name, _)| render::identifier(name)).collect::<Vec<_>>().join(", ");
    let tuple = |row: &Row| format!("({})", row.iter().map(render::placeholder).collect::<Vec<_>>().join(", "));
    let tuples = rows.iter().map(tuple).collect::<Vec<_>>().join(", ");
    let sql = format!("INSERT INTO {table} ({names}) VALUES {tuples} ON CONFLICT DO NOTHING");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for value in rows.iter().flatten() {
        query = bind(query, value);
    }
    Ok(query.execute(connection).await.map_err(statement)?.rows_affected())
}

/// Puts rows back into their table, many at a time. Where some cannot go, each row of that part is tried by itself, so that
/// those are named.
pub(super) async fn restore(connection: &mut SqliteConnection, layout: &TableLayout, rows: &[Row]) -> Result<Restored, TargetError> {
    let table = render::table(&layout.table);
    let mut restored = Restored::default();
    for part in rows.chunks(INSERT_ROWS.min(MAX_PARAMETERS / layout.columns.len().max(1)).max(1)) {
        connection.execute("SAVEPOINT part").await.map_err(statement)?;
        match insert(connection, &table, layout, part).await {
            Ok(inserted) if inserted == part.len() as u64 => {
                connection.execute("RELEASE part").await.map_err(statement)?;
                restored.rows += inserted;
                continue;
            }
            Ok(_) => {}
            Err(error) if error.class == TargetErrorClass::Constraint => {}
            Err(error) => return Err(error),
        }
        connection.execute("ROLLBACK TO part").await.map_err(statement)?;
        for row in part {
            // A single statement that fails takes itself back.
            let reason = match insert(connection, &table, layout, std::slice::from_ref(row)).await {
                Ok(1) => {
                    restored.rows += 1;
                    continue;
                }
                Ok(_) => "a row with the same key is there".to_owned(),
                Err(error) if error.class == TargetErrorClass::Constraint => error.message,
                Err(error) => return Err(error),
            };
            restored.conflicting += 1;
            if restored.conflicts.len() < NAMED_CONFLICTS {
                restored.conflicts.push(Conflict { key: key_of(layout, row), reason });
            }
        }
        connection.execute("RELEASE part").await.map_err(statement)?;
    }
    Ok(restored)
}

fn key_of(layout: &TableLayout, row: &Row) -> String {
    let value = |name: &String| layout.columns.iter().position(|(column, _)| column == name).and_then(|position| row.get(position));
    let shown = |name| value(name).and_then(|value| Value::preview(value, 80)).unwrap_or_else(|| "NULL".to_owned());
    layout.row_key.iter().map(|name| format!("{name}={}", shown(name))).collect::<Vec<_>>().join(" ")
}

/// A database in memory, with one scratch table for each layout.
pub(super) struct SqliteScratch {
    connection: SqliteConnection,
    tables: Vec<TableLayout>,
}

impl SqliteScratch {
    pub(super) fn new(connection: SqliteConnection) -> Self {
        Self { connection, tables: Vec::new() }
    }

    /// Name of the scratch table for a layout; made where it is not there yet.
    async fn table(&mut self, layout: &TableLayout) -> Result<String, TargetError> {
        let known = self.tables.iter().position(|known| known == layout);
        let name = format!("main.scratch_{}", known.unwrap_or(self.tables.len()));
        if known.is_none() {
            // The declared types decide what an INSERT makes of a value, so that they belong to the proof.
            let columns = layout.columns.iter().map(|(name, type_name)| format!("{} {type_name}", render::identifier(name)));
            let create = format!("CREATE TABLE {name} ({})", columns.collect::<Vec<_>>().join(", "));
            self.connection.execute(AssertSqlSafe(create)).await.map_err(statement)?;
            self.tables.push(layout.clone());
        }
        Ok(name)
    }
}

#[async_trait]
impl Scratch for SqliteScratch {
    async fn prove(&mut self, layout: &TableLayout, rows: Vec<Row>) -> Result<u64, TargetError> {
        let table = self.table(layout).await?;
        self.connection.execute(AssertSqlSafe(format!("BEGIN; DELETE FROM {table}"))).await.map_err(statement)?;
        for part in rows.chunks(INSERT_ROWS.min(MAX_PARAMETERS / layout.columns.len().max(1)).max(1)) {
            insert(&mut self.connection, &table, layout, part).await?;
        }
        let columns = render::columns(layout.columns.iter().map(|(name, _)| name.as_str()));
        let sql = format!("SELECT {columns} FROM {table} AS t ORDER BY rowid");
        let back = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.connection).await.map_err(statement)?;
        self.connection.execute("COMMIT").await.map_err(statement)?;
        if back.len() != rows.len() {
            return Err(refused(format!("{} rows went into the scratch table and {} came back", rows.len(), back.len())));
        }
        let mut proven = 0;
        for (row, back) in rows.iter().zip(&back) {
            proven += u64::from(*row == values(back, 0..layout.columns.len())?);
        }
        Ok(proven)
    }
}
