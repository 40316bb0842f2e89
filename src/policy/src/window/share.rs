//! This Envoy's share of a global limit: how many of its permits it may give, and until when.
//!
//! The ledger sees to it that the shares sum to the limit at most. A share is lowered here before the ledger hears of it,
//! and never below what the window holds; so no interval as long as the window ever sees more than the limit, over all
//! Envoys.

use super::Monotonic;
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
/// As [`write`] writes it.
const BYTES: usize = 40;

/// A share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// The limit that it is a share of.
    limit: u32,
    permits: u32,
    revision: u64,
    /// It holds until then.
    deadline_ms: u64,
    /// The answer to an ask for more is awaited until then; zero if none is.
    asked_until_ms: u64,
    /// The ledger has no more until then.
    dry_until_ms: u64,
}

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
    let changed = slot::change_share(
        value,
        fingerprint,
        rule.id,
        now,
        |share, entry| {
            let share = share.get_or_insert(Share {
                limit: rule.limit.permits,
                permits: 0,
                revision: 0,
                deadline_ms: 0,
                asked_until_ms: 0,
                dry_until_ms: 0,
            });
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
    )?;
    Ok(changed.and_then(|(next, ask)| ask.map(|ask| (next, ask))))
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
            let Some(share) = share.as_mut().filter(|share| share.revision == revision) else { return };
            // Of the answers to one ask only the first shows whether there was more.
            if share.asked_until_ms != 0 && permits <= share.permits(now) {
                share.dry_until_ms = now.0.saturating_add(DRY_MS);
            }
            share.permits = permits;
            share.deadline_ms = deadline.0;
            share.asked_until_ms = 0;
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
    let changed = slot::change_share(
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
    )?;
    Ok(changed.and_then(|(next, ask)| ask.map(|ask| (next, ask))))
}

impl Share {
    /// The permits that may be given now.
    pub(super) fn permits(&self, now: Monotonic) -> u32 {
        if now.0 < self.deadline_ms { self.permits } else { 0 }
    }

    /// False once nothing would be lost with it.
    pub(super) fn matters(&self, now: Monotonic) -> bool {
        now.0 < self.deadline_ms.max(self.asked_until_ms).max(self.dry_until_ms)
    }

    /// True when it must be asked for again to be kept.
    pub(super) fn ends_soon(&self, now: Monotonic) -> bool {
        let half_ms = protocol::lease::SHARE_TTL_MS / 2;
        now.0 < self.deadline_ms
            && now.0.saturating_add(half_ms) >= self.deadline_ms
            && now.0 >= self.asked_until_ms
    }

    /// Makes what was said until now old.
    fn revise(&mut self, now: Monotonic) {
        // A clock that never steps grows also where an earlier share was forgotten.
        self.revision = self.revision.saturating_add(1).max(now.0);
    }
}

/// Reads what [`write`] wrote.
pub(super) fn read(bytes: &[u8; BYTES]) -> Share {
    let mut numbers = bytes.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
    let mut next = || numbers.next().unwrap_or(0);
    let counts = next();
    Share {
        limit: u32::try_from(counts & u64::from(u32::MAX)).unwrap_or(0),
        permits: u32::try_from(counts >> 32).unwrap_or(0),
        revision: next(),
        deadline_ms: next(),
        asked_until_ms: next(),
        dry_until_ms: next(),
    }
}

/// Its bytes in a slot: limit u32, permits u32, and the other fields in their order as u64.
pub(super) fn write(share: &Share) -> [u8; BYTES] {
    let counts = u64::from(share.limit) | (u64::from(share.permits) << 32);
    let numbers = [counts, share.revision, share.deadline_ms, share.asked_until_ms, share.dry_until_ms];
    let mut bytes = [0; BYTES];
    for (place, number) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
        *place = number.to_le_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests;
