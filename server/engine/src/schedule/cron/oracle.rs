//! A second implementation, for tests alone: it walks every minute of real time, asks the zone for its offset and nothing else, and
//! reads expressions by itself. What it says of every change of every clock between 1990 and 2040 is compared with the product.

use std::collections::{BTreeMap, HashSet};

use jiff::{Timestamp, civil, tz};

use super::{Cron, CronFields, DstPolicy, FoldPolicy, GapPolicy};

const MINUTE: i64 = 60;
const DAY: i64 = 86_400;

/// Numbers, lists, ranges and steps, as a table of what is named; Sunday is 0.
fn read(text: &str, least: usize, most: usize) -> [bool; 60] {
    let mut table = [false; 60];
    for element in text.split(',') {
        let (base, step) = element.split_once('/').unwrap_or((element, "1"));
        let step: usize = step.parse().expect("a step");
        let (first, last) = if base == "*" {
            (least, most)
        } else {
            let (first, last) = base.split_once('-').unwrap_or((base, base));
            (first.parse().expect("a number"), last.parse().expect("a number"))
        };
        for value in (first..=last).step_by(step) {
            table[value] = true;
        }
    }
    table
}

/// Minute, hour, day, month and weekday of a wall time.
type Shown = [usize; 5];

struct Oracle {
    /// In the order of a wall time's parts.
    tables: [[bool; 60]; 5],
    either: bool,
    wildcard: bool,
}

impl Oracle {
    fn new(expression: &str) -> Self {
        let fields: Vec<&str> = expression.split(' ').collect();
        Self {
            tables: [
                read(fields[0], 0, 59),
                read(fields[1], 0, 23),
                read(fields[2], 1, 31),
                read(fields[3], 1, 12),
                read(fields[4], 0, 6),
            ],
            either: !fields[2].starts_with('*') && !fields[4].starts_with('*'),
            wildcard: fields[0].starts_with('*') || fields[1].starts_with('*'),
        }
    }

    fn names(&self, shown: &Shown) -> bool {
        let [minutes, hours, days, months, weekdays] = &self.tables;
        if !minutes[shown[0]] || !hours[shown[1]] || !months[shown[3]] {
            return false;
        }
        let (by_day, by_weekday) = (days[shown[2]], weekdays[shown[4]]);
        if self.either {
            by_day || by_weekday
        } else {
            by_day && by_weekday
        }
    }
}

/// Reads a clock by the rule of Gregorian months, and not by any library.
fn shown(wall: i64) -> Shown {
    let (day_number, second) = (wall.div_euclid(DAY), wall.rem_euclid(DAY));
    assert_eq!(second % MINUTE, 0);
    let (month, day) = month_and_day(day_number);
    // 1970-01-01 was a Thursday.
    let weekday = (day_number + 4).rem_euclid(7);
    [second / MINUTE % 60, second / 3_600, day, month, weekday].map(|part| usize::try_from(part).expect("small"))
}

fn month_and_day(day_number: i64) -> (i64, i64) {
    let (mut year, mut left) = (1970, day_number);
    loop {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = if leap { 366 } else { 365 };
        if left >= length {
            left -= length;
            year += 1;
            continue;
        }
        let february = if leap { 29 } else { 28 };
        for (month, days) in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter().enumerate() {
            if left < days {
                return (i64::try_from(month).expect("small") + 1, left + 1);
            }
            left -= days;
        }
    }
}

/// One minute of real time.
struct Minute {
    real: i64,
    shown: Shown,
    /// Whether the wall has shown that before.
    again: bool,
    /// What it would have shown since the minute before, had it not been put forward.
    skipped: Vec<Shown>,
}

/// What the wall shows at every minute of some days.
struct Wall(Vec<Minute>);

impl Wall {
    fn new(zone: &tz::TimeZone, from: i64, to: i64) -> Self {
        let mut seen = HashSet::new();
        let mut minutes = Vec::new();
        let mut expected = None;
        let mut real = from;
        while real <= to {
            let wall = real + i64::from(zone.to_offset(Timestamp::from_second(real).expect("an instant")).seconds());
            minutes.push(Minute {
                real,
                shown: shown(wall),
                again: !seen.insert(wall),
                skipped: (expected.unwrap_or(wall)..wall).step_by(60).map(shown).collect(),
            });
            expected = Some(wall + MINUTE);
            real += MINUTE;
        }
        Self(minutes)
    }

    fn occurrences(&self, oracle: &Oracle, dst: DstPolicy, from: i64) -> Vec<i64> {
        let named =
            |minute: &Minute| oracle.names(&minute.shown) && (oracle.wildcard || !minute.again || dst.fold == FoldPolicy::Twice);
        let shifted = |minute: &Minute| {
            let shifts = !minute.skipped.is_empty() && !oracle.wildcard && dst.gap == GapPolicy::RunShifted;
            shifts && minute.skipped.iter().any(|skipped| oracle.names(skipped))
        };
        let happens = |minute: &&Minute| minute.real > from && (named(minute) || shifted(minute));
        self.0.iter().filter(happens).map(|minute| minute.real).collect()
    }

    /// Minutes before which times were skipped, and nothing happens for them.
    fn let_pass(&self, oracle: &Oracle, dst: DstPolicy, from: i64) -> Vec<i64> {
        if oracle.wildcard || dst.gap != GapPolicy::Skip {
            return Vec::new();
        }
        let passed = |minute: &&Minute| {
            minute.real > from && minute.skipped.iter().any(|skipped| oracle.names(skipped)) && !oracle.names(&minute.shown)
        };
        self.0.iter().filter(passed).map(|minute| minute.real).collect()
    }
}

const SCHEDULES: [&str; 18] = [
    "30 2 * * *",
    "0 2 * * *",
    "0 3 * * *",
    "15,45 0,1,2,3 * * *",
    "0-59/7 0-23 * * *",
    "59 23 * * *",
    "0 0 * * *",
    "5 1 * * 0",
    "30 1 1-7 3,4,9,10,11 0",
    "0 12 29 2 *",
    "*/15 * * * *",
    "0 * * * *",
    "* 0-4 * * *",
    "30 */2 * * *",
    "*/20 1-3 * * *",
    "10 0-4 */2 * 1-5",
    "0 22 31 * *",
    "45 2 * 3 *",
];

const POLICIES: [DstPolicy; 4] = [
    DstPolicy {
        gap: GapPolicy::RunShifted,
        fold: FoldPolicy::Once,
    },
    DstPolicy {
        gap: GapPolicy::RunShifted,
        fold: FoldPolicy::Twice,
    },
    DstPolicy {
        gap: GapPolicy::Skip,
        fold: FoldPolicy::Once,
    },
    DstPolicy {
        gap: GapPolicy::Skip,
        fold: FoldPolicy::Twice,
    },
];

fn instant(date: civil::Date) -> Timestamp {
    date.to_zoned(tz::TimeZone::UTC).expect("an instant").timestamp()
}

#[test]
fn every_change_of_every_clock_is_walked_as_minute_by_minute() {
    let (first, last) = (instant(civil::date(1990, 1, 1)), instant(civil::date(2040, 1, 1)));
    let mut changes = 0_u32;
    let mut zones = 0_u32;
    // Changes by the same amount at the same time of day are one case; of each the first and the last in time are looked at, because
    // the last ones come from a rule, and not from a list.
    let mut cases: BTreeMap<(i32, i32, i64), [(i64, String); 2]> = BTreeMap::new();
    for name in tz::db().available() {
        let zone = tz::TimeZone::get(name.as_str()).expect("a zone of the list");
        zones += 1;
        let mut offset = zone.to_offset(first).seconds();
        for change in zone.following(first).take_while(|change| change.timestamp() < last) {
            let (at, after) = (change.timestamp().as_second(), change.offset().seconds());
            if after != offset {
                changes += 1;
                assert_eq!(
                    (at % MINUTE, offset % 60, after % 60),
                    (0, 0, 0),
                    "{name}: changes of whole minutes"
                );
                let time_of_day = (at + i64::from(offset)).rem_euclid(DAY);
                let here = (at, name.to_string());
                let [earliest, latest] = cases
                    .entry((offset, after, time_of_day))
                    .or_insert_with(|| [here.clone(), here.clone()]);
                if here < *earliest {
                    *earliest = here;
                } else if here > *latest {
                    *latest = here;
                }
            }
            offset = after;
        }
    }
    let schedules: Vec<(&str, Oracle, Cron)> = SCHEDULES
        .into_iter()
        .map(|expression| {
            let fields = CronFields::from_expression(expression).expect(expression);
            (expression, Oracle::new(expression), Cron::parse(&fields).expect(expression))
        })
        .collect();
    let mut places: HashSet<&(i64, String)> = HashSet::new();
    let mut compared = 0_usize;
    for (change, name) in cases.values().flatten() {
        let place = cases.values().flatten().find(|(at, other)| at == change && other == name);
        if !places.insert(place.expect("itself")) {
            continue;
        }
        let zone = tz::TimeZone::get(name).expect("a zone of the list");
        let (from, to) = (change - 2 * DAY, change + 2 * DAY);
        // It begins to look earlier, to know what the wall has shown before.
        let wall = Wall::new(&zone, from - 2 * DAY, to);
        for (expression, oracle, cron) in &schedules {
            let policies = if oracle.wildcard { &POLICIES[..1] } else { &POLICIES[..] };
            for dst in policies {
                let expected = wall.occurrences(oracle, *dst, from);
                let start = Timestamp::from_second(from).expect("an instant");
                let end = Timestamp::from_second(to).expect("an instant");
                let all = cron.occurrences_between(&zone, *dst, start, end, usize::MAX);
                let skipped = all.iter().filter(|occurrence| !occurrence.fires());
                let skipped: Vec<i64> = skipped.map(|occurrence| occurrence.at.as_second()).collect();
                assert_eq!(
                    skipped,
                    wall.let_pass(oracle, *dst, from),
                    "what {expression} in {name} lets pass with {dst:?}"
                );
                let found: Vec<i64> = all
                    .iter()
                    .filter(|occurrence| occurrence.fires())
                    .map(|occurrence| {
                        assert_eq!(
                            zone.to_datetime(occurrence.at),
                            occurrence.local,
                            "the wall time of {occurrence:?}"
                        );
                        occurrence.at.as_second()
                    })
                    .collect();
                assert_eq!(
                    found,
                    expected,
                    "{expression} in {name} around {} with {dst:?}",
                    Timestamp::from_second(*change).expect("an instant")
                );
                compared += found.len();
            }
        }
    }
    println!(
        "{zones} zones, {changes} changes of clocks, {} kinds of them, {} places looked at, {compared} occurrences compared",
        cases.len(),
        places.len()
    );
    // Were the database or the search empty, nothing would have been compared.
    assert!(zones > 400 && changes > 20_000 && cases.len() > 100 && compared > 500_000);
}
