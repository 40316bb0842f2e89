//! Read-only connections, so that a read never waits for the writer, nor the writer for a read.

use super::BUSY_TIMEOUT;
use crate::store::Unavailable;
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::error;

/// How many reads run at once.
const READERS: usize = 4;
/// How long a read waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(5);

/// The connections that are at rest, and how many may be in use.
pub(super) struct Readers {
    path: PathBuf,
    at_rest: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Readers {
        Readers { path: path.to_owned(), at_rest: Arc::default(), turns: Arc::new(Semaphore::new(READERS)) }
    }

    /// Runs one read. A connection on which it failed is not used again.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| Unavailable::Busy)?
            .map_err(|_| Unavailable::Stopping)?;
        let (path, at_rest) = (self.path.clone(), Arc::clone(&self.at_rest));
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let rested = at_rest.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = rested.map_or_else(|| open(&path), Ok)?;
            let answer = read(&connection)?;
            at_rest.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Ok::<T, rusqlite::Error>(answer)
        });
        match done.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(cause)) => {
                error!(%cause, "a read of the database failed");
                Err(Unavailable::Failed)
            }
            Err(_) => Err(Unavailable::Stopping),
        }
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}
