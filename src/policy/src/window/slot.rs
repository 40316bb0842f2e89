//! The windows of many keys in one value of shared data.
//!
//! Wasm can't delete shared data, and all of it has one lock; so the number of values is fixed. The fingerprint of a key
//! selects a slot, which contains all windows of the key, so that one compare-and-swap decides a request. Each write to a
//! slot drops the windows in it that are idle, so memory grows with the keys active within a window, not with all keys
//! ever seen.
//!
//! A share of a global limit is stored next to its window, so that both change in the same compare-and-swap.
//!
//! Layout, little endian, entry after entry: fingerprint u64, limit id u32, window_seconds u32, newest cell u64,
//! number of cells u8, share u8 (0 or 1), then for each cell, newest first, its distance from the newest u8 and its
//! count u24, and then the share, if there is one, as `share_state` writes it.

use super::share_state::Share;
use super::{CELLS, Fleet, Monotonic, Verdict, Window};
use crate::limit::LimitRule;
use crate::value::{Corrupt, chunk};
use protocol::key::Limit;
use std::num::NonZeroU64;

/// The longest time until permits that other Envoys do not need can be given here.
const RECALL_MS: u64 = 1000;
/// The number of slots. It is fixed, so that the shared data of an Envoy is bounded.
pub const SLOTS: NonZeroU64 = NonZeroU64::new(16_384).unwrap();

/// The name of the value that holds a key's windows.
///
/// It is computed for each request and not stored with each key, so it takes few steps and allocates nothing.
pub fn name(fingerprint: u64) -> Name {
    let [low, high, ..] = (fingerprint % SLOTS).to_le_bytes();
    // The slot's number as characters of five bits each.
    let [a, b, c] = [high >> 2, (high << 3) | (low >> 5), low].map(|five| b'@' | (five & 31));
    let mut name = *b"agentrelay/window/3/...";
    if let Some(letters) = name.last_chunk_mut() {
        *letters = [a, b, c];
    }
    Name(name)
}

/// The name of a slot. The number in it is the version of the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name([u8; 23]);

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        // The name is ASCII, so this can't fail.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// One limit that a request must be within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The limit.
    pub rule: LimitRule,
    /// Identifies the owner of its windows: a key, an agent or a tenant.
    pub owner: u64,
    /// If an ask of an earlier stage is refused, asks of later stages take nothing.
    pub stage: Stage,
    /// True if a refusal by this limit refuses the request.
    pub enforced: bool,
}

/// The order in which limits refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The key's limit on opening connections.
    Opening,
    /// The limits of the key.
    Key,
    /// The limits of the key on the tool.
    Tool,
}

/// Decides all asks of one request. Returns the slot's next value, and a verdict for each ask in order.
///
/// Each stage takes from all of its windows or from none of them.
pub fn take(
    value: &[u8],
    fingerprint: u64,
    asks: &[Ask],
    fleet: &Fleet,
    now: Monotonic,
) -> Result<(Vec<u8>, Vec<Verdict>), Corrupt> {
    let (mut next, mut own) = split(value, fingerprint, now)?;
    let mut verdicts = vec![Verdict::default(); asks.len()];
    let mut refused = false;
    for stage in [Stage::Opening, Stage::Key, Stage::Tool] {
        let of_stage = || asks.iter().enumerate().filter(move |(_, ask)| ask.stage == stage);
        refused = refused
            || of_stage()
                .any(|(_, ask)| ask.enforced && !own.entry(&ask.rule).has_room(&ask.rule, fleet, now));
        for (index, ask) in of_stage() {
            let entry = own.entry(&ask.rule);
            let verdict =
                if refused { entry.peek(&ask.rule, fleet, now) } else { entry.take(&ask.rule, fleet, now) };
            if let Some(place) = verdicts.get_mut(index) {
                *place = verdict;
            }
        }
    }
    own.write(&mut next, fingerprint, now);
    Ok((next, verdicts))
}

/// What [`take`] would answer, without taking permits.
pub fn peek(
    value: &[u8],
    fingerprint: u64,
    asks: &[Ask],
    fleet: &Fleet,
    now: Monotonic,
) -> Result<Vec<Verdict>, Corrupt> {
    let (_, mut own) = split(value, fingerprint, now)?;
    Ok(asks.iter().map(|ask| own.entry(&ask.rule).peek(&ask.rule, fleet, now)).collect())
}

/// Gives back what [`take`] took with these verdicts. Returns the slot's next value, and what [`peek`] answers then.
pub(super) fn give_back(
    value: &[u8],
    fingerprint: u64,
    asks: &[Ask],
    taken: &[Verdict],
    fleet: &Fleet,
    now: Monotonic,
) -> Result<(Vec<u8>, Vec<Verdict>), Corrupt> {
    let (mut next, mut own) = split(value, fingerprint, now)?;
    let give_back = |(ask, taken): (&Ask, &Verdict)| {
        let entry = own.entry(&ask.rule);
        if taken.admitted {
            entry.counted.window.give_back(taken.cell);
        }
        entry.peek(&ask.rule, fleet, now)
    };
    let verdicts = asks.iter().zip(taken).map(give_back).collect();
    own.write(&mut next, fingerprint, now);
    Ok((next, verdicts))
}

/// Changes the share of one window and returns what `change` returns. If that is `None`, nothing changes.
pub(super) fn change_share<A>(
    value: &[u8],
    fingerprint: u64,
    limit_id: u32,
    now: Monotonic,
    change: impl FnOnce(&mut Option<Share>, &mut Counted) -> Option<A>,
    limit: Option<&Limit>,
) -> Result<Option<(Vec<u8>, A)>, Corrupt> {
    let (mut next, mut own) = split(value, fingerprint, now)?;
    let known = own.0.iter_mut().find(|entry| entry.id == limit_id);
    let entry = match (known, limit) {
        (Some(entry), _) => entry,
        (None, Some(limit)) => own.push(limit_id, limit.window_seconds),
        (None, None) => return Ok(None),
    };
    let Some(answer) = change(&mut entry.share, &mut entry.counted) else { return Ok(None) };
    own.write(&mut next, fingerprint, now);
    Ok(Some((next, answer)))
}

/// A window and its length.
pub(super) struct Counted {
    pub(super) window_seconds: u32,
    pub(super) window: Window,
}

/// One window of the key, and its share if the limit is global.
struct Entry {
    id: u32,
    counted: Counted,
    share: Option<Share>,
}

struct Own(Vec<Entry>);

impl Own {
    fn entry(&mut self, rule: &LimitRule) -> &mut Entry {
        let place = self.0.iter().position(|entry| {
            entry.id == rule.id && entry.counted.window_seconds == rule.limit.window_seconds
        });
        match place {
            // `place` is in bounds: it was just found.
            #[allow(clippy::indexing_slicing)]
            Some(place) => &mut self.0[place],
            None => self.push(rule.id, rule.limit.window_seconds),
        }
    }

    fn push(&mut self, id: u32, window_seconds: u32) -> &mut Entry {
        let counted = Counted { window_seconds, window: Window::default() };
        let entry = Entry { id, counted, share: None };
        let place = self.0.len();
        self.0.push(entry);
        // `place` is in bounds: the entry was just pushed.
        #[allow(clippy::indexing_slicing)]
        &mut self.0[place]
    }

    /// Writes the windows and shares that are still needed.
    fn write(self, value: &mut Vec<u8>, fingerprint: u64, now: Monotonic) {
        for entry in self.0 {
            let is_idle = entry.counted.window.is_idle(&kept_for(entry.counted.window_seconds), now);
            let share = entry.share.filter(|share| share.is_needed(entry.counted.window_seconds, now));
            if !is_idle || share.is_some() {
                write(value, fingerprint, &Entry { share, ..entry });
            }
        }
    }
}

impl Entry {
    fn take(&mut self, rule: &LimitRule, fleet: &Fleet, now: Monotonic) -> Verdict {
        let verdict = self.counted.window.take(&self.limit(rule, fleet, now), now);
        self.with_share(verdict, rule, fleet, now)
    }

    fn has_room(&mut self, rule: &LimitRule, fleet: &Fleet, now: Monotonic) -> bool {
        let limit = self.limit(rule, fleet, now);
        self.counted.window.used_at(&limit, now) < limit.permits
    }

    fn peek(&mut self, rule: &LimitRule, fleet: &Fleet, now: Monotonic) -> Verdict {
        let verdict = self.counted.window.peek(&self.limit(rule, fleet, now), now);
        self.with_share(verdict, rule, fleet, now)
    }

    /// The part of the limit that this Envoy may give.
    fn limit(&self, rule: &LimitRule, fleet: &Fleet, now: Monotonic) -> Limit {
        if !rule.global {
            return rule.limit;
        }
        Limit { permits: fleet.permits(rule, self.share.as_ref(), now), ..rule.limit }
    }

    /// Adds what the share of a global limit says to the verdict on this Envoy's window.
    fn with_share(&mut self, verdict: Verdict, rule: &LimitRule, fleet: &Fleet, now: Monotonic) -> Verdict {
        if !rule.global {
            return verdict;
        }
        if fleet.is_lost(now) {
            let rise_wait_ms = fleet.rise_wait_ms(rule, now);
            let no_permits = verdict.permits == 0 && !verdict.admitted;
            let wait_ms = match rise_wait_ms {
                0 => u64::from(rule.limit.window_seconds).saturating_mul(1000),
                wait_ms => wait_ms,
            };
            let reset_ms = if no_permits { wait_ms } else { verdict.reset_ms };
            return Verdict { reset_ms, is_unavailable: true, ..verdict };
        }
        let can_grow = verdict.permits < rule.limit.permits;
        let expires_soon = self.share.is_some_and(|share| share.expires_soon(now));
        // Without a share nothing is known of other Envoys.
        let known = self.share.filter(|share| now.0 < share.deadline_ms);
        let held = self.counted.window.used_at(&rule.limit, now).max(verdict.permits);
        let beyond = rule.limit.permits.saturating_sub(held);
        let elsewhere = known.map_or(beyond, |share| share.elsewhere.min(beyond));
        let reset_ms = match (can_grow && !verdict.admitted, elsewhere) {
            (false, _) => verdict.reset_ms,
            // An empty share can't tell when it will have permits again, so the client waits at least one second.
            (true, 0) => verdict.reset_ms.max(RECALL_MS),
            // Other Envoys hold permits that they may not need; these are being recalled.
            (true, _) => RECALL_MS,
        };
        let remaining = verdict.remaining.saturating_add(elsewhere);
        Verdict { remaining, reset_ms, can_grow, expires_soon, ..verdict }
    }
}

/// A limit to keep a window with. The number of permits has no effect then.
fn kept_for(window_seconds: u32) -> Limit {
    Limit { permits: 1, window_seconds }
}

/// Reads a slot: the bytes of the other keys' windows that are still needed, and this key's windows.
fn split(value: &[u8], fingerprint: u64, now: Monotonic) -> Result<(Vec<u8>, Own), Corrupt> {
    let mut others = Vec::with_capacity(value.len().saturating_add(64));
    let mut own = Own(Vec::new());
    let mut rest = value;
    while !rest.is_empty() {
        let before = rest;
        let owner = u64::from_le_bytes(chunk(&mut rest)?);
        let id = u32::from_le_bytes(chunk(&mut rest)?);
        let window_seconds = u32::from_le_bytes(chunk(&mut rest)?);
        let newest = u64::from_le_bytes(chunk(&mut rest)?);
        let [count, shares] = chunk(&mut rest)?;
        let cells = usize::from(count).checked_mul(4).ok_or(Corrupt)?;
        let (cells, after) = rest.split_at_checked(cells).ok_or(Corrupt)?;
        rest = after;
        let share = match shares {
            0 => None,
            _ => Some(Share::read(&chunk(&mut rest)?)),
        };
        if owner == fingerprint {
            let counted = Counted { window_seconds, window: read_cells(newest, cells)? };
            own.0.push(Entry { id, counted, share });
        } else if super::leaves_at(newest, &kept_for(window_seconds)) > now.0
            || share.is_some_and(|share| share.is_needed(window_seconds, now))
        {
            let length = before.len().checked_sub(rest.len()).ok_or(Corrupt)?;
            others.extend_from_slice(before.get(..length).ok_or(Corrupt)?);
        }
    }
    Ok((others, own))
}

fn read_cells(newest: u64, bytes: &[u8]) -> Result<Window, Corrupt> {
    let (cells, _) = bytes.as_chunks::<4>();
    let cells = cells
        .iter()
        .rev()
        .map(|[distance, a, b, c]| {
            let cell = newest.checked_sub(u64::from(*distance)).ok_or(Corrupt)?;
            Ok((cell, u32::from_le_bytes([*a, *b, *c, 0])))
        })
        .collect::<Result<Vec<_>, Corrupt>>()?;
    Ok(Window { cells })
}

fn write(value: &mut Vec<u8>, fingerprint: u64, entry: &Entry) {
    let Counted { window_seconds, window } = &entry.counted;
    let newest = window.cells.last().map_or(0, |(cell, _)| *cell);
    // Older cells have left the window: it is `CELLS` cells long, and one more may be partly in it.
    let kept = window.cells.iter().rev().filter_map(|(cell, count)| {
        let distance = newest.checked_sub(*cell).filter(|distance| *distance <= CELLS.saturating_add(1))?;
        let [a, b, c, _] = count.to_le_bytes();
        Some([u8::try_from(distance).ok()?, a, b, c])
    });
    value.extend_from_slice(&fingerprint.to_le_bytes());
    value.extend_from_slice(&entry.id.to_le_bytes());
    value.extend_from_slice(&window_seconds.to_le_bytes());
    value.extend_from_slice(&newest.to_le_bytes());
    let counts = value.len();
    value.extend_from_slice(&[0, u8::from(entry.share.is_some())]);
    let mut count = 0u8;
    for cell in kept {
        value.extend_from_slice(&cell);
        count = count.saturating_add(1);
    }
    if let Some(place) = value.get_mut(counts) {
        *place = count;
    }
    if let Some(share) = &entry.share {
        value.extend_from_slice(&share.bytes());
    }
}
