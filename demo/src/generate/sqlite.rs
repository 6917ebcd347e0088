//! Stores rows in SQLite: multi-row INSERTs and then indexes in one transaction, then WAL and ANALYZE.
//!
//! One transaction, so that a failed generation leaves nothing behind. It is cheap although large: SQLite's rollback journal
//! holds the pages that a transaction changes, and the pages of new tables are not among them.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection};
use sqlx::{Arguments, AssertSqlSafe, Connection, Row};

use super::rows::{Closed, Delivery, Micros, Production, RowWriter, Rows, produce, push_time};
use super::{refuse_existing, without_comments};
use crate::database::{connect_sqlite, existing_sqlite};
use crate::schema::Schema;

/// Rows of one INSERT. Beyond some hundred, a statement costs nothing beside its values; SQLite takes 32766 of them.
const BATCH_ROWS: usize = 256;

/// Rows as the values of one INSERT.
#[derive(Default)]
pub(super) struct InsertValues {
    values: SqliteArguments,
    rows: usize,
}

impl RowWriter for InsertValues {
    fn null(&mut self) {
        self.values.add(None::<i64>).expect("NULL always encodes");
    }

    fn text(&mut self, value: &str) {
        self.values.add(value.to_owned()).expect("text always encodes");
    }

    fn integer(&mut self, value: i64) {
        self.values.add(value).expect("an integer always encodes");
    }

    fn real(&mut self, value: f64) {
        self.values.add(value).expect("a float always encodes");
    }

    fn time(&mut self, value: Micros) {
        let mut text = String::with_capacity(19);
        push_time(&mut text, value, false);
        self.values.add(text).expect("text always encodes");
    }

    fn epoch_time(&mut self, value: Micros) {
        self.integer(value.div_euclid(1_000_000));
    }

    fn end_row(&mut self) {
        self.rows += 1;
    }

    fn is_full(&self) -> bool {
        self.rows == BATCH_ROWS
    }

    fn is_empty(&self) -> bool {
        self.rows == 0
    }
}

/// Creates `schema` with the rows of `make` in it. `tables` are the names that the schema creates.
pub(super) async fn load<T, F>(
    options: &SqliteConnectOptions,
    schema: &Schema,
    tables: &[&'static str],
    drop_existing: bool,
    make: F,
) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&mut Rows<InsertValues>) -> Result<T, Closed> + Send + 'static,
{
    let mut connection = connect_sqlite(options, true).await?;
    let existing = existing_sqlite(&mut connection, tables).await?;
    if !drop_existing {
        refuse_existing(&existing)?;
    }
    // No fsync and no WAL while the rows come: what a power failure would leave is worth nothing anyway. The cache bounds the
    // memory; it is this large because the keys come in random order.
    execute(
        &mut connection,
        "PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF; PRAGMA cache_size = -131072",
    )
    .await
    .context("cannot prepare the file; is another program using it?")?;
    execute(&mut connection, "BEGIN EXCLUSIVE").await?;
    drop_named(&mut connection, &existing).await?;
    execute(&mut connection, &schema.tables)
        .await
        .context("cannot create the tables")?;

    let mut production = produce(make);
    insert_all(&mut connection, &mut production).await?;
    let knowledge = production.outcome().await?;

    // A sort may take as much memory again as the cache, and it reads the table only once: a large cache is of no use to it.
    execute(&mut connection, "PRAGMA cache_size = -32768").await?;
    execute(&mut connection, &schema.keys)
        .await
        .context("cannot create the indexes")?;
    check_foreign_keys(&mut connection).await?;
    execute(&mut connection, "ANALYZE; COMMIT").await?;
    // The file leaves here as an application would run it, and safely on disk.
    execute(
        &mut connection,
        "PRAGMA synchronous = FULL; PRAGMA journal_mode = WAL; PRAGMA wal_checkpoint(TRUNCATE)",
    )
    .await?;
    connection.close().await?;
    sync_file(options).await?;
    Ok(knowledge)
}

/// Drops those of `tables` that exist. A file that does not exist has none.
pub(super) async fn drop_tables(options: &SqliteConnectOptions, tables: &[&'static str]) -> Result<()> {
    if !tokio::fs::try_exists(options.get_filename()).await? {
        return Ok(());
    }
    let mut connection = connect_sqlite(options, false).await?;
    let existing = existing_sqlite(&mut connection, tables).await?;
    execute(&mut connection, "BEGIN IMMEDIATE").await?;
    drop_named(&mut connection, &existing).await?;
    execute(&mut connection, "COMMIT").await?;
    connection.close().await?;
    Ok(())
}

/// Keys are not enforced on this connection, so the order does not matter.
async fn drop_named(connection: &mut SqliteConnection, existing: &[String]) -> Result<()> {
    for table in existing {
        execute(connection, &format!("DROP TABLE {table}"))
            .await
            .with_context(|| format!("cannot drop {table}"))?;
    }
    Ok(())
}

async fn insert_all<T>(connection: &mut SqliteConnection, production: &mut Production<InsertValues, T>) -> Result<()> {
    let mut table = "";
    // The statement of a full batch of this table; the driver then finds it prepared.
    let mut full_batch = String::new();
    while let Some(delivery) = production.deliveries.recv().await {
        match delivery {
            Delivery::Table(name) => {
                table = name;
                full_batch.clear();
            }
            Delivery::Batch(batch) => {
                let columns = batch.values.len() / batch.rows;
                let sql = if batch.rows < BATCH_ROWS {
                    insert_statement(table, columns, batch.rows)
                } else {
                    if full_batch.is_empty() {
                        full_batch = insert_statement(table, columns, batch.rows);
                    }
                    full_batch.clone()
                };
                sqlx::query_with(AssertSqlSafe(sql), batch.values)
                    .execute(&mut *connection)
                    .await
                    .with_context(|| format!("cannot insert into {table}"))?;
            }
        }
    }
    Ok(())
}

fn insert_statement(table: &str, columns: usize, rows: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    let mut sql = format!("INSERT INTO {table} VALUES {row}");
    for _ in 1..rows {
        write!(sql, ",{row}").expect("writing to a String does not fail");
    }
    sql
}

/// Enforces what enforcement during the load would have enforced, in one pass instead of one look-up per row.
async fn check_foreign_keys(connection: &mut SqliteConnection) -> Result<()> {
    let violation = sqlx::query("PRAGMA foreign_key_check").fetch_optional(connection).await?;
    if let Some(violation) = violation {
        let (child, parent): (String, String) = (violation.try_get(0)?, violation.try_get(2)?);
        bail!("a generated row of {child} names a missing row of {parent}");
    }
    Ok(())
}

/// The pages were written without fsync; closing does not make up for it.
async fn sync_file(options: &SqliteConnectOptions) -> Result<()> {
    let file = tokio::fs::File::options().write(true).open(options.get_filename()).await?;
    file.sync_all().await.context("cannot write the file to disk")
}

async fn execute(connection: &mut SqliteConnection, sql: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(without_comments(sql)))
        .execute(connection)
        .await?;
    Ok(())
}
