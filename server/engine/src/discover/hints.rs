//! What is noticed and is no rule: pairs of columns that name rows of several tables, and columns that name files. Pure. Called by
//! `relate` and `mod.rs`.

use super::{
    Hint, HintKind,
    facts::{Table, text},
    names::{self, Stem},
};
use crate::model::{TypeClass, Value};

/// Pairs such as `commentable_type` and `commentable_id`. The type tells the table, so that no rule about the id alone is right.
pub(super) fn polymorphic(tables: &[Table], table: &Table) -> Vec<(Vec<String>, Hint)> {
    const KINDS: [&str; 5] = ["type", "kind", "class", "model", "table"];
    let mut found = Vec::new();
    for column in &table.schema.columns {
        let stem = Stem::of(&column.name);
        if !stem.marked || stem.by {
            continue;
        }
        let partner = table.schema.columns.iter().find(|other| {
            let words = names::words(&other.name);
            let last = words.last().map(String::as_str).unwrap_or_default();
            let plain = words.len() == stem.words.len() + 1 && words.starts_with(&stem.words) && KINDS.contains(&last);
            // Django writes content_type_id beside object_id.
            let django = stem.words == ["object"] && words.starts_with(&["content".to_owned(), "type".to_owned()]);
            plain && other.class != TypeClass::Integer || django
        });
        let Some(partner) = partner else { continue };
        let mut types: Vec<String> = table
            .profile(&partner.name)
            .map(|profile| profile.values.iter().filter_map(text).take(20).collect())
            .unwrap_or_default();
        types.sort();
        let named: Vec<(&String, &Table)> = types
            .iter()
            .filter_map(|kind| Some((kind, named_table(tables, kind)?)))
            .collect();
        let exact = tables.iter().any(|parent| {
            parent.keys.iter().any(|key| {
                key.primary
                    && key.columns.len() == 1
                    && names::relate(&table.name.name, &column.name, &parent.name.name, &key.columns[0], true)
                        .is_some_and(|found| found.strength == 1.0)
            })
        });
        // `payment_id` beside `payment_type` names payments, whatever their type.
        if exact && named.len() * 2 < types.len().max(1) {
            continue;
        }
        let hint = Hint {
            kind: HintKind::Polymorphic,
            table: table.name.clone(),
            columns: vec![partner.name.clone(), column.name.clone()],
            candidates: named
                .iter()
                .map(|(kind, parent)| format!("{kind} = {}", parent.name))
                .collect(),
            detail: format!(
                "{} tells which table {} names a row of; a rule needs a condition for each, so that none is proposed.",
                partner.name, column.name
            ),
        };
        found.push((vec![column.name.clone(), partner.name.clone()], hint));
    }
    found
}

/// The table that a type's name means: `App\Models\BlogPost`, `blog_posts`, `BlogPost`.
fn named_table<'a>(tables: &'a [Table], kind: &str) -> Option<&'a Table> {
    let last = kind.rsplit(['\\', '.', ':', '/']).next().unwrap_or(kind);
    tables.iter().find(|table| names::same_table(last, &table.name.name))
}

/// Columns whose values look like names of files.
pub(super) fn file_references(tables: &[Table], wanted: &[bool]) -> Vec<Hint> {
    const WORDS: [&str; 16] = [
        "avatar",
        "thumbnail",
        "attachment",
        "file",
        "filename",
        "filepath",
        "image",
        "photo",
        "picture",
        "logo",
        "banner",
        "document",
        "upload",
        "cover",
        "icon",
        "path",
    ];
    let mut hints = Vec::new();
    for (table, _) in tables.iter().zip(wanted).filter(|(_, wanted)| **wanted) {
        for column in table.schema.columns.iter().filter(|column| column.class == TypeClass::Text) {
            let spoken = names::words(&column.name).iter().any(|word| WORDS.contains(&word.as_str()));
            let Some(profile) = table.profile(&column.name).filter(|_| spoken) else {
                continue;
            };
            let files = profile
                .values
                .iter()
                .filter_map(text)
                .filter(|value| looks_like_file(value))
                .count();
            if files > 0 && files * 2 >= profile.values.len() {
                hints.push(Hint {
                    kind: HintKind::FileReference,
                    table: table.name.clone(),
                    columns: vec![column.name.clone()],
                    candidates: profile.values.iter().take(1).filter_map(example).collect(),
                    detail: format!(
                        "{} seems to name files: list it where files are looked for that no row references.",
                        column.name
                    ),
                });
            }
        }
    }
    hints
}

fn example(value: &Value) -> Option<String> {
    text(value).map(|value| format!("e.g. {value}"))
}

fn looks_like_file(value: &str) -> bool {
    let name = value.rsplit(['/', '\\']).next().unwrap_or(value);
    !value.contains("://")
        && name.rsplit_once('.').is_some_and(|(stem, end)| {
            !stem.is_empty() && (1..=5).contains(&end.len()) && end.chars().all(|c| c.is_ascii_alphanumeric())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_from_sentences_and_addresses() {
        for (value, expected) in [
            ("uploads/avatars/000001.png", true),
            ("C:\\files\\a.pdf", true),
            ("notes v2.pdf", true),
            ("https://example.org/a.png", false),
            ("See chapter 2.", false),
            (".profile", false),
            ("plain", false),
        ] {
            assert_eq!(looks_like_file(value), expected, "{value}");
        }
    }
}
