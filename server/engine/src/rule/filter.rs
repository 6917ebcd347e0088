//! Rule kind `filter`: rows that meet a condition in the database's own SQL; the way out where no other kind fits. The text is
//! checked for what would make it mean something else than it says, and the database plans it before the catalog is taken.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{KindInfo, Mismatch, Schemas, schema_of};
use crate::model::{Condition, EngineKind, TableName};

/// The kind's entry in [`super::KINDS`].
pub const INFO: KindInfo = KindInfo {
    name: "filter",
    summary: "rows that meet a condition in SQL",
};

/// Words whose value changes from one moment to the next, so that a plan would not count what a run deletes.
const UNSTABLE: [&str; 18] = [
    "now",
    "random",
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "clock_timestamp",
    "statement_timestamp",
    "transaction_timestamp",
    "timeofday",
    "gen_random_uuid",
    "randomblob",
    "nextval",
    "setval",
    "pg_sleep",
    "unixepoch",
    "julianday",
];

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
        for text in [&filter.postgres, &filter.sqlite].into_iter().flatten() {
            words(text)?;
        }
        Ok(filter)
    }
}

/// The bare and quoted words of a condition outside its string literals, lower-cased where they are bare.
///
/// # Errors
/// Where the text could end the statement around it, hide part of it, or change from one moment to the next.
fn words(text: &str) -> Result<Vec<String>, String> {
    let refuse = |what: &str| Err(format!("condition {text:?} {what}"));
    let mut found = Vec::new();
    let mut depth = 0_i32;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            quote @ ('\'' | '"' | '`') => {
                let mut word = String::new();
                loop {
                    match characters.next() {
                        None => return refuse("has a quote without an end; expected a whole condition"),
                        Some(next) if next == quote && characters.peek() == Some(&quote) => {
                            characters.next();
                            word.push(quote);
                        }
                        Some(next) if next == quote => break,
                        Some('\\') if quote == '\'' => {
                            return refuse("has a backslash in a literal; expected none, since its meaning depends on settings");
                        }
                        Some(next) => word.push(next),
                    }
                }
                if quote != '\'' {
                    found.push(word);
                }
            }
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if depth < 0 {
                    return refuse("closes a parenthesis that it did not open");
                }
            }
            ';' => return refuse("has a semicolon; expected one condition"),
            '$' | '?' => return refuse("has a parameter or a dollar quote; expected plain values"),
            '-' if characters.peek() == Some(&'-') => return refuse("has a comment; expected none"),
            '/' if characters.peek() == Some(&'*') => return refuse("has a comment; expected none"),
            first if first.is_alphabetic() || first == '_' => {
                let mut word = first.to_lowercase().collect::<String>();
                while let Some(next) = characters.peek().filter(|next| next.is_alphanumeric() || **next == '_') {
                    word.extend(next.to_lowercase());
                    characters.next();
                }
                if UNSTABLE.contains(&word.as_str()) {
                    return refuse(&format!(
                        "uses {word}, whose value changes between plan and run; expected kind \"expired\" for ages"
                    ));
                }
                // What other tables hold could change between the recheck and the commit without anybody noticing.
                if word == "select" {
                    return refuse(
                        "asks other rows; expected a condition on the row's own columns (kind \"orphan\" looks at parents)",
                    );
                }
                found.push(word);
            }
            _ => {}
        }
    }
    if depth != 0 {
        return refuse("leaves a parenthesis open");
    }
    if found.is_empty() {
        return refuse("names no column; expected a condition on the table's columns");
    }
    Ok(found)
}

impl Filter {
    /// All names and words of its conditions; the columns that they read are among them.
    pub(super) fn words(&self) -> Vec<String> {
        let texts = [&self.postgres, &self.sqlite];
        let words = texts.into_iter().flatten().flat_map(|text| words(text).unwrap_or_default());
        words.collect()
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
        let named = words(text).map_err(Mismatch::new)?;
        let column = |word: &String| schema.columns.iter().any(|column| column.name.eq_ignore_ascii_case(word));
        // It would be true of every row or of none.
        if !named.iter().any(column) {
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
        Ok(Condition::Sql {
            table: Arc::clone(schema),
            text: text.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_mean_something_else_is_refused() {
        for text in [
            "a = 1; DROP TABLE t",
            "a = 1) OR (1 = 1",
            "(a = 1",
            "a = 'x",
            "a = 1 -- and b = 2",
            "a /* b */ = 1",
            "at < now()",
            "at < CURRENT_TIMESTAMP",
            "random() < 0.5",
            "a = $1",
            "a = ?",
            "a = '\\''",
            "1 = 1",
            "id IN (SELECT id FROM u)",
            "'a' = 'a'",
        ] {
            assert!(words(text).is_err(), "{text}");
        }
        assert_eq!(
            words("\"Odd Name\" = 'it''s; -- no comment' AND Status IN ('A', 'B') AND (x - 1) > 2").expect("a condition"),
            ["Odd Name", "and", "status", "in", "and", "x"]
        );
    }
}
