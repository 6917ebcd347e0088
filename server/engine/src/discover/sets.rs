//! Rules about several rows at once: duplicates of what looks like a key, and cycles among rows of one table. Called by `mod.rs`.

use super::{
    Work,
    facts::Table,
    names,
    relate::Relation,
    snippet::{Draft, Setting},
};
use crate::{
    model::{Generated, TypeClass},
    port::{Target, TargetError},
};

/// Words of a column that, together with whom a row belongs to, is often meant to be unique.
const PARTS: [&str; 15] = [
    "category", "type", "kind", "key", "code", "slug", "language", "locale", "provider", "tag", "setting", "channel", "platform",
    "device", "period",
];
/// Words of a column that is often meant to be unique by itself.
const NATURAL: [&str; 5] = ["email", "username", "slug", "sku", "isbn"];
/// Words that say when a row was last changed, the best first.
const CHANGED: [&[&str]; 6] = [
    &["updated", "at"],
    &["modified", "at"],
    &["created", "at"],
    &["updated"],
    &["modified"],
    &["created"],
];
/// Words of a relation that must not run in circles.
const ORDERED: [&str; 15] = [
    "prerequisite",
    "dependency",
    "depend",
    "requirement",
    "required",
    "requires",
    "parent",
    "child",
    "ancestor",
    "descendant",
    "predecessor",
    "successor",
    "blocker",
    "blocked",
    "hierarchy",
];
/// Keys of one table that are tried; each try reads the table.
const TRIES: usize = 3;
/// Of a key that is meant to be unique no more rows than this are surplus.
const MOST_SURPLUS: f64 = 0.25;

/// Edge tables whose two ends name the same table, and whose words forbid circles.
pub(super) fn cycles(tables: &[Table], relations: &[Relation]) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (position, one) in relations.iter().enumerate() {
        for other in &relations[position + 1..] {
            let same_ends = one.child == other.child && one.parent == other.parent && one.parent_columns == other.parent_columns;
            if !same_ends || one.columns == other.columns || one.child == one.parent {
                continue;
            }
            let table = &tables[one.child];
            let spoken = [table.name.name.as_str()]
                .into_iter()
                .chain(one.columns.iter().chain(&other.columns).map(String::as_str))
                .flat_map(names::words);
            let word = spoken
                .into_iter()
                .find(|word| ORDERED.iter().any(|known| names::same_word(word, known)));
            let Some(word) = word else { continue };
            let confidence = super::score::hundredths(0.8 * one.confidence.min(other.confidence));
            let columns: Vec<String> = one.columns.iter().chain(&other.columns).cloned().collect();
            drafts.push(Draft {
                kind: "cycle",
                table: one.child,
                parent: None,
                title: "circular",
                subject: format!("{}_by_{}", table.name.name, columns.join("_")),
                description: format!(
                    "Rows of {} that close a circle of {} and {}.",
                    table.name,
                    one.columns.join(", "),
                    other.columns.join(", ")
                ),
                category: "ORPHANED_DATA",
                severity: "MEDIUM",
                settings: vec![
                    ("from", Setting::Texts(one.columns.clone())),
                    ("to", Setting::Texts(other.columns.clone())),
                ],
                columns,
                comments: Vec::new(),
                confidence,
                evidence: vec![
                    format!("Both columns name {}.", tables[one.parent].name),
                    format!("The word {word:?} says that there is an order among them, which a circle breaks."),
                ],
                notes: vec!["Which circles there are is not looked at here: a plan tells.".to_owned()],
            });
        }
    }
    drafts
}

/// Keys of a table that look as if they were meant to be unique, and are not declared so.
fn natural_keys(tables: &[Table], position: usize, relations: &[Relation]) -> Vec<(Vec<String>, f64)> {
    let table = &tables[position];
    let own: Vec<&Relation> = relations
        .iter()
        .filter(|relation| relation.child == position && relation.columns.len() == 1)
        .collect();
    let last_word = |column: &str| names::words(column).pop().unwrap_or_default();
    let mut keys = Vec::new();
    for relation in &own {
        for column in table
            .schema
            .columns
            .iter()
            .filter(|column| column.class == TypeClass::Text && column.generated == Generated::No)
        {
            if !relation.columns.contains(&column.name) && PARTS.contains(&last_word(&column.name).as_str()) {
                keys.push((vec![relation.columns[0].clone(), column.name.clone()], 0.6));
            }
        }
    }
    let words = names::words(&table.name.name);
    for (place, one) in own.iter().enumerate() {
        for other in &own[place + 1..] {
            // A table that is called after one of its parents often holds one row for each pair.
            let spoken = [one, other].iter().any(|relation| {
                let parent = names::words(&tables[relation.parent].name.name);
                parent
                    .last()
                    .is_some_and(|last| words.iter().any(|word| names::same_word(word, last)))
            });
            if spoken && one.parent != other.parent {
                keys.push((vec![one.columns[0].clone(), other.columns[0].clone()], 0.5));
            }
        }
    }
    for column in &table.schema.columns {
        if NATURAL.contains(&last_word(&column.name).as_str()) && own.iter().all(|relation| relation.columns[0] != column.name) {
            keys.push((vec![column.name.clone()], 0.5));
        }
    }
    keys.retain(|(columns, _)| !table.is_unique(columns));
    keys.truncate(TRIES);
    keys
}

/// Keys that look as if they were meant to be unique, of which a few rows have the same.
pub(super) async fn duplicates(
    target: &dyn Target,
    tables: &[Table],
    wanted: &[bool],
    relations: &[Relation],
    work: &mut Work,
) -> Result<Vec<Draft>, TargetError> {
    let mut drafts = Vec::new();
    for (position, table) in tables.iter().enumerate().filter(|(position, _)| wanted[*position]) {
        let columns = &table.schema.columns;
        let changed = CHANGED.iter().find_map(|phrase| {
            columns.iter().find(|column| {
                names::words(&column.name)
                    .iter()
                    .map(String::as_str)
                    .eq(phrase.iter().copied())
            })
        });
        // Without a time nothing says which of them to keep; without a key, which is which.
        let (Some(changed), false) = (changed, table.schema.primary_key.is_empty()) else {
            continue;
        };
        for (key, confidence) in natural_keys(tables, position, relations) {
            if work.is_over() {
                return Ok(drafts);
            }
            let repeats = target.repeats(&table.schema, &key).await;
            let shown = key.join(", ");
            let Some(repeats) = work.tolerate(repeats, || {
                format!("duplicates of {} by {shown} were not counted", table.name)
            })?
            else {
                continue;
            };
            if repeats.surplus == 0 {
                continue;
            }
            let rows = target.count_rows(&table.schema, None).await;
            let Some(rows) = work.tolerate(rows, || format!("the rows of {} were not counted", table.name))? else {
                continue;
            };
            if crate::share(repeats.surplus, rows) > MOST_SURPLUS {
                continue;
            }
            drafts.push(Draft {
                kind: "duplicate",
                table: position,
                columns: key.clone(),
                parent: None,
                title: "duplicate",
                subject: format!("{}_by_{}", table.name.name, key.join("_")),
                description: format!("Rows of {} with the same {shown}, but for the newest of each.", table.name),
                category: "ORPHANED_DATA",
                severity: "MEDIUM",
                settings: vec![
                    ("columns", Setting::Texts(key)),
                    ("keep", Setting::Text("newest".to_owned())),
                    ("by", Setting::Texts(vec![changed.name.clone()])),
                ],
                comments: Vec::new(),
                confidence,
                evidence: vec![format!(
                    "{} of {rows} rows repeat a key that another row has; {} keys are repeated.",
                    repeats.surplus, repeats.keys
                )],
                notes: vec![format!("Is one row for each {shown} meant? Nothing in the schema says so.")],
            });
        }
    }
    Ok(drafts)
}
