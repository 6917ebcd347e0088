//! JSON of what became of migrations in a run.
//!
//! Owns the shapes `migrations` of a report and `finished` of an event. Called by `run.rs` and `event.rs`.

use dbkeep_client::proto;
use serde::Serialize;

use super::migration::Lock;

/// What became of one migration.
#[derive(Debug, Serialize)]
pub(crate) struct Migrated<'a> {
    id: &'a str,
    name: &'a str,
    /// Which way it went last: "up" or "down".
    direction: String,
    /// Statements that took effect, at most 200 of them.
    statements: Vec<Done<'a>>,
    statements_done: u32,
    statement_count: u32,
    lock_timeout_count: u32,
    /// Where and why it failed; null where it did not.
    problem: Option<&'a str>,
    /// Null in other runs than rehearsals.
    rehearsal: Option<Rehearsal<'a>>,
}

impl<'a> From<&'a proto::MigrationReport> for Migrated<'a> {
    fn from(report: &'a proto::MigrationReport) -> Self {
        Self {
            id: &report.id,
            name: &report.name,
            direction: super::migration_direction(report.direction()),
            statements: report.statements.iter().map(Done::from).collect(),
            statements_done: report.statements_done,
            statement_count: report.statement_count,
            lock_timeout_count: report.lock_timeout_count,
            problem: super::text(&report.problem),
            rehearsal: report.rehearsal.as_ref().map(Rehearsal::from),
        }
    }
}

/// What one statement did.
#[derive(Debug, Serialize)]
pub(crate) struct Done<'a> {
    statement: u32,
    line: u32,
    excerpt: &'a str,
    duration_seconds: Option<f64>,
    row_count: u64,
    locks: Vec<Lock<'a>>,
    /// Whether there may have been others for a moment.
    locks_at_least: bool,
    /// Tables that it wrote anew.
    rewritten: &'a [String],
}

impl<'a> From<&'a proto::MigrationStatementReport> for Done<'a> {
    fn from(statement: &'a proto::MigrationStatementReport) -> Self {
        Self {
            statement: statement.statement,
            line: statement.line,
            excerpt: &statement.excerpt,
            duration_seconds: super::seconds(statement.duration.as_ref()),
            row_count: statement.row_count,
            locks: statement.locks.iter().map(Lock::from).collect(),
            locks_at_least: statement.locks_at_least,
            rewritten: &statement.rewritten,
        }
    }
}

/// What a rehearsal found out.
#[derive(Debug, Serialize)]
struct Rehearsal<'a> {
    up_duration_seconds: Option<f64>,
    /// Null where there is no down script.
    down_duration_seconds: Option<f64>,
    size_change_bytes: i64,
    row_count: u64,
    has_down: bool,
    restored: bool,
    differences: &'a [String],
    /// As "table: before -> after".
    rows_lost: &'a [String],
    violations: &'a [String],
    /// Tables, and columns as "table.column".
    loses_data: &'a [String],
    /// Whether the copy had no rows.
    schema_only: bool,
    /// On a sample: what the up script would take with all rows; null where the copy was whole.
    whole_up_duration_seconds: Option<f64>,
}

impl<'a> From<&'a proto::RehearsalReport> for Rehearsal<'a> {
    fn from(rehearsal: &'a proto::RehearsalReport) -> Self {
        Self {
            up_duration_seconds: super::seconds(rehearsal.up_duration.as_ref()),
            down_duration_seconds: super::seconds(rehearsal.down_duration.as_ref()),
            size_change_bytes: rehearsal.size_change_bytes,
            row_count: rehearsal.row_count,
            has_down: rehearsal.has_down,
            restored: rehearsal.restored,
            differences: &rehearsal.differences,
            rows_lost: &rehearsal.rows_lost,
            violations: &rehearsal.violations,
            loses_data: &rehearsal.loses_data,
            schema_only: rehearsal.schema_only,
            whole_up_duration_seconds: super::seconds(rehearsal.whole_up_duration.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rehearsed_migration() {
        let report = proto::MigrationReport {
            id: "3".into(),
            name: "users".into(),
            direction: proto::MigrationDirection::Up.into(),
            statements: vec![proto::MigrationStatementReport {
                statement: 1,
                line: 2,
                excerpt: "ALTER".into(),
                duration: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
                locks: vec![proto::MigrationLock {
                    table: "users".into(),
                    mode: "ACCESS EXCLUSIVE".into(),
                }],
                rewritten: vec!["users".into()],
                ..Default::default()
            }],
            statements_done: 1,
            statement_count: 1,
            rehearsal: Some(proto::RehearsalReport {
                up_duration: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
                size_change_bytes: -8,
                has_down: true,
                differences: vec!["d".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Migrated::from(&report)).unwrap(),
            concat!(
                r#"{"id":"3","name":"users","direction":"up","statements":[{"statement":1,"line":2,"excerpt":"ALTER","#,
                r#""duration_seconds":1.0,"row_count":0,"locks":[{"table":"users","mode":"ACCESS EXCLUSIVE"}],"locks_at_least":false,"rewritten":["users"]}],"#,
                r#""statements_done":1,"statement_count":1,"lock_timeout_count":0,"problem":null,"rehearsal":{"up_duration_seconds":1.0,"#,
                r#""down_duration_seconds":null,"size_change_bytes":-8,"row_count":0,"has_down":true,"restored":false,"#,
                r#""differences":["d"],"rows_lost":[],"violations":[],"loses_data":[],"schema_only":false,"whole_up_duration_seconds":null}}"#,
            )
        );
    }
}
