//! JSON of discoveries.
//!
//! Owns the shape of `discover`'s answer. Called by `cmd/discover.rs`.

use dbkeep_client::proto;
use serde::Serialize;

/// What was found in a target.
#[derive(Debug, Serialize)]
pub(crate) struct Discovery<'a> {
    proposals: Vec<Proposal<'a>>,
    hints: Vec<Hint<'a>>,
    warnings: &'a [String],
    /// False where the time was over before everything was looked at.
    complete: bool,
    table_count: u32,
}

#[derive(Debug, Serialize)]
struct Proposal<'a> {
    operation: &'a str,
    kind: &'a str,
    table: &'a str,
    columns: &'a [String],
    parent: Option<&'a str>,
    parent_columns: &'a [String],
    description: &'a str,
    /// 0 to 1.
    confidence: f64,
    evidence: &'a [String],
    row_count: Option<u64>,
    uncounted_reason: Option<&'a str>,
    toml: &'a str,
    note: Option<&'a str>,
    supported: bool,
}

#[derive(Debug, Serialize)]
struct Hint<'a> {
    /// "ambiguous", "polymorphic" or "file_reference".
    kind: String,
    table: &'a str,
    columns: &'a [String],
    candidates: &'a [String],
    detail: &'a str,
}

impl<'a> From<&'a proto::DiscoverOperationsResponse> for Discovery<'a> {
    fn from(found: &'a proto::DiscoverOperationsResponse) -> Self {
        let proposal = |proposal: &'a proto::Proposal| Proposal {
            operation: &proposal.operation,
            kind: &proposal.kind,
            table: &proposal.table,
            columns: &proposal.columns,
            parent: super::text(&proposal.parent),
            parent_columns: &proposal.parent_columns,
            description: &proposal.description,
            confidence: proposal.confidence,
            evidence: &proposal.evidence,
            row_count: proposal.row_count,
            uncounted_reason: super::text(&proposal.uncounted_reason),
            toml: &proposal.toml,
            note: super::text(&proposal.note),
            supported: proposal.supported,
        };
        let hint = |hint: &'a proto::DiscoveryHint| Hint {
            kind: super::hint_kind(hint.kind()),
            table: &hint.table,
            columns: &hint.columns,
            candidates: &hint.candidates,
            detail: &hint.detail,
        };
        Self {
            proposals: found.proposals.iter().map(proposal).collect(),
            hints: found.hints.iter().map(hint).collect(),
            warnings: &found.warnings,
            complete: found.complete,
            table_count: found.table_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discovery() {
        let found = proto::DiscoverOperationsResponse {
            proposals: vec![proto::Proposal {
                operation: "orphaned_a_by_b_id".into(),
                kind: "orphan".into(),
                table: "a".into(),
                columns: vec!["b_id".into()],
                confidence: 0.94,
                uncounted_reason: "it took too long".into(),
                ..Default::default()
            }],
            hints: vec![proto::DiscoveryHint {
                kind: proto::DiscoveryHintKind::FileReference.into(),
                table: "a".into(),
                ..Default::default()
            }],
            complete: true,
            table_count: 2,
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Discovery::from(&found)).unwrap(),
            concat!(
                r#"{"proposals":[{"operation":"orphaned_a_by_b_id","kind":"orphan","table":"a","columns":["b_id"],"parent":null,"#,
                r#""parent_columns":[],"description":"","confidence":0.94,"evidence":[],"row_count":null,"#,
                r#""uncounted_reason":"it took too long","toml":"","note":null,"supported":false}],"#,
                r#""hints":[{"kind":"file_reference","table":"a","columns":[],"candidates":[],"detail":""}],"#,
                r#""warnings":[],"complete":true,"table_count":2}"#
            )
        );
    }
}
