//! Leases as administrators see them.

use crate::{Credits, InstanceId, LeaseId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// Credits that one Envoy spends without a call each, and accounts for afterwards.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Who pays.
    pub tenant_id: TenantId,
    /// The run of the Envoy that holds it.
    pub instance: InstanceId,
    /// That Envoy's node id.
    pub envoy: String,
    /// Where it stands.
    pub state: LeaseState,
    /// What it held at first.
    pub granted: Credits,
    /// What was spent, as far as it was accounted for.
    pub spent: Credits,
    /// What is charged without an account.
    pub lost: Credits,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// When its Envoy was last heard of it.
    pub renewed_at: Timestamp,
    /// When it is lost, or would have been, unless it is renewed.
    pub expires_at: Timestamp,
}

/// Where a lease stands.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Its Envoy may spend from it.
    Open,
    /// Its Envoy has accounted for all of it.
    Closed,
    /// Its Envoy has not accounted for it in time: all of it is charged until it does.
    Lost,
}

impl LeaseState {
    /// Every state.
    pub const ALL: [LeaseState; 3] = [LeaseState::Open, LeaseState::Closed, LeaseState::Lost];

    /// Its name on the wire and at rest.
    pub const fn as_str(self) -> &'static str {
        match self {
            LeaseState::Open => "open",
            LeaseState::Closed => "closed",
            LeaseState::Lost => "lost",
        }
    }
}
