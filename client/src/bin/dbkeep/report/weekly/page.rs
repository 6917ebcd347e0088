//! The page of a week: one file that needs nothing else, as the page of a run.
//!
//! Owns the layout. Everything that comes from a database or a person passes [`text`] and is escaped by maud. Pure.

use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    super::{
        chart::{Chart, Layer},
        figures::figure,
        html::{class, document, name, recommendation, text},
        series::Point,
    },
    week::{Week, alert_line, run_words, slot_line},
};
use crate::{cmd::alerts::level_tone, json, output::Tone, table};

/// The page.
pub(super) fn render(weeks: &[Week], from: Timestamp, until: Timestamp) -> String {
    let period = format!("{} to {}", from.strftime("%F %TZ"), until.strftime("%F %TZ"));
    let failed: u64 = weeks.iter().map(|week| week.outcomes().failed).sum();
    let raised = weeks.iter().map(|week| week.health.alerts).sum::<u64>();
    let rows: u64 = weeks.iter().map(Week::rows_affected).sum();
    let tiles = [
        ("Targets", HumanCount(weeks.len() as u64).to_string()),
        ("Rows affected", HumanCount(rows).to_string()),
        ("Failed runs", HumanCount(failed).to_string()),
        ("Alerts raised", HumanCount(raised).to_string()),
    ];
    document(
        &format!("A week of dbkeep: {period}"),
        &html! {
            header {
                h1 { "A week of dbkeep" }
                p class="verdict" { (period) }
                dl class="tiles" {
                    @for (what, number) in tiles { div { dt { (what) } dd { (number) } } }
                }
            }
            @for (position, week) in weeks.iter().enumerate() { (target(week, position)) }
            footer { "Made by dbkeep " (env!("CARGO_PKG_VERSION")) " at " (until.strftime("%F %TZ").to_string()) ". Times are in UTC." }
        },
    )
}

fn target(week: &Week, position: usize) -> Markup {
    html! {
        section {
            h2 { (name(&week.health.name)) }
            dl class="facts" {
                @for (label, words) in week.facts() { dt { (label) } dd { (text(&words)) } }
            }
            @for problem in &week.problems { p class="bad" { "Could not be asked: " (text(problem)) } }
            div class="charts" { (sizes(week, position)) (rows(week, position)) }
            (list("Runs that failed, or did their work in part", week.failed().map(|run| {
                (table::state_tone(run.state()), format!("{}: {}", run_words(run), run.state_reason))
            })))
            (list("Slots that began no run", week.slots.iter().map(|slot| (Tone::Warn, slot_line(slot)))))
            (list("Alerts", week.alerts.iter().map(|alert| (level_tone(alert.level()), alert_line(alert)))))
            (advice(week))
            (findings(week))
        }
    }
}

fn list(heading: &str, lines: impl Iterator<Item = (Tone, String)>) -> Markup {
    let lines: Vec<_> = lines.collect();
    html! {
        @if !lines.is_empty() {
            h3 { (heading) }
            ul { @for (tone, line) in lines { li class=(class(tone)) { (text(&line)) } } }
        }
    }
}

fn advice(week: &Week) -> Markup {
    html! {
        @if !week.recommendations.is_empty() {
            h3 { "Recommended" }
            ul {
                @for advice in &week.recommendations { (recommendation(advice)) }
            }
        }
    }
}

fn findings(week: &Week) -> Markup {
    html! {
        @if !week.findings.is_empty() {
            h3 { "Findings" }
            div class="wide" role="region" aria-label="Findings" tabindex="0" { table {
                thead { tr { @for heading in ["Finding", "Level", "About", "What", "What to do"] { th scope="col" { (heading) } } } }
                tbody {
                    @for finding in &week.findings {
                        tr {
                            th scope="row" { (text(&finding.kind)) }
                            td class=(class(level_tone(finding.level()))) { (json::alert_level(finding.level())) }
                            td { code { (name(&finding.object)) } }
                            td { (name(&finding.detail)) }
                            td { code { (name(&finding.remediation)) } }
                        }
                    }
                }
            } }
        }
    }
}

fn highest(points: &[Point]) -> f64 {
    points.iter().map(|point| point.y).fold(0.0, f64::max)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a place on an axis that begins at 0"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

fn sizes(week: &Week, position: usize) -> Markup {
    let points = week.size_points();
    let words = match week.size_change() {
        Some((first, last)) => format!("From {} to {}.", HumanBytes(first), HumanBytes(last)),
        None => "No size was collected in this week.".to_owned(),
    };
    let chart = Chart {
        id: &format!("size-{position}"),
        title: "Size of the database",
        description: &words,
        length: week.length(),
        top: highest(&points),
        word: |value| HumanBytes(whole(value)).to_string(),
        layers: &[Layer::Line(&points)],
    };
    figure("Size of the database", &chart.draw(), &words)
}

fn rows(week: &Week, position: usize) -> Markup {
    let points = week.row_points();
    let words = format!("{} rows affected by cleanups.", HumanCount(week.rows_affected()));
    let chart = Chart {
        id: &format!("rows-{position}"),
        title: "Rows affected",
        description: &words,
        length: week.length(),
        top: highest(&points),
        word: |value| HumanCount(whole(value)).to_string(),
        layers: &[Layer::Line(&points)],
    };
    figure("Rows affected", &chart.draw(), &words)
}

#[cfg(test)]
mod tests {
    use super::{super::week::tests::week, *};
    use crate::report::html::tests::{HOSTILE, parsed};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_hostile_name_is_only_text() {
        let weeks = [week(HOSTILE), week("second")];
        let page = parsed(&render(&weeks, at(0), at(7 * 86_400)));
        assert!(page.elements.iter().all(|(name, _)| name != "script"));
        assert!(page.text.contains("<script>alert('x')</script>") && !page.text.contains('\u{1b}'));
        let ids: Vec<&String> = page
            .elements
            .iter()
            .flat_map(|(_, attributes)| attributes)
            .filter(|(name, _)| name == "id")
            .map(|(_, value)| value)
            .collect();
        let mut unique = ids.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), ids.len(), "{ids:?}");
        assert_eq!(
            page.elements.iter().filter(|(name, _)| name == "svg").count(),
            4,
            "two charts a target"
        );
    }

    #[test]
    fn a_week_without_anything_is_a_page_too() {
        let mut empty = week("app");
        empty.sizes.clear();
        empty.runs.clear();
        let page = render(&[empty], at(0), at(7 * 86_400));
        assert!(page.contains("No size was collected") && !page.contains("NaN"), "{page}");
        parsed(&render(&[], at(0), at(1)));
    }
}
