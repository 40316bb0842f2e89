//! This Envoy's share of a global limit: how many of its permits it may give, and until when.
//!
//! The ledger keeps the sum of all shares within the limit. An Envoy lowers its share before it tells the ledger, and
//! never below what the window holds. So over all Envoys, no interval as long as the window contains more admissions than
//! the limit.

use super::Monotonic;
use super::share_state::Share;
use super::slot;
use crate::limit::LimitRule;
use crate::value::Corrupt;
use protocol::key::Limit;

/// An ask without an answer is given up after this time.
const ASK_MS: u64 = 3_000;
/// How long the gate does not ask again after the ledger had no more permits.
const NO_PERMITS_MS: u64 = 250;
/// Permits to ask for in addition to twice what the window holds.
const SPARE: u32 = 8;

/// A message to the ledger about a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The limit.
    pub limit_id: u32,
    /// The whole limit.
    pub limit: Limit,
    /// Grows with each ask.
    pub revision: u64,
    /// The permits that its window holds.
    pub used: u32,
    /// The permits to which this Envoy limits itself from now on.
    pub keep: u32,
    /// The total number of permits that it would like to have.
    pub wanted: u32,
}

/// Asks for more of a limit, unless the ledger had none a moment ago. Returns the slot's next value and the ask.
///
/// Workers that ask while another worker's ask is pending repeat the same ask. The ledger answers all of them alike, and
/// any of the answers counts for all.
pub fn ask(
    value: &[u8],
    fingerprint: u64,
    rule: &LimitRule,
    now: Monotonic,
) -> Result<Option<(Vec<u8>, Ask)>, Corrupt> {
    slot::change_share(
        value,
        fingerprint,
        rule.id,
        now,
        |share, entry| {
            let limit = rule.limit.permits;
            let share = share.get_or_insert(Share { limit, ..Share::default() });
            if now.0 < share.no_ask_before_ms {
                return None;
            }
            let used = entry.window.used_at(&rule.limit, now);
            // Permits that the window holds were given, so they count even after the share has expired.
            let keep = share.permits(now).max(used).min(rule.limit.permits);
            let wanted = used.saturating_mul(2).max(keep).saturating_add(SPARE).min(rule.limit.permits);
            let is_repeated = now.0 < share.asked_until_ms && share.limit == rule.limit.permits;
            if !is_repeated {
                share.limit = rule.limit.permits;
                share.revise(now);
                share.asked_until_ms = now.0.saturating_add(ASK_MS);
            }
            share.reported = used;
            let (limit, revision) = (rule.limit, share.revision);
            Some(Ask { limit_id: rule.id, limit, revision, used, keep, wanted })
        },
        Some(&rule.limit),
    )
}

/// The ledger's answer to an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// The revision of the ask. An answer to an older ask is ignored.
    pub revision: u64,
    /// The permits that this Envoy may give.
    pub permits: u32,
    /// The permits beyond these that no other Envoy is known to have used.
    pub elsewhere: u32,
    /// When the share ends.
    pub deadline: Monotonic,
}

/// The ledger answered an ask.
pub fn given(
    value: &[u8],
    fingerprint: u64,
    limit_id: u32,
    answer: &Given,
    now: Monotonic,
) -> Result<Option<Vec<u8>>, Corrupt> {
    let changed = slot::change_share(
        value,
        fingerprint,
        limit_id,
        now,
        |share, _| {
            let Some(share) = share.as_mut().filter(|share| share.revision == answer.revision) else {
                return Some(());
            };
            // Only the first of the answers to one ask shows whether the ledger had more.
            if share.asked_until_ms != 0 && answer.permits <= share.permits(now) {
                share.no_ask_before_ms = now.0.saturating_add(NO_PERMITS_MS);
            }
            share.permits = answer.permits;
            share.elsewhere = answer.elsewhere;
            share.deadline_ms = answer.deadline.0;
            share.asked_until_ms = 0;
            Some(())
        },
        None,
    )?;
    Ok(changed.map(|(next, ())| next))
}

/// Another Envoy needs permits: returns half of those that the window does not hold. `None` if there are none to return and
/// the ledger knows how many are used.
pub fn release(
    value: &[u8],
    fingerprint: u64,
    limit_id: u32,
    now: Monotonic,
) -> Result<Option<(Vec<u8>, Ask)>, Corrupt> {
    slot::change_share(
        value,
        fingerprint,
        limit_id,
        now,
        |share, entry| {
            let share = share.as_mut()?;
            let limit = Limit { permits: share.limit, window_seconds: entry.window_seconds };
            let (held, used) = (share.permits(now), entry.window.used_at(&limit, now));
            let keep = used.saturating_add(held.saturating_sub(used) / 2);
            if held == 0 || (keep >= held && used == share.reported) {
                return None;
            }
            let keep = keep.min(held);
            share.permits = keep;
            share.reported = used;
            share.revise(now);
            // The share has changed, so the answer to a pending ask is out of date.
            share.asked_until_ms = 0;
            Some(Ask { limit_id, limit, revision: share.revision, used, keep, wanted: keep })
        },
        None,
    )
}

#[cfg(test)]
mod tests;
