//! Rows on their way back: into their table, or into a scratch table that proves they could be.

use async_trait::async_trait;
use dbkeep_engine::{
    backup::Section,
    model::{Row, TableName, Value},
    port::{Captured, Conflict, Restored, Scratch, TableLayout, TargetError, TargetErrorClass},
};
use sqlx::{AssertSqlSafe, Executor as _};

use super::{
    columns_of,
    error::{about_the_row, refused, statement},
    line::Line,
    render, text_row,
};

/// Conflicts that are described one by one.
const NAMED_CONFLICTS: usize = 20;
const GONE_OR_CHANGED: &str = "the row is gone, or was changed since";
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

async fn insert_rows(connection: &mut Line, sql: &str, rows: &[&Row], width: usize) -> Result<u64, sqlx::Error> {
    let mut query = sqlx::query(AssertSqlSafe(sql.to_owned()));
    for column in columns_of(rows.iter().copied(), width).map_err(|error| sqlx::Error::Protocol(error.to_string()))? {
        query = query.bind(column);
    }
    Ok(query.execute(connection).await?.rows_affected())
}

/// Puts rows of one table back, by what was done to them.
pub(super) async fn restore(connection: &mut Line, parts: &[Section]) -> Result<Restored, TargetError> {
    let Some(Section { layout, rows }) = parts.first() else {
        return Ok(Restored::default());
    };
    if let Captured::Changed { changed } = &layout.captured {
        return change_back(connection, layout, changed, rows).await;
    }
    let all: Vec<&Row> = parts.iter().flat_map(|part| &part.rows).collect();
    let (mut restored, back) = insert_back(connection, layout, &all).await?;
    let mut back = back.into_iter();
    for Section { layout, rows } in parts {
        let back: Vec<&Row> = rows
            .iter()
            .zip(back.by_ref())
            .filter(|(_, back)| *back)
            .map(|(row, _)| row)
            .collect();
        if let Captured::Archived {
            into,
            stamp_column,
            stamp,
        } = &layout.captured
        {
            let stamped = (into, stamp_column.as_str(), stamp.as_str());
            connection.execute("SAVEPOINT archive").await.map_err(statement)?;
            match take_from_archive(connection, layout, &back, stamped).await {
                Ok(stray) => restored.conflicts.extend(stray),
                Err(error) if error.class == TargetErrorClass::SchemaChanged => {
                    connection.execute("ROLLBACK TO SAVEPOINT archive").await.map_err(statement)?;
                    restored.archive_gone = Some(into.clone());
                }
                Err(error) => return Err(error),
            }
            connection.execute("RELEASE SAVEPOINT archive").await.map_err(statement)?;
        }
    }
    Ok(restored)
}

/// Inserts deleted rows; tells of each whether it is back. Where all go in at once, one statement does it; otherwise each row is
/// tried by itself, so that those that cannot go are named. Deferred constraints are checked at once: at the commit it is too
/// late to name a row. (`ON CONFLICT` would not work with them at all.)
async fn insert_back(connection: &mut Line, layout: &TableLayout, rows: &[&Row]) -> Result<(Restored, Vec<bool>), TargetError> {
    let sql = insert(&render::table(&layout.table), layout);
    let width = layout.columns.len();
    connection
        .execute("SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT restore")
        .await
        .map_err(statement)?;
    let all = insert_rows(connection, &sql, rows, width).await.map_err(statement);
    match all {
        Ok(inserted) if inserted == rows.len() as u64 => {
            connection.execute("RELEASE SAVEPOINT restore").await.map_err(statement)?;
            let restored = Restored {
                rows: inserted,
                ..Restored::default()
            };
            return Ok((restored, vec![true; rows.len()]));
        }
        Ok(_) => {}
        Err(error) if about_the_row(&error) => {}
        Err(error) => return Err(error),
    }
    connection.execute("ROLLBACK TO SAVEPOINT restore").await.map_err(statement)?;
    let mut restored = Restored::default();
    let mut back = vec![false; rows.len()];
    let mut pending: Vec<usize> = (0..rows.len()).collect();
    loop {
        let before = restored.rows;
        // Rows whose parent is missing; it may be a later row of the same table.
        let mut orphaned = Vec::new();
        for place in pending {
            let row = rows[place];
            connection.execute("SAVEPOINT one").await.map_err(statement)?;
            let reason = match insert_rows(connection, &sql, &[row], width).await.map_err(statement) {
                Ok(inserted) => {
                    connection.execute("RELEASE SAVEPOINT one").await.map_err(statement)?;
                    restored.rows += inserted;
                    if inserted == 1 {
                        back[place] = true;
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
                        orphaned.push((place, error.message));
                        continue;
                    }
                    error.message
                }
                Err(error) => return Err(error),
            };
            leave(&mut restored, layout, row, reason);
        }
        if restored.rows == before && !orphaned.is_empty() {
            // In a ring each row waits for another: only one statement has them all there.
            let ring: Vec<&Row> = orphaned.iter().map(|(place, _)| rows[*place]).collect();
            connection.execute("SAVEPOINT ring").await.map_err(statement)?;
            match insert_rows(connection, &sql, &ring, width).await.map_err(statement) {
                Ok(inserted) if inserted == ring.len() as u64 => {
                    restored.rows += inserted;
                    orphaned.drain(..).for_each(|(place, _)| back[place] = true);
                }
                Ok(_) => {}
                Err(error) if about_the_row(&error) => {}
                Err(error) => return Err(error),
            }
            if !orphaned.is_empty() {
                connection.execute("ROLLBACK TO SAVEPOINT ring").await.map_err(statement)?;
            }
            connection.execute("RELEASE SAVEPOINT ring").await.map_err(statement)?;
            for (place, reason) in orphaned.drain(..) {
                leave(&mut restored, layout, rows[place], reason);
            }
        }
        if orphaned.is_empty() {
            return Ok((restored, back));
        }
        // The other way round each time, so that a long chain does not take a round for every row.
        pending = orphaned.into_iter().rev().map(|(place, _)| place).collect();
    }
}

/// Join of `a`, a table, with bound rows `k`: by primary key, and by the text of some columns.
fn same_row(layout: &TableLayout, compared: impl Iterator<Item = (String, usize)>) -> Result<String, TargetError> {
    let mut parts = Vec::new();
    for name in &layout.row_key {
        let (place, type_name) = layout
            .columns
            .iter()
            .enumerate()
            .find(|(_, (column, _))| column == name)
            .map(|(place, (_, type_name))| (place, type_name))
            .ok_or_else(|| refused(format!("the backup lacks key column {name}")))?;
        parts.push(format!("a.{} = k.k{}::{type_name}", render::identifier(name), place + 1));
    }
    parts.extend(compared.map(|(name, place)| format!("a.{}::text IS NOT DISTINCT FROM k.k{place}", render::identifier(&name))));
    Ok(parts.join(" AND "))
}

/// `unnest(..) AS k(k1, .., place)` of bound text arrays.
fn bound(width: usize) -> String {
    let arrays: Vec<String> = (1..=width).map(|place| format!("${place}::text[]")).collect();
    let columns: Vec<String> = (1..=width).map(|place| format!("k{place}")).collect();
    format!(
        "unnest({}) WITH ORDINALITY AS k({}, place)",
        arrays.join(", "),
        columns.join(", ")
    )
}

/// Places of the bound rows that a statement with `RETURNING k.place` reached.
async fn places(connection: &mut Line, sql: &str, rows: &[&Row], width: usize) -> Result<Vec<bool>, TargetError> {
    let mut query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql.to_owned()));
    for column in columns_of(rows.iter().copied(), width)? {
        query = query.bind(column);
    }
    let mut reached = vec![false; rows.len()];
    for place in query.fetch_all(connection).await.map_err(statement)? {
        if let Some(found) = usize::try_from(place - 1).ok().and_then(|place| reached.get_mut(place)) {
            *found = true;
        }
    }
    Ok(reached)
}

/// Deletes the copies of rows that are back. A copy that somebody has changed is left and named.
async fn take_from_archive(
    connection: &mut Line,
    layout: &TableLayout,
    rows: &[&Row],
    (into, stamp_column, stamp): (&TableName, &str, &str),
) -> Result<Vec<Conflict>, TargetError> {
    let width = layout.columns.len();
    let all = layout
        .columns
        .iter()
        .enumerate()
        .map(|(place, (name, _))| (name.clone(), place + 1));
    let sql = format!(
        "DELETE FROM {} AS a USING {} WHERE {} AND a.{}::text = {} RETURNING k.place",
        render::table(into),
        bound(width),
        same_row(layout, all)?,
        render::identifier(stamp_column),
        render::literal(stamp),
    );
    let taken = places(connection, &sql, rows, width).await?;
    let stray = rows.iter().zip(taken).filter(|(_, taken)| !taken).take(NAMED_CONFLICTS);
    Ok(stray
        .map(|(row, _)| Conflict {
            table: into.clone(),
            key: key_of(layout, row),
            reason: "the row is back, but its copy in the archive is gone or was changed since".to_owned(),
        })
        .collect())
}

/// Gives changed columns their old values, where they still hold the new ones.
async fn change_back(
    connection: &mut Line,
    layout: &TableLayout,
    changed: &[String],
    rows: &[Row],
) -> Result<Restored, TargetError> {
    let width = layout.width();
    let old = |name: &String| {
        let place = layout.columns.iter().position(|(column, _)| column == name);
        place.ok_or_else(|| refused(format!("the backup lacks column {name}")))
    };
    let mut set = Vec::new();
    for name in changed {
        let place = old(name)?;
        set.push(format!(
            "{} = k.k{}::{}",
            render::identifier(name),
            place + 1,
            layout.columns[place].1
        ));
    }
    let new = changed
        .iter()
        .enumerate()
        .map(|(place, name)| (name.clone(), layout.columns.len() + place + 1));
    let sql = format!(
        "UPDATE ONLY {} AS a SET {} FROM {} WHERE {} RETURNING k.place",
        render::table(&layout.table),
        set.join(", "),
        bound(width),
        same_row(layout, new)?,
    );
    connection
        .execute("SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT restore")
        .await
        .map_err(statement)?;
    let all: Vec<&Row> = rows.iter().collect();
    let mut restored = Restored::default();
    match places(connection, &sql, &all, width).await {
        Ok(reached) => {
            for (row, reached) in rows.iter().zip(reached) {
                if reached {
                    restored.rows += 1;
                } else {
                    leave(&mut restored, layout, row, GONE_OR_CHANGED.to_owned());
                }
            }
            connection.execute("RELEASE SAVEPOINT restore").await.map_err(statement)?;
            return Ok(restored);
        }
        Err(error) if about_the_row(&error) => {}
        Err(error) => return Err(error),
    }
    connection.execute("ROLLBACK TO SAVEPOINT restore").await.map_err(statement)?;
    for row in rows {
        connection.execute("SAVEPOINT one").await.map_err(statement)?;
        match places(connection, &sql, &[row], width).await {
            Ok(reached) => {
                connection.execute("RELEASE SAVEPOINT one").await.map_err(statement)?;
                if reached.first() == Some(&true) {
                    restored.rows += 1;
                } else {
                    leave(&mut restored, layout, row, GONE_OR_CHANGED.to_owned());
                }
            }
            Err(error) if about_the_row(&error) => {
                connection
                    .execute("ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one")
                    .await
                    .map_err(statement)?;
                leave(&mut restored, layout, row, error.message);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(restored)
}

fn leave(restored: &mut Restored, layout: &TableLayout, row: &Row, reason: String) {
    restored.conflicting += 1;
    if restored.conflicts.len() < NAMED_CONFLICTS {
        restored.conflicts.push(Conflict {
            table: layout.table.clone(),
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
    connection: Line,
    tables: Vec<TableLayout>,
}

impl PostgresScratch {
    pub(super) fn new(connection: Line) -> Self {
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
        let all: Vec<&Row> = rows.iter().collect();
        insert_rows(&mut self.connection, &insert(&table, layout), &all, layout.columns.len())
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
