//! How strained the server is, as seen from the primary: replicas that are behind or stopped, sessions that wait for locks of
//! dbkeep's, and the time of a probe. Every view that is read here may be read by any user; what is hidden from one who is no
//! `pg_monitor` is NULL, and then not told.

use std::time::{Duration, Instant};

use dbkeep_engine::port::{Pressure, Replica, TargetError};
use sqlx::{Executor as _, Row as _};

use super::error::statement;
use super::line::Line;

/// A replica that has not caught up says so at least every `wal_receiver_status_interval`, 10 s by default. One that is silent for
/// twice that is stopped, though its connection may live on for a minute.
const SILENCE: Duration = Duration::from_secs(20);

/// Standbys and subscribers that stream now. `replay_lag` is what they measured last, and stays at that when they stop.
const STREAMING: &str = "SELECT application_name, (extract(epoch FROM replay_lag) * 1000)::bigint, \
     (extract(epoch FROM clock_timestamp() - reply_time) * 1000)::bigint, \
     pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint FROM pg_stat_replication WHERE state IS NOT NULL";

/// Slots keep the log for replicas that are away. One that was never used keeps none.
const SLOTS: &str = "SELECT slot_name::text, active, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint \
     FROM pg_replication_slots WHERE restart_lsn IS NOT NULL AND NOT temporary";

/// Sessions of others that wait for a lock of a session of dbkeep's. Whoever waits is asked who is in the way, and nobody else is:
/// the function takes a look at all locks at once.
const WAITERS: &str = "WITH own AS (SELECT array_agg(pid) AS pids FROM pg_stat_activity WHERE application_name ~ '^dbkeep( |$)'), \
     waiting AS (SELECT DISTINCT pid FROM pg_locks WHERE NOT granted) \
     SELECT count(*) FROM waiting, own WHERE waiting.pid <> ALL (own.pids) AND pg_blocking_pids(waiting.pid) && own.pids";

/// A few pages by their index, which every database has in memory: what takes time here is what everybody waits for.
const PROBE: &str = "SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid = 'pg_catalog.pg_class'::regclass";

pub(super) async fn measure(connection: &mut Line) -> Result<Pressure, TargetError> {
    // A measurement that takes long would be old, and must not wait in a queue that it measures.
    connection
        .execute("BEGIN READ ONLY; SET LOCAL statement_timeout = '2s'; SET LOCAL lock_timeout = '500ms'")
        .await
        .map_err(statement)?;
    let began = Instant::now();
    sqlx::query(PROBE).fetch_one(&mut *connection).await.map_err(statement)?;
    let probe = began.elapsed();
    let waiters: i64 = sqlx::query_scalar(WAITERS)
        .fetch_one(&mut *connection)
        .await
        .map_err(statement)?;
    let mut replicas = Vec::new();
    for row in sqlx::query(STREAMING).fetch_all(&mut *connection).await.map_err(statement)? {
        let [lag, silent, missing]: [Option<i64>; 3] = [
            row.try_get(1).map_err(statement)?,
            row.try_get(2).map_err(statement)?,
            row.try_get(3).map_err(statement)?,
        ];
        replicas.push(Replica {
            name: row.try_get(0).map_err(statement)?,
            behind: behind(lag.map(millis), silent.map(millis), missing),
            retained_bytes: None,
            stopped: false,
        });
    }
    for row in sqlx::query(SLOTS).fetch_all(&mut *connection).await.map_err(statement)? {
        let active: bool = row.try_get(1).map_err(statement)?;
        let retained: i64 = row.try_get(2).map_err(statement)?;
        replicas.push(Replica {
            name: row.try_get(0).map_err(statement)?,
            behind: None,
            retained_bytes: Some(u64::try_from(retained).unwrap_or(0)),
            stopped: !active,
        });
    }
    connection.execute("COMMIT").await.map_err(statement)?;
    Ok(Pressure {
        replicas: Some(replicas),
        lock_waiters: Some(u64::try_from(waiters).unwrap_or(0)),
        probe: Some(probe),
        wal_bytes: None,
    })
}

pub(super) fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// How far a streaming replica is behind: what it measured, or how long it has said nothing while log is `missing` there.
pub(super) fn behind(lag: Option<Duration>, silent: Option<Duration>, missing: Option<i64>) -> Option<Duration> {
    // What it measured last says nothing of a replica that has everything.
    if missing? <= 0 {
        return Some(Duration::ZERO);
    }
    lag.max(silent.filter(|silent| *silent > SILENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_replica_is_behind_by_its_silence() {
        let s = |seconds| Some(Duration::from_secs(seconds));
        for (lag, silent, missing, expected) in [
            (s(3), s(0), Some(100), s(3)),
            (None, s(1), Some(100), None),
            // It has everything: what it measured last, when it was behind, is over.
            (s(3), s(60), Some(0), s(0)),
            (s(1), s(45), Some(100), s(45)),
            // Between two of its regular reports.
            (s(1), s(15), Some(100), s(1)),
            (None, None, None, None),
        ] {
            assert_eq!(behind(lag, silent, missing), expected, "{lag:?} {silent:?} {missing:?}");
        }
    }
}
