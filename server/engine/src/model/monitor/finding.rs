//! What is wrong with a target, and what should be done.

use serde::{Deserialize, Serialize};

use crate::model::TableName;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Good to know.
    Info,
    /// Gets worse, or costs something.
    #[serde(alias = "warn")]
    Warning,
    /// Data or service are in danger.
    #[serde(alias = "act")]
    Error,
}

impl Level {
    /// Every level, the least first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Error];

    /// Name in settings, stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What kind of thing is wrong. Each has a page in `docs/findings.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// An index that nothing has used since the statistics began.
    UnusedIndex,
    /// An index that another makes superfluous.
    DuplicateIndex,
    /// An index that failed to build: it costs writes and serves no read.
    InvalidIndex,
    /// A declared key whose child has no index for it.
    UnindexedKey,
    /// An index of which much is empty.
    BloatedIndex,
    /// A table of which much is free space.
    BloatedTable,
    /// Dead rows that VACUUM has not removed.
    DeadRows,
    /// Statistics of a table are missing or old.
    StaleStatistics,
    /// Table blocks are often not in memory.
    LowCacheHit,
    /// Index blocks are often not in memory.
    LowIndexHit,
    /// A transaction is open for long.
    LongTransaction,
    /// A session is idle in a transaction that keeps dead rows alive, or others waiting.
    HorizonHeld,
    /// Sessions wait for a lock.
    BlockedSessions,
    /// Transaction ids run out.
    Wraparound,
    /// Nearly all sessions are taken.
    ConnectionsNearLimit,
    /// A replica is behind.
    ReplicaLag,
    /// A slot that nobody uses keeps log.
    InactiveSlot,
    /// A few statements take most of the time.
    SlowQuery,
    /// Free pages of a SQLite file that are not given back.
    FreePages,
    /// A write-ahead log of SQLite that no checkpoint has shortened.
    LargeWal,
    /// A check of integrity found something.
    IntegrityProblem,
    /// Something could not be read.
    Unreadable,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [Self; 22] = [
        Self::UnusedIndex,
        Self::DuplicateIndex,
        Self::InvalidIndex,
        Self::UnindexedKey,
        Self::BloatedIndex,
        Self::BloatedTable,
        Self::DeadRows,
        Self::StaleStatistics,
        Self::LowCacheHit,
        Self::LowIndexHit,
        Self::LongTransaction,
        Self::HorizonHeld,
        Self::BlockedSessions,
        Self::Wraparound,
        Self::ConnectionsNearLimit,
        Self::ReplicaLag,
        Self::InactiveSlot,
        Self::SlowQuery,
        Self::FreePages,
        Self::LargeWal,
        Self::IntegrityProblem,
        Self::Unreadable,
    ];

    /// Name in messages and keys.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UnusedIndex => "unused_index",
            Self::DuplicateIndex => "duplicate_index",
            Self::InvalidIndex => "invalid_index",
            Self::UnindexedKey => "unindexed_key",
            Self::BloatedIndex => "bloated_index",
            Self::BloatedTable => "bloated_table",
            Self::DeadRows => "dead_rows",
            Self::StaleStatistics => "stale_statistics",
            Self::LowCacheHit => "low_cache_hit",
            Self::LowIndexHit => "low_index_hit",
            Self::LongTransaction => "long_transaction",
            Self::HorizonHeld => "horizon_held",
            Self::BlockedSessions => "blocked_sessions",
            Self::Wraparound => "wraparound",
            Self::ConnectionsNearLimit => "connections_near_limit",
            Self::ReplicaLag => "replica_lag",
            Self::InactiveSlot => "inactive_slot",
            Self::SlowQuery => "slow_query",
            Self::FreePages => "free_pages",
            Self::LargeWal => "large_wal",
            Self::IntegrityProblem => "integrity_problem",
            Self::Unreadable => "unreadable",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Something is wrong with a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// How much it matters.
    pub level: Level,
    /// The table, index, session or slot; empty for the database.
    pub object: String,
    /// The table whose rows a key refers to, where it is about a key.
    #[serde(default)]
    pub parent: Option<TableName>,
    /// What was measured, in one sentence with its numbers.
    pub detail: String,
    /// What to do: the exact statement, or the text for a catalog; it is for a person to decide on.
    pub remediation: String,
    /// The statement that makes the index again, where `remediation` drops one and the statement could be read; empty otherwise.
    #[serde(default)]
    pub definition: String,
}

impl Finding {
    /// The same for the same thing at every look: `kind:object`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}:{}", self.kind.name(), self.object)
    }
}

/// Something should be done: said of a target as it is now, or at the end of a scheduled run, in whose report it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recommendation {
    /// The same for the same advice at every look: a name, and what it is about, where that is not the target as a whole.
    pub key: String,
    /// What should be done, in a few words.
    #[serde(default)]
    pub name: String,
    /// How much it matters.
    pub level: Level,
    /// Why, in one or two sentences, with names and numbers.
    #[serde(alias = "what")]
    pub detail: String,
    /// The exact statement, command or text for a catalog, to begin with; empty where none fits.
    #[serde(alias = "command")]
    pub remediation: String,
    /// What it rests on: what, and how much or what was said; empty in reports of earlier versions.
    #[serde(default)]
    pub evidence: Vec<(String, String)>,
}
