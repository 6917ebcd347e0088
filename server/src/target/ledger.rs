//! What dbkeep's ledger of migrations means, whatever the database: names of states, what an order expects to find, what is written
//! before a statement that no transaction holds. Called by the adapters, which keep the rows.

use dbkeep_engine::{
    model::{LedgerEntry, LedgerState, Script, Statement, StatementReport},
    port::{Follow, MigratorError, TargetError, TargetErrorClass, Told},
};

const STATES: [(LedgerState, &str); 5] = [
    (LedgerState::Applied, "applied"),
    (LedgerState::Baselined, "baselined"),
    (LedgerState::RolledBack, "rolled_back"),
    (LedgerState::Applying, "applying"),
    (LedgerState::Reverting, "reverting"),
];

/// The name of a state in the ledger.
pub(super) fn state_name(state: LedgerState) -> &'static str {
    STATES.iter().find(|(known, _)| *known == state).map_or("", |(_, name)| name)
}

/// The state of a name in the ledger.
pub(super) fn state_of(name: &str) -> Result<LedgerState, TargetError> {
    let known = STATES.iter().find(|(_, known)| *known == name);
    known.map(|(state, _)| *state).ok_or_else(|| {
        TargetError::new(
            TargetErrorClass::Refused,
            format!("the ledger of migrations holds the unknown state {name}; expected one that this version writes"),
        )
    })
}

fn told(entry: Option<&LedgerEntry>) -> String {
    entry.map_or_else(
        || "is not in the ledger".to_owned(),
        |entry| {
            format!(
                "is {} after {} of {} statements, checksum {}",
                state_name(entry.state),
                entry.statements_done,
                entry.statements,
                entry.sha256.get(..12).unwrap_or(&entry.sha256)
            )
        },
    )
}

/// Nothing where the ledger holds what was expected: the same state, script and statements.
pub(super) fn check_unmoved(id: &str, expected: Option<&LedgerEntry>, found: Option<&LedgerEntry>) -> Result<(), MigratorError> {
    let key = |entry: &LedgerEntry| (entry.state, entry.sha256.clone(), entry.statements_done);
    if expected.map(key) == found.map(key) {
        return Ok(());
    }
    Err(MigratorError::LedgerMoved {
        problem: format!("migration {id} {}; expected that it {}", told(found), told(expected)),
    })
}

/// The row that says that a statement outside of a transaction has begun.
pub(super) fn in_doubt(before: Option<&LedgerEntry>, after: &LedgerEntry) -> LedgerEntry {
    let state = match after.state {
        LedgerState::RolledBack | LedgerState::Reverting => LedgerState::Reverting,
        LedgerState::Applied | LedgerState::Baselined | LedgerState::Applying => LedgerState::Applying,
    };
    let done = before
        .filter(|before| before.state == state)
        .map_or(0, |before| before.statements_done);
    LedgerEntry {
        state,
        statements_done: done,
        in_doubt: true,
        problem: String::new(),
        ..after.clone()
    }
}

/// Whether the first column of a check's row says that it holds.
pub(super) fn holds(first: Option<&str>) -> bool {
    first.is_some_and(|text| {
        text.eq_ignore_ascii_case("true") || text == "t" || text.parse::<f64>().is_ok_and(|number| number != 0.0)
    })
}

/// What the rows of a check say, by their first columns; `None` where it holds.
pub(super) fn judged(rows: &[Option<String>]) -> Option<String> {
    if rows.is_empty() {
        return Some("no row; expected at least one".to_owned());
    }
    let place = rows.iter().position(|first| !holds(first.as_deref()))?;
    let found = rows[place].as_deref().unwrap_or("NULL");
    Some(if rows.len() == 1 {
        found.to_owned()
    } else {
        format!("{found} in row {} of {}", place + 1, rows.len())
    })
}

/// What a statement that verifies a migration means by failing.
pub(super) fn does_not_verify(error: MigratorError, script: &Script, one: &Statement) -> MigratorError {
    match error {
        MigratorError::Statement { message, .. } => MigratorError::Check {
            check: format!("{}:{}", script.file, one.line),
            found: message,
        },
        other => other,
    }
}

/// What the ledger says of the time and the rows of a group, added to those before.
pub(super) fn with_work(after: &LedgerEntry, statements: &[StatementReport], duration_ms: u64) -> LedgerEntry {
    LedgerEntry {
        rows: after.rows + statements.iter().map(|statement| statement.rows).sum::<u64>(),
        duration_ms: after.duration_ms + duration_ms,
        ..after.clone()
    }
}

/// A report of a statement that has ended.
pub(super) fn report(index: usize, statement: &Statement, duration: std::time::Duration, rows: u64) -> StatementReport {
    StatementReport {
        statement: u32::try_from(index + 1).unwrap_or(u32::MAX),
        line: statement.line,
        excerpt: StatementReport::excerpt_of(&statement.sql),
        duration_ms: millis(duration),
        rows,
        locks: Vec::new(),
        locks_at_least: false,
        rewritten: Vec::new(),
    }
}

/// Whole milliseconds.
pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Tells who follows, if anybody does.
pub(super) fn tell(follow: &Follow, told: Told) {
    // Nobody needs to listen.
    let _ = follow.told.send(told);
}

/// The lease is not there any more.
pub(super) fn lease_ran_out() -> TargetError {
    TargetError::new(
        TargetErrorClass::Fenced,
        "the lease for migrations ran out or was given back; expected it to be held",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_holds_by_its_first_column() {
        for yes in ["true", "t", "1", "-2", "0.5"] {
            assert!(holds(Some(yes)), "{yes}");
        }
        for no in [Some("false"), Some("0"), Some("0.0"), Some("yes"), Some(""), None] {
            assert!(!holds(no), "{no:?}");
        }
        assert_eq!(judged(&[]).as_deref(), Some("no row; expected at least one"));
        assert_eq!(judged(&[Some("1".to_owned()), None]).as_deref(), Some("NULL in row 2 of 2"));
        assert_eq!(judged(&[Some("t".to_owned())]), None);
    }

    #[test]
    fn states_have_names() {
        for (state, name) in STATES {
            assert_eq!(state_name(state), name);
            assert_eq!(state_of(name).ok(), Some(state));
        }
        assert!(state_of("lost").is_err());
    }
}
