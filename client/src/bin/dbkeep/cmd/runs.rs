//! `dbkeep runs`: looking at runs, following them, stopping them, taking them back.
//!
//! Owns the list and detail views and the question before an undo. Following is `follow.rs`. Called by `main.rs`.

use std::{pin::pin, time::Duration};

use clap::{Subcommand, ValueEnum};
use dbkeep_client::{RunQuery, UndoRequest, proto};
use futures::TryStreamExt as _;
use indicatif::HumanCount;
use serde_json::json;

use crate::{
    cmd::run::Pace,
    duration::Span,
    exit::Exit,
    follow::{Until, follow},
    json,
    output::Tone,
    prompt,
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
    /// Ask a run to stop at its next batch boundary; what was committed stays and can be undone.
    Cancel {
        /// Id of the run.
        id: String,
        /// Why; kept with the run.
        #[arg(long, default_value = "")]
        reason: String,
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
}

impl From<Kind> for proto::RunKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Cleanup => Self::Cleanup,
            Kind::Undo => Self::Undo,
            Kind::Verify => Self::Verify,
            Kind::Backup => Self::Backup,
            Kind::Restore => Self::Restore,
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
            Self::Cancel { id, reason } => cancel(session, id, reason).await,
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
        .add_row(["attempts", &run.attempts.to_string()])
        .add_row(["accepted", &table::instant(run.create_time.as_ref())])
        .add_row(["began", &table::instant(run.start_time.as_ref())])
        .add_row(["ended", &table::instant(run.end_time.as_ref())]);
    if let Some(options) = &run.options {
        table.add_row(["options", &describe(options)]);
    }
    output.line(table)?;
    table::report(&run, output)?;
    Ok(Exit::Success)
}

fn describe(options: &proto::RunOptions) -> String {
    format!(
        "{}batches of {} rows, at most {}{}",
        if options.dry_run.unwrap_or(true) { "dry run, " } else { "" },
        options.batch_size.unwrap_or_default(),
        table::duration(options.max_execution_time.as_ref()),
        if options.full_speed { ", full speed" } else { "" },
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

async fn undo(session: &Session, id: String, pace: &Pace, yes: bool, detach: bool) -> anyhow::Result<Exit> {
    if !yes {
        let run = session.client.runs().get(&id).await?;
        let captured = run.report.as_ref().map_or(0, |report| report.rows_captured);
        let question = format!("Put {} back into {}?", table::rows(captured), run.target);
        if let Err(exit) = prompt::confirm(&question, &session.output).await? {
            return Ok(exit);
        }
    }
    let mut request = UndoRequest::new(id);
    if let Some(rows) = pace.batch_size {
        request = request.batch_size(rows);
    }
    if let Some(time) = pace.max_time {
        request = request.max_execution_time(time.into());
    }
    if pace.full_speed {
        request = request.full_speed();
    }
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
