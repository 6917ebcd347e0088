//! What a target's ledgers say: dbkeep's own, and those of other tools.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{super::run::RunId, MigrationId};

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

/// Whether the ledger of another tool speaks for the schema that a folder's scripts work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerReach {
    /// It does, and was read: its bare name means it, or its tool keeps it in a schema of its own.
    Read,
    /// No bare name means it: it may be another application's, and was not read.
    Outside,
    /// It would, and dbkeep's role may not read it.
    Unreadable {
        /// Statements that would let it.
        grants: String,
    },
}

/// Another tool's ledger in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignLedger {
    /// Whose.
    pub kind: LedgerKind,
    /// Its table, with its schema where there are schemas.
    pub table: String,
    /// Whether it speaks for this folder.
    pub reach: LedgerReach,
    /// Its rows, oldest first; none where it was not read.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// [`Script::digest`](super::Script::digest) of the script in work, or that was last: `statements_done` counts statements of just that. Empty where
    /// dbkeep executed none.
    pub script_sha256: String,
}

impl LedgerEntry {
    /// The rows to write so that the ledger, which says `now`, fits a database that is again what it was when its ledger said `then`.
    /// What came since is rolled back, and keeps its row; what was rolled back or changed since is as it was. In the order in which
    /// they have to be written: the time of each is that of its writing.
    #[must_use]
    pub fn rewound(now: &[Self], then: &[Self], run: RunId, by: &str) -> Vec<Self> {
        let stands = |entry: &Self| {
            (
                entry.state,
                entry.sha256.clone(),
                entry.statements_done,
                entry.in_doubt,
                entry.script_sha256.clone(),
            )
        };
        let gone = now
            .iter()
            .filter(|entry| entry.state != LedgerState::RolledBack && then.iter().all(|known| known.id != entry.id))
            .map(|entry| Self {
                state: LedgerState::RolledBack,
                statements_done: 0,
                statements: 0,
                in_doubt: false,
                problem: String::new(),
                rows: 0,
                duration_ms: 0,
                by: by.to_owned(),
                run,
                script_sha256: String::new(),
                ..entry.clone()
            });
        let mut back: Vec<Self> = then
            .iter()
            .filter(|entry| {
                let known = now.iter().find(|known| known.id == entry.id);
                known.is_none_or(|known| stands(known) != stands(entry))
            })
            .cloned()
            .collect();
        back.sort_by_key(|entry| entry.at);
        gone.chain(back).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, state: LedgerState, at: i64) -> LedgerEntry {
        LedgerEntry {
            id: MigrationId(id.to_owned()),
            name: "n".to_owned(),
            sha256: "s".to_owned(),
            state,
            statements_done: 2,
            statements: 2,
            in_doubt: false,
            problem: String::new(),
            rows: 0,
            duration_ms: 0,
            at: Timestamp::from_second(at).expect("a time"),
            by: "ann".to_owned(),
            run: RunId::new(),
            backup: None,
            script_sha256: "d".to_owned(),
        }
    }

    #[test]
    fn a_ledger_goes_back_with_its_database_and_forgets_nothing() {
        use LedgerState::{Applied, Applying, RolledBack};
        let then = [entry("1", Applied, 1), entry("2", Applied, 3), entry("3", Applying, 2)];
        let now = [
            entry("1", Applied, 1),
            entry("2", RolledBack, 9),
            entry("3", Applied, 9),
            entry("4", Applied, 9),
            entry("5", RolledBack, 9),
        ];
        let run = RunId::new();
        let written = LedgerEntry::rewound(&now, &then, run, "bob");
        let told: Vec<_> = written.iter().map(|entry| (entry.id.0.as_str(), entry.state)).collect();
        assert_eq!(told, [("4", RolledBack), ("3", Applying), ("2", Applied)]);
        assert_eq!(
            (written[0].run, written[0].by.as_str(), written[0].statements_done),
            (run, "bob", 0)
        );
        assert_eq!(written[2].run, then[1].run, "who applied it is who applied it");
        assert!(LedgerEntry::rewound(&then, &then, run, "bob").is_empty());
    }
}
