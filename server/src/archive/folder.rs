//! Backups in a folder: `<folder>/<run id>/<file>`, readable by dbkeep's user only.
//!
//! A file is durable once sealed: its bytes, its entry in the run's folder, and that folder's entry in the backup folder have been
//! synced, in this order. An error of a sync is passed on and never tried again, because a second sync may report success for data
//! that is gone. The adapter knows no chunk format; it calls the disk directly and is called where blocking is allowed.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use dbkeep_engine::{
    failpoint,
    model::RunId,
    port::{Archive, ArchiveError, ChunkFile},
};

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Mode bits by which everybody may write, and by which others than the owner may do anything.
const WRITTEN_BY_ALL: u32 = 0o002;
const FOR_OTHERS: u32 = 0o077;
/// Size of a file's write buffer, bytes.
const BUFFER: usize = 64 << 10;
/// Most runs whose folders are remembered as durable.
const REMEMBERED_RUNS: usize = 1_024;

/// A backup folder.
pub struct FolderArchive {
    folder: PathBuf,
    /// Runs whose folder this process has made durable, so that it is done once for each.
    durable: Arc<Mutex<HashSet<RunId>>>,
}

impl FolderArchive {
    /// Opens a folder and makes it where it is missing.
    ///
    /// # Errors
    /// Where it cannot be made, or is no folder.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, ArchiveError> {
        let folder = folder.into();
        let failed = |source| ArchiveError::Io {
            path: folder.display().to_string(),
            source,
        };
        make_folder(&folder).map_err(failed)?;
        Ok(Self {
            folder,
            durable: Arc::default(),
        })
    }

    fn run_folder(&self, run: RunId) -> PathBuf {
        self.folder.join(run.to_string())
    }

    fn make_run_folder(&self, run: RunId) -> io::Result<()> {
        match DirBuilder::new().mode(FOLDER_MODE).create(self.run_folder(run)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// The path of a run's file, and how messages name it.
    fn locate(&self, run: RunId, file: &str) -> Result<(PathBuf, String), ArchiveError> {
        let shown = format!("{run}/{file}");
        if matches!(file, "" | "." | "..") || file.contains(['/', '\0']) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "expected a plain file name");
            return Err(ArchiveError::Io { path: shown, source });
        }
        Ok((self.run_folder(run).join(file), shown))
    }
}

impl Archive for FolderArchive {
    fn create(&self, run: RunId, file: &str) -> Result<Box<dyn ChunkFile>, ArchiveError> {
        let (path, shown) = self.locate(run, file)?;
        let failed = |source| ArchiveError::Io {
            path: shown.clone(),
            source,
        };
        let folder = self.run_folder(run);
        self.make_run_folder(run).map_err(failed)?;
        // A leftover is unlinked rather than truncated: whatever it is, a link included, nothing is written through it.
        remove_if_there(&path).map_err(failed)?;
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(failed)?;
        Ok(Box::new(FolderFile {
            writer: Some(BufWriter::with_capacity(BUFFER, opened)),
            path,
            shown,
            run,
            run_folder: folder,
            backup_folder: self.folder.clone(),
            durable: Arc::clone(&self.durable),
        }))
    }

    fn open(&self, run: RunId, file: &str) -> Result<Box<dyn Read + Send>, ArchiveError> {
        let (path, shown) = self.locate(run, file)?;
        match File::open(&path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ArchiveError::Missing { file: shown }),
            Err(source) => Err(ArchiveError::Io { path: shown, source }),
        }
    }

    fn list(&self, run: RunId) -> Result<Vec<String>, ArchiveError> {
        let failed = |source| ArchiveError::Io {
            path: run.to_string(),
            source,
        };
        let entries = match fs::read_dir(self.run_folder(run)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            // What is no file, or has a name that dbkeep would never give, belongs to somebody else.
            if entry.file_type().map_err(failed)?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, run: RunId, file: &str) -> Result<(), ArchiveError> {
        let (path, shown) = self.locate(run, file)?;
        remove_if_there(&path).map_err(|source| ArchiveError::Io { path: shown, source })
    }

    fn staging(&self, run: RunId, file: &str) -> Result<PathBuf, ArchiveError> {
        let (path, shown) = self.locate(run, &staged(file))?;
        self.make_run_folder(run)
            .and_then(|()| remove_if_there(&path))
            .and_then(|()| OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path))
            .map_err(|source| ArchiveError::Io { path: shown, source })?;
        Ok(path)
    }

    fn publish(&self, run: RunId, file: &str) -> Result<(), ArchiveError> {
        let (from, _) = self.locate(run, &staged(file))?;
        let (to, shown) = self.locate(run, file)?;
        let published = || {
            failpoint!(
                "archive-file-fsync-fails",
                Err(io::Error::other("injected: fsync of the file"))
            );
            File::open(&from)?.sync_all()?;
            fs::rename(&from, &to)?;
            failpoint!("archive-file-renamed");
            failpoint!(
                "archive-folder-fsync-fails",
                Err(io::Error::other("injected: fsync of the folder"))
            );
            sync_folder(&self.run_folder(run))?;
            sync_folder(&self.folder)
        };
        published().map_err(|source| ArchiveError::Io { path: shown, source })
    }

    fn local(&self, run: RunId, file: &str) -> Result<PathBuf, ArchiveError> {
        let (path, shown) = self.locate(run, file)?;
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() => Ok(path),
            Ok(_) => Err(ArchiveError::Missing { file: shown }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ArchiveError::Missing { file: shown }),
            Err(source) => Err(ArchiveError::Io { path: shown, source }),
        }
    }

    fn remove_folder(&self, run: RunId) -> Result<(), ArchiveError> {
        // What is made again has to be made durable again.
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
        match fs::remove_dir(self.run_folder(run)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ArchiveError::Io {
                path: run.to_string(),
                source: error,
            }),
            _ => Ok(()),
        }
    }
}

/// Name of a file that a program is still writing.
fn staged(file: &str) -> String {
    format!("{file}.partial")
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Refuses a folder in which everybody may put and replace files, and warns of one that others may look into.
fn check_private(folder: &Path) -> io::Result<()> {
    let mode = fs::metadata(folder)?.mode() & 0o777;
    if mode & WRITTEN_BY_ALL != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("its mode is {mode:04o}, so that everybody may put files there and take others away; expected 0700"),
        ));
    }
    if mode & FOR_OTHERS != 0 {
        tracing::warn!(folder = %folder.display(), "others than dbkeep's user may look into the folder, whose mode is {mode:04o}; expected 0700");
    }
    Ok(())
}

/// Makes a folder and those above it that are missing, and makes each of them durable: the entry of a chunk is worth nothing
/// when the folder that it stands in is gone after a power failure.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && !part.is_dir())
        .collect();
    DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    check_private(folder)?;
    for made in missing {
        match made.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => sync_folder(parent)?,
            None => sync_folder(Path::new("."))?,
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A file being written.
struct FolderFile {
    /// `None` once sealed.
    writer: Option<BufWriter<File>>,
    path: PathBuf,
    shown: String,
    run: RunId,
    run_folder: PathBuf,
    backup_folder: PathBuf,
    durable: Arc<Mutex<HashSet<RunId>>>,
}

impl FolderFile {
    fn sync(&self, writer: &mut BufWriter<File>) -> io::Result<()> {
        writer.flush()?;
        failpoint!(
            "archive-file-fsync-fails",
            Err(io::Error::other("injected: fsync of the file"))
        );
        writer.get_ref().sync_all()?;
        failpoint!("archive-file-synced");
        failpoint!(
            "archive-folder-fsync-fails",
            Err(io::Error::other("injected: fsync of the folder"))
        );
        sync_folder(&self.run_folder)?;
        if !self
            .durable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&self.run)
        {
            sync_folder(&self.backup_folder)?;
            let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
            if durable.len() >= REMEMBERED_RUNS {
                durable.clear();
            }
            durable.insert(self.run);
        }
        Ok(())
    }
}

impl Write for FolderFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.writer
            .as_mut()
            .map_or_else(|| Err(io::ErrorKind::BrokenPipe.into()), |writer| writer.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}

impl ChunkFile for FolderFile {
    fn seal(mut self: Box<Self>) -> Result<(), ArchiveError> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let sealed = self.sync(&mut writer);
        if let Err(source) = sealed {
            // Not sealed: dropping removes it.
            self.writer = Some(writer);
            return Err(ArchiveError::Io {
                path: self.shown.clone(),
                source,
            });
        }
        Ok(())
    }
}

impl Drop for FolderFile {
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        // Nobody needs what is still in the buffer, so that it is not written.
        drop(writer.into_parts());
        if let Err(error) = remove_if_there(&self.path) {
            tracing::warn!(file = self.shown, %error, "an unsealed backup file stays; no journal names it");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use dbkeep_engine::conformance;

    use super::*;

    fn archive() -> (tempfile::TempDir, FolderArchive) {
        let folder = tempfile::tempdir().expect("a folder");
        let archive = FolderArchive::open(folder.path().join("a/backups")).expect("an archive");
        (folder, archive)
    }

    fn seal(archive: &FolderArchive, run: RunId, name: &str, bytes: &[u8]) {
        let mut file = archive.create(run, name).expect("a file");
        file.write_all(bytes).expect("written");
        file.seal().expect("sealed");
    }

    #[test]
    fn conforms_to_the_port() {
        let (_folder, archive) = archive();
        conformance::archive::suite(&archive);
    }

    #[test]
    fn only_its_user_reads_it() {
        let (_folder, archive) = archive();
        let run = RunId::new();
        seal(&archive, run, "a", b"x");
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&archive.folder), 0o700);
        assert_eq!(mode(&archive.run_folder(run)), 0o700);
        assert_eq!(mode(&archive.run_folder(run).join("a")), 0o600);
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (folder, archive) = archive();
        let run = RunId::new();
        let outside = folder.path().join("outside");
        fs::write(&outside, "untouched").expect("a file");
        fs::create_dir(archive.run_folder(run)).expect("a folder");
        symlink(&outside, archive.run_folder(run).join("a")).expect("a link");
        seal(&archive, run, "a", b"x");
        assert_eq!(fs::read_to_string(&outside).expect("the file"), "untouched");
    }

    #[test]
    fn errors_name_the_file_below_the_backup_folder() {
        let (folder, archive) = archive();
        let run = RunId::new();
        seal(&archive, run, "a", b"x");
        fs::create_dir(archive.run_folder(run).join("b")).expect("a folder");
        let Err(error) = archive.create(run, "b") else {
            panic!("a folder is no leftover file")
        };
        let message = error.to_string();
        assert!(message.starts_with(&format!("{run}/b: ")), "{message}");
        assert!(!message.contains(&*folder.path().to_string_lossy()), "{message}");
        assert_eq!(archive.list(run).expect("names"), ["a"]);
    }
}
