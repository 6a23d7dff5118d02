//! What is recorded while pods arrive, and the values read off it.

/// Arrived demand, in percent of the cluster's GPUs, at which the curves are read.
pub(crate) const POINTS: [u32; 5] = [80, 95, 100, 110, 130];

/// One value per arrival: arrived percent and what is measured then.
#[derive(Debug, Default)]
pub(crate) struct Curve(Vec<(f64, f64)>);

impl Curve {
    pub(crate) fn record(&mut self, arrived_percent: f64, value: f64) {
        self.0.push((arrived_percent, value));
    }

    /// Mean over the arrivals whose arrived percent rounds to `point` (half to even); if there are none, over those
    /// within one percent; absent if the run never came near.
    pub(crate) fn at(&self, point: u32) -> Option<f64> {
        let point = f64::from(point);
        let rounded = |arrived: f64| (arrived.round_ties_even() - point).abs() < 0.5;
        self.mean(rounded)
            .or_else(|| self.mean(|arrived| (arrived - point).abs() <= 1.0))
    }

    fn mean(&self, belongs: impl Fn(f64) -> bool) -> Option<f64> {
        let values = self
            .0
            .iter()
            .filter(|(arrived, _)| belongs(*arrived))
            .map(|(_, value)| value);
        let (count, sum) = values.fold((0u32, 0.0), |(count, sum), value| (count + 1, sum + value));
        (count > 0).then(|| sum / f64::from(count))
    }
}

/// Whether a value recorded at `arrived_percent` can be read at one of the points.
pub(crate) fn is_read(arrived_percent: f64) -> bool {
    POINTS
        .iter()
        .any(|point| (arrived_percent - f64::from(*point)).abs() <= 1.0)
}

/// The value below which `share` of a sorted list lies.
pub(crate) fn quantile(sorted: &[u64], thousandths: usize) -> u64 {
    let at = (sorted.len().saturating_sub(1)) * thousandths / 1000;
    sorted.get(at).copied().unwrap_or(0)
}
