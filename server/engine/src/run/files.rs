//! The work of a cleanup's step on files: gather once, then batch by batch ask the database again, move, ask once more, seal.
//!
//! ```text
//!  gather    one walk, one pass over each column that refers to files
//!  ask       which of the batch's names are referred to now: those stay
//!  take      announced in the manifest and synced, then moved to the trash, each still as it was listed
//!  ask       which are referred to by now, in whatever spelling: those go back
//!  seal      the batch's folder and its line in the manifest are synced: it counts from here on
//! ```
//!
//! A batch that fails on the way is settled before its step ends: sealed with what it has moved, or else taken back as a whole, or else
//! the run is interrupted and a later attempt does it. No run ends with files in its trash that it does not count.
//!
//! The manifest is the journal of these steps; the target's journal has no row of them. A file is never captured by halves, so that
//! there is no chunk: what was moved is the backup.

mod undo;
mod verify;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

pub(super) use self::{undo::undo_step, verify::verify_step};
use super::{
    attempt::{Attempt, Halt},
    cleanup::{StepEnd, allowance, is_over},
};
use crate::{
    failpoint,
    model::{FileEntry, FilePath, StepState},
    planner::files::{FileSelection, FileStepError, Gathered, blocking},
    port::{FileRoot, FilesError, Left, Sifted, Taken, TargetError, TargetErrorClass, Trash, TrashTotals},
};

/// Files left behind that are named one by one.
const NAMED_FILES: usize = 20;

/// A failure of a root as a reason to halt: where somebody else is at work it passes, everything else ends the step.
pub(super) fn halted(error: FilesError) -> Halt {
    let class = match &error {
        FilesError::Fenced { .. } => TargetErrorClass::Fenced,
        FilesError::Busy { .. } => TargetErrorClass::Lost,
        FilesError::Unusable { .. } | FilesError::Io { .. } | FilesError::Damaged { .. } | FilesError::Stranded { .. } => {
            TargetErrorClass::Refused
        }
    };
    Halt::Target(TargetError::new(class, error.to_string()))
}

impl From<FilesError> for Halt {
    fn from(error: FilesError) -> Self {
        halted(error)
    }
}

impl From<FileStepError> for Halt {
    fn from(error: FileStepError) -> Self {
        match error {
            FileStepError::Target(error) => Self::Target(error),
            FileStepError::Files(error) => halted(error),
        }
    }
}

/// The root of a step's files, from the name of its table; `None` where the step is about rows.
pub(super) fn root_of(attempt: &Attempt, index: usize) -> Result<Option<Arc<dyn FileRoot>>, Halt> {
    let Some(name) = attempt.plan.steps[index].rule.root() else {
        return Ok(None);
    };
    let entry = attempt.context.targets.get(&attempt.run.target);
    let root = entry.and_then(|entry| entry.roots.get(name));
    root.map(|root| Some(Arc::clone(root)))
        .ok_or_else(|| Halt::Fail(format!("this server has no root {name} of target {}", attempt.run.target)))
}

/// Whether a step takes files.
pub(super) fn is_files(attempt: &Attempt, index: usize) -> bool {
    attempt.plan.steps.get(index).is_some_and(|step| step.rule.root().is_some())
}

fn step_of(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// The trash of a step in work. Its acts block, so that it travels to where that is allowed and back.
struct Bin(Option<Box<dyn Trash>>);

impl Bin {
    async fn open(attempt: &Attempt, index: usize, root: &Arc<dyn FileRoot>) -> Result<Self, FilesError> {
        let (root, run, fence) = (Arc::clone(root), attempt.run.id, attempt.claim.fence);
        let trash = blocking(move || root.trash(run, step_of(index), fence)).await?;
        Ok(Self(Some(trash)))
    }

    async fn with<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut dyn Trash) -> Result<T, FilesError> + Send + 'static,
    ) -> Result<T, FilesError> {
        let Some(mut trash) = self.0.take() else {
            return Err(FilesError::Io {
                path: "the trash".to_owned(),
                source: std::io::Error::other("it was lost with the act that failed"),
            });
        };
        // After a failure the trash does not come back: what is open is settled by opening it again.
        let (trash, value) = blocking(move || {
            let value = act(trash.as_mut())?;
            Ok((trash, value))
        })
        .await?;
        self.0 = Some(trash);
        Ok(value)
    }

    fn totals(&self) -> TrashTotals {
        self.0.as_ref().map(|trash| trash.totals()).unwrap_or_default()
    }
}

/// What the second question about an open batch came to.
enum Judged {
    /// So many went back, because something refers to them by now.
    Back(u64),
    /// All went back, because the database refuses to answer, and nobody can say that a file is an orphan.
    Refused(TargetError),
}

/// Moves those of an open batch back that are referred to by now. Where the database is out of reach the batch stays open.
async fn judge(
    attempt: &Attempt,
    bin: &mut Bin,
    selection: &FileSelection,
    moved: &[FileEntry],
) -> Result<Judged, FileStepError> {
    let found: Vec<FilePath> = match selection.referenced(attempt.target.as_ref(), moved).await {
        Ok(found) => found.into_iter().collect(),
        Err(error) if error.class != TargetErrorClass::Lost && !error.is_retryable() => {
            put_all_back(bin, moved).await?;
            return Ok(Judged::Refused(error));
        }
        Err(error) => return Err(error.into()),
    };
    if found.is_empty() {
        return Ok(Judged::Back(0));
    }
    Ok(Judged::Back(bin.with(move |trash| trash.put_back(&found)).await?))
}

async fn put_all_back(bin: &mut Bin, moved: &[FileEntry]) -> Result<u64, FilesError> {
    let all: Vec<FilePath> = moved.iter().map(|file| file.path.clone()).collect();
    bin.with(move |trash| trash.put_back(&all)).await
}

/// Judges and seals what is open; without a selection all of it goes back. What is sealed in the end, and what the database said where
/// it refused to be asked.
async fn close(
    attempt: &Attempt,
    index: usize,
    root: &Arc<dyn FileRoot>,
    selection: Option<&FileSelection>,
) -> Result<(TrashTotals, Option<TargetError>), FileStepError> {
    let mut bin = Bin::open(attempt, index, root).await?;
    let open = bin.0.as_ref().map(|trash| trash.unsealed()).unwrap_or_default();
    let mut refused = None;
    if !open.is_empty() {
        match selection {
            None => drop(put_all_back(&mut bin, &open).await?),
            Some(selection) => {
                if let Judged::Refused(error) = judge(attempt, &mut bin, selection, &open).await? {
                    refused = Some(error);
                }
            }
        }
    }
    failpoint!("files-settled");
    Ok((bin.with(|trash| trash.seal()).await?, refused))
}

/// Moves what is open back, all of it, for want of a seal.
async fn retract(attempt: &Attempt, index: usize, root: &Arc<dyn FileRoot>) -> Result<TrashTotals, FilesError> {
    Bin::open(attempt, index, root).await?.with(|trash| trash.retract()).await
}

/// Settles what an attempt left open, this one or an earlier one, so that the counts are final whatever comes next.
pub(super) async fn settle(
    attempt: &mut Attempt,
    index: usize,
    root: &Arc<dyn FileRoot>,
    selection: Option<&FileSelection>,
) -> Result<(), Halt> {
    let closed = match close(attempt, index, root, selection).await {
        Err(FileStepError::Files(FilesError::Io { .. } | FilesError::Unusable { .. })) => {
            let retracted = retract(attempt, index, root).await;
            retracted.map(|totals| (totals, None)).map_err(FileStepError::Files)
        }
        closed => closed,
    };
    let report = &attempt.ledger.report.steps[index];
    let (totals, refused) = match closed {
        Ok(closed) => closed,
        // Only a step that was begun can have moved anything.
        Err(FileStepError::Files(
            error @ (FilesError::Io { .. } | FilesError::Unusable { .. } | FilesError::Stranded { .. }),
        )) if report.state != StepState::Pending => return Err(Halt::Open(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    if totals.batches < report.batches || totals.files < report.rows_captured {
        return Err(Halt::Fail(format!(
            "the manifest of step {index} has {} batches, the run had sealed {}: this is another root, or an older state of it; its trash is kept",
            totals.batches, report.batches
        )));
    }
    take_totals(attempt, index, totals);
    refused.map_or(Ok(()), |error| Err(error.into()))
}

/// Settles what is open before a run ends that nobody will take up again.
pub(super) async fn give_up(attempt: &mut Attempt) -> Result<(), Halt> {
    for index in 0..attempt.ledger.report.steps.len() {
        if !is_files(attempt, index) || is_over(attempt, index) || attempt.ledger.report.steps[index].state == StepState::Pending
        {
            continue;
        }
        match root_of(attempt, index) {
            Ok(Some(root)) => settle(attempt, index, &root, None).await?,
            Err(Halt::Fail(why)) => return Err(Halt::Open(why)),
            _ => {}
        }
    }
    Ok(())
}

fn take_totals(attempt: &mut Attempt, index: usize, totals: TrashTotals) {
    let report = &mut attempt.ledger.report.steps[index];
    report.rows_affected = totals.files;
    report.rows_captured = totals.files;
    report.captured_bytes = totals.bytes;
    report.batches = totals.batches;
    report.rows_matched = report.rows_matched.max(totals.files);
}

/// The work of one step.
pub(super) async fn clean_step(attempt: &mut Attempt, index: usize, selection: &FileSelection) -> Result<StepEnd, Halt> {
    let gathering = selection.gather(attempt.target.as_ref());
    let gathered = tokio::select! {
        stop = attempt.lease.stopped() => return Err(stop.into()),
        () = tokio::time::sleep(attempt.time_left()) => return Ok(StepEnd::OutOfTime),
        gathered = gathering => gathered?,
    };
    let Gathered {
        sifted, walked, values, ..
    } = gathered;
    attempt.ledger.report.steps[index].rows_examined = walked.files;
    attempt.ledger.report.steps[index].passes = 1;
    failpoint!("files-gathered");
    if selection.references.is_some() && values == 0 {
        let message = "the columns that refer to files are empty now; nothing was moved since".to_owned();
        attempt.ledger.warn(Some(index), "EMPTY_REFERENCES", message.clone()).await?;
        return Ok(StepEnd::Partial(message));
    }
    let bin = Bin::open(attempt, index, &selection.root).await?;
    FileWork {
        index,
        selection,
        bin,
        sifted: Some(sifted),
        left: 0,
        kept: 0,
        named: 0,
    }
    .run(attempt)
    .await
}

struct FileWork<'a> {
    index: usize,
    selection: &'a FileSelection,
    bin: Bin,
    sifted: Option<Box<dyn Sifted>>,
    /// Files that are still there although they were listed.
    left: u64,
    /// Files that stay because something refers to them by now.
    kept: u64,
    /// Files that were named in a warning.
    named: usize,
}

impl FileWork<'_> {
    async fn next(&mut self, limit: usize) -> Result<Vec<FileEntry>, Halt> {
        let Some(mut sifted) = self.sifted.take() else {
            return Ok(Vec::new());
        };
        let (sifted, files) = blocking(move || {
            let files = sifted.next(limit)?;
            Ok((sifted, files))
        })
        .await?;
        self.sifted = Some(sifted);
        Ok(files)
    }

    async fn run(mut self, attempt: &mut Attempt) -> Result<StepEnd, Halt> {
        let allowance = allowance(attempt, self.index);
        attempt.rest(None).await?;
        loop {
            attempt.boundary()?;
            attempt.look_around().await?;
            if attempt.out_of_time() {
                return Ok(StepEnd::OutOfTime);
            }
            let limit = usize::try_from(attempt.pace.rows()).unwrap_or(usize::MAX);
            let files = self.next(limit).await?;
            if files.is_empty() {
                break;
            }
            let affected = self.bin.totals().files;
            if affected + files.len() as u64 > allowance {
                let message = format!(
                    "stopped before the plan was exceeded: {affected} files moved, {} more listed, at most {allowance} allowed; make a new plan",
                    files.len()
                );
                attempt
                    .ledger
                    .warn(Some(self.index), "COUNT_DRIFTED", message.clone())
                    .await?;
                return Ok(StepEnd::Partial(message));
            }
            let began = Instant::now();
            let asked = match self.batch(attempt, files).await {
                Ok(asked) => asked,
                Err(halt) => return Err(self.broken(attempt, halt).await),
            };
            let took = began.elapsed();
            let moved = self.bin.totals().files - affected;
            attempt.pace.after_batch_at_a_price(moved, took, asked);
            self.note(attempt, took).await?;
            attempt.rest(None).await?;
        }
        self.end(attempt).await
    }

    /// What is left to do where a batch failed for good, so that no later attempt would settle it.
    async fn broken(self, attempt: &mut Attempt, halt: Halt) -> Halt {
        let Self {
            index, selection, bin, ..
        } = self;
        // It has to be let go of before it is opened again.
        drop(bin);
        if !halt.is_final() {
            return halt;
        }
        settle(attempt, index, &selection.root, Some(selection))
            .await
            .err()
            .unwrap_or(halt)
    }

    /// One batch, from the first question to the seal. Returns how long the database was asked.
    async fn batch(&mut self, attempt: &mut Attempt, files: Vec<FileEntry>) -> Result<Duration, Halt> {
        let began = Instant::now();
        let in_use = tokio::select! {
            stop = attempt.lease.stopped() => return Err(stop.into()),
            named = self.selection.named(attempt.target.as_ref(), &files) => named?,
        };
        let asked = began.elapsed();
        attempt.ledger.report.steps[self.index].rows_matched += files.len() as u64;
        self.kept += in_use.len() as u64;
        let files: Vec<FileEntry> = files.into_iter().filter(|file| !in_use.contains(&file.path)).collect();
        if files.is_empty() {
            return Ok(asked);
        }
        failpoint!("files-asked");
        let Taken { moved, left } = self.bin.with(move |trash| trash.take(&files)).await?;
        // From here to the seal nothing may end the batch but a failure: it is open.
        let began = Instant::now();
        let judged = judge(attempt, &mut self.bin, self.selection, &moved).await?;
        let asked = asked + began.elapsed();
        failpoint!("files-judged");
        self.bin.with(|trash| trash.seal()).await?;
        match judged {
            Judged::Back(files) => self.kept += files,
            Judged::Refused(error) => return Err(error.into()),
        }
        self.report_left(attempt, &left).await?;
        Ok(asked)
    }

    async fn report_left(&mut self, attempt: &mut Attempt, left: &[Left]) -> Result<(), Halt> {
        for left in left.iter().filter(|left| !left.vanished) {
            self.left += 1;
            if self.named < NAMED_FILES {
                self.named += 1;
                let message = format!("{}: {}", left.path, left.reason);
                attempt.ledger.warn(Some(self.index), "FILE_LEFT", message).await?;
            }
        }
        Ok(())
    }

    async fn note(&mut self, attempt: &mut Attempt, took: Duration) -> Result<(), Halt> {
        take_totals(attempt, self.index, self.bin.totals());
        let report = &attempt.ledger.report.steps[self.index];
        let fraction = crate::share(report.rows_affected, report.rows_planned);
        let throttle = attempt.pace.shown();
        Ok(attempt.ledger.progress(self.index, fraction, took, throttle).await?)
    }

    /// Says what stays, and why.
    async fn end(self, attempt: &mut Attempt) -> Result<StepEnd, Halt> {
        take_totals(attempt, self.index, self.bin.totals());
        let touched = self.sifted.as_ref().map_or(0, |sifted| sifted.touched());
        let report = &mut attempt.ledger.report.steps[self.index];
        // Of the files that changed since the plan only as many can have been planned as are missing from the count.
        let planned_and_touched = touched.min(
            report
                .rows_planned
                .saturating_sub(report.rows_affected + self.left + self.kept),
        );
        let remaining = self.left + planned_and_touched;
        report.rows_remaining = remaining;
        if self.kept > 0 {
            let message = format!("{} files stay because something refers to them by now", self.kept);
            attempt.ledger.warn(Some(self.index), "FILES_REFERENCED", message).await?;
        }
        if remaining == 0 {
            return Ok(StepEnd::Done);
        }
        let message = format!("{remaining} files stay because they were touched since the plan, or could not be moved");
        attempt.ledger.warn(Some(self.index), "FILES_REMAIN", message.clone()).await?;
        Ok(StepEnd::Partial(message))
    }
}

/// Sets the counts of a step back: an attempt to undo or to verify files begins anew, and finds on the disk what is done.
fn begin_anew(attempt: &mut Attempt, index: usize) {
    let report = &mut attempt.ledger.report.steps[index];
    (report.rows_matched, report.rows_affected, report.rows_conflicting) = (0, 0, 0);
    (report.batches, report.captured_bytes, report.passes) = (0, 0, 1);
    report.state = StepState::Running;
}
