//! What is wrong with a target, by its snapshot: an index that nobody uses, rows that VACUUM may not remove, a slot that fills the disk.
//!
//! Each kind has a bound, and most have a smallest size: what costs nothing is not worth a person's time. dbkeep's own tables are left
//! out. The bounds that are not dbkeep's own are those of `PgHero` (unused and slow, connections, wraparound) and of PostgreSQL's
//! autovacuum (a fifth of the table).

mod activity;
mod indexes;
mod keys;
mod tables;

use jiff::Timestamp;

use crate::model::{
    EngineKind,
    monitor::{Finding, FindingKind, Level, Snapshot},
};

/// From which values on something is wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// So long scans of an index have to have been counted before a counter of 0 means something, seconds.
    pub evidence_seconds: u64,
    /// So often its table has to have been read meanwhile: an index of a table that nobody reads tells nothing.
    pub evidence_scans: u64,
    /// Smallest index that is worth a word, bytes.
    pub index_bytes: u64,
    /// Smallest bloat that is worth a word, bytes.
    pub bloat_bytes: u64,
    /// Part that is empty.
    pub bloat_fraction: f64,
    /// Dead rows, as part of all rows.
    pub dead_fraction: f64,
    /// Smallest number of rows that dead or changed rows are looked at.
    pub rows: u64,
    /// Part of blocks that should be found in memory.
    pub hit_fraction: f64,
    /// Age of a transaction, seconds.
    pub transaction_seconds: u64,
    /// Age of what holds the horizon, seconds.
    pub horizon_seconds: u64,
    /// The same in transactions, where nobody knows since when.
    pub horizon_xids: u64,
    /// Part of the transaction ids that is used up: worth a word, and dangerous.
    pub wraparound: (f64, f64),
    /// Part of the sessions that is taken: worth a word, and dangerous.
    pub connections: (f64, f64),
    /// Lag of a replica, seconds.
    pub lag_seconds: f64,
    /// Log kept for a slot that nobody uses, bytes.
    pub slot_bytes: u64,
    /// Mean time of a statement, milliseconds, its calls, and its part of all time.
    pub slow: (f64, u64, f64),
    /// Part of a SQLite file that is free.
    pub free_fraction: f64,
    /// Write-ahead log of SQLite, bytes.
    pub wal_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            evidence_seconds: 7 * 86_400,
            evidence_scans: 1_000,
            index_bytes: MIB,
            bloat_bytes: 10 * MIB,
            bloat_fraction: 0.5,
            dead_fraction: 0.2,
            rows: 10_000,
            hit_fraction: 0.9,
            transaction_seconds: 300,
            horizon_seconds: 3_600,
            horizon_xids: 10_000_000,
            wraparound: (0.5, 0.8),
            connections: (0.8, 0.95),
            lag_seconds: 60.0,
            slot_bytes: 1 << 30,
            slow: (20.0, 100, 0.3),
            free_fraction: 0.25,
            wal_bytes: 256 * MIB,
        }
    }
}

/// What everything below looks at.
struct Patient<'a> {
    snapshot: &'a Snapshot,
    engine: EngineKind,
    bounds: &'a Bounds,
}

impl Patient<'_> {
    fn at(&self) -> Timestamp {
        self.snapshot.at
    }

    fn is_postgres(&self) -> bool {
        self.engine == EngineKind::Postgres
    }

    /// Whether what is wrong with tables, indexes and slots can be mended here: a standby is as its primary is.
    fn takes_writes(&self) -> bool {
        !self.snapshot.database.in_recovery
    }

    /// Whether there are replicas, here at this moment or not: statements on them are counted there.
    fn has_replicas(&self) -> bool {
        !self.snapshot.replicas.is_empty() || self.snapshot.slots.iter().any(|slot| slot.physical)
    }
}

/// What is wrong, the gravest first, and by key where that is equal.
#[must_use]
pub fn findings(snapshot: &Snapshot, engine: EngineKind, bounds: &Bounds) -> Vec<Finding> {
    let patient = Patient {
        snapshot,
        engine,
        bounds,
    };
    let mut found = Vec::new();
    if patient.takes_writes() {
        indexes::look(&patient, &mut found);
        tables::look(&patient, &mut found);
    }
    activity::look(&patient, &mut found);
    for gap in &snapshot.gaps {
        found.push(Finding {
            kind: FindingKind::Unreadable,
            level: Level::Info,
            object: gap.what.clone(),
            parent: None,
            definition: String::new(),
            detail: format!("{} could not be read: {}", gap.what, gap.why),
            remediation: gap.allow.clone(),
        });
    }
    found.sort_by_cached_key(|finding| (std::cmp::Reverse(finding.level), finding.key()));
    found
}

#[cfg(test)]
mod tests;
