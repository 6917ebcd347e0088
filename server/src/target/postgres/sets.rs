//! Rows that go because of other rows of their table that stay: listed together with those, their witnesses. In a batch the
//! witnesses are locked, and looked at again in the same snapshot; a row whose witness is gone stays. What is left after that is
//! about the row alone, so that the ordinary statements of a batch finish the work.
//!
//! A listed key is the row's ctid and primary key, then for a duplicate those of the row that stays, for an edge the ctids of the
//! cycle that it closes: itself, then the path of kept edges. An address that was used again proves nothing by itself:
//! whatever row is there now has to prove the same.

mod cycle;

use std::{borrow::Cow, collections::BTreeSet};

use dbkeep_engine::{
    model::{Condition, Order, Row, RowKey, Selection, TableSchema, TypeClass, Value},
    port::{Scan, Survey, TargetError},
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

pub(super) use self::cycle::CycleScan;
use super::{
    batch::{key_name, listed, unnest},
    begin_reading, columns_of,
    error::{refused, statement},
    line::Line,
    render,
    scan::CursorScan,
    text_row,
};

/// What the listing reads must not come from an index: that one is corrupt may be why there are duplicates.
const WITHOUT_INDEXES: &str = "SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off; \
     SET LOCAL cursor_tuple_fraction = 1";

/// How a column of the key is sorted: text by its bytes, so that the order is the same on every server.
fn collation(schema: &TableSchema, column: &str) -> &'static str {
    let text = schema.column(column).is_some_and(|column| column.class == TypeClass::Text);
    if text { " COLLATE \"C\"" } else { "" }
}

fn sorted(schema: &TableSchema, alias: &str, column: &str) -> String {
    format!("{alias}.{}{}", render::identifier(column), collation(schema, column))
}

/// `ORDER BY` of the rows of a key, the one that stays first.
fn order_by(schema: &TableSchema, order: &[Order], alias: &str) -> String {
    let by = order.iter().map(|order| {
        let direction = if order.newest_first {
            "DESC NULLS LAST"
        } else {
            "ASC NULLS FIRST"
        };
        format!("{alias}.{} {direction}", render::identifier(&order.column))
    });
    let key = schema.primary_key.iter().map(|column| sorted(schema, alias, column));
    let address = std::iter::once(format!("{alias}.ctid"));
    by.chain(key).chain(address).collect::<Vec<_>>().join(", ")
}

/// Whether row `one` stands before row `other` in that order; never NULL.
fn before(schema: &TableSchema, order: &[Order], one: &str, other: &str) -> String {
    let by = order.iter().map(|order| {
        let column = render::identifier(&order.column);
        (format!("{one}.{column}"), format!("{other}.{column}"), order.newest_first)
    });
    let key = schema
        .primary_key
        .iter()
        .map(|column| (sorted(schema, one, column), sorted(schema, other, column), false));
    let mut equal = Vec::new();
    let mut ways = Vec::new();
    for (one, other, newest_first) in by.chain(key) {
        let first = if newest_first {
            format!("({one} IS NOT NULL AND ({other} IS NULL OR {one} > {other}))")
        } else {
            format!("({other} IS NOT NULL AND ({one} IS NULL OR {one} < {other}))")
        };
        ways.push(equal.iter().cloned().chain([first]).collect::<Vec<_>>().join(" AND "));
        equal.push(format!("{one} IS NOT DISTINCT FROM {other}"));
    }
    equal.push(format!("{one}.ctid < {other}.ctid"));
    ways.push(equal.join(" AND "));
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
        "({} AND EXISTS (SELECT 1 FROM ONLY {} AS {better} WHERE {} AND {} AND {}))",
        render::condition(table, &row, alias)?,
        render::table(&table.name),
        render::same(&better, columns, alias, columns),
        render::condition(table, &row, &better)?,
        before(table, order, &better, alias),
    ))
}

/// The duplicates of a selection as `d(address, key.., keeper, keeper's key.., place)`, all with a place above 1.
fn duplicates(selection: &Selection) -> Result<String, TargetError> {
    let Condition::Duplicate { columns, order, .. } = &selection.matches else {
        return Err(refused("the selection is not about duplicates".to_owned()));
    };
    let schema = &selection.table;
    let mut wanted = vec!["t.ctid AS address".to_owned()];
    let mut keeper = vec!["first_value(t.ctid) OVER o AS keeper".to_owned()];
    for (place, column) in schema.row_key.iter().enumerate() {
        let column = render::identifier(column);
        wanted.push(format!("t.{column}::text AS key{place}"));
        keeper.push(format!("first_value(t.{column}::text) OVER o AS keeper{place}"));
    }
    let partition = columns.iter().map(|column| format!("t.{}", render::identifier(column)));
    Ok(format!(
        "(SELECT {}, {}, row_number() OVER o AS place {} WINDOW o AS (PARTITION BY {} ORDER BY {})) AS d WHERE d.place > 1",
        wanted.join(", "),
        keeper.join(", "),
        render::from_where(&selection.of_the_row())?,
        partition.collect::<Vec<_>>().join(", "),
        order_by(schema, order, "t"),
    ))
}

/// The listed columns of [`duplicates`].
fn listing(selection: &Selection) -> Result<String, TargetError> {
    let width = selection.table.row_key.len();
    let list = |address: &str, key: &str| {
        let keys = (0..width).map(|place| format!("d.{key}{place}"));
        let all: Vec<String> = std::iter::once(format!("d.{address}::text")).chain(keys).collect();
        all.join(", ")
    };
    Ok(format!(
        "SELECT {}, {} FROM {} ORDER BY d.address",
        list("address", "key"),
        list("keeper", "keeper"),
        duplicates(selection)?
    ))
}

/// A pass over the rows of a set. There is no position to resume from: a pass begins anew, and what is gone is not listed again.
pub(super) async fn scan(mut connection: Line, selection: &Selection, limit: u32) -> Result<Box<dyn Scan>, TargetError> {
    if matches!(selection.matches, Condition::Cycle { .. }) {
        return Ok(Box::new(CycleScan::open(connection, selection, limit).await?));
    }
    begin_reading(&mut connection).await?;
    connection.execute(WITHOUT_INDEXES).await.map_err(statement)?;
    let query = listing(selection)?;
    Ok(Box::new(
        CursorScan::begin(connection, selection, &query, (limit, limit), false).await?,
    ))
}

/// Exact count and samples.
pub(super) async fn survey(connection: &mut Line, selection: &Selection, samples: u32) -> Result<Survey, TargetError> {
    let schema = &selection.table;
    let columns = render::text_columns(schema.captured_columns().map(|column| column.name.as_str()));
    let from = format!("SELECT {columns} FROM ONLY {} AS t", render::table(&schema.name));
    let (count, addresses, sql) = if matches!(selection.matches, Condition::Cycle { .. }) {
        let (count, addresses) = cycle::survey(connection, selection, samples).await?;
        let sql = format!(
            "SELECT {columns} {} -- of these edges, the fewest that break every cycle",
            render::from_where(&selection.of_the_row())?
        );
        (count, addresses, sql)
    } else {
        begin_reading(connection).await?;
        connection.execute(WITHOUT_INDEXES).await.map_err(statement)?;
        let duplicates = duplicates(selection)?;
        let sql = format!(
            "WITH s AS MATERIALIZED (SELECT d.address FROM {duplicates}) \
             SELECT (SELECT count(*) FROM s), ARRAY(SELECT s.address::text FROM s LIMIT {samples})"
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_one(&mut *connection)
            .await
            .map_err(statement)?;
        let count: i64 = row.try_get(0).map_err(statement)?;
        let addresses: Vec<String> = row.try_get(1).map_err(statement)?;
        let count = u64::try_from(count).unwrap_or(0);
        (
            count,
            addresses,
            format!("{from} WHERE t.ctid IN (SELECT d.address FROM {duplicates})"),
        )
    };
    let mut rows = Vec::new();
    if !addresses.is_empty() {
        let found = sqlx::query(AssertSqlSafe(format!(
            "{from} WHERE t.ctid = ANY($1::text[]::tid[]) AND {}",
            render::predicate(&selection.of_the_row())?
        )));
        let found = found
            .persistent(false)
            .bind(addresses)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        rows = found.iter().map(text_row).collect::<Result<Vec<Row>, _>>()?;
    }
    connection.execute("COMMIT").await.map_err(statement)?;
    Ok(super::surveyed(count, rows, sql))
}

/// A statement that the database plans where it takes the conditions.
pub(super) fn explain(selection: &Selection) -> Result<String, TargetError> {
    match &selection.matches {
        Condition::Duplicate { .. } => listing(selection),
        Condition::Cycle { from, to, .. } => Ok(format!(
            "SELECT 1 {} AND {}",
            render::from_where(&selection.of_the_row())?,
            render::same("t", from, "t", to)
        )),
        _ => Ok(format!("SELECT 1 {}", render::from_where(selection)?)),
    }
}

/// Of listed rows those whose witnesses are still there and now locked, with what has to hold of such a row by itself. Any
/// selection that is not about sets passes as it is.
pub(super) async fn justified<'a>(
    connection: &mut Line,
    selection: &'a Selection,
    keys: &'a [RowKey],
) -> Result<(Cow<'a, Selection>, Cow<'a, [RowKey]>), TargetError> {
    if !selection.matches.is_about_sets() {
        return Ok((Cow::Borrowed(selection), Cow::Borrowed(keys)));
    }
    let row = selection.of_the_row();
    let width = 1 + selection.table.row_key.len();
    // By their addresses alone: an index on the key may be the one that is corrupt.
    let indexes = |switch: &str| {
        format!(
            "SET LOCAL enable_indexscan = {switch}; SET LOCAL enable_indexonlyscan = {switch}; SET LOCAL enable_bitmapscan = {switch}"
        )
    };
    connection.execute(AssertSqlSafe(indexes("off"))).await.map_err(statement)?;
    let proven = match &selection.matches {
        Condition::Duplicate { columns, order, .. } => kept(connection, &row, columns, order, keys, width).await?,
        _ => cycle::closed(connection, selection, &row, keys, width).await?,
    };
    connection.execute(AssertSqlSafe(indexes("on"))).await.map_err(statement)?;
    let keys = keys.iter().enumerate().filter(|(place, _)| proven.contains(&(place + 1)));
    let keys = keys.map(|(_, key)| key[..width].to_vec()).collect();
    Ok((Cow::Owned(row), Cow::Owned(keys)))
}

/// Places, from 1, of the listed duplicates whose keeper still is one.
async fn kept(
    connection: &mut Line,
    row: &Selection,
    columns: &[String],
    order: &[Order],
    keys: &[RowKey],
    width: usize,
) -> Result<BTreeSet<usize>, TargetError> {
    let schema = &row.table;
    let text = |value: Option<&Value>| match value {
        Some(Value::Text(text)) => Ok(text.clone()),
        _ => Err(refused(
            "a listed duplicate does not say what it is a duplicate of".to_owned(),
        )),
    };
    // In the order of the table, as any other batch would lock them.
    let mut keepers: Vec<RowKey> = keys.iter().map(|key| key[width.min(key.len())..].to_vec()).collect();
    keepers.sort_by_cached_key(|keeper| keeper.first().map(|address| text(Some(address)).unwrap_or_default()));
    keepers.dedup();
    let (same_row, key_types) = listed(row)?;
    let sql = format!(
        "SELECT t.ctid::text FROM ONLY {} AS t, {} WHERE {same_row} FOR SHARE OF t",
        render::table(&schema.name),
        unnest(&key_types)
    );
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for column in columns_of(&keepers, key_types.len())? {
        query = query.bind(column);
    }
    let locked = query.fetch_all(&mut *connection).await.map_err(statement)?;
    let locked = locked.iter().map(|row| row.try_get(0).map_err(statement));
    let locked: BTreeSet<String> = locked.collect::<Result<_, _>>()?;
    // (row, keeper) and the place in the list.
    let mut pairs = Vec::new();
    let mut places = Vec::new();
    for (place, key) in keys.iter().enumerate() {
        let keeper = text(key.get(width))?;
        if std::str::from_utf8(&keeper).is_ok_and(|keeper| locked.contains(keeper)) {
            pairs.push(vec![key[0].clone(), key[width].clone()]);
            places.push(place + 1);
        }
    }
    let table = render::table(&schema.name);
    let sql = format!(
        "SELECT k.dbkeep_place FROM {} JOIN ONLY {table} AS t ON t.ctid = k.{} JOIN ONLY {table} AS w ON w.ctid = k.{} WHERE {} AND {}",
        unnest(&["tid".to_owned(), "tid".to_owned()]),
        key_name(1),
        key_name(2),
        render::same("w", columns, "t", columns),
        before(schema, order, "w", "t"),
    );
    let mut query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql));
    for column in columns_of(&pairs, 2)? {
        query = query.bind(column);
    }
    let found = query.fetch_all(connection).await.map_err(statement)?;
    let place = |found: i64| usize::try_from(found - 1).ok().and_then(|found| places.get(found).copied());
    Ok(found.into_iter().filter_map(place).collect())
}
