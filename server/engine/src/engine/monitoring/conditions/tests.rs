//! Conditions of snapshots and reports.

use uuid::Uuid;

use super::*;
use crate::{
    model::{
        MaintenanceItem, MaintenanceRecord, PlanId, RunId, RunKind, RunOptions, StepReport, TaskRecord, Verification, Warning,
        monitor::{Depth, Vitals},
        report::OperationFacts,
    },
    port::{BackupStanding, DiskNumbers, UnreadableFolder},
    rule::Severity,
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// A run of the operation `old` that did nothing yet.
fn run(kind: RunKind, state: RunState, steps: Vec<StepReport>) -> Run {
    let options = RunOptions::default();
    Run {
        id: RunId::new(),
        kind,
        target: "app".to_owned(),
        state,
        state_reason: "because".to_owned(),
        operations: vec!["old".to_owned()],
        plan: PlanId(Uuid::now_v7()),
        source: None,
        undone_by: None,
        options,
        limits: options.limits(),
        waiting: None,
        attempts: 1,
        report: Report {
            steps,
            ..Report::default()
        },
        last_sequence: 0,
        cancel_reason: None,
        pause_reason: None,
        created_at: at(0),
        started_at: None,
        ended_at: state.is_final().then(|| at(0)),
        verification: Verification::Unverified,
        started_by: String::new(),
        approvals: Vec::new(),
        approvals_required: 0,
        approve_until: None,
        pruned: None,
    }
}

fn step(operation: &str, state: StepState, message: &str) -> StepReport {
    StepReport {
        operation: operation.to_owned(),
        state,
        message: message.to_owned(),
        ..StepReport::default()
    }
}

fn cleanup(state: RunState, step_state: StepState, message: &str) -> Run {
    run(RunKind::Cleanup, state, vec![step("old", step_state, message)])
}

/// A target of which nothing is known but that it answers.
fn seen() -> Seen {
    Seen {
        target: "app".to_owned(),
        snapshot: Ok(snapshot(Vitals::default())),
        newest: Vec::new(),
        recent: Vec::new(),
        slots: Vec::new(),
        others: Vec::new(),
        backup: None,
        proving: Vec::new(),
        backups: BackupStanding::default(),
        proof: None,
        changed_migrations: None,
    }
}

/// What a rule says of an object.
fn judged(seen: &Seen, rule: RuleName, object: &str) -> Option<Condition> {
    let found = of_target(seen, at(100 * 86_400));
    let mut fitting = found
        .conditions
        .into_iter()
        .filter(|condition| condition.rule == rule && condition.object == object);
    let first = fitting.next();
    assert_eq!(fitting.next(), None, "one condition for one thing");
    first
}

fn holds(seen: &Seen, rule: RuleName, object: &str) -> bool {
    judged(seen, rule, object).is_some_and(|condition| condition.value > 0.0)
}

fn snapshot(database: Vitals) -> Snapshot {
    Snapshot {
        at: Timestamp::UNIX_EPOCH,
        took_ms: 1,
        depth: Depth::Quick,
        database,
        tables: Vec::new(),
        indexes: Vec::new(),
        unindexed_keys: Vec::new(),
        queries: Vec::new(),
        sessions: None,
        replicas: Vec::new(),
        slots: Vec::new(),
        gaps: Vec::new(),
    }
}

#[test]
fn index_efficiency_is_that_of_today() {
    let looked = |recent: Option<f64>| {
        let mut found = Conditions::default();
        let vitals = Vitals {
            index_hit_fraction: Some(0.1),
            recent_index_hit_fraction: recent,
            ..Vitals::default()
        };
        of_snapshot("app", &snapshot(vitals), &mut found);
        let seen = found.conditions.iter().find(|seen| seen.rule == RuleName::LowIndexEfficiency);
        (
            found.looked.contains(&RuleName::LowIndexEfficiency),
            seen.map(|seen| seen.value),
        )
    };
    assert_eq!(looked(Some(0.7)), (true, Some(0.7)));
    assert_eq!(looked(None), (false, None), "an alert stays as it is where nobody knows");
}

#[test]
fn a_limit_is_one_of_time_or_of_rows() {
    let step = |operation: &str, message: &str| step(operation, StepState::Pending, message);
    let report = Report {
        steps: vec![
            step("slow", "stopped at the time limit of 60 s"),
            step("many", ""),
            step("well", "3 rows left"),
        ],
        warnings: vec![
            Warning {
                code: "COUNT_DRIFTED".to_owned(),
                message: "stopped before the plan was exceeded: 10 rows deleted".to_owned(),
                step: Some(1),
            },
            Warning {
                code: "BATCH_RETRIED".to_owned(),
                message: "again".to_owned(),
                step: Some(2),
            },
        ],
        ..Report::default()
    };
    let met: Vec<Option<&str>> = report
        .operation_reports()
        .iter()
        .map(|operation| limit_met(&report, operation))
        .collect();
    assert_eq!(
        met,
        [
            Some("stopped at the time limit of 60 s"),
            Some("stopped before the plan was exceeded: 10 rows deleted"),
            None
        ]
    );
}

#[test]
fn one_that_is_begun_again_has_not_succeeded_yet() {
    let mut limited = cleanup(
        RunState::PartiallySucceeded,
        StepState::Partial,
        "stopped at the time limit of 60 s",
    );
    for (ended, rule) in [
        (
            cleanup(RunState::Failed, StepState::Failed, "rows are kept"),
            RuleName::OperationFailed,
        ),
        (limited.clone(), RuleName::LimitHit),
    ] {
        let mut seen = seen();
        seen.newest = vec![Newest {
            operation: "old".to_owned(),
            working: Some(cleanup(RunState::Running, StepState::Running, "")),
            ended: Some(ended),
        }];
        assert!(holds(&seen, rule, "old"), "{rule:?}");
        seen.newest[0].ended = Some(cleanup(RunState::Succeeded, StepState::Succeeded, ""));
        assert!(!holds(&seen, rule, "old"), "{rule:?}");
    }
    // Too late is known while it is at work.
    let facts = |overdue| OperationFacts {
        name: "old".to_owned(),
        category: String::new(),
        severity: Severity::Low,
        expected_seconds: Some(1),
        overdue,
        warnings: 0,
    };
    limited.report.operations = vec![facts(false)];
    let mut working = cleanup(RunState::Running, StepState::Running, "");
    working.report.operations = vec![facts(true)];
    let mut seen = seen();
    seen.newest = vec![Newest {
        operation: "old".to_owned(),
        working: Some(working),
        ended: Some(limited),
    }];
    let late = judged(&seen, RuleName::ExpectedTimeExceeded, "old").expect("it is judged");
    assert!(
        late.value > 0.0 && late.remediation.contains("expected_time in the catalog"),
        "{late:?}"
    );
    let newest = &mut seen.newest[0];
    std::mem::swap(&mut newest.working, &mut newest.ended);
    newest.working.iter_mut().for_each(|run| run.state = RunState::Running);
    newest.ended.iter_mut().for_each(|run| run.state = RunState::Succeeded);
    assert!(
        holds(&seen, RuleName::ExpectedTimeExceeded, "old"),
        "the one at work is not late yet, and the one before was"
    );
}

#[test]
fn a_plan_that_was_exceeded_asks_for_a_new_one() {
    let mut run = cleanup(RunState::PartiallySucceeded, StepState::Partial, "");
    run.report.warnings = vec![Warning {
        code: COUNT_DRIFTED.to_owned(),
        message: "stopped before the plan was exceeded".to_owned(),
        step: Some(0),
    }];
    let mut seen = seen();
    seen.newest = vec![Newest {
        operation: "old".to_owned(),
        working: None,
        ended: Some(run),
    }];
    let met = judged(&seen, RuleName::LimitHit, "old").expect("it is judged");
    assert!(met.value > 0.0);
    assert!(met.remediation.contains("make a new plan"), "{met:?}");
    assert!(met.remediation.contains("`dbkeep plan old --target app`"), "{met:?}");
}

/// A run of maintenance with these tasks, each with its end and with whether each of its items was done.
fn maintenance(state: RunState, tasks: &[(MaintenanceTask, StepState, &[bool])]) -> Run {
    let steps = tasks
        .iter()
        .map(|(task, state, _)| step(task.name(), *state, "what became of it"));
    let mut run = run(RunKind::Maintain, state, steps.collect());
    let records = tasks.iter().map(|(task, _, items)| TaskRecord {
        task: task.clone(),
        items: items
            .iter()
            .map(|done| MaintenanceItem {
                done: *done,
                ..MaintenanceItem::default()
            })
            .collect(),
        current: None,
    });
    run.report.maintenance = Some(Box::new(MaintenanceRecord {
        tasks: records.collect(),
    }));
    run
}

#[test]
fn a_damaged_backup_is_told_of_whoever_found_it() {
    let failed = |seen: &Seen| holds(seen, RuleName::BackupFailed, "verification");
    let mut seen = seen();
    assert_eq!(judged(&seen, RuleName::BackupFailed, "verification"), None, "there is none");
    seen.backups = BackupStanding {
        kept: 3,
        ..BackupStanding::default()
    };
    assert!(!failed(&seen));
    seen.backups.damaged = 1;
    seen.backups.newest_damaged = Some(RunId::new());
    assert!(failed(&seen));
    seen.backups.damaged = 0;
    seen.backups.newest_damaged = None;
    // Another task of the run succeeded, so that the run did in part.
    let vacuumed = (MaintenanceTask::VacuumAnalyze, StepState::Succeeded, &[true][..]);
    for (task, state, items, wrong) in [
        (MaintenanceTask::VerifyBackups, StepState::Failed, &[false][..], true),
        (MaintenanceTask::VerifyBackups, StepState::Partial, &[true, false][..], true),
        (MaintenanceTask::RestoreDrill, StepState::Failed, &[][..], true),
        // Only its time was over.
        (MaintenanceTask::VerifyBackups, StepState::Partial, &[true][..], false),
        (MaintenanceTask::RestoreDrill, StepState::Succeeded, &[true][..], false),
    ] {
        let name = task.name();
        let run = maintenance(RunState::PartiallySucceeded, &[vacuumed.clone(), (task, state, items)]);
        seen.others = vec![run.clone()];
        seen.proving = vec![(run, Some(name))];
        assert_eq!(failed(&seen), wrong, "{name} {state:?} {items:?}");
        assert!(!holds(&seen, RuleName::OperationFailed, "(maintain)"), "told of once");
    }
    let skipped = maintenance(
        RunState::Succeeded,
        &[(MaintenanceTask::RestoreDrill, StepState::Skipped, &[])],
    );
    assert_eq!(proving(&skipped, Some("restore_drill")), Proving::Nothing);
    seen.others = vec![maintenance(
        RunState::PartiallySucceeded,
        &[vacuumed, (MaintenanceTask::ReindexBloated, StepState::Failed, &[false])],
    )];
    assert!(
        holds(&seen, RuleName::OperationFailed, "(maintain)"),
        "a task of another kind"
    );
}

#[test]
fn without_any_backup_nobody_looks_at_their_proofs() {
    let looked = |seen: &Seen| of_target(seen, at(0)).looked.contains(&RuleName::BackupUnverified);
    let mut seen = seen();
    assert!(!looked(&seen), "an alert stays open");
    seen.proof = Some(Proof {
        proven: None,
        oldest: at(0),
    });
    seen.backups.newest = Some(RunId::new());
    assert!(looked(&seen));
    let old = judged(&seen, RuleName::BackupUnverified, "").expect("it is judged");
    assert!((old.value - 100.0).abs() < 1e-9, "{old:?}");
    assert!(
        old.remediation.contains(&seen.backups.newest.expect("one").to_string()),
        "{old:?}"
    );
}

#[test]
fn a_rate_is_that_of_a_day_or_of_twenty_operations() {
    let now = 100 * 86_400;
    let ended = |hours_ago: i64, state| {
        let mut run = cleanup(RunState::Succeeded, state, "");
        run.ended_at = Some(at(now - hours_ago * 3_600));
        run
    };
    // Nine a day, as the schedules that come with it do: newest first.
    let nine_a_day = |failed: &[usize], runs: usize| {
        let mut seen = seen();
        seen.recent = (0..runs)
            .map(|number| {
                let hours_ago = i64::try_from(number).expect("small") * 24 / 9;
                let state = if failed.contains(&number) {
                    StepState::Failed
                } else {
                    StepState::Succeeded
                };
                ended(hours_ago, state)
            })
            .collect();
        judged(&seen, RuleName::ErrorRate, "").expect("it is judged")
    };
    let rate = nine_a_day(&[0, 5], 63);
    assert!((rate.value - 0.1).abs() < 1e-9, "two of twenty: {rate:?}");
    assert!(rate.detail.contains("2 of 20 operations failed within 2 days"), "{rate:?}");
    assert!(nine_a_day(&[20, 30], 63).value.abs() < f64::EPSILON, "before the last twenty");
    assert!(
        nine_a_day(&[0, 1, 2], 19).value.abs() < f64::EPSILON,
        "too few to say anything"
    );
    let mut busy = seen();
    busy.recent = (0..100)
        .map(|number| {
            ended(
                1,
                if number < 50 {
                    StepState::Succeeded
                } else {
                    StepState::Failed
                },
            )
        })
        .collect();
    let rate = judged(&busy, RuleName::ErrorRate, "").expect("it is judged");
    assert!((rate.value - 0.5).abs() < 1e-9, "all of a day: {rate:?}");
    assert!(rate.remediation.contains("--target app"), "{rate:?}");
}

#[test]
fn what_is_advised_can_be_typed() {
    let mut seen = seen();
    seen.snapshot = Err("refused".to_owned());
    let down = judged(&seen, RuleName::TargetDown, "").expect("it is judged");
    assert!(down.remediation.ends_with("`dbkeep targets show app`"), "{down:?}");
    seen.backup = Some(run(RunKind::Backup, RunState::Failed, Vec::new()));
    let failed = judged(&seen, RuleName::BackupFailed, "backup").expect("it is judged");
    assert!(
        failed.remediation.ends_with("`dbkeep backups create --target app`"),
        "{failed:?}"
    );
}

#[test]
fn a_folder_that_cannot_be_read_is_not_empty() {
    let numbers = MachineNumbers {
        disks: vec![DiskNumbers {
            folder: "/srv".to_owned(),
            device: 1,
            used_bytes: 9,
            free_bytes: 1,
            total_bytes: 10,
        }],
        unreadable: vec![UnreadableFolder {
            folder: "/backups".to_owned(),
            why: "gone".to_owned(),
        }],
        ..MachineNumbers::default()
    };
    let found = of_machine("box", &numbers);
    assert_eq!(found.conditions.len(), 1);
    assert_eq!(found.unseen, [(RuleName::DiskNearlyFull, "box:/backups".to_owned())]);
}
