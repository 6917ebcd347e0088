//! Folders outside of the database whose files dbkeep may take away, as the engine needs them. A file is never unlinked: it moves
//! to a trash beneath the same root, from where an undo moves it back, until the trash of its run is pruned.
//!
//! ```text
//!  <root>/.dbkeep-trash/<run>/<step>/manifest          what was meant and what was done, one checked line each
//!  <root>/.dbkeep-trash/<run>/<step>/<batch>/<number>  the files
//! ```
//!
//! The manifest is to files what the journal in the target is to rows: after any crash it is the truth. Every act blocks on the
//! disk; the engine calls them where blocking is allowed.

use std::{collections::BTreeMap, io, ops::ControlFlow, sync::Arc};

use jiff::Timestamp;

use crate::model::{FileEntry, FilePath, RunId};

/// A failure of a root or its trash.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The root is not, or no longer, what was declared.
    #[error("root {path}: {problem}")]
    Unusable {
        /// Where it is.
        path: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: String,
        /// What it said.
        source: io::Error,
    },
    /// A newer attempt holds the step.
    #[error("{path}: a newer attempt holds this step")]
    Fenced {
        /// The trash of the step.
        path: String,
    },
    /// Somebody else is at work in the trash and did not end in time.
    #[error("{path}: held by another attempt or process")]
    Busy {
        /// The trash of the step.
        path: String,
    },
    /// The manifest is not what was written.
    #[error("{path}: {problem}")]
    Damaged {
        /// The manifest.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Another file was taken for a listed one at the last instant, and its place was filled before it could go back.
    #[error("{trashed} belongs to {path}, whose name is taken; move it by hand")]
    Stranded {
        /// Where it should be.
        path: String,
        /// Where it is.
        trashed: String,
    },
}

/// What a walk met besides regular files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walked {
    /// Regular files.
    pub files: u64,
    /// Folders that could not be read.
    pub unreadable: u64,
    /// One of those, readable.
    pub unreadable_example: Option<String>,
    /// Folders on which something else is mounted; they were not entered.
    pub mounts: u64,
}

/// What to do after a visited file.
pub type Visit<'a> = dyn FnMut(FileEntry) -> Result<ControlFlow<()>, FilesError> + 'a;

/// What a listed file means to a sieve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It comes out where no name refers to it.
    Takeable,
    /// It never comes out, and is counted where no name refers to it: it changed since the plan.
    Touched,
    /// It never comes out.
    Other,
}

/// Finds out which listed files no name refers to, in memory that does not grow with their number.
pub trait Sieve: Send {
    /// Takes a file. Those that never come out still tell whether names refer to files of the root.
    ///
    /// # Errors
    /// Where the system cannot keep it.
    fn file(&mut self, file: &FileEntry, standing: Standing) -> Result<(), FilesError>;

    /// Takes a name that is referred to. The same one may come often.
    ///
    /// # Errors
    /// Where the system cannot keep it.
    fn name(&mut self, path: &FilePath) -> Result<(), FilesError>;

    /// Ends the intake.
    ///
    /// # Errors
    /// What the system said.
    fn sift(self: Box<Self>) -> Result<Box<dyn Sifted>, FilesError>;
}

/// The takeable files to which no name refers.
pub trait Sifted: Send {
    /// Up to `limit` of them; none at the end.
    ///
    /// # Errors
    /// What the system said.
    fn next(&mut self, limit: usize) -> Result<Vec<FileEntry>, FilesError>;

    /// Files of any standing to which a name refers, among those looked at so far; all of them at the end.
    fn referenced(&self) -> u64;

    /// Touched files to which no name refers, likewise.
    fn touched(&self) -> u64;
}

/// The manifest of one step, summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrashTotals {
    /// Sealed batches.
    pub batches: u64,
    /// Files in them that were moved and not moved back by their own run.
    pub files: u64,
    /// Their sizes, bytes.
    pub bytes: u64,
}

/// A listed file that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The file.
    pub path: FilePath,
    /// Why, in a few words.
    pub reason: String,
    /// Whether it is gone: moved, renamed or removed by somebody else.
    pub vanished: bool,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taken {
    /// Files that are in the trash.
    pub moved: Vec<FileEntry>,
    /// Files that are not.
    pub left: Vec<Left>,
}

/// The trash of one step while its run is at work, for one attempt. A batch is [`Trash::take`], any number of
/// [`Trash::put_back`], and [`Trash::seal`] or [`Trash::retract`]; from the first to the last nobody else is let in. After a failure it
/// is dropped and opened again, which finds out from the disk what the batch has moved.
pub trait Trash: Send {
    /// What is sealed.
    fn totals(&self) -> TrashTotals;

    /// Files of a batch that an earlier attempt began and did not seal. Where it is not empty the batch is open: it has to be
    /// judged and sealed before another is begun.
    fn unsealed(&self) -> Vec<FileEntry>;

    /// Writes down what is meant and makes that durable; then moves each file that is still as it was listed.
    ///
    /// # Errors
    /// `Fenced`, `Busy`, `Stranded`, or what the system said. The batch is then open, for whoever opens the trash next to settle.
    fn take(&mut self, files: &[FileEntry]) -> Result<Taken, FilesError>;

    /// Moves files of the open batch back to where they were; those whose name is taken stay. Returns how many went back.
    ///
    /// # Errors
    /// As for [`Trash::take`].
    fn put_back(&mut self, files: &[FilePath]) -> Result<u64, FilesError>;

    /// Makes the open batch durable and ends it.
    ///
    /// # Errors
    /// As for [`Trash::take`]. A failure of a sync is final.
    fn seal(&mut self) -> Result<TrashTotals, FilesError>;

    /// Ends the open batch as though it had never begun: every file of it goes back, and the manifest forgets it. For a batch that
    /// cannot be sealed; needs no room.
    ///
    /// # Errors
    /// As for [`Trash::take`]; `Stranded` also where the name of any file is taken. The batch then stays open.
    fn retract(&mut self) -> Result<TrashTotals, FilesError>;
}

/// A file that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashedFile {
    /// Its number in the manifest.
    pub number: u64,
    /// Its batch.
    pub batch: u64,
    /// What it was, where.
    pub file: FileEntry,
    /// Whether an undo has moved it back.
    pub back: bool,
}

/// What became of a file that was to go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutBack {
    /// It is where it was; now, or since an earlier attempt.
    Done,
    /// It stays in the trash, for this reason.
    Conflict(String),
    /// It is neither in the trash nor where it was, or is not the file that was moved.
    Damaged(String),
}

/// The trash of one step of a run that has ended.
pub trait Trashed: Send {
    /// The next files of the manifest, at most `limit`; none at its end.
    ///
    /// # Errors
    /// `Damaged`, or what the system said.
    fn next(&mut self, limit: usize) -> Result<Vec<TrashedFile>, FilesError>;

    /// Moves files back to where they were, and makes that durable. Asking again is no error.
    ///
    /// # Errors
    /// `Busy`, or what the system said.
    fn restore(&mut self, files: &[TrashedFile], by: RunId) -> Result<Vec<PutBack>, FilesError>;

    /// What is wrong with these files, one answer each; `None` where a file is as it was moved.
    ///
    /// # Errors
    /// What the system said.
    fn check(&mut self, files: &[TrashedFile]) -> Result<Vec<Option<String>>, FilesError>;

    /// Number of files in the trash of the step that the manifest does not name.
    ///
    /// # Errors
    /// What the system said.
    fn unnamed(&mut self) -> Result<u64, FilesError>;
}

/// The trash of one run under one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashUsage {
    /// The run.
    pub run: RunId,
    /// Files in it.
    pub files: u64,
    /// Their sizes, bytes.
    pub bytes: u64,
}

/// A declared folder. No act of it follows a link, leaves the folder, or enters another mount.
pub trait FileRoot: Send + Sync {
    /// Where it is, for people.
    fn path(&self) -> String;

    /// Tells the folder from another that took its place.
    ///
    /// # Errors
    /// `Unusable`.
    fn identity(&self) -> Result<String, FilesError>;

    /// The present, such that everything that changes a file after this call is seen to be later.
    fn now(&self) -> Timestamp;

    /// Visits every regular file, in no particular order; those of the trash are none.
    ///
    /// # Errors
    /// `Unusable`, or whatever the visitor or the system said.
    fn list(&self, visit: &mut Visit<'_>) -> Result<Walked, FilesError>;

    /// Begins a set difference.
    ///
    /// # Errors
    /// Where there is no room for it.
    fn sieve(&self) -> Result<Box<dyn Sieve>, FilesError>;

    /// Opens the trash of a step under a fence; what an attempt before it left open is found again.
    ///
    /// # Errors
    /// `Fenced` where a larger fence was there, `Busy`, `Damaged`, `Stranded`, or what the system said.
    fn trash(&self, run: RunId, step: u32, fence: u64) -> Result<Box<dyn Trash>, FilesError>;

    /// Opens the trash of a step to look into it or move files back; empty where nothing was ever moved.
    ///
    /// # Errors
    /// `Busy`, `Damaged`, or what the system said.
    fn trashed(&self, run: RunId, step: u32) -> Result<Box<dyn Trashed>, FilesError>;

    /// The runs that have a trash here.
    ///
    /// # Errors
    /// What the system said.
    fn usage(&self) -> Result<Vec<TrashUsage>, FilesError>;

    /// Unlinks the trash of a run for good; returns what was in it. A trash that is gone already is no error.
    ///
    /// # Errors
    /// `Busy` while somebody works in it, or what the system said.
    fn prune(&self, run: RunId) -> Result<TrashUsage, FilesError>;
}

/// The roots of a target, by the names that rules use.
pub type Roots = BTreeMap<String, Arc<dyn FileRoot>>;
