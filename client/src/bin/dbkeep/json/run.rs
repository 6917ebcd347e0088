//! JSON of runs and their reports.
//!
//! Owns the shapes `run`, `report` and `step`. Called by `cmd/runs.rs` and `follow.rs`; `event.rs` embeds reports and steps.

use dbkeep_client::proto;
use serde::Serialize;

use super::{
    migrated::Migrated,
    sizes::{Recommendation, Sizes},
};

/// A run.
#[derive(Debug, Serialize)]
pub(crate) struct Run<'a> {
    id: &'a str,
    /// "cleanup", "undo", "verify", "backup", "restore", "migrate", "rollback", "rehearse" or "maintain".
    kind: String,
    target: &'a str,
    /// "queued", "running", "pausing", "paused", "cancelling", "cancelled", "interrupted", "succeeded", "partially_succeeded" or
    /// "failed".
    state: String,
    state_reason: Option<&'a str>,
    operations: &'a [String],
    plan_id: Option<&'a str>,
    source_run_id: Option<&'a str>,
    undone_by_run_id: Option<&'a str>,
    backup_id: Option<&'a str>,
    options: Option<Options>,
    /// Limits in effect.
    limits: Option<Limits>,
    /// What a queued or paused run waits for; null where no other run stands before it.
    waiting_for: Option<WaitingFor<'a>>,
    attempts: u32,
    last_sequence: u64,
    create_time: Option<String>,
    start_time: Option<String>,
    end_time: Option<String>,
    report: Option<Report<'a>>,
    started_by: Option<&'a str>,
    approvals: Vec<Approval<'a>>,
    approvals_required: u32,
}

/// Somebody's consent.
#[derive(Debug, Serialize)]
pub(crate) struct Approval<'a> {
    principal: &'a str,
    time: Option<String>,
}

impl<'a> From<&'a proto::Approval> for Approval<'a> {
    fn from(approval: &'a proto::Approval) -> Self {
        Self {
            principal: &approval.principal,
            time: super::time(approval.time.as_ref()),
        }
    }
}

#[derive(Debug, Serialize)]
struct Options {
    dry_run: Option<bool>,
    batch_size: Option<u32>,
    max_execution_time_seconds: Option<f64>,
    full_speed: bool,
    vacuum: bool,
    capture: bool,
    stop_on_failure: bool,
    max_rows: Option<u64>,
    force: bool,
    max_rows_per_second: u32,
    duty_cycle_percent: Option<u32>,
    queue: bool,
    max_replica_lag_seconds: Option<f64>,
}

/// What can be changed about a run while it works.
#[derive(Debug, Serialize)]
pub(crate) struct Limits {
    batch_size: u32,
    max_rows_per_second: u32,
    duty_cycle_percent: u32,
}

impl From<&proto::RunLimits> for Limits {
    fn from(limits: &proto::RunLimits) -> Self {
        Self {
            batch_size: limits.batch_size,
            max_rows_per_second: limits.max_rows_per_second,
            duty_cycle_percent: limits.duty_cycle_percent,
        }
    }
}

#[derive(Debug, Serialize)]
struct WaitingFor<'a> {
    run_id: &'a str,
    table: &'a str,
}

impl<'a> From<&'a proto::Run> for Run<'a> {
    fn from(run: &'a proto::Run) -> Self {
        Self {
            id: &run.id,
            kind: super::run_kind(run.kind()),
            target: &run.target,
            state: super::run_state(run.state()),
            state_reason: super::text(&run.state_reason),
            operations: &run.operations,
            plan_id: super::text(&run.plan_id),
            source_run_id: super::text(&run.source_run_id),
            undone_by_run_id: super::text(&run.undone_by_run_id),
            backup_id: super::text(&run.backup_id),
            options: run.options.as_ref().map(|options| Options {
                dry_run: options.dry_run,
                batch_size: options.batch_size,
                max_execution_time_seconds: super::seconds(options.max_execution_time.as_ref()),
                full_speed: options.full_speed,
                vacuum: options.vacuum,
                capture: options.capture,
                stop_on_failure: options.stop_on_failure,
                max_rows: options.max_rows,
                force: options.force,
                max_rows_per_second: options.max_rows_per_second,
                duty_cycle_percent: options.duty_cycle_percent,
                queue: options.queue,
                max_replica_lag_seconds: super::seconds(options.max_replica_lag.as_ref()),
            }),
            limits: run.limits.as_ref().map(Limits::from),
            waiting_for: run.waiting_for.as_ref().map(|waiting| WaitingFor {
                run_id: &waiting.run_id,
                table: &waiting.table,
            }),
            attempts: run.attempts,
            last_sequence: run.last_sequence,
            create_time: super::time(run.create_time.as_ref()),
            start_time: super::time(run.start_time.as_ref()),
            end_time: super::time(run.end_time.as_ref()),
            report: run.report.as_ref().map(Report::from),
            started_by: super::text(&run.started_by),
            approvals: run.approvals.iter().map(Approval::from).collect(),
            approvals_required: run.approvals_required,
        }
    }
}

/// What a run did: so far, or in the end.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    /// "success", "partial_success" or "failed"; null until the run has ended.
    status: Option<String>,
    rows_planned: u64,
    rows_examined: u64,
    rows_affected: u64,
    rows_captured: u64,
    captured_bytes: u64,
    rows_conflicting: u64,
    rows_along: u64,
    duration_seconds: Option<f64>,
    operations: Vec<Operation<'a>>,
    steps: Vec<Step<'a>>,
    warnings: Vec<Warning<'a>>,
    space: Vec<Space<'a>>,
    /// What became of each migration, as far as the run came.
    migrations: Vec<Migrated<'a>>,
    /// Of a run that a schedule started: sizes before and after it; null for others.
    sizes: Option<Box<Sizes<'a>>>,
    /// What to do next, the most urgent first.
    recommendations: Vec<Recommendation<'a>>,
    /// A rehearsal on a sample: what the copy had of each table.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sampled_tables: Vec<Sampled<'a>>,
}

impl<'a> From<&'a proto::RunReport> for Report<'a> {
    fn from(report: &'a proto::RunReport) -> Self {
        let status = report.status();
        Self {
            status: (status != proto::ReportStatus::Unspecified).then(|| super::report_status(status)),
            rows_planned: report.rows_planned,
            rows_examined: report.rows_examined,
            rows_affected: report.rows_affected,
            rows_captured: report.rows_captured,
            captured_bytes: report.captured_bytes,
            rows_conflicting: report.rows_conflicting,
            rows_along: report.rows_along,
            duration_seconds: super::seconds(report.duration.as_ref()),
            operations: report.operations.iter().map(Operation::from).collect(),
            steps: report.steps.iter().map(Step::from).collect(),
            warnings: report.warnings.iter().map(Warning::from).collect(),
            space: report.space.iter().map(Space::from).collect(),
            migrations: report.migrations.iter().map(Migrated::from).collect(),
            sizes: report.sizes.as_ref().map(|sizes| Box::new(Sizes::from(sizes))),
            recommendations: report.recommendations.iter().map(Recommendation::from).collect(),
            sampled_tables: report.sampled_tables.iter().map(Sampled::from).collect(),
        }
    }
}

/// What a copy with some of the rows had of a table.
#[derive(Debug, Serialize)]
struct Sampled<'a> {
    table: &'a str,
    row_count: u64,
    of_row_count: u64,
}

impl<'a> From<&'a proto::SampledTable> for Sampled<'a> {
    fn from(table: &'a proto::SampledTable) -> Self {
        Self {
            table: &table.table,
            row_count: table.row_count,
            of_row_count: table.of_row_count,
        }
    }
}

/// What one operation did: sums over its steps.
#[derive(Debug, Serialize)]
struct Operation<'a> {
    operation: &'a str,
    /// As of a step.
    state: String,
    /// "success", "partial_success" or "failed"; null until the operation has ended, and where it never began.
    status: Option<String>,
    category: Option<&'a str>,
    /// "low", "medium", "high" or "critical"; null where unknown.
    severity: Option<String>,
    expected_duration_seconds: Option<f64>,
    duration_seconds: Option<f64>,
    rows_planned: u64,
    rows_examined: u64,
    rows_matched: u64,
    rows_affected: u64,
    rows_captured: u64,
    captured_bytes: u64,
    rows_conflicting: u64,
    rows_remaining: u64,
    error_count: u32,
    warning_count: u64,
    step_indexes: &'a [u32],
}

impl<'a> From<&'a proto::OperationReport> for Operation<'a> {
    fn from(operation: &'a proto::OperationReport) -> Self {
        let (status, severity) = (operation.status(), operation.severity());
        Self {
            operation: &operation.operation,
            state: super::step_state(operation.state()),
            status: (status != proto::ReportStatus::Unspecified).then(|| super::report_status(status)),
            category: super::text(&operation.category),
            severity: (severity != proto::Severity::Unspecified).then(|| super::severity(severity)),
            expected_duration_seconds: super::seconds(operation.expected_duration.as_ref()),
            duration_seconds: super::seconds(operation.duration.as_ref()),
            rows_planned: operation.rows_planned,
            rows_examined: operation.rows_examined,
            rows_matched: operation.rows_matched,
            rows_affected: operation.rows_affected,
            rows_captured: operation.rows_captured,
            captured_bytes: operation.captured_bytes,
            rows_conflicting: operation.rows_conflicting,
            rows_remaining: operation.rows_remaining,
            error_count: operation.error_count,
            warning_count: operation.warning_count,
            step_indexes: &operation.step_indexes,
        }
    }
}

/// What one step did.
#[derive(Debug, Serialize)]
pub(crate) struct Step<'a> {
    index: u32,
    operation: &'a str,
    rule: &'a str,
    table: &'a str,
    /// "delete", "archive", "update" or "nullify"; null in runs that are no cleanup.
    action: Option<&'a str>,
    /// "pending", "running", "succeeded", "partial", "failed" or "skipped".
    state: String,
    rows_planned: u64,
    rows_examined: u64,
    rows_matched: u64,
    rows_affected: u64,
    rows_captured: u64,
    captured_bytes: u64,
    rows_conflicting: u64,
    rows_remaining: u64,
    /// Rows that went or changed along with the selected ones.
    along: Vec<Along<'a>>,
    batches: u64,
    passes: u32,
    duration_seconds: Option<f64>,
    message: Option<&'a str>,
}

impl<'a> From<&'a proto::StepReport> for Step<'a> {
    fn from(step: &'a proto::StepReport) -> Self {
        Self {
            index: step.index,
            operation: &step.operation,
            rule: &step.rule,
            table: &step.table,
            action: super::text(&step.action),
            state: super::step_state(step.state()),
            rows_planned: step.rows_planned,
            rows_examined: step.rows_examined,
            rows_matched: step.rows_matched,
            rows_affected: step.rows_affected,
            rows_captured: step.rows_captured,
            captured_bytes: step.captured_bytes,
            rows_conflicting: step.rows_conflicting,
            rows_remaining: step.rows_remaining,
            along: step.along.iter().map(Along::from).collect(),
            batches: step.batches,
            passes: step.passes,
            duration_seconds: super::seconds(step.duration.as_ref()),
            message: super::text(&step.message),
        }
    }
}

/// Rows of one table that went or changed along.
#[derive(Debug, Serialize)]
struct Along<'a> {
    table: &'a str,
    rows_deleted: u64,
    rows_nullified: u64,
}

impl<'a> From<&'a proto::AlongCount> for Along<'a> {
    fn from(along: &'a proto::AlongCount) -> Self {
        Self {
            table: &along.table,
            rows_deleted: along.rows_deleted,
            rows_nullified: along.rows_nullified,
        }
    }
}

/// Something to look at.
#[derive(Debug, Serialize)]
pub(crate) struct Warning<'a> {
    code: &'a str,
    message: &'a str,
    step_index: Option<u32>,
}

impl<'a> From<&'a proto::RunWarning> for Warning<'a> {
    fn from(warning: &'a proto::RunWarning) -> Self {
        Self {
            code: &warning.code,
            message: &warning.message,
            step_index: warning.step_index,
        }
    }
}

/// What became of the space of deleted rows.
#[derive(Debug, Serialize)]
struct Space<'a> {
    /// "main" for a whole SQLite file.
    table: &'a str,
    bytes_before: u64,
    bytes_after: u64,
    bytes_returned: u64,
    bytes_reusable: u64,
    /// "freespacemap", "pgstattuple", "estimate" or "freelist".
    reusable_by: &'a str,
    dead_rows: u64,
    holders: Vec<Holder<'a>>,
    note: Option<&'a str>,
}

/// Who may still see deleted rows.
#[derive(Debug, Serialize)]
struct Holder<'a> {
    kind: &'a str,
    name: &'a str,
    user: Option<&'a str>,
    detail: Option<&'a str>,
    age_seconds: Option<f64>,
    age_transactions: u64,
}

impl<'a> From<&'a proto::TableSpace> for Space<'a> {
    fn from(space: &'a proto::TableSpace) -> Self {
        Self {
            table: &space.table,
            bytes_before: space.bytes_before,
            bytes_after: space.bytes_after,
            bytes_returned: space.bytes_returned,
            bytes_reusable: space.bytes_reusable,
            reusable_by: &space.reusable_by,
            dead_rows: space.dead_rows,
            holders: space
                .holders
                .iter()
                .map(|holder| Holder {
                    kind: &holder.kind,
                    name: &holder.name,
                    user: super::text(&holder.user),
                    detail: super::text(&holder.detail),
                    age_seconds: super::seconds(holder.age.as_ref()),
                    age_transactions: holder.age_transactions,
                })
                .collect(),
            note: super::text(&space.note),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_with_its_report() {
        let run = proto::Run {
            id: "r1".into(),
            kind: proto::RunKind::Cleanup.into(),
            target: "main".into(),
            state: proto::RunState::PartiallySucceeded.into(),
            operations: vec!["old_logs".into()],
            options: Some(proto::RunOptions {
                dry_run: Some(false),
                batch_size: Some(1000),
                max_execution_time: Some(prost_types::Duration { seconds: 1800, nanos: 0 }),
                full_speed: false,
                max_rows: Some(12),
                force: true,
                duty_cycle_percent: Some(50),
                ..Default::default()
            }),
            limits: Some(proto::RunLimits {
                batch_size: 200,
                max_rows_per_second: 5,
                duty_cycle_percent: 100,
            }),
            waiting_for: Some(proto::WaitingFor {
                run_id: "r0".into(),
                table: "logs".into(),
            }),
            started_by: "ann".into(),
            approvals: vec![proto::Approval {
                principal: "bob".into(),
                time: None,
            }],
            approvals_required: 1,
            attempts: 1,
            last_sequence: 9,
            report: Some(proto::RunReport {
                status: proto::ReportStatus::PartialSuccess.into(),
                rows_planned: 10,
                rows_affected: 8,
                operations: vec![proto::OperationReport {
                    operation: "old_logs".into(),
                    state: proto::StepState::Partial.into(),
                    status: proto::ReportStatus::PartialSuccess.into(),
                    category: "LOGS".into(),
                    severity: proto::Severity::Medium.into(),
                    expected_duration: Some(prost_types::Duration { seconds: 900, nanos: 0 }),
                    rows_planned: 10,
                    rows_affected: 8,
                    warning_count: 1,
                    step_indexes: vec![0],
                    ..Default::default()
                }],
                steps: vec![proto::StepReport {
                    table: "logs".into(),
                    action: "archive".into(),
                    state: proto::StepState::Partial.into(),
                    rows_remaining: 2,
                    message: "locked".into(),
                    ..Default::default()
                }],
                warnings: vec![proto::RunWarning {
                    code: "ROWS_MOVED".into(),
                    message: "2 rows".into(),
                    step_index: Some(0),
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Run::from(&run)).unwrap(),
            concat!(
                r#"{"id":"r1","kind":"cleanup","target":"main","state":"partially_succeeded","state_reason":null,"#,
                r#""operations":["old_logs"],"plan_id":null,"source_run_id":null,"undone_by_run_id":null,"backup_id":null,"#,
                r#""options":{"dry_run":false,"batch_size":1000,"max_execution_time_seconds":1800.0,"full_speed":false,"#,
                r#""vacuum":false,"capture":false,"stop_on_failure":false,"max_rows":12,"force":true,"#,
                r#""max_rows_per_second":0,"duty_cycle_percent":50,"queue":false,"max_replica_lag_seconds":null},"#,
                r#""limits":{"batch_size":200,"max_rows_per_second":5,"duty_cycle_percent":100},"#,
                r#""waiting_for":{"run_id":"r0","table":"logs"},"#,
                r#""attempts":1,"last_sequence":9,"create_time":null,"start_time":null,"end_time":null,"#,
                r#""report":{"status":"partial_success","rows_planned":10,"rows_examined":0,"rows_affected":8,"rows_captured":0,"#,
                r#""captured_bytes":0,"rows_conflicting":0,"rows_along":0,"duration_seconds":null,"#,
                r#""operations":[{"operation":"old_logs","state":"partial","status":"partial_success","category":"LOGS","#,
                r#""severity":"medium","expected_duration_seconds":900.0,"duration_seconds":null,"rows_planned":10,"rows_examined":0,"#,
                r#""rows_matched":0,"rows_affected":8,"rows_captured":0,"captured_bytes":0,"rows_conflicting":0,"rows_remaining":0,"#,
                r#""error_count":0,"warning_count":1,"step_indexes":[0]}],"steps":[{"index":0,"operation":"","rule":"","#,
                r#""table":"logs","action":"archive","state":"partial","rows_planned":0,"rows_examined":0,"rows_matched":0,"rows_affected":0,"#,
                r#""rows_captured":0,"captured_bytes":0,"rows_conflicting":0,"rows_remaining":2,"along":[],"batches":0,"passes":0,"#,
                r#""duration_seconds":null,"message":"locked"}],"warnings":[{"code":"ROWS_MOVED","message":"2 rows","step_index":0}],"space":[],"migrations":[],"sizes":null,"recommendations":[]},"#,
                r#""started_by":"ann","approvals":[{"principal":"bob","time":null}],"approvals_required":1}"#,
            )
        );
    }
}
