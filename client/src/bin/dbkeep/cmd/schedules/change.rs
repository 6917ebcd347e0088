//! `dbkeep schedules create`, `update` and `delete`.
//!
//! Owns that an update changes what was read and nothing else, and the question before a schedule goes. The options themselves are
//! `wanted.rs`. Called by `mod.rs`.

use clap::Args;
use dbkeep_client::{ScheduleDraft, ScheduleUpdate, proto};
use serde_json::json;

use super::{answer, name, wanted::Wanted};
use crate::{exit::Exit, prompt, session::Session};

/// Arguments of `schedules create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name, 1 to 100 characters, which no other schedule has.
    name: String,
    #[command(flatten)]
    wanted: Wanted,
}

impl Create {
    pub(super) async fn run(self: Box<Self>, session: &Session) -> anyhow::Result<Exit> {
        let mut spec = proto::ScheduleSpec {
            name: self.name,
            ..proto::ScheduleSpec::default()
        };
        self.wanted.apply(&mut spec);
        let schedule = session.client.schedules().create(ScheduleDraft::of_spec(spec)).await?;
        answer(session, &schedule, "is created")
    }
}

/// Arguments of `schedules update`.
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Id or name of the schedule.
    name: String,
    /// A new name.
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    #[command(flatten)]
    wanted: Wanted,
    /// Etag of the schedule as it was reviewed; one that was changed since is left as it is [default: as it is now].
    #[arg(long)]
    etag: Option<String>,
}

impl Update {
    pub(super) async fn run(self: Box<Self>, session: &Session) -> anyhow::Result<Exit> {
        let schedules = session.client.schedules();
        // A field of the wire holds several options, and those that were not given stay as they are: the change starts from what is
        // there, and its etag sees to it that nobody else's change in between is lost.
        let schedule = schedules.get(self.name).await?;
        let mut spec = schedule.spec.unwrap_or_default();
        let mut fields = self.wanted.apply(&mut spec);
        if let Some(rename) = self.rename {
            spec.name = rename;
            fields.push("name");
        }
        if fields.is_empty() {
            session
                .output
                .note("Nothing to change was given: see dbkeep schedules update --help.");
            return Ok(Exit::Usage);
        }
        let update = ScheduleUpdate::new(schedule.id)
            .etag(self.etag.unwrap_or(schedule.etag))
            .of_spec(spec, fields);
        let changed = schedules.update(update).await?;
        answer(session, &changed, "is changed")
    }
}

/// Arguments of `schedules delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Id or name of the schedule.
    name: String,
    /// Etag of the schedule as it was reviewed; one that was changed since stays [default: as it is now].
    #[arg(long)]
    etag: Option<String>,
    /// Do not ask; for scripts.
    #[arg(long, short)]
    yes: bool,
}

impl Delete {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let schedules = session.client.schedules();
        let schedule = schedules.get(self.name).await?;
        let name = name(&schedule);
        if !self.yes {
            let question = format!("Delete schedule {name} and the record of its slots?");
            if let Err(exit) = prompt::confirm(&question, output).await? {
                return Ok(exit);
            }
        }
        let etag = self.etag.as_ref().unwrap_or(&schedule.etag);
        schedules.delete(&schedule.id, etag).await?;
        if output.is_json() {
            output.json(&json!({ "deleted": { "id": schedule.id, "name": name } }))?;
        } else {
            output.line(format_args!("Schedule {name} is deleted."))?;
        }
        Ok(Exit::Success)
    }
}
