//! A limit, and the id of its windows.

use protocol::key::Limit;
use sha2::{Digest, Sha256};

/// A limit, with the way it is enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRule {
    /// Distinguishes this limit's windows from other windows of a key. It does not depend on the number of permits, so that
    /// what was counted stays when this number changes.
    pub id: u32,
    /// The permits and the length of the window.
    pub limit: Limit,
    /// It is counted and audited, but not enforced.
    pub shadow: bool,
    /// If true, all Envoys together give at most its permits; otherwise each Envoy gives as many.
    pub global: bool,
}

impl LimitRule {
    /// An enforced limit of each Envoy on one subject (`key` or a tool's path). The id is a hash of the subject and the window.
    pub(crate) fn new(subject: &str, limit: Limit) -> LimitRule {
        let mut hash = Sha256::new();
        hash.update(subject.as_bytes());
        hash.update(limit.window_seconds.to_le_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, ..] = digest;
        LimitRule { id: u32::from_le_bytes([a, b, c, d]), limit, shadow: false, global: false }
    }
}
