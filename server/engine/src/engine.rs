//! The engine's front: what the gRPC services, and nobody else, call. Every act that takes long is a run, carried out by the
//! [`Supervisor`]; here requests are checked, plans made, runs accepted and looked at.
//!
//! `cleanup` plans and accepts cleanups, `follow_up` undo and verification, `backups`, `migrations` and `upkeep` their own runs; `limits` judges counts,
//! `approve` is the consent to a run, `access` the tokens that open the server, `notifications` what leaves the house, `monitoring` what is measured and told of it, `audit` the audit log, `decide` keeps the record of what was asked and what became of it. Here are the targets, what
//! every kind of run needs to be accepted, and looking at runs.

mod access;
mod approve;
pub mod audit;
pub mod backups;
mod cleanup;
mod decide;
mod discover;
mod files;
mod follow_up;
mod limits;
pub mod migrations;
pub mod monitoring;
mod notifications;
mod operations;
mod privileges;
pub mod schedules;
mod settings;
mod steering;
pub mod upkeep;

use std::{collections::BTreeMap, sync::Arc};

use futures::StreamExt as _;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    EngineError,
    access::Keyring,
    audit::Journal,
    model::{
        Act, Backup, Caller, JournalEntry, Plan, Report, Run, RunId, RunKind, RunOptions, RunState, TargetStatus, Verification,
    },
    planner::{self, PlanError},
    port::{Archive, AuditLog, CreateRun, Created, RunFilter, Store},
    rule::Operation,
    run::{Feeds, Supervisor, WatchItem},
};

/// The engine.
#[derive(Clone)]
pub struct Engine {
    context: Arc<Context>,
}

pub use access::{FIRST_TOKEN, TokenRequest};
pub use audit::AuditSettings;
pub use cleanup::CleanupRequest;
pub use limits::HistoryLimits;
pub use migrations::Migrations;
pub use monitoring::MonitorSettings;
pub use notifications::TestOutcome;
pub use privileges::Rights;
pub(crate) use settings::Context;
pub use settings::{Drift, Settings, TargetEntry};

/// Most operations of one plan.
pub const MAX_OPERATIONS: usize = 32;
/// Longest request id, characters.
pub const MAX_REQUEST_ID: usize = 64;

impl Engine {
    /// Puts an engine together.
    #[must_use]
    pub fn new(
        targets: BTreeMap<String, TargetEntry>,
        store: Arc<dyn Store>,
        archive: Arc<dyn Archive>,
        settings: Settings,
    ) -> Self {
        let feeds = Feeds::new(Arc::clone(&store));
        let keyring = Arc::new(Keyring::new(Arc::clone(&store)));
        let audit = Journal::new(Arc::clone(&store) as Arc<dyn AuditLog>);
        Self {
            context: Arc::new(Context {
                targets,
                store,
                archive,
                feeds,
                keyring,
                audit,
                settings,
                wake: Notify::new(),
                schedules: Notify::new(),
                renew: Arc::new(Notify::new()),
                revision: tokio::sync::watch::Sender::new(0),
                observed: Notify::new(),
            }),
        }
    }

    /// The task that works on runs.
    #[must_use]
    pub fn supervisor(&self) -> Supervisor {
        Supervisor::new(Arc::clone(&self.context))
    }

    /// What the operator has set.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.context.settings
    }

    // Targets and catalogs.

    /// All targets by name.
    #[must_use]
    pub fn targets(&self) -> &BTreeMap<String, TargetEntry> {
        &self.context.targets
    }

    /// The target of that name, or the only one where the name is empty.
    ///
    /// # Errors
    /// `UnknownTarget`, `InvalidField`.
    pub fn target(&self, name: &str) -> Result<(&str, &TargetEntry), EngineError> {
        let targets = &self.context.targets;
        let found = if name.is_empty() && targets.len() == 1 {
            targets.iter().next()
        } else {
            targets.get_key_value(name)
        };
        match found {
            Some((name, entry)) => Ok((name, entry)),
            None if name.is_empty() && !targets.is_empty() => {
                let known = targets.keys().cloned().collect::<Vec<_>>().join(", ");
                Err(EngineError::InvalidField {
                    field: "target",
                    problem: format!("is empty; expected one of {known}"),
                })
            }
            None => Err(EngineError::UnknownTarget {
                name: name.to_owned(),
                known: targets.keys().cloned().collect(),
            }),
        }
    }

    /// Connects to a target; also names the runs that hold tables of it.
    ///
    /// # Errors
    /// `UnknownTarget`, `Target`, `Store`.
    pub async fn target_status(&self, name: &str) -> Result<(TargetStatus, Vec<RunId>), EngineError> {
        let (name, entry) = self.target(name)?;
        let status = entry.target.status().await.map_err(EngineError::target(name))?;
        let living = RunState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        let filter = RunFilter {
            target: Some(name.to_owned()),
            states: living,
            ..RunFilter::default()
        };
        let active = self.context.store.runs(&filter, None, 100).await?;
        Ok((status, active.into_iter().map(|run| run.id).collect()))
    }

    /// An operation of a target's catalog.
    ///
    /// # Errors
    /// `UnknownTarget`, `UnknownOperation`.
    pub fn operation(&self, target: &str, name: &str) -> Result<&Operation, EngineError> {
        let (target, entry) = self.target(target)?;
        entry.catalog.get(name).ok_or_else(|| EngineError::UnknownOperation {
            target: target.to_owned(),
            name: name.to_owned(),
            known: entry
                .catalog
                .operations()
                .iter()
                .map(|operation| operation.name.clone())
                .collect(),
        })
    }

    /// Checks every catalog against its target's schema; targets that cannot be reached are passed over with a warning.
    ///
    /// # Errors
    /// `CatalogMismatch` with file, line and what was expected.
    pub async fn check_catalogs(&self) -> Result<(), EngineError> {
        for (name, entry) in &self.context.targets {
            // Both at once: whoever is out of reach is waited for only once. What a role lacks is told before a catalog is refused, since
            // a table that it may not see looks like one that is not there.
            let features = entry.features(self.context.settings.monitor.enabled);
            let (access, checked) = futures::join!(
                entry.access(None, &features),
                planner::check(entry.target.as_ref(), &entry.roots, entry.catalog.operations())
            );
            privileges::tell(name, &features, access);
            match checked {
                Ok(()) => {}
                Err(PlanError::Target(error)) => {
                    tracing::warn!(target = name, %error, "catalog not checked against the target's schema")
                }
                Err(PlanError::Files(error)) => {
                    tracing::warn!(target = name, %error, "catalog not checked against the target's roots")
                }
                Err(mismatch) => return Err(plan_error(name)(mismatch)),
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "each of them differs between the three kinds of run")]
    fn new_run(
        &self,
        kind: RunKind,
        target: &str,
        operations: Vec<String>,
        plan: &Plan,
        source: Option<RunId>,
        options: RunOptions,
        report: Report,
    ) -> Run {
        Run {
            id: RunId::new(),
            kind,
            target: target.to_owned(),
            state: RunState::Queued,
            state_reason: String::new(),
            operations,
            plan: plan.id,
            source,
            undone_by: None,
            options,
            limits: options.limits(),
            waiting: None,
            attempts: 0,
            report,
            last_sequence: 0,
            cancel_reason: None,
            pause_reason: None,
            created_at: Timestamp::now(),
            started_at: None,
            ended_at: None,
            verification: Verification::Unverified,
            started_by: String::new(),
            approvals: Vec::new(),
            approvals_required: 0,
            approve_until: None,
            pruned: None,
        }
    }

    /// The run that the same request started before.
    async fn repeated(&self, request_id: &str, digest: &str) -> Result<Option<Run>, EngineError> {
        match self.context.store.run_of_request(request_id).await? {
            Some((run, stored)) if stored == digest => self.context.store.run(run).await.map_err(EngineError::from),
            Some((run, _)) => Err(EngineError::RequestIdReused {
                request_id: request_id.to_owned(),
                run,
            }),
            None => Ok(None),
        }
    }

    async fn accept(&self, request: CreateRun) -> Result<Run, EngineError> {
        let target = request.run.target.clone();
        match self.context.store.create_run(&request).await? {
            Created::Accepted(run) => {
                tracing::info!(run = %run.id, kind = ?run.kind, target, "run accepted");
                self.context.wake.notify_one();
                Ok(run)
            }
            Created::Repeated(run) => Ok(run),
            Created::RequestIdReused(run) => Err(EngineError::RequestIdReused {
                request_id: request.request_id,
                run,
            }),
            Created::PlanUsed(run) => Err(EngineError::PlanUsed {
                plan: request.run.plan,
                run,
            }),
            Created::Held {
                run,
                table,
                state,
                operations,
                since,
            } => Err(EngineError::RunAlreadyActive {
                run,
                state,
                operations,
                since,
                target,
                table,
            }),
            Created::SlotLost => Err(EngineError::SlotLost),
            Created::SourcePruned { source, at } => Err(EngineError::BackupPruned { backup: source, at }),
        }
    }

    /// A run by its id.
    ///
    /// # Errors
    /// `UnknownRun`, `Store`.
    pub async fn run(&self, id: &str) -> Result<Run, EngineError> {
        let unknown = || EngineError::UnknownRun { id: id.to_owned() };
        let run = id.parse().map_err(|_| unknown())?;
        self.context.store.run(run).await?.ok_or_else(unknown)
    }

    /// Runs, newest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn runs(&self, filter: &RunFilter, before: Option<RunId>, limit: u32) -> Result<Vec<Run>, EngineError> {
        Ok(self.context.store.runs(filter, before, limit).await?)
    }

    /// Asks a run to stop at its next batch boundary. Asking again is no error.
    ///
    /// # Errors
    /// `UnknownRun`, `WrongState` where it has ended otherwise, `Store`.
    pub async fn cancel(&self, id: &str, reason: &str, caller: &Caller) -> Result<Run, EngineError> {
        let asked = self.request_cancel(id, reason, caller).await;
        self.noted_about(Act::Cancel, id, caller, asked).await
    }

    async fn request_cancel(&self, id: &str, reason: &str, caller: &Caller) -> Result<Run, EngineError> {
        let known = self.run(id).await?;
        if !known.state.is_final() {
            // Before the request itself: without a record there is no act.
            self.context
                .store
                .record(&decide::allow_cancel(caller, &known, reason))
                .await?;
        }
        let reason = if reason.is_empty() { "cancelled on request" } else { reason };
        let run = self
            .context
            .store
            .request_cancel(known.id, reason)
            .await?
            .ok_or_else(|| EngineError::UnknownRun { id: id.to_owned() })?;
        if run.state.is_final() && run.state != RunState::Cancelled {
            return Err(EngineError::WrongState {
                run: run.id,
                state: run.state,
                expected: "a run that has not ended",
            });
        }
        self.context.renew.notify_waiters();
        // An interrupted run ends in its next attempt: the sooner that begins the better.
        self.context.wake.notify_one();
        self.context.feeds.announce(run.id, run.last_sequence);
        Ok(run)
    }

    /// Follows a run's events after a sequence until it ends or the token is cancelled.
    ///
    /// # Errors
    /// `UnknownRun`, `SequenceAhead`, `Store`.
    pub async fn watch(
        &self,
        id: &str,
        after: u64,
        shutdown: CancellationToken,
    ) -> Result<impl futures::Stream<Item = Result<WatchItem, EngineError>> + Send + use<>, EngineError> {
        let run = self.run(id).await?;
        if after > run.last_sequence {
            return Err(EngineError::SequenceAhead {
                run: run.id,
                last: run.last_sequence,
            });
        }
        // A log that is over brings no further event, hence none that would end the stream.
        let over = run.state.is_final() && after == run.last_sequence;
        Ok(self
            .context
            .feeds
            .watch(run.id, after, run.state.is_final(), shutdown)
            .take(if over { 0 } else { usize::MAX }))
    }

    // Backups.

    /// Backups, newest first.
    ///
    /// # Errors
    /// `Store`.
    pub async fn backups(&self, target: Option<&str>, before: Option<RunId>, limit: u32) -> Result<Vec<Backup>, EngineError> {
        let filter = RunFilter {
            target: target.map(str::to_owned),
            kinds: RunKind::SAVING.to_vec(),
            captured: true,
            ..RunFilter::default()
        };
        Ok(self
            .context
            .store
            .runs(&filter, before, limit)
            .await?
            .iter()
            .map(backup_of)
            .collect())
    }

    async fn backup_run(&self, id: &str) -> Result<Run, EngineError> {
        let unknown = || EngineError::UnknownBackup { id: id.to_owned() };
        let run = self.run(id).await.map_err(|error| {
            if matches!(error, EngineError::UnknownRun { .. }) {
                unknown()
            } else {
                error
            }
        })?;
        let captured = run.report.total(|step| step.rows_captured) > 0;
        if run.whole_backup().is_some() || run.kind == RunKind::Cleanup && captured {
            Ok(run)
        } else {
            Err(unknown())
        }
    }

    /// A backup with at most `limit` of its chunks, from the target's journal.
    ///
    /// # Errors
    /// `UnknownBackup`, `Target`, `Store`.
    pub async fn backup(&self, id: &str, limit: u32) -> Result<(Backup, Vec<JournalEntry>), EngineError> {
        let run = self.backup_run(id).await?;
        if run.whole_backup().is_some() || run.pruned.is_some() {
            return Ok((backup_of(&run), Vec::new()));
        }
        let (name, entry) = self.target(&run.target)?;
        let chunks = entry
            .target
            .journal(run.id, (0, 0), limit)
            .await
            .map_err(EngineError::target(name))?;
        Ok((backup_of(&run), chunks))
    }
}

/// The backup that a run made.
fn backup_of(run: &Run) -> Backup {
    let chunks = run
        .report
        .steps
        .iter()
        .filter(|step| step.rows_captured > 0)
        .map(|step| step.batches)
        .sum();
    Backup {
        run: run.id,
        target: run.target.clone(),
        operations: run.operations.clone(),
        rows: run.report.total(|step| step.rows_captured),
        bytes: run.report.total(|step| step.captured_bytes),
        chunks,
        verification: run.verification,
        created_at: run.created_at,
        content: backups::content_of(run),
        pruned: run.pruned,
    }
}

fn request_id(text: &str) -> Result<String, EngineError> {
    let length = text.chars().count();
    if length > MAX_REQUEST_ID || text.chars().any(char::is_control) {
        return Err(EngineError::InvalidField {
            field: "request_id",
            problem: format!("has {length} characters; expected 1 to {MAX_REQUEST_ID} printable ones"),
        });
    }
    Ok(if text.is_empty() {
        uuid::Uuid::now_v7().to_string()
    } else {
        text.to_owned()
    })
}

/// Tells requests apart; parts are framed by their lengths.
fn digest_of(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hex::encode(hasher.finalize())
}

fn plan_error(target: &str) -> impl Fn(PlanError) -> EngineError + '_ {
    move |error| match error {
        PlanError::Target(source) => EngineError::Target {
            target: target.to_owned(),
            source,
        },
        PlanError::Files(source) => EngineError::Files {
            target: target.to_owned(),
            source,
        },
        PlanError::Mismatch {
            origin,
            operation,
            rule,
            expected,
        } => EngineError::CatalogMismatch {
            origin,
            operation,
            rule,
            expected,
        },
    }
}
