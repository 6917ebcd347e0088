//! What only the text of a `CREATE TABLE` says: collations, computed columns, checks. SQLite rewrites that text when something is
//! renamed, so it is read word by word.

use dbkeep_engine::model::EngineKind;

use crate::target::words::{Word, are, normal, words};

/// What the text of a `CREATE TABLE` says beside what the pragmas tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Definition {
    /// Of each column by its name in lower case: collation, expression, AUTOINCREMENT, conflict clauses.
    pub(super) columns: Vec<(String, String)>,
    /// CHECK expressions, sorted.
    pub(super) checks: Vec<String>,
}

impl Definition {
    /// Reads the text.
    pub(super) fn of(sql: &str) -> Self {
        let words = words(sql, EngineKind::Sqlite);
        let mut definition = Self::default();
        let Some(open) = words.iter().position(|word| word.is_symbol("(")) else {
            return definition;
        };
        let close = matching(&words, open);
        for part in parts(&words[open + 1..close]) {
            checks(part, &mut definition.checks);
            let table_constraint = ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"]
                .iter()
                .any(|keyword| part.first().is_some_and(|word| word.is(keyword)));
            let (Some(name), false) = (part.first(), table_constraint) else {
                continue;
            };
            let said = said(part);
            if !said.is_empty() {
                definition.columns.push((name.text.to_lowercase(), said));
            }
        }
        definition.checks.sort();
        definition
    }
}

/// The position of the bracket that closes the one at `open`, or the end.
fn matching(words: &[Word], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, word) in words.iter().enumerate().skip(open) {
        if word.is_symbol("(") {
            depth += 1;
        } else if word.is_symbol(")") {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return at;
            }
        }
    }
    words.len()
}

/// Parts between commas outside of brackets.
fn parts(words: &[Word]) -> Vec<&[Word]> {
    let (mut parts, mut from, mut at) = (Vec::new(), 0, 0);
    while at < words.len() {
        if words[at].is_symbol("(") {
            at = matching(words, at);
        } else if words[at].is_symbol(",") {
            parts.push(&words[from..at]);
            from = at + 1;
        }
        at += 1;
    }
    parts.push(&words[from..]);
    parts
}

fn checks(part: &[Word], into: &mut Vec<String>) {
    let mut at = 0;
    while at < part.len() {
        if part[at].is_symbol("(") {
            at = matching(part, at);
        } else if part[at].is("CHECK") && part.get(at + 1).is_some_and(|word| word.is_symbol("(")) {
            let end = matching(part, at + 1);
            into.push(normal(&part[at + 2..end.min(part.len())]));
            at = end;
        }
        at += 1;
    }
}

/// What a column's definition says that no pragma tells.
fn said(part: &[Word]) -> String {
    let mut said = Vec::new();
    let mut at = 1;
    while at < part.len() {
        let end = if part[at].is("COLLATE") {
            at + 2
        } else if part[at].is("AUTOINCREMENT") {
            at + 1
        } else if are(part, at, &["ON", "CONFLICT"]) {
            at + 3
        } else if part[at].is("AS") && part.get(at + 1).is_some_and(|word| word.is_symbol("(")) {
            matching(part, at + 1) + 1
        } else {
            at += if part[at].is_symbol("(") {
                matching(part, at) - at + 1
            } else {
                1
            };
            continue;
        };
        let end = end.min(part.len());
        said.push(normal(&part[at..end]));
        at = end;
    }
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_do_not_depend_on_spelling() {
        let one = Definition::of(
            "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT COLLATE NOCASE CHECK (a <> ''), b AS (a || 'x') STORED, CHECK (length(a) > (1)))",
        );
        let other = Definition::of(
            "CREATE TABLE \"u\" (\"id\" integer primary key autoincrement, \"a\" text check(\"a\" <> '') collate nocase, b as(a||'x') stored, check(length(a)>(1)))",
        );
        assert_eq!(one, other);
        assert_eq!(one.checks.len(), 2);
        assert_eq!(one.columns.len(), 3);
        assert_ne!(one, Definition::of("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)"));
        assert_eq!(Definition::of("CREATE TABLE t AS SELECT 1"), Definition::default());
    }
}
