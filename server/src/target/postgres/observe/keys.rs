//! Declared keys, and which of them no index serves.

use std::collections::BTreeMap;

use dbkeep_engine::model::{TableName, monitor::UnindexedKey};
use sqlx::FromRow;

use super::{relations::Relations, session::Look};
use crate::target::indexes::Shape;

/// A partition's copy of a key is served by the index of the whole.
const KEYS: &str = "SELECT f.conname::text AS name, f.conrelid::bigint AS relation, n.nspname::text AS parent_schema, p.relname::text AS parent, \
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k(attnum, place) \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum ORDER BY k.place) AS columns \
     FROM pg_catalog.pg_constraint AS f JOIN pg_catalog.pg_class AS p ON p.oid = f.confrelid \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = p.relnamespace \
     WHERE f.contype = 'f' AND f.conparentid = 0 ORDER BY f.conrelid, f.conname";

#[derive(FromRow)]
struct Key {
    name: String,
    relation: i64,
    parent_schema: String,
    parent: String,
    columns: Vec<String>,
}

/// What is known of the declared keys.
#[derive(Default)]
pub(super) struct Keys {
    /// Those that no index serves.
    pub(super) missing: Vec<UnindexedKey>,
    /// Columns of keys, by the oid of their table.
    columns: BTreeMap<i64, Vec<Vec<String>>>,
}

impl Keys {
    /// Whether one of the keys of a table finds its rows by this index.
    pub(super) fn served_by(&self, table: i64, shape: &Shape) -> bool {
        let keys = self.columns.get(&table);
        keys.into_iter().flatten().any(|columns| shape.serves(columns))
    }
}

pub(super) async fn unindexed(look: &mut Look<'_>, found: &Relations) -> Keys {
    let keys = look.list::<Key>(|| sqlx::query(KEYS)).await;
    let mut known = Keys::default();
    for key in look.or_gap("declared_keys", keys).unwrap_or_default() {
        // Dropped meanwhile, or of a temporary table.
        let Some(table) = found.tables.get(&key.relation) else {
            continue;
        };
        if !table.indexes.iter().any(|index| index.shape.serves(&key.columns)) {
            known.missing.push(UnindexedKey {
                constraint: key.name,
                table: table.vitals.table.clone(),
                columns: key.columns.clone(),
                parent: TableName {
                    schema: Some(key.parent_schema),
                    name: key.parent,
                },
                rows: table.vitals.rows.map(|rows| rows.rows),
            });
        }
        known.columns.entry(key.relation).or_default().push(key.columns);
    }
    known
}
