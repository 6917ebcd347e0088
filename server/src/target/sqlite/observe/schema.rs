//! Tables, indexes and declared keys by the schema, and rows by the statistics of ANALYZE. Reads no table of a user.

use std::collections::BTreeMap;

use dbkeep_engine::{
    model::{
        TableName,
        monitor::{IndexVitals, Precision, RowCount, TableVitals, UnindexedKey},
    },
    port::{DeclaredKey, TargetError},
};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::{
    super::{discover, error::statement},
    definition::{Definition, alike},
    session::Look,
};
use crate::target::indexes::{Part, Shape, duplicates};

/// Tables with rows of their own, those behind virtual tables too.
const TABLES: &str = "SELECT t.name FROM pragma_table_list AS t WHERE t.schema = 'main' AND t.type IN ('table', 'shadow') \
     AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY t.name";

/// Every column of every index.
const INDEXES: &str = "SELECT t.name, l.name, l.\"unique\", l.origin, l.partial, x.cid, x.name, x.\"desc\", x.coll, s.sql, s.rootpage \
     FROM pragma_table_list AS t, pragma_index_list(t.name) AS l, pragma_index_xinfo(l.name) AS x \
     LEFT JOIN main.sqlite_schema AS s ON s.type = 'index' AND s.name = l.name \
     WHERE t.schema = 'main' AND t.type IN ('table', 'shadow') AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND x.key = 1 \
     ORDER BY t.name, l.seq DESC, x.seqno";

/// Columns that are the table's own order: primary keys of type INTEGER, for which there is no index.
const ROWIDS: &str = "SELECT t.name, i.name FROM pragma_table_list AS t, pragma_table_info(t.name) AS i \
     WHERE t.schema = 'main' AND t.type = 'table' AND t.wr = 0 AND i.pk = 1 \
       AND NOT EXISTS (SELECT 1 FROM pragma_index_list(t.name) AS l WHERE l.origin = 'pk')";

/// What the order of such a table is called; no index is made under a name that begins like this.
const ROWID_ORDER: &str = "the primary key ";

/// The first number of each line is that of the rows in the index; a partial one has fewer than the table.
const STATISTICS: &str = "SELECT s.tbl, max(CAST(s.stat AS INTEGER)) FROM main.sqlite_stat1 AS s GROUP BY s.tbl";

/// What the schema says.
#[derive(Default)]
pub(super) struct Schema {
    pub(super) tables: Vec<TableVitals>,
    pub(super) indexes: Vec<IndexVitals>,
    pub(super) unindexed_keys: Vec<UnindexedKey>,
}

/// A name that `table` or `schema.table` cannot say gets its schema.
fn named(name: &str) -> TableName {
    TableName {
        schema: name.contains('.').then(|| "main".to_owned()),
        name: name.to_owned(),
    }
}

fn text(row: &SqliteRow, column: usize) -> Result<Option<String>, TargetError> {
    row.try_get_unchecked(column).map_err(statement)
}

fn number(row: &SqliteRow, column: usize) -> Result<i64, TargetError> {
    let number: Option<i64> = row.try_get_unchecked(column).map_err(statement)?;
    Ok(number.unwrap_or(0))
}

pub(super) async fn read(look: &mut Look<'_>) -> Schema {
    let mut schema = Schema::default();
    let rows = statistics(look).await;
    let rows = look.or_gap("statistics", rows).unwrap_or_default();
    let tables = names(look).await;
    for name in look.or_gap("tables", tables).unwrap_or_default() {
        schema.tables.push(table(&name, rows.get(&name).copied()));
    }
    let found = indexes(look).await;
    let Some(mut found) = look.or_gap("indexes", found) else {
        return schema;
    };
    let keys = declared_keys(look).await;
    let keys = look.or_gap("declared_keys", keys).unwrap_or_default();
    for key in &keys {
        let served = found
            .get(&key.child.name)
            .is_some_and(|indexes| indexes.iter().any(|(_, shape)| shape.serves(&key.columns)));
        if !served {
            schema.unindexed_keys.push(UnindexedKey {
                constraint: String::new(),
                table: named(&key.child.name),
                columns: key.columns.clone(),
                parent: named(&key.parent.name),
                rows: rows.get(&key.child.name).copied(),
                partitioned: false,
                partitions: Vec::new(),
            });
        }
    }
    for (table, indexes) in &mut found {
        let shapes: Vec<Shape> = indexes.iter().map(|(_, shape)| shape.clone()).collect();
        let others = duplicates(&shapes);
        let all: Vec<String> = indexes.iter().map(|(vitals, _)| vitals.name.clone()).collect();
        for ((vitals, shape), other) in indexes.iter_mut().zip(others) {
            vitals.duplicate_of = other.map(|other| all[other].clone());
            let mut of_table = keys.iter().filter(|key| key.child.name == *table);
            vitals.serves_key = vitals.duplicate_of.is_none() && of_table.any(|key| shape.serves(&key.columns));
        }
        // The order of the table itself is no index.
        let real = indexes.drain(..).map(|(vitals, _)| vitals);
        schema
            .indexes
            .extend(real.filter(|vitals| !vitals.name.starts_with(ROWID_ORDER)));
    }
    schema
}

async fn names(look: &mut Look<'_>) -> Result<Vec<String>, TargetError> {
    let rows = look.rows(TABLES).await?;
    rows.iter().map(|row| Ok(text(row, 0)?.unwrap_or_default())).collect()
}

async fn statistics(look: &mut Look<'_>) -> Result<BTreeMap<String, u64>, TargetError> {
    let exists = look
        .rows("SELECT 1 FROM main.sqlite_schema WHERE name = 'sqlite_stat1'")
        .await?;
    if exists.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut known = BTreeMap::new();
    for row in look.rows(STATISTICS).await? {
        if let Some(table) = text(&row, 0)? {
            known.insert(table, u64::try_from(number(&row, 1)?).unwrap_or(0));
        }
    }
    Ok(known)
}

fn table(name: &str, rows: Option<u64>) -> TableVitals {
    TableVitals {
        table: named(name),
        own: name.starts_with("_dbkeep_"),
        rows: rows.map(|rows| RowCount {
            rows,
            precision: Precision::Estimated,
        }),
        heap_bytes: None,
        index_bytes: None,
        toast_bytes: None,
        dead_rows: None,
        free_bytes: None,
        free_precision: None,
        last_vacuum: None,
        last_analyze: None,
        changed_since_analyze: None,
        sequential_scans: None,
        index_scans: None,
        inserted: None,
        deleted: None,
        xid_age: None,
    }
}

type Indexes = BTreeMap<String, Vec<(IndexVitals, Shape)>>;

async fn indexes(look: &mut Look<'_>) -> Result<Indexes, TargetError> {
    let mut found = Indexes::new();
    for row in look.rows(INDEXES).await? {
        let (table, name) = (text(&row, 0)?.unwrap_or_default(), text(&row, 1)?.unwrap_or_default());
        let sql = text(&row, 9)?.unwrap_or_default();
        let definition = Definition::of(&sql);
        let of_table = found.entry(table.clone()).or_default();
        if of_table.last().is_none_or(|(last, _)| last.name != name) {
            let enforces = number(&row, 2)? != 0;
            // Only a constraint's own index has no text.
            let partial = number(&row, 4)? != 0;
            let vitals = index(&table, &name, enforces, &sql, &definition.condition);
            let shape = Shape {
                parts: Vec::new(),
                included: Vec::new(),
                condition: alike(&definition.condition),
                method: "btree".to_owned(),
                settings: String::new(),
                kept: enforces,
                usable: partial != definition.condition.is_empty(),
                age: number(&row, 10)?,
            };
            of_table.push((vitals, shape));
        }
        let Some((vitals, shape)) = of_table.last_mut() else {
            continue;
        };
        let column = text(&row, 6)?;
        let written = definition.parts.get(shape.parts.len()).cloned().unwrap_or_default();
        let what = column.clone().map_or_else(|| alike(&written), |column| column.to_lowercase());
        let order = format!(" {} {}", text(&row, 8)?.unwrap_or_default().to_lowercase(), number(&row, 7)?);
        vitals.expression |= column.is_none();
        vitals.columns.push(column.clone().unwrap_or(written));
        shape.parts.push(Part {
            column,
            exactly: what + &order,
        });
    }
    for row in look.rows(ROWIDS).await? {
        let (Some(table), Some(column)) = (text(&row, 0)?, text(&row, 1)?) else {
            continue;
        };
        let name = format!("{ROWID_ORDER}{column}");
        let vitals = index(&table, &name, true, "", "");
        let shape = Shape {
            parts: vec![Part {
                exactly: format!("{} binary 0", column.to_lowercase()),
                column: Some(column),
            }],
            included: Vec::new(),
            condition: String::new(),
            method: "btree".to_owned(),
            settings: String::new(),
            kept: true,
            usable: true,
            age: 0,
        };
        found.entry(table).or_default().push((vitals, shape));
    }
    Ok(found)
}

fn index(table: &str, name: &str, enforces: bool, sql: &str, condition: &str) -> IndexVitals {
    IndexVitals {
        table: named(table),
        name: name.to_owned(),
        oid: None,
        columns: Vec::new(),
        method: "btree".to_owned(),
        condition: condition.to_owned(),
        enforces,
        clustered: false,
        expression: false,
        serves_key: false,
        valid: true,
        bytes: None,
        scans: None,
        bloat_fraction: None,
        bloat_precision: None,
        duplicate_of: None,
        first_seen: None,
        definition: sql.to_owned(),
    }
}

async fn declared_keys(look: &mut Look<'_>) -> Result<Vec<DeclaredKey>, TargetError> {
    discover::keys(look.armed().await?).await
}
