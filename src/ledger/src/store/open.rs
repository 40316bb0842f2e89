//! How a store is opened: one thread writes ([`super::writer`]), a few connections read ([`super::readers`]), and where other
//! processes write too, one thread listens for their changes ([`super::newest`]).

use super::handle::Store;
use super::newest::{Listener, Newest};
use super::readers::{Lane, Readers};
use super::schema::Version;
use super::sql::{self, Connection, Purpose};
use super::{newest, schema, writer};
use crate::metrics::Metrics;
use crate::store::database::Database;
use crate::transaction::{Error, Operation, Queued, Refusal, Work};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// How many writes may wait: about a second of them, at a few thousand a second.
const QUEUE_MAX: usize = 4096;

/// The default maximum of connections to the database.
pub const CONNECTIONS: u16 = 10;
/// The least maximum: two for filters and all others.
pub const CONNECTIONS_MIN: u16 = OTHERS.saturating_add(2);
/// For operators' reads.
const OPERATORS: u16 = 2;
/// For reports: two at once would occupy both processors of a small server.
const REPORTS: u16 = 1;
/// All connections but those for filters: these, the writer and the listener.
const OTHERS: u16 = 2u16.saturating_add(OPERATORS).saturating_add(REPORTS);

/// Why a database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It has none of the ledger's tables.
    #[error("it is not initialised; run `agentrelay init` first")]
    NotInitialised,
    /// An older release wrote it, and this command does not migrate.
    #[error("an older release wrote it; start `agentrelay serve` on it once, which migrates it")]
    TooOld,
    /// A newer release wrote it.
    #[error("a newer release wrote it; use that release or a newer one")]
    TooNew,
    /// The server's encoding can't store every text.
    #[error(
        "its encoding is {0}, which can't hold every name; make one with `createdb --encoding=UTF8 \
         --template=template0`, and copy the data with pg_dump --encoding=UTF8"
    )]
    Encoding(String),
    /// The database failed.
    #[error("{0}")]
    Failed(#[from] sql::Error),
    /// The operating system failed.
    #[error("{0}")]
    Io(#[source] std::io::Error),
}

impl Store {
    /// Opens an initialised database, and migrates an older one. Blocks.
    pub fn open(database: &Database, metrics: Arc<Metrics>) -> Result<Store, OpenError> {
        Store::with_connections(database, metrics, CONNECTIONS)
    }

    /// The same, with at most this many connections.
    pub fn with_connections(
        database: &Database,
        metrics: Arc<Metrics>,
        connections: u16,
    ) -> Result<Store, OpenError> {
        let connection = connect(database)?;
        if connection.is_shared() {
            // A pooler that mixes sessions is only detected with a second connection.
            Connection::open(database, Purpose::Read)?;
        }
        Store::with(connection, database, metrics, connections)
    }

    /// The same, with an open connection for the writer.
    pub(super) fn with(
        connection: Connection,
        database: &Database,
        metrics: Arc<Metrics>,
        connections: u16,
    ) -> Result<Store, OpenError> {
        let (_, newest) = newest::bounds(&connection)?;
        let newest = Arc::new(Newest::new(newest));
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let mut threads = Vec::new();
        let mut listener = None;
        if connection.is_shared() {
            let (stop, thread) = Listener::spawn(database, Arc::clone(&newest)).map_err(OpenError::Io)?;
            listener = Some(stop);
            threads.push(thread);
        }
        let failing = Arc::new(AtomicBool::new(false));
        let newest_written = Arc::clone(&newest);
        let writer =
            writer::Writer::new(database, connection, waiting, newest_written, metrics, Arc::clone(&failing));
        let writer = std::thread::Builder::new().name("ledger-writer".to_owned()).spawn(|| writer.run());
        threads.push(writer.map_err(OpenError::Io)?);
        Ok(Store {
            queue: Mutex::new(Some(queue)),
            newest,
            filters: Readers::new(database, Lane::Filters, connections.saturating_sub(OTHERS).max(1)),
            operators: Readers::new(database, Lane::Operators, OPERATORS),
            reports: Readers::new(database, Lane::Reports, REPORTS),
            threads: Mutex::new(threads),
            listener,
            failing,
        })
    }

    /// Creates missing tables, and runs one operation. Blocks.
    pub fn initialise<O: Operation>(
        database: &Database,
        operation: O,
    ) -> Result<Result<O::Answer, Refusal>, OpenError> {
        once(&create(database)?, operation)
    }
}

/// A writing connection to an initialised database, which is migrated if it is older.
pub(crate) fn connect(database: &Database) -> Result<Connection, OpenError> {
    if let Database::Sqlite(path) = database
        && !path.exists()
    {
        return Err(OpenError::NotInitialised);
    }
    let connection = Connection::open(database, Purpose::Write)?;
    check_encoding(&connection)?;
    match schema::version(&connection)? {
        Version::Empty => return Err(OpenError::NotInitialised),
        Version::Newer => return Err(OpenError::TooNew),
        Version::Older => schema::migrate(&connection)?,
        Version::Current => {}
    }
    Ok(connection)
}

/// Refuses a database whose encoding lacks letters, at the start instead of when such a name is first written.
pub(crate) fn check_encoding(connection: &Connection) -> Result<(), OpenError> {
    match connection.encoding()? {
        Some(encoding) if encoding != "UTF8" => Err(OpenError::Encoding(encoding)),
        _ => Ok(()),
    }
}

/// Creates the database and its tables if they are missing. Blocks.
pub(crate) fn create(database: &Database) -> Result<Connection, OpenError> {
    if let Database::Sqlite(path) = database {
        create_private(path).map_err(OpenError::Io)?;
    }
    let connection = Connection::open(database, Purpose::Write)?;
    check_encoding(&connection)?;
    if schema::version(&connection)? == Version::Newer {
        return Err(OpenError::TooNew);
    }
    schema::migrate(&connection)?;
    Ok(connection)
}

/// Whether the first credentials were created.
pub(crate) fn is_initialised(connection: &Connection) -> Result<bool, OpenError> {
    let select = "SELECT id FROM service_credentials LIMIT 1";
    Ok(connection.first(select, &[], |_| Ok(()))?.is_some())
}

/// Runs one operation. Blocks.
pub(crate) fn once<O: Operation>(
    connection: &Connection,
    operation: O,
) -> Result<Result<O::Answer, Refusal>, OpenError> {
    let (work, mut answer) = Queued::new(operation);
    let mut batch: [Box<dyn Work>; 1] = [work];
    writer::commit(connection, &mut batch)?;
    let [work] = batch;
    work.answer(Ok(()));
    match answer.try_recv() {
        Ok(Ok(answer)) => Ok(Ok(answer)),
        Ok(Err(Error::Refused(refusal))) => Ok(Err(refusal)),
        Ok(Err(Error::Unavailable(cause))) => Err(OpenError::Io(std::io::Error::other(cause))),
        Err(cause) => Err(OpenError::Io(std::io::Error::other(cause))),
    }
}

/// Creates an empty file that only its owner can read, unless the file exists.
pub(super) fn create_private(path: &Path) -> std::io::Result<()> {
    private().create(true).open(path).map(drop)
}

/// The same, but fails if the file exists.
pub(crate) fn create_new_private(path: &Path) -> std::io::Result<()> {
    private().create_new(true).open(path).map(drop)
}

fn private() -> std::fs::OpenOptions {
    let mut options = std::fs::OpenOptions::new();
    options.append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}
