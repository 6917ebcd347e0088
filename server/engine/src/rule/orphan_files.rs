//! Rule kind `orphan_files`: files beneath a root to which no listed column refers. A NULL refers to nothing. An upload comes before
//! the row that names it, so that a file has to reach an age first.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    KindInfo, Mismatch, Schemas, column_of, schema_of,
    temp_files::{EVERY_FILE, before, check_place, parse_age},
};
use crate::model::{ColumnSource, FilePath, Finding, FindingLevel, TableKind, TableName, TypeClass};

/// The kind's entry in [`super::KINDS`].
pub const INFO: KindInfo = KindInfo {
    name: "orphan_files",
    summary: "files under a root that no listed column references",
};

/// Age that a file has to reach where a rule does not say.
const DEFAULT_MIN_AGE: &str = "PT24H";

/// A column that refers to files, as the catalog writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceSettings {
    table: String,
    column: String,
    prefix: Option<String>,
}

/// Settings of the kind, as the catalog writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    root: String,
    glob: Option<String>,
    min_age: Option<String>,
    references: Vec<ReferenceSettings>,
}

/// A column that refers to files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Its table.
    pub table: TableName,
    /// The column.
    pub column: String,
    /// What comes before the file's name in each value.
    pub prefix: String,
}

/// A checked rule of this kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanFiles {
    /// Name of the root.
    pub root: String,
    /// Pattern of the files' names.
    pub glob: String,
    /// ISO 8601 duration.
    pub min_age: String,
    /// Columns that refer to files; never empty.
    pub references: Vec<Reference>,
}

impl TryFrom<Settings> for OrphanFiles {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let glob = settings.glob.unwrap_or_else(|| EVERY_FILE.to_owned());
        check_place(&settings.root, &glob)?;
        let min_age = settings.min_age.unwrap_or_else(|| DEFAULT_MIN_AGE.to_owned());
        parse_age("min_age", &min_age, true)?;
        if settings.references.is_empty() {
            return Err(
                "references is empty, so that every file would be an orphan; expected the columns that refer to files".to_owned(),
            );
        }
        let mut references: Vec<Reference> = Vec::new();
        for reference in settings.references {
            let reference = Reference {
                table: TableName::parse(&reference.table),
                column: reference.column,
                prefix: reference.prefix.unwrap_or_default(),
            };
            if references.contains(&reference) {
                return Err(format!(
                    "references has {}.{} twice; expected each column once",
                    reference.table, reference.column
                ));
            }
            references.push(reference);
        }
        Ok(Self {
            root: settings.root,
            glob,
            min_age,
            references,
        })
    }
}

impl Reference {
    /// The file that a value means; `None` where it means none of this root.
    #[must_use]
    pub fn file(&self, value: &[u8]) -> Option<FilePath> {
        FilePath::of_reference(value.strip_prefix(self.prefix.as_bytes())?)
    }

    /// How a value spells a file.
    #[must_use]
    pub fn value(&self, file: &FilePath) -> Vec<u8> {
        [self.prefix.as_bytes(), file.as_bytes()].concat()
    }
}

impl OrphanFiles {
    pub(super) fn describe(&self) -> String {
        let columns: Vec<String> = self
            .references
            .iter()
            .map(|reference| format!("{}.{}", reference.table, reference.column))
            .collect();
        format!(
            "files of root {} like {}, older than {}, that none of {} refers to",
            self.root,
            self.glob,
            self.min_age,
            columns.join(", ")
        )
    }

    pub(super) fn horizon(&self, clock: Timestamp) -> Result<Timestamp, Mismatch> {
        before(clock, "min_age", &self.min_age)
    }

    /// The columns on this schema.
    pub(crate) fn sources(&self, schemas: &Schemas) -> Result<Vec<ColumnSource>, Mismatch> {
        let source = |reference: &Reference| {
            let table = schema_of(schemas, &reference.table)?;
            let column = column_of(table, &reference.column)?;
            let place = format!("{}.{}", table.name, column.name);
            if column.class != TypeClass::Text {
                return Err(Mismatch::new(format!(
                    "{place} is {}; expected a text column that holds names of files",
                    column.type_name
                )));
            }
            if !matches!(table.kind, TableKind::Table | TableKind::Partitioned | TableKind::Inherited) {
                return Err(Mismatch::new(format!(
                    "{place} belongs to no table; expected a column of a table"
                )));
            }
            Ok(ColumnSource {
                table: table.clone(),
                column: column.name.clone(),
                except: Vec::new(),
            })
        };
        self.references.iter().map(source).collect()
    }

    pub(super) fn findings(&self, schemas: &Schemas) -> Vec<Finding> {
        let mut findings = Vec::new();
        for reference in &self.references {
            if let Ok(table) = schema_of(schemas, &reference.table)
                && !table.indexed(std::slice::from_ref(&reference.column))
            {
                findings.push(Finding {
                    code: "REFERENCE_UNINDEXED".to_owned(),
                    level: FindingLevel::Warn,
                    table: table.name.to_string(),
                    detail: format!(
                        "no index of {} begins with {}, so that every batch reads the whole table three times, not once",
                        table.name, reference.column
                    ),
                    remediation: format!("create an index on {} ({})", table.name, reference.column),
                });
            }
        }
        findings
    }
}
