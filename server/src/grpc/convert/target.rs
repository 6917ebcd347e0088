//! Targets and their operations.

use dbkeep_engine::{
    engine::TargetEntry,
    model::{Capability, EngineKind, RunId, TargetStatus},
    rule::{Operation, Rule, Severity},
};
use dbkeep_proto::v1;

use super::{index, time};

/// A target as it is configured.
pub(in crate::grpc) fn target(name: &str, entry: &TargetEntry) -> v1::Target {
    v1::Target {
        name: name.to_owned(),
        engine: engine(entry.target.engine()).into(),
        address: entry.target.address(),
        operation_count: index(entry.catalog.operations().len()),
    }
}

/// A product.
pub(in crate::grpc) fn engine(kind: EngineKind) -> v1::Engine {
    match kind {
        EngineKind::Postgres => v1::Engine::Postgres,
        EngineKind::Sqlite => v1::Engine::Sqlite,
    }
}

/// What a connection to it found.
pub(in crate::grpc) fn status(status: TargetStatus, capabilities: &[Capability], active: &[RunId]) -> v1::TargetStatus {
    v1::TargetStatus {
        version: status.version,
        size_bytes: status.size_bytes,
        clock: status.clock.to_string(),
        capabilities: capabilities.iter().map(|known| capability(*known).into()).collect(),
        active_run_ids: active.iter().map(RunId::to_string).collect(),
    }
}

fn capability(capability: Capability) -> v1::Capability {
    match capability {
        Capability::Capture => v1::Capability::Capture,
        Capability::Undo => v1::Capability::Undo,
        Capability::ConcurrentWriters => v1::Capability::ConcurrentWriters,
        Capability::TableLocks => v1::Capability::TableLocks,
    }
}

/// An operation with its rules.
pub(in crate::grpc) fn operation(operation: &Operation) -> v1::Operation {
    v1::Operation {
        name: operation.name.clone(),
        description: operation.description.clone(),
        category: operation.category.clone(),
        severity: severity(operation.severity).into(),
        backup: operation.backup,
        expected_duration: operation.expected_seconds.map(time::seconds),
        rules: operation.rules.iter().map(rule).collect(),
    }
}

fn rule(rule: &Rule) -> v1::Rule {
    v1::Rule {
        name: rule.name.clone(),
        kind: rule.kind_name().to_owned(),
        table: rule.table.to_string(),
        description: rule.describe(),
        action: rule.action.name().to_owned(),
        origin: rule.origin.to_string(),
    }
}

/// A severity on the wire.
pub(in crate::grpc) fn severity(severity: Severity) -> v1::Severity {
    match severity {
        Severity::Low => v1::Severity::Low,
        Severity::Medium => v1::Severity::Medium,
        Severity::High => v1::Severity::High,
        Severity::Critical => v1::Severity::Critical,
    }
}

/// A severity to filter by: `Ok(None)` for all, `Err` where the number means nothing.
pub(in crate::grpc) fn severity_filter(number: i32) -> Result<Option<Severity>, prost::UnknownEnumValue> {
    Ok(match v1::Severity::try_from(number)? {
        v1::Severity::Unspecified => None,
        v1::Severity::Low => Some(Severity::Low),
        v1::Severity::Medium => Some(Severity::Medium),
        v1::Severity::High => Some(Severity::High),
        v1::Severity::Critical => Some(Severity::Critical),
    })
}
