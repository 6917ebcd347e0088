//! Plans, runs and their parts as tables for people.
//!
//! Owns the columns and the wording that more than one command shows. Where they are written is `output.rs`; lists that only
//! one command has are in that command's file.

use std::io;

use dbkeep_client::proto::{self, FindingLevel, RunKind, RunState, StepState};
use indicatif::{HumanBytes, HumanCount};

use crate::{
    duration::Words,
    json,
    output::{Output, Tone},
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

/// What a run of this kind does to a row.
pub(crate) fn verb(kind: RunKind) -> &'static str {
    match kind {
        RunKind::Cleanup => "deleted",
        RunKind::Undo => "put back",
        RunKind::Verify => "proven",
        RunKind::Backup => "saved",
        RunKind::Restore => "restored",
        RunKind::Unspecified => "done",
    }
}

/// How a run's state looks.
pub(crate) fn state_tone(state: RunState) -> Tone {
    match state {
        RunState::Succeeded => Tone::Good,
        RunState::Failed => Tone::Bad,
        RunState::PartiallySucceeded | RunState::Cancelled | RunState::Cancelling | RunState::Interrupted => Tone::Warn,
        RunState::Running | RunState::Queued | RunState::Unspecified => Tone::Strong,
    }
}

/// A run's state in words.
pub(crate) fn state(state: RunState) -> String {
    json::run_state(state).replace('_', " ")
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
        "\n{} of {}, severity {}; {}",
        output.paint(Tone::Strong, &rows(plan.row_count)),
        output.paint(Tone::Strong, &plan.target),
        json::severity(plan.severity()),
        if plan.capture_bytes == 0 {
            "no backup, so that it cannot be undone".to_owned()
        } else {
            format!("about {} go to the backup first", HumanBytes(plan.capture_bytes))
        },
    ))?;
    if plan.blocked {
        output.line(output.paint(
            Tone::Bad,
            "Blocked: a run of this plan would be refused. See the findings above.",
        ))?;
    }
    Ok(())
}

/// "1 row", "12,000 rows".
pub(crate) fn rows(count: u64) -> String {
    if count == 1 {
        "1 row".to_owned()
    } else {
        format!("{} rows", HumanCount(count))
    }
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
        output.line(format_args!("  rows older than {}", instant(Some(horizon))))?;
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

/// Prints what a run did: one line per step, warnings, and the sum.
pub(crate) fn report(run: &proto::Run, output: &Output) -> io::Result<()> {
    let empty = proto::RunReport::default();
    let report = run.report.as_ref().unwrap_or(&empty);
    let is_dry = run.kind() == RunKind::Cleanup && is_dry_run(run);
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
        let tone = match step.state() {
            StepState::Succeeded => Tone::Good,
            StepState::Failed => Tone::Bad,
            StepState::Partial => Tone::Warn,
            StepState::Pending | StepState::Running | StepState::Unspecified => Tone::Dim,
        };
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
    for step in report.steps.iter().filter(|step| !step.message.is_empty()) {
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
    for warning in &report.warnings {
        output.line(output.paint(Tone::Warn, &format!("warning {}: {}", warning.code, warning.message)))?;
    }
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

fn sum(run: &proto::Run, report: &proto::RunReport, is_dry: bool) -> String {
    if is_dry {
        return format!("{} would go; a dry run changes nothing", rows(report.rows_planned));
    }
    let mut text = format!("{} {}", rows(report.rows_affected), verb(run.kind()));
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
            "11,000 rows deleted, 2.00 KiB backed up, 3.0 s at work"
        );
        assert_eq!(
            sum(&run(RunKind::Cleanup), &report, true),
            "12,000 rows would go; a dry run changes nothing"
        );
        assert!(sum(&run(RunKind::Undo), &report, false).starts_with("11,000 rows put back"));
        assert!(is_dry_run(&run(RunKind::Cleanup)));
    }
}
