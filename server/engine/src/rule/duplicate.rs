//! Rule kind `duplicate`: all rows of a key but one. A row with a NULL in its key is a duplicate of none. Of the rows of a key the
//! newest (or oldest) stays; a NULL time is the oldest; among equals the smallest primary key stays. A unique index proves
//! nothing: it may be corrupt, which is how such duplicates come about.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{KindInfo, Mismatch, Schemas, column_of, schema_of};
use crate::model::{Condition, Order, TableName};

/// The kind's entry in [`super::KINDS`].
pub const INFO: KindInfo = KindInfo {
    name: "duplicate",
    summary: "all rows of a key but one",
};

/// Which row of a key stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The one with the largest values of `by`.
    Newest,
    /// The one with the smallest values of `by`.
    Oldest,
}

/// Settings of the kind, as the catalog writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    columns: Vec<String>,
    keep: Keep,
    by: Vec<String>,
}

/// A checked rule of this kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicate {
    /// Columns of the key.
    pub columns: Vec<String>,
    /// Which row of a key stays.
    pub keep: Keep,
    /// Columns that order the rows of a key, the first decides first.
    pub by: Vec<String>,
}

impl TryFrom<Settings> for Duplicate {
    type Error = String;

    fn try_from(Settings { columns, keep, by }: Settings) -> Result<Self, String> {
        for (name, list, expected) in [
            ("columns", &columns, "the columns of the key"),
            ("by", &by, "the columns that tell which row stays"),
        ] {
            if list.is_empty() {
                return Err(format!("{name} is empty; expected {expected}"));
            }
            for (position, column) in list.iter().enumerate() {
                if list[..position].contains(column) {
                    return Err(format!("{name} names {column} twice; expected each column once"));
                }
            }
        }
        if let Some(column) = by.iter().find(|column| columns.contains(column)) {
            return Err(format!(
                "by names {column}, which is part of the key and the same in all of its rows; expected another column"
            ));
        }
        Ok(Self { columns, keep, by })
    }
}

impl Duplicate {
    pub(super) fn describe(&self, table: &TableName) -> String {
        format!(
            "rows of {table} beside the {} by {} of the same {}",
            match self.keep {
                Keep::Newest => "newest",
                Keep::Oldest => "oldest",
            },
            self.by.join(", "),
            self.columns.join(", ")
        )
    }

    pub(super) fn condition(&self, table: &TableName, schemas: &Schemas, among: Vec<Condition>) -> Result<Condition, Mismatch> {
        let schema = schema_of(schemas, table)?;
        for column in self.columns.iter().chain(&self.by) {
            column_of(schema, column)?;
        }
        let order = self.by.iter().map(|column| Order {
            column: column.clone(),
            newest_first: self.keep == Keep::Newest,
        });
        Ok(Condition::Duplicate {
            table: Arc::clone(schema),
            columns: self.columns.clone(),
            order: order.collect(),
            among,
        })
    }
}
