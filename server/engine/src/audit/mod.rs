//! The audit log: who did what, in an order that nobody can change unseen.
//!
//! Each [`Record`] carries the hash of the one before it ([`chain`]); whoever changes, removes or reorders one has to make all that
//! follow anew, and then the head no longer is the one that was anchored elsewhere. [`Verifier`] finds the first place that does not fit,
//! [`Inspection`] does so for a whole log with its head, its seals and what was removed of it.
//!
//! A call that changes something has two records. [`Phase::Begun`] is durable before the call takes effect: no record, no act.
//! [`Phase::Ended`] says what became of it. A call that was denied has one, [`Phase::Denied`]. A `Begun` without an `Ended` is a call
//! during which the server ended; what it did stands in the run that it started. They are written through the [`Journal`].
//!
//! Retention never removes single records: a [`Seal`] closes a range, keeps its count and its hashes, and then all of the range may go
//! ([`retention`]). What leaves the house is an [`export`]. The store is [`crate::port::AuditLog`]; who looks after the log is
//! [`crate::engine::audit`].

pub mod chain;
pub mod export;
mod inspect;
mod journal;
pub mod lines;
mod record;
pub mod retention;
mod verify;

pub use inspect::Inspection;
pub use journal::{AuditError, Journal};
pub use record::{Anchor, Digest, Phase, Record, Seal, Subject};
pub use verify::{Problem, ProblemKind, Verified, Verifier};
