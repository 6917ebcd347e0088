//! Which database a URL names, and how the generator and the hashes connect to it.
//!
//! One connection each, no pool: the generator works in one transaction, and a connection after a failed COPY must not be
//! used by anybody else.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};

/// A parsed URL.
pub(crate) enum Database {
    /// `postgres://..` or `postgresql://..`
    Postgres(PgConnectOptions),
    /// `sqlite:..`
    Sqlite(SqliteConnectOptions),
}

impl Database {
    /// Tells the kind of database by the URL's scheme. The error names the schemes, and never repeats the URL: it may hold a
    /// password.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        match url.split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Ok(Self::Postgres(
                PgConnectOptions::from_str(url).context("the PostgreSQL URL is malformed")?,
            )),
            Some("sqlite") => Ok(Self::Sqlite(
                SqliteConnectOptions::from_str(url).context("the SQLite URL is malformed")?,
            )),
            _ => bail!("a database URL starts with sqlite:// or postgres://"),
        }
    }

    /// The name under which ground truths and messages know this kind of database.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Sqlite(_) => "sqlite",
        }
    }
}

/// Connects to PostgreSQL with the settings that make text in and text out mean the same on every server.
pub(crate) async fn connect_postgres(options: &PgConnectOptions) -> Result<PgConnection> {
    options
        .clone()
        .application_name("dbkeep-demo")
        .options([
            ("TimeZone", "UTC"),
            ("DateStyle", "ISO, YMD"),
            ("IntervalStyle", "postgres"),
            // 1 and above: floats print with as many digits as bring the same bits back.
            ("extra_float_digits", "1"),
            ("bytea_output", "hex"),
        ])
        .connect()
        .await
        .context("cannot connect to PostgreSQL")
}

/// Connects to a SQLite file, which `create` makes if there is none. The file's journal mode stays as it is.
pub(crate) async fn connect_sqlite(options: &SqliteConnectOptions, create: bool) -> Result<SqliteConnection> {
    options
        .clone()
        .create_if_missing(create)
        // Off, since --drop removes tables in any order; the generator checks all keys itself before it commits.
        .foreign_keys(false)
        .busy_timeout(Duration::from_secs(10))
        // The rows of a large table cross a channel between two threads: deep enough that neither waits for each of them.
        .row_buffer_size(1024)
        .connect()
        .await
        .with_context(|| format!("cannot open the SQLite file {}", options.get_filename().display()))
}

/// Those of `names` that PostgreSQL already has in the schema where CREATE TABLE would put them, whatever they are there.
pub(crate) async fn existing_postgres(connection: &mut PgConnection, names: &[&str]) -> Result<Vec<String>> {
    let sql = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = current_schema() AND c.relname = ANY($1) ORDER BY 1";
    sqlx::query_scalar(sql)
        .bind(names)
        .fetch_all(connection)
        .await
        .context("cannot list the tables")
}

/// Those of `names` that the SQLite file already has, whatever they are there.
pub(crate) async fn existing_sqlite(connection: &mut SqliteConnection, names: &[&str]) -> Result<Vec<String>> {
    let marks = vec!["?"; names.len()].join(", ");
    // NOCASE, since SQLite's table names are.
    let sql = format!("SELECT name FROM sqlite_schema WHERE name COLLATE NOCASE IN ({marks}) ORDER BY 1");
    let mut query = sqlx::query_scalar(AssertSqlSafe(sql));
    for name in names {
        query = query.bind(*name);
    }
    query.fetch_all(connection).await.context("cannot list the tables")
}
