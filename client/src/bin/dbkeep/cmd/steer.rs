//! `dbkeep runs pause`, `resume` and `limits`: steering a run while it works.
//!
//! Owns the arguments of `limits` and what is said of the answers. Called by `runs.rs`.

use clap::Args;
use dbkeep_client::{LimitsUpdate, proto};
use serde_json::json;

use crate::{exit::Exit, json, session::Session, table};

/// Arguments of `runs limits`; at least one of them.
#[derive(Debug, Args)]
#[group(id = "new_limits", required = true, multiple = true)]
pub(crate) struct Limits {
    /// Rows per transaction, 1 to 10000.
    #[arg(long, value_name = "ROWS")]
    batch_size: Option<u32>,
    /// Most rows a second, on average; 0 for no such limit.
    #[arg(long, value_name = "ROWS")]
    rows_per_second: Option<u32>,
    /// Share of its time that the run is at work, 1 to 100 percent; 100 is full speed.
    #[arg(long, value_name = "PERCENT")]
    duty_cycle: Option<u32>,
}

pub(super) async fn pause(session: &Session, id: String, reason: String) -> anyhow::Result<Exit> {
    let run = session.client.runs().pause(id, reason).await?;
    let note = match run.state() {
        proto::RunState::Paused => "To let it go on",
        _ => "It pauses at its next batch boundary; to let it go on",
    };
    answer(session, &run, note, &format!("runs resume {}", run.id))
}

pub(super) async fn resume(session: &Session, id: String) -> anyhow::Result<Exit> {
    let run = session.client.runs().resume(id).await?;
    answer(session, &run, "To follow it", &format!("runs watch {}", run.id))
}

pub(super) async fn limits(session: &Session, id: String, limits: &Limits) -> anyhow::Result<Exit> {
    let mut update = LimitsUpdate::new(id);
    if let Some(rows) = limits.batch_size {
        update = update.batch_size(rows);
    }
    if let Some(rows) = limits.rows_per_second {
        update = update.max_rows_per_second(rows);
    }
    if let Some(percent) = limits.duty_cycle {
        update = update.duty_cycle_percent(percent);
    }
    let run = session.client.runs().update_limits(update).await?;
    let now = run.limits.as_ref().map(table::limits).unwrap_or_default();
    answer(
        session,
        &run,
        &format!("From its next batch on: {now}. To follow it"),
        &format!("runs watch {}", run.id),
    )
}

/// Tells the run's state, and what can be done next.
fn answer(session: &Session, run: &proto::Run, note: &str, next: &str) -> anyhow::Result<Exit> {
    let output = &session.output;
    if output.is_json() {
        output.json(&json!({ "run": json::run::Run::from(run) }))?;
        return Ok(Exit::Success);
    }
    let state = output.paint(table::state_tone(run.state()), &table::state(run.state()));
    output.line(format_args!("Run {} is {state}.", run.id))?;
    output.note(format_args!("{note}: {}", session.command(next)));
    Ok(Exit::Success)
}
