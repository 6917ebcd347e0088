//! The work of an undo: chunk by chunk, each in a transaction with its own journal row, so that it can be interrupted anywhere.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    attempt::{Attempt, Ending, Halt},
    files,
};
use crate::{
    backup::{ChunkError, Section, read_chunk},
    failpoint,
    model::{JournalEntry, RunState, StepState, Warning},
    port::{Captured, Restored, SourceMark, TableLayout, TargetError, TargetErrorClass},
};

/// How the reason of an undo begins that its time limit has ended.
pub(crate) const OUT_OF_TIME: &str = "stopped at the time limit";
/// Tries of one chunk before the undo fails.
const MAX_TRIES: u32 = 8;
/// First wait before a chunk is tried again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Conflicts that are named one by one.
const NAMED_CONFLICTS: usize = 20;
/// Journal entries read at a time.
const PAGE_ENTRIES: u32 = 256;

pub(super) async fn work(attempt: &mut Attempt) -> Result<Ending, Halt> {
    let Some(source) = attempt.run.source else {
        return Err(Halt::Fail("the undo names no run".to_owned()));
    };
    attempt.take_target().await?;
    let totals = attempt.target.totals(attempt.run.id).await?;
    for step in &totals {
        attempt.ledger.take_totals(step);
    }
    failpoint!("undo-claimed");
    attempt.rest(None).await?;
    // Later steps deleted last, so that their rows are the first to come back.
    for index in (0..attempt.ledger.report.steps.len()).rev() {
        let step = u32::try_from(index).unwrap_or(u32::MAX);
        if matches!(
            attempt.ledger.report.steps[index].state,
            StepState::Succeeded | StepState::Partial
        ) {
            continue;
        }
        attempt.boundary()?;
        attempt.ledger.begin_step(index).await?;
        if let Some(root) = files::root_of(attempt, index)? {
            if !files::undo_step(attempt, index, source, root).await? {
                return Ok(Ending {
                    state: RunState::PartiallySucceeded,
                    reason: format!("stopped at the time limit of {} s", attempt.run.options.max_execution_seconds),
                    mark: None,
                });
            }
            continue;
        }
        // What went last comes back first, batches as well as steps: a row's parent in the same table was deleted after it.
        let done = totals.iter().find(|totals| totals.step == step);
        let mut below = done.map_or(u64::MAX, |totals| totals.first_batch);
        let mut damaged_here = 0_u64;
        loop {
            let entries = attempt.target.journal_back(source, step, below, PAGE_ENTRIES).await?;
            let Some(last) = entries.last() else { break };
            below = last.batch;
            for entry in &entries {
                attempt.boundary()?;
                if attempt.out_of_time() {
                    let message = format!("{OUT_OF_TIME} of {} s", attempt.run.options.max_execution_seconds);
                    attempt.ledger.end_step(index, StepState::Partial, message.clone()).await?;
                    return Ok(Ending {
                        state: RunState::PartiallySucceeded,
                        reason: message,
                        mark: None,
                    });
                }
                let began = Instant::now();
                if !put_back(attempt, index, entry).await? {
                    damaged_here += 1;
                }
                let took = began.elapsed();
                attempt
                    .pace
                    .after_batch(entry.chunk.as_ref().map_or(0, |chunk| chunk.rows), took);
                let affected =
                    attempt.ledger.report.steps[index].rows_affected + attempt.ledger.report.steps[index].rows_conflicting;
                let planned = attempt.ledger.report.steps[index].rows_planned.max(1);
                let fraction = super::meter::as_f64(affected) / super::meter::as_f64(planned);
                let throttle = attempt.pace.shown();
                attempt.ledger.progress(index, fraction.min(1.0), took, throttle).await?;
                attempt.rest(None).await?;
            }
        }
        let conflicting = attempt.ledger.report.steps[index].rows_conflicting;
        let (state, message) = match (damaged_here, conflicting) {
            (0, 0) => (StepState::Succeeded, String::new()),
            (0, rows) => (
                StepState::Partial,
                format!("{rows} rows were left because the table now holds something in their place"),
            ),
            (chunks, _) => (StepState::Partial, format!("{chunks} chunks are damaged and were left out")),
        };
        attempt.ledger.end_step(index, state, message).await?;
    }
    let restored = attempt.ledger.report.total(|step| step.rows_affected);
    let conflicting = attempt.ledger.report.total(|step| step.rows_conflicting);
    let planned = attempt.ledger.report.total(|step| step.rows_planned);
    // By the counts, not by what this attempt saw: an earlier one may have met the damage.
    let missing = planned.saturating_sub(restored + conflicting);
    Ok(if missing > 0 {
        Ending {
            state: RunState::PartiallySucceeded,
            reason: format!("{restored} rows put back; {missing} are in damaged chunks"),
            mark: Some(SourceMark::Damaged),
        }
    } else if conflicting > 0 {
        let reason = format!("{restored} rows put back; {conflicting} left because the table now holds something in their place");
        Ending {
            state: RunState::PartiallySucceeded,
            reason,
            // Whoever makes room for those rows may undo again.
            mark: None,
        }
    } else {
        Ending {
            state: RunState::Succeeded,
            reason: format!("{restored} rows put back"),
            mark: Some(SourceMark::Undone),
        }
    })
}

/// Puts one chunk back; false where it is damaged and was left out.
async fn put_back(attempt: &mut Attempt, index: usize, entry: &JournalEntry) -> Result<bool, Halt> {
    let Some(chunk) = entry.chunk.clone() else { return Ok(true) };
    let mut wait = FIRST_RETRY;
    for attempt_number in 1.. {
        let (archive, reference) = (Arc::clone(&attempt.context.archive), chunk.clone());
        let (run, step, batch) = (entry.run, entry.step, entry.batch);
        let read = tokio::task::spawn_blocking(move || read_chunk(archive.as_ref(), run, step, batch, &reference)).await;
        let sections = match read.map_err(|error| Halt::Fail(error.to_string()))? {
            Ok(read) => read,
            Err(ChunkError::Damaged { problem }) => {
                attempt
                    .ledger
                    .warn(
                        Some(index),
                        "BACKUP_DAMAGED",
                        format!("chunk {}: {problem}; its {} rows were left out", chunk.file, chunk.rows),
                    )
                    .await?;
                return Ok(false);
            }
            Err(ChunkError::Archive(error)) => return Err(error.into()),
        };
        let error = match restore_in_transaction(attempt, index, entry, sections).await {
            Ok(()) => return Ok(true),
            Err(Halt::Target(error)) if error.is_retryable() && attempt_number < MAX_TRIES => error,
            Err(halt) => return Err(halt),
        };
        attempt
            .ledger
            .warn(
                Some(index),
                "BATCH_RETRIED",
                format!("chunk {} is tried again in {} ms: {error}", chunk.file, wait.as_millis()),
            )
            .await?;
        attempt.lease.rest(wait).await?;
        wait *= 2;
    }
    Ok(true)
}

/// The sections of a chunk from the last to the first; those that are inserted into one table together, because an archived row
/// may hang on one that only went along, and that one on another archived row.
fn together(sections: Vec<Section>) -> Vec<Vec<Section>> {
    let inserted = |layout: &TableLayout| !matches!(layout.captured, Captured::Changed { .. });
    let mut together: Vec<Vec<Section>> = Vec::new();
    for section in sections.into_iter().rev() {
        let fits = |last: &Section| {
            let (last, layout) = (&last.layout, &section.layout);
            inserted(last) && inserted(layout) && last.table == layout.table && last.columns == layout.columns
        };
        match together.last_mut() {
            Some(parts) if parts.last().is_some_and(fits) => parts.push(section),
            _ => together.push(vec![section]),
        }
    }
    together
}

async fn restore_in_transaction(
    attempt: &mut Attempt,
    index: usize,
    source: &JournalEntry,
    sections: Vec<Section>,
) -> Result<(), Halt> {
    let expected = sections.iter().map(|section| section.rows.len()).sum::<usize>() as u64;
    let _turn = attempt.pace.turn().await;
    let mut transaction = attempt.target.begin(attempt.claim, &[]).await?;
    let mut restored = Restored::default();
    // What went last comes back first: a parent before the rows that name it.
    for parts in together(sections) {
        let part = transaction.restore_together(parts).await?;
        restored.rows += part.rows;
        restored.conflicting += part.conflicting;
        restored.conflicts.extend(part.conflicts);
        restored.archive_gone = restored.archive_gone.or(part.archive_gone);
    }
    if restored.rows + restored.conflicting != expected {
        transaction.rollback().await;
        let message = format!(
            "{expected} rows were captured, {} put back and {} left; the chunk was taken back",
            restored.rows, restored.conflicting
        );
        return Err(TargetError::new(TargetErrorClass::Refused, message).into());
    }
    failpoint!("undo-restored");
    let entry = JournalEntry {
        run: attempt.run.id,
        fence: attempt.claim.fence,
        pass: 1,
        cursor: String::new(),
        examined: 0,
        matched: expected,
        affected: restored.rows,
        conflicting: restored.conflicting,
        along: Vec::new(),
        chunk: None,
        ..source.clone()
    };
    transaction.record(&entry).await?;
    transaction.commit().await?;
    failpoint!("undo-committed");
    let report = &mut attempt.ledger.report.steps[index];
    report.rows_matched += entry.matched;
    report.rows_affected += entry.affected;
    report.rows_conflicting += entry.conflicting;
    report.batches += 1;
    report.passes = 1;
    let warnings = &attempt.ledger.report.warnings;
    let named = warnings.iter().filter(|warning| warning.code == "UNDO_CONFLICT").count();
    let step = u32::try_from(index).ok();
    let told = |warning: &Warning| warning.code == "ARCHIVE_GONE" && warning.step == step;
    if let Some(archive) = restored.archive_gone.filter(|_| !warnings.iter().any(told)) {
        let message = format!(
            "archive table {archive} is gone, or has other columns by now: the rows are back from the backup, and copies of \
             them were not removed from there"
        );
        attempt.ledger.warn(Some(index), "ARCHIVE_GONE", message).await?;
    }
    for conflict in restored.conflicts.iter().take(NAMED_CONFLICTS.saturating_sub(named)) {
        let message = format!("{} {}: {}", conflict.table, conflict.key, conflict.reason);
        attempt.ledger.warn(Some(index), "UNDO_CONFLICT", message).await?;
    }
    Ok(())
}
