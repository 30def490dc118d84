//! Latencies of a report: how many in each bucket, only those that are not empty.
//!
//! A bucket is the first eight significant bits, as in the [sliding windows](crate::metrics): a quantile is never below
//! the sample it stands for, and at most 0.8 % (2^-7) above it. A histogram of fixed size would take kilobytes for
//! each destination and period, of which there may be many thousands.

use std::collections::BTreeMap;

/// Bits of a `f64` below sign, exponent and the first seven of the mantissa.
const BELOW: u32 = 52 - 7;

/// Counts by bucket; the order in which they came does not matter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    buckets: BTreeMap<u32, u64>,
    count: u64,
}

impl Latencies {
    /// Takes one, in milliseconds. What is no time is left out.
    pub fn record(&mut self, ms: f64) {
        if ms.is_finite() && ms >= 0.0 {
            *self.buckets.entry((ms.to_bits() >> BELOW) as u32).or_default() += 1;
            self.count += 1;
        }
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Latencies) {
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
        self.count += other.count;
    }

    /// How many were taken.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The quantile, 0 to 1, in milliseconds: the upper end of its bucket. `None` without any.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = ((q * self.count as f64).ceil() as u64).max(1);
        let mut below = 0;
        self.buckets.iter().find_map(|(bucket, count)| {
            below += count;
            (below >= rank).then(|| match bucket {
                0 => 0.0,
                bucket => f64::from_bits(u64::from(bucket + 1) << BELOW),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_as_near_as_promised() {
        let mut latencies = Latencies::default();
        for ms in 1..=1000 {
            latencies.record(f64::from(ms) / 10.0);
        }
        for (q, exact) in [(0.5, 50.0), (0.95, 95.0), (1.0, 100.0), (0.0, 0.1)] {
            let got = latencies.quantile(q).unwrap();
            assert!(got >= exact && got <= exact * 1.0079, "{q}: {got} for {exact}");
        }
        assert_eq!(Latencies::default().quantile(0.95), None);
    }

    #[test]
    fn zero_is_zero_and_nonsense_is_left_out() {
        let mut latencies = Latencies::default();
        for ms in [0.0, f64::NAN, -1.0, f64::INFINITY] {
            latencies.record(ms);
        }
        assert_eq!((latencies.count(), latencies.quantile(0.95)), (1, Some(0.0)));
    }
}
