//! The second ring: payload that requests are read from. Apart, so that no flood of it pushes out records of flows; read
//! up to a point in time, so that what it says of a connection comes between its begin and its end.

use std::os::fd::{AsRawFd as _, RawFd};

use aya::maps::{MapData, RingBuf};

use super::made_at;

/// Reading side of the ring for payload.
pub(super) struct Payloads {
    ring: RingBuf<MapData>,
    bytes: usize,
    /// The first record that was made too late for the last drain; aligned like one in the ring.
    ahead: Vec<u64>,
    /// Its length; 0: there is none.
    ahead_len: usize,
    handed_over: u64,
    /// Whether the last drain took all there was to take.
    drained: bool,
}

impl Payloads {
    pub(super) const fn new(ring: RingBuf<MapData>, bytes: u32) -> Payloads {
        Payloads {
            ring,
            bytes: bytes as usize,
            ahead: Vec::new(),
            ahead_len: 0,
            handed_over: 0,
            drained: true,
        }
    }

    /// Hands over the records made until then, about half a ring at most. Returns how many.
    pub(super) fn drain(&mut self, until_ns: u64, take: &mut impl FnMut(&[u8])) -> usize {
        let before = self.handed_over;
        let mut bytes = 0;
        self.drained = true;
        if self.ahead_len > 0 {
            // SAFETY: as long as was written there.
            #[expect(unsafe_code, reason = "words as bytes")]
            let record =
                unsafe { std::slice::from_raw_parts(self.ahead.as_ptr().cast::<u8>(), self.ahead_len) };
            if made_at(record) > until_ns {
                return 0;
            }
            self.handed_over += 1;
            take(record);
            self.ahead_len = 0;
        }
        while let Some(item) = self.ring.next() {
            bytes += item.len();
            if made_at(&item) > until_ns {
                self.ahead.clear();
                self.ahead.extend(item.chunks(8).map(word));
                self.ahead_len = item.len();
                break;
            }
            self.handed_over += 1;
            take(&item);
            if bytes > self.bytes / 2 {
                self.drained = false;
                break;
            }
        }
        (self.handed_over - before) as usize
    }

    /// Records handed over so far.
    pub(super) const fn handed_over(&self) -> u64 {
        self.handed_over
    }

    pub(super) const fn is_drained(&self) -> bool {
        self.drained
    }

    pub(super) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Up to eight bytes as a word in memory order.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}
