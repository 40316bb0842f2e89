//! Converts the policy file, which people write in YAML, to the canonical JSON that is hashed, stored and delivered.

use crate::Invalid;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

mod place;
pub use place::{Place, places};

/// The largest document after its aliases are expanded: four times the largest file.
const SIZE_MAX: usize = 16 << 20;
/// The size that each value counts in addition to its text.
const VALUE_SIZE: usize = 64;

/// Reads YAML (JSON is also YAML) and writes it as JSON with sorted names and no blanks. So the same policy has the same
/// version, however the file is formatted. This does not check the meaning; see [`crate::Policy::from_json`].
pub fn to_json(text: &str) -> Result<String, Invalid> {
    within_size(text).map_err(|error| Invalid::at("policy", format!("it can't be read as YAML: {error}")))?;
    // Read into YAML's own value first, because that refuses a name that is given twice.
    let value: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(text).map_err(|error| Invalid::at("policy", twice(&error.to_string())))?;
    let value: serde_json::Value =
        serde_yaml_ng::from_value(value).map_err(|error| Invalid::at("policy", error))?;
    if value.is_null() {
        return Err(Invalid::at("policy", "the file is empty; a policy has `tiers`, `risks` and `services`"));
    }
    let mut faults = Vec::new();
    find_invisible("", &value, &mut faults);
    if !faults.is_empty() {
        return Err(Invalid::all(faults));
    }
    serde_json::to_string(&value).map_err(|error| Invalid::at("policy", error))
}

/// What YAML says of a name that is given twice, in plain words.
fn twice(message: &str) -> String {
    match message.split_once("duplicate entry with key \"") {
        Some((path, rest)) => format!(
            "{path}the name \"{} is given twice; keep one",
            rest.split(" at line ").next().unwrap_or(rest)
        ),
        None => message.to_owned(),
    }
}

/// Finds invisible characters: people read the names and texts of a policy. Texts may contain line breaks.
fn find_invisible(path: &str, value: &serde_json::Value, faults: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => {
            let lines = text.split(['\n', '\r', '\t']);
            if let Some(letter) = lines.into_iter().find_map(protocol::text::unseen) {
                let (path, letter) = (protocol::text::shown(path), letter.escape_unicode());
                faults.push(format!("{path}: contains the invisible character {letter}; remove it"));
            }
        }
        serde_json::Value::Array(all) => {
            for (place, value) in all.iter().enumerate() {
                find_invisible(&format!("{path}[{place}]"), value, faults);
            }
        }
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if let Some(letter) = protocol::text::unseen(name) {
                    faults.push(format!(
                        "{}: the name contains the invisible character {}; remove it",
                        protocol::text::shown(&path),
                        letter.escape_unicode()
                    ));
                }
                find_invisible(&path, value, faults);
            }
        }
        _ => {}
    }
}

/// Refuses a document that is too large with its aliases expanded. A few kilobytes of nested aliases can expand to gigabytes,
/// so this comes before anything of it is stored.
fn within_size(text: &str) -> Result<(), serde_yaml_ng::Error> {
    let mut bytes_left = SIZE_MAX;
    SizeBudget(&mut bytes_left).deserialize(serde_yaml_ng::Deserializer::from_str(text))
}

/// Reads a document without storing it, and stops when it is larger than the remaining size.
struct SizeBudget<'r>(&'r mut usize);

impl SizeBudget<'_> {
    fn spend<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        *self.0 = self.0.checked_sub(bytes.saturating_add(VALUE_SIZE)).ok_or_else(|| {
            E::custom("with its aliases expanded it is larger than 16 MiB; use fewer aliases")
        })?;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for SizeBudget<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SizeBudget<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_none<E: Error>(mut self) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_bool<E: Error>(mut self, _: bool) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_i64<E: Error>(mut self, _: i64) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_u64<E: Error>(mut self, _: u64) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_f64<E: Error>(mut self, _: f64) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.spend(0)
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.spend(text.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.spend(0)?;
        while items.next_element_seed(SizeBudget(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        self.spend(0)?;
        while members.next_key_seed(SizeBudget(self.0))?.is_some() {
            members.next_value_seed(SizeBudget(self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line expands to ten times the line before.
    fn bomb(lines: usize, item: impl Fn(usize) -> String) -> String {
        (0..lines).map(|line| format!("a{line}: &a{line} {}\n", item(line))).collect()
    }

    #[test]
    fn aliases_that_expand_beyond_the_size_limit_are_refused() {
        let ten = |line: usize| vec![format!("*a{}", line.saturating_sub(1)); 10].join(", ");
        let first = |rest: String, line: usize| if line == 0 { "[x, x, x, x]".to_owned() } else { rest };
        let lists = bomb(9, |line| first(format!("[{}]", ten(line)), line));
        let maps = bomb(9, |line| {
            let members = (0..10).map(|member| format!("m{member}: *a{}", line.saturating_sub(1)));
            first(format!("{{{}}}", members.collect::<Vec<_>>().join(", ")), line)
        });
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(40_000), ["*a"; 900].join(", "));
        let merged = bomb(9, |line| {
            let others = ten(line);
            first(format!("{{<<: [{others}], n{line}: [{others}]}}"), line)
        });
        for bomb in [lists, maps, long, merged] {
            let fault = to_json(&bomb).unwrap_err().to_string();
            assert!(fault.contains("aliases") || fault.contains("repetition"), "{fault}");
        }
        // To say where the fault is, nothing of it is stored either: this would be 300 GB.
        let huge = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), ["*a"; 300_000].join(", "));
        let fault = to_json(&huge).unwrap_err().placed(&huge).to_string();
        assert!(fault.contains("aliases") && fault.contains("(line "), "{fault}");
        assert_eq!(to_json("a: &a [1, 2]\nb: *a\n").unwrap(), r#"{"a":[1,2],"b":[1,2]}"#);
    }

    #[test]
    fn layout_does_not_matter_and_names_given_twice_are_refused() {
        let block = to_json("b: 1\na:\n  - x\n").unwrap();
        assert_eq!(block, r#"{"a":["x"],"b":1}"#);
        assert_eq!(to_json(r#"{"a": ["x"], "b": 1}"#).unwrap(), block);
        assert!(to_json("a: 1\na: 2\n").is_err());
    }
}
