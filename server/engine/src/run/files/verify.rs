//! The work of a verification on files: the trash holds exactly what the manifest names, each file as it was moved.

use std::{sync::Arc, time::Duration};

use super::{NAMED_FILES, blocking};
use crate::{
    port::FileRoot,
    run::{
        attempt::{Attempt, Halt},
        verify::{Captures, StepProof},
    },
};

/// Looks at the trash of a step; `None` where the time limit came first.
pub(in crate::run) async fn verify_step(
    attempt: &mut Attempt,
    index: usize,
    of: &Captures,
    root: Arc<dyn FileRoot>,
) -> Result<Option<StepProof>, Halt> {
    let limit = usize::try_from(attempt.run.options.batch_rows).unwrap_or(usize::MAX);
    let (source, step) = (of.source, of.step);
    let mut trashed = blocking(move || root.trashed(source, step)).await?;
    let (mut proven, mut damaged, mut named) = (0_u64, 0_u64, 0);
    loop {
        attempt.boundary()?;
        if attempt.out_of_time() {
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
                    proven += 1;
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
        let fraction = crate::share(proven, of.planned);
        attempt.ledger.progress(index, fraction, Duration::ZERO, None).await?;
    }
    let unnamed = blocking(move || trashed.unnamed()).await?;
    if unnamed > 0 {
        let message = format!("{unnamed} files of the trash are in no manifest");
        attempt.ledger.warn(Some(index), "UNNAMED_FILES", message).await?;
    }
    let problem = if damaged > 0 {
        format!("{damaged} files are missing from the trash, or changed there")
    } else if proven != of.planned {
        damaged = of.planned.abs_diff(proven);
        format!("the run moved {} files, the manifest names {proven}", of.planned)
    } else if unnamed > 0 {
        damaged = unnamed;
        format!("{unnamed} files of the trash are in no manifest")
    } else {
        String::new()
    };
    Ok(Some(StepProof {
        proven,
        damaged,
        problem,
    }))
}
