//! From conditions to alerts: one that holds for long enough is raised once, one that ended is resolved once, and a value on the border
//! does neither.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::monitor::{Alert, AlertId, AlertState, AlertTransition, Level, Threshold};

/// A rule, by what it looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleName {
    /// A file system that dbkeep or a target writes to is nearly full.
    DiskNearlyFull,
    /// Index blocks are often not in memory.
    LowIndexEfficiency,
    /// The newest run of an operation failed.
    OperationFailed,
    /// The newest run of an operation took longer than its catalog expects.
    ExpectedTimeExceeded,
    /// Part of the operations of the last day that failed.
    ErrorRate,
    /// The newest run of an operation stopped at a limit.
    LimitHit,
    /// A schedule's newest slot was missed or refused.
    ScheduleMissed,
    /// The newest backup of a target failed, or its newest verification did.
    BackupFailed,
    /// No backup of a target was verified for long.
    BackupUnverified,
    /// Applied migrations and their files differ.
    MigrationDrift,
    /// A target cannot be reached.
    TargetDown,
    /// A replica is behind.
    ReplicaLag,
    /// Transaction ids run out.
    Wraparound,
    /// Nearly all sessions are taken.
    ConnectionsNearLimit,
}

/// On which side of the threshold trouble is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Over it.
    Above,
    /// Under it.
    Below,
    /// There is no threshold: it holds or it does not.
    Event,
}

impl RuleName {
    /// Every rule.
    pub const ALL: [Self; 14] = [
        Self::DiskNearlyFull,
        Self::LowIndexEfficiency,
        Self::OperationFailed,
        Self::ExpectedTimeExceeded,
        Self::ErrorRate,
        Self::LimitHit,
        Self::ScheduleMissed,
        Self::BackupFailed,
        Self::BackupUnverified,
        Self::MigrationDrift,
        Self::TargetDown,
        Self::ReplicaLag,
        Self::Wraparound,
        Self::ConnectionsNearLimit,
    ];

    /// Name in settings, stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DiskNearlyFull => "disk_nearly_full",
            Self::LowIndexEfficiency => "low_index_efficiency",
            Self::OperationFailed => "operation_failed",
            Self::ExpectedTimeExceeded => "expected_time_exceeded",
            Self::ErrorRate => "error_rate",
            Self::LimitHit => "limit_hit",
            Self::ScheduleMissed => "schedule_missed",
            Self::BackupFailed => "backup_failed",
            Self::BackupUnverified => "backup_unverified",
            Self::MigrationDrift => "migration_drift",
            Self::TargetDown => "target_down",
            Self::ReplicaLag => "replica_lag",
            Self::Wraparound => "wraparound",
            Self::ConnectionsNearLimit => "connections_near_limit",
        }
    }

    /// The rule of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }

    /// On which side trouble is.
    #[must_use]
    pub fn side(self) -> Side {
        match self {
            Self::DiskNearlyFull
            | Self::ErrorRate
            | Self::BackupUnverified
            | Self::ReplicaLag
            | Self::Wraparound
            | Self::ConnectionsNearLimit => Side::Above,
            Self::LowIndexEfficiency => Side::Below,
            Self::OperationFailed
            | Self::ExpectedTimeExceeded
            | Self::LimitHit
            | Self::ScheduleMissed
            | Self::BackupFailed
            | Self::MigrationDrift
            | Self::TargetDown => Side::Event,
        }
    }

    /// The rule as it comes: the platform's five conditions first.
    #[must_use]
    pub fn defaults(self) -> Rule {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let (level, raise_at, clear_at, lasting) = match self {
            Self::DiskNearlyFull => (Level::Warning, 0.80, 0.75, minutes(5)),
            Self::LowIndexEfficiency => (Level::Warning, 0.90, 0.92, minutes(15)),
            Self::ErrorRate => (Level::Warning, 0.05, 0.03, Duration::ZERO),
            // Days.
            Self::BackupUnverified => (Level::Warning, 30.0, 30.0, Duration::ZERO),
            // Seconds.
            Self::ReplicaLag => (Level::Warning, 60.0, 30.0, minutes(5)),
            // Parts of the limit.
            Self::Wraparound => (Level::Error, 0.50, 0.45, Duration::ZERO),
            Self::ConnectionsNearLimit => (Level::Warning, 0.90, 0.80, minutes(5)),
            // A restart, or one look that took too long, is nothing to wake people for.
            Self::TargetDown => (Level::Error, 1.0, 0.0, minutes(2)),
            Self::OperationFailed | Self::BackupFailed => (Level::Error, 1.0, 0.0, Duration::ZERO),
            Self::ExpectedTimeExceeded | Self::LimitHit | Self::ScheduleMissed | Self::MigrationDrift => {
                (Level::Warning, 1.0, 0.0, Duration::ZERO)
            }
        };
        Rule {
            name: self,
            enabled: true,
            level,
            raise_at,
            clear_at,
            lasting,
        }
    }
}

/// A rule as it is in effect for a target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// What it looks at.
    pub name: RuleName,
    /// Whether it is looked at.
    pub enabled: bool,
    /// How much it matters.
    pub level: Level,
    /// The value at which trouble begins.
    pub raise_at: f64,
    /// The value at which it is over.
    pub clear_at: f64,
    /// For how long it has to hold before people are told.
    pub lasting: Duration,
}

/// What was set of a rule; what is `None` stays as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Override {
    /// Whether it is looked at.
    pub enabled: Option<bool>,
    /// How much it matters.
    pub level: Option<Level>,
    /// The value at which trouble begins.
    pub raise_at: Option<f64>,
    /// The value at which it is over.
    pub clear_at: Option<f64>,
    /// Seconds for which it has to hold.
    pub for_seconds: Option<u64>,
}

impl Rule {
    /// The rule with what was set.
    ///
    /// # Errors
    /// Where the thresholds contradict each other, or the rule has none; the text says what is expected.
    pub fn with(mut self, set: Override) -> Result<Self, String> {
        if self.name.side() == Side::Event && (set.raise_at.is_some() || set.clear_at.is_some()) {
            return Err(format!("{} holds or does not: it has no threshold", self.name.name()));
        }
        self.enabled = set.enabled.unwrap_or(self.enabled);
        self.level = set.level.unwrap_or(self.level);
        if let Some(raise_at) = set.raise_at {
            // The distance between the two stays, unless that is set as well.
            self.clear_at += raise_at - self.raise_at;
            self.raise_at = raise_at;
        }
        self.clear_at = set.clear_at.unwrap_or(self.clear_at);
        self.lasting = set.for_seconds.map_or(self.lasting, Duration::from_secs);
        let fits = match self.name.side() {
            Side::Above => self.clear_at <= self.raise_at,
            Side::Below => self.clear_at >= self.raise_at,
            Side::Event => true,
        };
        if !(self.raise_at.is_finite() && self.clear_at.is_finite() && fits) {
            return Err(format!(
                "{} begins at {} and cannot end at {}: the end has to be on the side of what is well",
                self.name.name(),
                self.raise_at,
                self.clear_at
            ));
        }
        Ok(self)
    }

    fn judge(&self, value: f64) -> Judgement {
        match self.name.side() {
            Side::Above if value > self.raise_at => Judgement::Bad,
            Side::Above if value < self.clear_at => Judgement::Good,
            Side::Below if value < self.raise_at => Judgement::Bad,
            Side::Below if value > self.clear_at => Judgement::Good,
            Side::Event if value > 0.0 => Judgement::Bad,
            Side::Event => Judgement::Good,
            Side::Above | Side::Below => Judgement::Between,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Bad,
    /// Neither bad enough to begin nor good enough to end.
    Between,
    Good,
}

/// What was seen of one thing. For an event the value is 1 where it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The rule that looks at it.
    pub rule: RuleName,
    /// Table, schedule, operation, folder or server; empty for the target as a whole.
    pub object: String,
    /// The measured value.
    pub value: f64,
    /// What is the matter, in one sentence with its numbers; also said where all is well again.
    pub detail: String,
    /// What to do, in one sentence.
    pub remediation: String,
}

/// One look at a target's conditions.
#[derive(Debug, Clone, PartialEq)]
pub struct Look<'a> {
    /// The target; empty for servers.
    pub target: &'a str,
    /// Now, by the store's clock.
    pub now: Timestamp,
    /// The rules in effect.
    pub rules: &'a BTreeMap<RuleName, Rule>,
    /// What was seen.
    pub conditions: &'a [Condition],
    /// Rules whose conditions could be looked at. What is open of another stays as it is: not seen is not over.
    pub looked: &'a [RuleName],
    /// Objects of those rules that could not be looked at all the same, a folder that cannot be read for instance.
    pub unseen: &'a [(RuleName, String)],
}

/// How long a replica that is not seen any more counts as behind. One that died does not tell that it is gone.
const REPLICA_MISSED: Duration = Duration::from_secs(24 * 60 * 60);
/// Part by which a value has to change before an alert that is open counts as changed.
const NEWS: f64 = 0.1;

/// The worst condition of each thing that a rule looks at. Several may have one name: standbys are all `walreceiver` where nobody names them.
fn worst(conditions: &[Condition]) -> BTreeMap<(RuleName, &str), &Condition> {
    let mut worst: BTreeMap<(RuleName, &str), &Condition> = BTreeMap::new();
    for condition in conditions {
        let kept = worst.entry((condition.rule, condition.object.as_str())).or_insert(condition);
        let is_worse = match condition.rule.side() {
            Side::Above | Side::Event => condition.value > kept.value,
            Side::Below => condition.value < kept.value,
        };
        if is_worse {
            *kept = condition;
        }
    }
    worst
}

/// What a look changes of the alerts that are open (pending or raised), each at most once. Alerts of other targets are left alone.
#[must_use]
pub fn step(look: &Look<'_>, open: &[Alert]) -> Vec<(Alert, AlertTransition)> {
    let mut changed = Vec::new();
    let conditions = worst(look.conditions);
    for alert in open.iter().filter(|alert| alert.target == look.target) {
        let rule = RuleName::named(&alert.rule)
            .and_then(|name| look.rules.get(&name))
            .filter(|rule| rule.enabled);
        let seen = RuleName::named(&alert.rule).and_then(|name| conditions.get(&(name, alert.object.as_str())).copied());
        match (rule, seen) {
            (Some(rule), Some(condition)) if rule.judge(condition.value) != Judgement::Good => {
                changed.push(hold(look.now, alert, rule, condition));
            }
            (Some(rule), None) if !look.looked.contains(&rule.name) => {}
            (Some(rule), None)
                if look
                    .unseen
                    .iter()
                    .any(|(name, object)| *name == rule.name && *object == alert.object) => {}
            (Some(rule), None)
                if rule.name == RuleName::ReplicaLag
                    && look.now.duration_since(alert.seen_at).unsigned_abs() < REPLICA_MISSED => {}
            // The condition ended, what it was about is gone, or the rule was switched off.
            (_, seen) => changed.push(end(look.now, alert, seen)),
        }
    }
    for condition in conditions.into_values() {
        let Some(rule) = look.rules.get(&condition.rule).filter(|rule| rule.enabled) else {
            continue;
        };
        let is_open = open
            .iter()
            .any(|alert| alert.target == look.target && alert.rule == condition.rule.name() && alert.object == condition.object);
        if !is_open && rule.judge(condition.value) == Judgement::Bad {
            changed.push(begin(look, rule, condition));
        }
    }
    changed
}

fn begin(look: &Look<'_>, rule: &Rule, condition: &Condition) -> (Alert, AlertTransition) {
    let mut alert = Alert {
        id: AlertId::new(),
        rule: rule.name.name().to_owned(),
        target: look.target.to_owned(),
        object: condition.object.clone(),
        level: rule.level,
        state: AlertState::Pending,
        threshold: threshold(rule, condition),
        detail: condition.detail.clone(),
        remediation: condition.remediation.clone(),
        since: look.now,
        raised_at: None,
        seen_at: look.now,
        resolved_at: None,
        acknowledged: None,
    };
    if rule.lasting.is_zero() {
        raise(look.now, &mut alert);
        return (alert, AlertTransition::Raised);
    }
    (alert, AlertTransition::Begun)
}

fn hold(now: Timestamp, before: &Alert, rule: &Rule, condition: &Condition) -> (Alert, AlertTransition) {
    let mut alert = before.clone();
    alert.seen_at = now;
    alert.level = rule.level;
    alert.threshold = threshold(rule, condition);
    alert.detail.clone_from(&condition.detail);
    alert.remediation.clone_from(&condition.remediation);
    // A clock that went back must not make a condition last for years.
    alert.since = alert.since.min(now);
    let lasted = now.duration_since(alert.since).unsigned_abs();
    // Between the thresholds a pending one goes on to be pending: it was bad, and is not well yet.
    if alert.state == AlertState::Pending && lasted >= rule.lasting {
        raise(now, &mut alert);
        return (alert, AlertTransition::Raised);
    }
    if is_news(before, &alert) {
        return (alert, AlertTransition::Held);
    }
    // The numbers stay those that were told, so that many small steps make a large one.
    let seen = Alert {
        seen_at: now,
        ..before.clone()
    };
    (seen, AlertTransition::Seen)
}

/// Whether whoever watches wants to know: something else than the last digits of a number has changed.
fn is_news(before: &Alert, now: &Alert) -> bool {
    let values = match (before.threshold, now.threshold) {
        (Some(before), Some(now)) => {
            let moved = (now.value - before.value).abs();
            moved > NEWS * before.value.abs() || (before.raise_at, before.clear_at) != (now.raise_at, now.clear_at)
        }
        (None, None) => !before
            .detail
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .eq(now.detail.chars().filter(|c| !c.is_ascii_digit())),
        _ => true,
    };
    values || before.level != now.level || before.since != now.since || before.remediation != now.remediation
}

fn end(now: Timestamp, alert: &Alert, seen: Option<&Condition>) -> (Alert, AlertTransition) {
    let mut alert = alert.clone();
    let transition = if alert.state == AlertState::Raised {
        AlertTransition::Resolved
    } else {
        AlertTransition::Passed
    };
    alert.state = AlertState::Resolved;
    alert.seen_at = now;
    alert.resolved_at = Some(now);
    match seen {
        // Not that all is well: what it was about is not there, or nobody looks at it any more.
        None => alert.detail = format!("no longer looked at; last: {}", alert.detail),
        Some(condition) => alert.detail.clone_from(&condition.detail),
    }
    if let (Some(condition), Some(threshold)) = (seen, &mut alert.threshold) {
        threshold.value = condition.value;
    }
    (alert, transition)
}

fn raise(now: Timestamp, alert: &mut Alert) {
    alert.state = AlertState::Raised;
    alert.raised_at = Some(now);
}

fn threshold(rule: &Rule, condition: &Condition) -> Option<Threshold> {
    (rule.name.side() != Side::Event).then_some(Threshold {
        value: condition.value,
        raise_at: rule.raise_at,
        clear_at: rule.clear_at,
    })
}

#[cfg(test)]
mod tests;
