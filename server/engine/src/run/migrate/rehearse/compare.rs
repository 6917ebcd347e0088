//! What is different between two looks at a database, in words.

use std::collections::BTreeMap;

use crate::{
    migration::statement::words,
    model::{EngineKind, Fingerprint, Rehearsal, RowsLost, Script},
};

pub(super) fn change(before: u64, after: u64) -> i64 {
    let difference = i128::from(after) - i128::from(before);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

/// Tables with fewer rows than before that no statement takes rows from, by name.
pub(super) fn rows_lost(before: &Fingerprint, after: &Fingerprint, script: &Script, engine: EngineKind) -> Vec<RowsLost> {
    let named: Vec<Vec<String>> = script
        .statements()
        .map(|statement| {
            words(&statement.sql, engine)
                .map(|token| token.text.trim_matches(['"', '`', '[', ']']).to_lowercase())
                .collect()
        })
        .filter(|words: &Vec<String>| {
            words
                .iter()
                .any(|word| matches!(word.as_str(), "delete" | "truncate" | "merge" | "replace"))
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
