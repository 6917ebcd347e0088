//! Whether two clocks can be trusted: that of the store, by which slots are decided, and that of this server, by which people read its log
//! and its rules their horizons. Both may leap, and they may drift apart. Pure: what the clocks said comes in. Called by the loop that
//! decides slots.

use std::{fmt, time::Instant};

use jiff::{SignedDuration, Timestamp};

/// What two clocks may differ by, and what one of them may leap by, before somebody should know.
pub const CLOCK_BOUND: SignedDuration = SignedDuration::from_secs(30);

/// Something about the clocks that somebody should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockAlarm {
    /// This server's clock is ahead of the store's by so much, or behind it where that is negative.
    Apart(SignedDuration),
    /// They agree again.
    Together,
    /// The store's clock leapt by so much, back where that is negative.
    Leapt(SignedDuration),
}

fn direction(by: SignedDuration, forth: &'static str, back: &'static str) -> &'static str {
    if by.is_negative() { back } else { forth }
}

impl fmt::Display for ClockAlarm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart(by) => write!(
                formatter,
                "the clock of this server is {:#} {} that of the control store; slots are decided by the store's. Set the clocks right",
                by.abs(),
                direction(*by, "ahead of", "behind")
            ),
            Self::Together => formatter.write_str("the clocks of this server and of the control store agree again"),
            Self::Leapt(by) => write!(
                formatter,
                "the clock of the control store leapt {} by {:#}; no slot fires twice, and those that were passed over are missed or caught up as their schedules say",
                direction(*by, "forward", "back"),
                by.abs()
            ),
        }
    }
}

/// One look at the store's clock. Its answer takes a while, and when in that while it looked at its clock nobody knows.
#[derive(Debug, Clone, Copy)]
pub struct ClockReading {
    /// This server's clock before it asked, and a clock that nobody sets.
    pub before: (Timestamp, Instant),
    /// Both when the answer was there.
    pub after: (Timestamp, Instant),
    /// What the store's clock said.
    pub store: Timestamp,
}

/// Remembers what the clocks said, so that each change is told once.
#[derive(Debug, Default)]
pub struct ClockWatch {
    last: Option<ClockReading>,
    apart: bool,
}

/// By how much an instant lies outside of an interval; zero inside.
fn outside(value: SignedDuration, low: SignedDuration, high: SignedDuration) -> SignedDuration {
    if value < low {
        value - low
    } else if value > high {
        value - high
    } else {
        SignedDuration::ZERO
    }
}

impl ClockWatch {
    /// Takes a look into account; returns what has changed. An answer that took long is no difference.
    pub fn look(&mut self, reading: ClockReading) -> Vec<ClockAlarm> {
        let mut alarms = Vec::new();
        if let Some(last) = self.last {
            let between = |from: Instant, to: Instant| {
                SignedDuration::try_from(to.saturating_duration_since(from)).unwrap_or(SignedDuration::MAX)
            };
            let (least, most) = (
                between(last.after.1, reading.before.1),
                between(last.before.1, reading.after.1),
            );
            let leap = outside(reading.store.duration_since(last.store), least, most);
            if leap.abs() > CLOCK_BOUND {
                alarms.push(ClockAlarm::Leapt(leap));
            }
        }
        self.last = Some(reading);
        // Ahead is what this server's clock was before the store looked at its own, behind what it had not reached after that.
        let (before, after) = (reading.before.0, reading.after.0);
        let ahead = -outside(
            reading.store.duration_since(before),
            SignedDuration::ZERO,
            after.duration_since(before),
        );
        let apart = ahead.abs() > CLOCK_BOUND;
        if apart != self.apart {
            alarms.push(if apart {
                ClockAlarm::Apart(ahead)
            } else {
                ClockAlarm::Together
            });
            self.apart = apart;
        }
        alarms
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Clocks of a server and of a store, and one that nobody sets.
    struct Clocks {
        watch: ClockWatch,
        start: Instant,
        passed: i64,
    }

    impl Clocks {
        fn new() -> Self {
            Self {
                watch: ClockWatch::default(),
                start: Instant::now(),
                passed: 0,
            }
        }

        /// A look after so many seconds, by clocks that are off by so many; the answer takes as long as said.
        fn look(&mut self, after: i64, server: i64, store: i64, took: i64) -> Vec<ClockAlarm> {
            let begun = self.passed + after;
            self.passed = begun + took;
            let at = |offset: i64| Timestamp::from_second(1_800_000_000 + begun + offset).expect("an instant");
            let passed = |seconds: i64| self.start + Duration::from_secs(seconds.unsigned_abs());
            let reading = ClockReading {
                before: (at(server), passed(begun)),
                after: (at(server + took), passed(begun + took)),
                store: at(store),
            };
            self.watch.look(reading)
        }
    }

    fn seconds(number: i64) -> SignedDuration {
        SignedDuration::from_secs(number)
    }

    #[test]
    fn each_change_is_told_once() {
        let mut clocks = Clocks::new();
        assert_eq!(clocks.look(0, 0, 0, 0), []);
        assert_eq!(clocks.look(1, 30, 0, 0), [], "that much is usual");
        assert_eq!(clocks.look(1, 31, 0, 0), [ClockAlarm::Apart(seconds(31))]);
        assert_eq!(clocks.look(1, 45, 0, 0), [], "known");
        assert_eq!(clocks.look(1, 0, 0, 0), [ClockAlarm::Together]);
        assert_eq!(clocks.look(1, -40, 0, 0), [ClockAlarm::Apart(seconds(-40))]);
    }

    #[test]
    fn a_leap_of_the_store_is_told_and_one_of_the_server_is_a_difference() {
        let mut clocks = Clocks::new();
        assert_eq!(clocks.look(0, 0, 0, 0), []);
        assert_eq!(
            clocks.look(1, 0, 10_800, 0),
            [ClockAlarm::Leapt(seconds(10_800)), ClockAlarm::Apart(seconds(-10_800))]
        );
        assert_eq!(clocks.look(1, 0, 10_800, 0), []);
        assert_eq!(
            clocks.look(1, 0, 0, 0),
            [ClockAlarm::Leapt(seconds(-10_800)), ClockAlarm::Together]
        );
        // A machine whose clock leaps takes both along, where the store is a file.
        assert_eq!(clocks.look(1, 3_600, 3_600, 0), [ClockAlarm::Leapt(seconds(3_600))]);
        assert_eq!(clocks.look(1, 3_600, 3_600, 0), []);
    }

    #[test]
    fn a_slow_answer_is_no_difference() {
        let mut clocks = Clocks::new();
        assert_eq!(clocks.look(0, 0, 0, 0), []);
        // The store looks at its clock at the end of a minute, at the next look at once, and then in the middle of one.
        assert_eq!(clocks.look(1, 0, 60, 60), []);
        assert_eq!(clocks.look(1, 0, 0, 60), []);
        assert_eq!(clocks.look(1, 0, 30, 60), []);
        assert_eq!(clocks.look(1, 0, 100, 60), [ClockAlarm::Apart(seconds(-40))]);
    }

    #[test]
    fn alarms_say_which_way() {
        assert!(ClockAlarm::Apart(seconds(31)).to_string().contains("31s ahead of that"));
        assert!(ClockAlarm::Apart(seconds(-90)).to_string().contains("behind that"));
        assert!(ClockAlarm::Leapt(seconds(-90)).to_string().contains("leapt back by 1m 30s"));
    }
}
