//! The page of a report: one file that needs nothing else, runs nothing, and asks nobody.
//!
//! Owns the layout and the words. Everything that comes from a database or a person is written by maud, which escapes it, and
//! passes [`text`] first, which makes control characters visible. Pure. Called by `mod.rs`.

use dbkeep_client::proto::{self, ReportStatus, RunKind};
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{figures, series::Course};
use crate::{
    json,
    output::{Tone, printable},
    table,
};

const STYLE: &str = include_str!("style.css");
/// Nothing may be loaded, run or sent, whatever a name in the database looks like; only the style above applies.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// What a page shows.
pub(super) struct Content<'a> {
    pub(super) run: &'a proto::Run,
    pub(super) course: &'a Course,
    /// Purposes and commands.
    pub(super) next: &'a [(&'static str, String)],
    /// When it was made.
    pub(super) at: Timestamp,
}

/// The page.
pub(super) fn render(content: &Content<'_>) -> String {
    let Content { run, course, next, at } = content;
    let report = run.report.clone().unwrap_or_default();
    let is_dry = run.kind() == RunKind::Cleanup && table::is_dry_run(run);
    let title = format!("{} of {}: {}", heading(run, is_dry), run.target, verdict(run, &report));
    document(
        &title,
        &html! {
            (header(run, &report, is_dry))
            @if !next.is_empty() {
                h2 { "What next" }
                ul {
                    @for (purpose, command) in *next { li { (purpose) ": " code { (text(command)) } } }
                }
            }
            @if !report.recommendations.is_empty() { (recommendations(&report)) }
            @if table::migration::is_migrating(run.kind()) {
                h2 { "Migrations" }
                (migrations(&report))
            } @else {
                h2 { "Operations" }
                (operations(&report, is_dry))
            }
            h2 { "Steps" }
            (steps(&report, is_dry))
            @if let Some(found) = &report.sizes { (sizes(found)) }
            @if !report.warnings.is_empty() { (warnings(&report)) }
            // Scripts are executed as they are written, and tasks as the database does them: there are no batches, and no pace, to draw.
            @if !is_dry && run.kind() != RunKind::Maintain && !table::migration::is_migrating(run.kind()) {
                (charts(run, course, &report))
            }
            (plan(run))
            footer {
                "Made by dbkeep " (env!("CARGO_PKG_VERSION")) " at " (at.strftime("%F %TZ").to_string())
                ". Times are in UTC. The numbers are those of event " (run.last_sequence) " of the run."
            }
        },
    )
}

/// A page with a title and a body; the title may come from outside.
pub(super) fn document(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                meta name="generator" content=(concat!("dbkeep ", env!("CARGO_PKG_VERSION")));
                title { (text(title)) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// Text from outside, with control characters made visible. Escaping is maud's.
pub(super) fn text(text: &str) -> String {
    printable(text).into_owned()
}

/// A name from a database, kept apart from the text around it where it is written from right to left.
pub(super) fn name(name: &str) -> Markup {
    html! { bdi { (text(name)) } }
}

pub(super) fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Warn => "warn",
        Tone::Bad => "bad",
        Tone::Dim => "dim",
        Tone::Strong => "strong",
    }
}

fn heading(run: &proto::Run, is_dry: bool) -> &'static str {
    match run.kind() {
        RunKind::Cleanup if is_dry => "Dry run",
        RunKind::Cleanup => "Cleanup",
        RunKind::Undo => "Undo",
        RunKind::Verify => "Verification",
        RunKind::Backup => "Backup",
        RunKind::Restore => "Restore",
        RunKind::Migrate => "Migration",
        RunKind::Rollback => "Rollback",
        RunKind::Rehearse => "Rehearsal",
        RunKind::Maintain => "Maintenance",
        RunKind::Unspecified => "Run",
    }
}

/// SUCCESS, PARTIAL SUCCESS or FAILED; the state of a run that has not ended.
fn verdict(run: &proto::Run, report: &proto::RunReport) -> String {
    match report.status() {
        ReportStatus::Unspecified => table::state(run.state()),
        status => json::report_status(status).replace('_', " ").to_uppercase(),
    }
}

fn header(run: &proto::Run, report: &proto::RunReport, is_dry: bool) -> Markup {
    let errors: u32 = report.operations.iter().map(|operation| operation.error_count).sum();
    let tiles = [
        ("Rows planned", HumanCount(report.rows_planned).to_string()),
        (
            match (run.kind(), table::only_deed(run.kind(), report)) {
                (RunKind::Undo | RunKind::Restore, _) => "Rows put back",
                (RunKind::Verify | RunKind::Maintain, _) => "Rows proven",
                (RunKind::Backup, _) => "Rows saved",
                (RunKind::Migrate | RunKind::Rollback | RunKind::Rehearse, _) => "Rows changed",
                (RunKind::Cleanup, Some("deleted")) => "Rows deleted",
                (RunKind::Cleanup, Some("archived")) => "Rows archived",
                (RunKind::Cleanup, Some("updated")) => "Rows updated",
                (RunKind::Cleanup, Some("set to NULL")) => "Rows set to NULL",
                (RunKind::Cleanup, Some("moved to the trash")) => "Files moved to the trash",
                (RunKind::Cleanup | RunKind::Unspecified, _) => "Rows affected",
            },
            HumanCount(report.rows_affected).to_string(),
        ),
        ("Rows examined", HumanCount(report.rows_examined).to_string()),
        ("Rows backed up", HumanCount(report.rows_captured).to_string()),
        ("Backup", HumanBytes(report.captured_bytes).to_string()),
        ("Time at work", table::duration(report.duration.as_ref())),
        ("Errors", errors.to_string()),
        ("Warnings", warning_count(report)),
    ];
    html! {
        header {
            h1 { (heading(run, is_dry)) " of " (name(&run.target)) ": "
                span class=(class(table::state_tone(run.state()))) { (verdict(run, report)) }
            }
            p class="verdict" { (text(&table::sum(run, report, is_dry))) }
            p {
                "Run " code { (text(&run.id)) } " "
                span class=(class(table::state_tone(run.state()))) { (table::state(run.state())) }
                @if !run.state_reason.is_empty() { ": " (name(&run.state_reason)) }
            }
            dl class="tiles" {
                @for (what, number) in tiles { div { dt { (what) } dd { (number) } } }
            }
        }
    }
}

/// All warnings: those of operations are counted even where the report had no room to keep them.
fn warning_count(report: &proto::RunReport) -> String {
    let counted: u64 = report.operations.iter().map(|operation| operation.warning_count).sum();
    let of_the_run = report.warnings.iter().filter(|warning| warning.step_index.is_none()).count() as u64;
    HumanCount(counted + of_the_run).to_string()
}

/// A table cell with a count.
fn number(count: u64) -> Markup {
    html! { td class="number" { (HumanCount(count)) } }
}

fn headings(names: &[(&str, bool)]) -> Markup {
    html! {
        thead { tr { @for (name, is_number) in names { th scope="col" class=[is_number.then_some("number")] { (name) } } } }
    }
}

fn operations(report: &proto::RunReport, is_dry: bool) -> Markup {
    let columns = [
        ("Operation", false),
        ("Result", false),
        ("Category", false),
        ("Severity", false),
        ("Planned", true),
        (if is_dry { "Would go" } else { "Done" }, true),
        ("Examined", true),
        ("Backed up", true),
        ("Errors", true),
        ("Warnings", true),
        ("Time", true),
        ("Expected", true),
    ];
    html! {
        div class="wide" role="region" aria-label="Operations" tabindex="0" { table {
            (headings(&columns))
            tbody {
                @for operation in &report.operations {
                    tr {
                        th scope="row" { (name(&operation.operation)) }
                        td class=(class(table::step_tone(operation.state()))) { (json::step_state(operation.state())) }
                        td { (name(table::or_dash(&operation.category))) }
                        td { (table::severity(operation.severity())) }
                        (number(operation.rows_planned))
                        (number(if is_dry { operation.rows_planned } else { operation.rows_affected }))
                        (number(operation.rows_examined))
                        (number(operation.rows_captured))
                        (number(operation.error_count.into()))
                        (number(operation.warning_count))
                        td class="number" { (table::duration(operation.duration.as_ref())) }
                        td class="number" { (table::duration(operation.expected_duration.as_ref())) }
                    }
                }
            }
            tfoot { tr {
                th scope="row" { "Total" } td {} td {} td {}
                (number(report.rows_planned))
                (number(if is_dry { report.rows_planned } else { report.rows_affected }))
                (number(report.rows_examined))
                (number(report.rows_captured))
                (number(report.operations.iter().map(|operation| u64::from(operation.error_count)).sum()))
                td class="number" { (warning_count(report)) }
                td class="number" { (table::duration(report.duration.as_ref())) }
                td {}
            } }
        } }
    }
}

fn steps(report: &proto::RunReport, is_dry: bool) -> Markup {
    let columns = [
        ("Step", true),
        ("Rule", false),
        ("State", false),
        ("Table", false),
        ("Planned", true),
        (if is_dry { "Would go" } else { "Done" }, true),
        ("Examined", true),
        ("Backed up", true),
        ("Left", true),
        ("Batches", true),
        ("Time", true),
    ];
    html! {
        div class="wide" role="region" aria-label="Steps" tabindex="0" { table {
            (headings(&columns))
            tbody {
                @for (position, step) in report.steps.iter().enumerate() {
                    @if position == 0 || report.steps[position - 1].operation != step.operation {
                        tr class="group" { th colspan="11" scope="rowgroup" { (name(&step.operation)) } }
                    }
                    tr {
                        td class="number" { (u64::from(step.index) + 1) }
                        th scope="row" { (name(&step.rule)) }
                        td class=(class(table::step_tone(step.state()))) { (json::step_state(step.state())) }
                        td { code { (name(&step.table)) } }
                        (number(step.rows_planned))
                        (number(if is_dry { step.rows_planned } else { step.rows_affected }))
                        (number(step.rows_examined))
                        (number(step.rows_captured))
                        (number(step.rows_remaining + step.rows_conflicting))
                        (number(step.batches))
                        td class="number" { (table::duration(step.duration.as_ref())) }
                    }
                    @if !step.message.is_empty() {
                        tr class="note" { td {} td colspan="10" { (name(&step.message)) } }
                    }
                }
            }
        } }
    }
}

fn migrations(report: &proto::RunReport) -> Markup {
    let columns = [
        ("Migration", false),
        ("Direction", false),
        ("Statements", true),
        ("Rows", true),
        ("Up", true),
        ("Down", true),
        ("Comes back", false),
    ];
    html! {
        div class="wide" role="region" aria-label="Migrations" tabindex="0" { table {
            (headings(&columns))
            tbody {
                @for migration in &report.migrations {
                    @let found = migration.rehearsal.as_ref();
                    tr {
                        th scope="row" { (name(&table::migration::title(&migration.id, &migration.name))) }
                        td { (json::migration_direction(migration.direction())) }
                        td class="number" { (migration.statements_done) " of " (migration.statement_count) }
                        (number(migration.statements.iter().map(|statement| statement.row_count).sum()))
                        td class="number" { (table::duration(found.and_then(|found| found.up_duration.as_ref()))) }
                        td class="number" { (table::duration(found.and_then(|found| found.down_duration.as_ref()))) }
                        td { (match found {
                            Some(found) if found.restored => "yes",
                            Some(found) if found.has_down => "no",
                            Some(_) => "no way back",
                            None => "-",
                        }) }
                    }
                    @for note in notes(migration) {
                        tr class="note" { td {} td colspan="6" { (name(&note)) } }
                    }
                }
            }
        } }
    }
}

/// What is to be said of a migration beside its numbers.
fn notes(migration: &proto::MigrationReport) -> Vec<String> {
    let mut notes = Vec::new();
    if !migration.problem.is_empty() {
        notes.push(migration.problem.clone());
    }
    if let Some(found) = &migration.rehearsal {
        notes.extend(found.differences.iter().map(|what| format!("different: {what}")));
        notes.extend(found.rows_lost.iter().map(|what| format!("rows lost: {what}")));
        notes.extend(found.violations.iter().map(|what| format!("violated: {what}")));
    }
    notes
}

fn recommendations(report: &proto::RunReport) -> Markup {
    html! {
        h2 { "Recommended" }
        ul {
            @for advice in &report.recommendations { (recommendation(advice)) }
        }
    }
}

/// An item: what should be done, why, what that rests on, and what to type or to paste, as it is.
pub(super) fn recommendation(advice: &proto::Recommendation) -> Markup {
    let evidence = table::sizes::evidence(advice);
    html! {
        li {
            span class=(class(table::sizes::tone(advice.level()))) { (text(table::sizes::advised(advice))) }
            ": " (name(&advice.detail))
            @if !evidence.is_empty() { " (" (name(&evidence)) ")" }
            @if advice.remediation.contains('\n') {
                pre { (text(&advice.remediation)) }
            } @else if !advice.remediation.is_empty() {
                ": " code { (text(&advice.remediation)) }
            }
        }
    }
}

fn sizes(sizes: &proto::RunSizes) -> Markup {
    let space = table::sizes::has_space(sizes);
    let mut columns = vec![
        ("Size of", false),
        ("Rows before", true),
        ("Rows after", true),
        ("Before", true),
        ("After", true),
    ];
    if space {
        columns.extend(["Dead before", "Dead after", "Free before", "Free after"].map(|name| (name, true)));
    }
    html! {
        h2 { "Sizes before and after" }
        div class="wide" role="region" aria-label="Sizes" tabindex="0" { table {
            (headings(&columns))
            tbody {
                @for line in table::sizes::lines(sizes) {
                    tr {
                        th scope="row" { (name(&line.what)) }
                        @for cell in line.cells(space) {
                            td class="number" { (cell) }
                        }
                    }
                }
            }
        } }
        p class="dim" { "A number after ~ is an estimate of the database; ? is unknown." }
    }
}

fn warnings(report: &proto::RunReport) -> Markup {
    html! {
        h2 { "Warnings" }
        ul {
            @for warning in &report.warnings {
                li {
                    span class="warn" { (text(&warning.code)) }
                    @if let Some(step) = warning.step_index { " (step " (u64::from(step) + 1) ")" }
                    ": " (name(&warning.message))
                }
            }
        }
        @if report.warnings.len() >= 100 {
            p class="dim" { "A report keeps the first 100 warnings; the event log of the run has all that are not trimmed." }
        }
    }
}

fn charts(run: &proto::Run, course: &Course, report: &proto::RunReport) -> Markup {
    let began = course.began.map(|began| began.strftime("%F %TZ").to_string());
    html! {
        h2 { "Course" }
        @if let Some(first) = course.trimmed_before {
            p class="warn" {
                "The events before number " (first) " are no longer kept. The charts start"
                @if let Some(began) = &began { " at " (began) "." } @else { " with nothing." }
            }
        } @else if let Some(began) = &began {
            p class="dim" { "Time counts from " (began) "." }
        }
        @if course.samples > 0 {
            p class="dim" {
                "Sampled: " (HumanCount(course.samples)) (if course.samples == 1 { " progress event" } else { " progress events" }) ", at most ten a second"
                @if course.coalesced > 0 { "; " (HumanCount(course.coalesced)) " more were left out on the way" }
                ". Numbered lines show where a step began."
            }
        }
        div class="charts" { (figures::all(run.kind(), course, report.rows_planned, &table::done(run.kind(), report))) }
    }
}

fn plan(run: &proto::Run) -> Markup {
    let options = run.options.unwrap_or_default();
    let mut facts: Vec<(&str, String)> = vec![
        ("Target", run.target.clone()),
        ("Operations", run.operations.join(", ")),
        ("Plan", table::or_dash(&run.plan_id).to_owned()),
    ];
    let optional = [
        ("Run that it is about", &run.source_run_id),
        ("Undone by", &run.undone_by_run_id),
        ("Backup", &run.backup_id),
    ];
    facts.extend(
        optional
            .into_iter()
            .filter(|(_, id)| !id.is_empty())
            .map(|(what, id)| (what, id.clone())),
    );
    facts.extend([
        ("Batches", format!("of {} rows", options.batch_size.unwrap_or_default())),
        ("Time limit", table::duration(options.max_execution_time.as_ref())),
        (
            "Pace",
            if options.full_speed {
                "full speed"
            } else {
                "rests as long as each batch took"
            }
            .to_owned(),
        ),
        (
            "After a failure",
            if options.stop_on_failure {
                "no further operation is begun"
            } else {
                "the other operations go on"
            }
            .to_owned(),
        ),
        ("Attempts", run.attempts.to_string()),
        ("Accepted", table::instant(run.create_time.as_ref())),
        ("Began", table::instant(run.start_time.as_ref())),
        ("Ended", table::instant(run.end_time.as_ref())),
    ]);
    html! {
        h2 { "Plan and options" }
        dl class="facts" {
            @for (what, fact) in &facts { dt { (what) } dd { (name(fact)) } }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
