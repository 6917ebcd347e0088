//! Rows on their way back: into their table, or into a scratch table that proves they could be.

use async_trait::async_trait;
use dbkeep_engine::{
    backup::Section,
    model::{Row, TableName, Value},
    port::{Captured, Conflict, Restored, Scratch, TableLayout, TargetError, TargetErrorClass},
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

async fn insert(connection: &mut SqliteConnection, table: &str, layout: &TableLayout, rows: &[&Row]) -> Result<u64, TargetError> {
    let names = layout
        .columns
        .iter()
        .map(|(name, _)| render::identifier(name))
        .collect::<Vec<_>>()
        .join(", ");
    let tuple = |row: &&Row| format!("({})", row.iter().map(render::placeholder).collect::<Vec<_>>().join(", "));
    let tuples = rows.iter().map(tuple).collect::<Vec<_>>().join(", ");
    let sql = format!("INSERT INTO {table} ({names}) VALUES {tuples} ON CONFLICT DO NOTHING");
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for value in rows.iter().copied().flatten() {
        query = bind(query, value);
    }
    Ok(query.execute(connection).await.map_err(statement)?.rows_affected())
}

/// Puts rows of one table back, by what was done to them.
pub(super) async fn restore(connection: &mut SqliteConnection, parts: &[Section]) -> Result<Restored, TargetError> {
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
            take_from_archive(connection, layout, &back, stamped, &mut restored).await?;
        }
    }
    Ok(restored)
}

/// Deletes the copies of rows that are back. A copy that somebody has changed is left and named; so is an archive that is gone.
async fn take_from_archive(
    connection: &mut SqliteConnection,
    layout: &TableLayout,
    rows: &[&Row],
    (into, stamp_column, stamp): (&TableName, &str, &str),
    restored: &mut Restored,
) -> Result<(), TargetError> {
    for row in rows {
        let columns = layout.columns.iter().zip(*row);
        // With its table, since a quoted name of no column alone would be taken for a string.
        let same = columns.map(|((name, _), value)| format!("a.{} IS {}", render::identifier(name), render::placeholder(value)));
        let sql = format!(
            "DELETE FROM {} AS a WHERE {} AND a.{} = {}",
            render::table(into),
            same.collect::<Vec<_>>().join(" AND "),
            render::identifier(stamp_column),
            render::literal(stamp)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in *row {
            query = bind(query, value);
        }
        // A statement that fails takes back nothing but itself.
        let taken = match query.execute(&mut *connection).await.map_err(statement) {
            Ok(done) => done.rows_affected(),
            Err(error) if error.class == TargetErrorClass::SchemaChanged => {
                restored.archive_gone = Some(into.clone());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if taken == 0 && restored.conflicts.len() < NAMED_CONFLICTS {
            restored.conflicts.push(Conflict {
                table: into.clone(),
                key: key_of(layout, row),
                reason: "the row is back, but its copy in the archive is gone or was changed since".to_owned(),
            });
        }
    }
    Ok(())
}

/// Gives changed columns their old values, where they still hold the new ones.
async fn change_back(
    connection: &mut SqliteConnection,
    layout: &TableLayout,
    changed: &[String],
    rows: &[Row],
) -> Result<Restored, TargetError> {
    let place = |name: &String| {
        let place = layout.columns.iter().position(|(column, _)| column == name);
        place.ok_or_else(|| refused(format!("the backup lacks column {name}")))
    };
    let set_places = changed.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let key_places = layout.row_key.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let mut restored = Restored::default();
    for row in rows {
        let value = |place: usize| {
            row.get(place)
                .ok_or_else(|| refused("a captured row is too short".to_owned()))
        };
        let mut binds = Vec::new();
        let mut part = |name: &String, operator: &str, place: usize| {
            let value = value(place)?;
            binds.push(value);
            Ok::<_, TargetError>(format!(
                "{} {operator} {}",
                render::identifier(name),
                render::placeholder(value)
            ))
        };
        let set = changed.iter().zip(&set_places).map(|(name, place)| part(name, "=", *place));
        let set = set.collect::<Result<Vec<_>, _>>()?;
        let mut same = Vec::new();
        for (name, place) in layout.row_key.iter().zip(&key_places) {
            same.push(part(name, "IS", *place)?);
        }
        for (offset, name) in changed.iter().enumerate() {
            same.push(part(name, "IS", layout.columns.len() + offset)?);
        }
        let sql = format!(
            "UPDATE {} SET {} WHERE {}",
            render::table(&layout.table),
            set.join(", "),
            same.join(" AND ")
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in binds {
            query = bind(query, value);
        }
        // A single statement that fails takes itself back.
        let reason = match query.execute(&mut *connection).await.map_err(statement) {
            Ok(done) if done.rows_affected() == 1 => {
                restored.rows += 1;
                continue;
            }
            Ok(_) => "the row is gone, or was changed since".to_owned(),
            Err(error) if error.class == TargetErrorClass::Constraint => error.message,
            Err(error) => return Err(error),
        };
        leave(&mut restored, layout, row, reason);
    }
    Ok(restored)
}

/// Inserts all of the rows in one statement, or none of them.
async fn insert_all(
    connection: &mut SqliteConnection,
    table: &str,
    layout: &TableLayout,
    rows: &[&Row],
) -> Result<bool, TargetError> {
    connection.execute("SAVEPOINT part").await.map_err(statement)?;
    let all = match insert(connection, table, layout, rows).await {
        Ok(inserted) => inserted == rows.len() as u64,
        Err(error) if error.class == TargetErrorClass::Constraint => false,
        Err(error) => return Err(error),
    };
    if !all {
        connection.execute("ROLLBACK TO part").await.map_err(statement)?;
    }
    connection.execute("RELEASE part").await.map_err(statement)?;
    Ok(all)
}

/// Inserts deleted rows, many at a time; tells of each whether it is back. Where some cannot go, each row of that part is tried
/// by itself in the end, so that those are named.
async fn insert_back(
    connection: &mut SqliteConnection,
    layout: &TableLayout,
    rows: &[&Row],
) -> Result<(Restored, Vec<bool>), TargetError> {
    let table = render::table(&layout.table);
    let mut restored = Restored::default();
    let mut back = vec![false; rows.len()];
    let mut pending: Vec<usize> = Vec::new();
    let part_rows = INSERT_ROWS.min(MAX_PARAMETERS / layout.columns.len().max(1)).max(1);
    for (number, part) in rows.chunks(part_rows).enumerate() {
        let places = number * part_rows..number * part_rows + part.len();
        if insert_all(connection, &table, layout, part).await? {
            restored.rows += part.len() as u64;
            back[places].fill(true);
        } else {
            pending.extend(places);
        }
    }
    while !pending.is_empty() {
        let before = restored.rows;
        // Rows whose parent is missing; it may be a later row of the same table.
        let mut orphaned = Vec::new();
        for place in pending {
            let row = rows[place];
            // A single statement that fails takes itself back.
            let reason = match insert(connection, &table, layout, &[row]).await {
                Ok(1) => {
                    restored.rows += 1;
                    back[place] = true;
                    continue;
                }
                Ok(_) => "a row with the same key is there, or a trigger kept it out".to_owned(),
                Err(error) if error.code.as_deref() == Some(FOREIGN_KEY_VIOLATION) => {
                    orphaned.push((place, error.message));
                    continue;
                }
                Err(error) if error.class == TargetErrorClass::Constraint => error.message,
                Err(error) => return Err(error),
            };
            leave(&mut restored, layout, row, reason);
        }
        if restored.rows == before && !orphaned.is_empty() {
            // In a ring each row waits for another: only one statement has them all there.
            let ring: Vec<&Row> = orphaned.iter().map(|(place, _)| rows[*place]).collect();
            if ring.len() * layout.columns.len() <= MAX_PARAMETERS && insert_all(connection, &table, layout, &ring).await? {
                restored.rows += ring.len() as u64;
                orphaned.drain(..).for_each(|(place, _)| back[place] = true);
            }
            for (place, reason) in orphaned.drain(..) {
                leave(&mut restored, layout, rows[place], reason);
            }
        }
        // The other way round each time, so that a long chain does not take a round for every row.
        pending = orphaned.into_iter().rev().map(|(place, _)| place).collect();
    }
    Ok((restored, back))
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
pub(super) fn declared(type_name: &str) -> String {
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
        let all: Vec<&Row> = rows.iter().collect();
        for part in all.chunks(INSERT_ROWS.min(MAX_PARAMETERS / layout.columns.len().max(1)).max(1)) {
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
