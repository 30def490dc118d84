//! Tokens of the API. The configuration holds their hashes; a token itself is shown once, when it is made.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::value::as_text;

/// What a caller of the API may do.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything
    Reader,
    /// Also changes what can be changed while the agent runs
    Operator,
}

impl Role {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Operator => "operator",
        }
    }
}

/// What is kept of a token: whom it makes its bearer, and its SHA-256. Tokens are 256 random bits, so that a plain
/// hash gives nothing to guess.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenHash {
    /// What its bearer may do.
    pub role: Role,
    sha256: [u8; 32],
}

/// Begins every token, so that scanners for secrets find one that leaked.
const PREFIX: &str = "npt_";

impl TokenHash {
    /// What is kept of this token.
    pub fn of(role: Role, token: &str) -> TokenHash {
        TokenHash {
            role,
            sha256: Sha256::digest(token).into(),
        }
    }

    /// Makes a token of 256 random bits.
    pub fn make(role: Role) -> std::io::Result<(String, TokenHash)> {
        let mut random = [0_u8; 32];
        rustix::rand::getrandom(&mut random[..], rustix::rand::GetRandomFlags::empty())?;
        let token = format!("{PREFIX}{}", Hex(&random));
        let hash = TokenHash::of(role, &token);
        Ok((token, hash))
    }

    /// Whether this is the hash of what a caller brought, in a time that says nothing about either.
    pub fn is(&self, sha256: &[u8; 32]) -> bool {
        self.sha256.ct_eq(sha256).into()
    }
}

/// Bytes as lowercase hexadecimal digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.role.name(), Hex(&self.sha256))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The text is not repeated: it may be a token, set here by mistake.
        let wrong = "this is no hash of a token; `netprobe token new` makes a token and prints its hash";
        let (role, hex) = text.split_once(':').ok_or(wrong)?;
        let role = match role {
            "reader" => Role::Reader,
            "operator" => Role::Operator,
            _ => return Err(format!("{wrong}; it begins with `reader:` or `operator:`")),
        };
        let mut sha256 = [0; 32];
        if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(format!("{wrong}; 64 hexadecimal digits follow the role"));
        }
        for (byte, digits) in sha256.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong)?;
        }
        Ok(TokenHash { role, sha256 })
    }
}

as_text!(TokenHash);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        let (token, hash) = TokenHash::make(Role::Operator).unwrap();
        let (other, _) = TokenHash::make(Role::Operator).unwrap();
        assert!(token.starts_with("npt_") && token.len() == 68 && token != other);
        let read: TokenHash = hash.to_string().parse().unwrap();
        assert_eq!((&read, read.role), (&hash, Role::Operator));
        assert!(read.is(&Sha256::digest(&token).into()));
        assert!(!read.is(&Sha256::digest(&other).into()));
        assert!(!hash.to_string().contains(&token[4..]));
    }

    #[test]
    fn what_is_no_hash_is_refused_and_not_repeated() {
        let (token, hash) = TokenHash::make(Role::Reader).unwrap();
        let hex = hash.to_string()[7..].to_owned();
        for text in [
            token.clone(),
            format!("reader:{token}"),
            format!("root:{hex}"),
            format!("reader:{}", &hex[1..]),
            format!("reader:{}é", &hex[2..]),
            hex,
        ] {
            let error = text.parse::<TokenHash>().unwrap_err();
            assert!(
                error.contains("netprobe token new") && !error.contains(&token),
                "{error}"
            );
        }
    }
}
