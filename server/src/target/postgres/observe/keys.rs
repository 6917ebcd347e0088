//! Declared keys, and which of them no index serves.

use std::collections::BTreeMap;

use dbkeep_engine::model::{
    TableName,
    monitor::{Partition, UnindexedKey},
};
use sqlx::FromRow;

use super::{
    relations::{Relations, Table},
    session::Look,
};
use crate::target::indexes::Shape;

/// A partition's copy of a key is served by the index of the whole.
const KEYS: &str = "SELECT f.conname::text AS name, f.conrelid::bigint AS relation, n.nspname::text AS parent_schema, p.relname::text AS parent, \
       ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY AS k(attnum, place) \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum ORDER BY k.place) AS columns \
     FROM pg_catalog.pg_constraint AS f JOIN pg_catalog.pg_class AS p ON p.oid = f.confrelid \
     JOIN pg_catalog.pg_namespace AS n ON n.oid = p.relnamespace \
     WHERE f.contype = 'f' AND f.conparentid = 0 ORDER BY f.conrelid, f.conname";

/// Every partition, and what it is part of; one that is elsewhere cannot have an index.
const PARTITIONS: &str = "SELECT i.inhrelid::bigint AS relation, i.inhparent::bigint AS whole \
     FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid WHERE c.relispartition ORDER BY i.inhrelid";

/// Deepest partitions of partitions that are followed.
const DEEPEST: usize = 100;

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

/// A partition, and what it is part of.
struct Below<'a> {
    oid: i64,
    part: &'a Table,
    of: &'a Table,
}

/// The parts of partitioned tables, by the oid of these.
#[derive(Default)]
struct Parts(BTreeMap<i64, Vec<i64>>);

impl Parts {
    async fn read(look: &mut Look<'_>) -> Self {
        let rows = look.list::<(i64, i64)>(|| sqlx::query(PARTITIONS)).await;
        let mut parts = Self::default();
        for (relation, whole) in look.or_gap("partitions", rows).unwrap_or_default() {
            parts.0.entry(whole).or_default().push(relation);
        }
        parts
    }

    /// Whatever is below a table with what it is part of, each after that. `None` where something of it is not known: a table of
    /// another server, or one that was made meanwhile.
    fn below<'a>(&self, whole: i64, found: &'a Relations) -> Option<Vec<Below<'a>>> {
        let mut all = Vec::new();
        let mut level = vec![whole];
        for _ in 0..DEEPEST {
            let mut next = Vec::new();
            for of in level {
                for part in self.0.get(&of).into_iter().flatten() {
                    all.push(Below {
                        oid: *part,
                        part: found.tables.get(part)?,
                        of: found.tables.get(&of)?,
                    });
                    next.push(*part);
                }
            }
            if next.is_empty() {
                return Some(all);
            }
            level = next;
        }
        None
    }
}

/// The key of a partitioned table, unless each partition has an index of its own that serves it.
fn of_partitioned(missing: &mut UnindexedKey, below: Option<&[Below<'_>]>) -> bool {
    missing.partitioned = true;
    let Some(below) = below else {
        return true;
    };
    let leaves = || below.iter().map(|below| below.part).filter(|part| !part.partitioned);
    let is_served = |leaf: &Table| leaf.indexes.iter().any(|index| index.shape.serves(&missing.columns));
    if leaves().next().is_some() && leaves().all(is_served) {
        return false;
    }
    missing.rows = leaves().map(|leaf| leaf.vitals.rows.map(|rows| rows.rows)).sum();
    missing.partitions = below
        .iter()
        .map(|below| Partition {
            table: below.part.vitals.table.clone(),
            of: below.of.vitals.table.clone(),
            partitioned: below.part.partitioned,
        })
        .collect();
    true
}

pub(super) async fn unindexed(look: &mut Look<'_>, found: &Relations) -> Keys {
    let keys = look.list::<Key>(|| sqlx::query(KEYS)).await;
    let keys = look.or_gap("declared_keys", keys).unwrap_or_default();
    let is_partitioned = |key: &Key| found.tables.get(&key.relation).is_some_and(|table| table.partitioned);
    let parts = if keys.iter().any(is_partitioned) {
        Parts::read(look).await
    } else {
        Parts::default()
    };
    let mut known = Keys::default();
    for key in keys {
        // Dropped meanwhile, or of a temporary table.
        let Some(table) = found.tables.get(&key.relation) else {
            continue;
        };
        let below = if table.partitioned {
            parts.below(key.relation, found)
        } else {
            None
        };
        if !table.indexes.iter().any(|index| index.shape.serves(&key.columns)) {
            let mut missing = UnindexedKey {
                constraint: key.name,
                table: table.vitals.table.clone(),
                columns: key.columns.clone(),
                parent: TableName {
                    schema: Some(key.parent_schema),
                    name: key.parent,
                },
                rows: table.vitals.rows.map(|rows| rows.rows),
                partitioned: false,
                partitions: Vec::new(),
            };
            if !table.partitioned || of_partitioned(&mut missing, below.as_deref()) {
                known.missing.push(missing);
            }
        }
        for part in below.into_iter().flatten() {
            known.columns.entry(part.oid).or_default().push(key.columns.clone());
        }
        known.columns.entry(key.relation).or_default().push(key.columns);
    }
    known
}
