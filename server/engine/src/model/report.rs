//! What a report says about each operation: derived here, and nowhere else, from the steps, so that the numbers of operations,
//! steps and the whole run cannot disagree. Owns the end of steps that never began and the count of warnings. Pure. Called by
//! the ledger, the store and the gRPC services.

use serde::{Deserialize, Serialize};

use super::run::{Report, ReportStatus, RunState, StepReport, StepState, Warning};
use crate::rule::{Operation, Severity};

/// Code of the warning that an operation takes longer than its catalog expects.
pub const EXPECTED_TIME_EXCEEDED: &str = "EXPECTED_TIME_EXCEEDED";

/// What a report keeps of an operation beside its steps: the catalog's words when the run was accepted, which a later catalog
/// does not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationFacts {
    /// Name of the operation.
    pub name: String,
    /// Its category.
    pub category: String,
    /// Its severity.
    pub severity: Severity,
    /// How long the catalog expects it to take, seconds; `None` where it says nothing, and for undo and verification.
    pub expected_seconds: Option<u64>,
    /// Whether it was said that it takes longer than that.
    #[serde(default)]
    pub overdue: bool,
    /// Warnings about its steps, also those that [`Report::warnings`] had no room for.
    #[serde(default)]
    pub warnings: u64,
}

impl From<&Operation> for OperationFacts {
    fn from(operation: &Operation) -> Self {
        Self {
            name: operation.name.clone(),
            category: operation.category.clone(),
            severity: operation.severity,
            expected_seconds: operation.expected_seconds,
            overdue: false,
            warnings: 0,
        }
    }
}

impl OperationFacts {
    /// The same operation in a run about the rows that it captured: nobody said how long that takes.
    #[must_use]
    pub fn of_follow_up(&self) -> Self {
        Self {
            expected_seconds: None,
            overdue: false,
            warnings: 0,
            ..self.clone()
        }
    }
}

/// What one operation did: sums over its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationReport {
    /// Name of the operation.
    pub name: String,
    /// Where it stands, seen over its steps.
    pub state: StepState,
    /// Verdict; `None` until it has ended, and where it never began.
    pub status: Option<ReportStatus>,
    /// Category and severity; `None` in reports from before these were kept.
    pub facts: Option<OperationFacts>,
    /// Time at work, milliseconds.
    pub duration_ms: u64,
    /// Rows that the plan counted.
    pub rows_planned: u64,
    /// Rows that the scans looked at.
    pub rows_examined: u64,
    /// Rows that the scans listed.
    pub rows_matched: u64,
    /// Rows deleted, put back or proven.
    pub rows_affected: u64,
    /// Rows written to the backup.
    pub rows_captured: u64,
    /// Size of their chunks, bytes.
    pub captured_bytes: u64,
    /// Undo: rows left because something stands in their place.
    pub rows_conflicting: u64,
    /// Rows known to match still.
    pub rows_remaining: u64,
    /// Steps that failed.
    pub errors: u32,
    /// Warnings about its steps.
    pub warnings: u64,
    /// Positions of its steps in the plan.
    pub steps: Vec<u32>,
}

impl Report {
    /// One entry for each operation, in the order in which they run.
    #[must_use]
    pub fn operation_reports(&self) -> Vec<OperationReport> {
        let mut operations: Vec<OperationReport> = Vec::new();
        let mut states: Vec<Vec<StepState>> = Vec::new();
        for (index, step) in (0_u32..).zip(&self.steps) {
            let position = match operations.iter().position(|known| known.name == step.operation) {
                Some(position) => position,
                None => {
                    operations.push(self.begin_operation(&step.operation));
                    states.push(Vec::new());
                    operations.len() - 1
                }
            };
            operations[position].add(index, step);
            states[position].push(step.state);
        }
        for (operation, states) in operations.iter_mut().zip(&states) {
            operation.state = state_over(states);
            operation.status = match operation.state {
                StepState::Succeeded => Some(ReportStatus::Success),
                StepState::Partial if self.status == Some(ReportStatus::Failed) && !self.has_done(&operation.steps) => {
                    Some(ReportStatus::Failed)
                }
                StepState::Partial => Some(ReportStatus::PartialSuccess),
                StepState::Failed => Some(ReportStatus::Failed),
                StepState::Pending | StepState::Running | StepState::Skipped => None,
            };
        }
        operations
    }

    fn begin_operation(&self, name: &str) -> OperationReport {
        let facts = self.operations.iter().find(|facts| facts.name == name).cloned();
        let warnings = match &facts {
            Some(facts) => facts.warnings,
            None => self.warnings.iter().filter(|warning| self.is_about(warning, name)).count() as u64,
        };
        OperationReport {
            name: name.to_owned(),
            state: StepState::Pending,
            status: None,
            facts,
            duration_ms: 0,
            rows_planned: 0,
            rows_examined: 0,
            rows_matched: 0,
            rows_affected: 0,
            rows_captured: 0,
            captured_bytes: 0,
            rows_conflicting: 0,
            rows_remaining: 0,
            errors: 0,
            warnings,
            steps: Vec::new(),
        }
    }

    fn is_about(&self, warning: &Warning, operation: &str) -> bool {
        self.step(warning.step).is_some_and(|step| step.operation == operation)
    }

    /// The step at this position.
    pub(super) fn step(&self, index: Option<u32>) -> Option<&StepReport> {
        self.steps.get(usize::try_from(index?).ok()?)
    }

    fn facts_of(&mut self, index: Option<u32>) -> Option<&mut OperationFacts> {
        let name = self.step(index)?.operation.clone();
        self.operations.iter_mut().find(|facts| facts.name == name)
    }

    /// Takes up a warning: counts it, and keeps it while there is room.
    pub fn warn(&mut self, warning: &Warning) {
        if let Some(facts) = self.facts_of(warning.step) {
            facts.warnings += 1;
        }
        if self.warnings.len() < Self::MAX_WARNINGS {
            self.warnings.push(warning.clone());
        }
    }

    /// What is to be said, once for each operation, where that of `step` has been at work for longer than its catalog expects.
    pub fn overdue(&mut self, step: usize) -> Option<Warning> {
        let name = self.steps.get(step)?.operation.clone();
        let steps = self.steps.iter().filter(|step| step.operation == name);
        let worked_ms: u64 = steps.map(|step| step.duration_ms).sum();
        let facts = self.operations.iter_mut().find(|facts| facts.name == name)?;
        let expected = facts.expected_seconds?;
        if facts.overdue || worked_ms <= expected.saturating_mul(1_000) {
            return None;
        }
        facts.overdue = true;
        Some(Warning {
            code: EXPECTED_TIME_EXCEEDED.to_owned(),
            message: format!(
                "operation {name} has been at work for {} s; its catalog expects {expected} s",
                worked_ms / 1_000
            ),
            step: u32::try_from(step).ok(),
        })
    }

    /// Why a run that stops on failure does not begin this step: the operation that failed before it. Steps of the operation
    /// that failed itself go on, because its rules do not depend on one another.
    #[must_use]
    pub fn stopped_by_failure(&self, step: usize) -> Option<String> {
        let operation = &self.steps.get(step)?.operation;
        let earlier = self.steps[..step].iter();
        let failed = earlier
            .filter(|earlier| earlier.operation != *operation)
            .find(|earlier| earlier.state == StepState::Failed)?;
        // A task of maintenance has no rules.
        let rule = match failed.rule.as_str() {
            "" => String::new(),
            rule => format!(" in rule {rule}"),
        };
        Some(format!(
            "not begun: operation {} failed{rule}, and the run stops on failure",
            failed.operation
        ))
    }

    /// Ends the steps of a run that enters the final state `to`: those at work as it says, those not begun as skipped.
    pub fn close(&mut self, to: RunState, reason: &str) {
        for step in &mut self.steps {
            match step.state {
                StepState::Running => {
                    step.state = if to == RunState::Failed {
                        StepState::Failed
                    } else {
                        StepState::Partial
                    };
                    reason.clone_into(&mut step.message);
                }
                StepState::Pending => {
                    step.state = StepState::Skipped;
                    step.message = format!("not begun: {reason}");
                }
                StepState::Succeeded | StepState::Partial | StepState::Failed | StepState::Skipped => {}
            }
        }
        self.status = match to {
            RunState::Succeeded => Some(ReportStatus::Success),
            // Whoever cancels a run, or denies it, before it has done anything has nothing of it.
            RunState::Cancelled if !self.steps.iter().any(StepReport::has_done) => Some(ReportStatus::Failed),
            RunState::PartiallySucceeded | RunState::Cancelled => Some(ReportStatus::PartialSuccess),
            RunState::Failed => Some(ReportStatus::Failed),
            RunState::Queued
            | RunState::Running
            | RunState::Pausing
            | RunState::Paused
            | RunState::Cancelling
            | RunState::Interrupted => None,
        };
    }

    /// Whether one of the steps at these positions has done something.
    fn has_done(&self, steps: &[u32]) -> bool {
        let mut steps = steps.iter().filter_map(|index| self.step(Some(*index)));
        steps.any(StepReport::has_done)
    }

    /// Whether nothing was done but failing: every step failed, or was left out because of one that did.
    #[must_use]
    pub fn nothing_succeeded(&self) -> bool {
        let mut states = self.steps.iter().map(|step| step.state);
        let failed = self.steps.iter().any(|step| step.state == StepState::Failed);
        failed && states.all(|state| matches!(state, StepState::Failed | StepState::Skipped))
    }
}

impl StepReport {
    /// Whether anything of it stays: a batch, or the knowledge that there was nothing to do.
    fn has_done(&self) -> bool {
        self.state == StepState::Succeeded || self.batches > 0 || self.rows_affected > 0
    }
}

impl OperationReport {
    fn add(&mut self, index: u32, step: &StepReport) {
        self.duration_ms += step.duration_ms;
        self.rows_planned += step.rows_planned;
        self.rows_examined += step.rows_examined;
        self.rows_matched += step.rows_matched;
        self.rows_affected += step.rows_affected;
        self.rows_captured += step.rows_captured;
        self.captured_bytes += step.captured_bytes;
        self.rows_conflicting += step.rows_conflicting;
        self.rows_remaining += step.rows_remaining;
        self.errors += u32::from(step.state == StepState::Failed);
        self.steps.push(index);
    }
}

/// The state of an operation whose steps are in these.
fn state_over(states: &[StepState]) -> StepState {
    let all = |wanted: &[StepState]| states.iter().all(|state| wanted.contains(state));
    let any = |wanted: StepState| states.contains(&wanted);
    if all(&[StepState::Pending]) {
        StepState::Pending
    } else if any(StepState::Running) || any(StepState::Pending) {
        StepState::Running
    } else if all(&[StepState::Skipped]) {
        StepState::Skipped
    } else if all(&[StepState::Succeeded]) {
        StepState::Succeeded
    } else if all(&[StepState::Failed, StepState::Skipped]) {
        StepState::Failed
    } else {
        StepState::Partial
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(operation: &str, state: StepState) -> StepReport {
        StepReport {
            operation: operation.to_owned(),
            rule: format!("rule_of_{operation}"),
            state,
            ..StepReport::default()
        }
    }

    fn facts(name: &str, expected_seconds: Option<u64>) -> OperationFacts {
        OperationFacts {
            name: name.to_owned(),
            category: "LOGS".to_owned(),
            severity: Severity::Low,
            expected_seconds,
            overdue: false,
            warnings: 0,
        }
    }

    #[test]
    fn the_verdict_over_an_operation_follows_from_its_steps() {
        use StepState::{Failed, Partial, Pending, Running, Skipped, Succeeded};
        let cases: [(&[StepState], StepState, Option<ReportStatus>); 10] = [
            (&[Pending, Pending], Pending, None),
            (&[Succeeded, Pending], Running, None),
            (&[Failed, Running], Running, None),
            (&[Skipped, Skipped], Skipped, None),
            (&[Succeeded, Succeeded], Succeeded, Some(ReportStatus::Success)),
            (&[Failed, Failed], Failed, Some(ReportStatus::Failed)),
            (&[Failed, Skipped], Failed, Some(ReportStatus::Failed)),
            (&[Succeeded, Failed], Partial, Some(ReportStatus::PartialSuccess)),
            (&[Partial, Skipped], Partial, Some(ReportStatus::PartialSuccess)),
            (&[Succeeded, Skipped], Partial, Some(ReportStatus::PartialSuccess)),
        ];
        for (states, state, status) in cases {
            let report = Report {
                steps: states.iter().map(|state| step("a", *state)).collect(),
                ..Report::default()
            };
            let operations = report.operation_reports();
            assert_eq!(operations.len(), 1);
            assert_eq!((operations[0].state, operations[0].status), (state, status), "{states:?}");
        }
    }

    #[test]
    fn warnings_are_counted_beyond_those_that_are_kept() {
        let mut report = Report {
            steps: vec![step("a", StepState::Running), step("b", StepState::Pending)],
            operations: vec![facts("a", None), facts("b", None)],
            ..Report::default()
        };
        let warning = |step| Warning {
            code: "BATCH_RETRIED".to_owned(),
            message: "again".to_owned(),
            step,
        };
        for _ in 0..Report::MAX_WARNINGS + 5 {
            report.warn(&warning(Some(0)));
        }
        report.warn(&warning(None));
        assert_eq!(report.warnings.len(), Report::MAX_WARNINGS);
        let counts = report
            .operation_reports()
            .iter()
            .map(|operation| operation.warnings)
            .collect::<Vec<_>>();
        assert_eq!(counts, [105, 0]);
    }

    #[test]
    fn a_report_from_before_facts_were_kept_counts_what_it_has() {
        let stored = r#"{"status":null,"steps":[],"warnings":[{"code":"X","message":"m","step":1}],"duration_ms":3}"#;
        let mut report: Report = serde_json::from_str(stored).expect("an old report is read");
        report.steps = vec![step("a", StepState::Succeeded), step("b", StepState::Partial)];
        let operations = report.operation_reports();
        assert_eq!((operations[0].warnings, operations[1].warnings), (0, 1));
        assert_eq!(operations[1].facts, None);
    }

    #[test]
    fn an_operation_is_overdue_once_over_all_its_steps() {
        let mut report = Report {
            steps: vec![
                step("a", StepState::Succeeded),
                step("b", StepState::Running),
                step("a", StepState::Running),
            ],
            operations: vec![facts("a", Some(2)), facts("b", None)],
            ..Report::default()
        };
        report.steps[0].duration_ms = 1_500;
        report.steps[1].duration_ms = 60_000;
        report.steps[2].duration_ms = 500;
        assert_eq!(report.overdue(2), None, "exactly the expected time is in time");
        report.steps[2].duration_ms = 501;
        let warning = report.overdue(2).expect("a warning");
        assert_eq!((warning.code.as_str(), warning.step), (EXPECTED_TIME_EXCEEDED, Some(2)));
        assert_eq!(
            warning.message,
            "operation a has been at work for 2 s; its catalog expects 2 s"
        );
        assert_eq!(report.overdue(2), None, "said once");
        assert_eq!(report.overdue(1), None, "nobody expected anything of b");
        // A later attempt reads the report from the store.
        let mut again: Report = serde_json::from_str(&serde_json::to_string(&report).expect("JSON")).expect("a report");
        assert_eq!(again.overdue(0), None);
    }

    #[test]
    fn only_later_operations_stop_after_a_failure() {
        let report = Report {
            steps: vec![
                step("a", StepState::Succeeded),
                step("b", StepState::Failed),
                step("b", StepState::Pending),
                step("c", StepState::Pending),
            ],
            ..Report::default()
        };
        assert_eq!(report.stopped_by_failure(2), None, "rules of the same operation go on");
        assert_eq!(
            report.stopped_by_failure(3).as_deref(),
            Some("not begun: operation b failed in rule rule_of_b, and the run stops on failure")
        );
    }

    #[test]
    fn the_end_leaves_no_step_open() {
        for (to, running, status) in [
            (RunState::Failed, StepState::Failed, ReportStatus::Failed),
            (RunState::Cancelled, StepState::Partial, ReportStatus::PartialSuccess),
            (RunState::PartiallySucceeded, StepState::Partial, ReportStatus::PartialSuccess),
        ] {
            let mut report = Report {
                steps: vec![
                    step("a", StepState::Succeeded),
                    step("b", StepState::Running),
                    step("c", StepState::Pending),
                ],
                ..Report::default()
            };
            report.close(to, "because");
            let states = report.steps.iter().map(|step| step.state).collect::<Vec<_>>();
            assert_eq!(states, [StepState::Succeeded, running, StepState::Skipped]);
            assert_eq!(report.steps[1].message, "because");
            assert_eq!(report.steps[2].message, "not begun: because");
            assert_eq!(report.status, Some(status));
        }
    }

    #[test]
    fn a_run_that_was_cancelled_before_it_did_anything_has_failed() {
        let closed = |steps: &[(StepState, u64)]| {
            let steps = steps.iter().map(|(state, batches)| StepReport {
                batches: *batches,
                ..step("a", *state)
            });
            let mut report = Report {
                steps: steps.collect(),
                ..Report::default()
            };
            report.close(RunState::Cancelled, "enough");
            (report.status, report.operation_reports()[0].status)
        };
        let (failed, partial) = (Some(ReportStatus::Failed), Some(ReportStatus::PartialSuccess));
        assert_eq!(closed(&[(StepState::Pending, 0), (StepState::Pending, 0)]), (failed, None));
        assert_eq!(closed(&[(StepState::Running, 0), (StepState::Pending, 0)]), (failed, failed));
        assert_eq!(
            closed(&[(StepState::Running, 1), (StepState::Pending, 0)]),
            (partial, partial)
        );
        assert_eq!(
            closed(&[(StepState::Succeeded, 0), (StepState::Pending, 0)]),
            (partial, partial)
        );
        assert_eq!(closed(&[(StepState::Failed, 1), (StepState::Pending, 0)]), (partial, failed));
    }

    #[test]
    fn a_run_whose_first_failure_stopped_the_rest_did_nothing() {
        let of = |states: &[StepState]| Report {
            steps: states.iter().map(|state| step("a", *state)).collect(),
            ..Report::default()
        };
        assert!(of(&[StepState::Failed, StepState::Skipped]).nothing_succeeded());
        assert!(!of(&[StepState::Succeeded, StepState::Failed]).nothing_succeeded());
        assert!(!of(&[StepState::Failed, StepState::Pending]).nothing_succeeded());
        assert!(!of(&[]).nothing_succeeded(), "a run without a step failed at nothing");
    }

    fn steps() -> impl Strategy<Value = Vec<StepReport>> {
        let state = prop::sample::select(vec![
            StepState::Pending,
            StepState::Running,
            StepState::Succeeded,
            StepState::Partial,
            StepState::Failed,
            StepState::Skipped,
        ]);
        let numbers = prop::array::uniform9(0_u64..1_000_000);
        prop::collection::vec((0_usize..4, state, numbers), 0..20).prop_map(|steps| {
            let steps = steps.into_iter().map(|(operation, state, numbers)| StepReport {
                rows_planned: numbers[0],
                rows_examined: numbers[1],
                rows_matched: numbers[2],
                rows_affected: numbers[3],
                rows_captured: numbers[4],
                captured_bytes: numbers[5],
                rows_conflicting: numbers[6],
                rows_remaining: numbers[7],
                duration_ms: numbers[8],
                ..step(["a", "b", "c", "d"][operation], state)
            });
            steps.collect()
        })
    }

    proptest! {
        #[test]
        fn operations_sum_up_to_the_run(steps in steps()) {
            let report = Report { steps, ..Report::default() };
            let operations = report.operation_reports();
            let sum = |number: fn(&OperationReport) -> u64| operations.iter().map(number).sum::<u64>();
            prop_assert_eq!(sum(|o| o.rows_planned), report.total(|s| s.rows_planned));
            prop_assert_eq!(sum(|o| o.rows_examined), report.total(|s| s.rows_examined));
            prop_assert_eq!(sum(|o| o.rows_matched), report.total(|s| s.rows_matched));
            prop_assert_eq!(sum(|o| o.rows_affected), report.total(|s| s.rows_affected));
            prop_assert_eq!(sum(|o| o.rows_captured), report.total(|s| s.rows_captured));
            prop_assert_eq!(sum(|o| o.captured_bytes), report.total(|s| s.captured_bytes));
            prop_assert_eq!(sum(|o| o.rows_conflicting), report.total(|s| s.rows_conflicting));
            prop_assert_eq!(sum(|o| o.rows_remaining), report.total(|s| s.rows_remaining));
            prop_assert_eq!(sum(|o| o.duration_ms), report.total(|s| s.duration_ms));
            let mut indexes: Vec<u32> = operations.iter().flat_map(|o| o.steps.clone()).collect();
            indexes.sort_unstable();
            prop_assert_eq!(indexes.len(), report.steps.len());
            prop_assert!(indexes.iter().zip(0_u32..).all(|(index, position)| *index == position));
            let errors: u32 = operations.iter().map(|o| o.errors).sum();
            prop_assert_eq!(
                usize::try_from(errors).ok(),
                Some(report.steps.iter().filter(|s| s.state == StepState::Failed).count())
            );
        }
    }
}
