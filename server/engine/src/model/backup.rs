//! Backups of captured rows, and the journal that says which chunks belong to them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    maintenance::{BackupContent, Pruned},
    run::RunId,
};

/// A sealed backup file of one batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    /// File name in the run's folder.
    pub file: String,
    /// Rows in it.
    pub rows: u64,
    /// Size of the file, bytes.
    pub bytes: u64,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

/// What happened to the rows of one table along with the rows that a batch or a step took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Along {
    /// The table.
    pub table: String,
    /// Rows deleted because a row that they name went.
    pub deleted: u64,
    /// Rows whose key became NULL because of that.
    pub nullified: u64,
}

impl Along {
    /// Adds counts table by table.
    pub fn add(sum: &mut Vec<Self>, more: &[Self]) {
        for one in more {
            match sum.iter_mut().find(|known| known.table == one.table) {
                Some(known) => {
                    known.deleted += one.deleted;
                    known.nullified += one.nullified;
                }
                None => sum.push(one.clone()),
            }
        }
    }
}

/// One committed batch. The row is written to the journal in the target by the batch's own transaction, so that after any
/// crash it tells what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// The run.
    pub run: RunId,
    /// Step of the plan, from 0.
    pub step: u32,
    /// Number of the batch in its step, from 1, without gaps.
    pub batch: u64,
    /// Pass over the table, from 1.
    pub pass: u32,
    /// Fence of the attempt that committed it.
    pub fence: u64,
    /// Where the pass stood after it; read only by the adapter that wrote it.
    pub cursor: String,
    /// Rows looked at since the batch before.
    pub examined: u64,
    /// Rows that the scan had listed.
    pub matched: u64,
    /// Selected rows deleted or changed; rows put back.
    pub affected: u64,
    /// Rows of other tables, or children in the same one, that were deleted or nullified along with them.
    pub along: Vec<Along>,
    /// Undo: rows left because something stands in their place.
    pub conflicting: u64,
    /// The chunk that holds the rows; `None` where nothing is captured.
    pub chunk: Option<ChunkRef>,
}

/// The journal of one step, summed up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepTotals {
    /// Step of the plan, from 0.
    pub step: u32,
    /// Number of batches; those of a cleanup are numbered from 1 without gaps.
    pub batches: u64,
    /// Smallest number of a batch; an undo goes from the largest to the smallest.
    pub first_batch: u64,
    /// Sum.
    pub examined: u64,
    /// Sum.
    pub matched: u64,
    /// Sum.
    pub affected: u64,
    /// Sum by table.
    pub along: Vec<Along>,
    /// Sum.
    pub conflicting: u64,
    /// Rows in chunks.
    pub captured: u64,
    /// Bytes of chunks.
    pub captured_bytes: u64,
    /// Pass of the newest batch.
    pub pass: u32,
    /// Cursor of the newest batch.
    pub cursor: String,
}

/// Whether a backup was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Verification {
    /// Nobody has tried.
    #[default]
    Unverified,
    /// The newest verification found every row.
    Verified(Timestamp),
    /// The newest verification found damage.
    Damaged(Timestamp),
}

/// What one run saved: captured rows, or whole tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The run that captured them, whose id is the backup's.
    pub run: RunId,
    /// Target they come from.
    pub target: String,
    /// Operations of the run.
    pub operations: Vec<String>,
    /// Rows.
    pub rows: u64,
    /// Size of the chunks, bytes.
    pub bytes: u64,
    /// Number of chunks.
    pub chunks: u64,
    /// Whether it was proven.
    pub verification: Verification,
    /// When the run was accepted.
    pub created_at: Timestamp,
    /// What it holds.
    pub content: BackupContent,
    /// Its removal, where that was decided.
    pub pruned: Option<Pruned>,
}
