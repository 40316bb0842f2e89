//! Why a request ended as it did.

use crate::audit::Outcome;
use crate::reason::Reason;
use crate::{AgentId, Credits, EventId, KeyId, PolicyVersion, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// `GET /v1/decisions/{request_id}`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The request, as its answer, the access log and the upstream know it.
    pub request_id: EventId,
    /// When it arrived.
    pub at: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// The HTTP status that the client saw; 0 if none was sent.
    pub status: u16,
    /// The answer in sentences.
    pub sentences: Vec<String>,
    /// The rule that refused it; null if none did.
    pub rule: Option<String>,
    /// What the rule needed.
    pub needed: Option<String>,
    /// What there was.
    pub had: Option<String>,
    /// What would change it.
    pub remedy: Option<String>,
    /// The rule with all that it said.
    pub reason: Option<Reason>,
    /// What a rule in shadow mode would have said.
    pub would_deny: Option<Outcome>,
    /// That rule, and what it said.
    pub would_deny_reason: Option<Reason>,
    /// The key.
    pub key_id: Option<KeyId>,
    /// The key's name now.
    pub key_name: Option<String>,
    /// Who pays.
    pub tenant_id: Option<TenantId>,
    /// The tenant's name now.
    pub tenant_name: Option<String>,
    /// The tenant's tier now.
    pub tier: Option<String>,
    /// The agent of the key.
    pub agent_id: Option<AgentId>,
    /// The service.
    pub service: Option<String>,
    /// The tool, by the policy's name, or the method of the protocol.
    pub tool: Option<String>,
    /// The policy that decided.
    pub policy_version: PolicyVersion,
    /// It is still in force.
    pub policy_is_in_force: bool,
    /// The Envoy that decided.
    pub envoy: String,
    /// What was charged.
    pub credits: Credits,
    /// How long the whole exchange took.
    pub duration_ms: u64,
    /// What else the audit trail has about the request, oldest first.
    pub events: Vec<Moment>,
}

/// One fact about a request.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Its number in the audit trail.
    pub sequence: u64,
    /// When the ledger wrote it.
    pub recorded_at: Timestamp,
    /// What happened, such as `reserved`.
    pub kind: String,
}
