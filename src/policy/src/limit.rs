//! A limit and what identifies its windows.

use protocol::key::Limit;
use sha2::{Digest, Sha256};

/// A limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRule {
    /// Tells this limit's windows from a key's other windows. The number of permits is not part of it, so that a
    /// changed number keeps what was counted.
    pub id: u32,
    /// The rule.
    pub limit: Limit,
    /// Counted and audited, not enforced.
    pub shadow: bool,
    /// All Envoys together give no more than its permits; otherwise each Envoy gives as many.
    pub global: bool,
}

impl LimitRule {
    /// A limit on one subject (`key`, or a tool's name), enforced and each Envoy's own. A hash of both identifies its windows.
    pub(crate) fn new(subject: &str, limit: Limit) -> LimitRule {
        let mut hash = Sha256::new();
        hash.update(subject.as_bytes());
        hash.update(limit.window_seconds.to_le_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, ..] = digest;
        LimitRule { id: u32::from_le_bytes([a, b, c, d]), limit, shadow: false, global: false }
    }
}
