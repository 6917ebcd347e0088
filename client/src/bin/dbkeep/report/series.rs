//! The course of a run as series of points, gathered from its event log one event at a time.
//!
//! Owns what the charts of a report show, and their figures. Keeps points, not events, so that a long log costs little. Pure.
//! Called by `mod.rs`; read by `figures.rs`, `html.rs` and `json/report.rs`.

use std::time::Duration;

use dbkeep_client::proto::{self, run_event::Event};
use jiff::Timestamp;

use crate::{duration::Words, json};

/// A point of a series: seconds since the first event that is kept, and a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

/// A time in which something slowed the run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slow {
    /// Stable name of the reason.
    pub(crate) reason: String,
    /// The newest value that was measured in it.
    pub(crate) value: String,
    /// Seconds since the first event.
    pub(crate) from: f64,
    /// Seconds since the first event; equal to `from` for something that happened once.
    pub(crate) to: f64,
}

/// A moment worth a line: a step begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mark {
    /// Seconds since the first event.
    pub(crate) x: f64,
    /// Position of the step, from 1.
    pub(crate) step: u64,
}

/// The course of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Course {
    /// When the first event that is kept happened.
    pub(crate) began: Option<Timestamp>,
    /// Seconds from there to the last event.
    pub(crate) length: f64,
    /// Sequence of the oldest event that is kept, where older ones are not.
    pub(crate) trimmed_before: Option<u64>,
    /// Progress events that are shown.
    pub(crate) samples: u64,
    /// Progress events that the server left out on the way.
    pub(crate) coalesced: u64,
    /// Rows affected in the run.
    pub(crate) rows: Vec<Point>,
    /// Milliseconds of batches.
    pub(crate) latency: Vec<Point>,
    /// Share of a scan that is behind, percent: one line for each pass.
    pub(crate) scans: Vec<Vec<Point>>,
    /// What slowed the run.
    pub(crate) slow: Vec<Slow>,
    /// Beginnings of steps.
    pub(crate) marks: Vec<Mark>,
    /// Times in which nobody worked on the run, in seconds since the first event.
    pub(crate) idle: Vec<(f64, f64)>,
    /// Rows affected in the run, while known.
    total: Option<u64>,
    /// The step in work, and its rows.
    step: (u32, u64),
    batches: u64,
    /// Whether the last entry of `slow` may grow.
    slow_goes_on: bool,
    idle_since: Option<f64>,
}

impl Course {
    /// Takes the next event of the log.
    pub(crate) fn take(&mut self, event: &proto::RunEvent) {
        let Some(body) = &event.event else { return };
        if let Event::HistoryLost(lost) = body {
            // Its time is that of the reading, not of anything that the run did.
            self.trimmed_before = Some(lost.first_available_sequence);
            return;
        }
        if let Some(at) = json::instant(event.time.as_ref()) {
            let began = *self.began.get_or_insert(at);
            // Servers that take a run over may have another clock: time never runs back here.
            self.length = at.duration_since(began).as_secs_f64().max(self.length);
        }
        let x = self.length;
        self.coalesced += event.coalesced;
        match body {
            Event::Progress(progress) => self.progress(x, progress),
            Event::StepStarted(step) => {
                self.slow_goes_on = false;
                self.step = (step.index, step.rows_done);
                self.marks.push(Mark {
                    x,
                    step: u64::from(step.index) + 1,
                });
                self.scans.push(Vec::new());
                if self.trimmed_before.is_none() {
                    let total = *self.total.get_or_insert(step.rows_done);
                    self.row_point(x, total);
                }
            }
            Event::StepFinished(finished) => {
                self.slow_goes_on = false;
                let step = finished.step.clone().unwrap_or_default();
                if let Some(total) = self.total {
                    let known = if self.step.0 == step.index { self.step.1 } else { 0 };
                    let total = total + step.rows_affected.saturating_sub(known);
                    self.step = (step.index, step.rows_affected.max(known));
                    self.row_point(x, total);
                }
            }
            Event::StateChanged(change) => self.state(x, change),
            // A batch that is tried again waits: the only slowdown that the log tells as a warning.
            Event::Warning(warning) if warning.code == "BATCH_RETRIED" => self.slow.push(Slow {
                reason: "RETRY".to_owned(),
                value: warning.message.clone(),
                from: x,
                to: x,
            }),
            Event::Throttled(throttled) => self.throttled(x, throttled),
            Event::Warning(_)
            | Event::PlanReady(_)
            | Event::Approved(_)
            | Event::Maintenance(_)
            | Event::Migration(_)
            | Event::LimitsChanged(_)
            | Event::HistoryLost(_) => {}
        }
    }

    fn progress(&mut self, x: f64, progress: &proto::Progress) {
        self.samples += 1;
        self.step = (progress.step_index, progress.step_rows_affected);
        self.row_point(x, progress.rows_affected);
        if progress.batches > self.batches {
            self.batches = progress.batches;
            if let Some(took) = json::span(progress.batch_duration.as_ref()) {
                self.latency.push(Point {
                    x,
                    y: took.as_secs_f64() * 1_000.0,
                });
            }
        }
        let percent = (progress.scan_fraction * 100.0).clamp(0.0, 100.0);
        let begins_again = match self.scans.last() {
            None => true,
            Some(line) => line.last().is_some_and(|last| percent < last.y),
        };
        if begins_again {
            self.scans.push(Vec::new());
        }
        if let Some(line) = self.scans.last_mut() {
            line.push(Point { x, y: percent });
        }
        self.throttle(x, progress.throttle.as_ref());
    }

    /// The one place where slowdowns enter: whatever else an event tells of them belongs here.
    /// A slowdown that the log tells by its begin and its end.
    fn throttled(&mut self, x: f64, throttled: &proto::Throttled) {
        let open = self.slow.iter_mut().rev().find(|slow| slow.reason == throttled.reason);
        match open {
            Some(slow) if throttled.cleared => slow.to = x,
            _ if throttled.cleared => {}
            _ => self.slow.push(Slow {
                reason: throttled.reason.clone(),
                value: format!("{} (from {})", throttled.value, throttled.threshold),
                from: x,
                to: x,
            }),
        }
    }

    fn throttle(&mut self, x: f64, throttle: Option<&proto::Throttle>) {
        let Some(throttle) = throttle else {
            if self.slow_goes_on
                && let Some(last) = self.slow.last_mut()
            {
                last.to = x;
            }
            self.slow_goes_on = false;
            return;
        };
        match self.slow.last_mut() {
            Some(last) if self.slow_goes_on && last.reason == throttle.reason => {
                last.to = x;
                last.value.clone_from(&throttle.value);
            }
            _ => self.slow.push(Slow {
                reason: throttle.reason.clone(),
                value: throttle.value.clone(),
                from: x,
                to: x,
            }),
        }
        self.slow_goes_on = true;
    }

    fn state(&mut self, x: f64, change: &proto::StateChanged) {
        self.slow_goes_on = false;
        match change.to() {
            proto::RunState::Interrupted => self.idle_since = Some(x),
            _ => {
                if let Some(since) = self.idle_since.take() {
                    self.idle.push((since, x));
                }
            }
        }
        if let Some(report) = &change.report {
            self.row_point(x, report.rows_affected);
        }
    }

    fn row_point(&mut self, x: f64, total: u64) {
        self.total = Some(total);
        self.rows.push(Point { x, y: real(total) });
    }

    /// Median, 95th percentile and longest of the sampled batches, milliseconds; `None` without a sample.
    pub(crate) fn latency_figures(&self) -> Option<[f64; 3]> {
        let mut sorted: Vec<f64> = self.latency.iter().map(|point| point.y).collect();
        sorted.sort_by(f64::total_cmp);
        let longest = *sorted.last()?;
        Some([percentile(&sorted, 50)?, percentile(&sorted, 95)?, longest])
    }

    /// Reasons in the order of their first appearance, each with how often it set in and how long it lasted, seconds.
    pub(crate) fn slow_figures(&self) -> Vec<(&str, usize, f64)> {
        let mut figures: Vec<(&str, usize, f64)> = Vec::new();
        for slow in &self.slow {
            let took = slow.to - slow.from;
            match figures.iter_mut().find(|(reason, ..)| *reason == slow.reason) {
                Some((_, count, time)) => {
                    *count += 1;
                    *time += took;
                }
                None => figures.push((&slow.reason, 1, took)),
            }
        }
        figures
    }

    /// The figures in sentences, for a terminal and for those who cannot see the charts.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(first) = self.trimmed_before {
            lines.push(format!(
                "events before number {first} are no longer kept; the figures start there"
            ));
        }
        if let Some([median, high, longest]) = self.latency_figures() {
            lines.push(format!(
                "batches (sampled, {}): half within {}, 95 % within {}, longest {}",
                self.latency.len(),
                millis(median),
                millis(high),
                millis(longest),
            ));
        }
        for (reason, count, time) in self.slow_figures() {
            lines.push(format!("slowed by {reason}: {}", times(count, time)));
        }
        lines
    }
}

/// "3 times, 12 s together".
pub(crate) fn times(count: usize, seconds: f64) -> String {
    let often = if count == 1 {
        "once".to_owned()
    } else {
        format!("{count} times")
    };
    if seconds > 0.0 {
        format!("{often}, {} together", span(seconds))
    } else {
        often
    }
}

/// Seconds in words.
pub(crate) fn span(seconds: f64) -> String {
    Words(Duration::try_from_secs_f64(seconds).unwrap_or_default()).to_string()
}

/// Milliseconds in words; the log knows no shorter time.
pub(crate) fn millis(milliseconds: f64) -> String {
    if milliseconds < 1.0 {
        "under 1 ms".to_owned()
    } else {
        span(milliseconds / 1_000.0)
    }
}

/// The smallest value that so many percent of the sorted values do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// A count as a coordinate; a chart cannot show more than f64 can tell apart.
#[expect(clippy::cast_precision_loss, reason = "a coordinate on a screen")]
pub(crate) fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64, second: i64, body: Event) -> proto::RunEvent {
        proto::RunEvent {
            run_id: "r1".into(),
            sequence,
            time: Some(prost_types::Timestamp {
                seconds: 1_700_000_000 + second,
                nanos: 0,
            }),
            coalesced: 0,
            event: Some(body),
        }
    }

    fn progress(affected: u64, batches: u64, batch_ms: i32, fraction: f64, reason: Option<&str>) -> Event {
        Event::Progress(proto::Progress {
            step_rows_affected: affected,
            rows_affected: affected,
            batches,
            batch_duration: Some(prost_types::Duration {
                seconds: 0,
                nanos: batch_ms * 1_000_000,
            }),
            scan_fraction: fraction,
            throttle: reason.map(|reason| proto::Throttle {
                reason: reason.into(),
                value: format!("{batch_ms} ms"),
            }),
            ..Default::default()
        })
    }

    fn started(index: u32, rows_done: u64) -> Event {
        Event::StepStarted(proto::StepStarted {
            index,
            rows_done,
            ..Default::default()
        })
    }

    fn finished(index: u32, rows_affected: u64) -> Event {
        Event::StepFinished(proto::StepFinished {
            step: Some(proto::StepReport {
                index,
                rows_affected,
                ..Default::default()
            }),
        })
    }

    fn entered(to: proto::RunState) -> Event {
        Event::StateChanged(proto::StateChanged {
            to: to.into(),
            ..Default::default()
        })
    }

    fn course(events: Vec<(i64, Event)>) -> Course {
        let mut course = Course::default();
        for (sequence, (second, body)) in (1..).zip(events) {
            course.take(&event(sequence, second, body));
        }
        course
    }

    fn rows(course: &Course) -> Vec<(f64, f64)> {
        course.rows.iter().map(|point| (point.x, point.y)).collect()
    }

    #[test]
    fn steps_too_short_for_progress_still_make_points() {
        let course = course(vec![
            (0, started(0, 0)),
            (1, finished(0, 100)),
            (1, started(1, 0)),
            (
                2,
                Event::Progress(proto::Progress {
                    step_index: 1,
                    step_rows_affected: 30,
                    rows_affected: 130,
                    ..Default::default()
                }),
            ),
            (3, finished(1, 50)),
        ]);
        assert_eq!(course.marks.iter().map(|mark| mark.step).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(
            rows(&course),
            [(0.0, 0.0), (1.0, 100.0), (1.0, 100.0), (2.0, 130.0), (3.0, 150.0)]
        );
    }

    #[test]
    fn a_second_attempt_goes_on_and_the_pause_is_kept() {
        let course = course(vec![
            (0, started(0, 0)),
            (1, progress(10, 1, 5, 0.2, None)),
            (2, entered(proto::RunState::Interrupted)),
            (9, entered(proto::RunState::Running)),
            (9, started(0, 10)),
            (10, progress(20, 2, 5, 0.1, None)),
        ]);
        assert_eq!(course.idle, [(2.0, 9.0)]);
        assert_eq!(rows(&course), [(0.0, 0.0), (1.0, 10.0), (9.0, 10.0), (10.0, 20.0)]);
    }

    #[test]
    fn a_scan_that_begins_again_is_a_line_of_its_own() {
        let course = course(vec![
            (0, started(0, 0)),
            (1, progress(1, 1, 5, 0.5, None)),
            (2, progress(2, 2, 5, 1.0, None)),
            (3, progress(3, 3, 5, 0.1, None)),
        ]);
        let lengths: Vec<usize> = course.scans.iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1]);
    }

    #[test]
    fn slow_times_join_while_their_reason_stays() {
        let course = course(vec![
            (0, progress(1, 1, 5, 0.1, Some("DUTY_CYCLE"))),
            (1, progress(2, 2, 6, 0.2, Some("DUTY_CYCLE"))),
            (2, progress(3, 3, 7, 0.3, Some("LOCKS"))),
            (3, progress(4, 4, 7, 0.4, None)),
            (4, progress(5, 5, 8, 0.5, Some("LOCKS"))),
        ]);
        let found: Vec<(&str, f64, f64)> = course
            .slow
            .iter()
            .map(|slow| (slow.reason.as_str(), slow.from, slow.to))
            .collect();
        assert_eq!(found, [("DUTY_CYCLE", 0.0, 1.0), ("LOCKS", 2.0, 3.0), ("LOCKS", 4.0, 4.0)]);
        assert_eq!(course.slow[0].value, "6 ms");
        assert_eq!(course.slow_figures(), [("DUTY_CYCLE", 1, 1.0), ("LOCKS", 2, 1.0)]);
    }

    #[test]
    fn a_window_without_a_batch_is_no_batch() {
        let course = course(vec![
            (0, progress(1, 1, 40, 0.1, None)),
            (1, progress(1, 1, 40, 0.2, None)),
            (2, progress(2, 3, 20, 0.3, None)),
        ]);
        assert_eq!(course.latency.len(), 2);
        assert_eq!(course.latency_figures(), Some([20.0, 40.0, 40.0]));
        assert_eq!(Course::default().latency_figures(), None);
    }

    #[test]
    fn a_trimmed_log_starts_at_what_it_knows() {
        let lost = Event::HistoryLost(proto::HistoryLost {
            first_available_sequence: 900,
        });
        let course = course(vec![(0, lost), (50, finished(0, 7)), (51, progress(5_000, 9, 3, 0.9, None))]);
        assert_eq!(course.trimmed_before, Some(900));
        assert_eq!(rows(&course), [(1.0, 5_000.0)], "what the first events did is not guessed");
        assert!(course.words()[0].contains("events before number 900"));
    }

    #[test]
    fn a_clock_that_jumps_back_does_not_turn_time_around() {
        let course = course(vec![(10, progress(1, 1, 1, 0.1, None)), (5, progress(2, 2, 1, 0.2, None))]);
        assert!(course.rows.windows(2).all(|pair| pair[0].x <= pair[1].x));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<f64> = (1..=100_u32).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 50), Some(50.0));
        assert_eq!(percentile(&sorted, 95), Some(95.0));
        assert_eq!(percentile(&[3.0], 95), Some(3.0));
        assert_eq!(percentile(&[], 50), None);
    }
}
