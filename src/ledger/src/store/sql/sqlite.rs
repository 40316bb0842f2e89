//! The embedded database: one file in WAL mode, every commit fsynced (`synchronous=FULL`).

use super::{BUSY_TIMEOUT, Insert, Param, Purpose, Result, Row};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::warn;

/// Pages of the write-ahead log before a checkpoint: 16 MiB.
const WAL_PAGES: u32 = 4096;
const STATEMENTS_KEPT: usize = 64;
/// Virtual machine steps between two checks of the timeout: less than a millisecond.
const STEPS_BETWEEN_CHECKS: std::ffi::c_int = 10_000;

pub(super) fn open(path: &Path, purpose: Purpose) -> Result<Connection> {
    let connection = match purpose {
        Purpose::Write => {
            make_private(path);
            Connection::open_with_flags(
                path,
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?
        }
        Purpose::Read => open_to_read(path)?,
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    if purpose == Purpose::Write {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    }
    Ok(connection)
}

/// Opens a file for reading, also in a read-only directory, where no process can write it.
fn open_to_read(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // SQLite opens the file at the first read. A file in WAL mode needs a writable directory.
    let read = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    let is_unreadable = read.is_err_and(|why| {
        matches!(why.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
    });
    let has_log = beside(path, "-wal").metadata().is_ok_and(|log| log.len() > 0);
    if !is_unreadable || has_log {
        return Ok(connection);
    }
    let mut url = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => url.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => url.push(char::from(*byte)),
            byte => url.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(Connection::open_with_flags(format!("{url}?immutable=1"), flags | OpenFlags::SQLITE_OPEN_URI)?)
}

/// Makes the database's files readable by their owner alone, if an earlier release or a copy left them readable by others.
fn make_private(path: &Path) {
    #[cfg(unix)]
    for path in [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")] {
        use std::os::unix::fs::PermissionsExt;
        let Ok(metadata) = path.metadata() else { continue };
        if !metadata.is_file() || metadata.permissions().mode() & 0o077 == 0 {
            continue;
        }
        match std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)) {
            Ok(()) => {
                warn!(path = %path.display(), "others could read this file of the database; now its owner alone can")
            }
            Err(cause) => warn!(path = %path.display(), %cause, "others can read this file of the database"),
        }
    }
}

/// The path of a file next to the database, such as the log at `-wal`.
pub fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Interrupts statements when this time from now has passed.
pub(super) fn set_timeout(connection: &mut Connection, time: Duration) -> Result<()> {
    let began = Instant::now();
    Ok(connection.progress_handler(STEPS_BETWEEN_CHECKS, Some(move || began.elapsed() > time))?)
}

impl rusqlite::ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Param::Null => ValueRef::Null,
            Param::Integer(number) => ValueRef::Integer(*number),
            Param::Text(text) => ValueRef::Text(text.as_bytes()),
            Param::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

pub(super) fn execute(connection: &Connection, sql: &str, params: &[Param<'_>]) -> Result<u64> {
    let changed = connection.prepare_cached(sql)?.execute(rusqlite::params_from_iter(params))?;
    Ok(u64::try_from(changed).unwrap_or(u64::MAX))
}

pub(super) fn visit(
    connection: &Connection,
    sql: &str,
    params: &[Param<'_>],
    visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    step(&mut *connection.prepare_cached(sql)?, params, visit)
}

fn step(
    statement: &mut Statement<'_>,
    params: &[Param<'_>],
    visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    let mut rows = statement.query(rusqlite::params_from_iter(params))?;
    while let Some(row) = rows.next()? {
        visit(&Row::Sqlite(row))?;
    }
    Ok(())
}

/// Runs a prepared statement for each text: in an embedded database that is as fast as one statement for all.
pub(super) fn each<'t>(
    connection: &Connection,
    select: &str,
    texts: impl Iterator<Item = impl Into<Cow<'t, str>>>,
    visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    let mut statement = connection.prepare_cached(&format!("{select} = ?1"))?;
    for text in texts {
        step(&mut statement, &[Param::Text(text.into())], visit)?;
    }
    Ok(())
}

pub(super) fn insert<'p, R: IntoIterator<Item = Param<'p>>>(
    connection: &Connection,
    insert: &Insert<'_>,
    rows: impl Iterator<Item = R>,
) -> Result<()> {
    let names: Vec<&str> = insert.columns.iter().map(|(name, _)| *name).collect();
    let places = vec!["?"; names.len()].join(", ");
    let Insert { table, conflict, .. } = insert;
    let sql = format!("INSERT INTO {table} ({}) VALUES ({places}) {conflict}", names.join(", "));
    let mut statement = connection.prepare_cached(&sql)?;
    for row in rows {
        statement.execute(rusqlite::params_from_iter(row))?;
    }
    Ok(())
}
