//! Groups on SQLite: one immediate transaction each, or a statement that none can hold between two short ones.

use std::time::{Duration, Instant};

use dbkeep_engine::{
    failpoint,
    model::{EngineKind, LedgerEntry, LockMode, Statement, StatementReport, TableLock},
    port::{Follow, GroupDone, GroupOrder, MigratorError, TargetError, TargetErrorClass, Told},
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, SqliteConnection};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        SqliteTarget,
        dump::{stoppable_by, unstoppable},
        error,
        error::statement,
    },
    children::Children,
    foreign,
    keys::Violations,
    ledger, look, problem,
};
use crate::target::{
    ledger::{in_doubt, millis, report, tell, with_work},
    words::{changes_rows, words},
};

/// How long SQLite itself waits for another writer before it is asked whether to stop.
const PATIENCE: Duration = Duration::from_millis(200);

/// A connection of a group, and what ends its statements.
struct Session {
    connection: SqliteConnection,
    /// Cancelled by a stop, and by a statement that takes too long.
    interrupt: CancellationToken,
    stop: CancellationToken,
    lock_timeout: Duration,
}

impl Session {
    async fn open(target: &SqliteTarget, order: &GroupOrder, follow: &Follow) -> Result<Self, TargetError> {
        let options = target.options.clone().foreign_keys(!order.foreign_keys_off);
        let connection = options.busy_timeout(PATIENCE).connect().await.map_err(error::opening)?;
        Ok(Self {
            connection,
            interrupt: follow.stop.child_token(),
            stop: follow.stop.clone(),
            lock_timeout: order.lock_timeout,
        })
    }

    /// Executes what waits for others, for as long as the order has patience.
    async fn patiently(&mut self, sql: &'static str) -> Result<(), sqlx::Error> {
        let began = Instant::now();
        loop {
            let Err(error) = self.connection.execute(sql).await else {
                return Ok(());
            };
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            let busy = code
                .and_then(|code| code.parse::<u32>().ok())
                .is_some_and(|code| matches!(code & 0xff, 5 | 6));
            if !busy || self.stop.is_cancelled() || began.elapsed() >= self.lock_timeout {
                return Err(error);
            }
        }
    }

    /// Sets the session as the script did for its groups before this one.
    async fn set(&mut self, order: &GroupOrder) -> Result<(), MigratorError> {
        for one in &order.session {
            let set = sqlx::raw_sql(AssertSqlSafe(one.sql.clone()))
                .execute(&mut self.connection)
                .await;
            set.map_err(|error| problem::of_statement(error, 0, &one.sql))?;
        }
        Ok(())
    }

    /// Executes one statement of the script.
    async fn run(&mut self, order: &GroupOrder, index: usize, one: &Statement) -> Result<StatementReport, MigratorError> {
        if self.stop.is_cancelled() {
            return Err(MigratorError::Stopped);
        }
        let began = Instant::now();
        let mut executing = Box::pin(sqlx::raw_sql(AssertSqlSafe(one.sql.clone())).execute(&mut self.connection));
        let executed = match order.statement_timeout {
            None => executing.await,
            Some(limit) => match tokio::time::timeout(limit, &mut executing).await {
                Ok(executed) => executed,
                Err(_) => {
                    self.interrupt.cancel();
                    let ended = executing.await;
                    if ended.is_err() && !self.stop.is_cancelled() {
                        return Err(MigratorError::Statement {
                            index,
                            offset: None,
                            code: "9".to_owned(),
                            message: format!("the statement took longer than {} ms", millis(limit)),
                            retryable: false,
                            blockers: Vec::new(),
                        });
                    }
                    ended
                }
            },
        };
        let done = executed.map_err(|error| problem::of_statement(error, index, &one.sql))?;
        // Of anything else SQLite tells the count of the statement before.
        let rows = if changes_rows(&words(&one.sql, EngineKind::Sqlite)) {
            done.rows_affected()
        } else {
            0
        };
        let mut report = report(index, one, began.elapsed(), rows);
        // A group takes the only lock there is as it begins, and holds it for all of its statements.
        if order.observe && index == 0 {
            report.locks.push(TableLock {
                table: "*".to_owned(),
                mode: LockMode::AccessExclusive,
            });
        }
        Ok(report)
    }

    /// A short transaction around a ledger row.
    async fn write(
        &mut self,
        order: &GroupOrder,
        before: Option<&LedgerEntry>,
        entry: &LedgerEntry,
    ) -> Result<LedgerEntry, MigratorError> {
        self.patiently("BEGIN IMMEDIATE").await.map_err(statement)?;
        ledger::check(&mut self.connection, order.claim, &order.after.id, before).await?;
        // The statement itself may note what it did where others do.
        if entry.in_doubt {
            judge(self, order).await?;
        }
        let entry = ledger::write(&mut self.connection, entry).await?;
        ledger::prolong(&mut self.connection, order.claim).await?;
        self.patiently("COMMIT").await.map_err(error::commit)?;
        Ok(entry)
    }

    /// Takes back whatever is open, and closes.
    async fn close(mut self) {
        // Interrupted statements have often taken the transaction back themselves.
        let _ = self.connection.execute("ROLLBACK").await;
        let _ = self.connection.close().await;
    }
}

/// What was told to stop has no other error.
fn or_stopped<T>(result: Result<T, MigratorError>, follow: &Follow) -> Result<T, MigratorError> {
    match result {
        Err(_) if follow.stop.is_cancelled() => Err(MigratorError::Stopped),
        other => other,
    }
}

impl SqliteTarget {
    pub(super) async fn execute_together(&self, order: &GroupOrder, follow: &Follow) -> Result<GroupDone, MigratorError> {
        let mut session = Session::open(self, order, follow).await?;
        let guard = stoppable_by(&mut session.connection, session.interrupt.clone()).await?;
        let worked = or_stopped(together(&mut session, order, follow).await, follow);
        let done = match worked {
            Ok(done) => {
                // From here on a stop would come too late to be told from a commit.
                unstoppable(&mut session.connection).await?;
                failpoint!("migration-recorded");
                match session.patiently("COMMIT").await {
                    Ok(()) => Ok(done),
                    Err(error) => Err(not_committed(error, order)),
                }
            }
            Err(error) => {
                unstoppable(&mut session.connection).await?;
                Err(error)
            }
        };
        if done.is_ok() {
            failpoint!("migration-committed");
        }
        session.close().await;
        drop(guard);
        done
    }

    pub(super) async fn execute_alone(&self, order: &GroupOrder, follow: &Follow) -> Result<GroupDone, MigratorError> {
        let mut session = Session::open(self, order, follow).await?;
        let done = alone(&mut session, order, follow).await;
        session.close().await;
        done
    }
}

/// Looks whether another tool was at the order's migration.
async fn judge(session: &mut Session, order: &GroupOrder) -> Result<(), MigratorError> {
    let Some(elsewhere) = &order.elsewhere else { return Ok(()) };
    let ledgers = foreign::ledgers(&mut session.connection).await?;
    elsewhere.judge(order.before.as_ref(), &ledgers)
}

/// All but the commit.
async fn together(session: &mut Session, order: &GroupOrder, follow: &Follow) -> Result<GroupDone, MigratorError> {
    session
        .patiently("BEGIN IMMEDIATE")
        .await
        .map_err(|error| problem::of_statement(error, 0, ""))?;
    // A script that ends the transaction ends this with it.
    let begin = "SAVEPOINT dbkeep_migration";
    session.connection.execute(begin).await.map_err(statement)?;
    ledger::check(&mut session.connection, order.claim, &order.after.id, order.before.as_ref()).await?;
    // Nobody else writes until this has ended: what is read now holds until the commit.
    judge(session, order).await?;
    session.set(order).await?;
    let violations = if order.foreign_keys_off {
        Some(Violations::find(&mut session.connection).await?)
    } else {
        None
    };
    let mut children = Children::begin(&mut session.connection, &order.statements, !order.foreign_keys_off).await?;
    let began = Instant::now();
    let mut reports = Vec::with_capacity(order.statements.len());
    for (index, one) in order.statements.iter().enumerate() {
        tell(follow, Told::Begun(index));
        let before = children.before(&mut session.connection, index).await?;
        let done = session.run(order, index, one).await?;
        let lost = children.after(&mut session.connection, &before).await?;
        if !lost.is_empty() {
            return Err(MigratorError::RowsLost { lost });
        }
        tell(follow, Told::Ended(done.clone()));
        reports.push(done);
    }
    let lost = children.end(&mut session.connection).await?;
    if !lost.is_empty() {
        return Err(MigratorError::RowsLost { lost });
    }
    if let Some(before) = violations {
        let new = Violations::find(&mut session.connection).await?.beyond(&before);
        if !new.is_empty() {
            return Err(MigratorError::Violations { violations: new });
        }
    }
    if session
        .connection
        .execute("RELEASE SAVEPOINT dbkeep_migration")
        .await
        .is_err()
    {
        let message = "the script ended its transaction itself: what it did until then is in effect, and is not in the ledger; \
                       expected a script without COMMIT and ROLLBACK";
        return Err(TargetError::new(TargetErrorClass::Refused, message).into());
    }
    look::hold_all(&mut session.connection, &order.checks).await?;
    look::verify(&mut session.connection, order.verify.as_ref()).await?;
    let entry = with_work(&order.after, &reports, millis(began.elapsed()));
    let entry = ledger::write(&mut session.connection, &entry).await?;
    ledger::prolong(&mut session.connection, order.claim).await?;
    Ok(GroupDone {
        statements: reports,
        entry,
        warnings: Vec::new(),
    })
}

fn not_committed(error: sqlx::Error, order: &GroupOrder) -> MigratorError {
    let judged = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let primary = judged.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
    // Busy, locked, and a key that was put off: the transaction is still open, and will be taken back.
    if matches!(primary, Some(5 | 6 | 19)) {
        return problem::of_statement(error, order.statements.len().saturating_sub(1), "");
    }
    error::commit(error).into()
}

async fn alone(session: &mut Session, order: &GroupOrder, follow: &Follow) -> Result<GroupDone, MigratorError> {
    let [one] = &order.statements[..] else {
        let message = "a group outside of a transaction has one statement";
        return Err(TargetError::new(TargetErrorClass::Refused, message).into());
    };
    let doubtful = in_doubt(order.before.as_ref(), &order.after);
    let doubtful = session.write(order, order.before.as_ref(), &doubtful).await?;
    failpoint!("migration-in-doubt");
    session.set(order).await?;
    tell(follow, Told::Begun(0));
    let began = Instant::now();
    let guard = stoppable_by(&mut session.connection, session.interrupt.clone()).await?;
    let ran = session.run(order, 0, one).await;
    unstoppable(&mut session.connection).await?;
    failpoint!("migration-alone");
    let took = millis(began.elapsed());
    let report = match or_stopped(ran, follow) {
        Ok(report) => report,
        Err(MigratorError::Stopped) => return Err(MigratorError::Stopped),
        Err(MigratorError::Target(error)) => return Err(error.into()),
        Err(error) => {
            // SQLite said that it failed: there is no doubt any more.
            let entry = LedgerEntry {
                in_doubt: false,
                problem: error.to_string(),
                ..doubtful.clone()
            };
            session.write(order, Some(&doubtful), &entry).await?;
            return Err(error);
        }
    };
    drop(guard);
    tell(follow, Told::Ended(report.clone()));
    let reports = vec![report];
    let held = match look::hold_all(&mut session.connection, &order.checks).await {
        Ok(()) => look::verify(&mut session.connection, order.verify.as_ref()).await,
        Err(error) => Err(error),
    };
    if let Err(error) = held {
        let entry = LedgerEntry {
            statements_done: doubtful.statements_done + 1,
            in_doubt: false,
            problem: error.to_string(),
            ..with_work(&doubtful, &reports, took)
        };
        session.write(order, Some(&doubtful), &entry).await?;
        return Err(error);
    }
    let entry = with_work(&order.after, &reports, took);
    let entry = session.write(order, Some(&doubtful), &entry).await?;
    Ok(GroupDone {
        statements: reports,
        entry,
        warnings: Vec::new(),
    })
}
