//! The five fields of POSIX cron, and the instants that they name in a time zone.
//!
//! **Fields.** `minute hour day_of_month month day_of_week`, each a list of values, ranges and steps: `*`, `*/15`, `1-5`, `8-18/2`,
//! `MON,FRI`. Names are taken in any case; 0 and 7 are Sunday; a range of weekdays may run over the end of the week (`FRI-MON`,
//! `5-7`), one of any other field may not.
//!
//! **Days.** Where both day fields are restricted, a day counts if *either* matches (POSIX: `0 0 13 * FRI` is every Friday and every
//! 13th). A field that starts with `*`, also as `*/2`, takes no part in that: then a day has to match *both*, as in Vixie's cron.
//!
//! **Clock changes.** A schedule with a `*` at the start of its minute or hour field (`*/15 * * * *`, `0 * * * *`) goes by real time:
//! where the clock skips an hour, the times in it are just not there; where it shows an hour twice, they come twice. The policies do
//! not concern it. Any other has *fixed* times:
//!
//! | the wall time | policy | what happens |
//! |---|---|---|
//! | is skipped (a gap) | `RunShifted` | at the first instant after the gap; several that fall there happen once |
//! | | `Skip` | not that day; the first instant after the gap is an occurrence that says so and [does not fire](Occurrence::fires) |
//! | comes twice (a fold) | `Once` | the first time |
//! | | `Twice` | both times |
//!
//! Between two changes of the clock wall time is real time plus a constant. So occurrences are found segment by segment
//! (`walk.rs`): each is an instant, they only go up, and none comes twice. The `cron` crate walks the calendar of wall times within a
//! segment, to which end each field is handed to it as a plain list: it counts weekdays from 1, joins the day fields by AND, and is not
//! to be asked about zones.
//!
//! Occurrences end with the year 2100.

mod field;
mod walk;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::fmt;

use jiff::{Timestamp, civil, tz::TimeZone};

use self::{
    field::{FieldKind, Values, WEEKDAYS},
    walk::Walk,
};
use super::FieldProblem;
pub use crate::model::schedule::{CronFields, DstPolicy, FoldPolicy, GapPolicy};
use crate::spelling;

/// Names that stand for a whole expression.
const ALIASES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

impl CronFields {
    /// Takes an expression apart: five fields, or an alias such as `@daily`. What the fields mean is not looked at.
    ///
    /// # Errors
    /// The problem of field `expression`.
    pub fn from_expression(expression: &str) -> Result<Self, Vec<FieldProblem>> {
        let problem = |text: String| vec![FieldProblem::new("expression", text)];
        let written = expression.trim();
        if written.starts_with('@') {
            if written.eq_ignore_ascii_case("@reboot") {
                return Err(problem(
                    "\"@reboot\" names the start of a machine, which is no time; expected five fields, or one of @hourly, @daily, \
                     @weekly, @monthly, @yearly"
                        .to_owned(),
                ));
            }
            let known = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(written));
            let Some((_, meaning)) = known else {
                return Err(problem(format!(
                    "{written:?} is no alias; expected one of {}{}",
                    ALIASES.map(|(alias, _)| alias).join(", "),
                    spelling::suggestion(ALIASES.iter().map(|(alias, _)| *alias), written)
                )));
            };
            return Self::from_expression(meaning);
        }
        let fields: Vec<&str> = written.split_whitespace().collect();
        let [minute, hour, day_of_month, month, day_of_week] = fields[..] else {
            return Err(problem(format!(
                "{written:?} has {} fields; expected 5: minute hour day_of_month month day_of_week{}",
                fields.len(),
                if matches!(fields.len(), 6 | 7) {
                    "; seconds are not supported"
                } else {
                    ""
                }
            )));
        };
        Ok(Self {
            minute: minute.to_owned(),
            hour: hour.to_owned(),
            day_of_month: day_of_month.to_owned(),
            month: month.to_owned(),
            day_of_week: day_of_week.to_owned(),
        })
    }

    /// The five fields in one line.
    #[must_use]
    pub fn to_expression(&self) -> String {
        FieldKind::ALL.map(|kind| self.field(kind).trim()).join(" ")
    }

    fn field(&self, kind: FieldKind) -> &str {
        match kind {
            FieldKind::Minute => &self.minute,
            FieldKind::Hour => &self.hour,
            FieldKind::DayOfMonth => &self.day_of_month,
            FieldKind::Month => &self.month,
            FieldKind::DayOfWeek => &self.day_of_week,
        }
    }
}

impl fmt::Display for CronFields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.to_expression())
    }
}

/// An instant at which a schedule is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// The instant.
    pub at: Timestamp,
    /// What the clock on the wall shows then.
    pub local: civil::DateTime,
    /// Why that is not plainly what the fields say.
    pub shift: Option<Shift>,
}

impl Occurrence {
    /// Whether anything happens: not at a time that the clock skips and the schedule with it.
    #[must_use]
    pub fn fires(&self) -> bool {
        !matches!(self.shift, Some(Shift::Skipped { .. }))
    }
}

/// What a change of the clock did to an occurrence. Displayed, it is a sentence for a preview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shift {
    /// The clock skipped the time that the fields name.
    Gap {
        /// That time; the first of them where it skipped several.
        wanted: civil::DateTime,
        /// Name of the zone.
        zone: String,
    },
    /// The same, and the schedule lets such a time pass: this occurrence, at the first instant after the gap, does not fire.
    Skipped {
        /// That time; the first of them where it skipped several.
        wanted: civil::DateTime,
        /// Name of the zone.
        zone: String,
    },
    /// The clock shows this time again later; this is the first time.
    FoldFirst,
    /// The clock has shown this time before; this is the second time.
    FoldSecond,
}

impl fmt::Display for Shift {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { wanted, zone } => write!(
                formatter,
                "{} does not exist on {} in {zone}, where the clock goes forward: this is the first instant after",
                wanted.strftime("%H:%M"),
                wanted.date()
            ),
            Self::Skipped { wanted, zone } => write!(
                formatter,
                "{} does not exist on {} in {zone}, where the clock goes forward, and this schedule skips such a time (gap = skip)",
                wanted.strftime("%H:%M"),
                wanted.date()
            ),
            Self::FoldFirst => formatter.write_str("the clock goes back and shows this time twice: this is the first time"),
            Self::FoldSecond => formatter.write_str("the clock goes back and shows this time twice: this is the second time"),
        }
    }
}

/// Five fields that make sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Cron {
    /// The calendar of the fields in wall time; two where either day field makes a day count.
    calendars: Vec<::cron::Schedule>,
    /// Whether minute or hour starts with `*`.
    wildcard: bool,
}

impl Cron {
    /// Reads the fields.
    ///
    /// # Errors
    /// Everything that is wrong with any of them, in the order of the fields; among that, that no day of any year matches.
    pub fn parse(fields: &CronFields) -> Result<Self, Vec<FieldProblem>> {
        let mut problems = Vec::new();
        let mut read = |kind: FieldKind| {
            let found = field::parse(kind, fields.field(kind));
            found
                .map_err(|texts| problems.extend(texts.into_iter().map(|text| FieldProblem::new(kind.name(), text))))
                .ok()
        };
        let all = FieldKind::ALL.map(&mut read);
        let [Some(minute), Some(hour), Some(day), Some(month), Some(weekday)] = all else {
            return Err(problems);
        };
        let either = !day.starred && !weekday.starred;
        if !either && !any_date(day, month) {
            return Err(vec![FieldProblem::new(
                FieldKind::DayOfMonth.name(),
                format!(
                    "never fires: no month of {:?} has a day {:?}",
                    fields.month.trim(),
                    fields.day_of_month.trim()
                ),
            )]);
        }
        let time = format!("0 {} {}", list(minute), list(hour));
        let months = list(month);
        let weekdays = weekday
            .iter()
            .filter_map(|number| WEEKDAYS.get(usize::from(number)).copied())
            .collect::<Vec<_>>()
            .join(",");
        // All seven have to be written as such: the crate skips the question of weekdays for it.
        let weekdays = if weekday.iter().count() == 7 {
            "*".to_owned()
        } else {
            weekdays
        };
        let expressions = if either {
            // A day of the month that never comes takes nothing from the weekdays.
            let by_date = any_date(day, month).then(|| format!("{time} {} {months} *", list(day)));
            by_date.into_iter().chain([format!("{time} * {months} {weekdays}")]).collect()
        } else {
            vec![format!("{time} {} {months} {weekdays}", list(day))]
        };
        let mut calendars = Vec::new();
        for expression in expressions {
            match expression.parse() {
                Ok(calendar) => calendars.push(calendar),
                // Every list in it was made here, of values in range; were the crate to change its mind, nothing would fire.
                Err(error) => {
                    let text = format!("{:?} cannot be read: {error}", fields.to_expression());
                    return Err(vec![FieldProblem::new(FieldKind::Minute.name(), text)]);
                }
            }
        }
        Ok(Self {
            calendars,
            wildcard: minute.starred || hour.starred,
        })
    }

    /// The first occurrence strictly after an instant; `None` where the calendar ends before it.
    ///
    /// Asked again with what it answered, it goes up and never answers an instant twice.
    #[must_use]
    pub fn next_after(&self, zone: &TimeZone, dst: DstPolicy, after: Timestamp) -> Option<Occurrence> {
        self.walk(zone, dst, after).next()
    }

    /// The occurrences strictly after one instant, up to and with another, at most so many.
    #[must_use]
    pub fn occurrences_between(
        &self,
        zone: &TimeZone,
        dst: DstPolicy,
        after: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Vec<Occurrence> {
        let within = |occurrence: &Occurrence| occurrence.at <= until;
        self.walk(zone, dst, after).take_while(within).take(limit).collect()
    }

    /// The last occurrence strictly after one instant, up to and with another. Takes a number of steps that grows with the logarithm
    /// of the time between them.
    #[must_use]
    pub fn last_between(&self, zone: &TimeZone, dst: DstPolicy, after: Timestamp, until: Timestamp) -> Option<Occurrence> {
        let next = |after| self.next_after(zone, dst, after).filter(|occurrence| occurrence.at <= until);
        let mut best = next(after)?;
        // Asked from an instant before the last occurrence there is a next one, and from there on there is none: the edge between
        // the two is what is looked for. Occurrences are whole seconds apart.
        let (mut before, mut beyond) = (best.at.as_second(), until.as_second());
        while before < beyond {
            let middle = before + (beyond - before) / 2;
            match Timestamp::from_second(middle).ok().and_then(next) {
                Some(later) => {
                    before = later.at.as_second();
                    best = later;
                }
                None => beyond = middle,
            }
        }
        Some(best)
    }

    /// All occurrences strictly after an instant, up to the end of the calendar.
    pub(super) fn walk<'a>(&'a self, zone: &'a TimeZone, dst: DstPolicy, after: Timestamp) -> Walk<'a> {
        Walk::new(self, zone, dst, after)
    }

    /// The first wall time strictly after another that the fields name. Wall times are seconds, as if they were UTC.
    fn next_wall(&self, after: i64) -> Option<i64> {
        #[cfg(test)]
        ASKED.with(|asked| asked.set(asked.get() + 1));
        let after = chrono::DateTime::from_timestamp(after, 0)?;
        let next = |calendar: &::cron::Schedule| calendar.after(&after).next();
        self.calendars.iter().filter_map(next).min().map(|wall| wall.timestamp())
    }
}

#[cfg(test)]
thread_local! {
    /// How often this thread asked a calendar: what a test of bounded work counts.
    pub(super) static ASKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Whether any month of the set has any day of the set. A 29th of February comes, sooner or later, on every weekday.
fn any_date(days: Values, months: Values) -> bool {
    let longest = |month: u8| match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    months.iter().any(|month| days.iter().any(|day| day <= longest(month)))
}

fn list(values: Values) -> String {
    values.iter().map(|value| value.to_string()).collect::<Vec<_>>().join(",")
}
