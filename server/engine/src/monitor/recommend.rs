//! What should be done: from findings, growth, and what runs and schedules have measured of themselves.
//!
//! | key | said where |
//! |---|---|
//! | `index_before_cascade` | an operation deletes parents of a key that no index serves |
//! | `rebuild_index`, `repack_table` | much of it is empty |
//! | `vacuum_blocked` | somebody holds the horizon |
//! | `add_cleanup_rule` | a table grows by over a hundredth a day, and no operation takes rows from it |
//! | `removes_nothing` | the last five runs of an operation, over two weeks or more, removed nothing |
//! | `smaller_batches` | two of the last three runs were slowed down because their batches took too long |
//! | `schedule_more_often` | two of the last three runs stopped at a limit |
//! | `schedule_too_often` | a run takes over half of the time between two slots |
//! | `restore_test_overdue` | no backup was verified or restored for 30 days |

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::text::{for_a_shell, percent, seconds};
use crate::{
    discover::Proposal,
    model::{
        RunOptions, TableName,
        monitor::{Finding, FindingKind, Level, Recommendation},
    },
};

/// Everything that advice rests on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The target's name.
    pub target: String,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What the catalog's operations did.
    pub operations: Vec<OperationFacts>,
    /// Tables that grow.
    pub growth: Vec<TableGrowth>,
    /// Rules for those of them that [`Facts::uncovered`] names, by the table, where one could be written.
    pub rules: BTreeMap<String, Proposal>,
    /// Schedules with a regular interval.
    pub schedules: Vec<ScheduleFacts>,
    /// Whether the target has any backup, and how many days ago one was proven by verification or restore.
    pub backups: Option<Proven>,
    /// Names of the schedules that run an operation, by the operation.
    pub scheduled: BTreeMap<String, Vec<String>>,
    /// Names of the schedules that prove backups.
    pub drills: Vec<String>,
}

impl Facts {
    /// Tables that grow so much that a rule for them is worth a word, and that no operation takes rows from.
    pub fn uncovered(&self) -> impl Iterator<Item = &TableGrowth> {
        self.growth.iter().filter(move |table| {
            let grown = TableName::parse(&table.table);
            let covers = |operation: &OperationFacts| operation.takes_rows && operation.is_about(&grown);
            table.rows >= GROWN_ROWS && table.part() >= GROWTH && !self.operations.iter().any(covers)
        })
    }
}

/// Backups of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// Days since a backup was proven; `None` where none ever was.
    pub days: Option<u64>,
    /// Days since the oldest backup was made.
    pub oldest_days: u64,
}

/// An operation, and its newest runs.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationFacts {
    /// Its name.
    pub name: String,
    /// The table that it looks at, `schema.table`; as the catalog has it where no run has found out its schema.
    pub table: String,
    /// Whether it deletes rows that other tables refer to.
    pub deletes_parents: bool,
    /// Whether it takes rows of the table at all: a rule whose retention or condition is still a placeholder does not.
    pub takes_rows: bool,
    /// Its runs that executed and succeeded, in full or in part; newest first.
    pub runs: Vec<RunFacts>,
}

impl OperationFacts {
    /// Whether it looks at a table. A name without a schema may mean it.
    fn is_about(&self, table: &TableName) -> bool {
        let own = TableName::parse(&self.table);
        own.name == table.name && (own.schema.is_none() || own.schema == table.schema)
    }
}

/// A run of an operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RunFacts {
    /// When it ended.
    pub at: Timestamp,
    /// Rows that it removed or changed.
    pub rows: u64,
    /// Rows of a batch that were asked for.
    pub batch_rows: u32,
    /// The limit that it stopped at.
    pub limit: Option<LimitMet>,
    /// Whether batches were made smaller because they took too long.
    pub slow_batches: bool,
}

/// The limit that a run stopped at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitMet {
    /// Of so many seconds.
    Time(u32),
    /// Of the rows that its plan allows.
    Rows,
}

/// A table that grows.
#[derive(Debug, Clone, PartialEq)]
pub struct TableGrowth {
    /// The table, `schema.table`.
    pub table: String,
    /// Rows now.
    pub rows: u64,
    /// Rows a day, over the last week.
    pub rows_per_day: f64,
}

impl TableGrowth {
    /// The part of itself that it grows by in a day.
    #[expect(clippy::cast_precision_loss, reason = "a part of a whole")]
    fn part(&self) -> f64 {
        self.rows_per_day / self.rows.max(1) as f64
    }
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleFacts {
    /// Its name.
    pub name: String,
    /// Seconds between its next two slots.
    pub interval_seconds: u64,
    /// Median time of its newest runs, seconds.
    pub run_seconds: u64,
}

/// Runs that have to agree before a retention is called idle.
const IDLE_RUNS: usize = 5;
/// Over how many days.
const IDLE_DAYS: i64 = 14;
/// Newest runs of which two have to show the same.
const NEWEST: usize = 3;
/// Rows from which on growth is worth a word.
const GROWN_ROWS: u64 = 100_000;
/// Part of a table that it grows by in a day.
const GROWTH: f64 = 0.01;
/// Days after which a proof is old.
const PROOF_DAYS: u64 = 30;

/// Advice, the most important first, and by key where that is equal.
#[must_use]
pub fn recommend(facts: &Facts) -> Vec<Recommendation> {
    let mut advice = Vec::new();
    for finding in &facts.findings {
        advice.extend(of_finding(facts, finding));
    }
    for operation in &facts.operations {
        of_operation(facts, operation, &mut advice);
    }
    advice.extend(facts.uncovered().map(|table| of_growth(facts, table)));
    advice.extend(facts.schedules.iter().filter_map(of_schedule));
    advice.extend(facts.backups.and_then(|backups| of_backups(facts, backups)));
    advice.sort_by(|one, other| other.level.cmp(&one.level).then_with(|| one.key.cmp(&other.key)));
    advice
}

fn of_finding(facts: &Facts, finding: &Finding) -> Option<Recommendation> {
    let (key, name) = match finding.kind {
        FindingKind::UnindexedKey => {
            // What matters is whether an operation deletes parents at all.
            let parent = finding.parent.as_ref()?;
            facts
                .operations
                .iter()
                .find(|operation| operation.deletes_parents && operation.is_about(parent))?;
            ("index_before_cascade", "Add an index before rows of the parent are deleted")
        }
        FindingKind::BloatedIndex => ("rebuild_index", "Rebuild an index"),
        FindingKind::BloatedTable | FindingKind::FreePages => ("repack_table", "Give empty space back to the disk"),
        FindingKind::HorizonHeld => ("vacuum_blocked", "End what keeps VACUUM from removing dead rows"),
        _ => return None,
    };
    Some(Recommendation {
        key: format!("{key}:{}", finding.object),
        name: name.to_owned(),
        level: finding.level,
        detail: finding.detail.clone(),
        remediation: finding.remediation.clone(),
        evidence: vec![("finding".to_owned(), finding.key())],
    })
}

/// A command for each schedule that runs an operation, one a line; `alone` where none does.
fn for_schedules(facts: &Facts, operation: &str, command: impl Fn(&str) -> String, alone: String) -> String {
    let names = facts.scheduled.get(operation).map(Vec::as_slice).unwrap_or_default();
    if names.is_empty() {
        return alone;
    }
    names
        .iter()
        .map(|name| command(&for_a_shell(name)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn of_operation(facts: &Facts, operation: &OperationFacts, advice: &mut Vec<Recommendation>) {
    let runs = &operation.runs;
    let newest = runs.get(..NEWEST.min(runs.len())).unwrap_or_default();
    if let Some(idle) = runs.get(..IDLE_RUNS)
        && idle.iter().all(|run| run.rows == 0)
        && let (Some(last), Some(first)) = (idle.first(), idle.last())
        && (last.at.as_second() - first.at.as_second()) / 86_400 >= IDLE_DAYS
    {
        advice.push(Recommendation {
            key: format!("removes_nothing:{}", operation.name),
            name: "Look at an operation that removes nothing".to_owned(),
            level: Level::Info,
            detail: format!(
                "The last {IDLE_RUNS} runs of {} removed nothing. Its retention is longer than the rows live, or its condition no longer fits the table.",
                operation.name
            ),
            remediation: format!("dbkeep plan {} --target {} --samples 0", operation.name, facts.target),
            evidence: vec![
                ("runs".to_owned(), IDLE_RUNS.to_string()),
                ("since".to_owned(), first.at.to_string()),
            ],
        });
    }
    let two_of = |what: &dyn Fn(&RunFacts) -> bool| newest.len() == NEWEST && newest.iter().filter(|run| what(run)).count() >= 2;
    if two_of(&|run| run.slow_batches)
        && let Some(batch_rows) = newest.first().map(|run| run.batch_rows)
        && batch_rows > 1
    {
        let smaller = (batch_rows / 4).max(1);
        advice.push(Recommendation {
            key: format!("smaller_batches:{}", operation.name),
            name: "Make batches smaller".to_owned(),
            level: Level::Info,
            detail: format!(
                "Batches of {} took too long in two of the last {NEWEST} runs, and were made smaller while it worked.",
                operation.name
            ),
            remediation: for_schedules(
                facts,
                &operation.name,
                |schedule| format!("dbkeep schedules update {schedule} --batch-size {smaller}"),
                format!(
                    "dbkeep run {} --target {} --execute --batch-size {smaller}",
                    operation.name, facts.target
                ),
            ),
            evidence: vec![("batch_size".to_owned(), batch_rows.to_string())],
        });
    }
    if two_of(&|run| run.limit.is_some()) {
        advice.push(Recommendation {
            key: format!("schedule_more_often:{}", operation.name),
            name: "Run an operation more often, or with a larger limit".to_owned(),
            level: Level::Warning,
            detail: format!(
                "Two of the last {NEWEST} runs of {} stopped at a limit of rows or time: more comes than it takes away.",
                operation.name
            ),
            remediation: after_a_limit(facts, &operation.name, newest.iter().find_map(|run| run.limit)),
            evidence: newest
                .iter()
                .map(|run| (run.at.to_string(), format!("{} rows", run.rows)))
                .collect(),
        });
    }
}

/// What lets the operation take away more than comes.
fn after_a_limit(facts: &Facts, operation: &str, limit: Option<LimitMet>) -> String {
    let most = *RunOptions::MAX_EXECUTION_SECONDS.end();
    let target = &facts.target;
    match limit {
        Some(LimitMet::Time(seconds)) if seconds < most => {
            let more = seconds.saturating_mul(2).min(most);
            for_schedules(
                facts,
                operation,
                |schedule| format!("dbkeep schedules update {schedule} --max-time {more}s"),
                format!("dbkeep run {operation} --target {target} --execute --max-time {more}s"),
            )
        }
        // How often it may run is for whoever knows the quiet hours.
        Some(LimitMet::Time(_)) => for_schedules(
            facts,
            operation,
            |schedule| format!("dbkeep schedules show {schedule}"),
            format!("dbkeep schedules create {operation} --target {target} --operation {operation} --cron @daily"),
        ),
        Some(LimitMet::Rows) | None => format!("dbkeep plan {operation} --target {target}"),
    }
}

fn of_growth(facts: &Facts, table: &TableGrowth) -> Recommendation {
    let mut evidence = vec![
        ("rows".to_owned(), table.rows.to_string()),
        ("rows_per_day".to_owned(), format!("{:.0}", table.rows_per_day)),
    ];
    let (how, remediation) = match facts.rules.get(&table.table) {
        Some(rule) => {
            evidence.push(("confidence".to_owned(), format!("{:.2}", rule.confidence)));
            let note = if rule.note.is_empty() {
                String::new()
            } else {
                format!(" {}", rule.note)
            };
            (
                format!("This for its catalog takes rows away; plan it before it runs.{note}"),
                rule.toml.clone(),
            )
        }
        // Everything that is found, however unsure: what is sure was looked for.
        None => (
            "No rule could be written for it now; this looks for one again.".to_owned(),
            format!(
                "dbkeep discover --target {} --table {} --min-confidence 0 --toml",
                facts.target,
                for_a_shell(&table.table)
            ),
        ),
    };
    Recommendation {
        key: format!("add_cleanup_rule:{}", table.table),
        name: "Add a cleanup rule for a table that grows".to_owned(),
        level: Level::Info,
        detail: format!(
            "{} has {} rows and grows by {:.0} a day ({}), and no operation of the catalog takes rows from it. {how}",
            table.table,
            table.rows,
            table.rows_per_day,
            percent(table.part())
        ),
        remediation,
        evidence,
    }
}

fn of_schedule(schedule: &ScheduleFacts) -> Option<Recommendation> {
    if schedule.interval_seconds == 0 || schedule.run_seconds * 2 <= schedule.interval_seconds {
        return None;
    }
    Some(Recommendation {
        key: format!("schedule_too_often:{}", schedule.name),
        name: "Leave a schedule more time between its slots".to_owned(),
        level: Level::Info,
        detail: format!(
            "A run of {} takes {}, and the next slot comes after {}: soon slots will be skipped.",
            schedule.name,
            seconds(schedule.run_seconds),
            seconds(schedule.interval_seconds)
        ),
        remediation: match rarer(schedule) {
            Some(alias) => format!("dbkeep schedules update {} --cron {alias}", for_a_shell(&schedule.name)),
            None => format!("dbkeep schedules show {}", for_a_shell(&schedule.name)),
        },
        evidence: vec![
            ("run_seconds".to_owned(), schedule.run_seconds.to_string()),
            ("interval_seconds".to_owned(), schedule.interval_seconds.to_string()),
        ],
    })
}

/// The next interval by which the slots are further apart than now, and twice as long as a run.
fn rarer(schedule: &ScheduleFacts) -> Option<&'static str> {
    [("@hourly", 3_600), ("@daily", 86_400), ("@weekly", 7 * 86_400)]
        .into_iter()
        .find(|(_, seconds)| *seconds > schedule.interval_seconds && *seconds >= schedule.run_seconds * 2)
        .map(|(alias, _)| alias)
}

fn of_backups(facts: &Facts, backups: Proven) -> Option<Recommendation> {
    let age = backups.days.unwrap_or(backups.oldest_days);
    if age < PROOF_DAYS {
        return None;
    }
    let detail = match backups.days {
        Some(days) => format!("A backup was proven {days} days ago for the last time."),
        None => format!("There are backups for {age} days, and none was ever proven by a verification or a restore."),
    };
    Some(Recommendation {
        key: "restore_test_overdue".to_owned(),
        name: "Prove that backups restore".to_owned(),
        level: Level::Warning,
        detail,
        // Once a month would be later than this, and than the alert, by a day.
        remediation: match facts.drills.first() {
            Some(schedule) => format!("dbkeep schedules run {}", for_a_shell(schedule)),
            None => format!(
                "dbkeep schedules create drill-{0} --target {0} --maintenance verify_backups --maintenance restore_drill --cron @weekly",
                facts.target
            ),
        },
        evidence: vec![("days".to_owned(), age.to_string())],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400).expect("a time")
    }

    fn run(day: i64, rows: u64) -> RunFacts {
        RunFacts {
            at: at(day),
            rows,
            batch_rows: 1_000,
            limit: None,
            slow_batches: false,
        }
    }

    fn operation(runs: Vec<RunFacts>) -> OperationFacts {
        OperationFacts {
            name: "old_logs".to_owned(),
            table: "public.api_logs".to_owned(),
            deletes_parents: true,
            takes_rows: true,
            runs,
        }
    }

    fn keys(facts: &Facts) -> Vec<String> {
        recommend(facts).into_iter().map(|advice| advice.key).collect()
    }

    fn with(runs: Vec<RunFacts>) -> Facts {
        Facts {
            target: "app".to_owned(),
            operations: vec![operation(runs)],
            ..Facts::default()
        }
    }

    #[test]
    fn nothing_wrong_is_no_advice() {
        assert_eq!(recommend(&Facts::default()), []);
        assert_eq!(recommend(&with(vec![run(9, 5), run(8, 0)])), []);
    }

    #[test]
    fn an_idle_retention_takes_five_runs_and_two_weeks() {
        let idle = |step: i64, runs: i64| with((0..runs).rev().map(|place| run(place * step, 0)).collect());
        assert_eq!(keys(&idle(7, 5)), ["removes_nothing:old_logs"]);
        assert_eq!(keys(&idle(1, 5)), [""; 0], "five days are too few");
        assert_eq!(keys(&idle(30, 4)), [""; 0]);
        let mut facts = idle(7, 5);
        facts.operations[0].runs[2].rows = 1;
        assert_eq!(keys(&facts), [""; 0]);
    }

    #[test]
    fn limits_and_slow_batches_take_two_of_three() {
        let mut runs = vec![run(3, 10), run(2, 10), run(1, 10)];
        runs[0].limit = Some(LimitMet::Time(1_800));
        assert_eq!(keys(&with(runs.clone())), [""; 0]);
        runs[2].limit = Some(LimitMet::Rows);
        assert_eq!(keys(&with(runs.clone())), ["schedule_more_often:old_logs"]);
        runs.iter_mut().for_each(|run| run.slow_batches = true);
        let advice = recommend(&with(runs));
        assert_eq!(
            advice[1].remediation,
            "dbkeep run old_logs --target app --execute --batch-size 250"
        );
    }

    #[test]
    fn a_command_is_for_the_schedule_where_there_is_one() {
        let mut runs = vec![run(3, 10), run(2, 10), run(1, 10)];
        runs.iter_mut().for_each(|run| run.slow_batches = true);
        let mut facts = with(runs);
        let advised = |facts: &Facts| recommend(facts).remove(0).remediation;
        facts.scheduled = BTreeMap::from([("old_logs".to_owned(), vec!["by night".to_owned(), "at noon".to_owned()])]);
        assert_eq!(
            advised(&facts),
            "dbkeep schedules update 'by night' --batch-size 250\ndbkeep schedules update 'at noon' --batch-size 250"
        );
        let limited = |limit, facts: &mut Facts| {
            for run in &mut facts.operations[0].runs {
                run.slow_batches = false;
                run.limit = Some(limit);
            }
            advised(facts)
        };
        facts.scheduled = BTreeMap::from([("old_logs".to_owned(), vec!["by night".to_owned()])]);
        assert_eq!(
            limited(LimitMet::Time(1_800), &mut facts),
            "dbkeep schedules update 'by night' --max-time 3600s"
        );
        assert_eq!(limited(LimitMet::Time(7_200), &mut facts), "dbkeep schedules show 'by night'");
        assert_eq!(limited(LimitMet::Rows, &mut facts), "dbkeep plan old_logs --target app");
        facts.scheduled.clear();
        assert_eq!(
            limited(LimitMet::Time(1_800), &mut facts),
            "dbkeep run old_logs --target app --execute --max-time 3600s"
        );
    }

    #[test]
    fn growth_is_told_where_no_operation_looks() {
        let growing = |table: &str| TableGrowth {
            table: table.to_owned(),
            rows: 1_000_000,
            rows_per_day: 20_000.0,
        };
        let mut facts = with(Vec::new());
        facts.growth = vec![growing("public.api_logs"), growing("public.events")];
        assert_eq!(keys(&facts), ["add_cleanup_rule:public.events"]);
        assert_eq!(
            recommend(&facts)[0].remediation,
            "dbkeep discover --target app --table 'public.events' --min-confidence 0 --toml"
        );
        let rule = Proposal {
            operation: "old_events".to_owned(),
            kind: "expired".to_owned(),
            table: TableName::parse("public.events"),
            columns: vec!["created_at".to_owned()],
            parent: None,
            description: String::new(),
            confidence: 0.5,
            evidence: Vec::new(),
            row_count: None,
            uncounted: String::new(),
            toml: "[[operation]]".to_owned(),
            note: "PLACEHOLDER".to_owned(),
            supported: true,
        };
        facts.rules.insert("public.events".to_owned(), rule);
        let advice = recommend(&facts).remove(0);
        assert_eq!(advice.remediation, "[[operation]]");
        assert!(
            advice.detail.ends_with("plan it before it runs. PLACEHOLDER"),
            "{}",
            advice.detail
        );
        // A rule that takes nothing yet is none.
        facts.operations[0].takes_rows = false;
        assert_eq!(
            keys(&facts),
            ["add_cleanup_rule:public.api_logs", "add_cleanup_rule:public.events"]
        );
    }

    #[test]
    fn a_name_is_one_word_of_a_shell() {
        let facts = Facts {
            schedules: vec![ScheduleFacts {
                name: "it's; rm -rf $HOME".to_owned(),
                interval_seconds: 60,
                run_seconds: 50,
            }],
            ..Facts::default()
        };
        let advice = recommend(&facts).remove(0);
        assert_eq!(
            advice.remediation,
            "dbkeep schedules update 'it'\\''s; rm -rf $HOME' --cron @hourly"
        );
    }

    #[test]
    fn an_index_is_advised_where_parents_go() {
        let finding = |parent: &str| Finding {
            kind: FindingKind::UnindexedKey,
            level: Level::Warning,
            object: "public.lines(log)".to_owned(),
            parent: Some(TableName::parse(parent)),
            definition: String::new(),
            detail: "each delete reads all of public.lines".to_owned(),
            remediation: "CREATE INDEX".to_owned(),
        };
        let mut facts = with(Vec::new());
        facts.findings = vec![finding("public.api_logs"), finding("public.other")];
        assert_eq!(keys(&facts), ["index_before_cascade:public.lines(log)"]);
        facts.operations[0].table = "api_logs".to_owned();
        assert_eq!(
            keys(&facts),
            ["index_before_cascade:public.lines(log)"],
            "as the catalog has it"
        );
        facts.operations[0].table = "audit.api_logs".to_owned();
        assert_eq!(keys(&facts), [""; 0], "another schema");
        facts.operations[0].table = "public.api_logs".to_owned();
        facts.operations[0].deletes_parents = false;
        assert_eq!(keys(&facts), [""; 0]);
    }

    #[test]
    fn proofs_grow_old() {
        let proven = |days, oldest_days| Facts {
            backups: Some(Proven { days, oldest_days }),
            ..Facts::default()
        };
        assert_eq!(keys(&proven(Some(29), 400)), [""; 0]);
        assert_eq!(keys(&proven(Some(30), 400)), ["restore_test_overdue"]);
        assert_eq!(keys(&proven(None, 5)), [""; 0]);
        assert_eq!(keys(&proven(None, 31)), ["restore_test_overdue"]);
        let mut facts = proven(None, 31);
        facts.target = "app".to_owned();
        assert_eq!(
            recommend(&facts)[0].remediation,
            "dbkeep schedules create drill-app --target app --maintenance verify_backups --maintenance restore_drill --cron @weekly"
        );
        facts.drills = vec!["proofs".to_owned()];
        assert_eq!(recommend(&facts)[0].remediation, "dbkeep schedules run 'proofs'");
    }

    #[test]
    fn a_schedule_needs_time_between_its_slots() {
        let schedule = |run_seconds| Facts {
            schedules: vec![ScheduleFacts {
                name: "nightly".to_owned(),
                interval_seconds: 3_600,
                run_seconds,
            }],
            ..Facts::default()
        };
        assert_eq!(keys(&schedule(1_800)), [""; 0]);
        assert_eq!(keys(&schedule(1_801)), ["schedule_too_often:nightly"]);
        let advised = |run_seconds| recommend(&schedule(run_seconds)).remove(0).remediation;
        assert_eq!(advised(1_801), "dbkeep schedules update 'nightly' --cron @daily");
        assert_eq!(advised(50_000), "dbkeep schedules update 'nightly' --cron @weekly");
    }
}
