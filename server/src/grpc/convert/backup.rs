//! Backups and their chunks.

use dbkeep_engine::{
    engine::backups::PruneOutcome,
    model::{Backup, BackupContent, BackupRecord, JournalEntry, Verification},
};
use dbkeep_proto::v1;

use super::time;

/// A backup; its folder is named after its run.
pub(in crate::grpc) fn backup(backup: Backup) -> v1::Backup {
    let (verification, verify_time) = match backup.verification {
        Verification::Unverified => (v1::VerificationState::Unverified, None),
        Verification::Verified(at) => (v1::VerificationState::Verified, Some(time::timestamp(at))),
        Verification::Damaged(at) => (v1::VerificationState::Damaged, Some(time::timestamp(at))),
    };
    let (kind, record) = match backup.content {
        BackupContent::Rows => (v1::BackupKind::Rows, BackupRecord::default()),
        BackupContent::Whole(record) if record.asked.is_empty() => (v1::BackupKind::Database, record),
        BackupContent::Whole(record) => (v1::BackupKind::Tables, record),
    };
    v1::Backup {
        id: backup.run.to_string(),
        target: backup.target,
        operations: backup.operations,
        row_count: backup.rows,
        size_bytes: backup.bytes,
        chunk_count: backup.chunks,
        verification: verification.into(),
        verify_time,
        create_time: Some(time::timestamp(backup.created_at)),
        folder: backup.run.to_string(),
        kind: kind.into(),
        prune_time: backup.pruned.map(|pruned| time::timestamp(pruned.at)),
        files: record
            .files
            .into_iter()
            .map(|file| v1::BackupFile {
                file: file.file,
                size_bytes: file.bytes,
                sha256: file.sha256,
            })
            .collect(),
        tables: record
            .tables
            .into_iter()
            .map(|table| v1::BackupTable {
                table: table.table.to_string(),
                row_count: table.rows,
            })
            .collect(),
        tool: record.tool,
    }
}

/// What became of one backup.
pub(in crate::grpc) fn pruned(outcome: PruneOutcome) -> v1::PrunedBackup {
    v1::PrunedBackup {
        backup: Some(backup(outcome.backup)),
        pruned: outcome.pruned,
        reason: outcome.reason,
        freed_bytes: outcome.freed_bytes,
    }
}

/// The chunk of a batch; `None` where the batch captured nothing.
pub(in crate::grpc) fn chunk(entry: JournalEntry) -> Option<v1::Chunk> {
    let chunk = entry.chunk?;
    Some(v1::Chunk {
        step_index: entry.step,
        batch: entry.batch,
        file: chunk.file,
        row_count: chunk.rows,
        size_bytes: chunk.bytes,
        sha256: chunk.sha256,
    })
}
