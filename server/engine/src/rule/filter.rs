//! Rule kind `filter`: rows that meet a condition in the database's own SQL; the way out where no other kind fits. The text is
//! checked for what would make it mean something else than it says, and the database plans it before the catalog is taken.

mod text;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::text::Text;
pub(super) use self::text::present_in;
use super::{KindInfo, Mismatch, Schemas, schema_of};
use crate::model::{Condition, EngineKind, TableName};

/// The kind's entry in [`super::KINDS`].
pub const INFO: KindInfo = KindInfo {
    name: "filter",
    summary: "rows that meet a condition in SQL",
};

/// Settings of the kind, as the catalog writes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    condition: Option<String>,
    postgres: Option<String>,
    sqlite: Option<String>,
}

/// A checked rule of this kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// The condition on PostgreSQL; `None` where the rule is not for it.
    pub postgres: Option<String>,
    /// The condition on SQLite; `None` where the rule is not for it.
    pub sqlite: Option<String>,
}

impl TryFrom<Settings> for Filter {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        let filter = match (settings.condition, settings.postgres, settings.sqlite) {
            (Some(both), None, None) => Self {
                postgres: Some(both.clone()),
                sqlite: Some(both),
            },
            (None, None, None) => return Err("condition is missing; expected a condition in SQL".to_owned()),
            (None, postgres, sqlite) => Self { postgres, sqlite },
            (Some(_), ..) => {
                return Err(
                    "condition stands beside postgres or sqlite; expected one condition for both, or one for each".to_owned(),
                );
            }
        };
        for (engine, text) in filter.texts() {
            Text::read(engine, text)?;
        }
        Ok(filter)
    }
}

/// Functions that a condition calls on PostgreSQL, with the schema where it names one.
#[must_use]
pub fn functions(text: &str) -> Vec<(Option<String>, String)> {
    Text::read(EngineKind::Postgres, text).map_or_else(|_| Vec::new(), |text| text.functions())
}

impl Filter {
    fn texts(&self) -> impl Iterator<Item = (EngineKind, &str)> {
        let postgres = self.postgres.as_deref().map(|text| (EngineKind::Postgres, text));
        let sqlite = self.sqlite.as_deref().map(|text| (EngineKind::Sqlite, text));
        postgres.into_iter().chain(sqlite)
    }

    /// All names and words of its conditions; the columns that they read are among them.
    pub(super) fn words(&self) -> Vec<String> {
        let texts = self.texts().filter_map(|(engine, text)| Text::read(engine, text).ok());
        texts
            .flat_map(|text| text.names().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// Whether its conditions ask of something whether it is another than itself, which is true of no row.
    pub(super) fn is_placeholder(&self) -> bool {
        let differs = |text: &str| {
            text.split_once("<>")
                .is_some_and(|(one, other)| !one.trim().is_empty() && one.trim() == other.trim())
        };
        self.texts().all(|(_, text)| differs(text))
    }

    pub(super) fn describe(&self, table: &TableName) -> String {
        let text = match (&self.postgres, &self.sqlite) {
            (Some(postgres), Some(sqlite)) if postgres != sqlite => format!("{postgres} (SQLite: {sqlite})"),
            (Some(text), _) | (None, Some(text)) => text.clone(),
            (None, None) => String::new(),
        };
        format!("rows of {table} where {text}")
    }

    pub(super) fn condition(&self, engine: EngineKind, table: &TableName, schemas: &Schemas) -> Result<Condition, Mismatch> {
        let schema = schema_of(schemas, table)?;
        let (text, name) = match engine {
            EngineKind::Postgres => (&self.postgres, "postgres"),
            EngineKind::Sqlite => (&self.sqlite, "sqlite"),
        };
        let text = text.as_ref().ok_or_else(|| {
            Mismatch::new(format!(
                "the rule has no condition for this database; expected {name} = \"..\""
            ))
        })?;
        let read = Text::read(engine, text).map_err(Mismatch::new)?;
        let is_column = |word: &str| schema.columns.iter().any(|column| column.name.eq_ignore_ascii_case(word));
        // It would be true of every row or of none.
        if !read.readable().any(is_column) {
            let known = schema
                .columns
                .iter()
                .map(|column| column.name.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            return Err(Mismatch::new(format!(
                "condition {text:?} reads no column of {}; expected one of {known}",
                schema.name
            )));
        }
        read.check_times(is_column).map_err(Mismatch::new)?;
        Ok(Condition::Sql {
            table: Arc::clone(schema),
            text: text.clone(),
        })
    }
}
