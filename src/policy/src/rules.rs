//! The policy in force: parsed, checked as a whole, and shaped for decisions. There is no invalid [`Policy`].

use crate::document::{self, Invalid, Refusals, Terms};
use crate::http::{self, Router};
use crate::key::Key;
use crate::limit::LimitRule;
use crate::oauth::Metadata;
use crate::reading::{Names, Readable};
use crate::scope::ScopeRule;
use crate::tool::Tool;
use gate_tools::GateTool;
use protocol::PolicyVersion;
use protocol::filter::PolicyAnswer;
use protocol::key::Concurrency;
use protocol::session::SessionSecret;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The largest body of an MCP message, unless a service sets a lower bound. Envoy's own buffer has the same size.
pub const BODY_BYTES_MAX: u32 = 1 << 20;

/// All rules that decide requests, at one version.
#[derive(Debug)]
pub struct Policy {
    version: PolicyVersion,
    /// How many seconds a filter may use a key record without an answer from the ledger.
    pub key_stale_seconds: u32,
    /// How many seconds a reservation stays pending unless it is renewed.
    pub reservation_ttl_seconds: u32,
    /// The caller that stands for all callers with unknown keys while the ledger is away; `None` refuses them.
    pub unverified: Option<Arc<Key>>,
    tiers: BTreeMap<String, Tier>,
    services: Vec<Service>,
    /// The secrets that bind sessions, oldest first. They are not part of the policy document; the ledger sends them with it.
    pub session_secrets: Vec<SessionSecret>,
    /// Whom refusals name.
    pub help: Help,
}

/// Where refusals send the client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Help {
    /// Whom to ask.
    pub contact: Option<String>,
    /// Where to get a higher tier or credits.
    pub upgrade_url: Option<String>,
}

/// A plan of a tenant.
#[derive(Debug)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// A tier unlocks everything that needs a tier of the same or a lower rank.
    pub rank: u32,
    /// The limits on each key of the tier.
    pub limits: Vec<LimitRule>,
    /// How many connections each key may open in a minute: as many as the tier's largest limit has permits, and at least 60.
    /// Openings are counted separately from calls.
    pub openings: LimitRule,
    /// The most requests and streams that each key may have in progress on one worker.
    pub concurrency: Concurrency,
}

/// One upstream behind the gate.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The form in which refusals are written.
    pub refusals: Refusals,
    /// The largest body that the gate decides on, in bytes.
    pub body_bytes_max: u32,
    /// The client's credential is forwarded to the upstream.
    pub forward_credential: bool,
    /// Requests may upgrade (WebSocket).
    pub upgrades: bool,
    /// The gate reads the LLM tokens that answers report. For MCP services it always does.
    pub usage_tokens: bool,
    /// Where clients get credentials, if the operator sets it.
    pub oauth: Option<Metadata>,
    /// The rule for tools that are not listed; `None` denies them.
    pub unlisted: Option<Tool>,
    /// The scopes for prompts and resources that the policy does not name.
    pub read_only: ScopeRule,
    /// The prompts, if the policy names them; then all others are hidden.
    pub prompts: Option<Names>,
    /// The resources, if the policy names them; then all others are hidden.
    pub resources: Option<Names>,
    /// The gate's own tools that this service offers in addition to its own.
    pub gate_tools: Vec<GateTool>,
    /// Whether lists tell what each tool costs, how often it may be called and what it needs.
    pub terms: Terms,
    /// The server distinguishes paths that differ only in case.
    pub case_sensitive: bool,
    /// Some rule decides by an argument of the call.
    pub has_deciding_arguments: bool,
    /// How calls are recognised.
    pub kind: ServiceKind,
    hosts: Vec<String>,
    path: String,
}

/// How a service's calls are recognised.
#[derive(Debug)]
pub enum ServiceKind {
    /// By the JSON-RPC body. The tools are listed by name.
    Mcp(BTreeMap<String, Tool>),
    /// By method and path template.
    Http(Router),
}

impl Policy {
    /// Parses the canonical JSON of a policy. If anything is wrong, the whole policy is refused with every fault and its path.
    pub fn from_json(bytes: &[u8]) -> Result<Policy, Invalid> {
        let document = document::from_json(bytes)?;
        let digest = Sha256::digest(bytes);
        let version: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let version = PolicyVersion::parse(&version).map_err(|fault| Invalid::at("policy", fault))?;
        compile::Compiler::default().policy(version, document)
    }

    /// Reads the ledger's answer: the policy with its session secrets, and the tag of both. Faults never contain a secret.
    pub fn of_answer(body: &[u8]) -> Result<(Policy, String), Invalid> {
        let answer = crate::json::read(body).map_err(|_| {
            Invalid::at("answer", "it has an unknown format; run the same release of ledger and filter")
        })?;
        let PolicyAnswer { tag, policy, session_secrets } = answer;
        Ok((Policy { session_secrets, ..Policy::from_json(policy.as_bytes())? }, tag))
    }

    /// The content hash of the bytes from which the policy was parsed.
    pub fn version(&self) -> &PolicyVersion {
        &self.version
    }

    /// The tier of this name.
    pub fn tier(&self, name: &str) -> Option<&Tier> {
        self.tiers.get(name)
    }

    /// Every tier, by name.
    pub fn tiers(&self) -> impl Iterator<Item = &Tier> {
        self.tiers.values()
    }

    /// Every service; those with the longest path come first.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The RFC 9728 metadata at this host and path, if a service has it there.
    pub fn metadata_for(&self, host: &[u8], path: &[u8]) -> Option<&Metadata> {
        let services = self.services.iter().filter(|service| service.has_host(host));
        services.filter_map(|service| service.oauth.as_ref()).find(|oauth| oauth.path.as_bytes() == path)
    }

    /// The service for a host and a path without query, as its index in [`Policy::services`].
    pub fn service_for(&self, host: &[u8], path: &[u8]) -> Option<usize> {
        self.services.iter().position(|service| service.serves(host, path))
    }

    /// True if the host can decide which service a request is for.
    pub fn selects_by_host(&self) -> bool {
        self.services.iter().any(|service| !service.hosts.is_empty())
    }

    /// True if some servers would read the path as one of another service than `service`, to which it was matched.
    pub fn matches_other_service(&self, service: &Service, host: &[u8], path: &str) -> bool {
        let mut paths = self.services.iter().map(|service| service.path.as_str());
        if http::is_lenient(path) && paths.all(http::is_lenient) {
            return false;
        }
        let mut read = self.services.iter().filter(|service| service.has_host(host));
        let read = read.find(|service| service.may_serve(path));
        read.is_some_and(|read| read.lenient_path(&read.path) != read.lenient_path(&service.path))
    }
}

impl Service {
    /// The path of the service.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tools of the upstream that the policy names.
    pub fn tools(&self) -> impl Iterator<Item = &Tool> {
        let (mcp, http) = match &self.kind {
            ServiceKind::Mcp(tools) => (Some(tools.values()), None),
            ServiceKind::Http(router) => (None, Some(router.tools())),
        };
        mcp.into_iter().flatten().chain(http.into_iter().flatten())
    }

    /// The gate's own tool of this name, if the service offers it.
    pub fn gate_tool(&self, name: &str) -> Option<&GateTool> {
        self.gate_tools.iter().find(|tool| tool.rule.name == name)
    }

    /// The scopes for these prompts or resources. `None` if the policy names prompts or resources, but not all of these.
    pub fn reading(&self, what: &[Readable]) -> Option<Vec<&ScopeRule>> {
        // The message does not say what it reads, so it could read anything.
        if what.is_empty() && (self.prompts.is_some() || self.resources.is_some()) {
            return None;
        }
        let rule = |what: &Readable| match what {
            Readable::Prompt(name) => {
                self.prompts.as_ref().map_or(Some(&self.read_only), |names| names.prompt(name))
            }
            Readable::Resource(uri) => {
                self.resources.as_ref().map_or(Some(&self.read_only), |names| names.resource(uri))
            }
        };
        if what.is_empty() { Some(vec![&self.read_only]) } else { what.iter().map(rule).collect() }
    }

    /// True for methods whose answers list prompts or resources that the policy names.
    pub fn is_filtered(&self, method: &str) -> bool {
        match method {
            "prompts/list" => self.prompts.is_some(),
            "resources/list" | "resources/templates/list" => self.resources.is_some(),
            _ => false,
        }
    }

    /// The path without a last slash. Both forms belong to the same service.
    pub(crate) fn base(&self) -> &str {
        self.path.strip_suffix('/').unwrap_or(&self.path)
    }

    fn serves(&self, host: &[u8], path: &[u8]) -> bool {
        let path_ok = match (path.strip_prefix(self.base().as_bytes()), &self.kind) {
            (None, _) => false,
            (Some(rest), ServiceKind::Mcp(_)) => matches!(rest, b"" | b"/"),
            (Some(rest), ServiceKind::Http(_)) => rest.is_empty() || rest.starts_with(b"/"),
        };
        path_ok && self.has_host(host)
    }

    /// True if a lenient server would read this path as one of the service's.
    fn may_serve(&self, path: &str) -> bool {
        let (own, path) = (self.lenient_path(&self.path), self.lenient_path(path));
        let last = path.len().saturating_sub(1);
        let mut pairs = path.iter().zip(&own).enumerate();
        own.len() <= path.len()
            && pairs.all(|(index, (segment, own))| http::matches_literal(segment, own, index == last))
            && (own.len() == path.len() || matches!(self.kind, ServiceKind::Http(_)))
    }

    fn lenient_path(&self, path: &str) -> Vec<String> {
        http::lenient_segments(path, self.case_sensitive)
    }

    fn has_host(&self, host: &[u8]) -> bool {
        let name = host.split(|byte| *byte == b':').next().unwrap_or(host);
        // A name with a final dot is the same host.
        let name = name.strip_suffix(b".").unwrap_or(name);
        self.hosts.is_empty() || self.hosts.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(name))
    }
}

mod compile;
pub mod gate_tools;
#[cfg(test)]
mod tests;
