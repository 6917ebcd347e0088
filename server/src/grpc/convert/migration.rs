//! Migrations: as they stand, as they are planned, and what became of them.

use dbkeep_engine::{
    engine::migrations::{MigrationStatus, MigrationView, Repair, RepairAction},
    migration::{
        plan::{EstimateSource, MigrationPlan, PlanStep, RewindPlan, Selection, TableAgainst, WayBack},
        standing::{Item, Problem, Standing},
    },
    model::{
        Direction, Impact, MigrationOptions, MigrationProgress, MigrationReport, Proof, Rehearsal, Risk, RiskReason, Script,
        StatementReport, TableLock, Work,
    },
    port::SourceFile,
};
use dbkeep_proto::v1;

use super::{index, time};
use crate::grpc::validate::Check;

/// One migration as it stands.
pub(in crate::grpc) fn item(status: &MigrationStatus, item: &Item) -> v1::Migration {
    let entry = item.entry.as_ref();
    let mut shown = v1::Migration {
        id: item.id.to_string(),
        name: item.name.clone(),
        state: state(item.standing).into(),
        out_of_order: item.out_of_order,
        apply_time: item.applied_at.map(time::timestamp),
        adopted_from: match item.standing {
            Standing::Adopted(tool) => tool.tool().to_owned(),
            _ => String::new(),
        },
        way_back: v1::WayBack::Absent.into(),
        applied_checksum: item.change.as_ref().map(|change| change.applied.clone()).unwrap_or_default(),
        ..v1::Migration::default()
    };
    if let Some(entry) = entry {
        shown.applied_by = entry.by.clone();
        shown.run_id = entry.run.to_string();
        shown.backup_id = entry.backup.map(|run| run.to_string()).unwrap_or_default();
        shown.duration = Some(time::milliseconds(entry.duration_ms));
        shown.row_count = entry.rows;
        shown.statements_done = entry.statements_done;
        shown.statement_count = entry.statements;
        shown.in_doubt = entry.in_doubt;
        shown.problem = entry.problem.clone();
    }
    if let Some(migration) = item.index.and_then(|index| status.collection.migrations.get(index)) {
        let metadata = &migration.metadata;
        shown.version.clone_from(&migration.version);
        shown.description.clone_from(&metadata.description);
        shown.repeatable = migration.repeatable;
        shown.up_file.clone_from(&migration.up.file);
        shown.down_file = migration.down.as_ref().map(|down| down.file.clone()).unwrap_or_default();
        shown.sha256.clone_from(&migration.up.sha256);
        shown.depends_on = metadata.depends_on.iter().map(ToString::to_string).collect();
        shown.requires_backup = metadata.requires_backup;
        shown.estimated_duration = metadata.estimated_seconds.map(time::seconds);
        shown.data_transformation = metadata.data_transformation;
        if entry.is_none() {
            shown.statement_count = index(migration.up.statement_count());
        }
        let back = WayBack::of(migration, &status.proofs);
        shown.way_back = way_back(&back).into();
        shown.way_back_run_id = proof_of(&back).map(|proof| proof.run.to_string()).unwrap_or_default();
    }
    shown
}

fn proof_of(back: &WayBack) -> Option<&Proof> {
    match back {
        WayBack::Proven(proof) | WayBack::Sampled(proof) | WayBack::Lossy(proof) | WayBack::Refuted(proof) => Some(proof),
        WayBack::Absent | WayBack::Empty | WayBack::Unproven => None,
    }
}

fn way_back(back: &WayBack) -> v1::WayBack {
    match back {
        WayBack::Absent => v1::WayBack::Absent,
        WayBack::Empty => v1::WayBack::Empty,
        WayBack::Unproven => v1::WayBack::Unproven,
        WayBack::Proven(_) => v1::WayBack::Proven,
        WayBack::Sampled(_) => v1::WayBack::Sampled,
        WayBack::Lossy(_) => v1::WayBack::Lossy,
        WayBack::Refuted(_) => v1::WayBack::Refuted,
    }
}

fn state(standing: Standing) -> v1::MigrationState {
    match standing {
        Standing::Pending => v1::MigrationState::Pending,
        Standing::Applied => v1::MigrationState::Applied,
        Standing::Baselined => v1::MigrationState::Baselined,
        Standing::Adopted(_) => v1::MigrationState::Adopted,
        Standing::Stopped(Direction::Up) => v1::MigrationState::StoppedUp,
        Standing::Stopped(Direction::Down) => v1::MigrationState::StoppedDown,
    }
}

/// How a folder stands on a target.
pub(in crate::grpc) fn status(status: &MigrationStatus) -> v1::MigrationStatus {
    let items = &status.standings.items;
    let applied = items.iter().filter(|item| item.standing.in_effect()).count();
    let last = status.standings.last_applied();
    let ledger = |(kind, table): &(dbkeep_engine::model::LedgerKind, String)| format!("{}: {table}", kind.tool());
    v1::MigrationStatus {
        target: status.target.clone(),
        folder: status.place.clone(),
        layout: status.collection.layout.name().to_owned(),
        layout_evidence: status.collection.evidence.clone(),
        warnings: status.collection.warnings.clone(),
        total_count: index(items.len()),
        applied_count: index(applied),
        pending_count: index(items.len() - applied),
        last_applied_id: last.map(|item| item.id.to_string()).unwrap_or_default(),
        last_apply_time: last.and_then(|item| item.applied_at).map(time::timestamp),
        problems: status.standings.problems.iter().map(problem).collect(),
        adopted_ledgers: status.standings.adopted.iter().map(ledger).collect(),
        ignored_ledgers: status.standings.ignored.iter().map(ledger).collect(),
    }
}

fn problem(problem: &Problem) -> v1::MigrationProblem {
    v1::MigrationProblem {
        code: problem.code.to_owned(),
        migration_id: problem.id.to_string(),
        message: problem.message.clone(),
        next_step: problem.next_step.clone(),
        blocks: problem.blocks,
    }
}

/// One migration with its statements.
pub(in crate::grpc) fn view(view: &MigrationView) -> v1::GetMigrationResponse {
    let shown = &view.status.standings.items[view.item];
    let migration = shown.index.and_then(|index| view.status.collection.migrations.get(index));
    let down = migration.and_then(|migration| migration.down.as_ref());
    let problems = view.status.standings.problems.iter();
    v1::GetMigrationResponse {
        migration: Some(item(&view.status, shown)),
        up: migration
            .map(|migration| statements(&migration.up, &view.up))
            .unwrap_or_default(),
        down: down.map(|script| statements(script, &view.down)).unwrap_or_default(),
        problems: problems.filter(|problem| problem.id == shown.id).map(problem).collect(),
    }
}

fn statements(script: &Script, impacts: &[Impact]) -> Vec<v1::PlannedStatement> {
    let groups = script.groups.iter();
    let each = groups.flat_map(|group| group.statements.iter().map(|statement| (group.atomic, statement)));
    each.zip(impacts)
        .map(|((atomic, statement), impact)| v1::PlannedStatement {
            line: statement.line,
            sql: statement.sql.clone(),
            kind: impact.kind.clone(),
            locks: impact.locks.iter().map(lock).collect(),
            work: work(impact.work).into(),
            changes_rows: impact.changes_rows,
            loses_data: impact.loses_data,
            reasons: impact.reasons.iter().map(reason).collect(),
            outside_transaction: !atomic,
        })
        .collect()
}

fn lock(lock: &TableLock) -> v1::MigrationLock {
    v1::MigrationLock {
        table: lock.table.clone(),
        mode: lock.mode.name().to_owned(),
    }
}

fn work(work: Work) -> v1::StatementWork {
    match work {
        Work::Catalog => v1::StatementWork::Catalog,
        Work::Rows => v1::StatementWork::Rows,
        Work::Scan => v1::StatementWork::Scan,
        Work::Build => v1::StatementWork::Build,
        Work::Rewrite => v1::StatementWork::Rewrite,
    }
}

fn risk(risk: Risk) -> v1::Risk {
    match risk {
        Risk::Low => v1::Risk::Low,
        Risk::Medium => v1::Risk::Medium,
        Risk::High => v1::Risk::High,
    }
}

fn reason(reason: &RiskReason) -> v1::RiskReason {
    v1::RiskReason {
        rule: reason.rule.clone(),
        risk: risk(reason.risk).into(),
        message: reason.message.clone(),
        help: reason.help.clone(),
    }
}

fn direction(direction: Direction) -> v1::MigrationDirection {
    match direction {
        Direction::Up => v1::MigrationDirection::Up,
        Direction::Down => v1::MigrationDirection::Down,
    }
}

/// A plan, as it stands on the target whose status is given.
pub(in crate::grpc) fn plan(status: &MigrationStatus, plan: &MigrationPlan) -> v1::MigrationPlan {
    v1::MigrationPlan {
        target: status.target.clone(),
        direction: direction(plan.direction).into(),
        steps: plan
            .steps
            .iter()
            .map(|step| plan_step(status, plan.direction, step))
            .collect(),
        problems: plan.problems.iter().map(problem).collect(),
        backup_first: plan.backup_first,
        estimated_duration: Some(time::milliseconds(plan.estimated_ms)),
        unestimated_count: plan.unestimated,
        transforming_count: plan.transforming,
        risk: risk(plan.risk).into(),
        token: plan.token.clone(),
        restore: plan.rewind.as_ref().map(restore),
    }
}

fn restore(rewind: &RewindPlan) -> v1::MigrationRestore {
    let table = |table: &TableAgainst| v1::RestoredTable {
        table: table.table.to_string(),
        backup_row_count: table.then,
        row_count: table.now,
    };
    v1::MigrationRestore {
        backup_id: rewind.backup.to_string(),
        backup_time: Some(time::timestamp(rewind.made_at)),
        tables: rewind.tables.iter().map(table).collect(),
        confirmation_phrase: rewind.phrase.clone(),
        approvals_required: rewind.approvals_required,
    }
}

fn plan_step(status: &MigrationStatus, direction: Direction, step: &PlanStep) -> v1::MigrationPlanStep {
    let script = match direction {
        Direction::Up => Some(&step.migration.up),
        Direction::Down => step.migration.down.as_ref(),
    };
    let found = status.standings.items.iter().find(|item| item.id == step.migration.id);
    v1::MigrationPlanStep {
        migration: found.map(|found| item(status, found)),
        statements: script.map(|script| statements(script, &step.impacts)).unwrap_or_default(),
        risk: risk(step.risk).into(),
        estimated_duration: step.estimated_ms.map(time::milliseconds),
        estimate_source: match step.estimated_by {
            EstimateSource::Rehearsal => v1::EstimateSource::Rehearsal,
            EstimateSource::Author => v1::EstimateSource::Author,
            EstimateSource::Size => v1::EstimateSource::Size,
            EstimateSource::Unknown => v1::EstimateSource::Unknown,
        }
        .into(),
        transforms_data: step.transforms_data,
        needs_backup: step.needs_backup,
        statements_done: step.statements_done,
    }
}

/// What became of one migration.
pub(super) fn report(report: MigrationReport) -> v1::MigrationReport {
    v1::MigrationReport {
        id: report.id.to_string(),
        name: report.name,
        direction: direction(report.direction).into(),
        statements: report.statements.into_iter().map(statement).collect(),
        statements_done: report.statements_done,
        statement_count: report.statements_total,
        lock_timeout_count: report.lock_timeouts,
        problem: report.problem.map(|problem| problem.to_string()).unwrap_or_default(),
        rehearsal: report.rehearsal.map(rehearsal),
    }
}

fn statement(report: StatementReport) -> v1::MigrationStatementReport {
    v1::MigrationStatementReport {
        statement: report.statement,
        line: report.line,
        excerpt: report.excerpt,
        duration: Some(time::milliseconds(report.duration_ms)),
        row_count: report.rows,
        locks: report.locks.iter().map(lock).collect(),
        locks_at_least: report.locks_at_least,
        rewritten: report.rewritten,
    }
}

fn rehearsal(rehearsal: Rehearsal) -> v1::RehearsalReport {
    v1::RehearsalReport {
        up_duration: Some(time::milliseconds(rehearsal.up_ms)),
        down_duration: rehearsal.has_down.then(|| time::milliseconds(rehearsal.down_ms)),
        size_change_bytes: rehearsal.size_change,
        row_count: rehearsal.rows,
        has_down: rehearsal.has_down,
        restored: rehearsal.restored,
        differences: rehearsal.differences,
        rows_lost: rehearsal
            .rows_lost
            .iter()
            .map(|lost| format!("{}: {} -> {}", lost.table, lost.before, lost.after))
            .collect(),
        violations: rehearsal.violations,
        loses_data: rehearsal.loses,
        schema_only: rehearsal.schema_only,
        whole_up_duration: rehearsal.whole_up_ms.map(time::milliseconds),
    }
}

/// How far a migration is.
pub(super) fn progress(progress: MigrationProgress) -> v1::MigrationProgress {
    v1::MigrationProgress {
        step_index: progress.step,
        migration_id: progress.id.to_string(),
        direction: direction(progress.direction).into(),
        phase: progress.phase,
        statement: progress.statement,
        statement_count: progress.statements,
        line: progress.line,
        excerpt: progress.excerpt,
        finished: progress.finished.map(statement),
    }
}

/// What is wrong with a ledger row.
pub(in crate::grpc) fn repair(repair: Repair) -> v1::RepairLedgerResponse {
    v1::RepairLedgerResponse {
        id: repair.id.to_string(),
        explanation: repair.explanation,
        proposals: repair
            .proposals
            .into_iter()
            .map(|proposal| v1::RepairProposal {
                action: repair_action(proposal.action).into(),
                effect: proposal.effect,
            })
            .collect(),
        done: repair.done.map_or(v1::RepairAction::Unspecified, repair_action).into(),
    }
}

fn repair_action(action: RepairAction) -> v1::RepairAction {
    match action {
        RepairAction::Retry => v1::RepairAction::Retry,
        RepairAction::Skip => v1::RepairAction::Skip,
        RepairAction::MarkApplied => v1::RepairAction::MarkApplied,
        RepairAction::MarkPending => v1::RepairAction::MarkPending,
        RepairAction::AcceptChecksum => v1::RepairAction::AcceptChecksum,
        RepairAction::DropInvalidIndex => v1::RepairAction::DropInvalidIndex,
    }
}

/// The action of a request; `None` where it only asks. What means nothing is noted in `check`.
pub(in crate::grpc) fn repair_action_of(number: i32, check: &mut Check) -> Option<RepairAction> {
    match v1::RepairAction::try_from(number) {
        Ok(wanted) => RepairAction::ALL.into_iter().find(|action| repair_action(*action) == wanted),
        Err(_) => {
            check.refuse(
                "action",
                format!("is {number}; expected an action, or REPAIR_ACTION_UNSPECIFIED to have it explained"),
            );
            None
        }
    }
}

/// The states of a filter. What means nothing is noted in `check`.
pub(in crate::grpc) fn states(numbers: &[i32], check: &mut Check) -> Vec<v1::MigrationState> {
    let mut states = Vec::new();
    for (position, number) in numbers.iter().enumerate() {
        match v1::MigrationState::try_from(*number) {
            Ok(v1::MigrationState::Unspecified) | Err(_) => check.refuse(
                format!("states[{position}]"),
                format!("is {number}; expected a state other than MIGRATION_STATE_UNSPECIFIED"),
            ),
            Ok(state) => states.push(state),
        }
    }
    states
}

/// Which migrations; what contradicts itself is noted in `check`.
pub(in crate::grpc) fn selection(selection: Option<v1::MigrationSelection>, check: &mut Check) -> Selection {
    let v1::MigrationSelection { to, migrations, steps } = selection.unwrap_or_default();
    let given = usize::from(!to.is_empty()) + usize::from(!migrations.is_empty()) + usize::from(steps > 0);
    if given > 1 {
        check.refuse(
            "selection",
            "has more than one of to, migrations and steps; expected at most one",
        );
    }
    if migrations.iter().any(String::is_empty) {
        check.refuse("selection.migrations", "holds an empty name; expected ids, versions or names");
    }
    if !to.is_empty() {
        Selection::To(to)
    } else if !migrations.is_empty() {
        Selection::Named(migrations)
    } else if steps > 0 {
        Selection::Steps(steps)
    } else {
        Selection::All
    }
}

/// How scripts are executed; what is out of bounds is noted in `check`.
pub(in crate::grpc) fn options(options: Option<v1::MigrationOptions>, check: &mut Check) -> MigrationOptions {
    let v1::MigrationOptions {
        lock_timeout,
        lock_tries,
        statement_timeout,
    } = options.unwrap_or_default();
    let default = MigrationOptions::default();
    let mut milliseconds = |field: &str, given: Option<prost_types::Duration>, otherwise: u64| {
        let Some(given) = given else { return otherwise };
        let whole = i128::from(given.seconds) * 1_000 + i128::from(given.nanos) / 1_000_000;
        u64::try_from(whole).unwrap_or_else(|_| {
            check.refuse(field, "is negative; expected a duration from 0");
            otherwise
        })
    };
    MigrationOptions {
        lock_timeout_ms: milliseconds("options.lock_timeout", lock_timeout, default.lock_timeout_ms),
        lock_tries: if lock_tries == 0 { default.lock_tries } else { lock_tries },
        statement_timeout_ms: milliseconds("options.statement_timeout", statement_timeout, default.statement_timeout_ms),
        ..default
    }
}

/// A file to be written.
pub(in crate::grpc) fn draft(file: SourceFile) -> v1::DraftFile {
    v1::DraftFile {
        path: file.path,
        text: String::from_utf8_lossy(&file.bytes).into_owned(),
    }
}
