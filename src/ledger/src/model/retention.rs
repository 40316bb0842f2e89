//! What is remembered of removals by age.

use protocol::Timestamp;

/// What is known when a pass begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionState {
    /// How far the clock had come when it was last believed.
    pub clock: Option<Timestamp>,
    /// Before which day the last pass removed.
    pub removed_before: Option<Timestamp>,
    /// When the newest row of the trail was written.
    pub newest_row: Option<Timestamp>,
}
