//! The shape of a table, as far as it decides what a deletion does. Adapters read it from the database; the planner judges it.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A table's name, unquoted. Without a schema the database's search path decides (PostgreSQL), or `main` (SQLite).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// Schema, where the catalog or the database names one.
    pub schema: Option<String>,
    /// Name of the table.
    pub name: String,
}

impl TableName {
    /// Reads `table` or `schema.table`. A dot inside a name cannot be written in a catalog.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.split_once('.') {
            Some((schema, name)) => Self {
                schema: Some(schema.to_owned()),
                name: name.to_owned(),
            },
            None => Self {
                schema: None,
                name: text.to_owned(),
            },
        }
    }

    /// The name as both databases read it in a statement, whatever is in it.
    #[must_use]
    pub fn quoted(&self) -> String {
        let part = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        match &self.schema {
            Some(schema) => format!("{}.{}", part(schema), part(&self.name)),
            None => part(&self.name),
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(formatter, "{schema}.{}", self.name),
            None => formatter.write_str(&self.name),
        }
    }
}

/// What a name in the schema stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableKind {
    /// An ordinary table.
    Table,
    /// A partitioned table (PostgreSQL).
    Partitioned,
    /// A table that other tables inherit from (PostgreSQL).
    Inherited,
    /// A view, or a materialized one.
    View,
    /// A foreign or virtual table.
    Foreign,
}

/// What dbkeep needs to know of a column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TypeClass {
    /// Whole numbers.
    Integer,
    /// Numbers with a fraction.
    Real,
    /// Character data.
    Text,
    /// An instant: timestamp with time zone.
    Instant,
    /// Date and time without a zone.
    CivilTime,
    /// A date.
    Date,
    /// Anything else.
    Other,
}

/// Whether the database computes a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generated {
    /// It holds what was written.
    No,
    /// Computed when the row is written, or when it is read; it cannot be put back and need not be.
    Yes,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name, unquoted.
    pub name: String,
    /// Type as the database writes it, e.g. `character varying(40)`.
    pub type_name: String,
    /// What dbkeep needs to know of that type.
    pub class: TypeClass,
    /// Whether NULL is allowed.
    pub nullable: bool,
    /// Whether the database computes it.
    pub generated: Generated,
}

/// What the database does with a child when its parent goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDelete {
    /// Refuses, at the statement's or the transaction's end.
    NoAction,
    /// Refuses at once.
    Restrict,
    /// Deletes the child.
    Cascade,
    /// Sets the child's key to NULL.
    SetNull,
    /// Sets the child's key to its default.
    SetDefault,
}

/// A declared key of another table that points here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// Name of the constraint; SQLite has none, there it is `child(columns)`.
    pub name: String,
    /// Table that declares it.
    pub child: TableName,
    /// Its columns.
    pub child_columns: Vec<String>,
    /// Columns of the parent, pairwise with `child_columns`.
    pub parent_columns: Vec<String>,
    /// Those of the child's columns that `SET NULL` empties: all of them, unless the key says otherwise.
    pub null_columns: Vec<String>,
    /// What happens to a child.
    pub on_delete: OnDelete,
    /// Whether an index of the child begins with those columns; without one every deletion here reads the whole child.
    pub indexed: bool,
}

/// An index that can serve any query (valid, not partial).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Its columns in order; an expression is an empty name.
    pub columns: Vec<String>,
    /// Whether it is unique.
    pub unique: bool,
}

/// A row or statement trigger that is switched on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// Whether it fires on DELETE.
    pub on_delete: bool,
    /// Whether it fires on UPDATE.
    pub on_update: bool,
    /// Whether it fires on INSERT.
    pub on_insert: bool,
    /// Whether it can stop the row (BEFORE, INSTEAD OF).
    pub before: bool,
}

/// The shape of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    /// Its name, with the schema that the database resolved.
    pub name: TableName,
    /// What it is.
    pub kind: TableKind,
    /// Its columns in order.
    pub columns: Vec<Column>,
    /// Columns of its primary key, empty where it has none.
    pub primary_key: Vec<String>,
    /// What addresses a row: the primary key (PostgreSQL); the rowid under a name that no column hides, or the primary key
    /// of a table without rowid (SQLite). Empty where nothing does.
    pub row_key: Vec<String>,
    /// Indexes that can serve a look-up.
    pub indexes: Vec<Index>,
    /// Declared keys of other tables (or of itself) that point here.
    pub incoming: Vec<ForeignKey>,
    /// Triggers that are switched on, without those that enforce keys.
    pub triggers: Vec<Trigger>,
    /// Names of rewrite rules (PostgreSQL), which make a DELETE do something else.
    pub rewrite_rules: Vec<String>,
    /// Whether row-level security hides rows from some users.
    pub row_security: bool,
    /// Columns of a user-defined type whose cast to text runs a function, so that the text may lose something.
    pub lossy_columns: Vec<String>,
    /// The adapter's own digest of the shape, which it can compute again cheaply inside a batch.
    pub shape_guard: String,
}

impl TableSchema {
    /// The column of that name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Columns that a capture holds: all but the generated ones.
    pub fn captured_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.generated == Generated::No)
    }

    /// Whether some index begins with exactly these columns, in any order.
    #[must_use]
    pub fn indexed(&self, columns: &[String]) -> bool {
        let leads =
            |index: &[String]| index.len() >= columns.len() && columns.iter().all(|name| index[..columns.len()].contains(name));
        leads(&self.primary_key) && !columns.is_empty() || self.indexes.iter().any(|index| leads(&index.columns))
    }

    /// SHA-256 over the shape of these tables, hex. Estimates do not enter it, so that it changes only with DDL.
    #[must_use]
    pub fn fingerprint<'a>(tables: impl IntoIterator<Item = &'a Self>) -> String {
        let mut hasher = Sha256::new();
        for table in tables {
            let shape = Self { ..table.clone() };
            hasher.update(serde_json::to_vec(&shape).unwrap_or_default());
            hasher.update(b"\n");
        }
        hex::encode(hasher.finalize())
    }
}
