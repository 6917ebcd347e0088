//! A fingerprint of each table's rows, to show that a table is as it was.
//!
//! Equal hashes mean equal rows: every value goes in without loss, in the order of the primary key. Hashes are comparable
//! within one database; between PostgreSQL and SQLite they differ by nature, and between two PostgreSQL servers they may
//! where their collations order keys differently. Only the platform's tables are read: what dbkeep keeps for itself in a
//! database may change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, TypeInfo as _, ValueRef as _};

use crate::database::{Database, connect_postgres, connect_sqlite, existing_postgres, existing_sqlite};
use crate::schema::TABLES;

/// The SHA-256, in hexadecimal, of each of the platform's tables that exists, by its name. Streams the rows: memory does not
/// grow with them. All tables are seen as of one moment.
pub async fn table_hashes(url: &str) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    match &Database::parse(url)? {
        Database::Postgres(options) => {
            let mut connection = connect_postgres(options).await?;
            sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .execute(&mut connection)
                .await?;
            for table in existing_postgres(&mut connection, &TABLES).await? {
                let hash = hash_postgres(&mut connection, &table)
                    .await
                    .with_context(|| format!("cannot hash {table}"))?;
                hashes.insert(table, hash);
            }
            connection.close().await?;
        }
        Database::Sqlite(options) => {
            let mut connection = connect_sqlite(options, false).await?;
            sqlx::raw_sql("BEGIN").execute(&mut connection).await?;
            for table in existing_sqlite(&mut connection, &TABLES).await? {
                let hash = hash_sqlite(&mut connection, &table)
                    .await
                    .with_context(|| format!("cannot hash {table}"))?;
                hashes.insert(table, hash);
            }
            connection.close().await?;
        }
    }
    Ok(hashes)
}

/// What dbkeep keeps for itself in a folder of files.
const TRASH: &str = ".dbkeep-trash";
/// The one file in a step's trash that was never one of the folder's.
const MANIFEST: &str = "manifest";

/// The SHA-256, in hexadecimal, of a folder: names, kinds, owners, modes, contents, times of writing and targets of links of all that is in
/// it. What dbkeep keeps for itself in a folder, `.dbkeep-trash`, is passed by: see [`trashed`].
///
/// # Errors
/// Where something cannot be read.
pub fn folder_hash(folder: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    hash_folder(folder, folder, &mut hasher)?;
    Ok(hex::encode(hasher.finalize()))
}

fn hash_folder(root: &Path, folder: &Path, hasher: &mut Sha256) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries.into_iter().filter(|entry| entry.file_name() != TRASH) {
        let path = entry.path();
        let kind = entry.file_type()?;
        let name = path.strip_prefix(root)?.as_os_str().as_bytes();
        hasher.update(u64::try_from(name.len())?.to_be_bytes());
        hasher.update(name);
        // Of a link, its own.
        let metadata = entry.metadata()?;
        for number in [metadata.mode(), metadata.uid(), metadata.gid()] {
            hasher.update(number.to_be_bytes());
        }
        if kind.is_dir() {
            // Its own time changes with every file that leaves and comes back.
            hasher.update(b"d");
            hash_folder(root, &path, hasher)?;
        } else if kind.is_symlink() {
            hasher.update(b"l");
            hasher.update(fs::read_link(&path)?.as_os_str().as_bytes());
        } else {
            hasher.update(b"f");
            hasher.update(metadata.mtime().to_be_bytes());
            hasher.update(metadata.mtime_nsec().to_be_bytes());
            hasher.update(metadata.len().to_be_bytes());
            hasher.update(fs::read(&path)?);
        }
    }
    Ok(())
}

/// How many files of a folder are in its trash for a run: all that is there but the manifests.
///
/// # Errors
/// Where something cannot be read.
pub fn trashed(folder: &Path, run: &str) -> Result<u64> {
    let mut files = 0;
    let mut open = vec![folder.join(TRASH).join(run)];
    while let Some(folder) = open.pop() {
        // A run that takes no file of a folder leaves nothing in it.
        if !folder.try_exists()? {
            continue;
        }
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if entry.file_name() != MANIFEST {
                files += 1;
            }
        }
    }
    Ok(files)
}

/// The text form of COPY tells NULL from text, escapes what separates values, and brings every value back to the same bits.
async fn hash_postgres(connection: &mut PgConnection, table: &str) -> Result<String> {
    let columns_sql = "SELECT quote_ident(attname) FROM pg_attribute \
                       WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let columns: Vec<String> = sqlx::query_scalar(columns_sql)
        .bind(table)
        .fetch_all(&mut *connection)
        .await?;
    let key_sql = "SELECT quote_ident(a.attname) FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position) \
                   JOIN pg_attribute a ON a.attnum = k.attnum \
                   WHERE i.indrelid = $1::text::regclass AND i.indisprimary AND a.attrelid = i.indrelid ORDER BY k.position";
    let key: Vec<String> = sqlx::query_scalar(key_sql).bind(table).fetch_all(&mut *connection).await?;
    ensure!(!key.is_empty(), "it has no primary key, so its rows have no order");

    let mut hasher = header(&columns);
    let sql = format!(
        "COPY (SELECT {} FROM {table} ORDER BY {}) TO STDOUT",
        columns.join(", "),
        key.join(", ")
    );
    let mut stream = connection.copy_out_raw(&sql).await?;
    while let Some(bytes) = stream.try_next().await? {
        hasher.update(&bytes);
    }
    Ok(hex::encode(hasher.finalize()))
}

/// Hashes storage class and bytes of each value as SQLite holds it, not as the column is declared.
async fn hash_sqlite(connection: &mut SqliteConnection, table: &str) -> Result<String> {
    let columns: Vec<(String, i64)> = sqlx::query_as("SELECT name, pk FROM pragma_table_info(?) ORDER BY cid")
        .bind(table)
        .fetch_all(&mut *connection)
        .await?;
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let names: Vec<String> = columns.iter().map(|(name, _)| quoted(name)).collect();
    let mut key: Vec<(i64, String)> = columns
        .iter()
        .filter(|(_, position)| *position > 0)
        .map(|(name, position)| (*position, quoted(name)))
        .collect();
    key.sort();
    let key: Vec<String> = key.into_iter().map(|(_, name)| name).collect();
    ensure!(!key.is_empty(), "it has no primary key, so its rows have no order");

    let mut hasher = header(&names);
    let sql = format!("SELECT {} FROM {table} ORDER BY {}", names.join(", "), key.join(", "));
    let mut stream = sqlx::query(AssertSqlSafe(sql)).fetch(connection);
    let mut bytes = Vec::new();
    while let Some(row) = stream.try_next().await? {
        bytes.clear();
        for column in 0..names.len() {
            push_value(&mut bytes, &row, column)?;
        }
        hasher.update(&bytes);
    }
    Ok(hex::encode(hasher.finalize()))
}

/// Appends one value so that no other sequence of values gives the same bytes: a letter for the storage class, then the
/// value, with its length first where that varies.
fn push_value(bytes: &mut Vec<u8>, row: &SqliteRow, column: usize) -> Result<()> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        bytes.push(b'n');
        return Ok(());
    }
    let class = value.type_info().name().to_owned();
    match class.as_str() {
        "INTEGER" => {
            bytes.push(b'i');
            bytes.extend(row.try_get_unchecked::<i64, _>(column)?.to_be_bytes());
        }
        "REAL" => {
            bytes.push(b'r');
            bytes.extend(row.try_get_unchecked::<f64, _>(column)?.to_bits().to_be_bytes());
        }
        "TEXT" => {
            let text: &[u8] = row.try_get_unchecked::<&str, _>(column)?.as_bytes();
            bytes.push(b't');
            bytes.extend(u64::try_from(text.len())?.to_be_bytes());
            bytes.extend(text);
        }
        _ => {
            let blob: &[u8] = row.try_get_unchecked(column)?;
            bytes.push(b'b');
            bytes.extend(u64::try_from(blob.len())?.to_be_bytes());
            bytes.extend(blob);
        }
    }
    Ok(())
}

/// A hash that already depends on the columns, so that two of them cannot change places unnoticed.
fn header(columns: &[String]) -> Sha256 {
    let mut hasher = Sha256::new();
    hasher.update(columns.join(","));
    hasher.update(b"\n");
    hasher
}
