//! Leases as administrators see them.

use crate::{Credits, InstanceId, LeaseId, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

/// Credits that one Envoy may spend without a ledger call for each request. It reports afterwards what it spent.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The id.
    pub id: LeaseId,
    /// The tenant that pays.
    pub tenant_id: TenantId,
    /// The run of the Envoy that holds the lease.
    pub instance: InstanceId,
    /// The node id of that Envoy.
    pub envoy: String,
    /// The state of the lease.
    pub state: LeaseState,
    /// The credits leased at first.
    pub granted: Credits,
    /// Credits spent, as the Envoy reported.
    pub spent: Credits,
    /// Credits charged because the Envoy did not report on them in time.
    pub lost: Credits,
    /// When the lease was opened.
    pub opened_at: Timestamp,
    /// When the Envoy last reported on the lease.
    pub renewed_at: Timestamp,
    /// When the lease becomes `lost` unless it is renewed.
    pub expires_at: Timestamp,
}

/// The state of a lease.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// The Envoy may spend from it.
    Open,
    /// The Envoy has reported all that it spent, and the rest was returned.
    Closed,
    /// The Envoy did not report in time. All of the lease is charged until it does.
    Lost,
}

impl LeaseState {
    /// Every state.
    pub const ALL: [LeaseState; 3] = [LeaseState::Open, LeaseState::Closed, LeaseState::Lost];

    /// The name on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            LeaseState::Open => "open",
            LeaseState::Closed => "closed",
            LeaseState::Lost => "lost",
        }
    }
}
