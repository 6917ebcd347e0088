//! Times in every form that a column can hold them, and the model that tells what is old.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    orphans::{ChildKey, any_bool},
    support::Database,
};

/// A column that holds a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    Seconds,
    Millis,
    /// SQLite: text; PostgreSQL: timestamp with time zone.
    Instant,
    /// SQLite: a column without a type; PostgreSQL: the wall clock of Berlin.
    Wall,
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    Null,
    /// A value that is no time; NULL where the column's type does not let it in.
    Nonsense(usize),
    /// Days and seconds from now, and one of several ways to write it.
    At(i64, i64, usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Expired {
    clock: Clock,
    pub(crate) past: bool,
    child_key: ChildKey,
    moments: Vec<Moment>,
    pub(crate) batch_rows: u32,
}

/// Days before now after which `_old` operations take a row.
pub(crate) const RETENTION: i64 = 1_000;

pub(crate) fn expired() -> impl Strategy<Value = Expired> {
    // A day away from every horizon, so that the run's clock and the model's cannot disagree.
    let days = prop_oneof![-4_000..-RETENTION - 2, -RETENTION + 2..-2, 2..4_000_i64];
    let moment = prop_oneof![
        1 => Just(Moment::Null),
        2 => (0..NONSENSE.len()).prop_map(Moment::Nonsense),
        12 => (days, 0..86_400_i64, 0..5_usize).prop_map(|(days, seconds, way)| Moment::At(days, seconds, way)),
    ];
    (
        select(&[Clock::Seconds, Clock::Millis, Clock::Instant, Clock::Wall][..]),
        any_bool(),
        select(&[ChildKey::Number, ChildKey::Text, ChildKey::Two][..]),
        vec(moment, 0..25),
        1..8_u32,
    )
        .prop_map(|(clock, past, child_key, moments, batch_rows)| Expired {
            clock,
            past,
            child_key,
            moments,
            batch_rows,
        })
}

/// Not one of them is a time, in whatever column of SQLite.
const NONSENSE: [&str; 6] = [
    "''",
    "'soon'",
    "'12:00'",
    "x'323030312d30312d3031'",
    "'01-02-2001'",
    "'2001-13-45'",
];

impl Expired {
    fn column(&self) -> &'static str {
        match self.clock {
            Clock::Seconds => "seconds",
            Clock::Millis => "millis",
            Clock::Instant => "instant",
            Clock::Wall => "wall",
        }
    }

    pub(crate) fn operation(&self) -> String {
        format!("{}_{}", self.column(), if self.past { "past" } else { "old" })
    }

    /// The value as SQL writes it, and the instant that it means.
    fn value(&self, moment: Moment, now: Timestamp, database: Database) -> (String, Option<Timestamp>) {
        let sqlite = database == Database::Sqlite;
        let (days, seconds, way) = match moment {
            Moment::Nonsense(place) if sqlite => return (NONSENSE[place].to_owned(), None),
            Moment::Null | Moment::Nonsense(_) => return ("NULL".to_owned(), None),
            Moment::At(days, seconds, way) => (days, seconds, way),
        };
        let midnight = Timestamp::from_second(now.as_second() / 86_400 * 86_400).expect("an instant");
        let day = midnight + SignedDuration::from_hours(24 * days);
        let instant = day + SignedDuration::from_secs(seconds);
        let written = |zone: &str, form: &str| {
            let zone = TimeZone::get(zone).expect("a zone");
            format!("'{}'", instant.to_zoned(zone).strftime(form))
        };
        match (self.clock, sqlite) {
            (Clock::Seconds, _) => (instant.as_second().to_string(), Some(instant)),
            (Clock::Millis, _) => (instant.as_millisecond().to_string(), Some(instant)),
            (Clock::Wall, false) => (written("Europe/Berlin", "%Y-%m-%d %H:%M:%S"), Some(instant)),
            (Clock::Instant, false) => (written("Asia/Kathmandu", "%Y-%m-%d %H:%M:%S%:z"), Some(instant)),
            (Clock::Instant | Clock::Wall, true) => match way {
                0 => (written("UTC", "%Y-%m-%d %H:%M:%S"), Some(instant)),
                1 => (written("UTC", "%Y-%m-%dT%H:%M:%SZ"), Some(instant)),
                2 => (written("Asia/Kathmandu", "%Y-%m-%dT%H:%M:%S%:z"), Some(instant)),
                3 => (written("UTC", "%Y-%m-%d %H:%M:%S.987"), Some(instant)),
                _ => (written("UTC", "%Y-%m-%d"), Some(day)),
            },
        }
    }

    fn id(&self, place: usize) -> String {
        let number = (place + 1) * 7_919 % 10_007;
        if self.child_key == ChildKey::Text {
            format!("i{number}")
        } else {
            number.to_string()
        }
    }

    pub(crate) fn expected(&self, now: Timestamp, horizon: Timestamp, database: Database) -> BTreeSet<String> {
        let is_old = |moment: &Moment| self.value(*moment, now, database).1.is_some_and(|instant| instant < horizon);
        let old = self.moments.iter().enumerate().filter(|(_, moment)| is_old(moment));
        old.map(|(place, _)| self.id(place)).collect()
    }

    pub(crate) fn setup(&self, now: Timestamp, database: Database) -> String {
        let (columns, constraint) = match self.child_key {
            ChildKey::Number => ("id bigint PRIMARY KEY, part text", ""),
            ChildKey::Text => ("id text PRIMARY KEY, part text", ""),
            ChildKey::Two => ("id bigint NOT NULL, part text NOT NULL", ", PRIMARY KEY (part, id)"),
        };
        let without_rowid = if database == Database::Sqlite && self.child_key == ChildKey::Two {
            " WITHOUT ROWID"
        } else {
            ""
        };
        let mut sql = format!(
            "DROP TABLE entry; CREATE TABLE entry ({columns}, {}{constraint}){without_rowid}; ",
            clocks(database)
        );
        for (place, moment) in self.moments.iter().enumerate() {
            sql.push_str(&format!(
                "INSERT INTO entry (id, part, {}) VALUES ('{}', '{}', {}); ",
                self.column(),
                self.id(place),
                ["a", "B", "b"][place % 3],
                self.value(*moment, now, database).0
            ));
        }
        sql
    }
}

pub(crate) fn clocks(database: Database) -> &'static str {
    match database {
        Database::Postgres => "seconds bigint, millis bigint, instant timestamptz, wall timestamp",
        Database::Sqlite => "seconds INTEGER, millis INTEGER, instant TEXT, wall",
    }
}
