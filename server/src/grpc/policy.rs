//! The policy: one row for every method that this server answers. A method of `dbkeep.v1` without a row does not compile ([`Method`] is made
//! from the descriptors); whatever else is served without a row is refused by the gate. What is absent is denied.

use std::{collections::HashMap, sync::LazyLock};

use dbkeep_engine::access::Role;
use dbkeep_proto::Method;

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
    /// Which of our own methods it is; `None` for health, reflection and the metrics.
    pub rpc: Option<Method>,
    /// Whether a call can change a target or a run, or reaches out of the house.
    pub mutates: bool,
    /// The role that may call it; `None` for whoever can connect.
    pub role: Option<Role>,
    /// Whether a call leaves records in the audit log.
    pub audited: bool,
    /// What a request is about.
    pub subject: Subject,
}

impl Row {
    /// Whether the answer is a stream; of reflection, too.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.rpc.is_none_or(Method::streams)
    }
}

const fn looks(method: &'static str, subject: Subject) -> Row {
    Row {
        method,
        rpc: None,
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
        rpc: None,
        mutates: false,
        role: Some(Role::Operator),
        audited: true,
        subject,
    }
}

const fn acts(method: &'static str, subject: Subject) -> Row {
    Row {
        method,
        rpc: None,
        mutates: true,
        role: Some(Role::Operator),
        audited: true,
        subject,
    }
}

const fn consents(method: &'static str, subject: Subject) -> Row {
    Row {
        method,
        rpc: None,
        mutates: true,
        role: Some(Role::Approver),
        audited: true,
        subject,
    }
}

const fn governs(method: &'static str, mutates: bool) -> Row {
    Row {
        method,
        rpc: None,
        mutates,
        role: Some(Role::Admin),
        audited: true,
        subject: Subject::House,
    }
}

const fn open(method: &'static str) -> Row {
    Row {
        method,
        rpc: None,
        mutates: false,
        role: None,
        audited: false,
        subject: Subject::Nothing,
    }
}

/// The path of the metrics, which is no gRPC and has its row all the same.
pub const METRICS: &str = "/metrics";

/// The row of one of our methods. Without a wildcard: a method that is added to the API and not here does not compile.
#[deny(clippy::wildcard_enum_match_arm)]
const fn row_of(method: Method) -> Row {
    let path = method.path();
    let row = match method {
        Method::ListTargets => looks(path, Subject::Listed(None)),
        Method::GetTarget => looks(path, Subject::Target("name")),
        // Reads only catalogs that every role of the database may read, and grants nothing: whoever may see the operations may see what they need.
        Method::GetGrants => looks(path, Subject::Target("target")),
        Method::ListOperations => looks(path, Subject::Target("target")),
        Method::GetOperation => looks(path, Subject::Target("target")),
        Method::PlanCleanup => reads(path, Subject::Target("target")),
        Method::RunCleanup => acts(
            path,
            Subject::Planned {
                target: "target",
                token: "plan_token",
            },
        ),
        Method::DiscoverOperations => reads(path, Subject::Target("target")),
        Method::GetRun => looks(path, Subject::Run("id")),
        Method::ListRuns => looks(path, Subject::Listed(Some("filter.target"))),
        Method::WatchRun => looks(path, Subject::Run("id")),
        Method::CancelRun => acts(path, Subject::Run("id")),
        Method::PauseRun => acts(path, Subject::Run("id")),
        Method::ResumeRun => acts(path, Subject::Run("id")),
        Method::UpdateRunLimits => acts(path, Subject::Run("id")),
        Method::UndoRun => acts(path, Subject::Run("id")),
        Method::ApproveRun => consents(path, Subject::Run("id")),
        Method::ListDecisions => looks(path, Subject::Listed(None)),
        Method::ListBackups => looks(path, Subject::Listed(Some("target"))),
        Method::GetBackup => looks(path, Subject::Backup("id")),
        Method::VerifyBackup => acts(path, Subject::Backup("id")),
        Method::CreateBackup => acts(path, Subject::Target("target")),
        Method::RestoreBackup => acts(path, Subject::Backup("id")),
        Method::PruneBackups => acts(path, Subject::Target("target")),
        Method::GetSchedule => looks(path, Subject::Schedule("id")),
        Method::ListSchedules => looks(path, Subject::Listed(Some("target"))),
        Method::PreviewSchedule => looks(path, Subject::Schedule("id")),
        Method::ListScheduleRuns => looks(path, Subject::Schedule("id")),
        Method::GetSchedulerStatus => looks(path, Subject::Nothing),
        Method::CreateSchedule => acts(path, Subject::Target("spec.target")),
        Method::UpdateSchedule => acts(
            path,
            Subject::Rescheduled {
                id: "id",
                target: "spec.target",
            },
        ),
        Method::DeleteSchedule => acts(path, Subject::Schedule("id")),
        Method::RunSchedule => acts(path, Subject::Schedule("id")),
        Method::PauseSchedule => acts(path, Subject::Schedule("id")),
        Method::ResumeSchedule => acts(path, Subject::Schedule("id")),
        Method::ApproveSchedule => consents(path, Subject::Schedule("id")),
        Method::StartScheduler => acts(path, Subject::House),
        Method::StopScheduler => acts(path, Subject::House),
        Method::GetMigrationStatus => looks(path, Subject::Target("target")),
        Method::ListMigrations => looks(path, Subject::Target("target")),
        Method::GetMigration => looks(path, Subject::Target("target")),
        Method::PlanMigrations => looks(path, Subject::Target("target")),
        Method::TestMigration => acts(path, Subject::Target("target")),
        Method::ApplyMigrations => acts(path, Subject::Target("target")),
        Method::RollbackMigrations => acts(path, Subject::Target("target")),
        Method::RepairLedger => acts(path, Subject::Target("target")),
        Method::BaselineMigrations => acts(path, Subject::Target("target")),
        Method::DraftMigration => looks(path, Subject::Target("target")),
        Method::ListChannels => looks(path, Subject::Nothing),
        Method::TestChannel => acts(path, Subject::House),
        Method::ListDeliveries => looks(path, Subject::Listed(None)),
        Method::GetDelivery => looks(path, Subject::Delivery("id")),
        Method::RetryDelivery => acts(path, Subject::Delivery("id")),
        Method::GetStatus => looks(path, Subject::Listed(None)),
        Method::GetMetrics => looks(path, Subject::Target("target")),
        Method::ListMetricHistory => looks(path, Subject::Target("target")),
        Method::WatchMetrics => looks(path, Subject::Listed(Some("target"))),
        Method::ListFindings => looks(path, Subject::Target("target")),
        Method::GetRecommendations => looks(path, Subject::Target("target")),
        Method::ListAlerts => looks(path, Subject::Listed(Some("target"))),
        Method::WatchAlerts => looks(path, Subject::Listed(Some("target"))),
        Method::AcknowledgeAlert => acts(path, Subject::Alert("id")),
        Method::GetCaller => looks(path, Subject::Nothing),
        Method::CreateToken => governs(path, true),
        Method::ListTokens => governs(path, false),
        Method::RevokeToken => governs(path, true),
        Method::ListAuditEvents => looks(path, Subject::Listed(Some("filter.target"))),
        // By its number; the service knows whose it is.
        Method::GetAuditEvent => looks(path, Subject::Listed(None)),
        Method::VerifyAuditLog => looks(path, Subject::House),
        // Takes everything that anybody did out of the house.
        Method::ExportAuditLog => governs(path, false),
    };
    Row {
        rpc: Some(method),
        ..row
    }
}

/// What is served beside our own methods. Their descriptors come with the crates that serve them; a test compares them.
const OTHERS: [Row; 5] = [
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

const COUNT: usize = Method::ALL.len() + OTHERS.len();

/// Every row.
pub static ROWS: [Row; COUNT] = rows();

const fn rows() -> [Row; COUNT] {
    let mut rows = [OTHERS[0]; COUNT];
    let mut at = 0;
    while at < COUNT {
        rows[at] = match at.checked_sub(Method::ALL.len()) {
            None => row_of(Method::ALL[at]),
            Some(other) => OTHERS[other],
        };
        at += 1;
    }
    rows
}

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
    static BY_PATH: LazyLock<HashMap<&str, &Row>> = LazyLock::new(|| ROWS.iter().map(|row| (row.method, row)).collect());
    BY_PATH.get(path).copied()
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
        for row in &ROWS {
            let acts = row.role.is_some_and(|role| role != Role::Viewer);
            assert!(!row.mutates || (acts && row.audited), "{}", row.method);
            assert!(is_served(row.method) || row.method == METRICS, "{}", row.method);
        }
    }
}
