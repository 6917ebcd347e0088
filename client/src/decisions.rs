//! Approvals, and the record of decisions: the part of `RunService` that is about who may do what.
//!
//! Owns the typed methods over those RPCs and the builders of their requests. Made by [`Client::decisions`] and
//! [`Client::runs`].

use dbkeep_proto::v1::{
    ApproveRunRequest, Decision, DecisionFilter, DecisionOutcome, ListDecisionsRequest, ListDecisionsResponse, Run,
};
use futures::{Stream, TryStreamExt as _};

use crate::{connect::Client, error::Error, retry, runs::Runs};

impl Runs {
    /// Approves a run that waits for it. The client must be [named](crate::ClientBuilder::principal), and by another name than the one
    /// that started the run. Approving twice is approving once. The run that is returned begins where this was the last approval
    /// that it needs; [`watch`](Self::watch) it to see that.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::RunState`], [`Error::ApprovalRefused`], [`Error::PlanExpired`], [`Error::PlanMismatch`],
    /// [`Error::PlanBlocked`], [`Error::SchemaChanged`], [`Error::CountDrifted`], [`Error::FindingsUnconfirmed`],
    /// [`Error::RunAlreadyActive`], and those of a target that is away or refuses.
    pub async fn approve(&self, id: impl Into<String>, reason: impl Into<String>) -> Result<Run, Error> {
        self.resolve(id.into(), reason.into(), false).await
    }

    /// Denies a run that waits for approval: it ends cancelled. Denying twice is denying once.
    ///
    /// # Errors
    /// [`Error::UnknownRun`], [`Error::RunState`] where it does not wait.
    pub async fn deny(&self, id: impl Into<String>, reason: impl Into<String>) -> Result<Run, Error> {
        self.resolve(id.into(), reason.into(), true).await
    }

    async fn resolve(&self, id: String, reason: String, deny: bool) -> Result<Run, Error> {
        let message = ApproveRunRequest { id, deny, reason };
        // An approval counts the rows once more, which takes as long as planning them did.
        let answer = retry::unary(self.client(), self.client().plan_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.approve_run(request).await }
        });
        answer.await?.run.ok_or(Error::Incomplete {
            missing: "ApproveRunResponse.run",
        })
    }
}

/// What was asked of the server, and what became of it.
#[derive(Debug, Clone)]
pub struct Decisions {
    client: Client,
}

impl Decisions {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Decisions, newest first; pages are fetched as the stream is read.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub fn list(&self, query: DecisionQuery) -> impl Stream<Item = Result<Decision, Error>> + Send + use<> {
        let decisions = self.clone();
        async_stream::try_stream! {
            let mut message = query.message;
            loop {
                let page = decisions.list_page(message.clone()).await?;
                for decision in page.decisions {
                    yield decision;
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                message.page_token = page.next_page_token;
            }
        }
    }

    /// All decisions of a query, newest first. Mind their number; [`list`](Self::list) holds one page at a time.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_all(&self, query: DecisionQuery) -> Result<Vec<Decision>, Error> {
        self.list(query).try_collect().await
    }

    /// One page, for callers that keep page tokens themselves.
    ///
    /// # Errors
    /// [`Error::InvalidField`].
    pub async fn list_page(&self, message: ListDecisionsRequest) -> Result<ListDecisionsResponse, Error> {
        retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.client.runs().service();
            async move { service.list_decisions(request).await }
        })
        .await
    }
}

/// Which decisions to list; all of them by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct DecisionQuery {
    message: ListDecisionsRequest,
}

impl DecisionQuery {
    /// Only decisions about this run.
    pub fn run(mut self, id: impl Into<String>) -> Self {
        self.filter().run_id = id.into();
        self
    }

    /// Only decisions about this plan.
    pub fn plan(mut self, id: impl Into<String>) -> Self {
        self.filter().plan_id = id.into();
        self
    }

    /// Only decisions with this outcome.
    pub fn outcome(mut self, outcome: DecisionOutcome) -> Self {
        self.filter().set_outcome(outcome);
        self
    }

    /// Decisions fetched at a time, 1 to 500; the server's default is 50.
    pub fn page_size(mut self, decisions: u32) -> Self {
        self.message.page_size = decisions;
        self
    }

    fn filter(&mut self) -> &mut DecisionFilter {
        self.message.filter.get_or_insert_default()
    }
}
