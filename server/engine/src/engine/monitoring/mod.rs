//! Monitoring as callers see it: snapshots, history, findings, advice, alerts and the state of the service. `collector` is the task that measures,
//! `seen` gathers what it has to judge, `conditions` judges, `notices` says what people are told. What follows from a measurement is
//! [`crate::monitor`], a pure function each time.

mod advice;
mod collector;
mod conditions;
mod notices;
mod seen;
mod settings;

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::watch;

pub use collector::Collector;
pub use settings::{MonitorSettings, RulesOf};

use super::{Engine, schedules::SchedulerView};
use crate::{
    EngineError,
    access::Scope,
    model::{
        Act, Caller, Decision, EngineKind, Run, RunState,
        monitor::{Alert, AlertState, Depth, Finding, Gap, Metric, Sample, Snapshot},
    },
    monitor::{
        carry_over,
        findings::findings,
        history::{Growth, growth},
    },
    port::{AlertFilter, Collection, DiskNumbers, EndedRuns, HistoryQuery, HistoryUsage, Point, RunFilter, Step},
};

/// Longest note of an acknowledgement, characters.
pub const MAX_NOTE: usize = 500;
/// Most points of a history.
pub const MAX_POINTS: u32 = 10_000;
/// Over which time growth is computed.
const GROWTH_OVER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Longest time that an exact look may take.
const EXACT_LIMIT: Duration = Duration::from_secs(60);
/// Most runs that are named as being at work.
const MOST_RUNS: u32 = 100;
/// Most alerts that are looked at together.
pub(super) const MOST_ALERTS: u32 = 10_000;

/// How a snapshot is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The newest one that was collected; a new one where there is none.
    Newest,
    /// A new one, which is not kept.
    Fresh,
    /// A new one that reads pages as well, which is not kept.
    Exact,
}

/// A snapshot, and what is known beside it.
#[derive(Debug, Clone)]
pub struct TargetMetrics {
    /// The target.
    pub target: String,
    /// When it was kept, by the store's clock; `None` for a fresh one.
    pub collected_at: Option<Timestamp>,
    /// Whether the newest collection reached the target; `None` where there was none.
    pub up: Option<bool>,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// How the database grows, over the last week.
    pub growth: Option<Growth>,
    /// The disk of its files, where this server sees it.
    pub disk: Option<DiskNumbers>,
}

/// A stretch of history.
#[derive(Debug, Clone)]
pub struct History {
    /// How fine it is.
    pub step: Step,
    /// Its points, by object and time.
    pub points: Vec<Point>,
    /// Whether there are more than were asked for.
    pub more: bool,
}

/// What history is asked for.
#[derive(Debug, Clone)]
pub struct HistoryRequest {
    /// Target; empty for servers.
    pub target: String,
    /// The metric.
    pub metric: Metric,
    /// Only of this object.
    pub object: Option<String>,
    /// From then on.
    pub from: Timestamp,
    /// Before then; `None` for now.
    pub to: Option<Timestamp>,
    /// How fine; `None` for the finest that fits.
    pub step: Option<Step>,
    /// Most points.
    pub limit: u32,
}

/// A target at a glance.
#[derive(Debug, Clone)]
pub struct TargetHealth {
    /// Its name.
    pub target: String,
    /// Product.
    pub engine: EngineKind,
    /// Whether the newest collection reached it, and when that was written; `None` where there was none.
    pub collected: Option<Collection>,
    /// Size, bytes, where the newest samples have it.
    pub size_bytes: Option<u64>,
    /// Alerts that are raised.
    pub alerts: u64,
    /// Its migrations; `None` where it has none.
    pub migrations: Option<MigrationCounts>,
}

/// Migrations at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationCounts {
    /// In effect.
    pub applied: u64,
    /// Not in effect.
    pub pending: u64,
    /// Whose file is not what was applied.
    pub changed: u64,
    /// Why they could not be looked at; empty where they could.
    pub problem: String,
}

/// The service at a glance.
#[derive(Debug, Clone)]
pub struct ServiceStatus {
    /// The scheduler, and the servers.
    pub scheduler: SchedulerView,
    /// The targets.
    pub targets: Vec<TargetHealth>,
    /// Runs that have not ended, newest first.
    pub runs: Vec<Run>,
    /// Alerts that are raised, newest first.
    pub alerts: Vec<Alert>,
    /// How full history is; `None` for whoever sees some targets: it tells how much there is of the others.
    pub history: Option<HistoryUsage>,
    /// Whether this server collects.
    pub collecting: bool,
    /// Folders whose disks servers could not look at when they did last: nobody knows how full those are.
    pub gaps: Vec<Gap>,
}

impl ServiceStatus {
    /// Leaves what a caller for these targets sees.
    fn keep_seen(&mut self, scope: &Scope) {
        if !scope.is_all() {
            self.targets.retain(|health| scope.covers(&health.target));
            self.runs.retain(|run| scope.covers(&run.target));
            self.alerts.retain(|alert| scope.covers(&alert.target));
            self.history = None;
            self.gaps.clear();
        }
    }
}

impl Engine {
    /// The task that measures targets and judges what it finds.
    #[must_use]
    pub fn collector(&self) -> Collector {
        Collector::new(self.clone())
    }

    /// Looks at a target now.
    async fn observe(&self, target: &str, depth: Depth) -> Result<Snapshot, EngineError> {
        let (name, entry) = self.target(target)?;
        let limit = match depth {
            Depth::Quick => self.context.settings.monitor.snapshot_limit,
            Depth::Exact => EXACT_LIMIT,
        };
        let observer = entry.target.observer();
        let snapshot = observer.observe(depth, limit).await.map_err(EngineError::target(name))?;
        self.watch_disk(&snapshot);
        Ok(snapshot)
    }

    /// Has the disk of a target looked at that this server has just found to be on its own machine.
    fn watch_disk(&self, snapshot: &Snapshot) {
        if let (Some(machine), Some(folder)) = (&self.context.settings.monitor.machine, &snapshot.database.data_folder) {
            machine.watch(folder);
        }
    }

    /// A target's snapshot, with its growth.
    ///
    /// # Errors
    /// `UnknownTarget`, `Target` where a new one is needed and the target cannot be reached, `Store`.
    pub async fn target_metrics(&self, target: &str, look: Look) -> Result<TargetMetrics, EngineError> {
        let (name, _) = self.target(target)?;
        let store = &self.context.store;
        let kept = store.newest_snapshot(name).await?;
        let depth = if look == Look::Exact { Depth::Exact } else { Depth::Quick };
        let (collected_at, snapshot) = match kept {
            Some((at, snapshot)) if look == Look::Newest => (Some(at), snapshot),
            kept => {
                let mut snapshot = self.observe(name, depth).await?;
                carry_over(kept.as_ref().map(|(_, kept)| kept), &mut snapshot);
                (None, snapshot)
            }
        };
        let collected = store.collections(0).await?;
        let up = collected.iter().find(|collection| collection.target == name);
        let disk = self.disk(name, &snapshot).await;
        Ok(TargetMetrics {
            target: name.to_owned(),
            collected_at,
            up: up.map(|collection| collection.up),
            growth: self.growth(name, disk.as_ref()).await?,
            disk,
            snapshot,
        })
    }

    /// The newest snapshot of a target that was kept, with the time of the store's clock.
    ///
    /// # Errors
    /// `Store`.
    pub async fn kept_snapshot(&self, target: &str) -> Result<Option<(Timestamp, Snapshot)>, EngineError> {
        Ok(self.context.store.newest_snapshot(target).await?)
    }

    /// The disk of a target, where this server has found it on its own machine: a kept snapshot may be another's.
    async fn disk(&self, target: &str, snapshot: &Snapshot) -> Option<DiskNumbers> {
        let settings = &self.context.settings.monitor;
        let folder = settings.folders.get(target).or(snapshot.database.data_folder.as_ref())?;
        let disks = settings.machine.as_ref()?.disks().await;
        disks.into_iter().find(|disk| disk.folder == *folder)
    }

    /// How a database grows. When its disk is full is only known where this server sees the disk.
    async fn growth(&self, target: &str, disk: Option<&DiskNumbers>) -> Result<Option<Growth>, EngineError> {
        let now = self.context.store.pulse().await?.now;
        let query = HistoryQuery {
            target: target.to_owned(),
            metric: Metric::DATABASE_SIZE,
            object: Some(String::new()),
            from: now - GROWTH_OVER,
            to: now + Duration::from_secs(1),
            step: Step::FiveMinutes,
            limit: MAX_POINTS,
        };
        let points = self.context.store.history(&query).await?;
        let sizes: Vec<(Timestamp, f64)> = points.iter().map(|point| (point.at, point.last)).collect();
        Ok(growth(&sizes, disk.map(|disk| disk.free_bytes)))
    }

    /// History of a metric.
    ///
    /// # Errors
    /// `UnknownTarget`, `InvalidField`, `Store`.
    pub async fn metric_history(&self, request: &HistoryRequest) -> Result<History, EngineError> {
        let target = if request.metric.is_of_server() {
            String::new()
        } else {
            self.target(&request.target)?.0.to_owned()
        };
        let now = self.context.store.pulse().await?.now;
        let to = request.to.unwrap_or(now + Duration::from_secs(1));
        if request.from >= to {
            return Err(EngineError::InvalidField {
                field: "from",
                problem: format!("is {}; expected a time before {to}", request.from),
            });
        }
        let limit = request.limit.clamp(1, MAX_POINTS);
        let interval = self.context.settings.monitor.interval;
        let step = request
            .step
            .unwrap_or_else(|| Step::fitting(request.from, to, now, interval, limit));
        let query = HistoryQuery {
            target,
            metric: request.metric,
            object: request.object.clone(),
            from: request.from,
            to,
            step,
            limit: limit + 1,
        };
        let mut points = self.context.store.history(&query).await?;
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = points.len() > most;
        points.truncate(most);
        Ok(History { step, points, more })
    }

    /// What is wrong with a target, the gravest first, and when that was measured by the target's clock.
    ///
    /// # Errors
    /// As [`Engine::target_metrics`].
    pub async fn findings(&self, target: &str, look: Look) -> Result<(Timestamp, Vec<Finding>), EngineError> {
        let (name, entry) = self.target(target)?;
        let metrics = self.target_metrics(name, look).await?;
        let found = findings(
            &metrics.snapshot,
            entry.target.engine(),
            &self.context.settings.monitor.bounds,
        );
        Ok((metrics.snapshot.at, found))
    }

    /// Alerts, newest first.
    ///
    /// # Errors
    /// `UnknownTarget`, `Store`.
    pub async fn alerts(&self, filter: &AlertFilter) -> Result<Vec<Alert>, EngineError> {
        if let Some(target) = filter.target.as_deref().filter(|target| !target.is_empty()) {
            self.target(target)?;
        }
        Ok(self.context.store.alerts(filter).await?)
    }

    /// An alert by its id.
    ///
    /// # Errors
    /// `UnknownAlert`, `Store`.
    pub async fn alert(&self, id: &str) -> Result<Alert, EngineError> {
        let unknown = || EngineError::UnknownAlert { id: id.to_owned() };
        let alert = id.parse().map_err(|_| unknown())?;
        self.context.store.alert(alert).await?.ok_or_else(unknown)
    }

    /// Notes that the caller looks after an alert. Repeating changes nothing.
    ///
    /// # Errors
    /// `UnknownAlert`, `InvalidField`, `Store`.
    pub async fn acknowledge_alert(&self, id: &str, note: &str, caller: &Caller) -> Result<Alert, EngineError> {
        let length = note.chars().count();
        if length > MAX_NOTE {
            return Err(EngineError::InvalidField {
                field: "note",
                problem: format!("has {length} characters; expected at most {MAX_NOTE}"),
            });
        }
        let known = self.alert(id).await?;
        let alert = known.id;
        let detail = format!("alert {} ({}): {note}", known.id, known.key());
        let decision = Decision::allow(caller, Act::AcknowledgeAlert, detail).about(&known.target, None, None);
        let store = &self.context.store;
        let acknowledged = store.acknowledge_alert(alert, &caller.principal, note, &decision).await?;
        self.context.observed.notify_one();
        acknowledged.ok_or_else(|| EngineError::UnknownAlert { id: id.to_owned() })
    }

    /// Follows the revision of the newest change of collections and alerts. It is looked for once a second, and at once where this server
    /// made the change; while the collector works, and no longer.
    #[must_use]
    pub fn monitor_changes(&self) -> watch::Receiver<u64> {
        self.context.revision.subscribe()
    }

    /// How full history is.
    ///
    /// # Errors
    /// `Store`.
    pub async fn history_usage(&self) -> Result<HistoryUsage, EngineError> {
        Ok(self.context.store.history_usage().await?)
    }

    /// How many runs have ever ended, by target, kind and final state.
    ///
    /// # Errors
    /// `Store`.
    pub async fn ended_runs(&self) -> Result<Vec<EndedRuns>, EngineError> {
        Ok(self.context.store.ended_runs().await?)
    }

    /// The revision of the newest change.
    ///
    /// # Errors
    /// `Store`.
    pub async fn monitor_revision(&self) -> Result<u64, EngineError> {
        Ok(self.context.store.monitor_revision().await?)
    }

    /// Collections of targets after a revision.
    ///
    /// # Errors
    /// `Store`.
    pub async fn collections_after(&self, revision: u64) -> Result<Vec<Collection>, EngineError> {
        let mut found = self.context.store.collections(revision).await?;
        found.retain(|collection| self.targets().contains_key(&collection.target));
        Ok(found)
    }

    /// Alerts that changed after a revision, by revision.
    ///
    /// # Errors
    /// `Store`.
    pub async fn alerts_after(&self, revision: u64, limit: u32) -> Result<Vec<(u64, Alert)>, EngineError> {
        Ok(self.context.store.alerts_after(revision, limit).await?)
    }

    /// The newest samples of a target, or of the servers where it is empty, that are at most three collections old.
    ///
    /// # Errors
    /// `Store`.
    pub async fn newest_samples(&self, target: &str) -> Result<Vec<(Timestamp, Sample)>, EngineError> {
        let age = self.context.settings.monitor.interval * 3;
        Ok(self.context.store.newest_samples(target, age).await?)
    }

    /// The service at a glance, as somebody sees it who is for these targets. Targets are not connected to, but for the ledgers of their
    /// migrations.
    ///
    /// # Errors
    /// `Store`.
    pub async fn service_status(&self, scope: &Scope) -> Result<ServiceStatus, EngineError> {
        let store = &self.context.store;
        let filter = AlertFilter {
            states: vec![AlertState::Raised],
            limit: MOST_ALERTS,
            ..AlertFilter::default()
        };
        let alerts = store.alerts(&filter).await?;
        let collections = store.collections(0).await?;
        // At the same time: many targets that do not answer take no longer than one.
        let migrations = join_all(self.targets().keys().map(|name| self.migration_counts(name))).await;
        let mut targets = Vec::with_capacity(self.targets().len());
        for ((name, entry), migrations) in self.targets().iter().zip(migrations) {
            let samples = self.newest_samples(name).await?;
            let size = samples.iter().find(|(_, sample)| sample.metric == Metric::DATABASE_SIZE);
            targets.push(TargetHealth {
                target: name.clone(),
                engine: entry.target.engine(),
                collected: collections.iter().find(|collection| collection.target == *name).cloned(),
                size_bytes: size.map(|(_, sample)| whole(sample.value)),
                alerts: alerts.iter().filter(|alert| alert.target == *name).count() as u64,
                migrations,
            });
        }
        let living = RunFilter {
            states: RunState::ALL.into_iter().filter(|state| !state.is_final()).collect(),
            ..RunFilter::default()
        };
        let mut status = ServiceStatus {
            scheduler: self.scheduler_view(scope).await?,
            targets,
            runs: store.runs(&living, None, MOST_RUNS).await?,
            alerts,
            history: Some(store.history_usage().await?),
            collecting: self.context.settings.monitor.enabled,
            gaps: self
                .unreadable_folders()
                .await?
                .iter()
                .map(|folder| unreadable(folder))
                .collect(),
        };
        status.keep_seen(scope);
        Ok(status)
    }

    /// Folders, as `host:folder`, that servers could not look at when they did last.
    async fn unreadable_folders(&self) -> Result<Vec<String>, EngineError> {
        let samples = self.newest_samples("").await?.into_iter().map(|(_, sample)| sample);
        Ok(samples
            .filter(|sample| sample.metric == Metric::DISK_READABLE && sample.value < 1.0)
            .map(|sample| sample.object)
            .collect())
    }

    /// Migrations of a target at a glance; a target that does not answer soon is no reason to wait.
    async fn migration_counts(&self, target: &str) -> Option<MigrationCounts> {
        self.targets().get(target)?.migrations.as_ref()?;
        let limit = self.context.settings.monitor.snapshot_limit;
        let problem = match tokio::time::timeout(limit, self.migration_status(target)).await {
            Ok(Ok(status)) => {
                let items = &status.standings.items;
                let applied = items.iter().filter(|item| item.standing.in_effect()).count() as u64;
                return Some(MigrationCounts {
                    applied,
                    pending: items.len() as u64 - applied,
                    changed: items.iter().filter(|item| item.change.is_some()).count() as u64,
                    problem: String::new(),
                });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", limit.as_secs_f64()),
        };
        Some(MigrationCounts {
            applied: 0,
            pending: 0,
            changed: 0,
            problem,
        })
    }
}

fn unreadable(folder: &str) -> Gap {
    Gap {
        what: format!("disk {folder}"),
        why: "the server could not look at the folder; its log says why".to_owned(),
        allow: String::new(),
    }
}

/// A count that history keeps as a floating point number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size, made of an unsigned number"
)]
fn whole(value: f64) -> u64 {
    value as u64
}
