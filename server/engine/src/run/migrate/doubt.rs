//! A statement that was begun outside of a transaction by an attempt that did not live to see its end: what the database tells about
//! it. Only statements whose effect can be looked at are decided here; every other is a person's to judge.

use std::sync::Arc;

use super::{
    super::attempt::{Attempt, Halt},
    leftover, script,
};
use crate::{
    migration::statement::words,
    model::{EngineKind, LedgerEntry, Script, Statement},
    port::{IndexState, Target, TargetError},
};

/// Decides; returns the ledger row as it is then, or why a person has to.
pub(super) async fn resolve(
    attempt: &mut Attempt,
    target: &Arc<dyn Target>,
    script: &Script,
    entry: &LedgerEntry,
) -> Result<Result<LedgerEntry, String>, Halt> {
    let Some(statement) = script::doubtful(script, entry).and_then(|group| group.statements.first()) else {
        return Ok(Err(unknown(entry, script, None)));
    };
    let migrator = target.migrator();
    let index = index_of(target.as_ref(), script, entry.statements_done).await?;
    let mut entry = entry.clone();
    let (took_effect, warning) = match (verb(statement, target.engine()).as_str(), index) {
        ("CREATE", Some((_, IndexState::Absent))) => (false, None),
        ("CREATE", Some((_, IndexState::Valid))) => (true, None),
        ("CREATE", Some((index, IndexState::Invalid))) => {
            entry = leftover::remove(attempt, target, None, &entry, &index).await??;
            (false, None)
        }
        ("DROP", Some((_, state))) => (state == IndexState::Absent, None),
        ("REINDEX", Some((left, IndexState::Invalid))) => {
            let text = format!(
                "an interrupted REINDEX CONCURRENTLY left what is not valid, costs every write and is never used: {left}; DROP INDEX CONCURRENTLY removes it"
            );
            (false, Some(("INVALID_INDEX_LEFT", text)))
        }
        // They can be run again without harm.
        ("REINDEX" | "VACUUM" | "ANALYZE", _) => (false, None),
        _ => return Ok(Err(unknown(&entry, script, Some(statement)))),
    };
    if let Some((code, text)) = warning {
        attempt.ledger.warn(None, code, text).await?;
    }
    let resolved = LedgerEntry {
        in_doubt: false,
        problem: String::new(),
        statements_done: entry.statements_done + u32::from(took_effect),
        run: attempt.claim.run,
        ..entry.clone()
    };
    migrator
        .note(attempt.claim, &[(Some(entry.clone()), resolved.clone())])
        .await?;
    Ok(Ok(resolved))
}

fn unknown(entry: &LedgerEntry, script: &Script, statement: Option<&Statement>) -> String {
    let at = statement.map_or_else(String::new, |statement| format!(" ({}:{})", script.file, statement.line));
    format!(
        "statement {}{at} was begun by an attempt that was cut short, and whether it took effect cannot be seen; `dbkeep migrations repair {}` offers retry and skip",
        entry.statements_done + 1,
        entry.id
    )
}

/// The first word of a statement, in capitals.
fn verb(statement: &Statement, engine: EngineKind) -> String {
    let first = words(&statement.sql, engine).next();
    first.map_or_else(String::new, |token| token.text.to_ascii_uppercase())
}

/// The index that the statement after so many of a script makes or drops outside of a transaction, and its state: see
/// [`crate::port::Migrator::index_of`].
pub(crate) async fn index_of(
    target: &dyn Target,
    script: &Script,
    statements_done: u32,
) -> Result<Option<(String, IndexState)>, TargetError> {
    let mut left = usize::try_from(statements_done).unwrap_or(usize::MAX);
    for (number, group) in script.groups.iter().enumerate() {
        if let Some(statement) = group.statements.get(left) {
            if group.atomic {
                return Ok(None);
            }
            let session = script::session_before(script, number, target.engine());
            return target.migrator().index_of(statement, &session).await;
        }
        left -= group.statements.len();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verb_of_a_statement_is_its_first_word() {
        let statement = Statement {
            sql: "-- why\ncreate unique index concurrently a_b on t (x)".to_owned(),
            line: 1,
            column: 1,
        };
        assert_eq!(verb(&statement, EngineKind::Postgres), "CREATE");
    }
}
