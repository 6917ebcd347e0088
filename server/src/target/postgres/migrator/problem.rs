//! What PostgreSQL's errors say about a statement of a script.

use dbkeep_engine::port::{MigratorError, TargetErrorClass};
use sqlx::postgres::{PgDatabaseError, PgErrorPosition};

use super::super::error::{LACKING, statement};

/// The error of the statement at `index`. A broken connection is no error of the statement.
pub(super) fn of_statement(error: sqlx::Error, index: usize, blockers: Vec<String>) -> MigratorError {
    let told = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .map(|error| {
            let mut message = error.message().to_owned();
            if let Some(detail) = error.detail() {
                message = format!("{message} ({detail})");
            }
            if let Some(hint) = error.hint() {
                message = format!("{message}. Hint: {hint}");
            }
            let offset = match error.position() {
                Some(PgErrorPosition::Original(position)) => position.checked_sub(1),
                _ => None,
            };
            (message, offset)
        });
    let target = statement(error);
    let Some((mut message, offset)) = told else {
        return target.into();
    };
    if target.code.as_deref() == Some("42501") {
        message = format!("{message}; {LACKING}");
    }
    if target.class == TargetErrorClass::Lost {
        return target.into();
    }
    MigratorError::Statement {
        index,
        offset,
        code: target.code.unwrap_or_default(),
        message,
        retryable: matches!(target.class, TargetErrorClass::LockTimeout | TargetErrorClass::Conflict),
        blockers: if target.class == TargetErrorClass::LockTimeout {
            blockers
        } else {
            Vec::new()
        },
    }
}

/// What a statement cannot be executed for, told before it is tried.
pub(super) fn of_script(index: usize, code: &str, message: String) -> MigratorError {
    MigratorError::Statement {
        index,
        offset: None,
        code: code.to_owned(),
        message,
        retryable: false,
        blockers: Vec::new(),
    }
}
