//! Encryption of open segments: AES-256-GCM, a key of its own for every file.
//!
//! The file's key is HKDF-SHA256 of the secret and of 16 random bytes that stand in the file; the nonce is the place of
//! the frame in it. So no key ever meets a nonce twice: a file is written once, from front to end, by one writer.

use std::{fmt, fs, io, path::Path};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom, SystemRandom},
};

use super::signing;

/// Random bytes of a file.
pub const SALT: usize = 16;
/// Bytes that a frame grows by.
pub const TAG: usize = 16;

/// What the key of a file is for.
const PURPOSE: &[&[u8]] = &[b"netprobe open segment"];

/// The secret of a spool.
pub struct SpoolKey {
    secret: Vec<u8>,
}

impl fmt::Debug for SpoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SpoolKey")
    }
}

impl SpoolKey {
    /// A key of 32 secret bytes in hex.
    pub fn from_hex(text: &str) -> io::Result<SpoolKey> {
        let secret = signing::unhex(text.trim()).filter(|secret| secret.len() == 32);
        let secret =
            secret.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is not 64 hex digits"))?;
        Ok(SpoolKey { secret })
    }

    /// Reads the key of a file.
    pub fn load(path: &Path) -> io::Result<SpoolKey> {
        SpoolKey::from_hex(&fs::read_to_string(path)?)
    }

    /// The cipher of a file that begins with this salt.
    pub fn cipher(&self, salt: &[u8; SALT]) -> io::Result<Cipher> {
        let refused = |_| io::Error::other("no key can be made");
        let secret = Salt::new(HKDF_SHA256, salt).extract(&self.secret);
        let key = secret.expand(PURPOSE, &AES_256_GCM).map_err(refused)?;
        Ok(Cipher {
            key: Box::new(LessSafeKey::new(UnboundKey::from(key))),
            frames: 0,
        })
    }
}

/// Random bytes for a new file.
pub fn salt() -> io::Result<[u8; SALT]> {
    let mut salt = [0; SALT];
    SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(salt)
}

/// Encrypts or decrypts the frames of one file, in their order.
pub struct Cipher {
    /// Boxed: it is large, and most spools have none.
    key: Box<LessSafeKey>,
    frames: u64,
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cipher")
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

impl Cipher {
    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.frames.to_be_bytes());
        self.frames += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `bytes[from..]` and appends the tag. `bound` has to be the same when it is decrypted.
    pub fn seal(&mut self, bound: &[u8], bytes: &mut Vec<u8>, from: usize) -> io::Result<()> {
        let nonce = self.nonce();
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(bound), &mut bytes[from..])
            .map_err(|_| io::Error::other("a line is too long to be encrypted"))?;
        bytes.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts in place; `None` when it was another key, or other bytes.
    pub fn open<'a>(&mut self, bound: &[u8], bytes: &'a mut [u8]) -> Option<&'a [u8]> {
        let nonce = self.nonce();
        let line = self.key.open_in_place(nonce, Aad::from(bound), bytes);
        line.ok().map(|line| &*line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_open_in_their_order_and_place_only() {
        let key = SpoolKey::from_hex(&"07".repeat(32)).unwrap();
        let salt = salt().unwrap();
        let mut cipher = key.cipher(&salt).unwrap();
        let frame = |cipher: &mut Cipher, text: &[u8]| {
            let mut bytes = text.to_vec();
            cipher.seal(b"7", &mut bytes, 0).unwrap();
            bytes
        };
        let (one, two) = (frame(&mut cipher, b"one\n"), frame(&mut cipher, b"one\n"));
        assert_eq!(one.len(), 4 + TAG);
        assert_ne!(one, two, "a nonce of its own");
        let open = |key: &SpoolKey, frames: &[&[u8]], bound: &[u8]| {
            let mut cipher = key.cipher(&salt).unwrap();
            let mut frames = frames.iter().map(|frame| frame.to_vec());
            frames.all(|mut frame| cipher.open(bound, &mut frame) == Some(b"one\n"))
        };
        assert!(open(&key, &[&one, &two], b"7"));
        assert!(!open(&key, &[&two, &one], b"7"), "exchanged");
        assert!(!open(&key, &[&one], b"8"), "of another number");
        let other = SpoolKey::from_hex(&"08".repeat(32)).unwrap();
        assert!(!open(&other, &[&one], b"7"), "of another key");
        assert!(format!("{key:?}{cipher:?}").len() < 40, "no secret in sight");
    }

    #[test]
    fn a_key_is_64_hex_digits() {
        for wrong in ["", "07", "zz", &"07".repeat(31), &"07".repeat(33)] {
            assert!(SpoolKey::from_hex(wrong).is_err(), "{wrong}");
        }
        assert!(SpoolKey::from_hex(&format!("{}\n", "aF".repeat(32))).is_ok());
    }
}
