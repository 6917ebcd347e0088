//! The loop that decides slots, fires them and settles them. Every server runs one on the same store; what only one of them may do is
//! settled by the store, row by row (see [`crate::port::Schedules`]). One look a second at most, however many schedules there are.

use std::{collections::HashMap, time::Duration};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{Calendar, Engine, fire::PATIENCE};
use crate::{
    EngineError, failpoint,
    model::{Overlap, Pause, Schedule, ServerInfo, SlotOutcome, SlotRecord},
    port::{Kept, Pulse, SlotClaim, SlotPlace},
    schedule::{
        ClockReading, ClockWatch, Decision, PreviousRun,
        decide::{DEADLINE_CAME, decide as decide_slots},
    },
};

/// Longest time between two looks: schedules that other servers created, and runs that ended there, are found by then.
const LOOK: Duration = Duration::from_secs(1);
/// Wait after a look that failed.
const TROUBLE: Duration = Duration::from_secs(2);
/// How often slots are looked for that no server begins.
const PATIENCE_LOOK: Duration = Duration::from_secs(5);
/// Most schedules and slots that are dealt with between two looks.
const AT_ONCE: u32 = 200;
/// Most slots that this server plans at a time.
const FIRING: usize = 4;
/// Most of them on one target: one that does not answer, or counts for hours, leaves places to the others.
const FIRING_ON_ONE: usize = 2;

/// Decides slots until it is told to stop.
pub struct Scheduler {
    engine: Engine,
    server: ServerInfo,
}

/// Longest time to give claims back when the server stops.
const LEAVING: Duration = Duration::from_secs(5);

/// The slots that this server plans at the moment.
#[derive(Default)]
struct Firing {
    tasks: JoinSet<()>,
    /// What each of them holds.
    held: HashMap<Id, (String, SlotClaim)>,
}

impl Firing {
    /// Targets of which another slot may be planned.
    fn open<'a>(&self, targets: impl Iterator<Item = &'a String>) -> Vec<String> {
        let on = |target: &String| self.held.values().filter(|(held, _)| held == target).count();
        targets.filter(|target| on(target) < FIRING_ON_ONE).cloned().collect()
    }

    fn is_full(&self) -> bool {
        self.tasks.len() >= FIRING
    }

    /// Waits for the end of one; `None` at once where there is none.
    async fn ended(&mut self) -> Option<Result<(), JoinError>> {
        let ended = self.tasks.join_next_with_id().await?;
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        self.held.remove(&id);
        Some(ended.map(drop))
    }

    /// Stops all of them; returns the claims that they held.
    async fn stop(mut self) -> Vec<SlotClaim> {
        self.tasks.shutdown().await;
        self.held.into_values().map(|(_, claim)| claim).collect()
    }
}

impl Scheduler {
    pub(super) fn new(engine: Engine, server: ServerInfo) -> Self {
        Self { engine, server }
    }

    /// Works until `shutdown`; slots whose runs are being planned are left to other servers then, at once, or to the next start.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut firing = Firing::default();
        let mut clocks = ClockWatch::default();
        let mut beaten: Option<Instant> = None;
        let mut given_up: Option<Instant> = None;
        let term = self.engine.context.settings.lease_term;
        while !shutdown.is_cancelled() {
            if beaten.is_none_or(|at| at.elapsed() >= term / 3) {
                beaten = Some(Instant::now());
                if let Err(error) = self.engine.context.store.beat(&self.server, Timestamp::now()).await {
                    tracing::warn!(%error, "this server could not give a sign of life");
                }
            }
            if given_up.is_none_or(|at| at.elapsed() >= PATIENCE_LOOK) {
                given_up = Some(Instant::now());
                if let Err(error) = self.engine.give_up_slots().await {
                    tracing::warn!(%error, "slots that no server begins could not be looked at");
                }
            }
            let wait = match self.look(&mut firing, &mut clocks).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(%error, "schedules could not be looked at");
                    TROUBLE
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.engine.context.schedules.notified() => {}
                () = sleep(wait) => {}
                Some(ended) = firing.ended() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the start of a slot panicked; it is tried again when its claim lapses");
                    }
                }
            }
        }
        self.leave(firing.stop().await).await;
    }

    /// Gives claims back and says goodbye, all at once: a store that answers none of it soon keeps nobody from ending.
    async fn leave(&self, claims: Vec<SlotClaim>) {
        let store = &self.engine.context.store;
        let giving_back = join_all(claims.into_iter().map(|claim| async move {
            // A slot whose run was accepted meanwhile is under no claim any more, and stays as it is.
            if let Err(error) = store.hold_slot(claim, Duration::ZERO).await {
                tracing::warn!(slot = %claim.slot, %error, "the claim of a slot lapses by itself; another server fires it then");
            }
        }));
        let farewell = async {
            if let Err(error) = store.farewell(&self.server.id).await {
                tracing::warn!(%error, "this server could not be taken off the list");
            }
        };
        let leaving = async { tokio::join!(giving_back, farewell) };
        if tokio::time::timeout(LEAVING, leaving).await.is_err() {
            tracing::warn!("the store does not answer; claims of slots lapse by themselves, and other servers fire them then");
        }
    }

    /// One look: settles, decides, and starts what is to fire. Returns how long nothing more will be due.
    async fn look(&self, firing: &mut Firing, clocks: &mut ClockWatch) -> Result<Duration, EngineError> {
        let clock = || (Timestamp::now(), std::time::Instant::now());
        let before = clock();
        let pulse = self.engine.context.store.pulse().await?;
        let reading = ClockReading {
            before,
            after: clock(),
            store: pulse.now,
        };
        for alarm in clocks.look(reading) {
            tracing::warn!(server = self.server.id, "{alarm}");
        }
        let (pulse, progressed) = self.engine.tick_at(pulse).await?;
        let settings = &self.engine.context.settings;
        let mut more = pulse.pending > 0;
        while more && !firing.is_full() {
            let targets = firing.open(self.engine.targets().keys());
            match self
                .engine
                .context
                .store
                .claim_slot(&settings.holder, settings.lease_term, &targets, !pulse.running)
                .await?
            {
                Some(grant) => {
                    let engine = self.engine.clone();
                    let held = (grant.kept.schedule.spec.target.clone(), grant.claim);
                    // What became of it is in the slot and in the log.
                    let task = firing.tasks.spawn(async move { drop(engine.fire(grant).await) });
                    firing.held.insert(task.id(), held);
                }
                None => more = false,
            }
        }
        if !progressed && pulse.next_fire.is_some_and(|next| next <= pulse.now) {
            // What is due cannot be decided here: another look at once would find the same.
            return Ok(LOOK);
        }
        let next = pulse.next_fire.filter(|_| pulse.running).map_or(LOOK, |next| {
            Duration::try_from(pulse.now.duration_until(next).max(SignedDuration::ZERO)).unwrap_or(LOOK)
        });
        Ok(next.min(LOOK))
    }
}

/// Says in the log which slots did not fire.
pub(super) fn note_passed(schedule: &str, records: &[SlotRecord]) {
    for record in records {
        if matches!(record.kind, SlotOutcome::Skipped | SlotOutcome::Missed) {
            let outcome = record.kind.name();
            tracing::warn!(schedule, slot = %record.slot, outcome, slots = record.missed, reason = record.reason, "slot passed");
        }
    }
}

impl Engine {
    /// Settles slots whose runs have ended, and decides those that are due by the store's clock. Returns a look taken after that, and whether
    /// anything was settled or decided.
    ///
    /// # Errors
    /// `Store`.
    pub async fn tick(&self) -> Result<(Pulse, bool), EngineError> {
        let pulse = self.context.store.pulse().await?;
        self.tick_at(pulse).await
    }

    /// The same at another instant than the store's clock shows: for tests of clocks that jump.
    ///
    /// # Errors
    /// `Store`.
    pub async fn tick_at(&self, pulse: Pulse) -> Result<(Pulse, bool), EngineError> {
        let store = &self.context.store;
        let mut changed = false;
        if pulse.fired > 0 {
            changed |= self.settle_all_ended().await?;
            self.hurry(pulse.now).await?;
        }
        if pulse.waiting > 0 {
            self.cancel_others().await?;
            changed |= store.release_waiting().await? > 0;
        }
        if pulse.running && pulse.next_fire.is_some_and(|next| next <= pulse.now) {
            for kept in store.due_schedules(pulse.now, AT_ONCE).await? {
                let name = kept.schedule.spec.name.clone();
                match self.decide(&kept, pulse.now).await {
                    Ok(()) => changed = true,
                    // One that cannot be decided does not keep the others from it.
                    Err(error) => {
                        tracing::warn!(schedule = name, %error, "the slots of a schedule could not be decided");
                        changed |= self.put_aside(&kept, &error, pulse.now).await?;
                    }
                }
            }
        }
        if changed {
            let now = store.pulse().await?;
            let pulse = Pulse {
                now: pulse.now.max(now.now),
                ..now
            };
            return Ok((pulse, true));
        }
        Ok((pulse, false))
    }

    /// Settles slots whose runs have ended. Returns whether there were some.
    ///
    /// # Errors
    /// `Store`.
    pub(super) async fn settle_all_ended(&self) -> Result<bool, EngineError> {
        let mut changed = false;
        for ended in self.context.store.ended_slots(AT_ONCE).await? {
            match self.settle_ended(&ended).await {
                Ok(()) => changed = true,
                // One that cannot be settled does not keep the others from it.
                Err(error) => tracing::warn!(slot = %ended.record.slot, %error, "a slot could not be settled"),
            }
        }
        Ok(changed)
    }

    /// Settles slots that were decided to fire and that no server has begun in time: a server begins only what it has the target of, so that one of
    /// a target which none has is nobody's otherwise. Returns how many were settled.
    ///
    /// # Errors
    /// `Store`.
    pub async fn give_up_slots(&self) -> Result<u64, EngineError> {
        let store = &self.context.store;
        let pulse = store.pulse().await?;
        let (mut settled, mut behind) = (0, None);
        if pulse.pending == 0 {
            return Ok(settled);
        }
        loop {
            let page = store.unclaimed_slots(PATIENCE, behind, AT_ONCE).await?;
            for unclaimed in &page {
                let record = &unclaimed.record;
                behind = Some(SlotPlace {
                    slot: record.slot,
                    schedule: record.schedule,
                });
                // While schedules are stopped a slot waits for the start; what a person fired does not.
                if pulse.running || record.manual {
                    match self.give_up(unclaimed, pulse.now).await {
                        Ok(over) => settled += u64::from(over),
                        // One that cannot be settled does not keep the others from it.
                        Err(error) => tracing::warn!(slot = %record.slot, %error, "a slot could not be given up"),
                    }
                }
            }
            if page.len() < usize::try_from(AT_ONCE).unwrap_or(usize::MAX) {
                return Ok(settled);
            }
        }
    }

    /// Cancels runs that are over the deadline of their slot.
    async fn hurry(&self, now: Timestamp) -> Result<(), EngineError> {
        for overdue in self.context.store.overdue_slots(now, AT_ONCE).await? {
            let Some(run) = overdue.record.run else { continue };
            self.context.store.request_cancel(run, DEADLINE_CAME).await?;
            self.context.renew.notify_waiters();
            self.context.wake.notify_one();
        }
        Ok(())
    }

    /// Cancels the runs that slots wait for whose schedules say so. The slot is decided first, so that a death in between forgets nothing.
    async fn cancel_others(&self) -> Result<(), EngineError> {
        for waiting in self.context.store.waiting_slots(AT_ONCE).await? {
            let spec = &waiting.kept.schedule.spec;
            if spec.overlap != Overlap::CancelOther {
                continue;
            }
            let Some((_, Some(run))) = self.context.store.open_slots(waiting.record.schedule).await?.previous else {
                continue;
            };
            let asked = self
                .context
                .store
                .run(run)
                .await?
                .is_none_or(|run| run.cancel_reason.is_some() || run.state.is_final());
            if !asked {
                let reason = format!("the next slot of schedule {} is due", spec.name);
                self.context.store.request_cancel(run, &reason).await?;
                self.context.renew.notify_waiters();
                self.context.wake.notify_one();
            }
        }
        Ok(())
    }

    /// Pauses a schedule whose timing this version cannot read: it would be looked at for ever. Other failures pass.
    async fn put_aside(&self, kept: &Kept, error: &EngineError, now: Timestamp) -> Result<bool, EngineError> {
        if !matches!(error, EngineError::InvalidFields { .. }) {
            return Ok(false);
        }
        let mut state = kept.schedule.state.clone();
        state.paused = Some(Pause {
            by: format!("schedule {}", kept.schedule.spec.name),
            at: now,
            note: format!("its timing cannot be read: {error}"),
            automatic: true,
        });
        (state.next_slot, state.next_fire) = (None, None);
        Ok(self.context.store.decide_slots(kept, &state, &[]).await?)
    }

    /// What becomes of the due slots of one schedule.
    ///
    /// # Errors
    /// `Store`, and `InvalidFields` where this version cannot read its timing.
    pub(super) async fn what_is_due(&self, schedule: &Schedule, now: Timestamp) -> Result<Decision, EngineError> {
        let calendar = Calendar::of(&schedule.spec.timing).map_err(|problems| EngineError::InvalidFields { problems })?;
        let open = self.context.store.open_slots(schedule.id).await?;
        let previous = match open.previous {
            Some((_, Some(run))) => {
                let ended = self.context.store.run(run).await?.is_none_or(|run| run.state.is_final());
                Some(PreviousRun { run: Some(run), ended })
            }
            // Decided to fire, and its run is not there yet.
            Some((_, None)) => Some(PreviousRun { run: None, ended: false }),
            None => None,
        };
        Ok(decide_slots(
            schedule,
            &calendar.cron,
            &calendar.zone,
            &calendar.exclusions,
            now,
            previous,
            open.waiting,
        ))
    }

    /// Decides the due slots of one schedule.
    pub(super) async fn decide(&self, kept: &Kept, now: Timestamp) -> Result<(), EngineError> {
        let schedule = &kept.schedule;
        let decision = self.what_is_due(schedule, now).await?;
        let mut state = schedule.state.clone();
        state.next_slot = decision.next_slot;
        state.next_fire = decision.next_fire;
        state.last_slot = decision.last_slot;
        let mut records = decision.passed;
        records.extend(decision.firing.map(|firing| firing.record));
        note_passed(&schedule.spec.name, &records);
        // Where it was not as it was read, another server was first, or somebody changed it: the next look finds what there is.
        self.context.store.decide_slots(kept, &state, &records).await?;
        failpoint!("slots-decided");
        Ok(())
    }
}
