//! One small door to both databases: statements in the SQL that both know, parameters in, rows out.
//!
//! Statements are written once, with `?` or `?1` for parameters. What differs between the databases is here and in
//! [`super::schema`]: how a connection is opened, how a transaction begins, how many rows go in or are found by one
//! statement. Nothing here knows what a row means.

mod postgres;
mod sqlite;
mod tls;
mod value;

pub use sqlite::beside;
pub use value::{Broken, Error, FromColumn, Param, Result, Row, ToParam};

use crate::store::database::Database;
use protocol::Timestamp;
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

/// A connection to either database. It blocks: never to be used where other tasks wait.
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
    /// A whole number.
    Integer,
    /// Text.
    Text,
    /// Bytes.
    Bytes,
}

/// A statement that puts in many rows.
#[derive(Debug, Clone, Copy)]
pub struct Insert<'s> {
    /// Into which table.
    pub table: &'s str,
    /// Its columns, in the order of the parameters.
    pub columns: &'s [(&'s str, Kind)],
    /// What to do with a row that is there, such as `ON CONFLICT (id) DO UPDATE SET a = excluded.a`; or nothing.
    pub conflict: &'s str,
}

impl Connection {
    /// Opens one.
    pub fn open(database: &Database, purpose: Purpose) -> Result<Connection> {
        let backend = match database {
            Database::Sqlite(path) => Backend::Sqlite(sqlite::open(path, purpose)?),
            Database::Postgres(server) => {
                Backend::Postgres(Box::new(postgres::Session::open(server, purpose)?))
            }
        };
        Ok(Connection { backend, writes: Cell::new(0) })
    }

    /// Runs a statement and says how many rows it changed.
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

    /// Every row, one after the other.
    pub fn for_each(
        &self,
        sql: &str,
        params: &[Param<'_>],
        mut visit: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        self.visit(sql, params, &mut visit)
    }

    /// Every row of a long answer, a part of it at a time; only in a transaction. `name` is no other scan's of it.
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

    /// Numbers that the database gives by itself go on after the greatest that was put in.
    pub fn count_on(&self, table: &str, column: &str) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(session) => session.count_on(table, column),
        }
    }

    /// Every row whose column is one of `texts`. `select` ends with the column: `SELECT a FROM b WHERE b.id`. An
    /// embedded database is asked once for each, a server once for all.
    pub fn each<'t, T>(
        &self,
        select: &str,
        texts: impl Iterator<Item = &'t str>,
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

    /// Puts in rows, in their order.
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

    /// How many statements were run on it that write.
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

    /// Runs `work` in a transaction in which no other process writes, and commits if it succeeds. After an error
    /// nothing of it is in the database, unless it was the commit itself that got no answer.
    pub fn write<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.batch(match &self.backend {
            // What is loaded in the transaction can't be changed by another process before it is written.
            Backend::Sqlite(_) => "BEGIN IMMEDIATE",
            // The same: readers are let through, other ledgers wait. With one writer at a time there are no deadlocks
            // between batches, and numbers without gaps.
            Backend::Postgres(_) => "BEGIN; LOCK TABLE feed IN EXCLUSIVE MODE",
        })
        .inspect_err(|_| self.roll_back())?;
        self.finish(work)
    }

    /// Runs `work`, which changes tables, in a transaction of its own; of several processes one at a time.
    pub fn migrate<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.batch(match &self.backend {
            Backend::Sqlite(_) => "BEGIN IMMEDIATE",
            Backend::Postgres(_) => postgres::BEGIN_MIGRATION,
        })
        .inspect_err(|_| self.roll_back())?;
        self.finish(work)
    }

    /// Runs `work` on one unchanging state of the database.
    pub fn snapshot<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.batch(match &self.backend {
            Backend::Sqlite(_) => "BEGIN",
            Backend::Postgres(_) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        })?;
        self.finish(work)
    }

    /// The same for what reads whole tables: on a server no statement of it is cut off after some seconds.
    pub fn survey<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.snapshot(|connection| {
            if let Backend::Postgres(session) = &connection.backend {
                session.batch(postgres::UNHURRIED)?;
            }
            work(connection)
        })
    }

    fn finish<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let done = work(self).and_then(|value| self.batch("COMMIT").map(|()| value));
        done.inspect_err(|_| self.roll_back())
    }

    fn roll_back(&self) {
        // Where it fails too, the connection is of no use any more, which is_usable tells.
        let _ = self.batch("ROLLBACK");
    }

    /// Can further transactions begin on it.
    pub fn is_usable(&self) -> bool {
        match &self.backend {
            Backend::Sqlite(connection) => connection.is_autocommit(),
            Backend::Postgres(session) => session.is_open(),
        }
    }

    /// Runs `work`, of which no statement may take longer than that.
    pub fn within<T>(&mut self, time: Duration, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        match &mut self.backend {
            // It counts from here; the next one sets it anew.
            Backend::Sqlite(connection) => sqlite::bound(connection, time)?,
            Backend::Postgres(session) => session.bound(time)?,
        }
        work(self)
    }

    /// Fails where it does not lead to the database that takes writes any more, which it asks when it has not of late.
    pub fn look(&self) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(session) => session.look(),
        }
    }

    /// True for the database that other processes change too, and that tells of it.
    pub fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// What time it is by a server's clock.
    pub fn clock(&self) -> Result<Option<Timestamp>> {
        let now = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)";
        match &self.backend {
            Backend::Sqlite(_) => Ok(None),
            Backend::Postgres(_) => self.first(now, &[], |row| row.get(0).map(Timestamp::from_millis)),
        }
    }

    /// How the database keeps texts, where that was chosen when it was made.
    pub fn encoding(&self) -> Result<Option<String>> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(None),
            Backend::Postgres(_) => {
                self.first("SELECT current_setting('server_encoding')", &[], |row| row.get(0))
            }
        }
    }

    /// Tells other processes, once the transaction is committed, that something changed.
    pub fn tell_news(&self) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(session) => session.tell_news(),
        }
    }

    /// Waits until another process tells that something changed, at most so long. Only where [`Connection::is_shared`].
    pub fn wait_for_news(&self, at_most: Duration) -> Result<()> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(session) => session.wait_for_news(at_most),
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
