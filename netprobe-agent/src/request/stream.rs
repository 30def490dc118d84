//! One direction of a connection, from packets back to a stream: retransmits and overlaps dropped, what comes early held
//! until what is missing came, or until it is known that it will not come.
//!
//! What is missing comes nearly always: the receiver's kernel waits for it too. It does not when its record was lost on
//! the way to the agent; then, and when too much waits, it becomes a hole.

use super::protocol::Piece;

/// Packets that wait for an earlier one, at most.
const MAX_HELD: usize = 64;
/// Captured bytes of them, at most.
const MAX_HELD_BYTES: usize = 64 << 10;

/// A packet as it was captured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    /// Monotonic time, ns.
    pub(super) at: u64,
    /// Sequence number of its first byte.
    pub(super) sequence: u32,
    /// Payload bytes.
    pub(super) len: u32,
    /// The first of them.
    pub(super) bytes: &'a [u8],
}

/// A packet that came early.
#[derive(Debug)]
struct Held {
    at: u64,
    sequence: u32,
    len: u32,
    bytes: Box<[u8]>,
}

/// A direction.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Sequence number of the next byte; `None`: it did not begin yet.
    next: Option<u32>,
    /// Time of the last piece that was handed on.
    last_ns: u64,
    /// In the order of their sequence numbers.
    held: Vec<Held>,
    held_bytes: usize,
}

impl Stream {
    /// Takes a packet and hands on what is in order now. `begins`: the stream begins with it, if it did not yet. `is_lost`:
    /// whether records between two times were lost. Returns the number of holes that were declared.
    pub(super) fn take(
        &mut self,
        segment: Segment<'_>,
        begins: bool,
        is_lost: impl Fn(u64, u64) -> bool,
        mut give: impl FnMut(Piece<'_>),
    ) -> u64 {
        if self.next.is_none() && begins {
            self.next = Some(segment.sequence);
        }
        if self.next.is_none_or(|next| distance(next, segment.sequence) > 0) {
            let lost = is_lost(self.last_ns, segment.at);
            self.hold(segment);
            if !lost && self.held.len() <= MAX_HELD && self.held_bytes <= MAX_HELD_BYTES {
                return 0;
            }
            return self.skip(&mut give);
        }
        self.hand_on(segment, &mut give);
        self.release(&mut give);
        0
    }

    /// Nothing more comes: hands on what waits, with the holes before it. Returns how many there were.
    pub(super) fn close(&mut self, mut give: impl FnMut(Piece<'_>)) -> u64 {
        let mut holes = 0;
        while !self.held.is_empty() {
            holes += self.skip(&mut give);
        }
        holes
    }

    /// Time of the last piece that was handed on.
    pub(super) const fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// Bytes on the heap.
    pub(super) fn memory(&self) -> usize {
        self.held_bytes + self.held.capacity() * size_of::<Held>()
    }

    fn hold(&mut self, segment: Segment<'_>) {
        let base = self.next.unwrap_or(segment.sequence);
        let place = self
            .held
            .partition_point(|held| distance(base, held.sequence) < distance(base, segment.sequence));
        let same = |held: &Held| held.sequence == segment.sequence && held.len >= segment.len;
        if self.held.get(place).is_some_and(same) {
            return;
        }
        self.held_bytes += segment.bytes.len();
        let held = Held {
            at: segment.at,
            sequence: segment.sequence,
            len: segment.len,
            bytes: segment.bytes.into(),
        };
        self.held.insert(place, held);
    }

    /// Declares what is missing before the first held packet a hole.
    fn skip(&mut self, give: &mut impl FnMut(Piece<'_>)) -> u64 {
        let Some(first) = self.held.first() else { return 0 };
        if let Some(next) = self.next {
            give(Piece {
                at: first.at,
                bytes: &[],
                skipped: u64::from(first.sequence.wrapping_sub(next)),
            });
        }
        self.next = Some(first.sequence);
        self.release(give);
        1
    }

    /// Hands on held packets as far as nothing is missing.
    fn release(&mut self, give: &mut impl FnMut(Piece<'_>)) {
        while let (Some(next), Some(first)) = (self.next, self.held.first()) {
            if distance(next, first.sequence) > 0 {
                return;
            }
            let held = self.held.remove(0);
            self.held_bytes -= held.bytes.len();
            let segment = Segment {
                at: held.at,
                sequence: held.sequence,
                len: held.len,
                bytes: &held.bytes,
            };
            self.hand_on(segment, give);
        }
    }

    /// Hands on what is new in a packet that begins at or before the next byte.
    fn hand_on(&mut self, segment: Segment<'_>, give: &mut impl FnMut(Piece<'_>)) {
        let next = self.next.unwrap_or(segment.sequence);
        let known = next.wrapping_sub(segment.sequence);
        if known >= segment.len {
            return;
        }
        let bytes = segment.bytes.get(known as usize..).unwrap_or_default();
        give(Piece {
            at: segment.at,
            bytes,
            skipped: u64::from(segment.len - known) - bytes.len() as u64,
        });
        self.next = Some(segment.sequence.wrapping_add(segment.len));
        self.last_ns = segment.at;
    }
}

/// How far `sequence` lies behind `next`; negative: before it.
const fn distance(next: u32, sequence: u32) -> i32 {
    sequence.wrapping_sub(next) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was handed on, a hole as its length in brackets.
    fn run(packets: &[(u32, &str)], lost: bool) -> (String, Stream) {
        let mut stream = Stream::default();
        let mut out = String::new();
        let base = u32::MAX - 4;
        for (index, (at, text)) in packets.iter().enumerate() {
            let segment = Segment {
                at: index as u64 + 1,
                sequence: base.wrapping_add(*at),
                len: text.len() as u32,
                bytes: text.as_bytes(),
            };
            stream.take(segment, index == 0, |_, _| lost, |piece| show(&mut out, piece));
        }
        (out, stream)
    }

    fn show(out: &mut String, piece: Piece<'_>) {
        out.push_str(std::str::from_utf8(piece.bytes).expect("text"));
        if piece.skipped > 0 {
            out.push_str(&format!("[{}]", piece.skipped));
        }
    }

    #[test]
    fn order_is_restored_across_the_wrap() {
        assert_eq!(run(&[(0, "abc"), (6, "ghi"), (3, "def")], false).0, "abcdefghi");
        assert_eq!(
            run(&[(0, "a"), (3, "d"), (2, "c"), (4, "e"), (1, "b")], false).0,
            "abcde"
        );
    }

    #[test]
    fn what_came_twice_is_handed_on_once() {
        assert_eq!(run(&[(0, "abc"), (0, "abc"), (3, "d")], false).0, "abcd");
        assert_eq!(
            run(&[(0, "abc"), (1, "bcde"), (2, "cd"), (5, "f")], false).0,
            "abcdef"
        );
        assert_eq!(
            run(&[(0, "a"), (2, "cd"), (2, "cd"), (1, "bcdef")], false).0,
            "abcdef"
        );
    }

    #[test]
    fn what_was_not_captured_is_counted() {
        let mut stream = Stream::default();
        let mut out = String::new();
        let packets = [
            (10, 100, "head"),
            (10, 100, "head"),
            (60, 100, "xx"),
            (160, 2, "ok"),
        ];
        for (sequence, len, text) in packets {
            let segment = Segment {
                at: 1,
                sequence,
                len,
                bytes: text.as_bytes(),
            };
            stream.take(segment, true, |_, _| false, |piece| show(&mut out, piece));
        }
        assert_eq!(out, "head[96][50]ok");
    }

    #[test]
    fn a_hole_is_declared_when_its_record_was_lost_and_at_the_end() {
        assert_eq!(run(&[(0, "abc"), (6, "ghi"), (9, "j")], true).0, "abc[3]ghij");
        let (mut out, mut stream) = run(&[(0, "abc"), (6, "ghi")], false);
        assert_eq!(out, "abc");
        assert_eq!(stream.close(|piece| show(&mut out, piece)), 1);
        assert_eq!(out, "abc[3]ghi");
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut stream = Stream::default();
        let (bytes, mut handed, mut holes) = ([b'x'; 1024], 0, 0);
        for index in 0..1000u32 {
            let segment = Segment {
                at: 1,
                // The first is followed by a hole.
                sequence: index * 1024 + u32::from(index > 0),
                len: 1024,
                bytes: &bytes,
            };
            holes += stream.take(
                segment,
                index == 0,
                |_, _| false,
                |piece| handed += piece.bytes.len(),
            );
            assert!(stream.memory() <= MAX_HELD_BYTES + 2 * MAX_HELD * size_of::<Held>());
        }
        assert_eq!((handed, holes), (1000 * 1024, 1));
    }

    #[test]
    fn a_stream_whose_begin_was_lost_begins_with_what_there_is() {
        let mut stream = Stream::default();
        let mut out = String::new();
        for (lost, sequence, text) in [(false, 7, "late"), (true, 3, "more")] {
            let segment = Segment {
                at: 1,
                sequence,
                len: 4,
                bytes: text.as_bytes(),
            };
            stream.take(segment, false, |_, _| lost, |piece| show(&mut out, piece));
        }
        assert_eq!(out, "morelate");
    }
}
