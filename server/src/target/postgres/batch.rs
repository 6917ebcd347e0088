//! One batch: a short transaction at REPEATABLE READ. A row that somebody else changed since its snapshot makes it fail with
//! 40001 instead of being deleted on old evidence; a parent that appears without touching the child is found by a second
//! connection, whose snapshot is newer than the deletion.

use std::sync::Arc;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Condition, JournalEntry, Row, RowKey, Selection, TableSchema, Value},
    port::{BatchTransaction, Claim, Restored, RowSink, TableLayout, TargetError, TargetErrorClass},
};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};

use super::{
    Idle, begin_reading, columns_of,
    error::{self, refused, statement},
    introspect::SHAPE_GUARD,
    journal, render, restore, text_row,
};

/// A batch waits for a row lock this long, then is tried again; it must never queue readers behind itself for longer. Hash,
/// merge and sequential plans are off so that the listed ctids are fetched one by one and parents looked up by index.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '60s'; \
     SET LOCAL idle_in_transaction_session_timeout = '30s'; SET LOCAL jit = off; SET LOCAL synchronous_commit = on; \
     SET LOCAL row_security = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off";

pub(super) struct PostgresBatch {
    connection: PgConnection,
    validator: PgConnection,
    idle: Arc<Idle>,
    /// Keys of the parents that the deleted rows named.
    parents: Vec<Row>,
}

impl PostgresBatch {
    pub(super) async fn begin(
        mut connection: PgConnection,
        validator: PgConnection,
        idle: Arc<Idle>,
        claim: Claim,
        tables: &[&TableSchema],
    ) -> Result<Self, TargetError> {
        let mut begin = BEGIN.to_owned();
        for table in tables {
            // Taken before the snapshot, so that no change of the table's shape can lie between the two.
            begin.push_str(&format!(
                "; LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE",
                render::table(&table.name)
            ));
        }
        connection.execute(AssertSqlSafe(begin)).await.map_err(statement)?;
        // The row lock makes a newer attempt's claim wait for this transaction; see journal::claim.
        let fence: Option<i64> = sqlx::query_scalar("SELECT r.fence FROM dbkeep.run AS r WHERE r.run_id = $1 FOR SHARE")
            .bind(claim.run.to_string())
            .fetch_optional(&mut connection)
            .await
            .map_err(statement)?;
        if fence.and_then(|fence| u64::try_from(fence).ok()) != Some(claim.fence) {
            return Err(journal::fenced());
        }
        for table in tables {
            let guard = format!("SELECT {}", SHAPE_GUARD.replace("$1", "to_regclass($1)"));
            let now: String = sqlx::query_scalar(AssertSqlSafe(guard))
                .bind(render::table(&table.name))
                .fetch_one(&mut connection)
                .await
                .map_err(statement)?;
            if now != table.shape_guard {
                return Err(TargetError::new(
                    TargetErrorClass::SchemaChanged,
                    format!("table {} changed its shape during the run", table.name),
                ));
            }
        }
        Ok(Self {
            connection,
            validator,
            idle,
            parents: Vec::new(),
        })
    }
}

impl PostgresBatch {
    /// Orphans are judged by their parents: a parent that was swapped, or emptied, would make every child look orphaned.
    async fn check_parent(&mut self, selection: &Selection) -> Result<(), TargetError> {
        let Condition::ParentMissing { parent, .. } = &selection.matches else {
            return Ok(());
        };
        let name = render::table(&parent.name);
        // TRUNCATE does not respect snapshots; with the lock it cannot come between this look and the commit.
        let lock = format!("LOCK TABLE {name} IN ACCESS SHARE MODE");
        self.connection.execute(AssertSqlSafe(lock)).await.map_err(statement)?;
        let sql = format!(
            "SELECT {}, EXISTS (SELECT 1 FROM {name})",
            SHAPE_GUARD.replace("$1", "to_regclass($1)")
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(&name)
            .fetch_one(&mut self.connection)
            .await
            .map_err(statement)?;
        let (guard, filled): (Option<String>, bool) = (row.try_get(0).map_err(statement)?, row.try_get(1).map_err(statement)?);
        if filled && guard.as_deref() == Some(parent.shape_guard.as_str()) {
            return Ok(());
        }
        let what = if filled { "changed its shape" } else { "was emptied" };
        Err(TargetError::new(
            TargetErrorClass::SchemaChanged,
            format!("parent {} {what} during the run", parent.name),
        ))
    }
}

/// Rows `k(k1, ..)` of these types, bound as one text array for each column. Values are cast one by one: an array's text is
/// no array of the elements' texts, and unnesting a composite type would spread its fields.
fn unnest(types: &[String]) -> String {
    let list = |part: &dyn Fn(usize) -> String| (1..=types.len()).map(part).collect::<Vec<_>>().join(", ");
    format!(
        "(SELECT {} FROM unnest({}) AS u({})) AS k",
        list(&|place| format!("u.k{place}::{} AS k{place}", types[place - 1])),
        list(&|place| format!("${place}::text[]")),
        list(&|place| format!("k{place}")),
    )
}

fn types(schema: &TableSchema, columns: &[String]) -> Result<Vec<String>, TargetError> {
    let type_of = |name: &String| schema.column(name).map(|column| column.type_name.clone());
    columns
        .iter()
        .map(|name| type_of(name).ok_or_else(|| refused(format!("column {name} is gone"))))
        .collect()
}

#[async_trait]
impl BatchTransaction for PostgresBatch {
    async fn delete(
        &mut self,
        selection: &Selection,
        keys: &[RowKey],
        mut capture: Option<&mut dyn RowSink>,
    ) -> Result<u64, TargetError> {
        let schema = &selection.table;
        self.check_parent(selection).await?;
        let mut key_types = vec!["tid".to_owned()];
        key_types.extend(types(schema, &schema.row_key)?);
        let same_key = schema
            .row_key
            .iter()
            .enumerate()
            .map(|(position, name)| format!("t.{} = k.k{}", render::identifier(name), position + 2));
        let child_columns = match &selection.matches {
            Condition::ParentMissing {
                columns,
                parent,
                parent_columns,
            } => {
                if !parent.indexed(parent_columns) {
                    // Looking each parent up would read the whole table for every row; hashing it reads it once.
                    let unindexed = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_seqscan = on";
                    self.connection.execute(unindexed).await.map_err(statement)?;
                }
                columns.clone()
            }
            Condition::OlderThan { .. } => Vec::new(),
        };
        let captured: Vec<&str> = if capture.is_some() {
            schema.captured_columns().map(|column| column.name.as_str()).collect()
        } else {
            Vec::new()
        };
        let returned = captured.iter().copied().chain(child_columns.iter().map(String::as_str));
        let returning = if captured.is_empty() && child_columns.is_empty() {
            "1".to_owned()
        } else {
            render::text_columns(returned)
        };
        let sql = format!(
            "DELETE FROM ONLY {} AS t USING {} WHERE t.ctid = k.k1 AND {} AND {} RETURNING {returning}",
            render::table(&schema.name),
            unnest(&key_types),
            same_key.collect::<Vec<_>>().join(" AND "),
            render::predicate(selection)?,
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for column in columns_of(keys, key_types.len())? {
            query = query.bind(column);
        }
        let mut rows = query.fetch(&mut self.connection);
        let mut deleted = 0;
        while let Some(row) = rows.try_next().await.map_err(statement)? {
            deleted += 1;
            if returning == "1" {
                continue;
            }
            let mut values = text_row(&row)?;
            let parent = values.split_off(captured.len());
            if let Some(sink) = capture.as_mut() {
                sink.row(&values)?;
            }
            if !parent.is_empty() {
                self.parents.push(parent);
            }
        }
        // Each parent once, and in the order of the index that will be asked for them.
        let bytes = |value: &Value| {
            if let Value::Text(text) = value {
                text.clone()
            } else {
                Vec::new()
            }
        };
        self.parents
            .sort_by_cached_key(|parent| parent.iter().map(bytes).collect::<Vec<_>>());
        self.parents.dedup();
        Ok(deleted)
    }

    async fn adopted(&mut self, selection: &Selection) -> Result<u64, TargetError> {
        let Condition::ParentMissing {
            columns,
            parent,
            parent_columns,
        } = &selection.matches
        else {
            return Ok(0);
        };
        if self.parents.is_empty() {
            return Ok(0);
        }
        let width = parent_columns.len();
        let same = parent_columns
            .iter()
            .enumerate()
            .map(|(position, name)| format!("p.{} = k.k{}", render::identifier(name), position + 1));
        let sql = format!(
            "SELECT count(*) FROM {} WHERE EXISTS (SELECT 1 FROM {} AS p WHERE {})",
            // As in the predicate, the child's type decides: its values need not fit the parent's.
            unnest(&types(&selection.table, columns)?),
            render::table(&parent.name),
            same.collect::<Vec<_>>().join(" AND "),
        );
        let mut query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql));
        for column in columns_of(&self.parents, width)? {
            query = query.bind(column);
        }
        begin_reading(&mut self.validator).await?;
        let adopted = query.fetch_one(&mut self.validator).await.map_err(statement)?;
        self.validator.execute("COMMIT").await.map_err(statement)?;
        Ok(u64::try_from(adopted).unwrap_or(0))
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
        self.idle.put(self.validator);
        Ok(())
    }

    async fn rollback(mut self: Box<Self>) {
        if self.connection.execute("ROLLBACK").await.is_ok() {
            self.idle.put(self.connection);
            self.idle.put(self.validator);
        }
    }
}
