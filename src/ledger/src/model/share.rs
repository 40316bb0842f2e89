//! Shares of global limits.

use protocol::{InstanceId, OwnerId, Timestamp};

/// An Envoy and a limit of a key, an agent or a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShareKey {
    pub owner: OwnerId,
    pub limit_id: u32,
    /// The process of the Envoy that holds it.
    pub instance: InstanceId,
}

/// What one Envoy holds of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The permits that it may admit in any window.
    pub permits: u32,
    /// How many its window held when it last said so.
    pub used: u32,
    /// The number of the newest round.
    pub revision: u64,
    /// The limit's window.
    pub window_seconds: u32,
    /// When its Envoy last renewed it.
    pub renewed_at: Timestamp,
    /// When it is free for other Envoys unless it is renewed.
    pub expires_at: Timestamp,
    /// When this Envoy last caused a recall of the others' unused permits.
    pub called_at: Option<Timestamp>,
}
