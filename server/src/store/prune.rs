//! The removal of backups: decided only while nobody needs the backup, in the order of acceptances, so that no run about it can be
//! accepted in between.

use dbkeep_engine::{model::RunId, port::StoreError};

use super::{
    draft::Draft,
    failure::Failure,
    rows,
    transaction::{Act, Tx},
};

/// Decides that a backup goes.
pub(super) struct Begin {
    pub(super) run: RunId,
}

impl Act for Begin {
    type Output = bool;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<bool, Failure> {
        if let Some(lock) = tx.dialect.lock_acceptance() {
            sqlx::query(lock).execute(&mut *tx.connection).await?;
        }
        let Some(draft) = Draft::lock(tx, self.run).await? else {
            return Ok(false);
        };
        if !draft.run.state.is_final() {
            return Ok(false);
        }
        let about = sqlx::query(
            "SELECT 1 FROM runs WHERE source_id = $1 AND state NOT IN ('succeeded', 'partially_succeeded', 'failed', 'cancelled') LIMIT 1",
        )
        .bind(self.run.to_string())
        .fetch_all(&mut *tx.connection)
        .await?;
        if !about.is_empty() {
            return Ok(false);
        }
        sqlx::query("UPDATE runs SET pruned_ms = $2 WHERE id = $1 AND pruned_ms IS NULL")
            .bind(self.run.to_string())
            .bind(rows::now().as_millisecond())
            .execute(&mut *tx.connection)
            .await?;
        Ok(true)
    }
}

/// Notes that nothing of a backup is left.
pub(super) struct End {
    pub(super) run: RunId,
}

impl Act for End {
    type Output = ();

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<(), Failure> {
        let done = sqlx::query("UPDATE runs SET prune_complete = 1 WHERE id = $1 AND pruned_ms IS NOT NULL")
            .bind(self.run.to_string())
            .execute(&mut *tx.connection)
            .await?;
        if done.rows_affected() == 1 {
            return Ok(());
        }
        Err(Failure::Store(StoreError::Corrupt(format!(
            "run {} was never to be pruned",
            self.run
        ))))
    }
}
