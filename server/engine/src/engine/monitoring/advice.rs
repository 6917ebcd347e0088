//! The facts that recommendations rest on, gathered from the newest snapshot, history, runs and schedules.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;

use super::{Engine, Look, MAX_POINTS, conditions};
use crate::{
    EngineError,
    discover::{self, Proposal},
    engine::TargetEntry,
    model::{
        EventBody, Run, RunKind, Schedule, TableName,
        monitor::{Metric, Recommendation, Snapshot},
        schedule::Work,
    },
    monitor::{
        findings::findings,
        recommend::{Facts, LimitMet, OperationFacts, Proven, RunFacts, ScheduleFacts, TableGrowth, recommend},
    },
    port::{HistoryQuery, Point, Step},
    rule::Action,
};

/// Newest runs of an operation that are looked at.
const RUNS: u32 = 10;
/// Those of them whose logs are looked at, and how many of the last events of each.
const LOGS: (usize, u32) = (3, 500);
/// Over which time rows are compared.
const GROWTH_OVER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Most schedules.
const SCHEDULES: u32 = 200;
/// Most tables that grow for which a rule is written.
const RULES: usize = 3;
/// Longest time that a target may take to show what rules for them would look like.
const RULES_LIMIT: Duration = Duration::from_secs(2);

impl Engine {
    /// What should be done about a target, the most important first.
    ///
    /// # Errors
    /// `UnknownTarget`, `Target` where nothing was ever collected and the target cannot be reached, `Store`.
    pub async fn recommendations(&self, target: &str) -> Result<Vec<Recommendation>, EngineError> {
        let (name, entry) = self.target(target)?;
        let metrics = self.target_metrics(name, Look::Newest).await?;
        self.advised(name, entry, Some(&metrics.snapshot), None).await
    }

    /// The same as a run of the target is about to end: `ended` is that run as it will be, which counts as ended. By the snapshot that was
    /// kept, where there is one: none is made for it.
    ///
    /// # Errors
    /// `UnknownTarget`, `Store`.
    pub(crate) async fn recommendations_after(&self, ended: &Run) -> Result<Vec<Recommendation>, EngineError> {
        let (name, entry) = self.target(&ended.target)?;
        let kept = self.context.store.newest_snapshot(name).await?;
        self.advised(name, entry, kept.as_ref().map(|(_, snapshot)| snapshot), Some(ended))
            .await
    }

    async fn advised(
        &self,
        name: &str,
        entry: &TargetEntry,
        snapshot: Option<&Snapshot>,
        ended: Option<&Run>,
    ) -> Result<Vec<Recommendation>, EngineError> {
        let now = self.context.store.pulse().await?.now;
        let proof = self.proof(name).await?;
        let schedules = self.context.store.schedules(Some(name), None, SCHEDULES).await?;
        let (scheduled, drills) = work_of(&schedules);
        let bounds = &self.context.settings.monitor.bounds;
        let mut facts = Facts {
            target: name.to_owned(),
            findings: snapshot
                .map(|snapshot| findings(snapshot, entry.target.engine(), bounds))
                .unwrap_or_default(),
            operations: self.operations_of(name, now, ended).await?,
            growth: self.table_growth(name, now).await?,
            rules: BTreeMap::new(),
            schedules: self.schedule_facts(&schedules, ended).await?,
            backups: proof.map(|proof| Proven {
                days: proof.proven.map(|at| days_between(at, now)),
                oldest_days: days_between(proof.oldest, now),
            }),
            scheduled,
            drills,
        };
        let uncovered: Vec<String> = facts.uncovered().take(RULES).map(|grown| grown.table.clone()).collect();
        facts.rules = rules_for(name, entry, uncovered).await;
        Ok(recommend(&facts))
    }

    /// One entry for each operation and table; the runs stand at the first, so that advice about runs comes once.
    async fn operations_of(&self, target: &str, now: Timestamp, ended: Option<&Run>) -> Result<Vec<OperationFacts>, EngineError> {
        let Some(entry) = self.targets().get(target) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for operation in entry.catalog.operations() {
            let mut runs = self.cleanups(target, Some(&operation.name), true, RUNS).await?;
            if let Some(newest) = ended
                && newest.kind == RunKind::Cleanup
                && !newest.options.dry_run
                && newest.operations.contains(&operation.name)
            {
                runs.insert(0, newest.clone());
            }
            // As the database names them, where a run has found out.
            let resolved: BTreeMap<&str, &str> = runs
                .iter()
                .flat_map(|run| &run.report.steps)
                .filter(|step| step.operation == operation.name)
                .map(|step| (step.rule.as_str(), step.table.as_str()))
                .collect();
            // Whether it deletes rows there, and whether it takes any.
            let mut tables: BTreeMap<String, (bool, bool)> = BTreeMap::new();
            for rule in operation.rules.iter().filter(|rule| !rule.table.name.is_empty()) {
                let table = resolved
                    .get(rule.name.as_str())
                    .map_or_else(|| rule.table.to_string(), |table| (*table).to_owned());
                let deletes = matches!(rule.action, Action::Delete | Action::Archive { .. });
                let of_table = tables.entry(table).or_default();
                of_table.0 |= deletes;
                of_table.1 |= !rule.is_placeholder(now);
            }
            let mut facts = Vec::new();
            for (position, run) in runs.iter().enumerate() {
                facts.extend(self.run_facts(run, &operation.name, position < LOGS.0).await?);
            }
            for (table, (deletes_parents, takes_rows)) in tables {
                all.push(OperationFacts {
                    name: operation.name.clone(),
                    table,
                    deletes_parents,
                    takes_rows,
                    runs: std::mem::take(&mut facts),
                });
            }
        }
        Ok(all)
    }

    async fn run_facts(&self, run: &Run, operation: &str, read_log: bool) -> Result<Option<RunFacts>, EngineError> {
        let report = run
            .report
            .operation_reports()
            .into_iter()
            .find(|report| report.name == operation);
        let (Some(report), Some(at)) = (report, run.ended_at) else {
            return Ok(None);
        };
        if conditions::has_failed(&report) {
            return Ok(None);
        }
        let mut slow_batches = false;
        if read_log {
            let after = run.last_sequence.saturating_sub(u64::from(LOGS.1));
            let page = self.context.store.events(run.id, after, LOGS.1).await?;
            slow_batches = page.events.iter().any(|event| {
                matches!(&event.body, EventBody::Throttled(slowdown)
                    if !slowdown.cleared && matches!(slowdown.reason.as_str(), "BATCH_TIME" | "TIMEOUTS"))
            });
        }
        Ok(Some(RunFacts {
            at,
            rows: report.rows_affected,
            batch_rows: run.options.batch_rows,
            limit: conditions::limit_met(&run.report, &report).map(|met| {
                if conditions::is_drift(&run.report, met) {
                    LimitMet::Rows
                } else {
                    LimitMet::Time(run.options.max_execution_seconds)
                }
            }),
            slow_batches,
        }))
    }

    async fn table_growth(&self, target: &str, now: Timestamp) -> Result<Vec<TableGrowth>, EngineError> {
        let query = HistoryQuery {
            target: target.to_owned(),
            metric: Metric::TABLE_ROWS,
            object: None,
            from: now - GROWTH_OVER,
            to: now + Duration::from_secs(1),
            // Up to 168 points of each of up to 200 tables.
            step: Step::Hour,
            limit: MAX_POINTS * 4,
        };
        let points = self.context.store.history(&query).await?;
        let grown = points
            .chunk_by(|one, other| one.object == other.object)
            .filter_map(grown_table);
        Ok(grown.collect())
    }

    async fn schedule_facts(&self, schedules: &[Schedule], ended: Option<&Run>) -> Result<Vec<ScheduleFacts>, EngineError> {
        let mut all = Vec::new();
        for schedule in schedules {
            let Ok(times) = self.preview(&schedule.spec.timing, None, 2).await else {
                continue;
            };
            let [first, second] = times.as_slice() else { continue };
            let interval = second.occurrence.at.duration_since(first.occurrence.at);
            let filter = crate::port::SlotFilter {
                schedule: Some(schedule.id),
                ..crate::port::SlotFilter::default()
            };
            let mut worked = Vec::new();
            for slot in self.context.store.slots(&filter, None, RUNS).await? {
                let Some(run) = slot.run else { continue };
                let run = match ended.filter(|ended| ended.id == run) {
                    Some(ended) => Some(ended.clone()),
                    None => self.context.store.run(run).await?,
                };
                worked.extend(
                    run.filter(|run| run.state.is_final())
                        .map(|run| run.report.duration_ms / 1_000),
                );
            }
            worked.sort_unstable();
            let Some(median) = worked.get(worked.len() / 2) else {
                continue;
            };
            all.push(ScheduleFacts {
                name: schedule.spec.name.clone(),
                interval_seconds: interval.unsigned_abs().as_secs(),
                run_seconds: *median,
            });
        }
        Ok(all)
    }
}

/// Rules for tables that grow, by the table. What a target does not show in time, or not at all, is left out.
async fn rules_for(name: &str, entry: &TargetEntry, tables: Vec<String>) -> BTreeMap<String, Proposal> {
    let looked = tables.into_iter().map(|table| async move {
        let grown = TableName::parse(&table);
        let looking = discover::for_grown(entry.target.as_ref(), &entry.catalog, &grown, RULES_LIMIT);
        match tokio::time::timeout(RULES_LIMIT, looking).await {
            Ok(Ok(rule)) => rule.map(|rule| (table, rule)),
            Ok(Err(error)) => {
                tracing::warn!(target = name, table, %error, "no rule was looked for");
                None
            }
            Err(_) => {
                tracing::warn!(target = name, table, "a rule was not found in time");
                None
            }
        }
    });
    join_all(looked).await.into_iter().flatten().collect()
}

/// How a table grew between its first and its last point, where a day or more lies between them.
fn grown_table(points: &[Point]) -> Option<TableGrowth> {
    let (first, last) = (points.first()?, points.last()?);
    let days = last.at.duration_since(first.at).as_secs_f64() / 86_400.0;
    (days >= 1.0).then(|| TableGrowth {
        table: last.object.clone(),
        rows: super::whole(last.last),
        rows_per_day: (last.last - first.last) / days,
    })
}

/// Names of schedules that are in effect: by the operations that they run, and those that prove backups.
fn work_of(schedules: &[Schedule]) -> (BTreeMap<String, Vec<String>>, Vec<String>) {
    let (mut scheduled, mut drills): (BTreeMap<String, Vec<String>>, _) = (BTreeMap::new(), Vec::new());
    for spec in schedules.iter().map(|schedule| &schedule.spec).filter(|spec| spec.enabled) {
        match &spec.work {
            Work::Operations(operations) => {
                for operation in operations {
                    scheduled.entry(operation.clone()).or_default().push(spec.name.clone());
                }
            }
            Work::Maintenance(tasks) if tasks.iter().any(conditions::proves_backups) => drills.push(spec.name.clone()),
            Work::Maintenance(_) => {}
        }
    }
    (scheduled, drills)
}

fn days_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from((to.as_second() - from.as_second()) / 86_400).unwrap_or_default()
}
