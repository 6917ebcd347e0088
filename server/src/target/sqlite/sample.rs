//! Some rows of every table into a file of their own beside the target's, on which migrations are tried. The new file is the main
//! database of the connection and the target is attached to it, so that definitions make their objects in the new one; all is read in one
//! transaction, and nothing is written to the target.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt as _};

use dbkeep_engine::{
    failpoint,
    model::{Sample, SampledTable, TableName},
    port::{MaintenanceError, SampleOrder, Watch},
};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqliteConnection};

use super::{
    SqliteTarget,
    aside::{io, mark, publish, unfinished},
    dump::{check, count, open_file, or_stopped, stoppable},
    error::{refused, statement},
    load::BACKUP,
    render,
    rewind::{OWN, copied_columns, copy, names, settle_schema},
};
use crate::target::spread::taken;

/// A foreign key: columns of the child, and those of the parent that they name.
struct Key {
    child: String,
    parent: String,
    columns: Vec<String>,
    named: Vec<String>,
}

impl SqliteTarget {
    pub(super) async fn sample_file(
        &self,
        order: &SampleOrder,
        name: &str,
        watch: &Watch,
    ) -> Result<Vec<SampledTable>, MaintenanceError> {
        let result = self.fill_sample(order, name, watch).await;
        or_stopped(result, watch)
    }

    async fn fill_sample(&self, order: &SampleOrder, name: &str, watch: &Watch) -> Result<Vec<SampledTable>, MaintenanceError> {
        let claim = order.claim;
        self.drop_file(claim, name).await?;
        let path = self.file_aside(name);
        let unfinished = unfinished(&path, claim);
        // Rights first: SQLite keeps those of a file that is there.
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(io(&unfinished))?;
        let target = self.options.get_filename();
        let target = target
            .to_str()
            .ok_or_else(|| refused("the path of the database is no UTF-8".to_owned()))?;
        let mut connection = open_file(&unfinished, false).await?;
        let stop = stoppable(&mut connection, watch).await?;
        self.settle_format(&mut connection).await?;
        sqlx::query("ATTACH DATABASE ? AS dbkeep_backup")
            .bind(target)
            .execute(&mut connection)
            .await
            .map_err(statement)?;
        connection.execute("BEGIN").await.map_err(statement)?;
        let mut sampled = fill(&mut connection, order.sample, watch).await?;
        settle_schema(&mut connection, &[]).await?;
        for table in &mut sampled {
            table.rows = count(&mut connection, "main", &table.table).await?;
        }
        mark(&mut connection, claim).await?;
        connection.execute("COMMIT").await.map_err(statement)?;
        drop(stop);
        connection.close().await.map_err(statement)?;
        let mut made = open_file(&unfinished, true).await?;
        let _stop = stoppable(&mut made, watch).await?;
        watch.say("checking", "", 0, 0, "pages");
        check(&mut made).await?;
        made.close().await.map_err(statement)?;
        failpoint!("scratch-made");
        publish(&unfinished, &path)?;
        Ok(sampled)
    }

    /// Gives a file without a page the format of the target: a connection takes only databases of one encoding, and a migration may see the
    /// others.
    async fn settle_format(&self, made: &mut SqliteConnection) -> Result<(), MaintenanceError> {
        let mut connection = self.connection().await?;
        let encoding: String = sqlx::query_scalar("PRAGMA encoding")
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        let page: i64 = sqlx::query_scalar("PRAGMA page_size")
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        let vacuum: i64 = sqlx::query_scalar("PRAGMA auto_vacuum")
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        self.idle.put(connection);
        let settings = format!(
            "PRAGMA encoding = {}; PRAGMA page_size = {page}; PRAGMA auto_vacuum = {vacuum}",
            render::literal(&encoding)
        );
        made.execute(AssertSqlSafe(settings)).await.map_err(statement)?;
        Ok(())
    }
}

/// Makes tables and indexes with the rows that were chosen and those that their keys name.
async fn fill(connection: &mut SqliteConnection, sample: Sample, watch: &Watch) -> Result<Vec<SampledTable>, MaintenanceError> {
    let made: Vec<(String, String)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT name, sql FROM {BACKUP}.sqlite_schema WHERE type = 'table' AND coalesce(rootpage, 0) > 0 AND {OWN} ORDER BY rowid"
    )))
    .persistent(false)
    .fetch_all(&mut *connection)
    .await
    .map_err(statement)?;
    for (_, sql) in &made {
        // Without a schema in the statement the table is made in main.
        connection.execute(AssertSqlSafe(sql.clone())).await.map_err(statement)?;
    }
    // Before the rows: keys are looked up by them, and there are few.
    let indexes = names(
        connection,
        format!("SELECT sql FROM {BACKUP}.sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND {OWN} ORDER BY rowid"),
    )
    .await?;
    for sql in indexes {
        connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    }
    let ordinary = super::dump::tables(connection, BACKUP).await?;
    let mut sampled = Vec::with_capacity(ordinary.len());
    for (position, (name, _)) in made.iter().enumerate() {
        watch.say("copying", name, position as u64, made.len() as u64, "tables");
        let table = TableName {
            schema: None,
            name: name.clone(),
        };
        // What lies behind a virtual table means something only as a whole.
        if !ordinary.contains(&table) {
            copy(connection, name).await?;
            continue;
        }
        let of = count(connection, BACKUP, &table).await?;
        let rows = sample.of(of);
        if rows == of {
            copy(connection, name).await?;
        } else {
            choose(connection, name, rows, of).await?;
        }
        sampled.push(SampledTable { table, rows, of });
    }
    let names: Vec<&str> = sampled.iter().map(|table| table.table.name.as_str()).collect();
    let mut keys = Vec::new();
    for name in &names {
        keys.extend(keys_of(connection, name, &names).await?);
    }
    loop {
        let mut fetched = 0;
        for key in &keys {
            fetched += fetch_named(connection, key).await?;
        }
        if fetched == 0 {
            return Ok(sampled);
        }
    }
}

/// Copies so many rows of a table, evenly over its primary key.
async fn choose(connection: &mut SqliteConnection, name: &str, rows: u64, of: u64) -> Result<(), MaintenanceError> {
    let columns = copied_columns(connection, name).await?;
    let key = primary_key(connection, name).await?;
    let quoted = render::identifier(name);
    let list = columns.list();
    let order = match (&key[..], &columns.id) {
        ([], Some(id)) => (*id).to_owned(),
        ([], None) => list.clone(),
        (key, _) => key.iter().map(|name| render::identifier(name)).collect::<Vec<_>>().join(", "),
    };
    let sql = match &columns.id {
        // Only ids are sorted, not whole rows.
        Some(id) => format!(
            "INSERT INTO main.{quoted} ({list}) SELECT {list} FROM {BACKUP}.{quoted} WHERE {id} IN (SELECT dbkeep_id FROM \
             (SELECT {id} AS dbkeep_id, row_number() OVER (ORDER BY {order}) AS place FROM {BACKUP}.{quoted}) WHERE {})",
            taken("place", rows, of)
        ),
        None => format!(
            "INSERT INTO main.{quoted} ({list}) SELECT {list} FROM (SELECT {list}, row_number() OVER (ORDER BY {order}) AS \"dbkeep place\" \
             FROM {BACKUP}.{quoted}) WHERE {}",
            taken("\"dbkeep place\"", rows, of)
        ),
    };
    connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    Ok(())
}

async fn primary_key(connection: &mut SqliteConnection, name: &str) -> Result<Vec<String>, MaintenanceError> {
    Ok(
        sqlx::query_scalar("SELECT name FROM pragma_table_xinfo(?, ?) WHERE pk > 0 ORDER BY pk")
            .bind(name)
            .bind(BACKUP)
            .fetch_all(connection)
            .await
            .map_err(statement)?,
    )
}

/// Foreign keys of a table that name tables of the copy. One that names what is not there holds no row, and is left out.
async fn keys_of(connection: &mut SqliteConnection, child: &str, tables: &[&str]) -> Result<Vec<Key>, MaintenanceError> {
    let found: Vec<(i64, String, String, Option<String>)> =
        sqlx::query_as("SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?, ?) ORDER BY id, seq")
            .bind(child)
            .bind(BACKUP)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
    let mut keys: Vec<(i64, Key)> = Vec::new();
    for (id, parent, from, to) in found {
        let Some(parent) = tables.iter().find(|table| table.eq_ignore_ascii_case(&parent)) else {
            continue;
        };
        if keys.last().is_none_or(|(last, _)| *last != id) {
            let key = Key {
                child: child.to_owned(),
                parent: (*parent).to_owned(),
                columns: Vec::new(),
                named: Vec::new(),
            };
            keys.push((id, key));
        }
        if let Some((_, key)) = keys.last_mut() {
            key.columns.push(from);
            key.named.extend(to);
        }
    }
    let mut whole = Vec::new();
    for (_, mut key) in keys {
        if key.named.is_empty() {
            key.named = primary_key(connection, &key.parent).await?;
        }
        let there: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_xinfo(?, ?)")
            .bind(&key.parent)
            .bind(BACKUP)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        let known = |column: &String| there.iter().any(|name| name.eq_ignore_ascii_case(column));
        if key.named.len() == key.columns.len() && key.named.iter().all(known) {
            whole.push(key);
        }
    }
    Ok(whole)
}

/// Copies the rows that a key names and the copy lacks. Returns how many.
async fn fetch_named(connection: &mut SqliteConnection, key: &Key) -> Result<u64, MaintenanceError> {
    let columns = copied_columns(connection, &key.parent).await?;
    let prefixed = |prefix: &str, names: &[String]| -> Vec<String> {
        let names = names.iter();
        names.map(|name| format!("{prefix}.{}", render::identifier(name))).collect()
    };
    let (wanted, child, there) = (
        prefixed("p", &key.named),
        prefixed("c", &key.columns),
        prefixed("q", &key.named),
    );
    let filled: Vec<String> = child.iter().map(|column| format!("{column} IS NOT NULL")).collect();
    let same: Vec<String> = there
        .iter()
        .zip(&wanted)
        .map(|(there, wanted)| format!("{there} = {wanted}"))
        .collect();
    let sql = format!(
        "INSERT INTO main.{parent} ({list}) SELECT {taken} FROM {BACKUP}.{parent} AS p WHERE ({wanted}) IN (SELECT {child} FROM main.{of} AS c WHERE {filled}) \
         AND NOT EXISTS (SELECT 1 FROM main.{parent} AS q WHERE {same})",
        parent = render::identifier(&key.parent),
        of = render::identifier(&key.child),
        list = columns.list(),
        taken = columns.of("p"),
        wanted = wanted.join(", "),
        child = child.join(", "),
        filled = filled.join(" AND "),
        same = same.join(" AND "),
    );
    let done = connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
    Ok(done.rows_affected())
}
