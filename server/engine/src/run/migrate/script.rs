//! One script on one database: group by group, each with its ledger row, with another try where a lock was waited for in vain.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    super::attempt::{Attempt, Halt},
    leftover,
};
use crate::{
    failpoint,
    migration::statement::words,
    model::{
        Direction, EngineKind, Group, LedgerEntry, LedgerState, Migration, MigrationOptions, MigrationProgress, MigrationReport,
        RowsLost, RunId, Script, ScriptProblem, Statement, StatementReport,
    },
    port::{Elsewhere, Follow, GroupDone, GroupOrder, IndexState, MigratorError, Target, Told},
};

/// How long a group may take to end after it was told to.
const GRACE: Duration = Duration::from_secs(60);
/// First wait after a lock timeout; doubled up to [`LAST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Longest wait between two tries.
const LAST_BACKOFF: Duration = Duration::from_secs(10);

/// A script to be executed.
pub(super) struct ScriptOrder<'a> {
    pub(super) migration: &'a Migration,
    pub(super) direction: Direction,
    pub(super) script: &'a Script,
    /// Step of the run.
    pub(super) step: usize,
    /// What is being done, for those who watch.
    pub(super) phase: &'static str,
    pub(super) options: MigrationOptions,
    pub(super) by: &'a str,
    pub(super) backup: Option<RunId>,
    /// Whether locks and rewritten tables are looked for.
    pub(super) observe: bool,
    /// Whether the migration's own script is run that fails where it is not in effect.
    pub(super) verify: bool,
    /// What the ledgers of other tools must not say.
    pub(super) elsewhere: Option<Elsewhere>,
    /// What its row in the ledger keeps to say once it is through; mostly nothing.
    pub(super) remark: String,
    /// Cancelled when the database's lease for migrations is somebody else's.
    pub(super) lost: CancellationToken,
}

/// What a script did.
pub(super) struct ScriptDone {
    /// The ledger row, as it is now; `None` where the script never began and there was none.
    pub(super) entry: Option<LedgerEntry>,
    /// Statements that took effect in this attempt.
    pub(super) statements: Vec<StatementReport>,
    pub(super) lock_timeouts: u32,
    /// Why it ended before its end.
    pub(super) problem: Option<ScriptProblem>,
    pub(super) warnings: Vec<String>,
    /// Rows that the group which failed would have lost; nothing of it took effect.
    pub(super) rows_lost: Vec<RowsLost>,
    /// Constraints that it would have violated.
    pub(super) violations: Vec<String>,
}

impl ScriptDone {
    /// Time of its statements, milliseconds.
    pub(super) fn duration_ms(&self) -> u64 {
        self.statements.iter().map(|statement| statement.duration_ms).sum()
    }

    pub(super) fn rows(&self) -> u64 {
        self.statements.iter().map(|statement| statement.rows).sum()
    }
}

impl MigrationReport {
    /// Takes over what a script did.
    pub(super) fn take(&mut self, direction: Direction, total: usize, done: &ScriptDone) {
        if self.direction != direction {
            self.statements.clear();
        }
        self.direction = direction;
        self.statements_total = count(total);
        self.statements_done = done.entry.as_ref().map_or(0, |entry| entry.statements_done);
        let room = Self::MAX_STATEMENTS.saturating_sub(self.statements.len());
        self.statements.extend(done.statements.iter().take(room).cloned());
        self.problem.clone_from(&done.problem);
        self.lock_timeouts += done.lock_timeouts;
    }
}

pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl ScriptOrder<'_> {
    fn states(&self) -> (LedgerState, LedgerState) {
        match self.direction {
            Direction::Up => (LedgerState::Applying, LedgerState::Applied),
            Direction::Down => (LedgerState::Reverting, LedgerState::RolledBack),
        }
    }

    /// The ledger row before the first statement, as the groups continue it.
    fn blank(&self, claim_run: RunId) -> LedgerEntry {
        LedgerEntry {
            id: self.migration.id.clone(),
            name: self.migration.name.clone(),
            sha256: self.migration.up.sha256.clone(),
            state: self.states().0,
            statements_done: 0,
            statements: count(self.script.statement_count()),
            in_doubt: false,
            problem: String::new(),
            rows: 0,
            duration_ms: 0,
            at: Timestamp::UNIX_EPOCH,
            by: self.by.to_owned(),
            run: claim_run,
            backup: self.backup,
            script_sha256: self.script.digest(),
        }
    }

    fn problem_at(&self, statement: Option<&Statement>, offset: Option<usize>, code: String, message: String) -> ScriptProblem {
        let (line, column) = statement.map_or((1, 1), |statement| position(statement, offset.unwrap_or(0)));
        ScriptProblem {
            file: self.script.file.clone(),
            line,
            column,
            code,
            message,
        }
    }
}

/// Line and column in the file of a character of a statement.
fn position(statement: &Statement, offset: usize) -> (u32, u32) {
    let (mut line, mut column) = (statement.line, statement.column);
    for character in statement.sql.chars().take(offset) {
        if character == '\n' {
            line += 1;
            column = 1;
        } else {
            column += 1;
        }
    }
    (line, column)
}

/// Executes what of a script is not in effect. `before` is the migration's ledger row, as it was read.
pub(super) async fn execute(
    attempt: &mut Attempt,
    target: &Arc<dyn Target>,
    order: &ScriptOrder<'_>,
    before: Option<LedgerEntry>,
) -> Result<ScriptDone, Halt> {
    let (working, finished) = order.states();
    let total = order.script.statement_count();
    let mut done = ScriptDone {
        entry: before.clone(),
        statements: Vec::new(),
        lock_timeouts: 0,
        problem: None,
        warnings: Vec::new(),
        rows_lost: Vec::new(),
        violations: Vec::new(),
    };
    let resumed = before.as_ref().filter(|entry| entry.state == working);
    let mut skip = resumed.map_or(0, |entry| usize::try_from(entry.statements_done).unwrap_or(usize::MAX));
    if let Some(entry) = resumed
        && (entry.script_sha256 != order.script.digest() || !order.script.is_boundary(skip))
    {
        let message = format!(
            "it stopped after {} statements of another form of this script, so that nobody knows where to go on; `dbkeep migrations repair {}` offers what fits",
            entry.statements_done, order.migration.id
        );
        done.problem = Some(order.problem_at(None, None, String::new(), message));
        return Ok(done);
    }
    // Backwards, and where it goes on, the backup to name is still the one that was made before its first statement.
    let kept = before
        .as_ref()
        .filter(|entry| entry.state == working || order.direction == Direction::Down)
        .and_then(|entry| entry.backup);
    let blank = order.blank(attempt.claim.run);
    let mut base = LedgerEntry {
        rows: resumed.map_or(0, |entry| entry.rows),
        duration_ms: resumed.map_or(0, |entry| entry.duration_ms),
        statements_done: resumed.map_or(0, |entry| entry.statements_done),
        backup: kept.or(blank.backup),
        ..blank
    };
    if let Some(problem) = failed_check(target, &order.migration.metadata.checks_before, order, skip == 0, "before").await? {
        done.problem = Some(problem);
        return Ok(done);
    }
    if skip >= total {
        // Nothing to execute, or everything is in effect and only the last word is missing, which its checks have to allow.
        if let Some(problem) = failed_check(target, &order.migration.metadata.checks_after, order, true, "after").await? {
            done.problem = Some(problem);
            return Ok(done);
        }
        if let Some(script) = order
            .migration
            .verify
            .as_ref()
            .filter(|_| order.verify && order.direction == Direction::Up)
        {
            let statements: Vec<Statement> = script.statements().cloned().collect();
            if let Err(error) = target.migrator().verify(&statements).await {
                let MigratorError::Statement { message, .. } = error else {
                    done.problem = Some(judge(order, None, error)?);
                    return Ok(done);
                };
                let message = format!("check after it does not hold: {}: {message}", script.file);
                done.problem = Some(order.problem_at(None, None, String::new(), message));
                return Ok(done);
            }
        }
        let after = LedgerEntry {
            state: finished,
            problem: order.remark.clone(),
            ..base
        };
        match target
            .migrator()
            .note(attempt.claim, &[(done.entry.clone(), after.clone())])
            .await
        {
            Ok(()) => done.entry = Some(after),
            Err(error) => done.problem = Some(judge(order, None, error)?),
        }
        return Ok(done);
    }
    let groups = order.script.groups.len();
    for (number, group) in order.script.groups.iter().enumerate() {
        let size = group.statements.len();
        if skip >= size {
            skip -= size;
            continue;
        }
        let last = number + 1 == groups;
        // A group that is not atomic is one statement, so that a group is never entered in its middle.
        let after = LedgerEntry {
            state: if last { finished } else { working },
            statements_done: base.statements_done + count(size),
            in_doubt: false,
            problem: if last { order.remark.clone() } else { String::new() },
            run: attempt.claim.run,
            ..base.clone()
        };
        let checks = if last && order.direction == Direction::Up {
            order.migration.metadata.checks_after.clone()
        } else {
            Vec::new()
        };
        let options = &order.options;
        let lock_timeout = order.migration.metadata.lock_timeout_ms.unwrap_or(options.lock_timeout_ms);
        let ordered = GroupOrder {
            claim: attempt.claim,
            atomic: group.atomic,
            statements: group.statements.clone(),
            session: session_before(order.script, number, target.engine()),
            foreign_keys_off: order.script.foreign_keys_off,
            lock_timeout: Duration::from_millis(lock_timeout.max(1)),
            statement_timeout: (options.statement_timeout_ms > 0).then(|| Duration::from_millis(options.statement_timeout_ms)),
            checks,
            verify: (last && order.direction == Direction::Up && order.verify)
                .then(|| order.migration.verify.clone())
                .flatten(),
            observe: order.observe,
            elsewhere: order.elsewhere.clone(),
            before: done.entry.clone(),
            after,
        };
        match with_retries(attempt, target, order, &ordered, base.statements_done, &mut done).await? {
            Ok(GroupDone {
                statements,
                entry,
                warnings,
            }) => {
                done.statements
                    .extend(statements.into_iter().map(|statement| StatementReport {
                        statement: statement.statement + base.statements_done,
                        ..statement
                    }));
                done.warnings.extend(warnings);
                base = entry.clone();
                done.entry = Some(entry);
            }
            Err(error) => {
                let failed = match &error {
                    MigratorError::Statement { index, .. } => group.statements.get(*index),
                    _ => group.statements.first(),
                };
                match &error {
                    MigratorError::RowsLost { lost } => done.rows_lost.clone_from(lost),
                    MigratorError::Violations { violations } => done.violations.clone_from(violations),
                    _ => {}
                }
                done.problem = Some(judge(order, failed, error)?);
                if !group.atomic {
                    // The adapter has noted what became of it.
                    done.entry = row(target, order).await?;
                }
                return Ok(done);
            }
        }
        failpoint!("migration-group-committed");
    }
    Ok(done)
}

/// The migration's ledger row, as it is now.
async fn row(target: &Arc<dyn Target>, order: &ScriptOrder<'_>) -> Result<Option<LedgerEntry>, Halt> {
    let ledger = target.migrator().ledger().await?;
    Ok(ledger.into_iter().find(|entry| entry.id == order.migration.id))
}

/// The first check that does not hold. Those before a script are asked once, not again where it goes on.
async fn failed_check(
    target: &Arc<dyn Target>,
    checks: &[String],
    order: &ScriptOrder<'_>,
    begins: bool,
    when: &str,
) -> Result<Option<ScriptProblem>, Halt> {
    if !begins || order.direction == Direction::Down {
        return Ok(None);
    }
    for check in checks {
        if let Some(found) = target.migrator().check(check).await? {
            let message = format!("check {when} it does not hold: {check}: {found}");
            return Ok(Some(order.problem_at(None, None, String::new(), message)));
        }
    }
    Ok(None)
}

/// What a failure means for the run: a problem of the script, or a reason to halt.
fn judge(order: &ScriptOrder<'_>, statement: Option<&Statement>, error: MigratorError) -> Result<ScriptProblem, Halt> {
    match error {
        MigratorError::Target(error) => Err(Halt::Target(error)),
        MigratorError::Statement {
            offset,
            code,
            message,
            blockers,
            ..
        } => {
            let blocked = if blockers.is_empty() {
                String::new()
            } else {
                format!("; the lock was held by {}", blockers.join("; "))
            };
            Ok(order.problem_at(statement, offset, code, format!("{message}{blocked}")))
        }
        other => Ok(order.problem_at(statement, None, String::new(), other.to_string())),
    }
}

async fn with_retries(
    attempt: &mut Attempt,
    target: &Arc<dyn Target>,
    order: &ScriptOrder<'_>,
    ordered: &GroupOrder,
    done_before: u32,
    done: &mut ScriptDone,
) -> Result<Result<GroupDone, MigratorError>, Halt> {
    let mut ordered = ordered.clone();
    let mut backoff = FIRST_BACKOFF;
    let mut tries = 1;
    loop {
        // What fails beside a statement outside of a transaction may leave it in doubt, which is no matter of trying again.
        let (tried, nothing_began) = match sweep(attempt, target, order.step, &mut ordered).await? {
            Ok(()) => (once(attempt, target, order, &ordered, done_before).await?, ordered.atomic),
            Err(error) => (Err(error), true),
        };
        let error = match tried {
            Err(error) => error,
            Ok(group) => return Ok(Ok(group)),
        };
        let Some((index, why)) = in_vain(&error, nothing_began) else {
            return Ok(Err(error));
        };
        done.lock_timeouts += 1;
        if tries >= order.options.lock_tries.max(1) {
            return Ok(Err(error));
        }
        let line = ordered.statements.get(index).map_or(0, |statement| statement.line);
        let text = format!(
            "{}:{line}: {why}; try {tries} of {}, the next in {} ms, nobody waits behind it meanwhile",
            order.script.file,
            order.options.lock_tries,
            backoff.as_millis()
        );
        attempt.ledger.warn(Some(order.step), "LOCK_TIMEOUT", text).await?;
        attempt.lease.rest(backoff).await?;
        if !ordered.atomic {
            // The try has left a ledger row of its own.
            ordered.before = row(target, order).await?;
            done.entry.clone_from(&ordered.before);
        }
        backoff = (backoff * 2).min(LAST_BACKOFF);
        tries += 1;
    }
}

/// The statement that waited for others in vain, and what is said about that; `None` of any other error. Other failures that pass count
/// only where no statement had begun, or nothing of it can have taken effect.
fn in_vain(error: &MigratorError, nothing_began: bool) -> Option<(usize, String)> {
    match error {
        MigratorError::Statement {
            retryable: true,
            index,
            message,
            blockers,
            ..
        } if blockers.is_empty() => Some((*index, message.clone())),
        MigratorError::Statement {
            retryable: true,
            index,
            message,
            blockers,
            ..
        } => Some((*index, format!("{message}, held by {}", blockers.join("; ")))),
        MigratorError::Target(error) if nothing_began && error.is_retryable() => Some((0, error.to_string())),
        _ => None,
    }
}

/// Drops the index that an earlier try of a statement left invalid, since another of its name could not be made. One that the statement
/// is to drop itself is left to it. The order goes on from the ledger row as it is then.
async fn sweep(
    attempt: &mut Attempt,
    target: &Arc<dyn Target>,
    step: usize,
    ordered: &mut GroupOrder,
) -> Result<Result<(), MigratorError>, Halt> {
    let tried = ordered
        .before
        .as_ref()
        .filter(|entry| !ordered.atomic && entry.state != LedgerState::RolledBack && !entry.problem.is_empty());
    let (Some(entry), Some(statement)) = (tried, ordered.statements.first()) else {
        return Ok(Ok(()));
    };
    let mut words = words(&statement.sql, target.engine());
    if words.next().is_some_and(|first| first.is("DROP")) {
        return Ok(Ok(()));
    }
    let found = target.migrator().index_of(statement, &ordered.session).await;
    match found {
        Ok(Some((index, IndexState::Invalid))) => match leftover::remove(attempt, target, Some(step), entry, &index).await? {
            Ok(noted) => ordered.before = Some(noted),
            Err(error) => return Ok(Err(error)),
        },
        Ok(_) => {}
        Err(error) => return Ok(Err(error.into())),
    }
    Ok(Ok(()))
}

async fn once(
    attempt: &mut Attempt,
    target: &Arc<dyn Target>,
    order: &ScriptOrder<'_>,
    ordered: &GroupOrder,
    done_before: u32,
) -> Result<Result<GroupDone, MigratorError>, Halt> {
    let (told, mut hear) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let follow = Follow {
        told,
        stop: stop.clone(),
    };
    let (executing, group) = (Arc::clone(target), ordered.clone());
    let mut acting = tokio::spawn(async move { executing.migrator().execute(&group, &follow).await });
    let mut flush = attempt.ledger.flush().await?;
    loop {
        tokio::select! {
            biased;
            result = &mut acting => return ended(result),
            () = order.lost.cancelled() => {
                stop.cancel();
                let _ = tokio::time::timeout(GRACE, &mut acting).await;
                return Err(Halt::Fail("another server migrates this target now".to_owned()));
            }
            stopped = attempt.lease.stopped() => {
                stop.cancel();
                // A commit that was on its way is not taken back by a wish; what is left is read from the ledger.
                return match tokio::time::timeout(GRACE, &mut acting).await {
                    Ok(result) => match ended(result)? {
                        Err(MigratorError::Stopped) => Err(Halt::Stop(stopped)),
                        other => Ok(other),
                    },
                    Err(_) => Err(Halt::Stop(stopped)),
                };
            }
            Some(told) = hear.recv() => {
                if let Some(progress) = progress(order, &ordered.statements, done_before, told) {
                    attempt.ledger.migrating(progress).await?;
                }
            }
            () = tokio::time::sleep_until(flush) => {
                let next = attempt.ledger.flush().await?;
                // Where nothing waits there is nothing to wake up for.
                flush = next.max(tokio::time::Instant::now() + Duration::from_millis(100));
            }
        }
    }
}

fn ended(
    result: Result<Result<GroupDone, MigratorError>, tokio::task::JoinError>,
) -> Result<Result<GroupDone, MigratorError>, Halt> {
    result.map_err(|error| Halt::Fail(error.to_string()))
}

fn progress(order: &ScriptOrder<'_>, statements: &[Statement], done_before: u32, told: Told) -> Option<MigrationProgress> {
    let (index, finished) = match told {
        Told::Begun(index) => (index, None),
        Told::Ended(report) => {
            let index = usize::try_from(report.statement.saturating_sub(1)).ok()?;
            let report = StatementReport {
                statement: report.statement + done_before,
                ..report
            };
            (index, Some(report))
        }
    };
    let statement = statements.get(index)?;
    Some(MigrationProgress {
        step: count(order.step),
        id: order.migration.id.clone(),
        direction: order.direction,
        phase: order.phase.to_owned(),
        statement: count(index) + 1 + done_before,
        statements: count(order.script.statement_count()),
        line: statement.line,
        excerpt: StatementReport::excerpt_of(&statement.sql),
        finished,
    })
}

/// Statements before a group that set the session, which the group would have inherited in a single session.
pub(super) fn session_before(script: &Script, group: usize, engine: EngineKind) -> Vec<Statement> {
    let before = script.groups[..group].iter().flat_map(|group| &group.statements);
    before
        .filter(|statement| sets_session(&statement.sql, engine))
        .cloned()
        .collect()
}

fn sets_session(sql: &str, engine: EngineKind) -> bool {
    let first: Vec<String> = words(sql, engine)
        .take(4)
        .map(|token| token.text.to_ascii_lowercase())
        .collect();
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    match engine {
        // Those with LOCAL, CONSTRAINTS and TRANSACTION end with their transaction.
        EngineKind::Postgres => match first[..] {
            ["set", second, ..] => !matches!(second, "local" | "constraints" | "transaction"),
            ["reset", ..] | ["select", "set_config", ..] | ["select", "pg_catalog", ".", "set_config"] => true,
            _ => false,
        },
        EngineKind::Sqlite => matches!(first[..], ["pragma", _, "=" | "(", ..]),
    }
}

/// Whether a group is the kind that may be in doubt.
pub(super) fn doubtful<'a>(script: &'a Script, entry: &LedgerEntry) -> Option<&'a Group> {
    let mut done = usize::try_from(entry.statements_done).ok()?;
    for group in &script.groups {
        if done < group.statements.len() {
            return (!group.atomic).then_some(group);
        }
        done -= group.statements.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_statement_is_a_place_in_the_file() {
        let statement = Statement {
            sql: "SELECT 1,\n  é, x".to_owned(),
            line: 7,
            column: 5,
        };
        assert_eq!(position(&statement, 0), (7, 5));
        assert_eq!(position(&statement, 7), (7, 12));
        assert_eq!(position(&statement, 12), (8, 3));
        assert_eq!(position(&statement, 15), (8, 6));
    }

    #[test]
    fn what_sets_the_session_is_told_from_what_ends_with_its_transaction() {
        let postgres = |sql: &str| sets_session(sql, EngineKind::Postgres);
        for sql in [
            "SET search_path = a",
            "set role b",
            "RESET ALL",
            "SELECT pg_catalog.set_config('search_path', '', false)",
        ] {
            assert!(postgres(sql), "{sql}");
        }
        for sql in [
            "SET LOCAL lock_timeout = 1",
            "SET CONSTRAINTS ALL DEFERRED",
            "SELECT 1",
            "UPDATE t SET a = 1",
        ] {
            assert!(!postgres(sql), "{sql}");
        }
        assert!(sets_session("PRAGMA legacy_alter_table = ON", EngineKind::Sqlite));
        assert!(!sets_session("PRAGMA foreign_key_check", EngineKind::Sqlite));
    }
}
