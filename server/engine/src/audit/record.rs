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

impl Subject {
    /// Longest name, address, method or target, characters. What callers send without being known is of any length.
    pub const MAX_NAME: usize = 256;
    /// Longest detail, characters.
    pub const MAX_DETAIL: usize = 1_000;
    /// Most counts.
    pub const MAX_COUNTS: usize = 32;
    /// Longest name of a count, characters.
    pub const MAX_COUNT_NAME: usize = 64;

    /// A call that begins, of which nothing else is known. The store sets the time.
    #[must_use]
    pub fn of(call: Uuid) -> Self {
        Self {
            call,
            at: Timestamp::UNIX_EPOCH,
            phase: Phase::Begun,
            principal: String::new(),
            peer: String::new(),
            method: String::new(),
            target: String::new(),
            request: Digest::GENESIS,
            code: String::new(),
            detail: String::new(),
            counts: Vec::new(),
        }
    }

    /// The same as every store can keep it: cut to the longest that is kept, without the character U+0000. It is done before anything is hashed.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        for text in [
            &mut self.principal,
            &mut self.peer,
            &mut self.method,
            &mut self.target,
            &mut self.code,
        ] {
            bound(text, Self::MAX_NAME);
        }
        bound(&mut self.detail, Self::MAX_DETAIL);
        self.counts.truncate(Self::MAX_COUNTS);
        for (name, _) in &mut self.counts {
            bound(name, Self::MAX_COUNT_NAME);
        }
        self
    }
}

fn bound(text: &mut String, most: usize) {
    if let Some((cut, _)) = text.char_indices().nth(most) {
        text.truncate(cut);
    }
    if text.contains('\0') {
        *text = text.replace('\0', "\u{fffd}");
    }
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
    /// When its last record was made.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_store_keeps_is_cut_off() {
        let bounded = Subject {
            principal: "ü".repeat(5_000),
            detail: format!("a\0b{}", "x".repeat(5_000)),
            counts: vec![("y".repeat(5_000), 1); 100],
            ..Subject::of(Uuid::nil())
        }
        .bounded();
        assert_eq!(bounded.principal.chars().count(), Subject::MAX_NAME);
        assert_eq!(bounded.detail.chars().count(), Subject::MAX_DETAIL);
        assert!(bounded.detail.starts_with("a\u{fffd}b"));
        assert_eq!(bounded.counts.len(), Subject::MAX_COUNTS);
        assert_eq!(bounded.counts[0].0.len(), Subject::MAX_COUNT_NAME);
        assert_eq!(bounded.clone().bounded(), bounded);
    }
}
