//! The record of a key, as the ledger sends it to a filter.

use crate::{AgentId, KeyId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// The record of one api key. It contains no secret: the filter looks it up by [`crate::api_key::KeyHash`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The key.
    pub key_id: KeyId,
    /// The tenant that pays for the key's calls.
    pub tenant_id: TenantId,
    /// Name of the tenant's tier, which the policy defines.
    pub tier: String,
    /// Whether the key may be used.
    pub state: KeyState,
    /// The scopes of the key, in the order in which they were given.
    pub scopes: Vec<String>,
    /// The services that the key is restricted to; `None` means no restriction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<Grant>>,
    /// The tools that the key is restricted to; `None` means no restriction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Grant>>,
    /// The resources that the key is restricted to, such as `project:42`; `None` means no restriction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<Grant>>,
    /// The key's own limits, in addition to those of its tier.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// The key's own bounds for exchanges in progress on one worker, in addition to those of its tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// The agent that the key belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// How the key was created.
    pub source: KeySource,
    /// True if the key has its own budget. Its calls must then reserve their exact price, because a lease belongs to the
    /// tenant and does not track the budgets of keys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_budget: bool,
    /// When this credential stops working: at the key's expiry or the end of its rotation's grace period, whichever is first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The key that requested this one. The other fields are already restricted to what the parent may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
}

/// The key that requested another key. Both keys count against the same windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// The key.
    pub key_id: KeyId,
    /// The agent that the parent belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    /// The parent's own limits, which apply to both keys together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// The bounds for exchanges of both keys together in progress on one worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
}

/// Whether a key may be used.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// The key may be used.
    Active,
    /// The key was revoked. This is final.
    Revoked,
    /// The key's `expires_at` has passed.
    Expired,
    /// The key's tenant is suspended.
    Suspended,
}

/// How a key was created.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// By an administrator.
    Admin,
    /// By the gate's MCP tool `request_key`.
    Mcp,
    /// By delegation from another key.
    Delegation,
}

/// The name of a service, tool or resource that a key may use. It is written as a string, or as `{"name": ...,
/// "expires_at": ...}` if it expires before the key.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "GrantForm", into = "GrantForm")]
pub struct Grant {
    /// The name of the service, tool or resource.
    pub name: String,
    /// When the grant expires; absent if it lasts as long as the key.
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

/// A rule: at most `permits` requests in any interval of `window_seconds` seconds.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// The number of permits, 1 to 1000000.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub permits: u32,
    /// The length of the window in seconds, 1 to 86400 (one day).
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 86_400)))]
    pub window_seconds: u32,
}

impl Limit {
    /// The maximum permits of one window.
    pub const PERMITS_MAX: u32 = 1_000_000;
    /// The longest window: one day.
    pub const WINDOW_SECONDS_MAX: u32 = 86_400;

    /// True if both numbers are within their bounds.
    pub fn is_in_bounds(&self) -> bool {
        (1..=Limit::PERMITS_MAX).contains(&self.permits)
            && (1..=Limit::WINDOW_SECONDS_MAX).contains(&self.window_seconds)
    }
}

/// The most requests and streams of one key that may be in progress at the same time on one worker of an Envoy.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Concurrency {
    /// Requests whose answer has not ended.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000)))]
    pub requests: u32,
    /// Streams that stay open until one side closes them: MCP's GET streams, `subscriptions/listen` and upgraded
    /// connections.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100_000)))]
    pub streams: u32,
}

impl Default for Concurrency {
    /// Far more than an agent needs, and far less than an Envoy and its upstreams can handle.
    fn default() -> Concurrency {
        Concurrency { requests: 256, streams: 32 }
    }
}

impl Concurrency {
    /// The maximum of either bound.
    pub const MAX: u32 = 100_000;

    /// The smaller of each bound.
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
