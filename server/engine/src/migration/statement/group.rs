//! Statements put into groups that take effect together. Removes `BEGIN` and `COMMIT`, since whoever executes a group writes the
//! ledger's row in the same transaction and has to open and close it.

use super::{Problem, SplitError, Token, TokenKind, words};
use crate::model::{EngineKind, Group, Statement};

/// What a statement means for the transaction that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Nature {
    Plain,
    Begin,
    Commit,
    Rollback,
    /// `BEGIN ISOLATION LEVEL ..`, `COMMIT AND CHAIN`, `PREPARE TRANSACTION` and the like.
    Odd,
    /// It cannot be in a transaction.
    Alone(&'static str),
    ForeignKeys {
        off: bool,
    },
}

/// Puts the statements of a script into groups, and tells whether the script asks that SQLite's foreign keys be off.
///
/// With `transaction` the script is one atomic group, without a `BEGIN` and `COMMIT` around it; a script that consists of one
/// statement which cannot be in a transaction is a group that is not atomic. Without `transaction` every statement is a group of its
/// own, except those between `BEGIN` and `COMMIT`, which are one, and except those by which SQLite puts a rebuilt table in the place of
/// the old one while foreign keys are off.
///
/// # Errors
/// Statements that cannot be in a transaction but are; `ROLLBACK`; `BEGIN` and `COMMIT` that do not pair.
pub fn groups(statements: Vec<Statement>, engine: EngineKind, transaction: bool) -> Result<(Vec<Group>, bool), SplitError> {
    let mut foreign_keys_off = false;
    let mut kept = Vec::with_capacity(statements.len());
    for statement in statements {
        match nature(&statement, engine) {
            Nature::ForeignKeys { off } => foreign_keys_off |= off,
            Nature::Rollback => return Err(SplitError::at(&statement, Problem::Rollback)),
            Nature::Odd => {
                let problem = Problem::TransactionForm {
                    statement: opening(&statement.sql, engine),
                };
                return Err(SplitError::at(&statement, problem));
            }
            nature => kept.push((nature, statement)),
        }
    }
    let mut groups = if transaction { whole(kept)? } else { apart(kept)? };
    if foreign_keys_off {
        join_rebuilds(&mut groups);
    }
    Ok((groups, foreign_keys_off))
}

/// Makes one group of what stands between the `DROP TABLE` of a table and the `RENAME TO` its name. Foreign keys are off meanwhile: in between
/// every row that names the table would name nothing, and whoever is stopped there would leave it so.
fn join_rebuilds(groups: &mut Vec<Group>) {
    let mut at = 0;
    while at < groups.len() {
        let open = left_dropped(&groups[at].statements);
        let fills = |group: &Group| {
            let mut statements = group.statements.iter();
            statements.any(|one| renamed_to(&one.sql).is_some_and(|name| open.contains(&name)))
        };
        let end = (at + 1..groups.len()).find(|later| fills(&groups[*later]));
        match end.filter(|end| groups[at..=*end].iter().all(|group| group.atomic)) {
            Some(end) => {
                let joined: Vec<Statement> = groups.drain(at..=end).flat_map(|group| group.statements).collect();
                if let Some(group) = several(joined) {
                    groups.insert(at, group);
                }
            }
            None => at += 1,
        }
    }
}

/// Tables that statements drop, and to whose names they rename nothing.
fn left_dropped(statements: &[Statement]) -> Vec<String> {
    let mut open = Vec::new();
    for one in statements {
        open.extend(dropped(&one.sql));
        if let Some(name) = renamed_to(&one.sql) {
            open.retain(|dropped| *dropped != name);
        }
    }
    open
}

fn dropped(sql: &str) -> Option<String> {
    let mut tokens = words(sql, EngineKind::Sqlite);
    tokens.next().filter(|token| token.is("drop"))?;
    tokens.next().filter(|token| token.is("table"))?;
    tokens.last().map(bare)
}

fn renamed_to(sql: &str) -> Option<String> {
    let mut tokens = words(sql, EngineKind::Sqlite);
    tokens.next().filter(|token| token.is("alter"))?;
    match tokens.collect::<Vec<_>>()[..] {
        [.., rename, to, name] if rename.is("rename") && to.is("to") => Some(bare(name)),
        _ => None,
    }
}

/// A name without its quotes, in lower case, as SQLite compares names.
fn bare(token: Token<'_>) -> String {
    token.text.trim_matches(['"', '`', '[', ']', '\'']).to_ascii_lowercase()
}

/// Whether the statements ask for something else than one transaction: for several, or for statements that cannot be in one.
pub(in crate::migration) fn shape(statements: &[Statement], engine: EngineKind) -> Shape {
    let natures: Vec<Nature> = statements
        .iter()
        .map(|statement| nature(statement, engine))
        .filter(|nature| !matches!(nature, Nature::ForeignKeys { .. }))
        .collect();
    let begins = natures.iter().filter(|nature| **nature == Nature::Begin).count();
    let around = begins == 1 && natures.first() == Some(&Nature::Begin) && natures.last() == Some(&Nature::Commit);
    let alone = natures.iter().filter(|nature| matches!(nature, Nature::Alone(_))).count();
    Shape {
        partial: begins > 0 && !around,
        some_alone: alone > 0,
        all_alone: alone > 0 && alone == natures.len(),
    }
}

/// What a script's statements say of its transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::migration) struct Shape {
    /// There is a `BEGIN`, but not one around everything.
    pub(in crate::migration) partial: bool,
    /// Statements cannot be in a transaction.
    pub(in crate::migration) some_alone: bool,
    /// All of them.
    pub(in crate::migration) all_alone: bool,
}

/// The statements without a `BEGIN` at the start and a `ROLLBACK` at the end, which is how scripts that only look are written.
pub(in crate::migration) fn without_rollback(mut statements: Vec<Statement>, engine: EngineKind) -> Vec<Statement> {
    let is = |statement: Option<&Statement>, wanted: &Nature| statement.is_some_and(|one| nature(one, engine) == *wanted);
    if is(statements.first(), &Nature::Begin) && is(statements.last(), &Nature::Rollback) {
        statements.pop();
        statements.remove(0);
    }
    statements
}

fn whole(mut kept: Vec<(Nature, Statement)>) -> Result<Vec<Group>, SplitError> {
    if let [(Nature::Alone(_), _)] = kept.as_slice() {
        return Ok(kept.into_iter().map(|(_, statement)| single(false, statement)).collect());
    }
    let wrapped = matches!(kept.as_slice(), [(Nature::Begin, _), .., (Nature::Commit, _)]);
    if wrapped {
        kept.pop();
        kept.remove(0);
    }
    let mut statements = Vec::with_capacity(kept.len());
    for (nature, statement) in kept {
        let problem = match nature {
            Nature::Alone(what) if wrapped => Problem::NotBetweenBeginAndCommit { what },
            Nature::Alone(what) => Problem::NotInTransaction { what },
            Nature::Begin | Nature::Commit => Problem::PartialTransaction,
            _ => {
                statements.push(statement);
                continue;
            }
        };
        return Err(SplitError::at(&statement, problem));
    }
    Ok(several(statements).into_iter().collect())
}

fn apart(kept: Vec<(Nature, Statement)>) -> Result<Vec<Group>, SplitError> {
    let mut groups = Vec::with_capacity(kept.len());
    let mut open: Option<(Statement, Vec<Statement>)> = None;
    for (nature, statement) in kept {
        let problem = match (nature, &mut open) {
            (Nature::Begin, None) => {
                open = Some((statement, Vec::new()));
                continue;
            }
            (Nature::Begin, Some(_)) => Problem::NestedBegin,
            (Nature::Commit, None) => Problem::NoBegin,
            (Nature::Commit, Some((_, inside))) => {
                groups.extend(several(std::mem::take(inside)));
                open = None;
                continue;
            }
            (Nature::Alone(what), Some(_)) => Problem::NotBetweenBeginAndCommit { what },
            (_, Some((_, inside))) => {
                inside.push(statement);
                continue;
            }
            (nature, None) => {
                groups.push(single(!matches!(nature, Nature::Alone(_)), statement));
                continue;
            }
        };
        return Err(SplitError::at(&statement, problem));
    }
    match open {
        Some((begin, _)) => Err(SplitError::at(&begin, Problem::NoCommit)),
        None => Ok(groups),
    }
}

fn single(atomic: bool, statement: Statement) -> Group {
    Group {
        atomic,
        statements: vec![statement],
    }
}

fn several(statements: Vec<Statement>) -> Option<Group> {
    (!statements.is_empty()).then_some(Group {
        atomic: true,
        statements,
    })
}

/// The first words of a statement, for a message.
fn opening(sql: &str, engine: EngineKind) -> String {
    words(sql, engine)
        .take(4)
        .map(|token| token.text)
        .collect::<Vec<_>>()
        .join(" ")
}

fn nature(statement: &Statement, engine: EngineKind) -> Nature {
    let mut tokens = words(&statement.sql, engine);
    let Some(first) = tokens.next().filter(|token| token.kind == TokenKind::Word) else {
        return Nature::Plain;
    };
    // The rest is only read where the first word can matter: scripts of a million INSERT statements are not read twice.
    match first.text.to_ascii_lowercase().as_str() {
        "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "prepare" => {
            transaction(first, &tokens.collect::<Vec<_>>(), engine)
        }
        "vacuum" => Nature::Alone("VACUUM"),
        "pragma" | "attach" | "detach" if engine == EngineKind::Sqlite => sqlite(first, &tokens.collect::<Vec<_>>()),
        "create" | "drop" | "alter" | "reindex" | "cluster" | "discard" if engine == EngineKind::Postgres => {
            postgres(first, &tokens.collect::<Vec<_>>())
        }
        _ => Nature::Plain,
    }
}

fn transaction(first: Token<'_>, rest: &[Token<'_>], engine: EngineKind) -> Nature {
    let postgres = engine == EngineKind::Postgres;
    let noise: &[&str] = if postgres {
        &["work", "transaction"]
    } else {
        &["transaction", "deferred", "immediate", "exclusive"]
    };
    let bare = rest.iter().all(|token| noise.iter().any(|word| token.is(word)));
    let begins =
        first.is("begin") || (postgres && first.is("start") && rest.first().is_some_and(|token| token.is("transaction")));
    let prepares = first.is("prepare") && rest.first().is_some_and(|token| token.is("transaction"));
    match () {
        () if begins && bare => Nature::Begin,
        () if begins || (postgres && prepares) => Nature::Odd,
        () if first.is("commit") || first.is("end") => {
            if bare {
                Nature::Commit
            } else {
                Nature::Odd
            }
        }
        () if first.is("rollback") || (postgres && first.is("abort")) => Nature::Rollback,
        () => Nature::Plain,
    }
}

fn sqlite(first: Token<'_>, rest: &[Token<'_>]) -> Nature {
    if first.is("attach") {
        return Nature::Alone("ATTACH");
    }
    if first.is("detach") {
        return Nature::Alone("DETACH");
    }
    // PRAGMA main.foreign_keys names the schema first.
    let rest = match rest {
        [_, point, rest @ ..] if point.is_symbol('.') => rest,
        _ => rest,
    };
    match rest {
        [name, ..] if is_named(*name, "journal_mode") => Nature::Alone("PRAGMA journal_mode"),
        [name, ..] if is_named(*name, "wal_checkpoint") => Nature::Alone("PRAGMA wal_checkpoint"),
        [name, _, ..] if is_named(*name, "synchronous") => Nature::Alone("PRAGMA synchronous"),
        [name, mark, value, ..] if is_named(*name, "foreign_keys") && (mark.is_symbol('=') || mark.is_symbol('(')) => {
            Nature::ForeignKeys { off: !is_true(*value) }
        }
        _ => Nature::Plain,
    }
}

fn is_named(token: Token<'_>, name: &str) -> bool {
    token.text.trim_matches(['"', '`', '[', ']', '\'']).eq_ignore_ascii_case(name)
}

/// SQLite takes yes, true, on and any number but 0 for true, and everything else for false.
fn is_true(value: Token<'_>) -> bool {
    let text = value.text.trim_matches(['"', '\'', '`', '[', ']']).to_ascii_lowercase();
    matches!(text.as_str(), "on" | "yes" | "true") || text.parse::<i64>().is_ok_and(|number| number != 0)
}

/// What PostgreSQL refuses in a transaction block, by its own documentation of each command.
fn postgres(first: Token<'_>, rest: &[Token<'_>]) -> Nature {
    let starts = |words: &[&str]| rest.len() >= words.len() && rest.iter().zip(words).all(|(token, word)| token.is(word));
    let concurrently = || rest.iter().any(|token| token.is("concurrently"));
    let found = match first.text.to_ascii_lowercase().as_str() {
        "create" if starts(&["index", "concurrently"]) || starts(&["unique", "index", "concurrently"]) => {
            "CREATE INDEX CONCURRENTLY"
        }
        "create" if starts(&["database"]) => "CREATE DATABASE",
        "create" if starts(&["tablespace"]) => "CREATE TABLESPACE",
        "create" if starts(&["subscription"]) => "CREATE SUBSCRIPTION",
        "drop" if starts(&["index", "concurrently"]) => "DROP INDEX CONCURRENTLY",
        "drop" if starts(&["database"]) => "DROP DATABASE",
        "drop" if starts(&["tablespace"]) => "DROP TABLESPACE",
        "drop" if starts(&["subscription"]) => "DROP SUBSCRIPTION",
        "alter" if starts(&["system"]) => "ALTER SYSTEM",
        "alter" if starts(&["table"]) && detaches_concurrently(rest) => "ALTER TABLE .. DETACH PARTITION .. CONCURRENTLY",
        "reindex" if concurrently() => "REINDEX CONCURRENTLY",
        "reindex" if rest.iter().take(6).any(|token| token.is("database") || token.is("system")) => "REINDEX DATABASE",
        "cluster" if rest.is_empty() => "CLUSTER of every table",
        "discard" if starts(&["all"]) => "DISCARD ALL",
        _ => return Nature::Plain,
    };
    Nature::Alone(found)
}

fn detaches_concurrently(rest: &[Token<'_>]) -> bool {
    let detaches = rest
        .windows(2)
        .any(|pair| matches!(pair, [one, two] if one.is("detach") && two.is("partition")));
    detaches && rest.last().is_some_and(|token| token.is("concurrently"))
}
