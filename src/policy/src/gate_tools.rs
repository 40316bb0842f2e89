//! The gate's own tools: their definitions, their arguments and their results.
//!
//! Calls of these tools never go upstream. Who may call them, and how often, is decided as for any other tool.

use crate::json;
use crate::json::write::{array, object, quoted};
use crate::key::{Key, grants};
use crate::mcp::{Envelope, Params};
use crate::ordered;
use crate::price::Price;
use crate::rules::gate_tools::Kind;
use crate::rules::{Policy, Service, ServiceKind};
use crate::tool::{Requirement, Tool};
use protocol::Timestamp;
use protocol::filter::{IssueRequest, Issued};
use protocol::key::Limit;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The arguments of `request_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRequest {
    /// The service that the key is for.
    pub service: String,
    /// The lifetime of the key in seconds.
    pub ttl_seconds: u32,
    /// The number of requests per minute.
    pub rate_limit: u32,
}

const TTL_SECONDS: u32 = 3600;
const RATE_LIMIT: u32 = 60;

impl Kind {
    /// The definition that `tools/list` shows.
    pub const fn definition(self) -> &'static str {
        match self {
            Kind::ListServices => LIST_SERVICES,
            Kind::RequestKey => REQUEST_KEY,
        }
    }
}

const LIST_SERVICES: &str = r#"{"name":"list_services","title":"List services","description":"Lists the services behind this gate that your api key may use.","inputSchema":{"type":"object","properties":{},"additionalProperties":false},"annotations":{"readOnlyHint":true,"destructiveHint":false,"idempotentHint":true,"openWorldHint":false}}"#;

const REQUEST_KEY: &str = r#"{"name":"request_key","title":"Request an api key","description":"Issues a short-lived api key for one service. It may do no more than your own key, and ends with it.","inputSchema":{"type":"object","properties":{"service_name":{"type":"string","description":"The name of a service that list_services returns."},"ttl_seconds":{"type":"integer","minimum":1,"maximum":86400,"default":3600,"description":"The lifetime of the key in seconds."},"rate_limit":{"type":"integer","minimum":1,"maximum":1000000,"default":60,"description":"Requests per minute, within the limits of your own key."}},"required":["service_name"],"additionalProperties":false},"annotations":{"readOnlyHint":false,"destructiveHint":false,"idempotentHint":false,"openWorldHint":false}}"#;

/// The services that a key may use.
pub fn services<'p>(policy: &'p Policy, key: &Key, now: Timestamp) -> impl Iterator<Item = &'p Service> {
    policy.services().iter().filter(move |service| grants(key.record.services.as_deref(), &service.name, now))
}

/// The result of `list_services`.
pub fn list_services_result(policy: &Policy, key: &Key, now: Timestamp) -> String {
    let mut by_name = Vec::new();
    services(policy, key, now)
        .for_each(|service| ordered::insert(&mut by_name, service, |a, b| a.name.cmp(&b.name)));
    let shown = by_name.into_iter().map(|service| {
        let kind = if matches!(service.kind, ServiceKind::Mcp(_)) { "mcp" } else { "http" };
        format!(r#"{{"name":{},"kind":"{kind}","path":{}}}"#, quoted(&service.name), quoted(service.path()))
    });
    result(&format!(r#"{{"services":[{}]}}"#, shown.collect::<Vec<_>>().join(",")))
}

/// The result of `request_key`. This is the only place where the secret appears.
pub fn request_key_result(asked: &KeyRequest, key: &Issued, policy: &Policy) -> String {
    let service = policy.services().iter().find(|service| service.name == asked.service);
    let members = [
        ("api_key", quoted(&key.secret)),
        ("key_id", quoted(key.key_id.as_str())),
        ("agent_id", quoted(key.agent_id.as_str())),
        ("service_name", quoted(&asked.service)),
        ("path", quoted(service.map(Service::path).unwrap_or_default())),
        ("scopes", array(key.scopes.iter().map(|scope| quoted(scope)))),
        ("rate_limit", asked.rate_limit.to_string()),
        ("expires_at", quoted(&key.expires_at.to_string())),
    ];
    result(&object(&members))
}

/// A tool's terms as lists show them. They come from the same rules that decide its calls.
pub fn terms(rule: &Tool) -> String {
    let limits = rule.limits.iter().filter(|rule| !rule.shadow).map(|rule| {
        let Limit { permits, window_seconds } = rule.limit;
        format!(r#"{{"permits":{permits},"window_seconds":{window_seconds}}}"#)
    });
    let mut members = vec![
        ("scopes", array(rule.scope.scopes.iter().map(|scope| quoted(scope)))),
        ("limits", array(limits)),
    ];
    if let Some(price) = &rule.price {
        let mut shown = vec![("credits", price.credits.to_string())];
        if let Some(times) = &price.times {
            let values = times.values.iter().map(|(value, factor)| format!("{}:{factor}", quoted(value)));
            let values = values.collect::<Vec<_>>().join(",");
            let times = [
                ("argument", quoted(&times.argument)),
                ("values", format!("{{{values}}}")),
                ("default", quoted(&times.default)),
            ];
            shown.push(("times", object(&times)));
        }
        members.push(("price", object(&shown)));
    }
    if !rule.requires.is_empty() {
        let requires = rule.requires.iter().filter(|of| !of.shadow).map(|of| {
            let mut members = vec![("tier", quoted(&of.tier))];
            if let Some((argument, value)) = &of.when {
                members.extend([("argument", quoted(argument)), ("value", quoted(value))]);
            }
            object(&members)
        });
        members.push(("requires", array(requires)));
    }
    object(&members)
}

/// The same terms for a description.
pub fn described(rule: &Tool) -> String {
    let mut text = "Terms of use: ".to_owned();
    match &rule.price {
        None => text.push_str("free of charge."),
        Some(Price { credits, times: None, .. }) => text.push_str(&format!("{credits} credits a call.")),
        Some(price @ Price { times: Some(times), .. }) => {
            text.push_str(&format!("credits a call, by `{}`: ", times.argument));
            for value in times.values.keys() {
                let credits = price.of(Some(value)).unwrap_or(price.credits);
                text.push_str(&format!("{value} {credits}, "));
            }
            text.push_str(&format!("and {} if it is absent.", times.default));
        }
    }
    for Requirement { when, tier, .. } in rule.requires.iter().filter(|of| !of.shadow) {
        match when {
            None => text.push_str(&format!(" Needs tier {tier} or higher.")),
            Some((argument, value)) => {
                text.push_str(&format!(" `{argument}` {value} needs tier {tier} or higher."));
            }
        }
    }
    for rule in rule.limits.iter().filter(|rule| !rule.shadow) {
        let (Limit { permits, window_seconds }, per) = (rule.limit, rule.per.name());
        text.push_str(&format!(" At most {permits} calls in {window_seconds} s for each {per}."));
    }
    text
}

/// A tool result with the content twice: as text for models, and as structured content for programs.
fn result(content: &str) -> String {
    let text = quoted(content);
    format!(
        r#"{{"resultType":"complete","isError":false,"structuredContent":{content},"content":[{{"type":"text","text":{text}}}]}}"#
    )
}

/// Reads the arguments of `request_key` from a message that was recognised as a call of it. The error is shown to the caller.
pub fn read_key_request(
    body: &[u8],
    policy: &Policy,
    key: &Key,
    now: Timestamp,
) -> Result<KeyRequest, String> {
    let arguments = arguments(body);
    if let Some(name) =
        arguments.keys().find(|name| !["service_name", "ttl_seconds", "rate_limit"].contains(&name.as_ref()))
    {
        let name: String = name.chars().take(40).collect();
        return Err(format!(
            "`{name}` is not an argument of request_key; it takes service_name, ttl_seconds and rate_limit"
        ));
    }
    let service = arguments
        .get("service_name")
        .ok_or("`service_name` is missing; give one that list_services returns")?;
    let service: String =
        serde_json::from_str(service.get()).map_err(|_| "`service_name` must be a string")?;
    if !services(policy, key, now).any(|known| known.name == service) {
        return Err(
            "`service_name` is not a service that this key may use; list_services returns those".to_owned()
        );
    }
    let number = |name: &str, default: u32, most: u32| match arguments.get(name) {
        None => Ok(default),
        Some(raw) => serde_json::from_str(raw.get())
            .ok()
            .filter(|number| (1..=most).contains(number))
            .ok_or_else(|| format!("`{name}` must be an integer from 1 to {most}")),
    };
    Ok(KeyRequest {
        ttl_seconds: number("ttl_seconds", TTL_SECONDS, IssueRequest::TTL_SECONDS_MAX)?,
        rate_limit: number("rate_limit", RATE_LIMIT, Limit::PERMITS_MAX)?,
        service,
    })
}

/// The arguments of a `tools/call` that was already checked.
fn arguments(body: &[u8]) -> BTreeMap<Cow<'_, str>, &RawValue> {
    std::str::from_utf8(body)
        .ok()
        .and_then(json::object::<Envelope<'_>>)
        .and_then(|message| json::object::<Params<'_>>(message.params?.get()))
        .and_then(|params| serde_json::from_str(params.arguments?.get()).ok())
        .unwrap_or_default()
}
