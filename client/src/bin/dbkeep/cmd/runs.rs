//! `dbkeep runs`: looking at runs, following them, steering them, stopping them, taking them back.
//!
//! Owns the list and detail views and the question before an undo. Following is `follow.rs`, steering `steer.rs`. Called by `main.rs`.

use std::{pin::pin, time::Duration};

use clap::{Subcommand, ValueEnum};
use dbkeep_client::{RunQuery, UndoRequest, proto};
use futures::TryStreamExt as _;
use indicatif::HumanCount;
use serde_json::json;

use crate::{
    cmd::{
        run::{Pace, paced},
        steer,
    },
    duration::Span,
    exit::Exit,
    follow::{Until, follow},
    json,
    output::Tone,
    prompt, report,
    session::Session,
    table,
};

/// Commands of `runs`.
#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    /// List runs, newest first.
    List {
        /// Only runs of this target.
        #[arg(long)]
        target: Option<String>,
        /// Only runs in this state; may be given again.
        #[arg(long, value_enum)]
        state: Vec<State>,
        /// Only runs of this kind; may be given again.
        #[arg(long, value_enum)]
        kind: Vec<Kind>,
        /// Only runs of this operation.
        #[arg(long)]
        operation: Option<String>,
        /// Only runs accepted within this time, e.g. 2h.
        #[arg(long, value_name = "DURATION")]
        since: Option<Span>,
        /// Most runs to list.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show a run with its report so far.
    Show {
        /// Id of the run.
        id: String,
    },
    /// Follow a run to its end; Ctrl-C leaves it at work.
    Watch {
        /// Id of the run.
        id: String,
        /// Begin after this event.
        #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
        after: u64,
    },
    /// Report on a run: what each operation and step did, and charts of its course with --html.
    Report(report::Report),
    /// Ask a run to stop at its next batch boundary; what was committed stays and can be undone.
    Cancel {
        /// Id of the run.
        id: String,
        /// Why; kept with the run.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Approve a run that waits for it, under another name than the one that started it; or deny it.
    Approve {
        /// Id of the run.
        id: String,
        /// Deny it: the run ends cancelled.
        #[arg(long)]
        deny: bool,
        /// Why; kept with the decision.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Ask a run to pause at its next batch boundary; it keeps its tables and waits for `resume`.
    Pause {
        /// Id of the run.
        id: String,
        /// Why; kept with the run.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Let a paused run go on.
    Resume {
        /// Id of the run.
        id: String,
    },
    /// Change the limits of a run while it works.
    Limits {
        /// Id of the run.
        id: String,
        #[command(flatten)]
        limits: steer::Limits,
    },
    /// Put the rows back that a run deleted.
    Undo {
        /// Id of the run.
        id: String,
        #[command(flatten)]
        pace: Pace,
        /// Do not ask; for scripts.
        #[arg(long, short)]
        yes: bool,
        /// Print the id of the undoing run and leave it at work.
        #[arg(long)]
        detach: bool,
    },
}

/// A state to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum State {
    Queued,
    Running,
    Pausing,
    Paused,
    Cancelling,
    Cancelled,
    Interrupted,
    Succeeded,
    PartiallySucceeded,
    Failed,
}

impl From<State> for proto::RunState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Pausing => Self::Pausing,
            State::Paused => Self::Paused,
            State::Cancelling => Self::Cancelling,
            State::Cancelled => Self::Cancelled,
            State::Interrupted => Self::Interrupted,
            State::Succeeded => Self::Succeeded,
            State::PartiallySucceeded => Self::PartiallySucceeded,
            State::Failed => Self::Failed,
        }
    }
}

/// A kind to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Cleanup,
    Undo,
    Verify,
    Backup,
    Restore,
    Migrate,
    Rollback,
    Rehearse,
    Maintain,
}

impl From<Kind> for proto::RunKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Cleanup => Self::Cleanup,
            Kind::Undo => Self::Undo,
            Kind::Verify => Self::Verify,
            Kind::Backup => Self::Backup,
            Kind::Restore => Self::Restore,
            Kind::Migrate => Self::Migrate,
            Kind::Rollback => Self::Rollback,
            Kind::Rehearse => Self::Rehearse,
            Kind::Maintain => Self::Maintain,
        }
    }
}

impl Runs {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        match self {
            Self::List {
                target,
                state,
                kind,
                operation,
                since,
                limit,
            } => {
                let mut query = RunQuery::default().page_size(limit.min(500));
                if let Some(target) = target {
                    query = query.target(target);
                }
                if let Some(operation) = operation {
                    query = query.operation(operation);
                }
                if let Some(since) = since {
                    query = query.created_after(jiff::Timestamp::now().saturating_sub(Duration::from(since))?);
                }
                let query = state.into_iter().fold(query, |query, state| query.state(state.into()));
                let query = kind.into_iter().fold(query, |query, kind| query.kind(kind.into()));
                list(session, query, usize::try_from(limit)?).await
            }
            Self::Show { id } => show(session, id).await,
            Self::Watch { id, after } => {
                let runs = session.client.runs();
                // The kind gives the words for what is done to a row.
                let kind = runs.get(&id).await?.kind();
                follow(session, kind, Until::End, runs.watch_after(id, after)).await
            }
            Self::Report(command) => command.run(session).await,
            Self::Cancel { id, reason } => cancel(session, id, reason).await,
            Self::Approve { id, deny, reason } => approve(session, id, deny, reason).await,
            Self::Pause { id, reason } => steer::pause(session, id, reason).await,
            Self::Resume { id } => steer::resume(session, id).await,
            Self::Limits { id, limits } => steer::limits(session, id, &limits).await,
            Self::Undo { id, pace, yes, detach } => undo(session, id, &pace, yes, detach).await,
        }
    }
}

async fn list(session: &Session, query: RunQuery, limit: usize) -> anyhow::Result<Exit> {
    let output = &session.output;
    let mut stream = pin!(session.client.runs().list(query));
    let mut runs = Vec::new();
    let mut more = false;
    while let Some(run) = stream.try_next().await? {
        if runs.len() == limit {
            more = true;
            break;
        }
        runs.push(run);
    }
    if output.is_json() {
        let runs: Vec<_> = runs.iter().map(json::run::Run::from).collect();
        output.json(&json!({ "runs": runs, "more": more }))?;
        return Ok(Exit::Success);
    }
    let mut table = output.table(["ID", "KIND", "TARGET", "STATE", "OPERATIONS", "PLANNED", "DONE", "ACCEPTED"]);
    for run in &runs {
        let report = run.report.clone().unwrap_or_default();
        let kind = json::run_kind(run.kind());
        let is_dry = run.kind() == proto::RunKind::Cleanup && table::is_dry_run(run);
        table.add_row([
            output.cell(Tone::Strong, &run.id),
            output.cell(Tone::Dim, if is_dry { "dry run".to_owned() } else { kind }),
            output.cell(Tone::Dim, &run.target),
            output.cell(table::state_tone(run.state()), table::state(run.state())),
            output.cell(Tone::Dim, run.operations.join(", ")),
            output.number(Tone::Dim, HumanCount(report.rows_planned)),
            output.number(Tone::Strong, HumanCount(report.rows_affected)),
            output.cell(Tone::Dim, table::instant(run.create_time.as_ref())),
        ]);
    }
    output.line(table)?;
    if more {
        output.note(format_args!("There are more than {limit}; --limit shows them."));
    }
    Ok(Exit::Success)
}

async fn show(session: &Session, id: String) -> anyhow::Result<Exit> {
    let output = &session.output;
    let run = session.client.runs().get(id).await?;
    if output.is_json() {
        output.json(&json!({ "run": json::run::Run::from(&run) }))?;
        return Ok(Exit::Success);
    }
    let mut table = output.table(["RUN", &run.id]);
    table
        .add_row(["kind", &json::run_kind(run.kind())])
        .add_row(["target", &run.target])
        .add_row(["operations", &run.operations.join(", ")])
        .add_row(["plan", table::or_dash(&run.plan_id)])
        .add_row(["source run", table::or_dash(&run.source_run_id)])
        .add_row(["undone by", table::or_dash(&run.undone_by_run_id)])
        .add_row(["backup", table::or_dash(&run.backup_id)])
        .add_row(["started by", table::or_dash(&run.started_by)])
        .add_row(["approvals", &approvals(&run)])
        .add_row(["attempts", &run.attempts.to_string()])
        .add_row(["accepted", &table::instant(run.create_time.as_ref())])
        .add_row(["began", &table::instant(run.start_time.as_ref())])
        .add_row(["ended", &table::instant(run.end_time.as_ref())]);
    if let Some(options) = &run.options {
        table.add_row(["options", &describe(options)]);
    }
    if let Some(limits) = &run.limits {
        table.add_row(["limits", &table::limits(limits)]);
    }
    if let Some(waiting) = &run.waiting_for {
        table.add_row(["waits for", &format!("table {} of run {}", waiting.table, waiting.run_id)]);
    }
    output.line(table)?;
    table::report(&run, output)?;
    table::next_steps(&run, session)?;
    Ok(Exit::Success)
}

/// Who approved a run, of how many that have to.
fn approvals(run: &proto::Run) -> String {
    if run.approvals_required == 0 {
        return "none needed".to_owned();
    }
    let mut text = format!("{} of {}", run.approvals.len(), run.approvals_required);
    for approval in &run.approvals {
        let at = table::instant(approval.time.as_ref());
        text.push_str(&format!("; {} at {at}", approval.principal));
    }
    text
}

fn describe(options: &proto::RunOptions) -> String {
    format!(
        "{}batches of {} rows, at most {}{}{}{}{}{}{}",
        if options.dry_run.unwrap_or(true) { "dry run, " } else { "" },
        options.batch_size.unwrap_or_default(),
        table::duration(options.max_execution_time.as_ref()),
        if options.full_speed { ", full speed" } else { "" },
        if options.stop_on_failure { ", stops on failure" } else { "" },
        if options.capture { ", backs up everything" } else { "" },
        options
            .max_rows
            .map(|most| format!(", at most {}", table::rows(most)))
            .unwrap_or_default(),
        if options.force { ", force" } else { "" },
        if options.queue { ", in line" } else { "" },
    )
}

async fn cancel(session: &Session, id: String, reason: String) -> anyhow::Result<Exit> {
    let output = &session.output;
    let run = session.client.runs().cancel(id, reason).await?;
    if output.is_json() {
        output.json(&json!({ "run": json::run::Run::from(&run) }))?;
        return Ok(Exit::Success);
    }
    let state = output.paint(table::state_tone(run.state()), &table::state(run.state()));
    output.line(format_args!("Run {} is {state}.", run.id))?;
    if run.state() == proto::RunState::Cancelling {
        let command = session.command(&format!("runs watch {}", run.id));
        output.note(format_args!("It stops at its next batch boundary: {command}"));
    }
    Ok(Exit::Success)
}

async fn approve(session: &Session, id: String, deny: bool, reason: String) -> anyhow::Result<Exit> {
    let output = &session.output;
    let runs = session.client.runs();
    let run = if deny {
        runs.deny(id, reason).await?
    } else {
        runs.approve(id, reason).await?
    };
    if output.is_json() {
        output.json(&json!({ "run": json::run::Run::from(&run) }))?;
        return Ok(Exit::Success);
    }
    let state = output.paint(table::state_tone(run.state()), &table::state(run.state()));
    output.line(format_args!("Run {} is {state}; approvals: {}.", run.id, approvals(&run)))?;
    if !deny {
        output.note(format_args!(
            "Follow it: {}",
            session.command(&format!("runs watch {}", run.id))
        ));
    }
    Ok(Exit::Success)
}

async fn undo(session: &Session, id: String, pace: &Pace, yes: bool, detach: bool) -> anyhow::Result<Exit> {
    if !yes {
        let run = session.client.runs().get(&id).await?;
        let captured = run.report.as_ref().map_or(0, |report| report.rows_captured);
        let question = format!("Put {} back into {}?", table::rows(captured), run.target);
        if let Err(exit) = prompt::confirm(&question, &session.output).await? {
            return Ok(exit);
        }
    }
    let request = paced!(UndoRequest::new(id), pace);
    let until = if detach { Until::Started } else { Until::End };
    let runs = session.client.runs();
    follow(session, proto::RunKind::Undo, until, runs.undo(request)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_words_are_those_of_the_json() {
        for state in State::value_variants() {
            let word = state.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(word, json::run_state((*state).into()));
        }
        for kind in Kind::value_variants() {
            let word = kind.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(word, json::run_kind((*kind).into()));
        }
    }
}
