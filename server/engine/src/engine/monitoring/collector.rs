//! The task that measures: each target once an interval, by whichever server claims it first, and this server's machine. It writes what it
//! found, judges it, and tells people. Runs are never waited for, and never wait for it: it looks on a connection of its own, and leaves a
//! target out while the look before is still at work.
//!
//! ```text
//! claim (store) -> observe (target) -> put_collected (fence) -> conditions -> alerts::step -> change_alerts (fence, with envelopes)
//! ```
//!
//! Killed anywhere, the claim lapses and the next server goes on; a server that wakes up late is stopped by the fence.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Engine, MOST_ALERTS, conditions, notices};
use crate::{
    EngineError, failpoint,
    model::monitor::{Alert, AlertState, AlertTransition, Depth, Metric, Sample, Snapshot},
    monitor::{
        alerts::{Look, step},
        carry_over, samples,
    },
    port::{AlertChanges, AlertFilter, CollectClaim, Collected, MachineNumbers, StoreError},
    run::as_f64,
};

/// Longest time between two looks at what is due.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time until a target is tried again that another server holds.
const HELD: Duration = Duration::from_secs(5);
/// Most targets that this server measures at a time.
const AT_ONCE: usize = 4;
/// How often history is made coarser.
const ROLL_UP: Duration = Duration::from_secs(30);
/// Most points that one transaction removes, and most transactions of one turn.
const ROLLED: (u32, usize) = (5_000, 200);
/// How often files of migrations are held against their ledger.
const MIGRATIONS: Duration = Duration::from_secs(600);

/// Measures until it is told to stop.
pub struct Collector {
    engine: Engine,
    /// When each target is tried next; the empty name is this server.
    due: BTreeMap<String, Instant>,
    at_work: BTreeSet<String>,
    migrations: BTreeMap<String, Instant>,
    rolled: Option<Instant>,
    rolling: bool,
}

/// What a task of the collector has done.
enum Done {
    /// A target, whether it was this server's turn, and whether its migrations were looked at if it was.
    Collected(String, bool, bool),
    /// History was made coarser.
    Rolled,
}

impl Collector {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine,
            due: BTreeMap::new(),
            at_work: BTreeSet::new(),
            migrations: BTreeMap::new(),
            rolled: None,
            rolling: false,
        }
    }

    /// Works until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut tasks: JoinSet<Done> = JoinSet::new();
        let mut failing = false;
        while !shutdown.is_cancelled() {
            match self.engine.context.store.monitor_revision().await {
                Ok(newest) => {
                    failing = false;
                    self.engine.context.revision.send_if_modified(|known| {
                        let changed = *known != newest;
                        *known = newest;
                        changed
                    });
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "changes of monitoring could not be looked for");
                }
                Err(_) => {}
            }
            if self.engine.context.settings.monitor.enabled {
                self.begin(&mut tasks);
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.engine.context.observed.notified() => {}
                () = sleep(LOOK) => {}
                Some(ended) = tasks.join_next() => self.end(ended),
            }
        }
        tasks.shutdown().await;
    }

    /// Begins what is due.
    fn begin(&mut self, tasks: &mut JoinSet<Done>) {
        let now = Instant::now();
        let mut names: Vec<String> = self.engine.targets().keys().cloned().collect();
        // Who has waited longest comes first, so that targets that take their time do not keep the others from their turn.
        names.sort_by_key(|name| self.due.get(name).copied());
        if self.engine.context.settings.monitor.machine.is_some() {
            names.insert(0, String::new());
        }
        for name in names {
            // The machine has a place of its own: disks are looked at however many targets are away.
            if self.at_work.iter().filter(|name| !name.is_empty()).count() >= AT_ONCE && !name.is_empty() {
                continue;
            }
            let due = self.due.get(&name).is_none_or(|due| *due <= now);
            if !due || !self.at_work.insert(name.clone()) {
                continue;
            }
            let look_at_migrations = self.migrations.get(&name).is_none_or(|at| at.elapsed() >= MIGRATIONS);
            let engine = self.engine.clone();
            tasks.spawn(async move {
                let interval = engine.context.settings.monitor.interval;
                // A little sooner than the interval, so that a turn that comes between two looks is not lost.
                let collected = engine
                    .collect_due(&name, interval.saturating_sub(LOOK), look_at_migrations, None)
                    .await;
                let own = collected.unwrap_or_else(|error| {
                    tracing::warn!(target = name, %error, "a target could not be collected");
                    false
                });
                Done::Collected(name, own, look_at_migrations)
            });
        }
        if !self.rolling && self.rolled.is_none_or(|at| at.elapsed() >= ROLL_UP) {
            self.rolling = true;
            let engine = self.engine.clone();
            tasks.spawn(async move {
                engine.roll_up().await;
                Done::Rolled
            });
        }
    }

    fn end(&mut self, ended: Result<Done, tokio::task::JoinError>) {
        let interval = self.engine.context.settings.monitor.interval;
        match ended {
            Ok(Done::Collected(name, own, looked_at_migrations)) => {
                // A turn that another server has, or has not given back yet, looked at nothing.
                if own && looked_at_migrations {
                    self.migrations.insert(name.clone(), Instant::now());
                }
                let wait = if own { interval } else { HELD.min(interval / 4) };
                self.at_work.remove(&name);
                self.due.insert(name, Instant::now() + wait);
            }
            Ok(Done::Rolled) => {
                self.rolling = false;
                self.rolled = Some(Instant::now());
            }
            Err(error) => {
                // Nobody knows which it was: all are free again, and what is still at work is held by its claim.
                tracing::error!(%error, "a collection panicked");
                self.at_work.clear();
                self.rolling = false;
            }
        }
    }
}

impl Engine {
    /// Makes history coarser, and removes what is too old, a bounded piece at a time.
    async fn roll_up(&self) {
        for _ in 0..ROLLED.1 {
            match self.context.store.roll_up(ROLLED.0).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "history could not be made coarser");
                    return;
                }
            }
        }
    }

    /// Collects a target now, or this server's machine where the name is empty, and judges it at an instant: for tests of clocks and
    /// conditions that last. False where another server is at it.
    ///
    /// # Errors
    /// `UnknownTarget`, `Store`. A target that cannot be reached is no error, but a condition.
    pub async fn collect_at(&self, target: &str, now: Timestamp) -> Result<bool, EngineError> {
        self.collect_due(target, Duration::ZERO, true, Some(now)).await
    }

    async fn collect_due(
        &self,
        target: &str,
        due: Duration,
        look_at_migrations: bool,
        now: Option<Timestamp>,
    ) -> Result<bool, EngineError> {
        let settings = &self.context.settings;
        let term = settings.lease_term.max(settings.monitor.snapshot_limit * 3);
        let claimed = self
            .context
            .store
            .claim_collection(target, &settings.holder, term, due)
            .await?;
        let Some(claim) = claimed else { return Ok(false) };
        failpoint!("collection-claimed");
        let written = if target.is_empty() {
            self.collect_machine(&claim, now).await?
        } else {
            self.collect_target(&claim, look_at_migrations, now).await?
        };
        self.context.observed.notify_one();
        Ok(written)
    }

    async fn collect_target(
        &self,
        claim: &CollectClaim,
        look_at_migrations: bool,
        now: Option<Timestamp>,
    ) -> Result<bool, EngineError> {
        let (name, entry) = self.target(&claim.target)?;
        let limit = self.context.settings.monitor.snapshot_limit;
        let observer = entry.target.observer();
        // It keeps its limit by itself; this one is for a way to the database that swallows packets.
        let mut observed: Result<Snapshot, String> = match timeout(limit * 2, observer.observe(Depth::Quick, limit)).await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", (limit * 2).as_secs_f64())),
        };
        if let Ok(snapshot) = &mut observed {
            let kept = match self.context.store.newest_snapshot(name).await {
                // What a newer version has kept is replaced.
                Err(StoreError::Corrupt(why)) => {
                    tracing::warn!(target = name, why, "the kept snapshot could not be read");
                    None
                }
                kept => kept?,
            };
            carry_over(kept.as_ref().map(|(_, kept)| kept), snapshot);
            self.watch_disk(snapshot);
        }
        let mut list = observed.as_ref().map(samples).unwrap_or_default();
        list.push(Sample {
            metric: Metric::TARGET_UP,
            object: String::new(),
            value: if observed.is_ok() { 1.0 } else { 0.0 },
        });
        let collected = Collected {
            snapshot: observed.as_ref().ok().cloned(),
            samples: list,
        };
        if !self.context.store.put_collected(claim, &collected).await? {
            return Ok(false);
        }
        failpoint!("collected");
        let now = self.store_time(now).await?;
        let found = self.conditions_of(name, observed, look_at_migrations, now).await?;
        let open = self.open_alerts(name).await?;
        self.judge(claim, now, &found, &open).await
    }

    async fn collect_machine(&self, claim: &CollectClaim, now: Option<Timestamp>) -> Result<bool, EngineError> {
        let Some(machine) = &self.context.settings.monitor.machine else {
            return Ok(false);
        };
        let numbers = machine.measure().await;
        let host = machine.host();
        self.tell_unreadable(host, &numbers).await?;
        let collected = Collected {
            snapshot: None,
            samples: machine_samples(host, &numbers),
        };
        if !self.context.store.put_collected(claim, &collected).await? {
            return Ok(false);
        }
        let now = self.store_time(now).await?;
        let found = conditions::of_machine(host, &numbers);
        // Alerts of another server's machine are its own, as long as there is one on that machine.
        let servers = self.context.store.servers(self.context.settings.lease_term).await?;
        let hosts: BTreeSet<&str> = servers
            .iter()
            .filter(|seen| seen.alive && seen.server.id != self.context.settings.holder)
            .map(|seen| seen.server.host.as_str())
            .collect();
        let mut open = self.open_alerts("").await?;
        open.retain(|alert| {
            let disks = numbers.disks.iter().map(|disk| &disk.folder);
            let mut folders = disks.chain(numbers.unreadable.iter().map(|folder| &folder.folder));
            let own = folders.any(|folder| conditions::disk_object(host, folder) == alert.object);
            let others = alert
                .object
                .split_once(':')
                .is_some_and(|(machine, _)| hosts.contains(machine));
            own || !others
        });
        self.judge(claim, now, &found, &open).await
    }

    /// Logs which folders cannot be looked at any more, once each.
    async fn tell_unreadable(&self, host: &str, numbers: &MachineNumbers) -> Result<(), EngineError> {
        if numbers.unreadable.is_empty() {
            return Ok(());
        }
        let known = self.unreadable_folders().await?;
        for folder in &numbers.unreadable {
            if !known.contains(&conditions::disk_object(host, &folder.folder)) {
                tracing::warn!(host, folder = folder.folder, why = folder.why, "a folder cannot be looked at");
            }
        }
        Ok(())
    }

    async fn store_time(&self, now: Option<Timestamp>) -> Result<Timestamp, EngineError> {
        match now {
            Some(now) => Ok(now),
            None => Ok(self.context.store.pulse().await?.now),
        }
    }

    async fn open_alerts(&self, target: &str) -> Result<Vec<Alert>, EngineError> {
        let filter = AlertFilter {
            target: Some(target.to_owned()),
            states: vec![AlertState::Pending, AlertState::Raised],
            before: None,
            limit: MOST_ALERTS,
        };
        Ok(self.context.store.alerts(&filter).await?)
    }

    /// Writes what the look changes, with what people are told, in one transaction.
    async fn judge(
        &self,
        claim: &CollectClaim,
        now: Timestamp,
        found: &conditions::Conditions,
        open: &[Alert],
    ) -> Result<bool, EngineError> {
        let look = Look {
            target: &claim.target,
            now,
            rules: self.context.settings.monitor.rules_of(&claim.target),
            conditions: &found.conditions,
            looked: &found.looked,
            unseen: &found.unseen,
        };
        let mut changes = AlertChanges::default();
        for (alert, transition) in step(&look, open) {
            if let Some(notice) = notices::of(&alert, transition) {
                tracing::warn!(alert = %alert.id, key = alert.key(), state = alert.state.name(), detail = alert.detail, "an alert changed");
                changes
                    .envelopes
                    .extend(self.context.settings.notify.routing.envelopes(&notice, None));
            }
            match transition {
                AlertTransition::Passed => changes.drop.push(alert.id),
                AlertTransition::Seen => changes.seen.push(alert),
                _ => changes.put.push(alert),
            }
        }
        if changes.put.is_empty() && changes.seen.is_empty() && changes.drop.is_empty() {
            return Ok(true);
        }
        Ok(self.context.store.change_alerts(claim, &changes).await?)
    }
}

/// What history keeps of a machine.
fn machine_samples(host: &str, numbers: &MachineNumbers) -> Vec<Sample> {
    let mut list = Vec::new();
    let mut push = |metric: Metric, object: String, value: Option<f64>| {
        list.extend(value.map(|value| Sample { metric, object, value }));
    };
    push(Metric::SERVER_CPU, host.to_owned(), numbers.cpu_fraction);
    push(
        Metric::SERVER_MEMORY_USED,
        host.to_owned(),
        numbers.memory_used_bytes.map(as_f64),
    );
    push(
        Metric::SERVER_MEMORY_TOTAL,
        host.to_owned(),
        numbers.memory_total_bytes.map(as_f64),
    );
    for disk in &numbers.disks {
        let object = conditions::disk_object(host, &disk.folder);
        push(Metric::DISK_READABLE, object.clone(), Some(1.0));
        push(Metric::DISK_USED, object.clone(), Some(as_f64(disk.used_bytes)));
        push(Metric::DISK_TOTAL, object.clone(), Some(as_f64(disk.total_bytes)));
        push(Metric::DISK_USED_RATIO, object, Some(disk.used_fraction()));
    }
    for folder in &numbers.unreadable {
        push(
            Metric::DISK_READABLE,
            conditions::disk_object(host, &folder.folder),
            Some(0.0),
        );
    }
    list
}
