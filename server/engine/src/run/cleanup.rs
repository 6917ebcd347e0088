//! The work of a cleanup: step by step, each in passes over its table until nothing is left behind, batch by batch.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{
    attempt::{Attempt, Ending, Halt},
    batch::{BatchOrder, run_batch},
    vacuum,
};
use crate::{
    failpoint,
    model::{JournalEntry, RunState, Selection, StepState, StepTotals, TableSchema, Throttle},
    planner,
    port::{Scan, Target, TargetError, TargetErrorClass, Window},
};

/// Passes in which listed rows slipped away after which a step gives up.
const MAX_SLIPPING_PASSES: u32 = 8;
/// Tries of one batch before its step fails.
const MAX_TRIES: u32 = 8;
/// First wait before a batch is tried again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// A scan is reopened after this time, because its snapshot keeps VACUUM from removing dead rows.
const SCAN_LIFETIME: Duration = Duration::from_secs(180);

/// How a step ended, where it ended in order.
enum StepEnd {
    Done,
    /// With rows left over, for this reason.
    Partial(String),
    /// The run's time is over.
    OutOfTime,
}

pub(super) async fn work(attempt: &mut Attempt) -> Result<Ending, Halt> {
    attempt.target.claim(attempt.claim).await?;
    let totals = attempt.target.totals(attempt.run.id).await?;
    check_journal(attempt, &totals)?;
    for step in &totals {
        attempt.ledger.take_totals(step);
    }
    let selections = planner::selections(attempt.target.as_ref(), &attempt.plan)
        .await
        .map_err(|error| match error {
            planner::PlanError::Target(error) => Halt::Target(error),
            planner::PlanError::Mismatch { expected, .. } => {
                Halt::Fail(format!("the schema changed since the plan was made: {expected}"))
            }
        })?;
    if selections.fingerprint != attempt.plan.fingerprint {
        return Err(Halt::Fail("the schema changed since the plan was made".to_owned()));
    }
    remove_unjournaled_chunks(attempt).await?;
    failpoint!("run-claimed");

    let mut out_of_time = false;
    for (index, selection) in selections.steps.iter().enumerate() {
        if matches!(
            attempt.ledger.report.steps[index].state,
            StepState::Succeeded | StepState::Partial | StepState::Failed
        ) {
            continue;
        }
        attempt.boundary()?;
        attempt.ledger.begin_step(index).await?;
        let done = totals
            .iter()
            .find(|totals| usize::try_from(totals.step) == Ok(index))
            .cloned()
            .unwrap_or_default();
        let result = StepWork {
            attempt,
            index,
            selection,
            totals: done,
            reopened: false,
        }
        .run()
        .await;
        let (state, message) = match result {
            Ok(StepEnd::Done) => (StepState::Succeeded, String::new()),
            Ok(StepEnd::Partial(message)) => (StepState::Partial, message),
            Ok(StepEnd::OutOfTime) => {
                out_of_time = true;
                (
                    StepState::Partial,
                    format!("stopped at the time limit of {} s", attempt.run.options.max_execution_seconds),
                )
            }
            // These concern the step alone: the tables of others may be fine.
            Err(Halt::Target(error))
                if matches!(
                    error.class,
                    TargetErrorClass::Constraint
                        | TargetErrorClass::Refused
                        | TargetErrorClass::Permission
                        | TargetErrorClass::Unsupported
                ) =>
            {
                (StepState::Failed, error.to_string())
            }
            Err(halt) => {
                attempt.ledger.pause_step(index);
                return Err(halt);
            }
        };
        attempt.ledger.end_step(index, state, message).await?;
        if out_of_time {
            break;
        }
    }
    if attempt.run.options.vacuum {
        vacuum::after(attempt, selections.steps.iter().map(|selection| selection.table.name.clone())).await?;
    }
    Ok(verdict(attempt, out_of_time))
}

fn verdict(attempt: &Attempt, out_of_time: bool) -> Ending {
    let steps = &attempt.ledger.report.steps;
    let affected = attempt.ledger.report.total(|step| step.rows_affected);
    let failed = steps.iter().filter(|step| step.state == StepState::Failed).count();
    let (state, reason) = if steps.iter().all(|step| step.state == StepState::Succeeded) {
        (RunState::Succeeded, format!("{affected} rows deleted"))
    } else if failed == steps.len() {
        (
            RunState::Failed,
            format!(
                "every step failed; the first: {}",
                steps.first().map_or("", |step| step.message.as_str())
            ),
        )
    } else if out_of_time {
        (
            RunState::PartiallySucceeded,
            format!(
                "stopped at the time limit of {} s; {affected} rows deleted",
                attempt.run.options.max_execution_seconds
            ),
        )
    } else {
        let first = steps.iter().find(|step| step.state != StepState::Succeeded);
        let why = first.map_or(String::new(), |step| format!("{}: {}", step.rule, step.message));
        (RunState::PartiallySucceeded, format!("{affected} rows deleted; {why}"))
    };
    Ending {
        state,
        reason,
        mark: None,
    }
}

/// The stored report never runs ahead of the journal. Where it does, the journal is not the one that this run wrote: the
/// target was restored, or is another database. Going on would take the chunks of committed batches for leftovers.
fn check_journal(attempt: &Attempt, totals: &[StepTotals]) -> Result<(), Halt> {
    for (index, report) in attempt.ledger.report.steps.iter().enumerate() {
        let journaled = totals.iter().find(|totals| usize::try_from(totals.step) == Ok(index));
        let (batches, captured) = journaled.map_or((0, 0), |totals| (totals.batches, totals.captured));
        if batches < report.batches || captured < report.rows_captured {
            return Err(Halt::Fail(format!(
                "the target's journal has {batches} batches of step {index}, the run had committed {}: \
                 this is another database, or an older state of it; its backup is kept",
                report.batches
            )));
        }
    }
    Ok(())
}

/// Removes chunks of batches that never committed. Called after the claim, so that no older attempt can commit any more.
async fn remove_unjournaled_chunks(attempt: &Attempt) -> Result<(), Halt> {
    let run = attempt.run.id;
    let archive = Arc::clone(&attempt.context.archive);
    let mut leftover: BTreeSet<String> = {
        let archive = Arc::clone(&archive);
        tokio::task::spawn_blocking(move || archive.list(run))
            .await
            .map_err(|error| Halt::Fail(error.to_string()))??
            .into_iter()
            .collect()
    };
    if leftover.is_empty() {
        return Ok(());
    }
    let mut after = (0, 0);
    loop {
        let page = attempt.target.journal(run, after, 1_000).await?;
        let Some(last) = page.last() else { break };
        after = (last.step, last.batch);
        for chunk in page.iter().filter_map(|entry| entry.chunk.as_ref()) {
            leftover.remove(&chunk.file);
        }
    }
    // Whatever else somebody put into the folder is not ours.
    leftover.retain(|file| file.ends_with(".chunk"));
    for file in leftover {
        tracing::info!(run = %run, chunk = file, "removing the chunk of a batch that never committed");
        archive.remove(run, &file)?;
    }
    Ok(())
}

/// Most rows that a step may take: what the plan counted and the drift that is tolerated.
fn allowance(attempt: &Attempt, index: usize) -> u64 {
    let planned = attempt.plan.steps[index].row_count;
    planned.saturating_add(attempt.context.settings.drift.tolerance(planned))
}

/// A scan that runs ahead of the batches by one window, on its own task and connection.
struct Ahead {
    windows: mpsc::Receiver<Result<Window, TargetError>>,
    /// When the first window came: what went before is the price of the scan, not its age.
    first_window: Option<Instant>,
    _task: AbortOnDropHandle<()>,
}

impl Ahead {
    async fn open(target: &dyn Target, selection: &Selection, cursor: Option<&str>, limit: u32) -> Result<Self, TargetError> {
        let mut scan: Box<dyn Scan> = target.scan(selection, cursor, limit).await?;
        let (sender, windows) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            loop {
                let window = match scan.next().await {
                    Ok(Some(window)) => Ok(window),
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                let failed = window.is_err();
                if sender.send(window).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Self {
            windows,
            first_window: None,
            _task: AbortOnDropHandle::new(task),
        })
    }
}

/// One step in work.
struct StepWork<'a> {
    attempt: &'a mut Attempt,
    index: usize,
    selection: &'a Selection,
    /// What earlier attempts and the batches so far have done.
    totals: StepTotals,
    /// Whether the scan of this pass was opened again on the way, which may pass over rows.
    reopened: bool,
}

impl StepWork<'_> {
    async fn run(mut self) -> Result<StepEnd, Halt> {
        let mut cursor = (!self.totals.cursor.is_empty()).then(|| self.totals.cursor.clone());
        self.totals.pass = self.totals.pass.max(1);
        let mut slipping = 0;
        loop {
            let from_start = cursor.is_none();
            let (matched, affected) = (self.totals.matched, self.totals.affected);
            self.reopened = false;
            if let Some(end) = self.pass(cursor.take()).await? {
                return Ok(end);
            }
            let listed = self.totals.matched - matched;
            let taken = self.totals.affected - affected;
            // Every row that matched when this pass began has been listed, and every listed row is gone: another pass could
            // only find rows that began to match later, which nobody has planned. See docs/adr/0006-when-a-step-is-done.md.
            if from_start && listed == taken && !self.reopened {
                return Ok(StepEnd::Done);
            }
            let whole = from_start && !self.reopened;
            if whole && taken == 0 {
                return self.leave(listed, "a whole pass could not take a single one of them").await;
            }
            slipping += u32::from(taken < listed);
            if slipping == MAX_SLIPPING_PASSES {
                let why = format!("rows slipped away in each of {MAX_SLIPPING_PASSES} passes");
                return self.leave(listed - taken, &why).await;
            }
            self.totals.pass += 1;
        }
    }

    async fn leave(&mut self, rows: u64, why: &str) -> Result<StepEnd, Halt> {
        let message = format!("about {rows} rows still match: {why}");
        self.attempt.ledger.report.steps[self.index].rows_remaining = rows;
        self.attempt
            .ledger
            .warn(Some(self.index), "ROWS_REMAIN", message.clone())
            .await?;
        Ok(StepEnd::Partial(message))
    }

    /// One pass over the table; `None` where it reached the end.
    async fn pass(&mut self, mut cursor: Option<String>) -> Result<Option<StepEnd>, Halt> {
        let limit = self.attempt.run.options.batch_rows;
        let target = Arc::clone(&self.attempt.target);
        let allowance = allowance(self.attempt, self.index);
        let mut ahead = Ahead::open(target.as_ref(), self.selection, cursor.as_deref(), limit).await?;
        let mut examined = 0;
        loop {
            let window = tokio::select! {
                stop = self.attempt.lease.stopped() => return Err(stop.into()),
                () = tokio::time::sleep(self.attempt.time_left()) => return Ok(Some(StepEnd::OutOfTime)),
                window = ahead.windows.recv() => window,
            };
            let Some(window) = window.transpose()? else { return Ok(None) };
            let scanning_since = *ahead.first_window.get_or_insert_with(Instant::now);
            examined += window.examined;
            cursor = Some(window.cursor.clone());
            if self.attempt.out_of_time() {
                return Ok(Some(StepEnd::OutOfTime));
            }
            if window.keys.is_empty() {
                self.attempt.ledger.report.steps[self.index].rows_examined = self.totals.examined + examined;
                self.attempt
                    .ledger
                    .progress(self.index, window.fraction, Duration::ZERO, None)
                    .await?;
                continue;
            }
            let listed = window.keys.len() as u64;
            if self.totals.affected + listed > allowance {
                let message = format!(
                    "stopped before the plan was exceeded: {} rows deleted, {listed} more listed, at most {allowance} allowed; make a new plan",
                    self.totals.affected
                );
                self.attempt
                    .ledger
                    .warn(Some(self.index), "COUNT_DRIFTED", message.clone())
                    .await?;
                return Ok(Some(StepEnd::Partial(message)));
            }
            let began = Instant::now();
            let entry = self.batch(&target, &window, examined).await?;
            let took = began.elapsed();
            examined = 0;
            self.note(&entry, took, &window).await?;
            if !self.attempt.run.options.full_speed {
                self.attempt.lease.rest(took).await?;
            }
            if scanning_since.elapsed() > SCAN_LIFETIME {
                ahead = Ahead::open(target.as_ref(), self.selection, cursor.as_deref(), limit).await?;
                self.reopened = true;
            }
        }
    }

    async fn note(&mut self, entry: &JournalEntry, took: Duration, window: &Window) -> Result<(), Halt> {
        let totals = &mut self.totals;
        totals.batches = entry.batch;
        totals.examined += entry.examined;
        totals.matched += entry.matched;
        totals.affected += entry.affected;
        if let Some(chunk) = &entry.chunk {
            totals.captured += chunk.rows;
            totals.captured_bytes += chunk.bytes;
        }
        totals.step = entry.step;
        self.attempt.ledger.take_totals(totals);
        let throttle = (!self.attempt.run.options.full_speed).then(|| Throttle {
            reason: "DUTY_CYCLE".to_owned(),
            value: format!("{} ms", took.as_millis()),
        });
        Ok(self
            .attempt
            .ledger
            .progress(self.index, window.fraction, took, throttle)
            .await?)
    }

    /// One batch, tried again while that can help.
    async fn batch(&mut self, target: &Arc<dyn Target>, window: &Window, examined: u64) -> Result<JournalEntry, Halt> {
        let mut wait = FIRST_RETRY;
        let mut tries = 1;
        loop {
            self.attempt.boundary()?;
            let order = BatchOrder {
                claim: self.attempt.claim,
                step: u32::try_from(self.index).unwrap_or(u32::MAX),
                batch: self.totals.batches + 1,
                pass: self.totals.pass,
                selection: self.selection,
                window,
                examined,
                capture: self.attempt.plan.steps[self.index].captured,
            };
            let error = match run_batch(target.as_ref(), &self.attempt.context.archive, &order).await {
                Ok(entry) => return Ok(entry),
                Err(error) => error,
            };
            if !error.is_retryable() {
                return Err(error.into());
            }
            if tries == MAX_TRIES {
                let message = format!("batch {} was tried {MAX_TRIES} times; the last time: {error}", order.batch);
                return Err(TargetError {
                    class: TargetErrorClass::Refused,
                    message,
                    ..error
                }
                .into());
            }
            let message = format!("batch {} is tried again in {} ms: {error}", order.batch, wait.as_millis());
            self.attempt.ledger.warn(Some(self.index), "BATCH_RETRIED", message).await?;
            self.attempt.lease.rest(wait).await?;
            wait *= 2;
            tries += 1;
        }
    }
}

/// Tables that a cleanup or its undo needs for itself.
pub(crate) fn tables_of<'a>(schemas: impl IntoIterator<Item = &'a TableSchema>) -> Vec<String> {
    schemas
        .into_iter()
        .map(|schema| schema.name.to_string())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}
