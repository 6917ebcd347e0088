//! JSON of a run's events: one object per line, `type` first.
//!
//! Owns the shapes of the stream's lines. Called by `progress.rs`.

use dbkeep_client::proto::{self, run_event::Event as Kind};
use serde::Serialize;

use super::{
    migrated::Done,
    run::{Approval, Limits, Report, Step},
};

/// One line of a stream.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line<'a> {
    /// The plan that is about to be run.
    Plan { plan: super::plan::Plan<'a> },
    /// The plan of migrations that is about to be run.
    MigrationPlan { plan: super::migration::Plan<'a> },
    /// The run entered a state; `report` where that is an end.
    StateChanged {
        #[serde(flatten)]
        head: Head<'a>,
        from: Option<String>,
        to: String,
        reason: Option<&'a str>,
        report: Option<Report<'a>>,
    },
    /// The plan that the run executes; the result of a dry run.
    PlanReady {
        #[serde(flatten)]
        head: Head<'a>,
        plan_id: &'a str,
        plan_token: Option<&'a str>,
        step_row_counts: &'a [u64],
        row_count: u64,
    },
    /// Somebody approved the run.
    Approved {
        #[serde(flatten)]
        head: Head<'a>,
        approval: Option<Approval<'a>>,
        approvals: u32,
        approvals_required: u32,
    },
    /// A step begins, or goes on.
    StepStarted {
        #[serde(flatten)]
        head: Head<'a>,
        index: u32,
        step_count: u32,
        operation: &'a str,
        rule: &'a str,
        table: &'a str,
        rows_planned: u64,
        rows_done: u64,
    },
    /// How far it is.
    Progress {
        #[serde(flatten)]
        head: Head<'a>,
        #[serde(flatten)]
        progress: Progress<'a>,
    },
    /// A step ended.
    StepFinished {
        #[serde(flatten)]
        head: Head<'a>,
        step: Option<Step<'a>>,
    },
    /// Something to look at.
    Warning {
        #[serde(flatten)]
        head: Head<'a>,
        code: &'a str,
        message: &'a str,
        step_index: Option<u32>,
    },
    /// Somebody changed the limits.
    LimitsChanged {
        #[serde(flatten)]
        head: Head<'a>,
        principal: Option<&'a str>,
        before: Option<Limits>,
        after: Option<Limits>,
    },
    /// Something began to slow the run, or, where `cleared`, no longer does.
    Throttled {
        #[serde(flatten)]
        head: Head<'a>,
        reason: &'a str,
        value: &'a str,
        threshold: &'a str,
        cleared: bool,
    },
    /// How far an act on whole tables is; `total` is null where unknown.
    Maintenance {
        #[serde(flatten)]
        head: Head<'a>,
        phase: &'a str,
        table: Option<&'a str>,
        done: u64,
        total: Option<u64>,
        unit: &'a str,
    },
    /// How far a migration is; `finished` where a statement has just ended.
    Migration {
        #[serde(flatten)]
        head: Head<'a>,
        step_index: u32,
        /// Null while a rehearsal copies the database.
        migration_id: Option<&'a str>,
        direction: String,
        phase: &'a str,
        /// From 1; null where it is none.
        statement: Option<u32>,
        statement_count: u32,
        line: Option<u32>,
        excerpt: Option<&'a str>,
        finished: Option<Done<'a>>,
    },
    /// Events up to `first_available_sequence` are no longer kept.
    HistoryLost {
        #[serde(flatten)]
        head: Head<'a>,
        first_available_sequence: u64,
    },
    /// The last line of a run that was followed to its end.
    Run { run: Box<super::run::Run<'a>> },
    /// The last line of a run that goes on unwatched.
    Detached { run_id: Option<&'a str> },
}

/// What every event has.
#[derive(Debug, Serialize)]
pub(crate) struct Head<'a> {
    run_id: &'a str,
    sequence: u64,
    time: Option<String>,
    coalesced: u64,
}

/// How far a run is.
#[derive(Debug, Serialize)]
pub(crate) struct Progress<'a> {
    step_index: u32,
    step_rows_affected: u64,
    step_rows_planned: u64,
    rows_affected: u64,
    rows_planned: u64,
    rows_examined: u64,
    rows_matched: u64,
    rows_captured: u64,
    captured_bytes: u64,
    scan_fraction: f64,
    rows_per_second: f64,
    eta_seconds: Option<f64>,
    batches: u64,
    batch_duration_seconds: Option<f64>,
    throttle: Option<Throttle<'a>>,
}

/// What slows a run. `reason` is a stable name of the protocol, in its own spelling: "DUTY_CYCLE", "REPLICA_LAG".
#[derive(Debug, Serialize)]
struct Throttle<'a> {
    reason: &'a str,
    value: &'a str,
}

impl<'a> Line<'a> {
    /// The line of an event; `None` for a kind of event that this version does not know.
    pub(crate) fn of_event(event: &'a proto::RunEvent) -> Option<Self> {
        let head = Head {
            run_id: &event.run_id,
            sequence: event.sequence,
            time: super::time(event.time.as_ref()),
            coalesced: event.coalesced,
        };
        Some(match event.event.as_ref()? {
            Kind::StateChanged(change) => Self::StateChanged {
                head,
                from: Some(change.from())
                    .filter(|from| *from != proto::RunState::Unspecified)
                    .map(super::run_state),
                to: super::run_state(change.to()),
                reason: super::text(&change.reason),
                report: change.report.as_ref().map(Report::from),
            },
            Kind::PlanReady(ready) => Self::PlanReady {
                head,
                plan_id: &ready.plan_id,
                plan_token: super::text(&ready.plan_token),
                step_row_counts: &ready.step_row_counts,
                row_count: ready.row_count,
            },
            Kind::Approved(approved) => Self::Approved {
                head,
                approval: approved.approval.as_ref().map(Approval::from),
                approvals: approved.approvals,
                approvals_required: approved.approvals_required,
            },
            Kind::StepStarted(step) => Self::StepStarted {
                head,
                index: step.index,
                step_count: step.step_count,
                operation: &step.operation,
                rule: &step.rule,
                table: &step.table,
                rows_planned: step.rows_planned,
                rows_done: step.rows_done,
            },
            Kind::Progress(progress) => Self::Progress {
                head,
                progress: Progress::from(progress),
            },
            Kind::StepFinished(finished) => Self::StepFinished {
                head,
                step: finished.step.as_ref().map(Step::from),
            },
            Kind::Maintenance(progress) => Self::Maintenance {
                head,
                phase: &progress.phase,
                table: super::text(&progress.table),
                done: progress.done,
                total: (progress.total > 0).then_some(progress.total),
                unit: &progress.unit,
            },
            Kind::Migration(progress) => Self::Migration {
                head,
                step_index: progress.step_index,
                migration_id: super::text(&progress.migration_id),
                direction: super::migration_direction(progress.direction()),
                phase: &progress.phase,
                statement: (progress.statement > 0).then_some(progress.statement),
                statement_count: progress.statement_count,
                line: (progress.line > 0).then_some(progress.line),
                excerpt: super::text(&progress.excerpt),
                finished: progress.finished.as_ref().map(Done::from),
            },
            Kind::Warning(warning) => Self::Warning {
                head,
                code: &warning.code,
                message: &warning.message,
                step_index: warning.step_index,
            },
            Kind::LimitsChanged(change) => Self::LimitsChanged {
                head,
                principal: super::text(&change.principal),
                before: change.before.as_ref().map(Limits::from),
                after: change.after.as_ref().map(Limits::from),
            },
            Kind::Throttled(slowdown) => Self::Throttled {
                head,
                reason: &slowdown.reason,
                value: &slowdown.value,
                threshold: &slowdown.threshold,
                cleared: slowdown.cleared,
            },
            Kind::HistoryLost(lost) => Self::HistoryLost {
                head,
                first_available_sequence: lost.first_available_sequence,
            },
        })
    }
}

impl<'a> From<&'a proto::Progress> for Progress<'a> {
    fn from(progress: &'a proto::Progress) -> Self {
        Self {
            step_index: progress.step_index,
            step_rows_affected: progress.step_rows_affected,
            step_rows_planned: progress.step_rows_planned,
            rows_affected: progress.rows_affected,
            rows_planned: progress.rows_planned,
            rows_examined: progress.rows_examined,
            rows_matched: progress.rows_matched,
            rows_captured: progress.rows_captured,
            captured_bytes: progress.captured_bytes,
            scan_fraction: progress.scan_fraction,
            rows_per_second: progress.rows_per_second,
            eta_seconds: super::seconds(progress.eta.as_ref()),
            batches: progress.batches,
            batch_duration_seconds: super::seconds(progress.batch_duration.as_ref()),
            throttle: progress.throttle.as_ref().map(|throttle| Throttle {
                reason: &throttle.reason,
                value: &throttle.value,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: Kind) -> String {
        let event = proto::RunEvent {
            run_id: "r1".into(),
            sequence: 3,
            event: Some(event),
            ..Default::default()
        };
        serde_json::to_string(&Line::of_event(&event).unwrap()).unwrap()
    }

    #[test]
    fn every_event_is_a_line_with_its_type_first() {
        assert_eq!(
            line(Kind::StateChanged(proto::StateChanged {
                to: proto::RunState::Queued.into(),
                ..Default::default()
            })),
            r#"{"type":"state_changed","run_id":"r1","sequence":3,"time":null,"coalesced":0,"from":null,"to":"queued","reason":null,"report":null}"#
        );
        assert_eq!(
            line(Kind::PlanReady(proto::PlanReady {
                plan_id: "p".into(),
                plan_token: "t".into(),
                step_row_counts: vec![1, 2],
                row_count: 3
            })),
            r#"{"type":"plan_ready","run_id":"r1","sequence":3,"time":null,"coalesced":0,"plan_id":"p","plan_token":"t","step_row_counts":[1,2],"row_count":3}"#
        );
        assert_eq!(
            line(Kind::HistoryLost(proto::HistoryLost {
                first_available_sequence: 50
            })),
            r#"{"type":"history_lost","run_id":"r1","sequence":3,"time":null,"coalesced":0,"first_available_sequence":50}"#
        );
        assert_eq!(
            line(Kind::Warning(proto::RunWarning {
                code: "C".into(),
                message: "m".into(),
                step_index: None
            })),
            r#"{"type":"warning","run_id":"r1","sequence":3,"time":null,"coalesced":0,"code":"C","message":"m","step_index":null}"#
        );
        assert_eq!(
            line(Kind::LimitsChanged(proto::LimitsChanged {
                principal: String::new(),
                before: None,
                after: Some(proto::RunLimits {
                    batch_size: 10,
                    max_rows_per_second: 0,
                    duty_cycle_percent: 100
                })
            })),
            r#"{"type":"limits_changed","run_id":"r1","sequence":3,"time":null,"coalesced":0,"principal":null,"before":null,"after":{"batch_size":10,"max_rows_per_second":0,"duty_cycle_percent":100}}"#
        );
        assert_eq!(
            line(Kind::Throttled(proto::Throttled {
                reason: "REPLICA_LAG".into(),
                value: "v".into(),
                threshold: "10 s".into(),
                cleared: true
            })),
            r#"{"type":"throttled","run_id":"r1","sequence":3,"time":null,"coalesced":0,"reason":"REPLICA_LAG","value":"v","threshold":"10 s","cleared":true}"#
        );
        assert_eq!(
            line(Kind::Migration(proto::MigrationProgress {
                migration_id: "3".into(),
                direction: proto::MigrationDirection::Up.into(),
                phase: "applying".into(),
                statement: 1,
                statement_count: 2,
                line: 4,
                excerpt: "ALTER".into(),
                ..Default::default()
            })),
            r#"{"type":"migration","run_id":"r1","sequence":3,"time":null,"coalesced":0,"step_index":0,"migration_id":"3","direction":"up","phase":"applying","statement":1,"statement_count":2,"line":4,"excerpt":"ALTER","finished":null}"#
        );
        assert!(line(Kind::StepStarted(proto::StepStarted::default())).starts_with(r#"{"type":"step_started","#));
        assert!(line(Kind::StepFinished(proto::StepFinished::default())).ends_with(r#""step":null}"#));
    }

    #[test]
    fn progress_has_its_fields_beside_the_head() {
        let progress = proto::Progress {
            rows_affected: 5,
            rows_planned: 10,
            scan_fraction: 0.5,
            eta: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            throttle: Some(proto::Throttle {
                reason: "DUTY_CYCLE".into(),
                value: "47 ms".into(),
            }),
            ..Default::default()
        };
        assert_eq!(
            line(Kind::Progress(progress)),
            concat!(
                r#"{"type":"progress","run_id":"r1","sequence":3,"time":null,"coalesced":0,"step_index":0,"step_rows_affected":0,"#,
                r#""step_rows_planned":0,"rows_affected":5,"rows_planned":10,"rows_examined":0,"rows_matched":0,"rows_captured":0,"#,
                r#""captured_bytes":0,"scan_fraction":0.5,"rows_per_second":0.0,"eta_seconds":2.0,"batches":0,"#,
                r#""batch_duration_seconds":null,"throttle":{"reason":"DUTY_CYCLE","value":"47 ms"}}"#,
            )
        );
    }

    #[test]
    fn the_last_line_tells_how_it_ended() {
        assert_eq!(
            serde_json::to_string(&Line::Detached { run_id: Some("r1") }).unwrap(),
            r#"{"type":"detached","run_id":"r1"}"#
        );
        let run = proto::Run::default();
        assert!(
            serde_json::to_string(&Line::Run {
                run: Box::new((&run).into())
            })
            .unwrap()
            .starts_with(r#"{"type":"run","run":{"id":"#)
        );
    }
}
