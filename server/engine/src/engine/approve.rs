//! Consent to a run of severity CRITICAL: the phrase that whoever starts it types, and the approvals of others.
//!
//! ```text
//! RunCleanup with token and phrase -> queued, waiting; no server claims it, and it holds no table
//!   approval by another principal  -> once more: age, schema, counts, limits; the last one takes the tables -> claimed
//!   denial, cancel                 -> cancelled
//!   the plan's lifetime is over    -> failed
//!   pause                          -> paused; a verdict is taken all the same, and it begins once it is approved and resumed
//! ```
//!
//! A waiting run holds nothing because people take their time, and other runs should not wait for them. So the tables are asked for
//! when somebody has decided, and an approval that finds one held is refused with the holder's id.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    EngineError,
    engine::{CleanupRequest, Context, Engine},
    model::{Act, Approval, ApprovalProblem, Caller, Decision, MigrationRecord, Plan, Run, RunId, RunState},
    port::{Created, Resolved, StoreError, Verdict},
    rule::Severity,
    run::tables_of,
};

/// Most runs whose time for approval is over that are ended at a time.
const EXPIRED_AT_ONCE: u32 = 100;
/// Why such a run fails.
const NOT_APPROVED: &str = "it was not approved before its plan expired";
/// What an approval expects of a run's state.
const WAITING: &str = "a run that waits for approval";

/// The phrase must be the plan's, letter by letter.
///
/// # Errors
/// `ConfirmationPhrase`.
pub(super) fn check_phrase(plan: &Plan, given: &str) -> Result<(), EngineError> {
    let expected = plan.confirmation_phrase();
    if expected.is_empty() || given == expected {
        return Ok(());
    }
    Err(EngineError::ConfirmationPhrase {
        plan: plan.id,
        given: !given.is_empty(),
    })
}

fn is_waiting(run: &Run) -> bool {
    matches!(run.state, RunState::Queued | RunState::Paused) && run.approve_until.is_some()
}

fn wrong_state(run: &Run) -> EngineError {
    EngineError::WrongState {
        run: run.id,
        state: run.state,
        expected: WAITING,
    }
}

impl Engine {
    /// Whoever started a run cannot approve it, by a token that he has made neither, nor can somebody without a name.
    async fn check_other(&self, run: &Run, caller: &Caller) -> Result<(), EngineError> {
        let makers = self.makers(&caller.principal).await?;
        match ApprovalProblem::of(caller, &run.started_by, &makers) {
            Some(problem) => Err(EngineError::ApprovalRefused {
                run: run.id,
                principal: caller.principal.clone(),
                problem,
            }),
            None => Ok(()),
        }
    }

    /// Lets a new run wait for approvals where its plan asks for them.
    pub(super) fn await_approvals(&self, run: &mut Run, plan: &Plan) {
        if plan.severity < Severity::Critical {
            return;
        }
        // Whoever reviewed the plan was told its number; what the server asks for by now holds as well.
        run.approvals_required = plan.approvals_required.max(self.context.settings.approvals);
        if run.approvals_required > 0 {
            let others = match run.approvals_required {
                1 => "a principal".to_owned(),
                number => format!("{number} principals"),
            };
            run.approve_until = Some(plan.expires_at);
            run.state_reason = format!(
                "waits until {:.0} for approval by {others} other than {}",
                plan.expires_at, run.started_by
            );
        }
    }

    /// Approves a run that waits for it, or denies it; returns the run after that. Approving twice is approving once, and so is
    /// denying.
    ///
    /// # Errors
    /// `UnknownRun`, `WrongState`, `ApprovalRefused`, everything that a plan's token is refused for, `RunAlreadyActive`, `Target`,
    /// `Store`. The run goes on waiting then.
    pub async fn approve(&self, id: &str, deny: bool, reason: &str, caller: &Caller) -> Result<Run, EngineError> {
        let (act, resolved) = if deny {
            (Act::Deny, self.deny_run(id, reason, caller).await)
        } else {
            (Act::Approve, self.approve_run(id, reason, caller).await)
        };
        let run = self.noted_about(act, id, caller, resolved).await?;
        self.context.feeds.announce(run.id, run.last_sequence);
        self.context.wake.notify_one();
        Ok(run)
    }

    async fn approve_run(&self, id: &str, reason: &str, caller: &Caller) -> Result<Run, EngineError> {
        let run = self.run(id).await?;
        if run.approvals.iter().any(|approval| approval.principal == caller.principal) {
            return Ok(run);
        }
        let record = run.report.migrations.as_ref();
        if let Some((record, backup)) = record.and_then(|record| Some((record.clone(), record.rewind?))) {
            return self.approve_rewind(run, &record, backup, reason, caller).await;
        }
        let plan = self.context.store.plan(run.plan).await?.ok_or(EngineError::UnknownPlan)?;
        let unapproved = run.approve_until.is_some() && (is_waiting(&run) || run.state == RunState::Failed);
        if unapproved && Timestamp::now() >= plan.expires_at {
            self.context.expire_approvals().await;
            return Err(EngineError::PlanExpired {
                plan: plan.id,
                expired_at: plan.expires_at,
            });
        }
        if !is_waiting(&run) {
            return Err(wrong_state(&run));
        }
        self.check_other(&run, caller).await?;
        let (name, entry) = self.target(&run.target)?;
        let request = CleanupRequest {
            request_id: String::new(),
            target: run.target.clone(),
            operations: run.operations.clone(),
            plan_token: plan.token(),
            confirmation_phrase: plan.confirmation_phrase(),
            options: run.options,
            caller: caller.clone(),
            given_up: CancellationToken::new(),
        };
        let (_, selections) = self.recheck(name, entry, &request).await?;
        let decision = Decision::allow(caller, Act::Approve, reason).about(&run.target, Some(run.id), Some(run.plan));
        let verdict = Verdict::Approve {
            approval: Approval {
                principal: caller.principal.clone(),
                at: decision.at,
            },
            tables: tables_of(selections.iter().flat_map(crate::planner::Step::held)),
        };
        let run = self.resolve(&run, &verdict, &decision).await?;
        tracing::info!(run = %run.id, principal = caller.principal, approvals = run.approvals.len(), "run approved");
        Ok(run)
    }

    /// Going back to a backup has no stored plan: what was reviewed is computed again.
    async fn approve_rewind(
        &self,
        run: Run,
        record: &MigrationRecord,
        backup: RunId,
        reason: &str,
        caller: &Caller,
    ) -> Result<Run, EngineError> {
        if run.approve_until.is_some_and(|until| Timestamp::now() >= until) {
            self.context.expire_approvals().await;
            return Err(wrong_state(&self.run(&run.id.to_string()).await?));
        }
        if !is_waiting(&run) {
            return Err(wrong_state(&run));
        }
        self.check_other(&run, caller).await?;
        let tables = self.recheck_rewind(&run.target, record, backup).await?;
        let decision = Decision::allow(caller, Act::Approve, reason).about(&run.target, Some(run.id), None);
        let verdict = Verdict::Approve {
            approval: Approval {
                principal: caller.principal.clone(),
                at: decision.at,
            },
            tables,
        };
        let run = self.resolve(&run, &verdict, &decision).await?;
        tracing::info!(run = %run.id, principal = caller.principal, approvals = run.approvals.len(), "run approved");
        Ok(run)
    }

    /// Anybody who could cancel the run may deny it, whoever started it and the nameless as well: it deletes nothing.
    async fn deny_run(&self, id: &str, reason: &str, caller: &Caller) -> Result<Run, EngineError> {
        let run = self.run(id).await?;
        if run.state == RunState::Cancelled {
            return Ok(run);
        }
        if !is_waiting(&run) {
            return Err(wrong_state(&run));
        }
        let decision = Decision::allow(caller, Act::Deny, reason).about(&run.target, Some(run.id), Some(run.plan));
        let reason = if reason.is_empty() {
            format!("denied by {}", caller.principal)
        } else {
            format!("denied by {}: {reason}", caller.principal)
        };
        let run = self.resolve(&run, &Verdict::Deny { reason }, &decision).await?;
        tracing::info!(run = %run.id, principal = caller.principal, "run denied");
        Ok(run)
    }

    async fn resolve(&self, run: &Run, verdict: &Verdict, decision: &Decision) -> Result<Run, EngineError> {
        match self.context.store.resolve(run.id, verdict, decision).await? {
            Resolved::Taken(run) => Ok(run),
            Resolved::NotWaiting(run) => Err(wrong_state(&run)),
            Resolved::Held(held) => match *held {
                Created::Held {
                    run: holder,
                    table,
                    state,
                    operations,
                    since,
                } => Err(EngineError::RunAlreadyActive {
                    run: holder,
                    state,
                    operations,
                    since,
                    target: run.target.clone(),
                    table,
                }),
                other => Err(EngineError::Store(StoreError::Corrupt(format!("an approval met {other:?}")))),
            },
            Resolved::Unknown => Err(EngineError::UnknownRun { id: run.id.to_string() }),
        }
    }

    /// A token that has started a run starts no other. The store decides when the run is accepted; this is the early answer, before
    /// anything is counted.
    ///
    /// # Errors
    /// `PlanUsed`, `UnknownPlan`, `Store`.
    pub(super) async fn refuse_used(&self, request: &CleanupRequest) -> Result<(), EngineError> {
        if request.options.dry_run {
            return Ok(());
        }
        let plan = self.plan_of_token(&request.plan_token).await?;
        match self.context.store.plan_use(plan.id).await? {
            Some(run) => Err(EngineError::PlanUsed { plan: plan.id, run }),
            None => Ok(()),
        }
    }
}

impl Context {
    /// Ends the runs whose time for approval is over. Failing to is not worth more than a warning: no such run can begin, and the
    /// supervisor comes back.
    pub(crate) async fn expire_approvals(&self) {
        match self.store.expire_approvals(NOT_APPROVED, EXPIRED_AT_ONCE).await {
            Ok(runs) => {
                for run in runs {
                    tracing::info!(run = %run.id, "run not approved in time");
                    self.feeds.announce(run.id, run.last_sequence);
                }
            }
            Err(error) => tracing::warn!(%error, "runs that were not approved in time could not be ended"),
        }
    }
}
