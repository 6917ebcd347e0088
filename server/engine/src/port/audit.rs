//! What the control store keeps of the audit log: records in a chain, seals over ranges of it, and what was anchored. Part of every
//! [`Store`](super::Store).
//!
//! ```text
//! append -> record, record, record .. -> close_segment (a seal) -> prune_segment (records go, the seal stays)
//!              |
//!              '-- the head: number and hash of the newest one; whoever appends holds its row, so that several servers write one chain
//! ```
//!
//! Whether the chain is whole is not the store's to say: it hands out what it has, readable or not, and [`crate::audit`] judges.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::store::StoreError;
use crate::{
    access::Scope,
    audit::{Anchor, Digest, Phase, Record, Seal, Subject},
    model::notice::Envelope,
};

/// Which records to list; an empty part does not filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only what is about targets in there. What is about no target is seen by whoever sees all of them.
    pub scope: Scope,
    /// Of this principal.
    pub principal: Option<String>,
    /// Of this method, as `Service/Method`.
    pub method: Option<String>,
    /// About this target.
    pub target: Option<String>,
    /// Where the call stands so.
    pub phase: Option<Phase>,
    /// Made at that time or later, by the store's clock.
    pub since: Option<Timestamp>,
    /// Made before that time.
    pub until: Option<Timestamp>,
}

impl Default for AuditFilter {
    fn default() -> Self {
        Self {
            scope: Scope::All,
            principal: None,
            method: None,
            target: None,
            phase: None,
            since: None,
            until: None,
        }
    }
}

/// A row of the log as it was found. Whoever writes into the tables may leave what is no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// It can be read.
    Readable(Box<Record>),
    /// It cannot.
    Unreadable {
        /// What stands where its number belongs.
        number: i64,
        /// What is wrong with it.
        problem: String,
    },
}

impl Stored {
    /// What stands where its number belongs.
    #[must_use]
    pub fn number(&self) -> i64 {
        match self {
            // What a store has numbered fits.
            Self::Readable(record) => i64::try_from(record.number).unwrap_or(i64::MAX),
            Self::Unreadable { number, .. } => *number,
        }
    }
}

/// What is known of the log beside its records, as it was at one moment; what was appended since is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// Number and hash of the newest record as the head's row has them, 0 and [`Digest::GENESIS`] before the first; `None` where the row is gone.
    pub head: Option<(u64, Digest)>,
    /// Smallest and largest number of the records that are there, at the moment at which the head was read.
    pub span: Option<(i64, i64)>,
    /// The seals, in order.
    pub seals: Vec<Seal>,
    /// What was anchored, in order.
    pub anchors: Vec<Anchor>,
    /// Rows of seals, anchors or the head that cannot be read.
    pub unreadable: Vec<String>,
}

/// The part of a control store that keeps the audit log. Every act is one transaction, and what it wrote is on the disk when it returns.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Appends records in this order, with times by the store's clock. All of them are there, or none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where the head is gone or unreadable: nothing is appended to a log that has no end.
    async fn append(&self, subjects: &[Subject]) -> Result<Vec<Record>, StoreError>;

    /// Records, newest first, with numbers below `before` where given.
    async fn audit_records(&self, filter: &AuditFilter, before: Option<u64>, limit: u32) -> Result<Vec<Record>, StoreError>;

    /// The record of that number.
    async fn audit_record(&self, number: u64) -> Result<Option<Record>, StoreError>;

    /// Rows from a number up to another, in order.
    async fn audit_range(&self, from: i64, to: i64, limit: u32) -> Result<Vec<Stored>, StoreError>;

    /// What is known of the log beside its records.
    async fn audit_outline(&self) -> Result<Outline, StoreError>;

    /// Seals everything after the newest seal up to a record, and appends the record which says so
    /// ([`retention::sealing`](crate::audit::retention::sealing)) in the same transaction. `None` where there is nothing to seal, or the record is not there.
    async fn close_segment(&self, last: u64) -> Result<Option<Seal>, StoreError>;

    /// Removes the records of the oldest seal that still has some, where that is this one and not the newest of all, and appends the record which says so
    /// ([`retention::removal`](crate::audit::retention::removal)) in the same transaction. `None` where it is not.
    async fn prune_segment(&self, seal: &Seal) -> Result<Option<Record>, StoreError>;

    /// Notes that the head was anchored, and puts what is told of it into the outbox. The same anchor again changes nothing.
    async fn put_anchor(&self, anchor: &Anchor, envelopes: &[Envelope]) -> Result<(), StoreError>;

    /// Takes or keeps the turn at looking after the log, for a term. False where another server has it.
    async fn claim_audit_turn(&self, holder: &str, term: Duration) -> Result<bool, StoreError>;

    /// Gives the turn back; of a server that does not have it, nothing.
    async fn end_audit_turn(&self, holder: &str) -> Result<(), StoreError>;
}
