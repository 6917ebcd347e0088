//! `dbkeep plan`: what a run would delete, counted exactly.
//!
//! Owns the arguments; how a plan looks is `table.rs` and `json/plan.rs`. Called by `main.rs`.

use clap::Args;
use dbkeep_client::PlanRequest;
use serde_json::json;

use crate::{exit::Exit, json, session::Session, table};

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Names of operations, in the order in which they would run.
    #[arg(required = true, value_name = "OPERATION")]
    operations: Vec<String>,
    /// Target to plan for; may be left away where the server has one.
    #[arg(long)]
    target: Option<String>,
    /// Sample rows to show for each step, 0 to 10.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=10))]
    samples: u8,
}

impl Plan {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let request = PlanRequest::new(&self.operations).target(self.target.unwrap_or_default());
        let plan = session.client.cleanup().plan(request).await?;
        if output.is_json() {
            output.json(&json!({ "plan": json::plan::Plan::from(&plan) }))?;
            return Ok(Exit::Success);
        }
        table::plan(&plan, usize::from(self.samples), output)?;
        if !plan.blocked {
            let command = session.command(&format!(
                "run --execute --target {} --plan {}{}",
                plan.target,
                plan.token,
                table::phrase_option(&plan)
            ));
            output.line(format_args!(
                "To do exactly this, until {}:\n  {command}",
                table::instant(plan.expire_time.as_ref())
            ))?;
            if plan.approvals_required > 0 {
                output.line(format_args!(
                    "Then {} has to approve the run that this starts:\n  {}",
                    table::others(plan.approvals_required),
                    session.command("--principal NAME runs approve RUN")
                ))?;
            }
        }
        Ok(Exit::Success)
    }
}
