//! Ledgers of other migration tools in PostgreSQL. Reads only.

use std::collections::BTreeMap;

use dbkeep_engine::{
    model::{ForeignLedger, TableName},
    port::TargetError,
};
use sqlx::{AssertSqlSafe, Row as _};

use super::super::line::Line;
use super::{
    super::{error::statement, render},
    session::text,
};
use crate::target::foreign::{SHAPES, shape_of};

/// Tables of these names with their columns; those that a bare name reaches come first.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text, a.attname::text \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
     WHERE c.relkind IN ('r', 'p') AND c.relname = ANY($1) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'dbkeep') \
       AND n.nspname !~ '^pg_(toast|temp)' AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') \
     ORDER BY coalesce(array_position(current_schemas(false), n.nspname), 1000), n.nspname, c.relname, a.attnum";

/// Every ledger of another tool.
pub(super) async fn ledgers(connection: &mut Line) -> Result<Vec<ForeignLedger>, TargetError> {
    let names: Vec<String> = SHAPES.iter().map(|shape| shape.table.to_owned()).collect();
    let rows = sqlx::query(TABLES)
        .bind(names)
        .fetch_all(&mut *connection)
        .await
        .map_err(statement)?;
    let mut tables: Vec<TableName> = Vec::new();
    let mut columns: BTreeMap<TableName, Vec<String>> = BTreeMap::new();
    for row in rows {
        let table = TableName {
            schema: Some(row.try_get(0).map_err(statement)?),
            name: row.try_get(1).map_err(statement)?,
        };
        if !tables.contains(&table) {
            tables.push(table.clone());
        }
        columns.entry(table).or_default().push(row.try_get(2).map_err(statement)?);
    }
    let mut ledgers = Vec::new();
    for table in tables {
        let columns = columns.get(&table).map_or(&[][..], Vec::as_slice);
        let Some(shape) = shape_of(&table.name, columns) else {
            continue;
        };
        let wanted = shape.columns().map(|(name, bytes)| {
            let name = render::identifier(name);
            if bytes {
                format!("pg_catalog.encode({name}, 'hex')")
            } else {
                format!("{name}::text")
            }
        });
        let order = shape.order.iter().map(|name| render::identifier(name));
        let sql = format!(
            "SELECT {} FROM {} ORDER BY {}",
            wanted.collect::<Vec<_>>().join(", "),
            render::table(&table),
            order.collect::<Vec<_>>().join(", ")
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        let mut texts = Vec::with_capacity(rows.len());
        for row in &rows {
            texts.push(
                (0..row.len())
                    .map(|column| text(row, column))
                    .collect::<Result<Vec<_>, _>>()?,
            );
        }
        ledgers.push(ForeignLedger {
            kind: shape.kind,
            table: table.to_string(),
            entries: shape.entries(&texts),
        });
    }
    Ok(ledgers)
}
