//! Orphans of every form: of parents that do not count, of one type among several, left alone for a while, of their own table; by keys
//! of one to three columns.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{
    judge::Case,
    orphans::any_bool,
    rows::{ACTS, Act, Builder, Key, Rest, acts, keys, mark, numbered, operations, rest},
    support::Database,
};

/// Which parents do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unfit {
    None,
    Gone,
    GoneOrBanned,
    Unknown,
    /// Gone, and of level 1 or 2.
    GoneAndLow,
}

/// Which children name this parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OfType {
    All,
    Lessons,
    Third,
}

/// Which are old enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grace {
    None,
    Seconds,
    /// SQLite: text; PostgreSQL: a timestamp with a zone.
    Instant,
}

const FORMS: [(Unfit, OfType, Grace); 11] = [
    (Unfit::None, OfType::All, Grace::None),
    (Unfit::Gone, OfType::All, Grace::None),
    (Unfit::GoneOrBanned, OfType::All, Grace::None),
    (Unfit::Unknown, OfType::All, Grace::None),
    (Unfit::GoneAndLow, OfType::All, Grace::None),
    (Unfit::None, OfType::Lessons, Grace::None),
    (Unfit::None, OfType::Third, Grace::None),
    (Unfit::None, OfType::All, Grace::Seconds),
    (Unfit::None, OfType::All, Grace::Instant),
    (Unfit::GoneOrBanned, OfType::Lessons, Grace::Seconds),
    (Unfit::GoneAndLow, OfType::Third, Grace::Instant),
];

/// How a column of a key is declared, in the child and in the parent.
#[derive(Debug, Clone, Copy)]
enum Pair {
    Whole,
    Text,
    /// On SQLite the parent does not care for capitals; elsewhere as `Text`.
    Loose,
}

const PAIRS: [Pair; 3] = [Pair::Whole, Pair::Text, Pair::Loose];
const WHOLE: [&str; 4] = ["-3", "0", "1", "7"];
const TEXTS: [&str; 4] = ["''", "'a'", "'A'", "'b'"];
const STATUSES: [Option<&str>; 4] = [None, Some("GONE"), Some("BANNED"), Some("OK")];
const KINDS: [Option<&str>; 3] = [None, Some("lesson"), Some("course")];

type Cell = Option<usize>;

#[derive(Debug, Clone)]
struct Parent {
    key: [Cell; 3],
    status: usize,
    level: Option<i64>,
}

/// Seconds from now; `None` is NULL. On SQLite text that is no time besides.
#[derive(Debug, Clone, Copy)]
enum Made {
    Null,
    Nonsense,
    At(i64),
}

#[derive(Debug, Clone)]
struct Child {
    names: [Cell; 3],
    kind: usize,
    sort: Option<i64>,
    made: Made,
    rest: Rest,
    /// What it is as a parent, where the table is its own parent.
    is: Parent,
}

#[derive(Debug, Clone)]
pub(crate) struct Orphans {
    form: usize,
    wide: bool,
    itself: bool,
    act: Act,
    pairs: [Pair; 3],
    key: Key,
    indexed: bool,
    parents: Vec<Parent>,
    children: Vec<Child>,
    batch_rows: u32,
    deciding: Vec<String>,
}

pub(crate) fn orphans() -> impl Strategy<Value = Orphans> {
    let cell = |share: f64| option::weighted(share, 0..4_usize);
    let parent = move || {
        let key = [cell(0.95), cell(0.95), cell(0.95)];
        let level = option::weighted(0.8, 1..4_i64);
        (key, 0..STATUSES.len(), level).prop_map(|(key, status, level)| Parent { key, status, level })
    };
    let made = prop_oneof![
        1 => Just(Made::Null),
        1 => Just(Made::Nonsense),
        4 => (-9_000_000..-90_000_i64).prop_map(Made::At),
        2 => (-80_000..200_000_i64).prop_map(Made::At),
    ];
    let names = [cell(0.9), cell(0.9), cell(0.9)];
    let child = (names, 0..KINDS.len(), option::weighted(0.8, 2..4_i64), made, rest(), parent());
    let child = child.prop_map(|(names, kind, sort, made, rest, is)| Child {
        names,
        kind,
        sort,
        made,
        rest,
        is,
    });
    (
        (0..FORMS.len(), any_bool(), any_bool(), acts()),
        [select(&PAIRS[..]), select(&PAIRS[..]), select(&PAIRS[..])],
        keys(),
        any_bool(),
        vec(parent(), 0..14),
        vec(child, 0..30),
        1..8_u32,
    )
        .prop_map(
            |((form, wide, itself, act), pairs, key, indexed, parents, children, batch_rows)| Orphans {
                form,
                wide,
                itself,
                act,
                pairs,
                key,
                indexed,
                parents,
                children,
                batch_rows,
                deciding: numbered("c", width(form, wide)),
            },
        )
}

/// Each form has operations for keys of two widths.
fn width(form: usize, wide: bool) -> usize {
    if wide { 2 + form % 2 } else { 1 }
}

fn name(form: usize, wide: bool, itself: bool) -> String {
    format!("form_{form}_{}_{}", width(form, wide), if itself { "itself" } else { "host" })
}

pub(crate) fn catalog(database: Database) -> String {
    let mut text = String::new();
    for (number, (unfit, of_type, grace)) in FORMS.iter().enumerate() {
        for (wide, itself) in [(false, false), (false, true), (true, false), (true, true)] {
            let width = width(number, wide);
            let unfit = match unfit {
                Unfit::None => "",
                Unfit::Gone => "parent_where = { status = \"GONE\" }\n",
                Unfit::GoneOrBanned => "parent_where = { status = [\"GONE\", \"BANNED\"] }\n",
                Unfit::Unknown => "parent_where = { status = { null = true } }\n",
                Unfit::GoneAndLow => "parent_where = { status = \"GONE\", level = [1, 2] }\n",
            };
            let of_type = match of_type {
                OfType::All => "",
                OfType::Lessons => "type_column = \"kind\"\ntype_value = \"lesson\"\n",
                OfType::Third => "type_column = \"sort\"\ntype_value = 3\n",
            };
            let zone = if database == Database::Sqlite {
                ", zone = \"UTC\""
            } else {
                ""
            };
            let grace = match grace {
                Grace::None => String::new(),
                Grace::Seconds => "grace = { column = \"seconds\", age = \"P1D\", encoding = \"unix_seconds\" }\n".to_owned(),
                Grace::Instant => format!("grace = {{ column = \"instant\", age = \"P1D\"{zone} }}\n"),
            };
            let rule = format!(
                "kind = \"orphan\"\ncolumns = {:?}\nparent = \"{}\"\nparent_columns = {:?}\nstrict = {wide}\n{unfit}{of_type}{grace}",
                numbered("c", width),
                if itself { "reply" } else { "host" },
                numbered("k", width)
            );
            let deciding = numbered("c", width);
            operations(&mut text, &name(number, wide, itself), "reply", &rule, &ACTS, &deciding);
        }
    }
    text
}

pub(crate) fn tables(database: Database) -> String {
    let instant = instant(database);
    let own = "k1 bigint, k2 bigint, k3 bigint, status text, level bigint";
    format!(
        "CREATE TABLE reply (id integer PRIMARY KEY, mark text, every text, state text, size bigint, spare text, c1 bigint, c2 bigint, c3 bigint, \
         kind text, sort bigint, seconds bigint, instant {instant}, {own}); CREATE TABLE host ({own})"
    )
}

fn instant(database: Database) -> &'static str {
    match database {
        Database::Postgres => "timestamptz",
        Database::Sqlite => "text",
    }
}

fn optional(number: Option<i64>) -> String {
    number.map_or_else(|| "NULL".to_owned(), |number| number.to_string())
}

fn text(text: Option<&str>) -> String {
    text.map_or_else(|| "NULL".to_owned(), |text| format!("'{text}'"))
}

impl Pair {
    fn declared(self, database: Database) -> [&'static str; 2] {
        match (self, database) {
            (Self::Whole, Database::Sqlite) => ["INTEGER", "BIGINT"],
            (Self::Whole, Database::Postgres) => ["integer", "bigint"],
            (Self::Loose, Database::Sqlite) => ["TEXT", "TEXT COLLATE NOCASE"],
            (Self::Text | Self::Loose, _) => ["text", "text"],
        }
    }

    fn value(self, cell: Cell) -> &'static str {
        cell.map_or("NULL", |cell| {
            if matches!(self, Self::Whole) {
                WHOLE[cell]
            } else {
                TEXTS[cell]
            }
        })
    }

    fn names(self, child: Cell, parent: Cell, database: Database) -> bool {
        let (Some(child), Some(parent)) = (child, parent) else {
            return false;
        };
        match (self, database) {
            (Self::Loose, Database::Sqlite) => TEXTS[child].eq_ignore_ascii_case(TEXTS[parent]),
            _ => child == parent,
        }
    }
}

impl Orphans {
    fn width(&self) -> usize {
        width(self.form, self.wide)
    }

    fn parents(&self) -> Vec<&Parent> {
        if self.itself {
            self.children.iter().map(|child| &child.is).collect()
        } else {
            self.parents.iter().collect()
        }
    }

    pub(crate) fn has_parents(&self) -> bool {
        !self.parents().is_empty()
    }

    pub(crate) fn case(&self) -> Case<'_> {
        Case {
            operation: format!("{}_{}", name(self.form, self.wide, self.itself), self.act.name()),
            act: self.act,
            table: "reply",
            others: if self.itself { &[] } else { &["host"] },
            deciding: &self.deciding,
            batch_rows: self.batch_rows,
            spreads: self.itself,
        }
    }

    fn is_fit(&self, parent: &Parent) -> bool {
        let status = STATUSES[parent.status];
        !match FORMS[self.form].0 {
            Unfit::None => false,
            Unfit::Gone => status == Some("GONE"),
            Unfit::GoneOrBanned => matches!(status, Some("GONE" | "BANNED")),
            Unfit::Unknown => status.is_none(),
            Unfit::GoneAndLow => status == Some("GONE") && matches!(parent.level, Some(1 | 2)),
        }
    }

    fn goes(&self, child: &Child, database: Database) -> bool {
        let width = self.width();
        let (_, of_type, grace) = FORMS[self.form];
        let named =
            |parent: &&Parent| (0..width).all(|place| self.pairs[place].names(child.names[place], parent.key[place], database));
        let of_type = match of_type {
            OfType::All => true,
            OfType::Lessons => KINDS[child.kind] == Some("lesson"),
            OfType::Third => child.sort == Some(3),
        };
        let old = grace == Grace::None || matches!(child.made, Made::At(seconds) if seconds < -86_400);
        child.names[..width].iter().all(Option::is_some)
            && !self
                .parents()
                .into_iter()
                .filter(|parent| self.is_fit(parent))
                .any(|parent| named(&parent))
            && of_type
            && old
            && child.rest.concerns(self.act)
    }

    pub(crate) fn expected(&self, database: Database) -> BTreeSet<String> {
        let gone = self
            .children
            .iter()
            .enumerate()
            .filter(|(_, child)| self.goes(child, database));
        gone.map(|(place, _)| mark(place)).collect()
    }

    fn of_parent(&self, parent: &Parent) -> Vec<String> {
        let key = self
            .pairs
            .iter()
            .zip(parent.key)
            .map(|(pair, cell)| pair.value(cell).to_owned());
        key.chain([text(STATUSES[parent.status]), optional(parent.level)]).collect()
    }

    pub(crate) fn setup(&self, now: Timestamp, database: Database) -> String {
        let owned = |(name, declared): (&str, &str)| (name.to_owned(), declared.to_owned());
        let keys = |prefix, side: usize| {
            let declared = self.pairs.map(|pair| pair.declared(database)[side].to_owned());
            numbered(prefix, 3).into_iter().zip(declared)
        };
        let own = || keys("k", 1).chain([("status", "text"), ("level", "bigint")].map(owned));
        let rest = [
            ("kind", "text"),
            ("sort", "bigint"),
            ("seconds", "bigint"),
            ("instant", instant(database)),
        ];
        let mut columns: Vec<(String, String)> = keys("c", 0).chain(rest.map(owned)).collect();
        if self.itself {
            columns.extend(own());
        }
        let mut table = Builder::new("reply", self.key, columns, database);
        for (place, child) in self.children.iter().enumerate() {
            let names = self.pairs.iter().zip(child.names);
            let mut values: Vec<String> = names.map(|(pair, cell)| pair.value(cell).to_owned()).collect();
            values.extend([text(KINDS[child.kind]), optional(child.sort)]);
            values.extend(match child.made {
                Made::At(seconds) => {
                    let made = now + SignedDuration::from_secs(seconds);
                    let written = made.to_zoned(TimeZone::UTC).strftime("'%Y-%m-%d %H:%M:%SZ'").to_string();
                    [made.as_second().to_string(), written]
                }
                Made::Nonsense if database == Database::Sqlite => ["'soon'", "'12:00'"].map(str::to_owned),
                Made::Null | Made::Nonsense => ["NULL", "NULL"].map(str::to_owned),
            });
            if self.itself {
                values.extend(self.of_parent(&child.is));
            }
            table.row(place, &values, child.rest);
        }
        let mut sql = table.sql();
        if !self.itself {
            let declared: Vec<String> = own().map(|(name, declared)| format!("{name} {declared}")).collect();
            sql.push_str(&format!("DROP TABLE host; CREATE TABLE host ({}); ", declared.join(", ")));
            for parent in &self.parents {
                sql.push_str(&format!("INSERT INTO host VALUES ({}); ", self.of_parent(parent).join(", ")));
            }
        }
        if self.indexed {
            let parent = if self.itself { "reply" } else { "host" };
            let columns = numbered("k", self.width()).join(", ");
            sql.push_str(&format!("CREATE INDEX {parent}_key ON {parent} ({columns}); "));
        }
        sql
    }
}
