//! One look at a target's health.
//!
//! Every number carries its unit in its name: `_bytes`, `_seconds`, `_fraction` (0 to 1). `None` means that the number could not be read;
//! [`Snapshot::gaps`] then says why, and how to allow it. 0 is always a measured 0.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::TableName;

/// How thoroughly to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Catalogs, statistics and counters only: no query that reads a user's table, whatever its size. What only [`Self::Exact`] can
    /// tell is `None` then, and no gap.
    Quick,
    /// What has to read pages as well: exact rows, free space by `pgstattuple`, `dbstat`, a quick check of integrity. On request only.
    Exact,
}

/// How a number came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Counted.
    Exact,
    /// From the database's statistics, or computed from them.
    Estimated,
}

/// A number of rows, and how it came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCount {
    /// Rows.
    pub rows: u64,
    /// How they were counted.
    pub precision: Precision,
}

/// One look at a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was made, by the target's clock.
    pub at: Timestamp,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// How thorough it is.
    pub depth: Depth,
    /// The database as a whole.
    pub database: Vitals,
    /// Its tables, the largest first. dbkeep's own are among them, and marked.
    pub tables: Vec<TableVitals>,
    /// Its indexes.
    pub indexes: Vec<IndexVitals>,
    /// Declared keys whose referring columns no index begins with: each delete of a parent reads the whole child.
    pub unindexed_keys: Vec<UnindexedKey>,
    /// Statements that take the most time, the most expensive first, at most 50. Literals are hidden.
    pub queries: Vec<QueryVitals>,
    /// Sessions; `None` where the database has none (SQLite).
    pub sessions: Option<SessionVitals>,
    /// Replicas that follow this database.
    pub replicas: Vec<ReplicaVitals>,
    /// Replication slots.
    pub slots: Vec<SlotVitals>,
    /// What could not be read.
    pub gaps: Vec<Gap>,
}

/// Something that could not be read. The rest of the snapshot stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// What is missing, such as `slow_queries` or `free_space`.
    pub what: String,
    /// Why.
    pub why: String,
    /// How to allow it, as the statement or the setting to apply; empty where nothing can be done.
    pub allow: String,
}

/// The database as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vitals {
    /// Version as the database tells it.
    pub version: String,
    /// Size of the database, bytes.
    pub size_bytes: Option<u64>,
    /// Folder of its files, where it runs on the machine of the server that looks.
    pub data_folder: Option<String>,
    /// Why nobody knows what its disk has left, and what to do about it; empty where it can be looked at.
    pub disk_unknown: String,
    /// Size of dbkeep's own tables in it, bytes.
    pub own_bytes: Option<u64>,
    /// Whether it is a standby, which only reads.
    pub in_recovery: bool,
    /// Which history of the server this is: another one from the moment on at which a standby takes over.
    pub timeline: Option<u64>,
    /// Part of table blocks that were found in memory since the statistics began.
    pub cache_hit_fraction: Option<f64>,
    /// The same for index blocks: what the platform calls index efficiency.
    pub index_hit_fraction: Option<f64>,
    /// Table blocks since the statistics began: counters.
    pub heap_blocks: Option<Blocks>,
    /// Index blocks: counters.
    pub index_blocks: Option<Blocks>,
    /// Part of table blocks found in memory since the look before; `None` where there was none, or too few were asked for.
    /// [`crate::monitor::carry_over`] sets it.
    pub recent_cache_hit_fraction: Option<f64>,
    /// The same for index blocks.
    pub recent_index_hit_fraction: Option<f64>,
    /// Write-ahead log written since the look before, bytes a second; `None` where there was none, or the log is not the same.
    /// [`crate::monitor::carry_over`] sets it.
    pub recent_wal_bytes_per_second: Option<f64>,
    /// Since when the statistics count, or the earliest moment at which they surely did.
    pub statistics_since: Option<Timestamp>,
    /// Bytes of write-ahead log ever written: a counter.
    pub wal_written_bytes: Option<u64>,
    /// Size of the write-ahead log on disk, bytes.
    pub wal_size_bytes: Option<u64>,
    /// Transactions since the oldest unfrozen one, the larger of transaction ids and multixact ids in relation to their limit.
    pub xid_age: Option<u64>,
    /// Age at which the database refuses writes (about 2^31).
    pub xid_limit: Option<u64>,
    /// Temporary tables about as old as that oldest transaction, the oldest first, at most 10. No VACUUM of another session reaches them.
    pub old_temporary: Vec<OldTemporary>,
    /// Deadlocks since the statistics began: a counter.
    pub deadlocks: Option<u64>,
    /// Transactions rolled back and committed since the statistics began: counters.
    pub rollbacks: Option<u64>,
    /// Committed transactions: a counter.
    pub commits: Option<u64>,
    /// Who keeps dead rows from being removed, and how far back.
    pub horizon: Option<HorizonHolder>,
    /// Size of a page, bytes.
    pub page_bytes: Option<u64>,
    /// Pages of the file (SQLite).
    pub pages: Option<u64>,
    /// Pages of the file that are free (SQLite).
    pub free_pages: Option<u64>,
    /// `none`, `full` or `incremental` (SQLite); empty where that has no meaning.
    pub auto_vacuum: String,
    /// What a quick check of integrity found: `None` when it was not made, empty when all is well.
    pub integrity_problems: Option<Vec<String>>,
}

/// A temporary table that keeps the database's oldest transaction old: of a session that is open for long, or of one that died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldTemporary {
    /// Its name, with the schema of its session.
    pub table: TableName,
    /// Age of its oldest unfrozen transaction.
    pub xid_age: u64,
}

/// Blocks that were asked for, and those of them that were in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// Asked for.
    pub fetched: u64,
    /// In memory.
    pub hit: u64,
}

/// Who holds the horizon of VACUUM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HorizonHolder {
    /// `transaction`, `prepared_transaction`, `replication_slot` or `replica`.
    pub kind: String,
    /// Pid, gid, or name.
    pub name: String,
    /// Role, application and state as far as they can be read.
    pub detail: String,
    /// Transactions that began since.
    pub xid_age: u64,
    /// For how long, seconds; `None` where nobody knows.
    pub seconds: Option<u64>,
    /// The statement or the command that ends it, for a person to decide on; where it ends by itself, or cannot be ended, what to do.
    pub remedy: String,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableVitals {
    /// Its name.
    pub table: TableName,
    /// Whether dbkeep made it for itself.
    pub own: bool,
    /// Rows; `None` where neither statistics nor a count exist.
    pub rows: Option<RowCount>,
    /// Table without indexes and TOAST, bytes.
    pub heap_bytes: Option<u64>,
    /// Its indexes, bytes.
    pub index_bytes: Option<u64>,
    /// Its TOAST table with index, bytes.
    pub toast_bytes: Option<u64>,
    /// Dead rows, by the statistics.
    pub dead_rows: Option<u64>,
    /// Bytes of the heap that new rows could use: an estimate of fill by statistics, or measured.
    pub free_bytes: Option<u64>,
    /// How `free_bytes` came about. A table that was never analyzed has no estimate, which is no gap.
    pub free_precision: Option<Precision>,
    /// Last VACUUM, by hand or automatic.
    pub last_vacuum: Option<Timestamp>,
    /// Last ANALYZE, by hand or automatic.
    pub last_analyze: Option<Timestamp>,
    /// Rows changed since.
    pub changed_since_analyze: Option<u64>,
    /// Scans of the whole table since the statistics began: a counter.
    pub sequential_scans: Option<u64>,
    /// Scans by an index: a counter.
    pub index_scans: Option<u64>,
    /// Rows inserted, a counter.
    pub inserted: Option<u64>,
    /// Rows deleted, a counter.
    pub deleted: Option<u64>,
    /// Age of its oldest unfrozen transaction.
    pub xid_age: Option<u64>,
}

impl TableVitals {
    /// Heap, indexes and TOAST together, as far as known, bytes.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        self.heap_bytes
            .map(|heap| heap + self.index_bytes.unwrap_or(0) + self.toast_bytes.unwrap_or(0))
    }
}

/// An index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IndexVitals {
    /// Its table.
    pub table: TableName,
    /// Its name, in the table's schema.
    pub name: String,
    /// The number that it keeps until it is dropped; `None` where the database gives none (SQLite).
    #[serde(default)]
    pub oid: Option<u64>,
    /// Columns or expressions, in order.
    pub columns: Vec<String>,
    /// Access method, such as `btree`.
    pub method: String,
    /// Condition of a partial index; empty for none.
    pub condition: String,
    /// Whether it enforces something: a primary key, a unique or an exclusion constraint, or a replica identity. Also where it is part
    /// of a partitioned table's index, and cannot be dropped without it.
    pub enforces: bool,
    /// Whether CLUSTER orders the table by it.
    #[serde(default)]
    pub clustered: bool,
    /// Whether it has an expression, of which ANALYZE keeps statistics as long as the index is there.
    #[serde(default)]
    pub expression: bool,
    /// Whether a declared key finds its rows by it: without it, each delete of a parent may have to read the whole table.
    #[serde(default)]
    pub serves_key: bool,
    /// False after a CREATE INDEX CONCURRENTLY that failed. True where it can be used, while it is being built, and where the role cannot
    /// see which of the two it is (gap `index_builds`).
    pub valid: bool,
    /// Bytes.
    pub bytes: Option<u64>,
    /// Scans since the statistics began: a counter. On a replica other scans count that are not in here.
    pub scans: Option<u64>,
    /// Part of it that holds nothing; B-trees only.
    pub bloat_fraction: Option<f64>,
    /// How `bloat_fraction` came about.
    #[serde(default)]
    pub bloat_precision: Option<Precision>,
    /// Another index of the table that does the same work: equal, or this one is its beginning.
    pub duplicate_of: Option<String>,
    /// When it was seen first, or first after its counters began anew; `None` in a look that none has gone before.
    /// [`crate::monitor::carry_over`] sets it.
    #[serde(default)]
    pub first_seen: Option<Timestamp>,
    /// The statement that makes it again.
    pub definition: String,
}

/// A declared key whose referring columns no index begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnindexedKey {
    /// The constraint's name; empty where it has none.
    pub constraint: String,
    /// The table that refers.
    pub table: TableName,
    /// Its referring columns.
    pub columns: Vec<String>,
    /// The table that is referred to.
    pub parent: TableName,
    /// Rows of the referring table, by statistics; of a partitioned one those of all its partitions, where all are known.
    pub rows: Option<u64>,
    /// Whether the referring table is partitioned.
    #[serde(default)]
    pub partitioned: bool,
    /// Its partitions, and theirs: each after the one that it is part of. Empty where one of them cannot have an index.
    #[serde(default)]
    pub partitions: Vec<Partition>,
}

/// A part of a partitioned table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its name.
    pub table: TableName,
    /// The table that it is part of.
    pub of: TableName,
    /// Whether it has parts itself, and no rows.
    pub partitioned: bool,
}

/// A normalised statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryVitals {
    /// Id as the database gives it.
    pub id: String,
    /// The statement without literals, at most 1,000 characters.
    pub text: String,
    /// Calls: a counter.
    pub calls: u64,
    /// Mean time of a call, milliseconds.
    pub mean_ms: f64,
    /// Time of all calls, milliseconds: a counter.
    pub total_ms: f64,
    /// Part of the time of all statements.
    pub share_fraction: f64,
}

/// Sessions of the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionVitals {
    /// Sessions of the whole server.
    pub connections: u64,
    /// Most sessions that the server takes.
    pub max_connections: u64,
    /// Sessions at work.
    pub active: u64,
    /// Sessions in a transaction and idle.
    pub idle_in_transaction: u64,
    /// Sessions that wait for a lock.
    pub waiting: u64,
    /// Transactions that are open for over a minute, or that others have waited for longer than a second; the oldest first, at most 20 of
    /// sessions. Prepared ones are among them where others wait for them.
    pub long_transactions: Vec<LongTransaction>,
}

/// A transaction that is open for long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LongTransaction {
    /// Process id of its session; 0 for a prepared transaction, which has none.
    pub pid: i32,
    /// Name of the prepared transaction; `None` where a session works in it.
    #[serde(default)]
    pub prepared: Option<String>,
    /// Role.
    pub role: String,
    /// Application.
    pub application: String,
    /// What kind of process it is, such as `client backend` or `autovacuum worker`; empty where the role may not see it.
    #[serde(default)]
    pub backend: String,
    /// Whether dbkeep works in it, or a program that dbkeep has started.
    #[serde(default)]
    pub own: bool,
    /// The run that it works for, where that is noted.
    #[serde(default)]
    pub run: Option<String>,
    /// State of the session.
    pub state: String,
    /// For how long, seconds.
    pub seconds: u64,
    /// Sessions that have waited for it for over a second.
    pub blocks: Vec<i32>,
}

/// A replica that follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaVitals {
    /// Application name of the replica.
    pub name: String,
    /// State, such as `streaming`.
    pub state: String,
    /// Lag of replay, seconds.
    pub lag_seconds: Option<f64>,
    /// Log not replayed yet, bytes.
    pub lag_bytes: Option<u64>,
}

/// A replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotVitals {
    /// Its name.
    pub name: String,
    /// Whether somebody uses it.
    pub active: bool,
    /// Whether it is a replica's, and not a reader's of changes.
    #[serde(default)]
    pub physical: bool,
    /// Log that is kept for it, bytes.
    pub retained_bytes: Option<u64>,
}
