//! The removal of backups: decided only while nobody needs the backup, in the order of acceptances, so that no run about it can be
//! accepted in between.

use dbkeep_engine::{
    backup::keep::{Need, is_being_proven, last_proof, need},
    model::{Run, RunId},
    port::{PruneBegun, StoreError},
};
use sqlx::AssertSqlSafe;

use super::{
    draft::Draft,
    failure::Failure,
    rows,
    transaction::{Act, Tx},
};

/// Decides that a backup goes.
pub(super) struct Begin {
    pub(super) run: RunId,
    /// The newest proven one of its kind, which is to stay.
    pub(super) keeper: Option<RunId>,
}

impl Begin {
    /// Why the backup stays. Every row that this looks at is locked until the decision is written.
    async fn kept(&self, tx: &mut Tx<'_>, run: &Run) -> Result<Option<String>, Failure> {
        let about = runs(tx, "source_id = $1", &run.id.to_string()).await?;
        if let Need::Kept(why) = need(run, &about) {
            return Ok(Some(why));
        }
        let keeper = match self.keeper {
            Some(keeper) => Draft::lock(tx, keeper).await?.map(|draft| draft.run),
            None => None,
        };
        if let Some(why) = last_proof(run, keeper.as_ref()) {
            return Ok(Some(why));
        }
        let living =
            "kind = 'maintain' AND state NOT IN ('succeeded', 'partially_succeeded', 'failed', 'cancelled') AND target = $1";
        let maintenance = runs(tx, living, &rows::text(&run.target)).await?;
        let proving = maintenance.iter().find(|other| is_being_proven(other, run.id));
        Ok(proving.map(|other| format!("run {} is proving it", other.id)))
    }
}

/// Locks runs by a condition; newest first.
async fn runs(tx: &mut Tx<'_>, condition: &str, value: &str) -> Result<Vec<Run>, Failure> {
    let sql = format!(
        "{} WHERE {condition} ORDER BY id DESC {}",
        rows::select_run(),
        tx.dialect.lock_row()
    );
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(value)
        .fetch_all(&mut *tx.connection)
        .await?;
    let found = found.iter().map(|row| Ok(rows::stored_run(row)?.run));
    found.collect::<Result<_, StoreError>>().map_err(Failure::Store)
}

impl Act for Begin {
    type Output = PruneBegun;

    async fn perform(&self, tx: &mut Tx<'_>) -> Result<PruneBegun, Failure> {
        if let Some(lock) = tx.dialect.lock_acceptance() {
            sqlx::query(lock).execute(&mut *tx.connection).await?;
        }
        let Some(draft) = Draft::lock(tx, self.run).await? else {
            return Ok(PruneBegun::Kept("its run is gone from the store".to_owned()));
        };
        if draft.run.pruned.is_some() {
            return Ok(PruneBegun::Begun);
        }
        if let Some(why) = self.kept(tx, &draft.run).await? {
            return Ok(PruneBegun::Kept(why));
        }
        sqlx::query("UPDATE runs SET pruned_ms = $2 WHERE id = $1 AND pruned_ms IS NULL")
            .bind(self.run.to_string())
            .bind(rows::now().as_millisecond())
            .execute(&mut *tx.connection)
            .await?;
        Ok(PruneBegun::Begun)
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
