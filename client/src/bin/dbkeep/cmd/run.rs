//! `dbkeep run`: runs operations; a dry run unless `--execute`.
//!
//! Owns the order of things before rows go: plan, show, ask, and only then run with the plan's token, so that what was shown
//! is what runs. Called by `main.rs`.

use std::collections::BTreeSet;

use clap::Args;
use dbkeep_client::{PlanRequest, RunRequest, proto};

use crate::{
    duration::Span,
    exit::Exit,
    follow::{Until, follow},
    json::event::Line,
    output::Tone,
    prompt,
    session::Session,
    table,
};

/// Sample rows that are shown before the question.
const SAMPLES: usize = 3;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Names of operations, in the order in which they run; may be left away where --plan names them.
    #[arg(required_unless_present = "plan", value_name = "OPERATION")]
    pub(crate) operations: Vec<String>,
    /// Target to clean; may be left away where the server has one.
    #[arg(long)]
    target: Option<String>,
    /// Delete. Without it, the run stops after counting.
    #[arg(long)]
    pub(crate) execute: bool,
    /// Token of a plan that was reviewed; without it, --execute plans first and shows the plan.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) plan: Option<String>,
    /// Phrase that a plan of severity CRITICAL states, letter by letter; without it, a terminal is asked.
    #[arg(long, value_name = "TEXT", requires = "execute")]
    phrase: Option<String>,
    /// Refuse to delete more rows than this; at or above the plan's count, it also accepts a count far above earlier runs.
    #[arg(long, value_name = "ROWS")]
    max_rows: Option<u64>,
    /// Do not ask, and take findings of level WARN; stands in for no token, phrase, approval, backup or limit.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pace: Pace,
    /// Back up the rows of every operation, also of those that ask for no backup, so that the run can be undone.
    #[arg(long)]
    capture: bool,
    /// Begin no operation after one that failed; without it, the others go on.
    #[arg(long)]
    pub(crate) stop_on_failure: bool,
    /// Do not ask before deleting; for scripts.
    #[arg(long, short, requires = "execute")]
    pub(crate) yes: bool,
    /// Print the run's id and leave it at work.
    #[arg(long)]
    pub(crate) detach: bool,
}

/// How a run works; for `run` and `runs undo`.
#[derive(Debug, Args)]
pub(crate) struct Pace {
    /// Rows per transaction, 1 to 10000 [server default: 1000].
    #[arg(long, value_name = "ROWS")]
    pub(crate) batch_size: Option<u32>,
    /// Stop at a batch boundary after this time, 60s to 2h [server default: 30m].
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_time: Option<Span>,
    /// Work without rests; the foreground will feel it.
    #[arg(long)]
    pub(crate) full_speed: bool,
    /// Most rows a second, on average [server default: no limit].
    #[arg(long, value_name = "ROWS")]
    pub(crate) rows_per_second: Option<u32>,
    /// Share of its time that the run is at work, 1 to 100 percent [server default: 50].
    #[arg(long, value_name = "PERCENT", conflicts_with = "full_speed")]
    pub(crate) duty_cycle: Option<u32>,
    /// Hold the run while a replica is further behind, 1s to 1h [server default: 10s, and none at full speed].
    #[arg(long, value_name = "DURATION")]
    pub(crate) max_replica_lag: Option<Span>,
    /// Wait in line where another run holds a table, instead of being refused.
    #[arg(long)]
    pub(crate) queue: bool,
}

/// Applies a [`Pace`] to the builder of a request; both builders have the same methods.
macro_rules! paced {
    ($request:expr, $pace:expr) => {{
        let (mut request, pace): (_, &$crate::cmd::run::Pace) = ($request, $pace);
        if let Some(rows) = pace.batch_size {
            request = request.batch_size(rows);
        }
        if let Some(time) = pace.max_time {
            request = request.max_execution_time(time.into());
        }
        if pace.full_speed {
            request = request.full_speed();
        }
        if let Some(rows) = pace.rows_per_second {
            request = request.max_rows_per_second(rows);
        }
        if let Some(percent) = pace.duty_cycle {
            request = request.duty_cycle_percent(percent);
        }
        if let Some(lag) = pace.max_replica_lag {
            request = request.max_replica_lag(lag.into());
        }
        if pace.queue {
            request = request.queue();
        }
        request
    }};
}
pub(crate) use paced;

impl Run {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let until = if self.detach { Until::Started } else { Until::End };
        let target = self.target.as_deref().unwrap_or_default();
        let mut request = match (&self.plan, self.execute) {
            (Some(token), _) => {
                let request = RunRequest::new(&self.operations).target(target).plan_token(token);
                if self.execute && !self.yes && !self.force && self.phrase.is_none() {
                    let question = "Delete the rows of the plan with this token?";
                    if let Err(exit) = prompt::confirm(question, &session.output).await? {
                        return Ok(exit);
                    }
                }
                match &self.phrase {
                    Some(phrase) => request.confirmation_phrase(phrase),
                    None => request,
                }
            }
            (None, false) => RunRequest::new(&self.operations).target(target),
            (None, true) => {
                let plan = session
                    .client
                    .cleanup()
                    .plan(PlanRequest::new(&self.operations).target(target))
                    .await?;
                match self.review(&plan, session).await? {
                    Ok(phrase) => RunRequest::of_plan(&plan).confirmation_phrase(phrase),
                    Err(exit) => return Ok(exit),
                }
            }
        };
        if self.execute {
            request = request.execute();
        }
        if let Some(rows) = self.max_rows {
            request = request.max_rows(rows);
        }
        if self.force {
            request = request.force();
        }
        if self.capture {
            request = request.capture();
        }
        if self.stop_on_failure {
            request = request.stop_on_failure();
        }
        let request = paced!(request, &self.pace);
        let cleanup = session.client.cleanup();
        follow(session, proto::RunKind::Cleanup, until, cleanup.run(request)).await
    }

    /// Shows the plan and asks. `Ok` means go on, with the confirmation phrase where the plan has one; the error is how the command
    /// ends otherwise.
    async fn review(&self, plan: &proto::Plan, session: &Session) -> anyhow::Result<Result<String, Exit>> {
        let output = &session.output;
        if output.is_json() {
            output.json(&Line::Plan { plan: plan.into() })?;
        } else {
            table::plan(plan, SAMPLES, output)?;
        }
        if plan.blocked && !self.accepts_count(plan) {
            output.note(output.paint_note(Tone::Bad, "A finding blocks this plan. Nothing was changed."));
            return Ok(Err(Exit::Refused));
        }
        // Typing the phrase is the answer to any question.
        if let Some(phrase) = &self.phrase {
            return Ok(Ok(phrase.clone()));
        }
        if !plan.confirmation_phrase.is_empty() {
            return Ok(prompt::phrase(&plan.confirmation_phrase, output).await?);
        }
        // Nothing to delete is nothing to ask about; the run is recorded all the same.
        if self.yes || self.force || plan.row_count == 0 {
            return Ok(Ok(String::new()));
        }
        Ok(prompt::confirm(&question(plan), output).await?.map(|()| String::new()))
    }

    /// Whether the only thing that blocks a plan is a count far above earlier ones, and `--max-rows` says that it is meant.
    fn accepts_count(&self, plan: &proto::Plan) -> bool {
        let mut findings = plan.steps.iter().flat_map(|step| &step.findings);
        self.max_rows.is_some_and(|most| most >= plan.row_count)
            && findings.all(|finding| finding.level() != proto::FindingLevel::Block || finding.code == "FAR_ABOVE_HISTORY")
    }
}

fn question(plan: &proto::Plan) -> String {
    let tables: BTreeSet<&str> = plan
        .steps
        .iter()
        .filter(|step| step.row_count > 0)
        .map(|step| step.table.as_str())
        .collect();
    let amount = table::amount(plan);
    if tables.iter().any(|table| table::is_root(table)) {
        return format!("Take {amount} of {}?", plan.target);
    }
    let noun = if tables.len() == 1 { "table" } else { "tables" };
    format!("Delete {amount} in {} {noun} of {}?", tables.len(), plan.target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_counts_rows_and_tables_that_lose_some() {
        let step = |table: &str, row_count| proto::PlanStep {
            table: table.into(),
            row_count,
            ..Default::default()
        };
        let mut plan = proto::Plan {
            target: "main".into(),
            row_count: 1200,
            steps: vec![step("a", 1000), step("b", 200), step("a", 0), step("c", 0)],
            ..Default::default()
        };
        assert_eq!(question(&plan), "Delete 1,200 rows in 2 tables of main?");
        plan.row_count = 1;
        plan.steps = vec![step("a", 1)];
        assert_eq!(question(&plan), "Delete 1 row in 1 table of main?");
        plan.steps = vec![step("a", 1), step("files:uploads", 2)];
        assert_eq!(question(&plan), "Take 1 row and 2 files of main?");
    }
}
