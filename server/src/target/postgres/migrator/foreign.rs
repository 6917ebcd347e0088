//! Ledgers of other migration tools in PostgreSQL. Reads only.

use std::collections::BTreeMap;

use dbkeep_engine::{
    model::{ForeignLedger, TableName},
    port::{GroupOrder, MigratorError, TargetError},
};
use sqlx::Row as _;

use super::super::line::Line;
use super::{
    super::{error::statement, render},
    session::{simple, text},
};
use crate::target::foreign::{SHAPES, shape_of};

/// Tables of these names with their columns; those that a bare name reaches come first.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text, a.attname::text \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
     WHERE c.relkind IN ('r', 'p') AND c.relname = ANY(NAMES) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'dbkeep') \
       AND n.nspname !~ '^pg_(toast|temp)' AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT') \
     ORDER BY coalesce(array_position(current_schemas(false), n.nspname), 1000), n.nspname, c.relname, a.attnum";

/// Rows that the transaction has not written itself. A numbered transaction has one half of its number in the rows that it wrote.
const OF_OTHERS: &str = "WHERE xmin::text <> (pg_catalog.txid_current() % 4294967296)::text";

/// Whose rows count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// All.
    All,
    /// Those that this transaction has not written itself.
    OfOthers,
}

fn names() -> String {
    let names: Vec<String> = SHAPES.iter().map(|shape| render::literal(shape.table)).collect();
    format!("ARRAY[{}]::name[]", names.join(", "))
}

/// The condition that there may be a ledger of another tool. It is cheap, and travels with others.
pub(super) fn any() -> String {
    format!(
        "EXISTS (SELECT 1 FROM pg_catalog.pg_class WHERE relname = ANY({}) AND relkind IN ('r', 'p'))",
        names()
    )
}

/// Every ledger of another tool.
pub(super) async fn ledgers(connection: &mut Line, whose: Rows) -> Result<Vec<ForeignLedger>, TargetError> {
    let found = simple(connection, TABLES.replace("NAMES", &names()))
        .await
        .map_err(statement)?;
    let mut tables: Vec<TableName> = Vec::new();
    let mut columns: BTreeMap<TableName, Vec<String>> = BTreeMap::new();
    for row in found.iter().flatten() {
        let word = |column: usize| Ok::<_, TargetError>(text(row, column)?.unwrap_or_default());
        let table = TableName {
            schema: Some(word(0)?),
            name: word(1)?,
        };
        if !tables.contains(&table) {
            tables.push(table.clone());
        }
        columns.entry(table).or_default().push(word(2)?);
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
            "SELECT {} FROM {} {} ORDER BY {}",
            wanted.collect::<Vec<_>>().join(", "),
            render::table(&table),
            match whose {
                Rows::All => "",
                Rows::OfOthers => OF_OTHERS,
            },
            order.collect::<Vec<_>>().join(", ")
        );
        let rows = simple(connection, sql).await.map_err(statement)?;
        let mut texts = Vec::new();
        for row in rows.iter().flatten() {
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

/// Looks whether another tool was at the order's migration, in the transaction that is open. `any` is what [`any`] says.
pub(super) async fn judge(connection: &mut Line, order: &GroupOrder, any: bool) -> Result<(), MigratorError> {
    let Some(elsewhere) = &order.elsewhere else { return Ok(()) };
    let ledgers = if any {
        ledgers(connection, Rows::OfOthers).await?
    } else {
        Vec::new()
    };
    elsewhere.judge(order.before.as_ref(), &ledgers)
}
