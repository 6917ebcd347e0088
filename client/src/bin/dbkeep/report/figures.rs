//! The charts of a run: rows, batches, slowdowns, scans.
//!
//! Owns which charts there are, and what each says in words. Drawing is `chart.rs`. Pure. Called by `html.rs`.

use dbkeep_client::proto::RunKind;
use maud::{Markup, html};

use super::{
    chart::{Chart, Layer, Strip, short, strips},
    series::{Course, Point, millis, real, span, times},
};
use crate::{output::printable, table};

/// Every chart that the run's kind has, with its words below it. `done` says what the run did to how many rows.
pub(super) fn all(kind: RunKind, course: &Course, planned: u64, done: &str) -> Markup {
    html! {
        (rows(course, planned, done))
        // A verification commits nothing.
        @if kind != RunKind::Verify { (latency(course)) }
        @if kind != RunKind::Verify { (slow(course)) }
        (scans(course))
    }
}

pub(super) fn figure(heading: &str, chart: &Markup, words: &str) -> Markup {
    html! {
        figure {
            h3 { (heading) }
            (chart)
            figcaption { (words) }
        }
    }
}

/// What is behind the lines of every chart: times in which nobody worked, and the beginnings of steps.
fn background(course: &Course) -> Vec<Layer<'_>> {
    let mut layers: Vec<Layer<'_>> = course.idle.iter().map(|(from, to)| Layer::Idle(*from, *to)).collect();
    // More lines than these would hide what they explain.
    if course.marks.len() <= 40 {
        layers.push(Layer::Steps(&course.marks));
    }
    layers
}

fn highest(points: &[Point]) -> f64 {
    points.iter().map(|point| point.y).fold(0.0, f64::max)
}

fn rows(course: &Course, planned: u64, done: &str) -> Markup {
    let mut words = done.to_owned();
    if let Some(last) = course.rows.last() {
        words.push_str(&format!(" after {}", span(last.x)));
    }
    words.push_str(&format!(" of {} planned.", table::rows(planned)));
    for (from, to) in &course.idle {
        words.push_str(&format!(" Interrupted after {} for {}.", span(*from), span(to - from)));
    }
    let mut layers = background(course);
    layers.push(Layer::Level(real(planned), "planned"));
    layers.push(Layer::Line(&course.rows));
    let chart = Chart {
        id: "rows",
        title: "Rows over time",
        description: &words,
        length: course.length,
        top: highest(&course.rows).max(real(planned)),
        word: count,
        layers: &layers,
    };
    figure("Rows over time", &chart.draw(), &words)
}

fn latency(course: &Course) -> Markup {
    let Some([median, high, longest]) = course.latency_figures() else {
        return figure("Batch latency", &html! {}, "No batch was sampled.");
    };
    let words = format!(
        "{} sampled, from BEGIN to COMMIT: half took {} or less, 95 % {} or less, the longest {}.",
        if course.latency.len() == 1 {
            "1 batch".to_owned()
        } else {
            format!("{} batches", indicatif::HumanCount(course.latency.len() as u64))
        },
        millis(median),
        millis(high),
        millis(longest)
    );
    let mut layers = background(course);
    layers.push(Layer::Dots(&course.latency));
    layers.push(Layer::Level(high, "p95"));
    // Two names in one place cannot be read.
    if high - median > longest * 0.1 {
        layers.push(Layer::Level(median, "p50"));
    }
    let chart = Chart {
        id: "latency",
        title: "Batch latency",
        description: &words,
        length: course.length,
        top: longest.max(1.0),
        word: |value| if value == 0.0 { "0".to_owned() } else { millis_short(value) },
        layers: &layers,
    };
    figure("Batch latency", &chart.draw(), &words)
}

fn slow(course: &Course) -> Markup {
    let figures = course.slow_figures();
    if figures.is_empty() {
        return figure("Slowdowns", &html! {}, "Nothing slowed the run.");
    }
    let mut words = String::new();
    for (reason, count, seconds) in &figures {
        let newest = course.slow.iter().rev().find(|slow| slow.reason == *reason);
        let value = newest.map(|slow| slow.value.as_str()).unwrap_or_default();
        words.push_str(&format!("{reason}: {}; newest value {value}. ", times(*count, *seconds)));
    }
    let words = printable(words.trim_end()).into_owned();
    let names: Vec<String> = figures.iter().map(|(reason, ..)| printable(reason).into_owned()).collect();
    let bars: Vec<Strip<'_>> = course
        .slow
        .iter()
        .filter_map(|slow| {
            let row = figures.iter().position(|(reason, ..)| *reason == slow.reason)?;
            Some(Strip {
                row: &names[row],
                from: slow.from,
                to: slow.to,
            })
        })
        .collect();
    let rows: Vec<&str> = names.iter().map(String::as_str).collect();
    let chart = strips("slow", "Slowdowns", &words, course.length, &rows, &bars);
    figure("Slowdowns", &chart, &words)
}

fn scans(course: &Course) -> Markup {
    let lines: Vec<&[Point]> = course
        .scans
        .iter()
        .map(Vec::as_slice)
        .filter(|line| !line.is_empty())
        .collect();
    let Some(last) = lines.last().and_then(|line| line.last()) else {
        return figure("Scan progress", &html! {}, "No scan was sampled.");
    };
    let words = format!(
        "{} sampled; the last was at {:.0} % after {}. Each line is one pass over a table.",
        if lines.len() == 1 {
            "1 scan".to_owned()
        } else {
            format!("{} scans", lines.len())
        },
        last.y,
        span(last.x)
    );
    let mut layers = background(course);
    layers.extend(lines.into_iter().map(Layer::Line));
    let chart = Chart {
        id: "scan",
        title: "Scan progress",
        description: &words,
        length: course.length,
        top: 100.0,
        word: |value| format!("{value:.0} %"),
        layers: &layers,
    };
    figure("Scan progress", &chart.draw(), &words)
}

/// A count on an axis: "950", "12k", "1.5M".
fn count(value: f64) -> String {
    for (size, unit) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value >= size {
            return format!("{}{unit}", short(value / size));
        }
    }
    short(value)
}

/// A time on an axis: "20 ms", "1.5 s".
fn millis_short(value: f64) -> String {
    if value < 1_000.0 {
        format!("{} ms", short(value))
    } else {
        format!("{} s", short(value / 1_000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_axes_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (950.0, "950"),
            (12_000.0, "12k"),
            (1_500_000.0, "1.5M"),
            (2e9, "2G"),
        ] {
            assert_eq!(count(value), text);
        }
        assert_eq!((millis_short(20.0), millis_short(1_500.0)), ("20 ms".into(), "1.5 s".into()));
    }

    #[test]
    fn a_course_without_a_point_says_so_in_words() {
        let page = all(RunKind::Cleanup, &Course::default(), 0, "0 rows deleted").into_string();
        for words in [
            "No batch was sampled.",
            "Nothing slowed the run.",
            "No scan was sampled.",
            "0 rows deleted of 0 rows planned.",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
        let verify = all(RunKind::Verify, &Course::default(), 0, "0 rows proven").into_string();
        assert!(!verify.contains("Batch latency"), "{verify}");
    }
}
