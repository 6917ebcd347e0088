//! Exit codes.
//!
//! Owns what they mean and which one an error or an ended run gets. Called by `main.rs`, `failure.rs` and `follow.rs`.

use std::process::ExitCode;

use dbkeep_client::{Code, Error, proto::RunState};

/// The part of `--help` that a script's author needs.
pub(crate) const HELP: &str = "\
Exit codes:
  0    success
  1    error, or the run failed, or the audit log is not whole
  2    usage: the command line, or a value that the server refused
  3    the run succeeded in part: time limit, failed steps, or rows left over
  4    refused: not known to the server, or not allowed to;
       or refused by a precondition: plan needed, used, expired, blocked or drifted;
       phrase or approval refused; table held by another run; state of the run;
       migrations: none configured, blocked, held, or none to take (`status`,
       `plan`, and a dry run too, where something blocks);
       schedules: name taken, changed meanwhile, busy, or no standing approval
  5    unreachable: the server, its store or the target is away, or a call timed out
  6    cancelled: the run was cancelled, or the question was answered with no
  130  detached by Ctrl-C; the run goes on

A run belongs to the server. Ctrl-C leaves it at work:
`dbkeep runs watch ID` comes back, `dbkeep runs cancel ID` stops it.";

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is done.
    Success,
    /// Error, or a run that failed.
    Failure,
    /// The command line, or a value that the server refused.
    Usage,
    /// A run that did a part of its plan.
    Partial,
    /// Refused before anything was changed.
    Refused,
    /// Somebody is away.
    Unreachable,
    /// Stopped on purpose.
    Cancelled,
    /// Left by Ctrl-C while the run goes on.
    Detached,
}

impl Exit {
    /// The number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::Refused => 4,
            Self::Unreachable => 5,
            Self::Cancelled => 6,
            // 128 + SIGINT, as a shell reports it.
            Self::Detached => 130,
        }
    }

    /// The code of a run's end; of a run that has not ended, success: nothing went wrong yet.
    pub(crate) fn of_state(state: RunState) -> Self {
        match state {
            RunState::Failed => Self::Failure,
            RunState::PartiallySucceeded => Self::Partial,
            RunState::Cancelled => Self::Cancelled,
            RunState::Succeeded
            | RunState::Unspecified
            | RunState::Queued
            | RunState::Running
            | RunState::Pausing
            | RunState::Paused
            | RunState::Cancelling
            | RunState::Interrupted => Self::Success,
        }
    }

    /// The code of an error.
    pub(crate) fn of_error(error: &Error) -> Self {
        match error {
            Error::InvalidAddress { .. } | Error::InvalidField { .. } | Error::PrincipalRefused { .. } => Self::Usage,
            Error::UnknownPlan { .. }
            | Error::PlanExpired { .. }
            | Error::PlanMismatch { .. }
            | Error::SchemaChanged { .. }
            | Error::CountDrifted { .. }
            | Error::PlanRequired { .. }
            | Error::PlanBlocked { .. }
            | Error::PlanUsed { .. }
            | Error::ConfirmationPhrase { .. }
            | Error::ApprovalRefused { .. }
            | Error::FindingsUnconfirmed { .. }
            | Error::Unauthenticated { .. }
            | Error::RoleRefused { .. }
            | Error::OutOfScope { .. }
            | Error::MethodNotAllowed { .. }
            | Error::TokenExists { .. }
            | Error::CatalogMismatch { .. }
            | Error::RootUnusable { .. }
            | Error::RunAlreadyActive { .. }
            | Error::RequestIdReused { .. }
            | Error::RunState { .. }
            | Error::NothingCaptured { .. }
            | Error::BackupPruned { .. }
            | Error::ConfirmationRequired { .. }
            | Error::ToolUnavailable { .. }
            | Error::TablesNotEmpty { .. }
            | Error::BackupKind { .. }
            | Error::BackupOtherDatabase { .. }
            | Error::NoMigrations { .. }
            | Error::MigrationSource { .. }
            | Error::MigrationGraph { .. }
            | Error::MigrationsBlocked { .. }
            | Error::NothingToMigrate { .. }
            | Error::MigrationsHeld { .. }
            | Error::MigrationLedgerMoved { .. }
            | Error::RepairRefused { .. }
            | Error::DeliveryState { .. }
            | Error::ScheduleExists { .. }
            | Error::ScheduleChanged { .. }
            | Error::ScheduleBusy { .. }
            | Error::StandingApproval { .. }
            | Error::SlotRefused { .. } => Self::Refused,
            Error::Deadline { .. } | Error::TooManyStreams { .. } | Error::TooManyCalls { .. } => Self::Unreachable,
            Error::Other {
                code: Code::FailedPrecondition | Code::Aborted,
                ..
            } => Self::Refused,
            away if away.is_unavailable() => Self::Unreachable,
            _ => Self::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_code() {
        for exit in [
            Exit::Success,
            Exit::Failure,
            Exit::Usage,
            Exit::Partial,
            Exit::Refused,
            Exit::Unreachable,
            Exit::Cancelled,
            Exit::Detached,
        ] {
            let start = format!("\n  {:<5}", exit.code());
            assert!(HELP.contains(&start), "{exit:?}");
        }
    }

    #[test]
    fn errors_and_states_get_their_codes() {
        let message = String::new;
        assert_eq!(Exit::of_error(&Error::UnknownPlan { message: message() }), Exit::Refused);
        assert_eq!(Exit::of_error(&Error::Unreachable { problem: message() }), Exit::Unreachable);
        assert_eq!(
            Exit::of_error(&Error::InvalidField {
                violations: vec![],
                message: message()
            }),
            Exit::Usage
        );
        assert_eq!(
            Exit::of_error(&Error::UnknownRun {
                run: message(),
                message: message()
            }),
            Exit::Failure
        );
        assert_eq!(
            Exit::of_error(&Error::NothingToMigrate {
                target: message(),
                message: message()
            }),
            Exit::Refused
        );
        assert_eq!(
            Exit::of_error(&Error::UnknownSchedule {
                schedule: message(),
                message: message()
            }),
            Exit::Failure
        );
        assert_eq!(
            Exit::of_error(&Error::ScheduleBusy {
                schedule: message(),
                message: message()
            }),
            Exit::Refused
        );
        assert_eq!(Exit::of_state(RunState::PartiallySucceeded), Exit::Partial);
        assert_eq!(Exit::of_state(RunState::Cancelled), Exit::Cancelled);
        assert_eq!(Exit::of_state(RunState::Failed), Exit::Failure);
    }
}
