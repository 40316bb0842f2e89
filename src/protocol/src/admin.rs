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
    PolicyInForce, ShadowRow, ToolLeaving, UsageRow, UsageTokenSums,
};
pub use lease::{Lease, LeaseState};
pub use patch::Patch;
pub use reservation::{Reservation, ReservationState};

use crate::key::{Concurrency, Grant, KeySource, KeyState, Limit};
use crate::{AgentId, CredentialId, Credits, KeyId, ReservationId, TenantId, Timestamp, TransferId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The permissions of an administrator. Each role includes the permissions of the roles below it: `owner`, `operator`,
/// `auditor`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May read everything and change nothing.
    Auditor,
    /// May also create and change keys, tenants, credits and agents.
    Operator,
    /// May also manage administrators and filter credentials, and replace the policy.
    Owner,
}

impl Role {
    /// Every role, the most powerful first.
    pub const ALL: [Role; 3] = [Role::Owner, Role::Operator, Role::Auditor];

    /// The name on the wire and in the database.
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

/// The body of `POST /v1/admin-keys`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAdminKey {
    /// A name for people, 1 to 200 characters.
    pub name: String,
    /// The permissions of the new credential.
    pub role: Role,
    /// Restricts the credential to one tenant; absent for all tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
}

/// A credential of an administrator, without its secret.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminKey {
    /// The id, `adm_...`. The audit trail names it as the actor.
    pub id: CredentialId,
    /// The name for people.
    pub name: String,
    /// The permissions of the credential.
    pub role: Role,
    /// The only tenant that the credential may access; `null` for all tenants.
    pub tenant_id: Option<TenantId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked; `null` if it was not.
    pub revoked_at: Option<Timestamp>,
}

/// A new admin credential with its secret.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminKeyWithSecret {
    /// The credential.
    #[serde(flatten)]
    pub key: AdminKey,
    /// The secret. It is shown only in this answer; the ledger stores only its SHA-256.
    pub secret: String,
}

/// The body of `POST /v1/filter-keys`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateFilterKey {
    /// A name for people, such as that of an Envoy or a cluster of Envoys; 1 to 200 characters.
    pub name: String,
}

/// A credential for filters, which gives access to `/filter/v1`, without its secret.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterKey {
    /// The id, `flt_...`. The audit trail names it as the actor of what its filters report.
    pub id: CredentialId,
    /// The name for people.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked; `null` if it was not.
    pub revoked_at: Option<Timestamp>,
}

/// A filter credential with its secret.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterKeyWithSecret {
    /// The credential.
    #[serde(flatten)]
    pub key: FilterKey,
    /// The secret. It is shown only in this answer; the ledger stores only its SHA-256.
    pub secret: String,
}

/// The body of `POST /v1/tenants`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// A name for people, 1 to 200 characters.
    pub name: String,
    /// The name of a tier of the policy.
    pub tier: String,
    /// The credits to grant at once; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits: Option<Credits>,
    /// The most credits that the tenant may spend in a calendar month (UTC); absent for no budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Credits>,
}

/// The body of `PATCH /v1/tenants/{id}`. Absent fields stay as they are.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateTenant {
    /// The new name, 1 to 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The name of the new tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The new monthly budget; `null` removes it.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub budget: Patch<Credits>,
    /// The reason, for the audit trail.
    pub reason: String,
}

/// The body of changes that need only a reason: suspending and resuming tenants, revoking and expiring keys, revoking
/// credentials.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// The reason, for the audit trail.
    pub reason: String,
}

/// A tenant: who pays for calls.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// The id, `ten_...`.
    pub id: TenantId,
    /// The name for people.
    pub name: String,
    /// The name of its tier.
    pub tier: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was suspended; `null` if it is not. The keys of a suspended tenant are refused.
    #[serde(default)]
    pub suspended_at: Option<Timestamp>,
    /// The most credits that it may spend in a calendar month (UTC); `null` for no budget.
    #[serde(default)]
    pub budget: Option<Credits>,
    /// Its credits.
    pub balance: Balance,
}

/// The budget of a tenant or a key for one calendar month (UTC), and what of it is used.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The month, such as `2026-11`.
    pub month: String,
    /// The most credits that may be spent in the month; `null` for no budget.
    pub budget: Option<Credits>,
    /// Credits charged or reserved for calls that began in the month.
    pub spent: Credits,
}

/// The credits of a tenant. Always `granted = available + pending + posted`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Balance {
    /// All credits granted so far, less those withdrawn.
    pub granted: Credits,
    /// Credits that can be reserved.
    pub available: Credits,
    /// Credits reserved or leased, and not yet settled.
    pub pending: Credits,
    /// Credits charged.
    pub posted: Credits,
}

/// The body of `POST /v1/tenants/{id}/credits`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantCredits {
    /// The credits to add, at least 1.
    pub amount: Credits,
    /// The reason, for the audit trail.
    pub reason: String,
}

/// What a correction does.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Moves credits from charged back to available.
    Refund,
    /// Takes back credits that were granted and are still available.
    Withdraw,
}

/// The body of `POST /v1/tenants/{id}/corrections`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorrectCredits {
    /// What the correction does.
    pub direction: Direction,
    /// The number of credits, at least 1.
    pub amount: Credits,
    /// The reason, for the audit trail.
    pub reason: String,
    /// For a refund: the reservation that it refunds. The amount can't exceed what is charged for that reservation. It
    /// is also returned to the budgets of the tenant and the key, in the month of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation_id: Option<ReservationId>,
    /// For a refund: the key whose calls it refunds. The amount is returned to this key's budget for the current month.
    /// Without `key_id` and `reservation_id`, it is returned to the tenant's budget, and to a key's budget only if no
    /// other key can have spent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
}

/// A grant or a correction that was made.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditsGranted {
    /// The id of the transfer.
    pub id: TransferId,
    /// The tenant.
    pub tenant_id: TenantId,
    /// The number of credits.
    pub amount: Credits,
    /// The reason that was given.
    pub reason: String,
    /// The tenant's credits after it.
    pub balance: Balance,
}

/// The body of `POST /v1/keys`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// The tenant that pays for the key's calls.
    pub tenant_id: TenantId,
    /// A name for people, 1 to 200 characters.
    pub name: String,
    /// The scopes of the key.
    pub scopes: Vec<String>,
    /// The services that the key may use; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<Grant>>,
    /// The tools that the key may call; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Grant>>,
    /// The resources that the key may use, such as `project:42`; absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<Grant>>,
    /// Limits on the key, in addition to those of its tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Vec<Limit>>,
    /// The most requests and streams that the key may have in progress on one worker, in addition to the bounds of its
    /// tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// When the key stops working; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The agent that the key belongs to; it must be an agent of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// The most credits that the key may spend in a calendar month (UTC); absent for no budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Credits>,
}

/// The body of `PATCH /v1/keys/{id}`. Absent fields stay as they are; lists are replaced as a whole.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateKey {
    /// The new name, 1 to 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The new scopes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// The services that the key may use; `null` for all.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub services: Patch<Vec<Grant>>,
    /// The tools that the key may call; `null` for all.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub tools: Patch<Vec<Grant>>,
    /// The resources that the key may use; `null` for all.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub resources: Patch<Vec<Grant>>,
    /// The new limits on the key, in addition to those of its tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Vec<Limit>>,
    /// The new bounds on requests and streams in progress; `null` for those of the tier alone.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub concurrency: Patch<Concurrency>,
    /// When the key stops working; `null` for never.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub expires_at: Patch<Timestamp>,
    /// The agent of the tenant that the key belongs to; `null` for none.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub agent_id: Patch<AgentId>,
    /// The new monthly budget; `null` removes it.
    #[serde(default, skip_serializing_if = "Patch::is_keep")]
    pub budget: Patch<Credits>,
    /// The reason, for the audit trail.
    pub reason: String,
}

/// An api key, without its secret.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The id, `key_...`.
    pub id: KeyId,
    /// The tenant that pays for the key's calls.
    pub tenant_id: TenantId,
    /// The name for people.
    pub name: String,
    /// Whether the key may be used.
    pub state: KeyState,
    /// The scopes of the key.
    pub scopes: Vec<String>,
    /// The services that the key may use; `null` for all.
    pub services: Option<Vec<Grant>>,
    /// The tools that the key may call; `null` for all.
    pub tools: Option<Vec<Grant>>,
    /// The resources that the key may use; `null` for all.
    pub resources: Option<Vec<Grant>>,
    /// Limits on the key, in addition to those of its tier.
    pub limits: Vec<Limit>,
    /// The most requests and streams that the key may have in progress on one worker, in addition to the bounds of its
    /// tier.
    #[serde(default)]
    pub concurrency: Option<Concurrency>,
    /// When the key stops working; `null` for never.
    pub expires_at: Option<Timestamp>,
    /// The agent that the key belongs to.
    pub agent_id: Option<AgentId>,
    /// The most credits that the key may spend in a calendar month (UTC); `null` for no budget.
    #[serde(default)]
    pub budget: Option<Credits>,
    /// How the key was created.
    pub source: KeySource,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked; `null` if it was not.
    pub revoked_at: Option<Timestamp>,
    /// The time of the last reported request with the key.
    pub last_used_at: Option<Timestamp>,
    /// For a key that the gate issued to an agent: the key that requested it.
    #[serde(default)]
    pub parent_id: Option<KeyId>,
    /// What of the key has no effect: limits above those of its tier. Answers about one key have them, lists do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An api key with its secret.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyWithSecret {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// The secret. It is shown only in this answer; the ledger stores only its SHA-256.
    pub secret: String,
}

/// The body of `POST /v1/keys/{id}/rotate` and `/v1/filter-keys/{id}/rotate`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// How many seconds the old secret still works, from 0 to 30 days (2592000).
    #[serde(default)]
    pub grace_seconds: u32,
    /// The reason, for the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One page of a list.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "{T}Page"))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Pass it as `cursor` to get the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
