//! `AccessService`: who the server takes the caller for, and bearer tokens.
//!
//! Owns the typed methods over its RPCs. Made by [`Client::access`].

use std::time::Duration;

use dbkeep_proto::v1::{
    CreateTokenRequest, CreateTokenResponse, GetCallerRequest, GetCallerResponse, ListTokensRequest, RevokeTokenRequest, Role,
    Token, access_service_client::AccessServiceClient,
};
use tonic::transport::Channel;

use crate::{
    connect::{Client, MAX_RESPONSE_BYTES},
    error::Error,
    retry,
};

/// Looks at who calls, and makes and revokes tokens.
///
/// ```no_run
/// # async fn example(client: dbkeep_client::Client) -> Result<(), dbkeep_client::Error> {
/// use dbkeep_client::{TokenDraft, proto::Role};
///
/// let made = client.access().create_token(TokenDraft::new("nightly", Role::Operator).target("main")).await?;
/// println!("{}", made.secret); // Shown once.
/// client.access().revoke_token("nightly").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Access {
    client: Client,
}

/// A token to be made.
#[derive(Debug, Clone)]
#[must_use = "a draft is nothing until create_token takes it"]
pub struct TokenDraft {
    request: CreateTokenRequest,
}

impl TokenDraft {
    /// A token for a principal: for all targets, and without an end.
    pub fn new(name: impl Into<String>, role: Role) -> Self {
        Self {
            request: CreateTokenRequest {
                name: name.into(),
                role: role.into(),
                targets: Vec::new(),
                lifetime: None,
            },
        }
    }

    /// Only for this target, and those that were added before.
    pub fn target(mut self, name: impl Into<String>) -> Self {
        self.request.targets.push(name.into());
        self
    }

    /// How long it is good, 1 s to 10 years.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.request.lifetime = Some(prost_types::Duration {
            seconds: i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(lifetime.subsec_nanos()).unwrap_or_default(),
        });
        self
    }
}

/// A new token.
#[derive(Clone)]
#[non_exhaustive]
pub struct NewToken {
    /// What its owner gives to [`ClientBuilder::token`](crate::ClientBuilder::token). The server does not know it any more.
    pub secret: String,
    /// The token.
    pub token: Token,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("NewToken")
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

impl Access {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    fn service(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.client.channel()).max_decoding_message_size(MAX_RESPONSE_BYTES)
    }

    /// Who the server takes the caller for.
    ///
    /// # Errors
    /// None of its own.
    pub async fn caller(&self) -> Result<GetCallerResponse, Error> {
        retry::unary(&self.client, self.client.call_timeout(), GetCallerRequest {}, |request| {
            let mut service = self.service();
            async move { service.get_caller(request).await }
        })
        .await
    }

    /// Makes a token. It is asked for once: a repetition would make another.
    ///
    /// # Errors
    /// [`Error::InvalidField`], [`Error::UnknownTarget`], [`Error::TokenExists`].
    pub async fn create_token(&self, draft: TokenDraft) -> Result<NewToken, Error> {
        let request = self.client.prepare(draft.request, Some(self.client.call_timeout()));
        let CreateTokenResponse { secret, token } = self.service().create_token(request).await?.into_inner();
        Ok(NewToken {
            secret,
            token: token.ok_or(Error::Incomplete {
                missing: "CreateTokenResponse.token",
            })?,
        })
    }

    /// Every token that there ever was, the newest first.
    ///
    /// # Errors
    /// None of its own.
    pub async fn tokens(&self) -> Result<Vec<Token>, Error> {
        let answer = retry::unary(&self.client, self.client.call_timeout(), ListTokensRequest {}, |request| {
            let mut service = self.service();
            async move { service.list_tokens(request).await }
        });
        Ok(answer.await?.tokens)
    }

    /// Takes a token back, by its id or name. Once more changes nothing.
    ///
    /// # Errors
    /// [`Error::UnknownToken`].
    pub async fn revoke_token(&self, id: impl Into<String>) -> Result<Token, Error> {
        let message = RevokeTokenRequest { id: id.into() };
        let answer = retry::unary(&self.client, self.client.call_timeout(), message, |request| {
            let mut service = self.service();
            async move { service.revoke_token(request).await }
        });
        answer.await?.token.ok_or(Error::Incomplete {
            missing: "RevokeTokenResponse.token",
        })
    }
}
