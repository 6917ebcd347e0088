//! One batch: a short transaction at REPEATABLE READ. A row that somebody else changed since its snapshot makes it fail with
//! 40001 instead of being deleted on old evidence; a parent that appears without touching the child is found by a second
//! connection, whose snapshot is newer than the deletion.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use dbkeep_engine::{
    backup::Section,
    model::{ChildLink, Condition, JournalEntry, Literal, Row, RowKey, Selection, TableName, TableSchema, Value},
    port::{BatchTransaction, Claim, Restored, RowSink, TargetError, TargetErrorClass},
};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{
    Idle, columns_of,
    error::{self, refused, statement},
    introspect::SHAPE_GUARD,
    journal,
    line::Line,
    render, restore, sets, text_row,
};

/// A batch waits for a row lock this long, then is tried again; it must never queue readers behind itself for longer. Hash,
/// merge and sequential plans are off so that the listed ctids are fetched one by one and parents looked up by index. Deferred
/// constraints are checked at once: at the commit it is too late to name one.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '60s'; \
     SET LOCAL idle_in_transaction_session_timeout = '30s'; SET LOCAL jit = off; SET LOCAL synchronous_commit = on; \
     SET LOCAL row_security = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; SET CONSTRAINTS ALL IMMEDIATE";

const FOREIGN_KEY_VIOLATION: &str = "23503";

/// What a batch works with.
pub(super) struct Sessions {
    pub(super) connection: Line,
    pub(super) validator: Line,
    /// Where both go when it has ended in order.
    pub(super) idle: Arc<Idle>,
    /// Most rows that one statement deletes.
    pub(super) slice: u32,
}

/// The rests within a batch of a run that shares the database, unless somebody would wait for its end: after each of its statements as long as that took. What piled up before the
/// processors meanwhile is gone by then, so that the batch is felt no more than one of its statements, and needs only one flush of
/// the log and one of the chunk for all of them.
struct Rhythm {
    shares: bool,
    took: Duration,
}

impl Rhythm {
    /// Notes how long a statement took.
    fn note(&mut self, took: Duration) {
        self.took = took;
    }

    /// Rests before the next one.
    async fn rest(&self) {
        if self.shares {
            tokio::time::sleep(self.took).await;
        }
    }
}

pub(super) struct PostgresBatch {
    connection: Line,
    validator: Line,
    idle: Arc<Idle>,
    slice: usize,
    rhythm: Rhythm,
    /// What the rows of this batch named as their parents, by the parts of the condition that judge parents.
    named: Vec<(Reference, Vec<Row>)>,
    /// Tables that keys can reach; empty where a trigger may write to them as well.
    watched: Vec<String>,
    /// What the server counted in those before the first row that was held went or changed; `None` before that, or where the
    /// server does not count.
    before: Option<Changes>,
    /// What of the held rows the statements of this batch have deleted and changed.
    told: Changes,
}

/// Rows that a transaction deleted and changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Changes {
    deleted: i64,
    changed: i64,
}

/// How rows name the parents by which a condition judges them.
struct Reference {
    /// What names the parent, as text, of a row `t`.
    expressions: Vec<String>,
    /// Types in which those texts are compared.
    types: Vec<String>,
    /// Whether a fit parent `p` has the values `k`.
    fit: String,
    parent: Arc<TableSchema>,
    indexed: bool,
}

/// The references of a selection. A condition that holds without regard to parents has none.
fn references(selection: &Selection) -> Result<Vec<Reference>, TargetError> {
    let mut parts = Vec::new();
    selection.matches.visit(&mut |part| parts.push(part));
    let mut references = Vec::new();
    for part in parts {
        match part {
            Condition::ParentMissing {
                columns,
                parent,
                parent_columns,
                unfit,
            } => {
                let keys: Vec<String> = (1..=columns.len()).map(key_name).collect();
                let mut fit = vec![render::same("p", parent_columns, "k", &keys)];
                fit.extend(render::none_of(parent, unfit, "p")?);
                references.push(Reference {
                    expressions: columns
                        .iter()
                        .map(|name| format!("t.{}::text", render::identifier(name)))
                        .collect(),
                    // As in the predicate, the child's type decides: its values need not fit the parent's.
                    types: types(&selection.table, columns)?,
                    fit: fit.join(" AND "),
                    parent: Arc::clone(parent),
                    indexed: parent.indexed(parent_columns),
                });
            }
            Condition::KeyDangling {
                parent,
                parent_column,
                unfit,
                ..
            } => {
                let key = render::text_key(part, "t")?;
                let typed = key.typed(&format!("k.{}", key_name(1)));
                let mut fit = vec![format!("p.{} = {typed}", render::identifier(parent_column))];
                fit.extend(render::none_of(parent, unfit, "p")?);
                references.push(Reference {
                    expressions: vec![key.text],
                    types: vec!["text".to_owned()],
                    fit: fit.join(" AND "),
                    parent: Arc::clone(parent),
                    indexed: parent.indexed(std::slice::from_ref(parent_column)),
                });
            }
            _ => {}
        }
    }
    Ok(references)
}

impl PostgresBatch {
    pub(super) async fn begin(
        sessions: Sessions,
        claim: Claim,
        tables: &[&TableSchema],
        still: &[&TableSchema],
    ) -> Result<Self, TargetError> {
        let Sessions {
            mut connection,
            validator,
            idle,
            slice,
        } = sessions;
        let mut begin = BEGIN.to_owned();
        for table in still {
            // Whoever writes to a parent has written it, or waits until this batch has ended.
            begin.push_str(&format!("; LOCK TABLE {} IN SHARE MODE", render::table(&table.name)));
        }
        for table in tables {
            // Taken before the snapshot, so that no change of the table's shape can lie between the two.
            begin.push_str(&format!(
                "; LOCK TABLE ONLY {} IN ROW EXCLUSIVE MODE",
                render::table(&table.name)
            ));
        }
        connection.execute(AssertSqlSafe(begin)).await.map_err(statement)?;
        // The row lock makes a newer attempt's claim wait for this transaction; see journal::claim. Fence and shapes come in one
        // trip: a batch of a run that rests is short, and each trip costs both sides a switch of processes.
        let mut sql = "SELECT (SELECT r.fence FROM dbkeep.run AS r WHERE r.run_id = $1 FOR SHARE)".to_owned();
        for number in 2..tables.len() + 2 {
            sql.push_str(&format!(
                ", {}",
                SHAPE_GUARD.replace("$1", &format!("to_regclass(${number})"))
            ));
        }
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(claim.run.to_string());
        for table in tables {
            query = query.bind(render::table(&table.name));
        }
        let row = query.fetch_one(&mut connection).await.map_err(statement)?;
        let fence: Option<i64> = row.try_get(0).map_err(statement)?;
        if fence.and_then(|fence| u64::try_from(fence).ok()) != Some(claim.fence) {
            return Err(journal::fenced());
        }
        for (place, table) in tables.iter().enumerate() {
            let now: Option<String> = row.try_get(place + 1).map_err(statement)?;
            if now.as_deref() != Some(table.shape_guard.as_str()) {
                return Err(TargetError::new(
                    TargetErrorClass::SchemaChanged,
                    format!("table {} changed its shape during the run", table.name),
                ));
            }
        }
        let triggers = tables.iter().flat_map(|table| &table.triggers);
        let mut watched = Vec::new();
        if triggers.filter(|trigger| trigger.on_delete || trigger.on_update).count() == 0 {
            let children = tables.iter().flat_map(|table| &table.incoming).map(|key| &key.child);
            let names = tables.iter().map(|table| &table.name).chain(children);
            watched.extend(names.map(render::table));
            watched.sort();
            watched.dedup();
        }
        Ok(Self {
            connection,
            validator,
            idle,
            slice: usize::try_from(slice).unwrap_or(usize::MAX),
            rhythm: Rhythm {
                shares: slice < u32::MAX && still.is_empty(),
                took: Duration::ZERO,
            },
            named: Vec::new(),
            watched,
            before: None,
            told: Changes::default(),
        })
    }
}

impl PostgresBatch {
    /// What this transaction has deleted and changed in the watched tables, by the server's own count of it, in which the rows are
    /// that its keys take along; `None` where it does not count, or nothing is watched.
    async fn changes(&mut self) -> Result<Option<Changes>, TargetError> {
        if self.watched.is_empty() {
            return Ok(None);
        }
        let sql = "SELECT current_setting('track_counts')::boolean, coalesce(sum(pg_stat_get_xact_tuples_deleted(to_regclass(w.name))), 0)::bigint, \
                   coalesce(sum(pg_stat_get_xact_tuples_updated(to_regclass(w.name))), 0)::bigint FROM unnest($1::text[]) AS w(name)";
        let row = sqlx::query(sql)
            .bind(&self.watched)
            .fetch_one(&mut self.connection)
            .await
            .map_err(statement)?;
        let counts: bool = row.try_get(0).map_err(statement)?;
        let changes = Changes {
            deleted: row.try_get(1).map_err(statement)?,
            changed: row.try_get(2).map_err(statement)?,
        };
        Ok(counts.then_some(changes))
    }

    /// Begins to watch, at the first of the statements.
    async fn watch(&mut self) -> Result<(), TargetError> {
        if self.told == Changes::default() {
            self.before = self.changes().await?;
        }
        Ok(())
    }

    /// Whether the database has deleted and changed what it was told to, and no other rows along with them.
    async fn check_told(&mut self) -> Result<(), TargetError> {
        let (Some(before), told) = (self.before, self.told) else {
            return Ok(());
        };
        let Some(now) = self.changes().await? else { return Ok(()) };
        let (deleted, changed) = (now.deleted - before.deleted, now.changed - before.changed);
        if (deleted, changed) == (told.deleted, told.changed) {
            return Ok(());
        }
        Err(refused(format!(
            "{} rows were to be deleted and {} changed; the database did so to {deleted} and {changed}, by a key of its own: more than were \
             captured; the batch was taken back",
            told.deleted, told.changed
        )))
    }
}

impl PostgresBatch {
    /// Orphans are judged by their parents: a parent that was swapped, or emptied, would make every child look orphaned.
    async fn check_parents(&mut self, selection: &Selection) -> Result<Vec<Reference>, TargetError> {
        let references = references(selection)?;
        for reference in &references {
            if !reference.indexed {
                // Looking each parent up would read the whole table for every row; hashing it reads it once.
                let unindexed = "SET LOCAL enable_hashjoin = on; SET LOCAL enable_seqscan = on";
                self.connection.execute(unindexed).await.map_err(statement)?;
            }
            self.check_parent(&reference.parent).await?;
        }
        Ok(references)
    }

    async fn check_parent(&mut self, parent: &TableSchema) -> Result<(), TargetError> {
        let name = render::table(&parent.name);
        // TRUNCATE does not respect snapshots. Whoever reads a table locks it before the first row, and until the end of the transaction,
        // so that none can come between this look and the commit.
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

    /// Rows of text, with one array bound for each column of the keys.
    async fn rows(&mut self, sql: String, keys: &[Row], width: usize) -> Result<Vec<Row>, TargetError> {
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for column in columns_of(keys, width)? {
            query = query.bind(column);
        }
        let rows = query.fetch_all(&mut self.connection).await.map_err(statement)?;
        rows.iter().map(text_row).collect()
    }

    /// Keeps what the rows named: each parent once, and in the order of the index that will be asked for them.
    fn remember(&mut self, references: Vec<Reference>, mut named: Vec<Row>) {
        for reference in references {
            let width = reference.expressions.len();
            let mut keys: Vec<Row> = named.iter_mut().map(|row| row.drain(..width).collect()).collect();
            let bytes = |value: &Value| {
                if let Value::Text(text) = value {
                    text.clone()
                } else {
                    Vec::new()
                }
            };
            keys.sort_by_cached_key(|key| key.iter().map(bytes).collect::<Vec<_>>());
            keys.dedup();
            self.named.push((reference, keys));
        }
    }
}

/// Name of a bound column in [`unnest`]; one that no column of a table is likely to have.
pub(super) fn key_name(place: usize) -> String {
    format!("dbkeep_{place}")
}

/// Rows `k(dbkeep_1, ..)` of these types, bound as one text array for each column, and their places from 1. Values are cast one
/// by one: an array's text is no array of the elements' texts, and unnesting a composite type would spread its fields.
pub(super) fn unnest(types: &[String]) -> String {
    let list = |part: &dyn Fn(usize) -> String| (1..=types.len()).map(part).collect::<Vec<_>>().join(", ");
    format!(
        "(SELECT {}, u.dbkeep_place FROM unnest({}) WITH ORDINALITY AS u({}, dbkeep_place)) AS k",
        list(&|place| format!("u.{}::{} AS {}", key_name(place), types[place - 1], key_name(place))),
        list(&|place| format!("${place}::text[]")),
        list(&key_name),
    )
}

pub(super) fn types(schema: &TableSchema, columns: &[String]) -> Result<Vec<String>, TargetError> {
    let type_of = |name: &String| schema.column(name).map(|column| column.type_name.clone());
    columns
        .iter()
        .map(|name| type_of(name).ok_or_else(|| refused(format!("column {name} is gone"))))
        .collect()
}

/// `FROM ONLY t .. WHERE` for the listed rows that still match the whole selection, and the types of what is bound.
pub(super) fn listed(selection: &Selection) -> Result<(String, Vec<String>), TargetError> {
    let schema = &selection.table;
    let mut key_types = vec!["tid".to_owned()];
    key_types.extend(types(schema, &schema.row_key)?);
    let keys: Vec<String> = (2..=key_types.len()).map(key_name).collect();
    let same_row = format!(
        "t.ctid = k.{} AND {} AND {}",
        key_name(1),
        render::same("t", &schema.row_key, "k", &keys),
        render::predicate(selection)?
    );
    Ok((same_row, key_types))
}

/// Rows of a table found again by its primary key: the join condition with `k`, and the types of what is bound.
fn by_primary_key(table: &TableSchema) -> Result<(String, Vec<String>), TargetError> {
    let names: Vec<String> = (1..=table.primary_key.len()).map(key_name).collect();
    Ok((
        render::same("t", &table.primary_key, "k", &names),
        types(table, &table.primary_key)?,
    ))
}

#[async_trait]
impl BatchTransaction for PostgresBatch {
    async fn delete(
        &mut self,
        selection: &Selection,
        keys: &[RowKey],
        mut capture: Option<&mut dyn RowSink>,
    ) -> Result<u64, TargetError> {
        let of_sets = selection.matches.is_about_sets();
        let (selection, keys) = &sets::justified(&mut self.connection, selection, keys).await?;
        let schema = &selection.table;
        let references = self.check_parents(selection).await?;
        let (same_row, key_types) = listed(selection)?;
        let captured: Vec<&str> = if capture.is_some() {
            schema.captured_columns().map(|column| column.name.as_str()).collect()
        } else {
            Vec::new()
        };
        let mut returned: Vec<String> = captured
            .iter()
            .map(|name| format!("t.{}::text", render::identifier(name)))
            .collect();
        returned.extend(references.iter().flat_map(|reference| reference.expressions.iter().cloned()));
        let returning = if returned.is_empty() {
            "1".to_owned()
        } else {
            returned.join(", ")
        };
        let sql = format!(
            "DELETE FROM ONLY {} AS t USING {} WHERE {same_row} RETURNING {returning}",
            render::table(&schema.name),
            unnest(&key_types),
        );
        // Rows that are judged by rows of the same table are judged as it was before any of them went.
        let judges = |reference: &Reference| reference.parent.name == schema.name;
        let slice = if of_sets || references.iter().any(judges) {
            keys.len().max(1)
        } else {
            self.slice
        };
        let mut deleted = 0;
        let mut named = Vec::new();
        for (place, keys) in keys.chunks(slice).enumerate() {
            if place > 0 {
                self.rhythm.rest().await;
            }
            let began = Instant::now();
            let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
            for column in columns_of(keys, key_types.len())? {
                query = query.bind(column);
            }
            let mut rows = query.fetch(&mut self.connection);
            while let Some(row) = rows.try_next().await.map_err(statement)? {
                deleted += 1;
                if returning == "1" {
                    continue;
                }
                let mut values = text_row(&row)?;
                let parents = values.split_off(captured.len());
                if let Some(sink) = capture.as_mut() {
                    sink.row(&values)?;
                }
                if !parents.is_empty() {
                    named.push(parents);
                }
            }
            drop(rows);
            self.rhythm.note(began.elapsed());
        }
        self.remember(references, named);
        Ok(deleted)
    }

    async fn hold(&mut self, selection: &Selection, keys: &[RowKey]) -> Result<Vec<Row>, TargetError> {
        let (selection, keys) = &sets::justified(&mut self.connection, selection, keys).await?;
        let schema = &selection.table;
        let references = self.check_parents(selection).await?;
        let (same_row, key_types) = listed(selection)?;
        let columns: Vec<&str> = schema.captured_columns().map(|column| column.name.as_str()).collect();
        let width = columns.len();
        let mut wanted = vec![render::text_columns(columns)];
        wanted.extend(references.iter().flat_map(|reference| reference.expressions.iter().cloned()));
        let sql = format!(
            "SELECT {} FROM ONLY {} AS t, {} WHERE {same_row} ORDER BY k.dbkeep_place FOR UPDATE OF t",
            wanted.join(", "),
            render::table(&schema.name),
            unnest(&key_types),
        );
        let mut rows = self.rows(sql, keys, key_types.len()).await?;
        let named = rows.iter_mut().map(|row| row.split_off(width)).collect();
        self.remember(references, named);
        Ok(rows)
    }

    async fn hold_children(&mut self, link: &ChildLink, parents: &[Row], limit: u64) -> Result<Vec<Row>, TargetError> {
        let key_types = types(&link.parent, &link.parent_columns)?;
        let keys: Vec<String> = (1..=key_types.len()).map(key_name).collect();
        let sql = format!(
            "SELECT {} FROM ONLY {} AS t, {} WHERE {} LIMIT {limit} FOR UPDATE OF t",
            render::text_columns(link.child.captured_columns().map(|column| column.name.as_str())),
            render::table(&link.child.name),
            unnest(&key_types),
            render::same("t", &link.child_columns, "k", &keys),
        );
        self.rows(sql, parents, key_types.len()).await
    }

    async fn remove(&mut self, table: &TableSchema, keys: &[RowKey]) -> Result<u64, TargetError> {
        self.watch().await?;
        let (same_row, key_types) = by_primary_key(table)?;
        let sql = format!(
            "DELETE FROM ONLY {} AS t USING {} WHERE {same_row}",
            render::table(&table.name),
            unnest(&key_types)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for column in columns_of(keys, key_types.len())? {
            query = query.bind(column);
        }
        let removed = query
            .execute(&mut self.connection)
            .await
            .map_err(statement)
            .map_err(|mut error| {
                // Everything that the snapshot shows was dealt with: this is a row that another session has added since.
                if error.code.as_deref() == Some(FOREIGN_KEY_VIOLATION) {
                    error.class = TargetErrorClass::Conflict;
                }
                error
            });
        let removed = removed?.rows_affected();
        self.told.deleted += i64::try_from(removed).unwrap_or(i64::MAX);
        Ok(removed)
    }

    async fn assign(
        &mut self,
        table: &TableSchema,
        keys: &[RowKey],
        assignments: &[(String, Option<Literal>)],
    ) -> Result<Vec<Row>, TargetError> {
        self.watch().await?;
        let (same_row, key_types) = by_primary_key(table)?;
        let set = assignments.iter().map(|(column, value)| {
            let value = value.as_ref().map_or_else(|| "NULL".to_owned(), render::value);
            format!("{} = {value}", render::identifier(column))
        });
        let sql = format!(
            "UPDATE ONLY {} AS t SET {} FROM {} WHERE {same_row} RETURNING k.dbkeep_place::text, {}",
            render::table(&table.name),
            set.collect::<Vec<_>>().join(", "),
            unnest(&key_types),
            render::text_columns(assignments.iter().map(|(column, _)| column.as_str())),
        );
        let mut placed = Vec::with_capacity(keys.len());
        for mut row in self.rows(sql, keys, key_types.len()).await? {
            let values = row.split_off(1);
            let place = match row.first() {
                Some(Value::Text(place)) => std::str::from_utf8(place).ok().and_then(|place| place.parse::<u64>().ok()),
                _ => None,
            };
            placed.push((place.unwrap_or(0), values));
        }
        placed.sort_by_key(|(place, _)| *place);
        self.told.changed += i64::try_from(placed.len()).unwrap_or(i64::MAX);
        Ok(placed.into_iter().map(|(_, values)| values).collect())
    }

    async fn copy_to_archive(
        &mut self,
        table: &TableSchema,
        keys: &[RowKey],
        into: &TableName,
        stamp_column: &str,
    ) -> Result<(u64, String), TargetError> {
        let into = render::table(into);
        let sql = "SELECT format_type(a.atttypid, a.atttypmod) FROM pg_catalog.pg_attribute AS a \
                   WHERE a.attrelid = to_regclass($1) AND a.attname = $2 AND NOT a.attisdropped";
        let stamp_type: Option<String> = sqlx::query_scalar(sql)
            .bind(&into)
            .bind(stamp_column)
            .fetch_optional(&mut self.connection)
            .await
            .map_err(statement)?;
        let stamp_type = stamp_type.ok_or_else(|| refused(format!("archive table {into} has no column {stamp_column}")))?;
        // A column without a zone gets UTC, as the session says.
        let stamp = format!("SELECT (transaction_timestamp()::{stamp_type})::text");
        let stamp: String = sqlx::query_scalar(AssertSqlSafe(stamp))
            .fetch_one(&mut self.connection)
            .await
            .map_err(statement)?;
        let (same_row, key_types) = by_primary_key(table)?;
        let columns: Vec<String> = table
            .captured_columns()
            .map(|column| render::identifier(&column.name))
            .collect();
        let values: Vec<String> = columns.iter().map(|column| format!("t.{column}")).collect();
        let sql = format!(
            "INSERT INTO {into} ({}, {}) OVERRIDING SYSTEM VALUE SELECT {}, {}::{stamp_type} FROM ONLY {} AS t, {} WHERE {same_row}",
            columns.join(", "),
            render::identifier(stamp_column),
            values.join(", "),
            render::literal(&stamp),
            render::table(&table.name),
            unnest(&key_types),
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for column in columns_of(keys, key_types.len())? {
            query = query.bind(column);
        }
        let copied = query.execute(&mut self.connection).await.map_err(statement)?.rows_affected();
        Ok((copied, stamp))
    }

    async fn adopted(&mut self, _selection: &Selection) -> Result<u64, TargetError> {
        let mut adopted = 0;
        for (reference, keys) in &self.named {
            let sql = format!(
                "SELECT count(*) FROM {} WHERE EXISTS (SELECT 1 FROM {} AS p WHERE {})",
                unnest(&reference.types),
                render::table(&reference.parent.name),
                reference.fit,
            );
            for keys in keys.chunks(self.slice) {
                self.rhythm.rest().await;
                let began = Instant::now();
                let mut query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql.clone()));
                for column in columns_of(keys, reference.types.len())? {
                    query = query.bind(column);
                }
                // A statement by itself has a snapshot of its own, newer than the deletion, and needs no transaction around it.
                let found = query.fetch_one(&mut self.validator).await.map_err(statement)?;
                adopted += u64::try_from(found).unwrap_or(0);
                self.rhythm.note(began.elapsed());
            }
        }
        Ok(adopted)
    }

    async fn restore_together(&mut self, parts: Vec<Section>) -> Result<Restored, TargetError> {
        restore::restore(&mut self.connection, &parts).await
    }

    async fn record(&mut self, entry: &JournalEntry) -> Result<(), TargetError> {
        self.check_told().await?;
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
