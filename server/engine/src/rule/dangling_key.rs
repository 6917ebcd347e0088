//! Rule kind `dangling_key`: rows whose text names, in a form such as `user:42`, a row that does not exist. The text may lie
//! inside a JSON column. Text of another form names nothing, and neither does NULL: such rows stay.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{KindInfo, Mismatch, Schemas, column_of, schema_of};
use crate::model::{Condition, EngineKind, TableName, TypeClass};

/// The kind's entry in [`super::KINDS`].
pub const INFO: KindInfo = KindInfo {
    name: "dangling_key",
    summary: "rows whose text key names a missing row",
};

/// Settings of the kind, as the catalog writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    column: String,
    json_path: Option<Vec<String>>,
    prefix: Option<String>,
    suffix: Option<String>,
    parent: String,
    parent_column: String,
}

/// A checked rule of this kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DanglingKey {
    /// Column of the child.
    pub column: String,
    /// Names of nested objects down to the text, where the column holds JSON.
    pub json_path: Option<Vec<String>>,
    /// What comes before the key.
    pub prefix: String,
    /// What comes after it.
    pub suffix: String,
    /// The parent table.
    pub parent: TableName,
    /// Its column that holds the key.
    pub parent_column: String,
}

impl TryFrom<Settings> for DanglingKey {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let prefix = settings.prefix.unwrap_or_default();
        if prefix.is_empty() && settings.json_path.is_none() {
            return Err(
                "prefix is missing; expected what comes before the key, such as \"user:\" (where the column is the bare key, \
                        the rule is an orphan)"
                    .to_owned(),
            );
        }
        if settings
            .json_path
            .as_ref()
            .is_some_and(|path| path.is_empty() || path.iter().any(String::is_empty))
        {
            return Err("json_path is empty; expected the names of the nested objects, such as [\"user\", \"id\"]".to_owned());
        }
        Ok(Self {
            column: settings.column,
            json_path: settings.json_path,
            prefix,
            suffix: settings.suffix.unwrap_or_default(),
            parent: TableName::parse(&settings.parent),
            parent_column: settings.parent_column,
        })
    }
}

impl DanglingKey {
    pub(super) fn describe(&self, table: &TableName) -> String {
        let place = match &self.json_path {
            Some(path) => format!("{}.{}", self.column, path.join(".")),
            None => self.column.clone(),
        };
        format!(
            "rows of {table} whose {place} is {}<{}>{} of no row of {}",
            self.prefix, self.parent_column, self.suffix, self.parent
        )
    }

    pub(super) fn condition(&self, engine: EngineKind, table: &TableName, schemas: &Schemas) -> Result<Condition, Mismatch> {
        let child = schema_of(schemas, table)?;
        let parent = schema_of(schemas, &self.parent)?;
        let column = column_of(child, &self.column)?;
        let place = format!("{}.{} is {}", child.name, self.column, column.type_name);
        match (&self.json_path, engine) {
            (None, _) if column.class == TypeClass::Text => {}
            (None, EngineKind::Sqlite) if column.type_name.is_empty() => {}
            (None, _) => {
                return Err(Mismatch::new(format!(
                    "{place}; expected text, or json_path into a JSON column"
                )));
            }
            // PostgreSQL before version 16 cannot ask whether a text is JSON without failing on one that is not.
            (Some(_), EngineKind::Postgres) if !matches!(column.type_name.as_str(), "json" | "jsonb") => {
                return Err(Mismatch::new(format!("{place}; expected json or jsonb")));
            }
            (Some(_), _) => {}
        }
        let key = column_of(parent, &self.parent_column)?;
        let known = matches!(key.class, TypeClass::Text | TypeClass::Integer) || key.type_name == "uuid";
        if !known {
            return Err(Mismatch::new(format!(
                "{}.{} is {}; expected text, a whole number or a uuid",
                parent.name, key.name, key.type_name
            )));
        }
        Ok(Condition::KeyDangling {
            column: self.column.clone(),
            json_path: self.json_path.clone(),
            prefix: self.prefix.clone(),
            suffix: self.suffix.clone(),
            parent: Arc::clone(parent),
            parent_column: self.parent_column.clone(),
            unfit: Vec::new(),
        })
    }
}
