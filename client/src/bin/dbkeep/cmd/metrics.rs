//! `dbkeep metrics`: how a target is, and the history of one metric.
//!
//! Owns both views. Called by `main.rs`.

use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use dbkeep_client::{HistoryQuery, proto};
use indicatif::{HumanBytes, HumanCount};
use serde_json::json;

use super::findings::Depth;
use crate::{
    duration::Span,
    exit::Exit,
    json::{self, monitoring},
    output::{Output, Tone},
    session::Session,
    table,
};

/// Tables that are shown; JSON has all of them.
const TABLES: usize = 20;

/// Arguments of `metrics`.
#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Name of the target; may be left out where there is one.
    #[arg(default_value = "")]
    target: String,
    #[command(flatten)]
    depth: Depth,
    /// Show the history of this metric instead, such as database_size_bytes.
    #[arg(long, value_name = "METRIC", conflicts_with_all = ["fresh", "exact"])]
    history: Option<String>,
    /// From so long ago on [default: 1d].
    #[arg(long, value_name = "DURATION", requires = "history")]
    since: Option<Span>,
    /// How fine [default: as fine as fits].
    #[arg(long, value_enum, requires = "history")]
    step: Option<Step>,
    /// Only of this table, replica, slot, server or folder.
    #[arg(long, value_name = "NAME", requires = "history")]
    object: Option<String>,
    /// Most points.
    #[arg(long, requires = "history", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: Option<u32>,
}

/// How fine a history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// As collected; kept for a day.
    Raw,
    /// Five minutes; kept for a month.
    #[value(name = "5m")]
    FiveMinutes,
    /// An hour; kept for two years.
    #[value(name = "1h")]
    Hour,
}

impl From<Step> for proto::MetricStep {
    fn from(step: Step) -> Self {
        match step {
            Step::Raw => Self::Raw,
            Step::FiveMinutes => Self::FiveMinutes,
            Step::Hour => Self::Hour,
        }
    }
}

impl Metrics {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<Exit> {
        let output = &session.output;
        let Some(metric) = self.history else {
            let metrics = session.client.monitoring().metrics(self.target, self.depth.look()).await?;
            if output.is_json() {
                output.json(&json!({ "metrics": monitoring::metrics(&metrics) }))?;
            } else {
                show(&metrics, output)?;
            }
            return Ok(Exit::Success);
        };
        let mut query = HistoryQuery::new(self.target, metric);
        if let Some(since) = self.since {
            let ago: Duration = since.into();
            query = query.from(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH));
        }
        if let Some(step) = self.step {
            query = query.step(step.into());
        }
        if let Some(object) = self.object {
            query = query.object(object);
        }
        if let Some(limit) = self.limit {
            query = query.limit(limit);
        }
        let history = session.client.monitoring().history(query).await?;
        if output.is_json() {
            let points: Vec<_> = history.points.iter().map(monitoring::point).collect();
            let step = json::metric_step(history.step());
            output.json(&json!({ "step": step, "points": points, "truncated": history.truncated }))?;
            return Ok(Exit::Success);
        }
        let mut table = output.table(["TIME", "OBJECT", "MIN", "MEAN", "MAX", "LAST"]);
        for point in &history.points {
            table.add_row([
                output.cell(Tone::Dim, table::instant(point.time.as_ref())),
                output.cell(Tone::Strong, table::or_dash(&point.object)),
                output.number(Tone::Dim, point.min),
                output.number(Tone::Strong, point.mean),
                output.number(Tone::Dim, point.max),
                output.number(Tone::Dim, point.last),
            ]);
        }
        output.line(table)?;
        if history.truncated {
            output.note("There are more points; --limit, a later --since or a coarser --step shows the rest.");
        }
        Ok(Exit::Success)
    }
}

fn bytes(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| HumanBytes(number).to_string())
}

fn count(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| HumanCount(number).to_string())
}

fn percent(fraction: Option<f64>) -> String {
    fraction.map_or_else(|| "-".to_owned(), |fraction| format!("{:.1} %", fraction * 100.0))
}

/// Shows the newest numbers of a target.
fn show(metrics: &proto::TargetMetrics, output: &Output) -> anyhow::Result<()> {
    let snapshot = metrics.snapshot.clone().unwrap_or_default();
    let database = snapshot.database.clone().unwrap_or_default();
    let mut table = output.table(["TARGET", &metrics.target]);
    let mut row = |label: &str, tone: Tone, text: String| {
        table.add_row([output.cell(Tone::Dim, label), output.cell(tone, text)]);
    };
    let state = match metrics.up {
        Some(true) => (Tone::Good, "up"),
        Some(false) => (Tone::Bad, "cannot be reached; these are older numbers"),
        None => (Tone::Dim, "not collected yet"),
    };
    row("state", state.0, state.1.to_owned());
    row("measured", Tone::Dim, table::instant(snapshot.time.as_ref()));
    row("version", Tone::Dim, database.version.clone());
    row("size", Tone::Strong, bytes(database.size_bytes));
    if let Some(growth) = &metrics.growth {
        row("grows by", Tone::Strong, format!("{:.0} bytes a day", growth.bytes_per_day));
        if let Some(days) = growth.days_until_full {
            row("disk full in", Tone::Strong, format!("{days:.0} days"));
        }
    }
    match &metrics.disk {
        Some(disk) => {
            let (free, total) = (bytes(Some(disk.free_bytes)), bytes(Some(disk.total_bytes)));
            row("disk", Tone::Strong, format!("{free} free of {total} ({})", disk.folder));
        }
        None if !metrics.disk_unknown.is_empty() => row("disk", Tone::Dim, format!("not known: {}", metrics.disk_unknown)),
        None => {}
    }
    row("index efficiency", Tone::Strong, percent(database.index_hit_fraction));
    row("cache hits", Tone::Strong, percent(database.cache_hit_fraction));
    row("write-ahead log", Tone::Dim, bytes(database.wal_size_bytes));
    if let Some(rate) = database.recent_wal_bytes_per_second {
        row("log written", Tone::Strong, format!("{rate:.0} bytes a second"));
    }
    if let Some(sessions) = &snapshot.sessions {
        let text = format!(
            "{} of {}, {} at work, {} waiting, {} idle in a transaction",
            sessions.connections, sessions.max_connections, sessions.active, sessions.waiting, sessions.idle_in_transaction
        );
        row("sessions", Tone::Strong, text);
    }
    output.line(table)?;
    let mut table = output.table(["TABLE", "ROWS", "SIZE", "INDEXES", "DEAD ROWS", "FREE", "LAST ANALYZED"]);
    for one in snapshot.tables.iter().filter(|table| !table.own).take(TABLES) {
        table.add_row([
            output.cell(Tone::Strong, &one.table),
            output.number(Tone::Strong, count(one.rows)),
            output.number(Tone::Dim, bytes(one.heap_bytes)),
            output.number(Tone::Dim, bytes(one.index_bytes)),
            output.number(Tone::Dim, count(one.dead_rows)),
            output.number(Tone::Dim, bytes(one.free_bytes)),
            output.cell(Tone::Dim, table::instant(one.last_analyze_time.as_ref())),
        ]);
    }
    output.line(table)?;
    let hidden = snapshot
        .tables
        .iter()
        .filter(|table| !table.own)
        .count()
        .saturating_sub(TABLES);
    if hidden > 0 {
        output.note(format_args!(
            "{hidden} smaller tables are not shown; -o json has all of them."
        ));
    }
    for gap in &snapshot.gaps {
        let allow = if gap.allow.is_empty() {
            String::new()
        } else {
            format!("; to allow it: {}", gap.allow)
        };
        output.note(crate::output::printable(&format!(
            "{} could not be read: {}{allow}",
            gap.what, gap.why
        )));
    }
    Ok(())
}
