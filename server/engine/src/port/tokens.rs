//! What the control store keeps of bearer tokens. Part of every [`Store`](super::Store).

use async_trait::async_trait;
use jiff::Timestamp;

use super::store::StoreError;
use crate::access::{TokenId, TokenRecord};

/// The part of a control store that authentication needs. Every act is one transaction.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// Keeps a new token. `false`, and nothing changed, where another that is not revoked has its name.
    async fn put_token(&self, token: &TokenRecord) -> Result<bool, StoreError>;

    /// Keeps a token as the first of all. `false`, and nothing changed, where there ever was one: of several servers that start on one
    /// store only one makes it.
    async fn put_first_token(&self, token: &TokenRecord) -> Result<bool, StoreError>;

    /// Every token that there ever was, the newest first.
    async fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError>;

    /// Takes a token back. One that was taken back before keeps its time. `None` where there is none of that id.
    async fn revoke_token(&self, id: TokenId, at: Timestamp) -> Result<Option<TokenRecord>, StoreError>;
}
