//! A statement that no transaction can hold. The ledger says "in doubt" before it begins, and what became of it afterwards; whoever
//! finds it in doubt has to look.

use std::time::Instant;

use dbkeep_engine::{
    failpoint,
    model::LedgerEntry,
    port::{Claim, Follow, GroupDone, GroupOrder, MigratorError, TargetError, TargetErrorClass, Told},
};
use sqlx::{AssertSqlSafe, Executor as _};

use super::{
    super::{PostgresTarget, error::statement, render},
    execute::{begin_own, run_one, set_session, write_own},
    ledger, look, problem,
    session::{Armed, Session, simple},
};
use crate::target::{
    ledger::{in_doubt, millis, tell, with_work},
    words::{Word, after_if_exists, are, name_at, words},
};

impl PostgresTarget {
    pub(super) async fn execute_alone(&self, order: &GroupOrder, follow: &Follow) -> Result<GroupDone, MigratorError> {
        let mut session = self.session().await?;
        let armed = Armed::new(self, &session);
        let done = self.alone(&mut session, order, follow).await;
        match done {
            Ok(done) => {
                armed.disarm();
                // Nobody else inherits what the statement has set.
                if session
                    .connection
                    .execute("RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL")
                    .await
                    .is_ok()
                {
                    self.keep(session);
                }
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

    async fn alone(&self, session: &mut Session, order: &GroupOrder, follow: &Follow) -> Result<GroupDone, MigratorError> {
        let [one] = &order.statements[..] else {
            let message = "a group outside of a transaction has one statement";
            return Err(TargetError::new(TargetErrorClass::Refused, message).into());
        };
        let doubtful = in_doubt(order.before.as_ref(), &order.after);
        begin_own(session, order, order.before.as_ref()).await?;
        let doubtful = write_own(session, &doubtful).await?;
        failpoint!("migration-in-doubt");
        let words = words(&one.sql);
        let index = IndexWork::of(&one.sql, &words);
        let before = match &index {
            Some(index) => index.invalid(session).await?,
            None => Vec::new(),
        };
        let limit = order.statement_timeout.map_or(0, |limit| millis(limit).max(1));
        let settings = format!(
            "SET lock_timeout = {}; SET statement_timeout = {limit}; SET client_min_messages = warning",
            millis(order.lock_timeout).max(1)
        );
        session.connection.execute(AssertSqlSafe(settings)).await.map_err(statement)?;
        if let Err(error) = set_session(&mut session.connection, order).await {
            return self.failed(session, order, &doubtful, error, &[]).await;
        }
        tell(follow, Told::Begun(0));
        let began = Instant::now();
        let ran = tokio::select! {
            biased;
            () = follow.stop.cancelled() => return Err(MigratorError::Stopped),
            ran = run_one(self, &mut session.connection, session.process, order, 0, one, &words) => ran,
        };
        failpoint!("migration-alone");
        let took = millis(began.elapsed());
        let left = match &index {
            Some(index) if !matches!(ran, Err(MigratorError::Target(_))) => index.left(session, &before).await?,
            _ => Vec::new(),
        };
        let report = match ran {
            Ok(report) if left.is_empty() => report,
            Ok(_) => {
                let message = format!("the index is not valid: {}", left.join(", "));
                return self
                    .failed(session, order, &doubtful, problem::of_script(0, "", message), &[])
                    .await;
            }
            // Whoever lost the connection does not know what the server did.
            Err(MigratorError::Target(error)) => return Err(error.into()),
            Err(error) => return self.failed(session, order, &doubtful, error, &left).await,
        };
        tell(follow, Told::Ended(report.clone()));
        let reports = vec![report];
        if !order.checks.is_empty() {
            begin_own(session, order, Some(&doubtful)).await?;
            if let Err(error) = look::hold_all(&mut session.connection, &order.checks).await {
                let entry = LedgerEntry {
                    statements_done: doubtful.statements_done + 1,
                    in_doubt: false,
                    problem: error.to_string(),
                    ..with_work(&doubtful, &reports, took)
                };
                session.connection.execute("ROLLBACK").await.map_err(statement)?;
                begin_own(session, order, Some(&doubtful)).await?;
                write_own(session, &entry).await?;
                return Err(error);
            }
        } else {
            begin_own(session, order, Some(&doubtful)).await?;
        }
        let entry = write_own(session, &with_work(&order.after, &reports, took)).await?;
        Ok(GroupDone {
            statements: reports,
            entry,
            warnings: Vec::new(),
        })
    }

    /// The server said that the statement failed: there is no doubt any more.
    async fn failed(
        &self,
        session: &mut Session,
        order: &GroupOrder,
        doubtful: &LedgerEntry,
        error: MigratorError,
        left: &[String],
    ) -> Result<GroupDone, MigratorError> {
        let mut problem = error.to_string();
        if !left.is_empty() {
            problem = format!("{problem}; an index that is not valid was left behind: {}", left.join(", "));
        }
        let error = match error {
            MigratorError::Statement {
                index,
                offset,
                code,
                retryable,
                blockers,
                ..
            } => MigratorError::Statement {
                index,
                offset,
                code,
                message: problem.clone(),
                retryable,
                blockers,
            },
            other => other,
        };
        begin_own(session, order, Some(doubtful)).await?;
        let entry = LedgerEntry {
            in_doubt: false,
            problem,
            ..doubtful.clone()
        };
        write_own(session, &entry).await?;
        Err(error)
    }

    pub(super) async fn drop_invalid(&self, claim: Claim, name: &str) -> Result<(), MigratorError> {
        let mut connection = self.connect().await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; {}; {}; COMMIT",
            ledger::select_fence(claim),
            ledger::select_lease("")
        );
        let results = simple(&mut connection, begin).await.map_err(statement)?;
        ledger::check_fence(results.get(1), claim)?;
        ledger::check_lease(results.get(2), claim)?;
        if let Some((table, false)) = look::index(&mut connection, name).await? {
            let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}", render::table(&table));
            connection.execute(AssertSqlSafe(drop)).await.map_err(statement)?;
        }
        Ok(())
    }
}

/// An index that a statement builds while others write.
struct IndexWork {
    /// The table, as the statement names it; of REINDEX, `None`.
    table: Option<String>,
    /// Name of the index, where the statement says it.
    index: Option<String>,
}

impl IndexWork {
    fn of(sql: &str, words: &[Word]) -> Option<Self> {
        let concurrently = words.iter().position(|word| word.is("CONCURRENTLY"))?;
        if words.first()?.is("REINDEX") {
            return Some(Self {
                table: None,
                index: None,
            });
        }
        let unique = usize::from(are(words, 1, &["UNIQUE"]));
        if !are(words, 0, &["CREATE"]) || !are(words, 1 + unique, &["INDEX", "CONCURRENTLY"]) {
            return None;
        }
        let mut at = after_if_exists(words, concurrently + 1);
        let mut index = None;
        if !words.get(at)?.is("ON") {
            let (parts, next) = name_at(words, at)?;
            index = parts.last().map(|part| folded(part));
            at = next;
        }
        at += 1 + usize::from(are(words, at + 1, &["ONLY"]));
        let (parts, _) = name_at(words, at)?;
        let (first, last) = (parts.first()?, parts.last()?);
        let table = sql.chars().skip(first.at).take(last.end - first.at).collect();
        Some(Self {
            table: Some(table),
            index,
        })
    }

    /// Indexes that are not valid, of those that the statement could have left.
    async fn invalid(&self, session: &mut Session) -> Result<Vec<String>, TargetError> {
        look::invalid_indexes(&mut session.connection, self.table.as_deref()).await
    }

    /// Those of them that were not there before, or are named by the statement.
    async fn left(&self, session: &mut Session, before: &[String]) -> Result<Vec<String>, TargetError> {
        let named = |full: &String| {
            let index = self.index.as_deref();
            index.is_some_and(|index| full.rsplit('.').next() == Some(index))
        };
        let mut now = self.invalid(session).await?;
        now.retain(|full| named(full) || !before.contains(full));
        Ok(now)
    }
}

/// A name as the server knows it.
fn folded(word: &Word) -> String {
    if word.kind == crate::target::words::Kind::Plain {
        word.text.to_lowercase()
    } else {
        word.text.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(sql: &str) -> Option<(Option<String>, Option<String>)> {
        IndexWork::of(sql, &words(sql)).map(|work| (work.table, work.index))
    }

    #[test]
    fn the_index_of_a_statement_is_found() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            work("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS Tall ON ONLY public.\"T\" (a)"),
            Some((some("public.\"T\""), some("tall")))
        );
        assert_eq!(work("create index concurrently on t (a)"), Some((some("t"), None)));
        assert_eq!(work("REINDEX INDEX CONCURRENTLY i"), Some((None, None)));
        assert_eq!(work("CREATE INDEX i ON t (a)"), None);
        assert_eq!(work("REFRESH MATERIALIZED VIEW CONCURRENTLY v"), None);
        assert_eq!(work("DROP INDEX CONCURRENTLY i"), None);
    }
}
