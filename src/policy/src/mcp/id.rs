//! JSON-RPC ids as servers understand them. Two ids that are written differently can be the same id.

use std::borrow::Cow;

/// The meaning of an id: servers may confuse two ids with the same meaning. `None` for an id that can't identify a message.
///
/// The escapes in a string do not matter, and a string is never a number. A number has the value that a server with 64-bit
/// floats gives it: `7.0` is `7`, `1e+21` is its digits, `-0` is `0`, and beyond 2^53 neighbouring numbers are the same.
pub fn meaning(id: &str) -> Option<Cow<'_, str>> {
    if id.starts_with('"') {
        return serde_json::from_str::<String>(id).ok().map(|text| Cow::Owned(format!("\"{text}")));
    }
    let is_number = id.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    let number = id.parse::<f64>().ok().filter(|_| is_number)?;
    Some(Cow::Owned((number + 0.0).to_bits().to_string()))
}

/// Like [`meaning`], but a string is the number in it: servers of the Python SDK keep `7` and `"7"` under one name.
pub fn loose_meaning(id: &str) -> Option<Cow<'_, str>> {
    let meaning = meaning(id)?;
    let number = meaning.strip_prefix('"').and_then(self::meaning).map(Cow::into_owned);
    Some(number.map_or(meaning, Cow::Owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_servers_may_confuse_have_the_same_meaning() {
        for (one, other) in [
            ("\"a\"", "\"\\u0061\""),
            ("\"\u{1f600}\"", "\"\\ud83d\\ude00\""),
            ("0", "-0"),
            ("7", "7.0"),
            ("7", "70e-1"),
            ("1000", "1e3"),
            ("1000000000000000000000", "1e+21"),
            ("1234567890123456789012", "1.2345678901234568e+21"),
            ("9007199254740993", "9007199254740992"),
            ("-9007199254740993", "-9007199254740992"),
            ("99999999999999999999", "100000000000000000000"),
        ] {
            assert_eq!(meaning(one).unwrap(), meaning(other).unwrap(), "{one} {other}");
        }
        for (one, other) in [
            ("1", "\"1\""),
            ("1", "-1"),
            ("9007199254740991", "9007199254740992"),
            ("0", "\"\""),
            ("\"a\"", "\"A\""),
            ("\"1\"", "\"1.0\""),
        ] {
            assert_ne!(meaning(one).unwrap(), meaning(other).unwrap(), "{one} {other}");
        }
        for (one, other) in [("7", "\"7\""), ("7", "\"7.0\""), ("\"a\"", "\"\\u0061\""), ("\"1e3\"", "1000")]
        {
            assert_eq!(loose_meaning(one).unwrap(), loose_meaning(other).unwrap(), "{one} {other}");
        }
        assert_ne!(loose_meaning("\"\"").unwrap(), loose_meaning("0").unwrap());
        for nothing in ["null", "\"a", "true", "", "inf", "NaN", "{}", "[7]"] {
            assert_eq!(meaning(nothing), None, "{nothing}");
        }
    }
}
