//! Refusals, and the three forms in which they are written.
//!
//! A refusal never contains a key, a body or an internal cause. It always says what decided, what the client can do about it,
//! and when a retry helps.

use super::{Fields, quota};
use crate::authorize::Denial;
use crate::credential;
use crate::document::Refusals;
use crate::json::write::{object, quoted};
use crate::limit::{LimitRule, Origin};
use crate::mcp;
use crate::oauth::Metadata;
use crate::price::UnknownValue;
use crate::reason;
use crate::rules::Help;
use protocol::audit::Outcome;
use protocol::key::{KeyRecord, Limit};
use protocol::problem::{MEDIA_TYPE, Problem};
use protocol::reason::{PaidFrom, Reason, Shortfall, bounded, bounded_names};
use protocol::{Credits, EventId};

/// An answer from the gate itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// For the access log's response code details, such as `agentrelay.rate_limited`.
    pub details: String,
    /// Headers. They include the rate headers only if `has_rate_headers`; otherwise [`super::Exchange::complete`] adds them.
    pub headers: Fields,
    /// The headers already include the rate headers.
    pub has_rate_headers: bool,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a request is refused, independent of the form in which the client is told.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) outcome: Outcome,
    status: u16,
    code: i32,
    title: &'static str,
    /// The cause and the remedy.
    detail: String,
    when: When,
    /// For the audit log; `None` if `detail` says all.
    reason: Option<Box<Reason>>,
    retry_after_seconds: Option<u64>,
    challenge: Option<String>,
    /// An error of the protocol itself. It is never written as a tool result.
    is_protocol_fault: bool,
    allow: Option<&'static str>,
}

/// When a retry helps, for a refusal without `retry-after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// After the request was changed.
    Changed,
    /// After somebody did what the remedy says.
    Remedied,
    /// After some time.
    Later,
}

/// What refusals of one kind have in common: outcome, HTTP status, JSON-RPC code and title.
///
/// The gate's own codes are outside the range that JSON-RPC reserves; their first digits are the HTTP status.
#[derive(Clone, Copy)]
struct Kind(Outcome, u16, i32, &'static str);

const UNAUTHENTICATED: Kind = Kind(Outcome::AuthDenied, 401, 40101, "Not authenticated");
const QUOTA_EXCEEDED: Kind = Kind(Outcome::QuotaExceeded, 402, 40201, "Quota exceeded");
const INSUFFICIENT_SCOPE: Kind = Kind(Outcome::InsufficientScope, 403, 40301, "Insufficient scope");
const TIER_DENIED: Kind = Kind(Outcome::TierDenied, 403, 40302, "Tier denied");
const UNKNOWN_TOOL: Kind = Kind(Outcome::UnknownTool, 404, 40401, "Unknown tool");
const UNKNOWN_PROMPT_OR_RESOURCE: Kind = Kind(Outcome::UnknownTool, 404, 40401, "Unknown prompt or resource");
const UNKNOWN_METHOD: Kind = Kind(Outcome::UnknownTool, 404, -32601, "Unknown method");
const UNKNOWN_SESSION: Kind = Kind(Outcome::InvalidRequest, 404, 40402, "Unknown session");
const INVALID_REQUEST: Kind = Kind(Outcome::InvalidRequest, 400, -32600, "Invalid request");
const INVALID_PARAMS: Kind = Kind(Outcome::InvalidRequest, 400, -32602, "Invalid request");
const BODY_TOO_LARGE: Kind = Kind(Outcome::InvalidRequest, 413, 41301, "Body too large");
const RATE_LIMITED: Kind = Kind(Outcome::RateLimited, 429, 42901, "Rate limited");
const UPSTREAM_UNREADABLE: Kind = Kind(Outcome::UpstreamError, 502, 50201, "Upstream unreadable");
const LEDGER_UNAVAILABLE: Kind = Kind(Outcome::LedgerUnavailable, 503, 50301, "Ledger unavailable");
const GATE_BUSY: Kind = Kind(Outcome::LedgerUnavailable, 503, 50301, "Gate busy");

/// The retry delay that clients are told while the ledger does not answer.
const OUTAGE_RETRY_SECONDS: u64 = 5;

impl Refusal {
    fn new(kind: Kind, detail: impl Into<String>) -> Refusal {
        let Kind(outcome, status, code, title) = kind;
        Refusal {
            outcome,
            status,
            code,
            title,
            detail: detail.into(),
            when: match outcome {
                Outcome::InvalidRequest | Outcome::UnknownTool => When::Changed,
                Outcome::LedgerUnavailable | Outcome::UpstreamError => When::Later,
                _ => When::Remedied,
            },
            reason: None,
            retry_after_seconds: None,
            challenge: None,
            is_protocol_fault: false,
            allow: None,
        }
    }

    fn because(kind: Kind, reason: Reason) -> Refusal {
        let detail = reason::text(&reason);
        Refusal { reason: Some(Box::new(reason)), ..Refusal::new(kind, detail) }
    }

    /// The outcome, for the audit log.
    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The reason, for the audit log.
    pub(super) fn reason(&mut self) -> Box<Reason> {
        self.reason.take().unwrap_or_else(|| Box::new(Reason::check(&self.detail)))
    }

    fn protocol_error(kind: Kind, detail: impl Into<String>) -> Refusal {
        Refusal { is_protocol_fault: true, ..Refusal::new(kind, detail) }
    }

    fn with_challenge(self, challenge: impl Into<String>) -> Refusal {
        Refusal { challenge: Some(challenge.into()), ..self }
    }

    fn retry_after(self, seconds: u64) -> Refusal {
        Refusal { retry_after_seconds: Some(seconds), ..self }
    }

    pub(super) fn credential(fault: credential::Fault) -> Refusal {
        match fault {
            credential::Fault::Missing => Refusal::unauthenticated(
                "send an api key as `Authorization: Bearer <key>` or `x-api-key: <key>`",
            )
            .with_challenge("Bearer"),
            credential::Fault::Several => {
                Refusal::unauthenticated("more than one credential was sent; send exactly one")
            }
            credential::Fault::Malformed => Refusal::unauthenticated(
                "the credential is not an api key; check that it was copied completely",
            ),
        }
    }

    pub(super) fn invalid_key() -> Refusal {
        Refusal::unauthenticated("the api key is unknown, revoked or expired; ask its owner for a new one")
    }

    fn unauthenticated(detail: &str) -> Refusal {
        Refusal::new(UNAUTHENTICATED, detail).with_challenge("Bearer error=\"invalid_token\"")
    }

    /// `tier` is the tenant's. `given` are the permits that this Envoy gives of a global limit while the ledger does not answer.
    pub(super) fn rate_limited(
        rule: &LimitRule,
        (tier, tool): (&str, Option<&str>),
        given: Option<u32>,
        wait_ms: u64,
    ) -> Refusal {
        let seconds = quota::seconds(wait_ms).max(1);
        let Limit { permits, window_seconds } = rule.limit;
        let (of, name) = match rule.origin {
            Origin::Opening => ("opening", Some(tier)),
            Origin::Tier => ("tier", Some(tier)),
            Origin::Key => ("key", None),
            Origin::Parent => ("parent", None),
            Origin::Tool => ("tool", tool),
        };
        let reason = Reason::Limit {
            of: of.to_owned(),
            name: name.map(bounded),
            per: rule.per.name().to_owned(),
            permits,
            window_seconds,
            global: rule.global,
            given,
            wait_seconds: seconds,
        };
        Refusal::because(RATE_LIMITED, reason).retry_after(seconds)
    }

    pub(super) fn too_many_in_progress(max: u32) -> Refusal {
        Refusal::because(RATE_LIMITED, Reason::Concurrency { max }).retry_after(1)
    }

    pub(super) fn too_many_bytes_held(wait_seconds: u64) -> Refusal {
        let detail = "this key is sending too many bytes at once; send fewer requests in parallel";
        Refusal::new(RATE_LIMITED, detail).retry_after(wait_seconds)
    }

    pub(super) fn invalid_request(detail: impl Into<String>) -> Refusal {
        Refusal::protocol_error(INVALID_REQUEST, detail)
    }

    pub(super) fn body_too_large(bytes_max: u32) -> Refusal {
        let detail = format!("the body is larger than {bytes_max} bytes, the most that this service accepts");
        Refusal::protocol_error(BODY_TOO_LARGE, detail)
    }

    pub(super) fn method_not_allowed() -> Refusal {
        let refusal = Refusal::invalid_request("an MCP endpoint accepts POST, GET and DELETE");
        Refusal { status: 405, allow: Some("POST, GET, DELETE"), ..refusal }
    }

    pub(super) fn invalid_message(fault: mcp::Fault) -> Refusal {
        Refusal { code: fault.code, ..Refusal::invalid_request(fault.message) }
    }

    pub(super) fn unknown_value(unknown: &UnknownValue) -> Refusal {
        let known = unknown.known.join(", ");
        Refusal::new(INVALID_PARAMS, format!("argument `{}` must be one of: {known}", unknown.argument))
    }

    pub(super) fn wrong_case(argument: &str) -> Refusal {
        let detail = format!("argument `{argument}` must be written exactly like this, including case");
        Refusal::new(INVALID_PARAMS, detail)
    }

    /// A GET or DELETE that opens or ends a stream must have no body, because the gate does not check it.
    pub(super) fn body_not_allowed() -> Refusal {
        Refusal::invalid_request("only a POST may have a body here; send the message with POST")
    }

    pub(super) fn unknown_path() -> Refusal {
        Refusal::new(UNKNOWN_TOOL, "no rule of the policy matches this method and path")
    }

    pub(super) fn unknown_tool() -> Refusal {
        let detail =
            "the policy has no rule for this tool; tools/list shows the tools that this key may call";
        Refusal::new(UNKNOWN_TOOL, detail)
    }

    /// Answers like a server whose session has ended: this status makes clients begin another session.
    pub(super) fn unknown_session() -> Refusal {
        let detail = "this session has ended, or does not belong to this key at this service; send `initialize` \
                      without `Mcp-Session-Id` to begin a new one";
        Refusal::protocol_error(UNKNOWN_SESSION, detail)
    }

    pub(super) fn unknown_prompt_or_resource() -> Refusal {
        Refusal::new(UNKNOWN_PROMPT_OR_RESOURCE, "the policy has no rule for this prompt or resource")
    }

    pub(super) fn unknown_method() -> Refusal {
        Refusal::protocol_error(UNKNOWN_METHOD, "this method is not known to the gate")
    }

    pub(super) fn denied(denial: &Denial, record: &KeyRecord) -> Refusal {
        let had = bounded(&record.tier);
        match denial {
            Denial::NotGranted { kind, name } => {
                let reason = Reason::Grant { kind: (*kind).to_owned(), needed: bounded(name) };
                Refusal::because(INSUFFICIENT_SCOPE, reason)
                    .with_challenge("Bearer error=\"insufficient_scope\"")
            }
            Denial::Scope { needed } => {
                let challenge =
                    format!("Bearer error=\"insufficient_scope\", scope=\"{}\"", needed.join(" "));
                let had = bounded_names(&record.scopes);
                let reason = Reason::Scope { needed: bounded_names(needed), had };
                Refusal::because(INSUFFICIENT_SCOPE, reason).with_challenge(challenge)
            }
            Denial::Tier { needed, when, open } => {
                let (argument, value) =
                    when.as_ref().map(|(name, value)| (bounded(name), bounded(value))).unzip();
                let (needed, open) = (bounded(needed), bounded_names(open));
                Refusal::because(TIER_DENIED, Reason::Tier { needed, had, argument, value, open })
            }
            Denial::UnknownTier => Refusal::because(TIER_DENIED, Reason::UnknownTier { had }),
        }
    }

    fn out_of_scope(detail: impl Into<String>) -> Refusal {
        Refusal::new(INSUFFICIENT_SCOPE, detail).with_challenge("Bearer error=\"insufficient_scope\"")
    }

    /// An error about a tool's arguments, in the form that MCP servers use.
    pub(super) fn invalid_argument(detail: String) -> Refusal {
        Refusal { status: 200, ..Refusal::protocol_error(INVALID_PARAMS, detail) }
    }

    pub(super) fn issued_key() -> Refusal {
        Refusal::out_of_scope(
            "a key from request_key can't request keys, and no key may request more permissions than it has",
        )
    }

    pub(super) fn too_many_keys() -> Refusal {
        let detail = "this key has requested as many keys as may be active at once; use one of them, or wait until one expires";
        Refusal::new(QUOTA_EXCEEDED, detail)
    }

    /// `left` is what the ledger said is left.
    pub(super) fn quota_exceeded(price: Credits, left: Option<Shortfall>) -> Refusal {
        let paid_from = left.map_or(PaidFrom::Balance, |left| left.paid_from);
        let had = left.map(|left| left.available);
        Refusal::because(QUOTA_EXCEEDED, Reason::Credits { needed: price, had, paid_from })
    }

    pub(super) fn ledger_unavailable() -> Refusal {
        let detail = "the ledger did not answer in time; nothing was charged";
        Refusal::new(LEDGER_UNAVAILABLE, detail).retry_after(OUTAGE_RETRY_SECONDS)
    }

    pub(super) fn windows_unavailable() -> Refusal {
        Refusal::new(GATE_BUSY, "the gate is too busy to count this request; nothing was charged")
            .retry_after(1)
    }

    pub(super) fn upstream_unreadable() -> Refusal {
        let detail = "the upstream answered with a list in a form that can't be filtered for this key; its operator must change \
                      that";
        Refusal::new(UPSTREAM_UNREADABLE, detail)
    }

    /// True if the request itself is malformed. Such an error is reported before anything is looked up.
    pub(super) fn is_malformed_request(&self) -> bool {
        matches!(self.status, 400 | 405)
    }

    /// An error that Envoy answers itself: the upstream is unavailable, or the request exceeds one of Envoy's own bounds.
    pub(super) fn envoy_error(status: u16, went_upstream: bool) -> Refusal {
        let refusal = if went_upstream {
            let code = i32::from(status).saturating_mul(100).saturating_add(2);
            let kind = Kind(Outcome::UpstreamError, status, code, "Upstream unavailable");
            let detail = "the upstream did not answer; nothing was charged";
            Refusal::new(kind, detail)
        } else {
            let detail = "the request did not arrive completely in time, exceeds a limit of the gate, or matches no route";
            Refusal { status, ..Refusal::invalid_request(detail) }
        };
        Refusal { retry_after_seconds: (status == 503).then_some(OUTAGE_RETRY_SECONDS), ..refusal }
    }

    /// The refusal as sent within a session. There a 404 means that the session has ended, and clients would begin another
    /// session instead of showing the error; so it becomes a 400.
    pub(super) fn within_session(self) -> Refusal {
        if self.status == 404 { Refusal { status: 400, ..self } } else { self }
    }

    /// Adds the address of the service's OAuth metadata to the challenge, if the refusal has one.
    pub(super) fn with_metadata(self, oauth: Option<&Metadata>) -> Refusal {
        let Some(oauth) = oauth else { return self };
        Refusal { challenge: self.challenge.map(|challenge| oauth.challenge(&challenge)), ..self }
    }

    /// Writes the refusal in the given form.
    pub(super) fn reply(
        &self,
        form: Refusals,
        message_id: Option<&str>,
        is_tool_call: bool,
        id: EventId,
        help: &Help,
    ) -> Reply {
        let reason = self.outcome.as_str();
        let as_result =
            form == Refusals::McpTool && is_tool_call && !self.is_protocol_fault && self.status != 401;
        let mut headers = Fields::for_response();
        if let Some(challenge) = &self.challenge {
            headers.push("www-authenticate", challenge);
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.push("retry-after", itoa::Buffer::new().format(seconds));
        }
        if let Some(allow) = self.allow {
            headers.push("allow", allow);
        }
        let (status, media_type, body) = match form {
            // Only MCP clients get a tool's own error (status 200), so it is never written as a problem document.
            Refusals::Http if self.status != 200 => (self.status, MEDIA_TYPE, self.problem(id, help)),
            _ if as_result => (200, "application/json", self.tool_result(message_id, id, help)),
            _ => (self.status, "application/json", self.rpc_error(message_id, id, help)),
        };
        headers.push("content-type", media_type);
        Reply {
            status,
            details: format!("agentrelay.{reason}"),
            headers,
            has_rate_headers: false,
            body: body.into_bytes(),
        }
    }

    fn problem(&self, id: EventId, help: &Help) -> String {
        let problem = Problem {
            kind: Problem::urn(self.outcome.as_str()),
            status: self.status,
            title: self.title.to_owned(),
            detail: Some(self.advice(help)),
            request_id: Some(id.to_string()),
            contact: help.contact.clone(),
            upgrade_url: help.upgrade_url.clone(),
            ..Problem::default()
        };
        serde_json::to_string(&problem).unwrap_or_default()
    }

    fn rpc_error(&self, message_id: Option<&str>, id: EventId, help: &Help) -> String {
        let members = [
            ("code", self.code.to_string()),
            ("data", self.data(id, help)),
            ("message", quoted(&self.text(help))),
        ];
        rpc(message_id, "error", &object(&members))
    }

    fn tool_result(&self, message_id: Option<&str>, id: EventId, help: &Help) -> String {
        let content = object(&[("text", quoted(&self.text(help))), ("type", quoted("text"))]);
        let result = object(&[
            ("_meta", object(&[("agentrelay/refusal", self.data(id, help))])),
            ("content", format!("[{content}]")),
            ("isError", "true".to_owned()),
            ("resultType", quoted("complete")),
        ]);
        rpc(message_id, "result", &result)
    }

    fn text(&self, help: &Help) -> String {
        format!("{}: {}", self.title, self.advice(help))
    }

    /// Cause, remedy, when a retry helps, and whom to ask.
    fn advice(&self, help: &Help) -> String {
        let when = match (self.retry_after_seconds, self.when) {
            (Some(seconds), _) => format!("Retry after {seconds} s."),
            (None, When::Changed) => "The same request is refused every time.".to_owned(),
            (None, When::Remedied) => "Until then the same request is refused.".to_owned(),
            (None, When::Later) => "Retry later.".to_owned(),
        };
        let mut advice = format!("{}. {when}", self.detail);
        let can_upgrade =
            matches!(self.outcome, Outcome::TierDenied | Outcome::QuotaExceeded | Outcome::RateLimited);
        let upgrade = help.upgrade_url.as_ref().filter(|_| can_upgrade);
        for (what, value) in [("Upgrade", upgrade), ("Contact", help.contact.as_ref())] {
            if let Some(value) = value {
                advice.push_str(&format!(" {what}: {value}"));
            }
        }
        advice
    }

    fn data(&self, id: EventId, help: &Help) -> String {
        let mut members = vec![("reason", quoted(self.outcome.as_str())), ("requestId", quoted(&id.text()))];
        members.extend(help.contact.as_ref().map(|contact| ("contact", quoted(contact))));
        members.extend(help.upgrade_url.as_ref().map(|url| ("upgradeUrl", quoted(url))));
        members.extend(self.retry_after_seconds.map(|seconds| ("retryAfterSeconds", seconds.to_string())));
        object(&members)
    }
}

/// The answer to a call of one of the gate's own tools.
pub(super) fn result(message_id: Option<&str>, result: &str) -> Reply {
    Reply {
        status: 200,
        details: "agentrelay.allowed".to_owned(),
        headers: Fields::of([("content-type", "application/json"), ("cache-control", "no-store")]),
        has_rate_headers: false,
        body: rpc(message_id, "result", result).into_bytes(),
    }
}

/// A reply with the RFC 9728 document.
pub(super) fn metadata(document: &str) -> Reply {
    Reply {
        status: 200,
        details: "agentrelay.metadata".to_owned(),
        headers: Fields::of([("content-type", "application/json"), ("cache-control", "public, max-age=300")]),
        has_rate_headers: false,
        body: document.as_bytes().to_vec(),
    }
}

/// A JSON-RPC answer. The id is repeated as the client wrote it; it was already checked to be JSON. Parsing it would
/// change a number that is too large for an integer.
fn rpc(message_id: Option<&str>, member: &str, value: &str) -> String {
    let id = message_id.unwrap_or("null");
    format!(r#"{{"jsonrpc":"2.0","id":{id},"{member}":{value}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_a_refusal_has_the_same_content() {
        let id = EventId::parse("0199f1d2-0000-7000-8000-000000000001").unwrap();
        let refusal =
            || Refusal { retry_after_seconds: Some(7), ..Refusal::new(RATE_LIMITED, "wait \"7 s\"") };
        let body = |form| {
            String::from_utf8(refusal().reply(form, Some("1"), true, id, &Help::default()).body).unwrap()
        };
        assert_eq!(
            body(Refusals::Http),
            r#"{"type":"urn:agentrelay:problem:rate_limited","status":429,"title":"Rate limited","detail":"wait \"7 s\". Retry after 7 s.","request_id":"0199f1d2-0000-7000-8000-000000000001"}"#
        );
        assert_eq!(
            body(Refusals::McpHttp),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":42901,"data":{"reason":"rate_limited","requestId":"0199f1d2-0000-7000-8000-000000000001","retryAfterSeconds":7},"message":"Rate limited: wait \"7 s\". Retry after 7 s."}}"#
        );
        assert_eq!(
            body(Refusals::McpTool),
            r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{"agentrelay/refusal":{"reason":"rate_limited","requestId":"0199f1d2-0000-7000-8000-000000000001","retryAfterSeconds":7}},"content":[{"text":"Rate limited: wait \"7 s\". Retry after 7 s.","type":"text"}],"isError":true,"resultType":"complete"}}"#
        );
    }
}
