//! Following a run on a terminal: from the call that opens its stream to the report and the exit code.
//!
//! Owns Ctrl-C (which leaves the run at work), `--detach`, and the notices about a lost connection. The stream itself is the
//! library's. Called by `cmd/run.rs`, `cmd/runs.rs`,
//! `cmd/backups.rs`, `cmd/migrations/` and `cmd/schedules/`.

use std::{future::Future, pin::pin};

use dbkeep_client::{
    Error, RunStream,
    proto::{RunEvent, RunKind, RunState, run_event::Event},
};
use futures::StreamExt as _;

use crate::{exit::Exit, json::event::Line, progress::View, session::Session, table};

/// How far a run is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// To its end.
    End,
    /// Until its id is known.
    Started,
}

/// Opens a run's stream and follows it. Returns the exit code that fits the run's end.
pub(crate) async fn follow(
    session: &Session,
    kind: RunKind,
    until: Until,
    opening: impl Future<Output = Result<RunStream, Error>>,
) -> anyhow::Result<Exit> {
    // From here on Ctrl-C no longer kills the process: the run's id must be told first.
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let mut stream = tokio::select! {
        stream = opening => stream?,
        _ = &mut interrupt => return detached(session, None),
    };
    let mut view = View::new(kind, &session.output);
    let mut connection = stream.connection();
    let mut plan_token = None;
    loop {
        if until == Until::Started && stream.run_id().is_some() {
            view.finish();
            return started(session, stream.run_id());
        }
        tokio::select! {
            biased;
            _ = &mut interrupt => {
                view.finish();
                return detached(session, stream.run_id());
            }
            Ok(()) = connection.changed() => view.connection(&connection.borrow_and_update().clone()),
            event = stream.next() => match event {
                Some(Ok(event)) => {
                    // The poll that brought the event may have brought the connection back before it.
                    if connection.has_changed().unwrap_or(false) {
                        view.connection(&connection.borrow_and_update().clone());
                    }
                    plan_token = token_of(&event).or(plan_token);
                    view.event(&event)?;
                    if is_accepted(&event) {
                        view.note_approvals(session, &event.run_id).await?;
                    }
                }
                Some(Err(error)) => {
                    view.finish();
                    return Err(error.into());
                }
                None => break,
            },
        }
    }
    view.finish();
    let run = stream.finish().await?;
    if session.output.is_json() {
        let run_line = Line::Run {
            run: Box::new((&run).into()),
        };
        session.output.json(&run_line)?;
        return Ok(Exit::of_state(run.state()));
    }
    table::report(&run, &session.output)?;
    if let Some(token) = plan_token {
        session.output.line(format_args!(
            "To do exactly this: {}",
            session.command(&format!("run --execute --target {} --plan {token}", run.target))
        ))?;
    }
    table::next_steps(&run, session)?;
    Ok(Exit::of_state(run.state()))
}

/// The token that a dry run ends with.
fn token_of(event: &RunEvent) -> Option<String> {
    match &event.event {
        Some(Event::PlanReady(ready)) if !ready.plan_token.is_empty() => Some(ready.plan_token.clone()),
        _ => None,
    }
}

/// Whether the event is a cleanup's acceptance, after which it may wait for somebody.
fn is_accepted(event: &RunEvent) -> bool {
    matches!(&event.event, Some(Event::StateChanged(change)) if change.to() == RunState::Queued)
}

/// After `--detach`: the run's id is the answer.
fn started(session: &Session, run_id: Option<&str>) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(&Line::Detached { run_id })?;
    } else if let Some(run_id) = run_id {
        session.output.line(format_args!("Run {run_id} is under way."))?;
        ways_back(session, run_id);
    }
    Ok(Exit::Success)
}

/// After Ctrl-C: how to come back, and how to stop what goes on.
fn detached(session: &Session, run_id: Option<&str>) -> anyhow::Result<Exit> {
    if session.output.is_json() {
        session.output.json(&Line::Detached { run_id })?;
    }
    match run_id {
        Some(run_id) => {
            session.output.note(format_args!("\nDetached. Run {run_id} goes on."));
            ways_back(session, run_id);
        }
        None => {
            let list = session.command("runs list");
            session.output.note(format_args!(
                "\nDetached before the run told its id. It may have been started: {list}"
            ));
        }
    }
    Ok(Exit::Detached)
}

fn ways_back(session: &Session, run_id: &str) {
    session.output.note(format_args!(
        "  come back:  {}",
        session.command(&format!("runs watch {run_id}"))
    ));
    session.output.note(format_args!(
        "  cancel it:  {}",
        session.command(&format!("runs cancel {run_id}"))
    ));
}
