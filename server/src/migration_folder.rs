//! A migrations folder on the disk. It is read anew for every call, so that what was just checked out counts; nothing is written.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use dbkeep_engine::port::{MigrationFolder, SourceFile};

/// Largest file, bytes: a script is written by people.
const MAX_FILE: u64 = 16 << 20;
/// Most files.
const MAX_FILES: usize = 20_000;
/// Folders below the migrations folder that are looked into: `V_name/up.sql`, `deploy/area/name.sql`.
const MAX_DEPTH: usize = 3;

/// A folder.
#[derive(Debug, Clone)]
pub(crate) struct DiskFolder {
    path: PathBuf,
}

impl DiskFolder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

#[async_trait]
impl MigrationFolder for DiskFolder {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    async fn files(&self) -> Result<Vec<SourceFile>, io::Error> {
        let root = self.path.clone();
        tokio::task::spawn_blocking(move || {
            let mut files = Vec::new();
            read(&root, &root, 0, &mut files)?;
            files.sort_by(|one: &SourceFile, other| one.path.cmp(&other.path));
            Ok(files)
        })
        .await
        .map_err(io::Error::other)?
    }
}

fn read(root: &Path, folder: &Path, depth: usize, files: &mut Vec<SourceFile>) -> Result<(), io::Error> {
    let shown = |error: io::Error, path: &Path| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    // The folder itself is named by whoever asked for it.
    let below = |error: io::Error| if folder == root { error } else { shown(error, folder) };
    for entry in fs::read_dir(folder).map_err(below)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        // Links are followed: a deployment may link to the release that is current.
        let metadata = fs::metadata(&path).map_err(|error| shown(error, &path))?;
        if metadata.is_dir() {
            if depth < MAX_DEPTH {
                read(root, &path, depth + 1, files)?;
            }
            continue;
        }
        if files.len() >= MAX_FILES {
            return Err(io::Error::other(format!("holds more than {MAX_FILES} files")));
        }
        if metadata.len() > MAX_FILE {
            return Err(io::Error::other(format!(
                "{} has {} bytes; expected at most {MAX_FILE}",
                path.display(),
                metadata.len()
            )));
        }
        let bytes = fs::read(&path).map_err(|error| shown(error, &path))?;
        let relative = path.strip_prefix(root).unwrap_or(&path);
        let parts: Vec<_> = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        files.push(SourceFile {
            path: parts.join("/"),
            bytes,
        });
    }
    Ok(())
}
