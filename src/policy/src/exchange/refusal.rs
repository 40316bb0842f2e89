//! Refusals, and the three forms in which they are written.
//!
//! No refusal holds a key, a body, or an internal cause. What a client can do about it is always said.

use super::{Fields, quota};
use crate::authorize::Denial;
use crate::credential;
use crate::document::Refusals;
use crate::json::write::{object, quoted};
use crate::mcp;
use crate::oauth::Metadata;
use crate::price::UnknownValue;
use protocol::audit::Outcome;
use protocol::problem::{MEDIA_TYPE, Problem};
use protocol::{Credits, EventId};

/// An answer that the gate gives itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// For the access log's response code details, such as `agentrelay.rate_limited`.
    pub details: String,
    /// Headers, with the rate headers only if `has_rate_headers`; the others get theirs on the way back.
    pub headers: Fields,
    /// Nothing is to be added to it.
    pub has_rate_headers: bool,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a request is refused, before it is known in which form to say so.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) outcome: Outcome,
    status: u16,
    code: i32,
    title: &'static str,
    detail: String,
    retry_after_seconds: Option<u64>,
    challenge: Option<String>,
    /// A fault of the protocol itself, which is never written as a tool's result.
    is_protocol_fault: bool,
    allow: Option<&'static str>,
}

/// JSON-RPC codes of the gate's own. Outside the reserved range, first digits as the HTTP status.
mod code {
    pub(super) const UNAUTHENTICATED: i32 = 40101;
    pub(super) const QUOTA_EXCEEDED: i32 = 40201;
    pub(super) const INSUFFICIENT_SCOPE: i32 = 40301;
    pub(super) const TIER_DENIED: i32 = 40302;
    pub(super) const UNKNOWN_TOOL: i32 = 40401;
    pub(super) const UNKNOWN_SESSION: i32 = 40402;
    pub(super) const BODY_TOO_LARGE: i32 = 41301;
    pub(super) const RATE_LIMITED: i32 = 42901;
    pub(super) const UPSTREAM_UNREADABLE: i32 = 50201;
    /// Behind the HTTP status, as in 50302.
    pub(super) const UPSTREAM_AWAY: i32 = 2;
    pub(super) const UNAVAILABLE: i32 = 50301;
    pub(super) const INVALID_REQUEST: i32 = -32600;
    pub(super) const METHOD_NOT_FOUND: i32 = -32601;
    pub(super) const INVALID_PARAMS: i32 = -32602;
}

/// How long a client is asked to wait for a ledger that is away.
const OUTAGE_RETRY_SECONDS: u64 = 5;

impl Refusal {
    fn new(
        outcome: Outcome,
        status: u16,
        code: i32,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Refusal {
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

    pub(super) fn credential(fault: credential::Fault) -> Refusal {
        match fault {
            credential::Fault::Missing => Refusal {
                challenge: Some("Bearer".to_owned()),
                ..Refusal::unauthenticated(
                    "send an api key as `Authorization: Bearer <key>` or `x-api-key: <key>`",
                )
            },
            credential::Fault::Several => {
                Refusal::unauthenticated("more than one credential was sent; send exactly one")
            }
            credential::Fault::Malformed => {
                Refusal::unauthenticated("the credential is not an api key; check that it was copied whole")
            }
        }
    }

    pub(super) fn invalid_key() -> Refusal {
        Refusal::unauthenticated("the api key is unknown, revoked or expired; ask its owner for a new one")
    }

    fn unauthenticated(detail: &str) -> Refusal {
        Refusal {
            challenge: Some("Bearer error=\"invalid_token\"".to_owned()),
            ..Refusal::new(Outcome::AuthDenied, 401, code::UNAUTHENTICATED, "Not authenticated", detail)
        }
    }

    pub(super) fn rate_limited(subject: &str, wait_ms: u64) -> Refusal {
        let seconds = quota::seconds(wait_ms).max(1);
        let detail = format!("the limit of this {subject} is reached; retry after {seconds} s");
        Refusal {
            retry_after_seconds: Some(seconds),
            ..Refusal::new(Outcome::RateLimited, 429, code::RATE_LIMITED, "Rate limited", detail)
        }
    }

    pub(super) fn too_much_under_way(most: u32) -> Refusal {
        let detail = format!(
            "this key has {most} requests or streams under way at this gate, as many as it may; wait until one ends"
        );
        Refusal { detail, ..Refusal::rate_limited("key", 0) }
    }

    pub(super) fn too_much_held(wait_seconds: u64) -> Refusal {
        let detail = "this key is sending too many bytes at once; send fewer requests in parallel";
        Refusal {
            retry_after_seconds: Some(wait_seconds),
            ..Refusal::new(Outcome::RateLimited, 429, code::RATE_LIMITED, "Rate limited", detail)
        }
    }

    pub(super) fn invalid_request(detail: String) -> Refusal {
        let refusal =
            Refusal::new(Outcome::InvalidRequest, 400, code::INVALID_REQUEST, "Invalid request", detail);
        Refusal { is_protocol_fault: true, ..refusal }
    }

    pub(super) fn body_too_large(bytes_max: u32) -> Refusal {
        let detail = format!("the body is larger than {bytes_max} bytes, the most that this service accepts");
        let refusal =
            Refusal::new(Outcome::InvalidRequest, 413, code::BODY_TOO_LARGE, "Body too large", detail);
        Refusal { is_protocol_fault: true, ..refusal }
    }

    pub(super) fn method_not_allowed() -> Refusal {
        let detail = "an MCP endpoint accepts POST, GET and DELETE".to_owned();
        Refusal { status: 405, allow: Some("POST, GET, DELETE"), ..Refusal::invalid_request(detail) }
    }

    pub(super) fn no_message(fault: mcp::Fault) -> Refusal {
        Refusal { code: fault.code, ..Refusal::invalid_request(fault.message) }
    }

    pub(super) fn unpriced(unknown: &UnknownValue) -> Refusal {
        let detail = format!("argument `{}` must be one of: {}", unknown.argument, unknown.known.join(", "));
        Refusal { code: code::INVALID_PARAMS, is_protocol_fault: false, ..Refusal::invalid_request(detail) }
    }

    pub(super) fn misspelt(argument: &str) -> Refusal {
        let detail = format!("argument `{argument}` must be written so, upper and lower case included");
        Refusal { code: code::INVALID_PARAMS, is_protocol_fault: false, ..Refusal::invalid_request(detail) }
    }

    /// What opens or ends a stream of the server's messages has no body that anyone decides on.
    pub(super) fn body_unasked() -> Refusal {
        let detail = "only a POST may have a body here; send the message by POST".to_owned();
        Refusal::invalid_request(detail)
    }

    pub(super) fn unknown_path() -> Refusal {
        Refusal::new(
            Outcome::UnknownTool,
            404,
            code::UNKNOWN_TOOL,
            "Unknown tool",
            "no rule of the policy matches this method and path",
        )
    }

    pub(super) fn unknown_tool() -> Refusal {
        Refusal::new(
            Outcome::UnknownTool,
            404,
            code::UNKNOWN_TOOL,
            "Unknown tool",
            "no rule of the policy names this tool; tools/list shows those that this key may call",
        )
    }

    /// As servers say it of a session that is gone: with this status clients begin another.
    pub(super) fn unknown_session() -> Refusal {
        let detail = "this session has ended, or is none of this key's at this service; send `initialize` without \
                      `Mcp-Session-Id` to begin another";
        let refusal =
            Refusal::new(Outcome::InvalidRequest, 404, code::UNKNOWN_SESSION, "Unknown session", detail);
        Refusal { is_protocol_fault: true, ..refusal }
    }

    pub(super) fn unknown_reading() -> Refusal {
        let detail = "no rule of the policy names this prompt or resource";
        Refusal::new(Outcome::UnknownTool, 404, code::UNKNOWN_TOOL, "Unknown prompt or resource", detail)
    }

    pub(super) fn unknown_method() -> Refusal {
        let detail = "this method is not known to the gate";
        let refusal =
            Refusal::new(Outcome::UnknownTool, 404, code::METHOD_NOT_FOUND, "Unknown method", detail);
        Refusal { is_protocol_fault: true, ..refusal }
    }

    pub(super) fn denied(denial: &Denial) -> Refusal {
        match denial {
            Denial::NotGranted { what } => Refusal {
                challenge: Some("Bearer error=\"insufficient_scope\"".to_owned()),
                ..Refusal::new(
                    Outcome::InsufficientScope,
                    403,
                    code::INSUFFICIENT_SCOPE,
                    "Insufficient scope",
                    format!("this key is not granted {what}, or the grant has ended"),
                )
            },
            Denial::Scope { needed } => {
                let needed = needed.join(" ");
                Refusal {
                    challenge: Some(format!("Bearer error=\"insufficient_scope\", scope=\"{needed}\"")),
                    ..Refusal::new(
                        Outcome::InsufficientScope,
                        403,
                        code::INSUFFICIENT_SCOPE,
                        "Insufficient scope",
                        format!("this call needs the scopes: {needed}"),
                    )
                }
            }
            Denial::Tier { needed } => Refusal::new(
                Outcome::TierDenied,
                403,
                code::TIER_DENIED,
                "Tier denied",
                format!("this call needs tier {needed} or higher"),
            ),
        }
    }

    /// A tool's complaint about its arguments, as servers write it.
    pub(super) fn bad_argument(detail: String) -> Refusal {
        Refusal { status: 200, code: code::INVALID_PARAMS, ..Refusal::invalid_request(detail) }
    }

    pub(super) fn issued_key() -> Refusal {
        Refusal {
            challenge: Some("Bearer error=\"insufficient_scope\"".to_owned()),
            ..Refusal::new(
                Outcome::InsufficientScope,
                403,
                code::INSUFFICIENT_SCOPE,
                "Insufficient scope",
                "a key that request_key issued can't request keys, and none is issued beyond what a key may itself",
            )
        }
    }

    pub(super) fn too_many_keys() -> Refusal {
        Refusal::new(
            Outcome::QuotaExceeded,
            402,
            code::QUOTA_EXCEEDED,
            "Quota exceeded",
            "too many keys that this one requested live already; use one of them, or wait until one expires",
        )
    }

    pub(super) fn quota_exceeded(price: Credits) -> Refusal {
        Refusal::new(
            Outcome::QuotaExceeded,
            402,
            code::QUOTA_EXCEEDED,
            "Quota exceeded",
            format!("this call costs {price} credits and the tenant has fewer; ask its owner for credits"),
        )
    }

    pub(super) fn ledger_unavailable() -> Refusal {
        Refusal {
            retry_after_seconds: Some(OUTAGE_RETRY_SECONDS),
            ..Refusal::new(
                Outcome::LedgerUnavailable,
                503,
                code::UNAVAILABLE,
                "Ledger unavailable",
                "the ledger did not answer in time; nothing was charged; retry later",
            )
        }
    }

    pub(super) fn windows_unavailable() -> Refusal {
        let detail = "the gate is too busy to count this request; retry later";
        Refusal {
            title: "Gate busy",
            detail: detail.to_owned(),
            retry_after_seconds: Some(1),
            ..Refusal::ledger_unavailable()
        }
    }

    pub(super) fn upstream_unreadable() -> Refusal {
        let detail = "the upstream answered with a list in a form that can't be filtered for this key";
        Refusal::new(Outcome::UpstreamError, 502, code::UPSTREAM_UNREADABLE, "Upstream unreadable", detail)
    }

    /// True for a request that is wrong in itself, which is said before anything is looked for.
    pub(super) fn is_of_form(&self) -> bool {
        matches!(self.status, 400 | 405)
    }

    /// What Envoy answers itself: the upstream is away, or the request broke a bound of Envoy's own.
    pub(super) fn by_envoy(status: u16, went_upstream: bool) -> Refusal {
        let refusal = if went_upstream {
            let detail = "no answer came from what is behind the gate; nothing was charged; retry later";
            let code = code::UPSTREAM_AWAY.saturating_add(i32::from(status).saturating_mul(100));
            Refusal::new(Outcome::UpstreamError, status, code, "Upstream unavailable", detail)
        } else {
            let detail =
                "the request did not arrive whole in time, breaks a bound of the gate, or no route serves it";
            Refusal { status, ..Refusal::invalid_request(detail.to_owned()) }
        };
        Refusal { retry_after_seconds: (status == 503).then_some(OUTAGE_RETRY_SECONDS), ..refusal }
    }

    /// As it is said within a session, where 404 means that the session is over: clients would begin another, and show
    /// nobody why.
    pub(super) fn within_session(self) -> Refusal {
        if self.status == 404 { Refusal { status: 400, ..self } } else { self }
    }

    /// Says in its challenge, if it has one, where the service's credentials come from.
    pub(super) fn with_metadata(self, oauth: Option<&Metadata>) -> Refusal {
        let Some(oauth) = oauth else { return self };
        Refusal { challenge: self.challenge.map(|challenge| oauth.challenge(&challenge)), ..self }
    }

    /// Writes the refusal in the form that the service asks for.
    pub(super) fn reply(
        self,
        form: Refusals,
        message_id: Option<&str>,
        is_tool_call: bool,
        id: &EventId,
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
            // A tool's own complaint is read by an MCP client whatever the service's form.
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

    fn problem(&self, id: &EventId) -> String {
        let problem = Problem {
            kind: Problem::urn(self.outcome.as_str()),
            status: self.status,
            title: self.title.to_owned(),
            detail: Some(self.detail.clone()),
            request_id: Some(id.to_string()),
        };
        serde_json::to_string(&problem).unwrap_or_default()
    }

    fn rpc_error(&self, message_id: Option<&str>, id: &EventId) -> String {
        let members =
            [("code", self.code.to_string()), ("data", self.data(id)), ("message", quoted(&self.text()))];
        rpc(message_id, "error", &object(&members))
    }

    fn tool_result(&self, message_id: Option<&str>, id: &EventId) -> String {
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

    fn data(&self, id: &EventId) -> String {
        let mut members = vec![("reason", quoted(self.outcome.as_str())), ("requestId", quoted(id.as_str()))];
        members.extend(self.retry_after_seconds.map(|seconds| ("retryAfterSeconds", seconds.to_string())));
        object(&members)
    }
}

/// The answer to a call that the gate serves itself.
pub(super) fn result(message_id: Option<&str>, result: &str) -> Reply {
    Reply {
        status: 200,
        details: "agentrelay.allowed".to_owned(),
        headers: Fields::of([("content-type", "application/json"), ("cache-control", "no-store")]),
        has_rate_headers: false,
        body: rpc(message_id, "result", result).into_bytes(),
    }
}

/// The RFC 9728 document, which is no refusal but the gate's own answer all the same.
pub(super) fn metadata(document: &str) -> Reply {
    Reply {
        status: 200,
        details: "agentrelay.metadata".to_owned(),
        headers: Fields::of([("content-type", "application/json"), ("cache-control", "public, max-age=300")]),
        has_rate_headers: false,
        body: document.as_bytes().to_vec(),
    }
}

/// A JSON-RPC answer. The id is put back as the text that the client wrote, which was checked to be JSON: parsing it
/// would change a number that is too large for an integer.
fn rpc(message_id: Option<&str>, member: &str, value: &str) -> String {
    let id = message_id.unwrap_or("null");
    format!(r#"{{"jsonrpc":"2.0","id":{id},"{member}":{value}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_says_the_same_in_its_own_way() {
        let id = EventId::parse("0199f1d2").unwrap();
        let refusal = || Refusal {
            retry_after_seconds: Some(7),
            ..Refusal::new(Outcome::RateLimited, 429, -1, "Rate limited", "wait \"7 s\"")
        };
        let body = |form| String::from_utf8(refusal().reply(form, Some("1"), true, &id).body).unwrap();
        assert_eq!(
            body(Refusals::Http),
            r#"{"type":"urn:agentrelay:problem:rate_limited","status":429,"title":"Rate limited","detail":"wait \"7 s\"","request_id":"0199f1d2"}"#
        );
        assert_eq!(
            body(Refusals::McpHttp),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"data":{"reason":"rate_limited","requestId":"0199f1d2","retryAfterSeconds":7},"message":"Rate limited: wait \"7 s\""}}"#
        );
        assert_eq!(
            body(Refusals::McpTool),
            r#"{"jsonrpc":"2.0","id":1,"result":{"_meta":{"agentrelay/refusal":{"reason":"rate_limited","requestId":"0199f1d2","retryAfterSeconds":7}},"content":[{"text":"Rate limited: wait \"7 s\"","type":"text"}],"isError":true,"resultType":"complete"}}"#
        );
    }
}
