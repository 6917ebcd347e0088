//! From what was measured and what became of runs to conditions. Pure; `seen` brings the facts.

use std::time::Duration;

use jiff::Timestamp;

use super::seen::{Newest, Proof, Seen};
use crate::{
    model::{
        MaintenanceTask, Report, Run, RunOptions, RunState, SlotOutcome, SlotRecord, StepState, monitor::Snapshot,
        report::OperationReport,
    },
    monitor::alerts::{Condition, RuleName},
    port::MachineNumbers,
    run::as_f64,
};

/// Operations that have to be there before a rate says anything.
const LEAST_OPERATIONS: u64 = 20;
/// Operations that ended within this time are judged together, where they are that many.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How the message of a step begins that a limit of time has stopped.
const OUT_OF_TIME: &str = "stopped at the time limit";
/// The warning of a step that stopped before it would have touched more rows than its plan allows.
const COUNT_DRIFTED: &str = "COUNT_DRIFTED";

/// Conditions, and the rules that could be looked at.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) conditions: Vec<Condition>,
    pub(super) looked: Vec<RuleName>,
    /// Objects of those rules that could not be looked at all the same.
    pub(super) unseen: Vec<(RuleName, String)>,
}

impl Conditions {
    fn add(&mut self, rule: RuleName, object: &str, value: f64, detail: String, remediation: impl Into<String>) {
        self.conditions.push(Condition {
            rule,
            object: object.to_owned(),
            value,
            detail,
            remediation: remediation.into(),
        });
    }

    fn event(&mut self, rule: RuleName, object: &str, holds: bool, detail: String, remediation: impl Into<String>) {
        self.add(rule, object, if holds { 1.0 } else { 0.0 }, detail, remediation);
    }
}

fn percent(fraction: f64) -> String {
    format!("{:.1} %", fraction * 100.0)
}

/// Conditions of a machine. Objects are `host:folder`, since servers that share a store see different folders of one name.
pub(super) fn of_machine(host: &str, numbers: &MachineNumbers) -> Conditions {
    let unreadable = numbers.unreadable.iter();
    let mut found = Conditions {
        looked: vec![RuleName::DiskNearlyFull],
        unseen: unreadable
            .map(|folder| (RuleName::DiskNearlyFull, disk_object(host, &folder.folder)))
            .collect(),
        ..Conditions::default()
    };
    let mut told = std::collections::BTreeSet::new();
    for disk in &numbers.disks {
        // One file system is one condition, by the first of its folders, however many of them it holds.
        if !told.insert(disk.device) {
            continue;
        }
        let folders: Vec<&str> = numbers
            .disks
            .iter()
            .filter(|other| other.device == disk.device)
            .map(|other| other.folder.as_str())
            .collect();
        let used = disk.used_fraction();
        found.add(
            RuleName::DiskNearlyFull,
            &disk_object(host, &disk.folder),
            used,
            format!(
                "the disk of {} is {} full; {} bytes are free",
                folders.join(", "),
                percent(used),
                disk.free_bytes
            ),
            "make room: see what `dbkeep backups prune --help` can remove and what `dbkeep recommendations TARGET` says, or take a larger disk",
        );
    }
    found
}

/// How a folder of a machine is called in samples and alerts.
pub(super) fn disk_object(host: &str, folder: &str) -> String {
    format!("{host}:{folder}")
}

/// Conditions of a target.
pub(super) fn of_target(seen: &Seen, now: Timestamp) -> Conditions {
    let mut found = Conditions {
        looked: vec![
            RuleName::TargetDown,
            RuleName::OperationFailed,
            RuleName::ExpectedTimeExceeded,
            RuleName::LimitHit,
            RuleName::ErrorRate,
            RuleName::ScheduleMissed,
            RuleName::BackupFailed,
        ],
        ..Conditions::default()
    };
    match &seen.snapshot {
        Ok(snapshot) => {
            found.event(RuleName::TargetDown, "", false, "the target answers".to_owned(), "");
            of_snapshot(&seen.target, snapshot, &mut found);
        }
        Err(why) => found.event(
            RuleName::TargetDown,
            "",
            true,
            format!("the target cannot be reached: {why}"),
            format!(
                "look whether the database runs, and whether its URL and password are right; then `dbkeep targets show {}`",
                seen.target
            ),
        ),
    }
    of_operations(seen, &mut found);
    of_other_work(seen, &mut found);
    of_error_rate(seen, now, &mut found);
    for (name, slot) in &seen.slots {
        of_slot(name, slot, &mut found);
    }
    of_backups(seen, now, &mut found);
    if let Some(changed) = &seen.changed_migrations {
        found.looked.push(RuleName::MigrationDrift);
        found.event(
            RuleName::MigrationDrift,
            "",
            !changed.is_empty(),
            match changed.as_slice() {
                [] => "files and applied migrations agree".to_owned(),
                [one] => format!("the file of migration {one} is not what was applied"),
                several => format!(
                    "the files of {} migrations are not what was applied: {}",
                    several.len(),
                    several.join(", ")
                ),
            },
            changed.first().map_or_else(String::new, |one| {
                format!(
                    "bring the old files back, or `dbkeep migrations repair '{}' --action accept-checksum --target {}`",
                    one.replace('\'', "'\\''"),
                    seen.target
                )
            }),
        );
    }
    found
}

fn of_snapshot(target: &str, snapshot: &Snapshot, found: &mut Conditions) {
    let database = &snapshot.database;
    if let Some(hit) = database.recent_index_hit_fraction {
        found.looked.push(RuleName::LowIndexEfficiency);
        found.add(
            RuleName::LowIndexEfficiency,
            "",
            hit,
            format!("{} of index blocks were found in memory since the look before", percent(hit)),
            format!(
                "give the database more memory (shared_buffers), and remove indexes that nobody uses: `dbkeep findings {target}`"
            ),
        );
    }
    if let (Some(age), Some(limit)) = (database.xid_age, database.xid_limit.filter(|limit| *limit > 0)) {
        found.looked.push(RuleName::Wraparound);
        let used = as_f64(age) / as_f64(limit);
        found.add(
            RuleName::Wraparound,
            "",
            used,
            format!(
                "the oldest unfrozen transaction is {age} transactions old, {} of the limit",
                percent(used)
            ),
            format!("let VACUUM (FREEZE) run, and end what holds it up: `dbkeep findings {target}`"),
        );
    }
    if let Some(sessions) = snapshot.sessions.as_ref().filter(|sessions| sessions.max_connections > 0) {
        found.looked.push(RuleName::ConnectionsNearLimit);
        let used = as_f64(sessions.connections) / as_f64(sessions.max_connections);
        found.add(
            RuleName::ConnectionsNearLimit,
            "",
            used,
            format!("{} of {} sessions are taken", sessions.connections, sessions.max_connections),
            "end idle sessions, put a pool before the database, or raise max_connections",
        );
    }
    if !snapshot.gaps.iter().any(|gap| gap.what.contains("repl")) {
        found.looked.push(RuleName::ReplicaLag);
    }
    for replica in &snapshot.replicas {
        if let Some(lag) = replica.lag_seconds {
            found.add(
                RuleName::ReplicaLag,
                &replica.name,
                lag,
                format!("replica {} is {lag:.1} s behind", replica.name),
                "look at the replica's load and its connection",
            );
        }
    }
}

/// Whether an operation of a run that has ended failed, in full or in part.
pub(super) fn has_failed(operation: &OperationReport) -> bool {
    operation.state == StepState::Failed || operation.errors > 0
}

/// What is said of a step of the operation that a limit has stopped: one of time, or of the rows that its plan allows.
pub(super) fn limit_met<'a>(report: &'a Report, operation: &OperationReport) -> Option<&'a str> {
    let steps = operation.steps.iter();
    let late = steps
        .filter_map(|step| report.steps.get(usize::try_from(*step).ok()?))
        .find(|step| step.message.starts_with(OUT_OF_TIME))
        .map(|step| step.message.as_str());
    let is_its = |step: Option<u32>| step.is_some_and(|step| operation.steps.contains(&step));
    let mut warnings = report.warnings.iter();
    late.or_else(|| {
        let drifted = warnings.find(|warning| warning.code == COUNT_DRIFTED && is_its(warning.step));
        drifted.map(|warning| warning.message.as_str())
    })
}

/// Whether that is the limit of rows, which a new plan sets, and not the one of time.
pub(super) fn is_drift(report: &Report, met: &str) -> bool {
    report
        .warnings
        .iter()
        .any(|warning| warning.code == COUNT_DRIFTED && warning.message == met)
}

/// The part of a run's report that is about an operation.
fn part_of(run: &Run, name: &str) -> Option<OperationReport> {
    run.report
        .operation_reports()
        .into_iter()
        .find(|operation| operation.name == name)
}

/// Whether an operation failed, and whether it met a limit, is known once its run has ended: one that is begun again has not succeeded yet.
fn of_operations(seen: &Seen, found: &mut Conditions) {
    for newest in &seen.newest {
        let name = newest.operation.as_str();
        if let Some(run) = &newest.ended {
            of_ended(name, run, found);
        }
        of_expected_time(newest, found);
    }
}

fn of_ended(name: &str, run: &Run, found: &mut Conditions) {
    let report = part_of(run, name);
    let failed = report.as_ref().map_or(run.state == RunState::Failed, has_failed);
    let detail = if failed {
        format!("run {} of {name} failed: {}", run.id, why(run, report.as_ref()))
    } else {
        format!("run {} of {name} did not fail", run.id)
    };
    let retry = format!("read `dbkeep runs show {}`, mend the cause, then run {name} again", run.id);
    found.event(RuleName::OperationFailed, name, failed, detail, retry);
    let limit = report.as_ref().and_then(|operation| limit_met(&run.report, operation));
    let detail = match limit {
        Some(limit) => format!("run {} of {name} {limit}", run.id),
        None => format!("run {} of {name} met no limit", run.id),
    };
    let remediation = if limit.is_some_and(|limit| is_drift(&run.report, limit)) {
        format!(
            "more rows match than were planned: make a new plan, look at it, and run that: `dbkeep plan {name} --target {}`",
            run.target
        )
    } else {
        let most = *RunOptions::MAX_EXECUTION_SECONDS.end();
        format!(
            "run {name} more often, or for longer: `dbkeep run {name} --target {} --execute --max-time {}s`",
            run.target,
            run.options.max_execution_seconds.saturating_mul(2).min(most)
        )
    };
    found.event(RuleName::LimitHit, name, limit.is_some(), detail, remediation);
}

/// The run that is at work, once it is late; until then the newest that ended.
fn of_expected_time(newest: &Newest, found: &mut Conditions) {
    let name = newest.operation.as_str();
    let judged = [&newest.working, &newest.ended].into_iter().flatten().filter_map(|run| {
        let report = part_of(run, name)?;
        let facts = report.facts?;
        Some((run, report.duration_ms / 1_000, facts.expected_seconds?, facts.overdue))
    });
    let judged: Vec<_> = judged.collect();
    let late = judged.iter().find(|(run, _, _, late)| *late && !run.state.is_final());
    let Some((run, worked, expected, late)) = late.or(judged.last()) else {
        return;
    };
    found.event(
        RuleName::ExpectedTimeExceeded,
        name,
        *late,
        format!(
            "run {} of {name} has worked for {worked} s; its catalog expects {expected} s",
            run.id
        ),
        format!(
            "look at `dbkeep findings {}` for missing indexes, or raise expected_time in the catalog",
            run.target
        ),
    );
}

/// Work that is no cleanup, by its kind. Backups and verifications have a rule of their own, and so have the tasks of maintenance that prove
/// backups.
fn of_other_work(seen: &Seen, found: &mut Conditions) {
    for run in &seen.others {
        let kind = run.kind.name();
        let failed_task = run
            .report
            .steps
            .iter()
            .zip(run.report.maintenance.iter().flat_map(|record| &record.tasks))
            .find(|(step, record)| step.state == StepState::Failed && !proves_backups(&record.task));
        let failed = run.state == RunState::Failed || failed_task.is_some();
        let detail = if failed {
            let why = failed_task.map_or_else(
                || run.state_reason.clone(),
                |(step, _)| format!("{}: {}", step.operation, step.message),
            );
            format!("run {} ({kind}) failed: {why}", run.id)
        } else {
            format!("run {} ({kind}) did not fail", run.id)
        };
        // No operation is called so: names of operations have no brackets.
        let object = format!("({kind})");
        let next = format!("read `dbkeep runs show {}`, mend the cause, then do it again", run.id);
        found.event(RuleName::OperationFailed, &object, failed, detail, next);
    }
}

/// Whether a task of maintenance proves backups.
pub(super) fn proves_backups(task: &MaintenanceTask) -> bool {
    matches!(task, MaintenanceTask::VerifyBackups | MaintenanceTask::RestoreDrill)
}

/// What a run that proves backups has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proving {
    /// It came to nothing: it was stopped before, or there was no backup.
    Nothing,
    /// All that it came to was well.
    Well,
    /// This.
    Failed(String),
}

/// What a verification has found, or the task of that name of a run of maintenance.
pub(super) fn proving(run: &Run, task: Option<&str>) -> Proving {
    let Some(task) = task else {
        return match run.state {
            RunState::Failed => Proving::Failed(run.state_reason.clone()),
            RunState::Cancelled => Proving::Nothing,
            _ => Proving::Well,
        };
    };
    let records = run.report.maintenance.iter().flat_map(|record| &record.tasks);
    let part = run
        .report
        .steps
        .iter()
        .zip(records)
        .find(|(_, record)| record.task.name() == task);
    let Some((step, record)) = part else {
        return Proving::Nothing;
    };
    // One that only ran out of time is partial too, and nothing was wrong with what it came to.
    let failed = step.state == StepState::Failed || record.items.iter().any(|item| !item.done);
    match step.state {
        StepState::Succeeded | StepState::Partial | StepState::Failed if failed => {
            Proving::Failed(format!("{task}: {}", step.message))
        }
        StepState::Succeeded | StepState::Partial => Proving::Well,
        _ => Proving::Nothing,
    }
}

fn why<'a>(run: &'a Run, report: Option<&OperationReport>) -> &'a str {
    let steps = report.map(|operation| operation.steps.as_slice()).unwrap_or_default();
    let failed = steps
        .iter()
        .filter_map(|step| run.report.steps.get(usize::try_from(*step).ok()?))
        .find(|step| step.state == StepState::Failed && !step.message.is_empty());
    failed.map_or(&run.state_reason, |step| &step.message)
}

/// Operations of the last day; where those are too few to say anything, as many of the newest runs as have enough. Runs come newest first.
fn of_error_rate(seen: &Seen, now: Timestamp, found: &mut Conditions) {
    let day = now - DAY;
    let (mut all, mut failed) = (0_u64, 0_u64);
    let mut oldest = None;
    for run in &seen.recent {
        let Some(ended) = run.ended_at else { continue };
        if ended < day && all >= LEAST_OPERATIONS {
            break;
        }
        for operation in run.report.operation_reports() {
            if operation.status.is_some() {
                all += 1;
                failed += u64::from(has_failed(&operation));
                oldest = Some(oldest.map_or(ended, |oldest: Timestamp| oldest.min(ended)));
            }
        }
    }
    let rate = if all >= LEAST_OPERATIONS {
        as_f64(failed) / as_f64(all)
    } else {
        0.0
    };
    let within = match oldest {
        Some(oldest) if oldest < day => {
            let days = now.duration_since(oldest).as_secs_f64() / DAY.as_secs_f64();
            format!("{days:.0} days")
        }
        _ => "a day".to_owned(),
    };
    found.add(
        RuleName::ErrorRate,
        "",
        rate,
        format!("{failed} of {all} operations failed within {within}"),
        format!(
            "look for what they have in common: `dbkeep runs list --target {} --state failed`",
            seen.target
        ),
    );
}

fn of_slot(name: &str, slot: &SlotRecord, found: &mut Conditions) {
    let passed = matches!(slot.kind, SlotOutcome::Missed | SlotOutcome::Refused);
    let detail = if passed {
        format!("slot {} of {name} was {}: {}", slot.slot, slot.kind.name(), slot.reason)
    } else {
        format!("slot {} of {name} was not missed", slot.slot)
    };
    found.event(
        RuleName::ScheduleMissed,
        name,
        passed,
        detail,
        format!("find out why, then `dbkeep schedules run '{}'`", name.replace('\'', "'\\''")),
    );
}

fn of_backups(seen: &Seen, now: Timestamp, found: &mut Conditions) {
    let target = seen.target.as_str();
    if let Some(run) = &seen.backup {
        let failed = run.state == RunState::Failed;
        found.event(
            RuleName::BackupFailed,
            "backup",
            failed,
            if failed {
                format!("backup {} failed: {}", run.id, run.state_reason)
            } else {
                format!("backup {} was made", run.id)
            },
            format!("read the reason, then `dbkeep backups create --target {target}`"),
        );
    }
    of_proofs(seen, found);
    let Some(proof) = &seen.proof else {
        // An alert stays that was raised while there was a backup: none at all is no better than one that nobody has proven.
        return;
    };
    found.looked.push(RuleName::BackupUnverified);
    let days = proof.age_days(now);
    let detail = match proof {
        Proof { proven: Some(_), .. } => format!("a backup was proven {days:.0} days ago"),
        Proof { proven: None, .. } => format!("there are backups for {days:.0} days, and none was ever proven"),
    };
    let remediation = seen.backups.newest.map_or_else(String::new, |backup| {
        format!("`dbkeep backups verify {backup}` reads every checksum and restores into a scratch schema")
    });
    found.add(RuleName::BackupUnverified, "", days, detail, remediation);
}

/// Backups that were found damaged, whoever found that, and proofs that failed.
fn of_proofs(seen: &Seen, found: &mut Conditions) {
    let failed = seen.proving.iter().find_map(|(run, task)| match proving(run, *task) {
        Proving::Failed(why) => Some((run, why)),
        Proving::Nothing | Proving::Well => None,
    });
    let (holds, detail) = match (seen.backups.newest_damaged, failed) {
        (Some(backup), _) => (
            true,
            format!(
                "{} of {} backups that are kept are damaged, the newest of those is {backup}",
                seen.backups.damaged, seen.backups.kept
            ),
        ),
        (None, Some((run, why))) => (true, format!("{} {} failed: {why}", run.kind.name(), run.id)),
        (None, None) => match seen.proving.first() {
            Some((run, _)) => (false, format!("{} {} found every row", run.kind.name(), run.id)),
            None if seen.backups.kept > 0 => (false, "no backup is known to be damaged".to_owned()),
            None => return,
        },
    };
    let remediation = format!(
        "do not rely on that backup; make another: `dbkeep backups create --target {}`",
        seen.target
    );
    found.event(RuleName::BackupFailed, "verification", holds, detail, remediation);
}

#[cfg(test)]
mod tests;
