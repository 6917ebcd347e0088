//! `dbkeep run`: runs operations; a dry run unless `--execute`.
//!
//! Owns the order of things before rows go: plan, show, ask, and only then run with the plan's token, so that what was shown
//! is what runs. Called by `main.rs`.

use std::{collections::BTreeSet, time::Duration};

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
    #[command(flatten)]
    pace: Pace,
    /// Make the space of the deleted rows reusable at the end (VACUUM), and tell what became of it.
    #[arg(long)]
    vacuum: bool,
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
}

impl Run {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let until = if self.detach { Until::Started } else { Until::End };
        let target = self.target.as_deref().unwrap_or_default();
        let mut request = match (&self.plan, self.execute) {
            (Some(token), _) => {
                let request = RunRequest::new(&self.operations).target(target).plan_token(token);
                if self.execute && !self.yes {
                    let question = "Delete the rows of the plan with this token?";
                    if let Err(exit) = prompt::confirm(question, &session.output).await? {
                        return Ok(exit);
                    }
                }
                request
            }
            (None, false) => RunRequest::new(&self.operations).target(target),
            (None, true) => {
                let plan = session
                    .client
                    .cleanup()
                    .plan(PlanRequest::new(&self.operations).target(target))
                    .await?;
                if let Err(exit) = self.review(&plan, session).await? {
                    return Ok(exit);
                }
                RunRequest::of_plan(&plan)
            }
        };
        if self.execute {
            request = request.execute();
        }
        if let Some(rows) = self.pace.batch_size {
            request = request.batch_size(rows);
        }
        if let Some(time) = self.pace.max_time {
            request = request.max_execution_time(Duration::from(time));
        }
        if self.pace.full_speed {
            request = request.full_speed();
        }
        if self.vacuum {
            request = request.vacuum();
        }
        let cleanup = session.client.cleanup();
        follow(session, proto::RunKind::Cleanup, until, cleanup.run(request)).await
    }

    /// Shows the plan and asks. `Ok(())` means go on; the error is how the command ends otherwise.
    async fn review(&self, plan: &proto::Plan, session: &Session) -> anyhow::Result<Result<(), Exit>> {
        let output = &session.output;
        if output.is_json() {
            output.json(&Line::Plan { plan: plan.into() })?;
        } else {
            table::plan(plan, SAMPLES, output)?;
        }
        if plan.blocked {
            output.note(output.paint_note(Tone::Bad, "A finding blocks this plan. Nothing was changed."));
            return Ok(Err(Exit::Refused));
        }
        // Nothing to delete is nothing to ask about; the run is recorded all the same.
        if self.yes || plan.row_count == 0 {
            return Ok(Ok(()));
        }
        Ok(prompt::confirm(&question(plan), output).await?)
    }
}

fn question(plan: &proto::Plan) -> String {
    let tables: BTreeSet<&str> = plan
        .steps
        .iter()
        .filter(|step| step.row_count > 0)
        .map(|step| step.table.as_str())
        .collect();
    let noun = if tables.len() == 1 { "table" } else { "tables" };
    format!(
        "Delete {} in {} {noun} of {}?",
        table::rows(plan.row_count),
        tables.len(),
        plan.target
    )
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
    }
}
