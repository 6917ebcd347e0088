//! Rows that go because of other rows of their table that stay: listed together with those, their witnesses. A listing is made at
//! once, into a temporary table of a connection of its own, and read from there: no snapshot stays open while batches go on.
//! In a batch, which nobody else writes beside, the witnesses are looked at again; a row whose witness is gone stays. What is left
//! after that is about the row alone, so that the ordinary statements of a batch finish the work.
//!
//! A listed key is the row's own key, then for a duplicate that of the row that stays, for an edge those of the path of kept edges
//! that closes it into a cycle, one after another.

mod cycle;

use std::borrow::Cow;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Condition, Order, RowKey, Selection, TableSchema, Value},
    port::{Scan, Survey, TargetError, Window},
    share,
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqliteConnection};

use super::{
    batch::{parts, tuples},
    bind,
    error::{refused, statement},
    render, surveyed, values,
};

/// Temporary tables go to a file, and only so much of them stays in memory.
const SESSION: &str =
    "PRAGMA temp_store = FILE; PRAGMA temp.cache_size = -16384; PRAGMA main.cache_size = -8192; PRAGMA cache_spill = ON";

/// Columns that decide among rows that are otherwise equal, text by its bytes.
fn key_columns(schema: &TableSchema, alias: &str) -> Vec<String> {
    let columns = schema.primary_key.iter().chain(&schema.row_key);
    columns
        .map(|column| format!("{alias}.{} COLLATE BINARY", render::identifier(column)))
        .collect()
}

/// `ORDER BY` of the rows of a key, the one that stays first. NULL is the smallest value to SQLite, which makes it the oldest.
fn order_by(schema: &TableSchema, order: &[Order], alias: &str) -> String {
    let by = order.iter().map(|order| {
        let direction = if order.newest_first { "DESC" } else { "ASC" };
        format!("{alias}.{} {direction}", render::identifier(&order.column))
    });
    by.chain(key_columns(schema, alias)).collect::<Vec<_>>().join(", ")
}

/// Whether row `one` stands before row `other` in that order; never NULL.
fn before(schema: &TableSchema, order: &[Order], one: &str, other: &str) -> String {
    let by = order.iter().map(|order| {
        let column = render::identifier(&order.column);
        (format!("{one}.{column}"), format!("{other}.{column}"), order.newest_first)
    });
    let key = key_columns(schema, one).into_iter().zip(key_columns(schema, other));
    let key = key.map(|(one, other)| (one, other, false));
    let mut equal: Vec<String> = Vec::new();
    let mut ways = Vec::new();
    for (one, other, newest_first) in by.chain(key) {
        let (small, large) = if newest_first { (&other, &one) } else { (&one, &other) };
        let first = format!("({large} IS NOT NULL AND ({small} IS NULL OR {small} < {large}))");
        ways.push(equal.iter().cloned().chain([first]).collect::<Vec<_>>().join(" AND "));
        equal.push(format!("{one} IS {other}"));
    }
    format!("({})", ways.join(" OR "))
}

/// `Condition::Duplicate` of a row by itself: what a condition on later steps needs. A listing has [`duplicates`].
pub(super) fn is_duplicate(condition: &Condition, alias: &str) -> Result<String, TargetError> {
    let Condition::Duplicate {
        table, columns, order, ..
    } = condition
    else {
        return Err(refused("the rows of a cycle cannot be told one by one".to_owned()));
    };
    let row = condition.of_the_row();
    let better = format!("{alias}d");
    Ok(format!(
        "({} AND EXISTS (SELECT 1 FROM {} AS {better} WHERE {} AND {} AND {}))",
        render::condition(&row, alias)?,
        render::table(&table.name),
        render::same(&better, columns, alias, columns),
        render::condition(&row, &better)?,
        before(table, order, &better, alias),
    ))
}

/// Rows that count, read past every index: that one is corrupt may be why there are duplicates.
fn from_where(selection: &Selection) -> Result<String, TargetError> {
    Ok(format!(
        "FROM {} AS t NOT INDEXED WHERE {}",
        render::table(&selection.table.name),
        render::predicate(&selection.of_the_row())?
    ))
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|place| format!("{prefix}{place}")).collect()
}

/// The duplicates of a selection: their keys, then those of the rows that stay.
fn duplicates(selection: &Selection) -> Result<String, TargetError> {
    let Condition::Duplicate { columns, order, .. } = &selection.matches else {
        return Err(refused("the selection is not about duplicates".to_owned()));
    };
    let schema = &selection.table;
    let (own, keeper) = (names("own", schema.row_key.len()), names("keeper", schema.row_key.len()));
    let mut wanted = Vec::new();
    for (column, name) in schema.row_key.iter().zip(&own) {
        wanted.push(format!("t.{} AS {name}", render::identifier(column)));
    }
    for (column, name) in schema.row_key.iter().zip(&keeper) {
        wanted.push(format!("first_value(t.{}) OVER o AS {name}", render::identifier(column)));
    }
    Ok(format!(
        "SELECT d.{}, d.{} FROM (SELECT {}, row_number() OVER o AS place {} WINDOW o AS (PARTITION BY {} ORDER BY {})) AS d \
         WHERE d.place > 1 ORDER BY d.{}",
        own.join(", d."),
        keeper.join(", d."),
        wanted.join(", "),
        from_where(selection)?,
        render::columns(columns.iter().map(String::as_str)),
        order_by(schema, order, "t"),
        own.join(", d."),
    ))
}

async fn execute(connection: &mut SqliteConnection, sql: String) -> Result<u64, TargetError> {
    let done = sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(connection).await;
    Ok(done.map_err(statement)?.rows_affected())
}

/// Lists the duplicates into a temporary table; returns how many there are.
async fn list(connection: &mut SqliteConnection, selection: &Selection) -> Result<u64, TargetError> {
    list_into_temp(connection, 2 * selection.table.row_key.len(), &duplicates(selection)?).await
}

/// Keeps what a query of so many columns returns in a temporary table; returns the number of rows.
async fn list_into_temp(connection: &mut SqliteConnection, width: usize, query: &str) -> Result<u64, TargetError> {
    connection.execute(SESSION).await.map_err(statement)?;
    // Columns without a type keep every value as it is.
    let columns = names("v", width).join(", ");
    let create = format!("CREATE TEMP TABLE dbkeep_listed (number INTEGER PRIMARY KEY, {columns})");
    execute(connection, create).await?;
    execute(connection, format!("INSERT INTO temp.dbkeep_listed ({columns}) {query}")).await
}

/// Whether rows of the table decide over other rows of it. Listed stretch by stretch, such a pass would come upon rows that its own
/// batches have made match, which nobody has planned.
pub(super) fn judges_itself(selection: &Selection) -> bool {
    let parents = selection.matches.parents();
    parents.iter().any(|parent| parent.name == selection.table.name)
}

/// A pass over the rows of a set. There is no position to resume from: a pass begins anew, and what is gone is not listed again.
pub(super) async fn scan(
    mut connection: SqliteConnection,
    selection: &Selection,
    limit: u32,
) -> Result<Box<dyn Scan>, TargetError> {
    if matches!(selection.matches, Condition::Cycle { .. }) {
        return Ok(Box::new(cycle::CycleScan::open(connection, selection, limit).await?));
    }
    let (width, total) = if selection.matches.is_about_sets() {
        (2 * selection.table.row_key.len(), list(&mut connection, selection).await?)
    } else {
        let keys = render::columns(selection.table.row_key.iter().map(String::as_str));
        let query = format!(
            "SELECT {keys} FROM {} AS t WHERE {} ORDER BY {keys}",
            render::table(&selection.table.name),
            render::predicate(selection)?
        );
        let width = selection.table.row_key.len();
        (width, list_into_temp(&mut connection, width, &query).await?)
    };
    Ok(Box::new(ListedScan {
        connection,
        limit,
        width,
        last: 0,
        listed: 0,
        total,
    }))
}

/// Windows of a listing that is in a temporary table.
struct ListedScan {
    connection: SqliteConnection,
    limit: u32,
    width: usize,
    last: i64,
    listed: u64,
    total: u64,
}

#[async_trait]
impl Scan for ListedScan {
    async fn next(&mut self) -> Result<Option<Window>, TargetError> {
        let sql = format!(
            "SELECT {}, number FROM temp.dbkeep_listed WHERE number > ? ORDER BY number LIMIT {}",
            names("v", self.width).join(", "),
            self.limit
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(self.last)
            .fetch_all(&mut self.connection)
            .await
            .map_err(statement)?;
        let Some(last) = rows.last() else { return Ok(None) };
        self.last = last.try_get_unchecked(self.width).map_err(statement)?;
        self.listed += rows.len() as u64;
        let keys = rows.iter().map(|row| values(row, 0..self.width)).collect::<Result<_, _>>()?;
        Ok(Some(Window {
            keys,
            cursor: String::new(),
            examined: 0,
            fraction: share(self.listed, self.total),
        }))
    }
}

/// Exact count and samples.
pub(super) async fn survey(mut connection: SqliteConnection, selection: &Selection, samples: u32) -> Result<Survey, TargetError> {
    let schema = &selection.table;
    let (count, keys, sql) = if matches!(selection.matches, Condition::Cycle { .. }) {
        let (count, keys) = cycle::survey(&mut connection, selection, samples).await?;
        let sql = format!(
            "SELECT * {} -- of these edges, the fewest that break every cycle",
            from_where(selection)?
        );
        (count, keys, sql)
    } else {
        let count = list(&mut connection, selection).await?;
        let width = schema.row_key.len();
        let listed = format!(
            "SELECT {} FROM temp.dbkeep_listed ORDER BY number LIMIT {samples}",
            names("v", width).join(", ")
        );
        let rows = sqlx::query(AssertSqlSafe(listed))
            .fetch_all(&mut connection)
            .await
            .map_err(statement)?;
        let keys = rows.iter().map(|row| values(row, 0..width)).collect::<Result<Vec<_>, _>>()?;
        (count, keys, duplicates(selection)?)
    };
    let columns: Vec<&str> = schema.captured_columns().map(|column| column.name.as_str()).collect();
    let mut rows = Vec::new();
    for part in parts(&keys) {
        let sql = format!(
            "SELECT {} FROM {} AS t WHERE ({}) IN (VALUES {}) AND {}",
            render::columns(columns.iter().copied()),
            render::table(&schema.name),
            render::columns(schema.row_key.iter().map(String::as_str)),
            tuples(part),
            render::predicate(&selection.of_the_row())?
        );
        let query = bind_all(sqlx::query(AssertSqlSafe(sql)).persistent(false), part.iter().flatten());
        for row in query.fetch_all(&mut connection).await.map_err(statement)? {
            rows.push(values(&row, 0..columns.len())?);
        }
    }
    Ok(surveyed(count, rows, sql))
}

/// A statement that the database plans where it takes the conditions.
pub(super) fn explain(selection: &Selection) -> Result<String, TargetError> {
    match &selection.matches {
        Condition::Duplicate { .. } => duplicates(selection),
        Condition::Cycle { from, to, .. } => Ok(format!(
            "SELECT 1 {} AND {}",
            from_where(selection)?,
            render::same("t", from, "t", to)
        )),
        _ => Ok(format!(
            "SELECT 1 FROM {} AS t WHERE {}",
            render::table(&selection.table.name),
            render::predicate(selection)?
        )),
    }
}

/// Of listed rows those whose witnesses are still there, with what has to hold of such a row by itself. Any selection that is not
/// about sets passes as it is.
pub(super) async fn justified<'a>(
    connection: &mut SqliteConnection,
    selection: &'a Selection,
    keys: &'a [RowKey],
) -> Result<(Cow<'a, Selection>, Cow<'a, [RowKey]>), TargetError> {
    if !selection.matches.is_about_sets() {
        return Ok((Cow::Borrowed(selection), Cow::Borrowed(keys)));
    }
    let row = selection.of_the_row();
    let proven = match &selection.matches {
        Condition::Duplicate { columns, order, .. } => kept(connection, &row, columns, order, keys).await?,
        _ => cycle::closed(connection, selection, &row, keys).await?,
    };
    Ok((Cow::Owned(row), Cow::Owned(proven)))
}

/// `t.key = k.column1 AND ..`, from the given column of a list of values on.
fn same_key(schema: &TableSchema, alias: &str, from: usize) -> String {
    let names: Vec<String> = (1..=schema.row_key.len())
        .map(|place| format!("column{}", from + place))
        .collect();
    render::same(alias, &schema.row_key, "k", &names)
}

/// Keys of the listed duplicates whose keeper still is one.
async fn kept(
    connection: &mut SqliteConnection,
    row: &Selection,
    columns: &[String],
    order: &[Order],
    keys: &[RowKey],
) -> Result<Vec<RowKey>, TargetError> {
    let schema = &row.table;
    let width = schema.row_key.len();
    if keys.iter().any(|key| key.len() != 2 * width) {
        return Err(refused(
            "a listed duplicate does not say what it is a duplicate of".to_owned(),
        ));
    }
    let table = render::table(&schema.name);
    let names: Vec<String> = schema
        .row_key
        .iter()
        .map(|name| format!("r.{}", render::identifier(name)))
        .collect();
    let mut proven = Vec::new();
    for part in parts(keys) {
        // CROSS JOIN keeps the order: the listed keys first, then the rows by their keys and no other index.
        let sql = format!(
            "SELECT {} FROM (VALUES {}) AS k CROSS JOIN {table} AS r NOT INDEXED CROSS JOIN {table} AS w NOT INDEXED \
             WHERE {} AND {} AND {} AND {} AND {} AND {}",
            names.join(", "),
            tuples(part),
            same_key(schema, "r", 0),
            same_key(schema, "w", width),
            render::same("w", columns, "r", columns),
            before(schema, order, "w", "r"),
            render::predicate_of(row, "r")?,
            render::predicate_of(row, "w")?,
        );
        let query = bind_all(sqlx::query(AssertSqlSafe(sql)), part.iter().flatten());
        for found in query.fetch_all(&mut *connection).await.map_err(statement)? {
            proven.push(values(&found, 0..width)?);
        }
    }
    Ok(proven)
}

/// Binds the values of a list of keys one after another.
fn bind_all<'q>(mut query: super::Query<'q>, values: impl IntoIterator<Item = &'q Value>) -> super::Query<'q> {
    for value in values {
        query = bind(query, value);
    }
    query
}
