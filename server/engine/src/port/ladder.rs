//! What the control store keeps for the confirmation ladder: which plans were used, approvals, and the record of decisions.
//! Part of every [`Store`](super::Store).

use async_trait::async_trait;

use super::store::{Created, StoreError};
use crate::model::{Approval, Decision, DecisionId, Outcome, PlanId, Run, RunId};

/// What somebody says to a run that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Consent. Where it is the last that the run needs, the run gets these tables and may be claimed.
    Approve {
        /// By whom and when.
        approval: Approval,
        /// Tables that the run needs for itself, as the database names them.
        tables: Vec<String>,
    },
    /// The run ends as cancelled, for this reason.
    Deny {
        /// That reason.
        reason: String,
    },
}

/// What became of a verdict.
#[derive(Debug, Clone)]
pub enum Resolved {
    /// It was taken, or the same principal had approved before; the run as it is now.
    Taken(Run),
    /// The run does not wait for approval; nothing was changed.
    NotWaiting(Run),
    /// It would have been the last approval, and another run holds a table ([`Created::Held`]); nothing was changed.
    Held(Box<Created>),
    /// There is no such run.
    Unknown,
}

/// Which decisions to list; an empty part does not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DecisionFilter {
    /// About this run.
    pub run: Option<RunId>,
    /// About this plan.
    pub plan: Option<PlanId>,
    /// With this outcome.
    pub outcome: Option<Outcome>,
}

/// The part of a control store that the confirmation ladder needs. Every act is one transaction.
#[async_trait]
pub trait Ladder: Send + Sync {
    /// The run that a plan's token has started; `None` while it is unused. Only [`create_run`](super::Store::create_run) decides.
    async fn plan_use(&self, plan: PlanId) -> Result<Option<RunId>, StoreError>;

    /// Takes a verdict over a run that waits for approval, paused or not, together with the decision that lets it through.
    async fn resolve(&self, run: RunId, verdict: &Verdict, decision: &Decision) -> Result<Resolved, StoreError>;

    /// Ends queued runs as failed whose time for approval is over, by the store's clock, at most `limit`; returns them as they are then.
    async fn expire_approvals(&self, reason: &str, limit: u32) -> Result<Vec<Run>, StoreError>;

    /// Adds to the record of decisions. Adding the same decision again changes nothing.
    async fn record(&self, decision: &Decision) -> Result<(), StoreError>;

    /// Decisions, newest first, older than `before` where given.
    async fn decisions(
        &self,
        filter: &DecisionFilter,
        before: Option<DecisionId>,
        limit: u32,
    ) -> Result<Vec<Decision>, StoreError>;
}
