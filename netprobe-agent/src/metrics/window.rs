//! Sliding windows: latencies (and [counts](super::rates)) of the last 10 s, 1 min and 5 min, in rings of sub-windows.
//!
//! 10 s are five sub-windows of 2 s; 1 min and 5 min are six and thirty of 10 s. The oldest goes when a new one
//! begins, so a window reaches back at most its name, and at least its name less one sub-window. A latency is put
//! into one sub-window of 2 s alone; as the next of them begins, it goes into its 10 s as a whole.
//!
//! Latencies are kept with eight significant bits: the buckets of an HDR histogram of two significant digits, but
//! only those that are not empty. Quantiles are read with that histogram. A quantile is never below the sample it
//! stands for, and at most 0.8 % (2^-7) above it.

use std::collections::VecDeque;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Sub-windows in milliseconds, and how many are kept.
const FINE_MS: u64 = 2_000;
const FINE: u32 = 5;
pub(super) const COARSE_MS: u64 = 10_000;
pub(super) const COARSE: u32 = 30;
/// Significant bits of a latency.
const BITS: u32 = 8;

/// How far a window reaches back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// 10 s.
    TenSeconds,
    /// 1 min.
    Minute,
    /// 5 min.
    FiveMinutes,
}

impl Span {
    /// Every window, shortest first.
    pub const ALL: [Span; 3] = [Span::TenSeconds, Span::Minute, Span::FiveMinutes];

    /// Name in labels and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Span::TenSeconds => "10s",
            Span::Minute => "1m",
            Span::FiveMinutes => "5m",
        }
    }

    /// Sub-windows of 10 s in it.
    pub(super) const fn coarse(self) -> u32 {
        match self {
            Span::TenSeconds => 1,
            Span::Minute => 6,
            Span::FiveMinutes => COARSE,
        }
    }
}

/// The last so many sub-windows of a length, those that something happened in.
#[derive(Clone, Debug)]
pub(super) struct Ring<T, const MS: u64, const KEEP: u32>(VecDeque<(u32, T)>);

impl<T, const MS: u64, const KEEP: u32> Default for Ring<T, MS, KEEP> {
    fn default() -> Self {
        Ring(VecDeque::new())
    }
}

impl<T: Default, const MS: u64, const KEEP: u32> Ring<T, MS, KEEP> {
    /// Number of the sub-window of a moment.
    pub(super) const fn slot(now_ms: u64) -> u32 {
        (now_ms / MS) as u32
    }

    /// The sub-window of this moment.
    pub(super) fn current(&mut self, now_ms: u64) -> &mut T {
        if self.is_over(now_ms) {
            self.forget(now_ms);
            self.0.push_back((Self::slot(now_ms), T::default()));
        }
        let last = self.0.len() - 1;
        &mut self.0[last].1
    }

    /// Whether the newest sub-window is over, or there is none.
    fn is_over(&self, now_ms: u64) -> bool {
        self.0.back().is_none_or(|(last, _)| *last < Self::slot(now_ms))
    }

    /// Drops sub-windows that no window reaches any more. Returns whether one is left.
    pub(super) fn forget(&mut self, now_ms: u64) -> bool {
        let slot = Self::slot(now_ms);
        while self.0.front().is_some_and(|(first, _)| first + KEEP <= slot) {
            self.0.pop_front();
        }
        !self.0.is_empty()
    }

    /// Whether one of the sub-windows held is so.
    pub(super) fn any(&self, is_so: impl Fn(&T) -> bool) -> bool {
        self.0.iter().any(|(_, of)| is_so(of))
    }

    /// The last `count` sub-windows up to `slot`, newest first.
    pub(super) fn back_from(&self, slot: u32, count: u32) -> impl Iterator<Item = &(u32, T)> {
        self.0
            .iter()
            .rev()
            .skip_while(move |(of, _)| *of > slot)
            .take_while(move |(of, _)| of + count > slot)
    }
}

/// Latencies of one sub-window: key and count, sorted.
type Latencies = Vec<(u16, u32)>;

/// Latencies of the last five minutes.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    fine: Ring<Latencies, FINE_MS, FINE>,
    coarse: Ring<Latencies, COARSE_MS, COARSE>,
    /// The last 2 s that are in their 10 s.
    folded: Option<u32>,
}

/// What a window holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Quantiles {
    /// Observations.
    pub count: u64,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 95th percentile, milliseconds.
    pub p95_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
}

impl Window {
    /// Takes one latency.
    pub(super) fn record(&mut self, now_ms: u64, ns: u64) {
        self.fold(now_ms);
        add(self.fine.current(now_ms), key(ns), 1);
    }

    /// Puts the newest 2 s into their 10 s, once they are over.
    fn fold(&mut self, now_ms: u64) {
        let Some((slot, latencies)) = self.fine.0.back() else {
            return;
        };
        if self.fine.is_over(now_ms) && self.folded != Some(*slot) {
            let of = self.coarse.current(u64::from(*slot) * FINE_MS);
            latencies.iter().for_each(|(key, count)| add(of, *key, *count));
            self.folded = Some(*slot);
        }
    }

    /// Drops what is out of reach. Returns whether anything is left.
    pub(super) fn forget(&mut self, now_ms: u64) -> bool {
        self.fold(now_ms);
        let fine = self.fine.forget(now_ms);
        self.coarse.forget(now_ms) || fine
    }

    /// Quantiles of a window; none of an empty one.
    pub(super) fn quantiles(&self, now_ms: u64, span: Span, scratch: &mut Scratch) -> Option<Quantiles> {
        scratch.quantiles([self], now_ms, span)
    }

    /// Hands over what is within reach.
    fn each(&self, now_ms: u64, span: Span, mut take: impl FnMut(u64, u32)) {
        let mut take = |(_, latencies): &(u32, Latencies)| {
            latencies
                .iter()
                .for_each(|(key, count)| take(value(*key), *count));
        };
        let now = Ring::<Latencies, FINE_MS, FINE>::slot(now_ms);
        if span == Span::TenSeconds {
            self.fine.back_from(now, FINE).for_each(take);
            return;
        }
        let slot = Ring::<Latencies, COARSE_MS, COARSE>::slot(now_ms);
        self.coarse.back_from(slot, span.coarse()).for_each(&mut take);
        // The newest are not in their 10 s yet.
        let is_due = |(of, _): &&(u32, Latencies)| {
            self.folded != Some(*of)
                && u64::from(*of) * FINE_MS / COARSE_MS + u64::from(span.coarse()) > u64::from(slot)
        };
        self.fine.0.back().filter(is_due).into_iter().for_each(take);
    }
}

/// The histogram that quantiles are read with, made once for many.
#[derive(Debug)]
pub(super) struct Scratch(Option<Histogram<u64>>);

impl Scratch {
    pub(super) fn new() -> Scratch {
        // Two significant digits are allowed, so there is one.
        Scratch(Histogram::new(2).ok())
    }

    /// Quantiles of windows taken together; none when all are empty.
    pub(super) fn quantiles<'a>(
        &mut self,
        windows: impl IntoIterator<Item = &'a Window>,
        now_ms: u64,
        span: Span,
    ) -> Option<Quantiles> {
        let histogram = self.0.as_mut()?;
        histogram.reset();
        for window in windows {
            window.each(now_ms, span, |ns, count| {
                // The histogram grows with its values, so none is out of range.
                let _ = histogram.record_n(ns, u64::from(count));
            });
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        (!histogram.is_empty()).then(|| Quantiles {
            count: histogram.len(),
            p50_ms: at(0.5),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
        })
    }
}

/// Counts a latency.
fn add(to: &mut Latencies, key: u16, count: u32) {
    match to.binary_search_by_key(&key, |(key, _)| *key) {
        Ok(at) => to[at].1 = to[at].1.saturating_add(count),
        Err(at) => to.insert(at, (key, count)),
    }
}

/// Shift and first bits of a value: rises with it.
const fn key(ns: u64) -> u16 {
    let shift = (u64::BITS - ns.leading_zeros()).saturating_sub(BITS);
    ((shift << BITS) + (ns >> shift) as u32) as u16
}

/// Least value with this key.
const fn value(key: u16) -> u64 {
    (key as u64 & ((1 << BITS) - 1)) << (key >> BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantiles(window: &Window, now_ms: u64, span: Span) -> Option<Quantiles> {
        window.quantiles(now_ms, span, &mut Scratch::new())
    }

    #[test]
    fn keys_rise_with_values_and_lose_less_than_the_bound() {
        let mut before = 0;
        for ns in (0..100_000_u64).map(|step| step * step * step) {
            let key = key(ns);
            assert!(key >= before, "{ns}");
            let least = value(key);
            assert!(least <= ns && (ns - least) * 128 <= ns, "{ns} became {least}");
            before = key;
        }
        assert_eq!(value(key(u64::MAX)), 0xff << 56);
    }

    /// Against the exact quantiles of known data: uniform, exponential, bimodal and constant.
    #[test]
    fn quantiles_are_within_the_bound() {
        let uniform = |step: u64| 20_000 + step * 997;
        let exponential = |step: u64| (50_000.0 * (step as f64 / 1_500.0).exp()) as u64;
        let bimodal = |step: u64| {
            if step.is_multiple_of(20) {
                2_000_000_000 + step
            } else {
                40_000 + step
            }
        };
        let constant = |_| 1_234_567;
        let shapes: [&dyn Fn(u64) -> u64; 4] = [&uniform, &exponential, &bimodal, &constant];
        for (index, shape) in shapes.iter().enumerate() {
            let mut window = Window::default();
            let mut data: Vec<u64> = (0..10_000).map(shape).collect();
            for ns in &data {
                window.record(1_000_000, *ns);
            }
            data.sort_unstable();
            for span in Span::ALL {
                let got = quantiles(&window, 1_000_000, span).unwrap();
                assert_eq!(got.count, 10_000);
                for (quantile, got) in [(0.5, got.p50_ms), (0.95, got.p95_ms), (0.99, got.p99_ms)] {
                    let exact = data[(quantile * 10_000.0) as usize - 1] as f64 / 1e6;
                    assert!(
                        got >= exact && got <= exact * (1.0 + 1.0 / 128.0),
                        "shape {index}, {quantile}: {got} of {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn windows_slide() {
        let mut window = Window::default();
        let counts = |window: &Window, now_ms| {
            Span::ALL.map(|span| quantiles(window, now_ms, span).map_or(0, |quantiles| quantiles.count))
        };
        window.record(0, 5);
        window.record(9_999, 5);
        assert_eq!(counts(&window, 9_999), [2, 2, 2]);
        assert_eq!(counts(&window, 10_000), [1, 2, 2]);
        assert_eq!(counts(&window, 59_999), [0, 2, 2]);
        assert_eq!(counts(&window, 60_000), [0, 0, 2]);
        assert_eq!(counts(&window, 299_999), [0, 0, 2]);
        assert_eq!(counts(&window, 300_000), [0, 0, 0]);
        assert!(window.forget(299_999));
        assert!(!window.forget(300_000));
    }
}
