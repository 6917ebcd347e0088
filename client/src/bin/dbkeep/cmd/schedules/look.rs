//! `dbkeep schedules list`, `show`, `runs` and `preview`: looking, and changing nothing.
//!
//! Owns these four views. Called by `mod.rs`.

use std::{collections::HashMap, pin::pin};

use clap::{Args, ValueEnum};
use dbkeep_client::{PreviewRequest, ScheduleQuery, ScheduleRunQuery, ScheduleTiming, proto};
use futures::TryStreamExt as _;
use serde_json::json;

use super::{approval, name, wanted};
use crate::{
    exit::Exit,
    json,
    output::Tone,
    session::{Session, quoted},
    table::{self, schedule as view},
};

/// Arguments of `schedules list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only schedules of this target.
    #[arg(long)]
    target: Option<String>,
    /// Most schedules to list.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl List {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let limit = usize::try_from(self.limit)?;
        let query = ScheduleQuery::default()
            .target(self.target.unwrap_or_default())
            .page_size(self.limit.min(500));
        let mut stream = pin!(session.client.schedules().list(query));
        let mut schedules = Vec::new();
        let mut more = false;
        while let Some(schedule) = stream.try_next().await? {
            if schedules.len() == limit {
                more = true;
                break;
            }
            schedules.push(schedule);
        }
        if output.is_json() {
            let schedules: Vec<_> = schedules.iter().map(json::schedule::Schedule::from).collect();
            output.json(&json!({ "schedules": schedules, "more": more }))?;
            return Ok(Exit::Success);
        }
        let mut table = output.table(["NAME", "TARGET", "WORK", "WHEN", "", "NEXT RUN", "LAST SLOT", "FAILURES"]);
        for schedule in &schedules {
            let spec = schedule.spec.clone().unwrap_or_default();
            table.add_row([
                output.cell(Tone::Strong, name(schedule)),
                output.cell(Tone::Dim, table::or_dash(&spec.target)),
                output.cell(Tone::Dim, view::work(&spec)),
                output.cell(Tone::Dim, view::when(spec.timing.as_ref())),
                output.cell(view::standing_tone(schedule), view::standing(schedule)),
                output.cell(Tone::Strong, table::instant(schedule.next_run_time.as_ref())),
                output.cell(Tone::Dim, table::instant(schedule.last_slot_time.as_ref())),
                output.number(
                    if schedule.consecutive_failures == 0 {
                        Tone::Dim
                    } else {
                        Tone::Bad
                    },
                    schedule.consecutive_failures,
                ),
            ]);
        }
        output.line(table)?;
        if more {
            output.note(format_args!("There are more than {limit}; --limit shows them."));
        }
        Ok(Exit::Success)
    }
}

/// Arguments of `schedules show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Id or name of the schedule.
    name: String,
}

impl Show {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let schedule = session.client.schedules().get(self.name).await?;
        if session.output.is_json() {
            let schedule = json::schedule::Schedule::from(&schedule);
            session.output.json(&json!({ "schedule": schedule }))?;
            return Ok(Exit::Success);
        }
        detail(session, &schedule)?;
        if !schedule.last_run_id.is_empty() {
            let command = session.command(&format!("runs report {}", schedule.last_run_id));
            session.output.line(format_args!("What its last run did: {command}"))?;
        }
        let command = session.command(&format!("schedules runs {}", quoted(name(&schedule))));
        session.output.line(format_args!("What became of its slots: {command}"))?;
        Ok(Exit::Success)
    }
}

/// Prints everything about a schedule; `approve` shows it before it asks.
pub(super) fn detail(session: &Session, schedule: &proto::Schedule) -> anyhow::Result<()> {
    let output = &session.output;
    let spec = schedule.spec.clone().unwrap_or_default();
    let timing = spec.timing.clone().unwrap_or_default();
    let mut table = output.table(["SCHEDULE", name(schedule)]);
    let mut row = |label: &str, text: String| {
        table.add_row([output.cell(Tone::Dim, label), output.cell(Tone::Strong, text)]);
    };
    row("id", schedule.id.clone());
    row("description", table::or_dash(&spec.description).to_owned());
    row("target", table::or_dash(&spec.target).to_owned());
    row("work", view::work(&spec));
    row("when", view::when(Some(&timing)));
    row("changes of the clock", view::clock_changes(&timing));
    row("exclusions", table::or_dash(&timing.exclusions.join("\n")).to_owned());
    row("options", view::options(&spec.options.unwrap_or_default()));
    row("slots", view::slots(&spec));
    row("notify", view::notices(spec.notify.as_ref()));
    row("state", view::standing(schedule));
    row("next slot", table::instant(schedule.next_slot_time.as_ref()));
    row("next run", table::instant(schedule.next_run_time.as_ref()));
    row("last slot", table::instant(schedule.last_slot_time.as_ref()));
    row("last run", table::or_dash(&schedule.last_run_id).to_owned());
    row("failures in a row", schedule.consecutive_failures.to_string());
    row(
        "approval",
        match &schedule.approval {
            Some(given) => view::approval(given),
            None if schedule.needs_approval => format!("needs an approval: {}", approval(session, schedule)),
            None => "none needed".to_owned(),
        },
    );
    let by = |time, who: &str| format!("{} by {}", table::instant(time), table::or_dash(who));
    row("created", by(schedule.create_time.as_ref(), &schedule.created_by));
    row("changed", by(schedule.update_time.as_ref(), &schedule.updated_by));
    row("etag", schedule.etag.clone());
    output.line(table)?;
    Ok(())
}

/// Arguments of `schedules runs`.
#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// Id or name of a schedule; those of all where left away.
    name: Option<String>,
    /// Only slots with this outcome; may be given again.
    #[arg(long, value_enum)]
    outcome: Vec<Outcome>,
    /// Most slots to list.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// An outcome to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Outcome {
    Pending,
    Waiting,
    Fired,
    Succeeded,
    Warned,
    Failed,
    Refused,
    Skipped,
    Missed,
}

impl From<Outcome> for proto::SlotOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Pending => Self::Pending,
            Outcome::Waiting => Self::Waiting,
            Outcome::Fired => Self::Fired,
            Outcome::Succeeded => Self::Succeeded,
            Outcome::Warned => Self::Warned,
            Outcome::Failed => Self::Failed,
            Outcome::Refused => Self::Refused,
            Outcome::Skipped => Self::Skipped,
            Outcome::Missed => Self::Missed,
        }
    }
}

impl Runs {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let limit = usize::try_from(self.limit)?;
        let query = self
            .name
            .as_ref()
            .map_or_else(ScheduleRunQuery::default, ScheduleRunQuery::of)
            .page_size(self.limit.min(500));
        let query = self
            .outcome
            .into_iter()
            .fold(query, |query, outcome| query.outcome(outcome.into()));
        let mut stream = pin!(session.client.schedules().runs(query));
        let mut slots = Vec::new();
        let mut more = false;
        while let Some(slot) = stream.try_next().await? {
            if slots.len() == limit {
                more = true;
                break;
            }
            slots.push(slot);
        }
        if output.is_json() {
            let slots: Vec<_> = slots.iter().map(json::schedule::Slot::from).collect();
            output.json(&json!({ "schedule_runs": slots, "more": more }))?;
            return Ok(Exit::Success);
        }
        // A slot has its schedule's id, and people know schedules by name.
        let names = match self.name {
            Some(_) => None,
            None => Some(names(session).await?),
        };
        let mut header = vec!["SLOT", "OUTCOME", "REASON", "RUN", "DECIDED"];
        if names.is_some() {
            header.insert(0, "SCHEDULE");
        }
        let mut table = output.table(["SLOT"; 0]);
        table.set_header(header.into_iter().map(|name| output.cell(Tone::Strong, name)));
        for slot in &slots {
            let mut row = vec![
                output.cell(Tone::Strong, view::slot_time(slot)),
                output.cell(view::outcome_tone(slot.outcome()), json::slot_outcome(slot.outcome())),
                output.cell(Tone::Dim, table::or_dash(&slot.reason)),
                output.cell(Tone::Strong, table::or_dash(&slot.run_id)),
                output.cell(Tone::Dim, table::instant(slot.decide_time.as_ref())),
            ];
            if let Some(names) = &names {
                let name = names.get(&slot.schedule_id).unwrap_or(&slot.schedule_id);
                row.insert(0, output.cell(Tone::Strong, name));
            }
            table.add_row(row);
        }
        output.line(table)?;
        if more {
            output.note(format_args!("There are more than {limit}; --limit shows them."));
        }
        Ok(Exit::Success)
    }
}

async fn names(session: &Session) -> anyhow::Result<HashMap<String, String>> {
    let query = ScheduleQuery::default().page_size(500);
    let schedules = session.client.schedules().list_all(query).await?;
    Ok(schedules
        .into_iter()
        .map(|schedule| (schedule.id.clone(), name(&schedule).to_owned()))
        .collect())
}

/// Arguments of `schedules preview`.
#[derive(Debug, Args)]
pub(crate) struct Preview {
    /// Id or name of a schedule; without it, the options say when.
    #[arg(conflicts_with = "Times", required_unless_present = "Times")]
    name: Option<String>,
    #[command(flatten)]
    times: wanted::Times,
    /// How many times, 1 to 1000.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Only times after this instant, e.g. 2027-03-27T00:00:00Z [default: now].
    #[arg(long, value_name = "TIME")]
    after: Option<jiff::Timestamp>,
}

impl Preview {
    pub(super) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let request = match self.name {
            Some(name) => PreviewRequest::of_schedule(name),
            None => {
                let mut timing = proto::Timing::default();
                self.times.apply(&mut timing);
                PreviewRequest::of_timing(ScheduleTiming::of_message(timing))
            }
        };
        let mut request = request.count(self.count);
        if let Some(after) = self.after {
            request = request.after(after);
        }
        let times = session.client.schedules().preview(request).await?;
        if output.is_json() {
            let times: Vec<_> = times.iter().map(json::schedule::Previewed::from).collect();
            output.json(&json!({ "times": times }))?;
            return Ok(Exit::Success);
        }
        let mut table = output.table(["TIME", "LOCAL", "CLOCK", "EXCLUDED BY"]);
        for time in &times {
            let tone = if time.excluded_by.is_empty() {
                Tone::Strong
            } else {
                Tone::Dim
            };
            table.add_row([
                output.cell(tone, table::instant(time.time.as_ref())),
                output.cell(tone, &time.local),
                output.cell(Tone::Warn, table::or_dash(&time.shift)),
                output.cell(Tone::Warn, table::or_dash(&time.excluded_by)),
            ]);
        }
        output.line(table)?;
        Ok(Exit::Success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_words_are_those_of_the_json() {
        for outcome in Outcome::value_variants() {
            let word = outcome.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(word, json::slot_outcome((*outcome).into()));
        }
    }
}
