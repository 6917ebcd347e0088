//! Parents, children and grandchildren of random shape. The oracle is the database itself: a copy in which every key is declared,
//! from which the parents are deleted plainly.

use std::collections::BTreeMap;

use dbkeep_testkit::Db;
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{orphans::any_bool, support::Database};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Cascade,
    SetNull,
}

impl Action {
    fn sql(self) -> &'static str {
        match self {
            Self::Cascade => "CASCADE",
            Self::SetNull => "SET NULL",
        }
    }
}

/// Size of a batch that takes all rows at once.
pub(crate) const MANY: u32 = 1_000;

/// By what of a `top` its children name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    First,
    Both,
    Id,
}

/// Who says what becomes of a `mid` whose `top` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Schema,
    /// The catalog alone.
    Catalog,
    /// The catalog; the schema only refuses.
    CatalogFirst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Id {
    Number,
    Text,
    /// SQLite: capitals do not matter. Elsewhere as `Text`.
    Loose,
}

impl Id {
    fn declared(self, database: Database) -> &'static str {
        match (self, database) {
            (Self::Number, _) => "INTEGER",
            (Self::Loose, Database::Sqlite) => "TEXT COLLATE NOCASE",
            (Self::Text | Self::Loose, _) => "TEXT",
        }
    }

    fn literal(self, place: usize, database: Database, spelt: bool) -> String {
        // Not in the order in which they are written.
        let number = (place + 1) * 7_919 % 10_007;
        match self {
            Self::Number => number.to_string(),
            Self::Loose if spelt && database == Database::Sqlite => format!("'I{number}'"),
            Self::Text | Self::Loose => format!("'i{number}'"),
        }
    }
}

/// How a column of `top` is declared on SQLite.
const DECLARED: [&str; 9] = [
    "INTEGER",
    "TEXT",
    "",
    "NUMERIC",
    "REAL",
    "BLOB",
    "TEXT COLLATE NOCASE",
    "TEXT COLLATE RTRIM",
    "COLLATE NOCASE",
];
const LITERALS: [&str; 9] = ["1", "2", "'1'", "'01'", "2.0", "'a'", "'A'", "'a '", "x'61'"];

/// Pairs of a parent's and a child's type on PostgreSQL. The last three have no comparison that an index serves and that is sure;
/// the very last is unsure even without a key.
const TYPES: [(&str, &str); 8] = [
    ("integer", "integer"),
    ("bigint", "integer"),
    ("text", "text"),
    ("text", "varchar(20)"),
    ("text COLLATE careless", "text COLLATE careless"),
    ("numeric", "integer"),
    ("character(4)", "text"),
    ("text COLLATE careless", "text"),
];
const SURE_TYPES: usize = 5;
const TEXTS: [&str; 9] = ["''", "'a'", "'A'", "'b'", "'B'", "'1'", "'a b'", "'c'", "'C'"];

/// Declaration of a column pair.
#[derive(Debug, Clone, Copy)]
struct Kind {
    parent: usize,
    child: usize,
    /// Whether the child's index has the parent's collation.
    fitting: bool,
    types: usize,
}

type Cell = Option<usize>;

/// What a child names.
#[derive(Debug, Clone)]
struct Reference {
    of: Option<usize>,
    /// SQLite: these values instead.
    odd: Option<[Cell; 2]>,
    spelt: bool,
}

#[derive(Debug, Clone)]
struct Top {
    key: [Cell; 2],
    doomed: bool,
    up: Option<usize>,
    nameless: bool,
}

/// A row of `mid`, or one of `low`, where `up` names a `mid`.
#[derive(Debug, Clone)]
struct Child {
    top: Reference,
    up: Option<usize>,
    spelt: bool,
    nameless: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Families {
    named: Named,
    says: Says,
    ids: [Id; 3],
    kinds: [Kind; 2],
    mid_top: Action,
    low_mid: Action,
    low_top: Option<Action>,
    mid_mid: Option<Action>,
    top_top: Option<Action>,
    tops: Vec<Top>,
    mids: Vec<Child>,
    lows: Vec<Child>,
    pub(crate) batch_rows: u32,
}

pub(crate) fn families() -> impl Strategy<Value = Families> {
    let action = || select(&[Action::Cascade, Action::SetNull][..]);
    let id = || select(&[Id::Number, Id::Text, Id::Loose][..]);
    let kind = || {
        let fitting = prop::bool::weighted(0.8);
        (
            0..DECLARED.len(),
            option::weighted(0.4, 0..DECLARED.len()),
            fitting,
            prop_oneof![4 => 0..SURE_TYPES, 1 => 0..TYPES.len()],
        )
            .prop_map(|(parent, child, fitting, types)| Kind {
                parent,
                child: child.unwrap_or(parent),
                fitting,
                types,
            })
    };
    let cell = || option::weighted(0.9, 0..LITERALS.len());
    let nameless = || prop::bool::weighted(0.004);
    let reference = || {
        (
            option::weighted(0.9, 0..8_usize),
            option::weighted(0.25, [cell(), cell()]),
            any_bool(),
        )
            .prop_map(|(of, odd, spelt)| Reference { of, odd, spelt })
    };
    let top = (
        [cell(), cell()],
        prop::bool::weighted(0.4),
        option::weighted(0.3, 0..8_usize),
        nameless(),
    );
    let top = top.prop_map(|(key, doomed, up, nameless)| Top {
        key,
        doomed,
        up,
        nameless,
    });
    let child = |of: usize| {
        (reference(), option::weighted(0.6, 0..of), any_bool(), nameless()).prop_map(|(top, up, spelt, nameless)| Child {
            top,
            up,
            spelt,
            nameless,
        })
    };
    (
        (
            select(&[Named::First, Named::Both, Named::Id][..]),
            select(&[Says::Schema, Says::Schema, Says::Catalog, Says::CatalogFirst][..]),
            [id(), id(), id()],
            [kind(), kind()],
        ),
        (
            action(),
            action(),
            option::weighted(0.6, action()),
            option::weighted(0.6, action()),
            option::weighted(0.4, action()),
        ),
        vec(top, 1..10),
        vec(child(20), 0..20),
        vec(child(20), 0..20),
        prop_oneof![1..6_u32, Just(MANY)],
    )
        .prop_map(
            |((named, says, ids, kinds), (mid_top, low_mid, low_top, mid_mid, top_top), tops, mids, lows, batch_rows)| Families {
                named,
                says,
                ids,
                kinds,
                mid_top,
                low_mid,
                low_top,
                mid_mid,
                top_top,
                tops,
                mids,
                lows,
                batch_rows,
            },
        )
}

/// Tables that the catalog of [`operations`] fits.
const TABLES: &str = "CREATE TABLE top (id integer PRIMARY KEY, k1 integer UNIQUE, k2 integer, doomed integer); \
     CREATE TABLE mid (id integer PRIMARY KEY, t1 integer, t2 integer); CREATE TABLE low (id integer PRIMARY KEY)";

/// Operations that delete doomed rows of `top`: with the schema's keys alone, and with each way to name a `top` declared.
fn operations() -> Vec<(String, String)> {
    let rule = "kind = \"filter\"\ntable = \"top\"\ncondition = \"doomed = 1\"";
    let mut operations = vec![("family".to_owned(), rule.to_owned())];
    for on_delete in ["cascade", "set_null"] {
        for (name, columns, parent_columns) in [
            ("first", "[\"t1\"]", "[\"k1\"]"),
            ("both", "[\"t1\", \"t2\"]", "[\"k1\", \"k2\"]"),
            ("id", "[\"t1\"]", "[\"id\"]"),
        ] {
            let child = format!(
                "[[operation.rule.child]]\ntable = \"mid\"\ncolumns = {columns}\nparent_columns = {parent_columns}\non_delete = \"{on_delete}\""
            );
            operations.push((format!("family_{name}_{on_delete}"), format!("{rule}\n{child}")));
        }
    }
    operations
}

/// [`TABLES`], and on PostgreSQL a collation to which capitals are the same.
pub(crate) fn tables(database: Database) -> String {
    let collation = "CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false); ";
    let collation = if database == Database::Postgres { collation } else { "" };
    format!("{collation}{TABLES}")
}

/// [`operations`] as a catalog.
pub(crate) fn catalog() -> String {
    let operation = |(name, rule): (String, String)| {
        format!(
            "[[operation]]\nname = \"{name}\"\ncategory = \"X\"\nseverity = \"MEDIUM\"\nbackup = true\n\
             [[operation.rule]]\nname = \"it\"\nmax_fraction = 1.0\n{rule}\n\n"
        )
    };
    operations().into_iter().map(operation).collect()
}

/// Rows of the three tables by their tags.
pub(crate) type Rows = BTreeMap<&'static str, BTreeMap<u64, Vec<String>>>;

const COLUMNS: [(&str, &[&str]); 3] = [
    ("top", &["id", "k1", "k2", "doomed", "up"]),
    ("mid", &["id", "t1", "t2", "up"]),
    ("low", &["id", "t1", "t2", "up"]),
];
const NULL: &str = "-";

/// The rows as they are stored.
pub(crate) async fn rows(db: &Db, schema: &str) -> Rows {
    let mut rows = Rows::new();
    for (table, columns) in COLUMNS {
        let exact = |name: &&str| match db {
            Db::Postgres(_) => format!("coalesce('=' || {name}, '{NULL}')"),
            Db::Sqlite(_) => format!("coalesce(nullif(typeof({name}), 'null') || '=' || quote({name}), '{NULL}')"),
        };
        let columns: Vec<String> = columns.iter().map(exact).collect();
        let sql = format!("SELECT tag, {} FROM {schema}{table}", columns.join(", "));
        let found = db.fetch_text(&sql).await.expect("rows");
        let of_table = found.into_iter().map(|row| {
            let mut row = row.into_iter().flatten();
            let tag = row.next().and_then(|tag| tag.parse().ok()).expect("a tag");
            (tag, row.collect())
        });
        rows.insert(table, of_table.collect());
    }
    rows
}

/// Rows of a table that were deleted and whose key became NULL.
pub(crate) type Change = (u64, u64);

impl Families {
    fn width(&self) -> usize {
        if self.named == Named::Both { 2 } else { 1 }
    }

    pub(crate) fn operation(&self) -> String {
        if self.says == Says::Schema {
            return "family".to_owned();
        }
        let named = match self.named {
            Named::First => "first",
            Named::Both => "both",
            Named::Id => "id",
        };
        let action = match self.mid_top {
            Action::Cascade => "cascade",
            Action::SetNull => "set_null",
        };
        format!("family_{named}_{action}")
    }

    /// What the catalog may say of a pair must be of one type.
    fn types(&self, place: usize) -> (&'static str, &'static str) {
        let kind = self.kinds[place];
        TYPES[if self.says == Says::Schema {
            kind.types
        } else {
            kind.types % SURE_TYPES
        }]
    }

    /// Declarations of a column of `top` and of one that names it.
    fn declared(&self, place: usize, database: Database) -> (&'static str, &'static str) {
        let kind = self.kinds[place];
        match database {
            Database::Postgres => self.types(place),
            Database::Sqlite if self.says == Says::Schema => (DECLARED[kind.parent], DECLARED[kind.child]),
            Database::Sqlite => (DECLARED[kind.parent], DECLARED[kind.parent]),
        }
    }

    fn naming(&self, place: usize, database: Database) -> (&'static str, &'static str) {
        let (of_top, of_child) = self.declared(place, database);
        if self.named != Named::Id || place > 0 {
            return (of_top, of_child);
        }
        let id = self.ids[0].declared(database);
        let strange = self.says == Says::Schema && !self.kinds[0].fitting && database == Database::Sqlite;
        (id, if strange { of_child } else { id })
    }

    /// Whether no index finds the children of a `top` as its key does.
    fn unlike(&self, database: Database) -> bool {
        (0..self.width()).any(|place| {
            let (parent, child) = self.naming(place, database);
            if database == Database::Postgres {
                return self.named != Named::Id && TYPES[SURE_TYPES..].contains(&(parent, child));
            }
            let numeric = |declared: &str| ["INTEGER", "NUMERIC", "REAL"].contains(&declared);
            let index = if self.kinds[place].fitting { parent } else { child };
            numeric(parent) != numeric(child) || collation(parent) != collation(index)
        })
    }

    /// Codes of the findings that must block the plan.
    pub(crate) fn blocked(&self, before: &Rows, database: Database) -> Vec<&'static str> {
        let mut codes = Vec::new();
        if self.unlike(database) {
            codes.push("CHILD_KEY_UNLIKE");
        }
        let reaches_low = self.mid_top == Action::Cascade || self.low_top.is_some();
        let nameless = |table: &str| before[table].values().any(|row| row[0] == NULL);
        if nameless("top") || nameless("mid") || reaches_low && nameless("low") {
            codes.push("NULL_PRIMARY_KEY");
        }
        codes
    }

    /// The three tables; in the oracle's form every key is declared.
    fn tables(&self, database: Database, oracle: bool) -> String {
        let key = |columns: &str, parent: &str, action: Option<&str>| {
            let action = action.map(|action| format!(", FOREIGN KEY ({columns}) REFERENCES {parent} ON DELETE {action}"));
            action.unwrap_or_default()
        };
        let optional = |action: Option<Action>| action.map(Action::sql);
        let (names, of_top) = match self.named {
            Named::First => ("t1", "top (k1)"),
            Named::Both => ("t1, t2", "top (k1, k2)"),
            Named::Id => ("t1", "top (id)"),
        };
        let mid_top = match self.says {
            _ if oracle => Some(self.mid_top.sql()),
            Says::Schema => Some(self.mid_top.sql()),
            Says::Catalog => None,
            Says::CatalogFirst => Some("NO ACTION"),
        };
        let unique = match self.named {
            Named::First => ", UNIQUE (k1)",
            Named::Both => ", UNIQUE (k1, k2)",
            Named::Id => "",
        };
        let [top_id, mid_id, low_id] = self.ids.map(|id| id.declared(database));
        let (k1, k2) = (self.declared(0, database).0, self.declared(1, database).0);
        let (t1, t2) = (self.naming(0, database).1, self.naming(1, database).1);
        let indexed: Vec<String> = (0..self.width())
            .map(|place| {
                let (parent, _) = self.naming(place, database);
                match collation(parent) {
                    collation if self.kinds[place].fitting && database == Database::Sqlite => {
                        format!("t{} COLLATE {collation}", place + 1)
                    }
                    _ => format!("t{}", place + 1),
                }
            })
            .collect();
        let indexed = indexed.join(", ");
        format!(
            "CREATE TABLE top (tag integer, id {top_id} PRIMARY KEY, k1 {k1}, k2 {k2}, doomed integer, up {top_id}{unique}{}); \
             CREATE TABLE mid (tag integer, id {mid_id} PRIMARY KEY, t1 {t1}, t2 {t2}, up {mid_id}{}{}); \
             CREATE TABLE low (tag integer, id {low_id} PRIMARY KEY, t1 {t1}, t2 {t2}, up {mid_id}{}{}); \
             CREATE INDEX top_up ON top (up); CREATE INDEX mid_up ON mid (up); CREATE INDEX low_up ON low (up); \
             CREATE INDEX mid_top ON mid ({indexed}); CREATE INDEX low_top ON low ({indexed}); ",
            key("up", "top (id)", optional(self.top_top)),
            key(names, of_top, mid_top),
            key("up", "mid (id)", optional(self.mid_mid)),
            key(names, of_top, optional(self.low_top)),
            key("up", "mid (id)", Some(self.low_mid.sql())),
        )
    }

    fn cell(&self, cell: Cell, place: usize, database: Database) -> String {
        let Some(cell) = cell else { return "NULL".to_owned() };
        match database {
            Database::Sqlite => LITERALS[cell].to_owned(),
            Database::Postgres if self.types(place).1 == "integer" => (cell + 1).to_string(),
            Database::Postgres => TEXTS[cell].to_owned(),
        }
    }

    /// The values by which a child names a `top`.
    fn names(&self, reference: &Reference, database: Database) -> [String; 2] {
        let cells = |cells: [Cell; 2]| [0, 1].map(|place| self.cell(cells[place], place, database));
        if let Some(odd) = reference.odd.filter(|_| database == Database::Sqlite) {
            return cells(odd);
        }
        let Some(of) = reference.of.map(|of| of % self.tops.len()) else {
            return ["NULL", "NULL"].map(str::to_owned);
        };
        let top = &self.tops[of];
        if self.named == Named::Id {
            let id = self.ids[0].literal(of, database, reference.spelt);
            let id = if self.nameless(top.nameless, 0, database) {
                "NULL".to_owned()
            } else {
                id
            };
            return [id, "NULL".to_owned()];
        }
        let mut names = cells(top.key);
        for (place, name) in names.iter_mut().enumerate() {
            let careless = database == Database::Postgres && self.types(place).1.contains("careless");
            if careless && reference.spelt && name != "NULL" {
                *name = name.to_ascii_uppercase();
            }
        }
        names
    }

    fn nameless(&self, nameless: bool, table: usize, database: Database) -> bool {
        nameless && self.ids[table] != Id::Number && database == Database::Sqlite
    }

    fn inserts(&self, database: Database) -> String {
        let mut sql = String::new();
        let (insert, or_not) = match database {
            Database::Sqlite => ("INSERT OR IGNORE", ""),
            Database::Postgres => ("INSERT", " ON CONFLICT DO NOTHING"),
        };
        let id = |table: usize, place: usize, nameless: bool| {
            if self.nameless(nameless, table, database) {
                "NULL".to_owned()
            } else {
                self.ids[table].literal(place, database, false)
            }
        };
        for (place, top) in self.tops.iter().enumerate() {
            sql.push_str(&format!(
                "{insert} INTO top VALUES ({place}, {}, {}, {}, {}, NULL){or_not}; ",
                id(0, place, top.nameless),
                self.cell(top.key[0], 0, database),
                self.cell(top.key[1], 1, database),
                u8::from(top.doomed),
            ));
        }
        for (table, name, children) in [(1, "mid", &self.mids), (2, "low", &self.lows)] {
            for (place, child) in children.iter().enumerate() {
                let [t1, t2] = self.names(&child.top, database);
                sql.push_str(&format!(
                    "{insert} INTO {name} VALUES ({place}, {}, {t1}, {t2}, NULL){or_not}; ",
                    id(table, place, child.nameless)
                ));
            }
        }
        // Afterwards, so that rows of one table may name one another in a circle.
        let mut up = |name: &str, place: usize, of: Option<usize>, parents: usize, id: Id, spelt: bool| {
            if let Some(of) = of.filter(|_| parents > 0).map(|of| of % parents) {
                let parent_table = if name == "low" { "mid" } else { name };
                // A row that names itself in other letters can be made by an update; SQLite lets nobody insert it.
                let parent = id.literal(of, database, spelt && (of != place || name == "low"));
                let there = format!("EXISTS (SELECT 1 FROM {parent_table} AS p WHERE p.id = {parent})");
                sql.push_str(&format!("UPDATE {name} SET up = {parent} WHERE tag = {place} AND {there}; "));
            }
        };
        for (place, top) in self.tops.iter().enumerate() {
            up("top", place, top.up, self.tops.len(), self.ids[0], place % 2 == 0);
        }
        for (place, mid) in self.mids.iter().enumerate() {
            up("mid", place, mid.up, self.mids.len(), self.ids[1], mid.spelt);
        }
        for (place, low) in self.lows.iter().enumerate() {
            up("low", place, low.up, self.mids.len(), self.ids[1], low.spelt);
        }
        sql
    }

    /// Makes the tables and fills them; then asks the oracle what a plain deletion leaves, or why it refuses.
    pub(crate) async fn setup(&self, db: &Db, folder: &std::path::Path) -> (Rows, Result<Rows, String>) {
        const DROP: &str = "DROP TABLE low; DROP TABLE mid; DROP TABLE top; ";
        const DELETE: &str = "DELETE FROM {}top WHERE doomed = 1";
        match db {
            Db::Postgres(_) => {
                let database = Database::Postgres;
                let oracle = format!(
                    "DROP SCHEMA IF EXISTS oracle CASCADE; CREATE SCHEMA oracle; SET search_path = oracle, public; {}{}; RESET search_path",
                    self.tables(database, true),
                    self.inserts(database)
                );
                db.execute(&oracle).await.expect("the oracle's tables");
                let copy: String = ["top", "mid", "low"]
                    .map(|table| format!("INSERT INTO {table} SELECT * FROM oracle.{table} ORDER BY tag; "))
                    .concat();
                let whole = format!("{DROP}{}{copy}", self.tables(database, false));
                db.execute(&whole).await.expect("tables and rows");
                let before = rows(db, "").await;
                let gone = db.execute(&DELETE.replace("{}", "oracle.")).await;
                let left = rows(db, "oracle.").await;
                (before, gone.map(|_| left).map_err(|error| format!("{error:#}")))
            }
            Db::Sqlite(_) => {
                let database = Database::Sqlite;
                let file = folder.join("oracle.db");
                let oracle = Db::open(&format!("sqlite://{}?mode=rwc", file.display()))
                    .await
                    .expect("a copy");
                // What no key would let in cannot be brought back either.
                let tidy = ["top", "mid", "low"]
                    .map(|table| {
                        format!("DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM pragma_foreign_key_check('{table}')); ")
                    })
                    .concat()
                    .repeat(8);
                let whole = format!(
                    "PRAGMA foreign_keys = OFF; {}BEGIN; {}{tidy}COMMIT; PRAGMA foreign_keys = ON",
                    self.tables(database, true),
                    self.inserts(database)
                );
                oracle.execute(&whole).await.expect("the oracle's tables");
                let copy = ["top", "mid", "low"]
                    .map(|table| format!("INSERT INTO {table} SELECT * FROM oracle.{table} ORDER BY rowid; "))
                    .concat();
                db.execute(&format!(
                    "PRAGMA foreign_keys = OFF; {DROP}{}ATTACH '{}' AS oracle; {copy}DETACH oracle; PRAGMA foreign_keys = ON",
                    self.tables(database, false),
                    file.display()
                ))
                .await
                .expect("tables and rows");
                let before = rows(&oracle, "").await;
                assert_eq!(rows(db, "").await, before, "a copy");
                let gone = oracle.execute(&DELETE.replace("{}", "")).await;
                let left = rows(&oracle, "").await;
                oracle.close().await;
                std::fs::remove_file(&file).expect("no copy");
                (before, gone.map(|_| left).map_err(|error| format!("{error:#}")))
            }
        }
    }

    /// How many rows of each table went and changed.
    pub(crate) fn changes(&self, before: &Rows, after: &Rows) -> BTreeMap<&'static str, Change> {
        // Columns that each key sets to NULL, by their places.
        let of_top: &[usize] = if self.width() == 2 { &[1, 2] } else { &[1] };
        let nulling = |table: &str| -> Vec<&[usize]> {
            let keys: &[(Option<Action>, &[usize])] = match table {
                "top" => &[(self.top_top, &[4])],
                "mid" => &[(Some(self.mid_top), of_top), (self.mid_mid, &[3])],
                _ => &[(self.low_top, of_top), (Some(self.low_mid), &[3])],
            };
            let keys = keys.iter().filter(|(action, _)| *action == Some(Action::SetNull));
            keys.map(|(_, columns)| *columns).collect()
        };
        let mut changes = BTreeMap::new();
        for (table, had) in before {
            let has = &after[table];
            let mut nullified = 0;
            for (tag, row) in has {
                for columns in nulling(table) {
                    let filled = columns.iter().all(|column| had[tag][*column] != NULL);
                    nullified += u64::from(filled && columns.iter().all(|column| row[*column] == NULL));
                }
            }
            changes.insert(*table, ((had.len() - has.len()) as u64, nullified));
        }
        changes
    }
}

fn collation(declared: &str) -> &str {
    declared.split_once("COLLATE ").map_or("BINARY", |(_, name)| name)
}
