//! Which rows a step takes and what becomes of them, in a form that knows no SQL dialect. The plan's counts, the live run's
//! scan and the recheck in every batch are rendered from the same value: that is what makes the dry run tell the truth.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::schema::{TableName, TableSchema};

/// How a column that is no timestamp holds an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeEncoding {
    /// ISO 8601 text in UTC, with or without an offset.
    TextUtc,
    /// Seconds since 1970-01-01T00:00:00Z.
    UnixSeconds,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    UnixMillis,
}

/// A value that a catalog writes down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Literal {
    /// `true` or `false`; 1 and 0 on SQLite.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Text; PostgreSQL reads it as a value of the column's type.
    Text(String),
}

/// A condition on the rows of a table. None of them is ever true of a row whose deciding column is NULL, unless it asks for the
/// NULL, and none is ever NULL itself, so that its negation means what it says.
#[derive(Debug, Clone)]
pub enum Condition {
    /// Every one holds; true where there is none.
    All(Vec<Condition>),
    /// At least one holds; false where there is none.
    Any(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// The named columns are all non-NULL, and no fit row of the parent has these values.
    ParentMissing {
        /// Columns of the child.
        columns: Vec<String>,
        /// The parent table.
        parent: Arc<TableSchema>,
        /// Columns of the parent, pairwise with `columns`.
        parent_columns: Vec<String>,
        /// Conditions on the parent: a row of it that meets one of them does not count as a parent.
        unfit: Vec<Condition>,
    },
    /// The named columns are all non-NULL, and a row of the parent has these values and meets the condition.
    ParentMatches {
        /// Columns of the child.
        columns: Vec<String>,
        /// The parent table.
        parent: Arc<TableSchema>,
        /// Columns of the parent, pairwise with `columns`.
        parent_columns: Vec<String>,
        /// Condition on the parent.
        matches: Box<Condition>,
    },
    /// The column holds `prefix`, the text of a key, and `suffix`, and no fit row of the parent has that key. Text of another
    /// form names nothing and does not match.
    KeyDangling {
        /// Column of the child.
        column: String,
        /// Where the text lies inside a JSON column: names of nested objects; `None` where the column is the text.
        json_path: Option<Vec<String>>,
        /// What comes before the key.
        prefix: String,
        /// What comes after it.
        suffix: String,
        /// The parent table.
        parent: Arc<TableSchema>,
        /// Column of the parent that holds the key.
        parent_column: String,
        /// Conditions on the parent: a row of it that meets one of them does not count as a parent.
        unfit: Vec<Condition>,
    },
    /// The column holds an instant strictly before the horizon.
    OlderThan {
        /// Column that holds the instant.
        column: String,
        /// The cut-off.
        horizon: Timestamp,
        /// How the column holds it, where its type does not say.
        encoding: Option<TimeEncoding>,
        /// Zone of a zone-less column (IANA name).
        zone: Option<String>,
    },
    /// The columns are all non-NULL, and another row with equal values comes before this one in the order.
    Duplicate {
        /// The table that both rows are of.
        table: Arc<TableSchema>,
        /// Columns of the key.
        columns: Vec<String>,
        /// Which row of a key comes first; what this leaves open, the primary key decides.
        order: Vec<Order>,
        /// What must hold of a row so that it counts at all, as the one that goes and as the one that stays.
        among: Vec<Condition>,
    },
    /// The row is an edge of a directed graph, and among those that go so that no cycle is left
    /// ([`crate::rule::cycle::feedback`]). Cannot be asked of a row by itself, so that no later step may hang on it.
    Cycle {
        /// Columns that name the node which the edge leaves.
        from: Vec<String>,
        /// Columns that name the node which it enters, pairwise with `from`.
        to: Vec<String>,
        /// What must hold of a row so that it is an edge at all.
        among: Vec<Condition>,
    },
    /// The column holds one of these values.
    OneOf {
        /// The column.
        column: String,
        /// The values; none of them is NULL.
        values: Vec<Literal>,
    },
    /// The column is NULL.
    IsNull {
        /// The column.
        column: String,
    },
    /// A condition in the database's own SQL over unqualified columns of the table; NULL counts as false.
    Sql {
        /// Table whose columns it names.
        table: Arc<TableSchema>,
        /// The text.
        text: String,
    },
}

/// A part of the order in which rows of one key stand. NULL is always the oldest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The column.
    pub column: String,
    /// Whether the largest value comes first.
    pub newest_first: bool,
}

impl Condition {
    /// Looks at this condition and at those inside it, except conditions on other tables.
    pub fn visit<'a>(&'a self, look: &mut impl FnMut(&'a Self)) {
        look(self);
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.visit(look)),
            Self::Not(part) => part.visit(look),
            _ => {}
        }
    }

    /// Whether a row goes because of other rows of its table that stay, so that it must be listed together with them.
    #[must_use]
    pub fn is_about_sets(&self) -> bool {
        matches!(self, Self::Duplicate { .. } | Self::Cycle { .. })
    }

    /// What of a condition about sets is about the row alone: its deciding columns are there, and it counts at all. Any other
    /// condition is returned as it is.
    #[must_use]
    pub fn of_the_row(&self) -> Self {
        let present = |columns: &mut dyn Iterator<Item = &String>, among: &[Self]| {
            let present = columns.map(|column| Self::Not(Box::new(Self::IsNull { column: column.clone() })));
            Self::All(present.chain(among.iter().cloned()).collect())
        };
        match self {
            Self::Duplicate { columns, among, .. } => present(&mut columns.iter(), among),
            Self::Cycle { from, to, among } => present(&mut from.iter().chain(to), among),
            other => other.clone(),
        }
    }

    /// The tables that hold the parents by which this condition judges a row.
    #[must_use]
    pub fn parents(&self) -> Vec<&Arc<TableSchema>> {
        let mut parents = Vec::new();
        self.visit(&mut |part| match part {
            Self::ParentMissing { parent, .. } | Self::ParentMatches { parent, .. } | Self::KeyDangling { parent, .. } => {
                parents.push(parent);
            }
            _ => {}
        });
        parents
    }
}

/// The rows of one table that a step takes: those that match, less those that earlier steps of the plan take.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The table.
    pub table: Arc<TableSchema>,
    /// What must hold.
    pub matches: Condition,
    /// What must not hold: conditions of earlier steps on the same table.
    pub except: Vec<Condition>,
}

impl Selection {
    /// The same rows and those that make them go: what [`Condition::of_the_row`] leaves.
    #[must_use]
    pub fn of_the_row(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
            matches: self.matches.of_the_row(),
            except: self.except.clone(),
        }
    }
}

/// What becomes of a child row when the row that it names goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildAction {
    /// It goes as well.
    Delete,
    /// The columns that name the parent become NULL.
    SetNull,
    /// It keeps the parent from going.
    Refuse,
}

/// A key along which a deletion reaches the rows of another table, or of the same one.
#[derive(Debug, Clone)]
pub struct ChildLink {
    /// Name of the constraint, or where the catalog declares it.
    pub name: String,
    /// The table whose rows go.
    pub parent: Arc<TableSchema>,
    /// Its columns that children name.
    pub parent_columns: Vec<String>,
    /// The table that names them.
    pub child: Arc<TableSchema>,
    /// Its columns, pairwise with `parent_columns`.
    pub child_columns: Vec<String>,
    /// Those of its columns that become NULL, where that is what becomes of its rows.
    pub null_columns: Vec<String>,
    /// What becomes of its rows.
    pub action: ChildAction,
    /// Conditions of earlier steps of the plan on the child table, whose rows are gone by then.
    pub except: Vec<Condition>,
}

/// What becomes of the selected rows themselves.
#[derive(Debug, Clone)]
pub enum RowAction {
    /// They are deleted.
    Delete,
    /// They are copied to another table with the time of it, and deleted.
    Archive {
        /// The other table: the same columns and one more.
        into: TableName,
        /// The column for the time.
        stamp_column: String,
    },
    /// Columns get these values; `None` is NULL.
    Set {
        /// Columns and values.
        assignments: Vec<(String, Option<Literal>)>,
    },
}

/// What a step does to the rows that it selects and to those that hang on them.
#[derive(Debug, Clone)]
pub struct Effect {
    /// What becomes of the rows.
    pub action: RowAction,
    /// Keys along which children are reached, in the order of a walk from the selected rows.
    pub children: Vec<ChildLink>,
}

impl Effect {
    /// Nothing but the deletion of the selected rows.
    #[must_use]
    pub fn delete() -> Self {
        Self {
            action: RowAction::Delete,
            children: Vec::new(),
        }
    }

    /// Whether the deletion of the selected rows is all that happens.
    #[must_use]
    pub fn is_plain_delete(&self) -> bool {
        matches!(self.action, RowAction::Delete) && self.acting().next().is_none()
    }

    /// Whether the selected rows are gone afterwards.
    #[must_use]
    pub fn removes(&self) -> bool {
        !matches!(self.action, RowAction::Set { .. })
    }

    /// Links along which rows change.
    pub fn acting(&self) -> impl Iterator<Item = &ChildLink> {
        self.children.iter().filter(|link| link.action != ChildAction::Refuse)
    }
}
