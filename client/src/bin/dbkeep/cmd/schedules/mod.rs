//! `dbkeep schedules`: what is to be done when, and what became of every time that it was due.
//!
//! Owns who does what. Called by `main.rs`.
//!
//! - `look.rs`: list, show, runs, preview
//! - `wanted.rs`: the options that a schedule is described by
//! - `change.rs`: create, update, delete
//! - `steer.rs`: run, pause, resume, approve
//! - `scheduler.rs`: the switch over all schedules, and who works with the control store

mod change;
mod look;
pub(crate) mod scheduler;
mod steer;
mod wanted;

use clap::Subcommand;
use dbkeep_client::proto;
use serde_json::json;

use crate::{
    exit::Exit,
    json,
    session::{Session, quoted},
    table::{self, schedule as view},
};

/// Commands of `schedules`.
#[derive(Debug, Subcommand)]
pub(crate) enum Schedules {
    /// List schedules by name.
    List(look::List),
    /// Show a schedule: what it does, when, who hears of it, and where it stands.
    Show(look::Show),
    /// Create a schedule; every mistake is told in one answer.
    Create(Box<change::Create>),
    /// Change a schedule: what is given, and nothing else.
    Update(Box<change::Update>),
    /// Remove a schedule with the record of its slots; a run that it started goes on.
    Delete(change::Delete),
    /// Fire a schedule now, paused or not, and follow its run.
    Run(steer::Run),
    /// Let slots pass until resume.
    Pause(steer::Pause),
    /// Let a schedule fire again, from its next slot on; forgets its failures.
    Resume(steer::Resume),
    /// Consent to all runs of a schedule until a day, under another name than who changed it last.
    Approve(steer::Approve),
    /// The next times of a schedule, or of one that is not created yet; changes nothing.
    Preview(look::Preview),
    /// What became of slots, newest first: fired, skipped, missed, and why.
    Runs(look::Runs),
    /// The switch over all schedules: whether slots are decided at all.
    Scheduler(scheduler::Scheduler),
}

impl Schedules {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        match self {
            Self::List(command) => command.run(session).await,
            Self::Show(command) => command.run(session).await,
            Self::Create(command) => command.run(session).await,
            Self::Update(command) => command.run(session).await,
            Self::Delete(command) => command.run(session).await,
            Self::Run(command) => command.run(session).await,
            Self::Pause(command) => command.run(session).await,
            Self::Resume(command) => command.run(session).await,
            Self::Approve(command) => command.run(session).await,
            Self::Preview(command) => command.run(session).await,
            Self::Runs(command) => command.run(session).await,
            Self::Scheduler(command) => command.run(session).await,
        }
    }
}

/// Name of a schedule; its id where the server left the name out.
fn name(schedule: &proto::Schedule) -> &str {
    match &schedule.spec {
        Some(spec) if !spec.name.is_empty() => &spec.name,
        _ => &schedule.id,
    }
}

/// Tells what was done to a schedule, when it fires next, and what it still needs.
fn answer(session: &Session, schedule: &proto::Schedule, done: &str) -> anyhow::Result<Exit> {
    let output = &session.output;
    if output.is_json() {
        output.json(&json!({ "schedule": json::schedule::Schedule::from(schedule) }))?;
        return Ok(Exit::Success);
    }
    let next = match &schedule.next_run_time {
        Some(time) => format!("its next run is at {}", table::instant(Some(time))),
        None if view::may_fire(schedule) => "no time of it is to come".to_owned(),
        None => format!("it does not fire: {}", view::standing(schedule)),
    };
    output.line(format_args!("Schedule {} {done}; {next}.", name(schedule)))?;
    if view::lacks_approval(schedule) {
        output.note(format_args!("It needs an approval: {}", approval(session, schedule)));
    }
    Ok(Exit::Success)
}

/// The command that consents to the runs of a schedule.
fn approval(session: &Session, schedule: &proto::Schedule) -> String {
    session.command(&format!(
        "schedules approve {} --max-rows N --until DATE",
        quoted(name(schedule))
    ))
}
