//! Reads the shape of a table from SQLite's schema.

use dbkeep_engine::{
    model::{Column, ForeignKey, Generated, Index, OnDelete, TableKind, TableName, TableSchema, Trigger, TypeClass},
    port::{Namesakes, TargetError},
};
use sha2::{Digest as _, Sha256};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{error::statement, is_main};

/// Names under which a rowid can be reached, unless a column hides them.
const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

pub(super) async fn table(connection: &mut SqliteConnection, name: &TableName) -> Result<Option<TableSchema>, TargetError> {
    is_main(name)?;
    let sql = "SELECT name, type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE";
    let Some(found) = sqlx::query(sql)
        .bind(&name.name)
        .fetch_optional(&mut *connection)
        .await
        .map_err(statement)?
    else {
        return Ok(None);
    };
    let table: String = text(&found, 0)?;
    let kind = match text(&found, 1)?.as_str() {
        "table" => TableKind::Table,
        "view" => TableKind::View,
        _ => TableKind::Foreign,
    };
    let without_rowid = number(&found, 2)? != 0;
    let mut schema = TableSchema {
        name: TableName {
            schema: None,
            name: table.clone(),
        },
        kind,
        columns: Vec::new(),
        primary_key: Vec::new(),
        row_key: Vec::new(),
        indexes: Vec::new(),
        incoming: incoming(connection, &table).await?,
        triggers: triggers(connection, &table).await?,
        rewrite_rules: Vec::new(),
        row_security: false,
        lossy_columns: Vec::new(),
        shape_guard: shape_guard(connection, &table).await?,
    };
    let mut key = Vec::new();
    let sql = "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?) WHERE hidden <> 1 ORDER BY cid";
    for row in sqlx::query(sql)
        .bind(&table)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?
    {
        let (column, type_name) = (text(&row, 0)?, text(&row, 1)?);
        let position = number(&row, 3)?;
        if position > 0 {
            key.push((position, column.clone()));
        }
        schema.columns.push(Column {
            name: column,
            class: class(&type_name),
            type_name,
            nullable: number(&row, 2)? == 0,
            generated: if number(&row, 4)? == 0 {
                Generated::No
            } else {
                Generated::Yes
            },
        });
    }
    key.sort();
    schema.primary_key = key.into_iter().map(|(_, column)| column).collect();
    let hidden = |name: &&str| !schema.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    schema.row_key = match (kind, without_rowid) {
        (TableKind::Table, true) => schema.primary_key.clone(),
        (TableKind::Table, false) => ROWID_NAMES
            .iter()
            .copied()
            .find(hidden)
            .map(str::to_owned)
            .into_iter()
            .collect(),
        _ => Vec::new(),
    };
    schema.indexes = indexes(connection, &table).await?;
    // A key names its parent's columns as somebody wrote them.
    for named in schema.incoming.iter_mut().flat_map(|key| &mut key.parent_columns) {
        if let Some(column) = schema.columns.iter().find(|column| column.name.eq_ignore_ascii_case(named)) {
            named.clone_from(&column.name);
        }
    }
    Ok(Some(schema))
}

/// What a name could mean: there is one schema only, in which no two names differ by case alone.
pub(super) async fn namesakes(connection: &mut SqliteConnection, name: &TableName) -> Result<Namesakes, TargetError> {
    is_main(name)?;
    let of_main = |name: String| TableName { schema: None, name };
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE";
    let found: Option<String> = sqlx::query_scalar(sql)
        .bind(&name.name)
        .fetch_optional(connection)
        .await
        .map_err(statement)?;
    Ok(Namesakes {
        reached: found.map(of_main).into_iter().collect(),
        elsewhere: Vec::new(),
        made: of_main(name.name.clone()),
    })
}

/// A digest of everything that decides what a deletion from this table does: its own definition, its indexes and triggers,
/// and every table that may refer to it. One short read, so that every batch can afford it.
pub(super) async fn shape_guard(connection: &mut SqliteConnection, table: &str) -> Result<String, TargetError> {
    let sql = "SELECT coalesce(sql, name) FROM main.sqlite_schema \
               WHERE (tbl_name = ? COLLATE NOCASE OR (type = 'table' AND sql LIKE '%REFERENCES%')) AND name NOT LIKE '\\_dbkeep%' ESCAPE '\\' ORDER BY type, name";
    let mut hasher = Sha256::new();
    for row in sqlx::query(sql).bind(table).fetch_all(connection).await.map_err(statement)? {
        hasher.update(text(&row, 0)?);
        hasher.update([0]);
    }
    Ok(hex::encode(hasher.finalize()))
}

async fn indexes(connection: &mut SqliteConnection, table: &str) -> Result<Vec<Index>, TargetError> {
    let sql = "SELECT l.name, l.\"unique\", coalesce(i.name, '') FROM pragma_index_list(?) AS l, pragma_index_info(l.name) AS i \
               WHERE l.partial = 0 ORDER BY l.name, i.seqno";
    let mut indexes: Vec<(String, Index)> = Vec::new();
    for row in sqlx::query(sql).bind(table).fetch_all(connection).await.map_err(statement)? {
        let (name, column) = (text(&row, 0)?, text(&row, 2)?);
        match indexes.last_mut() {
            Some((last, index)) if *last == name => index.columns.push(column),
            _ => indexes.push((
                name,
                Index {
                    columns: vec![column],
                    unique: number(&row, 1)? != 0,
                },
            )),
        }
    }
    Ok(indexes.into_iter().map(|(_, index)| index).collect())
}

async fn incoming(connection: &mut SqliteConnection, table: &str) -> Result<Vec<ForeignKey>, TargetError> {
    let sql = "SELECT m.name, f.id, f.\"from\", f.on_delete, coalesce(f.\"to\", '') FROM main.sqlite_schema AS m, pragma_foreign_key_list(m.name) AS f \
               WHERE m.type = 'table' AND f.\"table\" = ? COLLATE NOCASE ORDER BY m.name, f.id, f.seq";
    let mut keys: Vec<(i64, ForeignKey)> = Vec::new();
    for row in sqlx::query(sql)
        .bind(table)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?
    {
        let (child, id, column) = (text(&row, 0)?, number(&row, 1)?, text(&row, 2)?);
        let parent_column = text(&row, 4)?;
        match keys.last_mut() {
            Some((last, key)) if *last == id && key.child.name == child => {
                key.child_columns.push(column);
                key.parent_columns.push(parent_column);
            }
            _ => {
                let on_delete = match text(&row, 3)?.as_str() {
                    "CASCADE" => OnDelete::Cascade,
                    "SET NULL" => OnDelete::SetNull,
                    "SET DEFAULT" => OnDelete::SetDefault,
                    "RESTRICT" => OnDelete::Restrict,
                    _ => OnDelete::NoAction,
                };
                let child = TableName {
                    schema: None,
                    name: child,
                };
                keys.push((
                    id,
                    ForeignKey {
                        name: String::new(),
                        child,
                        child_columns: vec![column],
                        parent_columns: vec![parent_column],
                        null_columns: Vec::new(),
                        on_delete,
                        indexed: false,
                    },
                ));
            }
        }
    }
    let mut incoming = Vec::with_capacity(keys.len());
    for (_, mut key) in keys {
        let sql = "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk";
        let primary = sqlx::query(sql)
            .bind(&key.child.name)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        let primary = primary.iter().map(|row| text(row, 0)).collect::<Result<Vec<_>, _>>()?;
        let leads = |columns: &[String]| {
            columns.len() >= key.child_columns.len()
                && key
                    .child_columns
                    .iter()
                    .all(|name| columns[..key.child_columns.len()].contains(name))
        };
        key.indexed = leads(&primary)
            || indexes(connection, &key.child.name)
                .await?
                .iter()
                .any(|index| leads(&index.columns));
        key.name = format!("{}({})", key.child.name, key.child_columns.join(", "));
        key.null_columns.clone_from(&key.child_columns);
        // A key that names no columns means the parent's primary key.
        if key.parent_columns.iter().any(String::is_empty) {
            let own = sqlx::query(sql)
                .bind(table)
                .fetch_all(&mut *connection)
                .await
                .map_err(statement)?;
            key.parent_columns = own.iter().map(|row| text(row, 0)).collect::<Result<Vec<_>, _>>()?;
        }
        incoming.push(key);
    }
    Ok(incoming)
}

async fn triggers(connection: &mut SqliteConnection, table: &str) -> Result<Vec<Trigger>, TargetError> {
    let sql = "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE ORDER BY name";
    let rows = sqlx::query(sql).bind(table).fetch_all(connection).await.map_err(statement)?;
    rows.iter()
        .map(|row| {
            let (name, sql) = (text(row, 0)?, text(row, 1)?);
            // SQLite keeps: CREATE TRIGGER name [BEFORE | AFTER | INSTEAD OF] DELETE | INSERT | UPDATE [OF ..] ON table ..
            let mut head = words(&sql).skip(3);
            let time = head.next().unwrap_or_default();
            let event = match time.as_str() {
                "BEFORE" | "AFTER" => head.next(),
                "INSTEAD" => head.nth(1),
                _ => Some(time.clone()),
            };
            let event = event.unwrap_or_default();
            Ok(Trigger {
                name,
                on_delete: event == "DELETE",
                on_update: event == "UPDATE",
                on_insert: event == "INSERT",
                before: time != "AFTER",
            })
        })
        .collect()
}

/// Words of a statement in capitals; a quoted name counts as one word and shows as its quote. Comments are left out.
fn words(sql: &str) -> impl Iterator<Item = String> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start();
            let first = rest.chars().next()?;
            let (skip, close) = match first {
                '"' | '`' | '\'' => (1, first.to_string()),
                '[' => (1, "]".to_owned()),
                '-' if rest.starts_with("--") => (2, "\n".to_owned()),
                '/' if rest.starts_with("/*") => (2, "*/".to_owned()),
                _ => {
                    let in_word = |character: char| {
                        character.is_ascii_alphanumeric() || matches!(character, '_' | '$') || !character.is_ascii()
                    };
                    let end = rest
                        .find(|character| !in_word(character))
                        .unwrap_or(rest.len())
                        .max(first.len_utf8());
                    let word = rest[..end].to_ascii_uppercase();
                    rest = &rest[end..];
                    return Some(word);
                }
            };
            rest = &rest[skip..];
            loop {
                let Some(end) = rest.find(&close) else {
                    rest = "";
                    break;
                };
                rest = &rest[end + close.len()..];
                // A quote that is doubled stands for itself.
                let doubled = skip == 1 && first != '[' && rest.starts_with(first);
                if !doubled {
                    break;
                }
                rest = &rest[1..];
            }
            if skip == 1 {
                return Some(first.to_string());
            }
        }
    })
}

/// The rules of SQLite's column affinity, as far as they matter here.
fn class(type_name: &str) -> TypeClass {
    let name = type_name.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    if has(&["INT"]) {
        TypeClass::Integer
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        TypeClass::Text
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        TypeClass::Real
    } else {
        TypeClass::Other
    }
}

fn text(row: &SqliteRow, column: usize) -> Result<String, TargetError> {
    row.try_get_unchecked(column).map_err(statement)
}

fn number(row: &SqliteRow, column: usize) -> Result<i64, TargetError> {
    row.try_get_unchecked(column).map_err(statement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_statement() {
        let words = |sql| words(sql).collect::<Vec<_>>();
        assert_eq!(
            words("CREATE  TRIGGER tr$ä\nbefore/* AFTER */delete -- on\non t"),
            ["CREATE", "TRIGGER", "TR$ä", "BEFORE", "DELETE", "ON", "T"]
        );
        assert_eq!(
            words("x \"a \"\"on\"\" b\" [c ]`d``e`'f''' y"),
            ["X", "\"", "[", "`", "'", "Y"]
        );
        assert_eq!(words("a.b \"open"), ["A", ".", "B", "\""]);
        assert_eq!(words("a /* open"), ["A"]);
    }
}
