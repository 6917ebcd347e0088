//! A second implementation, for tests alone: it walks every minute of real time, asks the zone for its offset and nothing else, and
//! reads expressions by itself. What it says of every change of every clock between 1990 and 2040 is compared with the product.

use std::collections::{BTreeMap, BTreeSet, HashSet};

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

/// Counted in years that begin with March, so that a 29th of February is the last day of one, and in cycles of 400 years.
fn month_and_day(day_number: i64) -> (i64, i64) {
    let of_cycle = (day_number + 719_468).rem_euclid(146_097);
    let year = (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year + year / 4 - year / 100);
    // Months of 31 and 30 days in turn, five at a time: 153 days.
    let month = (5 * of_year + 2) / 153;
    ((month + 2) % 12 + 1, of_year - (153 * month + 2) / 5 + 1)
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

/// A schedule as both read it.
struct Pair {
    expression: String,
    oracle: Oracle,
    cron: Cron,
}

impl Pair {
    fn of(expression: String) -> Self {
        let fields = CronFields::from_expression(&expression).expect("five fields");
        Self {
            oracle: Oracle::new(&expression),
            cron: Cron::parse(&fields).expect("a schedule"),
            expression,
        }
    }

    /// The policies that make a difference to it.
    fn policies(&self) -> &'static [DstPolicy] {
        if self.oracle.wildcard { &POLICIES[..1] } else { &POLICIES[..] }
    }

    /// Compares what both say of the time from one instant, seconds, up to another; the number of occurrences.
    fn compare(&self, (name, zone): (&str, &tz::TimeZone), wall: &Wall, (from, to): (i64, i64), dst: DstPolicy) -> usize {
        let Self {
            expression,
            oracle,
            cron,
        } = self;
        let expected = wall.occurrences(oracle, dst, from);
        let start = Timestamp::from_second(from).expect("an instant");
        let end = Timestamp::from_second(to).expect("an instant");
        let all = cron.occurrences_between(zone, dst, start, end, usize::MAX);
        let skipped = all.iter().filter(|occurrence| !occurrence.fires());
        let skipped: Vec<i64> = skipped.map(|occurrence| occurrence.at.as_second()).collect();
        assert_eq!(
            skipped,
            wall.let_pass(oracle, dst, from),
            "what {expression} in {name} lets pass from {start} with {dst:?}"
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
        assert_eq!(found, expected, "{expression} in {name} from {start} with {dst:?}");
        found.len()
    }
}

/// A change of a clock: when it is, and the offsets before and after it, all in seconds.
type Change = (i64, i32, i32);

/// The changes of every zone from 1990 to 2040, in their order.
fn changes() -> Vec<(String, Vec<Change>)> {
    let (first, last) = (instant(civil::date(1990, 1, 1)), instant(civil::date(2040, 1, 1)));
    let of_zone = |name: String| {
        let zone = tz::TimeZone::get(&name).expect("a zone of the list");
        let mut offset = zone.to_offset(first).seconds();
        let mut changes = Vec::new();
        for change in zone.following(first).take_while(|change| change.timestamp() < last) {
            let (at, after) = (change.timestamp().as_second(), change.offset().seconds());
            if after != offset {
                assert_eq!(
                    (at % MINUTE, offset % 60, after % 60),
                    (0, 0, 0),
                    "{name}: changes of whole minutes"
                );
                changes.push((at, offset, after));
            }
            offset = after;
        }
        (name, changes)
    };
    tz::db().available().map(|name| of_zone(name.to_string())).collect()
}

/// Changes by the same amount at the same time of day are one case; of each the first and the last in time are looked at for days, because the last
/// ones come from a rule, and not from a list.
#[test]
fn every_kind_of_change_is_walked_as_minute_by_minute() {
    let mut cases: BTreeMap<(i32, i32, i64), [(i64, String); 2]> = BTreeMap::new();
    for (name, changes) in changes() {
        for (at, before, after) in changes {
            let time_of_day = (at + i64::from(before)).rem_euclid(DAY);
            let here = (at, name.clone());
            let [earliest, latest] = cases
                .entry((before, after, time_of_day))
                .or_insert_with(|| [here.clone(), here.clone()]);
            if here < *earliest {
                *earliest = here;
            } else if here > *latest {
                *latest = here;
            }
        }
    }
    let schedules = SCHEDULES.map(|expression| Pair::of(expression.to_owned()));
    let places: BTreeSet<&(i64, String)> = cases.values().flatten().collect();
    let mut compared = 0;
    for (change, name) in &places {
        let zone = tz::TimeZone::get(name).expect("a zone of the list");
        let window = (change - 2 * DAY, change + 2 * DAY);
        // It begins to look earlier, to know what the wall has shown before.
        let wall = Wall::new(&zone, window.0 - 2 * DAY, window.1);
        for schedule in &schedules {
            for dst in schedule.policies() {
                compared += schedule.compare((name.as_str(), &zone), &wall, window, *dst);
            }
        }
    }
    println!(
        "{} kinds of changes, {} places looked at, {compared} occurrences compared",
        cases.len(),
        places.len()
    );
    // Were the database or the search empty, nothing would have been compared.
    assert!(cases.len() > 100 && compared > 500_000);
}

/// Every change that there is, once for all zones that make it together, with schedules that stand in the hour that is skipped or comes twice.
#[test]
fn around_each_change_of_each_zone_it_is_as_minute_by_minute() {
    let zones = changes();
    let number: usize = zones.iter().map(|(_, changes)| changes.len()).sum();
    // Zones whose other changes near by differ do not make it together.
    let mut distinct: BTreeMap<Vec<Change>, &str> = BTreeMap::new();
    for (name, changes) in &zones {
        for (at, ..) in changes {
            let near = |other: &&Change| (other.0 - at).abs() <= 3 * DAY;
            let mut together = vec![*changes.iter().find(|change| change.0 == *at).expect("itself")];
            together.extend(changes.iter().filter(near));
            distinct.entry(together).or_insert(name);
        }
    }
    let places: Vec<(i64, i32, i32, &str)> = distinct
        .iter()
        .map(|(together, name)| (together[0].0, together[0].1, together[0].2, *name))
        .collect();
    let rotating = SCHEDULES.map(|expression| Pair::of(expression.to_owned()));
    let look = |number: usize, (at, before, after, name): (i64, i32, i32, &str)| {
        let zone = tz::TimeZone::get(name).expect("a zone of the list");
        let window = (at - DAY, at + DAY);
        let wall = Wall::new(&zone, window.0 - DAY, window.1);
        // The wall times that are skipped or come twice: from the first of them up to but not including the end.
        let (first, end) = (at + i64::from(before.min(after)), at + i64::from(before.max(after)));
        let daily = |wall: i64| {
            let [minute, hour, ..] = shown(wall);
            Pair::of(format!("{minute} {hour} * * *"))
        };
        let of_change = [
            daily(first),
            daily((first + end) / 2 / MINUTE * MINUTE),
            daily(end - MINUTE),
            daily(end),
            Pair::of("*/15 * * * *".to_owned()),
        ];
        let other = &rotating[number % rotating.len()];
        let of_change = of_change
            .iter()
            .flat_map(|pair| pair.policies().iter().map(move |dst| (pair, *dst)));
        let others = other.policies().iter().map(|dst| (other, *dst));
        of_change
            .chain(others)
            .map(|(pair, dst)| pair.compare((name, &zone), &wall, window, dst))
            .sum::<usize>()
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = places.len().div_ceil(threads).max(1);
    let compared: usize = std::thread::scope(|scope| {
        let look = &look;
        let working: Vec<_> = places
            .chunks(part)
            .map(|places| {
                scope.spawn(move || {
                    places
                        .iter()
                        .enumerate()
                        .map(|(number, place)| look(number, *place))
                        .sum::<usize>()
                })
            })
            .collect();
        working
            .into_iter()
            .map(|thread| thread.join().expect("both say the same"))
            .sum()
    });
    println!(
        "{} zones, {number} changes of clocks, {} of them distinct, {compared} occurrences compared",
        zones.len(),
        places.len()
    );
    assert!(zones.len() > 400 && number > 20_000 && places.len() > 1_000 && compared > 100 * places.len());
}
