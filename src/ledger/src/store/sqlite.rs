//! The embedded database: one SQLite file in WAL mode, every commit fsynced (`synchronous=FULL`).
//!
//! One thread writes ([`writer`]), a few connections read ([`readers`]). Nothing here decides anything: rows go in and
//! out, the rules are the crate's.

mod load;
mod queries;
mod read;
mod readers;
mod save;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

pub use writer::Committed;

use super::{
    AuditFilter, ChangesKept, KeyFilter, Operation, Queued, Reading, Refusal, Store, Unavailable, UsageQuery,
    Work,
};
use crate::credentials::ServiceCredential;
use crate::metrics::Metrics;
use crate::{book, keys, tenants};
use protocol::admin::{AuditRow, UsageRow};
use protocol::api_key::KeyHash;
use protocol::{KeyId, TenantId};
use readers::Readers;
use rusqlite::{Connection, OpenFlags};
use schema::Version;
use serde_json::value::RawValue;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How many writes may wait. At a few thousand a second this is about a second of them.
const QUEUE_MAX: usize = 4096;
/// How long a connection waits for another process's lock before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// After so many pages the write-ahead log goes back into the file: 16 MiB.
const WAL_PAGES: u32 = 4096;

/// Why a database can't be opened.
#[derive(Debug)]
pub enum OpenError {
    /// There is nothing, or nothing of ours, in it.
    NotInitialised,
    /// A newer program wrote it.
    TooNew,
    /// SQLite says no.
    Failed(rusqlite::Error),
    /// The operating system says no.
    Io(std::io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::NotInitialised => f.write_str("it is not initialised; run `agentrelay init` first"),
            OpenError::TooNew => f.write_str("a newer release wrote it; use that release or a newer one"),
            OpenError::Failed(cause) => write!(f, "{cause}"),
            OpenError::Io(cause) => write!(f, "{cause}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Failed(cause) => Some(cause),
            OpenError::Io(cause) => Some(cause),
            OpenError::NotInitialised | OpenError::TooNew => None,
        }
    }
}

impl From<rusqlite::Error> for OpenError {
    fn from(cause: rusqlite::Error) -> OpenError {
        OpenError::Failed(cause)
    }
}

/// The database.
pub struct Sqlite {
    queue: Mutex<Option<mpsc::Sender<Box<dyn Work>>>>,
    newest_change: watch::Receiver<u64>,
    readers: Readers,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Sqlite {
    /// Opens an initialised database, bringing an older one up to date.
    pub fn open(path: &Path, metrics: Arc<Metrics>) -> Result<Sqlite, OpenError> {
        if !path.exists() {
            return Err(OpenError::NotInitialised);
        }
        let mut connection = connect(path)?;
        match schema::version(&connection)? {
            Version::Empty => return Err(OpenError::NotInitialised),
            Version::Newer => return Err(OpenError::TooNew),
            Version::Older => schema::migrate(&mut connection)?,
            Version::Current => {}
        }
        let (_, newest) = save::feed_bounds(&connection)?;
        let (change_sender, newest_change) = watch::channel(newest);
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let writer = writer::Writer::new(path, connection, waiting, change_sender, metrics);
        let writer = std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(|| writer.run())
            .map_err(OpenError::Io)?;
        Ok(Sqlite {
            queue: Mutex::new(Some(queue)),
            newest_change,
            readers: Readers::new(path),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Makes the file and its tables where there are none, and runs one operation in it.
    pub fn initialise<O: Operation>(
        path: &Path,
        operation: O,
    ) -> Result<Result<O::Answer, Refusal>, OpenError> {
        create_private(path).map_err(OpenError::Io)?;
        let mut connection = connect(path)?;
        if schema::version(&connection)? == Version::Newer {
            return Err(OpenError::TooNew);
        }
        schema::migrate(&mut connection)?;
        let (work, mut answer) = Queued::new(operation);
        let mut batch: [Box<dyn Work>; 1] = [work];
        writer::commit(&mut connection, &mut batch)?;
        let [work] = batch;
        work.answer(Ok(()));
        match answer.try_recv() {
            Ok(Ok(answer)) => Ok(Ok(answer)),
            Ok(Err(super::Error::Refused(refusal))) => Ok(Err(refusal)),
            Ok(Err(super::Error::Unavailable(cause))) => Err(OpenError::Io(std::io::Error::other(cause))),
            Err(cause) => Err(OpenError::Io(std::io::Error::other(cause))),
        }
    }

    /// Refuses new writes, finishes those that wait, and closes the file.
    pub async fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // It ends by itself once the queue is empty; a join that fails has nothing left to wait for.
            let _ = tokio::task::spawn_blocking(|| writer.join()).await;
        }
    }
}

/// Opens a connection that may write.
fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Makes an empty file that only its owner reads, unless there is one.
fn create_private(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

impl Store for Sqlite {
    fn submit(&self, work: Box<dyn Work>) -> Result<(), Unavailable> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queue.as_ref().ok_or(Unavailable::Stopping)?;
        queue.try_send(work).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Unavailable::Busy,
            mpsc::error::TrySendError::Closed(_) => Unavailable::Stopping,
        })
    }

    fn queue_depth(&self) -> usize {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.as_ref().map_or(0, |queue| queue.max_capacity().saturating_sub(queue.capacity()))
    }

    fn newest_change(&self) -> watch::Receiver<u64> {
        self.newest_change.clone()
    }

    fn ping(&self) -> Reading<'_, ()> {
        Box::pin(
            self.readers.read(|connection| connection.query_row("SELECT base FROM feed", [], |_| Ok(()))),
        )
    }

    fn service_credential(&self, hash: KeyHash) -> Reading<'_, Option<ServiceCredential>> {
        Box::pin(self.readers.read(move |connection| queries::service_credential(connection, &hash)))
    }

    fn key_by_hash(&self, hash: KeyHash) -> Reading<'_, Option<keys::Found>> {
        Box::pin(self.readers.read(move |connection| queries::key_by_hash(connection, &hash)))
    }

    fn key(&self, id: KeyId) -> Reading<'_, Option<keys::Listed>> {
        Box::pin(self.readers.read(move |connection| queries::key(connection, &id)))
    }

    fn keys(&self, filter: KeyFilter) -> Reading<'_, Vec<keys::Listed>> {
        Box::pin(self.readers.read(move |connection| queries::keys(connection, &filter)))
    }

    fn tenant(&self, id: TenantId) -> Reading<'_, Option<(tenants::Tenant, book::Accounts)>> {
        Box::pin(self.readers.read(move |connection| queries::tenant(connection, &id)))
    }

    fn tenants(
        &self,
        after: Option<TenantId>,
        limit: u32,
    ) -> Reading<'_, Vec<(tenants::Tenant, book::Accounts)>> {
        Box::pin(self.readers.read(move |connection| queries::tenants(connection, after.as_ref(), limit)))
    }

    fn audit(&self, filter: AuditFilter) -> Reading<'_, Vec<AuditRow<Box<RawValue>>>> {
        Box::pin(self.readers.read(move |connection| queries::audit(connection, &filter)))
    }

    fn usage(&self, query: UsageQuery) -> Reading<'_, Vec<UsageRow>> {
        Box::pin(self.readers.read(move |connection| queries::usage(connection, &query)))
    }

    fn changes(&self, after: u64, limit: u32) -> Reading<'_, ChangesKept> {
        Box::pin(self.readers.read(move |connection| queries::changes(connection, after, limit)))
    }
}
