//! The trash of a step while its run is at work: a batch is written down, moved, and sealed.
//!
//! ```text
//!  lock      nobody else writes to the manifest; a larger fence in it ends this attempt
//!  announce  one line for each file, then fsync: from here on a crash leaves nothing that cannot be found
//!  move      each file that is still the listed one, by rename to a number; looked at once more in its new place
//!  (judge)   the engine asks the database again, and has files moved back that are referred to by now
//!  seal      fsync of the batch's folder, then a line with the counts, then fsync; unlock
//! ```
//!
//! Killed anywhere, the next attempt finds the announced files either in the batch's folder or where they were. An attempt whose batch
//! fails opens the trash again and finds them likewise; where the batch cannot be sealed, all of it goes back and its lines are cut off.

use std::collections::HashSet;

use dbkeep_engine::{
    failpoint,
    model::{FileEntry, FilePath, RunId},
    port::{FilesError, Left, Taken, Trash, TrashTotals},
};
use jiff::Timestamp;
use rustix::io::Errno;

use super::{
    FolderRoot, TRASH,
    beneath::{Folder, failed},
    manifest::{Line, Lines, Manifest},
};

/// What the manifest says.
#[derive(Default)]
struct State {
    fence: u64,
    last_number: u64,
    totals: TrashTotals,
    /// Number of the batch that is not sealed.
    open: Option<u64>,
    /// Where its first line begins, and the largest fence before it.
    begun: (u64, u64),
    /// Its files.
    files: Vec<(u64, FileEntry)>,
}

impl State {
    /// Takes the line that begins at this place.
    fn take(&mut self, offset: u64, line: Line, shown: &str) -> Result<(), FilesError> {
        let damaged = |problem: String| FilesError::Damaged {
            path: shown.to_owned(),
            problem,
        };
        match line {
            Line::Claim { version, fence, .. } => {
                if version != Line::VERSION {
                    return Err(damaged(format!("version {version} is not known; expected {}", Line::VERSION)));
                }
                self.fence = self.fence.max(fence);
            }
            Line::Move { number, batch, file } => {
                self.last_number = number;
                if self.open.replace(batch).is_none() {
                    self.begun = (offset, self.fence);
                }
                self.files.push((number, file));
            }
            Line::Void { number } => self.files.retain(|(announced, _)| *announced != number),
            Line::Sealed { batch, files, bytes } => {
                if files != self.files.len() as u64 {
                    return Err(damaged(format!(
                        "batch {batch} was sealed with {files} files, {} are named",
                        self.files.len()
                    )));
                }
                self.totals.batches = batch;
                self.totals.files += files;
                self.totals.bytes += bytes;
                self.open = None;
                self.files.clear();
            }
            Line::Back { .. } => {}
        }
        Ok(())
    }
}

/// The folder of the step, once there is one.
struct Place {
    folder: Folder,
    manifest: Manifest,
}

/// See [`Trash`].
pub(super) struct StepTrash {
    root: Folder,
    shown: String,
    run: RunId,
    step: u32,
    fence: u64,
    place: Option<Place>,
    state: State,
    /// Files of the open batch that are not in its folder, to be written down when it is sealed.
    void: HashSet<u64>,
    batch: Option<Folder>,
}

fn name(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

impl StepTrash {
    pub(super) fn open(root: &FolderRoot, run: RunId, step: u32, fence: u64) -> Result<Self, FilesError> {
        let mut trash = Self {
            shown: root.shown_step(run, step),
            root: root.folder()?,
            run,
            step,
            fence,
            place: None,
            state: State::default(),
            void: HashSet::new(),
            batch: None,
        };
        if let Some(folder) = root.step_folder(&trash.root, run, step)?
            && let Some(manifest) = Manifest::open(&folder, &trash.shown, false)?
        {
            trash.place = Some(Place { folder, manifest });
            trash.enter(false)?;
            if trash.state.open.is_some() {
                trash.settle()?;
            } else {
                trash.leave()?;
            }
        }
        Ok(trash)
    }

    fn place(&mut self) -> Result<&mut Place, FilesError> {
        match &mut self.place {
            Some(place) => Ok(place),
            None => Err(FilesError::Damaged {
                path: self.shown.clone(),
                problem: "no batch is open".to_owned(),
            }),
        }
    }

    fn create(&mut self) -> Result<(), FilesError> {
        let made = || -> Result<Folder, Errno> {
            let trash = self.root.make_private(TRASH)?;
            let run = trash.make_private(self.run.to_string().as_bytes())?;
            run.make_private(self.step.to_string().as_bytes())
        };
        let folder = made().map_err(failed(&self.shown))?;
        let Some(manifest) = Manifest::open(&folder, &self.shown, true)? else {
            return Err(failed(&self.shown)(Errno::NOENT));
        };
        self.place = Some(Place { folder, manifest });
        Ok(())
    }

    /// Locks the manifest, reads what is new in it, and makes sure that this attempt is the newest. A manifest in which nobody has
    /// written yet shuts nobody out; the first batch claims it.
    fn enter(&mut self, to_begin: bool) -> Result<(), FilesError> {
        let (shown, fence) = (self.shown.clone(), self.fence);
        let place = self.place()?;
        place.manifest.lock()?;
        if !place.manifest.is_known()? {
            let mut lines = Lines::from(&place.folder, &shown, 0)?;
            let mut state = State::default();
            loop {
                let offset = lines.offset();
                let Some(line) = lines.next()? else { break };
                state.take(offset, line, &shown)?;
            }
            if state.fence > fence {
                place.manifest.unlock()?;
                return Err(FilesError::Fenced { path: shown });
            }
            place.manifest.know(lines.offset())?;
            let claims = state.fence < fence && (to_begin || state.fence > 0);
            self.state = state;
            if claims {
                self.claim()?;
            }
        }
        Ok(())
    }

    /// Shuts every older attempt out.
    fn claim(&mut self) -> Result<(), FilesError> {
        let (run, step, fence) = (self.run, self.step, self.fence);
        self.place()?.manifest.append(&[Line::Claim {
            version: Line::VERSION,
            run,
            step,
            fence,
            at: Timestamp::now(),
        }])?;
        self.state.fence = fence;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), FilesError> {
        self.place()?.manifest.unlock()
    }

    fn open_batch(&mut self, batch: u64) -> Result<(), FilesError> {
        let shown = self.shown.clone();
        let folder = self.place()?.folder.make_private(&name(batch)).map_err(failed(shown))?;
        self.batch = Some(folder);
        Ok(())
    }

    /// Finds out what an attempt that ended in the midst of a batch has moved.
    fn settle(&mut self) -> Result<(), FilesError> {
        let Some(batch) = self.state.open else { return Ok(()) };
        self.open_batch(batch)?;
        for (number, file) in self.state.files.clone() {
            let Some(folder) = &self.batch else { continue };
            let found = folder
                .regular(&name(number), file.path.clone())
                .map_or_else(|errno| if errno == Errno::NOENT { Ok(None) } else { Err(errno) }, Ok);
            match found.map_err(failed(&self.shown))? {
                Some(found) if is_moved(&file, &found) => {}
                // Taken for another at the last instant, then the attempt ended.
                Some(_) => {
                    self.give_back(number, &file.path)?;
                    self.void.insert(number);
                }
                None => {
                    self.void.insert(number);
                }
            }
        }
        Ok(())
    }

    /// Moves a file out of the batch's folder to where it was; false where that name is taken.
    fn move_back(&self, number: u64, path: &FilePath) -> Result<bool, FilesError> {
        let Some(batch) = &self.batch else { return Ok(false) };
        failpoint!("files-back-fails", Err(failed(path.to_string())(Errno::IO)));
        let (folder, file) = path.split();
        let folder = self.root.make_all(folder).map_err(failed(path.to_string()))?;
        match batch.rename(&name(number), &folder, file) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(failed(path.to_string())(errno)),
        }
    }

    /// The same for a file that should never have come here.
    fn give_back(&self, number: u64, path: &FilePath) -> Result<(), FilesError> {
        if self.move_back(number, path)? {
            return Ok(());
        }
        Err(FilesError::Stranded {
            path: path.to_string(),
            trashed: format!("{}/{}/{number}", self.shown, self.state.open.unwrap_or_default()),
        })
    }

    /// Moves one file, if it is still the listed one; says why where it stays.
    fn move_one(&self, number: u64, listed: &FileEntry, parent: &Folder) -> Result<Option<Left>, FilesError> {
        let Some(batch) = &self.batch else { return Ok(None) };
        let left = |reason: &str, vanished: bool| {
            Ok(Some(Left {
                path: listed.path.clone(),
                reason: reason.to_owned(),
                vanished,
            }))
        };
        let (_, file) = listed.path.split();
        match parent.regular(file, listed.path.clone()) {
            Ok(Some(now)) if now.is_untouched(listed) => {}
            Ok(Some(_)) => return left("it was touched since it was listed", false),
            Ok(None) => return left("something else has its name", false),
            Err(Errno::NOENT) => return left("it is gone", true),
            Err(errno) => return left(&std::io::Error::from(errno).to_string(), false),
        }
        failpoint!("files-move-fails", Err(failed(listed.path.to_string())(Errno::IO)));
        match parent.rename(file, batch, &name(number)) {
            Ok(()) => {}
            Err(Errno::NOENT) => return left("it is gone", true),
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::BUSY | Errno::XDEV | Errno::TXTBSY)) => {
                return left(&std::io::Error::from(errno).to_string(), false);
            }
            Err(Errno::INVAL | Errno::NOSYS) => {
                return Err(FilesError::Unusable {
                    path: self.shown.clone(),
                    problem: "this file system cannot move a file without replacing another; expected a local one such as ext4, XFS, Btrfs or tmpfs"
                        .to_owned(),
                });
            }
            Err(errno) => return Err(failed(listed.path.to_string())(errno)),
        }
        failpoint!("files-moving");
        // Between the look and the move somebody may have put another file under that name.
        match batch.regular(&name(number), listed.path.clone()) {
            Ok(Some(moved)) if is_moved(listed, &moved) => Ok(None),
            _ => {
                self.give_back(number, &listed.path)?;
                left("another file took its name", false)
            }
        }
    }
}

/// Whether a file in the trash is the listed one. A move changes nothing but the time of change.
fn is_moved(listed: &FileEntry, found: &FileEntry) -> bool {
    (listed.inode, listed.size, listed.modified) == (found.inode, found.size, found.modified)
}

impl Trash for StepTrash {
    fn totals(&self) -> TrashTotals {
        self.state.totals
    }

    fn unsealed(&self) -> Vec<FileEntry> {
        let moved = self.state.files.iter().filter(|(number, _)| !self.void.contains(number));
        moved.map(|(_, file)| file.clone()).collect()
    }

    fn take(&mut self, files: &[FileEntry]) -> Result<Taken, FilesError> {
        if self.place.is_none() {
            self.create()?;
        }
        self.enter(true)?;
        let batch = self.state.totals.batches + 1;
        self.open_batch(batch)?;
        let first = self.state.last_number + 1;
        let numbered: Vec<(u64, FileEntry)> = (first..).zip(files.iter().cloned()).collect();
        let lines: Vec<Line> = numbered
            .iter()
            .map(|(number, file)| Line::Move {
                number: *number,
                batch,
                file: file.clone(),
            })
            .collect();
        let begun = (self.place()?.manifest.length(), self.state.fence);
        self.place()?.manifest.append(&lines)?;
        failpoint!("files-announced");
        self.state.begun = begun;
        self.state.last_number += files.len() as u64;
        self.state.open = Some(batch);
        self.state.files = numbered;
        let mut taken = Taken::default();
        let mut parent: Option<(Vec<u8>, Folder)> = None;
        for (number, file) in &self.state.files {
            let (wanted, _) = file.path.split();
            if parent.as_ref().is_none_or(|(open, _)| open != wanted) {
                parent = match self.root.folder(wanted) {
                    Ok(folder) => Some((wanted.to_vec(), folder)),
                    Err(errno) => {
                        self.void.insert(*number);
                        taken.left.push(Left {
                            path: file.path.clone(),
                            reason: format!("its folder: {}", std::io::Error::from(errno)),
                            vanished: matches!(errno, Errno::NOENT),
                        });
                        parent = None;
                        continue;
                    }
                };
            }
            let Some((_, folder)) = &parent else { continue };
            match self.move_one(*number, file, folder)? {
                None => taken.moved.push(file.clone()),
                Some(left) => {
                    self.void.insert(*number);
                    taken.left.push(left);
                }
            }
        }
        failpoint!("files-moved");
        Ok(taken)
    }

    fn put_back(&mut self, files: &[FilePath]) -> Result<u64, FilesError> {
        let wanted: HashSet<&FilePath> = files.iter().collect();
        let mut back = 0;
        for (number, file) in &self.state.files {
            if wanted.contains(&file.path) && !self.void.contains(number) && self.move_back(*number, &file.path)? {
                self.void.insert(*number);
                back += 1;
            }
        }
        Ok(back)
    }

    fn seal(&mut self) -> Result<TrashTotals, FilesError> {
        let Some(batch) = self.state.open else {
            return Ok(self.state.totals);
        };
        if let Some(folder) = &self.batch {
            folder.sync().map_err(failed(&self.shown))?;
        }
        failpoint!("files-synced");
        failpoint!("files-seal-fails", Err(failed(&self.shown)(Errno::NOSPC)));
        let mut void: Vec<u64> = self.void.drain().collect();
        void.sort_unstable();
        let moved = |(number, _): &&(u64, FileEntry)| void.binary_search(number).is_err();
        let files = self.state.files.iter().filter(moved).count() as u64;
        let bytes = self.state.files.iter().filter(moved).map(|(_, file)| file.size).sum();
        let mut lines: Vec<Line> = void.iter().map(|number| Line::Void { number: *number }).collect();
        lines.push(Line::Sealed { batch, files, bytes });
        self.place()?.manifest.append(&lines)?;
        self.batch = None;
        self.state.open = None;
        self.state.files.clear();
        self.state.totals.batches = batch;
        self.state.totals.files += files;
        self.state.totals.bytes += bytes;
        self.leave()?;
        failpoint!("files-sealed");
        Ok(self.state.totals)
    }

    fn retract(&mut self) -> Result<TrashTotals, FilesError> {
        if self.state.open.is_none() {
            return Ok(self.state.totals);
        }
        for (number, file) in &self.state.files {
            if !self.void.contains(number) {
                self.give_back(*number, &file.path)?;
                self.void.insert(*number);
            }
        }
        if let Some(folder) = &self.batch {
            folder.sync().map_err(failed(&self.shown))?;
        }
        failpoint!("files-retracting");
        let (offset, fence) = self.state.begun;
        self.place()?.manifest.cut(offset)?;
        self.batch = None;
        self.void.clear();
        self.state.open = None;
        self.state.files.clear();
        self.state.fence = fence;
        if fence < self.fence {
            self.claim()?;
        }
        self.leave()?;
        Ok(self.state.totals)
    }
}
