//! The learning platform's rows, table by table, and the count of those that each rule of the catalog must find.
//!
//! Every table has a random stream and a key space of its own, so that one table's rows do not change when another table
//! does. Keys are computed from row numbers (`random::key`): a key of a number that no row has is the key of a row that is
//! gone. What must be remembered is some lists of flags and the taken places of the leaderboards, about a byte per generated row.

mod activity;
mod courses;
mod logs;
mod people;
mod prerequisites;
mod sizes;
mod uploads;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use uuid::Uuid;

pub(super) use self::activity::PROGRESS_STATES;
pub(super) use self::logs::api_log;
use self::people::Standing;
use self::sizes::Sizes;
pub(super) use self::uploads::Upload;
use super::GenerateOptions;
use super::files::FileCounts;
use super::random::{GONE, Quota, Random, key};
use super::rows::{Closed, Micros, RowWriter, Rows};
use super::times::{DAY, months_before, years_before};
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

/// Rows that go along with the users that leave.
#[derive(Clone, Copy, Default)]
struct Along {
    /// Where nothing else was cleaned before.
    alone: u64,
    /// Where every other operation has run before.
    last: u64,
}

impl Along {
    /// One more row, and whether the other operations leave it.
    fn add(&mut self, is_left: bool) {
        self.alone += 1;
        self.last += u64::from(is_left);
    }
}

/// Everything that decides what the rows are.
pub(super) struct Platform {
    seed: u64,
    now: Timestamp,
    now_micros: Micros,
    /// The instants one year, half a year and two calendar years before `now`, in UTC.
    year_ago: Micros,
    half_year_ago: Micros,
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
            half_year_ago: months_before(options.now, 6)?,
            two_years_ago: years_before(options.now, 2)?,
            sizes: Sizes::spread(options.rows),
            declared_keys: options.declared_keys,
            database,
        })
    }

    /// Writes every table, in the order of [`TABLES`].
    pub(super) fn write<W: RowWriter>(&self, rows: &mut Rows<W>) -> Result<GroundTruth, Closed> {
        let [mut suspended, absent] = self.users(rows)?;
        self.courses(rows)?;
        self.lessons(rows)?;
        let prerequisites = self.lesson_prerequisites(rows)?;
        let (mut achievements, orphaned) = self.achievements(rows)?;
        let (user_achievements, cascaded, their_achievements) = self.user_achievements(rows, &orphaned)?;
        let (progress, their_progress) = self.user_progress(rows)?;
        let (leaderboard, their_entries) = self.leaderboard_entries(rows)?;
        let refresh_tokens = self.tokens(rows, "refresh_tokens", Space::RefreshTokens, self.sizes.refresh_tokens)?;
        let mut sessions = self.tokens(rows, "user_sessions", Space::Sessions, self.sizes.sessions)?;
        let (reset_tokens, their_reset_tokens) = self.password_reset_tokens(rows)?;
        let api_logs = self.api_logs(rows)?;
        let (error_logs, of_ended_sessions, their_errors) = self.error_logs(rows, &sessions)?;
        let audit_logs = self.audit_logs(rows)?;
        let cache = self.cache_entries(rows)?;
        self.archived_users(rows)?;

        for (table, along) in [
            ("user_progress", their_progress),
            ("user_achievements", their_achievements),
            ("user_sessions", sessions.along),
            ("refresh_tokens", refresh_tokens.along),
            ("password_reset_tokens", their_reset_tokens),
            ("leaderboard_entries", their_entries),
        ] {
            suspended.cascaded.insert(table.to_owned(), along.alone);
            suspended.cascaded_last.insert(table.to_owned(), along.last);
        }
        if self.declared_keys {
            achievements.cascaded.insert("user_achievements".to_owned(), cascaded);
            sessions.truth.nullified.insert("error_logs".to_owned(), of_ended_sessions);
            suspended.nullified.insert("error_logs".to_owned(), their_errors.alone);
            suspended.nullified_last.insert("error_logs".to_owned(), their_errors.last);
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
                operation("orphaned_achievements", vec![user_achievements, achievements]),
                operation("orphaned_progress", progress.into()),
                operation("orphaned_leaderboard", leaderboard.into()),
                operation("orphaned_prerequisites", prerequisites.into()),
                operation("expired_tokens", vec![refresh_tokens.truth, sessions.truth, reset_tokens]),
                operation("old_logs", vec![api_logs, error_logs, audit_logs]),
                operation("cached_data", cache.into()),
                operation("inactive_accounts", vec![suspended, absent]),
                operation("temporary_files", self.file_counts().truth().into()),
            ],
        })
    }

    fn random(&self, space: Space) -> Random {
        Random::new(self.seed, space as u64)
    }

    fn key(&self, space: Space, index: u64) -> Uuid {
        key(self.seed, space as u64, index)
    }

    /// The number of the row that a reference names.
    fn named(&self, reference: Reference, parents: u64, random: &mut Random) -> Option<u64> {
        match reference {
            Reference::Kept => Some(random.below(parents)),
            // A tenth as many as exist: a parent that is gone had several children, as those that exist do.
            Reference::Gone => Some(GONE + random.below(parents / 10 + 1)),
            Reference::Null => None,
        }
    }

    fn reference(&self, space: Space, reference: Reference, parents: u64, random: &mut Random) -> Option<Uuid> {
        self.named(reference, parents, random).map(|parent| self.key(space, parent))
    }

    /// Whether a row is of a user that is to be archived.
    fn leaves(user: Option<u64>) -> bool {
        user.is_some_and(|user| user < GONE && Standing::of(user) == Standing::SuspendedLongAgo)
    }

    /// How many files there are of which kind.
    pub(super) fn file_counts(&self) -> FileCounts {
        FileCounts::for_rows(self.sizes.tables().values().sum())
    }

    /// Rows that may name an upload of a kind.
    pub(super) fn owners(&self, kind: Upload) -> u64 {
        match kind {
            Upload::Avatar => self.sizes.users,
            Upload::Thumbnail => self.sizes.courses,
            Upload::Attachment => self.sizes.lessons,
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

pub(super) fn rule(name: &str, table: &str, rows: u64) -> RuleTruth {
    RuleTruth {
        name: name.to_owned(),
        table: table.to_owned(),
        rows,
        cascaded: BTreeMap::new(),
        nullified: BTreeMap::new(),
        cascaded_last: BTreeMap::new(),
        nullified_last: BTreeMap::new(),
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
