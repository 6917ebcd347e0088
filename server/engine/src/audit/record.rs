//! What the audit log holds.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A SHA-256, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// What the first record of a log follows on.
    pub const GENESIS: Self = Self([0; 32]);

    /// Reads 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("64 hexadecimal digits are expected"))
    }
}

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It was allowed, and takes effect from here on.
    Begun,
    /// It ended.
    Ended,
    /// It was not allowed, and took no effect.
    Denied,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 3] = [Self::Begun, Self::Ended, Self::Denied];

    /// Name in stores, exports and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Ended => "ended",
            Self::Denied => "denied",
        }
    }

    /// The phase of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }
}

/// What a record is about: everything but its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Id of the call; its records share it.
    pub call: Uuid,
    /// When, by the store's clock, to the microsecond.
    pub at: Timestamp,
    /// Where the call stands.
    pub phase: Phase,
    /// Who called; of one whom nobody knows, what he said he was.
    pub principal: String,
    /// Where the call came from.
    pub peer: String,
    /// The RPC, as `Service/Method`.
    pub method: String,
    /// Target that it is about; empty for none.
    pub target: String,
    /// SHA-256 of the request as it came.
    pub request: Digest,
    /// Code of the answer as gRPC names it, such as `OK`; empty while it has none.
    pub code: String,
    /// Why, or what came of it: a run's id, a reason. Nothing secret is ever in it.
    pub detail: String,
    /// Rows, bytes or things that it was about, by name.
    pub counts: Vec<(String, u64)>,
}

/// A record in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number: 1, 2, 3 without gaps.
    pub number: u64,
    /// What it is about.
    pub subject: Subject,
    /// Hash of the record before it; [`Digest::GENESIS`] for the first.
    pub previous: Digest,
    /// Hash of this one ([`super::chain::hash`]).
    pub hash: Digest,
}

/// A closed range of the log. It stands for its records when they are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Number of the first record.
    pub first: u64,
    /// Number of the last one.
    pub last: u64,
    /// Hash of the record before the first.
    pub previous: Digest,
    /// Hash of the last one.
    pub head: Digest,
    /// When it was closed.
    pub at: Timestamp,
    /// Whether the records are gone.
    pub pruned: bool,
}

/// The head of the log at some time, kept where whoever can change the log cannot change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// Number of the newest record.
    pub number: u64,
    /// Its hash.
    pub hash: Digest,
    /// When it was anchored.
    pub at: Timestamp,
}
