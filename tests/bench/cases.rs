//! The cases of the comparison: a gate, a request, and the answer it must give.

use crate::gate::{Filters, Gate, Other, Site};
use crate::load::Load;
use crate::relay::Relay;
use crate::services::Services;
use crate::{Built, load};
use anyhow::ensure;
use protocol::key::Limit;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A GET of a free route of the policy's HTTP service.
    Get,
    /// An MCP `tools/call` of 300 bytes.
    Mcp,
}

/// One case.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name on the command line and in the raw numbers.
    pub name: &'static str,
    /// Its name in tables.
    pub title: &'static str,
    /// What is sent.
    pub kind: Kind,
    /// The Envoy that gets the request. Calls with later cost, such as settlements, have an Envoy of their own.
    pub gate: &'static str,
    /// The status of a correct answer.
    pub status: u16,
    /// The highest ratio of Envoy's CPU time per request to that of bare Envoy.
    pub target: Option<f64>,
}

/// An unknown key: a gate that admits it does not do the work that is measured.
const UNKNOWN: &str = "unknown";

/// All of them, in the order of the table.
pub const CASES: &[Case] = &[
    case("bare-get", "bare Envoy, GET", Kind::Get, "bare", 200, None),
    case("noop-get", "no-op wasm filter, GET", Kind::Get, "noop", 200, None),
    case("headers-get", "wasm filter that only sets the same headers, GET", Kind::Get, "headers", 200, None),
    case("native-get", "api_key_auth + local_ratelimit, GET", Kind::Get, "native", 200, None),
    case("services-get", "ext_authz + ratelimit, GET", Kind::Get, "services", 200, None),
    case("free", "AgentRelay, free GET", Kind::Get, "free", 200, Some(1.4)),
    case("refused-429", "AgentRelay, refused 429", Kind::Get, "refused", 429, Some(0.75)),
    case("refused-403", "AgentRelay, refused 403", Kind::Get, "refused", 403, Some(0.75)),
    case("module-free", "AgentRelay as a module, free GET", Kind::Get, "module-free", 200, Some(1.25)),
    case("module-429", "AgentRelay as a module, refused 429", Kind::Get, "module-refused", 429, Some(0.55)),
    case("module-403", "AgentRelay as a module, refused 403", Kind::Get, "module-refused", 403, Some(0.55)),
    case("bare-mcp", "bare Envoy, MCP call", Kind::Mcp, "bare", 200, None),
    case("noop-mcp", "no-op wasm filter, MCP call", Kind::Mcp, "noop", 200, None),
    case("native-mcp", "api_key_auth + local_ratelimit, MCP call", Kind::Mcp, "native", 200, None),
    case("services-mcp", "ext_authz + ratelimit, MCP call", Kind::Mcp, "services", 200, None),
    case("leased", "AgentRelay, leased MCP call", Kind::Mcp, "leased", 200, Some(1.85)),
    case("exact", "AgentRelay, exact MCP call", Kind::Mcp, "exact", 200, Some(3.0)),
    case(
        "module-leased",
        "AgentRelay as a module, leased MCP call",
        Kind::Mcp,
        "module-leased",
        200,
        Some(1.45),
    ),
    case("module-exact", "AgentRelay as a module, exact MCP call", Kind::Mcp, "module-exact", 200, Some(2.2)),
];

const fn case(
    name: &'static str,
    title: &'static str,
    kind: Kind,
    gate: &'static str,
    status: u16,
    target: Option<f64>,
) -> Case {
    Case { name, title, kind, gate, status, target }
}

impl Case {
    /// The case that this one is compared with.
    pub fn reference(&self) -> &'static str {
        match self.kind {
            Kind::Get => "bare-get",
            Kind::Mcp => "bare-mcp",
        }
    }

    /// The highest ratio of the median latency over one connection to that of bare Envoy.
    pub fn target_p50(&self) -> Option<f64> {
        match self.name {
            "free" => Some(1.1),
            "leased" => Some(1.2),
            _ => None,
        }
    }

    /// True if the gate is AgentRelay.
    pub fn is_agentrelay(&self) -> bool {
        self.title.starts_with("AgentRelay")
    }
}

/// The cases with these names, and those they are compared with; all cases if no name is given.
pub fn select(names: &[String]) -> anyhow::Result<Vec<Case>> {
    for name in names {
        let known: Vec<_> = CASES.iter().map(|case| case.name).collect();
        ensure!(known.contains(&name.as_str()), "no case is named {name:?}; there are {}", known.join(", "));
    }
    let is_wanted = |case: &Case| names.is_empty() || names.iter().any(|name| name == case.name);
    let references: Vec<_> =
        CASES.iter().filter(|case| is_wanted(case)).map(|case| case.reference()).collect();
    Ok(CASES.iter().filter(|case| is_wanted(case) || references.contains(&case.name)).copied().collect())
}

/// All cases, ready to run.
pub struct Ready {
    /// Each of them.
    pub cases: Vec<Player>,
    /// A key with all permissions.
    pub key: String,
    _services: Option<Services>,
}

/// A case that is ready to run.
pub struct Player {
    /// The case.
    pub case: Case,
    /// The requests and where to send them.
    pub load: Load,
    /// The Envoy.
    pub gate: Rc<Gate>,
    /// Processes that work for this case, other than its Envoy.
    pub services: Vec<u32>,
}

/// Starts the gates of all cases.
pub async fn start(site: &Site, built: &Built, cases: &[Case], relay: &Relay) -> anyhow::Result<Ready> {
    let tenant = relay.tenant().await?;
    let good = relay.key(&tenant, &["read", "generate"], None).await?;
    let spent = relay.key(&tenant, &["read"], Some(Limit { permits: 1, window_seconds: 86_400 })).await?;
    let unfit = relay.key(&tenant, &["generate"], None).await?;
    let mut gates = BTreeMap::new();
    let mut ready = Vec::new();
    let mut services = None;
    for case in cases {
        let gate = match gates.get(case.gate) {
            Some(gate) => Rc::clone(gate),
            None => {
                eprintln!("==> starting the Envoy {}", case.gate);
                let mut filters = filters(case.gate, built, relay, &good)?;
                if case.gate == "services" {
                    let started = Services::start(site, &good, built.ratelimit.as_deref()).await?;
                    Other::point(&mut filters, "authorization", started.authorization)?;
                    Other::point(&mut filters, "ratelimit", started.ratelimit)?;
                    services = Some(started);
                }
                let gate = Rc::new(Gate::start(site, case.gate, filters, 1).await?);
                gates.insert(case.gate, Rc::clone(&gate));
                gate
            }
        };
        let key = match case.status {
            429 => &spent,
            403 => &unfit,
            _ => &good,
        };
        let tool = if case.name.ends_with("leased") { "summarize" } else { "image_generate" };
        let request = request(case.kind, key, tool);
        let mut connection = load::Connection::open(gate.address).await?;
        if case.status == 429 {
            connection.call(&request).await?;
        }
        if !["bare", "noop", "headers"].contains(&case.gate) {
            let status = connection.call(&self::request(case.kind, UNKNOWN, tool)).await?;
            ensure!(status == 401, "{}: an unknown key got {status} instead of 401", case.title);
        }
        let services = match &services {
            Some(services) if case.gate == "services" => services.pids(),
            _ if case.is_agentrelay() => vec![relay.pid()],
            _ => Vec::new(),
        };
        let load = Load { gate: gate.address, requests: Rc::new(vec![request]), status: Some(case.status) };
        ready.push(Player { case: *case, load, gate, services });
    }
    Ok(Ready { cases: ready, key: good, _services: services })
}

fn filters(gate: &str, built: &Built, relay: &Relay, key: &str) -> anyhow::Result<Filters> {
    match gate {
        "bare" => Ok(Filters::Bare),
        "noop" | "headers" => {
            let wasm = std::fs::canonicalize(&built.noop)?;
            let wasm = wasm.to_string_lossy();
            Other::read(include_str!("gates/noop.yaml"), &[("NOOP_WASM", &wasm), ("NOOP_DOES", gate)])
        }
        "services" => Other::read(include_str!("gates/services.yaml"), &[]),
        "native" => Other::read(include_str!("gates/native.yaml"), &[("API_KEY", key)]),
        module if module.starts_with("module-") => Ok(relay.module()),
        _ => Ok(relay.filters()),
    }
}

/// A request as bytes, the same for every gate.
pub fn request(kind: Kind, key: &str, tool: &str) -> Vec<u8> {
    let head = format!("host: tools.example\r\nuser-agent: bench\r\nauthorization: Bearer {key}\r\n");
    match kind {
        Kind::Get => {
            format!("GET /api/v1/mcp/projects/42/builds HTTP/1.1\r\n{head}accept: */*\r\n\r\n").into_bytes()
        }
        Kind::Mcp => {
            let body = call(tool);
            let length = body.len();
            format!(
                "POST /mcp HTTP/1.1\r\n{head}accept: application/json, text/event-stream\r\n\
                 content-type: application/json\r\nmcp-protocol-version: 2025-06-18\r\n\
                 content-length: {length}\r\n\r\n{body}"
            )
            .into_bytes()
        }
    }
}

/// A call of 300 bytes.
fn call(tool: &str) -> String {
    let start = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"quality":"standard","prompt":""#
    );
    let end = r#""}}}"#;
    let prompt = "a lighthouse on a cliff at dusk, waves below, gulls above; ".repeat(8);
    format!("{start}{}{end}", &prompt[..300 - start.len() - end.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_300_bytes_whatever_the_tool() {
        for tool in ["image_generate", "summarize"] {
            let call = call(tool);
            assert_eq!(call.len(), 300);
            let call: serde_json::Value = serde_json::from_str(&call).expect("it is JSON");
            assert_eq!(call["params"]["name"], tool);
        }
    }

    #[test]
    fn an_unknown_case_is_named() {
        let error = select(&["fre".to_owned()]).expect_err("there is no such case");
        assert!(error.to_string().contains("\"fre\""), "{error}");
    }
}
