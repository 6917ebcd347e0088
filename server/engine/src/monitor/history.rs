//! How long history is kept, and how fine.
//!
//! | step | kept for | points of a metric, at a collection a minute |
//! |---|---|---|
//! | as collected | a day | 1,440 |
//! | 5 minutes | a month | 8,928 |
//! | an hour | two years | 17,544 |

use std::time::Duration;

use jiff::Timestamp;

use crate::port::Step;

const DAY: Duration = Duration::from_secs(86_400);

impl Step {
    /// Every step, the finest first.
    pub const ALL: [Self; 3] = [Self::Raw, Self::FiveMinutes, Self::Hour];

    /// Name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
        }
    }

    /// The step of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }

    /// Length of its intervals; zero for samples as they were collected.
    #[must_use]
    pub fn interval(self) -> Duration {
        match self {
            Self::Raw => Duration::ZERO,
            Self::FiveMinutes => Duration::from_secs(300),
            Self::Hour => Duration::from_secs(3_600),
        }
    }

    /// For how long its points are kept.
    #[must_use]
    pub fn kept(self) -> Duration {
        match self {
            Self::Raw => DAY,
            Self::FiveMinutes => DAY * 31,
            Self::Hour => DAY * 731,
        }
    }

    /// Begin of the interval that a time falls into.
    #[must_use]
    pub fn begin(self, at: Timestamp) -> Timestamp {
        let length = i64::try_from(self.interval().as_secs()).unwrap_or(i64::MAX);
        if length == 0 {
            return at;
        }
        let second = at.as_second();
        Timestamp::from_second(second - second.rem_euclid(length)).unwrap_or(at)
    }

    /// The finest step that still has points of that time, and whose points up to `to` are at most `limit`.
    #[must_use]
    pub fn fitting(from: Timestamp, to: Timestamp, now: Timestamp, collected_every: Duration, limit: u32) -> Self {
        let age = seconds_between(from, now);
        let span = seconds_between(from, to);
        Self::ALL
            .into_iter()
            .find(|step| {
                let interval = step.interval().max(collected_every).as_secs().max(1);
                age <= step.kept().as_secs() && span / interval <= u64::from(limit)
            })
            .unwrap_or(Self::Hour)
    }
}

fn seconds_between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_second().saturating_sub(from.as_second())).unwrap_or(0)
}

/// How much a database grows a day, and when its disk is full: a line through points by least squares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// Bytes a day; negative where it shrinks.
    pub bytes_per_day: f64,
    /// Days until the free bytes are used up; `None` where it does not grow, or nobody knows what is free.
    pub days_until_full: Option<f64>,
}

/// Growth from sizes at times, oldest first. `None` with under three points or under an hour of them: that would be noise.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "sizes and seconds as floating point numbers")]
pub fn growth(sizes: &[(Timestamp, f64)], free_bytes: Option<u64>) -> Option<Growth> {
    let (first, last) = (sizes.first()?.0, sizes.last()?.0);
    if sizes.len() < 3 || seconds_between(first, last) < 3_600 {
        return None;
    }
    let count = sizes.len() as f64;
    let days = |at: Timestamp| (at.as_second() - first.as_second()) as f64 / DAY.as_secs_f64();
    let mean_x = sizes.iter().map(|(at, _)| days(*at)).sum::<f64>() / count;
    let mean_y = sizes.iter().map(|(_, size)| size).sum::<f64>() / count;
    let covariance: f64 = sizes.iter().map(|(at, size)| (days(*at) - mean_x) * (size - mean_y)).sum();
    let variance: f64 = sizes.iter().map(|(at, _)| (days(*at) - mean_x).powi(2)).sum();
    if variance <= 0.0 {
        return None;
    }
    let bytes_per_day = covariance / variance;
    let days_until_full = free_bytes
        .filter(|_| bytes_per_day > 0.0)
        .map(|free| free as f64 / bytes_per_day);
    Some(Growth {
        bytes_per_day,
        days_until_full,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn intervals_begin_at_multiples() {
        assert_eq!(Step::FiveMinutes.begin(at(601)), at(600));
        assert_eq!(Step::FiveMinutes.begin(at(-1)), at(-300));
        assert_eq!(Step::Hour.begin(at(3_600)), at(3_600));
        assert_eq!(Step::Raw.begin(at(7)), at(7));
    }

    #[test]
    fn the_step_follows_the_age_and_the_span() {
        let minute = Duration::from_secs(60);
        let now = at(100 * 86_400);
        let ago = |days: i64| at((100 - days) * 86_400);
        assert_eq!(Step::fitting(ago(1), now, now, minute, 2_000), Step::Raw);
        assert_eq!(Step::fitting(ago(1), now, now, minute, 1_000), Step::FiveMinutes);
        assert_eq!(Step::fitting(ago(7), now, now, minute, 5_000), Step::FiveMinutes);
        assert_eq!(Step::fitting(ago(90), now, now, minute, 5_000), Step::Hour);
        assert_eq!(Step::fitting(ago(90), now, now, minute, 10), Step::Hour);
    }

    #[test]
    fn growth_is_a_line() {
        let sizes: Vec<(Timestamp, f64)> = (0..48_i32)
            .map(|hour| (at(i64::from(hour) * 3_600), 1e9 + 1e6 * f64::from(hour)))
            .collect();
        let growth = super::growth(&sizes, Some(240_000_000)).expect("enough points");
        assert!((growth.bytes_per_day - 24e6).abs() < 1.0, "{growth:?}");
        assert!((growth.days_until_full.expect("it grows") - 10.0).abs() < 1e-6, "{growth:?}");
        assert_eq!(super::growth(&sizes[..2], None), None);
        let still: Vec<_> = sizes.iter().map(|(at, _)| (*at, 5.0)).collect();
        assert_eq!(super::growth(&still, Some(1)).expect("a line").days_until_full, None);
        // All at one time, or the clock went back: no line, and no panic.
        assert_eq!(super::growth(&[(at(0), 1.0), (at(0), 2.0), (at(0), 3.0)], None), None);
        assert_eq!(super::growth(&[(at(9_000), 1.0), (at(5), 2.0), (at(0), 3.0)], None), None);
    }
}
