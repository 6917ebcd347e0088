//! JSON of plans.
//!
//! Owns the shape `plan`. Called by `cmd/plan.rs` and `cmd/run.rs`.

use dbkeep_client::proto;
use serde::Serialize;

/// A plan.
#[derive(Debug, Serialize)]
pub(crate) struct Plan<'a> {
    id: &'a str,
    token: &'a str,
    target: &'a str,
    operations: &'a [String],
    /// "low", "medium", "high" or "critical".
    severity: String,
    blocked: bool,
    row_count: u64,
    along_row_count: u64,
    capture_bytes: u64,
    schema_fingerprint: &'a str,
    digest: &'a str,
    create_time: Option<String>,
    expire_time: Option<String>,
    steps: Vec<PlanStep<'a>>,
    /// Null below "critical".
    confirmation_phrase: Option<&'a str>,
    approvals_required: u32,
}

#[derive(Debug, Serialize)]
struct PlanStep<'a> {
    index: u32,
    operation: &'a str,
    rule: &'a str,
    kind: &'a str,
    table: &'a str,
    /// Root whose files go, all counts being of files; empty where rows do.
    root: &'a str,
    description: &'a str,
    /// "delete", "archive", "update" or "nullify".
    action: &'a str,
    row_count: u64,
    children: Vec<Child<'a>>,
    strict: bool,
    table_row_count: u64,
    table_row_count_exact: bool,
    captured: bool,
    capture_bytes: u64,
    expected_duration_seconds: Option<f64>,
    horizon: Option<String>,
    /// Rows as lists of columns: JSON objects would not keep the table's order.
    samples: Vec<Vec<SampleValue<'a>>>,
    findings: Vec<Finding<'a>>,
    selection_sql: &'a str,
}

/// Rows of a child table that go or change along.
#[derive(Debug, Serialize)]
struct Child<'a> {
    table: &'a str,
    constraint: &'a str,
    /// "delete" or "set_null".
    action: String,
    row_count: u64,
}

impl<'a> From<&'a proto::PlanChild> for Child<'a> {
    fn from(child: &'a proto::PlanChild) -> Self {
        Self {
            table: &child.table,
            constraint: &child.constraint,
            action: super::child_action(child.action()),
            row_count: child.row_count,
        }
    }
}

#[derive(Debug, Serialize)]
struct SampleValue<'a> {
    column: &'a str,
    /// Null for NULL.
    value: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Finding<'a> {
    code: &'a str,
    /// "info", "warn" or "block".
    level: String,
    table: &'a str,
    detail: &'a str,
    remediation: &'a str,
}

impl<'a> From<&'a proto::Plan> for Plan<'a> {
    fn from(plan: &'a proto::Plan) -> Self {
        Self {
            id: &plan.id,
            token: &plan.token,
            target: &plan.target,
            operations: &plan.operations,
            severity: super::severity(plan.severity()),
            blocked: plan.blocked,
            row_count: plan.row_count,
            along_row_count: plan.along_row_count,
            capture_bytes: plan.capture_bytes,
            schema_fingerprint: &plan.schema_fingerprint,
            digest: &plan.digest,
            create_time: super::time(plan.create_time.as_ref()),
            expire_time: super::time(plan.expire_time.as_ref()),
            steps: plan.steps.iter().map(PlanStep::from).collect(),
            confirmation_phrase: super::text(&plan.confirmation_phrase),
            approvals_required: plan.approvals_required,
        }
    }
}

impl<'a> From<&'a proto::PlanStep> for PlanStep<'a> {
    fn from(step: &'a proto::PlanStep) -> Self {
        let value = |value: &'a proto::SampleValue| SampleValue {
            column: &value.column,
            value: value.value.as_deref(),
        };
        let finding = |finding: &'a proto::Finding| Finding {
            code: &finding.code,
            level: super::finding_level(finding.level()),
            table: &finding.table,
            detail: &finding.detail,
            remediation: &finding.remediation,
        };
        Self {
            index: step.index,
            operation: &step.operation,
            rule: &step.rule,
            kind: &step.kind,
            table: &step.table,
            root: &step.root,
            description: &step.description,
            action: &step.action,
            row_count: step.row_count,
            children: step.children.iter().map(Child::from).collect(),
            strict: step.strict,
            table_row_count: step.table_row_count,
            table_row_count_exact: step.table_row_count_exact,
            captured: step.captured,
            capture_bytes: step.capture_bytes,
            expected_duration_seconds: super::seconds(step.expected_duration.as_ref()),
            horizon: super::time(step.horizon.as_ref()),
            samples: step
                .samples
                .iter()
                .map(|row| row.values.iter().map(value).collect())
                .collect(),
            findings: step.findings.iter().map(finding).collect(),
            selection_sql: &step.selection_sql,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_with_a_sample_and_a_finding() {
        let plan = proto::Plan {
            id: "p1".into(),
            token: "tok".into(),
            target: "main".into(),
            operations: vec!["old_logs".into()],
            severity: proto::Severity::Medium.into(),
            row_count: 12,
            create_time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            steps: vec![proto::PlanStep {
                table: "logs".into(),
                row_count: 12,
                samples: vec![proto::SampleRow {
                    values: vec![
                        proto::SampleValue {
                            column: "id".into(),
                            value: Some("1".into()),
                        },
                        proto::SampleValue {
                            column: "note".into(),
                            value: None,
                        },
                    ],
                }],
                findings: vec![proto::Finding {
                    code: "EMPTY_PARENT".into(),
                    level: proto::FindingLevel::Block.into(),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Plan::from(&plan)).unwrap(),
            concat!(
                r#"{"id":"p1","token":"tok","target":"main","operations":["old_logs"],"severity":"medium","blocked":false,"#,
                r#""row_count":12,"along_row_count":0,"capture_bytes":0,"schema_fingerprint":"","digest":"","create_time":"1970-01-01T00:00:00Z","#,
                r#""expire_time":null,"steps":[{"index":0,"operation":"","rule":"","kind":"","table":"logs","root":"","description":"","action":"","#,
                r#""row_count":12,"children":[],"strict":false,"table_row_count":0,"table_row_count_exact":false,"captured":false,"capture_bytes":0,"#,
                r#""expected_duration_seconds":null,"horizon":null,"#,
                r#""samples":[[{"column":"id","value":"1"},{"column":"note","value":null}]],"#,
                r#""findings":[{"code":"EMPTY_PARENT","level":"block","table":"","detail":"","remediation":""}],"selection_sql":""}],"#,
                r#""confirmation_phrase":null,"approvals_required":0}"#,
            )
        );
    }
}
