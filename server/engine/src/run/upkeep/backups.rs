//! Tasks on backups: `verify_backups`, `prune_backups` and `restore_drill`. They prove as a verification does, and prune as the call
//! does; what they find of a backup is kept with it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{
    TaskEnd, begin_item, counted, end_item, end_of, fail_item, forget_current, is_noted, is_of_the_task, listed, note, task,
};
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
    if backups.is_empty() {
        return no_backup(attempt, index, "there is no backup that could be proven").await;
    }
    let is_damaged = |backup: &&Run| matches!(backup.verification, Verification::Damaged(_)) && !is_due(backup.verification, now);
    let damaged = backups.iter().filter(is_damaged).count();
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
    let mut told = if items.is_empty() && damaged > 0 {
        "every other backup was proven within the last 30 days".to_owned()
    } else if items.is_empty() {
        "every backup was proven within the last 30 days".to_owned()
    } else {
        counted(proven, "backup proven", "backups proven")
    };
    if damaged > 0 {
        let message = counted(
            damaged,
            "backup was found damaged before",
            "backups were found damaged before",
        );
        told.push_str(&format!("; {message}"));
        attempt.ledger.warn(Some(index), "BACKUP_DAMAGED", message).await?;
    }
    if later > turn {
        told.push_str(&format!(
            "; {} for the next run",
            counted(later - turn, "is left", "are left")
        ));
    }
    Ok(end_of(attempt, index, told))
}

async fn no_backup(attempt: &mut Attempt, index: usize, message: &str) -> Result<TaskEnd, Halt> {
    attempt.ledger.warn(Some(index), "NO_BACKUP", message.to_owned()).await?;
    Ok(TaskEnd::Skipped(message.to_owned()))
}

/// Restores the newest backup into a place that vanishes, and compares; the newest of the whole database or of whole tables, where there
/// is one: it is what a lost disk would be answered with.
pub(super) async fn drill(attempt: &mut Attempt, index: usize) -> Result<TaskEnd, Halt> {
    let backups = backups(attempt).await?;
    // What an attempt before this one began with is what is told of, whatever was made since.
    let noted = backups.iter().find(|backup| is_noted(attempt, index, &backup.id.to_string()));
    let whole = backups.iter().find(|backup| backup.whole_backup().is_some());
    let Some(newest) = noted.or(whole).or(backups.first()).cloned() else {
        return no_backup(attempt, index, "there is no backup that could be restored").await;
    };
    let began = Instant::now();
    let name = newest.id.to_string();
    let took = if is_noted(attempt, index, &name) {
        String::new()
    } else {
        if !one(attempt, index, &newest).await? {
            return Ok(TaskEnd::OutOfTime);
        }
        format!(" in {:.1} s", began.elapsed().as_secs_f64())
    };
    let item = task(attempt, index).and_then(|task| task.items.iter().find(|item| item.name == name).cloned());
    let Some(item) = item else {
        // Nothing was noted of it: it went while it was read.
        let message = format!(
            "backup {name} of {} was pruned meanwhile; nothing was restored",
            newest.created_at
        );
        return Ok(TaskEnd::Skipped(message));
    };
    let what = if newest.whole_backup().is_some() {
        "counts and checksums are"
    } else {
        "rows and checksums are"
    };
    Ok(if item.done {
        TaskEnd::Done(format!(
            "backup {name} of {} restored and removed again{took}: {} rows, {} bytes; {what} those that were saved",
            newest.created_at, item.rows, item.bytes_before
        ))
    } else {
        TaskEnd::Failed(format!(
            "backup {name} of {} could not be restored as it was saved",
            newest.created_at
        ))
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
    let mut kept = 0_usize;
    for candidate in engine.prune_candidates(&target, rule).await.map_err(halt)? {
        if candidate.verdict.is_err() {
            kept += 1;
            continue;
        }
        attempt.boundary()?;
        if attempt.out_of_time() {
            return Ok(TaskEnd::OutOfTime);
        }
        let name = candidate.run.id.to_string();
        begin_item(attempt, index, &name).await?;
        // Cut short anywhere, the next prune goes on with it.
        let pruned = tokio::select! {
            stop = attempt.lease.stopped() => return Err(stop.into()),
            () = tokio::time::sleep(attempt.time_left()) => {
                forget_current(attempt, index);
                return Ok(TaskEnd::OutOfTime);
            }
            pruned = engine.prune_candidate(&target, candidate, false) => pruned.map_err(halt),
        };
        match pruned {
            Ok(outcome) if outcome.pruned => end_item(attempt, index, removed(name, outcome.freed_bytes)).await?,
            // Somebody needs it by now.
            Ok(_) => {
                kept += 1;
                forget_current(attempt, index);
            }
            Err(Halt::Target(error)) if is_of_the_task(&error) => {
                let why = format!("backup {name} was not removed: {error}");
                fail_item(attempt, index, &name, "PRUNE_FAILED", why).await?;
            }
            Err(Halt::Fail(why)) => {
                let why = format!("backup {name} was not removed: {why}");
                fail_item(attempt, index, &name, "PRUNE_FAILED", why).await?;
            }
            Err(halt) => return Err(halt),
        }
    }
    // Those of attempts before this one, too.
    let items = task(attempt, index).map_or(&[][..], |task| &task.items);
    let gone: Vec<&MaintenanceItem> = items.iter().filter(|item| item.done).collect();
    let freed: u64 = gone.iter().map(|item| item.bytes_before).sum();
    let names: Vec<&str> = gone.iter().map(|item| item.name.as_str()).collect();
    let mut told = format!(
        "{}, {freed} bytes freed; {kept} kept",
        counted(gone.len(), "backup removed", "backups removed"),
    );
    if !names.is_empty() {
        told.push_str(&format!(": {}", listed(&names)));
    }
    Ok(end_of(attempt, index, told))
}

fn removed(name: String, freed_bytes: u64) -> MaintenanceItem {
    MaintenanceItem {
        name,
        done: true,
        bytes_before: freed_bytes,
        ..MaintenanceItem::default()
    }
}

/// What of a prune ends more than the item that it was at.
fn halt(error: crate::EngineError) -> Halt {
    match error {
        crate::EngineError::Store(error) => Halt::Store(error),
        crate::EngineError::Target { source, .. } => Halt::Target(source),
        other => Halt::Fail(other.to_string()),
    }
}

/// Notes the removal that a dead attempt came to the end of without a word. One that it only began is finished by the task itself.
pub(super) async fn settle_prune(attempt: &mut Attempt, index: usize, name: &str) -> Result<(), Halt> {
    let Ok(id) = name.parse::<RunId>() else { return Ok(()) };
    let backup = attempt.context.store.run(id).await?;
    if let Some(backup) = backup.filter(|backup| backup.pruned.is_some_and(|pruned| pruned.complete)) {
        // What its files in the trash of a root had is not known any more.
        let freed = backup.report.total(|step| step.captured_bytes);
        note(attempt, index, removed(name.to_owned(), freed));
    }
    Ok(())
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

/// What was found damaged is looked at again as late as what was proven: a folder that was not mounted is, by then.
fn is_due(verification: Verification, now: Timestamp) -> bool {
    match verification {
        Verification::Unverified => true,
        Verification::Verified(at) | Verification::Damaged(at) => now.duration_since(at) > PROVEN_FOR,
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
    // From here on no prune takes it: the run names it. Before, one may have.
    if was_pruned(attempt, backup.id).await? {
        forget_current(attempt, index);
        return Ok(true);
    }
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
        if verify::listed(attempt, backup.id).await?.is_empty() {
            return Err(not_there());
        }
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
    let nothing_listed = unnamed.is_empty();
    let mut scratch = attempt.target.scratch().await?;
    let (mut rows, mut problems) = (0, Vec::new());
    for (position, step) in backup.report.steps.iter().enumerate() {
        let captures = Captures {
            source: backup.id,
            step: u32::try_from(position).unwrap_or(u32::MAX),
            planned: step.rows_captured,
            root: root_of(attempt, plan.as_ref(), position)?,
        };
        // Files that were moved are in their root, and have no chunk.
        if nothing_listed && captures.root.is_none() && captures.planned > 0 {
            return Err(not_there());
        }
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

/// Of a folder without any file nothing is known but that it cannot be seen from here: that is no finding about the backup.
fn not_there() -> Halt {
    Halt::Fail("none of its files is in the backup folder; is the folder mounted?".to_owned())
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
