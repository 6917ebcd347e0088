//! dbmate: `V_name.sql` with `-- migrate:up` and `-- migrate:down`, each perhaps with `transaction:false` on the same line.

use super::{
    SourceError,
    folder::{Folder, Found, Part, Transaction, form, numbered},
    sections::{Mark, directions, marks},
};
use crate::{
    migration::{statement::split, version::normalise},
    model::MigrationId,
};

pub(super) fn find<'a>(folder: &mut Folder<'a>) -> Result<Vec<Found<'a>>, SourceError> {
    let mut found = Vec::new();
    for path in folder.paths() {
        let Some(stem) = path.strip_suffix(".sql").filter(|stem| !stem.contains('/')) else {
            continue;
        };
        let Some((version, name)) = numbered(stem) else {
            continue;
        };
        let Some((file, _, text)) = folder.take(path)? else {
            continue;
        };
        let seen = marks(text, "migrate:");
        let is = |word: &'static str| move |mark: &str| mark.split_whitespace().next() == Some(word);
        let names = ("migrate:up", "migrate:down");
        let (up, down) = directions(file, &seen, is(names.0), is(names.1), names)?;
        let before = text.get(..up.start).unwrap_or_default();
        let early = split(before, folder.engine, 1).map_err(|error| SourceError::Script {
            file: file.to_owned(),
            error,
        })?;
        if let Some(early) = early.first() {
            return Err(form(
                file,
                early.line,
                "a statement before `-- migrate:up`: expected it after",
            ));
        }
        let end = down.map_or(text.len(), |down| down.start);
        let part = |start: usize, end: usize, first_line: u32, mark: &Mark<'_>| -> Result<Part<'a>, SourceError> {
            let text = text.get(start..end).unwrap_or_default();
            Ok(Part {
                file,
                bytes: text.as_bytes(),
                text,
                first_line,
                transaction: transaction(file, mark)?,
                statements: None,
            })
        };
        found.push(Found {
            id: MigrationId(normalise(version).unwrap_or_default()),
            version: version.to_owned(),
            name: name.to_owned(),
            repeatable: false,
            up: part(0, end, 1, &up)?,
            down: down.map(|down| part(down.start, text.len(), down.line, &down)).transpose()?,
            verify: None,
            sidecars: vec![format!("{stem}.dbkeep.toml")],
            depends_on: Vec::new(),
            checksums: Vec::new(),
        });
    }
    Ok(found)
}

fn transaction(file: &str, mark: &Mark<'_>) -> Result<Transaction, SourceError> {
    let mut transaction = Transaction::Whole;
    for option in mark.text.split_whitespace().skip(1) {
        transaction = match option {
            "transaction:false" => Transaction::Never,
            "transaction:true" => Transaction::Whole,
            _ => {
                return Err(form(
                    file,
                    mark.line,
                    &format!("unknown option `{option}`: expected transaction:true or transaction:false"),
                ));
            }
        };
    }
    Ok(transaction)
}
