//! Statements that read and change rows: `SELECT`, `INSERT`, `UPDATE`, `DELETE`, `MERGE`, also within `WITH`. Both databases spell
//! them alike.

use super::{
    context::Context,
    reading::{Fact, Reading},
    token::{Cursor, Name, Token, TokenKind, compared},
};
use crate::model::{EngineKind, LockMode, Work};

/// Functions with a `FROM` in their parentheses that names no table.
const FROM_WITHIN: [&str; 5] = ["EXTRACT", "SUBSTRING", "TRIM", "OVERLAY", "POSITION"];

/// Functions that a bare `SELECT` may call without being a riddle. Any other may do anything.
const HARMLESS_CALLS: [&str; 22] = [
    "setval",
    "nextval",
    "currval",
    "set_config",
    "current_setting",
    "now",
    "version",
    "count",
    "max",
    "min",
    "sum",
    "coalesce",
    "exists",
    "in",
    "values",
    "and",
    "or",
    "not",
    "pg_notify",
    "pg_sleep",
    "random",
    "length",
];

/// Reads a statement about rows; `None` where it is none.
pub(super) fn read(cursor: Cursor<'_>, context: &Context) -> Option<Reading> {
    let mut cursor = cursor;
    if cursor.peek()?.is_symbol("(") {
        let inside = cursor.parens()?;
        return read(inside, context);
    }
    let all = cursor.rest();
    let with = if cursor.eat("WITH") {
        common_tables(&mut cursor)
    } else {
        Vec::new()
    };
    let verb = cursor.peek()?.text.to_uppercase();
    cursor.skip(1);
    let mut reading = Reading::new(verb.clone());
    match verb.as_str() {
        "SELECT" | "VALUES" | "TABLE" => select(&verb, cursor, &with, &mut reading),
        "INSERT" | "REPLACE" => insert(&verb, cursor, context, &mut reading)?,
        "UPDATE" => update(cursor, context, &mut reading)?,
        "DELETE" => delete(cursor, context, &mut reading)?,
        "MERGE" => merge(cursor, context, &mut reading)?,
        _ => return None,
    }
    for source in sources(all, cursor.engine(), &with) {
        reading.lock(&source, LockMode::AccessShare);
        if matches!(verb.as_str(), "INSERT" | "REPLACE" | "MERGE") && !reading.tables.contains(&source) {
            reading.tables.push(source);
        }
    }
    inner_changes(all, context, &mut reading);
    Some(reading)
}

/// Passes over what stands between `WITH` and the statement, and returns the names that it defines.
fn common_tables(cursor: &mut Cursor<'_>) -> Vec<String> {
    let mut names = Vec::new();
    cursor.eat("RECURSIVE");
    while let Some(name) = cursor.identifier() {
        names.push(name);
        cursor.parens();
        cursor.eat("AS");
        cursor.eat("NOT");
        cursor.eat("MATERIALIZED");
        cursor.parens();
        // `SEARCH ... SET x` and `CYCLE ... USING y` may follow, up to the comma or the statement.
        while let Some(token) = cursor.peek()
            && !token.is_symbol(",")
            && !["SELECT", "INSERT", "REPLACE", "UPDATE", "DELETE", "MERGE", "VALUES", "TABLE"]
                .iter()
                .any(|verb| token.is_word(verb))
        {
            cursor.skip(1);
        }
        if !cursor.eat_symbol(",") {
            break;
        }
    }
    names
}

fn select(verb: &str, cursor: Cursor<'_>, with: &[String], reading: &mut Reading) {
    let tokens = cursor.rest();
    let engine = cursor.engine();
    if verb == "TABLE" {
        let mut cursor = cursor;
        if let Some(name) = cursor.name() {
            reading.lock(&name, LockMode::AccessShare);
        }
        return;
    }
    let from = sources(tokens, engine, with);
    if !from.is_empty() {
        reading.work = Work::Rows;
        reading.tables.clone_from(&from);
    }
    if let Some(mut target) = cursor.after("INTO").filter(|_| engine == EngineKind::Postgres) {
        while ["TEMPORARY", "TEMP", "UNLOGGED", "LOGGED", "TABLE"]
            .iter()
            .any(|word| target.eat(word))
        {}
        if let Some(table) = target.name() {
            reading.kind = "SELECT INTO".to_owned();
            reading.lock(&table, LockMode::AccessExclusive);
            reading.work = Work::Scan;
            reading.fact(Fact::Creates(table.clone()));
            reading.fact(Fact::Fills(table));
        }
    }
    let locking = ["FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE", "FOR KEY SHARE"];
    if locking.iter().any(|words| cursor.has(words)) {
        for table in &from {
            reading.lock(table, LockMode::RowShare);
        }
    }
    if from.is_empty() && engine == EngineKind::Postgres {
        let calls = tokens
            .windows(2)
            .filter(|pair| pair[0].kind == TokenKind::Word && pair[1].is_symbol("("));
        let riddle = calls
            .map(|pair| pair[0].text.to_lowercase())
            .find(|call| !HARMLESS_CALLS.contains(&call.as_str()));
        if let Some(call) = riddle {
            reading.fact(Fact::Opaque(format!("it calls {call}, and a function may do anything")));
        }
    }
}

fn insert(verb: &str, mut cursor: Cursor<'_>, context: &Context, reading: &mut Reading) -> Option<()> {
    let replaces = verb == "REPLACE" || cursor.at("OR REPLACE");
    if cursor.eat("OR") {
        cursor.skip(1);
    }
    cursor.eat("INTO");
    let table = cursor.name()?;
    "INSERT".clone_into(&mut reading.kind);
    reading.changes_rows = true;
    reading.work = Work::Rows;
    reading.lock(&table, LockMode::RowExclusive);
    for key in context.keys_of(&table) {
        reading.lock(&key.parent, LockMode::RowShare);
    }
    if replaces {
        reading.fact(Fact::Replaces(table.clone()));
    }
    reading.fact(Fact::Fills(table));
    Some(())
}

fn update(mut cursor: Cursor<'_>, context: &Context, reading: &mut Reading) -> Option<()> {
    if cursor.eat("OR") {
        cursor.skip(1);
    }
    cursor.eat("ONLY");
    let table = cursor.name()?;
    reading.changes_rows = true;
    reading.work(Work::Rows, &table);
    reading.lock(&table, LockMode::RowExclusive);
    // Only a reference that is changed is looked up.
    let sets = |column: &String| {
        cursor
            .rest()
            .iter()
            .any(|token| token.is_name() && compared(token, cursor.engine()) == *column)
    };
    for key in context.keys_of(&table).filter(|key| key.columns.iter().any(sets)) {
        reading.lock(&key.parent, LockMode::RowShare);
    }
    if is_unbounded(&cursor) {
        reading.fact(Fact::UpdatesAll(table));
    }
    Some(())
}

fn delete(mut cursor: Cursor<'_>, context: &Context, reading: &mut Reading) -> Option<()> {
    cursor.eat("FROM");
    cursor.eat("ONLY");
    let table = cursor.name()?;
    reading.changes_rows = true;
    reading.loses_data = true;
    reading.work(Work::Rows, &table);
    reading.lock(&table, LockMode::RowExclusive);
    for key in context.keys_to(&table) {
        // Whatever the key's action is, it is no more than this.
        reading.lock(&key.child, LockMode::RowExclusive);
    }
    if let Some(mut using) = cursor.after("USING") {
        for other in list_of_tables(&mut using) {
            reading.lock(&other, LockMode::AccessShare);
        }
    }
    reading.fact(if is_unbounded(&cursor) {
        Fact::DeletesAll(table)
    } else {
        Fact::DeletesSome(table)
    });
    Some(())
}

fn merge(mut cursor: Cursor<'_>, context: &Context, reading: &mut Reading) -> Option<()> {
    cursor.eat("INTO");
    cursor.eat("ONLY");
    let table = cursor.name()?;
    reading.changes_rows = true;
    reading.work(Work::Rows, &table);
    reading.lock(&table, LockMode::RowExclusive);
    for key in context.keys_of(&table) {
        reading.lock(&key.parent, LockMode::RowShare);
    }
    if let Some(mut using) = cursor.after("USING") {
        using.eat("ONLY");
        if let Some(source) = using.name() {
            reading.lock(&source, LockMode::AccessShare);
            reading.work(Work::Rows, &source);
        }
    }
    if cursor.has("THEN DELETE") {
        reading.loses_data = true;
        reading.fact(Fact::DeletesSome(table.clone()));
    }
    reading.fact(Fact::Fills(table));
    Some(())
}

/// Whether no condition picks rows. A condition that is always true picks none either.
fn is_unbounded(cursor: &Cursor<'_>) -> bool {
    let Some(condition) = cursor.after("WHERE") else {
        return true;
    };
    let mut words = Vec::new();
    for token in condition.rest() {
        if token.is_word("RETURNING") {
            break;
        }
        if !token.is_symbol("(") && !token.is_symbol(")") {
            words.push(token.text.to_lowercase());
        }
    }
    match words.as_slice() {
        [only] => only == "true" || only == "1",
        [left, equal, right] => equal == "=" && left == right,
        _ => false,
    }
}

/// The tables that queries in these tokens read, without those that `with` defines.
pub(super) fn sources(tokens: &[Token], engine: EngineKind, with: &[String]) -> Vec<Name> {
    let mut found: Vec<Name> = Vec::new();
    let mut owners: Vec<String> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| tokens.get(at));
        if token.is_symbol("(") {
            owners.push(before.map(|token| token.text.to_uppercase()).unwrap_or_default());
        } else if token.is_symbol(")") {
            owners.pop();
        }
        let distinct = before.is_some_and(|token| token.is_word("DISTINCT"))
            && at
                .checked_sub(2)
                .and_then(|at| tokens.get(at))
                .is_some_and(|token| token.is_word("IS") || token.is_word("NOT"));
        let within = owners.last().is_some_and(|owner| FROM_WITHIN.contains(&owner.as_str()));
        let deletes = before.is_some_and(|token| token.is_word("DELETE"));
        let begins = token.is_word("JOIN") || (token.is_word("FROM") && !distinct && !within && !deletes);
        if !begins {
            continue;
        }
        let mut cursor = Cursor::new(tokens.get(at + 1..).unwrap_or_default(), engine);
        for name in list_of_tables(&mut cursor) {
            let defined = with
                .iter()
                .any(|with| Name::parse(&quoted(with), engine) == name || with.eq_ignore_ascii_case(&name.to_string()));
            if !defined && !found.contains(&name) {
                found.push(name);
            }
        }
    }
    found
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Tables of a `FROM` list, up to its first join; functions and subqueries are passed over.
fn list_of_tables(cursor: &mut Cursor<'_>) -> Vec<Name> {
    let mut names = Vec::new();
    loop {
        while ["ONLY", "LATERAL", "ROWS"].iter().any(|word| cursor.eat(word)) {}
        if cursor.parens().is_none() {
            let Some(name) = cursor.name() else { break };
            if cursor.parens().is_none() {
                names.push(name);
            }
        }
        cursor.eat_symbol("*");
        cursor.eat("WITH ORDINALITY");
        cursor.eat("AS");
        // An alias may follow, but a keyword that goes on with the query is none.
        let follows = [
            "WHERE",
            "JOIN",
            "LEFT",
            "RIGHT",
            "INNER",
            "FULL",
            "CROSS",
            "NATURAL",
            "ON",
            "GROUP",
            "ORDER",
            "SET",
            "RETURNING",
        ];
        if cursor
            .peek()
            .is_some_and(|token| token.is_name() && !follows.iter().any(|word| token.is_word(word)))
        {
            cursor.skip(1);
            cursor.parens();
        }
        if !cursor.eat_symbol(",") {
            break;
        }
    }
    names
}

/// Statements that change rows inside of parentheses: the parts of a `WITH`.
fn inner_changes(tokens: &[Token], context: &Context, reading: &mut Reading) {
    for (at, pair) in tokens.windows(2).enumerate() {
        let changes = ["INSERT", "UPDATE", "DELETE", "MERGE"]
            .iter()
            .any(|verb| pair[1].is_word(verb));
        if !pair[0].is_symbol("(") || !changes {
            continue;
        }
        let mut cursor = Cursor::new(&tokens[at..], context.engine);
        if let Some(inner) = cursor.parens().and_then(|inside| read(inside, context)) {
            reading.absorb(inner);
        }
    }
}
