//! The sliding window: `(state, limit, now, ask) -> (state, verdict)`.
//!
//! A window is cut into [`CELLS`] cells and counts permits by cell. Two laws hold whatever the arrival times are:
//! no interval as long as the window ever holds more than `permits` admissions; and no request is refused while
//! such an interval, one cell wider, has room. Time is a monotonic reading in milliseconds, so that a stepped clock
//! can neither open nor close a window.
//!
//! [`slot`] packs the windows of many keys into one value of shared data.

pub mod share;
mod share_state;
pub mod slot;

use protocol::key::Limit;

/// Cells of one window: a full window opens again at most 1/64 of its length late.
pub const CELLS: u64 = 64;

/// Milliseconds of a clock that never steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Monotonic(pub u64);

/// A window's live state: how many permits each cell gave, oldest first, no cell twice, none empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    cells: Vec<(u64, u32)>,
}

/// What a window says to one ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// A permit was there.
    pub admitted: bool,
    /// Permits that this Envoy may give in any window.
    pub permits: u32,
    /// Permits left now.
    pub remaining: u32,
    /// Milliseconds until at least one permit more is there than now; 0 if none is out.
    pub reset_ms: u64,
    /// The limit is global, and others may have permits of it that this Envoy could have.
    pub is_short: bool,
    /// The share of a global limit must be renewed.
    pub ends_soon: bool,
}

impl Window {
    /// Asks for one permit and takes it if there is one.
    pub fn take(&mut self, limit: &Limit, now: Monotonic) -> Verdict {
        let now = self.advance(limit, now);
        let admitted = self.used() < limit.permits;
        if admitted {
            let cell = now.0.checked_div(cell_ms(limit)).unwrap_or(0);
            match self.cells.last_mut() {
                Some((newest, count)) if *newest == cell => *count = count.saturating_add(1),
                _ => self.cells.push((cell, 1)),
            }
        }
        self.verdict(limit, now, admitted)
    }

    /// What [`Window::take`] would say, taking nothing.
    pub fn peek(&mut self, limit: &Limit, now: Monotonic) -> Verdict {
        let now = self.advance(limit, now);
        self.verdict(limit, now, self.used() < limit.permits)
    }

    /// True if nothing of the window matters any more at `now`.
    pub fn is_idle(&self, limit: &Limit, now: Monotonic) -> bool {
        self.cells.last().is_none_or(|(cell, _)| leaves_at(*cell, limit) <= now.0)
    }

    /// Forgets the cells that have left the window. Returns the time to count with: workers read the clock at
    /// different moments before they get to write, and a reading older than the newest cell is taken as that cell's.
    fn advance(&mut self, limit: &Limit, now: Monotonic) -> Monotonic {
        let newest_ms = self.cells.last().map_or(0, |(cell, _)| cell.saturating_mul(cell_ms(limit)));
        let now = Monotonic(now.0.max(newest_ms));
        self.cells.retain(|(cell, _)| leaves_at(*cell, limit) > now.0);
        now
    }

    /// Permits given within the window that ends at `now`.
    pub fn used_at(&mut self, limit: &Limit, now: Monotonic) -> u32 {
        self.advance(limit, now);
        self.used()
    }

    fn used(&self) -> u32 {
        self.cells.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    fn verdict(&self, limit: &Limit, now: Monotonic, admitted: bool) -> Verdict {
        // If the limit was lowered while its window was fuller than the new one allows, one permit is free only when
        // enough cells have left.
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

/// When the last permit that the cell can have given is a whole window old.
fn leaves_at(cell: u64, limit: &Limit) -> u64 {
    cell.saturating_add(1)
        .saturating_mul(cell_ms(limit))
        .saturating_add(u64::from(limit.window_seconds).saturating_mul(1000))
}

#[cfg(test)]
mod tests;
