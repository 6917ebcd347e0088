//! How many rows a step may take while the run is at work: what the plan counted with the drift that is tolerated, and never more
//! than the limits of its rule, its operation and the run. The limits were judged before the run began; rows that began to match
//! since then must not carry it beyond them. Called by the work of a cleanup.

use crate::{
    engine::Drift,
    model::{Plan, RunOptions, StepReport},
};

/// Most rows that a step may have touched when it ends, by the limits of its rule, its operation and the run. `done` are the
/// reports of the plan's steps so far.
fn limit(plan: &Plan, index: usize, done: &[StepReport], options: &RunOptions) -> u64 {
    let step = &plan.steps[index];
    let others = |same_operation: bool| -> u64 {
        let steps = plan.steps.iter().zip(done).enumerate();
        steps
            .filter(|(other, (planned, _))| *other != index && (!same_operation || planned.operation == step.operation))
            .map(|(_, (_, report))| report.reach())
            .sum()
    };
    let of_rule = step.rule.max_rows.unwrap_or(u64::MAX);
    let of_operation = step
        .operation_max_rows
        .map_or(u64::MAX, |most| most.saturating_sub(others(true)));
    let of_run = options.max_rows.map_or(u64::MAX, |most| most.saturating_sub(others(false)));
    of_rule.min(of_operation).min(of_run)
}

/// Most rows that a step may have taken when it ends. `done` are the reports of the plan's steps so far.
pub(super) fn of_step(plan: &Plan, index: usize, done: &[StepReport], drift: Drift, options: &RunOptions) -> u64 {
    let planned = plan.steps[index].row_count;
    let drifted = planned.saturating_add(drift.tolerance(planned));
    // What went along counts against the limits as well.
    let along = done.get(index).map_or(0, StepReport::along_count);
    drifted.min(limit(plan, index, done, options).saturating_sub(along))
}

/// How many rows a batch may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchAllowance {
    /// Rows that go or change along with the listed ones.
    pub along: u64,
    /// Those and the listed ones together.
    pub touched: u64,
}

/// What the next batch of a step may touch, by what the plan counted with the drift that is tolerated, and by what the limits leave.
/// Where rows of the table hang on others of it (`itself`), rows that a later batch would list go along now: then both counts are
/// one.
pub(super) fn of_batch(
    plan: &Plan,
    index: usize,
    done: &[StepReport],
    (drift, options): (Drift, &RunOptions),
    itself: bool,
) -> BatchAllowance {
    let step = &plan.steps[index];
    let (reach, along) = done
        .get(index)
        .map_or((0, 0), |report| (report.reach(), report.along_count()));
    let drifted = |planned: u64| planned.saturating_add(drift.tolerance(planned));
    let touched = drifted(step.reach()).min(limit(plan, index, done, options));
    BatchAllowance {
        along: if itself {
            u64::MAX
        } else {
            drifted(step.along_count()).saturating_sub(along)
        },
        touched: touched.saturating_sub(reach),
    }
}
