//! The gate's own tools within an exchange: decided like other tools, answered here, and added to lists.

use super::classify::Classified;
use super::refusal::{self, Refusal};
use super::{Exchange, Lists, Phase, Step, Subject};
use crate::authorize;
use crate::document::Terms;
use crate::gate_tools::{self, KeyRequest};
use crate::key::Key;
use crate::mcp::list::{self, Page, View};
use crate::rules::gate_tools::{GateTool, Kind};
use crate::rules::{Policy, Service, ServiceKind};
use protocol::Timestamp;
use protocol::audit::Outcome;
use protocol::filter::{IssueRequest, Issued};
use std::collections::BTreeMap;

/// How the ledger answered a request for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssueAnswered {
    /// The ledger issued this key.
    Issued(Box<Issued>),
    /// The requesting key is no longer active.
    KeyInactive,
    /// The requesting key may not request keys, or not for this service.
    NotGranted,
    /// The requesting key already has as many live child keys as it may have.
    TooMany,
    /// There was no valid answer. A key may exist, but nobody has its secret.
    Unavailable,
}

/// A call of one of the gate's own tools.
#[derive(Debug)]
pub(super) struct GateCall {
    pub(super) kind: Kind,
    /// The result, if it is known already.
    result: Option<String>,
    key_request: Option<KeyRequest>,
}

impl Exchange {
    pub(super) fn gate_call<'p>(
        &self,
        policy: &'p Policy,
        key: &Key,
        service: &'p Service,
        name: &str,
        body: &[u8],
        now: Timestamp,
    ) -> Classified<'p> {
        let Some(tool) = service.gate_tool(name) else { return Classified::refused(Refusal::unknown_tool()) };
        let mut call = GateCall { kind: tool.kind, result: None, key_request: None };
        let mut refusal = None;
        match tool.kind {
            Kind::ListServices => call.result = Some(gate_tools::list_services_result(policy, key, now)),
            Kind::RequestKey if key.record.parent.is_some() => refusal = Some(Refusal::issued_key()),
            Kind::RequestKey => match gate_tools::read_key_request(body, policy, key, now) {
                Ok(key_request) => call.key_request = Some(key_request),
                Err(fault) => refusal = Some(Refusal::invalid_argument(fault)),
            },
        }
        let authorization = authorize::tool(policy, key, service, &tool.rule, None, &BTreeMap::new(), now);
        // A key that may not call the tool gets no hints about its arguments.
        let refusal = refusal.filter(|_| authorization.denial.is_none());
        Classified {
            tool: Some(&tool.rule),
            subject: Subject::Gate(call),
            authorization,
            refusal,
            ..Classified::protocol(name, authorize::Authorization::default())
        }
    }

    /// Answers a call of one of the gate's own tools after all checks have passed.
    pub(super) fn answer(&mut self) -> Step {
        let Subject::Gate(call) = &mut self.subject else {
            return self.refuse(Refusal::ledger_unavailable());
        };
        if let Some(result) = call.result.take() {
            return self.reply_with(&result);
        }
        match (&call.key_request, self.credential) {
            (Some(key_request), Some(parent)) => {
                let request = IssueRequest {
                    request_id: self.id,
                    parent,
                    service: key_request.service.clone(),
                    ttl_seconds: key_request.ttl_seconds,
                    rate_limit: key_request.rate_limit,
                };
                self.phase = Phase::Issuing;
                Step::Issue(request)
            }
            _ => self.refuse(Refusal::ledger_unavailable()),
        }
    }

    /// The ledger answered the request for a key, or the call to it failed.
    pub fn issue_answered(&mut self, answer: IssueAnswered) -> Step {
        if self.batch.is_some() {
            let is_unavailable = answer == IssueAnswered::Unavailable;
            let step = self.answered_in_batch(is_unavailable, |element| element.issue_answered(answer));
            return step.unwrap_or_else(|| self.windows_failed());
        }
        let refusal = match answer {
            IssueAnswered::Issued(issued) => {
                let policy = self.policy.clone();
                let Subject::Gate(GateCall { key_request: Some(key_request), .. }) = &self.subject else {
                    return self.refuse(Refusal::ledger_unavailable());
                };
                let result = gate_tools::request_key_result(key_request, &issued, &policy);
                return self.reply_with(&result);
            }
            IssueAnswered::KeyInactive => Refusal::invalid_key(),
            IssueAnswered::NotGranted => Refusal::issued_key(),
            IssueAnswered::TooMany => Refusal::too_many_keys(),
            IssueAnswered::Unavailable => Refusal::ledger_unavailable(),
        };
        self.refuse(refusal)
    }

    fn reply_with(&mut self, result: &str) -> Step {
        self.phase = Phase::Refused(Outcome::Allowed);
        Step::Refuse(refusal::result(self.message_id.as_deref(), result))
    }

    /// Calls `use_view` with the view that the key has of a list.
    pub(super) fn with_view<T>(&self, now: super::Now, use_view: impl FnOnce(&View<'_>) -> T) -> T {
        let page = match self.subject {
            Subject::Protocol { lists: Some(Lists::Tools(page)), .. } => Some(page),
            _ => None,
        };
        let own = page.map(|_| self.own_tools(now.wall)).unwrap_or_default();
        use_view(&View {
            sees: &|listed| self.may_see(listed, now),
            terms: &|tool| self.terms(tool),
            own: &own,
            own_on: page.unwrap_or(Page::This),
        })
    }

    /// The gate's own tools that the key may call.
    fn own_tools(&self, now: Timestamp) -> Vec<&'static str> {
        let (Some(key), Some(service)) = (&self.key, self.rules()) else { return Vec::new() };
        let is_seen = |tool: &&GateTool| {
            let is_for_parents = tool.kind == Kind::RequestKey;
            !(is_for_parents && key.record.parent.is_some())
                && authorize::is_visible(&self.policy, key, service, &tool.rule, now)
        };
        service.gate_tools.iter().filter(is_seen).map(|tool| tool.kind.definition()).collect()
    }

    /// The terms of a tool, as a list shows them.
    fn terms(&self, tool: &str) -> Option<list::Terms> {
        let service = self.rules().filter(|service| service.terms != Terms::Hide)?;
        let ServiceKind::Mcp(tools) = &service.kind else { return None };
        let rule = tools.get(tool).or(service.unlisted.as_ref())?;
        let text = (service.terms == Terms::Describe).then(|| gate_tools::described(rule));
        Some(list::Terms { meta: gate_tools::terms(rule), text })
    }
}
