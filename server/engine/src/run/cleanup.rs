//! The work of a cleanup: step by step, each in passes over its table until nothing is left behind, batch by batch.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::{
    allowance,
    attempt::{Attempt, Ending, Halt},
    batch::{BatchOrder, run_batch},
    files, measure,
    supply::Supply,
    vacuum,
};
use crate::{
    failpoint,
    model::{
        Along, Capability, Effect, JournalEntry, RowAction, RunState, Selection, StepState, StepTotals, TableName, TableSchema,
    },
    planner,
    port::{Scan, Target, TargetError, TargetErrorClass, Window},
    rule::deeds::amounts,
};

/// Passes in which listed rows slipped away after which a step gives up.
const MAX_SLIPPING_PASSES: u32 = 8;
/// Tries of one batch before its step fails.
const MAX_TRIES: u32 = 8;
/// First wait before a batch is tried again; doubled each time.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// A scan is reopened after this time, because its snapshot keeps VACUUM from removing dead rows.
const SCAN_LIFETIME: Duration = Duration::from_secs(180);
/// A scan is closed where the run is held for longer than this, for the same reason.
const HELD_SCAN_LIFETIME: Duration = Duration::from_secs(5);
/// Windows that are listed beside a batch at full speed.
const WINDOWS_AHEAD: u32 = 2;
/// Tries after which a batch that waits for locks is made smaller: the first may have met a passing lock.
const LOCK_TRIES: u32 = 2;

/// How a step ended, where it ended in order.
pub(super) enum StepEnd {
    Done,
    /// With rows left over, for this reason.
    Partial(String),
    /// The run's time is over.
    OutOfTime,
}

pub(super) async fn work(attempt: &mut Attempt) -> Result<Ending, Halt> {
    match steps(attempt).await {
        Err(halt) if halt.is_final() => {
            files::give_up(attempt).await?;
            Err(halt)
        }
        ended => ended,
    }
}

async fn steps(attempt: &mut Attempt) -> Result<Ending, Halt> {
    attempt.approved()?;
    attempt.take_target().await?;
    let totals = attempt.target.totals(attempt.run.id).await?;
    check_journal(attempt, &totals)?;
    for step in &totals {
        attempt.ledger.take_totals(step);
    }
    let roots = attempt
        .context
        .targets
        .get(&attempt.run.target)
        .map(|entry| Arc::clone(&entry.roots));
    let selections = planner::selections(attempt.target.as_ref(), &roots.unwrap_or_default(), &attempt.plan)
        .await
        .map_err(|error| match error {
            planner::PlanError::Target(error) => Halt::Target(error),
            planner::PlanError::Files(error) => Halt::Fail(error.to_string()),
            planner::PlanError::Mismatch { expected, .. } => {
                Halt::Fail(format!("the schema changed since the plan was made: {expected}"))
            }
        })?;
    if selections.fingerprint != attempt.plan.fingerprint {
        return Err(Halt::Fail("the schema changed since the plan was made".to_owned()));
    }
    let touched = selections.steps.iter().filter(|step| step.files.is_none());
    let touched: BTreeSet<TableName> = touched.flat_map(planner::Step::held).cloned().collect();
    measure::before(attempt, Some(touched)).await?;
    remove_unjournaled_chunks(attempt).await?;
    for (index, step) in selections.steps.iter().enumerate() {
        if let Some(selection) = &step.files
            && !is_over(attempt, index)
        {
            files::settle(attempt, index, &selection.root, Some(selection)).await?;
        }
    }
    failpoint!("run-claimed");

    let mut out_of_time = false;
    for (index, step) in selections.steps.iter().enumerate() {
        if is_over(attempt, index) {
            continue;
        }
        attempt.boundary()?;
        if attempt.run.options.stop_on_failure
            && let Some(why) = attempt.ledger.report.stopped_by_failure(index)
        {
            attempt.ledger.skip_step(index, why).await?;
            continue;
        }
        attempt.ledger.begin_step(index).await?;
        let done = totals
            .iter()
            .find(|totals| usize::try_from(totals.step) == Ok(index))
            .cloned()
            .unwrap_or_default();
        let result = match &step.files {
            Some(selection) => files::clean_step(attempt, index, selection).await,
            None => {
                let still = step.still();
                let rests = rests_within(attempt.target.as_ref(), step, still.is_empty());
                attempt.pace.set_rests_within(rests);
                let work = StepWork {
                    attempt,
                    index,
                    selection: &step.selection,
                    effect: &step.effect,
                    still: &still,
                    totals: done,
                    reopened: false,
                };
                work.run().await
            }
        };
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
            Err(Halt::Target(error)) if is_of_the_step(&error) => (StepState::Failed, error.to_string()),
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
        let touched = selections.steps.iter().filter(|step| step.files.is_none());
        let touched: Vec<_> = touched
            .flat_map(planner::Step::tables)
            .map(|table| table.name.clone())
            .collect();
        vacuum::after(attempt, touched).await?;
    }
    Ok(verdict(attempt, out_of_time))
}

/// Whether a failure concerns the step alone: the tables of others may be fine. Each of their batches looks for itself.
fn is_of_the_step(error: &TargetError) -> bool {
    match error.class {
        TargetErrorClass::Constraint
        | TargetErrorClass::Refused
        | TargetErrorClass::Permission
        | TargetErrorClass::SchemaChanged
        | TargetErrorClass::Unsupported
        | TargetErrorClass::OverBudget
        | TargetErrorClass::Sink => true,
        // Without its connection or its right to the run nothing can go on.
        TargetErrorClass::Lost
        | TargetErrorClass::Fenced
        | TargetErrorClass::LockTimeout
        | TargetErrorClass::Conflict
        | TargetErrorClass::Timeout => false,
    }
}

/// Whether an earlier attempt has ended a step.
pub(super) fn is_over(attempt: &Attempt, index: usize) -> bool {
    matches!(
        attempt.ledger.report.steps[index].state,
        StepState::Succeeded | StepState::Partial | StepState::Failed | StepState::Skipped
    )
}

/// What was done, in words.
fn done(attempt: &Attempt) -> String {
    let reports = attempt.ledger.report.steps.iter();
    let steps = attempt.plan.steps.iter().zip(reports);
    amounts(steps.map(|(planned, step)| (&planned.rule, step.rows_affected)), "")
}

fn verdict(attempt: &Attempt, out_of_time: bool) -> Ending {
    let steps = &attempt.ledger.report.steps;
    let done = done(attempt);
    let (state, reason) = if steps.iter().all(|step| step.state == StepState::Succeeded) {
        (RunState::Succeeded, done)
    } else if attempt.ledger.report.nothing_succeeded() {
        (
            RunState::Failed,
            format!(
                "no step succeeded; the first failure: {}",
                steps
                    .iter()
                    .find(|step| step.state == StepState::Failed)
                    .map_or("", |step| step.message.as_str())
            ),
        )
    } else if out_of_time {
        (
            RunState::PartiallySucceeded,
            format!(
                "stopped at the time limit of {} s; {done}",
                attempt.run.options.max_execution_seconds
            ),
        )
    } else {
        let first = steps.iter().find(|step| step.state != StepState::Succeeded);
        let why = first.map_or(String::new(), |step| format!("{}: {}", step.rule, step.message));
        (RunState::PartiallySucceeded, format!("{done}; {why}"))
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
        // Of files the manifest tells.
        if files::is_files(attempt, index) {
            continue;
        }
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

/// Most rows that a step may take.
pub(super) fn allowance(attempt: &Attempt, index: usize) -> u64 {
    let done = &attempt.ledger.report.steps;
    allowance::of_step(
        &attempt.plan,
        index,
        done,
        attempt.context.settings.drift,
        &attempt.run.options,
    )
}

/// A scan that runs ahead of the batches, on its own task and connection. It lists a window only when it is let to, so that a run
/// that shares the database with others keeps one process of it busy at a time, and not two.
struct Ahead {
    windows: mpsc::Receiver<Result<Window, TargetError>>,
    /// Leave to list a window; `let_go` of them were given, and `received` windows came.
    leave: Arc<Semaphore>,
    let_go: u32,
    received: u32,
    /// When the first window came: what went before is the price of the scan, not its age.
    first_window: Option<Instant>,
    task: AbortOnDropHandle<()>,
}

impl Ahead {
    async fn open(target: &dyn Target, selection: &Selection, cursor: Option<&str>, limit: u32) -> Result<Self, TargetError> {
        let mut scan: Box<dyn Scan> = target.scan(selection, cursor, limit).await?;
        let (sender, windows) = mpsc::channel(1);
        let leave = Arc::new(Semaphore::new(0));
        let waiting = Arc::clone(&leave);
        let task = tokio::spawn(async move {
            while let Ok(leave) = waiting.acquire().await {
                leave.forget();
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
            leave,
            let_go: 0,
            received: 0,
            first_window: None,
            task: AbortOnDropHandle::new(task),
        })
    }

    /// Lets it be so many windows ahead of what was received.
    fn run_ahead(&mut self, windows: u32) {
        while self.let_go.wrapping_sub(self.received) < windows {
            self.let_go = self.let_go.wrapping_add(1);
            self.leave.add_permits(1);
        }
    }

    /// The next window; `None` at the end. May be dropped while it waits.
    async fn next(&mut self) -> Option<Result<Window, TargetError>> {
        self.run_ahead(1);
        let window = self.windows.recv().await;
        self.received = self.received.wrapping_add(1);
        self.first_window.get_or_insert_with(Instant::now);
        window
    }

    /// Ends the scan. What it had listed ahead is listed again by the next one.
    fn close(&mut self) {
        self.task.abort();
        self.windows.close();
    }
}

/// One step in work.
struct StepWork<'a> {
    attempt: &'a mut Attempt,
    index: usize,
    selection: &'a Selection,
    effect: &'a Effect,
    /// Tables that nobody else may write to during a batch.
    still: &'a [&'a TableSchema],
    /// What earlier attempts and the batches so far have done.
    totals: StepTotals,
    /// Whether the scan of this pass was opened again on the way, which may pass over rows.
    reopened: bool,
}

impl StepWork<'_> {
    async fn run(mut self) -> Result<StepEnd, Halt> {
        if let RowAction::Archive { into, stamp_column } = &self.effect.action {
            let target = Arc::clone(&self.attempt.target);
            target.create_archive(&self.selection.table, into, stamp_column).await?;
        }
        let mut cursor = (!self.totals.cursor.is_empty()).then(|| self.totals.cursor.clone());
        self.totals.pass = self.totals.pass.max(1);
        let mut slipping = 0;
        loop {
            let from_start = cursor.is_none();
            if from_start {
                self.totals.cursor.clear();
            }
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

    /// Opens a scan, which takes long where all rows are looked at before the first is listed; `None` where the run's time ran out.
    async fn open(&self, cursor: Option<&str>, limit: u32) -> Result<Option<Ahead>, Halt> {
        tokio::select! {
            biased;
            ahead = Ahead::open(self.attempt.target.as_ref(), self.selection, cursor, limit) => Ok(Some(ahead?)),
            stop = self.attempt.lease.stopped() => Err(stop.into()),
            () = tokio::time::sleep(self.attempt.time_left()) => Ok(None),
        }
    }

    /// One pass over the table; `None` where it reached the end.
    async fn pass(&mut self, cursor: Option<String>) -> Result<Option<StepEnd>, Halt> {
        self.attempt.rest(None).await?;
        let target = Arc::clone(&self.attempt.target);
        let mut supply = Supply::after(cursor.as_deref().unwrap_or_default());
        let mut limit = self.attempt.pace.window_rows();
        let Some(mut ahead) = self.open(supply.listed_to(), limit).await? else {
            return Ok(Some(StepEnd::OutOfTime));
        };
        let mut ended = false;
        // Where windows come full there are more rows to be had at once; others took the scan its time.
        let mut plenty = true;
        loop {
            self.attempt.look_around().await?;
            let wanted = usize::try_from(self.attempt.pace.rows()).unwrap_or(usize::MAX);
            while !ended && (supply.len() == 0 || (plenty && supply.len() < wanted)) {
                let window = tokio::select! {
                    stop = self.attempt.lease.stopped() => return Err(stop.into()),
                    () = tokio::time::sleep(self.attempt.time_left()) => return Ok(Some(StepEnd::OutOfTime)),
                    window = ahead.next() => window,
                };
                let Some(window) = window.transpose()? else {
                    ended = true;
                    break;
                };
                if self.attempt.out_of_time() {
                    return Ok(Some(StepEnd::OutOfTime));
                }
                plenty = window.keys.len() == usize::try_from(limit).unwrap_or(usize::MAX);
                let (fraction, empty) = (window.fraction, window.keys.is_empty());
                supply.add(window);
                if empty {
                    self.attempt.ledger.report.steps[self.index].rows_examined = self.totals.examined + supply.examined();
                    self.attempt
                        .ledger
                        .progress(self.index, fraction, Duration::ZERO, None)
                        .await?;
                }
            }
            if supply.len() == 0 {
                self.looked_at(1.0);
                return Ok(None);
            }
            let window = supply.take(self.attempt.pace.rows());
            if let Some(end) = self.over_the_plan(&window).await? {
                return Ok(Some(end));
            }
            if self.attempt.pace.is_full_speed() {
                ahead.run_ahead(WINDOWS_AHEAD);
            }
            let Some((entry, window, took)) = self.batch(&target, &mut supply, window).await? else {
                return Ok(Some(StepEnd::OutOfTime));
            };
            self.attempt.pace.after_batch(entry.affected, took);
            // The next rows are listed while the run rests.
            ahead.run_ahead(1);
            self.note(&entry, took, &window).await?;
            let mut old = ahead.first_window.is_some_and(|first| first.elapsed() > SCAN_LIFETIME);
            if !self.attempt.rest(Some(HELD_SCAN_LIFETIME)).await? {
                ahead.close();
                self.attempt.rest(None).await?;
                old = true;
            }
            if old && !ended {
                limit = self.attempt.pace.window_rows();
                // A listing without positions begins anew, and lists again what waits here.
                if supply.listed_to().is_none_or(str::is_empty) {
                    supply = Supply::after("");
                }
                let Some(anew) = self.open(supply.listed_to(), limit).await? else {
                    return Ok(Some(StepEnd::OutOfTime));
                };
                ahead = anew;
                self.reopened = true;
            }
        }
    }

    /// Notes how much of the table is behind. Where the database does not tell how many rows it looked at, they are the table's by the plan.
    fn looked_at(&mut self, fraction: f64) {
        let rows = self.attempt.plan.steps[self.index].table_row_count;
        self.totals.examined = self.totals.examined.max(part(rows, fraction));
        self.attempt.ledger.report.steps[self.index].rows_examined = self.totals.examined;
    }

    /// Whether rows of the table go along with others of it.
    fn hangs_on_itself(&self) -> bool {
        self.effect.acting().any(|link| link.child.name == self.selection.table.name)
    }

    /// The end of a step that would take more than its plan counted.
    async fn over_the_plan(&mut self, window: &Window) -> Result<Option<StepEnd>, Halt> {
        let allowance = allowance(self.attempt, self.index);
        let listed = window.keys.len() as u64;
        if self.totals.affected + listed <= allowance {
            return Ok(None);
        }
        let message = format!(
            "stopped before the plan was exceeded: {}, {listed} more listed, at most {allowance} allowed; make a new plan",
            amounts([(&self.attempt.plan.steps[self.index].rule, self.totals.affected)], "")
        );
        self.attempt
            .ledger
            .warn(Some(self.index), "COUNT_DRIFTED", message.clone())
            .await?;
        Ok(Some(StepEnd::Partial(message)))
    }

    async fn note(&mut self, entry: &JournalEntry, took: Duration, window: &Window) -> Result<(), Halt> {
        let totals = &mut self.totals;
        totals.batches = entry.batch;
        totals.examined += entry.examined;
        totals.matched += entry.matched;
        totals.affected += entry.affected;
        Along::add(&mut totals.along, &entry.along);
        if let Some(chunk) = &entry.chunk {
            totals.captured += chunk.rows;
            totals.captured_bytes += chunk.bytes;
        }
        totals.step = entry.step;
        totals.cursor.clone_from(&entry.cursor);
        self.looked_at(window.fraction);
        self.attempt.ledger.take_totals(&self.totals);
        let throttle = self.attempt.pace.shown();
        Ok(self
            .attempt
            .ledger
            .progress(self.index, window.fraction, took, throttle)
            .await?)
    }

    /// One batch, tried again while that can help, and with fewer rows where time limits are in the way. Returns what was
    /// recorded, the rows that were meant, and the time of the try that succeeded; `None` where the run's time ran out.
    async fn batch(
        &mut self,
        target: &Arc<dyn Target>,
        supply: &mut Supply,
        mut window: Window,
    ) -> Result<Option<(JournalEntry, Window, Duration)>, Halt> {
        let mut wait = FIRST_RETRY;
        let mut tries = 1;
        let mut lock_timeouts = 0;
        loop {
            self.attempt.boundary()?;
            if self.attempt.out_of_time() {
                return Ok(None);
            }
            let order = BatchOrder {
                claim: self.attempt.claim,
                step: u32::try_from(self.index).unwrap_or(u32::MAX),
                batch: self.totals.batches + 1,
                pass: self.totals.pass,
                selection: self.selection,
                effect: self.effect,
                still: self.still,
                budget: self.attempt.pace.rows(),
                allowance: allowance::of_batch(
                    &self.attempt.plan,
                    self.index,
                    &self.attempt.ledger.report.steps,
                    (self.attempt.context.settings.drift, &self.attempt.run.options),
                    self.hangs_on_itself(),
                ),
                window: &window,
                examined: window.examined,
                capture: self.attempt.run.options.capture || self.attempt.plan.steps[self.index].captured,
            };
            let turn = tokio::select! {
                stop = self.attempt.lease.stopped() => return Err(stop.into()),
                turn = self.attempt.pace.turn() => turn,
            };
            let began = Instant::now();
            let span = tracing::info_span!("batch", step = order.step, batch = order.batch, rows = window.keys.len());
            let result = run_batch(target.as_ref(), &self.attempt.context.archive, &order)
                .instrument(span)
                .await;
            let took = began.elapsed();
            drop(turn);
            let (batch, rows) = (order.batch, window.keys.len());
            let error = match result {
                Ok(entry) => return Ok(Some((entry, window, took))),
                Err(error) => error,
            };
            if error.class == TargetErrorClass::OverBudget && rows > 1 {
                // More rows hang on these than one transaction should take.
                let half = u32::try_from(rows / 2).unwrap_or(u32::MAX);
                window = supply.take_less(window, half);
                continue;
            }
            if !error.is_retryable() {
                return Err(error.into());
            }
            if tries == MAX_TRIES {
                let message = format!("batch {batch} was tried {MAX_TRIES} times; the last time: {error}");
                return Err(TargetError {
                    class: TargetErrorClass::Refused,
                    message,
                    ..error
                }
                .into());
            }
            lock_timeouts += u32::from(error.class == TargetErrorClass::LockTimeout);
            let too_large = error.class == TargetErrorClass::Timeout || lock_timeouts >= LOCK_TRIES;
            if too_large && rows > 1 {
                self.attempt.pace.timed_out(rows);
                window = supply.take_less(window, self.attempt.pace.rows());
            }
            let message = format!(
                "batch {batch} of {rows} rows is tried again in {} ms with {}: {error}",
                wait.as_millis(),
                window.keys.len()
            );
            self.attempt.ledger.warn(Some(self.index), "BATCH_RETRIED", message).await?;
            self.attempt.look_around().await?;
            self.attempt.lease.rest(wait).await?;
            wait *= 2;
            tries += 1;
        }
    }
}

/// Whether the batches of a step rest within themselves where their run shares the database. Nobody may wait for their end, as where there
/// is one writer at a time or other tables are locked; and their rows have to be judged one by one.
fn rests_within(target: &dyn Target, step: &planner::Step, locks_nobody_out: bool) -> bool {
    let conditions = &step.selection.matches;
    let judges_itself = || {
        let parents = conditions.parents();
        parents.iter().any(|parent| parent.name == step.selection.table.name)
    };
    target.capabilities().contains(&Capability::ConcurrentWriters)
        && locks_nobody_out
        && step.effect.is_plain_delete()
        && !conditions.is_about_sets()
        && !judges_itself()
}

/// A part of so many rows.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count is a count"
)]
fn part(rows: u64, fraction: f64) -> u64 {
    (super::as_f64(rows) * fraction.clamp(0.0, 1.0)).round() as u64
}

/// Tables that a cleanup or its undo needs for itself, each once.
pub(crate) fn tables_of<'a>(names: impl IntoIterator<Item = &'a TableName>) -> Vec<String> {
    let names: BTreeSet<String> = names.into_iter().map(ToString::to_string).collect();
    names.into_iter().collect()
}
