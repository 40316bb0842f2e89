//! Shares of global limits: the permits that each Envoy may give of a limit, which sum to the limit at most.
//!
//! What is recorded of an Envoy is never less than what it may give or has given within the window. It lowers itself
//! before it says so, so a lower number frees permits at once; a higher one is recorded before it is answered. A share
//! that is not renewed ends for the Envoy first; it is freed when all that it gave has left the window too.

use crate::model::share::{Share, ShareKey};
use crate::transaction::Rows;
use protocol::filter::Change;
use protocol::lease::{Share as Answer, ShareAsk};
use protocol::{InstanceId, Timestamp};

#[cfg(test)]
mod tests;

/// How long an Envoy gives permits of a share without being heard of.
pub const TTL_MILLIS: u64 = 120_000;
/// How much longer the ledger counts it, beside the window.
const MARGIN_MILLIS: u64 = 5_000;
/// At least this part of a limit is given at once, so that the last permits of the pool do not go out one by one.
const LEAST_PART: u32 = 16;
/// How often the others are asked to give back what they do not use.
const CALL_EVERY_MILLIS: u64 = 200;

/// Takes what an Envoy keeps, and gives it of what is free.
pub fn grant(rows: &mut Rows, instance: &InstanceId, ask: &ShareAsk, now: Timestamp) -> Answer {
    let ShareAsk { key_id, limit_id, limit, revision, keep, wanted } = ask;
    let at = ShareKey { key_id: key_id.clone(), limit_id: *limit_id, instance: instance.clone() };
    let answer =
        |permits| Answer { key_id: key_id.clone(), limit_id: *limit_id, revision: *revision, permits };
    let known = rows.shares.get(&at).filter(|share| share.expires_at > now);
    let window_millis = u64::from(limit.window_seconds).saturating_mul(1000);
    let lasts_millis = TTL_MILLIS.saturating_add(window_millis).saturating_add(MARGIN_MILLIS);
    let expires_at = now.plus_millis(lasts_millis);
    if let Some(known) = known.filter(|known| *revision <= known.revision) {
        let permits = known.permits;
        if *revision == known.revision {
            // Another worker asks the same, and the Envoy may count from when that one asked.
            let expires_at = expires_at.max(known.expires_at);
            let share = Share { renewed_at: now, expires_at, ..known.clone() };
            rows.put_share(at, share);
        }
        return answer(permits);
    }
    // What it holds by its own word and by the ledger's: it can't keep what it was not given.
    let held = known.map_or(0, |known| known.permits.min(*keep));
    let of_limit = || rows.shares_of(key_id, *limit_id).filter(|(_, share)| share.expires_at > now);
    let others = of_limit()
        .filter(|(other, _)| *other != instance)
        .fold(0u32, |sum, (_, share)| sum.saturating_add(share.permits));
    let called_at = of_limit().filter_map(|(_, share)| share.called_at).max();
    let within = limit.permits.saturating_sub(others);
    let pool = within.saturating_sub(held);
    let wanted = (*wanted).min(limit.permits);
    let missing = wanted.saturating_sub(held);
    let most = (pool / 2).max(limit.permits / LEAST_PART).max(1);
    // A limit that was lowered may leave less than what is held.
    let permits = held.saturating_add(missing.min(most).min(pool)).min(within);

    let is_short = others > 0 && missing > pool;
    let calls = is_short && called_at.is_none_or(|at| now.millis_since(at) >= CALL_EVERY_MILLIS);
    if calls {
        rows.change(Change::Share { key_id: key_id.clone(), limit_id: *limit_id }, now);
    }
    let own_call = rows.shares.get(&at).and_then(|share| share.called_at);
    let share = Share {
        permits,
        revision: *revision,
        window_seconds: limit.window_seconds,
        renewed_at: now,
        expires_at,
        called_at: if calls { Some(now) } else { own_call },
    };
    rows.put_share(at, share);
    answer(permits)
}
