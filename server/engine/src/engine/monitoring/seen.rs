//! What there is to judge about a target, read from the store and from its migrations.

use std::time::Duration;

use jiff::Timestamp;

use super::{Engine, conditions};
use crate::{
    EngineError,
    model::{Run, RunKind, RunState, SlotRecord, Verification, monitor::Snapshot},
    port::{RunFilter, SlotFilter},
};

/// Most runs of the last day that are looked at.
const RECENT: u32 = 500;
/// Most backups that are looked at for a proof.
const BACKUPS: u32 = 200;
/// Most schedules of a target.
const SCHEDULES: u32 = 200;

/// What there is to judge about a target.
pub(super) struct Seen {
    /// What was measured, or why not.
    pub(super) snapshot: Result<Snapshot, String>,
    /// The newest run of each operation that a server worked on; it may not have ended.
    pub(super) newest: Vec<(String, Run)>,
    /// Newest cleanups that ended.
    pub(super) recent: Vec<Run>,
    /// The newest slot of each schedule, with the schedule's name.
    pub(super) slots: Vec<(String, SlotRecord)>,
    /// The newest run of each other kind of work that ended, where failing means that something is to be done.
    pub(super) others: Vec<Run>,
    /// The newest backup that ended.
    pub(super) backup: Option<Run>,
    /// The newest verification that ended.
    pub(super) verification: Option<Run>,
    /// `None` where there is no backup.
    pub(super) proof: Option<Proof>,
    /// Names of migrations whose files changed; `None` where that was not looked at.
    pub(super) changed_migrations: Option<Vec<String>>,
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
    ) -> Result<Seen, EngineError> {
        let changed_migrations = if look_at_migrations && snapshot.is_ok() {
            self.changed_migrations(target).await
        } else {
            None
        };
        let recent = self.cleanups(target, None, true, RECENT).await?;
        Ok(Seen {
            newest: self.newest_runs(target).await?,
            recent,
            slots: self.newest_slots(target).await?,
            others: self.newest_others(target).await?,
            backup: self.newest_of(target, &[RunKind::Backup]).await?,
            verification: self.newest_of(target, &[RunKind::Verify]).await?,
            proof: self.proof(target).await?,
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

    async fn newest_runs(&self, target: &str) -> Result<Vec<(String, Run)>, EngineError> {
        let Some(entry) = self.targets().get(target) else {
            return Ok(Vec::new());
        };
        let mut newest = Vec::new();
        for operation in entry.catalog.operations() {
            let found = self.cleanups(target, Some(&operation.name), false, 1).await?;
            newest.extend(found.into_iter().map(|run| (operation.name.clone(), run)));
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

    /// When a backup was proven last: by a verification, or by a restore that succeeded.
    pub(super) async fn proof(&self, target: &str) -> Result<Option<Proof>, EngineError> {
        let backups = self.backups(Some(target), None, BACKUPS).await?;
        let kept: Vec<_> = backups.iter().filter(|backup| backup.pruned.is_none()).collect();
        let Some(oldest) = kept.iter().map(|backup| backup.created_at).min() else {
            return Ok(None);
        };
        let verified = kept.iter().filter_map(|backup| match backup.verification {
            Verification::Verified(at) => Some(at),
            Verification::Unverified | Verification::Damaged(_) => None,
        });
        let restore = self.newest_of(target, &[RunKind::Restore]).await?;
        let restored = restore
            .filter(|run| run.state == RunState::Succeeded)
            .and_then(|run| run.ended_at);
        Ok(Some(Proof {
            proven: verified.chain(restored).max(),
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
        let seen = self.seen(target, snapshot, look_at_migrations).await?;
        Ok(conditions::of_target(&seen, now))
    }
}
