//! Shares of global limits.

use protocol::{InstanceId, KeyId, Timestamp};

/// Whose share of what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShareKey {
    pub key_id: KeyId,
    /// Which of its limits.
    pub limit_id: u32,
    /// The run of the Envoy that holds it.
    pub instance: InstanceId,
}

/// What one Envoy holds of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The permits that it may give in any window.
    pub permits: u32,
    /// The newest round on it.
    pub revision: u64,
    /// The limit's window.
    pub window_seconds: u32,
    /// When its Envoy was last heard of it.
    pub renewed_at: Timestamp,
    /// When it is free for others unless it is renewed.
    pub expires_at: Timestamp,
    /// When its Envoy last had the others called to give back.
    pub called_at: Option<Timestamp>,
}
