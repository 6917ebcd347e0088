//! Measures an attempt: rate, time to the end, and when the next progress event is due.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Shortest time between two progress events of a run.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// The same of one that spares others: each event is a flush of the control store's disk, which may be theirs as well.
const SPARING_INTERVAL: Duration = Duration::from_millis(500);
/// Span over which the rate is averaged.
const RATE_SPAN: Duration = Duration::from_secs(10);

pub(super) struct Meter {
    started: Instant,
    last_emitted: Option<Instant>,
    /// (when, rows affected by then); at least one, at most those of the rate's span.
    samples: VecDeque<(Instant, u64)>,
}

impl Meter {
    pub(super) fn start(affected: u64) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            last_emitted: None,
            samples: VecDeque::from([(now, affected)]),
        }
    }

    /// Time since this attempt began.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Notes a boundary.
    pub(super) fn note(&mut self, affected: u64) {
        let now = Instant::now();
        self.samples.push_back((now, affected));
        while self.samples.len() > 2 && self.samples.get(1).is_some_and(|sample| now - sample.0 > RATE_SPAN) {
            self.samples.pop_front();
        }
    }

    /// Rows a second over the span.
    pub(super) fn rate(&self) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0.0;
        };
        let seconds = (last.0 - first.0).as_secs_f64();
        if seconds > 0.0 {
            as_f64(last.1.saturating_sub(first.1)) / seconds
        } else {
            0.0
        }
    }

    /// Milliseconds to the end at this rate.
    pub(super) fn eta_ms(&self, remaining: u64) -> Option<u64> {
        let rate = self.rate();
        (rate > 0.0).then(|| u64::try_from(Duration::try_from_secs_f64(as_f64(remaining) / rate).ok()?.as_millis()).ok())?
    }

    /// Whether a progress event may be written now; says yes at most ten times a second, and twice a second where the run spares others.
    pub(super) fn due(&mut self, spares: bool) -> bool {
        let now = Instant::now();
        let interval = if spares { SPARING_INTERVAL } else { PROGRESS_INTERVAL };
        let due = self.last_emitted.is_none_or(|last| now - last >= interval);
        if due {
            self.last_emitted = Some(now);
        }
        due
    }
}

/// A count as a float, for rates and shares.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}
