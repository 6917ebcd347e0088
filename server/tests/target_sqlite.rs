//! Traps that only SQLite sets: values of any class in any column, text that is no text, rowids that hide, and one writer at a
//! time.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::sync::Arc;

use dbkeep_engine::{
    model::{
        ChildAction, ChildLink, Condition, Effect, Generated, Literal, Row, RowAction, RowKey, RunId, Selection, TableKind,
        TableName, TableSchema, TimeEncoding, Value,
    },
    port::{Archive, BatchTransaction, Claim, Restored, RowSink, SinkError, Target, TargetError, TargetErrorClass, Window},
    run::batch::{BatchAllowance, BatchOrder, layout, run_batch},
    testing::MemoryArchive,
};
use dbkeep_server::target;
use dbkeep_testkit::Db;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, SqliteConnection, sqlite::SqliteConnectOptions};

/// A file of one's own, the adapter on it, and the oracle beside it.
struct Lab {
    path: std::path::PathBuf,
    db: Db,
    target: Arc<dyn Target>,
    _folder: tempfile::TempDir,
}

#[derive(Default)]
struct Collector(Vec<Row>);

impl RowSink for Collector {
    fn row(&mut self, values: &[Value]) -> Result<(), SinkError> {
        self.0.push(values.to_vec());
        Ok(())
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Lab {
    async fn open(setup: &str) -> Self {
        Self::open_with(SqliteConnectOptions::new(), setup).await
    }

    async fn open_with(options: SqliteConnectOptions, setup: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target.db");
        run(
            &mut options.filename(&path).create_if_missing(true).connect().await.unwrap(),
            setup,
        )
        .await;
        let url = format!("sqlite://{}", path.display());
        Self {
            path,
            db: Db::open(&url).await.unwrap(),
            target: target::open(&url).unwrap(),
            _folder: folder,
        }
    }

    async fn execute(&self, sql: &str) {
        self.db.execute(sql).await.unwrap_or_else(|error| panic!("{error:#}: {sql}"));
    }

    async fn one(&self, sql: &str) -> String {
        self.db
            .fetch_text(sql)
            .await
            .unwrap_or_else(|error| panic!("{error:#}: {sql}"))[0][0]
            .clone()
            .unwrap_or_default()
    }

    /// A connection of somebody else, who does not enforce foreign keys, as SQLite does not by default.
    async fn session(&self) -> SqliteConnection {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .foreign_keys(false)
            .connect()
            .await
            .unwrap()
    }

    async fn schema(&self, table: &str) -> Arc<TableSchema> {
        let name = TableName {
            schema: None,
            name: table.to_owned(),
        };
        Arc::new(self.target.introspect(&name).await.unwrap().expect("the table exists"))
    }

    async fn orphans(&self, child: &str, columns: &[&str], parent: &str, parent_columns: &[&str]) -> Selection {
        let (columns, parent_columns) = (strings(columns), strings(parent_columns));
        let matches = Condition::ParentMissing {
            columns,
            parent: self.schema(parent).await,
            parent_columns,
            unfit: Vec::new(),
        };
        Selection {
            table: self.schema(child).await,
            matches,
            except: Vec::new(),
        }
    }

    async fn older(&self, table: &str, column: &str, horizon: &str, encoding: TimeEncoding) -> Selection {
        let (column, horizon, encoding) = (column.to_owned(), horizon.parse().unwrap(), Some(encoding));
        let matches = Condition::OlderThan {
            column,
            horizon,
            encoding,
            zone: Some("UTC".to_owned()),
        };
        Selection {
            table: self.schema(table).await,
            matches,
            except: Vec::new(),
        }
    }

    /// Rows whose column `at` lies before 2020.
    async fn expired(&self, table: &str) -> Selection {
        self.older(table, "at", "2020-01-01T00:00:00Z", TimeEncoding::TextUtc).await
    }

    async fn keys(&self, selection: &Selection) -> Vec<RowKey> {
        let mut scan = self.target.scan(selection, None, 3).await.unwrap();
        let mut keys = Vec::new();
        while let Some(window) = scan.next().await.unwrap() {
            keys.extend(window.keys);
        }
        keys
    }

    async fn claim(&self) -> Claim {
        let claim = Claim {
            run: RunId::new(),
            fence: 1,
        };
        self.target.claim(claim).await.unwrap();
        claim
    }

    async fn begin(&self, selection: &Selection) -> Box<dyn BatchTransaction> {
        self.target.begin(self.claim().await, &[&selection.table]).await.unwrap()
    }

    async fn delete_all(&self, selection: &Selection) -> Vec<Row> {
        let keys = self.keys(selection).await;
        assert_eq!(self.target.survey(selection, 2).await.unwrap().row_count, keys.len() as u64);
        let mut batch = self.begin(selection).await;
        let mut sink = Collector::default();
        let deleted = batch.delete(selection, &keys, Some(&mut sink)).await.unwrap();
        assert_eq!((deleted, deleted), (keys.len() as u64, sink.0.len() as u64));
        batch.commit().await.unwrap();
        sink.0
    }

    async fn restore(&self, selection: &Selection, rows: Vec<Row>) -> Restored {
        let mut batch = self.target.begin(self.claim().await, &[]).await.unwrap();
        let restored = batch.restore(&layout(&selection.table), rows).await.unwrap();
        batch.commit().await.unwrap();
        restored
    }

    async fn hash(&self, table: &str, order: &str) -> String {
        self.db.table_hash(table, order).await.unwrap()
    }

    /// Deletes, proves and restores; the table must be as before.
    async fn round_trip(&self, selection: &Selection, table: &str, order: &str) {
        let (before, count) = (
            self.hash(table, order).await,
            self.one(&format!("SELECT count(*) FROM {table}")).await,
        );
        let rows = self.delete_all(selection).await;
        assert_eq!(rows.len().to_string(), count, "everything is selected");
        assert_eq!(self.one(&format!("SELECT count(*) FROM {table}")).await, "0");
        let mut scratch = self.target.scratch().await.unwrap();
        assert_eq!(
            scratch.prove(&layout(&selection.table), rows.clone()).await.unwrap(),
            rows.len() as u64
        );
        let restored = self.restore(selection, rows.clone()).await;
        assert_eq!(
            (restored.rows, restored.conflicting),
            (rows.len() as u64, 0),
            "{:?}",
            restored.conflicts
        );
        assert_eq!(self.hash(table, order).await, before);
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

async fn run(session: &mut SqliteConnection, sql: &str) {
    session
        .execute(AssertSqlSafe(sql.to_owned()))
        .await
        .unwrap_or_else(|error| panic!("{error}: {sql}"));
}

/// Every kind of value that a file can hold.
const VALUES: &[&str] = &[
    "NULL",
    "0",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "0.0",
    "-0.0",
    "0.1",
    "1e15",
    "9007199254740993.0",
    "5e-324",
    "2.2250738585072009e-308",
    "1.7976931348623157e308",
    "9e999",
    "-9e999",
    "''",
    "'text'",
    "'007'",
    "'1e3'",
    "' 5 '",
    "'0x10'",
    "'inf'",
    "'NaN'",
    "'ünï ☃ 𝄞'",
    "CAST(x'610062' AS TEXT)",
    "CAST(x'00' AS TEXT)",
    "CAST(x'ff' AS TEXT)",
    "CAST(x'6180c0af00ff' AS TEXT)",
    "CAST(x'eda080' AS TEXT)",
    "x''",
    "x'00'",
    "x'ff00'",
    "x'313233'",
    "zeroblob(70000)",
];

// --- values

#[tokio::test]
async fn every_class_in_every_affinity_survives() {
    let lab = Lab::open(
        "CREATE TABLE v (id INTEGER PRIMARY KEY, at TEXT, none, i INTEGER, t TEXT, r REAL, n NUMERIC, b BLOB, d DATETIME, p POINT, \
           o BOOLEAN, a ANY, dec DECIMAL(10,5), f \"odd type; --\")",
    )
    .await;
    for value in VALUES {
        let values = [*value; 12].join(", ");
        lab.execute(&format!("INSERT INTO v SELECT NULL, '2001-01-01', {values}"))
            .await;
    }
    lab.round_trip(&lab.expired("v").await, "v", "id").await;
}

#[tokio::test]
async fn strict_tables_keep_their_own_rules() {
    let lab = Lab::open("CREATE TABLE s (id INTEGER PRIMARY KEY, at TEXT, a ANY, i INT, r REAL, b BLOB) STRICT").await;
    for value in VALUES {
        lab.execute(&format!("INSERT INTO s VALUES (NULL, '2001-01-01', {value}, 5, 1, x'00')"))
            .await;
    }
    lab.round_trip(&lab.expired("s").await, "s", "id").await;
}

#[tokio::test]
async fn bits_of_a_number_are_captured() {
    let lab = Lab::open("CREATE TABLE f (id INTEGER PRIMARY KEY, at TEXT, x); INSERT INTO f VALUES (1, '2001-01-01', 5e-324), (2, '2001-01-01', -0.0)").await;
    let mut rows = lab.delete_all(&lab.expired("f").await).await;
    rows.sort_by_key(|row| format!("{:?}", row[0]));
    let bits: Vec<_> = rows
        .iter()
        .map(|row| {
            if let Value::Real(real) = row[2] {
                real.to_bits()
            } else {
                panic!("{row:?}")
            }
        })
        .collect();
    assert_eq!(bits[0], 1);
    assert_eq!(bits[1] << 1, 0, "a zero");
}

#[tokio::test]
async fn keys_of_any_class_find_their_rows() {
    // The primary key alone addresses a row here, in a column without affinity.
    let lab = Lab::open(
        "CREATE TABLE k (key NOT NULL, part TEXT NOT NULL COLLATE NOCASE, at TEXT, PRIMARY KEY (part, key)) WITHOUT ROWID",
    )
    .await;
    for value in VALUES.iter().filter(|value| {
        !matches!(
            **value,
            "NULL" | "CAST(x'ff' AS TEXT)" | "CAST(x'6180c0af00ff' AS TEXT)" | "CAST(x'eda080' AS TEXT)"
        )
    }) {
        lab.execute(&format!(
            "INSERT OR IGNORE INTO k VALUES ({value}, 'A', '2001-01-01'), ({value}, 'b', '2001-01-01')"
        ))
        .await;
    }
    let selection = lab.expired("k").await;
    assert_eq!(selection.table.row_key, ["part", "key"]);
    lab.round_trip(&selection, "k", "part, key").await;
    // Text that is no UTF-8, in a column of type text.
    lab.execute(
        "CREATE TABLE b (key TEXT PRIMARY KEY, at TEXT) WITHOUT ROWID; INSERT INTO b VALUES (CAST(x'ff' AS TEXT), '2001-01-01'), \
         (CAST(x'61ff00' AS TEXT), '2001-01-01'), ('a', '2001-01-01'), ('', '2001-01-01'), (CAST(x'6100' AS TEXT), '2001-01-01'), (x'ff', '2001-01-01')",
    )
    .await;
    lab.round_trip(&lab.expired("b").await, "b", "key").await;
}

#[tokio::test]
async fn text_of_a_database_in_utf_16_survives() {
    for encoding in ["UTF-16le", "UTF-16be"] {
        let lab = Lab::open_with(
            SqliteConnectOptions::new().pragma("encoding", format!("'{encoding}'")),
            "CREATE TABLE u (id TEXT PRIMARY KEY, at TEXT, x); INSERT INTO u VALUES \
             ('a', '2001-01-01', 'plain'), ('ünï', '2001-01-01', '☃ 𝄞'), ('', '2001-01-01', x'6100')",
        )
        .await;
        assert_eq!(lab.one("PRAGMA encoding").await, encoding);
        let selection = lab.expired("u").await;
        let rows = lab.delete_all(&selection).await;
        let text = |text: &str| Value::Text(text.as_bytes().to_vec());
        assert!(
            rows.contains(&vec![text("ünï"), text("2001-01-01"), text("☃ 𝄞")]),
            "{encoding}: {rows:?}"
        );
        lab.restore(&selection, rows).await;
        lab.round_trip(&selection, "u", "id").await;
    }
}

// --- tables

#[tokio::test]
async fn a_column_may_be_called_rowid() {
    let lab = Lab::open(
        "CREATE TABLE r (rowid TEXT, at TEXT, _rowid_ INT); INSERT INTO r VALUES ('z', '2001-01-01', 1), ('y', '2001-01-01', 1), ('z', '2031-01-01', 1), \
           (NULL, '2001-01-01', 1); \
         CREATE TABLE all_names (rowid TEXT, _rowid_ TEXT, oid TEXT, at TEXT); INSERT INTO all_names VALUES ('a', 'b', 'c', '2001-01-01'); \
         CREATE TABLE alias (oid INTEGER PRIMARY KEY, rowid TEXT, at TEXT); INSERT INTO alias VALUES (7, 'x', '2001-01-01'), (-3, 'w', '2001-01-01')",
    )
    .await;
    let selection = lab.expired("r").await;
    assert_eq!(selection.table.row_key, ["oid"]);
    let rows = lab.delete_all(&selection).await;
    assert_eq!(rows.len(), 3);
    assert_eq!(lab.one("SELECT group_concat(\"at\") FROM r").await, "2031-01-01");
    assert_eq!(
        lab.target
            .scratch()
            .await
            .unwrap()
            .prove(&layout(&selection.table), rows.clone())
            .await
            .unwrap(),
        3
    );
    assert_eq!(lab.restore(&selection, rows).await.rows, 3);
    assert!(lab.schema("all_names").await.row_key.is_empty(), "nothing addresses its rows");
    lab.round_trip(&lab.expired("alias").await, "alias", "oid").await;
}

#[tokio::test]
async fn tables_without_a_key_are_addressed_by_rowid() {
    let lab = Lab::open("CREATE TABLE k (a, at TEXT); INSERT INTO k VALUES (1, '2001-01-01'), (1, '2001-01-01'), (1, '2001-01-01'), (1, '2031-01-01')").await;
    let selection = lab.expired("k").await;
    assert_eq!(
        (selection.table.primary_key.len(), selection.table.row_key.as_slice()),
        (0, &["rowid".to_owned()][..])
    );
    let keys = lab.keys(&selection).await;
    let mut batch = lab.begin(&selection).await;
    assert_eq!(
        batch.delete(&selection, &keys[1..2], None).await.unwrap(),
        1,
        "one of three equal rows"
    );
    batch.commit().await.unwrap();
    assert_eq!(lab.one("SELECT group_concat(rowid) FROM k").await, "1,3,4");
}

#[tokio::test]
async fn names_are_found_as_sqlite_finds_them() {
    let lab = Lab::open("CREATE TABLE Mixed (Id INTEGER PRIMARY KEY, At TEXT); CREATE VIRTUAL TABLE words USING fts5(body); CREATE TABLE child (m REFERENCES MIXED)").await;
    assert_eq!(lab.schema("mixed").await.name.name, "Mixed");
    assert_eq!(lab.schema("mixed").await.incoming[0].child.name, "child");
    assert_eq!(lab.schema("words").await.kind, TableKind::Foreign);
    let name = |schema: &str| TableName {
        schema: Some(schema.to_owned()),
        name: "Mixed".to_owned(),
    };
    assert!(lab.target.introspect(&name("main")).await.unwrap().is_some());
    refused(lab.target.introspect(&name("other")).await, TargetErrorClass::Unsupported);
    lab.execute("CREATE TABLE g (id INTEGER PRIMARY KEY, v INT AS (id + 1), s INT AS (id + 2) STORED)")
        .await;
    let generated: Vec<_> = lab.schema("g").await.columns.iter().map(|column| column.generated).collect();
    assert_eq!(generated, [Generated::No, Generated::Yes, Generated::Yes]);
}

// --- times

#[tokio::test]
async fn only_what_is_certainly_a_time_before_the_horizon_expires() {
    let lab = Lab::open("CREATE TABLE t (id INTEGER PRIMARY KEY, at)").await;
    // The horizon is 2024-03-31T01:00:00.500Z.
    let gone = [
        "'2024-03-31 01:00:00'",
        "'2024-03-31T01:00:00.499Z'",
        "'2024-03-31'",
        "'2024-03-31 01:00'",
        "'2024-03-31T03:00:00+02:00'",
        "'2024-03-30T23:00:00.4-02:00'",
        "'0001-01-01'",
        "'2024-03-31T14:59:59+14:00'",
        "'2024-03-30T13:00:00-12:00'",
    ];
    let kept = [
        "'2024-03-31 01:00:00.500'",
        "'2024-03-31T01:00:00.501Z'",
        "'2024-03-31T01:01Z'",
        "'2024-03-31T03:00:00.6+02:00'",
        "'2024-03-30T13:00:01-12:00'",
        "'9999-12-31'",
        "NULL",
        "''",
        "'never'",
        "'now'",
        "'12:00'",
        "'2024'",
        "'10'",
        "'1700000000'",
        "'2460000.5'",
        "'2024-3-1'",
        "'2024-13-01'",
        "'2023-01-01 25:00'",
        "'2023-01-01 nonsense'",
        "'20230101'",
        "'-2023-01-01'",
        "' 2023-01-01'",
        "0",
        "1700000000",
        "2460000.5",
        "-1",
        "x'323032332d30312d3031'",
        "CAST(x'323032332d30312d3031ff' AS TEXT)",
    ];
    for value in gone.iter().chain(&kept) {
        lab.execute(&format!("INSERT INTO t (at) VALUES ({value})")).await;
    }
    let rows = lab
        .delete_all(&lab.older("t", "at", "2024-03-31T01:00:00.500Z", TimeEncoding::TextUtc).await)
        .await;
    let mut taken: Vec<_> = rows
        .iter()
        .map(|row| if let Value::Integer(id) = row[0] { id } else { 0 })
        .collect();
    taken.sort_unstable();
    let mut expected: Vec<_> = (1..=i64::try_from(gone.len()).unwrap()).collect();
    // Hours of an offset end at 14, so that this one is no time to SQLite.
    expected.retain(|id| taken.contains(id) || gone[usize::try_from(*id - 1).unwrap()] != "'2024-03-31T14:59:59+14:00'");
    assert_eq!(taken, expected);
}

#[tokio::test]
async fn an_epoch_of_another_class_never_expires() {
    let lab = Lab::open(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, at); INSERT INTO t VALUES (1, 1700000000), (2, '1700000000'), (3, x'31'), (4, NULL), (5, 1700000000.25), \
         (6, 1700000001), (7, 1700000000.75), (8, '2001-01-01'), (9, 9e999), (10, 1700000000.5)",
    )
    .await;
    let selection = lab
        .older("t", "at", "2023-11-14T22:13:20.500Z", TimeEncoding::UnixSeconds)
        .await;
    lab.delete_all(&selection).await;
    assert_eq!(lab.one("SELECT group_concat(id) FROM t").await, "2,3,4,6,7,8,9,10");
}

// --- orphans

#[tokio::test]
async fn parents_are_compared_as_foreign_keys_are() {
    let lab = Lab::open(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, code TEXT COLLATE NOCASE UNIQUE); INSERT INTO p VALUES (1, 'Abc'), (2, NULL); \
         CREATE TABLE c (id INTEGER PRIMARY KEY, up, code TEXT); INSERT INTO c VALUES (1, 1, 'ABC'), (2, '1', 'abd'), (3, 1.0, NULL), (4, 'x', ''), (5, NULL, 'aBC'), (6, x'31', 'x')",
    )
    .await;
    let ids = async |selection: Selection| {
        let keys = lab.keys(&selection).await;
        let mut batch = lab.begin(&selection).await;
        let mut sink = Collector::default();
        batch.delete(&selection, &keys, Some(&mut sink)).await.unwrap();
        batch.rollback().await;
        let mut ids: Vec<_> = sink.0.iter().map(|row| row[0].preview(9).unwrap()).collect();
        ids.sort();
        ids.join(" ")
    };
    assert_eq!(ids(lab.orphans("c", &["up"], "p", &["id"]).await).await, "4 6");
    assert_eq!(ids(lab.orphans("c", &["code"], "p", &["code"]).await).await, "2 4 6");
}

// --- foreign keys

#[tokio::test]
async fn foreign_keys_are_enforced_whatever_the_application_does() {
    let lab = Lab::open(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, at TEXT); CREATE TABLE c (id INTEGER PRIMARY KEY, up INTEGER REFERENCES p (id)); \
         INSERT INTO p VALUES (1, '2001-01-01'), (2, '2001-01-01'); INSERT INTO c VALUES (1, 1)",
    )
    .await;
    let selection = lab.expired("p").await;
    let keys = lab.keys(&selection).await;
    let mut batch = lab.begin(&selection).await;
    refused(batch.delete(&selection, &keys, None).await, TargetErrorClass::Constraint);
    batch.rollback().await;
    assert_eq!(lab.one("SELECT count(*) FROM p").await, "2");
    // Orphans of a declared key can be deleted; while their parent is missing they cannot come back.
    let mut careless = lab.session().await;
    run(&mut careless, "INSERT INTO c VALUES (2, 9), (3, 8)").await;
    let orphans = lab.orphans("c", &["up"], "p", &["id"]).await;
    let rows = lab.delete_all(&orphans).await;
    assert_eq!(rows.len(), 2);
    lab.execute("INSERT INTO p VALUES (9, NULL)").await;
    let restored = lab.restore(&orphans, rows).await;
    assert_eq!(
        (restored.rows, restored.conflicting, restored.conflicts[0].key.as_str()),
        (1, 1, "id=3")
    );
    assert!(restored.conflicts[0].reason.contains("FOREIGN KEY"));
}

#[tokio::test]
async fn a_deferred_key_refuses_at_the_commit() {
    let lab = Lab::open(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, at TEXT); CREATE TABLE c (id INTEGER PRIMARY KEY, up INTEGER REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED); \
         INSERT INTO p VALUES (1, '2001-01-01'), (2, '2001-01-01'); INSERT INTO c VALUES (1, 1)",
    )
    .await;
    let selection = lab.expired("p").await;
    let keys = lab.keys(&selection).await;
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 2);
    let error = refused(batch.commit().await, TargetErrorClass::Constraint);
    assert!(!error.is_retryable());
    assert_eq!(lab.one("SELECT count(*) FROM p").await, "2", "all of it is taken back");
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys[1..], None).await.unwrap(), 1);
    batch.commit().await.unwrap();
    assert_eq!(lab.one("SELECT count(*) FROM p").await, "1");
}

#[tokio::test]
async fn conflict_clauses_of_a_table_do_not_overwrite_rows() {
    let lab = Lab::open(
        "CREATE TABLE u (id INTEGER PRIMARY KEY ON CONFLICT REPLACE, code TEXT UNIQUE ON CONFLICT REPLACE, at TEXT NOT NULL ON CONFLICT IGNORE); \
         INSERT INTO u VALUES (1, 'a', '2001-01-01'), (2, 'b', '2001-01-01'), (3, 'c', '2001-01-01')",
    )
    .await;
    let selection = lab.expired("u").await;
    let rows = lab.delete_all(&selection).await;
    lab.execute("INSERT INTO u VALUES (1, 'new', '2031-01-01'), (9, 'b', '2031-01-01')")
        .await;
    let restored = lab.restore(&selection, rows).await;
    assert_eq!((restored.rows, restored.conflicting), (1, 2));
    assert_eq!(
        lab.one("SELECT group_concat(id || code) FROM (SELECT * FROM u ORDER BY id)")
            .await,
        "1new,3c,9b"
    );
}

// --- locks

#[tokio::test]
async fn a_competing_writer_makes_a_lock_timeout() {
    for mode in ["wal", "delete"] {
        let lab = Lab::open("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO t VALUES (1, '2001-01-01')").await;
        assert_eq!(lab.one(&format!("PRAGMA journal_mode = {mode}")).await, mode);
        let selection = lab.expired("t").await;
        let (claim, keys) = (lab.claim().await, lab.keys(&selection).await);
        let mut writer = lab.session().await;
        run(&mut writer, "BEGIN IMMEDIATE; UPDATE t SET at = '2001-01-02'").await;
        let error = refused(
            lab.target.begin(claim, &[&selection.table]).await,
            TargetErrorClass::LockTimeout,
        );
        assert!(error.is_retryable(), "{mode}");
        run(&mut writer, "COMMIT").await;
        let mut batch = lab.target.begin(claim, &[&selection.table]).await.unwrap();
        assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 1);
        batch.rollback().await;
    }
}

#[tokio::test]
async fn a_reader_that_blocks_the_commit_makes_a_lock_timeout() {
    // Without a write-ahead log a commit waits for readers.
    let lab = Lab::open("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO t VALUES (1, '2001-01-01')").await;
    let selection = lab.expired("t").await;
    let (claim, keys) = (lab.claim().await, lab.keys(&selection).await);
    let mut reader = lab.session().await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM t").await;
    let mut batch = lab.target.begin(claim, &[&selection.table]).await.unwrap();
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 1);
    assert!(refused(batch.commit().await, TargetErrorClass::LockTimeout).is_retryable());
    run(&mut reader, "ROLLBACK").await;
    assert_eq!(lab.one("SELECT count(*) FROM t").await, "1", "all of it is taken back");
    let mut batch = lab.target.begin(claim, &[&selection.table]).await.unwrap();
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 1);
    batch.commit().await.unwrap();
    assert_eq!(lab.one("SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn a_batch_that_is_dropped_lets_the_next_writer_in() {
    let lab = Lab::open("CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT); INSERT INTO t VALUES (1, '2001-01-01')").await;
    let selection = lab.expired("t").await;
    let keys = lab.keys(&selection).await;
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.delete(&selection, &keys, None).await.unwrap(), 1);
    drop(batch);
    lab.execute("INSERT INTO t VALUES (2, '2031-01-01')").await;
    assert_eq!(lab.one("SELECT group_concat(id) FROM t").await, "1,2");
}

#[tokio::test]
async fn a_missing_or_broken_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let missing = target::open(&format!("sqlite://{}/missing.db", folder.path().display())).unwrap();
    refused(missing.status().await, TargetErrorClass::Lost);
    assert!(!folder.path().join("missing.db").exists(), "a target is never made");
    std::fs::write(
        folder.path().join("broken.db"),
        "this is no database, whatever its name says".repeat(100),
    )
    .unwrap();
    let broken = target::open(&format!("sqlite://{}/broken.db", folder.path().display())).unwrap();
    assert!(broken.status().await.is_err());
    for url in ["sqlite::memory:", "sqlite://", "sqlite://x.db?mode=memory", "mysql://x", ""] {
        assert!(target::open(url).is_err(), "{url}");
    }
}

// --- keys of the database

const KEYED: &str = "CREATE TABLE p (id INTEGER PRIMARY KEY, at TEXT, up INTEGER REFERENCES p ON DELETE SET NULL); \
     CREATE TABLE c (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p ON DELETE CASCADE); \
     CREATE TABLE n (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p ON DELETE SET NULL); \
     INSERT INTO p VALUES (1, '2001-01-01', NULL), (2, '2001-01-01', 1), (3, '2001-01-01', 2), (4, '2031-01-01', NULL); \
     INSERT INTO c VALUES (1, 1), (2, 1), (3, 4); INSERT INTO n VALUES (1, 2), (2, 4)";

fn numbers(numbers: &[i64]) -> Vec<RowKey> {
    numbers.iter().map(|number| vec![Value::Integer(*number)]).collect()
}

#[tokio::test]
async fn what_a_key_takes_along_unheld_takes_the_batch_back() {
    let lab = Lab::open(KEYED).await;
    let selection = lab.expired("p").await;
    let to_null = [("p".to_owned(), None::<Literal>)];
    for (held_c, held_n) in [(false, true), (true, false), (true, true)] {
        let mut batch = lab.begin(&selection).await;
        if held_c {
            assert_eq!(batch.remove(&*lab.schema("c").await, &numbers(&[1, 2])).await.unwrap(), 2);
        }
        if held_n {
            let assigned = batch.assign(&*lab.schema("n").await, &numbers(&[1]), &to_null).await;
            assert_eq!(assigned.unwrap(), [[Value::Null]]);
        }
        let removed = batch.remove(&selection.table, &numbers(&[1, 2, 3])).await;
        if held_c && held_n {
            assert_eq!(removed.unwrap(), 3, "rows of one table that name one another are no surplus");
        } else {
            let error = refused(removed, TargetErrorClass::Refused);
            assert!(error.message.contains("more than were captured"), "{error}");
        }
        batch.rollback().await;
        assert_eq!(
            lab.one("SELECT (SELECT count(*) FROM p) || (SELECT count(*) FROM c) || (SELECT count(p) FROM n)")
                .await,
            "432"
        );
    }
}

#[tokio::test]
async fn what_a_key_changes_along_takes_the_batch_back() {
    let lab = Lab::open(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, at TEXT, code TEXT UNIQUE); CREATE TABLE c (code TEXT REFERENCES p (code) ON UPDATE CASCADE); \
         INSERT INTO p VALUES (1, '2001-01-01', 'a'), (2, '2001-01-01', 'b'); INSERT INTO c VALUES ('a')",
    )
    .await;
    let selection = lab.expired("p").await;
    for (id, named) in [(1, true), (2, false)] {
        let mut batch = lab.begin(&selection).await;
        let code = [("code".to_owned(), Some(Literal::Text("z".to_owned())))];
        let assigned = batch.assign(&selection.table, &numbers(&[id]), &code).await;
        assert_eq!(assigned.is_err(), named, "{assigned:?}");
        batch.rollback().await;
    }
}

#[tokio::test]
async fn what_a_trigger_writes_is_not_taken_for_a_key() {
    let lab = Lab::open(&format!(
        "{KEYED}; CREATE TABLE log (id); CREATE TRIGGER gone AFTER DELETE ON c BEGIN INSERT INTO log VALUES (OLD.id); END"
    ))
    .await;
    let selection = lab.expired("p").await;
    let mut batch = lab.begin(&selection).await;
    assert_eq!(batch.remove(&*lab.schema("c").await, &numbers(&[1, 2])).await.unwrap(), 2);
    batch.commit().await.unwrap();
    assert_eq!(lab.one("SELECT count(*) FROM log").await, "2");
}

/// A plan is blocked by such rows; this one has come since.
#[tokio::test]
async fn a_row_without_a_key_takes_the_batch_back() {
    let lab = Lab::open(
        "CREATE TABLE p (id INTEGER PRIMARY KEY, at TEXT); CREATE TABLE c (id TEXT PRIMARY KEY, p INTEGER REFERENCES p ON DELETE CASCADE); \
         CREATE INDEX c_p ON c (p); INSERT INTO p VALUES (1, '2001-01-01'); INSERT INTO c VALUES ('a', 1), (NULL, 1), (NULL, 1)",
    )
    .await;
    let selection = lab.expired("p").await;
    let archive: Arc<dyn Archive> = Arc::new(MemoryArchive::default());
    for action in [ChildAction::Delete, ChildAction::SetNull] {
        let link = ChildLink {
            name: "c(p)".to_owned(),
            parent: Arc::clone(&selection.table),
            parent_columns: strings(&["id"]),
            child: lab.schema("c").await,
            child_columns: strings(&["p"]),
            null_columns: strings(&["p"]),
            action,
            except: Vec::new(),
        };
        let window = Window {
            keys: lab.keys(&selection).await,
            cursor: String::new(),
            examined: 1,
            fraction: 1.0,
        };
        let order = BatchOrder {
            claim: lab.claim().await,
            step: 0,
            batch: 1,
            pass: 1,
            selection: &selection,
            window: &window,
            examined: 1,
            effect: &Effect {
                action: RowAction::Delete,
                children: vec![link],
            },
            still: &[],
            budget: 100,
            allowance: BatchAllowance {
                along: 100,
                touched: 100,
                tables: Vec::new(),
                elsewhere: 100,
                shares: Vec::new(),
            },
            capture: true,
        };
        let error = refused(
            run_batch(lab.target.as_ref(), &archive, &order).await,
            TargetErrorClass::Refused,
        );
        assert!(error.message.starts_with("NULL_PRIMARY_KEY"), "{error}");
        assert_eq!(lab.one("SELECT (SELECT count(*) FROM p) || count(p) FROM c").await, "13");
    }
}
