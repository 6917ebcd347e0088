//! Replicas, replication slots, and the write-ahead log.

use dbkeep_engine::{
    model::monitor::{ReplicaVitals, SlotVitals, Vitals},
    port::TargetErrorClass,
};
use sqlx::{AssertSqlSafe, FromRow};

use super::{
    super::pressure::{behind, millis},
    session::{Look, unsigned},
};

/// Where the log ends: what was written here, or on a standby what has come.
const POSITION: &str = "CASE WHEN pg_catalog.pg_is_in_recovery() \
     THEN coalesce(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()) ELSE pg_catalog.pg_current_wal_lsn() END";

const REPLICAS: &str = "SELECT r.application_name AS name, r.state, (extract(epoch FROM r.replay_lag) * 1000)::bigint AS lag, \
     (extract(epoch FROM pg_catalog.clock_timestamp() - r.reply_time) * 1000)::bigint AS silent, \
     pg_catalog.pg_wal_lsn_diff({position}, r.replay_lsn)::bigint AS missing \
     FROM pg_catalog.pg_stat_replication AS r ORDER BY r.application_name, r.pid";

const SLOTS: &str = "SELECT s.slot_name::text AS name, s.active, s.slot_type = 'physical' AS physical, s.restart_lsn IS NOT NULL AS keeps, \
     pg_catalog.pg_wal_lsn_diff({position}, s.restart_lsn)::bigint AS retained \
     FROM pg_catalog.pg_replication_slots AS s WHERE NOT s.temporary ORDER BY s.slot_name";

const WRITTEN: &str = "SELECT pg_catalog.pg_wal_lsn_diff({position}, '0/0')::bigint";

const ON_DISK: &str = "SELECT coalesce(sum(f.size), 0)::bigint FROM pg_catalog.pg_ls_waldir() AS f";

fn at_position(sql: &str) -> super::session::Query {
    sqlx::query(AssertSqlSafe(sql.replace("{position}", POSITION)))
}

#[derive(FromRow)]
struct Replica {
    name: Option<String>,
    state: Option<String>,
    lag: Option<i64>,
    silent: Option<i64>,
    missing: Option<i64>,
}

pub(super) async fn replicas(look: &mut Look<'_>) -> Vec<ReplicaVitals> {
    let replicas = look.list::<Replica>(|| at_position(REPLICAS)).await;
    let replicas = look.or_gap("replicas", replicas).unwrap_or_default();
    let hidden = replicas.iter().filter(|replica| replica.state.is_none()).count();
    if hidden > 0 {
        let allow = look.grant();
        look.gap(
            "replicas",
            format!("the role may not see how far {hidden} replicas are"),
            allow,
        );
    }
    replicas
        .into_iter()
        .map(|replica| ReplicaVitals {
            name: replica.name.unwrap_or_default(),
            state: replica.state.unwrap_or_default(),
            lag_seconds: behind(replica.lag.map(millis), replica.silent.map(millis), replica.missing)
                .map(|lag| lag.as_secs_f64()),
            lag_bytes: replica.missing.map(unsigned),
        })
        .collect()
}

#[derive(FromRow)]
struct Slot {
    name: String,
    active: bool,
    physical: bool,
    keeps: bool,
    retained: Option<i64>,
}

pub(super) async fn slots(look: &mut Look<'_>) -> Vec<SlotVitals> {
    let slots = look.list::<Slot>(|| at_position(SLOTS)).await;
    let slots = look.or_gap("replication_slots", slots).unwrap_or_default();
    slots
        .into_iter()
        .map(|slot| SlotVitals {
            name: slot.name,
            active: slot.active,
            physical: slot.physical,
            // One that was never used, or that was given up, keeps nothing.
            retained_bytes: if slot.keeps { slot.retained.map(unsigned) } else { Some(0) },
        })
        .collect()
}

/// How much log was written, and how much of it is kept.
pub(super) async fn log(look: &mut Look<'_>, vitals: &mut Vitals) {
    let written = look.one::<(Option<i64>,)>(|| at_position(WRITTEN)).await;
    let written = look.or_gap("wal_written", written).flatten();
    vitals.wal_written_bytes = written.and_then(|(bytes,)| bytes).map(unsigned);
    let on_disk = look.one::<(i64,)>(|| sqlx::query(ON_DISK)).await;
    let denied = on_disk
        .as_ref()
        .is_err_and(|error| error.class == TargetErrorClass::Permission);
    if denied {
        let allow = look.grant();
        look.gap("wal_size", "the role may not list the files of the write-ahead log", allow);
        return;
    }
    vitals.wal_size_bytes = look.or_gap("wal_size", on_disk).flatten().map(|(bytes,)| unsigned(bytes));
}
