//! The lease: a time-bounded right to advance a run, and the reasons to stop at the next boundary.
//!
//! ```text
//!   renewed           trusted until              lapses
//!     |------------------- 2/3 --------------------|---- 1/3 ----|
//!     the attempt works here                        nobody works  another server may claim
//! ```
//!
//! The holder measures from the moment before it *sent* the renewal, on its own monotonic clock; the store measures from when
//! it wrote it, on its own clock. Both only have to run at about the same speed for the gap of a third to keep them apart. A process that was
//! stopped and wakes after its lease is caught by the fence, which every batch checks inside its own transaction.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    model::{RunId, RunLimits},
    port::{Renewal, Store, StoreError},
};

/// Longest time between two renewals. They bring what was asked by way of another server, which has to take effect within a
/// second together with the batch in flight; requests by way of this server come at once.
const CONTROL_INTERVAL: Duration = Duration::from_millis(500);

/// Why an attempt ends at the next boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody asked, with this reason.
    Cancelled(String),
    /// Somebody asked to pause, with this reason.
    Paused(String),
    /// The server is going down; the run is handed back.
    Shutdown,
    /// The lease is not trusted any more.
    LeaseLost,
}

/// An attempt's hold on its run, kept alive by a task of its own until dropped.
pub(super) struct Lease {
    trusted_until: watch::Receiver<Instant>,
    /// What the newest renewal brought.
    orders: watch::Receiver<Renewal>,
    fenced: CancellationToken,
    shutdown: CancellationToken,
    /// Ends the keeper.
    _keeper: tokio_util::task::AbortOnDropHandle<()>,
}

impl Lease {
    /// Begins to renew. `granted` is the moment before the claim was sent, `limits` are those of the granted run.
    #[expect(clippy::too_many_arguments, reason = "what a lease depends on has no other common owner")]
    pub(super) fn keep(
        store: Arc<dyn Store>,
        run: RunId,
        fence: u64,
        term: Duration,
        granted: Instant,
        limits: RunLimits,
        shutdown: CancellationToken,
        wake: Arc<tokio::sync::Notify>,
    ) -> Self {
        let trust = term * 2 / 3;
        let (trusted_sender, trusted_until) = watch::channel(granted + trust);
        let (order_sender, orders) = watch::channel(Renewal {
            cancel_reason: None,
            pause_reason: None,
            limits,
        });
        let fenced = CancellationToken::new();
        let lost = fenced.clone();
        let keeper = tokio::spawn(async move {
            // The first renewal comes at once: it brings a request that was made before the claim.
            loop {
                let sent = Instant::now();
                match store.renew(run, fence, term).await {
                    Ok(renewal) => {
                        trusted_sender.send_replace(sent + trust);
                        order_sender.send_if_modified(|orders| {
                            let changed = *orders != renewal;
                            *orders = renewal;
                            changed
                        });
                    }
                    Err(StoreError::Fenced) => return lost.cancel(),
                    // The trust runs out by itself where the store stays away.
                    Err(error) => tracing::warn!(run = %run, %error, "lease not renewed"),
                }
                tokio::select! {
                    () = tokio::time::sleep((term / 6).min(CONTROL_INTERVAL)) => {}
                    () = wake.notified() => {}
                }
            }
        });
        Self {
            trusted_until,
            orders,
            fenced,
            shutdown,
            _keeper: tokio_util::task::AbortOnDropHandle::new(keeper),
        }
    }

    /// Called at every batch boundary.
    pub(super) fn check(&self) -> Result<(), Stop> {
        if self.fenced.is_cancelled() || Instant::now() >= *self.trusted_until.borrow() {
            return Err(Stop::LeaseLost);
        }
        {
            let orders = self.orders.borrow();
            if let Some(reason) = &orders.cancel_reason {
                return Err(Stop::Cancelled(reason.clone()));
            }
            if let Some(reason) = &orders.pause_reason {
                return Err(Stop::Paused(reason.clone()));
            }
        }
        if self.shutdown.is_cancelled() {
            return Err(Stop::Shutdown);
        }
        Ok(())
    }

    /// Waits until [`Lease::check`] would end the attempt.
    pub(super) async fn stopped(&self) -> Stop {
        let mut orders = self.orders.clone();
        let mut trusted = self.trusted_until.clone();
        loop {
            if let Err(stop) = self.check() {
                return stop;
            }
            let until = *trusted.borrow_and_update();
            // Seen by the check, as far as it came before; what comes after it wakes this.
            orders.mark_unchanged();
            if let Err(stop) = self.check() {
                return stop;
            }
            tokio::select! {
                () = self.fenced.cancelled() => {}
                () = self.shutdown.cancelled() => {}
                () = tokio::time::sleep_until(until) => {}
                Ok(()) = orders.changed() => {}
                Ok(()) = trusted.changed() => {}
            }
        }
    }

    /// Limits in effect.
    pub(super) fn limits(&self) -> RunLimits {
        self.orders.borrow().limits
    }

    /// Waits until the limits in effect are others than these.
    pub(super) async fn limits_changed(&self, from: RunLimits) {
        let mut orders = self.orders.clone();
        if orders.wait_for(|orders| orders.limits != from).await.is_err() {
            // The keeper has ended, and the lease with it: `stopped` tells.
            std::future::pending::<()>().await;
        }
    }

    /// Rests, or returns early where the attempt has to end.
    pub(super) async fn rest(&self, time: Duration) -> Result<(), Stop> {
        tokio::select! {
            stop = self.stopped() => Err(stop),
            () = tokio::time::sleep(time) => self.check(),
        }
    }
}
