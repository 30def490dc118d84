//! Signed documents: manifests and tombstones.
//!
//! `{"document": …, "public_key": "…", "signature": "…"}`. The signature (Ed25519) is over the bytes of `document` as
//! they stand in the file, so checking one needs no canonical form of JSON.

use std::{
    fs::OpenOptions,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Bytes as lowercase hex digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    text
}

/// Hex digits as bytes; `None` when they are not.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8)
        })
        .collect()
}

/// SHA-256 as hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Random bytes as hex digits.
pub fn random(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the system gives no random numbers"))?;
    Ok(hex(&random))
}

/// A signing key.
#[derive(Debug)]
pub struct Key {
    pair: Ed25519KeyPair,
    /// The public half, hex.
    pub public: String,
}

impl Key {
    /// A key of 32 secret bytes in hex.
    pub fn from_hex(text: &str) -> io::Result<Key> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "it is not 64 hex digits");
        let seed = unhex(text.trim()).ok_or_else(broken)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| broken())?;
        let public = hex(pair.public_key().as_ref());
        Ok(Key { pair, public })
    }

    /// Reads the key of a file. When there is none, a new one is made, readable by its owner alone.
    pub fn load(path: &Path) -> io::Result<Key> {
        match OpenOptions::new().read(true).open(path) {
            Ok(mut file) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                Key::from_hex(&text)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = random(32)?;
                let draft = path.with_extension("tmp");
                let mut file = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&draft)?;
                file.write_all(text.as_bytes())?;
                file.write_all(b"\n")?;
                file.sync_all()?;
                std::fs::rename(&draft, path)?;
                Key::from_hex(&text)
            }
            Err(error) => Err(error),
        }
    }

    /// A document with its signature, as the bytes of a file.
    pub fn sign<T: Serialize>(&self, document: &T) -> Result<Vec<u8>, serde_json::Error> {
        let document = serde_json::value::to_raw_value(document)?;
        let signature = hex(self.pair.sign(document.get().as_bytes()).as_ref());
        let mut bytes = serde_json::to_vec(&Signed {
            document,
            public_key: self.public.clone(),
            signature,
        })?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

#[derive(Serialize, Deserialize)]
struct Signed {
    document: Box<RawValue>,
    public_key: String,
    signature: String,
}

/// A document that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened<T> {
    /// The document.
    pub document: T,
    /// Whose signature it has, hex.
    pub public_key: String,
    /// Whether that signature is right.
    pub authentic: bool,
}

/// Reads a signed document.
pub fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<Opened<T>, serde_json::Error> {
    let signed: Signed = serde_json::from_slice(bytes)?;
    let authentic = match (unhex(&signed.public_key), unhex(&signed.signature)) {
        (Some(key), Some(signature)) => UnparsedPublicKey::new(&ED25519, key)
            .verify(signed.document.get().as_bytes(), &signature)
            .is_ok(),
        _ => false,
    };
    Ok(Opened {
        document: serde_json::from_str(signed.document.get())?,
        public_key: signed.public_key,
        authentic,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_document_and_one_key() {
        let key = Key::from_hex(&"07".repeat(32)).unwrap();
        let bytes = key.sign(&("text", 1)).unwrap();
        let opened: Opened<(String, u64)> = open(&bytes).unwrap();
        assert!(opened.authentic);
        assert_eq!(opened.document, ("text".to_owned(), 1));
        assert_eq!(opened.public_key, key.public);
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in [("text", "fext"), (&key.public[..4], "0000")] {
            let changed = text.replacen(from, to, 1);
            assert!(
                !open::<(String, u64)>(changed.as_bytes()).unwrap().authentic,
                "{from}"
            );
        }
    }

    #[test]
    fn a_key_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signing.key");
        let made = Key::load(&path).unwrap();
        assert_eq!(Key::load(&path).unwrap().public, made.public);
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        assert!(Key::load(&path).is_err());
    }

    #[test]
    fn hex_reads_back() {
        assert_eq!(hex(&[0, 15, 255]), "000fff");
        assert_eq!(unhex("000fff"), Some(vec![0, 15, 255]));
        assert_eq!((unhex("0"), unhex("0g")), (None, None));
    }
}
