//! Runs that end are told of: the one place where a run's final state becomes a notice in the outbox, in the transaction that writes
//! that state. Whoever ends the run (its attempt, a person, the lapse of an approval), kill -9 between the end and the notice loses
//! neither. Called by `draft`.

use dbkeep_engine::model::{Run, notice::Notice};

use super::{failure::Failure, outbox, transaction::Tx};

/// Tells of a run that has ended, whoever is to hear of it. A dry run has changed nothing, and whoever asked for it has its answer.
pub(super) async fn announce(tx: &mut Tx<'_>, run: &Run) -> Result<(), Failure> {
    if run.options.dry_run {
        return Ok(());
    }
    let notice = Notice::of_run(run, None);
    let envelopes = tx.routing.envelopes(&notice, None);
    outbox::enqueue(tx, &envelopes).await?;
    Ok(())
}
