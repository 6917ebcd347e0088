//! What a plan says of files: which of a root's files a rule takes, gathered by one walk and, where references count, one pass over
//! each column. The live run gathers by the same code, so that a dry run and a run cannot differ.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{CLOCK_TOLERANCE, Recount, SAMPLES, StepRule};
use crate::{
    model::{
        ColumnSource, Condition, FileEntry, FileGlob, FilePath, FileTerms, Finding, FindingLevel, Nanoseconds, PlanStep,
        SampleRow, Selection, TableName, TableSchema, nanoseconds,
    },
    port::{FileRoot, FilesError, Roots, Sieve, Sifted, Standing, Target, TargetError, Walked},
    rule::{Mismatch, Rule, RuleKind, Schemas, orphan_files::Reference},
};

/// Pages of references that may wait for the sieve.
const PAGES_AHEAD: usize = 4;
/// Files taken out of the sieve at a time when they are only counted.
const COUNT_PAGE: usize = 4_096;

/// The failure of a step on files.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileStepError {
    /// The database that refers to them failed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The root failed.
    #[error(transparent)]
    Files(#[from] FilesError),
}

/// The files that a step takes.
#[derive(Clone)]
pub(crate) struct FileSelection {
    /// Name of the root.
    pub(crate) name: String,
    pub(crate) root: Arc<dyn FileRoot>,
    terms: FileTerms,
    /// What was changed later stays.
    listed_at: Nanoseconds,
    /// Columns that refer to files; `None` where references do not count.
    pub(crate) references: Option<Vec<(Reference, ColumnSource)>>,
    /// Terms of earlier steps of the plan on the same root, whose files are gone by then.
    except: Vec<FileTerms>,
}

/// What was gathered.
pub(crate) struct Gathered {
    pub(crate) sifted: Box<dyn Sifted>,
    pub(crate) walked: Walked,
    /// Values that refer to something.
    pub(crate) values: u64,
    /// Values that do not begin with their column's prefix, or lead out of the root.
    pub(crate) outside: u64,
}

/// Stops a walk whose caller has gone.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs what blocks on the disk where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FilesError> + Send + 'static,
) -> Result<T, FilesError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(FilesError::Io {
            path: "a task of this server".to_owned(),
            source: std::io::Error::other(error),
        }),
    }
}

/// A table in name only: what stands for a root in plans, reports and the list of what a run holds. Nothing is read from it.
fn stand_in(name: TableName) -> Arc<TableSchema> {
    Arc::new(TableSchema {
        name,
        kind: crate::model::TableKind::Table,
        columns: Vec::new(),
        primary_key: Vec::new(),
        row_key: Vec::new(),
        indexes: Vec::new(),
        incoming: Vec::new(),
        triggers: Vec::new(),
        rewrite_rules: Vec::new(),
        row_security: false,
        lossy_columns: Vec::new(),
        shape_guard: String::new(),
    })
}

/// A selection of no row, for a step that takes files.
pub(super) fn no_rows(rule: &Rule) -> Selection {
    Selection {
        table: stand_in(rule.table.clone()),
        matches: Condition::Any(Vec::new()),
        except: Vec::new(),
    }
}

/// The root that a rule names.
pub(super) fn root_of<'a>(rule: &Rule, roots: &'a Roots) -> Result<&'a Arc<dyn FileRoot>, Mismatch> {
    let name = rule.root().unwrap_or_default();
    roots.get(name).ok_or_else(|| {
        let known = roots.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() {
            "none is declared".to_owned()
        } else {
            format!("declared are {known}")
        };
        Mismatch::new(format!(
            "the target has no root {name:?}; {known}; expected roots = {{ {name} = \"/path\" }}"
        ))
    })
}

/// The selection of a file rule. `gone` are rows that earlier steps take, `earlier` the selections of earlier steps on files, where
/// the plan counts before any of them has run.
pub(super) fn select(
    step: &StepRule<'_>,
    roots: &Roots,
    schemas: &Schemas,
    gone: &[(TableName, Condition)],
    earlier: &[FileSelection],
) -> Result<FileSelection, Mismatch> {
    let root = root_of(step.rule, roots)?;
    let missing = || Mismatch::new("the plan has no horizon for this rule; expected a new plan");
    let (glob, references) = match &step.rule.kind {
        RuleKind::TempFiles(files) => (&files.glob, None),
        RuleKind::OrphanFiles(files) => {
            let mut sources = files.sources(schemas)?;
            for source in &mut sources {
                let of_table = gone.iter().filter(|(table, _)| *table == source.table.name);
                source.except = of_table.map(|(_, condition)| condition.clone()).collect();
            }
            (&files.glob, Some(files.references.iter().cloned().zip(sources).collect()))
        }
        _ => return Err(Mismatch::new("the rule selects no files")),
    };
    let name = step.rule.root().unwrap_or_default();
    let mut except = Vec::new();
    for selection in earlier.iter().filter(|selection| selection.name == name) {
        if selection.references.is_some() {
            return Err(Mismatch::new(format!(
                "an earlier rule takes the files of root {name} to which nothing refers; expected that one after every other rule of the root"
            )));
        }
        except.push(selection.terms.clone());
    }
    Ok(FileSelection {
        name: name.to_owned(),
        root: Arc::clone(root),
        terms: FileTerms {
            glob: FileGlob::parse(glob).map_err(Mismatch::new)?,
            before: nanoseconds(step.horizon.ok_or_else(missing)?),
        },
        listed_at: nanoseconds(step.listed_at.ok_or_else(missing)?),
        references,
        except,
    })
}

impl FileSelection {
    /// What a file is to this selection, as far as references do not matter.
    fn standing(&self, file: &FileEntry) -> Standing {
        let taken_before = || self.except.iter().any(|terms| terms.fit(file));
        if file.changed <= self.listed_at && self.terms.fit(file) && !taken_before() {
            Standing::Takeable
        } else if self.was_touched(file) {
            Standing::Touched
        } else {
            Standing::Other
        }
    }

    /// Whether a file was there when the plan was made and changed since.
    fn was_touched(&self, file: &FileEntry) -> bool {
        file.changed > self.listed_at
            && file.born.is_some_and(|born| born <= self.listed_at)
            && self.terms.glob.matches(&file.path)
    }

    /// Walks the root, then reads the references, in this order: a row that comes meanwhile is seen. Dropped midway it stops.
    pub(crate) async fn gather(&self, target: &dyn Target) -> Result<Gathered, FileStepError> {
        let stop = Arc::new(AtomicBool::new(false));
        let _stop = StopOnDrop(Arc::clone(&stop));
        let selection = self.clone();
        let (sieve, walked) = blocking(move || {
            let mut sieve = selection.root.sieve()?;
            let walked = selection.root.list(&mut |file| {
                sieve.file(&file, selection.standing(&file))?;
                Ok(if stop.load(Ordering::Relaxed) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            })?;
            Ok((sieve, walked))
        })
        .await?;
        let (sieve, values, outside) = self.refer(target, sieve).await?;
        let sifted = blocking(move || sieve.sift()).await?;
        Ok(Gathered {
            sifted,
            walked,
            values,
            outside,
        })
    }

    /// Which of these files something refers to at this moment by their plain names: those stay where they are.
    pub(crate) async fn named(&self, target: &dyn Target, files: &[FileEntry]) -> Result<HashSet<FilePath>, TargetError> {
        let mut found = HashSet::new();
        for (reference, source) in self.references.iter().flatten() {
            let values: Vec<Vec<u8>> = files.iter().map(|file| reference.value(&file.path)).collect();
            for position in target.holds(source, &values).await? {
                found.extend(files.get(position).map(|file| file.path.clone()));
            }
        }
        Ok(found)
    }

    /// The same by any name that the sieve would take: an index finds plain names, the others are few and are read through.
    pub(crate) async fn referenced(&self, target: &dyn Target, files: &[FileEntry]) -> Result<HashSet<FilePath>, TargetError> {
        let mut found = self.named(target, files).await?;
        let wanted: HashSet<&FilePath> = files.iter().map(|file| &file.path).collect();
        for (reference, source) in self.references.iter().flatten() {
            let mut stream = target.indirect_values(source, &reference.prefix).await?;
            loop {
                let page = stream.next().await?;
                if page.is_empty() {
                    break;
                }
                let meant = page.iter().filter_map(|value| reference.file(value));
                found.extend(meant.filter(|path| wanted.contains(path)));
            }
        }
        Ok(found)
    }

    /// Feeds the references to the sieve.
    async fn refer(&self, target: &dyn Target, mut sieve: Box<dyn Sieve>) -> Result<(Box<dyn Sieve>, u64, u64), FileStepError> {
        let (mut values, mut outside) = (0, 0);
        for (reference, source) in self.references.iter().flatten() {
            let mut stream = target.column_values(source).await?;
            let (sender, mut pages) = mpsc::channel::<Vec<Vec<u8>>>(PAGES_AHEAD);
            let reference = reference.clone();
            let taking = tokio::spawn(blocking(move || {
                let (mut values, mut outside) = (0, 0);
                while let Some(page) = pages.blocking_recv() {
                    for value in page {
                        values += 1;
                        match reference.file(&value) {
                            Some(file) => sieve.name(&file)?,
                            None => outside += 1,
                        }
                    }
                }
                Ok((sieve, values, outside))
            }));
            loop {
                let page = stream.next().await?;
                // A sieve that takes no more says why when it is asked below.
                if page.is_empty() || sender.send(page).await.is_err() {
                    break;
                }
            }
            drop(sender);
            let taken = taking.await.map_err(|error| FilesError::Io {
                path: "a task of this server".to_owned(),
                source: std::io::Error::other(error),
            })??;
            sieve = taken.0;
            values += taken.1;
            outside += taken.2;
        }
        Ok((sieve, values, outside))
    }
}

/// The files of a step, counted.
struct Counted {
    files: u64,
    bytes: u64,
    referenced: u64,
    samples: Vec<FileEntry>,
}

async fn count(mut sifted: Box<dyn Sifted>, samples: u32) -> Result<Counted, FilesError> {
    blocking(move || {
        let mut counted = Counted {
            files: 0,
            bytes: 0,
            referenced: 0,
            samples: Vec::new(),
        };
        loop {
            let files = sifted.next(COUNT_PAGE)?;
            if files.is_empty() {
                counted.referenced = sifted.referenced();
                return Ok(counted);
            }
            counted.files += files.len() as u64;
            counted.bytes += files.iter().map(|file| file.size).sum::<u64>();
            let wanted = usize::try_from(samples)
                .unwrap_or(usize::MAX)
                .saturating_sub(counted.samples.len());
            counted.samples.extend(files.into_iter().take(wanted));
        }
    })
    .await
}

fn sample(file: &FileEntry) -> SampleRow {
    let modified = Timestamp::from_nanosecond(i128::from(file.modified)).map(|instant| instant.to_string());
    SampleRow(vec![
        ("path".to_owned(), Some(file.path.to_string())),
        ("size".to_owned(), Some(file.size.to_string())),
        ("modified".to_owned(), modified.ok()),
    ])
}

/// The plan's step, with exact counts: its rows are files, its bytes those of the files.
pub(super) async fn plan_step(
    step: &StepRule<'_>,
    files: &FileSelection,
    target: &dyn Target,
    clock: Timestamp,
    schemas: &Schemas,
    expected_ms: &impl Fn(&str, &str, u64) -> Option<u64>,
    (operation_max_rows, recount): (Option<u64>, Option<Recount<'_>>),
) -> Result<PlanStep, FileStepError> {
    let gathered = files.gather(target).await?;
    let Gathered {
        walked, values, outside, ..
    } = &gathered;
    let (walked, values, outside) = (walked.clone(), *values, *outside);
    let counted = count(gathered.sifted, if recount.is_some() { 0 } else { SAMPLES }).await?;
    let mut findings = step.rule.findings(schemas);
    findings.extend(Judge { step, files }.findings(&counted, &walked, values, outside, clock));
    Ok(PlanStep {
        operation: step.operation.to_owned(),
        rule: step.rule.clone(),
        table: step.rule.table.to_string(),
        description: step.rule.describe(),
        horizon: step.horizon,
        listed_at: step.listed_at,
        row_count: counted.files,
        children: Vec::new(),
        strict: false,
        table_row_count: walked.files,
        table_row_count_exact: true,
        // Whatever the operation says: nothing is unlinked.
        captured: true,
        capture_bytes: counted.bytes,
        expected_ms: expected_ms(step.operation, &step.rule.name, counted.files),
        samples: counted.samples.iter().map(sample).collect(),
        findings,
        selection_sql: String::new(),
        operation_max_rows,
    })
}

/// Says what the counts mean.
struct Judge<'a> {
    step: &'a StepRule<'a>,
    files: &'a FileSelection,
}

impl Judge<'_> {
    fn finding(&self, code: &str, level: FindingLevel, detail: String, remediation: &str) -> Finding {
        Finding {
            code: code.to_owned(),
            level,
            table: self.step.rule.table.to_string(),
            detail,
            remediation: remediation.to_owned(),
        }
    }

    fn findings(&self, counted: &Counted, walked: &Walked, values: u64, outside: u64, clock: Timestamp) -> Vec<Finding> {
        let mut findings = Vec::new();
        let name = &self.files.name;
        if self.files.references.is_some() && counted.files > 0 {
            if values == 0 {
                findings.push(self.finding(
                    "EMPTY_REFERENCES",
                    FindingLevel::Block,
                    format!("none of the columns refers to anything, so that every file of root {name} looks orphaned"),
                    "make sure that the columns are the right ones and were not emptied by mistake",
                ));
            } else if counted.referenced == 0 {
                findings.push(self.finding(
                    "NO_REFERENCE_MATCHES",
                    FindingLevel::Block,
                    format!("the columns hold {values} values, and none of them names a file of root {name}"),
                    "compare the values with the names of files; set each column's prefix to what comes before the name",
                ));
            }
        }
        if outside > 0 {
            findings.push(self.finding(
                "REFERENCES_OUTSIDE",
                FindingLevel::Warn,
                format!("{outside} of {values} values do not begin with their column's prefix, or lead out of root {name}"),
                "make sure that they mean no file of this root",
            ));
        }
        let share = crate::share(counted.files, walked.files);
        if share > self.step.rule.max_fraction {
            findings.push(self.finding(
                "OVER_MAX_FRACTION",
                FindingLevel::Block,
                format!(
                    "{} of {} files would go, {:.1} %; the rule allows {:.1} %",
                    counted.files,
                    walked.files,
                    share * 100.0,
                    self.step.rule.max_fraction * 100.0
                ),
                "check the rule; raise its max_fraction where this is meant",
            ));
        }
        if walked.unreadable > 0 {
            findings.push(self.finding(
                "UNREADABLE_FOLDERS",
                FindingLevel::Warn,
                format!(
                    "{} folders could not be read, so that their files stay; one is {}",
                    walked.unreadable,
                    walked.unreadable_example.as_deref().unwrap_or("unknown")
                ),
                "let dbkeep's user read them",
            ));
        }
        if walked.mounts > 0 {
            findings.push(self.finding(
                "OTHER_MOUNTS",
                FindingLevel::Info,
                format!("something is mounted on {} folders, whose files stay", walked.mounts),
                "declare a root of its own where those files are meant",
            ));
        }
        let server = Timestamp::now();
        if clock.duration_since(server).abs() > CLOCK_TOLERANCE {
            findings.push(self.finding(
                "CLOCK_SKEW",
                FindingLevel::Block,
                format!("the target's clock says {clock}, the server's {server}; an age from either cannot be trusted"),
                "set the clocks right and plan again",
            ));
        }
        findings
    }
}
