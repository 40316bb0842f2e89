//! Read-only connections, so that a read never waits for the writer, nor the writer for a read.

use super::sql::{self, Connection, Purpose};
use crate::database::Database;
use crate::store::Unavailable;
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
    database: Database,
    at_rest: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(database: &Database) -> Readers {
        let turns = Arc::new(Semaphore::new(READERS));
        Readers { database: database.clone(), at_rest: Arc::default(), turns }
    }

    /// Runs one read. A connection on which it failed is not used again. If that was one that rested and that the
    /// server has closed meanwhile, the read runs once more on a new one: the first asker after a restart of the
    /// database need not know of it.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| Unavailable::Busy)?
            .map_err(|_| Unavailable::Stopping)?;
        let (database, at_rest) = (self.database.clone(), Arc::clone(&self.at_rest));
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let resting = || at_rest.lock().unwrap_or_else(PoisonError::into_inner);
            let ask = |connection: Connection| match read(&connection) {
                Ok(answer) => {
                    resting().push(connection);
                    Ok(answer)
                }
                Err(cause) => {
                    // What broke this connection broke those that rest, which nobody notices before they are used.
                    resting().clear();
                    Err((cause, connection.is_usable()))
                }
            };
            if let Some(rested) = take_usable(&at_rest) {
                match ask(rested) {
                    Ok(answer) => return Ok(answer),
                    Err((cause, true)) => return Err(cause),
                    Err((_, false)) => {}
                }
            }
            ask(Connection::open(&database, Purpose::Read)?).map_err(|(cause, _)| cause)
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

/// One that rested, leaving out those that the server has closed meanwhile.
fn take_usable(at_rest: &Mutex<Vec<Connection>>) -> Option<Connection> {
    // Each is asked while others may take theirs: a server that hangs is slow to answer.
    let next = || at_rest.lock().unwrap_or_else(PoisonError::into_inner).pop();
    std::iter::from_fn(next).find(Connection::is_usable)
}
