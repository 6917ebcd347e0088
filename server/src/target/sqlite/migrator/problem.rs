//! What SQLite's errors say about a statement of a script. The driver does not tell where in the text a mistake is; the message names
//! the word, and where that is there only once, so is the place.

use dbkeep_engine::model::EngineKind;
use dbkeep_engine::port::{MigratorError, TargetErrorClass};

use super::super::error::statement;
use crate::target::words::{Kind, words};

/// The error of the statement at `index`.
pub(super) fn of_statement(error: sqlx::Error, index: usize, sql: &str) -> MigratorError {
    let target = statement(error);
    if target.class == TargetErrorClass::Lost {
        return target.into();
    }
    MigratorError::Statement {
        index,
        offset: offset(&target.message, sql),
        code: target.code.unwrap_or_default(),
        message: target.message,
        retryable: matches!(target.class, TargetErrorClass::LockTimeout | TargetErrorClass::Conflict),
        blockers: Vec::new(),
    }
}

/// Where the word that a message names begins in the statement, characters from 0.
fn offset(message: &str, sql: &str) -> Option<usize> {
    let named = if let Some(rest) = message.strip_prefix("near \"") {
        rest.rsplit_once("\": ").map(|(word, _)| word.to_owned())?
    } else {
        let named = ["no such column: ", "no such table: ", "no such function: ", "no such index: "];
        let full = named.iter().find_map(|prefix| message.strip_prefix(prefix))?;
        full.rsplit('.').next()?.to_owned()
    };
    let same =
        |word: &&crate::target::words::Word| word.kind != Kind::Text && word.text.eq_ignore_ascii_case(named.trim_matches('"'));
    let words = words(sql, EngineKind::Sqlite);
    let mut found = words.iter().filter(same);
    match (found.next(), found.next()) {
        (Some(word), None) => Some(word.at),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_told_where_it_is_clear() {
        assert_eq!(offset("near \"FRM\": syntax error", "SELECT 'é', 1 FRM t"), Some(14));
        assert_eq!(offset("no such column: t.x", "SELECT t.x FROM t"), Some(9));
        assert_eq!(offset("no such column: x", "SELECT x, x FROM t"), None);
        assert_eq!(offset("incomplete input", "SELECT"), None);
        assert_eq!(offset("near \"(\": syntax error", "SELECT 1 ("), Some(9));
    }
}
