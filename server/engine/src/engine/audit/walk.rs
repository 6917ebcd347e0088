//! A log from its beginning to its end, a page at a time: for whoever verifies it, and for whoever takes it away.
//!
//! Others append meanwhile: a walk ends where the log ended when it began. The keeper may remove records before they were read; a verification then begins
//! anew, an export ends in an error.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;

use crate::{
    EngineError,
    audit::{Anchor, Digest, Inspection, Problem, ProblemKind, Record, Seal, Verified, export::Trailer},
    port::{AnchorFile, Outline, Store, StoreError, Stored},
};

/// Records that are read at a time: of the longest that are kept, they still fit into a message.
const PAGE: u32 = 500;

/// How far a verification is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// So many records of so many were read and fit.
    Progress {
        /// Those that were read.
        records: u64,
        /// Those that there were at the beginning.
        total: u64,
    },
    /// It is over: what was seen, or the first thing that does not fit.
    Done(Result<Verified, Problem>),
}

/// A verification.
pub struct Check {
    store: Arc<dyn Store>,
    file: Option<Arc<dyn AnchorFile>>,
    /// What the caller kept.
    given: Vec<Anchor>,
    outline: Outline,
    walk: Walk,
    inspection: Result<Inspection, Problem>,
    records: u64,
}

/// Where a walk stands.
#[derive(Debug, Clone, Copy)]
struct Walk {
    next: i64,
    to: i64,
}

impl Walk {
    fn over(outline: &Outline) -> Self {
        // Backwards, hence over nothing, where there is nothing.
        let (next, to) = outline.span.unwrap_or((1, 0));
        Self { next, to }
    }

    fn total(outline: &Outline) -> u64 {
        outline
            .span
            .map_or(0, |(smallest, largest)| largest.abs_diff(smallest).saturating_add(1))
    }

    async fn page(&mut self, store: &dyn Store) -> Result<Vec<Stored>, StoreError> {
        if self.next > self.to {
            return Ok(Vec::new());
        }
        let rows = store.audit_range(self.next, self.to, PAGE).await?;
        self.next = rows.last().map_or(i64::MAX, |row| row.number().saturating_add(1));
        Ok(rows)
    }
}

impl Check {
    pub(super) async fn begin(
        store: Arc<dyn Store>,
        file: Option<Arc<dyn AnchorFile>>,
        given: Vec<Anchor>,
    ) -> Result<Self, StoreError> {
        let (outline, inspection) = outlined(store.as_ref(), file.as_deref(), &given).await?;
        Ok(Self {
            walk: Walk::over(&outline),
            store,
            file,
            given,
            outline,
            inspection,
            records: 0,
        })
    }

    /// The next page.
    ///
    /// # Errors
    /// `Store`. What does not fit is no error, but an answer.
    pub async fn next(&mut self) -> Result<Checked, EngineError> {
        let found = self.page().await?;
        match found {
            Ok(None) => Ok(Checked::Progress {
                records: self.records,
                total: Walk::total(&self.outline),
            }),
            Ok(Some(verified)) => Ok(Checked::Done(Ok(verified))),
            Err(problem) => {
                let again = Self::begin(Arc::clone(&self.store), self.file.clone(), self.given.clone()).await?;
                if again.outline.seals == self.outline.seals {
                    return Ok(Checked::Done(Err(problem)));
                }
                // The keeper has worked since the walk began.
                *self = again;
                Ok(Checked::Progress {
                    records: 0,
                    total: Walk::total(&self.outline),
                })
            }
        }
    }

    async fn page(&mut self) -> Result<Result<Option<Verified>, Problem>, StoreError> {
        let inspection = match &mut self.inspection {
            Ok(inspection) => inspection,
            Err(problem) => return Ok(Err(problem.clone())),
        };
        let rows = self.walk.page(self.store.as_ref()).await?;
        if rows.is_empty() {
            let Some(head) = self.outline.head else {
                return Ok(Err(headless()));
            };
            let nothing = Inspection::begin(Vec::new(), Vec::new());
            let inspected = std::mem::replace(&mut self.inspection, nothing);
            return Ok(inspected.and_then(|inspection| inspection.end(head)).map(Some));
        }
        for row in &rows {
            let fits = match row {
                Stored::Readable(record) => inspection.next(record),
                Stored::Unreadable { problem, .. } => Err(unreadable(inspection.last() + 1, problem)),
            };
            if let Err(problem) = fits {
                return Ok(Err(problem));
            }
            self.records += 1;
        }
        Ok(Ok(None))
    }
}

/// The outline of a log, with its inspection begun.
async fn outlined(
    store: &dyn Store,
    file: Option<&dyn AnchorFile>,
    given: &[Anchor],
) -> Result<(Outline, Result<Inspection, Problem>), StoreError> {
    // Before the outline: an anchor that is added since speaks of records that are not read.
    let kept = match file {
        Some(file) => file.read().await,
        None => Ok(Vec::new()),
    };
    let outline = store.audit_outline().await?;
    let inspection = inspection(&outline, given, kept.map_err(|error| error.to_string()));
    Ok((outline, inspection))
}

fn inspection(outline: &Outline, given: &[Anchor], kept: Result<Vec<Anchor>, String>) -> Result<Inspection, Problem> {
    let kept = kept.map_err(|problem| unreadable(0, &format!("the anchor file: {problem}")))?;
    if let Some(problem) = outline.unreadable.first() {
        return Err(unreadable(0, problem));
    }
    if outline.head.is_none() {
        return Err(headless());
    }
    let mut anchors: Vec<Anchor> = Vec::new();
    let mut seen = BTreeSet::new();
    for anchor in given.iter().chain(&kept).chain(&outline.anchors) {
        // That of an empty log says nothing.
        if anchor.number > 0 && seen.insert((anchor.number, anchor.hash)) {
            anchors.push(*anchor);
        }
    }
    Inspection::begin(outline.seals.clone(), anchors)
}

fn headless() -> Problem {
    Problem {
        number: 0,
        kind: ProblemKind::Missing,
        detail: "the row of the log's head is gone".to_owned(),
    }
}

fn unreadable(number: u64, problem: &str) -> Problem {
    Problem {
        number,
        kind: ProblemKind::Unreadable,
        detail: problem.to_owned(),
    }
}

/// Reads records after `last`, whose hash is given, up to another, and says where they do not follow.
pub(super) async fn follow(
    store: &dyn Store,
    seals: Vec<Seal>,
    anchors: Vec<Anchor>,
    to: u64,
) -> Result<Result<(u64, Digest), Problem>, StoreError> {
    // All seals stand for their records here, which were looked at when they were closed.
    let from = seals.iter().map(|seal| seal.last).max().unwrap_or(0) + 1;
    let seals = seals.into_iter().map(|seal| Seal { pruned: true, ..seal }).collect();
    let mut verifier = match crate::audit::Verifier::begin(seals, anchors) {
        Ok(verifier) => verifier,
        Err(problem) => return Ok(Err(problem)),
    };
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let mut walk = Walk {
        next: signed(from),
        to: signed(to),
    };
    loop {
        let rows = walk.page(store).await?;
        if rows.is_empty() {
            let last = verifier.head().0;
            if last < to {
                let detail = format!("the log ends with record {last}, and there was one of number {to}");
                return Ok(Err(Problem {
                    number: last + 1,
                    kind: ProblemKind::Truncated,
                    detail,
                }));
            }
            return Ok(verifier.end().map(|verified| verified.head));
        }
        for row in &rows {
            let fits = match row {
                Stored::Readable(record) => verifier.next(record),
                Stored::Unreadable { problem, .. } => Err(unreadable(verifier.head().0 + 1, problem)),
            };
            if let Err(problem) = fits {
                return Ok(Err(problem));
            }
        }
    }
}

/// The next piece of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exported {
    /// All seals, in order.
    Seals(Vec<Seal>),
    /// Records, in order.
    Records(Vec<Record>),
    /// The end.
    Trailer(Trailer),
}

/// An export: seals, records and a trailer.
pub struct Export {
    store: Arc<dyn Store>,
    seals: Option<Vec<Seal>>,
    walk: Walk,
    trailer: Option<Trailer>,
}

impl Export {
    pub(super) async fn begin(store: Arc<dyn Store>) -> Result<Self, EngineError> {
        let at = store.pulse().await?.now;
        let outline = store.audit_outline().await?;
        if let Some(problem) = outline.unreadable.first() {
            return Err(broken(0, problem));
        }
        let Some((number, hash)) = outline.head else {
            return Err(broken(0, "the row of the log's head is gone"));
        };
        Ok(Self {
            walk: Walk::over(&outline),
            store,
            trailer: Some(Trailer {
                seals: u64::try_from(outline.seals.len()).unwrap_or(u64::MAX),
                records: 0,
                head: Anchor {
                    number,
                    hash,
                    at: in_microseconds(at),
                },
            }),
            seals: Some(outline.seals),
        })
    }

    /// The next piece; `None` after the trailer.
    ///
    /// # Errors
    /// `AuditLogBroken` where there is what cannot be read, `Store`; where records are gone that were to come, `Store` as well: it can be begun again.
    pub async fn next(&mut self) -> Result<Option<Exported>, EngineError> {
        if let Some(seals) = self.seals.take() {
            return Ok(Some(Exported::Seals(seals)));
        }
        let from = self.walk.next;
        let rows = self.walk.page(self.store.as_ref()).await?;
        if rows.is_empty() {
            return Ok(self.trailer.take().map(Exported::Trailer));
        }
        if self.trailer.as_ref().is_some_and(|trailer| trailer.records == 0)
            && rows.first().is_some_and(|row| row.number() > from)
        {
            return Err(StoreError::Unavailable("records were removed since the export began".to_owned()).into());
        }
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            match row {
                Stored::Readable(record) => records.push(*record),
                Stored::Unreadable { number, problem } => return Err(broken(number, &problem)),
            }
        }
        if let Some(trailer) = &mut self.trailer {
            trailer.records += u64::try_from(records.len()).unwrap_or_default();
        }
        Ok(Some(Exported::Records(records)))
    }
}

fn broken(number: i64, problem: &str) -> EngineError {
    EngineError::AuditLogBroken {
        number,
        problem: problem.to_owned(),
    }
}

/// An instant as exact as the log has it.
pub(super) fn in_microseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}
