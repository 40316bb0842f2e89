//! The differences between two documents, by path.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Such as `tiers.pro.limits[0].permits`.
    pub path: String,
    /// The old value, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// The new value, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "~ {path}: {before} -> {after}"),
            (Some(before), None) => write!(f, "- {path}: {before}"),
            (None, Some(after)) => write!(f, "+ {path}: {after}"),
            (None, None) => f.write_str(path),
        }
    }
}

/// All differences, in the documents' order of keys.
pub fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut found = Vec::new();
    compare(String::new(), Some(before), Some(after), &mut found);
    found
}

fn compare(path: String, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Change>) {
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(path, before.get(name), after.get(name), found);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            for place in 0..before.len().max(after.len()) {
                compare(format!("{path}[{place}]"), before.get(place), after.get(place), found);
            }
        }
        (before, after) if before == after => {}
        (before, after) => {
            found.push(Change { path, before: before.cloned(), after: after.cloned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_difference_is_named_by_its_path() {
        let before = json!({"tiers": {"pro": {"limits": [{"permits": 300}]}, "old": 1}, "same": [1]});
        let after = json!({"tiers": {"pro": {"limits": [{"permits": 400}, {"permits": 5}]}}, "same": [1]});
        let lines: Vec<String> = changes(&before, &after).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "- tiers.old: 1",
                "~ tiers.pro.limits[0].permits: 300 -> 400",
                "+ tiers.pro.limits[1]: {\"permits\":5}",
            ]
        );
        assert_eq!(changes(&before, &before), []);
    }
}
