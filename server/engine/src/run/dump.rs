//! The work of a backup of whole tables: the adapter writes one file from one snapshot; here it is hashed, made durable, named, and
//! only then written into the report. An attempt that was cut short leaves nothing that counts: the next begins with a new file.

use std::{io::Read as _, io::Write as _, sync::Arc};

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::{
    attempt::{Attempt, Ending, Halt},
    maintain::{act, blocking},
};
use crate::{
    failpoint,
    model::{BackupFile, BackupRecord, Identity, LedgerEntry, RunId, RunKind, RunState, StepState, TableCount, fence},
    port::{Archive, ArchiveError, DumpOrder},
};

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

pub(super) async fn work(attempt: &mut Attempt) -> Result<Ending, Halt> {
    let reason = whole(attempt).await?;
    Ok(Ending {
        state: RunState::Succeeded,
        reason,
        mark: None,
    })
}

/// Makes the backup that the report asks for, as step 0 of the run; returns what was saved, in words.
pub(super) async fn whole(attempt: &mut Attempt) -> Result<String, Halt> {
    let Some(record) = attempt.ledger.report.backup.clone() else {
        return Err(Halt::Fail("the run does not say what to save".to_owned()));
    };
    let mark = format!("attempt{}", fence::name(attempt.claim.fence));
    let (archive, run, own) = (Arc::clone(&attempt.context.archive), attempt.run.id, attempt.claim.fence);
    // Only files of earlier attempts: one that lost its lease and wakes up late must not touch those of its successor.
    blocking(move || remove_others(archive.as_ref(), run, |file| fence_of(file) < own)).await?;
    attempt.boundary()?;
    attempt.ledger.begin_step(0).await?;
    match save(attempt, &record, &mark).await {
        Ok(None) => {
            let why = "the database has no table to save";
            let archive = Arc::clone(&attempt.context.archive);
            blocking(move || {
                remove_others(archive.as_ref(), run, |file| fence_of(file) <= own)?;
                if archive.list(run)?.is_empty() {
                    archive.remove_folder(run)?;
                }
                Ok(())
            })
            .await?;
            attempt.ledger.end_step(0, StepState::Skipped, why.to_owned()).await?;
            Ok(why.to_owned())
        }
        Ok(Some(saved)) => {
            let rows = saved.tables.iter().map(|table| table.rows).sum();
            let bytes = saved.files.iter().map(|file| file.bytes).sum();
            let reason = format!("{} tables saved, {rows} rows, {bytes} bytes", saved.tables.len());
            let report = &mut attempt.ledger.report;
            report.backup = Some(saved);
            report.steps[0].rows_planned = rows;
            report.steps[0].rows_affected = rows;
            report.steps[0].rows_captured = rows;
            report.steps[0].captured_bytes = bytes;
            attempt.ledger.end_step(0, StepState::Succeeded, String::new()).await?;
            Ok(reason)
        }
        Err(halt) => {
            let archive = Arc::clone(&attempt.context.archive);
            let removed = blocking(move || {
                remove_others(archive.as_ref(), run, |file| file.contains(&mark))?;
                if archive.list(run)?.is_empty() {
                    archive.remove_folder(run)?;
                }
                Ok(())
            });
            if removed.await.is_err() {
                tracing::warn!(%run, "files of a backup that was not made stay; no report names them");
            }
            Err(halt)
        }
    }
}

/// `None` where there is nothing to save before migrations; a backup that was asked for has to hold something.
async fn save(attempt: &mut Attempt, record: &BackupRecord, mark: &str) -> Result<Option<BackupRecord>, Halt> {
    let run = attempt.run.id;
    let target = Arc::clone(&attempt.target);
    let scope = target.maintenance().scope(&record.asked).await?;
    let (stem, ending) = scope.file.rsplit_once('.').unwrap_or((scope.file, "dump"));
    let (file, manifest) = (format!("{stem}-{mark}.{ending}"), format!("manifest-{mark}.json"));
    let archive = Arc::clone(&attempt.context.archive);
    let (staging, name) = (Arc::clone(&archive), file.clone());
    let path = blocking(move || staging.staging(run, &name)).await?;
    failpoint!("dump-begun");
    let order = DumpOrder {
        // A backup alone does not take its target.
        claim: (attempt.run.kind != RunKind::Backup).then_some(attempt.claim),
        tables: record.asked.clone(),
        path: path.clone(),
        schema_only: false,
    };
    let identity = target.identity().await?;
    let dumped = act(attempt, |target, watch| {
        Box::pin(async move { target.maintenance().dump(&order, &watch).await })
    })
    .await?;
    failpoint!("dump-written");
    // Before everything is replaced, whatever there is besides tables is worth keeping.
    let whatever = attempt
        .ledger
        .report
        .migrations
        .as_ref()
        .is_some_and(|record| record.rewind.is_some());
    if dumped.tables.is_empty() && !whatever && attempt.run.kind != RunKind::Backup {
        return Ok(None);
    }
    if dumped.tables.is_empty() && !whatever {
        return Err(Halt::Fail("there is no table to save".to_owned()));
    }
    attempt.boundary()?;
    let (publishing, name) = (Arc::clone(&archive), file.clone());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let sealing = blocking(move || {
        publishing.publish(run, &name)?;
        fingerprint(publishing.as_ref(), run, name, &stopped)
    });
    tokio::pin!(sealing);
    let sealed = tokio::select! {
        sealed = &mut sealing => sealed?,
        halted = attempt.lease.stopped() => {
            // A file that were published after those of this attempt are removed would stay.
            stop.cancel();
            drop(sealing.await);
            return Err(halted.into());
        }
    };
    if sealed.bytes == 0 {
        return Err(Halt::Fail(format!("{file} is empty")));
    }
    failpoint!("dump-published");
    let description = Description {
        format: "dbkeep-backup",
        version: 1,
        run,
        target: &attempt.run.target,
        tool: &scope.tool,
        file: &sealed,
        tables: &dumped.tables,
        notes: &dumped.notes,
        migrations: &dumped.ledger,
        database: &identity,
    };
    let json = serde_json::to_vec_pretty(&description).map_err(|error| Halt::Fail(error.to_string()))?;
    let manifest = blocking(move || write(archive.as_ref(), run, manifest, &json)).await?;
    attempt.boundary()?;
    Ok(Some(BackupRecord {
        asked: record.asked.clone(),
        files: vec![sealed, manifest],
        tables: dumped.tables,
        tool: scope.tool,
        identity,
    }))
}

/// What lies beside a dump, so that it can be understood without dbkeep.
#[derive(serde::Serialize)]
struct Description<'a> {
    format: &'static str,
    version: u32,
    run: RunId,
    target: &'a str,
    tool: &'a str,
    file: &'a BackupFile,
    tables: &'a [TableCount],
    notes: &'a serde_json::Value,
    /// The ledger of migrations in the snapshot: which of them the schema in the file has.
    migrations: &'a [LedgerEntry],
    /// Which database it is of.
    database: &'a Identity,
}

fn write(archive: &dyn Archive, run: RunId, file: String, bytes: &[u8]) -> Result<BackupFile, ArchiveError> {
    let mut writing = archive.create(run, &file)?;
    writing.write_all(bytes).map_err(|source| ArchiveError::Io {
        path: file.clone(),
        source,
    })?;
    writing.seal()?;
    Ok(BackupFile {
        file,
        bytes: bytes.len() as u64,
        sha256: hex::encode(Sha256::digest(bytes)),
    })
}

/// The fence under which a file was made, by its name; 0 where that does not tell.
fn fence_of(file: &str) -> u64 {
    file.split_once("attempt")
        .and_then(|(_, rest)| fence::named(rest))
        .unwrap_or(0)
}

fn remove_others(archive: &dyn Archive, run: RunId, chosen: impl Fn(&str) -> bool) -> Result<(), ArchiveError> {
    for file in archive.list(run)? {
        if chosen(&file) {
            archive.remove(run, &file)?;
        }
    }
    Ok(())
}

/// Size and SHA-256 of a sealed file, read back from the archive; an error where `stop` is cancelled meanwhile.
pub(super) fn fingerprint(
    archive: &dyn Archive,
    run: RunId,
    file: String,
    stop: &CancellationToken,
) -> Result<BackupFile, ArchiveError> {
    let mut reading = archive.open(run, &file)?;
    let mut sha256 = Sha256::new();
    let mut bytes = 0_u64;
    let mut buffer = vec![0_u8; BUFFER];
    loop {
        let read = reading.read(&mut buffer).map_err(|source| ArchiveError::Io {
            path: file.clone(),
            source,
        })?;
        if read == 0 {
            break;
        }
        if stop.is_cancelled() {
            return Err(ArchiveError::Io {
                path: file,
                source: std::io::ErrorKind::Interrupted.into(),
            });
        }
        sha256.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(BackupFile {
        file,
        bytes,
        sha256: hex::encode(sha256.finalize()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_of_its_attempt() {
        assert_eq!(fence_of("database-attempt0002.dump"), 2);
        assert_eq!(fence_of("database-attempt12345.manifest.json.partial"), 12_345);
        assert_eq!(fence_of("database-attempt0003-9f3a2b1c.dump"), fence::of(3, 0x9f3a_2b1c));
        // Whoever wakes up as the second attempt leaves the files of the third, and takes those of the first and of nobody.
        let files = ["a-attempt0001.dump", "a-attempt0002.dump", "a-attempt0003.dump", "a.dump"];
        let older: Vec<_> = files.into_iter().filter(|file| fence_of(file) < 2).collect();
        assert_eq!(older, ["a-attempt0001.dump", "a.dump"]);
    }

    /// The sum of a large dump is not waited for by somebody who has to stop.
    #[test]
    fn a_sum_ends_where_it_is_told_to() {
        let (archive, run, file) = (crate::testing::MemoryArchive::default(), RunId::new(), "a.dump");
        let mut writing = archive.create(run, file).expect("a file");
        writing.write_all(&vec![7_u8; 3 * BUFFER]).expect("written");
        writing.seal().expect("sealed");
        let stop = CancellationToken::new();
        let whole = fingerprint(&archive, run, file.to_owned(), &stop).expect("a sum");
        assert_eq!(whole.bytes, 3 * BUFFER as u64);
        stop.cancel();
        let stopped = fingerprint(&archive, run, file.to_owned(), &stop);
        assert!(
            matches!(&stopped, Err(ArchiveError::Io { source, .. }) if source.kind() == std::io::ErrorKind::Interrupted),
            "{stopped:?}"
        );
    }
}
