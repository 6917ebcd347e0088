//! A group that is one transaction: its statements and its ledger row take effect together. Four trips to the server beside the
//! statements' own: begin with the fence and the ledger row, end with the lease and the new row, commit.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use dbkeep_engine::{
    failpoint,
    model::{EngineKind, LedgerEntry, Statement, StatementReport},
    port::{Follow, GroupDone, GroupOrder, MigratorError, TargetError, TargetErrorClass, Told},
};
use sqlx::{AssertSqlSafe, Executor as _};

use super::super::line::Line;
use super::{
    super::{
        PostgresTarget,
        error::{self, refused, statement},
        liveness::watched_by,
    },
    foreign, ledger, look,
    observe::Observer,
    problem,
    session::{Armed, Process, Session, WIPE, simple, text},
};
use crate::target::{
    ledger::{check_unmoved, millis, report, tell, with_work},
    words::{Word, are, changes_rows, words},
};

/// The settings of a transaction for its statements.
pub(super) fn settings(lock_timeout: Duration, statement_timeout: Option<Duration>) -> String {
    // 0 would mean without limit.
    let lock = millis(lock_timeout).max(1);
    let limit = statement_timeout.map_or(0, |limit| millis(limit).max(1));
    format!(
        "SET LOCAL lock_timeout = {lock}; SET LOCAL statement_timeout = {limit}; SET LOCAL idle_in_transaction_session_timeout = '30s'; \
         SET LOCAL client_min_messages = warning"
    )
}

/// Takes back what a script has set for its session, and lets the ledger be reached whatever it has done.
fn own_settings(order: &GroupOrder) -> String {
    format!(
        "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; {}; SET LOCAL row_security = off; SET LOCAL synchronous_commit = on",
        settings(order.lock_timeout, order.statement_timeout)
    )
}

impl PostgresTarget {
    pub(super) async fn execute_together(&self, order: &GroupOrder, follow: &Follow) -> Result<GroupDone, MigratorError> {
        let mut session = self.unwiped_session().await?;
        session.note(order.claim).await?;
        let armed = Armed::new(self, &session);
        let group = Group {
            target: self,
            order,
            follow,
            process: session.process.clone(),
            watched: session.watched.clone(),
        };
        let worked = tokio::select! {
            biased;
            () = follow.stop.cancelled() => Err(MigratorError::Stopped),
            worked = group.work(&mut session.connection) => worked,
        };
        let committed = match worked {
            Ok(done) => {
                // From here on a stop would come too late to be told from a commit.
                failpoint!("migration-recorded");
                match session.connection.execute("COMMIT").await {
                    Ok(_) => Ok(done),
                    Err(error) => Err(group.not_committed(error)),
                }
            }
            Err(error) => Err(error),
        };
        match committed {
            Ok(done) => {
                armed.disarm();
                failpoint!("migration-committed");
                self.keep(session);
                Ok(done)
            }
            Err(error) => {
                if matches!(error, MigratorError::Stopped) {
                    self.stop_session(session).await;
                } else {
                    session.give_up().await;
                }
                armed.disarm();
                Err(error)
            }
        }
    }
}

struct Group<'a> {
    target: &'a PostgresTarget,
    order: &'a GroupOrder,
    follow: &'a Follow,
    process: Process,
    watched: String,
}

impl Group<'_> {
    /// All but the commit.
    async fn work(&self, connection: &mut Line) -> Result<GroupDone, MigratorError> {
        let order = self.order;
        let transaction = self.begin(connection).await?;
        let mut observer = match order.observe {
            true => Some(Observer::begin(connection).await?),
            false => None,
        };
        set_session(connection, order, true).await?;
        let began = Instant::now();
        let mut reports = Vec::with_capacity(order.statements.len());
        for (index, one) in order.statements.iter().enumerate() {
            tell(self.follow, Told::Begun(index));
            let words = words(&one.sql, EngineKind::Postgres);
            let mut done = run_one(self.target, connection, self.process.number(), order, index, one, &words).await?;
            if may_set_a_timeout(&one.sql, &words) {
                limit_timeouts(connection, order, true).await?;
            }
            if let Some(observer) = &mut observer {
                observer.look(connection, &mut done, are(&words, 0, &["TRUNCATE"])).await?;
            }
            tell(self.follow, Told::Ended(done.clone()));
            reports.push(done);
        }
        let entry = with_work(&order.after, &reports, millis(began.elapsed()));
        let entry = self.end(connection, &transaction, &entry).await?;
        Ok(GroupDone {
            statements: reports,
            entry,
            warnings: Vec::new(),
        })
    }

    /// Begins, and returns what tells this transaction from any other.
    async fn begin(&self, connection: &mut Line) -> Result<String, MigratorError> {
        let order = self.order;
        let begin = format!(
            "{WIPE}; BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {}; {}; {}; {}",
            settings(order.lock_timeout, order.statement_timeout),
            // The group before it reset what the session began with.
            watched_by(&self.watched, true),
            ledger::select_standing(order.claim, &foreign::any()),
            ledger::select_locked(&order.after.id),
        );
        let results = simple(connection, begin).await.map_err(statement)?;
        let mut newest = results.iter().rev();
        let (row, standing) = (newest.next(), newest.next());
        ledger::check_fence(standing, order.claim)?;
        let word = |column: usize| match standing.and_then(|rows| rows.first()) {
            Some(row) => text(row, column),
            None => Ok(None),
        };
        let holds = |column: usize| Ok::<_, TargetError>(word(column)?.as_deref() == Some("true"));
        if let Some(process) = word(2)?.and_then(|number| number.parse().ok()) {
            self.process.set(process);
        }
        if !holds(3)? {
            // Only now it matters whose it is.
            let lease = simple(connection, ledger::select_lease("")).await.map_err(statement)?;
            ledger::check_lease(lease.first(), order.claim)?;
        }
        let found = row.and_then(|rows| rows.first()).map(ledger::entry).transpose()?;
        check_unmoved(&order.after.id.0, order.before.as_ref(), found.as_ref())?;
        // Before anything is done in vain, and because a statement may take a table along in which others note what they did.
        foreign::judge(connection, order, holds(4)?).await?;
        Ok(word(1)?.ok_or_else(|| refused("the server did not number the transaction".to_owned()))?)
    }

    /// Looks whether everything is as it has to be, and writes the ledger row.
    async fn end(&self, connection: &mut Line, transaction: &str, entry: &LedgerEntry) -> Result<LedgerEntry, MigratorError> {
        let order = self.order;
        // What a deferred constraint has to say belongs to the script.
        let mut closing = format!("SET CONSTRAINTS ALL IMMEDIATE; {}", own_settings(order));
        let same = format!(
            "pg_catalog.txid_current()::text = {}",
            super::super::render::literal(transaction)
        );
        if !order.checks.is_empty() || order.verify.is_some() {
            let rows = simple(connection, format!("{closing}; SELECT ({same})::text"))
                .await
                .map_err(|error| self.late(error))?;
            let inside = match rows.last().and_then(|rows| rows.first()) {
                Some(row) => text(row, 0)?.as_deref() == Some("true"),
                None => false,
            };
            if !inside {
                return Err(ended_itself().into());
            }
            look::hold_all(connection, &order.checks).await?;
            look::verify(connection, order.verify.as_ref()).await?;
            closing = own_settings(order);
        }
        let sql = format!(
            "{closing}; {}; {}, ({})::text",
            ledger::select_lease("FOR SHARE"),
            ledger::upsert(entry, &same),
            foreign::any()
        );
        let results = simple(connection, sql).await.map_err(|error| self.late(error))?;
        let mut newest = results.iter().rev();
        let written = newest.next().and_then(|rows| rows.first());
        ledger::check_lease(newest.next(), order.claim)?;
        let Some(row) = written else {
            return Err(ended_itself().into());
        };
        // Statements may have waited for another tool that did the same.
        foreign::judge(connection, order, text(row, 1)?.as_deref() == Some("true")).await?;
        Ok(ledger::written(entry, row)?)
    }

    /// An error after the last statement: of a constraint that was put off it is the script's.
    fn late(&self, error: sqlx::Error) -> MigratorError {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        if code.is_some_and(|code| code.starts_with("23")) {
            return problem::of_statement(error, self.order.statements.len().saturating_sub(1), Vec::new());
        }
        statement(error).into()
    }

    fn not_committed(&self, error: sqlx::Error) -> MigratorError {
        let surely_not = error::commit_failed(&error);
        if surely_not {
            return problem::of_statement(error, self.order.statements.len().saturating_sub(1), Vec::new());
        }
        error::commit(error).into()
    }
}

fn ended_itself() -> TargetError {
    TargetError::new(
        TargetErrorClass::Refused,
        "the script ended its transaction itself: what it did until then is in effect, and is not in the ledger; \
         expected a script without COMMIT and ROLLBACK",
    )
}

/// Sets the session as the script did for its groups before this one, all but longer timeouts than the order's. `local` is for the
/// transaction.
pub(super) async fn set_session(connection: &mut Line, order: &GroupOrder, local: bool) -> Result<(), MigratorError> {
    let mut limited = true;
    for one in &order.session {
        let set = sqlx::raw_sql(AssertSqlSafe(one.sql.clone())).execute(&mut *connection).await;
        set.map_err(|error| problem::of_statement(error, 0, Vec::new()))?;
        limited &= !may_set_a_timeout(&one.sql, &words(&one.sql, EngineKind::Postgres));
    }
    if !limited {
        limit_timeouts(connection, order, local).await?;
    }
    Ok(())
}

/// Whether a statement may have changed how long a lock is waited for, or a statement may take: whatever sets or resets, and whatever
/// speaks of it.
fn may_set_a_timeout(sql: &str, words: &[Word]) -> bool {
    let first = words.first();
    let lower = sql.to_ascii_lowercase();
    first.is_some_and(|first| first.is("SET") || first.is("RESET"))
        || lower.contains("lock_timeout")
        || lower.contains("statement_timeout")
        || lower.contains("set_config")
}

/// Brings the wait for a lock and the time of a statement back to those of the order, where a script has made them longer: whoever comes
/// later waits behind it. Shorter ones are the script's to choose, and so is the time of a statement where the order has none.
async fn limit_timeouts(connection: &mut Line, order: &GroupOrder, local: bool) -> Result<(), TargetError> {
    let limit = |name: &str, most: Duration| {
        let most = millis(most).max(1);
        format!(
            "SELECT pg_catalog.set_config('{name}', '{most}', {local}) FROM pg_catalog.pg_settings AS s \
             WHERE s.name = '{name}' AND s.setting::bigint NOT BETWEEN 1 AND {most}"
        )
    };
    let mut sql = limit("lock_timeout", order.lock_timeout);
    if let Some(most) = order.statement_timeout {
        sql = format!("{sql}; {}", limit("statement_timeout", most));
    }
    simple(connection, sql).await.map_err(statement)?;
    Ok(())
}

/// Executes one statement, and looks meanwhile who keeps it waiting.
pub(super) async fn run_one(
    target: &PostgresTarget,
    connection: &mut Line,
    process: i32,
    order: &GroupOrder,
    index: usize,
    one: &Statement,
    words: &[Word],
) -> Result<StatementReport, MigratorError> {
    if are(words, 0, &["COPY"]) && words.windows(2).any(|pair| pair[0].is("FROM") && pair[1].is("STDIN")) {
        let message = "COPY .. FROM STDIN needs rows that are no SQL; expected INSERT, or COPY from a file of the server";
        return Err(problem::of_script(index, "0A000", message.to_owned()));
    }
    let seen = Mutex::new(Vec::new());
    let began = Instant::now();
    let executed = tokio::select! {
        executed = sqlx::raw_sql(AssertSqlSafe(one.sql.clone())).execute(connection) => executed,
        never = target.note_blockers(process, order.lock_timeout, &seen) => match never {},
    };
    let duration = began.elapsed();
    let done = executed.map_err(|error| {
        let blockers = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        problem::of_statement(error, index, blockers)
    })?;
    let rows = if changes_rows(words) { done.rows_affected() } else { 0 };
    Ok(report(index, one, duration, rows))
}

/// A short transaction of our own around ledger rows: begins, and checks fence, lease and row.
pub(super) async fn begin_own(
    session: &mut Session,
    order: &GroupOrder,
    before: Option<&LedgerEntry>,
) -> Result<(), MigratorError> {
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {}; {}; {}; {}",
        own_settings(order),
        ledger::select_fence(order.claim),
        ledger::select_lease("FOR SHARE"),
        ledger::select_locked(&order.after.id),
    );
    let results = simple(&mut session.connection, begin).await.map_err(statement)?;
    let mut newest = results.iter().rev();
    let found = newest.next().and_then(|rows| rows.first()).map(ledger::entry).transpose()?;
    let lease = newest.next();
    ledger::check_fence(newest.next(), order.claim)?;
    ledger::check_lease(lease, order.claim)?;
    check_unmoved(&order.after.id.0, before, found.as_ref())
}

/// Writes a ledger row and commits.
pub(super) async fn write_own(session: &mut Session, entry: &LedgerEntry) -> Result<LedgerEntry, MigratorError> {
    let results = simple(&mut session.connection, ledger::upsert(entry, "true"))
        .await
        .map_err(statement)?;
    let row = results.iter().flatten().next();
    let row = row.ok_or_else(|| refused("the ledger row was not written".to_owned()))?;
    let entry = ledger::written(entry, row)?;
    session.connection.execute("COMMIT").await.map_err(error::commit)?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_a_timeout_is_told_from_what_does_not() {
        let may = |sql: &str| may_set_a_timeout(sql, &words(sql, EngineKind::Postgres));
        for sql in [
            "SET lock_timeout = 0",
            "SET statement_timeout = 0",
            "ALTER ROLE app SET statement_timeout = 0",
            "set local \"lock_timeout\" to '1h'",
            "RESET ALL",
            "SELECT pg_catalog.set_config('lock_timeout', '0', false)",
            "DO $$ BEGIN PERFORM set_config('lock_' || 'timeout', '0', false); END $$",
        ] {
            assert!(may(sql), "{sql}");
        }
        for sql in [
            "UPDATE t SET a = 1",
            "CREATE TABLE a (id integer)",
            "COMMENT ON TABLE a IS 'x'",
        ] {
            assert!(!may(sql), "{sql}");
        }
    }
}
