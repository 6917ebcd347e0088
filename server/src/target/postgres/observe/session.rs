//! The connection of a look: every statement in a transaction of its own, with limits, tried again where a table vanished under it.

use std::time::{Duration, Instant};

use dbkeep_engine::{
    model::monitor::Gap,
    port::{TargetError, TargetErrorClass},
};
use sqlx::{
    AssertSqlSafe, Executor as _, FromRow,
    postgres::{PgArguments, PgRow},
};

use super::{
    super::{
        error::{lost, statement},
        line::Line,
        render,
    },
    database::Basics,
};

/// A statement over catalogs that takes longer than this is given up.
const STATEMENT: Duration = Duration::from_secs(5);
/// Nothing here waits for a lock longer than this.
const LOCKS: Duration = Duration::from_millis(50);
/// How much later than the server's own limit the answer may come.
const GRACE: Duration = Duration::from_millis(500);
/// Tries where a relation is locked while it is looked at.
const TRIES: u32 = 3;
/// Tries where one vanishes. Such a try takes no longer than the statement, and where tables come and go all the time the next may fail too.
const VANISHED_TRIES: u32 = 10;
/// Said where the server does not answer any more.
pub(super) const SILENT: &str = "the server did not answer in time";

pub(super) type Query = sqlx::query::Query<'static, sqlx::Postgres, PgArguments>;

/// A look that is going on.
pub(super) struct Look<'a> {
    connection: &'a mut Line,
    deadline: Instant,
    basics: Option<Basics>,
    gaps: Vec<Gap>,
    lost: Option<TargetError>,
    silent: bool,
}

impl<'a> Look<'a> {
    pub(super) fn new(connection: &'a mut Line, began: Instant, limit: Duration) -> Self {
        Self {
            connection,
            deadline: began + limit,
            basics: None,
            gaps: Vec::new(),
            lost: None,
            silent: false,
        }
    }

    /// Whom gaps are for.
    pub(super) fn know(&mut self, basics: Basics) {
        self.basics = Some(basics);
    }

    /// What could not be read, and whether the connection held.
    pub(super) fn end(self) -> (Vec<Gap>, Result<(), TargetError>) {
        (self.gaps, self.lost.map_or(Ok(()), Err))
    }

    /// Time that is left.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The name of the role that looks, as SQL.
    pub(super) fn role(&self) -> String {
        render::identifier(self.basics.as_ref().map_or("", |basics| &basics.role))
    }

    /// The statement that lets the role see what others do.
    pub(super) fn grant(&self) -> String {
        format!("GRANT pg_monitor TO {};", self.role())
    }

    /// Adds what could not be read.
    pub(super) fn gap(&mut self, what: &str, why: impl Into<String>, allow: impl Into<String>) {
        self.gaps.push(Gap {
            what: what.to_owned(),
            why: why.into(),
            allow: allow.into(),
        });
    }

    /// The value, or a gap. Where the role may not, the gap says what allows it.
    pub(super) fn or_gap<T>(&mut self, what: &str, result: Result<T, TargetError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                let allow = if error.class == TargetErrorClass::Permission {
                    self.grant()
                } else {
                    String::new()
                };
                self.gap(what, error.message, allow);
                None
            }
        }
    }

    pub(super) fn basics(&self) -> Option<&Basics> {
        self.basics.as_ref()
    }

    /// The first row of a statement over catalogs and statistics.
    pub(super) async fn one<T>(&mut self, query: impl Fn() -> Query) -> Result<Option<T>, TargetError>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        let rows = self.rows(query).await?;
        rows.first().map(T::from_row).transpose().map_err(statement)
    }

    /// All of them.
    pub(super) async fn list<T>(&mut self, query: impl Fn() -> Query) -> Result<Vec<T>, TargetError>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        let rows = self.rows(query).await?;
        rows.iter().map(T::from_row).collect::<Result<_, _>>().map_err(statement)
    }

    /// The rows of a statement over catalogs and statistics.
    pub(super) async fn rows(&mut self, query: impl Fn() -> Query) -> Result<Vec<PgRow>, TargetError> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.attempt(query(), STATEMENT).await {
                Err(error) if tried < tries(&error) => {}
                result => return result,
            }
        }
    }

    /// The rows of a statement that reads a table, as long as there is time.
    pub(super) async fn reading(&mut self, query: Query) -> Result<Vec<PgRow>, TargetError> {
        self.attempt(query, Duration::MAX).await
    }

    async fn attempt(&mut self, query: Query, longest: Duration) -> Result<Vec<PgRow>, TargetError> {
        if let Some(lost_before) = &self.lost {
            return Err(lost(lost_before.message.clone()));
        }
        let left = self.left();
        if self.silent {
            return Err(TargetError::new(TargetErrorClass::Timeout, SILENT));
        }
        if left.is_zero() {
            return Err(TargetError::new(
                TargetErrorClass::Timeout,
                "the time for the snapshot was over",
            ));
        }
        let result = tokio::time::timeout(left + GRACE, within(self.connection, query, left.min(longest))).await;
        let result = result.unwrap_or_else(|_| {
            self.silent = true;
            Err(TargetError::new(TargetErrorClass::Timeout, SILENT))
        });
        if let Err(error) = &result
            && error.class == TargetErrorClass::Lost
        {
            self.lost = Some(lost(error.message.clone()));
        }
        result
    }
}

/// How often the same statement is worth a try: more than once where a relation was locked for a moment, or was dropped between the look
/// into the catalog and the look at it, which PostgreSQL reports as an internal error.
fn tries(error: &TargetError) -> u32 {
    match error.class {
        TargetErrorClass::LockTimeout | TargetErrorClass::Conflict => TRIES,
        _ if error.code.as_deref() == Some("XX000") => VANISHED_TRIES,
        _ => 1,
    }
}

async fn within(connection: &mut Line, query: Query, limit: Duration) -> Result<Vec<PgRow>, TargetError> {
    let begin = format!(
        "BEGIN READ ONLY; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; SET LOCAL jit = off",
        limit.as_millis().clamp(1, 86_400_000),
        LOCKS.as_millis()
    );
    connection.execute(AssertSqlSafe(begin)).await.map_err(statement)?;
    match query.fetch_all(&mut *connection).await.map_err(statement) {
        Ok(rows) => {
            connection.execute("COMMIT").await.map_err(statement)?;
            Ok(rows)
        }
        Err(error) if error.class == TargetErrorClass::Lost => Err(error),
        Err(error) => {
            connection.execute("ROLLBACK").await.map_err(statement)?;
            Err(error)
        }
    }
}

/// A number of the database that is never negative.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A moment, from microseconds.
pub(super) fn moment(micros: i64) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(micros).ok()
}

/// A part of a whole, of numbers beyond 2^53 a little less exact.
#[expect(clippy::cast_precision_loss, reason = "shown in percent")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// Whole bytes of an estimate.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, not negative and below 2^53"
)]
pub(super) fn whole(number: f64) -> u64 {
    if number.is_finite() { number.max(0.0) as u64 } else { 0 }
}
