//! The task that looks after the log: closes ranges, removes old ones, and anchors the head. Of several servers one looks at a time, by a lease in the
//! store; whatever it does is one transaction that checks by itself, so that a server which wakes up late does no harm.
//!
//! ```text
//! turn -> what is open is verified -> sealed -> the oldest range is verified against its seal -> removed -> anchor: file (fsync), then store and outbox
//! ```
//!
//! What does not fit is neither sealed nor anchored, and never removed: it is the evidence. People are told.

use jiff::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{AuditSettings, Engine, walk};
use crate::{
    EngineError,
    audit::{Anchor, Digest, Problem, ProblemKind, Seal, retention},
    model::notice::{Envelope, Notice, NoticeKind},
    port::{Outline, StoreError},
};

/// Most ranges that one look removes: each is a transaction that others wait for.
const REMOVED_AT_ONCE: usize = 20;

/// What a look did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// Ranges that were closed.
    pub sealed: Vec<Seal>,
    /// Ranges whose records went.
    pub removed: Vec<Seal>,
    /// The head that was anchored.
    pub anchored: Option<Anchor>,
    /// The first thing that does not fit, which ended the look.
    pub problem: Option<Problem>,
}

/// Looks after the log until it is told to stop.
pub struct Keeper {
    engine: Engine,
    /// What the look before ran into: said once, and not with every look.
    trouble: Option<String>,
}

impl Keeper {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine, trouble: None }
    }

    /// Works until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let interval = self.engine.settings().audit.interval;
        while !shutdown.is_cancelled() {
            let trouble = self.engine.keep_audit(None).await.err().map(|error| error.to_string());
            if let Some(error) = &trouble
                && self.trouble != trouble
            {
                tracing::warn!(error, "the audit log could not be looked after");
            }
            self.trouble = trouble;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = sleep(interval) => {}
            }
        }
    }
}

impl Engine {
    /// Looks after the log once, at the store's time, or as if it were another instant. Does nothing where another server has the turn.
    ///
    /// # Errors
    /// `AnchorFile`, `Store`. What does not fit is no error.
    pub async fn keep_audit(&self, now: Option<Timestamp>) -> Result<Looked, EngineError> {
        let settings = &self.context.settings;
        let term = settings.lease_term.max(settings.audit.interval * 3);
        if !self.context.store.claim_audit_turn(&settings.holder, term).await? {
            return Ok(Looked::default());
        }
        let looked = self.look(now).await;
        // For the others: whichever has a file to anchor in has to get its turn.
        self.context.store.end_audit_turn(&settings.holder).await?;
        looked
    }

    async fn look(&self, now: Option<Timestamp>) -> Result<Looked, EngineError> {
        let settings = &self.context.settings;
        let mut looked = Looked::default();
        let now = match now {
            Some(now) => now,
            None => self.store_now().await?,
        };
        let mut outline = self.context.store.audit_outline().await?;
        let kept = self.look_after(&settings.audit, now, &mut outline, &mut looked).await?;
        if let Err(problem) = kept {
            tracing::error!(
                number = problem.number,
                kind = problem.kind.name(),
                detail = problem.detail,
                "the audit log does not fit; dbkeep audit verify tells more"
            );
            self.context.announce(&broken(&problem), None).await?;
            looked.problem = Some(problem);
        }
        Ok(looked)
    }

    async fn look_after(
        &self,
        settings: &AuditSettings,
        now: Timestamp,
        outline: &mut Outline,
        looked: &mut Looked,
    ) -> Result<Result<(), Problem>, EngineError> {
        let (Some(head), None) = (outline.head, outline.unreadable.first()) else {
            return Ok(Err(Problem {
                number: 0,
                kind: ProblemKind::Unreadable,
                detail: outline
                    .unreadable
                    .first()
                    .cloned()
                    .unwrap_or_else(|| "the row of the log's head is gone".to_owned()),
            }));
        };
        let due = Due::of(settings, outline, head, now).await?;
        let mut next = self.next_seal(settings, outline, head, now).await?;
        if due.anywhere() || next.is_some() {
            let newer = outline.seals.last().map_or(0, |seal| seal.last);
            let anchors = outline
                .anchors
                .iter()
                .filter(|anchor| anchor.number > newer)
                .copied()
                .collect();
            let store = self.context.store.as_ref();
            match walk::follow(store, outline.seals.clone(), anchors, head.0).await? {
                Ok(found) if found == head => {}
                Ok(found) => {
                    return Ok(Err(Problem {
                        number: found.0,
                        kind: ProblemKind::Replaced,
                        detail: "its hash is not that of the head".to_owned(),
                    }));
                }
                Err(problem) => return Ok(Err(problem)),
            }
        }
        while let Some(last) = next {
            let Some(seal) = self.context.store.close_segment(last).await? else {
                break;
            };
            tracing::info!(first = seal.first, last = seal.last, "a range of the audit log is sealed");
            outline.seals.push(seal.clone());
            looked.sealed.push(seal);
            next = self.next_seal(settings, outline, head, now).await?;
        }
        if let Err(problem) = self.remove_old(settings, now, outline, looked).await? {
            return Ok(Err(problem));
        }
        if due.anywhere() {
            looked.anchored = Some(self.anchor(settings, due, head, now).await?);
        }
        Ok(Ok(()))
    }

    /// Where the next seal belongs: number of its last record, where there is something to close.
    async fn next_seal(
        &self,
        settings: &AuditSettings,
        outline: &Outline,
        head: (u64, Digest),
        now: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        let sealed = outline.seals.last().map_or(0, |seal| seal.last);
        let first_open = match self.context.store.audit_record(sealed + 1).await {
            Ok(record) => record.map_or(now, |record| record.subject.at),
            // What it is shows where the range is verified.
            Err(StoreError::Corrupt(_)) => now,
            Err(error) => return Err(error),
        };
        let (most, oldest) = (settings.segment_records, settings.segment_age);
        Ok(retention::next_seal(sealed, head.0, first_open, now, most, oldest))
    }

    async fn remove_old(
        &self,
        settings: &AuditSettings,
        now: Timestamp,
        outline: &mut Outline,
        looked: &mut Looked,
    ) -> Result<Result<(), Problem>, StoreError> {
        for _ in 0..REMOVED_AT_ONCE {
            let Some(seal) = retention::next_removal(&outline.seals, now, settings.retention).cloned() else {
                break;
            };
            let before: Vec<Seal> = outline
                .seals
                .iter()
                .filter(|other| other.last < seal.first)
                .cloned()
                .collect();
            // Only what its seal stands for may go.
            match walk::follow(self.context.store.as_ref(), before, Vec::new(), seal.last).await? {
                Ok(found) if found == (seal.last, seal.head) => {}
                Ok(_) => {
                    return Ok(Err(Problem {
                        number: seal.last,
                        kind: ProblemKind::Seal,
                        detail: format!("the seal of {} to {} has another hash", seal.first, seal.last),
                    }));
                }
                Err(problem) => return Ok(Err(problem)),
            }
            if self.context.store.prune_segment(&seal).await?.is_none() {
                break;
            }
            tracing::info!(first = seal.first, last = seal.last, "a range of the audit log is removed");
            for other in outline.seals.iter_mut().filter(|other| other.first == seal.first) {
                other.pruned = true;
            }
            looked.removed.push(seal);
        }
        Ok(Ok(()))
    }

    async fn anchor(
        &self,
        settings: &AuditSettings,
        due: Due,
        head: (u64, Digest),
        now: Timestamp,
    ) -> Result<Anchor, EngineError> {
        let anchor = Anchor {
            number: head.0,
            hash: head.1,
            at: walk::in_microseconds(now),
        };
        if let Some(file) = settings.anchor_file.as_ref().filter(|_| due.in_file) {
            file.keep(&anchor).await.map_err(EngineError::AnchorFile)?;
        }
        if !due.in_store {
            return Ok(anchor);
        }
        let notice = anchored(&anchor);
        let mut envelopes = self.context.settings.notify.routing.envelopes(&notice, None);
        if let Some(channel) = &settings.anchor_channel
            && !envelopes.iter().any(|envelope| envelope.channel == *channel)
        {
            envelopes.push(Envelope {
                notice,
                channel: channel.clone(),
                recipients: Vec::new(),
            });
        }
        self.context.store.put_anchor(&anchor, &envelopes).await?;
        tracing::info!(number = anchor.number, hash = %anchor.hash, "the audit log is anchored");
        Ok(anchor)
    }
}

/// Where the head is to be anchored now.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// In this server's file, by what the file holds.
    in_file: bool,
    /// In the store, and over the channel, by what all servers have anchored.
    in_store: bool,
}

impl Due {
    async fn of(settings: &AuditSettings, outline: &Outline, head: (u64, Digest), now: Timestamp) -> Result<Self, EngineError> {
        if !settings.anchors() || head.0 == 0 {
            return Ok(Self {
                in_file: false,
                in_store: false,
            });
        }
        let due = |newest: Option<&Anchor>| {
            newest.is_none_or(|newest| {
                let age = std::time::Duration::try_from(now.duration_since(newest.at)).unwrap_or_default();
                // A head that is anchored already is no news.
                newest.number != head.0 && age >= settings.anchor_every
            })
        };
        let in_file = match &settings.anchor_file {
            Some(file) => due(file.read().await.map_err(EngineError::AnchorFile)?.last()),
            None => false,
        };
        Ok(Self {
            in_file,
            in_store: due(outline.anchors.last()),
        })
    }

    fn anywhere(self) -> bool {
        self.in_file || self.in_store
    }
}

fn anchored(anchor: &Anchor) -> Notice {
    let mut notice = Notice::new(
        NoticeKind::AuditAnchored,
        format!("audit:anchor:{}:{}", anchor.number, anchor.hash),
        "",
        format!("head of the audit log: record {}", anchor.number),
    );
    notice.line("Record", anchor.number.to_string());
    notice.line("Hash", anchor.hash.to_string());
    notice.line("Anchored", anchor.at.to_string());
    notice.next_step = "Keep it where whoever can write dbkeep's control store cannot.".to_owned();
    notice.command = "dbkeep audit verify".to_owned();
    notice
}

fn broken(problem: &Problem) -> Notice {
    let mut notice = Notice::new(
        NoticeKind::AuditBroken,
        format!("audit:broken:{}:{}", problem.number, problem.kind.name()),
        "",
        format!(
            "the audit log was changed: record {} is {}",
            problem.number,
            problem.kind.name()
        ),
    );
    notice.line("Record", problem.number.to_string());
    notice.line("Problem", problem.kind.name());
    notice.line("Detail", &problem.detail);
    notice.next_step = "Find out who can write the control store, and compare the log with an export and the anchors.".to_owned();
    notice.command = "dbkeep audit verify".to_owned();
    notice
}
