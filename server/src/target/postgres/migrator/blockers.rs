//! Who holds the lock that a statement waits for. Looked at from another session while it waits, because the answer is gone with the
//! error.

use std::{convert::Infallible, sync::Mutex, time::Duration};

use dbkeep_engine::port::TargetError;

use super::super::{PostgresTarget, error::statement, line::Line};

/// Most blockers that are told of.
const MOST: i64 = 5;

/// Who blocks a process now. Whoever does not wait costs one cheap look; `pg_blocking_pids` stops the lock manager for a moment.
const BLOCKERS: &str = "SELECT CASE WHEN b.pid = 0 THEN 'a prepared transaction' ELSE \
       format('pid %s (%s, %s for %s s)%s', b.pid, \
         CASE WHEN a.usename IS NULL THEN coalesce(a.backend_type, 'gone already') ELSE 'user ' || a.usename END, \
         coalesce(a.state, 'unknown'), \
         greatest(0, coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0))::bigint, \
         CASE WHEN coalesce(a.query, '') = '' THEN '' ELSE ': ' || left(regexp_replace(a.query, '\\s+', ' ', 'g'), 200) END) END \
     FROM (SELECT DISTINCT p.pid FROM pg_catalog.pg_stat_activity AS me \
           CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(me.pid)) AS p(pid) \
           WHERE me.pid = $1 AND me.wait_event_type = 'Lock' LIMIT $2) AS b \
     LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = b.pid ORDER BY b.pid";

async fn look(connection: &mut Line, process: i32) -> Result<Vec<String>, TargetError> {
    sqlx::query_scalar(BLOCKERS)
        .bind(process)
        .bind(MOST)
        .fetch_all(connection)
        .await
        .map_err(statement)
}

impl PostgresTarget {
    /// Notes who blocks a process, from half of its patience on, until it is dropped.
    pub(in crate::target::postgres) async fn note_blockers(
        &self,
        process: i32,
        lock_timeout: Duration,
        seen: &Mutex<Vec<String>>,
    ) -> Infallible {
        tokio::time::sleep(lock_timeout / 2).await;
        // Often enough that no wait for a lock ends unseen in its second half.
        let pause = (lock_timeout / 4).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let mut kept: Option<Line> = None;
        loop {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => match self.connection().await {
                    Ok(connection) => connection,
                    Err(_) => {
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                },
            };
            // Who cannot be asked stays unknown: the statement itself says what happens.
            if let Ok(blockers) = look(&mut connection, process).await {
                if !blockers.is_empty()
                    && let Ok(mut seen) = seen.lock()
                {
                    *seen = blockers;
                }
                kept = Some(connection);
            }
            tokio::time::sleep(pause).await;
        }
    }
}
