//! A folder's files, and what all layouts share: text out of bytes, scripts out of text, migrations out of scripts and metadata.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::SourceError;
use crate::{
    migration::{
        metadata::{self, MetadataError, Stated},
        statement::{self, groups, split},
    },
    model::{EngineKind, Layout, LedgerKind, Migration, MigrationId, Script, Statement},
    port::SourceFile,
};

/// What a layout says of a script's transaction, where its author says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transaction {
    /// It is one.
    Whole,
    /// Its statements are committed one by one.
    Never,
    /// It is one, unless it begins and ends transactions itself (golang-migrate, Prisma).
    Implicit,
    /// It is one, unless all of its statements cannot be in one (Flyway).
    Mixed,
    /// It is one, unless it says otherwise by what it holds (sqitch).
    Own,
}

/// One direction as a layout found it.
#[derive(Debug, Clone)]
pub(super) struct Part<'a> {
    pub(super) file: &'a str,
    /// The bytes that its checksum is of.
    pub(super) bytes: &'a [u8],
    pub(super) text: &'a str,
    /// Line of the file in which the text begins.
    pub(super) first_line: u32,
    pub(super) transaction: Transaction,
    /// The statements, where the layout has its own marks for them.
    pub(super) statements: Option<Vec<Statement>>,
}

/// A migration as a layout found it.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) id: MigrationId,
    pub(super) version: String,
    pub(super) name: String,
    pub(super) repeatable: bool,
    pub(super) up: Part<'a>,
    pub(super) down: Option<Part<'a>>,
    pub(super) verify: Option<Part<'a>>,
    /// Where its sidecar may lie.
    pub(super) sidecars: Vec<String>,
    /// What the layout itself declares.
    pub(super) depends_on: Vec<MigrationId>,
    pub(super) checksums: Vec<(LedgerKind, String)>,
}

/// A file's path, bytes and text without the mark of its encoding.
pub(super) type Taken<'a> = (&'a str, &'a [u8], &'a str);

/// The files, and which of them belong to something.
#[derive(Debug)]
pub(super) struct Folder<'a> {
    files: BTreeMap<&'a str, &'a [u8]>,
    used: BTreeSet<&'a str>,
    pub(super) engine: EngineKind,
    warnings: Vec<String>,
}

impl<'a> Folder<'a> {
    pub(super) fn new(files: &'a [SourceFile], engine: EngineKind) -> Self {
        Self {
            files: files.iter().map(|file| (file.path.as_str(), file.bytes.as_slice())).collect(),
            used: BTreeSet::new(),
            engine,
            warnings: Vec::new(),
        }
    }

    /// All paths, sorted.
    pub(super) fn paths(&self) -> Vec<&'a str> {
        self.files.keys().copied().collect()
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// A file that belongs to something.
    pub(super) fn take(&mut self, path: &str) -> Result<Option<Taken<'a>>, SourceError> {
        let Some((path, bytes)) = self.files.get_key_value(path) else {
            return Ok(None);
        };
        let (path, bytes) = (*path, *bytes);
        self.used.insert(path);
        Ok(Some((path, bytes, decode(path, bytes)?)))
    }

    /// A file that holds one direction.
    pub(super) fn part(&mut self, path: &str, transaction: Transaction) -> Result<Option<Part<'a>>, SourceError> {
        Ok(self.take(path)?.map(|(file, bytes, text)| Part {
            file,
            bytes,
            text,
            first_line: 1,
            transaction,
            statements: None,
        }))
    }

    /// The migration that a layout found.
    pub(super) fn migration(&mut self, found: Found<'a>) -> Result<Migration, SourceError> {
        let stated = self.stated(&found)?;
        let mut metadata = stated.metadata.clone();
        metadata.depends_on.extend(found.depends_on.iter().cloned());
        if found.up.transaction == Transaction::Never {
            if metadata.transaction == Some(true) {
                let (file, line) = stated.place("transaction").unwrap_or((found.up.file, 1));
                return Err(form(
                    file,
                    line,
                    "`transaction` = true, but the script's own mark says that it is none: expected one word",
                ));
            }
            metadata.transaction = Some(false);
        }
        if let Some(version) = &stated.version
            && *version != found.id.0
        {
            let (file, line) = stated.place("version").unwrap_or((found.up.file, 1));
            return Err(form(
                file,
                line,
                &format!("`version` = {version}: expected {}, as the name of the file says", found.id),
            ));
        }
        for part in found.down.iter().chain(&found.verify) {
            metadata::refuse_header(part.file, part.text, self.engine, part.first_line)?;
        }
        Ok(Migration {
            id: found.id,
            version: found.version,
            name: found.name,
            repeatable: found.repeatable,
            up: self.script(found.up, stated.metadata.transaction, false)?,
            down: found
                .down
                .map(|part| self.script(part, stated.metadata.transaction, false))
                .transpose()?,
            verify: found.verify.map(|part| self.script(part, None, true)).transpose()?,
            metadata,
            foreign_checksums: found.checksums,
        })
    }

    fn stated(&mut self, found: &Found<'a>) -> Result<Stated, SourceError> {
        let up = &found.up;
        let mut stated = metadata::of_header(up.file, up.text, self.engine, up.first_line)?;
        let mut first: Option<&'a str> = None;
        for sidecar in &found.sidecars {
            let Some((file, _, text)) = self.take(sidecar)? else {
                continue;
            };
            if let Some(first) = first {
                return Err(SourceError::Metadata(MetadataError {
                    file: file.to_owned(),
                    line: 1,
                    problem: format!("{first} is of the same migration: expected one of the two"),
                }));
            }
            first = Some(file);
            stated = stated.merge(metadata::of_sidecar(file, text)?)?;
        }
        Ok(stated)
    }

    fn script(&self, part: Part<'a>, stated: Option<bool>, verifies: bool) -> Result<Script, SourceError> {
        let refuse = |error| SourceError::Script {
            file: part.file.to_owned(),
            error,
        };
        let mut statements = match part.statements {
            Some(statements) => statements,
            None => split(part.text, self.engine, part.first_line).map_err(refuse)?,
        };
        if verifies {
            statements = statement::without_rollback(statements, self.engine);
        }
        let transaction = stated.unwrap_or_else(|| {
            let shape = || statement::shape(&statements, self.engine);
            match part.transaction {
                Transaction::Whole => true,
                Transaction::Never => false,
                Transaction::Implicit => !shape().partial,
                Transaction::Mixed => !shape().all_alone,
                Transaction::Own => {
                    let shape = shape();
                    !shape.partial && !shape.some_alone
                }
            }
        });
        let (groups, foreign_keys_off) = groups(statements, self.engine, transaction).map_err(refuse)?;
        Ok(Script {
            file: part.file.to_owned(),
            sha256: hex::encode(Sha256::digest(part.bytes)),
            groups,
            foreign_keys_off,
        })
    }

    /// What was warned of, and the files that look as if they belonged to something.
    pub(super) fn into_warnings(self, layout: Layout) -> Vec<String> {
        let mut warnings = self.warnings;
        for path in self.files.keys().filter(|path| !self.used.contains(*path)) {
            if path.ends_with(".dbkeep.toml") || path.ends_with("/dbkeep.toml") || *path == "dbkeep.toml" {
                warnings.push(format!("{path} belongs to no migration and is not read"));
            } else if path.to_ascii_lowercase().ends_with(".sql") {
                warnings.push(format!("{path} has no name of the layout {} and is not read", layout.name()));
            }
        }
        warnings
    }
}

/// An error of a mark, a plan or a configuration.
pub(super) fn form(file: &str, line: u32, problem: &str) -> SourceError {
    SourceError::Form {
        file: file.to_owned(),
        line,
        problem: problem.to_owned(),
    }
}

/// `V_name` cut at the first underscore, where V is digits.
pub(super) fn numbered(stem: &str) -> Option<(&str, &str)> {
    let (version, name) = stem.split_once('_')?;
    (!version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit())).then_some((version, name))
}

fn decode<'a>(file: &str, bytes: &'a [u8]) -> Result<&'a str, SourceError> {
    let refuse = |offset, found| SourceError::Encoding {
        file: file.to_owned(),
        offset,
        found,
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(refuse(0, "the mark of UTF-16"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| refuse(error.valid_up_to(), "a byte that is not UTF-8"))?;
    if let Some(offset) = text.find('\0') {
        return Err(refuse(offset, "a zero byte"));
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}
