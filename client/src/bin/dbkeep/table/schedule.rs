//! Schedules and their slots in words.
//!
//! Owns the wording that more than one command shows. Called by `cmd/schedules/`.

use dbkeep_client::proto::{self, SlotOutcome};
use indicatif::HumanCount;

use super::{duration, instant, or_dash, rows};
use crate::{json, output::Tone};

/// What a schedule does, in its order.
pub(crate) fn work(spec: &proto::ScheduleSpec) -> String {
    let tasks = spec.maintenance.iter().map(|task| {
        let days = task.keep_days.map(|days| format!("days={days}"));
        let count = task.keep_count.map(|count| format!("count={count}"));
        let limits: Vec<String> = days.into_iter().chain(count).collect();
        if limits.is_empty() {
            task.name.clone()
        } else {
            format!("{}:{}", task.name, limits.join(","))
        }
    });
    let all: Vec<String> = spec.operations.iter().cloned().chain(tasks).collect();
    or_dash(&all.join(", ")).to_owned()
}

/// The fields and their zone.
pub(crate) fn when(timing: Option<&proto::Timing>) -> String {
    let Some(timing) = timing else { return "-".to_owned() };
    let zone = if timing.timezone.is_empty() { "UTC" } else { &timing.timezone };
    let late = match &timing.jitter {
        Some(jitter) => format!(", up to {} late", duration(Some(jitter))),
        None => String::new(),
    };
    format!(
        "{} {zone}{late}",
        json::schedule::cron(timing).unwrap_or_else(|| "-".to_owned())
    )
}

/// What happens where the clock changes.
pub(crate) fn clock_changes(timing: &proto::Timing) -> String {
    let gap = match timing.gap() {
        proto::GapPolicy::Skip => "a time that is skipped does not happen",
        proto::GapPolicy::RunShifted | proto::GapPolicy::Unspecified => "a time that is skipped happens after the gap",
    };
    let fold = match timing.fold() {
        proto::FoldPolicy::Twice => "one that comes twice happens twice",
        proto::FoldPolicy::Once | proto::FoldPolicy::Unspecified => "one that comes twice happens once",
    };
    format!("{gap}; {fold}")
}

/// How the runs of a schedule work.
pub(crate) fn options(options: &proto::ScheduleOptions) -> String {
    let mut words = Vec::new();
    if options.dry_run {
        words.push("dry run".to_owned());
    }
    if let Some(size) = options.batch_size {
        words.push(format!("batches of {}", rows(size.into())));
    }
    if let Some(time) = &options.max_execution_time {
        words.push(format!("at most {}", duration(Some(time))));
    }
    if let Some(most) = options.max_rows {
        words.push(format!("at most {}", rows(most)));
    }
    if let Some(most) = options.max_fraction {
        words.push(format!("at most {} % of a table", most * 100.0));
    }
    for (given, word) in [
        (options.full_speed, "full speed"),
        (options.stop_on_failure, "stops on failure"),
        (options.vacuum, "vacuum"),
    ] {
        if given {
            words.push(word.to_owned());
        }
    }
    or_dash(&words.join(", ")).to_owned()
}

/// What becomes of slots that overlap, are late, fail, or take long.
pub(crate) fn slots(spec: &proto::ScheduleSpec) -> String {
    let mut words = vec![
        format!("overlap: {}", json::overlap_policy(spec.overlap()).replace('_', "-")),
        format!("misfire: {}", json::misfire_policy(spec.misfire()).replace('_', "-")),
    ];
    if let Some(time) = &spec.catch_up {
        words.push(format!("up to {} late", duration(Some(time))));
    }
    if let Some(time) = &spec.deadline {
        words.push(format!("to be done after {}", duration(Some(time))));
    }
    if spec.pause_after_failures > 0 {
        words.push(format!("paused after {} failures", spec.pause_after_failures));
    }
    words.join(", ")
}

/// Who hears of what.
pub(crate) fn notices(rules: Option<&proto::NotifyRules>) -> String {
    let Some(rules) = rules else { return "nobody".to_owned() };
    let occasions: Vec<&str> = [
        (rules.on_success, "success"),
        (rules.on_failure, "failure"),
        (rules.on_warnings, "warnings"),
    ]
    .into_iter()
    .filter_map(|(given, word)| given.then_some(word))
    .collect();
    if occasions.is_empty() || rules.channels.is_empty() {
        return "nobody".to_owned();
    }
    let recipients = if rules.recipients.is_empty() {
        String::new()
    } else {
        format!(" ({})", rules.recipients.join(", "))
    };
    format!("of {} over {}{recipients}", occasions.join(", "), rules.channels.join(", "))
}

/// Whether its runs are refused until somebody consents to them.
pub(crate) fn lacks_approval(schedule: &proto::Schedule) -> bool {
    schedule.needs_approval && schedule.approval.is_none()
}

/// A consent that was given.
pub(crate) fn approval(given: &proto::StandingApproval) -> String {
    format!(
        "{} until {}, by {} at {}",
        rows(given.max_rows),
        instant(given.expire_time.as_ref()),
        given.by,
        instant(given.time.as_ref())
    )
}

fn is_enabled(schedule: &proto::Schedule) -> bool {
    schedule.spec.as_ref().is_none_or(|spec| spec.enabled.unwrap_or(true))
}

/// Whether slots of it fire: it is neither paused nor disabled.
pub(crate) fn may_fire(schedule: &proto::Schedule) -> bool {
    schedule.pause.is_none() && is_enabled(schedule)
}

/// Whether it fires, and if not, why.
pub(crate) fn standing(schedule: &proto::Schedule) -> String {
    if let Some(pause) = &schedule.pause {
        let by = if pause.automatic {
            "after failures".to_owned()
        } else {
            format!("by {}", or_dash(&pause.by))
        };
        let note = if pause.note.is_empty() {
            String::new()
        } else {
            format!(": {}", pause.note)
        };
        return format!("paused {by} at {}{note}", instant(pause.time.as_ref()));
    }
    if !is_enabled(schedule) {
        return "disabled".to_owned();
    }
    if lacks_approval(schedule) {
        return "needs an approval".to_owned();
    }
    "on".to_owned()
}

/// How that looks.
pub(crate) fn standing_tone(schedule: &proto::Schedule) -> Tone {
    match &schedule.pause {
        Some(pause) if pause.automatic => Tone::Bad,
        Some(_) => Tone::Warn,
        None if !is_enabled(schedule) => Tone::Dim,
        None if lacks_approval(schedule) => Tone::Bad,
        None => Tone::Good,
    }
}

/// How the outcome of a slot looks.
pub(crate) fn outcome_tone(outcome: SlotOutcome) -> Tone {
    match outcome {
        SlotOutcome::Succeeded => Tone::Good,
        SlotOutcome::Failed | SlotOutcome::Refused | SlotOutcome::Missed => Tone::Bad,
        SlotOutcome::Warned | SlotOutcome::Skipped => Tone::Warn,
        SlotOutcome::Pending | SlotOutcome::Waiting | SlotOutcome::Fired | SlotOutcome::Unspecified => Tone::Strong,
    }
}

/// A slot, or the first and the last of many.
pub(crate) fn slot_time(slot: &proto::ScheduleRun) -> String {
    let time = instant(slot.slot_time.as_ref());
    if slot.manual {
        return if slot.fired_by.is_empty() {
            format!("{time} by hand")
        } else {
            format!("{time} by {}", slot.fired_by)
        };
    }
    match slot.slot_count {
        0 | 1 => time,
        count => format!(
            "{} to {time} ({} slots)",
            instant(slot.first_slot_time.as_ref()),
            HumanCount(count)
        ),
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_client::proto::timing::When;

    use super::*;

    #[test]
    fn timing_and_work_read_as_they_are_typed() {
        let timing = proto::Timing {
            when: Some(When::Cron(proto::CronFields {
                minute: "30".into(),
                hour: "2".into(),
                day_of_month: "*".into(),
                month: "*".into(),
                day_of_week: "MON-FRI".into(),
            })),
            jitter: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(when(Some(&timing)), "30 2 * * MON-FRI UTC, up to 1 min 0 s late");
        let spec = proto::ScheduleSpec {
            maintenance: vec![
                proto::MaintenanceTask {
                    name: "vacuum_analyze".into(),
                    ..Default::default()
                },
                proto::MaintenanceTask {
                    name: "prune_backups".into(),
                    keep_days: Some(30),
                    keep_count: Some(10),
                },
            ],
            ..Default::default()
        };
        assert_eq!(work(&spec), "vacuum_analyze, prune_backups:days=30,count=10");
    }

    #[test]
    fn the_most_important_reason_not_to_fire_is_told() {
        let mut schedule = proto::Schedule::default();
        assert_eq!(standing(&schedule), "on");
        schedule.needs_approval = true;
        assert_eq!(standing(&schedule), "needs an approval");
        schedule.approval = Some(proto::StandingApproval::default());
        assert_eq!(standing(&schedule), "on");
        schedule.spec.get_or_insert_default().enabled = Some(false);
        assert_eq!(standing(&schedule), "disabled");
        schedule.pause = Some(proto::SchedulePause {
            by: "ann".into(),
            note: "release".into(),
            ..Default::default()
        });
        assert_eq!(standing(&schedule), "paused by ann at -: release");
    }

    #[test]
    fn rules_that_reach_nobody_are_told_as_such() {
        let mut rules = proto::NotifyRules {
            on_failure: true,
            ..Default::default()
        };
        assert_eq!(notices(Some(&rules)), "nobody");
        rules.channels = vec!["mail".into()];
        rules.recipients = vec!["a@b.example".into()];
        assert_eq!(notices(Some(&rules)), "of failure over mail (a@b.example)");
    }
}
