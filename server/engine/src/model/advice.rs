//! What to do after a scheduled run: derived from the facts of its report, and kept in it beside what its target needs as it stands then
//! ([`crate::monitor::recommend`]). Pure. Called once, where the run ends.

use super::{
    maintenance::{HorizonHolder, TableSpace},
    monitor::{Level, Recommendation},
    report::EXPECTED_TIME_EXCEEDED,
    run::{Report, Run, RunOptions, RunState, ScheduledBy, StepState, Warning},
    schema::TableName,
};

/// Less free space than this is nothing to speak of, bytes.
const WORTH_RETURNING: u64 = 1 << 20;
/// So many runs in a row that found nothing to do are worth a look at the rule.
const IDLE_RUNS: u32 = 5;
/// Most warnings that one piece of advice brings as its evidence.
const MOST_EVIDENCE: usize = 5;

/// Advice by its key, and what should be done in a few words.
const NAMES: [(&str, &str); 13] = [
    ("backup_damaged", "Make another backup"),
    ("backup_unproven", "Prove the backup"),
    ("no_backup", "Make a backup"),
    ("space_held", "End what keeps dead rows from being removed"),
    ("space_reusable", "Give empty space back to the disk"),
    ("time_limit", "Give the schedule more time"),
    ("expected_time", "Find out what slows the operation"),
    ("row_limit", "Raise the limit of rows, or run more often"),
    ("not_permitted", "Give dbkeep's user the right"),
    ("locked", "Run in a quieter hour"),
    ("index_leftover", "Remove what a rebuild left behind"),
    ("scratch_left", "Remove what a proof left behind"),
    ("nothing_to_do", "Look at an operation that removes nothing"),
];

/// What advice rests on: what, and how much.
type Evidence = Vec<(String, String)>;

fn advice(
    key: &str,
    level: Level,
    detail: impl Into<String>,
    remediation: impl Into<String>,
    evidence: Evidence,
) -> Recommendation {
    let name = NAMES.iter().find(|(known, _)| *known == key).map_or("", |(_, name)| name);
    Recommendation {
        key: key.to_owned(),
        name: name.to_owned(),
        level,
        detail: detail.into(),
        remediation: remediation.into(),
        evidence,
    }
}

/// The same about something that has a name, which the key ends with.
fn advice_on(
    object: &str,
    key: &str,
    level: Level,
    detail: impl Into<String>,
    remediation: impl Into<String>,
    evidence: Evidence,
) -> Recommendation {
    let piece = advice(key, level, detail, remediation, evidence);
    Recommendation {
        key: format!("{key}:{object}"),
        ..piece
    }
}

fn number(name: &str, value: impl ToString) -> (String, String) {
    (name.to_owned(), value.to_string())
}

/// Warnings as evidence: code and message of the first few.
fn told<'a>(warnings: impl IntoIterator<Item = &'a Warning>) -> Evidence {
    let warnings = warnings.into_iter().take(MOST_EVIDENCE);
    warnings
        .map(|warning| (warning.code.clone(), warning.message.clone()))
        .collect()
}

/// Whether a piece of advice of a run says no more than one that its target needs besides.
fn is_said(own: &Recommendation, standing: &Recommendation) -> bool {
    let Some((key, object)) = own.key.split_once(':') else {
        return own.key == standing.key;
    };
    let same = match key {
        "nothing_to_do" => Some(("removes_nothing", object)),
        // All of a file, which findings have no name for.
        "space_reusable" if object == TableSpace::WHOLE_FILE => Some(("repack_table", "")),
        "space_reusable" => Some(("repack_table", object)),
        _ => None,
    };
    own.key == standing.key || same.is_some_and(|same| standing.key.split_once(':') == Some(same))
}

impl Report {
    /// Most pieces of advice that a report keeps, the most urgent of them.
    pub const MAX_ADVICE: usize = 100;

    /// What a report keeps: what its run met, and what its target needs besides, the most urgent first, and what the run met before the
    /// rest. What both say is said once, as the target needs it.
    #[must_use]
    pub fn advice_with(mut own: Vec<Recommendation>, standing: Vec<Recommendation>) -> Vec<Recommendation> {
        own.retain(|piece| !standing.iter().any(|other| is_said(piece, other)));
        own.extend(standing);
        own.sort_by_key(|piece| std::cmp::Reverse(piece.level));
        own.truncate(Self::MAX_ADVICE);
        own
    }

    /// What to do after the scheduled run `of` ends in the state `to` with this report, the most urgent first; each key at most once.
    /// Empty for runs that no schedule started.
    #[must_use]
    pub fn advise(&self, of: &Run, to: RunState) -> Vec<Recommendation> {
        let Some(slot) = &self.scheduled else {
            return Vec::new();
        };
        let mut found = Vec::new();
        self.about_backups(of, &mut found);
        self.about_space(&mut found);
        self.about_time(of, to, slot, &mut found);
        self.about_limits(of, slot, &mut found);
        self.about_locks(slot, &mut found);
        self.about_leftovers(of, &mut found);
        self.about_idleness(of, &mut found);
        found.sort_by_key(|piece| std::cmp::Reverse(piece.level));
        found
    }

    fn warned<'a>(&'a self, codes: &'a [&str]) -> impl Iterator<Item = &'a Warning> {
        self.warnings.iter().filter(|warning| codes.contains(&warning.code.as_str()))
    }

    fn about_backups(&self, of: &Run, found: &mut Vec<Recommendation>) {
        let create = || format!("dbkeep backups create --target {}", of.target);
        let said = |codes: &'static [&'static str]| told(self.warned(codes));
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
            found.push(advice(
                "backup_damaged",
                Level::Error,
                what,
                create(),
                said(&["BACKUP_DAMAGED"]),
            ));
        }
        if let Some(told) = told("VERIFY_FAILED") {
            let what = format!("{told}. Nothing is known of it until it is proven");
            let command = format!("dbkeep backups list --target {}", of.target);
            found.push(advice(
                "backup_unproven",
                Level::Warning,
                what,
                command,
                said(&["VERIFY_FAILED"]),
            ));
        }
        if self.warned(&["NO_BACKUP"]).next().is_some() {
            let what = "There is no backup to restore from";
            found.push(advice("no_backup", Level::Warning, what, create(), said(&["NO_BACKUP"])));
        }
    }

    fn about_space(&self, found: &mut Vec<Recommendation>) {
        for space in &self.space {
            if let Some(holder) = space.holders.first() {
                found.push(held(space, holder));
            } else if space.bytes_reusable >= WORTH_RETURNING
                && space.bytes_reusable > space.bytes_returned()
                && space.bytes_reusable >= space.bytes_after / 4
            {
                found.push(reusable(space));
            }
        }
    }

    fn about_time(&self, of: &Run, to: RunState, slot: &ScheduledBy, found: &mut Vec<Recommendation>) {
        let schedule = slot.schedule;
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
            let evidence = vec![number("limit_seconds", limit), number("worked_ms", self.duration_ms)];
            found.push(advice_on(&slot.name, "time_limit", Level::Warning, what, command, evidence));
        }
        let mut slow: Vec<&str> = Vec::new();
        for warning in self.warned(&[EXPECTED_TIME_EXCEEDED]) {
            let operation = self.operation_of(warning).unwrap_or(&slot.name);
            if slow.contains(&operation) {
                continue;
            }
            slow.push(operation);
            let what = format!("{}: something slows it, or the catalog is out of date", warning.message);
            let command = format!("dbkeep runs report {}", of.id);
            found.push(advice_on(
                operation,
                "expected_time",
                Level::Info,
                what,
                command,
                told([warning]),
            ));
        }
    }

    fn about_limits(&self, of: &Run, slot: &ScheduledBy, found: &mut Vec<Recommendation>) {
        let mut stopped: Vec<&str> = Vec::new();
        for warning in self.warned(&["COUNT_DRIFTED"]) {
            let operation = self.operation_of(warning).unwrap_or(&slot.name);
            if stopped.contains(&operation) {
                continue;
            }
            stopped.push(operation);
            let what = format!(
                "A limit of rows was reached ({}): raise max_rows, let it run more often, or give its work to several schedules",
                warning.message
            );
            let command = format!("dbkeep schedules show {}", slot.schedule);
            found.push(advice_on(
                operation,
                "row_limit",
                Level::Warning,
                what,
                command,
                told([warning]),
            ));
        }
        let codes = ["VACUUM_NOT_PERMITTED", "REINDEX_NOT_PERMITTED"];
        if let Some(warning) = self.warned(&codes).next() {
            let what = format!("{}: make dbkeep's user a member of the role that owns them", warning.message);
            let command = format!("dbkeep grants {} --for maintenance", of.target);
            found.push(advice(
                "not_permitted",
                Level::Warning,
                what,
                command,
                told(self.warned(&codes)),
            ));
        }
    }

    /// The operation that a warning is about; `None` where it is about none of them.
    fn operation_of(&self, warning: &Warning) -> Option<&str> {
        Some(self.step(warning.step)?.operation.as_str())
    }

    /// Steps that others' locks kept from their end, or slowed.
    fn about_locks(&self, slot: &ScheduledBy, found: &mut Vec<Recommendation>) {
        let locked = self
            .warned(&["BATCH_RETRIED", "ROWS_REMAIN", "VACUUM_FAILED", "REINDEX_FAILED"])
            .filter(|warning| warning.message.to_lowercase().contains("lock"));
        let mut tables: Vec<(&str, usize)> = Vec::new();
        let mut unfinished = false;
        for warning in locked {
            let Some(step) = self.step(warning.step) else { continue };
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
            (Level::Warning, "what they kept from being done is left")
        } else {
            (Level::Info, "it was done all the same, only slower")
        };
        let what = format!(
            "Locks of others were in its way, in {}; {how}: let it run in a quieter hour",
            names.join(", ")
        );
        let command = format!("dbkeep schedules show {}", slot.schedule);
        let evidence = tables.iter().map(|(table, times)| number(table, times)).collect();
        found.push(advice_on(&slot.name, "locked", level, what, command, evidence));
    }

    fn about_leftovers(&self, of: &Run, found: &mut Vec<Recommendation>) {
        if let Some(warning) = self.warned(&["INDEX_LEFTOVER"]).next() {
            let show = format!("dbkeep runs show {}", of.id);
            let evidence = told(self.warned(&["INDEX_LEFTOVER"]));
            found.push(advice(
                "index_leftover",
                Level::Warning,
                warning.message.as_str(),
                show,
                evidence,
            ));
        }
        if let Some(warning) = self.warned(&["SCRATCH_LEFT"]).next() {
            let show = format!("dbkeep runs show {}", of.id);
            let what = format!("{}: remove it by hand, it only takes space", warning.message);
            let evidence = told(self.warned(&["SCRATCH_LEFT"]));
            found.push(advice("scratch_left", Level::Warning, what, show, evidence));
        }
    }

    fn about_idleness(&self, of: &Run, found: &mut Vec<Recommendation>) {
        let idle = self.sizes.iter().flat_map(|sizes| &sizes.idle_runs);
        for (operation, runs) in idle.filter(|(_, runs)| **runs >= IDLE_RUNS) {
            let what = format!(
                "Operation {operation} found nothing to do in the last {runs} runs: run it less often, or look whether its rule is still right"
            );
            let command = format!("dbkeep plan --target {} {operation}", of.target);
            let evidence = vec![number("idle_runs", runs)];
            found.push(advice_on(operation, "nothing_to_do", Level::Info, what, command, evidence));
        }
    }
}

/// Somebody may still see what was deleted.
fn held(space: &TableSpace, holder: &HorizonHolder) -> Recommendation {
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
    let evidence = vec![number("dead_rows", space.dead_rows), number(&holder.kind, &holder.name)];
    advice_on(&space.table, "space_held", Level::Warning, what, look, evidence)
}

/// Space is free inside, and the file is as large as before.
fn reusable(space: &TableSpace) -> Recommendation {
    let (free, table) = (crate::notify::words::bytes(space.bytes_reusable), &space.table);
    let evidence = vec![
        number("bytes_reusable", space.bytes_reusable),
        number("bytes_after", space.bytes_after),
    ];
    if table == TableSpace::WHOLE_FILE {
        let what = format!(
            "{free} of the file are free for new rows and were not returned to the system. Where they are needed elsewhere: set \
             auto_vacuum once, with a VACUUM in a quiet hour, and later runs return them by themselves"
        );
        let remediation = "PRAGMA auto_vacuum = INCREMENTAL; VACUUM";
        return advice_on(table, "space_reusable", Level::Info, what, remediation, evidence);
    }
    let what = format!(
        "{free} of {table} are free for new rows and were not returned to the system. Where they are needed elsewhere: pg_repack, or \
         VACUUM FULL, which keeps everybody from the table for as long as it takes"
    );
    // Unquoted it might be the name of another table.
    let remediation = format!("VACUUM (FULL, ANALYZE) {}", TableName::parse(table).quoted());
    advice_on(table, "space_reusable", Level::Info, what, remediation, evidence)
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
                notify: crate::model::schedule::NotifyRules::default(),
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
        assert_eq!(advice[0].key, "space_reusable:logs");
        assert!(
            advice[0].detail.starts_with("40.0 MiB of logs are free"),
            "{}",
            advice[0].detail
        );
        assert_eq!(advice[0].remediation, "VACUUM (FULL, ANALYZE) \"logs\"");
        found.space = vec![space("main", 100 << 20, 40 << 20)];
        let advice = found.advise(&run(), RunState::Succeeded);
        assert!(advice[0].remediation.contains("auto_vacuum"), "{}", advice[0].remediation);
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
        assert_eq!((advice.len(), advice[0].key.as_str()), (1, "space_held:logs"));
        assert_eq!(advice[0].remediation, "SELECT * FROM pg_stat_activity WHERE pid = 4711");
    }

    #[test]
    fn time_and_rows_that_ran_out_ask_for_more_or_for_less_at_once() {
        let mut found = report();
        found.duration_ms = 1_800_400;
        let advice = found.advise(&run(), RunState::PartiallySucceeded);
        assert_eq!(advice[0].key, "time_limit:nightly");
        assert!(
            advice[0].remediation.ends_with("--max-time 3600s"),
            "{}",
            advice[0].remediation
        );
        assert_eq!(keys(&found, RunState::Succeeded), [""; 0], "it was done");
        let mut longest = run();
        longest.options.max_execution_seconds = 7_200;
        found.duration_ms = 7_200_000;
        let advice = found.advise(&longest, RunState::PartiallySucceeded);
        assert!(advice[0].detail.contains("more often"), "{}", advice[0].detail);
        let mut drifted = report();
        warn(&mut drifted, "COUNT_DRIFTED", "at most 10 allowed");
        assert_eq!(keys(&drifted, RunState::PartiallySucceeded), ["row_limit:old_logs"]);
    }

    #[test]
    fn locks_matter_more_where_something_is_left() {
        let mut found = report();
        warn(&mut found, "BATCH_RETRIED", "batch 1 is tried again: lock timeout");
        warn(&mut found, "BATCH_RETRIED", "batch 1 is tried again: Lock timeout");
        warn(&mut found, "BATCH_RETRIED", "batch 2 is tried again: could not serialize");
        let advice = found.advise(&run(), RunState::Succeeded);
        assert_eq!((advice[0].key.as_str(), advice[0].level), ("locked:nightly", Level::Info));
        assert!(advice[0].detail.contains("logs (2)"), "{}", advice[0].detail);
        found.steps[0].state = StepState::Failed;
        assert_eq!(found.advise(&run(), RunState::Failed)[0].level, Level::Warning);
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
        assert_eq!(
            keys,
            ["backup_damaged", "backup_unproven", "no_backup", "nothing_to_do:old_logs"]
        );
        assert!(advice.iter().all(|piece| !piece.evidence.is_empty()), "{advice:?}");
        assert!(
            advice[0].detail.starts_with("backup a: short, and 1 more"),
            "{}",
            advice[0].detail
        );
        assert_eq!(advice[3].remediation, "dbkeep plan --target main old_logs");
    }
    #[test]
    fn what_a_run_met_stands_beside_what_its_target_needs_and_nothing_twice() {
        let piece = |key: &str, level| Recommendation {
            key: key.to_owned(),
            ..advice("", level, "", "", Vec::new())
        };
        let own = vec![
            piece("no_backup", Level::Warning),
            piece("space_reusable:main", Level::Info),
            piece("space_reusable:public.logs", Level::Info),
            piece("nothing_to_do:old_logs", Level::Info),
            piece("nothing_to_do:others", Level::Info),
        ];
        let standing = vec![
            piece("vacuum_blocked:transaction 7", Level::Error),
            piece("restore_test_overdue", Level::Warning),
            piece("removes_nothing:old_logs", Level::Info),
            piece("repack_table:", Level::Info),
            piece("repack_table:public.logs", Level::Info),
        ];
        let keys = |all: Vec<Recommendation>| all.into_iter().map(|piece| piece.key).collect::<Vec<_>>();
        assert_eq!(
            keys(Report::advice_with(own, standing)),
            [
                "vacuum_blocked:transaction 7",
                "no_backup",
                "restore_test_overdue",
                "nothing_to_do:others",
                "removes_nothing:old_logs",
                "repack_table:",
                "repack_table:public.logs",
            ]
        );
        let many = (0..150)
            .map(|table| piece(&format!("repack_table:{table}"), Level::Info))
            .collect();
        let own = vec![piece("no_backup", Level::Warning)];
        let kept = Report::advice_with(own, many);
        assert_eq!((kept.len(), kept[0].key.as_str()), (Report::MAX_ADVICE, "no_backup"));
    }
}
