//! JSON of schedules, their slots, and the scheduler.
//!
//! Owns the shapes `schedule`, `schedule_run`, `previewed` and `scheduler`. Called by `cmd/schedules/` and `cmd/status.rs`.

use dbkeep_client::proto::{self, timing::When};
use serde::Serialize;

/// A schedule and where it stands.
#[derive(Debug, Serialize)]
pub(crate) struct Schedule<'a> {
    id: &'a str,
    etag: &'a str,
    name: &'a str,
    description: Option<&'a str>,
    target: Option<&'a str>,
    operations: &'a [String],
    maintenance: Vec<Task<'a>>,
    timing: Timing<'a>,
    enabled: bool,
    options: Options,
    /// "skip", "queue_one" or "cancel_other".
    overlap: String,
    /// "run_once" or "skip".
    misfire: String,
    catch_up_seconds: Option<f64>,
    pause_after_failures: u32,
    deadline_seconds: Option<f64>,
    notify: Notify<'a>,
    pause: Option<Pause<'a>>,
    next_slot_time: Option<String>,
    next_run_time: Option<String>,
    last_slot_time: Option<String>,
    last_run_id: Option<&'a str>,
    consecutive_failures: u32,
    needs_approval: bool,
    approval: Option<Approval<'a>>,
    create_time: Option<String>,
    created_by: &'a str,
    update_time: Option<String>,
    updated_by: &'a str,
}

#[derive(Debug, Serialize)]
struct Task<'a> {
    name: &'a str,
    keep_days: Option<u32>,
    keep_count: Option<u32>,
}

#[derive(Debug, Default, Serialize)]
struct Timing<'a> {
    /// The five fields in one line.
    cron: Option<String>,
    timezone: &'a str,
    /// "run_shifted" or "skip".
    gap: String,
    /// "once" or "twice".
    fold: String,
    jitter_seconds: f64,
    exclusions: &'a [String],
}

#[derive(Debug, Default, Serialize)]
struct Options {
    dry_run: bool,
    batch_size: Option<u32>,
    max_execution_seconds: Option<f64>,
    max_rows: Option<u64>,
    max_fraction: Option<f64>,
    full_speed: bool,
    stop_on_failure: bool,
    vacuum: bool,
}

#[derive(Debug, Default, Serialize)]
struct Notify<'a> {
    on_success: bool,
    on_failure: bool,
    on_warnings: bool,
    recipients: &'a [String],
    channels: &'a [String],
}

#[derive(Debug, Serialize)]
struct Pause<'a> {
    by: &'a str,
    time: Option<String>,
    note: Option<&'a str>,
    automatic: bool,
}

#[derive(Debug, Serialize)]
struct Approval<'a> {
    by: &'a str,
    time: Option<String>,
    max_rows: u64,
    expire_time: Option<String>,
}

/// What a schedule is that the server sent without its spec.
static NO_SPEC: std::sync::LazyLock<proto::ScheduleSpec> = std::sync::LazyLock::new(proto::ScheduleSpec::default);

impl<'a> From<&'a proto::Schedule> for Schedule<'a> {
    fn from(schedule: &'a proto::Schedule) -> Self {
        let spec: &'a proto::ScheduleSpec = schedule.spec.as_ref().unwrap_or(&NO_SPEC);
        Self {
            id: &schedule.id,
            etag: &schedule.etag,
            name: &spec.name,
            description: super::text(&spec.description),
            target: super::text(&spec.target),
            operations: &spec.operations,
            maintenance: spec
                .maintenance
                .iter()
                .map(|task| Task {
                    name: &task.name,
                    keep_days: task.keep_days,
                    keep_count: task.keep_count,
                })
                .collect(),
            timing: spec.timing.as_ref().map(Timing::from).unwrap_or_default(),
            enabled: spec.enabled.unwrap_or(true),
            options: spec.options.as_ref().map(Options::from).unwrap_or_default(),
            overlap: super::overlap_policy(spec.overlap()),
            misfire: super::misfire_policy(spec.misfire()),
            catch_up_seconds: super::seconds(spec.catch_up.as_ref()),
            pause_after_failures: spec.pause_after_failures,
            deadline_seconds: super::seconds(spec.deadline.as_ref()),
            notify: spec.notify.as_ref().map(Notify::from).unwrap_or_default(),
            pause: schedule.pause.as_ref().map(|pause| Pause {
                by: &pause.by,
                time: super::time(pause.time.as_ref()),
                note: super::text(&pause.note),
                automatic: pause.automatic,
            }),
            next_slot_time: super::time(schedule.next_slot_time.as_ref()),
            next_run_time: super::time(schedule.next_run_time.as_ref()),
            last_slot_time: super::time(schedule.last_slot_time.as_ref()),
            last_run_id: super::text(&schedule.last_run_id),
            consecutive_failures: schedule.consecutive_failures,
            needs_approval: schedule.needs_approval,
            approval: schedule.approval.as_ref().map(|approval| Approval {
                by: &approval.by,
                time: super::time(approval.time.as_ref()),
                max_rows: approval.max_rows,
                expire_time: super::time(approval.expire_time.as_ref()),
            }),
            create_time: super::time(schedule.create_time.as_ref()),
            created_by: &schedule.created_by,
            update_time: super::time(schedule.update_time.as_ref()),
            updated_by: &schedule.updated_by,
        }
    }
}

impl<'a> From<&'a proto::Timing> for Timing<'a> {
    fn from(timing: &'a proto::Timing) -> Self {
        Self {
            cron: cron(timing),
            timezone: &timing.timezone,
            gap: super::gap_policy(timing.gap()),
            fold: super::fold_policy(timing.fold()),
            jitter_seconds: super::seconds(timing.jitter.as_ref()).unwrap_or_default(),
            exclusions: &timing.exclusions,
        }
    }
}

/// The fields in one line, as cron has them.
pub(crate) fn cron(timing: &proto::Timing) -> Option<String> {
    match timing.when.as_ref()? {
        When::Expression(expression) => Some(expression.clone()),
        When::Cron(fields) => Some(
            [
                &fields.minute,
                &fields.hour,
                &fields.day_of_month,
                &fields.month,
                &fields.day_of_week,
            ]
            .map(String::as_str)
            .join(" "),
        ),
    }
}

impl From<&proto::ScheduleOptions> for Options {
    fn from(options: &proto::ScheduleOptions) -> Self {
        Self {
            dry_run: options.dry_run,
            batch_size: options.batch_size,
            max_execution_seconds: super::seconds(options.max_execution_time.as_ref()),
            max_rows: options.max_rows,
            max_fraction: options.max_fraction,
            full_speed: options.full_speed,
            stop_on_failure: options.stop_on_failure,
            vacuum: options.vacuum,
        }
    }
}

impl<'a> From<&'a proto::NotifyRules> for Notify<'a> {
    fn from(rules: &'a proto::NotifyRules) -> Self {
        Self {
            on_success: rules.on_success,
            on_failure: rules.on_failure,
            on_warnings: rules.on_warnings,
            recipients: &rules.recipients,
            channels: &rules.channels,
        }
    }
}

/// What became of a slot, or of many.
#[derive(Debug, Serialize)]
pub(crate) struct Slot<'a> {
    schedule_id: &'a str,
    slot_time: Option<String>,
    /// "pending", "waiting", "fired", "succeeded", "warned", "failed", "refused", "skipped" or "missed".
    outcome: String,
    reason: Option<&'a str>,
    run_id: Option<&'a str>,
    slot_count: u64,
    first_slot_time: Option<String>,
    decide_time: Option<String>,
    manual: bool,
    fired_by: Option<&'a str>,
}

impl<'a> From<&'a proto::ScheduleRun> for Slot<'a> {
    fn from(slot: &'a proto::ScheduleRun) -> Self {
        Self {
            schedule_id: &slot.schedule_id,
            slot_time: super::time(slot.slot_time.as_ref()),
            outcome: super::slot_outcome(slot.outcome()),
            reason: super::text(&slot.reason),
            run_id: super::text(&slot.run_id),
            slot_count: slot.slot_count,
            first_slot_time: super::time(slot.first_slot_time.as_ref()),
            decide_time: super::time(slot.decide_time.as_ref()),
            manual: slot.manual,
            fired_by: super::text(&slot.fired_by),
        }
    }
}

/// A time to come.
#[derive(Debug, Serialize)]
pub(crate) struct Previewed<'a> {
    time: Option<String>,
    local: &'a str,
    shift: Option<&'a str>,
    excluded_by: Option<&'a str>,
}

impl<'a> From<&'a proto::PreviewedTime> for Previewed<'a> {
    fn from(previewed: &'a proto::PreviewedTime) -> Self {
        Self {
            time: super::time(previewed.time.as_ref()),
            local: &previewed.local,
            shift: super::text(&previewed.shift),
            excluded_by: super::text(&previewed.excluded_by),
        }
    }
}

/// Whether slots are decided, and by whom.
#[derive(Debug, Serialize)]
pub(crate) struct Scheduler<'a> {
    running: bool,
    note: Option<&'a str>,
    changed_by: Option<&'a str>,
    change_time: Option<String>,
    schedule_count: u64,
    open_slot_count: u64,
    next_run_time: Option<String>,
    servers: Vec<Server<'a>>,
}

#[derive(Debug, Serialize)]
struct Server<'a> {
    id: &'a str,
    address: &'a str,
    host: &'a str,
    version: &'a str,
    start_time: Option<String>,
    seen_time: Option<String>,
    alive: bool,
    /// Negative where it is behind.
    clock_ahead_seconds: Option<f64>,
}

impl<'a> From<&'a proto::SchedulerStatus> for Scheduler<'a> {
    fn from(status: &'a proto::SchedulerStatus) -> Self {
        Self {
            running: status.running,
            note: super::text(&status.note),
            changed_by: super::text(&status.changed_by),
            change_time: super::time(status.change_time.as_ref()),
            schedule_count: status.schedule_count,
            open_slot_count: status.open_slot_count,
            next_run_time: super::time(status.next_run_time.as_ref()),
            servers: status
                .servers
                .iter()
                .map(|server| Server {
                    id: &server.id,
                    address: &server.address,
                    host: &server.host,
                    version: &server.version,
                    start_time: super::time(server.start_time.as_ref()),
                    seen_time: super::time(server.seen_time.as_ref()),
                    alive: server.alive,
                    clock_ahead_seconds: server.clock_ahead.as_ref().map(super::signed_seconds),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_and_what_it_leaves_out() {
        let schedule = proto::Schedule {
            id: "s1".into(),
            etag: "7".into(),
            spec: Some(proto::ScheduleSpec {
                name: "nightly".into(),
                operations: vec!["a".into()],
                timing: Some(proto::Timing {
                    when: Some(When::Expression("@daily".into())),
                    timezone: "UTC".into(),
                    gap: proto::GapPolicy::RunShifted.into(),
                    fold: proto::FoldPolicy::Once.into(),
                    ..Default::default()
                }),
                overlap: proto::OverlapPolicy::QueueOne.into(),
                misfire: proto::MisfirePolicy::RunOnce.into(),
                ..Default::default()
            }),
            needs_approval: true,
            created_by: "ann".into(),
            updated_by: "ann".into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Schedule::from(&schedule)).unwrap(),
            concat!(
                r#"{"id":"s1","etag":"7","name":"nightly","description":null,"target":null,"operations":["a"],"maintenance":[],"#,
                r#""timing":{"cron":"@daily","timezone":"UTC","gap":"run_shifted","fold":"once","jitter_seconds":0.0,"exclusions":[]},"#,
                r#""enabled":true,"options":{"dry_run":false,"batch_size":null,"max_execution_seconds":null,"max_rows":null,"#,
                r#""max_fraction":null,"full_speed":false,"stop_on_failure":false,"vacuum":false},"overlap":"queue_one","#,
                r#""misfire":"run_once","catch_up_seconds":null,"pause_after_failures":0,"deadline_seconds":null,"#,
                r#""notify":{"on_success":false,"on_failure":false,"on_warnings":false,"recipients":[],"channels":[]},"pause":null,"#,
                r#""next_slot_time":null,"next_run_time":null,"last_slot_time":null,"last_run_id":null,"consecutive_failures":0,"#,
                r#""needs_approval":true,"approval":null,"create_time":null,"created_by":"ann","update_time":null,"updated_by":"ann"}"#,
            )
        );
    }

    #[test]
    fn a_slot_and_the_scheduler() {
        let slot = proto::ScheduleRun {
            schedule_id: "s1".into(),
            outcome: proto::SlotOutcome::Missed.into(),
            reason: "nobody was there".into(),
            slot_count: 3,
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Slot::from(&slot)).unwrap(),
            r#"{"schedule_id":"s1","slot_time":null,"outcome":"missed","reason":"nobody was there","run_id":null,"slot_count":3,"first_slot_time":null,"decide_time":null,"manual":false,"fired_by":null}"#
        );
        let status = proto::SchedulerStatus {
            running: true,
            servers: vec![proto::Server {
                id: "a".into(),
                alive: true,
                clock_ahead: Some(prost_types::Duration {
                    seconds: -45,
                    nanos: -500_000_000,
                }),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Scheduler::from(&status)).unwrap(),
            r#"{"running":true,"note":null,"changed_by":null,"change_time":null,"schedule_count":0,"open_slot_count":0,"next_run_time":null,"servers":[{"id":"a","address":"","host":"","version":"","start_time":null,"seen_time":null,"alive":true,"clock_ahead_seconds":-45.5}]}"#
        );
    }
}
