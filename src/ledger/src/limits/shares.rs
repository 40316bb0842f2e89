//! Shares of global limits: the permits that each Envoy may admit. They sum to at most the limit.
//!
//! The recorded share is never less than what the Envoy may admit or has admitted within the window. An Envoy lowers its
//! share before it reports so, so a lower number frees permits at once; a higher one is recorded before it is answered.
//! A share that is not renewed ends for the Envoy first. The ledger frees it when all that the Envoy admitted has left the
//! window.

use crate::model::share::{Share, ShareKey};
use crate::transaction::Rows;
use protocol::filter::Change;
use protocol::lease::{Share as Answer, ShareAsk};
use protocol::{InstanceId, Timestamp};

#[cfg(test)]
mod tests;

/// How long an Envoy may use a share without renewing it.
pub const TTL_MILLIS: u64 = 120_000;
/// How much longer than the TTL and the window the ledger counts a share.
const MARGIN_MILLIS: u64 = 5_000;
/// Least fraction (1/LEAST_PART) of a limit in one grant, so that the last permits are not granted one by one.
const LEAST_PART: u32 = 16;
/// Least time between two recalls of a limit's unused permits.
const RECALL_EVERY_MILLIS: u64 = 200;

/// Records the permits that an Envoy keeps, and grants it free ones.
pub fn grant(rows: &mut Rows, instance: &InstanceId, ask: &ShareAsk, now: Timestamp) -> Answer {
    let ShareAsk { owner, limit_id, limit, revision, used, keep, wanted } = ask;
    let at = ShareKey { owner: owner.clone(), limit_id: *limit_id, instance: *instance };
    let of_limit = || rows.shares_of(owner, *limit_id).filter(|(_, share)| share.expires_at > now);
    let sum_of_others = |count: fn(&Share) -> u32| {
        let others = of_limit().filter(|(other, _)| *other != instance);
        others.fold(0u32, |sum, (_, share)| sum.saturating_add(count(share)))
    };
    let others_used = sum_of_others(|share| share.used.min(share.permits));
    let answer = |permits: u32| Answer {
        owner: owner.clone(),
        limit_id: *limit_id,
        revision: *revision,
        permits,
        elsewhere: limit.permits.saturating_sub(permits).saturating_sub(others_used),
    };
    let known = rows.shares.get(&at).filter(|share| share.expires_at > now);
    let window_millis = u64::from(limit.window_seconds).saturating_mul(1000);
    let lasts_millis = TTL_MILLIS.saturating_add(window_millis).saturating_add(MARGIN_MILLIS);
    let expires_at = now.plus_millis(lasts_millis);
    if let Some(known) = known.filter(|known| *revision <= known.revision) {
        let permits = known.permits;
        if *revision == known.revision {
            // Another worker repeats the round, and the Envoy may count its time from that one.
            let expires_at = expires_at.max(known.expires_at);
            let share = Share { renewed_at: now, expires_at, ..known.clone() };
            rows.put_share(at, share);
        }
        return answer(permits);
    }
    // An Envoy can't keep more than it was granted.
    let held = known.map_or(0, |known| known.permits.min(*keep));
    let others = sum_of_others(|share| share.permits);
    let called_at = of_limit().filter_map(|(_, share)| share.called_at).max();
    let left = limit.permits.saturating_sub(others);
    let pool = left.saturating_sub(held);
    // An Envoy that asks gets its fair share at once, so that it can go on with it if the ledger goes away.
    let fair = if wanted > keep { limit.permits.checked_div(rows.envoys_seen).unwrap_or(0) } else { 0 };
    let wanted = (*wanted).max(fair).min(limit.permits);
    let missing = wanted.saturating_sub(held);
    let least = fair.saturating_sub(held).max(limit.permits / LEAST_PART).max(1);
    let most = (pool / 2).max(least);
    // A lowered limit may leave less than what the Envoy holds.
    let permits = held.saturating_add(missing.min(most).min(pool)).min(left);

    // It can admit nothing more. What it would like to have in addition is not worth taking from others.
    let is_short = others > 0 && permits <= *used;
    let recalls = is_short && called_at.is_none_or(|at| now.millis_since(at) >= RECALL_EVERY_MILLIS);
    if recalls {
        rows.change(Change::Share { owner: owner.clone(), limit_id: *limit_id }, now);
    }
    let own_recall = rows.shares.get(&at).and_then(|share| share.called_at);
    let answered = answer(permits);
    let share = Share {
        permits,
        used: *used,
        revision: *revision,
        window_seconds: limit.window_seconds,
        renewed_at: now,
        expires_at,
        called_at: if recalls { Some(now) } else { own_recall },
    };
    rows.put_share(at, share);
    answered
}
