//! Rule kind `orphan`: child rows whose parent does not exist. A NULL in any of the columns means "no parent meant", so that
//! such a row is never an orphan.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{KindInfo, Mismatch, Schemas, column_of, schema_of};
use crate::model::{Condition, Finding, FindingLevel, TableName, TypeClass};

/// The kind's entry in [`super::KINDS`].
pub const INFO: KindInfo = KindInfo {
    name: "orphan",
    summary: "child rows whose parent is missing",
};

/// Settings of the kind, as the catalog writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    columns: Vec<String>,
    parent: String,
    parent_columns: Vec<String>,
}

/// A checked rule of this kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Columns of the child that name the parent.
    pub columns: Vec<String>,
    /// The parent table.
    pub parent: TableName,
    /// Columns of the parent, pairwise with `columns`.
    pub parent_columns: Vec<String>,
}

impl TryFrom<Settings> for Orphan {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let Settings {
            columns,
            parent,
            parent_columns,
        } = settings;
        if columns.is_empty() {
            return Err("columns is empty; expected the columns that name the parent".to_owned());
        }
        if columns.len() != parent_columns.len() {
            return Err(format!(
                "columns has {} entries and parent_columns {}; expected as many of one as of the other",
                columns.len(),
                parent_columns.len()
            ));
        }
        for (position, column) in columns.iter().enumerate() {
            if columns[..position].contains(column) {
                return Err(format!("columns names {column} twice; expected each column once"));
            }
        }
        Ok(Self {
            columns,
            parent: TableName::parse(&parent),
            parent_columns,
        })
    }
}

impl Orphan {
    pub(super) fn describe(&self, table: &TableName) -> String {
        format!(
            "rows of {table} whose {} names no row of {} ({})",
            self.columns.join(", "),
            self.parent,
            self.parent_columns.join(", ")
        )
    }

    pub(super) fn condition(&self, table: &TableName, schemas: &Schemas) -> Result<Condition, Mismatch> {
        let child = schema_of(schemas, table)?;
        let parent = schema_of(schemas, &self.parent)?;
        for (name, parent_name) in self.columns.iter().zip(&self.parent_columns) {
            let column = column_of(child, name)?;
            let parent_column = column_of(parent, parent_name)?;
            // A comparison across classes either fails in the database or, worse, is false for every row, which would make
            // every child an orphan.
            let comparable = column.class == parent_column.class
                || matches!(
                    (column.class, parent_column.class),
                    (TypeClass::Integer, TypeClass::Real) | (TypeClass::Real, TypeClass::Integer)
                );
            if !comparable || (column.class == TypeClass::Other && column.type_name != parent_column.type_name) {
                return Err(Mismatch::new(format!(
                    "{}.{name} is {} and {}.{parent_name} is {}; expected types that can be equal",
                    child.name, column.type_name, parent.name, parent_column.type_name
                )));
            }
        }
        Ok(Condition::ParentMissing {
            columns: self.columns.clone(),
            parent: Arc::clone(parent),
            parent_columns: self.parent_columns.clone(),
        })
    }

    pub(super) fn findings(&self, schemas: &Schemas) -> Vec<Finding> {
        let Ok(parent) = schema_of(schemas, &self.parent) else {
            return Vec::new();
        };
        let mut findings = Vec::new();
        if !parent.indexed(&self.parent_columns) {
            findings.push(Finding {
                code: "PARENT_KEY_UNINDEXED".to_owned(),
                level: FindingLevel::Warn,
                table: parent.name.to_string(),
                detail: format!(
                    "no index of {} begins with {}, so that every batch reads the whole table",
                    parent.name,
                    self.parent_columns.join(", ")
                ),
                remediation: format!("create an index on {} ({})", parent.name, self.parent_columns.join(", ")),
            });
        }
        if parent.row_security {
            findings.push(Finding {
                code: "PARENT_ROW_SECURITY".to_owned(),
                level: FindingLevel::Info,
                table: parent.name.to_string(),
                detail: format!(
                    "{} has row-level security; dbkeep reads with row_security = off and fails rather than miss parents",
                    parent.name
                ),
                remediation: "let dbkeep's user own the table or bypass row-level security".to_owned(),
            });
        }
        findings
    }
}
