//! The only door to the files of a root: every folder is opened by `openat2` beneath the root's own descriptor, where the kernel
//! itself refuses links, magic links, `..` and other mounts. Whatever is then done goes by that descriptor and a plain name, so that
//! nobody who swaps a folder for a link can lead an act out of the root.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use dbkeep_engine::{
    model::{FileEntry, FilePath, Nanoseconds},
    port::FilesError,
};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp},
    io::Errno,
};

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// Only dbkeep's user looks into a trash.
const PRIVATE_FOLDER: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// A failure with the name of what was touched.
pub(super) fn failed(path: impl Into<String>) -> impl FnOnce(Errno) -> FilesError {
    let path = path.into();
    move |errno| FilesError::Io {
        path,
        source: errno.into(),
    }
}

/// A failure of the standard library with the name of what was touched.
pub(super) fn failed_io(path: impl Into<String>) -> impl FnOnce(io::Error) -> FilesError {
    let path = path.into();
    move |source| FilesError::Io { path, source }
}

/// An open folder.
pub(super) struct Folder(pub(super) OwnedFd);

impl Folder {
    /// Opens the root itself, which is no link.
    pub(super) fn root(path: &Path) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).map(Self)
    }

    /// Opens a folder beneath this one; the empty name is this one.
    pub(super) fn folder(&self, name: &[u8]) -> Result<Self, Errno> {
        let name = if name.is_empty() { b"." } else { name };
        self.open(name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).map(Self)
    }

    fn open(&self, name: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(&self.0, std::ffi::OsStr::from_bytes(name), flags, mode, RESOLVE) {
                // The kernel could not tell whether a rename elsewhere led the way out; it asks for another try.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    /// Makes a folder here that only dbkeep's user may enter, durably, where it is missing.
    pub(super) fn make_private(&self, name: &[u8]) -> Result<Self, Errno> {
        match self.folder(name) {
            Err(Errno::NOENT) => {}
            opened => return opened,
        }
        match rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(PRIVATE_FOLDER)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        self.sync()?;
        self.folder(name)
    }

    /// Makes folders beneath this one where they are missing. They are opened to those who may enter the folder above: this process makes
    /// everything for itself alone, and what an application's own folder held is the application's.
    pub(super) fn make_all(&self, name: &[u8]) -> Result<Self, Errno> {
        let mut folder = self.folder(b"")?;
        for part in name.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            folder = match folder.folder(part) {
                Err(Errno::NOENT) => {
                    let above = Mode::from_raw_mode(rustix::fs::fstat(&folder.0)?.st_mode);
                    match rustix::fs::mkdirat(&folder.0, part, Mode::from_raw_mode(PRIVATE_FOLDER)) {
                        Ok(()) => {
                            let made = folder.folder(part)?;
                            rustix::fs::fchmod(&made.0, above)?;
                            made.sync()?;
                        }
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    folder.sync()?;
                    folder.folder(part)?
                }
                opened => opened?,
            };
        }
        Ok(folder)
    }

    /// Opens a file that dbkeep writes for itself, for reading and appending.
    pub(super) fn private_file(&self, name: &[u8], create: bool) -> Result<File, Errno> {
        let flags = OFlags::RDWR | OFlags::APPEND | if create { OFlags::CREATE } else { OFlags::empty() };
        let mode = if create {
            Mode::from_raw_mode(PRIVATE_FILE)
        } else {
            Mode::empty()
        };
        self.open(name, flags, mode).map(File::from)
    }

    /// What a name in this folder stands for, without following it.
    pub(super) fn stat(&self, name: &[u8]) -> Result<Statx, Errno> {
        rustix::fs::statx(
            &self.0,
            name,
            AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT,
            StatxFlags::BASIC_STATS | StatxFlags::BTIME,
        )
    }

    /// A regular file in this folder; `None` where it is something else.
    pub(super) fn regular(&self, name: &[u8], path: FilePath) -> Result<Option<FileEntry>, Errno> {
        let found = self.stat(name)?;
        Ok((kind(&found) == FileType::RegularFile).then(|| entry(path, &found)))
    }

    /// Moves a file to a name that is free.
    pub(super) fn rename(&self, name: &[u8], to: &Self, to_name: &[u8]) -> Result<(), Errno> {
        rustix::fs::renameat_with(&self.0, name, &to.0, to_name, RenameFlags::NOREPLACE)
    }

    /// Makes the entries of this folder durable.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fsync(&self.0)
    }

    /// Calls `look` with every name but `.` and `..`, and what the folder says of its kind, until it says false.
    pub(super) fn each(
        &self,
        mut look: impl FnMut(&[u8], FileType) -> Result<bool, FilesError>,
        shown: &str,
    ) -> Result<(), FilesError> {
        // A descriptor of its own: the position of this one belongs to whoever else reads the folder.
        let own = self.folder(b"").map_err(failed(shown))?;
        let mut buffer = Vec::with_capacity(64 << 10);
        let mut entries = rustix::fs::RawDir::new(own.0.as_fd(), buffer.spare_capacity_mut());
        while let Some(found) = entries.next() {
            let found = found.map_err(failed(shown))?;
            let name = found.file_name().to_bytes();
            if name != b"." && name != b".." && !look(name, found.file_type())? {
                break;
            }
        }
        Ok(())
    }
}

pub(super) fn kind(found: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(found.stx_mode))
}

/// The file that a look found, under a name.
pub(super) fn entry(path: FilePath, found: &Statx) -> FileEntry {
    let born = (found.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| instant(&found.stx_btime));
    FileEntry {
        path,
        device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        size: found.stx_size,
        modified: instant(&found.stx_mtime),
        changed: instant(&found.stx_ctime),
        born,
    }
}

fn instant(time: &StatxTimestamp) -> Nanoseconds {
    time.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(time.tv_nsec))
}
