//! What a request is about, and whether something other than the windows and credits refuses it.

use super::refusal::Refusal;
use super::{Exchange, Lists, Subject, ToolCall, Work};
use crate::authorize::{self, Authorization};
use crate::document::{OnUnknown, Reserve};
use crate::http::{self, Match, Router};
use crate::json;
use crate::key::Key;
use crate::mcp::list::Page;
use crate::mcp::{self, Call};
use crate::price;
use crate::rules::{Policy, Service, ServiceKind};
use crate::tool::Tool;
use protocol::{Credits, Timestamp};
use std::collections::BTreeMap;

/// The result of classification, before any window is asked.
pub(super) struct Classified<'p> {
    pub(super) message_id: Option<String>,
    pub(super) tool: Option<&'p Tool>,
    pub(super) subject: Subject,
    pub(super) work: Work,
    pub(super) authorization: Authorization,
    pub(super) refusal: Option<Refusal>,
}

impl<'p> Classified<'p> {
    pub(super) fn refused(refusal: Refusal) -> Classified<'p> {
        Classified {
            message_id: None,
            tool: None,
            subject: Subject::Unknown,
            work: Work::Call,
            authorization: Authorization::default(),
            refusal: Some(refusal),
        }
    }

    pub(super) fn protocol(name: &str, authorization: Authorization) -> Classified<'p> {
        Classified {
            message_id: None,
            tool: None,
            subject: Subject::Protocol { name: name.to_owned(), lists: None },
            work: Work::Call,
            authorization,
            refusal: None,
        }
    }

    /// A request whose answer may contain a list of tools, which must be filtered.
    fn listing(name: &str, lists: Lists, authorization: Authorization) -> Classified<'p> {
        Classified {
            subject: Subject::Protocol { name: name.to_owned(), lists: Some(lists) },
            ..Classified::protocol(name, authorization)
        }
    }
}

impl Exchange {
    /// What the request asks for, and the refusal that applies whatever the windows and credits say.
    pub(super) fn recognise<'p>(
        &self,
        policy: &'p Policy,
        key: &Key,
        body: &[u8],
        now: Timestamp,
    ) -> Classified<'p> {
        let path = match http::plain_path(&self.request.target) {
            Ok(path) => path,
            Err(fault) => return Classified::refused(Refusal::invalid_request(fault.to_string())),
        };
        if !http::is_plain_host(&self.request.host) {
            let detail = "send exactly one host: a name or an address, with or without a port".to_owned();
            return Classified::refused(Refusal::invalid_request(detail));
        }
        let Some(service) = self.service.and_then(|index| policy.services().get(index)) else {
            return Classified::refused(Refusal::unknown_path());
        };
        let ambiguous = || Classified::refused(Refusal::invalid_request(http::Ambiguous.to_string()));
        if policy.matches_other_service(service, &self.request.host, path) {
            return ambiguous();
        }
        if self.request.is_upgrade && !service.upgrades {
            let detail = "this path does not accept upgrades; send a plain request".to_owned();
            return Classified::refused(Refusal::invalid_request(detail));
        }
        if let Some(name) = http::arguments::method_override(&self.request.target) {
            let detail = format!("some servers take the method from `{name}` in the query; leave it out");
            return Classified::refused(Refusal::invalid_request(detail));
        }
        match &service.kind {
            ServiceKind::Mcp(tools) => {
                self.within_session(self.recognise_mcp(policy, key, service, tools, body, now))
            }
            ServiceKind::Http(router) => {
                let Ok(found) = self.route(service, router, path) else { return ambiguous() };
                let rule = found.as_ref().map(Match::tool).or(service.unlisted.as_ref());
                let Some(rule) = rule else { return Classified::refused(Refusal::unknown_path()) };
                let arguments = match self.http_arguments(rule, body) {
                    Ok(arguments) => arguments,
                    Err(refusal) => return Classified::refused(refusal),
                };
                // Only a key that is limited to named resources needs to know which resource this is.
                let is_restricted = key.record.resources.is_some();
                let resource = found.filter(|_| is_restricted).and_then(|found| found.resource());
                let call = (rule, resource.as_deref(), &arguments);
                let work = if self.request.is_upgrade { Work::Stream } else { Work::Call };
                Classified { work, ..Self::tool_call(policy, key, service, call, now) }
            }
        }
    }

    /// The route of an HTTP service that the request takes.
    fn route<'r, 'p>(
        &self,
        service: &Service,
        router: &'r Router,
        path: &'p str,
    ) -> Result<Option<Match<'r, 'p>>, http::Ambiguous> {
        let below = path.strip_prefix(service.path().trim_end_matches('/')).unwrap_or(path);
        match router.find(&self.request.method, below) {
            // What could be another route is refused, unless no rule would let it pass anyway.
            Err(http::Ambiguous) if service.unlisted.is_none() => Ok(None),
            found => found,
        }
    }

    /// True if the body of an HTTP call may hold arguments that decide its price or tier.
    pub(super) fn has_deciding_body(&self, service: &Service, router: &Router) -> bool {
        // Most services have no such rule, and their routes need not be looked for twice.
        if !service.has_deciding_arguments {
            return false;
        }
        let path = http::plain_path(&self.request.target).ok();
        let found = path.and_then(|path| self.route(service, router, path).ok().flatten());
        let rule = found.as_ref().map(Match::tool).or(service.unlisted.as_ref());
        rule.is_some_and(|rule| rule.deciding_arguments().next().is_some())
    }

    fn http_arguments(&self, rule: &Tool, body: &[u8]) -> Result<BTreeMap<String, Option<String>>, Refusal> {
        let wanted: Vec<&str> = rule.deciding_arguments().collect();
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        if let Some(refusal) = (!body.is_empty()).then(|| self.request.encoding_fault()).flatten() {
            return Err(refusal);
        }
        http::arguments::read(&wanted, &self.request.target, body)
            .map_err(|fault| Refusal::invalid_request(fault.to_string()))
    }

    fn recognise_mcp<'p>(
        &self,
        policy: &'p Policy,
        key: &Key,
        service: &'p Service,
        tools: &'p BTreeMap<String, Tool>,
        body: &[u8],
        now: Timestamp,
    ) -> Classified<'p> {
        if let Some(fault) = self.session_fault() {
            return Classified::refused(Refusal::invalid_request(fault));
        }
        match self.request.method.as_slice() {
            b"POST" => {}
            // A GET opens the stream of the server's messages, a DELETE ends a session. Neither has a body.
            b"GET" => {
                let lists = Lists::Tools(Page::Last);
                let is_resumed = self.request.kept("last-event-id").is_some();
                let work = if is_resumed { Work::Resumption } else { Work::Stream };
                let authorization = authorize::within_service(key, service, now);
                return Classified { work, ..Classified::listing("GET stream", lists, authorization) };
            }
            b"DELETE" => {
                let authorization = authorize::within_service(key, service, now);
                return Classified {
                    work: Work::Nothing,
                    ..Classified::protocol("DELETE session", authorization)
                };
            }
            _ => return Classified::refused(Refusal::method_not_allowed()),
        }
        if let Some(refusal) = self.request.encoding_fault() {
            return Classified::refused(refusal);
        }
        let kept: Vec<(&[u8], &[u8])> =
            self.request.kept.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())).collect();
        let message = match mcp::classify(body, &kept) {
            Ok(message) => message,
            Err(fault) => {
                let message_id = fault.id.clone();
                return Classified { message_id, ..Classified::refused(Refusal::invalid_message(fault)) };
            }
        };
        let is_stream = message.call.is_listening();
        let classified = match message.call {
            Call::Tool { name, arguments: _ } if service.gate_tool(&name).is_some() => {
                self.gate_call(policy, key, service, &name, body, now)
            }
            Call::Tool { name, arguments } => match tools.get(&name).or(service.unlisted.as_ref()) {
                Some(rule) => Self::tool_call(policy, key, service, (rule, None, &arguments), now),
                None => Classified {
                    subject: Subject::Protocol { name: "tools/call".to_owned(), lists: None },
                    ..Classified::refused(Refusal::unknown_tool())
                },
            },
            Call::ListTools { is_first } => {
                let lists = if is_first { Lists::Tools(Page::This) } else { Lists::Others };
                Classified::listing("tools/list", lists, authorize::within_service(key, service, now))
            }
            Call::Opening(name) => Classified {
                work: Work::Opening,
                ..Classified::protocol(name, authorize::within_service(key, service, now))
            },
            Call::Read { method, what } => match service.reading(&what) {
                Some(rules) => Classified::protocol(method, authorize::reading(key, service, &rules, now)),
                None => Classified {
                    subject: Subject::Protocol { name: method.to_owned(), lists: None },
                    ..Classified::refused(Refusal::unknown_prompt_or_resource())
                },
            },
            Call::Protocol(name) if service.is_filtered(name) => {
                Classified::listing(name, Lists::Others, authorize::within_service(key, service, now))
            }
            Call::Protocol(name) => Classified::protocol(name, authorize::within_service(key, service, now)),
            Call::Awaited(name) => Classified {
                work: Work::Nothing,
                ..Classified::protocol(name, authorize::within_service(key, service, now))
            },
            Call::Response => Classified {
                work: Work::Nothing,
                ..Classified::protocol("response", authorize::within_service(key, service, now))
            },
            Call::Unknown(_) => Classified::refused(Refusal::unknown_method()),
        };
        let work = if is_stream { Work::Stream } else { classified.work };
        Classified { message_id: message.id, work, ..classified }
    }

    fn tool_call<'p>(
        policy: &Policy,
        key: &Key,
        service: &Service,
        (rule, resource, arguments): (&'p Tool, Option<&str>, &BTreeMap<String, Option<String>>),
        now: Timestamp,
    ) -> Classified<'p> {
        let authorization = authorize::tool(policy, key, service, rule, resource, arguments, now);
        let (price, refusal) = match (price_of(rule, arguments), wrong_case(rule, arguments)) {
            (_, Some(argument)) => (Credits::ZERO, Some(Refusal::wrong_case(argument))),
            (Ok(price), None) => (price, None),
            (Err(unknown), None) => (Credits::ZERO, Some(Refusal::unknown_value(&unknown))),
        };
        let call = ToolCall {
            name: rule.name.clone(),
            price,
            on_ledger_outage: rule.price.as_ref().map(|price| price.on_ledger_outage).unwrap_or_default(),
            is_leased: rule.price.as_ref().is_some_and(|price| price.reserve == Reserve::Leased),
            is_http: matches!(service.kind, ServiceKind::Http(_)),
            refunds_unknown: rule.on_unknown == OnUnknown::Refund,
            cost_max: rule.price.as_ref().and_then(|rule| rule.cost_max(price)),
        };
        Classified {
            message_id: None,
            tool: Some(rule),
            subject: Subject::Tool(call),
            work: Work::Call,
            authorization,
            refusal,
        }
    }
}

/// An argument that decides the price or the tier but is written in different case. A server that ignores case would use it.
fn wrong_case<'r>(rule: &'r Tool, arguments: &BTreeMap<String, Option<String>>) -> Option<&'r str> {
    let is_other = |own: &str, given: &str| given != own && json::is_same_folded(own, given);
    rule.deciding_arguments().find(|own| arguments.keys().any(|given| is_other(own, given)))
}

fn price_of(
    rule: &Tool,
    arguments: &BTreeMap<String, Option<String>>,
) -> Result<Credits, price::UnknownValue> {
    let Some(price) = &rule.price else { return Ok(Credits::ZERO) };
    let Some(times) = &price.times else { return price.of(None) };
    match arguments.get(&times.argument) {
        None => price.of(None),
        Some(Some(value)) => price.of(Some(value)),
        // Not a string, so it can't match a value of the price table.
        Some(None) => price.of(Some("")),
    }
}
