//! A maintained database, as the engine needs it: look at it, list rows, and change them batch by batch under a fence.
//!
//! The order inside a batch belongs to [`crate::run::batch`]; adapters bring the single acts.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::explore::Explore;
use crate::backup::Section;
use crate::model::{
    Capability, ChildLink, ColumnSource, EngineKind, Identity, JournalEntry, Literal, Row, RowKey, RunId, Selection, StepTotals,
    TableName, TableSchema, TargetStatus, Value,
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
    /// More rows hang on the listed ones than one transaction may take; fewer at a time may go.
    OverBudget,
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
    /// Rows of the whole table in the snapshot in which the selection was counted, where that was asked for and can be had.
    pub table_rows: Option<u64>,
}

/// How many rows a link reaches when all selected rows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChildCount {
    /// Rows that go or change; of those that change, only such as stay.
    pub rows: u64,
    /// Of a link that sets NULL: rows that another link, or the selection, deletes.
    pub also_going: u64,
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

/// The values of a column, page by page.
#[async_trait]
pub trait ValueStream: Send {
    /// The next values as text; none at the end. NULL is no value, and a value may come more than once.
    async fn next(&mut self) -> Result<Vec<Vec<u8>>, TargetError>;
}

/// The right to change a target for a run: checked in every transaction against the journal's run row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The run.
    pub run: RunId,
    /// Of the attempt, see [`fence`](crate::model::fence); a larger one shuts the smaller out.
    pub fence: u64,
}

/// What was done to captured rows, and so what it takes to put them back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Captured {
    /// They were deleted: they are inserted again.
    #[default]
    Deleted,
    /// They were copied to another table and deleted: they are inserted again, and the copies deleted.
    Archived {
        /// The other table.
        into: TableName,
        /// Its column for the time.
        stamp_column: String,
        /// The value of that column, as the database writes it.
        stamp: String,
    },
    /// Columns of them were changed: those that still hold the new values get the old ones.
    Changed {
        /// The columns. After the values of the layout's columns each captured row holds the new values of these.
        changed: Vec<String>,
    },
}

/// Where captured rows come from and go back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableLayout {
    /// The table.
    pub table: TableName,
    /// Names and types of the captured columns, in the order of the values.
    pub columns: Vec<(String, String)>,
    /// Columns that address a row.
    pub row_key: Vec<String>,
    /// What was done to the rows.
    #[serde(flatten)]
    pub captured: Captured,
}

impl TableLayout {
    /// Number of values in a captured row.
    #[must_use]
    pub fn width(&self) -> usize {
        let new_values = if let Captured::Changed { changed } = &self.captured {
            changed.len()
        } else {
            0
        };
        self.columns.len() + new_values
    }
}

/// A captured row that could not be put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The table.
    pub table: TableName,
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
    /// Some of those, and rows that are back without all that was done to them being undone.
    pub conflicts: Vec<Conflict>,
    /// The archive table whose copies of the rows could not be looked for: it is gone, or lacks their columns.
    pub archive_gone: Option<TableName>,
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

    /// Locks those of the listed rows that still match the whole selection, and returns their captured columns.
    async fn hold(&mut self, selection: &Selection, keys: &[RowKey]) -> Result<Vec<Row>, TargetError>;

    /// Locks the rows that name one of these parents along a link, and returns their captured columns; at most `limit`. `parents`
    /// are values of the link's parent columns.
    async fn hold_children(&mut self, link: &ChildLink, parents: &[Row], limit: u64) -> Result<Vec<Row>, TargetError>;

    /// Deletes held rows of a table by its primary key, of which no part is NULL; returns the number of rows that went.
    ///
    /// # Errors
    /// Class `Refused` where the database deletes or changes other rows along with them: what was held was not all.
    async fn remove(&mut self, table: &TableSchema, keys: &[RowKey]) -> Result<u64, TargetError>;

    /// Gives columns of held rows new values (`None` is NULL); returns for each key, in order, the values that the columns hold
    /// then, or fewer rows where some did not change.
    async fn assign(
        &mut self,
        table: &TableSchema,
        keys: &[RowKey],
        assignments: &[(String, Option<Literal>)],
    ) -> Result<Vec<Row>, TargetError>;

    /// Copies held rows into an archive table with the time of this transaction; returns their number and that time as the
    /// database writes it.
    async fn copy_to_archive(
        &mut self,
        table: &TableSchema,
        keys: &[RowKey],
        into: &TableName,
        stamp_column: &str,
    ) -> Result<(u64, String), TargetError>;

    /// Looks again, with eyes newer than the deletion, whether deleted rows have been adopted: the number of rows whose
    /// parent is there now. More than zero means that the batch must be rolled back and tried again.
    async fn adopted(&mut self, selection: &Selection) -> Result<u64, TargetError>;

    /// Puts rows of one table back, by what was done to them; those that conflict with what the table holds are left and
    /// reported. Several parts were all deleted or archived: their rows may name one another, so that they go back together.
    async fn restore_together(&mut self, parts: Vec<Section>) -> Result<Restored, TargetError>;

    /// The same of rows that were all treated alike.
    async fn restore(&mut self, layout: &TableLayout, rows: Vec<Row>) -> Result<Restored, TargetError> {
        let layout = layout.clone();
        self.restore_together(vec![Section { layout, rows }]).await
    }

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

/// A replica of the target, as the target sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replica {
    /// Its name: of the application that streams, or of its slot.
    pub name: String,
    /// How far it is behind; `None` where that is not known.
    pub behind: Option<Duration>,
    /// Log that the target keeps for it, bytes; `None` where that is not known.
    pub retained_bytes: Option<u64>,
    /// Whether it is stopped: it has a slot, and does not use it.
    pub stopped: bool,
}

/// What a table's name without a schema could mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namesakes {
    /// Tables that the name alone reaches. The database takes the first; where there are more, somebody may have meant another.
    pub reached: Vec<TableName>,
    /// Tables of that name elsewhere, which only a full name reaches.
    pub elsewhere: Vec<TableName>,
    /// Full name of the table that would be made under this name.
    pub made: TableName,
}

/// How strained the target is. `None` is what this database, or this user, cannot tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Its replicas.
    pub replicas: Option<Vec<Replica>>,
    /// Sessions of others that wait for locks of dbkeep's sessions.
    pub lock_waiters: Option<u64>,
    /// How long a small fixed act took, on a connection of its own: what a statement of the foreground waits for.
    pub probe: Option<Duration>,
    /// Size of the write-ahead log beside the database, where it grows with what cannot be checkpointed, bytes.
    pub wal_bytes: Option<u64>,
}

/// A maintained database.
#[async_trait]
pub trait Target: Explore + Send + Sync {
    /// Product.
    fn engine(&self) -> EngineKind;

    /// Where it is, without user and password.
    fn address(&self) -> String;

    /// What it can do.
    fn capabilities(&self) -> &'static [Capability];

    /// The same database, none of whose statements keeps more than one of its processors busy; `None` where none does anyway.
    fn gentle(&self) -> Option<Arc<dyn Target>> {
        None
    }

    /// Connects and reads version, size and clock.
    async fn status(&self) -> Result<TargetStatus, TargetError>;

    /// Shape of a table; `None` where there is none of that name.
    async fn introspect(&self, table: &TableName) -> Result<Option<TableSchema>, TargetError>;

    /// What a table's name could mean; one with a schema means itself.
    async fn namesakes(&self, table: &TableName) -> Result<Namesakes, TargetError>;

    /// Exact count and samples of a selection.
    async fn survey(&self, selection: &Selection, samples: u32) -> Result<Survey, TargetError>;

    /// The same, and where at least `whole_from` rows are selected, the rows of the whole table as well, in the same snapshot: of two
    /// counts one after the other, rows that go in between are in the first alone, so that a larger share than there is would seem to go.
    async fn survey_share(&self, selection: &Selection, samples: u32, whole_from: u64) -> Result<Survey, TargetError>;

    /// Has the database plan a selection without executing it: a condition that it does not take fails here.
    async fn explain(&self, selection: &Selection) -> Result<(), TargetError>;

    /// Exact numbers of the rows that each link reaches when all selected rows go, in the order of the links; a row that several
    /// links delete is counted at the first. The links' own order puts a parent before its children.
    async fn count_children(&self, selection: &Selection, links: &[ChildLink]) -> Result<Vec<ChildCount>, TargetError>;

    /// Why the rows that name a parent along this link cannot be found by an index exactly as the database's own key finds them;
    /// `None` where they can. Only of links whose columns have an index.
    async fn unlike(&self, link: &ChildLink) -> Result<Option<String>, TargetError>;

    /// Makes the archive table of a table where it is missing: the same columns, and one for the time.
    async fn create_archive(&self, table: &TableSchema, into: &TableName, stamp_column: &str) -> Result<(), TargetError>;

    /// Exact number of rows in a table, at most `limit` where one is given.
    async fn count_rows(&self, table: &TableSchema, limit: Option<u64>) -> Result<u64, TargetError>;

    /// About how many rows a table has at this moment, by a look at a part of it: statistics of before a large deletion would make any
    /// share look small. `None` where nothing is quicker than a count.
    async fn estimate_rows(&self, table: &TableSchema) -> Result<Option<u64>, TargetError>;

    /// Begins a pass over the values of a text column.
    async fn column_values(&self, source: &ColumnSource) -> Result<Box<dyn ValueStream>, TargetError>;

    /// Which of these values the column holds at this moment, by their positions in order; at most 10,000 at a time. Where the
    /// database takes two spellings for equal, so does this.
    async fn holds(&self, source: &ColumnSource, values: &[Vec<u8>]) -> Result<Vec<usize>, TargetError>;

    /// Begins a pass over those values of a text column that begin with `prefix` and go on with what is no plain name of a file: one
    /// with an empty part, `.` or `..`. Every other value that begins with it names a file by nothing but its own bytes.
    async fn indirect_values(&self, source: &ColumnSource, prefix: &str) -> Result<Box<dyn ValueStream>, TargetError>;

    /// Begins a pass that lists matching rows, after `cursor` where one is given, in windows of at most `limit` keys.
    async fn scan(&self, selection: &Selection, cursor: Option<&str>, limit: u32) -> Result<Box<dyn Scan>, TargetError>;

    /// Which database this is. An id is made with the journal ([`Target::claim`]) and never changes; before that there is none. Changes
    /// nothing.
    async fn identity(&self) -> Result<Identity, TargetError> {
        Ok(Identity::default())
    }

    /// Ends the sessions in the database that older attempts of the run left holding locks, because their process is stopped or its machine
    /// is gone, and those of another run whose lease for migrations is over. To be called right before [`Target::claim`], which would wait
    /// for them. Says of each what it was, for people.
    ///
    /// Where the database is a file, nobody but a process can let go of its own locks: nothing is ended there.
    async fn oust(&self, _claim: Claim) -> Result<Vec<String>, TargetError> {
        Ok(Vec::new())
    }

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
    async fn begin(&self, claim: Claim, tables: &[&TableSchema]) -> Result<Box<dyn BatchTransaction>, TargetError> {
        self.begin_strict(claim, tables, &[]).await
    }

    /// The same, and until its end nobody else writes to the tables in `still`: a parent that comes back, even without touching
    /// a child, waits.
    ///
    /// # Errors
    /// As for [`Target::begin`], and `LockTimeout` where somebody writes to them.
    async fn begin_strict(
        &self,
        claim: Claim,
        tables: &[&TableSchema],
        still: &[&TableSchema],
    ) -> Result<Box<dyn BatchTransaction>, TargetError>;

    /// Measures how strained the database is. Called about once a second while a run works, never inside a batch, and, where
    /// [`Capability::ConcurrentWriters`] is missing, never while a batch of the same run is open.
    async fn pressure(&self) -> Result<Pressure, TargetError>;

    /// Opens a place to prove backups.
    async fn scratch(&self) -> Result<Box<dyn Scratch>, TargetError>;

    /// What it can do with whole tables.
    fn maintenance(&self) -> &dyn super::Maintenance;

    /// What executes migrations on it.
    fn migrator(&self) -> &dyn super::Migrator;

    /// What brings all of it back to a backup.
    fn rewinder(&self) -> &dyn super::Rewinder;

    /// What looks at its health.
    fn observer(&self) -> &dyn super::Observer;

    /// What looks at the rights of roles; `None` where the database has none ([`Capability::Roles`] is missing).
    fn privileges(&self) -> Option<&dyn super::Privileges> {
        None
    }
}
