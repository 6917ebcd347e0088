//! The platform's files: temporary ones, old and young, and uploads, with and without a row that names them; and what a careless
//! cleanup would take: links, names that need care, folders.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};

use super::platform::{Platform, Upload, rule};
use crate::truth::RuleTruth;

/// Most uploads of each kind that are made: rows that name a file that does not exist are no harm.
const MOST_NAMED: u64 = 200;
const HOUR: u64 = 3_600;
/// Names that some program somewhere does not expect.
const ODD_NAMES: [&str; 5] = ["-rf", "two  spaces ", "line\nbreak", "多签钱包.part", "*"];

/// How many files are made of those that must go.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileCounts {
    /// Temporary files that are old, those with odd names among them.
    stale: u64,
    /// Uploads that no row names.
    unused: u64,
}

impl FileCounts {
    /// More with the rows, within limits: every file is a system call or two.
    pub(super) fn for_rows(rows: u64) -> Self {
        Self {
            stale: (rows / 5_000).clamp(10, 200),
            unused: (rows / 10_000).clamp(4, 80),
        }
    }

    pub(super) fn truth(self) -> [RuleTruth; 2] {
        [
            rule("stale_temp_files", "files:temp", self.stale),
            rule("unused_uploads", "files:uploads", self.unused),
        ]
    }
}

pub(super) fn make(platform: &Platform, place: &Path) -> Result<()> {
    let counts = platform.file_counts();
    let (temp, uploads) = (place.join("temp"), place.join("uploads"));
    for root in [&temp, &uploads] {
        fs::create_dir(root).with_context(|| format!("cannot make {}", root.display()))?;
    }
    for number in 0..counts.stale {
        let odd = usize::try_from(number).ok().and_then(|number| ODD_NAMES.get(number));
        let name = match odd {
            Some(odd) => format!("odd/{odd}"),
            None => format!("upload-{}/{number}.part", number % 7),
        };
        write(&temp.join(name), 30 + number)?;
    }
    // Uploads that are still in progress, more than the others: no rule takes more than half of a root.
    for number in 0..counts.stale + 2 {
        write(&temp.join(format!("upload-{}/young-{number}.part", number % 5)), number % 20)?;
    }
    symlink("upload-0/young-0.part", temp.join("link"))?;
    fs::create_dir(temp.join("empty"))?;

    for kind in [Upload::Avatar, Upload::Thumbnail, Upload::Attachment] {
        for index in 0..platform.owners(kind).min(MOST_NAMED) {
            if let Some(name) = platform.upload(kind, index) {
                write(&place.join(name), 48 + index)?;
            }
        }
    }
    for number in 0..counts.unused {
        let folder = ["avatars", "thumbnails", "lessons/left over"][usize::try_from(number % 3)?];
        write(&uploads.join(format!("{folder}/nobody's-{number}.png")), 48 + number)?;
        // No row names it either, but its row may be on its way.
        write(&uploads.join(format!("{folder}/arriving-{number}.png")), number % 20)?;
    }
    symlink("avatars/nobody's-0.png", uploads.join("link"))?;
    Ok(())
}

/// A file that was last written so many hours ago, with one of several modes.
fn write(path: &Path, hours: u64) -> Result<()> {
    let named = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(named)?;
    }
    fs::write(path, path.display().to_string()).with_context(named)?;
    let written = SystemTime::now() - Duration::from_secs(hours * HOUR);
    let file = File::options().append(true).open(path).with_context(named)?;
    let mode = [0o600, 0o640, 0o444][usize::try_from(hours % 3)?];
    file.set_permissions(Permissions::from_mode(mode)).with_context(named)?;
    file.set_modified(written).with_context(named)
}
