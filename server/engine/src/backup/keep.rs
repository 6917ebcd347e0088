//! Whether somebody still needs a backup, by the runs about it. A pure function: what is to be pruned is chosen by it, and the control store asks
//! it again in the transaction that decides the removal.

use crate::{
    model::{Run, RunId, RunKind, RunState, StepState, Verification},
    run::OUT_OF_TIME,
};

/// What the runs about a backup say of its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nobody needs it; with what should be known of it all the same.
    None(String),
    /// It stays, for this reason.
    Kept(String),
}

/// Whether somebody still needs a backup: its own run has not ended; a run about it has not; or an undo of it was begun and did not
/// come to its end, so that rows may be nowhere else. Of `about`, newest first, only runs about this backup count.
#[must_use]
pub fn need(run: &Run, about: &[Run]) -> Need {
    if !run.state.is_final() {
        return Need::Kept(format!("its run is {}", run.state.name()));
    }
    let mine = || about.iter().filter(|other| other.source == Some(run.id));
    if let Some(other) = mine().find(|other| !other.state.is_final()) {
        return Need::Kept(format!("run {} about it is {}", other.id, other.state.name()));
    }
    // Runs come newest first; an older undo that was cut short says nothing once a newer one came to its end.
    let Some(undo) = mine().find(|other| other.kind == RunKind::Undo) else {
        return Need::None(String::new());
    };
    let (back, left) = (
        undo.report.total(|step| step.rows_affected),
        undo.report.total(|step| step.rows_conflicting),
    );
    // Rows of damaged chunks never come back, however often it is tried; but only an undo that went through every chunk has tried.
    let went_through = undo.state == RunState::PartiallySucceeded
        && !undo.state_reason.starts_with(OUT_OF_TIME)
        && undo
            .report
            .steps
            .iter()
            .all(|step| matches!(step.state, StepState::Succeeded | StepState::Partial));
    let lost = went_through && matches!(run.verification, Verification::Damaged(_));
    if run.undone_by.is_none() && back + left < undo.report.total(|step| step.rows_planned) && !lost {
        let state = undo.state.name();
        return Need::Kept(format!(
            "its undo {} is {state} with {back} rows put back, and can be tried again",
            undo.id
        ));
    }
    Need::None(if left > 0 {
        format!("; its undo left {left} rows in conflict")
    } else {
        String::new()
    })
}

/// Why a backup that was proven is not to go: none of its kind stays that is newer and proven. `keeper` is the one that was to stay, as it is now.
#[must_use]
pub fn last_proof(run: &Run, keeper: Option<&Run>) -> Option<String> {
    if !matches!(run.verification, Verification::Verified(_)) {
        return None;
    }
    let stays = |keeper: &&Run| keeper.pruned.is_none() && matches!(keeper.verification, Verification::Verified(_));
    match keeper {
        Some(keeper) if !stays(&keeper) => Some(format!("backup {}, which was to stay, is not proven any more", keeper.id)),
        Some(keeper) if keeper.id > run.id => None,
        _ => Some("it was proven meanwhile, and is the newest of its kind of this target that is".to_owned()),
    }
}

/// Which of a run's tasks proves a backup now, if any: the backup stays until that is over.
#[must_use]
pub fn is_being_proven(maintenance: &Run, backup: RunId) -> bool {
    use crate::model::MaintenanceTask::{RestoreDrill, VerifyBackups};

    let name = backup.to_string();
    let tasks = maintenance.report.maintenance.iter().flat_map(|record| &record.tasks);
    tasks
        .filter(|task| matches!(task.task, VerifyBackups | RestoreDrill))
        .any(|task| task.current.as_deref() == Some(name.as_str()))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::{PlanId, Report, RunOptions, StepReport};

    fn run(kind: RunKind, state: RunState, source: Option<RunId>, rows: (u64, u64, u64)) -> Run {
        let report = Report {
            steps: vec![StepReport {
                rows_planned: rows.0,
                rows_affected: rows.1,
                rows_conflicting: rows.2,
                ..StepReport::default()
            }],
            ..Report::default()
        };
        Run {
            id: RunId::new(),
            kind,
            target: "t".to_owned(),
            state,
            state_reason: String::new(),
            operations: Vec::new(),
            plan: PlanId::NONE,
            source,
            undone_by: None,
            options: RunOptions::default(),
            attempts: 1,
            report,
            last_sequence: 1,
            cancel_reason: None,
            created_at: Timestamp::now(),
            started_at: None,
            ended_at: None,
            verification: Verification::Unverified,
            pruned: None,
            limits: RunOptions::default().limits(),
            waiting: None,
            pause_reason: None,
            started_by: String::new(),
            approvals: Vec::new(),
            approvals_required: 0,
            approve_until: None,
        }
    }

    #[test]
    fn a_backup_is_kept_while_somebody_needs_it() {
        let source = run(RunKind::Cleanup, RunState::Succeeded, None, (9, 9, 0));
        let kept = |source: &Run, about: &[Run]| matches!(need(source, about), Need::Kept(_));
        for state in RunState::ALL {
            let own = Run { state, ..source.clone() };
            assert_eq!(kept(&own, &[]), !state.is_final(), "its own run is {state:?}");
            for kind in [RunKind::Undo, RunKind::Verify, RunKind::Restore, RunKind::Rollback] {
                let other = run(kind, state, Some(source.id), (9, 9, 0));
                assert_eq!(kept(&source, &[other]), !state.is_final(), "{kind:?} is {state:?}");
                let elsewhere = run(kind, state, Some(RunId::new()), (9, 0, 0));
                assert!(!kept(&source, &[elsewhere]), "about another backup");
            }
        }
        for state in [RunState::Cancelled, RunState::Failed, RunState::PartiallySucceeded] {
            let undo = run(RunKind::Undo, state, Some(source.id), (9, 4, 1));
            assert!(kept(&source, std::slice::from_ref(&undo)), "cut short, {state:?}");
            let newer = run(RunKind::Undo, RunState::Succeeded, Some(source.id), (9, 8, 1));
            assert!(!kept(&source, &[newer, undo.clone()]), "a newer one came to its end");
            let damaged = Run {
                verification: Verification::Damaged(Timestamp::now()),
                ..source.clone()
            };
            assert!(
                kept(&damaged, std::slice::from_ref(&undo)),
                "what is whole can still come back, {state:?}"
            );
            let mut through = undo;
            through.report.steps[0].state = StepState::Partial;
            let lost = state == RunState::PartiallySucceeded;
            assert_eq!(!kept(&damaged, &[through]), lost, "no try brings the rest back, {state:?}");
        }
    }

    #[test]
    fn the_newest_proof_stays() {
        let made = |verification| Run {
            verification,
            ..run(RunKind::Backup, RunState::Succeeded, None, (0, 0, 0))
        };
        let proven = || Verification::Verified(Timestamp::now());
        let (old, newer) = (made(proven()), made(proven()));
        assert!(newer.id > old.id);
        assert_eq!(last_proof(&old, Some(&newer)), None, "a newer one stays");
        assert!(
            last_proof(&newer, Some(&old)).is_some_and(|why| why.contains("newest")),
            "it was proven since"
        );
        assert!(last_proof(&old, None).is_some_and(|why| why.contains("newest")));
        let damaged = made(Verification::Damaged(Timestamp::now()));
        assert!(last_proof(&old, Some(&damaged)).is_some_and(|why| why.contains("not proven any more")));
        assert_eq!(last_proof(&made(Verification::Unverified), None), None, "it proves nothing");
    }
}
