//! The bodies of the admin API, `/v1`. Authenticated by an admin credential as bearer.

mod agent;
mod lease;

pub use agent::{Agent, CreateAgent};
pub use lease::{Lease, LeaseState};

use crate::audit::Outcome;
use crate::key::{Grant, KeySource, KeyState, Limit};
use crate::{AdminKeyId, AgentId, Credits, KeyId, PolicyVersion, TenantId, Timestamp, TransferId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// What a change does to one field: absent leaves it, `null` clears it, anything else sets it (RFC 7396).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Patch<T> {
    /// Leave it as it is.
    #[default]
    Keep,
    /// Take it away.
    Clear,
    /// Put this in its place.
    Set(T),
}

impl<T> Patch<T> {
    /// True if the field stays as it is; then it is not written.
    pub const fn is_keep(&self) -> bool {
        matches!(self, Patch::Keep)
    }

    /// What to set, if anything.
    pub const fn set(&self) -> Option<&T> {
        match self {
            Patch::Set(value) => Some(value),
            Patch::Keep | Patch::Clear => None,
        }
    }

    /// The field after the change.
    pub fn apply(self, before: Option<T>) -> Option<T> {
        match self {
            Patch::Keep => before,
            Patch::Clear => None,
            Patch::Set(value) => Some(value),
        }
    }
}

impl<T: Serialize> Serialize for Patch<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.set().serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Patch::Clear, Patch::Set))
    }
}

#[cfg(feature = "schema")]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Patch<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        Option::<T>::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Option::<T>::json_schema(generator)
    }
}

/// What an administrator may do. Each role may do all that the ones after it may.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Read.
    Auditor,
    /// Run the day: keys, tenants, credits, agents.
    Operator,
    /// Everything: other administrators and the policy as well.
    Owner,
}

impl Role {
    /// Every role, the mightiest first.
    pub const ALL: [Role; 3] = [Role::Owner, Role::Operator, Role::Auditor];

    /// The name on the wire and at rest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Owner => "owner",
            Role::Operator => "operator",
            Role::Auditor => "auditor",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `POST /v1/admin-keys`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAdminKey {
    /// For people; 1 to 200 characters.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Hold it to one tenant; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
}

/// A credential of an administrator. Never its secret.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminKey {
    /// Its id, `adm_...`: the actor in the audit trail.
    pub id: AdminKeyId,
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The one tenant that it is held to.
    pub tenant_id: Option<TenantId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// An admin key with the secret that is shown this once.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminKeyWithSecret {
    /// The key.
    #[serde(flatten)]
    pub key: AdminKey,
    /// The credential. It is stored nowhere.
    pub secret: String,
}

/// `POST /v1/tenants`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// The most that it may spend in a calendar month (UTC); absent for no bound but its credits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Credits>,
}

/// `PATCH /v1/tenants/{id}`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateTenant {
    /// Another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Another tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Another monthly budget; `null` for none.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub budget: Patch<Credits>,
    /// Why, for the audit.
    pub reason: String,
}

/// A bare reason: `POST /v1/tenants/{id}/suspend`, `/resume`, `/v1/keys/{id}/expire`, `/v1/admin-keys/{id}/revoke`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Because {
    /// Why, for the audit.
    pub reason: String,
}

/// A tenant.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// Since when its keys are refused.
    #[serde(default)]
    pub suspended_at: Option<Timestamp>,
    /// The most that it may spend in a calendar month (UTC).
    #[serde(default)]
    pub budget: Option<Credits>,
    /// What it holds.
    pub balance: Balance,
}

/// What one payer may spend and has spent in a calendar month (UTC).
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The month, such as `2026-11`.
    pub month: String,
    /// The most; absent for no bound but the tenant's credits.
    pub budget: Option<Credits>,
    /// What calls that began in the month have been charged or have set aside.
    pub spent: Credits,
}

/// A tenant's credits. Always `granted = available + pending + posted`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantCredits {
    /// How much to add, at least 1.
    pub amount: Credits,
    /// Why, for the audit.
    pub reason: String,
}

/// Which way a correction goes.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// What was charged goes back to what is available.
    Refund,
    /// What was granted and is still available is taken back.
    Withdraw,
}

/// `POST /v1/tenants/{id}/corrections`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorrectCredits {
    /// Which way.
    pub direction: Direction,
    /// How much, at least 1.
    pub amount: Credits,
    /// Why, for the audit.
    pub reason: String,
}

/// A grant or a correction that was made.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// The agent it belongs to, one of the tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// How it comes to be; absent for `admin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<KeySource>,
    /// The most that it may spend in a calendar month (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Credits>,
}

/// `PATCH /v1/keys/{id}`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateKey {
    /// Another name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Other permissions, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// Other services to hold it to; `null` for all.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub services: Patch<Vec<Grant>>,
    /// Other tools to hold it to; `null` for all.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub tools: Patch<Vec<Grant>>,
    /// Other resources to hold it to; `null` for all.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub resources: Patch<Vec<Grant>>,
    /// Other limits beside the tier's, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Vec<Limit>>,
    /// Another end; `null` for none.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub expires_at: Patch<Timestamp>,
    /// Another agent of the tenant; `null` for none.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub agent_id: Patch<AgentId>,
    /// Another monthly budget; `null` for none.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub budget: Patch<Credits>,
    /// Why, for the audit.
    pub reason: String,
}

/// A key, as administrators see it. Never its secret.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// The most that it may spend in a calendar month (UTC).
    #[serde(default)]
    pub budget: Option<Credits>,
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyWithSecret {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// The credential. It is stored nowhere.
    pub secret: String,
}

/// `POST /v1/keys/{id}/rotate`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// How long the old secret goes on working, at most 30 days.
    #[serde(default)]
    pub grace_seconds: u32,
    /// Why, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /v1/keys/{id}/revoke`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeKey {
    /// Why, for the audit.
    pub reason: String,
}

/// One page of a list.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Ask with `cursor=` this for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

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
    /// How long they took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Percentiles>,
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
    /// Every key that this ledger ever signed with.
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
}

/// One row of the audit trail, `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// The policy in force, `GET /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyInForce<Document> {
    /// Content hash.
    pub version: PolicyVersion,
    /// The document.
    pub document: Document,
}
