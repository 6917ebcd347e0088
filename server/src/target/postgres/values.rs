//! The values of a column that refers to files: all of them in one snapshot, those that name files in a roundabout way, or which of some
//! there are now. Partitions and inheriting tables count: whichever of them holds the row, the file is in use.

use async_trait::async_trait;
use dbkeep_engine::{
    model::ColumnSource,
    port::{TargetError, ValueStream},
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{begin_reading, error::statement, line::Line, render};

/// Values of one page.
const PAGE_ROWS: u32 = 10_000;

/// One cursor in one snapshot.
pub(super) struct CursorValues {
    connection: Line,
}

impl CursorValues {
    /// All values, or with a prefix those that go on after it with what is no plain name.
    pub(super) async fn open(mut connection: Line, source: &ColumnSource, indirect: Option<&str>) -> Result<Self, TargetError> {
        begin_reading(&mut connection).await?;
        let column = format!("t.{}", render::identifier(&source.column));
        let mut parts = vec![format!("{column} IS NOT NULL")];
        parts.extend(indirect.map(|prefix| is_indirect(&column, prefix)));
        parts.extend(render::none_of(&source.table, &source.except, "t")?);
        let declare = format!(
            "SET LOCAL cursor_tuple_fraction = 1; DECLARE dbkeep_values NO SCROLL CURSOR FOR SELECT {column}::text FROM {} AS t WHERE {}",
            render::table(&source.table.name),
            parts.join(" AND ")
        );
        connection.execute(AssertSqlSafe(declare)).await.map_err(statement)?;
        Ok(Self { connection })
    }
}

/// Whether a value begins with a prefix and has an empty part, `.` or `..` after it. By bytes, whatever the column's collation.
fn is_indirect(column: &str, prefix: &str) -> String {
    let value = format!("({column}::text COLLATE \"C\")");
    let name = format!("('/' || substr({value}, {}) || '/')", prefix.chars().count() + 1);
    let has = |part: &str| format!("strpos({name}, '{part}') > 0");
    format!(
        "starts_with({value}, {}) AND ({} OR {} OR {})",
        render::literal(prefix),
        has("//"),
        has("/./"),
        has("/../")
    )
}

#[async_trait]
impl ValueStream for CursorValues {
    async fn next(&mut self) -> Result<Vec<Vec<u8>>, TargetError> {
        let fetch = format!("FETCH FORWARD {PAGE_ROWS} FROM dbkeep_values");
        let rows = sqlx::query(AssertSqlSafe(fetch))
            .fetch_all(&mut self.connection)
            .await
            .map_err(statement)?;
        let value = |row: &sqlx::postgres::PgRow| row.try_get::<String, _>(0).map(String::into_bytes).map_err(statement);
        rows.iter().map(value).collect()
    }
}

pub(super) async fn present(connection: &mut Line, source: &ColumnSource, values: &[Vec<u8>]) -> Result<Vec<usize>, TargetError> {
    // What is no text of the database's encoding, or has a NUL in it, cannot be in a column of it.
    let texts = values.iter().enumerate().filter_map(|(position, value)| {
        let text = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0'))?;
        Some((i64::try_from(position).ok()?, text))
    });
    let (positions, texts): (Vec<i64>, Vec<&str>) = texts.unzip();
    let mut parts = vec![format!("t.{} = v.value", render::identifier(&source.column))];
    parts.extend(render::none_of(&source.table, &source.except, "t")?);
    let sql = format!(
        "SELECT v.position FROM unnest($1::bigint[], $2::text[]) AS v(position, value) WHERE EXISTS (SELECT 1 FROM {} AS t WHERE {}) ORDER BY 1",
        render::table(&source.table.name),
        parts.join(" AND ")
    );
    let found: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(positions)
        .bind(texts)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    Ok(found
        .into_iter()
        .filter_map(|position| usize::try_from(position).ok())
        .collect())
}
