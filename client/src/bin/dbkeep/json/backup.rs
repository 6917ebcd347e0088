//! JSON of backups.
//!
//! Owns the shapes `backup`, `chunk` and `pruned`. Called by `cmd/backups.rs`.

use dbkeep_client::proto;
use serde::Serialize;

/// The captured rows of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Backup<'a> {
    id: &'a str,
    target: &'a str,
    operations: &'a [String],
    row_count: u64,
    size_bytes: u64,
    chunk_count: u64,
    /// "unverified", "verified" or "damaged".
    verification: String,
    verify_time: Option<String>,
    create_time: Option<String>,
    folder: &'a str,
    /// "rows", "tables" or "database".
    kind: String,
    prune_time: Option<String>,
    tool: Option<&'a str>,
    files: Vec<File<'a>>,
    tables: Vec<Table<'a>>,
}

/// A file of a backup of whole tables.
#[derive(Debug, Serialize)]
struct File<'a> {
    file: &'a str,
    size_bytes: u64,
    sha256: &'a str,
}

/// A table in a backup of whole tables.
#[derive(Debug, Serialize)]
struct Table<'a> {
    table: &'a str,
    row_count: u64,
}

impl<'a> From<&'a proto::Backup> for Backup<'a> {
    fn from(backup: &'a proto::Backup) -> Self {
        Self {
            id: &backup.id,
            target: &backup.target,
            operations: &backup.operations,
            row_count: backup.row_count,
            size_bytes: backup.size_bytes,
            chunk_count: backup.chunk_count,
            verification: super::verification(backup.verification()),
            verify_time: super::time(backup.verify_time.as_ref()),
            create_time: super::time(backup.create_time.as_ref()),
            folder: &backup.folder,
            kind: super::backup_kind(backup.kind()),
            prune_time: super::time(backup.prune_time.as_ref()),
            tool: super::text(&backup.tool),
            files: backup
                .files
                .iter()
                .map(|file| File {
                    file: &file.file,
                    size_bytes: file.size_bytes,
                    sha256: &file.sha256,
                })
                .collect(),
            tables: backup
                .tables
                .iter()
                .map(|table| Table {
                    table: &table.table,
                    row_count: table.row_count,
                })
                .collect(),
        }
    }
}

/// One sealed file.
#[derive(Debug, Serialize)]
pub(crate) struct Chunk<'a> {
    step_index: u32,
    batch: u64,
    file: &'a str,
    row_count: u64,
    size_bytes: u64,
    sha256: &'a str,
}

impl<'a> From<&'a proto::Chunk> for Chunk<'a> {
    fn from(chunk: &'a proto::Chunk) -> Self {
        Self {
            step_index: chunk.step_index,
            batch: chunk.batch,
            file: &chunk.file,
            row_count: chunk.row_count,
            size_bytes: chunk.size_bytes,
            sha256: &chunk.sha256,
        }
    }
}

/// What became of one backup in a prune.
#[derive(Debug, Serialize)]
pub(crate) struct Pruned<'a> {
    backup: Option<Backup<'a>>,
    pruned: bool,
    reason: &'a str,
    freed_bytes: u64,
}

impl<'a> From<&'a proto::PrunedBackup> for Pruned<'a> {
    fn from(pruned: &'a proto::PrunedBackup) -> Self {
        Self {
            backup: pruned.backup.as_ref().map(Backup::from),
            pruned: pruned.pruned,
            reason: &pruned.reason,
            freed_bytes: pruned.freed_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_and_a_chunk() {
        let backup = proto::Backup {
            id: "r1".into(),
            target: "main".into(),
            row_count: 2,
            verification: proto::VerificationState::Verified.into(),
            folder: "r1".into(),
            kind: proto::BackupKind::Rows.into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Backup::from(&backup)).unwrap(),
            r#"{"id":"r1","target":"main","operations":[],"row_count":2,"size_bytes":0,"chunk_count":0,"verification":"verified","verify_time":null,"create_time":null,"folder":"r1","kind":"rows","prune_time":null,"tool":null,"files":[],"tables":[]}"#
        );
        let chunk = proto::Chunk {
            batch: 7,
            file: "f".into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Chunk::from(&chunk)).unwrap(),
            r#"{"step_index":0,"batch":7,"file":"f","row_count":0,"size_bytes":0,"sha256":""}"#
        );
    }
}
