//! The policy: one row for every method that this server answers. A served method without a row is refused by the gate, and the build of
//! the tests compares the rows with the descriptor set, so that a new method cannot be forgotten. What is absent is denied.

use dbkeep_engine::access::Role;

/// What a request is about, which decides whether a caller who is for some targets may make it. Names are fields of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// About no target; tells nothing of any.
    Nothing,
    /// About the installation as a whole: for callers who are for all targets.
    House,
    /// About the target that the field names; empty means the only one that the server has.
    Target(&'static str),
    /// About the target that the field names, or where that is empty, the one of the plan.
    Planned {
        /// The target.
        target: &'static str,
        /// The plan's token; may be empty.
        token: &'static str,
    },
    /// A list, or a stream, that the service cuts to the caller's targets. The field may name one; empty or absent means all.
    Listed(Option<&'static str>),
    /// About the target of that run.
    Run(&'static str),
    /// About the target of that backup, which is a run's.
    Backup(&'static str),
    /// About the target of that schedule, by id or name; where the field is empty, as [`Subject::Listed`].
    Schedule(&'static str),
    /// About the target of that schedule, and the one that it would get.
    Rescheduled {
        /// The schedule.
        id: &'static str,
        /// Its target from now on; may be empty.
        target: &'static str,
    },
    /// About the target of that alert.
    Alert(&'static str),
    /// About the target of that delivery.
    Delivery(&'static str),
}

/// What holds for one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Path of the method, as HTTP/2 carries it.
    pub method: &'static str,
    /// Whether a call can change a target or a run, or reaches out of the house.
    pub mutates: bool,
    /// The role that may call it; `None` for whoever can connect.
    pub role: Option<Role>,
    /// Whether a call leaves records in the audit log.
    pub audited: bool,
    /// What a request is about.
    pub subject: Subject,
}

const fn looks(method: &'static str, subject: Subject) -> Row {
    Row {
        method,
        mutates: false,
        role: Some(Role::Viewer),
        audited: false,
        subject,
    }
}

/// Changes nothing, but reads rows of tables, shows values of them, or hands out a token.
const fn reads(method: &'static str, subject: Subject) -> Row {
    Row {
        method,
        mutates: false,
        role: Some(Role::Operator),
        audited: true,
        subject,
    }
}

const fn acts(method: &'static str, subject: Subject) -> Row {
    Row {
        method,
        mutates: true,
        role: Some(Role::Operator),
        audited: true,
        subject,
    }
}

const fn consents(method: &'static str, subject: Subject) -> Row {
    Row {
        method,
        mutates: true,
        role: Some(Role::Approver),
        audited: true,
        subject,
    }
}

const fn governs(method: &'static str, mutates: bool) -> Row {
    Row {
        method,
        mutates,
        role: Some(Role::Admin),
        audited: true,
        subject: Subject::House,
    }
}

const fn open(method: &'static str) -> Row {
    Row {
        method,
        mutates: false,
        role: None,
        audited: false,
        subject: Subject::Nothing,
    }
}

/// The path of the metrics, which is no gRPC and has its row all the same.
pub const METRICS: &str = "/metrics";

/// Every method.
pub const ROWS: &[Row] = &[
    looks("/dbkeep.v1.TargetService/ListTargets", Subject::Listed(None)),
    looks("/dbkeep.v1.TargetService/GetTarget", Subject::Target("name")),
    // Reads only catalogs that every role of the database may read, and grants nothing: whoever may see the operations may see what they need.
    looks("/dbkeep.v1.TargetService/GetGrants", Subject::Target("target")),
    looks("/dbkeep.v1.CleanupService/ListOperations", Subject::Target("target")),
    looks("/dbkeep.v1.CleanupService/GetOperation", Subject::Target("target")),
    reads("/dbkeep.v1.CleanupService/PlanCleanup", Subject::Target("target")),
    acts(
        "/dbkeep.v1.CleanupService/RunCleanup",
        Subject::Planned {
            target: "target",
            token: "plan_token",
        },
    ),
    reads("/dbkeep.v1.CleanupService/DiscoverOperations", Subject::Target("target")),
    looks("/dbkeep.v1.RunService/GetRun", Subject::Run("id")),
    looks("/dbkeep.v1.RunService/ListRuns", Subject::Listed(Some("filter.target"))),
    looks("/dbkeep.v1.RunService/WatchRun", Subject::Run("id")),
    acts("/dbkeep.v1.RunService/CancelRun", Subject::Run("id")),
    acts("/dbkeep.v1.RunService/PauseRun", Subject::Run("id")),
    acts("/dbkeep.v1.RunService/ResumeRun", Subject::Run("id")),
    acts("/dbkeep.v1.RunService/UpdateRunLimits", Subject::Run("id")),
    acts("/dbkeep.v1.RunService/UndoRun", Subject::Run("id")),
    consents("/dbkeep.v1.RunService/ApproveRun", Subject::Run("id")),
    looks("/dbkeep.v1.RunService/ListDecisions", Subject::Listed(None)),
    looks("/dbkeep.v1.BackupService/ListBackups", Subject::Listed(Some("target"))),
    looks("/dbkeep.v1.BackupService/GetBackup", Subject::Backup("id")),
    acts("/dbkeep.v1.BackupService/VerifyBackup", Subject::Backup("id")),
    acts("/dbkeep.v1.BackupService/CreateBackup", Subject::Target("target")),
    acts("/dbkeep.v1.BackupService/RestoreBackup", Subject::Backup("id")),
    acts("/dbkeep.v1.BackupService/PruneBackups", Subject::Target("target")),
    looks("/dbkeep.v1.ScheduleService/GetSchedule", Subject::Schedule("id")),
    looks("/dbkeep.v1.ScheduleService/ListSchedules", Subject::Listed(Some("target"))),
    looks("/dbkeep.v1.ScheduleService/PreviewSchedule", Subject::Schedule("id")),
    looks("/dbkeep.v1.ScheduleService/ListScheduleRuns", Subject::Schedule("id")),
    looks("/dbkeep.v1.ScheduleService/GetSchedulerStatus", Subject::Nothing),
    acts("/dbkeep.v1.ScheduleService/CreateSchedule", Subject::Target("spec.target")),
    acts(
        "/dbkeep.v1.ScheduleService/UpdateSchedule",
        Subject::Rescheduled {
            id: "id",
            target: "spec.target",
        },
    ),
    acts("/dbkeep.v1.ScheduleService/DeleteSchedule", Subject::Schedule("id")),
    acts("/dbkeep.v1.ScheduleService/RunSchedule", Subject::Schedule("id")),
    acts("/dbkeep.v1.ScheduleService/PauseSchedule", Subject::Schedule("id")),
    acts("/dbkeep.v1.ScheduleService/ResumeSchedule", Subject::Schedule("id")),
    consents("/dbkeep.v1.ScheduleService/ApproveSchedule", Subject::Schedule("id")),
    acts("/dbkeep.v1.ScheduleService/StartScheduler", Subject::House),
    acts("/dbkeep.v1.ScheduleService/StopScheduler", Subject::House),
    looks("/dbkeep.v1.MigrationService/GetMigrationStatus", Subject::Target("target")),
    looks("/dbkeep.v1.MigrationService/ListMigrations", Subject::Target("target")),
    looks("/dbkeep.v1.MigrationService/GetMigration", Subject::Target("target")),
    looks("/dbkeep.v1.MigrationService/PlanMigrations", Subject::Target("target")),
    acts("/dbkeep.v1.MigrationService/TestMigration", Subject::Target("target")),
    acts("/dbkeep.v1.MigrationService/ApplyMigrations", Subject::Target("target")),
    acts("/dbkeep.v1.MigrationService/RollbackMigrations", Subject::Target("target")),
    acts("/dbkeep.v1.MigrationService/RepairLedger", Subject::Target("target")),
    acts("/dbkeep.v1.MigrationService/BaselineMigrations", Subject::Target("target")),
    looks("/dbkeep.v1.MigrationService/DraftMigration", Subject::Target("target")),
    looks("/dbkeep.v1.NotificationService/ListChannels", Subject::Nothing),
    acts("/dbkeep.v1.NotificationService/TestChannel", Subject::House),
    looks("/dbkeep.v1.NotificationService/ListDeliveries", Subject::Listed(None)),
    looks("/dbkeep.v1.NotificationService/GetDelivery", Subject::Delivery("id")),
    acts("/dbkeep.v1.NotificationService/RetryDelivery", Subject::Delivery("id")),
    looks("/dbkeep.v1.MonitoringService/GetStatus", Subject::Listed(None)),
    looks("/dbkeep.v1.MonitoringService/GetMetrics", Subject::Target("target")),
    looks("/dbkeep.v1.MonitoringService/ListMetricHistory", Subject::Target("target")),
    looks("/dbkeep.v1.MonitoringService/WatchMetrics", Subject::Listed(Some("target"))),
    looks("/dbkeep.v1.MonitoringService/ListFindings", Subject::Target("target")),
    looks("/dbkeep.v1.MonitoringService/GetRecommendations", Subject::Target("target")),
    looks("/dbkeep.v1.MonitoringService/ListAlerts", Subject::Listed(Some("target"))),
    looks("/dbkeep.v1.MonitoringService/WatchAlerts", Subject::Listed(Some("target"))),
    acts("/dbkeep.v1.MonitoringService/AcknowledgeAlert", Subject::Alert("id")),
    looks("/dbkeep.v1.AccessService/GetCaller", Subject::Nothing),
    governs("/dbkeep.v1.AccessService/CreateToken", true),
    governs("/dbkeep.v1.AccessService/ListTokens", false),
    governs("/dbkeep.v1.AccessService/RevokeToken", true),
    looks(
        "/dbkeep.v1.AuditService/ListAuditEvents",
        Subject::Listed(Some("filter.target")),
    ),
    // By its number; the service knows whose it is.
    looks("/dbkeep.v1.AuditService/GetAuditEvent", Subject::Listed(None)),
    looks("/dbkeep.v1.AuditService/VerifyAuditLog", Subject::House),
    // Takes everything that anybody did out of the house.
    governs("/dbkeep.v1.AuditService/ExportAuditLog", false),
    looks("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Subject::Nothing),
    looks(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Subject::Nothing,
    ),
    // Names targets and tables.
    looks(METRICS, Subject::House),
    open("/grpc.health.v1.Health/Check"),
    open("/grpc.health.v1.Health/Watch"),
];

/// Packages that this server answers for; calls to others are `UNIMPLEMENTED` by the router, as the protocol wants it.
const SERVED: &[&str] = &[
    "/dbkeep.v1.",
    "/grpc.reflection.v1.",
    "/grpc.reflection.v1alpha.",
    "/grpc.health.v1.",
];

/// The row of a method.
#[must_use]
pub fn row(path: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.method == path)
}

/// Whether a path lies in a package that this server answers for.
pub(super) fn is_served(path: &str) -> bool {
    SERVED.iter().any(|package| path.starts_with(package))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Methods of a descriptor set whose package begins with `package`.
    fn methods(set: &[u8], package: &str) -> BTreeSet<String> {
        let set = FileDescriptorSet::decode(set).expect("a descriptor set");
        let mut methods = BTreeSet::new();
        for file in set.file.iter().filter(|file| file.package().starts_with(package)) {
            for service in &file.service {
                methods.extend(
                    service
                        .method
                        .iter()
                        .map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())),
                );
            }
        }
        methods
    }

    #[test]
    fn every_method_has_exactly_one_row() {
        let rows = ROWS.iter().map(|row| row.method.to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(rows.len(), ROWS.len(), "a method has two rows");
        let ours = rows
            .iter()
            .filter(|method| method.starts_with("/dbkeep.v1."))
            .cloned()
            .collect::<BTreeSet<_>>();
        assert_eq!(ours, methods(dbkeep_proto::FILE_DESCRIPTOR_SET, "dbkeep.v1"));
        let health = rows
            .iter()
            .filter(|method| method.starts_with("/grpc.health."))
            .cloned()
            .collect::<BTreeSet<_>>();
        assert_eq!(health, methods(tonic_health::pb::FILE_DESCRIPTOR_SET, "grpc.health"));
        let reflection = rows
            .iter()
            .filter(|method| method.starts_with("/grpc.reflection."))
            .cloned()
            .collect::<BTreeSet<_>>();
        let mut known = methods(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET, "grpc.reflection");
        known.extend(methods(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET, "grpc.reflection"));
        assert_eq!(reflection, known);
    }

    #[test]
    fn whoever_only_looks_changes_nothing() {
        for row in ROWS {
            let acts = row.role.is_some_and(|role| role != Role::Viewer);
            assert!(!row.mutates || (acts && row.audited), "{}", row.method);
            assert!(is_served(row.method) || row.method == METRICS, "{}", row.method);
        }
    }
}
