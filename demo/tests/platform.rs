//! The demonstration as a test: on both databases, without and with declared keys, all nine operations are planned, run, proven and undone
//! over gRPC by the program itself, which compares every count with the ground truth and every table and folder with before. Here is
//! judged what it says.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with the error is the report")]

use std::process::Command;

use dbkeep_testkit::fresh_database;
use serde_json::Value;

/// Enough for circles of 50 lessons.
const ROWS: &str = "20000";

/// Rules with their actions.
type Rules = &'static [(&'static str, &'static str)];

/// Operation, severity, and its rules, in the order of the runs.
const OPERATIONS: [(&str, &str, Rules); 9] = [
    (
        "orphaned_achievements",
        "MEDIUM",
        &[
            ("user_achievements_without_user", "delete"),
            ("achievements_without_course", "delete"),
        ],
    ),
    (
        "orphaned_progress",
        "HIGH",
        &[
            ("progress_without_user", "delete"),
            ("progress_without_lesson", "delete"),
            ("progress_without_course", "delete"),
        ],
    ),
    (
        "orphaned_leaderboard",
        "MEDIUM",
        &[("entries_without_user", "delete"), ("duplicate_entries", "delete")],
    ),
    (
        "orphaned_prerequisites",
        "HIGH",
        &[
            ("prerequisites_of_no_lesson", "delete"),
            ("prerequisites_on_no_lesson", "delete"),
            ("circular_prerequisites", "delete"),
        ],
    ),
    (
        "expired_tokens",
        "LOW",
        &[
            ("refresh_tokens", "delete"),
            ("user_sessions", "delete"),
            ("password_reset_tokens", "delete"),
        ],
    ),
    (
        "old_logs",
        "MEDIUM",
        &[("api_logs", "delete"), ("error_logs", "delete"), ("audit_logs", "delete")],
    ),
    (
        "cached_data",
        "LOW",
        &[("expired_entries", "delete"), ("entries_of_no_user", "delete")],
    ),
    (
        "temporary_files",
        "MEDIUM",
        &[("stale_temp_files", "delete"), ("unused_uploads", "delete")],
    ),
    (
        "inactive_accounts",
        "CRITICAL",
        &[("suspended_users", "archive"), ("absent_users", "update")],
    ),
];

async fn shown(target: Option<String>, declared_keys: bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dbkeep-demo"));
    command.args(["--once", "--output", "json", "--seed", "7", "--rows", ROWS]);
    if let Some(target) = &target {
        command.args(["--target", target]);
    }
    if declared_keys {
        command.arg("--declared-keys");
    }
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["database"], if target.is_some() { "postgres" } else { "sqlite" });
    assert_eq!(outcome["declared_keys"], declared_keys);
    assert_eq!(outcome["restored_exactly"], true);
    assert_eq!(
        (&outcome["tables_compared"], &outcome["folders_compared"]),
        (&16.into(), &2.into())
    );
    let operations = outcome["operations"].as_array().unwrap();
    assert_eq!(operations.len(), OPERATIONS.len());
    for (operation, (name, severity, rules)) in operations.iter().zip(OPERATIONS) {
        assert_eq!(
            (&operation["operation"], &operation["severity"]),
            (&name.into(), &severity.into())
        );
        let approvers = operation["approved_by"].as_array().unwrap();
        assert_eq!(approvers.is_empty(), severity != "CRITICAL", "{name}");
        let found = operation["rules"].as_array().unwrap();
        assert_eq!(found.len(), rules.len(), "{name}");
        for (rule, (rule_name, action)) in found.iter().zip(rules) {
            assert_eq!((&rule["rule"], &rule["action"]), (&(*rule_name).into(), &(*action).into()));
            assert_eq!(rule["planned"], rule["truth"], "{rule_name}");
            assert_eq!(rule["affected"], rule["truth"], "{rule_name}");
            assert!(rule["truth"].as_u64().unwrap() > 0, "{rule_name} had nothing to do");
        }
        assert_eq!(
            operation["verified"], operation["restored"],
            "{name}: what is proven is what comes back"
        );
    }
    let suspended = &operations[8]["rules"][0];
    for table in [
        "user_progress",
        "user_achievements",
        "user_sessions",
        "refresh_tokens",
        "password_reset_tokens",
    ] {
        assert!(suspended["along_deleted"][table].as_u64().unwrap() > 0, "{table}");
    }
    // With declared keys an error loses the name of a session that goes, whether by its end or with its user.
    assert_eq!(
        operations[4]["rules"][1]["along_nullified"]["error_logs"].is_u64(),
        declared_keys
    );
    assert_eq!(suspended["along_nullified"]["error_logs"].is_u64(), declared_keys);
}

#[tokio::test]
async fn sqlite_plain() {
    shown(None, false).await;
}

#[tokio::test]
async fn sqlite_with_declared_keys() {
    shown(None, true).await;
}

#[tokio::test]
async fn postgres_plain() {
    shown(Some(fresh_database("platform").await.unwrap()), false).await;
}

#[tokio::test]
async fn postgres_with_declared_keys() {
    shown(Some(fresh_database("platform_keys").await.unwrap()), true).await;
}
