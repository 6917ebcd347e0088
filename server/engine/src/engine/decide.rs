//! The record of decisions: who asked to delete, to put back, to approve or to stop, and what became of it.
//!
//! What is let through is recorded before it takes effect: in the transaction that accepts a run or takes a verdict, and ahead of a
//! request to cancel. What is refused is recorded before the caller hears of it; where the record cannot be written, the caller gets
//! that failure instead, so that no refusal that names its reason is missing. Dry runs delete nothing and are not recorded, and
//! neither is a call that repeats an accepted request: it changes nothing. Called by the engine's front.

use crate::{
    EngineError,
    engine::{CleanupRequest, Engine},
    model::{Act, Caller, Decision, DecisionId, Plan, Run, RunId, RunOptions},
    port::{DecisionFilter, StoreError},
};

/// What lets a cleanup through; `None` for a dry run.
pub(super) fn allow_run(request: &CleanupRequest, run: &Run, plan: &Plan) -> Option<Decision> {
    if request.options.dry_run {
        return None;
    }
    let waits = if run.approve_until.is_some() {
        format!("; {}", run.state_reason)
    } else {
        String::new()
    };
    let detail = format!(
        "{} rows planned, {}{waits}",
        plan.row_count(),
        particulars(&run.operations, &request.options)
    );
    Some(Decision::allow(&request.caller, Act::Run, detail).about(&run.target, Some(run.id), Some(plan.id)))
}

/// What lets the cleanup of a slot through; `None` for a dry run.
pub(super) fn allow_slot(caller: &Caller, run: &Run, plan: &Plan, slot: jiff::Timestamp) -> Option<Decision> {
    if run.options.dry_run {
        return None;
    }
    let detail = format!(
        "slot {slot}: {} rows planned, {}",
        plan.row_count(),
        particulars(&run.operations, &run.options)
    );
    Some(Decision::allow(caller, Act::Run, detail).about(&run.target, Some(run.id), Some(plan.id)))
}

/// What lets the maintenance of a slot through.
pub(super) fn allow_upkeep(caller: &Caller, run: &Run, slot: jiff::Timestamp) -> Decision {
    let detail = format!("slot {slot}: maintenance {}", run.operations.join(", "));
    Decision::allow(caller, Act::Run, detail).about(&run.target, Some(run.id), None)
}

/// What lets an undo through.
pub(super) fn allow_undo(caller: &Caller, undo: &Run, source: RunId) -> Decision {
    Decision::allow(caller, Act::Undo, format!("by run {}", undo.id)).about(&undo.target, Some(source), Some(undo.plan))
}

/// What lets a request to cancel through.
pub(super) fn allow_cancel(caller: &Caller, run: &Run, reason: &str) -> Decision {
    Decision::allow(caller, Act::Cancel, reason).about(&run.target, Some(run.id), Some(run.plan))
}

fn particulars(operations: &[String], options: &RunOptions) -> String {
    let mut text = if operations.is_empty() {
        "the plan's operations".to_owned()
    } else {
        format!("operations {}", operations.join(", "))
    };
    if let Some(most) = options.max_rows {
        text.push_str(&format!(", max_rows {most}"));
    }
    if options.force {
        text.push_str(", force");
    }
    text
}

impl Engine {
    /// Decisions, newest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn decisions(
        &self,
        filter: &DecisionFilter,
        before: Option<DecisionId>,
        limit: u32,
    ) -> Result<Vec<Decision>, EngineError> {
        Ok(self.context.store.decisions(filter, before, limit).await?)
    }

    /// Passes the answer to a cleanup on, a refusal once it is recorded.
    pub(super) async fn noted_run(&self, request: &CleanupRequest, answer: Result<Run, EngineError>) -> Result<Run, EngineError> {
        let error = match answer {
            Err(error) if !request.options.dry_run => error,
            answer => return answer,
        };
        let target = self.target_of(request).await.map(|(name, _)| name).unwrap_or_default();
        let run = match &error {
            EngineError::PlanUsed { run, .. } => Some(*run),
            _ => None,
        };
        let detail = format!("{error}; {}", particulars(&request.operations, &request.options));
        let decision = Decision::refuse(&request.caller, Act::Run, error.reason(), detail).about(
            target,
            run,
            Plan::id_of_token(&request.plan_token),
        );
        Err(self.recorded(&decision, error).await)
    }

    /// Passes the answer to an act about a run on, a refusal once it is recorded.
    pub(super) async fn noted_about(
        &self,
        act: Act,
        id: &str,
        caller: &Caller,
        answer: Result<Run, EngineError>,
    ) -> Result<Run, EngineError> {
        let error = match answer {
            Err(error) => error,
            Ok(run) => return Ok(run),
        };
        let refused = Decision::refuse(caller, act, error.reason(), error.to_string());
        let decision = match self.run(id).await {
            Ok(run) => refused.about(&run.target, Some(run.id), Some(run.plan)),
            // The message says which run was meant.
            Err(_) => refused,
        };
        Err(self.recorded(&decision, error).await)
    }

    /// Records a refusal; returns what the caller gets.
    pub(super) async fn recorded(&self, decision: &Decision, refusal: EngineError) -> EngineError {
        if matches!(refusal, EngineError::Store(StoreError::Unavailable(_))) {
            return refusal;
        }
        match self.context.store.record(decision).await {
            Ok(()) => refusal,
            Err(error) => {
                tracing::warn!(%error, reason = decision.reason, "a refusal could not be recorded");
                error.into()
            }
        }
    }
}
