//! Medians, ratios, and the table that is printed in the end.

/// Measurements of one contender over the rounds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => sorted[count / 2],
            count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
        }
    }

    fn range(&self) -> (f64, f64) {
        self.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(*value), high.max(*value))
        })
    }

    /// Round by round, so that a machine whose speed drifts spoils no ratio.
    pub(crate) fn ratios(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(mine, theirs)| mine / theirs).collect())
    }
}

/// Prints one contender's times.
pub(crate) fn line(name: &str, series: &Series, unit: &str) {
    if series.0.is_empty() {
        return;
    }
    let (low, high) = series.range();
    println!(
        "{name:<58} {:>9.2} {unit:<3} ({low:.2} to {high:.2}, {} runs)",
        series.median(),
        series.0.len()
    );
}

/// Prints a ratio beside its target.
pub(crate) fn ratio(name: &str, series: &Series, target: f64) {
    if series.0.is_empty() {
        return;
    }
    let (low, high) = series.range();
    let verdict = if series.median() <= target { "met" } else { "MISSED" };
    println!(
        "{name:<58} {:>9.2}     ({low:.2} to {high:.2}), target <= {target}: {verdict}",
        series.median()
    );
}

/// The value below which this share of the samples lies.
pub(crate) fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into the samples"
    )]
    let index = ((samples.len() as f64 * share) as usize).min(samples.len().saturating_sub(1));
    samples.get(index).copied().unwrap_or(f64::NAN)
}
