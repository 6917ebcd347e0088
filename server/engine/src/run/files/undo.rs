//! The work of an undo on files: each goes back to where it was, unless that name is taken.

use std::sync::Arc;

use tokio::time::Instant;

use super::{NAMED_FILES, begin_anew, blocking, step_of};
use crate::{
    failpoint,
    model::{RunId, StepState},
    port::{FileRoot, PutBack},
    run::attempt::{Attempt, Halt},
};

/// Puts the files of a step back; false where the time limit came first.
pub(in crate::run) async fn undo_step(
    attempt: &mut Attempt,
    index: usize,
    source: RunId,
    root: Arc<dyn FileRoot>,
) -> Result<bool, Halt> {
    begin_anew(attempt, index);
    let by = attempt.run.id;
    // A long manifest takes its time to read.
    let opening = blocking(move || root.trashed(source, step_of(index)));
    let mut trashed = tokio::select! {
        stop = attempt.lease.stopped() => return Err(stop.into()),
        trashed = opening => trashed?,
    };
    let (mut named, mut damaged) = (0, 0_u64);
    loop {
        attempt.boundary()?;
        attempt.look_around().await?;
        if attempt.out_of_time() {
            let message = format!("stopped at the time limit of {} s", attempt.run.options.max_execution_seconds);
            attempt.ledger.end_step(index, StepState::Partial, message).await?;
            return Ok(false);
        }
        let limit = usize::try_from(attempt.pace.rows()).unwrap_or(usize::MAX);
        let began = Instant::now();
        let (back, files, outcomes) = blocking(move || {
            let files = trashed.next(limit)?;
            let outcomes = trashed.restore(&files, by)?;
            Ok((trashed, files, outcomes))
        })
        .await?;
        trashed = back;
        if files.is_empty() {
            break;
        }
        failpoint!("undo-files-restored");
        let before = attempt.ledger.report.steps[index].rows_affected;
        for (file, outcome) in files.iter().zip(outcomes) {
            let report = &mut attempt.ledger.report.steps[index];
            report.rows_matched += 1;
            let (code, reason) = match outcome {
                PutBack::Done => {
                    report.rows_affected += 1;
                    continue;
                }
                PutBack::Conflict(reason) => {
                    report.rows_conflicting += 1;
                    ("UNDO_CONFLICT", reason)
                }
                PutBack::Damaged(reason) => {
                    damaged += 1;
                    ("BACKUP_DAMAGED", reason)
                }
            };
            if named < NAMED_FILES {
                named += 1;
                let message = format!("{}: {reason}", file.file.path);
                attempt.ledger.warn(Some(index), code, message).await?;
            }
        }
        attempt.ledger.report.steps[index].batches += 1;
        let took = began.elapsed();
        let report = &attempt.ledger.report.steps[index];
        attempt.pace.after_batch(report.rows_affected - before, took);
        let fraction = crate::share(report.rows_affected + report.rows_conflicting, report.rows_planned);
        let throttle = attempt.pace.shown();
        attempt.ledger.progress(index, fraction, took, throttle).await?;
        attempt.rest(None).await?;
    }
    let report = &attempt.ledger.report.steps[index];
    let missing = report
        .rows_planned
        .saturating_sub(report.rows_affected + report.rows_conflicting)
        .max(damaged);
    let (state, message) = match (missing, report.rows_conflicting) {
        (0, 0) => (StepState::Succeeded, String::new()),
        (0, files) => (
            StepState::Partial,
            format!("{files} files were left because something else has their names"),
        ),
        (files, _) => (
            StepState::Partial,
            format!("{files} files are not in the trash any more, or changed there"),
        ),
    };
    attempt.ledger.end_step(index, state, message).await?;
    Ok(true)
}
