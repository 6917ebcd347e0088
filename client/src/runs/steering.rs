//! Steering a run while it works: pause, resume, limits.
//!
//! Owns the typed methods over those RPCs and the builder of [`LimitsUpdate`]. Cancelling is in the parent, with the end of runs.

use dbkeep_proto::v1::{PauseRunRequest, ResumeRunRequest, Run, UpdateRunLimitsRequest};

use super::Runs;
use crate::{error::Error, retry};

impl Runs {
    /// Asks a run to pause at its next batch boundary. It keeps its tables and its place, also over restarts, until it is
    /// [resumed](Self::resume). The run that is returned may still be pausing: [`watch`](Self::watch) it to see it paused.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], and [`Error::RunState`] where it has ended or is being cancelled.
    pub async fn pause(&self, id: impl Into<String>, reason: impl Into<String>) -> Result<Run, Error> {
        let message = PauseRunRequest {
            id: id.into(),
            reason: reason.into(),
            request_id: retry::request_id(),
        };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.pause_run(request).await }
        });
        answer.await?.run.ok_or(Error::Incomplete {
            missing: "PauseRunResponse.run",
        })
    }

    /// Lets a paused run go on, or takes back a pause that has not been reached.
    ///
    /// # Errors
    /// Those of [`pause`](Self::pause).
    pub async fn resume(&self, id: impl Into<String>) -> Result<Run, Error> {
        let message = ResumeRunRequest {
            id: id.into(),
            request_id: retry::request_id(),
        };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.resume_run(request).await }
        });
        answer.await?.run.ok_or(Error::Incomplete {
            missing: "ResumeRunResponse.run",
        })
    }

    /// Changes the limits of a run that has not ended, from its next batch boundary on. Returns the run with the limits that are
    /// in effect.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::InvalidField`], and [`Error::RunState`] where it has ended.
    pub async fn update_limits(&self, update: LimitsUpdate) -> Result<Run, Error> {
        let answer = retry::unary(&self.client, self.client.call_timeout(), update.message, |request| {
            let mut service = self.service();
            async move { service.update_run_limits(request).await }
        });
        answer.await?.run.ok_or(Error::Incomplete {
            missing: "UpdateRunLimitsResponse.run",
        })
    }
}

/// A change of a run's limits. What is not named stays as it is. Made with a request id of its own; a clone repeats the same call.
#[derive(Debug, Clone)]
#[must_use]
pub struct LimitsUpdate {
    message: UpdateRunLimitsRequest,
}

impl LimitsUpdate {
    /// Changes nothing yet about the run with this id.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            message: UpdateRunLimitsRequest {
                id: id.into(),
                request_id: retry::request_id(),
                ..Default::default()
            },
        }
    }

    /// Rows per transaction, 1 to 10,000.
    pub fn batch_size(mut self, rows: u32) -> Self {
        self.message.batch_size = Some(rows);
        self
    }

    /// Most rows a second, on average; 0 for no such limit.
    pub fn max_rows_per_second(mut self, rows: u32) -> Self {
        self.message.max_rows_per_second = Some(rows);
        self
    }

    /// Share of its time that the run is at work, 1 to 100 percent, where 100 is full speed.
    pub fn duty_cycle_percent(mut self, percent: u32) -> Self {
        self.message.duty_cycle_percent = Some(percent);
        self
    }

    /// Replaces the request id that was made up; see [`RunRequest::request_id`](crate::RunRequest::request_id).
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.message.request_id = id.into();
        self
    }
}
