//! Time that the host took from this machine's processors: a virtual machine that has to share them measures its neighbours. Linux tells it
//! in the eighth column of `/proc/stat`; elsewhere nothing is known to be stolen.

/// From a moment on.
pub(crate) struct Stolen {
    stolen: u64,
    all: u64,
}

/// A share of the processors' time over which a measurement of latencies is none: stalls of a hundredth of the time are what a p99 sees.
pub(crate) const TOO_MUCH: f64 = 0.01;

impl Stolen {
    pub(crate) fn begin() -> Self {
        let (stolen, all) = read().unwrap_or_default();
        Self { stolen, all }
    }

    /// Share of the processors' time that was stolen since then, 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "ticks since the machine started")]
    pub(crate) fn share(&self) -> f64 {
        let Some((stolen, all)) = read() else { return 0.0 };
        stolen.saturating_sub(self.stolen) as f64 / all.saturating_sub(self.all).max(1) as f64
    }
}

/// Ticks that were stolen, and all of them.
fn read() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    // user nice system idle iowait irq softirq steal; what comes after is part of user and nice.
    let ticks: Vec<u64> = text
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .take(8)
        .map_while(|tick| tick.parse().ok())
        .collect();
    Some((*ticks.get(7)?, ticks.iter().sum()))
}
