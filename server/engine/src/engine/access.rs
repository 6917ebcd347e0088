//! Tokens: made, listed, revoked. Who may do so is the transport's policy; here is what a token may be.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    EngineError,
    access::{Keyring, Role, Scope, Secret, TokenId, TokenRecord},
    engine::Engine,
    model::Caller,
};

/// Name of the token that a server makes at its first start.
pub const FIRST_TOKEN: &str = "admin";
/// Who makes it.
const SERVER: &str = "dbkeepd";
/// Longest life of a token that has an end.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 366 * 86_400);

/// A token to be made.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    /// The principal that its owner is: 1 to 64 of `A-Z a-z 0-9 . _ @ -`.
    pub name: String,
    /// What he may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
    /// How long it is good; `None` for no end.
    pub life: Option<Duration>,
    /// 32 random bytes of the operating system's.
    pub random: [u8; 32],
}

impl Engine {
    /// The tokens that open this server.
    #[must_use]
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.context.keyring
    }

    /// Makes a token. The secret is in the answer, and nowhere else.
    ///
    /// # Errors
    /// `InvalidField`, `UnknownTarget`, `TokenExists`, `Store`.
    pub async fn create_token(&self, request: TokenRequest, caller: &Caller) -> Result<(Secret, TokenRecord), EngineError> {
        if !Caller::is_principal(&request.name) || request.name == Caller::ANONYMOUS {
            return Err(EngineError::InvalidField {
                field: "name",
                problem: format!(
                    "is {:?}; expected 1 to {} of A-Z a-z 0-9 . _ @ -",
                    request.name,
                    Caller::MAX_PRINCIPAL
                ),
            });
        }
        for target in request.scope.targets().into_iter().flatten() {
            // A token for a target that is not there would one day open another of that name.
            self.target(target)?;
        }
        if request.scope.targets().is_some_and(|targets| targets.is_empty()) {
            return Err(EngineError::InvalidField {
                field: "targets",
                problem: "names no target; expected at least one, or all".to_owned(),
            });
        }
        let now = Timestamp::now();
        let expires_at = match request.life {
            None => None,
            Some(life) if life < Duration::from_secs(1) || life > LONGEST_LIFE => {
                return Err(EngineError::InvalidField {
                    field: "lifetime",
                    problem: "is out of bounds; expected 1 s to 10 years, or none for no end".to_owned(),
                });
            }
            Some(life) => now.checked_add(life).ok(),
        };
        let secret = Self::new_secret(request.random);
        let record = TokenRecord {
            id: secret.id(),
            name: request.name,
            hash: secret.hash(),
            role: request.role,
            scope: request.scope,
            created_by: caller.principal.clone(),
            created_at: now,
            expires_at,
            revoked_at: None,
        };
        if !self.context.store.put_token(&record).await? {
            return Err(EngineError::TokenExists { name: record.name });
        }
        self.take_effect().await;
        tracing::info!(token = %record.id, name = record.name, role = record.role.name(), "token made");
        Ok((secret, record))
    }

    /// Lets a change take effect at once. It is stored, and takes effect all the same where that fails: within a second of the store's return.
    async fn take_effect(&self) {
        if let Err(error) = self.context.keyring.reload().await {
            tracing::warn!(%error, "tokens were changed, and cannot be read");
        }
    }

    /// A secret that opens nothing yet.
    #[must_use]
    pub fn new_secret(random: [u8; 32]) -> Secret {
        Secret::of(TokenId(Uuid::now_v7()), random)
    }

    /// Keeps a secret as that of the first token, which is for everything. `false`, and nothing changed, where there ever was a token.
    ///
    /// # Errors
    /// `Store`.
    pub async fn keep_first(&self, secret: &Secret) -> Result<bool, EngineError> {
        let record = TokenRecord {
            id: secret.id(),
            name: FIRST_TOKEN.to_owned(),
            hash: secret.hash(),
            role: Role::Admin,
            scope: Scope::All,
            created_by: SERVER.to_owned(),
            created_at: Timestamp::now(),
            expires_at: None,
            revoked_at: None,
        };
        Ok(self.context.store.put_first_token(&record).await?)
    }

    /// Those by whom a principal's token was made: whoever made it, whoever made the token of that one, and so on. They could have kept its
    /// secret, so that what its owner consents to may be their own consent. Empty for somebody without a token.
    ///
    /// # Errors
    /// `Store`.
    pub(super) async fn makers(&self, principal: &str) -> Result<BTreeSet<String>, EngineError> {
        let tokens = self.context.store.tokens().await?;
        let mut makers = BTreeSet::new();
        let good = tokens
            .iter()
            .filter(|token| token.name == principal && token.revoked_at.is_none());
        let mut next: Vec<&str> = good.map(|token| token.created_by.as_str()).collect();
        while let Some(maker) = next.pop() {
            if makers.insert(maker.to_owned()) {
                // Also by one that was revoked since: what was made by it is still there.
                let made = tokens.iter().filter(|token| token.name == maker);
                next.extend(made.map(|token| token.created_by.as_str()));
            }
        }
        Ok(makers)
    }

    /// Every token that there ever was, the newest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn tokens(&self) -> Result<Vec<TokenRecord>, EngineError> {
        Ok(self.context.store.tokens().await?)
    }

    /// Takes a token back, by its id or by the name of one that is not revoked. Streams that are open by it end.
    ///
    /// # Errors
    /// `UnknownToken`, `Store`.
    pub async fn revoke_token(&self, key: &str) -> Result<TokenRecord, EngineError> {
        let unknown = || EngineError::UnknownToken { key: key.to_owned() };
        let known = self.context.store.tokens().await?;
        let found = known
            .iter()
            .find(|token| token.id.to_string() == key)
            .or_else(|| known.iter().find(|token| token.name == key && token.revoked_at.is_none()))
            .ok_or_else(unknown)?;
        let revoked = self.context.store.revoke_token(found.id, Timestamp::now()).await?;
        let revoked = revoked.ok_or_else(unknown)?;
        self.take_effect().await;
        tracing::info!(token = %revoked.id, name = revoked.name, "token revoked");
        Ok(revoked)
    }
}
