//! A limit, and the id of its windows.

use crate::document::{LimitOutage, Per};
use protocol::key::Limit;
use sha2::{Digest, Sha256};

/// A limit, with the way it is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitRule {
    /// Distinguishes this limit's windows from other windows of their owner. It does not depend on the number of permits, so
    /// that what was counted stays when this number changes.
    pub id: u32,
    /// Where the limit is written.
    pub origin: Origin,
    /// Whose requests are counted together.
    pub per: Per,
    /// The permits and the length of the window.
    pub limit: Limit,
    /// It is counted and audited, but not enforced.
    pub shadow: bool,
    /// If true, all Envoys together give at most its permits; otherwise each Envoy gives as many.
    pub global: bool,
    /// What a global limit admits while the ledger does not answer.
    pub on_ledger_outage: LimitOutage,
}

/// Where a limit is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It bounds the opening of connections, and follows from the tier's limits.
    Opening,
    /// In a tier.
    Tier,
    /// In the key itself.
    Key,
    /// In the key that asked for this one.
    Parent,
    /// In a tool.
    Tool,
}

impl LimitRule {
    /// True if this limit is always reached before the other one, which then refuses nothing.
    pub fn hides(&self, other: Limit) -> bool {
        let is_lower =
            self.limit.permits <= other.permits && self.limit.window_seconds >= other.window_seconds;
        is_lower && !self.shadow
    }

    /// An enforced limit of each Envoy on one subject (`key` or a tool's path). The id is a hash of the owner's kind, the
    /// subject and the window.
    pub(crate) fn new(origin: Origin, per: Per, subject: &str, limit: Limit) -> LimitRule {
        let mut hash = Sha256::new();
        match per {
            Per::Key => {}
            Per::Agent => hash.update("agent: "),
            Per::Tenant => hash.update("tenant: "),
        }
        hash.update(subject.as_bytes());
        hash.update(limit.window_seconds.to_le_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, ..] = digest;
        let id = u32::from_le_bytes([a, b, c, d]);
        let on_ledger_outage = LimitOutage::default();
        LimitRule { id, origin, per, limit, shadow: false, global: false, on_ledger_outage }
    }

    /// A limit of a tier on each key and Envoy, for tests.
    #[cfg(test)]
    pub(crate) fn plain(id: u32, limit: Limit) -> LimitRule {
        LimitRule { id, ..LimitRule::new(Origin::Tier, Per::Key, "key", limit) }
    }

    /// True if nothing beyond this Envoy's share may be admitted while the ledger does not answer.
    pub fn needs_ledger(&self) -> bool {
        self.global && self.on_ledger_outage == LimitOutage::Deny
    }

    /// The limit's name without its window. No two limits of one request have the same name and window.
    pub fn name(&self) -> &'static str {
        match (self.origin, self.per) {
            (Origin::Opening, _) => "opening",
            (Origin::Tier, Per::Key) => "key",
            (Origin::Tier, Per::Agent) => "agent",
            (Origin::Tier, Per::Tenant) => "tenant",
            (Origin::Key, _) => "own",
            (Origin::Parent, _) => "parent",
            (Origin::Tool, Per::Key) => "tool",
            (Origin::Tool, Per::Agent) => "agent-tool",
            (Origin::Tool, Per::Tenant) => "tenant-tool",
        }
    }
}
