//! Rights in a target's own database: which of them dbkeep needs, what for, and what a role has of them. The planner derives the needs from
//! the catalog; an adapter says what they are called in its database.

use std::sync::Arc;

use super::{FindingLevel, TableName, TableSchema};

/// What rights are needed for. Each can be granted, and left out, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// To come in at all, and to keep the journal.
    Basis,
    /// Plans and runs of the catalog's operations.
    Cleanup,
    /// Putting back what was captured.
    Undo,
    /// Looking at the database's health.
    Monitoring,
    /// Applying migrations and taking them back.
    Migrations,
    /// Whole tables, or the whole database, into a file.
    Backups,
    /// Such a backup back into a database, and the proof that it can be.
    Restores,
    /// VACUUM, ANALYZE and indexes that are built anew.
    Maintenance,
    /// Looking around for rules in tables that the catalog does not name.
    Discovery,
}

impl Feature {
    /// Every feature, the one that all others need first.
    pub const ALL: [Self; 9] = [
        Self::Basis,
        Self::Cleanup,
        Self::Undo,
        Self::Monitoring,
        Self::Migrations,
        Self::Backups,
        Self::Restores,
        Self::Maintenance,
        Self::Discovery,
    ];

    /// Name in requests and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Basis => "basis",
            Self::Cleanup => "cleanup",
            Self::Undo => "undo",
            Self::Monitoring => "monitoring",
            Self::Migrations => "migrations",
            Self::Backups => "backups",
            Self::Restores => "restores",
            Self::Maintenance => "maintenance",
            Self::Discovery => "discovery",
        }
    }

    /// The feature of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|feature| feature.name() == name)
    }

    /// What it is, in one line.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Basis => {
                "to come in, and to keep the journal: one row for each committed batch, without which nothing is resumed or undone"
            }
            Self::Cleanup => "plans and runs of the catalog's operations",
            Self::Undo => "putting captured rows back",
            Self::Monitoring => "looking at health; reads no row of any table",
            Self::Migrations => "migrations change the schema, which only an owner may",
            Self::Backups => "whole tables, or the whole database, into a file: reads every table",
            Self::Restores => {
                "a whole backup back into its tables, or into a database of its own, which is also the proof that it can be restored"
            }
            Self::Maintenance => "VACUUM, ANALYZE, and indexes that are built anew",
            Self::Discovery => "dbkeep discover looks at tables that the catalog does not name",
        }
    }
}

/// What has to be allowed on a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Its rows are read.
    Read,
    /// Rows of it are deleted.
    Delete,
    /// Rows are put into it.
    Insert,
    /// These columns of its rows get other values.
    Change {
        /// The columns.
        columns: Vec<String>,
    },
    /// Single rows are locked before they go or change; the column is one of its key.
    LockRows {
        /// Such a column.
        column: String,
    },
    /// Its shape is kept from changing during a batch.
    KeepShape,
    /// Nobody else may write to it during a batch.
    KeepStill,
}

/// A right on a table, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The table, with its schema where that is known.
    pub table: TableName,
    /// What has to be allowed.
    pub right: Right,
    /// The feature that needs it.
    pub feature: Feature,
    /// Who needs it, in a few words: `old_logs.api_logs: rows of it go`.
    pub why: String,
}

/// A table into which rows are copied before they go.
#[derive(Debug, Clone)]
pub struct ArchiveNeed {
    /// The table that the rows come from.
    pub of: Arc<TableSchema>,
    /// The archive.
    pub into: TableName,
    /// Its column for the time.
    pub stamp_column: String,
    /// Who needs it.
    pub why: String,
}

/// All that a target's settings ask of a role.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Rights on tables.
    pub tables: Vec<Need>,
    /// Tables that have to be there.
    pub archives: Vec<ArchiveNeed>,
    /// Tables whose policies would hide rows.
    pub hidden: Vec<TableName>,
    /// Tables with triggers that run with the role's own rights.
    pub triggers: Vec<TableName>,
    /// Operations whose tables could not be looked at, and why: of them only what the catalog itself says is known.
    pub unknown: Vec<(String, String)>,
}

/// A right, as the database calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The feature that needs it.
    pub feature: Feature,
    /// What it is a right on, e.g. `table public.users`.
    pub object: String,
    /// Its name, e.g. `DELETE` or `UPDATE (status)`.
    pub privilege: String,
    /// The statement that grants it, without a semicolon; empty where none should, and `why` says what to do instead.
    pub statement: String,
    /// Who needs it.
    pub why: String,
    /// Whether the role has it.
    pub held: bool,
}

/// More than a role needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    /// What it has.
    pub what: String,
    /// Why it should not.
    pub why: String,
    /// How serious it is; never `Block`.
    pub level: FindingLevel,
    /// The statement that takes it away, without a semicolon; empty where people have to decide which.
    pub statement: String,
}

/// What a role needs, what it has of it, and what it has besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The role.
    pub role: String,
    /// Whether there is such a role yet.
    pub exists: bool,
    /// The rights, in the order in which they are to be granted.
    pub grants: Vec<Grant>,
    /// What it has besides.
    pub excess: Vec<Excess>,
    /// What else whoever reads the statements should know.
    pub notes: Vec<String>,
    /// The statements as a script: those of the features that were asked for are in effect, the others stand in comments.
    pub script: String,
}

impl Access {
    /// The rights that these features need and the role lacks.
    pub fn missing<'a>(&'a self, features: &'a [Feature]) -> impl Iterator<Item = &'a Grant> {
        self.grants
            .iter()
            .filter(|grant| !grant.held && features.contains(&grant.feature))
    }
}
