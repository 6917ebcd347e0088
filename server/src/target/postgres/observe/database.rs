//! The database as a whole: size, counters, age, and who keeps VACUUM from removing dead rows.

use dbkeep_engine::{
    model::{
        TableName,
        monitor::{HorizonHolder, OldTemporary, Vitals},
    },
    port::TargetError,
};
use jiff::Timestamp;
use sqlx::FromRow;

use super::{
    super::{
        APPLICATION,
        error::{refused, statement},
        render,
    },
    activity,
    session::{Look, moment, unsigned},
};

/// Transactions, and multixacts, after which the database refuses writes: three million before 2^31.
const XID_LIMIT: u64 = (1 << 31) - 1 - 3_000_000;

/// Whether the widths of columns may be read from the table behind `pg_stats`, which shows only columns that the role may read: these
/// five columns hold no value of any row.
const BASICS: &str = "SELECT pg_catalog.current_setting('server_version') AS version, \
       (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint AS micros, pg_catalog.pg_is_in_recovery() AS in_recovery, \
       pg_catalog.current_setting('block_size')::bigint AS page, current_user::text AS role, \
       (SELECT bool_and(pg_catalog.has_column_privilege('pg_catalog.pg_statistic', c.name, 'SELECT')) \
          FROM unnest(ARRAY['starelid', 'staattnum', 'stainherit', 'stanullfrac', 'stawidth']) AS c(name)) AS widths";

const COUNTERS: &str = "SELECT s.deadlocks, s.xact_commit AS commits, s.xact_rollback AS rollbacks, \
       (extract(epoch FROM s.stats_reset) * 1000000)::bigint AS since, \
       pg_catalog.age(d.datfrozenxid)::bigint AS xid_age, pg_catalog.mxid_age(d.datminmxid)::bigint AS multixact_age \
     FROM pg_catalog.pg_database AS d LEFT JOIN pg_catalog.pg_stat_database AS s ON s.datid = d.oid \
     WHERE d.datname = pg_catalog.current_database()";

/// The history of the server that the log is of: of one that follows by its control file, which comes a little later.
const TIMELINE: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN (SELECT c.timeline_id::bigint FROM pg_catalog.pg_control_checkpoint() AS c) \
       ELSE ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::bigint END AS timeline";

/// This session's process, and where the files are: nothing where the role may not read that.
const PLACE: &str = "SELECT pg_catalog.pg_backend_pid() AS process, \
       (SELECT s.setting FROM pg_catalog.pg_settings AS s WHERE s.name = 'data_directory') AS folder";

const SIZE: &str = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())";

/// Who has the oldest view of the database. A VACUUM does not count, whatever its session shows; and what holds only catalogs comes
/// after whatever holds tables.
const HORIZON: &str = "SELECT h.kind, h.name, h.detail, h.xid_age, h.seconds, h.application, h.backend, h.active FROM ( \
       SELECT CASE WHEN a.backend_type = 'walsender' THEN 'replica' ELSE 'transaction' END AS kind, \
         CASE WHEN a.backend_type = 'walsender' THEN a.application_name ELSE a.pid::text END AS name, \
         concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state) AS detail, \
         greatest(pg_catalog.age(a.backend_xmin), pg_catalog.age(a.backend_xid))::bigint AS xid_age, \
         extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::bigint AS seconds, false AS catalogs, \
         coalesce(a.application_name, '') AS application, coalesce(a.backend_type, '') AS backend, true AS active \
       FROM pg_catalog.pg_stat_activity AS a WHERE a.pid <> pg_catalog.pg_backend_pid() \
         AND (a.datname = pg_catalog.current_database() OR a.backend_type = 'walsender') \
         AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_progress_vacuum AS v WHERE v.pid = a.pid) \
       UNION ALL SELECT 'prepared_transaction', p.gid, concat_ws(', ', p.owner, 'prepared'), pg_catalog.age(p.transaction)::bigint, \
         extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::bigint, false, '', '', false \
       FROM pg_catalog.pg_prepared_xacts AS p WHERE p.database = pg_catalog.current_database() \
       UNION ALL SELECT 'replication_slot', s.slot_name::text, \
         concat_ws(', ', s.slot_type, CASE WHEN s.active THEN 'active' ELSE 'inactive' END, CASE WHEN s.xmin IS NULL THEN 'holds catalogs only' END), \
         pg_catalog.age(coalesce(s.xmin, s.catalog_xmin))::bigint, NULL, s.xmin IS NULL, '', '', s.active FROM pg_catalog.pg_replication_slots AS s \
     ) AS h WHERE h.xid_age > 0 ORDER BY h.catalogs, h.xid_age DESC, h.name LIMIT 1";

/// Temporary tables that are about as old as the whole database.
const OLD_TEMPORARY: &str = "SELECT n.nspname::text AS schema, c.relname::text AS name, o.age::bigint AS age FROM pg_catalog.pg_class AS c \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_database AS d ON d.datname = pg_catalog.current_database() \
     CROSS JOIN LATERAL (SELECT greatest(pg_catalog.age(c.relfrozenxid), pg_catalog.mxid_age(c.relminmxid)) AS age) AS o \
     WHERE c.relpersistence = 't' AND c.relkind IN ('r', 'm') AND c.relfrozenxid <> '0' \
       AND o.age::bigint * 20 >= 19 * greatest(pg_catalog.age(d.datfrozenxid), pg_catalog.mxid_age(d.datminmxid))::bigint \
     ORDER BY o.age DESC, n.nspname, c.relname LIMIT 10";

#[derive(FromRow)]
struct BasicsRow {
    version: String,
    micros: i64,
    in_recovery: bool,
    page: i64,
    role: String,
    widths: bool,
}

/// What every part needs to know.
#[derive(Debug, Clone)]
pub(super) struct Basics {
    pub(super) version: String,
    pub(super) at: Timestamp,
    pub(super) in_recovery: bool,
    pub(super) page: u32,
    pub(super) role: String,
    /// Whether the role reads the widths of all columns.
    pub(super) widths: bool,
}

/// The first statement: where it fails, nobody answers.
pub(super) async fn basics(look: &mut Look<'_>) -> Result<Basics, TargetError> {
    let rows = look.rows(|| sqlx::query(BASICS)).await?;
    let row = rows
        .first()
        .ok_or_else(|| refused("no answer to the first question".to_owned()))?;
    let row = BasicsRow::from_row(row).map_err(statement)?;
    Ok(Basics {
        version: row.version.split(' ').next().unwrap_or_default().to_owned(),
        at: moment(row.micros).ok_or_else(|| refused("the server's clock is out of range".to_owned()))?,
        in_recovery: row.in_recovery,
        page: u32::try_from(row.page).unwrap_or(8_192),
        role: row.role,
        widths: row.widths,
    })
}

#[derive(FromRow)]
struct Counters {
    deadlocks: Option<i64>,
    commits: Option<i64>,
    rollbacks: Option<i64>,
    since: Option<i64>,
    xid_age: i64,
    multixact_age: i64,
}

pub(super) async fn vitals(look: &mut Look<'_>) -> Vitals {
    let mut vitals = Vitals::default();
    if let Some(basics) = look.basics() {
        vitals.version.clone_from(&basics.version);
        vitals.in_recovery = basics.in_recovery;
        vitals.page_bytes = Some(u64::from(basics.page));
    }
    let counters = look.one::<Counters>(|| sqlx::query(COUNTERS)).await;
    if let Some(counters) = look.or_gap("database", counters).flatten() {
        vitals.deadlocks = counters.deadlocks.map(unsigned);
        vitals.commits = counters.commits.map(unsigned);
        vitals.rollbacks = counters.rollbacks.map(unsigned);
        vitals.statistics_since = counters.since.and_then(moment);
        // Both have the same limit, so that the larger is the nearer to it.
        vitals.xid_age = Some(unsigned(counters.xid_age.max(counters.multixact_age)));
        vitals.xid_limit = Some(XID_LIMIT);
    }
    let temporary = look.list::<(String, String, i64)>(|| sqlx::query(OLD_TEMPORARY)).await;
    let temporary = look.or_gap("temporary_tables", temporary).unwrap_or_default();
    vitals.old_temporary = temporary
        .into_iter()
        .map(|(schema, name, age)| OldTemporary {
            table: TableName {
                schema: Some(schema),
                name,
            },
            xid_age: unsigned(age),
        })
        .collect();
    let timeline = look.one::<(Option<i64>,)>(|| sqlx::query(TIMELINE)).await;
    let timeline = look.or_gap("timeline", timeline).flatten();
    vitals.timeline = timeline.and_then(|(timeline,)| timeline).map(unsigned);
    let place = look.one::<(i32, Option<String>)>(|| sqlx::query(PLACE)).await;
    if let Some((process, folder)) = look.or_gap("data_folder", place).flatten() {
        (vitals.data_folder, vitals.disk_unknown) = seen_here(is_here(process), folder);
    }
    let size = look.one::<(i64,)>(|| sqlx::query(SIZE)).await;
    vitals.size_bytes = look.or_gap("database_size", size).flatten().map(|(size,)| unsigned(size));
    vitals
}

/// Whether a session's process is one of this machine. An address tells nothing: it may be that of a tunnel.
fn is_here(process: i32) -> bool {
    std::fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| line.starts_with(b"postgres"))
}

/// The folder whose disk can be looked at, or why there is none.
fn seen_here(is_here: bool, folder: Option<String>) -> (Option<String>, String) {
    match (is_here, folder) {
        (true, Some(folder)) => (Some(folder), String::new()),
        (true, None) => (
            None,
            "it may not be read where its files are: GRANT pg_read_all_settings, or pg_monitor, to dbkeep's role".to_owned(),
        ),
        (false, _) => (
            None,
            "its server is not seen on this machine: run a dbkeepd beside it, on the same control store, or watch its disk there"
                .to_owned(),
        ),
    }
}

#[derive(FromRow)]
struct Holder {
    kind: String,
    name: String,
    detail: String,
    xid_age: i64,
    seconds: Option<i64>,
    application: String,
    backend: String,
    active: bool,
}

impl Holder {
    fn is_own(&self) -> bool {
        self.application == APPLICATION
    }

    /// What ends it. Not so what dbkeep does, whose run is stopped by its name, nor autovacuum, which the database begins again.
    fn remedy(&self, run: Option<&str>) -> String {
        let name = render::literal(&self.name);
        match self.kind.as_str() {
            "transaction" if self.is_own() => match run {
                Some(run) => format!("dbkeep runs cancel {run}"),
                None => "dbkeep is at work: wait, or cancel what `dbkeep runs list` shows to be running".to_owned(),
            },
            "transaction" if self.backend == "autovacuum worker" => "wait until autovacuum is done with its table".to_owned(),
            "transaction" => format!("SELECT pg_terminate_backend({});", self.name),
            "prepared_transaction" => format!("ROLLBACK PREPARED {name}; -- or COMMIT PREPARED, whichever its owner meant"),
            "replication_slot" if self.active => {
                format!(
                    "end the old transaction at what reads from the slot {name}, or let that catch up: a slot in use cannot be dropped"
                )
            }
            "replication_slot" => format!("SELECT pg_drop_replication_slot({name}); -- where its replica does not come back"),
            _ => "ALTER SYSTEM SET hot_standby_feedback = off; SELECT pg_reload_conf(); -- both on the replica; or end the old transaction there"
                .to_owned(),
        }
    }
}

/// Who holds the horizon. On a standby nobody does: what its sessions need, its primary is told of.
pub(super) async fn horizon(look: &mut Look<'_>, vitals: &mut Vitals) {
    if vitals.in_recovery {
        return;
    }
    let holder = look.one::<Holder>(|| sqlx::query(HORIZON)).await;
    let Some(holder) = look.or_gap("horizon", holder).flatten() else {
        return;
    };
    let own = holder.name.parse::<i32>().ok().filter(|_| holder.is_own());
    let runs = activity::runs(look, own.as_slice()).await;
    let remedy = holder.remedy(own.and_then(|pid| runs.get(&pid)).map(String::as_str));
    vitals.horizon = Some(HorizonHolder {
        kind: holder.kind,
        name: holder.name,
        detail: holder.detail,
        xid_age: unsigned(holder.xid_age),
        seconds: holder.seconds.map(unsigned),
        remedy,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_this_machine_that_is_no_database_is_not_taken_for_one() {
        let own = i32::try_from(std::process::id()).expect("a process");
        assert!(!is_here(own));
        let (folder, why) = seen_here(false, Some("/data".to_owned()));
        assert!(folder.is_none() && why.contains("not seen on this machine"), "{why}");
        let (folder, why) = seen_here(true, None);
        assert!(folder.is_none() && why.contains("GRANT pg_read_all_settings"), "{why}");
    }

    #[test]
    fn a_remedy_ends_only_what_may_be_ended() {
        let holder = |kind: &str, application: &str, backend: &str, active| Holder {
            kind: kind.to_owned(),
            name: "77".to_owned(),
            detail: String::new(),
            xid_age: 1,
            seconds: None,
            application: application.to_owned(),
            backend: backend.to_owned(),
            active,
        };
        let transaction = |application, backend| holder("transaction", application, backend, true);
        let of_others = transaction("web", "client backend").remedy(None);
        assert_eq!(of_others, "SELECT pg_terminate_backend(77);");
        let own = transaction(APPLICATION, "client backend");
        assert_eq!(own.remedy(Some("0190")), "dbkeep runs cancel 0190");
        let vacuum = transaction("", "autovacuum worker").remedy(None);
        for remedy in [own.remedy(None), vacuum] {
            assert!(remedy.contains("wait") && !remedy.contains("pg_"), "{remedy}");
        }
        let slot = |active| holder("replication_slot", "", "", active).remedy(None);
        assert!(slot(false).starts_with("SELECT pg_drop_replication_slot('77');"));
        assert!(!slot(true).contains("pg_drop"), "{}", slot(true));
        let replica = holder("replica", "", "walsender", true).remedy(None);
        assert!(
            replica.starts_with("ALTER SYSTEM SET hot_standby_feedback = off; SELECT pg_reload_conf(); -- "),
            "without the second nothing changes: {replica}"
        );
    }
}
