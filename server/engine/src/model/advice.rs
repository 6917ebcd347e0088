//! What to do after a scheduled run: derived from the facts of its report, and kept in it. Pure. Called once, where the run ends.

use serde::{Deserialize, Serialize};

use super::{
    maintenance::{HorizonHolder, TableSpace},
    report::EXPECTED_TIME_EXCEEDED,
    run::{Report, Run, RunOptions, RunState, StepState, Warning},
};

/// Less free space than this is nothing to speak of, bytes.
const WORTH_RETURNING: u64 = 1 << 20;
/// So many runs in a row that found nothing to do are worth a look at the rule.
const IDLE_RUNS: u32 = 5;

/// How urgent a piece of advice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdviceLevel {
    /// Good to know.
    Info,
    /// Worth a change.
    Warn,
    /// Somebody has to act.
    Act,
}

/// One piece of advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// Stable name, in small letters.
    pub key: String,
    /// How urgent it is.
    pub level: AdviceLevel,
    /// What was found and what can be done, with names and numbers.
    pub what: String,
    /// A command, or a statement, to begin with; empty where none fits.
    pub command: String,
}

impl Advice {
    fn new(key: &str, level: AdviceLevel, what: impl Into<String>, command: impl Into<String>) -> Self {
        Self {
            key: key.to_owned(),
            level,
            what: what.into(),
            command: command.into(),
        }
    }
}

impl Report {
    /// What to do after the scheduled run `of` ends in the state `to` with this report, the most urgent first; each key at most once for
    /// each table or operation. Empty for runs that no schedule started.
    #[must_use]
    pub fn advise(&self, of: &Run, to: RunState) -> Vec<Advice> {
        let Some(slot) = &self.scheduled else {
            return Vec::new();
        };
        let schedule = slot.schedule.to_string();
        let mut advice = Vec::new();
        self.about_backups(of, &mut advice);
        self.about_space(&mut advice);
        self.about_time(of, to, &schedule, &mut advice);
        self.about_limits(&schedule, &mut advice);
        self.about_locks(&schedule, &mut advice);
        self.about_leftovers(of, &mut advice);
        self.about_idleness(of, &mut advice);
        advice.sort_by_key(|piece| std::cmp::Reverse(piece.level));
        advice
    }

    fn warned<'a>(&'a self, codes: &'a [&str]) -> impl Iterator<Item = &'a Warning> {
        self.warnings.iter().filter(|warning| codes.contains(&warning.code.as_str()))
    }

    fn about_backups(&self, of: &Run, advice: &mut Vec<Advice>) {
        let create = || format!("dbkeep backups create --target {}", of.target);
        let told = |code: &'static str| {
            let all: Vec<&str> = self
                .warnings
                .iter()
                .filter(|warning| warning.code == code)
                .map(|warning| warning.message.as_str())
                .collect();
            let more = match all.len() {
                0 | 1 => String::new(),
                number => format!(", and {} more", number - 1),
            };
            all.first().map(|first| format!("{first}{more}"))
        };
        if let Some(told) = told("BACKUP_DAMAGED") {
            let what = format!("{told}. It cannot be relied on: make another one while the rows are there");
            advice.push(Advice::new("backup_damaged", AdviceLevel::Act, what, create()));
        }
        if let Some(told) = told("VERIFY_FAILED") {
            let what = format!("{told}. Nothing is known of it until it is proven");
            let command = format!("dbkeep backups list --target {}", of.target);
            advice.push(Advice::new("backup_unproven", AdviceLevel::Warn, what, command));
        }
        if self.warned(&["NO_BACKUP"]).next().is_some() {
            let what = "There is no backup to restore from";
            advice.push(Advice::new("no_backup", AdviceLevel::Warn, what, create()));
        }
    }

    fn about_space(&self, advice: &mut Vec<Advice>) {
        for space in &self.space {
            if let Some(holder) = space.holders.first() {
                advice.push(held(space, holder));
            } else if space.bytes_reusable >= WORTH_RETURNING
                && space.bytes_reusable > space.bytes_returned()
                && space.bytes_reusable >= space.bytes_after / 4
            {
                advice.push(reusable(space));
            }
        }
    }

    fn about_time(&self, of: &Run, to: RunState, schedule: &str, advice: &mut Vec<Advice>) {
        let limit = of.options.max_execution_seconds;
        if to == RunState::PartiallySucceeded && self.duration_ms / 1_000 >= u64::from(limit) {
            let most = *RunOptions::MAX_EXECUTION_SECONDS.end();
            let (how, command) = if limit < most {
                let more = limit.saturating_mul(2).min(most);
                (
                    "give it more time",
                    format!("dbkeep schedules update {schedule} --max-time {more}s"),
                )
            } else {
                (
                    "let it run more often, or give its work to several schedules",
                    format!("dbkeep schedules show {schedule}"),
                )
            };
            let what = format!("Its {limit} s were over before its work was: {how}");
            advice.push(Advice::new("time_limit", AdviceLevel::Warn, what, command));
        }
        if let Some(warning) = self.warned(&[EXPECTED_TIME_EXCEEDED]).next() {
            let what = format!("{}: something slows it, or the catalog is out of date", warning.message);
            let command = format!("dbkeep runs report {}", of.id);
            advice.push(Advice::new("expected_time", AdviceLevel::Info, what, command));
        }
    }

    fn about_limits(&self, schedule: &str, advice: &mut Vec<Advice>) {
        if let Some(warning) = self.warned(&["COUNT_DRIFTED"]).next() {
            let what = format!(
                "A limit of rows was reached ({}): raise max_rows, let it run more often, or give its work to several schedules",
                warning.message
            );
            let command = format!("dbkeep schedules show {schedule}");
            advice.push(Advice::new("row_limit", AdviceLevel::Warn, what, command));
        }
        if let Some(warning) = self.warned(&["VACUUM_NOT_PERMITTED", "REINDEX_NOT_PERMITTED"]).next() {
            let what = format!("{}: make dbkeep's user a member of the role that owns them", warning.message);
            advice.push(Advice::new("not_permitted", AdviceLevel::Warn, what, ""));
        }
    }

    /// Steps that others' locks kept from their end, or slowed.
    fn about_locks(&self, schedule: &str, advice: &mut Vec<Advice>) {
        let locked = self
            .warned(&["BATCH_RETRIED", "ROWS_REMAIN", "VACUUM_FAILED", "REINDEX_FAILED"])
            .filter(|warning| warning.message.to_lowercase().contains("lock"));
        let mut tables: Vec<(&str, usize)> = Vec::new();
        let mut unfinished = false;
        for warning in locked {
            let step = warning.step.and_then(|step| self.steps.get(usize::try_from(step).ok()?));
            let Some(step) = step else { continue };
            unfinished |= matches!(step.state, StepState::Failed | StepState::Partial);
            match tables.iter_mut().find(|(table, _)| *table == step.table) {
                Some((_, times)) => *times += 1,
                None => tables.push((&step.table, 1)),
            }
        }
        if tables.is_empty() {
            return;
        }
        let names: Vec<String> = tables.iter().map(|(table, times)| format!("{table} ({times})")).collect();
        let (level, how) = if unfinished {
            (AdviceLevel::Warn, "what they kept from being done is left")
        } else {
            (AdviceLevel::Info, "it was done all the same, only slower")
        };
        let what = format!(
            "Locks of others were in its way, in {}; {how}: let it run in a quieter hour",
            names.join(", ")
        );
        advice.push(Advice::new(
            "locked",
            level,
            what,
            format!("dbkeep schedules show {schedule}"),
        ));
    }

    fn about_leftovers(&self, of: &Run, advice: &mut Vec<Advice>) {
        if let Some(warning) = self.warned(&["INDEX_LEFTOVER"]).next() {
            let show = format!("dbkeep runs show {}", of.id);
            advice.push(Advice::new(
                "index_leftover",
                AdviceLevel::Warn,
                warning.message.as_str(),
                show,
            ));
        }
        if let Some(warning) = self.warned(&["SCRATCH_LEFT"]).next() {
            let show = format!("dbkeep runs show {}", of.id);
            let what = format!("{}: remove it by hand, it only takes space", warning.message);
            advice.push(Advice::new("scratch_left", AdviceLevel::Warn, what, show));
        }
    }

    fn about_idleness(&self, of: &Run, advice: &mut Vec<Advice>) {
        let idle = self.sizes.iter().flat_map(|sizes| &sizes.idle_runs);
        for (operation, runs) in idle.filter(|(_, runs)| **runs >= IDLE_RUNS) {
            let what = format!(
                "Operation {operation} found nothing to do in the last {runs} runs: run it less often, or look whether its rule is still right"
            );
            let command = format!("dbkeep plan --target {} {operation}", of.target);
            advice.push(Advice::new("nothing_to_do", AdviceLevel::Info, what, command));
        }
    }
}

/// Somebody may still see what was deleted.
fn held(space: &TableSpace, holder: &HorizonHolder) -> Advice {
    let others = match space.holders.len() {
        1 => String::new(),
        number => format!(" and {} others", number - 1),
    };
    let whose = format!("{} {}{others}", holder.kind.replace('_', " "), holder.name);
    let what = if holder.kind == "reader" {
        format!("A {whose} keeps the write-ahead log from being emptied: end what reads for so long")
    } else {
        format!(
            "{} dead rows of {} cannot be removed while {whose} may still see them, and their space is not even reusable: end it",
            space.dead_rows, space.table
        )
    };
    let look = match holder.kind.as_str() {
        "session" => format!("SELECT * FROM pg_stat_activity WHERE pid = {}", holder.name),
        "prepared_transaction" => "SELECT * FROM pg_prepared_xacts".to_owned(),
        "replication_slot" => "SELECT * FROM pg_replication_slots".to_owned(),
        "standby" => "SELECT * FROM pg_stat_replication".to_owned(),
        _ => String::new(),
    };
    Advice::new("space_held", AdviceLevel::Warn, what, look)
}

/// Space is free inside, and the file is as large as before.
fn reusable(space: &TableSpace) -> Advice {
    let (free, table) = (crate::notify::words::bytes(space.bytes_reusable), &space.table);
    if table == TableSpace::WHOLE_FILE {
        let what = format!(
            "{free} of the file are free for new rows and were not returned to the system. Where they are needed elsewhere: set \
             auto_vacuum once, with a VACUUM in a quiet hour, and later runs return them by themselves"
        );
        return Advice::new(
            "space_reusable",
            AdviceLevel::Info,
            what,
            "PRAGMA auto_vacuum = INCREMENTAL; VACUUM",
        );
    }
    let what = format!(
        "{free} of {table} are free for new rows and were not returned to the system. Where they are needed elsewhere: pg_repack, or \
         VACUUM FULL, which keeps everybody from the table for as long as it takes"
    );
    Advice::new(
        "space_reusable",
        AdviceLevel::Info,
        what,
        format!("VACUUM (FULL, ANALYZE) {table}"),
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::{PlanId, RunId, RunKind, ScheduleId, ScheduledBy, SizeRecord, StepReport, Verification};

    fn report() -> Report {
        Report {
            steps: vec![StepReport {
                operation: "old_logs".to_owned(),
                table: "logs".to_owned(),
                state: StepState::Succeeded,
                ..StepReport::default()
            }],
            scheduled: Some(Box::new(ScheduledBy {
                schedule: ScheduleId(uuid::Uuid::nil()),
                name: "nightly".to_owned(),
                slot: Timestamp::UNIX_EPOCH,
            })),
            ..Report::default()
        }
    }

    fn run() -> Run {
        let options = RunOptions::default();
        Run {
            id: RunId(uuid::Uuid::nil()),
            kind: RunKind::Cleanup,
            target: "main".to_owned(),
            state: RunState::Running,
            state_reason: String::new(),
            operations: vec!["old_logs".to_owned()],
            plan: PlanId::NONE,
            source: None,
            undone_by: None,
            options,
            limits: options.limits(),
            waiting: None,
            attempts: 1,
            report: Report::default(),
            last_sequence: 1,
            cancel_reason: None,
            pause_reason: None,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: Some(Timestamp::UNIX_EPOCH),
            ended_at: None,
            verification: Verification::Unverified,
            started_by: String::new(),
            approvals: Vec::new(),
            approvals_required: 0,
            approve_until: None,
            pruned: None,
        }
    }

    fn keys(report: &Report, to: RunState) -> Vec<String> {
        report.advise(&run(), to).into_iter().map(|piece| piece.key).collect()
    }

    fn warn(report: &mut Report, code: &str, message: &str) {
        report.warnings.push(Warning {
            code: code.to_owned(),
            message: message.to_owned(),
            step: Some(0),
        });
    }

    fn space(table: &str, after: u64, reusable: u64) -> TableSpace {
        TableSpace {
            table: table.to_owned(),
            bytes_before: after,
            bytes_after: after,
            bytes_reusable: reusable,
            ..TableSpace::default()
        }
    }

    #[test]
    fn a_run_without_a_word_needs_none_and_only_schedules_are_advised() {
        assert_eq!(keys(&report(), RunState::Succeeded), [""; 0]);
        let mut by_hand = report();
        by_hand.scheduled = None;
        warn(&mut by_hand, "NO_BACKUP", "none");
        assert_eq!(keys(&by_hand, RunState::Succeeded), [""; 0]);
    }

    #[test]
    fn reusable_is_told_from_returned_and_from_held() {
        let mut found = report();
        found.space = vec![space("logs", 100 << 20, 40 << 20)];
        let advice = found.advise(&run(), RunState::Succeeded);
        assert_eq!(advice[0].key, "space_reusable");
        assert!(advice[0].what.starts_with("40.0 MiB of logs are free"), "{}", advice[0].what);
        assert_eq!(advice[0].command, "VACUUM (FULL, ANALYZE) logs");
        found.space = vec![space("main", 100 << 20, 40 << 20)];
        let advice = found.advise(&run(), RunState::Succeeded);
        assert!(advice[0].command.contains("auto_vacuum"), "{}", advice[0].command);
        // Little of it, or most of it given back.
        let returned = TableSpace {
            bytes_before: 200 << 20,
            ..space("logs", 100 << 20, 40 << 20)
        };
        for quiet in [space("logs", 1 << 30, 40 << 20), space("logs", 2_000, 1_000), returned] {
            found.space = vec![quiet];
            assert_eq!(keys(&found, RunState::Succeeded), [""; 0]);
        }
        let mut held = space("logs", 100 << 20, 40 << 20);
        held.dead_rows = 7;
        held.holders.push(HorizonHolder {
            kind: "session".to_owned(),
            name: "4711".to_owned(),
            user: String::new(),
            detail: String::new(),
            age_seconds: None,
            age_transactions: None,
        });
        found.space = vec![held];
        let advice = found.advise(&run(), RunState::Succeeded);
        assert_eq!((advice.len(), advice[0].key.as_str()), (1, "space_held"));
        assert_eq!(advice[0].command, "SELECT * FROM pg_stat_activity WHERE pid = 4711");
    }

    #[test]
    fn time_and_rows_that_ran_out_ask_for_more_or_for_less_at_once() {
        let mut found = report();
        found.duration_ms = 1_800_400;
        let advice = found.advise(&run(), RunState::PartiallySucceeded);
        assert_eq!(advice[0].key, "time_limit");
        assert!(advice[0].command.ends_with("--max-time 3600s"), "{}", advice[0].command);
        assert_eq!(keys(&found, RunState::Succeeded), [""; 0], "it was done");
        let mut longest = run();
        longest.options.max_execution_seconds = 7_200;
        found.duration_ms = 7_200_000;
        let advice = found.advise(&longest, RunState::PartiallySucceeded);
        assert!(advice[0].what.contains("more often"), "{}", advice[0].what);
        let mut drifted = report();
        warn(&mut drifted, "COUNT_DRIFTED", "at most 10 allowed");
        assert_eq!(keys(&drifted, RunState::PartiallySucceeded), ["row_limit"]);
    }

    #[test]
    fn locks_matter_more_where_something_is_left() {
        let mut found = report();
        warn(&mut found, "BATCH_RETRIED", "batch 1 is tried again: lock timeout");
        warn(&mut found, "BATCH_RETRIED", "batch 1 is tried again: Lock timeout");
        warn(&mut found, "BATCH_RETRIED", "batch 2 is tried again: could not serialize");
        let advice = found.advise(&run(), RunState::Succeeded);
        assert_eq!((advice[0].key.as_str(), advice[0].level), ("locked", AdviceLevel::Info));
        assert!(advice[0].what.contains("logs (2)"), "{}", advice[0].what);
        found.steps[0].state = StepState::Failed;
        assert_eq!(found.advise(&run(), RunState::Failed)[0].level, AdviceLevel::Warn);
    }

    #[test]
    fn damage_comes_first_and_idleness_last() {
        let mut found = report();
        found.sizes = Some(Box::new(SizeRecord {
            idle_runs: [("old_logs".to_owned(), 5), ("others".to_owned(), 4)].into(),
            ..SizeRecord::default()
        }));
        warn(&mut found, "NO_BACKUP", "none");
        warn(&mut found, "VERIFY_FAILED", "backup b was not proven");
        warn(&mut found, "BACKUP_DAMAGED", "backup a: short");
        warn(&mut found, "BACKUP_DAMAGED", "backup b: short");
        let advice = found.advise(&run(), RunState::Succeeded);
        let keys: Vec<&str> = advice.iter().map(|piece| piece.key.as_str()).collect();
        assert_eq!(keys, ["backup_damaged", "backup_unproven", "no_backup", "nothing_to_do"]);
        assert!(
            advice[0].what.starts_with("backup a: short, and 1 more"),
            "{}",
            advice[0].what
        );
        assert_eq!(advice[3].command, "dbkeep plan --target main old_logs");
    }
}
