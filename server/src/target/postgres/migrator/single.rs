//! A statement that no transaction can hold. The ledger says "in doubt" before it begins, and what became of it afterwards; whoever
//! finds it in doubt has to look.

use std::{collections::BTreeSet, sync::Mutex, time::Instant};

use dbkeep_engine::{
    failpoint,
    model::{EngineKind, LedgerEntry, Statement},
    port::{Claim, Follow, GroupDone, GroupOrder, IndexState, MigratorError, TargetError, TargetErrorClass, Told},
};
use sqlx::{AssertSqlSafe, Executor as _};

use super::super::line::Line;
use super::{
    super::{
        PostgresTarget,
        error::{refused, statement},
        holders,
        liveness::watched_by,
    },
    execute::{begin_own, run_one, set_session, write_own},
    foreign, ledger, look,
    observe::Observer,
    problem,
    session::{Armed, Session, simple, text},
};
use crate::target::{
    ledger::{in_doubt, millis, tell, with_work},
    words::{Word, after_if_exists, are, name_at, words},
};

/// Who serves a transaction: a process, and the start of its server.
const SERVED: &str = "SELECT pg_catalog.concat_ws(' ', pg_catalog.pg_backend_pid(), pg_catalog.pg_postmaster_start_time())";
/// What the session notes that removes an index.
const REMOVAL: &str = "removal of an invalid index";

impl PostgresTarget {
    pub(super) async fn execute_alone(&self, order: &GroupOrder, follow: &Follow) -> Result<GroupDone, MigratorError> {
        let mut session = self.session().await?;
        session.note(order.claim).await?;
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
        self.refuse_pooler(&mut session.connection).await?;
        let doubtful = in_doubt(order.before.as_ref(), &order.after);
        begin_own(session, order, order.before.as_ref()).await?;
        let others = one_text(&mut session.connection, format!("SELECT ({})::text", foreign::any())).await?;
        foreign::judge(&mut session.connection, order, others == "true").await?;
        let doubtful = write_own(session, &doubtful).await?;
        failpoint!("migration-in-doubt");
        let words = words(&one.sql, EngineKind::Postgres);
        let index = IndexWork::of(&one.sql, &words);
        let limit = order.statement_timeout.map_or(0, |limit| millis(limit).max(1));
        let settings = format!(
            "SET lock_timeout = {}; SET statement_timeout = {limit}; SET client_min_messages = warning; {}; {SERVED}",
            millis(order.lock_timeout).max(1),
            watched_by(&session.watched, false)
        );
        let served = one_text(&mut session.connection, settings).await?;
        if let Err(error) = set_session(&mut session.connection, order, false).await {
            return self.failed(session, order, &doubtful, error, &[]).await;
        }
        // Only now are names those that the statement means.
        let before = match &index {
            Some(index) => index.invalid(&mut session.connection).await?,
            None => Vec::new(),
        };
        let mut observer = match order.observe {
            true => Some(Observer::begin(&mut session.connection).await?),
            false => None,
        };
        // The last trip before the statement: what was set has to be there for it.
        if one_text(&mut session.connection, SERVED.to_owned()).await? != served {
            return self.failed(session, order, &doubtful, pooled(), &[]).await;
        }
        let (seen, process) = (Mutex::new(BTreeSet::new()), session.process.number());
        tell(follow, Told::Begun(0));
        let began = Instant::now();
        let watching = async {
            if order.observe {
                self.note_locks(process, &seen).await
            } else {
                std::future::pending().await
            }
        };
        let mut ran = tokio::select! {
            biased;
            () = follow.stop.cancelled() => return Err(MigratorError::Stopped),
            never = watching => match never {},
            ran = run_one(self, &mut session.connection, process, order, 0, one, &words) => ran,
        };
        failpoint!("migration-alone");
        let took = millis(began.elapsed());
        if let (Some(observer), Ok(report)) = (&mut observer, &mut ran) {
            observer.look_back(&mut session.connection, report, seen).await?;
        }
        let left = match &index {
            Some(index) if !matches!(ran, Err(MigratorError::Target(_))) => index.left(&mut session.connection, &before).await?,
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
        if !order.checks.is_empty() || order.verify.is_some() {
            begin_own(session, order, Some(&doubtful)).await?;
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

    /// Refuses a connection behind which another process may serve each transaction. What is set for a statement that is in none would be
    /// set for somebody else, who keeps it, and the statement would wait for its locks without a limit. Such a pooler gives the process that
    /// became free last to whoever asks next, or the one that was free for longest.
    async fn refuse_pooler(&self, connection: &mut Line) -> Result<(), MigratorError> {
        let mut other = self.connection().await?;
        let before = one_text(connection, SERVED.to_owned()).await?;
        let theirs = one_text(&mut other, SERVED.to_owned()).await?;
        let after = one_text(connection, SERVED.to_owned()).await?;
        self.idle.put(other);
        if before == after && theirs != before {
            Ok(())
        } else {
            Err(pooled())
        }
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

    /// The index of a statement, by the names that its session makes of them.
    pub(super) async fn look_for_index(
        &self,
        one: &Statement,
        session: &[Statement],
    ) -> Result<Option<(String, IndexState)>, TargetError> {
        let Some(work) = IndexWork::of(&one.sql, &words(&one.sql, EngineKind::Postgres)) else {
            return Ok(None);
        };
        // Not to be used again: nobody else inherits what the script sets.
        let mut looking = self.session().await?;
        let found = work.look(&mut looking.connection, session).await;
        looking.give_up().await;
        found
    }

    pub(super) async fn drop_invalid(&self, claim: Claim, full_names: &str) -> Result<(), MigratorError> {
        let mut connection = self.connect().await?;
        self.refuse_pooler(&mut connection).await?;
        holders::note(&mut connection, claim, REMOVAL).await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; {}; {}; COMMIT",
            ledger::select_fence(claim),
            ledger::select_lease("")
        );
        let results = simple(&mut connection, begin).await.map_err(statement)?;
        ledger::check_fence(results.get(1), claim)?;
        ledger::check_lease(results.get(2), claim)?;
        let words = words(full_names, EngineKind::Postgres);
        let mut at = 0;
        while let Some((parts, next)) = name_at(&words, at) {
            if let Some((full, IndexState::Invalid)) = look::index(&mut connection, &written(full_names, &parts)).await? {
                let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {full}");
                connection.execute(AssertSqlSafe(drop)).await.map_err(statement)?;
            }
            // A comma.
            at = next + 1;
        }
        holders::over(&mut connection, claim, REMOVAL).await;
        Ok(())
    }
}

/// The first value of the last row.
async fn one_text(connection: &mut Line, sql: String) -> Result<String, TargetError> {
    let results = simple(connection, sql).await.map_err(statement)?;
    let row = results.iter().flatten().next_back();
    let value = row.map(|row| text(row, 0)).transpose()?.flatten();
    value.ok_or_else(|| refused("the server answered with no value".to_owned()))
}

fn pooled() -> MigratorError {
    let message = "a pooler between dbkeep and the server lets another process serve each transaction, so that the limits of a statement which \
                   no transaction can hold would be those of somebody else; expected a URL of this target that leads to PostgreSQL itself, or a \
                   pool in session mode";
    problem::of_script(0, "", message.to_owned())
}

/// What a statement does to indexes while others write. Names are as the statement writes them, except those of new indexes.
#[derive(Debug, PartialEq, Eq)]
enum IndexWork {
    /// It makes one of a table; its name where the statement says it, as the server knows it.
    Creates { table: String, index: Option<String> },
    /// It drops one.
    Drops(String),
    /// It builds those anew of a table or an index; `None` for those of more.
    Rebuilds(Option<String>),
}

impl IndexWork {
    fn of(sql: &str, words: &[Word]) -> Option<Self> {
        let concurrently = words.iter().position(|word| word.is("CONCURRENTLY"))?;
        if words.first()?.is("REINDEX") {
            let named = words[..concurrently].iter().any(|word| word.is("INDEX") || word.is("TABLE"));
            // The word may also be an option, in brackets before the kind.
            let named = match words.iter().position(|word| word.is_symbol(")")) {
                Some(close) if close > concurrently => words
                    .get(close + 1)
                    .filter(|word| word.is("INDEX") || word.is("TABLE"))
                    .and_then(|_| name_at(words, close + 2)),
                _ if named => name_at(words, concurrently + 1),
                _ => None,
            };
            return Some(Self::Rebuilds(named.map(|(parts, _)| written(sql, &parts))));
        }
        if are(words, 0, &["DROP", "INDEX", "CONCURRENTLY"]) {
            let (parts, next) = name_at(words, after_if_exists(words, concurrently + 1))?;
            let several = words.get(next).is_some_and(|word| word.is_symbol(","));
            return (!several).then(|| Self::Drops(written(sql, &parts)));
        }
        let unique = usize::from(are(words, 1, &["UNIQUE"]));
        if !are(words, 0, &["CREATE"]) || !are(words, 1 + unique, &["INDEX", "CONCURRENTLY"]) {
            return None;
        }
        let mut at = after_if_exists(words, concurrently + 1);
        let mut index = None;
        if !are(words, at, &["ON"]) {
            let (parts, next) = name_at(words, at)?;
            index = parts.last().map(|part| folded(part));
            at = next;
        }
        if !are(words, at, &["ON"]) {
            return None;
        }
        at += 1 + usize::from(are(words, at + 1, &["ONLY"]));
        let (parts, _) = name_at(words, at)?;
        Some(Self::Creates {
            table: written(sql, &parts),
            index,
        })
    }

    /// The index and its state, in a session that is set as the script's.
    async fn look(&self, connection: &mut Line, session: &[Statement]) -> Result<Option<(String, IndexState)>, TargetError> {
        connection
            .execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
            .await
            .map_err(statement)?;
        for one in session {
            let set = sqlx::raw_sql(AssertSqlSafe(one.sql.clone())).execute(&mut *connection).await;
            set.map_err(statement)?;
        }
        match self {
            Self::Creates { index: None, .. } => Ok(None),
            Self::Creates {
                table,
                index: Some(index),
            } => look::index_of_table(connection, table, index).await.map(Some),
            Self::Drops(name) => {
                let found = look::index(connection, name).await?;
                Ok(Some(found.unwrap_or_else(|| (name.clone(), IndexState::Absent))))
            }
            Self::Rebuilds(_) => {
                let left = self.invalid(connection).await?;
                let names: Vec<String> = left.into_iter().map(|(full, _)| full).collect();
                Ok((!names.is_empty()).then(|| (names.join(", "), IndexState::Invalid)))
            }
        }
    }

    /// Indexes that are not valid, of those that the statement could have left: full name, and name without a schema.
    async fn invalid(&self, connection: &mut Line) -> Result<Vec<(String, String)>, TargetError> {
        let of = match self {
            Self::Creates { table, .. } => look::Of::Table(table),
            Self::Rebuilds(named) => look::Of::Reindex(named.as_deref()),
            Self::Drops(_) => return Ok(Vec::new()),
        };
        look::invalid_indexes(connection, of).await
    }

    /// Full names of those of them that were not there before, or are named by the statement.
    async fn left(&self, connection: &mut Line, before: &[(String, String)]) -> Result<Vec<String>, TargetError> {
        let mine = match self {
            Self::Creates { index, .. } => index.as_ref(),
            Self::Drops(_) | Self::Rebuilds(_) => None,
        };
        let mut now = self.invalid(connection).await?;
        now.retain(|found| mine == Some(&found.1) || !before.contains(found));
        Ok(now.into_iter().map(|(full, _)| full).collect())
    }
}

/// A name as the statement writes it.
fn written(sql: &str, parts: &[&Word]) -> String {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return String::new();
    };
    sql.chars().skip(first.at).take(last.end - first.at).collect()
}

/// A name as the server knows it.
fn folded(word: &Word) -> String {
    if word.kind == crate::target::words::Kind::Plain {
        word.text.to_ascii_lowercase()
    } else {
        word.text.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_a_statement_is_found() {
        let work = |sql: &str| IndexWork::of(sql, &words(sql, EngineKind::Postgres));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            work("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS Tall ON ONLY public.\"T\" (a)"),
            Some(IndexWork::Creates {
                table: "public.\"T\"".to_owned(),
                index: some("tall")
            })
        );
        assert_eq!(
            work("create index concurrently on t (a)"),
            Some(IndexWork::Creates {
                table: "t".to_owned(),
                index: None
            })
        );
        for (sql, named) in [
            ("REINDEX INDEX CONCURRENTLY s.i", some("s.i")),
            ("REINDEX (VERBOSE) TABLE CONCURRENTLY \"T\"", some("\"T\"")),
            ("REINDEX (CONCURRENTLY, VERBOSE) TABLE t", some("t")),
            ("REINDEX SCHEMA CONCURRENTLY s", None),
        ] {
            assert_eq!(work(sql), Some(IndexWork::Rebuilds(named)), "{sql}");
        }
        assert_eq!(
            work("DROP INDEX CONCURRENTLY IF EXISTS s.I"),
            Some(IndexWork::Drops("s.I".to_owned()))
        );
        assert_eq!(work("CREATE INDEX i ON t (a)"), None);
        assert_eq!(work("CREATE INDEX CONCURRENTLY U&\"i\" ON t (a)"), None);
        assert_eq!(work("REFRESH MATERIALIZED VIEW CONCURRENTLY v"), None);
        assert_eq!(work("DROP INDEX i"), None);
    }
}
