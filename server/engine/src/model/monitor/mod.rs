//! What monitoring knows of a target: a [`Snapshot`] of its health, the [`Sample`]s that history keeps of it, what is wrong with it
//! ([`Finding`]), what somebody should be told of ([`Alert`]), and what should be done ([`Recommendation`]).
//!
//! An adapter makes the snapshot ([`crate::port::Observer`]); everything that follows from it is a pure function in
//! [`crate::monitor`].

mod alert;
mod finding;
mod metric;
mod snapshot;

pub use alert::{Alert, AlertId, AlertState, AlertTransition, Threshold};
pub use finding::{Finding, FindingKind, Level, Recommendation};
pub use metric::{Kind, Metric, Sample, Unit};
pub use snapshot::{
    Blocks, Depth, Gap, HorizonHolder, IndexVitals, LongTransaction, OldTemporary, Partition, Precision, QueryVitals,
    ReplicaVitals, RowCount, SessionVitals, SlotVitals, Snapshot, TableVitals, UnindexedKey, Vitals,
};
