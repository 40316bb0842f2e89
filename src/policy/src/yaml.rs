//! The policy file as people write it, YAML, turned into the canonical JSON that is hashed, stored and delivered.

use crate::Invalid;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// How large a document may be once its aliases are written out: four times the largest file.
const SIZE_MAX: usize = 16 << 20;
/// What a value takes beside its text.
const VALUE_SIZE: usize = 64;

/// Reads YAML (or JSON, which is YAML) and writes it as JSON with sorted names and no blanks, so that the same policy
/// has the same version however it is laid out. Says nothing about what it means: see [`crate::Policy::from_json`].
pub fn to_json(text: &str) -> Result<String, Invalid> {
    // A few kilobytes of aliases to aliases stand for gigabytes: they are counted before any of it is kept.
    let mut room = SIZE_MAX;
    Room(&mut room)
        .deserialize(serde_yaml_ng::Deserializer::from_str(text))
        .map_err(|error| Invalid::at("policy", error))?;
    // By way of YAML's own value, because that refuses a name given twice.
    let value: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(text).map_err(|error| Invalid::at("policy", error))?;
    let value: serde_json::Value =
        serde_yaml_ng::from_value(value).map_err(|error| Invalid::at("policy", error))?;
    let mut faults = Vec::new();
    unseen("", &value, &mut faults);
    if !faults.is_empty() {
        return Err(Invalid::all(faults));
    }
    serde_json::to_string(&value).map_err(|error| Invalid::at("policy", error))
}

/// Names and texts of a policy are shown to people: none holds what they can't see. Texts may have lines.
fn unseen(path: &str, value: &serde_json::Value, faults: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) => {
            let lines = text.split(['\n', '\r', '\t']);
            if let Some(letter) = lines.into_iter().find_map(protocol::text::unseen) {
                let (path, letter) = (protocol::text::shown(path), letter.escape_unicode());
                faults.push(format!("{path}: holds {letter}, which nobody sees; write it without"));
            }
        }
        serde_json::Value::Array(all) => {
            for (place, value) in all.iter().enumerate() {
                unseen(&format!("{path}[{place}]"), value, faults);
            }
        }
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if let Some(letter) = protocol::text::unseen(name) {
                    faults.push(format!(
                        "{}: its name holds {}, which nobody sees; write it without",
                        protocol::text::shown(&path),
                        letter.escape_unicode()
                    ));
                }
                unseen(&path, value, faults);
            }
        }
        _ => {}
    }
}

/// Goes through a document, keeps nothing, and ends where it is larger than the room that is left.
struct Room<'r>(&'r mut usize);

impl Room<'_> {
    fn take<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        *self.0 = self.0.checked_sub(bytes.saturating_add(VALUE_SIZE)).ok_or_else(|| {
            E::custom("with its aliases written out it is larger than 16 MiB; write out what you need, or use fewer")
        })?;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Room<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Room<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_bool<E: Error>(mut self, _: bool) -> Result<(), E> {
        self.take(0)
    }

    fn visit_i64<E: Error>(mut self, _: i64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_u64<E: Error>(mut self, _: u64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_f64<E: Error>(mut self, _: f64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_unit<E: Error>(mut self) -> Result<(), E> {
        self.take(0)
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        self.take(text.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        self.take(0)?;
        while items.next_element_seed(Room(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<(), A::Error> {
        self.take(0)?;
        while members.next_key_seed(Room(self.0))?.is_some() {
            members.next_value_seed(Room(self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line stands for ten times the line before.
    fn bomb(lines: usize, item: impl Fn(usize) -> String) -> String {
        (0..lines).map(|line| format!("a{line}: &a{line} {}\n", item(line))).collect()
    }

    #[test]
    fn aliases_that_stand_for_more_than_there_is_room_are_refused() {
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
