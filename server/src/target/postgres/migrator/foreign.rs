//! Ledgers of other migration tools in PostgreSQL. Reads only.

use dbkeep_engine::{
    model::{ForeignLedger, LedgerReach, TableName},
    port::{GroupOrder, MigratorError, TargetError},
};
use sqlx::Row as _;

use super::super::line::Line;
use super::{
    super::{error::statement, render},
    session::{simple, text},
};
use crate::target::foreign::{SHAPES, shape_of};

/// Tables of these names with their columns, whether a bare name may mean them, what the role may do with them, and the role. Those that
/// a bare name reaches come first, the nearest before the others; sqitch has a schema of its own, whatever the search path is.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text, a.attname::text, (s.place IS NOT NULL OR (n.nspname = 'sqitch' AND c.relname = 'changes'))::text, \
       pg_catalog.has_schema_privilege(n.oid, 'USAGE')::text, pg_catalog.has_table_privilege(c.oid, 'SELECT')::text, current_user::text \
     FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
     JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
     LEFT JOIN (SELECT CASE pg_catalog.btrim(p.name, ' \"') WHEN '$user' THEN current_user::text ELSE pg_catalog.btrim(p.name, ' \"') END AS name, \
         pg_catalog.min(p.place) AS place \
       FROM pg_catalog.unnest(pg_catalog.string_to_array(pg_catalog.current_setting('search_path'), ',')) WITH ORDINALITY AS p(name, place) GROUP BY 1) AS s \
       ON s.name = n.nspname::text \
     WHERE c.relkind IN ('r', 'p') AND c.relname = ANY(NAMES) AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'dbkeep', 'dbkeep_control') \
       AND n.nspname !~ '^pg_(toast|temp)' \
     ORDER BY s.place NULLS LAST, n.nspname <> 'sqitch', n.nspname, c.relname, a.attnum";

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

/// A table of such a name, as the catalogs know it.
struct Found {
    table: TableName,
    columns: Vec<String>,
    /// Whether a bare name means it where none before it has that name.
    reached: bool,
    /// Statements that let dbkeep's role read it; empty where it may.
    grants: String,
}

/// What a role needs beside what it has so that it may read a table.
fn grants(table: &TableName, role: &str, usage: bool, select: bool) -> String {
    let role = render::identifier(role);
    let mut grants = Vec::new();
    if !usage && let Some(schema) = &table.schema {
        grants.push(format!("GRANT USAGE ON SCHEMA {} TO {role};", render::identifier(schema)));
    }
    if !select {
        grants.push(format!("GRANT SELECT ON TABLE {} TO {role};", render::table(table)));
    }
    grants.join(" ")
}

/// Tables that may be ledgers, in the order in which a bare name finds them.
async fn tables(connection: &mut Line) -> Result<Vec<Found>, TargetError> {
    let rows = simple(connection, TABLES.replace("NAMES", &names()))
        .await
        .map_err(statement)?;
    let mut tables: Vec<Found> = Vec::new();
    for row in rows.iter().flatten() {
        let word = |column: usize| Ok::<_, TargetError>(text(row, column)?.unwrap_or_default());
        let holds = |column: usize| Ok::<_, TargetError>(word(column)? == "true");
        let table = TableName {
            schema: Some(word(0)?),
            name: word(1)?,
        };
        if let Some(last) = tables.last_mut().filter(|last| last.table == table) {
            last.columns.push(word(2)?);
            continue;
        }
        tables.push(Found {
            grants: grants(&table, &word(6)?, holds(4)?, holds(5)?),
            reached: holds(3)?,
            columns: vec![word(2)?],
            table,
        });
    }
    Ok(tables)
}

/// Every ledger of another tool: of those of one name the one that a bare name means, or all where a bare name means none.
pub(super) async fn ledgers(connection: &mut Line, whose: Rows) -> Result<Vec<ForeignLedger>, TargetError> {
    let mut ledgers = Vec::new();
    let mut reached: Vec<String> = Vec::new();
    for found in tables(connection).await? {
        let table = found.table;
        let Some(shape) = shape_of(&table.name, &found.columns) else {
            continue;
        };
        if reached.contains(&table.name) {
            continue;
        }
        let unread = if !found.reached {
            Some(LedgerReach::Outside)
        } else if found.grants.is_empty() {
            None
        } else {
            Some(LedgerReach::Unreadable { grants: found.grants })
        };
        if found.reached {
            reached.push(table.name.clone());
        }
        if let Some(reach) = unread {
            ledgers.push(ForeignLedger {
                kind: shape.kind,
                table: table.to_string(),
                reach,
                entries: Vec::new(),
            });
            continue;
        }
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
            reach: LedgerReach::Read,
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
