//! Rules of one plan that would depend on one another's effects. A plan counts its steps before the first of them has run: rows that
//! go are foreseen (by the planner), values that change are not, so that a rule that looks at such a value has to come first.
//! And rules of one table, of whatever operations, that do different things to the same rows: what becomes of those hangs on which of
//! them runs first. Called by the catalog with the names as they are written, and by the planner with those that the database resolved.
//! Pure.

use super::{Action, ColumnTest, Rule, RuleKind};
use crate::model::{ChildAction, Literal, TableName};

/// What a rule changes for those after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) table: TableName,
    pub(crate) change: Change,
}

/// How a table changes; that rows go is none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A column gets another value.
    Value {
        column: String,
        /// Values that the rows can have held; `None` where that is not known.
        before: Option<Vec<Option<Literal>>>,
        /// The value that they hold then.
        after: Option<Literal>,
    },
    /// Rows come, with the time of it in this column.
    Rows { stamp: String },
}

/// A column that a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) table: TableName,
    column: String,
    /// Where it is all the same which value there is, but for being one of these; an empty list means NULL.
    test: Option<Vec<Literal>>,
    /// Whether the table is the one whose rows the rule takes.
    own: bool,
}

/// All that a rule looks at.
#[derive(Debug, Clone)]
pub(crate) struct Looks {
    pub(crate) columns: Vec<Look>,
    /// Column of its own table in which only a time before the plan lets a row go.
    ages_by: Option<String>,
}

/// What a rule changes, as far as the catalog tells; keys of the database that empty columns are not among it.
pub(crate) fn writes(rule: &Rule) -> Vec<Write> {
    let before = |column: &str| {
        let test = rule.tests.iter().find(|test| test.column == column)?;
        Some(match test.values.as_slice() {
            [] => vec![None],
            values => values.iter().cloned().map(Some).collect(),
        })
    };
    let values = rule.action.assignments().into_iter().map(|(column, after)| Write {
        table: rule.table.clone(),
        change: Change::Value {
            before: before(&column),
            column,
            after,
        },
    });
    let mut writes: Vec<Write> = values.collect();
    if let Action::Archive { into, stamp_column } = &rule.action {
        writes.push(Write {
            table: into.clone(),
            change: Change::Rows {
                stamp: stamp_column.clone(),
            },
        });
    }
    for child in rule.children.iter().filter(|child| child.action == ChildAction::SetNull) {
        writes.extend(child.columns.iter().map(|column| emptied(&child.table, column)));
    }
    writes
}

/// A column that a key empties when what it names goes.
pub(crate) fn emptied(table: &TableName, column: &str) -> Write {
    Write {
        table: table.clone(),
        change: Change::Value {
            column: column.to_owned(),
            before: None,
            after: None,
        },
    }
}

impl Look {
    fn tested(table: &TableName, column: &str, values: &[Literal], own: bool) -> Self {
        Self {
            table: table.clone(),
            column: column.to_owned(),
            test: Some(values.to_vec()),
            own,
        }
    }

    fn at<'a>(table: &'a TableName, columns: &'a [String], own: bool) -> impl Iterator<Item = Self> + 'a {
        columns.iter().map(move |column| Self {
            table: table.clone(),
            column: column.clone(),
            test: None,
            own,
        })
    }
}

/// What a rule looks at, to tell which rows are its own.
pub(crate) fn looks(rule: &Rule) -> Looks {
    use std::slice::from_ref;
    let own = &rule.table;
    let tests = rule
        .tests
        .iter()
        .map(|test| Look::tested(own, &test.column, &test.values, true));
    let mut columns: Vec<Look> = tests.collect();
    // A row that holds the new value already is left.
    for (column, value) in rule.action.assignments() {
        columns.push(Look::tested(own, &column, value.as_slice(), true));
    }
    let mut ages_by = None;
    match &rule.kind {
        RuleKind::Orphan(orphan) => {
            columns.extend(Look::at(own, &orphan.columns, true));
            columns.extend(Look::at(&orphan.parent, &orphan.parent_columns, false));
            let tests = orphan.parent_tests.iter();
            columns.extend(tests.map(|test| Look::tested(&orphan.parent, &test.column, &test.values, false)));
            if let Some((column, value)) = &orphan.of_type {
                columns.push(Look::tested(own, column, from_ref(value), true));
            }
            if let Some(grace) = &orphan.grace {
                columns.extend(Look::at(own, from_ref(&grace.column), true));
                ages_by = Some(grace.column.clone());
            }
        }
        RuleKind::Expired(expired) => {
            columns.extend(Look::at(own, from_ref(&expired.column), true));
            columns.extend(Look::at(own, expired.fallback.as_slice(), true));
            ages_by = Some(expired.column.clone());
        }
        RuleKind::Duplicate(duplicate) => {
            columns.extend(Look::at(own, &duplicate.columns, true));
            columns.extend(Look::at(own, &duplicate.by, true));
        }
        RuleKind::Cycle(cycle) => {
            columns.extend(Look::at(own, &cycle.from, true));
            columns.extend(Look::at(own, &cycle.to, true));
        }
        RuleKind::DanglingKey(dangling) => {
            columns.extend(Look::at(own, from_ref(&dangling.column), true));
            columns.extend(Look::at(&dangling.parent, from_ref(&dangling.parent_column), false));
        }
        RuleKind::Filter(filter) => columns.extend(Look::at(own, &filter.words(), true)),
        RuleKind::OrphanFiles(files) => {
            for reference in &files.references {
                columns.extend(Look::at(&reference.table, from_ref(&reference.column), false));
            }
        }
        RuleKind::TempFiles(_) => {}
    }
    Looks { columns, ages_by }
}

/// Whether a value is one of these; `None` where the database may see that otherwise than the catalog's text.
fn is_among(value: Option<&Literal>, values: &[Literal]) -> Option<bool> {
    let Some(value) = value else { return Some(values.is_empty()) };
    if values.contains(value) {
        return Some(true);
    }
    let plainly_other = |other: &Literal| match (value, other) {
        // Collations and padded types know more than one spelling of a text.
        (Literal::Text(one), Literal::Text(other)) => one.trim().to_lowercase() != other.trim().to_lowercase(),
        (Literal::Integer(_), Literal::Integer(_)) | (Literal::Boolean(_), Literal::Boolean(_)) => true,
        _ => false,
    };
    values.iter().all(plainly_other).then_some(false)
}

impl Write {
    /// Whether a look can come to another answer after this.
    fn disturbs(&self, look: &Look, ages_by: Option<&str>) -> bool {
        if self.table != look.table {
            return false;
        }
        match &self.change {
            // A row that comes now is not old.
            Change::Rows { stamp } => !(look.own && ages_by == Some(stamp.as_str())),
            Change::Value { column, .. } if !column.eq_ignore_ascii_case(&look.column) => false,
            Change::Value { before, after, .. } => {
                let (Some(before), Some(test)) = (before, &look.test) else {
                    return true;
                };
                let then = is_among(after.as_ref(), test);
                then.is_none() || before.iter().any(|value| is_among(value.as_ref(), test) != then)
            }
        }
    }

    fn describe(&self, look: &Look) -> String {
        match &self.change {
            Change::Value { .. } if look.own => format!("changes {}, by which", look.column),
            Change::Value { .. } => format!("changes {}.{}, by which", look.table, look.column),
            Change::Rows { .. } => format!("archives rows into {}, from which", self.table),
        }
    }
}

/// What an earlier rule does to what a later one looks at, as a sentence that ends before the words
/// "the later one selects"; `None` where nothing is amiss.
pub(crate) fn conflict(writes: &[Write], looks: &Looks) -> Option<String> {
    let mut pairs = writes
        .iter()
        .flat_map(|write| looks.columns.iter().map(move |look| (write, look)));
    let (write, look) = pairs.find(|(write, look)| write.disturbs(look, looks.ages_by.as_deref()))?;
    Some(write.describe(look))
}

/// Whether every row that passes the tests passes the others too, as far as the catalog's text tells.
fn tests_imply(tests: &[ColumnTest], others: &[ColumnTest]) -> bool {
    others.iter().all(|other| {
        let of_column = tests.iter().find(|test| test.column == other.column);
        of_column.is_some_and(|test| {
            test.values.is_empty() == other.values.is_empty() && test.values.iter().all(|value| other.values.contains(value))
        })
    })
}

/// Whether every row that one rule selects is selected by another rule of the same table too, as far as the catalog's text tells.
fn is_within(rule: &Rule, other: &Rule) -> bool {
    match (&rule.kind, &other.kind) {
        (RuleKind::Expired(own), RuleKind::Expired(others)) => own.is_within(others) && tests_imply(&rule.tests, &other.tests),
        // These judge rows by one another, so that fewer of them may be other ones.
        (RuleKind::Duplicate(_) | RuleKind::Cycle(_), _) => rule.kind == other.kind && rule.tests == other.tests,
        _ => rule.kind == other.kind && tests_imply(&rule.tests, &other.tests),
    }
}

/// Whether a rule, where it runs first, leaves nothing to another one of its table that would do something else to the same rows.
pub(crate) fn robs(rule: &Rule, other: &Rule) -> bool {
    if rule.action == other.action || !is_within(other, rule) {
        return false;
    }
    let (written, others) = (rule.action.assignments(), other.action.assignments());
    if written.is_empty() {
        return true;
    }
    written.iter().any(|(column, value)| {
        let test = other.tests.iter().find(|test| test.column == *column);
        test.is_some_and(|test| is_among(value.as_ref(), &test.values) == Some(false))
            // Each would change what the other has written, for ever.
            || others.iter().any(|(second, theirs)| second == column && value != theirs)
    })
}

/// What an action does, as "they archive" and as "it archives".
fn verbs(action: &Action) -> [String; 2] {
    match action {
        Action::Delete => ["delete".to_owned(), "deletes".to_owned()],
        Action::Archive { into, .. } => [format!("archive to {into}"), format!("archives to {into}")],
        Action::Update { .. } => ["update".to_owned(), "updates".to_owned()],
        Action::Nullify { .. } => ["nullify".to_owned(), "nullifies".to_owned()],
    }
}

/// Why a rule and another one of the same table, each in whatever plan, cannot both be meant: one does something to all rows to which the
/// other would do something else. A sentence in which the first is "it"; `None` where nothing is amiss, or where only the rows can tell.
pub(crate) fn contradiction(rule: &Rule, operation: &str, other: &Rule) -> Option<String> {
    let ([own, own_does], [others, other_does]) = (verbs(&rule.action), verbs(&other.action));
    let named = format!("rule {} of operation {operation} ({})", other.name, other.origin);
    let done = if robs(other, rule) {
        format!("{named} {other_does} every row of {} that it would {own}", rule.table)
    } else if robs(rule, other) {
        format!("it {own_does} every row of {} that {named} would {others}", rule.table)
    } else {
        return None;
    };
    Some(format!(
        "{done}, so that what becomes of a row hangs on which of them runs first; expected one of them, or a `where` that keeps their rows apart"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;

    fn rules(text: &str) -> Vec<Rule> {
        let text = format!("[[operation]]\nname = \"o\"\ncategory = \"LOGS\"\nseverity = \"LOW\"\nbackup = false\n{text}");
        let catalog = Catalog::parse("c.toml", &text).expect("a catalog");
        catalog.operations()[0].rules.clone()
    }

    fn rule(text: &str) -> Rule {
        rules(&format!("[[operation.rule]]\nname = \"r\"\n{text}\n")).remove(0)
    }

    fn between(first: &str, second: &str) -> Option<String> {
        conflict(&writes(&rule(first)), &looks(&rule(second)))
    }

    const RETIRE: &str = "kind = \"expired\"\ntable = \"users\"\ncolumn = \"seen\"\nexpiry = true\nwhere = { status = \"ACTIVE\" }\n\
                          action = \"update\"\nset = { status = \"INACTIVE\" }";

    fn orphans(parent_where: &str) -> String {
        format!(
            "kind = \"orphan\"\ntable = \"posts\"\ncolumns = [\"user_id\"]\nparent = \"users\"\nparent_columns = [\"id\"]\n{parent_where}"
        )
    }

    #[test]
    fn a_parent_that_changes_is_looked_at() {
        let said = between(RETIRE, &orphans("parent_where = { status = [\"INACTIVE\", \"GONE\"] }"));
        assert_eq!(said.as_deref(), Some("changes users.status, by which"));
        // Neither the old nor the new value makes a parent unfit, or both do.
        for harmless in [
            "[\"SUSPENDED\", \"DELETED\"]",
            "[\"ACTIVE\", \"INACTIVE\"]",
            "{ null = true }",
        ] {
            let test = format!("parent_where = {{ status = {harmless} }}");
            assert_eq!(between(RETIRE, &orphans(&test)), None, "{harmless}");
        }
        // Another spelling may be equal to the database, and without a test on the rows anything may have been there before.
        assert!(between(RETIRE, &orphans("parent_where = { status = [\"inactive\"] }")).is_some());
        let blind = RETIRE.replace("where = { status = \"ACTIVE\" }\n", "");
        assert!(between(&blind, &orphans("parent_where = { status = \"SUSPENDED\" }")).is_some());
        assert_eq!(between(RETIRE, &orphans("")), None);
        assert_eq!(between(&orphans("parent_where = { status = \"INACTIVE\" }"), RETIRE), None);
    }

    #[test]
    fn keys_of_parents_and_references_of_files_are_looked_at() {
        let rename = "kind = \"filter\"\ntable = \"users\"\ncondition = \"id = 1\"\naction = \"update\"\nset = { login = \"x\" }";
        let by_login = orphans("").replace("\"id\"", "\"login\"");
        assert_eq!(between(rename, &by_login).as_deref(), Some("changes users.login, by which"));
        let key = "kind = \"dangling_key\"\ntable = \"cache\"\ncolumn = \"name\"\nprefix = \"u:\"\nparent = \"users\"\nparent_column = \"login\"";
        assert_eq!(between(rename, key).as_deref(), Some("changes users.login, by which"));
        let files =
            "kind = \"orphan_files\"\nroot = \"up\"\nreferences = [{ table = \"users\", column = \"Login\", prefix = \"\" }]";
        assert!(between(rename, files).is_some());
        let filter = "kind = \"filter\"\ntable = \"users\"\ncondition = \"length(login) > 3\"";
        assert_eq!(between(rename, filter).as_deref(), Some("changes login, by which"));
        assert_eq!(between(rename, &filter.replace("login", "bio")), None);
    }

    #[test]
    fn emptied_children_and_archived_rows_are_foreseen_by_nobody() {
        let leave = "kind = \"filter\"\ntable = \"users\"\ncondition = \"id = 1\"\n[[operation.rule.child]]\ntable = \"posts\"\n\
                     columns = [\"user_id\"]\nparent_columns = [\"id\"]\non_delete = \"set_null\"";
        assert_eq!(between(leave, &orphans("")).as_deref(), Some("changes user_id, by which"));
        let cascade = leave.replace("set_null", "cascade");
        assert_eq!(between(&cascade, &orphans("")), None);
        let archive =
            "kind = \"filter\"\ntable = \"users\"\ncondition = \"id = 1\"\naction = \"archive\"\ninto = \"old\"\nstamp = \"at\"";
        let aged = |column: &str| format!("kind = \"expired\"\ntable = \"old\"\ncolumn = \"{column}\"\nretention = \"P1Y\"");
        assert_eq!(between(archive, &aged("at")), None, "what comes now is not a year old");
        assert_eq!(
            between(archive, &aged("made")).as_deref(),
            Some("archives rows into old, from which")
        );
        assert!(between(archive, &orphans("").replace("\"users\"", "\"old\"")).is_some());
    }

    fn aged(retention: &str, rest: &str) -> Rule {
        rule(&format!(
            "kind = \"expired\"\ntable = \"users\"\ncolumn = \"seen\"\n{retention}\n{rest}"
        ))
    }

    fn contradict(one: &Rule, other: &Rule) -> Option<String> {
        let said = contradiction(one, "p", other);
        assert_eq!(said.is_some(), contradiction(other, "p", one).is_some(), "in whatever order");
        said
    }

    const YEAR: &str = "retention = \"P1Y\"";
    const TWO_YEARS: &str = "retention = \"P24M\"";
    const KEEP: &str = "action = \"archive\"\ninto = \"old\"\nstamp = \"at\"";
    const SLEEP: &str = "action = \"update\"\nset = { status = \"ASLEEP\" }";

    #[test]
    fn one_rule_takes_all_that_another_would_have_for_something_else() {
        let said = contradict(&aged(YEAR, ""), &aged(YEAR, KEEP)).expect("a contradiction");
        assert!(
            said.starts_with("rule r of operation p (c.toml:6) archives to old every row of users that it would delete"),
            "{said}"
        );
        // Whichever of them is the stricter: the rows past both horizons are both rules'.
        for (one, other) in [(YEAR, TWO_YEARS), (TWO_YEARS, YEAR), ("expiry = true", YEAR)] {
            assert!(contradict(&aged(one, ""), &aged(other, KEEP)).is_some(), "{one} {other}");
        }
        // What is changed has to be reached before it is deleted, and still be there for that.
        assert!(contradict(&aged(YEAR, ""), &aged(TWO_YEARS, SLEEP)).is_some());
        assert_eq!(contradict(&aged(TWO_YEARS, ""), &aged(YEAR, SLEEP)), None);
        let awake = "where = { status = \"AWAKE\" }";
        let said = contradict(&aged(TWO_YEARS, awake), &aged(YEAR, &format!("{awake}\n{SLEEP}"))).expect("a contradiction");
        assert!(said.contains("updates every row of users that it would delete"), "{said}");
        // Two values for one column.
        let wake = SLEEP.replace("ASLEEP", "AWAKE");
        assert!(contradict(&aged(YEAR, SLEEP), &aged(YEAR, &wake)).is_some());
        assert!(
            contradict(
                &aged(YEAR, SLEEP),
                &aged(YEAR, "action = \"nullify\"\nnullify = [\"status\"]")
            )
            .is_some()
        );
        assert!(contradict(&aged(YEAR, KEEP), &aged(YEAR, &KEEP.replace("old", "older"))).is_some());
    }

    #[test]
    fn rules_that_share_some_rows_or_do_the_same_do_not_contradict_one_another() {
        let status = |value: &str| format!("where = {{ status = {value} }}");
        for (one, other) in [
            (aged(YEAR, ""), aged(TWO_YEARS, "")),
            (aged(YEAR, KEEP), aged(YEAR, KEEP)),
            (aged(YEAR, SLEEP), aged(YEAR, "action = \"nullify\"\nnullify = [\"name\"]")),
            // The special case goes first, all others later.
            (aged(YEAR, &(status("\"BARRED\"") + "\n" + KEEP)), aged(TWO_YEARS, "")),
            (
                aged(YEAR, &(status("\"BARRED\"") + "\n" + KEEP)),
                aged(YEAR, &status("\"OPEN\"")),
            ),
            (
                aged(YEAR, &(status("\"BARRED\"") + "\n" + KEEP)),
                aged(YEAR, &status("{ null = true }")),
            ),
            (aged(YEAR, ""), aged("retention = \"P1Y\"\nfallback = \"made\"", KEEP)),
        ] {
            assert_eq!(contradict(&one, &other), None, "{one:?} {other:?}");
        }
        // A value of several is one of them all the same.
        let some = status("[\"BARRED\", \"GONE\"]");
        assert!(contradict(&aged(YEAR, &some), &aged(YEAR, &(status("\"GONE\"") + "\n" + KEEP))).is_some());
    }

    #[test]
    fn months_and_days_cannot_be_told_apart_for_ever() {
        let within = |own: &str, others: &str| {
            let rule = |retention: &str| aged(&format!("retention = \"{retention}\""), "");
            is_within(&rule(own), &rule(others))
        };
        assert!(within("P1Y", "P12M") && within("P12M", "P1Y") && within("P366D", "P1Y") && within("P31D", "P1M"));
        assert!(!within("P30D", "P1M") && !within("P1M", "P30D") && !within("P365D", "P1Y") && !within("P6M", "P1Y"));
    }
}
