//! Alerts: what the collector of a target raised and resolved, and who looks after it. Changes are written under the claim of the
//! collector, in one transaction with what people are told.

use dbkeep_engine::{
    model::{
        Decision,
        monitor::{Alert, AlertId, AlertState},
    },
    port::{AlertChanges, AlertFilter, CollectClaim, StoreError},
};
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, any::AnyRow};

use super::{
    ControlStore, decisions,
    failure::{Failure, corrupt},
    metrics::{self, instant, number},
    outbox, rows,
    transaction::{Act, Tx},
};

const COLUMNS: &str = "id, state, alert, revision, acknowledged_by, acknowledged_ms, note";

/// Writes what a look changed.
pub(super) struct Change {
    claim: CollectClaim,
    changes: AlertChanges,
}

impl Change {
    pub(super) fn new(claim: &CollectClaim, changes: &AlertChanges) -> Self {
        let mut changes = changes.clone();
        // Those that end first: the same condition may begin anew in the same look.
        changes
            .put
            .sort_by_key(|alert| (alert.state != AlertState::Resolved, alert.id));
        changes.drop.sort_unstable();
        Self {
            claim: claim.clone(),
            changes,
        }
    }
}

impl Act for Change {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        if !metrics::holds(tx, &self.claim).await? {
            return Ok(false);
        }
        for id in &self.changes.drop {
            sqlx::query("DELETE FROM alerts WHERE id = $1 AND state = 'pending'")
                .bind(id.to_string())
                .execute(&mut *tx.connection)
                .await?;
        }
        for alert in &self.changes.seen {
            sqlx::query("UPDATE alerts SET alert = $2 WHERE id = $1 AND state = $3")
                .bind(alert.id.to_string())
                .bind(rows::text(&rows::to_json(alert)?))
                .bind(alert.state.name())
                .execute(&mut *tx.connection)
                .await?;
        }
        outbox::enqueue(tx, &self.changes.envelopes).await?;
        for alert in &self.changes.put {
            // Each has its own, so that a page of changes never ends between two of one revision.
            let revision = metrics::next(tx, "revision").await?;
            if !put(tx, alert, revision).await? {
                // The servers of one machine see the same folder: another was first.
                return Err(Failure::Store(StoreError::Fenced));
            }
        }
        Ok(true)
    }
}

/// Writes an alert; an acknowledgement that is there stays. False where another is open for the same condition.
async fn put(tx: &mut Tx<'_>, alert: &Alert, revision: i64) -> Result<bool, Failure> {
    let key = rows::text(&alert.key());
    if alert.state != AlertState::Resolved {
        let other = sqlx::query("SELECT id FROM alerts WHERE key = $1 AND state <> 'resolved' AND id <> $2")
            .bind(&key)
            .bind(alert.id.to_string())
            .fetch_optional(&mut *tx.connection)
            .await?;
        if other.is_some() {
            return Ok(false);
        }
    }
    let acknowledged = alert.acknowledged.as_ref();
    sqlx::query(
        "INSERT INTO alerts (id, key, target, state, alert, resolved_ms, revision, acknowledged_by, acknowledged_ms, note) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO UPDATE SET state = excluded.state, alert = excluded.alert, \
         resolved_ms = excluded.resolved_ms, revision = excluded.revision WHERE alerts.state <> 'resolved'",
    )
    .bind(alert.id.to_string())
    .bind(key)
    .bind(rows::text(&alert.target))
    .bind(alert.state.name())
    .bind(rows::text(&rows::to_json(alert)?))
    .bind(alert.resolved_at.map(Timestamp::as_millisecond))
    .bind(revision)
    .bind(acknowledged.map(|(by, _, _)| rows::text(by)))
    .bind(acknowledged.map(|(_, at, _)| at.as_millisecond()))
    .bind(acknowledged.map(|(_, _, note)| rows::text(note)))
    .execute(&mut *tx.connection)
    .await?;
    Ok(true)
}

/// Notes that somebody looks after an alert.
pub(super) struct Acknowledge {
    id: AlertId,
    by: String,
    note: String,
    decision: Decision,
}

impl Acknowledge {
    pub(super) fn new(id: AlertId, by: &str, note: &str, decision: &Decision) -> Self {
        Self {
            id,
            by: rows::text(by),
            note: rows::text(note),
            decision: decision.clone(),
        }
    }
}

impl Act for Acknowledge {
    type Output = Option<Alert>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Option<Alert>, Failure> {
        let now = metrics::now_ms(tx).await?;
        let sql = format!(
            "SELECT id FROM alerts WHERE id = $1 AND acknowledged_by IS NULL {}",
            tx.dialect.lock_rows()
        );
        let open = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id.to_string())
            .fetch_all(&mut *tx.connection)
            .await?;
        if !open.is_empty() {
            let revision = metrics::next(tx, "revision").await?;
            sqlx::query("UPDATE alerts SET acknowledged_by = $2, acknowledged_ms = $3, note = $4, revision = $5 WHERE id = $1")
                .bind(self.id.to_string())
                .bind(&self.by)
                .bind(now)
                .bind(&self.note)
                .bind(revision)
                .execute(&mut *tx.connection)
                .await?;
            decisions::insert(tx, &self.decision).await?;
        }
        let sql = format!("SELECT {COLUMNS} FROM alerts WHERE id = $1");
        let found = sqlx::query(AssertSqlSafe(sql))
            .bind(self.id.to_string())
            .fetch_all(&mut *tx.connection)
            .await?;
        Ok(found.first().map(alert).transpose()?)
    }
}

impl ControlStore {
    pub(super) async fn changed_alerts(&self, claim: &CollectClaim, changes: &AlertChanges) -> Result<bool, StoreError> {
        match self.write(Change::new(claim, changes)).await {
            Err(StoreError::Fenced) => {
                tracing::debug!(
                    target = claim.target,
                    "alerts were changed by another server meanwhile; the next look sees them"
                );
                Ok(false)
            }
            other => other,
        }
    }

    pub(super) async fn read_alerts(&self, filter: &AlertFilter) -> Result<Vec<Alert>, StoreError> {
        let (mut conditions, mut values) = (Vec::new(), Vec::new());
        if let Some(target) = &filter.target {
            values.push(rows::text(target));
            conditions.push(format!("target = ${}", values.len()));
        }
        if let Some(before) = filter.before {
            values.push(before.to_string());
            conditions.push(format!("id < ${}", values.len()));
        }
        if !filter.states.is_empty() {
            let mut numbered = Vec::new();
            for state in &filter.states {
                values.push(state.name().to_owned());
                numbered.push(format!("${}", values.len()));
            }
            conditions.push(format!("state IN ({})", numbered.join(", ")));
        }
        let place = if conditions.is_empty() {
            String::new()
        } else {
            format!("WHERE {}", conditions.join(" AND "))
        };
        let sql = format!(
            "SELECT {COLUMNS} FROM alerts {place} ORDER BY id DESC LIMIT ${}",
            values.len() + 1
        );
        let query = values
            .into_iter()
            .fold(sqlx::query(AssertSqlSafe(sql)), |query, value| query.bind(value));
        let found = self.read(query.bind(i64::from(filter.limit)).fetch_all(&self.pool)).await?;
        found.iter().map(alert).collect()
    }

    pub(super) async fn read_alert(&self, id: AlertId) -> Result<Option<Alert>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM alerts WHERE id = $1");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string());
        let row = self.read(query.fetch_optional(&self.pool)).await?;
        row.as_ref().map(alert).transpose()
    }

    pub(super) async fn read_alerts_after(&self, after: u64, limit: u32) -> Result<Vec<(u64, Alert)>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM alerts WHERE revision > $1 ORDER BY revision, id LIMIT $2");
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(rows::signed(after))
            .bind(i64::from(limit));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        found.iter().map(|row| Ok((number(row, "revision")?, alert(row)?))).collect()
    }
}

fn alert(row: &AnyRow) -> Result<Alert, StoreError> {
    let id: String = rows::column_of(row, "id")?;
    let json: String = rows::column_of(row, "alert")?;
    let mut alert: Alert = rows::from_json(&json, || format!("alert {id}"))?;
    let state: String = rows::column_of(row, "state")?;
    alert.state = AlertState::named(&state).ok_or_else(|| corrupt(format!("state {state:?} of alert {id}")))?;
    let by: Option<String> = rows::column_of(row, "acknowledged_by")?;
    alert.acknowledged = match by {
        Some(by) => {
            let note: Option<String> = rows::column_of(row, "note")?;
            Some((by, instant(row, "acknowledged_ms")?, note.unwrap_or_default()))
        }
        None => None,
    };
    Ok(alert)
}
