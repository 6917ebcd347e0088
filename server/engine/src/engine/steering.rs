//! Steering: what somebody asks of a run that has not ended. The store records it; the attempt finds it with its next renewal,
//! at once where it is of this server, and acts at the next boundary. Cancelling is in the parent, where it was first.

use super::{Engine, MAX_REQUEST_ID, digest_of};
use crate::{
    EngineError,
    model::{Caller, LimitsPatch, Run, RunOptions},
    port::{Steer, SteerRequest, Steered},
};

impl Engine {
    /// Asks a run to pause at its next batch boundary. Pausing what is paused is no error.
    ///
    /// # Errors
    /// `UnknownRun`, `WrongState` where it has ended or is being cancelled, `RequestIdReused`, `InvalidField`, `Store`.
    pub async fn pause(&self, request_id: &str, id: &str, reason: &str) -> Result<Run, EngineError> {
        let reason = if reason.is_empty() { "paused on request" } else { reason };
        let digest = ["pause", id, reason];
        self.steer(request_id, id, Steer::Pause(reason.to_owned()), &digest).await
    }

    /// Lets a paused run go on, or takes a pause back that was not reached. Resuming what is not paused is no error.
    ///
    /// # Errors
    /// As [`Engine::pause`].
    pub async fn resume(&self, request_id: &str, id: &str) -> Result<Run, EngineError> {
        self.steer(request_id, id, Steer::Resume, &["resume", id]).await
    }

    /// Changes the limits of a run from its next batch boundary on; its log says on whose behalf.
    ///
    /// # Errors
    /// `UnknownRun`, `WrongState` where it has ended, `RequestIdReused`, `InvalidField`, `Store`.
    pub async fn update_limits(
        &self,
        request_id: &str,
        id: &str,
        patch: LimitsPatch,
        caller: &Caller,
    ) -> Result<Run, EngineError> {
        if patch == LimitsPatch::default() {
            return Err(EngineError::InvalidField {
                field: "batch_size",
                problem: "is absent, as are max_rows_per_second and duty_cycle_percent; expected at least one of them".to_owned(),
            });
        }
        for (field, value, bounds) in [
            ("batch_size", patch.batch_rows, RunOptions::BATCH_ROWS),
            ("duty_cycle_percent", patch.duty_cycle_percent, RunOptions::DUTY_CYCLE_PERCENT),
        ] {
            if let Some(value) = value.filter(|value| !bounds.contains(value)) {
                let problem = format!("is {value}; expected {} to {}", bounds.start(), bounds.end());
                return Err(EngineError::InvalidField { field, problem });
            }
        }
        let asked = serde_json::to_string(&patch).unwrap_or_default();
        let steer = Steer::Limits(patch, caller.principal.clone());
        self.steer(request_id, id, steer, &["limits", id, &asked]).await
    }

    async fn steer(&self, request_id: &str, id: &str, steer: Steer, digest: &[&str]) -> Result<Run, EngineError> {
        let length = request_id.chars().count();
        if length > MAX_REQUEST_ID || request_id.chars().any(char::is_control) {
            return Err(EngineError::InvalidField {
                field: "request_id",
                problem: format!("has {length} characters; expected at most {MAX_REQUEST_ID} printable ones"),
            });
        }
        let unknown = || EngineError::UnknownRun { id: id.to_owned() };
        let expected = match steer {
            Steer::Limits(..) => "a run that has not ended",
            Steer::Pause(_) | Steer::Resume => "a run that has not ended and is not being cancelled",
        };
        let request = SteerRequest {
            run: id.parse().map_err(|_| unknown())?,
            steer,
            request_id: request_id.to_owned(),
            request_digest: digest_of(digest),
        };
        let run = match self.context.store.steer(&request).await? {
            Steered::Done(run) => run,
            Steered::Refused(run) => {
                return Err(EngineError::WrongState {
                    run: run.id,
                    state: run.state,
                    expected,
                });
            }
            Steered::RequestIdReused(run) => {
                return Err(EngineError::RequestIdReused {
                    request_id: request.request_id,
                    run,
                });
            }
            Steered::Unknown => return Err(unknown()),
        };
        self.context.renew.notify_waiters();
        // A resumed run is free, and a paused one that was interrupted pauses in its next attempt.
        self.context.wake.notify_one();
        self.context.feeds.announce(run.id, run.last_sequence);
        Ok(run)
    }
}
