//! Reads SQL as tokens, just closely enough to tell keywords, names and literals apart; it checks nothing. Every reader of this
//! folder stands on it, so that comments, quoting, letter case and line breaks matter nowhere else.

use std::fmt;

use crate::model::EngineKind;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// A keyword or an unquoted name.
    Word,
    /// A quoted name; the text is without its quotes.
    Quoted,
    /// A string literal of any spelling.
    Text,
    /// A number.
    Number,
    /// Anything else, one character.
    Symbol,
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// What it is.
    pub(super) kind: TokenKind,
    /// Its text; a quoted name without its quotes.
    pub(super) text: String,
}

impl Token {
    /// Whether it is this keyword, given in capitals.
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is this symbol.
    pub(super) fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == TokenKind::Symbol && self.text == symbol
    }

    /// Whether it can be a name.
    pub(super) fn is_name(&self) -> bool {
        matches!(self.kind, TokenKind::Word | TokenKind::Quoted)
    }
}

/// Splits a statement into tokens; comments and blanks are left out.
pub(super) fn tokens_of(sql: &str, engine: EngineKind) -> Vec<Token> {
    let chars: Vec<char> = sql.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        match c {
            c if c.is_whitespace() || c == '\u{feff}' => at += 1,
            '-' if next == Some('-') => at = end_of_line(&chars, at),
            '/' if next == Some('*') => at = end_of_comment(&chars, at, engine == EngineKind::Postgres),
            '\'' => at = text_token(&chars, at, at, false, &mut tokens),
            'e' | 'E' if next == Some('\'') && engine == EngineKind::Postgres => {
                at = text_token(&chars, at, at + 1, true, &mut tokens)
            }
            'b' | 'B' | 'x' | 'X' | 'n' | 'N' if next == Some('\'') => at = text_token(&chars, at, at + 1, false, &mut tokens),
            'u' | 'U' if next == Some('&') && chars.get(at + 2) == Some(&'\'') => {
                at = text_token(&chars, at, at + 2, false, &mut tokens);
            }
            'u' | 'U' if next == Some('&') && chars.get(at + 2) == Some(&'"') => {
                at = quoted_token(&chars, at + 2, '"', &mut tokens)
            }
            '"' => at = quoted_token(&chars, at, '"', &mut tokens),
            '`' if engine == EngineKind::Sqlite => at = quoted_token(&chars, at, '`', &mut tokens),
            '[' if engine == EngineKind::Sqlite => at = quoted_token(&chars, at, ']', &mut tokens),
            '$' if engine == EngineKind::Postgres => at = dollar_token(&chars, at, &mut tokens),
            c if is_word_start(c) => at = run(&chars, at, is_word_part, TokenKind::Word, &mut tokens),
            c if c.is_ascii_digit() => {
                at = run(
                    &chars,
                    at,
                    |c| c.is_ascii_alphanumeric() || c == '.' || c == '_',
                    TokenKind::Number,
                    &mut tokens,
                )
            }
            c => {
                tokens.push(Token {
                    kind: TokenKind::Symbol,
                    text: c.to_string(),
                });
                at += 1;
            }
        }
    }
    tokens
}

fn is_word_start(c: char) -> bool {
    c.is_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_word_part(c: char) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == '$'
}

fn run(chars: &[char], from: usize, part: impl Fn(char) -> bool, kind: TokenKind, tokens: &mut Vec<Token>) -> usize {
    let text: String = chars.iter().skip(from).copied().take_while(|c| part(*c)).collect();
    let end = from + text.chars().count();
    tokens.push(Token { kind, text });
    end
}

fn end_of_line(chars: &[char], from: usize) -> usize {
    let mut at = from;
    while chars.get(at).is_some_and(|c| *c != '\n') {
        at += 1;
    }
    at
}

fn end_of_comment(chars: &[char], from: usize, nested: bool) -> usize {
    let (mut at, mut depth) = (from + 2, 1_u32);
    while depth > 0 && at < chars.len() {
        match (chars.get(at), chars.get(at + 1)) {
            (Some('*'), Some('/')) => {
                depth -= 1;
                at += 2;
            }
            (Some('/'), Some('*')) if nested => {
                depth += 1;
                at += 2;
            }
            _ => at += 1,
        }
    }
    at
}

/// A string literal that begins at `from` and whose first quote is at `quote`.
fn text_token(chars: &[char], from: usize, quote: usize, escapes: bool, tokens: &mut Vec<Token>) -> usize {
    let mut at = quote + 1;
    while let Some(&c) = chars.get(at) {
        let doubled = c == '\'' && chars.get(at + 1) == Some(&'\'');
        if doubled || (c == '\\' && escapes) {
            at += 2;
        } else if c == '\'' {
            break;
        } else {
            at += 1;
        }
    }
    let end = (at + 1).min(chars.len());
    tokens.push(Token {
        kind: TokenKind::Text,
        text: chars[from..end].iter().collect(),
    });
    end
}

fn quoted_token(chars: &[char], from: usize, close: char, tokens: &mut Vec<Token>) -> usize {
    let mut text = String::new();
    let mut at = from + 1;
    while let Some(&c) = chars.get(at) {
        if c == close && close != ']' && chars.get(at + 1) == Some(&close) {
            text.push(c);
            at += 2;
        } else if c == close {
            break;
        } else {
            text.push(c);
            at += 1;
        }
    }
    tokens.push(Token {
        kind: TokenKind::Quoted,
        text,
    });
    at + 1
}

/// `$tag$ ... $tag$`, or a parameter such as `$1`.
fn dollar_token(chars: &[char], from: usize, tokens: &mut Vec<Token>) -> usize {
    let tag: String = chars
        .iter()
        .skip(from + 1)
        .copied()
        .take_while(|c| is_word_part(*c) && *c != '$')
        .collect();
    let open = from + 1 + tag.chars().count();
    if chars.get(open) != Some(&'$') || tag.starts_with(|c: char| c.is_ascii_digit()) {
        tokens.push(Token {
            kind: TokenKind::Symbol,
            text: "$".to_owned(),
        });
        return from + 1;
    }
    let delimiter: Vec<char> = chars[from..=open].to_vec();
    let mut at = open + 1;
    while at < chars.len() && !chars[at..].starts_with(&delimiter) {
        at += 1;
    }
    let end = (at + delimiter.len()).min(chars.len());
    tokens.push(Token {
        kind: TokenKind::Text,
        text: chars[from..end].iter().collect(),
    });
    end
}

/// The name of a table or of something else that may be in a schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    /// Schema as the database compares it; empty where none is written.
    schema: String,
    /// Name as the database compares it.
    table: String,
    /// Both, spelled so that the database reads them the same again.
    spelling: String,
}

impl Name {
    /// The name that consists of these tokens; the last two count, because what is before them is the database itself.
    fn of(parts: &[Token], engine: EngineKind) -> Option<Self> {
        let (last, before) = parts.split_last()?;
        let spelled = |token: &Token| spelling(token, engine);
        let schema = before.last();
        Some(Self {
            schema: schema.map(|token| compared(token, engine)).unwrap_or_default(),
            table: compared(last, engine),
            spelling: match schema {
                Some(schema) => format!("{}.{}", spelled(schema), spelled(last)),
                None => spelled(last),
            },
        })
    }

    /// The name that a text spells.
    pub(super) fn parse(text: &str, engine: EngineKind) -> Self {
        let parts: Vec<Token> = tokens_of(text, engine).into_iter().filter(Token::is_name).collect();
        Self::of(&parts, engine).unwrap_or_else(|| Self {
            schema: String::new(),
            table: text.to_owned(),
            spelling: text.to_owned(),
        })
    }

    /// What stands for the whole database.
    pub(super) fn whole_database() -> Self {
        let spelling = super::rules::DATABASE.to_owned();
        Self {
            schema: String::new(),
            table: spelling.clone(),
            spelling,
        }
    }

    /// The same name in another name's schema, where it has none itself: what `RENAME TO` makes of a table.
    pub(super) fn beside(mut self, other: &Self) -> Self {
        if self.schema.is_empty() && !other.schema.is_empty() {
            self.schema.clone_from(&other.schema);
            if let Some((schema, _)) = other.spelling.split_once('.') {
                self.spelling = format!("{schema}.{}", self.spelling);
            }
        }
        self
    }

    /// The name without its schema, as the database compares it.
    pub(super) fn bare(&self) -> &str {
        &self.table
    }

    /// Whether both surely are the same table: a name without a schema is one of the default schema.
    pub(super) fn same(&self, other: &Self) -> bool {
        let schema = |name: &Self| match name.schema.as_str() {
            "" | "main" => "public".to_owned(),
            schema => schema.to_owned(),
        };
        self.table == other.table && schema(self) == schema(other)
    }

    /// Whether both may be the same table: a name without a schema may be in any.
    pub(super) fn may_be(&self, other: &Self) -> bool {
        self.table == other.table && (self.schema == other.schema || self.schema.is_empty() || other.schema.is_empty())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spelling.fmt(formatter)
    }
}

/// How the database compares a name: PostgreSQL folds what is not quoted, SQLite everything.
pub(super) fn compared(token: &Token, engine: EngineKind) -> String {
    if engine == EngineKind::Sqlite || token.kind == TokenKind::Word {
        token.text.to_lowercase()
    } else {
        token.text.clone()
    }
}

fn spelling(token: &Token, engine: EngineKind) -> String {
    // SQLite's names are bare: whoever uses them has to quote them anyway, and their case does not matter.
    if engine == EngineKind::Sqlite {
        return token.text.clone();
    }
    let name = compared(token, engine);
    let plain = name.starts_with(|c: char| c.is_lowercase() || c == '_' || !c.is_ascii())
        && name
            .chars()
            .all(|c| c.is_lowercase() || c.is_ascii_digit() || c == '_' || c == '$' || !c.is_ascii());
    if plain {
        name
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// A place in a statement's tokens, and the readers that move it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    tokens: &'a [Token],
    engine: EngineKind,
}

impl<'a> Cursor<'a> {
    /// At the first of the tokens.
    pub(super) fn new(tokens: &'a [Token], engine: EngineKind) -> Self {
        Self { tokens, engine }
    }

    /// The database whose SQL it is.
    pub(super) fn engine(&self) -> EngineKind {
        self.engine
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [Token] {
        self.tokens
    }

    /// The next token.
    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.first()
    }

    /// Whether the keywords of `words`, separated by blanks, come next.
    pub(super) fn at(&self, words: &str) -> bool {
        let mut tokens = self.tokens.iter();
        words
            .split(' ')
            .all(|word| tokens.next().is_some_and(|token| token.is_word(word)))
    }

    /// Passes over the keywords of `words` where they come next, and says whether it did.
    pub(super) fn eat(&mut self, words: &str) -> bool {
        let found = self.at(words);
        if found {
            self.skip(words.split(' ').count());
        }
        found
    }

    /// Passes over a symbol where it comes next, and says whether it did.
    pub(super) fn eat_symbol(&mut self, symbol: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is_symbol(symbol));
        if found {
            self.skip(1);
        }
        found
    }

    /// Passes over tokens.
    pub(super) fn skip(&mut self, count: usize) {
        self.tokens = self.tokens.get(count..).unwrap_or_default();
    }

    /// Passes over `IF EXISTS` and `IF NOT EXISTS`.
    pub(super) fn skip_if_exists(&mut self) {
        if !self.eat("IF NOT EXISTS") {
            self.eat("IF EXISTS");
        }
    }

    /// Reads a name of up to three parts.
    pub(super) fn name(&mut self) -> Option<Name> {
        let mut parts = Vec::new();
        loop {
            let token = self.peek().filter(|token| token.is_name())?;
            parts.push(token.clone());
            self.skip(1);
            let more = self.peek().is_some_and(|token| token.is_symbol(".")) && self.tokens.get(1).is_some_and(Token::is_name);
            if !more {
                return Name::of(&parts, self.engine);
            }
            self.skip(1);
        }
    }

    /// Reads the name of a column with its table before it, and returns the table.
    pub(super) fn name_before_column(&mut self) -> Option<Name> {
        let mut parts: Vec<Token> = Vec::new();
        while let Some(token) = self.peek().filter(|token| token.is_name()) {
            parts.push(token.clone());
            self.skip(1);
            if !self.eat_symbol(".") {
                break;
            }
        }
        parts.pop();
        Name::of(&parts, self.engine)
    }

    /// Reads a single name, as the database compares it.
    pub(super) fn identifier(&mut self) -> Option<String> {
        let token = self.peek().filter(|token| token.is_name())?;
        self.skip(1);
        Some(compared(token, self.engine))
    }

    /// Reads names that are separated by commas, each perhaps after `ONLY` and before `*`.
    pub(super) fn names(&mut self) -> Vec<Name> {
        let mut names = Vec::new();
        loop {
            self.eat("ONLY");
            let Some(name) = self.name() else { break };
            names.push(name);
            self.eat_symbol("*");
            if !self.eat_symbol(",") {
                break;
            }
        }
        names
    }

    /// Where a parenthesis comes next, passes over it and returns what is in it.
    pub(super) fn parens(&mut self) -> Option<Self> {
        if !self.peek()?.is_symbol("(") {
            return None;
        }
        let mut depth = 0_usize;
        for (at, token) in self.tokens.iter().enumerate() {
            if token.is_symbol("(") {
                depth += 1;
            } else if token.is_symbol(")") {
                depth -= 1;
                if depth == 0 {
                    let inside = Self::new(self.tokens.get(1..at).unwrap_or_default(), self.engine);
                    self.skip(at + 1);
                    return Some(inside);
                }
            }
        }
        let inside = Self::new(self.tokens.get(1..).unwrap_or_default(), self.engine);
        self.tokens = &[];
        Some(inside)
    }

    /// The parts between the commas that are in no parenthesis.
    pub(super) fn split_commas(&self) -> Vec<Self> {
        let mut parts = Vec::new();
        let (mut depth, mut from) = (0_i32, 0);
        for (at, token) in self.tokens.iter().enumerate() {
            match token.text.as_str() {
                "(" | "[" if token.kind == TokenKind::Symbol => depth += 1,
                ")" | "]" if token.kind == TokenKind::Symbol => depth -= 1,
                "," if token.kind == TokenKind::Symbol && depth == 0 => {
                    parts.push(Self::new(&self.tokens[from..at], self.engine));
                    from = at + 1;
                }
                _ => {}
            }
        }
        if from < self.tokens.len() {
            parts.push(Self::new(&self.tokens[from..], self.engine));
        }
        parts
    }

    /// Where the keywords of `words` come first outside of parentheses, as a cursor after them.
    pub(super) fn after(&self, words: &str) -> Option<Self> {
        let mut depth = 0_i32;
        for (at, token) in self.tokens.iter().enumerate() {
            if token.is_symbol("(") {
                depth += 1;
            } else if token.is_symbol(")") {
                depth -= 1;
            } else if depth == 0 {
                let mut here = Self::new(&self.tokens[at..], self.engine);
                if here.eat(words) {
                    return Some(here);
                }
            }
        }
        None
    }

    /// Whether the keywords of `words` are somewhere outside of parentheses.
    pub(super) fn has(&self, words: &str) -> bool {
        self.after(words).is_some()
    }

    /// The columns of a list such as that of an index. It ends at the first expression, which no column stands for.
    pub(super) fn columns(&self) -> Vec<String> {
        let mut columns = Vec::new();
        for mut item in self.split_commas() {
            match item.identifier() {
                Some(column) if !item.peek().is_some_and(|token| token.is_symbol("(") || token.is_symbol(".")) => {
                    columns.push(column)
                }
                _ => break,
            }
        }
        columns
    }
}
