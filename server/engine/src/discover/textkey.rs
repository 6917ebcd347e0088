//! Text keys that carry another table's key behind a prefix, such as `user:42` in a cache. Called by `mod.rs`.

use std::collections::BTreeMap;

use super::{
    Work,
    facts::{self, Table, text},
    names,
    score::{self, FLOOR, Signs},
    snippet::{Draft, Setting},
};
use crate::{
    model::{Column, EngineKind, Row, TypeClass, Value},
    port::{Target, TargetError},
};

/// What stands between a prefix and a key.
const SEPARATORS: [char; 4] = [':', '/', '|', '#'];
/// Values with a prefix from which on it is looked at.
const FEWEST: usize = 3;

/// The prefix with its separator, and the key behind it.
fn split(value: &str) -> Option<(&str, &str)> {
    let place = value.rfind(SEPARATORS)?;
    let (prefix, key) = value.split_at(place + 1);
    (prefix.len() > 1 && !key.is_empty()).then_some((prefix, key))
}

/// The key as the parent's column would hold it; `None` where it cannot.
fn as_key(engine: EngineKind, column: &Column, text: &str) -> Option<Value> {
    let plain = Value::Text(text.as_bytes().to_vec());
    match (column.class, engine) {
        (TypeClass::Text, _) => Some(plain),
        (TypeClass::Integer, EngineKind::Sqlite) => text.parse().ok().map(Value::Integer),
        (TypeClass::Integer, EngineKind::Postgres) => text.parse::<i64>().ok().map(|_| plain),
        (TypeClass::Other, EngineKind::Postgres) if column.type_name == "uuid" => uuid::Uuid::parse_str(text).ok().map(|_| plain),
        _ => None,
    }
}

/// Proposals for prefixes whose word names a table and whose keys are found there.
pub(super) async fn drafts(
    target: &dyn Target,
    tables: &[Table],
    wanted: &[bool],
    work: &mut Work,
) -> Result<Vec<Draft>, TargetError> {
    let mut drafts = Vec::new();
    for (position, table) in tables.iter().enumerate().filter(|(position, _)| wanted[*position]) {
        for column in table.schema.columns.iter().filter(|column| column.class == TypeClass::Text) {
            let Some(profile) = table.profile(&column.name) else {
                continue;
            };
            let values: Vec<String> = profile.values.iter().filter_map(text).collect();
            let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (prefix, key) in values.iter().filter_map(|value| split(value)) {
                groups.entry(prefix).or_default().push(key);
            }
            for (prefix, keys) in groups.into_iter().filter(|(_, keys)| keys.len() >= FEWEST) {
                let Some((parent, key)) = parent_of(tables, prefix) else {
                    continue;
                };
                let found = try_prefix(target, &tables[parent], key, &keys, work).await?;
                drafts.extend(found.and_then(|signs| draft(tables, (position, column), prefix, (parent, key), &signs)));
            }
        }
    }
    Ok(drafts)
}

/// The table that a prefix's last word names, with its key.
fn parent_of<'a>(tables: &'a [Table], prefix: &str) -> Option<(usize, &'a Column)> {
    let word = prefix.trim_end_matches(SEPARATORS).rsplit(SEPARATORS).next()?;
    tables.iter().enumerate().find_map(|(position, table)| {
        let [key] = table.schema.primary_key.as_slice() else {
            return None;
        };
        names::same_table(word, &table.name.name).then_some((position, table.schema.column(key)?))
    })
}

async fn try_prefix(
    target: &dyn Target,
    parent: &Table,
    key: &Column,
    keys: &[&str],
    work: &mut Work,
) -> Result<Option<Signs>, TargetError> {
    let asked: Vec<Row> = keys
        .iter()
        .filter_map(|text| as_key(target.engine(), key, text))
        .map(|value| vec![value])
        .collect();
    // Where many of them could be no key at all, the prefix means something else.
    if asked.is_empty() || asked.len() * 10 < keys.len() * 9 || work.is_over() {
        return Ok(None);
    }
    let present = target.present(&parent.schema, std::slice::from_ref(&key.name), &asked).await;
    let present = work.tolerate(present, || format!("no values could be looked up in {}", parent.name))?;
    Ok(present.map(|present| Signs {
        rows: score::count(present.iter().filter(|present| **present).count()) / score::count(asked.len()),
        name: 1.0,
        telling: facts::telling(&asked.iter().flatten().cloned().collect::<Vec<_>>()),
        asked: asked.len(),
        found: present.iter().filter(|present| **present).count(),
        primary: true,
        same_type: true,
        own_key: false,
        sentinel: false,
    }))
}

fn draft(
    tables: &[Table],
    (child, column): (usize, &Column),
    prefix: &str,
    (parent, key): (usize, &Column),
    signs: &Signs,
) -> Option<Draft> {
    let confidence = score::confidence(signs);
    if confidence < FLOOR || signs.found == 0 {
        return None;
    }
    let (table, to) = (&tables[child], &tables[parent]);
    Some(Draft {
        kind: "dangling_key",
        table: child,
        columns: vec![column.name.clone()],
        parent: Some((parent, vec![key.name.clone()])),
        title: "dangling",
        subject: format!(
            "{}_by_{}_{}",
            table.name.name,
            column.name,
            prefix.trim_end_matches(SEPARATORS)
        ),
        description: format!(
            "Rows of {} whose {} begins with {prefix} and names no row of {} behind it.",
            table.name, column.name, to.name
        ),
        category: "CACHED_DATA",
        severity: "MEDIUM",
        settings: vec![
            ("column", Setting::Text(column.name.clone())),
            ("prefix", Setting::Text(prefix.to_owned())),
            ("parent", Setting::Table(parent)),
            ("parent_column", Setting::Text(key.name.clone())),
        ],
        comments: Vec::new(),
        confidence,
        evidence: vec![format!(
            "Of {} sampled values that begin with {prefix}, {} name a row of {}.",
            signs.asked, signs.found, to.name
        )],
        notes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_the_last_separator() {
        for (value, expected) in [
            ("user:42", Some(("user:", "42"))),
            ("app:user:42", Some(("app:user:", "42"))),
            ("users/42", Some(("users/", "42"))),
            ("user:", None),
            (":42", None),
            ("plain", None),
        ] {
            assert_eq!(split(value), expected, "{value}");
        }
    }
}
