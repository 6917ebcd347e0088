//! What there is to judge about a target, read from the store and from its migrations.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    Engine,
    conditions::{self, Proving},
};
use crate::{
    EngineError,
    model::{MaintenanceTask, Run, RunKind, RunState, SlotRecord, monitor::Snapshot},
    port::{BackupStanding, RunFilter, SlotFilter},
};

/// Most runs that are looked at for a rate of errors.
const RECENT: u32 = 500;
/// From when on those runs count.
const RECENTLY: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Newest runs of a task that proves backups, of which the first that came to something counts.
const PROVING: u32 = 5;
/// Most schedules of a target.
const SCHEDULES: u32 = 200;

/// What there is to judge about a target.
pub(super) struct Seen {
    /// Its name.
    pub(super) target: String,
    /// What was measured, or why not.
    pub(super) snapshot: Result<Snapshot, String>,
    /// The newest runs of each operation that a server worked on.
    pub(super) newest: Vec<Newest>,
    /// Cleanups that ended within the last seven days, newest first.
    pub(super) recent: Vec<Run>,
    /// The newest slot of each schedule, with the schedule's name.
    pub(super) slots: Vec<(String, SlotRecord)>,
    /// The newest run of each other kind of work that ended, where failing means that something is to be done.
    pub(super) others: Vec<Run>,
    /// The newest backup that ended.
    pub(super) backup: Option<Run>,
    /// The newest runs that proved backups: of verifications, also by maintenance, and of restore drills; with the task, where it is
    /// maintenance.
    pub(super) proving: Vec<(Run, Option<&'static str>)>,
    /// How the backups stand that are kept.
    pub(super) backups: BackupStanding,
    /// `None` where there is no backup.
    pub(super) proof: Option<Proof>,
    /// Names of migrations whose files changed; `None` where that was not looked at.
    pub(super) changed_migrations: Option<Vec<String>>,
}

/// An operation's newest runs that a server worked on.
#[derive(Debug, Clone)]
pub(super) struct Newest {
    /// The operation.
    pub(super) operation: String,
    /// The newest one, where it has not ended.
    pub(super) working: Option<Run>,
    /// The newest that has ended.
    pub(super) ended: Option<Run>,
}

/// How well backups are proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof {
    /// When one was proven last.
    pub(super) proven: Option<Timestamp>,
    /// When the oldest was made.
    pub(super) oldest: Timestamp,
}

impl Proof {
    /// Days since the proof, or since the oldest backup where there is none.
    pub(super) fn age_days(&self, now: Timestamp) -> f64 {
        let since = self.proven.unwrap_or(self.oldest).min(now);
        now.duration_since(since).as_secs_f64() / 86_400.0
    }
}

impl Engine {
    pub(super) async fn seen(
        &self,
        target: &str,
        snapshot: Result<Snapshot, String>,
        look_at_migrations: bool,
        now: Timestamp,
    ) -> Result<Seen, EngineError> {
        let changed_migrations = if look_at_migrations && snapshot.is_ok() {
            self.changed_migrations(target).await
        } else {
            None
        };
        let mut recent = self.cleanups(target, None, true, RECENT).await?;
        recent.retain(|run| run.ended_at.is_some_and(|at| at >= now - RECENTLY));
        let backups = self.context.store.backup_standing(target).await?;
        Ok(Seen {
            target: target.to_owned(),
            newest: self.newest_runs(target).await?,
            recent,
            slots: self.newest_slots(target).await?,
            others: self.newest_others(target).await?,
            backup: self.newest_of(target, &[RunKind::Backup]).await?,
            proving: self.newest_proving(target).await?,
            proof: self.proof_of(target, &backups).await?,
            backups,
            changed_migrations,
            snapshot,
        })
    }

    /// Cleanups that a server worked on, newest first; dry runs are not among them.
    pub(super) async fn cleanups(
        &self,
        target: &str,
        operation: Option<&str>,
        ended: bool,
        limit: u32,
    ) -> Result<Vec<Run>, EngineError> {
        let filter = RunFilter {
            target: Some(target.to_owned()),
            kinds: vec![RunKind::Cleanup],
            operation: operation.map(str::to_owned),
            states: if ended { final_states() } else { Vec::new() },
            attempted: true,
            ..RunFilter::default()
        };
        Ok(self.context.store.runs(&filter, None, limit).await?)
    }

    async fn newest_runs(&self, target: &str) -> Result<Vec<Newest>, EngineError> {
        let Some(entry) = self.targets().get(target) else {
            return Ok(Vec::new());
        };
        let mut newest = Vec::new();
        for operation in entry.catalog.operations() {
            let name = Some(operation.name.as_str());
            let Some(first) = self.cleanups(target, name, false, 1).await?.into_iter().next() else {
                continue;
            };
            let (working, ended) = if first.state.is_final() {
                (None, Some(first))
            } else {
                (Some(first), self.cleanups(target, name, true, 1).await?.into_iter().next())
            };
            newest.push(Newest {
                operation: operation.name.clone(),
                working,
                ended,
            });
        }
        Ok(newest)
    }

    async fn newest_slots(&self, target: &str) -> Result<Vec<(String, SlotRecord)>, EngineError> {
        let mut slots = Vec::new();
        for schedule in self.context.store.schedules(Some(target), None, SCHEDULES).await? {
            let filter = SlotFilter {
                schedule: Some(schedule.id),
                ..SlotFilter::default()
            };
            let found = self.context.store.slots(&filter, None, 1).await?;
            slots.extend(found.into_iter().map(|slot| (schedule.spec.name.clone(), slot)));
        }
        Ok(slots)
    }

    /// A rehearsal is not among them: finding out that something does not work is its purpose.
    async fn newest_others(&self, target: &str) -> Result<Vec<Run>, EngineError> {
        let kinds = [
            RunKind::Maintain,
            RunKind::Migrate,
            RunKind::Rollback,
            RunKind::Undo,
            RunKind::Restore,
        ];
        let mut newest = Vec::new();
        for kind in kinds {
            newest.extend(self.newest_of(target, &[kind]).await?);
        }
        Ok(newest)
    }

    async fn newest_of(&self, target: &str, kinds: &[RunKind]) -> Result<Option<Run>, EngineError> {
        let filter = RunFilter {
            target: Some(target.to_owned()),
            kinds: kinds.to_vec(),
            states: final_states(),
            attempted: true,
            ..RunFilter::default()
        };
        Ok(self.context.store.runs(&filter, None, 1).await?.into_iter().next())
    }

    /// The newest run of each way to prove backups that came to something: what was stopped before says nothing.
    async fn newest_proving(&self, target: &str) -> Result<Vec<(Run, Option<&'static str>)>, EngineError> {
        let mut of_task = Vec::new();
        for task in [MaintenanceTask::VerifyBackups, MaintenanceTask::RestoreDrill] {
            let filter = RunFilter {
                target: Some(target.to_owned()),
                kinds: vec![RunKind::Maintain],
                operation: Some(task.name().to_owned()),
                states: final_states(),
                attempted: true,
                ..RunFilter::default()
            };
            let runs = self.context.store.runs(&filter, None, PROVING).await?;
            let name = Some(task.name());
            of_task.push(
                runs.into_iter()
                    .find(|run| conditions::proving(run, name) != Proving::Nothing)
                    .map(|run| (run, name)),
            );
        }
        let drilled = of_task.pop().flatten();
        let verified = self
            .newest_of(target, &[RunKind::Verify])
            .await?
            .map(|run| (run, None))
            .filter(|(run, task)| conditions::proving(run, *task) != Proving::Nothing);
        // Whether one was asked for by a person or by a schedule is the same verification.
        let verified = of_task.into_iter().flatten().chain(verified).max_by_key(|(run, _)| run.id);
        Ok(verified.into_iter().chain(drilled).collect())
    }

    /// When a backup was proven last, of those that are kept.
    pub(super) async fn proof(&self, target: &str) -> Result<Option<Proof>, EngineError> {
        let standing = self.context.store.backup_standing(target).await?;
        self.proof_of(target, &standing).await
    }

    /// By a verification, or by a restore that succeeded.
    async fn proof_of(&self, target: &str, standing: &BackupStanding) -> Result<Option<Proof>, EngineError> {
        let Some(oldest) = standing.oldest else {
            return Ok(None);
        };
        let filter = RunFilter {
            target: Some(target.to_owned()),
            kinds: vec![RunKind::Restore],
            states: vec![RunState::Succeeded],
            attempted: true,
            ..RunFilter::default()
        };
        let restored = self.context.store.runs(&filter, None, 1).await?;
        let restored = restored.first().and_then(|run| run.ended_at);
        Ok(Some(Proof {
            proven: standing.proven.into_iter().chain(restored).max(),
            oldest,
        }))
    }

    /// Migrations whose files are not what was applied; `None` where that cannot be told now, which is no change.
    async fn changed_migrations(&self, target: &str) -> Option<Vec<String>> {
        self.targets().get(target)?.migrations.as_ref()?;
        let limit: Duration = self.context.settings.monitor.snapshot_limit;
        match tokio::time::timeout(limit, self.migration_status(target)).await {
            Ok(Ok(status)) => Some(
                status
                    .standings
                    .items
                    .iter()
                    .filter(|item| item.change.is_some())
                    .map(|item| item.id.0.clone())
                    .collect(),
            ),
            Ok(Err(error)) => {
                tracing::debug!(target, %error, "migrations could not be looked at");
                None
            }
            Err(_) => None,
        }
    }
}

fn final_states() -> Vec<RunState> {
    RunState::ALL.into_iter().filter(|state| state.is_final()).collect()
}

impl Engine {
    /// Conditions of a target, from what was measured and from the store.
    pub(super) async fn conditions_of(
        &self,
        target: &str,
        snapshot: Result<Snapshot, String>,
        look_at_migrations: bool,
        now: Timestamp,
    ) -> Result<conditions::Conditions, EngineError> {
        let seen = self.seen(target, snapshot, look_at_migrations, now).await?;
        Ok(conditions::of_target(&seen, now))
    }
}
