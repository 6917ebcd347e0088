//! Rules of the linter squawk: what other clients of a PostgreSQL database notice. Of its rules only those are on that say what
//! [`super::rules`] does not; its others ask for a style, or judge without knowing how large a table is.

use std::panic::{AssertUnwindSafe, catch_unwind};

use squawk_linter::{Linter, Rule, Violation};
use squawk_syntax::SourceFile;

use super::{context::Context, reading::Reading};
use crate::model::{Risk, RiskReason};

/// The rules that are on, how risky what they find is, and why.
const LEVELS: [(Rule, Risk, &str); 16] = [
    (
        Rule::BanTruncateCascade,
        Risk::High,
        "tables are emptied that the statement does not name",
    ),
    (
        Rule::RequireConcurrentIndexDeletion,
        Risk::Medium,
        "the index's table, which is not named, is locked against everybody",
    ),
    (
        Rule::RequireConcurrentPartitionDetach,
        Risk::Medium,
        "the whole partitioned table is locked against everybody",
    ),
    (
        Rule::IdentifierTooLong,
        Risk::Medium,
        "the name is cut, so that it is another than was written",
    ),
    (Rule::RenamingObject, Risk::Medium, "who uses the old name fails"),
    (Rule::BanSetSchema, Risk::Medium, "who uses the old name fails"),
    (
        Rule::BanDropView,
        Risk::Medium,
        "who uses it fails, though its text can be brought back",
    ),
    (
        Rule::BanDropFunction,
        Risk::Medium,
        "who uses it fails, though its text can be brought back",
    ),
    (
        Rule::BanDropType,
        Risk::Medium,
        "who uses it fails, though no column does, or it could not be dropped",
    ),
    (Rule::BanDropExtension, Risk::Medium, "who uses its functions fails"),
    (
        Rule::BanDisableTrigger,
        Risk::Medium,
        "rows change meanwhile that the trigger does not see",
    ),
    (
        Rule::BanAlterIdentity,
        Risk::Medium,
        "clients that insert with a value of their own fail",
    ),
    (
        Rule::BanDropConstraint,
        Risk::Low,
        "rows may come in that break it, which shows once it is to come back",
    ),
    (
        Rule::BanDropNotNull,
        Risk::Low,
        "clients may meet a null that they do not expect",
    ),
    (Rule::BanDropDefault, Risk::Low, "clients that leave the column out may fail"),
    (Rule::BanReplicaIdentity, Risk::Low, "only replicas notice"),
];

/// Longest statement that is looked at, bytes. Longer ones hold rows, of which no rule of these says anything.
const MAX_LENGTH: usize = 64 * 1024;

/// What squawk finds in one statement. A statement about tables that the script itself made concerns no client.
pub(super) fn lint(sql: &str, reading: &Reading, before: &Context) -> Vec<RiskReason> {
    let own = !reading.named.is_empty() && reading.named.iter().all(|table| before.is_new(table));
    let changes = ["ALTER", "DROP", "TRUNCATE", "CREATE"]
        .iter()
        .any(|verb| reading.kind.starts_with(verb));
    if own || !changes || sql.len() > MAX_LENGTH {
        return Vec::new();
    }
    // A parser that gives up in an unforeseen way must not take the plan with it: these rules add to others.
    let found = catch_unwind(AssertUnwindSafe(|| violations(sql))).unwrap_or_default();
    let mut reasons: Vec<RiskReason> = Vec::new();
    for violation in found {
        let rule = violation.code.to_string();
        let level = LEVELS.iter().find(|(on, _, _)| *on == violation.code);
        if let Some((_, risk, why)) = level
            && !reasons.iter().any(|reason| reason.rule == rule)
        {
            reasons.push(RiskReason {
                rule,
                risk: *risk,
                message: format!("{} ({why})", violation.message.trim_end_matches('.')),
                help: violation.help.unwrap_or_default(),
            });
        }
    }
    reasons
}

fn violations(sql: &str) -> Vec<Violation> {
    let mut linter = Linter::from(LEVELS.iter().map(|(rule, _, _)| *rule));
    linter.lint(&SourceFile::parse(sql), sql)
}
