//! Edges that close a cycle. SQLite numbers the nodes and takes out, round by round, edges that begin where none ends or end where
//! none begins; what is left travels as two numbers for each edge to [`job`]. The work is done in temporary tables of the scan's
//! own connection; the database itself is read in one short transaction.

use async_trait::async_trait;
use dbkeep_engine::{
    model::{Condition, RowKey, Selection},
    port::{Scan, TargetError, Window},
    rule::cycle::{
        feedback::Feedback,
        graph::Edge,
        job::{self, Rings, Trimming},
    },
};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqliteConnection};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        dump::{stoppable_by, unstoppable},
        error::{refused, statement},
        render, values,
    },
    SESSION, bind_all, execute, from_where, key_columns, names,
};

/// Edges of witnesses in one window, unless a single row has more.
const WINDOW_WITNESSES: usize = 20_000;
/// Parameters of one statement that fills a temporary table.
const PARAMETERS: usize = 10_000;

/// Reads the edges in one transaction, numbers and trims them, and decides.
async fn find(connection: &mut SqliteConnection, selection: &Selection) -> Result<Feedback, TargetError> {
    let Condition::Cycle { from, to, .. } = &selection.matches else {
        return Err(refused("the selection is not about cycles".to_owned()));
    };
    let schema = &selection.table;
    let keys = names("k", schema.row_key.len());
    let key = keys.join(", ");
    // Columns without a type keep every value as it is.
    let tables = format!(
        "{SESSION}; CREATE TEMP TABLE dbkeep_edge (edge INTEGER PRIMARY KEY, {key}); \
         CREATE TEMP TABLE dbkeep_pair (edge INTEGER PRIMARY KEY, start INTEGER, finish INTEGER); \
         CREATE TEMP TABLE dbkeep_left (number INTEGER PRIMARY KEY, start INTEGER, finish INTEGER, {key}); BEGIN"
    );
    connection.execute(AssertSqlSafe(tables)).await.map_err(statement)?;
    let sql = format!(
        "INSERT INTO temp.dbkeep_edge (edge, {key}) SELECT row_number() OVER (ORDER BY {}), {} {}",
        key_columns(schema, "t").join(", "),
        render::columns(schema.row_key.iter().map(String::as_str)),
        from_where(selection)?
    );
    execute(connection, sql).await?;
    let table = render::table(&schema.name);
    let same = render::same("t", &schema.row_key, "x", &keys);
    let ends = |side: u8, columns: &[String]| {
        let columns = columns.iter().enumerate();
        let columns = columns.map(|(place, column)| format!("t.{} AS v{place}", render::identifier(column)));
        format!(
            "SELECT x.edge AS edge, {side} AS side, {} FROM temp.dbkeep_edge AS x CROSS JOIN {table} AS t WHERE {same}",
            columns.collect::<Vec<_>>().join(", ")
        )
    };
    // A node's number is its place among all ends, by the comparison of the first end's column.
    let sql = format!(
        "INSERT INTO temp.dbkeep_pair (edge, start, finish) SELECT n.edge, max(CASE n.side WHEN 0 THEN n.node END), \
         max(CASE n.side WHEN 1 THEN n.node END) FROM (SELECT b.edge, b.side, dense_rank() OVER (ORDER BY {}) AS node FROM ({} UNION ALL {}) AS b) AS n \
         GROUP BY n.edge ORDER BY n.edge",
        names("b.v", from.len()).join(", "),
        ends(0, from),
        ends(1, to)
    );
    let mut trimming = Trimming::of(execute(connection, sql).await?);
    connection.execute("COMMIT").await.map_err(statement)?;
    while trimming.goes_on() {
        let sql = "DELETE FROM temp.dbkeep_pair WHERE start NOT IN (SELECT q.finish FROM temp.dbkeep_pair AS q) \
                   OR finish NOT IN (SELECT q.start FROM temp.dbkeep_pair AS q)";
        trimming.took_out(execute(connection, sql.to_owned()).await?);
    }
    let edges = trimming.left(&schema.name)?;
    let sql = format!(
        "INSERT INTO temp.dbkeep_left (number, start, finish, {key}) SELECT row_number() OVER (ORDER BY p.edge) - 1, p.start, p.finish, {} \
         FROM temp.dbkeep_pair AS p JOIN temp.dbkeep_edge AS x ON x.edge = p.edge",
        names("x.k", keys.len()).join(", ")
    );
    execute(connection, sql).await?;
    connection
        .execute("DROP TABLE temp.dbkeep_edge; DROP TABLE temp.dbkeep_pair")
        .await
        .map_err(statement)?;
    let mut list = Vec::with_capacity(edges);
    let mut rows = sqlx::query("SELECT start, finish FROM temp.dbkeep_left ORDER BY number").fetch(&mut *connection);
    let node = |row: &sqlx::sqlite::SqliteRow, column: usize| -> Result<u32, TargetError> {
        let node: i64 = row.try_get_unchecked(column).map_err(statement)?;
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

/// Keys of edges, in the order of their numbers in the list. A key has so many columns.
async fn rows(connection: &mut SqliteConnection, width: usize, numbers: &[u32]) -> Result<Vec<RowKey>, TargetError> {
    let mut keys = Vec::with_capacity(numbers.len());
    for part in numbers.chunks(PARAMETERS) {
        let list: Vec<String> = part.iter().map(|number| format!("({number})")).collect();
        // CROSS JOIN keeps the order: the numbers as they are listed, then the rows.
        let sql = format!(
            "SELECT {} FROM (VALUES {}) AS n CROSS JOIN temp.dbkeep_left AS l ON l.number = n.column1",
            names("l.k", width).join(", "),
            list.join(", ")
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        for row in &rows {
            keys.push(values(row, 0..width)?);
        }
    }
    if keys.len() == numbers.len() {
        return Ok(keys);
    }
    Err(refused("an edge that was listed has no row".to_owned()))
}

/// Count of the edges that go, and keys of some of them.
pub(super) async fn survey(
    connection: &mut SqliteConnection,
    selection: &Selection,
    samples: u32,
) -> Result<(u64, Vec<RowKey>), TargetError> {
    let found = find(connection, selection).await?;
    let removed = found.removed();
    let some = &removed[..removed.len().min(samples as usize)];
    let keys = rows(connection, selection.table.row_key.len(), some).await?;
    Ok((removed.len() as u64, keys))
}

/// A pass over the edges that go.
pub(super) struct CycleScan {
    connection: SqliteConnection,
    rings: Rings,
    width: usize,
}

impl CycleScan {
    pub(super) async fn open(mut connection: SqliteConnection, selection: &Selection, limit: u32) -> Result<Self, TargetError> {
        // What takes long in that ends soon after nobody waits for it any more.
        let stops_when_dropped = stoppable_by(&mut connection, CancellationToken::new()).await?;
        let found = find(&mut connection, selection).await?;
        unstoppable(&mut connection).await?;
        drop(stops_when_dropped);
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
        let mut keys = Vec::with_capacity(rings.len());
        let numbers: Vec<u32> = rings.iter().flatten().copied().collect();
        let mut rows = rows(&mut self.connection, self.width, &numbers).await?.into_iter();
        for ring in rings {
            keys.push(rows.by_ref().take(ring.len()).flatten().collect::<RowKey>());
        }
        Ok((!keys.is_empty()).then_some(Window {
            keys,
            cursor: String::new(),
            examined: 0,
            fraction: self.rings.fraction(),
        }))
    }
}

/// Keys of the listed edges that still close the ring they were listed with.
pub(super) async fn closed(
    connection: &mut SqliteConnection,
    selection: &Selection,
    row: &Selection,
    keys: &[RowKey],
) -> Result<Vec<RowKey>, TargetError> {
    let Condition::Cycle { from, to, .. } = &selection.matches else {
        return Err(refused("the selection is not about cycles".to_owned()));
    };
    let schema = &selection.table;
    let width = schema.row_key.len();
    let columns = names("k", width);
    let prepare = format!(
        "CREATE TEMP TABLE IF NOT EXISTS dbkeep_ring_{width} (ring INTEGER, place INTEGER, members INTEGER, {}, PRIMARY KEY (ring, place)) WITHOUT ROWID; \
         DELETE FROM temp.dbkeep_ring_{width}",
        columns.join(", ")
    );
    connection.execute(AssertSqlSafe(prepare)).await.map_err(statement)?;
    let mut members = Vec::new();
    for (ring, key) in keys.iter().enumerate() {
        if key.is_empty() || key.len() % width != 0 {
            return Err(refused("a listed edge does not say which cycle it closes".to_owned()));
        }
        let count = key.len() / width;
        members.extend(
            key.chunks(width)
                .enumerate()
                .map(|(place, member)| (ring, place, count, member)),
        );
    }
    for part in members.chunks(PARAMETERS / width) {
        let tuples = part.iter().map(|(ring, place, count, member)| {
            let marks: Vec<&str> = member.iter().map(render::placeholder).collect();
            format!("({ring}, {place}, {count}, {})", marks.join(", "))
        });
        let sql = format!(
            "INSERT INTO temp.dbkeep_ring_{width} VALUES {}",
            tuples.collect::<Vec<_>>().join(", ")
        );
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = bind_all(query, part.iter().flat_map(|(_, _, _, member)| member.iter()));
        query.execute(&mut *connection).await.map_err(statement)?;
    }
    let meets = from.iter().zip(to).map(|(from, to)| {
        let (from, to) = (render::identifier(from), render::identifier(to));
        format!("e.{to} = coalesce(lead(e.{from}) OVER o, first_value(e.{from}) OVER o)")
    });
    let sql = format!(
        "SELECT r.ring FROM (SELECT x.ring, x.members, {} AS meets FROM temp.dbkeep_ring_{width} AS x CROSS JOIN {} AS e NOT INDEXED \
         WHERE {} AND {} WINDOW o AS (PARTITION BY x.ring ORDER BY x.place)) AS r \
         GROUP BY r.ring, r.members HAVING count(*) = r.members AND min(r.meets) = 1 ORDER BY r.ring",
        meets.collect::<Vec<_>>().join(" AND "),
        render::table(&schema.name),
        render::same("e", &schema.row_key, "x", &columns),
        render::predicate_of(row, "e")?,
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    let mut proven = Vec::with_capacity(rows.len());
    for row in &rows {
        let ring: i64 = row.try_get_unchecked(0).map_err(statement)?;
        if let Some(key) = usize::try_from(ring).ok().and_then(|ring| keys.get(ring)) {
            proven.push(key[..width].to_vec());
        }
    }
    Ok(proven)
}
