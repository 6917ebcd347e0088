//! A statement that was begun outside of a transaction by an attempt that did not live to see its end: what the database tells about
//! it. Only statements whose effect can be looked at are decided here; every other is a person's to judge.

use std::sync::Arc;

use super::{
    super::attempt::{Attempt, Halt},
    script,
};
use crate::{
    migration::statement::words,
    model::{EngineKind, LedgerEntry, Script, Statement},
    port::{IndexState, Target},
};

/// What may be done about a statement in doubt.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It makes this index.
    Makes(String),
    /// It drops this index.
    Drops(String),
    /// It can be run again without harm.
    Harmless,
    /// Nobody can tell.
    Opaque,
}

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
    let (took_effect, warning) = match look(statement, target.engine()) {
        Look::Makes(index) => match migrator.index(&index).await? {
            IndexState::Absent => (false, None),
            IndexState::Valid => (true, None),
            IndexState::Invalid => {
                migrator.drop_invalid_index(attempt.claim, &index).await?;
                let text = format!(
                    "index {index}, which an interrupted CREATE INDEX CONCURRENTLY left invalid, was dropped and is built again"
                );
                (false, Some(text))
            }
        },
        Look::Drops(index) => (migrator.index(&index).await? == IndexState::Absent, None),
        Look::Harmless => (false, None),
        Look::Opaque => return Ok(Err(unknown(entry, script, Some(statement)))),
    };
    if let Some(text) = warning {
        attempt.ledger.warn(None, "INVALID_INDEX_DROPPED", text).await?;
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

fn look(statement: &Statement, engine: EngineKind) -> Look {
    let words: Vec<String> = words(&statement.sql, engine)
        .take(12)
        .map(|token| token.text.to_owned())
        .collect();
    let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    let is = |position: usize, wanted: &str| upper.get(position).is_some_and(|word| word == wanted);
    match upper.first().map(String::as_str) {
        Some("CREATE") => {
            let Some(mut at) = upper.iter().position(|word| word == "CONCURRENTLY") else {
                return Look::Opaque;
            };
            at += 1;
            if is(at, "IF") {
                // IF NOT EXISTS
                at += 3;
            }
            if is(at, "ON") {
                // The database picks the name.
                return Look::Opaque;
            }
            name(&words, at).map_or(Look::Opaque, Look::Makes)
        }
        Some("DROP") if is(1, "INDEX") && is(2, "CONCURRENTLY") => {
            let at = if is(3, "IF") { 5 } else { 3 };
            name(&words, at).map_or(Look::Opaque, Look::Drops)
        }
        Some("VACUUM" | "ANALYZE" | "REINDEX") => Look::Harmless,
        _ => Look::Opaque,
    }
}

/// The index that a statement makes or drops without a transaction.
pub(crate) fn index_of(sql: &str, engine: EngineKind) -> Option<String> {
    let statement = Statement {
        sql: sql.to_owned(),
        line: 1,
        column: 1,
    };
    match look(&statement, engine) {
        Look::Makes(index) | Look::Drops(index) => Some(index),
        Look::Harmless | Look::Opaque => None,
    }
}

/// A name at that position, with its schema where one is written.
fn name(words: &[String], at: usize) -> Option<String> {
    let first = words.get(at)?;
    if words.get(at + 1).is_some_and(|word| word == ".") {
        return Some(format!("{first}.{}", words.get(at + 2)?));
    }
    Some(first.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_looked_at_is_told_apart() {
        let look = |sql: &str| {
            let statement = Statement {
                sql: sql.to_owned(),
                line: 1,
                column: 1,
            };
            super::look(&statement, EngineKind::Postgres)
        };
        assert_eq!(
            look("create unique index concurrently a_b on t (x)"),
            Look::Makes("a_b".to_owned())
        );
        assert_eq!(
            look("CREATE INDEX CONCURRENTLY IF NOT EXISTS \"A b\" ON t (x)"),
            Look::Makes("\"A b\"".to_owned())
        );
        assert_eq!(look("CREATE INDEX CONCURRENTLY ON t (x)"), Look::Opaque);
        assert_eq!(look("DROP INDEX CONCURRENTLY IF EXISTS s.i"), Look::Drops("s.i".to_owned()));
        assert_eq!(look("VACUUM ANALYZE t"), Look::Harmless);
        assert_eq!(look("ALTER SYSTEM SET x = 1"), Look::Opaque);
    }
}
