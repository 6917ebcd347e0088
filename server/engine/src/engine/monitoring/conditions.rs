//! From what was measured and what became of runs to conditions. Pure; `seen` brings the facts.

use jiff::Timestamp;

use super::seen::{Proof, Seen};
use crate::{
    model::{Report, Run, RunState, SlotOutcome, SlotRecord, StepState, monitor::Snapshot, report::OperationReport},
    monitor::alerts::{Condition, RuleName},
    port::MachineNumbers,
    run::as_f64,
};

/// Operations that have to be there before a rate says anything.
const LEAST_OPERATIONS: u64 = 20;
/// How the message of a step begins that a limit of time has stopped.
const OUT_OF_TIME: &str = "stopped at the time limit";
/// The warning of a step that stopped before it would have touched more rows than its plan allows.
const COUNT_DRIFTED: &str = "COUNT_DRIFTED";

/// Conditions, and the rules that could be looked at.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) conditions: Vec<Condition>,
    pub(super) looked: Vec<RuleName>,
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
    let mut found = Conditions {
        looked: vec![RuleName::DiskNearlyFull],
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
            "make room: `dbkeep backups prune`, `dbkeep recommendations`, or a larger disk",
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
            RuleName::BackupUnverified,
        ],
        ..Conditions::default()
    };
    match &seen.snapshot {
        Ok(snapshot) => {
            found.event(RuleName::TargetDown, "", false, "the target answers".to_owned(), "");
            of_snapshot(snapshot, &mut found);
        }
        Err(why) => found.event(
            RuleName::TargetDown,
            "",
            true,
            format!("the target cannot be reached: {why}"),
            "look whether the database runs, and whether its URL and password are right; then `dbkeep targets show`",
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
            "bring the old files back, or `dbkeep migrations repair`",
        );
    }
    found
}

fn of_snapshot(snapshot: &Snapshot, found: &mut Conditions) {
    let database = &snapshot.database;
    if let Some(hit) = database.recent_index_hit_fraction {
        found.looked.push(RuleName::LowIndexEfficiency);
        found.add(
            RuleName::LowIndexEfficiency,
            "",
            hit,
            format!("{} of index blocks were found in memory since the look before", percent(hit)),
            "give the database more memory (shared_buffers), and remove indexes that nobody uses: `dbkeep findings`",
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
            "let VACUUM (FREEZE) run, and end what holds it up: `dbkeep findings`",
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

fn of_operations(seen: &Seen, found: &mut Conditions) {
    for (name, run) in &seen.newest {
        let report = run
            .report
            .operation_reports()
            .into_iter()
            .find(|operation| operation.name == *name);
        let retry = format!("read `dbkeep runs show {}`, mend the cause, then run {name} again", run.id);
        if run.state.is_final() {
            let failed = report.as_ref().map_or(run.state == RunState::Failed, has_failed);
            let detail = if failed {
                format!("run {} of {name} failed: {}", run.id, why(run, report.as_ref()))
            } else {
                format!("run {} of {name} did not fail", run.id)
            };
            found.event(RuleName::OperationFailed, name, failed, detail, retry.clone());
            let limit = report.as_ref().and_then(|operation| limit_met(&run.report, operation));
            found.event(
                RuleName::LimitHit,
                name,
                limit.is_some(),
                match limit {
                    Some(limit) => format!("run {} of {name} {limit}", run.id),
                    None => format!("run {} of {name} met no limit", run.id),
                },
                format!("run {name} more often, or with a larger --max-time"),
            );
        }
        let facts = report.as_ref().and_then(|operation| operation.facts.as_ref());
        if let Some(facts) = facts.filter(|facts| facts.expected_seconds.is_some()) {
            let worked = report.as_ref().map_or(0, |operation| operation.duration_ms / 1_000);
            let expected = facts.expected_seconds.unwrap_or_default();
            found.event(
                RuleName::ExpectedTimeExceeded,
                name,
                facts.overdue,
                format!(
                    "run {} of {name} has worked for {worked} s; its catalog expects {expected} s",
                    run.id
                ),
                "look at `dbkeep findings` for missing indexes, or raise expected_seconds in the catalog",
            );
        }
    }
}

/// Work that is no cleanup, by its kind. Backups and verifications have a rule of their own.
fn of_other_work(seen: &Seen, found: &mut Conditions) {
    for run in &seen.others {
        let kind = run.kind.name();
        let failed = run.state == RunState::Failed;
        let detail = if failed {
            format!("run {} ({kind}) failed: {}", run.id, why(run, None))
        } else {
            format!("run {} ({kind}) did not fail", run.id)
        };
        // No operation is called so: names of operations have no brackets.
        let object = format!("({kind})");
        let next = format!("read `dbkeep runs show {}`, mend the cause, then do it again", run.id);
        found.event(RuleName::OperationFailed, &object, failed, detail, next);
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

fn of_error_rate(seen: &Seen, now: Timestamp, found: &mut Conditions) {
    let day = now - std::time::Duration::from_secs(24 * 60 * 60);
    let (mut all, mut failed) = (0_u64, 0_u64);
    for run in seen.recent.iter().filter(|run| run.ended_at.is_some_and(|at| at >= day)) {
        for operation in run.report.operation_reports() {
            if operation.status.is_some() {
                all += 1;
                failed += u64::from(has_failed(&operation));
            }
        }
    }
    let rate = if all >= LEAST_OPERATIONS {
        as_f64(failed) / as_f64(all)
    } else {
        0.0
    };
    found.add(
        RuleName::ErrorRate,
        "",
        rate,
        format!("{failed} of {all} operations failed within a day"),
        "look for what they have in common: `dbkeep runs list --state failed`",
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
            "read the reason, then `dbkeep backups create`",
        );
    }
    if let Some(run) = &seen.verification {
        let failed = run.state == RunState::Failed;
        found.event(
            RuleName::BackupFailed,
            "verification",
            failed,
            if failed {
                format!("verification {} failed: {}", run.id, run.state_reason)
            } else {
                format!("verification {} found every row", run.id)
            },
            "do not rely on that backup; make another: `dbkeep backups create`",
        );
    }
    if let Some(proof) = &seen.proof {
        let days = proof.age_days(now);
        let detail = match proof {
            Proof { proven: Some(_), .. } => format!("a backup was proven {days:.0} days ago"),
            Proof { proven: None, .. } => format!("there are backups for {days:.0} days, and none was ever proven"),
        };
        found.add(
            RuleName::BackupUnverified,
            "",
            days,
            detail,
            "`dbkeep backups verify ID` reads every checksum and restores into a scratch schema",
        );
    }
}

#[cfg(test)]
mod tests;
