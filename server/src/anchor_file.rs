//! The file that heads of the audit log are anchored in: JSON lines, only added to, each on the disk before it counts. Made by `compose`.
//! What a crash leaves of a line is [`lines`]' to know.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use dbkeep_engine::{
    audit::{Anchor, lines},
    port::{AnchorError, AnchorFile},
};

/// A file on a disk.
#[derive(Debug)]
pub(crate) struct LineFile {
    path: PathBuf,
}

impl LineFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

#[async_trait]
impl AnchorFile for LineFile {
    async fn keep(&self, anchor: &Anchor) -> Result<(), AnchorError> {
        let (path, anchor) = (self.path.clone(), *anchor);
        on_thread(&self.path, move || {
            add(&path, &anchor).map_err(|error| failed(&path, &error.to_string()))
        })
        .await
    }

    async fn read(&self) -> Result<Vec<Anchor>, AnchorError> {
        let path = self.path.clone();
        on_thread(&self.path, move || match std::fs::read(&path) {
            Ok(bytes) => lines::read(&bytes).map_err(|error| AnchorError {
                place: format!("{}:{}", path.display(), error.line),
                problem: error.problem,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(&path, &error.to_string())),
        })
        .await
    }
}

/// Disks may be slow, and anchors may lie on one of another machine.
async fn on_thread<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, AnchorError> + Send + 'static,
) -> Result<T, AnchorError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(failed(path, &error.to_string())))
}

fn add(path: &Path, anchor: &Anchor) -> io::Result<()> {
    let is_new = !path.exists();
    let mut file = OpenOptions::new()
        .append(true)
        .read(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let line = lines::added(last_byte(&mut file)?, anchor)?;
    // One write: another server may add to the same file.
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    if is_new {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn last_byte(file: &mut File) -> io::Result<Option<u8>> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(None);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut byte = [0];
    file.read_exact(&mut byte)?;
    Ok(Some(byte[0]))
}

fn failed(path: &Path, problem: &str) -> AnchorError {
    AnchorError {
        place: path.display().to_string(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::audit::Digest;

    use super::*;

    fn anchor(number: u64) -> Anchor {
        Anchor {
            number,
            hash: Digest([u8::try_from(number).expect("small"); 32]),
            at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test]
    async fn anchors_are_added_and_read_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = LineFile::new(folder.path().join("anchors"));
        assert_eq!(file.read().await, Ok(Vec::new()));
        for number in [1, 7] {
            file.keep(&anchor(number)).await.expect("it is kept");
        }
        assert_eq!(file.read().await, Ok(vec![anchor(1), anchor(7)]));
        let text = std::fs::read_to_string(folder.path().join("anchors")).expect("text");
        assert_eq!(
            text.lines().next(),
            Some(
                "{\"number\":1,\"hash\":\"0101010101010101010101010101010101010101010101010101010101010101\",\"at\":\"1970-01-01T00:00:00Z\"}"
            )
        );
    }

    #[tokio::test]
    async fn what_a_crash_leaves_stops_neither_anchors_nor_readers() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("anchors");
        let file = LineFile::new(path.clone());
        for number in [1, 2] {
            file.keep(&anchor(number)).await.expect("it is kept");
        }
        let text = std::fs::read_to_string(&path).expect("text");
        std::fs::write(&path, &text[..text.len() - 20]).expect("cut");
        assert_eq!(file.read().await, Ok(vec![anchor(1)]));
        for number in [3, 4] {
            file.keep(&anchor(number)).await.expect("it is kept");
        }
        assert_eq!(file.read().await, Ok(vec![anchor(1), anchor(3), anchor(4)]));
    }

    #[tokio::test]
    async fn a_line_that_is_no_anchor_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = LineFile::new(folder.path().join("anchors"));
        file.keep(&anchor(1)).await.expect("it is kept");
        let mut text = std::fs::read_to_string(folder.path().join("anchors")).expect("text");
        text.push_str("{\"number\":2}\n");
        std::fs::write(folder.path().join("anchors"), text).expect("written");
        let error = file.read().await.expect_err("it is none");
        assert!(error.place.ends_with("anchors:2"), "{error}");
        let nowhere = LineFile::new(folder.path().join("missing/anchors"));
        assert!(nowhere.keep(&anchor(1)).await.is_err());
    }
}
