//! Writes JSON member by member, in the given order. serde_json's `Value` would add floats and maps to the filter: 20 KB
//! that no answer of the gate needs.

/// A string as JSON.
pub(crate) fn quoted(text: &str) -> String {
    // Serializing a string can't fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// An array of items that are already JSON.
pub(crate) fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

/// An object of values that are already JSON. The names must not need escapes.
pub(crate) fn object(members: &[(&str, String)]) -> String {
    let length = members.iter().map(|(name, value)| name.len().saturating_add(value.len()).saturating_add(4));
    let mut text = String::with_capacity(length.fold(2, usize::saturating_add));
    text.push('{');
    for (place, (name, value)) in members.iter().enumerate() {
        for part in [if place > 0 { ",\"" } else { "\"" }, name, "\":", value] {
            text.push_str(part);
        }
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_json_reads_the_same_with_serde_json() {
        let texts = ["", "a", "\"\\/\u{8}\n\u{1}\u{7f}\u{2028}é"];
        let written = object(&[("a", array(texts.iter().map(|text| quoted(text)))), ("b", object(&[]))]);
        let read: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(read, serde_json::json!({"a": texts, "b": {}}));
    }
}
