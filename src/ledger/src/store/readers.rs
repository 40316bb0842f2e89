//! Read-only connections, so that reads and the writer never wait for each other. Filters, operators and reports have
//! separate connections, so that expensive reads delay only each other.

use super::sql::{self, Connection, Purpose};
use crate::store::database::Database;
use crate::transaction::Unavailable;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tracing::error;

/// The niceness of report threads, so that reads for filters go first.
#[cfg(target_os = "linux")]
const REPORT_NICENESS: i32 = 5;

/// Who a connection reads for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Filters: calls wait for these reads.
    Filters,
    /// Operators: single rows and pages of lists.
    Operators,
    /// Sums and searches over many rows.
    Reports,
}

impl Lane {
    /// How long a read waits for a connection.
    const fn wait_timeout(self) -> Duration {
        Duration::from_secs(if matches!(self, Lane::Reports) { 14 } else { 5 })
    }

    /// The timeout of each statement. Together with the wait it is less than a request's deadline.
    const fn statement_timeout(self) -> Duration {
        Duration::from_secs(if matches!(self, Lane::Reports) { 15 } else { 5 })
    }
}

/// Idle connections, and a bound on those in use.
pub(super) struct Readers {
    lane: Lane,
    database: Database,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(database: &Database, lane: Lane, connections: u16) -> Readers {
        let permits = Arc::new(Semaphore::new(connections.into()));
        Readers { lane, database: database.clone(), idle: Arc::default(), permits }
    }

    /// Runs one read. A connection on which it failed is not used again. If an idle connection turns out to be lost, the
    /// read is retried once on a new one, so that callers do not notice a restart or a failover.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&Connection) -> sql::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let lane = self.lane;
        let permit = tokio::time::timeout(lane.wait_timeout(), Arc::clone(&self.permits).acquire_owned())
            .await
            .map_err(|_| if lane == Lane::Reports { Unavailable::ReportsWait } else { Unavailable::Busy })?
            .map_err(|_| Unavailable::Stopping)?;
        let (database, idle) = (self.database.clone(), Arc::clone(&self.idle));
        let work = move || {
            let _permit = permit;
            let idle_connections = || idle.lock().unwrap_or_else(PoisonError::into_inner);
            let ask = |mut connection: Connection| {
                match connection
                    .check_primary()
                    .and_then(|()| connection.with_timeout(lane.statement_timeout(), &read))
                {
                    Ok(answer) => {
                        idle_connections().push(connection);
                        Ok(answer)
                    }
                    Err(cause) => {
                        let is_usable = connection.is_usable();
                        if is_usable && cause.is_too_long() {
                            idle_connections().push(connection);
                        } else {
                            // The idle connections are probably lost too.
                            idle_connections().clear();
                        }
                        Err((cause, is_usable))
                    }
                }
            };
            if let Some(connection) = take_usable(&idle) {
                match ask(connection) {
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

    /// Runs blocking work. Reports get a new thread each, because a thread that lowered its priority can't raise it again.
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
            // The caller may have left.
            let _ = reply.send(work());
        });
        thread.map_err(|_| Unavailable::Busy)?;
        answer.await.map_err(|_| Unavailable::Stopping)
    }
}

/// Lowers this thread's priority, if the system allows it.
fn lower_priority() {
    // On Linux this affects only the calling thread.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, REPORT_NICENESS);
}

/// An idle connection that is not known to be lost.
fn take_usable(idle: &Mutex<Vec<Connection>>) -> Option<Connection> {
    let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
    std::iter::from_fn(|| idle.pop()).find(Connection::is_usable)
}
