//! Rules that no request can reach, or that refuse nobody.

use crate::commands::policy::hosts;
use policy::rules::{Service, ServiceKind};
use policy::{Policy, Tool};
use serde_json::Value;

/// Stands for a value in a path template, and for a host that no service names.
const ANY: &str = "any-1";

/// One line for each, with its path first.
pub(super) fn rules(policy: &Policy, document: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    nothing("", document, &mut findings);
    for (index, service) in policy.services().iter().enumerate() {
        let hosts = hosts(document, &service.name);
        of_service(policy, index, service, &hosts, &mut findings);
        for tool in service.tools() {
            of_requirements(policy, service, tool, &mut findings);
        }
    }
    findings
}

/// Fields without a value, which count as left out: a tool with an empty `price` is free.
fn nothing(path: &str, value: &Value, findings: &mut Vec<String>) {
    let fields: Vec<(String, &Value)> = match value {
        Value::Null => {
            findings.push(format!("{path}: has no value and counts as left out; write one, or leave it out"));
            return;
        }
        Value::Object(fields) => {
            let dot = if path.is_empty() { "" } else { "." };
            fields.iter().map(|(name, value)| (format!("{path}{dot}{name}"), value)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(place, value)| (format!("{path}[{place}]"), value)).collect()
        }
        _ => return,
    };
    fields.into_iter().for_each(|(path, value)| nothing(&path, value, findings));
}

fn of_service(
    policy: &Policy,
    index: usize,
    service: &Service,
    hosts: &[String],
    findings: &mut Vec<String>,
) {
    let at = format!("services.{}", service.name);
    if service.tools().next().is_none() && service.gate_tools.is_empty() && service.unlisted.is_none() {
        findings.push(format!(
            "{at}.tools: lists nothing, so every call is refused; `agentrelay policy init --from URL` lists what a server has"
        ));
    }
    for (place, host) in hosts.iter().enumerate() {
        if let Some((name, _)) = host.split_once(':') {
            findings.push(format!("{at}.hosts[{place}]: hosts are compared without port; write `{name}`"));
        } else if let Some(other) = taken(policy, index, host, &first_path(service)) {
            findings.push(format!("{at}.hosts[{place}]: the service `{other}` takes the requests for it"));
        }
    }
    if hosts.is_empty()
        && let Some(other) = taken(policy, index, ANY, &first_path(service))
    {
        findings.push(format!(
            "{at}.path: the service `{other}` has the same path, so no request comes here; give one of them `hosts`, or another path"
        ));
        return;
    }
    let ServiceKind::Http(router) = &service.kind else { return };
    let host = hosts.first().map_or(ANY, String::as_str);
    for tool in router.tools() {
        let Some((method, template)) = tool.name.split_once(' ') else { continue };
        let at = format!("{at}.tools.{}", tool.name);
        let path = sample(template);
        let whole = format!("{}{path}", service.path().trim_end_matches('/'));
        if let Some(other) = taken(policy, index, host, &whole)
            && taken(policy, index, host, &first_path(service)).is_none()
        {
            findings.push(format!("{at}: the service `{other}` takes the requests for this path"));
        } else if service.path() != "/" && template.starts_with(&format!("{}/", service.path())) {
            findings.push(format!(
                "{at}: paths are written without the service's `{}`, so this is for `{}{template}`",
                service.path(),
                service.path()
            ));
        } else if router.find(method.as_bytes(), &path).ok().flatten().map(|found| &found.tool().name)
            != Some(&tool.name)
        {
            findings.push(format!("{at}: another tool of the service takes the requests for this path"));
        }
    }
}

/// A path of the service: for MCP the only one.
fn first_path(service: &Service) -> String {
    let tool = match &service.kind {
        ServiceKind::Mcp(_) => None,
        ServiceKind::Http(router) => router.tools().next(),
    };
    let below = tool
        .and_then(|tool| tool.name.split_once(' '))
        .map_or_else(String::new, |(_, template)| sample(template));
    format!("{}{below}", service.path().trim_end_matches('/'))
}

/// The service that takes the request, if it is another one.
fn taken<'p>(policy: &'p Policy, index: usize, host: &str, path: &str) -> Option<&'p str> {
    let path = if path.is_empty() { "/" } else { path };
    let taker = policy.service_for(host.as_bytes(), path.as_bytes())?;
    policy.services().get(taker).filter(|_| taker != index).map(|service| service.name.as_str())
}

/// A path that the template matches.
fn sample(template: &str) -> String {
    let segments = template.split('/').map(|segment| if segment.starts_with('{') { ANY } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

fn of_requirements(policy: &Policy, service: &Service, tool: &Tool, findings: &mut Vec<String>) {
    for (place, requirement) in tool.requires.iter().enumerate() {
        let at = format!("services.{}.tools.{}.requires[{place}]", service.name, tool.name);
        if policy.tiers().all(|tier| tier.rank >= requirement.rank) {
            findings.push(format!(
                "{at}.tier: no tier ranks below `{}`, so this refuses nobody",
                requirement.tier
            ));
        }
        let times = tool.price.as_ref().and_then(|price| price.times.as_ref());
        if let (Some((argument, value)), Some(times)) = (&requirement.when, times)
            && *argument == times.argument
            && !times.values.contains_key(value)
        {
            let known: Vec<&str> = times.values.keys().map(String::as_str).collect();
            findings.push(format!(
                "{at}.value: the price knows no {argument} `{value}`, only {}, so no such call gets here",
                known.join(", ")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(services: &str) -> Vec<String> {
        let text = format!(
            "tiers: {{free: {{rank: 0}}, pro: {{rank: 1}}}}\nrisks: {{read_only: {{scope: read}}, local_mutation: {{scope: w}}, \
             external_mutation: {{scope: w}}, destructive: {{scope: w}}}}\nservices:\n{services}"
        );
        let document = policy::yaml::to_json(&text).unwrap();
        let policy = Policy::from_json(document.as_bytes()).unwrap();
        rules(&policy, &serde_json::from_str(&document).unwrap())
    }

    const SEARCH: &str = "tools: {search: {risk: read_only}}";

    #[test]
    fn services_that_no_request_reaches_are_found() {
        let mcp = |name: &str, more: &str| format!("  {name}: {{kind: mcp, path: /mcp, {more} {SEARCH}}}\n");
        let both = mcp("a", "") + &mcp("b", "");
        assert!(found(&both)[0].starts_with("services.b.path: the service `a` has the same path"));
        let apart = mcp("a", "hosts: [a.example],") + &mcp("b", "");
        assert_eq!(found(&apart), [""; 0]);
        let overlap = mcp("a", "hosts: [a.example],") + &mcp("b", "hosts: [b.example, A.example],");
        assert_eq!(found(&overlap), ["services.b.hosts[1]: the service `a` takes the requests for it"]);
        let port = mcp("a", "hosts: ['a.example:8080'],");
        assert_eq!(found(&port), ["services.a.hosts[0]: hosts are compared without port; write `a.example`"]);
        let none = "  a: {kind: mcp, path: /mcp, tools: {}}\n";
        assert!(found(none)[0].starts_with("services.a.tools: lists nothing"));
        assert_eq!(found("  a: {kind: mcp, path: /mcp, tools: {}, unlisted: {risk: read_only}}\n"), [""; 0]);
    }

    #[test]
    fn tools_that_no_request_reaches_are_found() {
        let api = "  api: {kind: http, path: /api, tools: {GET /v1/a: {risk: read_only}, GET /api/b: {risk: read_only}, \
                   'GET /{x}/c': {risk: read_only}}}\n";
        assert_eq!(
            found(api),
            [
                "services.api.tools.GET /api/b: paths are written without the service's `/api`, so this is for `/api/api/b`"
            ]
        );
        let deeper = "  v1: {kind: http, path: /api/v1, tools: {GET /z: {risk: read_only}}}\n";
        let found = found(&(api.replace("GET /api/b", "GET /b") + deeper));
        assert_eq!(
            found,
            ["services.api.tools.GET /v1/a: the service `v1` takes the requests for this path"]
        );
    }

    #[test]
    fn requirements_that_refuse_nobody_are_found() {
        let tool = "  a: {kind: mcp, path: /mcp, tools: {image: {risk: read_only, requires: [{tier: free}, {argument: quality, \
                    value: ultra_pls, tier: pro}], price: {credits: 1, times: {argument: quality, values: {standard: 1, \
                    ultra_plus: 2}, default: standard}}}}}\n";
        assert_eq!(
            found(tool),
            [
                "services.a.tools.image.requires[0].tier: no tier ranks below `free`, so this refuses nobody",
                "services.a.tools.image.requires[1].value: the price knows no quality `ultra_pls`, only standard, ultra_plus, so no \
                 such call gets here",
            ]
        );
    }

    #[test]
    fn an_empty_price_is_found() {
        let tool = "  a: {kind: mcp, path: /mcp, tools: {image: {risk: read_only, price: }}}\n";
        assert_eq!(
            found(tool),
            ["services.a.tools.image.price: has no value and counts as left out; write one, or leave it out"]
        );
    }

    #[test]
    fn the_policy_that_users_copy_has_none() {
        let text = include_str!("../../../../../../envoy/policy.yaml");
        let document = policy::yaml::to_json(text).unwrap();
        let policy = Policy::from_json(document.as_bytes()).unwrap();
        assert_eq!(rules(&policy, &serde_json::from_str(&document).unwrap()), [""; 0]);
    }
}
