//! A look at a database's health: catalogs, statistics and counters, each in a short transaction of its own that only reads. What cannot
//! be read is a gap with the statement that allows it; the rest goes on.
//!
//! | part | what |
//! |---|---|
//! | [`session`] | the connection: time limits, tries, gaps |
//! | [`database`] | the database as a whole, and who holds the horizon |
//! | [`relations`] | tables and indexes, page by page of the catalog; [`rows`] has the statements, [`estimate`] the free space |
//! | [`keys`] | what is superfluous or missing among indexes |
//! | [`activity`] | sessions, and who waits for whom |
//! | [`replication`] | replicas, slots, the write-ahead log |
//! | [`statements`] | what takes the time |
//! | [`exact`] | what has to read tables |

mod activity;
mod database;
mod estimate;
mod exact;
mod keys;
mod relations;
mod replication;
mod rows;
mod session;
mod statements;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use dbkeep_engine::{
    model::monitor::{Depth, Snapshot},
    port::{Observer, TargetError, TargetErrorClass},
};

use self::session::Look;
use super::{PostgresTarget, line::Line};

/// Longest time for the space in a few tables.
const SPACE: Duration = Duration::from_secs(5);

/// What a table has beside the rows that are in it.
pub(super) struct Space {
    /// Dead rows, by the statistics.
    pub(super) dead_rows: u64,
    /// Bytes without indexes that new rows could use, by an estimate; `None` of a table that was never analyzed, or that is locked.
    pub(super) free_bytes: Option<u64>,
}

/// The space in these tables, by their oids, with the numbers that a snapshot has; without those that are gone, or that somebody keeps from
/// being looked at.
pub(super) async fn space(connection: &mut Line, tables: &[i64]) -> Result<BTreeMap<i64, Space>, TargetError> {
    let mut found = BTreeMap::new();
    if tables.is_empty() {
        return Ok(found);
    }
    let mut look = Look::new(connection, Instant::now(), SPACE);
    let basics = database::basics(&mut look).await?;
    for oid in tables {
        match relations::space(&mut look, &basics, *oid).await {
            Ok(space) => found.extend(space.map(|space| (*oid, space))),
            Err(error) if error.class == TargetErrorClass::Lost => return Err(error),
            // It is not known, which says nothing about the others.
            Err(_) => {}
        }
    }
    Ok(found)
}

#[async_trait]
impl Observer for PostgresTarget {
    async fn observe(&self, depth: Depth, limit: Duration) -> Result<Snapshot, TargetError> {
        let began = Instant::now();
        let no_answer = || {
            TargetError::new(
                TargetErrorClass::Timeout,
                format!("no answer within {} ms", limit.as_millis()),
            )
        };
        let mut connection = tokio::time::timeout(limit, self.connection())
            .await
            .map_err(|_| no_answer())??;
        let mut look = Look::new(&mut connection, began, limit);
        let mut snapshot = quick(&mut look, depth).await?;
        if depth == Depth::Exact {
            exact::measure(&mut look, &mut snapshot).await;
        }
        let (gaps, ended) = look.end();
        ended?;
        snapshot.gaps = gaps;
        snapshot.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        snapshot.depth = depth;
        if !snapshot.gaps.iter().any(|gap| gap.why == session::SILENT) {
            self.idle.put(connection);
        }
        Ok(snapshot)
    }
}

async fn quick(look: &mut Look<'_>, depth: Depth) -> Result<Snapshot, TargetError> {
    let basics = database::basics(look).await?;
    look.know(basics.clone());
    let mut database = database::vitals(look).await;
    let found = relations::all(look, &basics).await;
    let unindexed_keys = keys::unindexed(look, &found).await;
    let (tables, indexes) = found.into_vitals(&unindexed_keys, &mut database);
    let sessions = activity::sessions(look).await;
    database::horizon(look, &mut database).await;
    let replicas = replication::replicas(look).await;
    let slots = replication::slots(look).await;
    replication::log(look, &mut database).await;
    let queries = statements::most_expensive(look).await;
    Ok(Snapshot {
        at: basics.at,
        took_ms: 0,
        depth,
        database,
        tables,
        indexes,
        unindexed_keys: unindexed_keys.missing,
        queries,
        sessions,
        replicas,
        slots,
        gaps: Vec::new(),
    })
}
