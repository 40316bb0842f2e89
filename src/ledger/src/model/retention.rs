//! The state of retention.

use protocol::Timestamp;

/// What a pass compares the clock with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionState {
    /// The clock when a pass last trusted it.
    pub clock: Option<Timestamp>,
    /// The last pass removed rows that were sealed before this day.
    pub removed_before: Option<Timestamp>,
    /// When the newest row of the trail was written.
    pub newest_row: Option<Timestamp>,
}
