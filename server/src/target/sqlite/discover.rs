//! Looking around in a SQLite database, for discovery. Reads only.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Row, TableKind, TableName, TableSchema},
    port::{DeclaredKey, Explore, Repeats, Sample, Target, TargetError, explore::SAMPLE_TEXT},
};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use super::{SqliteTarget, bind, error::statement, render, values};

/// Places of a large table at which a sample reads a stretch of rows.
const PLACES: u32 = 50;
/// Values bound by one statement; SQLite takes 32,766.
const BOUND: usize = 8_000;
/// Instructions between two looks at the clock.
const CLOCK_INTERVAL: i32 = 2_000;

/// Lets the database end whatever runs on this connection later than `limit` from now.
pub(super) async fn arm(connection: &mut SqliteConnection, limit: Duration) -> Result<(), TargetError> {
    let began = Instant::now();
    let mut handle = connection.lock_handle().await.map_err(statement)?;
    handle.set_progress_handler(CLOCK_INTERVAL, move || began.elapsed() < limit);
    Ok(())
}

/// Columns of `t` with long texts cut.
fn cut_columns(columns: &[String]) -> String {
    columns
        .iter()
        .map(|column| {
            let name = format!("t.{}", render::identifier(column));
            format!(
                "CASE WHEN typeof({name}) IN ('text', 'blob') AND length({name}) > {SAMPLE_TEXT} THEN substr({name}, 1, {SAMPLE_TEXT}) ELSE {name} END"
            )
        })
        .collect::<Vec<_>>()
        .join(", ")
}

/// The name by which rows are numbered; `None` where they are not.
fn rowid(table: &TableSchema) -> Option<&str> {
    match table.row_key.as_slice() {
        [name] if table.column(name).is_none() => Some(name),
        _ => None,
    }
}

async fn rows(connection: &mut SqliteConnection, sql: String, bound: &[i64], width: usize) -> Result<Vec<Row>, TargetError> {
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for value in bound {
        query = query.bind(*value);
    }
    let rows = query.fetch_all(connection).await.map_err(statement)?;
    rows.iter().map(|row| values(row, 0..width)).collect()
}

/// Stretches of rows from evenly spaced places of a table whose rows are numbered.
async fn stretches(
    connection: &mut SqliteConnection,
    table: &TableSchema,
    rowid: &str,
    columns: &str,
    (limit, width): (u32, usize),
) -> Result<Vec<Row>, TargetError> {
    let (name, rowid) = (render::table(&table.name), render::identifier(rowid));
    let ends = format!("SELECT (SELECT min({rowid}) FROM {name}), (SELECT max({rowid}) FROM {name})");
    let ends = sqlx::query(AssertSqlSafe(ends))
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    let first: Option<i64> = ends.try_get(0).map_err(statement)?;
    let last: Option<i64> = ends.try_get(1).map_err(statement)?;
    let (first, last) = (i128::from(first.unwrap_or(0)), i128::from(last.unwrap_or(0)));
    let sql = format!(
        "SELECT {columns} FROM {name} AS t WHERE t.{rowid} >= ? ORDER BY t.{rowid} LIMIT {}",
        limit.div_ceil(PLACES)
    );
    let mut found = Vec::new();
    for place in 0..PLACES {
        let start = first + (last - first) * i128::from(place) / i128::from(PLACES);
        let start = i64::try_from(start).unwrap_or(i64::MAX);
        found.extend(rows(connection, sql.clone(), &[start], width).await?);
    }
    Ok(found)
}

/// Declared keys of the tables that are not dbkeep's, with a name that says what they are.
pub(super) async fn keys(connection: &mut SqliteConnection) -> Result<Vec<DeclaredKey>, TargetError> {
    // A key that names no columns means the parent's primary key.
    let sql = "SELECT m.name, f.id, f.\"from\", p.name, coalesce(f.\"to\", \
                 (SELECT k.name FROM pragma_table_info(p.name) AS k WHERE k.pk = f.seq + 1)) \
               FROM main.sqlite_schema AS m, pragma_foreign_key_list(m.name) AS f \
               JOIN main.sqlite_schema AS p ON p.type = 'table' AND p.name = f.\"table\" COLLATE NOCASE \
               WHERE m.type = 'table' AND m.name NOT LIKE '\\_dbkeep\\_%' ESCAPE '\\' ORDER BY m.name, f.id, f.seq";
    let found = sqlx::query(sql).fetch_all(connection).await.map_err(statement)?;
    let mut found_keys: Vec<(i64, DeclaredKey)> = Vec::new();
    for row in found {
        let text = |column: usize| row.try_get_unchecked::<Option<String>, _>(column).map_err(statement);
        let id: i64 = row.try_get_unchecked(1).map_err(statement)?;
        let (Some(child), Some(column), Some(parent), Some(parent_column)) = (text(0)?, text(2)?, text(3)?, text(4)?) else {
            // A key to a table without a primary key is an error that SQLite reports when it is used.
            continue;
        };
        match found_keys.last_mut() {
            Some((last, key)) if *last == id && key.child.name == child => {
                key.columns.push(column);
                key.parent_columns.push(parent_column);
            }
            _ => found_keys.push((
                id,
                DeclaredKey {
                    name: String::new(),
                    child: TableName {
                        schema: None,
                        name: child,
                    },
                    columns: vec![column],
                    parent: TableName {
                        schema: None,
                        name: parent,
                    },
                    parent_columns: vec![parent_column],
                    checked: false,
                },
            )),
        }
    }
    let named = |(_, mut key): (i64, DeclaredKey)| {
        key.name = format!("{}({})", key.child.name, key.columns.join(", "));
        key
    };
    Ok(found_keys.into_iter().map(named).collect())
}

#[async_trait]
impl Explore for SqliteTarget {
    fn bounded(&self, limit: Duration) -> Arc<dyn Target> {
        Arc::new(Self {
            options: self.options.clone(),
            idle: Arc::default(),
            limit: Some(limit),
        })
    }

    async fn tables(&self) -> Result<Vec<TableName>, TargetError> {
        let mut connection = self.connection().await?;
        // Shadow and virtual tables have types of their own. A name that `table` or `schema.table` cannot say gets its schema.
        let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
                   AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_dbkeep\\_%' ESCAPE '\\' ORDER BY name";
        let names: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.map_err(statement)?;
        self.idle.put(connection);
        let named = |name: String| TableName {
            schema: name.contains('.').then(|| "main".to_owned()),
            name,
        };
        Ok(names.into_iter().map(named).collect())
    }

    async fn declared_keys(&self) -> Result<Vec<DeclaredKey>, TargetError> {
        let mut connection = self.connection().await?;
        let keys = keys(&mut connection).await?;
        self.idle.put(connection);
        Ok(keys)
    }

    async fn sample(&self, table: &TableSchema, columns: &[String], limit: u32) -> Result<Sample, TargetError> {
        let mut connection = self.connection().await?;
        let cut = cut_columns(columns);
        let (name, width) = (render::table(&table.name), columns.len());
        let most = limit as usize;
        let head = format!("SELECT {cut} FROM {name} AS t LIMIT {}", u64::from(limit) + 1);
        let mut found = rows(&mut connection, head, &[], width).await?;
        let whole = found.len() <= most;
        if !whole && table.kind == TableKind::Table {
            if let Some(rowid) = rowid(table) {
                found = stretches(&mut connection, table, rowid, &cut, (limit, width)).await?;
            } else if !table.row_key.is_empty() {
                // Keys have no middle that could be computed; both ends are read.
                let half = limit / 2;
                for order in ["ASC", "DESC"] {
                    let keys = table
                        .row_key
                        .iter()
                        .map(|key| format!("t.{} {order}", render::identifier(key)));
                    let order = keys.collect::<Vec<_>>().join(", ");
                    let sql = format!("SELECT {cut} FROM {name} AS t ORDER BY {order} LIMIT {half}");
                    found.truncate(half as usize);
                    found.extend(rows(&mut connection, sql, &[], width).await?);
                }
            }
        }
        found.truncate(most);
        self.idle.put(connection);
        Ok(Sample { rows: found, whole })
    }

    async fn present(&self, table: &TableSchema, columns: &[String], keys: &[Row]) -> Result<Vec<bool>, TargetError> {
        let mut connection = self.connection().await?;
        let mut present = vec![false; keys.len()];
        let names: Vec<String> = (0..columns.len()).map(|position| format!("k{position}")).collect();
        let same: Vec<String> = columns
            .iter()
            .zip(&names)
            .map(|(column, name)| format!("p.{} = v.{name}", render::identifier(column)))
            .collect();
        let step = (BOUND / columns.len().max(1)).max(1);
        for (chunk, start) in keys.chunks(step).zip((0_usize..).step_by(step)) {
            let tuples: Vec<String> = chunk
                .iter()
                .enumerate()
                .map(|(position, key)| {
                    let places: Vec<&str> = key.iter().map(render::placeholder).collect();
                    format!("({position}, {})", places.join(", "))
                })
                .collect();
            let sql = format!(
                "WITH v(i, {}) AS (VALUES {}) SELECT v.i FROM v WHERE EXISTS (SELECT 1 FROM {} AS p WHERE {})",
                names.join(", "),
                tuples.join(", "),
                render::table(&table.name),
                same.join(" AND ")
            );
            let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
            for value in chunk.iter().flatten() {
                query = bind(query, value);
            }
            for row in query.fetch_all(&mut connection).await.map_err(statement)? {
                let position: i64 = row.try_get_unchecked(0).map_err(statement)?;
                let place = usize::try_from(position)
                    .ok()
                    .and_then(|position| present.get_mut(start + position));
                if let Some(place) = place {
                    *place = true;
                }
            }
        }
        self.idle.put(connection);
        Ok(present)
    }

    async fn repeats(&self, table: &TableSchema, columns: &[String]) -> Result<Repeats, TargetError> {
        let mut connection = self.connection().await?;
        let names: Vec<String> = columns.iter().map(|column| render::identifier(column)).collect();
        let present: Vec<String> = names.iter().map(|name| format!("{name} IS NOT NULL")).collect();
        let sql = format!(
            "SELECT count(*), coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM {} WHERE {} GROUP BY {} HAVING count(*) > 1)",
            render::table(&table.name),
            present.join(" AND "),
            names.join(", ")
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .fetch_one(&mut connection)
            .await
            .map_err(statement)?;
        self.idle.put(connection);
        let number = |column: usize| row.try_get_unchecked::<i64, _>(column).map_err(statement);
        Ok(Repeats {
            keys: u64::try_from(number(0)?).unwrap_or(0),
            surplus: u64::try_from(number(1)?).unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_by_the_database() {
        assert_eq!(
            cut_columns(&["a\"b".to_owned()]),
            "CASE WHEN typeof(t.\"a\"\"b\") IN ('text', 'blob') AND length(t.\"a\"\"b\") > 200 THEN substr(t.\"a\"\"b\", 1, 200) ELSE t.\"a\"\"b\" END"
        );
    }
}
