//! Creates, writes and reads UUIDs as numbers. The caller supplies time and randomness.

use crate::Timestamp;
use std::ops::Deref;

const BYTES: usize = 36;

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

/// Creates a UUIDv7. Its value increases with time, so new rows are close together in the ledger's database pages.
pub fn v7(now: Timestamp, random: u128) -> u128 {
    const VERSION: u128 = 7 << 76;
    const VARIANT: u128 = 2 << 62;
    let random = random & !(u128::MAX << 76) & !(3 << 62);
    (u128::from(now.as_millis()) << 80) | VERSION | VARIANT | random
}

/// Writes a UUID as text.
pub fn text(bits: u128) -> Text {
    /// The position of each byte's digits in the text; dashes fill the other positions.
    const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let mut text = [b'-'; BYTES];
    for (byte, place) in bits.to_be_bytes().into_iter().zip(PLACES) {
        if let Some(digits) = text.get_mut(place..).and_then(<[u8]>::first_chunk_mut) {
            *digits = [byte >> 4, byte & 15].map(digit);
        }
    }
    Text(text)
}

/// The hexadecimal digit of a value from 0 to 15.
fn digit(value: u8) -> u8 {
    let letters = if value < 10 { b'0' } else { b'a'.wrapping_sub(10) };
    letters.wrapping_add(value)
}

/// Reads a UUID from text. `None` if it is not one.
pub fn parse(text: &str) -> Option<u128> {
    if text.len() != BYTES {
        return None;
    }
    let mut digits = 0u8;
    let mut bits = 0u128;
    for byte in text.bytes().filter(|byte| *byte != b'-') {
        bits = (bits << 4) | u128::from(char::from(byte).to_digit(16)?);
        digits = digits.saturating_add(1);
    }
    (digits == 32).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_its_time_version_and_variant_and_survives_being_written() {
        let now = Timestamp::from_millis(0x0199_1234_5678);
        for random in [0, u128::MAX, 0x1234_5678_9abc_def0_1122_3344_5566_7788] {
            let bits = v7(now, random);
            let text = &*text(bits);
            assert!(text.starts_with("01991234-5678-7"), "{text}");
            assert!(text.chars().nth(19).is_some_and(|digit| "89ab".contains(digit)), "{text}");
            assert_eq!(parse(text), Some(bits));
        }
        assert_eq!(parse("01991234-5678-7"), None);
        assert_eq!(parse("01991234-5678-7000-8000-00000000000g"), None);
        assert_eq!(parse("01991234-5678-7000-8000-0000000000-0"), None);
    }
}
