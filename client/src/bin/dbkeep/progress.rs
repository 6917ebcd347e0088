//! The way a run's events look while they come: a bar, plain lines, or JSON lines.
//!
//! Owns the wording and the pace. Does not own the stream (`follow.rs`) nor the report at the end (`table.rs`). The bar and
//! the lines are written to stderr, so that stdout holds the answer alone.

use std::io::{self, IsTerminal as _};

use dbkeep_client::{
    Connection,
    proto::{self, RunEvent, RunKind, RunState, run_event::Event},
};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    duration::Words,
    json::{self, event::Line},
    output::{Output, Tone, printable},
    session::Session,
    table,
};

/// Without a terminal: at most one line of progress per this much of the run's own time.
const LINE_INTERVAL: jiff::SignedDuration = jiff::SignedDuration::from_secs(5);

/// Where the events of one run appear.
pub(crate) struct View {
    lines: Lines,
    surface: Surface,
}

enum Surface {
    /// On a terminal.
    Bar(ProgressBar),
    /// In a log file.
    Lines,
    /// For programs, on stdout.
    Json,
}

impl View {
    /// The view that fits the output.
    pub(crate) fn new(kind: RunKind, output: &Output) -> Self {
        let surface = if output.is_json() {
            Surface::Json
        } else if io::stderr().is_terminal() {
            Surface::Bar(bar())
        } else {
            Surface::Lines
        };
        Self {
            lines: Lines::new(kind, output),
            surface,
        }
    }

    /// Shows an event.
    pub(crate) fn event(&mut self, event: &RunEvent) -> anyhow::Result<()> {
        match &self.surface {
            Surface::Bar(bar) => {
                if let Some(line) = self.lines.of_event(event) {
                    bar.println(line);
                }
                if let Some(Event::Maintenance(progress)) = &event.event {
                    bar.set_length(progress.total.max(progress.done).max(1));
                    bar.set_message(of_maintenance(progress));
                    bar.set_position(progress.done);
                }
                if let Some(Event::Migration(progress)) = &event.event {
                    bar.set_length(u64::from(progress.statement_count).max(1));
                    bar.set_message(of_migration(progress));
                    bar.set_position(statements_done(progress));
                }
                if let Some(Event::Progress(progress)) = &event.event {
                    // Rows that were planned may have gone meanwhile, and others may have come.
                    bar.set_length(progress.rows_planned.max(progress.rows_affected));
                    bar.set_message(self.lines.of_progress(progress));
                    bar.set_position(progress.rows_affected);
                }
            }
            Surface::Lines => {
                if let Some(line) = self.lines.of_event(event) {
                    self.lines.output.note(line);
                }
                if let Some(line) = self.lines.of_progress_now_and_then(event) {
                    self.lines.output.note(line);
                }
            }
            Surface::Json => {
                if let Some(line) = Line::of_event(event) {
                    self.lines.output.json(&line)?;
                }
            }
        }
        Ok(())
    }

    /// Says how a run that waits for approval gets it. Programs find that in the run itself.
    pub(crate) async fn note_approvals(&self, session: &Session, run_id: &str) -> Result<(), dbkeep_client::Error> {
        if matches!(self.surface, Surface::Json) {
            return Ok(());
        }
        let run = session.client.runs().get(run_id).await?;
        let given = u32::try_from(run.approvals.len()).unwrap_or(u32::MAX);
        if run.state() != RunState::Queued || given >= run.approvals_required {
            return Ok(());
        }
        let command = session.command(&format!("--principal NAME runs approve {run_id}"));
        let others = table::others(run.approvals_required - given);
        let line = format!("  {others} has to approve it: {command}");
        match &self.surface {
            Surface::Bar(bar) => bar.println(line),
            Surface::Lines | Surface::Json => self.lines.output.note(line),
        }
        Ok(())
    }

    /// Shows that the connection was lost or is back. In JSON that goes to stderr: the stream on stdout has no gap.
    pub(crate) fn connection(&self, connection: &Connection) {
        let line = match connection {
            Connection::Lost { problem, retry_in } => {
                let text = format!(
                    "no contact: {problem}; trying again in {}. The run goes on.",
                    Words(*retry_in)
                );
                self.lines.output.paint_note(Tone::Warn, &text)
            }
            _ => self.lines.output.paint_note(Tone::Good, "contact again"),
        };
        match &self.surface {
            Surface::Bar(bar) => bar.println(line),
            Surface::Lines | Surface::Json => self.lines.output.note(line),
        }
    }

    /// Leaves the terminal to what comes next.
    pub(crate) fn finish(&self) {
        if let Surface::Bar(bar) = &self.surface {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // A template that does not parse would leave indicatif's own, which is a bar too.
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}") {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}

/// Events in words, one line each.
struct Lines {
    kind: RunKind,
    output: Output,
    step_count: u32,
    last_progress: Option<jiff::Timestamp>,
    /// Migration and phase that were told last.
    last_phase: (String, String),
}

impl Lines {
    fn new(kind: RunKind, output: &Output) -> Self {
        Self {
            kind,
            output: output.clone(),
            step_count: 0,
            last_progress: None,
            last_phase: (String::new(), String::new()),
        }
    }

    /// The line of an event that is worth one always; `None` for progress.
    fn of_event(&mut self, event: &RunEvent) -> Option<String> {
        let paint = |tone, text: &str| self.output.paint_note(tone, text);
        Some(match event.event.as_ref()? {
            Event::StateChanged(change) => {
                let word = paint(table::state_tone(change.to()), &table::state(change.to()));
                let reason = if change.reason.is_empty() {
                    String::new()
                } else {
                    paint(Tone::Dim, &format!(": {}", change.reason))
                };
                let note = if change.to() == RunState::Interrupted {
                    "; it will go on"
                } else {
                    ""
                };
                format!("run {} {word}{reason}{note}", event.run_id)
            }
            Event::PlanReady(ready) => format!(
                "plan {}: {}",
                ready.plan_id,
                paint(Tone::Strong, &table::rows(ready.row_count))
            ),
            Event::Approved(approved) => {
                let principal = approved.approval.as_ref().map_or("", |approval| approval.principal.as_str());
                let text = format!(
                    "approved by {principal}, {} of {}",
                    approved.approvals, approved.approvals_required
                );
                paint(Tone::Good, &text)
            }
            Event::StepStarted(step) => {
                self.step_count = step.step_count;
                let done = if step.rows_done == 0 {
                    String::new()
                } else {
                    format!(", {} done before", HumanCount(step.rows_done))
                };
                if table::migration::is_migrating(self.kind) {
                    // Nobody knows beforehand how many rows a script changes.
                    return Some(format!(
                        "step {}/{} {}",
                        u64::from(step.index) + 1,
                        step.step_count,
                        paint(Tone::Strong, migrating(&step.operation, &step.rule)),
                    ));
                }
                format!(
                    "step {}/{} {} {}: {} planned{done}",
                    u64::from(step.index) + 1,
                    step.step_count,
                    paint(Tone::Strong, &name(&step.operation, &step.rule)),
                    step.table,
                    table::of_table(&step.table, step.rows_planned),
                )
            }
            Event::StepFinished(finished) => {
                let step = finished.step.as_ref()?;
                let tone = match step.state() {
                    proto::StepState::Succeeded => Tone::Good,
                    proto::StepState::Failed => Tone::Bad,
                    _ => Tone::Warn,
                };
                let message = if step.message.is_empty() {
                    String::new()
                } else {
                    paint(tone, &format!(": {}", step.message))
                };
                format!(
                    "step {}/{} {} {}: {} {} in {}{message}",
                    u64::from(step.index) + 1,
                    self.step_count.max(step.index.saturating_add(1)),
                    if table::migration::is_migrating(self.kind) {
                        paint(Tone::Strong, migrating(&step.operation, &step.rule))
                    } else {
                        paint(Tone::Strong, &name(&step.operation, &step.rule))
                    },
                    paint(tone, &json::step_state(step.state())),
                    table::of_table(&step.table, step.rows_affected),
                    if step.operation == table::migration::BACKUP {
                        table::verb(RunKind::Backup)
                    } else {
                        table::deed(self.kind, step)
                    },
                    table::duration(step.duration.as_ref()),
                )
            }
            Event::Warning(warning) => paint(Tone::Warn, &format!("warning {}: {}", warning.code, warning.message)),
            Event::LimitsChanged(change) => {
                let by = if change.principal.is_empty() {
                    String::new()
                } else {
                    format!(" by {}", change.principal)
                };
                let words = |limits: Option<&proto::RunLimits>| limits.map_or_else(|| "-".to_owned(), table::limits);
                format!(
                    "limits changed{by}: {} (before: {})",
                    paint(Tone::Strong, &words(change.after.as_ref())),
                    words(change.before.as_ref())
                )
            }
            // Every run with the default pace rests; the progress says so.
            Event::Throttled(slowdown) if slowdown.reason == "DUTY_CYCLE" => return None,
            Event::Throttled(slowdown) if slowdown.cleared => {
                paint(Tone::Good, &format!("no longer slowed by {}", slowdown.reason))
            }
            Event::Throttled(slowdown) => paint(
                Tone::Warn,
                &format!(
                    "slowed by {}: {} (threshold {})",
                    slowdown.reason, slowdown.value, slowdown.threshold
                ),
            ),
            Event::HistoryLost(lost) => {
                let text = format!("events before number {} are no longer kept", lost.first_available_sequence);
                paint(Tone::Warn, &text)
            }
            // The beginning of each phase is a line; how far it is comes now and then.
            Event::Migration(progress) => {
                let phase = (progress.migration_id.clone(), progress.phase.clone());
                if phase == self.last_phase {
                    return None;
                }
                self.last_phase = phase;
                // The line of its beginning says how far it is, too.
                self.last_progress = json::instant(event.time.as_ref());
                of_migration(progress)
            }
            Event::Progress(_) | Event::Maintenance(_) => return None,
        })
    }

    /// Progress in words: rows, rate, time to go, and what slows the run.
    fn of_progress(&self, progress: &proto::Progress) -> String {
        let mut text = format!(
            "{} / {} rows",
            HumanCount(progress.rows_affected),
            HumanCount(progress.rows_planned)
        );
        if progress.rows_per_second > 0.0 {
            text.push_str(&format!("  {} rows/s", whole(progress.rows_per_second)));
        }
        if let Some(eta) = json::span(progress.eta.as_ref()) {
            text.push_str(&format!("  ETA {}", Words(eta)));
        }
        if let Some(throttle) = &progress.throttle {
            let word = match throttle.reason.as_str() {
                "DUTY_CYCLE" => "resting",
                "REPLICA_LAG" => "waiting for a replica",
                other => other,
            };
            text.push_str(&self.output.paint_note(Tone::Dim, &format!("  {word} ({})", throttle.value)));
        }
        text
    }

    /// A line of progress when enough time has passed, by the events' own clock: what is replayed fast is not told at length.
    fn of_progress_now_and_then(&mut self, event: &RunEvent) -> Option<String> {
        let (percent, text) = match &event.event {
            Some(Event::Progress(progress)) => (
                percent(progress.rows_affected, progress.rows_planned),
                self.of_progress(progress),
            ),
            Some(Event::Migration(progress)) if progress.statement > 0 => (
                percent(statements_done(progress), progress.statement_count.into()),
                of_migration(progress),
            ),
            Some(Event::Maintenance(progress)) => (percent(progress.done, progress.total), of_maintenance(progress)),
            _ => return None,
        };
        let now = json::instant(event.time.as_ref())?;
        if self
            .last_progress
            .is_some_and(|last| now.duration_since(last) < LINE_INTERVAL)
        {
            return None;
        }
        self.last_progress = Some(now);
        Some(format!("{percent:>3}%  {text}"))
    }
}

/// An act on whole tables in words: "dumping 3.00 MiB / 12.00 MiB", "vacuuming public.logs 40 / 96 blocks".
fn of_maintenance(progress: &proto::MaintenanceProgress) -> String {
    let amount = |number: u64| {
        if progress.unit == "bytes" {
            indicatif::HumanBytes(number).to_string()
        } else {
            HumanCount(number).to_string()
        }
    };
    let mut text = progress.phase.clone();
    if !progress.table.is_empty() {
        text.push_str(&format!(" {}", progress.table));
    }
    if progress.total > 0 {
        text.push_str(&format!("  {} / {}", amount(progress.done), amount(progress.total)));
        if progress.unit != "bytes" {
            text.push_str(&format!(" {}", progress.unit));
        }
    }
    text
}

/// A migration at work in words: "3 applying 2/5, line 14: ALTER TABLE ..", "copying".
fn of_migration(progress: &proto::MigrationProgress) -> String {
    let mut text = format!("{} {}", progress.migration_id, progress.phase)
        .trim_start()
        .to_owned();
    if progress.statement == 0 {
        return text;
    }
    text.push_str(&format!(
        " {}/{}, line {}: {}",
        progress.statement, progress.statement_count, progress.line, progress.excerpt
    ));
    if let Some(finished) = &progress.finished {
        text.push_str(&format!(
            "  {} in {}",
            table::rows(finished.row_count),
            table::duration(finished.duration.as_ref())
        ));
    }
    // What a script holds is shown and must not act.
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}

/// Statements that have ended; the one in work has not.
fn statements_done(progress: &proto::MigrationProgress) -> u64 {
    let in_work = progress.finished.is_none();
    u64::from(progress.statement).saturating_sub(u64::from(in_work))
}

/// What a step of a migrating run is about: the migration, or what is done for all of them.
fn migrating<'a>(operation: &'a str, rule: &'a str) -> &'a str {
    if rule.is_empty() { operation } else { rule }
}

/// "operation.rule", or the operation alone where the rule has its name or none.
fn name(operation: &str, rule: &str) -> String {
    if rule.is_empty() || rule == operation {
        operation.to_owned()
    } else {
        format!("{operation}.{rule}")
    }
}

/// Whole percents, 100 only when all is done.
fn percent(done: u64, planned: u64) -> u64 {
    if planned == 0 || done >= planned {
        return 100;
    }
    u64::try_from(u128::from(done) * 100 / u128::from(planned)).unwrap_or(100)
}

/// A rate without decimals and with separators.
fn whole(rate: f64) -> String {
    let digits = format!("{rate:.0}");
    digits.parse().map_or(digits, |rate| HumanCount(rate).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn progress_at(second: i64, rows: u64) -> RunEvent {
        let progress = proto::Progress {
            rows_affected: rows,
            rows_planned: 20_000,
            rows_per_second: 4_100.4,
            eta: Some(prost_types::Duration { seconds: 12, nanos: 0 }),
            throttle: Some(proto::Throttle {
                reason: "DUTY_CYCLE".into(),
                value: "47 ms".into(),
            }),
            ..Default::default()
        };
        RunEvent {
            time: Some(prost_types::Timestamp {
                seconds: second,
                nanos: 0,
            }),
            event: Some(Event::Progress(progress)),
            ..Default::default()
        }
    }

    fn lines() -> Lines {
        Lines::new(RunKind::Cleanup, &Output::plain(Format::Table))
    }

    #[test]
    fn a_log_file_gets_one_line_of_progress_in_five_seconds_of_the_run() {
        let mut lines = lines();
        let told: Vec<String> = (0..12)
            .filter_map(|second| lines.of_progress_now_and_then(&progress_at(second, 1_000)))
            .collect();
        assert_eq!(
            told,
            vec!["  5%  1,000 / 20,000 rows  4,100 rows/s  ETA 12 s  resting (47 ms)"; 3]
        );
    }

    #[test]
    fn every_other_event_is_a_line() {
        let mut lines = lines();
        let mut line = |event| {
            lines.of_event(&RunEvent {
                run_id: "r1".into(),
                event: Some(event),
                ..Default::default()
            })
        };
        let started = proto::StepStarted {
            index: 0,
            step_count: 2,
            operation: "old_logs".into(),
            rule: "logs".into(),
            table: "app_logs".into(),
            rows_planned: 1,
            rows_done: 0,
        };
        assert_eq!(
            line(Event::StepStarted(started)).unwrap(),
            "step 1/2 old_logs.logs app_logs: 1 row planned"
        );
        let step = proto::StepReport {
            operation: "old_logs".into(),
            action: "archive".into(),
            state: proto::StepState::Partial.into(),
            rows_affected: 1200,
            duration: Some(prost_types::Duration {
                seconds: 3,
                nanos: 200_000_000,
            }),
            message: "time limit".into(),
            ..Default::default()
        };
        assert_eq!(
            line(Event::StepFinished(proto::StepFinished { step: Some(step) })).unwrap(),
            "step 1/2 old_logs partial: 1,200 rows archived in 3.2 s: time limit"
        );
        let change = proto::StateChanged {
            to: RunState::Interrupted.into(),
            reason: "server stops".into(),
            ..Default::default()
        };
        assert_eq!(
            line(Event::StateChanged(change)).unwrap(),
            "run r1 interrupted: server stops; it will go on"
        );
        let slowdown = |reason: &str, cleared| {
            Event::Throttled(proto::Throttled {
                reason: reason.into(),
                value: "12.4 s behind (replica eu2)".into(),
                threshold: "10 s".into(),
                cleared,
            })
        };
        assert_eq!(
            line(slowdown("REPLICA_LAG", false)).unwrap(),
            "slowed by REPLICA_LAG: 12.4 s behind (replica eu2) (threshold 10 s)"
        );
        assert_eq!(
            line(slowdown("REPLICA_LAG", true)).unwrap(),
            "no longer slowed by REPLICA_LAG"
        );
        assert_eq!(line(slowdown("DUTY_CYCLE", false)), None);
        let limits = |batch_size, max_rows_per_second, duty_cycle_percent| {
            Some(proto::RunLimits {
                batch_size,
                max_rows_per_second,
                duty_cycle_percent,
            })
        };
        let changed = proto::LimitsChanged {
            principal: "anna".into(),
            before: limits(1_000, 0, 50),
            after: limits(200, 5_000, 100),
        };
        assert_eq!(
            line(Event::LimitsChanged(changed)).unwrap(),
            "limits changed by anna: batches of 200 rows, full speed, at most 5,000 rows/s \
             (before: batches of 1,000 rows, at work 50 % of the time)"
        );
        let lost = proto::HistoryLost {
            first_available_sequence: 9,
        };
        assert_eq!(
            line(Event::HistoryLost(lost)).unwrap(),
            "events before number 9 are no longer kept"
        );
        let approved = proto::Approved {
            approval: Some(proto::Approval {
                principal: "bob".into(),
                time: None,
            }),
            approvals: 1,
            approvals_required: 2,
        };
        assert_eq!(line(Event::Approved(approved)).unwrap(), "approved by bob, 1 of 2");
        assert_eq!(line(Event::Progress(proto::Progress::default())), None);
    }

    #[test]
    fn a_migration_has_a_line_for_each_phase_and_for_its_statements_now_and_then() {
        let mut lines = Lines::new(RunKind::Rehearse, &Output::plain(Format::Table));
        let at = |second, phase: &str, statement, finished: bool| RunEvent {
            time: Some(prost_types::Timestamp {
                seconds: second,
                nanos: 0,
            }),
            event: Some(Event::Migration(proto::MigrationProgress {
                migration_id: "3".into(),
                phase: phase.into(),
                statement,
                statement_count: 4,
                line: 7,
                excerpt: "ALTER TABLE\n a".into(),
                finished: finished.then(proto::MigrationStatementReport::default),
                ..Default::default()
            })),
            ..Default::default()
        };
        let first = at(0, "applying", 1, false);
        assert_eq!(
            lines.of_event(&first).as_deref(),
            Some("3 applying 1/4, line 7: ALTER TABLE a")
        );
        assert_eq!(lines.of_event(&at(0, "applying", 2, false)), None);
        assert_eq!(lines.of_event(&at(0, "comparing", 0, false)).as_deref(), Some("3 comparing"));
        assert_eq!(lines.of_progress_now_and_then(&at(9, "copying", 0, false)), None);
        assert_eq!(
            lines.of_progress_now_and_then(&at(9, "applying", 2, true)).as_deref(),
            Some(" 50%  3 applying 2/4, line 7: ALTER TABLE a 0 rows in -")
        );
        assert_eq!(lines.of_progress_now_and_then(&at(10, "applying", 3, false)), None);
        let started = proto::StepStarted {
            index: 0,
            step_count: 2,
            operation: "migrations".into(),
            rule: "3 users".into(),
            ..Default::default()
        };
        let event = RunEvent {
            event: Some(Event::StepStarted(started)),
            ..Default::default()
        };
        assert_eq!(lines.of_event(&event).as_deref(), Some("step 1/2 3 users"));
    }

    #[test]
    fn percents_are_whole_and_100_means_done() {
        assert_eq!(
            [percent(0, 10), percent(999, 1000), percent(1000, 1000), percent(5, 0)],
            [0, 99, 100, 100]
        );
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
        assert_eq!(whole(1234.6), "1,235");
    }
}
