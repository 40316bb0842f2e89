//! The policy in force: parsed, checked as a whole, and shaped for deciding. There is no invalid [`Policy`].

use crate::document::{self, Invalid, Refusals};
use crate::http::{self, Router};
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

/// The largest body of an MCP message that a service accepts unless it says less; Envoy's own buffer ends there.
pub const BODY_BYTES_MAX: u32 = 1 << 20;

/// Everything that decides a request, at one version.
#[derive(Debug)]
pub struct Policy {
    version: PolicyVersion,
    /// How long a filter trusts a key record without hearing from the ledger, in seconds.
    pub key_stale_seconds: u32,
    /// How long a reservation stays pending unless renewed, in seconds.
    pub reservation_ttl_seconds: u32,
    tiers: BTreeMap<String, Tier>,
    services: Vec<Service>,
    /// What binds sessions, oldest first. No part of the document: it comes beside it.
    pub session_secrets: Vec<SessionSecret>,
}

/// A plan.
#[derive(Debug)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// A tier unlocks what needs a tier of its rank or lower.
    pub rank: u32,
    /// What each key of the tier may do.
    pub limits: Vec<LimitRule>,
    /// How often each key may open a connection, which counts apart: as often as it may do anything, and once a second
    /// at least.
    pub openings: LimitRule,
    /// What each key may have under way on one worker.
    pub concurrency: Concurrency,
}

/// One upstream behind the gate.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// How refusals are written.
    pub refusals: Refusals,
    /// The largest body that is decided upon, in bytes.
    pub body_bytes_max: u32,
    /// The credential goes upstream too.
    pub forward_credential: bool,
    /// Requests may upgrade (WebSocket).
    pub upgrades: bool,
    /// Answers are read for the LLM tokens that they report. Those of MCP services always are.
    pub usage_tokens: bool,
    /// Where clients get credentials, if the operator says so.
    pub oauth: Option<Metadata>,
    /// The rule for what is not listed; `None` denies it.
    pub unlisted: Option<Tool>,
    /// What prompts and resources need that the policy does not name one by one.
    pub read_only: ScopeRule,
    /// The prompts, if the policy names them; then there are no others.
    pub prompts: Option<Names>,
    /// The resources, if the policy names them; then there are no others.
    pub resources: Option<Names>,
    /// The gate's own tools that are offered beside the service's.
    pub gate_tools: Vec<GateTool>,
    /// Lists say what each tool costs, how often it may be called and which scopes it needs.
    pub show_terms: bool,
    /// Its server tells paths apart that differ in case only.
    pub case_sensitive: bool,
    /// How calls are recognised.
    pub kind: ServiceKind,
    hosts: Vec<String>,
    path: String,
}

/// How a service's calls are recognised.
#[derive(Debug)]
pub enum ServiceKind {
    /// By JSON-RPC body; tools by name.
    Mcp(BTreeMap<String, Tool>),
    /// By method and path template.
    Http(Router),
}

impl Policy {
    /// Parses the canonical JSON of a policy. Refused as a whole, with every fault and its path.
    pub fn from_json(bytes: &[u8]) -> Result<Policy, Invalid> {
        let document = document::from_json(bytes)?;
        let digest = Sha256::digest(bytes);
        let version: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let version = PolicyVersion::parse(&version).map_err(|fault| Invalid::at("policy", fault))?;
        compile::Compiler::default().policy(version, document)
    }

    /// Reads the ledger's answer: the policy with what binds its sessions, and the tag of both. No fault shows a secret.
    pub fn of_answer(body: &[u8]) -> Result<(Policy, String), Invalid> {
        let answer =
            crate::json::read(body).map_err(|_| Invalid::at("answer", "it is none of this release"))?;
        let PolicyAnswer { tag, policy, session_secrets } = answer;
        Ok((Policy { session_secrets, ..Policy::from_json(policy.as_bytes())? }, tag))
    }

    /// The content hash of the bytes that this was parsed from.
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

    /// Every service, those with the longest path first.
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// What a client is told that looks for a service's RFC 9728 metadata.
    pub fn metadata_for(&self, host: &[u8], path: &[u8]) -> Option<&Metadata> {
        let services = self.services.iter().filter(|service| service.has_host(host));
        services.filter_map(|service| service.oauth.as_ref()).find(|oauth| oauth.path.as_bytes() == path)
    }

    /// The service that a host and path (without query) belong to: its position in [`Policy::services`].
    pub fn service_for(&self, host: &[u8], path: &[u8]) -> Option<usize> {
        self.services.iter().position(|service| service.serves(host, path))
    }

    /// True if hosts decide which service a request is for.
    pub fn tells_hosts(&self) -> bool {
        self.services.iter().any(|service| !service.hosts.is_empty())
    }

    /// True if some servers would take a plain path for one of another service than it was found to belong to.
    pub fn leads_elsewhere(&self, service: &Service, host: &[u8], path: &str) -> bool {
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
    /// The path under which the service lives.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The gate's own tool of this name, if the policy has it here.
    pub fn gate_tool(&self, name: &str) -> Option<&GateTool> {
        self.gate_tools.iter().find(|tool| tool.rule.name == name)
    }

    /// What prompts or resources need; `None` if the policy names others and not one of these.
    pub fn reading(&self, what: &[Readable]) -> Option<Vec<&ScopeRule>> {
        // It does not say what it reads, so it may be anything.
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

    /// True for the methods whose answers list prompts or resources that the policy names.
    pub fn is_filtered(&self, method: &str) -> bool {
        match method {
            "prompts/list" => self.prompts.is_some(),
            "resources/list" | "resources/templates/list" => self.resources.is_some(),
            _ => false,
        }
    }

    /// The path without a last slash: with it or without, it is the same service's.
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

    /// Whether a server behind it that is lenient with paths would serve this one.
    fn may_serve(&self, path: &str) -> bool {
        let (own, path) = (self.lenient_path(&self.path), self.lenient_path(path));
        let last = path.len().saturating_sub(1);
        let mut pairs = path.iter().zip(&own).enumerate();
        own.len() <= path.len()
            && pairs.all(|(index, (segment, own))| http::reads_as(segment, own, index == last))
            && (own.len() == path.len() || matches!(self.kind, ServiceKind::Http(_)))
    }

    fn lenient_path(&self, path: &str) -> Vec<String> {
        http::lenient_segments(path, self.case_sensitive)
    }

    fn has_host(&self, host: &[u8]) -> bool {
        let name = host.split(|byte| *byte == b':').next().unwrap_or(host);
        // With the dot of the root it is the same host.
        let name = name.strip_suffix(b".").unwrap_or(name);
        self.hosts.is_empty() || self.hosts.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(name))
    }
}

mod compile;
pub mod gate_tools;
#[cfg(test)]
mod tests;
