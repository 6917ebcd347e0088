//! How much lies in the trash, and its end. The only place that unlinks a file, and only files of a trash.

use dbkeep_engine::{
    failpoint,
    model::RunId,
    port::{FilesError, TrashUsage},
};
use rustix::{
    fs::{AtFlags, FileType},
    io::Errno,
};

use super::{
    TRASH,
    beneath::{Folder, failed, kind},
    manifest::{self, Manifest},
};

/// Ending of the name of a run's trash that is being unlinked: what is left of it after a crash is nobody's undo any more.
const PRUNED: &str = ".pruned";

fn names(folder: &Folder, shown: &str) -> Result<Vec<Vec<u8>>, FilesError> {
    let mut names = Vec::new();
    folder.each(
        |name, _| {
            names.push(name.to_vec());
            Ok(true)
        },
        shown,
    )?;
    Ok(names)
}

/// The trash of a root; `None` where it has none.
fn trash(root: &Folder, shown: &str) -> Result<Option<Folder>, FilesError> {
    match root.folder(TRASH) {
        Ok(trash) => Ok(Some(trash)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(shown)(errno)),
    }
}

/// Files and bytes beneath a folder, manifests left out.
fn measure(folder: &Folder, shown: &str, usage: &mut TrashUsage) -> Result<(), FilesError> {
    for name in names(folder, shown)? {
        let found = match folder.stat(&name) {
            Ok(found) => found,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(failed(shown)(errno)),
        };
        match kind(&found) {
            FileType::Directory => measure(&folder.folder(&name).map_err(failed(shown))?, shown, usage)?,
            _ if name == manifest::NAME => {}
            _ => {
                usage.files += 1;
                usage.bytes += found.stx_size;
            }
        }
    }
    Ok(())
}

/// The runs that have a trash beneath a root.
pub(super) fn usage(root: &Folder, shown: &str) -> Result<Vec<TrashUsage>, FilesError> {
    let Some(trash) = trash(root, shown)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for name in names(&trash, shown)? {
        let Some(run) = std::str::from_utf8(&name).ok().and_then(|name| name.parse::<RunId>().ok()) else {
            continue;
        };
        let mut usage = TrashUsage { run, files: 0, bytes: 0 };
        measure(&trash.folder(&name).map_err(failed(shown))?, shown, &mut usage)?;
        found.push(usage);
    }
    found.sort_by_key(|usage| usage.run);
    Ok(found)
}

/// Unlinks everything beneath a folder.
fn clear(folder: &Folder, shown: &str) -> Result<(), FilesError> {
    for name in names(folder, shown)? {
        let removed = match rustix::fs::unlinkat(&folder.0, name.as_slice(), AtFlags::empty()) {
            // The system says either of a folder.
            Err(Errno::ISDIR | Errno::PERM) => {
                clear(&folder.folder(&name).map_err(failed(shown))?, shown)?;
                rustix::fs::unlinkat(&folder.0, name.as_slice(), AtFlags::REMOVEDIR)
            }
            removed => removed,
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(shown)(errno)),
        }
    }
    Ok(())
}

/// Unlinks the trash of a run.
pub(super) fn prune(root: &Folder, run: RunId, shown: &str) -> Result<TrashUsage, FilesError> {
    let mut usage = TrashUsage { run, files: 0, bytes: 0 };
    let Some(trash) = trash(root, shown)? else { return Ok(usage) };
    let (name, pruned) = (run.to_string(), format!("{run}{PRUNED}"));
    match trash.folder(name.as_bytes()) {
        Ok(folder) => {
            let mut held = Vec::new();
            for step in names(&folder, shown)? {
                if let Ok(step) = folder.folder(&step)
                    && let Some(manifest) = Manifest::open(&step, shown, false)?
                {
                    manifest.try_lock()?;
                    held.push(manifest);
                }
            }
            measure(&folder, shown, &mut usage)?;
            trash
                .rename(name.as_bytes(), &trash, pruned.as_bytes())
                .map_err(failed(shown))?;
            trash.sync().map_err(failed(shown))?;
            failpoint!("files-pruned");
        }
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(failed(shown)(errno)),
    }
    match trash.folder(pruned.as_bytes()) {
        Ok(folder) => clear(&folder, shown)?,
        Err(Errno::NOENT) => return Ok(usage),
        Err(errno) => return Err(failed(shown)(errno)),
    }
    rustix::fs::unlinkat(&trash.0, pruned.as_bytes(), AtFlags::REMOVEDIR).map_err(failed(shown))?;
    trash.sync().map_err(failed(shown))?;
    Ok(usage)
}
