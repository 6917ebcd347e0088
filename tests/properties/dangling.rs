//! Text that names, or nearly names, rows of another table, bare or inside of JSON, and the model that reads it.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    judge::Case,
    rows::{ACTS, Act, Builder, Key, Rest, acts, keys, mark, operations, rest},
    support::Database,
};

/// What the parent's column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parent {
    Number,
    Text,
    /// PostgreSQL only; on SQLite it is `Text`.
    Uuid,
}

const PARENTS: [(Parent, &str); 3] = [(Parent::Number, "n"), (Parent::Text, "w"), (Parent::Uuid, "u")];

/// What comes before and after a key, and where the text lies in a JSON column.
struct Form {
    path: Option<&'static [&'static str]>,
    prefix: &'static str,
    suffix: &'static str,
}

const fn form(path: Option<&'static [&'static str]>, prefix: &'static str, suffix: &'static str) -> Form {
    Form { path, prefix, suffix }
}

const FORMS: [Form; 8] = [
    form(None, "user:", ""),
    form(None, "user:", ":profile"),
    // Characters that mean something to patterns, and some of more than one byte.
    form(None, "50%_[é]*:", "$'☃"),
    form(None, "aa", "aa"),
    form(Some(&["id"]), "", ""),
    form(Some(&["user", "the id"]), "", ""),
    form(Some(&["user", "a.b"]), "user:", ":"),
    form(Some(&["ü", "$"]), "u", ""),
];

/// Keys of parents, and of some that are none.
const NUMBERS: [&str; 8] = ["0", "1", "7", "42", "-3", "100", "999999999999999999", "2147483648"];
const TEXTS: [&str; 8] = ["a", "A", "it's", "ß", "7", "x:profile", " ", "aa"];
const UUIDS: [&str; 4] = [
    "00000000-0000-4000-8000-000000000001",
    "0000abcd-0000-4000-8000-000000000002",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "0000abcd-0000-4000-8000-000000000003",
];

/// How a text differs from the form that names the key.
#[derive(Debug, Clone, Copy)]
enum Slip {
    None,
    Null,
    Capitals,
    NoPrefix,
    NoSuffix,
    Twice,
    LeadingZero,
    Sign,
    Space,
    LineEnd,
    NoKey,
    TooLong,
    /// Not even the prefix and the suffix both fit in.
    Overlap,
    /// A number where JSON may hold one; elsewhere as `None`.
    Bare,
    /// JSON of another shape; elsewhere as `None`.
    List,
    /// A value that is no text, or no JSON, where SQLite lets it in; elsewhere as `Null`.
    Foreign,
}

const SLIPS: [Slip; 15] = [
    Slip::Null,
    Slip::Capitals,
    Slip::NoPrefix,
    Slip::NoSuffix,
    Slip::Twice,
    Slip::LeadingZero,
    Slip::Sign,
    Slip::Space,
    Slip::LineEnd,
    Slip::NoKey,
    Slip::TooLong,
    Slip::Overlap,
    Slip::Bare,
    Slip::List,
    Slip::Foreign,
];

#[derive(Debug, Clone)]
pub(crate) struct Dangling {
    form: usize,
    parent: usize,
    binary: bool,
    act: Act,
    key: Key,
    indexed: bool,
    /// Places of keys that have a parent.
    parents: Vec<usize>,
    entries: Vec<(usize, Slip, Rest)>,
    batch_rows: u32,
    deciding: Vec<String>,
}

pub(crate) fn dangling() -> impl Strategy<Value = Dangling> {
    let slip = prop_oneof![3 => Just(Slip::None), 2 => select(&SLIPS[..])];
    (
        (0..FORMS.len(), 0..PARENTS.len(), crate::orphans::any_bool(), acts()),
        keys(),
        crate::orphans::any_bool(),
        vec(0..8_usize, 0..6),
        vec((0..8_usize, slip, rest()), 0..30),
        1..8_u32,
    )
        .prop_map(
            |((form, parent, binary, act), key, indexed, parents, entries, batch_rows)| Dangling {
                form,
                parent,
                binary,
                act,
                key,
                indexed,
                parents,
                entries,
                batch_rows,
                deciding: vec![column(form).to_owned()],
            },
        )
}

fn column(form: usize) -> &'static str {
    if FORMS[form].path.is_some() { "doc" } else { "name" }
}

pub(crate) fn catalog() -> String {
    let mut text = String::new();
    for (number, form) in FORMS.iter().enumerate() {
        for (_, parent) in PARENTS {
            let path = form.path.map_or_else(String::new, |path| format!("json_path = {path:?}\n"));
            let prefix = if form.prefix.is_empty() {
                String::new()
            } else {
                format!("prefix = {:?}\n", form.prefix)
            };
            let rule = format!(
                "kind = \"dangling_key\"\ncolumn = \"{}\"\n{path}{prefix}suffix = {:?}\nparent = \"owner\"\nparent_column = \"{parent}\"\n",
                column(number),
                form.suffix
            );
            let deciding = [column(number).to_owned()];
            operations(&mut text, &format!("key_{number}_{parent}"), "cache", &rule, &ACTS, &deciding);
        }
    }
    text
}

pub(crate) fn tables(database: Database) -> String {
    format!(
        "CREATE TABLE cache (id integer PRIMARY KEY, mark text, every text, state text, size bigint, spare text, name text, doc {}); {}",
        if database == Database::Sqlite { "text" } else { "jsonb" },
        owner(database)
    )
}

fn owner(database: Database) -> String {
    let uuid = if database == Database::Sqlite { "text" } else { "uuid" };
    format!("CREATE TABLE owner (place integer PRIMARY KEY, n bigint, w text, u {uuid}); ")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn json(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            other => quoted.push(other),
        }
    }
    quoted + "\""
}

impl Dangling {
    fn form(&self) -> &'static Form {
        &FORMS[self.form]
    }

    fn known(&self, key: usize) -> &'static str {
        match PARENTS[self.parent].0 {
            Parent::Number => NUMBERS[key],
            Parent::Text => TEXTS[key],
            Parent::Uuid => UUIDS[key % UUIDS.len()],
        }
    }

    /// The text of a row; `None` where it holds none.
    fn text(&self, key: usize, slip: Slip) -> Option<String> {
        let Form { prefix, suffix, path } = self.form();
        let key = self.known(key);
        let around = |key: &str| format!("{prefix}{key}{suffix}");
        Some(match slip {
            Slip::None => around(key),
            Slip::Null | Slip::Foreign => return None,
            Slip::Capitals => format!("{}{key}{}", prefix.to_uppercase(), suffix.to_uppercase()),
            Slip::NoPrefix => format!("{key}{suffix}"),
            Slip::NoSuffix => format!("{prefix}{key}"),
            Slip::Twice => around(&around(key)),
            Slip::LeadingZero => around(&format!("0{key}")),
            Slip::Sign => around(&format!("+{key}")),
            Slip::Space => around(&format!(" {key}")),
            Slip::LineEnd => around(key) + "\n",
            Slip::NoKey => around(""),
            Slip::TooLong => around("9999999999999999999"),
            Slip::Overlap => {
                let shared = (1..=prefix.len().min(suffix.len()))
                    .rev()
                    .find(|length| prefix.ends_with(suffix.get(..*length).unwrap_or("\0")));
                format!("{prefix}{}", &suffix[shared.unwrap_or(0)..])
            }
            // A number is its digits.
            Slip::Bare | Slip::List if path.is_none() => around(key),
            Slip::Bare if self.is_bare(key) => key.to_owned(),
            Slip::Bare => around(key),
            Slip::List => return None,
        })
    }

    /// Whether a JSON number of these digits is the key.
    fn is_bare(&self, key: &str) -> bool {
        PARENTS[self.parent].0 == Parent::Number && key.parse::<i64>().is_ok()
    }

    /// The key that a text names.
    fn named<'a>(&self, text: &'a str, database: Database) -> Option<&'a str> {
        let Form { prefix, suffix, .. } = self.form();
        let key = text.strip_prefix(prefix)?.strip_suffix(suffix)?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let of_the_type = match (PARENTS[self.parent].0, database) {
            (Parent::Number, _) => digits(key) && key.len() <= 18 && (key == "0" || !key.starts_with('0')),
            (Parent::Uuid, Database::Postgres) => {
                let groups: Vec<&str> = key.split('-').collect();
                let hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
                groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(hex)
            }
            (Parent::Text | Parent::Uuid, _) => !key.is_empty(),
        };
        of_the_type.then_some(key)
    }

    pub(crate) fn case(&self) -> Case<'_> {
        Case {
            operation: format!("key_{}_{}_{}", self.form, PARENTS[self.parent].1, self.act.name()),
            act: self.act,
            table: "cache",
            others: &["owner"],
            deciding: &self.deciding,
            batch_rows: self.batch_rows,
            spreads: false,
        }
    }

    pub(crate) fn has_parents(&self) -> bool {
        !self.parents.is_empty()
    }

    pub(crate) fn expected(&self, database: Database) -> BTreeSet<String> {
        let there = |key: &str| self.parents.iter().any(|parent| self.known(*parent) == key);
        let goes = |(key, slip, rest): &(usize, Slip, Rest)| {
            let text = self.text(*key, *slip);
            let named = text.as_deref().and_then(|text| self.named(text, database));
            named.is_some_and(|key| !there(key)) && rest.concerns(self.act)
        };
        let gone = self.entries.iter().enumerate().filter(|(_, entry)| goes(entry));
        gone.map(|(place, _)| mark(place)).collect()
    }

    /// The value of the row's column as SQL writes it.
    fn value(&self, key: usize, slip: Slip, database: Database) -> String {
        let text = self.text(key, slip);
        let Some(path) = self.form().path else {
            return match (slip, text) {
                (_, Some(text)) => quoted(&text),
                (Slip::Foreign, None) if database == Database::Sqlite => "x'757365723a37'".to_owned(),
                (_, None) => "NULL".to_owned(),
            };
        };
        let around = |inner: &str| {
            path.iter().rev().fold(inner.to_owned(), |inner, name| {
                format!("{{\"a\": 1, {}: {inner}}}", json(name))
            })
        };
        match (slip, text) {
            (Slip::Bare, Some(text)) if self.is_bare(&text) => quoted(&around(&text)),
            (_, Some(text)) => quoted(&around(&json(&text))),
            (Slip::List, None) => quoted(&around(&format!("[{}]", json(self.known(key))))),
            (Slip::Foreign, None) if database == Database::Sqlite => "'{\"id\": '".to_owned(),
            (Slip::Foreign, None) => "'7'".to_owned(),
            (_, None) => quoted(&around("null")),
        }
    }

    pub(crate) fn setup(&self, database: Database) -> String {
        let doc = match (database, self.binary) {
            (Database::Sqlite, _) => "text",
            (Database::Postgres, true) => "jsonb",
            (Database::Postgres, false) => "json",
        };
        let columns = [("name", "text"), ("doc", doc)].map(|(name, declared)| (name.to_owned(), declared.to_owned()));
        let mut table = Builder::new("cache", self.key, columns.to_vec(), database);
        for (place, (key, slip, rest)) in self.entries.iter().enumerate() {
            let value = self.value(*key, *slip, database);
            let values = if self.form().path.is_some() {
                ["NULL".to_owned(), value]
            } else {
                [value, "NULL".to_owned()]
            };
            table.row(place, &values, *rest);
        }
        let mut sql = table.sql() + "DROP TABLE owner; " + &owner(database);
        let parent = PARENTS[self.parent].1;
        for (place, key) in self.parents.iter().enumerate() {
            sql.push_str(&format!(
                "INSERT INTO owner (place, {parent}) VALUES ({place}, {}); ",
                quoted(self.known(*key))
            ));
        }
        if self.indexed {
            sql.push_str(&format!("CREATE INDEX owner_key ON owner ({parent}); "));
        }
        sql
    }
}
