//! The sliding window: `(state, limit, now, ask) -> (state, verdict)`.
//!
//! A window is divided into [`CELLS`] cells and counts permits by cell. Two rules hold for all arrival times: no interval as
//! long as the window ever contains more than `permits` admissions, and no request is refused while an interval one cell
//! longer than the window has room. Time comes from a monotonic clock in milliseconds, so that setting the wall clock
//! neither opens nor closes a window.
//!
//! [`slot`] packs the windows of many keys into one value of shared data.

mod fleet;
pub mod owners;
pub mod share;
mod share_state;
pub mod slot;

pub use fleet::{FEED_WAIT_MS_MAX, Fleet};
use protocol::key::Limit;

/// The number of cells of a window. A full window opens again at most 1/64 of its length late.
pub const CELLS: u64 = 64;

/// Milliseconds of a clock that never jumps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(pub u64);

/// A window's live state: how many permits each cell gave. The oldest cell is first; no cell occurs twice or is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    cells: Vec<(u64, u32)>,
}

/// How a window answers one ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// There was a permit.
    pub admitted: bool,
    /// The permits that this Envoy may give within one window.
    pub permits: u32,
    /// The permits that are left now. For a global limit these are the permits that are left of this Envoy's share, and those
    /// that it may still ask for.
    pub remaining: u32,
    /// Milliseconds until at least one more permit is free than now; 0 if none is taken.
    pub reset_ms: u64,
    /// The limit is global, and this Envoy could get more of its permits from the ledger.
    pub can_grow: bool,
    /// The limit is global and the ledger has not answered for long, so this Envoy gives what `on_ledger_outage` says.
    pub is_unavailable: bool,
    /// The share of a global limit must be renewed soon.
    pub expires_soon: bool,
    /// The cell that holds the permit, if one was taken.
    pub cell: u64,
}

impl Window {
    /// Takes one permit if there is one.
    pub fn take(&mut self, limit: &Limit, now: Monotonic) -> Verdict {
        let now = self.advance(limit, now);
        let admitted = self.used() < limit.permits;
        let cell = now.0.checked_div(cell_ms(limit)).unwrap_or(0);
        if admitted {
            match self.cells.last_mut() {
                Some((newest, count)) if *newest == cell => *count = count.saturating_add(1),
                _ => self.cells.push((cell, 1)),
            }
        }
        Verdict { cell, ..self.verdict(limit, now, admitted) }
    }

    /// Removes one permit from the cell that holds it, unless it has left the window.
    pub fn give_back(&mut self, cell: u64) {
        if let Some((_, count)) = self.cells.iter_mut().find(|(own, _)| *own == cell) {
            *count = count.saturating_sub(1);
        }
        self.cells.retain(|(_, count)| *count > 0);
    }

    /// What [`Window::take`] would answer, without taking a permit.
    pub fn peek(&mut self, limit: &Limit, now: Monotonic) -> Verdict {
        let now = self.advance(limit, now);
        self.verdict(limit, now, self.used() < limit.permits)
    }

    /// True if the window can be dropped at `now`, because all its permits are old.
    pub fn is_idle(&self, limit: &Limit, now: Monotonic) -> bool {
        self.cells.last().is_none_or(|(cell, _)| leaves_at(*cell, limit) <= now.0)
    }

    /// Drops the cells that have left the window. Returns the time to count with: workers read the clock before they get to
    /// write, so a reading older than the newest cell is replaced by that cell's time.
    fn advance(&mut self, limit: &Limit, now: Monotonic) -> Monotonic {
        let newest_ms = self.cells.last().map_or(0, |(cell, _)| cell.saturating_mul(cell_ms(limit)));
        let now = Monotonic(now.0.max(newest_ms));
        self.cells.retain(|(cell, _)| leaves_at(*cell, limit) > now.0);
        now
    }

    /// The permits given within the window that ends at `now`.
    pub fn used_at(&mut self, limit: &Limit, now: Monotonic) -> u32 {
        self.advance(limit, now);
        self.used()
    }

    fn used(&self) -> u32 {
        self.cells.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    fn verdict(&self, limit: &Limit, now: Monotonic, admitted: bool) -> Verdict {
        // If the limit was lowered below what the window holds, a permit becomes free only when enough cells have left.
        let mut excess = self.used().saturating_sub(limit.permits.saturating_sub(1)).max(1);
        let mut reset_ms = 0;
        for (cell, count) in &self.cells {
            reset_ms = leaves_at(*cell, limit).saturating_sub(now.0);
            excess = excess.saturating_sub(*count);
            if excess == 0 {
                break;
            }
        }
        let remaining = limit.permits.saturating_sub(self.used());
        Verdict { admitted, permits: limit.permits, remaining, reset_ms, ..Verdict::default() }
    }
}

fn cell_ms(limit: &Limit) -> u64 {
    u64::from(limit.window_seconds).saturating_mul(1000).div_ceil(CELLS).max(1)
}

/// When the last permit that the cell can have given is one window old.
fn leaves_at(cell: u64, limit: &Limit) -> u64 {
    cell.saturating_add(1)
        .saturating_mul(cell_ms(limit))
        .saturating_add(u64::from(limit.window_seconds).saturating_mul(1000))
}

#[cfg(test)]
mod tests;
