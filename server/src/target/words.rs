//! The words of a statement, for the few questions about scripts that an adapter has to answer itself: which table is dropped, which
//! index is built, whether two definitions say the same. It knows quotes and comments of both databases, and no grammar.

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

/// The words of a text, without comments.
pub(super) fn words(sql: &str) -> Vec<Word> {
    let text: Vec<char> = sql.chars().collect();
    let mut words = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let here = text[at];
        let next = text.get(at + 1).copied();
        let (kind, end, inner) = match here {
            _ if here.is_whitespace() => {
                at += 1;
                continue;
            }
            '-' if next == Some('-') => {
                at = find(&text, at, |rest| rest[0] == '\n').unwrap_or(text.len());
                continue;
            }
            '/' if next == Some('*') => {
                at = find(&text, at + 2, |rest| rest.starts_with(&['*', '/'])).map_or(text.len(), |end| end + 2);
                continue;
            }
            '\'' => quoted(&text, at, '\'', Kind::Text),
            '"' | '`' => quoted(&text, at, here, Kind::Quoted),
            '[' if next.is_some_and(|next| next.is_alphabetic() || next == '_') => quoted(&text, at, ']', Kind::Quoted),
            '$' => match dollar(&text, at) {
                Some((from, to, end)) => (Kind::Text, end, text[from..to].iter().collect()),
                None => (Kind::Symbol, at + 1, "$".to_owned()),
            },
            _ if is_part(here) => {
                let number = here.is_ascii_digit();
                let end = (at..text.len())
                    .find(|&place| !(is_part(text[place]) || text[place] == '$' || (number && text[place] == '.')))
                    .unwrap_or(text.len());
                (Kind::Plain, end, text[at..end].iter().collect())
            }
            _ => (Kind::Symbol, at + 1, here.to_string()),
        };
        words.push(Word {
            kind,
            text: inner,
            at,
            end,
        });
        at = end;
    }
    words
}

fn is_part(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn find(text: &[char], from: usize, is: impl Fn(&[char]) -> bool) -> Option<usize> {
    (from..text.len()).find(|&place| is(&text[place..]))
}

/// What is between quotes, of which doubled ones stand for one.
fn quoted(text: &[char], from: usize, quote: char, kind: Kind) -> (Kind, usize, String) {
    let mut inner = String::new();
    let mut at = from + 1;
    while at < text.len() {
        if text[at] == quote {
            if text.get(at + 1) == Some(&quote) && quote != ']' {
                at += 1;
            } else {
                return (kind, at + 1, inner);
            }
        }
        inner.push(text[at]);
        at += 1;
    }
    (kind, text.len(), inner)
}

/// Where the inside of a dollar-quoted text begins and ends, and where the text ends.
fn dollar(text: &[char], at: usize) -> Option<(usize, usize, usize)> {
    let tag_end = find(text, at + 1, |rest| !is_part(rest[0]))?;
    if text[tag_end] != '$' || text[at + 1].is_ascii_digit() {
        return None;
    }
    let tag = &text[at..=tag_end];
    let end = find(text, tag_end + 1, |rest| rest.starts_with(tag))?;
    Some((tag_end + 1, end, end + tag.len()))
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

    fn texts(sql: &str) -> Vec<String> {
        words(sql).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_know_quotes_and_comments() {
        assert_eq!(
            texts("DROP /* not 'this' */ TABLE \"a\"\"b\".c -- nor \"that\"\n;"),
            ["DROP", "TABLE", "a\"b", ".", "c", ";"]
        );
        assert_eq!(
            texts("SELECT 'it''s', $f$ x '$f$, $1, 1.5e3"),
            ["SELECT", "it's", ",", " x '", ",", "$", "1", ",", "1.5e3"]
        );
        assert_eq!(texts("a[1] [b c]"), ["a", "[", "1", "]", "b c"]);
    }

    #[test]
    fn definitions_are_compared_by_meaning() {
        let one = normal(&words("CREATE VIEW \"V\" AS SELECT  'X' -- why\n FROM t"));
        assert_eq!(one, normal(&words("create view v as select 'X' from \"t\"")));
        assert_ne!(one, normal(&words("create view v as select 'x' from t")));
    }

    #[test]
    fn rows_are_counted_of_what_changes_rows() {
        assert!(changes_rows(&words("with a as (select 1) insert into t select * from a")));
        assert!(!changes_rows(&words("with a as (select 1) select * from a")));
        assert!(!changes_rows(&words("CREATE TABLE t (a int)")));
    }
}
