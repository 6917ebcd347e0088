//! A script cut into statements, each with its place in the file, as its database's own tools would cut it. What only `psql` or the
//! `sqlite3` shell understands is refused, since the database would refuse it half-way. Called by [`super::source`].

mod group;
mod token;

use std::fmt;

pub use group::groups;
pub(super) use group::{shape, without_rollback};
pub use token::{Token, TokenKind, words};

use crate::model::{EngineKind, Statement};
use token::Lexer;

/// A script was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct SplitError {
    /// Line in the file, from 1.
    pub line: u32,
    /// Column in that line, characters from 1.
    pub column: u32,
    /// What is wrong, and what was expected.
    pub problem: Problem,
}

impl SplitError {
    fn at(statement: &Statement, problem: Problem) -> Self {
        Self {
            line: statement.line,
            column: statement.column,
            problem,
        }
    }
}

/// Why a script was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A literal has no closing quote.
    UnterminatedText,
    /// A name has no closing quote.
    UnterminatedName,
    /// A comment has no `*/`.
    UnterminatedComment,
    /// A dollar quote is not closed.
    UnterminatedDollar {
        /// Its opening, e.g. `$body$`.
        tag: String,
    },
    /// A trigger or a function body has no `END`.
    UnterminatedBody,
    /// A command of `psql` or of the `sqlite3` shell.
    ShellCommand {
        /// The command, e.g. `\copy`.
        command: String,
    },
    /// `COPY .. FROM STDIN`, with its rows in the script.
    InlineCopy,
    /// A statement that cannot be in a transaction, in a script that is one.
    NotInTransaction {
        /// What it is, e.g. `CREATE INDEX CONCURRENTLY`.
        what: &'static str,
    },
    /// The same between `BEGIN` and `COMMIT`.
    NotBetweenBeginAndCommit {
        /// What it is.
        what: &'static str,
    },
    /// `ROLLBACK` or `ABORT`.
    Rollback,
    /// `BEGIN` of a script that is one transaction, but not around all of it.
    PartialTransaction,
    /// `BEGIN` in a transaction.
    NestedBegin,
    /// `BEGIN` without `COMMIT`.
    NoCommit,
    /// `COMMIT` without `BEGIN`.
    NoBegin,
    /// `BEGIN` or `COMMIT` with more to it, or a prepared transaction.
    TransactionForm {
        /// The statement's first words.
        statement: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnterminatedText => formatter.write_str("this text has no closing '"),
            Self::UnterminatedName => formatter.write_str("this quoted name is not closed"),
            Self::UnterminatedComment => formatter.write_str("this comment is not closed with */"),
            Self::UnterminatedDollar { tag } => write!(formatter, "this text is not closed with {tag}"),
            Self::UnterminatedBody => formatter.write_str("the body of this statement has no END"),
            Self::ShellCommand { command } => write!(
                formatter,
                "{command} is a command of the database's shell, not SQL: expected statements only"
            ),
            Self::InlineCopy => formatter.write_str("COPY FROM STDIN takes rows from psql: expected INSERT statements instead"),
            Self::NotInTransaction { what } => write!(
                formatter,
                "{what} cannot be in a transaction: give it a migration of its own, or state `-- dbkeep: transaction = false`"
            ),
            Self::NotBetweenBeginAndCommit { what } => {
                write!(
                    formatter,
                    "{what} cannot be in a transaction: expected it outside of BEGIN and COMMIT"
                )
            }
            Self::Rollback => formatter.write_str("ROLLBACK would undo what is recorded as done: expected no ROLLBACK"),
            Self::PartialTransaction => formatter.write_str(
                "BEGIN and COMMIT around a part of the script: expected them around all of it or nowhere, or \
                 `-- dbkeep: transaction = false`",
            ),
            Self::NestedBegin => formatter.write_str("BEGIN in a transaction: expected COMMIT before it"),
            Self::NoCommit => formatter.write_str("this BEGIN has no COMMIT"),
            Self::NoBegin => formatter.write_str("this COMMIT has no BEGIN"),
            Self::TransactionForm { statement } => {
                write!(
                    formatter,
                    "`{statement}` is more than a migration can have: expected BEGIN and COMMIT alone"
                )
            }
        }
    }
}

/// Cuts a text into its statements; `first_line` is the line of the file in which the text begins. What is only comments vanishes.
///
/// # Errors
/// A quote, comment or body without end, at its start; a command of a shell; `COPY .. FROM STDIN`.
pub fn split(text: &str, engine: EngineKind, first_line: u32) -> Result<Vec<Statement>, SplitError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut places = Places::new(text, first_line);
    let mut lexer = Lexer::new(text, engine);
    let mut statements = Vec::new();
    let mut current: Option<Current<'_>> = None;
    while let Some(next) = lexer.next_token() {
        let token = match next {
            Ok(token) if token.kind == TokenKind::Comment => continue,
            Ok(token) => token,
            Err((offset, problem)) => return Err(places.refuse(offset, problem)),
        };
        if let Some(command) = shell_command(text, token, engine, current.is_none()) {
            return Err(places.refuse(token.offset, Problem::ShellCommand { command }));
        }
        if token.is_symbol(';') {
            if let Some(open) = current.take() {
                if open.continues() {
                    current = Some(open.with(token, engine));
                } else {
                    statements.push(open.finish(text, &mut places));
                }
            }
            continue;
        }
        let open = match current.take() {
            Some(open) => open.with(token, engine),
            None => Current::begin(token).with(token, engine),
        };
        if open.form == Form::CopyFromStdin {
            return Err(places.refuse(open.start, Problem::InlineCopy));
        }
        current = Some(open);
    }
    if let Some(open) = current {
        if open.form.has_body() && !open.after_end {
            return Err(places.refuse(open.start, Problem::UnterminatedBody));
        }
        statements.push(open.finish(text, &mut places));
    }
    Ok(statements)
}

/// The comments of a text, each with its line and whether no statement stands before it.
pub(super) fn comments(text: &str, engine: EngineKind, first_line: u32) -> Vec<(&str, u32, bool)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut places = Places::new(text, first_line);
    let mut lexer = Lexer::new(text, engine);
    let (mut found, mut leading) = (Vec::new(), true);
    while let Some(Ok(token)) = lexer.next_token() {
        if token.kind == TokenKind::Comment {
            found.push((token.text, places.place(token.offset).0, leading));
        } else {
            leading = false;
        }
    }
    found
}

/// A backslash means nothing in SQL outside of quotes; neither does a point at a statement's start.
fn shell_command(text: &str, token: Token<'_>, engine: EngineKind, first: bool) -> Option<String> {
    let marker = match engine {
        EngineKind::Postgres => token.is_symbol('\\'),
        EngineKind::Sqlite => first && token.is_symbol('.'),
    };
    let rest = text.get(token.offset..)?;
    marker.then(|| rest.split([' ', '\t', '\r', '\n', ';']).next().unwrap_or(rest).to_owned())
}

/// What a statement is, as far as it decides where the statement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Not known before its next words.
    Unknown,
    Plain,
    Copy,
    CopyFromStdin,
    Rule,
    Routine,
    /// `BEGIN ATOMIC` was seen.
    RoutineBody,
    Trigger,
}

impl Form {
    fn has_body(self) -> bool {
        matches!(self, Self::Trigger | Self::RoutineBody)
    }
}

/// A statement that is being read.
#[derive(Debug)]
struct Current<'a> {
    start: usize,
    end: usize,
    form: Form,
    depth: u32,
    previous: Option<Token<'a>>,
    /// Whether the last two tokens were `;` and `END`, which is where a body ends. An `END` of `CASE` never follows a `;`.
    after_end: bool,
}

impl<'a> Current<'a> {
    fn begin(token: Token<'_>) -> Self {
        Self {
            start: token.offset,
            end: token.end(),
            form: Form::Unknown,
            depth: 0,
            previous: None,
            after_end: false,
        }
    }

    /// Whether a semicolon here belongs to the statement.
    fn continues(&self) -> bool {
        (self.form == Form::Rule && self.depth > 0) || (self.form.has_body() && !self.after_end)
    }

    fn with(mut self, token: Token<'a>, engine: EngineKind) -> Self {
        let previous = self.previous;
        let after = |word: &str| previous.is_some_and(|previous| previous.is(word));
        match self.form {
            Form::Unknown => self.form = recognise(previous.is_none(), token, engine),
            // `from` may be the last word before STDIN only, as in COPY t FROM STDIN.
            Form::Copy if token.is("stdin") && after("from") => self.form = Form::CopyFromStdin,
            Form::Routine if token.is("atomic") && after("begin") => self.form = Form::RoutineBody,
            _ => {}
        }
        if token.is_symbol('(') {
            self.depth += 1;
        } else if token.is_symbol(')') {
            self.depth = self.depth.saturating_sub(1);
        }
        let empty_body = self.form == Form::RoutineBody && after("atomic");
        self.after_end = token.is("end") && (empty_body || previous.is_some_and(|previous| previous.is_symbol(';')));
        self.end = token.end();
        self.previous = Some(token);
        self
    }

    fn finish(self, text: &str, places: &mut Places<'_>) -> Statement {
        let (line, column) = places.place(self.start);
        Statement {
            sql: text.get(self.start..self.end).unwrap_or_default().to_owned(),
            line,
            column,
        }
    }
}

/// What the statement is by its next word: `CREATE` and what may stand between it and the kind of object leave it open.
fn recognise(first: bool, token: Token<'_>, engine: EngineKind) -> Form {
    let postgres = engine == EngineKind::Postgres;
    let one_of = |words: &[&str]| words.iter().any(|word| token.is(word));
    if first {
        return match () {
            () if postgres && token.is("copy") => Form::Copy,
            () if token.is("create") => Form::Unknown,
            () => Form::Plain,
        };
    }
    match () {
        () if postgres && token.is("rule") => Form::Rule,
        () if postgres && one_of(&["function", "procedure"]) => Form::Routine,
        () if !postgres && token.is("trigger") => Form::Trigger,
        () if postgres && one_of(&["or", "replace"]) => Form::Unknown,
        () if !postgres && one_of(&["temp", "temporary"]) => Form::Unknown,
        () => Form::Plain,
    }
}

/// Lines and columns of offsets that only grow, so that a long script is walked through once.
#[derive(Debug)]
struct Places<'a> {
    text: &'a str,
    offset: usize,
    line: u32,
    column: u32,
}

impl<'a> Places<'a> {
    fn new(text: &'a str, first_line: u32) -> Self {
        Self {
            text,
            offset: 0,
            line: first_line,
            column: 1,
        }
    }

    fn place(&mut self, offset: usize) -> (u32, u32) {
        for character in self.text.get(self.offset..offset).unwrap_or_default().chars() {
            if character == '\n' {
                self.line = self.line.saturating_add(1);
                self.column = 1;
            } else {
                self.column = self.column.saturating_add(1);
            }
        }
        self.offset = offset;
        (self.line, self.column)
    }

    fn refuse(mut self, offset: usize, problem: Problem) -> SplitError {
        // A body that never ends is refused at its start, which no place before it has passed.
        let (line, column) = self.place(offset);
        SplitError { line, column, problem }
    }
}

#[cfg(test)]
mod tests;
