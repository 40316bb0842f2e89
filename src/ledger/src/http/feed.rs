//! The change feed: the changes of keys and policy that filters must know, in order, over restarts of the ledger.
//!
//! Positions only grow. A filter that asks for a position that is no longer kept, or for one that was never reached (the
//! database was replaced), is told to start over.

use crate::limits::fleet::{self, See};
use crate::moment;
use crate::store::Store;
use crate::transaction::Unavailable;
use protocol::InstanceId;
use protocol::filter::Changes;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

/// The longest that a request is held open.
pub const WAIT_MAX: Duration = Duration::from_secs(25);
/// At most so many changes in one answer. A filter that got so many asks again at once.
const CHANGES_MAX: u32 = 1000;

/// How often the time is written at which an Envoy last asked.
const NOTE_EVERY: Duration = Duration::from_secs(10);

/// What is asked of the feed.
pub struct Ask {
    /// The run of the Envoy that asks.
    pub instance: Option<InstanceId>,
    /// Answer with the changes after this position; without it, at once with the newest position.
    pub after: Option<u64>,
    /// How long to wait for a change.
    pub wait: Duration,
}

/// The Envoys that this process noted lately, so that few calls to the feed cost a write.
#[derive(Debug, Default)]
pub struct Noted(Mutex<HashMap<InstanceId, Instant>>);

impl Noted {
    /// Notes in the database that the Envoy asks.
    async fn note(&self, store: &Store, instance: InstanceId) {
        {
            let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            noted.retain(|_, at| at.elapsed() < NOTE_EVERY);
            if noted.contains_key(&instance) {
                return;
            }
            noted.insert(instance, Instant::now());
        }
        // A database that takes no writes still tells what it knows of revoked keys.
        if let Err(error) = store.run(See { instance, now: moment::now() }).await {
            debug!(%error, "an Envoy that follows the change feed was not noted");
        }
    }
}

/// Answers as soon as there is a change, when the wait is over, or when the ledger stops.
pub async fn answer(
    store: &Store,
    noted: &Noted,
    ask: Ask,
    stopping: watch::Receiver<bool>,
) -> Result<Changes, Unavailable> {
    if let Some(instance) = ask.instance {
        noted.note(store, instance).await;
    }
    let changes = after(store, ask.after, ask.wait, stopping).await?;
    let envoys = store.envoys_seen(fleet::counted_since(moment::now())).await?;
    Ok(Changes { envoys, ..changes })
}

async fn after(
    store: &Store,
    after: Option<u64>,
    wait: Duration,
    mut stopping: watch::Receiver<bool>,
) -> Result<Changes, Unavailable> {
    let answer = |next, reset, changes| Changes { next, reset, envoys: 0, changes };
    let mut newest = store.newest_change();
    let Some(after) = after else {
        let next = *newest.borrow();
        return Ok(answer(next, false, Vec::new()));
    };
    let deadline = Instant::now().checked_add(wait.min(WAIT_MAX)).unwrap_or_else(Instant::now);
    loop {
        // Marked as seen before the read, so that a change during the read ends the wait below.
        let known = *newest.borrow_and_update();
        if known != after {
            let kept = store.changes(after, CHANGES_MAX).await?;
            if after < kept.floor || after > kept.newest {
                return Ok(answer(kept.newest, true, Vec::new()));
            }
            if let Some((next, _)) = kept.changes.last() {
                let next = *next;
                let changes = kept.changes.into_iter().map(|(_, change)| change).collect();
                return Ok(answer(next, false, changes));
            }
        }
        let nothing = answer(after, false, Vec::new());
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
