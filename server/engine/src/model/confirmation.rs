//! The phrase that has to be typed before a plan of severity CRITICAL runs.

use std::collections::BTreeSet;

use super::plan::{Plan, PlanStep};
use crate::rule::{Action, Severity};

/// Tables that a phrase names; of more it tells the number.
const NAMED_TABLES: usize = 3;

impl Plan {
    /// What has to be typed to run this plan: the rows, the tables and the target, in words that depend on the plan alone. Empty
    /// below CRITICAL.
    #[must_use]
    pub fn confirmation_phrase(&self) -> String {
        if self.severity < Severity::Critical {
            return String::new();
        }
        let verbs: BTreeSet<&str> = self.steps.iter().map(verb).collect();
        let tables: BTreeSet<&str> = self.steps.iter().map(|step| step.table.as_str()).collect();
        let tables: Vec<&str> = tables.into_iter().collect();
        let place = if tables.len() <= NAMED_TABLES {
            tables.join(", ")
        } else {
            format!("{} tables", tables.len())
        };
        let noun = if self.row_count() == 1 { "row" } else { "rows" };
        let verbs = verbs.into_iter().collect::<Vec<_>>().join(" and ");
        let along = match self.steps.iter().map(PlanStep::along_count).sum::<u64>() {
            0 => String::new(),
            along => format!(" with {along} of other tables"),
        };
        format!("{verbs} {} {noun} from {place}{along} on {}", self.row_count(), self.target)
    }
}

/// What a step does to its rows.
fn verb(step: &PlanStep) -> &'static str {
    match step.rule.action {
        Action::Delete => "delete",
        Action::Archive { .. } => "archive",
        Action::Update { .. } | Action::Nullify { .. } => "change",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        model::{PlanId, TableName},
        rule::{
            Origin, Rule, RuleKind,
            expired::{Age, Expired},
        },
    };

    /// A step that counted some rows of a table of 10,000.
    pub(crate) fn step(table: &str, row_count: u64) -> PlanStep {
        PlanStep {
            operation: "o".into(),
            rule: Rule {
                name: "r".into(),
                table: TableName::parse(table),
                action: Action::Delete,
                tests: Vec::new(),
                children: Vec::new(),
                strict: None,
                max_fraction: 0.5,
                max_rows: None,
                kind: RuleKind::Expired(Expired {
                    column: "at".into(),
                    fallback: None,
                    age: Age::Retention("P1D".into()),
                    zone: None,
                    encoding: None,
                }),
                origin: Origin::default(),
            },
            table: table.into(),
            description: String::new(),
            horizon: None,
            listed_at: None,
            row_count,
            children: Vec::new(),
            strict: false,
            table_row_count: 10_000,
            table_row_count_exact: true,
            captured: true,
            capture_bytes: 0,
            expected_ms: None,
            samples: Vec::new(),
            findings: Vec::new(),
            selection_sql: String::new(),
            operation_max_rows: None,
        }
    }

    pub(crate) fn plan(severity: Severity, steps: Vec<PlanStep>) -> Plan {
        Plan {
            id: PlanId(uuid::Uuid::nil()),
            target: "learning".into(),
            operations: vec!["o".into()],
            severity,
            steps,
            fingerprint: String::new(),
            digest: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH,
            approvals_required: 0,
        }
    }

    #[test]
    fn it_tells_rows_tables_and_target() {
        let critical = |steps| plan(Severity::Critical, steps).confirmation_phrase();
        assert_eq!(critical(vec![step("users", 1234)]), "delete 1234 rows from users on learning");
        assert_eq!(critical(vec![step("users", 1)]), "delete 1 row from users on learning");
        assert_eq!(
            critical(vec![step("users", 2), step("a", 1), step("users", 0)]),
            "delete 3 rows from a, users on learning"
        );
        let many = ["a", "b", "c", "d"].map(|table| step(table, 5)).to_vec();
        assert_eq!(critical(many), "delete 20 rows from 4 tables on learning");
    }

    #[test]
    fn it_tells_what_goes_along() {
        let mut archived = step("users", 12);
        archived.rule.action = Action::Archive {
            into: TableName::parse("old_users"),
            stamp_column: "at".into(),
        };
        archived.children = vec![crate::model::PlanChild {
            table: "posts".into(),
            constraint: "posts_user".into(),
            action: crate::model::ChildAction::Delete,
            row_count: 40,
            also_going: 0,
            table_row_count: 0,
        }];
        assert_eq!(
            plan(Severity::Critical, vec![archived]).confirmation_phrase(),
            "archive 12 rows from users with 40 of other tables on learning"
        );
    }

    #[test]
    fn below_critical_there_is_none() {
        for severity in [Severity::Low, Severity::Medium, Severity::High] {
            assert_eq!(plan(severity, vec![step("users", 7)]).confirmation_phrase(), "");
        }
    }
}
