//! Whether a key may make a call, apart from how often: services, tools, scopes, resources and tiers.

use crate::json;
use crate::key::{Key, grants};
use crate::reading::is_blank;
use crate::rules::{Policy, Service};
use crate::scope::ScopeRule;
use crate::tool::{Requirement, Tool};
use protocol::Timestamp;
use protocol::audit::Outcome;
use std::collections::BTreeMap;

/// Why a key may not make a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// The key is limited to other services, tools or resources, or its grant has expired.
    NotGranted {
        /// `service`, `tool` or `resource`.
        kind: &'static str,
        /// What is not granted, such as `project:42`.
        name: String,
    },
    /// The key lacks scopes.
    Scope {
        /// All scopes that are needed, including those that the key has.
        needed: Vec<String>,
    },
    /// The tenant's tier is too low.
    Tier {
        /// The lowest tier that is enough.
        needed: String,
        /// The argument and the value that need it; `None` if every call does.
        when: Option<(String, String)>,
        /// The values of the argument that the tenant's tier has, if the policy lists them.
        open: Vec<String>,
    },
    /// The policy does not have the tenant's tier.
    UnknownTier,
}

impl Denial {
    /// The outcome in the audit log.
    pub fn outcome(&self) -> Outcome {
        match self {
            Denial::NotGranted { .. } | Denial::Scope { .. } => Outcome::InsufficientScope,
            Denial::Tier { .. } | Denial::UnknownTier => Outcome::TierDenied,
        }
    }
}

/// The answer, and what a shadow rule would have answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Authorization {
    /// The first rule that denies.
    pub denial: Option<Denial>,
    /// The first shadow rule that would deny.
    pub would_deny: Option<Denial>,
}

impl Authorization {
    fn deny(&mut self, denial: Denial, shadow: bool) {
        if shadow {
            self.would_deny.get_or_insert(denial);
        } else {
            self.denial.get_or_insert(denial);
        }
    }
}

/// Whether the key may call the tool with these arguments. Checked in the order of refusals: grants, scope, tier.
pub fn tool(
    policy: &Policy,
    key: &Key,
    service: &Service,
    tool: &Tool,
    resource: Option<&str>,
    arguments: &BTreeMap<String, Option<String>>,
    now: Timestamp,
) -> Authorization {
    let mut answer = within_service(key, service, now);
    if !grants(key.record.tools.as_deref(), &tool.name, now) {
        answer.deny(Denial::NotGranted { kind: "tool", name: tool.name.clone() }, false);
    }
    scope(key, &tool.scope, &mut answer);
    if let Some(resource) =
        resource.filter(|resource| !grants(key.record.resources.as_deref(), resource, now))
    {
        answer.deny(Denial::NotGranted { kind: "resource", name: resource.to_owned() }, false);
    }
    // A tier that is no longer in the policy unlocks nothing.
    let rank = policy.tier(&key.record.tier).map(|tier| tier.rank);
    for requirement in &tool.requires {
        let applies = requirement.when.as_ref().is_none_or(|(argument, value)| {
            // The requirement applies unless the argument is certainly another value. One that is an object or a list may be
            // this value.
            let is_other = |given: &String| !may_be(value, given.trim_matches(is_blank));
            arguments.get(argument).is_some_and(|given| !given.as_ref().is_some_and(is_other))
        });
        if applies && rank.is_none_or(|rank| rank < requirement.rank) {
            let (when, open) = (requirement.when.clone(), open_values(tool, requirement, rank));
            answer.deny(Denial::Tier { needed: requirement.tier.clone(), when, open }, requirement.shadow);
        }
    }
    answer
}

/// Whether some servers read an argument as this value of the policy. They ignore case, read numbers in many notations, and
/// many words as a switch.
fn may_be(value: &str, given: &str) -> bool {
    if json::is_same_folded(value, given) {
        return true;
    }
    match (switch(value), switch(given)) {
        (Some(value), Some(given)) => value == given,
        (Some(_), None) => true,
        // A plain number is no other number. `010`, `1e1` and `0xa` may be 10, an empty text 0, and `true` 1.
        (None, is_switch) => {
            let may_be_number = is_switch.is_some() || given.is_empty() || given.contains(char::is_numeric);
            is_plain_number(value) && may_be_number && !is_plain_number(given)
        }
    }
}

/// What a word says of a switch.
fn switch(word: &str) -> Option<bool> {
    let is_one_of = |words: [&str; 3]| words.iter().any(|own| word.eq_ignore_ascii_case(own));
    match () {
        () if is_one_of(["true", "yes", "on"]) => Some(true),
        () if is_one_of(["false", "no", "off"]) => Some(false),
        () => None,
    }
}

/// Digits that all readers read as the same number, and as no other plain number: without needless zeros, and few enough for
/// a float.
fn is_plain_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "1"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_needless = (whole.len() > 1 && whole.starts_with('0')) || part.ends_with('0') || text == "-0";
    text.len() <= 15 && are_digits(whole) && are_digits(part) && !is_needless
}

/// The values of a requirement's argument that a tier of this rank has. Only the price table lists an argument's values.
fn open_values(tool: &Tool, requirement: &Requirement, rank: Option<u32>) -> Vec<String> {
    let Some((argument, _)) = &requirement.when else { return Vec::new() };
    let times = tool.price.as_ref().and_then(|price| price.times.as_ref());
    let values =
        times.filter(|times| times.argument == *argument).into_iter().flat_map(|times| times.values.keys());
    let needs_more = |value: &String| {
        tool.requires.iter().any(|other| {
            let of_value =
                |(name, of): &(String, String)| name == argument && json::is_same_folded(of, value);
            !other.shadow
                && rank.is_none_or(|rank| rank < other.rank)
                && other.when.as_ref().is_none_or(of_value)
        })
    };
    values.filter(|value| !needs_more(value)).cloned().collect()
}

/// Whether the key may read something that needs all of these rules.
pub fn reading(key: &Key, service: &Service, rules: &[&ScopeRule], now: Timestamp) -> Authorization {
    let mut answer = within_service(key, service, now);
    rules.iter().for_each(|rule| scope(key, rule, &mut answer));
    answer
}

/// Whether the key may use the service at all.
pub fn within_service(key: &Key, service: &Service, now: Timestamp) -> Authorization {
    let mut answer = Authorization::default();
    if !grants(key.record.services.as_deref(), &service.name, now) {
        answer.deny(Denial::NotGranted { kind: "service", name: service.name.clone() }, false);
    }
    answer
}

/// Whether the key sees the tool in a list, which means that it may call it with some arguments.
pub fn is_visible(policy: &Policy, key: &Key, service: &Service, rule: &Tool, now: Timestamp) -> bool {
    tool(policy, key, service, rule, None, &BTreeMap::new(), now).denial.is_none()
}

fn scope(key: &Key, rule: &ScopeRule, answer: &mut Authorization) {
    if !rule.scopes.iter().all(|needed| key.record.scopes.contains(needed)) {
        answer.deny(Denial::Scope { needed: rule.scopes.clone() }, rule.shadow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_another_only_if_every_server_reads_it_so() {
        for (value, may_be_it, others) in [
            ("Deep", &["Deep", "deep", "DEEP"][..], &["", "flat", "deeper", "1", "true"][..]),
            ("true", &["TRUE", "yes", "1", "0", "t", "", "maybe"], &["false", "no", "OFF"]),
            ("off", &["false", "0"], &["true", "on"]),
            (
                "10",
                &[
                    "010",
                    "+10",
                    "10.0",
                    "1e1",
                    "0xa",
                    "1_0",
                    "\u{661}\u{660}",
                    "10abc",
                    "9.99999999999999999999",
                    "true",
                    "",
                ],
                &["11", "-10", "1", "100", "10.5", "0.1", "ten"],
            ),
            ("1", &["true", "1.0", "01"], &["0", "2"]),
            ("0.5", &[".5", "5e-1", "0.50"], &["0.25", "5", "1"]),
            ("010", &["010"], &["10", "true"]),
        ] {
            may_be_it.iter().for_each(|given| assert!(may_be(value, given), "{value} {given}"));
            others.iter().for_each(|given| assert!(!may_be(value, given), "{value} {given}"));
        }
    }
}
