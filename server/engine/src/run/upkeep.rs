//! The work of built-in maintenance: task by task, each a step of its own, within the run's time. A task that fails does not stop those
//! after it.
//!
//! ```text
//! settle (what a dead attempt was at) -> per step: begin -> per item: named in the report, done, noted in the report -> end
//! ```
//!
//! Items are tables, indexes and backups. An item is named before it begins and noted when it is over, so that an attempt after a
//! crash knows what may lie half done, removes that, and goes on with what is not noted. A step that is over is not begun again.

mod backups;
mod indexes;
mod tables;

use super::{
    attempt::{Attempt, Ending, Halt},
    cleanup::is_over,
    load, measure,
};
use crate::{
    failpoint,
    model::{MaintenanceItem, MaintenanceTask, RunState, StepState, TaskRecord},
    port::{MaintenanceError, TargetError, TargetErrorClass},
};

/// Names that a message lists before it only counts.
const NAMED: usize = 10;

/// How a task ended.
enum TaskEnd {
    /// Everything that it found to do is done.
    Done(String),
    /// Some of it is not; warnings say why.
    Partial(String),
    /// All of it failed, or it found what must not be.
    Failed(String),
    /// It does not apply here, or has nothing to work on.
    Skipped(String),
    /// The run's time was over.
    OutOfTime,
}

pub(super) async fn work(attempt: &mut Attempt) -> Result<Ending, Halt> {
    let steps = attempt.ledger.report.steps.len();
    let Some(record) = attempt
        .ledger
        .report
        .maintenance
        .clone()
        .filter(|record| record.tasks.len() == steps)
    else {
        return Err(Halt::Fail("the run does not say what to maintain".to_owned()));
    };
    measure::before(attempt, None).await?;
    // Before any wish to stop: what a dead attempt left is removed by the one that ends the run, too.
    for index in 0..steps {
        settle(attempt, index).await?;
    }
    let mut out_of_time = false;
    for (index, TaskRecord { task, .. }) in record.tasks.into_iter().enumerate() {
        if is_over(attempt, index) {
            continue;
        }
        attempt.boundary()?;
        if attempt.out_of_time() {
            out_of_time = true;
            break;
        }
        if attempt.run.options.stop_on_failure
            && let Some(why) = attempt.ledger.report.stopped_by_failure(index)
        {
            attempt.ledger.skip_step(index, why).await?;
            continue;
        }
        attempt.ledger.begin_step(index).await?;
        let result = match task {
            MaintenanceTask::VacuumAnalyze => tables::vacuum(attempt, index).await,
            MaintenanceTask::ReindexBloated => indexes::rebuild(attempt, index).await,
            MaintenanceTask::VerifyBackups => backups::verify(attempt, index).await,
            MaintenanceTask::PruneBackups { keep_days, keep_count } => {
                backups::prune(attempt, index, keep_days, keep_count).await
            }
            MaintenanceTask::RestoreDrill => backups::drill(attempt, index).await,
        };
        let (state, message) = match result {
            Ok(TaskEnd::Done(message)) => (StepState::Succeeded, message),
            Ok(TaskEnd::Partial(message)) => (StepState::Partial, message),
            Ok(TaskEnd::Failed(message)) => (StepState::Failed, message),
            Ok(TaskEnd::Skipped(message)) => (StepState::Skipped, message),
            Ok(TaskEnd::OutOfTime) => {
                out_of_time = true;
                let limit = attempt.run.options.max_execution_seconds;
                (StepState::Partial, format!("stopped at the time limit of {limit} s"))
            }
            Err(Halt::Fail(message)) => (StepState::Failed, message),
            Err(Halt::Target(error)) if is_of_the_task(&error) => (StepState::Failed, error.to_string()),
            Err(halt) => {
                attempt.ledger.pause_step(index);
                return Err(halt);
            }
        };
        attempt.ledger.end_step(index, state, message).await?;
        failpoint!("maintain-step-done");
        if out_of_time {
            break;
        }
    }
    Ok(verdict(attempt, out_of_time))
}

/// Removes what a dead attempt may have left of the item that it was at.
async fn settle(attempt: &mut Attempt, index: usize) -> Result<(), Halt> {
    let Some(current) = task(attempt, index).and_then(|task| task.current.clone()) else {
        return Ok(());
    };
    match task(attempt, index).map(|task| task.task.clone()) {
        Some(MaintenanceTask::ReindexBloated) => indexes::settle(attempt, index, &current).await?,
        Some(MaintenanceTask::VerifyBackups | MaintenanceTask::RestoreDrill) => {
            let place = load::proof_place(attempt);
            match attempt.target.maintenance().drop_scratch(attempt.claim, &place).await {
                Ok(()) => {}
                Err(error) if is_lost(&error) => return Err(error.into()),
                Err(error) => {
                    let message = format!("{place} may be left behind: {error}");
                    attempt.ledger.warn(Some(index), "SCRATCH_LEFT", message).await?;
                }
            }
        }
        Some(MaintenanceTask::PruneBackups { .. }) => backups::settle_prune(attempt, index, &current).await?,
        // A vacuum leaves nothing.
        Some(MaintenanceTask::VacuumAnalyze) | None => {}
    }
    forget_current(attempt, index);
    Ok(attempt.ledger.keep().await?)
}

fn task(attempt: &Attempt, index: usize) -> Option<&TaskRecord> {
    attempt.ledger.report.maintenance.as_ref()?.tasks.get(index)
}

fn task_mut(attempt: &mut Attempt, index: usize) -> Option<&mut TaskRecord> {
    attempt.ledger.report.maintenance.as_mut()?.tasks.get_mut(index)
}

/// Whether an attempt has dealt with an item already.
fn is_noted(attempt: &Attempt, index: usize, name: &str) -> bool {
    task(attempt, index).is_some_and(|task| task.items.iter().any(|item| item.name == name))
}

/// Names an item that is about to begin.
async fn begin_item(attempt: &mut Attempt, index: usize, name: &str) -> Result<(), Halt> {
    if let Some(task) = task_mut(attempt, index) {
        task.current = Some(name.to_owned());
    }
    attempt.ledger.keep().await?;
    failpoint!("maintain-item-begun");
    Ok(())
}

/// Takes the name of an item back of which nothing is left.
fn forget_current(attempt: &mut Attempt, index: usize) {
    if let Some(task) = task_mut(attempt, index) {
        task.current = None;
    }
}

/// Notes an item that is over, without a word to the store.
fn note(attempt: &mut Attempt, index: usize, item: MaintenanceItem) {
    if let Some(task) = task_mut(attempt, index) {
        task.items.push(item);
        task.current = None;
    }
}

/// Notes an item that is over.
async fn end_item(attempt: &mut Attempt, index: usize, item: MaintenanceItem) -> Result<(), Halt> {
    note(attempt, index, item);
    attempt.ledger.keep().await?;
    failpoint!("maintain-item-done");
    Ok(())
}

/// Notes an item that failed, with a warning that says why.
async fn fail_item(attempt: &mut Attempt, index: usize, name: &str, code: &str, why: String) -> Result<(), Halt> {
    attempt.ledger.warn(Some(index), code, why).await?;
    let item = MaintenanceItem {
        name: name.to_owned(),
        ..MaintenanceItem::default()
    };
    end_item(attempt, index, item).await
}

/// How a task ended whose items are noted: by how many of them failed.
fn end_of(attempt: &Attempt, index: usize, done: String) -> TaskEnd {
    let items = task(attempt, index).map_or(&[][..], |task| &task.items);
    let failed: Vec<&str> = items
        .iter()
        .filter(|item| !item.done)
        .map(|item| item.name.as_str())
        .collect();
    if failed.is_empty() {
        return TaskEnd::Done(done);
    }
    let message = format!("{done}; {} failed: {}", failed.len(), listed(&failed));
    if failed.len() == items.len() {
        TaskEnd::Failed(message)
    } else {
        TaskEnd::Partial(message)
    }
}

/// Names, and how many more there are.
fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let shown = names.iter().take(NAMED).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// "1 table", "2 tables".
fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Whether a failure concerns one task or item: without its connection, or its right to the run, nothing can go on.
fn is_of_the_task(error: &TargetError) -> bool {
    !matches!(error.class, TargetErrorClass::Lost | TargetErrorClass::Fenced)
}

fn is_lost(error: &MaintenanceError) -> bool {
    matches!(error, MaintenanceError::Target(error) if !is_of_the_task(error))
}

/// What an adapter says of a thing that its database has no use for.
fn unsupported(error: &MaintenanceError) -> Option<String> {
    match error {
        MaintenanceError::Target(error) if error.class == TargetErrorClass::Unsupported => Some(error.to_string()),
        _ => None,
    }
}

fn verdict(attempt: &Attempt, out_of_time: bool) -> Ending {
    let report = &attempt.ledger.report;
    let in_state = |wanted: StepState| report.steps.iter().filter(|step| step.state == wanted).count();
    let (done, skipped) = (in_state(StepState::Succeeded), in_state(StepState::Skipped));
    let told = match skipped {
        0 => format!("{done} of {}", counted(report.steps.len(), "task done", "tasks done")),
        _ => format!(
            "{done} of {}, {skipped} skipped",
            counted(report.steps.len(), "task done", "tasks done")
        ),
    };
    let bad = report
        .steps
        .iter()
        .find(|step| matches!(step.state, StepState::Failed | StepState::Partial));
    let (state, reason) = if out_of_time {
        let limit = attempt.run.options.max_execution_seconds;
        (
            RunState::PartiallySucceeded,
            format!("stopped at the time limit of {limit} s; {told}"),
        )
    } else if let Some(bad) = bad {
        let state = if report.nothing_succeeded() {
            RunState::Failed
        } else {
            RunState::PartiallySucceeded
        };
        (state, format!("{told}; {}: {}", bad.operation, bad.message))
    } else {
        (RunState::Succeeded, told)
    };
    Ending {
        state,
        reason,
        mark: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_counted() {
        let names: Vec<String> = (1..=12).map(|number| format!("t{number}")).collect();
        assert_eq!(listed(&names[..2]), "t1, t2");
        assert_eq!(listed(&names), "t1, t2, t3, t4, t5, t6, t7, t8, t9, t10 and 2 more");
        assert_eq!(counted(1, "table", "tables"), "1 table");
        assert_eq!(counted(0, "table", "tables"), "0 tables");
    }
}
