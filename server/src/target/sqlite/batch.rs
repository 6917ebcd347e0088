//! One batch: a short `BEGIN IMMEDIATE` transaction. From its begin to its end nobody else writes, so that what the recheck in
//! the DELETE saw is still true at the commit.

use std::sync::Arc;

use async_trait::async_trait;
use dbkeep_engine::{
    backup::Section,
    model::{ChildLink, Generated, JournalEntry, Literal, OnDelete, Row, RowKey, Selection, TableName, TableSchema},
    port::{BatchTransaction, Claim, Restored, RowSink, TargetError, TargetErrorClass},
};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _, SqliteConnection};

use super::{
    Idle, bind,
    error::{self, refused, statement},
    introspect, journal, render, restore, sets, values,
};

/// Most parameters of one statement; SQLite's limit is 32,766.
const MAX_PARAMETERS: usize = 30_000;

pub(super) struct SqliteBatch {
    connection: SqliteConnection,
    idle: Arc<Idle>,
}

impl SqliteBatch {
    pub(super) async fn begin(
        mut connection: SqliteConnection,
        idle: Arc<Idle>,
        claim: Claim,
        tables: &[&TableSchema],
    ) -> Result<Self, TargetError> {
        // A transaction that begins as a reader and then writes fails at once when somebody wrote in between.
        connection.execute("BEGIN IMMEDIATE").await.map_err(statement)?;
        journal::check_fence(&mut connection, claim).await?;
        for table in tables {
            if introspect::shape_guard(&mut connection, &table.name.name).await? != table.shape_guard {
                return Err(TargetError::new(
                    TargetErrorClass::SchemaChanged,
                    format!("table {} changed its shape during the run", table.name),
                ));
            }
        }
        Ok(Self { connection, idle })
    }
}

impl SqliteBatch {
    /// A parent that was swapped, or emptied, would make every child look orphaned.
    async fn check_parents(&mut self, selection: &Selection) -> Result<(), TargetError> {
        for parent in selection.matches.parents() {
            let same = introspect::shape_guard(&mut self.connection, &parent.name.name).await? == parent.shape_guard;
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", render::table(&parent.name));
            let filled: bool = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&mut self.connection)
                .await
                .map_err(statement)?;
            if !same || !filled {
                let what = if filled { "changed its shape" } else { "was emptied" };
                let message = format!("parent {} {what} during the run", parent.name);
                return Err(TargetError::new(TargetErrorClass::SchemaChanged, message));
            }
        }
        Ok(())
    }

    /// Rows of `sql`, in which `{keys}` stands for the keys of one part after another.
    async fn rows(&mut self, sql: impl Fn(&str) -> String, keys: &[RowKey], width: usize) -> Result<Vec<Row>, TargetError> {
        let mut found = Vec::new();
        for part in parts(keys) {
            let mut query = sqlx::query(AssertSqlSafe(sql(&tuples(part))));
            for value in part.iter().flatten() {
                query = bind(query, value);
            }
            let rows = query.fetch_all(&mut self.connection).await.map_err(statement)?;
            for row in &rows {
                found.push(values(row, 0..width)?);
            }
        }
        Ok(found)
    }

    /// Rows that this connection has changed so far, with those that keys and triggers changed.
    async fn changes(&mut self) -> Result<u64, TargetError> {
        let changes: i64 = sqlx::query_scalar("SELECT total_changes()")
            .fetch_one(&mut self.connection)
            .await
            .map_err(statement)?;
        Ok(u64::try_from(changes).unwrap_or(0))
    }

    /// Has rows that will go together no longer name one another by keys that would write to them first, so that what their
    /// deletion changes is their number. Returns the number of rows that it changed; `None` where the changes of a deletion cannot
    /// be told from those of something else: a trigger's, or writes to a key that cannot be emptied beforehand.
    async fn empty_own_keys(&mut self, table: &TableSchema, keys: &[RowKey], names: &str) -> Result<Option<u64>, TargetError> {
        if table.triggers.iter().any(|trigger| trigger.on_delete || trigger.on_update) {
            return Ok(None);
        }
        let own = table.incoming.iter().filter(|key| key.child == table.name);
        let own = own.filter(|key| matches!(key.on_delete, OnDelete::SetNull | OnDelete::SetDefault));
        let columns: Vec<&String> = own.flat_map(|key| &key.child_columns).collect();
        let fixed = |name: &&String| {
            let column = table.column(name);
            table.primary_key.contains(name) || column.is_none_or(|column| !column.nullable || column.generated == Generated::Yes)
        };
        if columns.iter().any(fixed) {
            return Ok(None);
        }
        if columns.is_empty() {
            return Ok(Some(0));
        }
        let set: Vec<String> = columns
            .iter()
            .map(|name| format!("{} = NULL", render::identifier(name)))
            .collect();
        let filled: Vec<String> = columns
            .iter()
            .map(|name| format!("t.{} IS NOT NULL", render::identifier(name)))
            .collect();
        let sql = |keys: &str| {
            format!(
                "UPDATE {} AS t SET {} WHERE ({names}) IN (VALUES {keys}) AND ({})",
                render::table(&table.name),
                set.join(", "),
                filled.join(" OR ")
            )
        };
        Ok(Some(self.execute(sql, keys).await?))
    }

    /// Rows that statements with the keys of one part after another changed.
    async fn execute(&mut self, sql: impl Fn(&str) -> String, keys: &[RowKey]) -> Result<u64, TargetError> {
        let mut changed = 0;
        for part in parts(keys) {
            let mut query = sqlx::query(AssertSqlSafe(sql(&tuples(part))));
            for value in part.iter().flatten() {
                query = bind(query, value);
            }
            changed += query.execute(&mut self.connection).await.map_err(statement)?.rows_affected();
        }
        Ok(changed)
    }
}

/// Keys in parts whose parameters fit into one statement.
pub(super) fn parts(keys: &[RowKey]) -> impl Iterator<Item = &[RowKey]> {
    keys.chunks(MAX_PARAMETERS / keys.first().map_or(1, Vec::len).max(1))
}

/// `(?, ?), (?, ?)` for the keys.
pub(super) fn tuples(keys: &[RowKey]) -> String {
    let tuple = |key: &RowKey| format!("({})", key.iter().map(render::placeholder).collect::<Vec<_>>().join(", "));
    keys.iter().map(tuple).collect::<Vec<_>>().join(", ")
}

/// Whether statements on a table have changed the rows that they were meant to, and the database no others along with them.
fn told(table: &TableSchema, meant: u64, changed: u64) -> Result<(), TargetError> {
    if changed == meant {
        return Ok(());
    }
    Err(refused(format!(
        "{meant} rows of {} were to go or change and {changed} rows did, here or in other tables, by a key of the database: more than were captured; the batch was taken back",
        table.name
    )))
}

fn captured(table: &TableSchema) -> Vec<&str> {
    table.captured_columns().map(|column| column.name.as_str()).collect()
}

#[async_trait]
impl BatchTransaction for SqliteBatch {
    async fn delete(
        &mut self,
        selection: &Selection,
        keys: &[RowKey],
        mut capture: Option<&mut dyn RowSink>,
    ) -> Result<u64, TargetError> {
        let (selection, keys) = &sets::justified(&mut self.connection, selection, keys).await?;
        self.check_parents(selection).await?;
        let schema = &selection.table;
        let captured: Vec<&str> = schema.captured_columns().map(|column| column.name.as_str()).collect();
        // RETURNING knows the table by its name only, not by its alias.
        let name = render::identifier(&schema.name.name);
        let returned = captured.iter().map(|column| format!("{name}.{}", render::identifier(column)));
        let returning = if capture.is_some() {
            returned.collect::<Vec<_>>().join(", ")
        } else {
            "1".to_owned()
        };
        let width = if capture.is_some() { captured.len() } else { 0 };
        let names = render::columns(schema.row_key.iter().map(String::as_str));
        let predicate = render::predicate(selection)?;
        let mut deleted = 0;
        for keys in parts(keys) {
            let sql = format!(
                "DELETE FROM {} AS t WHERE ({names}) IN (VALUES {}) AND {predicate} RETURNING {returning}",
                render::table(&schema.name),
                tuples(keys),
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for value in keys.iter().flatten() {
                query = bind(query, value);
            }
            let mut rows = query.fetch(&mut self.connection);
            while let Some(row) = rows.try_next().await.map_err(statement)? {
                deleted += 1;
                if let Some(sink) = capture.as_mut() {
                    sink.row(&values(&row, 0..width)?)?;
                }
            }
        }
        Ok(deleted)
    }

    async fn hold(&mut self, selection: &Selection, keys: &[RowKey]) -> Result<Vec<Row>, TargetError> {
        let (selection, keys) = &sets::justified(&mut self.connection, selection, keys).await?;
        self.check_parents(selection).await?;
        let schema = &selection.table;
        let names = render::columns(schema.row_key.iter().map(String::as_str));
        let columns = captured(schema);
        let (list, predicate) = (render::columns(columns.iter().copied()), render::predicate(selection)?);
        let sql = |keys: &str| {
            let table = render::table(&schema.name);
            format!("SELECT {list} FROM {table} AS t WHERE ({names}) IN (VALUES {keys}) AND {predicate}")
        };
        self.rows(sql, keys, columns.len()).await
    }

    async fn hold_children(&mut self, link: &ChildLink, parents: &[Row], limit: u64) -> Result<Vec<Row>, TargetError> {
        let columns = captured(&link.child);
        let list = render::columns(columns.iter().copied());
        let keys: Vec<String> = (1..=link.parent_columns.len())
            .map(|place| format!("column{place}"))
            .collect();
        // The parents' own rows bring the collation by which the database's key compares; a plain value would take the child's.
        let same = format!(
            "{} AND {}",
            render::same("p", &link.parent_columns, "k", &keys),
            render::names(link, "p", "t")
        );
        let (parent, child) = (render::table(&link.parent.name), render::table(&link.child.name));
        // CROSS JOIN keeps the order: the keys first, then the parents by their key, then the child's index.
        let sql = |keys: &str| {
            format!(
                "SELECT {list} FROM (VALUES {keys}) AS k CROSS JOIN {parent} AS p CROSS JOIN {child} AS t WHERE {same} LIMIT {limit}"
            )
        };
        self.rows(sql, parents, columns.len()).await
    }

    async fn remove(&mut self, table: &TableSchema, keys: &[RowKey]) -> Result<u64, TargetError> {
        let names = render::columns(table.primary_key.iter().map(String::as_str));
        if parts(keys).count() > 1 {
            // Rows that name one another may lie in different parts of a long list of keys.
            self.connection
                .execute("PRAGMA defer_foreign_keys = ON")
                .await
                .map_err(statement)?;
        }
        let name = render::table(&table.name);
        let before = self.changes().await?;
        let emptied = self.empty_own_keys(table, keys, &names).await?;
        self.execute(
            |keys| format!("DELETE FROM {name} AS t WHERE ({names}) IN (VALUES {keys})"),
            keys,
        )
        .await?;
        let changed = self.changes().await? - before;
        // A row that names another of these is gone by the other's cascade before its own turn comes, and is not counted as a change.
        // What counts is that none of the held rows is there any more.
        let left = |keys: &str| format!("SELECT 1 FROM {name} AS t WHERE ({names}) IN (VALUES {keys})");
        let left = self.rows(left, keys, 1).await?;
        let removed = (keys.len() - left.len()) as u64;
        if let Some(emptied) = emptied {
            told(table, removed + emptied, changed)?;
        }
        Ok(removed)
    }

    async fn assign(
        &mut self,
        table: &TableSchema,
        keys: &[RowKey],
        assignments: &[(String, Option<Literal>)],
    ) -> Result<Vec<Row>, TargetError> {
        let set = assignments.iter().map(|(column, value)| {
            let value = value.as_ref().map_or_else(|| "NULL".to_owned(), render::value);
            format!("{} = {value}", render::identifier(column))
        });
        let set = set.collect::<Vec<_>>().join(", ");
        let names = render::columns(table.primary_key.iter().map(String::as_str));
        // RETURNING knows the table by its name only, not by its alias.
        let name = render::identifier(&table.name.name);
        let returned = assignments
            .iter()
            .map(|(column, _)| format!("{name}.{}", render::identifier(column)));
        let returned = returned.collect::<Vec<_>>().join(", ");
        let sql = |keys: &str| {
            let table = render::table(&table.name);
            format!("UPDATE {table} AS t SET {set} WHERE ({names}) IN (VALUES {keys}) RETURNING {returned}")
        };
        let before = self.changes().await?;
        // Every row gets the same values, so that their order says nothing.
        let rows = self.rows(sql, keys, assignments.len()).await?;
        let changed = self.changes().await? - before;
        if !table.triggers.iter().any(|trigger| trigger.on_update) {
            told(table, rows.len() as u64, changed)?;
        }
        Ok(rows)
    }

    async fn copy_to_archive(
        &mut self,
        table: &TableSchema,
        keys: &[RowKey],
        into: &TableName,
        stamp_column: &str,
    ) -> Result<(u64, String), TargetError> {
        let stamp: String = sqlx::query_scalar("SELECT strftime('%Y-%m-%d %H:%M:%S', 'now')")
            .fetch_one(&mut self.connection)
            .await
            .map_err(statement)?;
        let columns: Vec<String> = captured(table).into_iter().map(render::identifier).collect();
        let list = columns.join(", ");
        let values = columns
            .iter()
            .map(|column| format!("t.{column}"))
            .collect::<Vec<_>>()
            .join(", ");
        let names = render::columns(table.primary_key.iter().map(String::as_str));
        let sql = |keys: &str| {
            format!(
                "INSERT INTO {} ({list}, {}) SELECT {values}, {} FROM {} AS t WHERE ({names}) IN (VALUES {keys})",
                render::table(into),
                render::identifier(stamp_column),
                render::literal(&stamp),
                render::table(&table.name)
            )
        };
        let copied = self.execute(sql, keys).await?;
        Ok((copied, stamp))
    }

    async fn adopted(&mut self, _selection: &Selection) -> Result<u64, TargetError> {
        // Nobody can have written since the deletion rechecked its predicate: this transaction holds the write lock.
        Ok(0)
    }

    async fn restore_together(&mut self, parts: Vec<Section>) -> Result<Restored, TargetError> {
        restore::restore(&mut self.connection, &parts).await
    }

    async fn record(&mut self, entry: &JournalEntry) -> Result<(), TargetError> {
        journal::record(&mut self.connection, entry).await
    }

    async fn commit(mut self: Box<Self>) -> Result<(), TargetError> {
        self.connection.execute("COMMIT").await.map_err(error::commit)?;
        self.idle.put(self.connection);
        Ok(())
    }

    async fn rollback(mut self: Box<Self>) {
        if self.connection.execute("ROLLBACK").await.is_ok() {
            self.idle.put(self.connection);
        }
    }
}
