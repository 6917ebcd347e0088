//! The work of a verification: every chunk is read, checked against the journal, and restored into a scratch table where each
//! row must come back exactly as it was captured. Changes nothing that stays. What proves one step of a backup also serves runs of
//! maintenance.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    attempt::{Attempt, Ending, Halt},
    files,
};
use crate::{
    backup::{ChunkError, Section, read_chunk},
    model::{RunId, RunState, StepState},
    port::{Captured, FileRoot, Scratch, SourceMark},
};

/// Journal entries read at a time.
const PAGE_ENTRIES: u32 = 256;

/// A step of the run that captured.
pub(super) struct Captures {
    pub(super) source: RunId,
    pub(super) step: u32,
    /// Rows, or files, that it captured.
    pub(super) planned: u64,
    /// Where its files were, for a step that took files.
    pub(super) root: Option<Arc<dyn FileRoot>>,
}

/// What the proof of a step found.
pub(super) struct StepProof {
    /// Rows or files that are as they were captured.
    pub(super) proven: u64,
    /// What is damaged, in chunks or files; 0 where all is well.
    pub(super) damaged: u64,
    /// What is wrong, in words; empty where nothing is.
    pub(super) problem: String,
}

pub(super) async fn work(attempt: &mut Attempt) -> Result<Ending, Halt> {
    let Some(source) = attempt.run.source else {
        return Err(Halt::Fail("the verification names no run".to_owned()));
    };
    let mut unnamed = listed(attempt, source).await?;
    let mut scratch = attempt.target.scratch().await?;
    let mut damaged = 0_u64;
    for index in 0..attempt.ledger.report.steps.len() {
        // An attempt that was interrupted begins anew: a proof is only worth something when it is whole.
        {
            let report = &mut attempt.ledger.report.steps[index];
            (
                report.rows_affected,
                report.rows_matched,
                report.batches,
                report.captured_bytes,
            ) = (0, 0, 0, 0);
        }
        attempt.boundary()?;
        attempt.ledger.begin_step(index).await?;
        let captures = Captures {
            source,
            step: u32::try_from(index).unwrap_or(u32::MAX),
            planned: attempt.ledger.report.steps[index].rows_planned,
            root: files::root_of(attempt, index)?,
        };
        let Some(proof) = prove_step(attempt, index, &captures, scratch.as_mut(), &mut unnamed).await? else {
            let reason = format!("stopped at the time limit of {} s", attempt.run.options.max_execution_seconds);
            attempt.ledger.end_step(index, StepState::Partial, reason.clone()).await?;
            return Ok(Ending {
                state: RunState::PartiallySucceeded,
                reason,
                mark: None,
            });
        };
        damaged += proof.damaged;
        let state = if proof.damaged > 0 {
            StepState::Failed
        } else {
            StepState::Succeeded
        };
        attempt.ledger.end_step(index, state, proof.problem).await?;
    }
    warn_of_unnamed(attempt, None, &unnamed).await?;
    let proven = attempt.ledger.report.total(|step| step.rows_affected);
    Ok(if damaged > 0 {
        Ending {
            state: RunState::Failed,
            reason: format!("the backup is damaged; {proven} rows are proven"),
            mark: Some(SourceMark::Damaged),
        }
    } else {
        Ending {
            state: RunState::Succeeded,
            reason: format!("{proven} rows proven"),
            mark: Some(SourceMark::Verified),
        }
    })
}

/// The files in a run's folder.
pub(super) async fn listed(attempt: &Attempt, source: RunId) -> Result<BTreeSet<String>, Halt> {
    let archive = Arc::clone(&attempt.context.archive);
    let files = tokio::task::spawn_blocking(move || archive.list(source))
        .await
        .map_err(|error| Halt::Fail(error.to_string()))??;
    Ok(files.into_iter().collect())
}

/// Tells of files that no proven step names.
pub(super) async fn warn_of_unnamed(attempt: &mut Attempt, index: Option<usize>, unnamed: &BTreeSet<String>) -> Result<(), Halt> {
    if !unnamed.is_empty() {
        let message = format!("{} files of the folder belong to no committed batch", unnamed.len());
        attempt.ledger.warn(index, "UNNAMED_FILES", message).await?;
    }
    Ok(())
}

/// Proves what one step captured, and counts it in step `index` of this run; `None` where the time limit came first. Files of chunks
/// that were looked at are taken from `unnamed`.
pub(super) async fn prove_step(
    attempt: &mut Attempt,
    index: usize,
    of: &Captures,
    scratch: &mut dyn Scratch,
    unnamed: &mut BTreeSet<String>,
) -> Result<Option<StepProof>, Halt> {
    if let Some(root) = &of.root {
        return files::verify_step(attempt, index, of, Arc::clone(root)).await;
    }
    let archive = Arc::clone(&attempt.context.archive);
    let (mut damaged, mut proven) = (0_u64, 0_u64);
    let mut after = (of.step, 0);
    loop {
        let page = attempt.target.journal(of.source, after, PAGE_ENTRIES).await?;
        let entries: Vec<_> = page.into_iter().filter(|entry| entry.step == of.step).collect();
        let Some(last) = entries.last() else { break };
        after = (of.step, last.batch);
        for entry in entries {
            attempt.boundary()?;
            if attempt.out_of_time() {
                return Ok(None);
            }
            let Some(chunk) = entry.chunk else { continue };
            unnamed.remove(&chunk.file);
            let (archive, source, reference) = (Arc::clone(&archive), of.source, chunk.clone());
            let read =
                tokio::task::spawn_blocking(move || read_chunk(archive.as_ref(), source, entry.step, entry.batch, &reference))
                    .await;
            let problem = match read.map_err(|error| Halt::Fail(error.to_string()))? {
                Ok(sections) => {
                    let mut same = 0;
                    for Section { mut layout, mut rows } in sections {
                        // What proves a backup are the rows as they were, whatever was done to them.
                        layout.captured = Captured::Deleted;
                        rows.iter_mut().for_each(|row| row.truncate(layout.columns.len()));
                        same += scratch.prove(&layout, rows).await?;
                    }
                    proven += same;
                    let report = &mut attempt.ledger.report.steps[index];
                    report.rows_matched += chunk.rows;
                    report.rows_affected += same;
                    report.batches += 1;
                    report.captured_bytes += chunk.bytes;
                    (same != chunk.rows).then(|| format!("{same} of {} rows came back as they were captured", chunk.rows))
                }
                Err(ChunkError::Damaged { problem }) => Some(problem),
                Err(ChunkError::Archive(error)) => return Err(error.into()),
            };
            if let Some(problem) = problem {
                damaged += 1;
                attempt
                    .ledger
                    .warn(Some(index), "BACKUP_DAMAGED", format!("chunk {}: {problem}", chunk.file))
                    .await?;
            }
            let fraction = super::meter::as_f64(proven) / super::meter::as_f64(of.planned.max(1));
            attempt
                .ledger
                .progress(index, fraction.min(1.0), Duration::ZERO, None)
                .await?;
        }
    }
    let problem = if damaged > 0 {
        format!("{damaged} chunks are damaged")
    } else if proven != of.planned {
        damaged = 1;
        format!("the run captured {} rows, the journal names {proven}", of.planned)
    } else {
        String::new()
    };
    Ok(Some(StepProof {
        proven,
        damaged,
        problem,
    }))
}
