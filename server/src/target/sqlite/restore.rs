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
/// Extended result code SQLITE_CONSTRAINT_FOREIGNKEY.
const FOREIGN_KEY_VIOLATION: &str = "787";
/// Rows of one INSERT, and the most parameters it may have; SQLite's limit is 32,766.
const INSERT_ROWS: usize = 200;
const MAX_PARAMETERS: usize = 30_000;

async fn insert(connection: &mut SqliteConnection, table: &str, layout: &TableLayout, rows: &[Row]) -> Result<u64, TargetError> {
    let names = layout
        .columns
        .iter()
        .map(|(name, _)| render::identifier(name))
        .collect::<Vec<_>>()
        .join(", ");
    let tuple = |row: &Row| format!("({})", row.iter().map(render::placeholder).collect::<Vec<_>>().join(", "));
    let tuples = rows.iter().map(tuple).collect::<Vec<_>>().join(", ");
    let sql = format!("INSERT INTO {table} ({names}) VALUES {tuples} ON CONFLICT DO NOTHING");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for value in rows.iter().flatten() {
        query = bind(query, value);
    }
    Ok(query.execute(connection).await.map_err(statement)?.rows_affected())
}

/// Puts rows back into their table, many at a time. Where some cannot go, each row of that part is tried by itself in the
/// end, so that those are named.
pub(super) async fn restore(
    connection: &mut SqliteConnection,
    layout: &TableLayout,
    rows: &[Row],
) -> Result<Restored, TargetError> {
    let table = render::table(&layout.table);
    let mut restored = Restored::default();
    let mut pending = Vec::new();
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
        connection.execute("RELEASE part").await.map_err(statement)?;
        pending.extend(part);
    }
    while !pending.is_empty() {
        let before = restored.rows;
        // Rows whose parent is missing; it may be a later row of the same table.
        let mut orphaned = Vec::new();
        for row in pending {
            // A single statement that fails takes itself back.
            let reason = match insert(connection, &table, layout, std::slice::from_ref(row)).await {
                Ok(1) => {
                    restored.rows += 1;
                    continue;
                }
                Ok(_) => "a row with the same key is there, or a trigger kept it out".to_owned(),
                Err(error) if error.code.as_deref() == Some(FOREIGN_KEY_VIOLATION) => {
                    orphaned.push((row, error.message));
                    continue;
                }
                Err(error) if error.class == TargetErrorClass::Constraint => error.message,
                Err(error) => return Err(error),
            };
            leave(&mut restored, layout, row, reason);
        }
        if restored.rows == before {
            for (row, reason) in orphaned.drain(..) {
                leave(&mut restored, layout, row, reason);
            }
        }
        pending = orphaned.into_iter().map(|(row, _)| row).collect();
    }
    Ok(restored)
}

fn leave(restored: &mut Restored, layout: &TableLayout, row: &Row, reason: String) {
    restored.conflicting += 1;
    if restored.conflicts.len() < NAMED_CONFLICTS {
        restored.conflicts.push(Conflict {
            key: key_of(layout, row),
            reason,
        });
    }
}

fn key_of(layout: &TableLayout, row: &Row) -> String {
    let value = |name: &String| {
        layout
            .columns
            .iter()
            .position(|(column, _)| column == name)
            .and_then(|position| row.get(position))
    };
    let shown = |name| {
        value(name)
            .and_then(|value| Value::preview(value, 80))
            .unwrap_or_else(|| "NULL".to_owned())
    };
    layout
        .row_key
        .iter()
        .map(|name| format!("{name}={}", shown(name)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A database in memory, with one scratch table for each layout.
pub(super) struct SqliteScratch {
    connection: SqliteConnection,
    tables: Vec<TableLayout>,
}

impl SqliteScratch {
    pub(super) fn new(connection: SqliteConnection) -> Self {
        Self {
            connection,
            tables: Vec::new(),
        }
    }

    /// Name of the scratch table for a layout; made where it is not there yet.
    async fn table(&mut self, layout: &TableLayout) -> Result<String, TargetError> {
        let known = self.tables.iter().position(|known| known == layout);
        let name = format!("main.scratch_{}", known.unwrap_or(self.tables.len()));
        if known.is_none() {
            // The declared types decide what an INSERT makes of a value, so that they belong to the proof.
            let columns = layout
                .columns
                .iter()
                .map(|(name, type_name)| format!(", {}{}", render::identifier(name), declared(type_name)));
            let create = format!(
                "CREATE TABLE {name} (dbkeep_place INTEGER PRIMARY KEY{})",
                columns.collect::<String>()
            );
            self.connection.execute(AssertSqlSafe(create)).await.map_err(statement)?;
            self.tables.push(layout.clone());
        }
        Ok(name)
    }
}

/// A column's type in `CREATE TABLE`: quoted, since SQLite takes any text for one. ANY keeps every value as it is, but in a
/// table that is not STRICT the word would mean NUMERIC.
fn declared(type_name: &str) -> String {
    match type_name {
        "" => String::new(),
        any if any.eq_ignore_ascii_case("ANY") => String::new(),
        other => format!(" {}", render::identifier(other)),
    }
}

#[async_trait]
impl Scratch for SqliteScratch {
    async fn prove(&mut self, layout: &TableLayout, rows: Vec<Row>) -> Result<u64, TargetError> {
        let table = self.table(layout).await?;
        self.connection
            .execute(AssertSqlSafe(format!("BEGIN; DELETE FROM {table}")))
            .await
            .map_err(statement)?;
        for part in rows.chunks(INSERT_ROWS.min(MAX_PARAMETERS / layout.columns.len().max(1)).max(1)) {
            insert(&mut self.connection, &table, layout, part).await?;
        }
        let columns = render::columns(layout.columns.iter().map(|(name, _)| name.as_str()));
        let sql = format!("SELECT {columns} FROM {table} AS t ORDER BY t.dbkeep_place");
        let back = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut self.connection)
            .await
            .map_err(statement)?;
        self.connection.execute("COMMIT").await.map_err(statement)?;
        if back.len() != rows.len() {
            return Err(refused(format!(
                "{} rows went into the scratch table and {} came back",
                rows.len(),
                back.len()
            )));
        }
        let mut proven = 0;
        for (row, back) in rows.iter().zip(&back) {
            proven += u64::from(*row == values(back, 0..layout.columns.len())?);
        }
        Ok(proven)
    }
}
