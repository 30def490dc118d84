//! Stage 2: bytes from the ring to records. Pure: no state, no clock, no I/O.

pub(crate) mod wire;

use netprobe_common::{
    AcceptRecord, ConnectFailedRecord, DatagramRecord, FlowRecord, ForwardRecord, Header, HopRecord, Kind,
    PayloadRecord, UdpRecord, WIRE_VERSION,
};

/// A record as the kernel side made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A connection reached ESTABLISHED.
    Established(&'a FlowRecord),
    /// Counters of a live connection.
    Sample(&'a FlowRecord),
    /// A connection ended.
    Closed(&'a FlowRecord),
    /// A connection was accepted.
    Accept(&'a AcceptRecord),
    /// A connect failed before its SYN.
    ConnectFailed(&'a ConnectFailedRecord),
    /// A conntrack entry translates a local connection.
    Hop(&'a HopRecord),
    /// A conntrack entry without local socket changed.
    Forward(&'a ForwardRecord),
    /// A socket and a UDP peer met.
    Udp(&'a UdpRecord),
    /// A packet of a connection whose requests are read, with what was captured of it.
    Payload(&'a PayloadRecord, &'a [u8]),
    /// A datagram that is read for requests, with what was captured of it.
    Datagram(&'a DatagramRecord, &'a [u8]),
}

impl Record<'_> {
    /// What the record tells.
    pub const fn kind(&self) -> Kind {
        match self {
            Record::Established(_) => Kind::Established,
            Record::Sample(_) => Kind::Sample,
            Record::Closed(_) => Kind::Closed,
            Record::Accept(_) => Kind::Accept,
            Record::ConnectFailed(_) => Kind::ConnectFailed,
            Record::Hop(_) => Kind::Hop,
            Record::Forward(_) => Kind::Forward,
            Record::Udp(_) => Kind::Udp,
            Record::Payload(..) => Kind::Payload,
            Record::Datagram(..) => Kind::Datagram,
        }
    }
}

/// Why a record was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reject {
    /// Shorter than a header, or than its header says.
    Short,
    /// Longer than its kind.
    Long,
    /// Not at an address the ring gives.
    Misaligned,
    /// Of another version of the format.
    Version,
    /// Of a kind this agent does not know.
    Kind,
    /// Its fields contradict each other.
    Impossible,
}

impl Reject {
    /// All of them.
    pub const ALL: [Reject; 6] = [
        Reject::Short,
        Reject::Long,
        Reject::Misaligned,
        Reject::Version,
        Reject::Kind,
        Reject::Impossible,
    ];

    /// Name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Reject::Short => "short",
            Reject::Long => "long",
            Reject::Misaligned => "misaligned",
            Reject::Version => "version",
            Reject::Kind => "kind",
            Reject::Impossible => "impossible",
        }
    }
}

/// Decodes one record. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, Reject> {
    let header: &Header = wire::view(bytes.get(..size_of::<Header>()).ok_or(Reject::Short)?)?;
    if header.version != WIRE_VERSION {
        return Err(Reject::Version);
    }
    let kind = Kind::from_wire(header.kind).ok_or(Reject::Kind)?;
    match bytes.len().cmp(&kind.size()) {
        std::cmp::Ordering::Less => return Err(Reject::Short),
        std::cmp::Ordering::Greater if !kind.carries_bytes() => return Err(Reject::Long),
        _ => {}
    }
    if usize::from(header.len) != bytes.len() || header.ts_ns == 0 || header.reserved != 0 {
        return Err(Reject::Impossible);
    }
    Ok(match kind {
        Kind::Established => Record::Established(flow(bytes)?),
        Kind::Sample => Record::Sample(flow(bytes)?),
        Kind::Closed => Record::Closed(flow(bytes)?),
        Kind::Accept => {
            let record: &AcceptRecord = wire::view(bytes)?;
            possible(record.cookie != 0 && record.process.tgid != 0)?;
            Record::Accept(record)
        }
        Kind::ConnectFailed => {
            let record: &ConnectFailedRecord = wire::view(bytes)?;
            possible(record.error != 0 && record.error < MAX_ERRNO)?;
            Record::ConnectFailed(record)
        }
        Kind::Hop => {
            let record: &HopRecord = wire::view(bytes)?;
            possible(record.role == 1 || record.role == 2)?;
            Record::Hop(record)
        }
        Kind::Forward => {
            let record: &ForwardRecord = wire::view(bytes)?;
            possible(record.conntrack != 0 && record.accounted <= 1)?;
            Record::Forward(record)
        }
        Kind::Udp => {
            let record: &UdpRecord = wire::view(bytes)?;
            possible(record.udp.cookie != 0 && record.role <= 2)?;
            Record::Udp(record)
        }
        Kind::Payload => payload(bytes)?,
        Kind::Datagram => datagram(bytes)?,
    })
}

const MAX_ERRNO: u32 = 4096;
const MAX_STATE: u8 = 13;

fn flow(bytes: &[u8]) -> Result<&FlowRecord, Reject> {
    let record: &FlowRecord = wire::view(bytes)?;
    let now = record.header.ts_ns;
    possible(
        record.cookie != 0
            && record.role <= 2
            && record.last_state < MAX_STATE
            && record.error < MAX_ERRNO
            && record.started_ns <= now
            && record.established_ns <= now
            && record.closed_ns <= now
            && (record.established_ns == 0 || record.established_ns >= record.started_ns),
    )?;
    Ok(record)
}

/// The bytes behind the struct are as many as it says; what room is left behind them is not looked at.
fn payload(bytes: &[u8]) -> Result<Record<'_>, Reject> {
    const APPLICATIONS: u8 = 3;
    let record: &PayloadRecord = wire::view(bytes)?;
    let captured = usize::from(record.captured);
    possible(
        record.cookie != 0
            && record.payload != 0
            && captured <= record.payload as usize
            && record.application <= APPLICATIONS
            && matches!(record.side, 1 | 2)
            && matches!(record.direction, 1 | 2)
            && record.begins <= 2
            && record.tls <= 1,
    )?;
    Ok(Record::Payload(record, behind(record, bytes, captured)?))
}

/// As of a payload record.
fn datagram(bytes: &[u8]) -> Result<Record<'_>, Reject> {
    let record: &DatagramRecord = wire::view(bytes)?;
    let captured = usize::from(record.captured);
    possible(
        record.cookie != 0
            && record.payload != 0
            && captured <= record.payload as usize
            && matches!(record.direction, 1 | 2),
    )?;
    Ok(Record::Datagram(record, behind(record, bytes, captured)?))
}

/// The bytes behind the struct of a record.
fn behind<'a, R>(_record: &R, bytes: &'a [u8], captured: usize) -> Result<&'a [u8], Reject> {
    let behind = bytes.get(size_of::<R>()..).unwrap_or_default();
    behind.get(..captured).ok_or(Reject::Impossible)
}

fn possible(holds: bool) -> Result<(), Reject> {
    if holds { Ok(()) } else { Err(Reject::Impossible) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> FlowRecord {
        FlowRecord {
            header: Header {
                version: WIRE_VERSION,
                kind: Kind::Closed as u8,
                len: size_of::<FlowRecord>() as u16,
                reserved: 0,
                ts_ns: 30,
            },
            cookie: 7,
            started_ns: 10,
            established_ns: 20,
            closed_ns: 30,
            role: 1,
            last_state: 1,
            ..FlowRecord::default()
        }
    }

    #[test]
    fn decodes_what_the_kernel_side_writes() {
        let record = closed();
        assert_eq!(decode(wire::bytes(&record)), Ok(Record::Closed(&record)));
    }

    #[test]
    fn rejects_by_reason() {
        let whole = closed();
        let reject = |change: fn(&mut FlowRecord)| {
            let mut record = whole;
            change(&mut record);
            decode(wire::bytes(&record)).map(|record| record.kind())
        };
        assert_eq!(reject(|r| r.header.version = 9), Err(Reject::Version));
        assert_eq!(reject(|r| r.header.kind = 0), Err(Reject::Kind));
        assert_eq!(reject(|r| r.header.kind = 99), Err(Reject::Kind));
        assert_eq!(reject(|r| r.header.kind = Kind::Accept as u8), Err(Reject::Long));
        assert_eq!(reject(|r| r.header.len = 1), Err(Reject::Impossible));
        assert_eq!(reject(|r| r.cookie = 0), Err(Reject::Impossible));
        assert_eq!(reject(|r| r.role = 3), Err(Reject::Impossible));
        assert_eq!(reject(|r| r.established_ns = 5), Err(Reject::Impossible));
        assert_eq!(reject(|r| r.closed_ns = 31), Err(Reject::Impossible));
    }

    #[test]
    fn rejects_every_truncation() {
        let record = closed();
        let bytes = wire::bytes(&record);
        for end in 0..bytes.len() {
            assert_eq!(
                decode(&bytes[..end]).map(|r| r.kind()),
                Err(Reject::Short),
                "{end} bytes"
            );
        }
    }
}
