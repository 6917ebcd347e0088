//! The pace of an attempt: brings limits, measurements and batch times to the [`Throttle`], its reasons to the log, and rests.

use std::time::Duration;

use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::{
    attempt::{Attempt, Halt},
    gauge::Gauge,
    throttle::Throttle,
};
use crate::model::{Run, RunLimits, Throttle as Shown};

/// How often a run that is held looks whether it still is, where nothing tells it.
const HOLD_INTERVAL: Duration = Duration::from_secs(1);

/// What slows an attempt, and how.
pub(super) struct Pace {
    throttle: Throttle,
    gauge: Gauge,
    /// Whether the first measurement was waited for.
    measured: bool,
    /// When the newest batch ended.
    since: Instant,
}

impl Pace {
    pub(super) fn of(run: &Run, gauge: Gauge) -> Self {
        let lag = run.options.max_replica_lag_seconds.map(u64::from).map(Duration::from_secs);
        Self {
            throttle: Throttle::new(run.limits, lag),
            gauge,
            measured: false,
            since: Instant::now(),
        }
    }

    /// Rows of the next batch.
    pub(super) fn rows(&self) -> u32 {
        self.throttle.rows()
    }

    /// Rows to list at a time.
    pub(super) fn window_rows(&self) -> u32 {
        self.throttle.window_rows()
    }

    /// Whether whoever asked owns the database for this time.
    pub(super) fn is_full_speed(&self) -> bool {
        self.throttle.limits().is_full_speed()
    }

    /// Says whether the batches from now on rest within themselves.
    pub(super) fn set_rests_within(&mut self, rests: bool) {
        self.throttle.set_rests_within(rests);
    }

    /// Takes limits that are in effect from now on.
    pub(super) fn set_limits(&mut self, limits: RunLimits) {
        self.throttle.set_limits(limits);
    }

    /// Notes a batch that has just ended.
    pub(super) fn after_batch(&mut self, affected: u64, took: Duration) {
        self.since = Instant::now();
        self.throttle.after_batch(affected, took);
    }

    /// The same for one that spent `price` on what takes as long for any number of rows.
    pub(super) fn after_batch_at_a_price(&mut self, affected: u64, took: Duration, price: Duration) {
        self.since = Instant::now();
        self.throttle.after_batch_at_a_price(affected, took, price);
    }

    /// Notes a batch of so many rows that ran into time limits.
    pub(super) fn timed_out(&mut self, rows: usize) {
        self.throttle.timed_out(rows);
    }

    /// What slows the run most.
    pub(super) fn shown(&self) -> Option<Shown> {
        self.throttle.shown()
    }

    /// To be held during a batch.
    pub(super) async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        self.gauge.turn().await
    }
}

impl Attempt {
    /// Brings limits and measurements up to date, and says in the log what changed by that.
    pub(super) async fn look_around(&mut self) -> Result<(), Halt> {
        self.pace.set_limits(self.lease.limits());
        if let Some(pressure) = self.pace.gauge.take() {
            self.pace.throttle.observe(&pressure);
        }
        let changes = self.pace.throttle.changes();
        if !changes.is_empty() {
            self.ledger.throttled(changes).await?;
        }
        Ok(())
    }

    /// Rests as the throttle says, at most until the run's time is over. False where the run was held for `patience`, and still
    /// is: the caller lets go of what others should not wait for, and rests on. Ends early where the attempt has to end, and
    /// follows limits that change meanwhile.
    pub(super) async fn rest(&mut self, patience: Option<Duration>) -> Result<bool, Halt> {
        if !self.pace.measured {
            self.pace.measured = true;
            self.pace.gauge.first().await;
        }
        let began = Instant::now();
        loop {
            self.boundary()?;
            self.look_around().await?;
            let holds = self.pace.throttle.holds();
            let wait = if holds {
                if patience.is_some_and(|patience| began.elapsed() >= patience) {
                    return Ok(false);
                }
                HOLD_INTERVAL
            } else {
                self.pace.throttle.rest().saturating_sub(self.pace.since.elapsed())
            };
            let left = self.time_left();
            if wait.is_zero() || left.is_zero() {
                return Ok(true);
            }
            tokio::select! {
                stop = self.lease.stopped() => return Err(stop.into()),
                () = self.lease.limits_changed(self.pace.throttle.limits()) => {}
                () = self.pace.gauge.changed() => {}
                () = tokio::time::sleep(wait.min(left)) => {}
            }
        }
    }
}
