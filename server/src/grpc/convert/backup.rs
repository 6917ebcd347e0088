//! Backups and their chunks.

use dbkeep_engine::model::{Backup, JournalEntry, Verification};
use dbkeep_proto::v1;

use super::time;

/// A backup; its folder is named after its run.
pub(in crate::grpc) fn backup(backup: Backup) -> v1::Backup {
    let (verification, verify_time) = match backup.verification {
        Verification::Unverified => (v1::VerificationState::Unverified, None),
        Verification::Verified(at) => (v1::VerificationState::Verified, Some(time::timestamp(at))),
        Verification::Damaged(at) => (v1::VerificationState::Damaged, Some(time::timestamp(at))),
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
