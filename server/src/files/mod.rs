//! Declared folders whose files may go: the adapter of [`dbkeep_engine::port::FileRoot`]. Called by the engine through that port and
//! by the composition root, which opens one for each declared root. It knows nothing of databases.

mod beneath;
mod manifest;
mod prune;
mod restore;
mod sieve;
mod trash;
mod walk;

use std::{
    fs,
    path::{Path, PathBuf},
};

use dbkeep_engine::{
    model::RunId,
    port::{FileRoot, FilesError, Sieve, Trash, TrashUsage, Trashed, Visit, Walked},
};
use jiff::Timestamp;
use rustix::{
    io::Errno,
    time::{ClockId, Timespec, clock_gettime},
};

use self::beneath::{Folder, failed, failed_io};

/// Name of the folder that takes what goes. No walk enters one, at any depth.
pub(crate) const TRASH: &[u8] = b".dbkeep-trash";

/// Why a path cannot be a root; `None` where it can.
#[must_use]
pub fn unfit(path: &Path) -> Option<String> {
    let shown = path.display();
    let expectation = "expected the absolute path of a folder that is no link";
    if !path.is_absolute() {
        return Some(format!("{shown} is relative; {expectation}"));
    }
    let plain = |part| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_));
    if path.components().count() < 2 || !path.components().all(plain) {
        return Some(format!("{shown} is the whole system or has a part \"..\"; {expectation}"));
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => None,
        Ok(found) if found.is_symlink() => Some(format!("{shown} is a link; {expectation}")),
        Ok(_) => Some(format!("{shown} is no folder; {expectation}")),
        Err(error) => Some(format!("{shown}: {error}; {expectation}")),
    }
}

/// A declared folder.
pub struct FolderRoot {
    path: PathBuf,
    /// Folder for what is too much for memory.
    spill: PathBuf,
}

impl FolderRoot {
    /// Takes a folder; `spill` is where lists go that are too long for memory.
    ///
    /// # Errors
    /// `Unusable` where it cannot be a root.
    pub fn open(path: impl Into<PathBuf>, spill: impl Into<PathBuf>) -> Result<Self, FilesError> {
        let root = Self {
            path: path.into(),
            spill: spill.into(),
        };
        root.folder()?;
        Ok(root)
    }

    /// Opened for each use: a mount that comes later must be seen, and one that went must not be written under.
    fn folder(&self) -> Result<Folder, FilesError> {
        let unusable = |problem: String| FilesError::Unusable {
            path: self.path(),
            problem,
        };
        if let Some(problem) = unfit(&self.path) {
            return Err(unusable(problem));
        }
        let folder = Folder::root(&self.path).map_err(|errno| unusable(std::io::Error::from(errno).to_string()))?;
        match folder.folder(b"") {
            Ok(_) => Ok(folder),
            Err(Errno::NOSYS) => Err(unusable(
                "this system has no openat2; expected Linux 5.6 or later and a sandbox that allows it".to_owned(),
            )),
            Err(errno) => Err(unusable(std::io::Error::from(errno).to_string())),
        }
    }

    fn shown_step(&self, run: RunId, step: u32) -> String {
        format!("{}/{}/{run}/{step}", self.path(), String::from_utf8_lossy(TRASH))
    }

    /// The folder of a step's trash; `None` where there is none.
    fn step_folder(&self, root: &Folder, run: RunId, step: u32) -> Result<Option<Folder>, FilesError> {
        let name = format!("{}/{run}/{step}", String::from_utf8_lossy(TRASH));
        match root.folder(name.as_bytes()) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(self.shown_step(run, step))(errno)),
        }
    }
}

fn timestamp(time: Timespec) -> Timestamp {
    i32::try_from(time.tv_nsec)
        .ok()
        .and_then(|nanoseconds| Timestamp::new(time.tv_sec, nanoseconds).ok())
        .unwrap_or(Timestamp::MAX)
}

impl FileRoot for FolderRoot {
    fn path(&self) -> String {
        self.path.display().to_string()
    }

    fn identity(&self) -> Result<String, FilesError> {
        let found = self.folder()?.stat(b".").map_err(failed(self.path()))?;
        Ok(format!("{}#{}", self.path(), found.stx_ino))
    }

    fn now(&self) -> Timestamp {
        let now = timestamp(clock_gettime(ClockId::Realtime));
        // Files are stamped by a clock that ticks a few hundred times a second: only when that one has passed is every later
        // stamp larger.
        while timestamp(clock_gettime(ClockId::RealtimeCoarse)) <= now {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        now
    }

    fn list(&self, visit: &mut Visit<'_>) -> Result<Walked, FilesError> {
        walk::walk(&self.folder()?, visit)
    }

    fn sieve(&self) -> Result<Box<dyn Sieve>, FilesError> {
        crate::archive::make_folder(&self.spill).map_err(failed_io(self.spill.display().to_string()))?;
        Ok(Box::new(sieve::SpillSieve::open(&self.spill)?))
    }

    fn trash(&self, run: RunId, step: u32, fence: u64) -> Result<Box<dyn Trash>, FilesError> {
        Ok(Box::new(trash::StepTrash::open(self, run, step, fence)?))
    }

    fn trashed(&self, run: RunId, step: u32) -> Result<Box<dyn Trashed>, FilesError> {
        Ok(Box::new(restore::StepTrashed::open(self, run, step)?))
    }

    fn usage(&self) -> Result<Vec<TrashUsage>, FilesError> {
        prune::usage(&self.folder()?, &self.path())
    }

    fn prune(&self, run: RunId) -> Result<TrashUsage, FilesError> {
        prune::prune(&self.folder()?, run, &self.path())
    }
}
