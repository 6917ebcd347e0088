//! Children that a catalog declares where the schema does not, or whose fate it decides where the schema only refuses.

use serde::{Deserialize, Serialize};

use crate::model::{ChildAction, TableName};

/// A `[[operation.rule.child]]` entry as the catalog writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    table: String,
    columns: Vec<String>,
    parent: Option<String>,
    parent_columns: Vec<String>,
    on_delete: OnDeletion,
}

/// What becomes of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDeletion {
    /// It goes as well, captured first.
    Cascade,
    /// Its columns become NULL, captured first.
    SetNull,
}

/// A checked child of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// The table whose rows name the parent.
    pub table: TableName,
    /// Its columns.
    pub columns: Vec<String>,
    /// The table that they name; `None` for the rule's own.
    pub of: Option<TableName>,
    /// Columns of that table, pairwise with `columns`.
    pub parent_columns: Vec<String>,
    /// What becomes of its rows.
    pub action: ChildAction,
}

impl TryFrom<Settings> for Child {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        if settings.columns.is_empty() || settings.columns.len() != settings.parent_columns.len() {
            return Err(format!(
                "child {}: columns has {} entries and parent_columns {}; expected as many of one as of the other",
                settings.table,
                settings.columns.len(),
                settings.parent_columns.len()
            ));
        }
        Ok(Self {
            table: TableName::parse(&settings.table),
            columns: settings.columns,
            of: settings.parent.as_deref().map(TableName::parse),
            parent_columns: settings.parent_columns,
            action: match settings.on_delete {
                OnDeletion::Cascade => ChildAction::Delete,
                OnDeletion::SetNull => ChildAction::SetNull,
            },
        })
    }
}
