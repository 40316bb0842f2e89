//! The embedded database: one file in WAL mode, every commit fsynced (`synchronous=FULL`).

use super::{BUSY_TIMEOUT, Broken, Error, Insert, Param, Purpose, Result, Row};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Statement};
use std::path::Path;
use std::time::{Duration, Instant};

/// After so many pages the write-ahead log goes back into the file: 16 MiB.
const WAL_PAGES: u32 = 4096;
const STATEMENTS_KEPT: usize = 64;
/// After so many steps of its machine a statement is asked whether its time is over: less than a millisecond.
const STEPS_BETWEEN_LOOKS: std::ffi::c_int = 10_000;

pub(super) fn open(path: &Path, purpose: Purpose) -> Result<Connection> {
    let access = match purpose {
        Purpose::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Purpose::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
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

/// What runs is ended when that time from now is over.
pub(super) fn bound(connection: &mut Connection, time: Duration) -> Result<()> {
    let began = Instant::now();
    Ok(connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || began.elapsed() > time))?)
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

pub(super) fn column<'r>(row: &'r rusqlite::Row<'r>, column: usize) -> Result<Param<'r>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(Param::Null),
        ValueRef::Integer(number) => Ok(Param::Integer(number)),
        ValueRef::Text(text) => {
            std::str::from_utf8(text).map(Param::Text).map_err(|why| Error::broken(column, why))
        }
        ValueRef::Blob(bytes) => Ok(Param::Bytes(bytes)),
        ValueRef::Real(_) => Err(Error::broken(column, Broken)),
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

/// One by one, by a prepared statement: in an embedded database that is no slower than one statement for all.
pub(super) fn each<'t>(
    connection: &Connection,
    select: &str,
    texts: impl Iterator<Item = &'t str>,
    visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
) -> Result<()> {
    let mut statement = connection.prepare_cached(&format!("{select} = ?1"))?;
    for text in texts {
        step(&mut statement, &[Param::Text(text)], visit)?;
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
