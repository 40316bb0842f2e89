//! Compiles the document into rules. Everything is checked, and every fault is reported with its path.

use super::{BODY_BYTES_MAX, Help, Policy, Service, ServiceKind, Tier};
use crate::document::{self, Invalid, Per, Refusals, Reserve, Risk, Terms};
use crate::http::Router;
use crate::key::Key;
use crate::limit::{LimitRule, Origin};
use crate::oauth::{self, Metadata};
use crate::ordered;
use crate::price::Price;
use crate::reading::Names;
use crate::scope::ScopeRule;
use crate::tool::{Requirement, Tool};
use protocol::key::{KeyRecord, KeySource, KeyState, Limit};
use protocol::{Credits, KeyId, PolicyVersion, TenantId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const RULES_MAX: usize = 4096;
/// The id of the caller that stands for all callers with unknown keys while the ledger is away.
const UNVERIFIED: &str = "unverified";
/// Each key may open at least this many connections in as many seconds, whatever its tier.
const OPENINGS_MIN: u32 = 60;

/// Compiles the document and collects every fault.
#[derive(Default)]
pub(super) struct Compiler {
    faults: Vec<String>,
}

impl Compiler {
    pub(super) fn fault(&mut self, path: &str, fault: &str) {
        self.faults.push(format!("{path}: {fault}"));
    }

    pub(super) fn policy(
        mut self,
        version: PolicyVersion,
        document: document::Document,
    ) -> Result<Policy, Invalid> {
        if document.tiers.is_empty() {
            self.fault("tiers", "name at least one tier");
        }
        if document.services.is_empty() {
            self.fault("services", "name at least one service");
        }
        let rules =
            document.services.values().map(|service| service.tools.len()).fold(0, usize::saturating_add);
        if rules > RULES_MAX {
            self.fault("services", "at most 4096 tools in all");
        }
        // Maps are filled one by one, because `collect` into a map adds a sort to the filter; see `ordered`.
        let mut tiers = BTreeMap::new();
        for (name, tier) in document.tiers {
            let path = format!("tiers.{name}");
            self.name(&path, &name);
            let limits = self.limits(&path, (Origin::Tier, "key"), tier.limits);
            let most = limits.iter().map(|rule| rule.limit.permits).max().unwrap_or(Limit::PERMITS_MAX);
            let limit = Limit { permits: most.max(OPENINGS_MIN), window_seconds: OPENINGS_MIN };
            let openings = LimitRule::new(Origin::Opening, Per::Key, "opening", limit);
            let concurrency = tier.concurrency;
            if !concurrency.is_in_bounds() {
                self.fault(
                    &format!("{path}.concurrency"),
                    "requests from 1 to 100000, streams from 0 to 100000",
                );
            }
            tiers.insert(name.clone(), Tier { name, rank: tier.rank, limits, openings, concurrency });
        }
        // The service with the most specific path decides; among equal paths, the one that names its hosts.
        let rank = |service: &Service| (service.base().len(), !service.hosts.is_empty());
        let mut services = Vec::with_capacity(document.services.len());
        for (name, service) in document.services {
            let service = self.service(name, service, &document.risks, &tiers);
            ordered::insert(&mut services, service, |a, b| rank(b).cmp(&rank(a)));
        }
        let unverified = document.settings.unknown_keys_on_ledger_outage;
        let unverified = unverified.and_then(|caller| self.unverified(caller, &tiers));
        let policy = Policy {
            version,
            key_stale_seconds: document.settings.key_stale.seconds,
            reservation_ttl_seconds: document.settings.reservation_ttl.seconds,
            unverified,
            tiers,
            services,
            session_secrets: Vec::new(),
            help: self.help(document.settings.contact, document.settings.upgrade_url),
        };
        if !(1..=3600).contains(&policy.reservation_ttl_seconds) {
            self.fault("settings.reservation_ttl", "from 1s to 1h");
        }
        if self.faults.is_empty() { Ok(policy) } else { Err(Invalid::all(self.faults)) }
    }

    fn help(&mut self, contact: Option<String>, upgrade_url: Option<String>) -> Help {
        let is_line = |text: &String| (1..=200).contains(&text.len()) && !text.contains(char::is_control);
        if contact.as_ref().is_some_and(|contact| !is_line(contact)) {
            self.fault("settings.contact", "one line of 1 to 200 bytes, such as an address");
        }
        let is_url =
            |url: &String| is_line(url) && oauth::without_scheme(url).is_some() && !url.contains(' ');
        if upgrade_url.as_ref().is_some_and(|url| !is_url(url)) {
            self.fault("settings.upgrade_url", "a URL with https:// or http://, of at most 200 bytes");
        }
        Help { contact, upgrade_url }
    }

    /// All callers with unknown keys are one caller, so that invented keys neither add permits nor fill memory.
    fn unverified(
        &mut self,
        caller: document::Unverified,
        tiers: &BTreeMap<String, Tier>,
    ) -> Option<Arc<Key>> {
        let path = "settings.unknown_keys_on_ledger_outage";
        if !tiers.contains_key(&caller.tier) {
            self.fault(&format!("{path}.tier"), "is none of `tiers`");
        }
        if caller.scopes.is_empty() || caller.scopes.iter().any(String::is_empty) {
            self.fault(&format!("{path}.scopes"), "name at least one scope, or leave the whole setting out");
        }
        Some(Arc::new(Key::new(KeyRecord {
            key_id: KeyId::parse(UNVERIFIED).ok()?,
            tenant_id: TenantId::parse(UNVERIFIED).ok()?,
            tier: caller.tier,
            state: KeyState::Active,
            scopes: caller.scopes,
            services: None,
            tools: None,
            resources: None,
            limits: Vec::new(),
            concurrency: None,
            agent_id: None,
            source: KeySource::Admin,
            has_budget: false,
            expires_at: None,
            parent: None,
        })))
    }

    fn service(
        &mut self,
        name: String,
        mut service: document::Service,
        risks: &document::Risks,
        tiers: &BTreeMap<String, Tier>,
    ) -> Service {
        let path = format!("services.{name}");
        self.name(&path, &name);
        if !is_plain_path(&service.path) {
            self.fault(
                &format!("{path}.path"),
                "begin with `/`, without `//`, dot segments, `;`, `%` or `?`",
            );
        }
        let refusals = service.refusals.unwrap_or(match service.kind {
            document::ServiceKind::Mcp => Refusals::McpHttp,
            document::ServiceKind::Http => Refusals::Http,
        });
        let body_bytes_max = service.body_bytes_max.unwrap_or(BODY_BYTES_MAX);
        if !(1024..=BODY_BYTES_MAX).contains(&body_bytes_max) {
            self.fault(&format!("{path}.body_bytes_max"), "from 1024 to 1048576");
        }
        if service.upgrades && service.kind == document::ServiceKind::Mcp {
            self.fault(&format!("{path}.upgrades"), "an MCP service has no upgrades; remove it");
        }
        let tools: Vec<Tool> = std::mem::take(&mut service.tools)
            .into_iter()
            .map(|(tool, rule)| {
                let path = format!("{path}.tools.{tool}");
                self.tool(&path, tool, rule, service.kind, risks, tiers)
            })
            .collect();
        let unlisted = match std::mem::take(&mut service.unlisted) {
            document::Unlisted::Deny => None,
            document::Unlisted::Rule(rule) => {
                let path = format!("{path}.unlisted");
                if rule.resource.is_some() {
                    self.fault(
                        &format!("{path}.resource"),
                        "unlisted tools have no path template that could name a resource; leave it out",
                    );
                }
                Some(self.tool(&path, "unlisted".to_owned(), *rule, service.kind, risks, tiers))
            }
        };
        let has_deciding_arguments =
            tools.iter().chain(&unlisted).any(|tool| tool.deciding_arguments().next().is_some());
        let kind = match service.kind {
            document::ServiceKind::Mcp => {
                let mut by_name = BTreeMap::new();
                by_name.extend(tools.into_iter().map(|tool| (tool.name.clone(), tool)));
                ServiceKind::Mcp(by_name)
            }
            document::ServiceKind::Http => {
                let (router, faults) = Router::new(tools, service.case_sensitive);
                self.faults
                    .extend(faults.into_iter().map(|(tool, fault)| format!("{path}.tools.{tool}: {fault}")));
                ServiceKind::Http(router)
            }
        };
        if service.show_terms && service.terms.is_some() {
            self.fault(&format!("{path}.show_terms"), "`terms` says it; leave this out");
        }
        let gate_tools = self.gate_tools(&path, &mut service, &kind, risks, tiers);
        Service {
            refusals,
            body_bytes_max,
            forward_credential: service.forward_credential,
            upgrades: service.upgrades,
            oauth: service.oauth.and_then(|oauth| self.oauth(&format!("{path}.oauth"), &oauth, &kind)),
            usage_tokens: service.usage_tokens || service.kind == document::ServiceKind::Mcp,
            unlisted,
            read_only: scope_rule(Risk::ReadOnly, risks),
            prompts: self.names(&format!("{path}.prompts"), service.kind, service.prompts, risks),
            resources: self.names(&format!("{path}.resources"), service.kind, service.resources, risks),
            gate_tools,
            terms: service.terms.unwrap_or(if service.show_terms { Terms::Meta } else { Terms::Hide }),
            case_sensitive: service.case_sensitive,
            has_deciding_arguments,
            kind,
            hosts: service.hosts,
            path: service.path,
            name,
        }
    }

    fn oauth(&mut self, path: &str, oauth: &document::OAuth, kind: &ServiceKind) -> Option<Metadata> {
        let servers = &oauth.authorization_servers;
        if servers.is_empty() || servers.iter().any(|server| oauth::without_scheme(server).is_none()) {
            self.fault(&format!("{path}.authorization_servers"), "name at least one, each by its URL");
        }
        let mut scopes = BTreeSet::new();
        if let ServiceKind::Mcp(tools) = kind {
            scopes.extend(tools.values().flat_map(|tool| tool.scope.scopes.iter().cloned()));
        }
        let metadata = Metadata::new(&oauth.resource, servers, &scopes);
        if metadata.is_none() {
            let fault = "give the URL that clients use for the service, without a query";
            self.fault(&format!("{path}.resource"), fault);
        }
        metadata
    }

    fn names(
        &mut self,
        path: &str,
        kind: document::ServiceKind,
        names: Option<BTreeMap<String, document::Reading>>,
        risks: &document::Risks,
    ) -> Option<Names> {
        if names.is_some() && kind == document::ServiceKind::Http {
            self.fault(path, "only MCP services have them; leave it out");
        }
        let names = names?.into_iter().map(|(name, reading)| {
            let rule = self.scope(&format!("{path}.{name}"), reading.risk, reading.scopes, risks);
            (name, rule)
        });
        Some(Names::new(names))
    }

    pub(super) fn tool(
        &mut self,
        path: &str,
        name: String,
        tool: document::Tool,
        kind: document::ServiceKind,
        risks: &document::Risks,
        tiers: &BTreeMap<String, Tier>,
    ) -> Tool {
        if kind == document::ServiceKind::Mcp {
            let shape_ok = (1..=128).contains(&name.chars().count())
                && !name.contains(|letter: char| letter.is_whitespace() || letter.is_control());
            if !shape_ok {
                self.fault(
                    path,
                    "an MCP tool's name is 1 to 128 characters without blanks and control characters",
                );
            }
            if tool.resource.is_some() {
                self.fault(&format!("{path}.resource"), "resources are named by HTTP path templates only");
            }
        }
        let scope = self.scope(path, tool.risk, tool.scopes, risks);
        if tool.on_unknown.is_some() && tool.price.is_none() {
            self.fault(&format!("{path}.on_unknown"), "only a call with a price is charged; leave it out");
        }
        let requires = tool
            .requires
            .into_iter()
            .enumerate()
            .filter_map(|(index, requirement)| {
                self.requirement(&format!("{path}.requires[{index}]"), requirement, tiers)
            })
            .collect();
        Tool {
            risk: tool.risk,
            scope,
            resource: tool.resource,
            // The subject is the tool's path. So tools of the same name in two services have separate windows, and no tool can
            // have the same subject as the key itself.
            limits: self.limits(path, (Origin::Tool, path), tool.limits),
            price: tool.price.and_then(|price| self.price(&format!("{path}.price"), price, kind)),
            on_unknown: tool.on_unknown.unwrap_or_default(),
            requires,
            name,
        }
    }

    /// The scopes that the tool names, or else those of its risk.
    fn scope(
        &mut self,
        path: &str,
        risk: Risk,
        own: Option<Vec<String>>,
        risks: &document::Risks,
    ) -> ScopeRule {
        let rule = scope_rule(risk, risks);
        let Some(scopes) = own else { return rule };
        if scopes.is_empty() || scopes.iter().any(String::is_empty) {
            self.fault(&format!("{path}.scopes"), "name at least one scope, or leave the field out");
        }
        ScopeRule { scopes, ..rule }
    }

    fn requirement(
        &mut self,
        path: &str,
        requirement: document::Requirement,
        tiers: &BTreeMap<String, Tier>,
    ) -> Option<Requirement> {
        let when = match (requirement.argument, requirement.value) {
            (None, None) => None,
            (Some(argument), Some(value)) => Some((argument, value)),
            _ => {
                self.fault(path, "give `argument` and `value` together, or neither for every call");
                return None;
            }
        };
        match tiers.get(&requirement.tier) {
            Some(tier) => Some(Requirement {
                when,
                tier: requirement.tier,
                rank: tier.rank,
                shadow: requirement.shadow,
            }),
            None => {
                self.fault(&format!("{path}.tier"), "is not one of `tiers`");
                None
            }
        }
    }

    fn price(&mut self, path: &str, price: document::Price, kind: document::ServiceKind) -> Option<Price> {
        let Some(credits) = Credits::new(price.credits).filter(|credits| !credits.is_zero()) else {
            self.fault(&format!("{path}.credits"), "at least 1; leave `price` out for a free tool");
            return None;
        };
        if price.upstream_cost && kind == document::ServiceKind::Http {
            self.fault(&format!("{path}.upstream_cost"), "only MCP results report their cost; leave it out");
        }
        let overrun = Credits::new(price.overrun_credits_max);
        let overruns = price.overrun_credits_max > 0;
        let mut refuse_overrun = |why| self.fault(&format!("{path}.overrun_credits_max"), why);
        if overruns && !price.upstream_cost {
            refuse_overrun(
                "only a cost that the upstream reports can exceed the price; add `upstream_cost: true`",
            );
        }
        if overruns && price.reserve == Reserve::Leased {
            refuse_overrun("a call on leased credits can't cost more than its price; use `reserve: exact`");
        }
        let factor_max = price.times.iter().flat_map(|times| times.values.values()).max().copied();
        let most = credits.checked_mul(factor_max.unwrap_or(1).into());
        let fits = |overrun| most.is_none_or(|most| most.checked_add(overrun).is_some());
        let overrun_credits_max = overrun.filter(|overrun| fits(*overrun)).unwrap_or_else(|| {
            refuse_overrun("the cost grows beyond 9007199254740991 credits");
            Credits::ZERO
        });
        if let Some(times) = &price.times {
            let path = format!("{path}.times");
            if !times.values.contains_key(&times.default) {
                self.fault(&format!("{path}.default"), "is not one of `values`");
            }
            let path = format!("{path}.values");
            if times.values.values().any(|factor| *factor == 0) {
                self.fault(&path, "a factor is at least 1");
            }
            if times.values.values().any(|factor| credits.checked_mul(u64::from(*factor)).is_none()) {
                self.fault(&path, "the price grows beyond 9007199254740991 credits");
            }
        }
        Some(Price {
            credits,
            times: price.times,
            reserve: price.reserve,
            on_ledger_outage: price.on_ledger_outage,
            upstream_cost: price.upstream_cost,
            overrun_credits_max,
        })
    }

    fn limits(
        &mut self,
        path: &str,
        (origin, subject): (Origin, &str),
        limits: Vec<document::Limit>,
    ) -> Vec<LimitRule> {
        let mut rules: Vec<LimitRule> = Vec::with_capacity(limits.len());
        for (index, rule) in limits.into_iter().enumerate() {
            let path = format!("{path}.limits[{index}]");
            let document::Limit { permits, window, shadow, global, per, on_ledger_outage } = rule;
            let limit = Limit { permits, window_seconds: window.seconds };
            if !limit.is_in_bounds() {
                self.fault(&path, "permits from 1 to 1000000, window from 1s to 1d");
            }
            if on_ledger_outage.is_some() && !global {
                let fault = "only a limit with `global: true` needs the ledger; leave it out";
                self.fault(&format!("{path}.on_ledger_outage"), fault);
            }
            let on_ledger_outage = on_ledger_outage.unwrap_or_default();
            let rule = LimitRule::new(origin, per, subject, limit);
            if rules.iter().any(|other| other.id == rule.id) {
                self.fault(&path, "has the same window and `per` as another one; keep the stricter");
            }
            rules.push(LimitRule { shadow, global, on_ledger_outage, ..rule });
        }
        rules
    }

    fn name(&mut self, path: &str, name: &str) {
        let shape_ok = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        if !shape_ok {
            self.fault(path, "a name is 1 to 64 characters of A-Z, a-z, 0-9, `_` and `-`");
        }
    }
}

fn scope_rule(risk: Risk, risks: &document::Risks) -> ScopeRule {
    let rule = match risk {
        Risk::ReadOnly => &risks.read_only,
        Risk::LocalMutation => &risks.local_mutation,
        Risk::ExternalMutation => &risks.external_mutation,
        Risk::Destructive => &risks.destructive,
    };
    ScopeRule { scopes: vec![rule.scope.clone()], shadow: rule.shadow }
}

/// True for a path that every server reads alike.
fn is_plain_path(path: &str) -> bool {
    path.starts_with('/')
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"%;?#\\{}".contains(&byte))
        && !path.split('/').skip(1).any(|segment| matches!(segment, "." | ".."))
        && !path.contains("//")
}
