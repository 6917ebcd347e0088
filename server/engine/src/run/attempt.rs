//! One process's hold on a run, from the claim to the state it leaves the run in.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    advise, cleanup, dump,
    gauge::Gauge,
    lease::{Lease, Stop},
    ledger::Ledger,
    load, measure, migrate,
    pace::Pace,
    undo, upkeep, verify,
};
use crate::{
    EngineError,
    engine::{Context, Engine},
    failpoint,
    model::{Direction, Plan, PlanId, Report, Run, RunKind, RunState},
    port::{ArchiveError, Claim, Grant, SourceMark, StoreError, Target, TargetError, TargetErrorClass},
};

/// How a run's work ended.
pub(super) struct Ending {
    pub(super) state: RunState,
    pub(super) reason: String,
    pub(super) mark: Option<SourceMark>,
}

/// Why a run's work ended early.
pub(super) enum Halt {
    /// At a boundary, because it had to.
    Stop(Stop),
    /// The target failed.
    Target(TargetError),
    /// The control store failed: nothing may be changed without it.
    Store(StoreError),
    /// The run cannot go on.
    Fail(String),
    /// A batch of files is open, and cannot be ended now, for this reason: a later attempt has to.
    Open(String),
}

impl Halt {
    /// Whether it ends the step or the run for good, so that no later attempt would settle what is open.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Fail(_) => true,
            Self::Target(error) => {
                !matches!(error.class, TargetErrorClass::Lost | TargetErrorClass::Fenced) && !error.is_retryable()
            }
            // Those come at boundaries, where no batch is open.
            Self::Stop(_) => false,
            Self::Store(_) | Self::Open(_) => false,
        }
    }
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<TargetError> for Halt {
    fn from(error: TargetError) -> Self {
        Self::Target(error)
    }
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ArchiveError> for Halt {
    fn from(error: ArchiveError) -> Self {
        Self::Fail(format!("backup folder: {error}"))
    }
}

/// What the supervisor needs to know of an attempt that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aftermath {
    /// Nothing to wait for.
    Settled,
    /// The target is out of reach; trying again at once would be no use.
    TargetLost,
}

/// What the work of a run has at hand.
pub(super) struct Attempt {
    pub(super) context: Arc<Context>,
    pub(super) run: Run,
    pub(super) plan: Plan,
    pub(super) claim: Claim,
    pub(super) target: Arc<dyn Target>,
    pub(super) lease: Lease,
    pub(super) ledger: Ledger,
    pub(super) pace: Pace,
}

impl Attempt {
    /// Ends with partial success where the time limit is over.
    pub(super) fn out_of_time(&self) -> bool {
        self.ledger.worked().as_secs() >= u64::from(self.run.options.max_execution_seconds)
    }

    /// Time until the limit.
    pub(super) fn time_left(&self) -> Duration {
        Duration::from_secs(u64::from(self.run.options.max_execution_seconds)).saturating_sub(self.ledger.worked())
    }

    /// What `check` says at a boundary, as a reason to halt.
    pub(super) fn boundary(&self) -> Result<(), Halt> {
        Ok(self.lease.check()?)
    }

    /// Halts an attempt whose lease is not trusted any more. A wish to stop is heard at the next boundary.
    pub(super) fn still_ours(&self) -> Result<(), Halt> {
        match self.lease.check() {
            Err(Stop::LeaseLost) => Err(Stop::LeaseLost.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// No claim grants a run without the approvals that it needs; this is the last door before rows go.
    pub(super) fn approved(&self) -> Result<(), Halt> {
        if self.run.approvals.len() < usize::try_from(self.run.approvals_required).unwrap_or(usize::MAX) {
            return Err(Halt::Fail("it was claimed without the approvals that it needs".to_owned()));
        }
        Ok(())
    }

    /// Takes the target for this attempt, and tells which sessions of older ones had to be ended for it.
    pub(super) async fn take_target(&mut self) -> Result<(), Halt> {
        for ended in self.target.oust(self.claim).await? {
            tracing::warn!(run = %self.run.id, ended, "session of an older attempt");
            self.ledger.warn(None, "SESSION_ENDED", ended).await?;
        }
        Ok(self.target.claim(self.claim).await?)
    }

    /// The run of a slot may have waited in line for hours: whether it may still begin is asked before its first work, and never again.
    async fn may_begin(&self) -> Result<(), Halt> {
        if self.run.report.scheduled.is_none() || self.run.report.duration_ms > 0 {
            return Ok(());
        }
        let engine = Engine::of(Arc::clone(&self.context));
        match engine.no_longer_begins(&self.run, &self.plan).await {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => {
                // Whoever goes on with it after a crash hears the same.
                self.context.store.request_cancel(self.run.id, &reason).await?;
                Err(Stop::Cancelled(reason).into())
            }
            Err(EngineError::Store(error)) => Err(Halt::Store(error)),
            Err(error) => Err(Halt::Fail(error.to_string())),
        }
    }

    async fn work(&mut self) -> Result<Ending, Halt> {
        self.may_begin().await?;
        match self.run.kind {
            RunKind::Cleanup => cleanup::work(self).await,
            RunKind::Undo => undo::work(self).await,
            RunKind::Verify if self.run.report.backup.is_some() => load::prove(self).await,
            RunKind::Verify => verify::work(self).await,
            RunKind::Backup => dump::work(self).await,
            RunKind::Restore => load::work(self).await,
            RunKind::Migrate => migrate::work(self, Direction::Up).await,
            RunKind::Rollback => migrate::work(self, Direction::Down).await,
            RunKind::Rehearse => migrate::rehearse(self).await,
            RunKind::Maintain => upkeep::work(self).await,
        }
    }
}

/// Carries out one attempt. Never panics on what databases do; whatever happens leaves the run in a state from which the next
/// attempt can go on.
pub(super) async fn carry_out(context: Arc<Context>, grant: Grant, granted: Instant, shutdown: CancellationToken) -> Aftermath {
    let Grant { run, fence } = grant;
    let (id, number) = (run.id, run.attempts);
    let settings = &context.settings;
    let store = Arc::clone(&context.store);
    let lease = Lease::keep(
        Arc::clone(&store),
        id,
        fence,
        settings.lease_term,
        granted,
        run.limits,
        shutdown,
        Arc::clone(&context.renew),
    );
    let mut ledger = Ledger::open(Arc::clone(&store), Arc::clone(&context.feeds), id, fence, run.report.clone());
    let Some(entry) = context.targets.get(&run.target) else {
        // Another server may know the target; this one never took the run if it could know that.
        let reason = format!("this server has no target {}", run.target);
        return settle(
            ledger.enter(RunState::Interrupted, reason, None).await,
            &run,
            Aftermath::TargetLost,
        );
    };
    let target = entry.paced(run.limits);
    let plan = if run.plan == PlanId::NONE {
        Ok(Some(Plan::none(&run.target, run.created_at)))
    } else {
        store.plan(run.plan).await
    };
    let plan = match plan {
        Ok(Some(plan)) => plan,
        Ok(None) => {
            return settle(
                ledger
                    .enter(RunState::Failed, format!("plan {} is gone", run.plan), None)
                    .await,
                &run,
                Aftermath::Settled,
            );
        }
        Err(error) => return settle(Err(error), &run, Aftermath::Settled),
    };
    tracing::info!(run = %id, attempt = number, kind = ?run.kind, target = run.target, "attempt begins");
    let span = tracing::info_span!("attempt", run = %id, attempt = number, kind = ?run.kind, target_name = run.target);
    let pace = Pace::of(&run, Gauge::start(Arc::clone(&target), id));
    let mut attempt = Attempt {
        pace,
        claim: Claim { run: id, fence },
        context: Arc::clone(&context),
        run,
        plan,
        target,
        lease,
        ledger,
    };
    failpoint!("attempt-begins");
    let mut result = attempt.work().instrument(span).await;
    if let Err(halt) = measure::after(&mut attempt, &result).await {
        // Only the store can be in the way; it takes the end no more than this.
        result = Err(halt);
    }
    let Attempt { run, mut ledger, .. } = attempt;
    let (state, reason, mark, aftermath) = match result {
        Ok(Ending { state, reason, mark }) => (state, reason, mark, Aftermath::Settled),
        Err(Halt::Stop(Stop::Cancelled(reason))) => (RunState::Cancelled, reason, None, Aftermath::Settled),
        Err(Halt::Stop(Stop::Paused(reason))) => (RunState::Paused, reason, None, Aftermath::Settled),
        Err(Halt::Stop(Stop::Shutdown)) => (
            RunState::Interrupted,
            "the server is shutting down".to_owned(),
            None,
            Aftermath::Settled,
        ),
        Err(Halt::Stop(Stop::LeaseLost)) => {
            tracing::warn!(run = %id, attempt = number, "lease lost; the attempt ends without a word in the store");
            return Aftermath::Settled;
        }
        // Outside a batch nothing was half done: a lock or a timeout passes like an outage.
        Err(Halt::Target(error)) if error.class == TargetErrorClass::Lost || error.is_retryable() => (
            RunState::Interrupted,
            format!("the target is out of reach: {error}"),
            None,
            Aftermath::TargetLost,
        ),
        // A newer attempt is at work on the target, so that this one has nothing to say any more.
        Err(Halt::Target(error)) if error.class == TargetErrorClass::Fenced => {
            tracing::warn!(run = %id, attempt = number, %error, "shut out by a newer attempt");
            return Aftermath::Settled;
        }
        Err(Halt::Target(error)) => (RunState::Failed, error.to_string(), None, Aftermath::Settled),
        Err(Halt::Fail(reason)) => (RunState::Failed, reason, None, Aftermath::Settled),
        Err(Halt::Open(why)) => (
            RunState::Interrupted,
            format!("a batch of files is open and cannot be ended now: {why}"),
            None,
            Aftermath::TargetLost,
        ),
        Err(Halt::Store(error)) => return settle(Err(error), &run, Aftermath::Settled),
    };
    tracing::info!(run = %id, attempt = number, state = state.name(), reason, "attempt ends");
    if state == RunState::Paused {
        failpoint!("run-pausing");
    }
    if state.is_final() {
        let mut report = ledger.report.clone();
        report.duration_ms = u64::try_from(ledger.worked().as_millis()).unwrap_or(u64::MAX);
        let standing = advise::standing(&context, &run, report, state, &reason).await;
        ledger.report.advice = Report::advice_with(ledger.report.advise(&run, state), standing);
    }
    let mut written = ledger.enter(state, reason, mark).await;
    if state == RunState::Paused {
        failpoint!("run-paused");
    }
    if state == RunState::Paused && matches!(written, Err(StoreError::Fenced)) {
        // Either this attempt does not hold the run any more, which the store says again; or somebody resumed or cancelled it just
        // before it paused, and the next attempt does as they want.
        let reason = "resumed or cancelled while it was pausing".to_owned();
        written = ledger.enter(RunState::Interrupted, reason, None).await;
        context.wake.notify_one();
    }
    settle(written, &run, aftermath)
}

/// A store that does not take the last word is no reason to lose it: the lease lapses, and the next attempt says it.
fn settle(written: Result<(), StoreError>, run: &Run, aftermath: Aftermath) -> Aftermath {
    if let Err(error) = written {
        tracing::warn!(run = %run.id, %error, "the attempt's end was not written; the run goes on when its lease lapses");
    }
    aftermath
}
