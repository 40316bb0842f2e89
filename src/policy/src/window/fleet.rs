//! What an Envoy knows of the other Envoys, and what it may give of a global limit while the ledger does not answer.
//!
//! All Envoys follow the same two moments, each counted from the ledger's last answer to its own feed. First every Envoy
//! lowers itself to its fair share. Envoys that held less rise to theirs only when all that others gave above it has left
//! the window. So over all Envoys the window never sees more than the limit, as long as no Envoy joins.

use super::Monotonic;
use super::share_state::Share;
use crate::document::LimitOutage;
use crate::limit::LimitRule;

/// How long the ledger may hold a call to its feed open. Between two answers it is silent for this time.
pub const FEED_WAIT_MS_MAX: u64 = 15_000;
/// After this time without an answer, an Envoy lowers itself.
const LOWER_MS: u64 = 20_000;
/// When all Envoys have lowered themselves: their last answers are up to one wait apart.
const LOWERED_MS: u64 = LOWER_MS + FEED_WAIT_MS_MAX + 5_000;

/// What this Envoy knows of the other Envoys and of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fleet {
    /// The number of Envoys that the ledger last named, this one included; 0 before it named any.
    pub envoys: u32,
    /// When the ledger last answered the feed.
    pub confirmed: Monotonic,
    /// The ledger did not answer a call just now.
    pub is_unavailable: bool,
}

impl Fleet {
    /// True if the ledger has not answered for long.
    pub(crate) fn is_lost(&self, now: Monotonic) -> bool {
        self.envoys > 0 && now.0 >= self.confirmed.0.saturating_add(LOWER_MS)
    }

    /// The permits that this Envoy may give of a global limit.
    pub(super) fn permits(&self, rule: &LimitRule, share: Option<&Share>, now: Monotonic) -> u32 {
        let whole = rule.limit.permits;
        let given = share.map_or(0, |share| share.permits(now)).min(whole);
        let is_lost = self.is_lost(now);
        match rule.on_ledger_outage {
            LimitOutage::Deny => given,
            LimitOutage::Allow if is_lost || self.is_unavailable => whole,
            LimitOutage::FairShare if is_lost || (self.is_unavailable && self.envoys == 1) => {
                let fair = self.fair_share(rule);
                let last = share.map_or(0, |share| share.permits);
                if self.rise_wait_ms(rule, now) == 0 { fair } else { fair.min(last) }
            }
            LimitOutage::Allow | LimitOutage::FairShare => given,
        }
    }

    /// The limit's permits divided by the Envoys. The division rounds down, so that the shares never sum to more.
    fn fair_share(&self, rule: &LimitRule) -> u32 {
        rule.limit.permits.checked_div(self.envoys).unwrap_or(0)
    }

    /// Milliseconds until this Envoy may give its fair share although it held less; 0 if it may now.
    pub(super) fn rise_wait_ms(&self, rule: &LimitRule, now: Monotonic) -> u64 {
        if self.envoys == 1 {
            return 0;
        }
        let window_ms = u64::from(rule.limit.window_seconds).saturating_mul(1000);
        self.confirmed.0.saturating_add(LOWERED_MS).saturating_add(window_ms).saturating_sub(now.0)
    }
}

#[cfg(test)]
mod tests;
