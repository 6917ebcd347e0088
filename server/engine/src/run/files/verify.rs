//! The work of a verification on files: the trash holds exactly what the manifest names, each file as it was moved.

use std::{sync::Arc, time::Duration};

use super::{NAMED_FILES, begin_anew, blocking, step_of};
use crate::{
    model::{RunId, StepState},
    port::FileRoot,
    run::attempt::{Attempt, Halt},
};

/// What is wrong with the trash of a step, in number of files; `None` where the time limit came first.
pub(in crate::run) async fn verify_step(
    attempt: &mut Attempt,
    index: usize,
    source: RunId,
    root: Arc<dyn FileRoot>,
) -> Result<Option<u64>, Halt> {
    begin_anew(attempt, index);
    let limit = usize::try_from(attempt.run.options.batch_rows).unwrap_or(usize::MAX);
    let mut trashed = blocking(move || root.trashed(source, step_of(index))).await?;
    let (mut damaged, mut named) = (0_u64, 0);
    loop {
        attempt.boundary()?;
        if attempt.out_of_time() {
            let message = format!("stopped at the time limit of {} s", attempt.run.options.max_execution_seconds);
            attempt.ledger.end_step(index, StepState::Partial, message).await?;
            return Ok(None);
        }
        let (back, files, problems) = blocking(move || {
            let files = trashed.next(limit)?;
            let problems = trashed.check(&files)?;
            Ok((trashed, files, problems))
        })
        .await?;
        trashed = back;
        if files.is_empty() {
            break;
        }
        for (file, problem) in files.iter().zip(problems) {
            let report = &mut attempt.ledger.report.steps[index];
            report.rows_matched += 1;
            match problem {
                None => {
                    report.rows_affected += 1;
                    report.captured_bytes += file.file.size;
                }
                Some(problem) => {
                    damaged += 1;
                    if named < NAMED_FILES {
                        named += 1;
                        let message = format!("{}: {problem}", file.file.path);
                        attempt.ledger.warn(Some(index), "BACKUP_DAMAGED", message).await?;
                    }
                }
            }
        }
        attempt.ledger.report.steps[index].batches += 1;
        let report = &attempt.ledger.report.steps[index];
        let fraction = crate::share(report.rows_affected, report.rows_planned);
        attempt.ledger.progress(index, fraction, Duration::ZERO, None).await?;
    }
    let unnamed = blocking(move || trashed.unnamed()).await?;
    if unnamed > 0 {
        let message = format!("{unnamed} files of the trash are in no manifest");
        attempt.ledger.warn(Some(index), "UNNAMED_FILES", message).await?;
    }
    let (proven, planned) = {
        let report = &attempt.ledger.report.steps[index];
        (report.rows_affected, report.rows_planned)
    };
    let (state, message) = if damaged > 0 {
        (
            StepState::Failed,
            format!("{damaged} files are missing from the trash, or changed there"),
        )
    } else if proven != planned {
        damaged = planned.abs_diff(proven);
        (
            StepState::Failed,
            format!("the run moved {planned} files, the manifest names {proven}"),
        )
    } else if unnamed > 0 {
        damaged = unnamed;
        (StepState::Failed, format!("{unnamed} files of the trash are in no manifest"))
    } else {
        (StepState::Succeeded, String::new())
    };
    attempt.ledger.end_step(index, state, message).await?;
    Ok(Some(damaged))
}
