//! The change feed.

use super::handle::Store;
use super::newest::bounds;
use super::sql::{Connection, Result, params};
use crate::transaction::{Rows, Unavailable};
use protocol::filter::Change;

/// How many changes the feed keeps. A filter that missed more reloads everything.
const CHANGES_KEPT: u64 = 10_000;

/// A part of the change feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesKept {
    /// The position up to which changes are no longer kept.
    pub floor: u64,
    /// The newest position.
    pub newest: u64,
    /// Position and change, oldest first.
    pub changes: Vec<(u64, Change)>,
}

/// Writes changes. Returns the newest position if there were any.
pub(super) fn save(connection: &Connection, rows: &Rows) -> Result<Option<u64>> {
    if rows.changes.is_empty() {
        return Ok(None);
    }
    let (_, mut newest) = bounds(connection)?;
    for (change, at) in &rows.changes {
        newest = newest.saturating_add(1);
        let insert = "INSERT INTO changes (position, at, change) VALUES (?, ?, ?)";
        connection.execute(insert, &params![newest, at, change])?;
    }
    let forgotten = newest.saturating_sub(CHANGES_KEPT);
    connection.execute("DELETE FROM changes WHERE position <= ?", &params![forgotten])?;
    connection.notify_changed()?;
    Ok(Some(newest))
}

impl Store {
    /// Changes after a position, oldest first, at most `limit`.
    pub async fn changes(&self, after: u64, limit: u32) -> std::result::Result<ChangesKept, Unavailable> {
        let kept = move |connection: &Connection| {
            // Bounds and rows must come from the same snapshot.
            connection.snapshot(|snapshot| {
                let (floor, newest) = bounds(snapshot)?;
                let select =
                    "SELECT position, change FROM changes WHERE position > ? ORDER BY position LIMIT ?";
                let read = |row: &super::sql::Row<'_>| Ok((row.get(0)?, row.get(1)?));
                let changes = snapshot.all(select, &params![after, limit], read)?;
                Ok(ChangesKept { floor, newest, changes })
            })
        };
        self.filters.read(kept).await
    }
}
