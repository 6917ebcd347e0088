//! What rows of every kind of case have besides the columns that a rule is about: a key of some shape, a mark that nobody but the
//! model knows of, and columns that an action may write.

use proptest::{prelude::*, sample::select};

use crate::support::Database;

/// What a rule does with the rows that it selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Delete,
    Archive,
    Update,
    /// A column becomes NULL by which no rule selects.
    Nullify,
    /// The columns become NULL by which the rule selects.
    Sever,
}

pub(crate) const ACTS: [Act; 5] = [Act::Delete, Act::Archive, Act::Update, Act::Nullify, Act::Sever];

/// What [`Act::Update`] writes into `state` and `size`.
pub(crate) const DONE: [(&str, &str); 2] = [("state", "done"), ("size", "7")];

impl Act {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Archive => "archive",
            Self::Update => "update",
            Self::Nullify => "nullify",
            Self::Sever => "sever",
        }
    }

    pub(crate) fn removes(self) -> bool {
        matches!(self, Self::Delete | Self::Archive)
    }
}

/// Adds an operation for each action, named after the rule and the action. `deciding` are the columns that [`Act::Sever`] empties.
/// A catalog may not do different things to the same rows, so that each also asks for a value that no row holds.
pub(crate) fn operations(catalog: &mut String, name: &str, table: &str, rule: &str, acts: &[Act], deciding: &[String]) {
    for act in acts {
        let action = match act {
            Act::Delete => String::new(),
            Act::Archive => format!("action = \"archive\"\ninto = \"old_{table}\"\nstamp = \"archived_at\"\n"),
            Act::Update => "action = \"update\"\nset = { state = \"done\", size = 7 }\n".to_owned(),
            Act::Nullify => "action = \"nullify\"\nnullify = [\"spare\"]\n".to_owned(),
            Act::Sever => format!("action = \"nullify\"\nnullify = {deciding:?}\n"),
        };
        catalog.push_str(&format!(
            "[[operation]]\nname = \"{name}_{}\"\ncategory = \"X\"\nseverity = \"MEDIUM\"\nbackup = true\n\
             [[operation.rule]]\nname = \"it\"\ntable = \"{table}\"\nmax_fraction = 1.0\n{rule}\nwhere.every = [\"row\", \"{}\"]\n{action}\n",
            act.name(),
            act.name()
        ));
    }
}

/// `columns` for a key of so many columns: `k1`, `k2`, ..
pub(crate) fn numbered(prefix: &str, width: usize) -> Vec<String> {
    (1..=width).map(|place| format!("{prefix}{place}")).collect()
}

/// What addresses a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Number,
    Text,
    /// Two columns, neither of which is a key alone; on SQLite without rowid, and without regard to capitals.
    Two,
    Bytes,
}

pub(crate) const KEYS: [Key; 4] = [Key::Number, Key::Text, Key::Two, Key::Bytes];

impl Key {
    /// Not in the order in which rows are written, and negative for some.
    fn number(place: usize) -> i64 {
        i64::try_from((place + 1) * 7_919 % 10_007).expect("small") - 5_000
    }

    fn text(place: usize) -> String {
        format!("{}{}", ["b", "B", "_", "é"][place % 4], Self::number(place))
    }

    /// Orders rows as their keys do; text by its bytes.
    pub(crate) fn rank(self, place: usize) -> (Vec<u8>, i64) {
        match self {
            Self::Number => (Vec::new(), Self::number(place)),
            Self::Text | Self::Bytes => (Self::text(place).into_bytes(), 0),
            Self::Two => (Self::part(place).as_bytes().to_vec(), Self::number(place / 3)),
        }
    }

    fn part(place: usize) -> &'static str {
        ["a", "B", "c"][place % 3]
    }

    /// The declaration of its columns, and of the constraint at the end of the table.
    pub(crate) fn declared(self, database: Database) -> (&'static str, &'static str) {
        match (self, database) {
            (Self::Number, Database::Postgres) => ("id bigint PRIMARY KEY", ""),
            (Self::Number, Database::Sqlite) => ("id INTEGER PRIMARY KEY", ""),
            (Self::Text, _) => ("id text PRIMARY KEY", ""),
            (Self::Two, Database::Postgres) => ("part text NOT NULL, id bigint NOT NULL", ", PRIMARY KEY (part, id))"),
            (Self::Two, Database::Sqlite) => (
                "part TEXT NOT NULL COLLATE NOCASE, id INTEGER NOT NULL",
                ", PRIMARY KEY (part, id)) WITHOUT ROWID",
            ),
            (Self::Bytes, Database::Postgres) => ("id bytea PRIMARY KEY", ""),
            (Self::Bytes, Database::Sqlite) => ("id BLOB PRIMARY KEY", ""),
        }
    }

    pub(crate) fn columns(self) -> &'static str {
        if self == Self::Two { "part, id" } else { "id" }
    }

    pub(crate) fn values(self, place: usize, database: Database) -> String {
        match self {
            Self::Number => Self::number(place).to_string(),
            Self::Text => format!("'{}'", Self::text(place)),
            Self::Two => format!("'{}', {}", Self::part(place), Self::number(place / 3)),
            Self::Bytes => {
                let hex: String = Self::text(place).bytes().map(|byte| format!("{byte:02x}")).collect();
                match database {
                    Database::Postgres => format!("'\\x{hex}'"),
                    Database::Sqlite => format!("x'{hex}'"),
                }
            }
        }
    }
}

/// Columns that no rule here selects by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rest {
    state: usize,
    size: usize,
    spare: usize,
}

const STATES: [&str; 3] = ["NULL", "'open'", "'done'"];
const SIZES: [&str; 3] = ["NULL", "6", "7"];
const SPARES: [&str; 3] = ["NULL", "''", "'it''s\n☃'"];

pub(crate) fn rest() -> impl Strategy<Value = Rest> {
    (0..3_usize, 0..3_usize, 0..3_usize).prop_map(|(state, size, spare)| Rest { state, size, spare })
}

impl Rest {
    /// Whether the action would change the row: one that holds the new values already is none of its business.
    pub(crate) fn concerns(self, act: Act) -> bool {
        match act {
            Act::Delete | Act::Archive | Act::Sever => true,
            Act::Update => (STATES[self.state], SIZES[self.size]) != ("'done'", "7"),
            Act::Nullify => SPARES[self.spare] != "NULL",
        }
    }

    /// What it says in `state`.
    pub(crate) fn state(self) -> Option<&'static str> {
        [None, Some("open"), Some("done")][self.state]
    }
}

/// What the model calls the row.
pub(crate) fn mark(place: usize) -> String {
    format!("m{place}")
}

/// A table with a key, these columns, and the rest of a row; dropped first, with its archive.
pub(crate) struct Builder {
    table: &'static str,
    key: Key,
    columns: Vec<(String, String)>,
    rows: Vec<String>,
    database: Database,
}

impl Builder {
    pub(crate) fn new(table: &'static str, key: Key, columns: Vec<(String, String)>, database: Database) -> Self {
        Self {
            table,
            key,
            columns,
            rows: Vec::new(),
            database,
        }
    }

    /// A row with these values, as SQL writes them, of the columns.
    pub(crate) fn row(&mut self, place: usize, values: &[String], rest: Rest) {
        assert_eq!(values.len(), self.columns.len(), "a value for each column");
        self.rows.push(format!(
            "({}, '{}', {}, {}, {}{})",
            self.key.values(place, self.database),
            mark(place),
            STATES[rest.state],
            SIZES[rest.size],
            SPARES[rest.spare],
            values.iter().map(|value| format!(", {value}")).collect::<String>()
        ));
    }

    pub(crate) fn sql(self) -> String {
        let (key, end) = self.key.declared(self.database);
        let end = if end.is_empty() { ")" } else { end };
        let columns: String = self
            .columns
            .iter()
            .map(|(name, declared)| format!(", {name} {declared}"))
            .collect();
        let names: String = self.columns.iter().map(|(name, _)| format!(", {name}")).collect();
        let table = self.table;
        let mut sql = format!(
            "DROP TABLE IF EXISTS old_{table}; DROP TABLE IF EXISTS {table}; \
             CREATE TABLE {table} ({key}, mark text NOT NULL, every text NOT NULL DEFAULT 'row', state text, size bigint, spare text{columns}{end}; "
        );
        if !self.rows.is_empty() {
            sql.push_str(&format!(
                "INSERT INTO {table} ({}, mark, state, size, spare{names}) VALUES {}; ",
                self.key.columns(),
                self.rows.join(", ")
            ));
        }
        sql
    }
}

pub(crate) fn acts() -> impl Strategy<Value = Act> {
    select(&ACTS[..])
}

pub(crate) fn keys() -> impl Strategy<Value = Key> {
    select(&KEYS[..])
}

/// A row that every action concerns.
pub(crate) fn plain() -> Rest {
    Rest {
        state: 1,
        size: 1,
        spare: 1,
    }
}
