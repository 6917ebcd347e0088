//! The backup folder, as the engine needs it: named files in one folder per run, durable once sealed.

use std::{
    io::{Read, Write},
    path::PathBuf,
};

use crate::model::RunId;

/// A failure of the backup folder.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file that should be there is not.
    #[error("{file} is missing")]
    Missing {
        /// Its name.
        file: String,
    },
    /// The folder cannot take or give data.
    #[error("{path}: {source}")]
    Io {
        /// What was touched.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A file being written. Dropped without [`ChunkFile::seal`] it is removed, or may stay as a file that no journal names.
pub trait ChunkFile: Write + Send {
    /// Makes the file and its directory entry durable. An error is final: the data may be lost even where a second try
    /// would report success, so that callers must give the batch up.
    ///
    /// # Errors
    /// What the system said.
    fn seal(self: Box<Self>) -> Result<(), ArchiveError>;
}

/// The backup folder. Its acts block on the disk; the engine calls them where blocking is allowed.
pub trait Archive: Send + Sync {
    /// Begins a file of a run, replacing a leftover of the same name.
    ///
    /// # Errors
    /// Where the folder cannot take it.
    fn create(&self, run: RunId, file: &str) -> Result<Box<dyn ChunkFile>, ArchiveError>;

    /// Opens a sealed file.
    ///
    /// # Errors
    /// [`ArchiveError::Missing`], or what the system said.
    fn open(&self, run: RunId, file: &str) -> Result<Box<dyn Read + Send>, ArchiveError>;

    /// Names of a run's files, in order; empty where it has none.
    ///
    /// # Errors
    /// What the system said.
    fn list(&self, run: RunId) -> Result<Vec<String>, ArchiveError>;

    /// Removes a file; one that is gone already is no error.
    ///
    /// # Errors
    /// What the system said.
    fn remove(&self, run: RunId, file: &str) -> Result<(), ArchiveError>;

    /// Makes an empty file, readable by its user only, that a program may write; a leftover of the same name is replaced. It is no
    /// file of the run until [`Archive::publish`], and is listed as `<file>.partial`.
    ///
    /// # Errors
    /// Where the folder cannot take it.
    fn staging(&self, run: RunId, file: &str) -> Result<PathBuf, ArchiveError>;

    /// Makes a staged file durable and gives it its name, in this order. As with [`ChunkFile::seal`], an error is final.
    ///
    /// # Errors
    /// What the system said.
    fn publish(&self, run: RunId, file: &str) -> Result<(), ArchiveError>;

    /// A path at which a program can read a sealed file.
    ///
    /// # Errors
    /// [`ArchiveError::Missing`], or what the system said.
    fn local(&self, run: RunId, file: &str) -> Result<PathBuf, ArchiveError>;

    /// Removes a run's folder, which must be empty; one that is gone already is no error.
    ///
    /// # Errors
    /// What the system said.
    fn remove_folder(&self, run: RunId) -> Result<(), ArchiveError>;
}
