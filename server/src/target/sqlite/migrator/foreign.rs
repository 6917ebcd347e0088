//! Ledgers of other migration tools in SQLite. Reads only.

use dbkeep_engine::{
    model::{ForeignLedger, LedgerReach},
    port::TargetError,
};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use super::super::{error::statement, render};
use crate::target::foreign::{SHAPES, shape_of};

/// Every ledger of another tool.
pub(super) async fn ledgers(connection: &mut SqliteConnection) -> Result<Vec<ForeignLedger>, TargetError> {
    let mut names: Vec<&str> = SHAPES.iter().map(|shape| shape.table).collect();
    names.sort_unstable();
    names.dedup();
    let mut ledgers = Vec::new();
    for name in names {
        let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info(?, 'main') ORDER BY cid")
            .bind(name)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        let Some(shape) = shape_of(name, &columns) else {
            continue;
        };
        let wanted = shape.columns().map(|(column, bytes)| {
            let column = render::identifier(column);
            if bytes {
                format!("lower(hex({column}))")
            } else {
                format!("CAST({column} AS TEXT)")
            }
        });
        let order = shape.order.iter().map(|column| render::identifier(column));
        let sql = format!(
            "SELECT {} FROM main.{} ORDER BY {}",
            wanted.collect::<Vec<_>>().join(", "),
            render::identifier(name),
            order.collect::<Vec<_>>().join(", ")
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .persistent(false)
            .fetch_all(&mut *connection)
            .await
            .map_err(statement)?;
        let mut texts = Vec::with_capacity(rows.len());
        for row in &rows {
            let text = |column: usize| row.try_get_unchecked::<Option<String>, _>(column).map_err(statement);
            texts.push((0..row.len()).map(text).collect::<Result<Vec<_>, _>>()?);
        }
        ledgers.push(ForeignLedger {
            kind: shape.kind,
            table: name.to_owned(),
            reach: LedgerReach::Read,
            entries: shape.entries(&texts),
        });
    }
    Ok(ledgers)
}
