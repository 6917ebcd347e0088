//! Children and parents of random shape, and the model that tells who is an orphan.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::support::Database;

/// How the columns of a child and of its parent are declared.
#[derive(Debug, Clone, Copy)]
enum Pair {
    Whole,
    /// A wide child of a narrow parent.
    Narrow,
    /// A child with fractions of a parent without.
    Fraction,
    Text,
    /// SQLite: only the parent does not care for capitals. Elsewhere as `Text`.
    LooseParent,
    /// SQLite: only the child does not.
    LooseChild,
}

const PAIRS: [Pair; 6] = [
    Pair::Whole,
    Pair::Narrow,
    Pair::Fraction,
    Pair::Text,
    Pair::LooseParent,
    Pair::LooseChild,
];

/// A value as the model sees it.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    Number(f64),
    Text(&'static str),
    Bytes,
}

/// Place of a value in the lists below; `None` is NULL. The last place is a value of another class than the column's, which only
/// SQLite can hold.
type Cell = Option<usize>;

const NUMBERS: [(&str, f64); 6] = [
    ("-3", -3.0),
    ("0", 0.0),
    ("1", 1.0),
    ("2", 2.0),
    ("7", 7.0),
    ("30000", 30_000.0),
];
const FRACTIONS: [(&str, f64); 6] = [
    ("-3.0", -3.0),
    ("0.0", 0.0),
    ("1.0", 1.0),
    ("1.5", 1.5),
    ("7.25", 7.25),
    ("30000.0", 30_000.0),
];
const TEXTS: [&str; 6] = ["", "a", "A", "b", "B ", "ß"];
const FOREIGN: usize = 6;

impl Pair {
    fn types(self, database: Database) -> [&'static str; 2] {
        match (self, database) {
            (Self::Whole, Database::Sqlite) => ["INTEGER", "INTEGER"],
            (Self::Narrow, Database::Sqlite) => ["BIGINT", "SMALLINT"],
            (Self::Fraction, Database::Sqlite) => ["DOUBLE", "INT"],
            (Self::Text, Database::Sqlite) => ["TEXT", "VARCHAR(20)"],
            (Self::LooseParent, Database::Sqlite) => ["TEXT", "TEXT COLLATE NOCASE"],
            (Self::LooseChild, Database::Sqlite) => ["TEXT COLLATE NOCASE", "TEXT"],
            (Self::Whole, Database::Postgres) => ["bigint", "bigint"],
            (Self::Narrow, Database::Postgres) => ["bigint", "smallint"],
            (Self::Fraction, Database::Postgres) => ["double precision", "integer"],
            (Self::Text | Self::LooseParent | Self::LooseChild, Database::Postgres) => ["text", "varchar(20)"],
        }
    }

    fn numbers(self, child: bool) -> Option<&'static [(&'static str, f64); 6]> {
        match self {
            Self::Fraction if child => Some(&FRACTIONS),
            Self::Whole | Self::Narrow | Self::Fraction => Some(&NUMBERS),
            Self::Text | Self::LooseParent | Self::LooseChild => None,
        }
    }

    /// The value as SQL writes it and as the model sees it.
    fn value(self, cell: Cell, child: bool, database: Database) -> (String, Value) {
        match (cell, self.numbers(child)) {
            (None, _) => ("NULL".to_owned(), Value::Null),
            (Some(FOREIGN), _) if database == Database::Postgres => ("NULL".to_owned(), Value::Null),
            (Some(FOREIGN), Some(_)) => ("'x'".to_owned(), Value::Text("x")),
            (Some(FOREIGN), None) => ("x'61'".to_owned(), Value::Bytes),
            (Some(place), Some(numbers)) => (numbers[place].0.to_owned(), Value::Number(numbers[place].1)),
            (Some(place), None) => (format!("'{}'", TEXTS[place]), Value::Text(TEXTS[place])),
        }
    }

    /// Whether a value of the child, or of another parent, names this parent's.
    fn equal(self, value: &Value, parent: &Value, database: Database) -> bool {
        match (value, parent) {
            (Value::Number(value), Value::Number(parent)) => (value - parent).abs() < f64::EPSILON,
            (Value::Text(value), Value::Text(parent)) if matches!((self, database), (Self::LooseParent, Database::Sqlite)) => {
                value.eq_ignore_ascii_case(parent)
            }
            (Value::Text(value), Value::Text(parent)) => value == parent,
            _ => false,
        }
    }
}

/// What addresses a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChildKey {
    Number,
    Text,
    /// Two columns; on SQLite without rowid.
    Two,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParentKey {
    Bare,
    Indexed,
    Unique,
}

#[derive(Debug, Clone)]
struct Child {
    names: [Cell; 3],
    /// Its own key, where the table is its own parent.
    is: [Cell; 3],
    note: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct Orphans {
    width: usize,
    pairs: [Pair; 3],
    pub(crate) itself: bool,
    child_key: ChildKey,
    parent_key: ParentKey,
    generated: bool,
    parents: Vec<[Cell; 3]>,
    children: Vec<Child>,
    pub(crate) batch_rows: u32,
}

pub(crate) fn orphans() -> impl Strategy<Value = Orphans> {
    let known = || option::weighted(0.9, 0..6_usize);
    let any = || option::weighted(0.85, 0..=FOREIGN);
    let child = ([any(), any(), any()], [known(), known(), known()], 0..NOTES.len());
    let child = child.prop_map(|(names, is, note)| Child { names, is, note });
    (
        (
            1..=3_usize,
            [select(&PAIRS[..]), select(&PAIRS[..]), select(&PAIRS[..])],
            any_bool(),
        ),
        select(&[ChildKey::Number, ChildKey::Text, ChildKey::Two][..]),
        select(&[ParentKey::Bare, ParentKey::Indexed, ParentKey::Unique][..]),
        any_bool(),
        vec([known(), known(), known()], 0..12),
        vec(child, 0..25),
        1..8_u32,
    )
        .prop_map(
            |((width, pairs, itself), child_key, parent_key, generated, parents, children, batch_rows)| Orphans {
                width,
                pairs,
                itself,
                child_key,
                parent_key,
                generated,
                parents,
                children,
                batch_rows,
            },
        )
}

pub(crate) fn any_bool() -> impl Strategy<Value = bool> {
    select(&[false, true][..])
}

const NOTES: [&str; 5] = ["NULL", "''", "'it''s'", "'ünï ☃'", "'  two\nlines '"];

impl Orphans {
    fn table(&self) -> &'static str {
        if self.itself { "node" } else { "child" }
    }

    pub(crate) fn operation(&self) -> String {
        format!("{}_{}", self.table(), self.width)
    }

    fn values(&self, cells: &[Cell; 3], child: bool, database: Database) -> Vec<(String, Value)> {
        let pairs = cells.iter().zip(self.pairs);
        pairs.map(|(cell, pair)| pair.value(*cell, child, database)).collect()
    }

    fn names(&self, names: &[(String, Value)], parent: &[(String, Value)], database: Database) -> bool {
        (0..self.width).all(|place| self.pairs[place].equal(&names[place].1, &parent[place].1, database))
    }

    /// Parents, without those that a unique key would refuse.
    fn parents(&self, database: Database) -> Vec<Vec<(String, Value)>> {
        if self.itself {
            return self
                .children
                .iter()
                .map(|child| self.values(&child.is, false, database))
                .collect();
        }
        let mut parents: Vec<Vec<(String, Value)>> = Vec::new();
        for cells in &self.parents {
            let parent = self.values(cells, false, database);
            let twice = parents.iter().any(|other| self.names(&parent, other, database));
            if self.parent_key != ParentKey::Unique || !twice {
                parents.push(parent);
            }
        }
        parents
    }

    pub(crate) fn has_parents(&self, database: Database) -> bool {
        !self.parents(database).is_empty()
    }

    fn id(&self, place: usize) -> String {
        // Not in the order in which they are written.
        let number = (place + 1) * 7_919 % 10_007;
        match self.child_key {
            ChildKey::Text => format!("i{number}"),
            ChildKey::Number | ChildKey::Two => number.to_string(),
        }
    }

    /// The model: ids of children that name somebody who is not there.
    pub(crate) fn expected(&self, database: Database) -> BTreeSet<String> {
        let parents = self.parents(database);
        let is_orphan = |child: &Child| {
            let names = self.values(&child.names, true, database);
            names[..self.width].iter().all(|(_, value)| *value != Value::Null)
                && !parents.iter().any(|parent| self.names(&names, parent, database))
        };
        let orphans = self.children.iter().enumerate().filter(|(_, child)| is_orphan(child));
        orphans.map(|(place, _)| self.id(place)).collect()
    }

    pub(crate) fn setup(&self, database: Database) -> String {
        let columns = |prefix: &str, side: usize| -> String {
            let declared = (1..)
                .zip(self.pairs)
                .map(|(place, pair)| format!(", {prefix}{place} {}", pair.types(database)[side]));
            declared.collect()
        };
        let sqlite = database == Database::Sqlite;
        let (id, key) = match self.child_key {
            ChildKey::Number if sqlite => ("id INTEGER PRIMARY KEY, part TEXT", ""),
            ChildKey::Number => ("id bigint PRIMARY KEY, part text", ""),
            ChildKey::Text => ("id text PRIMARY KEY, part text", ""),
            ChildKey::Two if sqlite => (
                "id INTEGER NOT NULL, part TEXT NOT NULL COLLATE NOCASE",
                ", PRIMARY KEY (part, id)",
            ),
            ChildKey::Two => ("id bigint NOT NULL, part text NOT NULL", ", PRIMARY KEY (part, id)"),
        };
        let without_rowid = if sqlite && self.child_key == ChildKey::Two {
            " WITHOUT ROWID"
        } else {
            ""
        };
        let generated = if self.generated {
            ", g text GENERATED ALWAYS AS (note || '!') STORED"
        } else {
            ""
        };
        let key_columns = ["k1", "k2", "k3"][..self.width].join(", ");
        let table = self.table();
        let parent = if self.itself { "node" } else { "parent" };
        let mut sql = format!("DROP TABLE {table}; CREATE TABLE {table} ({id}{}", columns("c", 0));
        if self.itself {
            sql.push_str(&columns("k", 1));
        }
        sql.push_str(&format!(", note text{generated}{key}){without_rowid}; "));
        if !self.itself {
            sql.push_str(&format!(
                "DROP TABLE parent; CREATE TABLE parent ({}); ",
                columns("k", 1).trim_start_matches(", ")
            ));
        }
        match self.parent_key {
            ParentKey::Bare => {}
            ParentKey::Unique if !self.itself => {
                sql.push_str(&format!("CREATE UNIQUE INDEX parent_key ON parent ({key_columns}); "))
            }
            ParentKey::Indexed | ParentKey::Unique => {
                sql.push_str(&format!("CREATE INDEX {parent}_key ON {parent} ({key_columns}); "))
            }
        }
        let literals = |values: Vec<(String, Value)>| values.into_iter().map(|(sql, _)| sql).collect::<Vec<_>>().join(", ");
        if !self.itself {
            for parent in self.parents(database) {
                sql.push_str(&format!("INSERT INTO parent VALUES ({}); ", literals(parent)));
            }
        }
        for (place, child) in self.children.iter().enumerate() {
            let own = if self.itself {
                format!(", {}", literals(self.values(&child.is, false, database)))
            } else {
                String::new()
            };
            sql.push_str(&format!(
                "INSERT INTO {table} (id, part, c1, c2, c3{}, note) VALUES ('{}', '{}', {}{own}, {}); ",
                if self.itself { ", k1, k2, k3" } else { "" },
                self.id(place),
                ["a", "B", "b"][place % 3],
                literals(self.values(&child.names, true, database)),
                NOTES[child.note],
            ));
        }
        sql
    }
}
