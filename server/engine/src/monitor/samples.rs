//! From a snapshot to what history keeps of it.

use crate::model::monitor::{Metric, Sample, Snapshot};

/// Most tables of which history is kept: the largest. Everything else in a snapshot stays in the snapshot.
pub const MAX_TABLES: usize = 200;
/// Most replicas and slots.
const MAX_OTHERS: usize = 50;

/// The samples of a snapshot: bounded, however many tables the target has. A number that could not be read has no sample.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "history keeps floating point numbers, exact up to 2^53"
)]
pub fn samples(snapshot: &Snapshot) -> Vec<Sample> {
    let mut list = Vec::new();
    let mut push = |metric: Metric, object: &str, value: Option<f64>| {
        if let Some(value) = value.filter(|value| value.is_finite()) {
            list.push(Sample {
                metric,
                object: object.to_owned(),
                value,
            });
        }
    };
    let number = |value: Option<u64>| value.map(|value| value as f64);
    let database = &snapshot.database;
    push(Metric::SNAPSHOT_TIME, "", Some(snapshot.took_ms as f64 / 1_000.0));
    push(Metric::DATABASE_SIZE, "", number(database.size_bytes));
    push(Metric::OWN_SIZE, "", number(database.own_bytes));
    push(Metric::CACHE_HIT, "", database.cache_hit_fraction);
    push(Metric::INDEX_HIT, "", database.index_hit_fraction);
    push(Metric::RECENT_CACHE_HIT, "", database.recent_cache_hit_fraction);
    push(Metric::RECENT_INDEX_HIT, "", database.recent_index_hit_fraction);
    push(Metric::WAL_WRITTEN, "", number(database.wal_written_bytes));
    push(Metric::WAL_SIZE, "", number(database.wal_size_bytes));
    push(Metric::XID_AGE, "", number(database.xid_age));
    push(Metric::DEADLOCKS, "", number(database.deadlocks));
    push(Metric::COMMITS, "", number(database.commits));
    push(Metric::ROLLBACKS, "", number(database.rollbacks));
    push(
        Metric::HORIZON_AGE,
        "",
        database.horizon.as_ref().map(|holder| holder.xid_age as f64),
    );
    let free = database
        .free_pages
        .zip(database.page_bytes)
        .map(|(pages, bytes)| pages * bytes);
    push(Metric::FREE_PAGES, "", number(free));
    if let Some(sessions) = &snapshot.sessions {
        push(Metric::CONNECTIONS, "", Some(sessions.connections as f64));
        push(Metric::CONNECTIONS_MAX, "", Some(sessions.max_connections as f64));
        push(Metric::SESSIONS_ACTIVE, "", Some(sessions.active as f64));
        push(Metric::SESSIONS_WAITING, "", Some(sessions.waiting as f64));
        push(
            Metric::SESSIONS_IDLE_IN_TRANSACTION,
            "",
            Some(sessions.idle_in_transaction as f64),
        );
        let oldest = sessions.long_transactions.iter().map(|transaction| transaction.seconds).max();
        push(Metric::OLDEST_TRANSACTION, "", Some(oldest.unwrap_or(0) as f64));
    }
    for table in snapshot.tables.iter().filter(|table| !table.own).take(MAX_TABLES) {
        let name = table.table.to_string();
        push(Metric::TABLE_ROWS, &name, table.rows.map(|rows| rows.rows as f64));
        push(Metric::TABLE_HEAP, &name, number(table.heap_bytes));
        push(Metric::TABLE_INDEXES, &name, number(table.index_bytes));
        push(Metric::TABLE_TOAST, &name, number(table.toast_bytes));
        push(Metric::TABLE_DEAD_ROWS, &name, number(table.dead_rows));
        push(Metric::TABLE_FREE, &name, number(table.free_bytes));
    }
    for replica in snapshot.replicas.iter().take(MAX_OTHERS) {
        push(Metric::REPLICA_LAG, &replica.name, replica.lag_seconds);
    }
    for slot in snapshot.slots.iter().take(MAX_OTHERS) {
        push(Metric::SLOT_RETAINED, &slot.name, number(slot.retained_bytes));
    }
    list
}
