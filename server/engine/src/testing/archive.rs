//! A backup folder in memory.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Cursor, Read, Write},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use crate::{
    model::RunId,
    port::{Archive, ArchiveError, ChunkFile},
};

type Files = Arc<Mutex<BTreeMap<(RunId, String), Vec<u8>>>>;

/// A backup folder in memory; clones share their files.
#[derive(Debug, Clone, Default)]
pub struct MemoryArchive {
    files: Files,
    /// What programs write and read; made with the first of them.
    outside: Arc<OnceLock<tempfile::TempDir>>,
}

impl MemoryArchive {
    fn outside(&self, run: RunId, file: &str) -> Result<PathBuf, ArchiveError> {
        let failed = |source| ArchiveError::Io {
            path: file.to_owned(),
            source,
        };
        if self.outside.get().is_none() {
            // A second one made at the same time is dropped again.
            let _taken = self.outside.set(tempfile::tempdir().map_err(failed)?);
        }
        let folder = self.outside.get().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        Ok(folder.path().join(format!("{run}-{file}")))
    }

    /// The bytes of a file.
    #[must_use]
    pub fn contents(&self, run: RunId, file: &str) -> Option<Vec<u8>> {
        self.files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(run, file.to_owned()))
            .cloned()
    }

    /// Puts other bytes into a file.
    pub fn replace(&self, run: RunId, file: &str, bytes: Vec<u8>) {
        self.files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((run, file.to_owned()), bytes);
    }
}

struct MemoryFile {
    files: Files,
    key: (RunId, String),
    bytes: Vec<u8>,
}

impl Write for MemoryFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.bytes.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ChunkFile for MemoryFile {
    fn seal(self: Box<Self>) -> Result<(), ArchiveError> {
        self.files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(self.key, self.bytes);
        Ok(())
    }
}

impl Archive for MemoryArchive {
    fn create(&self, run: RunId, file: &str) -> Result<Box<dyn ChunkFile>, ArchiveError> {
        Ok(Box::new(MemoryFile {
            files: Arc::clone(&self.files),
            key: (run, file.to_owned()),
            bytes: Vec::new(),
        }))
    }

    fn open(&self, run: RunId, file: &str) -> Result<Box<dyn Read + Send>, ArchiveError> {
        let contents = self
            .contents(run, file)
            .ok_or_else(|| ArchiveError::Missing { file: file.to_owned() })?;
        Ok(Box::new(Cursor::new(contents)))
    }

    fn list(&self, run: RunId) -> Result<Vec<String>, ArchiveError> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(files.keys().filter(|key| key.0 == run).map(|key| key.1.clone()).collect())
    }

    fn remove(&self, run: RunId, file: &str) -> Result<(), ArchiveError> {
        self.files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(run, file.to_owned()));
        Ok(())
    }

    fn staging(&self, run: RunId, file: &str) -> Result<PathBuf, ArchiveError> {
        let path = self.outside(run, &format!("{file}.partial"))?;
        fs::write(&path, []).map_err(|source| ArchiveError::Io {
            path: file.to_owned(),
            source,
        })?;
        Ok(path)
    }

    fn publish(&self, run: RunId, file: &str) -> Result<(), ArchiveError> {
        let path = self.outside(run, &format!("{file}.partial"))?;
        let failed = |source| ArchiveError::Io {
            path: file.to_owned(),
            source,
        };
        let bytes = fs::read(&path).map_err(failed)?;
        fs::remove_file(&path).map_err(failed)?;
        self.replace(run, file, bytes);
        Ok(())
    }

    fn local(&self, run: RunId, file: &str) -> Result<PathBuf, ArchiveError> {
        let contents = self
            .contents(run, file)
            .ok_or_else(|| ArchiveError::Missing { file: file.to_owned() })?;
        let path = self.outside(run, file)?;
        fs::write(&path, contents).map_err(|source| ArchiveError::Io {
            path: file.to_owned(),
            source,
        })?;
        Ok(path)
    }

    fn remove_folder(&self, run: RunId) -> Result<(), ArchiveError> {
        if self.list(run)?.is_empty() {
            return Ok(());
        }
        Err(ArchiveError::Io {
            path: run.to_string(),
            source: io::ErrorKind::DirectoryNotEmpty.into(),
        })
    }
}
