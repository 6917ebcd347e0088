//! Rows on their way back: into their table, or into a scratch table that proves they could be.

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Row, TableName, Value},
    port::{Conflict, Restored, Scratch, TableLayout, TargetError},
};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::{
    columns_of,
    error::{about_the_row, refused, statement},
    render, text_row,
};

/// Conflicts that are described one by one.
const NAMED_CONFLICTS: usize = 20;
const FOREIGN_KEY_VIOLATION: &str = "23503";

/// `INSERT INTO .. SELECT` of rows bound as one text array for each column.
fn insert(table: &str, layout: &TableLayout) -> String {
    let names = layout
        .columns
        .iter()
        .map(|(name, _)| render::identifier(name))
        .collect::<Vec<_>>()
        .join(", ");
    let values = layout
        .columns
        .iter()
        .enumerate()
        .map(|(position, (_, type_name))| format!("k.k{}::{type_name}", position + 1));
    let arrays = (1..=layout.columns.len())
        .map(|position| format!("${position}::text[]"))
        .collect::<Vec<_>>()
        .join(", ");
    let columns = (1..=layout.columns.len())
        .map(|position| format!("k{position}"))
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {} FROM unnest({arrays}) WITH ORDINALITY AS k({columns}, place) ORDER BY k.place",
        values.collect::<Vec<_>>().join(", ")
    )
}

async fn insert_rows(connection: &mut PgConnection, sql: &str, rows: &[Row], width: usize) -> Result<u64, sqlx::Error> {
    let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    for column in columns_of(rows, width).map_err(|error| sqlx::Error::Protocol(error.to_string()))? {
        query = query.bind(column);
    }
    Ok(query.execute(connection).await?.rows_affected())
}

/// Puts rows back into their table. Where all go in at once, one statement does it; otherwise each row is tried by itself, so
/// that those that cannot go are named. Deferred constraints are checked at once: at the commit it is too late to name a row.
/// (`ON CONFLICT` would not work with them at all.)
pub(super) async fn restore(connection: &mut PgConnection, layout: &TableLayout, rows: &[Row]) -> Result<Restored, TargetError> {
    let sql = insert(&render::table(&layout.table), layout);
    let width = layout.columns.len();
    connection
        .execute("SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT restore")
        .await
        .map_err(statement)?;
    let all = insert_rows(connection, &sql, rows, width).await.map_err(statement);
    match all {
        Ok(inserted) if inserted == rows.len() as u64 => {
            return Ok(Restored {
                rows: inserted,
                ..Restored::default()
            });
        }
        Ok(_) => {}
        Err(error) if about_the_row(&error) => {}
        Err(error) => return Err(error),
    }
    connection.execute("ROLLBACK TO SAVEPOINT restore").await.map_err(statement)?;
    let mut restored = Restored::default();
    let mut pending: Vec<&Row> = rows.iter().collect();
    loop {
        let before = restored.rows;
        // Rows whose parent is missing; it may be a later row of the same table.
        let mut orphaned = Vec::new();
        for row in pending {
            connection.execute("SAVEPOINT one").await.map_err(statement)?;
            let reason = match insert_rows(connection, &sql, std::slice::from_ref(row), width)
                .await
                .map_err(statement)
            {
                Ok(inserted) => {
                    connection.execute("RELEASE SAVEPOINT one").await.map_err(statement)?;
                    restored.rows += inserted;
                    if inserted == 1 {
                        continue;
                    }
                    "a trigger kept it out".to_owned()
                }
                Err(error) if about_the_row(&error) => {
                    connection
                        .execute("ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one")
                        .await
                        .map_err(statement)?;
                    if error.code.as_deref() == Some(FOREIGN_KEY_VIOLATION) {
                        orphaned.push((row, error.message));
                        continue;
                    }
                    error.message
                }
                Err(error) => return Err(error),
            };
            leave(&mut restored, layout, row, reason);
        }
        if orphaned.is_empty() || restored.rows == before {
            for (row, reason) in orphaned {
                leave(&mut restored, layout, row, reason);
            }
            return Ok(restored);
        }
        pending = orphaned.into_iter().map(|(row, _)| row).collect();
    }
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

/// A transaction that is never committed, with one scratch table for each layout.
pub(super) struct PostgresScratch {
    connection: PgConnection,
    tables: Vec<TableLayout>,
}

impl PostgresScratch {
    pub(super) fn new(connection: PgConnection) -> Self {
        Self {
            connection,
            tables: Vec::new(),
        }
    }

    /// Name of the scratch table for a layout; made where it is not there yet.
    async fn table(&mut self, layout: &TableLayout) -> Result<String, TargetError> {
        let known = self.tables.iter().position(|known| known == layout);
        let position = known.unwrap_or(self.tables.len());
        let name = render::table(&TableName {
            schema: Some("pg_temp".to_owned()),
            name: format!("dbkeep_scratch_{position}"),
        });
        if known.is_none() {
            if position == 0 {
                self.connection.execute("BEGIN").await.map_err(statement)?;
            }
            let columns = layout
                .columns
                .iter()
                .map(|(name, type_name)| format!("{} {type_name}", render::identifier(name)));
            let create = format!(
                "CREATE TABLE {name} (dbkeep_place bigserial, {})",
                columns.collect::<Vec<_>>().join(", ")
            );
            self.connection.execute(AssertSqlSafe(create)).await.map_err(statement)?;
            self.tables.push(layout.clone());
        }
        Ok(name)
    }
}

#[async_trait]
impl Scratch for PostgresScratch {
    async fn prove(&mut self, layout: &TableLayout, rows: Vec<Row>) -> Result<u64, TargetError> {
        let table = self.table(layout).await?;
        self.connection
            .execute(AssertSqlSafe(format!("TRUNCATE {table}")))
            .await
            .map_err(statement)?;
        insert_rows(&mut self.connection, &insert(&table, layout), &rows, layout.columns.len())
            .await
            .map_err(statement)?;
        let columns = render::text_columns(layout.columns.iter().map(|(name, _)| name.as_str()));
        let sql = format!("SELECT {columns} FROM {table} AS t ORDER BY t.dbkeep_place");
        let back = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&mut self.connection)
            .await
            .map_err(statement)?;
        if back.len() != rows.len() {
            return Err(refused(format!(
                "{} rows went into the scratch table and {} came back",
                rows.len(),
                back.len()
            )));
        }
        let mut proven = 0;
        for (row, back) in rows.iter().zip(&back) {
            proven += u64::from(*row == text_row(back)?);
        }
        Ok(proven)
    }
}
