//! The bodies of the admin API, `/v1`. Authenticated by an admin credential as bearer.

mod agent;
mod explanation;
mod facts;
mod lease;
mod patch;
mod reservation;

pub use agent::{Agent, CreateAgent};
pub use explanation::{Explanation, Moment};
pub use facts::{
    AuditKey, AuditKeys, AuditRow, AuditStatus, NameKind, NameLeaving, Percentiles, PolicyChecked,
    PolicyInForce, ShadowRow, UsageRow, UsageTokenSums,
};
pub use lease::{Lease, LeaseState};
pub use patch::Patch;
pub use reservation::{Reservation, ReservationState};

use crate::key::{Concurrency, Grant, KeySource, KeyState, Limit};
use crate::{AgentId, CredentialId, Credits, KeyId, ReservationId, TenantId, Timestamp, TransferId};
use serde::{Deserialize, Serialize};
use std::fmt;

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
    pub id: CredentialId,
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

/// `POST /v1/filter-keys`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateFilterKey {
    /// For people, such as the name of an Envoy or a cluster of them; 1 to 200 characters.
    pub name: String,
}

/// A credential of filters, which opens `/filter/v1`. Never its secret.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterKey {
    /// Its id, `flt_...`: the actor of what its filters report.
    pub id: CredentialId,
    /// For people.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// A filter key with the secret that is shown this once.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterKeyWithSecret {
    /// The key.
    #[serde(flatten)]
    pub key: FilterKey,
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

/// A bare reason: `POST /v1/tenants/{id}/suspend`, `/resume`, `/v1/keys/{id}/expire`,
/// `/v1/admin-keys/{id}/revoke`, `/v1/filter-keys/{id}/revoke`.
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
    /// For which reservation a refund is. At most what is charged for it goes back, and it is free again in the budgets
    /// of its key, in its month.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<ReservationId>,
    /// For whose calls a refund is: it is free again in this key's budget for the present month. Without a key and a
    /// reservation it is free again in the tenant's budget, and in a key's as far as no other key can have spent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
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
    /// What it may have under way on one worker, beside the tier's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
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
    /// Another bound on what it may have under way; `null` for none but the tier's.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub concurrency: Patch<Concurrency>,
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
    /// What it may have under way on one worker, beside the tier's.
    #[serde(default)]
    pub concurrency: Option<Concurrency>,
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
    /// The key that asked for it, for one that the gate issued to an agent.
    #[serde(default)]
    pub parent_id: Option<KeyId>,
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

/// `POST /v1/keys/{id}/rotate`, `/v1/filter-keys/{id}/rotate`.
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "{T}Page"))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Ask with `cursor=` this for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
