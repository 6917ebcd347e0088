//! JSON of targets and operations.
//!
//! Owns the shapes `target`, `status` and `operation`. Called by `cmd/targets.rs` and `cmd/operations.rs`.

use dbkeep_client::proto;
use serde::Serialize;

/// A configured target.
#[derive(Debug, Serialize)]
pub(crate) struct Target<'a> {
    name: &'a str,
    /// "postgres" or "sqlite".
    engine: String,
    address: &'a str,
    operation_count: u32,
}

impl<'a> From<&'a proto::Target> for Target<'a> {
    fn from(target: &'a proto::Target) -> Self {
        Self {
            name: &target.name,
            engine: super::engine(target.engine()),
            address: &target.address,
            operation_count: target.operation_count,
        }
    }
}

/// What a connection to a target found.
#[derive(Debug, Serialize)]
pub(crate) struct TargetStatus<'a> {
    version: &'a str,
    size_bytes: u64,
    clock: &'a str,
    capabilities: Vec<String>,
    active_run_ids: &'a [String],
    role: Option<Role<'a>>,
}

/// The role that dbkeep comes with.
#[derive(Debug, Serialize)]
struct Role<'a> {
    name: &'a str,
    missing: Vec<Grant<'a>>,
    excess: Vec<Excess<'a>>,
    problem: Option<&'a str>,
}

/// A right, with the statement that grants it.
#[derive(Debug, Serialize)]
pub(crate) struct Grant<'a> {
    /// "basis", "cleanup", "undo", "monitoring", "migrations", "backups", "restores", "maintenance" or "discovery".
    feature: String,
    object: &'a str,
    privilege: &'a str,
    statement: &'a str,
    why: &'a str,
    held: bool,
}

impl<'a> From<&'a proto::Grant> for Grant<'a> {
    fn from(grant: &'a proto::Grant) -> Self {
        Self {
            feature: super::grant_feature(grant.feature()),
            object: &grant.object,
            privilege: &grant.privilege,
            statement: &grant.statement,
            why: &grant.why,
            held: grant.held,
        }
    }
}

/// More than a role needs.
#[derive(Debug, Serialize)]
pub(crate) struct Excess<'a> {
    what: &'a str,
    why: &'a str,
    warning: bool,
    statement: &'a str,
}

impl<'a> From<&'a proto::ExcessRight> for Excess<'a> {
    fn from(excess: &'a proto::ExcessRight) -> Self {
        Self {
            what: &excess.what,
            why: &excess.why,
            warning: excess.warning,
            statement: &excess.statement,
        }
    }
}

impl<'a> From<&'a proto::TargetStatus> for TargetStatus<'a> {
    fn from(status: &'a proto::TargetStatus) -> Self {
        Self {
            version: &status.version,
            size_bytes: status.size_bytes,
            clock: &status.clock,
            capabilities: status.capabilities().map(super::capability).collect(),
            active_run_ids: &status.active_run_ids,
            role: status.role.as_ref().map(|role| Role {
                name: &role.name,
                missing: role.missing.iter().map(Grant::from).collect(),
                excess: role.excess.iter().map(Excess::from).collect(),
                problem: (!role.problem.is_empty()).then_some(role.problem.as_str()),
            }),
        }
    }
}

/// A catalog entry.
#[derive(Debug, Serialize)]
pub(crate) struct Operation<'a> {
    name: &'a str,
    description: &'a str,
    category: &'a str,
    /// "low", "medium", "high" or "critical".
    severity: String,
    backup: bool,
    expected_duration_seconds: Option<f64>,
    rules: Vec<Rule<'a>>,
}

#[derive(Debug, Serialize)]
struct Rule<'a> {
    name: &'a str,
    kind: &'a str,
    table: &'a str,
    description: &'a str,
    action: &'a str,
    origin: &'a str,
}

impl<'a> From<&'a proto::Operation> for Operation<'a> {
    fn from(operation: &'a proto::Operation) -> Self {
        let rule = |rule: &'a proto::Rule| Rule {
            name: &rule.name,
            kind: &rule.kind,
            table: &rule.table,
            description: &rule.description,
            action: &rule.action,
            origin: &rule.origin,
        };
        Self {
            name: &operation.name,
            description: &operation.description,
            category: &operation.category,
            severity: super::severity(operation.severity()),
            backup: operation.backup,
            expected_duration_seconds: super::seconds(operation.expected_duration.as_ref()),
            rules: operation.rules.iter().map(rule).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_and_its_status() {
        let target = proto::Target {
            name: "main".into(),
            engine: proto::Engine::Sqlite.into(),
            address: "/data/app.db".into(),
            operation_count: 4,
        };
        assert_eq!(
            serde_json::to_string(&Target::from(&target)).unwrap(),
            r#"{"name":"main","engine":"sqlite","address":"/data/app.db","operation_count":4}"#
        );
        let status = proto::TargetStatus {
            version: "3.51.0".into(),
            size_bytes: 4096,
            clock: "2026-01-01T00:00:00Z".into(),
            capabilities: vec![proto::Capability::Capture.into(), proto::Capability::ConcurrentWriters.into()],
            active_run_ids: vec![],
            role: None,
        };
        assert_eq!(
            serde_json::to_string(&TargetStatus::from(&status)).unwrap(),
            r#"{"version":"3.51.0","size_bytes":4096,"clock":"2026-01-01T00:00:00Z","capabilities":["capture","concurrent_writers"],"active_run_ids":[],"role":null}"#
        );
    }

    #[test]
    fn an_operation() {
        let operation = proto::Operation {
            name: "old_logs".into(),
            category: "LOGS".into(),
            severity: proto::Severity::Low.into(),
            expected_duration: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
            rules: vec![proto::Rule {
                name: "logs".into(),
                kind: "expired".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Operation::from(&operation)).unwrap(),
            r#"{"name":"old_logs","description":"","category":"LOGS","severity":"low","backup":false,"expected_duration_seconds":90.0,"rules":[{"name":"logs","kind":"expired","table":"","description":"","action":"","origin":""}]}"#
        );
    }
}
