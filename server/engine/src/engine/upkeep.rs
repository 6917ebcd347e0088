//! Built-in maintenance: what is checked before such a run is accepted. Its work is in [`crate::run`].

use std::{collections::HashSet, sync::Arc};

use super::{Engine, decide, digest_of, schedules::Slot, settings::Context};
use crate::{
    EngineError,
    model::{MaintenanceRecord, MaintenanceTask, Plan, Report, Run, RunKind, RunOptions, ScheduledBy, StepReport, TaskRecord},
    port::{CreateRun, RunFilter, StoreError},
};

/// What a run of maintenance holds in place of a table: there is one at a time on a target, which may work beside everybody else.
pub const MAINTENANCE_HOLD: &str = "built-in maintenance";

impl Engine {
    /// The engine around what a run has at hand.
    pub(crate) fn of(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Accepts a run of built-in maintenance, in the order of the tasks, within the longest time that a run may have. For tests of the work of such
    /// a run: people and slots have them by way of a schedule.
    ///
    /// # Errors
    /// `UnknownTarget`, `RunAlreadyActive`, `RequestIdReused`, `InvalidField`, `Store`.
    #[cfg(feature = "testing")]
    pub async fn start_maintenance(
        &self,
        target: &str,
        tasks: Vec<MaintenanceTask>,
        request: &str,
        caller: &crate::model::Caller,
    ) -> Result<Run, EngineError> {
        let longest = *RunOptions::MAX_EXECUTION_SECONDS.end();
        self.start_maintenance_within(target, tasks, longest, request, caller).await
    }

    /// The same within a time, seconds.
    ///
    /// # Errors
    /// Those of [`Engine::start_maintenance`].
    #[cfg(feature = "testing")]
    pub async fn start_maintenance_within(
        &self,
        target: &str,
        tasks: Vec<MaintenanceTask>,
        max_execution_seconds: u32,
        request: &str,
        caller: &crate::model::Caller,
    ) -> Result<Run, EngineError> {
        let (name, _) = self.target(target)?;
        check(&tasks)?;
        let allowed = RunOptions::MAX_EXECUTION_SECONDS;
        if !allowed.contains(&max_execution_seconds) {
            return Err(EngineError::InvalidField {
                field: "max_execution_seconds",
                problem: format!(
                    "is {max_execution_seconds}; expected {} to {}",
                    allowed.start(),
                    allowed.end()
                ),
            });
        }
        let request_id = super::request_id(request)?;
        let shown = serde_json::to_string(&tasks).unwrap_or_default();
        let digest = digest_of(&["maintain", name, &shown, &max_execution_seconds.to_string()]);
        if let Some(run) = self.repeated(&request_id, &digest).await? {
            return Ok(run);
        }
        let options = RunOptions {
            dry_run: false,
            full_speed: true,
            max_execution_seconds,
            ..RunOptions::default()
        };
        let mut run = self.maintenance_run(name, tasks, options, None);
        run.started_by.clone_from(&caller.principal);
        self.accept(CreateRun {
            run,
            tables: vec![MAINTENANCE_HOLD.to_owned()],
            request_id,
            request_digest: digest,
            events: Vec::new(),
            decision: None,
            slot: None,
        })
        .await
    }

    /// Accepts the maintenance of a slot. Where another run of maintenance works on the target, it waits in line.
    ///
    /// # Errors
    /// `UnknownTarget`, `InvalidField`, `SlotLost`, `Store`.
    pub(super) async fn start_scheduled_maintenance(
        &self,
        slot: &Slot<'_>,
        tasks: &[MaintenanceTask],
    ) -> Result<Run, EngineError> {
        let spec = &slot.schedule.spec;
        let (name, _) = self.target(&spec.target)?;
        check(tasks)?;
        let options = RunOptions {
            dry_run: false,
            full_speed: true,
            max_execution_seconds: slot.seconds,
            stop_on_failure: spec.options.stop_on_failure,
            queue: true,
            ..RunOptions::default()
        };
        let caller = slot.caller();
        let mut run = self.maintenance_run(name, tasks.to_vec(), options, Some(slot.scheduled()));
        run.started_by.clone_from(&caller.principal);
        crate::failpoint!("slot-planned");
        let decision = decide::allow_upkeep(&caller, &run, slot.claim.slot);
        let request_id = slot.request_id();
        self.accept(CreateRun {
            run,
            tables: vec![MAINTENANCE_HOLD.to_owned()],
            request_digest: digest_of(&["slot", &request_id]),
            request_id,
            events: Vec::new(),
            decision: Some(decision),
            slot: Some(slot.claim),
        })
        .await
    }

    /// A run of these tasks, a step for each.
    fn maintenance_run(
        &self,
        target: &str,
        tasks: Vec<MaintenanceTask>,
        options: RunOptions,
        scheduled: Option<ScheduledBy>,
    ) -> Run {
        let operations = tasks.iter().map(|task| task.name().to_owned()).collect();
        let report = Report {
            steps: tasks.iter().map(step).collect(),
            maintenance: Some(Box::new(MaintenanceRecord {
                tasks: tasks.into_iter().map(begun).collect(),
            })),
            scheduled: scheduled.map(Box::new),
            ..Report::default()
        };
        let plan = Plan::none(target, jiff::Timestamp::now());
        self.new_run(RunKind::Maintain, target, operations, &plan, None, options, report)
    }

    /// Every run of a target that saved something, newest first.
    pub(crate) async fn backup_runs(&self, target: &str) -> Result<Vec<Run>, StoreError> {
        self.all_runs(&RunFilter {
            target: Some(target.to_owned()),
            kinds: RunKind::SAVING.to_vec(),
            captured: true,
            ..RunFilter::default()
        })
        .await
    }
}

fn check(tasks: &[MaintenanceTask]) -> Result<(), EngineError> {
    let invalid = |problem: String| EngineError::InvalidField { field: "tasks", problem };
    if tasks.is_empty() {
        return Err(invalid(format!(
            "is empty; expected some of {}",
            MaintenanceTask::NAMES.join(", ")
        )));
    }
    let mut seen = HashSet::new();
    for task in tasks {
        if !seen.insert(task.name()) {
            return Err(invalid(format!("names {} twice; expected each task once", task.name())));
        }
        if let MaintenanceTask::PruneBackups { keep_days, keep_count } = task {
            match (keep_days, keep_count) {
                (None, None) => {
                    return Err(invalid(
                        "prunes by nothing; expected keep_days, keep_count or both".to_owned(),
                    ));
                }
                (Some(0), _) | (_, Some(0)) => {
                    return Err(invalid("keeps no backup with 0; expected at least 1".to_owned()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn begun(task: MaintenanceTask) -> TaskRecord {
    TaskRecord {
        task,
        items: Vec::new(),
        current: None,
    }
}

fn step(task: &MaintenanceTask) -> StepReport {
    let what = match task {
        MaintenanceTask::VacuumAnalyze => "tables with dead rows",
        MaintenanceTask::ReindexBloated => "indexes",
        MaintenanceTask::VerifyBackups | MaintenanceTask::PruneBackups { .. } => "backups",
        MaintenanceTask::RestoreDrill => "the newest backup",
    };
    StepReport {
        operation: task.name().to_owned(),
        table: what.to_owned(),
        ..StepReport::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_some_each_once_and_keep_something() {
        let prune = |keep_days, keep_count| MaintenanceTask::PruneBackups { keep_days, keep_count };
        let told = |tasks: &[MaintenanceTask]| check(tasks).map_err(|error| error.to_string());
        assert!(told(&[MaintenanceTask::VacuumAnalyze, prune(Some(1), None)]).is_ok());
        for (tasks, expected) in [
            (&[][..], "tasks: is empty; expected some of vacuum_analyze, reindex_bloated"),
            (
                &[MaintenanceTask::RestoreDrill, MaintenanceTask::RestoreDrill],
                "tasks: names restore_drill twice",
            ),
            (&[prune(None, None)], "tasks: prunes by nothing"),
            (&[prune(Some(1), Some(0))], "tasks: keeps no backup with 0"),
        ] {
            let error = told(tasks).expect_err(expected);
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
