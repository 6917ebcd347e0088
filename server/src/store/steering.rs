//! What people ask of a run that was accepted: to pause, to go on, to work within other limits. Recorded here; the attempt that holds
//! the run finds it with its next renewal.

use dbkeep_engine::{
    model::{EventBody, Run, RunId},
    port::{Steer, SteerRequest, Steered},
    run::state::{Trigger, next},
};
use sqlx::Row as _;

use super::{
    draft::Draft,
    failure::{Failure, corrupt, store_error},
    rows,
    transaction::{Act, Tx},
};

/// Records a request.
pub(super) struct Record {
    request: SteerRequest,
}

impl Record {
    pub(super) fn new(request: &SteerRequest) -> Self {
        Self {
            request: request.clone(),
        }
    }

    /// The run that the same request steered before, and whether it asked for the same.
    async fn seen(&self, tx: &mut Tx<'_>) -> Result<Option<(RunId, bool)>, Failure> {
        let row = sqlx::query("SELECT run_id, request_digest FROM run_requests WHERE request_id = $1")
            .bind(rows::text(&self.request.request_id))
            .fetch_optional(&mut *tx.connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let run: String = row.try_get(0).map_err(|error| store_error(&error))?;
        let digest: String = row.try_get(1).map_err(|error| store_error(&error))?;
        let id = run.parse().map_err(|_| corrupt(format!("run {run:?} of a request")))?;
        Ok(Some((id, digest == self.request.request_digest)))
    }

    /// Does what is asked; `None` where the run's state does not allow it.
    async fn steer(&self, tx: &mut Tx<'_>, mut draft: Draft) -> Result<Result<Run, Run>, Failure> {
        let from = draft.run.state;
        match &self.request.steer {
            Steer::Limits(..) if from.is_final() => return Ok(Err(draft.run)),
            Steer::Limits(patch, principal) => {
                let before = draft.run.limits;
                let after = patch.applied_to(before);
                if after == before {
                    return Ok(Ok(draft.run));
                }
                draft.run.limits = after;
                let principal = rows::text(principal);
                let changed = EventBody::LimitsChanged {
                    principal,
                    before,
                    after,
                };
                draft.note(tx, changed).await?;
            }
            Steer::Pause(reason) => {
                let Some(to) = next(from, Trigger::Pause) else {
                    return Ok(Err(draft.run));
                };
                if draft.run.pause_reason.is_some() {
                    return Ok(Ok(draft.run));
                }
                draft.run.pause_reason = Some(rows::text(reason));
                if to != from {
                    draft.enter(tx, to, reason).await?;
                }
            }
            Steer::Resume => {
                let Some(to) = next(from, Trigger::Resume) else {
                    return Ok(Err(draft.run));
                };
                if draft.run.pause_reason.take().is_none() {
                    return Ok(Ok(draft.run));
                }
                if to != from {
                    draft.enter(tx, to, "resumed").await?;
                }
            }
        }
        Ok(Ok(draft.save(tx).await?.0))
    }
}

impl Act for Record {
    type Output = Steered;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Steered, Failure> {
        // The run's lock orders requests about it, also those with the same id.
        let Some(draft) = Draft::lock(tx, self.request.run).await? else {
            return Ok(Steered::Unknown);
        };
        if !self.request.request_id.is_empty() {
            match self.seen(tx).await? {
                Some((run, true)) if run == self.request.run => return Ok(Steered::Done(draft.run)),
                Some((run, _)) => return Ok(Steered::RequestIdReused(run)),
                None => {}
            }
        }
        match self.steer(tx, draft).await? {
            Err(run) => Ok(Steered::Refused(run)),
            Ok(run) => {
                if !self.request.request_id.is_empty() {
                    // A request with this id on another run fails here, and is looked for again.
                    sqlx::query("INSERT INTO run_requests (request_id, request_digest, run_id) VALUES ($1, $2, $3)")
                        .bind(rows::text(&self.request.request_id))
                        .bind(&self.request.request_digest)
                        .bind(run.id.to_string())
                        .execute(&mut *tx.connection)
                        .await?;
                }
                Ok(Steered::Done(run))
            }
        }
    }
}
