//! Many keys' windows in one value of shared data.
//!
//! Shared data can't be deleted from wasm and has one lock, so the number of values is fixed: a key's windows live in
//! the slot that its fingerprint picks, all together, and one compare-and-swap decides a request. Whoever writes a
//! slot drops the windows in it that have gone idle: memory follows the keys active within a window, not all keys
//! ever seen.
//!
//! Layout, little endian, entry after entry: fingerprint u64, limit id u32, window_seconds u32, newest cell u64,
//! number of cells u8, then for each cell, newest first, its distance from the newest u8 and its count u24.

use super::{CELLS, Monotonic, Verdict, Window};
use crate::rules::LimitRule;
use protocol::key::Limit;
use std::num::NonZeroU64;

/// Number of slots. Fixed, so that an Envoy's shared data is bounded.
pub const SLOTS: NonZeroU64 = NonZeroU64::new(16_384).unwrap();

/// Name of the value that holds a key's windows. The number is the layout's version.
pub fn name(fingerprint: u64) -> String {
    format!("agentrelay/window/1/{}", fingerprint % SLOTS)
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
    /// Limits of the key.
    Key,
    /// Limits of the key on the tool.
    Tool,
}

/// The value can't be read as a slot. Someone else wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

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
    let mut verdicts = vec![Verdict { admitted: false, remaining: 0, reset_ms: 0 }; asks.len()];
    let mut refused = false;
    for stage in [Stage::Key, Stage::Tool] {
        let of_stage = || asks.iter().enumerate().filter(move |(_, ask)| ask.stage == stage);
        refused = refused
            || of_stage()
                .any(|(_, ask)| ask.enforced && !window(&mut own, ask).peek(&ask.rule.limit, now).admitted);
        for (index, ask) in of_stage() {
            let window = window(&mut own, ask);
            let verdict =
                if refused { window.peek(&ask.rule.limit, now) } else { window.take(&ask.rule.limit, now) };
            if let Some(place) = verdicts.get_mut(index) {
                *place = verdict;
            }
        }
    }
    for (id, limit, window) in own {
        if !window.is_idle(&limit, now) {
            write(&mut next, fingerprint, id, &limit, &window);
        }
    }
    Ok((next, verdicts))
}

/// What [`take`] would answer if nothing were taken.
pub fn peek(value: &[u8], fingerprint: u64, asks: &[Ask], now: Monotonic) -> Result<Vec<Verdict>, Corrupt> {
    let (_, mut own) = split(value, fingerprint, now)?;
    Ok(asks.iter().map(|ask| window(&mut own, ask).peek(&ask.rule.limit, now)).collect())
}

type Own = Vec<(u32, Limit, Window)>;

fn window<'o>(own: &'o mut Own, ask: &Ask) -> &'o mut Window {
    let place = own.iter().position(|(id, limit, _)| {
        *id == ask.rule.id && limit.window_seconds == ask.rule.limit.window_seconds
    });
    let index = place.unwrap_or_else(|| {
        own.push((ask.rule.id, ask.rule.limit, Window::default()));
        own.len().saturating_sub(1)
    });
    // `index` is in bounds: found above or just pushed.
    #[allow(clippy::indexing_slicing)]
    &mut own[index].2
}

/// Reads a slot: the bytes of the other keys' windows that still matter, and this key's windows.
fn split(value: &[u8], fingerprint: u64, now: Monotonic) -> Result<(Vec<u8>, Own), Corrupt> {
    let mut others = Vec::with_capacity(value.len().saturating_add(64));
    let mut own = Own::new();
    let mut rest = value;
    while !rest.is_empty() {
        let entry = rest;
        let owner = u64::from_le_bytes(chunk(&mut rest)?);
        let id = u32::from_le_bytes(chunk(&mut rest)?);
        let window_seconds = u32::from_le_bytes(chunk(&mut rest)?);
        let newest = u64::from_le_bytes(chunk(&mut rest)?);
        let [count] = chunk(&mut rest)?;
        let cells = usize::from(count).checked_mul(4).ok_or(Corrupt)?;
        let (cells, after) = rest.split_at_checked(cells).ok_or(Corrupt)?;
        rest = after;
        // The number of permits decides nothing while a window is only kept.
        let limit = Limit { permits: 1, window_seconds };
        if owner == fingerprint {
            own.push((id, limit, read_cells(newest, cells)?));
        } else if super::leaves_at(newest, &limit) > now.0 {
            let length = entry.len().checked_sub(rest.len()).ok_or(Corrupt)?;
            others.extend_from_slice(entry.get(..length).ok_or(Corrupt)?);
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

fn write(value: &mut Vec<u8>, fingerprint: u64, id: u32, limit: &Limit, window: &Window) {
    let Some((newest, _)) = window.cells.last() else { return };
    // Cells further back have left the window: its length is `CELLS` of them, and one more is partly in it.
    let kept = window.cells.iter().rev().filter_map(|(cell, count)| {
        let distance = newest.checked_sub(*cell).filter(|distance| *distance <= CELLS.saturating_add(1))?;
        let [a, b, c, _] = count.to_le_bytes();
        Some([u8::try_from(distance).ok()?, a, b, c])
    });
    let cells: Vec<[u8; 4]> = kept.collect();
    value.extend_from_slice(&fingerprint.to_le_bytes());
    value.extend_from_slice(&id.to_le_bytes());
    value.extend_from_slice(&limit.window_seconds.to_le_bytes());
    value.extend_from_slice(&newest.to_le_bytes());
    value.push(u8::try_from(cells.len()).unwrap_or(u8::MAX));
    value.extend(cells.iter().flatten());
}

fn chunk<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Corrupt> {
    let (chunk, after) = rest.split_first_chunk::<N>().ok_or(Corrupt)?;
    *rest = after;
    Ok(*chunk)
}
