//! Targets and their operations.

use dbkeep_engine::{
    EngineError,
    engine::{Rights, TargetEntry},
    model::{
        Capability, EngineKind, FindingLevel, RunId, TargetStatus,
        privilege::{Excess, Feature, Grant},
    },
    port::TargetErrorClass,
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
pub(in crate::grpc) fn status(
    status: TargetStatus,
    capabilities: &[Capability],
    active: &[RunId],
    rights: Result<Rights, EngineError>,
) -> v1::TargetStatus {
    v1::TargetStatus {
        version: status.version,
        size_bytes: status.size_bytes,
        clock: status.clock.to_string(),
        capabilities: capabilities.iter().map(|known| capability(*known).into()).collect(),
        active_run_ids: active.iter().map(RunId::to_string).collect(),
        role: role(rights),
    }
}

/// The rights of the target's own role; that they could not be looked at keeps nobody from the rest.
fn role(rights: Result<Rights, EngineError>) -> Option<v1::TargetRole> {
    match rights {
        Ok(rights) => Some(v1::TargetRole {
            missing: rights.access.missing(&rights.features).map(grant).collect(),
            excess: rights.access.excess.iter().map(excess).collect(),
            name: rights.access.role,
            problem: String::new(),
        }),
        Err(EngineError::Target { source, .. }) if source.class == TargetErrorClass::Unsupported => None,
        Err(error) => Some(v1::TargetRole {
            problem: error.to_string(),
            ..v1::TargetRole::default()
        }),
    }
}

fn feature(feature: Feature) -> v1::GrantFeature {
    match feature {
        Feature::Basis => v1::GrantFeature::Basis,
        Feature::Cleanup => v1::GrantFeature::Cleanup,
        Feature::Undo => v1::GrantFeature::Undo,
        Feature::Monitoring => v1::GrantFeature::Monitoring,
        Feature::Migrations => v1::GrantFeature::Migrations,
        Feature::Backups => v1::GrantFeature::Backups,
        Feature::Restores => v1::GrantFeature::Restores,
        Feature::Maintenance => v1::GrantFeature::Maintenance,
        Feature::Discovery => v1::GrantFeature::Discovery,
    }
}

/// The feature of a request; `None` where the number means none.
pub(in crate::grpc) fn asked_feature(number: i32) -> Option<Feature> {
    let asked = v1::GrantFeature::try_from(number).ok()?;
    Feature::ALL.into_iter().find(|known| feature(*known) == asked)
}

fn grant(grant: &Grant) -> v1::Grant {
    v1::Grant {
        feature: feature(grant.feature).into(),
        object: grant.object.clone(),
        privilege: grant.privilege.clone(),
        statement: grant.statement.clone(),
        why: grant.why.clone(),
        held: grant.held,
    }
}

fn excess(excess: &Excess) -> v1::ExcessRight {
    v1::ExcessRight {
        what: excess.what.clone(),
        why: excess.why.clone(),
        warning: excess.level != FindingLevel::Info,
        statement: excess.statement.clone(),
    }
}

/// The rights of a role.
pub(in crate::grpc) fn grants(rights: Rights) -> v1::GetGrantsResponse {
    let access = rights.access;
    v1::GetGrantsResponse {
        target: rights.target,
        role: access.role,
        exists: access.exists,
        used: rights.features.into_iter().map(|used| feature(used).into()).collect(),
        grants: access.grants.iter().map(grant).collect(),
        excess: access.excess.iter().map(excess).collect(),
        notes: access.notes,
        script: access.script,
    }
}

fn capability(capability: Capability) -> v1::Capability {
    match capability {
        Capability::Capture => v1::Capability::Capture,
        Capability::Undo => v1::Capability::Undo,
        Capability::ConcurrentWriters => v1::Capability::ConcurrentWriters,
        Capability::TableLocks => v1::Capability::TableLocks,
        Capability::Roles => v1::Capability::Roles,
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
