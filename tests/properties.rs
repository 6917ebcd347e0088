//! Random schemas and rows against a model in plain Rust that knows neither SQL nor dbkeep: what a run takes is what the model
//! says, what it took is in the backup, and an undo gives the table back as it was.
//!
//! The seed is printed; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` change it and the number of cases. A failing case is shrunk.

mod acts;
#[expect(dead_code, reason = "the support of all suites; this one brings its own tables")]
mod support;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use dbkeep_client::{Error, RunRequest, UndoRequest, proto};
use dbkeep_testkit::{Db, chunk, fresh_database};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::select,
    test_runner::{Config, RngSeed, TestRunner},
};
use support::{Database, World};

const SEED: u64 = 20_261_123;

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
enum ChildKey {
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
struct Orphans {
    width: usize,
    pairs: [Pair; 3],
    itself: bool,
    child_key: ChildKey,
    parent_key: ParentKey,
    generated: bool,
    parents: Vec<[Cell; 3]>,
    children: Vec<Child>,
    batch_rows: u32,
}

fn orphans() -> impl Strategy<Value = Orphans> {
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

fn any_bool() -> impl Strategy<Value = bool> {
    select(&[false, true][..])
}

const NOTES: [&str; 5] = ["NULL", "''", "'it''s'", "'ünï ☃'", "'  two\nlines '"];

impl Orphans {
    fn table(&self) -> &'static str {
        if self.itself { "node" } else { "child" }
    }

    fn operation(&self) -> String {
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

    fn id(&self, place: usize) -> String {
        // Not in the order in which they are written.
        let number = (place + 1) * 7_919 % 10_007;
        match self.child_key {
            ChildKey::Text => format!("i{number}"),
            ChildKey::Number | ChildKey::Two => number.to_string(),
        }
    }

    /// The model: ids of children that name somebody who is not there.
    fn expected(&self, database: Database) -> BTreeSet<String> {
        let parents = self.parents(database);
        let is_orphan = |child: &Child| {
            let names = self.values(&child.names, true, database);
            names[..self.width].iter().all(|(_, value)| *value != Value::Null)
                && !parents.iter().any(|parent| self.names(&names, parent, database))
        };
        let orphans = self.children.iter().enumerate().filter(|(_, child)| is_orphan(child));
        orphans.map(|(place, _)| self.id(place)).collect()
    }

    fn setup(&self, database: Database) -> String {
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
struct Expired {
    clock: Clock,
    past: bool,
    child_key: ChildKey,
    moments: Vec<Moment>,
    batch_rows: u32,
}

/// Days before now after which `_old` operations take a row.
const RETENTION: i64 = 1_000;

fn expired() -> impl Strategy<Value = Expired> {
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

    fn operation(&self) -> String {
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

    fn expected(&self, now: Timestamp, horizon: Timestamp, database: Database) -> BTreeSet<String> {
        let is_old = |moment: &Moment| self.value(*moment, now, database).1.is_some_and(|instant| instant < horizon);
        let old = self.moments.iter().enumerate().filter(|(_, moment)| is_old(moment));
        old.map(|(place, _)| self.id(place)).collect()
    }

    fn setup(&self, now: Timestamp, database: Database) -> String {
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

fn clocks(database: Database) -> &'static str {
    match database {
        Database::Postgres => "seconds bigint, millis bigint, instant timestamptz, wall timestamp",
        Database::Sqlite => "seconds INTEGER, millis INTEGER, instant TEXT, wall",
    }
}

/// An operation for each number of columns, with and without a table of its own for the parents, and for each clock.
fn catalog(database: Database) -> String {
    let mut text = String::new();
    let mut add = |name: &str, rule: String| {
        text.push_str(&format!(
            "[[operation]]\nname = \"{name}\"\ncategory = \"X\"\nseverity = \"MEDIUM\"\nbackup = true\n\
             [[operation.rule]]\nname = \"it\"\nmax_fraction = 1.0\n{rule}\n\n"
        ));
    };
    for width in 1..=3 {
        let columns = |prefix: &str| {
            format!(
                "{:?}",
                (1..=width).map(|place| format!("{prefix}{place}")).collect::<Vec<_>>()
            )
        };
        for (table, parent) in [("child", "parent"), ("node", "node")] {
            let rule = format!(
                "kind = \"orphan\"\ntable = \"{table}\"\ncolumns = {}\nparent = \"{parent}\"\nparent_columns = {}",
                columns("c"),
                columns("k")
            );
            add(&format!("{table}_{width}"), rule);
        }
    }
    for (column, reading) in [
        ("seconds", "encoding = \"unix_seconds\""),
        ("millis", "encoding = \"unix_millis\""),
        ("instant", "zone = \"UTC\""),
        (
            "wall",
            if database == Database::Sqlite {
                "zone = \"UTC\""
            } else {
                "zone = \"Europe/Berlin\""
            },
        ),
    ] {
        let rule = format!("kind = \"expired\"\ntable = \"entry\"\ncolumn = \"{column}\"\n{reading}");
        add(&format!("{column}_past"), format!("{rule}\nexpiry = true"));
        add(&format!("{column}_old"), format!("{rule}\nretention = \"P{RETENTION}D\""));
    }
    text
}

async fn world(database: Database) -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let url = match database {
        Database::Postgres => fresh_database("properties").await.expect("a database"),
        Database::Sqlite => {
            let file = folder.path().join("app.db");
            std::fs::write(&file, []).expect("an empty database");
            format!("sqlite://{}", file.display())
        }
    };
    let db = Db::open(&url).await.expect("a connection");
    // The catalog is checked against these when the server starts; each case brings tables of its own.
    let keys = "k1 integer, k2 integer, k3 integer";
    let names = "id integer PRIMARY KEY, c1 integer, c2 integer, c3 integer";
    db.execute(&format!(
        "CREATE TABLE parent ({keys}); CREATE TABLE child ({names}); CREATE TABLE node ({names}, {keys}); \
         CREATE TABLE entry (id integer PRIMARY KEY, {})",
        clocks(database)
    ))
    .await
    .expect("tables");
    db.close().await;
    World::bare(url, folder, &catalog(database)).await
}

/// Every row of every table, as text that loses nothing.
async fn dump(world: &World, tables: &[&str]) -> Vec<Vec<Option<String>>> {
    let mut dump = Vec::new();
    for table in tables {
        let sql = match &world.db {
            Db::Postgres(_) => format!("SELECT '{table}', t::text FROM {table} AS t"),
            Db::Sqlite(_) => {
                let columns = format!("SELECT name FROM pragma_table_xinfo('{table}') ORDER BY cid");
                let columns = world.db.fetch_text(&columns).await.expect("columns");
                let columns = columns.iter().map(|column| column[0].as_deref().expect("a name"));
                let values = columns.map(|name| format!("typeof(t.{name}) || quote(t.{name})"));
                format!(
                    "SELECT '{table}', {} FROM {table} AS t",
                    values.collect::<Vec<_>>().join(", ")
                )
            }
        };
        dump.extend(world.db.fetch_text(&sql).await.expect("rows"));
    }
    dump.sort();
    dump
}

async fn ids(world: &World, table: &str) -> BTreeSet<String> {
    let rows = world.db.fetch_text(&format!("SELECT id FROM {table}")).await.expect("ids");
    rows.into_iter().map(|mut row| row.remove(0).expect("an id")).collect()
}

/// Ids in the backup of a run, read by the documented format alone; one that is in it twice shows twice.
fn captured(world: &World, run: &proto::Run) -> Vec<String> {
    let folder = world.folder.path().join("data/backups").join(&run.id);
    let mut ids = Vec::new();
    for chunk in chunk::read_folder(&folder).expect("readable chunks").into_values() {
        let place = chunk.columns.iter().position(|column| column == "id").expect("the key");
        ids.extend(chunk.rows.into_iter().map(|mut row| row.swap_remove(place).expect("an id")));
    }
    ids.sort();
    ids
}

/// Plans, runs and undoes; `expected` is what the model takes from this table.
async fn cleans(world: &World, plan: &proto::Plan, tables: &[&str], expected: &BTreeSet<String>, batch_rows: u32) {
    let (table, before) = (tables[0], dump(world, tables).await);
    let had = ids(world, table).await;
    let count = expected.len() as u64;
    assert!(!plan.blocked, "{:?}", plan.steps[0].findings);
    assert_eq!(plan.row_count, count, "planned; {}", plan.steps[0].selection_sql);

    let run = world.execute(plan, batch_rows).await;
    assert_eq!(run.state(), proto::RunState::Succeeded, "{}", run.state_reason);
    let report = run.report.as_ref().expect("a report");
    assert_eq!((report.rows_affected, report.rows_captured), (count, count));
    let has = ids(world, table).await;
    assert_eq!(had.difference(&has).cloned().collect::<BTreeSet<_>>(), *expected, "what went");
    assert!(has.is_subset(&had), "nothing came");
    assert_eq!(
        captured(world, &run),
        expected.iter().cloned().collect::<Vec<_>>(),
        "what was kept"
    );
    if tables.len() > 1 {
        let others = |rows: &[Vec<Option<String>>]| rows.iter().filter(|row| row[0].as_deref() != Some(table)).count();
        assert_eq!(others(&dump(world, tables).await), others(&before), "parents stay");
    }

    if expected.is_empty() {
        let undo = world.client.runs().undo(UndoRequest::new(run.id.as_str())).await;
        assert!(matches!(undo, Err(Error::NothingCaptured { .. })), "nothing to undo");
    } else {
        let verified = world.verify(&run).await;
        assert_eq!(verified.state(), proto::RunState::Succeeded, "{}", verified.state_reason);
        let undo = world.undo(&run).await;
        assert_eq!(undo.state(), proto::RunState::Succeeded, "{}", undo.state_reason);
    }
    assert_eq!(dump(world, tables).await, before, "as before");
}

/// Returns the number of rows that the model takes, as does [`expired_holds`].
async fn orphans_hold(world: &World, database: Database, case: &Orphans) -> usize {
    world.db.execute(&case.setup(database)).await.expect("tables and rows");
    let expected = case.expected(database);
    let tables: &[&str] = if case.itself { &["node"] } else { &["child", "parent"] };
    let before = dump(world, tables).await;
    let plan = world.plan(&case.operation()).await;
    if case.parents(database).is_empty() && !expected.is_empty() {
        let run = world.client.cleanup().run(RunRequest::of_plan(&plan).execute()).await;
        assert!(
            matches!(&run, Err(Error::PlanBlocked { finding, .. }) if finding == "EMPTY_PARENT"),
            "without parents"
        );
        assert_eq!(dump(world, tables).await, before);
        return 0;
    }
    // SQLite lists as it goes, so that the second window would see who lost a parent in the first.
    let one_window = case.itself && database == Database::Sqlite;
    let batch_rows = if one_window { 1_000 } else { case.batch_rows };
    cleans(world, &plan, tables, &expected, batch_rows).await;
    expected.len()
}

async fn expired_holds(world: &World, database: Database, case: &Expired) -> usize {
    let now = Timestamp::now();
    world.db.execute(&case.setup(now, database)).await.expect("a table and rows");
    let plan = world.plan(&case.operation()).await;
    let horizon = plan.steps[0].horizon.expect("a horizon");
    let horizon = Timestamp::new(horizon.seconds, horizon.nanos).expect("an instant");
    let wanted = now - SignedDuration::from_hours(if case.past { 0 } else { 24 * RETENTION });
    assert!(
        horizon.duration_since(wanted).abs() < SignedDuration::from_mins(5),
        "{horizon} for {wanted}"
    );
    let expected = case.expected(now, horizon, database);
    cleans(world, &plan, &["entry"], &expected, case.batch_rows).await;
    expected.len()
}

/// Runs cases of a strategy in one world. A panic inside is a failure that is shrunk.
fn holds<S: Strategy>(
    name: &str,
    database: Database,
    cases: u32,
    strategy: S,
    check: impl AsyncFn(&World, Database, &S::Value) -> usize,
) {
    let mut config = Config {
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(SEED);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    println!("{name} on {database:?}: {} cases, seed {:?}", config.cases, config.rng_seed);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut world = runtime.block_on(world(database));
    let (done, taken) = (AtomicU32::new(0), AtomicUsize::new(0));
    let result = TestRunner::new(config).run(&strategy, |case| {
        taken.fetch_add(runtime.block_on(check(&world, database, &case)), Ordering::Relaxed);
        done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{name} on {database:?} after {} good cases: {failure}", done.into_inner());
    }
    runtime.block_on(world.stop());
    let (done, taken) = (done.into_inner(), taken.into_inner());
    println!("{name} on {database:?}: {taken} rows went and came back in {done} cases");
    assert!(taken > 0, "cases in which nothing goes prove nothing");
}

#[test]
fn orphans_on_sqlite() {
    holds("orphans", Database::Sqlite, 60, orphans(), orphans_hold);
}

#[test]
fn orphans_on_postgres() {
    holds("orphans", Database::Postgres, 30, orphans(), orphans_hold);
}

#[test]
fn expired_on_sqlite() {
    holds("expired", Database::Sqlite, 40, expired(), expired_holds);
}

#[test]
fn expired_on_postgres() {
    holds("expired", Database::Postgres, 25, expired(), expired_holds);
}
