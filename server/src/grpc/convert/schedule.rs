//! Schedules, their timing, what became of their slots, and the servers.

use dbkeep_engine::{
    engine::schedules::{Previewed, ScheduleView, SchedulerView},
    model::{
        CronFields, FoldPolicy, GapPolicy, MaintenanceTask, Misfire, MisfirePolicy, NotifyRules, Overlap, RunOptions, Schedule,
        ScheduleOptions, ScheduleSpec, ServerSeen, SlotOutcome, SlotRecord, Timing, schedule::Work,
    },
    schedule::FieldProblem,
};
use dbkeep_proto::v1;

use super::time;
use crate::grpc::validate::Check;

/// Fields of a spec, as an update mask names them.
pub(in crate::grpc) const FIELDS: [&str; 14] = [
    "name",
    "description",
    "target",
    "operations",
    "maintenance",
    "timing",
    "enabled",
    "options",
    "overlap",
    "misfire",
    "catch_up",
    "pause_after_failures",
    "deadline",
    "notify",
];

/// The engine's path of a field as the .proto file names it.
pub(in crate::grpc) fn wire_field(path: &str) -> String {
    const NAMES: [(&str, &str); 8] = [
        ("work.operations", "operations"),
        ("work.maintenance", "maintenance"),
        ("misfire.catch_up_seconds", "catch_up"),
        ("batch_rows", "batch_size"),
        ("max_execution_seconds", "max_execution_time"),
        ("deadline_seconds", "deadline"),
        ("jitter_seconds", "jitter"),
        ("vacuum_after", "vacuum"),
    ];
    NAMES
        .iter()
        .fold(path.to_owned(), |path, (engine, wire)| path.replace(engine, wire))
}

/// What a spec is before anybody asked for anything.
pub(in crate::grpc) fn blank() -> ScheduleSpec {
    ScheduleSpec {
        name: String::new(),
        description: String::new(),
        target: String::new(),
        work: Work::Operations(Vec::new()),
        timing: Timing::default(),
        enabled: true,
        options: ScheduleOptions::default(),
        overlap: Overlap::default(),
        misfire: Misfire::default(),
        pause_after_failures: 0,
        deadline_seconds: 0,
        notify: NotifyRules::default(),
    }
}

/// Changes to a spec.
#[derive(Debug, Clone, Default)]
pub(in crate::grpc) struct Patch {
    name: Option<String>,
    description: Option<String>,
    target: Option<String>,
    work: Option<Work>,
    timing: Option<Timing>,
    enabled: Option<bool>,
    options: Option<ScheduleOptions>,
    overlap: Option<Overlap>,
    misfire: Option<MisfirePolicy>,
    catch_up_seconds: Option<u32>,
    pause_after_failures: Option<u32>,
    deadline_seconds: Option<u32>,
    notify: Option<NotifyRules>,
    /// Where the tasks of `work` stood on the wire: those that there are not are left out.
    positions: Vec<usize>,
}

impl Patch {
    /// A problem of the engine's with a task of maintenance, at the place where the caller put it.
    pub(in crate::grpc) fn located(&self, mut problem: FieldProblem) -> FieldProblem {
        const TASK: &str = "work.maintenance[";
        if let Some((before, behind)) = problem.field.split_once(TASK)
            && let Some((position, behind)) = behind.split_once(']')
            && let Some(place) = position
                .parse::<usize>()
                .ok()
                .and_then(|position| self.positions.get(position))
        {
            problem.field = format!("{before}{TASK}{place}]{behind}");
        }
        problem
    }

    /// The fields of a wire spec that are wanted; what is malformed in them is refused below `spec`.
    pub(in crate::grpc) fn of(spec: v1::ScheduleSpec, wanted: impl Fn(&str) -> bool, check: &mut Check) -> Self {
        let (overlap_of, misfire_of) = (spec.overlap(), spec.misfire());
        let mut positions = Vec::new();
        let work = (wanted("operations") || wanted("maintenance"))
            .then(|| work(spec.operations, spec.maintenance, &mut positions, check));
        Self {
            positions,
            name: wanted("name").then_some(spec.name),
            description: wanted("description").then_some(spec.description),
            target: wanted("target").then_some(spec.target),
            work,
            timing: wanted("timing").then(|| match spec.timing {
                Some(given) => timing(given, "spec.timing", check),
                None => {
                    check.refuse("spec.timing", "is missing; expected cron fields or an expression");
                    Timing::default()
                }
            }),
            enabled: wanted("enabled").then_some(spec.enabled.unwrap_or(true)),
            options: wanted("options").then(|| options(spec.options.unwrap_or_default(), check)),
            overlap: wanted("overlap").then_some(match overlap_of {
                v1::OverlapPolicy::Unspecified | v1::OverlapPolicy::Skip => Overlap::Skip,
                v1::OverlapPolicy::QueueOne => Overlap::QueueOne,
                v1::OverlapPolicy::CancelOther => Overlap::CancelOther,
            }),
            misfire: wanted("misfire").then_some(match misfire_of {
                v1::MisfirePolicy::Unspecified | v1::MisfirePolicy::RunOnce => MisfirePolicy::RunOnce,
                v1::MisfirePolicy::Skip => MisfirePolicy::Skip,
            }),
            catch_up_seconds: wanted("catch_up").then(|| {
                let default = Misfire::default().catch_up_seconds;
                spec.catch_up.map_or(default, |time| whole(time, "spec.catch_up", check))
            }),
            pause_after_failures: wanted("pause_after_failures").then_some(spec.pause_after_failures),
            deadline_seconds: wanted("deadline").then(|| spec.deadline.map_or(0, |time| whole(time, "spec.deadline", check))),
            notify: wanted("notify").then(|| {
                let rules = spec.notify.unwrap_or_default();
                NotifyRules {
                    on_success: rules.on_success,
                    on_failure: rules.on_failure,
                    on_warnings: rules.on_warnings,
                    recipients: rules.recipients,
                    channels: rules.channels,
                }
            }),
        }
    }

    /// The spec with these changes.
    pub(in crate::grpc) fn on(&self, spec: &ScheduleSpec) -> ScheduleSpec {
        let mut changed = spec.clone();
        fn put<T: Clone>(place: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                place.clone_from(value);
            }
        }
        put(&mut changed.name, self.name.as_ref());
        put(&mut changed.description, self.description.as_ref());
        put(&mut changed.target, self.target.as_ref());
        put(&mut changed.work, self.work.as_ref());
        put(&mut changed.timing, self.timing.as_ref());
        put(&mut changed.enabled, self.enabled.as_ref());
        put(&mut changed.options, self.options.as_ref());
        put(&mut changed.overlap, self.overlap.as_ref());
        put(&mut changed.misfire.policy, self.misfire.as_ref());
        put(&mut changed.misfire.catch_up_seconds, self.catch_up_seconds.as_ref());
        put(&mut changed.pause_after_failures, self.pause_after_failures.as_ref());
        put(&mut changed.deadline_seconds, self.deadline_seconds.as_ref());
        put(&mut changed.notify, self.notify.as_ref());
        changed
    }
}

fn whole(time: prost_types::Duration, field: &str, check: &mut Check) -> u32 {
    match u32::try_from(time.seconds) {
        Ok(seconds) if time.nanos == 0 => seconds,
        _ => {
            check.refuse(
                field,
                format!("is {} s and {} ns; expected whole seconds", time.seconds, time.nanos),
            );
            0
        }
    }
}

fn work(operations: Vec<String>, maintenance: Vec<v1::MaintenanceTask>, positions: &mut Vec<usize>, check: &mut Check) -> Work {
    if !operations.is_empty() && !maintenance.is_empty() {
        check.refuse("spec.maintenance", "is given beside operations; expected one or the other");
    }
    if maintenance.is_empty() {
        return Work::Operations(operations);
    }
    let tasks = maintenance.into_iter().enumerate().filter_map(|(position, task)| {
        let limited = task.keep_days.is_some() || task.keep_count.is_some();
        if limited && task.name != "prune_backups" {
            let problem = "keep_days and keep_count belong to prune_backups; expected neither here";
            check.refuse(format!("spec.maintenance[{position}]"), problem);
        }
        let known = match task.name.as_str() {
            "vacuum_analyze" => Some(MaintenanceTask::VacuumAnalyze),
            "reindex_bloated" => Some(MaintenanceTask::ReindexBloated),
            "verify_backups" => Some(MaintenanceTask::VerifyBackups),
            "prune_backups" => Some(MaintenanceTask::PruneBackups {
                keep_days: task.keep_days,
                keep_count: task.keep_count,
            }),
            "restore_drill" => Some(MaintenanceTask::RestoreDrill),
            other => {
                let known = MaintenanceTask::NAMES.join(", ");
                let near = MaintenanceTask::suggestion(other);
                let problem = format!("is {other:?}; expected one of {known}{near}");
                check.refuse(format!("spec.maintenance[{position}].name"), problem);
                None
            }
        };
        positions.extend(known.is_some().then_some(position));
        known
    });
    Work::Maintenance(tasks.collect())
}

/// A timing from the wire; what is malformed in it is refused below `field`.
pub(in crate::grpc) fn timing(timing: v1::Timing, field: &str, check: &mut Check) -> Timing {
    let (gap, fold) = (timing.gap(), timing.fold());
    let cron = match timing.when {
        Some(v1::timing::When::Cron(fields)) => CronFields {
            minute: fields.minute,
            hour: fields.hour,
            day_of_month: fields.day_of_month,
            month: fields.month,
            day_of_week: fields.day_of_week,
        },
        Some(v1::timing::When::Expression(expression)) => CronFields::from_expression(&expression).unwrap_or_else(|problems| {
            for problem in problems {
                check.refuse(format!("{field}.{}", problem.field), problem.problem);
            }
            CronFields::default()
        }),
        None => {
            check.refuse(field, "names no time; expected cron fields or an expression");
            CronFields::default()
        }
    };
    Timing {
        cron,
        timezone: if timing.timezone.is_empty() {
            Timing::UTC.to_owned()
        } else {
            timing.timezone
        },
        gap: match gap {
            v1::GapPolicy::Unspecified | v1::GapPolicy::RunShifted => GapPolicy::RunShifted,
            v1::GapPolicy::Skip => GapPolicy::Skip,
        },
        fold: match fold {
            v1::FoldPolicy::Unspecified | v1::FoldPolicy::Once => FoldPolicy::Once,
            v1::FoldPolicy::Twice => FoldPolicy::Twice,
        },
        jitter_seconds: timing.jitter.map_or(0, |time| whole(time, &format!("{field}.jitter"), check)),
        exclusions: timing.exclusions,
    }
}

fn options(options: v1::ScheduleOptions, check: &mut Check) -> ScheduleOptions {
    let defaults = ScheduleOptions::default();
    ScheduleOptions {
        dry_run: options.dry_run,
        batch_rows: options.batch_size.unwrap_or(defaults.batch_rows),
        max_execution_seconds: options.max_execution_time.map_or(defaults.max_execution_seconds, |time| {
            let seconds = whole(time, "spec.options.max_execution_time", check);
            // What is no number of seconds was refused just now; its bounds are not a second mistake.
            if time.nanos != 0 || time.seconds < 0 {
                *RunOptions::MAX_EXECUTION_SECONDS.start()
            } else {
                seconds
            }
        }),
        max_rows: options.max_rows,
        max_fraction: options.max_fraction,
        full_speed: options.full_speed,
        stop_on_failure: options.stop_on_failure,
        vacuum_after: options.vacuum,
    }
}

/// A schedule with where it stands.
pub(in crate::grpc) fn schedule(view: ScheduleView) -> v1::Schedule {
    let ScheduleView {
        schedule,
        needs_approval,
        approved,
    } = view;
    let Schedule {
        id,
        etag,
        spec,
        state,
        created_at,
        created_by,
        updated_at,
        updated_by,
    } = schedule;
    v1::Schedule {
        id: id.to_string(),
        etag: etag.to_string(),
        spec: Some(spec_of(spec)),
        pause: state.paused.map(|pause| v1::SchedulePause {
            by: pause.by,
            time: Some(time::timestamp(pause.at)),
            note: pause.note,
            automatic: pause.automatic,
        }),
        next_slot_time: state.next_slot.map(time::timestamp),
        next_run_time: state.next_fire.map(time::timestamp),
        last_run_id: state.last_run.map(|run| run.to_string()).unwrap_or_default(),
        last_slot_time: state.last_slot.map(time::timestamp),
        consecutive_failures: state.consecutive_failures,
        approval: state.approval.filter(|_| approved).map(|approval| v1::StandingApproval {
            by: approval.by,
            time: Some(time::timestamp(approval.at)),
            max_rows: approval.max_rows,
            expire_time: Some(time::timestamp(approval.expires_at)),
        }),
        needs_approval,
        create_time: Some(time::timestamp(created_at)),
        created_by,
        update_time: Some(time::timestamp(updated_at)),
        updated_by,
    }
}

fn spec_of(spec: ScheduleSpec) -> v1::ScheduleSpec {
    let (operations, maintenance) = match spec.work {
        Work::Operations(operations) => (operations, Vec::new()),
        Work::Maintenance(tasks) => (Vec::new(), tasks.into_iter().map(task).collect()),
    };
    let cron = spec.timing.cron;
    v1::ScheduleSpec {
        name: spec.name,
        description: spec.description,
        target: spec.target,
        operations,
        maintenance,
        timing: Some(v1::Timing {
            when: Some(v1::timing::When::Cron(v1::CronFields {
                minute: cron.minute,
                hour: cron.hour,
                day_of_month: cron.day_of_month,
                month: cron.month,
                day_of_week: cron.day_of_week,
            })),
            timezone: spec.timing.timezone,
            gap: match spec.timing.gap {
                GapPolicy::RunShifted => v1::GapPolicy::RunShifted,
                GapPolicy::Skip => v1::GapPolicy::Skip,
            }
            .into(),
            fold: match spec.timing.fold {
                FoldPolicy::Once => v1::FoldPolicy::Once,
                FoldPolicy::Twice => v1::FoldPolicy::Twice,
            }
            .into(),
            jitter: (spec.timing.jitter_seconds > 0).then(|| time::seconds(spec.timing.jitter_seconds.into())),
            exclusions: spec.timing.exclusions,
        }),
        enabled: Some(spec.enabled),
        options: Some(v1::ScheduleOptions {
            dry_run: spec.options.dry_run,
            batch_size: Some(spec.options.batch_rows),
            max_execution_time: Some(time::seconds(spec.options.max_execution_seconds.into())),
            max_rows: spec.options.max_rows,
            max_fraction: spec.options.max_fraction,
            full_speed: spec.options.full_speed,
            stop_on_failure: spec.options.stop_on_failure,
            vacuum: spec.options.vacuum_after,
        }),
        overlap: match spec.overlap {
            Overlap::Skip => v1::OverlapPolicy::Skip,
            Overlap::QueueOne => v1::OverlapPolicy::QueueOne,
            Overlap::CancelOther => v1::OverlapPolicy::CancelOther,
        }
        .into(),
        misfire: match spec.misfire.policy {
            MisfirePolicy::RunOnce => v1::MisfirePolicy::RunOnce,
            MisfirePolicy::Skip => v1::MisfirePolicy::Skip,
        }
        .into(),
        catch_up: Some(time::seconds(spec.misfire.catch_up_seconds.into())),
        pause_after_failures: spec.pause_after_failures,
        deadline: (spec.deadline_seconds > 0).then(|| time::seconds(spec.deadline_seconds.into())),
        notify: Some(v1::NotifyRules {
            on_success: spec.notify.on_success,
            on_failure: spec.notify.on_failure,
            on_warnings: spec.notify.on_warnings,
            recipients: spec.notify.recipients,
            channels: spec.notify.channels,
        }),
    }
}

fn task(task: MaintenanceTask) -> v1::MaintenanceTask {
    let name = task.name().to_owned();
    let (keep_days, keep_count) = match task {
        MaintenanceTask::PruneBackups { keep_days, keep_count } => (keep_days, keep_count),
        MaintenanceTask::VacuumAnalyze
        | MaintenanceTask::ReindexBloated
        | MaintenanceTask::VerifyBackups
        | MaintenanceTask::RestoreDrill => (None, None),
    };
    v1::MaintenanceTask {
        name,
        keep_days,
        keep_count,
    }
}

const OUTCOMES: [(SlotOutcome, v1::SlotOutcome); 9] = [
    (SlotOutcome::Pending, v1::SlotOutcome::Pending),
    (SlotOutcome::Waiting, v1::SlotOutcome::Waiting),
    (SlotOutcome::Fired, v1::SlotOutcome::Fired),
    (SlotOutcome::Succeeded, v1::SlotOutcome::Succeeded),
    (SlotOutcome::Warned, v1::SlotOutcome::Warned),
    (SlotOutcome::Failed, v1::SlotOutcome::Failed),
    (SlotOutcome::Refused, v1::SlotOutcome::Refused),
    (SlotOutcome::Skipped, v1::SlotOutcome::Skipped),
    (SlotOutcome::Missed, v1::SlotOutcome::Missed),
];

/// Outcomes to filter by; what is none of them is refused.
pub(in crate::grpc) fn outcomes(given: &[i32], check: &mut Check) -> Vec<SlotOutcome> {
    let known = given.iter().enumerate().filter_map(|(position, number)| {
        let found = OUTCOMES.iter().find(|(_, wire)| i32::from(*wire) == *number);
        if found.is_none() {
            check.refuse(
                format!("outcomes[{position}]"),
                format!("is {number}; expected an outcome of a slot"),
            );
        }
        found.map(|(outcome, _)| *outcome)
    });
    known.collect()
}

/// What became of a slot.
pub(in crate::grpc) fn slot(record: SlotRecord) -> v1::ScheduleRun {
    let outcome = OUTCOMES.iter().find(|(outcome, _)| *outcome == record.kind);
    v1::ScheduleRun {
        schedule_id: record.schedule.to_string(),
        slot_time: Some(time::timestamp(record.slot)),
        outcome: outcome.map_or(v1::SlotOutcome::Unspecified, |(_, wire)| *wire).into(),
        reason: record.reason,
        run_id: record.run.map(|run| run.to_string()).unwrap_or_default(),
        slot_count: record.missed,
        first_slot_time: Some(time::timestamp(record.first_slot)),
        decide_time: Some(time::timestamp(record.decided_at)),
        manual: record.manual,
        fired_by: record.fired_by,
    }
}

/// A time to come.
pub(in crate::grpc) fn previewed(previewed: Previewed) -> v1::PreviewedTime {
    v1::PreviewedTime {
        time: Some(time::timestamp(previewed.occurrence.at)),
        local: previewed.zoned.to_string(),
        shift: previewed.occurrence.shift.map(|shift| shift.to_string()).unwrap_or_default(),
        excluded_by: previewed.excluded_by.unwrap_or_default(),
    }
}

/// Where the scheduler stands.
pub(in crate::grpc) fn scheduler(view: SchedulerView) -> v1::SchedulerStatus {
    v1::SchedulerStatus {
        running: view.switch.running,
        note: view.switch.note,
        changed_by: view.switch.by,
        change_time: view.switch.at.map(time::timestamp),
        schedule_count: view.scheduled.schedules,
        open_slot_count: view.scheduled.open_slots,
        next_run_time: view.scheduled.next_fire.filter(|_| view.switch.running).map(time::timestamp),
        servers: view.servers.into_iter().map(server).collect(),
    }
}

/// A duration that may be negative: both parts have its sign.
fn signed(duration: jiff::SignedDuration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: duration.as_secs(),
        nanos: duration.subsec_nanos(),
    }
}

fn server(seen: ServerSeen) -> v1::Server {
    v1::Server {
        id: seen.server.id,
        address: seen.server.address,
        host: seen.server.host,
        version: seen.server.version,
        start_time: Some(time::timestamp(seen.server.started_at)),
        seen_time: Some(time::timestamp(seen.seen_at)),
        alive: seen.alive,
        clock_ahead: Some(signed(seen.clock_ahead)),
    }
}
