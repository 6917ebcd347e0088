//! The trash of a step after its run: looked into, proven, and moved back. What an undo does is found again on the disk, so that one
//! that was killed begins anew and repeats nothing.

use std::collections::HashSet;

use dbkeep_engine::{
    failpoint,
    model::{FileEntry, RunId},
    port::{FilesError, PutBack, Trashed, TrashedFile},
};
use rustix::{fs::FileType, io::Errno};

use super::{
    FolderRoot,
    beneath::{Folder, failed},
    manifest::{Line, Lines, Manifest},
};

/// What became of an announced move. One byte for each, since there may be millions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unknown,
    Moved,
    Void,
    Back,
}

struct Place {
    folder: Folder,
    manifest: Manifest,
    lines: Lines,
    fates: Vec<Fate>,
    /// The batch folder in work.
    batch: Option<(u64, Folder)>,
}

/// See [`Trashed`].
pub(super) struct StepTrashed {
    root: Folder,
    shown: String,
    place: Option<Place>,
}

impl Place {
    fn fate(&mut self, number: u64) -> Option<&mut Fate> {
        let position = usize::try_from(number).ok()?;
        if self.fates.len() <= position {
            self.fates.resize(position + 1, Fate::Unknown);
        }
        self.fates.get_mut(position)
    }

    /// The folder of a batch; `None` where it is missing.
    fn batch(&mut self, batch: u64) -> Result<Option<&Folder>, Errno> {
        if self.batch.as_ref().is_none_or(|(open, _)| *open != batch) {
            self.batch = match self.folder.folder(batch.to_string().as_bytes()) {
                Ok(folder) => Some((batch, folder)),
                Err(Errno::NOENT) => None,
                Err(errno) => return Err(errno),
            };
        }
        Ok(self.batch.as_ref().map(|(_, folder)| folder))
    }

    /// What is in the trash under a number.
    fn look(&mut self, wanted: &TrashedFile) -> Result<Option<FileEntry>, Errno> {
        let Some(batch) = self.batch(wanted.batch)? else {
            return Ok(None);
        };
        match batch.regular(wanted.number.to_string().as_bytes(), wanted.file.path.clone()) {
            Err(Errno::NOENT) => Ok(None),
            found => found,
        }
    }
}

impl StepTrashed {
    pub(super) fn open(root: &FolderRoot, run: RunId, step: u32) -> Result<Self, FilesError> {
        let mut trashed = Self {
            shown: root.shown_step(run, step),
            root: root.folder()?,
            place: None,
        };
        let Some(folder) = root.step_folder(&trashed.root, run, step)? else {
            return Ok(trashed);
        };
        let Some(manifest) = Manifest::open(&folder, &trashed.shown, false)? else {
            return Ok(trashed);
        };
        let mut place = Place {
            lines: Lines::from(&folder, &trashed.shown, 0)?,
            folder,
            manifest,
            fates: Vec::new(),
            batch: None,
        };
        place.manifest.lock()?;
        let mut all = Lines::from(&place.folder, &trashed.shown, 0)?;
        while let Some(line) = all.next()? {
            let (number, fate) = match line {
                Line::Move { number, .. } => (number, Fate::Moved),
                Line::Void { number } => (number, Fate::Void),
                Line::Back { number, .. } => (number, Fate::Back),
                Line::Claim { .. } | Line::Sealed { .. } => continue,
            };
            if let Some(known) = place.fate(number) {
                *known = fate;
            }
        }
        place.manifest.know(all.offset())?;
        place.manifest.unlock()?;
        trashed.place = Some(place);
        Ok(trashed)
    }
}

/// Whether a file is the one that was moved. The inode is left out: a trash may have been copied to another disk.
fn is_same(moved: &FileEntry, found: &FileEntry) -> bool {
    (moved.size, moved.modified) == (found.size, found.modified)
}

impl StepTrashed {
    /// Moves one file back.
    fn restore_one(&mut self, wanted: &TrashedFile) -> Result<PutBack, FilesError> {
        let path = &wanted.file.path;
        let shown = || format!("{}/{}/{}", self.shown, wanted.batch, wanted.number);
        let Some(place) = &mut self.place else {
            return Ok(PutBack::Damaged("it has no trash".to_owned()));
        };
        let found = place.look(wanted).map_err(failed(shown()))?;
        let (folder, file) = path.split();
        match found {
            Some(found) if is_same(&wanted.file, &found) => {}
            Some(_) => return Ok(PutBack::Damaged("it is not the file that was moved".to_owned())),
            None => {
                // Moved back by an attempt that ended before it could say so.
                let there = self.root.folder(folder).and_then(|folder| folder.regular(file, path.clone()));
                return Ok(match there {
                    Ok(Some(there)) if is_same(&wanted.file, &there) && there.inode == wanted.file.inode => PutBack::Done,
                    _ => PutBack::Damaged("it is not in the trash any more".to_owned()),
                });
            }
        }
        let parent = match self.root.make_all(folder) {
            Ok(parent) => parent,
            Err(errno) => return Ok(PutBack::Conflict(format!("its folder: {}", std::io::Error::from(errno)))),
        };
        let Some(batch) = place.batch(wanted.batch).map_err(failed(shown()))? else {
            return Ok(PutBack::Damaged("it is not in the trash any more".to_owned()));
        };
        match batch.rename(wanted.number.to_string().as_bytes(), &parent, file) {
            Ok(()) => {
                failpoint!("files-restoring");
                Ok(PutBack::Done)
            }
            Err(Errno::EXIST) => Ok(PutBack::Conflict("something else has its name".to_owned())),
            Err(errno) => Ok(PutBack::Conflict(std::io::Error::from(errno).to_string())),
        }
    }
}

impl Trashed for StepTrashed {
    fn next(&mut self, limit: usize) -> Result<Vec<TrashedFile>, FilesError> {
        let Some(place) = &mut self.place else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        while files.len() < limit
            && let Some(line) = place.lines.next()?
        {
            let Line::Move { number, batch, file } = line else { continue };
            let fate = place.fate(number).map(|fate| *fate);
            if fate != Some(Fate::Void) {
                files.push(TrashedFile {
                    number,
                    batch,
                    file,
                    back: fate == Some(Fate::Back),
                });
            }
        }
        Ok(files)
    }

    fn restore(&mut self, files: &[TrashedFile], by: RunId) -> Result<Vec<PutBack>, FilesError> {
        if let Some(place) = &self.place {
            place.manifest.lock()?;
        }
        let mut outcomes = Vec::with_capacity(files.len());
        let mut lines = Vec::new();
        for wanted in files {
            if wanted.back {
                outcomes.push(PutBack::Done);
                continue;
            }
            let outcome = self.restore_one(wanted)?;
            if outcome == PutBack::Done {
                lines.push(Line::Back {
                    number: wanted.number,
                    by,
                });
            }
            outcomes.push(outcome);
        }
        let shown = self.shown.clone();
        if let Some(place) = &mut self.place {
            // The journal of the file system holds both ends of a rename: syncing one folder keeps both.
            let batches: HashSet<u64> = files.iter().filter(|file| !file.back).map(|file| file.batch).collect();
            for batch in batches {
                if let Some(folder) = place.batch(batch).map_err(failed(&shown))? {
                    folder.sync().map_err(failed(&shown))?;
                }
            }
            // They are back, whatever the manifest says of it: an undo that reads it later finds them where they were. A disk that takes
            // no more must not keep files from going back.
            if let Err(error) = place.manifest.append(&lines) {
                tracing::warn!(%error, files = lines.len(), "files are back, which could not be written down");
            } else {
                for line in &lines {
                    if let Line::Back { number, .. } = line
                        && let Some(fate) = place.fate(*number)
                    {
                        *fate = Fate::Back;
                    }
                }
            }
            place.manifest.unlock()?;
        }
        failpoint!("files-restored");
        Ok(outcomes)
    }

    fn check(&mut self, files: &[TrashedFile]) -> Result<Vec<Option<String>>, FilesError> {
        let shown = self.shown.clone();
        let Some(place) = &mut self.place else {
            return Ok(files.iter().map(|_| Some("it has no trash".to_owned())).collect());
        };
        let mut problems = Vec::with_capacity(files.len());
        for wanted in files {
            problems.push(if wanted.back {
                None
            } else {
                match place.look(wanted).map_err(failed(&shown))? {
                    Some(found) if is_same(&wanted.file, &found) => None,
                    Some(_) => Some("size or time differ from when it was moved".to_owned()),
                    None => Some("it is missing".to_owned()),
                }
            });
        }
        Ok(problems)
    }

    fn unnamed(&mut self) -> Result<u64, FilesError> {
        let shown = self.shown.clone();
        let Some(place) = &mut self.place else { return Ok(0) };
        let mut batches: Vec<Vec<u8>> = Vec::new();
        let mut unnamed = 0;
        place.folder.each(
            |name, _| {
                if name != super::manifest::NAME {
                    batches.push(name.to_vec());
                }
                Ok(true)
            },
            &shown,
        )?;
        for batch in batches {
            let folder = match place.folder.folder(&batch) {
                Ok(folder) => folder,
                // A file, a link or a mount that dbkeep did not make.
                Err(_) => {
                    unnamed += 1;
                    continue;
                }
            };
            let fates = &place.fates;
            folder.each(
                |name, kind| {
                    let number = std::str::from_utf8(name).ok().and_then(|name| name.parse::<usize>().ok());
                    let fate = number.and_then(|number| fates.get(number)).copied();
                    let named = fate == Some(Fate::Moved) && matches!(kind, FileType::RegularFile | FileType::Unknown);
                    unnamed += u64::from(!named);
                    Ok(true)
                },
                &shown,
            )?;
        }
        Ok(unnamed)
    }
}
