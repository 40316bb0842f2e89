//! UUIDs as numbers: made, written, read. Time and randomness come from the caller.

use protocol::Timestamp;

/// A UUIDv7: ids that grow with time keep the ledger's pages together.
pub fn v7(now: Timestamp, random: u128) -> u128 {
    const VERSION: u128 = 7 << 76;
    const VARIANT: u128 = 2 << 62;
    let random = random & !(u128::MAX << 76) & !(3 << 62);
    (u128::from(now.as_millis()) << 80) | VERSION | VARIANT | random
}

/// As text, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
pub fn text(bits: u128) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut places = text.iter_mut().enumerate().filter(|(place, _)| !matches!(place, 8 | 13 | 18 | 23));
    for byte in bits.to_be_bytes() {
        for nibble in [byte >> 4, byte & 15] {
            if let (Some((_, place)), Some(digit)) = (places.next(), DIGITS.get(usize::from(nibble))) {
                *place = *digit;
            }
        }
    }
    std::str::from_utf8(&text).unwrap_or_default().to_owned()
}

/// From text.
pub fn parse(text: &str) -> Option<u128> {
    let digits = || text.bytes().filter(|byte| *byte != b'-');
    if text.len() != 36 || digits().count() != 32 {
        return None;
    }
    digits().try_fold(0u128, |bits, digit| {
        let nibble = char::from(digit).to_digit(16)?;
        Some((bits << 4) | u128::from(nibble))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_its_time_version_and_variant_and_survives_being_written() {
        let now = Timestamp::from_millis(0x0199_1234_5678);
        for random in [0, u128::MAX, 0x1234_5678_9abc_def0_1122_3344_5566_7788] {
            let bits = v7(now, random);
            let text = text(bits);
            assert!(text.starts_with("01991234-5678-7"), "{text}");
            assert!(text.chars().nth(19).is_some_and(|digit| "89ab".contains(digit)), "{text}");
            assert_eq!(parse(&text), Some(bits));
        }
        assert_eq!(parse("01991234-5678-7"), None);
    }
}
