//! Fills a database with the learning platform's rows, or with the benchmark tables.
//!
//! A generation is one stream of rows (`platform`, `single`) into one database (`postgres`, `sqlite`), over a short channel
//! (`rows`), so that memory does not grow with the number of rows. The same options bring the same rows.

mod files;
mod platform;
mod postgres;
mod random;
mod rows;
mod single;
mod sqlite;
mod times;

use anyhow::{Result, bail};
use jiff::Timestamp;

use crate::database::Database;
use crate::schema::{self, SINGLE_TABLES, TABLES};
use crate::truth::{GroundTruth, SingleTableTruth};

/// What to generate, and where.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// `sqlite:///path/file.db` (made if missing; its folder must exist) or `postgres://..` (an existing database; tables go
    /// into the first schema of the search path).
    pub url: String,
    /// Rows in all tables together, exactly; at least 1,000.
    pub rows: u64,
    /// The same seed, `now`, `rows` and `declared_keys` bring the same rows.
    pub seed: u64,
    /// The instant from which "expired" is reckoned. Every row is a day or more away from its horizon, so that operations
    /// may run some hours later and find what the truth says.
    pub now: Timestamp,
    /// Whether the schema gets the foreign keys that the platform itself does not declare.
    pub declared_keys: bool,
    /// Whether tables of the same names are dropped first. Otherwise they are a reason to refuse.
    pub drop_existing: bool,
}

/// Creates the platform's tables, fills them, and tells which rows the catalog's rules must find.
///
/// Refuses a database that already has a table of one of these names, unless told to drop exactly those. Everything
/// happens in one transaction: after an error the database is as it was.
pub async fn generate(options: &GenerateOptions) -> Result<GroundTruth> {
    let database = Database::parse(&options.url)?;
    let platform = platform::Platform::new(options, database.name())?;
    let declared = options.declared_keys;
    tracing::info!(
        seed = options.seed,
        rows = options.rows,
        database = database.name(),
        "generating the learning platform"
    );
    match &database {
        Database::Postgres(connect) => {
            let schema = schema::postgres(declared);
            postgres::load(connect, &schema, &TABLES, options.drop_existing, move |rows| {
                platform.write(rows)
            })
            .await
        }
        Database::Sqlite(connect) => {
            let schema = schema::sqlite(declared);
            sqlite::load(connect, &schema, &TABLES, options.drop_existing, move |rows| {
                platform.write(rows)
            })
            .await
        }
    }
}

/// Makes the platform's files in two new folders beneath `place`: `temp` and `uploads`, with what `temporary_files` must find and
/// much that must stay. The options are those of [`generate`], and what the rows name is there.
///
/// # Errors
/// Where one of the folders exists already, or the disk fails.
pub fn generate_files(options: &GenerateOptions, place: &std::path::Path) -> Result<()> {
    files::make(&platform::Platform::new(options, "files")?, place)
}

/// Creates three tables for benchmarks and fills them: `rows` rows of `user_progress`, of which exactly the share
/// `orphan_fraction` (0 to 1, to the nearest row), spread at random, names no row of `users`; a tenth as many `users`; and
/// `rows` rows of `api_logs` in the order of their time, of which 30 % are older than a year.
///
/// Refuses a database that already has one of these tables; [`drop_tables`] makes room. All in one transaction.
pub async fn single_table(url: &str, rows: u64, orphan_fraction: f64, seed: u64) -> Result<SingleTableTruth> {
    let database = Database::parse(url)?;
    let single = single::Single::new(rows, orphan_fraction, seed, Timestamp::now())?;
    match &database {
        Database::Postgres(connect) => {
            postgres::load(connect, &schema::single_postgres(), &SINGLE_TABLES, false, move |rows| {
                single.write(rows)
            })
            .await
        }
        Database::Sqlite(connect) => {
            sqlite::load(connect, &schema::single_sqlite(), &SINGLE_TABLES, false, move |rows| {
                single.write(rows)
            })
            .await
        }
    }
}

/// Drops the platform's tables, and thereby those for benchmarks, where they exist; nothing else.
pub async fn drop_tables(url: &str) -> Result<()> {
    match &Database::parse(url)? {
        Database::Postgres(connect) => postgres::drop_tables(connect, &TABLES).await,
        Database::Sqlite(connect) => sqlite::drop_tables(connect, &TABLES).await,
    }
}

/// Generated rows among somebody's own would be found, and deleted, together with them.
fn refuse_existing(existing: &[String]) -> Result<()> {
    if existing.is_empty() {
        return Ok(());
    }
    bail!(
        "the database already has {}; nothing was changed. Choose another database, or have these tables dropped (--drop)",
        existing.join(", ")
    )
}

/// Takes out the lines that are only comments: SQLite stores a comment inside a statement as part of the schema.
fn without_comments(sql: &str) -> String {
    sql.lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect::<Vec<_>>()
        .join("\n")
}
