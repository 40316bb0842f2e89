//! Refusals, and the three forms in which they are written.
//!
//! A refusal never contains a key, a body or an internal cause. It always says what the client can do about it.

use super::{Fields, quota};
use crate::authorize::Denial;
use crate::credential;
use crate::document::Per;
use crate::document::Refusals;
use crate::json::write::{object, quoted};
use crate::limit::{LimitRule, Origin};
use crate::mcp;
use crate::oauth::Metadata;
use crate::price::UnknownValue;
use protocol::audit::Outcome;
use protocol::key::Limit;
use protocol::problem::{MEDIA_TYPE, Problem};
use protocol::{Credits, EventId};

/// An answer from the gate itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// For the access log's response code details, such as `agentrelay.rate_limited`.
    pub details: String,
    /// Headers. They include the rate headers only if `has_rate_headers`; otherwise these are added on the response path.
    pub headers: Fields,
    /// The headers already include the rate headers.
    pub has_rate_headers: bool,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a request is refused, independent of the form in which the client is told.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) outcome: Outcome,
    status: u16,
    code: i32,
    title: &'static str,
    detail: String,
    retry_after_seconds: Option<u64>,
    challenge: Option<String>,
    /// An error of the protocol itself. It is never written as a tool result.
    is_protocol_fault: bool,
    allow: Option<&'static str>,
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
            retry_after_seconds: None,
            challenge: None,
            is_protocol_fault: false,
            allow: None,
        }
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

    /// `given` are the permits that this Envoy gives of a global limit while the ledger does not answer.
    pub(super) fn rate_limited(rule: &LimitRule, given: Option<u32>, wait_ms: u64) -> Refusal {
        let seconds = quota::seconds(wait_ms).max(1);
        let Limit { permits, window_seconds } = rule.limit;
        let what = match rule.origin {
            Origin::Opening => "opening connections",
            Origin::Tool => "calls of this tool",
            Origin::Tier | Origin::Key | Origin::Parent => "requests",
        };
        let whose = match (rule.origin, rule.per) {
            (Origin::Parent, _) => "the limit of the key that requested this one",
            (_, Per::Key) => "this key's limit",
            (_, Per::Agent) => "this agent's limit",
            (_, Per::Tenant) => "this tenant's limit",
        };
        let detail = match given {
            None => format!(
                "{whose} for {what}, {permits} in {window_seconds} s, is used up; retry after {seconds} s"
            ),
            Some(given) => format!(
                "{whose} for {what} is {permits} in {window_seconds} s at all gates together; the ledger that divides it \
                 does not answer, and this gate's share of {given} is used up; retry after {seconds} s"
            ),
        };
        Refusal::new(RATE_LIMITED, detail).retry_after(seconds)
    }

    pub(super) fn too_many_in_progress(max: u32) -> Refusal {
        let detail = format!(
            "this key already has {max} requests or streams in progress at this gate, its maximum; wait until one ends"
        );
        Refusal::new(RATE_LIMITED, detail).retry_after(1)
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

    pub(super) fn denied(denial: &Denial) -> Refusal {
        match denial {
            Denial::NotGranted { what } => {
                Refusal::out_of_scope(format!("this key is not granted {what}, or the grant has ended"))
            }
            Denial::Scope { needed } => {
                let needed = needed.join(" ");
                Refusal::out_of_scope(format!("this call needs the scopes: {needed}"))
                    .with_challenge(format!("Bearer error=\"insufficient_scope\", scope=\"{needed}\""))
            }
            Denial::Tier { needed } => {
                Refusal::new(TIER_DENIED, format!("this call needs tier {needed} or higher"))
            }
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

    pub(super) fn quota_exceeded(price: Credits) -> Refusal {
        let detail = format!(
            "this call costs {price} credits and the tenant has fewer; ask the tenant's owner to add credits"
        );
        Refusal::new(QUOTA_EXCEEDED, detail)
    }

    pub(super) fn ledger_unavailable() -> Refusal {
        let detail = "the ledger did not answer in time; nothing was charged; retry later";
        Refusal::new(LEDGER_UNAVAILABLE, detail).retry_after(OUTAGE_RETRY_SECONDS)
    }

    pub(super) fn windows_unavailable() -> Refusal {
        Refusal::new(GATE_BUSY, "the gate is too busy to count this request; retry later").retry_after(1)
    }

    pub(super) fn upstream_unreadable() -> Refusal {
        let detail = "the upstream answered with a list in a form that can't be filtered for this key";
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
            let detail = "the upstream did not answer; nothing was charged; retry later";
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
        self,
        form: Refusals,
        message_id: Option<&str>,
        is_tool_call: bool,
        id: EventId,
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
            Refusals::Http if self.status != 200 => (self.status, MEDIA_TYPE, self.problem(id)),
            _ if as_result => (200, "application/json", self.tool_result(message_id, id)),
            _ => (self.status, "application/json", self.rpc_error(message_id, id)),
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

    fn problem(&self, id: EventId) -> String {
        let problem = Problem {
            kind: Problem::urn(self.outcome.as_str()),
            status: self.status,
            title: self.title.to_owned(),
            detail: Some(self.detail.clone()),
            request_id: Some(id.to_string()),
        };
        serde_json::to_string(&problem).unwrap_or_default()
    }

    fn rpc_error(&self, message_id: Option<&str>, id: EventId) -> String {
        let members =
            [("code", self.code.to_string()), ("data", self.data(id)), ("message", quoted(&self.text()))];
        rpc(message_id, "error", &object(&members))
    }

    fn tool_result(&self, message_id: Option<&str>, id: EventId) -> String {
        let content = object(&[("text", quoted(&self.text())), ("type", quoted("text"))]);
        let result = object(&[
            ("_meta", object(&[("agentrelay/refusal", self.data(id))])),
            ("content", format!("[{content}]")),
            ("isError", "true".to_owned()),
            ("resultType", quoted("complete")),
        ]);
        rpc(message_id, "result", &result)
    }

    fn text(&self) -> String {
        format!("{}: {}", self.title, self.detail)
    }

    fn data(&self, id: EventId) -> String {
        let mut members = vec![("reason", quoted(self.outcome.as_str())), ("requestId", quoted(&id.text()))];
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
        let body = |form| String::from_utf8(refusal().reply(form, Some("1"), true, id).body).unwrap();
        assert_eq!(
            body(Refusals::Http),
            r#"{"type":"urn:agentrelay:problem:rate_limited","status":429,"title":"Rate limited","detail":"wait \"7 s\"","request_id":"0199f1d2-0000-7000-8000-000000000001"}"#
        );
        assert_eq!(
            body(Refusals::McpHttp),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":42901,"data":{"reason":"rate_limited","requestId":"0199f1d2-0000-7000-8000-000000000001","retryAfterSeconds":7},"message":"Rate limited: wait \"7 s\""}}"#
        );
        assert_eq!(
            body(Refusals::McpTool),
            r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{"agentrelay/refusal":{"reason":"rate_limited","requestId":"0199f1d2-0000-7000-8000-000000000001","retryAfterSeconds":7}},"content":[{"text":"Rate limited: wait \"7 s\"","type":"text"}],"isError":true,"resultType":"complete"}}"#
        );
    }
}
