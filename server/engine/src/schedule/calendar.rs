//! Windows in which no slot fires, read in the schedule's zone.
//!
//! | form | meaning |
//! |---|---|
//! | `2026-12-24..2026-12-26`, `2026-12-24` | these dates, the last one too |
//! | `12-24..01-06`, `12-24` | these days of every year; may run over New Year |
//! | `MON-FRI 08:00-18:00` | these hours of these weekdays, the last instant not; may run over midnight, and belongs to the day on which it begins |
//! | `SAT,SUN` | these whole weekdays |

use std::fmt;

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time, Weekday},
    tz::TimeZone,
};

use super::cron::{Cron, DstPolicy, Occurrence};
use crate::spelling;

/// Days in the order of a week.
const WEEKDAYS: [&str; 7] = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"];
const DAY_MINUTES: u16 = 24 * 60;

/// A day of a year without its year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonthDay {
    month: i8,
    day: i8,
}

impl fmt::Display for MonthDay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:02}-{:02}", self.month, self.day)
    }
}

/// A window in which no slot fires. Displayed, it is the text that it is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exclusion {
    /// Dates from one to another, both included.
    Dates {
        /// The first.
        from: Date,
        /// The last.
        to: Date,
    },
    /// Days of every year from one to another, both included; over New Year where the last is before the first.
    Yearly {
        /// The first.
        from: MonthDay,
        /// The last.
        to: MonthDay,
    },
    /// Hours of weekdays.
    Weekly {
        /// One bit for each day on which it begins; Monday is bit 0.
        days: u8,
        /// Minute of the day at which it begins.
        from: u16,
        /// Minute of the day at which it is over; up to `from` where that is on the next day.
        to: u16,
    },
}

impl Exclusion {
    /// Reads a window.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        const EXPECTED: &str = "expected dates such as 2026-12-24..2026-12-26, days of a year such as 12-24..12-26, or hours of \
                                weekdays such as MON-FRI 08:00-18:00";
        let written = text.trim();
        match written.chars().next() {
            None => Err(vec![format!("is empty; {EXPECTED}")]),
            Some(first) if first.is_ascii_digit() => {
                let (from, to) = written.split_once("..").unwrap_or((written, written));
                // A year has four digits, and a month has two.
                if from.split('-').count() == 3 || to.split('-').count() == 3 {
                    both(from, to, date).and_then(|(from, to)| dates(from, to))
                } else if from.contains('-') {
                    both(from, to, month_day).map(|(from, to)| Self::Yearly { from, to })
                } else {
                    Err(vec![format!("{written:?} is no window; {EXPECTED}")])
                }
            }
            Some(first) if first.is_ascii_alphabetic() => weekly(written),
            Some(_) => Err(vec![format!("{written:?} is no window; {EXPECTED}")]),
        }
    }

    /// Whether a wall time of the schedule's zone lies in the window.
    #[must_use]
    pub fn excludes(&self, local: DateTime) -> bool {
        self.end_of(local).is_some()
    }

    /// The wall time at which the window that a wall time lies in is over, at the latest after a year; `None` where it lies in none.
    pub(super) fn end_of(&self, local: DateTime) -> Option<DateTime> {
        match *self {
            Self::Dates { from, to } => {
                let within = (from..=to).contains(&local.date());
                within.then(|| midnight_after(to))
            }
            Self::Yearly { from, to } => {
                let today = MonthDay {
                    month: local.month(),
                    day: local.day(),
                };
                let wraps = to < from;
                let within = if wraps {
                    today >= from || today <= to
                } else {
                    (from..=to).contains(&today)
                };
                let year = if wraps && today >= from {
                    local.year() + 1
                } else {
                    local.year()
                };
                // A last day that this year does not have is a 29th of February: the window is over before the 1st of March.
                let last = Date::new(year, to.month, to.day).or_else(|_| Date::new(year, 2, 28));
                within.then(|| last.map_or(DateTime::MAX, midnight_after))
            }
            Self::Weekly { days, from, to } => {
                let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
                let begins_on = |weekday: Weekday| days & 1 << weekday.to_monday_zero_offset().unsigned_abs() != 0;
                let wraps = to <= from;
                let today = begins_on(local.weekday()) && minute >= from && (wraps || minute < to);
                if today {
                    return Some(if wraps {
                        at_minute(midnight_after(local.date()), to)
                    } else {
                        at_minute(midnight(local.date()), to)
                    });
                }
                let since_yesterday = wraps && begins_on(local.weekday().previous()) && minute < to;
                since_yesterday.then(|| at_minute(midnight(local.date()), to))
            }
        }
    }
}

/// The window that a wall time lies in, the first of several.
#[must_use]
pub fn excluding(exclusions: &[Exclusion], local: DateTime) -> Option<&Exclusion> {
    exclusions.iter().find(|window| window.excludes(local))
}

/// The first occurrence strictly after one instant, up to and with another, that fires and that no window excludes. Goes from window to window and
/// not from occurrence to occurrence: a year of minutes in one window is one step.
#[must_use]
pub fn next_allowed(
    cron: &Cron,
    zone: &TimeZone,
    dst: DstPolicy,
    exclusions: &[Exclusion],
    after: Timestamp,
    until: Timestamp,
) -> Option<Occurrence> {
    let mut walk = cron.walk(zone, dst, after);
    loop {
        let occurrence = walk.next().filter(|occurrence| occurrence.at <= until)?;
        if !occurrence.fires() {
            continue;
        }
        let Some(over) = exclusions.iter().find_map(|window| window.end_of(occurrence.local)) else {
            return Some(occurrence);
        };
        // The end itself is no longer part of the window. Where the clock shows it twice the first time is meant; what is excluded
        // after it is looked at again.
        let over = zone.to_timestamp(over).ok()?;
        walk.skip_to(over.checked_sub(jiff::SignedDuration::from_secs(1)).ok()?);
    }
}

fn midnight(date: Date) -> DateTime {
    date.to_datetime(Time::midnight())
}

fn midnight_after(date: Date) -> DateTime {
    date.tomorrow().map_or(DateTime::MAX, midnight)
}

/// The wall time so many minutes after a midnight.
fn at_minute(midnight: DateTime, minute: u16) -> DateTime {
    midnight
        .checked_add(jiff::SignedDuration::from_mins(i64::from(minute)))
        .unwrap_or(DateTime::MAX)
}

fn both<T>(from: &str, to: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<(T, T), Vec<String>> {
    match (read(from), read(to)) {
        (Ok(from), Ok(to)) => Ok((from, to)),
        (Err(problem), Err(other)) if problem == other => Err(vec![problem]),
        (from, to) => Err([from.err(), to.err()].into_iter().flatten().collect()),
    }
}

fn date(text: &str) -> Result<Date, String> {
    // The type reads more forms than this one.
    let plain = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    plain
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| format!("{text:?} is no date; expected one such as 2026-12-24"))
}

fn dates(from: Date, to: Date) -> Result<Exclusion, Vec<String>> {
    if to < from {
        return Err(vec![format!("{from}..{to} runs backwards; did you mean {to}..{from}?")]);
    }
    Ok(Exclusion::Dates { from, to })
}

fn month_day(text: &str) -> Result<MonthDay, String> {
    let expected = || format!("{text:?} is no day of a year; expected month and day such as 12-24");
    let (month, day) = text.split_once('-').ok_or_else(expected)?;
    if month.len() != 2 || day.len() != 2 {
        return Err(expected());
    }
    let (month, day) = (month.parse().map_err(|_| expected())?, day.parse().map_err(|_| expected())?);
    // In a leap year, which has every day that any year has.
    Date::new(2024, month, day)
        .map(|_| MonthDay { month, day })
        .map_err(|_| expected())
}

fn weekly(text: &str) -> Result<Exclusion, Vec<String>> {
    let (days, hours) = match text.split_once(char::is_whitespace) {
        Some((days, hours)) => (days, Some(hours.trim())),
        None => (text, None),
    };
    let mut problems = Vec::new();
    let mut set = 0_u8;
    for element in days.split(',') {
        let (first, last) = element.split_once('-').unwrap_or((element, element));
        match both(first, last, weekday) {
            Ok((first, last)) => {
                let span = (last + 7 - first) % 7;
                set = (0..=span).fold(set, |set, step| set | 1 << ((first + step) % 7));
            }
            Err(found) => problems.extend(found),
        }
    }
    let mut read_hours = (0, DAY_MINUTES);
    if let Some(hours) = hours {
        match hours.split_once('-') {
            None => problems.push(format!("{hours:?} is no range of hours; expected one such as 08:00-18:00")),
            Some((from, to)) => match both(from.trim(), to.trim(), minute_of_day) {
                Ok((from, _)) if from == DAY_MINUTES => {
                    problems.push(format!("{hours:?} begins at the end of the day; did you mean 00:00?"));
                }
                Ok((from, to)) if from == to => {
                    problems.push(format!(
                        "{hours:?} is empty; expected an end after the beginning, or 00:00-24:00"
                    ));
                }
                // 22:00-00:00 is over when the day is.
                Ok((from, 0)) => read_hours = (from, DAY_MINUTES),
                Ok(found) => read_hours = found,
                Err(found) => problems.extend(found),
            },
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Exclusion::Weekly {
        days: set,
        from: read_hours.0,
        to: read_hours.1,
    })
}

fn weekday(text: &str) -> Result<u8, String> {
    let found = WEEKDAYS.iter().position(|name| name.eq_ignore_ascii_case(text));
    found.and_then(|position| u8::try_from(position).ok()).ok_or_else(|| {
        let written_out = WEEKDAYS
            .iter()
            .find(|name| text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(name)));
        let near = written_out.map_or_else(
            || spelling::suggestion(WEEKDAYS, text),
            |name| format!("; did you mean {name}?"),
        );
        format!("{text:?} is no weekday; expected MON to SUN{near}")
    })
}

fn minute_of_day(text: &str) -> Result<u16, String> {
    let expected = || format!("{text:?} is no time of day; expected 00:00 to 24:00");
    let (hour, minute) = text.split_once(':').ok_or_else(expected)?;
    let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return Err(expected());
    }
    let (hour, minute): (u16, u16) = (hour.parse().map_err(|_| expected())?, minute.parse().map_err(|_| expected())?);
    let whole = hour * 60 + minute;
    if minute > 59 || whole > DAY_MINUTES {
        return Err(expected());
    }
    Ok(whole)
}

impl fmt::Display for Exclusion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dates { from, to } if from == to => write!(formatter, "{from}"),
            Self::Dates { from, to } => write!(formatter, "{from}..{to}"),
            Self::Yearly { from, to } if from == to => write!(formatter, "{from}"),
            Self::Yearly { from, to } => write!(formatter, "{from}..{to}"),
            Self::Weekly { days, from, to } => {
                formatter.write_str(&weekdays(*days))?;
                if (*from, *to) == (0, DAY_MINUTES) {
                    return Ok(());
                }
                write!(formatter, " {:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
            }
        }
    }
}

/// Runs of days as ranges, in the order of a week.
fn weekdays(days: u8) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut day = 0;
    while day < 7 {
        let run = (day..7).take_while(|day| days & 1 << day != 0).count();
        let name = |day: usize| WEEKDAYS.get(day).copied().unwrap_or_default();
        match run {
            0 => day += 1,
            1 => parts.push(name(day).to_owned()),
            _ => parts.push(format!("{}-{}", name(day), name(day + run - 1))),
        }
        day += run;
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime {
        text.parse().expect("a wall time")
    }

    #[test]
    fn windows_hold_what_they_say() {
        // (window, inside, outside)
        let cases: [(&str, &[&str], &[&str]); 9] = [
            (
                "2026-12-24..2026-12-26",
                &["2026-12-24T00:00", "2026-12-26T23:59:59"],
                &["2026-12-23T23:59:59", "2026-12-27T00:00", "2027-12-25T00:00"],
            ),
            ("2026-12-24", &["2026-12-24T12:00"], &["2026-12-25T00:00"]),
            (
                "12-24..12-26",
                &["2026-12-24T00:00", "2031-12-26T23:59"],
                &["2026-12-23T12:00", "2026-12-27T00:00"],
            ),
            (
                "12-24..01-06",
                &["2026-12-24T00:00", "2027-01-06T23:59", "2027-01-01T00:00"],
                &["2027-01-07T00:00", "2026-12-23T00:00", "2026-07-01T00:00"],
            ),
            ("02-29", &["2028-02-29T12:00"], &["2027-02-28T12:00", "2027-03-01T00:00"]),
            (
                // 2026-11-27 is a Friday.
                "MON-FRI 08:00-18:00",
                &["2026-11-27T08:00", "2026-11-27T17:59"],
                &["2026-11-27T07:59", "2026-11-27T18:00", "2026-11-28T12:00"],
            ),
            (
                "FRI 22:00-06:00",
                &["2026-11-27T22:00", "2026-11-28T05:59"],
                &["2026-11-28T06:00", "2026-11-28T22:00", "2026-11-27T05:00"],
            ),
            (
                "SAT-MON",
                &["2026-11-28T00:00", "2026-11-29T12:00", "2026-11-30T23:59"],
                &["2026-11-27T23:59", "2026-12-01T00:00"],
            ),
            (
                "sun 22:00-00:00",
                &["2026-11-29T22:00", "2026-11-29T23:59"],
                &["2026-11-30T00:00", "2026-11-29T21:59"],
            ),
        ];
        for (text, inside, outside) in cases {
            let window = Exclusion::parse(text).expect(text);
            for local in inside {
                assert!(window.excludes(at(local)), "{text} holds {local}");
            }
            for local in outside {
                assert!(!window.excludes(at(local)), "{text} does not hold {local}");
            }
        }
    }

    #[test]
    fn a_window_says_when_it_is_over() {
        for (text, local, over) in [
            ("2026-12-24..2026-12-26", "2026-12-24T10:00", "2026-12-27T00:00"),
            ("12-24..01-06", "2026-12-30T10:00", "2027-01-07T00:00"),
            ("12-24..01-06", "2027-01-03T10:00", "2027-01-07T00:00"),
            ("02-20..02-29", "2027-02-21T10:00", "2027-03-01T00:00"),
            ("02-20..02-29", "2028-02-21T10:00", "2028-03-01T00:00"),
            ("FRI 22:00-06:00", "2026-11-27T23:00", "2026-11-28T06:00"),
            ("FRI 22:00-06:00", "2026-11-28T01:00", "2026-11-28T06:00"),
            ("SAT", "2026-11-28T01:00", "2026-11-29T00:00"),
        ] {
            let window = Exclusion::parse(text).expect(text);
            assert_eq!(window.end_of(at(local)), Some(at(over)), "{text} at {local}");
            assert!(!window.excludes(at(over)), "{text} is over at {over}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_everything_that_is_wrong() {
        let cases: [(&str, &[&str]); 16] = [
            ("", &["is empty"]),
            ("?", &["is no window"]),
            ("5", &["is no window"]),
            ("2026-12-26..2026-12-24", &["did you mean 2026-12-24..2026-12-26?"]),
            (
                "2026-13-01..2026-02-30",
                &["\"2026-13-01\" is no date", "\"2026-02-30\" is no date"],
            ),
            ("2026-12-24..26", &["\"26\" is no date"]),
            ("12-24..2026-12-26", &["\"12-24\" is no date"]),
            ("02-30", &["\"02-30\" is no day of a year"]),
            ("1-1..1-2", &["\"1-1\" is no day of a year", "\"1-2\" is no day of a year"]),
            ("MOON 08:00-18:00", &["did you mean MON?"]),
            (
                "Friday,XYZ 8-25:00",
                &[
                    "did you mean FRI?",
                    "\"XYZ\" is no weekday",
                    "\"8\" is no time",
                    "\"25:00\" is no time",
                ],
            ),
            ("MON 08:00", &["is no range of hours"]),
            ("MON 08:00-08:00", &["is empty"]),
            ("MON 24:00-08:00", &["did you mean 00:00?"]),
            ("MON 08:60-24:01", &["\"08:60\" is no time", "\"24:01\" is no time"]),
            ("MON,,FRI", &["\"\" is no weekday"]),
        ];
        for (text, expected) in cases {
            let problems = Exclusion::parse(text).expect_err(text);
            assert_eq!(problems.len(), expected.len(), "{text}: {problems:?}");
            for (problem, expected) in problems.iter().zip(expected) {
                assert!(problem.contains(expected), "{text}: {problem}");
            }
        }
    }

    fn any_window() -> impl Strategy<Value = Exclusion> {
        let date = (1990_i16..2100, 1_i8..=12, 1_i8..=28).prop_map(|(year, month, day)| Date::constant(year, month, day));
        let month_day = (1_i8..=12, 1_i8..=29).prop_map(|(month, day)| MonthDay { month, day });
        prop_oneof![
            (date.clone(), date).prop_map(|(one, other)| Exclusion::Dates {
                from: one.min(other),
                to: one.max(other)
            }),
            (month_day.clone(), month_day).prop_map(|(from, to)| Exclusion::Yearly { from, to }),
            (1_u8..128, 0..DAY_MINUTES, 1..=DAY_MINUTES)
                .prop_filter("an empty window has no text", |(_, from, to)| from != to)
                .prop_map(|(days, from, to)| Exclusion::Weekly { days, from, to }),
        ]
    }

    proptest! {
        #[test]
        fn a_window_is_read_as_it_was_written(window in any_window()) {
            prop_assert_eq!(Exclusion::parse(&window.to_string()), Ok(window));
        }

        #[test]
        fn no_text_brings_the_reader_down(text in "\\PC{0,40}") {
            let _ = Exclusion::parse(&text);
        }

        /// The end of a window is the first minute that is not in it.
        #[test]
        fn every_minute_up_to_the_end_is_inside(window in any_window(), minute in 0_i64..60 * 24 * 366 * 3) {
            let local = Date::constant(2026, 1, 1).at(0, 0, 0, 0) + jiff::SignedDuration::from_mins(minute);
            if let Some(end) = window.end_of(local) {
                prop_assert!(end > local);
                let mut walked = local;
                // Days are enough for windows that are made of days.
                let step = if matches!(window, Exclusion::Weekly { .. }) { 1 } else { 24 * 60 };
                while walked < end && (end.year() - local.year()) < 3 {
                    prop_assert!(window.excludes(walked), "{window} at {walked}");
                    walked += jiff::SignedDuration::from_mins(step);
                }
            }
        }
    }
}
