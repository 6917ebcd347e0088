//! Rules: which rows go, and why. One file per kind, and the list of kinds that everything else derives from.
//!
//! A kind reads its own settings from the catalog, checks them against the schema of the target, and turns them into a
//! [`Condition`]; it knows no SQL. To add one: a file here, a variant of [`RuleKind`], a line in [`KINDS`], a page in
//! `docs/rules/`; the compiler points at the rest.

pub mod children;
pub(crate) mod conflict;
pub mod cycle;
pub mod dangling_key;
pub(crate) mod deeds;
pub mod duplicate;
pub mod expired;
pub mod filter;
pub mod orphan;
pub mod orphan_files;
pub mod temp_files;

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{Column, Condition, EngineKind, Finding, Generated, Literal, TableName, TableSchema, TypeClass};

/// What is known of a rule kind without an instance of it.
#[derive(Debug, Clone, Copy)]
pub struct KindInfo {
    /// Name in catalogs; also the name of its page in `docs/rules/`.
    pub name: &'static str,
    /// What it selects, in one line.
    pub summary: &'static str,
}

/// Every rule kind.
pub const KINDS: &[KindInfo] = &[
    orphan::INFO,
    expired::INFO,
    dangling_key::INFO,
    filter::INFO,
    duplicate::INFO,
    cycle::INFO,
    temp_files::INFO,
    orphan_files::INFO,
];

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
    /// Needs a token, a backup, the plan's confirmation phrase, and the approval of another principal.
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
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// They are deleted.
    #[default]
    Delete,
    /// They are copied to another table, with the time of it, and deleted.
    Archive {
        /// The other table; it is made where it is missing.
        into: TableName,
        /// Its column for the time.
        stamp_column: String,
    },
    /// Columns get new values.
    Update {
        /// Columns and values.
        set: Vec<(String, Literal)>,
    },
    /// Columns become NULL.
    Nullify {
        /// The columns.
        columns: Vec<String>,
    },
}

impl Action {
    /// Names in catalogs.
    pub const NAMES: [&'static str; 4] = ["delete", "archive", "update", "nullify"];

    /// Name in catalogs and messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Archive { .. } => "archive",
            Self::Update { .. } => "update",
            Self::Nullify { .. } => "nullify",
        }
    }

    /// Columns that it writes, with their new values; none where the rows go.
    #[must_use]
    pub fn assignments(&self) -> Vec<(String, Option<Literal>)> {
        match self {
            Self::Delete | Self::Archive { .. } => Vec::new(),
            Self::Update { set } => set
                .iter()
                .map(|(column, value)| (column.clone(), Some(value.clone())))
                .collect(),
            Self::Nullify { columns } => columns.iter().map(|column| (column.clone(), None)).collect(),
        }
    }

    /// Whether it would change a row: a row that holds the new values already is none of its business.
    fn changes(&self) -> Option<Condition> {
        let differs = |(column, value): (String, Option<Literal>)| match value {
            None => Condition::Not(Box::new(Condition::IsNull { column })),
            Some(value) => Condition::Not(Box::new(Condition::OneOf {
                column,
                values: vec![value],
            })),
        };
        let assignments = self.assignments();
        (!assignments.is_empty()).then(|| Condition::Any(assignments.into_iter().map(differs).collect()))
    }
}

/// A test on a column: one of these values, or NULL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnTest {
    /// The column.
    pub column: String,
    /// The values; empty means NULL.
    pub values: Vec<Literal>,
}

/// The values of a test as a catalog writes them: one, several, or `{ null = true }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Values {
    /// One value.
    One(Literal),
    /// Any of several.
    Several(Vec<Literal>),
    /// NULL.
    Null {
        /// Always true.
        null: bool,
    },
}

/// Tests from a table such as `{ status = ["SUSPENDED", "DELETED"] }`.
///
/// # Errors
/// Where a list is empty or `null` is false.
pub(crate) fn column_tests(key: &str, tests: BTreeMap<String, Values>) -> Result<Vec<ColumnTest>, String> {
    let test = |(column, values): (String, Values)| {
        let values = match values {
            Values::One(value) => vec![value],
            Values::Several(values) if !values.is_empty() => values,
            Values::Null { null: true } => Vec::new(),
            Values::Several(_) | Values::Null { .. } => {
                return Err(format!(
                    "{key}.{column} tests for nothing; expected a value, a list of values, or {{ null = true }}"
                ));
            }
        };
        Ok(ColumnTest { column, values })
    };
    tests.into_iter().map(test).collect()
}

impl ColumnTest {
    fn condition(&self) -> Condition {
        let column = self.column.clone();
        if self.values.is_empty() {
            Condition::IsNull { column }
        } else {
            Condition::OneOf {
                column,
                values: self.values.clone(),
            }
        }
    }

    /// All of these tests on one row, checked against its table.
    fn all(tests: &[Self], schema: &TableSchema) -> Result<Vec<Condition>, Mismatch> {
        for test in tests {
            let column = column_of(schema, &test.column)?;
            for value in &test.values {
                // Only the plainly impossible is refused here; the database judges the rest when it plans the statement.
                let fits = match value {
                    Literal::Integer(_) => matches!(column.class, TypeClass::Integer | TypeClass::Real | TypeClass::Other),
                    Literal::Boolean(_) => matches!(column.class, TypeClass::Other | TypeClass::Integer | TypeClass::Real),
                    Literal::Text(_) => !matches!(column.class, TypeClass::Integer | TypeClass::Real),
                };
                if !fits {
                    return Err(Mismatch::new(format!(
                        "{}.{} is {}; expected values of that type, found {value:?}",
                        schema.name, column.name, column.type_name
                    )));
                }
                let is_time = matches!(column.class, TypeClass::Instant | TypeClass::CivilTime | TypeClass::Date);
                if let Literal::Text(text) = value
                    && is_time
                    && let Some(word) = filter::present_in(text)
                {
                    return Err(Mismatch::new(format!(
                        "{}.{} is tested for {text:?}, and {word} changes between plan and run; expected kind \"expired\" for ages",
                        schema.name, column.name
                    )));
                }
            }
        }
        Ok(tests.iter().map(Self::condition).collect())
    }
}

/// The settings of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// Child rows whose parent is missing.
    Orphan(orphan::Orphan),
    /// Rows older than a retention.
    Expired(expired::Expired),
    /// All rows of a key but one.
    Duplicate(duplicate::Duplicate),
    /// Edges that close a cycle.
    Cycle(cycle::Cycle),
    /// Rows whose text key names a missing row.
    DanglingKey(dangling_key::DanglingKey),
    /// Rows that meet a condition in SQL.
    Filter(filter::Filter),
    /// Files older than an age.
    TempFiles(temp_files::TempFiles),
    /// Files that no column references.
    OrphanFiles(orphan_files::OrphanFiles),
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
    /// What must hold of a row besides.
    #[serde(default)]
    pub tests: Vec<ColumnTest>,
    /// Children that the catalog declares.
    #[serde(default)]
    pub children: Vec<children::Child>,
    /// Whether nobody may write to the parents during a batch; where it is not said, the severity decides.
    #[serde(default)]
    pub strict: Option<bool>,
    /// Largest share of the table, and of each table whose rows go along, that may go, 0 to 1.
    pub max_fraction: f64,
    /// Most rows that may go in one run; `None` for no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
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
    /// Most rows that its rules may take together in one run; `None` for no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
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
    pub(crate) fn new(expected: impl Into<String>) -> Self {
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

    /// Name of the root whose files go; `None` where rows do.
    #[must_use]
    pub fn root(&self) -> Option<&str> {
        match &self.kind {
            RuleKind::TempFiles(files) => Some(&files.root),
            RuleKind::OrphanFiles(files) => Some(&files.root),
            RuleKind::Orphan(_)
            | RuleKind::Expired(_)
            | RuleKind::Duplicate(_)
            | RuleKind::Cycle(_)
            | RuleKind::DanglingKey(_)
            | RuleKind::Filter(_) => None,
        }
    }

    /// What stands for a root where a table is named.
    #[must_use]
    pub fn table_of_root(root: &str) -> TableName {
        TableName {
            schema: None,
            name: format!("files:{root}"),
        }
    }

    /// Name of the kind.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            RuleKind::Orphan(_) => orphan::INFO.name,
            RuleKind::Expired(_) => expired::INFO.name,
            RuleKind::Duplicate(_) => duplicate::INFO.name,
            RuleKind::Cycle(_) => cycle::INFO.name,
            RuleKind::DanglingKey(_) => dangling_key::INFO.name,
            RuleKind::Filter(_) => filter::INFO.name,
            RuleKind::TempFiles(_) => temp_files::INFO.name,
            RuleKind::OrphanFiles(_) => orphan_files::INFO.name,
        }
    }

    /// What the rule selects, in one sentence.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = match &self.kind {
            RuleKind::Orphan(orphan) => orphan.describe(&self.table),
            RuleKind::Expired(expired) => expired.describe(&self.table),
            RuleKind::Duplicate(duplicate) => duplicate.describe(&self.table),
            RuleKind::Cycle(cycle) => cycle.describe(&self.table),
            RuleKind::DanglingKey(dangling) => dangling.describe(&self.table),
            RuleKind::Filter(filter) => filter.describe(&self.table),
            RuleKind::TempFiles(files) => files.describe(),
            RuleKind::OrphanFiles(files) => files.describe(),
        };
        for test in &self.tests {
            let values: Vec<String> = test.values.iter().map(readable).collect();
            let values = if values.is_empty() {
                "NULL".to_owned()
            } else {
                values.join(" or ")
            };
            text.push_str(&format!(" and whose {} is {values}", test.column));
        }
        match &self.action {
            Action::Delete => {}
            Action::Archive { into, .. } => text.push_str(&format!("; they are archived to {into}")),
            Action::Update { set } => {
                let set: Vec<String> = set
                    .iter()
                    .map(|(column, value)| format!("{column} = {}", readable(value)))
                    .collect();
                text.push_str(&format!("; they stay, with {}", set.join(", ")));
            }
            Action::Nullify { columns } => text.push_str(&format!("; they stay, with {} NULL", columns.join(", "))),
        }
        text
    }

    /// Tables whose shape decides what the rule selects and does: its own first. The archive table is not among them.
    #[must_use]
    pub fn tables(&self) -> Vec<&TableName> {
        let mut tables = if self.root().is_some() {
            Vec::new()
        } else {
            vec![&self.table]
        };
        match &self.kind {
            RuleKind::TempFiles(_) => {}
            RuleKind::OrphanFiles(files) => tables.extend(files.references.iter().map(|reference| &reference.table)),
            RuleKind::Orphan(orphan) => tables.push(&orphan.parent),
            RuleKind::DanglingKey(dangling) => tables.push(&dangling.parent),
            RuleKind::Expired(_) | RuleKind::Filter(_) | RuleKind::Duplicate(_) | RuleKind::Cycle(_) => {}
        }
        for child in &self.children {
            tables.push(&child.table);
            tables.extend(&child.of);
        }
        tables
    }

    /// The cut-off at this instant of the target's clock; `None` where the kind has none.
    ///
    /// # Errors
    /// Where the retention reaches before the first representable date.
    pub fn horizon(&self, clock: Timestamp) -> Result<Option<Timestamp>, Mismatch> {
        match &self.kind {
            RuleKind::Orphan(orphan) => orphan.horizon(clock),
            RuleKind::Expired(expired) => expired.horizon(clock).map(Some),
            RuleKind::TempFiles(files) => files.horizon(clock).map(Some),
            RuleKind::OrphanFiles(files) => files.horizon(clock).map(Some),
            RuleKind::DanglingKey(_) | RuleKind::Filter(_) | RuleKind::Duplicate(_) | RuleKind::Cycle(_) => Ok(None),
        }
    }

    /// Whether it takes no row before somebody has decided what it should take: its retention reaches back before 1970, like that of
    /// what discovery proposes, or its condition is true of no row.
    #[must_use]
    pub fn is_placeholder(&self, now: Timestamp) -> bool {
        match &self.kind {
            RuleKind::Expired(expired) => !expired.horizon(now).is_ok_and(|horizon| horizon >= Timestamp::UNIX_EPOCH),
            RuleKind::Filter(filter) => filter.is_placeholder(),
            RuleKind::Orphan(_)
            | RuleKind::Duplicate(_)
            | RuleKind::Cycle(_)
            | RuleKind::DanglingKey(_)
            | RuleKind::TempFiles(_)
            | RuleKind::OrphanFiles(_) => false,
        }
    }

    /// The condition that the rule stands for on this schema.
    ///
    /// # Errors
    /// Where a column is missing or of a type that the kind cannot work with.
    pub fn condition(&self, engine: EngineKind, schemas: &Schemas, horizon: Option<Timestamp>) -> Result<Condition, Mismatch> {
        let schema = schema_of(schemas, &self.table)?;
        self.check_assignments(schema)?;
        let mut tests = ColumnTest::all(&self.tests, schema)?;
        tests.extend(self.action.changes());
        let condition = match &self.kind {
            RuleKind::Orphan(orphan) => orphan.condition(engine, &self.table, schemas, horizon)?,
            RuleKind::Expired(expired) => expired.condition(engine, &self.table, schemas, horizon)?,
            // A row that fails a test neither goes nor keeps others from staying.
            RuleKind::Duplicate(duplicate) => return duplicate.condition(&self.table, schemas, tests),
            RuleKind::Cycle(cycle) => return cycle.condition(&self.table, schemas, tests),
            RuleKind::DanglingKey(dangling) => dangling.condition(engine, &self.table, schemas)?,
            RuleKind::Filter(filter) => filter.condition(engine, &self.table, schemas)?,
            // It selects files, hence no row of any table.
            RuleKind::TempFiles(_) | RuleKind::OrphanFiles(_) => return Ok(Condition::Any(Vec::new())),
        };
        let mut parts = vec![condition];
        parts.extend(tests);
        if parts.len() == 1 {
            Ok(parts.remove(0))
        } else {
            Ok(Condition::All(parts))
        }
    }

    /// Whether the action's columns can be written.
    fn check_assignments(&self, schema: &TableSchema) -> Result<(), Mismatch> {
        for (name, value) in self.action.assignments() {
            let column = column_of(schema, &name)?;
            let place = format!("{}.{name}", schema.name);
            if column.generated == Generated::Yes {
                return Err(Mismatch::new(format!(
                    "{place} is computed by the database; expected a column that can be written"
                )));
            }
            if schema.primary_key.contains(&name) {
                return Err(Mismatch::new(format!(
                    "{place} is of the primary key; expected a column that can change"
                )));
            }
            if value.is_none() && !column.nullable {
                return Err(Mismatch::new(format!(
                    "{place} is NOT NULL; expected a column that may be NULL"
                )));
            }
        }
        Ok(())
    }

    /// What a reviewer should know about this kind on this schema, beyond what holds for every deletion.
    #[must_use]
    pub fn findings(&self, schemas: &Schemas) -> Vec<Finding> {
        match &self.kind {
            RuleKind::Orphan(orphan) => orphan.findings(schemas),
            RuleKind::Expired(expired) => expired.findings(&self.table, schemas),
            RuleKind::OrphanFiles(files) => files.findings(schemas),
            RuleKind::DanglingKey(_)
            | RuleKind::Filter(_)
            | RuleKind::Duplicate(_)
            | RuleKind::Cycle(_)
            | RuleKind::TempFiles(_) => Vec::new(),
        }
    }
}

fn readable(value: &Literal) -> String {
    match value {
        Literal::Boolean(value) => value.to_string(),
        Literal::Integer(value) => value.to_string(),
        Literal::Text(value) => value.clone(),
    }
}

/// Columns of a child and of its parent whose values must be comparable, pair by pair.
pub(crate) fn check_pairs(
    child: &TableSchema,
    columns: &[String],
    parent: &TableSchema,
    parent_columns: &[String],
) -> Result<(), Mismatch> {
    for (name, parent_name) in columns.iter().zip(parent_columns) {
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
    Ok(())
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
