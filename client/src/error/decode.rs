//! From a gRPC status to [`Error`].
//!
//! Owns the reading of `ErrorInfo`, `BadRequest`, `PreconditionFailure` and `RetryInfo`. The message is carried along and never looked into.
//! Called by every service file and by `watch.rs`, through `From<tonic::Status>`.

use std::{collections::HashMap, error::Error as StdError};

use dbkeep_proto::v1::ErrorReason;
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{Error, FieldViolation, MigrationViolation};

/// Domain of every `ErrorInfo` that dbkeep sends.
const DOMAIN: &str = "dbkeep";
/// What the enum's names carry in the .proto file and not on the wire.
const PREFIX: &str = "ERROR_REASON_";

/// The reason as `ErrorInfo.reason` carries it.
pub(super) fn wire_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix(PREFIX).unwrap_or(name)
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // A status that has a source was made on this side of the wire: by the deadline of the call, or by a connection
        // that broke. tonic gives broken connections several codes (UNAVAILABLE, UNKNOWN, INTERNAL, CANCELLED), so the
        // source tells more than the code does.
        if let Some(source) = StdError::source(&status) {
            return from_this_side(&status, source);
        }
        from_server(&status)
    }
}

fn from_this_side(status: &Status, source: &(dyn StdError + 'static)) -> Error {
    let mut problem = status.message().to_owned();
    let mut cause = Some(source);
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return Error::Deadline {
                run: None,
                message: "the call's time was over before the server answered".to_owned(),
            };
        }
        let text = error.to_string();
        // Layers repeat each other's words; a sentence needs them once.
        if !problem.contains(&text) {
            if !problem.is_empty() {
                problem.push_str(": ");
            }
            problem.push_str(&text);
        }
        cause = error.source();
    }
    Error::Unreachable { problem }
}

fn from_server(status: &Status) -> Error {
    let details = status.get_error_details();
    let message = status.message().to_owned();
    let retry_after = details.retry_info().and_then(|info| info.retry_delay);
    let Some(info) = details.error_info().filter(|info| info.domain == DOMAIN) else {
        // tonic itself, a proxy or a load balancer answered.
        return match status.code() {
            Code::DeadlineExceeded => Error::Deadline { run: None, message },
            code => {
                let info = details.error_info();
                Error::Other {
                    code,
                    reason: info.map(|info| info.reason.clone()),
                    metadata: info
                        .map(|info| info.metadata.clone().into_iter().collect())
                        .unwrap_or_default(),
                    retry_after,
                    message,
                }
            }
        };
    };
    let names = Names(&info.metadata);
    match ErrorReason::from_str_name(&format!("{PREFIX}{}", info.reason)) {
        None | Some(ErrorReason::Unspecified) => Error::Other {
            code: status.code(),
            reason: Some(info.reason.clone()),
            metadata: info.metadata.clone().into_iter().collect(),
            retry_after,
            message,
        },
        Some(ErrorReason::InvalidField) => Error::InvalidField {
            violations: violations(&details),
            message,
        },
        Some(ErrorReason::UnknownTarget) => Error::UnknownTarget {
            target: names.text("target"),
            known: names.list("known"),
            message,
        },
        Some(ErrorReason::UnknownOperation) => Error::UnknownOperation {
            operation: names.text("operation"),
            target: names.text("target"),
            known: names.list("known"),
            message,
        },
        Some(ErrorReason::UnknownRun) => Error::UnknownRun {
            run: names.text("run"),
            message,
        },
        Some(ErrorReason::UnknownBackup) => Error::UnknownBackup {
            backup: names.text("backup"),
            message,
        },
        Some(ErrorReason::UnknownChannel) => Error::UnknownChannel {
            channel: names.text("channel"),
            known: names.list("known"),
            message,
        },
        Some(ErrorReason::UnknownDelivery) => Error::UnknownDelivery {
            delivery: names.text("delivery"),
            message,
        },
        Some(ErrorReason::UnknownAlert) => Error::UnknownAlert {
            alert: names.text("alert"),
            message,
        },
        Some(ErrorReason::UnknownAuditRecord) => Error::UnknownAuditRecord {
            number: names.text("number"),
            message,
        },
        Some(ErrorReason::AuditLogBroken) => Error::AuditLogBroken {
            number: names.text("number"),
            problem: names.text("problem"),
            message,
        },
        Some(ErrorReason::DeliveryState) => Error::DeliveryState {
            delivery: names.text("delivery"),
            state: names.text("state"),
            message,
        },
        Some(ErrorReason::CatalogMismatch) => Error::CatalogMismatch {
            origin: names.text("origin"),
            operation: names.text("operation"),
            rule: names.text("rule"),
            expected: names.text("expected"),
            message,
        },
        Some(ErrorReason::UnknownPlan) => Error::UnknownPlan { message },
        Some(ErrorReason::PlanExpired) => Error::PlanExpired {
            plan: names.text("plan"),
            expired_at: names.text("expired_at"),
            message,
        },
        Some(ErrorReason::PlanMismatch) => Error::PlanMismatch {
            plan: names.text("plan"),
            field: names.text("field"),
            planned: names.text("planned"),
            requested: names.text("requested"),
            message,
        },
        Some(ErrorReason::SchemaChanged) => Error::SchemaChanged {
            plan: names.text("plan"),
            tables: names.list("tables"),
            message,
        },
        Some(ErrorReason::CountDrifted) => Error::CountDrifted {
            step: names.text("step"),
            planned: names.number("planned"),
            found: names.number("found"),
            tolerance: names.text("tolerance"),
            message,
        },
        Some(ErrorReason::PlanRequired) => Error::PlanRequired {
            operation: names.text("operation"),
            severity: names.text("severity"),
            message,
        },
        Some(ErrorReason::PlanBlocked) => Error::PlanBlocked {
            finding: names.text("finding"),
            table: names.text("table"),
            detail: names.text("detail"),
            remediation: names.text("remediation"),
            message,
        },
        Some(ErrorReason::PlanUsed) => Error::PlanUsed {
            plan: names.text("plan"),
            run: names.text("run"),
            message,
        },
        Some(ErrorReason::ConfirmationPhrase) => Error::ConfirmationPhrase {
            plan: names.text("plan"),
            problem: names.text("problem"),
            message,
        },
        Some(ErrorReason::ApprovalRefused) => Error::ApprovalRefused {
            run: names.text("run"),
            schedule: names.text("schedule"),
            principal: names.text("principal"),
            problem: names.text("problem"),
            message,
        },
        Some(ErrorReason::PrincipalRefused) => Error::PrincipalRefused {
            problem: names.text("problem"),
            message,
        },
        Some(ErrorReason::Unauthenticated) => Error::Unauthenticated { message },
        Some(ErrorReason::RoleRefused) => Error::RoleRefused {
            method: names.text("method"),
            role: names.text("role"),
            asked: names.text("asked"),
            message,
        },
        Some(ErrorReason::OutOfScope) => Error::OutOfScope {
            method: names.text("method"),
            message,
        },
        Some(ErrorReason::TooManyCalls) => Error::TooManyCalls { retry_after, message },
        Some(ErrorReason::Overloaded) => Error::Overloaded { retry_after, message },
        Some(ErrorReason::RequestBroken) => Error::RequestBroken { message },
        Some(ErrorReason::AuditUnavailable) => Error::AuditUnavailable { retry_after, message },
        Some(ErrorReason::UnknownToken) => Error::UnknownToken {
            token: names.text("token"),
            message,
        },
        Some(ErrorReason::TokenExists) => Error::TokenExists {
            name: names.text("name"),
            message,
        },
        Some(ErrorReason::FindingsUnconfirmed) => Error::FindingsUnconfirmed {
            finding: names.text("finding"),
            table: names.text("table"),
            detail: names.text("detail"),
            remediation: names.text("remediation"),
            message,
        },
        Some(ErrorReason::RunAlreadyActive) => Error::RunAlreadyActive {
            run: names.text("run"),
            target: names.text("target"),
            table: names.text("table"),
            message,
        },
        Some(ErrorReason::RequestIdReused) => Error::RequestIdReused {
            request_id: names.text("request_id"),
            run: names.text("run"),
            message,
        },
        Some(ErrorReason::RunState) => Error::RunState {
            run: names.text("run"),
            state: names.text("state"),
            allowed: names.list("allowed"),
            message,
        },
        Some(ErrorReason::NothingCaptured) => Error::NothingCaptured {
            run: names.text("run"),
            message,
        },
        Some(ErrorReason::TargetUnavailable) => Error::TargetUnavailable {
            target: names.text("target"),
            retry_after,
            message,
        },
        Some(ErrorReason::StoreUnavailable) => Error::StoreUnavailable { retry_after, message },
        Some(ErrorReason::TargetPermission) => Error::TargetPermission {
            target: names.text("target"),
            sqlstate: names.text("sqlstate"),
            message,
        },
        Some(ErrorReason::TargetRefused) => Error::TargetRefused {
            target: names.text("target"),
            sqlstate: names.text("sqlstate"),
            constraint: names.optional("constraint"),
            message,
        },
        Some(ErrorReason::BackupDamaged) => Error::BackupDamaged {
            backup: names.text("backup"),
            chunk: names.text("chunk"),
            problem: names.text("problem"),
            message,
        },
        Some(ErrorReason::BackupStorage) => Error::BackupStorage {
            path: names.text("path"),
            message,
        },
        Some(ErrorReason::RootUnusable) => Error::RootUnusable {
            target: names.text("target"),
            detail: names.text("detail"),
            message,
        },
        Some(ErrorReason::ShuttingDown) => Error::ShuttingDown { retry_after, message },
        Some(ErrorReason::Deadline) => Error::Deadline {
            run: names.optional("run"),
            message,
        },
        Some(ErrorReason::TooManyStreams) => Error::TooManyStreams {
            limit: names.number("limit"),
            retry_after,
            message,
        },
        Some(ErrorReason::SequenceAhead) => Error::SequenceAhead {
            run: names.text("run"),
            last_sequence: names.number("last_sequence"),
            message,
        },
        Some(ErrorReason::BackupPruned) => Error::BackupPruned {
            backup: names.text("backup"),
            pruned_at: names.text("pruned_at"),
            message,
        },
        Some(ErrorReason::ConfirmationRequired) => Error::ConfirmationRequired {
            expected: names.text("expected"),
            message,
        },
        Some(ErrorReason::ToolUnavailable) => Error::ToolUnavailable {
            tool: names.text("tool"),
            target: names.text("target"),
            problem: names.text("problem"),
            message,
        },
        Some(ErrorReason::TablesNotEmpty) => Error::TablesNotEmpty {
            target: names.text("target"),
            tables: names.list("tables"),
            message,
        },
        Some(ErrorReason::BackupKind) => Error::BackupKind {
            backup: names.text("backup"),
            expected: names.text("expected"),
            message,
        },
        Some(ErrorReason::BackupOtherDatabase) => Error::BackupOtherDatabase {
            backup: names.text("backup"),
            difference: names.text("difference"),
            message,
        },
        Some(ErrorReason::NoMigrations) => Error::NoMigrations {
            target: names.text("target"),
            message,
        },
        Some(ErrorReason::MigrationSource) => Error::MigrationSource {
            target: names.text("target"),
            folder: names.text("folder"),
            problem: names.text("problem"),
            message,
        },
        Some(ErrorReason::UnknownMigration) => Error::UnknownMigration {
            migration: names.text("migration"),
            target: names.text("target"),
            near: names.optional("near"),
            message,
        },
        Some(ErrorReason::MigrationGraph) => Error::MigrationGraph {
            target: names.text("target"),
            problem: names.text("problem"),
            message,
        },
        Some(ErrorReason::MigrationsBlocked) => Error::MigrationsBlocked {
            target: names.text("target"),
            problems: names.list("problems"),
            violations: preconditions(&details),
            message,
        },
        Some(ErrorReason::NothingToMigrate) => Error::NothingToMigrate {
            target: names.text("target"),
            message,
        },
        Some(ErrorReason::MigrationsHeld) => Error::MigrationsHeld {
            holder: names.text("holder"),
            run: names.text("run"),
            until: names.text("until"),
            retry_after,
            message,
        },
        Some(ErrorReason::MigrationLedgerMoved) => Error::MigrationLedgerMoved {
            target: names.text("target"),
            problem: names.text("problem"),
            message,
        },
        Some(ErrorReason::RepairRefused) => Error::RepairRefused {
            migration: names.text("migration"),
            action: names.text("action"),
            offered: names.list("offered"),
            message,
        },
        Some(ErrorReason::UnknownSchedule) => Error::UnknownSchedule {
            schedule: names.text("schedule"),
            message,
        },
        Some(ErrorReason::ScheduleExists) => Error::ScheduleExists {
            name: names.text("name"),
            schedule: names.text("schedule"),
            message,
        },
        Some(ErrorReason::ScheduleChanged) => Error::ScheduleChanged {
            schedule: names.text("schedule"),
            etag: names.text("etag"),
            message,
        },
        Some(ErrorReason::ScheduleBusy) => Error::ScheduleBusy {
            schedule: names.text("schedule"),
            message,
        },
        Some(ErrorReason::StandingApproval) => Error::StandingApproval {
            schedule: names.text("schedule"),
            operations: names.list("operations"),
            problem: names.text("problem"),
            message,
        },
        Some(ErrorReason::SlotRefused) => Error::SlotRefused {
            schedule: names.text("schedule"),
            problem: names.text("problem"),
            retry_after,
            message,
        },
        Some(ErrorReason::MethodNotAllowed) => Error::MethodNotAllowed { message },
        Some(ErrorReason::Internal) => Error::Internal {
            incident: names.text("incident"),
            message,
        },
    }
}

fn violations(details: &ErrorDetails) -> Vec<FieldViolation> {
    let fields = details
        .bad_request()
        .map(|request| request.field_violations.as_slice())
        .unwrap_or_default();
    fields
        .iter()
        .map(|violation| FieldViolation {
            field: violation.field.clone(),
            description: violation.description.clone(),
        })
        .collect()
}

/// What stands in the way of migrations: one violation for each, with the code as its type and the migration as its subject.
fn preconditions(details: &ErrorDetails) -> Vec<MigrationViolation> {
    let failures = details
        .precondition_failure()
        .map(|failure| failure.violations.as_slice())
        .unwrap_or_default();
    failures
        .iter()
        .map(|violation| MigrationViolation {
            code: violation.r#type.clone(),
            migration: violation.subject.clone(),
            description: violation.description.clone(),
        })
        .collect()
}

/// `ErrorInfo.metadata`, read by the types that `errors.proto` documents.
struct Names<'a>(&'a HashMap<String, String>);

impl Names<'_> {
    fn optional(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    fn text(&self, name: &str) -> String {
        self.optional(name).unwrap_or_default()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(|value| value.parse().ok())
    }

    fn list(&self, name: &str) -> Vec<String> {
        let text = self.0.get(name).map(String::as_str).unwrap_or_default();
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
        let metadata: HashMap<String, String> = metadata
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        details.set_retry_info(Some(Duration::from_secs(3)));
        details.add_bad_request_violation("options.batch_size", "1 to 10000");
        Status::with_error_details(code, "the sentence", details)
    }

    #[test]
    fn every_reason_of_the_protocol_has_a_variant_of_its_own() {
        // Numbers of reasons that are no more leave gaps.
        let reasons: Vec<_> = (1..1_000).filter_map(|number| ErrorReason::try_from(number).ok()).collect();
        assert!(reasons.contains(&ErrorReason::Internal) && reasons.contains(&ErrorReason::FindingsUnconfirmed));
        for reason in reasons {
            let error = Error::from(status(Code::Unknown, wire_name(reason), &[]));
            assert_eq!(error.reason(), Some(reason), "{error:?}");
            assert_eq!(error.reason_name(), Some(wire_name(reason)));
            assert_eq!(error.to_string(), "the sentence");
        }
    }

    #[test]
    fn names_and_numbers_come_from_the_metadata() {
        let drifted = status(
            Code::FailedPrecondition,
            "COUNT_DRIFTED",
            &[("step", "0"), ("planned", "12"), ("found", "many")],
        );
        assert!(matches!(
            Error::from(drifted),
            Error::CountDrifted { step, planned: Some(12), found: None, .. } if step == "0"
        ));
        let unknown = status(Code::NotFound, "UNKNOWN_TARGET", &[("target", "x"), ("known", "main, other")]);
        assert!(matches!(
            Error::from(unknown),
            Error::UnknownTarget { target, known, .. } if target == "x" && known == ["main", "other"]
        ));
        let invalid = Error::from(status(Code::InvalidArgument, "INVALID_FIELD", &[]));
        assert!(matches!(
            invalid,
            Error::InvalidField { violations, .. }
                if violations.len() == 1 && violations[0].field == "options.batch_size" && violations[0].description == "1 to 10000"
        ));
        let away = Error::from(status(Code::Unavailable, "TARGET_UNAVAILABLE", &[("target", "main")]));
        assert_eq!(away.retry_after(), Some(Duration::from_secs(3)));
        assert!(away.is_unavailable());
    }

    #[test]
    fn what_blocks_migrations_comes_with_its_code_and_its_migration() {
        let metadata = HashMap::from([
            ("target".to_owned(), "main".to_owned()),
            ("problems".to_owned(), "STOPPED,CHANGED".to_owned()),
        ]);
        let mut details = ErrorDetails::with_error_info("MIGRATIONS_BLOCKED", DOMAIN, metadata);
        details.add_precondition_failure_violation("STOPPED", "3", "it stopped. Next: repair it");
        let error = Error::from(Status::with_error_details(Code::FailedPrecondition, "the sentence", details));
        let Error::MigrationsBlocked {
            target,
            problems,
            violations,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(
            (target.as_str(), problems),
            ("main", vec!["STOPPED".into(), "CHANGED".into()])
        );
        assert_eq!(
            violations,
            [MigrationViolation {
                code: "STOPPED".into(),
                migration: "3".into(),
                description: "it stopped. Next: repair it".into(),
            }]
        );
    }

    #[test]
    fn errors_of_migrations_carry_their_names() {
        let unknown = status(Code::NotFound, "UNKNOWN_MIGRATION", &[("migration", "7"), ("target", "main")]);
        assert!(matches!(
            Error::from(unknown),
            Error::UnknownMigration { migration, near: None, .. } if migration == "7"
        ));
        let held = Error::from(status(Code::Aborted, "MIGRATIONS_HELD", &[("holder", "h"), ("until", "u")]));
        assert_eq!(held.retry_after(), Some(Duration::from_secs(3)));
        assert!(!held.is_unavailable(), "a call that was refused is not repeated by itself");
        let refused = status(
            Code::FailedPrecondition,
            "REPAIR_REFUSED",
            &[("migration", "7"), ("offered", "retry, skip")],
        );
        assert!(matches!(
            Error::from(refused),
            Error::RepairRefused { offered, .. } if offered == ["retry", "skip"]
        ));
    }

    #[test]
    fn errors_of_schedules_carry_their_names() {
        let unknown = status(Code::NotFound, "UNKNOWN_SCHEDULE", &[("schedule", "nightly")]);
        assert!(matches!(Error::from(unknown), Error::UnknownSchedule { schedule, .. } if schedule == "nightly"));
        let exists = status(
            Code::AlreadyExists,
            "SCHEDULE_EXISTS",
            &[("name", "nightly"), ("schedule", "s1")],
        );
        assert!(matches!(
            Error::from(exists),
            Error::ScheduleExists { name, schedule, .. } if (name.as_str(), schedule.as_str()) == ("nightly", "s1")
        ));
        let changed = status(Code::Aborted, "SCHEDULE_CHANGED", &[("schedule", "nightly"), ("etag", "7")]);
        assert!(matches!(
            Error::from(changed),
            Error::ScheduleChanged { schedule, etag, .. } if (schedule.as_str(), etag.as_str()) == ("nightly", "7")
        ));
        let busy = status(Code::FailedPrecondition, "SCHEDULE_BUSY", &[("schedule", "nightly")]);
        assert!(matches!(Error::from(busy), Error::ScheduleBusy { schedule, .. } if schedule == "nightly"));
        let approval = status(
            Code::FailedPrecondition,
            "STANDING_APPROVAL",
            &[("schedule", "nightly"), ("operations", "a,b"), ("problem", "it has none")],
        );
        assert!(matches!(
            Error::from(approval),
            Error::StandingApproval { operations, problem, .. } if operations == ["a", "b"] && problem == "it has none"
        ));
        // Another server was quicker: no schedule is named, and the call may be made again.
        let lost = Error::from(status(Code::Aborted, "SLOT_REFUSED", &[]));
        assert_eq!(lost.retry_after(), Some(Duration::from_secs(3)));
        assert!(!lost.is_unavailable(), "a slot that was refused is not fired again by itself");
    }

    #[test]
    fn an_approval_and_a_request_id_may_be_about_a_schedule() {
        let refused = status(
            Code::PermissionDenied,
            "APPROVAL_REFUSED",
            &[("schedule", "nightly"), ("principal", "ann"), ("problem", "same_principal")],
        );
        assert!(matches!(
            Error::from(refused),
            Error::ApprovalRefused { run, schedule, .. } if run.is_empty() && schedule == "nightly"
        ));
        let reused = status(Code::AlreadyExists, "REQUEST_ID_REUSED", &[("request_id", "r")]);
        assert!(matches!(
            Error::from(reused),
            Error::RequestIdReused { request_id, run, .. } if request_id == "r" && run.is_empty()
        ));
    }

    #[test]
    fn an_unknown_reason_keeps_everything_that_came() {
        let error = Error::from(status(Code::Aborted, "MOON_PHASE", &[("phase", "full")]));
        assert_eq!(error.reason(), None);
        assert_eq!(error.reason_name(), Some("MOON_PHASE"));
        assert!(matches!(
            error,
            Error::Other { code: Code::Aborted, metadata, message, .. } if metadata["phase"] == "full" && message == "the sentence"
        ));
    }

    #[test]
    fn a_reason_of_another_domain_is_not_ours() {
        let details = ErrorDetails::with_error_info("PLAN_REQUIRED", "proxy.example", HashMap::new());
        let error = Error::from(Status::with_error_details(Code::Unavailable, "no upstream", details));
        assert_eq!(error.reason(), None);
        assert!(error.is_unavailable());
    }
}
