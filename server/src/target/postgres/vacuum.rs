//! `VACUUM (ANALYZE)` of one table on a connection of its own, and what became of the space: what is reusable inside, what went back to
//! the system, and who still holds dead rows. Never FULL, which would lock the table for as long as it takes.

use std::time::Duration;

use dbkeep_engine::{
    model::{HorizonHolder, TableName, TableSpace},
    port::{MaintenanceError, TargetError, TargetErrorClass, Watch},
};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{
    PostgresTarget,
    error::{LACKING, statement},
    line::Line,
    load::backend,
    progress, render,
};

/// How often the progress is asked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// How far a process is with VACUUM.
const PROGRESS: &str =
    "SELECT p.phase::text, p.heap_blks_scanned, p.heap_blks_total FROM pg_catalog.pg_stat_progress_vacuum AS p WHERE p.pid = $1";
/// How long the statistics of an older server may take to arrive, and how often they are looked at.
const STATISTICS: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);
/// Holders that are named.
const NAMED: i64 = 5;

const SIZES: &str = "SELECT pg_catalog.pg_total_relation_size($1::regclass), pg_catalog.pg_relation_size($1::regclass), \
     coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0), coalesce(s.vacuum_count, 0) \
     FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_stat_all_tables AS s ON s.relid = $1::regclass";

/// Everybody who may still see what was deleted, oldest first. Query texts are left out: they may hold data.
const HOLDERS: &str = "SELECT * FROM ( \
       SELECT 'session' AS kind, a.pid::text AS name, coalesce(a.usename, '')::text AS usr, concat_ws(', ', nullif(a.application_name, ''), a.state) AS detail, \
         extract(epoch FROM clock_timestamp() - a.xact_start)::bigint AS seconds, age(a.backend_xmin)::bigint AS transactions \
       FROM pg_catalog.pg_stat_activity AS a WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid() AND a.backend_type <> 'walsender' \
         AND (a.datname = current_database() OR a.datname IS NULL) \
       UNION ALL \
       SELECT 'standby', coalesce(nullif(r.application_name, ''), r.pid::text), coalesce(r.usename, '')::text, r.state::text, NULL, age(r.backend_xmin)::bigint \
       FROM pg_catalog.pg_stat_replication AS r WHERE r.backend_xmin IS NOT NULL \
       UNION ALL \
       SELECT 'prepared_transaction', p.gid, p.owner::text, '', extract(epoch FROM clock_timestamp() - p.prepared)::bigint, age(p.transaction)::bigint \
       FROM pg_catalog.pg_prepared_xacts AS p WHERE p.database = current_database() \
       UNION ALL \
       SELECT 'replication_slot', s.slot_name::text, '', CASE WHEN s.active THEN 'active' ELSE 'inactive' END, NULL, \
         greatest(age(s.xmin), age(s.catalog_xmin))::bigint \
       FROM pg_catalog.pg_replication_slots AS s WHERE s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL) AS h \
     ORDER BY h.transactions DESC NULLS LAST LIMIT $1";

/// Whether the role may vacuum a table. Where it may not, VACUUM warns, does nothing and succeeds.
const PERMITTED: &str = "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role(d.datdba, 'USAGE') \
       OR CASE WHEN pg_catalog.current_setting('server_version_num')::integer >= 170000 THEN pg_catalog.has_table_privilege(c.oid, 'MAINTAIN') ELSE false END \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database() WHERE c.oid = $1::regclass";

struct Sizes {
    whole: u64,
    heap: u64,
    live: u64,
    dead: u64,
    vacuums: i64,
}

async fn sizes(connection: &mut Line, name: &str) -> Result<Sizes, TargetError> {
    let row = sqlx::query(SIZES).bind(name).fetch_one(connection).await.map_err(statement)?;
    let number = |column: usize| -> Result<u64, TargetError> {
        let number: i64 = row.try_get(column).map_err(statement)?;
        Ok(u64::try_from(number).unwrap_or(0))
    };
    Ok(Sizes {
        whole: number(0)?,
        heap: number(1)?,
        live: number(2)?,
        dead: number(3)?,
        vacuums: row.try_get(4).map_err(statement)?,
    })
}

/// Free bytes inside a table and how they were found; `None` where no extension can tell.
async fn free_space(connection: &mut Line, name: &str) -> Result<Option<(u64, &'static str)>, TargetError> {
    for (extension, function, label) in [
        (
            "pg_freespacemap",
            "SELECT coalesce(sum(f.avail), 0)::bigint FROM {}.pg_freespace($1::regclass) AS f",
            "freespacemap",
        ),
        (
            "pgstattuple",
            "SELECT a.approx_free_space::bigint FROM {}.pgstattuple_approx($1::regclass) AS a",
            "pgstattuple",
        ),
    ] {
        let sql = "SELECT n.nspname::text FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = $1";
        let schema: Option<String> = sqlx::query_scalar(sql)
            .bind(extension)
            .fetch_optional(&mut *connection)
            .await
            .map_err(statement)?;
        let Some(schema) = schema else { continue };
        let sql = function.replace("{}", &render::identifier(&schema));
        let free: Result<i64, _> = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(name)
            .fetch_one(&mut *connection)
            .await;
        match free.map_err(statement) {
            Ok(free) => return Ok(Some((u64::try_from(free).unwrap_or(0), label))),
            // Not everybody may call it; the next way is taken.
            Err(error) if error.class == TargetErrorClass::Permission => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

async fn holders(connection: &mut Line) -> Result<Vec<HorizonHolder>, TargetError> {
    let rows = sqlx::query(HOLDERS)
        .bind(NAMED)
        .fetch_all(connection)
        .await
        .map_err(statement)?;
    rows.iter()
        .map(|row| {
            let number = |column: usize| -> Result<Option<u64>, TargetError> {
                let number: Option<i64> = row.try_get(column).map_err(statement)?;
                Ok(number.and_then(|number| u64::try_from(number).ok()))
            };
            Ok(HorizonHolder {
                kind: row.try_get(0).map_err(statement)?,
                name: row.try_get(1).map_err(statement)?,
                user: row.try_get(2).map_err(statement)?,
                detail: row.try_get(3).map_err(statement)?,
                age_seconds: number(4)?,
                age_transactions: number(5)?,
            })
        })
        .collect()
}

impl PostgresTarget {
    pub(super) async fn vacuum_table(&self, table: &TableName, watch: &Watch) -> Result<TableSpace, MaintenanceError> {
        let name = render::table(table);
        // Its snapshots must not hold back what the other connection vacuums, so that it never opens a transaction.
        let mut eyes = self.connect().await?;
        self.have_counters_told(&mut eyes).await?;
        let before = sizes(&mut eyes, &name).await?;
        let permitted: bool = sqlx::query_scalar(PERMITTED)
            .bind(&name)
            .fetch_one(&mut eyes)
            .await
            .map_err(statement)?;
        if !permitted {
            let message = format!("VACUUM of {table} is for its owner; {LACKING}");
            return Err(TargetError::new(TargetErrorClass::Permission, message).into());
        }
        let mut hands = self.connect().await?;
        let process = backend(&mut hands).await?;
        let vacuuming = async {
            hands
                .execute(AssertSqlSafe(format!("VACUUM (ANALYZE) {name}")))
                .await
                .map_err(statement)
        };
        {
            let mut vacuuming = std::pin::pin!(vacuuming);
            loop {
                tokio::select! {
                    biased;
                    done = &mut vacuuming => {
                        done?;
                        break;
                    }
                    () = watch.stop.cancelled() => {
                        // Dropping the connection would leave it at work.
                        self.cancel(process).await;
                        let _ended = vacuuming.await;
                        return Err(MaintenanceError::Stopped);
                    }
                    () = tokio::time::sleep(INTERVAL) => progress::tell(&mut eyes, PROGRESS, process, table, watch).await?,
                }
            }
        }
        let mut after = sizes(&mut eyes, &name).await?;
        let since = tokio::time::Instant::now();
        while after.vacuums == before.vacuums && since.elapsed() < STATISTICS {
            tokio::time::sleep(LOOK).await;
            eyes.execute("SELECT pg_catalog.pg_stat_clear_snapshot()")
                .await
                .map_err(statement)?;
            after = sizes(&mut eyes, &name).await?;
        }
        let (reusable, by) = match free_space(&mut eyes, &name).await? {
            Some((free, by)) => (free, by),
            None => (estimate(&before, &after), "estimate"),
        };
        let holders = if after.dead > 0 {
            holders(&mut eyes).await?
        } else {
            Vec::new()
        };
        self.idle.put(eyes);
        let note = if after.vacuums == before.vacuums {
            "the server's statistics had not told of this vacuum yet".to_owned()
        } else {
            String::new()
        };
        Ok(TableSpace {
            table: table.to_string(),
            bytes_before: before.whole,
            bytes_after: after.whole,
            bytes_reusable: reusable,
            reusable_by: by.to_owned(),
            dead_rows: after.dead,
            holders,
            note,
        })
    }
}

/// Dead rows that went, times the average width of a row, less what went back to the system.
fn estimate(before: &Sizes, after: &Sizes) -> u64 {
    let rows = before.live + before.dead;
    if rows == 0 {
        return 0;
    }
    let gone = u128::from(before.dead.saturating_sub(after.dead)) * u128::from(before.heap) / u128::from(rows);
    let gone = u64::try_from(gone).unwrap_or(u64::MAX);
    gone.saturating_sub(before.heap.saturating_sub(after.heap))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_what_the_dead_rows_took_less_what_was_returned() {
        let sizes = |heap, live, dead| Sizes {
            whole: heap,
            heap,
            live,
            dead,
            vacuums: 0,
        };
        assert_eq!(estimate(&sizes(1_000, 50, 50), &sizes(1_000, 50, 0)), 500);
        assert_eq!(estimate(&sizes(1_000, 50, 50), &sizes(600, 50, 0)), 100);
        assert_eq!(estimate(&sizes(1_000, 50, 50), &sizes(500, 50, 0)), 0);
        assert_eq!(estimate(&sizes(0, 0, 0), &sizes(0, 0, 0)), 0);
    }
}
