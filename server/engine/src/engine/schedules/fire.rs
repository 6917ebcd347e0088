//! From a slot to its run, and from the end of the run to what became of the slot.
//!
//! ```text
//! pending, claimed -> planned under limits -> run accepted + slot fired (one transaction) -> run ends -> settled + schedule's state
//!        |                  | refused: settled as refused, nothing was changed
//!        |                  | target or store out of reach: the claim lapses, tried again until it is too late
//!        ^-- a server that dies here: its claim lapses, another server plans again
//! ```

use std::time::Duration;

use jiff::Timestamp;

use super::super::{Engine, limits};
use crate::{
    EngineError, failpoint,
    model::{Caller, Pause, Run, RunState, Schedule, ScheduleState, ScheduledBy, SlotOutcome, SlotRecord, schedule::Work},
    port::{Changed, SlotClaim, SlotEnd, SlotGrant, TargetErrorClass},
    schedule::decide,
};

/// How often a settlement is tried again that another write of the same schedule outran.
const TRIES: u32 = 8;
/// When a slot is tried again whose target or store was out of reach.
const RETRY: Duration = Duration::from_secs(10);
/// A slot whose run cannot be begun for such a reason is given up after this time, where its schedule allows no longer one.
const PATIENCE_SECONDS: i64 = 60;

/// What a slot is fired for.
pub(in crate::engine) struct Slot<'a> {
    pub(in crate::engine) schedule: &'a Schedule,
    pub(in crate::engine) claim: SlotClaim,
    /// Longest time at work, seconds.
    pub(in crate::engine) seconds: u32,
}

impl Slot<'_> {
    /// The request id of its run: the same whoever fires it.
    pub(in crate::engine) fn request_id(&self) -> String {
        format!("slot-{}-{}", self.claim.schedule, self.claim.slot.as_millisecond())
    }

    /// Who starts its run.
    pub(in crate::engine) fn caller(&self) -> Caller {
        Caller {
            principal: format!("schedule {}", self.schedule.spec.name),
            peer: String::new(),
        }
    }

    pub(in crate::engine) fn scheduled(&self) -> ScheduledBy {
        ScheduledBy {
            schedule: self.schedule.id,
            name: self.schedule.spec.name.clone(),
            slot: self.claim.slot,
        }
    }
}

/// Whether the same slot may well fire a little later.
fn is_passing(error: &EngineError) -> bool {
    match error {
        EngineError::Store(_) => true,
        EngineError::Target { source, .. } => matches!(source.class, TargetErrorClass::Lost | TargetErrorClass::LockTimeout),
        _ => false,
    }
}

/// What the end of a run means for its slot.
fn outcome_of(run: &Run) -> (SlotOutcome, String) {
    let warnings = run.report.warnings.len();
    match run.state {
        RunState::Succeeded if warnings == 0 => (SlotOutcome::Succeeded, run.state_reason.clone()),
        RunState::Succeeded => (SlotOutcome::Warned, format!("{}; {warnings} warnings", run.state_reason)),
        RunState::PartiallySucceeded => (SlotOutcome::Warned, run.state_reason.clone()),
        RunState::Cancelled => (SlotOutcome::Warned, format!("cancelled: {}", run.state_reason)),
        _ => (SlotOutcome::Failed, run.state_reason.clone()),
    }
}

/// The schedule's state after a slot ended so.
fn after(schedule: &Schedule, outcome: SlotOutcome, record: &SlotRecord, now: Timestamp) -> ScheduleState {
    let mut state = schedule.state.clone();
    state.last_run = record.run.or(state.last_run);
    match outcome {
        SlotOutcome::Failed | SlotOutcome::Refused => state.consecutive_failures = state.consecutive_failures.saturating_add(1),
        SlotOutcome::Succeeded | SlotOutcome::Warned => state.consecutive_failures = 0,
        _ => {}
    }
    if state.paused.is_none() && decide::pauses_after(&schedule.spec, state.consecutive_failures) {
        state.paused = Some(Pause {
            by: format!("schedule {}", schedule.spec.name),
            at: now,
            note: format!("{} failures in a row", state.consecutive_failures),
            automatic: true,
        });
        state.next_slot = None;
        state.next_fire = None;
    }
    state
}

impl Engine {
    /// Begins the run of a claimed slot, or settles the slot with the reason why it has none.
    ///
    /// # Errors
    /// What kept the run from beginning. Where that may pass, the slot is tried again until it is too late for it.
    pub(super) async fn fire(&self, grant: SlotGrant) -> Result<Run, EngineError> {
        failpoint!("slot-claimed");
        let schedule = &grant.kept.schedule;
        let name = schedule.spec.name.clone();
        let now = self.context.store.pulse().await?.now;
        let manual = grant.record.manual;
        let allowed = if manual {
            Some(schedule.spec.options.max_execution_seconds)
        } else {
            decide::time_allowed(&schedule.spec, grant.record.slot, now)
        };
        let Some(seconds) = allowed else {
            let reason = "its deadline came before a run could begin".to_owned();
            self.settle(&grant.record, Some(grant.claim), SlotOutcome::Missed, &reason)
                .await?;
            return Err(EngineError::SlotRefused { name, reason });
        };
        let slot = Slot {
            schedule,
            claim: grant.claim,
            seconds,
        };
        let started = self.held(&slot).await;
        match started {
            Ok(run) => {
                failpoint!("slot-fired");
                tracing::info!(schedule = name, slot = %grant.record.slot, run = %run.id, "slot fired");
                Ok(run)
            }
            // Another server has gone on with it.
            Err(EngineError::SlotLost) => Err(EngineError::SlotLost),
            Err(error) if is_passing(&error) && !manual => {
                let patience = i64::from(schedule.spec.misfire.catch_up_seconds).max(PATIENCE_SECONDS);
                if grant.record.slot.duration_until(now).as_secs() < patience {
                    tracing::warn!(schedule = name, %error, "the run of a slot could not begin; it is tried again");
                    self.context.store.hold_slot(grant.claim, RETRY).await?;
                } else {
                    self.settle(&grant.record, Some(grant.claim), SlotOutcome::Missed, &error.to_string())
                        .await?;
                }
                Err(error)
            }
            Err(error) => {
                let reason = format!("{}: {error}", error.reason());
                self.settle(&grant.record, Some(grant.claim), SlotOutcome::Refused, &reason)
                    .await?;
                tracing::warn!(schedule = name, slot = %grant.record.slot, %error, "slot refused; nothing was changed");
                Err(error)
            }
        }
    }

    /// Plans and accepts the run while the claim is kept alive. Counting a large table takes longer than a term.
    async fn held(&self, slot: &Slot<'_>) -> Result<Run, EngineError> {
        let term = self.context.settings.lease_term;
        let work = self.start(slot);
        tokio::pin!(work);
        loop {
            tokio::select! {
                started = &mut work => return started,
                () = tokio::time::sleep(term / 3) => match self.context.store.hold_slot(slot.claim, term).await {
                    Ok(true) => {}
                    // Either another server has it, or the run was accepted just now and `work` is about to say so.
                    Ok(false) => return work.await,
                    Err(error) => tracing::warn!(%error, "the claim of a slot could not be prolonged"),
                },
            }
        }
    }

    async fn start(&self, slot: &Slot<'_>) -> Result<Run, EngineError> {
        match &slot.schedule.spec.work {
            Work::Operations(operations) => self.start_scheduled_cleanup(slot, operations).await,
            Work::Maintenance(_) => Err(EngineError::SlotRefused {
                name: slot.schedule.spec.name.clone(),
                reason: "this version cannot run maintenance".to_owned(),
            }),
        }
    }

    /// Settles a slot whose run has ended.
    ///
    /// # Errors
    /// `Store`.
    pub(super) async fn settle_ended(&self, record: &SlotRecord) -> Result<(), EngineError> {
        let Some(id) = record.run else { return Ok(()) };
        let (outcome, reason) = match self.context.store.run(id).await? {
            Some(run) if run.state.is_final() => outcome_of(&run),
            Some(_) => return Ok(()),
            None => (SlotOutcome::Failed, "its run is gone from the store".to_owned()),
        };
        self.settle(record, None, outcome, &reason).await
    }

    /// Ends a slot, with what that means for its schedule. A slot or a schedule that is gone, or that somebody else settled, is no error.
    pub(super) async fn settle(
        &self,
        record: &SlotRecord,
        claim: Option<SlotClaim>,
        outcome: SlotOutcome,
        reason: &str,
    ) -> Result<(), EngineError> {
        let from = if claim.is_some() { SlotOutcome::Pending } else { record.kind };
        for _ in 0..TRIES {
            let Some(kept) = self.context.store.schedule(&record.schedule.to_string()).await? else {
                return Ok(());
            };
            let state = after(&kept.schedule, outcome, record, Timestamp::now());
            let pauses = state.paused.is_some() && kept.schedule.state.paused.is_none();
            let settlement = SlotEnd {
                kept,
                slot: record.slot,
                from,
                fence: claim.map(|claim| claim.fence),
                to: outcome,
                reason: reason.to_owned(),
                state,
            };
            if self.context.store.settle_slot(&settlement).await? {
                failpoint!("slot-settled");
                let schedule = &settlement.kept.schedule.spec.name;
                tracing::info!(schedule, slot = %record.slot, outcome = outcome.name(), reason, "slot settled");
                if pauses {
                    tracing::warn!(schedule, "paused after failures in a row");
                }
                return Ok(());
            }
        }
        // The next tick finds it as it was.
        Ok(())
    }
}

impl Slot<'_> {
    /// The standing approval must cover a plan of severity CRITICAL.
    ///
    /// # Errors
    /// `StandingApproval`.
    pub(in crate::engine) fn check_approval(&self, plan: &crate::model::Plan, now: Timestamp) -> Result<(), EngineError> {
        let refuse = |problem: String| EngineError::StandingApproval {
            schedule: self.schedule.spec.name.clone(),
            operations: plan.operations.clone(),
            problem,
        };
        let Some(approval) = &self.schedule.state.approval else {
            return Err(refuse("there is none".to_owned()));
        };
        if now >= approval.expires_at {
            return Err(refuse(format!("the one by {} ended at {}", approval.by, approval.expires_at)));
        }
        if !approval.covers(&self.schedule.spec, now) {
            return Err(refuse(format!("the one by {} was given for other work", approval.by)));
        }
        let reach: u64 = plan.steps.iter().map(crate::model::PlanStep::reach).sum();
        if reach > approval.max_rows {
            return Err(refuse(format!(
                "the one by {} is for at most {} rows, and {reach} would go",
                approval.by, approval.max_rows
            )));
        }
        Ok(())
    }

    /// The limits that stand for confirmations: no finding of level BLOCK, whatever row limit is stated, and no table that loses more than
    /// the schedule allows.
    ///
    /// # Errors
    /// `PlanBlocked`.
    pub(in crate::engine) fn check_limits(&self, plan: &crate::model::Plan) -> Result<(), EngineError> {
        limits::accept_unattended(plan, self.schedule.spec.options.max_fraction)
    }
}

impl Changed {
    /// Whether nothing was in the way.
    #[must_use]
    pub fn is_done(self) -> bool {
        self == Self::Done
    }
}
