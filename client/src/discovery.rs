//! `CleanupService.DiscoverOperations`: rules that a target might want.
//!
//! Owns the typed method and the builder of its request. Part of [`Cleanup`](crate::Cleanup).

use dbkeep_proto::v1::{DiscoverOperationsRequest, DiscoverOperationsResponse};

use crate::{cleanup::Cleanup, error::Error, retry};

impl Cleanup {
    /// Looks around in a target and proposes rules for its catalog; changes nothing. Takes up to two minutes on large schemas, and
    /// ends within the plan timeout of the client, with `complete = false` where that was too short.
    ///
    /// ```
    /// use dbkeep_client::DiscoverRequest;
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let playground = dbkeep_demo::playground().await?;
    /// # let client = playground.client.clone();
    /// let found = client.cleanup().discover(DiscoverRequest::default().table("user_progress")).await?;
    /// for proposal in &found.proposals {
    ///     println!("{:.2} {}: {:?} rows\n{}", proposal.confidence, proposal.description, proposal.row_count, proposal.toml);
    /// }
    /// # assert_eq!(found.proposals.len(), 3, "{:#?}", found.proposals);
    /// # assert!(found.proposals.iter().all(|proposal| proposal.row_count > Some(0)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::InvalidField`], [`Error::TargetUnavailable`], [`Error::TargetPermission`],
    /// [`Error::TargetRefused`].
    pub async fn discover(&self, request: DiscoverRequest) -> Result<DiscoverOperationsResponse, Error> {
        retry::unary(self.client(), self.client().plan_timeout(), request.message, |request| {
            let mut service = self.service();
            async move { service.discover_operations(request).await }
        })
        .await
    }
}

/// What to look for; everything of confidence 0.7 and more by default.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct DiscoverRequest {
    message: DiscoverOperationsRequest,
}

impl DiscoverRequest {
    /// The target to look at; the server's only one where not set.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.message.target = target.into();
        self
    }

    /// Only rules that take rows from this table; may be called several times.
    pub fn table(mut self, table: impl Into<String>) -> Self {
        self.message.tables.push(table.into());
        self
    }

    /// Only proposals of at least this confidence, 0 to 1.
    pub fn min_confidence(mut self, confidence: f64) -> Self {
        self.message.min_confidence = Some(confidence);
        self
    }

    /// Most proposals, 1 to 1,000.
    pub fn limit(mut self, proposals: u32) -> Self {
        self.message.limit = proposals;
        self
    }
}
