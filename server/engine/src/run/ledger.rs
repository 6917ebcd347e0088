//! The ledger of one attempt: the report and the events it writes to the store, under its fence, and from there to watchers.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{feed::Feeds, meter::Meter};
use crate::{
    model::{
        EventBody, MaintenanceProgress, MigrationProgress, Progress, Report, RunId, RunState, Slowdown, StepState, StepTotals,
        Throttle, Warning,
    },
    port::{SourceMark, Store, StoreError, Update},
};

/// How often the report is written between step ends. The journal is the truth for counts; this is what readers see.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How long events of short steps may wait for others: watchers get at most ten writes a second.
const DEFER: Duration = Duration::from_millis(100);

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
    /// Duration of the newest batch of this attempt, which windows without a row do not change.
    newest_batch: Duration,
    /// Events that may wait a little, so that many short steps do not cost a commit of the store each.
    deferred: Vec<EventBody>,
    flushed: Instant,
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
            newest_batch: Duration::ZERO,
            deferred: Vec::new(),
            flushed: now,
        }
    }

    /// Time at work over all attempts.
    pub(super) fn worked(&self) -> Duration {
        Duration::from_millis(self.before_ms) + self.meter.elapsed()
    }

    async fn write(&mut self, events: Vec<EventBody>, with_report: bool) -> Result<(), StoreError> {
        self.report.duration_ms = millis(self.worked());
        let mut all = std::mem::take(&mut self.deferred);
        all.extend(events);
        self.flushed = Instant::now();
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
                    events: all,
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
            self.report.close(to, &reason);
        }
        let update = Update {
            report: Some(self.report.clone()),
            events: std::mem::take(&mut self.deferred),
            state: Some((to, reason)),
            source_mark: mark,
            proofs: Vec::new(),
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
        step.along.clone_from(&totals.along);
        step.batches = totals.batches;
        step.passes = totals.pass;
    }

    fn step_begins(&mut self, step: usize) -> EventBody {
        self.step_began = Instant::now();
        let of = index(self.report.steps.len());
        let report = &mut self.report.steps[step];
        self.step_before_ms = report.duration_ms;
        report.state = StepState::Running;
        report.message.clear();
        EventBody::StepStarted {
            step: index(step),
            of,
            operation: report.operation.clone(),
            rule: report.rule.clone(),
            table: report.table.clone(),
            planned: report.rows_planned,
            done: report.rows_affected,
        }
    }

    fn step_ends(&mut self, step: usize, state: StepState, message: String) -> EventBody {
        self.time_step(step);
        let report = &mut self.report.steps[step];
        report.state = state;
        report.message = message;
        EventBody::StepFinished {
            step: index(step),
            report: report.clone(),
        }
    }

    pub(super) async fn begin_step(&mut self, step: usize) -> Result<(), StoreError> {
        let event = self.step_begins(step);
        self.write(vec![event], true).await
    }

    /// The same of a step that may be over at once: its event may wait for others.
    pub(super) async fn begin_short_step(&mut self, step: usize) -> Result<(), StoreError> {
        let event = self.step_begins(step);
        self.defer(event).await
    }

    /// Ends a step of which another record, the target's, is the truth: its event may wait for others.
    pub(super) async fn end_short_step(&mut self, step: usize, state: StepState, message: String) -> Result<(), StoreError> {
        let event = self.step_ends(step, state, message);
        self.defer(event).await
    }

    async fn defer(&mut self, event: EventBody) -> Result<(), StoreError> {
        self.deferred.push(event);
        if self.flushed.elapsed() < DEFER {
            return Ok(());
        }
        self.write(Vec::new(), self.report_written.elapsed() >= REPORT_INTERVAL).await
    }

    /// Writes what was deferred, where something has waited long enough; returns when the next has.
    pub(super) async fn flush(&mut self) -> Result<Instant, StoreError> {
        if !self.deferred.is_empty() && self.flushed.elapsed() >= DEFER {
            self.write(Vec::new(), self.report_written.elapsed() >= REPORT_INTERVAL)
                .await?;
        }
        Ok(self.flushed + DEFER)
    }

    /// Says how far a migration is; of many short statements only some are told.
    pub(super) async fn migrating(&mut self, progress: MigrationProgress) -> Result<(), StoreError> {
        let newer = EventBody::Migration(progress);
        match self.deferred.last_mut() {
            Some(last @ EventBody::Migration(_)) => *last = newer,
            _ => self.deferred.push(newer),
        }
        self.flush().await.map(drop)
    }

    fn time_step(&mut self, step: usize) {
        self.report.steps[step].duration_ms = self.step_before_ms + millis(self.step_began.elapsed());
    }

    /// Notes the time of a step that stops without an end.
    pub(super) fn pause_step(&mut self, step: usize) {
        self.time_step(step);
    }

    pub(super) async fn end_step(&mut self, step: usize, state: StepState, message: String) -> Result<(), StoreError> {
        let event = self.step_ends(step, state, message);
        self.write(vec![event], true).await?;
        self.check_expected_time(step).await
    }

    /// Leaves a step out that has not begun.
    pub(super) async fn skip_step(&mut self, step: usize, why: String) -> Result<(), StoreError> {
        let report = &mut self.report.steps[step];
        report.state = StepState::Skipped;
        report.message = why;
        let event = EventBody::StepFinished {
            step: index(step),
            report: report.clone(),
        };
        self.write(vec![event], true).await
    }

    /// Says once that the step's operation takes longer than its catalog expects.
    async fn check_expected_time(&mut self, step: usize) -> Result<(), StoreError> {
        let Some(warning) = self.report.overdue(step) else {
            return Ok(());
        };
        self.say(warning).await
    }

    /// Says what somebody should know. An attempt that does again what an older one has done does not say the same again.
    pub(super) async fn warn(&mut self, step: Option<usize>, code: &str, message: String) -> Result<(), StoreError> {
        let warning = Warning {
            code: code.to_owned(),
            message,
            step: step.map(index),
        };
        if self.report.warnings.contains(&warning) {
            return Ok(());
        }
        self.say(warning).await
    }

    async fn say(&mut self, warning: Warning) -> Result<(), StoreError> {
        tracing::warn!(run = %self.run, code = warning.code, message = warning.message, "run warning");
        self.report.warn(&warning);
        // With the report: the next attempt knows what was said, and tells it at the end although this one may not come to one.
        self.write(vec![EventBody::Warning(warning)], true).await
    }

    /// Says what began or ended to slow the run.
    pub(super) async fn throttled(&mut self, changes: Vec<Slowdown>) -> Result<(), StoreError> {
        for change in &changes {
            let Slowdown {
                reason,
                value,
                threshold,
                cleared,
            } = change;
            tracing::info!(run = %self.run, reason, value, threshold, cleared, "throttled");
        }
        self.write(changes.into_iter().map(EventBody::Throttled).collect(), false)
            .await
    }

    /// Writes the report as it stands.
    pub(super) async fn keep(&mut self) -> Result<(), StoreError> {
        self.write(Vec::new(), true).await
    }

    /// Writes the report together with what was found of a backup.
    pub(super) async fn mark_backup(&mut self, backup: RunId, mark: SourceMark) -> Result<(), StoreError> {
        self.report.duration_ms = millis(self.worked());
        let update = Update {
            report: Some(self.report.clone()),
            events: std::mem::take(&mut self.deferred),
            proofs: vec![(backup, mark)],
            ..Update::default()
        };
        let events = self.store.update(self.run, self.fence, &update).await?;
        self.feeds.publish(self.run, events);
        Ok(())
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
        if !batch.is_zero() {
            self.newest_batch = batch;
        }
        if !self.meter.due(throttle.is_some()) {
            return Ok(());
        }
        self.time_step(step);
        self.check_expected_time(step).await?;
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
            batch_ms: millis(self.newest_batch),
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
