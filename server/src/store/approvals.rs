//! Runs that wait for approval, and plans that were used.
//!
//! A run waits while it is queued or paused and `approve_until_ms` is set; a claim passes it over. Every verdict locks its row, so
//! that of two that come at the same time one is first.

use std::collections::BTreeSet;

use dbkeep_engine::{
    model::{Decision, EventBody, PlanId, Run, RunId, RunState, Waiting},
    port::{Created, Resolved, StoreError, Verdict},
};
use sqlx::{AssertSqlSafe, Row};

use super::{
    ControlStore, decisions,
    draft::Draft,
    failure::{Failure, corrupt, store_error},
    queue, rows,
    transaction::{Act, Tx},
};

/// Reason of a state that a run keeps from its last approval until it is claimed.
const APPROVED: &str = "approved";

/// The run that a plan has started.
pub(super) async fn used_by(tx: &mut Tx<'_>, plan: PlanId) -> Result<Option<RunId>, Failure> {
    let query = sqlx::query("SELECT run_id FROM plan_uses WHERE plan_id = $1").bind(plan.to_string());
    let row = query.fetch_optional(&mut *tx.connection).await?;
    Ok(row.map(|row| run_of(row.try_get(0), plan)).transpose()?)
}

/// Notes that a plan starts this run. The row is unique: whatever anybody has looked at before, only one run gets it.
pub(super) async fn use_plan(tx: &mut Tx<'_>, plan: PlanId, run: RunId) -> Result<(), Failure> {
    sqlx::query("INSERT INTO plan_uses (plan_id, run_id) VALUES ($1, $2)")
        .bind(plan.to_string())
        .bind(run.to_string())
        .execute(&mut *tx.connection)
        .await?;
    Ok(())
}

fn run_of(id: Result<String, sqlx::Error>, plan: PlanId) -> Result<RunId, StoreError> {
    let id = id.map_err(|error| store_error(&error))?;
    id.parse()
        .map_err(|_| corrupt(format!("run {id:?} that has used plan {plan}")))
}

impl ControlStore {
    pub(super) async fn read_plan_use(&self, plan: PlanId) -> Result<Option<RunId>, StoreError> {
        let query = sqlx::query("SELECT run_id FROM plan_uses WHERE plan_id = $1").bind(plan.to_string());
        let row = self.read(query.fetch_optional(&self.pool)).await?;
        row.map(|row| run_of(row.try_get(0), plan)).transpose()
    }

    /// Ends runs that were not approved in time, one transaction each: a claim or a verdict that is at one of them is not waited for.
    pub(super) async fn end_unapproved(&self, reason: &str, limit: u32) -> Result<Vec<Run>, StoreError> {
        let sql = format!(
            "SELECT id FROM runs WHERE state = 'queued' AND approve_until_ms IS NOT NULL AND approve_until_ms <= {} \
             ORDER BY approve_until_ms LIMIT $1",
            self.dialect.now_ms()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(i64::from(limit));
        let found = self.read(query.fetch_all(&self.pool)).await?;
        let mut ended = Vec::new();
        for row in &found {
            let id: String = rows::column_of(row, "id")?;
            let run = id.parse().map_err(|_| corrupt(format!("id {id:?} of a run")))?;
            ended.extend(
                self.write(Expire {
                    run,
                    reason: reason.to_owned(),
                })
                .await?,
            );
        }
        Ok(ended)
    }
}

fn is_waiting(run: &Run) -> bool {
    matches!(run.state, RunState::Queued | RunState::Paused) && run.approve_until.is_some()
}

/// Ends a run whose time for approval is over, unless somebody has decided meanwhile. A paused one ends when it is resumed.
struct Expire {
    run: RunId,
    reason: String,
}

impl Act for Expire {
    type Output = Option<Run>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Option<Run>, Failure> {
        let Some(mut draft) = Draft::lock(tx, self.run).await? else {
            return Ok(None);
        };
        if draft.run.state != RunState::Queued || !is_waiting(&draft.run) {
            return Ok(None);
        }
        draft.close(RunState::Failed, &self.reason);
        draft.enter(tx, RunState::Failed, &self.reason).await?;
        Ok(Some(draft.save(tx).await?.0))
    }
}

/// Takes a verdict.
pub(super) struct Resolve {
    run: RunId,
    verdict: Verdict,
    decision: Decision,
}

impl Resolve {
    pub(super) fn new(run: RunId, verdict: &Verdict, decision: &Decision) -> Self {
        Self {
            run,
            verdict: verdict.clone(),
            decision: decision.clone(),
        }
    }
}

impl Act for Resolve {
    type Output = Resolved;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Resolved, Failure> {
        // As when a run is accepted: what is not held now is not held at the insert either. Before the row, so that everybody locks
        // in the same order.
        if let Some(lock) = tx.dialect.lock_acceptance() {
            sqlx::query(lock).execute(&mut *tx.connection).await?;
        }
        let Some(mut draft) = Draft::lock(tx, self.run).await? else {
            return Ok(Resolved::Unknown);
        };
        match &self.verdict {
            Verdict::Approve { approval, .. }
                if draft.run.approvals.iter().any(|known| known.principal == approval.principal) =>
            {
                return Ok(Resolved::Taken(draft.run));
            }
            _ if !is_waiting(&draft.run) => return Ok(Resolved::NotWaiting(draft.run)),
            Verdict::Approve { approval, tables } => {
                let tables: BTreeSet<String> = tables.iter().map(|table| rows::text(table)).collect();
                let run = &mut draft.run;
                run.approvals.push(approval.clone());
                let approvals = u32::try_from(run.approvals.len()).unwrap_or(u32::MAX);
                let required = run.approvals_required;
                // A paused run stays so, and says why; it begins when it is resumed.
                let paused = run.state == RunState::Paused;
                if approvals >= required {
                    match queue::obstacle(tx, &run.target, &tables).await? {
                        Some(Created::Held {
                            run: holder,
                            table,
                            state,
                            ..
                        }) if run.options.queue => {
                            queue::wait(tx, run.id, &run.target, &tables).await?;
                            if !paused {
                                run.state_reason = queue::reason(&Waiting { run: holder, table }, state);
                            }
                        }
                        Some(held) => return Ok(Resolved::Held(Box::new(held))),
                        None => {
                            queue::hold(tx, run.id, &run.target, &tables).await?;
                            if !paused {
                                run.state_reason = APPROVED.to_owned();
                            }
                        }
                    }
                    run.approve_until = None;
                }
                sqlx::query("UPDATE runs SET approvals = $2, approve_until_ms = $3 WHERE id = $1")
                    .bind(run.id.to_string())
                    .bind(rows::to_json(&run.approvals)?)
                    .bind(run.approve_until.map(|at| at.as_millisecond()))
                    .execute(&mut *tx.connection)
                    .await?;
                let approval = approval.clone();
                let approved = EventBody::Approved {
                    approval,
                    approvals,
                    required,
                };
                draft.note(tx, approved).await?;
            }
            Verdict::Deny { reason } => {
                let reason = rows::text(reason);
                draft.run.cancel_reason = Some(reason.clone());
                draft.close(RunState::Cancelled, &reason);
                draft.enter(tx, RunState::Cancelled, &reason).await?;
            }
        }
        decisions::insert(tx, &self.decision).await?;
        Ok(Resolved::Taken(draft.save(tx).await?.0))
    }
}
