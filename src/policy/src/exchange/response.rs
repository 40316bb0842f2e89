//! The response path: rate headers on every response, lists filtered, and calls settled by the upstream's answer.

use super::charge::{self, Charge, Refund};
use super::refusal::{Refusal, Reply};
use super::{Exchange, Fields, Now, Phase, REQUEST_ID, ServiceKind, Subject, ToolCall, quota};
use crate::authorize;
use crate::credential::{self, Headers};
use crate::document::Refusals;
use crate::mcp::answer::{Form, Reader, Verdict as Answered};
use crate::mcp::list;
use crate::mcp::sse::ListFilter;
use crate::reading::Listed;
use crate::rules::BODY_BYTES_MAX;
use crate::window::Verdict;
use crate::window::slot::{Ask, Stage};
use protocol::Credits;
use protocol::audit::{Decision, Outcome, UsageTokens};
use protocol::filter::Settlement;

/// The most bytes of a response that the gate buffers.
pub const HELD_BYTES_MAX: usize = BODY_BYTES_MAX as usize;

/// What was seen of the response so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) status: u16,
    first_byte_ms: Option<u64>,
    /// Reads the upstream's answer to the call.
    pub(super) reader: Option<Box<Reader>>,
    /// Looks for the answer to any other request in a session.
    pub(super) finder: Option<Box<Reader>>,
    /// The body is one message, so its end is the answer.
    pub(super) is_one_message: bool,
    /// At least one byte of the body has arrived.
    has_body: bool,
    /// A redirect tells the client to repeat the call with or without the last slash. The repeated call is charged instead.
    is_slash_redirect: bool,
    /// Envoy gave up on a request that stayed incomplete or was malformed. This is the client's fault.
    is_client_fault: bool,
    pub(super) filter: Option<ListFilter>,
    /// The list was unreadable, so it was not passed on.
    pub(super) failed: bool,
}

impl Progress {
    /// The gate itself answers, with this status.
    pub(super) fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// What reads the answer, if anything does.
    pub(super) fn answer(&self) -> Option<&Reader> {
        self.reader.as_deref().or(self.finder.as_deref())
    }

    pub(super) fn answer_mut(&mut self) -> Option<&mut Reader> {
        self.reader.as_deref_mut().or(self.finder.as_deref_mut())
    }
}

/// What to do with a response.
#[derive(Debug)]
pub struct ResponsePlan {
    /// Headers to set, replacing those of the same name; a header with an empty value is removed.
    pub set: Fields,
    /// What to do with the body.
    pub body: BodyPlan,
}

/// What to do with a response's body.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyPlan {
    /// Let it pass unread.
    Pass,
    /// Let it pass, and give each chunk to [`Exchange::watch`].
    Watch,
    /// Buffer all of it, and send what [`Exchange::filter_whole`] returns instead.
    Hold,
    /// Give each chunk to [`Exchange::watch`], and send what [`Exchange::filter_chunk`] returns instead.
    Rewrite,
    /// Send these bytes instead. The headers to set include their length.
    Replace(Vec<u8>),
    /// Send this reply instead.
    Refuse(Reply),
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The whole response was sent.
    Complete,
    /// The client disconnected before that.
    ClientDisconnected,
    /// The upstream broke off the response; neither the client nor the gate nor Envoy did.
    UpstreamFailed,
    /// The request never went upstream.
    NotSent,
}

/// The results of an exchange.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished {
    /// For the audit log.
    pub decision: Decision,
    /// For the ledger, if something was reserved.
    pub settlement: Option<Settlement>,
    /// For the lease that paid, if the call failed or cost less.
    pub refund: Option<Refund>,
}

impl Exchange {
    /// The windows to read without taking permits, so that a response sent before they were asked can report them.
    pub fn windows_to_read(&self) -> Option<Vec<Ask>> {
        let key = self.key.as_ref().filter(|_| self.quotas.is_empty())?;
        let tier = self.policy.tier(&key.record.tier)?;
        let asks = tier
            .limits
            .iter()
            .chain(&key.limits)
            .map(|rule| Ask { rule: *rule, owner: key.owner(rule.per), stage: Stage::Key, enforced: false })
            .collect();
        Some(asks)
    }

    /// The verdicts of [`Exchange::windows_to_read`].
    pub fn windows_read(&mut self, asks: &[Ask], verdicts: &[Verdict]) {
        self.quotas = quota::quotas(asks, verdicts);
    }

    /// True if the status is not enough to decide what to do with the response.
    pub fn reads_response_headers(&self) -> bool {
        self.is_forwarded() && self.rules().is_some_and(|service| service.usage_tokens)
    }

    /// Response headers have arrived, from the upstream, from Envoy or from the gate itself.
    pub fn response_headers(
        &mut self,
        status: u16,
        headers: &Headers<'_>,
        ends: bool,
        now: Now,
    ) -> ResponsePlan {
        self.response.status = status;
        self.response.first_byte_ms = Some(self.elapsed_ms(now));
        self.response.is_slash_redirect = matches!(status, 307 | 308)
            && credential::single(headers, "location")
                .is_some_and(|to| is_same_path(to, self.request.path()));
        if self.batch.is_some() && self.is_forwarded() {
            let mut plan = self.batch_headers(status, headers, ends, now);
            self.sign_session(headers, &mut plan.set, now);
            return plan;
        }
        let mut set = Fields::for_response();
        self.add_headers(&mut set);
        self.sign_session(headers, &mut set, now);
        ResponsePlan { set, body: self.body_plan(status, headers, ends) }
    }

    /// True if Envoy itself sent this answer. `is_from_upstream` tells whether the upstream did; it is called only for a forwarded
    /// request with an error status.
    pub fn is_answered_by_envoy(&self, status: u16, is_from_upstream: impl FnOnce() -> bool) -> bool {
        match self.phase {
            _ if status < 400 => false,
            Phase::Forwarded(_) => !is_from_upstream(),
            // After a refusal by the gate, a 413 may come from Envoy: the body outgrew Envoy's buffer first.
            Phase::Refused(_) => status == 413,
            _ => true,
        }
    }

    /// Envoy itself answered. The status stays, and the body is rewritten in the service's form. `is_whole` means that the
    /// request had arrived completely.
    pub fn answered_by_envoy(&mut self, status: u16, is_whole: bool, ends: bool, now: Now) -> ResponsePlan {
        self.response.is_client_fault = self.is_forwarded() && !is_whole && status < 500;
        let ResponsePlan { mut set, .. } = self.response_headers(status, &[], true, now);
        let (form, bytes_max) = self
            .rules()
            .map_or((Refusals::Http, BODY_BYTES_MAX), |service| (service.refusals, service.body_bytes_max));
        let refusal = match status {
            413 => Refusal::body_too_large(bytes_max),
            _ => Refusal::envoy_error(status, self.is_forwarded() && !self.response.is_client_fault),
        };
        let mut reply = match &self.batch {
            Some(batch) if self.is_forwarded() => batch.reply_to_all(&refusal, self.id, &self.policy.help),
            _ => refusal.reply(form, self.message_id.as_deref(), false, self.id, &self.policy.help),
        };
        if ends {
            reply.headers.append(&set);
            return ResponsePlan { set, body: BodyPlan::Refuse(reply) };
        }
        set.append(&reply.headers);
        set.push("content-length", &reply.body.len().to_string());
        ResponsePlan { set, body: BodyPlan::Replace(reply.body) }
    }

    fn body_plan(&mut self, status: u16, headers: &Headers<'_>, ends: bool) -> BodyPlan {
        let is_read = self.rules().is_some_and(|service| service.usage_tokens);
        if !self.is_forwarded() || !is_read || ends {
            return BodyPlan::Pass;
        }
        let form = form_of(headers);
        let is_ok = (200..300).contains(&status);
        let is_looked_for = is_ok && self.used.is_some() && matches!(self.subject, Subject::Protocol { .. });
        self.response.is_one_message = is_looked_for && form == Some(Form::Json);
        if is_looked_for && form == Some(Form::Events) {
            self.response.finder = Some(Box::new(Reader::new(Form::Events, self.message_id.as_deref())));
        }
        match (&self.subject, form) {
            (Subject::Protocol { lists: Some(_), .. }, form) if is_ok => match form {
                Some(Form::Json) => BodyPlan::Hold,
                Some(Form::Events) => {
                    self.response.filter = Some(ListFilter::default());
                    BodyPlan::Rewrite
                }
                None => {
                    self.response.failed = true;
                    BodyPlan::Refuse(self.unreadable())
                }
            },
            // A 202 says that no answer follows here, and a redirect that it is elsewhere; clients read no answer in either.
            (Subject::Tool(_), Some(form)) if is_ok && status != 202 => {
                self.response.reader = Some(Box::new(Reader::new(form, self.message_id.as_deref())));
                BodyPlan::Watch
            }
            _ if self.response.finder.is_some() => BodyPlan::Watch,
            _ => BodyPlan::Pass,
        }
    }

    /// A part of the body has arrived, whatever the plan for the body is.
    pub fn body_arrived(&mut self) {
        self.response.has_body = true;
    }

    /// Reads a chunk of the body.
    pub fn watch(&mut self, chunk: &[u8]) {
        if let Some(reader) = self.response.answer_mut() {
            reader.feed(chunk);
        }
    }

    /// The whole buffered body has arrived. Returns what to send instead; `None` keeps the body.
    pub fn filter_whole(&mut self, body: &[u8], now: Now) -> Result<Option<Vec<u8>>, Reply> {
        // A body that is too large was cut off, so nothing in it can be read.
        let body = if body.len() > HELD_BYTES_MAX { &[] } else { body };
        if self.batch.is_some() {
            return self.batch_body(body, now);
        }
        self.with_view(now, |view| list::filter(body, view)).map_err(|list::Unreadable| {
            self.response.failed = true;
            self.unreadable()
        })
    }

    /// A chunk of an event stream. Returns what to send instead. After an error the stream must be cut off.
    pub fn filter_chunk(&mut self, chunk: &[u8], ends: bool, now: Now) -> Result<Vec<u8>, list::Unreadable> {
        let Some(mut filter) = self.response.filter.take() else { return Err(list::Unreadable) };
        if self.batch.is_some() {
            return self.batch_chunk(filter, chunk, ends, now);
        }
        let passed = self.with_view(now, |view| filter.feed(chunk, ends, view));
        self.response.filter = Some(filter);
        self.response.failed |= passed.is_err();
        passed
    }

    /// True if the request may have ended before it went upstream, so that it is worth asking Envoy.
    pub fn may_not_be_sent(&self) -> bool {
        self.is_forwarded() && (self.response.is_client_fault || matches!(self.response.status, 0 | 300..400))
    }

    /// The exchange is over. Returns its results, or those of each message of a batch.
    pub fn finish_all(&self, end: End, envoy: &str, now: Now) -> Vec<Finished> {
        match &self.batch {
            // The client left while messages were still being decided, so nothing was sent upstream.
            Some(batch) if !self.is_forwarded() => batch.finish(End::NotSent, envoy, now),
            Some(batch) => batch.finish(self.effective_end(end), envoy, now),
            None => vec![self.finish(end, envoy, now)],
        }
    }

    /// Like [`Exchange::finish_all`], for one message.
    pub fn finish(&self, end: End, envoy: &str, now: Now) -> Finished {
        let (outcome, charged) = self.outcome(self.effective_end(end));
        let charge = self.charge();
        let is_reserved = matches!(charge, Charge::Reserved(_));
        let settlement = charge.settlement(self.id.into(), charged);
        let refund = self.key.as_ref().and_then(|key| charge.refund(key.tenant, charged));
        let usage = self.response.reader.as_ref().map(|reader| reader.usage()).unwrap_or_default();
        let record = self.key.as_ref().map(|key| &key.record);
        let is_refused = matches!(self.phase, Phase::Refused(_)) && self.response.status != 0;
        let mut shadow = self.would_deny.take();
        let decision = Decision {
            id: self.id,
            at: self.began.wall,
            outcome,
            would_deny: shadow.as_ref().map(|refusal| refusal.outcome()),
            would_deny_reason: shadow.as_mut().map(|refusal| refusal.reason()),
            reason: self.reason.take(),
            key_id: record.map(|record| record.key_id.clone()),
            tenant_id: record.map(|record| record.tenant_id.clone()),
            agent_id: record.and_then(|record| record.agent_id.clone()),
            service: self.rules().map(|service| service.name.clone()),
            tool: self.subject().map(str::to_owned),
            credits: charged,
            reservation_id: is_reserved.then(|| self.id.into()),
            lease_id: charge.lease_id(),
            usage_tokens: Some(usage).filter(|usage| *usage != UsageTokens::default()),
            status: self.response.status,
            first_byte_ms: self.response.first_byte_ms.or(is_refused.then(|| self.elapsed_ms(now))),
            duration_ms: self.elapsed_ms(now),
            policy_version: self.policy.version().clone(),
            envoy: envoy.to_owned(),
        };
        Finished { decision, settlement, refund }
    }

    fn charge(&self) -> Charge {
        if let Phase::Forwarded(charge) = self.phase { charge } else { Charge::None }
    }

    /// A stream that the upstream broke off has not failed if the client can resume it.
    pub(super) fn effective_end(&self, end: End) -> End {
        match (end, &self.response.reader) {
            (End::UpstreamFailed, Some(reader)) if reader.is_resumable() => End::Complete,
            (end, _) => end,
        }
    }

    /// The outcome and the charge. A call that went upstream is charged unless the gate saw it fail.
    fn outcome(&self, end: End) -> (Outcome, Credits) {
        let reserved = match &self.phase {
            Phase::Refused(outcome) => return (*outcome, Credits::ZERO),
            Phase::Forwarded(charge) => charge.credits(),
            // Envoy ended the exchange before it was decided, because a body or a time exceeded one of Envoy's bounds.
            _ if end == End::Complete && self.response.status != 0 => {
                return (Outcome::InvalidRequest, Credits::ZERO);
            }
            _ => return (Outcome::Cancelled, Credits::ZERO),
        };
        let status = self.response.status;
        let Subject::Tool(call) = &self.subject else {
            let outcome = match end {
                _ if self.response.failed || status >= 500 => Outcome::UpstreamError,
                End::UpstreamFailed => Outcome::UpstreamError,
                _ if status == 0 => Outcome::Cancelled,
                _ => Outcome::Allowed,
            };
            return (outcome, Credits::ZERO);
        };
        let is_client_fault = self.response.is_client_fault;
        let outcome = match end {
            _ if status == 0 || is_client_fault => Outcome::Cancelled,
            End::ClientDisconnected => Outcome::Cancelled,
            _ => Outcome::Allowed,
        };
        if end == End::NotSent || self.response.is_slash_redirect {
            return (outcome, Credits::ZERO);
        }
        if self.is_doubted {
            return (outcome, if call.refunds_unknown { Credits::ZERO } else { reserved });
        }
        if status >= 400 && !is_client_fault {
            return (Outcome::UpstreamError, Credits::ZERO);
        }
        match self.verdict(call, end) {
            // A client that disconnects after the result has begun still pays, so that leaving early does not make a call free.
            Answered::Success => {
                let cost = self.response.reader.as_ref().and_then(|reader| reader.cost());
                // A call that passed without a reservation costs nothing, whatever cost the upstream reports.
                let cost_max = call.cost_max.filter(|_| !reserved.is_zero());
                (Outcome::Allowed, charge::charged(reserved, cost_max, cost))
            }
            Answered::Failure => (Outcome::UpstreamError, Credits::ZERO),
            // The call is not over. It is charged when its result arrives.
            Answered::Unfinished => (Outcome::Allowed, Credits::ZERO),
            Answered::Unclear | Answered::Nothing if call.refunds_unknown => (outcome, Credits::ZERO),
            Answered::Unclear | Answered::Nothing => (outcome, reserved),
        }
    }

    /// True if what the upstream sent changes the charge.
    pub(super) fn is_settled_by_upstream(&self, end: End) -> bool {
        let is_sent = end != End::NotSent && !self.response.is_slash_redirect;
        is_sent && self.outcome(end).1 != self.charge().credits()
    }

    /// How a call ended that went upstream and whose status is no refusal.
    fn verdict(&self, call: &ToolCall, end: End) -> Answered {
        let response = &self.response;
        let verdict = match &response.reader {
            _ if response.is_client_fault => Answered::Nothing,
            Some(reader) if !call.is_http => reader.verdict(),
            // All that the gate can see of a REST call is that an answer arrived.
            _ if call.is_http && response.status != 0 && (response.has_body || end == End::Complete) => {
                Answered::Success
            }
            _ if response.has_body => Answered::Unclear,
            _ => Answered::Nothing,
        };
        let has_failed = verdict == Answered::Nothing && end == End::UpstreamFailed;
        if has_failed { Answered::Failure } else { verdict }
    }

    /// True if the key may see this item of a list; `None` if every key may see it.
    pub(super) fn may_see(&self, listed: Listed<'_>, now: Now) -> Option<bool> {
        let (Some(key), Some(service)) = (&self.key, self.rules()) else { return Some(false) };
        let ServiceKind::Mcp(tools) = &service.kind else { return Some(false) };
        let rule =
            match listed {
                // A tool of the gate hides an upstream tool of the same name.
                Listed::Tool(name) if service.gate_tool(name).is_some() => return Some(false),
                Listed::Tool(name) => {
                    let rule = tools.get(name).or(service.unlisted.as_ref());
                    return Some(rule.is_some_and(|rule| {
                        authorize::is_visible(&self.policy, key, service, rule, now.wall)
                    }));
                }
                Listed::Prompt(name) => service.prompts.as_ref()?.prompt(name),
                Listed::Resource(uri) | Listed::Template(uri) => service.resources.as_ref()?.resource(uri),
            };
        Some(rule.is_some_and(|rule| authorize::reading(key, service, &[rule], now.wall).denial.is_none()))
    }

    /// The reply if a list is unreadable. Envoy does not show the filter a reply that is sent on the response path, so this
    /// one includes its rate headers.
    pub(super) fn unreadable(&self) -> Reply {
        let form = self.rules().map_or(Refusals::Http, |service| service.refusals);
        let mut reply = Refusal::upstream_unreadable().reply(
            form,
            self.message_id.as_deref(),
            false,
            self.id,
            &self.policy.help,
        );
        self.add_headers(&mut reply.headers);
        reply
    }

    /// Adds the headers that every response has: the rate headers and the request's id.
    pub(super) fn add_headers(&self, fields: &mut Fields) {
        quota::add_headers(fields, &self.quotas, self.key.is_some());
        fields.push(REQUEST_ID, &self.id.text());
    }

    fn elapsed_ms(&self, now: Now) -> u64 {
        now.monotonic.0.saturating_sub(self.began.monotonic.0)
    }
}

/// The form of an answer with these headers; `None` if the gate can't read it.
pub(super) fn form_of(headers: &Headers<'_>) -> Option<Form> {
    let mut forms = credential::all(headers, "content-type").map(Form::of);
    let first = forms.next()?;
    first.filter(|_| forms.all(|form| form == first) && !credential::is_encoded(headers))
}

/// True if a `Location` has this path, with or without its last slash.
fn is_same_path(location: &[u8], path: &[u8]) -> bool {
    let end = location.iter().position(|byte| b"?#".contains(byte)).unwrap_or(location.len());
    let location = location.get(..end).unwrap_or_default();
    let is_end = |window: &[u8]| window == b"://";
    let location =
        match location.windows(3).position(is_end).and_then(|at| location.get(at.saturating_add(3)..)) {
            Some(rest) => {
                rest.iter().position(|byte| *byte == b'/').and_then(|at| rest.get(at..)).unwrap_or_default()
            }
            None => location,
        };
    let bare = |path: &[u8]| path.strip_suffix(b"/").unwrap_or(path).to_vec();
    location != path && bare(location) == bare(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_to_the_same_path_is_recognised() {
        for (location, is_same) in [
            ("/mcp/", true),
            ("http://upstream:80/mcp/", true),
            ("https://gate/mcp/?session=1#x", true),
            ("/mcp", false),
            ("/mcp//", false),
            ("/other/", false),
            ("/mcp/x", false),
            ("//mcp/", false),
            ("http://mcp/", false),
            ("mcp/", false),
            ("", false),
        ] {
            assert_eq!(is_same_path(location.as_bytes(), b"/mcp"), is_same, "{location}");
        }
        assert!(is_same_path(b"/mcp", b"/mcp/"));
        assert!(is_same_path(b"http://gate", b"/"));
    }
}
