//! How far the change feed is, as soon as it is known here: from this process's own commits, and where the database is
//! shared, from what other ledgers say.

use super::sql::{self, Connection, Purpose};
use crate::store::database::Database;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{info, warn};

/// A word can be lost with a connection, so the feed is looked at as often as this in any case.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long to wait before the database is asked again after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The position up to which changes are no longer kept, and the newest.
pub(super) fn bounds(connection: &Connection) -> sql::Result<(u64, u64)> {
    let bounds = "SELECT coalesce(min(position) - 1, (SELECT base FROM feed)), \
                  coalesce(max(position), (SELECT base FROM feed)) FROM changes";
    let bounds = connection.first(bounds, &[], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(bounds.unwrap_or_default())
}

/// The newest position, which only grows.
pub(super) struct Newest(watch::Sender<u64>);

impl Newest {
    pub(super) fn new(position: u64) -> Newest {
        Newest(watch::Sender::new(position))
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    /// The feed is there, or further.
    pub(super) fn reached(&self, position: u64) {
        self.0.send_if_modified(|known| {
            let grown = position > *known;
            if grown {
                *known = position;
            }
            grown
        });
    }
}

/// The thread that hears of other processes' changes.
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
                    warn!(%cause, "changes of other ledgers are not heard; trying again");
                }
                std::thread::sleep(RETRY_AFTER);
            }
        })?;
        Ok((Listener { stopping, failing }, thread))
    }

    /// Changes of other ledgers are not heard now.
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
        // It listens before it looks, so that no change falls between the two.
        connection.wait_for_news(wait)?;
        // The first to notice a server that has stopped answering, or became a standby.
        connection.look()?;
        let (_, position) = bounds(&connection)?;
        newest.reached(position);
        wait = LOOK_EVERY;
        if failing.swap(false, Ordering::Relaxed) {
            info!("changes of other ledgers are heard again");
        }
    }
    Ok(())
}
