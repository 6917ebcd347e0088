//! What is different between two looks at a database, in words.

use std::collections::BTreeMap;

use crate::{
    migration::{
        risk,
        statement::{Token, words},
    },
    model::{EngineKind, Fingerprint, Migration, Rehearsal, RowsLost, Script, TableName},
};

pub(super) fn change(before: u64, after: u64) -> i64 {
    let difference = i128::from(after) - i128::from(before);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

/// Tables with fewer rows than before that no statement takes rows from, by name.
pub(super) fn rows_lost(before: &Fingerprint, after: &Fingerprint, script: &Script, engine: EngineKind) -> Vec<RowsLost> {
    let named: Vec<Vec<String>> = script
        .statements()
        .filter_map(|statement| {
            let words: Vec<Token<'_>> = words(&statement.sql, engine).collect();
            let bare = words
                .iter()
                .map(|token| token.text.trim_matches(['"', '`', '[', ']']).to_lowercase());
            takes_rows(&words).then(|| bare.collect())
        })
        .collect();
    let emptied = |table: &str| {
        let bare = table.rsplit('.').next().unwrap_or(table).trim_matches('"').to_lowercase();
        named.iter().any(|words| words.contains(&bare))
    };
    let now: BTreeMap<&str, u64> = after.tables.iter().map(|table| (table.table.as_str(), table.rows)).collect();
    before
        .tables
        .iter()
        .filter_map(|table| {
            let left = *now.get(table.table.as_str())?;
            (left < table.rows && !emptied(&table.table)).then(|| RowsLost {
                table: table.table.clone(),
                before: table.rows,
                after: left,
            })
        })
        .collect()
}

/// Whether a statement takes rows from a table that it names: its verb says so. Words within, such as the action of a foreign key, the
/// event of a trigger or the name of a function, do not.
fn takes_rows(words: &[Token<'_>]) -> bool {
    let is = |at: usize, word: &str| words.get(at).is_some_and(|token| token.is(word));
    let begins = |verbs: &[&str]| verbs.iter().any(|verb| is(0, verb));
    let has = |first: &str, second: &str| (0..words.len()).any(|at| is(at, first) && is(at + 1, second));
    begins(&["DELETE", "TRUNCATE", "MERGE", "REPLACE"])
        || (begins(&["INSERT", "UPDATE", "WITH"]) && has("OR", "REPLACE"))
        || (begins(&["WITH"]) && (has("DELETE", "FROM") || has("MERGE", "INTO") || has("REPLACE", "INTO")))
}

/// Tables that a migration is about, one way or the other, and that hold no row: what its scripts do to rows of theirs does not show.
pub(super) fn without_rows(print: &Fingerprint, migration: &Migration, engine: EngineKind) -> Vec<String> {
    let bare = |table: &str| TableName::parse(table).name.trim_matches(['"', '`', '[', ']']).to_lowercase();
    let scripts = [Some(&migration.up), migration.down.as_ref()];
    let named: Vec<String> = scripts
        .into_iter()
        .flatten()
        .flat_map(|script| risk::tables_of(script, engine))
        .map(|table| bare(&table))
        .collect();
    let empty = print
        .tables
        .iter()
        .filter(|table| table.rows == 0 && named.contains(&bare(&table.table)));
    empty.map(|table| table.table.clone()).collect()
}

/// Says of tables without rows that nothing is proven.
pub(super) fn unproven_without_rows(tables: &[String]) -> String {
    let (hold, they) = if tables.len() == 1 {
        ("holds", "it")
    } else {
        ("hold", "them")
    };
    format!(
        "{} {hold} no row, so that nothing is seen of what becomes of rows in {they}: the way back is not proven",
        tables.join(", ")
    )
}

pub(super) fn schema_differences(before: &Fingerprint, after: &Fingerprint, when: &str) -> Vec<String> {
    let map = |fingerprint: &Fingerprint| -> BTreeMap<(String, String), String> {
        let objects = fingerprint.objects.iter();
        objects
            .map(|object| ((object.kind.clone(), object.name.clone()), object.definition.clone()))
            .collect()
    };
    let (old, new) = (map(before), map(after));
    let mut differences = Vec::new();
    for ((kind, name), definition) in &old {
        match new.get(&(kind.clone(), name.clone())) {
            None => differences.push(format!("{kind} {name} is missing {when}")),
            Some(now) if now != definition => {
                differences.push(format!("{kind} {name} is {now:?} {when}, it was {definition:?}"));
            }
            Some(_) => {}
        }
    }
    for (kind, name) in new.keys().filter(|key| !old.contains_key(*key)) {
        differences.push(format!("{kind} {name} is there {when}, it was not before"));
    }
    differences.truncate(Rehearsal::MAX_DIFFERENCES);
    differences
}

pub(super) fn differences(before: &Fingerprint, after: &Fingerprint, when: &str) -> Vec<String> {
    let mut differences = schema_differences(before, after, when);
    for table in &before.tables {
        let Some(now) = after.tables.iter().find(|now| now.table == table.table) else {
            continue;
        };
        if now.rows != table.rows {
            differences.push(format!("{} has {} rows {when}, it had {}", table.table, now.rows, table.rows));
        } else if now.hash != table.hash {
            differences.push(format!("rows of {} hold other values {when}", table.table));
        }
    }
    differences.truncate(Rehearsal::MAX_DIFFERENCES);
    differences
}

/// What is different after down and up, and what of it is only data that down dropped.
pub(super) fn there_and_back(first: &Fingerprint, between: &Fingerprint, last: &Fingerprint) -> (Vec<String>, Vec<String>) {
    const WHEN: &str = "after down and up";
    let mut differences = schema_differences(first, last, WHEN);
    let mut loses = Vec::new();
    if first.objects == between.objects && first.tables == between.tables {
        differences.push("down changes nothing that can be seen, so that up after it shows nothing".to_owned());
    }
    for table in &first.tables {
        let Some(now) = last.tables.iter().find(|now| now.table == table.table) else {
            continue;
        };
        if (now.rows, &now.hash) == (table.rows, &table.hash) {
            continue;
        }
        let Some(meanwhile) = between.tables.iter().find(|meanwhile| meanwhile.table == table.table) else {
            loses.push(table.table.clone());
            continue;
        };
        if now.rows != table.rows {
            differences.push(format!("{} has {} rows {WHEN}, it had {}", table.table, now.rows, table.rows));
            continue;
        }
        let changed: Vec<&String> = table
            .columns
            .iter()
            .filter(|column| !now.columns.contains(column))
            .map(|(name, _)| name)
            .collect();
        let dropped = |name: &String| meanwhile.columns.iter().all(|(known, _)| known != name);
        if changed.is_empty() {
            differences.push(format!("rows of {} hold other values {WHEN}", table.table));
        } else if changed.iter().all(|name| dropped(name)) {
            loses.extend(changed.iter().map(|name| format!("{}.{name}", table.table)));
        } else {
            let names: Vec<&str> = changed
                .iter()
                .filter(|name| !dropped(name))
                .map(|name| name.as_str())
                .collect();
            differences.push(format!(
                "rows of {} hold other values in {} {WHEN}",
                table.table,
                names.join(", ")
            ));
        }
    }
    differences.truncate(Rehearsal::MAX_DIFFERENCES);
    loses.truncate(Rehearsal::MAX_DIFFERENCES);
    (differences, loses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableContent;

    /// Name, rows, and columns with their hashes.
    type Told<'a> = (&'a str, u64, &'a [(&'a str, &'a str)]);

    fn print(tables: &[Told<'_>]) -> Fingerprint {
        let table = |(name, rows, columns): &Told<'_>| TableContent {
            table: (*name).to_owned(),
            rows: *rows,
            hash: columns.iter().map(|(_, hash)| *hash).collect(),
            columns: columns
                .iter()
                .map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned()))
                .collect(),
        };
        Fingerprint {
            objects: Vec::new(),
            tables: tables.iter().map(table).collect(),
            bytes: 0,
        }
    }

    #[test]
    fn a_table_without_rows_is_one_that_shows_nothing() {
        let files = [
            (
                "1_a.up.sql",
                "ALTER TABLE users DROP COLUMN x; CREATE TABLE fresh (id integer)",
            ),
            (
                "1_a.down.sql",
                "DROP TABLE fresh; ALTER TABLE users ADD COLUMN x text; DELETE FROM app.\"Posts\"",
            ),
        ]
        .map(|(path, text)| crate::port::SourceFile {
            path: path.to_owned(),
            bytes: text.as_bytes().to_vec(),
        });
        let collection = crate::migration::source::read(&files, EngineKind::Postgres, None).expect("a folder");
        let found = |tables: &[Told<'_>]| without_rows(&print(tables), &collection.migrations[0], EngineKind::Postgres);
        let none: &[(&str, &str)] = &[];
        assert_eq!(
            found(&[
                ("public.users", 0, none),
                ("app.\"Posts\"", 0, none),
                ("public.other", 0, none)
            ]),
            ["public.users", "app.\"Posts\""]
        );
        assert!(found(&[("public.users", 1, none), ("app.\"Posts\"", 2, none)]).is_empty());
    }

    #[test]
    fn rows_vanish_unseen_unless_the_verb_of_a_statement_takes_them() {
        use EngineKind::{Postgres, Sqlite};
        let none: &[(&str, &str)] = &[];
        let (before, after) = (print(&[("main.child", 3, none)]), print(&[("main.child", 1, none)]));
        let (postgres, sqlite): (&[EngineKind], &[EngineKind]) = (&[Postgres], &[Sqlite]);
        let both: &[EngineKind] = &[Postgres, Sqlite];
        for (text, engines, told) in [
            ("DELETE FROM child WHERE id > 1", both, false),
            ("delete from \"Child\"", both, false),
            (
                "WITH old AS (SELECT 2) DELETE FROM child WHERE id IN (SELECT * FROM old)",
                both,
                false,
            ),
            (
                "WITH gone AS (DELETE FROM child RETURNING id) SELECT count(*) FROM gone",
                postgres,
                false,
            ),
            ("TRUNCATE child", postgres, false),
            ("INSERT OR REPLACE INTO child VALUES (1)", sqlite, false),
            ("REPLACE INTO child VALUES (1)", sqlite, false),
            ("DELETE FROM other", both, true),
            ("CREATE TABLE toy (of integer REFERENCES child ON DELETE CASCADE)", both, true),
            (
                "CREATE TRIGGER sweep AFTER DELETE ON child BEGIN DELETE FROM other; END",
                sqlite,
                true,
            ),
            ("CREATE OR REPLACE VIEW seen AS SELECT id FROM child", postgres, true),
            ("UPDATE child SET name = replace(name, 'a', 'b')", both, true),
            ("UPDATE child SET \"delete\" = 1", both, true),
        ] {
            for engine in engines {
                let file = crate::port::SourceFile {
                    path: "1_a.up.sql".to_owned(),
                    bytes: text.as_bytes().to_vec(),
                };
                let collection = crate::migration::source::read(&[file], *engine, None).expect("a folder");
                let lost = rows_lost(&before, &after, &collection.migrations[0].up, *engine);
                assert_eq!(!lost.is_empty(), told, "{text} on {engine:?}");
            }
        }
    }

    #[test]
    fn data_that_down_drops_is_told_from_data_that_changes() {
        let first = print(&[("a", 2, &[("id", "1"), ("n", "2"), ("x", "3")]), ("b", 1, &[("id", "1")])]);
        let between = print(&[("a", 2, &[("id", "1"), ("x", "3")])]);
        let same = there_and_back(&first, &between, &first);
        assert_eq!(same, (Vec::new(), Vec::new()));
        let lossy = print(&[("a", 2, &[("id", "1"), ("n", "9"), ("x", "3")]), ("b", 0, &[("id", "")])]);
        let (differences, loses) = there_and_back(&first, &between, &lossy);
        assert!(differences.is_empty(), "{differences:?}");
        assert_eq!(loses, ["a.n", "b"]);
        let worse = print(&[("a", 2, &[("id", "1"), ("n", "9"), ("x", "8")]), ("b", 1, &[("id", "1")])]);
        let (differences, loses) = there_and_back(&first, &between, &worse);
        assert!(
            loses.is_empty() && differences.len() == 1 && differences[0].contains("values in x "),
            "{differences:?}"
        );
        let fewer = print(&[("a", 1, &[("id", "1"), ("n", "2"), ("x", "3")]), ("b", 1, &[("id", "1")])]);
        assert!(there_and_back(&first, &between, &fewer).0[0].contains("1 rows"));
        assert!(there_and_back(&first, &first, &first).0[0].contains("nothing"));
    }
}
