//! Stores rows in PostgreSQL: COPY in text form, then keys and indexes, all in one transaction, then VACUUM ANALYZE.
//!
//! One transaction, so that a failed generation leaves nothing behind and a failed `--drop` leaves everything as it was.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection};

use super::rows::{Closed, Delivery, Micros, Production, RowWriter, Rows, produce, push_time};
use super::{refuse_existing, without_comments};
use crate::database::{connect_postgres, existing_postgres};
use crate::schema::Schema;

/// Bytes after which a batch is sent: large enough that a batch costs nothing beside its rows, small enough for any memory.
const BATCH_BYTES: usize = 256 * 1024;

/// Rows in the text form of COPY.
#[derive(Default)]
pub(super) struct CopyText {
    text: String,
    row_has_values: bool,
}

impl CopyText {
    fn separate(&mut self) {
        if self.row_has_values {
            self.text.push('\t');
        }
        self.row_has_values = true;
    }
}

impl RowWriter for CopyText {
    fn null(&mut self) {
        self.separate();
        self.text.push_str("\\N");
    }

    fn text(&mut self, value: &str) {
        self.separate();
        // Most texts need no escape and are appended whole.
        let mut rest = value;
        while let Some(position) = rest.find(['\\', '\t', '\n', '\r']) {
            self.text.push_str(&rest[..position]);
            self.text.push_str(match rest.as_bytes()[position] {
                b'\t' => "\\t",
                b'\n' => "\\n",
                b'\r' => "\\r",
                _ => "\\\\",
            });
            rest = &rest[position + 1..];
        }
        self.text.push_str(rest);
    }

    fn integer(&mut self, value: i64) {
        self.separate();
        write!(self.text, "{value}").expect("writing to a String does not fail");
    }

    fn real(&mut self, value: f64) {
        self.separate();
        write!(self.text, "{value:?}").expect("writing to a String does not fail");
    }

    fn time(&mut self, value: Micros) {
        self.separate();
        push_time(&mut self.text, value, true);
        // A column without a zone ignores the offset; one with a zone then does not depend on the session's zone.
        self.text.push_str("+00");
    }

    fn epoch_time(&mut self, value: Micros) {
        self.time(value);
    }

    fn end_row(&mut self) {
        self.text.push('\n');
        self.row_has_values = false;
    }

    fn is_full(&self) -> bool {
        self.text.len() >= BATCH_BYTES
    }

    fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

/// Has what the session counted arrive with the end of the statement.
const SEND_COUNTS: &str = "DO $$ BEGIN IF current_setting('server_version_num')::integer >= 150000 THEN \
                           PERFORM pg_catalog.pg_stat_force_next_flush(); END IF; END $$";

/// Creates `schema` with the rows of `make` in it. `tables` are the names that the schema creates.
pub(super) async fn load<T, F>(
    options: &PgConnectOptions,
    schema: &Schema,
    tables: &[&'static str],
    drop_existing: bool,
    make: F,
) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(&mut Rows<CopyText>) -> Result<T, Closed> + Send + 'static,
{
    let mut connection = connect_postgres(options).await?;
    // Building the indexes is most of the time after the COPY.
    execute(&mut connection, "SET maintenance_work_mem = '256MB'".to_owned()).await?;
    execute(&mut connection, "BEGIN".to_owned()).await?;
    let existing = existing_postgres(&mut connection, tables).await?;
    if !drop_existing {
        refuse_existing(&existing)?;
    }
    drop_named(&mut connection, &existing).await?;
    execute(&mut connection, schema.tables.clone())
        .await
        .context("cannot create the tables")?;

    let mut production = produce(make);
    copy_all(&mut connection, &mut production).await?;
    let knowledge = production.outcome().await?;

    execute(&mut connection, schema.keys.clone())
        .await
        .context("cannot create the keys")?;
    execute(&mut connection, "COMMIT".to_owned()).await?;
    // A session's counts reach the statistics when it next has a quiet second: copied rows that came there after ANALYZE would be changes that
    // it has not seen. From PostgreSQL 15 on they can be sent there.
    execute(&mut connection, SEND_COUNTS.to_owned()).await?;
    for table in tables {
        execute(&mut connection, format!("VACUUM (ANALYZE) {table}")).await?;
    }
    connection.close().await?;
    Ok(knowledge)
}

/// Drops those of `tables` that exist.
pub(super) async fn drop_tables(options: &PgConnectOptions, tables: &[&'static str]) -> Result<()> {
    let mut connection = connect_postgres(options).await?;
    let existing = existing_postgres(&mut connection, tables).await?;
    drop_named(&mut connection, &existing).await?;
    connection.close().await?;
    Ok(())
}

async fn drop_named(connection: &mut PgConnection, existing: &[String]) -> Result<()> {
    if existing.is_empty() {
        return Ok(());
    }
    // One statement and no CASCADE: keys between these tables are no hindrance, anything of the caller's that depends on them is.
    execute(connection, format!("DROP TABLE {}", existing.join(", ")))
        .await
        .context("cannot drop the tables")
}

async fn copy_all<T>(connection: &mut PgConnection, production: &mut Production<CopyText, T>) -> Result<()> {
    let mut next = production.deliveries.recv().await;
    while let Some(Delivery::Table(table)) = next {
        // FREEZE is allowed because this transaction created the table. It spares VACUUM a second writing of every page.
        let mut copy = connection
            .copy_in_raw(&format!("COPY {table} FROM STDIN (FREEZE)"))
            .await
            .with_context(|| format!("cannot copy into {table}"))?;
        next = loop {
            match production.deliveries.recv().await {
                Some(Delivery::Batch(batch)) => {
                    copy.send(batch.text.into_bytes())
                        .await
                        .with_context(|| format!("cannot copy into {table}"))?;
                }
                other => break other,
            }
        };
        copy.finish().await.with_context(|| format!("cannot copy into {table}"))?;
    }
    Ok(())
}

async fn execute(connection: &mut PgConnection, sql: String) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(without_comments(&sql)))
        .execute(connection)
        .await?;
    Ok(())
}
