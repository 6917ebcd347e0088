//! The target's lease for migrations, prolonged by a task of its own until dropped.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::port::{Claim, MigratorError, Target, TargetErrorClass};

/// Length of the lease. A server that dies lets others wait for no longer than this.
const TERM: Duration = Duration::from_secs(30);

/// One attempt's hold on the migrations of a database.
pub(super) struct Hold {
    target: Arc<dyn Target>,
    claim: Claim,
    lost: CancellationToken,
    _keeper: tokio_util::task::AbortOnDropHandle<()>,
}

impl Hold {
    /// Takes the lease.
    pub(super) async fn take(target: &Arc<dyn Target>, claim: Claim, holder: &str) -> Result<Self, MigratorError> {
        target.migrator().lease(claim, holder, TERM).await?;
        let lost = CancellationToken::new();
        let (keeping, gone, name) = (Arc::clone(target), lost.clone(), holder.to_owned());
        let keeper = tokio::spawn(async move {
            loop {
                tokio::time::sleep(TERM / 3).await;
                match keeping.migrator().lease(claim, &name, TERM).await {
                    Ok(()) => {}
                    Err(MigratorError::LeaseHeld { .. }) => return gone.cancel(),
                    Err(MigratorError::Target(error)) if error.class == TargetErrorClass::Fenced => return gone.cancel(),
                    // Every group checks the lease in its own transaction; on SQLite one that is at work keeps this from writing.
                    Err(error) => tracing::debug!(run = %claim.run, %error, "migration lease not prolonged"),
                }
            }
        });
        Ok(Self {
            target: Arc::clone(target),
            claim,
            lost,
            _keeper: tokio_util::task::AbortOnDropHandle::new(keeper),
        })
    }

    /// Cancelled when somebody else has the lease.
    pub(super) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives the lease back. Where that fails it lapses by itself.
    pub(super) async fn release(self) {
        if let Err(error) = self.target.migrator().unlease(self.claim).await {
            tracing::debug!(run = %self.claim.run, %error, "migration lease not given back");
        }
    }
}
