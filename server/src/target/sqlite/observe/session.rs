//! The connection of a look: every statement with a time limit, and what could not be read.

use std::time::{Duration, Instant};

use dbkeep_engine::{
    model::monitor::Gap,
    port::{TargetError, TargetErrorClass},
};
use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};

use super::super::{discover::arm, error::statement};

/// A look that is going on.
pub(super) struct Look<'a> {
    connection: &'a mut SqliteConnection,
    deadline: Instant,
    gaps: Vec<Gap>,
}

impl<'a> Look<'a> {
    pub(super) fn new(connection: &'a mut SqliteConnection, began: Instant, limit: Duration) -> Self {
        Self {
            connection,
            deadline: began + limit,
            gaps: Vec::new(),
        }
    }

    /// What could not be read.
    pub(super) fn end(self) -> Vec<Gap> {
        self.gaps
    }

    /// Adds what could not be read.
    pub(super) fn gap(&mut self, what: &str, why: impl Into<String>, allow: impl Into<String>) {
        self.gaps.push(Gap {
            what: what.to_owned(),
            why: why.into(),
            allow: allow.into(),
        });
    }

    /// The value, or a gap.
    pub(super) fn or_gap<T>(&mut self, what: &str, result: Result<T, TargetError>) -> Option<T> {
        result.map_err(|error| self.gap(what, error.message, "")).ok()
    }

    /// The rows of a statement.
    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<SqliteRow>, TargetError> {
        self.rows_within(sql, Duration::MAX).await
    }

    /// The rows of a statement, unless it takes longer than that.
    pub(super) async fn rows_within(&mut self, sql: &str, longest: Duration) -> Result<Vec<SqliteRow>, TargetError> {
        let connection = self.armed_for(longest).await?;
        sqlx::query(AssertSqlSafe(sql.to_owned()))
            .persistent(false)
            .fetch_all(connection)
            .await
            .map_err(statement)
    }

    /// The connection, on which a statement has the time that is left.
    pub(super) async fn armed(&mut self) -> Result<&mut SqliteConnection, TargetError> {
        self.armed_for(Duration::MAX).await
    }

    async fn armed_for(&mut self, longest: Duration) -> Result<&mut SqliteConnection, TargetError> {
        let left = self.deadline.saturating_duration_since(Instant::now()).min(longest);
        if left.is_zero() {
            return Err(TargetError::new(
                TargetErrorClass::Timeout,
                "the time for the snapshot was over",
            ));
        }
        arm(self.connection, left).await?;
        Ok(self.connection)
    }
}
