//! The values of a column that refers to files: page by page in the table's own order, or which of some there are now. No read stays
//! open between two pages, so that the application's writers and its checkpoints go on.

use std::sync::Arc;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{ColumnSource, RowKey, Value},
    port::{TargetError, TargetErrorClass, ValueStream},
};
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{Idle, bind, error::statement, render, values};

/// Values of one page.
const PAGE_ROWS: u32 = 10_000;

/// A pass in pages.
pub(super) struct PagedValues {
    /// Taken out while a statement runs: a future that is dropped midway must not give it back.
    connection: Option<SqliteConnection>,
    idle: Arc<Idle>,
    keys: String,
    width: usize,
    select: String,
    /// Keys of the last row of the page before.
    after: Option<RowKey>,
}

fn unsupported(message: String) -> TargetError {
    TargetError::new(TargetErrorClass::Unsupported, message)
}

impl PagedValues {
    pub(super) async fn open(
        mut connection: SqliteConnection,
        idle: Arc<Idle>,
        source: &ColumnSource,
    ) -> Result<Self, TargetError> {
        let encoding: String = sqlx::query_scalar("PRAGMA encoding")
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        if encoding != "UTF-8" {
            return Err(unsupported(format!(
                "the database is in {encoding}; references to files can be read from UTF-8 only"
            )));
        }
        let schema = &source.table;
        if schema.row_key.is_empty() {
            return Err(unsupported(format!("rows of {} have no key to read them by", schema.name)));
        }
        let keys = render::columns(schema.row_key.iter().map(String::as_str));
        let column = format!("t.{}", render::identifier(&source.column));
        let mut parts = vec![format!("{column} IS NOT NULL")];
        parts.extend(render::none_of(&source.except, "t")?);
        Ok(Self {
            connection: Some(connection),
            idle,
            width: schema.row_key.len(),
            select: format!(
                "SELECT CAST({column} AS TEXT), {keys} FROM {} AS t WHERE {}",
                render::table(&schema.name),
                parts.join(" AND ")
            ),
            keys,
            after: None,
        })
    }
}

#[async_trait]
impl ValueStream for PagedValues {
    async fn next(&mut self) -> Result<Vec<Vec<u8>>, TargetError> {
        let Some(mut connection) = self.connection.take() else {
            return Ok(Vec::new());
        };
        let mut sql = self.select.clone();
        if let Some(key) = &self.after {
            let marks = key.iter().map(render::placeholder).collect::<Vec<_>>().join(", ");
            sql.push_str(&format!(" AND ({}) > ({marks})", self.keys));
        }
        sql.push_str(&format!(" ORDER BY {} LIMIT {PAGE_ROWS}", self.keys));
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for value in self.after.iter().flatten() {
            query = bind(query, value);
        }
        let rows = query.fetch_all(&mut connection).await.map_err(statement)?;
        let Some(last) = rows.last() else {
            self.idle.put(connection);
            return Ok(Vec::new());
        };
        self.after = Some(values(last, 1..self.width + 1)?);
        let mut page = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(Value::Text(text)) = values(row, 0..1)?.pop() {
                page.push(text);
            }
        }
        self.connection = Some(connection);
        Ok(page)
    }
}

pub(super) async fn present(
    connection: &mut SqliteConnection,
    source: &ColumnSource,
    wanted: &[Vec<u8>],
) -> Result<Vec<usize>, TargetError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let texts: Vec<Value> = wanted.iter().cloned().map(Value::Text).collect();
    let rows: Vec<String> = texts
        .iter()
        .enumerate()
        .map(|(position, text)| format!("({position}, {})", render::placeholder(text)))
        .collect();
    let mut parts = vec![format!("t.{} = v.value", render::identifier(&source.column))];
    parts.extend(render::none_of(&source.except, "t")?);
    // The column's collation decides, since it stands on the left; without an index on it SQLite makes one over the values.
    let sql = format!(
        "WITH v(position, value) AS (VALUES {}) SELECT DISTINCT v.position FROM {} AS t CROSS JOIN v WHERE {} ORDER BY 1",
        rows.join(", "),
        render::table(&source.table.name),
        parts.join(" AND ")
    );
    let indexed = source.table.indexed(std::slice::from_ref(&source.column));
    let sql = if indexed {
        sql.replacen("AS t CROSS JOIN v", "AS t JOIN v", 1)
    } else {
        sql
    };
    let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    for text in &texts {
        query = bind(query, text);
    }
    let found = query.fetch_all(connection).await.map_err(statement)?;
    let mut positions = Vec::with_capacity(found.len());
    for row in &found {
        if let Some(Value::Integer(position)) = values(row, 0..1)?.pop() {
            positions.extend(usize::try_from(position));
        }
    }
    Ok(positions)
}
