//! What a week did to a target, in numbers and words. Pure.

use dbkeep_client::proto::{self, RunKind, RunState, SlotOutcome};
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::series::Point;
use crate::{
    json::{self, monitoring, sizes},
    output::Tone,
    table,
};

/// A slot of a schedule that began no run.
pub(super) struct Slot {
    pub(super) schedule: String,
    pub(super) slot: proto::ScheduleRun,
}

/// A week of a target.
pub(super) struct Week {
    pub(super) health: proto::TargetHealth,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
    pub(super) growth: Option<proto::DatabaseGrowth>,
    pub(super) sizes: Vec<proto::MetricPoint>,
    /// Runs that were accepted in it, newest first.
    pub(super) runs: Vec<proto::Run>,
    pub(super) slots: Vec<Slot>,
    pub(super) alerts: Vec<proto::Alert>,
    pub(super) findings: Vec<proto::HealthFinding>,
    pub(super) recommendations: Vec<proto::Recommendation>,
    /// What could not be asked.
    pub(super) problems: Vec<String>,
}

/// How runs ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    pub(super) succeeded: u64,
    pub(super) in_part: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) at_work: u64,
}

impl Outcomes {
    fn words(&self) -> String {
        let parts = [
            (self.succeeded, "succeeded"),
            (self.in_part, "in part"),
            (self.failed, "failed"),
            (self.cancelled, "cancelled"),
            (self.at_work, "not ended"),
        ];
        let told: Vec<String> = parts
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, word)| format!("{} {word}", HumanCount(number)))
            .collect();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    }
}

/// Changes: "+1.5 MiB", "-3 B".
fn change(from: u64, to: u64) -> String {
    let sign = if to < from { '-' } else { '+' };
    format!("{sign}{}", HumanBytes(from.abs_diff(to)))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size, made of an unsigned number"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[expect(clippy::cast_precision_loss, reason = "a place on a picture")]
fn real(number: u64) -> f64 {
    number as f64
}

impl Week {
    /// Seconds from its begin to its end.
    pub(super) fn length(&self) -> f64 {
        self.until.duration_since(self.from).as_secs_f64()
    }

    /// Seconds from its begin; `None` where that is not in it.
    fn place(&self, at: Option<&prost_types::Timestamp>) -> Option<f64> {
        let at = json::instant(at)?.duration_since(self.from).as_secs_f64();
        (0.0..=self.length()).contains(&at).then_some(at)
    }

    /// Sizes of the database.
    pub(super) fn size_points(&self) -> Vec<Point> {
        let points = self.sizes.iter();
        points
            .filter_map(|point| {
                Some(Point {
                    x: self.place(point.time.as_ref())?,
                    y: point.last,
                })
            })
            .collect()
    }

    /// Rows that cleanups took or changed since its begin, at the end of each.
    pub(super) fn row_points(&self) -> Vec<Point> {
        let mut ended: Vec<(f64, u64)> = self
            .cleanups()
            .filter_map(|run| Some((self.place(run.end_time.as_ref())?, rows_of(run))))
            .collect();
        ended.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut points = vec![Point { x: 0.0, y: 0.0 }];
        let mut sum = 0;
        for (x, rows) in ended {
            // It goes up where a run has ended, and not on the way there.
            points.push(Point { x, y: real(sum) });
            sum += rows;
            points.push(Point { x, y: real(sum) });
        }
        points.push(Point {
            x: self.length(),
            y: real(sum),
        });
        points
    }

    /// Cleanups that were meant.
    fn cleanups(&self) -> impl Iterator<Item = &proto::Run> {
        self.runs
            .iter()
            .filter(|run| run.kind() == RunKind::Cleanup && !table::is_dry_run(run))
    }

    pub(super) fn rows_affected(&self) -> u64 {
        self.cleanups().map(rows_of).sum()
    }

    pub(super) fn outcomes(&self) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for run in self.runs.iter().filter(|run| !is_dry(run)) {
            *match run.state() {
                RunState::Succeeded => &mut outcomes.succeeded,
                RunState::PartiallySucceeded => &mut outcomes.in_part,
                RunState::Failed => &mut outcomes.failed,
                RunState::Cancelled => &mut outcomes.cancelled,
                _ => &mut outcomes.at_work,
            } += 1;
        }
        outcomes
    }

    pub(super) fn failed(&self) -> impl Iterator<Item = &proto::Run> {
        self.runs
            .iter()
            .filter(|run| matches!(run.state(), RunState::Failed | RunState::PartiallySucceeded) && !is_dry(run))
    }

    /// First and last size.
    pub(super) fn size_change(&self) -> Option<(u64, u64)> {
        let (first, last) = (self.sizes.first()?, self.sizes.last()?);
        Some((whole(first.last), whole(last.last)))
    }

    /// Slots that did not do what they were for.
    fn slot_words(&self) -> String {
        let number = |outcome: SlotOutcome| -> u64 {
            let slots = self.slots.iter().filter(|slot| slot.slot.outcome() == outcome);
            slots.map(|slot| slot.slot.slot_count.max(1)).sum()
        };
        let parts = [
            (number(SlotOutcome::Missed), "missed"),
            (number(SlotOutcome::Refused), "refused"),
            (number(SlotOutcome::Skipped), "let pass"),
        ];
        let told: Vec<String> = parts
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, word)| format!("{} {word}", HumanCount(number)))
            .collect();
        if told.is_empty() {
            "all fired".to_owned()
        } else {
            told.join(", ")
        }
    }

    /// Label and words of each number.
    pub(super) fn facts(&self) -> Vec<(&'static str, String)> {
        let state = match self.health.up {
            Some(true) => "up",
            Some(false) => "down",
            None => "not collected yet",
        };
        let size = match (self.size_change(), self.health.size_bytes) {
            (Some((first, last)), _) => format!("{} ({} in the week)", HumanBytes(last), change(first, last)),
            (None, Some(size)) => HumanBytes(size).to_string(),
            (None, None) => "not known".to_owned(),
        };
        let mut facts = vec![("state", state.to_owned()), ("size", size)];
        if let Some(days) = self.growth.and_then(|growth| growth.days_until_full) {
            facts.push(("disk full in", format!("{days:.0} days")));
        }
        facts.extend([
            ("runs", self.outcomes().words()),
            ("rows affected", HumanCount(self.rows_affected()).to_string()),
            ("slots of schedules", self.slot_words()),
            ("alerts", self.alert_words()),
            ("findings", HumanCount(self.findings.len() as u64).to_string()),
        ]);
        facts
    }

    fn alert_words(&self) -> String {
        let raised = self
            .alerts
            .iter()
            .filter(|alert| alert.state() == proto::AlertState::Raised)
            .count() as u64;
        let all = self.alerts.len() as u64;
        match (all, raised) {
            (0, _) => "none".to_owned(),
            (all, 0) => format!("{}, all over", HumanCount(all)),
            (all, raised) => format!("{}, of which {} are raised", HumanCount(all), HumanCount(raised)),
        }
    }

    /// What somebody should read: failures, slots, alerts, recommendations.
    pub(super) fn lines(&self) -> Vec<(Tone, String)> {
        let mut lines: Vec<(Tone, String)> = self
            .problems
            .iter()
            .map(|problem| (Tone::Bad, format!("could not be asked: {problem}")))
            .collect();
        for run in self.failed() {
            let tone = table::state_tone(run.state());
            lines.push((tone, format!("{}: {}", run_words(run), run.state_reason)));
        }
        for slot in &self.slots {
            lines.push((Tone::Warn, slot_line(slot)));
        }
        for alert in &self.alerts {
            let tone = match alert.state() {
                proto::AlertState::Raised => crate::cmd::alerts::level_tone(alert.level()),
                _ => Tone::Dim,
            };
            lines.push((tone, alert_line(alert)));
        }
        for advice in &self.recommendations {
            let how = match advice.remediation.as_str() {
                "" => String::new(),
                several if several.contains('\n') => format!(":\n{several}"),
                remediation => format!(": {remediation}"),
            };
            lines.push((
                table::sizes::tone(advice.level()),
                format!("recommended: {}: {}{how}", table::sizes::advised(advice), advice.detail),
            ));
        }
        lines
    }

    pub(super) fn json(&self) -> Value {
        let outcomes = self.outcomes();
        let alerts: Vec<_> = self.alerts.iter().map(monitoring::Alert::from).collect();
        let findings: Vec<_> = self.findings.iter().map(monitoring::Finding::from).collect();
        let advice: Vec<_> = self.recommendations.iter().map(sizes::Recommendation::from).collect();
        let failed: Vec<_> = self
            .failed()
            .map(|run| json!({ "id": run.id, "state": json::run_state(run.state()), "reason": run.state_reason, "operations": run.operations }))
            .collect();
        let slots: Vec<_> = self
            .slots
            .iter()
            .map(|slot| {
                json!({
                    "schedule": slot.schedule, "outcome": json::slot_outcome(slot.slot.outcome()), "time": json::time(slot.slot.slot_time.as_ref()),
                    "slots": slot.slot.slot_count.max(1), "reason": slot.slot.reason,
                })
            })
            .collect();
        json!({
            "target": self.health.name, "up": self.health.up,
            "first_bytes": self.size_change().map(|(first, _)| first), "last_bytes": self.size_change().map(|(_, last)| last).or(self.health.size_bytes),
            "days_until_full": self.growth.and_then(|growth| growth.days_until_full),
            "runs": {
                "succeeded": outcomes.succeeded, "partially_succeeded": outcomes.in_part, "failed": outcomes.failed,
                "cancelled": outcomes.cancelled, "not_ended": outcomes.at_work,
            },
            "rows_affected": self.rows_affected(), "failed_runs": failed, "passed_slots": slots, "alerts": alerts, "findings": findings,
            "recommendations": advice, "problems": self.problems,
        })
    }
}

fn is_dry(run: &proto::Run) -> bool {
    run.kind() == RunKind::Cleanup && table::is_dry_run(run)
}

fn rows_of(run: &proto::Run) -> u64 {
    run.report.as_ref().map_or(0, |report| report.rows_affected)
}

/// A run in words: its kind, what it works for, its state and its id.
pub(super) fn run_words(run: &proto::Run) -> String {
    let what = if run.operations.is_empty() {
        json::run_kind(run.kind())
    } else {
        format!("{} {}", json::run_kind(run.kind()), run.operations.join(", "))
    };
    format!("{what} {} (run {})", table::state(run.state()), run.id)
}

pub(super) fn slot_line(slot: &Slot) -> String {
    let many = match slot.slot.slot_count {
        0 | 1 => "slot".to_owned(),
        number => format!("{} slots, the last", HumanCount(number)),
    };
    format!(
        "{many} {} of {} {}: {}",
        table::instant(slot.slot.slot_time.as_ref()),
        slot.schedule,
        json::slot_outcome(slot.slot.outcome()),
        slot.slot.reason
    )
}

pub(super) fn alert_line(alert: &proto::Alert) -> String {
    let until = match alert.resolved_time.as_ref() {
        None => "still raised".to_owned(),
        resolved => format!("over {}", table::instant(resolved)),
    };
    format!(
        "{} {}: {}; since {}, {until}",
        alert.rule,
        crate::cmd::alerts::place(alert),
        alert.detail,
        table::instant(alert.since_time.as_ref())
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    fn run(state: RunState, rows: u64, ended: i64) -> proto::Run {
        proto::Run {
            id: "r1".into(),
            kind: RunKind::Cleanup.into(),
            state: state.into(),
            state_reason: "the reason".into(),
            operations: vec!["old_logs".into()],
            options: Some(proto::RunOptions {
                dry_run: Some(false),
                ..Default::default()
            }),
            report: Some(proto::RunReport {
                rows_affected: rows,
                ..Default::default()
            }),
            end_time: at(ended),
            ..Default::default()
        }
    }

    /// A week in which something of everything happened; texts that come from elsewhere are `text`.
    pub(in super::super) fn week(text: &str) -> Week {
        let point = |seconds, last| proto::MetricPoint {
            time: at(seconds),
            last,
            ..Default::default()
        };
        let mut dry = run(RunState::Succeeded, 1_000, 50);
        dry.options = Some(proto::RunOptions::default());
        Week {
            health: proto::TargetHealth {
                name: text.into(),
                up: Some(true),
                ..Default::default()
            },
            from: Timestamp::from_second(0).unwrap(),
            until: Timestamp::from_second(7 * 86_400).unwrap(),
            growth: Some(proto::DatabaseGrowth {
                bytes_per_day: 1.0,
                days_until_full: Some(12.4),
            }),
            sizes: vec![point(0, 3_145_728.0), point(86_400, 1_048_576.0)],
            runs: vec![
                run(RunState::Succeeded, 40, 400_000),
                run(RunState::Failed, 2, 100_000),
                dry,
                proto::Run {
                    kind: RunKind::Backup.into(),
                    state: RunState::Running.into(),
                    ..Default::default()
                },
            ],
            slots: vec![Slot {
                schedule: text.into(),
                slot: proto::ScheduleRun {
                    outcome: SlotOutcome::Missed.into(),
                    slot_count: 3,
                    reason: text.into(),
                    ..Default::default()
                },
            }],
            alerts: vec![proto::Alert {
                rule: "disk_nearly_full".into(),
                object: text.into(),
                state: proto::AlertState::Raised.into(),
                level: proto::AlertLevel::Error.into(),
                detail: text.into(),
                ..Default::default()
            }],
            findings: vec![proto::HealthFinding {
                key: "k".into(),
                kind: "unused_index".into(),
                object: text.into(),
                detail: text.into(),
                remediation: text.into(),
                ..Default::default()
            }],
            recommendations: vec![proto::Recommendation {
                name: "Rebuild an index".into(),
                detail: text.into(),
                remediation: text.into(),
                ..Default::default()
            }],
            problems: vec![text.into()],
        }
    }

    #[test]
    fn a_week_is_what_was_meant_in_it() {
        let week = week("app");
        assert_eq!(week.rows_affected(), 42, "what a dry run counts is not deleted");
        let expected = Outcomes {
            succeeded: 1,
            failed: 1,
            at_work: 1,
            ..Outcomes::default()
        };
        assert_eq!(week.outcomes(), expected);
        let facts = week.facts();
        let fact = |label: &str| &facts.iter().find(|(name, _)| *name == label).unwrap().1;
        assert_eq!(fact("size"), "1.00 MiB (-2.00 MiB in the week)");
        assert_eq!(fact("runs"), "1 succeeded, 1 failed, 1 not ended");
        assert_eq!(fact("slots of schedules"), "3 missed");
        assert_eq!(fact("disk full in"), "12 days");
        let rows: Vec<(f64, f64)> = week.row_points().iter().map(|point| (point.x, point.y)).collect();
        let expected = [
            (0.0, 0.0),
            (100_000.0, 0.0),
            (100_000.0, 2.0),
            (400_000.0, 2.0),
            (400_000.0, 42.0),
            (604_800.0, 42.0),
        ];
        assert_eq!(rows, expected);
        let told: Vec<String> = week.lines().into_iter().map(|(_, line)| line).collect();
        assert!(
            told.iter()
                .any(|line| line.contains("cleanup old_logs failed (run r1): the reason")),
            "{told:?}"
        );
        assert!(told.iter().any(|line| line.contains("still raised")), "{told:?}");
        assert_eq!(week.json()["runs"]["failed"], 1);
    }
}
