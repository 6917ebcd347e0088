//! Rows of few keys, with many that are alike, and the model that tells which one of a key stays.

use std::{cmp::Ordering, collections::BTreeSet};

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    judge::Case,
    orphans::any_bool,
    rows::{ACTS, Act, Builder, Key, Rest, acts, keys, mark, numbered, operations, rest},
    support::Database,
};

/// How a column of the key is declared.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Whole,
    Text,
    /// On SQLite without regard to capitals; elsewhere as `Text`.
    Loose,
    /// Values that are equal and look different.
    Fraction,
}

const KINDS: [Kind; 4] = [Kind::Whole, Kind::Text, Kind::Loose, Kind::Fraction];

/// Place of a value; `None` is NULL. The last one is of another class than the column's, which only SQLite can hold.
type Cell = Option<usize>;

impl Kind {
    fn declared(self, database: Database) -> &'static str {
        match (self, database) {
            (Self::Whole, Database::Sqlite) => "INTEGER",
            (Self::Whole, Database::Postgres) => "integer",
            (Self::Loose, Database::Sqlite) => "TEXT COLLATE NOCASE",
            (Self::Text | Self::Loose, _) => "text",
            (Self::Fraction, Database::Sqlite) => "REAL",
            (Self::Fraction, Database::Postgres) => "numeric",
        }
    }

    /// The value as SQL writes it, and a name that equal values share; `None` is NULL.
    fn value(self, cell: Cell, database: Database) -> (&'static str, Option<&'static str>) {
        let Some(cell) = cell else { return ("NULL", None) };
        let loose = matches!((self, database), (Self::Loose, Database::Sqlite));
        match (self, cell) {
            (_, 3) if database == Database::Postgres => ("NULL", None),
            (Self::Whole | Self::Fraction, 3) => ("'x'", Some("x")),
            (Self::Text | Self::Loose, 3) => ("x'61'", Some("the byte 61")),
            (Self::Whole, cell) => [("-1", Some("-1")), ("0", Some("0")), ("7", Some("7"))][cell],
            (Self::Text | Self::Loose, cell) => [
                ("''", Some("")),
                ("'a'", Some("a")),
                ("'A'", Some(if loose { "a" } else { "A" })),
            ][cell],
            (Self::Fraction, cell) => [("1.0", Some("1")), ("1.00", Some("1")), ("2.5", Some("2.5"))][cell],
        }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    key: [Cell; 3],
    by: [Option<i64>; 2],
    live: Option<i64>,
    rest: Rest,
}

#[derive(Debug, Clone)]
pub(crate) struct Duplicates {
    width: usize,
    by: usize,
    newest: bool,
    act: Act,
    kinds: [Kind; 3],
    key: Key,
    indexed: bool,
    entries: Vec<Entry>,
    batch_rows: u32,
    deciding: Vec<String>,
}

pub(crate) fn duplicates() -> impl Strategy<Value = Duplicates> {
    let cell = || option::weighted(0.92, prop_oneof![9 => 0..3_usize, 1 => Just(3)]);
    let entry = (
        [cell(), cell(), cell()],
        [option::weighted(0.8, 0..3_i64), option::weighted(0.8, 0..3_i64)],
        option::weighted(0.9, prop_oneof![1 => Just(0_i64), 5 => Just(1)]),
        rest(),
    );
    let entry = entry.prop_map(|(key, by, live, rest)| Entry { key, by, live, rest });
    (
        (1..=3_usize, 1..=2_usize, any_bool(), acts()),
        [select(&KINDS[..]), select(&KINDS[..]), select(&KINDS[..])],
        keys(),
        any_bool(),
        vec(entry, 0..40),
        1..9_u32,
    )
        .prop_map(
            |((width, by, newest, act), kinds, key, indexed, entries, batch_rows)| Duplicates {
                width,
                by,
                newest,
                act,
                kinds,
                key,
                indexed,
                entries,
                batch_rows,
                deciding: numbered("k", width),
            },
        )
}

fn name(width: usize, by: usize, newest: bool) -> String {
    format!("dup_{width}_{by}_{}", if newest { "newest" } else { "oldest" })
}

/// With two columns to order by, only rows count whose `live` is 1.
pub(crate) fn catalog() -> String {
    let mut text = String::new();
    for width in 1..=3 {
        for by in 1..=2 {
            for newest in [false, true] {
                let rule = format!(
                    "kind = \"duplicate\"\ncolumns = {:?}\nkeep = \"{}\"\nby = {:?}\n{}",
                    numbered("k", width),
                    if newest { "newest" } else { "oldest" },
                    numbered("b", by),
                    if by == 2 { "where.live = 1" } else { "" }
                );
                let deciding = numbered("k", width);
                operations(&mut text, &name(width, by, newest), "item", &rule, &ACTS, &deciding);
            }
        }
    }
    text
}

pub(crate) const TABLES: &str = "CREATE TABLE item (id integer PRIMARY KEY, mark text, every text, state text, size bigint, spare text, \
     k1 integer, k2 integer, k3 integer, b1 bigint, b2 bigint, live bigint)";

impl Duplicates {
    pub(crate) fn case(&self) -> Case<'_> {
        Case {
            operation: format!("{}_{}", name(self.width, self.by, self.newest), self.act.name()),
            act: self.act,
            table: "item",
            others: &[],
            deciding: &self.deciding,
            batch_rows: self.batch_rows,
            spreads: false,
        }
    }

    /// The key of a row that counts at all.
    fn key(&self, entry: &Entry, database: Database) -> Option<Vec<&'static str>> {
        let counts = (self.by == 1 || entry.live == Some(1)) && entry.rest.concerns(self.act);
        let values = entry.key.iter().zip(self.kinds).take(self.width);
        let values: Option<Vec<_>> = values.map(|(cell, kind)| kind.value(*cell, database).1).collect();
        values.filter(|_| counts)
    }

    /// Which of two rows of one key stays: the lesser.
    fn order(&self, one: usize, other: usize) -> Ordering {
        // NULL is less than every number, which makes it the oldest.
        for place in 0..self.by {
            let order = self.entries[one].by[place].cmp(&self.entries[other].by[place]);
            let order = if self.newest { order.reverse() } else { order };
            if order != Ordering::Equal {
                return order;
            }
        }
        self.key.rank(one).cmp(&self.key.rank(other))
    }

    pub(crate) fn expected(&self, database: Database) -> BTreeSet<String> {
        let keys: Vec<_> = self.entries.iter().map(|entry| self.key(entry, database)).collect();
        let goes = |place: &usize| {
            let better = |other: usize| keys[other] == keys[*place] && self.order(other, *place) == Ordering::Less;
            keys[*place].is_some() && (0..keys.len()).any(better)
        };
        (0..keys.len()).filter(goes).map(mark).collect()
    }

    pub(crate) fn setup(&self, database: Database) -> String {
        let mut columns: Vec<(String, String)> = numbered("k", 3)
            .into_iter()
            .zip(self.kinds.map(|kind| kind.declared(database).to_owned()))
            .collect();
        columns.extend(["b1", "b2", "live"].map(|name| (name.to_owned(), "bigint".to_owned())));
        let mut table = Builder::new("item", self.key, columns, database);
        for (place, entry) in self.entries.iter().enumerate() {
            let keys = entry.key.iter().zip(self.kinds);
            let mut values: Vec<String> = keys.map(|(cell, kind)| kind.value(*cell, database).0.to_owned()).collect();
            let numbers = [entry.by[0], entry.by[1], entry.live];
            values.extend(numbers.map(|number| number.map_or_else(|| "NULL".to_owned(), |number| number.to_string())));
            table.row(place, &values, entry.rest);
        }
        let index = if self.indexed {
            format!("CREATE INDEX item_key ON item ({}); ", numbered("k", self.width).join(", "))
        } else {
            String::new()
        };
        table.sql() + &index
    }
}
