//! The oracle: owns what a test believes about a database, read with raw SQL over connections of its own.
//!
//! Tables, orders and predicates are pieces of SQL, pasted as they are: the caller quotes, and nothing here is for input that
//! a test did not write itself.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Column, PgPool, Row, SqlitePool, TypeInfo, ValueRef};

/// Sessions in which a value has one text form, whatever the server, the role and the database are set to.
const PINNED: [(&str, &str); 6] = [
    ("datestyle", "ISO"),
    ("intervalstyle", "postgres"),
    ("timezone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    // An oracle that a policy blinds must fail, not see fewer rows.
    ("row_security", "off"),
];

/// A database as the tests see it. Cloning shares the pool.
#[derive(Debug, Clone)]
pub enum Db {
    /// PostgreSQL.
    Postgres(PgPool),
    /// SQLite, with foreign keys enforced.
    Sqlite(SqlitePool),
}

impl Db {
    /// Opens `postgres://..` or `sqlite:..`; a SQLite file is made only if the URL ends in `?mode=rwc`. The pool belongs to the
    /// runtime, so to the test, that opens it.
    ///
    /// # Errors
    /// When the URL is of another kind, or the database cannot be reached.
    pub async fn open(url: &str) -> Result<Self> {
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            let options = PgConnectOptions::from_str(url)?.options(PINNED);
            Ok(Self::Postgres(
                PgPoolOptions::new()
                    .max_connections(5)
                    .connect_with(options)
                    .await
                    .with_context(|| url.to_owned())?,
            ))
        } else if url.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(url)?.busy_timeout(Duration::from_secs(30));
            Ok(Self::Sqlite(
                SqlitePoolOptions::new()
                    .max_connections(5)
                    .connect_with(options)
                    .await
                    .with_context(|| url.to_owned())?,
            ))
        } else {
            bail!("neither postgres:// nor sqlite: {url}")
        }
    }

    /// SHA-256, in hex, over every row and every column of `table` in a lossless text form, in the order of `order_by`, which
    /// must put the rows in one order only (the key). Two tables with the same hash have the same values, of the same types on
    /// SQLite, where each value has its own. Memory does not grow with the rows.
    ///
    /// # Errors
    /// When the SQL fails.
    pub async fn table_hash(&self, table: &str, order_by: &str) -> Result<String> {
        let mut hash = Sha256::new();
        match self {
            Self::Postgres(pool) => {
                // A row's text form tells NULL from '' and quotes what it must: one value, nothing lost.
                let sql = format!("SELECT whole::text FROM {table} AS whole ORDER BY {order_by}");
                let mut rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch(pool);
                while let Some(row) = rows.try_next().await? {
                    add(&mut hash, postgres_text(&row, 0)?.as_deref());
                }
            }
            Self::Sqlite(pool) => {
                // The columns' names come from a row: without one there is nothing to hash.
                let first = sqlx::raw_sql(AssertSqlSafe(format!("SELECT * FROM {table} LIMIT 1")))
                    .fetch_optional(pool)
                    .await?;
                let Some(first) = first else {
                    return Ok(hex::encode(hash.finalize()));
                };
                let columns: Vec<_> = first
                    .columns()
                    .iter()
                    .map(|column| {
                        let name = format!("\"{}\"", column.name().replace('"', "\"\""));
                        // quote() stops at a NUL character in a text; hex() does not.
                        format!("typeof({name}) || CASE WHEN typeof({name}) IN ('text', 'blob') THEN hex({name}) ELSE quote({name}) END")
                    })
                    .collect();
                let sql = format!("SELECT {} FROM {table} ORDER BY {order_by}", columns.join(", "));
                let mut rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch(pool);
                while let Some(row) = rows.try_next().await? {
                    for index in 0..columns.len() {
                        add(&mut hash, Some(row.try_get_unchecked(index)?));
                    }
                }
            }
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// How many rows `table` has.
    ///
    /// # Errors
    /// When the SQL fails.
    pub async fn count(&self, table: &str) -> Result<u64> {
        self.count_where(table, "true").await
    }

    /// How many rows of `table` satisfy `predicate`.
    ///
    /// # Errors
    /// When the SQL fails.
    pub async fn count_where(&self, table: &str, predicate: &str) -> Result<u64> {
        let sql = AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE {predicate}"));
        let count: i64 = match self {
            Self::Postgres(pool) => sqlx::query_scalar(sql).persistent(false).fetch_one(pool).await?,
            Self::Sqlite(pool) => sqlx::query_scalar(sql).persistent(false).fetch_one(pool).await?,
        };
        Ok(u64::try_from(count)?)
    }

    /// Runs one or more statements; returns how many rows they changed in all.
    ///
    /// # Errors
    /// When one fails; on PostgreSQL none of them has an effect then, on SQLite those before it do.
    pub async fn execute(&self, sql: &str) -> Result<u64> {
        let statements = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        Ok(match self {
            Self::Postgres(pool) => statements.execute(pool).await?.rows_affected(),
            Self::Sqlite(pool) => statements.execute(pool).await?.rows_affected(),
        })
    }

    /// Every row and column of a query as text, `None` for NULL; bytes are `\x` and hex on both databases.
    ///
    /// # Errors
    /// When the SQL fails.
    pub async fn fetch_text(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match self {
            Self::Postgres(pool) => {
                let rows = query.fetch_all(pool).await?;
                rows.iter()
                    .map(|row| (0..row.len()).map(|index| postgres_text(row, index)).collect())
                    .collect()
            }
            Self::Sqlite(pool) => {
                let rows = query.fetch_all(pool).await?;
                rows.iter()
                    .map(|row| (0..row.len()).map(|index| sqlite_text(row, index)).collect())
                    .collect()
            }
        }
    }

    /// Closes every connection, so that the file can be moved or the database be a template.
    pub async fn close(self) {
        match self {
            Self::Postgres(pool) => pool.close().await,
            Self::Sqlite(pool) => pool.close().await,
        }
    }
}

/// One field of the hash; the length keeps neighbours apart.
fn add(hash: &mut Sha256, field: Option<&str>) {
    match field {
        Some(text) => {
            hash.update(text.len().to_be_bytes());
            hash.update(text);
        }
        None => hash.update(u64::MAX.to_be_bytes()),
    }
}

/// A value as the server wrote it: raw SQL is answered in the text format, whatever the type.
fn postgres_text(row: &PgRow, index: usize) -> Result<Option<String>> {
    let value = row.try_get_raw(index)?;
    if value.is_null() {
        return Ok(None);
    }
    Ok(Some(value.as_str().map_err(anyhow::Error::from_boxed)?.to_owned()))
}

/// A value by its own type, since a column does not decide it.
fn sqlite_text(row: &SqliteRow, index: usize) -> Result<Option<String>> {
    let value = row.try_get_raw(index)?;
    if value.is_null() {
        return Ok(None);
    }
    let kind = value.type_info().name().to_owned();
    Ok(Some(match kind.as_str() {
        "INTEGER" => row.try_get_unchecked::<i64, _>(index)?.to_string(),
        "REAL" => row.try_get_unchecked::<f64, _>(index)?.to_string(),
        "BLOB" => format!("\\x{}", hex::encode(row.try_get_unchecked::<Vec<u8>, _>(index)?)),
        _ => row.try_get_unchecked(index)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fresh_database;

    /// Changes `table` by each statement, and back, and expects the hash to follow.
    async fn hash_follows(db: &Db, table: &str, changes: &[(&str, &str)]) {
        let before = db.table_hash(table, "id").await.unwrap();
        assert_eq!(before.len(), 64);
        let mut seen = vec![before.clone()];
        for (change, back) in changes {
            db.execute(change).await.unwrap();
            let hash = db.table_hash(table, "id").await.unwrap();
            assert!(!seen.contains(&hash), "{change}");
            seen.push(hash);
            db.execute(back).await.unwrap();
            assert_eq!(db.table_hash(table, "id").await.unwrap(), before, "{back}");
        }
    }

    #[tokio::test]
    async fn postgres_hash_sees_every_value() {
        let db = Db::open(&fresh_database("oracle").await.unwrap()).await.unwrap();
        db.execute(
            "CREATE TYPE mood AS ENUM ('fine', 'bad');
             CREATE TABLE \"Or der\" (id bigint PRIMARY KEY, f double precision, n numeric, t text, b bytea, at timestamptz, a int[], m mood);
             INSERT INTO \"Or der\" VALUES (1, 0.1, 1.0, '', '\\x00', '2024-03-31 02:30+02', '{1,NULL}', 'fine'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        )
        .await
        .unwrap();
        hash_follows(
            &db,
            "\"Or der\"",
            &[
                (
                    "UPDATE \"Or der\" SET f = 0.1 + 1e-17 + 2e-17 WHERE id = 1",
                    "UPDATE \"Or der\" SET f = 0.1 WHERE id = 1",
                ),
                (
                    "UPDATE \"Or der\" SET n = 1.00 WHERE id = 1",
                    "UPDATE \"Or der\" SET n = 1.0 WHERE id = 1",
                ),
                (
                    "UPDATE \"Or der\" SET t = NULL WHERE id = 1",
                    "UPDATE \"Or der\" SET t = '' WHERE id = 1",
                ),
                (
                    "UPDATE \"Or der\" SET t = '' WHERE id = 2",
                    "UPDATE \"Or der\" SET t = NULL WHERE id = 2",
                ),
                (
                    "UPDATE \"Or der\" SET b = '\\x0000' WHERE id = 1",
                    "UPDATE \"Or der\" SET b = '\\x00' WHERE id = 1",
                ),
                (
                    "UPDATE \"Or der\" SET at = at + '1 us' WHERE id = 1",
                    "UPDATE \"Or der\" SET at = at - interval '1 us' WHERE id = 1",
                ),
                (
                    "UPDATE \"Or der\" SET a = '[0:1]={1,NULL}' WHERE id = 1",
                    "UPDATE \"Or der\" SET a = '{1,NULL}' WHERE id = 1",
                ),
                (
                    "UPDATE \"Or der\" SET m = 'bad' WHERE id = 1",
                    "UPDATE \"Or der\" SET m = 'fine' WHERE id = 1",
                ),
                (
                    "UPDATE \"Or der\" SET id = 3 WHERE id = 2",
                    "UPDATE \"Or der\" SET id = 2 WHERE id = 3",
                ),
                (
                    "INSERT INTO \"Or der\" (id) VALUES (9)",
                    "DELETE FROM \"Or der\" WHERE id = 9",
                ),
            ],
        )
        .await;
        assert_eq!(db.count("\"Or der\"").await.unwrap(), 2);
        assert_eq!(db.count_where("\"Or der\"", "t IS NULL").await.unwrap(), 1);
        assert_eq!(
            db.fetch_text("SELECT id, t, b, m, at, f FROM \"Or der\" ORDER BY id")
                .await
                .unwrap(),
            vec![
                ["1", "", "\\x00", "fine", "2024-03-31 00:30:00+00", "0.1"]
                    .map(|text| Some(text.to_owned()))
                    .to_vec(),
                vec![Some("2".to_owned()), None, None, None, None, None],
            ]
        );
        assert!(db.fetch_text("SELECT nothing").await.is_err());
    }

    #[tokio::test]
    async fn postgres_text_is_pinned_whatever_the_database_says() {
        let url = fresh_database("pinned").await.unwrap();
        let db = Db::open(&url).await.unwrap();
        let (_, name) = url.rsplit_once('/').unwrap();
        db.execute(&format!(
            "ALTER DATABASE {name} SET timezone = 'Asia/Kathmandu';
             ALTER DATABASE {name} SET datestyle = 'SQL, DMY';
             ALTER DATABASE {name} SET intervalstyle = 'iso_8601';
             ALTER DATABASE {name} SET extra_float_digits = -10;
             ALTER DATABASE {name} SET bytea_output = 'escape'"
        ))
        .await
        .unwrap();
        db.close().await;
        let db = Db::open(&url).await.unwrap();
        let row = db
            .fetch_text("SELECT '2024-01-02 00:00Z'::timestamptz, '1 day'::interval, 0.1::float8 + 0.2, '\\x41'::bytea")
            .await
            .unwrap();
        assert_eq!(
            row[0],
            ["2024-01-02 00:00:00+00", "1 day", "0.30000000000000004", "\\x41"].map(|text| Some(text.to_owned()))
        );
    }

    #[tokio::test]
    async fn sqlite_hash_sees_every_value_and_its_type() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", folder.path().join("oracle.db").display());
        let db = Db::open(&url).await.unwrap();
        db.execute(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v, \"odd \"\" name\" TEXT);
             INSERT INTO t VALUES (1, 1, 'x' || char(0) || 'y'), (2, 0.1, NULL), (3, x'41', '')",
        )
        .await
        .unwrap();
        hash_follows(
            &db,
            "t",
            &[
                ("UPDATE t SET v = '1' WHERE id = 1", "UPDATE t SET v = 1 WHERE id = 1"),
                ("UPDATE t SET v = 1.0 WHERE id = 1", "UPDATE t SET v = 1 WHERE id = 1"),
                (
                    "UPDATE t SET v = 0.10000000000000002 WHERE id = 2",
                    "UPDATE t SET v = 0.1 WHERE id = 2",
                ),
                ("UPDATE t SET v = 'A' WHERE id = 3", "UPDATE t SET v = x'41' WHERE id = 3"),
                (
                    "UPDATE t SET \"odd \"\" name\" = 'x' WHERE id = 1",
                    "UPDATE t SET \"odd \"\" name\" = 'x' || char(0) || 'y' WHERE id = 1",
                ),
                (
                    "UPDATE t SET \"odd \"\" name\" = '' WHERE id = 2",
                    "UPDATE t SET \"odd \"\" name\" = NULL WHERE id = 2",
                ),
                (
                    "UPDATE t SET \"odd \"\" name\" = 'NULL' WHERE id = 2",
                    "UPDATE t SET \"odd \"\" name\" = NULL WHERE id = 2",
                ),
                ("DELETE FROM t WHERE id = 3", "INSERT INTO t VALUES (3, x'41', '')"),
            ],
        )
        .await;
        assert_eq!(db.count("t").await.unwrap(), 3);
        assert_eq!(db.count_where("t", "typeof(v) = 'real'").await.unwrap(), 1);
        assert_eq!(
            db.fetch_text("SELECT id, v, \"odd \"\" name\" FROM t ORDER BY id")
                .await
                .unwrap(),
            vec![
                ["1", "1", "x\0y"].map(|text| Some(text.to_owned())).to_vec(),
                vec![Some("2".to_owned()), Some("0.1".to_owned()), None],
                ["3", "\\x41", ""].map(|text| Some(text.to_owned())).to_vec(),
            ]
        );
        assert_eq!(db.execute("DELETE FROM t").await.unwrap(), 3);
        assert_eq!(db.table_hash("t", "id").await.unwrap(), hex::encode(Sha256::digest([])));
    }

    #[tokio::test]
    async fn only_known_databases_are_opened() {
        assert!(Db::open("mysql://localhost/x").await.is_err());
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing.db");
        assert!(Db::open(&format!("sqlite://{}", missing.display())).await.is_err());
        assert!(!missing.exists(), "a look must not make a file");
    }
}
