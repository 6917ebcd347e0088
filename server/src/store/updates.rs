//! What attempts and people change about a run that was accepted.

use dbkeep_engine::{
    model::{Event, Run, RunId, RunState, Verification},
    port::{SourceMark, StoreError, Update},
};

use super::{
    draft::Draft,
    failure::{Failure, corrupt},
    rows,
    transaction::{Act, Tx},
};

/// Writes what an attempt did.
pub(super) struct Apply {
    run: RunId,
    fence: u64,
    update: Update,
}

impl Apply {
    pub(super) fn new(run: RunId, fence: u64, update: &Update) -> Self {
        Self {
            run,
            fence,
            update: update.clone(),
        }
    }

    /// Says in the source's row what this run means for it.
    async fn mark(&self, tx: &mut Tx<'_>, run: &Run, mark: SourceMark) -> Result<(), Failure> {
        let source = run
            .source
            .ok_or_else(|| corrupt(format!("run {} has no source that it could mark", run.id)))?;
        let verification = match mark {
            SourceMark::Undone => {
                let query = sqlx::query("UPDATE runs SET undone_by = $2 WHERE id = $1")
                    .bind(source.to_string())
                    .bind(run.id.to_string());
                query.execute(&mut *tx.connection).await?;
                return Ok(());
            }
            SourceMark::Verified => Verification::Verified(rows::now()),
            SourceMark::Damaged => Verification::Damaged(rows::now()),
        };
        verify(tx, source, verification).await
    }

    /// Says in the row of a backup what was found of it.
    async fn found(&self, tx: &mut Tx<'_>, backup: RunId, mark: SourceMark) -> Result<(), Failure> {
        let verification = match mark {
            SourceMark::Undone => return Err(corrupt(format!("run {} proves {backup} and does not undo it", self.run)).into()),
            SourceMark::Verified => Verification::Verified(rows::now()),
            SourceMark::Damaged => Verification::Damaged(rows::now()),
        };
        verify(tx, backup, verification).await
    }
}

/// Nothing is said of a backup that was pruned: its files may have gone while they were read.
async fn verify(tx: &mut Tx<'_>, backup: RunId, verification: Verification) -> Result<(), Failure> {
    let (name, at_ms) = rows::verification_columns(verification);
    sqlx::query("UPDATE runs SET verification = $2, verified_ms = $3 WHERE id = $1 AND pruned_ms IS NULL")
        .bind(backup.to_string())
        .bind(name)
        .bind(at_ms)
        .execute(&mut *tx.connection)
        .await?;
    Ok(())
}

impl Act for Apply {
    type Output = Vec<Event>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Vec<Event>, Failure> {
        let mut draft = Draft::lock(tx, self.run).await?.ok_or(StoreError::Fenced)?;
        if !draft.is_held_under(self.fence) {
            return Err(Failure::Store(StoreError::Fenced));
        }
        for body in &self.update.events {
            draft.note(tx, body.clone()).await?;
        }
        if let Some(report) = &self.update.report {
            draft.set_report(report.clone());
        }
        if let Some((state, reason)) = &self.update.state {
            draft.enter(tx, *state, reason).await?;
        }
        if let Some(mark) = self.update.source_mark {
            self.mark(tx, &draft.run, mark).await?;
        }
        for (backup, mark) in &self.update.proofs {
            self.found(tx, *backup, *mark).await?;
        }
        Ok(draft.save(tx).await?.1)
    }
}

/// Records that somebody asked to cancel.
pub(super) struct Cancel {
    run: RunId,
    reason: String,
}

impl Cancel {
    pub(super) fn new(run: RunId, reason: &str) -> Self {
        Self {
            run,
            reason: rows::text(reason),
        }
    }
}

impl Act for Cancel {
    type Output = Option<Run>;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<Option<Run>, Failure> {
        let Some(mut draft) = Draft::lock(tx, self.run).await? else {
            return Ok(None);
        };
        let to = match draft.run.state {
            // Nothing is in flight, so that there is no boundary to wait for.
            RunState::Queued | RunState::Paused => RunState::Cancelled,
            RunState::Interrupted => {
                // Its last COMMIT may have taken effect unheard: the next attempt reads what it did, then ends it.
                draft.run.cancel_reason = Some(self.reason.clone());
                return Ok(Some(draft.save(tx).await?.0));
            }
            RunState::Running | RunState::Pausing => RunState::Cancelling,
            // Asked already, or too late.
            _ => return Ok(Some(draft.run)),
        };
        draft.run.cancel_reason = Some(self.reason.clone());
        draft.run.pause_reason = None;
        if to.is_final() {
            draft.close(to, &self.reason);
        }
        draft.enter(tx, to, &self.reason).await?;
        Ok(Some(draft.save(tx).await?.0))
    }
}
