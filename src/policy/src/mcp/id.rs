//! JSON-RPC ids as servers understand them, which is not always as they were written.

use std::borrow::Cow;

/// Integers below are themselves in every language.
const EXACT_END: u128 = 1 << 53;

/// What an id means: two that mean the same may be answered alike. `None` for one that can name no message.
///
/// A string is the same however it is escaped, and never a number. A number is what a server that knows only 64-bit
/// floats makes of it: `-0` is `0`, and beyond 2^53 neighbours are one.
pub fn meaning(id: &str) -> Option<Cow<'_, str>> {
    if id.starts_with('"') {
        return serde_json::from_str::<String>(id).ok().map(|text| Cow::Owned(format!("\"{text}")));
    }
    if id == "null" {
        return None;
    }
    let digits = id.strip_prefix('-').unwrap_or(id);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Cow::Borrowed(id));
    }
    let sign = if digits.len() < id.len() { "-" } else { "" };
    Some(match digits.parse::<u128>() {
        Ok(0) => Cow::Borrowed("0"),
        Ok(number) if number < EXACT_END => Cow::Borrowed(id),
        // Cast so that it is rounded as those servers round.
        Ok(number) => Cow::Owned(format!("{sign}~{}", (number as f64).to_bits())),
        // Nobody numbers messages so: that all of them are one costs nobody anything.
        Err(_) => Cow::Owned(format!("{sign}~")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_some_server_takes_for_one_mean_the_same() {
        for (one, other) in [
            ("\"a\"", "\"\\u0061\""),
            ("0", "-0"),
            ("9007199254740993", "9007199254740992"),
            ("-9007199254740993", "-9007199254740992"),
            ("99999999999999999999", "100000000000000000000"),
            ("1234567890123456789012345678901234567890", "9934567890123456789012345678901234567890"),
        ] {
            assert_eq!(meaning(one).unwrap(), meaning(other).unwrap(), "{one} {other}");
        }
        for (one, other) in
            [("1", "\"1\""), ("1", "-1"), ("9007199254740991", "9007199254740992"), ("1e3", "1000")]
        {
            assert_ne!(meaning(one).unwrap(), meaning(other).unwrap(), "{one} {other}");
        }
        assert_eq!((meaning("null"), meaning("\"a")), (None, None));
    }
}
