//! From `CLOCK_MONOTONIC`, which the kernel side uses, to wall-clock time, which events show.

use rustix::time::{ClockId, clock_gettime};

use crate::event::Nanos;

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    nanos(ClockId::Monotonic) as u64
}

fn nanos(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The distance between the two clocks, taken anew every now and then: the wall clock is steered.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    offset_ns: i64,
}

impl WallClock {
    /// Reads both clocks; of a few tries the tightest counts.
    pub fn new() -> WallClock {
        let mut best = (i64::MAX, 0);
        for _ in 0..5 {
            let before = nanos(ClockId::Monotonic);
            let wall = nanos(ClockId::Realtime);
            let after = nanos(ClockId::Monotonic);
            if after - before < best.0 {
                best = (after - before, wall - (before + (after - before) / 2));
            }
        }
        WallClock { offset_ns: best.1 }
    }

    /// Takes over at once when the wall clock was set; being steered can wait for the next [`WallClock::new`].
    pub fn follow(&mut self) {
        const STEP_NS: i64 = 1_000_000;
        let now = nanos(ClockId::Realtime) - nanos(ClockId::Monotonic);
        if (now - self.offset_ns).abs() > STEP_NS {
            *self = WallClock::new();
        }
    }

    /// The wall-clock time of a monotonic one.
    pub fn at(self, monotonic_ns: u64) -> Nanos {
        Nanos(monotonic_ns as i64 + self.offset_ns)
    }
}

impl Default for WallClock {
    fn default() -> Self {
        WallClock::new()
    }
}
