//! The plan: immutable, stored, and the only thing that a run executes.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{selection::ChildAction, value::Value};
use crate::rule::{Rule, Severity};

/// Id of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanId(pub Uuid);

impl fmt::Display for PlanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Weight of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingLevel {
    /// Good to know.
    Info,
    /// Likely to hurt.
    Warn,
    /// The step would be wrong or unsafe.
    Block,
}

/// Something that a reviewer should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable name in capitals.
    pub code: String,
    /// How serious it is.
    pub level: FindingLevel,
    /// Table it is about.
    pub table: String,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remediation: String,
}

/// A row that would go: column names and readable values, NULL as `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleRow(pub Vec<(String, Option<String>)>);

impl SampleRow {
    /// Longest text of a sample value, characters.
    const VALUE_CHARACTERS: usize = 200;

    /// Pairs columns with readable values.
    pub fn new<'a>(columns: impl IntoIterator<Item = &'a str>, values: &[Value]) -> Self {
        let named = columns.into_iter().zip(values);
        Self(
            named
                .map(|(name, value)| (name.to_owned(), value.preview(Self::VALUE_CHARACTERS)))
                .collect(),
        )
    }
}

/// Rows of a child table that go or change along with a step's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChild {
    /// The child table.
    pub table: String,
    /// Name of the constraint, or where the catalog declares the child.
    pub constraint: String,
    /// What becomes of its rows.
    pub action: ChildAction,
    /// Exact number of rows; one that several keys of one action reach is counted at the first.
    pub row_count: u64,
    /// Rows that this key would change and another deletes. They count there; a batch that comes before the one that deletes such
    /// a row changes it nevertheless.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub also_going: u64,
    /// Rows in the child table, where rows of it go; 0 where that was not to be known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub table_row_count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One rule of an operation with its exact count.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanStep {
    /// Operation it belongs to.
    pub operation: String,
    /// The rule, as the catalog held it when the plan was made.
    pub rule: Rule,
    /// Table with the schema that the database resolved.
    pub table: String,
    /// What it selects, in one sentence.
    pub description: String,
    /// The cut-off, fixed when the plan was made.
    pub horizon: Option<Timestamp>,
    /// Files: when they were listed, by the clock that stamps them. What changes a file later keeps it from going.
    #[serde(default)]
    pub listed_at: Option<Timestamp>,
    /// Exact number of rows that the rule selects.
    pub row_count: u64,
    /// Rows that go or change along with them.
    #[serde(default)]
    pub children: Vec<PlanChild>,
    /// Whether nobody else may write to the parents during a batch.
    #[serde(default)]
    pub strict: bool,
    /// Rows in the table.
    pub table_row_count: u64,
    /// Whether that was counted, or is the database's estimate.
    pub table_row_count_exact: bool,
    /// Whether rows are captured before they go.
    pub captured: bool,
    /// Estimated size of the captured rows before compression, bytes.
    pub capture_bytes: u64,
    /// Expected duration from earlier runs of the same rule, milliseconds.
    pub expected_ms: Option<u64>,
    /// Rows that would go.
    pub samples: Vec<SampleRow>,
    /// What a reviewer should know.
    pub findings: Vec<Finding>,
    /// The selection as SQL, for reading.
    pub selection_sql: String,
    /// Most rows that all steps of its operation may take together; `None` for no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation_max_rows: Option<u64>,
}

/// An immutable plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Its id.
    pub id: PlanId,
    /// Target it was made for.
    pub target: String,
    /// Operations in the order in which they run.
    pub operations: Vec<String>,
    /// Highest severity among them.
    pub severity: Severity,
    /// Steps in the order in which they run.
    pub steps: Vec<PlanStep>,
    /// SHA-256 over the shape of every table involved, hex.
    pub fingerprint: String,
    /// SHA-256 over the plan, hex.
    pub digest: String,
    /// When the counts were taken, by the target's clock.
    pub created_at: Timestamp,
    /// From when on the token is refused, by the server's clock.
    pub expires_at: Timestamp,
    /// Principals beside the one that starts the run who have to approve it; 0 below CRITICAL.
    #[serde(default)]
    pub approvals_required: u32,
}

impl PlanStep {
    /// Rows that go or change along with the selected ones.
    #[must_use]
    pub fn along_count(&self) -> u64 {
        self.children.iter().map(|child| child.row_count).sum()
    }

    /// All rows that the step touches.
    #[must_use]
    pub fn reach(&self) -> u64 {
        self.row_count.saturating_add(self.along_count())
    }

    /// How often at most a batch changes a row that a later one deletes, so that it is touched twice.
    #[must_use]
    pub fn touched_twice(&self) -> u64 {
        self.children.iter().map(|child| child.also_going).sum()
    }
}

impl PlanId {
    /// Of runs that execute no plan.
    pub const NONE: Self = Self(Uuid::nil());
}

impl Plan {
    /// What stands in for a plan where a run executes none.
    #[must_use]
    pub fn none(target: &str, at: Timestamp) -> Self {
        Self {
            id: PlanId::NONE,
            target: target.to_owned(),
            operations: Vec::new(),
            severity: Severity::Low,
            steps: Vec::new(),
            fingerprint: String::new(),
            digest: String::new(),
            created_at: at,
            expires_at: at,
            approvals_required: 0,
        }
    }

    /// Sum of the steps' counts, without the rows that go along.
    #[must_use]
    pub fn row_count(&self) -> u64 {
        self.steps.iter().map(|step| step.row_count).sum()
    }

    /// The first finding that forbids a run, with its step's table.
    #[must_use]
    pub fn blocking(&self) -> Option<&Finding> {
        self.steps
            .iter()
            .flat_map(|step| &step.findings)
            .find(|finding| finding.level == FindingLevel::Block)
    }

    /// SHA-256 over everything that a reviewer approves, hex.
    #[must_use]
    pub fn compute_digest(&self) -> String {
        let approved = Self {
            digest: String::new(),
            ..self.clone()
        };
        hex::encode(Sha256::digest(serde_json::to_vec(&approved).unwrap_or_default()))
    }

    /// What a caller hands back to execute exactly this plan: `plan_<id>_<digest prefix>`.
    #[must_use]
    pub fn token(&self) -> String {
        format!("plan_{}_{}", self.id.0.simple(), self.digest.get(..32).unwrap_or_default())
    }

    /// The id inside a token; `None` where the text is no token. Whether the token is right is decided by comparing it
    /// with the stored plan's.
    #[must_use]
    pub fn id_of_token(token: &str) -> Option<PlanId> {
        let (id, digest) = token.strip_prefix("plan_")?.split_once('_')?;
        (digest.len() == 32).then(|| Uuid::try_parse(id).ok().map(PlanId))?
    }
}
