//! The flags of an Envoy configuration without which the gate does not hold, wherever in the file they stand: plain, in a
//! manifest of Istio or Envoy Gateway, or in the dump of a running Envoy.

use super::{Finding, path_of};
use serde::Deserialize as _;
use serde_json::Value;
use std::path::Path;

const CHECK: &str = "manifest";

/// A flag by its name, the value that it must have, and what goes wrong otherwise.
const FLAGS: [(&str, &str, &str); 7] = [
    (
        "allow_on_headers_stop_iteration",
        "true",
        "Envoy sends the headers of a call upstream before it is decided",
    ),
    ("failure_policy", "FAIL_RELOAD", "a filter that died stays dead, or lets everything pass"),
    ("use_remote_address", "true", "clients can set x-envoy-* headers, and have a call run several times"),
    ("normalize_path", "true", "`/../` leads around the rules of paths"),
    ("merge_slashes", "true", "`//` leads around the rules of paths"),
    ("path_with_escaped_slashes_action", "REJECT_REQUEST", "`%2F` leads around the rules of paths"),
    (
        "headers_with_underscores_action",
        "REJECT_REQUEST",
        "`x_agentrelay_key_id` can be read as the gate's own header",
    ),
];

/// The flags of a file.
pub(super) fn file(file: &Path) -> Finding {
    let name = path_of(file);
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            return Finding::wrong(CHECK, format!("{name} can't be read: {error}"), "correct --manifest");
        }
    };
    let documents: Result<Vec<Value>, _> =
        serde_yaml_ng::Deserializer::from_str(&text).map(Value::deserialize).collect();
    match documents {
        Ok(documents) => tree(&name, &Value::Array(documents)),
        Err(error) => {
            Finding::wrong(CHECK, format!("{name} can't be read as YAML: {error}"), "correct the file")
        }
    }
}

/// The flags of a parsed configuration.
pub(super) fn tree(name: &str, configuration: &Value) -> Finding {
    let mut found = Vec::new();
    collect(configuration, &mut found);
    let of = |flag: &str| {
        found.iter().filter(|(name, _)| *name == flag).map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let mut wrong = Vec::new();
    for (flag, expected, harm) in FLAGS {
        let values = of(flag);
        if values.iter().any(|value| value == expected) && values.iter().all(|value| value == expected) {
            continue;
        }
        let is = values.first().map_or_else(|| "is not set".to_owned(), |value| format!("is {value}"));
        wrong.push(format!("{flag} {is}: {harm}"));
    }
    if !configuration.to_string().contains("AGENTRELAY_FILTER_KEY") {
        wrong.push(
            "AGENTRELAY_FILTER_KEY is not named for the filter, which then has no credential to the ledger"
                .to_owned(),
        );
    }
    if wrong.is_empty() {
        return Finding::ok(CHECK, format!("{name} has the flags that the gate needs"));
    }
    Finding::wrong(
        CHECK,
        format!("{name}: {}", wrong.join("; ")),
        "set them as envoy/envoy.yaml does, which says what each is for",
    )
}

/// The cluster through which the filter of a running Envoy calls its ledger.
pub(super) fn ledger_cluster(configuration: &Value) -> Option<String> {
    match configuration {
        Value::String(text) => {
            let filter: Value = serde_json::from_str(text).ok()?;
            filter.get("ledger_cluster").and_then(Value::as_str).map(str::to_owned)
        }
        Value::Array(items) => items.iter().find_map(ledger_cluster),
        Value::Object(fields) => fields.values().find_map(ledger_cluster),
        _ => None,
    }
}

/// Envoy Gateway's own names for flags: its name and value, and the flag that it sets.
const GATEWAY: [(&str, &str, &str); 3] = [
    ("escapedSlashesAction", "RejectRequest", "path_with_escaped_slashes_action"),
    ("disableMergeSlashes", "false", "merge_slashes"),
    ("withUnderscoresAction", "RejectRequest", "headers_with_underscores_action"),
];
/// What Envoy Gateway sets by itself.
const GATEWAY_OWN: [&str; 2] = ["use_remote_address", "normalize_path"];
const GATEWAY_API: &str = "gateway.envoyproxy.io/";

/// Every flag of the table with its value, as text.
fn collect(value: &Value, found: &mut Vec<(&'static str, String)>) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let flag = |name: &str| FLAGS.iter().find(|(flag, _, _)| *flag == name);
    match value {
        Value::Object(fields) => {
            // A JSON patch names the field by its path.
            let patched = fields.get("path").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
            if let (Some((name, _, _)), Some(value)) = (patched.and_then(flag), fields.get("value")) {
                found.push((name, text(value)));
            }
            if fields.get("apiVersion").is_some_and(|version| text(version).starts_with(GATEWAY_API)) {
                found.extend(GATEWAY_OWN.map(|name| (name, "true".to_owned())));
            }
            for (name, value) in fields {
                if let Some((name, _, _)) = flag(name) {
                    found.push((name, text(value)));
                }
                if let Some((_, right, name)) = GATEWAY.iter().find(|(own, _, _)| own == name) {
                    let expected = flag(name).map_or("", |(_, expected, _)| expected);
                    let value = text(value);
                    found.push((name, if value == *right { expected.to_owned() } else { value }));
                }
                collect(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn the_manifests_that_users_copy_have_all_flags_and_a_missing_one_is_named() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../envoy");
        for name in ["envoy.yaml", "istio.yaml", "envoy-gateway.yaml"] {
            let finding = file(&directory.join(name));
            assert_eq!(finding.state, State::Ok, "{name}: {finding:?}");
        }
        let shipped = std::fs::read_to_string(directory.join("envoy.yaml")).unwrap();
        let changed = tempfile::NamedTempFile::new().unwrap();
        for (from, to, expected) in [
            ("failure_policy: FAIL_RELOAD", "failure_policy: FAIL_OPEN", "failure_policy is FAIL_OPEN"),
            ("allow_on_headers_stop_iteration: true", "", "allow_on_headers_stop_iteration is not set"),
            ("AGENTRELAY_FILTER_KEY]", "]", "AGENTRELAY_FILTER_KEY is not named"),
        ] {
            std::fs::write(changed.path(), shipped.replace(from, to)).unwrap();
            let finding = file(changed.path());
            assert!(finding.state == State::Wrong && finding.found.contains(expected), "{finding:?}");
        }
    }
}
