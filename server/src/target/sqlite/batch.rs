//! One batch: a short `BEGIN IMMEDIATE` transaction. From its begin to its end nobody else writes, so that what the recheck in
//! the DELETE saw is still true at the commit.

use std::sync::Arc;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Condition, JournalEntry, Row, RowKey, Selection, TableSchema},
    port::{BatchTransaction, Claim, Restored, RowSink, TableLayout, TargetError, TargetErrorClass},
};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _, SqliteConnection};

use super::{
    Idle, bind,
    error::{self, statement},
    introspect, journal, render, restore, values,
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

#[async_trait]
impl BatchTransaction for SqliteBatch {
    async fn delete(
        &mut self,
        selection: &Selection,
        keys: &[RowKey],
        mut capture: Option<&mut dyn RowSink>,
    ) -> Result<u64, TargetError> {
        if let Condition::ParentMissing { parent, .. } = &selection.matches {
            // A parent that was swapped, or emptied, would make every child look orphaned.
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
        for keys in keys.chunks(MAX_PARAMETERS / schema.row_key.len().max(1)) {
            let tuple = |key: &RowKey| format!("({})", key.iter().map(render::placeholder).collect::<Vec<_>>().join(", "));
            let sql = format!(
                "DELETE FROM {} AS t WHERE ({names}) IN (VALUES {}) AND {predicate} RETURNING {returning}",
                render::table(&schema.name),
                keys.iter().map(tuple).collect::<Vec<_>>().join(", "),
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

    async fn adopted(&mut self, _selection: &Selection) -> Result<u64, TargetError> {
        // Nobody can have written since the deletion rechecked its predicate: this transaction holds the write lock.
        Ok(0)
    }

    async fn restore(&mut self, layout: &TableLayout, rows: Vec<Row>) -> Result<Restored, TargetError> {
        restore::restore(&mut self.connection, layout, &rows).await
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
