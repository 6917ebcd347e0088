//! Rule kind `orphan`: child rows whose parent does not exist, or is one that does not count. A NULL in any of the columns
//! means "no parent meant", so that such a row is never an orphan.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ColumnTest, KindInfo, Mismatch, Schemas, Values, check_pairs, column_tests, expired::Expired, schema_of};
use crate::model::{Condition, EngineKind, Finding, FindingLevel, ForeignKey, Literal, TableName, TimeEncoding};

/// The kind's entry in [`super::KINDS`].
pub const INFO: KindInfo = KindInfo {
    name: "orphan",
    summary: "child rows whose parent is missing, or is one that does not count",
};

/// Settings of the kind, as the catalog writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    columns: Vec<String>,
    parent: String,
    parent_columns: Vec<String>,
    parent_where: Option<BTreeMap<String, Values>>,
    type_column: Option<String>,
    type_value: Option<Literal>,
    grace: Option<Grace>,
}

/// How long a row must have been untouched before it can be an orphan: a child is often written before its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grace {
    /// Column that says when the row was made or last touched.
    pub column: String,
    /// ISO 8601 duration.
    pub age: String,
    /// Zone of a zone-less column (IANA name).
    pub zone: Option<String>,
    /// How a column that is no timestamp holds the instant.
    pub encoding: Option<TimeEncoding>,
}

impl Grace {
    /// The grace is the rule `expired` on the same row.
    fn expired(&self) -> Result<Expired, String> {
        Expired::older_than(&self.column, &self.age, self.zone.as_deref(), self.encoding)
            .map_err(|problem| format!("grace: {problem}"))
    }
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
    /// A parent that passes all of these tests does not count as one; empty where every parent counts.
    #[serde(default)]
    pub parent_tests: Vec<ColumnTest>,
    /// Column and value that tell which rows name this parent and not another table's row.
    #[serde(default)]
    pub of_type: Option<(String, Literal)>,
    /// How long a row must have been untouched.
    #[serde(default)]
    pub grace: Option<Grace>,
}

impl TryFrom<Settings> for Orphan {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let Settings {
            columns,
            parent,
            parent_columns,
            parent_where,
            type_column,
            type_value,
            grace,
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
        let of_type = match (type_column, type_value) {
            (Some(column), Some(value)) => Some((column, value)),
            (None, None) => None,
            _ => return Err("type_column and type_value belong together; expected both or neither".to_owned()),
        };
        if let Some(grace) = &grace {
            grace.expired()?;
        }
        Ok(Self {
            columns,
            parent: TableName::parse(&parent),
            parent_columns,
            parent_tests: column_tests("parent_where", parent_where.unwrap_or_default())?,
            of_type,
            grace,
        })
    }
}

impl Orphan {
    pub(super) fn describe(&self, table: &TableName) -> String {
        let counting = self.parent_tests.iter().map(|test| {
            let values: Vec<String> = test.values.iter().map(super::readable).collect();
            let values = if values.is_empty() {
                "NULL".to_owned()
            } else {
                values.join(" or ")
            };
            format!("{} {values}", test.column)
        });
        let counting: Vec<String> = counting.collect();
        let mut text = format!(
            "rows of {table} whose {} names no row of {} ({})",
            self.columns.join(", "),
            self.parent,
            self.parent_columns.join(", ")
        );
        if !counting.is_empty() {
            text.push_str(&format!(", or one with {}", counting.join(" and ")));
        }
        if let Some((column, value)) = &self.of_type {
            text.push_str(&format!(", where {column} is {}", super::readable(value)));
        }
        if let Some(grace) = &self.grace {
            text.push_str(&format!(", untouched for {} by {}", grace.age, grace.column));
        }
        text
    }

    pub(super) fn horizon(&self, clock: Timestamp) -> Result<Option<Timestamp>, Mismatch> {
        match &self.grace {
            Some(grace) => grace.expired().map_err(Mismatch::new)?.horizon(clock).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn condition(
        &self,
        engine: EngineKind,
        table: &TableName,
        schemas: &Schemas,
        horizon: Option<Timestamp>,
    ) -> Result<Condition, Mismatch> {
        let child = schema_of(schemas, table)?;
        let parent = schema_of(schemas, &self.parent)?;
        check_pairs(child, &self.columns, parent, &self.parent_columns)?;
        let tests = ColumnTest::all(&self.parent_tests, parent)?;
        let missing = Condition::ParentMissing {
            columns: self.columns.clone(),
            parent: Arc::clone(parent),
            parent_columns: self.parent_columns.clone(),
            unfit: if tests.is_empty() {
                Vec::new()
            } else {
                vec![Condition::All(tests)]
            },
        };
        let mut parts = vec![missing];
        if let Some((column, value)) = &self.of_type {
            let test = ColumnTest {
                column: column.clone(),
                values: vec![value.clone()],
            };
            parts.extend(ColumnTest::all(&[test], child)?);
        }
        if let Some(grace) = &self.grace {
            let expired = grace.expired().map_err(Mismatch::new)?;
            parts.push(expired.condition(engine, table, schemas, horizon)?);
        }
        Ok(if parts.len() == 1 {
            parts.remove(0)
        } else {
            Condition::All(parts)
        })
    }

    /// The key of the schema that says the same as the rule.
    pub(crate) fn declared<'a>(&self, child: &TableName, schemas: &'a Schemas) -> Option<&'a ForeignKey> {
        let parent = schema_of(schemas, &self.parent).ok()?;
        parent
            .incoming
            .iter()
            .find(|key| key.child == *child && key.child_columns == self.columns && key.parent_columns == self.parent_columns)
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
