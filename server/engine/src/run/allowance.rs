//! How many rows a step may take while the run is at work: what the plan counted with the drift that is tolerated, and never more
//! than the limits of its rule, its operation and the run. The limits were judged before the run began; rows that began to match
//! since then must not carry it beyond them. Called by the work of a cleanup.

use crate::{
    engine::Drift,
    model::{Along, ChildAction, Plan, PlanStep, RunOptions, StepReport},
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

/// Most rows that a step may have taken of its table when it ends, by the share of it that the run may delete.
fn of_table(plan: &Plan, index: usize, done: &[StepReport], share_millionths: u32) -> u64 {
    let step = &plan.steps[index];
    let most = u128::from(step.table_row_count) * u128::from(share_millionths) / 1_000_000;
    let gone: u64 = plan
        .steps
        .iter()
        .zip(done)
        .enumerate()
        .map(|(other, (planned, report))| {
            let taken = if other != index && planned.table == step.table {
                report.rows_affected
            } else {
                0
            };
            let along = report.along.iter().filter(|along| along.table == step.table);
            taken + along.map(|along| along.deleted).sum::<u64>()
        })
        .sum();
    u64::try_from(most).unwrap_or(u64::MAX).saturating_sub(gone)
}

/// Most rows that a step may have taken when it ends. `done` are the reports of the plan's steps so far.
pub(super) fn of_step(plan: &Plan, index: usize, done: &[StepReport], drift: Drift, options: &RunOptions) -> u64 {
    let planned = plan.steps[index].row_count;
    let drifted = planned.saturating_add(drift.tolerance(planned));
    // What went along counts against the limits as well.
    let along = done.get(index).map_or(0, StepReport::along_count);
    let share = options
        .max_share_millionths
        .map_or(u64::MAX, |share| of_table(plan, index, done, share));
    drifted
        .min(limit(plan, index, done, options).saturating_sub(along))
        .min(share)
}

/// How many rows a batch may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchAllowance {
    /// Rows that go or change along with the listed ones.
    pub along: u64,
    /// Those and the listed ones together.
    pub touched: u64,
    /// Rows that may be deleted and changed along in each table that the plan names.
    pub tables: Vec<Along>,
    /// The same for any other table.
    pub elsewhere: u64,
}

impl BatchAllowance {
    /// What of a batch with `affected` listed rows is more than it may touch, as a sentence.
    pub(super) fn exceeded(&self, affected: u64, along: &[Along]) -> Option<String> {
        let most = self.along.min(self.touched.saturating_sub(affected));
        let all: u64 = along.iter().map(|along| along.deleted + along.nullified).sum();
        if all > most {
            return Some(format!(
                "{all} rows hang on the {affected} of this batch, at most {most} more were planned or allowed"
            ));
        }
        along.iter().find_map(|along| {
            let planned = self.tables.iter().find(|planned| planned.table == along.table);
            let (deleted, nullified) = planned.map_or((self.elsewhere, self.elsewhere), |planned| {
                (planned.deleted, planned.nullified)
            });
            let over = |what: &str, rows: u64, most: u64| {
                (rows > most).then(|| {
                    format!(
                        "{rows} rows of {} are to be {what} along with this batch, at most {most} more were planned",
                        along.table
                    )
                })
            };
            over("deleted", along.deleted, deleted).or_else(|| over("changed", along.nullified, nullified))
        })
    }
}

/// What each table that the plan names may still lose or have changed along.
fn by_table(step: &PlanStep, done: &[Along], drift: Drift, itself: bool) -> Vec<Along> {
    let untouched = |done: &Along| Along {
        table: done.table.clone(),
        deleted: 0,
        nullified: 0,
    };
    let mut tables: Vec<Along> = done.iter().map(untouched).collect();
    for child in &step.children {
        let (deleted, nullified) = match child.action {
            ChildAction::Delete => (child.row_count, 0),
            _ => (0, child.row_count + child.also_going),
        };
        let table = child.table.clone();
        Along::add(
            &mut tables,
            &[Along {
                table,
                deleted,
                nullified,
            }],
        );
    }
    for planned in &mut tables {
        let of_table = done.iter().find(|done| done.table == planned.table);
        let left = |planned: u64, done: Option<u64>| {
            planned
                .saturating_add(drift.tolerance(planned))
                .saturating_sub(done.unwrap_or_default())
        };
        planned.nullified = left(planned.nullified, of_table.map(|done| done.nullified));
        planned.deleted = left(planned.deleted, of_table.map(|done| done.deleted));
        if itself && planned.table == step.table {
            planned.deleted = u64::MAX;
        }
    }
    tables
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
    let twice = step.touched_twice();
    let drifted = |planned: u64| planned.saturating_add(drift.tolerance(planned)).saturating_add(twice);
    let touched = drifted(step.reach()).min(limit(plan, index, done, options));
    BatchAllowance {
        along: if itself {
            u64::MAX
        } else {
            drifted(step.along_count()).saturating_sub(along)
        },
        touched: touched.saturating_sub(reach),
        tables: by_table(
            step,
            done.get(index).map_or(&[][..], |report| report.along.as_slice()),
            drift,
            itself,
        ),
        elsewhere: drift.tolerance(0),
    }
}
