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
    model::RunId,
    port::{Store, StoreError},
};

/// Why an attempt ends at the next boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody asked, with this reason.
    Cancelled(String),
    /// The server is going down; the run is handed back.
    Shutdown,
    /// The lease is not trusted any more.
    LeaseLost,
}

/// An attempt's hold on its run, kept alive by a task of its own until dropped.
pub(super) struct Lease {
    trusted_until: watch::Receiver<Instant>,
    cancel: watch::Receiver<Option<String>>,
    fenced: CancellationToken,
    shutdown: CancellationToken,
    /// Ends the keeper.
    _keeper: tokio_util::task::AbortOnDropHandle<()>,
}

impl Lease {
    /// Begins to renew. `granted` is the moment before the claim was sent.
    pub(super) fn keep(
        store: Arc<dyn Store>,
        run: RunId,
        fence: u64,
        term: Duration,
        granted: Instant,
        shutdown: CancellationToken,
        wake: Arc<tokio::sync::Notify>,
    ) -> Self {
        let trust = term * 2 / 3;
        let (trusted_sender, trusted_until) = watch::channel(granted + trust);
        let (cancel_sender, cancel) = watch::channel(None);
        let fenced = CancellationToken::new();
        let lost = fenced.clone();
        let keeper = tokio::spawn(async move {
            // The first renewal comes at once: it brings a cancel request that was made before the claim.
            loop {
                let sent = Instant::now();
                match store.renew(run, fence, term).await {
                    Ok(renewal) => {
                        trusted_sender.send_replace(sent + trust);
                        if renewal.cancel_reason.is_some() {
                            cancel_sender.send_replace(renewal.cancel_reason);
                        }
                    }
                    Err(StoreError::Fenced) => return lost.cancel(),
                    // The trust runs out by itself where the store stays away.
                    Err(error) => tracing::warn!(run = %run, %error, "lease not renewed"),
                }
                tokio::select! {
                    () = tokio::time::sleep(term / 6) => {}
                    () = wake.notified() => {}
                }
            }
        });
        Self {
            trusted_until,
            cancel,
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
        if let Some(reason) = self.cancel.borrow().as_ref() {
            return Err(Stop::Cancelled(reason.clone()));
        }
        if self.shutdown.is_cancelled() {
            return Err(Stop::Shutdown);
        }
        Ok(())
    }

    /// Waits until [`Lease::check`] would end the attempt.
    pub(super) async fn stopped(&self) -> Stop {
        let mut cancel = self.cancel.clone();
        let mut trusted = self.trusted_until.clone();
        loop {
            if let Err(stop) = self.check() {
                return stop;
            }
            let until = *trusted.borrow_and_update();
            tokio::select! {
                () = self.fenced.cancelled() => {}
                () = self.shutdown.cancelled() => {}
                () = tokio::time::sleep_until(until) => {}
                Ok(()) = cancel.changed() => {}
                Ok(()) = trusted.changed() => {}
            }
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
