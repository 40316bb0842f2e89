//! The policy file as people write it, YAML, turned into the canonical JSON that is hashed, stored and delivered.

use crate::Invalid;

/// Reads YAML (or JSON, which is YAML) and writes it as JSON with sorted names and no blanks, so that the same policy
/// has the same version however it is laid out. Says nothing about what it means: see [`crate::Policy::from_json`].
pub fn to_json(text: &str) -> Result<String, Invalid> {
    // By way of YAML's own value, because that refuses a name given twice.
    let value: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(text).map_err(|error| Invalid::at("policy", error))?;
    let value: serde_json::Value =
        serde_yaml_ng::from_value(value).map_err(|error| Invalid::at("policy", error))?;
    serde_json::to_string(&value).map_err(|error| Invalid::at("policy", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_does_not_matter_and_names_given_twice_are_refused() {
        let block = to_json("b: 1\na:\n  - x\n").unwrap();
        assert_eq!(block, r#"{"a":["x"],"b":1}"#);
        assert_eq!(to_json(r#"{"a": ["x"], "b": 1}"#).unwrap(), block);
        assert!(to_json("a: 1\na: 2\n").is_err());
    }
}
