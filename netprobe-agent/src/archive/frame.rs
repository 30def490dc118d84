//! Frames of an open segment: `length u32, crc32 u32, seq u64` little endian, then that many bytes, one line of JSON
//! with its newline. The CRC is over length, number and bytes. Numbers rise.
//!
//! An encrypted segment has 16 random bytes behind its magic number, and in every frame the line
//! [encrypted](super::cipher), bound to length and number, with its tag. The CRC is over what stands in the file: damage
//! is told from a wrong key.
//!
//! A file that ends within a frame is torn: nobody was promised that frame. Anything else that does not fit is
//! corrupt. Neither is an error: reading ends there, and says so.

use std::{
    io::{self, Read},
    ops::Deref,
};

use super::cipher::{self, Cipher, SALT, SpoolKey, TAG};

/// First bytes of an open segment: name and version of its format.
pub const MAGIC: &[u8; 8] = b"npspool1";
/// The same of an encrypted one.
pub const MAGIC_ENCRYPTED: &[u8; 8] = b"npspool2";

/// Bytes before the line.
pub const HEAD: usize = 16;

/// Longest line: many times what an event can be, and little enough to hold.
const LONGEST: usize = 1 << 20;

/// Makes the frames of one file.
#[derive(Debug)]
pub struct Framer {
    /// First bytes of the file.
    pub begin: Vec<u8>,
    cipher: Option<Cipher>,
}

impl Framer {
    /// For a new file, encrypted if there is a key.
    pub fn new(key: Option<&SpoolKey>) -> io::Result<Framer> {
        let Some(key) = key else {
            return Ok(Framer {
                begin: MAGIC.to_vec(),
                cipher: None,
            });
        };
        let salt = cipher::salt()?;
        Ok(Framer {
            begin: [MAGIC_ENCRYPTED.as_slice(), &salt].concat(),
            cipher: Some(key.cipher(&salt)?),
        })
    }

    /// Appends a frame around what `line` writes, and gives the length of that. After an error the bytes are as they
    /// were.
    pub fn put<E>(
        &mut self,
        bytes: &mut Vec<u8>,
        seq: u64,
        line: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> io::Result<usize>
    where
        io::Error: From<E>,
    {
        let begin = bytes.len();
        bytes.extend_from_slice(&[0; HEAD]);
        let put = line(bytes).map_err(io::Error::from);
        let put = put.and_then(|()| self.frame(bytes, begin, seq));
        if put.is_err() {
            bytes.truncate(begin);
        }
        put
    }

    /// Makes a frame of the line behind the room for its head; the length of the line.
    fn frame(&mut self, bytes: &mut Vec<u8>, begin: usize, seq: u64) -> io::Result<usize> {
        let plain = bytes.len() - begin - HEAD;
        let len = plain + self.cipher.as_ref().map_or(0, |_| TAG);
        bytes[begin..][..4].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[begin + 8..][..8].copy_from_slice(&seq.to_le_bytes());
        if let Some(cipher) = &mut self.cipher {
            let bound = bound(&bytes[begin..]);
            cipher.seal(&bound, bytes, begin + HEAD)?;
        }
        let crc = checksum(&bytes[begin..]);
        bytes[begin + 4..][..4].copy_from_slice(&crc.to_le_bytes());
        Ok(plain)
    }
}

/// What an encrypted line is bound to: length and number.
fn bound(frame: &[u8]) -> [u8; 12] {
    let mut bound = [0; 12];
    bound[..4].copy_from_slice(&frame[..4]);
    bound[4..].copy_from_slice(&frame[8..HEAD]);
    bound
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
    /// A whole frame that the key at hand does not open.
    Locked,
}

/// Reads the frames of one segment.
#[derive(Debug)]
pub struct Frames<K, R> {
    reader: R,
    key: Option<K>,
    coding: Coding,
    frame: Vec<u8>,
    /// Bytes up to the end of the last whole frame.
    pub good: u64,
    last_seq: u64,
}

/// How the lines of a segment are written.
#[derive(Debug)]
enum Coding {
    /// Nothing of it was read yet.
    Unknown,
    Plain,
    Encrypted(Cipher),
    /// Encrypted, and there is no key.
    Locked,
}

impl<K: Deref<Target = SpoolKey>, R: Read> Frames<K, R> {
    /// Reads from the begin of a segment; with a key also one that is encrypted.
    pub fn new(reader: R, key: Option<K>) -> Frames<K, R> {
        Frames {
            reader,
            key,
            coding: Coding::Unknown,
            frame: Vec::new(),
            good: 0,
            last_seq: 0,
        }
    }

    /// The next frame. After anything but a frame there is nothing more to read.
    pub fn read(&mut self) -> io::Result<Next<'_>> {
        if matches!(self.coding, Coding::Unknown)
            && let Some(end) = self.begin()?
        {
            return Ok(end);
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
        let bound = bound(&self.frame);
        let line = &mut self.frame[HEAD..];
        let line = match &mut self.coding {
            Coding::Plain => Some(&*line),
            Coding::Encrypted(cipher) => cipher.open(&bound, line),
            Coding::Unknown | Coding::Locked => None,
        };
        let Some(line) = line else {
            return Ok(Next::Locked);
        };
        self.last_seq = seq;
        self.good += (HEAD + len) as u64;
        Ok(Next::Frame { seq, line })
    }

    /// Reads what stands before the frames; how it ends there, if it does.
    fn begin(&mut self) -> io::Result<Option<Next<'static>>> {
        let mut magic = [0; MAGIC.len()];
        let got = fill(&mut self.reader, &mut magic)?;
        if got < magic.len() {
            let torn = [MAGIC, MAGIC_ENCRYPTED]
                .iter()
                .any(|known| known.starts_with(&magic[..got]));
            return Ok(Some(if torn { Next::Torn } else { Next::Corrupt }));
        }
        self.good = magic.len() as u64;
        if magic == *MAGIC {
            self.coding = Coding::Plain;
            return Ok(None);
        }
        if magic != *MAGIC_ENCRYPTED {
            self.good = 0;
            return Ok(Some(Next::Corrupt));
        }
        let mut salt = [0; SALT];
        if fill(&mut self.reader, &mut salt)? < SALT {
            self.good = 0;
            return Ok(Some(Next::Torn));
        }
        self.good += SALT as u64;
        self.coding = match &self.key {
            Some(key) => Coding::Encrypted(key.cipher(&salt)?),
            None => Coding::Locked,
        };
        Ok(None)
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
    use super::*;

    fn segment(frames: &[(u64, &str)]) -> Vec<u8> {
        coded(None, frames)
    }

    fn coded(key: Option<&SpoolKey>, frames: &[(u64, &str)]) -> Vec<u8> {
        let mut framer = Framer::new(key).unwrap();
        let mut bytes = framer.begin.clone();
        for (seq, line) in frames {
            let put = framer.put(&mut bytes, *seq, |bytes| {
                bytes.extend_from_slice(line.as_bytes());
                Ok::<_, io::Error>(())
            });
            assert_eq!(put.unwrap(), line.len());
        }
        bytes
    }

    /// Numbers of whole frames, how it ended, and where.
    fn read(bytes: &[u8]) -> (Vec<u64>, &'static str, u64) {
        read_with(None, bytes)
    }

    fn read_with(key: Option<&SpoolKey>, bytes: &[u8]) -> (Vec<u64>, &'static str, u64) {
        let (mut frames, mut seqs) = (Frames::new(bytes, key), Vec::new());
        loop {
            let end = match frames.read().unwrap() {
                Next::Frame { seq, .. } => {
                    seqs.push(seq);
                    continue;
                }
                Next::End => "end",
                Next::Torn => "torn",
                Next::Corrupt => "corrupt",
                Next::Locked => "locked",
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

    #[test]
    fn an_encrypted_segment_needs_its_key_and_shows_nothing() {
        let key = SpoolKey::from_hex(&"07".repeat(32)).unwrap();
        let bytes = coded(Some(&key), &[(1, "a secret\n"), (5, "another\n")]);
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        assert_eq!(
            read_with(Some(&key), &bytes),
            (vec![1, 5], "end", bytes.len() as u64)
        );
        let other = SpoolKey::from_hex(&"08".repeat(32)).unwrap();
        assert_eq!(read_with(Some(&other), &bytes).1, "locked");
        assert_eq!(read(&bytes), (vec![], "locked", 24));
        // A plain one is read with a key as without.
        assert_eq!(read_with(Some(&key), &segment(&[(1, "a\n")])).0, [1]);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (seqs, end, _) = read_with(Some(&key), &bytes);
            assert!(seqs.len() < 2 && end != "end", "bit {bit}: {seqs:?} {end}");
        }
        for cut in 0..bytes.len() {
            assert_ne!(read_with(Some(&key), &bytes[..cut]).1, "corrupt", "{cut}");
        }
    }
}
