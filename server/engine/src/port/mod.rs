//! The only ways out of the engine. Each trait has adapters in the server crate, an in-memory one in `testing`
//! where tests need it, and one conformance suite that all of them pass.

pub mod anchors;
pub mod archive;
pub mod audit;
pub mod explore;
pub mod files;
pub mod ladder;
pub mod machine;
pub mod maintenance;
pub mod metrics;
pub mod migrator;
pub mod notifier;
pub mod observer;
pub mod outbox;
pub mod privileges;
pub mod rewind;
pub mod schedules;
pub mod store;
pub mod target;
pub mod tokens;

pub use anchors::{AnchorError, AnchorFile};
pub use archive::{Archive, ArchiveError, ChunkFile};
pub use audit::{AuditFilter, AuditLog, Outline, Stored};
pub use explore::{DeclaredKey, Explore, Repeats, Sample};
pub use files::{
    FileRoot, FilesError, Left, PutBack, Roots, Sieve, Sifted, Standing, Taken, Trash, TrashTotals, TrashUsage, Trashed,
    TrashedFile, Visit, Walked,
};
pub use ladder::{DecisionFilter, Ladder, Resolved, Verdict};
pub use machine::{DiskNumbers, Machine, MachineNumbers, UnreadableFolder};
pub use maintenance::{DumpOrder, DumpScope, Dumped, LoadOrder, Loaded, Maintenance, MaintenanceError, SampleOrder, Watch};
pub use metrics::{
    AlertChanges, AlertFilter, BackupStanding, CollectClaim, Collected, Collection, EndedRuns, HistoryQuery, HistoryUsage,
    Metrics, Point, Step,
};
pub use migrator::{
    Follow, GroupDone, GroupOrder, IndexState, MigrationFolder, Migrator, MigratorError, Proofs, SourceFile, Told,
};
pub use notifier::{DeliveryError, DeliveryErrorClass, Notifier};
pub use observer::Observer;
pub use outbox::{ClaimedDelivery, DeliveryFilter, Outbox, Requeued, Settlement};
pub use privileges::Privileges;
pub use rewind::{FreezeOrder, Frozen, RewindOrder, Rewinder, Rewound};
pub use schedules::{
    Changed, CreateSchedule, EndedSlot, FiredNow, Kept, OpenSlots, Pulse, ScheduleCreated, Schedules, SlotClaim, SlotEnd,
    SlotFilter, SlotGrant, SlotPlace,
};
pub use store::{
    CreateRun, Created, EventPage, Grant, PruneBegun, Renewal, RunFilter, SourceMark, Steer, SteerRequest, Steered, Store,
    StoreError, Update,
};
pub use target::{
    BatchTransaction, Captured, ChildCount, Claim, Conflict, Namesakes, Pressure, Replica, Restored, RowSink, Scan, Scratch,
    SinkError, Survey, TableLayout, Target, TargetError, TargetErrorClass, ValueStream, Window,
};
pub use tokens::Tokens;
