//! Acts on whole tables: backups of them, restores, and what became of the space of deleted rows. Plain data, kept in a run's report.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{identity::Identity, schedule::MaintenanceTask, schema::TableName};

/// A sealed file of a backup of whole tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// File name in the run's folder.
    pub file: String,
    /// Size, bytes.
    pub bytes: u64,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

/// A table with the number of its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCount {
    /// The table, as the database resolved it.
    pub table: TableName,
    /// Its rows.
    pub rows: u64,
}

/// What a run of kind backup was asked for, and what it made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BackupRecord {
    /// Tables that were asked for; empty for the whole database.
    pub asked: Vec<TableName>,
    /// The dump first, then what describes it. Empty until all of them are sealed.
    pub files: Vec<BackupFile>,
    /// Tables in it, with the rows of each in the snapshot that was saved.
    pub tables: Vec<TableCount>,
    /// What wrote the dump, with its version.
    pub tool: String,
    /// Which database it is of, as far as that was known.
    #[serde(default)]
    pub identity: Identity,
}

/// Where a backup is brought back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreMode {
    /// Into the target's own tables.
    InPlace {
        /// Tables that hold rows lose them first.
        replace: bool,
    },
    /// Beside them, in a place of this name that stays.
    Scratch {
        /// Name of the place.
        name: String,
    },
}

/// What a run of kind restore was asked for, and where the rows went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRecord {
    /// Where to.
    pub mode: RestoreMode,
    /// Tables to bring back; empty for all.
    pub tables: Vec<TableName>,
    /// Where the rows are now, in words; empty until they are there.
    pub place: String,
}

/// Who may still see deleted rows, so that their space cannot be reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HorizonHolder {
    /// "session", "prepared_transaction", "replication_slot", "standby" or "reader".
    pub kind: String,
    /// Process id, transaction name or slot name.
    pub name: String,
    /// Database user; may be empty.
    pub user: String,
    /// Application and state; may be empty. Never the text of a query, which may hold data.
    pub detail: String,
    /// For how long, seconds.
    pub age_seconds: Option<u64>,
    /// Transactions begun since.
    pub age_transactions: Option<u64>,
}

/// What became of the space of one table, or of a whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableSpace {
    /// The table; "main" for a whole SQLite file.
    pub table: String,
    /// Size with indexes before, bytes.
    pub bytes_before: u64,
    /// Size with indexes after, bytes.
    pub bytes_after: u64,
    /// Free inside, to be used by new rows, bytes.
    pub bytes_reusable: u64,
    /// How that was found: "freespacemap", "pgstattuple", "estimate" or "freelist".
    pub reusable_by: String,
    /// Dead rows that could not be removed yet.
    pub dead_rows: u64,
    /// Who keeps them, oldest first.
    pub holders: Vec<HorizonHolder>,
    /// What a reader should know; may be empty.
    pub note: String,
}

impl TableSpace {
    /// Name in `table` where the space belongs to a file that holds every table.
    pub const WHOLE_FILE: &'static str = "main";

    /// Bytes that went back to the operating system.
    #[must_use]
    pub fn bytes_returned(&self) -> u64 {
        self.bytes_before.saturating_sub(self.bytes_after)
    }
}

/// How far an act on whole tables is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MaintenanceProgress {
    /// What is being done, one word.
    pub phase: String,
    /// Table in work; empty where it is the whole database.
    pub table: String,
    /// Done so far.
    pub done: u64,
    /// To be done in all, an estimate; 0 where unknown.
    pub total: u64,
    /// "bytes", "rows", "blocks" or "pages".
    pub unit: String,
}

/// What a run of kind maintain was asked for, and how far each task is. What is done is kept item by item, so that an attempt after a
/// crash goes on behind it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MaintenanceRecord {
    /// One for each step of the run.
    pub tasks: Vec<TaskRecord>,
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The task.
    pub task: MaintenanceTask,
    /// What it has dealt with: tables, indexes or backups.
    #[serde(default)]
    pub items: Vec<MaintenanceItem>,
    /// What it is at: written before it begins, so that whoever comes after a crash knows what may lie half done.
    #[serde(default)]
    pub current: Option<String>,
}

/// What became of one table, index or backup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MaintenanceItem {
    /// Its name.
    pub name: String,
    /// Whether that succeeded; otherwise a warning says why not.
    pub done: bool,
    /// Its size before, bytes; 0 where that says nothing.
    #[serde(default)]
    pub bytes_before: u64,
    /// Its size after.
    #[serde(default)]
    pub bytes_after: u64,
    /// Rows of it that were proven.
    #[serde(default)]
    pub rows: u64,
}

/// A table with dead rows that are worth a vacuum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadRows {
    /// The table.
    pub table: TableName,
    /// Dead rows, as the database's statistics tell.
    pub dead: u64,
    /// Whether dbkeep's user may vacuum it.
    pub permitted: bool,
}

/// An index that is mostly air.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BloatedIndex {
    /// The index, with its schema.
    pub index: TableName,
    /// Its table.
    pub table: TableName,
    /// Its size, bytes.
    pub bytes: u64,
    /// How much of it would be gone after a rebuild, percent.
    pub bloat_percent: u32,
    /// How that was found: "pgstattuple" or "estimate".
    pub found_by: String,
    /// Whether dbkeep's user may rebuild it.
    pub permitted: bool,
    /// Invalid indexes that an earlier rebuild of it left behind.
    pub leftovers: Vec<TableName>,
}

/// What a look at all indexes found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IndexSurvey {
    /// Those that are mostly air, the largest first.
    pub bloated: Vec<BloatedIndex>,
    /// How many were large enough to be looked at.
    pub examined: u64,
    /// Those of which nothing can be said, because their tables were never analyzed.
    pub unknown: Vec<TableName>,
    /// Invalid indexes that a rebuild left behind which was cut short, whoever began it.
    pub leftovers: Vec<TableName>,
}

/// What a rebuild did to an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexSpace {
    /// Its size before, bytes.
    pub bytes_before: u64,
    /// Its size after.
    pub bytes_after: u64,
}

/// The removal of a backup's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// When it was decided. From then on nobody may use the backup.
    pub at: Timestamp,
    /// Whether every file and journal row is gone; otherwise the next prune goes on.
    pub complete: bool,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupContent {
    /// Rows captured by a cleanup.
    Rows,
    /// Whole tables, or the whole database where none were asked for.
    Whole(BackupRecord),
}
