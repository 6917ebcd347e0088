//! The outbox: envelopes from the moment that something happened until they are delivered or given up. Times are the database's.
//!
//! A row is due while `state = 'due'`; in hand while it also has a lease that has not lapsed. `attempts` counts every try and is the fence
//! of the newest one, `tries` those since `since_ms`, from where the give-up limits count.

use std::time::Duration;

use dbkeep_engine::{
    model::{
        Decision,
        notice::{Delivery, DeliveryId, DeliveryState, Envelope, Notice},
    },
    port::{ClaimedDelivery, DeliveryFilter, Requeued, Settlement, StoreError},
};
use sqlx::{AssertSqlSafe, any::AnyRow};

use super::{
    ControlStore, decisions,
    dialect::Dialect,
    draft::{lease_ms, term_ms},
    failure::{Failure, corrupt},
    rows,
    transaction::{Act, Tx},
};

const COLUMNS: &str =
    "id, channel, recipients, notice, state, attempts, tries, last_error, created_ms, since_ms, due_ms, ended_ms";

/// From when on a delivery may be tried, where it is due at all: once its lease is over, or its wait. One from before the clock went back may be at
/// once; its tries are counted from now on, so that its next wait is one again.
fn free_ms(dialect: Dialect) -> String {
    let (now, lapsed) = (dialect.now_ms(), dialect.lapsed());
    format!(
        "CASE WHEN lease_until_ms IS NULL AND since_ms <= {now} THEN due_ms WHEN lease_until_ms IS NULL OR {lapsed} THEN 0 \
         ELSE lease_until_ms END"
    )
}

/// Puts envelopes into the outbox within a transaction, due at once; returns how many were not there before. This is for store code that
/// tells of what it writes; what it puts in is there if and only if the transaction commits.
pub(super) async fn enqueue(tx: &mut Tx<'_>, envelopes: &[Envelope]) -> Result<u64, Failure> {
    let now = tx.dialect.now_ms();
    let sql = format!(
        "INSERT INTO deliveries (id, notice_id, channel, recipients, notice, run_id, state, attempts, tries, \
         last_error, created_ms, since_ms, due_ms) VALUES ($1, $2, $3, $4, $5, $6, 'due', 0, 0, '', {now}, {now}, {now}) \
         ON CONFLICT (notice_id, channel, recipients) DO NOTHING"
    );
    let mut ordered: Vec<(String, &Envelope)> = Vec::with_capacity(envelopes.len());
    for envelope in envelopes {
        // In one order and once each: what is compared is the set.
        let mut recipients = envelope.recipients.clone();
        recipients.sort_unstable();
        recipients.dedup();
        ordered.push((rows::to_json(&recipients)?, envelope));
    }
    // Everybody inserts in the same order, so that two transactions that tell of the same event wait for each other and do not lock up.
    ordered.sort_by(|one, other| {
        let key =
            |(recipients, envelope): &(String, &Envelope)| (envelope.notice.id, envelope.channel.clone(), recipients.clone());
        key(one).cmp(&key(other))
    });
    let mut added = 0;
    for (recipients, envelope) in ordered {
        let notice = &envelope.notice;
        let inserted = sqlx::query(AssertSqlSafe(sql.clone()))
            .bind(DeliveryId::new().to_string())
            .bind(notice.id.to_string())
            .bind(rows::text(&envelope.channel))
            .bind(recipients)
            .bind(rows::to_json(notice)?)
            .bind(notice.run.map(|run| run.to_string()))
            .execute(&mut *tx.connection)
            .await?;
        added += inserted.rows_affected();
    }
    tx.enqueued |= added > 0;
    Ok(added)
}

/// Puts envelopes into the outbox in a transaction of its own.
pub(super) struct Put {
    envelopes: Vec<Envelope>,
}

impl Put {
    pub(super) fn new(envelopes: &[Envelope]) -> Self {
        Self {
            envelopes: envelopes.to_vec(),
        }
    }
}

impl Act for Put {
    type Output = u64;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<u64, Failure> {
        enqueue(tx, &self.envelopes).await
    }
}

/// Takes up deliveries over a channel that nobody tries.
pub(super) struct Take {
    channel: String,
    holder: String,
    term_ms: i64,
    limit: u32,
}

impl Take {
    pub(super) fn new(channel: &str, holder: &str, term: Duration, limit: u32) -> Self {
        Self {
            channel: rows::text(channel),
            holder: rows::text(holder),
            term_ms: lease_ms(term),
            limit,
        }
    }
}

impl Act for Take {
    type Output = Vec<ClaimedDelivery>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Vec<ClaimedDelivery>, Failure> {
        let now = tx.dialect.now_ms();
        // Locked first and changed then: with the selection inside the update, PostgreSQL may take more rows than the limit.
        let sql = format!(
            "SELECT id FROM deliveries WHERE state = 'due' AND channel = $1 AND {} <= {now} ORDER BY due_ms, id LIMIT $2 {}",
            free_ms(tx.dialect),
            tx.dialect.lock_free_rows()
        );
        let found = sqlx::query(AssertSqlSafe(sql))
            .bind(&self.channel)
            .bind(i64::from(self.limit))
            .fetch_all(&mut *tx.connection)
            .await?;
        let sql = format!(
            "UPDATE deliveries SET attempts = attempts + 1, tries = tries + 1, holder = $2, lease_until_ms = {now} + $3, \
             since_ms = CASE WHEN since_ms > {now} THEN {now} ELSE since_ms END WHERE id = $1 RETURNING {COLUMNS}, {now} - since_ms AS tried_ms"
        );
        let mut claimed = Vec::with_capacity(found.len());
        for row in &found {
            let id: String = rows::column_of(row, "id")?;
            let query = sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(id)
                .bind(&self.holder)
                .bind(self.term_ms);
            // All rows rather than one: SQLite ends a statement when it is stepped to its end.
            for row in &query.fetch_all(&mut *tx.connection).await? {
                let tried_ms: i64 = rows::column_of(row, "tried_ms")?;
                let delivery = delivery(row)?;
                claimed.push(ClaimedDelivery {
                    tries: number(row, "tries", delivery.id)?,
                    // A clock that was set back has tried for no time.
                    tried_for: Duration::from_millis(u64::try_from(tried_ms).unwrap_or_default()),
                    delivery,
                });
            }
        }
        Ok(claimed)
    }
}

/// Writes what became of a try.
pub(super) struct Settle {
    delivery: DeliveryId,
    attempt: u32,
    settlement: Settlement,
}

impl Settle {
    pub(super) fn new(delivery: DeliveryId, attempt: u32, settlement: &Settlement) -> Self {
        Self {
            delivery,
            attempt,
            settlement: settlement.clone(),
        }
    }
}

impl Act for Settle {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        let now = tx.dialect.now_ms();
        let (state, error, wait_ms) = match &self.settlement {
            Settlement::Delivered => (DeliveryState::Delivered, "", None),
            Settlement::Again { after, error } => (DeliveryState::Due, error.as_str(), Some(term_ms(*after))),
            Settlement::Dead { error } => (DeliveryState::Dead, error.as_str(), None),
        };
        let times = match wait_ms {
            Some(_) => format!("due_ms = {now} + $5"),
            None => format!("ended_ms = {now}"),
        };
        let sql = format!(
            "UPDATE deliveries SET state = $3, last_error = $4, holder = NULL, lease_until_ms = NULL, {times} \
             WHERE id = $1 AND attempts = $2 AND state = 'due'"
        );
        let mut query = sqlx::query(AssertSqlSafe(sql))
            .bind(self.delivery.to_string())
            .bind(i64::from(self.attempt))
            .bind(state.name())
            .bind(rows::text(error));
        if let Some(wait_ms) = wait_ms {
            query = query.bind(wait_ms);
        }
        Ok(query.execute(&mut *tx.connection).await?.rows_affected() > 0)
    }
}

/// Lets every lease on a delivery lapse.
pub(super) struct ReleaseAll;

impl Act for ReleaseAll {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        sqlx::query(
            "UPDATE deliveries SET holder = NULL, lease_until_ms = NULL WHERE state = 'due' AND lease_until_ms IS NOT NULL",
        )
        .execute(&mut *tx.connection)
        .await?;
        Ok(())
    }
}

/// Makes a dead delivery due again.
pub(super) struct Requeue {
    id: DeliveryId,
    decision: Decision,
}

impl Requeue {
    pub(super) fn new(id: DeliveryId, decision: &Decision) -> Self {
        Self {
            id,
            decision: decision.clone(),
        }
    }
}

impl Act for Requeue {
    type Output = Requeued;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Requeued, Failure> {
        let now = tx.dialect.now_ms();
        let sql = format!(
            "UPDATE deliveries SET state = 'due', tries = 0, since_ms = {now}, due_ms = {now}, ended_ms = NULL WHERE id = $1 AND state = 'dead'"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.id.to_string());
        let changed = query.execute(&mut *tx.connection).await?.rows_affected() > 0;
        let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE id = $1");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.id.to_string());
        let Some(row) = query.fetch_optional(&mut *tx.connection).await? else {
            return Ok(Requeued::Unknown);
        };
        let delivery = delivery(&row)?;
        if !changed {
            return Ok(Requeued::NotDead(delivery));
        }
        decisions::insert(tx, &self.decision).await?;
        tx.enqueued = true;
        Ok(Requeued::Done(delivery))
    }
}

/// Gives up what no server delivers any more.
pub(super) struct Abandon {
    channels: Vec<String>,
    after_ms: i64,
    reason: String,
}

impl Abandon {
    pub(super) fn new(channels: &[String], after: Duration, reason: &str) -> Self {
        Self {
            channels: channels.iter().map(|channel| rows::text(channel)).collect(),
            after_ms: term_ms(after),
            reason: rows::text(reason),
        }
    }
}

impl Act for Abandon {
    type Output = u64;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<u64, Failure> {
        let now = tx.dialect.now_ms();
        let known = match placeholders(&self.channels, 3) {
            None => String::new(),
            Some(list) => format!("AND channel NOT IN ({list})"),
        };
        let sql = format!(
            "UPDATE deliveries SET state = 'dead', last_error = $1, holder = NULL, lease_until_ms = NULL, ended_ms = {now} WHERE state = 'due' \
             AND due_ms <= {now} AND (lease_until_ms IS NULL OR lease_until_ms <= {now}) AND since_ms <= {now} - $2 {known}"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.reason).bind(self.after_ms);
        let query = self.channels.iter().fold(query, |query, channel| query.bind(channel));
        Ok(query.execute(&mut *tx.connection).await?.rows_affected())
    }
}

/// Removes what has ended long ago.
pub(super) struct Prune {
    delivered_ms: i64,
    dead_ms: i64,
}

impl Prune {
    pub(super) fn new(delivered: Duration, dead: Duration) -> Self {
        Self {
            delivered_ms: term_ms(delivered),
            dead_ms: term_ms(dead),
        }
    }
}

impl Act for Prune {
    type Output = u64;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<u64, Failure> {
        let now = tx.dialect.now_ms();
        let sql = format!(
            "DELETE FROM deliveries WHERE (state = 'delivered' AND ended_ms <= {now} - $1) OR (state = 'dead' AND ended_ms <= {now} - $2)"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.delivered_ms).bind(self.dead_ms);
        Ok(query.execute(&mut *tx.connection).await?.rows_affected())
    }
}

impl ControlStore {
    pub(super) async fn read_next_due(&self, channels: &[String]) -> Result<Option<Duration>, StoreError> {
        let Some(list) = placeholders(channels, 1) else {
            return Ok(None);
        };
        let sql = format!(
            "SELECT MIN({}) - {} AS wait_ms FROM deliveries WHERE state = 'due' AND channel IN ({list})",
            free_ms(self.dialect),
            self.dialect.now_ms()
        );
        let query = channels.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, channel| {
            query.bind(rows::text(channel))
        });
        let row = self.read(query.fetch_one(&self.pool)).await?;
        let wait_ms: Option<i64> = rows::column_of(&row, "wait_ms")?;
        Ok(wait_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default())))
    }

    pub(super) async fn read_delivery(&self, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE id = $1");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        let row = self.read(query.fetch_optional(&self.pool)).await?;
        row.as_ref().map(delivery).transpose()
    }

    pub(super) async fn read_deliveries(
        &self,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        limit: u32,
    ) -> Result<Vec<Delivery>, StoreError> {
        let parts = [
            ("state =", filter.state.map(|state| state.name().to_owned())),
            ("channel =", filter.channel.as_deref().map(rows::text)),
            ("run_id =", filter.run.map(|run| run.to_string())),
            ("id <", before.map(|id| id.to_string())),
        ];
        let (mut conditions, mut values) = (Vec::new(), Vec::new());
        for (condition, value) in parts {
            if let Some(value) = value {
                values.push(value);
                conditions.push(format!("{condition} ${}", values.len()));
            }
        }
        let place = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        let sql = format!(
            "SELECT {COLUMNS} FROM deliveries {place} ORDER BY id DESC LIMIT ${}",
            values.len() + 1
        );
        let query = values
            .into_iter()
            .fold(sqlx::query(AssertSqlSafe(sql)), |query, value| query.bind(value));
        let found = self.read(query.bind(i64::from(limit)).fetch_all(&self.pool)).await?;
        found.iter().map(delivery).collect()
    }
}

/// `$3, $4, ..` for so many values; `None` for none.
fn placeholders(values: &[String], first: usize) -> Option<String> {
    let numbered: Vec<String> = (first..).take(values.len()).map(|number| format!("${number}")).collect();
    (!numbered.is_empty()).then(|| numbered.join(", "))
}

fn number(row: &AnyRow, column: &str, id: DeliveryId) -> Result<u32, StoreError> {
    let stored: i64 = rows::column_of(row, column)?;
    u32::try_from(stored).map_err(|_| corrupt(format!("{column} {stored} of delivery {id}")))
}

fn delivery(row: &AnyRow) -> Result<Delivery, StoreError> {
    let stored: String = rows::column_of(row, "id")?;
    let id: DeliveryId = stored.parse().map_err(|_| corrupt(format!("id {stored:?} of a delivery")))?;
    let instant = |column: &str, ms: i64| {
        jiff::Timestamp::from_millisecond(ms).map_err(|_| corrupt(format!("{column} {ms} of delivery {id}")))
    };
    let state: String = rows::column_of(row, "state")?;
    let (recipients, notice): (String, String) = (rows::column_of(row, "recipients")?, rows::column_of(row, "notice")?);
    let notice: Notice = rows::from_json(&notice, || format!("notice of delivery {id}"))?;
    let ended_ms: Option<i64> = rows::column_of(row, "ended_ms")?;
    Ok(Delivery {
        id,
        envelope: Envelope {
            notice,
            channel: rows::column_of(row, "channel")?,
            recipients: rows::from_json(&recipients, || format!("recipients of delivery {id}"))?,
        },
        state: DeliveryState::named(&state).ok_or_else(|| corrupt(format!("state {state:?} of delivery {id}")))?,
        attempts: number(row, "attempts", id)?,
        last_error: rows::column_of(row, "last_error")?,
        created_at: instant("created_ms", rows::column_of(row, "created_ms")?)?,
        due_at: instant("due_ms", rows::column_of(row, "due_ms")?)?,
        ended_at: ended_ms.map(|ms| instant("ended_ms", ms)).transpose()?,
    })
}
