//! goose: `V_name.sql` with `-- +goose Up` and `-- +goose Down`; `NO TRANSACTION` for the file; `StatementBegin` and `StatementEnd`
//! around what goose itself cannot cut. People put several statements between those, which goose sends as they are; here they are
//! cut too, and kept whole only where that fails.

use super::{
    SourceError,
    folder::{Folder, Found, Part, Transaction, form, numbered},
    sections::{Mark, directions, marks},
};
use crate::{
    migration::{statement::split, version::normalise},
    model::{EngineKind, MigrationId, Statement},
};

pub(super) fn find<'a>(folder: &mut Folder<'a>) -> Result<Vec<Found<'a>>, SourceError> {
    let mut found = Vec::new();
    for path in folder.paths() {
        if let Some(stem) = path.strip_suffix(".go")
            && numbered(stem).is_some()
            && !stem.ends_with("_test")
        {
            return Err(SourceError::Program {
                file: path.to_owned(),
                language: "Go",
            });
        }
        let Some(stem) = path.strip_suffix(".sql").filter(|stem| !stem.contains('/')) else {
            continue;
        };
        let Some((version, name)) = numbered(stem) else {
            continue;
        };
        let Some((file, _, text)) = folder.take(path)? else {
            continue;
        };
        let seen = marks(text, "+goose");
        let is = |word: &'static str| move |mark: &str| command(mark) == word;
        let (up, down) = directions(file, &seen, is("up"), is("down"), ("+goose Up", "+goose Down"))?;
        let transaction = transaction(file, &seen)?;
        let engine = folder.engine;
        let before = text.get(..up.start).unwrap_or_default();
        if let Some(early) = cut(file, before, engine, 1)?.first() {
            return Err(form(file, early.line, "a statement before `-- +goose Up`: expected it after"));
        }
        let end = down.map_or(text.len(), |down| down.start);
        let part = |start: usize, end: usize, first_line: u32| -> Result<Part<'a>, SourceError> {
            let inner: Vec<Mark<'_>> = seen
                .iter()
                .filter(|mark| mark.start >= start && mark.start < end)
                .copied()
                .collect();
            let section = text.get(start..end).unwrap_or_default();
            Ok(Part {
                file,
                bytes: section.as_bytes(),
                text: section,
                first_line,
                transaction,
                statements: Some(statements(file, text, (start, end, first_line), &inner, engine)?),
            })
        };
        found.push(Found {
            id: MigrationId(normalise(version).unwrap_or_default()),
            version: version.to_owned(),
            name: name.to_owned(),
            repeatable: false,
            up: part(0, end, 1)?,
            down: down.map(|down| part(down.start, text.len(), down.line)).transpose()?,
            verify: None,
            sidecars: vec![format!("{stem}.dbkeep.toml")],
            depends_on: Vec::new(),
            checksums: Vec::new(),
        });
    }
    Ok(found)
}

/// What stands after `+goose`, in lower case with single blanks.
fn command(mark: &str) -> String {
    let words: Vec<String> = mark.split_whitespace().skip(1).map(str::to_ascii_lowercase).collect();
    words.join(" ")
}

fn transaction(file: &str, marks: &[Mark<'_>]) -> Result<Transaction, SourceError> {
    let mut transaction = Transaction::Whole;
    for mark in marks {
        match command(mark.text).as_str() {
            "no transaction" => transaction = Transaction::Never,
            "up" | "down" | "statementbegin" | "statementend" | "envsub off" | "envsubst off" => {}
            "envsub on" | "envsubst on" => {
                return Err(form(
                    file,
                    mark.line,
                    "ENVSUB fills in variables that are not known here: expected their text",
                ));
            }
            other => {
                let problem =
                    format!("unknown `+goose {other}`: expected Up, Down, StatementBegin, StatementEnd or NO TRANSACTION");
                return Err(form(file, mark.line, &problem));
            }
        }
    }
    Ok(transaction)
}

fn cut(file: &str, text: &str, engine: EngineKind, line: u32) -> Result<Vec<Statement>, SourceError> {
    split(text, engine, line).map_err(|error| SourceError::Script {
        file: file.to_owned(),
        error,
    })
}

/// The statements of a section, which is `(start, end, line)` of the text.
fn statements(
    file: &str,
    text: &str,
    (mut start, end, mut line): (usize, usize, u32),
    marks: &[Mark<'_>],
    engine: EngineKind,
) -> Result<Vec<Statement>, SourceError> {
    let mut found = Vec::new();
    let mut open: Option<&Mark<'_>> = None;
    for mark in marks {
        match (command(mark.text).as_str(), open) {
            ("statementbegin", None) => {
                found.extend(cut(file, text.get(start..mark.start).unwrap_or_default(), engine, line)?);
                open = Some(mark);
            }
            ("statementend", Some(begin)) => {
                let inside = text.get(begin.end..mark.start).unwrap_or_default();
                let first_line = begin.line.saturating_add(1);
                match split(inside, engine, first_line) {
                    Ok(statements) => found.extend(statements),
                    Err(_) => found.extend(whole(inside, first_line)),
                }
                (start, line, open) = (mark.end, mark.line.saturating_add(1), None);
            }
            ("statementbegin", Some(_)) => {
                return Err(form(file, mark.line, "StatementBegin twice: expected StatementEnd before"));
            }
            ("statementend", None) => return Err(form(file, mark.line, "StatementEnd without StatementBegin")),
            _ => {}
        }
    }
    if let Some(begin) = open {
        return Err(form(file, begin.line, "StatementBegin without StatementEnd"));
    }
    found.extend(cut(file, text.get(start..end).unwrap_or_default(), engine, line)?);
    Ok(found)
}

/// A text as one statement, from its first character that is no blank.
fn whole(text: &str, first_line: u32) -> Option<Statement> {
    let sql = text.trim();
    let before = text.get(..text.len() - text.trim_start().len()).unwrap_or_default();
    let count = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    (!sql.is_empty()).then(|| Statement {
        sql: sql.strip_suffix(';').unwrap_or(sql).trim_end().to_owned(),
        line: first_line.saturating_add(u32::try_from(before.matches('\n').count()).unwrap_or(u32::MAX)),
        column: count(before.rsplit('\n').next().unwrap_or_default()).saturating_add(1),
    })
}
