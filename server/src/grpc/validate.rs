//! Checks of single request fields, gathered so that a caller learns of all its mistakes at once.
//!
//! Bounds that belong to the engine are taken from there. What needs the catalog, the store or a target is refused by the engine
//! itself. Called by the services before they call the engine.

use std::time::Duration;

use dbkeep_engine::{
    engine::{MAX_OPERATIONS, MAX_REQUEST_ID, backups::MAX_TABLES},
    model::RunOptions,
};
use dbkeep_proto::v1;

use super::status::{Fault, Violation};

/// Longest reason, characters.
const MAX_REASON: usize = 500;
/// Longest confirmation phrase, characters: three tables with the longest names that databases take, and room.
const MAX_PHRASE: usize = 1_000;
/// Largest page.
const MAX_PAGE: u32 = 500;
/// Page size where the caller names none.
const DEFAULT_PAGE: u32 = 50;
/// Most chunks of one answer.
const MAX_CHUNKS: u32 = 10_000;
/// Number of chunks where the caller names none.
const DEFAULT_CHUNKS: u32 = 1_000;

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Check {
    violations: Vec<Violation>,
}

impl Check {
    /// Notes a mistake.
    pub(super) fn refuse(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.violations.push(Violation {
            field: field.into(),
            problem: problem.into(),
        });
    }

    /// Ends the check.
    ///
    /// # Errors
    /// [`Fault::Fields`] where a mistake was noted.
    pub(super) fn finish(self) -> Result<(), Fault> {
        if self.violations.is_empty() {
            Ok(())
        } else {
            Err(Fault::Fields(self.violations))
        }
    }

    /// A name or id that must be there.
    pub(super) fn present(&mut self, field: &str, value: &str, expected: &str) {
        if value.is_empty() {
            self.refuse(field, format!("is empty; expected {expected}"));
        }
    }

    /// A request id, which may be empty.
    pub(super) fn request_id(&mut self, value: &str) {
        let length = value.chars().count();
        if length > MAX_REQUEST_ID || value.chars().any(char::is_control) {
            self.refuse(
                "request_id",
                format!("has {length} characters; expected at most {MAX_REQUEST_ID} printable ones"),
            );
        }
    }

    /// The reason of a cancel request, which may be empty.
    pub(super) fn reason(&mut self, value: &str) {
        let length = value.chars().count();
        if length > MAX_REASON {
            self.refuse("reason", format!("has {length} characters; expected at most {MAX_REASON}"));
        }
    }

    /// A confirmation phrase, which may be empty.
    pub(super) fn phrase(&mut self, value: &str) {
        let length = value.chars().count();
        if length > MAX_PHRASE {
            self.refuse(
                "confirmation_phrase",
                format!("has {length} characters; expected at most {MAX_PHRASE}"),
            );
        }
    }

    /// Names of operations; none at all is a mistake unless a plan names them.
    pub(super) fn operations(&mut self, names: &[String], planned: bool) {
        if names.len() > MAX_OPERATIONS || (names.is_empty() && !planned) {
            let count = names.len();
            return self.refuse(
                "operations",
                format!("names {count} operations; expected 1 to {MAX_OPERATIONS}"),
            );
        }
        for (position, name) in names.iter().enumerate() {
            if name.is_empty() {
                self.refuse(
                    format!("operations[{position}]"),
                    "is empty; expected the name of an operation",
                );
            } else if names[..position].contains(name) {
                self.refuse(
                    format!("operations[{position}]"),
                    format!("names {name} again; expected each operation once"),
                );
            }
        }
    }

    /// Options of a run, with every default filled in; `dry_run` is what an absent one means.
    pub(super) fn options(&mut self, options: Option<v1::RunOptions>, dry_run: bool) -> RunOptions {
        let defaults = RunOptions {
            dry_run,
            ..RunOptions::default()
        };
        let Some(options) = options else { return defaults };
        let batch_rows = options.batch_size.unwrap_or(defaults.batch_rows);
        let (least, most) = (RunOptions::BATCH_ROWS.start(), RunOptions::BATCH_ROWS.end());
        if !RunOptions::BATCH_ROWS.contains(&batch_rows) {
            self.refuse("options.batch_size", format!("is {batch_rows}; expected {least} to {most}"));
        }
        let duty_cycle_percent = self.duty_cycle(&options, defaults.duty_cycle_percent);
        RunOptions {
            dry_run: options.dry_run.unwrap_or(defaults.dry_run),
            batch_rows,
            max_execution_seconds: options.max_execution_time.map_or(defaults.max_execution_seconds, |time| {
                self.whole_seconds("options.max_execution_time", &time, RunOptions::MAX_EXECUTION_SECONDS)
            }),
            full_speed: options.full_speed,
            capture: options.capture,
            stop_on_failure: options.stop_on_failure,
            max_rows: options.max_rows,
            max_share_millionths: None,
            force: options.force,
            max_rows_per_second: options.max_rows_per_second,
            duty_cycle_percent,
            queue: options.queue,
            max_replica_lag_seconds: options
                .max_replica_lag
                .map(|lag| self.whole_seconds("options.max_replica_lag", &lag, RunOptions::MAX_REPLICA_LAG_SECONDS)),
            vacuum: options.vacuum,
        }
    }

    /// The share of its time that a run is at work; full speed is all of it.
    fn duty_cycle(&mut self, options: &v1::RunOptions, default: u32) -> u32 {
        let percent = options.duty_cycle_percent.unwrap_or(default);
        let (least, most) = (RunOptions::DUTY_CYCLE_PERCENT.start(), RunOptions::DUTY_CYCLE_PERCENT.end());
        if !RunOptions::DUTY_CYCLE_PERCENT.contains(&percent) {
            self.refuse(
                "options.duty_cycle_percent",
                format!("is {percent}; expected {least} to {most}"),
            );
        } else if options.full_speed && options.duty_cycle_percent.is_some_and(|percent| percent < *most) {
            self.refuse(
                "options.duty_cycle_percent",
                format!("is {percent} at full speed; expected {most}, or that one of the two is left away"),
            );
        }
        percent
    }

    /// A time in whole seconds, within bounds.
    fn whole_seconds(&mut self, field: &str, time: &prost_types::Duration, bounds: std::ops::RangeInclusive<u32>) -> u32 {
        match u32::try_from(time.seconds) {
            Ok(seconds) if time.nanos == 0 && bounds.contains(&seconds) => seconds,
            _ => {
                let given = if time.nanos == 0 {
                    format!("{} s", time.seconds)
                } else {
                    format!("{} s and {} ns", time.seconds, time.nanos)
                };
                let (least, most) = (bounds.start(), bounds.end());
                self.refuse(field, format!("is {given}; expected {least} s to {most} s in whole seconds"));
                *bounds.start()
            }
        }
    }

    /// Names of tables, which may be none at all.
    pub(super) fn tables(&mut self, names: &[String]) {
        if names.len() > MAX_TABLES {
            let count = names.len();
            return self.refuse("tables", format!("names {count} tables; expected at most {MAX_TABLES}"));
        }
        for (position, name) in names.iter().enumerate() {
            if name.is_empty() || name.chars().any(char::is_control) {
                self.refuse(
                    format!("tables[{position}]"),
                    "is empty or not printable; expected the name of a table",
                );
            } else if names[..position].contains(name) {
                self.refuse(
                    format!("tables[{position}]"),
                    format!("names {name} again; expected each table once"),
                );
            }
        }
    }

    /// An age of at least a second.
    pub(super) fn age(&mut self, field: &str, wire: &prost_types::Duration) -> Option<Duration> {
        let age = Duration::try_from(*wire).ok().filter(|age| *age >= Duration::from_secs(1));
        if age.is_none() {
            self.refuse(
                field,
                format!("is {} s and {} ns; expected at least 1 s", wire.seconds, wire.nanos),
            );
        }
        age
    }

    /// Number of entries on a page.
    pub(super) fn page_size(&mut self, value: u32) -> u32 {
        if value > MAX_PAGE {
            self.refuse(
                "page_size",
                format!("is {value}; expected 1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}"),
            );
        }
        if value == 0 { DEFAULT_PAGE } else { value.min(MAX_PAGE) }
    }

    /// Number of chunks in an answer.
    pub(super) fn max_chunks(&mut self, value: u32) -> u32 {
        if value > MAX_CHUNKS {
            self.refuse(
                "max_chunks",
                format!("is {value}; expected 1 to {MAX_CHUNKS}, or 0 for {DEFAULT_CHUNKS}"),
            );
        }
        if value == 0 { DEFAULT_CHUNKS } else { value.min(MAX_CHUNKS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(check: Check) -> Vec<String> {
        match check.finish() {
            Err(Fault::Fields(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            _ => Vec::new(),
        }
    }

    fn options(batch_size: u32, seconds: i64, nanos: i32) -> v1::RunOptions {
        let time = prost_types::Duration { seconds, nanos };
        v1::RunOptions {
            batch_size: Some(batch_size),
            max_execution_time: Some(time),
            ..v1::RunOptions::default()
        }
    }

    #[test]
    fn bounds_of_options_are_inclusive() {
        for (given, refused) in [
            (options(1, 60, 0), vec![]),
            (options(10_000, 7_200, 0), vec![]),
            (options(0, 60, 0), vec!["options.batch_size"]),
            (
                options(10_001, 59, 0),
                vec!["options.batch_size", "options.max_execution_time"],
            ),
            (options(1, 7_201, 0), vec!["options.max_execution_time"]),
            (options(1, -60, 0), vec!["options.max_execution_time"]),
            (options(1, 60, 1), vec!["options.max_execution_time"]),
            (options(1, i64::MAX, 0), vec!["options.max_execution_time"]),
        ] {
            let mut check = Check::default();
            check.options(Some(given), true);
            assert_eq!(fields(check), refused, "{given:?}");
        }
    }

    #[test]
    fn pace_has_bounds_and_one_meaning() {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        for (duty_cycle_percent, full_speed, max_replica_lag, refused) in [
            (None, false, None, vec![]),
            (Some(1), false, seconds(1), vec![]),
            (Some(100), true, seconds(3_600), vec![]),
            (None, true, None, vec![]),
            (
                Some(0),
                false,
                seconds(0),
                vec!["options.duty_cycle_percent", "options.max_replica_lag"],
            ),
            (
                Some(101),
                false,
                seconds(3_601),
                vec!["options.duty_cycle_percent", "options.max_replica_lag"],
            ),
            (Some(50), true, None, vec!["options.duty_cycle_percent"]),
        ] {
            let given = v1::RunOptions {
                duty_cycle_percent,
                full_speed,
                max_replica_lag,
                ..v1::RunOptions::default()
            };
            let mut check = Check::default();
            let options = check.options(Some(given), true);
            let valid = refused.is_empty();
            assert_eq!(fields(check), refused, "{given:?}");
            if valid {
                let percent = duty_cycle_percent.unwrap_or(if full_speed { 100 } else { 50 });
                assert_eq!(options.limits().duty_cycle_percent, percent, "{given:?}");
            }
        }
    }

    #[test]
    fn absent_options_are_a_dry_run_with_defaults() {
        let mut check = Check::default();
        assert_eq!(check.options(None, true), RunOptions::default());
        assert!(check.options(Some(v1::RunOptions::default()), true).dry_run);
        assert!(
            !check
                .options(
                    Some(v1::RunOptions {
                        dry_run: Some(false),
                        ..v1::RunOptions::default()
                    }),
                    true
                )
                .dry_run
        );
    }

    #[test]
    fn operations_are_named_once() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (given, planned, refused) in [
            (names(&["a", "b"]), false, vec![]),
            (names(&[]), true, vec![]),
            (names(&[]), false, vec!["operations"]),
            (vec!["a".to_owned(); 33], false, vec!["operations"]),
            (names(&["a", "", "a"]), false, vec!["operations[1]", "operations[2]"]),
        ] {
            let mut check = Check::default();
            check.operations(&given, planned);
            assert_eq!(fields(check), refused, "{given:?}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mut check = Check::default();
        check.request_id(&"x".repeat(65));
        check.reason(&"x".repeat(501));
        check.page_size(501);
        check.max_chunks(10_001);
        check.present("id", "", "the id of a run");
        assert_eq!(fields(check), ["request_id", "reason", "page_size", "max_chunks", "id"]);
    }
}
