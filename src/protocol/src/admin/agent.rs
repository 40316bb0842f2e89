//! Agents.

use crate::{AgentId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// The body of `POST /v1/agents`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAgent {
    /// The tenant of the agent.
    pub tenant_id: TenantId,
    /// A name for people, 1 to 200 characters.
    pub name: String,
}

/// A registered caller of a tenant. Keys can belong to it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// The id, `agt_...`.
    pub id: AgentId,
    /// The tenant of the agent.
    pub tenant_id: TenantId,
    /// The name for people.
    pub name: String,
    /// When it was registered.
    pub created_at: Timestamp,
}
