//! What a reader finds in one statement: its impact without any judgement, and the facts from which [`super::rules`] judges. Both
//! databases' readers produce it, so that a rule is written once.

use super::token::Name;
use crate::model::{LockMode, Work};

/// Something that a statement does or is, and that rules or later statements care about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    /// The statement cannot be judged by reading it; the text says why.
    Opaque(String),
    /// A table comes into being.
    Creates(Name),
    /// An index comes into being: its name where it has one, its table, its leading columns.
    Indexes {
        /// Name of the index.
        index: Option<Name>,
        /// Table.
        table: Name,
        /// Leading columns.
        columns: Vec<String>,
        /// Whether it is built while others write.
        concurrently: bool,
        /// Whether the statement builds it over rows that are there; false for an index of a new table.
        built: bool,
    },
    /// A table gets another name.
    Renames {
        /// Name before.
        from: Name,
        /// Name after.
        to: Name,
    },
    /// Rows come into a table.
    Fills(Name),
    /// Every row of a table is changed.
    UpdatesAll(Name),
    /// Every row of a table is deleted.
    DeletesAll(Name),
    /// Some rows of a table are deleted.
    DeletesSome(Name),
    /// Data goes: what, as the end of a sentence, and the table that decides whether there is any.
    Loses {
        /// What goes.
        what: String,
        /// Table it is in, where it is one.
        table: Option<Name>,
    },
    /// A foreign key is declared.
    ForeignKey {
        /// Table with the key.
        child: Name,
        /// Its columns.
        columns: Vec<String>,
        /// Table it refers to.
        parent: Name,
        /// Name of the constraint, where it has one.
        constraint: Option<String>,
    },
    /// A table is written anew: why, as the end of a sentence.
    Rewrites {
        /// Table.
        table: Name,
        /// Why.
        why: String,
    },
    /// A table is read from beginning to end: why, as the end of a sentence.
    Scans {
        /// Table.
        table: Name,
        /// Why.
        why: String,
    },
    /// A column gets another type.
    ChangesType {
        /// Table.
        table: Name,
        /// Column.
        column: String,
        /// The new type.
        to: String,
        /// Whether the table is written anew for it.
        rewrites: bool,
    },
    /// A column gets a default that is computed for each row.
    VolatileDefault {
        /// Table.
        table: Name,
        /// Column.
        column: String,
        /// The default.
        default: String,
    },
    /// A column is added that must have a value and gets none.
    RequiredColumn {
        /// Table.
        table: Name,
        /// Column.
        column: String,
    },
    /// Adding the column fails, in words, where the table has rows.
    Impossible {
        /// Table.
        table: Name,
        /// Why.
        why: String,
    },
    /// A check was declared that a column is not null: constraint, table, column.
    NotNullCheck {
        /// Name of the constraint.
        constraint: String,
        /// Table.
        table: Name,
        /// Column.
        column: String,
        /// Whether the rows that are there satisfy it.
        valid: bool,
    },
    /// A constraint was found to hold.
    Validates {
        /// Table.
        table: Name,
        /// Name of the constraint.
        constraint: String,
    },
    /// The statement fails inside a transaction.
    NoTransaction,
    /// `LOCK TABLE`, or what amounts to it.
    LocksExplicitly(Name),
    /// `writable_schema`.
    WritesCatalog,
    /// SQLite: a table is dropped whose copy takes its place.
    DropsRebuilt {
        /// The table as everybody else names it.
        table: Name,
        /// Whether references of other tables followed the renaming and now are to the table that is dropped.
        renamed_first: bool,
    },
    /// SQLite: rows that clash are replaced, which deletes them.
    Replaces(Name),
}

impl Fact {
    /// The table that it is about, as the script names it.
    pub(super) fn table(&self) -> Option<&Name> {
        match self {
            Self::Creates(table)
            | Self::Fills(table)
            | Self::UpdatesAll(table)
            | Self::DeletesAll(table)
            | Self::DeletesSome(table)
            | Self::LocksExplicitly(table)
            | Self::Replaces(table)
            | Self::Indexes { table, .. }
            | Self::Renames { from: table, .. }
            | Self::ForeignKey { parent: table, .. }
            | Self::Rewrites { table, .. }
            | Self::Scans { table, .. }
            | Self::ChangesType { table, .. }
            | Self::VolatileDefault { table, .. }
            | Self::RequiredColumn { table, .. }
            | Self::Impossible { table, .. }
            | Self::NotNullCheck { table, .. }
            | Self::Validates { table, .. }
            | Self::DropsRebuilt { table, .. } => Some(table),
            Self::Loses { table, .. } => table.as_ref(),
            Self::Opaque(_) | Self::NoTransaction | Self::WritesCatalog => None,
        }
    }
}

/// A statement, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) kind: String,
    pub(super) locks: Vec<(Name, LockMode)>,
    pub(super) work: Work,
    /// Tables whose size decides how long it takes.
    pub(super) tables: Vec<Name>,
    pub(super) changes_rows: bool,
    pub(super) loses_data: bool,
    pub(super) facts: Vec<Fact>,
}

impl Reading {
    /// A statement that does nothing but change the catalog.
    pub(super) fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            locks: Vec::new(),
            work: Work::Catalog,
            tables: Vec::new(),
            changes_rows: false,
            loses_data: false,
            facts: Vec::new(),
        }
    }

    /// A statement that cannot be judged by reading it.
    pub(super) fn opaque(kind: impl Into<String>, why: &str) -> Self {
        let mut reading = Self::new(kind);
        reading.facts.push(Fact::Opaque(why.to_owned()));
        reading
    }

    /// Adds a lock; of two locks on a table the stronger one stays.
    pub(super) fn lock(&mut self, table: &Name, mode: LockMode) {
        match self.locks.iter_mut().find(|(name, _)| name == table) {
            Some((_, held)) => *held = (*held).max(mode),
            None => self.locks.push((table.clone(), mode)),
        }
    }

    /// Adds work; the heaviest decides which tables count.
    pub(super) fn work(&mut self, work: Work, table: &Name) {
        self.work = self.work.max(work);
        if !self.tables.contains(table) {
            self.tables.push(table.clone());
        }
    }

    /// Adds a fact.
    pub(super) fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    /// Adds that data goes.
    pub(super) fn loses(&mut self, what: impl Into<String>, table: Option<&Name>) {
        self.loses_data = true;
        self.facts.push(Fact::Loses {
            what: what.into(),
            table: table.cloned(),
        });
    }

    /// Adds that a table is read from beginning to end.
    pub(super) fn scan(&mut self, table: &Name, why: impl Into<String>) {
        self.work(Work::Scan, table);
        self.facts.push(Fact::Scans {
            table: table.clone(),
            why: why.into(),
        });
    }

    /// Adds that a table is written anew.
    pub(super) fn rewrite(&mut self, table: &Name, why: impl Into<String>) {
        self.work(Work::Rewrite, table);
        self.facts.push(Fact::Rewrites {
            table: table.clone(),
            why: why.into(),
        });
    }

    /// Takes over what another reading found, except its kind: a statement within a statement.
    pub(super) fn absorb(&mut self, other: Self) {
        for (table, mode) in other.locks {
            self.lock(&table, mode);
        }
        for table in &other.tables {
            self.work(other.work, table);
        }
        self.work = self.work.max(other.work);
        self.changes_rows |= other.changes_rows;
        self.loses_data |= other.loses_data;
        self.facts.extend(other.facts);
    }
}
