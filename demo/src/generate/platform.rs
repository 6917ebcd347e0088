//! The learning platform's rows, table by table, and the count of those that each rule of the catalog must find.
//!
//! Every table has a random stream and a key space of its own, so that one table's rows do not change when another table
//! does. Keys are computed from row numbers (`random::key`): a key of a number that no row has is the key of a row that is
//! gone. What must be remembered between tables is two lists of flags, a fraction of a byte per generated row.

mod activity;
mod courses;
mod logs;
mod people;
mod sizes;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use uuid::Uuid;

pub(super) use self::activity::PROGRESS_STATES;
pub(super) use self::logs::api_log;
use self::sizes::Sizes;
use super::GenerateOptions;
use super::random::{GONE, Quota, Random, key};
use super::rows::{Closed, Micros, RowWriter, Rows};
use super::times::{DAY, years_before};
use crate::truth::{GroundTruth, OperationTruth, RuleTruth};

/// With fewer rows the small tables would not hold one row of each kind.
const FEWEST_ROWS: u64 = 1_000;

/// The spaces that keys and random streams live in.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Space {
    Users = 1,
    Courses,
    Lessons,
    Prerequisites,
    Achievements,
    UserAchievements,
    Progress,
    Leaderboard,
    RefreshTokens,
    Sessions,
    ResetTokens,
    ApiLogs,
    ErrorLogs,
    AuditLogs,
    Cache,
    Archived,
}

/// How a column that names another row came out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reference {
    Kept,
    Gone,
    Null,
}

/// How many of a column's references come out how.
struct References {
    gone: Quota,
    null: Quota,
}

impl References {
    fn new(rows: u64, gone_per_mille: u64, null_per_mille: u64) -> Self {
        let gone = Quota::per_mille(gone_per_mille, rows);
        let null = Quota::per_mille(null_per_mille, gone.others());
        Self { gone, null }
    }

    /// The next row's reference.
    fn draw(&mut self, random: &mut Random) -> Reference {
        if self.gone.draw(random) {
            Reference::Gone
        } else if self.null.draw(random) {
            Reference::Null
        } else {
            Reference::Kept
        }
    }
}

/// Everything that decides what the rows are.
pub(super) struct Platform {
    seed: u64,
    now: Timestamp,
    now_micros: Micros,
    /// The instants one and two calendar years before `now`, in UTC.
    year_ago: Micros,
    two_years_ago: Micros,
    sizes: Sizes,
    declared_keys: bool,
    database: &'static str,
}

impl Platform {
    pub(super) fn new(options: &GenerateOptions, database: &'static str) -> Result<Self> {
        ensure!(
            options.rows >= FEWEST_ROWS,
            "the platform needs {FEWEST_ROWS} rows or more, not {}",
            options.rows
        );
        ensure!(
            options.rows < GONE,
            "{} rows are more than the generator can number",
            options.rows
        );
        Ok(Self {
            seed: options.seed,
            now: options.now,
            now_micros: options.now.as_microsecond(),
            year_ago: years_before(options.now, 1)?,
            two_years_ago: years_before(options.now, 2)?,
            sizes: Sizes::spread(options.rows),
            declared_keys: options.declared_keys,
            database,
        })
    }

    /// Writes every table, in the order of [`TABLES`].
    pub(super) fn write<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<GroundTruth, Closed> {
        self.users(rows)?;
        self.courses(rows)?;
        self.lessons(rows)?;
        self.lesson_prerequisites(rows)?;
        let (mut achievements, orphaned) = self.achievements(rows)?;
        let (user_achievements, cascaded) = self.user_achievements(rows, &orphaned)?;
        let [without_user, without_lesson, without_course] = self.user_progress(rows)?;
        self.leaderboard_entries(rows)?;
        let (refresh_tokens, _) = self.tokens(rows, "refresh_tokens", Space::RefreshTokens, self.sizes.refresh_tokens)?;
        let (mut user_sessions, ended) = self.tokens(rows, "user_sessions", Space::Sessions, self.sizes.sessions)?;
        let password_reset_tokens = self.password_reset_tokens(rows)?;
        let api_logs = self.api_logs(rows)?;
        let (error_logs, of_ended_sessions) = self.error_logs(rows, &ended)?;
        let audit_logs = self.audit_logs(rows)?;
        self.cache_entries(rows)?;
        self.archived_users(rows)?;

        if self.declared_keys {
            achievements.cascaded.insert("user_achievements".to_owned(), cascaded);
            user_sessions.nullified.insert("error_logs".to_owned(), of_ended_sessions);
        }
        let operation = |name: &str, rules| OperationTruth {
            name: name.to_owned(),
            rules,
        };
        let tables = self.sizes.tables();
        Ok(GroundTruth {
            seed: self.seed,
            now: self.now,
            database: self.database.to_owned(),
            declared_keys: self.declared_keys,
            total_rows: tables.values().sum(),
            tables,
            operations: vec![
                operation("expired_tokens", vec![refresh_tokens, user_sessions, password_reset_tokens]),
                operation("old_logs", vec![api_logs, error_logs, audit_logs]),
                operation("orphaned_progress", vec![without_user, without_lesson, without_course]),
                operation("orphaned_achievements", vec![user_achievements, achievements]),
            ],
        })
    }

    fn random(&self, space: Space) -> Random {
        Random::new(self.seed, space as u64)
    }

    fn key(&self, space: Space, index: u64) -> Uuid {
        key(self.seed, space as u64, index)
    }

    fn reference(&self, space: Space, reference: Reference, parents: u64, random: &mut Random) -> Option<Uuid> {
        match reference {
            Reference::Kept => Some(self.key(space, random.below(parents))),
            // A tenth as many as exist: a parent that is gone had several children, as those that exist do.
            Reference::Gone => Some(self.key(space, GONE + random.below(parents / 10 + 1))),
            Reference::Null => None,
        }
    }

    /// Between `nearest` and `farthest` days before now.
    fn ago(&self, random: &mut Random, nearest: i64, farthest: i64) -> Micros {
        self.now_micros - random.between(nearest * DAY, farthest * DAY)
    }
}

fn email(user: u64) -> String {
    format!("learner{user}@example.org")
}

fn rule(name: &str, table: &str, rows: u64) -> RuleTruth {
    RuleTruth {
        name: name.to_owned(),
        table: table.to_owned(),
        rows,
        cascaded: BTreeMap::new(),
        nullified: BTreeMap::new(),
    }
}

fn flag(flags: &[bool], index: u64) -> bool {
    usize::try_from(index)
        .ok()
        .and_then(|index| flags.get(index))
        .copied()
        .unwrap_or(false)
}

fn count(flags: &[bool]) -> u64 {
    flags.iter().map(|flag| u64::from(*flag)).sum()
}
