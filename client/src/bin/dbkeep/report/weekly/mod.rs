//! `dbkeep report weekly`: what a week did to each target: sizes, runs, slots, alerts, and what is left to do.
//!
//! Owns the arguments and the reading. What is made of the answers is `week.rs`, the page `page.rs`; both are pure. Called by `main.rs`.

mod page;
mod week;

use std::{path::PathBuf, pin::pin, time::SystemTime};

use clap::{Args, Subcommand};
use dbkeep_client::{AlertQuery, Error, HistoryQuery, Look, RunQuery, ScheduleQuery, ScheduleRunQuery, proto};
use futures::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use self::week::{Slot, Week};
use crate::{exit::Exit, json, output::Tone, session::Session};

/// A week.
const PERIOD: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Points of the history of a size: a week of five minutes, and some more.
const POINTS: u32 = 10_000;

/// Reports over a time, and over everything.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Report {
    /// The last seven days: sizes, runs, slots of schedules, alerts, findings and recommendations of each target.
    Weekly(Weekly),
}

impl Report {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        match self {
            Self::Weekly(weekly) => weekly.run(session).await,
        }
    }
}

/// Arguments of `report weekly`.
#[derive(Debug, Args)]
pub(crate) struct Weekly {
    /// Only of this target [default: all].
    target: Option<String>,
    /// Write a page that needs nothing else, with charts; without a file, or with -, to stdout.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    html: Option<PathBuf>,
}

impl Weekly {
    async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let until = Timestamp::now();
        let from = until - PERIOD;
        let mut healths = session.client.monitoring().status().await?.targets;
        if let Some(name) = &self.target {
            healths.retain(|health| health.name == *name);
            if healths.is_empty() {
                // A name that nobody knows is an error with its reason, and not a page about nothing.
                session.client.monitoring().metrics(name.as_str(), Look::Newest).await?;
            }
        }
        let mut weeks = Vec::with_capacity(healths.len());
        for health in healths {
            weeks.push(read(session, health, from, until).await?);
        }
        if let Some(file) = self.html {
            super::write_page(session, &page::render(&weeks, from, until), &file)?;
        } else if session.output.is_json() {
            let targets: Vec<_> = weeks.iter().map(Week::json).collect();
            session.output.json(&json!({
                "weekly": { "from": from.to_string(), "until": until.to_string(), "targets": targets },
            }))?;
        } else {
            print(session, &weeks, from, until)?;
        }
        Ok(Exit::Success)
    }
}

/// What a target's newest snapshot says, or why there is none.
fn told<T: Default>(answer: Result<T, Error>, problems: &mut Vec<String>) -> anyhow::Result<T> {
    match answer {
        // Whoever is away at the moment has had a week all the same.
        Err(error) if error.is_unavailable() || matches!(error, Error::TargetPermission { .. }) => {
            let problem = error.to_string();
            if !problems.contains(&problem) {
                problems.push(problem);
            }
            Ok(T::default())
        }
        answer => Ok(answer?),
    }
}

async fn read(session: &Session, health: proto::TargetHealth, from: Timestamp, until: Timestamp) -> anyhow::Result<Week> {
    let name = health.name.clone();
    let monitoring = session.client.monitoring();
    let mut problems = Vec::new();
    let metrics = told(monitoring.metrics(name.as_str(), Look::Newest).await, &mut problems)?;
    let findings = told(monitoring.findings(name.as_str(), Look::Newest).await, &mut problems)?.findings;
    let recommendations = told(monitoring.recommendations(name.as_str()).await, &mut problems)?;
    let sizes = HistoryQuery::new(name.as_str(), "database_size_bytes")
        .from(SystemTime::from(from))
        .limit(POINTS);
    let sizes = monitoring.history(sizes).await?.points;
    let query = RunQuery::default().target(name.as_str()).created_after(from).page_size(500);
    let runs = session.client.runs().list_all(query).await?;
    Ok(Week {
        slots: slots(session, &name, from).await?,
        alerts: alerts(session, &name, from).await?,
        growth: metrics.growth,
        health,
        from,
        until,
        sizes,
        runs,
        findings,
        recommendations,
        problems,
    })
}

/// Alerts that began in the time, and those that are still raised.
async fn alerts(session: &Session, target: &str, from: Timestamp) -> Result<Vec<proto::Alert>, Error> {
    let query = |state| AlertQuery::default().target(target).state(state).page_size(500);
    let monitoring = session.client.monitoring();
    let mut alerts = monitoring.list_all_alerts(query(proto::AlertState::Raised)).await?;
    let mut ended = pin!(monitoring.alerts(query(proto::AlertState::Resolved)));
    // The newest begin first.
    while let Some(alert) = ended.try_next().await? {
        if json::instant(alert.since_time.as_ref()).is_none_or(|since| since < from) {
            break;
        }
        alerts.push(alert);
    }
    Ok(alerts)
}

/// Slots of the time that did not do what they were for.
async fn slots(session: &Session, target: &str, from: Timestamp) -> Result<Vec<Slot>, Error> {
    use proto::SlotOutcome::{Missed, Refused, Skipped};

    let schedules = session.client.schedules();
    let mut slots = Vec::new();
    for schedule in schedules.list_all(ScheduleQuery::default().target(target)).await? {
        let name = schedule.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        let query = ScheduleRunQuery::of(schedule.id.as_str())
            .outcome(Missed)
            .outcome(Refused)
            .outcome(Skipped)
            .page_size(100);
        let mut passed = pin!(schedules.runs(query));
        while let Some(slot) = passed.try_next().await? {
            if json::instant(slot.slot_time.as_ref()).is_none_or(|at| at < from) {
                break;
            }
            slots.push(Slot {
                schedule: name.clone(),
                slot,
            });
        }
    }
    Ok(slots)
}

fn print(session: &Session, weeks: &[Week], from: Timestamp, until: Timestamp) -> anyhow::Result<()> {
    let output = &session.output;
    output.line(output.paint(
        Tone::Strong,
        &format!("{} to {}", from.strftime("%F %TZ"), until.strftime("%F %TZ")),
    ))?;
    for week in weeks {
        let mut table = output.table(["TARGET", &week.health.name]);
        for (label, text) in week.facts() {
            table.add_row([output.cell(Tone::Dim, label), output.cell(Tone::Strong, text)]);
        }
        output.line(table)?;
        for (tone, line) in week.lines() {
            output.line(output.paint(tone, &line))?;
        }
    }
    Ok(())
}
