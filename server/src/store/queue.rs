//! The queue of each table: who has it, and who waits for it in the order of the runs' ids. A waiting run holds nothing and gets all
//! of its tables at once, with the claim, when no other run has one of them and no earlier run waits for one: so nobody is
//! overtaken, and no two runs wait for each other.

use std::collections::BTreeSet;

use dbkeep_engine::{
    model::{RunId, RunState, Waiting},
    port::{Created, StoreError},
};
use sqlx::any::AnyRow;

use super::{
    failure::{Failure, corrupt},
    rows,
    transaction::Tx,
};

/// What stands before a queued or paused run of the table `runs`: run and table, or NULL. An earlier run that waits is named only
/// where nobody has the table.
pub(super) const WAITING: &str = "CASE WHEN state IN ('queued', 'paused') THEN (SELECT b.run_id || ' ' || b.table_name FROM ( \
     SELECT 0 AS place, h.run_id, h.table_name FROM table_waits w JOIN table_holds h ON h.target = w.target AND h.table_name = w.table_name \
     WHERE w.run_id = runs.id AND h.run_id <> w.run_id \
     UNION ALL \
     SELECT 1 AS place, e.run_id, e.table_name FROM table_waits w JOIN table_waits e ON e.target = w.target AND e.table_name = w.table_name \
     WHERE w.run_id = runs.id AND e.run_id < w.run_id) AS b ORDER BY b.place, b.run_id, b.table_name LIMIT 1) END AS waiting";

/// A condition on the table `runs`: nobody stands before it. The same as [`WAITING`] being NULL, for a run that is queued.
pub(super) const UNOBSTRUCTED: &str = "NOT EXISTS (SELECT 1 FROM table_waits w WHERE w.run_id = runs.id AND (EXISTS (SELECT 1 FROM table_holds h \
     WHERE h.target = w.target AND h.table_name = w.table_name AND h.run_id <> w.run_id) OR EXISTS (SELECT 1 FROM table_waits e \
     WHERE e.target = w.target AND e.table_name = w.table_name AND e.run_id < w.run_id)))";

/// Reads the column of [`WAITING`].
pub(super) fn waiting(row: &AnyRow) -> Result<Option<Waiting>, StoreError> {
    let text: Option<String> = rows::column_of(row, "waiting")?;
    text.map(|text| {
        let parts = text.split_once(' ').and_then(|(run, table)| Some((run.parse().ok()?, table)));
        let (run, table) = parts.ok_or_else(|| corrupt(format!("what a run waits for is {text:?}")))?;
        Ok(Waiting {
            run,
            table: table.to_owned(),
        })
    })
    .transpose()
}

/// The first of the tables that another run has, or waits for, as the refusal of a run that does not queue.
pub(super) async fn obstacle(tx: &mut Tx<'_>, target: &str, tables: &BTreeSet<String>) -> Result<Option<Created>, Failure> {
    for table in tables {
        let sql = "SELECT r.id, r.state, r.operations, r.created_ms FROM (SELECT 0 AS place, run_id FROM table_holds WHERE target = $1 AND table_name = $2 \
                   UNION ALL SELECT 1, run_id FROM table_waits WHERE target = $1 AND table_name = $2) AS b JOIN runs r ON r.id = b.run_id \
                   ORDER BY b.place, b.run_id LIMIT 1";
        let row = sqlx::query(sql)
            .bind(rows::text(target))
            .bind(table)
            .fetch_optional(&mut *tx.connection)
            .await?;
        let Some(row) = row else { continue };
        let id: String = rows::column_of(&row, "id")?;
        let run: RunId = id.parse().map_err(|_| corrupt(format!("holder {id:?} of {table}")))?;
        let state: String = rows::column_of(&row, "state")?;
        let operations: String = rows::column_of(&row, "operations")?;
        return Ok(Some(Created::Held {
            run,
            table: table.clone(),
            state: rows::state_of(&state).ok_or_else(|| corrupt(format!("state {state:?} of run {run}")))?,
            operations: rows::from_json(&operations, || format!("operations of run {run}"))?,
            since: rows::timestamp(rows::column_of(&row, "created_ms")?, run)?,
        }));
    }
    Ok(None)
}

/// Gives the tables to the run.
pub(super) async fn hold(tx: &mut Tx<'_>, run: RunId, target: &str, tables: &BTreeSet<String>) -> Result<(), Failure> {
    insert(
        tx,
        "INSERT INTO table_holds (target, table_name, run_id) VALUES ($1, $2, $3)",
        run,
        target,
        tables,
    )
    .await
}

/// Lets the run wait for the tables.
pub(super) async fn wait(tx: &mut Tx<'_>, run: RunId, target: &str, tables: &BTreeSet<String>) -> Result<(), Failure> {
    insert(
        tx,
        "INSERT INTO table_waits (target, table_name, run_id) VALUES ($1, $2, $3)",
        run,
        target,
        tables,
    )
    .await
}

async fn insert(tx: &mut Tx<'_>, sql: &'static str, run: RunId, target: &str, tables: &BTreeSet<String>) -> Result<(), Failure> {
    for table in tables {
        sqlx::query(sql)
            .bind(rows::text(target))
            .bind(table)
            .bind(run.to_string())
            .execute(&mut *tx.connection)
            .await?;
    }
    Ok(())
}

/// Gives a run that waited its tables; tells whether it waited. Called for a run that is [`UNOBSTRUCTED`]; where somebody was
/// faster all the same, the unique rows make the transaction begin anew.
pub(super) async fn promote(tx: &mut Tx<'_>, run: RunId) -> Result<bool, Failure> {
    let moved = sqlx::query("INSERT INTO table_holds (target, table_name, run_id) SELECT target, table_name, run_id FROM table_waits WHERE run_id = $1")
        .bind(run.to_string())
        .execute(&mut *tx.connection)
        .await?;
    if moved.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("DELETE FROM table_waits WHERE run_id = $1")
        .bind(run.to_string())
        .execute(&mut *tx.connection)
        .await?;
    Ok(true)
}

/// Takes the run out of every queue: what it has and what it waits for.
pub(super) async fn leave(tx: &mut Tx<'_>, run: RunId) -> Result<(), Failure> {
    for sql in [
        "DELETE FROM table_holds WHERE run_id = $1",
        "DELETE FROM table_waits WHERE run_id = $1",
    ] {
        sqlx::query(sql).bind(run.to_string()).execute(&mut *tx.connection).await?;
    }
    Ok(())
}

/// Why a run that waits is in its state.
pub(super) fn reason(waiting: &Waiting, of: RunState) -> String {
    let verb = if of == RunState::Queued {
        "is to have before it"
    } else {
        "has"
    };
    format!("waits for table {}, which run {} {verb}", waiting.table, waiting.run)
}
