//! The walk over a root: every regular file beneath it, folder by folder. Links, pipes, sockets and devices are passed over, as are
//! other mounts and every trash. Memory holds the names of folders still to be read, never those of files.

use std::ops::ControlFlow;

use dbkeep_engine::{
    model::FilePath,
    port::{FilesError, Visit, Walked},
};
use rustix::{fs::FileType, io::Errno};

use super::{
    TRASH,
    beneath::{Folder, failed},
};

/// Visits every regular file beneath `root`.
pub(super) fn walk(root: &Folder, visit: &mut Visit<'_>) -> Result<Walked, FilesError> {
    let mut walked = Walked::default();
    let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
    let mut stopped = false;
    while let Some(name) = pending.pop()
        && !stopped
    {
        let folder = match root.folder(&name) {
            Ok(folder) => folder,
            // Something else is mounted on it.
            Err(Errno::XDEV) => {
                walked.mounts += 1;
                continue;
            }
            // It is gone, or is no folder any more.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::NAMETOOLONG)) => {
                walked.unreadable += 1;
                let shown = String::from_utf8_lossy(&name);
                let shown = if shown.is_empty() { "." } else { &shown };
                walked
                    .unreadable_example
                    .get_or_insert_with(|| format!("{shown}: {}", std::io::Error::from(errno)));
                continue;
            }
            Err(errno) => return Err(failed(String::from_utf8_lossy(&name))(errno)),
        };
        let shown = String::from_utf8_lossy(&name).into_owned();
        folder.each(
            |entry, kind| {
                let below = if name.is_empty() {
                    entry.to_vec()
                } else {
                    [&name, &b"/"[..], entry].concat()
                };
                match kind {
                    FileType::Directory if entry == TRASH => {}
                    FileType::Directory => pending.push(below),
                    FileType::RegularFile | FileType::Unknown => {
                        let Some(path) = FilePath::new(below.as_slice()) else {
                            return Ok(true);
                        };
                        match folder.stat(entry) {
                            Ok(found) => match super::beneath::kind(&found) {
                                FileType::RegularFile => {
                                    walked.files += 1;
                                    stopped = visit(super::beneath::entry(path, &found))? == ControlFlow::Break(());
                                }
                                FileType::Directory if entry != TRASH => pending.push(below),
                                _ => {}
                            },
                            Err(Errno::NOENT) => {}
                            Err(errno) => return Err(failed(path.to_string())(errno)),
                        }
                    }
                    // A link, a pipe, a socket or a device stays.
                    _ => {}
                }
                Ok(!stopped)
            },
            &shown,
        )?;
    }
    Ok(walked)
}
