//! The newest position of the change feed: from this process's own commits and, on a shared database, from notifications
//! of other ledgers.

use super::sql::{self, Connection, Purpose};
use crate::store::database::Database;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{info, warn};

/// How often the feed is read without a notification: one can be lost with its connection.
const POLL_EVERY: Duration = Duration::from_millis(500);
/// How long to wait after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The position up to which changes are no longer kept, and the newest.
pub(super) fn bounds(connection: &Connection) -> sql::Result<(u64, u64)> {
    let bounds = "SELECT coalesce(min(position) - 1, (SELECT base FROM feed)), \
                  coalesce(max(position), (SELECT base FROM feed)) FROM changes";
    let bounds = connection.first(bounds, &[], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(bounds.unwrap_or_default())
}

/// The newest position, which only increases.
pub(super) struct Newest(watch::Sender<u64>);

impl Newest {
    pub(super) fn new(position: u64) -> Newest {
        Newest(watch::Sender::new(position))
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    /// Raises the position to at least this one.
    pub(super) fn raise_to(&self, position: u64) {
        self.0.send_if_modified(|known| {
            let is_newer = position > *known;
            if is_newer {
                *known = position;
            }
            is_newer
        });
    }
}

/// The thread that receives other processes' changes.
pub(super) struct Listener {
    stopping: Arc<AtomicBool>,
    failing: Arc<AtomicBool>,
}

impl Listener {
    pub(super) fn spawn(
        database: &Database,
        newest: Arc<Newest>,
    ) -> std::io::Result<(Listener, JoinHandle<()>)> {
        let stopping = Arc::new(AtomicBool::new(false));
        let failing = Arc::new(AtomicBool::new(false));
        let (database, stop, failed) = (database.clone(), Arc::clone(&stopping), Arc::clone(&failing));
        let thread = std::thread::Builder::new().name("ledger-listener".to_owned()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Err(cause) = listen(&database, &newest, &stop, &failed) else { return };
                if !failed.swap(true, Ordering::Relaxed) {
                    warn!(%cause, "changes of other ledgers can't be received; trying again");
                }
                std::thread::sleep(RETRY_AFTER);
            }
        })?;
        Ok((Listener { stopping, failing }, thread))
    }

    /// True while changes of other ledgers can't be received.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(database: &Database, newest: &Newest, stop: &AtomicBool, failing: &AtomicBool) -> sql::Result<()> {
    let connection = Connection::open(database, Purpose::Read)?;
    let mut wait = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        // Listens before it reads, so that no change is missed in between.
        connection.wait_for_notification(wait)?;
        // Detects a server that stopped answering or became a standby.
        connection.check_primary()?;
        let (_, position) = bounds(&connection)?;
        newest.raise_to(position);
        wait = POLL_EVERY;
        if failing.swap(false, Ordering::Relaxed) {
            info!("changes of other ledgers are received again");
        }
    }
    Ok(())
}
