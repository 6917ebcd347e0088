//! Migrations as tables for people: plans, statements, problems, and what became of them in a run.
//!
//! Owns the columns and the words. Called by `cmd/migrations/`, by `table.rs` for reports, and by `report/`.

use std::io;

use dbkeep_client::proto::{self, EstimateSource, MigrationDirection, MigrationState, Risk, RunKind, StatementWork, WayBack};
use indicatif::{HumanBytes, HumanCount};

use super::{cut, duration, or_dash, others, rows};
use crate::{
    duration::Words,
    json,
    output::{Output, Tone},
};

/// Characters of a statement that a plan shows: the point is to recognise it.
const EXCERPT: usize = 160;

/// Operation of the step that saves the database before migrations.
pub(crate) const BACKUP: &str = "backup";

/// Whether a run of this kind is about migrations.
pub(crate) fn is_migrating(kind: RunKind) -> bool {
    matches!(kind, RunKind::Migrate | RunKind::Rollback | RunKind::Rehearse)
}

/// "1 migration", "12 migrations".
pub(crate) fn migrations(count: usize) -> String {
    if count == 1 {
        "1 migration".to_owned()
    } else {
        format!("{count} migrations")
    }
}

/// Id and name, the name only where it says more.
pub(crate) fn title(id: &str, name: &str) -> String {
    if name.is_empty() || id.ends_with(name) {
        id.to_owned()
    } else {
        format!("{id} {name}")
    }
}

/// How the state of a migration looks.
pub(crate) fn state_tone(state: MigrationState) -> Tone {
    match state {
        MigrationState::Applied | MigrationState::Baselined | MigrationState::Adopted => Tone::Good,
        MigrationState::StoppedUp | MigrationState::StoppedDown => Tone::Bad,
        MigrationState::Pending | MigrationState::Unspecified => Tone::Strong,
    }
}

/// The state of a migration in words.
pub(crate) fn state(migration: &proto::Migration) -> String {
    let word = json::migration_state(migration.state()).replace('_', " ");
    match migration.adopted_from.as_str() {
        "" if migration.out_of_order => format!("{word}, out of order"),
        "" => word,
        tool => format!("{word} from {tool}"),
    }
}

/// How a way back looks.
pub(crate) fn way_back_tone(way_back: WayBack) -> Tone {
    match way_back {
        WayBack::Proven => Tone::Good,
        WayBack::Refuted => Tone::Bad,
        WayBack::Absent | WayBack::Empty | WayBack::Unproven | WayBack::Sampled | WayBack::Lossy => Tone::Warn,
        WayBack::Unspecified => Tone::Dim,
    }
}

fn risk_tone(risk: Risk) -> Tone {
    match risk {
        Risk::Low => Tone::Good,
        Risk::Medium => Tone::Warn,
        Risk::High => Tone::Bad,
        Risk::Unspecified => Tone::Dim,
    }
}

/// Prints problems, each with its next step.
pub(crate) fn problems(problems: &[proto::MigrationProblem], output: &Output) -> io::Result<()> {
    for problem in problems {
        let (tone, word) = if problem.blocks {
            (Tone::Bad, "block")
        } else {
            (Tone::Warn, "note ")
        };
        output.line(format_args!(
            "  {} {} {}",
            output.paint(tone, word),
            problem.code,
            output.paint(tone, &problem.message)
        ))?;
        if !problem.next_step.is_empty() {
            output.line(format_args!(
                "        {}",
                output.paint(Tone::Dim, &format!("next: {}", problem.next_step))
            ))?;
        }
    }
    Ok(())
}

/// Prints statements: where they are, what they are, and what each will do.
pub(crate) fn statements(statements: &[proto::PlannedStatement], done: u32, output: &Output) -> io::Result<()> {
    let done = usize::try_from(done).unwrap_or(usize::MAX);
    for (position, statement) in statements.iter().enumerate() {
        let sql = cut(&statement.sql.split_whitespace().collect::<Vec<_>>().join(" "), EXCERPT);
        let tone = if position < done { Tone::Dim } else { Tone::Strong };
        output.line(format_args!("  line {}: {}", statement.line, output.paint(tone, &sql)))?;
        let mut effects = effects(statement);
        if position < done {
            effects.insert(0, "in effect already".to_owned());
        }
        output.line(format_args!("      {}", output.paint(Tone::Dim, &effects.join("; "))))?;
        for reason in &statement.reasons {
            output.line(format_args!(
                "      {} {}: {}",
                output.paint(risk_tone(reason.risk()), &format!("{} risk", json::risk(reason.risk()))),
                reason.rule,
                output.paint(risk_tone(reason.risk()), &reason.message)
            ))?;
            if !reason.help.is_empty() {
                output.line(format_args!("          {}", output.paint(Tone::Dim, &reason.help)))?;
            }
        }
    }
    Ok(())
}

/// What a statement will do, in a few words each.
fn effects(statement: &proto::PlannedStatement) -> Vec<String> {
    let mut effects = Vec::new();
    let work = match statement.work() {
        StatementWork::Catalog => "only the catalog",
        StatementWork::Rows => "the rows that its condition picks",
        StatementWork::Scan => "reads every row",
        StatementWork::Build => "builds an index",
        StatementWork::Rewrite => "writes every row anew",
        StatementWork::Unspecified => "work unknown",
    };
    effects.push(work.to_owned());
    effects.push(if statement.locks.is_empty() {
        "no lock on a table".to_owned()
    } else {
        format!("locks {}", locks(&statement.locks))
    });
    if statement.changes_rows {
        effects.push("changes rows".to_owned());
    }
    if statement.loses_data {
        effects.push("loses data".to_owned());
    }
    if statement.outside_transaction {
        effects.push("outside of a transaction".to_owned());
    }
    effects
}

/// "users ACCESS EXCLUSIVE, orders SHARE"; the whole database has no table's name.
fn locks(locks: &[proto::MigrationLock]) -> String {
    let lock = |lock: &proto::MigrationLock| match lock.table.as_str() {
        "*" => format!("the database {}", lock.mode),
        table => format!("{table} {}", lock.mode),
    };
    locks.iter().map(lock).collect::<Vec<_>>().join(", ")
}

/// Prints a plan: each migration with its statements, then the sums, and what stands in the way.
pub(crate) fn plan(plan: &proto::MigrationPlan, output: &Output) -> io::Result<()> {
    for (position, step) in plan.steps.iter().enumerate() {
        let migration = step.migration.clone().unwrap_or_default();
        let file = match plan.direction() {
            MigrationDirection::Down => &migration.down_file,
            _ => &migration.up_file,
        };
        output.line(format_args!(
            "{}. {} {}",
            position + 1,
            output.paint(Tone::Strong, &title(&migration.id, &migration.name)),
            output.paint(Tone::Dim, file)
        ))?;
        output.line(format_args!(
            "  {}; {}; way back {}{}{}",
            output.paint(risk_tone(step.risk()), &format!("risk {}", json::risk(step.risk()))),
            estimate(step),
            output.paint(way_back_tone(migration.way_back()), &json::way_back(migration.way_back())),
            if step.transforms_data { "; changes rows" } else { "" },
            if step.needs_backup { "; wants a backup first" } else { "" },
        ))?;
        if !migration.depends_on.is_empty() {
            output.line(format_args!("  needs {}", migration.depends_on.join(", ")))?;
        }
        statements(&step.statements, step.statements_done, output)?;
    }
    output.line(output.paint(Tone::Strong, &totals(plan)))?;
    if let Some(found) = &plan.restore {
        restore(found, output)?;
    }
    problems(&plan.problems, output)
}

/// Prints what going back to a backup loses.
fn restore(restore: &proto::MigrationRestore, output: &Output) -> io::Result<()> {
    let when = json::time(restore.backup_time.as_ref()).unwrap_or_default();
    output.line(output.paint(
        Tone::Bad,
        &format!(
            "Everything goes back to backup {} of {when}. Lost is whatever was written since, also in rows that no count shows:",
            restore.backup_id
        ),
    ))?;
    let mut table = output.table(["TABLE", "IN THE BACKUP", "NOW", ""]);
    for found in &restore.tables {
        let count = |rows: Option<u64>| rows.map_or_else(|| "-".to_owned(), |rows| HumanCount(rows).to_string());
        let (then, now) = (found.backup_row_count, found.row_count);
        let (tone, what) = match (then, now) {
            (None, _) => (Tone::Bad, "is dropped".to_owned()),
            (Some(_), None) => (Tone::Good, "is made again".to_owned()),
            (Some(then), Some(now)) if now > then => (Tone::Warn, format!("{} fewer", rows(now - then))),
            (Some(then), Some(now)) if now < then => (Tone::Good, format!("{} more", rows(then - now))),
            _ => (Tone::Dim, String::new()),
        };
        table.add_row([
            output.cell(Tone::Strong, &found.table),
            output.number(Tone::Dim, count(then)),
            output.number(Tone::Dim, count(now)),
            output.cell(tone, what),
        ]);
    }
    output.line(table)?;
    output.line(format_args!(
        "Confirmation phrase: {}",
        output.paint(Tone::Strong, &restore.confirmation_phrase)
    ))?;
    if restore.approvals_required > 0 {
        output.line(format_args!(
            "Then {} has to approve the run: dbkeep --principal NAME runs approve RUN",
            others(restore.approvals_required)
        ))?;
    }
    Ok(())
}

/// "about 3 s (rehearsal)", "nobody knows how long".
fn estimate(step: &proto::MigrationPlanStep) -> String {
    match (json::span(step.estimated_duration.as_ref()), step.estimate_source()) {
        (Some(span), EstimateSource::Unknown | EstimateSource::Unspecified) => format!("about {}", Words(span)),
        (Some(span), source) => {
            let by = match source {
                EstimateSource::Rehearsal => "measured by a rehearsal",
                EstimateSource::Author => "said its author",
                _ => "by the size of its tables",
            };
            format!("about {} ({by})", Words(span))
        }
        (None, _) => "nobody can tell how long".to_owned(),
    }
}

/// The sums of a plan in one sentence.
fn totals(plan: &proto::MigrationPlan) -> String {
    let act = match plan.direction() {
        MigrationDirection::Down => "to take back on",
        _ => "to apply on",
    };
    let mut text = format!("{} {act} {}", migrations(plan.steps.len()), plan.target);
    if plan.steps.is_empty() && plan.restore.is_none() {
        return text;
    }
    text.push_str(&format!(", risk {}", json::risk(plan.risk())));
    if let Some(span) = json::span(plan.estimated_duration.as_ref()).filter(|span| !span.is_zero()) {
        text.push_str(&format!(", about {}", Words(span)));
    }
    if plan.unestimated_count > 0 {
        text.push_str(&format!(", {} of unknown length", plan.unestimated_count));
    }
    if plan.transforming_count > 0 {
        let verb = if plan.transforming_count == 1 { "changes" } else { "change" };
        text.push_str(&format!(", {} that {verb} rows", plan.transforming_count));
    }
    text.push_str(if plan.backup_first {
        "; the whole database is saved first"
    } else {
        "; no backup first"
    });
    text
}

/// Whether a migration ended as it should have.
pub(crate) fn is_done(report: &proto::MigrationReport) -> bool {
    report.problem.is_empty() && report.statements_done >= report.statement_count
}

/// Prints what became of the migrations of a run.
pub(crate) fn report(run: &proto::Run, report: &proto::RunReport, output: &Output) -> io::Result<()> {
    if report.migrations.is_empty() {
        return Ok(());
    }
    if run.kind() == RunKind::Rehearse {
        return rehearsals(report, output);
    }
    let mut table = output.table(["MIGRATION", "DIRECTION", "STATEMENTS", "ROWS", "TIME", "LOCK TIMEOUTS"]);
    for migration in &report.migrations {
        let tone = if is_done(migration) { Tone::Good } else { Tone::Bad };
        let changed = migration.statements.iter().map(|statement| statement.row_count).sum();
        let time = migration
            .statements
            .iter()
            .filter_map(|statement| json::span(statement.duration.as_ref()))
            .sum();
        let timeouts = migration.lock_timeout_count;
        table.add_row([
            output.cell(Tone::Strong, title(&migration.id, &migration.name)),
            output.cell(Tone::Dim, json::migration_direction(migration.direction())),
            output.number(
                tone,
                format_args!("{} of {}", migration.statements_done, migration.statement_count),
            ),
            output.number(Tone::Strong, HumanCount(changed)),
            output.number(Tone::Dim, Words(time)),
            output.number(if timeouts == 0 { Tone::Dim } else { Tone::Warn }, timeouts),
        ]);
    }
    output.line(table)?;
    failures(report, output)
}

/// Prints what a rehearsal found: a row for each migration, then its locks and what was not as it should be.
fn rehearsals(report: &proto::RunReport, output: &Output) -> io::Result<()> {
    let mut table = output.table(["MIGRATION", "UP", "DOWN", "ROWS", "SIZE", "COMES BACK"]);
    for migration in &report.migrations {
        let Some(found) = &migration.rehearsal else {
            table.add_row([
                output.cell(Tone::Strong, title(&migration.id, &migration.name)),
                output.cell(Tone::Bad, "not finished"),
            ]);
            continue;
        };
        let (tone, comes_back) = match (found.has_down, found.restored) {
            _ if !migration.problem.is_empty() => (Tone::Bad, "failed"),
            (false, _) => (Tone::Warn, "no way back"),
            (true, true) if found.schema_only => (Tone::Warn, "without rows"),
            (true, true) if found.whole_up_duration.is_some() => (Tone::Warn, "for a sample"),
            (true, true) => (Tone::Good, "yes"),
            (true, false) if found.differences.is_empty() && !found.loses_data.is_empty() => (Tone::Warn, "without its data"),
            (true, false) => (Tone::Bad, "no"),
        };
        table.add_row([
            output.cell(Tone::Strong, title(&migration.id, &migration.name)),
            output.number(Tone::Dim, up_time(found)),
            output.number(Tone::Dim, duration(found.down_duration.as_ref())),
            output.number(Tone::Dim, HumanCount(found.row_count)),
            output.number(Tone::Dim, size_change(found.size_change_bytes)),
            output.cell(tone, comes_back),
        ]);
    }
    output.line(table)?;
    for migration in &report.migrations {
        rehearsal(migration, output)?;
    }
    failures(report, output)
}

/// What the up script took, and what it would take with all rows.
fn up_time(found: &proto::RehearsalReport) -> String {
    let took = duration(found.up_duration.as_ref());
    match &found.whole_up_duration {
        Some(whole) => format!("{took}, whole about {}", duration(Some(whole))),
        None => took,
    }
}

fn rehearsal(migration: &proto::MigrationReport, output: &Output) -> io::Result<()> {
    let noteworthy =
        |statement: &&proto::MigrationStatementReport| !statement.locks.is_empty() || !statement.rewritten.is_empty();
    let found = migration.rehearsal.clone().unwrap_or_default();
    let wrong = [
        ("different after up and down", &found.differences),
        ("data that down loses", &found.loses_data),
        ("lost rows although nothing deletes them", &found.rows_lost),
        ("violated by rows", &found.violations),
    ];
    let statements: Vec<_> = migration.statements.iter().filter(noteworthy).collect();
    if statements.is_empty() && wrong.iter().all(|(_, what)| what.is_empty()) {
        return Ok(());
    }
    output.line(output.paint(Tone::Strong, &title(&migration.id, &migration.name)))?;
    for statement in statements {
        output.line(format_args!(
            "  line {}: {} in {}, {}; locked {}{}{}",
            statement.line,
            output.paint(Tone::Strong, &statement.excerpt),
            duration(statement.duration.as_ref()),
            rows(statement.row_count),
            if statement.locks_at_least { "at least " } else { "" },
            or_dash(&locks(&statement.locks)),
            if statement.rewritten.is_empty() {
                String::new()
            } else {
                output.paint(Tone::Warn, &format!("; wrote {} anew", statement.rewritten.join(", ")))
            }
        ))?;
    }
    for (what, names) in wrong {
        for name in names {
            output.line(output.paint(Tone::Bad, &format!("  {what}: {name}")))?;
        }
    }
    Ok(())
}

/// Whether the message of a step says again what is said of its migration.
pub(crate) fn is_told(step: &proto::StepReport, report: &proto::RunReport) -> bool {
    let mut problems = report.migrations.iter().map(|migration| migration.problem.as_str());
    problems.any(|problem| !problem.is_empty() && step.message.starts_with(problem))
}

fn failures(report: &proto::RunReport, output: &Output) -> io::Result<()> {
    for migration in report.migrations.iter().filter(|migration| !migration.problem.is_empty()) {
        output.line(output.paint(
            Tone::Bad,
            &format!("{}: {}", title(&migration.id, &migration.name), migration.problem),
        ))?;
    }
    Ok(())
}

/// "+1.50 MiB", "-8 B", "0 B".
fn size_change(bytes: i64) -> String {
    let sign = match bytes {
        0 => "",
        1.. => "+",
        _ => "-",
    };
    format!("{sign}{}", HumanBytes(bytes.unsigned_abs()))
}

/// What a run did with migrations, in one sentence.
pub(crate) fn sum(run: &proto::Run, report: &proto::RunReport) -> String {
    let of = |count: usize, verb: &str| format!("{} {verb}", migrations(count));
    let done = report.migrations.iter().filter(|migration| is_done(migration)).count();
    let mut text = match run.kind() {
        RunKind::Rehearse => {
            let found = report
                .migrations
                .iter()
                .filter(|migration| migration.problem.is_empty())
                .filter_map(|migration| migration.rehearsal.as_ref())
                .collect::<Vec<_>>();
            let restored = found.iter().filter(|found| found.restored).count();
            format!("{}, {restored} of them come back", of(found.len(), "rehearsed"))
        }
        RunKind::Rollback => of(done, "taken back"),
        _ => of(done, "applied"),
    };
    // The backup before them has a step, and rows, too.
    let of_migrations = report.steps.iter().filter(|step| step.operation != BACKUP);
    let changed = of_migrations.map(|step| step.rows_affected).sum();
    if changed > 0 {
        text.push_str(&format!(", {} changed", rows(changed)));
    }
    if let Some(span) = json::span(report.duration.as_ref()) {
        text.push_str(&format!(", {} at work", Words(span)));
    }
    text
}

#[cfg(test)]
mod tests;
