//! Questions about a database that change nothing: whether a check holds, how large tables are, whether an index is there.

use dbkeep_engine::{
    model::{EngineKind, Script, TableMeasure, Value},
    port::{MigratorError, TargetError, TargetErrorClass},
};
use sqlx::{AssertSqlSafe, Executor as _, SqliteConnection};

use super::{
    super::{error::statement, render, value},
    problem,
};
use crate::target::{
    ledger::{does_not_verify, judged},
    words::{after_if_exists, are, name_at, words},
};

/// Most rows that are counted.
const COUNTED: i64 = 1_000_000;
/// Files up to this size are read for the sizes of their tables, bytes.
const READ: i64 = 256 << 20;

/// What a check found, where it does not hold. The connection cannot write meanwhile.
pub(super) async fn hold(connection: &mut SqliteConnection, query: &str) -> Result<Option<String>, TargetError> {
    // In a query of its own it is a single query, or an error.
    let sql = format!("SELECT * FROM (\n{}\n)", query.trim().trim_end_matches(';'));
    connection.execute("PRAGMA query_only = ON").await.map_err(statement)?;
    let rows = sqlx::query(AssertSqlSafe(sql))
        .persistent(false)
        .fetch_all(&mut *connection)
        .await;
    connection.execute("PRAGMA query_only = OFF").await.map_err(statement)?;
    let mut first = Vec::new();
    for row in &rows.map_err(statement)? {
        first.push(match value(row, 0)? {
            Value::Null => None,
            Value::Integer(number) => Some(number.to_string()),
            Value::Real(number) => Some(number.to_string()),
            Value::Text(text) | Value::Blob(text) => Some(String::from_utf8_lossy(&text).into_owned()),
        });
    }
    Ok(judged(&first))
}

/// Whether all checks hold.
pub(super) async fn hold_all(connection: &mut SqliteConnection, checks: &[String]) -> Result<(), MigratorError> {
    for check in checks {
        let found = match hold(connection, check).await {
            Ok(None) => continue,
            Ok(Some(found)) => found,
            Err(error) if error.class == TargetErrorClass::Lost => return Err(error.into()),
            Err(error) => error.message,
        };
        return Err(MigratorError::Check {
            check: check.clone(),
            found,
        });
    }
    Ok(())
}

/// Whether the script that fails where the migration is not in effect goes through. What it does is taken back, within a transaction that
/// is open and without one.
pub(super) async fn verify(connection: &mut SqliteConnection, script: Option<&Script>) -> Result<(), MigratorError> {
    let Some(script) = script else { return Ok(()) };
    connection.execute("SAVEPOINT dbkeep_verify").await.map_err(statement)?;
    let mut failed = None;
    for one in script.statements() {
        let ran = sqlx::raw_sql(AssertSqlSafe(one.sql.clone())).execute(&mut *connection).await;
        if let Err(error) = ran {
            failed = Some(does_not_verify(problem::of_statement(error, 0, &one.sql), script, one));
            break;
        }
    }
    connection
        .execute("ROLLBACK TO dbkeep_verify; RELEASE dbkeep_verify")
        .await
        .map_err(statement)?;
    failed.map_or(Ok(()), Err)
}

/// The last part of a name as a statement writes it.
fn bare(name: &str) -> String {
    let words = words(name, EngineKind::Sqlite);
    let parts = name_at(&words, 0).map(|(parts, _)| parts);
    let last = parts.and_then(|parts| parts.last().map(|part| part.text.clone()));
    last.unwrap_or_else(|| name.to_owned())
}

/// How large tables are.
pub(super) async fn measure(connection: &mut SqliteConnection, tables: &[String]) -> Result<Vec<TableMeasure>, TargetError> {
    let size = "SELECT p.page_count * s.page_size FROM pragma_page_count AS p, pragma_page_size AS s";
    let file: i64 = sqlx::query_scalar(size)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    let mut measures = Vec::with_capacity(tables.len());
    for table in tables {
        let found: Option<(String, bool)> = sqlx::query_as(
            "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name = ? COLLATE NOCASE",
        )
        .bind(bare(table))
        .fetch_optional(&mut *connection)
        .await
        .map_err(statement)?;
        let Some((name, without_rowid)) = found else {
            measures.push(TableMeasure {
                table: table.clone(),
                rows: None,
                bytes: 0,
            });
            continue;
        };
        let full = format!("main.{}", render::identifier(&name));
        let count = format!("SELECT count(*) FROM (SELECT 1 FROM {full} LIMIT {COUNTED})");
        let mut rows: i64 = sqlx::query_scalar(AssertSqlSafe(count))
            .fetch_one(&mut *connection)
            .await
            .map_err(statement)?;
        if rows == COUNTED && !without_rowid {
            let largest = format!("SELECT coalesce(max(_rowid_), 0) FROM {full}");
            // A column may have taken that name; the count up to the limit is the estimate then.
            let largest: Result<i64, _> = sqlx::query_scalar(AssertSqlSafe(largest)).fetch_one(&mut *connection).await;
            rows = rows.max(largest.unwrap_or(rows));
        }
        let bytes = if file <= READ {
            // Not every SQLite has this table.
            let bytes: Result<i64, _> = sqlx::query_scalar(
                "SELECT coalesce(sum(d.pgsize), 0) FROM main.sqlite_schema AS s JOIN dbstat AS d ON d.name = s.name AND d.aggregate = TRUE \
                 WHERE s.tbl_name = ? COLLATE NOCASE AND s.type IN ('table', 'index')",
            )
            .bind(&name)
            .fetch_one(&mut *connection)
            .await;
            bytes.unwrap_or(0)
        } else {
            0
        };
        measures.push(TableMeasure {
            table: table.clone(),
            rows: u64::try_from(rows).ok(),
            bytes: u64::try_from(bytes).unwrap_or(0),
        });
    }
    Ok(measures)
}

/// Name of the index that a statement makes or drops.
pub(super) fn index_of(sql: &str) -> Option<String> {
    let words = words(sql, EngineKind::Sqlite);
    let unique = usize::from(are(&words, 1, &["UNIQUE"]));
    let at = if are(&words, 0, &["CREATE"]) && are(&words, 1 + unique, &["INDEX"]) {
        after_if_exists(&words, 2 + unique)
    } else if are(&words, 0, &["DROP", "INDEX"]) {
        after_if_exists(&words, 2)
    } else {
        return None;
    };
    let (parts, _) = name_at(&words, at)?;
    parts.last().map(|part| part.text.clone())
}

/// Whether there is an index of that name.
pub(super) async fn index_exists(connection: &mut SqliteConnection, name: &str) -> Result<bool, TargetError> {
    let sql = "SELECT 1 FROM main.sqlite_schema WHERE type = 'index' AND name = ? COLLATE NOCASE";
    Ok(sqlx::query(sql)
        .bind(name)
        .fetch_optional(connection)
        .await
        .map_err(statement)?
        .is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_statement_is_found() {
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(
            index_of("create unique index if not exists main.\"A b\" on t (x)"),
            some("A b")
        );
        assert_eq!(index_of("DROP INDEX IF EXISTS i"), some("i"));
        assert_eq!(index_of("VACUUM"), None);
    }
}
