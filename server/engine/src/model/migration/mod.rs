//! Migrations as plain data: what a folder holds (`script`), what ledgers say (`ledger`), what a statement will do (`impact`), what a run
//! was asked for and did (`report`), what a database holds (`fingerprint`), what a copy of it has (`sample`). Whoever reads folders, orders, judges or executes them is in
//! [`crate::migration`] and [`crate::run`].

mod fingerprint;
mod impact;
mod ledger;
mod report;
mod sample;
mod script;

pub use fingerprint::{Fingerprint, SchemaObject, TableContent, TableMeasure};
pub use impact::{Impact, LockMode, Risk, RiskReason, TableLock, Work};
pub use ledger::{Direction, ForeignEntry, ForeignLedger, LedgerEntry, LedgerKind, LedgerReach, LedgerState};
pub use report::{
    MigrationOptions, MigrationProgress, MigrationRecord, MigrationReport, PlannedMigration, Proof, Rehearsal, RowsLost,
    ScriptProblem, StatementReport,
};
pub use sample::{Sample, SampledTable};
pub use script::{Group, Layout, Metadata, Migration, MigrationId, Script, Statement};
