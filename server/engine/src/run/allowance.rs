//! How many rows a step may take while the run is at work: what the plan counted with the drift that is tolerated, and never more
//! than the limits of its rule, its operation and the run. The limits were judged before the run began; rows that began to match
//! since then must not carry it beyond them. Called by the work of a cleanup.

use crate::{
    engine::Drift,
    model::{
        Along, ChildAction, Plan, PlanStep, RunOptions, StepReport,
        going::{self, Going},
    },
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

/// Most rows that a step may have taken of its table when it ends, by the share of it that may go. Where rows of the table go along with
/// others of it, only their batch tells how many go: some of those that are listed have gone already.
fn of_table(plan: &Plan, index: usize, done: &[StepReport], options: &RunOptions) -> u64 {
    let step = &plan.steps[index];
    let mut children = step.children.iter();
    if children.any(|child| child.table == step.table && child.action == ChildAction::Delete) {
        return u64::MAX;
    }
    let itself = done.get(index).map_or(0, |report| report.rows_affected);
    left_of(plan, &Going::done(plan, done), &step.table, options).saturating_add(itself)
}

/// Rows that may still go of a table, by the share of it that the rules allow, and the run.
fn left_of(plan: &Plan, done: &Going<'_>, table: &str, options: &RunOptions) -> u64 {
    let allowed = going::allowed(plan, table);
    let share = options.max_share_millionths.map_or(allowed, |share| share.min(allowed));
    // A plan of before sizes were kept does not know them of tables that rows go along in; its acceptance did not look at their share either.
    let Some(size) = going::size(plan, table) else {
        return u64::MAX;
    };
    going::most(size, share).saturating_sub(done.of(table))
}

/// What may still go of each table that the plan says loses rows.
fn shares(plan: &Plan, index: usize, done: &[StepReport], options: &RunOptions) -> Vec<ShareLeft> {
    let gone = Going::done(plan, done);
    let planned = Going::planned(plan);
    let tables = planned.tables().map(|(table, _)| ShareLeft {
        table: table.to_owned(),
        rows: left_of(plan, &gone, table, options),
        listed: table == plan.steps[index].table,
    });
    tables.collect()
}

/// Most rows that a step may have taken when it ends. `done` are the reports of the plan's steps so far.
pub(super) fn of_step(plan: &Plan, index: usize, done: &[StepReport], drift: Drift, options: &RunOptions) -> u64 {
    let planned = plan.steps[index].row_count;
    let drifted = planned.saturating_add(drift.tolerance(planned));
    // What went along counts against the limits as well.
    let along = done.get(index).map_or(0, StepReport::along_count);
    drifted
        .min(limit(plan, index, done, options).saturating_sub(along))
        .min(of_table(plan, index, done, options))
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
    /// Rows that may still go of tables, by the share of them that may.
    pub shares: Vec<ShareLeft>,
}

/// What a share of a table leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareLeft {
    /// The table.
    pub table: String,
    /// Rows of it that may still go.
    pub rows: u64,
    /// Whether the listed rows are its.
    pub listed: bool,
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
        let over_share = self.shares.iter().find_map(|share| {
            let hanging = along.iter().filter(|along| along.table == share.table);
            let hanging: u64 = hanging.map(|along| along.deleted).sum();
            let going = hanging + if share.listed { affected } else { 0 };
            (going > share.rows).then(|| {
                format!(
                    "{going} rows of {} are to go with this batch, and the share of it that may go leaves {} more",
                    share.table, share.rows
                )
            })
        });
        if over_share.is_some() {
            return over_share;
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
        shares: shares(plan, index, done, options),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{PlanChild, RunOptions, plans},
        rule::Severity,
    };

    /// Two steps on one table, and rows of it and of another that go along: what a plan of exactly the share allows is what the run may do, and
    /// not a row more.
    #[test]
    fn the_share_at_work_is_the_share_of_the_plan() {
        let child = |table: &str, rows: u64, of: u64| PlanChild {
            table: table.to_owned(),
            constraint: "key".to_owned(),
            action: ChildAction::Delete,
            row_count: rows,
            also_going: 0,
            table_row_count: of,
        };
        let step = |rows| PlanStep {
            table_row_count: 100,
            ..plans::step("t", rows)
        };
        let mut first = step(10);
        first.children = vec![child("t", 5, 100), child("c", 20, 40)];
        let plan = plans::plan(Severity::Low, vec![first, step(15)]);
        let planned = Going::planned(&plan);
        assert_eq!((planned.of("t"), planned.of("c")), (30, 20));
        let options = |share: f64| RunOptions {
            max_share_millionths: Some(going::millionths(share)),
            ..RunOptions::default()
        };
        let drift = Drift {
            fraction: 1.0,
            rows: 100,
        };
        let along = |table: &str, deleted: u64| Along {
            table: table.to_owned(),
            deleted,
            nullified: 0,
        };
        // Nothing is done yet: the first step may take what it planned, with all that hangs on it, where half of c may go.
        let begun = vec![StepReport::default(), StepReport::default()];
        let batch = |share, done: &[StepReport]| of_batch(&plan, 0, done, (drift, &options(share)), true);
        assert_eq!(batch(0.5, &begun).exceeded(10, &[along("t", 5), along("c", 20)]), None);
        let refused = batch(0.499, &begun).exceeded(10, &[along("t", 5), along("c", 20)]);
        assert!(refused.is_some_and(|why| why.contains("20 rows of c")), "half of c is more");
        // With a share of 0.3 of t the first step took 10 and 5 of it: 15 are left to the second, which is what it planned.
        let done = vec![
            StepReport {
                rows_affected: 10,
                along: vec![along("t", 5), along("c", 12)],
                ..StepReport::default()
            },
            StepReport::default(),
        ];
        assert_eq!(of_step(&plan, 1, &done, drift, &options(0.3)), 15);
        assert_eq!(of_step(&plan, 1, &done, drift, &options(0.29)), 14);
        let refused = batch(0.3, &done).exceeded(10, &[along("t", 6)]);
        assert!(
            refused.is_some_and(|why| why.contains("16 rows of t")),
            "the listed ones count as well"
        );
        assert_eq!(batch(0.3, &done).exceeded(10, &[along("t", 5)]), None);
    }

    /// A run that names no share holds that of its rules: rows that began to match since the plan do not carry it beyond.
    #[test]
    fn the_share_of_the_rules_holds_without_another() {
        let mut step = PlanStep {
            table_row_count: 100,
            ..plans::step("t", 45)
        };
        step.rule.max_fraction = 0.5;
        let plan = plans::plan(Severity::Low, vec![step]);
        let begun = vec![StepReport::default()];
        let drift = Drift {
            fraction: 1.0,
            rows: 100,
        };
        let options = RunOptions::default();
        assert_eq!(of_step(&plan, 0, &begun, drift, &options), 50);
        let narrower = RunOptions {
            max_share_millionths: Some(going::millionths(0.3)),
            ..RunOptions::default()
        };
        assert_eq!(of_step(&plan, 0, &begun, drift, &narrower), 30);
    }
}
