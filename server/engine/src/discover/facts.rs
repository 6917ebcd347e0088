//! What is known of each table before anything is concluded: its shape, and a profile of each column's sampled values. Asks the
//! target; judges nothing. Called by `mod.rs`.

use std::{collections::BTreeMap, sync::Arc};

use super::{Work, score::Telling};
use crate::{
    model::{Column, EngineKind, TableKind, TableName, TableSchema, TypeClass, Value},
    port::{Target, TargetError, explore::SAMPLE_TEXT},
};

/// Rows that a sample of a table has.
pub(super) const SAMPLE_ROWS: u32 = 500;
/// Distinct values of a column that are looked up elsewhere.
const VALUES: usize = 300;
/// Most columns of a table that are looked at.
const COLUMNS: usize = 200;

/// The values of one column in the sample.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    /// Distinct values in the order in which they were met; neither NULLs nor what is too long for a key.
    pub(super) values: Vec<Value>,
    /// Rows of the sample with each of them.
    pub(super) counts: Vec<usize>,
    /// Rows of the sample that have none.
    pub(super) nulls: usize,
    /// Whether equal values elsewhere say anything.
    pub(super) telling: Telling,
}

/// A unique key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) columns: Vec<String>,
    pub(super) primary: bool,
}

/// One table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// Name as a catalog writes it.
    pub(super) name: TableName,
    pub(super) schema: Arc<TableSchema>,
    pub(super) profiles: BTreeMap<String, Profile>,
    pub(super) keys: Vec<Key>,
}

impl Table {
    pub(super) fn profile(&self, column: &str) -> Option<&Profile> {
        self.profiles.get(column)
    }

    /// Whether these columns, in any order, are the primary key.
    pub(super) fn is_primary(&self, columns: &[String]) -> bool {
        let key = &self.schema.primary_key;
        key.len() == columns.len() && columns.iter().all(|column| key.contains(column))
    }

    /// Whether some unique key has no other columns than these.
    pub(super) fn is_unique(&self, columns: &[String]) -> bool {
        self.keys
            .iter()
            .any(|key| key.columns.iter().all(|column| columns.contains(column)))
    }
}

/// The sampled value as text; `None` for NULL and for what is too long for a key.
pub(super) fn text(value: &Value) -> Option<String> {
    let text = value.preview(SAMPLE_TEXT + 1)?;
    (text.chars().count() < SAMPLE_TEXT).then_some(text)
}

/// Whether the values of a column can be told from others by chance.
pub(super) fn telling(values: &[Value]) -> Telling {
    let texts: Vec<String> = values.iter().filter_map(text).collect();
    if texts.is_empty() {
        return Telling::Nothing;
    }
    let strong = |text: &String| match text.parse::<i128>() {
        // Beyond what anybody counts to: snowflakes and the like.
        Ok(number) => number.unsigned_abs() > 1 << 31,
        Err(_) => {
            let length = text.chars().count();
            let mixed = text.chars().any(|c| c.is_ascii_digit()) && text.chars().any(char::is_alphabetic);
            length >= 16 || mixed && length >= 8
        }
    };
    let most = texts.iter().filter(|text| strong(text)).count() * 10 >= texts.len() * 7;
    if most { Telling::Strong } else { Telling::Weak }
}

/// Whether values of this column are worth a look: not documents, not bytes, not lists.
fn of_interest(engine: EngineKind, column: &Column) -> bool {
    match (engine, column.class) {
        (EngineKind::Postgres, TypeClass::Other) => column.type_name == "uuid",
        _ => true,
    }
}

fn keys(schema: &TableSchema) -> Vec<Key> {
    let mut keys = Vec::new();
    let primary = Key {
        columns: schema.primary_key.clone(),
        primary: true,
    };
    let unique = schema.indexes.iter().filter(|index| index.unique).map(|index| Key {
        primary: false,
        columns: index.columns.clone(),
    });
    for key in std::iter::once(primary).chain(unique) {
        let usable = !key.columns.is_empty() && key.columns.iter().all(|name| schema.column(name).is_some());
        if usable && !keys.iter().any(|known: &Key| known.columns == key.columns) {
            keys.push(key);
        }
    }
    keys
}

/// Shape and profiles of every table that can be read. What cannot be read is warned of.
pub(super) async fn gather(target: &dyn Target, names: Vec<TableName>, work: &mut Work) -> Result<Vec<Table>, TargetError> {
    let mut tables = Vec::with_capacity(names.len());
    for name in names {
        if work.is_over() {
            break;
        }
        let read = target.introspect(&name).await;
        let Some(Some(schema)) = work.tolerate(read, || format!("table {name} could not be read"))? else {
            continue;
        };
        if matches!(schema.kind, TableKind::View | TableKind::Foreign) {
            continue;
        }
        let columns: Vec<String> = schema
            .columns
            .iter()
            .filter(|column| of_interest(target.engine(), column))
            .take(COLUMNS)
            .map(|column| column.name.clone())
            .collect();
        let mut profiles = BTreeMap::new();
        if !columns.is_empty() {
            let sampled = target.sample(&schema, &columns, SAMPLE_ROWS).await;
            let sampled = work.tolerate(sampled, || format!("no values of {name} could be read"))?;
            for (position, column) in columns.into_iter().enumerate() {
                let values = sampled
                    .iter()
                    .flat_map(|sample| &sample.rows)
                    .filter_map(|row| row.get(position));
                profiles.insert(column, profile(values));
            }
        }
        tables.push(Table {
            keys: keys(&schema),
            name,
            schema: Arc::new(schema),
            profiles,
        });
    }
    Ok(tables)
}

fn profile<'a>(values: impl Iterator<Item = &'a Value>) -> Profile {
    let mut nulls = 0;
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let (mut distinct, mut counts) = (Vec::new(), Vec::new());
    for value in values {
        match (value, text(value)) {
            (Value::Null, _) => nulls += 1,
            (_, None) => {}
            (value, Some(text)) => match places.get(&text) {
                Some(&place) => counts[place] += 1,
                None if distinct.len() < VALUES => {
                    places.insert(text, distinct.len());
                    distinct.push(value.clone());
                    counts.push(1);
                }
                None => {}
            },
        }
    }
    Profile {
        telling: telling(&distinct),
        values: distinct,
        counts,
        nulls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[&str]) -> Vec<Value> {
        values.iter().map(|value| Value::Text(value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn what_anybody_could_have_says_nothing() {
        for (values, expected) in [
            (texts(&[]), Telling::Nothing),
            (texts(&["1", "2", "300000"]), Telling::Weak),
            (texts(&["ACTIVE", "SUSPENDED"]), Telling::Weak),
            (texts(&["DE", "FR"]), Telling::Weak),
            (texts(&["7231398741234567168", "7231398741234567169"]), Telling::Strong),
            (texts(&["6f1c1f0e-1a5b-4c39-9d5b-0a4e9a3f2b11"]), Telling::Strong),
            (texts(&["somebody@example.org"]), Telling::Strong),
            (vec![Value::Integer(5)], Telling::Weak),
            (vec![Value::Blob(vec![7; 16])], Telling::Strong),
        ] {
            assert_eq!(telling(&values), expected, "{values:?}");
        }
    }

    #[test]
    fn a_profile_counts_nulls_and_keeps_distinct_values() {
        let mut values = texts(&["a", "b", "a"]);
        values.push(Value::Null);
        values.extend(texts(&["x".repeat(SAMPLE_TEXT).as_str()]));
        let profile = profile(values.iter());
        assert_eq!((profile.nulls, profile.values.len()), (1, 2));
        assert_eq!(profile.counts, [2, 1]);
    }
}
