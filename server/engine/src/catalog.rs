//! The catalog: operations as data, read from TOML. Whatever a reader of the file could have meant otherwise is refused with
//! file, line and what was expected; whether tables and columns exist is checked against each target by the planner.

use std::collections::BTreeMap;

use jiff::Span;
use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use crate::rule::{Action, KINDS, Operation, Origin, Rule, RuleKind, Severity, expired, orphan};

/// A catalog was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct CatalogError {
    /// Where.
    pub origin: Origin,
    /// What is wrong and what was expected.
    pub problem: String,
}

/// The operations of one target, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalog {
    operations: Vec<Operation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperationSettings {
    name: String,
    description: Option<String>,
    category: String,
    severity: Severity,
    backup: bool,
    expected_time: Option<String>,
    vacuum: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSettings {
    name: String,
    kind: String,
    table: String,
    action: Option<Action>,
    max_fraction: Option<f64>,
}

/// Keys of a rule that belong to every kind; the others are the kind's own.
const COMMON_KEYS: [&str; 5] = ["name", "kind", "table", "action", "max_fraction"];

/// One file while it is read: turns byte offsets into lines.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

type Table<'i> = Spanned<DeTable<'i>>;

impl Source<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset.min(self.text.len())).unwrap_or_default();
        Origin {
            file: self.file.to_owned(),
            line: before.matches('\n').count() + 1,
        }
    }

    fn refuse(&self, offset: usize, problem: impl Into<String>) -> CatalogError {
        CatalogError {
            origin: self.origin(offset),
            problem: problem.into(),
        }
    }

    /// Reads `T` from a table; an unknown or missing key is refused at its line.
    fn read<'i, T: Deserialize<'i>>(&self, table: Table<'i>) -> Result<T, CatalogError> {
        let span = table.span();
        let value = Spanned::new(span.clone(), DeValue::Table(table.into_inner()));
        T::deserialize(ValueDeserializer::from(value))
            .map_err(|error| self.refuse(error.span().map_or(span.start, |span| span.start), error.message()))
    }

    /// Takes the array of tables under `key` out of `table`.
    fn take_tables<'i>(&self, table: &mut Table<'i>, key: &str) -> Result<Vec<Table<'i>>, CatalogError> {
        let start = table.span().start;
        let Some(value) = table.get_mut().remove(key) else {
            return Ok(Vec::new());
        };
        let offset = value.span().start;
        let DeValue::Array(entries) = value.into_inner() else {
            return Err(self.refuse(offset.max(start), format!("`{key}` is no list of tables; expected [[{key}]]")));
        };
        entries
            .into_iter()
            .map(|entry| {
                let span = entry.span();
                match entry.into_inner() {
                    DeValue::Table(table) => Ok(Spanned::new(span, table)),
                    other => Err(self.refuse(span.start, format!("expected a table, found {}", other.type_str()))),
                }
            })
            .collect()
    }

    /// Moves the keys that are not common to all kinds into a table of their own.
    fn split_rule<'i>(table: Table<'i>) -> (Table<'i>, Table<'i>) {
        let span = table.span();
        let (mut common, mut own) = (DeTable::new(), DeTable::new());
        for (key, value) in table.into_inner() {
            let half = if COMMON_KEYS.contains(&key.get_ref().as_ref()) {
                &mut common
            } else {
                &mut own
            };
            half.insert(key, value);
        }
        (Spanned::new(span.clone(), common), Spanned::new(span, own))
    }

    fn rule(&self, table: Table<'_>) -> Result<Rule, CatalogError> {
        let start = table.span().start;
        let (common, own) = Self::split_rule(table);
        let settings: RuleSettings = self.read(common)?;
        let kind = match settings.kind.as_str() {
            "orphan" => self.read::<orphan::Settings>(own)?.try_into().map(RuleKind::Orphan),
            "expired" => self.read::<expired::Settings>(own)?.try_into().map(RuleKind::Expired),
            other => {
                let known = KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
                return Err(self.refuse(
                    start,
                    format!("rule {}: unknown kind {other:?}; expected one of {known}", settings.name),
                ));
            }
        };
        let kind = kind.map_err(|problem| self.refuse(start, format!("rule {}: {problem}", settings.name)))?;
        let max_fraction = settings.max_fraction.unwrap_or(Rule::DEFAULT_MAX_FRACTION);
        if !(max_fraction > 0.0 && max_fraction <= 1.0) {
            return Err(self.refuse(
                start,
                format!(
                    "rule {}: max_fraction is {max_fraction}; expected more than 0, at most 1",
                    settings.name
                ),
            ));
        }
        self.check_name("rule", &settings.name, start)?;
        if settings.table.is_empty() {
            return Err(self.refuse(
                start,
                format!("rule {}: table is empty; expected the name of a table", settings.name),
            ));
        }
        Ok(Rule {
            name: settings.name,
            table: crate::model::TableName::parse(&settings.table),
            action: settings.action.unwrap_or_default(),
            max_fraction,
            kind,
            origin: self.origin(start),
        })
    }

    fn operation(&self, mut table: Table<'_>) -> Result<Operation, CatalogError> {
        let start = table.span().start;
        let rules = self.take_tables(&mut table, "rule")?;
        let settings: OperationSettings = self.read(table)?;
        self.check_name("operation", &settings.name, start)?;
        let named = |problem: String| self.refuse(start, format!("operation {}: {problem}", settings.name));
        if rules.is_empty() {
            return Err(named("it has no rule; expected at least one [[operation.rule]]".to_owned()));
        }
        if settings.severity >= Severity::High && !settings.backup {
            return Err(named(format!(
                "severity {} with backup = false; expected backup = true",
                settings.severity.name()
            )));
        }
        let expected_seconds = settings.expected_time.as_deref().map(seconds).transpose().map_err(named)?;
        let mut seen = BTreeMap::new();
        let mut checked = Vec::with_capacity(rules.len());
        for rule in rules {
            let rule = self.rule(rule)?;
            if let Some(first) = seen.insert(rule.name.clone(), rule.origin.line) {
                return Err(CatalogError {
                    problem: format!(
                        "rule {} is declared twice in operation {}, first in line {first}; expected unique names",
                        rule.name, settings.name
                    ),
                    origin: rule.origin,
                });
            }
            checked.push(rule);
        }
        Ok(Operation {
            name: settings.name,
            description: settings.description.unwrap_or_default(),
            category: settings.category,
            severity: settings.severity,
            backup: settings.backup,
            expected_seconds,
            vacuum: settings.vacuum.unwrap_or(false),
            rules: checked,
            origin: self.origin(start),
        })
    }

    fn check_name(&self, what: &str, name: &str, offset: usize) -> Result<(), CatalogError> {
        let allowed = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == '-';
        if !name.is_empty() && name.len() <= 63 && name.chars().all(allowed) {
            return Ok(());
        }
        Err(self.refuse(
            offset,
            format!("{what} name is {name:?}; expected 1 to 63 of A-Z a-z 0-9 _ -"),
        ))
    }
}

/// Whole seconds of an ISO 8601 duration without calendar units.
fn seconds(text: &str) -> Result<u64, String> {
    let expectation =
        || format!("expected_time is {text:?}; expected a positive ISO 8601 duration in hours, minutes or seconds such as PT10M");
    let span: Span = text.parse().map_err(|_| expectation())?;
    let duration = span.total(jiff::Unit::Second).map_err(|_| expectation())?;
    if duration < 1.0 {
        return Err(expectation());
    }
    jiff::SignedDuration::try_from(span)
        .ok()
        .and_then(|duration| u64::try_from(duration.as_secs()).ok())
        .ok_or_else(expectation)
}

impl Catalog {
    /// Reads one file's text; `file` is how messages name it.
    ///
    /// # Errors
    /// The first thing in the file that is unknown, malformed or ambiguous.
    pub fn parse(file: &str, text: &str) -> Result<Self, CatalogError> {
        let source = Source { file, text };
        let mut root =
            DeTable::parse(text).map_err(|error| source.refuse(error.span().map_or(0, |span| span.start), error.message()))?;
        let mut catalog = Self::default();
        for table in source.take_tables(&mut root, "operation")? {
            catalog.add(source.operation(table)?)?;
        }
        if let Some((key, _)) = root.get_ref().iter().next() {
            return Err(source.refuse(
                key.span().start,
                format!("unknown key `{}`; expected [[operation]]", key.get_ref()),
            ));
        }
        Ok(catalog)
    }

    /// Appends the operations of another file.
    ///
    /// # Errors
    /// Where both declare an operation of the same name.
    pub fn merge(&mut self, other: Self) -> Result<(), CatalogError> {
        other.operations.into_iter().try_for_each(|operation| self.add(operation))
    }

    fn add(&mut self, operation: Operation) -> Result<(), CatalogError> {
        if let Some(first) = self.get(&operation.name) {
            return Err(CatalogError {
                problem: format!(
                    "operation {} is declared twice, first at {}; expected unique names",
                    operation.name, first.origin
                ),
                origin: operation.origin,
            });
        }
        self.operations.push(operation);
        Ok(())
    }

    /// The operation of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.name == name)
    }

    /// All operations in the order of the file.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[[operation]]\nname = \"o\"\ncategory = \"LOGS\"\nseverity = \"LOW\"\nbackup = false\n";

    fn refusal(rest: &str) -> String {
        Catalog::parse("c.toml", &format!("{HEAD}{rest}"))
            .map(|_| ())
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn reads_both_kinds() {
        let text = format!(
            "{HEAD}[[operation.rule]]\nname = \"a\"\nkind = \"orphan\"\ntable = \"app.child\"\ncolumns = [\"p\"]\nparent = \"parent\"\nparent_columns = [\"id\"]\n\
             [[operation.rule]]\nname = \"b\"\nkind = \"expired\"\ntable = \"t\"\ncolumn = \"at\"\nretention = \"P1Y\"\nzone = \"UTC\"\n"
        );
        let catalog = Catalog::parse("c.toml", &text).expect("a catalog");
        let rules = &catalog.operations()[0].rules;
        assert_eq!(rules[0].table.schema.as_deref(), Some("app"));
        assert_eq!(
            rules[1].origin,
            Origin {
                file: "c.toml".into(),
                line: 13
            }
        );
        assert_eq!(rules[1].describe(), "rows of t whose at is more than P1Y ago");
    }

    #[test]
    fn an_operation_may_ask_for_a_vacuum() {
        let rule = "[[operation.rule]]\nname = \"b\"\nkind = \"expired\"\ntable = \"t\"\ncolumn = \"at\"\nexpiry = true\n";
        let wants = |line: &str| {
            let catalog = Catalog::parse("c.toml", &format!("{HEAD}{line}{rule}")).expect("a catalog");
            catalog.operations()[0].vacuum
        };
        assert!(!wants("") && !wants("vacuum = false\n") && wants("vacuum = true\n"));
        assert!(refusal(&format!("vacuum = 1\n{rule}")).starts_with("c.toml:6"));
    }

    #[test]
    fn refuses_with_line_and_expectation() {
        let rule = "[[operation.rule]]\nname = \"b\"\nkind = \"expired\"\ntable = \"t\"\ncolumn = \"at\"\n";
        let cases = [
            ("sevrity = 1\n".to_owned(), "c.toml:6", "unknown field `sevrity`"),
            (String::new(), "c.toml:1", "has no rule"),
            (
                format!("{rule}retention = \"1 yeer\"\n"),
                "c.toml:6",
                "retention is \"1 yeer\"; expected a positive ISO 8601 duration",
            ),
            (
                format!("{rule}retention = \"PT0S\"\n"),
                "c.toml:6",
                "expected a positive ISO 8601 duration",
            ),
            (
                format!("{rule}retention = \"-P1Y\"\n"),
                "c.toml:6",
                "expected a positive ISO 8601 duration",
            ),
            (rule.to_owned(), "c.toml:6", "retention is missing"),
            (
                format!("{rule}retension = \"P1Y\"\n"),
                "c.toml:11",
                "unknown field `retension`, expected one of",
            ),
            (format!("{rule}expiry = true\nretention = \"P1Y\"\n"), "c.toml:6", "both set"),
            (
                format!("{rule}expiry = true\nzone = \"Mars\"\n"),
                "c.toml:6",
                "expected an IANA name",
            ),
            (
                format!("{rule}expiry = true\nmax_fraction = 0.0\n"),
                "c.toml:6",
                "expected more than 0, at most 1",
            ),
            (
                format!("{rule}expiry = true\n{rule}expiry = true\n"),
                "c.toml:12",
                "declared twice",
            ),
            (
                rule.replace("expired", "expierd"),
                "c.toml:6",
                "expected one of orphan, expired",
            ),
            (format!("{rule}expiry = true\n[wrong]\n"), "c.toml:12", "unknown key `wrong`"),
            (
                "expected_time = \"soon\"\n".to_owned() + rule + "expiry = true\n",
                "c.toml:1",
                "expected_time is \"soon\"",
            ),
        ];
        for (rest, place, problem) in cases {
            let message = refusal(&rest);
            assert!(
                message.starts_with(place) && message.contains(problem),
                "{rest}\n=> {message}"
            );
        }
    }

    #[test]
    fn high_severity_needs_a_backup() {
        let text = HEAD.replace("LOW", "HIGH")
            + "[[operation.rule]]\nname = \"b\"\nkind = \"expired\"\ntable = \"t\"\ncolumn = \"at\"\nexpiry = true\n";
        let error = Catalog::parse("c.toml", &text).expect_err("must be refused").to_string();
        assert!(error.contains("expected backup = true"), "{error}");
    }
}
