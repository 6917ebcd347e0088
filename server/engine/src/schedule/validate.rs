//! Everything that is wrong with a schedule, in one answer. Called before a schedule is created or changed; what passes here can be
//! fired.

use std::collections::{BTreeMap, HashSet};

use jiff::{Span, Timestamp, tz::TimeZone};

use super::{
    FieldProblem,
    calendar::{Exclusion, next_allowed},
    cron::Cron,
    decide::{MAX_CATCH_UP_SECONDS, MAX_JITTER_SECONDS},
    email,
    zone::zone,
};
use crate::{
    model::{
        RunOptions,
        notice::ChannelKind,
        schedule::{MaintenanceTask, NotifyRules, ScheduleOptions, ScheduleSpec, Timing, Work},
    },
    rule::Severity,
    spelling,
};

/// Most windows of a schedule.
const MAX_EXCLUSIONS: usize = 50;
/// Most recipients of a schedule.
const MAX_RECIPIENTS: usize = 100;
/// So far ahead a schedule has to fire once.
const HORIZON_YEARS: i64 = 5;

/// What a server has, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// Targets, each with the operations of its catalog.
    pub targets: BTreeMap<String, BTreeMap<String, Severity>>,
    /// Tasks of maintenance that have no use on a target, by its name, each with the reason.
    pub unsupported: BTreeMap<String, BTreeMap<&'static str, &'static str>>,
    /// Channels by name, and by kind for all channels of it.
    pub channels: BTreeMap<String, KnownChannel>,
}

/// A channel, or all channels of a kind, as a schedule sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownChannel {
    /// What it is.
    pub kind: ChannelKind,
    /// Whether it has recipients of its own, so that a schedule may name some and need not.
    pub has_recipients: bool,
}

impl KnownChannel {
    /// Whether it tells nobody, unless a schedule says whom.
    #[must_use]
    pub fn needs_recipients(&self) -> bool {
        self.kind.takes_recipients() && !self.has_recipients
    }
}

impl Known {
    /// The operations of a spec that delete only with consent: of severity CRITICAL, in a run that is not dry.
    #[must_use]
    pub fn needing_approval<'a>(&self, spec: &'a ScheduleSpec) -> Vec<&'a str> {
        let Work::Operations(operations) = &spec.work else {
            return Vec::new();
        };
        if spec.options.dry_run {
            return Vec::new();
        }
        let of_target = self.targets.get(&spec.target);
        let critical = |name: &&str| of_target.and_then(|known| known.get(*name)) == Some(&Severity::Critical);
        operations.iter().map(String::as_str).filter(critical).collect()
    }
}

/// What is wrong with a schedule that is to fire from `now` on; empty where nothing is.
#[must_use]
pub fn validate(spec: &ScheduleSpec, known: &Known, now: Timestamp) -> Vec<FieldProblem> {
    let mut found = Problems::default();
    found.texts(spec);
    found.work(spec, known);
    found.timing(&spec.timing, now);
    found.options(&spec.options);
    found.limits(spec);
    found.notify(&spec.notify, known);
    found.0
}

#[derive(Default)]
struct Problems(Vec<FieldProblem>);

impl Problems {
    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push(FieldProblem::new(field, problem));
    }

    fn texts(&mut self, spec: &ScheduleSpec) {
        let length = spec.name.chars().count();
        if spec.name.trim().is_empty() {
            self.add(
                "name",
                format!("is empty; expected 1 to {} characters", ScheduleSpec::MAX_NAME),
            );
        } else if length > ScheduleSpec::MAX_NAME {
            let most = ScheduleSpec::MAX_NAME;
            self.add("name", format!("has {length} characters; expected 1 to {most}"));
        }
        if spec.name.contains(char::is_control) {
            self.add("name", format!("{:?} holds control characters; expected none", spec.name));
        }
        let length = spec.description.chars().count();
        if length > ScheduleSpec::MAX_DESCRIPTION {
            let most = ScheduleSpec::MAX_DESCRIPTION;
            self.add("description", format!("has {length} characters; expected at most {most}"));
        }
        let broken = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
        if spec.description.contains(broken) {
            self.add("description", "holds control characters; expected text and line ends");
        }
    }

    fn work(&mut self, spec: &ScheduleSpec, known: &Known) {
        let of_target = known.targets.get(&spec.target);
        if of_target.is_none() {
            self.add("target", unknown("target", &spec.target, known.targets.keys()));
        }
        match &spec.work {
            Work::Operations(operations) => {
                if operations.is_empty() {
                    self.add("work.operations", "is empty; expected at least one operation");
                }
                let mut seen = HashSet::new();
                for (position, name) in operations.iter().enumerate() {
                    let field = format!("work.operations[{position}]");
                    if !seen.insert(name) {
                        self.add(&field, format!("{name:?} is there already; expected each operation once"));
                    } else if let Some(of_target) = of_target.filter(|of_target| !of_target.contains_key(name)) {
                        self.add(&field, unknown("operation", name, of_target.keys()));
                    }
                }
            }
            Work::Maintenance(tasks) => {
                if tasks.is_empty() {
                    self.add("work.maintenance", "is empty; expected at least one task");
                }
                let mut seen = HashSet::new();
                for (position, task) in tasks.iter().enumerate() {
                    let field = format!("work.maintenance[{position}]");
                    if !seen.insert(task.name()) {
                        self.add(&field, format!("{:?} is there already; expected each task once", task.name()));
                    }
                    let unsupported = known.unsupported.get(&spec.target);
                    if let Some(why) = unsupported.and_then(|tasks| tasks.get(task.name())) {
                        let target = &spec.target;
                        self.add(&field, format!("{} has no use on target {target:?}: {why}", task.name()));
                    }
                    self.task(&field, task);
                }
                self.without_effect(&spec.options);
            }
        }
    }

    fn task(&mut self, field: &str, task: &MaintenanceTask) {
        let MaintenanceTask::PruneBackups { keep_days, keep_count } = task else {
            return;
        };
        if keep_days.is_none() && keep_count.is_none() {
            self.add(field, "prunes by nothing; expected keep_days, keep_count or both");
        }
        for (name, value) in [("keep_days", keep_days), ("keep_count", keep_count)] {
            if *value == Some(0) {
                self.add(
                    format!("{field}.{name}"),
                    "is 0, which would keep no backup; expected at least 1",
                );
            }
        }
    }

    /// An option that means nothing to maintenance would be believed to be kept.
    fn without_effect(&mut self, options: &ScheduleOptions) {
        let usual = ScheduleOptions::default();
        for (name, given) in [
            ("dry_run", options.dry_run),
            ("batch_rows", options.batch_rows != usual.batch_rows),
            ("max_rows", options.max_rows.is_some()),
            ("max_fraction", options.max_fraction.is_some()),
            ("full_speed", options.full_speed),
            ("vacuum_after", options.vacuum_after),
        ] {
            if given {
                let problem = "has no effect on maintenance; expected to be left out";
                self.add(format!("options.{name}"), problem);
            }
        }
    }

    fn timing(&mut self, timing: &Timing, now: Timestamp) {
        let cron = Cron::parse(&timing.cron)
            .map_err(|problems| {
                self.0
                    .extend(problems.into_iter().map(|problem| problem.within("timing.cron")))
            })
            .ok();
        let zone = zone(&timing.timezone)
            .map_err(|problem| self.0.push(problem.within("timing")))
            .ok();
        if timing.jitter_seconds > MAX_JITTER_SECONDS {
            let (given, most) = (timing.jitter_seconds, MAX_JITTER_SECONDS);
            self.add(
                "timing.jitter_seconds",
                format!("{given} is out of range; expected 0 to {most}"),
            );
        }
        if timing.exclusions.len() > MAX_EXCLUSIONS {
            let count = timing.exclusions.len();
            self.add(
                "timing.exclusions",
                format!("has {count} windows; expected at most {MAX_EXCLUSIONS}"),
            );
            return;
        }
        let mut windows = Vec::new();
        for (position, text) in timing.exclusions.iter().enumerate() {
            match Exclusion::parse(text) {
                Ok(window) => windows.push(window),
                Err(problems) => {
                    for problem in problems {
                        self.add(format!("timing.exclusions[{position}]"), problem);
                    }
                }
            }
        }
        let (Some(cron), Some(zone)) = (cron, zone) else {
            return;
        };
        self.fires(timing, &cron, &zone, &windows, now);
    }

    fn fires(&mut self, timing: &Timing, cron: &Cron, zone: &TimeZone, windows: &[Exclusion], now: Timestamp) {
        let until = zone
            .to_datetime(now)
            .checked_add(Span::new().years(HORIZON_YEARS))
            .and_then(|local| zone.to_timestamp(local))
            .unwrap_or(Timestamp::MAX);
        let dst = timing.dst();
        // Rare days, such as a 29th of February on a weekday, may lie further ahead than any window is looked at.
        if next_allowed(cron, zone, dst, windows, now, until).is_none()
            && cron.next_after(zone, dst, now).is_some_and(|first| first.at <= until)
        {
            self.add(
                "timing.exclusions",
                format!("never fires: these windows exclude every occurrence in the next {HORIZON_YEARS} years"),
            );
        }
    }

    fn options(&mut self, options: &ScheduleOptions) {
        let bounded = [
            ("batch_rows", options.batch_rows, RunOptions::BATCH_ROWS),
            (
                "max_execution_seconds",
                options.max_execution_seconds,
                RunOptions::MAX_EXECUTION_SECONDS,
            ),
        ];
        for (name, value, range) in bounded {
            if !range.contains(&value) {
                let (least, most) = (range.start(), range.end());
                self.add(
                    format!("options.{name}"),
                    format!("{value} is out of range; expected {least} to {most}"),
                );
            }
        }
        if options.max_rows == Some(0) {
            self.add("options.max_rows", "is 0; expected at least 1, or none for no limit");
        }
        if let Some(fraction) = options.max_fraction
            && !(fraction > 0.0 && fraction <= 1.0)
        {
            self.add(
                "options.max_fraction",
                format!("{fraction} is out of range; expected over 0 up to 1"),
            );
        }
    }

    fn limits(&mut self, spec: &ScheduleSpec) {
        if spec.misfire.catch_up_seconds > MAX_CATCH_UP_SECONDS {
            let (given, most) = (spec.misfire.catch_up_seconds, MAX_CATCH_UP_SECONDS);
            self.add(
                "misfire.catch_up_seconds",
                format!("{given} is out of range; expected 0 to {most}"),
            );
        }
        let least = RunOptions::MAX_EXECUTION_SECONDS.start() + spec.timing.jitter_seconds.min(MAX_JITTER_SECONDS);
        if spec.deadline_seconds > 0 && spec.deadline_seconds < least {
            self.add(
                "deadline_seconds",
                format!(
                    "{} leaves no time for a run; expected 0 for none, or at least {least}: the jitter, and the shortest run",
                    spec.deadline_seconds
                ),
            );
        }
    }

    fn notify(&mut self, notify: &NotifyRules, known: &Known) {
        let chosen = [
            ("on_success", notify.on_success),
            ("on_failure", notify.on_failure),
            ("on_warnings", notify.on_warnings),
        ];
        let rules: Vec<&str> = chosen.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
        if notify.channels.is_empty() && !rules.is_empty() {
            self.add(
                "notify.channels",
                format!("is empty, and {} is set; expected a channel to tell", rules.join(", ")),
            );
        }
        let mut seen = HashSet::new();
        for (position, name) in notify.channels.iter().enumerate() {
            let field = format!("notify.channels[{position}]");
            if !known.channels.contains_key(name) {
                self.add(&field, no_channel(name, known));
            } else if !seen.insert(name) {
                self.add(&field, format!("{name:?} is there already; expected each channel once"));
            }
        }
        let chosen = || {
            notify
                .channels
                .iter()
                .filter_map(|name| Some((name, known.channels.get(name)?)))
        };
        if notify.recipients.is_empty() {
            if let Some((channel, _)) = chosen().find(|(_, channel)| channel.needs_recipients()) {
                self.add(
                    "notify.recipients",
                    format!("is empty; channel {channel:?} sends e-mail and needs an address"),
                );
            }
        } else if !notify.channels.is_empty()
            && notify.channels.iter().all(|name| known.channels.contains_key(name))
            && !chosen().any(|(_, channel)| channel.kind.takes_recipients())
        {
            // Addresses that nothing is sent to would be believed to be told. What a channel is that is not known was not asked for.
            self.add(
                "notify.recipients",
                "has addresses, and no channel sends e-mail; expected a channel of kind email",
            );
        }
        if notify.recipients.len() > MAX_RECIPIENTS {
            let count = notify.recipients.len();
            self.add(
                "notify.recipients",
                format!("has {count} addresses; expected at most {MAX_RECIPIENTS}"),
            );
            return;
        }
        let mut seen = HashSet::new();
        for (position, address) in notify.recipients.iter().enumerate() {
            let field = format!("notify.recipients[{position}]");
            if let Some(problem) = email::problem(address) {
                self.add(&field, problem);
            } else if !seen.insert(address.to_ascii_lowercase()) {
                self.add(&field, format!("{address:?} is there already; expected each address once"));
            }
        }
    }
}

fn no_channel(name: &str, known: &Known) -> String {
    if name.contains("://") {
        // Whoever knows such a URL may use it: it is not repeated.
        let names = known.channels.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        return format!(
            "is a URL; expected the name of a channel ({names}): where it leads, by https to a public address, is in the settings of the server"
        );
    }
    unknown("channel", name, known.channels.keys())
}

fn unknown<'a>(noun: &str, name: &str, known: impl Iterator<Item = &'a String> + Clone) -> String {
    let names = known.clone().map(String::as_str).collect::<Vec<_>>().join(", ");
    let known_are = if names.is_empty() {
        "there is none".to_owned()
    } else {
        format!("expected one of {names}")
    };
    let near = spelling::suggestion(known.map(String::as_str), name);
    format!("there is no {noun} {name:?}; {known_are}{near}")
}

#[cfg(test)]
mod tests;
