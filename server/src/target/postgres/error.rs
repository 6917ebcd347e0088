//! What PostgreSQL's errors mean to the engine. Matched by SQLSTATE, and once by the routine that raised it, never by text.

use dbkeep_engine::port::{TargetError, TargetErrorClass};
use sqlx::postgres::PgDatabaseError;

/// What to do about a right that is missing.
pub(super) const LACKING: &str =
    "`dbkeep grants` writes the SQL of the rights that dbkeep's role lacks, `--for` one feature or several";

/// The connection is gone, or was never there.
pub(super) fn lost(message: String) -> TargetError {
    TargetError::new(TargetErrorClass::Lost, message)
}

/// The database, or what it answered, cannot be worked with.
pub(super) fn refused(message: String) -> TargetError {
    TargetError::new(TargetErrorClass::Refused, message)
}

/// An error while connecting: whatever it is, there is no connection, except where the server says who may not come in.
pub(super) fn connecting(error: sqlx::Error) -> TargetError {
    let mut error = statement(error);
    if !matches!(error.class, TargetErrorClass::Permission) {
        error.class = TargetErrorClass::Lost;
    }
    error
}

/// An error of a statement.
pub(super) fn statement(error: sqlx::Error) -> TargetError {
    let sqlx::Error::Database(database) = &error else {
        return match error {
            sqlx::Error::Io(error) => lost(format!("the connection broke: {error}")),
            sqlx::Error::Tls(error) => lost(format!("TLS: {error}")),
            // A protocol error leaves the connection in an unknown state; it is dropped like a broken one.
            sqlx::Error::Protocol(message) => lost(format!("the connection broke: {message}")),
            sqlx::Error::WorkerCrashed | sqlx::Error::PoolClosed | sqlx::Error::PoolTimedOut => lost(error.to_string()),
            other => refused(other.to_string()),
        };
    };
    let Some(postgres) = database.try_downcast_ref::<PgDatabaseError>() else {
        // Of several servers, of which each says its own.
        let code = database.code().map(std::borrow::Cow::into_owned);
        return TargetError {
            class: code.as_deref().map_or(TargetErrorClass::Refused, class),
            code,
            ..refused(database.message().to_owned())
        };
    };
    let code = postgres.code();
    let mut message = postgres.message().to_owned();
    if let Some(detail) = postgres.detail() {
        message = format!("{message} ({detail})");
    }
    if code == "42501" {
        message = format!("{message}; {LACKING}");
    }
    // A connection that was kept has prepared the statement for columns of another type: a new one has not.
    let stale = code == "0A000" && postgres.routine() == Some("RevalidateCachedQuery");
    TargetError {
        class: if stale { TargetErrorClass::Conflict } else { class(code) },
        message,
        code: Some(code.to_owned()),
        constraint: postgres.constraint().map(str::to_owned),
        sink: None,
    }
}

/// An error of COMMIT. Only what surely took the transaction back is told apart; of anything else the journal knows.
pub(super) fn commit(error: sqlx::Error) -> TargetError {
    let mut error = statement(error);
    if !matches!(error.class, TargetErrorClass::Conflict | TargetErrorClass::Constraint) {
        error.class = TargetErrorClass::Lost;
    }
    error
}

/// Whether an error of COMMIT says that the transaction was surely taken back.
pub(super) fn commit_failed(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| matches!(class(&code), TargetErrorClass::Conflict | TargetErrorClass::Constraint))
}

/// Whether an error of an INSERT is about the row, so that other rows may still go in.
pub(super) fn about_the_row(error: &TargetError) -> bool {
    matches!(
        error.class,
        TargetErrorClass::Constraint | TargetErrorClass::Refused | TargetErrorClass::Unsupported
    )
}

fn class(code: &str) -> TargetErrorClass {
    match code {
        "40001" | "40P01" => TargetErrorClass::Conflict,
        "55P03" => TargetErrorClass::LockTimeout,
        "57014" => TargetErrorClass::Timeout,
        // Admin shutdown, crash shutdown, cannot connect now, database dropped, idle-in-transaction and idle-session timeouts.
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" => TargetErrorClass::Lost,
        // Undefined table, column, schema.
        "42P01" | "42703" | "3F000" => TargetErrorClass::SchemaChanged,
        "42501" | "28000" | "28P01" => TargetErrorClass::Permission,
        // Too many connections and the like pass.
        "53300" => TargetErrorClass::Lost,
        "0A000" => TargetErrorClass::Unsupported,
        _ if code.starts_with("08") => TargetErrorClass::Lost,
        _ if code.starts_with("23") => TargetErrorClass::Constraint,
        _ => TargetErrorClass::Refused,
    }
}
