//! What every target adapter must do, whatever its database. One function per rule, each on tables of its own; a rule that
//! does not hold panics with what was expected. The tables are made and looked at in plain SQL through the [`Fixture`], never
//! through the adapter, so that an adapter cannot judge itself.

mod batches;
mod fence;
mod introspection;
mod journal;
mod restore;
mod scans;
mod surveys;
mod upkeep;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use futures::FutureExt as _;
use jiff::Timestamp;

use self::{
    batches::{
        a_batch_captures_exactly_what_it_deletes, a_batch_number_is_taken_once, a_batch_rechecks_parents, a_batch_rechecks_times,
        a_batch_that_is_taken_back_leaves_everything, a_batch_without_keys_deletes_nothing, a_journal_row_comes_with_the_commit,
        a_row_that_a_child_names_is_refused, a_sink_that_refuses_keeps_every_row,
    },
    fence::{a_changed_shape_stops_the_batch, a_claim_waits_for_the_older_batch, an_older_attempt_is_shut_out},
    introspection::{
        a_database_without_a_journal_has_no_totals, introspection_keeps_the_order_of_a_composite_key,
        introspection_lists_incoming_keys, introspection_lists_indexes_that_can_serve,
        introspection_lists_triggers_whatever_their_names, introspection_reads_columns, introspection_tells_generated_columns,
        introspection_tells_views_and_missing_tables, the_shape_guard_follows_ddl_and_not_rows,
        the_status_names_version_size_and_clock,
    },
    journal::totals_and_journal_tell_what_was_recorded,
    restore::{
        nasty_values_survive, restore_does_not_depend_on_the_order_of_rows, restore_fills_identity_and_generated_columns,
        restore_leaves_rows_in_the_way, restore_leaves_rows_whose_parent_is_gone, restore_of_nothing,
        restored_rows_are_identical, the_scratch_finds_what_cannot_come_back, the_scratch_proves_rows,
    },
    scans::{
        a_scan_goes_on_while_rows_vanish, a_scan_lists_exactly_the_selection_in_windows, a_scan_of_a_sparse_table_lists_all,
        a_scan_of_an_empty_table_ends, a_scan_of_text_and_composite_keys, a_scan_resumes_after_each_window,
        quoted_names_work_from_end_to_end,
    },
    surveys::{
        a_share_is_counted_in_one_snapshot, earlier_steps_are_left_out_and_null_is_not, expired_epochs_are_compared_exactly,
        expired_is_strictly_before_the_horizon, orphans_are_counted_without_null_keys, orphans_of_a_self_reference,
        orphans_of_an_empty_parent_are_all_with_a_key, orphans_whose_key_does_not_fit_the_parent_s_type,
        orphans_with_composite_keys_need_every_column, survey_samples_are_rows_of_the_selection, tables_are_counted,
    },
    upkeep::{
        dead_rows_are_vacuumed_or_the_file_is_tidied, indexes_are_rebuilt_or_it_is_said_that_none_is,
        sizes_are_known_or_said_to_be_unknown,
    },
};
use crate::{
    model::{ChunkRef, Condition, JournalEntry, Row, RowKey, RunId, Selection, TableName, TableSchema, TimeEncoding, Value},
    port::{BatchTransaction, Claim, Restored, RowSink, SinkError, TableLayout, Target, TargetError, TargetErrorClass, Window},
};

/// A database for the suite: the adapter under test, and a way around it.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The adapter under test, on a database that holds nothing of anybody else.
    fn target(&self) -> Arc<dyn Target>;

    /// Runs statements on a connection that is not the adapter's.
    async fn execute(&self, sql: &str);

    /// The rows of a query as text.
    async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>>;

    /// An expression for a column's value in a form that loses nothing, type included.
    fn exact(&self, column: &str) -> String;

    /// Type of a column that holds an instant.
    fn instant(&self) -> &'static str;

    /// How a column of that type holds it.
    fn instant_encoding(&self) -> Option<TimeEncoding>;

    /// Type of a column that holds bytes.
    fn bytes(&self) -> &'static str;

    /// Bytes as a literal.
    fn bytes_literal(&self, bytes: &[u8]) -> String;

    /// Type and constraint of a primary key that the database numbers.
    fn identity(&self) -> &'static str;

    /// What follows the columns in `CREATE TABLE` where rows shall be addressed by their primary key and nothing else.
    fn keyed(&self) -> &'static str;

    /// Statements that make a trigger which does nothing; `event` is such as `BEFORE DELETE`.
    fn trigger(&self, name: &str, event: &str, table: &str) -> String;

    /// An integer as the adapter captures it.
    fn integer(&self, number: i64) -> Value;

    /// Types and literals that only this database has and that must survive capture and restore.
    fn extra_values(&self) -> Vec<(&'static str, String)>;
}

macro_rules! rules {
    ($fixture:expr, $($rule:ident),+ $(,)?) => {{
        let mut broken = Vec::new();
        $(
            println!("rule {}", stringify!($rule));
            if AssertUnwindSafe($rule($fixture)).catch_unwind().await.is_err() {
                broken.push(stringify!($rule));
            }
        )+
        broken
    }};
}

mod sets;

/// Runs every rule, also after one that does not hold: each has tables of its own.
///
/// # Panics
/// With the names of the rules that do not hold; what each expected is in the output.
pub async fn target_conformance(fixture: &dyn Fixture) {
    let mut broken = rules!(
        fixture,
        a_database_without_a_journal_has_no_totals,
        the_status_names_version_size_and_clock,
        introspection_reads_columns,
        introspection_keeps_the_order_of_a_composite_key,
        introspection_tells_generated_columns,
        introspection_lists_indexes_that_can_serve,
        introspection_lists_incoming_keys,
        introspection_lists_triggers_whatever_their_names,
        introspection_tells_views_and_missing_tables,
        the_shape_guard_follows_ddl_and_not_rows,
        tables_are_counted,
        orphans_are_counted_without_null_keys,
        orphans_with_composite_keys_need_every_column,
        orphans_of_a_self_reference,
        orphans_of_an_empty_parent_are_all_with_a_key,
        orphans_whose_key_does_not_fit_the_parent_s_type,
        earlier_steps_are_left_out_and_null_is_not,
        expired_is_strictly_before_the_horizon,
        expired_epochs_are_compared_exactly,
        a_share_is_counted_in_one_snapshot,
        survey_samples_are_rows_of_the_selection,
        a_scan_lists_exactly_the_selection_in_windows,
        a_scan_resumes_after_each_window,
        a_scan_of_an_empty_table_ends,
        a_scan_of_a_sparse_table_lists_all,
        a_scan_goes_on_while_rows_vanish,
        a_scan_of_text_and_composite_keys,
        quoted_names_work_from_end_to_end,
        a_batch_rechecks_parents,
        a_batch_rechecks_times,
        a_batch_captures_exactly_what_it_deletes,
        a_batch_without_keys_deletes_nothing,
        a_batch_that_is_taken_back_leaves_everything,
        a_journal_row_comes_with_the_commit,
        a_batch_number_is_taken_once,
        a_sink_that_refuses_keeps_every_row,
        a_row_that_a_child_names_is_refused,
        an_older_attempt_is_shut_out,
        a_claim_waits_for_the_older_batch,
        a_changed_shape_stops_the_batch,
        totals_and_journal_tell_what_was_recorded,
        restored_rows_are_identical,
        restore_of_nothing,
        restore_leaves_rows_in_the_way,
        restore_leaves_rows_whose_parent_is_gone,
        restore_does_not_depend_on_the_order_of_rows,
        restore_fills_identity_and_generated_columns,
        the_scratch_proves_rows,
        the_scratch_finds_what_cannot_come_back,
        nasty_values_survive,
        dead_rows_are_vacuumed_or_the_file_is_tidied,
        indexes_are_rebuilt_or_it_is_said_that_none_is,
        sizes_are_known_or_said_to_be_unknown,
    );
    broken.extend(sets::broken(fixture).await);
    assert!(broken.is_empty(), "{} rules do not hold: {}", broken.len(), broken.join(", "));
}

// --- helpers

/// A name that no other rule has.
fn fresh(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{stem}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a test writes valid instants")
}

async fn find(fixture: &dyn Fixture, table: &str) -> Option<TableSchema> {
    let name = TableName {
        schema: None,
        name: table.to_owned(),
    };
    fixture.target().introspect(&name).await.expect("introspection works")
}

async fn schema(fixture: &dyn Fixture, table: &str) -> Arc<TableSchema> {
    Arc::new(find(fixture, table).await.unwrap_or_else(|| panic!("table {table} exists")))
}

fn parent_missing(columns: &[&str], parent: &Arc<TableSchema>, parent_columns: &[&str]) -> Condition {
    Condition::ParentMissing {
        columns: strings(columns),
        parent: Arc::clone(parent),
        parent_columns: strings(parent_columns),
        unfit: Vec::new(),
    }
}

fn older_than(fixture: &dyn Fixture, column: &str, horizon: &str) -> Condition {
    let encoding = fixture.instant_encoding();
    Condition::OlderThan {
        column: column.to_owned(),
        horizon: at(horizon),
        encoding,
        zone: Some("UTC".to_owned()),
    }
}

fn select(table: &Arc<TableSchema>, matches: Condition) -> Selection {
    Selection {
        table: Arc::clone(table),
        matches,
        except: Vec::new(),
    }
}

async fn survey_count(fixture: &dyn Fixture, selection: &Selection) -> u64 {
    fixture.target().survey(selection, 0).await.expect("a survey").row_count
}

async fn count(fixture: &dyn Fixture, from: &str) -> u64 {
    let rows = fixture.rows(&format!("SELECT count(*) FROM {from}")).await;
    rows[0][0].as_deref().and_then(|count| count.parse().ok()).expect("a count")
}

/// Every value of these columns in lossless form.
async fn dump(fixture: &dyn Fixture, table: &str, columns: &[&str], order: &str) -> Vec<Vec<Option<String>>> {
    let exact = columns
        .iter()
        .map(|column| fixture.exact(column))
        .collect::<Vec<_>>()
        .join(", ");
    fixture.rows(&format!("SELECT {exact} FROM {table} ORDER BY {order}")).await
}

/// Values of the column `id`, in order.
async fn remaining(fixture: &dyn Fixture, table: &str) -> Vec<i64> {
    let rows = fixture.rows(&format!("SELECT id FROM {table} ORDER BY id")).await;
    rows.iter()
        .map(|row| row[0].as_deref().and_then(|id| id.parse().ok()).expect("an id"))
        .collect()
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Integer(number) => *number,
        Value::Text(text) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .expect("a number"),
        other => panic!("expected a number, got {other:?}"),
    }
}

/// Numbers in the first captured column, sorted.
fn ids(rows: &[Row]) -> Vec<i64> {
    let mut ids: Vec<i64> = rows.iter().map(|row| number(&row[0])).collect();
    ids.sort_unstable();
    ids
}

/// Every window of a pass after `cursor`; each holds at most `limit` keys.
async fn windows(fixture: &dyn Fixture, selection: &Selection, cursor: Option<&str>, limit: u32) -> Vec<Window> {
    let mut scan = fixture.target().scan(selection, cursor, limit).await.expect("a scan");
    let mut windows = Vec::new();
    while let Some(window) = scan.next().await.expect("a window") {
        assert!(
            window.keys.len() <= limit as usize,
            "at most {limit} keys, got {}",
            window.keys.len()
        );
        assert!(
            (0.0..=1.0).contains(&window.fraction),
            "a share of the table, got {}",
            window.fraction
        );
        windows.push(window);
        assert!(windows.len() < 100_000, "a pass ends");
    }
    assert!(
        scan.next().await.expect("still at the end").is_none(),
        "a pass that has ended stays so"
    );
    windows
}

async fn listed(fixture: &dyn Fixture, selection: &Selection, limit: u32) -> Vec<RowKey> {
    windows(fixture, selection, None, limit)
        .await
        .into_iter()
        .flat_map(|window| window.keys)
        .collect()
}

async fn claim(fixture: &dyn Fixture) -> Claim {
    let claim = Claim {
        run: RunId::new(),
        fence: 1,
    };
    fixture.target().claim(claim).await.expect("a claim");
    claim
}

async fn begin(fixture: &dyn Fixture, claim: Claim, table: &TableSchema) -> Box<dyn BatchTransaction> {
    fixture.target().begin(claim, &[table]).await.expect("a batch begins")
}

#[derive(Default)]
struct Collector {
    rows: Vec<Row>,
    /// How many rows are taken before one is refused.
    limit: Option<usize>,
}

impl RowSink for Collector {
    fn row(&mut self, values: &[Value]) -> Result<(), SinkError> {
        if self.limit == Some(self.rows.len()) {
            return Err(SinkError(std::io::Error::other("the sink is full")));
        }
        self.rows.push(values.to_vec());
        Ok(())
    }
}

/// The rows behind these keys that a batch would delete; the batch is taken back.
async fn resolve(fixture: &dyn Fixture, selection: &Selection, keys: &[RowKey]) -> Vec<Row> {
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &selection.table).await;
    let mut sink = Collector::default();
    let deleted = batch.delete(selection, keys, Some(&mut sink)).await.expect("a deletion");
    batch.rollback().await;
    assert_eq!(deleted, sink.rows.len() as u64, "as many rows captured as deleted");
    sink.rows
}

/// Deletes everything that the selection lists, and keeps that; returns the captured rows.
async fn delete_all(fixture: &dyn Fixture, selection: &Selection) -> Vec<Row> {
    let keys = listed(fixture, selection, 1_000).await;
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &selection.table).await;
    let mut sink = Collector::default();
    let deleted = batch.delete(selection, &keys, Some(&mut sink)).await.expect("a deletion");
    assert_eq!(deleted, keys.len() as u64, "every listed row is deleted");
    assert_eq!(deleted, sink.rows.len() as u64, "as many rows captured as deleted");
    assert_eq!(
        batch.adopted(selection).await.expect("a look at the parents"),
        0,
        "no parent has appeared"
    );
    batch.record(&entry(claim, 0, 1)).await.expect("a journal row");
    batch.commit().await.expect("a commit");
    sink.rows
}

/// Puts rows back, and keeps that.
async fn restore(fixture: &dyn Fixture, layout: &TableLayout, rows: Vec<Row>) -> Restored {
    let claim = claim(fixture).await;
    let mut batch = fixture.target().begin(claim, &[]).await.expect("a batch begins");
    let restored = batch.restore(layout, rows).await.expect("a restore");
    batch.record(&entry(claim, 0, 1)).await.expect("a journal row");
    batch.commit().await.expect("a commit");
    restored
}

fn entry(claim: Claim, step: u32, batch: u64) -> JournalEntry {
    JournalEntry {
        run: claim.run,
        step,
        batch,
        pass: 1,
        fence: claim.fence,
        cursor: format!("cursor {step} {batch}"),
        examined: 0,
        matched: 0,
        affected: 0,
        along: Vec::new(),
        conflicting: 0,
        chunk: None,
    }
}

#[track_caller]
fn refused<T>(result: Result<T, TargetError>, class: TargetErrorClass) -> TargetError {
    match result {
        Ok(_) => panic!("expected an error of class {class:?}"),
        Err(error) => {
            assert_eq!(error.class, class, "{error}");
            error
        }
    }
}

/// A parent with the ids 1 to 3, and children of the parents 1, 2, 3, none, 4 and 5, in this order: 5 and 6 are orphans.
async fn family(fixture: &dyn Fixture) -> (String, String, Selection) {
    let (parent, child) = (fresh("parent"), fresh("child"));
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (id bigint NOT NULL PRIMARY KEY); INSERT INTO {parent} VALUES (1), (2), (3); \
             CREATE TABLE {child} (id bigint NOT NULL PRIMARY KEY, parent_id bigint, note text); \
             INSERT INTO {child} VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'), (4, NULL, 'd'), (5, 4, 'e'), (6, 5, 'f')"
        ))
        .await;
    let selection = select(
        &schema(fixture, &child).await,
        parent_missing(&["parent_id"], &schema(fixture, &parent).await, &["id"]),
    );
    (parent, child, selection)
}

/// A table of `rows` rows with ids from 1, of which each one whose id is a multiple of `step` is long expired.
async fn aging(fixture: &dyn Fixture, rows: u32, step: u32) -> (String, Selection) {
    let table = fresh("aging");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, at {} NOT NULL); \
             INSERT INTO {table} WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             SELECT i, CASE WHEN i % {step} = 0 THEN '2001-01-01T00:00:00Z' ELSE '2031-01-01T00:00:00Z' END{} FROM n",
            fixture.instant(),
            if fixture.instant_encoding().is_none() {
                format!("::{}", fixture.instant())
            } else {
                String::new()
            },
        ))
        .await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    (table, selection)
}

fn chunk(number: u64) -> ChunkRef {
    ChunkRef {
        file: format!("chunk-{number}.chunk"),
        rows: number,
        bytes: number + 5_000_000_000,
        sha256: format!("{number:064x}"),
    }
}

async fn fresh_table(fixture: &dyn Fixture) -> String {
    let table = fresh("other");
    fixture
        .execute(&format!("CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY)"))
        .await;
    table
}
