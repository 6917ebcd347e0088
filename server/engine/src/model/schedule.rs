//! Schedules: what is to be done when, where each stands, and what became of every slot.
//!
//! A *slot* is an instant that a schedule's cron fields name. What the fields mean is in [`crate::schedule::cron`], what becomes of a
//! slot in [`decide`](mod@crate::schedule::decide).

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::run::{RunId, RunOptions};

/// Id of a schedule, sortable by creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScheduleId(pub Uuid);

impl ScheduleId {
    /// A new id (UUID version 7).
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for ScheduleId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::str::FromStr for ScheduleId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

/// A schedule as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its id.
    pub id: ScheduleId,
    /// Goes up with every change of the spec; a change names the one that it was made from.
    pub etag: u64,
    /// What was asked for.
    pub spec: ScheduleSpec,
    /// Where it stands.
    pub state: ScheduleState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// When its spec was last changed.
    pub updated_at: Timestamp,
    /// Who changed it.
    pub updated_by: String,
}

/// What is to be done, when, and what happens if that does not work out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// Name, 1 to 100 characters.
    pub name: String,
    /// For people, up to 500 characters.
    pub description: String,
    /// The target that it works on.
    pub target: String,
    /// What it does there.
    pub work: Work,
    /// When.
    pub timing: Timing,
    /// Whether it fires at all. Slots that pass while it does not are not caught up.
    pub enabled: bool,
    /// How its runs work.
    pub options: ScheduleOptions,
    /// What a slot does while the run of the slot before it is still going.
    pub overlap: Overlap,
    /// What becomes of slots that nobody decided in time.
    pub misfire: Misfire,
    /// So many failures in a row pause the schedule; 0 for never.
    pub pause_after_failures: u32,
    /// A run has to end so long after its slot, seconds; 0 for no deadline.
    pub deadline_seconds: u32,
    /// Who hears of what.
    pub notify: NotifyRules,
}

impl ScheduleSpec {
    /// Longest name, characters.
    pub const MAX_NAME: usize = 100;
    /// Longest description, characters.
    pub const MAX_DESCRIPTION: usize = 500;

    /// SHA-256 over what a standing approval consents to: target, work and options. Hexadecimal. When the schedule fires, and what
    /// it is called, may change under an approval; what it does may not.
    #[must_use]
    pub fn digest(&self) -> String {
        // Plain data with names as keys has no way to fail; were there one, no approval would match an empty text.
        let approved = serde_json::to_vec(&(&self.target, &self.work, &self.options)).unwrap_or_default();
        hex::encode(Sha256::digest(approved))
    }
}

/// What a schedule does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Operations of the target's catalog, in this order.
    Operations(Vec<String>),
    /// Built-in maintenance, in this order.
    Maintenance(Vec<MaintenanceTask>),
}

/// A built-in act of maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaintenanceTask {
    /// Makes the space of dead rows reusable and renews what the planner of queries knows.
    VacuumAnalyze,
    /// Rebuilds indexes that are mostly air.
    ReindexBloated,
    /// Proves backups that are unproven, or were proven long ago.
    VerifyBackups,
    /// Removes backups by age and number.
    PruneBackups {
        /// Backups older than this go, days.
        keep_days: Option<u32>,
        /// All but so many of the newest go.
        keep_count: Option<u32>,
    },
    /// Restores the newest backup to a scratch place, compares, and removes it again.
    RestoreDrill,
}

impl MaintenanceTask {
    /// Name of every task, in the order of their definition.
    pub const NAMES: [&'static str; 5] = [
        "vacuum_analyze",
        "reindex_bloated",
        "verify_backups",
        "prune_backups",
        "restore_drill",
    ];

    /// `; did you mean X?` of a name that no task has, or nothing where none is near.
    #[must_use]
    pub fn suggestion(written: &str) -> String {
        crate::spelling::suggestion(Self::NAMES, written)
    }

    /// Name in stores, messages and reports.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::VacuumAnalyze => "vacuum_analyze",
            Self::ReindexBloated => "reindex_bloated",
            Self::VerifyBackups => "verify_backups",
            Self::PruneBackups { .. } => "prune_backups",
            Self::RestoreDrill => "restore_drill",
        }
    }
}

/// When a schedule fires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timing {
    /// The five fields.
    pub cron: CronFields,
    /// Name of the zone that the fields, and the exclusions, are read in.
    pub timezone: String,
    /// Times that the clock skips.
    pub gap: GapPolicy,
    /// Times that the clock shows twice.
    pub fold: FoldPolicy,
    /// Most seconds that a slot begins late on purpose, so that schedules of one time do not begin at one instant. A slot's own
    /// delay is fixed, and less than the time to the slot after it.
    pub jitter_seconds: u32,
    /// Windows in which no slot fires, as [`crate::schedule::calendar::Exclusion`] reads them.
    pub exclusions: Vec<String>,
}

impl Timing {
    /// Zone of schedules that name none.
    pub const UTC: &'static str = "UTC";

    /// What happens where the clock changes.
    #[must_use]
    pub fn dst(&self) -> DstPolicy {
        DstPolicy {
            gap: self.gap,
            fold: self.fold,
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            cron: CronFields::default(),
            timezone: Self::UTC.to_owned(),
            gap: GapPolicy::default(),
            fold: FoldPolicy::default(),
            jitter_seconds: 0,
            exclusions: Vec::new(),
        }
    }
}

/// The five fields of a cron expression, as they were written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CronFields {
    /// 0 to 59.
    pub minute: String,
    /// 0 to 23.
    pub hour: String,
    /// 1 to 31.
    pub day_of_month: String,
    /// 1 to 12, or JAN to DEC.
    pub month: String,
    /// 0 to 7, where 0 and 7 are Sunday, or SUN to SAT.
    pub day_of_week: String,
}

impl Default for CronFields {
    /// Every day at midnight.
    fn default() -> Self {
        Self {
            minute: "0".to_owned(),
            hour: "0".to_owned(),
            day_of_month: "*".to_owned(),
            month: "*".to_owned(),
            day_of_week: "*".to_owned(),
        }
    }
}

/// What becomes of a fixed time that the clock skips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapPolicy {
    /// It happens at the first instant after the gap.
    #[default]
    RunShifted,
    /// It does not happen that day.
    Skip,
}

/// What becomes of a fixed time that the clock shows twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoldPolicy {
    /// It happens once, the first time.
    #[default]
    Once,
    /// It happens both times.
    Twice,
}

/// What happens where the clock changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DstPolicy {
    /// Times that are skipped.
    pub gap: GapPolicy,
    /// Times that come twice.
    pub fold: FoldPolicy,
}

/// How the runs of a schedule work; the vocabulary is that of [`RunOptions`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleOptions {
    /// Stop after planning.
    pub dry_run: bool,
    /// Rows per transaction.
    pub batch_rows: u32,
    /// Longest time at work, seconds.
    pub max_execution_seconds: u32,
    /// Most rows that a run may delete. A plan over it is refused, and nothing is deleted.
    pub max_rows: Option<u64>,
    /// Most of a table that a run may delete, over 0 up to 1; `None` for what the catalog says.
    pub max_fraction: Option<f64>,
    /// Work without rests.
    pub full_speed: bool,
    /// Begin no further operation after one that failed.
    pub stop_on_failure: bool,
    /// Make the space of deleted rows reusable after the last step.
    pub vacuum_after: bool,
}

impl Default for ScheduleOptions {
    fn default() -> Self {
        let run = RunOptions::default();
        Self {
            // Nobody looks at the plan of a schedule's run: it is made to be carried out.
            dry_run: false,
            batch_rows: run.batch_rows,
            max_execution_seconds: run.max_execution_seconds,
            max_rows: None,
            max_fraction: None,
            full_speed: run.full_speed,
            stop_on_failure: run.stop_on_failure,
            vacuum_after: run.vacuum,
        }
    }
}

/// What a slot does while the run of the slot before it is still going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is skipped, and recorded as such.
    #[default]
    Skip,
    /// It begins when that run has ended; only one slot waits.
    QueueOne,
    /// It cancels that run and begins when it has ended.
    CancelOther,
}

/// What becomes of slots that nobody decided in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Misfire {
    /// A slot may begin so many seconds late.
    pub catch_up_seconds: u32,
    /// Whether it does.
    pub policy: MisfirePolicy,
}

impl Default for Misfire {
    fn default() -> Self {
        Self {
            catch_up_seconds: 3_600,
            policy: MisfirePolicy::default(),
        }
    }
}

/// Whether slots are caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MisfirePolicy {
    /// The newest of the missed slots fires, if it is not too late for it.
    #[default]
    RunOnce,
    /// None of them does.
    Skip,
}

/// Who hears of a run that ended, and of a slot that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NotifyRules {
    /// Of success.
    pub on_success: bool,
    /// Of failure.
    pub on_failure: bool,
    /// Of warnings.
    pub on_warnings: bool,
    /// Addresses, for channels of e-mail.
    pub recipients: Vec<String>,
    /// Names of the server's channels.
    pub channels: Vec<String>,
}

/// Consent to all runs of a schedule, given ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingApproval {
    /// Who gave it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Most rows that one run may delete under it.
    pub max_rows: u64,
    /// Until when it holds.
    pub expires_at: Timestamp,
    /// Digest of what was consented to: of [`ScheduleSpec::digest`], and of the rules of the operations as they were then.
    pub spec_digest: String,
}

impl StandingApproval {
    /// Whether it holds at an instant for what the schedule does now, which has this digest.
    #[must_use]
    pub fn covers(&self, digest: &str, now: Timestamp) -> bool {
        now < self.expires_at && self.spec_digest == digest
    }
}

/// Somebody, or the schedule itself, made it stop firing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub note: String,
    /// Whether failures in a row did it.
    pub automatic: bool,
}

/// Where a schedule stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScheduleState {
    /// Set while it does not fire. Slots that pass meanwhile are not caught up.
    pub paused: Option<Pause>,
    /// The next instant that the fields name.
    pub next_slot: Option<Timestamp>,
    /// When that slot begins: with its jitter.
    pub next_fire: Option<Timestamp>,
    /// Runs that failed since the last that did not.
    pub consecutive_failures: u32,
    /// The run of the newest slot that had one.
    pub last_run: Option<RunId>,
    /// The newest slot that was decided. No slot up to it is decided again, whatever the clock says.
    pub last_slot: Option<Timestamp>,
    /// Consent to its runs.
    pub approval: Option<StandingApproval>,
    /// Who gave it the work that it does: whoever changed target, work or options last, and may not consent to it.
    #[serde(default)]
    pub work_by: String,
}

/// What became of a slot, or of many that nobody decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The schedule.
    pub schedule: ScheduleId,
    /// The slot; the last of them where the record stands for many. A schedule has one record of a slot.
    pub slot: Timestamp,
    /// What became of it.
    pub kind: SlotOutcome,
    /// Why, in a sentence.
    pub reason: String,
    /// The run that it began.
    pub run: Option<RunId>,
    /// How many slots this record stands for; more than one only where nobody decided them in time, or a window excluded them.
    pub missed: u64,
    /// The first of them.
    pub first_slot: Timestamp,
    /// When that was decided.
    pub decided_at: Timestamp,
    /// Whether a person fired it, outside of the fields.
    pub manual: bool,
    /// That person; empty where none did.
    pub fired_by: String,
}

/// What became of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotOutcome {
    /// Decided to fire; its run is not there yet.
    Pending,
    /// Waits for the run before it to end.
    Waiting,
    /// Its run works.
    Fired,
    /// Its run succeeded.
    Succeeded,
    /// Its run succeeded, with warnings.
    Warned,
    /// Its run failed.
    Failed,
    /// A limit or a missing consent refused its run; nothing was changed.
    Refused,
    /// It was let pass on purpose.
    Skipped,
    /// Nobody decided it in time.
    Missed,
}

impl SlotOutcome {
    /// Every outcome.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Waiting,
        Self::Fired,
        Self::Succeeded,
        Self::Warned,
        Self::Failed,
        Self::Refused,
        Self::Skipped,
        Self::Missed,
    ];

    /// Whether nothing more will become of it.
    #[must_use]
    pub fn is_settled(self) -> bool {
        !matches!(self, Self::Pending | Self::Waiting | Self::Fired)
    }

    /// Name in stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Fired => "fired",
            Self::Succeeded => "succeeded",
            Self::Warned => "warned",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ScheduleSpec {
        ScheduleSpec {
            name: "daily".to_owned(),
            description: String::new(),
            target: "main".to_owned(),
            work: Work::Operations(vec!["old_logs".to_owned()]),
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

    #[test]
    fn an_approval_ends_with_its_time_and_with_any_change_of_what_is_done() {
        let approved = spec();
        let approval = StandingApproval {
            by: "ada".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            max_rows: 10,
            expires_at: Timestamp::from_second(100).expect("an instant"),
            spec_digest: approved.digest(),
        };
        let before = Timestamp::from_second(99).expect("an instant");
        assert!(approval.covers(&approved.digest(), before));
        assert!(!approval.covers(&approved.digest(), approval.expires_at), "expired");
        let renamed = ScheduleSpec {
            name: "nightly".to_owned(),
            timing: Timing {
                jitter_seconds: 9,
                ..Timing::default()
            },
            ..approved.clone()
        };
        assert!(approval.covers(&renamed.digest(), before), "the same work at another time");
        let changes: [fn(&mut ScheduleSpec); 5] = [
            |spec| "other".clone_into(&mut spec.target),
            |spec| spec.work = Work::Operations(vec!["expired_tokens".to_owned()]),
            |spec| spec.options.max_rows = Some(1),
            |spec| spec.options.max_fraction = Some(0.5),
            |spec| spec.options.dry_run = true,
        ];
        for change in changes {
            let mut changed = approved.clone();
            change(&mut changed);
            assert!(!approval.covers(&changed.digest(), before), "{changed:?}");
        }
    }

    #[test]
    fn stored_names_are_those_of_the_api() {
        let tasks = vec![
            MaintenanceTask::VacuumAnalyze,
            MaintenanceTask::ReindexBloated,
            MaintenanceTask::VerifyBackups,
            MaintenanceTask::PruneBackups {
                keep_days: Some(30),
                keep_count: None,
            },
            MaintenanceTask::RestoreDrill,
        ];
        assert_eq!(
            tasks.iter().map(MaintenanceTask::name).collect::<Vec<_>>(),
            MaintenanceTask::NAMES
        );
        let json = serde_json::to_string(&Work::Maintenance(tasks.clone())).expect("json");
        assert_eq!(
            json,
            r#"{"maintenance":["vacuum_analyze","reindex_bloated","verify_backups",{"prune_backups":{"keep_days":30,"keep_count":null}},"restore_drill"]}"#
        );
        assert_eq!(
            serde_json::from_str::<Work>(&json).expect("the same"),
            Work::Maintenance(tasks)
        );
        for outcome in SlotOutcome::ALL {
            assert_eq!(serde_json::to_value(outcome).expect("json"), outcome.name());
        }
        let whole = serde_json::to_string(&spec()).expect("json");
        assert_eq!(serde_json::from_str::<ScheduleSpec>(&whole).expect("the same"), spec());
    }

    #[test]
    fn what_is_settled_has_ended() {
        let open: Vec<_> = SlotOutcome::ALL.into_iter().filter(|outcome| !outcome.is_settled()).collect();
        assert_eq!(open, [SlotOutcome::Pending, SlotOutcome::Waiting, SlotOutcome::Fired]);
    }
}
