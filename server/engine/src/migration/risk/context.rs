//! What is known at a statement: the target's measures, and what the statements before it in the same script have done. A table
//! that the script itself created is nobody else's yet, so that locking or scanning it disturbs nobody.

use super::{Known, reading::Fact, token::Name};
use crate::model::EngineKind;

/// How much there is in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Size {
    /// The script created it; nobody else can see it.
    New,
    /// It has no rows.
    Empty,
    /// Fewer than [`Context::SMALL_ROWS`], or it does not exist yet.
    Small,
    /// Fewer than [`Context::LARGE_ROWS`].
    Medium,
    /// More than that.
    Large,
    /// Nobody measured it; it counts as large.
    Unknown,
}

/// A foreign key, known from the target or from the script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) child: Name,
    pub(super) columns: Vec<String>,
    pub(super) parent: Name,
    /// Where the script declared it with a name.
    pub(super) constraint: Option<String>,
}

impl Key {
    /// Whether it is the constraint of this name. Where its name is not known, it is taken to be the one that PostgreSQL gives.
    pub(super) fn is_named(&self, name: &str) -> bool {
        match &self.constraint {
            Some(constraint) => constraint == name,
            None => name == format!("{}_{}_fkey", self.child.bare(), self.columns.join("_")),
        }
    }
}

/// A check that a column is not null, declared by the script.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NotNullCheck {
    constraint: String,
    table: Name,
    column: String,
    valid: bool,
}

/// What is known at a statement.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) engine: EngineKind,
    measures: Vec<(Name, Option<u64>)>,
    indexes: Vec<(Name, Vec<String>)>,
    pub(super) keys: Vec<Key>,
    columns: Vec<(Name, String, String)>,
    created: Vec<Name>,
    filled: Vec<Name>,
    /// Indexes that the script created, each with its table.
    named_indexes: Vec<(Name, Name)>,
    not_null: Vec<NotNullCheck>,
}

impl Context {
    /// Rows below which work on a table is over before anybody notices.
    pub(super) const SMALL_ROWS: u64 = 10_000;
    /// Rows from which on reading a table takes long enough to be noticed as an outage.
    pub(super) const LARGE_ROWS: u64 = 1_000_000;

    /// Before the first statement.
    pub(super) fn new(known: &Known, engine: EngineKind) -> Self {
        let name = |text: &String| Name::parse(text, engine);
        Self {
            engine,
            measures: known
                .tables
                .iter()
                .map(|measure| (name(&measure.table), measure.rows))
                .collect(),
            indexes: known
                .indexes
                .iter()
                .map(|(table, columns)| (name(table), lowered(columns, engine)))
                .collect(),
            keys: known
                .foreign_keys
                .iter()
                .map(|(child, columns, parent)| Key {
                    child: name(child),
                    columns: lowered(columns, engine),
                    parent: name(parent),
                    constraint: None,
                })
                .collect(),
            columns: known
                .columns
                .iter()
                .map(|(table, column, kind)| (name(table), column.clone(), kind.clone()))
                .collect(),
            created: Vec::new(),
            filled: Vec::new(),
            named_indexes: Vec::new(),
            not_null: Vec::new(),
        }
    }

    /// How much there is in a table.
    pub(super) fn size(&self, table: &Name) -> Size {
        if self.is_new(table) {
            return Size::New;
        }
        let exact = self.measures.iter().find(|(name, _)| name == table);
        match exact.or_else(|| self.measures.iter().find(|(name, _)| name.may_be(table))) {
            None => Size::Unknown,
            // A table that is not there yet is made by a migration that is applied before this one.
            Some((_, None)) => Size::Small,
            Some((_, Some(0))) if self.filled.iter().any(|name| name.same(table)) => Size::Small,
            Some((_, Some(0))) => Size::Empty,
            Some((_, Some(rows))) if *rows < Self::SMALL_ROWS => Size::Small,
            Some((_, Some(rows))) if *rows < Self::LARGE_ROWS => Size::Medium,
            Some((_, Some(_))) => Size::Large,
        }
    }

    /// A table's rows in words.
    pub(super) fn rows_in_words(&self, table: &Name) -> String {
        let exact = self.measures.iter().find(|(name, _)| name == table);
        match exact.or_else(|| self.measures.iter().find(|(name, _)| name.may_be(table))) {
            None => "an unknown number of rows".to_owned(),
            Some((_, None)) => "no rows yet".to_owned(),
            Some((_, Some(1))) => "1 row".to_owned(),
            Some((_, Some(rows))) => format!("{rows} rows"),
        }
    }

    /// Whether the script created a table.
    pub(super) fn is_new(&self, table: &Name) -> bool {
        self.created.iter().any(|name| name.same(table))
    }

    /// Whether the columns of a foreign key lead an index, in any order.
    pub(super) fn is_indexed(&self, table: &Name, columns: &[String]) -> bool {
        self.indexes.iter().any(|(name, leading)| {
            name.may_be(table)
                && leading.len() >= columns.len()
                && leading.iter().take(columns.len()).all(|column| columns.contains(column))
        })
    }

    /// The foreign keys that refer to a table from others.
    pub(super) fn keys_to(&self, table: &Name) -> impl Iterator<Item = &Key> {
        self.keys
            .iter()
            .filter(move |key| key.parent.may_be(table) && !key.child.may_be(table))
    }

    /// The foreign keys of a table to others.
    pub(super) fn keys_of(&self, table: &Name) -> impl Iterator<Item = &Key> {
        self.keys
            .iter()
            .filter(move |key| key.child.may_be(table) && !key.parent.may_be(table))
    }

    /// The type of a column, where it is known.
    pub(super) fn column_type(&self, table: &Name, column: &str) -> Option<&str> {
        let found = self
            .columns
            .iter()
            .find(|(name, known, _)| name.may_be(table) && known == column);
        found.map(|(_, _, kind)| kind.as_str())
    }

    /// The columns of a table, as far as they are known.
    pub(super) fn columns_of(&self, table: &Name) -> Vec<&str> {
        let of = self.columns.iter().filter(|(name, _, _)| name.may_be(table));
        of.map(|(_, column, _)| column.as_str()).collect()
    }

    /// The table of an index that the script created.
    pub(super) fn table_of_index(&self, index: &Name) -> Option<&Name> {
        self.named_indexes
            .iter()
            .find(|(name, _)| name.may_be(index))
            .map(|(_, table)| table)
    }

    /// Whether a check that holds says that a column is not null.
    pub(super) fn is_checked_not_null(&self, table: &Name, column: &str) -> bool {
        self.not_null
            .iter()
            .any(|check| check.valid && check.table.same(table) && check.column == column)
    }

    /// Notes only which tables a statement creates: what it knows of itself.
    pub(super) fn learn_creations(&mut self, facts: &[Fact]) {
        self.created.extend(facts.iter().filter_map(|fact| match fact {
            Fact::Creates(table) => Some(table.clone()),
            _ => None,
        }));
    }

    /// Notes what a statement did.
    pub(super) fn learn(&mut self, facts: &[Fact]) {
        for fact in facts {
            match fact {
                Fact::Creates(table) => self.created.push(table.clone()),
                Fact::Fills(table) => self.filled.push(table.clone()),
                Fact::Indexes {
                    index, table, columns, ..
                } => {
                    self.indexes.push((table.clone(), columns.clone()));
                    if let Some(index) = index {
                        self.named_indexes.push((index.clone(), table.clone()));
                    }
                }
                Fact::ForeignKey {
                    child,
                    columns,
                    parent,
                    constraint,
                } => self.keys.push(Key {
                    child: child.clone(),
                    columns: columns.clone(),
                    parent: parent.clone(),
                    constraint: constraint.clone(),
                }),
                Fact::Renames { from, to } => self.rename(from, to),
                Fact::NotNullCheck {
                    constraint,
                    table,
                    column,
                    valid,
                } => self.not_null.push(NotNullCheck {
                    constraint: constraint.clone(),
                    table: table.clone(),
                    column: column.clone(),
                    valid: *valid,
                }),
                Fact::Validates { table, constraint } => {
                    for check in &mut self.not_null {
                        check.valid |= check.table.same(table) && check.constraint == *constraint;
                    }
                }
                _ => {}
            }
        }
    }

    fn rename(&mut self, from: &Name, to: &Name) {
        let was_new = self.is_new(from);
        // The old name is free now; a table of that name is another one.
        self.created.retain(|name| !name.same(from));
        if was_new {
            self.created.push(to.clone());
        } else {
            self.created.retain(|name| !name.same(to));
        }
        if let Some(measure) = self
            .measures
            .iter()
            .find(|(name, _)| name.may_be(from))
            .map(|(_, rows)| *rows)
            && !was_new
        {
            self.measures.retain(|(name, _)| name != to);
            self.measures.push((to.clone(), measure));
        }
        for name in self.filled.iter_mut().chain(self.indexes.iter_mut().map(|(name, _)| name)) {
            if name.same(from) {
                name.clone_from(to);
            }
        }
        for (_, table) in &mut self.named_indexes {
            if table.same(from) {
                table.clone_from(to);
            }
        }
    }
}

fn lowered(columns: &[String], engine: EngineKind) -> Vec<String> {
    match engine {
        EngineKind::Sqlite => columns.iter().map(|column| column.to_lowercase()).collect(),
        EngineKind::Postgres => columns.to_vec(),
    }
}
