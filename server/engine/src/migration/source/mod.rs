//! Folders of migrations, in the layouts of eight tools, read into [`Migration`]s. Each layout has a file here that knows its names
//! and its marks; `folder` turns what it found into scripts, the same for all. Nothing is executed and nothing is guessed: what a
//! tool would read otherwise than dbkeep does is refused with file and line. Called by the engine whenever it looks at a folder.

mod dbmate;
mod detect;
mod diesel;
mod flyway;
mod folder;
mod golang_migrate;
mod goose;
mod prisma;
mod sections;
mod sqitch;
mod sqlx;

use std::collections::HashMap;

use super::{graph, metadata::MetadataError, statement::SplitError};
use crate::{
    model::{EngineKind, Layout, Migration, MigrationId},
    port::SourceFile,
};
use folder::Folder;

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// Its layout.
    pub layout: Layout,
    /// Why it is taken for that, readable.
    pub evidence: Vec<String>,
    /// The migrations, by version and repeatable ones last; sqitch's in the order of its plan. What they depend on is named by id
    /// where it is found; [`graph::order`] refuses what is not.
    pub migrations: Vec<Migration>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Text of `sqitch.plan`; empty in other layouts.
    pub plan: String,
}

/// A folder was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Several layouts fit.
    #[error("the folder could be {}: state `migrations_layout` in the configuration", candidates.iter().map(|(layout, why)| format!("{} ({why})", layout.name())).collect::<Vec<_>>().join(" or "))]
    Ambiguous {
        /// Which, and why.
        candidates: Vec<(Layout, String)>,
    },
    /// No layout fits.
    #[error("no known layout of migrations, e.g. {file}: expected one of {}, or state `migrations_layout` in the configuration", Layout::ALL.map(Layout::name).join(", "))]
    Unrecognised {
        /// A file that no layout explains.
        file: String,
    },
    /// A file is not UTF-8.
    #[error("{file}: {found} at byte {offset}: expected UTF-8")]
    Encoding {
        /// File.
        file: String,
        /// Where, bytes from 0.
        offset: usize,
        /// What is there.
        found: &'static str,
    },
    /// Two files are the same migration.
    #[error("{first} and {second} are both migration {id}: expected one")]
    Duplicate {
        /// Its id.
        id: MigrationId,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A down script of nothing.
    #[error("{file}: there is no up script to this")]
    DownWithoutUp {
        /// The down script.
        file: String,
    },
    /// A file that another tool would run and dbkeep cannot.
    #[error("{file}: migrations in {language} cannot be run: expected SQL")]
    Program {
        /// File.
        file: String,
        /// Its language.
        language: &'static str,
    },
    /// A script cannot be cut into statements and groups.
    #[error("{file}:{}:{}: {}", error.line, error.column, error.problem)]
    Script {
        /// File.
        file: String,
        /// Where and why.
        error: SplitError,
    },
    /// Metadata is not understood.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A mark, a plan or a configuration of the layout is not understood.
    #[error("{file}:{line}: {problem}")]
    Form {
        /// File.
        file: String,
        /// Line, from 1.
        line: u32,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A placeholder that only Flyway's configuration could fill.
    #[error("{file}:{line}:{column}: placeholder {placeholder} has no value here: expected its text")]
    Placeholder {
        /// File.
        file: String,
        /// Line, from 1.
        line: u32,
        /// Column, characters from 1.
        column: u32,
        /// The placeholder.
        placeholder: String,
    },
    /// A change of sqitch stands in the plan twice.
    #[error("{file}:{line}: change {change} is reworked, which cannot be followed: expected a change of another name")]
    Rework {
        /// The plan.
        file: String,
        /// Line, from 1.
        line: u32,
        /// The change.
        change: String,
    },
    /// A script that the plan names is not there.
    #[error("{file}:{line}: {missing} is missing")]
    MissingScript {
        /// The plan.
        file: String,
        /// Line, from 1.
        line: u32,
        /// The script.
        missing: String,
    },
}

impl SourceError {
    /// The file that is wrong, where it is one.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Ambiguous { .. } => None,
            Self::Metadata(error) => Some(&error.file),
            Self::Duplicate { second, .. } => Some(second),
            Self::Unrecognised { file }
            | Self::Encoding { file, .. }
            | Self::DownWithoutUp { file }
            | Self::Program { file, .. }
            | Self::Script { file, .. }
            | Self::Form { file, .. }
            | Self::Placeholder { file, .. }
            | Self::Rework { file, .. }
            | Self::MissingScript { file, .. } => Some(file),
        }
    }

    /// Line, from 1, and column, characters from 1, as far as they are known.
    #[must_use]
    pub fn place(&self) -> (Option<u32>, Option<u32>) {
        match self {
            Self::Script { error, .. } => (Some(error.line), Some(error.column)),
            Self::Placeholder { line, column, .. } => (Some(*line), Some(*column)),
            Self::Metadata(error) => (Some(error.line), None),
            Self::Form { line, .. } | Self::Rework { line, .. } | Self::MissingScript { line, .. } => (Some(*line), None),
            _ => (None, None),
        }
    }
}

/// Reads a folder; `wanted` is the layout that the configuration states, if it states one. An empty folder is an empty collection.
///
/// # Errors
/// Any [`SourceError`]; the first in the order of files.
pub fn read(files: &[SourceFile], engine: EngineKind, wanted: Option<Layout>) -> Result<Collection, SourceError> {
    let seen = detect::detect(files, wanted)?;
    let mut folder = Folder::new(files, engine);
    let mut plan = String::new();
    let found = match seen.layout {
        Layout::Sqlx => sqlx::find(&mut folder)?,
        Layout::Diesel => diesel::find(&mut folder)?,
        Layout::GolangMigrate => golang_migrate::find(&mut folder)?,
        Layout::Dbmate => dbmate::find(&mut folder)?,
        Layout::Goose => goose::find(&mut folder)?,
        Layout::Flyway => flyway::find(&mut folder)?,
        Layout::Prisma => prisma::find(&mut folder)?,
        Layout::Sqitch => sqitch::find(&mut folder, &mut plan)?,
    };
    let mut migrations = found
        .into_iter()
        .map(|found| folder.migration(found))
        .collect::<Result<Vec<_>, _>>()?;
    if seen.layout != Layout::Sqitch {
        sort(&mut migrations);
    }
    refuse_duplicates(&migrations)?;
    graph::resolve(&mut migrations);
    let mut warnings = seen.warnings;
    warnings.extend(folder.into_warnings(seen.layout));
    Ok(Collection {
        layout: seen.layout,
        evidence: seen.evidence,
        migrations,
        warnings,
        plan,
    })
}

/// By version; repeatable ones after all others, by name.
fn sort(migrations: &mut [Migration]) {
    migrations.sort_by_cached_key(|migration| {
        let version = super::version::Version::parse(&migration.version);
        (
            migration.repeatable,
            version,
            migration.name.clone(),
            migration.up.file.clone(),
        )
    });
}

fn refuse_duplicates(migrations: &[Migration]) -> Result<(), SourceError> {
    let mut seen: HashMap<&MigrationId, &str> = HashMap::with_capacity(migrations.len());
    for migration in migrations {
        if let Some(first) = seen.insert(&migration.id, &migration.up.file) {
            return Err(SourceError::Duplicate {
                id: migration.id.clone(),
                first: first.to_owned(),
                second: migration.up.file.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
