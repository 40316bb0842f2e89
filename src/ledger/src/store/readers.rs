//! Read-only connections, so that a read never waits for the writer, nor the writer for a read. Filters, operators and
//! reports each have their own, so that who asks for much waits for others who do, and nobody else does.

use super::sql::{self, Connection, Purpose};
use crate::store::database::Database;
use crate::transaction::Unavailable;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tracing::error;

/// How much less of the processors a report gets than what filters ask, where it runs in this process.
#[cfg(target_os = "linux")]
const REPORT_NICENESS: i32 = 5;

/// For whom connections read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Filters: what a call waits for.
    Filters,
    /// Operators: single things and pages of lists.
    Operators,
    /// Sums and searches over many rows.
    Reports,
}

impl Lane {
    /// How long a read waits for its turn.
    const fn turn_timeout(self) -> Duration {
        Duration::from_secs(if matches!(self, Lane::Reports) { 14 } else { 5 })
    }

    /// How long each of its statements may take. With the wait it is less than a request's deadline.
    const fn time(self) -> Duration {
        Duration::from_secs(if matches!(self, Lane::Reports) { 15 } else { 5 })
    }
}

/// The connections that are at rest, and how many may be in use.
pub(super) struct Readers {
    lane: Lane,
    database: Database,
    at_rest: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(database: &Database, lane: Lane, connections: u16) -> Readers {
        let turns = Arc::new(Semaphore::new(connections.into()));
        Readers { lane, database: database.clone(), at_rest: Arc::default(), turns }
    }

    /// Runs one read. A connection on which it failed is not used again. If that was one that rested and that does not
    /// lead to the database that takes writes any more, the read runs once more on a new one: the first asker after a
    /// restart or a failover need not know of it.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let lane = self.lane;
        let turn = tokio::time::timeout(lane.turn_timeout(), Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| if lane == Lane::Reports { Unavailable::ReportsWait } else { Unavailable::Busy })?
            .map_err(|_| Unavailable::Stopping)?;
        let (database, at_rest) = (self.database.clone(), Arc::clone(&self.at_rest));
        let work = move || {
            let _turn = turn;
            let resting = || at_rest.lock().unwrap_or_else(PoisonError::into_inner);
            let ask = |mut connection: Connection| {
                match connection.look().and_then(|()| connection.within(lane.time(), &read)) {
                    Ok(answer) => {
                        resting().push(connection);
                        Ok(answer)
                    }
                    Err(cause) => {
                        let is_usable = connection.is_usable();
                        if is_usable && cause.is_too_long() {
                            resting().push(connection);
                        } else {
                            // What broke this connection broke those that rest, which nobody notices before they are used.
                            resting().clear();
                        }
                        Err((cause, is_usable))
                    }
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
        };
        match self.run(work).await? {
            Ok(answer) => Ok(answer),
            Err(cause) if cause.is_too_long() && lane == Lane::Reports => Err(Unavailable::ReportTooLong),
            Err(cause) => {
                error!(%cause, "a read of the database failed");
                Err(Unavailable::Failed)
            }
        }
    }

    /// Where it may block. Reports have threads of their own: a thread can lower its priority, and not raise it again.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        if self.lane != Lane::Reports {
            return tokio::task::spawn_blocking(work).await.map_err(|_| Unavailable::Stopping);
        }
        let (reply, answer) = oneshot::channel();
        let thread = std::thread::Builder::new().name("ledger-report".to_owned()).spawn(move || {
            lower_priority();
            // An asker that has gone away does not need it.
            let _ = reply.send(work());
        });
        thread.map_err(|_| Unavailable::Busy)?;
        answer.await.map_err(|_| Unavailable::Stopping)
    }
}

/// Lets every other thread go first. Where the system refuses it, a report is what it was without.
fn lower_priority() {
    // On Linux this is the thread's alone.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, REPORT_NICENESS);
}

/// One that rested, leaving out those that are known to lead nowhere by now.
fn take_usable(at_rest: &Mutex<Vec<Connection>>) -> Option<Connection> {
    let mut at_rest = at_rest.lock().unwrap_or_else(PoisonError::into_inner);
    std::iter::from_fn(|| at_rest.pop()).find(Connection::is_usable)
}
