//! Task `reindex_bloated`: indexes that are mostly air are rebuilt beside themselves, while others read and write their tables. What a
//! rebuild that was cut short left behind is removed where it is this run's, and named where it is not.

use super::{TaskEnd, begin_item, counted, end_item, end_of, fail_item, is_lost, is_noted, listed, task, unsupported};
use crate::{
    failpoint,
    model::{BloatedIndex, IndexSurvey, MaintenanceItem, TableName},
    run::{
        attempt::{Attempt, Halt},
        lease::Stop,
        maintain::{Acted, act_within},
    },
};

pub(super) async fn rebuild(attempt: &mut Attempt, index: usize) -> Result<TaskEnd, Halt> {
    let limit = attempt.time_left();
    let surveyed = act_within(attempt, Some(limit), |target, watch| {
        Box::pin(async move { target.maintenance().survey_indexes(&watch).await })
    });
    let survey = match surveyed.await? {
        Acted::Ended(Ok(survey)) => survey,
        Acted::Ended(Err(error)) => {
            return match unsupported(&error) {
                Some(why) => Ok(TaskEnd::Skipped(why)),
                None => Err(error.into()),
            };
        }
        Acted::OutOfTime => return Ok(TaskEnd::OutOfTime),
    };
    warn_of(attempt, index, &survey).await?;
    let examined = survey.examined;
    for bloated in survey.bloated.into_iter().filter(|bloated| bloated.permitted) {
        let name = bloated.index.to_string();
        if is_noted(attempt, index, &name) {
            continue;
        }
        attempt.boundary()?;
        if attempt.out_of_time() {
            return Ok(TaskEnd::OutOfTime);
        }
        if !bloated.leftovers.is_empty() {
            // What a rebuild of ours leaves could not be told from these.
            let left: Vec<String> = bloated.leftovers.iter().map(ToString::to_string).collect();
            let why = format!(
                "{name} was not rebuilt: drop what an earlier rebuild left behind first: {}",
                listed(&left)
            );
            fail_item(attempt, index, &name, "REINDEX_FAILED", why).await?;
            continue;
        }
        if !one(attempt, index, bloated).await? {
            return Ok(TaskEnd::OutOfTime);
        }
    }
    let items = task(attempt, index).map_or(&[][..], |task| &task.items);
    let done: Vec<&MaintenanceItem> = items.iter().filter(|item| item.done).collect();
    let told = if items.is_empty() {
        format!(
            "{} looked at, none is mostly air",
            counted_u64(examined, "large index", "large indexes")
        )
    } else {
        let returned: u64 = done
            .iter()
            .map(|item| item.bytes_before.saturating_sub(item.bytes_after))
            .sum();
        let names: Vec<&str> = done.iter().map(|item| item.name.as_str()).collect();
        let rebuilt = counted(done.len(), "index rebuilt", "indexes rebuilt");
        if done.is_empty() {
            rebuilt
        } else {
            format!("{rebuilt}, {returned} bytes returned: {}", listed(&names))
        }
    };
    Ok(end_of(attempt, index, told))
}

/// What the survey found that nobody rebuilds here.
async fn warn_of(attempt: &mut Attempt, index: usize, survey: &IndexSurvey) -> Result<(), Halt> {
    for leftover in &survey.leftovers {
        let message = format!(
            "{leftover} is not valid and was left behind by a rebuild that was cut short, which was not this run's; \
             DROP INDEX CONCURRENTLY removes it"
        );
        attempt.ledger.warn(Some(index), "INDEX_LEFTOVER", message).await?;
    }
    if !survey.unknown.is_empty() {
        let names: Vec<String> = survey.unknown.iter().map(ToString::to_string).collect();
        let message = format!(
            "nothing can be said of {}, whose tables were never analyzed or may not be read: {}",
            counted(names.len(), "index", "indexes"),
            listed(&names)
        );
        attempt.ledger.warn(Some(index), "INDEX_UNKNOWN", message).await?;
    }
    let others: Vec<String> = survey
        .bloated
        .iter()
        .filter(|bloated| !bloated.permitted)
        .map(|bloated| bloated.index.to_string())
        .collect();
    if !others.is_empty() {
        let message = format!(
            "{} that are mostly air belong to others, who alone may rebuild them: {}; `dbkeep grants --for maintenance` writes what allows it",
            counted(others.len(), "index", "indexes"),
            listed(&others)
        );
        attempt.ledger.warn(Some(index), "REINDEX_NOT_PERMITTED", message).await?;
    }
    Ok(())
}

/// Rebuilds an index; false where the time limit came first.
async fn one(attempt: &mut Attempt, index: usize, bloated: BloatedIndex) -> Result<bool, Halt> {
    let name = bloated.index.to_string();
    tracing::info!(run = %attempt.run.id, index = name, bytes = bloated.bytes, bloat_percent = bloated.bloat_percent,
        found_by = bloated.found_by, "index is rebuilt");
    begin_item(attempt, index, &name).await?;
    let (limit, run, rebuilt) = (attempt.time_left(), attempt.run.id, bloated.index.clone());
    let acted = act_within(attempt, Some(limit), |target, watch| {
        Box::pin(async move { target.maintenance().reindex(run, &rebuilt, &watch).await })
    })
    .await;
    failpoint!("reindex-ended");
    // A process that slept past its lease finds its rebuild ended by the next attempt, whose own rebuild bears the same mark: to settle
    // would end that one.
    attempt.still_ours()?;
    match acted {
        Ok(Acted::Ended(Ok(space))) => {
            let item = MaintenanceItem {
                name,
                done: true,
                bytes_before: space.bytes_before,
                bytes_after: space.bytes_after,
                ..MaintenanceItem::default()
            };
            end_item(attempt, index, item).await?;
            Ok(true)
        }
        // The next attempt removes what is left, because the report names the index.
        Ok(Acted::Ended(Err(error))) if is_lost(&error) => Err(error.into()),
        Ok(Acted::Ended(Err(error))) => {
            settle(attempt, index, &name).await?;
            let why = format!(
                "{name} ({} bytes, {} % air by {}) was not rebuilt: {error}",
                bloated.bytes, bloated.bloat_percent, bloated.found_by
            );
            fail_item(attempt, index, &name, "REINDEX_FAILED", why).await?;
            Ok(true)
        }
        Ok(Acted::OutOfTime) => {
            settle(attempt, index, &name).await?;
            super::forget_current(attempt, index);
            Ok(false)
        }
        Err(halt) => {
            // Nobody may come after a run that was cancelled, and late after one that was paused.
            if matches!(halt, Halt::Stop(Stop::Cancelled(_) | Stop::Paused(_))) {
                settle(attempt, index, &name).await?;
                super::forget_current(attempt, index);
                attempt.ledger.keep().await?;
            }
            Err(halt)
        }
    }
}

/// Removes what a rebuild of this run left behind.
pub(super) async fn settle(attempt: &mut Attempt, index: usize, name: &str) -> Result<(), Halt> {
    let settled = attempt
        .target
        .maintenance()
        .settle_reindex(attempt.run.id, &TableName::parse(name))
        .await;
    match settled {
        Ok(removed) if removed.is_empty() => Ok(()),
        Ok(removed) => {
            let names: Vec<String> = removed.iter().map(ToString::to_string).collect();
            let message = format!(
                "removed what an unfinished rebuild of {name} by this run left behind: {}",
                listed(&names)
            );
            Ok(attempt.ledger.warn(Some(index), "INDEX_LEFTOVER_REMOVED", message).await?)
        }
        Err(error) if is_lost(&error) => Err(error.into()),
        Err(error) => {
            let message = format!("an unfinished rebuild of {name} may have left an invalid index behind: {error}");
            Ok(attempt.ledger.warn(Some(index), "INDEX_LEFTOVER", message).await?)
        }
    }
}

fn counted_u64(count: u64, one: &str, many: &str) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), one, many)
}
