//! The rules of squawk, a linter for PostgreSQL's migrations, beside those of [`super::rules`]. It knows nothing of the target, so
//! that its rules about locks and sizes are off here: ours say the same with the table's size. What it adds is what breaks the
//! programs that use the database, and mistakes that need its grammar.

use std::panic::{AssertUnwindSafe, catch_unwind};

use squawk_linter::{Linter, Rule, Violation};
use squawk_syntax::SourceFile;

use super::{
    context::{Context, Size},
    reading::Reading,
};
use crate::model::{Group, Risk, RiskReason, Script};

/// Longest group that is read, bytes. A longer one is a dump of rows, about which there is nothing to say.
const MAX_BYTES: usize = 1_000_000;
/// Deepest nesting that is read: the parser calls itself for each level, and the stack is finite.
const MAX_DEPTH: usize = 100;

/// The rules that are on, how risky each is, and why. A rule that is not here is off, because a rule of ours says the same and knows
/// the size (index creation, constraints, foreign keys, unique constraints, types, NOT NULL, defaults, dropped tables and columns,
/// required columns, repack, reindex, detaching), because a run does it by itself (timeouts, transactions), or because it is a
/// matter of style (text, bigint, identity, robust statements, schemas, character types).
const RULES: [(Rule, Risk, &str); 24] = [
    (
        Rule::RenamingColumn,
        Risk::Medium,
        "programs that run meanwhile use the old name",
    ),
    (
        Rule::RenamingTable,
        Risk::Medium,
        "programs that run meanwhile use the old name",
    ),
    (Rule::RenamingObject, Risk::Low, "few programs name a constraint or an index"),
    (
        Rule::RequireConcurrentIndexDeletion,
        Risk::Medium,
        "it is short, but it waits for every query of the table and all others wait behind it",
    ),
    (Rule::BanDropNotNull, Risk::Medium, "programs may not expect a null"),
    (Rule::BanDropConstraint, Risk::Low, "what it kept out may come in"),
    (
        Rule::BanDropDefault,
        Risk::Medium,
        "an insert without the column fails or stores a null",
    ),
    (Rule::BanDropView, Risk::Medium, "programs that run meanwhile read it"),
    (Rule::BanDropFunction, Risk::Medium, "programs that run meanwhile call it"),
    (Rule::BanDropType, Risk::Medium, "programs that run meanwhile may name it"),
    (Rule::BanDropDomain, Risk::Medium, "programs that run meanwhile may name it"),
    (
        Rule::BanDropSequence,
        Risk::Medium,
        "programs that run meanwhile may call nextval",
    ),
    (Rule::BanDropExtension, Risk::Medium, "its functions and types go with it"),
    (
        Rule::BanDropGeneratedExpression,
        Risk::Low,
        "the column is no longer computed",
    ),
    (
        Rule::BanAlterIdentity,
        Risk::Low,
        "an insert that gives the column a value may fail",
    ),
    (
        Rule::BanSetSchema,
        Risk::Medium,
        "programs that run meanwhile look for it where it was",
    ),
    (
        Rule::BanTruncateCascade,
        Risk::High,
        "tables that nobody named are emptied too",
    ),
    (Rule::BanDuplicateColumnAssignments, Risk::High, "the statement fails"),
    (
        Rule::BanCreateDomainWithConstraint,
        Risk::Low,
        "a domain's constraint cannot be changed without a scan of all its tables",
    ),
    (
        Rule::BanAlterDomainWithAddConstraint,
        Risk::Medium,
        "every table with a column of the domain is scanned",
    ),
    (
        Rule::RequireEnumValueOrdering,
        Risk::Low,
        "the order of values is seldom meant to be that of the migrations",
    ),
    (
        Rule::IdentifierTooLong,
        Risk::Medium,
        "PostgreSQL cuts the name, and two names may become one",
    ),
    (
        Rule::PreferTimestampTz,
        Risk::Low,
        "a question of style until servers differ in their zone",
    ),
    (Rule::BanDisableTrigger, Risk::Medium, "rows that change meanwhile escape it"),
];

/// What squawk found at a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// Position of the statement in the script, from 0.
    pub(super) statement: usize,
    reason: RiskReason,
}

/// Everything that squawk finds in a script.
pub(super) fn findings(script: &Script) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut first = 0;
    for group in &script.groups {
        // A parser that panics on somebody's SQL must not take a plan with it: what it would have added is a bonus.
        let found = catch_unwind(AssertUnwindSafe(|| of_group(group, first))).unwrap_or_default();
        findings.extend(found);
        first += group.statements.len();
    }
    findings
}

fn of_group(group: &Group, first: usize) -> Vec<Finding> {
    let mut text = String::new();
    let mut starts = Vec::with_capacity(group.statements.len());
    for statement in &group.statements {
        starts.push(text.len());
        if depth(&statement.sql) <= MAX_DEPTH {
            text.push_str(&statement.sql);
        }
        text.push_str("\n;\n");
    }
    if text.len() > MAX_BYTES {
        return Vec::new();
    }
    let mut linter = Linter::from(RULES.iter().map(|(rule, _, _)| *rule));
    linter.settings.assume_in_transaction = group.atomic;
    let violations = linter.lint(&SourceFile::parse(&text), &text);
    violations
        .iter()
        .filter_map(|violation| finding(violation, &starts, first))
        .collect()
}

fn depth(sql: &str) -> usize {
    let (mut now, mut deepest) = (0_usize, 0);
    for byte in sql.bytes() {
        match byte {
            b'(' | b'[' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b')' | b']' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn finding(violation: &Violation, starts: &[usize], first: usize) -> Option<Finding> {
    let (_, risk, why) = RULES.iter().find(|(rule, _, _)| *rule == violation.code)?;
    let at = usize::from(violation.text_range.start());
    let within = starts.partition_point(|start| *start <= at).checked_sub(1)?;
    let reason = RiskReason {
        rule: violation.code.to_string(),
        risk: *risk,
        message: format!("{} ({why})", violation.message.trim_end_matches('.')),
        help: violation.help.clone().unwrap_or_default(),
    };
    Some(Finding {
        statement: first + within,
        reason,
    })
}

/// Adds a finding to a statement's reasons, once, with the names that squawk leaves out; a table that the script created breaks
/// nobody's program.
pub(super) fn add(finding: &Finding, reading: &Reading, context: &Context, reasons: &mut Vec<RiskReason>) {
    let tables: Vec<_> = reading.locks.iter().map(|(table, _)| table).collect();
    let all_new = !tables.is_empty() && tables.iter().all(|table| context.size(table) == Size::New);
    let everywhere = [
        "identifier-too-long",
        "ban-duplicate-column-assignments",
        "prefer-timestamp-tz",
    ];
    if (all_new && !everywhere.contains(&finding.reason.rule.as_str()))
        || reasons.iter().any(|reason| reason.rule == finding.reason.rule)
    {
        return;
    }
    let mut reason = finding.reason.clone();
    if let Some(table) = tables.first() {
        reason.message = format!("{table}: {}", reason.message);
    }
    reasons.push(reason);
}
