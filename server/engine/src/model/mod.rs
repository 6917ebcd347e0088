//! The nouns of dbkeep as plain data: no behaviour beyond what keeps a value valid. Everybody reads them, nobody else's
//! module is needed to understand them.

pub mod backup;
pub mod event;
pub mod maintenance;
pub mod plan;
pub mod run;
pub mod schema;
pub mod selection;
pub mod target;
pub mod value;

pub use backup::{Backup, ChunkRef, JournalEntry, StepTotals, Verification};
pub use event::{Event, EventBody, Progress, Throttle};
pub use maintenance::{
    BackupContent, BackupFile, BackupRecord, HorizonHolder, MaintenanceProgress, Pruned, RestoreMode, RestoreRecord, TableCount,
    TableSpace,
};
pub use plan::{Finding, FindingLevel, Plan, PlanId, PlanStep, SampleRow};
pub use run::{Report, ReportStatus, Run, RunId, RunKind, RunOptions, RunState, StepReport, StepState, Warning};
pub use schema::{Column, ForeignKey, Generated, Index, OnDelete, TableKind, TableName, TableSchema, Trigger, TypeClass};
pub use selection::{Condition, Selection, TimeEncoding};
pub use target::{Capability, EngineKind, TargetStatus};
pub use value::{Row, RowKey, Value};
