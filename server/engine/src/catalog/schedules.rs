//! The `[[schedule]]` sections of a catalog: schedules that a server creates for a target when it first meets them.

use serde::Deserialize;

use super::{CatalogError, Source, Table};
use crate::{
    model::{CronFields, NotifyRules, RunOptions, ScheduleOptions, ScheduleSpec, Timing, schedule::Work},
    rule::Origin,
    schedule::{Cron, FieldProblem, zone},
};

/// A schedule that a catalog declares. Its target is the one that the catalog belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredSchedule {
    /// What it does and when; `target` is empty.
    pub spec: ScheduleSpec,
    /// Where it is declared.
    pub origin: Origin,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    name: String,
    #[serde(default)]
    description: String,
    cron: String,
    #[serde(default)]
    timezone: Option<String>,
    operations: Vec<String>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    batch_size: Option<u32>,
    #[serde(default)]
    max_execution_seconds: Option<u32>,
    #[serde(default)]
    max_rows: Option<u64>,
    #[serde(default)]
    notify: NotifyRules,
}

impl Source<'_> {
    /// Reads a `[[schedule]]` section.
    pub(super) fn schedule(&self, table: Table<'_>) -> Result<DeclaredSchedule, CatalogError> {
        let start = table.span().start;
        let settings: Settings = self.read(table)?;
        let refuse = |problems: Vec<FieldProblem>| {
            let said: Vec<_> = problems.iter().map(ToString::to_string).collect();
            self.refuse(start, format!("schedule {}: {}", settings.name, said.join("; ")))
        };
        let cron = CronFields::from_expression(&settings.cron).map_err(refuse)?;
        Cron::parse(&cron).map_err(refuse)?;
        let timezone = settings.timezone.clone().unwrap_or_else(|| Timing::UTC.to_owned());
        zone(&timezone).map_err(|problem| refuse(vec![problem]))?;
        let defaults = ScheduleOptions::default();
        let options = ScheduleOptions {
            batch_rows: settings.batch_size.unwrap_or(defaults.batch_rows),
            max_execution_seconds: settings.max_execution_seconds.unwrap_or(defaults.max_execution_seconds),
            max_rows: settings.max_rows,
            ..defaults
        };
        for (key, value, allowed) in [
            ("batch_size", options.batch_rows, RunOptions::BATCH_ROWS),
            (
                "max_execution_seconds",
                options.max_execution_seconds,
                RunOptions::MAX_EXECUTION_SECONDS,
            ),
        ] {
            if !allowed.contains(&value) {
                let problem = format!("is {value}; expected {} to {}", allowed.start(), allowed.end());
                return Err(refuse(vec![FieldProblem::new(key, problem)]));
            }
        }
        Ok(DeclaredSchedule {
            origin: self.origin(start),
            spec: ScheduleSpec {
                name: settings.name,
                description: settings.description,
                target: String::new(),
                work: Work::Operations(settings.operations),
                timing: Timing {
                    cron,
                    timezone,
                    ..Timing::default()
                },
                enabled: settings.enabled.unwrap_or(true),
                options,
                overlap: Default::default(),
                misfire: Default::default(),
                pause_after_failures: 0,
                deadline_seconds: 0,
                notify: settings.notify,
            },
        })
    }
}
