//! Sessions, long transactions, and who waits for whom.

use std::collections::BTreeMap;

use dbkeep_engine::model::monitor::{LongTransaction, SessionVitals};
use sqlx::FromRow;

use super::{
    super::APPLICATION,
    session::{Look, unsigned},
};

/// Sessions of the whole server, and of this database without the one that asks. Of what a role may not see, the server tells that
/// it is there.
const SESSIONS: &str = "WITH waiting AS MATERIALIZED (SELECT DISTINCT l.pid FROM pg_catalog.pg_locks AS l WHERE NOT l.granted) \
     SELECT count(*) FILTER (WHERE coalesce(a.backend_type = 'client backend', a.datid IS NOT NULL AND a.usesysid IS NOT NULL)) AS connections, \
       pg_catalog.current_setting('max_connections')::bigint AS max_connections, \
       count(*) FILTER (WHERE o.own AND a.state = 'active' AND a.backend_type = 'client backend') AS active, \
       count(*) FILTER (WHERE o.own AND a.state LIKE 'idle in transaction%') AS idle_in_transaction, \
       count(*) FILTER (WHERE o.own AND a.pid IN (SELECT w.pid FROM waiting AS w)) AS waiting, \
       count(*) FILTER (WHERE a.query = '<insufficient privilege>') AS hidden \
     FROM pg_catalog.pg_stat_activity AS a \
     CROSS JOIN LATERAL (SELECT a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid() AS own) AS o";

/// Whoever has waited for over a second is asked who is in the way, and nobody else is: the function takes a look at all locks at once.
/// PostgreSQL 13 does not tell since when somebody waits.
const BLOCKED: &str = "SELECT w.pid, pg_catalog.pg_blocking_pids(w.pid) AS blockers FROM ( \
       SELECT DISTINCT a.pid FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid \
       WHERE NOT l.granted AND a.datname = pg_catalog.current_database() \
         AND coalesce((to_jsonb(l) ->> 'waitstart')::timestamptz, a.query_start) < pg_catalog.clock_timestamp() - interval '1 second' \
       ORDER BY a.pid LIMIT 100) AS w";

const LONG: &str = "SELECT a.pid, coalesce(a.usename::text, '') AS role, coalesce(a.application_name, '') AS application, \
       coalesce(a.backend_type, '') AS backend, coalesce(a.state, '') AS state, extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::bigint AS seconds \
     FROM pg_catalog.pg_stat_activity AS a WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid() \
       AND a.xact_start IS NOT NULL AND (a.pid = ANY ($1) OR a.backend_type = 'client backend' \
         AND a.xact_start < pg_catalog.clock_timestamp() - interval '1 minute') ORDER BY a.xact_start, a.pid LIMIT 20";

/// Whether the role may read what dbkeep's sessions note of themselves; a table that is not there cannot be named.
const MAY_READ_NOTES: &str = "SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     WHERE n.nspname = 'dbkeep' AND c.relname = 'session' AND c.relkind = 'r' AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
       AND pg_catalog.has_table_privilege(c.oid, 'SELECT')";

/// Runs by the process that works for them, where the process is the one that has noted itself.
const NOTES: &str = "SELECT s.pid, s.run_id AS run FROM dbkeep.session AS s \
     JOIN pg_catalog.pg_stat_activity AS a ON a.pid = s.pid AND a.backend_start = s.backend_start WHERE s.pid = ANY ($1)";

#[derive(FromRow)]
struct Counts {
    connections: i64,
    max_connections: i64,
    active: i64,
    idle_in_transaction: i64,
    waiting: i64,
    hidden: i64,
}

#[derive(FromRow)]
struct Blocked {
    pid: i32,
    blockers: Vec<i32>,
}

#[derive(FromRow)]
struct Long {
    pid: i32,
    role: String,
    application: String,
    backend: String,
    state: String,
    seconds: i64,
}

/// The runs that sessions of dbkeep work for. What they do for a short time they do not note.
pub(super) async fn runs(look: &mut Look<'_>, pids: &[i32]) -> BTreeMap<i32, String> {
    if pids.is_empty() {
        return BTreeMap::new();
    }
    let may_read = look.one::<(i32,)>(|| sqlx::query(MAY_READ_NOTES)).await;
    if !matches!(may_read, Ok(Some(_))) {
        return BTreeMap::new();
    }
    let pids = pids.to_vec();
    // It is dropped at this moment, or locked: then the run is not known, which is no gap in the target's health.
    let noted = look.list::<(i32, String)>(|| sqlx::query(NOTES).bind(pids.clone())).await;
    noted.unwrap_or_default().into_iter().collect()
}

pub(super) async fn sessions(look: &mut Look<'_>) -> Option<SessionVitals> {
    let counts = look.one::<Counts>(|| sqlx::query(SESSIONS)).await;
    let counts = look.or_gap("sessions", counts).flatten()?;
    if counts.hidden > 0 {
        let why = format!("the role may not see what {} sessions of others do", counts.hidden);
        let allow = look.grant();
        look.gap("sessions", why, allow);
    }
    let blocked = look.list::<Blocked>(|| sqlx::query(BLOCKED)).await;
    let blocked = look.or_gap("blocked_sessions", blocked).unwrap_or_default();
    let blockers: Vec<i32> = blocked.iter().flat_map(|one| one.blockers.iter().copied()).collect();
    let long = look.list::<Long>(|| sqlx::query(LONG).bind(blockers.clone())).await;
    let long = look.or_gap("long_transactions", long).unwrap_or_default();
    let own: Vec<i32> = long
        .iter()
        .filter(|one| one.application == APPLICATION)
        .map(|one| one.pid)
        .collect();
    let mut runs = runs(look, &own).await;
    Some(SessionVitals {
        connections: unsigned(counts.connections),
        max_connections: unsigned(counts.max_connections),
        active: unsigned(counts.active),
        idle_in_transaction: unsigned(counts.idle_in_transaction),
        waiting: unsigned(counts.waiting),
        long_transactions: long
            .into_iter()
            .map(|transaction| LongTransaction {
                blocks: blocked
                    .iter()
                    .filter(|one| one.blockers.contains(&transaction.pid))
                    .map(|one| one.pid)
                    .collect(),
                pid: transaction.pid,
                role: transaction.role,
                own: transaction.application == APPLICATION,
                run: runs.remove(&transaction.pid),
                application: transaction.application,
                backend: transaction.backend,
                state: transaction.state,
                seconds: unsigned(transaction.seconds),
            })
            .collect(),
    })
}
