//! What SQLite's errors mean to the engine. Matched by result code; only "no such table" and "no such column", which share
//! the code of every other mistake in a statement, are told apart by their text.

use dbkeep_engine::port::{TargetError, TargetErrorClass};

pub(super) fn refused(message: String) -> TargetError {
    TargetError::new(TargetErrorClass::Refused, message)
}

/// An error while opening the file: whatever it is, there is no connection.
pub(super) fn opening(error: sqlx::Error) -> TargetError {
    let mut error = statement(error);
    if error.class == TargetErrorClass::Refused {
        error.class = TargetErrorClass::Lost;
    }
    error
}

/// An error of COMMIT. Only what surely took the transaction back is told apart; of anything else the journal knows.
pub(super) fn commit(error: sqlx::Error) -> TargetError {
    let mut error = statement(error);
    if !matches!(error.class, TargetErrorClass::Constraint | TargetErrorClass::LockTimeout) {
        error.class = TargetErrorClass::Lost;
    }
    error
}

/// An error of a statement.
pub(super) fn statement(error: sqlx::Error) -> TargetError {
    let sqlx::Error::Database(database) = &error else {
        return match error {
            sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed => TargetError::new(TargetErrorClass::Lost, error.to_string()),
            other => refused(other.to_string()),
        };
    };
    let message = database.message().to_owned();
    let code = database.code().map(std::borrow::Cow::into_owned);
    // The low byte is the primary code, the rest says more.
    let primary = code
        .as_deref()
        .and_then(|code| code.parse::<u32>().ok())
        .map_or(1, |code| code & 0xff);
    let class = match primary {
        5 | 6 => TargetErrorClass::LockTimeout,
        9 => TargetErrorClass::Timeout,
        17 => TargetErrorClass::Conflict,
        19 => TargetErrorClass::Constraint,
        3 | 8 | 23 => TargetErrorClass::Permission,
        14 => TargetErrorClass::Lost,
        1 if message.starts_with("no such table") || message.starts_with("no such column") => TargetErrorClass::SchemaChanged,
        _ => TargetErrorClass::Refused,
    };
    let constraint = (primary == 19)
        .then(|| message.split_once(": ").map(|(_, name)| name.to_owned()))
        .flatten();
    TargetError {
        class,
        message,
        code,
        constraint,
        sink: None,
    }
}
