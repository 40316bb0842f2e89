//! Audit events: past facts, never edited. One vocabulary for filter, ledger and reports.

use crate::{AgentId, Credits, EventId, KeyId, LeaseId, PolicyVersion, ReservationId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How one exchange ended.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It went upstream and came back well.
    Allowed,
    /// No credential, two, or one that is not valid.
    AuthDenied,
    /// The key lacks a scope or a grant.
    InsufficientScope,
    /// The tenant's tier does not unlock it.
    TierDenied,
    /// A window is full.
    RateLimited,
    /// Not enough credits.
    QuotaExceeded,
    /// The request could not be understood in exactly one way.
    InvalidRequest,
    /// No rule of the policy matches it.
    UnknownTool,
    /// The ledger was needed and did not answer.
    LedgerUnavailable,
    /// It went upstream and failed there.
    UpstreamError,
    /// The client left before the end.
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

/// LLM tokens that an upstream reported for one exchange, as far as it reported any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageTokens {
    /// Read by the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    /// Written by the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
}

impl UsageTokens {
    /// These, corrected by a later report: each count that it gives replaces the one before.
    pub fn then(self, later: UsageTokens) -> UsageTokens {
        UsageTokens { input: later.input.or(self.input), output: later.output.or(self.output) }
    }
}

/// One decision and what became of it, as the filter reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// The request's id; upstream saw it as `x-agentrelay-request-id`.
    pub id: EventId,
    /// When the request arrived.
    pub at: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// A shadow rule that would have refused it, by its outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_deny: Option<Outcome>,
    /// The key, where one was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The tenant of that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The agent of that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// The service, where the path named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The policy's name of the tool, or the MCP method where no tool was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// What was charged in the end.
    pub credits: Credits,
    /// The reservation that carried the charge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<ReservationId>,
    /// The lease that it was spent from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    /// The LLM tokens that the upstream reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_tokens: Option<UsageTokens>,
    /// The HTTP status that the client saw, 0 if none was sent.
    pub status: u16,
    /// Milliseconds from request headers to the first byte of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u64>,
    /// Milliseconds from request headers to the end.
    pub duration_ms: u64,
    /// The policy that decided.
    pub policy_version: PolicyVersion,
    /// The Envoy that decided, by its node id.
    pub envoy: String,
}

/// Decisions on requests without a key that may call. Anyone can cause as many as he likes, so they are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counted {
    /// The begin of the minute in which the requests arrived.
    pub minute: Timestamp,
    /// How they ended.
    pub outcome: Outcome,
    /// The key, where it is one that was revoked, suspended or has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The tenant of that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The service, where their path named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How many.
    pub count: u64,
}

impl Counted {
    /// The most counts in one report.
    pub const MAX: usize = 1024;
}

/// SHA-256 of something in the audit trail, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(crate::api_key::KeyHash);

impl Digest {
    /// What comes before the first checkpoint.
    pub const ZERO: Digest = Digest::from_bytes([0; 32]);

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(crate::api_key::KeyHash::from_bytes(bytes))
    }

    /// Its bytes.
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
