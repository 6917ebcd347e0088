//! What follows from what was measured: pure functions from snapshots and facts to history, findings, alerts and recommendations.
//! Nothing here asks a clock, a store or a target; the engine does, and calls this.

pub mod alerts;
pub mod findings;
pub mod history;
pub mod recommend;
mod samples;
mod text;

pub use samples::{MAX_TABLES, samples};
