//! Schema and data of a SQLite database, to be compared. Tables are told by what the pragmas say of them, because SQLite rewrites the
//! text of a table when something is renamed; views, triggers and indexes by their text without spaces and quotes. Rows are hashed
//! value by value, with their types, since a column does not decide those.

use dbkeep_engine::{
    model::{EngineKind, Fingerprint, SchemaObject, TableContent, Value},
    port::TargetError,
};
use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Executor as _, SqliteConnection};

use super::{
    super::{error::statement, render, values},
    definition::Definition,
};
use crate::target::words::{normal, words};

/// Takes the fingerprint.
pub(super) async fn take(connection: &mut SqliteConnection) -> Result<Fingerprint, TargetError> {
    // One snapshot for everything.
    connection.execute("BEGIN").await.map_err(statement)?;
    let sql = "SELECT s.type, s.name, s.tbl_name, s.sql FROM main.sqlite_schema AS s WHERE s.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
               AND s.name NOT LIKE '\\_dbkeep\\_%' ESCAPE '\\' AND s.tbl_name NOT LIKE '\\_dbkeep\\_%' ESCAPE '\\' AND s.sql IS NOT NULL \
               AND NOT EXISTS (SELECT 1 FROM pragma_table_list AS l WHERE l.schema = 'main' AND l.name = s.tbl_name AND l.type = 'shadow') \
               ORDER BY s.type, s.name";
    let found: Vec<(String, String, String, String)> = sqlx::query_as(sql)
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    let mut objects = Vec::new();
    let mut tables = Vec::new();
    for (kind, name, table, sql) in found {
        let words = words(&sql, EngineKind::Sqlite);
        let is_virtual = words.get(1).is_some_and(|word| word.is("VIRTUAL"));
        if kind == "table" && !is_virtual {
            objects.extend(table_objects(connection, &name, &sql).await?);
            tables.push(content(connection, &name).await?);
            continue;
        }
        let on = if kind == "table" || kind == "view" {
            String::new()
        } else {
            format!("on {table}: ")
        };
        objects.push(SchemaObject {
            kind: if is_virtual { "virtual table".to_owned() } else { kind },
            definition: format!("{}{}", on.to_lowercase(), normal(&words)),
            name,
        });
    }
    let pragma = "SELECT 'user_version', user_version FROM pragma_user_version UNION ALL SELECT 'application_id', application_id FROM pragma_application_id";
    let pragmas: Vec<(String, i64)> = sqlx::query_as(pragma).fetch_all(&mut *connection).await.map_err(statement)?;
    objects.extend(pragmas.into_iter().map(|(name, number)| SchemaObject {
        kind: "pragma".to_owned(),
        name,
        definition: number.to_string(),
    }));
    objects.sort();
    tables.sort_by(|one, other| one.table.cmp(&other.table));
    let size = "SELECT p.page_count * s.page_size FROM pragma_page_count AS p, pragma_page_size AS s";
    let bytes: i64 = sqlx::query_scalar(size)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    connection.execute("COMMIT").await.map_err(statement)?;
    Ok(Fingerprint {
        objects,
        tables,
        bytes: u64::try_from(bytes).unwrap_or(0),
    })
}

async fn rows<T>(connection: &mut SqliteConnection, sql: &'static str, name: &str) -> Result<Vec<T>, TargetError>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::sqlite::SqliteRow> + Send + Unpin,
{
    sqlx::query_as(sql)
        .persistent(false)
        .bind(name)
        .fetch_all(connection)
        .await
        .map_err(statement)
}

/// The table itself, its columns, its keys, and indexes that it makes by itself.
async fn table_objects(connection: &mut SqliteConnection, name: &str, sql: &str) -> Result<Vec<SchemaObject>, TargetError> {
    let said = Definition::of(sql);
    let object = |kind: &str, name: String, definition: String| SchemaObject {
        kind: kind.to_owned(),
        name,
        definition,
    };
    let mut objects = Vec::new();
    let form = "SELECT wr, strict FROM pragma_table_list WHERE schema = 'main' AND name = ?";
    let form: Vec<(bool, bool)> = rows(connection, form, name).await?;
    let mut words = Vec::new();
    for (without_rowid, strict) in form {
        words.extend(without_rowid.then_some("WITHOUT ROWID"));
        words.extend(strict.then_some("STRICT"));
    }
    objects.push(object("table", name.to_owned(), words.join(" ")));
    for check in said.checks {
        objects.push(object("check", format!("{name}: {check}"), String::new()));
    }
    let columns = "SELECT name, upper(type), \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid";
    let columns: Vec<(String, String, bool, Option<String>, i64, i64)> = rows(connection, columns, name).await?;
    for (place, (column, kind, not_null, default, key, hidden)) in columns.into_iter().enumerate() {
        let extra = said.columns.iter().find(|(known, _)| *known == column.to_lowercase());
        let mut told = vec![(place + 1).to_string(), kind];
        told.extend(not_null.then(|| "NOT NULL".to_owned()));
        told.extend(default.map(|default| format!("DEFAULT {}", default.trim())));
        told.extend((key > 0).then(|| format!("PRIMARY KEY {key}")));
        told.extend((hidden > 0).then(|| format!("hidden {hidden}")));
        told.extend(extra.map(|(_, said)| said.clone()));
        objects.push(object("column", format!("{name}.{column}"), told.join(" ")));
    }
    let keys = "SELECT group_concat(\"from\", ', ' ORDER BY seq), \"table\", coalesce(group_concat(\"to\", ', ' ORDER BY seq), ''), on_update, on_delete, \"match\" \
                FROM pragma_foreign_key_list(?, 'main') GROUP BY id, \"table\", on_update, on_delete, \"match\"";
    let keys: Vec<(String, String, String, String, String, String)> = rows(connection, keys, name).await?;
    for (from, parent, to, on_update, on_delete, matching) in keys {
        let definition = format!("{to} ON UPDATE {on_update} ON DELETE {on_delete} MATCH {matching}");
        let key = format!("{name} ({}) REFERENCES {}", from.to_lowercase(), parent.to_lowercase());
        objects.push(object("foreign key", key, definition));
    }
    let made = "SELECT group_concat(coalesce(x.name, '?') || ' ' || coalesce(x.coll, '') || ' ' || x.\"desc\", ', ' ORDER BY x.seqno), l.origin \
                FROM pragma_index_list(?, 'main') AS l JOIN pragma_index_xinfo(l.name, 'main') AS x WHERE l.origin IN ('u', 'pk') AND x.key = 1 GROUP BY l.name";
    let made: Vec<(String, String)> = rows(connection, made, name).await?;
    for (columns, origin) in made {
        objects.push(object("unique", format!("{name} ({})", columns.to_lowercase()), origin));
    }
    Ok(objects)
}

/// Rows of a table, and the sum of their hashes.
async fn content(connection: &mut SqliteConnection, name: &str) -> Result<TableContent, TargetError> {
    let columns = "SELECT name, pk > 0 FROM pragma_table_xinfo(?, 'main') WHERE hidden <> 1 ORDER BY name";
    let columns: Vec<(String, bool)> = rows(connection, columns, name).await?;
    let wanted: Vec<String> = columns.iter().map(|(column, _)| render::identifier(column)).collect();
    let sql = format!("SELECT {} FROM main.{}", wanted.join(", "), render::identifier(name));
    let mut stream = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch(connection);
    let (mut count, mut sum) = (0_u64, 0_u128);
    let mut each = vec![0_u128; columns.len()];
    while let Some(row) = stream.try_next().await.map_err(statement)? {
        let values = values(&row, 0..columns.len())?;
        let (mut whole, mut key) = (Sha256::new(), Sha256::new());
        for (value, (_, in_key)) in values.iter().zip(&columns) {
            add(&mut whole, value);
            if *in_key {
                add(&mut key, value);
            }
        }
        for (value, sum) in values.iter().zip(&mut each) {
            let mut hash = key.clone();
            add(&mut hash, value);
            *sum = sum.wrapping_add(short(hash));
        }
        sum = sum.wrapping_add(short(whole));
        count += 1;
    }
    Ok(TableContent {
        table: name.to_owned(),
        rows: count,
        hash: format!("{sum:032x}"),
        columns: columns
            .into_iter()
            .zip(each)
            .map(|((column, _), sum)| (column, format!("{sum:032x}")))
            .collect(),
    })
}

/// The first half of a hash as a number, to be added up.
fn short(hash: Sha256) -> u128 {
    let mut first = [0_u8; 16];
    first.copy_from_slice(&hash.finalize()[..16]);
    u128::from_be_bytes(first)
}

fn add(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hash.update(b"n"),
        Value::Integer(number) => {
            hash.update(b"i");
            hash.update(number.to_be_bytes());
        }
        Value::Real(number) => {
            hash.update(b"r");
            hash.update(number.to_bits().to_be_bytes());
        }
        Value::Text(bytes) => part(hash, b"t", bytes),
        Value::Blob(bytes) => part(hash, b"b", bytes),
    }
}

fn part(hash: &mut Sha256, tag: &[u8], bytes: &[u8]) {
    hash.update(tag);
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}
