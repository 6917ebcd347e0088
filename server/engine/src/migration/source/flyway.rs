//! Flyway: `V1_2__name.sql`, `U1_2__name.sql` to undo it, `R__name.sql` to be applied whenever its text changes, and `.conf` files
//! beside scripts. Placeholders have their values in a configuration that is not read here.

use std::collections::HashMap;

use super::{
    SourceError,
    folder::{Folder, Found, Part, Transaction, form},
};
use crate::{
    migration::{
        statement::{TokenKind, split, words},
        version::normalise,
    },
    model::{LedgerKind, MigrationId},
};

/// Whether a file's name is one of Flyway's.
pub(super) fn is_named(name: &str) -> bool {
    name.strip_suffix(".sql").is_some_and(|stem| Name::parse(stem).is_some())
}

/// A file's name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name<'a> {
    Versioned { version: &'a str, name: &'a str },
    Undo { version: &'a str },
    Repeatable { name: &'a str },
}

impl<'a> Name<'a> {
    fn parse(stem: &'a str) -> Option<Self> {
        if let Some(name) = stem.strip_prefix("R__") {
            return Some(Self::Repeatable { name });
        }
        let (head, name) = stem.split_once("__")?;
        let versioned = |letter| {
            head.strip_prefix(letter)
                .filter(|version| normalise(version).is_some() && !version.contains('-'))
        };
        match (versioned('V'), versioned('U')) {
            (Some(version), _) => Some(Self::Versioned { version, name }),
            (_, Some(version)) => Some(Self::Undo { version }),
            _ => None,
        }
    }
}

pub(super) fn find<'a>(folder: &mut Folder<'a>) -> Result<Vec<Found<'a>>, SourceError> {
    let (mut found, mut undos) = (Vec::new(), Vec::new());
    for path in folder.paths() {
        let name = path.rsplit('/').next().unwrap_or(path);
        if let Some(stem) = name.strip_suffix(".java")
            && Name::parse(stem).is_some()
        {
            return Err(SourceError::Program {
                file: path.to_owned(),
                language: "Java",
            });
        }
        let Some(name) = name.strip_suffix(".sql").and_then(Name::parse) else {
            continue;
        };
        let Some(part) = part(folder, path)? else {
            continue;
        };
        let (id, version, name, repeatable) = match name {
            Name::Undo { version } => {
                undos.push((normalise(version).unwrap_or_default(), part));
                continue;
            }
            Name::Versioned { version, name } => (normalise(version).unwrap_or_default(), version, name, false),
            Name::Repeatable { name } => (format!("R__{name}"), "", name, true),
        };
        let checksum = checksum(part.bytes);
        found.push(Found {
            id: MigrationId(id),
            version: version.to_owned(),
            name: name.to_owned(),
            repeatable,
            up: part,
            down: None,
            verify: None,
            sidecars: vec![format!("{}.dbkeep.toml", path.strip_suffix(".sql").unwrap_or(path))],
            depends_on: Vec::new(),
            checksums: vec![(LedgerKind::Flyway, checksum.to_string())],
        });
    }
    let ups: HashMap<String, usize> = found
        .iter()
        .enumerate()
        .map(|(position, found): (usize, &Found<'_>)| (found.id.0.clone(), position))
        .collect();
    for (id, undo) in undos {
        let Some(up) = ups.get(&id).and_then(|position| found.get_mut(*position)) else {
            return Err(SourceError::DownWithoutUp {
                file: undo.file.to_owned(),
            });
        };
        if let Some(first) = &up.down {
            return Err(SourceError::Duplicate {
                id: up.id.clone(),
                first: first.file.to_owned(),
                second: undo.file.to_owned(),
            });
        }
        up.down = Some(undo);
    }
    Ok(found)
}

fn part<'a>(folder: &mut Folder<'a>, path: &str) -> Result<Option<Part<'a>>, SourceError> {
    let Some(mut part) = folder.part(path, Transaction::Mixed)? else {
        return Ok(None);
    };
    let mut replaces = true;
    if let Some((file, _, text)) = folder.take(&format!("{path}.conf"))? {
        for (line, content) in (1_u32..).zip(text.lines()) {
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let (key, value) = content
                .split_once('=')
                .ok_or_else(|| form(file, line, "expected key=value"))?;
            match (key.trim(), value.trim().to_ascii_lowercase().as_str()) {
                ("executeInTransaction", "false") => part.transaction = Transaction::Never,
                ("executeInTransaction", "true") | ("placeholderReplacement", "true") | ("encoding", "utf-8" | "utf8") => {}
                ("placeholderReplacement", "false") => replaces = false,
                ("executeInTransaction" | "placeholderReplacement", _) => {
                    return Err(form(file, line, "expected true or false"));
                }
                ("encoding", _) => return Err(form(file, line, "expected UTF-8")),
                (key, _) => {
                    let problem = format!("`{key}`: expected executeInTransaction, placeholderReplacement or encoding");
                    return Err(form(file, line, &problem));
                }
            }
        }
    }
    if replaces && part.text.contains("${") {
        refuse_placeholders(folder, &part)?;
    }
    Ok(Some(part))
}

/// Comments may name placeholders, which has no effect.
fn refuse_placeholders(folder: &Folder<'_>, part: &Part<'_>) -> Result<(), SourceError> {
    let statements = split(part.text, folder.engine, 1).map_err(|error| SourceError::Script {
        file: part.file.to_owned(),
        error,
    })?;
    for statement in statements {
        let mut dollar = None;
        for token in words(&statement.sql, folder.engine) {
            let opens = dollar.is_some_and(|end| end == token.offset) && token.is_symbol('{');
            let inside = if opens {
                Some(token.offset - 1)
            } else if token.kind == TokenKind::Symbol {
                None
            } else {
                token.text.find("${").map(|at| token.offset + at)
            };
            // A dollar that belongs to a name, as in prefix_${x}, is the name's last character.
            dollar = token.text.ends_with('$').then(|| token.end());
            if let Some(start) = inside {
                let before = statement.sql.get(..start).unwrap_or_default();
                let after = statement.sql.get(start..).unwrap_or_default();
                let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
                let lines = count(before.matches('\n').count());
                let column = count(before.rsplit('\n').next().unwrap_or_default().chars().count());
                let first = if lines == 0 { statement.column } else { 1 };
                return Err(SourceError::Placeholder {
                    file: part.file.to_owned(),
                    line: statement.line.saturating_add(lines),
                    column: first.saturating_add(column),
                    placeholder: after.split_inclusive('}').next().unwrap_or(after).to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// Flyway's checksum: CRC-32 of the lines without their ends and without a byte order mark, as a signed number.
fn checksum(bytes: &[u8]) -> i32 {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut crc = u32::MAX;
    for byte in bytes.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    (!crc).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_crc_32() {
        assert_eq!(checksum(b""), 0);
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926_u32.cast_signed());
        assert_eq!(checksum(b"\xef\xbb\xbf1234\r\n56\n789\n"), checksum(b"123456789"));
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(
            Name::parse("V1_2__a_b"),
            Some(Name::Versioned {
                version: "1_2",
                name: "a_b"
            })
        );
        assert_eq!(Name::parse("U1.2__a"), Some(Name::Undo { version: "1.2" }));
        assert_eq!(Name::parse("R__a__b"), Some(Name::Repeatable { name: "a__b" }));
        for wrong in ["V1_a", "V__a", "B1__a", "v1__a", "Vx__a", "V1-2__a"] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }
}
