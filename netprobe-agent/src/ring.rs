//! Stage 1: records out of the kernel. The ring, the overflow hash, and the counters beside them.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd as _, RawFd},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf},
};
use netprobe_common::{FlowRecord, Header, Kind};
use rustix::time::{ClockId, clock_gettime};

use crate::{error::AgentError, kernel::load::take_map};

mod counters;
mod payloads;

pub use counters::Counters;
use payloads::Payloads;

const FINAL_BYTES: usize = size_of::<FlowRecord>();

/// A final record from the overflow hash, aligned like one from the ring.
#[repr(C, align(8))]
struct Aligned([u8; FINAL_BYTES]);

/// Reading side of the records.
pub struct Ring {
    ring: RingBuf<MapData>,
    payloads: Payloads,
    overflow: HashMap<MapData, u64, [u8; FINAL_BYTES]>,
    counters: PerCpuArray<MapData, u64>,
    /// Final records found in the overflow hash so far; compared with the kernel's count.
    from_overflow: u64,
    bytes: u32,
    /// Bytes of the ring the last drain freed.
    last_bytes: usize,
    /// Whether the last drain came to the end.
    emptied: bool,
    drained: BTreeMap<Kind, u64>,
}

impl Ring {
    /// Takes the maps out of the loaded object.
    pub fn open(ebpf: &mut Ebpf, bytes: u32, payload_bytes: u32) -> Result<Ring, AgentError> {
        Ok(Ring {
            ring: take_map(ebpf, "RECORDS")?,
            payloads: Payloads::new(take_map(ebpf, "PAYLOADS")?, payload_bytes),
            overflow: take_map(ebpf, "OVERFLOW")?,
            counters: take_map(ebpf, "COUNTERS")?,
            from_overflow: 0,
            bytes,
            last_bytes: 0,
            emptied: true,
            drained: BTreeMap::new(),
        })
    }

    /// Sleeps until a forced wakeup, until `bell` (a descriptor, or -1) is readable, or for `timeout`: programs do not wake the reader per record.
    pub fn wait(&self, timeout: Duration, bell: RawFd) -> io::Result<()> {
        let mut fds = [self.ring.as_raw_fd(), self.payloads.fd(), bell].map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        });
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: valid pollfds, as many as said, that outlive the call.
        #[expect(unsafe_code, reason = "poll has no safe wrapper in the libraries used here")]
        let ret = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) };
        if ret < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted {
                Ok(())
            } else {
                Err(error)
            };
        }
        Ok(())
    }

    /// Hands up to `limit` records to `take`, in the order they were made. Returns how many. Payload comes in between: that
    /// of a connection after its begin and before its end, and names of addresses before connections to them.
    ///
    /// Half a ring at most: records are lost while the ring is full, so what is made after a loss lies a whole ring
    /// behind, and whoever asks [`Ring::lost`] before every drain knows of the loss first.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(&[u8])) -> usize {
        const RECORD_HEADER: usize = 8;
        // What a payload record of before now belongs to is in the first ring already.
        let now = clock_gettime(ClockId::Monotonic);
        let mut until = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let (mut count, mut last) = (0, 0);
        self.last_bytes = 0;
        self.emptied = false;
        while count < limit && self.last_bytes < self.bytes as usize / 2 {
            let Some(item) = self.ring.next() else {
                self.emptied = true;
                break;
            };
            // What is not a record at all counts as drained too, under no kind: the equation is then open, and shows.
            let kind = item.get(1).and_then(|&kind| Kind::from_wire(kind));
            if let Some(kind) = kind {
                *self.drained.entry(kind).or_default() += 1;
            }
            last = made_at(&item);
            if matches!(kind, Some(Kind::Established | Kind::Closed)) {
                self.payloads.drain(last, &mut take);
            }
            self.last_bytes += item.len() + RECORD_HEADER;
            take(&item);
            count += 1;
        }
        if !self.emptied {
            until = last;
        }
        count += self.payloads.drain(until, &mut take);
        self.emptied &= self.payloads.is_drained();
        count
    }

    /// Whether the last drain took all there was.
    pub const fn is_emptied(&self) -> bool {
        self.emptied
    }

    /// Records of this kind that found the ring full so far.
    pub fn lost(&self, kind: Kind) -> Result<u64, MapError> {
        self.counter(netprobe_common::lost_ring_full(kind))
    }

    /// Share of the ring that was in use when it was last drained, 0 to 1.
    pub fn fill(&self) -> f64 {
        (self.last_bytes as f64 / f64::from(self.bytes)).min(1.0)
    }

    /// Cookies of the final records that found the ring full. To be asked for before the ring is drained: what a
    /// connection told before its end is in the ring then, and must be taken first.
    pub fn overflowed(&self) -> Result<Vec<u64>, MapError> {
        if self.counter(netprobe_common::OVERFLOWED)? == self.from_overflow {
            return Ok(Vec::new());
        }
        self.overflow.keys().collect()
    }

    /// Hands over these final records; after the ring was drained to its end.
    pub fn drain_overflow(
        &mut self,
        cookies: &[u64],
        mut take: impl FnMut(&[u8]),
    ) -> Result<usize, MapError> {
        let mut count = 0;
        for cookie in cookies {
            let record = match self.overflow.get(cookie, 0) {
                Ok(record) => Aligned(record),
                Err(MapError::KeyNotFound) => continue,
                Err(error) => return Err(error),
            };
            self.overflow.remove(cookie)?;
            *self.drained.entry(Kind::Closed).or_default() += 1;
            self.from_overflow += 1;
            count += 1;
            take(&record.0);
        }
        Ok(count)
    }

    /// Records handed over so far, by kind.
    pub fn drained(&self) -> BTreeMap<Kind, u64> {
        let mut drained = self.drained.clone();
        drained.extend(self.payloads.handed_over());
        drained
    }

    /// All counters of the kernel side.
    pub fn counters(&self) -> Result<Counters, MapError> {
        let mut values = [0; netprobe_common::COUNTERS as usize];
        for (index, value) in values.iter_mut().enumerate() {
            *value = self.counter(index as u32)?;
        }
        Ok(Counters(values))
    }

    /// Size of the ring.
    pub const fn bytes(&self) -> u32 {
        self.bytes
    }

    fn counter(&self, index: u32) -> Result<u64, MapError> {
        Ok(self.counters.get(&index, 0)?.iter().sum())
    }
}

/// When a record was made; 0 when it has no whole header.
fn made_at(record: &[u8]) -> u64 {
    const AT: usize = std::mem::offset_of!(Header, ts_ns);
    let bytes = record.get(AT..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}
