//! Of the ledgers of an embedded database one serves at a time: no other would hear of what it writes, and would go on
//! letting in a key that was revoked there. On a server ledgers tell each other, and there may be many.
//!
//! The lock is the operating system's, on a file beside the database: it ends with its process, however that ends. SQLite
//! has locks of its own on the database's file, which another one would disturb. Who only reads, copies or checks a
//! database takes none.

use crate::store::sql::BUSY_TIMEOUT;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often it is tried again.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The right to serve an embedded database, as long as this lives.
pub(crate) struct Lock {
    _file: File,
}

/// Why there is no lock.
#[derive(Debug)]
pub(crate) enum NoLock {
    /// Another process has it.
    Held,
    /// The operating system says no.
    Io(io::Error),
}

/// The file that is locked: of one database always the same one, by whatever path that is named.
pub(crate) fn path(database: &Path) -> PathBuf {
    database.canonicalize().unwrap_or_else(|_| database.to_owned()).with_added_extension("lock")
}

impl Lock {
    /// Takes it. Blocks for a moment if it is taken: a process that was killed may not have ended yet.
    pub(crate) fn take(path: &Path) -> Result<Lock, NoLock> {
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
