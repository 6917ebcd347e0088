//! Task `vacuum_analyze`: tables with dead rows, one by one; or the one file that holds all tables.

use super::{TaskEnd, begin_item, counted, end_item, end_of, fail_item, is_lost, is_noted, listed, unsupported};
use crate::{
    model::{MaintenanceItem, TableName, TableSpace},
    run::{
        attempt::{Attempt, Halt},
        maintain::{Acted, act_within},
        vacuum::warn_of_holders,
    },
};

pub(super) async fn vacuum(attempt: &mut Attempt, index: usize) -> Result<TaskEnd, Halt> {
    let found = match attempt.target.maintenance().dead_rows().await {
        Ok(found) => found,
        Err(error) if unsupported(&error).is_some() => return file(attempt, index).await,
        Err(error) => return Err(error.into()),
    };
    let (mine, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|dead| dead.permitted);
    if !others.is_empty() {
        let names: Vec<String> = others.iter().map(|dead| dead.table.to_string()).collect();
        let message = format!(
            "{} with dead rows belong to others, who alone may vacuum them: {}; `dbkeep grants --for maintenance` writes what allows it",
            counted(names.len(), "table", "tables"),
            listed(&names)
        );
        attempt.ledger.warn(Some(index), "VACUUM_NOT_PERMITTED", message).await?;
    }
    for dead in mine {
        if is_noted(attempt, index, &dead.table.to_string()) {
            continue;
        }
        if !one(attempt, index, Some(dead.table)).await? {
            return Ok(TaskEnd::OutOfTime);
        }
    }
    Ok(end_of(
        attempt,
        index,
        told(attempt, index, "table vacuumed", "tables vacuumed"),
    ))
}

async fn file(attempt: &mut Attempt, index: usize) -> Result<TaskEnd, Halt> {
    if !is_noted(attempt, index, TableSpace::WHOLE_FILE) && !one(attempt, index, None).await? {
        return Ok(TaskEnd::OutOfTime);
    }
    Ok(end_of(attempt, index, told(attempt, index, "file tidied", "files tidied")))
}

/// Vacuums a table, or the file; false where the time limit came first.
async fn one(attempt: &mut Attempt, index: usize, table: Option<TableName>) -> Result<bool, Halt> {
    attempt.boundary()?;
    if attempt.out_of_time() {
        return Ok(false);
    }
    let name = table.as_ref().map_or(TableSpace::WHOLE_FILE.to_owned(), ToString::to_string);
    begin_item(attempt, index, &name).await?;
    let limit = attempt.time_left();
    let acted = act_within(attempt, Some(limit), |target, watch| {
        Box::pin(async move {
            match table {
                Some(table) => target.maintenance().vacuum(&table, &watch).await,
                None => target.maintenance().vacuum_file(&watch).await,
            }
        })
    });
    match acted.await? {
        Acted::Ended(Ok(space)) => {
            warn_of_holders(attempt, Some(index), &space).await?;
            let item = MaintenanceItem {
                name,
                done: true,
                bytes_before: space.bytes_before,
                bytes_after: space.bytes_after,
                ..MaintenanceItem::default()
            };
            attempt.ledger.report.space.push(space);
            end_item(attempt, index, item).await?;
            Ok(true)
        }
        Acted::Ended(Err(error)) if is_lost(&error) => Err(error.into()),
        Acted::Ended(Err(error)) => {
            let why = format!("{name} was not vacuumed: {error}");
            fail_item(attempt, index, &name, "VACUUM_FAILED", why).await?;
            Ok(true)
        }
        Acted::OutOfTime => Ok(false),
    }
}

fn told(attempt: &Attempt, index: usize, one: &str, many: &str) -> String {
    let items = super::task(attempt, index).map_or(&[][..], |task| &task.items);
    let done: Vec<&MaintenanceItem> = items.iter().filter(|item| item.done).collect();
    if items.is_empty() {
        return "no table has dead rows that are worth it".to_owned();
    }
    let returned: u64 = done
        .iter()
        .map(|item| item.bytes_before.saturating_sub(item.bytes_after))
        .sum();
    format!("{}, {returned} bytes returned", counted(done.len(), one, many))
}
