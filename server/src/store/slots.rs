//! Slots of schedules: decided once, claimed with a fence, fired with their run, settled when it has ended.

use std::time::Duration;

use dbkeep_engine::{
    model::{Decision, Schedule, ScheduleId, ScheduleSpec, ScheduleState, SlotOutcome, SlotRecord},
    port::{EndedSlot, FiredNow, Kept, OpenSlots, SlotClaim, SlotEnd, SlotFilter, SlotGrant, SlotPlace, StoreError},
    schedule::decide,
};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, any::AnyRow};

use super::{
    ControlStore, decisions,
    draft::{lease_ms, term_ms},
    endings,
    failure::{Failure, corrupt},
    metrics, rows, schedules,
    transaction::{Act, Tx},
};

/// The columns that [`record`] reads; `l` is the slot.
const SLOT: &str = "l.schedule_id, l.slot_ms, l.outcome, l.reason, l.run_id, l.slot_count, l.first_slot_ms, l.decided_ms, l.manual, l.fired_by, l.claims";
/// How long a slot that has ended is kept.
const KEPT_MS: i64 = 90 * 24 * 60 * 60 * 1_000;
/// Most such slots that go when one comes.
const AT_ONCE: i64 = 100;
/// What a slot that a person fires says of itself.
const BY_HAND: &str = "fired by a person";

fn record(row: &AnyRow) -> Result<SlotRecord, StoreError> {
    let schedule: String = rows::column_of(row, "schedule_id")?;
    let strange = |column: &str| corrupt(format!("{column} of a slot of schedule {schedule}"));
    let time = |column: &str| -> Result<Timestamp, StoreError> {
        Timestamp::from_millisecond(rows::column_of(row, column)?).map_err(|_| strange(column))
    };
    let outcome: String = rows::column_of(row, "outcome")?;
    Ok(SlotRecord {
        schedule: schedule.parse().map_err(|_| strange("schedule_id"))?,
        slot: time("slot_ms")?,
        kind: SlotOutcome::ALL
            .into_iter()
            .find(|known| known.name() == outcome)
            .ok_or_else(|| strange("outcome"))?,
        reason: rows::column_of(row, "reason")?,
        run: rows::optional_id(row, "run_id")?,
        missed: u64::try_from(rows::column_of::<i64>(row, "slot_count")?).map_err(|_| strange("slot_count"))?,
        first_slot: time("first_slot_ms")?,
        decided_at: time("decided_ms")?,
        manual: rows::column_of::<i64>(row, "manual")? != 0,
        fired_by: rows::column_of(row, "fired_by")?,
    })
}

fn fence_of(row: &AnyRow) -> Result<u64, StoreError> {
    u64::try_from(rows::column_of::<i64>(row, "claims")?).map_err(|_| corrupt("claims of a slot"))
}

/// When the run of a slot has to end.
fn deadline_ms(spec: &ScheduleSpec, record: &SlotRecord) -> Option<i64> {
    let deadline = decide::deadline(spec, record.slot).filter(|_| !record.manual);
    deadline.map(Timestamp::as_millisecond)
}

/// Writes a record, or leaves the one that is there. Returns whether it was written.
async fn insert(tx: &mut Tx<'_>, record: &SlotRecord, deadline_ms: Option<i64>, request: Option<&str>) -> Result<bool, Failure> {
    let inserted = sqlx::query(
        "INSERT INTO schedule_slots (schedule_id, slot_ms, outcome, reason, run_id, slot_count, first_slot_ms, decided_ms, manual, \
         deadline_ms, request_id, fired_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (schedule_id, slot_ms) DO NOTHING",
    )
    .bind(record.schedule.to_string())
    .bind(record.slot.as_millisecond())
    .bind(record.kind.name())
    .bind(rows::text(&record.reason))
    .bind(record.run.map(|run| run.to_string()))
    .bind(rows::signed(record.missed))
    .bind(record.first_slot.as_millisecond())
    .bind(record.decided_at.as_millisecond())
    .bind(i64::from(record.manual))
    .bind(deadline_ms)
    .bind(request.map(rows::text))
    .bind(rows::text(&record.fired_by))
    .execute(&mut *tx.connection)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// Writes records of a schedule's slots, and tells of those that are new.
pub(super) async fn record_all(tx: &mut Tx<'_>, schedule: &Schedule, records: &[SlotRecord]) -> Result<(), Failure> {
    for record in records {
        if insert(tx, record, deadline_ms(&schedule.spec, record), None).await? {
            endings::announce_slot(tx, &schedule.spec, record).await?;
        }
    }
    Ok(())
}

/// Records what became of slots.
pub(super) struct Decide {
    kept: Kept,
    records: Vec<SlotRecord>,
    /// Whether the schedule is paused by this.
    pauses: bool,
}

impl Decide {
    pub(super) fn new(kept: &Kept, state: &ScheduleState, records: &[SlotRecord]) -> Self {
        let mut kept = kept.clone();
        let pauses = kept.schedule.state.paused.is_none() && state.paused.is_some();
        kept.schedule.state = state.clone();
        Self {
            kept,
            records: records.to_vec(),
            pauses,
        }
    }
}

impl Act for Decide {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        if !schedules::write_state(tx, &self.kept).await? {
            return Ok(false);
        }
        record_all(tx, &self.kept.schedule, &self.records).await?;
        if let Some(pause) = self.kept.schedule.state.paused.as_ref().filter(|_| self.pauses) {
            let schedule = &self.kept.schedule;
            endings::announce_pause(tx, schedule.id, &schedule.spec, pause.at, &pause.note).await?;
        }
        let id = self.kept.schedule.id.to_string();
        let sql = format!(
            "DELETE FROM schedule_slots WHERE schedule_id = $1 AND slot_ms IN (SELECT o.slot_ms FROM schedule_slots AS o \
             WHERE o.schedule_id = $1 AND o.slot_ms < {now} - {KEPT_MS} AND o.decided_ms < {now} - {KEPT_MS} \
             AND o.outcome NOT IN ('pending', 'waiting', 'fired') ORDER BY o.slot_ms LIMIT $2)",
            now = tx.dialect.now_ms()
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(id)
            .bind(AT_ONCE)
            .execute(&mut *tx.connection)
            .await?;
        Ok(true)
    }
}

/// Lets slots that wait fire.
pub(super) struct Release;

impl Act for Release {
    type Output = u64;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<u64, Failure> {
        // From now on it can begin: how late it is counts from here.
        let sql = format!(
            "UPDATE schedule_slots SET outcome = 'pending', decided_ms = {} WHERE outcome = 'waiting' \
             AND outcome IN ('pending', 'waiting', 'fired') AND NOT EXISTS (SELECT 1 FROM schedule_slots AS o \
             WHERE o.schedule_id = schedule_slots.schedule_id AND o.outcome IN ('pending', 'waiting', 'fired') AND o.outcome <> 'waiting')",
            tx.dialect.now_ms()
        );
        let released = sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx.connection).await?;
        Ok(released.rows_affected())
    }
}

/// Marks a slot as claimed and reads what is needed to fire it.
async fn grant(tx: &mut Tx<'_>, schedule: &str, slot_ms: i64, holder: &str, term_ms: i64) -> Result<Option<SlotGrant>, Failure> {
    let sql = format!(
        "UPDATE schedule_slots SET holder = $3, lease_until_ms = {} + $4, claims = claims + 1 WHERE schedule_id = $1 AND slot_ms = $2",
        tx.dialect.now_ms()
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(schedule)
        .bind(slot_ms)
        .bind(rows::text(holder))
        .bind(term_ms)
        .execute(&mut *tx.connection)
        .await?;
    let sql = format!(
        "SELECT {SLOT}, {} FROM schedule_slots AS l JOIN schedules AS s ON s.id = l.schedule_id WHERE l.schedule_id = $1 AND l.slot_ms = $2",
        schedules::COLUMNS
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(schedule)
        .bind(slot_ms)
        .fetch_optional(&mut *tx.connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (record, kept) = (record(&row)?, schedules::kept(&row)?);
    Ok(Some(SlotGrant {
        claim: SlotClaim {
            schedule: record.schedule,
            slot: record.slot,
            fence: fence_of(&row)?,
            etag: kept.schedule.etag,
        },
        record,
        kept,
    }))
}

/// Claims the oldest slot that is to fire.
pub(super) struct Claim {
    holder: String,
    term_ms: i64,
    targets: Vec<String>,
    only_by_hand: bool,
}

impl Claim {
    pub(super) fn new(holder: &str, term: Duration, targets: &[String], only_by_hand: bool) -> Self {
        Self {
            only_by_hand,
            holder: holder.to_owned(),
            term_ms: lease_ms(term),
            targets: targets.iter().map(|target| rows::text(target)).collect(),
        }
    }
}

impl Act for Claim {
    type Output = Option<SlotGrant>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Option<SlotGrant>, Failure> {
        if self.targets.is_empty() {
            return Ok(None);
        }
        // The condition of the index `slots_open` has to stand there word for word; SQLite does not infer it.
        let sql = format!(
            "SELECT schedule_id, slot_ms FROM schedule_slots WHERE outcome = 'pending' AND outcome IN ('pending', 'waiting', 'fired') \
             AND (lease_until_ms IS NULL OR {}) {} AND schedule_id IN (SELECT s.id FROM schedules AS s WHERE s.id = \
             schedule_slots.schedule_id AND s.target IN ({})) ORDER BY claims, slot_ms LIMIT 1 {}",
            tx.dialect.lapsed(),
            if self.only_by_hand { "AND manual = 1" } else { "" },
            (1..=self.targets.len())
                .map(|number| format!("${number}"))
                .collect::<Vec<_>>()
                .join(", "),
            tx.dialect.lock_free_rows()
        );
        let query = self
            .targets
            .iter()
            .fold(sqlx::query(AssertSqlSafe(sql)), |query, target| query.bind(target));
        let row = query.fetch_optional(&mut *tx.connection).await?;
        let Some(row) = row else { return Ok(None) };
        let (schedule, slot_ms): (String, i64) = (rows::column_of(&row, "schedule_id")?, rows::column_of(&row, "slot_ms")?);
        grant(tx, &schedule, slot_ms, &self.holder, self.term_ms).await
    }
}

/// Records a slot that a person fires, claimed.
pub(super) struct FireNow {
    schedule: ScheduleId,
    /// The name of the call; empty for none.
    request: String,
    holder: String,
    term_ms: i64,
    decision: Decision,
}

impl FireNow {
    pub(super) fn new(schedule: ScheduleId, request: &str, holder: &str, term: Duration, decision: &Decision) -> Self {
        Self {
            schedule,
            request: rows::text(request),
            holder: holder.to_owned(),
            term_ms: lease_ms(term),
            decision: decision.clone(),
        }
    }
}

impl FireNow {
    /// The slot that the same call recorded before. Where its claim was lost, this call has it now: while schedules are stopped, nobody else
    /// may come for it.
    async fn before(&self, tx: &mut Tx<'_>) -> Result<Option<FiredNow>, Failure> {
        if self.request.is_empty() {
            return Ok(None);
        }
        let sql = format!(
            "SELECT {SLOT}, CASE WHEN lease_until_ms IS NULL OR {} THEN 0 ELSE 1 END AS claimed FROM schedule_slots AS l \
             WHERE l.request_id = $1 AND l.request_id IS NOT NULL",
            tx.dialect.lapsed()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.request);
        let Some(row) = query.fetch_optional(&mut *tx.connection).await? else {
            return Ok(None);
        };
        let record = record(&row)?;
        if record.schedule != self.schedule {
            return Ok(Some(FiredNow::RequestIdReused));
        }
        if record.kind == SlotOutcome::Pending && rows::column_of::<i64>(&row, "claimed")? == 0 {
            let (id, slot_ms) = (self.schedule.to_string(), record.slot.as_millisecond());
            if let Some(granted) = grant(tx, &id, slot_ms, &self.holder, self.term_ms).await? {
                // Whoever goes on with a call that was given up has started the run as well.
                decisions::insert(tx, &self.decision).await?;
                return Ok(Some(FiredNow::Granted(Box::new(granted))));
            }
        }
        Ok(Some(FiredNow::Repeated(Box::new(record))))
    }
}

impl Act for FireNow {
    type Output = FiredNow;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<FiredNow, Failure> {
        if let Some(before) = self.before(tx).await? {
            return Ok(before);
        }
        let id = self.schedule.to_string();
        // The row of the schedule is what everybody who decides its slots writes: from here on nobody does.
        let touched = sqlx::query("UPDATE schedules SET version = version + 1 WHERE id = $1")
            .bind(&id)
            .execute(&mut *tx.connection)
            .await?;
        let open = sqlx::query(
            "SELECT 1 FROM schedule_slots WHERE schedule_id = $1 AND outcome IN ('pending', 'waiting', 'fired') LIMIT 1",
        )
        .bind(&id)
        .fetch_optional(&mut *tx.connection)
        .await?;
        // The same call may have been first meanwhile.
        if let Some(before) = self.before(tx).await? {
            return Ok(before);
        }
        if touched.rows_affected() == 0 || open.is_some() {
            return Ok(FiredNow::Busy);
        }
        let row = sqlx::query("SELECT max(slot_ms) AS newest FROM schedule_slots WHERE schedule_id = $1")
            .bind(&id)
            .fetch_one(&mut *tx.connection)
            .await?;
        let newest: Option<i64> = rows::column_of(&row, "newest")?;
        // By the clock that everybody judges its age by.
        let now =
            Timestamp::from_millisecond(metrics::now_ms(tx).await?).map_err(|_| corrupt("the clock of the store".to_owned()))?;
        // Two in one millisecond, or a clock that went back: behind the newest all the same.
        let slot_ms = newest.map_or(now.as_millisecond(), |newest| now.as_millisecond().max(newest + 1));
        // Whole seconds belong to the fields.
        let slot_ms = if slot_ms % 1_000 == 0 { slot_ms + 1 } else { slot_ms };
        let slot = Timestamp::from_millisecond(slot_ms).map_err(|_| corrupt(format!("slot {slot_ms}")))?;
        let record = SlotRecord {
            schedule: self.schedule,
            slot,
            kind: SlotOutcome::Pending,
            reason: BY_HAND.to_owned(),
            run: None,
            missed: 1,
            first_slot: slot,
            decided_at: now,
            manual: true,
            fired_by: self.decision.caller.principal.clone(),
        };
        let request = Some(self.request.as_str()).filter(|request| !request.is_empty());
        insert(tx, &record, None, request).await?;
        decisions::insert(tx, &self.decision).await?;
        let granted = grant(tx, &id, slot_ms, &self.holder, self.term_ms).await?;
        Ok(granted.map_or(FiredNow::Busy, |granted| FiredNow::Granted(Box::new(granted))))
    }
}

/// Prolongs a claim.
pub(super) struct Hold {
    claim: SlotClaim,
    term_ms: i64,
}

impl Hold {
    pub(super) fn new(claim: SlotClaim, term: Duration) -> Self {
        Self {
            claim,
            term_ms: lease_ms(term),
        }
    }
}

impl Act for Hold {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        let sql = format!(
            "UPDATE schedule_slots SET lease_until_ms = {} + $4 WHERE schedule_id = $1 AND slot_ms = $2 AND claims = $3 AND outcome = 'pending'",
            tx.dialect.now_ms()
        );
        let held = sqlx::query(AssertSqlSafe(sql))
            .bind(self.claim.schedule.to_string())
            .bind(self.claim.slot.as_millisecond())
            .bind(rows::signed(self.claim.fence))
            .bind(self.term_ms)
            .execute(&mut *tx.connection)
            .await?;
        Ok(held.rows_affected() == 1)
    }
}

/// Marks a slot as fired by a run, in the transaction that accepts the run. False where the claim is not the newest any more, or the schedule
/// was changed since; where its time fired it, also where the schedule was paused since, or the scheduler stopped.
pub(super) async fn fire(tx: &mut Tx<'_>, claim: &SlotClaim, run: dbkeep_engine::model::RunId) -> Result<bool, Failure> {
    // Whoever changes, pauses or deletes it writes its row: from here on nobody does.
    let sql = format!(
        "SELECT etag, state, coalesce((SELECT running FROM scheduler_switch), 1) AS running FROM schedules WHERE id = $1 {}",
        tx.dialect.lock_rows()
    );
    let id = claim.schedule.to_string();
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(&id)
        .fetch_optional(&mut *tx.connection)
        .await?;
    let Some(found) = found else { return Ok(false) };
    if rows::column_of::<i64>(&found, "etag")? != rows::signed(claim.etag) {
        return Ok(false);
    }
    let state: String = rows::column_of(&found, "state")?;
    let state: ScheduleState = rows::from_json(&state, || format!("state of schedule {id}"))?;
    let held_back = state.paused.is_some() || rows::column_of::<i64>(&found, "running")? == 0;
    let fired = sqlx::query(
        "UPDATE schedule_slots SET outcome = 'fired', run_id = $4, holder = NULL, lease_until_ms = NULL \
         WHERE schedule_id = $1 AND slot_ms = $2 AND claims = $3 AND outcome = 'pending' AND (manual = 1 OR $5 = 0)",
    )
    .bind(&id)
    .bind(claim.slot.as_millisecond())
    .bind(rows::signed(claim.fence))
    .bind(run.to_string())
    .bind(i64::from(held_back))
    .execute(&mut *tx.connection)
    .await?;
    Ok(fired.rows_affected() == 1)
}

/// Ends a slot.
pub(super) struct Settle {
    settlement: SlotEnd,
}

impl Settle {
    pub(super) fn new(settlement: &SlotEnd) -> Self {
        Self {
            settlement: settlement.clone(),
        }
    }
}

impl Act for Settle {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        let SlotEnd {
            kept,
            slot,
            from,
            fence,
            to,
            reason,
            state,
            call_again,
        } = &self.settlement;
        let mut changed = kept.clone();
        changed.schedule.state = state.clone();
        if !schedules::write_state(tx, &changed).await? {
            return Ok(false);
        }
        let sql = format!(
            "UPDATE schedule_slots SET outcome = $4, reason = $5, holder = NULL, lease_until_ms = NULL{} \
             WHERE schedule_id = $1 AND slot_ms = $2 AND outcome = $3{}",
            if *call_again { ", request_id = NULL" } else { "" },
            if fence.is_some() { " AND claims = $6" } else { "" }
        );
        let mut query = sqlx::query(AssertSqlSafe(sql))
            .bind(kept.schedule.id.to_string())
            .bind(slot.as_millisecond())
            .bind(from.name())
            .bind(to.name())
            .bind(rows::text(reason));
        if let Some(fence) = fence {
            query = query.bind(rows::signed(*fence));
        }
        if query.execute(&mut *tx.connection).await?.rows_affected() != 1 {
            // The schedule's row must not change without the slot's.
            return Err(Failure::Store(StoreError::Fenced));
        }
        let (id, spec) = (kept.schedule.id, &kept.schedule.spec);
        let record = SlotRecord {
            schedule: id,
            slot: *slot,
            kind: *to,
            reason: reason.clone(),
            run: None,
            missed: 1,
            first_slot: *slot,
            decided_at: rows::now(),
            manual: false,
            fired_by: String::new(),
        };
        endings::announce_slot(tx, spec, &record).await?;
        if let Some(pause) = state.paused.as_ref().filter(|_| kept.schedule.state.paused.is_none()) {
            endings::announce_pause(tx, id, spec, pause.at, &pause.note).await?;
        }
        Ok(true)
    }
}

/// Sets when the open slots of a schedule have to end, whose deadline may be another now.
pub(super) async fn renew_deadlines(tx: &mut Tx<'_>, kept: &Kept) -> Result<(), Failure> {
    let seconds = i64::from(kept.schedule.spec.deadline_seconds);
    sqlx::query(
        "UPDATE schedule_slots SET deadline_ms = CASE WHEN $2 > 0 THEN slot_ms + $2 * 1000 END \
         WHERE schedule_id = $1 AND manual = 0 AND outcome IN ('pending', 'waiting', 'fired')",
    )
    .bind(kept.schedule.id.to_string())
    .bind(seconds)
    .execute(&mut *tx.connection)
    .await?;
    Ok(())
}

impl ControlStore {
    pub(super) async fn settled(&self, settlement: &SlotEnd) -> Result<bool, StoreError> {
        match self.write(Settle::new(settlement)).await {
            Err(StoreError::Fenced) => Ok(false),
            answer => answer,
        }
    }

    pub(super) async fn read_open_slots(&self, schedule: ScheduleId) -> Result<OpenSlots, StoreError> {
        let sql = format!(
            "SELECT {SLOT} FROM schedule_slots AS l WHERE l.schedule_id = $1 AND l.outcome IN ('pending', 'waiting', 'fired') ORDER BY l.slot_ms"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(schedule.to_string());
        let mut open = OpenSlots::default();
        for row in self.read(query.fetch_all(&self.pool)).await? {
            let record = record(&row)?;
            match record.kind {
                SlotOutcome::Waiting => open.waiting = Some(record.slot),
                _ => open.previous = Some((record.slot, record.run)),
            }
        }
        Ok(open)
    }

    /// Slots with this outcome that have not ended; of fired ones, on demand, only those whose runs have.
    pub(super) async fn read_open(&self, outcome: SlotOutcome, ended: bool, limit: u32) -> Result<Vec<EndedSlot>, StoreError> {
        let condition = if ended {
            "AND NOT EXISTS (SELECT 1 FROM runs AS r WHERE r.id = l.run_id AND r.state NOT IN ('cancelled', 'succeeded', \
             'partially_succeeded', 'failed'))"
        } else {
            ""
        };
        let sql = format!(
            "SELECT {SLOT}, {} FROM schedule_slots AS l JOIN schedules AS s ON s.id = l.schedule_id WHERE l.outcome = $1 \
             AND l.outcome IN ('pending', 'waiting', 'fired') {condition} ORDER BY l.slot_ms LIMIT $2",
            schedules::COLUMNS
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(outcome.name()).bind(i64::from(limit));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        let read = |row: &AnyRow| {
            Ok(EndedSlot {
                record: record(row)?,
                kept: schedules::kept(row)?,
            })
        };
        Ok(schedules::readable(found.iter().map(read)))
    }

    pub(super) async fn read_unclaimed(
        &self,
        since: Duration,
        behind: Option<SlotPlace>,
        limit: u32,
    ) -> Result<Vec<EndedSlot>, StoreError> {
        // The condition of the index `slots_open` has to stand there word for word.
        let sql = format!(
            "SELECT {SLOT}, {} FROM schedule_slots AS l JOIN schedules AS s ON s.id = l.schedule_id WHERE l.outcome = 'pending' \
             AND l.outcome IN ('pending', 'waiting', 'fired') AND (lease_until_ms IS NULL OR {}) AND l.decided_ms <= {} - $1 \
             AND (l.slot_ms > $2 OR (l.slot_ms = $2 AND l.schedule_id > $3)) ORDER BY l.slot_ms, l.schedule_id LIMIT $4",
            schedules::COLUMNS,
            self.dialect.lapsed(),
            self.dialect.now_ms()
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(term_ms(since))
            .bind(behind.map_or(i64::MIN, |place| place.slot.as_millisecond()))
            .bind(behind.map_or_else(String::new, |place| place.schedule.to_string()))
            .bind(i64::from(limit));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        let read = |row: &AnyRow| {
            Ok(EndedSlot {
                record: record(row)?,
                kept: schedules::kept(row)?,
            })
        };
        Ok(schedules::readable(found.iter().map(read)))
    }

    pub(super) async fn read_overdue(&self, now: Timestamp, limit: u32) -> Result<Vec<EndedSlot>, StoreError> {
        // The condition of the index `slots_deadline` has to stand there word for word.
        let sql = format!(
            "SELECT {SLOT}, {} FROM schedule_slots AS l JOIN schedules AS s ON s.id = l.schedule_id JOIN runs AS r ON r.id = l.run_id \
             WHERE l.outcome = 'fired' AND l.deadline_ms IS NOT NULL AND l.deadline_ms <= $1 AND r.cancel_reason IS NULL \
             AND r.state NOT IN ('cancelled', 'succeeded', 'partially_succeeded', 'failed') ORDER BY l.deadline_ms LIMIT $2",
            schedules::COLUMNS
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(now.as_millisecond())
            .bind(i64::from(limit));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        let read = |row: &AnyRow| {
            Ok(EndedSlot {
                record: record(row)?,
                kept: schedules::kept(row)?,
            })
        };
        Ok(schedules::readable(found.iter().map(read)))
    }

    pub(super) async fn read_slots(
        &self,
        filter: &SlotFilter,
        behind: Option<SlotPlace>,
        limit: u32,
    ) -> Result<Vec<SlotRecord>, StoreError> {
        let mut conditions = Vec::new();
        let mut number = 1;
        if filter.schedule.is_some() {
            conditions.push(format!("l.schedule_id = ${number}"));
            number += 1;
        }
        if behind.is_some() {
            conditions.push(format!(
                "(l.slot_ms < ${number} OR (l.slot_ms = ${number} AND l.schedule_id < ${}))",
                number + 1
            ));
            number += 2;
        }
        if !filter.outcomes.is_empty() {
            // Names of our own, which need no escape.
            let names: Vec<_> = filter
                .outcomes
                .iter()
                .map(|outcome| format!("'{}'", outcome.name()))
                .collect();
            conditions.push(format!("l.outcome IN ({})", names.join(", ")));
        }
        let place = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        let sql =
            format!("SELECT {SLOT} FROM schedule_slots AS l {place} ORDER BY l.slot_ms DESC, l.schedule_id DESC LIMIT ${number}");
        let mut query = sqlx::query(AssertSqlSafe(sql));
        if let Some(schedule) = filter.schedule {
            query = query.bind(schedule.to_string());
        }
        if let Some(behind) = behind {
            query = query.bind(behind.slot.as_millisecond()).bind(behind.schedule.to_string());
        }
        let found = self.read(query.bind(i64::from(limit)).fetch_all(&self.pool)).await?;
        found.iter().map(record).collect()
    }
}
