//! Bearer tokens: `dbk_` and an id of 32 hexadecimal digits, `_`, and a secret of 64.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Grant, Role, Scope};
use crate::audit::Digest;

const PREFIX: &str = "dbk_";

/// Id of a token. It is no secret: records and logs name a token by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub Uuid);

impl fmt::Display for TokenId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.simple(), formatter)
    }
}

/// What is shown once. It has no `Display`, and its `Debug` does not tell it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    id: TokenId,
    bytes: [u8; 32],
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Secret({}, ..)", self.id)
    }
}

impl Secret {
    /// A token of these random bytes, which come from the operating system.
    #[must_use]
    pub fn of(id: TokenId, bytes: [u8; 32]) -> Self {
        Self { id, bytes }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// What its owner presents.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, hex::encode(self.bytes))
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> Digest {
        hash(self.id, &self.bytes)
    }
}

/// The id goes into the hash, so that a row of one token cannot be copied over that of another.
fn hash(id: TokenId, secret: &[u8; 32]) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(b"dbkeep-token\0");
    hasher.update(id.0.as_bytes());
    hasher.update(secret);
    Digest(hasher.finalize().into())
}

/// A token as a caller presents it: well-formed, and not yet known.
#[derive(Debug, Clone, Copy)]
pub struct Presented {
    /// Which it claims to be.
    pub id: TokenId,
    hash: Digest,
}

impl Presented {
    /// Reads what stands after `Bearer `. `None` where it is no token of dbkeep's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        // One way of writing it only: Uuid itself would read several.
        let lower = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if id.len() != 32 || !lower(id) || !lower(secret) {
            return None;
        }
        let id = TokenId(Uuid::try_parse(id).ok()?);
        let mut bytes = [0; 32];
        hex::decode_to_slice(secret, &mut bytes).ok()?;
        Some(Self {
            id,
            hash: hash(id, &bytes),
        })
    }
}

/// Why a token opens nothing. Callers are told the same for all of them; the log tells which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenProblem {
    /// The secret is another.
    Wrong,
    /// Its time is over.
    Expired,
    /// Somebody took it back.
    Revoked,
}

/// What is kept of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its id.
    pub id: TokenId,
    /// The principal that it makes of its owner; unique among those that are in force.
    pub name: String,
    /// SHA-256 of id and secret.
    pub hash: Digest,
    /// What its owner may do.
    pub role: Role,
    /// Where.
    pub scope: Scope,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Until when it is good; `None` for no end.
    pub expires_at: Option<Timestamp>,
    /// When it was taken back.
    pub revoked_at: Option<Timestamp>,
}

impl TokenRecord {
    /// Whether the owner of the presented token is let in now.
    ///
    /// # Errors
    /// Where it is not this token, or no longer good.
    pub fn check(&self, presented: &Presented, now: Timestamp) -> Result<(), TokenProblem> {
        if presented.id != self.id || !same(&presented.hash, &self.hash) {
            return Err(TokenProblem::Wrong);
        }
        if self.revoked_at.is_some() {
            return Err(TokenProblem::Revoked);
        }
        if self.expires_at.is_some_and(|end| end <= now) {
            return Err(TokenProblem::Expired);
        }
        Ok(())
    }

    /// What its owner is granted, for as long as it is good.
    #[must_use]
    pub fn grant(&self) -> Grant {
        Grant {
            role: self.role,
            scope: self.scope.clone(),
            until: self.expires_at,
        }
    }
}

/// Looks at every byte, wherever the first difference is. What is compared is a hash of what the caller sent, so that even a comparison
/// that ends early would tell nothing that helps to find the secret; this one does not rely on that.
fn same(one: &Digest, other: &Digest) -> bool {
    let difference = one.0.iter().zip(other.0).fold(0, |sum, (one, other)| sum | (one ^ other));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn token() -> (Secret, TokenRecord) {
        let secret = Secret::of(TokenId(Uuid::from_u128(7)), [0xa5; 32]);
        let record = TokenRecord {
            id: secret.id(),
            name: "ci".to_owned(),
            hash: secret.hash(),
            role: Role::Operator,
            scope: Scope::Targets(BTreeSet::from(["main".to_owned()])),
            created_by: "admin".to_owned(),
            created_at: at(0),
            expires_at: Some(at(100)),
            revoked_at: None,
        };
        (secret, record)
    }

    #[test]
    fn a_token_opens_until_it_ends() {
        let (secret, mut record) = token();
        let presented = Presented::parse(&secret.reveal()).expect("well-formed");
        assert_eq!(record.check(&presented, at(99)), Ok(()));
        let grant = record.grant();
        assert_eq!((grant.role, grant.until), (Role::Operator, Some(at(100))));
        assert_eq!(record.check(&presented, at(100)), Err(TokenProblem::Expired));
        record.revoked_at = Some(at(50));
        assert_eq!(record.check(&presented, at(60)), Err(TokenProblem::Revoked));
    }

    #[test]
    fn every_other_secret_is_wrong() {
        let (secret, record) = token();
        let good = secret.reveal();
        for place in 37..good.len() {
            let mut other = good.clone().into_bytes();
            other[place] = if other[place] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).expect("ASCII");
            let presented = Presented::parse(&other).expect("well-formed");
            assert_eq!(record.check(&presented, at(0)), Err(TokenProblem::Wrong), "{other}");
        }
        // The row of one token under the id of another.
        let moved = TokenRecord {
            id: TokenId(Uuid::from_u128(8)),
            ..record
        };
        let text = good.replace(&secret.id().to_string(), &moved.id.to_string());
        let presented = Presented::parse(&text).expect("well-formed");
        assert_eq!(moved.check(&presented, at(0)), Err(TokenProblem::Wrong));
    }

    #[test]
    fn what_is_malformed_is_no_token() {
        let (secret, _) = token();
        let good = secret.reveal();
        assert_eq!(good.len(), 101);
        for text in [
            "",
            "dbk_",
            "dbk__",
            &good[..100],
            &good.to_uppercase(),
            &good.replace("dbk_", ""),
            &format!("{good} "),
            &format!("{good}00"),
            &good.replace('a', "A"),
            &good.replace('a', "ä"),
        ] {
            assert!(Presented::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn the_secret_is_not_told() {
        let (secret, record) = token();
        let shown = format!("{secret:?} {record:?}");
        assert!(!shown.contains("a5a5"), "{shown}");
    }
}
