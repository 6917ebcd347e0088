//! The policy: one row for every method that this server answers. A served method without a row is refused by the gate, and a test
//! compares the rows with the descriptor set, so that a new method cannot be forgotten. The roles take effect when callers are
//! authenticated; until then the server listens on loopback only.

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Whoever can connect: what tells nothing about the databases.
    Anyone,
    /// May look.
    Viewer,
    /// May start, stop and take back.
    Operator,
}

/// What holds for one method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Path of the method, as HTTP/2 carries it.
    pub method: &'static str,
    /// Whether a call can change a target or a run, or reaches out of the house.
    pub mutates: bool,
    /// The least role that may call it.
    pub role: Role,
    /// Whether a call leaves an entry in the audit log.
    pub audited: bool,
}

const fn looks(method: &'static str) -> Row {
    Row {
        method,
        mutates: false,
        role: Role::Viewer,
        audited: false,
    }
}

const fn acts(method: &'static str) -> Row {
    Row {
        method,
        mutates: true,
        role: Role::Operator,
        audited: true,
    }
}

const fn open(method: &'static str) -> Row {
    Row {
        method,
        mutates: false,
        role: Role::Anyone,
        audited: false,
    }
}

/// Every method.
pub const ROWS: &[Row] = &[
    looks("/dbkeep.v1.TargetService/ListTargets"),
    looks("/dbkeep.v1.TargetService/GetTarget"),
    // Reads only catalogs that every role of the database may read, and grants nothing: whoever may see the operations may see what they need.
    looks("/dbkeep.v1.TargetService/GetGrants"),
    looks("/dbkeep.v1.CleanupService/ListOperations"),
    looks("/dbkeep.v1.CleanupService/GetOperation"),
    // Changes nothing, but reads whole tables, shows sample rows, and hands out a token.
    Row {
        method: "/dbkeep.v1.CleanupService/PlanCleanup",
        mutates: false,
        role: Role::Operator,
        audited: true,
    },
    acts("/dbkeep.v1.CleanupService/RunCleanup"),
    // Changes nothing, but reads rows of every table and shows single values.
    Row {
        method: "/dbkeep.v1.CleanupService/DiscoverOperations",
        mutates: false,
        role: Role::Operator,
        audited: true,
    },
    looks("/dbkeep.v1.RunService/GetRun"),
    looks("/dbkeep.v1.RunService/ListRuns"),
    looks("/dbkeep.v1.RunService/WatchRun"),
    acts("/dbkeep.v1.RunService/CancelRun"),
    acts("/dbkeep.v1.RunService/PauseRun"),
    acts("/dbkeep.v1.RunService/ResumeRun"),
    acts("/dbkeep.v1.RunService/UpdateRunLimits"),
    acts("/dbkeep.v1.RunService/UndoRun"),
    acts("/dbkeep.v1.RunService/ApproveRun"),
    looks("/dbkeep.v1.RunService/ListDecisions"),
    looks("/dbkeep.v1.BackupService/ListBackups"),
    looks("/dbkeep.v1.BackupService/GetBackup"),
    acts("/dbkeep.v1.BackupService/VerifyBackup"),
    acts("/dbkeep.v1.BackupService/CreateBackup"),
    acts("/dbkeep.v1.BackupService/RestoreBackup"),
    acts("/dbkeep.v1.BackupService/PruneBackups"),
    looks("/dbkeep.v1.ScheduleService/GetSchedule"),
    looks("/dbkeep.v1.ScheduleService/ListSchedules"),
    looks("/dbkeep.v1.ScheduleService/PreviewSchedule"),
    looks("/dbkeep.v1.ScheduleService/ListScheduleRuns"),
    looks("/dbkeep.v1.ScheduleService/GetSchedulerStatus"),
    acts("/dbkeep.v1.ScheduleService/CreateSchedule"),
    acts("/dbkeep.v1.ScheduleService/UpdateSchedule"),
    acts("/dbkeep.v1.ScheduleService/DeleteSchedule"),
    acts("/dbkeep.v1.ScheduleService/RunSchedule"),
    acts("/dbkeep.v1.ScheduleService/PauseSchedule"),
    acts("/dbkeep.v1.ScheduleService/ResumeSchedule"),
    acts("/dbkeep.v1.ScheduleService/ApproveSchedule"),
    acts("/dbkeep.v1.ScheduleService/StartScheduler"),
    acts("/dbkeep.v1.ScheduleService/StopScheduler"),
    looks("/dbkeep.v1.MigrationService/GetMigrationStatus"),
    looks("/dbkeep.v1.MigrationService/ListMigrations"),
    looks("/dbkeep.v1.MigrationService/GetMigration"),
    looks("/dbkeep.v1.MigrationService/PlanMigrations"),
    acts("/dbkeep.v1.MigrationService/TestMigration"),
    acts("/dbkeep.v1.MigrationService/ApplyMigrations"),
    acts("/dbkeep.v1.MigrationService/RollbackMigrations"),
    acts("/dbkeep.v1.MigrationService/RepairLedger"),
    acts("/dbkeep.v1.MigrationService/BaselineMigrations"),
    looks("/dbkeep.v1.MigrationService/DraftMigration"),
    looks("/dbkeep.v1.NotificationService/ListChannels"),
    acts("/dbkeep.v1.NotificationService/TestChannel"),
    looks("/dbkeep.v1.NotificationService/ListDeliveries"),
    looks("/dbkeep.v1.NotificationService/GetDelivery"),
    acts("/dbkeep.v1.NotificationService/RetryDelivery"),
    looks("/dbkeep.v1.MonitoringService/GetStatus"),
    looks("/dbkeep.v1.MonitoringService/GetMetrics"),
    looks("/dbkeep.v1.MonitoringService/ListMetricHistory"),
    looks("/dbkeep.v1.MonitoringService/WatchMetrics"),
    looks("/dbkeep.v1.MonitoringService/ListFindings"),
    looks("/dbkeep.v1.MonitoringService/GetRecommendations"),
    looks("/dbkeep.v1.MonitoringService/ListAlerts"),
    looks("/dbkeep.v1.MonitoringService/WatchAlerts"),
    acts("/dbkeep.v1.MonitoringService/AcknowledgeAlert"),
    looks("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    looks("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
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
            assert!(!row.mutates || (row.role == Role::Operator && row.audited), "{}", row.method);
            assert!(is_served(row.method), "{}", row.method);
        }
    }
}
