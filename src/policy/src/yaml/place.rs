//! Where in the file a fault is: the line and column of what its path names.
//!
//! The path is followed in the YAML itself. What it names beyond the file, such as a field that is missing, is placed at the
//! part that lacks it.

use crate::Invalid;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml_ng::Value;
use std::fmt;

/// Most faults that get a place: each takes another reading of the text.
const PLACES_MAX: usize = 100;

/// A line and column of the file, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// The places of faults, each of which begins with its path as in [`crate::Invalid::faults`]. If the text can't be read as
/// YAML, where reading ended.
pub fn places<'f>(text: &str, faults: impl IntoIterator<Item = &'f str>) -> Vec<Option<Place>> {
    let document = super::within_size(text).and_then(|()| serde_yaml_ng::from_str::<Value>(text));
    let place = |fault| {
        let location = match &document {
            Err(end) => end.location()?,
            Ok(document) => {
                let mut steps = Vec::new();
                follow(document, fault, &mut steps);
                let end = To(&steps).deserialize(serde_yaml_ng::Deserializer::from_str(text)).err()?;
                end.location()?
            }
        };
        Some(Place { line: location.line(), column: location.column() })
    };
    let numbered = faults.into_iter().enumerate();
    numbered.map(|(number, fault)| if number < PLACES_MAX { place(fault) } else { None }).collect()
}

impl Invalid {
    /// The same faults, each with its place in the text.
    pub fn placed(&self, text: &str) -> Invalid {
        let places = places(text, self.faults().iter().map(String::as_str));
        let faults = self.faults().iter().zip(places).map(|(fault, place)| match place {
            Some(Place { line, column }) => format!("{fault} (line {line}, column {column})"),
            None => fault.clone(),
        });
        Invalid::all(faults.collect())
    }
}

#[derive(Debug)]
enum Step {
    Name(String),
    Index(usize),
}

/// Follows the path as far as the document has it. A name may hold dots, so of those that fit the longest is meant.
fn follow(value: &Value, rest: &str, steps: &mut Vec<Step>) {
    match value {
        Value::Mapping(fields) => {
            let names = fields.keys().filter_map(Value::as_str);
            let fits = names.filter(|name| behind(rest, name).is_some_and(ends_a_name));
            let Some(name) = fits.max_by_key(|name| name.len()) else { return };
            steps.push(Step::Name(name.to_owned()));
            let rest = behind(rest, name).unwrap_or_default();
            if let Some(inner) = fields.get(name) {
                follow(inner, rest.strip_prefix('.').unwrap_or(rest), steps);
            }
        }
        Value::Sequence(items) => {
            let index = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let Some((Ok(index), rest)) = index.map(|(index, rest)| (index.parse::<usize>(), rest)) else {
                return;
            };
            if let Some(item) = items.get(index) {
                steps.push(Step::Index(index));
                follow(item, rest.strip_prefix('.').unwrap_or(rest), steps);
            }
        }
        _ => {}
    }
}

fn behind<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.strip_prefix(name)
}

fn ends_a_name(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['.', '[', ':'])
}

/// Reads the document along the steps and fails at the last one: the reader adds where that is.
struct To<'s>(&'s [Step]);

impl<'de> DeserializeSeed<'de> for To<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for To<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place of a fault")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Name(name), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("here"));
        };
        while map.next_key_seed(Key { name, is_last: rest.is_empty() })?.is_some_and(|found| !found) {
            map.next_value::<IgnoredAny>()?;
        }
        map.next_value_seed(To(rest))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((Step::Index(index), rest)) = self.0.split_first() else {
            return Err(A::Error::custom("here"));
        };
        for _ in 0..*index {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(To(rest)).map(Option::unwrap_or_default)
    }
}

/// Reads the name of a field: true if it is the wanted one. Fails at it if the path ends there.
struct Key<'s> {
    name: &'s str,
    is_last: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        if text != self.name {
            Ok(false)
        } else if self.is_last {
            Err(E::custom("here"))
        } else {
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
# a comment
tiers:
  free: {rank: 0, limits: [{permits: 20, window: 60x}]}
services:
  mine.own:
    tools:
      GET /a/{b}.json:
        risk: read_only
        colour: red
";

    #[test]
    fn a_path_leads_to_its_line_and_column() {
        for (fault, line, column) in [
            ("tiers: name at least one", 2, 1),
            ("tiers.free.limits[0].window: a time", 3, 42),
            ("tiers.free.limits[0]: has no such field", 3, 28),
            // What is not there is placed at what lacks it.
            ("tiers.free.limits[0].burst: is missing", 3, 28),
            ("services.mine.own.tools.GET /a/{b}.json.colour: unknown", 9, 9),
            ("services.mine.own: the path is missing", 5, 3),
        ] {
            assert_eq!(places(POLICY, [fault]), [Some(Place { line, column })], "{fault}");
        }
        assert_eq!(places("tiers: [", ["policy: x"]), [Some(Place { line: 2, column: 1 })]);
    }
}
