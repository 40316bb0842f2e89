//! Audit events: past facts that are never edited. Filter, ledger and reports share these types.

use crate::reason::Reason;
use crate::{AgentId, Credits, EventId, KeyId, LeaseId, PolicyVersion, ReservationId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How one request ended.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The request went upstream and was answered.
    Allowed,
    /// The credential is missing, given more than once, or not valid.
    AuthDenied,
    /// The key lacks a scope, or may not use this service, tool or resource.
    InsufficientScope,
    /// The tenant's tier is too low.
    TierDenied,
    /// A limit is reached.
    RateLimited,
    /// The tenant does not have enough credits.
    QuotaExceeded,
    /// The request is malformed, or servers could read it in different ways.
    InvalidRequest,
    /// No rule of the policy matches the request.
    UnknownTool,
    /// The ledger was needed and did not answer.
    LedgerUnavailable,
    /// The request went upstream and failed there.
    UpstreamError,
    /// The client disconnected before the end.
    Cancelled,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 11] = [
        Outcome::Allowed,
        Outcome::AuthDenied,
        Outcome::InsufficientScope,
        Outcome::TierDenied,
        Outcome::RateLimited,
        Outcome::QuotaExceeded,
        Outcome::InvalidRequest,
        Outcome::UnknownTool,
        Outcome::LedgerUnavailable,
        Outcome::UpstreamError,
        Outcome::Cancelled,
    ];

    /// The name on the wire, in metrics and in access logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Allowed => "allowed",
            Outcome::AuthDenied => "auth_denied",
            Outcome::InsufficientScope => "insufficient_scope",
            Outcome::TierDenied => "tier_denied",
            Outcome::RateLimited => "rate_limited",
            Outcome::QuotaExceeded => "quota_exceeded",
            Outcome::InvalidRequest => "invalid_request",
            Outcome::UnknownTool => "unknown_tool",
            Outcome::LedgerUnavailable => "ledger_unavailable",
            Outcome::UpstreamError => "upstream_error",
            Outcome::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The LLM tokens that an upstream reported for one exchange; an upstream may report none or only one count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageTokens {
    /// Tokens that the model read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    /// Tokens that the model generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
}

impl UsageTokens {
    /// These counts, updated by a later report: each count in it replaces the earlier one.
    pub fn then(self, later: UsageTokens) -> UsageTokens {
        UsageTokens { input: later.input.or(self.input), output: later.output.or(self.output) }
    }
}

/// One decision and the result of its exchange, as the filter reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The request's id; the upstream received it as `x-agentrelay-request-id`.
    pub id: EventId,
    /// When the request arrived.
    pub at: Timestamp,
    /// How the exchange ended.
    pub outcome: Outcome,
    /// The outcome with which a shadow rule would have refused the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_deny: Option<Outcome>,
    /// That shadow rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_deny_reason: Option<Box<Reason>>,
    /// The rule that refused it, if the gate did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<Reason>>,
    /// The key, if one was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The tenant of that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The agent of that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// The service, if the path named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The tool's name in the policy, or the MCP method if no tool was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The credits finally charged.
    pub credits: Credits,
    /// The reservation that was charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<ReservationId>,
    /// The lease that the credits were spent from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    /// The LLM tokens that the upstream reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_tokens: Option<UsageTokens>,
    /// The HTTP status that the client saw, 0 if none was sent.
    pub status: u16,
    /// Milliseconds from the request headers to the first byte of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u64>,
    /// Milliseconds from the request headers to the end of the exchange.
    pub duration_ms: u64,
    /// The version of the policy that decided.
    pub policy_version: PolicyVersion,
    /// The node id of the Envoy that decided.
    pub envoy: String,
}

/// The number of decisions about requests without a usable key. Anyone can cause any number of them, so they are only
/// counted, not stored one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counted {
    /// The start of the minute in which the requests arrived.
    pub minute: Timestamp,
    /// How the exchanges ended.
    pub outcome: Outcome,
    /// The key, if it is known but revoked, suspended or expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The tenant of that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The service, if the path named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The number of decisions.
    pub count: u64,
}

impl Counted {
    /// The maximum number of counts in one report.
    pub const MAX: usize = 1024;
}

/// A SHA-256 digest in the audit trail, written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(crate::api_key::KeyHash);

impl Digest {
    /// The digest before the first checkpoint.
    pub const ZERO: Digest = Digest::from_bytes([0; 32]);

    /// Creates a digest from its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(crate::api_key::KeyHash::from_bytes(bytes))
    }

    /// The bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Reads 64 lowercase hexadecimal digits.
    pub fn parse(text: &str) -> Option<Digest> {
        crate::api_key::KeyHash::try_from(text.to_owned()).ok().map(Digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
