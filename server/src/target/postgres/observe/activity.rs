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

/// Who waits for a prepared transaction, which has no process: the function above names it 0. Whose lock it is, is found by the lock that
/// every transaction has on its own id.
const PREPARED: &str = "SELECT p.gid, p.owner::text AS role, extract(epoch FROM pg_catalog.clock_timestamp() - p.prepared)::bigint AS seconds, \
       w.pid AS waiting, w.mode AS wanted, h.mode AS held \
     FROM pg_catalog.pg_locks AS w JOIN pg_catalog.pg_locks AS h ON h.granted AND h.pid IS NULL AND h.locktype = w.locktype \
       AND (h.database, h.relation, h.page, h.tuple, h.virtualxid, h.transactionid::text, h.classid, h.objid, h.objsubid) IS NOT DISTINCT FROM \
         (w.database, w.relation, w.page, w.tuple, w.virtualxid, w.transactionid::text, w.classid, w.objid, w.objsubid) \
     JOIN pg_catalog.pg_locks AS x ON x.granted AND x.pid IS NULL AND x.locktype = 'transactionid' AND x.virtualtransaction = h.virtualtransaction \
     JOIN pg_catalog.pg_prepared_xacts AS p ON p.transaction = x.transactionid AND p.database = pg_catalog.current_database() \
     WHERE NOT w.granted AND w.pid = ANY ($1) ORDER BY p.prepared, p.gid, w.pid LIMIT 1000";

/// Modes of locks, the weakest first, each with those that it keeps waiting, as bits by their place here.
const MODES: [(&str, u8); 8] = [
    ("AccessShareLock", 0b1000_0000),
    ("RowShareLock", 0b1100_0000),
    ("RowExclusiveLock", 0b1111_0000),
    ("ShareUpdateExclusiveLock", 0b1111_1000),
    ("ShareLock", 0b1110_1100),
    ("ShareRowExclusiveLock", 0b1111_1100),
    ("ExclusiveLock", 0b1111_1110),
    ("AccessExclusiveLock", 0b1111_1111),
];

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
struct Prepared {
    gid: String,
    role: String,
    seconds: i64,
    waiting: i32,
    wanted: String,
    held: String,
}

/// Whether somebody who wants the one mode waits for whoever holds the other. Of a mode that is not known nobody can tell.
fn conflicts(wanted: &str, held: &str) -> bool {
    let place = |mode: &str| MODES.iter().position(|(known, _)| *known == mode);
    match (place(wanted), place(held)) {
        (Some(wanted), Some(held)) => (MODES[held].1 >> wanted) & 1 == 1,
        _ => true,
    }
}

/// Prepared transactions that sessions wait for.
async fn prepared(look: &mut Look<'_>, blocked: &[Blocked]) -> Vec<LongTransaction> {
    let waiting: Vec<i32> = blocked
        .iter()
        .filter(|one| one.blockers.contains(&0))
        .map(|one| one.pid)
        .collect();
    if waiting.is_empty() {
        return Vec::new();
    }
    let found = look.list::<Prepared>(|| sqlx::query(PREPARED).bind(waiting.clone())).await;
    let found = look.or_gap("blocked_sessions", found).unwrap_or_default();
    let mut transactions: Vec<LongTransaction> = Vec::new();
    for one in found.into_iter().filter(|one| conflicts(&one.wanted, &one.held)) {
        let known = transactions
            .iter_mut()
            .find(|known| known.prepared.as_deref() == Some(one.gid.as_str()));
        match known {
            Some(known) if known.blocks.contains(&one.waiting) => {}
            Some(known) => known.blocks.push(one.waiting),
            None => transactions.push(LongTransaction {
                pid: 0,
                prepared: Some(one.gid),
                role: one.role,
                application: String::new(),
                backend: String::new(),
                own: false,
                run: None,
                state: "prepared".to_owned(),
                seconds: unsigned(one.seconds),
                blocks: vec![one.waiting],
            }),
        }
    }
    transactions
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
    let prepared = prepared(look, &blocked).await;
    let sessions = long.into_iter().map(|transaction| LongTransaction {
        blocks: blocked
            .iter()
            .filter(|one| one.blockers.contains(&transaction.pid))
            .map(|one| one.pid)
            .collect(),
        pid: transaction.pid,
        prepared: None,
        role: transaction.role,
        own: transaction.application == APPLICATION,
        run: runs.remove(&transaction.pid),
        application: transaction.application,
        backend: transaction.backend,
        state: transaction.state,
        seconds: unsigned(transaction.seconds),
    });
    let mut long_transactions: Vec<LongTransaction> = sessions.chain(prepared).collect();
    long_transactions.sort_by_key(|transaction| std::cmp::Reverse(transaction.seconds));
    Some(SessionVitals {
        connections: unsigned(counts.connections),
        max_connections: unsigned(counts.max_connections),
        active: unsigned(counts.active),
        idle_in_transaction: unsigned(counts.idle_in_transaction),
        waiting: unsigned(counts.waiting),
        long_transactions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_keep_each_other_waiting_as_postgresql_documents_it() {
        for (one, mask) in MODES {
            for (place, (other, _)) in MODES.into_iter().enumerate() {
                assert_eq!(conflicts(other, one), (mask >> place) & 1 == 1);
                assert_eq!(conflicts(other, one), conflicts(one, other), "{one} and {other}");
            }
        }
        assert!(!conflicts("RowExclusiveLock", "RowExclusiveLock"));
        assert!(
            conflicts("ShareLock", "ExclusiveLock"),
            "whoever waits for the end of a transaction"
        );
        assert!(conflicts("SomethingNew", "AccessShareLock"));
    }
}
