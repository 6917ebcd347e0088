//! One file per noun of the command line.
//!
//! Each owns its arguments (as clap reads them) and what it does with the client's answer. `main.rs` calls their `run`.

pub(crate) mod alerts;
pub(crate) mod audit;
pub(crate) mod backups;
pub(crate) mod completions;
pub(crate) mod decisions;
pub(crate) mod discover;
pub(crate) mod extract;
pub(crate) mod findings;
pub(crate) mod grants;
pub(crate) mod metrics;
pub(crate) mod migrations;
pub(crate) mod notify;
pub(crate) mod operations;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod status;
pub(crate) mod steer;
pub(crate) mod targets;
pub(crate) mod tokens;
pub(crate) mod top;
