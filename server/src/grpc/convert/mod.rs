//! The engine's nouns as wire messages and back: one file per noun. No decisions are taken here; every match is exhaustive, so
//! that a new variant in the engine asks for its name on the wire. Called by the services.

pub(super) mod access;
pub(super) mod audit;
pub(super) mod backup;
pub(super) mod decision;
pub(super) mod discovery;
pub(super) mod event;
pub(super) mod migration;
pub(super) mod monitoring;
pub(super) mod notification;
pub(super) mod plan;
pub(super) mod run;
pub(super) mod sample;
pub(super) mod schedule;
pub(super) mod target;
pub(super) mod time;

/// A position or count as the wire carries it. What does not fit saturates; lists of that length do not occur.
fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}
