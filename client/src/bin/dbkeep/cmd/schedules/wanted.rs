//! The options that a schedule is described by, for `create`, `update` and `preview`.
//!
//! Owns their grammar, and which field of the spec each of them is. A field of the wire may hold several options (all of `options` is
//! one field of an update), so that they are put into the spec as it stands. What values mean is judged by the server.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use dbkeep_client::proto::{self, timing::When};

use crate::duration::Span;

/// When a schedule fires.
#[derive(Debug, Args)]
pub(crate) struct Times {
    /// The five fields in one line, e.g. "30 2 * * MON-FRI", or @hourly, @daily, @weekly, @monthly, @yearly.
    #[arg(long, value_name = "EXPRESSION", conflicts_with_all = ["minute", "hour", "day_of_month", "month", "day_of_week"])]
    cron: Option<String>,
    /// Minutes, 0 to 59.
    #[arg(long, value_name = "FIELD")]
    minute: Option<String>,
    /// Hours, 0 to 23.
    #[arg(long, value_name = "FIELD")]
    hour: Option<String>,
    /// Days of the month, 1 to 31 [default: every day].
    #[arg(long, value_name = "FIELD")]
    day_of_month: Option<String>,
    /// Months, 1 to 12 or JAN to DEC [default: every month].
    #[arg(long, value_name = "FIELD")]
    month: Option<String>,
    /// Days of the week, 0 to 7 or SUN to SAT [default: every day].
    #[arg(long, value_name = "FIELD")]
    day_of_week: Option<String>,
    /// Zone of the fields and the exclusions, e.g. Europe/Berlin [default: UTC].
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// What becomes of a fixed time that the clock skips [default: run-shifted].
    #[arg(long, value_enum)]
    gap: Option<Gap>,
    /// What becomes of a fixed time that the clock shows twice [default: once].
    #[arg(long, value_enum)]
    fold: Option<Fold>,
    /// Begin each slot up to this much late, so that not everything begins at once; whole seconds, up to a day.
    #[arg(long, value_name = "DURATION")]
    jitter: Option<Span>,
    /// No slot fires in this window, e.g. 12-24..12-26 or "MON-FRI 08:00-18:00"; may be given again, and '' for none.
    #[arg(long, value_name = "WINDOW")]
    exclude: Vec<String>,
}

/// A field that has one option for each of its words.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident => $wire:ident { $($(#[$of:meta])* $word:ident,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
            pub(crate) enum $name {
                $($(#[$of])* $word,)*
            }

            impl From<$name> for proto::$wire {
                fn from(word: $name) -> Self {
                    match word {
                        $($name::$word => Self::$word,)*
                    }
                }
            }
        )*
    };
}

words! {
    /// Times that the clock skips.
    Gap => GapPolicy {
        /// It happens at the first instant after the gap.
        RunShifted,
        /// It does not happen that day.
        Skip,
    }
    /// Times that the clock shows twice.
    Fold => FoldPolicy {
        /// The first time only.
        Once,
        /// Both times.
        Twice,
    }
    /// A slot while the run of the slot before it is still going.
    Overlap => OverlapPolicy {
        /// It is skipped, and recorded as such.
        Skip,
        /// It begins when that run has ended; only one slot waits.
        QueueOne,
        /// It cancels that run and begins when it has ended.
        CancelOther,
    }
    /// Slots that nobody decided in time.
    Misfire => MisfirePolicy {
        /// The newest of them fires, if it is not too late for it.
        RunOnce,
        /// None of them does.
        Skip,
    }
}

/// A list as given; an empty text stands for no entry, so that a list can be emptied.
fn entries(given: &[String]) -> Vec<String> {
    given.iter().filter(|entry| !entry.is_empty()).cloned().collect()
}

/// Puts a value in its place where it was given, and says whether.
fn put<T: Clone>(place: &mut T, given: Option<&T>) -> bool {
    if let Some(value) = given {
        place.clone_from(value);
    }
    given.is_some()
}

fn wire(span: Span) -> prost_types::Duration {
    let time = std::time::Duration::from(span);
    // Beyond what the wire can say is beyond what the server takes, and is refused there.
    prost_types::Duration::try_from(time).unwrap_or(prost_types::Duration {
        seconds: i64::MAX,
        nanos: 0,
    })
}

impl Times {
    /// Puts what was given into a timing as it stands, and says whether anything was.
    pub(super) fn apply(&self, timing: &mut proto::Timing) -> bool {
        let mut changed = false;
        if let Some(expression) = &self.cron {
            timing.when = Some(When::Expression(expression.clone()));
            changed = true;
        }
        let given = [&self.minute, &self.hour, &self.day_of_month, &self.month, &self.day_of_week];
        if given.iter().any(|field| field.is_some()) {
            let mut fields = match timing.when.take() {
                Some(When::Cron(fields)) => fields,
                // Minute and hour have no default that would not surprise somebody: the server says that they are missing.
                Some(When::Expression(_)) | None => proto::CronFields {
                    day_of_month: "*".to_owned(),
                    month: "*".to_owned(),
                    day_of_week: "*".to_owned(),
                    ..proto::CronFields::default()
                },
            };
            put(&mut fields.minute, self.minute.as_ref());
            put(&mut fields.hour, self.hour.as_ref());
            put(&mut fields.day_of_month, self.day_of_month.as_ref());
            put(&mut fields.month, self.month.as_ref());
            put(&mut fields.day_of_week, self.day_of_week.as_ref());
            timing.when = Some(When::Cron(fields));
            changed = true;
        }
        changed |= put(&mut timing.timezone, self.timezone.as_ref());
        if let Some(gap) = self.gap {
            timing.set_gap(gap.into());
            changed = true;
        }
        if let Some(fold) = self.fold {
            timing.set_fold(fold.into());
            changed = true;
        }
        if let Some(jitter) = self.jitter {
            timing.jitter = Some(wire(jitter));
            changed = true;
        }
        if !self.exclude.is_empty() {
            timing.exclusions = entries(&self.exclude);
            changed = true;
        }
        changed
    }
}

/// A task of maintenance as people type it: "vacuum_analyze", "prune_backups:days=30,count=10".
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Task(proto::MaintenanceTask);

/// Why a text is no task.
#[derive(Debug, thiserror::Error)]
#[error("expected a name, and of prune_backups what stays, like prune_backups:days=30,count=10")]
pub(crate) struct InvalidTask;

impl FromStr for Task {
    type Err = InvalidTask;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, limits) = match text.split_once(':') {
            Some((name, limits)) => (name, Some(limits)),
            None => (text, None),
        };
        let mut task = proto::MaintenanceTask {
            name: name.to_owned(),
            ..proto::MaintenanceTask::default()
        };
        for limit in limits.into_iter().flat_map(|limits| limits.split(',')) {
            let (key, number) = limit.split_once('=').ok_or(InvalidTask)?;
            let place = match key {
                "days" => &mut task.keep_days,
                "count" => &mut task.keep_count,
                _ => return Err(InvalidTask),
            };
            if place.replace(number.parse().map_err(|_| InvalidTask)?).is_some() {
                return Err(InvalidTask);
            }
        }
        Ok(Self(task))
    }
}

/// A limit that can be taken away again: a number, or "none".
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limit<T>(Option<T>);

impl<T: FromStr> FromStr for Limit<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(None));
        }
        text.parse().map(|number| Self(Some(number)))
    }
}

/// What a schedule does, how, and who hears of it. Switches take `=false`, so that an update can turn them off.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// An operation of the target's catalog; may be given again, in the order in which they run.
    #[arg(long, value_name = "NAME", conflicts_with = "maintenance")]
    operation: Vec<String>,
    /// Built-in maintenance: vacuum_analyze, reindex_bloated, verify_backups, restore_drill, prune_backups:days=30,count=10; may be
    /// given again.
    #[arg(long, value_name = "TASK")]
    maintenance: Vec<Task>,
    /// Target that it works on; may be left away where the server has one.
    #[arg(long)]
    target: Option<String>,
    #[command(flatten)]
    times: Times,
    /// For people, up to 500 characters.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Do not fire; --disabled=false fires again.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disabled: Option<bool>,
    /// Stop every run after counting. Without it, a schedule executes.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dry_run: Option<bool>,
    /// Rows per transaction, 1 to 10000 [server default: 1000].
    #[arg(long, value_name = "ROWS")]
    batch_size: Option<u32>,
    /// Stop at a batch boundary after this time, 60s to 2h [server default: 30m].
    #[arg(long, value_name = "DURATION")]
    max_time: Option<Span>,
    /// Refuse a run that would delete more rows than this; "none" for no such limit.
    #[arg(long, value_name = "ROWS")]
    max_rows: Option<Limit<u64>>,
    /// Refuse a run that would delete more of a table than this, over 0 up to 1; "none" for what the catalog says.
    #[arg(long, value_name = "FRACTION")]
    max_fraction: Option<Limit<f64>>,
    /// Work without rests; the foreground will feel it.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    full_speed: Option<bool>,
    /// Begin no operation after one that failed.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    stop_on_failure: Option<bool>,
    /// Make the space of the deleted rows reusable at the end (VACUUM).
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    vacuum: Option<bool>,
    /// What a slot does while the run of the slot before it is still going [server default: skip].
    #[arg(long, value_enum)]
    overlap: Option<Overlap>,
    /// Whether slots that nobody decided in time are caught up [server default: run-once].
    #[arg(long, value_enum)]
    misfire: Option<Misfire>,
    /// A slot may begin so late [server default: 1h].
    #[arg(long, value_name = "DURATION")]
    catch_up: Option<Span>,
    /// A run has to end so long after its slot; 0s for no deadline.
    #[arg(long, value_name = "DURATION")]
    deadline: Option<Span>,
    /// Pause after so many failures in a row; 0 for never.
    #[arg(long, value_name = "COUNT")]
    pause_after_failures: Option<u32>,
    /// Tell of success.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    on_success: Option<bool>,
    /// Tell of failure, of refusals, and of slots that were missed.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    on_failure: Option<bool>,
    /// Tell of warnings, and of slots that were skipped.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    on_warnings: Option<bool>,
    /// Address for channels of e-mail; may be given again, and '' for none.
    #[arg(long, value_name = "ADDRESS")]
    recipient: Vec<String>,
    /// One of the server's channels; may be given again, and '' for none.
    #[arg(long, value_name = "NAME")]
    channel: Vec<String>,
}

impl Wanted {
    /// Puts what was given into a spec as it stands, and names the fields of the spec that it belongs to.
    pub(super) fn apply(&self, spec: &mut proto::ScheduleSpec) -> Vec<&'static str> {
        let mut fields = Vec::new();
        let mut note = |field, changed| {
            if changed {
                fields.push(field);
            }
        };
        if !self.operation.is_empty() {
            spec.operations = entries(&self.operation);
            spec.maintenance.clear();
            note("operations", true);
        }
        if !self.maintenance.is_empty() {
            spec.maintenance = self.maintenance.iter().map(|task| task.0.clone()).collect();
            spec.operations.clear();
            note("maintenance", true);
        }
        note("target", put(&mut spec.target, self.target.as_ref()));
        note("description", put(&mut spec.description, self.description.as_ref()));
        let mut timing = spec.timing.take().unwrap_or_default();
        note("timing", self.times.apply(&mut timing));
        // Nothing said about the time is no timing, not an empty one.
        spec.timing = (timing != proto::Timing::default()).then_some(timing);
        if let Some(disabled) = self.disabled {
            spec.enabled = Some(!disabled);
            note("enabled", true);
        }
        note("options", self.options(spec.options.get_or_insert_default()));
        if let Some(overlap) = self.overlap {
            spec.set_overlap(overlap.into());
            note("overlap", true);
        }
        if let Some(misfire) = self.misfire {
            spec.set_misfire(misfire.into());
            note("misfire", true);
        }
        if let Some(time) = self.catch_up {
            spec.catch_up = Some(wire(time));
            note("catch_up", true);
        }
        if let Some(time) = self.deadline {
            spec.deadline = Some(wire(time));
            note("deadline", true);
        }
        let failures = self.pause_after_failures.as_ref();
        note("pause_after_failures", put(&mut spec.pause_after_failures, failures));
        note("notify", self.notices(spec.notify.get_or_insert_default()));
        fields
    }

    fn options(&self, options: &mut proto::ScheduleOptions) -> bool {
        let mut changed = put(&mut options.dry_run, self.dry_run.as_ref());
        changed |= put(&mut options.full_speed, self.full_speed.as_ref());
        changed |= put(&mut options.stop_on_failure, self.stop_on_failure.as_ref());
        changed |= put(&mut options.vacuum, self.vacuum.as_ref());
        if self.batch_size.is_some() {
            options.batch_size = self.batch_size;
            changed = true;
        }
        if let Some(time) = self.max_time {
            options.max_execution_time = Some(wire(time));
            changed = true;
        }
        if let Some(limit) = self.max_rows {
            options.max_rows = limit.0;
            changed = true;
        }
        if let Some(limit) = self.max_fraction {
            options.max_fraction = limit.0;
            changed = true;
        }
        changed
    }

    fn notices(&self, notices: &mut proto::NotifyRules) -> bool {
        let mut changed = put(&mut notices.on_success, self.on_success.as_ref());
        changed |= put(&mut notices.on_failure, self.on_failure.as_ref());
        changed |= put(&mut notices.on_warnings, self.on_warnings.as_ref());
        if !self.recipient.is_empty() {
            notices.recipients = entries(&self.recipient);
            changed = true;
        }
        if !self.channel.is_empty() {
            notices.channels = entries(&self.channel);
            changed = true;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        wanted: Wanted,
    }

    fn wanted(line: &str) -> Wanted {
        let words = std::iter::once("line").chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().wanted
    }

    #[test]
    fn tasks_are_read() {
        let task = |text: &str| text.parse::<Task>().map(|task| task.0);
        assert_eq!(task("vacuum_analyze").unwrap().name, "vacuum_analyze");
        let prune = task("prune_backups:days=30,count=10").unwrap();
        assert_eq!((prune.keep_days, prune.keep_count), (Some(30), Some(10)));
        assert_eq!(task("prune_backups:count=1").unwrap().keep_days, None);
        for text in ["prune_backups:", "x:days", "x:days=many", "x:weeks=1", "x:days=1,days=2"] {
            assert!(task(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_given_changes_and_the_rest_stays() {
        let mut spec = proto::ScheduleSpec {
            maintenance: vec![proto::MaintenanceTask::default()],
            timing: Some(proto::Timing {
                when: Some(When::Cron(proto::CronFields {
                    minute: "30".into(),
                    hour: "2".into(),
                    day_of_month: "*".into(),
                    month: "*".into(),
                    day_of_week: "*".into(),
                })),
                timezone: "Europe/Berlin".into(),
                exclusions: vec!["12-24..12-26".into()],
                ..Default::default()
            }),
            options: Some(proto::ScheduleOptions {
                batch_size: Some(10),
                max_rows: Some(5),
                vacuum: true,
                ..Default::default()
            }),
            ..Default::default()
        };
        let line = "--operation a --hour 3 --max-rows none --vacuum=false --dry-run --deadline 2h --disabled=false";
        let fields = wanted(line).apply(&mut spec);
        assert_eq!(fields, ["operations", "timing", "enabled", "options", "deadline"]);
        assert!(spec.maintenance.is_empty());
        let timing = spec.timing.unwrap();
        assert_eq!((timing.timezone.as_str(), timing.exclusions.len()), ("Europe/Berlin", 1));
        let Some(When::Cron(fields)) = timing.when else {
            panic!("the fields are gone")
        };
        assert_eq!((fields.minute.as_str(), fields.hour.as_str()), ("30", "3"));
        let options = spec.options.unwrap();
        assert_eq!((options.batch_size, options.max_rows), (Some(10), None));
        assert!(options.dry_run && !options.vacuum);
        assert_eq!((spec.enabled, spec.deadline.unwrap().seconds), (Some(true), 7200));
    }

    #[test]
    fn nothing_given_is_nothing_changed() {
        let mut spec = proto::ScheduleSpec::default();
        assert!(wanted("").apply(&mut spec).is_empty());
        assert_eq!(spec.timing, None);
    }

    #[test]
    fn a_list_can_be_emptied() {
        let mut spec = proto::ScheduleSpec::default();
        spec.notify.get_or_insert_default().channels = vec!["mail".into()];
        let line = Line::try_parse_from(["line", "--channel", ""]).unwrap();
        assert_eq!(line.wanted.apply(&mut spec), ["notify"]);
        assert!(spec.notify.unwrap().channels.is_empty());
    }
}
