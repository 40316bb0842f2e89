//! Sums of decisions.

use protocol::audit::Outcome;

/// What a sum of usage counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageKey {
    /// Hours since the epoch.
    pub hour: u64,
    /// Empty if no key was recognised.
    pub tenant_id: String,
    /// Empty if no key was recognised.
    pub key_id: String,
    /// Empty if the key belongs to no agent.
    pub agent_id: String,
    /// Empty if no tool was named.
    pub tool: String,
    pub outcome: Outcome,
    /// The outcome that a shadow rule would have given; empty if none would have refused.
    pub would_deny: String,
    /// The latency, see [`super::latency::bucket`].
    pub bucket: u32,
}

/// What to add to a sum of usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// Decisions.
    pub calls: u64,
    /// Credits charged.
    pub credits: u64,
    /// LLM input tokens.
    pub input_usage_tokens: u64,
    /// LLM output tokens.
    pub output_usage_tokens: u64,
}
