//! What a run of migrations was asked for, how far it is, and what it did. Kept in its report and its events.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    super::{identity::Identity, run::RunId},
    Direction, MigrationId, Sample, SampledTable, TableLock,
};

/// What one statement did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementReport {
    /// Position in the script, from 1.
    pub statement: u32,
    /// Line in the file.
    pub line: u32,
    /// The beginning of its text, at most [`StatementReport::EXCERPT`] characters on one line.
    pub excerpt: String,
    /// Time it took, milliseconds.
    pub duration_ms: u64,
    /// Rows it changed.
    pub rows: u64,
    /// Locks on tables that it was seen to take and that the transaction did not hold before; empty where nobody looked.
    pub locks: Vec<TableLock>,
    /// Whether those were seen from outside, now and then: there may have been others for a moment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub locks_at_least: bool,
    /// Tables that it wrote anew; empty where nobody looked.
    pub rewritten: Vec<String>,
}

impl StatementReport {
    /// Longest excerpt, characters.
    pub const EXCERPT: usize = 120;

    /// The beginning of a statement on one line.
    #[must_use]
    pub fn excerpt_of(sql: &str) -> String {
        let mut words = String::new();
        for word in sql.split_whitespace() {
            if !words.is_empty() {
                words.push(' ');
            }
            words.push_str(word);
            if words.len() > Self::EXCERPT * 4 {
                break;
            }
        }
        if words.chars().count() <= Self::EXCERPT {
            words
        } else {
            let mut short: String = words.chars().take(Self::EXCERPT - 1).collect();
            short.push('…');
            short
        }
    }
}

/// Where and why a statement failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptProblem {
    /// File, relative to the folder.
    pub file: String,
    /// Line in the file, from 1.
    pub line: u32,
    /// Column in that line, from 1.
    pub column: u32,
    /// The database's own code (SQLSTATE, or SQLite's extended code); may be empty.
    pub code: String,
    /// What the database said.
    pub message: String,
}

impl fmt::Display for ScriptProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        if !self.code.is_empty() {
            write!(formatter, " ({})", self.code)?;
        }
        Ok(())
    }
}

/// How far a script is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationProgress {
    /// Step of the run.
    pub step: u32,
    /// The migration.
    pub id: MigrationId,
    /// Which way.
    pub direction: Direction,
    /// What is being done, one word: `applying`, `reverting`, and in a rehearsal `copying`, `comparing`, `again`.
    pub phase: String,
    /// Statement in work, or just done, from 1; 0 where it is none.
    pub statement: u32,
    /// Statements of the script.
    pub statements: u32,
    /// Line of that statement in the file.
    pub line: u32,
    /// The beginning of it.
    pub excerpt: String,
    /// What it did, once it has ended.
    pub finished: Option<StatementReport>,
}

/// Rows of a table that went although no statement deletes from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsLost {
    /// The table.
    pub table: String,
    /// Rows before.
    pub before: u64,
    /// Rows after.
    pub after: u64,
}

/// What became of one migration in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationReport {
    /// The migration.
    pub id: MigrationId,
    /// Its name.
    pub name: String,
    /// Which way it went last.
    pub direction: Direction,
    /// Statements of that script.
    pub statements_total: u32,
    /// Those that took effect, at most [`MigrationReport::MAX_STATEMENTS`] of them.
    pub statements: Vec<StatementReport>,
    /// Number of statements that took effect.
    pub statements_done: u32,
    /// Where and why it failed.
    pub problem: Option<ScriptProblem>,
    /// How often a lock was waited for in vain.
    pub lock_timeouts: u32,
    /// What a rehearsal found; `None` in other runs.
    pub rehearsal: Option<Rehearsal>,
}

impl MigrationReport {
    /// Most statements that a report keeps of one migration.
    pub const MAX_STATEMENTS: usize = 200;
}

/// What a rehearsal found out about one migration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rehearsal {
    /// Time that its up script took, milliseconds.
    pub up_ms: u64,
    /// Time that its down script took, milliseconds; 0 where there is none.
    pub down_ms: u64,
    /// Change of the database's size by the up script, bytes.
    pub size_change: i64,
    /// Rows that the up script changed.
    pub rows: u64,
    /// Whether there is a down script with a statement in it.
    pub has_down: bool,
    /// Whether down brought schema and data back to what they were, and up worked again after it.
    pub restored: bool,
    /// What was different after up and down: schema and rows, readable, at most [`Rehearsal::MAX_DIFFERENCES`].
    pub differences: Vec<String>,
    /// Rows that vanished from tables which no statement deletes from, or would have, where the script was taken back for it.
    pub rows_lost: Vec<RowsLost>,
    /// Constraints that the data violates after up, or would have, where the script was taken back for it.
    pub violations: Vec<String>,
    /// Of one that is in effect: tables, and columns as `table.column`, whose data down drops and up brings back as schema only.
    #[serde(default)]
    pub loses: Vec<String>,
    /// Whether the copy had no rows: nothing is known of what happens to them.
    #[serde(default)]
    pub schema_only: bool,
    /// What the up script would take with all rows, milliseconds, by what it took on a sample; `None` where the copy was whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_up_ms: Option<u64>,
}

impl Rehearsal {
    /// Most differences that are kept.
    pub const MAX_DIFFERENCES: usize = 50;
}

/// What a run of kind migrate, rollback or rehearse was asked for, and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// The migrations in the order in which the run takes them, with the checksum of each script as it was planned.
    pub planned: Vec<PlannedMigration>,
    /// Whether the whole database is saved first.
    pub backup_first: bool,
    /// Principal on whose behalf.
    pub by: String,
    /// How it treats locks and proofs.
    pub options: MigrationOptions,
    /// What became of each, as far as the run came; positions are those of `planned`.
    pub reports: Vec<MigrationReport>,
    /// Backup that the whole database goes back to; `None` where scripts are executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewind: Option<RunId>,
    /// Of one that goes back to a backup: token of the plan that was reviewed, by which whoever approves it looks again.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// Rehearsals: of migrations that are in effect already, down and up again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_effect: bool,
    /// Rehearsals: on a copy without rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub schema_only: bool,
    /// Rehearsals: on a copy with some of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
    /// What such a copy had of each table, once it was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sampled: Vec<SampledTable>,
}

/// A migration that a run is to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMigration {
    /// The migration.
    pub id: MigrationId,
    /// Its name.
    pub name: String,
    /// SHA-256 of the up script, hex.
    pub up_sha256: String,
    /// SHA-256 of the down script, hex; empty where there is none.
    pub down_sha256: String,
    /// [`Migration::digest`](super::Migration::digest).
    pub digest: String,
}

/// How migrations are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MigrationOptions {
    /// Longest wait for a lock in one try, milliseconds. Everybody who comes later waits behind that try for as long.
    pub lock_timeout_ms: u64,
    /// Most tries for a lock.
    pub lock_tries: u32,
    /// Longest time of one statement, milliseconds; 0 for no limit.
    pub statement_timeout_ms: u64,
    /// Rollback: take scripts that no rehearsal has proven, and pass over empty ones.
    pub unproven: bool,
    /// Rollback from a backup: take one of another database.
    pub other_database: bool,
}

impl Default for MigrationOptions {
    fn default() -> Self {
        Self {
            lock_timeout_ms: 2_000,
            lock_tries: 10,
            statement_timeout_ms: 0,
            unproven: false,
            other_database: false,
        }
    }
}

/// A proof that a down script takes its up script back, or that it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The database whose copy it was tried on.
    #[serde(default)]
    pub identity: Identity,
    /// The migration.
    pub id: MigrationId,
    /// SHA-256 of its up script then, hex.
    pub up_sha256: String,
    /// SHA-256 of its down script then, hex; empty where there was none.
    pub down_sha256: String,
    /// Whether down restored what was before.
    pub restored: bool,
    /// Whether it restored everything but data that it drops.
    pub lossy: bool,
    /// Whether it saw only some of the rows. What it refutes is refuted all the same; what it found restored is so for those rows.
    pub sampled: bool,
    /// What the rehearsal measured for the up script, milliseconds.
    pub up_ms: u64,
    /// The run.
    pub run: RunId,
    /// When.
    pub at: Timestamp,
}

impl Proof {
    /// Whether it says anything about this database: what was shown elsewhere, or nobody knows where, does not.
    #[must_use]
    pub fn is_of(&self, database: &Identity) -> bool {
        !self.identity.id.is_empty() && database.differs_from(&self.identity).is_none()
    }
}
