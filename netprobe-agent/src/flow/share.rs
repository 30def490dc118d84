//! Which of many are told when not all are: the same whoever asks, and whenever.

/// A share of many things that have a number each.
#[derive(Clone, Copy, Debug)]
pub struct Share(u64);

impl Share {
    const BITS: u32 = 53;

    /// From 0 to 1.
    pub fn new(share: f64) -> Share {
        Share((share * (1_u64 << Share::BITS) as f64) as u64)
    }

    /// Whether the one with this number is among them. Numbers may follow each other, so they are mixed first (SplitMix64).
    pub const fn has(self, number: u64) -> bool {
        let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) >> (u64::BITS - Share::BITS) < self.0
    }

    /// The smaller one of two.
    #[must_use]
    pub fn at_most(self, other: Share) -> Share {
        Share(self.0.min(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_flows_is_told() {
        let told = |share| (0..100_000).filter(|flow| Share::new(share).has(*flow)).count();
        assert_eq!((told(0.0), told(1.0)), (0, 100_000));
        let tenth = told(0.1);
        assert!((9_700..10_300).contains(&tenth), "{tenth}");
    }
}
