//! This Envoy's share of a global limit: how many of its permits it may give, and until when.
//!
//! The ledger sees to it that the shares sum to the limit at most. A share is lowered here before the ledger hears of it,
//! and never below what the window holds; so no interval as long as the window ever sees more than the limit, over all
//! Envoys.

use super::Monotonic;
use super::share_state::Share;
use super::slot;
use crate::limit::LimitRule;
use crate::value::Corrupt;
use protocol::key::Limit;

/// An ask that is not answered within this is taken for lost.
const ASK_MS: u64 = 3_000;
/// How long the ledger is not asked again after it had no more to give.
const DRY_MS: u64 = 250;
/// Permits asked for beyond twice what the window holds.
const SPARE: u32 = 8;

/// What is to be said to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Of which limit.
    pub limit_id: u32,
    /// The whole limit.
    pub limit: Limit,
    /// Grows with each ask.
    pub revision: u64,
    /// The permits that this Envoy holds itself to from now.
    pub keep: u32,
    /// The permits that it would like to have in all.
    pub wanted: u32,
}

/// Asks for more of a limit, unless the ledger had none a moment ago: the slot's next value, and what to say.
///
/// Workers that ask while the answer to another's ask is under way ask the same again: the ledger answers all of them
/// alike, and whichever answer comes counts for all.
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
            if now.0 < share.dry_until_ms {
                return None;
            }
            let used = entry.window.used_at(&rule.limit, now);
            // What the window holds it holds, also when the share's time is over.
            let keep = share.permits(now).max(used).min(rule.limit.permits);
            let wanted = used.saturating_mul(2).max(keep).saturating_add(SPARE).min(rule.limit.permits);
            let is_repeated = now.0 < share.asked_until_ms && share.limit == rule.limit.permits;
            if !is_repeated {
                share.limit = rule.limit.permits;
                share.revise(now);
                share.asked_until_ms = now.0.saturating_add(ASK_MS);
            }
            let (limit, revision) = (rule.limit, share.revision);
            Some(Ask { limit_id: rule.id, limit, revision, keep, wanted })
        },
        Some(&rule.limit),
    )
}

/// The ledger has answered what was said with this revision. An answer to an older one says nothing any more.
pub fn given(
    value: &[u8],
    fingerprint: u64,
    limit_id: u32,
    (revision, permits): (u64, u32),
    deadline: Monotonic,
    now: Monotonic,
) -> Result<Option<Vec<u8>>, Corrupt> {
    let changed = slot::change_share(
        value,
        fingerprint,
        limit_id,
        now,
        |share, _| {
            let Some(share) = share.as_mut().filter(|share| share.revision == revision) else {
                return Some(());
            };
            // Of the answers to one ask only the first shows whether there was more.
            if share.asked_until_ms != 0 && permits <= share.permits(now) {
                share.dry_until_ms = now.0.saturating_add(DRY_MS);
            }
            share.permits = permits;
            share.deadline_ms = deadline.0;
            share.asked_until_ms = 0;
            Some(())
        },
        None,
    )?;
    Ok(changed.map(|(next, ())| next))
}

/// Another Envoy needs permits: gives back half of what the window does not hold. `None` if there is nothing to give.
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
            if keep >= held {
                return None;
            }
            share.permits = keep;
            share.revise(now);
            // The answer to an ask under way says nothing any more.
            share.asked_until_ms = 0;
            Some(Ask { limit_id, limit, revision: share.revision, keep, wanted: keep })
        },
        None,
    )
}

#[cfg(test)]
mod tests;
