//! A folder's migrations: layouts, scripts cut into groups, and what an author says of them.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::LedgerKind;

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

    /// The statements, from 0, of the group that goes on after so many statements: those that are left of it, up to its end. Empty where
    /// the script ends there.
    #[must_use]
    pub fn rest_of_group(&self, statements: usize) -> std::ops::Range<usize> {
        let mut end = 0;
        for group in &self.groups {
            end += group.statements.len();
            if statements < end {
                return statements..end;
            }
        }
        end..end
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_group_ends_where_the_group_does() {
        let group = |atomic, count: u32| Group {
            atomic,
            statements: (0..count)
                .map(|line| Statement {
                    sql: "SELECT 1".to_owned(),
                    line,
                    column: 1,
                })
                .collect(),
        };
        let script = Script {
            file: "1.sql".to_owned(),
            sha256: String::new(),
            groups: vec![group(true, 1), group(true, 3), group(false, 1)],
            foreign_keys_off: false,
        };
        let rests = [0, 1, 2, 4, 5, 9].map(|done| script.rest_of_group(done));
        assert_eq!(rests, [0..1, 1..4, 2..4, 4..5, 5..5, 5..5]);
        for rest in rests {
            assert!(script.is_boundary(rest.end));
        }
    }
}
