//! The driver's errors as [`StoreError`]. What callers and logs get holds no connection string and no value of a row.

use dbkeep_engine::port::StoreError;

/// Why a transaction did not commit, while it may still be repeated.
#[derive(Debug)]
pub(super) enum Failure {
    /// The database or the way to it.
    Database(sqlx::Error),
    /// The answer to the caller.
    Store(StoreError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// Whether the database took nothing of the transaction, and may well take it the next time.
    pub(super) fn is_passing(&self) -> bool {
        let Self::Database(sqlx::Error::Database(error)) = self else {
            return false;
        };
        match error.code().as_deref() {
            // Serialization failure, deadlock, and a unique row that another transaction wrote between our look and our write:
            // the next look finds it.
            Some("40001" | "40P01" | "23505") => true,
            // Busy and locked, with every extension that they have.
            Some(code) => sqlite_primary(code).is_some_and(|primary| matches!(primary, 5 | 6)),
            None => false,
        }
    }

    /// What the caller gets.
    pub(super) fn into_store_error(self) -> StoreError {
        match self {
            Self::Database(error) => store_error(&error),
            Self::Store(error) => error,
        }
    }
}

/// SQLite's primary result code inside an extended one; `None` for SQLSTATEs, which have five characters.
fn sqlite_primary(code: &str) -> Option<u32> {
    if code.len() == 5 {
        None
    } else {
        code.parse::<u32>().ok().map(|code| code & 0xff)
    }
}

/// An error of the driver as one of the store.
pub(super) fn store_error(error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            // The message without the driver's decoration; PostgreSQL puts values of rows into the detail, not here.
            let message = format!("{} ({code})", database.message());
            // SQLite: corrupt, not a database. PostgreSQL: data or index corrupted; a table or column that is not as expected.
            let unreadable = matches!(sqlite_primary(&code), Some(11 | 26))
                || code.starts_with("XX")
                || code.starts_with("42P01")
                || code.starts_with("42703");
            if unreadable {
                StoreError::Corrupt(message)
            } else {
                StoreError::Unavailable(message)
            }
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::RowNotFound => StoreError::Corrupt(error.to_string()),
        sqlx::Error::PoolTimedOut => StoreError::Unavailable("no connection in time".to_owned()),
        sqlx::Error::PoolClosed => StoreError::Unavailable("closed".to_owned()),
        sqlx::Error::Io(source) => StoreError::Unavailable(format!("connection: {source}")),
        sqlx::Error::Tls(source) => StoreError::Unavailable(format!("TLS: {source}")),
        sqlx::Error::Protocol(message) => StoreError::Unavailable(format!("protocol: {message}")),
        // What the parser of connection strings has to say may quote the string.
        sqlx::Error::Configuration(_) => StoreError::Unavailable("its connection string is not understood".to_owned()),
        _ => StoreError::Unavailable("the database driver failed".to_owned()),
    }
}

/// Something stored that this version does not understand.
pub(super) fn corrupt(what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_codes_are_told_from_sqlstates() {
        assert_eq!(sqlite_primary("5"), Some(5));
        assert_eq!(sqlite_primary("261"), Some(5));
        assert_eq!(sqlite_primary("517"), Some(5));
        assert_eq!(sqlite_primary("262"), Some(6));
        assert_eq!(sqlite_primary("23505"), None);
    }

    #[test]
    fn a_connection_string_is_not_repeated() {
        let error = sqlx::Error::Configuration("postgres://dbkeep:hunter2@host".into());
        assert!(!store_error(&error).to_string().contains("hunter2"));
    }
}
