//! Names that a key would use and the policy lacks: mostly typing errors, which would make a key that can do nothing. Resources
//! are data, which no policy lists.

use super::document::InForce;
use super::names::{Names, names};
use policy::plain::nearest;
use protocol::admin::NameKind;
use protocol::key::Grant;
use std::collections::BTreeSet;

/// Most names that a refusal lists.
const LISTED_MAX: usize = 12;

/// The names that a key uses, or is to use.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used<'a> {
    pub(crate) scopes: &'a [String],
    pub(crate) services: Option<&'a [Grant]>,
    pub(crate) tools: Option<&'a [Grant]>,
}

/// One line for each name that `used` has, the policy lacks, and `before` did not have either.
pub(crate) fn unknown(policy: &InForce, used: Used<'_>, before: Used<'_>) -> Vec<String> {
    let known = names(policy);
    let mut faults = Vec::new();
    for (place, scope) in used.scopes.iter().enumerate() {
        if !before.scopes.contains(scope) {
            check(&format!("scopes[{place}]"), NameKind::Scope, scope, &known, &mut faults);
        }
    }
    for (place, name) in fresh(used.services, before.services) {
        check(&format!("services[{place}]"), NameKind::Service, name, &known, &mut faults);
    }
    // With a rule for tools that are not listed, any name can be one.
    if !policy.policy.services().iter().any(|service| service.unlisted.is_some()) {
        for (place, name) in fresh(used.tools, before.tools) {
            check(&format!("tools[{place}]"), NameKind::Tool, name, &known, &mut faults);
        }
    }
    faults
}

/// The fault of a tenant's tier that the policy lacks.
pub(crate) fn tier(policy: &InForce, tier: &str) -> Option<String> {
    let mut faults = Vec::new();
    check("tier", NameKind::Tier, tier, &names(policy), &mut faults);
    faults.pop()
}

fn fresh<'a>(
    used: Option<&'a [Grant]>,
    before: Option<&'a [Grant]>,
) -> impl Iterator<Item = (usize, &'a str)> {
    let before: BTreeSet<&str> = before.unwrap_or_default().iter().map(|grant| grant.name.as_str()).collect();
    let names = used.unwrap_or_default().iter().map(|grant| grant.name.as_str()).enumerate();
    names.filter(move |(_, name)| !before.contains(name))
}

fn check(field: &str, kind: NameKind, name: &str, known: &Names, faults: &mut Vec<String>) {
    if known.contains(&(kind, name.to_owned())) {
        return;
    }
    let all: Vec<&str> =
        known.iter().filter(|(other, _)| *other == kind).map(|(_, name)| name.as_str()).collect();
    let instead = match nearest(name, &all) {
        Some(near) => format!("did you mean `{near}`?"),
        None if all.is_empty() => format!("it has no {kind}s"),
        None => format!("it has {}", listed(&all)),
    };
    faults.push(format!("{field}: the policy in force has no {kind} `{name}`; {instead}"));
}

fn listed(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(LISTED_MAX).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > LISTED_MAX { " and others" } else { "" };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::document::parse;

    fn sample() -> InForce {
        parse(include_str!("../../../../envoy/policy.yaml")).unwrap()
    }

    fn grants(names: &[&str]) -> Vec<Grant> {
        names.iter().map(|name| Grant { name: (*name).to_owned(), expires_at: None }).collect()
    }

    #[test]
    fn each_name_that_the_policy_lacks_is_named_with_the_nearest_that_it_has() {
        let (scopes, services) = (["read".to_owned(), "raed".to_owned()], grants(&["stduio", "billing"]));
        let tools = grants(&["image_generat", "Search"]);
        let used = Used { scopes: &scopes, services: Some(&services), tools: Some(&tools) };
        assert_eq!(
            unknown(&sample(), used, Used::default()),
            [
                "scopes[1]: the policy in force has no scope `raed`; did you mean `read`?",
                "services[0]: the policy in force has no service `stduio`; did you mean `studio`?",
                "services[1]: the policy in force has no service `billing`; it has `ci`, `studio`",
                "tools[0]: the policy in force has no tool `image_generat`; did you mean `image_generate`?",
                "tools[1]: the policy in force has no tool `Search`; did you mean `search`?",
            ]
        );
        assert_eq!(unknown(&sample(), used, used), [""; 0], "what a key has already may stay");
        let tier = tier(&sample(), "enterprize").unwrap();
        assert_eq!(tier, "tier: the policy in force has no tier `enterprize`; did you mean `enterprise`?");
    }

    #[test]
    fn where_unlisted_tools_have_a_rule_any_tool_may_be_named() {
        let text = include_str!("../../../../envoy/policy.yaml");
        let open = parse(&text.replacen("unlisted: deny", "unlisted: {risk: read_only}", 1)).unwrap();
        let tools = grants(&["image_generat"]);
        let used = Used { tools: Some(&tools), ..Used::default() };
        assert_eq!(unknown(&open, used, Used::default()), [""; 0]);
    }
}
