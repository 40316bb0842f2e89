//! Many keys' windows in one value of shared data.
//!
//! Shared data can't be deleted from wasm and has one lock, so the number of values is fixed: a key's windows live in
//! the slot that its fingerprint picks, all together, and one compare-and-swap decides a request. Whoever writes a
//! slot drops the windows in it that have gone idle: memory follows the keys active within a window, not all keys
//! ever seen.
//!
//! A share of a global limit lies beside its window, so that the share that a window is asked with is the one in force.
//!
//! Layout, little endian, entry after entry: fingerprint u64, limit id u32, window_seconds u32, newest cell u64,
//! number of cells u8, share u8 (0 or 1), then for each cell, newest first, its distance from the newest u8 and its
//! count u24, and then the share, if there is one, as `share_state` has it.

use super::share_state::Share;
use super::{CELLS, Monotonic, Verdict, Window};
use crate::limit::LimitRule;
use crate::value::{Corrupt, chunk};
use protocol::key::Limit;
use std::num::NonZeroU64;

/// Number of slots. Fixed, so that an Envoy's shared data is bounded.
pub const SLOTS: NonZeroU64 = NonZeroU64::new(16_384).unwrap();

/// Name of the value that holds a key's windows.
///
/// Made for each request rather than kept with each key, so it is made of few steps and without memory of its own.
pub fn name(fingerprint: u64) -> Name {
    let [low, high, ..] = (fingerprint % SLOTS).to_le_bytes();
    // Its number in letters of five bits.
    let [a, b, c] = [high >> 2, (high << 3) | (low >> 5), low].map(|five| b'@' | (five & 31));
    let mut name = *b"agentrelay/window/2/...";
    if let Some(letters) = name.last_chunk_mut() {
        *letters = [a, b, c];
    }
    Name(name)
}

/// The name of a slot. The number in it is the layout's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name([u8; 23]);

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        // It is ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// What one request asks of its key's windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The limit.
    pub rule: LimitRule,
    /// Asks of a later stage take nothing where one of an earlier stage is refused.
    pub stage: Stage,
    /// A refusal of this one refuses the request.
    pub enforced: bool,
}

/// The order in which limits refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The limit of the key on opening connections.
    Opening,
    /// Limits of the key.
    Key,
    /// Limits of the key on the tool.
    Tool,
}

/// Decides all asks of one request: the slot's next value, and a verdict for each ask in order.
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

/// What [`take`] would answer if nothing were taken.
pub fn peek(value: &[u8], fingerprint: u64, asks: &[Ask], now: Monotonic) -> Result<Vec<Verdict>, Corrupt> {
    let (_, mut own) = split(value, fingerprint, now)?;
    Ok(asks.iter().map(|ask| own.entry(&ask.rule).peek(&ask.rule, now)).collect())
}

/// Changes one window's share, and says what the change answers. Without an answer nothing changes.
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

/// One window of the key.
struct Entry {
    id: u32,
    counted: Counted,
    share: Option<Share>,
}

/// The key's windows.
struct Own(Vec<Entry>);

impl Own {
    fn entry(&mut self, rule: &LimitRule) -> &mut Entry {
        let place = self.0.iter().position(|entry| {
            entry.id == rule.id && entry.counted.window_seconds == rule.limit.window_seconds
        });
        match place {
            // `place` is in bounds: found just now.
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
        // `place` is in bounds: pushed just now.
        #[allow(clippy::indexing_slicing)]
        &mut self.0[place]
    }

    /// Writes what still matters.
    fn write(self, value: &mut Vec<u8>, fingerprint: u64, now: Monotonic) {
        for entry in self.0 {
            let is_idle = entry.counted.window.is_idle(&kept_for(entry.counted.window_seconds), now);
            let share = entry.share.filter(|share| share.matters(now));
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

    /// What this Envoy may give.
    fn limit(&self, rule: &LimitRule, now: Monotonic) -> Limit {
        if rule.global { Limit { permits: self.permits(rule, now), ..rule.limit } } else { rule.limit }
    }

    fn permits(&self, rule: &LimitRule, now: Monotonic) -> u32 {
        self.share.as_ref().map_or(0, |share| share.permits(now)).min(rule.limit.permits)
    }

    fn with_share(&self, verdict: Verdict, rule: &LimitRule, now: Monotonic) -> Verdict {
        let is_short = rule.global && self.permits(rule, now) < rule.limit.permits;
        // A share that holds nothing can't say when it will.
        let wait_ms = if is_short && !verdict.admitted { 1000 } else { 0 };
        let verdict = Verdict { reset_ms: verdict.reset_ms.max(wait_ms), ..verdict };
        let ends_soon = rule.global && self.share.is_some_and(|share| share.ends_soon(now));
        Verdict { is_short, ends_soon, ..verdict }
    }
}

/// The number of permits decides nothing while a window is only kept.
fn kept_for(window_seconds: u32) -> Limit {
    Limit { permits: 1, window_seconds }
}

/// Reads a slot: the bytes of the other keys' windows that still matter, and this key's windows.
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
            || share.is_some_and(|share| share.matters(now))
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
    // Cells further back have left the window: its length is `CELLS` of them, and one more is partly in it.
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
