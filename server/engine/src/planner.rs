//! The planner: catalog rules and the target's schema become selections, and selections become an exact plan. The live run
//! takes its selections from here too, so that a dry run and a run cannot differ.

mod changes;
mod children;
pub(crate) mod files;
mod names;
mod needs;
mod sets;
mod sizes;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use self::{
    changes::Changes,
    names::{archive_table, look_up},
    sizes::Sizes,
};
pub(crate) use self::{names::archive_name, needs::needs};
use crate::{
    engine::Settings,
    failpoint,
    model::{
        ChildAction, ChildLink, Column, Condition, Effect, Finding, FindingLevel, Generated, Plan, PlanChild, PlanId, PlanStep,
        RowAction, SampleRow, Selection, TableKind, TableName, TableSchema, TypeClass,
    },
    port::{FilesError, Roots, Target, TargetError, TargetErrorClass},
    rule::{Action, Mismatch, Operation, Origin, Rule, RuleKind, Schemas, Severity, conflict},
};

/// Sample rows of a step.
const SAMPLES: u32 = 10;
/// Largest difference between the target's clock and the server's at which a horizon is still trusted.
const CLOCK_TOLERANCE: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);

/// Why no plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The catalog does not fit the schema.
    #[error("{origin}: rule {rule} of operation {operation}: {expected}")]
    Mismatch {
        /// Where the rule is declared.
        origin: Origin,
        /// Its operation.
        operation: String,
        /// Its name.
        rule: String,
        /// What was found and what was expected.
        expected: String,
    },
    /// The target failed.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A root failed.
    #[error(transparent)]
    Files(#[from] FilesError),
}

impl From<files::FileStepError> for PlanError {
    fn from(error: files::FileStepError) -> Self {
        match error {
            files::FileStepError::Target(error) => Self::Target(error),
            files::FileStepError::Files(error) => Self::Files(error),
        }
    }
}

/// One step, ready to be counted or executed.
pub(crate) struct Step {
    pub(crate) selection: Selection,
    pub(crate) effect: Effect,
    /// The files that it takes, where it takes files; the selection is then of no row.
    pub(crate) files: Option<files::FileSelection>,
    /// Whether nobody else may write to the parents during a batch.
    strict: bool,
    /// What is wrong with the links to its children.
    findings: Vec<Finding>,
}

impl Step {
    /// Tables that nobody else may write to during a batch.
    pub(crate) fn still(&self) -> Vec<&TableSchema> {
        if self.strict {
            self.selection.matches.parents().into_iter().map(Arc::as_ref).collect()
        } else {
            Vec::new()
        }
    }

    /// Names of all tables that a run needs for itself.
    pub(crate) fn held(&self) -> impl Iterator<Item = &TableName> {
        let archive = match &self.effect.action {
            RowAction::Archive { into, .. } => Some(into),
            RowAction::Delete | RowAction::Set { .. } => None,
        };
        self.tables().map(|table| &table.name).chain(archive)
    }

    /// Tables whose rows a batch changes.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &TableSchema> {
        let children = self.effect.acting().map(|link| link.child.as_ref());
        std::iter::once(self.selection.table.as_ref()).chain(children)
    }
}

/// The steps of a plan, ready to be counted or executed.
pub(crate) struct Selections {
    pub(crate) steps: Vec<Step>,
    pub(crate) fingerprint: String,
    pub(crate) schemas: Schemas,
}

struct StepRule<'a> {
    operation: &'a str,
    severity: Severity,
    rule: &'a Rule,
    horizon: Option<Timestamp>,
    listed_at: Option<Timestamp>,
}

impl StepRule<'_> {
    fn mismatch(&self, mismatch: Mismatch) -> PlanError {
        PlanError::Mismatch {
            origin: self.rule.origin.clone(),
            operation: self.operation.to_owned(),
            rule: self.rule.name.clone(),
            expected: mismatch.expected,
        }
    }
}

/// What the selections are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To be counted before any step has run: what earlier steps take counts as gone.
    Count,
    /// To be executed: only what is gone is gone.
    Execute,
}

/// Reads the schemas that the rules speak of, and those of the tables that a deletion reaches.
async fn introspect(target: &dyn Target, rules: &[StepRule<'_>]) -> Result<Schemas, PlanError> {
    let mut schemas = Schemas::new();
    for step in rules {
        let mut names: Vec<TableName> = step.rule.tables().into_iter().cloned().collect();
        while let Some(table) = names.pop() {
            if !schemas.contains_key(&table)
                && let Some(schema) = look_up(target, step, &table).await?
            {
                schemas.insert(table, Arc::new(schema));
            }
            if names.is_empty() && step.rule.action.assignments().is_empty() {
                let unknown = children::unknown_children(step.rule, &schemas);
                // What cannot be read at all is refused by whoever needs it.
                names.extend(unknown.into_iter().filter(|name| !schemas.contains_key(name)));
                names.dedup();
            }
        }
    }
    Ok(schemas)
}

/// Whether the archive table can take the rows; it may be missing.
fn check_archive(table: &TableSchema, archive: &TableSchema, stamp_column: &str) -> Result<(), Mismatch> {
    let into = &archive.name;
    for column in table.captured_columns() {
        match archive.column(&column.name) {
            Some(found) if found.type_name == column.type_name && found.generated == Generated::No => {}
            Some(found) => {
                return Err(Mismatch::new(format!(
                    "archive table {into} has {} of type {}; expected {} as in {}",
                    column.name, found.type_name, column.type_name, table.name
                )));
            }
            None => {
                return Err(Mismatch::new(format!(
                    "archive table {into} has no column {}; expected those of {}",
                    column.name, table.name
                )));
            }
        }
    }
    let stamp = archive.column(stamp_column);
    let holds_time = |column: &Column| !matches!(column.class, TypeClass::Integer | TypeClass::Real | TypeClass::Date);
    if !stamp.is_some_and(holds_time) {
        return Err(Mismatch::new(format!(
            "archive table {into} has no column {stamp_column} for a time; expected a timestamp, or text on SQLite"
        )));
    }
    let needed = |column: &&Column| column.generated == Generated::No && !column.nullable && column.name != stamp_column;
    if let Some(extra) = archive
        .columns
        .iter()
        .filter(needed)
        .find(|column| table.column(&column.name).is_none())
    {
        return Err(Mismatch::new(format!(
            "archive table {into} needs {}, which {} does not have; expected a column that may be NULL",
            extra.name, table.name
        )));
    }
    Ok(())
}

async fn select(target: &dyn Target, roots: &Roots, rules: &[StepRule<'_>], purpose: Purpose) -> Result<Selections, PlanError> {
    let schemas = introspect(target, rules).await?;
    let mut gone: Vec<(TableName, Condition)> = Vec::new();
    let mut sets = sets::Sets::default();
    let mut changes = Changes::default();
    let mut steps = Vec::with_capacity(rules.len());
    let mut identities = Vec::new();
    let resolved = |name: &TableName| schemas.get(name).map_or_else(|| name.clone(), |schema| schema.name.clone());
    for step in rules {
        if purpose == Purpose::Count {
            changes.check(step, resolved).map_err(|mismatch| step.mismatch(mismatch))?;
        }
        if step.rule.root().is_some() {
            let earlier: Vec<_> = steps.iter().filter_map(|step: &Step| step.files.clone()).collect();
            let (gone, earlier) = match purpose {
                Purpose::Count => (gone.as_slice(), earlier.as_slice()),
                Purpose::Execute => (&[][..], &[][..]),
            };
            let files = files::select(step, roots, &schemas, gone, earlier).map_err(|mismatch| step.mismatch(mismatch))?;
            let root = Arc::clone(&files.root);
            identities.push(files::blocking(move || root.identity()).await?);
            steps.push(Step {
                selection: files::no_rows(step.rule),
                effect: Effect::delete(),
                files: Some(files),
                strict: false,
                findings: Vec::new(),
            });
            continue;
        }
        let mut condition = step
            .rule
            .condition(target.engine(), &schemas, step.horizon)
            .map_err(|mismatch| step.mismatch(mismatch))?;
        let Some(table) = schemas.get(&step.rule.table) else {
            return Err(TargetError::new(TargetErrorClass::SchemaChanged, format!("table {} vanished", step.rule.table)).into());
        };
        if purpose == Purpose::Count {
            children::foresee(&mut condition, &gone);
        }
        // By the resolved name: `t` and `public.t` may be one table.
        let of_table = |name: &TableName| -> Vec<Condition> {
            let of_table = gone.iter().filter(|(table, _)| table == name);
            of_table.map(|(_, condition)| condition.clone()).collect()
        };
        let except = of_table(&table.name);
        sets.check_order(table, &condition)
            .map_err(|mismatch| step.mismatch(mismatch))?;
        let mut links = Vec::new();
        let mut findings = Vec::new();
        let action = match &step.rule.action {
            Action::Delete => RowAction::Delete,
            Action::Archive { into, stamp_column } => {
                let (into, archive) = archive_table(target, step, into).await?;
                if let Some(archive) = archive {
                    check_archive(table, &archive, stamp_column).map_err(|mismatch| step.mismatch(mismatch))?;
                }
                RowAction::Archive {
                    into,
                    stamp_column: stamp_column.clone(),
                }
            }
            Action::Update { .. } | Action::Nullify { .. } => RowAction::Set {
                assignments: step.rule.action.assignments(),
            },
        };
        if !matches!(action, RowAction::Set { .. }) {
            let found = children::links(step.rule, &schemas).map_err(|mismatch| step.mismatch(mismatch))?;
            links = found.links;
            findings = found.findings;
            for link in &mut links {
                link.except = of_table(&link.child.name);
            }
            sets.check(table, &condition, &links)
                .map_err(|mismatch| step.mismatch(mismatch))?;
            if !matches!(condition, Condition::Cycle { .. }) {
                gone.extend(children::taken(table, &sets::among(&condition, &except), &except, &links));
            }
        }
        let judged_by_parents = !condition.parents().is_empty();
        let effect = Effect { action, children: links };
        changes.add(step, &effect, resolved);
        steps.push(Step {
            selection: Selection {
                table: Arc::clone(table),
                matches: condition,
                except,
            },
            effect,
            files: None,
            strict: judged_by_parents && step.rule.strict.unwrap_or(step.severity >= Severity::High),
            findings,
        });
    }
    let by_resolved_name: BTreeMap<&TableName, &TableSchema> =
        schemas.values().map(|schema| (&schema.name, schema.as_ref())).collect();
    let mut fingerprint = TableSchema::fingerprint(by_resolved_name.into_values());
    if !identities.is_empty() {
        // A root that was replaced is as much another thing as a table that was altered.
        let mut hasher = Sha256::new_with_prefix(&fingerprint);
        identities.iter().for_each(|identity| hasher.update(format!("\0{identity}")));
        fingerprint = hex::encode(hasher.finalize());
    }
    Ok(Selections {
        fingerprint,
        steps,
        schemas,
    })
}

/// The steps of a stored plan on the target's schema of now.
pub(crate) async fn selections(target: &dyn Target, roots: &Roots, plan: &Plan) -> Result<Selections, PlanError> {
    let rules: Vec<_> = plan
        .steps
        .iter()
        .map(|step| StepRule {
            operation: &step.operation,
            severity: if step.strict { Severity::High } else { Severity::Low },
            rule: &step.rule,
            horizon: step.horizon,
            listed_at: step.listed_at,
        })
        .collect();
    select(target, roots, &rules, Purpose::Execute).await
}

/// Has the database judge a condition.
async fn explain(target: &dyn Target, rule: &StepRule<'_>, step: &Step) -> Result<(), PlanError> {
    match target.explain(&step.selection).await {
        Err(error) if matches!(error.class, TargetErrorClass::Refused | TargetErrorClass::SchemaChanged) => {
            let expected = format!("the database does not take its condition: {error}; expected one that it can plan");
            Err(rule.mismatch(Mismatch::new(expected)))
        }
        planned => Ok(planned?),
    }
}

/// The rules of an operation as they are looked at where nothing is counted: what the horizon is does not matter then.
fn without_horizon(operation: &Operation) -> Vec<StepRule<'_>> {
    let of_rule = |rule| StepRule {
        operation: &operation.name,
        severity: operation.severity,
        rule,
        horizon: Some(Timestamp::UNIX_EPOCH),
        listed_at: Some(Timestamp::UNIX_EPOCH),
    };
    operation.rules.iter().map(of_rule).collect()
}

/// Checks that every rule fits the target's schema, that the database takes its condition, and that no other rule has all of its rows
/// for something else; counts nothing.
///
/// # Errors
/// The first rule that does not, with file, line and what was expected.
pub async fn check(target: &dyn Target, roots: &Roots, operations: &[Operation]) -> Result<(), PlanError> {
    // Two names of one table are one table, which the catalog could not know.
    let mut earlier: Vec<(TableName, &str, &Rule)> = Vec::new();
    for operation in operations {
        let rules = without_horizon(operation);
        let selections = select(target, roots, &rules, Purpose::Count).await?;
        for (rule, step) in rules.iter().zip(&selections.steps).filter(|(_, step)| step.files.is_none()) {
            explain(target, rule, step).await?;
            let table = &step.selection.table.name;
            let others = earlier.iter().filter(|(of, ..)| of == table);
            let mut contradictions =
                others.filter_map(|(_, operation, other)| conflict::contradiction(rule.rule, operation, other));
            if let Some(problem) = contradictions.next() {
                return Err(rule.mismatch(Mismatch::new(problem)));
            }
        }
        let tables = selections.steps.iter().map(|step| step.selection.table.name.clone());
        earlier.extend(
            tables
                .zip(&operation.rules)
                .map(|(table, rule)| (table, operation.name.as_str(), rule)),
        );
    }
    Ok(())
}

/// What of an earlier plan is kept when its counts are taken again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recount<'a> {
    pub(crate) plan: &'a Plan,
}

/// What a plan is made for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked<'a> {
    /// The plan whose counts are taken again.
    pub(crate) recount: Option<Recount<'a>>,
    /// A share of a table that may go at most, beside those of the rules: where counts come near to it, they have to be exact.
    pub(crate) max_fraction: Option<f64>,
}

/// Makes a plan: exact counts, samples and findings for every rule of the operations, in order.
pub(crate) async fn plan(
    name: &str,
    target: &dyn Target,
    roots: &Roots,
    operations: &[&Operation],
    settings: &Settings,
    expected_ms: impl Fn(&str, &str, u64) -> Option<u64>,
    asked: Asked<'_>,
) -> Result<(Plan, Selections), PlanError> {
    let Asked { recount, max_fraction } = asked;
    let share_of = |rule: &Rule| max_fraction.map_or(rule.max_fraction, |most| most.min(rule.max_fraction));
    // The horizon hangs on the target's clock, once: rows are old by the clock that wrote them.
    let clock = target.status().await?.clock;
    let mut rules = Vec::new();
    let mut captured = Vec::new();
    // Files are old by the clock that stamps them, which is the server's.
    let mut listed_now = None;
    for operation in operations {
        for rule in &operation.rules {
            let planned = recount.and_then(|Recount { plan }| plan.steps.get(rules.len()));
            if listed_now.is_none() && planned.is_none() && rule.root().is_some() {
                let mismatch = |mismatch: Mismatch| PlanError::Mismatch {
                    origin: rule.origin.clone(),
                    operation: operation.name.clone(),
                    rule: rule.name.clone(),
                    expected: mismatch.expected,
                };
                let root = Arc::clone(files::root_of(rule, roots).map_err(mismatch)?);
                listed_now = Some(files::blocking(move || Ok(root.now())).await?);
            }
            let listed_at = match planned {
                Some(step) => step.listed_at,
                None => rule.root().and(listed_now),
            };
            let horizon = match recount {
                Some(Recount { plan }) => plan.steps.get(rules.len()).and_then(|step| step.horizon),
                None => rule
                    .horizon(listed_at.unwrap_or(clock))
                    .map_err(|mismatch| PlanError::Mismatch {
                        origin: rule.origin.clone(),
                        operation: operation.name.clone(),
                        rule: rule.name.clone(),
                        expected: mismatch.expected,
                    })?,
            };
            rules.push(StepRule {
                operation: &operation.name,
                severity: operation.severity,
                rule,
                horizon,
                listed_at,
            });
            captured.push((operation.backup, operation.max_rows));
        }
    }
    let selections = select(target, roots, &rules, Purpose::Count).await?;
    failpoint!("plan-selected");
    let mut steps = Vec::with_capacity(rules.len());
    let mut known = Sizes::default();
    for ((step, selected), (captured, operation_max_rows)) in rules.iter().zip(&selections.steps).zip(captured) {
        if let Some(files) = &selected.files {
            steps.push(
                files::plan_step(
                    step,
                    files,
                    target,
                    clock,
                    &selections.schemas,
                    &expected_ms,
                    (operation_max_rows, recount),
                )
                .await?,
            );
            continue;
        }
        // The catalog may have been loaded while the target was out of reach.
        if matches!(step.rule.kind, RuleKind::Filter(_)) {
            explain(target, step, selected).await?;
        }
        let Step { selection, effect, .. } = selected;
        let mut findings = structural_findings(&selection.table, captured, effect.removes());
        for link in effect.acting() {
            let more = structural_findings(&link.child, captured, link.action == ChildAction::Delete);
            for finding in more {
                if !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
        }
        findings.extend(selected.findings.iter().cloned());
        let unlike = unlike_links(target, effect).await?;
        let comparable = unlike.is_empty();
        findings.extend(unlike);
        let countable = !matches!(selection.table.kind, TableKind::View | TableKind::Foreign);
        let mut survey = None;
        if countable {
            let samples = if recount.is_some() { 0 } else { SAMPLES };
            known.estimate(target, &selection.table).await?;
            let from = known.whole_from(&selection.table, share_of(step.rule));
            let surveyed = target.survey_share(selection, samples, from).await?;
            if let Some(rows) = surveyed.table_rows {
                known.counted(&selection.table, rows);
            }
            survey = Some(surveyed);
        }
        let row_count = survey.as_ref().map_or(0, |survey| survey.row_count);
        findings.extend(step.rule.findings(&selections.schemas));
        let mut plan_children = Vec::new();
        let mut going: Vec<(&TableSchema, u64)> = vec![(&selection.table, row_count)];
        if countable && row_count > 0 && !effect.is_plain_delete() {
            findings.extend(null_keys(target, selected).await?);
        }
        if countable && row_count > 0 && comparable && !effect.children.is_empty() {
            let counts = target.count_children(selection, &effect.children).await?;
            for (link, count) in effect.children.iter().zip(counts) {
                if link.action == ChildAction::Refuse {
                    findings.extend(refusing(&selection.table, link, count.rows));
                } else {
                    if link.action == ChildAction::Delete && count.rows > 0 {
                        match going.iter_mut().find(|(table, _)| table.name == link.child.name) {
                            Some((_, rows)) => *rows += count.rows,
                            None => going.push((&link.child, count.rows)),
                        }
                    }
                    plan_children.push(PlanChild {
                        table: link.child.name.to_string(),
                        constraint: link.name.clone(),
                        action: link.action,
                        row_count: count.rows,
                        also_going: count.also_going,
                        table_row_count: 0,
                    });
                }
            }
        }
        if row_count > 0 {
            findings.extend(about_parents(
                step.rule,
                &selection.table.name,
                &selections.schemas,
                selected.strict,
            ));
            findings.extend(empty_parents(target, selection).await?);
        }
        let mut sizes = Vec::with_capacity(going.len());
        for (table, rows) in going {
            let (whole, exact) = known.of(target, table, rows, share_of(step.rule)).await?;
            findings.extend(over_fraction(table, step.rule, rows, whole));
            let name = table.name.to_string();
            for child in plan_children.iter_mut().filter(|child| child.table == name) {
                child.table_row_count = whole;
            }
            sizes.push((whole, exact));
        }
        let (table_rows, exact) = sizes.first().copied().unwrap_or_default();
        if step.horizon.is_some() {
            findings.extend(clock_finding(&selection.table, clock, Timestamp::now()));
        }
        let samples = survey.iter().flat_map(|survey| &survey.samples);
        let columns = || selection.table.captured_columns().map(|column| column.name.as_str());
        steps.push(PlanStep {
            operation: step.operation.to_owned(),
            rule: step.rule.clone(),
            table: selection.table.name.to_string(),
            description: step.rule.describe(),
            horizon: step.horizon,
            listed_at: None,
            row_count,
            children: plan_children,
            strict: selected.strict,
            table_row_count: table_rows,
            table_row_count_exact: exact,
            captured,
            capture_bytes: if captured {
                row_count * survey.as_ref().map_or(0, |survey| survey.row_bytes)
            } else {
                0
            },
            expected_ms: expected_ms(step.operation, &step.rule.name, row_count),
            samples: samples.map(|row| SampleRow::new(columns(), row)).collect(),
            findings,
            selection_sql: survey.map(|survey| survey.sql).unwrap_or_default(),
            operation_max_rows,
        });
    }
    known.settle(&mut steps);
    let mut plan = Plan {
        id: PlanId(uuid::Uuid::now_v7()),
        target: name.to_owned(),
        operations: operations.iter().map(|operation| operation.name.clone()).collect(),
        severity: operations
            .iter()
            .map(|operation| operation.severity)
            .max()
            .unwrap_or(Severity::Low),
        steps,
        fingerprint: selections.fingerprint.clone(),
        digest: String::new(),
        created_at: clock,
        expires_at: Timestamp::now().checked_add(settings.plan_lifetime).unwrap_or(Timestamp::MAX),
        approvals_required: 0,
    };
    if plan.severity == Severity::Critical {
        plan.approvals_required = settings.approvals;
    }
    plan.digest = plan.compute_digest();
    Ok((plan, selections))
}

fn block(code: &str, table: &TableSchema, detail: String, remediation: impl Into<String>) -> Finding {
    Finding {
        code: code.to_owned(),
        level: FindingLevel::Block,
        table: table.name.to_string(),
        detail,
        remediation: remediation.into(),
    }
}

/// Links along which an index cannot find the rows that the database's own key would touch.
async fn unlike_links(target: &dyn Target, effect: &Effect) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    for link in effect.children.iter().filter(|link| link.child.indexed(&link.child_columns)) {
        if let Some(why) = target.unlike(link).await? {
            findings.push(block(
                "CHILD_KEY_UNLIKE",
                &link.parent,
                format!("{}: {why}", link.name),
                "give both columns the same type and collation, or the child an index by which the database compares them",
            ));
        }
    }
    Ok(findings)
}

/// Rows that nothing tells apart, of tables whose rows are held, captured and then changed by their primary key. SQLite alone lets
/// a primary key hold NULL.
async fn null_keys(target: &dyn Target, step: &Step) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    let mut seen: Vec<&TableName> = Vec::new();
    for table in step.tables() {
        let nullable = |name: &&String| table.column(name).is_some_and(|column| column.nullable);
        let columns: Vec<&String> = table.primary_key.iter().filter(nullable).collect();
        if seen.contains(&&table.name) || columns.is_empty() || table.kind != TableKind::Table {
            continue;
        }
        seen.push(&table.name);
        let is_null = columns.iter().map(|column| Condition::IsNull {
            column: (*column).clone(),
        });
        let unnamed = Selection {
            table: Arc::new(table.clone()),
            matches: Condition::Any(is_null.collect()),
            except: Vec::new(),
        };
        let rows = target.survey(&unnamed, 0).await?.row_count;
        if rows > 0 {
            findings.push(block(
                "NULL_PRIMARY_KEY",
                table,
                format!(
                    "{rows} rows of {} have no value in its primary key ({}), so that they cannot be told from one another",
                    table.name,
                    table.primary_key.join(", ")
                ),
                "give these rows a key",
            ));
        }
    }
    Ok(findings)
}

/// A key that keeps rows from going.
fn refusing(table: &TableSchema, link: &ChildLink, rows: u64) -> Option<Finding> {
    let place = format!("{} ({})", link.child.name, link.child_columns.join(", "));
    (rows > 0).then(|| {
        block(
            "RESTRICTED_BY_CHILD",
            table,
            format!(
                "constraint {} refuses to delete rows of {} that {rows} rows of {place} name",
                link.name, link.parent.name
            ),
            "clean the children up first, or declare the child in the catalog with on_delete = \"cascade\" or \"set_null\"",
        )
    })
}

/// What the shape of a table means for deleting from it (`removes`) or changing it, and for putting rows back.
fn structural_findings(table: &TableSchema, captured: bool, removes: bool) -> Vec<Finding> {
    let name = &table.name;
    let warn = |code: &str, detail: String, remediation: &str| Finding {
        code: code.to_owned(),
        level: FindingLevel::Warn,
        table: name.to_string(),
        detail,
        remediation: remediation.to_owned(),
    };
    let mut findings = Vec::new();
    match table.kind {
        TableKind::Table => {}
        TableKind::Partitioned => findings.push(block(
            "PARTITIONED_TABLE",
            table,
            format!("{name} is partitioned"),
            "name a partition in the catalog; partitioned tables are not supported yet",
        )),
        TableKind::Inherited => findings.push(block(
            "INHERITED_TABLE",
            table,
            format!("other tables inherit from {name}"),
            "inheritance is not supported",
        )),
        TableKind::View => findings.push(block(
            "NOT_A_TABLE",
            table,
            format!("{name} is a view"),
            "name the table behind it",
        )),
        TableKind::Foreign => findings.push(block(
            "NOT_A_TABLE",
            table,
            format!("{name} is a foreign or virtual table"),
            "run dbkeep on the database that holds it",
        )),
    }
    if table.kind == TableKind::Table && (table.row_key.is_empty() || (captured || !removes) && table.primary_key.is_empty()) {
        findings.push(block(
            "NO_PRIMARY_KEY",
            table,
            format!("{name} has no primary key, so that a row cannot be told from another like it"),
            "add a primary key",
        ));
    }
    for rule in &table.rewrite_rules {
        findings.push(block(
            "REWRITE_RULE",
            table,
            format!("rule {rule} rewrites statements on {name}"),
            "drop the rule or exclude the table",
        ));
    }
    for trigger in &table.triggers {
        let fires = if removes { trigger.on_delete } else { trigger.on_update };
        let what = if removes { "deletion" } else { "change" };
        let code = if removes { "DELETE_TRIGGER" } else { "UPDATE_TRIGGER" };
        if fires && trigger.before {
            findings.push(block(
                code,
                table,
                format!("trigger {} fires before a {what} and can cancel or change it", trigger.name),
                "disable the trigger for dbkeep's user or exclude the table",
            ));
        } else if fires {
            findings.push(warn(
                code,
                format!(
                    "trigger {} fires after each {what}; what it changes is not captured",
                    trigger.name
                ),
                "make sure that its effects are wanted",
            ));
        }
        if trigger.on_insert && captured && removes {
            findings.push(warn(
                "INSERT_TRIGGER",
                format!("trigger {} fires when rows are put back", trigger.name),
                "make sure that it leaves restored rows as they are",
            ));
        }
    }
    for column in &table.lossy_columns {
        if captured {
            findings.push(block(
                "LOSSY_TYPE",
                table,
                format!(
                    "column {column} has a type whose cast to text runs a function of its own; a capture might lose something"
                ),
                "exclude the table",
            ));
        }
    }
    findings
}

/// What whoever lets orphans go should know of their parents, where there are any.
fn about_parents(rule: &Rule, table: &TableName, schemas: &Schemas, strict: bool) -> Vec<Finding> {
    let RuleKind::Orphan(orphan) = &rule.kind else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut add = |code: &str, level, detail, remediation: &str| {
        findings.push(Finding {
            code: code.to_owned(),
            level,
            table: table.to_string(),
            detail,
            remediation: remediation.to_owned(),
        });
    };
    if let Some(key) = orphan.declared(table, schemas) {
        add(
            "UNDO_NEEDS_PARENT",
            FindingLevel::Warn,
            format!(
                "constraint {} forbids rows without a parent; those that are there in spite of it cannot be put back before their parent is",
                key.name
            ),
            "keep the backup; whoever wants such a row back puts its parent back first",
        );
    }
    if !strict && orphan.grace.is_none() {
        add(
            "PARENT_MAY_RETURN",
            FindingLevel::Info,
            format!("a row of {table} that is without a parent for a moment only may go in that moment; the backup has it"),
            "give the rule a grace, or strict = true",
        );
    }
    findings
}

/// A target whose clock jumped would make everything look old.
fn clock_finding(table: &TableSchema, target: Timestamp, server: Timestamp) -> Option<Finding> {
    let skew = target.duration_since(server).abs();
    (skew > CLOCK_TOLERANCE).then(|| {
        block(
            "CLOCK_SKEW",
            table,
            format!("the target's clock says {target}, the server's {server}; a horizon from it cannot be trusted"),
            "set the clocks right and plan again",
        )
    })
}

/// Parents without a row: every row looks orphaned then.
async fn empty_parents(target: &dyn Target, selection: &Selection) -> Result<Vec<Finding>, TargetError> {
    let mut findings = Vec::new();
    let table = &selection.table;
    for parent in selection.matches.parents() {
        if target.count_rows(parent, Some(1)).await? > 0 {
            continue;
        }
        findings.push(block(
            "EMPTY_PARENT",
            table,
            format!(
                "parent {} is empty, so that every row of {} looks orphaned",
                parent.name, table.name
            ),
            "make sure that the parent is the right table and was not emptied by mistake",
        ));
    }
    Ok(findings)
}

/// Too large a share of a table, the rule's own or one whose rows go along: `rows` of `whole` would go, however they are reached.
fn over_fraction(table: &TableSchema, rule: &Rule, rows: u64, whole: u64) -> Option<Finding> {
    let share = crate::run::as_f64(rows) / crate::run::as_f64(whole.max(1));
    (share > rule.max_fraction).then(|| {
        block(
            "OVER_MAX_FRACTION",
            table,
            format!(
                "{rows} of {whole} rows of {} would go or change, {:.1} %; the rule allows {:.1} %",
                table.name,
                share * 100.0,
                rule.max_fraction * 100.0
            ),
            "check the rule; raise its max_fraction where this is meant",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Trigger;

    fn table() -> TableSchema {
        TableSchema {
            name: TableName::parse("app.t"),
            kind: TableKind::Table,
            columns: vec![Column {
                name: "id".into(),
                type_name: "text".into(),
                class: TypeClass::Text,
                nullable: false,
                generated: Generated::No,
            }],
            primary_key: vec!["id".into()],
            row_key: vec!["id".into()],
            indexes: Vec::new(),
            incoming: Vec::new(),
            triggers: Vec::new(),
            rewrite_rules: Vec::new(),
            row_security: false,
            lossy_columns: Vec::new(),
            shape_guard: String::new(),
        }
    }

    fn codes(table: &TableSchema) -> Vec<(String, FindingLevel)> {
        structural_findings(table, true, true)
            .into_iter()
            .map(|finding| (finding.code, finding.level))
            .collect()
    }

    #[test]
    fn a_plain_table_has_no_findings() {
        assert_eq!(codes(&table()), Vec::new());
    }

    #[test]
    fn whatever_would_vanish_uncaptured_is_blocked_by_name() {
        let trigger = |before| Trigger {
            name: "tr".into(),
            on_delete: true,
            on_update: false,
            on_insert: false,
            before,
        };
        let cases = [
            (
                TableSchema {
                    triggers: vec![trigger(true)],
                    ..table()
                },
                "DELETE_TRIGGER",
                FindingLevel::Block,
            ),
            (
                TableSchema {
                    triggers: vec![trigger(false)],
                    ..table()
                },
                "DELETE_TRIGGER",
                FindingLevel::Warn,
            ),
            (
                TableSchema {
                    rewrite_rules: vec!["r".into()],
                    ..table()
                },
                "REWRITE_RULE",
                FindingLevel::Block,
            ),
            (
                TableSchema {
                    row_key: Vec::new(),
                    ..table()
                },
                "NO_PRIMARY_KEY",
                FindingLevel::Block,
            ),
            (
                TableSchema {
                    kind: TableKind::View,
                    ..table()
                },
                "NOT_A_TABLE",
                FindingLevel::Block,
            ),
            (
                TableSchema {
                    kind: TableKind::Partitioned,
                    ..table()
                },
                "PARTITIONED_TABLE",
                FindingLevel::Block,
            ),
        ];
        for (table, code, level) in cases {
            assert_eq!(codes(&table), vec![(code.to_owned(), level)]);
        }
    }

    #[test]
    fn a_clock_that_jumped_blocks() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("an instant");
        let later = |minutes| now + jiff::SignedDuration::from_mins(minutes);
        assert_eq!(clock_finding(&table(), later(4), now), None);
        for minutes in [6, -6, 365 * 24 * 60] {
            let finding = clock_finding(&table(), later(minutes), now).expect("a finding");
            assert_eq!((finding.code.as_str(), finding.level), ("CLOCK_SKEW", FindingLevel::Block));
        }
    }

    #[test]
    fn the_fingerprint_changes_with_ddl() {
        let keyed = TableSchema {
            triggers: vec![Trigger {
                name: "x".into(),
                on_delete: false,
                on_update: false,
                on_insert: true,
                before: false,
            }],
            ..table()
        };
        let fingerprint = |table: &TableSchema| TableSchema::fingerprint([table]);
        assert_eq!(fingerprint(&table()), fingerprint(&table()));
        assert_ne!(fingerprint(&table()), fingerprint(&keyed));
    }
}
