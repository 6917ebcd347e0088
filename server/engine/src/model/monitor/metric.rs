//! The registry of metrics: every number that history keeps and `/metrics` shows, with its unit and what it is of.

use serde::{Deserialize, Serialize};

/// Unit of a metric; the base units of Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// A part of a whole, 0 to 1.
    Ratio,
    /// A number of things.
    Count,
}

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, and begins anew where the database's statistics do.
    Counter,
}

/// A metric: a number of a target, of a table, or of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metric(usize);

/// What the registry says of one.
struct Entry {
    name: &'static str,
    unit: Unit,
    kind: Kind,
    object: &'static str,
    help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident $name:literal $unit:ident $kind:ident $object:literal $help:literal;)*) => {
        #[expect(non_camel_case_types, clippy::upper_case_acronyms, reason = "places in the registry, in its order")]
        enum Place { $($constant),* }
        impl Metric {
            $(#[doc = $help] pub const $constant: Self = Self(Place::$constant as usize);)*
            /// Every metric.
            pub const ALL: &'static [Self] = &[$(Self::$constant),*];
        }
        const ENTRIES: &[Entry] = &[$(Entry { name: $name, unit: Unit::$unit, kind: Kind::$kind, object: $object, help: $help }),*];
    };
}

// An object is what a label of `/metrics` names; "" is the target as a whole. Tables are bounded by the collector, see `crate::monitor::samples`.
metrics! {
    DATABASE_SIZE "database_size_bytes" Bytes Gauge "" "Size of the database.";
    OWN_SIZE "own_size_bytes" Bytes Gauge "" "Size of dbkeep's own tables in the database.";
    TABLE_ROWS "table_rows" Count Gauge "table" "Rows of a table, by statistics or a count.";
    TABLE_HEAP "table_heap_bytes" Bytes Gauge "table" "Size of a table without indexes and TOAST.";
    TABLE_INDEXES "table_index_bytes" Bytes Gauge "table" "Size of a table's indexes.";
    TABLE_TOAST "table_toast_bytes" Bytes Gauge "table" "Size of a table's TOAST.";
    TABLE_DEAD_ROWS "table_dead_rows" Count Gauge "table" "Dead rows of a table, by statistics.";
    TABLE_FREE "table_free_bytes" Bytes Gauge "table" "Bytes of a table that new rows could use.";
    CACHE_HIT "cache_hit_ratio" Ratio Gauge "" "Part of table blocks found in memory since the statistics began.";
    INDEX_HIT "index_hit_ratio" Ratio Gauge "" "Part of index blocks found in memory since the statistics began.";
    RECENT_CACHE_HIT "recent_cache_hit_ratio" Ratio Gauge "" "Part of table blocks found in memory since the look before.";
    RECENT_INDEX_HIT "recent_index_hit_ratio" Ratio Gauge "" "Part of index blocks found in memory since the look before.";
    WAL_WRITTEN "wal_written_bytes_total" Bytes Counter "" "Write-ahead log written.";
    WAL_SIZE "wal_size_bytes" Bytes Gauge "" "Size of the write-ahead log on disk.";
    XID_AGE "transaction_id_age" Count Gauge "" "Transactions since the oldest unfrozen one.";
    DEADLOCKS "deadlocks_total" Count Counter "" "Deadlocks.";
    COMMITS "commits_total" Count Counter "" "Committed transactions.";
    ROLLBACKS "rollbacks_total" Count Counter "" "Transactions rolled back.";
    CONNECTIONS "connections" Count Gauge "" "Sessions of the database server.";
    CONNECTIONS_MAX "connections_max" Count Gauge "" "Most sessions that the database server takes.";
    SESSIONS_ACTIVE "sessions_active" Count Gauge "" "Sessions at work.";
    SESSIONS_WAITING "sessions_waiting" Count Gauge "" "Sessions that wait for a lock.";
    SESSIONS_IDLE_IN_TRANSACTION "sessions_idle_in_transaction" Count Gauge "" "Sessions in a transaction and idle.";
    OLDEST_TRANSACTION "oldest_transaction_seconds" Seconds Gauge "" "Age of the oldest open transaction over a minute, or 0.";
    HORIZON_AGE "horizon_age" Count Gauge "" "Transactions since the one that keeps dead rows from being removed.";
    REPLICA_LAG "replica_lag_seconds" Seconds Gauge "replica" "Lag of a replica's replay.";
    SLOT_RETAINED "slot_retained_bytes" Bytes Gauge "slot" "Write-ahead log kept for a replication slot.";
    FREE_PAGES "free_bytes" Bytes Gauge "" "Free pages of a SQLite file.";
    SNAPSHOT_TIME "snapshot_duration_seconds" Seconds Gauge "" "Time that the newest snapshot took.";
    TARGET_UP "up" Count Gauge "" "1 where the newest snapshot of the target was made, 0 where that failed.";
    SERVER_CPU "server_cpu_ratio" Ratio Gauge "server" "Part of the machine's processors that is busy.";
    SERVER_MEMORY_USED "server_memory_used_bytes" Bytes Gauge "server" "Memory of the machine in use.";
    SERVER_MEMORY_TOTAL "server_memory_total_bytes" Bytes Gauge "server" "Memory of the machine.";
    DISK_USED "disk_used_bytes" Bytes Gauge "folder" "Bytes in use of the file system that holds a folder.";
    DISK_TOTAL "disk_total_bytes" Bytes Gauge "folder" "Bytes of the file system that holds a folder.";
    DISK_READABLE "disk_readable" Count Gauge "folder" "1 where the file system of a folder could be looked at, 0 where it could not.";
    DISK_USED_RATIO "disk_used_ratio" Ratio Gauge "folder" "Part in use of the file system that holds a folder, as far as dbkeep may fill it.";
}

impl Metric {
    fn entry(self) -> &'static Entry {
        &ENTRIES[self.0]
    }

    /// Name in history and messages; in `/metrics` after `dbkeep_target_` or, for those of servers and folders, after `dbkeep_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Its unit.
    #[must_use]
    pub fn unit(self) -> Unit {
        self.entry().unit
    }

    /// How it behaves.
    #[must_use]
    pub fn kind(self) -> Kind {
        self.entry().kind
    }

    /// What it is of: "table", "replica", "slot", "server", "folder"; empty for the target as a whole.
    #[must_use]
    pub fn object(self) -> &'static str {
        self.entry().object
    }

    /// What it means, in one sentence.
    #[must_use]
    pub fn help(self) -> &'static str {
        self.entry().help
    }

    /// Whether it is of a server and not of a target.
    #[must_use]
    pub fn is_of_server(self) -> bool {
        matches!(self.object(), "server" | "folder")
    }

    /// The metric of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|metric| metric.name() == name)
    }
}

impl Serialize for Metric {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| serde::de::Error::custom(format!("there is no metric \"{name}\"")))
    }
}

/// A metric's value at a time that the holder knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Which.
    pub metric: Metric,
    /// Of which table, replica, slot, server or folder; empty for the target as a whole.
    pub object: String,
    /// In the metric's unit.
    pub value: f64,
}
