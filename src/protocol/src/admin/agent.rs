//! Agents.

use crate::{AgentId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// `POST /v1/agents`.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateAgent {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// For people; 1 to 200 characters.
    pub name: String,
}

/// A registered caller of a tenant. Keys can belong to it.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// For people.
    pub name: String,
    /// When it was registered.
    pub created_at: Timestamp,
}
