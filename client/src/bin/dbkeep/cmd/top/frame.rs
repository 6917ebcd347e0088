//! What `dbkeep top` shows of a look: tables with bars, plain lines, or JSON. Pure.

use std::time::Duration;

use dbkeep_client::proto;
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Seen;
use crate::{
    cmd::alerts::{level_tone, place},
    duration::Words,
    json::{self, monitoring},
    output::{Output, Tone, printable},
    session::Session,
    table,
};

/// Characters of a bar.
const BAR: usize = 24;

/// How far a run is, as far as that is known.
#[derive(Debug, PartialEq)]
struct Far {
    /// 0 to 1.
    fraction: Option<f64>,
    text: String,
}

/// By rows where its plan counted some, otherwise by steps.
fn far(run: &proto::Run) -> Far {
    let report = run.report.clone().unwrap_or_default();
    let done: u64 = report.steps.iter().map(|step| step.rows_affected).sum();
    // Rows that were planned may have gone meanwhile, and others may have come.
    let planned: u64 = report
        .steps
        .iter()
        .map(|step| step.rows_planned.max(step.rows_affected))
        .sum();
    if planned > 0 {
        return Far {
            fraction: Some(part(done, planned)),
            text: format!("{} / {} rows", HumanCount(done), HumanCount(planned)),
        };
    }
    let steps = report.steps.len() as u64;
    let ended = report
        .steps
        .iter()
        .filter(|step| !matches!(step.state(), proto::StepState::Pending | proto::StepState::Running))
        .count() as u64;
    Far {
        fraction: (steps > 0).then(|| part(ended, steps)),
        text: if steps > 0 {
            format!("{ended} / {steps} steps")
        } else {
            String::new()
        },
    }
}

#[expect(clippy::cast_precision_loss, reason = "a part of a whole")]
fn part(of: u64, whole: u64) -> f64 {
    of as f64 / whole as f64
}

/// A bar of [`BAR`] characters.
fn bar(fraction: Option<f64>) -> String {
    let Some(fraction) = fraction else {
        return "·".repeat(BAR);
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to the length of a bar"
    )]
    let full = ((fraction.clamp(0.0, 1.0) * BAR as f64) as usize).min(BAR);
    format!("{}{}", "━".repeat(full), "─".repeat(BAR - full))
}

fn percent(fraction: Option<f64>) -> String {
    fraction.map_or_else(|| "-".to_owned(), |fraction| format!("{:.1} %", fraction * 100.0))
}

fn bytes(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| HumanBytes(number).to_string())
}

fn age(since: Option<&prost_types::Timestamp>, at: Timestamp) -> String {
    let Some(since) = json::instant(since) else {
        return "-".to_owned();
    };
    let seconds = u64::try_from(at.as_second() - since.as_second()).unwrap_or(0);
    Words(Duration::from_secs(seconds)).to_string()
}

/// What a run works for: its operations, or its kind where it has none.
fn what(run: &proto::Run) -> String {
    if run.operations.is_empty() {
        json::run_kind(run.kind())
    } else {
        run.operations.join(", ")
    }
}

fn state_of(target: &proto::TargetHealth) -> (Tone, &'static str) {
    match target.up {
        Some(true) => (Tone::Good, "up"),
        Some(false) => (Tone::Bad, "down"),
        None => (Tone::Dim, "not collected yet"),
    }
}

/// The numbers of a target that change while somebody watches.
struct Pulse {
    cache: String,
    index: String,
    sessions: String,
    waiting: String,
    dead_rows: String,
    oldest: String,
    lag: String,
}

impl Pulse {
    fn of(metrics: Option<&proto::TargetMetrics>) -> Self {
        let snapshot = metrics.and_then(|metrics| metrics.snapshot.as_ref());
        let database = snapshot.and_then(|snapshot| snapshot.database.as_ref());
        let sessions = snapshot.and_then(|snapshot| snapshot.sessions.as_ref());
        let dash = || "-".to_owned();
        let tables = snapshot.map(|snapshot| snapshot.tables.as_slice()).unwrap_or_default();
        let dead: Vec<u64> = tables.iter().filter_map(|table| table.dead_rows).collect();
        let replicas = snapshot.map(|snapshot| snapshot.replicas.as_slice()).unwrap_or_default();
        let lag = replicas.iter().filter_map(|replica| replica.lag_seconds).reduce(f64::max);
        Self {
            cache: percent(database.and_then(|database| database.cache_hit_fraction)),
            index: percent(database.and_then(|database| database.index_hit_fraction)),
            sessions: sessions.map_or_else(dash, |sessions| {
                format!("{} / {}", sessions.connections, sessions.max_connections)
            }),
            waiting: sessions.map_or_else(dash, |sessions| sessions.waiting.to_string()),
            dead_rows: if dead.is_empty() {
                dash()
            } else {
                HumanCount(dead.iter().sum()).to_string()
            },
            oldest: sessions.map_or_else(dash, |sessions| {
                let first = sessions.long_transactions.first();
                first.map_or_else(dash, |one| table::duration(one.age.as_ref()))
            }),
            lag: lag.map_or_else(dash, |lag| format!("{lag:.1} s")),
        }
    }
}

/// The line above everything.
fn head(seen: &Seen, output: &Output) -> String {
    let scheduler = seen.status.scheduler.clone().unwrap_or_default();
    let alive = scheduler.servers.iter().filter(|server| server.alive).count();
    let (tone, word) = if scheduler.running {
        (Tone::Good, "scheduler running")
    } else {
        (Tone::Warn, "scheduler stopped")
    };
    let mut head = format!(
        "{}  {alive} of {} servers alive  {}  {} runs  {} alerts",
        seen.at.strftime("%F %TZ"),
        scheduler.servers.len(),
        output.paint(tone, word),
        seen.status.runs.len(),
        seen.status.alerts.len(),
    );
    if let Some(problem) = &seen.problem {
        head.push('\n');
        head.push_str(&output.paint(Tone::Bad, &format!("no contact, this is what was seen last: {problem}")));
    }
    head
}

/// For a terminal.
pub(super) fn tables(seen: &Seen, session: &Session) -> String {
    picture(seen, &session.output)
}

fn picture(seen: &Seen, output: &Output) -> String {
    let mut parts = vec![head(seen, output)];
    if seen.status.runs.is_empty() {
        parts.push(output.paint(Tone::Dim, "No run is at work."));
    } else {
        let mut runs = output.table(["RUN", "TARGET", "WHAT", "STATE", "", "", "ROWS", "FOR"]);
        for run in &seen.status.runs {
            let far = far(run);
            let tone = table::state_tone(run.state());
            runs.add_row([
                output.cell(Tone::Dim, &run.id),
                output.cell(Tone::Strong, &run.target),
                output.cell(Tone::Strong, what(run)),
                output.cell(tone, table::state(run.state())),
                output.cell(tone, bar(far.fraction)),
                output.number(Tone::Strong, percent(far.fraction)),
                output.number(Tone::Dim, &far.text),
                output.number(Tone::Dim, age(run.start_time.as_ref().or(run.create_time.as_ref()), seen.at)),
            ]);
        }
        parts.push(runs.to_string());
    }
    let mut targets = output.table([
        "TARGET",
        "STATE",
        "SIZE",
        "CACHE",
        "INDEX",
        "SESSIONS",
        "WAITING",
        "DEAD ROWS",
        "OLDEST TX",
        "LAG",
        "ALERTS",
    ]);
    for target in &seen.status.targets {
        let pulse = Pulse::of(seen.metrics.get(&target.name));
        let (tone, state) = state_of(target);
        targets.add_row([
            output.cell(Tone::Strong, &target.name),
            output.cell(tone, state),
            output.number(Tone::Strong, bytes(target.size_bytes)),
            output.number(Tone::Dim, pulse.cache),
            output.number(Tone::Dim, pulse.index),
            output.number(Tone::Dim, pulse.sessions),
            output.number(Tone::Dim, pulse.waiting),
            output.number(Tone::Dim, pulse.dead_rows),
            output.number(Tone::Dim, pulse.oldest),
            output.number(Tone::Dim, pulse.lag),
            output.number(if target.alerts > 0 { Tone::Warn } else { Tone::Dim }, target.alerts),
        ]);
    }
    parts.push(targets.to_string());
    if seen.status.alerts.is_empty() {
        parts.push(output.paint(Tone::Good, "No alert is raised."));
    } else {
        let mut alerts = output.table(["ALERT", "LEVEL", "ABOUT", "FOR", "WHAT"]);
        for alert in &seen.status.alerts {
            let tone = level_tone(alert.level());
            alerts.add_row([
                output.cell(tone, &alert.rule),
                output.cell(tone, json::alert_level(alert.level())),
                output.cell(Tone::Strong, place(alert)),
                output.number(Tone::Dim, age(alert.since_time.as_ref(), seen.at)),
                output.cell(Tone::Strong, &alert.detail),
            ]);
        }
        parts.push(alerts.to_string());
    }
    parts.join("\n")
}

/// For a file or a pipe: one line for each thing, which begins with the time and what it is of.
pub(super) fn lines(seen: &Seen) -> Vec<String> {
    let at = seen.at.strftime("%F %TZ");
    let plain = |text: String| printable(&text).replace('\n', "\\n");
    let mut lines = Vec::new();
    if let Some(problem) = &seen.problem {
        lines.push(plain(format!("{at} no contact, this is what was seen last: {problem}")));
    }
    for run in &seen.status.runs {
        let far = far(run);
        lines.push(plain(format!(
            "{at} run {} {} {} {} {} {}",
            run.id,
            run.target,
            table::state(run.state()),
            percent(far.fraction),
            far.text,
            what(run)
        )));
    }
    for target in &seen.status.targets {
        let pulse = Pulse::of(seen.metrics.get(&target.name));
        lines.push(plain(format!(
            "{at} target {} {}, size {}, cache {}, index {}, sessions {}, waiting {}, dead rows {}, oldest transaction {}, lag {}, alerts {}",
            target.name,
            state_of(target).1,
            bytes(target.size_bytes),
            pulse.cache,
            pulse.index,
            pulse.sessions,
            pulse.waiting,
            pulse.dead_rows,
            pulse.oldest,
            pulse.lag,
            target.alerts
        )));
    }
    for alert in &seen.status.alerts {
        lines.push(plain(format!(
            "{at} alert {} {} {}: {}",
            json::alert_level(alert.level()),
            alert.rule,
            place(alert),
            alert.detail
        )));
    }
    lines
}

/// For programs.
pub(super) fn json(seen: &Seen) -> Value {
    let runs: Vec<_> = seen.status.runs.iter().map(json::run::Run::from).collect();
    let targets: Vec<_> = seen.status.targets.iter().map(monitoring::health).collect();
    let alerts: Vec<_> = seen.status.alerts.iter().map(monitoring::Alert::from).collect();
    let metrics: Vec<_> = seen.metrics.values().map(monitoring::metrics).collect();
    json!({
        "time": seen.at.to_string(), "problem": seen.problem, "runs": runs, "targets": targets, "alerts": alerts, "metrics": metrics,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Format;

    fn run(steps: Vec<proto::StepReport>) -> proto::Run {
        proto::Run {
            id: "r1".into(),
            target: "app".into(),
            state: proto::RunState::Running.into(),
            operations: vec!["old_logs".into()],
            report: Some(proto::RunReport {
                steps,
                ..Default::default()
            }),
            start_time: Some(prost_types::Timestamp { seconds: 40, nanos: 0 }),
            ..Default::default()
        }
    }

    fn step(planned: u64, affected: u64, state: proto::StepState) -> proto::StepReport {
        proto::StepReport {
            rows_planned: planned,
            rows_affected: affected,
            state: state.into(),
            ..Default::default()
        }
    }

    fn seen() -> Seen {
        Seen {
            at: Timestamp::from_second(100).unwrap(),
            status: proto::GetStatusResponse {
                runs: vec![run(vec![
                    step(1_000, 1_000, proto::StepState::Succeeded),
                    step(3_000, 1_000, proto::StepState::Running),
                ])],
                targets: vec![proto::TargetHealth {
                    name: "app\u{1b}[31m".into(),
                    up: Some(true),
                    size_bytes: Some(5 << 20),
                    ..Default::default()
                }],
                alerts: vec![proto::Alert {
                    rule: "disk_nearly_full".into(),
                    object: "box:/srv".into(),
                    level: proto::AlertLevel::Warning.into(),
                    detail: "85.0 % full".into(),
                    ..Default::default()
                }],
                ..Default::default()
            },
            metrics: [(
                "app\u{1b}[31m".to_owned(),
                proto::TargetMetrics {
                    snapshot: Some(proto::MetricSnapshot {
                        sessions: Some(proto::SessionVitals {
                            connections: 5,
                            max_connections: 100,
                            ..Default::default()
                        }),
                        ..Default::default()
                    }),
                    ..Default::default()
                },
            )]
            .into(),
            problem: None,
        }
    }

    #[test]
    fn a_run_is_as_far_as_its_rows_or_its_steps() {
        let of = |steps: Vec<proto::StepReport>| far(&run(steps)).fraction;
        assert_eq!(of(vec![step(4, 1, proto::StepState::Running)]), Some(0.25));
        assert_eq!(
            of(vec![step(4, 8, proto::StepState::Running)]),
            Some(1.0),
            "more than was planned"
        );
        let upkeep = vec![step(0, 0, proto::StepState::Succeeded), step(0, 0, proto::StepState::Running)];
        assert_eq!(of(upkeep), Some(0.5));
        assert_eq!(of(Vec::new()), None);
    }

    #[test]
    fn a_bar_has_one_length() {
        for fraction in [None, Some(0.0), Some(0.5), Some(1.0), Some(7.0), Some(f64::NAN)] {
            assert_eq!(bar(fraction).chars().count(), BAR, "{fraction:?}");
        }
        assert!(bar(Some(0.5)).starts_with("━━━━━━━━━━━━─"));
    }

    #[test]
    fn a_look_tells_of_runs_targets_and_alerts() {
        let seen = seen();
        let told = lines(&seen);
        assert_eq!(told.len(), 3);
        assert_eq!(
            told[0],
            "1970-01-01 00:01:40Z run r1 app running 50.0 % 2,000 / 4,000 rows old_logs"
        );
        assert!(
            told[1].contains("sessions 5 / 100") && !told[1].contains('\u{1b}'),
            "{}",
            told[1]
        );
        assert!(
            told[2].ends_with("alert warning disk_nearly_full box:/srv: 85.0 % full"),
            "{}",
            told[2]
        );
        let drawn = picture(&seen, &Output::plain(Format::Table));
        for word in ["old_logs", "━━━━━━━━━━━━─", "5 / 100", "disk_nearly_full", "1 min 0 s"] {
            assert!(drawn.contains(word), "{word}: {drawn}");
        }
        assert!(!drawn.contains('\u{1b}'), "what a server says moves no cursor");
    }

    #[test]
    fn a_server_that_is_away_is_told_of_beside_what_was_seen() {
        let mut seen = seen();
        seen.problem = Some("connection refused".to_owned());
        assert!(lines(&seen)[0].contains("no contact") && lines(&seen).len() == 4);
        assert!(picture(&seen, &Output::plain(Format::Table)).contains("connection refused"));
        assert_eq!(json(&seen)["problem"], "connection refused");
    }
}
