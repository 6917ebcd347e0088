//! What every target adapter must do, whatever its database. One function per rule, each on tables of its own; a rule that
//! does not hold panics with what was expected. The tables are made and looked at in plain SQL through the [`Fixture`], never
//! through the adapter, so that an adapter cannot judge itself.

use std::{
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use futures::FutureExt as _;
use jiff::Timestamp;

use crate::{
    model::{
        ChunkRef, Condition, Generated, JournalEntry, OnDelete, Row, RowKey, RunId, Selection, StepTotals, TableKind, TableName,
        TableSchema, TimeEncoding, Trigger, TypeClass, Value,
    },
    port::{
        BatchTransaction, Captured, Claim, Restored, RowSink, SinkError, TableLayout, Target, TargetError, TargetErrorClass,
        Window,
    },
    run::batch::layout,
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

/// Runs every rule, also after one that does not hold: each has tables of its own.
///
/// # Panics
/// With the names of the rules that do not hold; what each expected is in the output.
pub async fn target_conformance(fixture: &dyn Fixture) {
    let broken = rules!(
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
    );
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

// --- status and introspection

async fn a_database_without_a_journal_has_no_totals(fixture: &dyn Fixture) {
    let run = RunId::new();
    assert_eq!(fixture.target().totals(run).await.expect("totals"), Vec::new());
    assert_eq!(
        fixture.target().journal(run, (0, 0), 10).await.expect("a journal"),
        Vec::new()
    );
    let table = fresh("unclaimed");
    fixture
        .execute(&format!("CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY)"))
        .await;
    let schema = schema(fixture, &table).await;
    assert!(
        fixture.target().begin(Claim { run, fence: 1 }, &[&schema]).await.is_err(),
        "no batch without a claim"
    );
}

async fn the_status_names_version_size_and_clock(fixture: &dyn Fixture) {
    let target = fixture.target();
    let status = target.status().await.expect("a status");
    assert!(
        status.version.starts_with(|first: char| first.is_ascii_digit()),
        "a version, got {:?}",
        status.version
    );
    assert!(status.size_bytes > 0, "a size");
    assert!(
        status.clock.duration_since(Timestamp::now()).abs().as_secs() < 60,
        "the clock of this machine, got {}",
        status.clock
    );
    assert!(
        !target.address().is_empty() && !target.address().contains('@'),
        "an address without a user: {}",
        target.address()
    );
}

async fn introspection_reads_columns(fixture: &dyn Fixture) {
    let table = fresh("Order");
    fixture
        .execute(&format!(
            "CREATE TABLE {} (id bigint NOT NULL PRIMARY KEY, \"group\" text, \"we\"\"ird\" varchar(40) NOT NULL, \
             \"MixedCase\" double precision, made {}, data {})",
            quote(&table),
            fixture.instant(),
            fixture.bytes()
        ))
        .await;
    let schema = schema(fixture, &table).await;
    assert_eq!(schema.name.name, table);
    assert_eq!(schema.kind, TableKind::Table);
    let found: Vec<_> = schema
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.nullable))
        .collect();
    let expected = [
        ("id", false),
        ("group", true),
        ("we\"ird", false),
        ("MixedCase", true),
        ("made", true),
        ("data", true),
    ]
    .to_vec();
    assert_eq!(found, expected);
    let classes: Vec<_> = schema.columns[..4].iter().map(|column| column.class).collect();
    assert_eq!(
        classes,
        [TypeClass::Integer, TypeClass::Text, TypeClass::Text, TypeClass::Real]
    );
    assert!(
        schema.columns[2].type_name.contains("(40)"),
        "a type with its length, got {}",
        schema.columns[2].type_name
    );
    assert!(schema.columns.iter().all(|column| column.generated == Generated::No));
    assert_eq!(schema.primary_key, ["id"]);
    assert!(!schema.row_key.is_empty(), "rows can be addressed");
    assert_eq!(
        (schema.incoming.len(), schema.triggers.len(), schema.rewrite_rules.len()),
        (0, 0, 0)
    );
    assert!(!schema.row_security && schema.lossy_columns.is_empty());
    let again = self::schema(fixture, &table).await;
    assert_eq!(
        TableSchema::fingerprint([schema.as_ref()]),
        TableSchema::fingerprint([again.as_ref()]),
        "the same shape twice"
    );
    // The name that the database resolved must itself be a name.
    let resolved = fixture
        .target()
        .introspect(&schema.name)
        .await
        .expect("introspection")
        .expect("the same table");
    assert_eq!(resolved.name, schema.name);
}

async fn introspection_keeps_the_order_of_a_composite_key(fixture: &dyn Fixture) {
    let table = fresh("composite");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (a bigint NOT NULL, b text NOT NULL, c bigint NOT NULL, d text, PRIMARY KEY (c, a, b)){}",
            fixture.keyed()
        ))
        .await;
    let schema = schema(fixture, &table).await;
    assert_eq!(schema.primary_key, ["c", "a", "b"]);
    assert_eq!(schema.row_key, ["c", "a", "b"]);
}

async fn introspection_tells_generated_columns(fixture: &dyn Fixture) {
    let table = fresh("generated");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id {}, size bigint, twice bigint GENERATED ALWAYS AS (size * 2) STORED, note text)",
            fixture.identity()
        ))
        .await;
    let schema = schema(fixture, &table).await;
    let captured: Vec<_> = schema.captured_columns().map(|column| column.name.as_str()).collect();
    assert_eq!(
        captured,
        ["id", "size", "note"],
        "an identity column is captured, a generated one is not"
    );
    assert_eq!(schema.column("twice").map(|column| column.generated), Some(Generated::Yes));
}

async fn introspection_lists_indexes_that_can_serve(fixture: &dyn Fixture) {
    let table = fresh("indexed");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, a bigint, b bigint, c text, d bigint, \"e\"\"f\" bigint); \
             CREATE INDEX {table}_ba ON {table} (b, a); CREATE UNIQUE INDEX {table}_c ON {table} (c); \
             CREATE INDEX {table}_part ON {table} (d) WHERE d > 5; CREATE INDEX {table}_expr ON {table} (lower(c), d); \
             CREATE INDEX {table}_odd ON {table} (\"e\"\"f\")"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    let has = |columns: &[&str], unique| {
        schema
            .indexes
            .iter()
            .any(|index| index.columns == columns && index.unique == unique)
    };
    assert!(
        has(&["b", "a"], false) && has(&["c"], true) && has(&["e\"f"], false),
        "{:?}",
        schema.indexes
    );
    assert!(has(&["", "d"], false), "an expression is an empty name: {:?}", schema.indexes);
    assert!(schema.indexed(&strings(&["a", "b"])) && schema.indexed(&strings(&["id"])) && schema.indexed(&strings(&["b"])));
    assert!(
        !schema.indexed(&strings(&["a"])),
        "an index that begins with another column does not serve"
    );
    assert!(!schema.indexed(&strings(&["d"])), "a partial index does not serve");
}

async fn introspection_lists_incoming_keys(fixture: &dyn Fixture) {
    let parent = fresh("keyed");
    let actions = [
        ("", OnDelete::NoAction),
        ("ON DELETE NO ACTION", OnDelete::NoAction),
        ("ON DELETE RESTRICT", OnDelete::Restrict),
        ("ON DELETE CASCADE", OnDelete::Cascade),
        ("ON DELETE SET NULL", OnDelete::SetNull),
        ("ON DELETE SET DEFAULT", OnDelete::SetDefault),
    ];
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (id bigint NOT NULL PRIMARY KEY, a bigint NOT NULL, b bigint NOT NULL, \
             up bigint REFERENCES {parent} (id), UNIQUE (a, b))"
        ))
        .await;
    let mut expected = BTreeSet::from([(parent.clone(), "up".to_owned(), "NoAction".to_owned(), false)]);
    for (position, (clause, action)) in actions.into_iter().enumerate() {
        let (child, indexed) = (fresh("Ref"), position % 2 == 0);
        let name = quote(&child);
        fixture
            .execute(&format!(
                "CREATE TABLE {name} (id bigint PRIMARY KEY, \"my key\" bigint REFERENCES {parent} (id) {clause})"
            ))
            .await;
        if indexed {
            fixture
                .execute(&format!("CREATE INDEX {} ON {name} (\"my key\", id)", fresh("idx")))
                .await;
        }
        expected.insert((child, "my key".to_owned(), format!("{action:?}"), indexed));
    }
    // Composite keys: an index that begins with them in any order serves; one that is partial or begins elsewhere does not.
    for (index, serves) in [
        ("(y, x)", true),
        ("(x, z, y)", false),
        ("(x, y) WHERE z > 1", false),
        ("(x, y, z)", true),
    ] {
        let child = fresh("pair");
        fixture
            .execute(&format!(
                "CREATE TABLE {child} (id bigint PRIMARY KEY, x bigint, y bigint, z bigint, FOREIGN KEY (x, y) REFERENCES {parent} (a, b)); \
                 CREATE INDEX {child}_i ON {child} {index}"
            ))
            .await;
        expected.insert((child, "x,y".to_owned(), "NoAction".to_owned(), serves));
    }
    let schema = schema(fixture, &parent).await;
    let found: BTreeSet<_> = schema
        .incoming
        .iter()
        .map(|key| {
            (
                key.child.name.clone(),
                key.child_columns.join(","),
                format!("{:?}", key.on_delete),
                key.indexed,
            )
        })
        .collect();
    assert_eq!(found, expected);
    assert_eq!(schema.incoming.len(), expected.len(), "each key once");
    assert!(schema.incoming.iter().all(|key| !key.name.is_empty()), "each key has a name");
}

async fn introspection_lists_triggers_whatever_their_names(fixture: &dyn Fixture) {
    let table = fresh("triggered");
    fixture
        .execute(&format!("CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY)"))
        .await;
    // Names that hold every word of the statement's head: only the head itself may decide.
    let triggers = [
        ("plain before", "BEFORE DELETE", true, false, true),
        ("plain after", "AFTER DELETE", true, false, false),
        ("in before", "BEFORE INSERT", false, true, true),
        ("in after", "AFTER INSERT", false, true, false),
        ("upd after", "AFTER UPDATE", false, false, false),
        ("fires on x", "BEFORE DELETE", true, false, true),
        ("after all", "BEFORE DELETE", true, false, true),
        ("AFTER", "BEFORE DELETE", true, false, true),
        ("before insert on", "AFTER DELETE", true, false, false),
        ("delete", "AFTER INSERT", false, true, false),
        ("it's \"after\" on", "BEFORE DELETE", true, false, true),
    ];
    let mut expected = BTreeSet::new();
    for (name, event, on_delete, on_insert, before) in triggers {
        fixture.execute(&fixture.trigger(name, event, &table)).await;
        expected.insert(format!(
            "{:?}",
            Trigger {
                name: name.to_owned(),
                on_delete,
                on_update: event.ends_with("UPDATE"),
                on_insert,
                before
            }
        ));
    }
    let schema = schema(fixture, &table).await;
    let found: BTreeSet<_> = schema.triggers.iter().map(|trigger| format!("{trigger:?}")).collect();
    assert_eq!(found, expected);
}

async fn introspection_tells_views_and_missing_tables(fixture: &dyn Fixture) {
    let (table, view) = (fresh("base"), fresh("view"));
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY); CREATE VIEW {view} AS SELECT id FROM {table}"
        ))
        .await;
    assert_eq!(schema(fixture, &view).await.kind, TableKind::View);
    assert!(
        schema(fixture, &view).await.row_key.is_empty(),
        "nothing addresses a row of a view"
    );
    assert_eq!(find(fixture, &fresh("missing")).await, None);
    assert_eq!(find(fixture, &format!("{table}\"; DROP TABLE {table}; --")).await, None);
    assert_eq!(count(fixture, &table).await, 0, "the table is still there");
}

async fn the_shape_guard_follows_ddl_and_not_rows(fixture: &dyn Fixture) {
    let table = fresh("guarded");
    fixture
        .execute(&format!("CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, a text)"))
        .await;
    let mut last = schema(fixture, &table).await;
    fixture
        .execute(&format!(
            "INSERT INTO {table} VALUES (1, 'x'), (2, 'y'); DELETE FROM {table} WHERE id = 2"
        ))
        .await;
    claim(fixture).await;
    let after_rows = schema(fixture, &table).await;
    assert_eq!(
        last.shape_guard, after_rows.shape_guard,
        "rows and the journal do not change a shape"
    );
    let child = fresh("guard_child");
    let changes = [
        format!("ALTER TABLE {table} ADD COLUMN b bigint"),
        format!("ALTER TABLE {table} RENAME COLUMN b TO c"),
        fixture.trigger(&fresh("guard"), "BEFORE DELETE", &table),
        fixture.trigger(&fresh("guard"), "AFTER INSERT", &table),
        format!("CREATE TABLE {child} (id bigint PRIMARY KEY, up bigint REFERENCES {table} (id) ON DELETE CASCADE)"),
        format!("ALTER TABLE {table} DROP COLUMN c"),
    ];
    for change in changes {
        fixture.execute(&change).await;
        let now = schema(fixture, &table).await;
        assert_ne!(last.shape_guard, now.shape_guard, "{change}");
        assert_ne!(
            TableSchema::fingerprint([last.as_ref()]),
            TableSchema::fingerprint([now.as_ref()]),
            "{change}"
        );
        last = now;
    }
}

// --- surveys

async fn tables_are_counted(fixture: &dyn Fixture) {
    let (_, selection) = aging(fixture, 1_234, 2).await;
    let count = async |limit| fixture.target().count_rows(&selection.table, limit).await.expect("a count");
    assert_eq!(
        (
            count(None).await,
            count(Some(1)).await,
            count(Some(5_000)).await,
            count(Some(0)).await
        ),
        (1_234, 1, 1_234, 0)
    );
}

async fn orphans_are_counted_without_null_keys(fixture: &dyn Fixture) {
    let (_, _, selection) = family(fixture).await;
    assert_eq!(survey_count(fixture, &selection).await, 2);
    let keys = listed(fixture, &selection, 10).await;
    assert_eq!(ids(&resolve(fixture, &selection, &keys).await), [5, 6]);
}

async fn orphans_with_composite_keys_need_every_column(fixture: &dyn Fixture) {
    let (parent, child) = (fresh("parent"), fresh("child"));
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (a bigint NOT NULL, b text NOT NULL, PRIMARY KEY (a, b)); INSERT INTO {parent} VALUES (1, 'x'), (2, 'y'); \
             CREATE TABLE {child} (id bigint NOT NULL PRIMARY KEY, pa bigint, pb text); \
             INSERT INTO {child} VALUES (1, 1, 'x'), (2, 1, 'y'), (3, 2, 'x'), (4, NULL, 'x'), (5, 1, NULL), (6, NULL, NULL), (7, 9, 'z')"
        ))
        .await;
    let (child, parent) = (schema(fixture, &child).await, schema(fixture, &parent).await);
    let selection = select(&child, parent_missing(&["pa", "pb"], &parent, &["a", "b"]));
    assert_eq!(survey_count(fixture, &selection).await, 3);
    let keys = listed(fixture, &selection, 10).await;
    assert_eq!(ids(&resolve(fixture, &selection, &keys).await), [2, 3, 7]);
    // Named the other way round it is the same key.
    let swapped = select(&child, parent_missing(&["pb", "pa"], &parent, &["b", "a"]));
    assert_eq!(survey_count(fixture, &swapped).await, 3);
}

async fn orphans_of_a_self_reference(fixture: &dyn Fixture) {
    let table = fresh("tree");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, up bigint); \
             INSERT INTO {table} VALUES (1, NULL), (2, 1), (3, 3), (4, 40), (5, 4)"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    let selection = select(&schema, parent_missing(&["up"], &schema, &["id"]));
    assert_eq!(survey_count(fixture, &selection).await, 1);
    assert_eq!(ids(&delete_all(fixture, &selection).await), [4]);
    // Its child is an orphan from now on.
    assert_eq!(survey_count(fixture, &selection).await, 1);
    assert_eq!(ids(&delete_all(fixture, &selection).await), [5]);
    assert_eq!(remaining(fixture, &table).await, [1, 2, 3]);
}

async fn orphans_of_an_empty_parent_are_all_with_a_key(fixture: &dyn Fixture) {
    let (parent, _, selection) = family(fixture).await;
    fixture.execute(&format!("DELETE FROM {parent}")).await;
    assert_eq!(survey_count(fixture, &selection).await, 5);
}

async fn orphans_whose_key_does_not_fit_the_parent_s_type(fixture: &dyn Fixture) {
    let (parent, child) = (fresh("small_parent"), fresh("wide_child"));
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (id integer NOT NULL PRIMARY KEY); INSERT INTO {parent} VALUES (1), (2); \
             CREATE TABLE {child} (id bigint NOT NULL PRIMARY KEY, up bigint); \
             INSERT INTO {child} VALUES (1, 1), (2, 9223372036854775807), (3, -5000000000), (4, 3)"
        ))
        .await;
    let selection = select(
        &schema(fixture, &child).await,
        parent_missing(&["up"], &schema(fixture, &parent).await, &["id"]),
    );
    assert_eq!(survey_count(fixture, &selection).await, 3);
    assert_eq!(ids(&delete_all(fixture, &selection).await), [2, 3, 4]);
    assert_eq!(remaining(fixture, &child).await, [1]);
}

async fn earlier_steps_are_left_out_and_null_is_not(fixture: &dyn Fixture) {
    let (parent, child) = (fresh("parent"), fresh("child"));
    let (instant, old, new) = (fixture.instant(), "'2001-01-01T00:00:00Z'", "'2031-01-01T00:00:00Z'");
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (id bigint NOT NULL PRIMARY KEY); INSERT INTO {parent} VALUES (1); \
             CREATE TABLE {child} (id bigint NOT NULL PRIMARY KEY, up bigint, at {instant}); \
             INSERT INTO {child} VALUES (1, 1, {old}), (2, 9, {old}), (3, NULL, {old}), (4, 9, {new}), (5, 9, NULL), (6, NULL, NULL), (7, 1, {new})"
        ))
        .await;
    let (child_schema, parent) = (schema(fixture, &child).await, schema(fixture, &parent).await);
    let orphan = parent_missing(&["up"], &parent, &["id"]);
    let old = older_than(fixture, "at", "2020-01-01T00:00:00Z");
    let selection = |matches: &Condition, except: &[&Condition]| Selection {
        table: Arc::clone(&child_schema),
        matches: matches.clone(),
        except: except.iter().map(|condition| (*condition).clone()).collect(),
    };
    let expected = [
        (selection(&old, &[]), vec![1, 2, 3]),
        (selection(&old, &[&orphan]), vec![1, 3]),
        (selection(&orphan, &[]), vec![2, 4, 5]),
        (selection(&orphan, &[&old]), vec![4, 5]),
        (selection(&orphan, &[&orphan]), vec![]),
        (selection(&old, &[&orphan, &old]), vec![]),
    ];
    for (selection, expected) in expected {
        assert_eq!(survey_count(fixture, &selection).await, expected.len() as u64);
        let keys = listed(fixture, &selection, 10).await;
        assert_eq!(keys.len(), expected.len());
        assert_eq!(ids(&resolve(fixture, &selection, &keys).await), expected);
    }
    assert_eq!(count(fixture, &child).await, 7, "looking changes nothing");
}

async fn expired_is_strictly_before_the_horizon(fixture: &dyn Fixture) {
    let table = fresh("expiring");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, at {}); INSERT INTO {table} VALUES \
             (1, '2024-03-31T00:59:59.999Z'), (2, '2024-03-31T01:00:00Z'), (3, '2024-03-31T01:00:00.001Z'), (4, NULL), \
             (5, '1970-01-01T00:00:00Z'), (6, '2099-12-31T23:59:59Z'), \
             (7, '2024-03-31T02:59:59.999+02:00'), (8, '2024-03-31T03:00:00+02:00'), (9, '2024-03-30T23:00:00-02:00')",
            fixture.instant()
        ))
        .await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2024-03-31T01:00:00Z"),
    );
    assert_eq!(survey_count(fixture, &selection).await, 3);
    assert_eq!(ids(&delete_all(fixture, &selection).await), [1, 5, 7]);
    assert_eq!(remaining(fixture, &table).await, [2, 3, 4, 6, 8, 9]);
}

async fn expired_epochs_are_compared_exactly(fixture: &dyn Fixture) {
    let table = fresh("epochs");
    // The horizon is 1704067200.5 s.
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, s bigint, ms bigint, f double precision); INSERT INTO {table} VALUES \
             (1, 1704067199, 1704067200499, 1704067200.25), (2, 1704067200, 1704067200500, 1704067200.5), \
             (3, 1704067201, 1704067200501, 1704067200.75), (4, NULL, NULL, NULL), (5, 0, 0, 0), (6, -5, -5, -5.5), \
             (7, 9223372036854775807, 9223372036854775807, 1e300), (8, -9223372036854775807, -9223372036854775807, -1e300)"
        ))
        .await;
    let schema = schema(fixture, &table).await;
    let selection = |column: &str, encoding, horizon: &str| {
        let column = column.to_owned();
        select(
            &schema,
            Condition::OlderThan {
                column,
                horizon: at(horizon),
                encoding: Some(encoding),
                zone: None,
            },
        )
    };
    let half = "2024-01-01T00:00:00.5Z";
    let expected = [
        (selection("s", TimeEncoding::UnixSeconds, half), vec![1, 2, 5, 6, 8]),
        (
            selection("s", TimeEncoding::UnixSeconds, "2024-01-01T00:00:00Z"),
            vec![1, 5, 6, 8],
        ),
        (selection("ms", TimeEncoding::UnixMillis, half), vec![1, 5, 6, 8]),
        (
            selection("ms", TimeEncoding::UnixMillis, "2024-01-01T00:00:00.5001Z"),
            vec![1, 2, 5, 6, 8],
        ),
        (selection("f", TimeEncoding::UnixSeconds, half), vec![1, 5, 6, 8]),
        (selection("f", TimeEncoding::UnixMillis, "1970-01-01T00:00:00Z"), vec![6, 8]),
        (selection("s", TimeEncoding::UnixSeconds, "1969-12-31T23:59:55Z"), vec![8]),
        (
            selection("s", TimeEncoding::UnixSeconds, "1969-12-31T23:59:55.5Z"),
            vec![6, 8],
        ),
    ];
    for (position, (selection, expected)) in expected.into_iter().enumerate() {
        let keys = listed(fixture, &selection, 10).await;
        assert_eq!(ids(&resolve(fixture, &selection, &keys).await), expected, "case {position}");
        assert_eq!(
            survey_count(fixture, &selection).await,
            expected.len() as u64,
            "case {position}"
        );
    }
}

async fn survey_samples_are_rows_of_the_selection(fixture: &dyn Fixture) {
    let (_, selection) = aging(fixture, 100, 4).await;
    let survey = fixture.target().survey(&selection, 7).await.expect("a survey");
    assert_eq!((survey.row_count, survey.samples.len()), (25, 7));
    assert!(
        survey.samples.iter().all(|row| row.len() == 2 && number(&row[0]) % 4 == 0),
        "{:?}",
        survey.samples
    );
    assert!(
        survey.row_bytes > 5 && survey.row_bytes < 200,
        "an average size, got {}",
        survey.row_bytes
    );
    assert!(survey.sql.contains(&selection.table.name.name), "the SQL, got {}", survey.sql);
    let none = fixture.target().survey(&selection, 0).await.expect("a survey");
    assert_eq!((none.row_count, none.samples.len()), (25, 0));
}

// --- scans

async fn a_scan_lists_exactly_the_selection_in_windows(fixture: &dyn Fixture) {
    let (_, selection) = aging(fixture, 1_000, 3).await;
    let expected: Vec<i64> = (1..=1_000).filter(|id| id % 3 == 0).collect();
    for limit in [1, 10, 332, 333, 334, 5_000] {
        let windows = windows(fixture, &selection, None, limit).await;
        assert!(windows.len() as u64 >= 333_u64.div_ceil(u64::from(limit)));
        let keys: Vec<RowKey> = windows.into_iter().flat_map(|window| window.keys).collect();
        assert_eq!(keys.len(), expected.len(), "in windows of {limit}");
        assert_eq!(
            ids(&resolve(fixture, &selection, &keys).await),
            expected,
            "in windows of {limit}"
        );
    }
}

async fn a_scan_resumes_after_each_window(fixture: &dyn Fixture) {
    let (_, selection) = aging(fixture, 300, 3).await;
    let all = windows(fixture, &selection, None, 7).await;
    let keys: Vec<RowKey> = all.iter().flat_map(|window| window.keys.clone()).collect();
    let mut done = 0;
    for window in &all {
        done += window.keys.len();
        let rest = windows(fixture, &selection, Some(&window.cursor), 11).await;
        let rest: Vec<RowKey> = rest.into_iter().flat_map(|window| window.keys).collect();
        assert_eq!(rest, keys[done..], "after {done} keys");
    }
    // A pass that found nothing has a position too.
    let nothing = select(&selection.table, older_than(fixture, "at", "1990-01-01T00:00:00Z"));
    for window in windows(fixture, &nothing, None, 7).await {
        assert!(window.keys.is_empty());
        assert!(
            windows(fixture, &nothing, Some(&window.cursor), 7)
                .await
                .iter()
                .all(|window| window.keys.is_empty())
        );
    }
}

async fn a_scan_of_an_empty_table_ends(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 1, 1).await;
    fixture.execute(&format!("DELETE FROM {table}")).await;
    assert!(
        windows(fixture, &selection, None, 10)
            .await
            .iter()
            .all(|window| window.keys.is_empty())
    );
    assert_eq!(survey_count(fixture, &selection).await, 0);
}

async fn a_scan_of_a_sparse_table_lists_all(fixture: &dyn Fixture) {
    let (_, selection) = aging(fixture, 50_000, 1_999).await;
    let windows = windows(fixture, &selection, None, 2).await;
    let keys: Vec<RowKey> = windows.into_iter().flat_map(|window| window.keys).collect();
    let expected: Vec<i64> = (1..=25).map(|number| number * 1_999).collect();
    assert_eq!(ids(&resolve(fixture, &selection, &keys).await), expected);
}

async fn a_scan_goes_on_while_rows_vanish(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 400, 2).await;
    let target = fixture.target();
    let claim = claim(fixture).await;
    let mut scan = target.scan(&selection, None, 10).await.expect("a scan");
    let (mut taken, mut lost, mut number) = (0, 0, 0);
    while let Some(window) = scan.next().await.expect("a window") {
        number += 1;
        // Others take rows that are still to come, and change some that were listed.
        let ahead = 20 * number + 30;
        lost += count(
            fixture,
            &format!("{table} WHERE id IN ({ahead}, {ahead} + 2, {ahead} + 3) AND id % 2 = 0"),
        )
        .await;
        fixture
            .execute(&format!(
                "DELETE FROM {table} WHERE id IN ({ahead}, {ahead} + 2, {ahead} + 3)"
            ))
            .await;
        if window.keys.is_empty() {
            continue;
        }
        let mut batch = begin(fixture, claim, &selection.table).await;
        taken += batch.delete(&selection, &window.keys, None).await.expect("a deletion");
        batch.record(&entry(claim, 0, number)).await.expect("a journal row");
        batch.commit().await.expect("a commit");
    }
    assert_eq!(taken + lost, 200);
    assert!(lost > 0);
    assert_eq!(
        count(fixture, &format!("{table} WHERE id % 2 = 0")).await,
        0,
        "nothing that matches is left"
    );
}

async fn a_scan_of_text_and_composite_keys(fixture: &dyn Fixture) {
    let instant = fixture.instant();
    let old = "'2001-01-01T00:00:00Z'";
    for (name, columns, key, rows) in [
        (
            "text_key",
            "code text NOT NULL",
            "code",
            "('', 1), ('a', 2), ('A', 3), ('a b', 4), ('ä', 5), ('''', 6), ('a''b', 7), ('\\', 8)",
        ),
        (
            "composite_key",
            "code text NOT NULL, place bigint NOT NULL",
            "place, code",
            "('b', 1, 1), ('a', 1, 2), ('a', 2, 3), ('c', -5, 4), ('', 9223372036854775807, 5), ('z', 0, 6)",
        ),
    ] {
        let table = fresh(name);
        fixture
            .execute(&format!(
                "CREATE TABLE {table} (id bigint NOT NULL, {columns}, at {instant}, PRIMARY KEY ({key})){}",
                fixture.keyed()
            ))
            .await;
        let width = columns.split(',').count();
        let names = ["code", "place"][..width].join(", ");
        fixture
            .execute(&format!(
                "INSERT INTO {table} ({names}, id) VALUES {rows}; UPDATE {table} SET at = {old}"
            ))
            .await;
        let selection = select(
            &schema(fixture, &table).await,
            older_than(fixture, "at", "2020-01-01T00:00:00Z"),
        );
        let total = count(fixture, &table).await;
        for limit in [1, 2, 3, 100] {
            let all = windows(fixture, &selection, None, limit).await;
            let keys: Vec<RowKey> = all.iter().flat_map(|window| window.keys.clone()).collect();
            let rows = resolve(fixture, &selection, &keys).await;
            assert_eq!(
                ids(&rows),
                (1..=i64::try_from(total).expect("few")).collect::<Vec<_>>(),
                "{table} in windows of {limit}"
            );
            let first = all.first().expect("a window");
            let rest = windows(fixture, &selection, Some(&first.cursor), limit).await;
            assert_eq!(
                rest.iter().map(|window| window.keys.len()).sum::<usize>(),
                keys.len() - first.keys.len()
            );
        }
        delete_all(fixture, &selection).await;
        assert_eq!(count(fixture, &table).await, 0);
    }
}

async fn quoted_names_work_from_end_to_end(fixture: &dyn Fixture) {
    let (parent, child) = (fresh("Select"), fresh("we\"ird; --"));
    let (p, c) = (quote(&parent), quote(&child));
    fixture
        .execute(&format!(
            "CREATE TABLE {p} (\"order\" bigint NOT NULL PRIMARY KEY); INSERT INTO {p} VALUES (1); \
             CREATE TABLE {c} (\"a\"\"b\" bigint NOT NULL PRIMARY KEY, \"group\" bigint, \"T\" text, \"k1\" text, \"p\" text); \
             INSERT INTO {c} VALUES (1, 1, 'x', 'y', 'z'), (2, 2, 'x', 'y', 'z'), (3, NULL, 'x', 'y', 'z')"
        ))
        .await;
    let child = schema(fixture, &child).await;
    let selection = select(
        &child,
        parent_missing(&["group"], &schema(fixture, &parent).await, &["order"]),
    );
    let columns = ["\"a\"\"b\"", "\"group\"", "\"T\"", "k1", "p"];
    let before = dump(fixture, &c, &columns, "1").await;
    let survey = fixture.target().survey(&selection, 5).await.expect("a survey");
    assert_eq!((survey.row_count, survey.samples.len()), (1, 1));
    let rows = delete_all(fixture, &selection).await;
    assert_eq!(ids(&rows), [2]);
    let layout = layout(&child);
    assert_eq!(
        fixture
            .target()
            .scratch()
            .await
            .expect("a scratch")
            .prove(&layout, rows.clone())
            .await
            .expect("a proof"),
        1
    );
    assert_eq!(restore(fixture, &layout, rows).await.rows, 1);
    assert_eq!(dump(fixture, &c, &columns, "1").await, before);
}

// --- batches

async fn a_batch_rechecks_parents(fixture: &dyn Fixture) {
    let (parent, child, selection) = family(fixture).await;
    let keys = listed(fixture, &selection, 10).await;
    assert_eq!(keys.len(), 2);
    fixture.execute(&format!("INSERT INTO {parent} VALUES (4)")).await;
    assert_eq!(
        ids(&resolve(fixture, &selection, &keys).await),
        [6],
        "the parent of 5 has come back"
    );
    fixture
        .execute(&format!("UPDATE {child} SET parent_id = 1 WHERE id = 6"))
        .await;
    assert_eq!(
        ids(&resolve(fixture, &selection, &keys).await),
        [0_i64; 0],
        "6 was given another parent"
    );
    fixture
        .execute(&format!(
            "DELETE FROM {parent} WHERE id = 4; UPDATE {child} SET parent_id = NULL WHERE id = 6"
        ))
        .await;
    assert_eq!(
        ids(&resolve(fixture, &selection, &keys).await),
        [5],
        "6 means no parent any more"
    );
    fixture.execute(&format!("DELETE FROM {child} WHERE id = 5")).await;
    assert_eq!(resolve(fixture, &selection, &keys).await, Vec::<Row>::new());
    assert_eq!(remaining(fixture, &child).await, [1, 2, 3, 4, 6]);
}

async fn a_batch_rechecks_times(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 10, 2).await;
    let keys = listed(fixture, &selection, 10).await;
    fixture
        .execute(&format!("UPDATE {table} SET at = '2030-01-01T00:00:00Z' WHERE id IN (2, 4)"))
        .await;
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &selection.table).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.expect("a deletion"), 3);
    assert_eq!(batch.adopted(&selection).await.expect("nobody is adopted"), 0);
    batch.commit().await.expect("a commit");
    assert_eq!(remaining(fixture, &table).await, [1, 2, 3, 4, 5, 7, 9]);
}

async fn a_batch_captures_exactly_what_it_deletes(fixture: &dyn Fixture) {
    let (_, child, selection) = family(fixture).await;
    let keys = listed(fixture, &selection, 10).await;
    let mut rows = resolve(fixture, &selection, &keys).await;
    rows.sort_by_key(|row| number(&row[0]));
    let expected = [(5, 4, "e"), (6, 5, "f")];
    let expected =
        expected.map(|(id, parent, note)| vec![fixture.integer(id), fixture.integer(parent), Value::Text(note.into())]);
    assert_eq!(rows, expected);
    assert_eq!(count(fixture, &child).await, 6);
}

async fn a_batch_without_keys_deletes_nothing(fixture: &dyn Fixture) {
    let (_, child, selection) = family(fixture).await;
    assert_eq!(resolve(fixture, &selection, &[]).await, Vec::<Row>::new());
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &selection.table).await;
    assert_eq!(batch.delete(&selection, &[], None).await.expect("no deletion"), 0);
    assert_eq!(batch.adopted(&selection).await.expect("nobody is adopted"), 0);
    batch.commit().await.expect("a commit");
    assert_eq!(count(fixture, &child).await, 6);
}

async fn a_batch_that_is_taken_back_leaves_everything(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 100, 2).await;
    let before = dump(fixture, &table, &["id", "at"], "id").await;
    let keys = listed(fixture, &selection, 1_000).await;
    let claim = claim(fixture).await;
    for dropped in [false, true] {
        let mut batch = begin(fixture, claim, &selection.table).await;
        assert_eq!(batch.delete(&selection, &keys, None).await.expect("a deletion"), 50);
        batch.record(&entry(claim, 0, 1)).await.expect("a journal row");
        if dropped {
            drop(batch)
        } else {
            batch.rollback().await
        }
        assert_eq!(dump(fixture, &table, &["id", "at"], "id").await, before, "dropped: {dropped}");
        assert_eq!(fixture.target().totals(claim.run).await.expect("totals"), Vec::new());
    }
    // The rows are not locked either, and the number of the batch is still free.
    let mut batch = begin(fixture, claim, &selection.table).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.expect("a deletion"), 50);
    batch.record(&entry(claim, 0, 1)).await.expect("a journal row");
    batch.commit().await.expect("a commit");
    assert_eq!(count(fixture, &table).await, 50);
}

async fn a_journal_row_comes_with_the_commit(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 10, 2).await;
    let keys = listed(fixture, &selection, 1_000).await;
    let (target, claim) = (fixture.target(), claim(fixture).await);
    let mut batch = begin(fixture, claim, &selection.table).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.expect("a deletion"), 5);
    let recorded = JournalEntry {
        affected: 5,
        chunk: Some(chunk(1)),
        ..entry(claim, 0, 1)
    };
    batch.record(&recorded).await.expect("a journal row");
    assert_eq!(
        target.totals(claim.run).await.expect("totals"),
        Vec::new(),
        "not before the commit"
    );
    assert_eq!(count(fixture, &table).await, 10, "not before the commit");
    batch.commit().await.expect("a commit");
    assert_eq!(target.journal(claim.run, (0, 0), 10).await.expect("a journal"), [recorded]);
    assert_eq!(count(fixture, &table).await, 5);
}

async fn a_batch_number_is_taken_once(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 4, 2).await;
    let keys = listed(fixture, &selection, 1_000).await;
    let claim = claim(fixture).await;
    let mut first = begin(fixture, claim, &selection.table).await;
    first.record(&entry(claim, 0, 1)).await.expect("a journal row");
    first.commit().await.expect("a commit");
    let mut second = begin(fixture, claim, &selection.table).await;
    assert_eq!(second.delete(&selection, &keys, None).await.expect("a deletion"), 2);
    refused(second.record(&entry(claim, 0, 1)).await, TargetErrorClass::Constraint);
    second.rollback().await;
    assert_eq!(count(fixture, &table).await, 4);
}

async fn a_sink_that_refuses_keeps_every_row(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 500, 2).await;
    let keys = listed(fixture, &selection, 1_000).await;
    let claim = claim(fixture).await;
    for (limit, dropped) in [(0, false), (100, false), (249, true)] {
        let mut batch = begin(fixture, claim, &selection.table).await;
        let mut sink = Collector {
            limit: Some(limit),
            ..Collector::default()
        };
        let error = refused(batch.delete(&selection, &keys, Some(&mut sink)).await, TargetErrorClass::Sink);
        assert!(error.sink.is_some() && !error.is_retryable(), "what the sink said is kept");
        if dropped {
            drop(batch)
        } else {
            batch.rollback().await
        }
        assert_eq!(count(fixture, &table).await, 500);
    }
    // The adapter is as good as new afterwards.
    assert_eq!(delete_all(fixture, &selection).await.len(), 250);
}

async fn a_row_that_a_child_names_is_refused(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 6, 2).await;
    let child = fresh("guardian");
    fixture
        .execute(&format!(
            "CREATE TABLE {child} (id bigint PRIMARY KEY, up bigint REFERENCES {table} (id)); INSERT INTO {child} VALUES (1, 4)"
        ))
        .await;
    let selection = select(&schema(fixture, &table).await, selection.matches);
    let keys = listed(fixture, &selection, 1_000).await;
    let claim = claim(fixture).await;
    let mut batch = begin(fixture, claim, &selection.table).await;
    let error = refused(batch.delete(&selection, &keys, None).await, TargetErrorClass::Constraint);
    assert!(!error.is_retryable() && !error.message.is_empty());
    batch.rollback().await;
    assert_eq!(count(fixture, &table).await, 6);
}

// --- fence and shape

async fn an_older_attempt_is_shut_out(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 4, 2).await;
    let target = fixture.target();
    let (run, schema) = (RunId::new(), Arc::clone(&selection.table));
    let claim = |fence| Claim { run, fence };
    refused(target.begin(claim(1), &[&schema]).await, TargetErrorClass::Fenced);
    target.claim(claim(1)).await.expect("the first claim");
    target.claim(claim(1)).await.expect("an equal claim");
    target.begin(claim(1), &[&schema]).await.expect("a batch").rollback().await;
    target.claim(claim(5)).await.expect("a larger fence");
    refused(target.claim(claim(4)).await, TargetErrorClass::Fenced);
    refused(target.claim(claim(1)).await, TargetErrorClass::Fenced);
    refused(target.begin(claim(1), &[&schema]).await, TargetErrorClass::Fenced);
    // A number that nobody has claimed is as wrong as an old one.
    refused(target.begin(claim(6), &[&schema]).await, TargetErrorClass::Fenced);
    refused(
        target
            .begin(
                Claim {
                    run: RunId::new(),
                    fence: 5,
                },
                &[&schema],
            )
            .await,
        TargetErrorClass::Fenced,
    );
    refused(target.begin(claim(1), &[]).await, TargetErrorClass::Fenced);
    // Other runs are not touched, and the holder goes on.
    self::claim(fixture).await;
    target
        .begin(claim(5), &[&schema])
        .await
        .expect("the holder's batch")
        .commit()
        .await
        .expect("a commit");
    assert_eq!(count(fixture, &table).await, 4);
}

async fn a_claim_waits_for_the_older_batch(fixture: &dyn Fixture) {
    for commits in [true, false] {
        let (table, selection) = aging(fixture, 4, 2).await;
        let keys = listed(fixture, &selection, 10).await;
        let (target, old) = (fixture.target(), claim(fixture).await);
        let new = Claim { fence: 2, ..old };
        let mut batch = begin(fixture, old, &selection.table).await;
        assert_eq!(batch.delete(&selection, &keys, None).await.expect("a deletion"), 2);
        batch.record(&entry(old, 0, 1)).await.expect("a journal row");
        let claiming = tokio::spawn({
            let target = Arc::clone(&target);
            async move {
                target.claim(new).await?;
                // When the claim has returned, the journal is final.
                target.totals(new.run).await
            }
        });
        tokio::task::yield_now().await;
        if commits {
            batch.commit().await.expect("a commit")
        } else {
            drop(batch)
        }
        let totals = claiming.await.expect("no panic").expect("the claim");
        assert_eq!(totals.len(), usize::from(commits));
        assert_eq!(count(fixture, &table).await, if commits { 2 } else { 4 });
        refused(target.begin(old, &[&selection.table]).await, TargetErrorClass::Fenced);
    }
}

async fn a_changed_shape_stops_the_batch(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 4, 2).await;
    let (target, claim) = (fixture.target(), claim(fixture).await);
    let matches = selection.matches;
    let changes = [
        format!("ALTER TABLE {table} ADD COLUMN extra text"),
        fixture.trigger(&fresh("late"), "AFTER DELETE", &table),
        format!(
            "CREATE TABLE {} (id bigint PRIMARY KEY, up bigint REFERENCES {table} (id) ON DELETE CASCADE)",
            fresh("late_child")
        ),
        format!("ALTER TABLE {table} RENAME COLUMN extra TO other"),
    ];
    for change in changes {
        let planned = select(&schema(fixture, &table).await, matches.clone());
        target
            .begin(claim, &[&planned.table])
            .await
            .expect("still the planned shape")
            .rollback()
            .await;
        fixture.execute(&change).await;
        let error = refused(target.begin(claim, &[&planned.table]).await, TargetErrorClass::SchemaChanged);
        assert!(!error.is_retryable(), "{change}");
        assert_eq!(count(fixture, &table).await, 4, "{change}");
    }
    let table = fresh_table(fixture).await;
    let (planned, others) = (
        schema(fixture, &table).await,
        schema(fixture, &fresh_table(fixture).await).await,
    );
    fixture.execute(&format!("ALTER TABLE {table} RENAME TO {table}_gone")).await;
    refused(
        target.begin(claim, &[&others, &planned]).await,
        TargetErrorClass::SchemaChanged,
    );
    target
        .begin(claim, &[&others])
        .await
        .expect("the other table is as it was")
        .rollback()
        .await;
}

async fn fresh_table(fixture: &dyn Fixture) -> String {
    let table = fresh("other");
    fixture
        .execute(&format!("CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY)"))
        .await;
    table
}

// --- journal

fn chunk(number: u64) -> ChunkRef {
    ChunkRef {
        file: format!("chunk-{number}.chunk"),
        rows: number,
        bytes: number + 5_000_000_000,
        sha256: format!("{number:064x}"),
    }
}

async fn totals_and_journal_tell_what_was_recorded(fixture: &dyn Fixture) {
    let (target, table) = (fixture.target(), fresh_table(fixture).await);
    let schema = schema(fixture, &table).await;
    let (claim, stranger) = (claim(fixture).await, claim(fixture).await);
    let mut recorded = Vec::new();
    for step in [2, 0, 10] {
        for number in 1..=11_u64 {
            let entry = JournalEntry {
                pass: if number > 6 { 2 } else { 1 },
                cursor: format!("'({step},{number})' \u{2603}"),
                examined: 100 * number,
                matched: 10 * number,
                affected: 9 * number,
                conflicting: 1,
                chunk: (number % 3 != 0).then(|| chunk(number)),
                ..entry(claim, step, number)
            };
            let mut batch = begin(fixture, claim, &schema).await;
            batch.record(&entry).await.expect("a journal row");
            batch.commit().await.expect("a commit");
            recorded.push(entry);
        }
    }
    let mut batch = begin(fixture, stranger, &schema).await;
    batch
        .record(&JournalEntry {
            chunk: Some(chunk(77)),
            ..entry(stranger, 0, 1)
        })
        .await
        .expect("a journal row");
    batch.commit().await.expect("a commit");

    let chunks: u64 = (1..=11).filter(|number| number % 3 != 0).sum();
    let expected = |step| StepTotals {
        step,
        batches: 11,
        first_batch: 1,
        examined: 6_600,
        matched: 660,
        affected: 594,
        along: Vec::new(),
        conflicting: 11,
        captured: chunks,
        captured_bytes: chunks + 8 * 5_000_000_000,
        pass: 2,
        cursor: format!("'({step},11)' \u{2603}"),
    };
    assert_eq!(
        target.totals(claim.run).await.expect("totals"),
        [expected(0), expected(2), expected(10)]
    );
    assert_eq!(target.totals(RunId::new()).await.expect("totals"), Vec::new());

    recorded.retain(|entry| entry.chunk.is_some());
    recorded.sort_by_key(|entry| (entry.step, entry.batch));
    for limit in [1, 5, 100] {
        let (mut pages, mut after) = (Vec::new(), (0, 0));
        loop {
            let page = target.journal(claim.run, after, limit).await.expect("a page");
            assert!(page.len() <= limit as usize);
            let Some(last) = page.last() else { break };
            after = (last.step, last.batch);
            pages.extend(page);
        }
        assert_eq!(pages, recorded, "in pages of {limit}");
    }
    let rest = target.journal(claim.run, (2, 11), 100).await.expect("a page");
    assert!(rest.iter().all(|entry| entry.step == 10) && rest.len() == 8);

    recorded.retain(|entry| entry.step == 2);
    recorded.reverse();
    for limit in [1, 5, 100] {
        let (mut pages, mut below) = (Vec::new(), u64::MAX);
        loop {
            let page = target.journal_back(claim.run, 2, below, limit).await.expect("a page");
            let Some(last) = page.last() else { break };
            below = last.batch;
            pages.extend(page);
        }
        assert_eq!(pages, recorded, "newest first, in pages of {limit}");
    }
}

// --- restore

async fn restored_rows_are_identical(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 500, 2).await;
    let before = dump(fixture, &table, &["id", "at"], "id").await;
    let rows = delete_all(fixture, &selection).await;
    assert_eq!(count(fixture, &table).await, 250);
    // Taken back it changes nothing.
    let claim = claim(fixture).await;
    let mut batch = fixture.target().begin(claim, &[]).await.expect("a batch");
    assert_eq!(
        batch
            .restore(&layout(&selection.table), rows.clone())
            .await
            .expect("a restore")
            .rows,
        250
    );
    drop(batch);
    assert_eq!(count(fixture, &table).await, 250);
    let restored = restore(fixture, &layout(&selection.table), rows).await;
    assert_eq!(
        restored,
        Restored {
            rows: 250,
            ..Restored::default()
        }
    );
    assert_eq!(dump(fixture, &table, &["id", "at"], "id").await, before);
}

async fn restore_of_nothing(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 2, 2).await;
    assert_eq!(
        restore(fixture, &layout(&selection.table), Vec::new()).await,
        Restored::default()
    );
    assert_eq!(count(fixture, &table).await, 2);
}

async fn restore_leaves_rows_in_the_way(fixture: &dyn Fixture) {
    let table = fresh("occupied");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, code text UNIQUE, at {}); INSERT INTO {table} VALUES \
             (1, 'a', '2001-01-01T00:00:00Z'), (2, 'b', '2001-01-01T00:00:00Z'), (3, 'c', '2001-01-01T00:00:00Z'), \
             (4, 'd', '2001-01-01T00:00:00Z'), (5, NULL, '2001-01-01T00:00:00Z')",
            fixture.instant()
        ))
        .await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    let rows = delete_all(fixture, &selection).await;
    assert_eq!(ids(&rows), [1, 2, 3, 4, 5]);
    fixture
        .execute(&format!("INSERT INTO {table} VALUES (2, 'new', NULL), (99, 'd', NULL)"))
        .await;
    let restored = restore(fixture, &layout(&selection.table), rows).await;
    assert_eq!((restored.rows, restored.conflicting), (3, 2));
    let mut keys: Vec<_> = restored.conflicts.iter().map(|conflict| conflict.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["id=2", "id=4"]);
    assert!(restored.conflicts.iter().all(|conflict| !conflict.reason.is_empty()));
    assert_eq!(remaining(fixture, &table).await, [1, 2, 3, 5, 99]);
    assert_eq!(
        count(fixture, &format!("{table} WHERE id IN (2, 99) AND at IS NULL")).await,
        2,
        "what stood there is as it was"
    );

    // Many conflicts are all counted and some are named.
    let (many, selection) = aging(fixture, 300, 1).await;
    let rows = delete_all(fixture, &selection).await;
    fixture
        .execute(&format!("INSERT INTO {many} VALUES (100, '2031-01-01T00:00:00Z')"))
        .await;
    let restored = restore(fixture, &layout(&selection.table), rows.clone()).await;
    assert_eq!((restored.rows, restored.conflicting, restored.conflicts.len()), (299, 1, 1));
    let again = restore(fixture, &layout(&selection.table), rows).await;
    assert_eq!(
        (again.rows, again.conflicting),
        (0, 300),
        "a second restore finds every row in its place"
    );
    assert!(!again.conflicts.is_empty() && again.conflicts.len() <= 300);
}

async fn restore_leaves_rows_whose_parent_is_gone(fixture: &dyn Fixture) {
    let (parent, child) = (fresh("parent"), fresh("child"));
    fixture
        .execute(&format!(
            "CREATE TABLE {parent} (id bigint NOT NULL PRIMARY KEY); INSERT INTO {parent} VALUES (1), (2); \
             CREATE TABLE {child} (id bigint NOT NULL PRIMARY KEY, up bigint REFERENCES {parent} (id), at {}); INSERT INTO {child} VALUES \
             (1, 1, '2001-01-01T00:00:00Z'), (2, 2, '2001-01-01T00:00:00Z'), (3, NULL, '2001-01-01T00:00:00Z')",
            fixture.instant()
        ))
        .await;
    let selection = select(
        &schema(fixture, &child).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    let rows = delete_all(fixture, &selection).await;
    fixture.execute(&format!("DELETE FROM {parent} WHERE id = 2")).await;
    let restored = restore(fixture, &layout(&selection.table), rows).await;
    assert_eq!((restored.rows, restored.conflicting, restored.conflicts.len()), (2, 1, 1));
    assert_eq!(restored.conflicts[0].key, "id=2");
    assert_eq!(remaining(fixture, &child).await, [1, 3]);
}

async fn restore_does_not_depend_on_the_order_of_rows(fixture: &dyn Fixture) {
    let table = fresh("chain");
    let old = "'2001-01-01T00:00:00Z'";
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, up bigint REFERENCES {table} (id), at {}); \
             CREATE INDEX {table}_up ON {table} (up); INSERT INTO {table} VALUES (1, NULL, {old}), (2, 1, {old}), (3, 2, {old}), (4, NULL, {old})",
            fixture.instant()
        ))
        .await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    let mut rows = delete_all(fixture, &selection).await;
    rows.sort_by_key(|row| -number(&row[0]));
    // One row is in the way of another, and children come before their parents.
    fixture.execute(&format!("INSERT INTO {table} VALUES (4, NULL, NULL)")).await;
    let restored = restore(fixture, &layout(&selection.table), rows).await;
    assert_eq!((restored.rows, restored.conflicting), (3, 1), "{:?}", restored.conflicts);
    assert_eq!(remaining(fixture, &table).await, [1, 2, 3, 4]);
}

async fn restore_fills_identity_and_generated_columns(fixture: &dyn Fixture) {
    let table = fresh("numbered");
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id {}, size bigint, twice bigint GENERATED ALWAYS AS (size * 2) STORED, at {}); \
             INSERT INTO {table} (size, at) VALUES (5, '2001-01-01T00:00:00Z'), (6, '2031-01-01T00:00:00Z'), (7, '2001-01-01T00:00:00Z')",
            fixture.identity(),
            fixture.instant()
        ))
        .await;
    let columns = ["id", "size", "twice", "at"];
    let before = dump(fixture, &table, &columns, "id").await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    let rows = delete_all(fixture, &selection).await;
    assert_eq!(ids(&rows), [1, 3]);
    assert_eq!(restore(fixture, &layout(&selection.table), rows).await.rows, 2);
    assert_eq!(dump(fixture, &table, &columns, "id").await, before);
    fixture.execute(&format!("INSERT INTO {table} (size) VALUES (8)")).await;
    assert_eq!(
        remaining(fixture, &table).await,
        [1, 2, 3, 4],
        "the numbering goes on where it was"
    );
}

async fn the_scratch_proves_rows(fixture: &dyn Fixture) {
    let (table, selection) = aging(fixture, 1_000, 2).await;
    let (_, child, orphans) = family(fixture).await;
    let rows = resolve(fixture, &selection, &listed(fixture, &selection, 1_000).await).await;
    let others = resolve(fixture, &orphans, &listed(fixture, &orphans, 1_000).await).await;
    let mut scratch = fixture.target().scratch().await.expect("a scratch");
    for _ in 0..2 {
        assert_eq!(
            scratch.prove(&layout(&selection.table), rows.clone()).await.expect("a proof"),
            500
        );
        assert_eq!(
            scratch.prove(&layout(&orphans.table), others.clone()).await.expect("a proof"),
            2
        );
        assert_eq!(scratch.prove(&layout(&orphans.table), Vec::new()).await.expect("a proof"), 0);
    }
    assert_eq!(
        (count(fixture, &table).await, count(fixture, &child).await),
        (1_000, 6),
        "no table of anybody is touched"
    );
}

async fn the_scratch_finds_what_cannot_come_back(fixture: &dyn Fixture) {
    let layout = TableLayout {
        table: TableName::parse("nowhere"),
        columns: vec![("id".to_owned(), "bigint".to_owned()), ("note".to_owned(), "text".to_owned())],
        row_key: vec!["id".to_owned()],
        captured: Captured::Deleted,
    };
    let row = |id: &str| vec![Value::Text(id.into()), Value::Text(b"x".to_vec())];
    let good = || vec![fixture.integer(1), Value::Null];
    let mut scratch = fixture.target().scratch().await.expect("a scratch");
    // 007 is a number, but not the text of one that the database would write.
    assert_eq!(
        scratch
            .prove(&layout, vec![good(), row("007"), good()])
            .await
            .expect("a proof"),
        2
    );
    assert_eq!(
        scratch.prove(&layout, vec![good(), good()]).await.expect("a proof"),
        2,
        "keys are not part of the proof"
    );
}

async fn nasty_values_survive(fixture: &dyn Fixture) {
    let long = "long \u{2603} ".repeat(250_000);
    let texts = [
        "",
        " ",
        "  both  ",
        "a\nb\r\n\tc\u{8}\u{b}\u{c}",
        "\\",
        "\\N",
        "\\.",
        "\\x41",
        "a\\'b",
        "'",
        "''",
        "\"",
        "$$",
        "{}",
        "{NULL}",
        "NULL",
        "null",
        "%s %n",
        "$1 ? :a @b",
        "--",
        "/*",
        "; DROP TABLE x",
        "0",
        "007",
        "1e5",
        "0x10",
        "true",
        "2024-01-01",
        "\u{fc}\u{6f22}\u{1d11e}\u{202e}\u{200b}",
        "e\u{301}",
        "\u{feff}bom",
        "\u{1}\u{7f}\u{80}",
        "\u{fffd}\u{ffff}\u{10ffff}",
        &long,
    ];
    let extras = fixture.extra_values();
    let columns: Vec<String> = (0..extras.len()).map(|position| format!("x{position}")).collect();
    let declared: String = columns
        .iter()
        .zip(&extras)
        .map(|(name, (kind, _))| format!(", {name} {kind}"))
        .collect();
    let table = fresh("nasty");
    let (bytes, instant) = (fixture.bytes(), fixture.instant());
    fixture
        .execute(&format!(
            "CREATE TABLE {table} (id bigint NOT NULL PRIMARY KEY, t text, v varchar(3000000), n bigint, f double precision, d {bytes}, at {instant}{declared})"
        ))
        .await;
    let all_bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    for (id, text) in texts.iter().enumerate() {
        let text = literal(text);
        let data = fixture.bytes_literal(&all_bytes[..if id % 2 == 0 { id } else { all_bytes.len() }]);
        fixture
            .execute(&format!(
                "INSERT INTO {table} (id, t, v, n, f, d, at) VALUES ({id}, {text}, {text}, 9223372036854775807 - {id}, 0.1 * {id}, {data}, '2001-01-01T00:00:00.123Z')"
            ))
            .await;
    }
    fixture
        .execute(&format!(
            "INSERT INTO {table} (id, n, f, at) VALUES (1000, -9223372036854775807 - 1, 1e308, '2001-01-01T00:00:00Z'), \
             (1001, 0, -1.7976931348623157e308, '2001-01-01T00:00:00Z'), (1002, NULL, 2.2250738585072014e-308, '2001-01-01T00:00:00Z')"
        ))
        .await;
    if !extras.is_empty() {
        let values = extras.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(", ");
        fixture
            .execute(&format!(
                "INSERT INTO {table} (id, at, {}) VALUES (2000, '2001-01-01T00:00:00Z', {values})",
                columns.join(", ")
            ))
            .await;
    }
    let mut names = vec!["id", "t", "v", "n", "f", "d", "at"];
    names.extend(columns.iter().map(String::as_str));
    let before = dump(fixture, &table, &names, "id").await;
    let selection = select(
        &schema(fixture, &table).await,
        older_than(fixture, "at", "2020-01-01T00:00:00Z"),
    );
    let rows = delete_all(fixture, &selection).await;
    assert_eq!(rows.len(), before.len());
    let layout = layout(&selection.table);
    let proven = fixture
        .target()
        .scratch()
        .await
        .expect("a scratch")
        .prove(&layout, rows.clone())
        .await
        .expect("a proof");
    assert_eq!(proven, rows.len() as u64, "every row is proven");
    let restored = restore(fixture, &layout, rows).await;
    assert_eq!(
        (restored.rows, restored.conflicting),
        (before.len() as u64, 0),
        "{:?}",
        restored.conflicts
    );
    let after = dump(fixture, &table, &names, "id").await;
    for (before, after) in before.iter().zip(&after) {
        for ((name, before), after) in names.iter().zip(before).zip(after) {
            let shown = |value: &Option<String>| value.as_ref().map(|value| value.chars().take(200).collect::<String>());
            assert!(
                before == after,
                "column {name}: {:?} came back as {:?}",
                shown(before),
                shown(after)
            );
        }
    }
    assert_eq!(before.len(), after.len());
}
