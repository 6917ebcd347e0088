//! What dbkeep does, free of transports and drivers: the catalog, plans, runs, batches, backups and undo.
//!
//! The engine knows no gRPC, no SQL and no HTTP. Databases, the control store and the backup folder are reached through the
//! traits in [`port`]; the server crate brings the adapters. Data walks one way:
//!
//! ```text
//! catalog -> planner -> Plan (stored) -> run executor -> port::Target (delete, capture, journal) -> Event -> watchers
//! ```
//!
//! Start reading at [`engine::Engine`], the only type that callers need, then [`run::batch`] for the batch protocol.

pub mod access;
pub mod audit;
pub mod backup;
pub mod catalog;
pub mod discover;
pub mod engine;
pub mod error;
pub mod migration;
pub mod model;
pub mod monitor;
pub mod notify;
pub mod planner;
pub mod port;
pub mod rule;
pub mod run;
pub mod schedule;
mod spelling;

#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "testing")]
pub mod testing;

pub use engine::Engine;
pub use error::EngineError;

/// What share of `whole` a part is, 0 to 1.
#[must_use]
pub fn share(part: u64, whole: u64) -> f64 {
    (run::as_f64(part) / run::as_f64(whole.max(1))).min(1.0)
}

/// Ends the process here, or returns an injected fault, when a test has armed the point `name`; otherwise nothing.
///
/// With an expression as the second argument the point returns it when armed with `return`.
#[macro_export]
macro_rules! failpoint {
    ($name:expr) => {{
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    }};
    ($name:expr, $fault:expr) => {{
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name, |_| $fault);
    }};
}
