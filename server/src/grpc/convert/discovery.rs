//! What discovery found.

use dbkeep_engine::discover::{Discovery, Hint, HintKind, Proposal};
use dbkeep_proto::v1;

use super::index;

/// The answer of a discovery.
pub(in crate::grpc) fn discovery(found: Discovery) -> v1::DiscoverOperationsResponse {
    v1::DiscoverOperationsResponse {
        proposals: found.proposals.into_iter().map(proposal).collect(),
        hints: found.hints.into_iter().map(hint).collect(),
        warnings: found.warnings,
        complete: found.complete,
        table_count: index(found.tables),
    }
}

fn proposal(proposal: Proposal) -> v1::Proposal {
    let (parent, parent_columns) = proposal
        .parent
        .map(|(table, columns)| (table.to_string(), columns))
        .unwrap_or_default();
    v1::Proposal {
        operation: proposal.operation,
        kind: proposal.kind,
        table: proposal.table.to_string(),
        columns: proposal.columns,
        parent,
        parent_columns,
        description: proposal.description,
        confidence: proposal.confidence,
        evidence: proposal.evidence,
        row_count: proposal.row_count,
        uncounted_reason: proposal.uncounted,
        toml: proposal.toml,
        note: proposal.note,
        supported: proposal.supported,
    }
}

fn hint(hint: Hint) -> v1::DiscoveryHint {
    v1::DiscoveryHint {
        kind: hint_kind(hint.kind).into(),
        table: hint.table.to_string(),
        columns: hint.columns,
        candidates: hint.candidates,
        detail: hint.detail,
    }
}

fn hint_kind(kind: HintKind) -> v1::DiscoveryHintKind {
    match kind {
        HintKind::Ambiguous => v1::DiscoveryHintKind::Ambiguous,
        HintKind::Polymorphic => v1::DiscoveryHintKind::Polymorphic,
        HintKind::FileReference => v1::DiscoveryHintKind::FileReference,
    }
}
