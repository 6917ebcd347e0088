//! Migrations as plain data: what a folder holds, what the target's ledger says, what a run did. Whoever reads folders, orders,
//! judges or executes them is in [`crate::migration`] and [`crate::run`].

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::run::RunId;

/// What names a migration in its folder: its normalised version where the layout has versions (`2017-09-23-182408` is
/// `20170923182408`, `000007` is `7`), `R__name` of a repeatable one, otherwise its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MigrationId(pub String);

impl fmt::Display for MigrationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// How a folder of migrations is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// `V_name.sql`, or `V_name.up.sql` and `V_name.down.sql`; `-- no-transaction` on the first line.
    Sqlx,
    /// `V_name/up.sql`, `V_name/down.sql`, `V_name/metadata.toml`.
    Diesel,
    /// `V_name.up.sql` and `V_name.down.sql`.
    GolangMigrate,
    /// `V_name.sql` with `-- migrate:up` and `-- migrate:down`.
    Dbmate,
    /// `V_name.sql` with `-- +goose Up` and `-- +goose Down`.
    Goose,
    /// `V1_2__name.sql`, `U1_2__name.sql`, `R__name.sql`.
    Flyway,
    /// `TIMESTAMP_name/migration.sql`, perhaps with `down.sql`.
    Prisma,
    /// `sqitch.plan` with `deploy`, `revert` and `verify`.
    Sqitch,
}

impl Layout {
    /// Every layout.
    pub const ALL: [Self; 8] = [
        Self::Sqlx,
        Self::Diesel,
        Self::GolangMigrate,
        Self::Dbmate,
        Self::Goose,
        Self::Flyway,
        Self::Prisma,
        Self::Sqitch,
    ];

    /// Name in configurations, stores and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlx => "sqlx",
            Self::Diesel => "diesel",
            Self::GolangMigrate => "golang_migrate",
            Self::Dbmate => "dbmate",
            Self::Goose => "goose",
            Self::Flyway => "flyway",
            Self::Prisma => "prisma",
            Self::Sqitch => "sqitch",
        }
    }

    /// The layout of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
    }
}

/// One SQL statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its text, without the semicolon at its end and without comments before it.
    pub sql: String,
    /// Line of its first character in the file, from 1.
    pub line: u32,
    /// Column of its first character in that line, characters from 1.
    pub column: u32,
}

/// Statements that take effect together or, where `atomic` is false, a single one that cannot be in a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Whether it is one transaction.
    pub atomic: bool,
    /// The statements, without `BEGIN` and `COMMIT`.
    pub statements: Vec<Statement>,
}

/// One direction of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// File, relative to the folder, with `/`.
    pub file: String,
    /// SHA-256 of this direction's text in the file (the whole file where it holds one direction), lowercase hex.
    pub sha256: String,
    /// What it does, in order. Empty where it does nothing.
    pub groups: Vec<Group>,
    /// Whether the script asks that its foreign keys be off while it works (`PRAGMA foreign_keys = OFF`).
    pub foreign_keys_off: bool,
}

impl Script {
    /// Number of statements.
    #[must_use]
    pub fn statement_count(&self) -> usize {
        self.groups.iter().map(|group| group.statements.len()).sum()
    }

    /// What tells this script, as it is executed, from any other: its statements, how they are grouped, and whether keys are off.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update([u8::from(self.foreign_keys_off)]);
        for group in &self.groups {
            hasher.update([u8::from(group.atomic)]);
            hasher.update(group.statements.len().to_le_bytes());
            for statement in &group.statements {
                hasher.update(statement.sql.len().to_le_bytes());
                hasher.update(statement.sql.as_bytes());
            }
        }
        hex::encode(hasher.finalize())
    }

    /// Whether after so many statements a group begins, or the script ends.
    #[must_use]
    pub fn is_boundary(&self, statements: usize) -> bool {
        let mut passed = 0;
        let mut ends = self.groups.iter().map(|group| {
            passed += group.statements.len();
            passed
        });
        statements == 0 || ends.any(|end| end == statements)
    }

    /// Every statement in order.
    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.groups.iter().flat_map(|group| &group.statements)
    }
}

/// What a header comment (`-- dbkeep: key = value`) or a sidecar TOML says of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// `depends-on`: migrations that have to be applied before, beside those that the layout itself declares.
    pub depends_on: Vec<MigrationId>,
    /// `description`.
    pub description: String,
    /// `requires-backup`: whether the whole database is saved before it is applied.
    pub requires_backup: bool,
    /// `estimated-duration`, seconds.
    pub estimated_seconds: Option<u64>,
    /// `data-transformation`: whether it changes rows; `None` where nobody said, and its statements tell.
    pub data_transformation: Option<bool>,
    /// `transaction`: false where its statements are committed one by one; `None` where nobody said.
    pub transaction: Option<bool>,
    /// `lock-timeout`, milliseconds.
    pub lock_timeout_ms: Option<u64>,
    /// `check-before`: queries whose first column must be true (not 0) in every row, and which must return a row.
    pub checks_before: Vec<String>,
    /// `check-after`: the same, after its statements and before their commit is called a success.
    pub checks_after: Vec<String>,
}

/// One migration of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// What names it.
    pub id: MigrationId,
    /// Its version as it is written in the file's name; empty where the layout has none.
    pub version: String,
    /// Its name without the version.
    pub name: String,
    /// Whether it is applied again whenever its text changes.
    pub repeatable: bool,
    /// Forwards.
    pub up: Script,
    /// Backwards; `None` where there is none.
    pub down: Option<Script>,
    /// A script that fails where the migration is not in effect (sqitch).
    pub verify: Option<Script>,
    /// What its author says of it.
    pub metadata: Metadata,
    /// Checksums by which other tools know it: kind of ledger, and the text that the tool would have stored.
    pub foreign_checksums: Vec<(LedgerKind, String)>,
}

impl Migration {
    /// What tells it from any other in all that decides how it is executed: scripts, and what its author says of it.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        let scripts = [Some(&self.up), self.down.as_ref(), self.verify.as_ref()];
        for script in scripts
            .into_iter()
            .map(|script| script.map(Script::digest).unwrap_or_default())
        {
            hasher.update(script.len().to_le_bytes());
            hasher.update(script.as_bytes());
        }
        // The form is this version's own: tokens live for minutes, and a run that goes on under another version makes a new plan.
        hasher.update(format!("{:?}", self.metadata).as_bytes());
        hex::encode(hasher.finalize())
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Forwards.
    Up,
    /// Backwards.
    Down,
}

/// Whose ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerKind {
    /// `_sqlx_migrations`.
    Sqlx,
    /// `__diesel_schema_migrations`.
    Diesel,
    /// `schema_migrations` with one row of (version, dirty): golang-migrate.
    GolangMigrate,
    /// `schema_migrations` with a row for each version: dbmate, and others of that form.
    Dbmate,
    /// `goose_db_version`.
    Goose,
    /// `flyway_schema_history`.
    Flyway,
    /// `_prisma_migrations`.
    Prisma,
    /// `sqitch.changes` (PostgreSQL) or `changes` (SQLite).
    Sqitch,
}

impl LedgerKind {
    /// Name of the tool.
    #[must_use]
    pub fn tool(self) -> &'static str {
        match self {
            Self::Sqlx => "sqlx",
            Self::Diesel => "diesel",
            Self::GolangMigrate => "golang-migrate",
            Self::Dbmate => "dbmate",
            Self::Goose => "goose",
            Self::Flyway => "flyway",
            Self::Prisma => "prisma",
            Self::Sqitch => "sqitch",
        }
    }
}

/// One row of another tool's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignEntry {
    /// The version or name, as it is written there.
    pub version: String,
    /// The checksum, as it is written there; empty where the tool keeps none. Bytes are lowercase hex.
    pub checksum: String,
    /// When it was applied, where the tool notes it.
    pub applied_at: Option<Timestamp>,
    /// Whether the tool itself says that it did not succeed.
    pub failed: bool,
    /// Whether every older migration counts as applied too (golang-migrate keeps only the newest version).
    pub and_older: bool,
}

/// Another tool's ledger in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignLedger {
    /// Whose.
    pub kind: LedgerKind,
    /// Its table, with its schema where there are schemas.
    pub table: String,
    /// Its rows, oldest first.
    pub entries: Vec<ForeignEntry>,
}

/// What the ledger says of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerState {
    /// It is in effect.
    Applied,
    /// Somebody said that it is in effect; dbkeep did not apply it.
    Baselined,
    /// It was applied and taken back.
    RolledBack,
    /// It is being applied in several transactions, or was and stopped: `statements_done` says where.
    Applying,
    /// The same backwards.
    Reverting,
}

/// One row of dbkeep's ledger in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The migration.
    pub id: MigrationId,
    /// Its name.
    pub name: String,
    /// SHA-256 of the up script that was applied, hex.
    pub sha256: String,
    /// Where it stands.
    pub state: LedgerState,
    /// Statements of the direction in work that took effect.
    pub statements_done: u32,
    /// Statements of that direction.
    pub statements: u32,
    /// Whether the statement after those was begun outside of a transaction and nobody knows whether it took effect.
    pub in_doubt: bool,
    /// Why it stopped; empty where it did not.
    pub problem: String,
    /// Rows that its statements changed.
    pub rows: u64,
    /// Time at work, milliseconds.
    pub duration_ms: u64,
    /// When it entered this state, by the target's clock; what is written is ignored, the target sets it.
    pub at: Timestamp,
    /// Principal on whose behalf.
    pub by: String,
    /// Run that wrote it.
    pub run: RunId,
    /// Run whose backup was made before it was applied.
    pub backup: Option<RunId>,
    /// [`Script::digest`] of the script in work, or that was last: `statements_done` counts statements of just that. Empty where
    /// dbkeep executed none.
    pub script_sha256: String,
}

/// Lock on a table. The names are PostgreSQL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockMode {
    /// Reads.
    AccessShare,
    /// `SELECT FOR UPDATE`.
    RowShare,
    /// Writes.
    RowExclusive,
    /// Blocks other changes of the schema.
    ShareUpdateExclusive,
    /// Blocks writes.
    Share,
    /// Blocks writes and other such locks.
    ShareRowExclusive,
    /// Lets only reads through.
    Exclusive,
    /// Lets nobody through, or, on SQLite, the write lock of the whole database.
    AccessExclusive,
}

impl LockMode {
    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessShare => "ACCESS SHARE",
            Self::RowShare => "ROW SHARE",
            Self::RowExclusive => "ROW EXCLUSIVE",
            Self::ShareUpdateExclusive => "SHARE UPDATE EXCLUSIVE",
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::Exclusive => "EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        }
    }
}

/// A lock on a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableLock {
    /// The table; `*` for the whole database.
    pub table: String,
    /// The lock.
    pub mode: LockMode,
}

/// How much of a table a statement works through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Only the catalog.
    Catalog,
    /// The rows that its condition picks.
    Rows,
    /// Every row is read.
    Scan,
    /// An index is built.
    Build,
    /// Every row is written anew.
    Rewrite,
}

/// How risky something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Nobody notices.
    Low,
    /// Somebody may notice.
    Medium,
    /// It blocks, or loses data.
    High,
}

/// Why something is risky.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RiskReason {
    /// Stable name in kebab-case.
    pub rule: String,
    /// How risky.
    pub risk: Risk,
    /// What happens, with names.
    pub message: String,
    /// What to do instead; may be empty.
    pub help: String,
}

/// What a statement will do, by reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impact {
    /// Kind in capitals, e.g. `CREATE INDEX`, as the statement begins.
    pub kind: String,
    /// Locks it takes.
    pub locks: Vec<TableLock>,
    /// How much work it is.
    pub work: Work,
    /// Tables whose size decides how long it takes, as the statement names them.
    pub tables: Vec<String>,
    /// Whether it changes rows (`INSERT`, `UPDATE`, `DELETE`, `MERGE`, `COPY`).
    pub changes_rows: bool,
    /// Whether data is gone afterwards that its opposite cannot bring back.
    pub loses_data: bool,
    /// Why it is risky; empty where it is not.
    pub reasons: Vec<RiskReason>,
}

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
    /// Rows that vanished from tables which no statement deletes from.
    pub rows_lost: Vec<RowsLost>,
    /// Constraints that the data violates after up.
    pub violations: Vec<String>,
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
    /// [`Migration::digest`].
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
}

impl Default for MigrationOptions {
    fn default() -> Self {
        Self {
            lock_timeout_ms: 2_000,
            lock_tries: 10,
            statement_timeout_ms: 0,
            unproven: false,
        }
    }
}

/// A proof that a down script takes its up script back, or that it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The migration.
    pub id: MigrationId,
    /// SHA-256 of its up script then, hex.
    pub up_sha256: String,
    /// SHA-256 of its down script then, hex; empty where there was none.
    pub down_sha256: String,
    /// Whether down restored what was before.
    pub restored: bool,
    /// What the rehearsal measured for the up script, milliseconds.
    pub up_ms: u64,
    /// The run.
    pub run: RunId,
    /// When.
    pub at: Timestamp,
}

/// What a schema consists of, one entry for each object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SchemaObject {
    /// Kind in lower case, e.g. `column`, `index`.
    pub kind: String,
    /// Full name.
    pub name: String,
    /// All there is to say about it, as text that is equal only where the object is.
    pub definition: String,
}

/// What a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableContent {
    /// Full name.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// A hash over all rows, whatever their order and the order of the columns.
    pub hash: String,
}

/// Schema and data of a database, to be compared. dbkeep's own tables are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The schema, sorted.
    pub objects: Vec<SchemaObject>,
    /// The tables, sorted.
    pub tables: Vec<TableContent>,
    /// Size of the database, bytes.
    pub bytes: u64,
}

/// How large a table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableMeasure {
    /// The name that was asked for.
    pub table: String,
    /// Rows, an estimate where the database keeps one; `None` where there is no such table.
    pub rows: Option<u64>,
    /// Size with indexes, bytes.
    pub bytes: u64,
}
