//! The words of a statement, for the few questions about scripts that an adapter has to answer itself: which table is dropped, which
//! index is built, whether two definitions say the same. Cut by the engine's own tokens; no grammar here.

use dbkeep_engine::{
    migration::statement::{self, TokenKind},
    model::EngineKind,
};

/// What kind of word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword, a number, or a name without quotes.
    Plain,
    /// A name in quotes.
    Quoted,
    /// Text in quotes.
    Text,
    /// One character of anything else.
    Symbol,
}

/// One word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// Its kind.
    pub(super) kind: Kind,
    /// Its text, without quotes.
    pub(super) text: String,
    /// Where it begins, characters from 0.
    pub(super) at: usize,
    /// Where it ends, characters from 0.
    pub(super) end: usize,
}

impl Word {
    /// Whether it is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Plain && self.text.eq_ignore_ascii_case(keyword)
    }

    /// Whether it is this character.
    pub(super) fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == Kind::Symbol && self.text == symbol
    }

    fn is_name(&self) -> bool {
        matches!(self.kind, Kind::Plain | Kind::Quoted)
    }
}

/// The words of a text, without comments, as its database would cut it.
pub(super) fn words(sql: &str, engine: EngineKind) -> Vec<Word> {
    let (mut characters, mut counted) = (0, 0);
    statement::words(sql, engine)
        .map(|token| {
            // Tokens tell bytes, whoever reads a statement counts characters.
            characters += sql.get(counted..token.offset).map_or(0, |between| between.chars().count());
            counted = token.offset;
            let (kind, text) = match token.kind {
                TokenKind::Word | TokenKind::Number => (Kind::Plain, token.text.to_owned()),
                // A name with escapes (`U&".."`) is none that can be compared: they are not read here.
                TokenKind::Name if token.text.starts_with(['u', 'U']) => (Kind::Symbol, token.text.to_owned()),
                TokenKind::Name => (Kind::Quoted, inside(token.text)),
                TokenKind::Text => (Kind::Text, inside(token.text)),
                TokenKind::Symbol | TokenKind::Comment => (Kind::Symbol, token.text.to_owned()),
            };
            Word {
                kind,
                text,
                at: characters,
                end: characters + token.text.chars().count(),
            }
        })
        .collect()
}

/// What is between the quotes of a token, of which doubled ones stand for one.
fn inside(quoted: &str) -> String {
    let Some(open) = quoted.find(['\'', '"', '`', '[', '$']) else {
        return quoted.to_owned();
    };
    let (quote, rest) = quoted[open..].split_at(1);
    match quote {
        "$" => {
            let tag = rest.find('$').map_or(0, |end| end + 1);
            let inner = rest.get(tag..rest.len().saturating_sub(tag + 1));
            inner.unwrap_or_default().to_owned()
        }
        "[" => rest.trim_end_matches(']').to_owned(),
        _ => rest.strip_suffix(quote).unwrap_or(rest).replace(&quote.repeat(2), quote),
    }
}

/// The parts of a name with dots at this position, and the position after it.
pub(super) fn name_at(words: &[Word], mut at: usize) -> Option<(Vec<&Word>, usize)> {
    let mut parts = vec![words.get(at).filter(|word| word.is_name())?];
    while words.get(at + 1).is_some_and(|word| word.is_symbol(".")) {
        parts.push(words.get(at + 2).filter(|word| word.is_name())?);
        at += 2;
    }
    Some((parts, at + 1))
}

/// Whether the words at a position are these keywords.
pub(super) fn are(words: &[Word], at: usize, keywords: &[&str]) -> bool {
    keywords
        .iter()
        .enumerate()
        .all(|(offset, keyword)| words.get(at + offset).is_some_and(|word| word.is(keyword)))
}

/// The position after `IF EXISTS` or `IF NOT EXISTS`, where one of them is there.
pub(super) fn after_if_exists(words: &[Word], at: usize) -> usize {
    if are(words, at, &["IF", "NOT", "EXISTS"]) {
        at + 3
    } else if are(words, at, &["IF", "EXISTS"]) {
        at + 2
    } else {
        at
    }
}

/// Whether a statement changes rows, and the database's count of them is to be believed.
pub(super) fn changes_rows(words: &[Word]) -> bool {
    const VERBS: [&str; 6] = ["INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE", "COPY"];
    let is_verb = |word: &Word| VERBS.iter().any(|verb| word.is(verb));
    match words.first() {
        Some(first) if first.is("WITH") => words.iter().any(is_verb),
        Some(first) => is_verb(first),
        None => false,
    }
}

/// The text that is equal for definitions which differ only in spaces, comments, quotes of names and the case of letters.
pub(super) fn normal(words: &[Word]) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() {
            text.push(' ');
        }
        match word.kind {
            Kind::Text => {
                text.push('\'');
                text.push_str(&word.text.replace('\'', "''"));
                text.push('\'');
            }
            Kind::Plain | Kind::Quoted => text.push_str(&word.text.to_lowercase()),
            Kind::Symbol => text.push_str(&word.text),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    use EngineKind::{Postgres, Sqlite};

    fn texts(sql: &str, engine: EngineKind) -> Vec<String> {
        words(sql, engine).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_know_quotes_and_comments() {
        assert_eq!(
            texts("DROP /* not 'this' */ TABLE \"a\"\"b\".c -- nor \"that\"\n;", Sqlite),
            ["DROP", "TABLE", "a\"b", ".", "c", ";"]
        );
        assert_eq!(
            texts("SELECT 'it''s', $f$ x '$f$, $1, 1.5e3", Postgres),
            ["SELECT", "it's", ",", " x '", ",", "$", "1", ",", "1.5e3"]
        );
        assert_eq!(texts("a[1]", Postgres), ["a", "[", "1", "]"]);
        assert_eq!(texts("[b c].`d``e`", Sqlite), ["b c", ".", "d`e"]);
        assert_eq!(texts("$$a$$ E'b'", Postgres), ["a", "b"]);
        let places: Vec<_> = words("'é' x", Postgres).into_iter().map(|word| (word.at, word.end)).collect();
        assert_eq!(places, [(0, 3), (4, 5)]);
    }

    #[test]
    fn definitions_are_compared_by_meaning() {
        let one = normal(&words("CREATE VIEW \"V\" AS SELECT  'X' -- why\n FROM t", Sqlite));
        assert_eq!(one, normal(&words("create view v as select 'X' from \"t\"", Sqlite)));
        assert_ne!(one, normal(&words("create view v as select 'x' from t", Sqlite)));
    }

    #[test]
    fn rows_are_counted_of_what_changes_rows() {
        assert!(changes_rows(&words(
            "with a as (select 1) insert into t select * from a",
            Sqlite
        )));
        assert!(!changes_rows(&words("with a as (select 1) select * from a", Sqlite)));
        assert!(!changes_rows(&words("CREATE TABLE t (a int)", Sqlite)));
    }
}
