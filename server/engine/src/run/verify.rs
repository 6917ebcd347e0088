//! The work of a verification: every chunk is read, checked against the journal, and restored into a scratch table where each
//! row must come back exactly as it was captured. Changes nothing that stays.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    attempt::{Attempt, Ending, Halt},
    files,
};
use crate::{
    backup::{ChunkError, Section, read_chunk},
    model::{RunState, StepState},
    port::{Captured, SourceMark},
};

/// Journal entries read at a time.
const PAGE_ENTRIES: u32 = 256;

pub(super) async fn work(attempt: &mut Attempt) -> Result<Ending, Halt> {
    let Some(source) = attempt.run.source else {
        return Err(Halt::Fail("the verification names no run".to_owned()));
    };
    let archive = Arc::clone(&attempt.context.archive);
    let mut unnamed: BTreeSet<String> = {
        let archive = Arc::clone(&archive);
        tokio::task::spawn_blocking(move || archive.list(source))
            .await
            .map_err(|error| Halt::Fail(error.to_string()))??
            .into_iter()
            .collect()
    };
    let mut scratch = attempt.target.scratch().await?;
    let mut damaged = 0_u64;
    for index in 0..attempt.ledger.report.steps.len() {
        let step = u32::try_from(index).unwrap_or(u32::MAX);
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
        if let Some(root) = files::root_of(attempt, index)? {
            match files::verify_step(attempt, index, source, root).await? {
                Some(files) => damaged += files,
                None => {
                    return Ok(Ending {
                        state: RunState::PartiallySucceeded,
                        reason: format!("stopped at the time limit of {} s", attempt.run.options.max_execution_seconds),
                        mark: None,
                    });
                }
            }
            continue;
        }
        let mut damaged_here = 0_u64;
        let mut after = (step, 0);
        loop {
            let page = attempt.target.journal(source, after, PAGE_ENTRIES).await?;
            let entries: Vec<_> = page.into_iter().filter(|entry| entry.step == step).collect();
            let Some(last) = entries.last() else { break };
            after = (step, last.batch);
            for entry in entries {
                attempt.boundary()?;
                if attempt.out_of_time() {
                    let reason = format!("stopped at the time limit of {} s", attempt.run.options.max_execution_seconds);
                    attempt.ledger.end_step(index, StepState::Partial, reason.clone()).await?;
                    return Ok(Ending {
                        state: RunState::PartiallySucceeded,
                        reason,
                        mark: None,
                    });
                }
                let Some(chunk) = entry.chunk else { continue };
                unnamed.remove(&chunk.file);
                let (archive, reference) = (Arc::clone(&archive), chunk.clone());
                let read = tokio::task::spawn_blocking(move || {
                    read_chunk(archive.as_ref(), source, entry.step, entry.batch, &reference)
                })
                .await;
                let problem = match read.map_err(|error| Halt::Fail(error.to_string()))? {
                    Ok(sections) => {
                        let mut proven = 0;
                        for Section { mut layout, mut rows } in sections {
                            // What proves a backup are the rows as they were, whatever was done to them.
                            layout.captured = Captured::Deleted;
                            rows.iter_mut().for_each(|row| row.truncate(layout.columns.len()));
                            proven += scratch.prove(&layout, rows).await?;
                        }
                        let report = &mut attempt.ledger.report.steps[index];
                        report.rows_matched += chunk.rows;
                        report.rows_affected += proven;
                        report.batches += 1;
                        report.captured_bytes += chunk.bytes;
                        (proven != chunk.rows).then(|| format!("{proven} of {} rows came back as they were captured", chunk.rows))
                    }
                    Err(ChunkError::Damaged { problem }) => Some(problem),
                    Err(ChunkError::Archive(error)) => return Err(error.into()),
                };
                if let Some(problem) = problem {
                    damaged_here += 1;
                    attempt
                        .ledger
                        .warn(Some(index), "BACKUP_DAMAGED", format!("chunk {}: {problem}", chunk.file))
                        .await?;
                }
                let planned = attempt.ledger.report.steps[index].rows_planned.max(1);
                let fraction =
                    super::meter::as_f64(attempt.ledger.report.steps[index].rows_affected) / super::meter::as_f64(planned);
                attempt
                    .ledger
                    .progress(index, fraction.min(1.0), Duration::ZERO, None)
                    .await?;
            }
        }
        damaged += damaged_here;
        let proven = attempt.ledger.report.steps[index].rows_affected;
        let planned = attempt.ledger.report.steps[index].rows_planned;
        let (state, message) = if damaged_here > 0 {
            (StepState::Failed, format!("{damaged_here} chunks are damaged"))
        } else if proven != planned {
            damaged += 1;
            (
                StepState::Failed,
                format!("the run captured {planned} rows, the journal names {proven}"),
            )
        } else {
            (StepState::Succeeded, String::new())
        };
        attempt.ledger.end_step(index, state, message).await?;
    }
    if !unnamed.is_empty() {
        attempt
            .ledger
            .warn(
                None,
                "UNNAMED_FILES",
                format!("{} files of the folder belong to no committed batch", unnamed.len()),
            )
            .await?;
    }
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
