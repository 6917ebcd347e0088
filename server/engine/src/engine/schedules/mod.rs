//! Schedules: created, changed, paused, approved, previewed and looked at. `fire` begins the run of a slot and settles it, `scheduler` is the loop
//! that decides slots, `start` what happens to schedules when a server starts. When a slot is due, and what becomes of it, is [`crate::schedule`].

mod fire;
mod scheduler;
mod start;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{Engine, digest_of, request_id};
use crate::{
    EngineError,
    access::Scope,
    model::{
        Act, ApprovalProblem, Caller, Decision, MaintenanceTask, Pause, Run, Schedule, ScheduleId, ScheduleSpec, ScheduleState,
        SchedulerSwitch, ServerInfo, ServerSeen, SlotOutcome, SlotRecord, StandingApproval, Timing, schedule::Work,
    },
    port::{Changed, CreateSchedule, FiredNow, Kept, ScheduleCreated, Scheduled, SlotFilter, SlotPlace},
    schedule::{Cron, Exclusion, FieldProblem, Known, KnownChannel, Occurrence, calendar, decide, validate, zone},
};

pub(super) use fire::Slot;
pub use scheduler::Scheduler;

/// Most times of a preview.
pub const MAX_PREVIEW: usize = 1_000;
/// Longest note of whoever pauses, resumes or stops, characters.
pub const MAX_NOTE: usize = 500;
/// Longest life of a standing approval.
const MAX_APPROVAL: SignedDuration = SignedDuration::from_hours(366 * 24);
/// How often, and how far apart, a call that was made before is looked at again while the first one plans: for a minute.
const REPEATS: u32 = 240;
const REPEAT_WAIT: std::time::Duration = std::time::Duration::from_millis(250);
/// How often a change is tried again that another write of the same schedule outran: slots are decided all the time.
const TRIES: u32 = 8;

/// A schedule as callers see it.
#[derive(Debug, Clone)]
pub struct ScheduleView {
    /// The schedule.
    pub schedule: Schedule,
    /// Whether its work needs a standing approval.
    pub needs_approval: bool,
    /// Whether the one that it has covers what it does, now.
    pub approved: bool,
}

/// A time to come.
#[derive(Debug, Clone)]
pub struct Previewed {
    /// When, and what a change of the clock did to it.
    pub occurrence: Occurrence,
    /// The same on the clock of the schedule's zone.
    pub zoned: jiff::Zoned,
    /// The window in which it does not fire, or `gap = skip` where it is a time that the clock skips.
    pub excluded_by: Option<String>,
}

/// Where the scheduler stands.
#[derive(Debug, Clone)]
pub struct SchedulerView {
    /// The switch.
    pub switch: SchedulerSwitch,
    /// What there is to do, of all that whoever asks sees.
    pub scheduled: Scheduled,
    /// Who works with this store; their machines are left out for whoever sees some targets.
    pub servers: Vec<ServerSeen>,
}

/// What a timing means, read.
pub(super) struct Calendar {
    pub(super) cron: Cron,
    pub(super) zone: jiff::tz::TimeZone,
    pub(super) exclusions: Vec<Exclusion>,
}

impl Calendar {
    /// Reads a timing.
    ///
    /// # Errors
    /// Everything that is wrong with it, as fields below `timing`.
    pub(super) fn of(timing: &Timing) -> Result<Self, Vec<FieldProblem>> {
        let mut problems = Vec::new();
        let cron = Cron::parse(&timing.cron)
            .map_err(|found| problems.extend(found.into_iter().map(|problem| problem.within("timing.cron"))));
        let zone = zone(&timing.timezone).map_err(|found| problems.push(found.within("timing")));
        let mut exclusions = Vec::new();
        for (position, text) in timing.exclusions.iter().enumerate() {
            match Exclusion::parse(text) {
                Ok(exclusion) => exclusions.push(exclusion),
                Err(found) => problems.extend(
                    found
                        .into_iter()
                        .map(|problem| FieldProblem::new(format!("timing.exclusions[{position}]"), problem)),
                ),
            }
        }
        match (cron, zone) {
            (Ok(cron), Ok(zone)) if problems.is_empty() => Ok(Self { cron, zone, exclusions }),
            _ => Err(problems),
        }
    }
}

/// Whether slots of a schedule fire at all.
fn fires(schedule: &Schedule) -> bool {
    schedule.spec.enabled && schedule.state.paused.is_none()
}

/// Sets when a schedule fires next, from an instant on.
fn replan(schedule: &mut Schedule, now: Timestamp) -> Result<(), EngineError> {
    let calendar = Calendar::of(&schedule.spec.timing).map_err(|problems| EngineError::InvalidFields { problems })?;
    let next = fires(schedule)
        .then(|| decide::upcoming(schedule, &calendar.cron, &calendar.zone, now))
        .flatten();
    schedule.state.next_slot = next.map(|next| next.slot);
    schedule.state.next_fire = next.map(|next| next.fire);
    Ok(())
}

fn spec_problems(problems: Vec<FieldProblem>) -> EngineError {
    let problems = problems.into_iter().map(|problem| problem.within("spec")).collect();
    EngineError::InvalidFields { problems }
}

impl Engine {
    /// What schedules may name.
    pub(super) fn known(&self) -> Known {
        let operations = |entry: &super::TargetEntry| {
            let declared = entry.catalog.operations().iter();
            declared
                .map(|operation| (operation.name.clone(), operation.severity))
                .collect()
        };
        let unsupported = |entry: &super::TargetEntry| {
            let maintenance = entry.target.maintenance();
            let why = |name: &'static str| maintenance.unsupported(name).map(|why| (name, why));
            MaintenanceTask::NAMES.into_iter().filter_map(why).collect()
        };
        Known {
            targets: self
                .targets()
                .iter()
                .map(|(name, entry)| (name.clone(), operations(entry)))
                .collect(),
            unsupported: self
                .targets()
                .iter()
                .map(|(name, entry)| (name.clone(), unsupported(entry)))
                .collect(),
            channels: self.known_channels(),
        }
    }

    /// Channels that schedules may name, by name, and by kind for all channels of it. A channel's own name comes before a kind's.
    fn known_channels(&self) -> BTreeMap<String, KnownChannel> {
        let channels = self.channels();
        let mut known = BTreeMap::new();
        for channel in &channels {
            let of_kind = known.entry(channel.kind.name().to_owned()).or_insert(KnownChannel {
                kind: channel.kind,
                has_recipients: true,
            });
            of_kind.has_recipients &= !channel.recipients.is_empty();
        }
        known.extend(channels.into_iter().map(|channel| {
            let of_name = KnownChannel {
                kind: channel.kind,
                has_recipients: !channel.recipients.is_empty(),
            };
            (channel.name, of_name)
        }));
        known
    }

    fn view(&self, schedule: Schedule) -> ScheduleView {
        let needs_approval = !self.known().needing_approval(&schedule.spec).is_empty();
        let approval = schedule.state.approval.as_ref();
        ScheduleView {
            needs_approval,
            approved: approval.is_some_and(|approval| approval.covers(&self.consent_digest(&schedule.spec), Timestamp::now())),
            schedule,
        }
    }

    /// Digest of what a standing approval consents to: target, work and options, and what the rules of its operations are in this server's
    /// catalog. Work that this server does not know has a digest that nobody consented to.
    pub(super) fn consent_digest(&self, spec: &ScheduleSpec) -> String {
        let mut parts = vec!["consent".to_owned(), spec.digest()];
        if let Work::Operations(names) = &spec.work {
            for name in names {
                let operation = self.targets().get(&spec.target).and_then(|entry| entry.catalog.get(name));
                parts.push(operation.map_or_else(String::new, |operation| {
                    let declared = (
                        &operation.name,
                        operation.severity,
                        operation.backup,
                        operation.max_rows,
                        &operation.rules,
                    );
                    // What cannot be written down is what nobody consented to.
                    serde_json::to_string(&declared).unwrap_or_else(|error| format!("{error} {}", ScheduleId::new()))
                }));
            }
        }
        digest_of(&parts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The target of a spec that may leave it out where there is only one.
    fn fill_target(&self, spec: &mut ScheduleSpec) {
        if spec.target.is_empty()
            && self.targets().len() == 1
            && let Some(name) = self.targets().keys().next()
        {
            spec.target.clone_from(name);
        }
    }

    /// What is wrong with a spec on this server.
    fn problems_of(&self, spec: &ScheduleSpec, now: Timestamp) -> Vec<FieldProblem> {
        validate(spec, &self.known(), now)
    }

    /// Everything that is wrong with a spec, its fields below `spec`.
    ///
    /// # Errors
    /// `Store`.
    pub async fn schedule_problems(&self, mut spec: ScheduleSpec) -> Result<Vec<FieldProblem>, EngineError> {
        self.fill_target(&mut spec);
        let now = self.context.store.pulse().await?.now;
        let problems = self.problems_of(&spec, now);
        Ok(problems.into_iter().map(|problem| problem.within("spec")).collect())
    }

    /// Creates a schedule.
    ///
    /// # Errors
    /// `InvalidFields` with all that is wrong, `ScheduleExists`, `InvalidField` for the request id, `Store`.
    pub async fn create_schedule(
        &self,
        mut spec: ScheduleSpec,
        request: &str,
        caller: &Caller,
    ) -> Result<ScheduleView, EngineError> {
        self.fill_target(&mut spec);
        let given = if request.is_empty() {
            String::new()
        } else {
            request_id(request)?
        };
        let now = self.context.store.pulse().await?.now;
        let problems = self.problems_of(&spec, now);
        if !problems.is_empty() {
            return Err(spec_problems(problems));
        }
        let digest = digest_of(&["schedule", &serde_json::to_string(&spec).unwrap_or_default()]);
        let mut schedule = new_schedule(spec, &caller.principal, now);
        replan(&mut schedule, now)?;
        let decision = Decision::allow(caller, Act::Schedule, format!("create schedule {}", schedule.spec.name)).about(
            &schedule.spec.target,
            None,
            None,
        );
        let request = CreateSchedule {
            schedule: schedule.clone(),
            request_id: given.clone(),
            request_digest: digest,
            decision,
        };
        let made = match self.context.store.create_schedule(&request).await? {
            ScheduleCreated::Made => schedule,
            ScheduleCreated::Repeated(schedule) => *schedule,
            ScheduleCreated::RequestIdReused => {
                return Err(EngineError::ScheduleRequestReused { request_id: given });
            }
            ScheduleCreated::NameTaken(other) => {
                return Err(EngineError::ScheduleExists {
                    name: schedule.spec.name,
                    id: Some(other),
                });
            }
        };
        self.context.schedules.notify_one();
        Ok(self.view(made))
    }

    async fn kept(&self, key: &str) -> Result<Kept, EngineError> {
        let found = self.context.store.schedule(key).await?;
        found.ok_or_else(|| EngineError::UnknownSchedule { key: key.to_owned() })
    }

    /// A schedule by its id or name.
    ///
    /// # Errors
    /// `UnknownSchedule`, `Store`.
    pub async fn schedule(&self, key: &str) -> Result<ScheduleView, EngineError> {
        Ok(self.view(self.kept(key).await?.schedule))
    }

    /// Schedules by name, after one where given.
    ///
    /// # Errors
    /// `Store`.
    pub async fn schedules(
        &self,
        target: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<ScheduleView>, EngineError> {
        let found = self.context.store.schedules(target, after, limit).await?;
        Ok(found.into_iter().map(|schedule| self.view(schedule)).collect())
    }

    /// Changes a schedule as `change` says, from the newest state on. `what` is done stands in the record of decisions, with why where
    /// that is told.
    async fn change(
        &self,
        key: &str,
        etag: Option<u64>,
        caller: &Caller,
        (what, why): (&str, &str),
        change: impl Fn(&mut Schedule, Timestamp) -> Result<(), EngineError> + Send + Sync,
    ) -> Result<ScheduleView, EngineError> {
        for _ in 0..TRIES {
            let mut kept = self.kept(key).await?;
            if etag.is_some_and(|etag| etag != kept.schedule.etag) {
                return Err(EngineError::ScheduleChanged {
                    name: kept.schedule.spec.name,
                    etag: kept.schedule.etag,
                });
            }
            let before = kept.schedule.clone();
            let pulse = self.context.store.pulse().await?;
            let now = pulse.now;
            change(&mut kept.schedule, now)?;
            let mut passed = Vec::new();
            if before.spec.timing != kept.schedule.spec.timing || fires(&before) != fires(&kept.schedule) {
                let due = before.state.next_fire.is_some_and(|next| next <= now);
                if due && fires(&before) && pulse.running {
                    // What was due before the change is decided as it was then, and on record.
                    let undecided = Kept {
                        schedule: before,
                        version: kept.version,
                    };
                    self.decide(&undecided, now).await?;
                    continue;
                }
                if due && fires(&before) {
                    passed = self.let_pass(&before, &mut kept.schedule, now).await?;
                }
                replan(&mut kept.schedule, now)?;
            }
            let name = &kept.schedule.spec.name;
            let detail = if why.is_empty() {
                format!("{what} schedule {name}")
            } else {
                format!("{what} schedule {name}: {why}")
            };
            let decision = Decision::allow(caller, Act::Schedule, detail).about(&kept.schedule.spec.target, None, None);
            match self.context.store.change_schedule(&kept, &passed, &decision).await? {
                Changed::Done => {
                    scheduler::note_passed(&kept.schedule.spec.name, &passed);
                    self.context.schedules.notify_one();
                    return Ok(self.view(kept.schedule));
                }
                Changed::NameTaken => {
                    let name = kept.schedule.spec.name;
                    let id = self.kept(&name).await?.schedule.id;
                    return Err(EngineError::ScheduleExists { name, id: Some(id) });
                }
                // A slot was decided meanwhile: read it again.
                Changed::Outrun => {}
            }
        }
        Err(EngineError::ScheduleChanged {
            name: key.to_owned(),
            etag: etag.unwrap_or_default(),
        })
    }

    /// What becomes of slots that were due before a change while schedules are stopped: nobody decides them then, and after the change nobody
    /// could any more. `changed` goes on behind them.
    async fn let_pass(&self, before: &Schedule, changed: &mut Schedule, now: Timestamp) -> Result<Vec<SlotRecord>, EngineError> {
        let decision = match self.what_is_due(before, now).await {
            Ok(decision) => decision,
            // Of a timing that this version cannot read no slot is known; the change may be what mends it.
            Err(EngineError::InvalidFields { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        changed.state.last_slot = decision.last_slot;
        let mut passed = decision.passed;
        if let Some(firing) = decision.firing {
            let (kind, what) = if fires(changed) {
                (SlotOutcome::Missed, "given other times")
            } else if changed.spec.enabled {
                (SlotOutcome::Skipped, "paused")
            } else {
                (SlotOutcome::Skipped, "disabled")
            };
            passed.push(SlotRecord {
                kind,
                reason: format!("schedules were stopped when it was due, and this one was {what} before they were started again"),
                ..firing.record
            });
        }
        Ok(passed)
    }

    /// Gives a schedule another spec: `merge` makes it from the one that it has.
    ///
    /// # Errors
    /// `UnknownSchedule`, `ScheduleChanged`, `InvalidFields`, `ScheduleExists`, `Store`.
    pub async fn update_schedule(
        &self,
        key: &str,
        etag: Option<u64>,
        caller: &Caller,
        merge: impl Fn(&ScheduleSpec) -> ScheduleSpec + Send + Sync,
    ) -> Result<ScheduleView, EngineError> {
        self.change(key, etag, caller, ("update", ""), |schedule, now| {
            let mut spec = merge(&schedule.spec);
            self.fill_target(&mut spec);
            let problems = self.problems_of(&spec, now);
            if !problems.is_empty() {
                return Err(spec_problems(problems));
            }
            if spec.digest() != schedule.spec.digest() {
                schedule.state.approval = None;
                schedule.state.work_by.clone_from(&caller.principal);
            }
            schedule.spec = spec;
            schedule.etag += 1;
            schedule.updated_at = now;
            schedule.updated_by.clone_from(&caller.principal);
            Ok(())
        })
        .await
    }

    /// Removes a schedule with its slots.
    ///
    /// # Errors
    /// `UnknownSchedule`, `ScheduleChanged`, `Store`.
    pub async fn delete_schedule(&self, key: &str, etag: Option<u64>, caller: &Caller) -> Result<(), EngineError> {
        for _ in 0..TRIES {
            let kept = self.kept(key).await?;
            let schedule = &kept.schedule;
            if etag.is_some_and(|etag| etag != schedule.etag) {
                return Err(EngineError::ScheduleChanged {
                    name: schedule.spec.name.clone(),
                    etag: schedule.etag,
                });
            }
            let decision = Decision::allow(caller, Act::Schedule, format!("delete schedule {}", schedule.spec.name)).about(
                &schedule.spec.target,
                None,
                None,
            );
            if self.context.store.delete_schedule(&kept, &decision).await? {
                return Ok(());
            }
        }
        Err(EngineError::ScheduleChanged {
            name: key.to_owned(),
            etag: etag.unwrap_or_default(),
        })
    }

    /// Lets slots of a schedule pass from now on.
    ///
    /// # Errors
    /// `UnknownSchedule`, `Store`.
    pub async fn pause_schedule(&self, key: &str, note: &str, caller: &Caller) -> Result<ScheduleView, EngineError> {
        self.change(key, None, caller, ("pause", note), |schedule, now| {
            schedule.state.paused = Some(Pause {
                by: caller.principal.clone(),
                at: now,
                note: note.to_owned(),
                automatic: false,
            });
            Ok(())
        })
        .await
    }

    /// Lets it fire again, from the next slot on. The note is kept with the decision.
    ///
    /// # Errors
    /// `UnknownSchedule`, `Store`.
    pub async fn resume_schedule(&self, key: &str, note: &str, caller: &Caller) -> Result<ScheduleView, EngineError> {
        self.change(key, None, caller, ("resume", note), |schedule, _| {
            schedule.state.paused = None;
            schedule.state.consecutive_failures = 0;
            Ok(())
        })
        .await
    }

    /// Consents to the runs of a schedule ahead.
    ///
    /// # Errors
    /// `UnknownSchedule`, `ScheduleChanged`, `InvalidFields`, `ScheduleApprovalRefused`, `Store`.
    pub async fn approve_schedule(
        &self,
        key: &str,
        etag: u64,
        max_rows: u64,
        expires_at: Timestamp,
        caller: &Caller,
    ) -> Result<ScheduleView, EngineError> {
        let makers = self.makers(&caller.principal).await?;
        self.change(key, Some(etag), caller, ("approve", ""), |schedule, now| {
            let mut problems = Vec::new();
            if max_rows == 0 {
                problems.push(FieldProblem::new(
                    "max_rows",
                    "is 0; expected the most rows that one run may delete",
                ));
            }
            if expires_at <= now || now.duration_until(expires_at) > MAX_APPROVAL {
                let problem = format!("is {expires_at}; expected an instant after now, at most a year from now");
                problems.push(FieldProblem::new("expire_time", problem));
            }
            if !problems.is_empty() {
                return Err(EngineError::InvalidFields { problems });
            }
            if let Some(problem) = ApprovalProblem::of(caller, &schedule.state.work_by, &makers) {
                return Err(EngineError::ScheduleApprovalRefused {
                    schedule: schedule.spec.name.clone(),
                    principal: caller.principal.clone(),
                    problem,
                });
            }
            schedule.state.approval = Some(StandingApproval {
                by: caller.principal.clone(),
                at: now,
                max_rows,
                expires_at,
                spec_digest: self.consent_digest(&schedule.spec),
            });
            Ok(())
        })
        .await
    }

    /// The next times of a timing.
    ///
    /// # Errors
    /// `InvalidFields`, `Store`.
    pub async fn preview(&self, timing: &Timing, after: Option<Timestamp>, count: usize) -> Result<Vec<Previewed>, EngineError> {
        let calendar = Calendar::of(timing).map_err(|problems| EngineError::InvalidFields { problems })?;
        let mut after = match after {
            Some(after) => after,
            None => self.context.store.pulse().await?.now,
        };
        let mut times = Vec::new();
        while times.len() < count.min(MAX_PREVIEW) {
            let Some(occurrence) = calendar.cron.next_after(&calendar.zone, timing.dst(), after) else {
                break;
            };
            after = occurrence.at;
            let excluded = calendar::excluding(&calendar.exclusions, occurrence.local).map(ToString::to_string);
            times.push(Previewed {
                zoned: occurrence.at.to_zoned(calendar.zone.clone()),
                excluded_by: excluded.or_else(|| (!occurrence.fires()).then(|| "gap = skip".to_owned())),
                occurrence,
            });
        }
        Ok(times)
    }

    /// What became of slots, newest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn slots(
        &self,
        filter: &SlotFilter,
        behind: Option<SlotPlace>,
        limit: u32,
    ) -> Result<Vec<SlotRecord>, EngineError> {
        Ok(self.context.store.slots(filter, behind, limit).await?)
    }

    /// Where the scheduler stands, and who works with this store, as somebody sees it who is for these targets.
    ///
    /// # Errors
    /// `Store`.
    pub async fn scheduler_view(&self, scope: &Scope) -> Result<SchedulerView, EngineError> {
        let store = &self.context.store;
        let (switch, schedules) = store.switch().await?;
        let mut servers = store.servers(self.context.settings.lease_term).await?;
        let Some(targets) = scope.targets() else {
            let pulse = store.pulse().await?;
            let scheduled = Scheduled {
                schedules,
                open_slots: pulse.pending + pulse.waiting + pulse.fired,
                next_fire: pulse.next_fire,
            };
            return Ok(SchedulerView {
                switch,
                scheduled,
                servers,
            });
        };
        let mut scheduled = Scheduled::default();
        for target in targets {
            let of_target = store.scheduled(target).await?;
            scheduled.schedules += of_target.schedules;
            scheduled.open_slots += of_target.open_slots;
            scheduled.next_fire = [scheduled.next_fire, of_target.next_fire].into_iter().flatten().min();
        }
        for seen in &mut servers {
            seen.server.host.clear();
            seen.server.address.clear();
        }
        Ok(SchedulerView {
            switch,
            scheduled,
            servers,
        })
    }

    /// Lets slots be decided on every server, or none.
    ///
    /// # Errors
    /// `Store`.
    pub async fn switch_scheduler(&self, running: bool, note: &str, caller: &Caller) -> Result<SchedulerView, EngineError> {
        let what = if running {
            "start the scheduler"
        } else {
            "stop the scheduler"
        };
        let switch = SchedulerSwitch {
            running,
            note: note.to_owned(),
            by: caller.principal.clone(),
            at: Some(Timestamp::now()),
        };
        let decision = Decision::allow(caller, Act::Schedule, what);
        self.context.store.set_switch(&switch, &decision).await?;
        self.context.schedules.notify_one();
        self.scheduler_view(&Scope::All).await
    }

    /// Fires a schedule now, paused or not. `request` names the call: made again, it fires nothing more, and has the run of the first, or
    /// why that has none. Empty for none.
    ///
    /// # Errors
    /// `UnknownSchedule`, `ScheduleBusy` where a slot of it has not ended, `ScheduleRequestReused`, `InvalidField` for the request id,
    /// `SlotRefused` where the same call was refused before, and everything that refuses a run of its work.
    pub async fn run_schedule(&self, key: &str, request: &str, caller: &Caller) -> Result<Run, EngineError> {
        let given = if request.is_empty() {
            // Nobody makes this call again but the loop below, where its claim was lost.
            uuid::Uuid::now_v7().to_string()
        } else {
            request_id(request)?
        };
        let kept = self.kept(key).await?;
        let schedule = &kept.schedule;
        let decision = Decision::allow(caller, Act::Schedule, format!("fire schedule {}", schedule.spec.name)).about(
            &schedule.spec.target,
            None,
            None,
        );
        let (store, settings) = (&self.context.store, &self.context.settings);
        let name = || schedule.spec.name.clone();
        let refused = async |error: EngineError| {
            let decision = Decision::refuse(caller, Act::Schedule, error.reason(), error.to_string());
            self.recorded(&decision.about(&schedule.spec.target, None, None), error).await
        };
        let mut settled = false;
        for _ in 0..REPEATS {
            match store
                .fire_now(schedule.id, &given, &settings.holder, settings.lease_term, &decision)
                .await?
            {
                FiredNow::Granted(grant) => match self.fire(*grant).await {
                    // Another server went on with it, or the schedule was changed and is planned anew: by this call, where nobody else does.
                    Err(EngineError::SlotLost) => tokio::time::sleep(REPEAT_WAIT).await,
                    fired => return fired,
                },
                // The run before may have ended a moment ago: nobody has to wait for the next look to fire again.
                FiredNow::Busy if !settled => {
                    settled = true;
                    self.settle_all_ended().await?;
                }
                FiredNow::Busy => return Err(refused(EngineError::ScheduleBusy { name: name() }).await),
                FiredNow::RequestIdReused => {
                    return Err(refused(EngineError::ScheduleRequestReused { request_id: given }).await);
                }
                FiredNow::Repeated(record) => match record.run {
                    Some(run) => return self.run(&run.to_string()).await,
                    None if record.kind.is_settled() => {
                        return Err(EngineError::SlotRefused {
                            name: name(),
                            reason: record.reason,
                        });
                    }
                    // The first call is still at it, on this server or on another.
                    None => tokio::time::sleep(REPEAT_WAIT).await,
                },
            }
        }
        Err(EngineError::ScheduleBusy { name: name() })
    }

    /// The task that decides slots, as the server that `server` describes.
    #[must_use]
    pub fn scheduler(&self, server: ServerInfo) -> Scheduler {
        Scheduler::new(self.clone(), server)
    }
}

fn new_schedule(spec: ScheduleSpec, by: &str, now: Timestamp) -> Schedule {
    Schedule {
        id: ScheduleId::new(),
        etag: 1,
        spec,
        state: ScheduleState {
            work_by: by.to_owned(),
            ..ScheduleState::default()
        },
        created_at: now,
        created_by: by.to_owned(),
        updated_at: now,
        updated_by: by.to_owned(),
    }
}
