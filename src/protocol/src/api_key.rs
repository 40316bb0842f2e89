//! The format of a credential, and its hash.
//!
//! A secret is `<prefix><40 characters of body><6 of checksum>`; body and checksum are base62. With the checksum, the
//! filter can refuse a mistyped or invented credential without a ledger call, and secret scanners can recognise a leaked
//! one. Only the SHA-256 of the whole string is ever stored or compared.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// Length of the random part after the prefix: 40 base62 digits are 238 bits of entropy.
const BODY_BYTES: usize = 40;
/// Six base62 digits are enough for any CRC-32.
const CHECKSUM_BYTES: usize = 6;
const PREFIX_BYTES: usize = 4;
/// Length of every secret, in bytes.
pub const SECRET_BYTES: usize = PREFIX_BYTES + BODY_BYTES + CHECKSUM_BYTES;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// What a credential is for. Each kind has its own prefix, and no API accepts a credential of another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An agent's key, `ark_...`.
    Agent,
    /// An administrator's credential for the ledger, `ara_...`.
    Admin,
    /// The filter's own credential for the ledger, `arf_...`.
    Filter,
}

impl Kind {
    const fn prefix(self) -> &'static [u8; PREFIX_BYTES] {
        match self {
            Kind::Agent => b"ark_",
            Kind::Admin => b"ara_",
            Kind::Filter => b"arf_",
        }
    }
}

/// Creates a secret. `draw` returns uniformly random bytes; bytes that would bias a digit are drawn again.
pub fn mint(kind: Kind, mut draw: impl FnMut() -> u8) -> String {
    let mut secret = Vec::with_capacity(SECRET_BYTES);
    secret.extend_from_slice(kind.prefix());
    while secret.len() < PREFIX_BYTES.saturating_add(BODY_BYTES) {
        // 248 = 4 * 62: bytes from 248 on would make the first eight digits more likely.
        if let Some(digit) = Some(draw()).filter(|byte| *byte < 248).and_then(|byte| digit(u32::from(byte))) {
            secret.push(digit);
        }
    }
    let checksum = checksum(&secret);
    secret.extend_from_slice(&checksum);
    secret.into_iter().map(char::from).collect()
}

/// True if `credential` has the format of this kind and a correct checksum. This does not mean that it exists.
pub fn is_well_formed(kind: Kind, credential: &[u8]) -> bool {
    let Some((signed, sum)) = credential.split_at_checked(PREFIX_BYTES.saturating_add(BODY_BYTES)) else {
        return false;
    };
    signed.starts_with(kind.prefix())
        && signed.iter().skip(PREFIX_BYTES).all(u8::is_ascii_alphanumeric)
        && sum == checksum(signed)
}

fn checksum(signed: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut rest = crc32(signed);
    let mut digits = [b'0'; CHECKSUM_BYTES];
    for place in digits.iter_mut().rev() {
        *place = digit(rest).unwrap_or(b'0');
        rest /= 62;
    }
    digits
}

/// CRC-32 as in zlib. Not from a crate, because its sixteen tables for long inputs would cost each worker 15 KB.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut rest = table.as_mut_slice();
        let mut byte: u32 = 0;
        while let Some((entry, after)) = rest.split_first_mut() {
            let mut bits = 0;
            *entry = byte;
            while bits < 8 {
                *entry = (*entry >> 1) ^ (0xedb8_8320 & (*entry & 1).wrapping_neg());
                bits = u32::wrapping_add(bits, 1);
            }
            byte = byte.wrapping_add(1);
            rest = after;
        }
        table
    };
    let sum = bytes.iter().fold(u32::MAX, |sum, byte| {
        let [low, ..] = sum.to_le_bytes();
        (sum >> 8) ^ TABLE.get(usize::from(low ^ byte)).copied().unwrap_or_default()
    });
    !sum
}

/// The base62 digit of `value` modulo 62.
fn digit(value: u32) -> Option<u8> {
    BASE62.get(usize::try_from(value % 62).ok()?).copied()
}

/// SHA-256 of a whole credential: the only form in which the ledger and the filter store or compare one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// Hashes the credential exactly as it was sent.
    pub fn of(credential: &[u8]) -> KeyHash {
        KeyHash(Sha256::digest(credential).into())
    }

    /// Creates a hash from its 32 stored bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> KeyHash {
        KeyHash(bytes)
    }

    /// The 32 bytes to store.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({self})")
    }
}

impl TryFrom<String> for KeyHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const INVALID: &str = "a key hash is 64 lowercase hexadecimal digits";
        let mut bytes = [0; 32];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(INVALID);
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = (nibble(*high).ok_or(INVALID)? << 4) | nibble(*low).ok_or(INVALID)?;
        }
        Ok(KeyHash(bytes))
    }
}

impl From<KeyHash> for String {
    fn from(hash: KeyHash) -> String {
        hash.to_string()
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => digit.checked_sub(b'0'),
        b'a'..=b'f' => digit.checked_sub(b'a').and_then(|value| value.checked_add(10)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minted(kind: Kind) -> String {
        let mut next = 7u8;
        mint(kind, || {
            next = next.wrapping_mul(31).wrapping_add(11);
            next
        })
    }

    #[test]
    fn a_minted_secret_is_well_formed_for_its_own_kind_only() {
        let secret = minted(Kind::Agent);
        assert_eq!(secret.len(), SECRET_BYTES);
        assert!(is_well_formed(Kind::Agent, secret.as_bytes()));
        assert!(!is_well_formed(Kind::Admin, secret.as_bytes()));
        assert!(!is_well_formed(Kind::Filter, secret.as_bytes()));
    }

    #[test]
    fn a_single_changed_byte_breaks_the_checksum() {
        let secret = minted(Kind::Agent).into_bytes();
        for place in 0..secret.len() {
            let mut changed = secret.clone();
            changed[place] = if changed[place] == b'x' { b'y' } else { b'x' };
            assert!(!is_well_formed(Kind::Agent, &changed), "byte {place}");
        }
        assert!(!is_well_formed(Kind::Agent, &secret[..secret.len() - 1]));
        assert!(!is_well_formed(Kind::Agent, b""));
    }

    #[test]
    fn the_checksum_is_the_standard_crc_32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn a_hash_survives_its_text_form() {
        let hash = KeyHash::of(b"ark_example");
        assert_eq!(KeyHash::try_from(hash.to_string()), Ok(hash));
        assert!(KeyHash::try_from("AB".repeat(32)).is_err());
        assert!(KeyHash::try_from("ab".repeat(31)).is_err());
    }
}
