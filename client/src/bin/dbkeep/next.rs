//! What to do after a run, as commands to paste.
//!
//! Owns which command fits which run. Pure: how a command reaches the same server is the caller's. Called by `follow.rs`,
//! `cmd/runs.rs` and `report/`.

use dbkeep_client::{
    is_final,
    proto::{MigrationDirection, Run, RunKind, RunState},
};

use crate::{
    session::quoted,
    table::{self, migration},
};

/// One proposal: what it is for, and the arguments behind `dbkeep`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) purpose: &'static str,
    pub(crate) arguments: String,
}

/// What fits a run in its state, the most likely first.
pub(crate) fn steps(run: &Run) -> Vec<Next> {
    let next = |purpose, arguments: String| Next { purpose, arguments };
    let id = &run.id;
    if !is_final(run.state()) {
        return vec![
            next("To follow it", format!("runs watch {id}")),
            next("To stop it", format!("runs cancel {id}")),
        ];
    }
    let mut steps = Vec::new();
    if migration::is_migrating(run.kind()) {
        return of_migrations(run);
    }
    if run.kind() != RunKind::Cleanup {
        return steps;
    }
    if !run.backup_id.is_empty() && run.undone_by_run_id.is_empty() {
        steps.push(next("To take it back", format!("runs undo {id}")));
        steps.push(next("To prove its backup", format!("backups verify {id}")));
    }
    let unfinished = matches!(
        run.state(),
        RunState::PartiallySucceeded | RunState::Failed | RunState::Cancelled
    );
    if unfinished && !table::is_dry_run(run) {
        let operations = run.operations.join(" ");
        steps.push(next(
            "To count what is left",
            format!("plan --target {} {operations}", run.target),
        ));
    }
    steps
}

/// What fits a run of migrations that has ended.
fn of_migrations(run: &Run) -> Vec<Next> {
    let next = |purpose, command: &str| Next {
        purpose,
        arguments: format!("migrations {command} --target {}", run.target),
    };
    let reports = run
        .report
        .as_ref()
        .map(|report| report.migrations.as_slice())
        .unwrap_or_default();
    // Of migrations in effect, there is nothing to be applied.
    let backwards = reports.iter().any(|report| report.direction() == MigrationDirection::Down);
    let stopped = reports.iter().find(|report| !report.problem.is_empty());
    match (run.kind(), stopped) {
        // A copy was stopped in the middle: nothing is to be mended.
        (RunKind::Rehearse, _) if run.state() == RunState::Succeeded && backwards => {
            vec![next("To see where everything stands", "status")]
        }
        (RunKind::Rehearse, _) if run.state() == RunState::Succeeded => vec![next("To see what applying it means", "plan")],
        (RunKind::Rehearse, _) => Vec::new(),
        (_, Some(report)) => vec![
            next("To see what may be done about it", &format!("repair {}", quoted(&report.id))),
            next("To see where everything stands", "status"),
        ],
        _ => vec![next("To see where everything stands", "status")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dbkeep_client::proto::RunOptions;

    fn run(kind: RunKind, state: RunState, backup: &str) -> Run {
        Run {
            id: "r1".into(),
            kind: kind.into(),
            state: state.into(),
            target: "main".into(),
            operations: vec!["a".into(), "b".into()],
            backup_id: backup.into(),
            options: Some(RunOptions {
                dry_run: Some(false),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn arguments(run: &Run) -> Vec<String> {
        steps(run).into_iter().map(|next| next.arguments).collect()
    }

    #[test]
    fn a_run_at_work_can_be_followed_and_stopped() {
        for state in [RunState::Queued, RunState::Running, RunState::Interrupted] {
            assert_eq!(
                arguments(&run(RunKind::Cleanup, state, "")),
                ["runs watch r1", "runs cancel r1"]
            );
        }
    }

    #[test]
    fn only_what_was_captured_and_not_undone_can_be_taken_back() {
        let mut ended = run(RunKind::Cleanup, RunState::Succeeded, "r1");
        assert_eq!(arguments(&ended), ["runs undo r1", "backups verify r1"]);
        ended.undone_by_run_id = "r2".into();
        assert_eq!(arguments(&ended), [""; 0]);
        assert_eq!(arguments(&run(RunKind::Cleanup, RunState::Succeeded, "")), [""; 0]);
        assert_eq!(arguments(&run(RunKind::Undo, RunState::Failed, "")), [""; 0]);
    }

    #[test]
    fn a_migration_that_failed_is_looked_at() {
        let mut failed = run(RunKind::Migrate, RunState::Failed, "");
        failed.report = Some(dbkeep_client::proto::RunReport {
            migrations: vec![dbkeep_client::proto::MigrationReport {
                id: "3".into(),
                problem: "3.sql:4:1: no such table".into(),
                ..Default::default()
            }],
            ..Default::default()
        });
        assert_eq!(
            arguments(&failed),
            ["migrations repair 3 --target main", "migrations status --target main"]
        );
        failed.set_kind(RunKind::Rehearse);
        assert_eq!(arguments(&failed), [""; 0]);
    }

    #[test]
    fn a_rest_is_planned_anew() {
        let partial = run(RunKind::Cleanup, RunState::PartiallySucceeded, "");
        assert_eq!(arguments(&partial), ["plan --target main a b"]);
    }
}
