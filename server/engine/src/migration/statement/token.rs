//! SQL cut into tokens as its database would: quotes, comments, dollar quotes, words. Knows nothing of statements. Used by the
//! splitter and by whoever judges a statement by its words.

use super::Problem;
use crate::model::EngineKind;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword or a name without quotes.
    Word,
    /// A name in quotes: `".."`, and on SQLite `` `..` `` and `[..]`.
    Name,
    /// A literal in quotes, with its prefix: `'..'`, `E'..'`, `X'..'`, `$tag$..$tag$`.
    Text,
    /// A number.
    Number,
    /// One character of anything else.
    Symbol,
    /// `-- ..` without the line's end, or `/* .. */`.
    Comment,
}

/// A token, borrowed from the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: TokenKind,
    /// Its text as it is written.
    pub text: &'a str,
    /// Where it begins, bytes from 0.
    pub offset: usize,
}

impl Token<'_> {
    /// Whether it is this word, in any case.
    #[must_use]
    pub fn is(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is this symbol.
    #[must_use]
    pub fn is_symbol(&self, symbol: char) -> bool {
        self.kind == TokenKind::Symbol && self.text.starts_with(symbol)
    }

    /// Offset of the first byte after it.
    #[must_use]
    pub fn end(&self) -> usize {
        self.offset + self.text.len()
    }
}

/// The tokens of a text, comments included, until one that never ends.
#[derive(Debug, Clone)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    engine: EngineKind,
    position: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, engine: EngineKind) -> Self {
        Self {
            text,
            engine,
            position: 0,
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or_default()
    }

    /// The next token, or the offset of one that has no end.
    pub(super) fn next_token(&mut self) -> Option<Result<Token<'a>, (usize, Problem)>> {
        let blank = self
            .rest()
            .find(|character: char| !is_blank(character))
            .unwrap_or(self.rest().len());
        self.position += blank;
        let rest = self.rest();
        let first = rest.chars().next()?;
        let offset = self.position;
        let (kind, length) = match self.measure(rest, first) {
            Ok(found) => found,
            Err(problem) => {
                self.position = self.text.len();
                return Some(Err((offset, problem)));
            }
        };
        self.position += length;
        Some(Ok(Token {
            kind,
            text: rest.get(..length).unwrap_or(rest),
            offset,
        }))
    }

    fn measure(&self, rest: &str, first: char) -> Result<(TokenKind, usize), Problem> {
        let postgres = self.engine == EngineKind::Postgres;
        let bytes = rest.as_bytes();
        let second = bytes.get(1).copied().unwrap_or_default();
        match first {
            '-' if second == b'-' => Ok((TokenKind::Comment, line_comment(rest, postgres))),
            '/' if second == b'*' => block_comment(bytes, postgres)
                .map(|length| (TokenKind::Comment, length))
                .ok_or(Problem::UnterminatedComment),
            '\'' => text(rest, 0, false),
            '"' => name(rest, 0, '"'),
            '`' if !postgres => name(rest, 0, '`'),
            '[' if !postgres => rest
                .find(']')
                .map(|end| (TokenKind::Name, end + 1))
                .ok_or(Problem::UnterminatedName),
            '$' if postgres => match dollar_tag(rest) {
                Some(tag) => rest
                    .get(tag.len()..)
                    .and_then(|body| body.find(tag))
                    .map(|end| (TokenKind::Text, 2 * tag.len() + end))
                    .ok_or_else(|| Problem::UnterminatedDollar { tag: tag.to_owned() }),
                None => Ok((TokenKind::Symbol, 1)),
            },
            _ if first.is_ascii_digit() => Ok((
                TokenKind::Number,
                run(rest, |c| c.is_ascii_alphanumeric() || c == '.' || c == '_'),
            )),
            _ if starts_word(first) => {
                let length = run(rest, |c| starts_word(c) || c.is_ascii_digit() || c == '$');
                let next = bytes.get(length).copied().unwrap_or_default();
                match (first, length, next) {
                    ('e' | 'E', 1, b'\'') if postgres => text(rest, 1, true),
                    ('b' | 'B' | 'n' | 'N', 1, b'\'') if postgres => text(rest, 1, false),
                    ('x' | 'X', 1, b'\'') => text(rest, 1, false),
                    ('u' | 'U', 1, b'&') if postgres => match bytes.get(2) {
                        Some(b'\'') => text(rest, 2, false),
                        Some(b'"') => name(rest, 2, '"'),
                        _ => Ok((TokenKind::Word, length)),
                    },
                    _ => Ok((TokenKind::Word, length)),
                }
            }
            _ => Ok((TokenKind::Symbol, first.len_utf8())),
        }
    }
}

/// The tokens of a statement without its comments. A token that has no end is left out, with all that follows.
pub fn words(sql: &str, engine: EngineKind) -> impl Iterator<Item = Token<'_>> {
    let mut lexer = Lexer::new(sql, engine);
    std::iter::from_fn(move || {
        loop {
            let token = lexer.next_token()?.ok()?;
            if token.kind != TokenKind::Comment {
                return Some(token);
            }
        }
    })
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n' | '\u{b}' | '\u{c}')
}

fn starts_word(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_' || !character.is_ascii()
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|character| !belongs(character)).unwrap_or(text.len())
}

/// PostgreSQL ends such a comment at a carriage return too, SQLite only at a line feed.
fn line_comment(rest: &str, postgres: bool) -> usize {
    let length = rest
        .find(|character| character == '\n' || (postgres && character == '\r'))
        .unwrap_or(rest.len());
    rest.get(..length).map_or(length, |line| line.trim_end_matches('\r').len())
}

fn block_comment(bytes: &[u8], nested: bool) -> Option<usize> {
    let (mut at, mut depth) = (2, 1_u32);
    while depth > 0 {
        match (bytes.get(at)?, bytes.get(at + 1)?) {
            (b'*', b'/') => {
                depth -= 1;
                at += 2;
            }
            (b'/', b'*') if nested => {
                depth += 1;
                at += 2;
            }
            _ => at += 1,
        }
    }
    Some(at)
}

/// A literal whose opening quote stands at `start`. The quotes are ASCII, so that bytes can be looked at one by one.
fn text(rest: &str, start: usize, backslashes: bool) -> Result<(TokenKind, usize), Problem> {
    quoted(rest.as_bytes(), start, b'\'', backslashes)
        .map(|length| (TokenKind::Text, length))
        .ok_or(Problem::UnterminatedText)
}

fn name(rest: &str, start: usize, quote: char) -> Result<(TokenKind, usize), Problem> {
    let quote = if quote == '`' { b'`' } else { b'"' };
    quoted(rest.as_bytes(), start, quote, false)
        .map(|length| (TokenKind::Name, length))
        .ok_or(Problem::UnterminatedName)
}

fn quoted(bytes: &[u8], start: usize, quote: u8, backslashes: bool) -> Option<usize> {
    let mut at = start + 1;
    loop {
        let byte = *bytes.get(at)?;
        if backslashes && byte == b'\\' {
            at += 2;
        } else if byte != quote {
            at += 1;
        } else if bytes.get(at + 1) == Some(&quote) {
            at += 2;
        } else {
            return Some(at + 1);
        }
    }
}

/// `$tag$` at the start of the text. `$1` is a parameter and no tag.
fn dollar_tag(rest: &str) -> Option<&str> {
    let inner = rest.get(1..)?;
    let length = run(inner, |c| starts_word(c) || c.is_ascii_digit());
    if inner.get(length..)?.starts_with('$') && !inner.starts_with(|c: char| c.is_ascii_digit()) {
        rest.get(..length + 2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use EngineKind::{Postgres, Sqlite};
    use TokenKind::{Name, Number, Symbol, Text, Word};

    fn cut(sql: &str, engine: EngineKind) -> Vec<(TokenKind, &str)> {
        words(sql, engine).map(|token| (token.kind, token.text)).collect()
    }

    #[test]
    fn quotes_are_those_of_the_database() {
        assert_eq!(
            cut("a 'it''s' \"x\"\"y\" E'\\'' u&'d' B'1'", Postgres),
            [
                (Word, "a"),
                (Text, "'it''s'"),
                (Name, "\"x\"\"y\""),
                (Text, "E'\\''"),
                (Text, "u&'d'"),
                (Text, "B'1'")
            ]
        );
        assert_eq!(
            cut("`a``b` [c d] 'x\\' X'00'", Sqlite),
            [(Name, "`a``b`"), (Name, "[c d]"), (Text, "'x\\'"), (Text, "X'00'")]
        );
        assert_eq!(cut("a[1]", Postgres).len(), 4);
    }

    #[test]
    fn dollars_are_quotes_parameters_or_parts_of_names() {
        assert_eq!(cut("$$ ; $$", Postgres), [(Text, "$$ ; $$")]);
        assert_eq!(cut("$a$ $b$ $a$", Postgres), [(Text, "$a$ $b$ $a$")]);
        assert_eq!(
            cut("$1$2", Postgres),
            [(Symbol, "$"), (Number, "1"), (Symbol, "$"), (Number, "2")]
        );
        assert_eq!(cut("foo$bar$baz", Postgres), [(Word, "foo$bar$baz")]);
        assert_eq!(cut("$ä$;$ä$", Postgres), [(Text, "$ä$;$ä$")]);
    }

    #[test]
    fn comments_nest_on_postgresql_only() {
        assert_eq!(cut("/* a /* b */ c */ d", Postgres), [(Word, "d")]);
        assert_eq!(cut("/* a /* b */ c", Sqlite), [(Word, "c")]);
        assert_eq!(cut("a--b\r\nc", Postgres), [(Word, "a"), (Word, "c")]);
    }

    #[test]
    fn what_never_ends_ends_the_words() {
        assert_eq!(cut("a 'b", Postgres), [(Word, "a")]);
        let mut lexer = Lexer::new(" /* ", Sqlite);
        assert_eq!(lexer.next_token(), Some(Err((1, Problem::UnterminatedComment))));
        assert_eq!(lexer.next_token(), None);
    }
}
