//! `dbkeep status`: the service at a glance.
//!
//! Owns that view: the scheduler and the servers (as `schedules scheduler` shows them), the targets with their migrations, runs that have not
//! ended, and alerts. Called by `main.rs`.

use clap::Args;
use dbkeep_client::proto;
use indicatif::{HumanBytes, HumanCount};
use serde_json::json;

use crate::{
    cmd::{alerts, schedules::scheduler},
    exit::Exit,
    json::{self, monitoring},
    output::{Output, Tone, printable},
    session::Session,
    table,
};

/// `dbkeep status` has no arguments of its own.
#[derive(Debug, Args)]
pub(crate) struct Status {}

impl Status {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let status = session.client.monitoring().status().await?;
        let scheduling = status.scheduler.clone().unwrap_or_default();
        if output.is_json() {
            let targets: Vec<_> = status.targets.iter().map(monitoring::health).collect();
            let runs: Vec<_> = status.runs.iter().map(json::run::Run::from).collect();
            let alerts: Vec<_> = status.alerts.iter().map(monitoring::Alert::from).collect();
            output.json(&json!({
                "scheduler": json::schedule::Scheduler::from(&scheduling), "targets": targets, "runs": runs, "alerts": alerts,
                "history": status.history.as_ref().map(monitoring::usage), "collecting": status.collecting,
                "gaps": status.gaps.iter().map(monitoring::gap).collect::<Vec<_>>(),
            }))?;
            return Ok(Exit::Success);
        }
        scheduler::show(&scheduling, session)?;
        targets(&status.targets, output)?;
        if !status.runs.is_empty() {
            runs(&status.runs, output)?;
        }
        if status.alerts.is_empty() {
            output.line(output.paint(Tone::Good, "No alert is raised."))?;
        } else {
            alerts::show(&status.alerts, output)?;
        }
        for gap in &status.gaps {
            output.note(printable(&format!("{} could not be looked at: {}", gap.what, gap.why)));
        }
        if !status.collecting {
            output.note("This server does not collect: [monitoring] enabled is false.");
        }
        if let Some(usage) = &status.history
            && (usage.trim_time.is_some() || usage.series >= usage.max_series)
        {
            output.note(format_args!(
                "History is full: {} of {} points, {} of {} series; the oldest points go before their time.",
                HumanCount(usage.points),
                HumanCount(usage.max_points),
                HumanCount(usage.series),
                HumanCount(usage.max_series)
            ));
        }
        Ok(Exit::Success)
    }
}

fn targets(targets: &[proto::TargetHealth], output: &Output) -> anyhow::Result<()> {
    let mut table = output.table(["TARGET", "ENGINE", "STATE", "COLLECTED", "SIZE", "ALERTS", "MIGRATIONS"]);
    for target in targets {
        let (tone, state) = match target.up {
            Some(true) => (Tone::Good, "up"),
            Some(false) => (Tone::Bad, "down"),
            None => (Tone::Dim, "not collected yet"),
        };
        let migrations = match &target.migrations {
            None => "-".to_owned(),
            Some(counts) if !counts.problem.is_empty() => counts.problem.clone(),
            Some(counts) => {
                let changed = match counts.changed {
                    0 => String::new(),
                    number => format!(", {number} changed"),
                };
                format!("{} applied, {} pending{changed}", counts.applied, counts.pending)
            }
        };
        let size = target
            .size_bytes
            .map_or_else(|| "-".to_owned(), |bytes| HumanBytes(bytes).to_string());
        table.add_row([
            output.cell(Tone::Strong, &target.name),
            output.cell(Tone::Dim, json::engine(target.engine())),
            output.cell(tone, state),
            output.cell(Tone::Dim, table::instant(target.collect_time.as_ref())),
            output.number(Tone::Strong, size),
            output.number(if target.alerts > 0 { Tone::Warn } else { Tone::Dim }, target.alerts),
            output.cell(Tone::Dim, migrations),
        ]);
    }
    Ok(output.line(table)?)
}

fn runs(runs: &[proto::Run], output: &Output) -> anyhow::Result<()> {
    let mut table = output.table(["RUN", "TARGET", "STATE", "OPERATIONS", "SINCE"]);
    for run in runs {
        table.add_row([
            output.cell(Tone::Strong, &run.id),
            output.cell(Tone::Dim, &run.target),
            output.cell(table::state_tone(run.state()), table::state(run.state())),
            output.cell(Tone::Strong, run.operations.join(", ")),
            output.cell(Tone::Dim, table::instant(run.create_time.as_ref())),
        ]);
    }
    Ok(output.line(table)?)
}
