//! What follows from what was measured: pure functions from snapshots and facts to history, findings, alerts and recommendations.
//! Nothing here asks a clock, a store or a target; the engine does, and calls this.

pub mod alerts;
mod carry;
pub mod findings;
pub mod history;
pub mod recommend;
mod samples;
mod text;

pub use carry::carry_over;
pub use samples::{MAX_TABLES, samples};
