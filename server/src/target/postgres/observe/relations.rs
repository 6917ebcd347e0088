//! Tables and indexes with their sizes, counters and estimates of free space, a page of the catalog at a time, so that no statement takes
//! long. Sizes come from the file system; a table that somebody has locked altogether is not waited for.

use std::collections::BTreeMap;

use dbkeep_engine::{
    model::{
        TableName,
        monitor::{Blocks, IndexVitals, Precision, RowCount, TableVitals, Vitals},
    },
    port::TargetError,
};
use jiff::Timestamp;
use sqlx::FromRow;

use super::{
    super::{
        bloat::{self, RowShape},
        dump::OWN_SCHEMAS,
    },
    database::Basics,
    keys::Keys,
    session::{Look, float, moment, unsigned, whole},
};
use crate::target::indexes::{Part, Shape, duplicates};

/// Tables of a page.
const PAGE: i64 = 200;
/// So many blocks have to have been asked for before a part of them means something.
const EVIDENCE: u64 = 10_000;

/// Relations that somebody has locked altogether, or waits to: whoever asks for their size waits in line.
const LOCKED: &str = "locked AS MATERIALIZED (SELECT DISTINCT l.relation FROM pg_catalog.pg_locks AS l WHERE l.locktype = 'relation' \
       AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() \
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()))";

/// Partitioned tables are among them for their indexes alone.
const TABLES: &str = "page AS MATERIALIZED (SELECT c.*, n.nspname FROM pg_catalog.pg_class AS c \
       JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
       WHERE c.oid > $1::bigint::oid AND c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' ORDER BY c.oid LIMIT $2), \
     seen AS MATERIALIZED (SELECT p.*, $3 OR EXISTS (SELECT 1 FROM locked AS l WHERE l.relation IN (p.oid, p.reltoastrelid)) AS hidden FROM page AS p) \
     SELECT s.oid::bigint AS oid, s.nspname::text AS schema, s.relname::text AS name, s.relkind = 'p' AS partitioned, s.hidden, \
       coalesce(pg_catalog.has_table_privilege(s.oid, 'SELECT'), false) AS readable, s.reltuples::float8 AS tuples, s.relpages::bigint AS pages, \
       coalesce((SELECT o.option_value::int FROM pg_catalog.pg_options_to_table(s.reloptions) AS o WHERE o.option_name = 'fillfactor'), 100) AS fill, \
       CASE WHEN NOT s.hidden THEN pg_catalog.pg_relation_size(s.oid) END AS main, \
       CASE WHEN NOT s.hidden THEN pg_catalog.pg_relation_size(s.oid, 'fsm') + pg_catalog.pg_relation_size(s.oid, 'vm') END AS maps, \
       CASE WHEN s.reltoastrelid = 0 THEN 0 WHEN NOT s.hidden THEN pg_catalog.pg_total_relation_size(s.reltoastrelid) END AS toast, \
       pg_catalog.pg_stat_get_live_tuples(s.oid) AS live, pg_catalog.pg_stat_get_dead_tuples(s.oid) AS dead, \
       pg_catalog.pg_stat_get_mod_since_analyze(s.oid) AS changed, pg_catalog.pg_stat_get_numscans(s.oid) AS scans, \
       pg_catalog.pg_stat_get_tuples_inserted(s.oid) AS inserted, pg_catalog.pg_stat_get_tuples_deleted(s.oid) AS deleted, \
       pg_catalog.pg_stat_get_blocks_fetched(s.oid) AS fetched, pg_catalog.pg_stat_get_blocks_hit(s.oid) AS hit, \
       (extract(epoch FROM greatest(pg_catalog.pg_stat_get_last_vacuum_time(s.oid), pg_catalog.pg_stat_get_last_autovacuum_time(s.oid))) * 1000000)::bigint AS vacuumed, \
       (extract(epoch FROM greatest(pg_catalog.pg_stat_get_last_analyze_time(s.oid), pg_catalog.pg_stat_get_last_autoanalyze_time(s.oid))) * 1000000)::bigint AS analyzed, \
       CASE WHEN s.relfrozenxid <> '0' THEN greatest(pg_catalog.age(s.relfrozenxid), pg_catalog.mxid_age(s.relminmxid), \
         (SELECT greatest(pg_catalog.age(t.relfrozenxid), pg_catalog.mxid_age(t.relminmxid)) FROM pg_catalog.pg_class AS t WHERE t.oid = s.reltoastrelid))::bigint \
       END AS age FROM seen AS s ORDER BY s.oid";

/// Widths of columns, and of expressions in indexes, from the table of statistics itself.
const WIDTHS: &str = "SELECT a.attrelid::bigint AS relation, a.attnum::int AS number, a.attname::text AS name, a.attlen::int AS length, \
       s.stanullfrac::float8 AS nulls, s.stawidth::float8 AS width FROM pg_catalog.pg_attribute AS a \
     LEFT JOIN pg_catalog.pg_statistic AS s ON s.starelid = a.attrelid AND s.staattnum = a.attnum AND NOT s.stainherit \
     WHERE a.attrelid = ANY ($1::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2";

/// The same from the view, which shows columns that the role may read.
const VISIBLE_WIDTHS: &str = "SELECT a.attrelid::bigint AS relation, a.attnum::int AS number, a.attname::text AS name, a.attlen::int AS length, \
       s.null_frac::float8 AS nulls, s.avg_width::float8 AS width FROM pg_catalog.pg_attribute AS a \
     JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     LEFT JOIN LATERAL (SELECT p.null_frac, p.avg_width FROM pg_catalog.pg_stats AS p \
        WHERE (p.schemaname, p.tablename, p.attname) = (n.nspname, c.relname, a.attname) AND NOT p.inherited LIMIT 1) AS s ON true \
     WHERE a.attrelid = ANY ($1::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2";

/// An index that is being built is not one that failed to build.
const INDEXES: &str = "seen AS MATERIALIZED (SELECT x.*, c.relname, c.relkind, c.relispartition, c.reltuples, c.reloptions, m.amname, \
         $2 OR EXISTS (SELECT 1 FROM locked AS l WHERE l.relation IN (x.indexrelid, x.indrelid)) AS hidden \
       FROM pg_catalog.pg_index AS x JOIN pg_catalog.pg_class AS c ON c.oid = x.indexrelid JOIN pg_catalog.pg_am AS m ON m.oid = c.relam \
       WHERE x.indrelid = ANY ($1::bigint[]::oid[])) \
     SELECT s.indexrelid::bigint AS oid, s.indrelid::bigint AS relation, s.relname::text AS name, s.amname::text AS method, s.hidden, \
       s.indisvalid AND s.indisready AS usable, CASE WHEN s.indisvalid AND s.indisready THEN false ELSE \
         (SELECT CASE WHEN bool_or(p.relid = s.indrelid) THEN true WHEN bool_or(p.relid IS NULL) THEN NULL ELSE false END \
          FROM pg_catalog.pg_stat_progress_create_index AS p WHERE p.datname = pg_catalog.current_database()) END AS building, \
       s.indisclustered AS clustered, \
       coalesce((SELECT string_agg(o.option_name || '=' || o.option_value, ' ' ORDER BY o.option_name) FROM pg_catalog.pg_options_to_table(s.reloptions) AS o \
          WHERE o.option_name NOT IN ('fillfactor', 'deduplicate_items')), '') AS settings, \
       ARRAY(SELECT coalesce(array_to_string(a.attoptions, ' '), '') FROM pg_catalog.pg_attribute AS a \
          WHERE a.attrelid = s.indexrelid AND a.attnum > 0 ORDER BY a.attnum) AS class_settings, \
       s.indisprimary OR s.indisunique OR s.indisexclusion OR s.indisreplident OR s.relispartition AS enforces, s.relkind = 'I' AS partitioned, \
       s.indnkeyatts::int AS keys, s.indkey::text AS columns, s.indclass::text AS classes, s.indcollation::text AS collations, s.indoption::text AS options, \
       CASE WHEN NOT s.hidden THEN pg_catalog.pg_table_size(s.indexrelid) END AS bytes, s.reltuples::float8 AS entries, \
       coalesce((SELECT o.option_value::int FROM pg_catalog.pg_options_to_table(s.reloptions) AS o WHERE o.option_name = 'fillfactor'), 90) AS fill, \
       pg_catalog.pg_stat_get_numscans(s.indexrelid) AS scans, pg_catalog.pg_stat_get_blocks_fetched(s.indexrelid) AS fetched, \
       pg_catalog.pg_stat_get_blocks_hit(s.indexrelid) AS hit, s.indpred IS NOT NULL AS partial, \
       CASE WHEN NOT s.hidden THEN pg_catalog.pg_get_indexdef(s.indexrelid) END AS definition, \
       CASE WHEN NOT s.hidden THEN pg_catalog.pg_get_expr(s.indpred, s.indrelid) END AS condition, \
       CASE WHEN s.indexprs IS NOT NULL AND NOT s.hidden THEN ARRAY(SELECT pg_catalog.pg_get_indexdef(s.indexrelid, k, false) \
          FROM generate_series(1, s.indnkeyatts::int) AS k ORDER BY k) END AS expressions \
     FROM seen AS s ORDER BY s.indrelid, s.indexrelid";

#[derive(FromRow)]
struct TableRow {
    oid: i64,
    schema: String,
    name: String,
    partitioned: bool,
    hidden: bool,
    readable: bool,
    tuples: f64,
    pages: i64,
    fill: i32,
    main: Option<i64>,
    maps: Option<i64>,
    toast: Option<i64>,
    live: i64,
    dead: i64,
    changed: i64,
    scans: i64,
    inserted: i64,
    deleted: i64,
    fetched: i64,
    hit: i64,
    vacuumed: Option<i64>,
    analyzed: Option<i64>,
    age: Option<i64>,
}

impl TableRow {
    /// Rows by whatever knows them best. The counters are true from the last VACUUM or ANALYZE on, or since the table was made.
    fn rows(&self, page: u32) -> Option<RowCount> {
        let counted = self.vacuumed.is_some() || self.analyzed.is_some();
        let estimated = |rows: u64| {
            Some(RowCount {
                rows,
                precision: Precision::Estimated,
            })
        };
        if self.main == Some(0) {
            return Some(RowCount {
                rows: 0,
                precision: Precision::Exact,
            });
        }
        if !counted && self.tuples > 0.0 && self.pages > 0 {
            // As the planner does: as dense as it was when it was looked at.
            let pages = self
                .main
                .map_or(unsigned(self.pages), |main| unsigned(main) / u64::from(page));
            return estimated(whole(self.tuples * float(pages) / float(unsigned(self.pages))));
        }
        (counted || self.inserted > 0)
            .then(|| unsigned(self.live))
            .and_then(estimated)
    }
}

#[derive(FromRow)]
struct WidthRow {
    relation: i64,
    number: i32,
    name: String,
    length: i32,
    nulls: Option<f64>,
    width: Option<f64>,
}

impl WidthRow {
    /// Average width with NULLs as nothing; of a type of fixed width also without statistics.
    fn width(&self) -> Option<f64> {
        let fixed = (self.length > 0).then(|| f64::from(self.length));
        self.width.or(fixed).map(|width| width * (1.0 - self.nulls.unwrap_or(0.0)))
    }
}

#[derive(FromRow)]
struct IndexRow {
    oid: i64,
    relation: i64,
    name: String,
    method: String,
    hidden: bool,
    usable: bool,
    /// Whether somebody builds an index of the table; `None` where somebody builds one, and the role may not see of which table.
    building: Option<bool>,
    clustered: bool,
    /// What decides how it can be used, of the whole and of each column.
    settings: String,
    class_settings: Vec<String>,
    enforces: bool,
    partitioned: bool,
    keys: i32,
    columns: String,
    classes: String,
    collations: String,
    options: String,
    bytes: Option<i64>,
    entries: f64,
    fill: i32,
    scans: i64,
    fetched: i64,
    hit: i64,
    partial: bool,
    definition: Option<String>,
    condition: Option<String>,
    expressions: Option<Vec<String>>,
}

/// A table, and what it is made of.
pub(super) struct Table {
    pub(super) vitals: TableVitals,
    pub(super) indexes: Vec<Indexed>,
    pub(super) partitioned: bool,
}

/// An index.
pub(super) struct Indexed {
    pub(super) vitals: IndexVitals,
    pub(super) shape: Shape,
    partitioned: bool,
}

fn add(blocks: &mut Blocks, fetched: i64, hit: i64) {
    blocks.fetched += unsigned(fetched);
    blocks.hit += unsigned(hit);
}

fn fraction(blocks: Blocks) -> Option<f64> {
    (blocks.fetched >= EVIDENCE).then(|| (float(blocks.hit) / float(blocks.fetched)).min(1.0))
}

/// Everything that was found, tables by their oid.
#[derive(Default)]
pub(super) struct Relations {
    pub(super) tables: BTreeMap<i64, Table>,
    heap: Blocks,
    index: Blocks,
    /// The earliest VACUUM or ANALYZE that the counters know of: they count at least since then.
    since: Option<Timestamp>,
    locked: u64,
    unreadable: u64,
    /// Indexes that cannot be used, and that may be being built.
    unsure: u64,
}

/// All tables and indexes.
pub(super) async fn all(look: &mut Look<'_>, basics: &Basics) -> Relations {
    let mut found = Relations::default();
    let mut after = 0;
    while let Some(next) = page(look, basics, after, &mut found).await {
        after = next;
    }
    if found.locked > 0 {
        let why = format!("{} tables are locked by others at this moment", found.locked);
        look.gap("table_sizes", why, "");
    }
    if found.unsure > 0 {
        let why = format!(
            "the role may not see which indexes are being built, and {} cannot be used at this moment",
            found.unsure
        );
        let allow = look.grant();
        look.gap("index_builds", why, allow);
    }
    if found.unreadable > 0 {
        let why = format!(
            "the role may not see statistics of the columns of {} tables",
            found.unreadable
        );
        let allow = format!(
            "GRANT SELECT (starelid, staattnum, stainherit, stanullfrac, stawidth) ON pg_catalog.pg_statistic TO {};",
            look.role()
        );
        look.gap("free_space", why, allow);
    }
    found
}

/// One page after the table with this oid; the oid after which the next one begins, where there may be one.
async fn page(look: &mut Look<'_>, basics: &Basics, after: i64, found: &mut Relations) -> Option<i64> {
    let mut tables: Result<Vec<TableRow>, TargetError> = Ok(Vec::new());
    for lean in [false, true] {
        // Where a table is locked or vanishes at every try, the catalog alone has to do.
        tables = look.list(|| with_locked(TABLES).bind(after).bind(PAGE).bind(lean)).await;
        if tables.is_ok() {
            break;
        }
    }
    let tables = look.or_gap("tables", tables)?;
    let oids: Vec<i64> = tables.iter().map(|table| table.oid).collect();
    let next = oids.last().copied().filter(|_| i64::try_from(oids.len()) == Ok(PAGE));
    let mut indexes: Result<Vec<IndexRow>, TargetError> = Ok(Vec::new());
    for lean in [false, true] {
        indexes = look.list(|| with_locked(INDEXES).bind(oids.clone()).bind(lean)).await;
        if indexes.is_ok() {
            break;
        }
    }
    let indexes = look.or_gap("indexes", indexes).unwrap_or_default();
    let with_expressions = indexes.iter().filter(|index| index.expressions.is_some());
    let relations: Vec<i64> = oids.iter().copied().chain(with_expressions.map(|index| index.oid)).collect();
    let sql = if basics.widths { WIDTHS } else { VISIBLE_WIDTHS };
    let widths = look.list::<WidthRow>(|| sqlx::query(sql).bind(relations.clone())).await;
    let widths = look.or_gap("columns", widths).unwrap_or_default();
    let mut columns: BTreeMap<i64, Vec<WidthRow>> = BTreeMap::new();
    for row in widths {
        columns.entry(row.relation).or_default().push(row);
    }
    for row in tables {
        let own_columns = columns.get(&row.oid).map_or(&[][..], Vec::as_slice);
        found.take_table(&row, own_columns, basics);
    }
    for row in indexes {
        found.take_index(&row, &columns, basics);
    }
    next
}

fn with_locked(sql: &str) -> super::session::Query {
    sqlx::query(sqlx::AssertSqlSafe(format!("WITH {LOCKED}, {sql}")))
}

impl Relations {
    fn take_table(&mut self, row: &TableRow, columns: &[WidthRow], basics: &Basics) {
        add(&mut self.heap, row.fetched, row.hit);
        self.locked += u64::from(row.hidden && !row.partitioned);
        // Rows of a partitioned table are in its partitions.
        let rows = row.rows(basics.page).filter(|_| !row.partitioned);
        let free = free_bytes(row, rows, columns, basics.page);
        let measured = row.analyzed.is_some() && free.is_none() && !row.partitioned && !row.hidden;
        self.unreadable += u64::from(measured && !basics.widths && !row.readable);
        let (vacuumed, analyzed) = (row.vacuumed.and_then(moment), row.analyzed.and_then(moment));
        self.since = [self.since, vacuumed, analyzed].into_iter().flatten().min();
        let vitals = TableVitals {
            table: TableName {
                schema: Some(row.schema.clone()),
                name: row.name.clone(),
            },
            own: OWN_SCHEMAS.contains(&row.schema.as_str()),
            rows,
            heap_bytes: row.main.zip(row.maps).map(|(main, maps)| unsigned(main + maps)),
            index_bytes: None,
            toast_bytes: row.toast.map(unsigned),
            dead_rows: Some(unsigned(row.dead)),
            free_bytes: free,
            free_precision: free.map(|_| Precision::Estimated),
            last_vacuum: vacuumed,
            last_analyze: analyzed,
            changed_since_analyze: Some(unsigned(row.changed)),
            sequential_scans: Some(unsigned(row.scans)),
            index_scans: Some(0),
            inserted: Some(unsigned(row.inserted)),
            deleted: Some(unsigned(row.deleted)),
            xid_age: row.age.map(unsigned),
        };
        let table = Table {
            vitals,
            indexes: Vec::new(),
            partitioned: row.partitioned,
        };
        self.tables.insert(row.oid, table);
    }

    fn take_index(&mut self, row: &IndexRow, columns: &BTreeMap<i64, Vec<WidthRow>>, basics: &Basics) {
        add(&mut self.index, row.fetched, row.hit);
        self.unsure += u64::from(!row.usable && row.building.is_none());
        let Some(table) = self.tables.get_mut(&row.relation) else {
            return;
        };
        let own_columns = columns.get(&row.relation).map_or(&[][..], Vec::as_slice);
        let shape = shape(row, own_columns);
        let expressions = columns.get(&row.oid).map_or(&[][..], Vec::as_slice);
        let names = shape.parts.iter().enumerate().map(|(place, part)| {
            let expression = row.expressions.as_ref().and_then(|all| all.get(place));
            part.column
                .clone()
                .or_else(|| expression.cloned())
                .unwrap_or_else(|| "(unknown)".to_owned())
        });
        let vitals = IndexVitals {
            table: table.vitals.table.clone(),
            name: row.name.clone(),
            oid: Some(unsigned(row.oid)),
            columns: names.collect(),
            method: row.method.clone(),
            condition: row.condition.clone().unwrap_or_default(),
            enforces: row.enforces,
            clustered: row.clustered,
            expression: row.columns.split(' ').any(|number| number == "0"),
            serves_key: false,
            valid: row.usable || row.building != Some(false),
            bytes: row.bytes.map(unsigned),
            scans: Some(unsigned(row.scans)),
            bloat_fraction: air(row, &table.vitals, own_columns, expressions, basics.page),
            duplicate_of: None,
            first_seen: None,
            definition: row.definition.clone().unwrap_or_default(),
        };
        let scans = table.vitals.index_scans.unwrap_or(0) + unsigned(row.scans);
        table.vitals.index_scans = Some(scans);
        table.indexes.push(Indexed {
            vitals,
            shape,
            partitioned: row.partitioned,
        });
    }

    /// What a snapshot shows: the largest tables first, indexes in the order of their tables.
    pub(super) fn into_vitals(self, keys: &Keys, database: &mut Vitals) -> (Vec<TableVitals>, Vec<IndexVitals>) {
        database.cache_hit_fraction = fraction(self.heap);
        database.index_hit_fraction = fraction(self.index);
        (database.heap_blocks, database.index_blocks) = (Some(self.heap), Some(self.index));
        database.statistics_since = database.statistics_since.or(self.since);
        let mut all: Vec<(TableVitals, Vec<IndexVitals>)> = Vec::new();
        for (oid, mut table) in self.tables {
            let shapes: Vec<Shape> = table.indexes.iter().map(|index| index.shape.clone()).collect();
            let others = duplicates(&shapes);
            let names: Vec<String> = table.indexes.iter().map(|index| index.vitals.name.clone()).collect();
            for (index, other) in table.indexes.iter_mut().zip(others) {
                index.vitals.duplicate_of = other.map(|other| names[other].clone());
                index.vitals.serves_key = index.vitals.duplicate_of.is_none() && keys.served_by(oid, &index.shape);
            }
            if table.partitioned {
                continue;
            }
            let stored = table.indexes.iter().filter(|index| !index.partitioned);
            table.vitals.index_bytes = stored.map(|index| index.vitals.bytes).sum();
            all.push((table.vitals, table.indexes.into_iter().map(|index| index.vitals).collect()));
        }
        let own = all.iter().filter(|(table, _)| table.own);
        database.own_bytes = Some(own.filter_map(|(table, _)| table.total_bytes()).sum());
        all.sort_by_cached_key(|(table, _)| (std::cmp::Reverse(table.total_bytes()), table.table.to_string()));
        let (tables, indexes): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        (tables, indexes.into_iter().flatten().collect())
    }
}

/// Bytes that rows, alive and dead, do not need, by the average widths of the columns.
fn free_bytes(row: &TableRow, rows: Option<RowCount>, columns: &[WidthRow], page: u32) -> Option<u64> {
    let (main, rows) = (float(unsigned(row.main?)), float(rows?.rows + unsigned(row.dead)));
    if main <= 0.0 || rows <= 0.0 {
        return Some(whole(main));
    }
    let widths: Option<Vec<f64>> = columns.iter().map(WidthRow::width).collect();
    let shape = RowShape {
        width: widths?.iter().sum(),
        columns: columns.iter().map(|_| 1.0).sum(),
        nulls: columns.iter().any(|column| column.nulls.is_some_and(|nulls| nulls > 0.0)),
    };
    // Without any statistics fixed widths alone would say that nothing is ever NULL.
    columns
        .iter()
        .any(|column| column.width.is_some())
        .then(|| whole(bloat::table_air(rows, shape, f64::from(row.fill), f64::from(page), main)))
}

/// Part of a B-tree that its entries, of dead rows too, do not need.
fn air(row: &IndexRow, table: &TableVitals, columns: &[WidthRow], expressions: &[WidthRow], page: u32) -> Option<f64> {
    if row.method != "btree" || row.partitioned || row.entries < 0.0 || !row.usable {
        return None;
    }
    let bytes = float(unsigned(row.bytes?));
    let numbers = row.columns.split(' ').map(str::parse::<i32>);
    let mut width = 0.0;
    for (number, place) in numbers.zip(1..) {
        let number = number.ok()?;
        let of = if number == 0 {
            expressions.iter().find(|column| column.number == place)
        } else {
            columns.iter().find(|column| column.number == number)
        };
        width += of.and_then(WidthRow::width)?;
    }
    let analyzed = columns.iter().any(|column| column.width.is_some());
    let live = table.rows.map_or(0, |rows| rows.rows);
    let dead = float(table.dead_rows.unwrap_or(0));
    // A partial index has its part of the dead rows too.
    let share = if live == 0 {
        1.0
    } else {
        (row.entries / float(live)).min(1.0)
    };
    (analyzed || row.entries == 0.0)
        .then(|| bloat::index_air(row.entries + dead * share, width, f64::from(row.fill), f64::from(page), bytes))
}

/// What an index is made of. One whose texts could not be read is not compared with others.
fn shape(row: &IndexRow, columns: &[WidthRow]) -> Shape {
    let numbers: Vec<i32> = row.columns.split(' ').filter_map(|number| number.parse().ok()).collect();
    let (classes, collations, options): (Vec<&str>, Vec<&str>, Vec<&str>) = (
        row.classes.split(' ').collect(),
        row.collations.split(' ').collect(),
        row.options.split(' ').collect(),
    );
    let name = |number: i32| {
        columns
            .iter()
            .find(|column| column.number == number)
            .map(|column| column.name.clone())
    };
    let class_settings = |place: usize| row.class_settings.get(place).cloned().unwrap_or_default();
    let keys = usize::try_from(row.keys).unwrap_or(0).min(numbers.len());
    let (key_numbers, included) = numbers.split_at(keys);
    let parts = key_numbers.iter().enumerate().map(|(place, number)| {
        let of = |list: &[&str]| list.get(place).copied().unwrap_or_default().to_owned();
        let expression = row.expressions.as_ref().and_then(|all| all.get(place));
        let what = if *number == 0 {
            expression.cloned().unwrap_or_default()
        } else {
            number.to_string()
        };
        Part {
            column: name(*number),
            exactly: [what, of(&classes), of(&collations), of(&options), class_settings(place)].join(" "),
        }
    });
    Shape {
        parts: parts.collect(),
        included: included.iter().filter_map(|number| name(*number)).collect(),
        condition: row.condition.clone().unwrap_or_default(),
        method: row.method.clone(),
        settings: row.settings.clone(),
        kept: row.enforces || row.clustered,
        usable: row.usable && !(row.hidden && (row.partial || numbers.contains(&0))),
        age: row.oid,
    }
}
