//! What a key is, as the ledger hands it to a filter.

use crate::{AgentId, KeyId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// One api key's record. It holds no secret: the filter found it by [`crate::api_key::KeyHash`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The key.
    pub key_id: KeyId,
    /// Who pays for it.
    pub tenant_id: TenantId,
    /// Name of the tenant's tier; the policy knows what it means.
    pub tier: String,
    /// May it be used at all.
    pub state: KeyState,
    /// Permissions, in the order they were given.
    pub scopes: Vec<String>,
    /// The services it is held to; `None` holds it to none in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<Grant>>,
    /// The tools it is held to; `None` holds it to none in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Grant>>,
    /// The resources it is held to, such as `project:42`; `None` holds it to none in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<Grant>>,
    /// Limits of its own, beside its tier's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// What it may have under way on one worker, beside its tier's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// The agent it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// How it came to be.
    pub source: KeySource,
    /// It has a budget of its own, so its calls reserve exactly: a lease is its tenant's and knows no key's budget.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_budget: bool,
    /// When this credential stops working: the key's own expiry or the end of a rotation's grace, whichever is first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The key that asked for it. All else in the record is already no more than that one may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// The key that another one was issued to. Both count against the same windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// The key.
    pub key_id: KeyId,
    /// Limits of its own, which hold for both together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// What both together may have under way on one worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
}

/// Whether a key may be used.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// In use.
    Active,
    /// Withdrawn for good.
    Revoked,
    /// Past its expiry.
    Expired,
    /// Its tenant is suspended.
    Suspended,
}

/// How a key came to be.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// Made by an administrator.
    Admin,
    /// Issued through the gate's own MCP tool.
    Mcp,
    /// Derived from another key.
    Delegation,
}

/// Something a key is held to. Written as a bare name, or with its own expiry as `{name, expires_at}`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "GrantForm", into = "GrantForm")]
pub struct Grant {
    /// Name of the service, tool or resource.
    pub name: String,
    /// When this grant ends; the key may outlive it.
    pub expires_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
enum GrantForm {
    Name(String),
    Expiring(ExpiringGrant),
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct ExpiringGrant {
    name: String,
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

impl From<GrantForm> for Grant {
    fn from(form: GrantForm) -> Grant {
        match form {
            GrantForm::Name(name) => Grant { name, expires_at: None },
            GrantForm::Expiring(ExpiringGrant { name, expires_at }) => Grant { name, expires_at },
        }
    }
}

impl From<Grant> for GrantForm {
    fn from(grant: Grant) -> GrantForm {
        match grant {
            Grant { name, expires_at: None } => GrantForm::Name(name),
            Grant { name, expires_at } => GrantForm::Expiring(ExpiringGrant { name, expires_at }),
        }
    }
}

/// A rule: at most `permits` in any interval of `window_seconds`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// How many, 1 to [`Limit::PERMITS_MAX`].
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub permits: u32,
    /// In how long, 1 s to one day.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 86_400)))]
    pub window_seconds: u32,
}

impl Limit {
    /// The largest number of permits of one window.
    pub const PERMITS_MAX: u32 = 1_000_000;
    /// The longest window: one day.
    pub const WINDOW_SECONDS_MAX: u32 = 86_400;

    /// True if both numbers are within their bounds.
    pub fn is_in_bounds(&self) -> bool {
        (1..=Limit::PERMITS_MAX).contains(&self.permits)
            && (1..=Limit::WINDOW_SECONDS_MAX).contains(&self.window_seconds)
    }
}

/// How much one key may have under way at the same time, on each worker of an Envoy.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Concurrency {
    /// Requests that are not answered to their end.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000)))]
    pub requests: u32,
    /// Streams that live until somebody leaves: MCP's GET streams, `subscriptions/listen`, upgraded connections.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100_000)))]
    pub streams: u32,
}

impl Default for Concurrency {
    /// Far above what an agent does, and far below what an Envoy and its upstreams hold.
    fn default() -> Concurrency {
        Concurrency { requests: 256, streams: 32 }
    }
}

impl Concurrency {
    /// The most that either may be.
    pub const MAX: u32 = 100_000;

    /// Of each kind the less.
    pub fn min(self, other: Concurrency) -> Concurrency {
        Concurrency { requests: self.requests.min(other.requests), streams: self.streams.min(other.streams) }
    }

    /// True if both numbers are within their bounds.
    pub fn is_in_bounds(&self) -> bool {
        (1..=Concurrency::MAX).contains(&self.requests) && self.streams <= Concurrency::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_reads_and_writes_both_forms() {
        let text = r#"["project:1",{"name":"project:2","expires_at":"2026-11-22T20:00:00.000Z"}]"#;
        let grants: Vec<Grant> = serde_json::from_str(text).unwrap();
        assert_eq!(grants[0], Grant { name: "project:1".into(), expires_at: None });
        assert!(grants[1].expires_at.is_some());
        assert_eq!(serde_json::to_string(&grants).unwrap(), text);
    }
}
