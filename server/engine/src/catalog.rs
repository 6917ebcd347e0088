//! The catalog: operations as data, read from TOML. Whatever a reader of the file could have meant otherwise is refused with
//! file, line and what was expected; whether tables and columns exist is checked against each target by the planner.

mod schedules;

use std::collections::BTreeMap;

use jiff::Span;
use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use crate::{
    model::{Literal, ScheduleSpec, TableName},
    rule::{
        Action, KINDS, Operation, Origin, Rule, RuleKind, Severity, Values, children, column_tests, conflict, cycle,
        dangling_key, duplicate, expired, filter, orphan, orphan_files, temp_files,
    },
};

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
    schedules: Vec<DeclaredSchedule>,
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
    max_rows: Option<u64>,
    vacuum: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSettings {
    name: String,
    kind: String,
    table: Option<String>,
    action: Option<String>,
    into: Option<String>,
    stamp: Option<String>,
    set: Option<BTreeMap<String, Literal>>,
    nullify: Option<Vec<String>>,
    #[serde(rename = "where")]
    tests: Option<BTreeMap<String, Values>>,
    strict: Option<bool>,
    max_fraction: Option<f64>,
    max_rows: Option<u64>,
}

/// Keys of a rule that belong to every kind; the others are the kind's own.
const COMMON_KEYS: [&str; 12] = [
    "name",
    "kind",
    "table",
    "action",
    "into",
    "stamp",
    "set",
    "nullify",
    "where",
    "strict",
    "max_fraction",
    "max_rows",
];

impl RuleSettings {
    /// The action, from the key of that name and the keys that belong to it.
    fn action(&self) -> Result<Action, String> {
        let name = self.action.as_deref().unwrap_or("delete");
        let owners = [
            ("into", "archive", self.into.is_some()),
            ("stamp", "archive", self.stamp.is_some()),
            ("set", "update", self.set.is_some()),
            ("nullify", "nullify", self.nullify.is_some()),
        ];
        for (key, owner, given) in owners {
            if given && owner != name {
                return Err(format!(
                    "{key} belongs to action \"{owner}\", the action is \"{name}\"; expected one or the other"
                ));
            }
        }
        match name {
            "delete" => Ok(Action::Delete),
            "archive" => match (&self.into, &self.stamp) {
                (Some(into), Some(stamp)) => Ok(Action::Archive {
                    into: TableName::parse(into),
                    stamp_column: stamp.clone(),
                }),
                _ => Err("action \"archive\" needs into, a table, and stamp, its column for the time".to_owned()),
            },
            "update" => match &self.set {
                Some(set) if !set.is_empty() => Ok(Action::Update {
                    set: set.iter().map(|(column, value)| (column.clone(), value.clone())).collect(),
                }),
                _ => Err("action \"update\" sets nothing; expected set = { column = value }".to_owned()),
            },
            "nullify" => match &self.nullify {
                Some(columns) if !columns.is_empty() => Ok(Action::Nullify {
                    columns: columns.clone(),
                }),
                _ => Err("action \"nullify\" names no column; expected nullify = [\"column\"]".to_owned()),
            },
            other => Err(format!("action is {other:?}; expected one of {}", Action::NAMES.join(", "))),
        }
    }
}

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

    fn rule(&self, mut table: Table<'_>) -> Result<Rule, CatalogError> {
        let start = table.span().start;
        let mut declared = Vec::new();
        for child in self.take_tables(&mut table, "child")? {
            let start = child.span().start;
            let child: children::Child = self
                .read::<children::Settings>(child)?
                .try_into()
                .map_err(|problem: String| self.refuse(start, problem))?;
            declared.push(child);
        }
        let (common, own) = Self::split_rule(table);
        let settings: RuleSettings = self.read(common)?;
        let kind = match settings.kind.as_str() {
            "orphan" => self.read::<orphan::Settings>(own)?.try_into().map(RuleKind::Orphan),
            "expired" => self.read::<expired::Settings>(own)?.try_into().map(RuleKind::Expired),
            "duplicate" => self.read::<duplicate::Settings>(own)?.try_into().map(RuleKind::Duplicate),
            "cycle" => self.read::<cycle::Settings>(own)?.try_into().map(RuleKind::Cycle),
            "dangling_key" => self
                .read::<dangling_key::Settings>(own)?
                .try_into()
                .map(RuleKind::DanglingKey),
            "filter" => self.read::<filter::Settings>(own)?.try_into().map(RuleKind::Filter),
            "temp_files" => self.read::<temp_files::Settings>(own)?.try_into().map(RuleKind::TempFiles),
            "orphan_files" => self
                .read::<orphan_files::Settings>(own)?
                .try_into()
                .map(RuleKind::OrphanFiles),
            other => {
                let known = KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
                return Err(self.refuse(
                    start,
                    format!("rule {}: unknown kind {other:?}; expected one of {known}", settings.name),
                ));
            }
        };
        let named = |problem: String| self.refuse(start, format!("rule {}: {problem}", settings.name));
        let kind = kind.map_err(named)?;
        let action = settings.action().map_err(named)?;
        let tests = column_tests("where", settings.tests.unwrap_or_default()).map_err(named)?;
        if !declared.is_empty() && matches!(action, Action::Update { .. } | Action::Nullify { .. }) {
            return Err(named(format!(
                "declares children, but action \"{}\" takes no row away; expected children only where rows go",
                action.name()
            )));
        }
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
        self.check_max_rows(&format!("rule {}", settings.name), settings.max_rows, start)?;
        self.check_name("rule", &settings.name, start)?;
        let mut rule = Rule {
            name: settings.name,
            table: TableName::parse(settings.table.as_deref().unwrap_or_default()),
            action,
            tests,
            children: declared,
            strict: settings.strict,
            max_fraction,
            max_rows: settings.max_rows,
            kind,
            origin: self.origin(start),
        };
        let refused = |rule: &Rule, problem: &str| self.refuse(start, format!("rule {}: {problem}", rule.name));
        if let Some(root) = rule.root() {
            let rows_only = !rule.tests.is_empty() || !rule.children.is_empty() || rule.strict.is_some();
            if settings.table.is_some() || rows_only || rule.action != Action::Delete {
                let problem = "selects files; expected root, and no table, where, child, strict or action";
                return Err(refused(&rule, problem));
            }
            rule.table = Rule::table_of_root(root);
        } else if rule.table.name.is_empty() {
            return Err(refused(&rule, "table is missing or empty; expected the name of a table"));
        }
        Ok(rule)
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
        self.check_max_rows(&format!("operation {}", settings.name), settings.max_rows, start)?;
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
            self.check_conflicts(&settings.name, &checked, &rule)?;
            checked.push(rule);
        }
        Ok(Operation {
            name: settings.name,
            description: settings.description.unwrap_or_default(),
            category: settings.category,
            severity: settings.severity,
            backup: settings.backup,
            expected_seconds,
            max_rows: settings.max_rows,
            vacuum: settings.vacuum.unwrap_or(false),
            rules: checked,
            origin: self.origin(start),
        })
    }

    /// Rules of one operation must not depend on one another's effects: the plan counts them side by side. The planner looks once
    /// more, at all rules of a plan and with the names that the database resolved.
    fn check_conflicts(&self, operation: &str, earlier: &[Rule], rule: &Rule) -> Result<(), CatalogError> {
        let refusal = |other: &Rule, problem: String| CatalogError {
            origin: rule.origin.clone(),
            problem: format!(
                "rules {} (line {}) and {} of operation {operation} conflict: {problem}",
                other.name, other.origin.line, rule.name
            ),
        };
        let looks = conflict::looks(rule);
        for other in earlier {
            if other.table == rule.table && other.kind == rule.kind && other.tests == rule.tests {
                return Err(refusal(
                    other,
                    format!("both select the same rows of {}; expected one of them", rule.table),
                ));
            }
            if let Some(done) = conflict::conflict(&conflict::writes(other), &looks) {
                return Err(refusal(
                    other,
                    format!("the first {done} the second selects; expected the second one first"),
                ));
            }
            let changes = |rule: &Rule| rule.action.assignments().into_iter().map(|(column, _)| column);
            if other.table == rule.table
                && let Some(column) = changes(other).find(|column| changes(rule).any(|second| second == *column))
            {
                return Err(refusal(other, format!("both change {column}; expected one of them")));
            }
            if other.table == rule.table && conflict::robs(other, rule) {
                return Err(refusal(
                    other,
                    format!(
                        "the first leaves no row of {} to the second; expected the second one first, or one of them",
                        rule.table
                    ),
                ));
            }
        }
        Ok(())
    }

    /// A limit of zero would make an operation that can never run.
    fn check_max_rows(&self, what: &str, max_rows: Option<u64>, offset: usize) -> Result<(), CatalogError> {
        if max_rows == Some(0) {
            return Err(self.refuse(offset, format!("{what}: max_rows is 0; expected at least 1, or no such key")));
        }
        Ok(())
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

/// Every rule of one operation with every rule of another.
fn pairs<'a>(first: &'a Operation, second: &'a Operation) -> impl Iterator<Item = (&'a Rule, &'a Rule)> {
    let with_all = move |rule| first.rules.iter().map(move |earlier| (earlier, rule));
    second.rules.iter().flat_map(with_all)
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

pub use schedules::DeclaredSchedule;

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
        for table in source.take_tables(&mut root, "schedule")? {
            catalog.add_schedule(source.schedule(table)?)?;
        }
        if let Some((key, _)) = root.get_ref().iter().next() {
            return Err(source.refuse(
                key.span().start,
                format!("unknown key `{}`; expected [[operation]] or [[schedule]]", key.get_ref()),
            ));
        }
        Ok(catalog)
    }

    /// Appends the operations and schedules of another file.
    ///
    /// # Errors
    /// Where both declare an operation or a schedule of the same name.
    pub fn merge(&mut self, other: Self) -> Result<(), CatalogError> {
        other.operations.into_iter().try_for_each(|operation| self.add(operation))?;
        other
            .schedules
            .into_iter()
            .try_for_each(|schedule| self.add_schedule(schedule))
    }

    fn add_schedule(&mut self, schedule: DeclaredSchedule) -> Result<(), CatalogError> {
        let name = &schedule.spec.name;
        if let Some(first) = self.schedules.iter().find(|known| known.spec.name == *name) {
            return Err(CatalogError {
                problem: format!(
                    "schedule {name} is declared twice, first at {}; expected unique names",
                    first.origin
                ),
                origin: schedule.origin,
            });
        }
        self.schedules.push(schedule);
        Ok(())
    }

    /// Checks what one file alone cannot show: that schedules name operations that there are, and that can be planned together.
    ///
    /// # Errors
    /// The first schedule that does not.
    pub fn check_schedules(&self) -> Result<(), CatalogError> {
        for DeclaredSchedule { spec, origin } in &self.schedules {
            let crate::model::schedule::Work::Operations(operations) = &spec.work else {
                continue;
            };
            if let Some(unknown) = operations.iter().find(|name| self.get(name).is_none()) {
                let known = self.operations.iter().map(|operation| operation.name.as_str());
                return Err(CatalogError {
                    problem: format!(
                        "schedule {} names operation {unknown}, which no catalog of the target declares{}",
                        spec.name,
                        crate::spelling::suggestion(known, unknown)
                    ),
                    origin: origin.clone(),
                });
            }
            self.check_order(spec, operations, origin)?;
        }
        Ok(())
    }

    /// What a schedule does is counted by one plan, which would be refused slot by slot.
    fn check_order(&self, spec: &ScheduleSpec, operations: &[String], origin: &Origin) -> Result<(), CatalogError> {
        let planned: Vec<&Operation> = operations.iter().filter_map(|name| self.get(name)).collect();
        let before = |place: usize| planned.iter().take(place);
        let ordered = planned
            .iter()
            .enumerate()
            .flat_map(|(place, later)| before(place).map(move |first| (first, later)));
        for (first, later) in ordered {
            for (earlier, rule) in pairs(first, later) {
                if let Some(done) = conflict::conflict(&conflict::writes(earlier), &conflict::looks(rule)) {
                    return Err(CatalogError {
                        problem: format!(
                            "schedule {} plans rule {} of operation {} before rule {} of operation {}, and the first {done} the second \
                             selects, so that its rows cannot be counted in advance; expected the second one first, or a schedule of its own",
                            spec.name, earlier.name, first.name, rule.name, later.name
                        ),
                        origin: origin.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// The schedules that it declares, in the order of the file.
    #[must_use]
    pub fn schedules(&self) -> Vec<&ScheduleSpec> {
        self.schedules.iter().map(|declared| &declared.spec).collect()
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
        for first in &self.operations {
            for (earlier, rule) in pairs(first, &operation) {
                if earlier.table == rule.table
                    && let Some(problem) = conflict::contradiction(rule, &first.name, earlier)
                {
                    return Err(CatalogError {
                        problem: format!("rule {} of operation {}: {problem}", rule.name, operation.name),
                        origin: rule.origin.clone(),
                    });
                }
            }
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
                format!("{rule}expiry = true\nmax_rows = 0\n"),
                "c.toml:6",
                "max_rows is 0; expected at least 1",
            ),
            (
                format!("max_rows = 0\n{rule}expiry = true\n"),
                "c.toml:1",
                "max_rows is 0; expected at least 1",
            ),
            (
                format!("{rule}expiry = true\n{rule}expiry = true\n"),
                "c.toml:12",
                "declared twice",
            ),
            (
                rule.replace("expired", "expierd"),
                "c.toml:6",
                "expected one of orphan, expired, dangling_key, filter, duplicate, cycle, temp_files, orphan_files",
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
    fn reads_file_rules() {
        let text = format!(
            "{HEAD}[[operation.rule]]\nname = \"a\"\nkind = \"temp_files\"\nroot = \"temp\"\nage = \"PT24H\"\n\
             [[operation.rule]]\nname = \"b\"\nkind = \"orphan_files\"\nroot = \"uploads\"\nglob = \"img/**\"\n\
             references = [{{ table = \"app.users\", column = \"avatar\", prefix = \"/uploads/\" }}]\n"
        );
        let catalog = Catalog::parse("c.toml", &text).expect("a catalog");
        let rules = &catalog.operations()[0].rules;
        assert_eq!(
            (rules[0].table.to_string().as_str(), rules[0].root()),
            ("files:temp", Some("temp"))
        );
        assert_eq!(
            rules[0].describe(),
            "files of root temp like **/* that were last written more than PT24H ago"
        );
        assert_eq!(
            rules[1].describe(),
            "files of root uploads like img/**, older than PT24H, that none of app.users.avatar refers to"
        );
    }

    #[test]
    fn refuses_file_rules_with_line_and_expectation() {
        let temp = "[[operation.rule]]\nname = \"b\"\nkind = \"temp_files\"\nroot = \"t\"\n";
        let orphan = "[[operation.rule]]\nname = \"b\"\nkind = \"orphan_files\"\nroot = \"t\"\n";
        let cases = [
            (
                format!("{temp}age = \"PT0S\"\n"),
                "c.toml:6",
                "age is \"PT0S\"; expected a positive",
            ),
            (
                format!("{temp}age = \"old\"\n"),
                "c.toml:6",
                "expected a positive ISO 8601 duration",
            ),
            (temp.to_owned(), "c.toml:6", "missing field `age`"),
            (
                format!("{temp}age = \"P1D\"\nglob = \"../*\"\n"),
                "c.toml:6",
                "leaves the root; expected a pattern",
            ),
            (
                format!("{temp}age = \"P1D\"\nglob = \"/tmp/*\"\n"),
                "c.toml:6",
                "leaves the root; expected a pattern",
            ),
            (
                format!("{temp}age = \"P1D\"\ntable = \"x\"\n"),
                "c.toml:6",
                "expected root, and no table",
            ),
            (
                format!("{temp}age = \"P1D\"\nwhere = {{ a = 1 }}\n"),
                "c.toml:6",
                "expected root, and no table",
            ),
            (
                format!("{temp}age = \"P1D\"\nmin_age = \"P1D\"\n"),
                "c.toml:11",
                "unknown field `min_age`",
            ),
            (
                format!("{orphan}references = []\n"),
                "c.toml:6",
                "expected the columns that refer to files",
            ),
            (
                format!("{orphan}references = [{{ table = \"x\", colum = \"y\" }}]\n"),
                "c.toml:10",
                "unknown field `colum`",
            ),
            (
                format!("{orphan}references = [{{ table = \"x\", column = \"y\" }}, {{ table = \"x\", column = \"y\" }}]\n"),
                "c.toml:6",
                "twice",
            ),
            (
                "[[operation.rule]]\nname = \"b\"\nkind = \"expired\"\ncolumn = \"c\"\nexpiry = true\n".to_owned(),
                "c.toml:6",
                "expected the name of a table",
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
    fn refuses_sets_that_could_mean_something_else() {
        let rule = |text: &str| format!("[[operation.rule]]\nname = \"b\"\ntable = \"t\"\n{text}\n");
        let duplicate = "kind = \"duplicate\"\nkeep = \"newest\"\n";
        let cases = [
            (format!("{duplicate}columns = []\nby = [\"a\"]"), "columns is empty"),
            (format!("{duplicate}columns = [\"a\"]\nby = []"), "by is empty"),
            (
                format!("{duplicate}columns = [\"a\", \"a\"]\nby = [\"b\"]"),
                "columns names a twice",
            ),
            (
                format!("{duplicate}columns = [\"a\"]\nby = [\"a\"]"),
                "by names a, which is part of the key",
            ),
            (
                "kind = \"duplicate\"\nkeep = \"largest\"\ncolumns = [\"a\"]\nby = [\"b\"]".to_owned(),
                "expected `newest` or `oldest`",
            ),
            ("kind = \"cycle\"\nfrom = []\nto = []".to_owned(), "from is empty"),
            (
                "kind = \"cycle\"\nfrom = [\"a\", \"b\"]\nto = [\"c\"]".to_owned(),
                "from has 2 entries and to 1",
            ),
            (
                "kind = \"cycle\"\nfrom = [\"a\"]\nto = [\"a\"]".to_owned(),
                "from and to both name a",
            ),
            ("kind = \"cycle\"\nfrom = [\"a\"]".to_owned(), "missing field `to`"),
        ];
        for (text, problem) in cases {
            let message = refusal(&rule(&text));
            assert!(message.contains(problem), "{text}\n=> {message}");
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
