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
use super::{CELLS, Monotonic, Verdict, Window};
use crate::limit::LimitRule;
use crate::value::{Corrupt, chunk};
use protocol::key::Limit;
use std::num::NonZeroU64;

/// The number of slots. It is fixed, so that the shared data of an Envoy is bounded.
pub const SLOTS: NonZeroU64 = NonZeroU64::new(16_384).unwrap();

/// The name of the value that holds a key's windows.
///
/// It is computed for each request and not stored with each key, so it takes few steps and allocates nothing.
pub fn name(fingerprint: u64) -> Name {
    let [low, high, ..] = (fingerprint % SLOTS).to_le_bytes();
    // The slot's number in letters of five bits each.
    let [a, b, c] = [high >> 2, (high << 3) | (low >> 5), low].map(|five| b'@' | (five & 31));
    let mut name = *b"agentrelay/window/2/...";
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The limit.
    pub rule: LimitRule,
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
    now: Monotonic,
) -> Result<(Vec<u8>, Vec<Verdict>), Corrupt> {
    let (mut next, mut own) = split(value, fingerprint, now)?;
    let mut verdicts = vec![Verdict::default(); asks.len()];
    let mut refused = false;
    for stage in [Stage::Opening, Stage::Key, Stage::Tool] {
        let of_stage = || asks.iter().enumerate().filter(move |(_, ask)| ask.stage == stage);
        refused = refused
            || of_stage().any(|(_, ask)| ask.enforced && !own.entry(&ask.rule).has_room(&ask.rule, now));
        for (index, ask) in of_stage() {
            let entry = own.entry(&ask.rule);
            let verdict = if refused { entry.peek(&ask.rule, now) } else { entry.take(&ask.rule, now) };
            if let Some(place) = verdicts.get_mut(index) {
                *place = verdict;
            }
        }
    }
    own.write(&mut next, fingerprint, now);
    Ok((next, verdicts))
}

/// What [`take`] would answer, without taking permits.
pub fn peek(value: &[u8], fingerprint: u64, asks: &[Ask], now: Monotonic) -> Result<Vec<Verdict>, Corrupt> {
    let (_, mut own) = split(value, fingerprint, now)?;
    Ok(asks.iter().map(|ask| own.entry(&ask.rule).peek(&ask.rule, now)).collect())
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
            let share = entry.share.filter(|share| share.is_needed(now));
            if !is_idle || share.is_some() {
                write(value, fingerprint, &Entry { share, ..entry });
            }
        }
    }
}

impl Entry {
    fn take(&mut self, rule: &LimitRule, now: Monotonic) -> Verdict {
        let verdict = self.counted.window.take(&self.limit(rule, now), now);
        self.with_share(verdict, rule, now)
    }

    fn has_room(&mut self, rule: &LimitRule, now: Monotonic) -> bool {
        let limit = self.limit(rule, now);
        self.counted.window.used_at(&limit, now) < limit.permits
    }

    fn peek(&mut self, rule: &LimitRule, now: Monotonic) -> Verdict {
        let verdict = self.counted.window.peek(&self.limit(rule, now), now);
        self.with_share(verdict, rule, now)
    }

    /// The part of the limit that this Envoy may give.
    fn limit(&self, rule: &LimitRule, now: Monotonic) -> Limit {
        if rule.global { Limit { permits: self.permits(rule, now), ..rule.limit } } else { rule.limit }
    }

    fn permits(&self, rule: &LimitRule, now: Monotonic) -> u32 {
        self.share.as_ref().map_or(0, |share| share.permits(now)).min(rule.limit.permits)
    }

    fn with_share(&self, verdict: Verdict, rule: &LimitRule, now: Monotonic) -> Verdict {
        let can_grow = rule.global && self.permits(rule, now) < rule.limit.permits;
        // An empty share can't tell when it will have permits again, so the client waits at least one second.
        let wait_ms = if can_grow && !verdict.admitted { 1000 } else { 0 };
        let verdict = Verdict { reset_ms: verdict.reset_ms.max(wait_ms), ..verdict };
        let expires_soon = rule.global && self.share.is_some_and(|share| share.expires_soon(now));
        Verdict { can_grow, expires_soon, ..verdict }
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
            || share.is_some_and(|share| share.is_needed(now))
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
