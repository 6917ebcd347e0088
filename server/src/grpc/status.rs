//! From failures to gRPC statuses: the only place that builds a [`Status`].
//!
//! Every status carries an `ErrorInfo` whose reason and metadata are those of `errors.proto`, and the richer details that fit its
//! code: violated fields, a failed precondition, the missing resource, or when to come back. Faults of dbkeep itself get an
//! incident id instead of their cause; the cause is logged here, once, under that id. Called by the services and by the gate.

use std::{collections::HashMap, fmt, time::Duration};

use dbkeep_engine::{
    EngineError,
    model::RunId,
    port::{ArchiveError, StoreError, TargetError, TargetErrorClass},
};
use dbkeep_proto::v1::ErrorReason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Domain of every `ErrorInfo` that this service sends.
const DOMAIN: &str = "dbkeep";
/// What the enum's names carry in the .proto file and not on the wire.
const PREFIX: &str = "ERROR_REASON_";
/// Longest text in a status, characters. Details travel in one header block, which clients cap at about 16 KiB.
const TEXT_CHARACTERS: usize = 1_000;
/// When to try again where a short trouble is likely to be over.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// When to try again where a server has to come back.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// A field of a request that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Path of the field as the .proto files name it, such as `options.batch_size` or `filter.states[0]`.
    pub(crate) field: String,
    /// What is wrong and what was expected.
    pub(crate) problem: String,
}

/// Whatever ends a call without success.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The engine refused or failed.
    Engine(EngineError),
    /// Fields of the request are malformed or out of bounds; never empty.
    Fields(Vec<Violation>),
    /// The caller's deadline has come.
    Deadline {
        /// The run that the call had started or followed.
        run: Option<RunId>,
    },
    /// Every place for an open stream is taken.
    TooManyStreams {
        /// Number of places.
        limit: usize,
    },
    /// Nobody knows who calls.
    Unauthenticated {
        /// What is wrong with what came and what was expected; never what it was.
        problem: &'static str,
    },
    /// The caller's role does not cover the method.
    RoleRefused {
        /// Path of the method.
        method: &'static str,
        /// Role of the caller.
        role: &'static str,
        /// Role that the method asks for.
        asked: &'static str,
    },
    /// The method is about more than the targets that the caller is for.
    OutOfScope {
        /// Path of the method.
        method: &'static str,
    },
    /// The caller calls too often, or too much at a time.
    TooManyCalls {
        /// What there is too much of, and the limit.
        problem: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The server has more to do than it takes on.
    Overloaded,
    /// The request is too long.
    RequestTooLong {
        /// Largest request, bytes.
        limit: usize,
    },
    /// The request did not arrive as a whole.
    RequestBroken {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The act cannot be recorded, and is not done.
    AuditUnavailable,
    /// The caller's name cannot be taken.
    PrincipalRefused {
        /// What is wrong with it and what was expected.
        problem: String,
    },
    /// No row of the policy allows the method.
    MethodNotAllowed {
        /// Path of the method.
        method: String,
    },
    /// The operating system gives no random bytes.
    NoRandom,
    /// A task of this server ended without an answer.
    TaskLost(tokio::task::JoinError),
}

impl Fault {
    /// Code and words of a refusal, for the record.
    pub(crate) fn told(&self) -> (Code, String) {
        match self {
            Self::Unauthenticated { problem } => (Code::Unauthenticated, (*problem).to_owned()),
            Self::PrincipalRefused { problem } => (Code::Unauthenticated, format!("dbkeep-principal {problem}")),
            Self::RoleRefused { role, asked, .. } => {
                (Code::PermissionDenied, format!("the role is {role}; {asked} is asked for"))
            }
            Self::OutOfScope { .. } => (Code::PermissionDenied, "about more than the caller's targets".to_owned()),
            Self::MethodNotAllowed { .. } => (Code::PermissionDenied, "no policy allows the method".to_owned()),
            Self::TooManyCalls { problem, .. } => (Code::ResourceExhausted, problem.clone()),
            // About what the caller does not see.
            Self::Engine(error) => (Code::NotFound, error.to_string()),
            _ => (Code::Unknown, String::new()),
        }
    }
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        answer(fault).into_status()
    }
}

/// A status under construction.
struct Answer {
    code: Code,
    reason: ErrorReason,
    message: String,
    metadata: HashMap<String, String>,
    details: ErrorDetails,
}

impl Answer {
    fn new(code: Code, reason: ErrorReason, message: impl fmt::Display) -> Self {
        Self {
            code,
            reason,
            message: capped(&message),
            metadata: HashMap::new(),
            details: ErrorDetails::new(),
        }
    }

    /// `NOT_FOUND` with the resource that is missing.
    fn missing(reason: ErrorReason, kind: &str, name: &str, message: impl fmt::Display) -> Self {
        let mut answer = Self::new(Code::NotFound, reason, message);
        answer
            .details
            .set_resource_info(kind, capped(&name), "", answer.message.clone());
        answer
    }

    /// `FAILED_PRECONDITION` with what it failed on.
    fn unmet(reason: ErrorReason, subject: impl fmt::Display, message: impl fmt::Display) -> Self {
        let mut answer = Self::new(Code::FailedPrecondition, reason, message);
        answer
            .details
            .add_precondition_failure_violation(wire_name(reason), capped(&subject), answer.message.clone());
        answer
    }

    fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(name.to_owned(), capped(&value));
        self
    }

    fn field(mut self, field: &str, problem: &str) -> Self {
        self.details.add_bad_request_violation(field, capped(&problem));
        self
    }

    fn retry(mut self, after: Duration) -> Self {
        self.details.set_retry_info(Some(after));
        self
    }

    fn into_status(mut self) -> Status {
        self.details.set_error_info(wire_name(self.reason), DOMAIN, self.metadata);
        Status::with_error_details(self.code, self.message, self.details)
    }
}

/// The reason as `ErrorInfo.reason` carries it.
fn wire_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix(PREFIX).unwrap_or(name)
}

fn capped(text: &dyn fmt::Display) -> String {
    let text = text.to_string();
    match text.char_indices().nth(TEXT_CHARACTERS) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

fn answer(fault: Fault) -> Answer {
    match fault {
        Fault::Engine(error) => of_engine(error),
        Fault::Fields(violations) => {
            let named = violations
                .iter()
                .map(|violation| format!("{}: {}", violation.field, violation.problem))
                .collect::<Vec<_>>();
            let answer = Answer::new(Code::InvalidArgument, ErrorReason::InvalidField, named.join("; "));
            violations
                .iter()
                .fold(answer, |answer, violation| answer.field(&violation.field, &violation.problem))
        }
        Fault::Deadline { run: Some(run) } => Answer::new(
            Code::DeadlineExceeded,
            ErrorReason::Deadline,
            format!("the deadline of the call has come; run {run} goes on"),
        )
        .with("run", run),
        Fault::Deadline { run: None } => Answer::new(
            Code::DeadlineExceeded,
            ErrorReason::Deadline,
            "the deadline of the call has come",
        ),
        Fault::TooManyStreams { limit } => {
            let message = format!("all {limit} places for open streams are taken; expected fewer streams at a time");
            Answer::new(Code::ResourceExhausted, ErrorReason::TooManyStreams, message)
                .with("limit", limit)
                .retry(RETRY_LATER)
        }
        Fault::Unauthenticated { problem } => Answer::new(
            Code::Unauthenticated,
            ErrorReason::Unauthenticated,
            format!("the caller is not known: {problem}"),
        ),
        Fault::RoleRefused { method, role, asked } => Answer::new(
            Code::PermissionDenied,
            ErrorReason::RoleRefused,
            format!("{method} asks for the role {asked}; the caller has {role}"),
        )
        .with("method", method)
        .with("role", role)
        .with("asked", asked),
        Fault::OutOfScope { method } => Answer::new(
            Code::PermissionDenied,
            ErrorReason::OutOfScope,
            format!("{method} is about more than the targets that the caller is for"),
        )
        .with("method", method),
        Fault::TooManyCalls { problem, retry_after } => {
            Answer::new(Code::ResourceExhausted, ErrorReason::TooManyCalls, problem).retry(retry_after)
        }
        Fault::Overloaded => Answer::new(
            Code::Unavailable,
            ErrorReason::Overloaded,
            "the server has more calls to answer than it takes on; nothing was changed",
        )
        .retry(RETRY_SOON),
        Fault::RequestTooLong { limit } => Answer::new(
            Code::OutOfRange,
            ErrorReason::RequestBroken,
            format!("the request is too long; expected at most {limit} bytes"),
        ),
        Fault::RequestBroken { problem } => Answer::new(
            Code::InvalidArgument,
            ErrorReason::RequestBroken,
            format!("the request {problem}"),
        ),
        Fault::AuditUnavailable => Answer::new(
            Code::Unavailable,
            ErrorReason::AuditUnavailable,
            "the call cannot be recorded in the audit log; nothing was changed",
        )
        .retry(RETRY_LATER),
        Fault::PrincipalRefused { problem } => Answer::new(
            Code::Unauthenticated,
            ErrorReason::PrincipalRefused,
            format!("metadata dbkeep-principal {problem}"),
        )
        .with("problem", problem),
        Fault::MethodNotAllowed { method } => Answer::new(
            Code::PermissionDenied,
            ErrorReason::MethodNotAllowed,
            format!("no policy allows {method}"),
        )
        .with("method", method),
        Fault::NoRandom => internal(&std::io::Error::other("the operating system gives no random bytes")),
        Fault::TaskLost(error) => internal(&error),
    }
}

fn of_engine(error: EngineError) -> Answer {
    let recorded = error.reason();
    let answer = of_failure(error);
    // The record of decisions and the caller speak of the same reason.
    debug_assert_eq!(wire_name(answer.reason), recorded);
    answer
}

fn of_failure(error: EngineError) -> Answer {
    let said = error.to_string();
    match error {
        EngineError::InvalidField { field, problem } => {
            Answer::new(Code::InvalidArgument, ErrorReason::InvalidField, said).field(field, &problem)
        }
        EngineError::InvalidFields { problems } => {
            let answer = Answer::new(Code::InvalidArgument, ErrorReason::InvalidField, said);
            problems
                .iter()
                .fold(answer, |answer, problem| answer.field(&problem.field, &problem.problem))
        }
        EngineError::UnknownSchedule { key } => {
            Answer::missing(ErrorReason::UnknownSchedule, "schedule", &key, said).with("schedule", &key)
        }
        EngineError::ScheduleExists { name, id } => Answer::new(Code::AlreadyExists, ErrorReason::ScheduleExists, said)
            .with("name", name)
            .with("schedule", id.map(|id| id.to_string()).unwrap_or_default()),
        EngineError::ScheduleChanged { name, etag } => Answer::new(Code::Aborted, ErrorReason::ScheduleChanged, said)
            .with("schedule", name)
            .with("etag", etag),
        EngineError::ScheduleBusy { name } => Answer::unmet(ErrorReason::ScheduleBusy, &name, said).with("schedule", &name),
        EngineError::ScheduleRequestReused { request_id } => {
            Answer::new(Code::AlreadyExists, ErrorReason::RequestIdReused, said).with("request_id", request_id)
        }
        EngineError::ScheduleApprovalRefused {
            schedule,
            principal,
            problem,
        } => Answer::new(Code::PermissionDenied, ErrorReason::ApprovalRefused, said)
            .with("schedule", schedule)
            .with("principal", principal)
            .with("problem", problem.name()),
        EngineError::StandingApproval {
            schedule,
            operations,
            problem,
        } => Answer::unmet(ErrorReason::StandingApproval, &schedule, said)
            .with("schedule", &schedule)
            .with("operations", operations.join(","))
            .with("problem", problem),
        EngineError::SlotRefused { name, reason } => Answer::unmet(ErrorReason::SlotRefused, &name, said)
            .with("schedule", &name)
            .with("problem", reason),
        EngineError::SlotLost => Answer::new(Code::Aborted, ErrorReason::SlotRefused, said).retry(RETRY_SOON),
        EngineError::UnknownTarget { name, known } => Answer::missing(ErrorReason::UnknownTarget, "target", &name, said)
            .with("target", &name)
            .with("known", known.join(",")),
        EngineError::UnknownOperation { target, name, known } => {
            Answer::missing(ErrorReason::UnknownOperation, "operation", &name, said)
                .with("operation", &name)
                .with("target", target)
                .with("known", known.join(","))
        }
        EngineError::UnknownToken { key } => Answer::missing(ErrorReason::UnknownToken, "token", &key, said).with("token", &key),
        EngineError::TokenExists { name } => Answer::new(Code::AlreadyExists, ErrorReason::TokenExists, said).with("name", name),
        EngineError::UnknownRun { id } => Answer::missing(ErrorReason::UnknownRun, "run", &id, said).with("run", &id),
        EngineError::UnknownBackup { id } => Answer::missing(ErrorReason::UnknownBackup, "backup", &id, said).with("backup", &id),
        EngineError::UnknownChannel { name, known } => Answer::missing(ErrorReason::UnknownChannel, "channel", &name, said)
            .with("channel", &name)
            .with("known", known.join(",")),
        EngineError::UnknownAlert { id } => Answer::missing(ErrorReason::UnknownAlert, "alert", &id, said).with("alert", &id),
        EngineError::UnknownDelivery { id } => {
            Answer::missing(ErrorReason::UnknownDelivery, "delivery", &id, said).with("delivery", &id)
        }
        EngineError::UnknownAuditRecord { number } => {
            Answer::missing(ErrorReason::UnknownAuditRecord, "audit record", &number.to_string(), said).with("number", number)
        }
        EngineError::AuditLogBroken { number, problem } => Answer::new(Code::DataLoss, ErrorReason::AuditLogBroken, said)
            .with("number", number)
            .with("problem", problem),
        EngineError::AnchorFile(error) => internal(&error),
        EngineError::DeliveryState { id, state } => Answer::unmet(ErrorReason::DeliveryState, id, said)
            .with("delivery", id)
            .with("state", state.name()),
        EngineError::CatalogMismatch {
            origin,
            operation,
            rule,
            expected,
        } => Answer::unmet(ErrorReason::CatalogMismatch, &origin, said)
            .with("origin", &origin)
            .with("operation", operation)
            .with("rule", rule)
            .with("expected", expected),
        EngineError::UnknownPlan => Answer::missing(ErrorReason::UnknownPlan, "plan", "", said),
        EngineError::PlanExpired { plan, expired_at } => Answer::unmet(ErrorReason::PlanExpired, plan, said)
            .with("plan", plan)
            .with("expired_at", expired_at),
        EngineError::PlanMismatch {
            plan,
            field,
            planned,
            requested,
        } => Answer::unmet(ErrorReason::PlanMismatch, plan, said)
            .with("plan", plan)
            .with("field", field)
            .with("planned", planned)
            .with("requested", requested),
        EngineError::SchemaChanged { plan, tables } => Answer::unmet(ErrorReason::SchemaChanged, plan, said)
            .with("plan", plan)
            .with("tables", tables),
        EngineError::CountDrifted {
            step,
            rule,
            planned,
            found,
            tolerance,
        } => Answer::unmet(ErrorReason::CountDrifted, rule, said)
            .with("step", step)
            .with("planned", planned)
            .with("found", found)
            .with("tolerance", tolerance),
        EngineError::PlanRequired { operation, severity } => Answer::unmet(ErrorReason::PlanRequired, &operation, said)
            .with("operation", &operation)
            .with("severity", severity.name()),
        EngineError::PlanBlocked { finding } => Answer::unmet(ErrorReason::PlanBlocked, &finding.table, said)
            .with("finding", &finding.code)
            .with("table", &finding.table)
            .with("detail", &finding.detail)
            .with("remediation", &finding.remediation),
        EngineError::PlanUsed { plan, run } => Answer::unmet(ErrorReason::PlanUsed, plan, said)
            .with("plan", plan)
            .with("run", run),
        EngineError::ConfirmationPhrase { plan, given } => Answer::unmet(ErrorReason::ConfirmationPhrase, plan, said)
            .with("plan", plan)
            .with("problem", if given { "different" } else { "missing" }),
        EngineError::ApprovalRefused { run, principal, problem } => {
            Answer::new(Code::PermissionDenied, ErrorReason::ApprovalRefused, said)
                .with("run", run)
                .with("principal", principal)
                .with("problem", problem.name())
        }
        EngineError::FindingsUnconfirmed { finding } => Answer::unmet(ErrorReason::FindingsUnconfirmed, &finding.table, said)
            .with("finding", &finding.code)
            .with("table", &finding.table)
            .with("detail", &finding.detail)
            .with("remediation", &finding.remediation),
        EngineError::RunAlreadyActive {
            run,
            state,
            operations,
            since,
            target,
            table,
        } => Answer::new(Code::Aborted, ErrorReason::RunAlreadyActive, said)
            .with("run", run)
            .with("state", state.name())
            .with("operations", operations.join(","))
            .with("since", since)
            .with("target", target)
            .with("table", table),
        EngineError::RequestIdReused { request_id, run } => Answer::new(Code::AlreadyExists, ErrorReason::RequestIdReused, said)
            .with("request_id", request_id)
            .with("run", run),
        EngineError::WrongState { run, state, expected } => Answer::unmet(ErrorReason::RunState, run, said)
            .with("run", run)
            .with("state", state.name())
            .with("allowed", expected),
        EngineError::NothingCaptured { run } => Answer::unmet(ErrorReason::NothingCaptured, run, said).with("run", run),
        EngineError::SequenceAhead { run, last } => {
            let problem = format!("lies beyond the newest event; expected at most {last}");
            Answer::new(Code::InvalidArgument, ErrorReason::SequenceAhead, said)
                .with("run", run)
                .with("last_sequence", last)
                .field("after_sequence", &problem)
        }
        EngineError::Target { target, source } => of_target(&target, &source, said),
        EngineError::Files { target, source } => Answer::unmet(ErrorReason::RootUnusable, &target, said)
            .with("target", &target)
            .with("detail", source),
        EngineError::NoMigrations { target } => Answer::unmet(ErrorReason::NoMigrations, &target, said).with("target", &target),
        EngineError::MigrationSource { target, place, problem } => Answer::unmet(ErrorReason::MigrationSource, &place, said)
            .with("target", target)
            .with("folder", &place)
            .with("problem", problem),
        EngineError::UnknownMigration { target, wanted, near } => {
            let answer = Answer::missing(ErrorReason::UnknownMigration, "migration", &wanted, said)
                .with("migration", &wanted)
                .with("target", target);
            match near {
                Some(near) => answer.with("near", near),
                None => answer,
            }
        }
        EngineError::MigrationGraph { target, problem } => Answer::unmet(ErrorReason::MigrationGraph, &target, said)
            .with("target", &target)
            .with("problem", problem),
        EngineError::MigrationsBlocked { target, problems } => {
            let codes: Vec<&str> = problems.iter().map(|problem| problem.code).collect();
            let mut answer = Answer::new(Code::FailedPrecondition, ErrorReason::MigrationsBlocked, said)
                .with("target", &target)
                .with("problems", codes.join(","));
            // Details travel in one header block: the first few say enough.
            for problem in problems.iter().take(8) {
                let text = format!("{}. Next: {}", problem.message, problem.next_step);
                answer
                    .details
                    .add_precondition_failure_violation(problem.code, capped(&problem.id), capped(&text));
            }
            answer
        }
        EngineError::MigrationPlanRequired { target, reason } => Answer::unmet(ErrorReason::PlanRequired, &target, said)
            .with("target", &target)
            .with("severity", "HIGH")
            .with("detail", reason),
        EngineError::MigrationPlanChanged { target } => {
            Answer::unmet(ErrorReason::PlanMismatch, &target, said).with("target", &target)
        }
        EngineError::NothingToMigrate { target } => {
            Answer::unmet(ErrorReason::NothingToMigrate, &target, said).with("target", &target)
        }
        EngineError::MigrationsHeld {
            target,
            holder,
            run,
            until,
        } => Answer::new(Code::Aborted, ErrorReason::MigrationsHeld, said)
            .with("target", target)
            .with("holder", holder)
            .with("run", run)
            .with("until", until)
            .retry(RETRY_LATER),
        EngineError::MigrationLedgerMoved { target, problem } => {
            Answer::new(Code::Aborted, ErrorReason::MigrationLedgerMoved, said)
                .with("target", target)
                .with("problem", problem)
        }
        EngineError::RepairRefused { id, action, offered } => Answer::unmet(ErrorReason::RepairRefused, &id, said)
            .with("migration", &id)
            .with("action", action)
            .with("offered", offered),
        EngineError::Store(StoreError::Unavailable(cause)) => {
            // Which host does not answer is the operator's business, not the caller's.
            tracing::warn!(cause, "the control store is unavailable");
            Answer::new(
                Code::Unavailable,
                ErrorReason::StoreUnavailable,
                "dbkeep's control store is unavailable; nothing was changed",
            )
            .retry(RETRY_LATER)
        }
        EngineError::Store(error @ (StoreError::Fenced | StoreError::Corrupt(_))) => internal(&error),
        EngineError::BackupPruned { backup, at } => Answer::unmet(ErrorReason::BackupPruned, backup, said)
            .with("backup", backup)
            .with("pruned_at", at),
        EngineError::ConfirmationRequired { expected } => {
            Answer::unmet(ErrorReason::ConfirmationRequired, &expected, said).with("expected", &expected)
        }
        EngineError::ToolUnavailable { target, tool, problem } => Answer::unmet(ErrorReason::ToolUnavailable, &tool, said)
            .with("tool", &tool)
            .with("target", target)
            .with("problem", problem),
        EngineError::TableUnsuitable { target, table, problem } => {
            Answer::new(Code::InvalidArgument, ErrorReason::InvalidField, said)
                .field("tables", &format!("{table} of {target}: {problem}"))
        }
        EngineError::TablesNotEmpty { target, tables } => Answer::unmet(ErrorReason::TablesNotEmpty, &target, said)
            .with("target", &target)
            .with("tables", tables.join(",")),
        EngineError::BackupKind { backup, expected } => Answer::unmet(ErrorReason::BackupKind, backup, said)
            .with("backup", backup)
            .with("expected", expected),
        EngineError::BackupOtherDatabase { backup, difference } => Answer::unmet(ErrorReason::BackupOtherDatabase, backup, said)
            .with("backup", backup)
            .with("difference", difference),
        EngineError::Archive(error) => {
            let path = match &error {
                ArchiveError::Missing { file } => file.clone(),
                ArchiveError::Io { path, .. } => path.clone(),
            };
            Answer::new(Code::ResourceExhausted, ErrorReason::BackupStorage, said).with("path", path)
        }
        EngineError::GivenUp => Answer::new(Code::DeadlineExceeded, ErrorReason::Deadline, said),
        EngineError::ShuttingDown => {
            let message = "the server is shutting down; runs go on after its restart or on another server";
            Answer::new(Code::Unavailable, ErrorReason::ShuttingDown, message).retry(RETRY_LATER)
        }
    }
}

fn of_target(target: &str, error: &TargetError, said: String) -> Answer {
    let answer = match error.class {
        TargetErrorClass::Lost => Answer::new(Code::Unavailable, ErrorReason::TargetUnavailable, said).retry(RETRY_LATER),
        TargetErrorClass::LockTimeout | TargetErrorClass::Conflict | TargetErrorClass::Timeout => {
            Answer::new(Code::Unavailable, ErrorReason::TargetUnavailable, said).retry(RETRY_SOON)
        }
        TargetErrorClass::Permission => Answer::new(Code::PermissionDenied, ErrorReason::TargetPermission, said),
        TargetErrorClass::Constraint
        | TargetErrorClass::SchemaChanged
        | TargetErrorClass::Fenced
        | TargetErrorClass::Unsupported
        | TargetErrorClass::Sink
        | TargetErrorClass::OverBudget
        | TargetErrorClass::Refused => Answer::unmet(ErrorReason::TargetRefused, target, said),
    };
    let answer = answer.with("target", target);
    let answer = error.code.iter().fold(answer, |answer, code| answer.with("sqlstate", code));
    error
        .constraint
        .iter()
        .fold(answer, |answer, constraint| answer.with("constraint", constraint))
}

/// A fault of dbkeep itself: the caller gets a number to ask about, the log gets the cause.
fn internal(cause: &dyn std::error::Error) -> Answer {
    let incident = uuid::Uuid::now_v7();
    tracing::error!(%incident, cause = %chain(cause), "internal fault");
    Answer::new(
        Code::Internal,
        ErrorReason::Internal,
        format!("a fault of dbkeep; its log holds the cause under incident {incident}"),
    )
    .with("incident", incident)
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(error: EngineError) -> Status {
        Fault::Engine(error).into()
    }

    #[test]
    fn an_unknown_target_names_the_known_ones() {
        let status = status(EngineError::UnknownTarget {
            name: "x".into(),
            known: vec!["a".into(), "b".into()],
        });
        let details = status.get_error_details();
        let info = details.error_info().expect("an ErrorInfo");
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("UNKNOWN_TARGET", "dbkeep"));
        assert_eq!(
            (info.metadata["target"].as_str(), info.metadata["known"].as_str()),
            ("x", "a,b")
        );
        assert_eq!(details.resource_info().map(|info| info.resource_name.as_str()), Some("x"));
    }

    #[test]
    fn every_class_of_target_error_has_its_code() {
        let of = |class| {
            let source = TargetError {
                code: Some("55P03".into()),
                ..TargetError::new(class, "no")
            };
            let status = status(EngineError::Target {
                target: "t".into(),
                source,
            });
            let details = status.get_error_details();
            let info = details.error_info().expect("an ErrorInfo").clone();
            assert_eq!(
                (info.metadata["target"].as_str(), info.metadata["sqlstate"].as_str()),
                ("t", "55P03")
            );
            assert_eq!(details.retry_info().is_some(), status.code() == Code::Unavailable);
            assert_eq!(
                details.precondition_failure().is_some(),
                status.code() == Code::FailedPrecondition
            );
            (status.code(), info.reason)
        };
        for class in [
            TargetErrorClass::Lost,
            TargetErrorClass::LockTimeout,
            TargetErrorClass::Conflict,
            TargetErrorClass::Timeout,
        ] {
            assert_eq!(of(class), (Code::Unavailable, "TARGET_UNAVAILABLE".to_owned()));
        }
        assert_eq!(
            of(TargetErrorClass::Permission),
            (Code::PermissionDenied, "TARGET_PERMISSION".to_owned())
        );
        assert_eq!(
            of(TargetErrorClass::Refused),
            (Code::FailedPrecondition, "TARGET_REFUSED".to_owned())
        );
    }

    #[test]
    fn an_internal_fault_hides_its_cause_behind_an_incident() {
        let status = status(EngineError::Store(StoreError::Corrupt("row 7 of secret_table".into())));
        let details = status.get_error_details();
        let incident = &details.error_info().expect("an ErrorInfo").metadata["incident"];
        assert_eq!(status.code(), Code::Internal);
        assert!(
            status.message().contains(incident.as_str()) && !status.message().contains("secret_table"),
            "{}",
            status.message()
        );
    }

    #[test]
    fn long_texts_are_cut_so_that_headers_stay_small() {
        let status = status(EngineError::UnknownRun {
            id: "ü".repeat(100_000)
        });
        assert!(status.message().chars().count() <= TEXT_CHARACTERS + 1);
        assert!(status.details().len() < 10_000, "{} bytes", status.details().len());
    }
}
