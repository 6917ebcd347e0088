//! Sizes around a scheduled run: before its first attempt changes anything, and after its last has ended. They are for people, so that
//! whatever keeps them from being taken is a warning, and never the end of a run.
//!
//! What was found is written before the work begins, and never taken again: an attempt after a crash keeps it, because by then rows
//! may be gone. A look that found nothing is repeated as long as nothing was changed.

use std::{collections::BTreeSet, time::Duration};

use super::{
    attempt::{Attempt, Ending, Halt},
    lease::Stop,
};
use crate::{
    failpoint,
    model::{Report, RunKind, RunState, SizeRecord, SizeSnapshot, StepReport, StepState, TableName, TaskRecord},
    port::{RunFilter, StoreError},
};

/// Longest time that a look at sizes may take: nobody waits for locks because of numbers.
const LONGEST: Duration = Duration::from_secs(10);
/// Runs before this one that are looked at for how often an operation found nothing to do.
const RUNS_BACK: u32 = 30;
/// Code of the warning that sizes are missing.
const UNKNOWN: &str = "SIZES_UNKNOWN";

/// Takes the sizes of these tables, or of the largest where it is `None`, and of the whole database; once for all attempts of a run.
pub(super) async fn before(attempt: &mut Attempt, tables: Option<BTreeSet<TableName>>) -> Result<(), Halt> {
    let report = &attempt.ledger.report;
    // An attempt of an earlier version may have worked without a look.
    let is_untouched = is_untouched(report);
    let is_known = report.sizes.as_ref().is_some_and(|sizes| sizes.before.is_some());
    if report.scheduled.is_none() || is_known || !is_untouched {
        return Ok(());
    }
    // Where the target was away when the run began, an attempt that finds it again looks before it changes anything.
    let was_told = report.sizes.is_some();
    let tables: Option<Vec<TableName>> = tables.map(|tables| tables.into_iter().collect());
    let before = match look(attempt, tables.as_deref()).await? {
        Ok(mut snapshot) => {
            snapshot.take_counts(&attempt.plan);
            Some(snapshot)
        }
        Err(why) => {
            if !was_told {
                let message = format!("the sizes before the run are not known: {why}");
                attempt.ledger.warn(None, UNKNOWN, message).await?;
            }
            None
        }
    };
    attempt.ledger.report.sizes = Some(Box::new(SizeRecord {
        before,
        ..SizeRecord::default()
    }));
    attempt.ledger.keep().await?;
    failpoint!("sizes-taken");
    Ok(())
}

/// Whether no attempt has changed anything. A task of maintenance may have begun and found the target away before it came to its first item.
fn is_untouched(report: &Report) -> bool {
    let Some(record) = &report.maintenance else {
        return report.steps.iter().all(|step| step.state == StepState::Pending);
    };
    let at_nothing = |task: &TaskRecord| task.items.is_empty() && task.current.is_none();
    let open = |step: &StepReport| matches!(step.state, StepState::Pending | StepState::Running);
    record.tasks.iter().all(at_nothing) && report.steps.iter().all(open)
}

/// Takes the same sizes again, after an end that is final, and counts how often operations found nothing to do.
pub(super) async fn after(attempt: &mut Attempt, end: &Result<Ending, Halt>) -> Result<(), Halt> {
    let ended = match end {
        Ok(Ending { state, .. }) => state.is_final(),
        Err(Halt::Stop(Stop::Cancelled(_)) | Halt::Fail(_)) => true,
        Err(Halt::Stop(_) | Halt::Target(_) | Halt::Store(_) | Halt::Open(_)) => false,
    };
    let Some(before) = attempt.ledger.report.sizes.as_ref().map(|sizes| sizes.before.clone()) else {
        return Ok(());
    };
    if !ended {
        return Ok(());
    }
    if let Some(before) = before {
        let tables: Vec<TableName> = before.tables.iter().map(|size| TableName::parse(&size.table)).collect();
        match again(attempt, Some(&tables)).await {
            Ok(mut after) => {
                after.take_deleted(&before, &attempt.plan, &attempt.ledger.report);
                if let Some(sizes) = &mut attempt.ledger.report.sizes {
                    sizes.after = Some(after);
                }
            }
            Err(why) => {
                let message = format!("the sizes after the run are not known: {why}");
                attempt.ledger.warn(None, UNKNOWN, message).await?;
            }
        }
    }
    match idle_runs(attempt).await {
        Ok(idle) => {
            if let Some(sizes) = &mut attempt.ledger.report.sizes {
                sizes.idle_runs = idle;
            }
        }
        Err(error) => tracing::warn!(run = %attempt.run.id, %error, "earlier runs of the schedule could not be looked at"),
    }
    Ok(())
}

/// One look. The inner error says why there is no result.
async fn look(attempt: &Attempt, tables: Option<&[TableName]>) -> Result<Result<SizeSnapshot, String>, Halt> {
    tokio::select! {
        stop = attempt.lease.stopped() => Err(stop.into()),
        looked = again(attempt, tables) => Ok(looked),
    }
}

/// One look that nobody interrupts: the run has ended, and whoever cancelled it has waited for less.
async fn again(attempt: &Attempt, tables: Option<&[TableName]>) -> Result<SizeSnapshot, String> {
    match tokio::time::timeout(LONGEST, attempt.target.maintenance().sizes(tables)).await {
        Ok(Ok(snapshot)) => Ok(snapshot),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the target did not answer within {} s", LONGEST.as_secs())),
    }
}

/// Runs of the schedule in a row, this one included, in which operations of this run found nothing to do.
async fn idle_runs(attempt: &Attempt) -> Result<std::collections::BTreeMap<String, u32>, StoreError> {
    let mut idle = std::collections::BTreeMap::new();
    let report = &attempt.ledger.report;
    let Some(slot) = report.scheduled.as_ref().filter(|_| attempt.run.kind == RunKind::Cleanup) else {
        return Ok(idle);
    };
    let found = |report: &crate::model::Report, operation: &str| {
        let steps = report.steps.iter().filter(|step| step.operation == operation);
        steps.map(|step| step.rows_matched.max(step.rows_affected)).sum::<u64>()
    };
    for operation in &attempt.run.operations {
        if found(report, operation) > 0 {
            continue;
        }
        let filter = RunFilter {
            target: Some(attempt.run.target.clone()),
            states: vec![RunState::Succeeded, RunState::PartiallySucceeded],
            kinds: vec![RunKind::Cleanup],
            operation: Some(operation.clone()),
            attempted: true,
            ..RunFilter::default()
        };
        let earlier = attempt.context.store.runs(&filter, None, RUNS_BACK).await?;
        let of_schedule = earlier.iter().map(|run| &run.report).filter(|earlier| {
            earlier
                .scheduled
                .as_ref()
                .is_some_and(|other| other.schedule == slot.schedule)
        });
        let before = of_schedule.take_while(|earlier| found(earlier, operation) == 0).count();
        idle.insert(operation.clone(), 1 + u32::try_from(before).unwrap_or(u32::MAX - 1));
    }
    Ok(idle)
}
