//! Plans.

use dbkeep_engine::model::{ChildAction, Finding, FindingLevel, Plan, PlanChild, PlanStep, SampleRow};
use dbkeep_proto::v1;

use super::{index, target::severity, time};

/// A plan with its token.
pub(in crate::grpc) fn plan(plan: Plan) -> v1::Plan {
    v1::Plan {
        id: plan.id.to_string(),
        token: plan.token(),
        severity: severity(plan.severity).into(),
        row_count: plan.row_count(),
        along_row_count: plan.steps.iter().map(PlanStep::along_count).sum(),
        capture_bytes: plan.steps.iter().map(|step| step.capture_bytes).sum(),
        blocked: plan.blocking().is_some(),
        confirmation_phrase: plan.confirmation_phrase(),
        approvals_required: plan.approvals_required,
        create_time: Some(time::timestamp(plan.created_at)),
        expire_time: Some(time::timestamp(plan.expires_at)),
        target: plan.target,
        operations: plan.operations,
        schema_fingerprint: plan.fingerprint,
        digest: plan.digest,
        steps: plan
            .steps
            .into_iter()
            .enumerate()
            .map(|(position, planned)| step(index(position), planned))
            .collect(),
    }
}

fn step(index: u32, step: PlanStep) -> v1::PlanStep {
    v1::PlanStep {
        index,
        kind: step.rule.kind_name().to_owned(),
        root: step.rule.root().unwrap_or_default().to_owned(),
        operation: step.operation,
        rule: step.rule.name,
        table: step.table,
        description: step.description,
        row_count: step.row_count,
        table_row_count: step.table_row_count,
        table_row_count_exact: step.table_row_count_exact,
        captured: step.captured,
        capture_bytes: step.capture_bytes,
        expected_duration: step.expected_ms.map(time::milliseconds),
        horizon: step.horizon.map(time::timestamp),
        samples: step.samples.into_iter().map(sample).collect(),
        findings: step.findings.into_iter().map(finding).collect(),
        selection_sql: step.selection_sql,
        action: step.rule.action.name().to_owned(),
        along_row_count: step.children.iter().map(|child| child.row_count).sum(),
        children: step.children.into_iter().map(child).collect(),
        strict: step.strict,
    }
}

fn child(child: PlanChild) -> v1::PlanChild {
    v1::PlanChild {
        table: child.table,
        constraint: child.constraint,
        action: match child.action {
            ChildAction::Delete => v1::ChildAction::Delete,
            ChildAction::SetNull => v1::ChildAction::SetNull,
            ChildAction::Refuse => v1::ChildAction::Unspecified,
        }
        .into(),
        row_count: child.row_count,
    }
}

fn sample(row: SampleRow) -> v1::SampleRow {
    v1::SampleRow {
        values: row
            .0
            .into_iter()
            .map(|(column, value)| v1::SampleValue { column, value })
            .collect(),
    }
}

fn finding(finding: Finding) -> v1::Finding {
    v1::Finding {
        code: finding.code,
        level: level(finding.level).into(),
        table: finding.table,
        detail: finding.detail,
        remediation: finding.remediation,
    }
}

fn level(level: FindingLevel) -> v1::FindingLevel {
    match level {
        FindingLevel::Info => v1::FindingLevel::Info,
        FindingLevel::Warn => v1::FindingLevel::Warn,
        FindingLevel::Block => v1::FindingLevel::Block,
    }
}
