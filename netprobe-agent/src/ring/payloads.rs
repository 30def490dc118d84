//! The second ring: payload that requests are read from. Apart, so that no flood of it pushes out records of flows; read
//! up to a point in time, so that what it says of a connection comes between its begin and its end.

use std::os::fd::{AsRawFd as _, RawFd};

use aya::maps::{MapData, RingBuf};
use netprobe_common::Kind;

use super::made_at;

/// Reading side of the ring for payload.
pub(super) struct Payloads {
    ring: RingBuf<MapData>,
    bytes: usize,
    /// The first record that was made too late for the last drain; aligned like one in the ring.
    ahead: Vec<u64>,
    /// Its length; 0: there is none.
    ahead_len: usize,
    /// Records of streams and of datagrams.
    handed_over: [u64; 2],
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
            handed_over: [0; 2],
            drained: true,
        }
    }

    /// Hands over the records made until then, about half a ring at most. Returns how many.
    pub(super) fn drain(&mut self, until_ns: u64, take: &mut impl FnMut(&[u8])) -> usize {
        let (mut count, mut bytes) = (0, 0);
        self.drained = true;
        if self.ahead_len > 0 {
            // SAFETY: as long as was written there.
            #[expect(unsafe_code, reason = "words as bytes")]
            let record =
                unsafe { std::slice::from_raw_parts(self.ahead.as_ptr().cast::<u8>(), self.ahead_len) };
            if made_at(record) > until_ns {
                return 0;
            }
            self.handed_over[is_datagram(record)] += 1;
            count += 1;
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
            self.handed_over[is_datagram(&item)] += 1;
            count += 1;
            take(&item);
            if bytes > self.bytes / 2 {
                self.drained = false;
                break;
            }
        }
        count
    }

    /// Records handed over so far.
    pub(super) fn handed_over(&self) -> [(Kind, u64); 2] {
        let [streams, datagrams] = self.handed_over;
        [(Kind::Payload, streams), (Kind::Datagram, datagrams)]
    }

    pub(super) const fn is_drained(&self) -> bool {
        self.drained
    }

    pub(super) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Place of a record's count.
fn is_datagram(record: &[u8]) -> usize {
    usize::from(record.get(1) == Some(&(Kind::Datagram as u8)))
}

/// Up to eight bytes as a word in memory order.
fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_ne_bytes(word)
}
