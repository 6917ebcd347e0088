//! What the catalog answers of tables, columns and indexes, a page at a time: the statements, and their rows.

use dbkeep_engine::model::monitor::{Precision, RowCount};
use sqlx::FromRow;

use super::session::{float, unsigned, whole};

/// Relations that somebody has locked altogether, or waits to: whoever asks for their size waits in line.
const LOCKED: &str = "locked AS MATERIALIZED (SELECT DISTINCT l.relation FROM pg_catalog.pg_locks AS l WHERE l.locktype = 'relation' \
       AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() \
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()))";

/// Partitioned tables are among them for their indexes alone.
pub(super) const TABLES: &str = "page AS MATERIALIZED (SELECT c.*, n.nspname FROM pg_catalog.pg_class AS c \
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
pub(super) const WIDTHS: &str = "SELECT a.attrelid::bigint AS relation, a.attnum::int AS number, a.attname::text AS name, a.attlen::int AS length, \
       s.stanullfrac::float8 AS nulls, s.stawidth::float8 AS width FROM pg_catalog.pg_attribute AS a \
     LEFT JOIN pg_catalog.pg_statistic AS s ON s.starelid = a.attrelid AND s.staattnum = a.attnum AND NOT s.stainherit \
     WHERE a.attrelid = ANY ($1::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2";

/// The same from the view, which shows columns that the role may read.
pub(super) const VISIBLE_WIDTHS: &str = "SELECT a.attrelid::bigint AS relation, a.attnum::int AS number, a.attname::text AS name, a.attlen::int AS length, \
       s.null_frac::float8 AS nulls, s.avg_width::float8 AS width FROM pg_catalog.pg_attribute AS a \
     JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     LEFT JOIN LATERAL (SELECT p.null_frac, p.avg_width FROM pg_catalog.pg_stats AS p \
        WHERE (p.schemaname, p.tablename, p.attname) = (n.nspname, c.relname, a.attname) AND NOT p.inherited LIMIT 1) AS s ON true \
     WHERE a.attrelid = ANY ($1::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2";

/// An index that is being built is not one that failed to build.
pub(super) const INDEXES: &str = "seen AS MATERIALIZED (SELECT x.*, c.relname, c.relkind, c.relispartition, c.reltuples, c.reloptions, m.amname, \
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
pub(super) struct TableRow {
    pub(super) oid: i64,
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) partitioned: bool,
    pub(super) hidden: bool,
    pub(super) readable: bool,
    pub(super) tuples: f64,
    pub(super) pages: i64,
    pub(super) fill: i32,
    pub(super) main: Option<i64>,
    pub(super) maps: Option<i64>,
    pub(super) toast: Option<i64>,
    pub(super) live: i64,
    pub(super) dead: i64,
    pub(super) changed: i64,
    pub(super) scans: i64,
    pub(super) inserted: i64,
    pub(super) deleted: i64,
    pub(super) fetched: i64,
    pub(super) hit: i64,
    pub(super) vacuumed: Option<i64>,
    pub(super) analyzed: Option<i64>,
    pub(super) age: Option<i64>,
}

impl TableRow {
    /// Rows by whatever knows them best. The counters are true from the last VACUUM or ANALYZE on, or since the table was made.
    pub(super) fn rows(&self, page: u32) -> Option<RowCount> {
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
pub(super) struct WidthRow {
    pub(super) relation: i64,
    pub(super) number: i32,
    pub(super) name: String,
    pub(super) length: i32,
    pub(super) nulls: Option<f64>,
    pub(super) width: Option<f64>,
}

impl WidthRow {
    /// Average width with NULLs as nothing; of a type of fixed width also without statistics.
    pub(super) fn width(&self) -> Option<f64> {
        let fixed = (self.length > 0).then(|| f64::from(self.length));
        self.width.or(fixed).map(|width| width * (1.0 - self.nulls.unwrap_or(0.0)))
    }
}

#[derive(FromRow)]
pub(super) struct IndexRow {
    pub(super) oid: i64,
    pub(super) relation: i64,
    pub(super) name: String,
    pub(super) method: String,
    pub(super) hidden: bool,
    pub(super) usable: bool,
    /// Whether somebody builds an index of the table; `None` where somebody builds one, and the role may not see of which table.
    pub(super) building: Option<bool>,
    pub(super) clustered: bool,
    /// What decides how it can be used, of the whole and of each column.
    pub(super) settings: String,
    pub(super) class_settings: Vec<String>,
    pub(super) enforces: bool,
    pub(super) partitioned: bool,
    pub(super) keys: i32,
    pub(super) columns: String,
    pub(super) classes: String,
    pub(super) collations: String,
    pub(super) options: String,
    pub(super) bytes: Option<i64>,
    pub(super) entries: f64,
    pub(super) fill: i32,
    pub(super) scans: i64,
    pub(super) fetched: i64,
    pub(super) hit: i64,
    pub(super) partial: bool,
    pub(super) definition: Option<String>,
    pub(super) condition: Option<String>,
    pub(super) expressions: Option<Vec<String>>,
}

/// A statement over relations that knows which of them are locked.
pub(super) fn with_locked(sql: &str) -> super::session::Query {
    sqlx::query(sqlx::AssertSqlSafe(format!("WITH {LOCKED}, {sql}")))
}
