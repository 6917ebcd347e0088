//! Acts on whole tables of a target, which no batch can do: dump, load, vacuum. Each reports how far it is and stops when told to.
//!
//! Files lie in the backup folder; adapters get paths there from [`super::Archive::staging`] and [`super::Archive::local`], because
//! the programs that write and read them are not ours. Nothing here decides what counts: the engine seals a file, names it in the
//! run's report, and only then it is a backup.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::target::{Claim, TableLayout, Target, TargetError};
use crate::model::{
    DeadRows, IndexSpace, IndexSurvey, LedgerEntry, MaintenanceProgress, RunId, Sample, SampledTable, SizeSnapshot, TableCount,
    TableName, TableSpace,
};

/// An act on whole tables failed.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// A program that is needed is missing or too old.
    #[error("{tool}: {problem}")]
    Tool {
        /// Its name.
        tool: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A table is not there, or is of a kind that cannot be dumped.
    #[error("{table}: {problem}")]
    Table {
        /// The table.
        table: TableName,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// Tables that would be loaded hold rows.
    #[error("these tables hold rows: {}; restore them with replace, or to a scratch place", tables.join(", "))]
    NotEmpty {
        /// Those tables.
        tables: Vec<String>,
    },
    /// Others were in the way for too long. Nothing has changed.
    #[error("{problem}")]
    Blocked {
        /// What was waited for, how long, and who held it where that is known.
        problem: String,
    },
    /// The database holds something that cannot be replaced in one transaction, or that no dump brings back.
    #[error("{problem}")]
    Unsupported {
        /// What, and what was expected.
        problem: String,
    },
    /// The dump cannot be used.
    #[error("the backup is damaged: {problem}")]
    Damaged {
        /// What is wrong with it.
        problem: String,
    },
    /// The place to restore to is taken, or cannot be made.
    #[error("{place}: {problem}")]
    Place {
        /// The place.
        place: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// It was told to stop, and nothing of it is left.
    #[error("stopped")]
    Stopped,
    /// The disk said no.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database said no.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// How an act tells of itself and hears of its end.
#[derive(Debug, Clone)]
pub struct Watch {
    /// The newest word on how far it is.
    pub progress: watch::Sender<MaintenanceProgress>,
    /// Cancelled when it has to stop; the act then ends within about a second with [`MaintenanceError::Stopped`].
    pub stop: CancellationToken,
}

impl Watch {
    /// Says how far an act is.
    pub fn say(&self, phase: &str, table: &str, done: u64, total: u64, unit: &str) {
        self.progress.send_replace(MaintenanceProgress {
            phase: phase.to_owned(),
            table: table.to_owned(),
            done,
            total,
            unit: unit.to_owned(),
        });
    }

    /// Waits for `act`, or drops it when told to stop.
    ///
    /// # Errors
    /// `Stopped`, or what the act said.
    pub async fn or_stop<T, E: Into<MaintenanceError>>(
        &self,
        act: impl Future<Output = Result<T, E>>,
    ) -> Result<T, MaintenanceError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(MaintenanceError::Stopped),
            result = act => result.map_err(Into::into),
        }
    }
}

/// What could be dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpScope {
    /// The tables that were asked for, as the database resolves them; empty for the whole database.
    pub tables: Vec<TableName>,
    /// What would write it, with its version.
    pub tool: String,
    /// Name that the file should have.
    pub file: &'static str,
}

/// A dump to be made.
#[derive(Debug, Clone)]
pub struct DumpOrder {
    /// The attempt for which it is made, where that has taken the target: the next one can end its sessions then. `None` for one that
    /// is to leave nothing in the target.
    pub claim: Option<Claim>,
    /// Tables; empty for the whole database.
    pub tables: Vec<TableName>,
    /// An empty file of ours, to be written.
    pub path: PathBuf,
    /// Whether rows are left out, which only PostgreSQL's adapter can: the tables are told as empty. Such a dump is no backup.
    pub schema_only: bool,
}

/// A dump that was made. It is not durable yet.
#[derive(Debug, Clone)]
pub struct Dumped {
    /// Tables in it, with their rows in the snapshot that was saved.
    pub tables: Vec<TableCount>,
    /// What the adapter wants to know when it loads the dump; read by nobody else.
    pub notes: serde_json::Value,
    /// The ledger of migrations in the snapshot that was saved; empty where only some tables were dumped.
    pub ledger: Vec<LedgerEntry>,
}

/// A dump to be loaded.
#[derive(Debug, Clone)]
pub struct LoadOrder {
    /// The right to do it.
    pub claim: Claim,
    /// The dump, already checked against its checksum.
    pub path: PathBuf,
    /// Tables to load, with the rows that the dump holds of each.
    pub tables: Vec<TableCount>,
    /// Whether those are all tables of a whole database.
    pub whole: bool,
    /// What the adapter noted when it made the dump.
    pub notes: serde_json::Value,
}

/// A copy with some of the rows, to be made.
#[derive(Debug, Clone)]
pub struct SampleOrder {
    /// The right to do it.
    pub claim: Claim,
    /// An empty file of ours, for whatever the adapter has to write on the way.
    pub path: PathBuf,
    /// How many rows.
    pub sample: Sample,
}

/// Tables that were loaded and counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Where they are, in words.
    pub place: String,
    /// The tables, with the rows that are in them now.
    pub tables: Vec<TableCount>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// What a target can do with whole tables.
#[async_trait]
pub trait Maintenance: Send + Sync {
    /// Why a task of built-in maintenance, by its name, has no use on databases of this kind; `None` where it has. The same for as long as
    /// the program runs: schedules with such a task are refused.
    fn unsupported(&self, task: &str) -> Option<&'static str>;

    /// Looks whether these tables, or the whole database, can be dumped. Changes nothing.
    async fn scope(&self, tables: &[TableName]) -> Result<DumpScope, MaintenanceError>;

    /// Dumps tables from one snapshot. Nothing it started is alive when it returns, nor for long when it is dropped or this process
    /// dies.
    async fn dump(&self, order: &DumpOrder, watch: &Watch) -> Result<Dumped, MaintenanceError>;

    /// Looks whether tables could be loaded into their own place. Changes nothing.
    async fn may_load(&self, tables: &[TableName], replace: bool) -> Result<(), MaintenanceError>;

    /// Loads tables into their own place in one transaction, which checks the fence and writes a journal row (step 0, batch 1):
    /// all of them are there with every row, or nothing has changed.
    async fn load(&self, order: &LoadOrder, replace: bool, watch: &Watch) -> Result<Loaded, MaintenanceError>;

    /// Loads tables into a place of their own, made for it. What an earlier attempt of the same run left there is removed first;
    /// what belongs to anybody else is refused.
    async fn load_scratch(&self, order: &LoadOrder, name: &str, watch: &Watch) -> Result<Loaded, MaintenanceError>;

    /// Copies the whole schema and some rows of every table into a place of their own, made for it as [`Maintenance::load_scratch`] makes
    /// one. The rows are spread evenly over the order of the primary key, the last among them; a table without one is taken in the order
    /// in which its rows lie. The same rows come out as long as the same are there. Rows that foreign keys of chosen rows name come along,
    /// and theirs. Sequences stand where they stand in the target.
    ///
    /// Returns every table with the rows that the copy has, and those that it has in the same snapshot of the target.
    async fn sample_scratch(&self, order: &SampleOrder, name: &str, watch: &Watch)
    -> Result<Vec<SampledTable>, MaintenanceError>;

    /// Opens the place that [`Maintenance::load_scratch`] made as a target of its own. It is closed when it is dropped, before
    /// [`Maintenance::drop_scratch`].
    ///
    /// # Errors
    /// `Place` where there is none of that name.
    async fn open_scratch(&self, name: &str) -> Result<Arc<dyn Target>, MaintenanceError>;

    /// Removes the place that [`Maintenance::load_scratch`] made for this attempt or one before it; one that is not there is no error,
    /// one of a later attempt or of anybody else is left and refused.
    async fn drop_scratch(&self, claim: Claim, name: &str) -> Result<(), MaintenanceError>;

    /// Makes an empty table that takes rows of a layout, and returns its name; finds the one that the same run made before. What
    /// belongs to anybody else is refused.
    async fn scratch_table(&self, run: RunId, name: &str, layout: &TableLayout) -> Result<TableName, MaintenanceError>;

    /// Makes the space of a table's deleted rows reusable, and tells what became of it.
    async fn vacuum(&self, table: &TableName, watch: &Watch) -> Result<TableSpace, MaintenanceError>;

    /// Tables whose dead rows are worth a vacuum, those with most of them first, by the database's own statistics.
    ///
    /// # Errors
    /// A target's of class `Unsupported` where tables share one file: see [`Maintenance::vacuum_file`].
    async fn dead_rows(&self) -> Result<Vec<DeadRows>, MaintenanceError>;

    /// Renews the statistics of the whole file, and gives free pages back as far as it can.
    ///
    /// # Errors
    /// A target's of class `Unsupported` where each table has files of its own: see [`Maintenance::dead_rows`].
    async fn vacuum_file(&self, watch: &Watch) -> Result<TableSpace, MaintenanceError>;

    /// Looks which indexes are mostly air, and which were left behind invalid. Changes nothing.
    ///
    /// # Errors
    /// A target's of class `Unsupported` where a rebuild makes no index smaller.
    async fn survey_indexes(&self, watch: &Watch) -> Result<IndexSurvey, MaintenanceError>;

    /// Rebuilds an index while others read and write its table. Told to stop, or cut off, it may leave an invalid index behind, which
    /// [`Maintenance::settle_reindex`] removes.
    async fn reindex(&self, run: RunId, index: &TableName, watch: &Watch) -> Result<IndexSpace, MaintenanceError>;

    /// Ends what is left at work of a run's rebuild of an index, removes what that left behind, and returns the names of it. What
    /// somebody else left, or is at, stays. Without anything to do it does nothing.
    async fn settle_reindex(&self, run: RunId, index: &TableName) -> Result<Vec<TableName>, MaintenanceError>;

    /// Sizes of the database and of these tables, or of the largest where it is `None`, without looking at rows and without waiting
    /// long for anybody. What the database does not know is said to be unknown; a table that is gone is left out.
    async fn sizes(&self, tables: Option<&[TableName]>) -> Result<SizeSnapshot, MaintenanceError>;

    /// Removes what the journal keeps of a run whose backup is gone. Returns the number of rows removed.
    async fn forget(&self, run: RunId) -> Result<u64, MaintenanceError>;
}
