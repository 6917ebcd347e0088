//! What a maintained database is and can do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A database product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// PostgreSQL 13 or later.
    Postgres,
    /// SQLite 3.35 or later.
    Sqlite,
}

/// What an adapter can do on its database. A feature that a database lacks is missing here, never silently absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capability {
    /// Rows are captured to a backup in the transaction that deletes them.
    Capture,
    /// Captured rows can be put back.
    Undo,
    /// Other sessions may write the table during a batch; adoption of an orphan is detected before commit.
    ConcurrentWriters,
    /// Locks are taken on single tables; where this is missing, whoever writes has the lock of the whole database.
    TableLocks,
    /// The database has roles, and grants each its rights; where this is missing, whoever may write the file may do everything, and the
    /// file's mode is all that protects it.
    Roles,
}

/// What a connection to a target found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// Version as the database tells it, e.g. "15.18".
    pub version: String,
    /// Size of the whole database, bytes.
    pub size_bytes: u64,
    /// The target's own clock.
    pub clock: Timestamp,
}
