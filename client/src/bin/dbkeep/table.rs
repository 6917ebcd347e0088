//! Plans, runs and their parts as tables for people.
//!
//! Owns the columns and the wording that more than one command shows. Where they are written is `output.rs`; lists that only
//! one command has are in that command's file. Migrations are `table/migration.rs`,
//! schedules `table/schedule.rs`, sizes and recommendations `table/sizes.rs`.

pub(crate) mod migration;
pub(crate) mod schedule;
pub(crate) mod sizes;

use std::io;

use dbkeep_client::proto::{self, ChildAction, FindingLevel, RunKind, RunState, StepState};
use indicatif::{HumanBytes, HumanCount};

use crate::{
    duration::Words,
    json, next,
    output::{Output, Tone},
    session::Session,
};

/// An instant in UTC to the second; a dash where there is none.
pub(crate) fn instant(timestamp: Option<&prost_types::Timestamp>) -> String {
    json::instant(timestamp).map_or_else(|| "-".to_owned(), |instant| instant.strftime("%F %TZ").to_string())
}

/// A duration in words; a dash where there is none.
pub(crate) fn duration(duration: Option<&prost_types::Duration>) -> String {
    json::span(duration).map_or_else(|| "-".to_owned(), |span| Words(span).to_string())
}

/// A dash in place of nothing.
pub(crate) fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// What a run of this kind did to the rows of a step, or to its files.
pub(crate) fn deed(kind: RunKind, step: &proto::StepReport) -> &'static str {
    match (kind, step.action.as_str()) {
        (RunKind::Cleanup, _) if is_root(&step.table) => "moved to the trash",
        (RunKind::Cleanup, "delete") => "deleted",
        (RunKind::Cleanup, "archive") => "archived",
        (RunKind::Cleanup, "update") => "updated",
        (RunKind::Cleanup, "nullify") => "set to NULL",
        _ => verb(kind),
    }
}

/// What a run of this kind does to a row, whatever its steps are.
pub(crate) fn verb(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Cleanup => "affected",
        RunKind::Undo => "put back",
        RunKind::Verify | RunKind::Maintain => "proven",
        RunKind::Backup => "saved",
        RunKind::Restore => "restored",
        RunKind::Migrate | RunKind::Rollback | RunKind::Rehearse => "changed",
        RunKind::Unspecified => "done",
    }
}

/// How a run's state looks.
pub(crate) fn state_tone(state: RunState) -> Tone {
    match state {
        RunState::Succeeded => Tone::Good,
        RunState::Failed => Tone::Bad,
        RunState::PartiallySucceeded
        | RunState::Cancelled
        | RunState::Cancelling
        | RunState::Interrupted
        | RunState::Pausing
        | RunState::Paused => Tone::Warn,
        RunState::Running | RunState::Queued | RunState::Unspecified => Tone::Strong,
    }
}

/// A run's state in words.
pub(crate) fn state(state: RunState) -> String {
    json::run_state(state).replace('_', " ")
}

/// Limits of a run in words.
pub(crate) fn limits(limits: &proto::RunLimits) -> String {
    let rate = match limits.max_rows_per_second {
        0 => String::new(),
        rows => format!(", at most {}/s", self::rows(rows.into())),
    };
    let duty = match limits.duty_cycle_percent {
        100 => "full speed".to_owned(),
        percent => format!("at work {percent} % of the time"),
    };
    format!("batches of {}, {duty}{rate}", rows(limits.batch_size.into()))
}

/// Prints a plan: what would go, findings, up to `samples` rows of each step, and how to run it.
pub(crate) fn plan(plan: &proto::Plan, samples: usize, output: &Output) -> io::Result<()> {
    let mut table = output.table(["STEP", "OPERATION", "RULE", "TABLE", "ROWS", "OF", "CAPTURE", "EXPECTED"]);
    for step in &plan.steps {
        let of = format!(
            "{}{}",
            if step.table_row_count_exact { "" } else { "~" },
            HumanCount(step.table_row_count)
        );
        let capture = if step.captured {
            format!("~{}", HumanBytes(step.capture_bytes))
        } else {
            "no".to_owned()
        };
        table.add_row([
            output.number(Tone::Dim, u64::from(step.index) + 1),
            output.cell(Tone::Strong, &step.operation),
            output.cell(Tone::Dim, &step.rule),
            output.cell(Tone::Strong, &step.table),
            output.cell(
                if step.row_count == 0 { Tone::Good } else { Tone::Warn },
                HumanCount(step.row_count),
            ),
            output.cell(Tone::Dim, of),
            output.cell(if step.captured { Tone::Good } else { Tone::Warn }, capture),
            output.cell(Tone::Dim, duration(step.expected_duration.as_ref())),
        ]);
    }
    output.line(table)?;
    for step in &plan.steps {
        step_detail(step, samples, output)?;
    }
    output.line(format_args!(
        "\n{}{} of {}, severity {}; {}",
        output.paint(Tone::Strong, &amount(plan)),
        if plan.along_row_count == 0 {
            String::new()
        } else {
            format!(" and {} that hang on them", rows(plan.along_row_count))
        },
        output.paint(Tone::Strong, &plan.target),
        json::severity(plan.severity()),
        if plan.capture_bytes == 0 {
            "no backup, so that it cannot be undone".to_owned()
        } else {
            format!("about {} go to the backup first", HumanBytes(plan.capture_bytes))
        },
    ))?;
    if !plan.confirmation_phrase.is_empty() {
        let phrase = output.paint(Tone::Strong, &plan.confirmation_phrase);
        output.line(format_args!("Confirmation phrase: {phrase}"))?;
    }
    if plan.blocked {
        output.line(output.paint(
            Tone::Bad,
            "Blocked: a run of this plan would be refused. See the findings above.",
        ))?;
    }
    Ok(())
}

/// The option of `dbkeep run` that carries a plan's confirmation phrase, quoted for a shell; nothing where it has none.
pub(crate) fn phrase_option(plan: &proto::Plan) -> String {
    if plan.confirmation_phrase.is_empty() {
        return String::new();
    }
    format!(" --phrase '{}'", plan.confirmation_phrase.replace('\'', "'\\''"))
}

/// "somebody else", or how many others.
pub(crate) fn others(approvals: u32) -> String {
    match approvals {
        1 => "somebody else".to_owned(),
        number => format!("each of {number} others"),
    }
}

/// What a plan would take.
pub(crate) fn amount(plan: &proto::Plan) -> String {
    of_tables(plan.steps.iter().map(|step| (step.table.as_str(), step.row_count)))
}

/// "1 row", "12,000 rows".
pub(crate) fn rows(count: u64) -> String {
    if count == 1 {
        "1 row".to_owned()
    } else {
        format!("{} rows", HumanCount(count))
    }
}

/// What an amount is of, by what its table is called: "12 rows", or "12 files" of a root.
pub(crate) fn of_table(table: &str, count: u64) -> String {
    if !is_root(table) {
        rows(count)
    } else if count == 1 {
        "1 file".to_owned()
    } else {
        format!("{} files", HumanCount(count))
    }
}

/// The same of several tables together: "12 rows and 1 file".
pub(crate) fn of_tables<'a>(parts: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let (mut rows, mut files) = (None, None);
    for (table, count) in parts {
        let sum = if is_root(table) { &mut files } else { &mut rows };
        *sum = Some(sum.unwrap_or(0) + count);
    }
    match (rows, files) {
        (rows, None) => of_table("", rows.unwrap_or(0)),
        (None, Some(files)) => of_table(ROOT, files),
        (Some(rows), Some(files)) => format!("{} and {}", of_table("", rows), of_table(ROOT, files)),
    }
}

/// How the name of a table begins that stands for a root.
const ROOT: &str = "files:";

/// Whether a table's name stands for a root.
pub(crate) fn is_root(table: &str) -> bool {
    table.starts_with(ROOT)
}

fn step_detail(step: &proto::PlanStep, samples: usize, output: &Output) -> io::Result<()> {
    if step.row_count == 0 && step.findings.is_empty() {
        return Ok(());
    }
    output.line(format_args!(
        "\nStep {}: {}",
        u64::from(step.index) + 1,
        output.paint(Tone::Strong, &step.description)
    ))?;
    if let Some(horizon) = &step.horizon {
        let what = if is_root(&step.table) {
            "files last written"
        } else {
            "rows older"
        };
        let than = if is_root(&step.table) { "before" } else { "than" };
        output.line(format_args!("  {what} {than} {}", instant(Some(horizon))))?;
    }
    for child in &step.children {
        let what = match child.action() {
            ChildAction::SetNull => "lose the row they name",
            ChildAction::Delete | ChildAction::Unspecified => "go along",
        };
        output.line(format_args!(
            "  {} of {} {what} ({})",
            rows(child.row_count),
            output.paint(Tone::Strong, &child.table),
            child.constraint
        ))?;
    }
    for finding in &step.findings {
        let (tone, word) = match finding.level() {
            FindingLevel::Block => (Tone::Bad, "block"),
            FindingLevel::Warn => (Tone::Warn, "warn "),
            FindingLevel::Info | FindingLevel::Unspecified => (Tone::Dim, "info "),
        };
        output.line(format_args!(
            "  {} {} {}",
            output.paint(tone, word),
            finding.code,
            output.paint(tone, &finding.detail)
        ))?;
        if !finding.remediation.is_empty() {
            output.line(format_args!("        {}", output.paint(Tone::Dim, &finding.remediation)))?;
        }
    }
    for row in step.samples.iter().take(samples) {
        output.line(format_args!("  {}", output.paint(Tone::Dim, &sample(row))))?;
    }
    Ok(())
}

/// A row on one line. Values are cut, and the line too: the point is to recognise the row.
fn sample(row: &proto::SampleRow) -> String {
    let mut line = String::new();
    for value in &row.values {
        let text = value.value.as_deref().map_or("NULL".into(), |text| cut(text, 40));
        line.push_str(&format!("{}={} ", value.column, text.replace('\n', "\\n")));
    }
    cut(line.trim_end(), 200)
}

fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Prints commands that fit the run's state.
pub(crate) fn next_steps(run: &proto::Run, session: &Session) -> io::Result<()> {
    for next in next::steps(run) {
        let command = session.command(&next.arguments);
        session.output.line(format_args!("{}: {command}", next.purpose))?;
    }
    Ok(())
}

/// Prints what each operation did. A run of one step needs no sums.
fn operations(run: &proto::Run, report: &proto::RunReport, output: &Output) -> io::Result<()> {
    if report.steps.len() < 2 || report.operations.is_empty() {
        return Ok(());
    }
    let is_dry = run.kind() == RunKind::Cleanup && is_dry_run(run);
    let mut table = output.table([
        "OPERATION",
        "CATEGORY",
        "SEVERITY",
        "RESULT",
        "PLANNED",
        if is_dry { "WOULD GO" } else { "DONE" },
        "BACKED UP",
        "ERRORS",
        "WARNINGS",
        "TIME",
        "EXPECTED",
    ]);
    for operation in &report.operations {
        let worth_a_look = |count: u64| if count == 0 { Tone::Dim } else { Tone::Warn };
        let done = if is_dry {
            operation.rows_planned
        } else {
            operation.rows_affected
        };
        table.add_row([
            output.cell(Tone::Strong, &operation.operation),
            output.cell(Tone::Dim, or_dash(&operation.category)),
            output.cell(Tone::Dim, severity(operation.severity())),
            output.cell(step_tone(operation.state()), json::step_state(operation.state())),
            output.number(Tone::Dim, HumanCount(operation.rows_planned)),
            output.number(Tone::Strong, HumanCount(done)),
            output.number(Tone::Dim, HumanCount(operation.rows_captured)),
            output.number(worth_a_look(operation.error_count.into()), operation.error_count),
            output.number(worth_a_look(operation.warning_count), HumanCount(operation.warning_count)),
            output.cell(Tone::Dim, duration(operation.duration.as_ref())),
            output.cell(Tone::Dim, duration(operation.expected_duration.as_ref())),
        ]);
    }
    output.line(table)
}

/// A severity in words; a dash where it is unknown.
pub(crate) fn severity(severity: proto::Severity) -> String {
    match severity {
        proto::Severity::Unspecified => "-".to_owned(),
        known => json::severity(known),
    }
}

/// How the state of a step or an operation looks.
pub(crate) fn step_tone(state: StepState) -> Tone {
    match state {
        StepState::Succeeded => Tone::Good,
        StepState::Failed => Tone::Bad,
        StepState::Partial | StepState::Skipped => Tone::Warn,
        StepState::Pending | StepState::Running | StepState::Unspecified => Tone::Dim,
    }
}

/// Prints what each step did, and what went with it.
fn steps(report: &proto::RunReport, is_dry: bool, output: &Output) -> io::Result<()> {
    let done = if is_dry { "WOULD GO" } else { "DONE" };
    let mut table = output.table([
        "STEP",
        "OPERATION",
        "RULE",
        "TABLE",
        "STATE",
        "PLANNED",
        done,
        "BACKED UP",
        "LEFT",
        "TIME",
    ]);
    for step in &report.steps {
        let tone = step_tone(step.state());
        let left = step.rows_remaining + step.rows_conflicting;
        table.add_row([
            output.number(Tone::Dim, u64::from(step.index) + 1),
            output.cell(Tone::Strong, &step.operation),
            output.cell(Tone::Dim, &step.rule),
            output.cell(Tone::Strong, &step.table),
            output.cell(tone, json::step_state(step.state())),
            output.number(Tone::Dim, HumanCount(step.rows_planned)),
            output.cell(
                Tone::Strong,
                HumanCount(if is_dry { step.rows_planned } else { step.rows_affected }),
            ),
            output.number(Tone::Dim, HumanCount(step.rows_captured)),
            output.cell(if left == 0 { Tone::Dim } else { Tone::Warn }, HumanCount(left)),
            output.cell(Tone::Dim, duration(step.duration.as_ref())),
        ]);
    }
    if !report.steps.is_empty() {
        output.line(table)?;
    }
    for step in &report.steps {
        for along in &step.along {
            output.line(format_args!(
                "step {}: {} of {} with them{}",
                u64::from(step.index) + 1,
                rows(along.rows_deleted + along.rows_nullified),
                along.table,
                if along.rows_nullified == 0 {
                    String::new()
                } else {
                    format!(
                        ", {} of which stay without the row they named",
                        HumanCount(along.rows_nullified)
                    )
                }
            ))?;
        }
    }
    Ok(())
}

/// Prints what a run did: one line per operation, one per step, warnings, and the sum.
pub(crate) fn report(run: &proto::Run, output: &Output) -> io::Result<()> {
    let empty = proto::RunReport::default();
    let report = run.report.as_ref().unwrap_or(&empty);
    let is_dry = run.kind() == RunKind::Cleanup && is_dry_run(run);
    if migration::is_migrating(run.kind()) {
        migration::report(run, report, output)?;
    } else {
        operations(run, report, output)?;
        steps(report, is_dry, output)?;
    }
    for step in report
        .steps
        .iter()
        .filter(|step| !step.message.is_empty() && !migration::is_told(step, report))
    {
        output.line(output.paint(Tone::Warn, &format!("step {}: {}", u64::from(step.index) + 1, step.message)))?;
    }
    for space in &report.space {
        output.line(format_args!(
            "space of {}: {} reusable ({}), {} returned to the system{}",
            output.paint(Tone::Strong, &space.table),
            HumanBytes(space.bytes_reusable),
            space.reusable_by,
            HumanBytes(space.bytes_returned),
            if space.note.is_empty() {
                String::new()
            } else {
                output.paint(Tone::Dim, &format!("; {}", space.note))
            },
        ))?;
    }
    sizes::print(report, output)?;
    for warning in &report.warnings {
        output.line(output.paint(Tone::Warn, &format!("warning {}: {}", warning.code, warning.message)))?;
    }
    sizes::recommend(&report.recommendations, output)?;
    output.line(format_args!(
        "Run {} {}{}: {}",
        run.id,
        output.paint(state_tone(run.state()), &state(run.state())),
        if run.state_reason.is_empty() {
            String::new()
        } else {
            output.paint(Tone::Dim, &format!(" ({})", run.state_reason))
        },
        output.paint(Tone::Strong, &sum(run, report, is_dry)),
    ))
}

/// Whether a run only plans. An absent option means it, as in `RunOptions.dry_run`.
pub(crate) fn is_dry_run(run: &proto::Run) -> bool {
    run.options.as_ref().and_then(|options| options.dry_run).unwrap_or(true)
}

/// What built-in maintenance did: of its tasks, and of the rows that its proofs read.
fn tasks(report: &proto::RunReport) -> String {
    let done = report
        .steps
        .iter()
        .filter(|step| step.state() == StepState::Succeeded)
        .count();
    let of = match report.steps.len() {
        1 => "1 task".to_owned(),
        number => format!("{number} tasks"),
    };
    match report.rows_affected {
        0 => format!("{done} of {of} done"),
        proven => format!("{done} of {of} done, {} {}", rows(proven), verb(RunKind::Maintain)),
    }
}

/// What a run did to how many rows and files: "12,000 rows deleted, 3 rows updated, 1 file moved to the trash".
pub(crate) fn done(kind: RunKind, report: &proto::RunReport) -> String {
    told(kind, report, (|step| step.rows_affected, report.rows_affected), "")
}

/// The same of a number of each step, and its sum where no step tells more; `auxiliary` stands before what is done, such as "would be ".
fn told(kind: RunKind, report: &proto::RunReport, of: (fn(&proto::StepReport) -> u64, u64), auxiliary: &str) -> String {
    let (number, sum) = of;
    if kind != RunKind::Cleanup || report.steps.is_empty() {
        return format!("{} {auxiliary}{}", of_steps(report, number, sum), verb(kind));
    }
    let mut sums: Vec<(&str, &proto::StepReport, u64)> = Vec::new();
    for step in &report.steps {
        let deed = deed(kind, step);
        let alike = |(known, first, _): &&mut (&str, &proto::StepReport, u64)| {
            *known == deed && is_root(&first.table) == is_root(&step.table)
        };
        match sums.iter_mut().find(alike) {
            Some((.., sum)) => *sum += number(step),
            None => sums.push((deed, step, number(step))),
        }
    }
    let parts = sums
        .iter()
        .map(|(deed, step, sum)| format!("{} {auxiliary}{deed}", of_table(&step.table, *sum)));
    parts.collect::<Vec<_>>().join(", ")
}

/// A number of the steps together; `sum` is what the report says where all of it is rows.
fn of_steps(report: &proto::RunReport, number: fn(&proto::StepReport) -> u64, sum: u64) -> String {
    if report.steps.iter().any(|step| is_root(&step.table)) {
        of_tables(report.steps.iter().map(|step| (step.table.as_str(), number(step))))
    } else {
        rows(sum)
    }
}

/// What a run did to rows or files, where it did one thing alone.
pub(crate) fn only_deed(kind: RunKind, report: &proto::RunReport) -> Option<&'static str> {
    let (first, rest) = report.steps.split_first()?;
    let only = deed(kind, first);
    rest.iter().all(|step| deed(kind, step) == only).then_some(only)
}

pub(crate) fn sum(run: &proto::Run, report: &proto::RunReport, is_dry: bool) -> String {
    if migration::is_migrating(run.kind()) {
        return migration::sum(run, report);
    }
    if is_dry {
        let planned = told(
            run.kind(),
            report,
            (|step| step.rows_planned, report.rows_planned),
            "would be ",
        );
        return format!("{planned}; a dry run changes nothing");
    }
    let mut text = match run.kind() {
        RunKind::Maintain => tasks(report),
        kind => done(kind, report),
    };
    if report.rows_along > 0 {
        text.push_str(&format!(", {} with them", rows(report.rows_along)));
    }
    if report.rows_captured > 0 {
        text.push_str(&format!(", {} backed up", HumanBytes(report.captured_bytes)));
    }
    if report.rows_conflicting > 0 {
        text.push_str(&format!(", {} in conflict and left", rows(report.rows_conflicting)));
    }
    if let Some(span) = json::span(report.duration.as_ref()) {
        text.push_str(&format!(", {} at work", Words(span)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_not_called_rows() {
        assert_eq!(of_table("users", 1), "1 row");
        assert_eq!(of_table("files:temp", 1), "1 file");
        assert_eq!(of_table("files:temp", 12_000), "12,000 files");
        assert_eq!(of_tables([("files:temp", 2), ("files:uploads", 3)]), "5 files");
        assert_eq!(of_tables([("users", 1), ("files:uploads", 1)]), "1 row and 1 file");
        assert_eq!(of_tables([]), "0 rows");
    }

    #[test]
    fn a_sample_is_one_line_that_tells_null_from_empty() {
        let value = |column: &str, value: Option<&str>| proto::SampleValue {
            column: column.into(),
            value: value.map(Into::into),
        };
        let row = proto::SampleRow {
            values: vec![value("id", Some("1")), value("a", None), value("b", Some("x\ny"))],
        };
        assert_eq!(sample(&row), "id=1 a=NULL b=x\\ny");
        assert_eq!(cut("äöü", 2), "äö…");
        assert_eq!(cut("äö", 2), "äö");
    }

    #[test]
    fn a_phrase_survives_the_shell() {
        let plan = |phrase: &str| proto::Plan {
            confirmation_phrase: phrase.into(),
            ..Default::default()
        };
        assert_eq!(phrase_option(&plan("")), "");
        assert_eq!(
            phrase_option(&plan("delete 1 row from \"a'b\" on t")),
            " --phrase 'delete 1 row from \"a'\\''b\" on t'"
        );
    }

    #[test]
    fn each_action_has_its_word() {
        let step = |table: &str, action: &str, rows_affected| proto::StepReport {
            table: table.into(),
            action: action.into(),
            rows_affected,
            ..Default::default()
        };
        let mut report = proto::RunReport {
            steps: vec![
                step("logs", "delete", 11_000),
                step("users", "archive", 1),
                step("users", "update", 2),
                step("notes", "nullify", 3),
                step("files:temp", "delete", 4),
                step("tokens", "delete", 1_000),
            ],
            ..Default::default()
        };
        assert_eq!(
            done(RunKind::Cleanup, &report),
            "12,000 rows deleted, 1 row archived, 2 rows updated, 3 rows set to NULL, 4 files moved to the trash"
        );
        assert_eq!(only_deed(RunKind::Cleanup, &report), None);
        report.steps.truncate(1);
        assert_eq!(only_deed(RunKind::Cleanup, &report), Some("deleted"));
        report.steps = vec![step("logs", "", 2), step("files:temp", "", 1)];
        assert_eq!(done(RunKind::Undo, &report), "2 rows and 1 file put back");
    }

    #[test]
    fn the_sum_speaks_of_what_the_run_did() {
        let report = proto::RunReport {
            rows_planned: 12_000,
            rows_affected: 11_000,
            rows_captured: 11_000,
            captured_bytes: 2048,
            duration: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
            ..Default::default()
        };
        let run = |kind: RunKind| proto::Run {
            kind: kind.into(),
            ..Default::default()
        };
        assert_eq!(
            sum(&run(RunKind::Cleanup), &report, false),
            "11,000 rows affected, 2.00 KiB backed up, 3.0 s at work"
        );
        assert_eq!(
            sum(&run(RunKind::Cleanup), &report, true),
            "12,000 rows would be affected; a dry run changes nothing"
        );
        assert!(sum(&run(RunKind::Undo), &report, false).starts_with("11,000 rows put back"));
        let mut upkeep = report.clone();
        upkeep.steps = [StepState::Succeeded, StepState::Failed]
            .map(|state| proto::StepReport {
                state: state.into(),
                ..Default::default()
            })
            .to_vec();
        let told = sum(&run(RunKind::Maintain), &upkeep, false);
        assert!(told.starts_with("1 of 2 tasks done, 11,000 rows proven"), "{told}");
        assert!(is_dry_run(&run(RunKind::Cleanup)));
    }
}
