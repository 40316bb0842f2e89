//! One small interface to both databases: statements in their common SQL, parameters in, rows out.
//!
//! Statements are written once, with `?` or `?1` for parameters. The differences between the databases are here and in
//! [`super::schema`]: opening a connection, beginning a transaction, inserting or finding many rows. Knows no tables.

mod postgres;
mod sqlite;
mod tls;
mod value;

pub use sqlite::beside;
pub use value::{Error, FromColumn, InvalidColumn, Param, Result, Row, ToParam};

use crate::store::database::Database;
use protocol::Timestamp;
use std::borrow::Cow;
use std::cell::Cell;
use std::time::Duration;

/// How long a connection waits for another process's lock before it gives up.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It may write.
    Write,
    /// It only reads.
    Read,
}

/// A connection to either database. It blocks, so never use it on an async worker thread.
pub struct Connection {
    backend: Backend,
    writes: Cell<u64>,
}

enum Backend {
    Sqlite(rusqlite::Connection),
    Postgres(Box<postgres::Session>),
}

/// Parameters of one statement.
macro_rules! params {
    ($($value:expr),* $(,)?) => { [$($crate::store::sql::ToParam::to_param(&$value)),*] };
}
pub(crate) use params;

/// What a column of an [`Insert`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Integer,
    /// Text.
    Text,
    /// Bytes.
    Bytes,
}

/// A statement that inserts many rows.
#[derive(Debug, Clone, Copy)]
pub struct Insert<'s> {
    /// The table.
    pub table: &'s str,
    /// Its columns, in the order of the parameters.
    pub columns: &'s [(&'s str, Kind)],
    /// The `ON CONFLICT` clause, or empty.
    pub conflict: &'s str,
}

impl Connection {
    /// Opens a connection.
    pub fn open(database: &Database, purpose: Purpose) -> Result<Connection> {
        let backend = match database {
            Database::Sqlite(path) => Backend::Sqlite(sqlite::open(path, purpose)?),
            Database::Postgres(server) => {
                Backend::Postgres(Box::new(postgres::Session::open(server, purpose)?))
            }
        };
        Ok(Connection { backend, writes: Cell::new(0) })
    }

    /// Runs a statement. Returns how many rows it changed.
    pub fn execute(&self, sql: &str, params: &[Param<'_>]) -> Result<u64> {
        self.count_write();
        match &self.backend {
            Backend::Sqlite(connection) => sqlite::execute(connection, sql, params),
            Backend::Postgres(session) => session.execute(sql, params),
        }
    }

    /// The first row, if there is one.
    pub fn first<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut found = None;
        self.visit(sql, params, &mut |row| {
            if found.is_none() {
                found = Some(read(row)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Every row.
    pub fn all<T>(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        self.visit(sql, params, &mut |row| {
            found.push(read(row)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// Every row, one by one.
    pub fn for_each(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut visit: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        self.visit(sql, params, &mut visit)
    }

    /// Every row of a long result, fetched in parts. Only in a transaction, with a `name` that is unique in it.
    pub fn scan(
        &self,
        name: &str,
        select: &str,
        mut visit: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(connection) => sqlite::visit(connection, select, &[], &mut visit),
            Backend::Postgres(session) => session.scan(name, select, &mut visit),
        }
    }

    /// Makes the database continue its own numbering after the greatest inserted number.
    pub fn continue_sequence(&self, table: &str, column: &str) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(session) => session.continue_sequence(table, column),
        }
    }

    /// Every row whose column is one of `texts`. `select` ends with the column: `SELECT a FROM b WHERE b.id`. Runs one
    /// statement for each text on an embedded database, and one for all on a server.
    pub fn each<'t, T>(
        &self,
        select: &str,
        texts: impl Iterator<Item = impl Into<Cow<'t, str>>>,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        let mut visit = |row: &Row<'_>| {
            found.push(read(row)?);
            Ok(())
        };
        match &self.backend {
            Backend::Sqlite(connection) => sqlite::each(connection, select, texts, &mut visit)?,
            Backend::Postgres(session) => session.each(select, texts, &mut visit)?,
        }
        Ok(found)
    }

    /// Inserts rows in order.
    pub fn insert<'p, R: IntoIterator<Item = Param<'p>>>(
        &self,
        insert: &Insert<'_>,
        rows: impl Iterator<Item = R>,
    ) -> Result<()> {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        self.count_write();
        match &self.backend {
            Backend::Sqlite(connection) => sqlite::insert(connection, insert, rows),
            Backend::Postgres(session) => session.insert(insert, rows),
        }
    }

    /// How many writing statements ran on this connection.
    pub fn writes(&self) -> u64 {
        self.writes.get()
    }

    fn count_write(&self) {
        self.writes.set(self.writes.get().saturating_add(1));
    }

    /// Runs statements without parameters, separated by semicolons.
    pub fn batch(&self, sql: &str) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Backend::Postgres(session) => session.batch(sql),
        }
    }

    /// Runs `work` in a transaction during which no other process writes, and commits if it succeeds. After an error it is
    /// rolled back, unless the commit itself got no answer.
    pub fn write<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.batch(match &self.backend {
            // No other process can change the loaded rows before they are written.
            Backend::Sqlite(_) => "BEGIN IMMEDIATE",
            // The same: readers continue, other ledgers wait. One writer at a time means no deadlocks between batches, and
            // numbers without gaps.
            Backend::Postgres(_) => "BEGIN; LOCK TABLE feed IN EXCLUSIVE MODE",
        })
        .inspect_err(|_| self.roll_back())?;
        self.finish(work)
    }

    /// Runs `work`, which changes tables, in a transaction, in one process at a time.
    pub fn migrate<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.batch(match &self.backend {
            Backend::Sqlite(_) => "BEGIN IMMEDIATE",
            Backend::Postgres(_) => postgres::BEGIN_MIGRATION,
        })
        .inspect_err(|_| self.roll_back())?;
        self.finish(work)
    }

    /// Runs `work` on a snapshot of the database.
    pub fn snapshot<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.batch(match &self.backend {
            Backend::Sqlite(_) => "BEGIN",
            Backend::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        })?;
        self.finish(work)
    }

    /// The same for reading whole tables: without the statement timeout.
    pub fn long_snapshot<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.snapshot(|connection| {
            if let Backend::Postgres(session) = &connection.backend {
                session.batch(postgres::NO_STATEMENT_TIMEOUT)?;
            }
            work(connection)
        })
    }

    fn finish<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let done = work(self).and_then(|value| self.batch("COMMIT").map(|()| value));
        done.inspect_err(|_| self.roll_back())
    }

    fn roll_back(&self) {
        // If this fails too, is_usable returns false.
        let _ = self.batch("ROLLBACK");
    }

    /// Whether another transaction can begin on it.
    pub fn is_usable(&self) -> bool {
        match &self.backend {
            Backend::Sqlite(connection) => connection.is_autocommit(),
            Backend::Postgres(session) => session.is_open(),
        }
    }

    /// Runs `work`, with a timeout for each of its statements.
    pub fn with_timeout<T>(
        &mut self,
        time: Duration,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        match &mut self.backend {
            // The time counts from here; the next call sets it again.
            Backend::Sqlite(connection) => sqlite::set_timeout(connection, time)?,
            Backend::Postgres(session) => session.set_timeout(time)?,
        }
        work(self)
    }

    /// Fails if the connection no longer leads to the primary. Asks the server if the last check is too old.
    pub fn check_primary(&self) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(session) => session.check_primary(),
        }
    }

    /// True if other processes can change the database, and notify this one.
    pub fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// The server's clock; `None` for an embedded database.
    pub fn clock(&self) -> Result<Option<Timestamp>> {
        let now = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
        match &self.backend {
            Backend::Sqlite(_) => Ok(None),
            Backend::Postgres(_) => self.first(now, &[], |row| row.get(0).map(Timestamp::from_millis)),
        }
    }

    /// The server's text encoding; `None` for an embedded database.
    pub fn encoding(&self) -> Result<Option<String>> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(None),
            Backend::Postgres(_) => {
                self.first("SELECT current_setting('server_encoding')", &[], |row| row.get(0))
            }
        }
    }

    /// Notifies other processes of a change when the transaction commits.
    pub fn notify_changed(&self) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(session) => session.notify_changed(),
        }
    }

    /// Waits for a notification of another process, at most this long. Only if [`Connection::is_shared`].
    pub fn wait_for_notification(&self, at_most: Duration) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(session) => session.wait_for_notification(at_most),
        }
    }

    fn visit(
        &self,
        sql: &str,
        params: &[Param<'_>],
        visit: &mut dyn FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(connection) => sqlite::visit(connection, sql, params, visit),
            Backend::Postgres(session) => session.visit(sql, params, visit),
        }
    }
}
