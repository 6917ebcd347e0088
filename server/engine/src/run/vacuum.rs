//! After the last step of a cleanup: make the space of the deleted rows reusable, and tell what became of it. A failure here is a
//! warning: the rows are gone either way.

use std::collections::BTreeSet;

use super::{
    attempt::{Attempt, Halt},
    maintain::{Acted, act_within},
};
use crate::{
    model::{HorizonHolder, TableName, TableSpace},
    port::MaintenanceError,
};

/// Vacuums each of the tables once, within what is left of the run's time.
pub(super) async fn after(attempt: &mut Attempt, tables: impl IntoIterator<Item = TableName>) -> Result<(), Halt> {
    let tables: BTreeSet<TableName> = tables.into_iter().collect();
    for table in tables {
        let done = &attempt.ledger.report.space;
        // An attempt before this one may have come here. A file that holds all tables is done with the first of them.
        if done
            .iter()
            .any(|space| space.table == table.to_string() || space.table == TableSpace::WHOLE_FILE)
        {
            continue;
        }
        attempt.boundary()?;
        if attempt.out_of_time() {
            let message = format!("no time was left to vacuum {table}");
            attempt.ledger.warn(None, "VACUUM_SKIPPED", message).await?;
            continue;
        }
        let (limit, name) = (attempt.time_left(), table.clone());
        let acted = act_within(attempt, Some(limit), |target, watch| {
            Box::pin(async move { target.maintenance().vacuum(&name, &watch).await })
        });
        match acted.await? {
            Acted::Ended(Ok(space)) => {
                warn_of_holders(attempt, None, &space).await?;
                attempt.ledger.report.space.push(space);
                attempt.ledger.keep().await?;
            }
            // Without its connection the run is interrupted, as in a batch.
            Acted::Ended(Err(MaintenanceError::Target(error))) if error.class == crate::port::TargetErrorClass::Lost => {
                return Err(error.into());
            }
            Acted::Ended(Err(error)) => {
                attempt
                    .ledger
                    .warn(None, "VACUUM_FAILED", format!("{table} was not vacuumed: {error}"))
                    .await?;
            }
            Acted::OutOfTime => {
                let message = format!("the run's time was over before {table} was vacuumed");
                attempt.ledger.warn(None, "VACUUM_SKIPPED", message).await?;
            }
        }
    }
    Ok(())
}

/// Tells who keeps dead rows that could not be removed.
pub(super) async fn warn_of_holders(attempt: &mut Attempt, step: Option<usize>, space: &TableSpace) -> Result<(), Halt> {
    if space.dead_rows > 0 && !space.holders.is_empty() {
        let holders = space.holders.iter().map(describe).collect::<Vec<_>>().join("; ");
        let message = format!(
            "{} dead rows of {} cannot be removed yet: {holders}",
            space.dead_rows, space.table
        );
        attempt.ledger.warn(step, "VACUUM_HELD", message).await?;
    }
    Ok(())
}

fn describe(holder: &HorizonHolder) -> String {
    let mut text = format!("{} {}", holder.kind.replace('_', " "), holder.name);
    if !holder.user.is_empty() {
        text.push_str(&format!(" of user {}", holder.user));
    }
    if !holder.detail.is_empty() {
        text.push_str(&format!(" ({})", holder.detail));
    }
    if let Some(seconds) = holder.age_seconds {
        text.push_str(&format!(" for {seconds} s"));
    }
    if let Some(transactions) = holder.age_transactions {
        text.push_str(&format!(", {transactions} transactions old"));
    }
    text
}
