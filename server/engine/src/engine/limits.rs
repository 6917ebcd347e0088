//! Limits on counts: the most rows that a request, a rule or an operation may take, and what a rule's earlier runs say about its
//! count now. They are judged over the whole plan, before the first batch; over a limit nothing is deleted. The share of a table is
//! the planner's to judge, and `run::allowance` holds the limits again while rows go. Called by the engine's front.

use crate::{
    EngineError,
    engine::Engine,
    model::{
        Finding, FindingLevel, Plan, PlanStep, Run, RunKind, RunOptions, RunState, StepState,
        going::{self, Going},
    },
    port::RunFilter,
    rule::deeds::amounts,
};

/// Code of the finding that a count is far above what earlier runs deleted. A stated `max_rows` accepts it.
const FAR_ABOVE_HISTORY: &str = "FAR_ABOVE_HISTORY";
/// Code of the finding that a count is over a stated limit.
const OVER_MAX_ROWS: &str = "OVER_MAX_ROWS";
const OVER_MAX_FRACTION: &str = "OVER_MAX_FRACTION";

/// When a count is far from what the same rule of the same operation deleted before, on the same target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HistoryLimits {
    /// Newest runs of the operation that are looked at. Dry runs are none of them, nor runs that were undone.
    pub runs: u32,
    /// Fewest of them that say anything.
    pub least_runs: u32,
    /// Rows above the largest of them that are never too many.
    pub least_rows: u64,
    /// From this multiple of the largest on, a finding of level WARN.
    pub warn_factor: f64,
    /// Above this multiple of the largest, a finding of level BLOCK.
    pub block_factor: f64,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            runs: 10,
            least_runs: 3,
            least_rows: 1_000,
            warn_factor: 3.0,
            block_factor: 10.0,
        }
    }
}

impl HistoryLimits {
    /// How much a planned count stands out among earlier ones; `None` where it does not.
    fn judge(&self, planned: u64, earlier: &[u64]) -> Option<FindingLevel> {
        let largest = earlier.iter().copied().max()?;
        let few = u64::try_from(earlier.len()).is_ok_and(|runs| runs < u64::from(self.least_runs));
        if few || planned <= largest.saturating_add(self.least_rows) {
            return None;
        }
        let multiple = crate::run::as_f64(planned) / crate::run::as_f64(largest.max(1));
        if multiple > self.block_factor {
            Some(FindingLevel::Block)
        } else if multiple >= self.warn_factor {
            Some(FindingLevel::Warn)
        } else {
            None
        }
    }
}

/// What a step of this rule deleted in a run; `None` where it did not come that far.
fn deleted(run: &Run, step: &PlanStep) -> Option<u64> {
    let mut reports = run.report.steps.iter();
    let report = reports.find(|report| report.operation == step.operation && report.rule == step.rule.name)?;
    matches!(report.state, StepState::Succeeded | StepState::Partial).then_some(report.rows_affected)
}

fn finding(code: &str, level: FindingLevel, step: &PlanStep, detail: String, remediation: &str) -> Finding {
    Finding {
        code: code.to_owned(),
        level,
        table: step.table.clone(),
        detail,
        remediation: remediation.to_owned(),
    }
}

fn over(step: &PlanStep, what: &str, count: u64, limit: u64) -> Finding {
    finding(
        OVER_MAX_ROWS,
        FindingLevel::Block,
        step,
        format!("{count} rows would go; {what} allows {limit}"),
        "check the rule; raise max_rows where this is meant",
    )
}

/// Adds what the limits of the catalog and of the request say.
fn add_row_limits(plan: &mut Plan, max_rows: Option<u64>) {
    // What goes along with the selected rows goes as well.
    let total = plan.steps.iter().map(PlanStep::reach).sum::<u64>();
    let mut told: Vec<String> = Vec::new();
    for index in 0..plan.steps.len() {
        let step = &plan.steps[index];
        let mut findings = Vec::new();
        if let Some(limit) = step.rule.max_rows.filter(|limit| step.reach() > *limit) {
            findings.push(over(step, &format!("rule {}", step.rule.name), step.reach(), limit));
        }
        let of_operation = plan.steps.iter().filter(|other| other.operation == step.operation);
        let together = of_operation.map(PlanStep::reach).sum();
        if let Some(limit) = step.operation_max_rows.filter(|limit| together > *limit)
            && !told.contains(&step.operation)
        {
            findings.push(over(step, &format!("operation {}", step.operation), together, limit));
            told.push(step.operation.clone());
        }
        if let Some(limit) = max_rows.filter(|limit| index == 0 && total > *limit) {
            findings.push(over(step, "the request", total, limit));
        }
        plan.steps[index].findings.extend(findings);
    }
}

/// Adds what the share of a table says that several rules together would take; what each takes by itself was looked at before.
fn add_shares(plan: &mut Plan) {
    let planned = Going::planned(plan);
    let mut found = Vec::new();
    for (table, rows) in planned.tables() {
        let steps: Vec<(usize, &PlanStep)> = going::steps(plan, table).collect();
        let told = |step: &PlanStep| {
            step.findings
                .iter()
                .any(|finding| finding.code == OVER_MAX_FRACTION && finding.table == table)
        };
        let ([(first, _), _, ..], Some(size)) = (steps.as_slice(), going::size(plan, table)) else {
            continue;
        };
        let share = going::allowed(plan, table);
        if rows > going::most(size, share) && !steps.iter().any(|(_, step)| told(step)) {
            let finding = Finding {
                code: OVER_MAX_FRACTION.to_owned(),
                level: FindingLevel::Block,
                table: table.to_owned(),
                detail: format!(
                    "{rows} of {size} rows of {table} would go by {} rules together; the most that one of them allows is {:.1} %",
                    steps.len(),
                    f64::from(share) / 10_000.0
                ),
                remediation: "check the rules; run them one by one, or raise max_fraction of one of them where this is meant"
                    .to_owned(),
            };
            found.push((*first, finding));
        }
    }
    for (step, finding) in found {
        plan.steps[step].findings.push(finding);
    }
}

fn findings(plan: &Plan, level: FindingLevel) -> impl Iterator<Item = &Finding> {
    plan.steps
        .iter()
        .flat_map(|step| &step.findings)
        .filter(move |finding| finding.level == level)
}

/// The first finding that forbids a run with these options. A request that states how many rows it takes has seen the count.
fn blocking<'a>(plan: &'a Plan, options: &RunOptions) -> Option<&'a Finding> {
    let stated = options
        .max_rows
        .is_some_and(|most| most >= plan.steps.iter().map(PlanStep::reach).sum());
    findings(plan, FindingLevel::Block).find(|finding| !(stated && finding.code == FAR_ABOVE_HISTORY))
}

/// Whether a run may begin on what `counted` has found now. `reviewed` is the plan whose token came, if any.
///
/// # Errors
/// `PlanBlocked` where either has a finding of level BLOCK. `FindingsUnconfirmed` where there is one of level WARN that the reviewed
/// plan did not show, and the options do not force it.
pub(super) fn accept(counted: &Plan, reviewed: Option<&Plan>, options: &RunOptions) -> Result<(), EngineError> {
    let blocked = reviewed.and_then(|plan| blocking(plan, options));
    if let Some(finding) = blocked.or_else(|| blocking(counted, options)) {
        return Err(EngineError::PlanBlocked {
            finding: Box::new(finding.clone()),
        });
    }
    if options.force {
        return Ok(());
    }
    let shown = |finding: &Finding| {
        reviewed.is_some_and(|plan| {
            findings(plan, FindingLevel::Warn).any(|known| known.code == finding.code && known.table == finding.table)
        })
    };
    match findings(counted, FindingLevel::Warn).find(|finding| !shown(finding)) {
        Some(finding) => Err(EngineError::FindingsUnconfirmed {
            finding: Box::new(finding.clone()),
        }),
        None => Ok(()),
    }
}

/// Whether a run that nobody watches may begin: no finding of level BLOCK, whatever the request states, and no table that would lose more
/// than this share of its rows.
///
/// # Errors
/// `PlanBlocked`.
pub(super) fn accept_unattended(plan: &Plan, max_fraction: Option<f64>) -> Result<(), EngineError> {
    let over = max_fraction.and_then(|share| over_share(plan, share));
    match over.or_else(|| findings(plan, FindingLevel::Block).next().cloned()) {
        Some(finding) => Err(EngineError::PlanBlocked {
            finding: Box::new(finding),
        }),
        None => Ok(()),
    }
}

/// The first table of which a larger share would go, selected or along with what is.
fn over_share(plan: &Plan, share: f64) -> Option<Finding> {
    let planned = Going::planned(plan);
    planned.tables().find_map(|(table, rows)| {
        // Where rows go, the size of their table was looked at.
        let size = going::size(plan, table).unwrap_or(rows);
        (rows > going::most(size, going::millionths(share))).then(|| Finding {
            code: OVER_MAX_FRACTION.to_owned(),
            level: FindingLevel::Block,
            table: table.to_owned(),
            detail: format!("{rows} of {size} rows of {table} would go; the schedule allows a share of {share}"),
            remediation: "check the rule; raise max_fraction where this is meant".to_owned(),
        })
    })
}

/// How a dry run ends: the count, and what a run would be refused for.
pub(super) fn dry_run_says(plan: &Plan, options: &RunOptions) -> String {
    let rows = plan.row_count();
    let steps = plan.steps.iter().map(|step| (&step.rule, step.row_count));
    let mut says = format!("dry run: {}", amounts(steps, "would be "));
    if let Some(finding) = blocking(plan, options) {
        says.push_str(&format!("; a run would be refused: {}: {}", finding.code, finding.detail));
    } else if let Some(most) = options.max_rows.filter(|most| rows > *most) {
        says.push_str(&format!(
            "; a run would be refused: {OVER_MAX_ROWS}: the request allows {most}"
        ));
    }
    says
}

impl Engine {
    /// Adds the findings of the limits to a plan that was just counted, and seals it again.
    ///
    /// # Errors
    /// `Store`, where the history cannot be read: a limit that cannot be judged does not hold.
    pub(super) async fn limit(&self, plan: &mut Plan, max_rows: Option<u64>) -> Result<(), EngineError> {
        add_row_limits(plan, max_rows);
        add_shares(plan);
        let limits = self.context.settings.history;
        // No count up to that can stand out, whatever was deleted before.
        if plan.steps.iter().any(|step| step.row_count > limits.least_rows) {
            for operation in plan.operations.clone() {
                let earlier = self.history(&plan.target, &operation, limits.runs).await?;
                for step in plan.steps.iter_mut().filter(|step| step.operation == operation) {
                    let found = history_finding(&limits, &earlier, step);
                    step.findings.extend(found);
                }
            }
        }
        plan.digest = plan.compute_digest();
        Ok(())
    }

    /// The newest runs of an operation that deleted what they were to delete, and that nobody took back.
    async fn history(&self, target: &str, operation: &str, runs: u32) -> Result<Vec<Run>, EngineError> {
        let filter = RunFilter {
            target: Some(target.to_owned()),
            operation: Some(operation.to_owned()),
            states: vec![RunState::Succeeded, RunState::PartiallySucceeded],
            kinds: vec![RunKind::Cleanup],
            attempted: true,
            ..RunFilter::default()
        };
        let mut earlier = self.context.store.runs(&filter, None, runs).await?;
        earlier.retain(|run| run.undone_by.is_none());
        Ok(earlier)
    }
}

fn history_finding(limits: &HistoryLimits, earlier: &[Run], step: &PlanStep) -> Option<Finding> {
    let counts: Vec<u64> = earlier.iter().filter_map(|run| deleted(run, step)).collect();
    let level = limits.judge(step.row_count, &counts)?;
    let largest = counts.iter().copied().max().unwrap_or_default();
    let detail = format!(
        "{} rows would go; rule {} deleted at most {largest} in its last {} runs",
        step.row_count,
        step.rule.name,
        counts.len()
    );
    let remediation = if level == FindingLevel::Block {
        "find out why there are so many; a run that states max_rows, at or above the plan's count, accepts it"
    } else {
        "find out why there are so many"
    };
    Some(finding(FAR_ABOVE_HISTORY, level, step, detail, remediation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ChildAction, PlanChild, plans},
        rule::Severity,
    };

    #[test]
    fn a_share_is_of_every_table_that_loses_rows() {
        let child = |table: &str, rows: u64, of: u64, action: ChildAction| PlanChild {
            table: table.to_owned(),
            constraint: "key".to_owned(),
            action,
            row_count: rows,
            also_going: 0,
            table_row_count: of,
        };
        let plan = |children: Vec<PlanChild>| {
            let step = PlanStep {
                table_row_count: 100,
                children,
                ..plans::step("t", 10)
            };
            plans::plan(Severity::Low, vec![step])
        };
        let refused = |plan: &Plan, share: f64| over_share(plan, share).map(|finding| finding.table);
        let alone = plan(Vec::new());
        assert_eq!((refused(&alone, 0.1), refused(&alone, 0.099)), (None, Some("t".to_owned())));
        // Rows of the same table that go along are of its share, and those of another of that one's.
        let along = plan(vec![
            child("t", 19, 100, ChildAction::Delete),
            child("c", 2, 10, ChildAction::Delete),
        ]);
        assert_eq!((refused(&along, 0.29), refused(&along, 0.28)), (None, Some("t".to_owned())));
        let more = plan(vec![child("c", 3, 10, ChildAction::Delete)]);
        assert_eq!((refused(&more, 0.3), refused(&more, 0.29)), (None, Some("c".to_owned())));
        let changed = plan(vec![child("c", 9, 10, ChildAction::SetNull)]);
        assert_eq!(refused(&changed, 0.1), None, "they stay");
    }

    #[test]
    fn a_count_stands_out_by_factor_and_by_rows() {
        let limits = HistoryLimits::default();
        for (planned, earlier, expected) in [
            // Too few runs say nothing.
            (1_000_000, vec![], None),
            (1_000_000, vec![1, 1], None),
            // Small differences say nothing, whatever the factor.
            (1_000, vec![0, 0, 0], None),
            (1_001, vec![0, 0, 0], Some(FindingLevel::Block)),
            (1_001, vec![1, 1, 1], None),
            // The largest decides.
            (3_000, vec![1_500, 10, 10], None),
            (4_499, vec![1_500, 10, 10], None),
            (4_500, vec![1_500, 10, 10], Some(FindingLevel::Warn)),
            (15_000, vec![1_500, 10, 10], Some(FindingLevel::Warn)),
            (15_001, vec![1_500, 10, 10], Some(FindingLevel::Block)),
            (u64::MAX, vec![u64::MAX; 3], None),
        ] {
            assert_eq!(limits.judge(planned, &earlier), expected, "{planned} after {earlier:?}");
        }
    }
}
