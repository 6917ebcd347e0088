//! The manifest of a step's trash: an append-only file of lines, each with its own checksum, made durable before anything that it
//! announces is done. One process at a time writes to it, under a lock of the system that ends with the process.
//!
//! A line is 16 hexadecimal digits of the SHA-256 of the rest, a space, and the rest as JSON: `{"move":{..}}` and so on.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    time::{Duration, Instant},
};

use dbkeep_engine::{
    model::{FileEntry, RunId},
    port::FilesError,
};
use jiff::Timestamp;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::beneath::{Folder, failed, failed_io};

/// Name of the file in a step's folder.
pub(super) const NAME: &[u8] = b"manifest";
/// How long another holder of the lock is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// Longest line: a name may be 4,096 bytes, each shown as four.
const MAX_LINE: u64 = 32 << 10;
/// Digits of a checksum.
const SUM: usize = 16;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// An attempt begins; none with a smaller fence may go on.
    Claim {
        /// Version of the format.
        version: u32,
        run: RunId,
        step: u32,
        fence: u64,
        at: Timestamp,
    },
    /// A file is about to move here.
    Move { number: u64, batch: u64, file: FileEntry },
    /// It did not, or it was moved back at once.
    Void { number: u64 },
    /// A batch ended; these are the files in it.
    Sealed { batch: u64, files: u64, bytes: u64 },
    /// An undo has moved a file back.
    Back { number: u64, by: RunId },
}

impl Line {
    pub(super) const VERSION: u32 = 1;
}

fn sum(text: &[u8]) -> String {
    let mut digits = hex::encode(Sha256::digest(text));
    digits.truncate(SUM);
    digits
}

/// The text of a line; `None` where it is not what was written.
fn read_line(line: &[u8]) -> Option<Line> {
    let (digits, rest) = line.strip_suffix(b"\n")?.split_at_checked(SUM)?;
    let text = rest.strip_prefix(b" ")?;
    (sum(text).as_bytes() == digits).then(|| serde_json::from_slice(text).ok())?
}

/// Whether text ends in a line, or is one: where the end of a line is damaged, the next one follows on it.
fn holds_line(text: &[u8]) -> bool {
    let begins = |window: &[u8]| window[SUM..] == *b" {" && window[..SUM].iter().all(u8::is_ascii_hexdigit);
    let mut starts = text.windows(SUM + 2).enumerate().filter(|(_, window)| begins(window));
    starts.any(|(start, _)| read_line(&text[start..]).is_some())
}

/// Reads whole lines from an open file.
pub(super) struct Lines {
    reader: BufReader<File>,
    shown: String,
    /// Where the next line begins.
    offset: u64,
}

impl Lines {
    /// Reads from a line's beginning on.
    pub(super) fn from(folder: &Folder, shown: &str, offset: u64) -> Result<Self, FilesError> {
        let mut file = folder.private_file(NAME, false).map_err(failed(shown))?;
        file.seek(SeekFrom::Start(offset)).map_err(failed_io(shown))?;
        Ok(Self {
            reader: BufReader::with_capacity(64 << 10, file),
            shown: shown.to_owned(),
            offset,
        })
    }

    fn raw(&mut self) -> Result<Vec<u8>, FilesError> {
        let mut line = Vec::new();
        let limited = (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line);
        limited.map_err(failed_io(&self.shown))?;
        Ok(line)
    }

    /// The next line; `None` at the end. A tail that is no line was being written when everything stopped, and nothing was done on
    /// its account; whatever follows a damaged line makes it damage.
    pub(super) fn next(&mut self) -> Result<Option<Line>, FilesError> {
        let raw = self.raw()?;
        if raw.is_empty() {
            return Ok(None);
        }
        if let Some(line) = read_line(&raw) {
            self.offset += raw.len() as u64;
            return Ok(Some(line));
        }
        let mut raw = raw;
        loop {
            if raw.is_empty() {
                return Ok(None);
            }
            if holds_line(&raw) {
                return Err(FilesError::Damaged {
                    path: self.shown.clone(),
                    problem: format!("the line at byte {} is not what was written", self.offset),
                });
            }
            raw = self.raw()?;
        }
    }

    /// Where the last whole line ended.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }
}

/// The manifest, open for writing.
pub(super) struct Manifest {
    file: File,
    shown: String,
    /// Length at which this process left it.
    known: u64,
}

impl Manifest {
    /// Opens it, locks it, and makes it where that is asked for; `None` where it is missing.
    pub(super) fn open(folder: &Folder, shown: &str, create: bool) -> Result<Option<Self>, FilesError> {
        let file = match folder.private_file(NAME, create) {
            Ok(file) => file,
            Err(Errno::NOENT) if !create => return Ok(None),
            Err(errno) => return Err(failed(shown)(errno)),
        };
        if create {
            folder.sync().map_err(failed(shown))?;
        }
        Ok(Some(Self {
            file,
            shown: shown.to_owned(),
            known: 0,
        }))
    }

    /// Shuts everybody else out.
    pub(super) fn lock(&self) -> Result<(), FilesError> {
        let began = Instant::now();
        loop {
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(Errno::WOULDBLOCK) if began.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_PAUSE),
                Err(Errno::WOULDBLOCK) => {
                    return Err(FilesError::Busy {
                        path: self.shown.clone(),
                    });
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(&self.shown)(errno)),
            }
        }
    }

    /// The same without waiting.
    pub(super) fn try_lock(&self) -> Result<(), FilesError> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(FilesError::Busy {
                path: self.shown.clone(),
            }),
            Err(errno) => Err(failed(&self.shown)(errno)),
        }
    }

    /// Lets others in.
    pub(super) fn unlock(&self) -> Result<(), FilesError> {
        flock(&self.file, FlockOperation::Unlock).map_err(failed(&self.shown))
    }

    /// Whether nobody has written since this process did.
    pub(super) fn is_known(&self) -> Result<bool, FilesError> {
        let length = self.file.metadata().map_err(failed_io(&self.shown))?.len();
        Ok(length == self.known && length > 0)
    }

    /// Length at which this process left it: where its next line begins.
    pub(super) fn length(&self) -> u64 {
        self.known
    }

    /// Cuts a torn tail off; everything up to here was read.
    pub(super) fn know(&mut self, offset: u64) -> Result<(), FilesError> {
        let length = self.file.metadata().map_err(failed_io(&self.shown))?.len();
        if length > offset {
            tracing::warn!(
                manifest = self.shown,
                bytes = length - offset,
                "cutting off a line that was never finished"
            );
            self.cut(offset)?;
        }
        self.known = offset;
        Ok(())
    }

    /// Takes back the lines from here on, durably. Only for those on whose account nothing is done any more.
    pub(super) fn cut(&mut self, offset: u64) -> Result<(), FilesError> {
        self.file
            .set_len(offset)
            .and_then(|()| self.file.sync_all())
            .map_err(failed_io(&self.shown))?;
        self.known = offset;
        Ok(())
    }

    /// Appends lines and makes them durable. What could not be made so is taken back, since nobody may act on it and the next reader
    /// must not take it for announced; what a second sync of it would say is worth nothing.
    pub(super) fn append(&mut self, lines: &[Line]) -> Result<(), FilesError> {
        let mut text = Vec::new();
        for line in lines {
            let json = serde_json::to_vec(line).map_err(|error| failed_io(&self.shown)(error.into()))?;
            text.extend_from_slice(sum(&json).as_bytes());
            text.push(b' ');
            text.extend_from_slice(&json);
            text.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&text).and_then(|()| self.file.sync_data()) {
            if let Err(error) = self.cut(self.known) {
                tracing::warn!(manifest = self.shown, %error, "lines that were not written whole stay until it is read again");
            }
            return Err(failed_io(&self.shown)(error));
        }
        self.known += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: &[Line]) -> (tempfile::TempDir, Folder) {
        let place = tempfile::tempdir().expect("a folder");
        let folder = Folder::root(place.path()).expect("open");
        let mut manifest = Manifest::open(&folder, "m", true).expect("made").expect("there");
        manifest.append(lines).expect("written");
        (place, folder)
    }

    fn read(folder: &Folder) -> Result<(Vec<Line>, u64), FilesError> {
        let mut lines = Lines::from(folder, "m", 0)?;
        let mut found = Vec::new();
        while let Some(line) = lines.next()? {
            found.push(line);
        }
        Ok((found, lines.offset()))
    }

    const LINES: [Line; 3] = [
        Line::Void { number: 1 },
        Line::Void { number: 2 },
        Line::Sealed {
            batch: 1,
            files: 0,
            bytes: 0,
        },
    ];

    /// Wherever the writing stopped, whole lines count and the rest is cut off.
    #[test]
    fn a_torn_tail_is_no_line() {
        let (place, folder) = written(&LINES);
        let path = place.path().join("manifest");
        let whole = std::fs::read(&path).expect("text");
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("cut");
            let lines = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            let (found, offset) = read(&folder).expect("read");
            assert_eq!(found, LINES[..lines], "cut at {cut}");
            let mut manifest = Manifest::open(&folder, "m", false).expect("open").expect("there");
            manifest.know(offset).expect("known");
            manifest.append(&LINES[..1]).expect("appended");
            assert_eq!(read(&folder).expect("read").0.len(), lines + 1, "cut at {cut}");
        }
    }

    #[test]
    fn a_changed_byte_before_the_end_is_damage() {
        let (place, folder) = written(&LINES);
        let path = place.path().join("manifest");
        let whole = std::fs::read(&path).expect("text");
        let last = whole[..whole.len() - 1]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .expect("a line")
            + 1;
        for position in 0..last {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            std::fs::write(&path, &damaged).expect("written");
            assert!(matches!(read(&folder), Err(FilesError::Damaged { .. })), "byte {position}");
        }
    }

    #[test]
    fn a_second_writer_waits_or_is_told() {
        let (_place, folder) = written(&LINES);
        let first = Manifest::open(&folder, "m", false).expect("open").expect("there");
        let second = Manifest::open(&folder, "m", false).expect("open").expect("there");
        first.lock().expect("locked");
        assert!(matches!(second.try_lock(), Err(FilesError::Busy { .. })));
        first.unlock().expect("unlocked");
        second.try_lock().expect("locked");
    }
}
