//! Policies for tests, as edits of the shipped one, so that tests follow what users copy.

use crate::files;
use serde_yaml_ng::Value;
use std::fs;

/// The shipped policy as a tree.
pub fn shipped() -> Value {
    let text = fs::read_to_string(files::shipped_policy()).expect("envoy/policy.yaml can be read");
    serde_yaml_ng::from_str(&text).expect("envoy/policy.yaml is YAML")
}

/// A piece of policy.
pub fn yaml(text: &str) -> Value {
    serde_yaml_ng::from_str(text).expect("the piece of policy is YAML")
}

/// Gives a tier one limit.
pub fn limit_tier(policy: &mut Value, tier: &str, permits: u32, window: &str) {
    policy["tiers"][tier]["limits"] = yaml(&format!("[{{permits: {permits}, window: {window}}}]"));
}
