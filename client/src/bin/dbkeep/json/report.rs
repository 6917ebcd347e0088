//! JSON of a run's report with its course.
//!
//! Owns the shapes `report` and `course`: figures, not points; `runs watch --output json` has the events behind them. Called by
//! `report/`.

use dbkeep_client::proto;
use serde::Serialize;

use super::run::Run;
use crate::report::series::Course;

/// A run and its course.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    run: Run<'a>,
    course: Figures<'a>,
}

/// Figures of the events that are kept.
#[derive(Debug, Serialize)]
struct Figures<'a> {
    /// When the first event happened that is kept; null where there is none.
    begin_time: Option<String>,
    /// From there to the last event.
    duration_seconds: f64,
    /// Sequence of the oldest event that is kept; null where none was trimmed.
    trimmed_before_sequence: Option<u64>,
    /// Progress events, of which there are at most ten a second.
    progress_count: u64,
    /// Null where no batch was sampled.
    batch_duration: Option<BatchDuration>,
    /// What slowed the run, by reason.
    slow: Vec<Slow<'a>>,
    /// How often nobody worked on it for a time.
    interruption_count: usize,
}

/// Over the sampled batches.
#[derive(Debug, Serialize)]
struct BatchDuration {
    sample_count: usize,
    p50_seconds: f64,
    p95_seconds: f64,
    max_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Slow<'a> {
    reason: &'a str,
    /// How often it set in.
    count: usize,
    duration_seconds: f64,
}

impl<'a> Report<'a> {
    pub(crate) fn new(run: &'a proto::Run, course: &'a Course) -> Self {
        let latency = course.latency_figures().map(|[median, high, longest]| BatchDuration {
            sample_count: course.latency.len(),
            p50_seconds: median / 1_000.0,
            p95_seconds: high / 1_000.0,
            max_seconds: longest / 1_000.0,
        });
        let slow = course.slow_figures().into_iter().map(|(reason, count, seconds)| Slow {
            reason,
            count,
            duration_seconds: seconds,
        });
        Self {
            run: run.into(),
            course: Figures {
                begin_time: course.began.map(|instant| instant.to_string()),
                duration_seconds: course.length,
                trimmed_before_sequence: course.trimmed_before,
                progress_count: course.samples,
                batch_duration: latency,
                slow: slow.collect(),
                interruption_count: course.idle.len(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::series::{Point, Slow as Interval};

    #[test]
    fn figures_of_a_course() {
        let run = proto::Run::default();
        let mut course = Course::default();
        course.began = Some(jiff::Timestamp::UNIX_EPOCH);
        course.length = 12.5;
        course.trimmed_before = Some(7);
        course.samples = 2;
        course.latency = vec![Point { x: 0.0, y: 40.0 }, Point { x: 1.0, y: 60.0 }];
        course.slow = vec![Interval {
            reason: "DUTY_CYCLE".into(),
            value: "40 ms".into(),
            from: 1.0,
            to: 3.0,
        }];
        let json = serde_json::to_value(Report::new(&run, &course)).unwrap();
        assert_eq!(
            json["course"].to_string(),
            serde_json::json!({
                "begin_time": "1970-01-01T00:00:00Z", "duration_seconds": 12.5, "trimmed_before_sequence": 7,
                "progress_count": 2,
                "batch_duration": {"sample_count": 2, "p50_seconds": 0.04, "p95_seconds": 0.06, "max_seconds": 0.06},
                "slow": [{"reason": "DUTY_CYCLE", "count": 1, "duration_seconds": 2.0}], "interruption_count": 0,
            })
            .to_string()
        );
        assert_eq!(json["run"]["id"], "");
        let empty = serde_json::to_value(Report::new(&run, &Course::default())).unwrap();
        assert_eq!(empty["course"]["batch_duration"], serde_json::Value::Null);
    }
}
