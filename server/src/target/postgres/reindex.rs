//! Indexes that are mostly air, and their rebuild with `REINDEX INDEX CONCURRENTLY`, on a connection of its own.
//!
//! How much of an index is air is measured by `pgstatindex` where the extension pgstattuple is there and may be called, which reads the
//! whole index; otherwise it is estimated from the number of its entries and their average width. The estimate knows nothing of
//! deduplication: an index with many equal keys looks fuller than it is, and is left alone.
//!
//! A rebuild that is cut short leaves an invalid index behind, named after the other with `_ccnew` or `_ccold`. The statement carries the
//! run's id as a comment, so that whoever comes after a crash finds a server process that is still at it.

use std::time::Duration;

use dbkeep_engine::{
    failpoint,
    model::{BloatedIndex, DeadRows, IndexSpace, IndexSurvey, RunId, TableName},
    port::{MaintenanceError, TargetError, TargetErrorClass, Watch},
};
use sqlx::{AssertSqlSafe, Executor as _, FromRow, Row as _};

use super::{PostgresTarget, bloat, error::statement, line::Line, load::backend, progress, render};

/// Smaller indexes are not worth it, bytes.
const LEAST_BYTES: i64 = 10 * 1024 * 1024;
/// Indexes with less air than this stay as they are, percent.
const LEAST_BLOAT: u32 = 50;
/// Most indexes of one survey, the largest first.
const MOST_INDEXES: i64 = 1_000;
/// Most tables that are vacuumed at once.
const MOST_TABLES: i64 = 1_000;
/// So many dead rows are worth a vacuum, and from [`FEW_DEAD`] on also a tenth of the table.
const MANY_DEAD: i64 = 1_000;
const FEW_DEAD: i64 = 50;
/// How often the progress is asked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// How far a process is with building an index.
const PROGRESS: &str =
    "SELECT p.phase::text, p.blocks_done, p.blocks_total FROM pg_catalog.pg_stat_progress_create_index AS p WHERE p.pid = $1";
/// How long the process of a dead attempt may take to end after it was told to, and how often it is looked at.
const ENDING: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
/// A rebuild waits for transactions that began before it; after this time it gives up.
const SESSION: &str = "SET statement_timeout = 0; SET lock_timeout = '60s'";

const DEAD: &str = "SELECT n.nspname::text, c.relname::text, s.n_dead_tup::bigint, \
       pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role(d.datdba, 'USAGE') \
       OR CASE WHEN pg_catalog.current_setting('server_version_num')::integer >= 170000 THEN pg_catalog.has_table_privilege(c.oid, 'MAINTAIN') ELSE false END \
     FROM pg_catalog.pg_stat_all_tables AS s JOIN pg_catalog.pg_class AS c ON c.oid = s.relid \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database() \
     WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') \
       AND (s.n_dead_tup >= $1 OR s.n_dead_tup >= $2 AND s.n_dead_tup * 10 >= s.n_live_tup + s.n_dead_tup) \
     ORDER BY s.n_dead_tup DESC, n.nspname, c.relname LIMIT $3";

/// Valid B-trees of some size. The width is that of a whole key, from statistics or from the type; NULL where neither tells.
const LARGE: &str = "SELECT n.nspname::text AS index_schema, c.relname::text AS index_name, tn.nspname::text AS table_schema, \
       t.relname::text AS table_name, pg_catalog.pg_relation_size(c.oid) AS bytes, c.reltuples::float8 AS entries, \
       coalesce((SELECT o.option_value::int FROM pg_catalog.pg_options_to_table(c.reloptions) AS o WHERE o.option_name = 'fillfactor'), 90) AS fill, \
       pg_catalog.current_setting('block_size')::bigint AS page, \
       pg_catalog.pg_has_role(c.relowner, 'USAGE') \
         OR CASE WHEN pg_catalog.current_setting('server_version_num')::integer >= 170000 THEN pg_catalog.has_table_privilege(t.oid, 'MAINTAIN') ELSE false END AS permitted, \
       (SELECT CASE WHEN count(w.width) = count(*) THEN sum(w.width)::float8 END FROM ( \
          SELECT coalesce((1 - s.null_frac) * s.avg_width, nullif(greatest(a.attlen, 0), 0)) AS width \
          FROM pg_catalog.pg_attribute AS a \
          LEFT JOIN pg_catalog.pg_attribute AS k ON k.attrelid = x.indrelid AND k.attnum = x.indkey[a.attnum - 1] AND k.attnum > 0 \
          LEFT JOIN LATERAL (SELECT p.null_frac, p.avg_width FROM pg_catalog.pg_stats AS p \
             WHERE (p.schemaname, p.tablename, p.attname) = (tn.nspname, t.relname, k.attname) \
                OR k.attname IS NULL AND (p.schemaname, p.tablename, p.attname) = (n.nspname, c.relname, a.attname) \
             ORDER BY p.inherited LIMIT 1) AS s ON true \
          WHERE a.attrelid = c.oid AND a.attnum > 0) AS w) AS width \
     FROM pg_catalog.pg_index AS x JOIN pg_catalog.pg_class AS c ON c.oid = x.indexrelid \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace JOIN pg_catalog.pg_class AS t ON t.oid = x.indrelid \
     JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.relnamespace JOIN pg_catalog.pg_am AS m ON m.oid = c.relam \
     WHERE m.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence <> 't' AND x.indisvalid AND x.indisready AND NOT x.indisexclusion \
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND pg_catalog.pg_relation_size(c.oid) > $1 \
     ORDER BY 5 DESC, 1, 2 LIMIT $2";

/// Invalid indexes with the names of a rebuild that no session is at now, each with the valid indexes of its table. Of the sessions of other roles
/// the server hides what they are at: while there is such a one ($1), none of them is known to be left behind.
const LEFTOVERS: &str = "SELECT n.nspname::text, c.relname::text, \
       coalesce((SELECT array_agg(o.relname::text) FROM pg_catalog.pg_index AS y JOIN pg_catalog.pg_class AS o ON o.oid = y.indexrelid \
          WHERE y.indrelid = x.indrelid AND y.indexrelid <> x.indexrelid), ARRAY[]::text[]) \
     FROM pg_catalog.pg_index AS x JOIN pg_catalog.pg_class AS c ON c.oid = x.indexrelid \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE NOT x.indisvalid AND c.relkind = 'i' AND c.relname ~ '_cc(new|old)[0-9]*$' AND n.nspname <> 'pg_toast' \
       AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_progress_create_index AS p \
          WHERE p.datname = pg_catalog.current_database() AND (p.relid = x.indrelid OR $1 AND p.relid IS NULL)) \
     ORDER BY 1, 2";

#[derive(FromRow)]
struct Large {
    index_schema: String,
    index_name: String,
    table_schema: String,
    table_name: String,
    bytes: i64,
    entries: f64,
    fill: i32,
    page: i64,
    permitted: bool,
    width: Option<f64>,
}

impl Large {
    fn index(&self) -> TableName {
        TableName {
            schema: Some(self.index_schema.clone()),
            name: self.index_name.clone(),
        }
    }
}

/// The extension's function, where there is one; `None` once it was refused.
struct Measure(Option<String>);

impl Measure {
    async fn find(connection: &mut Line) -> Result<Self, TargetError> {
        let sql = "SELECT n.nspname::text FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace \
                   WHERE e.extname = 'pgstattuple'";
        let schema: Option<String> = sqlx::query_scalar(sql).fetch_optional(connection).await.map_err(statement)?;
        Ok(Self(schema.map(|schema| render::identifier(&schema))))
    }

    /// How much of an index is air, percent; `None` where the extension is not there or may not be called.
    async fn of(&mut self, connection: &mut Line, large: &Large) -> Result<Option<u32>, TargetError> {
        let Some(schema) = &self.0 else { return Ok(None) };
        let sql = format!(
            "SELECT s.leaf_pages::float8, s.internal_pages::float8, nullif(s.avg_leaf_density, 'NaN')::float8, s.index_size::float8 \
             FROM {schema}.pgstatindex($1::regclass) AS s"
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(render::table(&large.index()))
            .fetch_one(connection)
            .await
            .map_err(statement);
        let row = match row {
            Ok(row) => row,
            Err(error) if error.class == TargetErrorClass::Permission => {
                self.0 = None;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let number = |column: usize| {
            row.try_get::<Option<f64>, _>(column)
                .map(Option::unwrap_or_default)
                .map_err(statement)
        };
        let (leaves, inner, density, size) = (number(0)?, number(1)?, number(2)?, number(3)?);
        let page = as_f64(large.page);
        let needed = (leaves * density / f64::from(large.fill) + inner + 1.0) * page;
        Ok(Some(percent(bloat::beyond(needed, size))))
    }
}

/// How much of an index is more than its entries need, percent.
fn estimate(entries: f64, width: f64, fill: i32, page: i64, bytes: i64) -> u32 {
    percent(bloat::index_air(entries, width, f64::from(fill), as_f64(page), as_f64(bytes)))
}

fn percent(part: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
    let whole = (100.0 * part) as u32;
    whole
}

fn as_f64(number: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "sizes are shown in percent")]
    let float = number as f64;
    float
}

/// The index that a rebuild was at which left this one behind: PostgreSQL cuts long names short to make room for the ending.
fn of_rebuild<'a>(leftover: &str, indexes: &'a [String]) -> Option<&'a String> {
    let base = leftover.trim_end_matches(|character: char| character.is_ascii_digit());
    let base = base.strip_suffix("_ccnew").or_else(|| base.strip_suffix("_ccold"))?;
    let cut = leftover.len() >= 62;
    let exact = indexes.iter().find(|index| *index == base);
    exact.or_else(|| indexes.iter().find(|index| cut && index.starts_with(base)))
}

/// Of rebuilds that may be somebody's at this moment, as far as the server shows that; with `all`, also where it hides what others are at.
async fn leftovers(connection: &mut Line, all: bool) -> Result<Vec<(TableName, Option<TableName>)>, TargetError> {
    let rows = sqlx::query(LEFTOVERS)
        .bind(!all)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter()
        .map(|row| {
            let schema: String = row.try_get(0).map_err(statement)?;
            let name: String = row.try_get(1).map_err(statement)?;
            let indexes: Vec<String> = row.try_get(2).map_err(statement)?;
            let of = of_rebuild(&name, &indexes).map(|of| TableName {
                schema: Some(schema.clone()),
                name: of.clone(),
            });
            let leftover = TableName {
                schema: Some(schema),
                name,
            };
            Ok((leftover, of))
        })
        .collect()
}

async fn size(connection: &mut Line, index: &TableName) -> Result<u64, TargetError> {
    let bytes: i64 = sqlx::query_scalar("SELECT pg_catalog.pg_relation_size($1::regclass)")
        .bind(render::table(index))
        .fetch_one(connection)
        .await
        .map_err(statement)?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// What the statement of a run begins with. An id holds nothing that could end a comment.
fn marked(run: RunId) -> String {
    format!("/* dbkeep {run} */ REINDEX")
}

impl PostgresTarget {
    pub(super) async fn tables_with_dead_rows(&self) -> Result<Vec<DeadRows>, MaintenanceError> {
        let mut connection = self.connection().await?;
        let rows = sqlx::query(DEAD)
            .bind(MANY_DEAD)
            .bind(FEW_DEAD)
            .bind(MOST_TABLES)
            .fetch_all(&mut connection)
            .await
            .map_err(statement)?;
        self.idle.put(connection);
        rows.iter()
            .map(|row| {
                let dead: i64 = row.try_get(2).map_err(statement)?;
                Ok(DeadRows {
                    table: TableName {
                        schema: Some(row.try_get(0).map_err(statement)?),
                        name: row.try_get(1).map_err(statement)?,
                    },
                    dead: u64::try_from(dead).unwrap_or(0),
                    permitted: row.try_get(3).map_err(statement)?,
                })
            })
            .collect()
    }

    pub(super) async fn look_at_indexes(&self, watch: &Watch) -> Result<IndexSurvey, MaintenanceError> {
        let mut connection = self.connect().await?;
        let process = backend(&mut connection).await?;
        let surveying = survey(&mut connection, watch);
        let surveyed = {
            let mut surveying = std::pin::pin!(surveying);
            tokio::select! {
                biased;
                surveyed = &mut surveying => surveyed,
                () = watch.stop.cancelled() => {
                    // Dropping the connection would leave it at work.
                    self.cancel(process).await;
                    let _ended = surveying.await;
                    return Err(MaintenanceError::Stopped);
                }
            }
        };
        self.idle.put(connection);
        Ok(surveyed?)
    }

    pub(super) async fn rebuild_index(
        &self,
        run: RunId,
        index: &TableName,
        watch: &Watch,
    ) -> Result<IndexSpace, MaintenanceError> {
        let name = render::table(index);
        let mut eyes = self.connect().await?;
        let bytes_before = size(&mut eyes, index).await?;
        let mut hands = self.connect().await?;
        hands.execute(SESSION).await.map_err(statement)?;
        let process = backend(&mut hands).await?;
        // Whoever slept until now may not be the one any more whose work this is.
        if watch.stop.is_cancelled() {
            return Err(MaintenanceError::Stopped);
        }
        let sql = format!("{} INDEX CONCURRENTLY {name}", marked(run));
        let rebuilding = async { hands.execute(AssertSqlSafe(sql)).await.map_err(statement) };
        {
            let mut rebuilding = std::pin::pin!(rebuilding);
            loop {
                tokio::select! {
                    biased;
                    done = &mut rebuilding => {
                        done?;
                        break;
                    }
                    () = watch.stop.cancelled() => {
                        self.cancel(process).await;
                        let _ended = rebuilding.await;
                        return Err(MaintenanceError::Stopped);
                    }
                    () = tokio::time::sleep(INTERVAL) => progress::tell(&mut eyes, PROGRESS, process, index, watch).await?,
                }
            }
        }
        failpoint!("reindex-done");
        let bytes_after = size(&mut eyes, index).await?;
        self.idle.put(eyes);
        Ok(IndexSpace {
            bytes_before,
            bytes_after,
        })
    }

    pub(super) async fn settle_rebuild(&self, run: RunId, index: &TableName) -> Result<Vec<TableName>, MaintenanceError> {
        let mut connection = self.connect().await?;
        connection.execute(SESSION).await.map_err(statement)?;
        self.end_rebuild(&mut connection, run).await?;
        let mut removed = Vec::new();
        // This one is the run's own to rebuild: nobody else is at it.
        for (leftover, of) in leftovers(&mut connection, true).await? {
            // By their names as they are written in reports, which do not tell a dot in a name from one between two.
            if of.is_none_or(|of| of.to_string() != index.to_string()) {
                continue;
            }
            let sql = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", render::table(&leftover));
            connection.execute(AssertSqlSafe(sql)).await.map_err(statement)?;
            removed.push(leftover);
        }
        Ok(removed)
    }

    /// Ends processes of the server that are still at a rebuild of a run whose attempt has died.
    async fn end_rebuild(&self, connection: &mut Line, run: RunId) -> Result<(), MaintenanceError> {
        let sql = "SELECT a.pid, pg_catalog.pg_cancel_backend(a.pid) FROM pg_catalog.pg_stat_activity AS a \
                   WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.datname = pg_catalog.current_database() AND a.state = 'active' \
                     AND pg_catalog.starts_with(a.query, $1)";
        let since = tokio::time::Instant::now();
        loop {
            let rows = sqlx::query(sql)
                .bind(marked(run))
                .fetch_all(&mut *connection)
                .await
                .map_err(statement)?;
            if rows.is_empty() {
                return Ok(());
            }
            if since.elapsed() > ENDING {
                let message = format!("{} processes of the server are still at it and do not end", rows.len());
                return Err(TargetError::new(TargetErrorClass::Refused, message).into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

async fn survey(connection: &mut Line, watch: &Watch) -> Result<IndexSurvey, TargetError> {
    let large: Vec<Large> = sqlx::query_as(LARGE)
        .bind(LEAST_BYTES)
        .bind(MOST_INDEXES)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    let left = leftovers(connection, false).await?;
    let mut measure = Measure::find(connection).await?;
    let mut found = IndexSurvey {
        examined: large.len() as u64,
        leftovers: left.iter().map(|(leftover, _)| leftover.clone()).collect(),
        ..IndexSurvey::default()
    };
    for (position, one) in large.iter().enumerate() {
        let index = one.index();
        watch.say(
            "examining",
            &index.to_string(),
            position as u64,
            large.len() as u64,
            "indexes",
        );
        let (bloat_percent, found_by) = match (measure.of(connection, one).await?, one.width) {
            (Some(percent), _) => (percent, "pgstattuple"),
            (None, Some(width)) if one.entries >= 0.0 => {
                (estimate(one.entries, width, one.fill, one.page, one.bytes), "estimate")
            }
            (None, _) => {
                found.unknown.push(index);
                continue;
            }
        };
        if bloat_percent < LEAST_BLOAT {
            continue;
        }
        let leftovers = left.iter().filter(|(_, of)| of.as_ref() == Some(&index));
        found.bloated.push(BloatedIndex {
            leftovers: leftovers.map(|(leftover, _)| leftover.clone()).collect(),
            table: TableName {
                schema: Some(one.table_schema.clone()),
                name: one.table_name.clone(),
            },
            index,
            bytes: u64::try_from(one.bytes).unwrap_or(0),
            bloat_percent,
            found_by: found_by.to_owned(),
            permitted: one.permitted,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_what_the_entries_do_not_need() {
        // 366 entries of 20 bytes fit into a page that is filled to 90 %: a million of them need 2,733 leaves.
        let pages = |pages: i64| estimate(1_000_000.0, 8.0, 90, 8_192, pages * 8_192);
        assert_eq!(pages(2_742), 0);
        assert_eq!(pages(2 * 2_742), 50);
        assert_eq!(pages(4 * 2_742), 75);
        assert_eq!(pages(1_000), 0, "deduplicated, and not less than nothing");
        assert_eq!(estimate(0.0, 8.0, 90, 8_192, 8_192_000), 99, "emptied");
        assert_eq!(estimate(0.0, 8.0, 90, 8_192, 0), 0);
    }

    #[test]
    fn a_leftover_belongs_to_the_index_that_it_is_named_after() {
        let long = "i".repeat(63);
        let indexes = [
            "child_parent".to_owned(),
            "child".to_owned(),
            "child_parent2".to_owned(),
            long.clone(),
        ];
        let of = |leftover: &str| of_rebuild(leftover, &indexes).map(String::as_str);
        assert_eq!(of("child_parent_ccnew"), Some("child_parent"));
        assert_eq!(of("child_ccold3"), Some("child"));
        assert_eq!(of("child_par_ccnew"), None, "no name was cut short");
        assert_eq!(of("child_parent2_ccnew1"), Some("child_parent2"));
        assert_eq!(of(&format!("{}_ccnew", "i".repeat(57))), Some(long.as_str()));
        assert_eq!(of("child_parent"), None);
    }
}
