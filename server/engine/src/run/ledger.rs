//! The ledger of one attempt: the report and the events it writes to the store, under its fence, and from there to watchers.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{feed::Feeds, meter::Meter};
use crate::{
    model::{
        EventBody, MaintenanceProgress, Progress, Report, ReportStatus, RunId, RunState, StepState, StepTotals, Throttle, Warning,
    },
    port::{SourceMark, Store, StoreError, Update},
};

/// How often the report is written between step ends. The journal is the truth for counts; this is what readers see.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Ledger {
    store: Arc<dyn Store>,
    feeds: Arc<Feeds>,
    run: RunId,
    fence: u64,
    pub(super) report: Report,
    pub(super) meter: Meter,
    /// Time at work before this attempt, milliseconds.
    before_ms: u64,
    step_began: Instant,
    /// Time at work in the current step before this attempt, milliseconds.
    step_before_ms: u64,
    report_written: Instant,
}

impl Ledger {
    pub(super) fn open(store: Arc<dyn Store>, feeds: Arc<Feeds>, run: RunId, fence: u64, report: Report) -> Self {
        let affected = report.total(|step| step.rows_affected);
        let now = Instant::now();
        let before_ms = report.duration_ms;
        Self {
            store,
            feeds,
            run,
            fence,
            report,
            meter: Meter::start(affected),
            before_ms,
            step_began: now,
            step_before_ms: 0,
            report_written: now,
        }
    }

    /// Time at work over all attempts.
    pub(super) fn worked(&self) -> Duration {
        Duration::from_millis(self.before_ms) + self.meter.elapsed()
    }

    async fn write(&mut self, events: Vec<EventBody>, with_report: bool) -> Result<(), StoreError> {
        self.report.duration_ms = millis(self.worked());
        let report = with_report.then(|| self.report.clone());
        if with_report {
            self.report_written = Instant::now();
        }
        let events = self
            .store
            .update(
                self.run,
                self.fence,
                &Update {
                    report,
                    events,
                    ..Update::default()
                },
            )
            .await?;
        self.feeds.publish(self.run, events);
        Ok(())
    }

    /// Enters a state. A final one ends the run; `mark` says what that means for its source.
    pub(super) async fn enter(&mut self, to: RunState, reason: String, mark: Option<SourceMark>) -> Result<(), StoreError> {
        self.report.duration_ms = millis(self.worked());
        if to.is_final() {
            for step in self.report.steps.iter_mut().filter(|step| step.state == StepState::Running) {
                step.state = if to == RunState::Failed {
                    StepState::Failed
                } else {
                    StepState::Partial
                };
                step.message.clone_from(&reason);
            }
        }
        self.report.status = match to {
            RunState::Succeeded => Some(ReportStatus::Success),
            RunState::PartiallySucceeded | RunState::Cancelled => Some(ReportStatus::PartialSuccess),
            RunState::Failed => Some(ReportStatus::Failed),
            _ => None,
        };
        let update = Update {
            report: Some(self.report.clone()),
            events: Vec::new(),
            state: Some((to, reason)),
            source_mark: mark,
        };
        let events = self.store.update(self.run, self.fence, &update).await?;
        self.feeds.publish(self.run, events);
        Ok(())
    }

    /// Takes over what the journal says of a step.
    pub(super) fn take_totals(&mut self, totals: &StepTotals) {
        let Some(step) = usize::try_from(totals.step)
            .ok()
            .and_then(|step| self.report.steps.get_mut(step))
        else {
            return;
        };
        step.rows_examined = totals.examined;
        step.rows_matched = totals.matched;
        step.rows_affected = totals.affected;
        step.rows_captured = totals.captured;
        step.captured_bytes = totals.captured_bytes;
        step.rows_conflicting = totals.conflicting;
        step.batches = totals.batches;
        step.passes = totals.pass;
    }

    pub(super) async fn begin_step(&mut self, step: usize) -> Result<(), StoreError> {
        self.step_began = Instant::now();
        let of = index(self.report.steps.len());
        let report = &mut self.report.steps[step];
        self.step_before_ms = report.duration_ms;
        report.state = StepState::Running;
        report.message.clear();
        let event = EventBody::StepStarted {
            step: index(step),
            of,
            operation: report.operation.clone(),
            rule: report.rule.clone(),
            table: report.table.clone(),
            planned: report.rows_planned,
            done: report.rows_affected,
        };
        self.write(vec![event], true).await
    }

    fn time_step(&mut self, step: usize) {
        self.report.steps[step].duration_ms = self.step_before_ms + millis(self.step_began.elapsed());
    }

    /// Notes the time of a step that stops without an end.
    pub(super) fn pause_step(&mut self, step: usize) {
        self.time_step(step);
    }

    pub(super) async fn end_step(&mut self, step: usize, state: StepState, message: String) -> Result<(), StoreError> {
        self.time_step(step);
        let report = &mut self.report.steps[step];
        report.state = state;
        report.message = message;
        let event = EventBody::StepFinished {
            step: index(step),
            report: report.clone(),
        };
        self.write(vec![event], true).await
    }

    pub(super) async fn warn(&mut self, step: Option<usize>, code: &str, message: String) -> Result<(), StoreError> {
        tracing::warn!(run = %self.run, code, message, "run warning");
        let warning = Warning {
            code: code.to_owned(),
            message,
            step: step.map(index),
        };
        if self.report.warnings.len() < Report::MAX_WARNINGS {
            self.report.warnings.push(warning.clone());
        }
        self.write(vec![EventBody::Warning(warning)], false).await
    }

    /// Writes the report as it stands.
    pub(super) async fn keep(&mut self) -> Result<(), StoreError> {
        self.write(Vec::new(), true).await
    }

    /// Says how far an act on whole tables is.
    pub(super) async fn maintenance(&mut self, progress: MaintenanceProgress) -> Result<(), StoreError> {
        self.write(vec![EventBody::Maintenance(progress)], false).await
    }

    /// Notes a boundary; writes a progress event where one is due.
    pub(super) async fn progress(
        &mut self,
        step: usize,
        scan_fraction: f64,
        batch: Duration,
        throttle: Option<Throttle>,
    ) -> Result<(), StoreError> {
        let affected = self.report.total(|step| step.rows_affected);
        self.meter.note(affected);
        if !self.meter.due() {
            return Ok(());
        }
        self.time_step(step);
        let planned = self.report.total(|step| step.rows_planned);
        let current = &self.report.steps[step];
        let event = EventBody::Progress(Progress {
            step: index(step),
            step_affected: current.rows_affected,
            step_planned: current.rows_planned,
            affected,
            planned,
            examined: self.report.total(|step| step.rows_examined),
            matched: self.report.total(|step| step.rows_matched),
            captured: self.report.total(|step| step.rows_captured),
            captured_bytes: self.report.total(|step| step.captured_bytes),
            scan_fraction,
            rows_per_second: self.meter.rate(),
            eta_ms: self.meter.eta_ms(planned.saturating_sub(affected)),
            batches: self.report.total(|step| step.batches),
            batch_ms: millis(batch),
            throttle,
        });
        self.write(vec![event], self.report_written.elapsed() >= REPORT_INTERVAL)
            .await
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Position of a step as the model counts it. A plan has at most a few hundred steps.
fn index(step: usize) -> u32 {
    u32::try_from(step).unwrap_or(u32::MAX)
}
