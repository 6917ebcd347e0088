//! When things happened: instants that are surely on one side of a horizon or on the other.

use anyhow::Result;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::random::{Quota, Random};
use super::rows::Micros;

const SECOND: Micros = 1_000_000;
pub(super) const DAY: Micros = 86_400 * SECOND;

/// How far every row stays from its horizon. Two days and not one: reckoning a year back from 29 February may end on either
/// side of a month's end, and the truth should not take sides.
pub(super) const MARGIN: Micros = 2 * DAY;

/// How many of a table's rows are past their `expires_at`, and how many never expire.
pub(super) struct Expiries {
    now: Micros,
    past: Quota,
    never: Quota,
}

impl Expiries {
    pub(super) fn new(rows: u64, now: Micros) -> Self {
        let past = Quota::per_mille(350, rows);
        let never = Quota::per_mille(20, past.others());
        Self { now, past, never }
    }

    /// The next row's `expires_at`, and whether it is past.
    pub(super) fn next(&mut self, random: &mut Random) -> (Option<Micros>, bool) {
        if self.past.draw(random) {
            (Some(self.now - random.between(MARGIN, 90 * DAY)), true)
        } else if self.never.draw(random) {
            (None, false)
        } else {
            (Some(self.now + random.between(MARGIN, 30 * DAY)), false)
        }
    }
}

/// The times of a log: an exact share before a horizon, the others after it, and now and then one of either is NULL.
pub(super) struct LogTimes {
    old: Old,
    never: Quota,
    horizon: Micros,
    now: Micros,
    rows: u64,
    written: u64,
    /// Rows so far that are older than the horizon.
    pub(super) expired: u64,
}

/// Which of a log's rows are old.
enum Old {
    /// This many of the first rows, and time only goes forward.
    First(u64),
    /// As many as the quota has, anywhere.
    Anywhere(Quota),
}

impl LogTimes {
    /// How long before the horizon the oldest row may be.
    const HISTORY: Micros = 400 * DAY;

    pub(super) fn in_order(rows: u64, old_per_mille: u64, horizon: Micros, now: Micros) -> Self {
        Self::new(
            Old::First((rows.saturating_mul(old_per_mille) / 1000).max(1)),
            rows,
            horizon,
            now,
        )
    }

    pub(super) fn shuffled(rows: u64, old_per_mille: u64, horizon: Micros, now: Micros) -> Self {
        Self::new(Old::Anywhere(Quota::per_mille(old_per_mille, rows)), rows, horizon, now)
    }

    fn new(old: Old, rows: u64, horizon: Micros, now: Micros) -> Self {
        Self {
            old,
            never: Quota::per_mille(2, rows),
            horizon,
            now,
            rows,
            written: 0,
            expired: 0,
        }
    }

    /// The next row's time.
    pub(super) fn next(&mut self, random: &mut Random) -> Option<Micros> {
        let index = self.written;
        self.written += 1;
        let before = (self.horizon - MARGIN - Self::HISTORY, self.horizon - MARGIN);
        let after = (self.horizon + MARGIN, self.now - 60 * SECOND);
        let (is_old, (from, to)) = match &mut self.old {
            Old::First(old) if index < *old => (true, slice(before, index, *old)),
            Old::First(old) => (false, slice(after, index - *old, self.rows - *old)),
            Old::Anywhere(quota) => match quota.draw(random) {
                true => (true, before),
                false => (false, after),
            },
        };
        let time = random.between(from, to);
        if self.never.draw(random) {
            return None;
        }
        self.expired += u64::from(is_old);
        Some(time)
    }
}

/// Part `index` of a span of time cut into `parts` equal parts.
fn slice((from, to): (Micros, Micros), index: u64, parts: u64) -> (Micros, Micros) {
    let length = (to - from) / whole(parts);
    let start = from + length * whole(index);
    (start, start + length)
}

/// The instant `months` calendar months before `now`, in UTC.
pub(super) fn months_before(now: Timestamp, months: i64) -> Result<Micros> {
    Ok(now
        .to_zoned(TimeZone::UTC)
        .checked_sub(months.months())?
        .timestamp()
        .as_microsecond())
}

/// The instant `years` calendar years before `now`, in UTC.
pub(super) fn years_before(now: Timestamp, years: i64) -> Result<Micros> {
    Ok(now
        .to_zoned(TimeZone::UTC)
        .checked_sub(years.years())?
        .timestamp()
        .as_microsecond())
}

/// A number of rows as a factor of a time.
pub(super) fn whole(count: u64) -> i64 {
    i64::try_from(count).expect("the number of rows stays below 2^48")
}
