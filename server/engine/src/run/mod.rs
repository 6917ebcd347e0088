//! Runs: who may work on one, what it does batch by batch, and how it is watched.
//!
//! ```text
//! supervisor: claims runs from the store, one task each -> attempt: lease, then the work of the run's kind
//!   cleanup: step -> pass -> batch (the batch protocol)      undo: chunk by chunk      verify: chunk by chunk
//!   dump: one file from one snapshot      load: a dump, or captured rows, into a place      vacuum: after a cleanup
//! ledger: report and events of the attempt -> store -> feed: watchers
//! ```

mod attempt;
pub mod batch;
mod cleanup;
mod dump;
mod feed;
mod lease;
mod ledger;
mod load;
mod maintain;
pub(crate) mod meter;
pub mod state;
pub(crate) mod supervisor;
mod undo;
mod vacuum;
mod verify;

pub(crate) use cleanup::tables_of;
pub use feed::{Feeds, WatchItem};
pub(crate) use meter::as_f64;
pub use supervisor::Supervisor;
