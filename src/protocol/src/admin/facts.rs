//! What the ledger tells of what happened: usage, the audit trail, the policy in force.

use crate::audit::Outcome;
use crate::{AgentId, Credits, KeyId, PolicyVersion, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What one group used, `GET /v1/usage`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The tenant, where grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The key, where grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The agent, where grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// The tool, where grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The outcome, where grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Decisions of every outcome.
    pub calls: u64,
    /// Those that were allowed.
    pub allowed: u64,
    /// Credits charged.
    pub credits: Credits,
    /// The LLM tokens that upstreams reported.
    #[serde(default)]
    pub usage_tokens: UsageTokenSums,
    /// How long they took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Percentiles>,
}

/// LLM tokens of many calls, as far as upstreams reported them.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UsageTokenSums {
    /// Read by models.
    pub input: u64,
    /// Written by models.
    pub output: u64,
}

/// Of how long calls took, in milliseconds, each at most an eighth too high.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half took no longer.
    pub p50: u64,
    /// 19 of 20 took no longer.
    pub p95: u64,
    /// 99 of 100 took no longer.
    pub p99: u64,
}

/// What shadow rules would have refused, `GET /v1/policy/shadow-report`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowRow {
    /// What the rule would have said.
    pub would_deny: Outcome,
    /// Whose calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// Which tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Calls that the rule would have refused.
    pub calls: u64,
    /// Credits that these calls were charged.
    pub credits: Credits,
}

/// The keys that sign the audit trail's checkpoints, `GET /v1/audit/key`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditKeys {
    /// `Ed25519`.
    pub algorithm: String,
    /// The key that signs now, in hexadecimal.
    pub public_key: String,
    /// Every key that signed, by what the database says: who can write there can add one.
    pub known: Vec<AuditKey>,
}

/// One key that signs checkpoints.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditKey {
    /// In hexadecimal.
    pub public_key: String,
    /// Since when it signs.
    pub created_at: Timestamp,
}

/// How the audit trail stands, `GET /v1/audit/status`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuditStatus {
    /// Sequence number of the newest row.
    pub newest: u64,
    /// Rows up to this one are sealed.
    pub sealed: u64,
    /// How many checkpoints there are.
    pub checkpoints: u64,
    /// Rows up to this one were removed because they were older than what is retained.
    pub removed: u64,
    /// Decisions that filters could not keep and said so.
    pub decisions_dropped: u64,
    /// After how many days the ledger that was asked removes rows; absent where it never does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
}

/// One row of the audit trail, `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "AuditRow"))]
pub struct AuditRow<Detail> {
    /// Position in the trail, from 1, without gaps.
    pub sequence: u64,
    /// When the ledger wrote it.
    pub recorded_at: Timestamp,
    /// What happened: `decision`, `key_created`, `reserved`, ...
    pub kind: String,
    /// Who did it: a key id, an admin's or a filter's credential id, `ledger`, or `anonymous` where a request had no key.
    pub actor: String,
    /// Whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The outcome, for decisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The rest of the fact, by kind.
    pub detail: Detail,
}

/// What of a policy rows name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NameKind {
    /// Of a tenant.
    Tier,
    /// That a key is held to.
    Service,
    /// That a key is held to.
    Tool,
    /// That a key holds.
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

/// A name that another policy would no longer have, and who uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NameLeaving {
    /// What it names.
    pub kind: NameKind,
    /// The name.
    pub name: String,
    /// How many tenants have the tier, or how many keys that live have the rest.
    pub used_by: u64,
    /// The ids of the first of them.
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

/// What a policy would change that is not in its own text, `POST /v1/policy/check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyChecked {
    /// Content hash of the one that was sent.
    pub version: PolicyVersion,
    /// Content hash of the one in force, with which it was compared.
    pub over: PolicyVersion,
    /// Names that would leave and that rows use. It is put in force over these by `force` alone.
    pub leaving: Vec<NameLeaving>,
}

/// The policy in force, `GET /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "PolicyInForce"))]
pub struct PolicyInForce<Document> {
    /// Content hash.
    pub version: PolicyVersion,
    /// The document.
    pub document: Document,
}
