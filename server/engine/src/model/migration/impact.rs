//! What a statement will do, by reading it: locks, work, risk.

use serde::{Deserialize, Serialize};

/// Lock on a table. The names are PostgreSQL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Reads.
    AccessShare,
    /// `SELECT FOR UPDATE`.
    RowShare,
    /// Writes.
    RowExclusive,
    /// Blocks other changes of the schema.
    ShareUpdateExclusive,
    /// Blocks writes.
    Share,
    /// Blocks writes and other such locks.
    ShareRowExclusive,
    /// Lets only reads through.
    Exclusive,
    /// Lets nobody through, or, on SQLite, the write lock of the whole database.
    AccessExclusive,
}

impl LockMode {
    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessShare => "ACCESS SHARE",
            Self::RowShare => "ROW SHARE",
            Self::RowExclusive => "ROW EXCLUSIVE",
            Self::ShareUpdateExclusive => "SHARE UPDATE EXCLUSIVE",
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::Exclusive => "EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        }
    }
}

/// A lock on a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableLock {
    /// The table; `*` for the whole database.
    pub table: String,
    /// The lock.
    pub mode: LockMode,
}

/// How much of a table a statement works through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Only the catalog.
    Catalog,
    /// The rows that its condition picks.
    Rows,
    /// Every row is read.
    Scan,
    /// An index is built.
    Build,
    /// Every row is written anew.
    Rewrite,
}

/// How risky something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Nobody notices.
    Low,
    /// Somebody may notice.
    Medium,
    /// It blocks, or loses data.
    High,
}

/// Why something is risky.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RiskReason {
    /// Stable name in kebab-case.
    pub rule: String,
    /// How risky.
    pub risk: Risk,
    /// What happens, with names.
    pub message: String,
    /// What to do instead; may be empty.
    pub help: String,
}

/// What a statement will do, by reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impact {
    /// Kind in capitals, e.g. `CREATE INDEX`, as the statement begins.
    pub kind: String,
    /// Locks it takes.
    pub locks: Vec<TableLock>,
    /// How much work it is.
    pub work: Work,
    /// Tables whose size decides how long it takes, as the statement names them.
    pub tables: Vec<String>,
    /// Whether it changes rows (`INSERT`, `UPDATE`, `DELETE`, `MERGE`, `COPY`).
    pub changes_rows: bool,
    /// Whether data is gone afterwards that its opposite cannot bring back.
    pub loses_data: bool,
    /// Why it is risky; empty where it is not.
    pub reasons: Vec<RiskReason>,
}
