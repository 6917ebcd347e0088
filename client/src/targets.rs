//! `TargetService`: the databases that the server maintains.
//!
//! Owns the typed methods over its RPCs, all of which only read. Made by [`Client::targets`].

use dbkeep_proto::v1::{
    GetGrantsRequest, GetGrantsResponse, GetTargetRequest, GetTargetResponse, GrantFeature, ListTargetsRequest, Target,
    TargetStatus, target_service_client::TargetServiceClient,
};
use tonic::transport::Channel;

use crate::{
    connect::{Client, MAX_RESPONSE_BYTES},
    error::Error,
    retry,
};

/// Looks at targets.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let playground = dbkeep_demo::playground().await?;
/// # let client = playground.client.clone();
/// for target in client.targets().list().await? {
///     let detail = client.targets().get(&target.name).await?;
///     println!("{}: {} bytes, version {}", target.name, detail.status.size_bytes, detail.status.version);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Targets {
    client: Client,
}

/// A target, and what a connection to it found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TargetDetail {
    /// The target as configured.
    pub target: Target,
    /// What the connection found.
    pub status: TargetStatus,
}

impl Targets {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    fn service(&self) -> TargetServiceClient<Channel> {
        TargetServiceClient::new(self.client.channel()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// The configured targets, by name. The server does not connect to them.
    ///
    /// # Errors
    /// None of its own.
    pub async fn list(&self) -> Result<Vec<Target>, Error> {
        let answer = retry::unary(&self.client, self.client.call_timeout(), ListTargetsRequest {}, |request| {
            let mut service = self.service();
            async move { service.list_targets(request).await }
        });
        Ok(answer.await?.targets)
    }

    /// Lets the server connect to one target and tell what it found.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::TargetUnavailable`], [`Error::TargetPermission`].
    pub async fn get(&self, name: impl Into<String>) -> Result<TargetDetail, Error> {
        let message = GetTargetRequest { name: name.into() };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.get_target(request).await }
        });
        let GetTargetResponse { target, status } = answer.await?;
        Ok(TargetDetail {
            target: target.ok_or(Error::Incomplete {
                missing: "GetTargetResponse.target",
            })?,
            status: status.ok_or(Error::Incomplete {
                missing: "GetTargetResponse.status",
            })?,
        })
    }

    /// Which rights a role needs in a target, which of them it has, and the script that grants them. An empty role is the one that dbkeep
    /// comes with; without features the script has in effect what the configuration uses.
    ///
    /// # Errors
    /// [`Error::UnknownTarget`], [`Error::InvalidField`], [`Error::TargetUnavailable`], [`Error::TargetPermission`];
    /// [`Error::TargetRefused`] where the database has no roles.
    pub async fn grants(
        &self,
        target: impl Into<String>,
        role: impl Into<String>,
        features: &[GrantFeature],
    ) -> Result<GetGrantsResponse, Error> {
        let message = GetGrantsRequest {
            target: target.into(),
            role: role.into(),
            features: features.iter().map(|feature| (*feature).into()).collect(),
        };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.get_grants(request).await }
        });
        answer.await
    }
}
