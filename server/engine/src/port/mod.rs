//! The only ways out of the engine. Each trait has adapters in the server crate, an in-memory one in `testing`
//! where tests need it, and one conformance suite that all of them pass.

pub mod archive;
pub mod maintenance;
pub mod store;
pub mod target;

pub use archive::{Archive, ArchiveError, ChunkFile, Trash};
pub use maintenance::{DumpOrder, DumpScope, Dumped, LoadOrder, Loaded, Maintenance, MaintenanceError, Watch};
pub use store::{CreateRun, Created, EventPage, Grant, Renewal, RunFilter, SourceMark, Store, StoreError, Update};
pub use target::{
    BatchTransaction, Claim, Conflict, Restored, RowSink, Scan, Scratch, SinkError, Survey, TableLayout, Target, TargetError,
    TargetErrorClass, Window,
};
