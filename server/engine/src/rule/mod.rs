//! Rules: which rows go, and why. One file per kind, and the list of kinds that everything else derives from.
//!
//! A kind reads its own settings from the catalog, checks them against the schema of the target, and turns them into a
//! [`Condition`]; it knows no SQL. To add one: a file here, a variant of [`RuleKind`], a line in [`KINDS`], a page in
//! `docs/rules/`; the compiler points at the rest.

pub mod expired;
pub mod orphan;

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Column, Condition, EngineKind, Finding, TableName, TableSchema};

/// What is known of a rule kind without an instance of it.
#[derive(Debug, Clone, Copy)]
pub struct KindInfo {
    /// Name in catalogs; also the name of its page in `docs/rules/`.
    pub name: &'static str,
    /// What it selects, in one line.
    pub summary: &'static str,
}

/// Every rule kind.
pub const KINDS: &[KindInfo] = &[orphan::INFO, expired::INFO];

/// How much harm an operation could do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// May run without a plan token.
    Low,
    /// Needs the token of a reviewed plan.
    Medium,
    /// Needs a token, and captures every row.
    High,
    /// Needs a token, a backup and the approval of a second person.
    Critical,
}

impl Severity {
    /// Name in catalogs and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "LOW",
            Self::Medium => "MEDIUM",
            Self::High => "HIGH",
            Self::Critical => "CRITICAL",
        }
    }
}

/// Where a catalog declares something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// File as it was named to the server.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.file, self.line)
    }
}

/// What happens to the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// They are deleted.
    #[default]
    Delete,
}

/// The settings of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// Child rows whose parent is missing.
    Orphan(orphan::Orphan),
    /// Rows older than a retention.
    Expired(expired::Expired),
}

/// One rule of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Name, unique in its operation.
    pub name: String,
    /// Table that loses rows.
    pub table: TableName,
    /// What happens to them.
    pub action: Action,
    /// Largest share of the table that may go, 0 to 1.
    pub max_fraction: f64,
    /// What it selects.
    pub kind: RuleKind,
    /// Where it is declared.
    pub origin: Origin,
}

/// A catalog entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Name, unique in the catalog.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Free grouping.
    pub category: String,
    /// What a run needs before it may delete.
    pub severity: Severity,
    /// Whether rows are captured before they go.
    pub backup: bool,
    /// How long its author expects it to take, seconds.
    pub expected_seconds: Option<u64>,
    /// Whether its runs vacuum their tables at the end, also where the caller does not ask for it.
    pub vacuum: bool,
    /// Its rules in order.
    pub rules: Vec<Rule>,
    /// Where it is declared.
    pub origin: Origin,
}

/// Why a rule does not fit the target's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What is wrong and what was expected, in one sentence.
    pub expected: String,
}

impl Mismatch {
    fn new(expected: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
        }
    }
}

/// The schemas that a rule speaks of, by the name it uses for them.
pub type Schemas = BTreeMap<TableName, Arc<TableSchema>>;

impl Rule {
    /// Largest share of a table that may go where the rule does not say.
    pub const DEFAULT_MAX_FRACTION: f64 = 0.5;

    /// Name of the kind.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            RuleKind::Orphan(_) => orphan::INFO.name,
            RuleKind::Expired(_) => expired::INFO.name,
        }
    }

    /// What the rule selects, in one sentence.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.kind {
            RuleKind::Orphan(orphan) => orphan.describe(&self.table),
            RuleKind::Expired(expired) => expired.describe(&self.table),
        }
    }

    /// Tables whose shape decides what the rule selects: its own first.
    #[must_use]
    pub fn tables(&self) -> Vec<&TableName> {
        match &self.kind {
            RuleKind::Orphan(orphan) => vec![&self.table, &orphan.parent],
            RuleKind::Expired(_) => vec![&self.table],
        }
    }

    /// The cut-off at this instant of the target's clock; `None` where the kind has none.
    ///
    /// # Errors
    /// Where the retention reaches before the first representable date.
    pub fn horizon(&self, clock: Timestamp) -> Result<Option<Timestamp>, Mismatch> {
        match &self.kind {
            RuleKind::Orphan(_) => Ok(None),
            RuleKind::Expired(expired) => expired.horizon(clock).map(Some),
        }
    }

    /// The condition that the rule stands for on this schema.
    ///
    /// # Errors
    /// Where a column is missing or of a type that the kind cannot work with.
    pub fn condition(&self, engine: EngineKind, schemas: &Schemas, horizon: Option<Timestamp>) -> Result<Condition, Mismatch> {
        match &self.kind {
            RuleKind::Orphan(orphan) => orphan.condition(&self.table, schemas),
            RuleKind::Expired(expired) => expired.condition(engine, &self.table, schemas, horizon),
        }
    }

    /// What a reviewer should know about this kind on this schema, beyond what holds for every deletion.
    #[must_use]
    pub fn findings(&self, schemas: &Schemas) -> Vec<Finding> {
        match &self.kind {
            RuleKind::Orphan(orphan) => orphan.findings(schemas),
            RuleKind::Expired(expired) => expired.findings(&self.table, schemas),
        }
    }
}

/// The schema of a table, or the sentence that says it is missing.
fn schema_of<'a>(schemas: &'a Schemas, table: &TableName) -> Result<&'a Arc<TableSchema>, Mismatch> {
    schemas
        .get(table)
        .ok_or_else(|| Mismatch::new(format!("table {table} does not exist; expected a table of the target")))
}

/// A column of a table, or the sentence that says it is missing and which there are.
fn column_of<'a>(schema: &'a TableSchema, name: &str) -> Result<&'a Column, Mismatch> {
    schema.column(name).ok_or_else(|| {
        let known = schema
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        Mismatch::new(format!("table {} has no column {name}; expected one of {known}", schema.name))
    })
}
