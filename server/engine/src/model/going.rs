//! How many rows go of each table: selected by the steps of a plan, and along with those. One count for what a plan says and for what a run has
//! done, so that a share of a table means the same before the first batch and in the last.

use std::collections::BTreeMap;

use super::{ChildAction, Plan, PlanStep, StepReport};

/// Parts of a whole share.
const WHOLE: u32 = 1_000_000;

/// Rows that go, or have gone, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Going<'a>(BTreeMap<&'a str, u64>);

impl<'a> Going<'a> {
    fn add(&mut self, table: &'a str, rows: u64) {
        let sum = self.0.entry(table).or_default();
        *sum = sum.saturating_add(rows);
    }

    /// What a plan counted.
    #[must_use]
    pub fn planned(plan: &'a Plan) -> Self {
        let mut going = Self::default();
        for step in &plan.steps {
            going.add(&step.table, step.row_count);
            for child in step.children.iter().filter(|child| child.action == ChildAction::Delete) {
                going.add(&child.table, child.row_count);
            }
        }
        going
    }

    /// What its steps have done so far.
    #[must_use]
    pub fn done(plan: &'a Plan, reports: &'a [StepReport]) -> Self {
        let mut going = Self::default();
        for (step, report) in plan.steps.iter().zip(reports) {
            going.add(&step.table, report.rows_affected);
            for along in &report.along {
                going.add(&along.table, along.deleted);
            }
        }
        going
    }

    /// Rows of one table.
    #[must_use]
    pub fn of(&self, table: &str) -> u64 {
        self.0.get(table).copied().unwrap_or_default()
    }

    /// The tables of which any go, with how many.
    pub fn tables(&self) -> impl Iterator<Item = (&'a str, u64)> + '_ {
        self.0
            .iter()
            .filter(|(_, rows)| **rows > 0)
            .map(|(table, rows)| (*table, *rows))
    }
}

/// Rows of a table when the plan was made; `None` where it did not have to know.
#[must_use]
pub fn size(plan: &Plan, table: &str) -> Option<u64> {
    let of_steps = plan
        .steps
        .iter()
        .filter(|step| step.table == table)
        .map(|step: &PlanStep| step.table_row_count);
    let children = plan.steps.iter().flat_map(|step| &step.children);
    let of_children = children
        .filter(|child| child.table == table)
        .map(|child| child.table_row_count);
    of_steps.chain(of_children).find(|rows| *rows > 0)
}

/// Steps by which rows of a table go.
pub fn steps<'a>(plan: &'a Plan, table: &'a str) -> impl Iterator<Item = (usize, &'a PlanStep)> {
    let takes = move |step: &PlanStep| {
        let mut children = step.children.iter();
        step.table == table || children.any(|child| child.table == table && child.action == ChildAction::Delete)
    };
    plan.steps.iter().enumerate().filter(move |(_, step)| takes(step))
}

/// Largest share of a table that the rules of a plan let go, in millionths. It holds for all of them together: a rule that allows more than
/// others was written by somebody who has looked at that table.
#[must_use]
pub fn allowed(plan: &Plan, table: &str) -> u32 {
    let shares = steps(plan, table).map(|(_, step)| millionths(step.rule.max_fraction));
    shares.max().unwrap_or(WHOLE)
}

/// A share of a table in millionths.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share from 0 to 1")]
pub fn millionths(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * f64::from(WHOLE)).round() as u32
}

/// Most rows of a table of this size that are such a share of it.
#[must_use]
pub fn most(size: u64, share_millionths: u32) -> u64 {
    let most = u128::from(size) * u128::from(share_millionths) / u128::from(WHOLE);
    u64::try_from(most).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_what_was_written() {
        for (share, size, rows) in [
            (0.29, 100, 29),
            (0.3, 10, 3),
            (0.5, 3, 1),
            (1.0, u64::MAX, u64::MAX),
            (0.0, 9, 0),
        ] {
            assert_eq!(most(size, millionths(share)), rows, "{share} of {size}");
        }
    }
}
