//! The control store: plans, runs, leases and event logs of dbkeep itself, in SQLite or PostgreSQL.
//!
//! One implementation serves both databases (docs/adr/0001-one-control-store-implementation.md); `dialect` has the few
//! differences. Every act that writes is a value of a type of its own, carried out by `transaction` in a task that no caller
//! can drop half-way:
//!
//! ```text
//! Store method -> Act -> spawned task: BEGIN, perform, COMMIT -> events, run, grant
//!                               ^ repeated after a deadlock or a busy database
//! ```
//!
//! Files: `open` connects and migrates; `failover` finds the server that takes writes, where there are several; `plans`, `runs`, `create`, `queue`, `leases`, `updates`, `steering`, `events`, `approvals`,
//! `decisions`, `tokens`, `proofs`, `schedules`, `slots`, `servers`, `outbox`, `metrics`, `rollup`, `alerts`, `audit` and `audit_rows` have the SQL; `draft` is a run while a transaction works on it,
//! `endings` tells of those that end in one; `rows` turns rows into the model's nouns, `failure` the driver's errors into
//! [`StoreError`]. Nothing here knows gRPC, and nothing outside speaks SQL to these tables.

mod alerts;
mod approvals;
mod audit;
mod audit_rows;
mod create;
mod decisions;
mod dialect;
mod draft;
mod endings;
mod events;
mod failover;
mod failure;
mod leases;
mod metrics;
mod open;
mod outbox;
mod plans;
mod proofs;
mod prune;
mod queue;
mod rollup;
mod rows;
mod runs;
mod schedules;
mod servers;
mod slots;
mod steering;
mod tokens;
mod transaction;
mod updates;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use dbkeep_engine::{
    access::{TokenId, TokenRecord},
    audit::{Anchor, Record, Seal, Subject},
    model::{
        Decision, DecisionId, Event, Plan, PlanId, Proof, Run, RunId, Schedule, ScheduleId, ScheduleState, SchedulerSwitch,
        ServerInfo, ServerSeen, SlotOutcome, SlotRecord,
        monitor::{Alert, AlertId, Sample, Snapshot},
        notice::{Delivery, DeliveryId, Envelope},
    },
    notify::Routing,
    port::{
        AlertChanges, AlertFilter, AuditFilter, AuditLog, BackupStanding, Changed, ClaimedDelivery, CollectClaim, Collected,
        Collection, CreateRun, CreateSchedule, Created, DecisionFilter, DeliveryFilter, EndedRuns, EndedSlot, EventPage,
        FiredNow, Grant, HistoryQuery, HistoryUsage, Kept, Ladder, Metrics, OpenSlots, Outbox, Outline, Point, Proofs,
        PruneBegun, Pulse, Renewal, Requeued, Resolved, RunFilter, ScheduleCreated, Scheduled, Schedules, Settlement, SlotClaim,
        SlotEnd, SlotFilter, SlotGrant, SlotPlace, SteerRequest, Steered, Store, StoreError, Stored, Tokens, Update, Verdict,
    },
};
use sqlx::AnyPool;
use tokio::sync::{Notify, Semaphore};

use dialect::Dialect;

/// Most events that are kept of a run, at a few hundred bytes each.
pub const KEPT_EVENTS: u64 = 20_000;
/// Most points of history that are kept, at 50 to 100 bytes each.
pub const KEPT_POINTS: u64 = 20_000_000;
/// Most series of which there is history.
pub const KEPT_SERIES: u64 = 20_000;

/// The control store. Clones share one pool of connections.
#[derive(Clone)]
pub struct ControlStore {
    pool: AnyPool,
    /// Which server the pool connects to, where the store has several.
    failover: Option<Arc<failover::Failover>>,
    dialect: Dialect,
    /// Turns at writing. SQLite has one writer: those who wait in this queue get their turn in order, those who would wait in
    /// the database poll for it.
    turns: Arc<Semaphore>,
    kept_events: u64,
    kept_points: u64,
    kept_series: u64,
    /// Who is told of what happens in its transactions.
    routing: Arc<Routing>,
    /// Tells the dispatcher of this server that there is something in the outbox.
    mail: Arc<Notify>,
}

impl ControlStore {
    /// Whether the store is a file that belongs to one server, rather than a database that several may share.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.dialect == Dialect::Sqlite
    }

    /// Keeps at most so many events of a run in place of [`KEPT_EVENTS`]; at least one.
    #[must_use]
    pub fn keeping_events(self, most: u64) -> Self {
        Self {
            kept_events: most.max(1),
            ..self
        }
    }

    /// Keeps at most so many points and series of history in place of [`KEPT_POINTS`] and [`KEPT_SERIES`].
    #[must_use]
    pub fn keeping_history(self, points: u64, series: u64) -> Self {
        Self {
            kept_points: points,
            kept_series: series,
            ..self
        }
    }

    /// Puts a notice into the outbox wherever a run ends, for everybody who is to hear of it by this routing.
    #[must_use]
    pub fn announcing(self, routing: Arc<Routing>) -> Self {
        Self { routing, ..self }
    }

    /// Closes every connection; later calls answer `Unavailable`.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl fmt::Debug for ControlStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The pool's options hold the connection string with its password.
        formatter
            .debug_struct("ControlStore")
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for ControlStore {
    async fn put_plan(&self, plan: &Plan) -> Result<(), StoreError> {
        self.write(plans::Put::new(plan)?).await
    }

    async fn plan(&self, id: PlanId) -> Result<Option<Plan>, StoreError> {
        self.read_plan(id).await
    }

    async fn create_run(&self, request: &CreateRun) -> Result<Created, StoreError> {
        self.write(create::Create::new(request)?).await
    }

    async fn run_of_request(&self, request_id: &str) -> Result<Option<(RunId, String)>, StoreError> {
        self.read_run_of_request(request_id).await
    }

    async fn run(&self, id: RunId) -> Result<Option<Run>, StoreError> {
        self.read_run(id).await
    }

    async fn runs(&self, filter: &RunFilter, before: Option<RunId>, limit: u32) -> Result<Vec<Run>, StoreError> {
        self.read_runs(filter, before, limit).await
    }

    async fn claim(&self, holder: &str, term: Duration, skip: &[String]) -> Result<Option<Grant>, StoreError> {
        self.write(leases::Take::new(holder, term, skip)).await
    }

    async fn next_lapse(&self) -> Result<Option<Duration>, StoreError> {
        self.read_next_lapse().await
    }

    async fn renew(&self, run: RunId, fence: u64, term: Duration) -> Result<Renewal, StoreError> {
        self.write(leases::Prolong::new(run, fence, term)).await
    }

    async fn release_all(&self) -> Result<(), StoreError> {
        self.write(leases::ReleaseAll).await
    }

    async fn update(&self, run: RunId, fence: u64, update: &Update) -> Result<Vec<Event>, StoreError> {
        self.write(updates::Apply::new(run, fence, update)).await
    }

    async fn request_cancel(&self, run: RunId, reason: &str) -> Result<Option<Run>, StoreError> {
        self.write(updates::Cancel::new(run, reason)).await
    }

    async fn steer(&self, request: &SteerRequest) -> Result<Steered, StoreError> {
        self.write(steering::Record::new(request)).await
    }

    async fn begin_prune(&self, run: RunId, keeper: Option<RunId>) -> Result<PruneBegun, StoreError> {
        self.write(prune::Begin { run, keeper }).await
    }

    async fn end_prune(&self, run: RunId) -> Result<(), StoreError> {
        self.write(prune::End { run }).await
    }

    async fn events(&self, run: RunId, after: u64, limit: u32) -> Result<EventPage, StoreError> {
        self.read_events(run, after, limit).await
    }
}

#[async_trait]
impl Ladder for ControlStore {
    async fn plan_use(&self, plan: PlanId) -> Result<Option<RunId>, StoreError> {
        self.read_plan_use(plan).await
    }

    async fn resolve(&self, run: RunId, verdict: &Verdict, decision: &Decision) -> Result<Resolved, StoreError> {
        self.write(approvals::Resolve::new(run, verdict, decision)).await
    }

    async fn expire_approvals(&self, reason: &str, limit: u32) -> Result<Vec<Run>, StoreError> {
        self.end_unapproved(reason, limit).await
    }

    async fn record(&self, decision: &Decision) -> Result<(), StoreError> {
        self.write(decisions::Record::new(decision)).await
    }

    async fn decisions(
        &self,
        filter: &DecisionFilter,
        before: Option<DecisionId>,
        limit: u32,
    ) -> Result<Vec<Decision>, StoreError> {
        self.read_decisions(filter, before, limit).await
    }
}

#[async_trait]
impl Proofs for ControlStore {
    async fn put_proofs(&self, target: &str, proofs: &[Proof]) -> Result<(), StoreError> {
        self.write(proofs::Put::new(target, proofs)).await
    }

    async fn proofs(&self, target: &str) -> Result<Vec<Proof>, StoreError> {
        self.read_proofs(target).await
    }
}

#[async_trait]
impl Tokens for ControlStore {
    async fn put_token(&self, token: &TokenRecord) -> Result<bool, StoreError> {
        self.write(tokens::Put::new(token, false)).await
    }

    async fn put_first_token(&self, token: &TokenRecord) -> Result<bool, StoreError> {
        self.write(tokens::Put::new(token, true)).await
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.read_tokens().await
    }

    async fn revoke_token(&self, id: TokenId, at: jiff::Timestamp) -> Result<Option<TokenRecord>, StoreError> {
        self.write(tokens::Revoke::new(id, at)).await
    }
}

#[async_trait]
impl Schedules for ControlStore {
    async fn create_schedule(&self, request: &CreateSchedule) -> Result<ScheduleCreated, StoreError> {
        self.write(schedules::Create::new(request)).await
    }

    async fn seed_schedules(&self, target: &str, schedules: &[Schedule]) -> Result<Vec<String>, StoreError> {
        self.write(schedules::Seed::new(target, schedules)).await
    }

    async fn schedule(&self, key: &str) -> Result<Option<Kept>, StoreError> {
        self.read_schedule(key).await
    }

    async fn schedules(&self, target: Option<&str>, after: Option<&str>, limit: u32) -> Result<Vec<Schedule>, StoreError> {
        self.read_schedules(target, after, limit).await
    }

    async fn change_schedule(&self, changed: &Kept, passed: &[SlotRecord], decision: &Decision) -> Result<Changed, StoreError> {
        self.write(schedules::Change::new(changed, passed, decision)).await
    }

    async fn delete_schedule(&self, kept: &Kept, decision: &Decision) -> Result<bool, StoreError> {
        self.write(schedules::Delete::new(kept, decision)).await
    }

    async fn pulse(&self) -> Result<Pulse, StoreError> {
        self.read_pulse().await
    }

    async fn scheduled(&self, target: &str) -> Result<Scheduled, StoreError> {
        self.read_scheduled(target).await
    }

    async fn due_schedules(&self, now: jiff::Timestamp, limit: u32) -> Result<Vec<Kept>, StoreError> {
        self.read_due(now, limit).await
    }

    async fn open_slots(&self, schedule: ScheduleId) -> Result<OpenSlots, StoreError> {
        self.read_open_slots(schedule).await
    }

    async fn decide_slots(&self, kept: &Kept, state: &ScheduleState, records: &[SlotRecord]) -> Result<bool, StoreError> {
        self.write(slots::Decide::new(kept, state, records)).await
    }

    async fn release_waiting(&self) -> Result<u64, StoreError> {
        self.write(slots::Release).await
    }

    async fn claim_slot(
        &self,
        holder: &str,
        term: Duration,
        targets: &[String],
        only_by_hand: bool,
    ) -> Result<Option<SlotGrant>, StoreError> {
        self.write(slots::Claim::new(holder, term, targets, only_by_hand)).await
    }

    async fn fire_now(
        &self,
        schedule: ScheduleId,
        request: &str,
        holder: &str,
        term: Duration,
        decision: &Decision,
    ) -> Result<FiredNow, StoreError> {
        self.write(slots::FireNow::new(schedule, request, holder, term, decision))
            .await
    }

    async fn hold_slot(&self, claim: SlotClaim, term: Duration) -> Result<bool, StoreError> {
        self.write(slots::Hold::new(claim, term)).await
    }

    async fn ended_slots(&self, limit: u32) -> Result<Vec<EndedSlot>, StoreError> {
        self.read_open(SlotOutcome::Fired, true, limit).await
    }

    async fn overdue_slots(&self, now: jiff::Timestamp, limit: u32) -> Result<Vec<EndedSlot>, StoreError> {
        self.read_overdue(now, limit).await
    }

    async fn waiting_slots(&self, limit: u32) -> Result<Vec<EndedSlot>, StoreError> {
        self.read_open(SlotOutcome::Waiting, false, limit).await
    }

    async fn unclaimed_slots(
        &self,
        since: Duration,
        behind: Option<SlotPlace>,
        limit: u32,
    ) -> Result<Vec<EndedSlot>, StoreError> {
        self.read_unclaimed(since, behind, limit).await
    }

    async fn settle_slot(&self, settlement: &SlotEnd) -> Result<bool, StoreError> {
        self.settled(settlement).await
    }

    async fn slots(&self, filter: &SlotFilter, behind: Option<SlotPlace>, limit: u32) -> Result<Vec<SlotRecord>, StoreError> {
        self.read_slots(filter, behind, limit).await
    }

    async fn switch(&self) -> Result<(SchedulerSwitch, u64), StoreError> {
        self.read_switch().await
    }

    async fn set_switch(&self, switch: &SchedulerSwitch, decision: &Decision) -> Result<(), StoreError> {
        self.write(schedules::SetSwitch::new(switch, decision)).await
    }

    async fn beat(&self, server: &ServerInfo, clock: jiff::Timestamp) -> Result<(), StoreError> {
        let beaten = self.write(servers::Beat::new(server, clock)).await;
        if let Some(failover) = self.failover.clone() {
            // Nobody waits for servers that may not answer.
            let pool = self.pool.clone();
            drop(tokio::spawn(async move { failover.look_now_and_then(&pool).await }));
        }
        beaten
    }

    async fn farewell(&self, id: &str) -> Result<(), StoreError> {
        self.write(servers::Farewell::new(id)).await
    }

    async fn servers(&self, term: Duration) -> Result<Vec<ServerSeen>, StoreError> {
        self.read_servers(term).await
    }
}

#[async_trait]
impl Outbox for ControlStore {
    async fn enqueue(&self, envelopes: &[Envelope]) -> Result<u64, StoreError> {
        self.write(outbox::Put::new(envelopes)).await
    }

    async fn enqueued(&self) {
        self.mail.notified().await;
    }

    async fn next_due(&self, channels: &[String]) -> Result<Option<Duration>, StoreError> {
        self.read_next_due(channels).await
    }

    async fn claim_deliveries(
        &self,
        channel: &str,
        holder: &str,
        term: Duration,
        limit: u32,
    ) -> Result<Vec<ClaimedDelivery>, StoreError> {
        self.write(outbox::Take::new(channel, holder, term, limit)).await
    }

    async fn settle(&self, delivery: DeliveryId, attempt: u32, settlement: &Settlement) -> Result<bool, StoreError> {
        self.write(outbox::Settle::new(delivery, attempt, settlement)).await
    }

    async fn release_deliveries(&self) -> Result<(), StoreError> {
        self.write(outbox::ReleaseAll).await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        self.read_delivery(id).await
    }

    async fn deliveries(
        &self,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.read_deliveries(filter, before, limit).await
    }

    async fn requeue(&self, id: DeliveryId, decision: &Decision) -> Result<Requeued, StoreError> {
        self.write(outbox::Requeue::new(id, decision)).await
    }

    async fn abandon(&self, channels: &[String], after: Duration, reason: &str) -> Result<u64, StoreError> {
        self.write(outbox::Abandon::new(channels, after, reason)).await
    }

    async fn prune_deliveries(&self, delivered: Duration, dead: Duration) -> Result<u64, StoreError> {
        self.write(outbox::Prune::new(delivered, dead)).await
    }
}

#[async_trait]
impl Metrics for ControlStore {
    async fn claim_collection(
        &self,
        target: &str,
        server: &str,
        term: Duration,
        due: Duration,
    ) -> Result<Option<CollectClaim>, StoreError> {
        self.write(metrics::Claim::new(target, server, term, due)).await
    }

    async fn put_collected(&self, claim: &CollectClaim, collected: &Collected) -> Result<bool, StoreError> {
        self.write(metrics::Put::new(claim, collected, self.kept_series)?).await
    }

    async fn newest_snapshot(&self, target: &str) -> Result<Option<(jiff::Timestamp, Snapshot)>, StoreError> {
        self.read_newest_snapshot(target).await
    }

    async fn newest_samples(&self, target: &str, age: Duration) -> Result<Vec<(jiff::Timestamp, Sample)>, StoreError> {
        self.read_newest_samples(target, age).await
    }

    async fn history(&self, query: &HistoryQuery) -> Result<Vec<Point>, StoreError> {
        self.read_history(query).await
    }

    async fn roll_up(&self, rows: u32) -> Result<bool, StoreError> {
        self.write(rollup::RollUp::new(rows, self.kept_points, self.kept_series))
            .await
    }

    async fn monitor_revision(&self) -> Result<u64, StoreError> {
        self.read_revision().await
    }

    async fn collections(&self, after: u64) -> Result<Vec<Collection>, StoreError> {
        self.read_collections(after).await
    }

    async fn alerts_after(&self, after: u64, limit: u32) -> Result<Vec<(u64, Alert)>, StoreError> {
        self.read_alerts_after(after, limit).await
    }

    async fn history_usage(&self) -> Result<HistoryUsage, StoreError> {
        self.read_history_usage().await
    }

    async fn ended_runs(&self) -> Result<Vec<EndedRuns>, StoreError> {
        self.read_ended_runs().await
    }

    async fn backup_standing(&self, target: &str) -> Result<BackupStanding, StoreError> {
        self.read_backup_standing(target).await
    }

    async fn alerts(&self, filter: &AlertFilter) -> Result<Vec<Alert>, StoreError> {
        self.read_alerts(filter).await
    }

    async fn alert(&self, id: AlertId) -> Result<Option<Alert>, StoreError> {
        self.read_alert(id).await
    }

    async fn change_alerts(&self, claim: &CollectClaim, changes: &AlertChanges) -> Result<bool, StoreError> {
        self.changed_alerts(claim, changes).await
    }

    async fn acknowledge_alert(
        &self,
        id: AlertId,
        by: &str,
        note: &str,
        decision: &Decision,
    ) -> Result<Option<Alert>, StoreError> {
        self.write(alerts::Acknowledge::new(id, by, note, decision)).await
    }
}

#[async_trait]
impl AuditLog for ControlStore {
    async fn append(&self, subjects: &[Subject]) -> Result<Vec<Record>, StoreError> {
        self.write(audit::Append::new(subjects)).await
    }

    async fn audit_records(&self, filter: &AuditFilter, before: Option<u64>, limit: u32) -> Result<Vec<Record>, StoreError> {
        self.read_audit_records(filter, before, limit).await
    }

    async fn audit_record(&self, number: u64) -> Result<Option<Record>, StoreError> {
        self.read_audit_record(number).await
    }

    async fn audit_range(&self, from: i64, to: i64, limit: u32) -> Result<Vec<Stored>, StoreError> {
        self.read_audit_range(from, to, limit).await
    }

    async fn audit_outline(&self) -> Result<Outline, StoreError> {
        self.read_audit_outline().await
    }

    async fn close_segment(&self, last: u64) -> Result<Option<Seal>, StoreError> {
        self.write(audit::Close::new(last)).await
    }

    async fn prune_segment(&self, seal: &Seal) -> Result<Option<Record>, StoreError> {
        self.write(audit::Remove::new(seal)).await
    }

    async fn put_anchor(&self, anchor: &Anchor, envelopes: &[Envelope]) -> Result<(), StoreError> {
        self.write(audit::PutAnchor::new(anchor, envelopes)).await
    }

    async fn claim_audit_turn(&self, holder: &str, term: Duration) -> Result<bool, StoreError> {
        self.write(audit::TakeTurn::new(holder, term)).await
    }

    async fn end_audit_turn(&self, holder: &str) -> Result<(), StoreError> {
        self.write(audit::EndTurn::new(holder)).await
    }
}
