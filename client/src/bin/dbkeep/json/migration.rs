//! JSON of migrations as they stand and as they are planned.
//!
//! Owns the shapes `migration`, `problem`, `statement`, `migration_status`, `migration_plan` and `repair`. What became of migrations in a
//! run is `migrated.rs`. Called by `cmd/migrations/`.

use dbkeep_client::proto;
use serde::Serialize;

/// A migration.
#[derive(Debug, Serialize)]
pub(crate) struct Migration<'a> {
    id: &'a str,
    name: &'a str,
    version: Option<&'a str>,
    description: Option<&'a str>,
    /// "pending", "applied", "baselined", "adopted", "stopped_up" or "stopped_down".
    state: String,
    out_of_order: bool,
    repeatable: bool,
    /// Null where only a ledger knows it.
    up_file: Option<&'a str>,
    down_file: Option<&'a str>,
    sha256: Option<&'a str>,
    depends_on: &'a [String],
    requires_backup: bool,
    estimated_duration_seconds: Option<f64>,
    data_transformation: Option<bool>,
    /// "absent", "empty", "unproven", "proven", "sampled", "lossy" or "refuted".
    way_back: String,
    way_back_run_id: Option<&'a str>,
    apply_time: Option<String>,
    applied_by: Option<&'a str>,
    adopted_from: Option<&'a str>,
    run_id: Option<&'a str>,
    backup_id: Option<&'a str>,
    duration_seconds: Option<f64>,
    row_count: u64,
    statements_done: u32,
    statement_count: u32,
    in_doubt: bool,
    problem: Option<&'a str>,
    applied_checksum: Option<&'a str>,
}

impl<'a> From<&'a proto::Migration> for Migration<'a> {
    fn from(migration: &'a proto::Migration) -> Self {
        Self {
            id: &migration.id,
            name: &migration.name,
            version: super::text(&migration.version),
            description: super::text(&migration.description),
            state: super::migration_state(migration.state()),
            out_of_order: migration.out_of_order,
            repeatable: migration.repeatable,
            up_file: super::text(&migration.up_file),
            down_file: super::text(&migration.down_file),
            sha256: super::text(&migration.sha256),
            depends_on: &migration.depends_on,
            requires_backup: migration.requires_backup,
            estimated_duration_seconds: super::seconds(migration.estimated_duration.as_ref()),
            data_transformation: migration.data_transformation,
            way_back: super::way_back(migration.way_back()),
            way_back_run_id: super::text(&migration.way_back_run_id),
            apply_time: super::time(migration.apply_time.as_ref()),
            applied_by: super::text(&migration.applied_by),
            adopted_from: super::text(&migration.adopted_from),
            run_id: super::text(&migration.run_id),
            backup_id: super::text(&migration.backup_id),
            duration_seconds: super::seconds(migration.duration.as_ref()),
            row_count: migration.row_count,
            statements_done: migration.statements_done,
            statement_count: migration.statement_count,
            in_doubt: migration.in_doubt,
            problem: super::text(&migration.problem),
            applied_checksum: super::text(&migration.applied_checksum),
        }
    }
}

/// Something that does not fit.
#[derive(Debug, Serialize)]
pub(crate) struct Problem<'a> {
    /// Stable name of the protocol, in its own spelling: "STOPPED", "CHANGED".
    code: &'a str,
    migration_id: &'a str,
    message: &'a str,
    next_step: &'a str,
    blocks: bool,
}

impl<'a> From<&'a proto::MigrationProblem> for Problem<'a> {
    fn from(problem: &'a proto::MigrationProblem) -> Self {
        Self {
            code: &problem.code,
            migration_id: &problem.migration_id,
            message: &problem.message,
            next_step: &problem.next_step,
            blocks: problem.blocks,
        }
    }
}

/// How a folder stands on a target.
#[derive(Debug, Serialize)]
pub(crate) struct Status<'a> {
    target: &'a str,
    folder: &'a str,
    /// "sqlx", "diesel", "golang_migrate", "dbmate", "goose", "flyway", "prisma" or "sqitch".
    layout: &'a str,
    layout_evidence: &'a [String],
    warnings: &'a [String],
    total_count: u32,
    applied_count: u32,
    pending_count: u32,
    last_applied_id: Option<&'a str>,
    last_apply_time: Option<String>,
    /// Whether one of the problems blocks.
    blocked: bool,
    problems: Vec<Problem<'a>>,
    /// As "tool: table".
    adopted_ledgers: &'a [String],
    ignored_ledgers: &'a [String],
}

impl<'a> From<&'a proto::MigrationStatus> for Status<'a> {
    fn from(status: &'a proto::MigrationStatus) -> Self {
        Self {
            target: &status.target,
            folder: &status.folder,
            layout: &status.layout,
            layout_evidence: &status.layout_evidence,
            warnings: &status.warnings,
            total_count: status.total_count,
            applied_count: status.applied_count,
            pending_count: status.pending_count,
            last_applied_id: super::text(&status.last_applied_id),
            last_apply_time: super::time(status.last_apply_time.as_ref()),
            blocked: status.problems.iter().any(|problem| problem.blocks),
            problems: status.problems.iter().map(Problem::from).collect(),
            adopted_ledgers: &status.adopted_ledgers,
            ignored_ledgers: &status.ignored_ledgers,
        }
    }
}

/// A statement, and what it will do by reading it.
#[derive(Debug, Serialize)]
pub(crate) struct Statement<'a> {
    line: u32,
    sql: &'a str,
    /// As it begins, in capitals: "ALTER TABLE".
    kind: &'a str,
    locks: Vec<Lock<'a>>,
    /// "catalog", "rows", "scan", "build" or "rewrite".
    work: String,
    changes_rows: bool,
    loses_data: bool,
    outside_transaction: bool,
    reasons: Vec<Reason<'a>>,
}

/// A lock on a table; "*" is the whole database.
#[derive(Debug, Serialize)]
pub(crate) struct Lock<'a> {
    table: &'a str,
    mode: &'a str,
}

impl<'a> From<&'a proto::MigrationLock> for Lock<'a> {
    fn from(lock: &'a proto::MigrationLock) -> Self {
        Self {
            table: &lock.table,
            mode: &lock.mode,
        }
    }
}

#[derive(Debug, Serialize)]
struct Reason<'a> {
    rule: &'a str,
    /// "low", "medium" or "high".
    risk: String,
    message: &'a str,
    help: Option<&'a str>,
}

impl<'a> From<&'a proto::PlannedStatement> for Statement<'a> {
    fn from(statement: &'a proto::PlannedStatement) -> Self {
        let reason = |reason: &'a proto::RiskReason| Reason {
            rule: &reason.rule,
            risk: super::risk(reason.risk()),
            message: &reason.message,
            help: super::text(&reason.help),
        };
        Self {
            line: statement.line,
            sql: &statement.sql,
            kind: &statement.kind,
            locks: statement.locks.iter().map(Lock::from).collect(),
            work: super::statement_work(statement.work()),
            changes_rows: statement.changes_rows,
            loses_data: statement.loses_data,
            outside_transaction: statement.outside_transaction,
            reasons: statement.reasons.iter().map(reason).collect(),
        }
    }
}

/// What a run would do.
#[derive(Debug, Serialize)]
pub(crate) struct Plan<'a> {
    target: &'a str,
    /// "up" or "down".
    direction: String,
    /// "low", "medium" or "high".
    risk: String,
    steps: Vec<PlanStep<'a>>,
    problems: Vec<Problem<'a>>,
    backup_first: bool,
    estimated_duration_seconds: Option<f64>,
    unestimated_count: u32,
    transforming_count: u32,
    token: &'a str,
    /// Null where scripts are executed.
    restore: Option<Restore<'a>>,
}

/// What going back to a backup means.
#[derive(Debug, Serialize)]
struct Restore<'a> {
    backup_id: &'a str,
    backup_time: Option<String>,
    tables: Vec<RestoredTable<'a>>,
    confirmation_phrase: &'a str,
    approvals_required: u32,
}

#[derive(Debug, Serialize)]
struct RestoredTable<'a> {
    table: &'a str,
    /// Null where the backup does not have it.
    backup_row_count: Option<u64>,
    /// Null where it is not there now.
    row_count: Option<u64>,
}

impl<'a> From<&'a proto::MigrationRestore> for Restore<'a> {
    fn from(restore: &'a proto::MigrationRestore) -> Self {
        let table = |table: &'a proto::RestoredTable| RestoredTable {
            table: &table.table,
            backup_row_count: table.backup_row_count,
            row_count: table.row_count,
        };
        Self {
            backup_id: &restore.backup_id,
            backup_time: super::time(restore.backup_time.as_ref()),
            tables: restore.tables.iter().map(table).collect(),
            confirmation_phrase: &restore.confirmation_phrase,
            approvals_required: restore.approvals_required,
        }
    }
}

#[derive(Debug, Serialize)]
struct PlanStep<'a> {
    migration: Option<Migration<'a>>,
    statements: Vec<Statement<'a>>,
    risk: String,
    estimated_duration_seconds: Option<f64>,
    /// "rehearsal", "author", "size" or "unknown".
    estimate_source: String,
    transforms_data: bool,
    needs_backup: bool,
    statements_done: u32,
}

impl<'a> From<&'a proto::MigrationPlan> for Plan<'a> {
    fn from(plan: &'a proto::MigrationPlan) -> Self {
        let step = |step: &'a proto::MigrationPlanStep| PlanStep {
            migration: step.migration.as_ref().map(Migration::from),
            statements: step.statements.iter().map(Statement::from).collect(),
            risk: super::risk(step.risk()),
            estimated_duration_seconds: super::seconds(step.estimated_duration.as_ref()),
            estimate_source: super::estimate_source(step.estimate_source()),
            transforms_data: step.transforms_data,
            needs_backup: step.needs_backup,
            statements_done: step.statements_done,
        };
        Self {
            target: &plan.target,
            direction: super::migration_direction(plan.direction()),
            risk: super::risk(plan.risk()),
            steps: plan.steps.iter().map(step).collect(),
            problems: plan.problems.iter().map(Problem::from).collect(),
            backup_first: plan.backup_first,
            estimated_duration_seconds: super::seconds(plan.estimated_duration.as_ref()),
            unestimated_count: plan.unestimated_count,
            transforming_count: plan.transforming_count,
            token: &plan.token,
            restore: plan.restore.as_ref().map(Restore::from),
        }
    }
}

/// What is wrong with a row of the ledger, and what may be done or was done.
#[derive(Debug, Serialize)]
pub(crate) struct Repair<'a> {
    id: &'a str,
    explanation: &'a [String],
    proposals: Vec<Proposal<'a>>,
    /// Null where only the explanation was asked for.
    done: Option<String>,
}

#[derive(Debug, Serialize)]
struct Proposal<'a> {
    /// "retry", "skip", "mark_applied", "mark_pending", "accept_checksum" or "drop_invalid_index".
    action: String,
    effect: &'a str,
}

impl<'a> From<&'a proto::RepairLedgerResponse> for Repair<'a> {
    fn from(repair: &'a proto::RepairLedgerResponse) -> Self {
        Self {
            id: &repair.id,
            explanation: &repair.explanation,
            proposals: repair
                .proposals
                .iter()
                .map(|proposal| Proposal {
                    action: super::repair_action(proposal.action()),
                    effect: &proposal.effect,
                })
                .collect(),
            done: Some(repair.done())
                .filter(|done| *done != proto::RepairAction::Unspecified)
                .map(super::repair_action),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_with_a_migration_and_a_statement() {
        let plan = proto::MigrationPlan {
            target: "main".into(),
            direction: proto::MigrationDirection::Up.into(),
            risk: proto::Risk::High.into(),
            steps: vec![proto::MigrationPlanStep {
                migration: Some(proto::Migration {
                    id: "3".into(),
                    state: proto::MigrationState::Pending.into(),
                    way_back: proto::WayBack::Proven.into(),
                    ..Default::default()
                }),
                statements: vec![proto::PlannedStatement {
                    line: 2,
                    sql: "DROP TABLE a".into(),
                    kind: "DROP TABLE".into(),
                    locks: vec![proto::MigrationLock {
                        table: "a".into(),
                        mode: "ACCESS EXCLUSIVE".into(),
                    }],
                    work: proto::StatementWork::Catalog.into(),
                    loses_data: true,
                    reasons: vec![proto::RiskReason {
                        rule: "drop-table".into(),
                        risk: proto::Risk::High.into(),
                        message: "m".into(),
                        help: String::new(),
                    }],
                    ..Default::default()
                }],
                risk: proto::Risk::High.into(),
                estimate_source: proto::EstimateSource::Unknown.into(),
                ..Default::default()
            }],
            backup_first: true,
            unestimated_count: 1,
            token: "t".into(),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Plan::from(&plan)).unwrap(),
            concat!(
                r#"{"target":"main","direction":"up","risk":"high","steps":[{"migration":{"id":"3","name":"","version":null,"#,
                r#""description":null,"state":"pending","out_of_order":false,"repeatable":false,"up_file":null,"down_file":null,"#,
                r#""sha256":null,"depends_on":[],"requires_backup":false,"estimated_duration_seconds":null,"data_transformation":null,"#,
                r#""way_back":"proven","way_back_run_id":null,"apply_time":null,"applied_by":null,"adopted_from":null,"run_id":null,"#,
                r#""backup_id":null,"duration_seconds":null,"row_count":0,"statements_done":0,"statement_count":0,"in_doubt":false,"#,
                r#""problem":null,"applied_checksum":null},"statements":[{"line":2,"sql":"DROP TABLE a","kind":"DROP TABLE","#,
                r#""locks":[{"table":"a","mode":"ACCESS EXCLUSIVE"}],"work":"catalog","changes_rows":false,"loses_data":true,"#,
                r#""outside_transaction":false,"reasons":[{"rule":"drop-table","risk":"high","message":"m","help":null}]}],"#,
                r#""risk":"high","estimated_duration_seconds":null,"estimate_source":"unknown","transforms_data":false,"#,
                r#""needs_backup":false,"statements_done":0}],"problems":[],"backup_first":true,"estimated_duration_seconds":null,"#,
                r#""unestimated_count":1,"transforming_count":0,"token":"t","restore":null}"#,
            )
        );
    }

    #[test]
    fn a_status_and_a_repair() {
        let status = proto::MigrationStatus {
            target: "main".into(),
            layout: "sqlx".into(),
            total_count: 3,
            problems: vec![proto::MigrationProblem {
                code: "STOPPED".into(),
                migration_id: "3".into(),
                message: "m".into(),
                next_step: "n".into(),
                blocks: true,
            }],
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Status::from(&status)).unwrap(),
            concat!(
                r#"{"target":"main","folder":"","layout":"sqlx","layout_evidence":[],"warnings":[],"total_count":3,"applied_count":0,"#,
                r#""pending_count":0,"last_applied_id":null,"last_apply_time":null,"blocked":true,"problems":[{"code":"STOPPED","#,
                r#""migration_id":"3","message":"m","next_step":"n","blocks":true}],"adopted_ledgers":[],"ignored_ledgers":[]}"#,
            )
        );
        let repair = proto::RepairLedgerResponse {
            id: "3".into(),
            explanation: vec!["e".into()],
            proposals: vec![proto::RepairProposal {
                action: proto::RepairAction::MarkApplied.into(),
                effect: "f".into(),
            }],
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&Repair::from(&repair)).unwrap(),
            r#"{"id":"3","explanation":["e"],"proposals":[{"action":"mark_applied","effect":"f"}],"done":null}"#
        );
    }
}
