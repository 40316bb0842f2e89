//! Backups of an embedded database: a consistent, verified copy, made while the ledger runs.

use crate::audit::chain::BATCH_ROWS_MAX;
use crate::audit::export::Exporter;
use crate::audit::verify::{Fault, Verifier};
use crate::moment;
use crate::store::database::Database;
use crate::store::schema::{self, Version};
use crate::store::sql::{Connection, Purpose, Result, beside, params};
use crate::store::{CHECKPOINTS_MAX, CheckpointFilter, OpenError, audit, create_new_private};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The keys that may have signed an audit trail; `None` accepts any.
pub type Trusted<'a> = Option<&'a BTreeSet<String>>;

/// Why a backup or restore failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database is PostgreSQL, which has its own tools.
    #[error("this command works on sqlite: databases; use pg_dump and pg_restore for PostgreSQL")]
    NotEmbedded,
    /// The target exists.
    #[error("the target exists already; choose another path, or move it away")]
    Exists,
    /// There is no such backup.
    #[error("there is no backup at {}", .0.display())]
    Absent(PathBuf),
    /// The source can't be opened.
    #[error("{0}")]
    Open(#[source] OpenError),
    /// The copy is damaged.
    #[error("the copy is broken: {0}")]
    Broken(String),
    /// A row of the audit trail differs from what was sealed.
    #[error("the audit trail in it is not as it was sealed: {0}")]
    Audit(#[source] Fault),
    /// It failed, and the incomplete copy can't be removed.
    #[error("{0}; remove the incomplete copy, which could not be removed: {1}")]
    Left(#[source] Box<BackupError>, std::io::Error),
}

impl<E: Into<OpenError>> From<E> for BackupError {
    fn from(cause: E) -> BackupError {
        BackupError::Open(cause.into())
    }
}

/// The content of a verified copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Tenants.
    pub tenants: u64,
    /// Rows of the audit trail.
    pub audit_rows: u64,
}

/// Copies a database, which may be in use, to a new file that only its owner can read. `trusted` are the keys that may have
/// signed its audit trail, see [`crate::service::signing_key::trusted`].
pub fn backup(
    database: &Database,
    to: &Path,
    trusted: Trusted<'_>,
) -> std::result::Result<Copied, BackupError> {
    let Database::Sqlite(from) = database else { return Err(BackupError::NotEmbedded) };
    copy_and_check(from, to, || {
        // Opened read-only, the copy stays a single file without a log, which can be read in a read-only directory.
        check(&Connection::open(&Database::Sqlite(to.to_owned()), Purpose::Read)?, trusted)
    })
}

/// Restores a backup as a database. Filters reload everything, because their positions in the change feed are older.
pub fn restore(
    from: &Path,
    database: &Database,
    trusted: Trusted<'_>,
) -> std::result::Result<Copied, BackupError> {
    let Database::Sqlite(to) = database else { return Err(BackupError::NotEmbedded) };
    if !from.exists() {
        return Err(BackupError::Absent(from.to_owned()));
    }
    copy_and_check(from, to, || {
        let connection = Connection::open(database, Purpose::Write)?;
        if schema::version(&connection)? == Version::Older {
            schema::migrate(&connection)?;
        }
        let copied = check(&connection, trusted)?;
        let now = moment::now().as_millis();
        connection.write(|connection| {
            connection.execute("DELETE FROM changes", &[])?;
            connection.execute("UPDATE feed SET base = ?", &params![now])
        })?;
        Ok(copied)
    })
}

/// Copies, then runs `check_copy`. If either fails, removes the copy, so that nobody takes it for a complete one.
fn copy_and_check(
    from: &Path,
    to: &Path,
    check_copy: impl FnOnce() -> std::result::Result<Copied, BackupError>,
) -> std::result::Result<Copied, BackupError> {
    if !from.exists() {
        return Err(OpenError::NotInitialised.into());
    }
    // SQLite would create a file that everybody can read, but uses an existing empty one.
    create_new_private(to).map_err(|cause| match cause.kind() {
        ErrorKind::AlreadyExists => BackupError::Exists,
        _ => OpenError::Io(cause).into(),
    })?;
    copy(from, to).and_then(|()| check_copy()).map_err(|why| {
        let others = ["-wal", "-shm", "-journal"].map(|end| beside(to, end));
        let left = std::fs::remove_file(to).err();
        // These may not exist.
        others.iter().for_each(|path| drop(std::fs::remove_file(path)));
        match left {
            Some(cause) => BackupError::Left(why.into(), cause),
            None => why,
        }
    })
}

fn copy(from: &Path, to: &Path) -> std::result::Result<(), BackupError> {
    let source = Connection::open(&Database::Sqlite(from.to_owned()), Purpose::Read)?;
    match schema::version(&source)? {
        Version::Empty => return Err(OpenError::NotInitialised.into()),
        Version::Newer => return Err(OpenError::TooNew.into()),
        Version::Current | Version::Older => {}
    }
    let target = to.to_string_lossy();
    source.execute("VACUUM INTO ?", &params![target.as_ref()])?;
    Ok(())
}

fn check(connection: &Connection, trusted: Trusted<'_>) -> std::result::Result<Copied, BackupError> {
    let sound: Option<String> = connection.first("PRAGMA integrity_check", &[], |row| row.get(0))?;
    if sound.as_deref() != Some("ok") {
        return Err(BackupError::Broken(sound.unwrap_or_default()));
    }
    let number =
        |sql: &str| -> Result<u64> { Ok(connection.first(sql, &[], |row| row.get(0))?.unwrap_or_default()) };
    let unequal = "SELECT count(*) FROM accounts WHERE granted <> available + pending + posted";
    if number(unequal)? > 0 {
        return Err(BackupError::Broken("accounts do not add up".to_owned()));
    }
    check_audit(connection, trusted)?;
    Ok(Copied {
        tenants: number("SELECT count(*) FROM tenants")?,
        audit_rows: number("SELECT count(*) FROM audit")?,
    })
}

/// Verifies the audit trail. Needs a transaction if others write meanwhile.
pub(crate) fn check_audit(
    connection: &Connection,
    trusted: Trusted<'_>,
) -> std::result::Result<(), BackupError> {
    let mut verifier = Verifier::new(trusted.cloned(), None);
    let mut exporter = Exporter::new(None);
    let mut filter = CheckpointFilter::default();
    loop {
        let found = audit::checkpoints(connection, &filter)?;
        for checkpoint in &found {
            filter.after = checkpoint.number;
            let count = checkpoint.last.saturating_sub(checkpoint.first).saturating_add(1);
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            let rows = if checkpoint.leaves.is_some() {
                audit::rows_after(connection, checkpoint.first.saturating_sub(1), count)?
            } else {
                Vec::new()
            };
            for line in exporter.batch(checkpoint, &rows).lines() {
                verifier.line(line.as_bytes()).map_err(BackupError::Audit)?;
            }
        }
        if found.len() < usize::try_from(CHECKPOINTS_MAX).unwrap_or(usize::MAX) {
            break;
        }
    }
    let sealed = audit::newest_checkpoint(connection)?.last;
    for line in exporter.unsealed(&audit::rows_after(connection, sealed, BATCH_ROWS_MAX)?).lines() {
        verifier.line(line.as_bytes()).map_err(BackupError::Audit)?;
    }
    let removed = audit::status(connection)?.removed;
    verifier.finish_open(removed).map_err(BackupError::Audit)
}
