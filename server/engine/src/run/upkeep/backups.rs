//! Tasks on backups: `verify_backups`, `prune_backups` and `restore_drill`. They prove as a verification does, and prune as the call
//! does; what they find of a backup is kept with it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{TaskEnd, begin_item, counted, end_of, fail_item, forget_current, is_noted, is_of_the_task, listed, note, task};
use crate::{
    engine::{Engine, backups::PruneRule},
    failpoint,
    model::{MaintenanceItem, Plan, Run, RunId, Verification},
    port::{SourceMark, StoreError},
    run::{
        attempt::{Attempt, Halt},
        load,
        verify::{self, Captures},
    },
};

/// A proof is renewed after this time.
const PROVEN_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Backups that one run proves. The others are for the next run.
const MOST_PROVEN: usize = 10;

/// What the proof of a backup found.
struct Proof {
    rows: u64,
    bytes: u64,
    /// What is wrong with it; `None` where nothing is.
    problem: Option<String>,
}

/// Proves backups that are unproven, or were proven long ago, newest first.
pub(super) async fn verify(attempt: &mut Attempt, index: usize) -> Result<TaskEnd, Halt> {
    let now = Timestamp::now();
    let backups = backups(attempt).await?;
    let noted = task(attempt, index).map_or(0, |task| task.items.len());
    let open: Vec<Run> = backups
        .into_iter()
        .filter(|backup| is_due(backup.verification, now))
        .collect();
    let open: Vec<Run> = open
        .into_iter()
        .filter(|backup| !is_noted(attempt, index, &backup.id.to_string()))
        .collect();
    let (turn, later) = (MOST_PROVEN.saturating_sub(noted).min(open.len()), open.len());
    for backup in &open[..turn] {
        if !one(attempt, index, backup).await? {
            return Ok(TaskEnd::OutOfTime);
        }
    }
    let items = task(attempt, index).map_or(&[][..], |task| &task.items);
    let proven = items.iter().filter(|item| item.done).count();
    let mut told = if items.is_empty() {
        "every backup was proven within the last 30 days".to_owned()
    } else {
        counted(proven, "backup proven", "backups proven")
    };
    if later > turn {
        told.push_str(&format!(
            "; {} for the next run",
            counted(later - turn, "is left", "are left")
        ));
    }
    Ok(end_of(attempt, index, told))
}

/// Restores the newest backup into a place that vanishes, and compares.
pub(super) async fn drill(attempt: &mut Attempt, index: usize) -> Result<TaskEnd, Halt> {
    let Some(newest) = backups(attempt).await?.into_iter().next() else {
        let message = "there is no backup that could be restored".to_owned();
        attempt.ledger.warn(Some(index), "NO_BACKUP", message.clone()).await?;
        return Ok(TaskEnd::Skipped(message));
    };
    let began = Instant::now();
    if !is_noted(attempt, index, &newest.id.to_string()) && !one(attempt, index, &newest).await? {
        return Ok(TaskEnd::OutOfTime);
    }
    let step = &attempt.ledger.report.steps[index];
    let what = if newest.whole_backup().is_some() {
        "counts and checksums are"
    } else {
        "rows and checksums are"
    };
    let told = format!(
        "backup {} of {} restored and removed again in {:.1} s: {} rows, {} bytes; {what} those that were saved",
        newest.id,
        newest.created_at,
        began.elapsed().as_secs_f64(),
        step.rows_affected,
        step.captured_bytes
    );
    let failed = task(attempt, index).is_some_and(|task| task.items.iter().any(|item| !item.done));
    Ok(if failed {
        TaskEnd::Failed(format!(
            "backup {} of {} could not be restored as it was saved",
            newest.id, newest.created_at
        ))
    } else {
        TaskEnd::Done(told)
    })
}

/// Removes backups by age and number.
pub(super) async fn prune(
    attempt: &mut Attempt,
    index: usize,
    keep_days: Option<u32>,
    keep_count: Option<u32>,
) -> Result<TaskEnd, Halt> {
    let rule = PruneRule {
        keep_last: keep_count,
        older_than: keep_days.map(|days| Duration::from_secs(u64::from(days) * 86_400)),
        dry_run: false,
    };
    attempt.boundary()?;
    let engine = Engine::of(std::sync::Arc::clone(&attempt.context));
    let target = attempt.run.target.clone();
    let outcomes = tokio::select! {
        // Cut short anywhere, the next prune goes on with it.
        stop = attempt.lease.stopped() => return Err(stop.into()),
        outcomes = engine.prune_backups(&target, rule) => outcomes,
    };
    let outcomes = outcomes.map_err(|error| match error {
        crate::EngineError::Store(error) => Halt::Store(error),
        crate::EngineError::Target { source, .. } => Halt::Target(source),
        other => Halt::Fail(other.to_string()),
    })?;
    let (gone, kept): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(|outcome| outcome.pruned);
    for outcome in &gone {
        let item = MaintenanceItem {
            name: outcome.backup.run.to_string(),
            done: true,
            bytes_before: outcome.freed_bytes,
            ..MaintenanceItem::default()
        };
        note(attempt, index, item);
    }
    let freed: u64 = gone.iter().map(|outcome| outcome.freed_bytes).sum();
    let names: Vec<String> = gone.iter().map(|outcome| outcome.backup.run.to_string()).collect();
    let mut told = format!(
        "{}, {freed} bytes freed; {} kept",
        counted(gone.len(), "backup removed", "backups removed"),
        kept.len()
    );
    if !names.is_empty() {
        told.push_str(&format!(": {}", listed(&names)));
    }
    Ok(TaskEnd::Done(told))
}

/// The target's backups that can be restored, newest first.
async fn backups(attempt: &Attempt) -> Result<Vec<Run>, Halt> {
    let engine = Engine::of(std::sync::Arc::clone(&attempt.context));
    let sources = engine.backup_runs(&attempt.run.target).await?;
    let usable = |run: &Run| {
        let holds = run.whole_backup().is_some() || run.report.total(|step| step.rows_captured) > 0;
        run.pruned.is_none() && run.state.is_final() && holds
    };
    Ok(sources.into_iter().filter(usable).collect())
}

/// What is known to be damaged is not proven again: nothing mends it.
fn is_due(verification: Verification, now: Timestamp) -> bool {
    match verification {
        Verification::Unverified => true,
        Verification::Verified(at) => now.duration_since(at) > PROVEN_FOR,
        Verification::Damaged(_) => false,
    }
}

/// Proves one backup and keeps what was found of it; false where the time limit came first.
async fn one(attempt: &mut Attempt, index: usize, backup: &Run) -> Result<bool, Halt> {
    attempt.boundary()?;
    if attempt.out_of_time() {
        return Ok(false);
    }
    let name = backup.id.to_string();
    recount(attempt, index);
    begin_item(attempt, index, &name).await?;
    let proof = match prove(attempt, index, backup).await {
        Ok(Some(proof)) => proof,
        Ok(None) => {
            forget_current(attempt, index);
            return Ok(false);
        }
        Err(Halt::Fail(why)) => return unproven(attempt, index, backup.id, why).await,
        Err(Halt::Target(error)) if is_of_the_task(&error) => {
            return unproven(attempt, index, backup.id, error.to_string()).await;
        }
        Err(halt) => return Err(halt),
    };
    // Its files may have gone while they were read: then what was found says nothing.
    if was_pruned(attempt, backup.id).await? {
        forget_current(attempt, index);
        return Ok(true);
    }
    let item = MaintenanceItem {
        name,
        done: proof.problem.is_none(),
        bytes_before: proof.bytes,
        bytes_after: proof.bytes,
        rows: proof.rows,
    };
    note(attempt, index, item);
    recount(attempt, index);
    let mark = match proof.problem {
        None => SourceMark::Verified,
        Some(problem) => {
            let message = format!("backup {} of {}: {problem}", backup.id, backup.created_at);
            attempt.ledger.warn(Some(index), "BACKUP_DAMAGED", message).await?;
            SourceMark::Damaged
        }
    };
    attempt.ledger.mark_backup(backup.id, mark).await?;
    tracing::info!(run = %attempt.run.id, backup = %backup.id, rows = proof.rows, ?mark, "backup proven");
    failpoint!("maintain-item-done");
    Ok(true)
}

/// Counts of the step from what is noted: a proof that was cut short counts for nothing.
fn recount(attempt: &mut Attempt, index: usize) {
    let items = task(attempt, index).map_or(&[][..], |task| &task.items);
    let (rows, bytes) = items
        .iter()
        .fold((0, 0), |(rows, bytes), item| (rows + item.rows, bytes + item.bytes_before));
    let step = &mut attempt.ledger.report.steps[index];
    (step.rows_matched, step.rows_affected, step.captured_bytes) = (rows, rows, bytes);
}

/// Notes a backup of which nothing was found out.
async fn unproven(attempt: &mut Attempt, index: usize, backup: RunId, why: String) -> Result<bool, Halt> {
    if was_pruned(attempt, backup).await? {
        forget_current(attempt, index);
        return Ok(true);
    }
    let message = format!("backup {backup} was not proven: {why}");
    fail_item(attempt, index, &backup.to_string(), "VERIFY_FAILED", message).await?;
    Ok(true)
}

async fn was_pruned(attempt: &Attempt, backup: RunId) -> Result<bool, StoreError> {
    let now = attempt.context.store.run(backup).await?;
    Ok(now.is_none_or(|run| run.pruned.is_some()))
}

/// `None` where the time limit came first.
async fn prove(attempt: &mut Attempt, index: usize, backup: &Run) -> Result<Option<Proof>, Halt> {
    if let Some(record) = backup.whole_backup() {
        let limit = attempt.time_left();
        let Some(proven) = load::prove_whole(attempt, backup.id, record, Some(limit)).await? else {
            return Ok(None);
        };
        let (rows, problem) = match proven {
            Ok(loaded) => (loaded.tables.iter().map(|table| table.rows).sum(), None),
            Err(problem) => (0, Some(problem)),
        };
        let bytes = record.files.iter().map(|file| file.bytes).sum();
        return Ok(Some(Proof { rows, bytes, problem }));
    }
    captured(attempt, index, backup).await
}

/// Proves captured rows, and files in the trash, step by step of the run that captured them.
async fn captured(attempt: &mut Attempt, index: usize, backup: &Run) -> Result<Option<Proof>, Halt> {
    let plan = attempt.context.store.plan(backup.plan).await?;
    let mut unnamed = verify::listed(attempt, backup.id).await?;
    let mut scratch = attempt.target.scratch().await?;
    let (mut rows, mut problems) = (0, Vec::new());
    for (position, step) in backup.report.steps.iter().enumerate() {
        let captures = Captures {
            source: backup.id,
            step: u32::try_from(position).unwrap_or(u32::MAX),
            planned: step.rows_captured,
            root: root_of(attempt, plan.as_ref(), position)?,
        };
        let Some(proof) = verify::prove_step(attempt, index, &captures, scratch.as_mut(), &mut unnamed).await? else {
            return Ok(None);
        };
        rows += proof.proven;
        if proof.damaged > 0 {
            problems.push(format!("step {position}: {}", proof.problem));
        }
    }
    verify::warn_of_unnamed(attempt, Some(index), &unnamed).await?;
    Ok(Some(Proof {
        rows,
        bytes: backup.report.total(|step| step.captured_bytes),
        problem: (!problems.is_empty()).then(|| listed(&problems)),
    }))
}

fn root_of(
    attempt: &Attempt,
    plan: Option<&Plan>,
    position: usize,
) -> Result<Option<std::sync::Arc<dyn crate::port::FileRoot>>, Halt> {
    let Some(name) = plan
        .and_then(|plan| plan.steps.get(position))
        .and_then(|step| step.rule.root())
    else {
        return Ok(None);
    };
    let entry = attempt.context.targets.get(&attempt.run.target);
    let root = entry.and_then(|entry| entry.roots.get(name)).cloned();
    root.map(Some)
        .ok_or_else(|| Halt::Fail(format!("this server has no root {name} of target {}", attempt.run.target)))
}
