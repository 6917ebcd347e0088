//! The client against a server in the same process that breaks streams on demand.
//!
//! Time is paused: pauses between attempts take no time and are measured all the same. `cli.rs` runs the real binary.

#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test reports; clippy knows tests, not the functions they share"
)]

#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod cli_audit;
#[cfg(feature = "cli")]
mod cli_grants;
#[cfg(feature = "cli")]
mod cli_ladder;
#[cfg(feature = "cli")]
mod cli_migrations;
#[cfg(feature = "cli")]
mod cli_notify;
#[cfg(feature = "cli")]
mod cli_schedules;
mod fake;
mod migrations;
#[cfg(feature = "cli")]
mod monitoring;
mod retry;
mod schedules;
mod watch;
