//! What a target's ledgers say: dbkeep's own, and those of other tools.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{super::run::RunId, MigrationId};

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Forwards.
    Up,
    /// Backwards.
    Down,
}

/// Whose ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerKind {
    /// `_sqlx_migrations`.
    Sqlx,
    /// `__diesel_schema_migrations`.
    Diesel,
    /// `schema_migrations` with one row of (version, dirty): golang-migrate.
    GolangMigrate,
    /// `schema_migrations` with a row for each version: dbmate, and others of that form.
    Dbmate,
    /// `goose_db_version`.
    Goose,
    /// `flyway_schema_history`.
    Flyway,
    /// `_prisma_migrations`.
    Prisma,
    /// `sqitch.changes` (PostgreSQL) or `changes` (SQLite).
    Sqitch,
}

impl LedgerKind {
    /// Name of the tool.
    #[must_use]
    pub fn tool(self) -> &'static str {
        match self {
            Self::Sqlx => "sqlx",
            Self::Diesel => "diesel",
            Self::GolangMigrate => "golang-migrate",
            Self::Dbmate => "dbmate",
            Self::Goose => "goose",
            Self::Flyway => "flyway",
            Self::Prisma => "prisma",
            Self::Sqitch => "sqitch",
        }
    }
}

/// One row of another tool's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignEntry {
    /// The version or name, as it is written there.
    pub version: String,
    /// The checksum, as it is written there; empty where the tool keeps none. Bytes are lowercase hex.
    pub checksum: String,
    /// When it was applied, where the tool notes it.
    pub applied_at: Option<Timestamp>,
    /// Whether the tool itself says that it did not succeed.
    pub failed: bool,
    /// Whether every older migration counts as applied too (golang-migrate keeps only the newest version).
    pub and_older: bool,
}

/// Another tool's ledger in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignLedger {
    /// Whose.
    pub kind: LedgerKind,
    /// Its table, with its schema where there are schemas.
    pub table: String,
    /// Its rows, oldest first.
    pub entries: Vec<ForeignEntry>,
}

/// What the ledger says of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerState {
    /// It is in effect.
    Applied,
    /// Somebody said that it is in effect; dbkeep did not apply it.
    Baselined,
    /// It was applied and taken back.
    RolledBack,
    /// It is being applied in several transactions, or was and stopped: `statements_done` says where.
    Applying,
    /// The same backwards.
    Reverting,
}

/// One row of dbkeep's ledger in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The migration.
    pub id: MigrationId,
    /// Its name.
    pub name: String,
    /// SHA-256 of the up script that was applied, hex.
    pub sha256: String,
    /// Where it stands.
    pub state: LedgerState,
    /// Statements of the direction in work that took effect.
    pub statements_done: u32,
    /// Statements of that direction.
    pub statements: u32,
    /// Whether the statement after those was begun outside of a transaction and nobody knows whether it took effect.
    pub in_doubt: bool,
    /// Why it stopped; empty where it did not.
    pub problem: String,
    /// Rows that its statements changed.
    pub rows: u64,
    /// Time at work, milliseconds.
    pub duration_ms: u64,
    /// When it entered this state, by the target's clock; what is written is ignored, the target sets it.
    pub at: Timestamp,
    /// Principal on whose behalf.
    pub by: String,
    /// Run that wrote it.
    pub run: RunId,
    /// Run whose backup was made before it was applied.
    pub backup: Option<RunId>,
    /// [`Script::digest`](super::Script::digest) of the script in work, or that was last: `statements_done` counts statements of just that. Empty where
    /// dbkeep executed none.
    pub script_sha256: String,
}
