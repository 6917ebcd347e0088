//! Occurrences in the order of real time.
//!
//! ```text
//!   wall                     segment: the time between two changes of the clock, with one offset
//!    ^        /                wall = real + offset
//!    |   ....o  gap: wall times that no segment has
//!    |      /
//!    |     /      /
//!    |    /   ---/---  fold: wall times that two segments have
//!    |           /
//!    +------------------> real
//! ```

use jiff::{
    Timestamp,
    tz::{Offset, TimeZone},
};

use super::{Cron, DstPolicy, FoldPolicy, GapPolicy, Occurrence, Shift};

/// The real time between two changes of the offset, in seconds.
#[derive(Debug, Clone, Copy)]
struct Segment {
    /// Its first second, and the offset before it; `None` where no change came before.
    start: Option<(i64, i64)>,
    /// What wall time is ahead of real time.
    offset: i64,
    /// The first second after it, and the offset from there on.
    end: Option<(i64, i64)>,
    /// First wall time of the segment before it.
    wall_before: i64,
}

impl Segment {
    fn at(zone: &TimeZone, second: i64) -> Option<Self> {
        let instant = Timestamp::from_second(second).ok()?;
        let offset = i64::from(zone.to_offset(instant).seconds());
        // Changes of the name alone, or of what counts as summer time, are none.
        let end = zone
            .following(instant)
            .map(|change| (change.timestamp().as_second(), i64::from(change.offset().seconds())))
            .find(|(_, other)| *other != offset);
        // What precedes an instant is strictly before it, and a change at it counts.
        let mut before = zone.preceding(Timestamp::from_second(second + 1).ok()?).peekable();
        let mut start = None;
        let mut wall_before = i64::MIN;
        while let Some(change) = before.next() {
            let from = before.peek().map_or_else(|| first_offset(zone), |earlier| earlier.offset());
            let from = i64::from(from.seconds());
            if from == i64::from(change.offset().seconds()) {
                continue;
            }
            match start {
                None => start = Some((change.timestamp().as_second(), from)),
                Some((_, offset)) => {
                    wall_before = change.timestamp().as_second() + offset;
                    break;
                }
            }
        }
        Some(Self {
            start,
            offset,
            end,
            wall_before,
        })
    }
}

fn first_offset(zone: &TimeZone) -> Offset {
    zone.to_offset(Timestamp::MIN)
}

/// An iterator over occurrences.
pub(in crate::schedule) struct Walk<'a> {
    cron: &'a Cron,
    zone: &'a TimeZone,
    dst: DstPolicy,
    segment: Option<Segment>,
    /// Everything up to this second is done.
    done: i64,
}

impl<'a> Walk<'a> {
    pub(super) fn new(cron: &'a Cron, zone: &'a TimeZone, dst: DstPolicy, after: Timestamp) -> Self {
        // Occurrences are whole seconds: what lies strictly after an instant lies strictly after the second it is in. Before 1970
        // the type rounds towards it.
        let second = after.as_second() - i64::from(after.subsec_nanosecond() < 0);
        Self {
            cron,
            zone,
            dst,
            segment: Segment::at(zone, second + 1),
            done: second,
        }
    }

    /// Goes on strictly after an instant, if that is further than the walk has come.
    pub(in crate::schedule) fn skip_to(&mut self, after: Timestamp) {
        let second = after.as_second() - i64::from(after.subsec_nanosecond() < 0);
        if second <= self.done {
            return;
        }
        self.done = second;
        if self
            .segment
            .is_some_and(|segment| segment.end.is_some_and(|(end, _)| second >= end))
        {
            self.segment = Segment::at(self.zone, second + 1);
        }
    }

    /// The next occurrence of a segment; `Err` where there is none in it, and whether the calendar is at its end.
    fn within(&self, segment: Segment) -> Result<Occurrence, bool> {
        let offset = segment.offset;
        let mut after = self.done + offset;
        let mut second_time = None;
        if let Some((start, before)) = segment.start {
            let (left, entered) = (start + before, start + offset);
            if start > self.done && entered > left && !self.cron.wildcard {
                let skips = self.dst.gap == GapPolicy::Skip;
                let wanted = self.cron.next_wall(left - 1).filter(|wanted| *wanted < entered);
                // What is there anyway fires, whatever was skipped before it.
                let wanted = wanted.filter(|_| !skips || self.cron.next_wall(entered - 1) != Some(entered));
                if let Some(wanted) = wanted.and_then(wall) {
                    let zone = self.zone.iana_name().unwrap_or("this zone").to_owned();
                    let shift = if skips {
                        Shift::Skipped { wanted, zone }
                    } else {
                        Shift::Gap { wanted, zone }
                    };
                    return occurrence(start, offset, Some(shift)).ok_or(true);
                }
            }
            if entered < left {
                // These wall times were shown before, as far as the segment before reaches back.
                second_time = Some(segment.wall_before.max(entered)..left);
            }
        }
        loop {
            let wall = self.cron.next_wall(after).ok_or(true)?;
            if segment.end.is_some_and(|(end, _)| wall - offset >= end) {
                return Err(false);
            }
            let again = second_time.as_ref().filter(|times| times.contains(&wall));
            if let Some(times) = again
                && !self.cron.wildcard
                && self.dst.fold == FoldPolicy::Once
            {
                after = times.end - 1;
                continue;
            }
            let comes_again = segment.end.is_some_and(|(end, next)| wall >= end + next);
            let shift = match (again, comes_again) {
                (Some(_), _) => Some(Shift::FoldSecond),
                (None, true) => Some(Shift::FoldFirst),
                (None, false) => None,
            };
            return occurrence(wall - offset, offset, shift).ok_or(true);
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Occurrence;

    fn next(&mut self) -> Option<Occurrence> {
        loop {
            let segment = self.segment?;
            match self.within(segment) {
                Ok(found) => {
                    self.done = found.at.as_second();
                    return Some(found);
                }
                Err(true) => self.segment = None,
                Err(false) => {
                    // Without an end the calendar's end is the only one.
                    let (end, _) = segment.end?;
                    self.done = end - 1;
                    self.segment = Segment::at(self.zone, end);
                }
            }
        }
    }
}

fn wall(seconds: i64) -> Option<jiff::civil::DateTime> {
    Timestamp::from_second(seconds)
        .ok()
        .map(|instant| Offset::UTC.to_datetime(instant))
}

fn occurrence(second: i64, offset: i64, shift: Option<Shift>) -> Option<Occurrence> {
    Some(Occurrence {
        at: Timestamp::from_second(second).ok()?,
        local: wall(second + offset)?,
        shift,
    })
}
