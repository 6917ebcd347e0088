//! What the target of a scheduled run needs besides what the run met, as it stands when the run ends: the same that somebody is told who
//! asks then. It is for people, so that whatever keeps it from being found out is logged, and never the end of a run.

use std::{sync::Arc, time::Duration};

use crate::{
    EngineError,
    engine::{Context, Engine},
    model::{Report, Run, RunState, monitor::Recommendation},
};

/// Longest time that the end of a run waits for it. The store is read, and of the target no more than samples of tables that grow.
const LONGEST: Duration = Duration::from_secs(5);

/// What is recommended once `run` has ended in the state `to` with this report; nothing where no schedule started it.
pub(super) async fn standing(
    context: &Arc<Context>,
    run: &Run,
    mut report: Report,
    to: RunState,
    reason: &str,
) -> Vec<Recommendation> {
    if report.scheduled.is_none() {
        return Vec::new();
    }
    report.close(to, reason);
    match tokio::time::timeout(LONGEST, look(context, run, report, to)).await {
        Ok(Ok(advice)) => advice,
        Ok(Err(error)) => {
            tracing::warn!(run = %run.id, %error, "what the target needs could not be found out");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!(run = %run.id, "what the target needs was not found out within {} s", LONGEST.as_secs());
            Vec::new()
        }
    }
}

async fn look(context: &Arc<Context>, run: &Run, report: Report, to: RunState) -> Result<Vec<Recommendation>, EngineError> {
    // As the store has it: the number of its newest event is not known here.
    let kept = context.store.run(run.id).await?;
    let mut ended = kept.unwrap_or_else(|| run.clone());
    ended.state = to;
    ended.ended_at = Some(context.store.pulse().await?.now);
    ended.report = report;
    Engine::of(Arc::clone(context)).recommendations_after(&ended).await
}
