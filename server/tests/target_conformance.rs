//! The conformance suite of the target port on every product, and on SQLite in both of its journal modes.

use std::sync::Arc;

use async_trait::async_trait;
use dbkeep_engine::{
    conformance::{
        migrator::migrator_conformance,
        target::{Fixture, target_conformance},
        values::values_conformance,
    },
    model::{ColumnSource, TableName, TimeEncoding, Value},
    port::Target,
};
use dbkeep_server::target;
use dbkeep_testkit::{Db, fresh_database};

struct Postgres {
    target: Arc<dyn Target>,
    db: Db,
}

#[async_trait]
impl Fixture for Postgres {
    fn target(&self) -> Arc<dyn Target> {
        Arc::clone(&self.target)
    }

    async fn execute(&self, sql: &str) {
        self.db
            .execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{error:#}: {}", &sql[..sql.len().min(2_000)]));
    }

    async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.db
            .fetch_text(sql)
            .await
            .unwrap_or_else(|error| panic!("{error:#}: {sql}"))
    }

    fn exact(&self, column: &str) -> String {
        // The oracle gets what the type's output function wrote.
        column.to_owned()
    }

    fn instant(&self) -> &'static str {
        "timestamptz"
    }

    fn instant_encoding(&self) -> Option<TimeEncoding> {
        None
    }

    fn bytes(&self) -> &'static str {
        "bytea"
    }

    fn bytes_literal(&self, bytes: &[u8]) -> String {
        format!("'\\x{}'", hex::encode(bytes))
    }

    fn identity(&self) -> &'static str {
        "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    }

    fn keyed(&self) -> &'static str {
        ""
    }

    fn trigger(&self, name: &str, event: &str, table: &str) -> String {
        let name = name.replace('"', "\"\"");
        format!(
            "CREATE OR REPLACE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN coalesce(OLD, NEW); END$$; \
             CREATE TRIGGER \"{name}\" {event} ON {table} FOR EACH ROW EXECUTE FUNCTION nothing()"
        )
    }

    fn integer(&self, number: i64) -> Value {
        Value::Text(number.to_string().into_bytes())
    }

    fn extra_values(&self) -> Vec<(&'static str, String)> {
        let values = [
            ("numeric", "'NaN'"),
            ("numeric(30,10)", "-0.0000000001"),
            ("double precision", "'-Infinity'"),
            ("double precision", "'5e-324'"),
            ("real", "0.1"),
            ("timestamptz", "'infinity'"),
            ("timestamptz", "'0044-03-15 12:00:00+00 BC'"),
            ("interval", "'-1 year 2 mons -3 days 04:05:06.789'"),
            ("text[]", "'[2:3][0:0]={{a},{NULL}}'"),
            ("json", "'{\"a\" :1,  \"a\":2}'"),
            ("jsonb", "'{\"b\":[1e3,null]}'"),
            ("char(5)", "'ab'"),
            ("bit varying", "B'0101'"),
        ];
        values.map(|(kind, value)| (kind, value.to_owned())).to_vec()
    }
}

struct Sqlite {
    target: Arc<dyn Target>,
    db: Db,
    _folder: tempfile::TempDir,
}

impl Sqlite {
    async fn open(journal_mode: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}/target.db", folder.path().display());
        let db = Db::open(&format!("{url}?mode=rwc")).await.expect("a database");
        let mode = db
            .fetch_text(&format!("PRAGMA journal_mode = {journal_mode}"))
            .await
            .expect("a journal mode");
        assert_eq!(mode[0][0].as_deref(), Some(journal_mode));
        Self {
            target: target::open(&url).expect("a target"),
            db,
            _folder: folder,
        }
    }
}

#[async_trait]
impl Fixture for Sqlite {
    fn target(&self) -> Arc<dyn Target> {
        Arc::clone(&self.target)
    }

    async fn execute(&self, sql: &str) {
        // ALTER TABLE trusts what a pooled connection knows of the schema; a look at the schema makes it read what others changed.
        self.db
            .execute(&format!("SELECT count(*) FROM sqlite_schema; {sql}"))
            .await
            .unwrap_or_else(|error| panic!("{error:#}: {}", &sql[..sql.len().min(2_000)]));
    }

    async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.db
            .fetch_text(sql)
            .await
            .unwrap_or_else(|error| panic!("{error:#}: {sql}"))
    }

    fn exact(&self, column: &str) -> String {
        format!(
            "typeof({column}) || ' ' || CASE WHEN typeof({column}) IN ('text', 'blob') THEN hex({column}) ELSE quote({column}) END"
        )
    }

    fn instant(&self) -> &'static str {
        "TEXT"
    }

    fn instant_encoding(&self) -> Option<TimeEncoding> {
        Some(TimeEncoding::TextUtc)
    }

    fn bytes(&self) -> &'static str {
        "BLOB"
    }

    fn bytes_literal(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex::encode(bytes))
    }

    fn identity(&self) -> &'static str {
        "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT"
    }

    fn keyed(&self) -> &'static str {
        " WITHOUT ROWID"
    }

    fn trigger(&self, name: &str, event: &str, table: &str) -> String {
        format!(
            "CREATE TRIGGER \"{}\" {event} ON {table} BEGIN SELECT 1; END",
            name.replace('"', "\"\"")
        )
    }

    fn integer(&self, number: i64) -> Value {
        Value::Integer(number)
    }

    fn extra_values(&self) -> Vec<(&'static str, String)> {
        let values = [
            ("", "'007'"),
            ("", "7"),
            ("", "7.0"),
            ("", "x'00'"),
            ("INTEGER", "'not a number'"),
            ("INTEGER", "0.5"),
            ("REAL", "9e999"),
            ("REAL", "5e-324"),
            ("BLOB", "'text in a blob column'"),
            ("TEXT", "x'ff00'"),
            ("BOOLEAN", "'true'"),
            ("DATETIME", "1700000000"),
            ("VARCHAR(3)", "'longer than declared'"),
            ("TEXT", "CAST(x'61ff0062' AS TEXT)"),
        ];
        values.map(|(kind, value)| (kind, value.to_owned())).to_vec()
    }
}

#[tokio::test]
async fn postgres_conforms() {
    let url = fresh_database("conformance").await.expect("a database");
    let fixture = Postgres {
        target: target::open(&url).expect("a target"),
        db: Db::open(&url).await.expect("a database"),
    };
    target_conformance(&fixture).await;
}

/// What shares the database with others counts and lists otherwise, and has to come to the same.
#[tokio::test]
async fn postgres_conforms_where_it_is_gentle() {
    let url = fresh_database("gentle").await.expect("a database");
    let target = target::open(&url).expect("a target");
    let fixture = Postgres {
        target: target.gentle().expect("it makes a difference on PostgreSQL"),
        db: Db::open(&url).await.expect("a database"),
    };
    target_conformance(&fixture).await;
}

#[tokio::test]
async fn sqlite_with_a_write_ahead_log_conforms() {
    target_conformance(&Sqlite::open("wal").await).await;
}

#[tokio::test]
async fn sqlite_with_a_rollback_journal_conforms() {
    target_conformance(&Sqlite::open("delete").await).await;
}

#[tokio::test]
async fn postgres_migrates() {
    let url = fresh_database("migrations").await.expect("a database");
    let fixture = Postgres {
        target: target::open(&url).expect("a target"),
        db: Db::open(&url).await.expect("a database"),
    };
    migrator_conformance(&fixture).await;
}

#[tokio::test]
async fn sqlite_migrates_with_a_write_ahead_log() {
    migrator_conformance(&Sqlite::open("wal").await).await;
}

#[tokio::test]
async fn sqlite_migrates_with_a_rollback_journal() {
    migrator_conformance(&Sqlite::open("delete").await).await;
}

#[tokio::test]
async fn postgres_brings_values() {
    let url = fresh_database("values").await.expect("a database");
    let fixture = Postgres {
        target: target::open(&url).expect("a target"),
        db: Db::open(&url).await.expect("a database"),
    };
    values_conformance(&fixture).await;
}

#[tokio::test]
async fn sqlite_brings_values() {
    values_conformance(&Sqlite::open("wal").await).await;
    values_conformance(&Sqlite::open("delete").await).await;
}

/// A column that does not tell upper from lower case refers to a file by either.
#[tokio::test]
async fn sqlite_keeps_to_the_collation_of_a_column() {
    let fixture = Sqlite::open("wal").await;
    fixture
        .execute(
            "CREATE TABLE r (id integer PRIMARY KEY, file text COLLATE NOCASE); INSERT INTO r VALUES (1, 'Photo.PNG'), (2, 'b')",
        )
        .await;
    let target = fixture.target();
    let table = target
        .introspect(&TableName::parse("r"))
        .await
        .expect("read")
        .expect("a table");
    let source = ColumnSource {
        table: Arc::new(table),
        column: "file".to_owned(),
        except: Vec::new(),
    };
    let wanted = ["a", "photo.png", "b", "Photo.PNG"].map(|name| name.as_bytes().to_vec());
    assert_eq!(target.holds(&source, &wanted).await.expect("an answer"), [1, 2, 3]);
}

/// What is stored as a BLOB, or with another spelling in its bytes, is read as the name that it is.
#[tokio::test]
async fn sqlite_takes_a_blob_for_the_name_in_it() {
    let fixture = Sqlite::open("wal").await;
    fixture
        .execute(
            "CREATE TABLE r (id integer PRIMARY KEY, file text); INSERT INTO r VALUES (1, x'612f62'), (2, x'612f2f63'), (3, 'd')",
        )
        .await;
    let target = fixture.target();
    let table = target
        .introspect(&TableName::parse("r"))
        .await
        .expect("read")
        .expect("a table");
    let source = ColumnSource {
        table: Arc::new(table),
        column: "file".to_owned(),
        except: Vec::new(),
    };
    let wanted = ["a/b", "a/c", "d"].map(|name| name.as_bytes().to_vec());
    assert_eq!(target.holds(&source, &wanted).await.expect("an answer"), [0, 2]);
    let mut indirect = target.indirect_values(&source, "a/").await.expect("a stream");
    assert_eq!(indirect.next().await.expect("a page"), [b"a//c".to_vec()]);
}
