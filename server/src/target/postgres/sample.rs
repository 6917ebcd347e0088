//! Some rows of every table into a database of their own, on which migrations are tried: the schema by `pg_dump`, the rows by `COPY` from
//! one connection to the other, all from one snapshot. Nothing is written to the target.
//!
//! ```text
//! schema before rows ─► rows of each table ─► rows that keys name, until none is missing ─► sequences ─► schema after rows, which checks the keys
//! ```
//!
//! Which rows are missing is asked of the copy, which is small, once for each key in each round; they are fetched from the target by their
//! keys, some at a time.

use dbkeep_engine::{
    model::{SampledTable, TableName},
    port::{MaintenanceError, SampleOrder, Watch},
};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Executor as _};

use super::{
    PostgresTarget, SESSION,
    dump::{OWN_SCHEMAS, arguments, tables},
    error::statement,
    holders,
    line::Line,
    render,
    tool::Running,
};
use crate::target::spread::taken;

/// What its session notes that it does.
const WORK: &str = "sample";
/// Keys that are fetched at a time.
const FETCHED: usize = 2_000;
/// Names mean the same on both sides, whatever a search path says.
const ALIKE: &str = "SELECT pg_catalog.set_config('search_path', '', false)";

/// Foreign keys of tables that are copied; those of partitions are their parents'. An operator compares parent with child, by the collation
/// of the parent: where the child has another, it has to be said. Where the key's operator takes other types than the columns have, the
/// database casts them; so does whoever asks what is missing. Keys over periods are no comparison of single rows: see [`COVERED`].
const KEYS: &str = "SELECT cn.nspname::text, c.relname::text, c.relkind = 'p', pn.nspname::text, p.relname::text, p.relkind = 'p', \
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k(n, place) \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.n ORDER BY k.place), \
       ARRAY(SELECT pg_catalog.format_type(a.atttypid, a.atttypmod) FROM unnest(f.conkey) WITH ORDINALITY AS k(n, place) \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.n ORDER BY k.place), \
       ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY AS k(n, place) \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.n ORDER BY k.place), \
       ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname) FROM unnest(f.conpfeqop) WITH ORDINALITY AS k(op, place) \
             JOIN pg_catalog.pg_operator AS o ON o.oid = k.op JOIN pg_catalog.pg_namespace AS n ON n.oid = o.oprnamespace ORDER BY k.place), \
       ARRAY(SELECT CASE WHEN t.typtype <> 'p' AND a.atttypid <> t.oid THEN '::' || pg_catalog.format_type(t.oid, -1) ELSE '' END \
             FROM ROWS FROM (unnest(f.conpfeqop), unnest(f.confkey)) WITH ORDINALITY AS k(op, n, place) JOIN pg_catalog.pg_operator AS o ON o.oid = k.op \
             JOIN pg_catalog.pg_type AS t ON t.oid = o.oprleft JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.confrelid AND a.attnum = k.n ORDER BY k.place), \
       ARRAY(SELECT CASE WHEN t.typtype <> 'p' AND a.atttypid <> t.oid THEN '::' || pg_catalog.format_type(t.oid, -1) ELSE '' END \
             FROM ROWS FROM (unnest(f.conpfeqop), unnest(f.conkey)) WITH ORDINALITY AS k(op, n, place) JOIN pg_catalog.pg_operator AS o ON o.oid = k.op \
             JOIN pg_catalog.pg_type AS t ON t.oid = o.oprright JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.n ORDER BY k.place), \
       ARRAY(SELECT CASE WHEN 0 NOT IN (ca.attcollation, pa.attcollation) AND ca.attcollation <> pa.attcollation THEN pg_catalog.format(' COLLATE %I.%I', n.nspname, l.collname) ELSE '' END \
             FROM ROWS FROM (unnest(f.conkey), unnest(f.confkey)) WITH ORDINALITY AS k(child, parent, place) \
             JOIN pg_catalog.pg_attribute AS ca ON ca.attrelid = f.conrelid AND ca.attnum = k.child \
             JOIN pg_catalog.pg_attribute AS pa ON pa.attrelid = f.confrelid AND pa.attnum = k.parent \
             LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = pa.attcollation LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = l.collnamespace \
             ORDER BY k.place) \
     FROM pg_catalog.pg_constraint AS f \
     JOIN pg_catalog.pg_class AS c ON c.oid = f.conrelid JOIN pg_catalog.pg_namespace AS cn ON cn.oid = c.relnamespace \
     JOIN pg_catalog.pg_class AS p ON p.oid = f.confrelid JOIN pg_catalog.pg_namespace AS pn ON pn.oid = p.relnamespace \
     WHERE f.contype = 'f' AND f.conparentid = 0 AND c.relpersistence <> 't' AND cn.nspname <> ALL ($1) \
       AND (pg_catalog.to_jsonb(f) ->> 'conperiod')::boolean IS NOT TRUE ORDER BY f.oid";

/// Tables that keys over periods name, and their partitions: several of their rows together cover what one child names, so that they are
/// copied whole. Servers before version 18 know no such keys, and have no such column.
const COVERED: &str = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_constraint AS f \
     CROSS JOIN LATERAL (SELECT f.confrelid UNION SELECT t.relid::oid FROM pg_catalog.pg_partition_tree(f.confrelid) AS t) AS p(oid) \
     JOIN pg_catalog.pg_class AS c ON c.oid = p.oid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE f.contype = 'f' AND (pg_catalog.to_jsonb(f) ->> 'conperiod')::boolean";

/// Columns that can be written, in their order; key columns by their place in the primary key, which counts from 0.
const COLUMNS: &str = "SELECT a.attname::text, coalesce(array_position(i.indkey::smallint[], a.attnum) + 1, 0)::integer \
     FROM pg_catalog.pg_attribute AS a LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = a.attrelid AND i.indisprimary \
     WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum";

const SEQUENCES: &str = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class AS c \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> ALL ($1) AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
       AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

/// Views that hold rows: a dump of the schema leaves them without.
const FILLED_VIEWS: &str = "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class AS c \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND c.relispopulated AND n.nspname <> ALL ($1) \
       AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
     ORDER BY c.oid";

/// A foreign key.
struct Key {
    child: String,
    /// What is copied into: an ordinary table alone, or a partitioned one, which finds the partition.
    parent: TableName,
    parent_rows: String,
    columns: Vec<String>,
    types: Vec<String>,
    named: Vec<String>,
    operators: Vec<String>,
    /// `::type` for a column of the parent that the operator takes as another type; else empty.
    parent_casts: Vec<String>,
    /// The same for columns of the child.
    child_casts: Vec<String>,
    /// ` COLLATE ..` for a column of the child, where the parent's differs; else empty.
    collations: Vec<String>,
}

type KeyRow = (
    String,
    String,
    bool,
    String,
    String,
    bool,
    Vec<String>,
    Vec<String>,
    Vec<String>,
    Vec<String>,
    Vec<String>,
    Vec<String>,
    Vec<String>,
);

fn rows_of(table: &TableName, partitioned: bool) -> String {
    let only = if partitioned { "" } else { "ONLY " };
    format!("{only}{}", render::table(table))
}

fn own() -> Vec<String> {
    OWN_SCHEMAS.map(str::to_owned).to_vec()
}

impl PostgresTarget {
    pub(super) async fn sample_database(
        &self,
        order: &SampleOrder,
        name: &str,
        watch: &Watch,
    ) -> Result<Vec<SampledTable>, MaintenanceError> {
        let mut source = self.connect().await?;
        holders::note(&mut source, order.claim, WORK).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; \
                     SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL synchronize_seqscans = off";
        source.execute(begin).await.map_err(statement)?;
        source.execute(holders::HELD).await.map_err(statement)?;
        let snapshot: String = sqlx::query_scalar("SELECT pg_export_snapshot()")
            .fetch_one(&mut source)
            .await
            .map_err(statement)?;
        watch.say("dumping", "", 0, 0, "");
        let mut dumping = arguments(&snapshot, &order.path)?;
        dumping.push("--schema-only".to_owned());
        dumping.extend(OWN_SCHEMAS.map(|schema| format!("--exclude-schema={schema}")));
        let programs = self.programs.named(holders::name(order.claim));
        let running = Running::start("pg_dump", &mut programs.command("pg_dump", None, &dumping)?)?;
        running.end().await?.map_err(|said| MaintenanceError::Tool {
            tool: "pg_dump".to_owned(),
            problem: said,
        })?;
        source.execute(ALIKE).await.map_err(statement)?;
        let mut copy = self.make_database(order.claim, name).await?;
        copy.execute(SESSION).await.map_err(statement)?;
        copy.execute(ALIKE).await.map_err(statement)?;
        let mut warnings = Vec::new();
        self.restore_into(name, &order.path, "--section=pre-data", None, true, &mut warnings)
            .await?;
        let mut sampling = Sampling {
            source,
            copy,
            order,
            watch,
        };
        let mut sampled = sampling.rows().await?;
        sampling.close_under_keys().await?;
        sampling.sequences().await?;
        watch.say("indexing", "", 0, 0, "");
        // Keys are checked here, so that a row whose parent is not there would be found out.
        self.restore_into(name, &order.path, "--section=post-data", None, true, &mut warnings)
            .await?;
        sampling.fill_views().await?;
        for table in &mut sampled {
            table.rows = count(&mut sampling.copy, &table.table).await?;
        }
        sampling.source.execute("COMMIT").await.map_err(statement)?;
        holders::over(&mut sampling.source, order.claim, WORK).await;
        // Nobody is left connected, so that it can be dropped at once.
        sampling.copy.close().await.map_err(statement)?;
        Ok(sampled)
    }
}

async fn count(connection: &mut Line, table: &TableName) -> Result<u64, MaintenanceError> {
    let sql = format!("SELECT count(*) FROM ONLY {}", render::table(table));
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    Ok(u64::try_from(rows).unwrap_or(0))
}

/// Columns of a table as a list, and what its rows are ordered by.
async fn columns(connection: &mut Line, table: &TableName) -> Result<(Vec<String>, String), MaintenanceError> {
    let columns: Vec<(String, i32)> = sqlx::query_as(COLUMNS)
        .bind(render::table(table))
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    let mut key: Vec<&(String, i32)> = columns.iter().filter(|(_, place)| *place > 0).collect();
    key.sort_by_key(|(_, place)| *place);
    let order = if key.is_empty() {
        "t.ctid".to_owned()
    } else {
        let names = key.iter().map(|(name, _)| format!("t.{}", render::identifier(name)));
        names.collect::<Vec<_>>().join(", ")
    };
    Ok((columns.iter().map(|(name, _)| render::identifier(name)).collect(), order))
}

struct Sampling<'a> {
    source: Line,
    copy: Line,
    order: &'a SampleOrder,
    watch: &'a Watch,
}

impl Sampling<'_> {
    /// Copies chosen rows of every table.
    async fn rows(&mut self) -> Result<Vec<SampledTable>, MaintenanceError> {
        let found = tables(&mut self.source, None).await?;
        let covered: Vec<(String, String)> = sqlx::query_as(COVERED).fetch_all(&mut self.source).await.map_err(statement)?;
        let whole = |table: &TableName| {
            let named = |(schema, name): &(String, String)| table.schema.as_ref() == Some(schema) && table.name == *name;
            covered.iter().any(named)
        };
        let mut sampled = Vec::with_capacity(found.len());
        for (position, found) in found.iter().enumerate() {
            let table = &found.table;
            self.watch.say(
                "copying",
                &table.to_string(),
                position as u64,
                sampled.capacity() as u64,
                "tables",
            );
            let of = count(&mut self.source, table).await?;
            let rows = if whole(table) { of } else { self.order.sample.of(of) };
            let (columns, key) = columns(&mut self.source, table).await?;
            let rows_of = rows_of(table, false);
            let list = columns.join(", ");
            let chosen = if rows == of {
                format!("SELECT {list} FROM {rows_of}")
            } else {
                // Only places are sorted, not whole rows.
                format!(
                    "SELECT {list} FROM {rows_of} AS r WHERE r.ctid IN (SELECT s.ctid FROM (SELECT t.ctid, row_number() OVER (ORDER BY {key}) AS place \
                     FROM {rows_of} AS t) AS s WHERE {})",
                    taken("s.place", rows, of)
                )
            };
            if rows > 0 && !columns.is_empty() {
                self.transfer(&chosen, table, &list).await?;
            }
            sampled.push(SampledTable {
                table: table.clone(),
                rows,
                of,
            });
        }
        Ok(sampled)
    }

    /// Copies what a query on the target finds into a table of the copy. Returns the number of rows.
    async fn transfer(&mut self, query: &str, into: &TableName, list: &str) -> Result<u64, MaintenanceError> {
        let out = format!("COPY ({query}) TO STDOUT");
        let (copy, taking) = self.copy.parts();
        let (source, giving) = self.source.parts();
        let begin = format!("COPY {} ({list}) FROM STDIN", render::table(into));
        let mut sink = taking.wait(copy.copy_in_raw(&begin)).await.map_err(statement)?;
        let rows = giving.wait(source.copy_out_raw(&out)).await.map_err(statement)?;
        let mut rows = giving.follow(rows);
        while let Some(part) = rows.try_next().await.map_err(statement)? {
            taking.wait(sink.send(part)).await.map_err(statement)?;
        }
        Ok(taking.wait(sink.finish()).await.map_err(statement)?)
    }

    /// Fetches the rows that keys name, and those that the keys of these name, until none is missing.
    async fn close_under_keys(&mut self) -> Result<(), MaintenanceError> {
        let found: Vec<KeyRow> = sqlx::query_as(KEYS)
            .bind(own())
            .fetch_all(&mut self.source)
            .await
            .map_err(statement)?;
        let keys: Vec<Key> = found.into_iter().map(key).collect();
        loop {
            let mut fetched = 0;
            for key in &keys {
                fetched += self.fetch_named(key).await?;
            }
            // A row that the target does not have either (a key that is not validated) is asked for in vain, once in each round.
            if fetched == 0 {
                return Ok(());
            }
        }
    }

    /// Fetches the rows that a key names and the copy lacks.
    async fn fetch_named(&mut self, key: &Key) -> Result<u64, MaintenanceError> {
        // The list is made once, before any of its rows is fetched, and lies beside the tables until it is closed.
        let missing = format!("DECLARE dbkeep_missing NO SCROLL CURSOR WITH HOLD FOR {}", key.missing());
        self.copy.execute(AssertSqlSafe(missing)).await.map_err(statement)?;
        let (list, _) = columns(&mut self.source, &key.parent).await?;
        let list = list.join(", ");
        let next = format!("FETCH FORWARD {FETCHED} FROM dbkeep_missing");
        let mut fetched = 0;
        loop {
            let asked: Vec<Vec<String>> = sqlx::query_scalar(AssertSqlSafe(next.clone()))
                .persistent(false)
                .fetch_all(&mut self.copy)
                .await
                .map_err(statement)?;
            if asked.is_empty() {
                break;
            }
            fetched += self.transfer(&key.rows_of_parents(&list, &asked), &key.parent, &list).await?;
        }
        self.copy.execute("CLOSE dbkeep_missing").await.map_err(statement)?;
        Ok(fetched)
    }

    /// Sequences stand where they stand in the target.
    async fn sequences(&mut self) -> Result<(), MaintenanceError> {
        let found: Vec<(String, String)> = sqlx::query_as(SEQUENCES)
            .bind(own())
            .fetch_all(&mut self.source)
            .await
            .map_err(statement)?;
        for (schema, name) in found {
            let sequence = render::table(&TableName {
                schema: Some(schema),
                name,
            });
            let sql = format!("SELECT last_value, is_called FROM {sequence}");
            let (last, called): (i64, bool) = sqlx::query_as(AssertSqlSafe(sql))
                .persistent(false)
                .fetch_one(&mut self.source)
                .await
                .map_err(statement)?;
            sqlx::query("SELECT pg_catalog.setval($1::regclass, $2, $3)")
                .bind(sequence)
                .bind(last)
                .bind(called)
                .execute(&mut self.copy)
                .await
                .map_err(statement)?;
        }
        Ok(())
    }

    /// Fills the materialized views that are filled in the target. One may read another: those that cannot be filled yet are tried again
    /// as long as any can.
    async fn fill_views(&mut self) -> Result<(), MaintenanceError> {
        let mut left: Vec<(String, String)> = sqlx::query_as(FILLED_VIEWS)
            .bind(own())
            .fetch_all(&mut self.source)
            .await
            .map_err(statement)?;
        while !left.is_empty() {
            let before = left.len();
            let mut later = Vec::new();
            let mut problem = None;
            for (schema, name) in left {
                let view = TableName {
                    schema: Some(schema.clone()),
                    name: name.clone(),
                };
                let refresh = format!("REFRESH MATERIALIZED VIEW {}", render::table(&view));
                if let Err(error) = self.copy.execute(AssertSqlSafe(refresh)).await {
                    problem = Some(statement(error));
                    later.push((schema, name));
                }
            }
            left = later;
            if let (Some(problem), true) = (problem, left.len() == before) {
                return Err(problem.into());
            }
        }
        Ok(())
    }
}

impl Key {
    /// The parent's columns as the operators take them.
    fn parents(&self) -> impl Iterator<Item = String> {
        let named = self.named.iter().zip(&self.parent_casts);
        named.map(|(named, cast)| format!("p.{}{cast}", render::identifier(named)))
    }

    /// The query of the keys that the copy's children name and its parents lack, as texts; each once, however it is written.
    fn missing(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .zip(&self.child_casts)
            .zip(&self.collations)
            .map(|((column, cast), collation)| format!("c.{}{cast}{collation}", render::identifier(column)))
            .collect();
        let filled: Vec<String> = columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let same = self.parents().zip(&self.operators).zip(&columns);
        let same: Vec<String> = same
            .map(|((parent, operator), child)| format!("{parent} {operator} {child}"))
            .collect();
        // Of values that are equal and look different (1.0 and 1.00) any will do, and both would fetch the parent twice.
        let texts: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("min(c.{}::text COLLATE \"C\")", render::identifier(column)))
            .collect();
        format!(
            "SELECT ARRAY[{}] FROM {} AS c WHERE {} AND NOT EXISTS (SELECT 1 FROM {} AS p WHERE {}) GROUP BY {}",
            texts.join(", "),
            self.child,
            filled.join(" AND "),
            self.parent_rows,
            same.join(" AND "),
            columns.join(", "),
        )
    }

    /// The query of the parents that are asked for.
    fn rows_of_parents(&self, list: &str, asked: &[Vec<String>]) -> String {
        let places: Vec<String> = (1..=self.columns.len()).map(|place| format!("k{place}")).collect();
        let types = self.types.iter().zip(&self.child_casts).zip(&self.collations);
        let wanted: Vec<String> = self
            .parents()
            .zip(&self.operators)
            .zip(types.zip(&places))
            .map(|((parent, operator), (((type_name, cast), collation), place))| {
                format!("{parent} {operator} k.{place}::{type_name}{cast}{collation}")
            })
            .collect();
        let values: Vec<String> = asked.iter().map(|key| format!("({})", literals(key))).collect();
        format!(
            "SELECT {list} FROM {} AS p WHERE EXISTS (SELECT 1 FROM (VALUES {}) AS k ({}) WHERE {})",
            self.parent_rows,
            values.join(", "),
            places.join(", "),
            wanted.join(" AND "),
        )
    }
}

fn key(row: KeyRow) -> Key {
    let (
        child_schema,
        child,
        child_parted,
        parent_schema,
        parent,
        parent_parted,
        columns,
        types,
        named,
        operators,
        parent_casts,
        child_casts,
        collations,
    ) = row;
    let name = |schema: String, name: String| TableName {
        schema: Some(schema),
        name,
    };
    let (child, parent) = (name(child_schema, child), name(parent_schema, parent));
    Key {
        child: rows_of(&child, child_parted),
        parent_rows: rows_of(&parent, parent_parted),
        parent,
        columns,
        types,
        named,
        operators,
        parent_casts,
        child_casts,
        collations,
    }
}

fn literals(texts: &[String]) -> String {
    texts.iter().map(|text| render::literal(text)).collect::<Vec<_>>().join(", ")
}
