//! Entries of a run's log: the one message that every stream carries.

use dbkeep_engine::{
    model::{Event, EventBody, Progress, RunId, Slowdown, Throttle},
    run::WatchItem,
};
use dbkeep_proto::v1::{self, run_event};

use super::{migration, run, time};

/// What a watcher of `run` gets. Lost history becomes an event whose sequence is the last one that is gone, so that a reader who
/// resumes after it misses nothing that is kept.
pub(in crate::grpc) fn item(watched: RunId, item: WatchItem) -> v1::RunEvent {
    match item {
        WatchItem::Event { event, coalesced } => entry(&event, coalesced),
        WatchItem::HistoryLost { first } => v1::RunEvent {
            run_id: watched.to_string(),
            sequence: first.saturating_sub(1),
            time: Some(time::timestamp(jiff::Timestamp::now())),
            coalesced: 0,
            event: Some(run_event::Event::HistoryLost(v1::HistoryLost {
                first_available_sequence: first,
            })),
        },
    }
}

fn entry(event: &Event, coalesced: u64) -> v1::RunEvent {
    v1::RunEvent {
        run_id: event.run.to_string(),
        sequence: event.sequence,
        time: Some(time::timestamp(event.at)),
        coalesced,
        event: Some(body(event.body.clone())),
    }
}

fn body(body: EventBody) -> run_event::Event {
    match body {
        EventBody::StateChanged {
            from,
            to,
            reason,
            report,
        } => run_event::Event::StateChanged(v1::StateChanged {
            from: from.map_or(v1::RunState::Unspecified, run::state).into(),
            to: run::state(to).into(),
            reason,
            report: report.map(run::report),
        }),
        EventBody::PlanReady {
            plan,
            token,
            step_counts,
        } => run_event::Event::PlanReady(v1::PlanReady {
            plan_id: plan.to_string(),
            plan_token: token.unwrap_or_default(),
            row_count: step_counts.iter().sum(),
            step_row_counts: step_counts,
        }),
        EventBody::StepStarted {
            step,
            of,
            operation,
            rule,
            table,
            planned,
            done,
        } => run_event::Event::StepStarted(v1::StepStarted {
            index: step,
            step_count: of,
            operation,
            rule,
            table,
            rows_planned: planned,
            rows_done: done,
        }),
        EventBody::Progress(progress) => run_event::Event::Progress(self::progress(progress)),
        EventBody::StepFinished { step, report } => run_event::Event::StepFinished(v1::StepFinished {
            step: Some(run::step(step, report)),
        }),
        EventBody::Warning(warning) => run_event::Event::Warning(run::warning(warning)),
        EventBody::Approved {
            approval,
            approvals,
            required,
        } => run_event::Event::Approved(v1::Approved {
            approval: Some(run::approval(approval)),
            approvals,
            approvals_required: required,
        }),
        EventBody::LimitsChanged {
            principal,
            before,
            after,
        } => run_event::Event::LimitsChanged(v1::LimitsChanged {
            principal,
            before: Some(run::limits(before)),
            after: Some(run::limits(after)),
        }),
        EventBody::Throttled(Slowdown {
            reason,
            value,
            threshold,
            cleared,
        }) => run_event::Event::Throttled(v1::Throttled {
            reason,
            value,
            threshold,
            cleared,
        }),
        EventBody::Maintenance(progress) => run_event::Event::Maintenance(v1::MaintenanceProgress {
            phase: progress.phase,
            table: progress.table,
            done: progress.done,
            total: progress.total,
            unit: progress.unit,
        }),
        EventBody::Migration(progress) => run_event::Event::Migration(migration::progress(progress)),
    }
}

fn progress(progress: Progress) -> v1::Progress {
    v1::Progress {
        step_index: progress.step,
        step_rows_affected: progress.step_affected,
        step_rows_planned: progress.step_planned,
        rows_affected: progress.affected,
        rows_planned: progress.planned,
        rows_examined: progress.examined,
        rows_matched: progress.matched,
        rows_captured: progress.captured,
        captured_bytes: progress.captured_bytes,
        scan_fraction: progress.scan_fraction,
        rows_per_second: progress.rows_per_second,
        eta: progress.eta_ms.map(time::milliseconds),
        batches: progress.batches,
        batch_duration: Some(time::milliseconds(progress.batch_ms)),
        throttle: progress.throttle.map(throttle),
    }
}

fn throttle(throttle: Throttle) -> v1::Throttle {
    v1::Throttle {
        reason: throttle.reason,
        value: throttle.value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_history_lets_a_reader_resume_at_what_is_kept() {
        let run = RunId::new();
        let event = item(run, WatchItem::HistoryLost { first: 41 });
        assert_eq!((event.run_id, event.sequence), (run.to_string(), 40));
        assert_eq!(
            event.event,
            Some(run_event::Event::HistoryLost(v1::HistoryLost {
                first_available_sequence: 41
            }))
        );
    }
}
