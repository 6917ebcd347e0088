//! The nouns of dbkeep as plain data: no behaviour beyond what keeps a value valid. Everybody reads them, nobody else's
//! module is needed to understand them.

pub mod advice;
pub mod backup;
mod confirmation;
pub mod decision;
pub mod event;
pub mod fence;
pub mod file;
pub mod going;
pub mod identity;
mod maintenance;
pub mod migration;
pub mod monitor;
pub mod notice;
pub mod plan;
pub mod privilege;
pub mod report;
pub mod run;
pub mod schedule;
pub mod schema;
pub mod selection;
pub mod server;
pub mod size;
pub mod target;
pub mod value;

#[cfg(test)]
pub(crate) use confirmation::tests as plans;

pub use backup::{Along, Backup, ChunkRef, JournalEntry, StepTotals, Verification};
pub use decision::{Act, Approval, ApprovalProblem, Caller, Decision, DecisionId, Outcome};
pub use event::{Event, EventBody, Progress, Slowdown, Throttle};
pub use file::{ColumnSource, FileEntry, FileGlob, FilePath, FileTerms, Nanoseconds, nanoseconds};
pub use identity::Identity;
pub use maintenance::{
    BackupContent, BackupFile, BackupRecord, BloatedIndex, DeadRows, HorizonHolder, IndexSpace, IndexSurvey, MaintenanceItem,
    MaintenanceProgress, MaintenanceRecord, Pruned, RestoreMode, RestoreRecord, TableCount, TableSpace, TaskRecord,
};
pub use migration::{
    Direction, Fingerprint, ForeignEntry, ForeignLedger, Group, Impact, Layout, LedgerEntry, LedgerKind, LedgerReach,
    LedgerState, LockMode, Metadata, Migration, MigrationId, MigrationOptions, MigrationProgress, MigrationRecord,
    MigrationReport, PlannedMigration, Proof, Rehearsal, Risk, RiskReason, RowsLost, Sample, SampledTable, SchemaObject, Script,
    ScriptProblem, Statement, StatementReport, TableContent, TableLock, TableMeasure, Work,
};
pub use plan::{Finding, FindingLevel, Plan, PlanChild, PlanId, PlanStep, SampleRow};
pub use report::{EXPECTED_TIME_EXCEEDED, OperationFacts, OperationReport};
pub use run::{
    LimitsPatch, Report, ReportStatus, Run, RunId, RunKind, RunLimits, RunOptions, RunState, ScheduledBy, StepReport, StepState,
    Waiting, Warning,
};
// `schedule::Work` is called by its module: there is one of migrations, too.
pub use schedule::{
    CronFields, DstPolicy, FoldPolicy, GapPolicy, MaintenanceTask, Misfire, MisfirePolicy, NotifyRules, Overlap, Pause, Schedule,
    ScheduleId, ScheduleOptions, ScheduleSpec, ScheduleState, SlotOutcome, SlotRecord, StandingApproval, Timing,
};
pub use schema::{Column, ForeignKey, Generated, Index, OnDelete, TableKind, TableName, TableSchema, Trigger, TypeClass};
pub use selection::{ChildAction, ChildLink, Condition, Effect, Literal, Order, RowAction, Selection, TimeEncoding};
pub use server::{SchedulerSwitch, ServerInfo, ServerSeen};
pub use size::{RowsBy, SizeRecord, SizeSnapshot, TableSize};
pub use target::{Capability, EngineKind, TargetStatus};
pub use value::{Row, RowKey, Value};
