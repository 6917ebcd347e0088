//! From a slot to its run, and from the end of the run to what became of the slot.
//!
//! ```text
//! pending, claimed -> planned under limits -> run accepted + slot fired (one transaction) -> run ends -> settled + schedule's state
//!        |                  | refused: settled as refused, nothing was changed
//!        |                  | target or store out of reach: the claim lapses, tried again until it is too late
//!        ^-- a server that dies here: its claim lapses, another server plans again
//! ```

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use super::{
    super::{Engine, limits},
    Calendar,
};
use crate::{
    EngineError, failpoint,
    model::{
        Caller, MisfirePolicy, Pause, Plan, Run, RunState, Schedule, ScheduleState, ScheduledBy, SlotOutcome, SlotRecord,
        schedule::Work,
    },
    port::{EndedSlot, SlotClaim, SlotEnd, SlotFilter, SlotGrant, StoreError, TargetErrorClass},
    rule::Severity,
    schedule::{calendar, decide},
};

/// How often a settlement is tried again that another write of the same schedule outran.
const TRIES: u32 = 8;
/// When a slot is tried again whose target or store was out of reach.
const RETRY: Duration = Duration::from_secs(10);
/// A slot whose run cannot be begun for such a reason is given up after this time, where its schedule allows no longer one.
const PATIENCE_SECONDS: i64 = 60;
/// So long no slot is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(PATIENCE_SECONDS.unsigned_abs());
/// A slot that a person fired, and that came to nothing for so long, is not what the person waits for any more.
const BY_HAND_SECONDS: i64 = 300;
/// Most slots of a schedule that are looked through for the one of a run: it has few at a time whose runs have not ended.
const FIRED: u32 = 100;

/// What a slot is fired for.
pub(in crate::engine) struct Slot<'a> {
    pub(in crate::engine) schedule: &'a Schedule,
    pub(in crate::engine) claim: SlotClaim,
    /// Longest time at work, seconds.
    pub(in crate::engine) seconds: u32,
    /// The store's clock when it was begun.
    pub(in crate::engine) now: Timestamp,
    /// The person who fired it; empty where its time did.
    pub(in crate::engine) fired_by: &'a str,
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
            notify: self.schedule.spec.notify.clone(),
        }
    }
}

/// How a slot ends.
struct End<'a> {
    outcome: SlotOutcome,
    reason: &'a str,
    /// Whether somebody cancelled its run.
    cancelled: bool,
    /// Whether the call that fired it may be made again.
    call_again: bool,
}

impl<'a> End<'a> {
    fn of(outcome: SlotOutcome, reason: &'a str) -> Self {
        Self {
            outcome,
            reason,
            cancelled: false,
            call_again: false,
        }
    }
}

/// Whether the same slot may well fire a little later.
fn is_passing(error: &EngineError) -> bool {
    match error {
        EngineError::Store(StoreError::Corrupt(_)) => false,
        EngineError::Store(_) => true,
        EngineError::Target { source, .. } => matches!(
            source.class,
            TargetErrorClass::Lost | TargetErrorClass::LockTimeout | TargetErrorClass::Conflict | TargetErrorClass::Timeout
        ),
        // Servers of a store may be changed one after the other: another one may have what this one lacks.
        EngineError::UnknownTarget { .. } | EngineError::UnknownOperation { .. } | EngineError::CatalogMismatch { .. } => true,
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
fn after(schedule: &Schedule, outcome: SlotOutcome, cancelled: bool, record: &SlotRecord, now: Timestamp) -> ScheduleState {
    let mut state = schedule.state.clone();
    state.last_run = record.run.or(state.last_run);
    match outcome {
        // Whoever fired it by hand has the answer; it is no failure of the schedule's.
        SlotOutcome::Refused if record.manual => {}
        // It was stopped on purpose, which says nothing about its work.
        SlotOutcome::Warned if cancelled => {}
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

/// Why nothing of a schedule that its time fires may begin now.
fn held_back(schedule: &Schedule, now: Timestamp) -> Result<Option<String>, EngineError> {
    if !schedule.spec.enabled {
        return Ok(Some("the schedule was disabled before it began".to_owned()));
    }
    if let Some(pause) = &schedule.state.paused {
        return Ok(Some(format!("the schedule was paused before it began: {}", pause.note)));
    }
    let calendar = Calendar::of(&schedule.spec.timing).map_err(|problems| EngineError::InvalidFields { problems })?;
    let window = calendar::excluding(&calendar.exclusions, calendar.zone.to_datetime(now));
    Ok(window.map(|window| format!("it would begin in the excluded window {window}")))
}

/// Why a slot that was decided to fire does not any more: what was decided may lie a while back, after a kill -9, behind a run that it waited for,
/// or with the scheduler stopped.
fn too_late(schedule: &Schedule, record: &SlotRecord, now: Timestamp) -> Result<Option<(SlotOutcome, String)>, EngineError> {
    let spec = &schedule.spec;
    let waited = record.decided_at.duration_until(now).as_secs();
    if record.manual {
        let over = waited > BY_HAND_SECONDS;
        return Ok(over.then(|| (SlotOutcome::Missed, format!("no server began it within {BY_HAND_SECONDS} s"))));
    }
    if let Some(reason) = held_back(schedule, now)? {
        return Ok(Some((SlotOutcome::Skipped, reason)));
    }
    let allowed = match spec.misfire.policy {
        MisfirePolicy::RunOnce => i64::from(spec.misfire.catch_up_seconds).max(PATIENCE_SECONDS),
        MisfirePolicy::Skip => PATIENCE_SECONDS,
    };
    if waited > allowed {
        return Ok(Some((SlotOutcome::Missed, format!("no server began it within {allowed} s"))));
    }
    if decide::time_allowed(spec, record.slot, now).is_none() {
        let reason = "its deadline came before a run could begin".to_owned();
        return Ok(Some((SlotOutcome::Missed, reason)));
    }
    Ok(None)
}

impl Engine {
    /// Why the run of a slot does not begin any more, which was accepted and has waited in line since: what held then is looked at again.
    /// `None` also where its slot or its schedule is gone.
    ///
    /// # Errors
    /// `Store`, and `InvalidFields` where this version cannot read the timing of its schedule.
    pub(crate) async fn no_longer_begins(&self, run: &Run, plan: &Plan) -> Result<Option<String>, EngineError> {
        let (store, Some(slot)) = (&self.context.store, &run.report.scheduled) else {
            return Ok(None);
        };
        let Some(kept) = store.schedule(&slot.schedule.to_string()).await? else {
            return Ok(None);
        };
        let filter = SlotFilter {
            schedule: Some(slot.schedule),
            outcomes: vec![SlotOutcome::Fired],
        };
        let fired = store.slots(&filter, None, FIRED).await?;
        let Some(record) = fired.into_iter().find(|record| record.run == Some(run.id)) else {
            return Ok(None);
        };
        let now = store.pulse().await?.now;
        if !run.options.dry_run && plan.severity >= Severity::Critical {
            let consent = kept.schedule.state.approval.as_ref();
            if consent.is_none_or(|consent| now >= consent.expires_at) {
                return Ok(Some("the standing approval of its schedule ended before it began".to_owned()));
            }
        }
        if record.manual {
            return Ok(None);
        }
        held_back(&kept.schedule, now)
    }

    /// Settles a slot that nobody has claimed, where it is too late for it. Returns whether it is.
    ///
    /// # Errors
    /// `Store`, and `InvalidFields` where this version cannot read the timing of its schedule.
    pub(super) async fn give_up(&self, unclaimed: &EndedSlot, now: Timestamp) -> Result<bool, EngineError> {
        let schedule = &unclaimed.kept.schedule;
        let Some((outcome, mut reason)) = too_late(schedule, &unclaimed.record, now)? else {
            return Ok(false);
        };
        let target = &schedule.spec.target;
        if outcome == SlotOutcome::Missed && !self.targets().contains_key(target) {
            reason.push_str(&format!("; this server has no target {target}"));
        }
        let name = &schedule.spec.name;
        tracing::warn!(schedule = name, slot = %unclaimed.record.slot, outcome = outcome.name(), reason, "nobody begins a slot");
        self.settle(&unclaimed.record, None, outcome, false, &reason).await?;
        Ok(true)
    }

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
        if let Some((outcome, reason)) = too_late(schedule, &grant.record, now)? {
            self.settle(&grant.record, Some(grant.claim), outcome, false, &reason).await?;
            return Err(EngineError::SlotRefused { name, reason });
        }
        let longest = schedule.spec.options.max_execution_seconds;
        let allowed = decide::time_allowed(&schedule.spec, grant.record.slot, now).filter(|_| !manual);
        let seconds = allowed.unwrap_or(longest);
        let slot = Slot {
            schedule,
            claim: grant.claim,
            seconds,
            now,
            fired_by: &grant.record.fired_by,
        };
        let started = self.held(&slot).await;
        match started {
            Ok(run) => {
                failpoint!("slot-fired");
                tracing::info!(schedule = name, slot = %grant.record.slot, run = %run.id, "slot fired");
                Ok(run)
            }
            // Another server has gone on with it, or the schedule was changed meanwhile and is planned anew.
            Err(EngineError::SlotLost) => {
                self.context.store.hold_slot(grant.claim, Duration::ZERO).await?;
                Err(EngineError::SlotLost)
            }
            Err(error) if is_passing(&error) && !manual => {
                let patience = i64::from(schedule.spec.misfire.catch_up_seconds).max(PATIENCE_SECONDS);
                if grant.record.decided_at.duration_until(now).as_secs() < patience {
                    tracing::warn!(schedule = name, %error, "the run of a slot could not begin; it is tried again");
                    self.context.store.hold_slot(grant.claim, RETRY).await?;
                } else {
                    self.settle(
                        &grant.record,
                        Some(grant.claim),
                        SlotOutcome::Missed,
                        false,
                        &error.to_string(),
                    )
                    .await?;
                }
                Err(error)
            }
            Err(error) => {
                let reason = format!("{}: {error}", error.reason());
                // Whoever fired it by hand has the answer, and nothing of it is tried later. What may pass does not refuse the same call for good.
                let refused = End {
                    call_again: is_passing(&error),
                    ..End::of(SlotOutcome::Refused, &reason)
                };
                self.end(&grant.record, Some(grant.claim), refused).await?;
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
            Work::Maintenance(tasks) => self.start_scheduled_maintenance(slot, tasks).await,
        }
    }

    /// Settles a slot whose run has ended.
    ///
    /// # Errors
    /// `Store`.
    pub(super) async fn settle_ended(&self, ended: &EndedSlot) -> Result<(), EngineError> {
        let record = &ended.record;
        let Some(id) = record.run else { return Ok(()) };
        let Some(run) = self.context.store.run(id).await? else {
            let gone = "its run is gone from the store";
            return self.settle(record, None, SlotOutcome::Failed, false, gone).await;
        };
        if !run.state.is_final() {
            return Ok(());
        }
        let cancelled = run.state == RunState::Cancelled;
        let deadline = decide::deadline(&ended.kept.schedule.spec, record.slot).filter(|_| !record.manual);
        if decide::stopped_by(deadline, &run).is_some() {
            let reason = format!("over its deadline: {}", run.state_reason);
            return self.settle(record, None, SlotOutcome::Failed, false, &reason).await;
        }
        let (outcome, reason) = outcome_of(&run);
        self.settle(record, None, outcome, cancelled, &reason).await
    }

    /// Ends a slot, with what that means for its schedule.
    pub(super) async fn settle(
        &self,
        record: &SlotRecord,
        claim: Option<SlotClaim>,
        outcome: SlotOutcome,
        cancelled: bool,
        reason: &str,
    ) -> Result<(), EngineError> {
        let end = End {
            cancelled,
            ..End::of(outcome, reason)
        };
        self.end(record, claim, end).await
    }

    /// The same. A slot or a schedule that is gone, or that somebody else settled, is no error.
    async fn end(&self, record: &SlotRecord, claim: Option<SlotClaim>, end: End<'_>) -> Result<(), EngineError> {
        let End {
            outcome,
            reason,
            cancelled,
            call_again,
        } = end;
        let from = if claim.is_some() { SlotOutcome::Pending } else { record.kind };
        for _ in 0..TRIES {
            let Some(kept) = self.context.store.schedule(&record.schedule.to_string()).await? else {
                return Ok(());
            };
            let state = after(&kept.schedule, outcome, cancelled, record, Timestamp::now());
            let pauses = state.paused.is_some() && kept.schedule.state.paused.is_none();
            let settlement = SlotEnd {
                kept,
                slot: record.slot,
                from,
                fence: claim.map(|claim| claim.fence),
                to: outcome,
                reason: reason.to_owned(),
                state,
                call_again,
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
    /// The standing approval must cover a plan of severity CRITICAL; `digest` is that of what the schedule does now, and `makers` are those
    /// by whom the approver's token was made. Whoever fires it has not consented to it as well: that would be one person alone.
    ///
    /// # Errors
    /// `StandingApproval`.
    pub(in crate::engine) fn check_approval(
        &self,
        plan: &Plan,
        digest: &str,
        makers: &BTreeSet<String>,
    ) -> Result<(), EngineError> {
        let now = self.now;
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
        if !approval.covers(digest, now) {
            return Err(refuse(format!(
                "the one by {} was given for other work, or for other rules of its operations",
                approval.by
            )));
        }
        if !self.fired_by.is_empty() && (approval.by == self.fired_by || makers.contains(self.fired_by)) {
            let problem = if approval.by == self.fired_by {
                format!(
                    "the one that it has was given by {}, who has fired it: somebody else has to",
                    approval.by
                )
            } else {
                format!(
                    "the one that it has was given by {}, whose token {} has made and who has fired it: somebody else has to",
                    approval.by, self.fired_by
                )
            };
            return Err(refuse(problem));
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
