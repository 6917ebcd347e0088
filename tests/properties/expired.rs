//! Times in every form that a column can hold them, and the model that tells what is old.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    judge::Case,
    rows::{ACTS, Act, Builder, Key, Rest, acts, keys, mark, operations, plain, rest},
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

/// Which instant decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The column says when the row expires.
    Past,
    /// The column says how old the row is.
    Old,
    /// As `Old`; where the column is NULL another one does.
    Either,
}

const WAYS: [(Way, &str); 3] = [(Way::Past, "past"), (Way::Old, "old"), (Way::Either, "either")];

#[derive(Debug, Clone)]
pub(crate) struct Expired {
    clock: Clock,
    way: usize,
    act: Act,
    key: Key,
    /// What the column holds, and what the one holds that decides where it is NULL.
    moments: Vec<(Moment, Moment, Rest)>,
    batch_rows: u32,
    deciding: Vec<String>,
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
        select(CLOCKS.map(|(clock, _)| clock).to_vec()),
        0..WAYS.len(),
        acts(),
        keys(),
        vec((moment.clone(), moment, rest()), 0..25),
        1..8_u32,
    )
        .prop_map(|(clock, way, act, key, moments, batch_rows)| Expired {
            clock,
            way,
            act,
            key,
            moments,
            batch_rows,
            deciding: vec![column(clock).to_owned()],
        })
}

const CLOCKS: [(Clock, &str); 4] = [
    (Clock::Seconds, "seconds"),
    (Clock::Millis, "millis"),
    (Clock::Instant, "instant"),
    (Clock::Wall, "wall"),
];

fn column(clock: Clock) -> &'static str {
    CLOCKS[clock as usize].1
}

pub(crate) fn catalog(database: Database) -> String {
    let mut text = String::new();
    for (clock, column) in CLOCKS {
        let reading = match (clock, database) {
            (Clock::Seconds, _) => "encoding = \"unix_seconds\"",
            (Clock::Millis, _) => "encoding = \"unix_millis\"",
            (Clock::Wall, Database::Postgres) => "zone = \"Europe/Berlin\"",
            (Clock::Instant | Clock::Wall, _) => "zone = \"UTC\"",
        };
        for (way, name) in WAYS {
            let age = match way {
                Way::Past => "expiry = true".to_owned(),
                Way::Old => format!("retention = \"P{RETENTION}D\""),
                Way::Either => format!("retention = \"P{RETENTION}D\"\nfallback = \"{column}_made\""),
            };
            let rule = format!("kind = \"expired\"\ncolumn = \"{column}\"\n{reading}\n{age}");
            operations(
                &mut text,
                &format!("{column}_{name}"),
                "entry",
                &rule,
                &ACTS,
                &[column.to_owned()],
            );
        }
    }
    text
}

pub(crate) fn tables(database: Database) -> String {
    let columns: String = clocks(database)
        .map(|(name, declared)| format!(", {name} {declared}"))
        .collect();
    format!("CREATE TABLE entry (id integer PRIMARY KEY, mark text, every text, state text, size bigint, spare text{columns})")
}

/// Each clock's column, and the one that decides where it is NULL.
fn clocks(database: Database) -> impl Iterator<Item = (String, String)> {
    let declared = match database {
        Database::Postgres => ["bigint", "bigint", "timestamptz", "timestamp"],
        Database::Sqlite => ["INTEGER", "INTEGER", "TEXT", ""],
    };
    let columns = CLOCKS.into_iter().zip(declared);
    columns.flat_map(|((_, name), declared)| [name.to_owned(), format!("{name}_made")].map(|name| (name, declared.to_owned())))
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
    fn way(&self) -> Way {
        WAYS[self.way].0
    }

    pub(crate) fn is_past(&self) -> bool {
        self.way() == Way::Past
    }

    pub(crate) fn case(&self) -> Case<'_> {
        Case {
            operation: format!("{}_{}_{}", column(self.clock), WAYS[self.way].1, self.act.name()),
            act: self.act,
            table: "entry",
            others: &[],
            deciding: &self.deciding,
            batch_rows: self.batch_rows,
            spreads: false,
        }
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

    fn is_old(&self, moment: Moment, now: Timestamp, horizon: Timestamp, database: Database) -> bool {
        self.value(moment, now, database).1.is_some_and(|instant| instant < horizon)
    }

    fn goes(
        &self,
        (moment, made, rest): &(Moment, Moment, Rest),
        now: Timestamp,
        horizon: Timestamp,
        database: Database,
    ) -> bool {
        // Nonsense is not NULL, so that the other column does not decide.
        let is_null = self.value(*moment, now, database).0 == "NULL";
        let by_itself = self.is_old(*moment, now, horizon, database);
        let by_the_other = self.way() == Way::Either && is_null && self.is_old(*made, now, horizon, database);
        (by_itself || by_the_other) && rest.concerns(self.act) && !(is_null && self.act == Act::Sever)
    }

    pub(crate) fn expected(&self, now: Timestamp, horizon: Timestamp, database: Database) -> BTreeSet<String> {
        let gone = self
            .moments
            .iter()
            .enumerate()
            .filter(|(_, row)| self.goes(row, now, horizon, database));
        gone.map(|(place, _)| mark(place)).collect()
    }

    pub(crate) fn setup(&self, now: Timestamp, database: Database) -> String {
        let columns: Vec<_> = clocks(database).collect();
        let mut table = Builder::new("entry", self.key, columns.clone(), database);
        for (place, (moment, made, rest)) in self.moments.iter().enumerate() {
            let values = columns.iter().map(|(name, _)| match name.strip_suffix("_made") {
                Some(name) if name == column(self.clock) => self.value(*made, now, database).0,
                None if name == column(self.clock) => self.value(*moment, now, database).0,
                _ => "NULL".to_owned(),
            });
            table.row(place, &values.collect::<Vec<_>>(), *rest);
        }
        table.sql()
    }
}

/// Rows whose times are only known when the horizon is: on it, or next to it by the smallest step that the column can take.
#[derive(Debug, Clone)]
pub(crate) struct Edges {
    clock: Clock,
    way: usize,
    /// The column is NULL, and the other one holds the time.
    by_the_other: bool,
    key: Key,
    /// So many steps after the horizon, which is rounded down to one; `None` for no time at all.
    rows: Vec<(Option<i64>, Rest)>,
    pub(crate) batch_rows: u32,
}

pub(crate) fn edges() -> impl Strategy<Value = Edges> {
    let steps = prop_oneof![1 => Just(None), 6 => (-2..=2_i64).prop_map(Some)];
    (
        select(CLOCKS.map(|(clock, _)| clock).to_vec()),
        0..WAYS.len(),
        any::<bool>(),
        keys(),
        vec((steps, rest()), 0..12),
        1..8_u32,
    )
        .prop_map(|(clock, way, by_the_other, key, mut rows, batch_rows)| {
            // None of these may be missing.
            rows.extend([Some(-1), Some(0), Some(1), None].map(|steps| (steps, plain())));
            Edges {
                clock,
                way,
                by_the_other: by_the_other && WAYS[way].0 == Way::Either,
                key,
                rows,
                batch_rows,
            }
        })
}

impl Edges {
    pub(crate) fn operation(&self) -> String {
        format!("{}_{}_delete", column(self.clock), WAYS[self.way].1)
    }

    /// The column that holds the times.
    fn decides(&self) -> String {
        let other = if self.by_the_other { "_made" } else { "" };
        format!("{}{other}", column(self.clock))
    }

    /// The value as SQL writes it, and the instant that it means.
    fn value(&self, horizon: Timestamp, steps: i64, database: Database) -> (String, Timestamp) {
        let step_micros = match (self.clock, database) {
            (Clock::Seconds, _) => 1_000_000,
            (Clock::Millis, _) | (Clock::Instant | Clock::Wall, Database::Sqlite) => 1_000,
            (Clock::Instant | Clock::Wall, Database::Postgres) => 1,
        };
        let micros = (horizon.as_microsecond().div_euclid(step_micros) + steps) * step_micros;
        let instant = Timestamp::from_microsecond(micros).expect("an instant");
        let written = |zone: &str, form: &str| {
            let zone = TimeZone::get(zone).expect("a zone");
            format!("'{}'", instant.to_zoned(zone).strftime(form))
        };
        let value = match (self.clock, database) {
            (Clock::Seconds, _) => instant.as_second().to_string(),
            (Clock::Millis, _) => instant.as_millisecond().to_string(),
            (Clock::Instant, Database::Postgres) => written("UTC", "%Y-%m-%d %H:%M:%S%.6f+00"),
            (Clock::Wall, Database::Postgres) => written("Europe/Berlin", "%Y-%m-%d %H:%M:%S%.6f"),
            (Clock::Instant | Clock::Wall, Database::Sqlite) => written("UTC", "%Y-%m-%d %H:%M:%S%.3f"),
        };
        (value, instant)
    }

    /// The rows before there is a plan: those that will lie before its horizon lie far before it, so that it counts them.
    pub(crate) fn setup(&self, database: Database) -> String {
        let columns: Vec<_> = clocks(database).collect();
        let mut table = Builder::new("entry", self.key, columns.clone(), database);
        let old = self.value(Timestamp::UNIX_EPOCH, 1, database).0;
        for (place, (steps, rest)) in self.rows.iter().enumerate() {
            let values = columns.iter().map(|(name, _)| match steps {
                Some(..=0) if *name == self.decides() => old.clone(),
                _ => "NULL".to_owned(),
            });
            table.row(place, &values.collect::<Vec<_>>(), *rest);
        }
        table.sql()
    }

    /// Moves the rows to the horizon.
    pub(crate) fn late_setup(&self, horizon: Timestamp, database: Database) -> String {
        let mut sql = String::new();
        for (place, (steps, _)) in self.rows.iter().enumerate() {
            let value = steps.map_or_else(|| "NULL".to_owned(), |steps| self.value(horizon, steps, database).0);
            sql.push_str(&format!(
                "UPDATE entry SET {} = {value} WHERE mark = '{}'; ",
                self.decides(),
                mark(place)
            ));
        }
        sql
    }

    /// Strictly before the horizon: a row exactly on it stays, and so does one without a time.
    pub(crate) fn expected(&self, horizon: Timestamp, database: Database) -> BTreeSet<String> {
        let goes = |steps: Option<i64>| steps.is_some_and(|steps| self.value(horizon, steps, database).1 < horizon);
        let gone = self.rows.iter().enumerate().filter(|(_, (steps, _))| goes(*steps));
        gone.map(|(place, _)| mark(place)).collect()
    }
}
