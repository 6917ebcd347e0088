//! Runs: who may work on one, what it does batch by batch, and how it is watched.
//!
//! ```text
//! supervisor: claims runs from the store, one task each -> attempt: lease, then the work of the run's kind
//!   cleanup: step -> pass -> batch (the batch protocol)      undo: chunk by chunk      verify: chunk by chunk
//! pace: throttle (decides) <- gauge (measures), lease (limits in effect)      supply: listed rows -> batches
//!   dump: one file from one snapshot      load: a dump, or captured rows, into a place      vacuum: after a cleanup
//! migrate: scripts with their ledger rows, and rehearsals on a copy
//! upkeep: built-in maintenance, task by task      measure: sizes around the run of a schedule      advise: what its target needs then
//! ledger: report and events of the attempt -> store -> feed: watchers
//! ```

mod advise;
mod allowance;
mod attempt;
pub mod batch;
mod cleanup;
mod dump;
mod family;
mod feed;
mod files;
mod gauge;
mod lease;
mod ledger;
pub(crate) mod load;
mod maintain;
mod measure;
pub(crate) mod meter;
pub(crate) mod migrate;
mod pace;
pub mod state;
pub(crate) mod supervisor;
mod supply;
mod throttle;
mod undo;
mod upkeep;
mod vacuum;
mod verify;

pub(crate) use cleanup::tables_of;
pub use feed::{Feeds, WatchItem};
pub(crate) use meter::as_f64;
pub use supervisor::Supervisor;
pub(crate) use undo::OUT_OF_TIME;
