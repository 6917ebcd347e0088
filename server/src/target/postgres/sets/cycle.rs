//! Edges that close a cycle. The database numbers the nodes and takes out, round by round, edges that begin where none ends or
//! end where none begins; what is left travels as two numbers for each edge to [`job`]. The work is done in temporary tables of
//! the scan's own connection, so that no snapshot stays open meanwhile.

use std::collections::BTreeSet;

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Condition, RowKey, Selection, Value},
    port::{Scan, TargetError, Window},
    rule::cycle::{
        feedback::Feedback,
        graph::Edge,
        job::{self, Rings, Trimming},
    },
};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::super::line::Line;
use super::{
    super::{
        error::{refused, statement},
        render, text_row,
    },
    collation,
};

/// Edges of witnesses in one window, unless a single row has more.
const WINDOW_WITNESSES: usize = 100_000;

fn named(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|place| format!("{prefix}{place}")).collect()
}

async fn execute(connection: &mut Line, sql: String) -> Result<u64, TargetError> {
    let done = sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(connection).await;
    Ok(done.map_err(statement)?.rows_affected())
}

/// Reads the edges in one statement, numbers and trims them, and decides.
async fn find(connection: &mut Line, selection: &Selection) -> Result<Feedback, TargetError> {
    let Condition::Cycle { from, to, .. } = &selection.matches else {
        return Err(refused("the selection is not about cycles".to_owned()));
    };
    let schema = &selection.table;
    let settings = "SET jit = off; SET work_mem = '64MB'; SET enable_nestloop = off; SET synchronize_seqscans = off; \
                    DROP TABLE IF EXISTS pg_temp.dbkeep_edge, pg_temp.dbkeep_node, pg_temp.dbkeep_pair, pg_temp.dbkeep_left";
    connection.execute(settings).await.map_err(statement)?;
    let (starts, ends) = (named("s", from.len()), named("e", to.len()));
    let keys = named("k", schema.row_key.len());
    let columns = [(from, &starts), (to, &ends), (&schema.row_key, &keys)];
    let columns = columns
        .iter()
        .flat_map(|(columns, names)| columns.iter().zip(names.iter()))
        .map(|(column, name)| format!("t.{} AS {name}", render::identifier(column)));
    let sql = format!(
        "CREATE TEMPORARY TABLE dbkeep_edge AS SELECT row_number() OVER () AS edge, t.ctid AS address, {} {}",
        columns.collect::<Vec<_>>().join(", "),
        render::from_where(&selection.of_the_row())?
    );
    execute(connection, sql).await?;
    let same = |alias: &str, names: &[String]| {
        let pairs = names.iter().enumerate();
        let pairs = pairs.map(|(place, name)| format!("{alias}.n{place} = x.{name}"));
        pairs.collect::<Vec<_>>().join(" AND ")
    };
    let first: Vec<String> = starts
        .iter()
        .enumerate()
        .map(|(place, name)| format!("{name} AS n{place}"))
        .collect();
    let sql = format!(
        "CREATE TEMPORARY TABLE dbkeep_node AS SELECT row_number() OVER ()::integer AS node, n.* FROM \
         (SELECT {} FROM pg_temp.dbkeep_edge UNION SELECT {} FROM pg_temp.dbkeep_edge) AS n",
        first.join(", "),
        ends.join(", ")
    );
    execute(connection, sql).await?;
    connection
        .execute("ANALYZE pg_temp.dbkeep_edge; ANALYZE pg_temp.dbkeep_node")
        .await
        .map_err(statement)?;
    let sql = format!(
        "CREATE TEMPORARY TABLE dbkeep_pair AS SELECT x.edge, a.node AS start, b.node AS finish FROM pg_temp.dbkeep_edge AS x \
         JOIN pg_temp.dbkeep_node AS a ON {} JOIN pg_temp.dbkeep_node AS b ON {}",
        same("a", &starts),
        same("b", &ends)
    );
    let mut edges = execute(connection, sql).await?;
    let mut trimming = Trimming::of(edges);
    while trimming.goes_on() {
        let sql = "CREATE TEMPORARY TABLE dbkeep_next AS SELECT p.* FROM pg_temp.dbkeep_pair AS p \
                   WHERE p.start IN (SELECT q.finish FROM pg_temp.dbkeep_pair AS q) AND p.finish IN (SELECT q.start FROM pg_temp.dbkeep_pair AS q)";
        let left = execute(connection, sql.to_owned()).await?;
        let replace =
            "DROP TABLE pg_temp.dbkeep_pair; ALTER TABLE pg_temp.dbkeep_next RENAME TO dbkeep_pair; ANALYZE pg_temp.dbkeep_pair";
        connection.execute(replace).await.map_err(statement)?;
        trimming.took_out(edges - left);
        edges = left;
    }
    let edges = trimming.left(&schema.name)?;
    let order: Vec<String> = schema
        .row_key
        .iter()
        .zip(&keys)
        .map(|(column, name)| format!("x.{name}{}", collation(schema, column)))
        .collect();
    let texts: Vec<String> = keys.iter().map(|name| format!("x.{name}::text AS {name}")).collect();
    let sql = format!(
        "CREATE TEMPORARY TABLE dbkeep_left AS SELECT (row_number() OVER (ORDER BY {}, x.address) - 1)::integer AS number, \
         p.start, p.finish, x.address, {} FROM pg_temp.dbkeep_pair AS p JOIN pg_temp.dbkeep_edge AS x ON x.edge = p.edge",
        order.join(", "),
        texts.join(", ")
    );
    execute(connection, sql).await?;
    connection
        .execute(
            "DROP TABLE pg_temp.dbkeep_edge, pg_temp.dbkeep_node, pg_temp.dbkeep_pair; \
             CREATE UNIQUE INDEX ON pg_temp.dbkeep_left (number); ANALYZE pg_temp.dbkeep_left; RESET enable_nestloop",
        )
        .await
        .map_err(statement)?;
    let mut list = Vec::with_capacity(edges);
    let mut rows = sqlx::query("SELECT l.start, l.finish FROM pg_temp.dbkeep_left AS l ORDER BY l.number")
        .persistent(false)
        .fetch(&mut *connection);
    let node = |row: &sqlx::postgres::PgRow, column: usize| -> Result<u32, TargetError> {
        let node: i32 = row.try_get(column).map_err(statement)?;
        u32::try_from(node).map_err(|error| refused(error.to_string()))
    };
    while let Some(row) = rows.try_next().await.map_err(statement)? {
        list.push(Edge {
            from: node(&row, 0)?,
            to: node(&row, 1)?,
        });
    }
    drop(rows);
    job::find(list).await
}

/// (address, key) of edges, in the order of their numbers in the list. A key has so many columns.
async fn rows(connection: &mut Line, width: usize, numbers: &[u32]) -> Result<Vec<RowKey>, TargetError> {
    let keys: String = named(", l.k", width).concat();
    let sql = format!(
        "SELECT l.address::text{keys} FROM unnest($1::integer[]) WITH ORDINALITY AS u(number, place) \
         JOIN pg_temp.dbkeep_left AS l ON l.number = u.number ORDER BY u.place"
    );
    let numbers: Vec<i32> = numbers
        .iter()
        .map(|number| i32::try_from(*number).unwrap_or(i32::MAX))
        .collect();
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(numbers)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter().map(text_row).collect()
}

/// Count of the edges that go, and addresses of some of them. Leaves a transaction open, in which those can be read.
pub(super) async fn survey(
    connection: &mut Line,
    selection: &Selection,
    samples: u32,
) -> Result<(u64, Vec<String>), TargetError> {
    let found = find(connection, selection).await?;
    let removed = found.removed();
    let some = &removed[..removed.len().min(samples as usize)];
    let rows = rows(connection, selection.table.row_key.len(), some).await?;
    super::begin_reading(connection).await?;
    let address = |key: &RowKey| match key.first() {
        Some(Value::Text(address)) => String::from_utf8(address.clone()).ok(),
        _ => None,
    };
    Ok((removed.len() as u64, rows.iter().filter_map(address).collect()))
}

/// A pass over the edges that go.
pub(in super::super) struct CycleScan {
    connection: Line,
    rings: Rings,
    width: usize,
}

impl CycleScan {
    pub(super) async fn open(mut connection: Line, selection: &Selection, limit: u32) -> Result<Self, TargetError> {
        let found = find(&mut connection, selection).await?;
        Ok(Self {
            connection,
            rings: Rings::of(found, limit, WINDOW_WITNESSES),
            width: selection.table.row_key.len(),
        })
    }
}

#[async_trait]
impl Scan for CycleScan {
    async fn next(&mut self) -> Result<Option<Window>, TargetError> {
        let rings = self.rings.next().await?;
        let numbers: Vec<u32> = rings.iter().flatten().copied().collect();
        let rows = if numbers.is_empty() {
            Vec::new()
        } else {
            rows(&mut self.connection, self.width, &numbers).await?
        };
        if rows.len() != numbers.len() {
            return Err(refused("an edge that was listed has no row".to_owned()));
        }
        let mut rows = rows.into_iter();
        let mut keys = Vec::with_capacity(rings.len());
        for ring in &rings {
            let members: Vec<RowKey> = rows.by_ref().take(ring.len()).collect();
            let addresses = members.iter().map(|member| match member.first() {
                Some(Value::Text(address)) => format!("\"{}\"", String::from_utf8_lossy(address)),
                _ => String::new(),
            });
            let addresses = format!("{{{}}}", addresses.collect::<Vec<_>>().join(","));
            if let Some(mut key) = members.into_iter().next() {
                key.push(Value::Text(addresses.into_bytes()));
                keys.push(key);
            }
        }
        Ok((!keys.is_empty()).then_some(Window {
            keys,
            cursor: String::new(),
            examined: 0,
            fraction: self.rings.fraction(),
        }))
    }
}

/// Places, from 1, of the listed edges that still close the ring they were listed with; its other edges are locked.
pub(super) async fn closed(
    connection: &mut Line,
    selection: &Selection,
    row: &Selection,
    keys: &[RowKey],
    width: usize,
) -> Result<BTreeSet<usize>, TargetError> {
    let Condition::Cycle { from, to, .. } = &selection.matches else {
        return Err(refused("the selection is not about cycles".to_owned()));
    };
    let ring = |key: &RowKey| match key.get(width) {
        Some(Value::Text(ring)) => String::from_utf8(ring.clone()).map_err(|error| refused(error.to_string())),
        _ => Err(refused("a listed edge does not say which cycle it closes".to_owned())),
    };
    let rings = keys.iter().map(ring).collect::<Result<Vec<String>, _>>()?;
    let table = render::table(&selection.table.name);
    let predicate = render::predicate(row)?;
    // The listed edges themselves are locked by their deletion.
    let sql = format!(
        "SELECT 1 FROM ONLY {table} AS t WHERE t.ctid = ANY(ARRAY(SELECT DISTINCT x.address FROM unnest($1::text[]) AS u(ring), \
         unnest(u.ring::tid[]) WITH ORDINALITY AS x(address, place) WHERE x.place > 1)) AND {predicate} FOR SHARE OF t"
    );
    let mut lock = sqlx::query(AssertSqlSafe(sql)).bind(&rings).fetch(&mut *connection);
    while lock.try_next().await.map_err(statement)?.is_some() {}
    drop(lock);
    let names = |columns: &[String], name: &str| {
        let columns = columns.iter().enumerate();
        let columns = columns.map(|(place, column)| format!("t.{} AS {name}{place}", render::identifier(column)));
        columns.collect::<Vec<_>>().join(", ")
    };
    let meets = (0..from.len())
        .map(|place| format!("m.finish{place} = coalesce(lead(m.start{place}) OVER o, first_value(m.start{place}) OVER o)"));
    // A condition in SQL names columns without their table: it must not see those of `x`.
    let sql = format!(
        "WITH m AS MATERIALIZED (SELECT x.ring, x.place, x.members, e.* FROM \
         (SELECT u.place AS ring, y.place, cardinality(u.ring::tid[]) AS members, y.address FROM unnest($1::text[]) WITH ORDINALITY AS u(ring, place), \
          unnest(u.ring::tid[]) WITH ORDINALITY AS y(address, place)) AS x \
          CROSS JOIN LATERAL (SELECT {}, {} FROM ONLY {table} AS t WHERE t.ctid = x.address AND {predicate}) AS e) \
         SELECT r.ring FROM (SELECT m.ring, m.members, {} AS meets FROM m WINDOW o AS (PARTITION BY m.ring ORDER BY m.place)) AS r \
         GROUP BY r.ring, r.members HAVING count(*) = r.members AND bool_and(r.meets)",
        names(from, "start"),
        names(to, "finish"),
        meets.collect::<Vec<_>>().join(" AND "),
    );
    let found: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(&rings)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    Ok(found.into_iter().filter_map(|place| usize::try_from(place).ok()).collect())
}
