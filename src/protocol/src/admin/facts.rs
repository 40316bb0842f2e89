//! What the ledger tells of what happened: usage, the audit trail, the policy in force.

use crate::audit::Outcome;
use crate::{AgentId, Credits, KeyId, PolicyVersion, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The usage of one group, from `GET /v1/usage`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The tenant, if the usage is grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The key, if the usage is grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The agent, if the usage is grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// The tool, if the usage is grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The outcome, if the usage is grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The number of requests, whatever their outcome.
    pub calls: u64,
    /// The number of requests with the outcome `allowed`.
    pub allowed: u64,
    /// Credits charged.
    pub credits: Credits,
    /// The LLM tokens that upstreams reported.
    #[serde(default)]
    pub usage_tokens: UsageTokenSums,
    /// How long the requests took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Percentiles>,
}

/// The sums of the LLM tokens that upstreams reported.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UsageTokenSums {
    /// Tokens that models read.
    pub input: u64,
    /// Tokens that models generated.
    pub output: u64,
}

/// Percentiles of durations in milliseconds. Each is at most one eighth too high.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// The median.
    pub p50: u64,
    /// The 95th percentile.
    pub p95: u64,
    /// The 99th percentile.
    pub p99: u64,
}

/// Requests that shadow rules would have refused, from `GET /v1/policy/shadow-report`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowRow {
    /// The outcome with which the rule would have refused them.
    pub would_deny: Outcome,
    /// The tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The number of requests.
    pub calls: u64,
    /// Credits charged for these requests.
    pub credits: Credits,
}

/// The keys that sign the checkpoints of the audit trail, from `GET /v1/audit/key`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditKeys {
    /// Always `Ed25519`.
    pub algorithm: String,
    /// The public key that signs now, in hexadecimal.
    pub public_key: String,
    /// Every key that has signed, as stored in the database. Do not trust this list alone: whoever can write to the
    /// database can add a key.
    pub known: Vec<AuditKey>,
}

/// A key that signs checkpoints.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditKey {
    /// The public key in hexadecimal.
    pub public_key: String,
    /// When it was first used.
    pub created_at: Timestamp,
}

/// The state of the audit trail, from `GET /v1/audit/status`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuditStatus {
    /// The sequence number of the newest row.
    pub newest: u64,
    /// Rows up to this sequence number are sealed by a checkpoint.
    pub sealed: u64,
    /// The number of checkpoints.
    pub checkpoints: u64,
    /// Rows up to this sequence number were removed because they were older than the retention.
    pub removed: u64,
    /// The number of decisions that filters reported as dropped.
    pub decisions_dropped: u64,
    /// The age in days at which this ledger removes rows; absent if it never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
}

/// One row of the audit trail, from `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AuditRow"))]
pub struct AuditRow<Detail> {
    /// The position in the trail, from 1, without gaps.
    pub sequence: u64,
    /// When the ledger wrote the row.
    pub recorded_at: Timestamp,
    /// What happened: `decision`, `key_created`, `reserved`, ...
    pub kind: String,
    /// Who did it: the id of a key or of an admin or filter credential, `ledger`, or `anonymous` for a request without
    /// a key.
    pub actor: String,
    /// The tenant that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The outcome, for decisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Further fields, which depend on `kind`.
    pub detail: Detail,
}

/// The kind of a name in a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NameKind {
    /// The tier of a tenant.
    Tier,
    /// A service that a key is restricted to.
    Service,
    /// A tool that a key is restricted to.
    Tool,
    /// A scope of a key.
    Scope,
}

impl fmt::Display for NameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameKind::Tier => "tier",
            NameKind::Service => "service",
            NameKind::Tool => "tool",
            NameKind::Scope => "scope",
        })
    }
}

/// A name that is in use and that a new policy would remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NameLeaving {
    /// The kind of name.
    pub kind: NameKind,
    /// The name.
    pub name: String,
    /// The number of tenants with this tier, or of active keys with this service, tool or scope.
    pub used_by: u64,
    /// The ids of the first of these tenants or keys.
    pub ids: Vec<String>,
}

impl fmt::Display for NameLeaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NameLeaving { kind, name, used_by, ids } = self;
        let of = if *kind == NameKind::Tier { "tenants" } else { "keys" };
        let more = if u64::try_from(ids.len()).is_ok_and(|named| named < *used_by) { ", ..." } else { "" };
        write!(f, "{kind} {name} is used by {used_by} {of}: {}{more}", ids.join(", "))
    }
}

/// The effect of a policy on existing tenants and keys, from `POST /v1/policy/check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyChecked {
    /// The content hash of the policy that was sent.
    pub version: PolicyVersion,
    /// The content hash of the policy in force, with which it was compared.
    pub over: PolicyVersion,
    /// Names in use that the policy would remove. It can then be put in force only with `force`.
    pub leaving: Vec<NameLeaving>,
    /// Tools that the policy would remove, whether in use or not.
    pub tools_leaving: Vec<ToolLeaving>,
}

/// A tool that a new policy would remove, and what is under way for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ToolLeaving {
    /// The service that has it.
    pub service: String,
    /// Its name.
    pub tool: String,
    /// Its calls that have reserved credits and are not settled. They are settled as they were reserved.
    pub pending: u64,
    /// The open leases of all tenants, if its calls may be paid from leases, which name no tool; otherwise null.
    pub open_leases: Option<u64>,
}

/// The policy in force, from `GET /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "PolicyInForce"))]
pub struct PolicyInForce<Document> {
    /// Its content hash.
    pub version: PolicyVersion,
    /// The policy document.
    pub document: Document,
}
