//! What a schedule is made of, and what of it is to change.
//!
//! Owns the builders over `ScheduleSpec` and its parts. What they mean is judged by the server, all of it in one answer. Sent by
//! `schedules.rs`.

use std::time::Duration;

use dbkeep_proto::v1::{
    self, CreateScheduleRequest, CronFields, FoldPolicy, GapPolicy, MaintenanceTask, MisfirePolicy, OverlapPolicy, ScheduleSpec,
    Timing, UpdateScheduleRequest, timing::When,
};

use crate::{cleanup::wire_duration, retry};

/// When a schedule fires. The zone is UTC where not set.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct ScheduleTiming {
    message: Timing,
}

impl ScheduleTiming {
    /// Five fields in one line (`"30 2 * * MON-FRI"`), or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    pub fn cron(expression: impl Into<String>) -> Self {
        Self::when(When::Expression(expression.into()))
    }

    /// The five fields, one by one; a mistake is told with the name of its field.
    pub fn fields(fields: CronFields) -> Self {
        Self::when(When::Cron(fields))
    }

    /// A timing as the wire has it, for instance one that was read.
    pub fn of_message(message: Timing) -> Self {
        Self { message }
    }

    fn when(when: When) -> Self {
        Self {
            message: Timing {
                when: Some(when),
                ..Timing::default()
            },
        }
    }

    /// IANA name of the zone that fields and exclusions are read in, e.g. `Europe/Berlin`.
    pub fn timezone(mut self, name: impl Into<String>) -> Self {
        self.message.timezone = name.into();
        self
    }

    /// What becomes of a fixed time that the clock skips; it happens after the gap by default.
    pub fn gap(mut self, policy: GapPolicy) -> Self {
        self.message.set_gap(policy);
        self
    }

    /// What becomes of a fixed time that the clock shows twice; it happens once by default.
    pub fn fold(mut self, policy: FoldPolicy) -> Self {
        self.message.set_fold(policy);
        self
    }

    /// Most time that a slot begins late on purpose, whole seconds up to a day.
    pub fn jitter(mut self, time: Duration) -> Self {
        self.message.jitter = Some(wire_duration(time));
        self
    }

    /// A window in which no slot fires, e.g. `"12-24..12-26"` or `"MON-FRI 08:00-18:00"`; call it again for further ones.
    pub fn exclude(mut self, window: impl Into<String>) -> Self {
        self.message.exclusions.push(window.into());
        self
    }

    pub(super) fn into_message(self) -> Timing {
        self.message
    }
}

/// How the runs of a schedule work; the server's defaults where not set. Unlike a [`RunRequest`](crate::RunRequest), it executes.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct ScheduleManner {
    message: v1::ScheduleOptions,
}

impl ScheduleManner {
    /// Stops every run after planning.
    pub fn dry_run(mut self) -> Self {
        self.message.dry_run = true;
        self
    }

    /// Rows per transaction, 1 to 10,000; 1,000 by default.
    pub fn batch_size(mut self, rows: u32) -> Self {
        self.message.batch_size = Some(rows);
        self
    }

    /// Longest time at work, 60 s to 7,200 s in whole seconds; 1,800 s by default.
    pub fn max_execution_time(mut self, time: Duration) -> Self {
        self.message.max_execution_time = Some(wire_duration(time));
        self
    }

    /// Most rows that a run may delete; a plan over it is refused.
    pub fn max_rows(mut self, rows: u64) -> Self {
        self.message.max_rows = Some(rows);
        self
    }

    /// Most of a table that a run may delete, over 0 up to 1.
    pub fn max_fraction(mut self, fraction: f64) -> Self {
        self.message.max_fraction = Some(fraction);
        self
    }

    /// Works without rests.
    pub fn full_speed(mut self) -> Self {
        self.message.full_speed = true;
        self
    }

    /// Begins no further operation after one that failed.
    pub fn stop_on_failure(mut self) -> Self {
        self.message.stop_on_failure = true;
        self
    }

    /// Makes the space of deleted rows reusable after the last step.
    pub fn vacuum(mut self) -> Self {
        self.message.vacuum = true;
        self
    }
}

/// Who hears of what; nobody of nothing by default.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct ScheduleNotices {
    message: v1::NotifyRules,
}

impl ScheduleNotices {
    /// Of success.
    pub fn on_success(mut self) -> Self {
        self.message.on_success = true;
        self
    }

    /// Of failure, of a refusal, and of slots that were missed.
    pub fn on_failure(mut self) -> Self {
        self.message.on_failure = true;
        self
    }

    /// Of warnings, and of slots that were skipped.
    pub fn on_warnings(mut self) -> Self {
        self.message.on_warnings = true;
        self
    }

    /// An address, for channels of e-mail; call it again for further ones.
    pub fn recipient(mut self, address: impl Into<String>) -> Self {
        self.message.recipients.push(address.into());
        self
    }

    /// One of the server's channels; call it again for further ones.
    pub fn channel(mut self, name: impl Into<String>) -> Self {
        self.message.channels.push(name.into());
        self
    }
}

/// What a draft and an update can say alike. Each method tells its field by the name that an update mask has for it.
macro_rules! describes_a_schedule {
    ($builder:ident) => {
        impl $builder {
            /// For people, up to 500 characters.
            pub fn description(mut self, text: impl Into<String>) -> Self {
                self.spec("description").description = text.into();
                self
            }

            /// The target that it works on; the server's only one where not set.
            pub fn target(mut self, target: impl Into<String>) -> Self {
                self.spec("target").target = target.into();
                self
            }

            /// An operation of the target's catalog, in the place of any maintenance; call it again for further ones.
            pub fn operation(mut self, name: impl Into<String>) -> Self {
                let spec = self.spec("operations");
                spec.maintenance.clear();
                spec.operations.push(name.into());
                self
            }

            /// Built-in maintenance, in the place of any operations; call it again for further tasks. `vacuum_analyze`,
            /// `reindex_bloated`, `verify_backups` or `restore_drill`.
            pub fn maintenance(self, name: impl Into<String>) -> Self {
                self.task(name.into(), None, None)
            }

            /// The maintenance `prune_backups`: backups older than so many days go, and all but so many of the newest.
            pub fn prune_backups(self, keep_days: Option<u32>, keep_count: Option<u32>) -> Self {
                self.task("prune_backups".to_owned(), keep_days, keep_count)
            }

            fn task(mut self, name: String, keep_days: Option<u32>, keep_count: Option<u32>) -> Self {
                let spec = self.spec("maintenance");
                spec.operations.clear();
                spec.maintenance.push(MaintenanceTask {
                    name,
                    keep_days,
                    keep_count,
                });
                self
            }

            /// When it fires.
            pub fn timing(mut self, timing: ScheduleTiming) -> Self {
                self.spec("timing").timing = Some(timing.message);
                self
            }

            /// Whether it fires at all; it does by default.
            pub fn enabled(mut self, enabled: bool) -> Self {
                self.spec("enabled").enabled = Some(enabled);
                self
            }

            /// How its runs work, all of it.
            pub fn manner(mut self, manner: ScheduleManner) -> Self {
                self.spec("options").options = Some(manner.message);
                self
            }

            /// What a slot does while the run of the slot before it is still going; it is skipped by default.
            pub fn overlap(mut self, policy: OverlapPolicy) -> Self {
                self.spec("overlap").set_overlap(policy);
                self
            }

            /// Whether slots that nobody decided in time are caught up; the newest is, by default.
            pub fn misfire(mut self, policy: MisfirePolicy) -> Self {
                self.spec("misfire").set_misfire(policy);
                self
            }

            /// A slot may begin so late; an hour by default.
            pub fn catch_up(mut self, time: Duration) -> Self {
                self.spec("catch_up").catch_up = Some(wire_duration(time));
                self
            }

            /// So many failures in a row pause the schedule; 0, the default, for never.
            pub fn pause_after_failures(mut self, failures: u32) -> Self {
                self.spec("pause_after_failures").pause_after_failures = failures;
                self
            }

            /// A run has to end so long after its slot; zero, the default, for no deadline.
            pub fn deadline(mut self, time: Duration) -> Self {
                self.spec("deadline").deadline = (!time.is_zero()).then(|| wire_duration(time));
                self
            }

            /// Who hears of what, all of it.
            pub fn notify(mut self, notices: ScheduleNotices) -> Self {
                self.spec("notify").notify = Some(notices.message);
                self
            }
        }
    };
}

/// A schedule to create. Made with a request id of its own; a clone repeats the same call and creates no second schedule.
#[derive(Debug, Clone)]
#[must_use]
pub struct ScheduleDraft {
    message: CreateScheduleRequest,
}

describes_a_schedule!(ScheduleDraft);

impl ScheduleDraft {
    /// A schedule of this name, 1 to 100 characters, which needs a timing and work to do.
    pub fn new(name: impl Into<String>) -> Self {
        Self::of_spec(ScheduleSpec {
            name: name.into(),
            ..ScheduleSpec::default()
        })
    }

    /// A schedule as the wire has it, for instance a copy of one that was read.
    pub fn of_spec(spec: ScheduleSpec) -> Self {
        Self {
            message: CreateScheduleRequest {
                spec: Some(spec),
                request_id: retry::request_id(),
            },
        }
    }

    /// Replaces the request id that was made up; see [`RunRequest::request_id`](crate::RunRequest::request_id).
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.message.request_id = id.into();
        self
    }

    fn spec(&mut self, _field: &'static str) -> &mut ScheduleSpec {
        self.message.spec.get_or_insert_default()
    }

    pub(super) fn into_message(self) -> CreateScheduleRequest {
        self.message
    }
}

/// What is to change about a schedule: the fields that are set, each of them as a whole. One that sets nothing is refused.
#[derive(Debug, Clone)]
#[must_use]
pub struct ScheduleUpdate {
    message: UpdateScheduleRequest,
}

describes_a_schedule!(ScheduleUpdate);

impl ScheduleUpdate {
    /// Nothing yet about this schedule, by id or name.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            message: UpdateScheduleRequest {
                id: id.into(),
                ..UpdateScheduleRequest::default()
            },
        }
    }

    /// Only from this etag on: a schedule that was changed since is left as it is.
    pub fn etag(mut self, etag: impl Into<String>) -> Self {
        self.message.etag = etag.into();
        self
    }

    /// A new name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.spec("name").name = name.into();
        self
    }

    /// These fields of a spec, by their names in `ScheduleSpec`; what was set before is forgotten.
    pub fn of_spec(mut self, spec: ScheduleSpec, fields: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.message.spec = Some(spec);
        self.message.update_mask = Some(prost_types::FieldMask {
            paths: fields.into_iter().map(Into::into).collect(),
        });
        self
    }

    fn spec(&mut self, field: &'static str) -> &mut ScheduleSpec {
        let paths = &mut self.message.update_mask.get_or_insert_default().paths;
        if !paths.iter().any(|path| path == field) {
            paths.push(field.to_owned());
        }
        self.message.spec.get_or_insert_default()
    }

    pub(super) fn into_message(self) -> UpdateScheduleRequest {
        self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(update: ScheduleUpdate) -> Vec<String> {
        update.into_message().update_mask.unwrap_or_default().paths
    }

    #[test]
    fn every_field_of_a_draft_arrives_in_its_place() {
        let timing = ScheduleTiming::cron("0 2 * * *")
            .timezone("Europe/Berlin")
            .gap(GapPolicy::Skip)
            .fold(FoldPolicy::Twice)
            .jitter(Duration::from_secs(60))
            .exclude("12-24..12-26");
        let manner = ScheduleManner::default()
            .batch_size(10)
            .max_rows(5)
            .max_fraction(0.5)
            .vacuum();
        let notices = ScheduleNotices::default()
            .on_failure()
            .recipient("a@b.example")
            .channel("mail");
        let draft = ScheduleDraft::new("nightly")
            .description("every night")
            .target("main")
            .operation("a")
            .operation("b")
            .timing(timing)
            .enabled(false)
            .manner(manner)
            .overlap(OverlapPolicy::QueueOne)
            .misfire(MisfirePolicy::Skip)
            .catch_up(Duration::from_secs(600))
            .pause_after_failures(3)
            .deadline(Duration::from_secs(3600))
            .notify(notices);
        let message = draft.into_message();
        assert!(!message.request_id.is_empty());
        let spec = message.spec.unwrap();
        assert_eq!((spec.name.as_str(), spec.target.as_str()), ("nightly", "main"));
        assert_eq!(spec.operations, ["a", "b"]);
        let timing = spec.timing.as_ref().unwrap();
        assert_eq!(timing.when, Some(When::Expression("0 2 * * *".into())));
        assert_eq!((timing.gap(), timing.fold()), (GapPolicy::Skip, FoldPolicy::Twice));
        assert_eq!(timing.jitter.unwrap().seconds, 60);
        let options = spec.options.as_ref().unwrap();
        assert_eq!(
            (options.batch_size, options.max_rows, options.vacuum),
            (Some(10), Some(5), true)
        );
        assert!(!options.dry_run, "a schedule executes");
        assert_eq!(
            (spec.overlap(), spec.misfire()),
            (OverlapPolicy::QueueOne, MisfirePolicy::Skip)
        );
        assert_eq!((spec.catch_up.unwrap().seconds, spec.deadline.unwrap().seconds), (600, 3600));
        assert_eq!((spec.enabled, spec.pause_after_failures), (Some(false), 3));
        assert_eq!(spec.notify.unwrap().recipients, ["a@b.example"]);
    }

    #[test]
    fn work_is_operations_or_maintenance() {
        let draft = ScheduleDraft::new("x").operation("a").maintenance("vacuum_analyze");
        let spec = draft.prune_backups(Some(30), None).into_message().spec.unwrap();
        assert!(spec.operations.is_empty());
        let names: Vec<_> = spec
            .maintenance
            .iter()
            .map(|task| (task.name.as_str(), task.keep_days))
            .collect();
        assert_eq!(names, [("vacuum_analyze", None), ("prune_backups", Some(30))]);
    }

    #[test]
    fn an_update_names_what_it_sets_and_each_once() {
        let update = ScheduleUpdate::new("nightly")
            .etag("7")
            .name("weekly")
            .operation("a")
            .operation("b");
        let message = update.clone().into_message();
        assert_eq!((message.id.as_str(), message.etag.as_str()), ("nightly", "7"));
        assert_eq!(mask(update), ["name", "operations"]);
        assert_eq!(mask(ScheduleUpdate::new("x").deadline(Duration::ZERO)), ["deadline"]);
        assert_eq!(
            mask(ScheduleUpdate::new("x").of_spec(ScheduleSpec::default(), ["notify"])),
            ["notify"]
        );
    }

    #[test]
    fn every_draft_has_a_request_id_of_its_own() {
        let ids = [ScheduleDraft::new("a"), ScheduleDraft::new("a")].map(|draft| draft.message.request_id);
        assert_ne!(ids[0], ids[1]);
    }
}
