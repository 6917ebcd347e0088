//! The words of plans and reports of migrations.

use super::*;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[test]
fn a_title_says_nothing_twice() {
    assert_eq!(title("3", "users"), "3 users");
    assert_eq!(title("R__users", "users"), "R__users");
    assert_eq!(title("users", "users"), "users");
    assert_eq!(title("3", ""), "3");
}

#[test]
fn the_totals_name_what_matters() {
    let mut plan = proto::MigrationPlan {
        target: "main".into(),
        direction: MigrationDirection::Up.into(),
        ..Default::default()
    };
    assert_eq!(totals(&plan), "0 migrations to apply on main");
    plan.steps = vec![proto::MigrationPlanStep::default()];
    plan.risk = Risk::Low.into();
    assert_eq!(totals(&plan), "1 migration to apply on main, risk low; no backup first");
    plan.direction = MigrationDirection::Down.into();
    plan.steps.push(proto::MigrationPlanStep::default());
    plan.estimated_duration = seconds(3);
    plan.unestimated_count = 1;
    plan.transforming_count = 2;
    plan.backup_first = true;
    assert_eq!(
        totals(&plan),
        "2 migrations to take back on main, risk low, about 3.0 s, 1 of unknown length, 2 that change rows; \
         the whole database is saved first"
    );
}

#[test]
fn an_estimate_says_where_it_comes_from() {
    let step = |source: EstimateSource, time| proto::MigrationPlanStep {
        estimated_duration: time,
        estimate_source: source.into(),
        ..Default::default()
    };
    assert_eq!(
        estimate(&step(EstimateSource::Rehearsal, seconds(3))),
        "about 3.0 s (measured by a rehearsal)"
    );
    assert_eq!(estimate(&step(EstimateSource::Unknown, None)), "nobody can tell how long");
}

#[test]
fn a_statement_tells_its_work_and_its_locks() {
    let statement = proto::PlannedStatement {
        work: StatementWork::Rewrite.into(),
        locks: vec![
            proto::MigrationLock {
                table: "users".into(),
                mode: "ACCESS EXCLUSIVE".into(),
            },
            proto::MigrationLock {
                table: "*".into(),
                mode: "EXCLUSIVE".into(),
            },
        ],
        loses_data: true,
        ..Default::default()
    };
    assert_eq!(
        effects(&statement).join("; "),
        "writes every row anew; locks users ACCESS EXCLUSIVE, the database EXCLUSIVE; loses data"
    );
}

#[test]
fn the_sum_counts_what_ended_well() {
    let migration = |done, problem: &str, restored: Option<bool>| proto::MigrationReport {
        statements_done: done,
        statement_count: 2,
        problem: problem.into(),
        rehearsal: restored.map(|restored| proto::RehearsalReport {
            restored,
            has_down: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let step = |operation: &str, rows_affected| proto::StepReport {
        operation: operation.into(),
        rows_affected,
        ..Default::default()
    };
    let run = |kind: RunKind| proto::Run {
        kind: kind.into(),
        ..Default::default()
    };
    let report = proto::RunReport {
        migrations: vec![migration(2, "", None), migration(1, "3.sql:4:1: no (42P01)", None)],
        rows_affected: 9,
        steps: vec![step(BACKUP, 4), step("migrations", 5)],
        duration: seconds(2),
        ..Default::default()
    };
    assert_eq!(
        sum(&run(RunKind::Migrate), &report),
        "1 migration applied, 5 rows changed, 2.0 s at work"
    );
    assert!(sum(&run(RunKind::Rollback), &report).starts_with("1 migration taken back"));
    let report = proto::RunReport {
        migrations: vec![migration(2, "", Some(true)), migration(2, "", Some(false))],
        ..Default::default()
    };
    assert_eq!(
        sum(&run(RunKind::Rehearse), &report),
        "2 migrations rehearsed, 1 of them come back"
    );
}

#[test]
fn a_size_has_its_sign() {
    assert_eq!(
        [size_change(0), size_change(-8), size_change(2048)],
        ["0 B", "-8 B", "+2.00 KiB"]
    );
}
