//! Bearer tokens: added, listed, revoked; never removed.

use std::collections::BTreeSet;

use dbkeep_engine::{
    access::{Role, Scope, TokenId, TokenRecord},
    audit::Digest,
    port::StoreError,
};
use jiff::Timestamp;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::{
    ControlStore,
    failure::{Failure, corrupt},
    rows,
    transaction::{Act, Tx},
};

/// Adds a token.
pub(super) struct Put {
    token: TokenRecord,
    /// Only where there is none yet.
    first: bool,
}

impl Put {
    pub(super) fn new(token: &TokenRecord, first: bool) -> Self {
        Self {
            token: token.clone(),
            first,
        }
    }
}

impl Act for Put {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        let token = &self.token;
        if self.first {
            // Two servers that start together must not both find the table empty.
            if let Some(lock) = tx.dialect.lock_acceptance() {
                sqlx::query(lock).execute(&mut *tx.connection).await?;
            }
            let any = sqlx::query("SELECT id FROM tokens LIMIT 1");
            if any.fetch_optional(&mut *tx.connection).await?.is_some() {
                return Ok(false);
            }
        }
        let targets = match &token.scope {
            Scope::All => None,
            Scope::Targets(targets) => Some(rows::to_json(targets)?),
        };
        let inserted = sqlx::query(
            "INSERT INTO tokens (id, name, sha256, role, targets, created_by, created_at_ms, expires_at_ms, revoked_at_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
        )
        .bind(token.id.to_string())
        .bind(rows::text(&token.name))
        .bind(token.hash.to_string())
        .bind(token.role.name())
        .bind(targets)
        .bind(rows::text(&token.created_by))
        .bind(token.created_at.as_millisecond())
        .bind(token.expires_at.map(|at| at.as_millisecond()))
        .bind(token.revoked_at.map(|at| at.as_millisecond()))
        .execute(&mut *tx.connection)
        .await?;
        Ok(inserted.rows_affected() == 1)
    }
}

/// Takes a token back.
pub(super) struct Revoke {
    id: TokenId,
    at: Timestamp,
}

impl Revoke {
    pub(super) fn new(id: TokenId, at: Timestamp) -> Self {
        Self { id, at }
    }
}

impl Act for Revoke {
    type Output = Option<TokenRecord>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Option<TokenRecord>, Failure> {
        sqlx::query("UPDATE tokens SET revoked_at_ms = $2 WHERE id = $1 AND revoked_at_ms IS NULL")
            .bind(self.id.to_string())
            .bind(self.at.as_millisecond())
            .execute(&mut *tx.connection)
            .await?;
        let query = sqlx::query("SELECT * FROM tokens WHERE id = $1").bind(self.id.to_string());
        let row = query.fetch_optional(&mut *tx.connection).await?;
        Ok(row.as_ref().map(token).transpose()?)
    }
}

impl ControlStore {
    pub(super) async fn read_tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let query = sqlx::query("SELECT * FROM tokens ORDER BY created_at_ms DESC, id DESC");
        let found = self.read(query.fetch_all(&self.pool)).await?;
        found.iter().map(token).collect()
    }
}

fn token(row: &AnyRow) -> Result<TokenRecord, StoreError> {
    let id: String = rows::column_of(row, "id")?;
    let strange = |column: &str| corrupt(format!("{column} of token {id}"));
    let instant = |column: &str, milliseconds: i64| Timestamp::from_millisecond(milliseconds).map_err(|_| strange(column));
    let (role, hash): (String, String) = (rows::column_of(row, "role")?, rows::column_of(row, "sha256")?);
    let targets: Option<String> = rows::column_of(row, "targets")?;
    let created: i64 = rows::column_of(row, "created_at_ms")?;
    let (expires, revoked): (Option<i64>, Option<i64>) =
        (rows::column_of(row, "expires_at_ms")?, rows::column_of(row, "revoked_at_ms")?);
    Ok(TokenRecord {
        id: TokenId(Uuid::try_parse(&id).map_err(|_| strange("id"))?),
        name: rows::column_of(row, "name")?,
        hash: Digest::parse(&hash).ok_or_else(|| strange("sha256"))?,
        role: Role::named(&role).ok_or_else(|| strange("role"))?,
        scope: match targets {
            None => Scope::All,
            Some(text) => {
                let targets: BTreeSet<String> = serde_json::from_str(&text).map_err(|_| strange("targets"))?;
                Scope::Targets(targets)
            }
        },
        created_by: rows::column_of(row, "created_by")?,
        created_at: instant("created_at_ms", created)?,
        expires_at: expires.map(|at| instant("expires_at_ms", at)).transpose()?,
        revoked_at: revoked.map(|at| instant("revoked_at_ms", at)).transpose()?,
    })
}
