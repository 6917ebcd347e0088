//! The values of a column that refers to files: page by page in the table's own order, all of them or those that name files in a roundabout
//! way; or which of some there are now. No read stays open between two pages, so that the application's writers and its checkpoints
//! go on.

use std::{collections::HashSet, sync::Arc};

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
    /// All values, or with a prefix those that go on after it with what is no plain name.
    pub(super) async fn open(
        mut connection: SqliteConnection,
        idle: Arc<Idle>,
        source: &ColumnSource,
        indirect: Option<&str>,
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
        parts.extend(indirect.map(|prefix| is_indirect(&column, prefix)));
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

/// Whether a value begins with a prefix and has an empty part, `.` or `..` after it. By bytes, whatever the column's collation.
fn is_indirect(column: &str, prefix: &str) -> String {
    let value = format!("CAST({column} AS TEXT)");
    let length = prefix.chars().count();
    let name = format!("('/' || substr({value}, {}) || '/')", length + 1);
    let has = |part: &str| format!("instr({name}, '{part}') > 0");
    format!(
        "substr({value}, 1, {length}) = {} AND ({} OR {} OR {})",
        render::literal(prefix),
        has("//"),
        has("/./"),
        has("/../")
    )
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
    let column = format!("t.{}", render::identifier(&source.column));
    let table = render::table(&source.table.name);
    let mut except = render::none_of(&source.except, "t")?;
    except.insert(0, String::new());
    let except = except.join(" AND ");
    let texts: Vec<Value> = wanted.iter().cloned().map(Value::Text).collect();
    // The same bytes as a BLOB are another value to SQLite, but the same name.
    let blobs = wanted.iter().cloned().map(Value::Blob);
    let list = |values: &[Value]| {
        let marks: Vec<String> = values
            .iter()
            .map(|value| format!("({})", render::placeholder(value)))
            .collect();
        // SQLite makes an index over the list, in the column's own collation, or uses that of the table.
        format!("FROM {table} AS t WHERE {column} IN (VALUES {}){except}", marks.join(", "))
    };
    let either: Vec<Value> = texts.iter().cloned().chain(blobs).collect();
    let sql = format!("SELECT DISTINCT {column} {}", list(&either));
    let found = fetch(connection, sql, either.iter()).await?;
    let (found, blobs): (Vec<Value>, Vec<Value>) = found.into_iter().partition(|value| !matches!(value, Value::Blob(_)));
    let blobs: HashSet<&[u8]> = blobs
        .iter()
        .filter_map(|value| match value {
            Value::Blob(bytes) => Some(bytes.as_slice()),
            _ => None,
        })
        .collect();
    let positions = wanted.iter().enumerate();
    let mut positions: Vec<usize> = positions
        .filter(|(_, value)| blobs.contains(value.as_slice()))
        .map(|(position, _)| position)
        .collect();
    if found.is_empty() {
        return Ok(positions);
    }
    // The column may take other spellings for the same, which only the database can say: each is compared with the few that are there.
    let rows: Vec<String> = texts
        .iter()
        .enumerate()
        .map(|(position, text)| format!("({position}, {})", render::placeholder(text)))
        .collect();
    let sql = format!(
        "WITH v(position, value) AS (VALUES {}), h AS (SELECT DISTINCT {column} AS value {}) \
         SELECT DISTINCT v.position FROM h CROSS JOIN v WHERE h.value = v.value",
        rows.join(", "),
        list(&found)
    );
    let equal = fetch(connection, sql, texts.iter().chain(&found)).await?;
    positions.extend(equal.into_iter().filter_map(|value| match value {
        Value::Integer(position) => usize::try_from(position).ok(),
        _ => None,
    }));
    positions.sort_unstable();
    positions.dedup();
    Ok(positions)
}

/// The only column of each row.
async fn fetch<'a>(
    connection: &mut SqliteConnection,
    sql: String,
    binds: impl Iterator<Item = &'a Value>,
) -> Result<Vec<Value>, TargetError> {
    let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    for value in binds {
        query = bind(query, value);
    }
    let rows = query.fetch_all(connection).await.map_err(statement)?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        found.extend(values(row, 0..1)?);
    }
    Ok(found)
}
