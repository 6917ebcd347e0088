//! `dbkeep schedules scheduler`: the switch over all schedules; and what `dbkeep status` says of it.
//!
//! Owns the switch and its view. Called by `mod.rs` and `cmd/status.rs`.

use clap::{Args, Subcommand};
use dbkeep_client::proto::SchedulerStatus;
use indicatif::HumanCount;
use serde_json::json;

use crate::{
    exit::Exit,
    json,
    output::{Output, Tone},
    session::Session,
    table,
};

/// What a server's clock may differ by from the control store's before that is said in colour; the server warns from there on, too.
const CLOCK_BOUND_SECONDS: f64 = 30.0;

/// Arguments of `schedules scheduler`.
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct Scheduler {
    #[command(subcommand)]
    act: Option<Act>,
}

/// What to do with the switch; to look at it where nothing is said.
#[derive(Debug, Subcommand)]
pub(crate) enum Act {
    /// Whether slots are decided, and who works with the control store.
    Status,
    /// Decide slots again, on every server; those that passed meanwhile are caught up as their schedules say.
    Start,
    /// Decide no slot on any server until start; runs that were started go on.
    Stop {
        /// Why; shown by status.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

impl Scheduler {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let schedules = session.client.schedules();
        let status = match self.act.unwrap_or(Act::Status) {
            Act::Status => schedules.scheduler_status().await?,
            Act::Start => schedules.start_scheduler().await?,
            Act::Stop { reason } => schedules.stop_scheduler(reason).await?,
        };
        if output.is_json() {
            output.json(&json!({ "scheduler": json::schedule::Scheduler::from(&status) }))?;
            return Ok(Exit::Success);
        }
        show(&status, session)?;
        Ok(Exit::Success)
    }
}

/// Prints where the scheduler stands, and the servers.
pub(crate) fn show(status: &SchedulerStatus, session: &Session) -> anyhow::Result<()> {
    let output = &session.output;
    let (tone, word) = if status.running {
        (Tone::Good, "running")
    } else {
        (Tone::Bad, "stopped")
    };
    let mut table = output.table(["SCHEDULER", word]);
    let mut row = |label: &str, text: String| {
        table.add_row([output.cell(Tone::Dim, label), output.cell(Tone::Strong, text)]);
    };
    if !status.changed_by.is_empty() {
        let time = table::instant(status.change_time.as_ref());
        row("since", format!("{time}, by {}", status.changed_by));
    }
    if !status.note.is_empty() {
        row("why", status.note.clone());
    }
    row("schedules", HumanCount(status.schedule_count).to_string());
    row("open slots", HumanCount(status.open_slot_count).to_string());
    row("next run", table::instant(status.next_run_time.as_ref()));
    output.line(table)?;
    servers(status, output)?;
    if !status.running {
        let command = session.command("schedules scheduler start");
        output.line(output.paint(tone, &format!("No slot is decided. To decide them again: {command}")))?;
    }
    Ok(())
}

/// Whether a server's clock goes with that of the control store, by which slots are decided.
fn clock(ahead: Option<&prost_types::Duration>) -> (Tone, String) {
    let Some(ahead) = ahead.map(json::signed_seconds) else {
        return (Tone::Dim, "-".to_owned());
    };
    if ahead.abs() <= CLOCK_BOUND_SECONDS {
        return (Tone::Dim, "right".to_owned());
    }
    let direction = if ahead < 0.0 { "behind" } else { "ahead" };
    (Tone::Bad, format!("{:.0} s {direction}", ahead.abs()))
}

fn servers(status: &SchedulerStatus, output: &Output) -> anyhow::Result<()> {
    let mut table = output.table(["SERVER", "ADDRESS", "HOST", "VERSION", "", "CLOCK", "STARTED", "LAST SEEN"]);
    for server in &status.servers {
        let (tone, word) = if server.alive {
            (Tone::Good, "alive")
        } else {
            (Tone::Bad, "gone")
        };
        let clock = clock(server.clock_ahead.as_ref());
        table.add_row([
            output.cell(Tone::Strong, &server.id),
            output.cell(Tone::Dim, &server.address),
            output.cell(Tone::Dim, &server.host),
            output.cell(Tone::Dim, &server.version),
            output.cell(tone, word),
            output.cell(clock.0, clock.1),
            output.cell(Tone::Dim, table::instant(server.start_time.as_ref())),
            output.cell(Tone::Dim, table::instant(server.seen_time.as_ref())),
        ]);
    }
    Ok(output.line(table)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_wrong_stands_out() {
        let at = |seconds, nanos| prost_types::Duration { seconds, nanos };
        for (ahead, tone, word) in [
            (None, Tone::Dim, "-"),
            (Some(at(0, -4_000_000)), Tone::Dim, "right"),
            (Some(at(30, 0)), Tone::Dim, "right"),
            (Some(at(30, 600_000_000)), Tone::Bad, "31 s ahead"),
            (Some(at(-10_800, 0)), Tone::Bad, "10800 s behind"),
        ] {
            let shown = clock(ahead.as_ref());
            assert!(shown.0 == tone && shown.1 == word, "{ahead:?}: {}", shown.1);
        }
    }
}
