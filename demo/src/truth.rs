//! What the generator knows about the rows it wrote: which of them each rule of the catalog must find.
//!
//! Counted while the rows are written, never by a query, so that a mistake in SQL cannot hide in both places.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Everything known about one generated platform database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroundTruth {
    /// The seed that brings the same rows back, together with `now` and the size.
    pub seed: u64,
    /// The instant that "expired" was reckoned from.
    pub now: Timestamp,
    /// `postgres` or `sqlite`.
    pub database: String,
    /// Whether the schema has the additional foreign keys.
    pub declared_keys: bool,
    /// Rows in all tables together.
    pub total_rows: u64,
    /// Rows per table.
    pub tables: BTreeMap<String, u64>,
    /// The operations of the catalog, in its order. Each is counted on the database as it was generated, as if no other
    /// operation had run before.
    pub operations: Vec<OperationTruth>,
}

/// What one operation must find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationTruth {
    /// The operation's name in the catalog.
    pub name: String,
    /// Its rules, in the catalog's order.
    pub rules: Vec<RuleTruth>,
}

/// What one rule must find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleTruth {
    /// The rule's name in the catalog.
    pub name: String,
    /// The table whose rows go; `files:` and a root where files do.
    pub table: String,
    /// Rows of that table that go by this rule, without those that an earlier rule of the same operation takes.
    pub rows: u64,
    /// Rows of other tables that go along, because the catalog or a declared CASCADE says so, without those that an earlier rule of the
    /// same operation takes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cascaded: BTreeMap<String, u64>,
    /// Rows of other tables whose key becomes NULL by a declared SET NULL. Empty unless the schema declares such a key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nullified: BTreeMap<String, u64>,
    /// As `cascaded`, but where all operations that delete rows of those tables have run before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cascaded_last: BTreeMap<String, u64>,
    /// As `nullified`, but where all operations that delete rows of those tables have run before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nullified_last: BTreeMap<String, u64>,
}

/// What [`single_table`](crate::single_table) wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SingleTableTruth {
    /// The seed that brings the same rows back, together with `now` and the size.
    pub seed: u64,
    /// The instant that "expired" was reckoned from.
    pub now: Timestamp,
    /// Rows of `users`.
    pub users: u64,
    /// Rows of `user_progress`.
    pub user_progress: u64,
    /// Rows of `user_progress` whose user is gone.
    pub orphans: u64,
    /// Rows of `api_logs`.
    pub api_logs: u64,
    /// Rows of `api_logs` that are older than a year.
    pub expired: u64,
}

impl GroundTruth {
    /// The truth about one rule, by the names in the catalog.
    #[must_use]
    pub fn rule(&self, operation: &str, rule: &str) -> Option<&RuleTruth> {
        self.operation(operation)?
            .rules
            .iter()
            .find(|candidate| candidate.name == rule)
    }

    /// The truth about one operation, by its name in the catalog.
    #[must_use]
    pub fn operation(&self, operation: &str) -> Option<&OperationTruth> {
        self.operations.iter().find(|candidate| candidate.name == operation)
    }
}

impl OperationTruth {
    /// Rows that the rules take by themselves, without what goes along.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rules.iter().map(|rule| rule.rows).sum()
    }
}
