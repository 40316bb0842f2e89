//! Creates, writes and reads UUIDs. The caller supplies time and randomness.

use crate::Timestamp;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::Deref;

const BYTES: usize = 36;
/// The position of each byte's digits in the text; dashes fill the other positions.
const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// A UUID. UUIDs are ordered as their texts are. Bytes, because a number would be padded to 32 bytes in an `Option`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uuid([u8; 16]);

/// A UUID as text, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, without a heap allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text([u8; BYTES]);

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        // The bytes are always ASCII, so this can't fail.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Uuid {
    /// Creates a UUIDv7. Its value increases with time, so new rows are close together in the ledger's database pages.
    pub fn v7(now: Timestamp, random: u128) -> Uuid {
        const VERSION: u128 = 7 << 76;
        const VARIANT: u128 = 2 << 62;
        let random = random & !(u128::MAX << 76) & !(3 << 62);
        Uuid::from_bits((u128::from(now.as_millis()) << 80) | VERSION | VARIANT | random)
    }

    /// The UUID with this value.
    pub const fn from_bits(bits: u128) -> Uuid {
        Uuid(bits.to_be_bytes())
    }

    /// The value as a number.
    pub const fn bits(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// The UUID as text.
    pub fn text(self) -> Text {
        let mut text = [b'-'; BYTES];
        for (byte, place) in self.0.into_iter().zip(PLACES) {
            if let Some(digits) = text.get_mut(place..).and_then(<[u8]>::first_chunk_mut) {
                *digits = [byte >> 4, byte & 15].map(digit);
            }
        }
        Text(text)
    }

    /// Reads a UUID from text. `None` if it is not one.
    pub fn parse(text: &str) -> Option<Uuid> {
        let text: &[u8; BYTES] = text.as_bytes().try_into().ok()?;
        let mut bits = 0u128;
        let mut read = [b'-'; BYTES];
        for place in PLACES {
            let digits: &[u8; 2] = text.get(place..)?.first_chunk()?;
            *read.get_mut(place..)?.first_chunk_mut()? = *digits;
            for digit in digits {
                bits = (bits << 4) | u128::from(char::from(*digit).to_digit(16)?);
            }
        }
        // What is no digit must be a dash.
        (read == *text).then_some(Uuid::from_bits(bits))
    }
}

/// The hexadecimal digit of a value from 0 to 15.
fn digit(value: u8) -> u8 {
    let letters = if value < 10 { b'0' } else { b'a'.wrapping_sub(10) };
    letters.wrapping_add(value)
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        deserializer.deserialize_str(Written)
    }
}

/// Reads a UUID without a copy of its text.
struct Written;

impl Visitor<'_> for Written {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a UUID, 36 characters with dashes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Uuid, E> {
        Uuid::parse(text).ok_or_else(|| E::custom("an id of this kind is a UUID, 36 characters with dashes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_its_time_version_and_variant_and_survives_being_written() {
        let now = Timestamp::from_millis(0x0199_1234_5678);
        for random in [0, u128::MAX, 0x1234_5678_9abc_def0_1122_3344_5566_7788] {
            let uuid = Uuid::v7(now, random);
            let text = &*uuid.text();
            assert!(text.starts_with("01991234-5678-7"), "{text}");
            assert!(text.chars().nth(19).is_some_and(|digit| "89ab".contains(digit)), "{text}");
            assert_eq!(Uuid::parse(text), Some(uuid));
            assert_eq!(serde_json::from_str::<Uuid>(&serde_json::to_string(&uuid).unwrap()).unwrap(), uuid);
        }
        for text in [
            "01991234-5678-7",
            "01991234-5678-7000-8000-00000000000g",
            "01991234-5678-7000-8000-0000000000-0",
            "01991234-56787-000-8000-000000000000",
            "01991234x5678x7000x8000x000000000000",
            "0199123456787000800000000000000000000",
        ] {
            assert_eq!(Uuid::parse(text), None, "{text}");
        }
    }
}
