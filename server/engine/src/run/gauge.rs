//! The gauge: measures how strained the target is while an attempt works, about once a second, in a task of its own.
//!
//! Where only one session writes at a time, a probe that ran beside a batch of the attempt would measure that batch. So batches
//! and probes take turns there ([`Gauge::turn`]); elsewhere, who waits for a batch's locks can only be seen while it is open.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    model::{Capability, RunId},
    port::{Pressure, Target},
};

/// Time between two measurements.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between the first ones, so that there is something to compare with soon.
const FIRST_INTERVAL: Duration = Duration::from_millis(100);
/// Number of those.
const FIRST: u32 = 5;
/// Longest wait for the first measurement; a run does not fail for want of one.
const PATIENCE: Duration = Duration::from_millis(500);

/// Measurements of a target, until dropped.
pub(super) struct Gauge {
    newest: watch::Receiver<Option<Pressure>>,
    turns: Option<Arc<Mutex<()>>>,
    _task: AbortOnDropHandle<()>,
}

impl Gauge {
    pub(super) fn start(target: Arc<dyn Target>, run: RunId) -> Self {
        let concurrent = target.capabilities().contains(&Capability::ConcurrentWriters);
        let turns = (!concurrent).then(|| Arc::new(Mutex::new(())));
        let (sender, newest) = watch::channel(None);
        let taking = turns.clone();
        let task = tokio::spawn(async move {
            let mut failing = false;
            for number in 0_u32.. {
                let turn = match &taking {
                    Some(turns) => Some(turns.lock().await),
                    None => None,
                };
                let measured = target.pressure().await;
                drop(turn);
                match measured {
                    Ok(pressure) => {
                        failing = false;
                        sender.send_replace(Some(pressure));
                    }
                    // What was measured last stays: a replica that could not be asked about has not caught up by that.
                    Err(error) if !failing => {
                        failing = true;
                        tracing::warn!(run = %run, %error, "the target's strain cannot be measured");
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(if number < FIRST { FIRST_INTERVAL } else { INTERVAL }).await;
            }
        });
        Self {
            newest,
            turns,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Waits for the first measurement, but not for ever.
    pub(super) async fn first(&mut self) {
        // Neither an end of the task nor of the time is an error here: the run works without.
        drop(tokio::time::timeout(PATIENCE, self.newest.wait_for(Option::is_some)).await);
        // Waiting for it is not taking it.
        self.newest.mark_changed();
    }

    /// The newest measurement, where it was not taken before.
    pub(super) fn take(&mut self) -> Option<Pressure> {
        if self.newest.has_changed().unwrap_or(false) {
            self.newest.borrow_and_update().clone()
        } else {
            None
        }
    }

    /// Waits for the next measurement.
    pub(super) async fn changed(&mut self) {
        if self.newest.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.newest.mark_changed();
    }

    /// Keeps probes away while the guard lives, where they would measure the batch.
    pub(super) async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        match &self.turns {
            Some(turns) => Some(Arc::clone(turns).lock_owned().await),
            None => None,
        }
    }
}
