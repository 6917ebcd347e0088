//! A maintained database, as the engine needs it: look at it, list rows, and change them batch by batch under a fence.
//!
//! The order inside a batch belongs to [`crate::run::batch`]; adapters bring the single acts.

use async_trait::async_trait;

use crate::model::{
    Capability, EngineKind, JournalEntry, Row, RowKey, RunId, Selection, StepTotals, TableName, TableSchema, TargetStatus, Value,
};

/// What kind of failure a database reported; decides whether a batch, an attempt or the run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetErrorClass {
    /// The connection could not be made or broke. Whether the last statement took effect is unknown.
    Lost,
    /// A lock was not granted in time; the batch can be tried again.
    LockTimeout,
    /// Deadlock, or a row changed since the batch's snapshot; the batch can be tried again.
    Conflict,
    /// A statement ran into its time limit.
    Timeout,
    /// A constraint refused the statement.
    Constraint,
    /// The user may not do this.
    Permission,
    /// The schema is not what the plan saw.
    SchemaChanged,
    /// A newer attempt holds the run.
    Fenced,
    /// The database cannot do this here.
    Unsupported,
    /// The row sink refused a row; nothing was deleted.
    Sink,
    /// Anything else the database refused.
    Refused,
}

/// A failure of the target.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TargetError {
    /// What kind of failure.
    pub class: TargetErrorClass,
    /// What happened, for people; carries no connection string.
    pub message: String,
    /// SQLSTATE, or SQLite's extended result code.
    pub code: Option<String>,
    /// Name of the constraint that refused.
    pub constraint: Option<String>,
    /// What the row sink said, where the class is [`TargetErrorClass::Sink`].
    #[source]
    pub sink: Option<SinkError>,
}

impl TargetError {
    /// A failure without a code.
    pub fn new(class: TargetErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            code: None,
            constraint: None,
            sink: None,
        }
    }

    /// Whether the same batch may succeed when it is tried again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.class,
            TargetErrorClass::LockTimeout | TargetErrorClass::Conflict | TargetErrorClass::Timeout
        )
    }
}

impl From<SinkError> for TargetError {
    fn from(error: SinkError) -> Self {
        Self {
            class: TargetErrorClass::Sink,
            message: error.to_string(),
            code: None,
            constraint: None,
            sink: Some(error),
        }
    }
}

/// A row could not be captured.
#[derive(Debug, thiserror::Error)]
#[error("the backup could not take a row: {0}")]
pub struct SinkError(#[from] pub std::io::Error);

/// Takes captured rows, in the order in which the database returned them.
pub trait RowSink: Send {
    /// Takes one row: the values of the layout's columns in order.
    ///
    /// # Errors
    /// Where the row cannot be kept; the batch is then rolled back.
    fn row(&mut self, values: &[Value]) -> Result<(), SinkError>;
}

/// What a plan needs to know of a selection.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Exact number of rows.
    pub row_count: u64,
    /// Some of the rows, in captured-column order.
    pub samples: Vec<Row>,
    /// Average size of a captured row before compression, bytes, over the samples.
    pub row_bytes: u64,
    /// The selection as SQL, for reading.
    pub sql: String,
}

/// One part of a pass: the listed rows of one batch.
#[derive(Debug, Clone)]
pub struct Window {
    /// Keys of listed rows; may be empty where a stretch of the table holds none.
    pub keys: Vec<RowKey>,
    /// Where the pass stands after this window; read only by the adapter.
    pub cursor: String,
    /// Rows looked at, 0 where the database does not tell.
    pub examined: u64,
    /// Share of the table that is behind, 0 to 1.
    pub fraction: f64,
}

/// A pass over a table that lists matching rows.
#[async_trait]
pub trait Scan: Send {
    /// The next window, with at most the `limit` of [`Target::scan`] keys; `None` at the table's end.
    async fn next(&mut self) -> Result<Option<Window>, TargetError>;
}

/// The right to change a target for a run: checked in every transaction against the journal's run row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The run.
    pub run: RunId,
    /// Number of the attempt; a larger one shuts the smaller out.
    pub fence: u64,
}

/// Where captured rows come from and go back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableLayout {
    /// The table.
    pub table: TableName,
    /// Names and types of the captured columns, in the order of the values.
    pub columns: Vec<(String, String)>,
    /// Columns that address a row.
    pub row_key: Vec<String>,
}

/// A captured row that could not be put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The row's key, readable.
    pub key: String,
    /// Why, in one sentence.
    pub reason: String,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Rows put back.
    pub rows: u64,
    /// Rows left.
    pub conflicting: u64,
    /// Some of those.
    pub conflicts: Vec<Conflict>,
}

/// One transaction on the target, on a connection of its own that never goes back to a pool after an error.
///
/// Dropping it without [`BatchTransaction::commit`] takes everything back.
#[async_trait]
pub trait BatchTransaction: Send {
    /// Deletes those of the listed rows that still match the whole selection, and hands each deleted row to `capture`.
    /// Returns the number of deleted rows.
    async fn delete(
        &mut self,
        selection: &Selection,
        keys: &[RowKey],
        capture: Option<&mut dyn RowSink>,
    ) -> Result<u64, TargetError>;

    /// Looks again, with eyes newer than the deletion, whether deleted rows have been adopted: the number of rows whose
    /// parent is there now. More than zero means that the batch must be rolled back and tried again.
    async fn adopted(&mut self, selection: &Selection) -> Result<u64, TargetError>;

    /// Puts rows back; those that conflict with what the table holds are left and reported.
    async fn restore(&mut self, layout: &TableLayout, rows: Vec<Row>) -> Result<Restored, TargetError>;

    /// Writes the journal's row of this batch.
    async fn record(&mut self, entry: &JournalEntry) -> Result<(), TargetError>;

    /// Commits. An error of class [`TargetErrorClass::Lost`] leaves it unknown whether the batch took effect: the journal,
    /// read under a new claim, tells.
    async fn commit(self: Box<Self>) -> Result<(), TargetError>;

    /// Takes everything back. Failing to say so is no error: the database does it when the connection closes.
    async fn rollback(self: Box<Self>);
}

/// A place to prove that captured rows can be restored; it vanishes when dropped.
#[async_trait]
pub trait Scratch: Send {
    /// Restores rows into an empty copy of the table's columns, reads them back and compares. Returns the number of rows
    /// that came back exactly as they were captured.
    async fn prove(&mut self, layout: &TableLayout, rows: Vec<Row>) -> Result<u64, TargetError>;
}

/// A maintained database.
#[async_trait]
pub trait Target: Send + Sync {
    /// Product.
    fn engine(&self) -> EngineKind;

    /// Where it is, without user and password.
    fn address(&self) -> String;

    /// What it can do.
    fn capabilities(&self) -> &'static [Capability];

    /// Connects and reads version, size and clock.
    async fn status(&self) -> Result<TargetStatus, TargetError>;

    /// Shape of a table; `None` where there is none of that name.
    async fn introspect(&self, table: &TableName) -> Result<Option<TableSchema>, TargetError>;

    /// Exact count and samples of a selection.
    async fn survey(&self, selection: &Selection, samples: u32) -> Result<Survey, TargetError>;

    /// Exact number of rows in a table, at most `limit` where one is given.
    async fn count_rows(&self, table: &TableSchema, limit: Option<u64>) -> Result<u64, TargetError>;

    /// Begins a pass that lists matching rows, after `cursor` where one is given, in windows of at most `limit` keys.
    async fn scan(&self, selection: &Selection, cursor: Option<&str>, limit: u32) -> Result<Box<dyn Scan>, TargetError>;

    /// Makes the journal where it is missing, and shuts out every attempt with a smaller fence. When it returns, no
    /// transaction of an older attempt is open any more: the journal is final.
    ///
    /// # Errors
    /// Class [`TargetErrorClass::Fenced`] where a larger fence is there already.
    async fn claim(&self, claim: Claim) -> Result<(), TargetError>;

    /// The journal of a run, summed up by step.
    async fn totals(&self, run: RunId) -> Result<Vec<StepTotals>, TargetError>;

    /// Journal entries of a run that have a chunk, in order of (step, batch), after that position.
    async fn journal(&self, run: RunId, after: (u32, u64), limit: u32) -> Result<Vec<JournalEntry>, TargetError>;

    /// Journal entries of one step that have a chunk, newest first, with batch numbers below `below`.
    async fn journal_back(&self, run: RunId, step: u32, below: u64, limit: u32) -> Result<Vec<JournalEntry>, TargetError>;

    /// Begins a transaction, checks the fence, and makes sure that the shape of `tables` is still the given one and stays so.
    ///
    /// # Errors
    /// Class `Fenced`, `SchemaChanged`, or whatever the connection says.
    async fn begin(&self, claim: Claim, tables: &[&TableSchema]) -> Result<Box<dyn BatchTransaction>, TargetError>;

    /// Opens a place to prove backups.
    async fn scratch(&self) -> Result<Box<dyn Scratch>, TargetError>;

    /// What it can do with whole tables.
    fn maintenance(&self) -> &dyn super::Maintenance;
}
