//! An index that a statement left invalid: noted in the ledger before it is dropped, and told of when it is gone. It costs every write,
//! serves no query, and keeps another of its name from being made.

use std::sync::Arc;

use super::super::attempt::{Attempt, Halt};
use crate::{
    model::LedgerEntry,
    port::{MigratorError, Target},
};

/// Drops it; returns the ledger row as it is then. `step` is that of the run.
pub(super) async fn remove(
    attempt: &mut Attempt,
    target: &Arc<dyn Target>,
    step: Option<usize>,
    entry: &LedgerEntry,
    index: &str,
) -> Result<Result<LedgerEntry, MigratorError>, Halt> {
    let migrator = target.migrator();
    let noted = noted(entry, index);
    if noted.problem != entry.problem
        && let Err(error) = migrator.note(attempt.claim, &[(Some(entry.clone()), noted.clone())]).await
    {
        return Ok(Err(error));
    }
    if let Err(error) = migrator.drop_invalid_index(attempt.claim, index).await {
        return Ok(Err(error));
    }
    let text = format!("index {index}, which an earlier try left invalid, was dropped and is built again");
    attempt.ledger.warn(step, "INVALID_INDEX_DROPPED", text).await?;
    Ok(Ok(noted))
}

/// The row with a word about the index; once, however often that is tried.
fn noted(entry: &LedgerEntry, index: &str) -> LedgerEntry {
    let word = format!("index {index} was left invalid, and is dropped before the next try");
    let problem = match entry.problem.as_str() {
        "" => word,
        said if said.contains(&word) => said.to_owned(),
        said => format!("{said}; {word}"),
    };
    LedgerEntry {
        problem,
        ..entry.clone()
    }
}
