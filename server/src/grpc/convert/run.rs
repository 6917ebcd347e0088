//! Runs, their reports, and the filter over them.

use dbkeep_engine::{
    model::{
        Along, Approval, HorizonHolder, OperationReport, PlanId, Report, ReportStatus, RowsBy, Run, RunId, RunKind, RunLimits,
        RunOptions, RunState, SizeSnapshot, StepReport, StepState, TableSize, TableSpace, Warning,
        monitor::{Level, Recommendation},
    },
    port::RunFilter,
};
use dbkeep_proto::v1;

use super::{index, migration, sample, target, time};
use crate::grpc::validate::Check;

/// A run with its report so far.
pub(in crate::grpc) fn run(run: Run) -> v1::Run {
    let captured = run.kind == RunKind::Cleanup && run.report.total(|step| step.rows_captured) > 0;
    let saved = captured || run.whole_backup().is_some();
    v1::Run {
        id: run.id.to_string(),
        kind: kind(run.kind).into(),
        target: run.target,
        state: state(run.state).into(),
        state_reason: run.state_reason,
        operations: run.operations,
        plan_id: if run.plan == PlanId::NONE {
            String::new()
        } else {
            run.plan.to_string()
        },
        source_run_id: id_or_empty(run.source),
        undone_by_run_id: id_or_empty(run.undone_by),
        options: Some(options(run.options)),
        attempts: run.attempts,
        report: Some(report(run.report)),
        last_sequence: run.last_sequence,
        create_time: Some(time::timestamp(run.created_at)),
        start_time: run.started_at.map(time::timestamp),
        end_time: run.ended_at.map(time::timestamp),
        approvals: run.approvals.into_iter().map(approval).collect(),
        started_by: run.started_by,
        approvals_required: run.approvals_required,
        limits: Some(limits(run.limits)),
        waiting_for: run.waiting.map(|waiting| v1::WaitingFor {
            run_id: waiting.run.to_string(),
            table: waiting.table,
        }),
        backup_id: if saved { run.id.to_string() } else { String::new() },
    }
}

fn id_or_empty(id: Option<RunId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn options(options: RunOptions) -> v1::RunOptions {
    v1::RunOptions {
        dry_run: Some(options.dry_run),
        batch_size: Some(options.batch_rows),
        max_execution_time: Some(time::seconds(options.max_execution_seconds.into())),
        full_speed: options.full_speed,
        vacuum: options.vacuum,
        capture: options.capture,
        stop_on_failure: options.stop_on_failure,
        max_rows: options.max_rows,
        force: options.force,
        max_rows_per_second: options.max_rows_per_second,
        duty_cycle_percent: Some(options.limits().duty_cycle_percent),
        queue: options.queue,
        max_replica_lag: options.max_replica_lag_seconds.map(|seconds| time::seconds(seconds.into())),
    }
}

/// Consent to a run.
pub(super) fn approval(approval: Approval) -> v1::Approval {
    v1::Approval {
        principal: approval.principal,
        time: Some(time::timestamp(approval.at)),
    }
}

/// Limits of a run.
pub(super) fn limits(limits: RunLimits) -> v1::RunLimits {
    v1::RunLimits {
        batch_size: limits.batch_rows,
        max_rows_per_second: limits.max_rows_per_second,
        duty_cycle_percent: limits.duty_cycle_percent,
    }
}

/// A report, so far or in the end.
pub(super) fn report(report: Report) -> v1::RunReport {
    v1::RunReport {
        status: report.status.map_or(v1::ReportStatus::Unspecified, status).into(),
        operations: report.operation_reports().into_iter().map(operation).collect(),
        rows_planned: report.total(|step| step.rows_planned),
        rows_examined: report.total(|step| step.rows_examined),
        rows_affected: report.total(|step| step.rows_affected),
        rows_captured: report.total(|step| step.rows_captured),
        captured_bytes: report.total(|step| step.captured_bytes),
        rows_conflicting: report.total(|step| step.rows_conflicting),
        rows_along: report.total(|step| step.along.iter().map(|along| along.deleted + along.nullified).sum()),
        duration: Some(time::milliseconds(report.duration_ms)),
        steps: report
            .steps
            .into_iter()
            .enumerate()
            .map(|(position, done)| step(index(position), done))
            .collect(),
        warnings: report.warnings.into_iter().map(warning).collect(),
        space: report.space.into_iter().map(space).collect(),
        sampled_tables: report
            .migrations
            .iter()
            .flat_map(|record| record.sampled.iter().map(sample::sampled))
            .collect(),
        migrations: report
            .migrations
            .map(|record| record.reports.into_iter().map(migration::report).collect())
            .unwrap_or_default(),
        sizes: report.sizes.map(|sizes| v1::RunSizes {
            before: sizes.before.map(snapshot),
            after: sizes.after.map(snapshot),
        }),
        recommendations: report.advice.into_iter().map(recommendation).collect(),
    }
}

fn snapshot(snapshot: SizeSnapshot) -> v1::SizeSnapshot {
    v1::SizeSnapshot {
        time: Some(time::timestamp(snapshot.at)),
        database_bytes: snapshot.database_bytes,
        reusable_bytes: snapshot.reusable_bytes,
        tables: snapshot.tables.into_iter().map(table_size).collect(),
    }
}

fn table_size(size: TableSize) -> v1::TableSize {
    let basis = match size.rows_by {
        RowsBy::Unknown => v1::RowCountBasis::Unspecified,
        RowsBy::Estimate => v1::RowCountBasis::Estimate,
        RowsBy::Count => v1::RowCountBasis::Count,
    };
    v1::TableSize {
        table: size.table,
        row_count: size.rows,
        row_count_basis: basis.into(),
        bytes: size.bytes,
        dead_rows: size.dead_rows,
        free_bytes: size.free_bytes,
    }
}

/// What should be done.
pub(in crate::grpc) fn recommendation(advice: Recommendation) -> v1::Recommendation {
    let level = match advice.level {
        Level::Info => v1::RecommendationLevel::Info,
        Level::Warning => v1::RecommendationLevel::Warn,
        Level::Error => v1::RecommendationLevel::Act,
    };
    v1::Recommendation {
        key: advice.key,
        level: level.into(),
        detail: advice.detail,
        remediation: advice.remediation,
        name: advice.name,
        evidence: advice
            .evidence
            .into_iter()
            .map(|(name, value)| v1::Evidence { name, value })
            .collect(),
    }
}

/// What one operation did.
fn operation(operation: OperationReport) -> v1::OperationReport {
    let facts = operation.facts.as_ref();
    v1::OperationReport {
        operation: operation.name,
        state: step_state(operation.state).into(),
        status: operation.status.map_or(v1::ReportStatus::Unspecified, status).into(),
        category: facts.map(|facts| facts.category.clone()).unwrap_or_default(),
        severity: facts
            .map_or(v1::Severity::Unspecified, |facts| target::severity(facts.severity))
            .into(),
        expected_duration: facts.and_then(|facts| facts.expected_seconds).map(time::seconds),
        duration: Some(time::milliseconds(operation.duration_ms)),
        rows_planned: operation.rows_planned,
        rows_examined: operation.rows_examined,
        rows_matched: operation.rows_matched,
        rows_affected: operation.rows_affected,
        rows_captured: operation.rows_captured,
        captured_bytes: operation.captured_bytes,
        rows_conflicting: operation.rows_conflicting,
        rows_remaining: operation.rows_remaining,
        error_count: operation.errors,
        warning_count: operation.warnings,
        step_indexes: operation.steps,
    }
}

/// What one step did.
pub(super) fn step(index: u32, step: StepReport) -> v1::StepReport {
    v1::StepReport {
        index,
        operation: step.operation,
        rule: step.rule,
        table: step.table,
        action: step.action,
        state: step_state(step.state).into(),
        rows_planned: step.rows_planned,
        rows_examined: step.rows_examined,
        rows_matched: step.rows_matched,
        rows_affected: step.rows_affected,
        rows_captured: step.rows_captured,
        captured_bytes: step.captured_bytes,
        batches: step.batches,
        passes: step.passes,
        rows_conflicting: step.rows_conflicting,
        rows_remaining: step.rows_remaining,
        duration: Some(time::milliseconds(step.duration_ms)),
        message: step.message,
        along: step.along.into_iter().map(along).collect(),
    }
}

fn along(along: Along) -> v1::AlongCount {
    v1::AlongCount {
        table: along.table,
        rows_deleted: along.deleted,
        rows_nullified: along.nullified,
    }
}

fn space(space: TableSpace) -> v1::TableSpace {
    v1::TableSpace {
        bytes_returned: space.bytes_returned(),
        table: space.table,
        bytes_before: space.bytes_before,
        bytes_after: space.bytes_after,
        bytes_reusable: space.bytes_reusable,
        reusable_by: space.reusable_by,
        dead_rows: space.dead_rows,
        holders: space.holders.into_iter().map(holder).collect(),
        note: space.note,
    }
}

fn holder(holder: HorizonHolder) -> v1::HorizonHolder {
    v1::HorizonHolder {
        kind: holder.kind,
        name: holder.name,
        user: holder.user,
        detail: holder.detail,
        age: holder.age_seconds.map(time::seconds),
        age_transactions: holder.age_transactions.unwrap_or(0),
    }
}

/// Something to look at.
pub(super) fn warning(warning: Warning) -> v1::RunWarning {
    v1::RunWarning {
        code: warning.code,
        message: warning.message,
        step_index: warning.step,
    }
}

fn kind(kind: RunKind) -> v1::RunKind {
    match kind {
        RunKind::Cleanup => v1::RunKind::Cleanup,
        RunKind::Undo => v1::RunKind::Undo,
        RunKind::Verify => v1::RunKind::Verify,
        RunKind::Backup => v1::RunKind::Backup,
        RunKind::Restore => v1::RunKind::Restore,
        RunKind::Migrate => v1::RunKind::Migrate,
        RunKind::Rollback => v1::RunKind::Rollback,
        RunKind::Rehearse => v1::RunKind::Rehearse,
        RunKind::Maintain => v1::RunKind::Maintain,
    }
}

/// A run's state on the wire.
pub(super) fn state(state: RunState) -> v1::RunState {
    match state {
        RunState::Queued => v1::RunState::Queued,
        RunState::Running => v1::RunState::Running,
        RunState::Pausing => v1::RunState::Pausing,
        RunState::Paused => v1::RunState::Paused,
        RunState::Cancelling => v1::RunState::Cancelling,
        RunState::Cancelled => v1::RunState::Cancelled,
        RunState::Interrupted => v1::RunState::Interrupted,
        RunState::Succeeded => v1::RunState::Succeeded,
        RunState::PartiallySucceeded => v1::RunState::PartiallySucceeded,
        RunState::Failed => v1::RunState::Failed,
    }
}

fn step_state(state: StepState) -> v1::StepState {
    match state {
        StepState::Pending => v1::StepState::Pending,
        StepState::Running => v1::StepState::Running,
        StepState::Succeeded => v1::StepState::Succeeded,
        StepState::Partial => v1::StepState::Partial,
        StepState::Failed => v1::StepState::Failed,
        StepState::Skipped => v1::StepState::Skipped,
    }
}

fn status(status: ReportStatus) -> v1::ReportStatus {
    match status {
        ReportStatus::Success => v1::ReportStatus::Success,
        ReportStatus::PartialSuccess => v1::ReportStatus::PartialSuccess,
        ReportStatus::Failed => v1::ReportStatus::Failed,
    }
}

/// The filter of a list; what means nothing is noted in `check`.
pub(in crate::grpc) fn filter(filter: v1::RunFilter, check: &mut Check) -> RunFilter {
    let states = filter.states.iter().enumerate().filter_map(|(position, number)| {
        let state = v1::RunState::try_from(*number).ok().and_then(state_of);
        if state.is_none() {
            check.refuse(
                format!("filter.states[{position}]"),
                format!("is {number}; expected a state other than RUN_STATE_UNSPECIFIED"),
            );
        }
        state
    });
    let states = states.collect();
    let kinds = filter.kinds.iter().enumerate().filter_map(|(position, number)| {
        let kind = v1::RunKind::try_from(*number).ok().and_then(kind_of);
        if kind.is_none() {
            check.refuse(
                format!("filter.kinds[{position}]"),
                format!("is {number}; expected a kind other than RUN_KIND_UNSPECIFIED"),
            );
        }
        kind
    });
    let kinds = kinds.collect();
    let created_after = filter.created_after.as_ref().and_then(|wire| {
        let instant = time::instant(wire);
        if instant.is_none() {
            check.refuse(
                "filter.created_after",
                format!(
                    "is {} s {} ns; expected an instant in the years 1 to 9999",
                    wire.seconds, wire.nanos
                ),
            );
        }
        instant
    });
    let named = |name: String| (!name.is_empty()).then_some(name);
    RunFilter {
        target: named(filter.target),
        states,
        kinds,
        operation: named(filter.operation),
        created_after,
        captured: false,
        attempted: false,
    }
}

fn state_of(state: v1::RunState) -> Option<RunState> {
    match state {
        v1::RunState::Unspecified => None,
        v1::RunState::Queued => Some(RunState::Queued),
        v1::RunState::Running => Some(RunState::Running),
        v1::RunState::Pausing => Some(RunState::Pausing),
        v1::RunState::Paused => Some(RunState::Paused),
        v1::RunState::Cancelling => Some(RunState::Cancelling),
        v1::RunState::Cancelled => Some(RunState::Cancelled),
        v1::RunState::Interrupted => Some(RunState::Interrupted),
        v1::RunState::Succeeded => Some(RunState::Succeeded),
        v1::RunState::PartiallySucceeded => Some(RunState::PartiallySucceeded),
        v1::RunState::Failed => Some(RunState::Failed),
    }
}

fn kind_of(kind: v1::RunKind) -> Option<RunKind> {
    match kind {
        v1::RunKind::Unspecified => None,
        v1::RunKind::Cleanup => Some(RunKind::Cleanup),
        v1::RunKind::Undo => Some(RunKind::Undo),
        v1::RunKind::Verify => Some(RunKind::Verify),
        v1::RunKind::Backup => Some(RunKind::Backup),
        v1::RunKind::Restore => Some(RunKind::Restore),
        v1::RunKind::Migrate => Some(RunKind::Migrate),
        v1::RunKind::Rollback => Some(RunKind::Rollback),
        v1::RunKind::Rehearse => Some(RunKind::Rehearse),
        v1::RunKind::Maintain => Some(RunKind::Maintain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_kind_survives_the_wire() {
        for known in RunState::ALL {
            assert_eq!(state_of(state(known)), Some(known));
        }
        for known in RunKind::ALL {
            assert_eq!(kind_of(kind(known)), Some(known));
        }
    }

    #[test]
    fn a_meaningless_filter_is_refused_by_position() {
        let given = v1::RunFilter {
            states: vec![2, 0, 99],
            kinds: vec![-1],
            ..v1::RunFilter::default()
        };
        let mut check = Check::default();
        filter(given, &mut check);
        let Err(crate::grpc::status::Fault::Fields(violations)) = check.finish() else {
            panic!("must be refused")
        };
        let fields = violations
            .iter()
            .map(|violation| violation.field.as_str())
            .collect::<Vec<_>>();
        assert_eq!(fields, ["filter.states[1]", "filter.states[2]", "filter.kinds[0]"]);
    }
}
