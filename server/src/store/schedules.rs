//! Schedules and the switch over all of them: rows of `schedules`, `seeded_schedules` and `scheduler_switch`.

use dbkeep_engine::{
    model::{Decision, Schedule, ScheduleId, SchedulerSwitch, SlotRecord},
    port::{Changed, CreateSchedule, Kept, Pulse, ScheduleCreated, Scheduled, StoreError},
};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, any::AnyRow};

use super::{
    ControlStore, decisions,
    failure::{Failure, corrupt},
    rows, slots,
    transaction::{Act, Tx},
};

/// The columns that [`kept`] reads.
pub(super) const COLUMNS: &str =
    "s.id AS id, s.etag, s.version, s.spec, s.state, s.created_ms, s.created_by, s.updated_ms, s.updated_by";

/// Reads a row with the columns of [`COLUMNS`].
pub(super) fn kept(row: &AnyRow) -> Result<Kept, StoreError> {
    let id: String = rows::column_of(row, "id")?;
    let strange = |column: &str| corrupt(format!("{column} of schedule {id}"));
    let number = |column: &str| -> Result<u64, StoreError> {
        u64::try_from(rows::column_of::<i64>(row, column)?).map_err(|_| strange(column))
    };
    let time = |column: &str| -> Result<Timestamp, StoreError> {
        Timestamp::from_millisecond(rows::column_of(row, column)?).map_err(|_| strange(column))
    };
    let json = |column: &str| rows::column_of::<String>(row, column);
    let schedule = Schedule {
        id: id.parse().map_err(|_| strange("id"))?,
        etag: number("etag")?,
        spec: rows::from_json(&json("spec")?, || format!("spec of schedule {id}"))?,
        state: rows::from_json(&json("state")?, || format!("state of schedule {id}"))?,
        created_at: time("created_ms")?,
        created_by: rows::column_of(row, "created_by")?,
        updated_at: time("updated_ms")?,
        updated_by: rows::column_of(row, "updated_by")?,
    };
    Ok(Kept {
        schedule,
        version: number("version")?,
    })
}

/// Those that can be read. One that cannot, of a later version or a damaged store, must not stop all the others.
pub(super) fn readable<T>(found: impl Iterator<Item = Result<T, StoreError>>) -> Vec<T> {
    found
        .filter_map(|entry| match entry {
            Ok(entry) => Some(entry),
            Err(error) => {
                tracing::error!(%error, "a schedule is passed over");
                None
            }
        })
        .collect()
}

/// When its next slot begins, as the column holds it.
fn next_fire_ms(schedule: &Schedule) -> Option<i64> {
    let fires = schedule.spec.enabled && schedule.state.paused.is_none();
    schedule.state.next_fire.filter(|_| fires).map(Timestamp::as_millisecond)
}

async fn insert(tx: &mut Tx<'_>, schedule: &Schedule, request: Option<(&str, &str)>) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO schedules (id, name, target, etag, version, spec, state, next_fire_ms, created_ms, created_by, updated_ms, \
         updated_by, request_id, request_digest) VALUES ($1, $2, $3, $4, 1, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(schedule.id.to_string())
    .bind(rows::text(&schedule.spec.name))
    .bind(rows::text(&schedule.spec.target))
    .bind(rows::signed(schedule.etag))
    .bind(rows::to_json(&schedule.spec)?)
    .bind(rows::to_json(&schedule.state)?)
    .bind(next_fire_ms(schedule))
    .bind(schedule.created_at.as_millisecond())
    .bind(rows::text(&schedule.created_by))
    .bind(schedule.updated_at.as_millisecond())
    .bind(rows::text(&schedule.updated_by))
    .bind(request.map(|(id, _)| rows::text(id)))
    .bind(request.map(|(_, digest)| digest.to_owned()))
    .execute(&mut *tx.connection)
    .await?;
    Ok(())
}

/// The schedule that has a name.
async fn named(tx: &mut Tx<'_>, name: &str) -> Result<Option<ScheduleId>, Failure> {
    let row = sqlx::query("SELECT id FROM schedules WHERE name = $1")
        .bind(rows::text(name))
        .fetch_optional(&mut *tx.connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let id: String = rows::column_of(&row, "id")?;
    Ok(Some(id.parse().map_err(|_| corrupt(format!("id {id:?} of a schedule")))?))
}

/// Creates a schedule.
pub(super) struct Create {
    request: CreateSchedule,
}

impl Create {
    pub(super) fn new(request: &CreateSchedule) -> Self {
        Self {
            request: request.clone(),
        }
    }
}

impl Act for Create {
    type Output = ScheduleCreated;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<ScheduleCreated, Failure> {
        let CreateSchedule {
            schedule,
            request_id,
            request_digest,
            decision,
        } = &self.request;
        if !request_id.is_empty() {
            let sql = format!("SELECT {COLUMNS}, s.request_digest FROM schedules AS s WHERE s.request_id = $1");
            let row = sqlx::query(AssertSqlSafe(sql))
                .bind(rows::text(request_id))
                .fetch_optional(&mut *tx.connection)
                .await?;
            if let Some(row) = row {
                let digest: String = rows::column_of(&row, "request_digest")?;
                return Ok(if digest == *request_digest {
                    ScheduleCreated::Repeated(Box::new(kept(&row)?.schedule))
                } else {
                    ScheduleCreated::RequestIdReused
                });
            }
        }
        if let Some(other) = named(tx, &schedule.spec.name).await? {
            return Ok(ScheduleCreated::NameTaken(other));
        }
        let request = (!request_id.is_empty()).then_some((request_id.as_str(), request_digest.as_str()));
        insert(tx, schedule, request).await?;
        decisions::insert(tx, decision).await?;
        Ok(ScheduleCreated::Made)
    }
}

/// Creates the schedules of a catalog that were never created.
pub(super) struct Seed {
    target: String,
    schedules: Vec<Schedule>,
}

impl Seed {
    pub(super) fn new(target: &str, schedules: &[Schedule]) -> Self {
        Self {
            target: rows::text(target),
            schedules: schedules.to_vec(),
        }
    }
}

impl Act for Seed {
    type Output = Vec<String>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Vec<String>, Failure> {
        let mut created = Vec::new();
        for schedule in &self.schedules {
            let marked =
                sqlx::query("INSERT INTO seeded_schedules (target, name) VALUES ($1, $2) ON CONFLICT (target, name) DO NOTHING")
                    .bind(&self.target)
                    .bind(rows::text(&schedule.spec.name))
                    .execute(&mut *tx.connection)
                    .await?;
            if marked.rows_affected() == 0 {
                continue;
            }
            let mut schedule = schedule.clone();
            if named(tx, &schedule.spec.name).await?.is_some() {
                // Another target has the same catalog, or somebody was first.
                schedule.spec.name = format!("{} ({})", schedule.spec.name, schedule.spec.target);
            }
            if named(tx, &schedule.spec.name).await?.is_none() {
                insert(tx, &schedule, None).await?;
                created.push(schedule.spec.name);
            }
        }
        Ok(created)
    }
}

/// Writes the schedule's row, where it is as it was read. Returns whether it was.
async fn write(tx: &mut Tx<'_>, kept: &Kept) -> Result<bool, Failure> {
    let schedule = &kept.schedule;
    let written = sqlx::query(
        "UPDATE schedules SET name = $3, target = $4, etag = $5, version = version + 1, spec = $6, state = $7, next_fire_ms = $8, \
         updated_ms = $9, updated_by = $10 WHERE id = $1 AND version = $2",
    )
    .bind(schedule.id.to_string())
    .bind(rows::signed(kept.version))
    .bind(rows::text(&schedule.spec.name))
    .bind(rows::text(&schedule.spec.target))
    .bind(rows::signed(schedule.etag))
    .bind(rows::to_json(&schedule.spec)?)
    .bind(rows::to_json(&schedule.state)?)
    .bind(next_fire_ms(schedule))
    .bind(schedule.updated_at.as_millisecond())
    .bind(rows::text(&schedule.updated_by))
    .execute(&mut *tx.connection)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// Writes where a schedule stands, where its row is as it was read. Returns whether it was. What it is stays as it is, also where a later version of
/// dbkeep has written more of that than this one reads.
pub(super) async fn write_state(tx: &mut Tx<'_>, kept: &Kept) -> Result<bool, Failure> {
    let written =
        sqlx::query("UPDATE schedules SET version = version + 1, state = $3, next_fire_ms = $4 WHERE id = $1 AND version = $2")
            .bind(kept.schedule.id.to_string())
            .bind(rows::signed(kept.version))
            .bind(rows::to_json(&kept.schedule.state)?)
            .bind(next_fire_ms(&kept.schedule))
            .execute(&mut *tx.connection)
            .await?;
    Ok(written.rows_affected() == 1)
}

/// Changes a schedule.
pub(super) struct Change {
    changed: Kept,
    passed: Vec<SlotRecord>,
    decision: Decision,
}

impl Change {
    pub(super) fn new(changed: &Kept, passed: &[SlotRecord], decision: &Decision) -> Self {
        Self {
            changed: changed.clone(),
            passed: passed.to_vec(),
            decision: decision.clone(),
        }
    }
}

impl Act for Change {
    type Output = Changed;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Changed, Failure> {
        let schedule = &self.changed.schedule;
        if named(tx, &schedule.spec.name)
            .await?
            .is_some_and(|other| other != schedule.id)
        {
            return Ok(Changed::NameTaken);
        }
        if !write(tx, &self.changed).await? {
            return Ok(Changed::Outrun);
        }
        slots::renew_deadlines(tx, &self.changed).await?;
        slots::record_all(tx, schedule, &self.passed).await?;
        decisions::insert(tx, &self.decision).await?;
        Ok(Changed::Done)
    }
}

/// Removes a schedule.
pub(super) struct Delete {
    kept: Kept,
    decision: Decision,
}

impl Delete {
    pub(super) fn new(kept: &Kept, decision: &Decision) -> Self {
        Self {
            kept: kept.clone(),
            decision: decision.clone(),
        }
    }
}

impl Act for Delete {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        let deleted = sqlx::query("DELETE FROM schedules WHERE id = $1 AND version = $2")
            .bind(self.kept.schedule.id.to_string())
            .bind(rows::signed(self.kept.version))
            .execute(&mut *tx.connection)
            .await?;
        if deleted.rows_affected() == 0 {
            return Ok(false);
        }
        decisions::insert(tx, &self.decision).await?;
        Ok(true)
    }
}

/// Sets the switch.
pub(super) struct SetSwitch {
    switch: SchedulerSwitch,
    decision: Decision,
}

impl SetSwitch {
    pub(super) fn new(switch: &SchedulerSwitch, decision: &Decision) -> Self {
        Self {
            switch: switch.clone(),
            decision: decision.clone(),
        }
    }
}

impl Act for SetSwitch {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        let at = self.switch.at.unwrap_or_else(rows::now);
        sqlx::query(
            "INSERT INTO scheduler_switch (id, running, note, changed_by, changed_ms) VALUES (1, $1, $2, $3, $4) ON CONFLICT (id) \
             DO UPDATE SET running = excluded.running, note = excluded.note, changed_by = excluded.changed_by, \
             changed_ms = excluded.changed_ms",
        )
        .bind(i64::from(self.switch.running))
        .bind(rows::text(&self.switch.note))
        .bind(rows::text(&self.switch.by))
        .bind(at.as_millisecond())
        .execute(&mut *tx.connection)
        .await?;
        decisions::insert(tx, &self.decision).await
    }
}

impl ControlStore {
    pub(super) async fn read_schedule(&self, key: &str) -> Result<Option<Kept>, StoreError> {
        // An id is never a name that somebody else could have taken: names are looked at where no id fits.
        let column = if key.parse::<ScheduleId>().is_ok() { "id" } else { "name" };
        let sql = format!("SELECT {COLUMNS} FROM schedules AS s WHERE s.{column} = $1");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(rows::text(key));
        let row = self.read(query.fetch_optional(&self.pool)).await?;
        row.as_ref().map(kept).transpose()
    }

    pub(super) async fn read_schedules(
        &self,
        target: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Schedule>, StoreError> {
        let mut values: Vec<String> = Vec::new();
        let mut conditions = Vec::new();
        for (condition, value) in [("s.target =", target), ("s.name >", after)] {
            if let Some(value) = value {
                values.push(rows::text(value));
                conditions.push(format!("{condition} ${}", values.len()));
            }
        }
        let place = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        let sql = format!(
            "SELECT {COLUMNS} FROM schedules AS s {place} ORDER BY s.name LIMIT ${}",
            values.len() + 1
        );
        let query = values
            .into_iter()
            .fold(sqlx::query(AssertSqlSafe(sql)), |query, value| query.bind(value));
        let found = self.read(query.bind(i64::from(limit)).fetch_all(&self.pool)).await?;
        found.iter().map(|row| kept(row).map(|kept| kept.schedule)).collect()
    }

    pub(super) async fn read_due(&self, now: Timestamp, limit: u32) -> Result<Vec<Kept>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM schedules AS s WHERE s.next_fire_ms IS NOT NULL AND s.next_fire_ms <= $1 \
             ORDER BY s.next_fire_ms LIMIT $2"
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(now.as_millisecond())
            .bind(i64::from(limit));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        Ok(readable(found.iter().map(kept)))
    }

    pub(super) async fn read_pulse(&self) -> Result<Pulse, StoreError> {
        let count = |outcome: &str, condition: &str| {
            format!(
                "(SELECT count(*) FROM schedule_slots WHERE outcome = '{outcome}' AND outcome IN ('pending', 'waiting', 'fired'){condition})"
            )
        };
        let now = self.dialect.now_ms();
        let sql = format!(
            "SELECT {now} AS now_ms, coalesce((SELECT running FROM scheduler_switch), 1) AS running, \
             (SELECT min(next_fire_ms) FROM schedules WHERE next_fire_ms IS NOT NULL) AS next_fire_ms, \
             {} AS pending, {} AS waiting, {} AS fired",
            count(
                "pending",
                &format!(" AND (lease_until_ms IS NULL OR {})", self.dialect.lapsed())
            ),
            count("waiting", ""),
            count("fired", "")
        );
        let row = self.read(sqlx::query(AssertSqlSafe(sql)).fetch_one(&self.pool)).await?;
        let number = |column: &str| -> Result<u64, StoreError> {
            u64::try_from(rows::column_of::<i64>(&row, column)?).map_err(|_| corrupt(format!("{column} of a pulse")))
        };
        let time = |ms| Timestamp::from_millisecond(ms).map_err(|_| corrupt(format!("time {ms} of a pulse")));
        let next: Option<i64> = rows::column_of(&row, "next_fire_ms")?;
        Ok(Pulse {
            now: time(rows::column_of(&row, "now_ms")?)?,
            running: number("running")? != 0,
            next_fire: next.map(time).transpose()?,
            pending: number("pending")?,
            waiting: number("waiting")?,
            fired: number("fired")?,
        })
    }

    pub(super) async fn read_scheduled(&self, target: &str) -> Result<Scheduled, StoreError> {
        // The condition of the index `slots_open` has to stand there word for word; SQLite does not infer it.
        let query = sqlx::query(
            "SELECT (SELECT count(*) FROM schedules WHERE target = $1) AS schedules, \
             (SELECT min(next_fire_ms) FROM schedules WHERE target = $1 AND next_fire_ms IS NOT NULL) AS next_fire_ms, \
             (SELECT count(*) FROM schedule_slots WHERE outcome IN ('pending', 'waiting', 'fired') \
               AND schedule_id IN (SELECT s.id FROM schedules AS s WHERE s.id = schedule_slots.schedule_id AND s.target = $1)) AS open_slots",
        );
        let row = self.read(query.bind(rows::text(target)).fetch_one(&self.pool)).await?;
        let number = |column: &str| -> Result<u64, StoreError> {
            u64::try_from(rows::column_of::<i64>(&row, column)?).map_err(|_| corrupt(format!("{column} of target {target}")))
        };
        let next: Option<i64> = rows::column_of(&row, "next_fire_ms")?;
        let time = |ms| Timestamp::from_millisecond(ms).map_err(|_| corrupt(format!("time {ms} of target {target}")));
        Ok(Scheduled {
            schedules: number("schedules")?,
            open_slots: number("open_slots")?,
            next_fire: next.map(time).transpose()?,
        })
    }

    pub(super) async fn read_switch(&self) -> Result<(SchedulerSwitch, u64), StoreError> {
        let row = self
            .read(sqlx::query("SELECT count(*) AS number FROM schedules").fetch_one(&self.pool))
            .await?;
        let number = u64::try_from(rows::column_of::<i64>(&row, "number")?).unwrap_or_default();
        let query = sqlx::query("SELECT running, note, changed_by, changed_ms FROM scheduler_switch");
        let Some(row) = self.read(query.fetch_optional(&self.pool)).await? else {
            return Ok((SchedulerSwitch::default(), number));
        };
        let at: i64 = rows::column_of(&row, "changed_ms")?;
        let switch = SchedulerSwitch {
            running: rows::column_of::<i64>(&row, "running")? != 0,
            note: rows::column_of(&row, "note")?,
            by: rows::column_of(&row, "changed_by")?,
            at: Some(Timestamp::from_millisecond(at).map_err(|_| corrupt(format!("time {at} of the switch")))?),
        };
        Ok((switch, number))
    }
}
