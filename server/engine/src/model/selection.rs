//! Which rows a step takes, in a form that knows no SQL dialect. The plan's counts, the live run's scan and the recheck in
//! every batch are rendered from the same value: that is what makes the dry run tell the truth.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::schema::TableSchema;

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

/// A condition on the rows of a table. None of them is ever true of a row whose deciding column is NULL.
#[derive(Debug, Clone)]
pub enum Condition {
    /// The named columns are all non-NULL, and no row of the parent has these values.
    ParentMissing {
        /// Columns of the child.
        columns: Vec<String>,
        /// The parent table.
        parent: Arc<TableSchema>,
        /// Columns of the parent, pairwise with `columns`.
        parent_columns: Vec<String>,
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
        /// Columns of the key.
        columns: Vec<String>,
        /// Which row of a key comes first; what this leaves open, the primary key decides.
        order: Vec<Order>,
        /// Rows that earlier steps take do not count: conditions that must not hold of either row.
        among: Vec<Self>,
    },
    /// The row is an edge of a directed graph, and among those that go so that no cycle is left
    /// ([`crate::rule::cycle::feedback`]). Cannot be asked of a row by itself, so that no later step may hang on it.
    Cycle {
        /// Columns that name the node which the edge leaves.
        from: Vec<String>,
        /// Columns that name the node which it enters, pairwise with `from`.
        to: Vec<String>,
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
    /// Whether a row goes because of other rows of its table that stay, so that it must be listed together with them.
    #[must_use]
    pub fn is_about_sets(&self) -> bool {
        matches!(self, Self::Duplicate { .. } | Self::Cycle { .. })
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
