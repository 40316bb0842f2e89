//! The bodies of the admin API, `/v1`. Authenticated by an admin credential as bearer.

use crate::key::{Grant, KeySource, KeyState, Limit};
use crate::{AgentId, Credits, KeyId, PolicyVersion, TenantId, Timestamp, TransferId};
use serde::{Deserialize, Serialize};

/// `POST /v1/tenants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// For people; 1 to 200 characters.
    pub name: String,
    /// One of the policy's tiers.
    pub tier: String,
    /// Credits to start with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits: Option<Credits>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// For people.
    pub name: String,
    /// Its tier.
    pub tier: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// What it holds.
    pub balance: Balance,
}

/// A tenant's credits. Always `granted = available + pending + posted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Balance {
    /// All that was ever granted.
    pub granted: Credits,
    /// Free to reserve.
    pub available: Credits,
    /// Reserved, not yet settled.
    pub pending: Credits,
    /// Charged.
    pub posted: Credits,
}

/// `POST /v1/tenants/{id}/credits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantCredits {
    /// How much to add, at least 1.
    pub amount: Credits,
    /// Why, for the audit.
    pub reason: String,
}

/// A grant that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditsGranted {
    /// The movement.
    pub id: TransferId,
    /// Whose.
    pub tenant_id: TenantId,
    /// How much.
    pub amount: Credits,
    /// Why.
    pub reason: String,
    /// What the tenant holds now.
    pub balance: Balance,
}

/// `POST /v1/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// Who pays.
    pub tenant_id: TenantId,
    /// For people; 1 to 200 characters.
    pub name: String,
    /// Permissions.
    pub scopes: Vec<String>,
    /// Services to hold it to; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<Grant>>,
    /// Tools to hold it to; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Grant>>,
    /// Resources to hold it to; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<Grant>>,
    /// Limits beside the tier's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Vec<Limit>>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The agent it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
}

/// A key, as administrators see it. Never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Its id.
    pub id: KeyId,
    /// Who pays.
    pub tenant_id: TenantId,
    /// For people.
    pub name: String,
    /// May it be used.
    pub state: KeyState,
    /// Permissions.
    pub scopes: Vec<String>,
    /// Services it is held to.
    pub services: Option<Vec<Grant>>,
    /// Tools it is held to.
    pub tools: Option<Vec<Grant>>,
    /// Resources it is held to.
    pub resources: Option<Vec<Grant>>,
    /// Limits beside the tier's.
    pub limits: Vec<Limit>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// The agent it belongs to.
    pub agent_id: Option<AgentId>,
    /// How it came to be.
    pub source: KeySource,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When it last made a decision that was reported.
    pub last_used_at: Option<Timestamp>,
}

/// A key with the secret that is shown this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyWithSecret {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// The credential. It is stored nowhere.
    pub secret: String,
}

/// `POST /v1/keys/{id}/rotate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// How long the old secret goes on working, at most 30 days.
    #[serde(default)]
    pub grace_seconds: u32,
}

/// `POST /v1/keys/{id}/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeKey {
    /// Why, for the audit.
    pub reason: String,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Ask with `cursor=` this for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none", default = "Option::default")]
    pub next_cursor: Option<String>,
}

/// What one group used, `GET /v1/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The tenant, where grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// The key, where grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// The tool, where grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Decisions of every outcome.
    pub calls: u64,
    /// Those that were allowed.
    pub allowed: u64,
    /// Credits charged.
    pub credits: Credits,
}

/// One row of the audit trail, `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    pub outcome: Option<crate::audit::Outcome>,
    /// The rest of the fact, by kind.
    pub detail: Detail,
}

/// The policy in force, `GET /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInForce<Document> {
    /// Content hash.
    pub version: PolicyVersion,
    /// The document.
    pub document: Document,
}
