//! Declared keys that no index serves, and the statements that make one: without keeping writers out, also where the table is partitioned.

use std::collections::BTreeSet;

use super::{
    super::text::{in_schema, quoted, quoted_table},
    Patient,
};
use crate::model::{
    TableName,
    monitor::{Finding, FindingKind, Level, Snapshot, UnindexedKey},
};

/// Longest name that PostgreSQL keeps, bytes.
const NAME_BYTES: usize = 63;
/// Most partitions whose statements are written out.
const PARTITIONS: usize = 200;

pub(super) fn unindexed(patient: &Patient<'_>, found: &mut Vec<Finding>) {
    let mut names = Names::of(patient.snapshot);
    for key in &patient.snapshot.unindexed_keys {
        // Reading a small table takes no longer than finding out that it is small.
        if key.rows.is_some_and(|rows| rows < patient.bounds.rows / 10) {
            continue;
        }
        found.push(Finding {
            kind: FindingKind::UnindexedKey,
            level: if key.rows.is_some_and(|rows| rows >= patient.bounds.rows) {
                Level::Warning
            } else {
                Level::Info
            },
            object: format!("{}({})", key.table, key.columns.join(",")),
            parent: Some(key.parent.clone()),
            definition: String::new(),
            detail: format!(
                "each delete of a row of {} reads all of {}{}, because no index begins with {}",
                key.parent,
                key.table,
                key.rows.map_or_else(String::new, |rows| format!(" ({rows} rows)")),
                key.columns.join(", ")
            ),
            remediation: statements(patient, key, &mut names),
        });
    }
}

/// The statements, one a line: each has to be executed by itself, since none of those that work CONCURRENTLY may be in a transaction.
fn statements(patient: &Patient<'_>, key: &UnindexedKey, names: &mut Names) -> String {
    let columns: Vec<String> = key.columns.iter().map(|column| quoted(column)).collect();
    let columns = columns.join(", ");
    let name = names.next(&key.table, &key.columns);
    if !patient.is_postgres() {
        // The index is made where its table is, which is not said after ON.
        return format!("CREATE INDEX {} ON {} ({columns});", quoted(&name), quoted(&key.table.name));
    }
    let table = quoted_table(&key.table);
    if !key.partitioned {
        return format!("CREATE INDEX CONCURRENTLY {} ON {table} ({columns});", quoted(&name));
    }
    if key.partitions.is_empty() {
        return format!(
            "CREATE INDEX {} ON {table} ({columns}); -- keeps writers out of each partition while it is built",
            quoted(&name)
        );
    }
    let only = |name: &str, table: &TableName| {
        let table = quoted_table(table);
        format!("CREATE INDEX {} ON ONLY {table} ({columns});", quoted(name))
    };
    let mut lines = vec![only(&name, &key.table)];
    let mut made = vec![(key.table.clone(), name)];
    let mut attached = Vec::new();
    for partition in key.partitions.iter().take(PARTITIONS) {
        let name = names.next(&partition.table, &key.columns);
        lines.push(if partition.partitioned {
            only(&name, &partition.table)
        } else {
            let table = quoted_table(&partition.table);
            format!("CREATE INDEX CONCURRENTLY {} ON {table} ({columns});", quoted(&name))
        });
        if let Some((of, whole)) = made.iter().find(|(table, _)| *table == partition.of) {
            attached.push(format!(
                "ALTER INDEX {} ATTACH PARTITION {};",
                in_schema(of, whole),
                in_schema(&partition.table, &name)
            ));
        }
        made.push((partition.table.clone(), name));
    }
    // The whole's index can be used once the last part is attached to it.
    lines.append(&mut attached);
    let more = key.partitions.len().saturating_sub(PARTITIONS);
    if more > 0 {
        lines.push(format!("-- and the same for {more} more partitions"));
    }
    lines.join("\n")
}

/// Names of relations that are taken, by schema.
struct Names(BTreeSet<(Option<String>, String)>);

impl Names {
    fn of(snapshot: &Snapshot) -> Self {
        let tables = snapshot.tables.iter().map(|table| &table.table);
        let tables = tables.map(|table| (table.schema.clone(), table.name.clone()));
        let indexes = snapshot.indexes.iter();
        let indexes = indexes.map(|index| (index.table.schema.clone(), index.name.clone()));
        Self(tables.chain(indexes).collect())
    }

    /// A name for an index that nothing has yet. PostgreSQL would cut a long one off, and call two by one name.
    fn next(&mut self, table: &TableName, columns: &[String]) -> String {
        let whole = format!("{}_{}", table.name, columns.join("_"));
        let mut number = 0;
        loop {
            let end = if number == 0 {
                "_idx".to_owned()
            } else {
                format!("_idx{number}")
            };
            let mut name = whole.clone();
            while name.len() + end.len() > NAME_BYTES {
                name.pop();
            }
            name.push_str(&end);
            if self.0.insert((table.schema.clone(), name.clone())) {
                return name;
            }
            number += 1;
        }
    }
}
