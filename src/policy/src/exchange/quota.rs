//! What is left of the limits, as headers: draft-ietf-httpapi-ratelimit-headers-11 and the older `X-RateLimit-*`.

use crate::window::Verdict;
use crate::window::slot::{Ask, Stage};
use protocol::key::Limit;

/// One limit and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quota {
    stage: Stage,
    limit: Limit,
    remaining: u32,
    reset_seconds: u64,
}

/// The limits that a client should know of: shadow ones are not its business.
pub(super) fn quotas(asks: &[Ask], verdicts: &[Verdict]) -> Vec<Quota> {
    asks.iter()
        .zip(verdicts)
        .filter(|(ask, _)| !ask.rule.shadow)
        .map(|(ask, verdict)| Quota {
            stage: ask.stage,
            limit: ask.rule.limit,
            remaining: verdict.remaining,
            reset_seconds: seconds(verdict.reset_ms),
        })
        .collect()
}

/// Whole seconds, rounded up: who waits them has waited long enough.
pub(super) fn seconds(millis: u64) -> u64 {
    millis.div_ceil(1000)
}

/// The rate headers of a response. A request without a known key has no quota, and is told so.
pub(super) fn headers(quotas: &[Quota], is_authenticated: bool) -> Vec<(&'static str, String)> {
    if quotas.is_empty() && is_authenticated {
        return Vec::new();
    }
    if quotas.is_empty() {
        return vec![
            ("ratelimit-policy", "\"unauthenticated\";q=0;w=60".to_owned()),
            ("ratelimit", "\"unauthenticated\";r=0;t=0".to_owned()),
            ("x-ratelimit-limit", "0".to_owned()),
            ("x-ratelimit-remaining", "0".to_owned()),
            ("x-ratelimit-reset", "0".to_owned()),
        ];
    }
    let policies: Vec<String> = quotas
        .iter()
        .map(|quota| {
            format!("\"{}\";q={};w={}", quota.name(), quota.limit.permits, quota.limit.window_seconds)
        })
        .collect();
    let states: Vec<String> = quotas
        .iter()
        .map(|quota| format!("\"{}\";r={};t={}", quota.name(), quota.remaining, quota.reset_seconds))
        .collect();
    let mut headers = vec![("ratelimit-policy", policies.join(", ")), ("ratelimit", states.join(", "))];
    // The older headers have room for one limit: the one that will refuse first.
    if let Some(tightest) =
        quotas.iter().min_by_key(|quota| (quota.remaining, std::cmp::Reverse(quota.reset_seconds)))
    {
        headers.push(("x-ratelimit-limit", tightest.limit.permits.to_string()));
        headers.push(("x-ratelimit-remaining", tightest.remaining.to_string()));
        headers.push(("x-ratelimit-reset", tightest.reset_seconds.to_string()));
    }
    headers
}

impl Quota {
    fn name(&self) -> String {
        let subject = match self.stage {
            Stage::Key => "key",
            Stage::Tool => "tool",
        };
        format!("{subject}-{}s", self.limit.window_seconds)
    }
}
