//! Frames of an open segment: `length u32, crc32 u32, seq u64` little endian, then that many bytes, one line of JSON
//! with its newline. The CRC is over length, number and bytes. Numbers rise.
//!
//! A file that ends within a frame is torn: nobody was promised that frame. Anything else that does not fit is
//! corrupt. Neither is an error: reading ends there, and says so.

use std::io::{self, Read};

/// First bytes of an open segment: name and version of its format.
pub const MAGIC: &[u8; 8] = b"npspool1";

/// Bytes before the line.
pub const HEAD: usize = 16;

/// Longest line: many times what an event can be, and little enough to hold.
const LONGEST: usize = 1 << 20;

/// Appends a frame around what `line` writes. After an error the bytes are as they were.
pub fn put<E>(
    bytes: &mut Vec<u8>,
    seq: u64,
    line: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let begin = bytes.len();
    bytes.extend_from_slice(&[0; HEAD]);
    if let Err(error) = line(bytes) {
        bytes.truncate(begin);
        return Err(error);
    }
    let len = (bytes.len() - begin - HEAD) as u32;
    bytes[begin..][..4].copy_from_slice(&len.to_le_bytes());
    bytes[begin + 8..][..8].copy_from_slice(&seq.to_le_bytes());
    let crc = checksum(&bytes[begin..]);
    bytes[begin + 4..][..4].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Of a frame, without the checksum itself.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// How a segment goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A whole frame.
    Frame {
        /// Number of the event.
        seq: u64,
        /// Its line.
        line: &'a [u8],
    },
    /// The segment ends here.
    End,
    /// It ends within a frame.
    Torn,
    /// What follows is no frame.
    Corrupt,
}

/// Reads the frames of one segment.
#[derive(Debug)]
pub struct Frames<R> {
    reader: R,
    frame: Vec<u8>,
    /// Bytes up to the end of the last whole frame.
    pub good: u64,
    last_seq: u64,
    begun: bool,
}

impl<R: Read> Frames<R> {
    /// Reads from the begin of a segment.
    pub fn new(reader: R) -> Frames<R> {
        Frames {
            reader,
            frame: Vec::new(),
            good: 0,
            last_seq: 0,
            begun: false,
        }
    }

    /// The next frame. After anything but a frame there is nothing more to read.
    pub fn read(&mut self) -> io::Result<Next<'_>> {
        if !self.begun {
            let mut magic = [0; MAGIC.len()];
            let got = fill(&mut self.reader, &mut magic)?;
            if got < magic.len() {
                let torn = MAGIC.starts_with(&magic[..got]);
                return Ok(if torn { Next::Torn } else { Next::Corrupt });
            }
            if magic != *MAGIC {
                return Ok(Next::Corrupt);
            }
            self.begun = true;
            self.good = MAGIC.len() as u64;
        }
        self.frame.resize(HEAD, 0);
        match fill(&mut self.reader, &mut self.frame)? {
            0 => return Ok(Next::End),
            HEAD => {}
            _ => return Ok(Next::Torn),
        }
        let [l0, l1, l2, l3, c0, c1, c2, c3, seq @ ..] = &self.frame[..] else {
            return Ok(Next::Corrupt);
        };
        let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        let crc = u32::from_le_bytes([*c0, *c1, *c2, *c3]);
        let Ok(seq) = seq.try_into().map(u64::from_le_bytes) else {
            return Ok(Next::Corrupt);
        };
        if len == 0 || len > LONGEST || seq <= self.last_seq {
            return Ok(Next::Corrupt);
        }
        self.frame.resize(HEAD + len, 0);
        if fill(&mut self.reader, &mut self.frame[HEAD..])? < len {
            return Ok(Next::Torn);
        }
        if checksum(&self.frame) != crc {
            return Ok(Next::Corrupt);
        }
        self.last_seq = seq;
        self.good += (HEAD + len) as u64;
        Ok(Next::Frame {
            seq,
            line: &self.frame[HEAD..],
        })
    }
}

/// Reads until the buffer is full or the file ends; how much there was.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match reader.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn segment(frames: &[(u64, &str)]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (seq, line) in frames {
            let Ok(()) = put(&mut bytes, *seq, |bytes| {
                bytes.extend_from_slice(line.as_bytes());
                Ok::<_, Infallible>(())
            });
        }
        bytes
    }

    /// Numbers of whole frames, how it ended, and where.
    fn read(bytes: &[u8]) -> (Vec<u64>, &'static str, u64) {
        let (mut frames, mut seqs) = (Frames::new(bytes), Vec::new());
        loop {
            let end = match frames.read().unwrap() {
                Next::Frame { seq, .. } => {
                    seqs.push(seq);
                    continue;
                }
                Next::End => "end",
                Next::Torn => "torn",
                Next::Corrupt => "corrupt",
            };
            return (seqs, end, frames.good);
        }
    }

    #[test]
    fn frames_read_back() {
        let bytes = segment(&[(1, "a\n"), (5, "bc\n")]);
        assert_eq!(read(&bytes), (vec![1, 5], "end", bytes.len() as u64));
        assert_eq!(read(b""), (vec![], "torn", 0));
        assert_eq!(read(b"something else"), (vec![], "corrupt", 0));
    }

    #[test]
    fn a_cut_anywhere_is_torn_and_leaves_what_was_whole() {
        let bytes = segment(&[(1, "first\n"), (2, "second\n")]);
        let first = segment(&[(1, "first\n")]).len();
        for cut in 0..bytes.len() {
            let (seqs, end, good) = read(&bytes[..cut]);
            let whole = usize::from(cut >= first);
            assert_eq!(seqs.len(), whole, "{cut}");
            assert_eq!(
                end,
                if cut == 8 || cut == first { "end" } else { "torn" },
                "{cut}"
            );
            assert!(good as usize <= cut);
        }
    }

    #[test]
    fn a_changed_bit_anywhere_is_found() {
        let bytes = segment(&[(1, "first\n"), (2, "second\n")]);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (seqs, end, _) = read(&bytes);
            assert!(seqs.len() < 2 && end != "end", "bit {bit}: {seqs:?} {end}");
        }
    }

    #[test]
    fn numbers_must_rise() {
        assert_eq!(read(&segment(&[(2, "a\n"), (2, "b\n")])).1, "corrupt");
        assert_eq!(read(&segment(&[(2, "a\n"), (1, "b\n")])).0, [2]);
    }
}
