//! The lock of an embedded database: only one ledger may serve it, because another would not be notified of its changes and
//! would keep accepting revoked keys. On a server, ledgers notify each other, so many may serve it.
//!
//! It is a lock of the operating system on a file next to the database, so it ends with its process. SQLite uses its own
//! locks on the database's file, which another one would disturb. Commands that only read, copy or check take no lock.

use crate::store::sql::BUSY_TIMEOUT;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often to retry.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The lock, released when this is dropped.
pub(crate) struct Lock {
    _file: File,
}

/// Why locking failed.
#[derive(Debug)]
pub(crate) enum NoLock {
    /// Another process has the lock.
    Held,
    /// The operating system failed.
    Io(io::Error),
}

/// The lock file: the same one for a database, whatever path names it.
pub(crate) fn path(database: &Path) -> PathBuf {
    database.canonicalize().unwrap_or_else(|_| database.to_owned()).with_added_extension("lock")
}

impl Lock {
    /// Takes the lock. Waits for a short time if it is taken, because a killed process may not have ended yet.
    pub(crate) fn acquire(path: &Path) -> Result<Lock, NoLock> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(NoLock::Io)?;
        let began = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) if began.elapsed() < BUSY_TIMEOUT => sleep(TRY_EVERY),
                Err(TryLockError::WouldBlock) => return Err(NoLock::Held),
                Err(TryLockError::Error(cause)) => return Err(NoLock::Io(cause)),
            }
        }
    }
}
