//! The throttle: how large batches are and how long a run rests between them, so that whoever else works on the database does
//! not feel it. Decides and measures nothing: batch times, limits and [`Pressure`] come in, rows, rests and reasons go out.
//!
//! By default a run rests as long as each batch took, and works in short bursts: two batches in a row over 10 ms make the next ones
//! smaller, down to a quarter of their full size, which takes as long in all and is felt less, unless they rest within themselves
//! (docs/BENCHMARKS.md). What adapts beyond
//! that does so only where something shows strain:
//!
//! | reason | begins | ends | does |
//! |---|---|---|---|
//! | `DUTY_CYCLE` | duty cycle below 100 % | at 100 % | rests in proportion to each batch's time |
//! | `ROWS_PER_SECOND` | the limit asks for a longer rest | it does not | rests until the average is kept |
//! | `BATCH_TIME` | two batches in a row over 200 ms (1 s at full speed) | the size is back | makes batches smaller |
//! | `TIMEOUTS` | a batch ran into time limits | the size is back | halves batches |
//! | `REPLICA_LAG` | a replica is over the limit, stopped, or gone since less than ten minutes | it is under half of the limit | holds the run |
//! | `LOCK_WAITERS` | others wait for its locks | nobody does | halves batches, doubles rests |
//! | `PROBE_LATENCY` | median of 3 probes over 5 times the usual, and 20 ms over it | under half of that | rests 4 times as long |
//! | `WAL_SIZE` | over 256 MiB | under 128 MiB | rests 4 times as long |
//!
//! Full speed means that whoever asked owns the database for that time: nothing but a limit that was set explicitly (rows a
//! second, `max_replica_lag`) slows the run then, and batches that take over a second are made smaller so that it can be steered.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::as_f64;
use tokio::time::Instant;

use crate::{
    model::{RunLimits, Slowdown, Throttle as Shown},
    port::{Pressure, Replica},
};

/// Longest time that a batch is meant to take.
const BATCH_TIME: Duration = Duration::from_millis(200);
/// Time that a batch should take where others share the processors: what a burst of work piles up before them is gone in about the
/// same time again. Batches are not made smaller than a part of their full size for it, or their fixed costs would outweigh the rows.
const BURST_TIME: Duration = Duration::from_millis(10);
/// That part.
const BURST_PART: u32 = 4;
/// The same at full speed: a run is steered at batch boundaries.
const BATCH_TIME_FULL_SPEED: Duration = Duration::from_secs(1);
/// Batches over that time in a row that make the next ones smaller: one of them may be an accident of the disk.
const SLOW_BATCHES: u32 = 2;
/// Batches grow back by this part of their full size at a time.
const GROWTH: u32 = 16;
/// Lag from which on a run waits, where none was set.
const REPLICA_LAG: Duration = Duration::from_secs(10);
/// Log kept for a replica from which on it counts as lagging, bytes.
const RETAINED_BYTES: u64 = 1 << 30;
/// How long a replica that has streamed and does so no longer holds a run: without a slot nothing tells one that is stopped from one that
/// was taken away for good.
const REPLICA_GONE: Duration = Duration::from_mins(10);
/// Write-ahead log of SQLite from which on rests are longer, bytes.
const WAL_BYTES: u64 = 256 << 20;
/// A probe counts as slow from this multiple of its usual time on.
const PROBE_FACTOR: u32 = 5;
/// And from so much more than its usual time on: twice as long as nothing is nothing.
const PROBE_MARGIN: Duration = Duration::from_millis(20);
/// Probes that the usual time is taken from.
const PROBES: usize = 60;
/// Probes that are needed before there is a usual time.
const FIRST_PROBES: usize = 5;
/// Newest probes whose median is compared.
const NEWEST_PROBES: usize = 3;

/// Why a run is slower than it could be; the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    ReplicaLag,
    LockWaiters,
    ProbeLatency,
    WalSize,
    RowsPerSecond,
    Timeouts,
    BatchTime,
    DutyCycle,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::ReplicaLag => "REPLICA_LAG",
            Self::LockWaiters => "LOCK_WAITERS",
            Self::ProbeLatency => "PROBE_LATENCY",
            Self::WalSize => "WAL_SIZE",
            Self::RowsPerSecond => "ROWS_PER_SECOND",
            Self::Timeouts => "TIMEOUTS",
            Self::BatchTime => "BATCH_TIME",
            Self::DutyCycle => "DUTY_CYCLE",
        }
    }
}

/// A finished batch.
#[derive(Debug, Clone, Copy)]
struct Batch {
    affected: u64,
    took: Duration,
}

/// The throttle of one attempt.
#[derive(Debug)]
pub(super) struct Throttle {
    limits: RunLimits,
    /// Limit for replicas that was set explicitly.
    lag_limit: Option<Duration>,
    /// Rows of a batch now, at most the limits'.
    rows: u32,
    slow_batches: u32,
    /// Whether batches rest within themselves, so that none is a burst.
    rests_within: bool,
    last: Option<Batch>,
    probes: VecDeque<Duration>,
    /// Replicas that have streamed, with their place among those of the same name, and when they were seen last.
    streaming: BTreeMap<(String, usize), Instant>,
    /// What slows the run: measured value and threshold.
    active: BTreeMap<Reason, (String, String)>,
    changes: Vec<Slowdown>,
}

impl Throttle {
    pub(super) fn new(limits: RunLimits, lag_limit: Option<Duration>) -> Self {
        let mut throttle = Self {
            limits,
            lag_limit,
            rows: 0,
            slow_batches: 0,
            rests_within: false,
            last: None,
            probes: VecDeque::new(),
            streaming: BTreeMap::new(),
            active: BTreeMap::new(),
            changes: Vec::new(),
        };
        throttle.rows = throttle.ceiling();
        throttle
    }

    /// Most rows of a batch. With a limit of rows a second never more than a second's worth, so that an average is not kept by
    /// bursts and long silence.
    fn ceiling(&self) -> u32 {
        match self.limits.max_rows_per_second {
            0 => self.limits.batch_rows,
            rate => self.limits.batch_rows.min(rate),
        }
    }

    /// How long a batch of this size may take, and the smallest size that it is made for that. One that is `dear` pays more for what
    /// does not hang on its size, and would pay it more often in short bursts.
    fn aim(&self, rows: u32, dear: bool) -> (Duration, u32) {
        let part = (self.ceiling() / BURST_PART).max(1);
        if self.limits.is_full_speed() {
            (BATCH_TIME_FULL_SPEED, 1)
        } else if rows > part && !dear && !self.rests_within {
            (BURST_TIME, part)
        } else {
            (BATCH_TIME, 1)
        }
    }

    /// The next larger size; the part of [`BURST_PART`] is not jumped over, since other times hold beyond it.
    fn more(&self) -> u32 {
        let part = (self.ceiling() / BURST_PART).max(1);
        let end = if self.rows < part { part } else { self.ceiling() };
        self.rows.saturating_add((self.ceiling() / GROWTH).max(1)).min(end)
    }

    /// Says whether the batches from now on rest within themselves.
    pub(super) fn set_rests_within(&mut self, rests: bool) {
        self.rests_within = rests;
    }

    /// Limits in effect.
    pub(super) fn limits(&self) -> RunLimits {
        self.limits
    }

    /// Takes other limits.
    pub(super) fn set_limits(&mut self, limits: RunLimits) {
        if limits == self.limits {
            return;
        }
        let was_full = self.rows == self.ceiling();
        self.limits = limits;
        let ceiling = self.ceiling();
        self.rows = if was_full { ceiling } else { self.rows.min(ceiling) };
        self.slow_batches = 0;
        if limits.is_full_speed() {
            for reason in [Reason::DutyCycle, Reason::LockWaiters, Reason::ProbeLatency, Reason::WalSize] {
                self.set(reason, None);
            }
            if self.lag_limit.is_none() {
                self.set(Reason::ReplicaLag, None);
            }
        }
        self.size_is_back();
    }

    /// Rows of the next batch.
    pub(super) fn rows(&self) -> u32 {
        if self.active.contains_key(&Reason::LockWaiters) {
            (self.rows / 2).max(1)
        } else {
            self.rows
        }
    }

    /// Rows to list at a time: the smallest part that a batch shrinks to by itself, so that a full window is no longer burst than
    /// a batch; at full speed a whole batch.
    pub(super) fn window_rows(&self) -> u32 {
        if self.limits.is_full_speed() {
            self.rows()
        } else {
            (self.ceiling() / BURST_PART).clamp(1, self.rows())
        }
    }

    /// Notes a batch.
    pub(super) fn after_batch(&mut self, affected: u64, took: Duration) {
        self.after_batch_at_a_price(affected, took, Duration::ZERO);
    }

    /// Notes a batch that spent `price` of its time on what takes as long for any number of rows. The size does not follow that part:
    /// smaller batches would only pay it more often.
    pub(super) fn after_batch_at_a_price(&mut self, affected: u64, took: Duration, price: Duration) {
        self.last = Some(Batch { affected, took });
        let scaling = took.saturating_sub(price);
        let (longest, least) = self.aim(self.rows, price > scaling);
        let more = self.more();
        if scaling > longest {
            self.slow_batches += 1;
            if self.slow_batches >= SLOW_BATCHES && self.rows > least {
                let share = (longest.as_secs_f64() / scaling.as_secs_f64()).max(0.25);
                self.rows = scaled(self.rows, share).max(least);
                self.slow_batches = 0;
                if longest > BURST_TIME {
                    let value = format!("{} ms; batches of {} rows from now on", scaling.as_millis(), self.rows);
                    self.set(Reason::BatchTime, Some((value, format!("{} ms", longest.as_millis()))));
                }
            }
        } else {
            self.slow_batches = 0;
            if scaling < self.aim(more, price > scaling).0 / 2 && self.rows < self.ceiling() {
                self.rows = more;
                self.size_is_back();
            }
        }
        if !self.limits.is_full_speed() {
            let duty = format!("{} %", self.limits.duty_cycle_percent);
            self.set(Reason::DutyCycle, Some((format!("{} ms", took.as_millis()), duty)));
        }
        let rate = self.limits.max_rows_per_second;
        let binds = rate > 0 && self.rest_for_rate() > self.rest_for_duty();
        self.set(
            Reason::RowsPerSecond,
            binds.then(|| {
                (
                    format!("{affected} rows in {} ms", took.as_millis()),
                    format!("{rate} rows/s"),
                )
            }),
        );
    }

    /// Notes that a batch of so many rows ran into time limits; the next is half as large.
    pub(super) fn timed_out(&mut self, rows: usize) {
        let half = u32::try_from(rows / 2).unwrap_or(u32::MAX).max(1);
        self.rows = self.rows.min(half);
        let value = format!("a batch of {rows} rows; batches of {} rows from now on", self.rows);
        self.set(Reason::Timeouts, Some((value, "0 timeouts".to_owned())));
    }

    /// Takes a measurement.
    pub(super) fn observe(&mut self, pressure: &Pressure) {
        self.observe_replicas(pressure.replicas.as_deref().unwrap_or_default());
        if let Some(probe) = pressure.probe {
            self.probes.push_back(probe);
            if self.probes.len() > PROBES {
                self.probes.pop_front();
            }
        }
        // Measured at full speed too: the usual time has to be known when that ends.
        let slow_probe = self.slow_probe();
        if self.limits.is_full_speed() {
            return;
        }
        let waiters = pressure.lock_waiters.filter(|waiters| *waiters > 0);
        self.set(
            Reason::LockWaiters,
            waiters.map(|waiters| (format!("{waiters} sessions wait for its locks"), "0 sessions".to_owned())),
        );
        self.set(Reason::ProbeLatency, slow_probe);
        let limit = if self.active.contains_key(&Reason::WalSize) {
            WAL_BYTES / 2
        } else {
            WAL_BYTES
        };
        let wal = pressure.wal_bytes.filter(|bytes| *bytes > limit);
        self.set(
            Reason::WalSize,
            wal.map(|bytes| (format!("{} MiB", bytes >> 20), format!("{} MiB", WAL_BYTES >> 20))),
        );
    }

    fn observe_replicas(&mut self, replicas: &[Replica]) {
        let gone = self.gone(replicas);
        let limit = match (self.lag_limit, self.limits.is_full_speed()) {
            (Some(limit), _) => limit,
            (None, false) => REPLICA_LAG,
            (None, true) => return,
        };
        // It has to catch up well before the run goes on, or the two would take turns.
        let over = if self.active.contains_key(&Reason::ReplicaLag) {
            limit / 2
        } else {
            limit
        };
        let found = replicas.iter().find_map(|replica| {
            let name = &replica.name;
            if replica.stopped {
                let kept = replica.retained_bytes.unwrap_or(0) >> 20;
                Some(format!("stopped, {kept} MiB of log kept for it (replica {name})"))
            } else if let Some(behind) = replica.behind.filter(|behind| *behind > over) {
                Some(format!("{:.1} s behind (replica {name})", behind.as_secs_f64()))
            } else {
                let kept = replica.retained_bytes.filter(|bytes| *bytes > RETAINED_BYTES)?;
                Some(format!("{} MiB of log kept for it (replica {name})", kept >> 20))
            }
        });
        self.set(
            Reason::ReplicaLag,
            found.or(gone).map(|value| (value, format!("{} s", limit.as_secs()))),
        );
    }

    /// A replica that streamed before, and does not now. Those that have a slot are known by it.
    fn gone(&mut self, replicas: &[Replica]) -> Option<String> {
        let now = Instant::now();
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for replica in replicas.iter().filter(|replica| replica.retained_bytes.is_none()) {
            let place = places.entry(&replica.name).or_default();
            self.streaming.insert((replica.name.clone(), *place), now);
            *place += 1;
        }
        self.streaming.retain(|_, seen| now - *seen < REPLICA_GONE);
        let mut away = self.streaming.iter().filter(|(_, seen)| **seen < now);
        away.next()
            .map(|((name, _), seen)| format!("gone for {:.1} s (replica {name})", (now - *seen).as_secs_f64()))
    }

    /// The newest probes and their threshold, where they are over it.
    fn slow_probe(&self) -> Option<(String, String)> {
        if self.probes.len() < FIRST_PROBES {
            return None;
        }
        // The lower quartile stays where it is while a good part of the probes is slow.
        let usual = quantile(self.probes.iter().copied(), 4);
        let newest = quantile(self.probes.iter().rev().take(NEWEST_PROBES).copied(), 2);
        let threshold = (usual * PROBE_FACTOR).max(usual + PROBE_MARGIN);
        let over = if self.active.contains_key(&Reason::ProbeLatency) {
            threshold / 2
        } else {
            threshold
        };
        (newest > over).then(|| {
            (
                format!("{:.1} ms, usually {:.1} ms", millis(newest), millis(usual)),
                format!("{:.1} ms", millis(threshold)),
            )
        })
    }

    /// Whether the run has to wait until a reason is gone.
    pub(super) fn holds(&self) -> bool {
        self.active.contains_key(&Reason::ReplicaLag)
    }

    /// How long to rest after the newest batch, from its end.
    pub(super) fn rest(&self) -> Duration {
        self.rest_for_duty().max(self.rest_for_rate())
    }

    fn rest_for_duty(&self) -> Duration {
        let Some(batch) = self.last else { return Duration::ZERO };
        let duty = self.limits.duty_cycle_percent.clamp(1, 100);
        let strained = |reason: &Reason| match reason {
            Reason::ProbeLatency | Reason::WalSize => 4,
            Reason::LockWaiters => 2,
            _ => 1,
        };
        let factor = self.active.keys().map(strained).max().unwrap_or(1);
        batch.took * (100 - duty) / duty * factor
    }

    fn rest_for_rate(&self) -> Duration {
        let (Some(batch), rate) = (self.last, self.limits.max_rows_per_second) else {
            return Duration::ZERO;
        };
        if rate == 0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(as_f64(batch.affected) / f64::from(rate)).saturating_sub(batch.took)
    }

    /// The gravest of what slows the run.
    pub(super) fn shown(&self) -> Option<Shown> {
        let (reason, (value, _)) = self.active.first_key_value()?;
        Some(Shown {
            reason: reason.name().to_owned(),
            value: value.clone(),
        })
    }

    /// What began or ended since this was asked last.
    pub(super) fn changes(&mut self) -> Vec<Slowdown> {
        std::mem::take(&mut self.changes)
    }

    fn size_is_back(&mut self) {
        if self.rows == self.ceiling() {
            self.set(Reason::BatchTime, None);
            self.set(Reason::Timeouts, None);
        }
    }

    fn set(&mut self, reason: Reason, found: Option<(String, String)>) {
        let (measured, cleared) = match found {
            Some(measured) => match self.active.insert(reason, measured.clone()) {
                Some(_) => return,
                None => (measured, false),
            },
            None => match self.active.remove(&reason) {
                Some(measured) => (measured, true),
                None => return,
            },
        };
        self.changes.push(Slowdown {
            reason: reason.name().to_owned(),
            value: measured.0,
            threshold: measured.1,
            cleared,
        });
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share, 0 to 1, of a number of rows"
)]
fn scaled(rows: u32, share: f64) -> u32 {
    ((f64::from(rows) * share) as u32).max(1)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The value below which one of `parts` equal parts of the values lies.
fn quantile(values: impl Iterator<Item = Duration>, parts: usize) -> Duration {
    let mut values: Vec<Duration> = values.collect();
    values.sort_unstable();
    values.get(values.len() / parts).copied().unwrap_or_default()
}

#[cfg(test)]
#[path = "throttle_tests.rs"]
mod tests;
