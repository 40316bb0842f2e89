//! Sums of decisions.

use protocol::audit::Outcome;

/// What a sum of usage is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageKey {
    /// Begin of the hour, in hours since the epoch.
    pub hour: u64,
    /// Whose; empty where no key was recognised.
    pub tenant_id: String,
    /// Which key; empty where none was recognised.
    pub key_id: String,
    /// Which agent; empty where the key belongs to none.
    pub agent_id: String,
    /// Which tool; empty where none was named.
    pub tool: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What a shadow rule would have said; empty where none would have refused.
    pub would_deny: String,
    /// How long it took, see [`latency::bucket`].
    pub bucket: u32,
}

/// What is to be added to a sum of usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// Decisions.
    pub calls: u64,
    /// Credits charged.
    pub credits: u64,
    /// LLM tokens that models read.
    pub input_usage_tokens: u64,
    /// LLM tokens that models wrote.
    pub output_usage_tokens: u64,
}
