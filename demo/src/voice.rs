//! What the demonstration says while it waits: lines, live bars, sizes and times for people. It decides nothing.

use std::{io::IsTerminal as _, time::Duration};

use anyhow::{Result, ensure};
use dbkeep_client::{Client, RunStream, proto};
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};

/// Says things to a person, unless the output is for a program.
pub(crate) struct Voice {
    pub(crate) quiet: bool,
}

impl Voice {
    pub(crate) fn say(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            println!("{text}");
        }
    }

    /// Follows a run with a live bar on a terminal, and a line for each step otherwise. Where the run waits for the approval of somebody
    /// else, `approver` gives it.
    ///
    /// # Errors
    /// Where the run does not succeed, or the server is lost.
    pub(crate) async fn follow(&self, what: &str, mut events: RunStream, approver: Option<&Client>) -> Result<proto::Run> {
        let mut approver = approver;
        let bar = if self.quiet || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        let style = "  {prefix} [{bar:32}] {human_pos}/{human_len} rows  {msg}";
        bar.set_style(ProgressStyle::with_template(style)?.progress_chars("=> "));
        bar.set_prefix(what.to_owned());
        while let Some(event) = events.next().await {
            let event = event?;
            if let (Some(client), Some(id)) = (approver, events.run_id()) {
                let approved = client.runs().approve(id, "seen and agreed").await?;
                let by = approved.approvals.iter().map(|approval| approval.principal.as_str());
                self.say(format_args!("  {what}: approved by {}", by.collect::<Vec<_>>().join(", ")));
                approver = None;
            }
            match event.event {
                Some(proto::run_event::Event::StepFinished(proto::StepFinished { step: Some(step) })) => bar.suspend(|| {
                    self.say(format_args!(
                        "  {what}: {} {} rows of {} in {:.1} s, {} batches",
                        step.rule,
                        step.rows_affected,
                        step.table,
                        seconds(step.duration),
                        step.batches
                    ));
                }),
                Some(proto::run_event::Event::Progress(progress)) => {
                    bar.set_length(progress.rows_planned);
                    bar.set_position(progress.rows_affected);
                    let eta = progress
                        .eta
                        .map_or(String::new(), |eta| format!(", {:.0} s left", seconds(Some(eta))));
                    bar.set_message(format!("{:.0}/s{eta}", progress.rows_per_second));
                }
                Some(proto::run_event::Event::Warning(warning)) => {
                    bar.suspend(|| self.say(format_args!("  {what}: {}: {}", warning.code, warning.message)))
                }
                _ => {}
            }
        }
        bar.finish_and_clear();
        let run = events.finish().await?;
        ensure!(
            run.state() == proto::RunState::Succeeded,
            "{what} ended {:?}: {}",
            run.state(),
            run.state_reason
        );
        Ok(run)
    }
}

/// A duration of the protocol; none is 0.
pub(crate) fn seconds(duration: Option<prost_types::Duration>) -> f64 {
    duration
        .and_then(|duration| Duration::try_from(duration).ok())
        .map_or(0.0, |duration| duration.as_secs_f64())
}

/// Bytes as a size for people.
#[expect(clippy::cast_precision_loss, reason = "a size for people")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
