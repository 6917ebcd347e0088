//! The acceptance of a run: once for each request, and never beside another run on the same table.

use std::collections::BTreeSet;

use dbkeep_engine::{
    model::{EventBody, Run, RunKind, RunState, Waiting},
    port::{CreateRun, Created, StoreError},
};
use sqlx::AssertSqlSafe;

use super::{
    approvals, audit, decisions,
    draft::{Draft, captured_rows},
    endings,
    failure::Failure,
    queue, rows, slots,
    transaction::{Act, Tx},
};

/// Reason of the first state.
const ACCEPTED: &str = "accepted";

/// Accepts a run.
pub(super) struct Create {
    request: CreateRun,
    /// In order and each once.
    tables: BTreeSet<String>,
}

impl Create {
    /// Takes a run that is queued, or in a state that a queued run may enter at once.
    pub(super) fn new(request: &CreateRun) -> Result<Self, StoreError> {
        let state = request.run.state;
        if state != RunState::Queued
            && !(state.is_final() && state != RunState::Failed && dbkeep_engine::run::state::permits(RunState::Queued, state))
        {
            return Err(StoreError::Fenced);
        }
        Ok(Self {
            request: request.clone(),
            tables: request.tables.iter().map(|table| rows::text(table)).collect(),
        })
    }

    /// The run that the same request made before.
    async fn seen(&self, tx: &mut Tx<'_>) -> Result<Option<Created>, Failure> {
        let sql = format!(
            "SELECT {}, {}, request_digest FROM runs WHERE request_id = $1",
            rows::RUN,
            queue::WAITING
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .bind(rows::text(&self.request.request_id))
            .fetch_optional(&mut *tx.connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let run = rows::stored_run(&row)?.run;
        let digest: String = rows::column_of(&row, "request_digest")?;
        Ok(Some(if digest == self.request.request_digest {
            Created::Repeated(run)
        } else {
            Created::RequestIdReused(run.id)
        }))
    }

    /// Whether the backup that the run is about is gone, or going.
    async fn source_pruned(&self, tx: &mut Tx<'_>) -> Result<Option<Created>, Failure> {
        let Some(source) = self.request.run.source else {
            return Ok(None);
        };
        let draft = Draft::lock(tx, source).await?;
        Ok(draft
            .and_then(|draft| draft.run.pruned)
            .map(|pruned| Created::SourcePruned { source, at: pruned.at }))
    }

    async fn insert(&self, tx: &mut Tx<'_>, run: &Run) -> Result<(), Failure> {
        let id = run.id.to_string();
        let (verification, verified_ms) = rows::verification_columns(run.verification);
        sqlx::query(
            "INSERT INTO runs (id, request_id, request_digest, kind, target, state, state_reason, operations, plan_id, source_id, \
             undone_by, options, attempts, report, captured_rows, first_sequence, last_sequence, cancel_reason, created_ms, \
             started_ms, ended_ms, verification, verified_ms, started_by, approvals, approvals_required, approve_until_ms, \
             limits) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 1, 0, $16, $17, $18, $19, $20, $21, \
             $22, $23, $24, $25, $26)",
        )
        .bind(&id)
        .bind(rows::text(&self.request.request_id))
        .bind(&self.request.request_digest)
        .bind(run.kind.name())
        .bind(rows::text(&run.target))
        .bind(run.state.name())
        .bind(rows::text(&run.state_reason))
        .bind(rows::to_json(&run.operations)?)
        .bind(run.plan.to_string())
        .bind(run.source.map(|source| source.to_string()))
        .bind(run.undone_by.map(|undo| undo.to_string()))
        .bind(rows::to_json(&run.options)?)
        .bind(i64::from(run.attempts))
        .bind(rows::to_json(&run.report)?)
        .bind(captured_rows(&run.report))
        .bind(run.cancel_reason.as_deref().map(rows::text))
        .bind(run.created_at.as_millisecond())
        .bind(run.started_at.map(|at| at.as_millisecond()))
        .bind(run.ended_at.map(|at| at.as_millisecond()))
        .bind(verification)
        .bind(verified_ms)
        .bind(rows::text(&run.started_by))
        .bind(rows::to_json(&run.approvals)?)
        .bind(i64::from(run.approvals_required))
        .bind(run.approve_until.map(|at| at.as_millisecond()))
        .bind(rows::to_json(&run.limits)?)
        .execute(&mut *tx.connection)
        .await?;
        for operation in run
            .operations
            .iter()
            .map(|operation| rows::text(operation))
            .collect::<BTreeSet<_>>()
        {
            sqlx::query("INSERT INTO run_operations (operation, run_id) VALUES ($1, $2)")
                .bind(operation)
                .bind(&id)
                .execute(&mut *tx.connection)
                .await?;
        }
        Ok(())
    }
}

impl Act for Create {
    type Output = Created;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Created, Failure> {
        // From here to the commit no other run is accepted: what is not found now is not there at the insert either. The unique
        // rows are the second line of defence.
        if let Some(lock) = tx.dialect.lock_acceptance() {
            sqlx::query(lock).execute(&mut *tx.connection).await?;
        }
        if let Some(seen) = self.seen(tx).await? {
            return Ok(seen);
        }
        if let Some(pruned) = self.source_pruned(tx).await? {
            return Ok(pruned);
        }
        let asked = &self.request.run;
        let waits = asked.state == RunState::Queued;
        let uses_plan = waits && asked.kind == RunKind::Cleanup;
        if uses_plan && let Some(run) = approvals::used_by(tx, asked.plan).await? {
            return Ok(Created::PlanUsed(run));
        }
        // People take their time to approve, and nobody should wait for that: such a run gets its tables when they have.
        let holds = waits && asked.approve_until.is_none();
        let obstacle = if holds {
            queue::obstacle(tx, &asked.target, &self.tables).await?
        } else {
            None
        };
        let waiting = match obstacle {
            Some(Created::Held { run, table, state, .. }) if asked.options.queue => Some((Waiting { run, table }, state)),
            Some(held) => return Ok(held),
            None => None,
        };
        let reason = match &waiting {
            Some((waiting, state)) => queue::reason(waiting, *state),
            None if waits && !asked.state_reason.is_empty() => asked.state_reason.clone(),
            None => ACCEPTED.to_owned(),
        };
        let queued = Run {
            state: RunState::Queued,
            state_reason: if waiting.is_some() {
                reason.clone()
            } else {
                asked.state_reason.clone()
            },
            last_sequence: 0,
            ended_at: None,
            ..asked.clone()
        };
        // Before the run itself: what is under a claim that has lapsed is not begun.
        if let Some(claim) = &self.request.slot
            && !slots::fire(tx, claim, asked.id).await?
        {
            return Ok(Created::SlotLost);
        }
        if self.request.slot.is_some() && !queued.options.dry_run {
            // No call has begun it, so that nothing else says so. Without a record it is not begun either.
            audit::append_one(tx, endings::begun(&queued)).await?;
        }
        self.insert(tx, &queued).await?;
        let mut draft = Draft::of_new(queued);
        draft
            .note(
                tx,
                EventBody::StateChanged {
                    from: None,
                    to: RunState::Queued,
                    reason,
                    report: None,
                },
            )
            .await?;
        for body in &self.request.events {
            draft.note(tx, body.clone()).await?;
        }
        if uses_plan {
            approvals::use_plan(tx, asked.plan, asked.id).await?;
        }
        if let Some(decision) = &self.request.decision {
            decisions::insert(tx, decision).await?;
        }
        if waiting.is_some() {
            queue::wait(tx, asked.id, &asked.target, &self.tables).await?;
        } else if holds {
            queue::hold(tx, asked.id, &asked.target, &self.tables).await?;
        }
        if !waits {
            draft.enter(tx, asked.state, &asked.state_reason).await?;
            draft.run.ended_at = asked.ended_at.or(draft.run.ended_at);
        }
        draft.save(tx).await?;
        // Read back, so that the answer is what any later reader gets.
        match self.seen(tx).await? {
            Some(Created::Repeated(run)) => Ok(Created::Accepted(run)),
            _ => Err(Failure::Store(super::failure::corrupt(format!(
                "run {} is not there after its insert",
                asked.id
            )))),
        }
    }
}
