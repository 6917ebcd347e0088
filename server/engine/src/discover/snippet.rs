//! Proposals as catalog snippets: one operation with one rule, in TOML. Names of the database enter only as quoted strings or, in
//! comments, without control characters. Called by `check`.

use std::{collections::BTreeSet, fmt::Write as _};

use sha2::{Digest as _, Sha256};
use toml::Value;

use super::facts::Table;
use crate::model::{EngineKind, TableName};

/// Longest name of an operation or a rule.
const NAME_LENGTH: usize = 63;

/// A value of a rule's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    Text(String),
    Texts(Vec<String>),
    Flag(bool),
    /// The name of a table, by its position.
    Table(usize),
}

/// A rule that is not written down yet.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) kind: &'static str,
    pub(super) table: usize,
    pub(super) columns: Vec<String>,
    pub(super) parent: Option<(usize, Vec<String>)>,
    /// First word of the operation's name.
    pub(super) title: &'static str,
    /// The rest of it, in the database's own words.
    pub(super) subject: String,
    pub(super) description: String,
    pub(super) category: &'static str,
    pub(super) severity: &'static str,
    /// The kind's own keys.
    pub(super) settings: Vec<(&'static str, Setting)>,
    /// Comments behind keys.
    pub(super) comments: Vec<(&'static str, &'static str)>,
    pub(super) confidence: f64,
    pub(super) evidence: Vec<String>,
    pub(super) notes: Vec<String>,
}

impl Draft {
    /// What tells this draft from every other one.
    pub(super) fn identity(&self) -> String {
        format!("{:?}", (self.kind, self.table, &self.columns, &self.parent, &self.subject))
    }
}

/// How a catalog writes a table's name; `None` where it cannot.
pub(super) fn table_name(engine: EngineKind, table: &Table) -> Option<TableName> {
    let mut name = table.name.clone();
    if name.name.contains('.') && name.schema.is_none() {
        name.schema = match engine {
            EngineKind::Sqlite => Some("main".to_owned()),
            EngineKind::Postgres => table.schema.name.schema.clone(),
        };
    }
    (TableName::parse(&name.to_string()) == name).then_some(name)
}

/// A name that catalogs take, and that no other proposal has.
pub(super) fn operation_name(draft: &Draft, taken: &mut BTreeSet<String>) -> String {
    let wanted = format!("{}_{}", draft.title, draft.subject);
    let mut name: String = wanted
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() || character == '-' {
                character
            } else {
                '_'
            }
        })
        .collect();
    if name != wanted || name.len() > NAME_LENGTH || taken.contains(&name) {
        // What was lost by that comes back as a digest of the whole.
        let digest = hex::encode(Sha256::digest(draft.identity()));
        name.truncate(NAME_LENGTH - 9);
        name = format!("{}_{}", name.trim_end_matches('_'), &digest[..8]);
    }
    taken.insert(name.clone());
    name
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// A line of comment that cannot end before its end.
fn comment(text: &str) -> String {
    let safe: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("# {safe}\n")
}

/// The snippet.
pub(super) fn render(draft: &Draft, name: &str, table: &TableName, names: &[Option<TableName>]) -> String {
    let mut text = String::new();
    let percent = draft.confidence;
    text += &comment(&format!("Proposed by discovery with confidence {percent:.2}."));
    for line in draft.evidence.iter().chain(&draft.notes) {
        text += &comment(line);
    }
    text += "[[operation]]\n";
    text += &line("name", &quoted(name), None);
    text += &line("description", &quoted(&draft.description), None);
    text += &line("category", &quoted(draft.category), None);
    text += &line("severity", &quoted(draft.severity), None);
    text += &line("backup", "true", None);
    text += "\n[[operation.rule]]\n";
    text += &line("name", &quoted(draft.title), None);
    text += &line("kind", &quoted(draft.kind), None);
    text += &line("table", &quoted(&table.to_string()), None);
    for (key, setting) in &draft.settings {
        let value = match setting {
            Setting::Text(value) => quoted(value),
            Setting::Texts(values) => format!(
                "[{}]",
                values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ")
            ),
            Setting::Flag(flag) => flag.to_string(),
            Setting::Table(position) => {
                let name = names.get(*position).and_then(Option::as_ref);
                quoted(&name.map(ToString::to_string).unwrap_or_default())
            }
        };
        let remark = draft.comments.iter().find(|(of, _)| of == key).map(|(_, remark)| *remark);
        text += &line(key, &value, remark);
    }
    text
}

fn line(key: &str, value: &str, remark: Option<&str>) -> String {
    let mut line = format!("{key} = {value}");
    if let Some(remark) = remark {
        // Writing to a String cannot fail.
        let _ = write!(line, " # {remark}");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;

    fn draft(subject: &str) -> Draft {
        Draft {
            kind: "orphan",
            table: 0,
            columns: vec!["a\"b".into()],
            parent: Some((0, vec!["id".into()])),
            title: "orphaned",
            subject: subject.into(),
            description: "Rows \\ of \"x\"\nwith a line\u{0}".into(),
            category: "ORPHANED_DATA",
            severity: "MEDIUM",
            settings: vec![
                ("columns", Setting::Texts(vec!["a\"b\n[[operation]]".into()])),
                ("parent", Setting::Table(0)),
                ("parent_columns", Setting::Texts(vec!["id".into()])),
            ],
            comments: vec![("parent", "a remark")],
            confidence: 0.9,
            evidence: vec!["first\n[[operation]]\r\nsecond".into()],
            notes: Vec::new(),
        }
    }

    #[test]
    fn no_name_breaks_out_of_a_snippet() {
        let table = TableName::parse("we'ird \"table\"\n");
        let text = render(&draft("x"), "orphaned_x", &table, &[Some(table.clone())]);
        let catalog = Catalog::parse("snippet", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(catalog.operations().len(), 1, "{text}");
        let rule = &catalog.operations()[0].rules[0];
        assert_eq!(rule.table, table);
        assert_eq!(catalog.operations()[0].description, draft("x").description);
    }

    #[test]
    fn names_of_operations_are_taken_by_catalogs_and_unique() {
        let mut taken = BTreeSet::new();
        let long = "y".repeat(80);
        for subject in ["plain", "plain", "größe der.tabelle", &long, &format!("{long}z"), "", "___"] {
            let name = operation_name(&draft(subject), &mut taken);
            let allowed = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
            assert!(allowed && (1..=63).contains(&name.len()), "{name}");
        }
        assert_eq!(taken.len(), 7, "{taken:?}");
    }
}
