//! A run's row while a transaction works on it: locked, changed in memory, written back once. Every change of state passes
//! through [`Draft::enter`], and with it through the engine's transition table.

use std::time::Duration;

use dbkeep_engine::{
    model::{Event, EventBody, Report, Run, RunId, RunState},
    port::{LONGEST_LEASE, StoreError},
    run::state::permits,
};
use sqlx::{AssertSqlSafe, any::AnyRow};

use super::{
    endings, events,
    failure::Failure,
    queue,
    rows::{self, StoredRun},
    transaction::Tx,
};

/// What becomes of the lease.
enum Lease {
    Kept,
    Given { holder: String, term_ms: i64, fence: u64 },
    Ended,
}

/// A locked run.
pub(super) struct Draft {
    pub(super) run: Run,
    first_sequence: u64,
    /// Fence of the claim that it was under when it was read.
    fence: u64,
    report_changed: bool,
    lease: Lease,
    events: Vec<Event>,
    /// Whether it entered a final state.
    ended: bool,
}

impl Draft {
    /// Locks a run; `None` where there is none.
    pub(super) async fn lock(tx: &mut Tx<'_>, id: RunId) -> Result<Option<Self>, Failure> {
        let sql = format!("{} WHERE id = $1 {}", rows::select_run(), tx.dialect.lock_row());
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(id.to_string())
            .fetch_optional(&mut *tx.connection)
            .await?;
        Ok(row.as_ref().map(Self::of_row).transpose()?)
    }

    /// A run whose row this transaction has locked.
    pub(super) fn of_row(row: &AnyRow) -> Result<Self, StoreError> {
        let StoredRun {
            run,
            first_sequence,
            fence,
        } = rows::stored_run(row)?;
        Ok(Self {
            first_sequence,
            fence,
            ..Self::of_new(run)
        })
    }

    /// A run that this transaction has inserted.
    pub(super) fn of_new(run: Run) -> Self {
        Self {
            run,
            first_sequence: 1,
            fence: 0,
            report_changed: false,
            lease: Lease::Kept,
            events: Vec::new(),
            ended: false,
        }
    }

    /// Adds an entry to the log.
    pub(super) async fn note(&mut self, tx: &mut Tx<'_>, body: EventBody) -> Result<(), Failure> {
        let event = Event {
            run: self.run.id,
            sequence: self.run.last_sequence + 1,
            at: rows::now(),
            body,
        };
        events::insert(tx, &event).await?;
        self.run.last_sequence = event.sequence;
        self.events.push(event);
        Ok(())
    }

    pub(super) fn set_report(&mut self, report: Report) {
        self.run.report = report;
        self.report_changed = true;
    }

    /// Ends the report of a run that is about to enter the final state `to` while nobody works on it.
    pub(super) fn close(&mut self, to: RunState, reason: &str) {
        self.run.report.close(to, reason);
        self.report_changed = true;
    }

    /// Gives the run to a server from now on, under this fence.
    pub(super) fn give(&mut self, holder: &str, term: Duration, fence: u64) {
        self.lease = Lease::Given {
            holder: holder.to_owned(),
            term_ms: lease_ms(term),
            fence,
        };
    }

    /// Whether the run is held under this fence. The number of the attempt is compared, too: a version that knows of no fences in this row
    /// leaves that of an older claim in it.
    pub(super) fn is_held_under(&self, fence: u64) -> bool {
        self.run.state.is_held()
            && self.fence == fence
            && u64::from(self.run.attempts) == dbkeep_engine::model::fence::attempt(fence)
    }

    /// Enters a state and says so in the log. A final state frees the tables, and it, `Interrupted` or `Paused` ends the lease.
    ///
    /// # Errors
    /// `Fenced` where the transition table has no such edge.
    pub(super) async fn enter(&mut self, tx: &mut Tx<'_>, to: RunState, reason: &str) -> Result<(), Failure> {
        let from = self.run.state;
        if !permits(from, to) {
            return Err(Failure::Store(StoreError::Fenced));
        }
        self.run.state_reason = rows::text(reason);
        self.run.state = to;
        let report = to.is_final().then(|| self.run.report.clone());
        self.note(
            tx,
            EventBody::StateChanged {
                from: Some(from),
                to,
                reason: self.run.state_reason.clone(),
                report,
            },
        )
        .await?;
        if to.is_final() || matches!(to, RunState::Interrupted | RunState::Paused) {
            self.lease = Lease::Ended;
        }
        if to.is_final() {
            self.ended = true;
            self.run.ended_at = Some(rows::now());
            queue::leave(tx, self.run.id).await?;
            self.run.waiting = None;
        }
        Ok(())
    }

    /// Writes the row, and puts the notice of a run that has ended into the outbox; returns the run and the entries that were added.
    pub(super) async fn save(mut self, tx: &mut Tx<'_>) -> Result<(Run, Vec<Event>), Failure> {
        let run = &self.run;
        self.first_sequence = events::trim(tx, run.id, self.first_sequence, run.last_sequence).await?;
        let lease = match &self.lease {
            Lease::Kept => String::new(),
            Lease::Given { .. } => format!(", holder = $14, lease_until_ms = {} + $15, fence = $16", tx.dialect.now_ms()),
            Lease::Ended => ", holder = NULL, lease_until_ms = NULL".to_owned(),
        };
        let sql = format!(
            "UPDATE runs SET state = $2, state_reason = $3, attempts = $4, report = COALESCE($5, report), captured_rows = $6, \
             first_sequence = $7, last_sequence = $8, cancel_reason = $9, started_ms = $10, ended_ms = $11, pause_reason = $12, \
             limits = $13{lease} WHERE id = $1"
        );
        let report = if self.report_changed {
            Some(rows::to_json(&run.report)?)
        } else {
            None
        };
        let mut query = sqlx::query(AssertSqlSafe(sql))
            .bind(run.id.to_string())
            .bind(run.state.name())
            .bind(run.state_reason.as_str())
            .bind(i64::from(run.attempts))
            .bind(report)
            .bind(captured_rows(&run.report))
            .bind(rows::signed(self.first_sequence))
            .bind(rows::signed(run.last_sequence))
            .bind(run.cancel_reason.as_deref())
            .bind(run.started_at.map(|at| at.as_millisecond()))
            .bind(run.ended_at.map(|at| at.as_millisecond()))
            .bind(run.pause_reason.as_deref())
            .bind(rows::to_json(&run.limits)?);
        if let Lease::Given { holder, term_ms, fence } = &self.lease {
            query = query.bind(rows::text(holder)).bind(*term_ms).bind(rows::signed(*fence));
        }
        query.execute(&mut *tx.connection).await?;
        if self.ended {
            endings::announce(tx, &self.run).await?;
        }
        Ok((self.run, self.events))
    }
}

/// What the column `captured_rows` holds of a report.
pub(super) fn captured_rows(report: &Report) -> i64 {
    rows::signed(report.total(|step| step.rows_captured))
}

/// The term of a lease or a claim as the databases hold it.
pub(super) fn lease_ms(term: Duration) -> i64 {
    term_ms(term.min(LONGEST_LEASE))
}

/// A length of time as the databases hold it.
pub(super) fn term_ms(term: Duration) -> i64 {
    // Added to the clock of the database, so that the very longest must leave room.
    i64::try_from(term.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 2)
}
