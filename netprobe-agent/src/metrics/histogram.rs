//! A histogram with classic buckets, native buckets and exemplars, in plain numbers.
//!
//! Classic buckets are stable: they are part of the contract, dashboards and recording rules name them. Native ones
//! are those of Prometheus' schema 3: eight to each power of two, so a quantile read from them is wrong by 9 % at
//! most.

use crate::event::{Nanos, TraceId};

/// Upper bounds in seconds of every latency histogram, and how they are written: from 50 µs (a connect on loopback
/// takes 20 to 100 µs) in steps of about 2 to 60 s (past it a connect has timed out with the default of six SYN
/// retries).
pub const BUCKETS: [(f64, &str); 19] = [
    (50e-6, "5e-05"),
    (100e-6, "0.0001"),
    (250e-6, "0.00025"),
    (500e-6, "0.0005"),
    (1e-3, "0.001"),
    (2.5e-3, "0.0025"),
    (5e-3, "0.005"),
    (10e-3, "0.01"),
    (25e-3, "0.025"),
    (50e-3, "0.05"),
    (100e-3, "0.1"),
    (250e-3, "0.25"),
    (500e-3, "0.5"),
    (1.0, "1.0"),
    (2.5, "2.5"),
    (5.0, "5.0"),
    (10.0, "10.0"),
    (30.0, "30.0"),
    (60.0, "60.0"),
];

/// One more than the bounds: the last is without one.
const COUNTS: usize = BUCKETS.len() + 1;
/// Resolution of native buckets: 2^3 to a power of two.
pub(super) const SCHEMA: i32 = 3;
/// Upper bounds of the native buckets between ½ and 1: 2^(k/8 - 1).
const BOUNDS: [f64; 8] = [
    0.5,
    0.545_253_866_332_628_8,
    0.594_603_557_501_360_5,
    0.648_419_777_325_504_8,
    std::f64::consts::FRAC_1_SQRT_2,
    0.771_105_412_703_970_4,
    0.840_896_415_253_714_4,
    0.917_004_043_204_671_2,
];
/// An exemplar stays for so long: it is enough to have one of the time around a scrape.
const EXEMPLAR_MS: u64 = 10_000;

/// One observation, and the trace it was made in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Exemplar {
    pub(super) trace: TraceId,
    /// Value observed: seconds of a histogram, 1 of a counter.
    pub(super) value: f64,
    /// When.
    pub(super) at: Nanos,
    taken_ms: u64,
}

impl Exemplar {
    /// An exemplar of this moment.
    pub(super) fn new(trace: TraceId, value: f64, now_ms: u64) -> Exemplar {
        Exemplar {
            trace,
            value,
            at: Nanos::now(),
            taken_ms: now_ms,
        }
    }

    /// Whether it is time for another one.
    pub(super) fn is_due(of: Option<&Exemplar>, now_ms: u64) -> bool {
        of.is_none_or(|old| now_ms.saturating_sub(old.taken_ms) >= EXEMPLAR_MS)
    }
}

/// Observations of one series. Sums are whole nanoseconds, so they do not depend on the order of observations.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: [u64; COUNTS],
    sum_ns: u64,
    /// Native buckets that are not empty: index and count, sorted.
    native: Vec<(i16, u64)>,
    zero: u64,
    exemplars: Option<Box<[Option<Exemplar>; COUNTS]>>,
    /// When it was first counted in.
    pub(super) created: Nanos,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            counts: [0; COUNTS],
            sum_ns: 0,
            native: Vec::new(),
            zero: 0,
            exemplars: None,
            created: Nanos::now(),
        }
    }
}

impl Histogram {
    /// Counts one observation. `trace` is asked for its trace only when an exemplar is due.
    pub(super) fn observe(&mut self, ns: u64, now_ms: u64, trace: impl FnOnce() -> Option<TraceId>) {
        let seconds = ns as f64 / 1e9;
        let bucket = BUCKETS.partition_point(|(bound, _)| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        match native_index(seconds) {
            None => self.zero += 1,
            Some(index) => match self.native.binary_search_by_key(&index, |(index, _)| *index) {
                Ok(at) => self.native[at].1 += 1,
                Err(at) => self.native.insert(at, (index, 1)),
            },
        }
        let held = self.exemplars.as_ref().and_then(|all| all[bucket].as_ref());
        if Exemplar::is_due(held, now_ms)
            && let Some(trace) = trace()
        {
            self.exemplars.get_or_insert_default()[bucket] = Some(Exemplar::new(trace, seconds, now_ms));
        }
    }

    /// Observations.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum in seconds.
    pub(super) fn sum(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Observations up to each bound, the last without one, each with an exemplar from its own bucket.
    pub(super) fn cumulative(
        &self,
    ) -> impl Iterator<Item = (f64, &'static str, u64, Option<&Exemplar>)> + '_ {
        let mut total = 0;
        (0..COUNTS).map(move |bucket| {
            total += self.counts[bucket];
            let (bound, text) = BUCKETS.get(bucket).copied().unwrap_or((f64::INFINITY, "+Inf"));
            let exemplar = self.exemplars.as_ref().and_then(|all| all[bucket].as_ref());
            (bound, text, total, exemplar)
        })
    }

    /// Observations of zero.
    pub(super) const fn zero(&self) -> u64 {
        self.zero
    }

    /// Native buckets that are not empty: index and count, by index.
    pub(super) fn native(&self) -> &[(i16, u64)] {
        &self.native
    }
}

/// Index of the native bucket: the one whose upper bound 2^(index/8) is the first not below the value.
fn native_index(seconds: f64) -> Option<i16> {
    const FRACTION_BITS: u32 = 52;
    const HALF: u64 = 1022 << FRACTION_BITS;
    if seconds <= 0.0 {
        return None;
    }
    // The least value is a nanosecond, far from where a double has no exponent.
    let bits = seconds.to_bits();
    let exponent = (bits >> FRACTION_BITS) as i16 - 1022;
    let fraction = f64::from_bits(bits & ((1 << FRACTION_BITS) - 1) | HALF);
    let within = BOUNDS.partition_point(|bound| *bound < fraction) as i16;
    Some(within + (exponent - 1) * BOUNDS.len() as i16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classic_buckets_hold_their_upper_bound() {
        let mut histogram = Histogram::default();
        for ns in [50_000, 50_001, 60_000_000_000, 60_000_000_001] {
            histogram.observe(ns, 0, || None);
        }
        let counts: Vec<_> = histogram.cumulative().map(|(_, _, count, _)| count).collect();
        assert_eq!((counts[0], counts[1]), (1, 2));
        assert_eq!((counts[18], counts[19]), (3, 4));
        assert_eq!(histogram.sum(), 120.000_100_002);
    }

    #[test]
    fn bounds_are_written_as_every_reader_writes_them() {
        for (bound, text) in BUCKETS {
            assert_eq!(text.parse::<f64>().unwrap(), bound);
        }
        assert!(BUCKETS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn native_buckets_are_those_of_the_schema() {
        assert_eq!(native_index(0.0), None);
        for (seconds, index) in [(1.0, 0), (1.000_000_001, 1), (2.0, 8), (0.5, -8), (0.51, -7)] {
            assert_eq!(native_index(seconds), Some(index), "{seconds}");
        }
        for ns in (0..200_000_u64).map(|step| 1 + step * step) {
            let seconds = ns as f64 / 1e9;
            let index = f64::from(native_index(seconds).unwrap());
            let (below, upper) = (((index - 1.0) / 8.0).exp2(), (index / 8.0).exp2());
            // Bounds are rounded: a value may equal one to within the last bit.
            assert!(
                below * (1.0 - 1e-15) < seconds && seconds <= upper * (1.0 + 1e-15),
                "{seconds} is not in ({below}, {upper}]"
            );
        }
    }

    #[test]
    fn an_exemplar_is_kept_for_a_while_and_then_replaced() {
        let mut histogram = Histogram::default();
        let held = |histogram: &Histogram| {
            histogram
                .cumulative()
                .filter_map(|(.., exemplar)| Some(exemplar?.value))
                .collect::<Vec<_>>()
        };
        let trace = |last| move || Some(TraceId([last; 16]));
        histogram.observe(1_000, 0, trace(1));
        histogram.observe(2_000, EXEMPLAR_MS - 1, trace(2));
        assert_eq!(held(&histogram), [1e-6]);
        histogram.observe(3_000, EXEMPLAR_MS, trace(3));
        histogram.observe(1_000_000_000, EXEMPLAR_MS, trace(4));
        assert_eq!(held(&histogram), [3e-6, 1.0]);
    }
}
