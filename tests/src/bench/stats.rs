//! Ratios and their uncertainty.

use serde::Serialize;

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Interval {
    /// Geometric mean.
    pub middle: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
}

const ROUNDS: usize = 10_000;

/// Percentile bootstrap of the geometric mean. The seed is fixed: the same data give the same interval.
pub fn bootstrap(ratios: &[f64]) -> Interval {
    let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / logs.len().max(1) as f64;
    let mut random = fastrand::Rng::with_seed(0x6e70);
    let mut means: Vec<f64> = (0..ROUNDS)
        .map(|_| mean(&mut (0..logs.len()).map(|_| logs[random.usize(..logs.len())])).exp())
        .collect();
    means.sort_by(f64::total_cmp);
    Interval {
        middle: mean(&mut logs.iter().copied()).exp(),
        low: means[ROUNDS * 25 / 1000],
        high: means[ROUNDS * 975 / 1000 - 1],
    }
}

/// The middle value; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_mean_and_narrows_with_agreement() {
        let wide = bootstrap(&[0.8, 1.0, 1.25, 0.9, 1.1]);
        assert!(wide.low < wide.middle && wide.middle < wide.high, "{wide:?}");
        let narrow = bootstrap(&[0.98; 30]);
        assert!(
            (narrow.middle - 0.98).abs() < 1e-9 && narrow.high - narrow.low < 1e-9,
            "{narrow:?}"
        );
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }
}
