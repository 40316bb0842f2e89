//! The change feed: the changes of keys and policy that filters must know, in order, over restarts of the ledger.
//!
//! Positions only grow. A filter that asks for a position that is no longer kept, or for one that was never reached (the
//! database was replaced), is told to start over.

use crate::store::Store;
use crate::transaction::Unavailable;
use protocol::filter::Changes;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// The longest that a request is held open.
pub const WAIT_MAX: Duration = Duration::from_secs(25);
/// At most so many changes in one answer. A filter that got so many asks again at once.
const CHANGES_MAX: u32 = 1000;

/// Answers as soon as there is a change after `after`, when the wait is over, or when the ledger stops. Without `after` it
/// answers at once with the newest position.
pub async fn after(
    store: &Store,
    after: Option<u64>,
    wait: Duration,
    mut stopping: watch::Receiver<bool>,
) -> Result<Changes, Unavailable> {
    let mut newest = store.newest_change();
    let Some(after) = after else {
        let next = *newest.borrow();
        return Ok(Changes { next, reset: false, changes: Vec::new() });
    };
    let deadline = Instant::now().checked_add(wait.min(WAIT_MAX)).unwrap_or_else(Instant::now);
    loop {
        // Marked as seen before the read, so that a change during the read ends the wait below.
        let known = *newest.borrow_and_update();
        if known != after {
            let kept = store.changes(after, CHANGES_MAX).await?;
            if after < kept.floor || after > kept.newest {
                return Ok(Changes { next: kept.newest, reset: true, changes: Vec::new() });
            }
            if let Some((next, _)) = kept.changes.last() {
                let next = *next;
                let changes = kept.changes.into_iter().map(|(_, change)| change).collect();
                return Ok(Changes { next, reset: false, changes });
            }
        }
        let nothing = Changes { next: after, reset: false, changes: Vec::new() };
        tokio::select! {
            changed = timeout_at(deadline, newest.changed()) => match changed {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Unavailable::Stopping),
                Err(_) => return Ok(nothing),
            },
            _ = stopping.wait_for(|stopping| *stopping) => return Ok(nothing),
        }
    }
}
