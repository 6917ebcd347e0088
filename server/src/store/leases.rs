//! Leases: who works on a run, until when, and with which fence. A fence grows with every claim and is no other claim's, also where a
//! failover of the database forgets one (see [`fence`]); lapses are decided by the clock of the database alone, also where it
//! goes back (see [`LONGEST_LEASE`](dbkeep_engine::port::LONGEST_LEASE)).

use std::time::Duration;

use dbkeep_engine::{
    model::{RunId, RunOptions, RunState, fence},
    port::{Grant, Renewal, StoreError},
};
use sqlx::AssertSqlSafe;

use super::{
    ControlStore,
    draft::{Draft, lease_ms},
    failure::Failure,
    queue, rows,
    transaction::{Act, Tx},
};

/// Takes up the oldest run that nobody works on.
pub(super) struct Take {
    holder: String,
    term: Duration,
    skip: Vec<String>,
}

impl Take {
    pub(super) fn new(holder: &str, term: Duration, skip: &[String]) -> Self {
        Self {
            holder: holder.to_owned(),
            term,
            skip: skip.iter().map(|target| rows::text(target)).collect(),
        }
    }

    /// Locks that run.
    async fn find(&self, tx: &mut Tx<'_>) -> Result<Option<Draft>, Failure> {
        let skip = match self.skip.len() {
            0 => String::new(),
            count => format!(
                "AND target NOT IN ({})",
                (1..=count).map(|number| format!("${number}")).collect::<Vec<_>>().join(", ")
            ),
        };
        // The first condition is the one of the index `runs_living`, word for word.
        let sql = format!(
            "{} WHERE state IN ('queued', 'running', 'pausing', 'cancelling', 'interrupted') \
             AND (state IN ('queued', 'interrupted') OR {}) AND approve_until_ms IS NULL AND (state <> 'queued' OR {}) {skip} ORDER BY id LIMIT 1 {}",
            rows::select_run(),
            tx.dialect.lapsed(),
            queue::UNOBSTRUCTED,
            tx.dialect.lock_free_row()
        );
        let query = self
            .skip
            .iter()
            .fold(sqlx::query(AssertSqlSafe(sql)), |query, target| query.bind(target));
        let row = query.fetch_optional(&mut *tx.connection).await?;
        Ok(row.as_ref().map(Draft::of_row).transpose()?)
    }
}

impl Act for Take {
    type Output = Option<Grant>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Option<Grant>, Failure> {
        let Some(mut draft) = self.find(tx).await? else {
            return Ok(None);
        };
        if draft.run.state.is_held() {
            draft
                .enter(tx, RunState::Interrupted, "the lease of its server lapsed")
                .await?;
        }
        draft.run.attempts += 1;
        draft.run.started_at.get_or_insert_with(rows::now);
        let waited = queue::promote(tx, draft.run.id).await?;
        let attempt = format!(
            "attempt {}{}",
            draft.run.attempts,
            if waited { ", its turn has come" } else { "" }
        );
        draft.enter(tx, RunState::Running, &attempt).await?;
        // Somebody asked before the last attempt came to a boundary. Only a cancelling run may end as cancelled, and this
        // attempt is here to bring it there: the target has to learn of its fence before anybody may say that nothing runs.
        if let Some(reason) = draft.run.cancel_reason.clone() {
            draft.enter(tx, RunState::Cancelling, &reason).await?;
        } else if let Some(reason) = draft.run.pause_reason.clone() {
            // As little is known of what the last attempt did; this one pauses when it has read that.
            draft.enter(tx, RunState::Pausing, &reason).await?;
        }
        let lot = uuid::Uuid::new_v4().as_fields().0;
        let fence = fence::of(draft.run.attempts, lot);
        draft.give(&self.holder, self.term, fence);
        let (run, _) = draft.save(tx).await?;
        Ok(Some(Grant { run, fence }))
    }
}

impl ControlStore {
    pub(super) async fn read_next_lapse(&self) -> Result<Option<Duration>, StoreError> {
        // The first condition is the one of the index `runs_living`, word for word.
        let sql = format!(
            "SELECT MIN(lease_until_ms - {}) AS left_ms FROM runs WHERE state IN ('queued', 'running', 'pausing', 'cancelling', 'interrupted') \
             AND state NOT IN ('queued', 'interrupted') AND NOT {}",
            self.dialect.now_ms(),
            self.dialect.lapsed()
        );
        let row = self.read(sqlx::query(AssertSqlSafe(sql)).fetch_one(&self.pool)).await?;
        let left: Option<i64> = rows::column_of(&row, "left_ms")?;
        // The clock goes on between the two looks at it.
        Ok(left.map(|left| Duration::from_millis(u64::try_from(left).unwrap_or(0).max(1))))
    }
}

/// Prolongs a lease.
pub(super) struct Prolong {
    run: RunId,
    fence: u64,
    term_ms: i64,
}

impl Prolong {
    pub(super) fn new(run: RunId, fence: u64, term: Duration) -> Self {
        Self {
            run,
            fence,
            term_ms: lease_ms(term),
        }
    }
}

impl Act for Prolong {
    type Output = Renewal;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Renewal, Failure> {
        // A lease that lapsed is still this attempt's while nobody else has claimed the run.
        let sql = format!(
            "UPDATE runs SET lease_until_ms = {} + $3 WHERE id = $1 AND attempts = $2 AND fence = $4 AND state IN ('running', 'pausing', 'cancelling') \
             RETURNING cancel_reason, pause_reason, options, limits",
            tx.dialect.now_ms()
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(self.run.to_string())
            .bind(rows::signed(fence::attempt(self.fence)))
            .bind(self.term_ms)
            .bind(rows::signed(self.fence));
        // All rows rather than one: SQLite ends a statement when it is stepped to its end.
        let rows = query.fetch_all(&mut *tx.connection).await?;
        let row = rows.first().ok_or(StoreError::Fenced)?;
        let options: String = rows::column_of(row, "options")?;
        let options: RunOptions = rows::from_json(&options, || format!("options of run {}", self.run))?;
        let limits: Option<String> = rows::column_of(row, "limits")?;
        Ok(Renewal {
            cancel_reason: rows::column_of(row, "cancel_reason")?,
            pause_reason: rows::column_of(row, "pause_reason")?,
            limits: rows::limits_of(limits.as_deref(), options, self.run)?,
        })
    }
}

/// Lets every lease lapse.
pub(super) struct ReleaseAll;

impl Act for ReleaseAll {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        // The beginning of time lapses whatever the clock does next.
        sqlx::query("UPDATE runs SET lease_until_ms = 0 WHERE state IN ('running', 'pausing', 'cancelling')")
            .execute(&mut *tx.connection)
            .await?;
        Ok(())
    }
}
