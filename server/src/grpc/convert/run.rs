//! Runs, their reports, and the filter over them.

use dbkeep_engine::{
    model::{
        HorizonHolder, PlanId, Report, ReportStatus, Run, RunId, RunKind, RunOptions, RunState, StepReport, StepState,
        TableSpace, Warning,
    },
    port::RunFilter,
};
use dbkeep_proto::v1;

use super::{index, time};
use crate::grpc::validate::Check;

/// A run with its report so far.
pub(in crate::grpc) fn run(run: Run) -> v1::Run {
    let captured = run.kind == RunKind::Cleanup && run.report.total(|step| step.rows_captured) > 0;
    let saved = captured || run.kind == RunKind::Backup && run.state == RunState::Succeeded;
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
    }
}

/// A report, so far or in the end.
pub(super) fn report(report: Report) -> v1::RunReport {
    v1::RunReport {
        status: report.status.map_or(v1::ReportStatus::Unspecified, status).into(),
        rows_planned: report.total(|step| step.rows_planned),
        rows_examined: report.total(|step| step.rows_examined),
        rows_affected: report.total(|step| step.rows_affected),
        rows_captured: report.total(|step| step.rows_captured),
        captured_bytes: report.total(|step| step.captured_bytes),
        rows_conflicting: report.total(|step| step.rows_conflicting),
        duration: Some(time::milliseconds(report.duration_ms)),
        steps: report
            .steps
            .into_iter()
            .enumerate()
            .map(|(position, done)| step(index(position), done))
            .collect(),
        warnings: report.warnings.into_iter().map(warning).collect(),
        space: report.space.into_iter().map(space).collect(),
    }
}

/// What one step did.
pub(super) fn step(index: u32, step: StepReport) -> v1::StepReport {
    v1::StepReport {
        index,
        operation: step.operation,
        rule: step.rule,
        table: step.table,
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
    }
}

/// A run's state on the wire.
pub(super) fn state(state: RunState) -> v1::RunState {
    match state {
        RunState::Queued => v1::RunState::Queued,
        RunState::Running => v1::RunState::Running,
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
    }
}

fn state_of(state: v1::RunState) -> Option<RunState> {
    match state {
        v1::RunState::Unspecified => None,
        v1::RunState::Queued => Some(RunState::Queued),
        v1::RunState::Running => Some(RunState::Running),
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
